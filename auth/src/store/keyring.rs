//! Which signing key stands where, and how they move on.
//!
//! ```text
//!  (made) ─▶ next ─▶ current ─▶ previous ─▶ (removed)
//! ```

use dreamcatcher_proto::{Error, ErrorCode};

use super::SigningKeyRecords;
use crate::keys::KeyRecord;

/// A key as a store has it; stores list them in the order in which they were made.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Of one that is only being made: `None`.
    pub(super) place: Option<i64>,
    pub(super) record: KeyRecord,
    /// `None`: it is the next one.
    pub(super) current_since_unix_s: Option<u64>,
}

/// What a store has to change.
#[derive(Debug)]
pub(super) enum Change {
    Insert(Kept),
    MakeCurrent { place: i64 },
    Remove { place: i64 },
}

/// The keys as they are to be, and what that takes: nothing at most calls.
pub(super) fn plan(
    mut kept: Vec<Kept>,
    rotate_before_unix_s: Option<u64>,
    now_unix_s: u64,
) -> Result<(SigningKeyRecords, Vec<Change>), Error> {
    let mut changes = Vec::new();
    let mut current = kept
        .iter()
        .rposition(|key| key.current_since_unix_s.is_some());
    let due = match current.and_then(|at| kept[at].current_since_unix_s) {
        Some(since) => rotate_before_unix_s.is_some_and(|before| since < before),
        None => true,
    };
    if due {
        let next = current.map_or(0, |at| at + 1);
        match kept.get_mut(next) {
            Some(key) => {
                key.current_since_unix_s = Some(now_unix_s);
                changes.extend(key.place.map(|place| Change::MakeCurrent { place }));
            }
            None => {
                let key = made(Some(now_unix_s))?;
                changes.push(Change::Insert(key.clone()));
                kept.push(key);
            }
        }
        current = Some(next);
    }
    let current = current.unwrap_or(0);
    if kept.len() == current + 1 {
        let key = made(None)?;
        changes.push(Change::Insert(key.clone()));
        kept.push(key);
    }
    let out = kept.drain(..current.saturating_sub(1));
    changes.extend(out.filter_map(|key| key.place.map(|place| Change::Remove { place })));
    Ok((records(kept)?, changes))
}

fn records(kept: Vec<Kept>) -> Result<SigningKeyRecords, Error> {
    let mut keys = kept.into_iter().rev();
    let (Some(next), Some(current), previous, None) =
        (keys.next(), keys.next(), keys.next(), keys.next())
    else {
        return Err(Error::new(
            ErrorCode::Internal,
            "the store has other signing keys than a previous, a current and a next one",
        ));
    };
    Ok(SigningKeyRecords {
        previous: previous.map(|key| key.record),
        current_since_unix_s: current.current_since_unix_s.unwrap_or(0),
        current: current.record,
        next: next.record,
    })
}

fn made(current_since_unix_s: Option<u64>) -> Result<Kept, Error> {
    Ok(Kept {
        place: None,
        record: KeyRecord::generate()?,
        current_since_unix_s,
    })
}

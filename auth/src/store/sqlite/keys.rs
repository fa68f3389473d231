//! The signing keys, in SQLite.

use dreamcatcher_proto::Error;
use rusqlite::{Row, Transaction, params};

use super::execute;
use super::fault::failed;
use crate::keys::KeyRecord;
use crate::store::keyring::{Change, Kept};
use crate::store::{unix_i64, unix_u64};

pub(super) fn kept_keys(tx: &Transaction<'_>) -> Result<Vec<Kept>, Error> {
    let kept = |row: &Row<'_>| {
        let current_since: Option<i64> = row.get(3)?;
        Ok(Kept {
            place: row.get(0)?,
            record: KeyRecord {
                key_id: row.get(1)?,
                seed: row.get(2)?,
            },
            current_since_unix_s: current_since.map(unix_u64),
        })
    };
    tx.prepare_cached("SELECT place, key_id, seed, current_since FROM signing_keys ORDER BY place")
        .and_then(|mut query| query.query_map([], kept)?.collect())
        .map_err(failed)
}

pub(super) fn change_key(
    tx: &Transaction<'_>,
    change: &Change,
    now_unix_s: u64,
) -> Result<(), Error> {
    let now = unix_i64(now_unix_s);
    match change {
        Change::Insert(key) => execute(
            tx,
            "INSERT INTO signing_keys (key_id, seed, created_at, current_since)
             VALUES (?1, ?2, ?3, ?4)",
            params![
                key.record.key_id,
                key.record.seed,
                now,
                key.current_since_unix_s.map(unix_i64)
            ],
        ),
        Change::MakeCurrent { place } => execute(
            tx,
            "UPDATE signing_keys SET current_since = ?2 WHERE place = ?1",
            params![place, now],
        ),
        Change::Remove { place } => execute(
            tx,
            "DELETE FROM signing_keys WHERE place = ?1",
            params![place],
        ),
    }?;
    Ok(())
}

//! What the directory has still to be told of the sessions here: records that it lost, sessions that
//! ended while it was away, and creations whose answer never came.
//!
//! ```text
//!   lost ─────▶ restore ─┐             ┌─▶ Restore(record)
//!   ended ────▶ close ───┼─▶ a few at ─┼─▶ CloseSession
//!   doubtful ─▶ look ────┘   a time    └─▶ Session: is there one after all? then close it
//!                 ▲                          │
//!                 └──── no answer: later ◀───┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dreamcatcher_proto::{Epoch, SessionId};

/// Requests that the directory works on at a time: it has other things to do.
const AT_A_TIME: usize = 64;
/// Requests in one go, and the pause between two: 640 a second.
const IN_ONE_GO: usize = 32;
const PAUSE: Duration = Duration::from_millis(50);
/// After a request without an answer.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Ended sessions that wait to be told; beyond it the directory finds out when this run ends.
const ENDED_MAX: usize = 65_536;

/// One thing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    Restore(SessionId),
    Close(SessionId, Epoch),
    /// Whether a creation happened that was not answered.
    Look(SessionId),
}

#[derive(Debug, Default)]
pub(super) struct Repairs {
    lost: BTreeSet<SessionId>,
    /// Without an epoch: it is not known whether there is such a session.
    ended: BTreeMap<SessionId, Option<Epoch>>,
    under_way: BTreeSet<SessionId>,
    /// Not before then.
    next: Option<Instant>,
    sent: usize,
}

impl Repairs {
    /// The directory has lost this session's record.
    pub(super) fn lost(&mut self, id: SessionId) {
        self.lost.insert(id);
    }

    /// The session is over.
    pub(super) fn ended(&mut self, id: SessionId, epoch: Option<Epoch>) {
        self.lost.remove(&id);
        if self.ended.len() < ENDED_MAX {
            self.ended.insert(id, epoch);
        }
    }

    /// It has been told, or need not be.
    pub(super) fn settled(&mut self, id: SessionId) {
        self.under_way.remove(&id);
    }

    /// It could not be told.
    pub(super) fn failed(&mut self, repair: Repair, now: Instant) {
        match repair {
            Repair::Restore(id) => self.lost(id),
            Repair::Close(id, epoch) => self.ended(id, Some(epoch)),
            Repair::Look(id) => self.ended(id, None),
        }
        self.next = Some(now + RETRY_EVERY);
    }

    pub(super) fn waiting(&self) -> usize {
        self.lost.len() + self.ended.len()
    }

    /// The next thing to tell. Of one session there is never more than one under way, so that it
    /// does not come back after it was closed.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Repair> {
        if self.waiting() == 0 || self.under_way.len() >= AT_A_TIME {
            return None;
        }
        if self.next.is_some_and(|at| at > now) {
            return None;
        }
        self.next = None;
        let free = |id: &&SessionId| !self.under_way.contains(*id);
        let repair = if let Some(&id) = self.lost.iter().find(free) {
            self.lost.remove(&id);
            Repair::Restore(id)
        } else {
            let id = *self.ended.keys().find(free)?;
            match self.ended.remove(&id).flatten() {
                Some(epoch) => Repair::Close(id, epoch),
                None => Repair::Look(id),
            }
        };
        let (Repair::Restore(id) | Repair::Close(id, _) | Repair::Look(id)) = repair;
        self.under_way.insert(id);
        self.sent += 1;
        let is_enough = self.sent.is_multiple_of(IN_ONE_GO);
        self.next = is_enough.then_some(now + PAUSE);
        Some(repair)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let can_go = self.waiting() > 0 && self.under_way.len() < AT_A_TIME;
        self.next.filter(|_| can_go)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    #[test]
    fn so_many_are_told_at_a_time_and_no_faster_than_so_many_a_second() {
        let mut now = Instant::now();
        let mut repairs = Repairs::default();
        (0..100).for_each(|n| repairs.lost(id(n)));
        let mut told = Vec::new();
        for expected in [32, 64, 64] {
            told.extend(std::iter::from_fn(|| repairs.poll(now)));
            assert_eq!(told.len(), expected);
            now += PAUSE;
        }
        (0..64).for_each(|n| repairs.settled(id(n)));
        told.extend(std::iter::from_fn(|| repairs.poll(now)));
        now += PAUSE;
        told.extend(std::iter::from_fn(|| repairs.poll(now)));
        assert_eq!(
            told,
            (0..100).map(|n| Repair::Restore(id(n))).collect::<Vec<_>>()
        );
        assert_eq!((repairs.waiting(), repairs.poll_timeout()), (0, None));
    }

    #[test]
    fn a_session_that_ends_while_it_is_restored_is_closed_afterwards() {
        let now = Instant::now();
        let mut repairs = Repairs::default();
        repairs.lost(id(1));
        assert_eq!(repairs.poll(now), Some(Repair::Restore(id(1))));
        repairs.ended(id(1), Some(EPOCH));
        assert_eq!(repairs.poll(now), None);
        repairs.settled(id(1));
        assert_eq!(repairs.poll(now), Some(Repair::Close(id(1), EPOCH)));
    }

    #[test]
    fn what_has_no_answer_is_told_again_later() {
        let now = Instant::now();
        let mut repairs = Repairs::default();
        repairs.ended(id(1), None);
        let repair = repairs.poll(now).unwrap_or_else(|| panic!("nothing to do"));
        assert_eq!(repair, Repair::Look(id(1)));
        repairs.settled(id(1));
        repairs.failed(repair, now);
        assert_eq!(repairs.poll(now), None);
        assert_eq!(repairs.poll_timeout(), Some(now + RETRY_EVERY));
        assert_eq!(repairs.poll(now + RETRY_EVERY), Some(repair));
    }

    fn id(number: u8) -> SessionId {
        SessionId([number; 16])
    }
}

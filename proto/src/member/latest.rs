//! Which `Latest` message is the newest of its sender and key.

use std::collections::BTreeMap;

use crate::id::{Incarnation, Seq};

/// Keys that are told apart per sender; with more of them, a message may be dropped though it is
/// the newest of its key, but an older one is never let through.
const KEYS_PER_SENDER_MAX: usize = 1_024;

/// A sender's count across its lives.
pub(super) type Count = (Incarnation, Seq);

/// The newest of each key of one sender.
#[derive(Debug, Default)]
pub(super) struct Newest {
    by_key: BTreeMap<u16, Count>,
    /// The newest of the keys that are not told apart any more.
    floor: Count,
}

impl Newest {
    /// Whether this is newer than what came before; notes it if so.
    pub(super) fn admit(&mut self, key: u16, count: Count) -> bool {
        if count <= self.by_key.get(&key).copied().unwrap_or(self.floor) {
            return false;
        }
        if self.by_key.len() == KEYS_PER_SENDER_MAX && !self.by_key.contains_key(&key) {
            let forgotten = std::mem::take(&mut self.by_key);
            self.floor = forgotten.into_values().fold(self.floor, Count::max);
            if count <= self.floor {
                return false;
            }
        }
        self.by_key.insert(key, count);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(incarnation: u16, seq: u32) -> Count {
        (Incarnation(incarnation), Seq(seq))
    }

    #[test]
    fn only_what_is_newer_than_the_last_of_its_key_passes() {
        let mut newest = Newest::default();
        assert!(newest.admit(1, count(1, 5)));
        assert!(!newest.admit(1, count(1, 5)), "the same again");
        assert!(!newest.admit(1, count(1, 4)), "an older one");
        assert!(newest.admit(2, count(1, 4)), "another key");
        assert!(newest.admit(1, count(2, 1)), "a new life counts from 1");
        assert!(!newest.admit(1, count(1, 9)), "of the former life");
    }

    #[test]
    fn more_keys_than_are_told_apart_never_let_an_older_one_through() {
        let mut newest = Newest::default();
        for key in 0..=KEYS_PER_SENDER_MAX as u16 {
            assert!(newest.admit(key, count(1, 10 + u32::from(key))));
            assert!(newest.by_key.len() <= KEYS_PER_SENDER_MAX);
        }
        assert!(!newest.admit(0, count(1, 9)));
        assert!(!newest.admit(7, count(1, 17)));
    }
}

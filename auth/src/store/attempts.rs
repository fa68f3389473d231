//! How often a password may be guessed: the rules, without a place to keep the counts.
//!
//! ```text
//!  attempt ──▶ address, over all accounts ──▶ account from this address ──▶ account from strangers
//!              20 in 10 minutes               5, then waits that double     50 in an hour
//!                                                                           (not for known addresses)
//! ```
//!
//! An account allows an address 5 failures, then one per minute, and each doubles the wait up to 15
//! minutes: whoever guesses holds up nobody but those who share the address. Guesses from many
//! addresses are stopped by the account's own count, and that stops only strangers: an address that
//! has signed in to the account before is not held up by it. All are counted before the password is
//! looked at, and one that has to wait is counted nowhere.

use std::time::Duration;

const PAIR_FAILURES_MAX: u32 = 5;
const PAIR_WAIT_MIN_S: u64 = 60;
const PAIR_WAIT_MAX_S: u64 = 15 * 60;
/// After so long without an attempt the failures of an address at an account are forgotten. Waiting
/// for that gains a guesser nothing: it is allowed four guesses in this time anyway.
const PAIR_FORGET_S: u64 = 60 * 60;
const ADDRESS_FAILURES_MAX: u32 = 20;
const ADDRESS_WINDOW_S: u64 = 10 * 60;
/// Ten addresses take this many guesses before they have to wait by themselves. In a year it comes to
/// 438,000 guesses, with a thousand machines or with ten.
const ACCOUNT_FAILURES_MAX: u32 = 50;
const ACCOUNT_WINDOW_S: u64 = 60 * 60;

/// Addresses that an account knows: home, a phone, and two more.
pub(super) const KNOWN_ADDRESSES_MAX: usize = 4;

/// Counts of each kind that a store keeps at a time; beyond that those go first that would be
/// forgotten first. So many names within an hour take the attempts of 800 addresses.
pub(super) const COUNTS_MAX: i64 = 100_000;

/// What is counted. The number is the one in the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub(super) enum Counted {
    /// An address, over all accounts.
    Address = 1,
    /// An account, over all addresses that it does not know.
    Account = 2,
    /// An account from one address.
    Pair = 3,
}

impl Counted {
    pub(super) const ALL: [Self; 3] = [Self::Address, Self::Account, Self::Pair];
}

/// The failures of one account or address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) failures: u32,
    /// No attempt before then.
    pub(super) blocked_until_unix_s: u64,
    /// From then on it is as if there had been none.
    pub(super) forget_at_unix_s: u64,
}

impl Count {
    /// One failure more, or how long to wait instead.
    pub(super) fn attempt(self, counted: Counted, now_unix_s: u64) -> Result<Self, Duration> {
        let count = if self.forget_at_unix_s <= now_unix_s {
            Self::default()
        } else {
            self
        };
        if count.blocked_until_unix_s > now_unix_s {
            return Err(Duration::from_secs(count.blocked_until_unix_s - now_unix_s));
        }
        Ok(match counted {
            Counted::Address => count.windowed(ADDRESS_FAILURES_MAX, ADDRESS_WINDOW_S, now_unix_s),
            Counted::Account => count.windowed(ACCOUNT_FAILURES_MAX, ACCOUNT_WINDOW_S, now_unix_s),
            Counted::Pair => {
                let failures = count.failures.saturating_add(1);
                Self {
                    failures,
                    blocked_until_unix_s: now_unix_s.saturating_add(pair_wait_s(failures)),
                    forget_at_unix_s: now_unix_s.saturating_add(PAIR_FORGET_S),
                }
            }
        })
    }

    /// So many in a window that begins with the first.
    fn windowed(self, failures_max: u32, window_s: u64, now_unix_s: u64) -> Self {
        let failures = self.failures.saturating_add(1);
        let window_end = match self.failures {
            0 => now_unix_s.saturating_add(window_s),
            _ => self.forget_at_unix_s,
        };
        Self {
            failures,
            blocked_until_unix_s: if failures < failures_max {
                0
            } else {
                window_end
            },
            forget_at_unix_s: window_end,
        }
    }

    /// An attempt in a window was none: one that succeeded is taken back.
    pub(super) fn taken_back(self) -> Self {
        Self {
            failures: self.failures.saturating_sub(1),
            blocked_until_unix_s: 0,
            forget_at_unix_s: self.forget_at_unix_s,
        }
    }
}

fn pair_wait_s(failures: u32) -> u64 {
    let Some(doublings) = failures.checked_sub(PAIR_FAILURES_MAX) else {
        return 0;
    };
    // Four doublings are beyond the longest wait.
    (PAIR_WAIT_MIN_S << doublings.min(4)).min(PAIR_WAIT_MAX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    #[test]
    fn an_account_allows_an_address_5_failures_then_waits_that_double_to_15_minutes() {
        let (mut count, mut now) = (Count::default(), NOW);
        for _ in 0..5 {
            count = go(count, Counted::Pair, now);
        }
        for wait_s in [60, 120, 240, 480, 900, 900, 900] {
            assert_eq!(
                count.attempt(Counted::Pair, now),
                Err(Duration::from_secs(wait_s))
            );
            now += wait_s;
            count = go(count, Counted::Pair, now);
        }
        let later = now + PAIR_FORGET_S;
        for _ in 0..5 {
            count = go(count, Counted::Pair, later);
        }
        assert!(count.attempt(Counted::Pair, later).is_err());
    }

    #[test]
    fn a_window_allows_its_failures_and_gives_back_what_succeeded() {
        for (counted, failures_max, window_s) in [
            (Counted::Address, 20, 10 * 60),
            (Counted::Account, 50, 60 * 60),
        ] {
            let mut count = Count::default();
            for number in 0..2 * failures_max {
                count = go(count, counted, NOW + number).taken_back();
            }
            let begun = NOW + 2 * failures_max;
            for number in 0..failures_max {
                count = go(count, counted, begun + number);
            }
            let wait = count.attempt(counted, begun + failures_max);
            assert_eq!(wait, Err(Duration::from_secs(window_s - failures_max)));
            go(count, counted, begun + window_s);
        }
    }

    #[test]
    fn no_clock_and_no_count_overflows() {
        let most = Count {
            failures: u32::MAX,
            blocked_until_unix_s: 0,
            forget_at_unix_s: u64::MAX,
        };
        for counted in Counted::ALL {
            let count = go(most, counted, u64::MAX - 1);
            assert_eq!(count.failures, u32::MAX);
        }
    }

    fn go(count: Count, counted: Counted, now_unix_s: u64) -> Count {
        count
            .attempt(counted, now_unix_s)
            .unwrap_or_else(|wait| panic!("has to wait {wait:?}"))
    }
}

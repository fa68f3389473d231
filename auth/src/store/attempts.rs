//! How often a password may be guessed: the rules, without a place to keep the counts.
//!
//! An account allows 5 failures, then one per minute, and each doubles the wait up to 15 minutes. An
//! address allows 20 in 10 minutes. Both are counted before the password is looked at, the address
//! first: one that has to wait cannot hold an account up.

use std::time::Duration;

const ACCOUNT_FAILURES_MAX: u32 = 5;
const ACCOUNT_WAIT_MIN_S: u64 = 60;
const ACCOUNT_WAIT_MAX_S: u64 = 15 * 60;
/// After so long without an attempt an account's failures are forgotten. Waiting for that gains a
/// guesser nothing: it is allowed four guesses in this time anyway.
const ACCOUNT_FORGET_S: u64 = 60 * 60;
const ADDRESS_FAILURES_MAX: u32 = 20;
const ADDRESS_WINDOW_S: u64 = 10 * 60;

/// Counts of each kind that a store keeps at a time; beyond that those go first that would be
/// forgotten first. So many names within an hour take the attempts of 800 addresses.
pub(super) const COUNTS_MAX: i64 = 100_000;

/// What is counted. The number is the one in the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub(super) enum Counted {
    Address = 1,
    Account = 2,
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
        let failures = count.failures.saturating_add(1);
        Ok(match counted {
            Counted::Account => Self {
                failures,
                blocked_until_unix_s: now_unix_s.saturating_add(account_wait_s(failures)),
                forget_at_unix_s: now_unix_s.saturating_add(ACCOUNT_FORGET_S),
            },
            Counted::Address => {
                let window_end = match count.failures {
                    0 => now_unix_s.saturating_add(ADDRESS_WINDOW_S),
                    _ => count.forget_at_unix_s,
                };
                Self {
                    failures,
                    blocked_until_unix_s: if failures < ADDRESS_FAILURES_MAX {
                        0
                    } else {
                        window_end
                    },
                    forget_at_unix_s: window_end,
                }
            }
        })
    }

    /// An address's attempt was none: one that succeeded is taken back.
    pub(super) fn taken_back(self) -> Self {
        Self {
            failures: self.failures.saturating_sub(1),
            blocked_until_unix_s: 0,
            forget_at_unix_s: self.forget_at_unix_s,
        }
    }
}

fn account_wait_s(failures: u32) -> u64 {
    let Some(doublings) = failures.checked_sub(ACCOUNT_FAILURES_MAX) else {
        return 0;
    };
    // Four doublings are beyond the longest wait.
    (ACCOUNT_WAIT_MIN_S << doublings.min(4)).min(ACCOUNT_WAIT_MAX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    #[test]
    fn an_account_allows_5_failures_then_waits_that_double_to_15_minutes() {
        let (mut count, mut now) = (Count::default(), NOW);
        for _ in 0..5 {
            count = go(count, Counted::Account, now);
        }
        for wait_s in [60, 120, 240, 480, 900, 900, 900] {
            assert_eq!(
                count.attempt(Counted::Account, now),
                Err(Duration::from_secs(wait_s))
            );
            now += wait_s;
            count = go(count, Counted::Account, now);
        }
        let later = now + ACCOUNT_FORGET_S;
        for _ in 0..5 {
            count = go(count, Counted::Account, later);
        }
        assert!(count.attempt(Counted::Account, later).is_err());
    }

    #[test]
    fn an_address_allows_20_failures_in_10_minutes_and_gets_back_what_succeeded() {
        let mut count = Count::default();
        for number in 0..40 {
            count = go(count, Counted::Address, NOW + number).taken_back();
        }
        for number in 0..20 {
            count = go(count, Counted::Address, NOW + 40 + number);
        }
        let wait = count.attempt(Counted::Address, NOW + 100);
        assert!(wait.is_err_and(|wait| wait <= Duration::from_secs(ADDRESS_WINDOW_S)));
        go(count, Counted::Address, NOW + 40 + ADDRESS_WINDOW_S);
    }

    #[test]
    fn no_clock_and_no_count_overflows() {
        let most = Count {
            failures: u32::MAX,
            blocked_until_unix_s: 0,
            forget_at_unix_s: u64::MAX,
        };
        for counted in [Counted::Account, Counted::Address] {
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

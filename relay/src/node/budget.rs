//! What one member may send: messages and bytes per second, with some saved up.
//!
//! ```text
//!   datagrams ──room beyond the reserve?──▶ taken, else dropped
//!   streams ────any room?─────────────────▶ read, else left where they are: QUIC stops the sender
//! ```
//!
//! Two generic cell rates (ITU-T I.371), as in [`rates`](super::rates): an instant each, nothing to
//! refill, nothing to allocate.

use std::time::{Duration, Instant};

use dreamcatcher_proto::limits;

use super::io::MemberRates;

/// Kept for streams: whoever floods with datagrams still has their own reliable messages read.
const STREAM_RESERVE: Duration = Duration::from_millis(200);
/// How much comes back before a stream is read again: one wake-up for many messages, not for each.
const READ_AGAIN_WITH: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Budget {
    rates: MemberRates,
    /// Until when each of the two is used up.
    messages: Instant,
    bytes: Instant,
}

impl Budget {
    pub(super) fn new(rates: MemberRates, now: Instant) -> Self {
        Self {
            rates,
            messages: now,
            bytes: now,
        }
    }

    /// Whether a stream may be read.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        self.used(now) < limits::MEMBER_BURST
    }

    /// A message of a stream was read.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) {
        let bytes = cost(bytes as u64, self.rates.bytes_per_s);
        self.messages = self.messages.max(now) + cost(1, self.rates.messages_per_s);
        self.bytes = self.bytes.max(now) + bytes;
    }

    /// A message came in a datagram. `false`: it is to be dropped.
    pub(super) fn take_unreliable(&mut self, bytes: usize, now: Instant) -> bool {
        let has_room = self.used(now) < limits::MEMBER_BURST - STREAM_RESERVE;
        if has_room {
            self.take(bytes, now);
        }
        has_room
    }

    /// When to read a stream again that there was no room for.
    pub(super) fn read_again_at(&self, now: Instant) -> Instant {
        now + self.used(now).saturating_sub(limits::MEMBER_BURST) + READ_AGAIN_WITH
    }

    fn used(&self, now: Instant) -> Duration {
        self.messages.max(self.bytes).saturating_duration_since(now)
    }
}

/// How long it takes for this much to come back; a rate of zero is none.
fn cost(amount: u64, per_s: u32) -> Duration {
    let nanos = amount.saturating_mul(1_000_000_000);
    Duration::from_nanos(nanos.checked_div(u64::from(per_s)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_then_the_rate_and_streams_have_a_reserve() {
        let now = Instant::now();
        let mut budget = Budget::new(MemberRates::default(), now);
        let taken = (0..)
            .take_while(|_| budget.take_unreliable(64, now))
            .count();
        assert_eq!(taken, 1_800);
        let mut read = 0;
        while budget.has_room(now) {
            budget.take(64, now);
            read += 1;
        }
        assert_eq!(read, 200);
        assert_eq!(budget.read_again_at(now), now + READ_AGAIN_WITH);
        assert!(budget.has_room(now + Duration::from_millis(1)));
        assert!(!budget.take_unreliable(64, now + STREAM_RESERVE));
        let later = now + Duration::from_secs(60);
        let again = (0..)
            .take_while(|_| budget.take_unreliable(64, later))
            .count();
        assert_eq!(again, 1_800, "no more is saved up than a burst");
    }

    #[test]
    fn bytes_count_as_well_and_zero_limits_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new(MemberRates::default(), now);
        (0..8).for_each(|_| budget.take(65_536, now));
        assert!(!budget.has_room(now), "half a MiB is the burst");
        let none = MemberRates {
            messages_per_s: 0,
            bytes_per_s: 0,
        };
        let mut budget = Budget::new(none, now);
        (0..100_000).for_each(|_| budget.take(65_536, now));
        assert!(budget.has_room(now));
    }
}

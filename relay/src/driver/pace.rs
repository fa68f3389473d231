//! When to wait a little before looking at the sockets again, so that batches grow with load.

use std::time::{Duration, Instant};

/// From how many datagrams per `max_batch_delay` on a wait pays: below, a batch would be a single
/// datagram, and the wait a mere delay.
const BUSY_DATAGRAMS: u32 = 2;

/// Measures how many datagrams arrive in windows of at least `max_batch_delay`.
#[derive(Debug)]
pub(super) struct Pace {
    max_batch_delay: Duration,
    window_from: Instant,
    received: u32,
    busy: bool,
}

impl Pace {
    pub(super) fn new(max_batch_delay: Duration, now: Instant) -> Self {
        Self {
            max_batch_delay,
            window_from: now,
            received: 0,
            busy: false,
        }
    }

    /// A pass ended that took this long and received this many datagrams. Says how long to sleep before
    /// the next one.
    pub(super) fn after_pass(
        &mut self,
        received: usize,
        took: Duration,
        now: Instant,
    ) -> Option<Duration> {
        if self.max_batch_delay.is_zero() {
            return None;
        }
        self.received = self
            .received
            .saturating_add(u32::try_from(received).unwrap_or(u32::MAX));
        let elapsed = now.saturating_duration_since(self.window_from);
        if elapsed >= self.max_batch_delay {
            let gathered = self.max_batch_delay.saturating_mul(self.received);
            self.busy = gathered >= elapsed.saturating_mul(BUSY_DATAGRAMS);
            self.window_from = now;
            self.received = 0;
        }
        let left = self.max_batch_delay.saturating_sub(took);
        (self.busy && !left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(1);

    #[test]
    fn an_idle_loop_wakes_at_once_and_a_busy_one_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(DELAY, start);
        let mut pass = |received, at_us| {
            let now = start + Duration::from_micros(at_us);
            pace.after_pass(received, Duration::ZERO, now)
        };
        assert_eq!(pass(1, 500), None, "the window is open");
        assert_eq!(pass(1, 1_000), Some(DELAY), "two in a millisecond");
        assert_eq!(pass(0, 1_500), Some(DELAY), "still busy");
        assert_eq!(pass(3, 3_000), None, "three in two");
        assert_eq!(pass(100, 2_000_000), None, "a hundred after long silence");
        assert_eq!(pass(100, 2_001_000), Some(DELAY));
    }

    #[test]
    fn passes_begin_one_delay_after_each_other_and_a_full_loop_never_sleeps() {
        let start = Instant::now();
        let mut pace = Pace::new(DELAY, start);
        let took = Duration::from_micros(300);
        assert_eq!(
            pace.after_pass(100, took, start + DELAY),
            Some(DELAY - took)
        );
        assert_eq!(pace.after_pass(100, DELAY, start + 2 * DELAY), None);
        assert_eq!(pace.after_pass(100, 5 * DELAY, start + 7 * DELAY), None);
    }

    #[test]
    fn a_delay_of_zero_never_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, start);
        for n in 0..100 {
            assert_eq!(pace.after_pass(1_000, DELAY, start + DELAY * n), None);
        }
    }
}

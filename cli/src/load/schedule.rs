//! When each message is to be sent: known before the first one is.

use std::time::{Duration, Instant};

/// The golden ratio's fraction: its multiples, modulo 1, are spread evenly however many there are, and
/// those of neighbours, the members of a session, are far apart.
const PHASE_STEP: f64 = 0.618_033_988_749_894_9;

/// Fixed times: message k of a player is due k periods after its first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When the first period begins.
    pub(super) start: Instant,
    pub(super) hz: u32,
    /// Messages of each player that are not measured.
    pub(super) warm_up: u32,
    /// Messages of each player, the warm-up included.
    pub(super) total: u32,
}

impl Schedule {
    /// `start` and what follows from seconds and rate.
    pub(super) fn new(start: Instant, hz: u32, warm_up_s: u32, seconds: u64) -> Self {
        let warm_up = warm_up_s.saturating_mul(hz);
        let measured = u32::try_from(seconds.saturating_mul(u64::from(hz))).unwrap_or(u32::MAX);
        Self {
            start,
            hz,
            warm_up,
            total: warm_up.saturating_add(measured),
        }
    }

    /// When message `k`, from 0, of the player with this phase is due.
    pub(super) fn due(&self, k: u32, phase: Duration) -> Instant {
        self.start + self.periods(k) + phase
    }

    /// When in a period the player sends.
    pub(super) fn phase(&self, player: usize) -> Duration {
        self.periods(1)
            .mul_f64((player as f64 * PHASE_STEP).fract())
    }

    /// When what is measured begins.
    pub(super) fn measured_from(&self) -> Instant {
        self.start + self.periods(self.warm_up)
    }

    /// When what is measured ends: nothing is due then any more.
    pub(super) fn end(&self) -> Instant {
        self.start + self.periods(self.total)
    }

    /// Rounded as a whole, so that the rate is exact however long it runs.
    fn periods(&self, count: u32) -> Duration {
        Duration::from_nanos(u64::from(count) * 1_000_000_000 / u64::from(self.hz))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_exact_over_a_day_and_everything_is_due_within_it() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 30, 2, 86_400);
        assert_eq!((schedule.warm_up, schedule.total), (60, 60 + 30 * 86_400));
        assert_eq!(schedule.measured_from(), start + Duration::from_secs(2));
        assert_eq!(schedule.end(), start + Duration::from_secs(86_402));
        let last = schedule.due(schedule.total - 1, schedule.phase(999));
        assert!(last < schedule.end());
    }

    #[test]
    fn players_are_spread_over_the_period() {
        let schedule = Schedule::new(Instant::now(), 10, 0, 1);
        for players in [2, 7, 100] {
            let mut phases: Vec<_> = (0..players).map(|player| schedule.phase(player)).collect();
            phases.sort_unstable();
            phases.push(phases[0] + Duration::from_millis(100));
            let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).max();
            let even = Duration::from_millis(100) / u32::try_from(players).unwrap_or(1);
            assert!(widest <= Some(even * 2), "{players}: {widest:?}");
        }
    }
}

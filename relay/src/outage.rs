//! A trouble that lasts, as a log should have it: a line when it begins, one a minute while it lasts,
//! and one when it is over.
//!
//! ```text
//!   fails  ──▶ Began      fails, fails … ──a minute──▶ Lasts(60 s) …      works ──▶ its length
//! ```

use std::time::{Duration, Instant};

/// How often a trouble that lasts is worth a line: often enough that no page of a log is without one.
const SAY_AGAIN_EVERY: Duration = Duration::from_secs(60);

/// Whether something fails, and since when.
#[derive(Debug, Default)]
pub(crate) struct Outage(Option<Failing>);

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    said_at: Instant,
}

/// What a failure is worth a line for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The first.
    Began,
    /// Nothing has worked for so long.
    Lasts(Duration),
}

impl Outage {
    /// It failed. Says whether that is worth a line.
    pub(crate) fn fails(&mut self, now: Instant) -> Option<Line> {
        let Some(failing) = &mut self.0 else {
            self.0 = Some(Failing {
                since: now,
                said_at: now,
            });
            return Some(Line::Began);
        };
        if now.saturating_duration_since(failing.said_at) < SAY_AGAIN_EVERY {
            return None;
        }
        failing.said_at = now;
        Some(Line::Lasts(now.saturating_duration_since(failing.since)))
    }

    /// It worked. Says for how long it had not, if it had not.
    pub(crate) fn works(&mut self, now: Instant) -> Option<Duration> {
        let failing = self.0.take()?;
        Some(now.saturating_duration_since(failing.since))
    }
}

impl Line {
    /// How long the trouble has lasted, in whole seconds.
    pub(crate) fn lasted_s(self) -> u64 {
        match self {
            Self::Began => 0,
            Self::Lasts(time) => time.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_begins_once_a_minute_and_when_it_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        assert_eq!(outage.works(at(0)), None);
        let said: Vec<(u64, Line)> = (0..=130)
            .filter_map(|second| Some((second, outage.fails(at(second))?)))
            .collect();
        let lasts = |seconds| Line::Lasts(Duration::from_secs(seconds));
        assert_eq!(said, [(0, Line::Began), (60, lasts(60)), (120, lasts(120))]);
        assert_eq!(outage.works(at(131)), Some(Duration::from_secs(131)));
        assert_eq!(outage.works(at(132)), None);
        assert_eq!(outage.fails(at(133)), Some(Line::Began));
    }

    #[test]
    fn a_trouble_whose_failures_are_far_apart_is_told_with_each() {
        let start = Instant::now();
        let mut outage = Outage::default();
        for minutes in 1..5 {
            let now = start + Duration::from_secs(60 * minutes);
            assert!(outage.fails(now).is_some());
        }
    }
}

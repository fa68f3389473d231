//! What all bots measure together: how long things took, and what they were told went wrong.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dreamcatcher_proto::Error;
use hdrhistogram::Histogram;

/// Longest time that is told from a longer one.
const TIME_MAX_US: u64 = 60_000_000;

/// The fleet's clock, and its measures.
#[derive(Debug)]
pub(crate) struct Measures {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub(crate) latest: Histogram<u64>,
    /// Latest, since it was last looked at.
    pub(crate) latest_recent: Histogram<u64>,
    pub(crate) ordered: Histogram<u64>,
    pub(crate) connect: Histogram<u64>,
    /// Codes that bots were told.
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl Measures {
    /// The clock starts at `start`.
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            inner: Mutex::new(Inner {
                latest: times(),
                latest_recent: times(),
                ordered: times(),
                connect: times(),
                errors: BTreeMap::new(),
            }),
        }
    }

    /// Time on the fleet's clock.
    pub(crate) fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    pub(crate) fn latest(&self, took: Duration) {
        self.with(|inner| {
            record(&mut inner.latest, took);
            record(&mut inner.latest_recent, took);
        });
    }

    pub(crate) fn ordered(&self, took: Duration) {
        self.with(|inner| record(&mut inner.ordered, took));
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.with(|inner| record(&mut inner.connect, took));
    }

    /// Counts what a bot was told. The first of each code is logged for people, the others for a
    /// closer look: a thousand bots that are told the same have one thing to say.
    pub(crate) fn error(&self, error: &Error, doing: &'static str) {
        let count = self.with(|inner| {
            let count = inner.errors.entry(error.code().name()).or_default();
            *count += 1;
            *count
        });
        if count == 1 {
            tracing::warn!(%error, "a bot could not {doing}");
        } else {
            tracing::debug!(%error, "a bot could not {doing}");
        }
    }

    /// Median and 99th percentile of Latest since the last time that this was asked, if there were any.
    pub(crate) fn recent(&self) -> Option<(Duration, Duration)> {
        self.with(|inner| {
            let times = &mut inner.latest_recent;
            let at = |quantile| Duration::from_micros(times.value_at_quantile(quantile));
            let recent = (!times.is_empty()).then(|| (at(0.5), at(0.99)));
            times.reset();
            recent
        })
    }

    pub(crate) fn so_far(&self) -> Inner {
        self.with(|inner| inner.clone())
    }

    fn with<T>(&self, measure: impl FnOnce(&mut Inner) -> T) -> T {
        // A bot that panicked elsewhere is a fault of ours that has been reported there.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        measure(&mut inner)
    }
}

/// Times in µs, to three digits.
pub(crate) fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_MAX_US, 3)
        .expect("the bounds and the precision are constants")
}

pub(crate) fn record(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

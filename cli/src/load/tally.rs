//! What the players of a load measure together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dreamcatcher_client::Stats;
use hdrhistogram::Histogram;

use crate::bots::measures::{Measures, record, times};

/// Links between relays that a message takes at most: to the session's owner, and from there.
pub(super) const HOPS_MAX: usize = 2;

/// Counts and times, from all threads.
#[derive(Debug)]
pub(super) struct Tally {
    /// The clock, times to connect, and what players were told went wrong.
    pub(super) measures: Measures,
    latency: Mutex<Latency>,
    /// Messages that each player got, whenever they were sent.
    delivered: Vec<AtomicU64>,
    pub(super) committed: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) resumes: AtomicU64,
    pub(super) resyncs: AtomicU64,
    pub(super) moves: AtomicU64,
    dropped_in: AtomicU64,
    dropped_out: AtomicU64,
}

/// From the time at which a message was to be sent until it was delivered, in µs.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    pub(super) all: Histogram<u64>,
    /// By the links between relays on the way.
    pub(super) by_hops: [Histogram<u64>; HOPS_MAX + 1],
    /// Since it was last looked at.
    recent: Histogram<u64>,
}

impl Tally {
    pub(super) fn new(players: usize) -> Self {
        Self {
            measures: Measures::new(Instant::now()),
            latency: Mutex::new(Latency {
                all: times(),
                by_hops: std::array::from_fn(|_| times()),
                recent: times(),
            }),
            delivered: (0..players).map(|_| AtomicU64::new(0)).collect(),
            committed: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            resumes: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            dropped_in: AtomicU64::new(0),
            dropped_out: AtomicU64::new(0),
        }
    }

    /// The player got a message.
    pub(super) fn arrived(&self, player: usize) {
        count(&self.delivered[player]);
    }

    /// A message that is measured took so long, over so many links.
    pub(super) fn took(&self, took: Duration, hops: Option<usize>) {
        let mut latency = self.latency();
        record(&mut latency.all, took);
        record(&mut latency.recent, took);
        if let Some(times) = hops.and_then(|hops| latency.by_hops.get_mut(hops)) {
            record(times, took);
        }
    }

    /// What a player's SDK counted.
    pub(super) fn seen_by_sdk(&self, stats: &Stats) {
        self.moves.fetch_add(stats.moves, Ordering::Relaxed);
        self.dropped_in
            .fetch_add(stats.dropped_in, Ordering::Relaxed);
        self.dropped_out
            .fetch_add(stats.dropped_out, Ordering::Relaxed);
    }

    pub(super) fn dropped_in_and_out(&self) -> (u64, u64) {
        (read(&self.dropped_in), read(&self.dropped_out))
    }

    /// Messages that each player got so far.
    pub(super) fn delivered(&self) -> Vec<u64> {
        self.delivered.iter().map(read).collect()
    }

    /// Median and 99th percentile since the last time that this was asked, if anything came.
    pub(super) fn recent(&self) -> Option<(Duration, Duration)> {
        let mut latency = self.latency();
        let times = &mut latency.recent;
        let at = |quantile| Duration::from_micros(times.value_at_quantile(quantile));
        let recent = (!times.is_empty()).then(|| (at(0.5), at(0.99)));
        times.reset();
        recent
    }

    pub(super) fn so_far(&self) -> Latency {
        self.latency().clone()
    }

    fn latency(&self) -> MutexGuard<'_, Latency> {
        // A player that panicked elsewhere is a fault of ours that has been reported there.
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

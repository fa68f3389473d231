//! The directory at a distance: its pure rules, behind a delay on the way there and back.
//!
//! ```text
//!   node ──ask──▶ 1–5 ms ──▶ Table ──▶ 1–5 ms ──▶ node: the answer
//!                              └─────▶ 1–5 ms ──▶ every node: what changed, unless it gets lost
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dreamcatcher_directory::{DirectoryError, Hint, Reply, Request, Table, Timestamp};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::UNIX_AT_START;

/// The probability that a change reaches a node too late to be of use: it is a hint.
const HINT_LOSS: f64 = 0.02;

/// A relay in one of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub relay: usize,
    pub boot: u64,
}

/// What reaches a node from the directory.
#[derive(Debug)]
pub enum Letter {
    Reply {
        id: u64,
        reply: Result<Reply, DirectoryError>,
    },
    Hint(Hint),
}

#[derive(Debug)]
enum Step {
    Apply {
        from: Run,
        id: u64,
        request: Box<Request>,
    },
    Deliver {
        to: Run,
        letter: Letter,
    },
}

/// The directory, and everything under way to and from it.
#[derive(Debug)]
pub struct Desk {
    table: Table,
    rng: ChaCha8Rng,
    steps: BTreeMap<(Duration, u64), Step>,
    taken: u64,
    watching: BTreeSet<Run>,
    down: bool,
}

impl Desk {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut codes = ChaCha8Rng::seed_from_u64(seed ^ 0x636f_6465);
        Self {
            table: Table::new(move || codes.random()),
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x6465_736b),
            steps: BTreeMap::new(),
            taken: 0,
            watching: BTreeSet::new(),
            down: false,
        }
    }

    /// Sends changes to this run from now on.
    pub fn watch(&mut self, run: Run) {
        self.watching.insert(run);
    }

    pub fn unwatch(&mut self, run: Run) {
        self.watching.remove(&run);
    }

    /// Makes the directory unreachable, or reachable again; its leases then have their full term.
    pub fn set_down(&mut self, down: bool, now: Duration) {
        if self.down && !down {
            self.table.resume(timestamp(now));
        }
        self.down = down;
    }

    pub fn ask(&mut self, from: Run, id: u64, request: Request, now: Duration) {
        let request = Box::new(request);
        self.plan(now, Step::Apply { from, id, request });
    }

    /// When there is something to do, or to deliver.
    #[must_use]
    pub fn next_step(&self) -> Option<Duration> {
        let step = self.steps.keys().next().map(|(at, _)| *at);
        let expiry = self
            .table
            .next_expiry()
            .filter(|_| !self.down)
            .map(|at| Duration::from_micros(at.0).saturating_sub(UNIX_AT_START));
        step.into_iter().chain(expiry).min()
    }

    /// Does what is due, and gives the next letter that has reached its node.
    pub fn poll(&mut self, now: Duration) -> Option<(Run, Letter)> {
        if !self.down {
            self.table.expire(timestamp(now));
            self.tell_changes(now);
        }
        loop {
            let due = self
                .steps
                .first_entry()
                .filter(|entry| entry.key().0 <= now)?;
            match due.remove() {
                Step::Deliver { to, letter } => return Some((to, letter)),
                Step::Apply { from, id, request } => {
                    let reply = if self.down {
                        let cause = "it is down".to_owned();
                        Err(DirectoryError::Unavailable { cause })
                    } else {
                        self.table.apply(*request, timestamp(now))
                    };
                    self.tell_changes(now);
                    let letter = Letter::Reply { id, reply };
                    self.plan(now, Step::Deliver { to: from, letter });
                }
            }
        }
    }

    fn tell_changes(&mut self, now: Duration) {
        while let Some(change) = self.table.poll_change() {
            for to in self.watching.clone() {
                if !self.rng.random_bool(HINT_LOSS) {
                    let letter = Letter::Hint(Hint::Changed(change.clone()));
                    self.plan(now, Step::Deliver { to, letter });
                }
            }
        }
    }

    fn plan(&mut self, now: Duration, step: Step) {
        self.taken += 1;
        let at = now + Duration::from_micros(self.rng.random_range(1_000..=5_000));
        self.steps.insert((at, self.taken), step);
    }
}

fn timestamp(now: Duration) -> Timestamp {
    Timestamp(0).after(UNIX_AT_START + now)
}

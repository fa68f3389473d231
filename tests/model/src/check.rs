//! Runs of the checker: all that can happen, or the shortest way to break a promise.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use stateright::report::Reporter;
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::{Action, Session};

/// What a run over all states came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub session: Session,
    pub states: usize,
    pub depth: usize,
    pub took: Duration,
    /// Promises that were broken, with the way there.
    pub broken: BTreeMap<&'static str, Vec<Action>>,
    /// What was to happen at some time, and never did.
    pub unseen: Vec<&'static str>,
}

impl Outcome {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.unseen.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            session,
            states,
            depth,
            took,
            ..
        } = self;
        writeln!(f, "{:?}, {:?}", session.rules, session.bounds)?;
        writeln!(f, "{states} states, depth {depth}, {took:.1?}")?;
        for (promise, path) in &self.broken {
            writeln!(f, "BROKEN {promise}:\n{}", Steps(path))?;
        }
        for event in &self.unseen {
            writeln!(f, "NEVER SEEN {event}")?;
        }
        if self.holds() {
            writeln!(f, "all promises are kept")?;
        }
        Ok(())
    }
}

/// Goes through everything that can happen to `session`, on all cores, until a promise is broken.
#[must_use]
pub fn explore(session: Session) -> Outcome {
    let began = Instant::now();
    judged(session, &search(session).join(), began)
}

/// The same, with progress to `reporter`.
pub fn explore_aloud<R: Reporter<Session> + Send>(session: Session, reporter: &mut R) -> Outcome {
    let began = Instant::now();
    judged(session, &search(session).join_and_report(reporter), began)
}

fn search(session: Session) -> impl Checker<Session> + Send + Sync {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let builder = session.checker().symmetry().threads(threads);
    builder.finish_when(HasDiscoveries::AnyFailures).spawn_dfs()
}

fn judged(session: Session, done: &impl Checker<Session>, began: Instant) -> Outcome {
    let mut found = done.discoveries();
    let mut outcome = Outcome {
        session,
        states: done.unique_state_count(),
        depth: done.max_depth(),
        took: began.elapsed(),
        broken: BTreeMap::new(),
        unseen: Vec::new(),
    };
    for property in session.properties() {
        let path = found.remove(property.name);
        match (property.expectation, path) {
            (Expectation::Always, Some(path)) => {
                let broken = path.into_actions();
                outcome.broken.insert(property.name, broken);
            }
            (Expectation::Sometimes, None) => outcome.unseen.push(property.name),
            (Expectation::Always, None) | (Expectation::Sometimes, Some(_)) => {}
            (Expectation::Eventually, _) => unreachable!("the model promises nothing in time"),
        }
    }
    if !outcome.broken.is_empty() {
        outcome.unseen.clear(); // it has stopped early
    }
    outcome
}

/// The shortest way to break `promise`, if there is any.
#[must_use]
pub fn shortest(session: Session, promise: &'static str) -> Option<Vec<Action>> {
    let mut shortest: Option<Vec<Action>> = None;
    loop {
        // The checker keeps the last way of a batch that it finds: it is asked for a shorter one until
        // there is none. A state after n actions is at depth n + 1, and the depth asked for is not reached.
        let mut builder = session.checker().finish_when(one(promise));
        if let Some(path) = &shortest {
            builder = builder.target_max_depth(path.len() + 1);
        }
        let found = builder.spawn_bfs().join().discovery(promise);
        match found {
            Some(path) => shortest = Some(path.into_actions()),
            None => return shortest,
        }
    }
}

fn one(promise: &'static str) -> HasDiscoveries {
    HasDiscoveries::AllOf([promise].into_iter().collect())
}

/// A line each.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a>(pub &'a [Action]);

impl fmt::Display for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, action) in (1..).zip(self.0) {
            writeln!(f, "  {n:2} {action:?}")?;
        }
        Ok(())
    }
}

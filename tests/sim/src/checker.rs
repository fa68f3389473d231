//! Judges a [`History`]: pure, a few linear scans, one per promise.
//!
//! What a member's application sees is enough to judge by: a payload is unique in its run, so it
//! names its message, and the places of all members together give the one order of each session.

mod delivery;
mod order;
mod outcome;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use dreamcatcher_proto::frame::{Mode, Target};
use dreamcatcher_proto::{Index, PeerId};

use crate::history::{Digest, Fact, History, Life};

/// A promise that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// What is delivered was sent, unaltered.
    Unaltered,
    /// It was sent to the session in which it is delivered.
    Isolation,
    /// It is delivered to those it was sent to, as what it was sent as, under its sender's name.
    Addressed,
    /// The same index holds the same message for all, and a message has one index.
    Order,
    /// A member's indexes rise, and every index is accounted for.
    Contiguous,
    /// No Ordered or Reliable message is delivered twice to a member.
    Once,
    /// What is in the order is delivered to every member that it was sent to and that was there.
    Complete,
    /// Ordered and Reliable messages keep their sender's order; no Ordered one is left out.
    SenderOrder,
    /// What is sent after index i was delivered is ordered after i.
    Causality,
    /// A member's epochs never fall.
    Epoch,
    /// A Latest message is newer than all of its sender and key before.
    Newest,
    /// Reliable messages are missing only where that was said.
    Announced,
    /// What was rejected is never delivered.
    Rejected,
    /// An Ordered message is committed or rejected, once, and in the end every one is.
    Resolved,
    /// The terminal event is one, and the last.
    Terminal,
    /// In the end every member that should play has joined, and its own messages come through.
    Served,
    /// In the end all members of a session stand at the same index.
    Together,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    /// To whom.
    pub life: String,
    /// When, from the start of the run, if there is an instant.
    pub at: Option<Duration>,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.life)?;
        if let Some(at) = self.at {
            write!(f, " at {:.6} s", at.as_secs_f64())?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Every promise that `history` breaks; none if it keeps them all.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut case = Case::open(history);
    for life in &history.lives {
        case.deliveries(life);
        case.resolutions(life);
        case.reliable(life);
        case.ending(life);
    }
    case.orders();
    case.violations
}

/// A message as its sender sent it.
struct Origin<'a> {
    life: &'a Life,
    sender: Option<PeerId>,
    /// How many messages its sender sent before it.
    number: usize,
    mode: Mode,
    target: &'a Target,
    key: u16,
    /// The greatest index that its sender had seen.
    after: Index,
    rejected: bool,
}

/// What a session's members say about its order.
#[derive(Default)]
struct Order {
    entries: BTreeMap<Index, Digest>,
    places: BTreeMap<Digest, Index>,
}

struct Case<'a> {
    history: &'a History,
    messages: BTreeMap<Digest, Origin<'a>>,
    games: BTreeMap<usize, Order>,
    /// What at least one member was delivered.
    delivered: BTreeSet<Digest>,
    violations: Vec<Violation>,
}

impl<'a> Case<'a> {
    fn open(history: &'a History) -> Self {
        let mut case = Self {
            history,
            messages: BTreeMap::new(),
            games: BTreeMap::new(),
            delivered: BTreeSet::new(),
            violations: Vec::new(),
        };
        for life in &history.lives {
            case.read(life);
        }
        case
    }

    /// Notes what was sent, and what this life says about the order.
    fn read(&mut self, life: &'a Life) {
        let (sender, joined_at) = life.joined().unzip();
        let mut seen = joined_at.unwrap_or_default();
        for (number, (at, fact)) in life.facts.iter().enumerate() {
            match fact {
                Fact::Sent {
                    message,
                    mode,
                    target,
                    key,
                } => {
                    let origin = Origin {
                        life,
                        sender,
                        number,
                        mode: *mode,
                        target,
                        key: *key,
                        after: seen,
                        rejected: false,
                    };
                    self.messages.insert(*message, origin);
                }
                Fact::Delivered(delivery) => {
                    let (message, index) = (delivery.message, delivery.place.index);
                    self.delivered.insert(message);
                    seen = seen.max(index);
                    if index > Index(0) {
                        self.place(life, *at, index, message);
                    }
                }
                Fact::Committed { message, index } => {
                    self.place(life, *at, *index, *message);
                }
                Fact::Rejected { message, .. } => {
                    if let Some(origin) = self.messages.get_mut(message) {
                        origin.rejected = true;
                    }
                }
                Fact::Refused { .. }
                | Fact::Joined { .. }
                | Fact::Membership { .. }
                | Fact::Gap { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Ended { .. }
                | Fact::Standing { .. } => {}
            }
        }
    }

    fn place(&mut self, life: &Life, at: Duration, index: Index, message: Digest) {
        let order = self.games.entry(life.game).or_default();
        let there = *order.entries.entry(index).or_insert(message);
        let known = *order.places.entry(message).or_insert(index);
        if there != message {
            let what = format!("index {index} holds {message:?}, elsewhere {there:?}");
            self.blame(Rule::Order, life, Some(at), what);
        } else if known != index {
            let what = format!("{message:?} is at index {index}, elsewhere at {known}");
            self.blame(Rule::Order, life, Some(at), what);
        }
    }

    fn blame(&mut self, rule: Rule, life: &Life, at: Option<Duration>, what: String) {
        self.violations.push(Violation {
            rule,
            life: life.name.clone(),
            at,
            what,
        });
    }
}

//! What happened to every member, as its application saw it, and what was done to the mesh: the only
//! things that are judged.

use std::time::Duration;

pub use dreamcatcher_proto::history::{
    Change, Delivery, Digest, Fact, FaultKind, Log, Mark, RelayFact,
};
use dreamcatcher_proto::{ErrorCode, Index, PeerId, SessionId, history};

/// Everything that one run recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub lives: Vec<Life>,
    pub relays: Vec<Log<RelayFact>>,
    pub faults: Vec<(Duration, Mark)>,
}

/// One member from its wish to join to its terminal event.
#[derive(Clone, Debug)]
pub struct Life {
    /// For people: which player, which life of it.
    pub name: String,
    /// The session that it was to play in, by the number it has in the run.
    pub game: usize,
    pub fate: Fate,
    /// What happened, and when, counted from the start of the run.
    pub facts: Vec<(Duration, Fact)>,
}

/// What must have become of a life when the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in its session, with nothing open.
    Plays,
    /// It had its one terminal event, with one of these codes.
    Ends(&'static [ErrorCode]),
    /// It could not join: the session was lost before.
    Missed,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "each looks for one kind of fact"
)]
impl Life {
    /// Whether it is to be in its session when the run ends.
    #[must_use]
    pub fn plays(&self) -> bool {
        self.fate == Fate::Plays
    }

    /// The session that it joined.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.facts.iter().find_map(|(_, fact)| match *fact {
            Fact::Joined { session, .. } => Some(session),
            _ => None,
        })
    }

    /// Which peer it became, and after which index.
    #[must_use]
    pub fn joined(&self) -> Option<(PeerId, Index)> {
        self.facts.iter().find_map(|(_, fact)| match *fact {
            Fact::Joined { peer, index, .. } => Some((peer, index)),
            _ => None,
        })
    }

    /// What it was delivered, and when.
    pub fn deliveries(&self) -> impl Iterator<Item = (Duration, Delivery)> {
        self.facts.iter().filter_map(|(at, fact)| match *fact {
            Fact::Delivered(delivery) => Some((*at, delivery)),
            _ => None,
        })
    }

    /// Its terminal event, and when that came.
    #[must_use]
    pub fn ended(&self) -> Option<(Duration, ErrorCode)> {
        self.facts.iter().find_map(|(at, fact)| match *fact {
            Fact::Ended { code } => Some((*at, code)),
            _ => None,
        })
    }

    /// The newest entry that it saw, if it played until the run ended.
    #[must_use]
    pub fn standing(&self) -> Option<Index> {
        self.facts.iter().find_map(|(_, fact)| match *fact {
            Fact::Standing { index, .. } => Some(index),
            _ => None,
        })
    }
}

impl History {
    /// How many facts `wanted` holds of.
    pub fn count(&self, wanted: impl Fn(&Fact) -> bool) -> usize {
        let facts = self.lives.iter().flat_map(|life| &life.facts);
        facts.filter(|(_, fact)| wanted(fact)).count()
    }

    /// Messages that reached an application.
    #[must_use]
    pub fn deliveries(&self) -> usize {
        self.count(|fact| matches!(fact, Fact::Delivered(_)))
    }

    /// The same as a history that is judged like any other.
    #[must_use]
    pub fn recorded(&self) -> history::History {
        let log = |life: &Life| Log {
            name: life.name.clone(),
            source: life.name.as_str().into(),
            first_line: 1,
            is_cut: false,
            facts: life.facts.clone(),
        };
        history::History {
            members: self.lives.iter().map(log).collect(),
            relays: self.relays.clone(),
            faults: vec![Log {
                name: "the plan".to_owned(),
                source: "the plan".into(),
                first_line: 1,
                is_cut: false,
                facts: self.faults.clone(),
            }],
        }
    }
}

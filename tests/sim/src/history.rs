//! What happened to every member, as its application saw it: the only thing that is judged.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use dreamcatcher_proto::frame::{Mode, Place, Target};
use dreamcatcher_proto::{ErrorCode, Index, PeerId, SessionId};

/// Everything that one run recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub lives: Vec<Life>,
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

/// One thing that a member's application did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A try to create or join that did not work.
    Refused {
        code: ErrorCode,
    },
    Joined {
        session: SessionId,
        peer: PeerId,
        /// The entries that follow have greater indexes.
        index: Index,
    },
    Sent {
        message: Digest,
        mode: Mode,
        target: Target,
        key: u16,
    },
    Delivered(Delivery),
    /// The session itself made an entry.
    Membership {
        peer: PeerId,
        change: Change,
    },
    Committed {
        message: Digest,
        index: Index,
    },
    Rejected {
        message: Digest,
        code: ErrorCode,
    },
    /// Reliable messages were lost, and this says so.
    Gap {
        sender: PeerId,
        missed: u32,
    },
    Reconnecting,
    Resumed,
    /// The one terminal event.
    Ended {
        code: ErrorCode,
    },
    /// The newest entry and the number of unresolved sends, when the run ended.
    Standing {
        index: Index,
        unresolved: usize,
    },
}

/// A message, as it reached an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub message: Digest,
    pub sender: PeerId,
    pub mode: Mode,
    pub key: u16,
    /// In mode Ordered; zero in the others.
    pub place: Place,
}

/// What became of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    Joined,
    Dropped,
    Rejoined,
    Left,
}

/// A message by its content: mode, channel and payload. Every payload of a run is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

impl Digest {
    #[must_use]
    pub fn of(mode: Mode, channel: u8, payload: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        (mode, channel, payload).hash(&mut hasher);
        Self(hasher.finish())
    }
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

    /// Who came and went, as it saw it.
    pub fn membership(&self) -> impl Iterator<Item = (PeerId, Change)> {
        self.facts.iter().filter_map(|(_, fact)| match *fact {
            Fact::Membership { peer, change } => Some((peer, change)),
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
        match self.facts.last() {
            Some((_, Fact::Standing { index, .. })) => Some(*index),
            _ => None,
        }
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
}

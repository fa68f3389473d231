//! Faults planted between a client and the member's history: what a broken relay or client would
//! do, for the checker to find.

use std::time::Duration;

use dreamcatcher_proto::frame::Mode;

use crate::history::{Delivery, Digest, Fact};

/// One fault, planted once.
#[derive(Clone, Debug)]
pub struct Tamper {
    pub fault: Fault,
    pub game: usize,
    /// From when on: the next chance is taken.
    pub from: Duration,
    held: Option<Fact>,
    done: bool,
}

/// What is done to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two Ordered messages change places.
    Reorder,
    /// An Ordered message comes twice.
    Duplicate,
    /// An Ordered message does not come.
    Lose,
    /// An Ordered message of another session comes.
    Leak,
    /// An Ordered message comes with another payload.
    Alter,
    /// A Latest message comes again after a newer one of its sender and key.
    Older,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::Reorder,
        Self::Duplicate,
        Self::Lose,
        Self::Leak,
        Self::Alter,
        Self::Older,
    ];
}

impl Tamper {
    #[must_use]
    pub const fn new(fault: Fault, game: usize, from: Duration) -> Self {
        Self {
            fault,
            game,
            from,
            held: None,
            done: false,
        }
    }

    /// What is noted in place of `fact`, which reached a member of `game`, where `victim` says
    /// whether that is the one member that the fault is for.
    pub fn pass(&mut self, fact: Fact, game: usize, victim: bool, now: Duration) -> Vec<Fact> {
        let Fact::Delivered(Delivery { mode, .. }) = fact else {
            return vec![fact];
        };
        if self.done || now < self.from {
            return vec![fact];
        }
        let wanted = match self.fault {
            Fault::Older => Mode::Latest,
            Fault::Reorder | Fault::Duplicate | Fault::Lose | Fault::Leak | Fault::Alter => {
                Mode::Ordered
            }
        };
        if mode != wanted {
            return vec![fact];
        }
        if self.fault == Fault::Leak && game != self.game {
            self.held = Some(fact.clone());
        }
        if game != self.game || !victim {
            return vec![fact];
        }
        let out = match (self.fault, self.held.take()) {
            (Fault::Reorder, None) => {
                self.held = Some(fact);
                return Vec::new();
            }
            (Fault::Older, None) => {
                self.held = Some(fact.clone());
                return vec![fact];
            }
            (Fault::Older, Some(older)) if !follows(&older, &fact) => {
                self.held = Some(older);
                return vec![fact];
            }
            (Fault::Leak, None) => return vec![fact],
            (Fault::Reorder | Fault::Older | Fault::Leak, Some(other)) => vec![fact, other],
            (Fault::Duplicate, _) => vec![fact.clone(), fact],
            (Fault::Lose, _) => Vec::new(),
            (Fault::Alter, _) => vec![altered(fact)],
        };
        self.done = true;
        out
    }
}

/// Whether the two are of the same sender and key.
fn follows(older: &Fact, newer: &Fact) -> bool {
    match (older, newer) {
        (Fact::Delivered(older), Fact::Delivered(newer)) => {
            (older.sender, older.key) == (newer.sender, newer.key)
        }
        _ => false,
    }
}

fn altered(mut fact: Fact) -> Fact {
    if let Fact::Delivered(Delivery { message, .. }) = &mut fact {
        *message = Digest(!message.0);
    }
    fact
}

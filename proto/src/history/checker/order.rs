//! The one order of a session, against what its members were delivered of it.

use std::collections::BTreeSet;

use super::Invariant;
use super::case::{Case, Life, Spot};
use crate::frame::Mode;
use crate::history::fact::{Change, Fact};
use crate::id::{Index, PeerId};

impl Case<'_> {
    pub(super) fn orders(&mut self) {
        // What a member that is gone sent last may have a place that nobody was told; where a message
        // was refused an entry says so to its sender alone.
        let open = self
            .messages
            .keys()
            .filter(|name| name.mode == Mode::Ordered && !self.places.contains_key(*name));
        let unknown = open.count() as u64;
        for life in 0..self.lives.len() {
            self.complete(life);
            if self.lacks.is_none() {
                self.every_index(life, unknown);
            }
        }
        if self.is_at_rest {
            self.checked(Invariant::Healed);
            let standing = |life: &usize| self.lives[*life].standing.is_some();
            let standing: Vec<usize> = (0..self.lives.len()).filter(standing).collect();
            for pair in standing.windows(2) {
                self.together(pair[0], pair[1]);
            }
        }
    }

    /// Everything in the order, from where it joined to where it stood, that was for this member.
    fn complete(&mut self, number: usize) {
        let life = self.lives[number];
        let (mut got, mut last) = (BTreeSet::new(), life.joined);
        // What lies between two parts of a broken continuity was announced as lost.
        let mut lost: Vec<(Index, Index)> = Vec::new();
        for (_, fact) in &life.log.facts {
            match fact {
                Fact::Delivered(delivery) => {
                    got.insert(delivery.place.index);
                    last = last.max(delivery.place.index);
                }
                Fact::Resync { from, .. } => {
                    lost.push((last, *from));
                    last = last.max(*from);
                }
                Fact::Refused { .. }
                | Fact::Joined { .. }
                | Fact::Sent { .. }
                | Fact::Membership { .. }
                | Fact::Committed { .. }
                | Fact::Rejected { .. }
                | Fact::Gap { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Ended { .. }
                | Fact::Standing { .. }
                | Fact::Incomplete { .. } => {}
            }
        }
        if let Some((_, index, _)) = life.standing {
            last = last.max(index);
        }
        if last <= life.joined {
            return;
        }
        let is_lost = |index| {
            lost.iter()
                .any(|(after, to)| *after < index && index <= *to)
        };
        let entries = self.order.range(life.joined.next()..=last);
        let mut missing = entries.filter(|(index, placed)| {
            self.is_for(placed.name, life.me) && !got.contains(index) && !is_lost(**index)
        });
        if let Some((index, placed)) = missing.next() {
            let (name, there) = (placed.name, placed.spot);
            let count = 1 + missing.count();
            let what = format!("{count} are missing, the first is index {index}, {name}");
            let spot = Spot {
                life: number,
                fact: 0,
            };
            self.blame(Invariant::Complete, spot, Some(there), what);
        }
    }

    /// From where a member joined to where it stands, each index is that of a message that someone
    /// knows, or of a membership entry that it saw.
    fn every_index(&mut self, number: usize, unknown: u64) {
        let life = self.lives[number];
        let resyncs = |fact: &Fact| matches!(fact, Fact::Resync { .. });
        let Some((_, standing, _)) = life.standing else {
            return;
        };
        if life.log.facts.iter().any(|(_, fact)| resyncs(fact)) {
            return;
        }
        let first = life.joined.next();
        let messages = self.order.range(first..=standing.max(first)).count();
        let seen = (messages + membership(&life).count()) as u64;
        let wanted = standing.0.saturating_sub(life.joined.0);
        if !(seen..=seen.saturating_add(unknown)).contains(&wanted) {
            let joined = life.joined;
            let what =
                format!("{seen} entries are known for the {wanted} from {joined} to {standing}");
            self.blame_life(Invariant::Contiguous, number, what);
        }
    }

    /// At rest all stand at the same index, and saw the same members come and go.
    fn together(&mut self, one: usize, other: usize) {
        let (a, b) = (self.lives[one], self.lives[other]);
        let index = |life: &Life<'_>| life.standing.map(|(_, index, _)| index).unwrap_or_default();
        let end = |life: &Life<'_>, number| Spot {
            life: number,
            fact: life.log.facts.len().saturating_sub(1),
        };
        let other_end = end(&b, other);
        if index(&a) != index(&b) {
            let (here, there) = (index(&a), index(&b));
            let what = format!("it stands at {here}, {} at {there}", b.log.name);
            self.blame(Invariant::Healed, end(&a, one), Some(other_end), what);
        }
        let [longer, shorter] = {
            let mut both = [&a, &b].map(|life| membership(life).collect::<Vec<_>>());
            both.sort_by_key(|seen| std::cmp::Reverse(seen.len()));
            both
        };
        if !longer.ends_with(&shorter) {
            let what = format!("it and {} saw {longer:?} and {shorter:?}", b.log.name);
            self.blame(Invariant::OneOrder, end(&a, one), Some(other_end), what);
        }
    }
}

/// Who came and went, as a member saw it.
fn membership<'a>(life: &Life<'a>) -> impl Iterator<Item = (PeerId, Change)> + use<'a> {
    life.log.facts.iter().filter_map(|(_, fact)| {
        if let Fact::Membership { peer, change, .. } = fact {
            Some((*peer, *change))
        } else {
            None
        }
    })
}

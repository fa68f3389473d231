//! The one order of each session, against what its members were delivered of it.

use std::collections::BTreeSet;

use dreamcatcher_proto::Index;
use dreamcatcher_proto::frame::Mode;

use super::{Case, Order, Rule};
use crate::history::{Digest, Fact, Life};

impl Case<'_> {
    /// The order of each session, against what its members were delivered.
    pub(super) fn orders(&mut self) {
        let history = self.history;
        for (game, order) in std::mem::take(&mut self.games) {
            let lives = || history.lives.iter().filter(|life| life.game == game);
            // What a member that is gone sent last may have a place that nobody was told.
            let unknown: u64 = lives().map(|life| self.unknown(life, &order)).sum();
            for life in lives() {
                self.complete(life, &order);
                self.every_index(life, &order, unknown);
            }
            let to_the_end: Vec<&Life> = lives().filter(|life| life.standing().is_some()).collect();
            for pair in to_the_end.windows(2) {
                self.together(pair[0], pair[1]);
            }
        }
    }

    /// Ordered messages of a life that may have a place or not.
    fn unknown(&self, life: &Life, order: &Order) -> u64 {
        let open = |fact: &Fact| {
            let Fact::Sent { message, .. } = fact else {
                return false;
            };
            let origin = self.messages.get(message);
            let may_have = origin.is_some_and(|m| m.mode == Mode::Ordered && !m.rejected);
            may_have && !order.places.contains_key(message)
        };
        life.facts.iter().filter(|(_, fact)| open(fact)).count() as u64
    }

    /// Everything in the order, from where it joined to where it stood, that was for this member.
    fn complete(&mut self, life: &Life, order: &Order) {
        let Some((me, joined)) = life.joined() else {
            return;
        };
        let (mut got, mut last) = (BTreeSet::new(), joined);
        for (_, delivery) in life.deliveries() {
            got.insert(delivery.place.index);
            last = last.max(delivery.place.index);
        }
        if life.plays() {
            last = Index(u64::MAX);
        }
        let entries = order.entries.range(joined.next()..);
        let missing: Vec<(&Index, &Digest)> = entries
            .filter(|(index, message)| {
                let for_me = self.messages.get(message).is_some_and(|origin| {
                    let sender = origin.sender.unwrap_or_default();
                    origin.target.includes(me, sender)
                });
                **index <= last && for_me && !got.contains(index)
            })
            .collect();
        if let Some((index, message)) = missing.first() {
            let count = missing.len();
            let what = format!("{count} are missing, the first is index {index}, {message:?}");
            self.blame(Rule::Complete, life, None, what);
        }
    }

    /// From where a member joined to where it stands, each index is that of a message that someone
    /// knows, or of a membership entry that it saw.
    fn every_index(&mut self, life: &Life, order: &Order, unknown: u64) {
        let (Some((_, joined)), Some(standing)) = (life.joined(), life.standing()) else {
            return;
        };
        let messages = order
            .entries
            .range(joined.next()..=standing.max(joined.next()));
        let seen = messages.count() + life.membership().count();
        let (seen, wanted) = (seen as u64, standing.0.saturating_sub(joined.0));
        if !(seen..=seen + unknown).contains(&wanted) {
            let what =
                format!("{seen} entries are known for the {wanted} from {joined} to {standing}");
            self.blame(Rule::Contiguous, life, None, what);
        }
    }

    /// In the end all stand at the same index, and saw the same members come and go.
    fn together(&mut self, one: &Life, other: &Life) {
        if one.standing() != other.standing() {
            let what = format!(
                "it stands at {:?}, {} at {:?}",
                one.standing(),
                other.name,
                other.standing()
            );
            self.blame(Rule::Together, one, None, what);
        }
        let [longer, shorter] = {
            let mut both = [one, other].map(|life| life.membership().collect::<Vec<_>>());
            both.sort_by_key(|seen| std::cmp::Reverse(seen.len()));
            both
        };
        if !longer.ends_with(&shorter) {
            let what = format!("it and {} saw {longer:?} and {shorter:?}", other.name);
            self.blame(Rule::Order, one, None, what);
        }
    }
}

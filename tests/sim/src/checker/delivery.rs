//! What a member is delivered: each message by itself, and after the ones before it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dreamcatcher_proto::frame::{Mode, Place};
use dreamcatcher_proto::{Epoch, PeerId};

use super::{Case, Origin, Rule};
use crate::history::{Delivery, Fact, Life};

impl Case<'_> {
    /// What a member was delivered, one message at a time.
    pub(super) fn deliveries(&mut self, life: &Life) {
        let me = life.joined().map(|(peer, _)| peer);
        let mut seen = BTreeSet::new();
        let mut last = Place {
            index: life.joined().map(|(_, index)| index).unwrap_or_default(),
            epoch: Epoch::default(),
        };
        // By sender's life: the last one in its order, and per key the newest Latest.
        let mut in_order = BTreeMap::new();
        let mut newest = BTreeMap::new();
        for (at, delivery) in life.deliveries() {
            let Delivery { message, mode, .. } = delivery;
            if mode == Mode::Ordered {
                self.step(life, at, &mut last, delivery.place);
            }
            let once = matches!(mode, Mode::Ordered | Mode::Reliable);
            if !seen.insert(message) && once {
                let what = format!("{message:?} is delivered again");
                self.blame(Rule::Once, life, Some(at), what);
                continue;
            }
            let Some(origin) = self.messages.get(&message) else {
                let what = format!("nobody sent the {} {message:?}", mode.name());
                self.blame(Rule::Unaltered, life, Some(at), what);
                continue;
            };
            let (from, number) = (origin.life.name.as_str(), origin.number);
            let mut broken = origin.misdelivered(life, me, delivery);
            match mode {
                Mode::Ordered | Mode::Reliable => {
                    let before = in_order.insert((from, mode), number);
                    if before.is_some_and(|before| before > number) {
                        let what = format!("{} message {number} of {from} is late", mode.name());
                        broken.push((Rule::SenderOrder, what));
                    }
                }
                Mode::Latest => {
                    let before = newest.insert((from, delivery.key), number);
                    if let Some(before) = before.filter(|before| *before >= number) {
                        let what = format!("{message:?} of {from}: {number} after {before}");
                        broken.push((Rule::Newest, what));
                    }
                }
                Mode::Datagram => {}
            }
            for (rule, what) in broken {
                self.blame(rule, life, Some(at), what);
            }
        }
    }

    fn step(&mut self, life: &Life, at: Duration, last: &mut Place, place: Place) {
        if place.index <= last.index {
            let what = format!("index {} after {}", place.index, last.index);
            self.blame(Rule::Contiguous, life, Some(at), what);
        }
        if place.epoch < last.epoch {
            let what = format!("epoch {} after {}", place.epoch, last.epoch);
            self.blame(Rule::Epoch, life, Some(at), what);
        }
        *last = Place {
            index: last.index.max(place.index),
            epoch: last.epoch.max(place.epoch),
        };
    }

    /// Reliable messages that a member did not get must have been announced as missing, as soon as
    /// a later one of the same sender arrived.
    pub(super) fn reliable(&mut self, life: &Life) {
        let Some((me, _)) = life.joined() else { return };
        let mut got: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (_, delivery) in life.deliveries().filter(|(_, d)| d.mode == Mode::Reliable) {
            if let Some(origin) = self.messages.get(&delivery.message) {
                let of_sender = got.entry(&origin.life.name).or_default();
                of_sender.insert(origin.number);
            }
        }
        let mut announced: BTreeMap<PeerId, usize> = BTreeMap::new();
        for (_, fact) in &life.facts {
            if let Fact::Gap { sender, missed } = fact {
                // 0: nobody knows how many.
                let missed = match *missed {
                    0 => usize::MAX,
                    missed => missed as usize,
                };
                let sum = announced.entry(*sender).or_default();
                *sum = sum.saturating_add(missed);
            }
        }
        let history = self.history;
        for from in history.lives.iter().filter(|from| from.game == life.game) {
            let (Some(got), Some((sender, _))) = (got.get(from.name.as_str()), from.joined())
            else {
                continue;
            };
            let (Some(first), Some(last)) = (got.first(), got.last()) else {
                continue;
            };
            let both_to_the_end = from.plays() && life.plays();
            let missing = from.facts.iter().enumerate().filter(|(number, (_, fact))| {
                let within = first < number && (number < last || both_to_the_end);
                let Fact::Sent {
                    message,
                    mode: Mode::Reliable,
                    target,
                    ..
                } = fact
                else {
                    return false;
                };
                // What is lost on the way up is announced to the others, who might wait for it.
                let told = from.name != life.name || self.delivered.contains(message);
                let rejected = self.messages.get(message).is_some_and(|m| m.rejected);
                let mine = target.includes(me, sender) && !rejected && told;
                within && mine && !got.contains(number)
            });
            let missing = missing.count();
            let announced = announced.get(&sender).copied().unwrap_or_default();
            if missing > announced {
                let from = &from.name;
                let what = format!("{missing} of {from} are missing, {announced} announced");
                self.blame(Rule::Announced, life, None, what);
            }
        }
    }
}

impl Origin<'_> {
    /// What is wrong with this message being delivered to that life, which is peer `me`.
    fn misdelivered(
        &self,
        to: &Life,
        me: Option<PeerId>,
        delivery: Delivery,
    ) -> Vec<(Rule, String)> {
        let from = &self.life.name;
        let mut broken = Vec::new();
        if self.life.game != to.game {
            broken.push((Rule::Isolation, format!("{from} plays another session")));
        } else {
            let sender = delivery.sender;
            let addressed = me.is_some_and(|me| self.target.includes(me, sender));
            if !addressed || Some(sender) != self.sender {
                let target = self.target;
                let what = format!("{from} sent it to {target:?}; {me:?} has it from {sender}");
                broken.push((Rule::Addressed, what));
            }
            if (delivery.mode, delivery.key) != (self.mode, self.key) {
                let (sent, came) = (self.mode.name(), delivery.mode.name());
                broken.push((Rule::Addressed, format!("sent as {sent}, came as {came}")));
            }
        }
        if self.rejected {
            let what = format!("{from} was told that it is rejected");
            broken.push((Rule::Rejected, what));
        }
        broken
    }
}

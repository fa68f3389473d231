//! What a member is delivered: each message by itself, and after the ones before it.

use std::collections::BTreeMap;

use super::Invariant;
use super::case::{Case, Name, Origin, Spot};
use crate::frame::{Mode, Place};
use crate::history::Log;
use crate::history::fact::{Delivery, Digest, Fact};
use crate::id::{Epoch, Incarnation, PeerId, Seq};

/// Deliveries of one history that are looked for in other sessions: it is a scan over everything.
const ELSEWHERE_MAX: usize = 20;

impl<'a> Case<'a> {
    /// What a member was delivered, one message at a time.
    pub(super) fn deliveries(&mut self, number: usize) {
        let life = self.lives[number];
        let mut last = Place {
            index: life.joined,
            epoch: Epoch::default(),
        };
        let mut got: BTreeMap<(Mode, PeerId, Incarnation), Ranges> = BTreeMap::new();
        // By sender, across its lives: the last one in its order, and per key the newest Latest.
        let mut in_order: BTreeMap<(PeerId, Mode), (Incarnation, Seq)> = BTreeMap::new();
        let mut newest: BTreeMap<(PeerId, u16), (Incarnation, Seq)> = BTreeMap::new();
        let (mut has_joined, mut has_ended) = (false, false);
        for (fact, (_, said)) in life.log.facts.iter().enumerate() {
            let spot = Spot { life: number, fact };
            let delivery = match said {
                Fact::Delivered(delivery) => *delivery,
                Fact::Joined { .. } => {
                    has_joined = true;
                    continue;
                }
                Fact::Ended { .. } => {
                    has_ended = true;
                    continue;
                }
                Fact::Resync { from, epoch } => {
                    last = Place {
                        index: *from,
                        epoch: last.epoch.max(*epoch),
                    };
                    continue;
                }
                Fact::Refused { .. }
                | Fact::Sent { .. }
                | Fact::Membership { .. }
                | Fact::Committed { .. }
                | Fact::Rejected { .. }
                | Fact::Gap { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Standing { .. }
                | Fact::Incomplete { .. } => continue,
            };
            let (mode, mid) = (delivery.mode, delivery.mid());
            let name = Name { mode, mid };
            if !has_joined || has_ended {
                let when = if has_ended {
                    "after its end"
                } else {
                    "before it joined"
                };
                let what = format!("{name} is delivered {when}");
                self.blame(Invariant::Entitled, spot, None, what);
            }
            if mode == Mode::Ordered {
                self.step(spot, &mut last, delivery.place);
            }
            if matches!(mode, Mode::Ordered | Mode::Reliable) {
                let of_sender = got.entry((mode, mid.sender, mid.incarnation)).or_default();
                if !of_sender.insert(mid.seq.0) {
                    let what = format!("{name} is delivered again");
                    self.blame(Invariant::Once, spot, None, what);
                    // Under a known name another message may come.
                    self.as_sent(spot, name, delivery);
                    continue;
                }
            }
            let count = (mid.incarnation, mid.seq);
            match mode {
                Mode::Ordered | Mode::Reliable => {
                    let before = in_order.insert((mid.sender, mode), count);
                    if let Some((_, before)) = before.filter(|before| *before > count) {
                        let what = format!("{name} comes after the number {before} of its sender");
                        self.blame(Invariant::SenderOrder, spot, None, what);
                    }
                }
                Mode::Latest => {
                    let before = newest.insert((mid.sender, delivery.key), count);
                    if let Some((_, before)) = before.filter(|before| *before >= count) {
                        let key = delivery.key;
                        let what = format!("{name}, key {key}, comes after the number {before}");
                        self.blame(Invariant::Newest, spot, None, what);
                    }
                }
                Mode::Datagram => {}
            }
            self.as_sent(spot, name, delivery);
        }
    }

    fn step(&mut self, spot: Spot, last: &mut Place, place: Place) {
        if place.index <= last.index {
            let what = format!("index {} after {}", place.index, last.index);
            self.blame(Invariant::Contiguous, spot, None, what);
        }
        if place.epoch < last.epoch {
            let what = format!("epoch {} after {}", place.epoch, last.epoch);
            self.blame(Invariant::Epochs, spot, None, what);
        }
        *last = Place {
            index: last.index.max(place.index),
            epoch: last.epoch.max(place.epoch),
        };
    }

    /// A delivery against what its sender recorded.
    fn as_sent(&mut self, spot: Spot, name: Name, delivery: Delivery) {
        let me = self.lives[spot.life].me;
        let Some(origin) = self.messages.get(&name).copied() else {
            if let Some(what) = self.never_sent(name, delivery.message) {
                self.blame(Invariant::AsSent, spot, None, what);
            }
            return;
        };
        let Origin { message, bytes, .. } = origin;
        let wrong = if (delivery.message, delivery.bytes) != (message, bytes) {
            let elsewhere = self.elsewhere(delivery.message);
            let is = format!(
                "{name} comes as {} of {} B",
                delivery.message, delivery.bytes
            );
            Some(format!(
                "{is}, and was sent as {message} of {bytes} B{elsewhere}"
            ))
        } else if !origin.target.includes(me, name.mid.sender) {
            Some(format!(
                "{name} was sent to {:?}, and peer {me} has it",
                origin.target
            ))
        } else if delivery.key != origin.key {
            let (came, sent) = (delivery.key, origin.key);
            Some(format!(
                "{name} comes with key {came}, and was sent with {sent}"
            ))
        } else {
            None
        };
        if let Some(what) = wrong {
            self.blame(Invariant::AsSent, spot, Some(origin.spot), what);
        }
        if origin.is_rejected {
            let what = format!("{name} is delivered, and its sender was told that it is rejected");
            self.blame(Invariant::Rejected, spot, Some(origin.spot), what);
        }
    }

    /// What is wrong with a delivery that no sender recorded; nothing, if its sender may have sent it
    /// unrecorded.
    fn never_sent(&self, name: Name, message: Digest) -> Option<String> {
        let sender = name.mid.sender;
        let elsewhere = || self.elsewhere(message);
        if !self.peers.contains(&sender) {
            return Some(format!(
                "{name} comes from a peer that was never there{}",
                elsewhere()
            ));
        }
        let life = self
            .lives
            .iter()
            .find(|life| (life.me, life.incarnation) == (sender, name.mid.incarnation))?;
        let is_recorded = |(_, fact): &(_, Fact)| matches!(fact, Fact::Sent { mode, seq, .. } if *mode == name.mode && *seq > name.mid.seq);
        let may_be_unrecorded = life.is_open && !life.log.facts.iter().any(is_recorded);
        (!may_be_unrecorded).then(|| format!("nobody sent {name}{}", elsewhere()))
    }

    /// Where else a message was sent, to complete a sentence.
    fn elsewhere(&self, message: Digest) -> String {
        if self.broken(Invariant::AsSent) > ELSEWHERE_MAX {
            return String::new();
        }
        let sent = |log: &&'a Log<Fact>| {
            log.facts
                .iter()
                .any(|(_, fact)| matches!(fact, Fact::Sent { message: m, .. } if *m == message))
        };
        let others = self.history.members.iter();
        let found = others
            .filter(|log| log.seat().is_some_and(|seat| seat.session != self.session))
            .find(sent);
        found.map_or_else(String::new, |log| {
            format!(": {} sent it to another session", log.name)
        })
    }

    /// Reliable messages that a member did not get must have been announced as missing, as soon as
    /// a later one of the same sender arrived.
    pub(super) fn reliable(&mut self, number: usize) {
        let life = self.lives[number];
        let mut got: BTreeMap<(PeerId, Incarnation), Ranges> = BTreeMap::new();
        let mut announced: BTreeMap<PeerId, u64> = BTreeMap::new();
        for (_, fact) in &life.log.facts {
            match fact {
                Fact::Delivered(delivery) if delivery.mode == Mode::Reliable => {
                    let mid = delivery.mid();
                    let of_sender = got.entry((mid.sender, mid.incarnation)).or_default();
                    of_sender.insert(mid.seq.0);
                }
                Fact::Gap { sender, missed } => {
                    // 0: nobody knows how many.
                    let missed = match *missed {
                        0 => u64::MAX,
                        missed => u64::from(missed),
                    };
                    let sum = announced.entry(*sender).or_default();
                    *sum = sum.saturating_add(missed);
                }
                Fact::Delivered(_)
                | Fact::Refused { .. }
                | Fact::Joined { .. }
                | Fact::Sent { .. }
                | Fact::Membership { .. }
                | Fact::Committed { .. }
                | Fact::Rejected { .. }
                | Fact::Resync { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Ended { .. }
                | Fact::Standing { .. }
                | Fact::Incomplete { .. } => {}
            }
        }
        for other in 0..self.lives.len() {
            let from = self.lives[other];
            let Some(got) = got.get(&(from.me, from.incarnation)) else {
                continue;
            };
            let (Some(first), Some(last)) = (got.first(), got.last()) else {
                continue;
            };
            let both_stand = from.standing.is_some() && life.standing.is_some();
            let to_the_end = self.is_at_rest && both_stand;
            let mut missing = 0_u64;
            for (_, fact) in &from.log.facts {
                let Fact::Sent {
                    mode: Mode::Reliable,
                    seq,
                    target,
                    ..
                } = fact
                else {
                    continue;
                };
                let name = from.name(Mode::Reliable, *seq);
                let within = first < seq.0 && (seq.0 < last || to_the_end);
                // What is lost on the way up is announced to the others, who might wait for it.
                let told = other != number || self.reliable.contains(&name);
                let rejected = self.messages.get(&name).is_some_and(|m| m.is_rejected);
                let mine = target.includes(life.me, from.me) && !rejected && told;
                missing += u64::from(within && mine && !got.contains(seq.0));
            }
            let announced = announced.get(&from.me).copied().unwrap_or_default();
            if missing > announced {
                let from = &from.log.name;
                let what = format!(
                    "{missing} Reliable messages of {from} are missing, {announced} announced"
                );
                self.blame_life(Invariant::Announced, number, what);
            }
        }
    }
}

/// A set of numbers that mostly follow each other: the ranges of those that do.
#[derive(Debug, Default)]
struct Ranges {
    /// First and last of each.
    ranges: BTreeMap<u32, u32>,
}

impl Ranges {
    /// Whether it is new.
    fn insert(&mut self, number: u32) -> bool {
        if self.contains(number) {
            return false;
        }
        let below = self.ranges.range(..number).next_back();
        let below = below.filter(|(_, last)| **last + 1 == number);
        let first = below.map_or(number, |(first, _)| *first);
        let above = number
            .checked_add(1)
            .and_then(|above| self.ranges.remove(&above));
        self.ranges.insert(first, above.unwrap_or(number));
        true
    }

    fn contains(&self, number: u32) -> bool {
        let below = self.ranges.range(..=number).next_back();
        below.is_some_and(|(_, last)| number <= *last)
    }

    fn first(&self) -> Option<u32> {
        self.ranges.keys().next().copied()
    }

    fn last(&self) -> Option<u32> {
        self.ranges.values().next_back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_was_put_in_and_join_up() {
        let mut ranges = Ranges::default();
        for number in [5, 3, 9, 4, u32::MAX, 0] {
            assert!(ranges.insert(number), "{number}");
            assert!(!ranges.insert(number), "{number}");
        }
        assert_eq!(ranges.ranges.len(), 4, "{ranges:?}");
        assert_eq!((ranges.first(), ranges.last()), (Some(0), Some(u32::MAX)));
        for (number, is_in) in [(1, false), (3, true), (4, true), (5, true), (6, false)] {
            assert_eq!(ranges.contains(number), is_in, "{number}");
        }
    }
}

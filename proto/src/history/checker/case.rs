//! One session: who was in it, what was sent to it, and the one order that its members tell of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::{Fault, Findings, Invariant, Recorded, Violation};
use crate::frame::{Mode, Target};
use crate::history::fact::{Change, Digest, Fact, RelayFact};
use crate::history::{History, Log, Site};
use crate::id::{Epoch, Incarnation, Index, Mid, PeerId, Seq, SessionId};

/// How long nobody may have sent before a session is at rest.
const AT_REST_AFTER: Duration = Duration::from_secs(1);

/// A message, as its sender names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) mode: Mode,
    pub(super) mid: Mid,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.mode.name(), self.mid)
    }
}

/// One life of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life<'a> {
    pub(super) log: &'a Log<Fact>,
    pub(super) me: PeerId,
    pub(super) incarnation: Incarnation,
    /// The entries that follow have greater indexes.
    pub(super) joined: Index,
    /// When and where it stood at the end of the recording, and its sends without an outcome.
    pub(super) standing: Option<(Duration, Index, usize)>,
    /// Nothing is known of what came after its last fact.
    pub(super) is_open: bool,
}

impl Life<'_> {
    /// The greatest index that it was delivered.
    pub(super) fn newest(&self) -> Index {
        let indexes = self.log.facts.iter().filter_map(|(_, fact)| {
            if let Fact::Delivered(delivery) = fact {
                Some(delivery.place.index)
            } else {
                None
            }
        });
        indexes.max().unwrap_or(self.joined)
    }

    pub(super) const fn name(&self, mode: Mode, seq: Seq) -> Name {
        let mid = Mid {
            sender: self.me,
            incarnation: self.incarnation,
            seq,
        };
        Name { mode, mid }
    }
}

/// A fact, by its life and its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) life: usize,
    pub(super) fact: usize,
}

/// A message as its sender sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) spot: Spot,
    pub(super) target: &'a Target,
    pub(super) key: u16,
    pub(super) message: Digest,
    pub(super) bytes: u32,
    /// The greatest index that its sender had been delivered.
    pub(super) after: Index,
    pub(super) is_rejected: bool,
}

/// What stands at an index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) name: Name,
    pub(super) message: Option<Digest>,
    pub(super) epoch: Option<Epoch>,
    /// Who told of it first in the order of the files, and the earliest time at which anybody did.
    pub(super) spot: Spot,
    pub(super) known_at: Duration,
}

pub(super) struct Case<'a> {
    pub(super) session: SessionId,
    pub(super) history: &'a History,
    pub(super) lives: Vec<Life<'a>>,
    pub(super) relays: Vec<&'a Log<RelayFact>>,
    pub(super) faults: &'a [Fault],
    /// Whoever was in the session, as far as anybody saw.
    pub(super) peers: BTreeSet<PeerId>,
    pub(super) messages: BTreeMap<Name, Origin<'a>>,
    pub(super) order: BTreeMap<Index, Placed>,
    pub(super) places: BTreeMap<Name, (Index, Spot)>,
    /// Reliable messages that reached anybody.
    pub(super) reliable: BTreeSet<Name>,
    /// What keeps this from being a record of the whole session, if anything.
    pub(super) lacks: Option<String>,
    /// Everybody stands or has gone, and nothing was under way.
    pub(super) is_at_rest: bool,
    findings: &'a mut Findings,
}

impl<'a> Case<'a> {
    pub(super) fn open(
        session: SessionId,
        recorded: &Recorded<'a>,
        history: &'a History,
        faults: &'a [Fault],
        findings: &'a mut Findings,
    ) -> Self {
        let lives = recorded.members.iter().filter_map(|log| {
            let seat = log.seat()?;
            Some(Life {
                log,
                me: seat.peer,
                incarnation: seat.incarnation,
                joined: seat.index,
                standing: match log.facts.last() {
                    Some((at, Fact::Standing { index, unresolved })) => {
                        Some((*at, *index, *unresolved))
                    }
                    Some(_) | None => None,
                },
                is_open: !log.is_whole(),
            })
        });
        let mut case = Self {
            session,
            history,
            lives: lives.collect(),
            relays: recorded.relays.clone(),
            faults,
            peers: BTreeSet::new(),
            messages: BTreeMap::new(),
            order: BTreeMap::new(),
            places: BTreeMap::new(),
            reliable: BTreeSet::new(),
            lacks: None,
            is_at_rest: false,
            findings,
        };
        for life in 0..case.lives.len() {
            case.read(life);
        }
        case.lacks = case.lack();
        case.is_at_rest = case.at_rest();
        case
    }

    /// Holds what is known of the session against every invariant.
    pub(super) fn judge(&mut self) {
        for life in 0..self.lives.len() {
            self.deliveries(life);
            self.resolutions(life);
            self.reliable(life);
            self.ending(life);
        }
        self.removals();
        self.orders();
        self.owners();
        self.continuity();
        self.recovery();
        self.tell_what_was_checked();
    }

    /// Of those invariants for which members' own histories are enough, and of those for which they
    /// are once all members have recorded.
    fn tell_what_was_checked(&mut self) {
        for invariant in [
            Invariant::Contiguous,
            Invariant::Once,
            Invariant::AsSent,
            Invariant::Complete,
            Invariant::SenderOrder,
            Invariant::Causality,
            Invariant::Epochs,
            Invariant::Committed,
            Invariant::Entitled,
            Invariant::Rejected,
            Invariant::Resolved,
            Invariant::Newest,
            Invariant::Announced,
            Invariant::Terminal,
        ] {
            self.checked(invariant);
        }
        if self.lives.len() > 1 {
            self.checked(Invariant::OneOrder);
        } else {
            self.unchecked(Invariant::OneOrder, "only one member recorded its history");
        }
        if let Some(lack) = self.lacks.clone() {
            for invariant in [
                Invariant::Contiguous,
                Invariant::AsSent,
                Invariant::Complete,
                Invariant::Rejected,
                Invariant::Announced,
            ] {
                self.unchecked(invariant, lack.clone());
            }
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.order.len()
    }

    /// Notes what was sent, and what this life says about the order.
    fn read(&mut self, number: usize) {
        let life = self.lives[number];
        let mut seen = life.joined;
        let mut counts = [Seq(0); Mode::ALL.len()];
        self.peers.insert(life.me);
        for (fact, (at, said)) in life.log.facts.iter().enumerate() {
            let spot = Spot { life: number, fact };
            match said {
                Fact::Joined { members, .. } => self.peers.extend(members),
                Fact::Membership { peer, .. } => {
                    self.peers.insert(*peer);
                }
                Fact::Sent {
                    mode,
                    seq,
                    target,
                    key,
                    message,
                    bytes,
                } => {
                    let before = std::mem::replace(&mut counts[*mode as usize], *seq);
                    let name = life.name(*mode, *seq);
                    if *seq != before.next() {
                        let what = format!("it sent {name} after its number {before}");
                        self.blame(Invariant::SenderOrder, spot, None, what);
                    }
                    let origin = Origin {
                        spot,
                        target,
                        key: *key,
                        message: *message,
                        bytes: *bytes,
                        after: seen,
                        is_rejected: false,
                    };
                    self.messages.insert(name, origin);
                }
                Fact::Delivered(delivery) => {
                    let (mode, mid, place) = (delivery.mode, delivery.mid(), delivery.place);
                    let name = Name { mode, mid };
                    if mode == Mode::Reliable {
                        self.reliable.insert(name);
                    }
                    seen = seen.max(place.index);
                    if mode == Mode::Ordered && place.index > Index(0) {
                        let (message, epoch) = (Some(delivery.message), Some(place.epoch));
                        self.place(spot, *at, place.index, (name, message, epoch));
                    }
                }
                Fact::Committed { seq, index } => {
                    let name = life.name(Mode::Ordered, *seq);
                    let message = self.messages.get(&name).map(|origin| origin.message);
                    self.place(spot, *at, *index, (name, message, None));
                }
                Fact::Rejected { mode, seq, .. } => {
                    if let Some(origin) = self.messages.get_mut(&life.name(*mode, *seq)) {
                        origin.is_rejected = true;
                    }
                }
                Fact::Refused { .. }
                | Fact::Gap { .. }
                | Fact::Resync { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Ended { .. }
                | Fact::Standing { .. }
                | Fact::Incomplete { .. } => {}
            }
        }
    }

    /// Somebody was told that this message stands at this index.
    fn place(
        &mut self,
        spot: Spot,
        at: Duration,
        index: Index,
        (name, message, epoch): (Name, Option<Digest>, Option<Epoch>),
    ) {
        let placed = Placed {
            name,
            message,
            epoch,
            spot,
            known_at: at,
        };
        let there = self.order.entry(index).or_insert(placed);
        there.known_at = there.known_at.min(at);
        there.message = there.message.or(message);
        there.epoch = there.epoch.or(epoch);
        let there = *there;
        let (known, elsewhere) = *self.places.entry(name).or_insert((index, spot));
        let is_same = there.name == name && message.is_none_or(|own| there.message == Some(own));
        if !is_same {
            let shown = |message: Option<Digest>| message.map_or("?".to_owned(), |m| m.to_string());
            let (own, other) = (shown(message), shown(there.message));
            let other_name = there.name;
            let what =
                format!("index {index} holds {name} ({own}), elsewhere {other_name} ({other})");
            self.blame(Invariant::OneOrder, spot, Some(there.spot), what);
        } else if known != index {
            let what = format!("{name} is at index {index}, elsewhere at {known}");
            self.blame(Invariant::OneOrder, spot, Some(elsewhere), what);
        }
    }

    /// Why not everything that happened in the session is recorded, if so.
    fn lack(&self) -> Option<String> {
        let has = |peer: &PeerId| self.lives.iter().any(|life| life.me == *peer);
        if let Some(peer) = self.peers.iter().find(|peer| !has(peer)) {
            return Some(format!("peer {peer} recorded no history"));
        }
        let open = self.lives.iter().find(|life| life.is_open)?;
        Some(format!("the history of {} ends early", open.log.name))
    }

    fn at_rest(&self) -> bool {
        let mut standing = self.lives.iter().filter_map(|life| life.standing);
        let Some((first, ..)) = standing.next() else {
            return false;
        };
        let (earliest, latest) = standing.fold((first, first), |(earliest, latest), (at, ..)| {
            (earliest.min(at), latest.max(at))
        });
        let facts = self.lives.iter().flat_map(|life| &life.log.facts);
        // What happens once some have stopped to look is not for them to see.
        let changes = |fact: &Fact| {
            matches!(
                fact,
                Fact::Sent { .. } | Fact::Joined { .. } | Fact::Ended { .. }
            )
        };
        let last = facts.filter(|(_, fact)| changes(fact)).map(|(at, _)| *at);
        let last = last.max().unwrap_or_default();
        latest.saturating_sub(earliest) <= AT_REST_AFTER && last + AT_REST_AFTER <= earliest
    }

    pub(super) fn site(&self, spot: Spot) -> Site {
        self.lives[spot.life].log.site(spot.fact)
    }

    /// A member, at a fact of its own.
    pub(super) fn blame(
        &mut self,
        invariant: Invariant,
        spot: Spot,
        against: Option<Spot>,
        what: String,
    ) {
        let log = self.lives[spot.life].log;
        self.findings.broken(Violation {
            invariant,
            session: Some(self.session),
            party: log.name.clone(),
            at: log.facts.get(spot.fact).map(|(at, _)| *at),
            what,
            here: Some(log.site(spot.fact)),
            there: against.map(|spot| self.site(spot)),
        });
    }

    /// A member, for its whole life.
    pub(super) fn blame_life(&mut self, invariant: Invariant, life: usize, what: String) {
        let log = self.lives[life].log;
        self.findings.broken(Violation {
            invariant,
            session: Some(self.session),
            party: log.name.clone(),
            at: None,
            what,
            here: Some(log.site(0)),
            there: None,
        });
    }

    /// A relay, at a fact of its own.
    pub(super) fn blame_relay(
        &mut self,
        invariant: Invariant,
        log: &Log<RelayFact>,
        fact: usize,
        there: Option<Site>,
        what: String,
    ) {
        self.findings.broken(Violation {
            invariant,
            session: Some(self.session),
            party: log.name.clone(),
            at: log.facts.get(fact).map(|(at, _)| *at),
            what,
            here: Some(log.site(fact)),
            there,
        });
    }

    pub(super) fn blame_against(
        &mut self,
        invariant: Invariant,
        spot: Spot,
        there: Site,
        what: String,
    ) {
        let log = self.lives[spot.life].log;
        self.findings.broken(Violation {
            invariant,
            session: Some(self.session),
            party: log.name.clone(),
            at: log.facts.get(spot.fact).map(|(at, _)| *at),
            what,
            here: Some(log.site(spot.fact)),
            there: Some(there),
        });
    }

    pub(super) fn broken(&self, invariant: Invariant) -> usize {
        self.findings.0[invariant as usize].broken
    }

    pub(super) fn checked(&mut self, invariant: Invariant) {
        self.findings.checked(invariant);
    }

    pub(super) fn unchecked(&mut self, invariant: Invariant, reason: impl Into<String>) {
        self.findings.unchecked(invariant, reason.into());
    }

    /// Whether a message of this name was for `peer`, if its sender recorded it.
    pub(super) fn is_for(&self, name: Name, peer: PeerId) -> bool {
        self.messages
            .get(&name)
            .is_some_and(|origin| origin.target.includes(peer, name.mid.sender))
    }

    /// Whoever left or was removed hears nothing of what comes after.
    fn removals(&mut self) {
        // By peer: the first index that somebody who stayed was delivered after the removal.
        let mut removed: Vec<(PeerId, Index, Spot)> = Vec::new();
        for (number, life) in self.lives.iter().enumerate() {
            let mut open: BTreeMap<PeerId, Spot> = BTreeMap::new();
            for (fact, (_, said)) in life.log.facts.iter().enumerate() {
                match said {
                    Fact::Membership {
                        peer,
                        change: Change::Left,
                        ..
                    } => {
                        open.insert(*peer, Spot { life: number, fact });
                    }
                    Fact::Membership { peer, .. } => {
                        open.remove(peer);
                    }
                    Fact::Delivered(delivery) if delivery.mode == Mode::Ordered => {
                        let index = delivery.place.index;
                        let closed = std::mem::take(&mut open);
                        removed.extend(closed.into_iter().map(|(peer, spot)| (peer, index, spot)));
                    }
                    Fact::Delivered(_)
                    | Fact::Refused { .. }
                    | Fact::Joined { .. }
                    | Fact::Sent { .. }
                    | Fact::Committed { .. }
                    | Fact::Rejected { .. }
                    | Fact::Gap { .. }
                    | Fact::Resync { .. }
                    | Fact::Reconnecting
                    | Fact::Resumed
                    | Fact::Ended { .. }
                    | Fact::Standing { .. }
                    | Fact::Incomplete { .. } => {}
                }
            }
        }
        let newest: Vec<Index> = self.lives.iter().map(Life::newest).collect();
        for (peer, index, seen) in removed {
            let lives = self.lives.iter().enumerate();
            let late = lives
                .filter(|(number, life)| {
                    life.me == peer && life.joined < index && index <= newest[*number]
                })
                .find_map(|(number, life)| {
                    let mut facts = life.log.facts.iter();
                    let fact = facts.position(|(_, fact)| {
                        matches!(fact, Fact::Delivered(d) if d.mode == Mode::Ordered && d.place.index >= index)
                    })?;
                    Some(Spot { life: number, fact })
                });
            if let Some(late) = late {
                let what = format!(
                    "peer {peer} is delivered what has index {index} or more, and had left before"
                );
                self.blame(Invariant::Entitled, late, Some(seen), what);
            }
        }
    }
}

//! Whether a session kept its promises, as its members saw it.
//!
//! ```text
//!            ┌─ send, committed, rejected ─┐
//!  member 0 ─┤                             ├─▶ Judge ─▶ Verdict
//!  member 1 ─┴─ ordered, latest ───────────┘
//! ```
//!
//! Pure: it is told what happened and counts what should not have. `Ordered` is held to be lost never,
//! delivered once, and in one order for all; `Latest` to be never older than what came before; both to
//! stay within their session. A message's number is its sender's own count, so that a member knows
//! what it missed by what comes next.

mod stamp;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use dreamcatcher_proto::Index;
use serde::Serialize;

pub(crate) use stamp::Stamp;

/// Numbers that a member waits for from one sender, or that a sender was refused. In a session that
/// works there are none; past the limit the oldest is given up as lost.
const HOLES_MAX: usize = 1_024;
/// Places in the order that are remembered while not every member is past them. In a session that
/// works these are a second's worth; past the limit the oldest is forgotten, and not compared.
const ORDER_MAX: usize = 65_536;
/// Remembered places before the judge looks which of them every member is past.
const ORDER_TRIM: usize = 256;

/// Judges one session.
#[derive(Debug)]
pub(crate) struct Judge {
    session: u64,
    members: Vec<Member>,
    /// Who sent what stands at an index, as far as anybody has said.
    order: BTreeMap<Index, Mark>,
    counts: Verdict,
}

/// (sender, number): one ordered message.
type Mark = (usize, u32);

#[derive(Debug)]
struct Member {
    presence: Presence,
    sent: u32,
    /// The highest number that was committed or heard by anybody.
    known: u32,
    /// Numbers that will never be delivered, as the sender was told.
    rejected: BTreeSet<u32>,
    rejected_count: u32,
    latest_sent: u32,
    last_index: Index,
    /// What it heard from each sender.
    heard: Vec<Heard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Not joined: owed nothing.
    Outside,
    /// Owed everything that was sent.
    Inside,
    /// Ended before its time: owed what came before the last that it got.
    Gone,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    /// The highest number so far.
    last: u32,
    /// Different numbers that came.
    distinct: u64,
    /// Numbers below `last` that did not come.
    holes: BTreeSet<u32>,
    /// Holes beyond [`HOLES_MAX`].
    given_up: u64,
    last_latest: u32,
}

/// What a judge counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Ordered messages that were sent, without those that were rejected.
    pub(crate) sent: u64,
    /// Deliveries of Ordered messages that should have been: one for each member of the session.
    pub(crate) expected: u64,
    /// Deliveries of Ordered messages that were, repeats included.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    /// Deliveries that were late, or at an index at which another member saw another message.
    pub(crate) reordered: u64,
    /// Deliveries, in any mode, of what was not sent to this member in this session.
    pub(crate) leaked: u64,
    pub(crate) latest_sent: u64,
    pub(crate) latest_delivered: u64,
    /// Latest messages that were not newer than one before from the same sender.
    pub(crate) latest_older: u64,
}

impl Verdict {
    /// Whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.leaked + self.latest_older == 0
    }

    /// Messages that reached members, in all modes.
    pub(crate) fn delivered_total(&self) -> u64 {
        self.delivered + self.latest_delivered
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.leaked += other.leaked;
        self.latest_sent += other.latest_sent;
        self.latest_delivered += other.latest_delivered;
        self.latest_older += other.latest_older;
    }
}

impl Judge {
    /// A session for so many members, none of whom has joined.
    pub(crate) fn new(session: u64, members: usize) -> Self {
        let member = || Member {
            presence: Presence::Outside,
            sent: 0,
            known: 0,
            rejected: BTreeSet::new(),
            rejected_count: 0,
            latest_sent: 0,
            last_index: Index(0),
            heard: vec![Heard::default(); members],
        };
        Self {
            session,
            members: (0..members).map(|_| member()).collect(),
            order: BTreeMap::new(),
            counts: Verdict::default(),
        }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// The member is in the session. Nobody sends before all who will join have joined.
    pub(crate) fn joined(&mut self, member: usize) {
        self.members[member].presence = Presence::Inside;
    }

    /// The member's session ended before its time.
    pub(crate) fn gone(&mut self, member: usize) {
        self.members[member].presence = Presence::Gone;
    }

    /// Members whose session ended before its time.
    pub(crate) fn gone_count(&self) -> usize {
        let gone = |member: &&Member| member.presence == Presence::Gone;
        self.members.iter().filter(gone).count()
    }

    /// The number of the Ordered message that the member sends now.
    pub(crate) fn send(&mut self, member: usize) -> u32 {
        self.members[member].sent += 1;
        self.members[member].sent
    }

    /// The member was told that its message stands at `index`.
    pub(crate) fn committed(&mut self, member: usize, number: u32, index: Index) {
        let sender = &mut self.members[member];
        sender.known = sender.known.max(number);
        if !self.stands_at(index, (member, number)) {
            self.counts.reordered += 1;
        }
    }

    /// The member was told that its message will not be delivered.
    pub(crate) fn rejected(&mut self, member: usize, number: u32) {
        let sender = &mut self.members[member];
        sender.rejected_count += 1;
        insert_bounded(&mut sender.rejected, number);
        for receiver in &mut self.members {
            receiver.heard[member].holes.remove(&number);
        }
    }

    /// The number of the Latest message that the member sends now.
    pub(crate) fn send_latest(&mut self, member: usize) -> u32 {
        self.members[member].latest_sent += 1;
        self.members[member].latest_sent
    }

    /// The member got an Ordered message, with this stamp if it has one.
    pub(crate) fn ordered(&mut self, receiver: usize, index: Index, stamp: Option<Stamp>) {
        self.counts.delivered += 1;
        let Some((sender, number)) = self.own(stamp) else {
            self.counts.leaked += 1;
            return;
        };
        let sent = &mut self.members[sender];
        if number > sent.sent || sent.rejected.contains(&number) {
            self.counts.leaked += 1;
            return;
        }
        sent.known = sent.known.max(number);
        let is_late = match self.hear(receiver, (sender, number)) {
            Hearing::Again => {
                self.counts.duplicated += 1;
                return;
            }
            Hearing::Late => true,
            Hearing::InTurn => false,
        };
        let agrees = self.stands_at(index, (sender, number));
        let receiver = &mut self.members[receiver];
        if is_late || !agrees || index <= receiver.last_index {
            self.counts.reordered += 1;
        }
        receiver.last_index = receiver.last_index.max(index);
        self.forget();
    }

    /// The member got a Latest message that was sent to the others, with this stamp if it has one.
    pub(crate) fn latest(&mut self, receiver: usize, stamp: Option<Stamp>) {
        self.counts.latest_delivered += 1;
        let own = self.own(stamp);
        let meant = own.filter(|&(sender, number)| {
            sender != receiver && number <= self.members[sender].latest_sent
        });
        let Some((sender, number)) = meant else {
            self.counts.leaked += 1;
            return;
        };
        let heard = &mut self.members[receiver].heard[sender];
        if number <= heard.last_latest {
            self.counts.latest_older += 1;
        } else {
            heard.last_latest = number;
        }
    }

    /// What is known while messages are under way: lost is what later messages have overtaken.
    pub(crate) fn so_far(&self) -> Verdict {
        self.count(|heard, _sender| heard.overtaken())
    }

    /// The last word: lost is what was sent and did not come.
    pub(crate) fn verdict(&self) -> Verdict {
        self.count(Heard::missed_of)
    }

    /// Whether everything that was sent has arrived.
    pub(crate) fn is_settled(&self) -> bool {
        self.verdict().lost == 0
    }

    fn count(&self, lost: impl Fn(&Heard, &Member) -> u64) -> Verdict {
        let mut verdict = self.counts;
        for sender in &self.members {
            verdict.sent += u64::from(sender.sent - sender.rejected_count);
            verdict.latest_sent += u64::from(sender.latest_sent);
        }
        for receiver in &self.members {
            for (heard, sender) in receiver.heard.iter().zip(&self.members) {
                let lost = match receiver.presence {
                    Presence::Outside => 0,
                    Presence::Inside => lost(heard, sender),
                    Presence::Gone => heard.overtaken(),
                };
                verdict.lost += lost;
                verdict.expected += heard.distinct + lost;
            }
        }
        verdict
    }

    /// Who sent a message of this session and which one it is; `None` if it is not of this session.
    fn own(&self, stamp: Option<Stamp>) -> Option<Mark> {
        let stamp = stamp.filter(|stamp| stamp.session == self.session)?;
        let sender = usize::from(stamp.sender);
        (sender < self.members.len() && stamp.number > 0).then_some((sender, stamp.number))
    }

    fn hear(&mut self, receiver: usize, (sender, number): Mark) -> Hearing {
        // Borrowed apart: a member hears itself too.
        let rejected = std::mem::take(&mut self.members[sender].rejected);
        let heard = &mut self.members[receiver].heard[sender];
        let hearing = if number > heard.last {
            let skipped = (heard.last + 1..number).filter(|number| !rejected.contains(number));
            for hole in skipped {
                heard.given_up += u64::from(insert_bounded(&mut heard.holes, hole));
            }
            heard.last = number;
            Hearing::InTurn
        } else if heard.holes.remove(&number) {
            Hearing::Late
        } else {
            Hearing::Again
        };
        heard.distinct += u64::from(hearing != Hearing::Again);
        self.members[sender].rejected = rejected;
        hearing
    }

    /// Whether nothing else is known to stand at `index`.
    fn stands_at(&mut self, index: Index, mark: Mark) -> bool {
        *self.order.entry(index).or_insert(mark) == mark
    }

    /// Drops the places that every member is past.
    fn forget(&mut self) {
        if self.order.len() <= ORDER_TRIM {
            return;
        }
        let inside = self
            .members
            .iter()
            .filter(|member| member.presence == Presence::Inside);
        if let Some(passed) = inside.map(|member| member.last_index).min() {
            self.order = self.order.split_off(&passed.next());
        }
        while self.order.len() > ORDER_MAX {
            self.order.pop_first();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// The highest number so far.
    InTurn,
    /// After a higher one.
    Late,
    /// Not for the first time.
    Again,
}

impl Heard {
    /// What did not come though a later message did.
    fn overtaken(&self) -> u64 {
        self.holes.len() as u64 + self.given_up
    }

    /// What did not come though the sender sent it. A sender that ended before its time owes only what
    /// was committed, or what anybody heard.
    fn missed_of(&self, sender: &Member) -> u64 {
        let owed = match sender.presence {
            Presence::Outside | Presence::Inside => sender.sent - sender.rejected_count,
            Presence::Gone => {
                let rejected = sender.rejected.range(..=sender.known).count();
                sender
                    .known
                    .saturating_sub(u32::try_from(rejected).unwrap_or(u32::MAX))
            }
        };
        u64::from(owed).saturating_sub(self.distinct)
    }
}

/// Whether the lowest number had to be given up to make room.
fn insert_bounded(numbers: &mut BTreeSet<u32>, number: u32) -> bool {
    numbers.insert(number);
    numbers.len() > HOLES_MAX && numbers.pop_first().is_some()
}

#[cfg(test)]
mod tests;

//! Whether a session kept its promises, as its members saw it.
//!
//! ```text
//!            ┌─ send, committed, rejected ─┐
//!  member 0 ─┤                             ├─▶ Judge ─▶ Verdict
//!  member 1 ─┴─ heard, told of a gap ──────┘
//! ```
//!
//! Pure: it is told what happened and counts what should not have. Every message of one mode is
//! accounted for: `Ordered` is held to be lost never, delivered once, and in one order for all;
//! `Reliable` to be in its sender's order, once, and lost only where that was told; `Latest` to be never
//! older than what came before; all of them to stay within their session. `Latest` beside another mode
//! is held to the same, but what is missing of it is not counted. A message's number is its sender's own
//! count in its mode, so that a member knows what it missed by what comes next.

mod stamp;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::{Index, PeerId};
use serde::Serialize;

pub(crate) use stamp::{STAMP_BYTES, Stamp};

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
    /// The mode whose every message is accounted for.
    judged: Mode,
    members: Vec<Member>,
    /// Who sent what stands at an index, as far as anybody has said.
    order: BTreeMap<Index, Mark>,
    counts: Verdict,
}

/// (sender, number): one message of the judged mode.
type Mark = (usize, u32);

#[derive(Debug)]
struct Member {
    presence: Presence,
    peer: Option<PeerId>,
    sent: u32,
    /// Its messages up to this number are of the warm-up.
    warm_up: u32,
    /// The highest number that was committed or heard by anybody.
    known: u32,
    /// Numbers that will never be delivered, as the sender was told.
    rejected: BTreeSet<u32>,
    rejected_count: u32,
    /// Those of them that are of the warm-up.
    rejected_warm: u32,
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
    /// Those of them that are of the warm-up.
    distinct_warm: u64,
    /// Numbers below `last` that did not come.
    holes: BTreeSet<u32>,
    /// Holes beyond [`HOLES_MAX`], and those of Latest.
    given_up: u64,
    /// Messages that it was told are lost.
    told: u64,
    last_latest: u32,
}

/// What a judge counted. Those without `latest` in their name are of the judged mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Messages that were sent, without those that were rejected.
    pub(crate) sent: u64,
    /// Deliveries that should have been: one for each member that is to have the message.
    pub(crate) expected: u64,
    /// Deliveries that were, repeats included.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Those of the lost that their receiver was told of.
    #[serde(skip)]
    pub(crate) told_lost: u64,
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
    /// Whether every promise of the judged mode was kept, and those of Latest.
    pub(crate) fn is_clean(&self, judged: Mode) -> bool {
        let (lost, twice_or_late) = match judged {
            Mode::Ordered => (self.lost, self.duplicated + self.reordered),
            Mode::Reliable => (self.lost - self.told_lost, self.duplicated + self.reordered),
            Mode::Latest | Mode::Datagram => (0, 0),
        };
        lost + twice_or_late + self.leaked + self.latest_older == 0
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.told_lost += other.told_lost;
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
    pub(crate) fn new(session: u64, members: usize, judged: Mode) -> Self {
        let member = || Member {
            presence: Presence::Outside,
            peer: None,
            sent: 0,
            warm_up: 0,
            known: 0,
            rejected: BTreeSet::new(),
            rejected_count: 0,
            rejected_warm: 0,
            latest_sent: 0,
            last_index: Index(0),
            heard: vec![Heard::default(); members],
        };
        Self {
            session,
            judged,
            members: (0..members).map(|_| member()).collect(),
            order: BTreeMap::new(),
            counts: Verdict::default(),
        }
    }

    /// Leaves what each member sends before its [`Self::measure`] out of `sent`, `expected` and
    /// `delivered`. Its faults count all the same, but for what Latest and Datagram may lose.
    #[must_use]
    pub(crate) fn with_warm_up(mut self) -> Self {
        for member in &mut self.members {
            member.warm_up = u32::MAX;
        }
        self
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// The member is in the session. Nobody sends before all who will join have joined.
    pub(crate) fn joined(&mut self, member: usize, peer: PeerId) {
        let member = &mut self.members[member];
        (member.presence, member.peer) = (Presence::Inside, Some(peer));
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

    /// The member's warm-up is over.
    pub(crate) fn measure(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.warm_up = member.sent;
    }

    /// Whether this message of the member came after its warm-up.
    pub(crate) fn is_measured(&self, member: usize, number: u32) -> bool {
        number > self.members[member].warm_up
    }

    /// The number of the message of the judged mode that the member sends now.
    pub(crate) fn send(&mut self, member: usize) -> u32 {
        self.members[member].sent += 1;
        self.members[member].sent
    }

    /// The message that has the member's last number was not sent after all: the next one has it.
    pub(crate) fn unsent(&mut self, member: usize) {
        self.members[member].sent -= 1;
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
        sender.rejected_warm += u32::from(number <= sender.warm_up);
        insert_bounded(&mut sender.rejected, number);
        for receiver in &mut self.members {
            receiver.heard[member].holes.remove(&number);
        }
    }

    /// The number of the Latest message that the member sends now, beside the judged mode.
    pub(crate) fn send_latest(&mut self, member: usize) -> u32 {
        self.members[member].latest_sent += 1;
        self.members[member].latest_sent
    }

    /// The member was told that it will not get so many of a sender's Reliable messages.
    pub(crate) fn told_of_gap(&mut self, receiver: usize, sender: PeerId, missed: u32) {
        let sender = self.members.iter().position(|of| of.peer == Some(sender));
        if let Some(sender) = sender {
            self.members[receiver].heard[sender].told += u64::from(missed);
        }
    }

    /// The member got a message, with this place in the order and this stamp if it has them. Whether it
    /// is one of the judged mode that was meant for it, after its sender's warm-up.
    pub(crate) fn heard(
        &mut self,
        receiver: usize,
        mode: Mode,
        index: Option<Index>,
        stamp: Option<Stamp>,
    ) -> bool {
        if mode == self.judged {
            return self.judged(receiver, index, stamp);
        }
        // No member sends in a third mode: what comes in it has no stamp of theirs.
        self.latest(receiver, stamp.filter(|_| mode == Mode::Latest));
        false
    }

    fn judged(&mut self, receiver: usize, index: Option<Index>, stamp: Option<Stamp>) -> bool {
        let meant = self.own(stamp).filter(|&(sender, number)| {
            let sent = &self.members[sender];
            self.owes(sender, receiver) && number <= sent.sent && !sent.rejected.contains(&number)
        });
        let is_counted = meant.is_none_or(|(sender, number)| self.is_measured(sender, number));
        self.counts.delivered += u64::from(is_counted);
        let Some((sender, number)) = meant else {
            self.counts.leaked += 1;
            return false;
        };
        let sent = &mut self.members[sender];
        sent.known = sent.known.max(number);
        let hearing = self.hear(receiver, (sender, number));
        match (hearing, self.judged) {
            (Hearing::InTurn, _) => {}
            (Hearing::Late | Hearing::Again, Mode::Latest) => self.counts.latest_older += 1,
            (Hearing::Again, Mode::Ordered | Mode::Reliable | Mode::Datagram) => {
                self.counts.duplicated += 1;
            }
            (Hearing::Late, Mode::Ordered | Mode::Reliable | Mode::Datagram) => {
                self.counts.reordered += 1;
            }
        }
        if self.judged == Mode::Ordered && hearing != Hearing::Again {
            // Index 0 stands before every entry: an Ordered message without a place is out of order.
            self.placed(
                receiver,
                index.unwrap_or_default(),
                (sender, number),
                hearing,
            );
        }
        is_counted
    }

    /// Holds the place of an Ordered message against what came before, and what others saw.
    fn placed(&mut self, receiver: usize, index: Index, mark: Mark, hearing: Hearing) {
        let agrees = self.stands_at(index, mark);
        let receiver = &mut self.members[receiver];
        // What is late is counted already.
        if hearing == Hearing::InTurn && (!agrees || index <= receiver.last_index) {
            self.counts.reordered += 1;
        }
        receiver.last_index = receiver.last_index.max(index);
        self.forget();
    }

    /// The member got a Latest message that was sent to the others, with this stamp if it has one.
    fn latest(&mut self, receiver: usize, stamp: Option<Stamp>) {
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
        self.count(|heard, sender| match self.judged {
            Mode::Ordered | Mode::Reliable => heard.missed_of(sender, 0),
            Mode::Latest | Mode::Datagram => heard.missed_of(sender, sender.warm_up),
        })
    }

    /// Whether everything that was sent has arrived, or is known not to.
    pub(crate) fn is_settled(&self) -> bool {
        let Verdict {
            lost, told_lost, ..
        } = self.verdict();
        lost == told_lost
    }

    /// Messages that reached members, in all modes.
    pub(crate) fn delivered_total(&self) -> u64 {
        self.counts.delivered + self.counts.latest_delivered
    }

    /// Messages of the judged mode that were sent, whatever became of them.
    pub(crate) fn sent_total(&self) -> u64 {
        self.members.iter().map(|of| u64::from(of.sent)).sum()
    }

    fn count(&self, lost: impl Fn(&Heard, &Member) -> u64) -> Verdict {
        let mut verdict = self.counts;
        for sender in &self.members {
            let rejected = sender.rejected_count - sender.rejected_warm;
            let sent = sender.sent.saturating_sub(sender.warm_up);
            verdict.sent += u64::from(sent.saturating_sub(rejected));
            verdict.latest_sent += u64::from(sender.latest_sent);
        }
        for (to, receiver) in self.members.iter().enumerate() {
            for (from, (heard, sender)) in receiver.heard.iter().zip(&self.members).enumerate() {
                let lost = match receiver.presence {
                    _ if !self.owes(from, to) => 0,
                    Presence::Outside => 0,
                    Presence::Inside => lost(heard, sender),
                    Presence::Gone => heard.overtaken(),
                };
                verdict.lost += lost;
                verdict.told_lost += lost.min(heard.told);
                verdict.expected += heard.distinct - heard.distinct_warm + lost;
            }
        }
        if self.judged == Mode::Latest {
            (verdict.latest_sent, verdict.latest_delivered) = (verdict.sent, verdict.delivered);
        }
        verdict
    }

    /// Whether `receiver` is to have what `sender` sends in the judged mode: Ordered goes to all, the
    /// other modes to the others.
    fn owes(&self, sender: usize, receiver: usize) -> bool {
        self.judged == Mode::Ordered || sender != receiver
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
        let warm_up = self.members[sender].warm_up;
        let heard = &mut self.members[receiver].heard[sender];
        let hearing = if number > heard.last {
            let skipped = (heard.last + 1..number).filter(|number| !rejected.contains(number));
            if self.judged == Mode::Latest {
                // To fill a hole would be a fault, as it is to come again.
                heard.given_up += skipped.count() as u64;
            } else {
                for hole in skipped {
                    heard.given_up += u64::from(insert_bounded(&mut heard.holes, hole));
                }
            }
            heard.last = number;
            Hearing::InTurn
        } else if heard.holes.remove(&number) {
            Hearing::Late
        } else {
            Hearing::Again
        };
        if hearing != Hearing::Again {
            heard.distinct += 1;
            heard.distinct_warm += u64::from(number <= warm_up);
        }
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

    /// What did not come though the sender sent it, after the first `warm_up` messages. A sender that
    /// ended before its time owes only what was committed, or what anybody heard.
    fn missed_of(&self, sender: &Member, warm_up: u32) -> u64 {
        let (rejected, distinct) = if warm_up == 0 {
            (sender.rejected_count, self.distinct)
        } else {
            let rejected = sender.rejected_count - sender.rejected_warm;
            (rejected, self.distinct - self.distinct_warm)
        };
        let owed = match sender.presence {
            Presence::Outside | Presence::Inside => {
                sender.sent.saturating_sub(warm_up).saturating_sub(rejected)
            }
            Presence::Gone => {
                let first = warm_up.saturating_add(1);
                let rejected = sender.rejected.range(first..=sender.known.max(first));
                let rejected = u32::try_from(rejected.count()).unwrap_or(u32::MAX);
                sender
                    .known
                    .saturating_sub(warm_up)
                    .saturating_sub(rejected)
            }
        };
        u64::from(owed).saturating_sub(distinct)
    }
}

/// Whether the lowest number had to be given up to make room.
fn insert_bounded(numbers: &mut BTreeSet<u32>, number: u32) -> bool {
    numbers.insert(number);
    numbers.len() > HOLES_MAX && numbers.pop_first().is_some()
}

#[cfg(test)]
mod tests;

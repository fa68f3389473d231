//! A member's own view of its session: who is in it, what came last, what is still unresolved.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::handover::Handover;
use super::latest::{Count, Newest};
use super::{Event, Output, SendId, SendOptions, SessionInfo, UNRESOLVED_BYTES_MAX, Way};
use crate::control::{self, Join, JoinBy, Joined, Resume, SessionEvent};
use crate::error::{Error, ErrorCode};
use crate::frame::{
    Ack, Attachment, ClientFrame, Deliver, Message, Mode, Place, Publish, SESSION_CHANNEL, Skip,
};
use crate::id::{Epoch, Index, Mid, PeerId, Seq};
use crate::limits;

/// Members of one session, and senders that are remembered.
const ROSTER_MAX: usize = limits::TARGETS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Live,
    /// Without a way to the session. The seat is held `until` then; a refused resume is tried
    /// `again`.
    Away {
        until: Instant,
        again: Option<Instant>,
    },
    /// The resume is asked for.
    Resuming {
        request: u64,
        deadline: Instant,
        until: Instant,
    },
    /// The game wants to go: `asked` once its sends are resolved.
    Leaving {
        asked: Option<u64>,
        deadline: Instant,
    },
}

#[derive(Debug)]
pub(super) struct Seat {
    pub(super) info: SessionInfo,
    pub(super) phase: Phase,
    pub(super) away_because: Option<Error>,
    /// 0 while away: no frame matches it.
    pub(super) attachment: Attachment,
    pub(super) roster: BTreeMap<PeerId, control::Member>,
    /// Counts the connections of this incarnation; 0 is the one that joined.
    attempt: u32,
    /// Of the newest entry.
    pub(super) place: Place,
    /// Under which epoch it was ordered; 0 before the first.
    last_epoch: Epoch,
    acked: Index,
    ack_due: Option<Instant>,
    /// Payload of the entries since the last acknowledgement.
    unacked_bytes: usize,
    /// How long the relay holds the seat.
    pub(super) rejoin_hold: Duration,
    /// Last seq per mode.
    sent: [Seq; 4],
    pub(super) unresolved: VecDeque<Message>,
    unresolved_bytes: usize,
    senders: BTreeMap<PeerId, Sender>,
    /// While it moves to another relay.
    pub(super) handover: Option<Handover>,
    /// A move came to nothing after the next relay was asked: it may have taken the seat.
    pub(super) asked_elsewhere: bool,
}

/// What is remembered of a sender.
#[derive(Debug, Default)]
struct Sender {
    latest: Newest,
    reliable: Count,
    /// Reliable messages received or told to be missing, for the owner to compare on resume.
    reliable_count: u32,
}

impl Seat {
    pub(super) fn new(joined: Joined) -> Self {
        let place = Place {
            epoch: joined.epoch,
            index: joined.index,
        };
        Self {
            info: SessionInfo {
                id: joined.session,
                code: joined.code,
                home_region: joined.home_region,
                peer: joined.peer,
                incarnation: joined.incarnation,
                joined_at: joined.index,
                max_players: joined.max_players,
                name: joined.name,
                owner: joined.owner,
            },
            phase: Phase::Live,
            away_because: None,
            attachment: joined.attachment,
            roster: joined
                .roster
                .into_iter()
                .map(|member| (member.peer, member))
                .collect(),
            attempt: 0,
            place,
            last_epoch: Epoch(0),
            acked: joined.index,
            ack_due: None,
            unacked_bytes: 0,
            rejoin_hold: joined.rejoin_hold,
            sent: [Seq(0); 4],
            unresolved: VecDeque::new(),
            unresolved_bytes: 0,
            senders: BTreeMap::new(),
            handover: None,
            asked_elsewhere: false,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Live => None,
            Phase::Away { until, again } => Some(again.map_or(until, |again| again.min(until))),
            Phase::Resuming {
                deadline, until, ..
            } => Some(deadline.min(until)),
            Phase::Leaving { deadline, .. } => Some(deadline),
        };
        phase.into_iter().chain(self.ack_due).min()
    }

    // ---------------------------------------------------------------------------------- sending

    pub(super) fn send(
        &mut self,
        options: SendOptions,
        payload: Bytes,
        outputs: &mut VecDeque<Output>,
    ) -> Result<SendId, Error> {
        self.check(&options, &payload)?;
        let SendOptions {
            mode,
            target,
            channel,
            key,
        } = options;
        let seq = self.sent[mode as usize].next();
        self.sent[mode as usize] = seq;
        let message = Message {
            mode,
            channel,
            seq,
            target,
            key,
            payload,
        };
        if mode == Mode::Ordered {
            self.unresolved_bytes += message.payload.len();
            self.unresolved.push_back(message.clone());
        }
        if let (Mode::Reliable, Some(handover)) = (mode, &mut self.handover) {
            handover.keep(&message);
        }
        if self.phase == Phase::Live {
            outputs.push_back(self.publish(message));
        }
        Ok(SendId { mode, seq })
    }

    fn check(&self, options: &SendOptions, payload: &Bytes) -> Result<(), Error> {
        let argument = |message: String| Err(Error::new(ErrorCode::InvalidArgument, message));
        let SendOptions {
            mode,
            target,
            channel,
            key,
        } = options;
        if let Phase::Leaving { .. } = self.phase {
            return Err(Error::new(
                ErrorCode::InvalidState,
                "the session is being left",
            ));
        }
        if *channel >= limits::CHANNELS {
            return argument(format!(
                "channel is {channel}; it must be 0–{}",
                limits::CHANNELS - 1
            ));
        }
        if *key != 0 && *mode != Mode::Latest {
            return argument(format!("key is {key}; only Latest messages have one"));
        }
        if payload.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(Error::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "the payload has {} bytes; at most {} fit, so send it in parts",
                    payload.len(),
                    limits::PAYLOAD_BYTES_MAX
                ),
            ));
        }
        match target.named() {
            [] if matches!(target, crate::frame::Target::Peers(_)) => {
                return argument("target names no peer; name at least one".to_owned());
            }
            named if named.len() > limits::TARGETS_MAX => {
                return argument(format!(
                    "target names {} peers; at most {}, or send to All",
                    named.len(),
                    limits::TARGETS_MAX
                ));
            }
            named => {
                if let Some(absent) = named.iter().find(|peer| !self.knows(**peer)) {
                    let message = format!("peer {absent} is not a member of the session");
                    return Err(Error::new(ErrorCode::PeerNotFound, message));
                }
            }
        }
        if self.sent[*mode as usize].next() == self.sent[*mode as usize] {
            let message = format!(
                "every number for {} messages is used; join anew",
                mode.name()
            );
            return Err(Error::new(ErrorCode::InvalidState, message));
        }
        match mode {
            Mode::Ordered => self.check_unresolved(payload.len()),
            Mode::Reliable if self.phase != Phase::Live => Err(ErrorCode::NotConnected.into()),
            Mode::Reliable | Mode::Latest | Mode::Datagram => Ok(()),
        }
    }

    fn check_unresolved(&self, bytes: usize) -> Result<(), Error> {
        if self.unresolved.len() >= limits::UNRESOLVED_SENDS_MAX {
            let message = format!(
                "{} Ordered sends wait for their place, the most there can be; wait for Committed",
                limits::UNRESOLVED_SENDS_MAX
            );
            return Err(Error::new(ErrorCode::TooManyUnresolved, message));
        }
        if self.unresolved_bytes + bytes > UNRESOLVED_BYTES_MAX {
            let message = format!(
                "{} bytes of Ordered sends wait for their place; at most {UNRESOLVED_BYTES_MAX} can, \
                 wait for Committed",
                self.unresolved_bytes
            );
            return Err(Error::new(ErrorCode::TooManyUnresolved, message));
        }
        Ok(())
    }

    pub(super) fn publish(&self, message: Message) -> Output {
        let way = match message.mode {
            Mode::Ordered => Way::Control,
            Mode::Reliable => Way::Bulk,
            Mode::Latest | Mode::Datagram => Way::Datagram,
        };
        let attachment = self.attachment;
        Output::Send {
            way,
            frame: ClientFrame::Publish(Publish {
                attachment,
                message,
            }),
        }
    }

    // -------------------------------------------------------------------------------- receiving

    pub(super) fn deliver(
        &mut self,
        deliver: Deliver,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) -> Result<(), Error> {
        let Deliver {
            mid,
            mode,
            channel,
            place,
            key,
            payload,
            ..
        } = deliver;
        let count = (mid.incarnation, mid.seq);
        let is_new = match mode {
            Mode::Ordered => self.enter(place, payload.len(), now)?,
            Mode::Latest => self.sender(mid.sender).latest.admit(key, count),
            Mode::Reliable => {
                let sender = self.sender(mid.sender);
                let is_new = count > sender.reliable;
                if is_new {
                    sender.reliable = count;
                    sender.reliable_count = sender.reliable_count.saturating_add(1);
                    self.count_handed_over(mid.sender, 1);
                }
                is_new
            }
            Mode::Datagram => true,
        };
        if !is_new {
            return Ok(());
        }
        if channel == SESSION_CHANNEL {
            self.membership(SessionEvent::decode(payload)?, outputs)?;
        } else {
            outputs.push_back(Output::Event(Event::Message {
                sender: mid.sender,
                incarnation: mid.incarnation,
                seq: mid.seq,
                mode,
                channel,
                key,
                payload,
                index: (mode == Mode::Ordered).then_some(place.index),
                epoch: place.epoch,
            }));
        }
        if mode == Mode::Ordered {
            self.committed(mid, place.index, outputs);
            self.acknowledge_if_due(outputs, now);
        }
        Ok(())
    }

    pub(super) fn skip(
        &mut self,
        skip: Skip,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) -> Result<(), Error> {
        if self.enter(skip.place, 0, now)? {
            self.committed(skip.mid, skip.place.index, outputs);
            self.acknowledge_if_due(outputs, now);
        }
        Ok(())
    }

    /// Whether the entry at this place is new; notes it if so. It must be the next one.
    fn enter(&mut self, place: Place, bytes: usize, now: Instant) -> Result<bool, Error> {
        if place.index <= self.place.index {
            return Ok(false);
        }
        if place.index != self.place.index.next() {
            let message = format!("entry {} came after {}", place.index, self.place.index);
            return Err(Error::new(ErrorCode::Resync, message));
        }
        if place.epoch < self.place.epoch {
            let message = format!("epoch {} came after {}", place.epoch, self.place.epoch);
            return Err(Error::new(ErrorCode::Resync, message));
        }
        self.place = place;
        self.last_epoch = place.epoch;
        self.unacked_bytes += bytes;
        self.ack_due = self.ack_due.or(Some(now + limits::ACK_DELAY));
        Ok(true)
    }

    fn membership(
        &mut self,
        event: SessionEvent,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Error> {
        let event = match event {
            SessionEvent::Joined(member) => {
                if self.roster.len() >= ROSTER_MAX && !self.roster.contains_key(&member.peer) {
                    let message = format!("the session has more than {ROSTER_MAX} members");
                    return Err(Error::new(ErrorCode::Resync, message));
                }
                self.roster.insert(member.peer, member.clone());
                Event::PeerJoined(member)
            }
            SessionEvent::Dropped { peer } => {
                if let Some(member) = self.roster.get_mut(&peer) {
                    member.connected = false;
                }
                Event::PeerDropped(peer)
            }
            SessionEvent::Rejoined { peer, incarnation } => {
                if let Some(member) = self.roster.get_mut(&peer) {
                    member.connected = true;
                    member.incarnation = incarnation;
                }
                Event::PeerRejoined(peer)
            }
            SessionEvent::Refused {
                peer,
                incarnation,
                seq,
                code,
                absent,
            } => {
                if (peer, incarnation) == (self.info.peer, self.info.incarnation) {
                    let send = SendId {
                        mode: Mode::Ordered,
                        seq,
                    };
                    let error = Error::new(code, format!("peer {absent} is not a member"));
                    self.rejected(send, error, outputs);
                }
                return Ok(());
            }
            SessionEvent::Left { peer, code } => {
                self.senders.remove(&peer);
                let member = self.roster.remove(&peer);
                let display_name = member.map(|member| member.display_name).unwrap_or_default();
                Event::PeerLeft {
                    peer,
                    display_name,
                    code,
                }
            }
        };
        outputs.push_back(Output::Event(event));
        Ok(())
    }

    /// If the entry is the member's own, its send is resolved.
    fn committed(&mut self, mid: Mid, index: Index, outputs: &mut VecDeque<Output>) {
        if mid.sender != self.info.peer || mid.incarnation != self.info.incarnation {
            return;
        }
        if self.resolve(mid.seq) {
            let send = SendId {
                mode: Mode::Ordered,
                seq: mid.seq,
            };
            outputs.push_back(Output::Event(Event::Committed { send, index }));
        }
    }

    pub(super) fn rejected(&mut self, send: SendId, error: Error, outputs: &mut VecDeque<Output>) {
        if send.mode != Mode::Ordered || self.resolve(send.seq) {
            outputs.push_back(Output::Event(Event::Rejected { send, error }));
        }
    }

    fn resolve(&mut self, seq: Seq) -> bool {
        let at = self
            .unresolved
            .binary_search_by_key(&seq, |message| message.seq);
        let Some(message) = at.ok().and_then(|at| self.unresolved.remove(at)) else {
            return false;
        };
        self.unresolved_bytes -= message.payload.len();
        true
    }

    pub(super) fn acknowledge_if_due(&mut self, outputs: &mut VecDeque<Output>, now: Instant) {
        let many = self.place.index.0 - self.acked.0 >= limits::ACK_EVERY_ENTRIES
            || self.unacked_bytes >= limits::ACK_EVERY_BYTES;
        if !many && self.ack_due.is_none_or(|due| due > now) {
            return;
        }
        (self.ack_due, self.unacked_bytes) = (None, 0);
        if self.attachment != Attachment(0) && self.acked != self.place.index {
            self.acked = self.place.index;
            let frame = ClientFrame::Ack(Ack {
                attachment: self.attachment,
                index: self.acked,
            });
            outputs.push_back(Output::Send {
                way: Way::Control,
                frame,
            });
        }
    }

    /// Reliable messages of the sender are lost, and the member has been told so.
    pub(super) fn count_missed(&mut self, peer: PeerId, missed: u32) {
        let sender = self.sender(peer);
        sender.reliable_count = sender.reliable_count.saturating_add(missed);
        self.count_handed_over(peer, missed);
    }

    fn count_handed_over(&mut self, sender: PeerId, messages: u32) {
        if let Some(handover) = &mut self.handover {
            handover.count(sender, messages);
        }
    }

    /// Whether a gap is not told yet, because the former relay may bring what is missing.
    pub(super) fn defers_gap(&mut self, sender: PeerId, missed: u32) -> bool {
        let handover = self.handover.as_mut();
        handover.is_some_and(|handover| handover.defers_gap(sender, missed))
    }

    // --------------------------------------------------------------------------------- resuming

    /// The connection is lost; the seat is held `until` then.
    pub(super) fn detach(&mut self, error: Error, until: Instant) {
        self.phase = Phase::Away { until, again: None };
        self.away_because = Some(error);
        self.attachment = Attachment(0);
        self.ack_due = None;
        self.handover = None;
    }

    /// There is a new connection to resume over: of all that ask for this seat, the newest wins.
    pub(super) fn count_connection(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
    }

    pub(super) fn resume(&self) -> Join {
        let home_region = Some(self.info.home_region.clone()).filter(|region| !region.is_empty());
        let counted = self
            .senders
            .iter()
            .filter(|(_, sender)| sender.reliable_count > 0);
        Join {
            by: JoinBy::Session {
                id: self.info.id,
                home_region,
            },
            app_version: String::new(),
            resume: Some(Resume {
                peer: self.info.peer,
                incarnation: self.info.incarnation,
                last_index: self.place.index,
                reliable: counted
                    .filter(|(peer, _)| self.roster.contains_key(peer))
                    .map(|(&peer, sender)| (peer, sender.reliable_count))
                    .collect(),
                attempt: self.attempt,
                last_epoch: self.last_epoch,
                reliable_sent: self.sent[Mode::Reliable as usize],
            }),
        }
    }

    /// Whether this `Joined` is about this seat: the answer to its resume, or, unasked, the relay's
    /// word that it has restored the way to the owner.
    pub(super) fn is_taken_up_by(&self, number: u64, joined: &Joined) -> bool {
        let asked = match self.phase {
            Phase::Resuming { .. } => true,
            Phase::Live | Phase::Leaving { .. } => number == 0,
            Phase::Away { .. } => false,
        };
        let info = &self.info;
        asked
            && (joined.session, joined.peer, joined.incarnation)
                == (info.id, info.peer, info.incarnation)
    }

    /// Goes on where the seat was left: what the owner has not seen is sent again, in order.
    pub(super) fn take_up(
        &mut self,
        joined: &Joined,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) {
        self.attachment = joined.attachment;
        self.away_because = None;
        if let Phase::Resuming { .. } = self.phase {
            self.phase = Phase::Live;
        }
        // The owner may be behind what was acknowledged to the former connection.
        self.acked = joined.index.min(self.acked);
        self.ack_due = (self.acked != self.place.index).then_some(now + limits::ACK_DELAY);
        let unseen = self
            .unresolved
            .iter()
            .filter(|message| message.seq > joined.ordered_seen);
        let again: Vec<Output> = unseen
            .cloned()
            .map(|message| self.publish(message))
            .collect();
        outputs.extend(again);
    }

    // ---------------------------------------------------------------------------------- helpers

    fn knows(&self, peer: PeerId) -> bool {
        peer == self.info.peer || self.roster.contains_key(&peer)
    }

    /// What is remembered of a sender. Unreliable messages can outrun or outlive their sender's
    /// membership: strangers are forgotten first.
    fn sender(&mut self, peer: PeerId) -> &mut Sender {
        if self.senders.len() >= 2 * ROSTER_MAX && !self.senders.contains_key(&peer) {
            let roster = &self.roster;
            self.senders.retain(|known, _| roster.contains_key(known));
        }
        self.senders.entry(peer).or_default()
    }
}

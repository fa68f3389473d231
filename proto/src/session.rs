//! The owner's state machine: it gives each Ordered message its place and tells the gateways.
//!
//! ```text
//!   gateway 1 ──Join, Forward, Leave──▶ ┌─────────┐ ──Joined, Fanout──▶ gateway 1
//!   gateway 2 ──Forward───────────────▶ │ Session │ ──Fanout──────────▶ gateway 2
//!   standby ────Stored────────────────▶ │         │ ──Sync, Store─────▶ standby
//!                                       └─────────┘ ──Listing, Closed─▶ directory
//! ```
//!
//! * An entry gets the next index; indexes never have holes.
//! * A sender's Ordered messages are taken in the order of their seq: a repeated one is dropped, one
//!   that comes after a hole too (its sender sends both again when it resumes).
//! * A member that is gone keeps its seat for `rejoin_hold`; entries are retained meanwhile, as far
//!   as the limits reach.
//! * Of a member's connections the newest has the seat, by the member's own count of them: a gateway
//!   that restores the way of an older one is refused.
//! * A frame counts only if it comes through the gateway that the member is attached to.
//! * A member that comes back is caught up in portions, each sent when it has acknowledged half of the
//!   one before: what waits on its way never grows with what it missed. Entries that are made
//!   meanwhile reach it as part of that.
//! * Reliable messages that a member could not receive are counted, and told when it is back.
//! * Nothing that follows from an entry leaves before the standby has stored it: what leaves waits in
//!   `held`, in order, behind the newest entry of its time. Latest and Datagram messages never wait.

mod copies;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::control::{
    Failure, Joined, LinkMessage, Member, MemberKey, Resume, SessionEvent, SessionOptions, User,
};
use crate::error::{Error, ErrorCode};
use crate::frame::{
    Attachment, Fanout, Forward, LinkAck, LinkFrame, Message, Mode, Place, SESSION_CHANNEL, Target,
};
use crate::id::{BootId, Epoch, Incarnation, Index, JoinCode, NodeId, PeerId, Seq, SessionId};
use crate::limits;
use crate::retained::Retained;
use crate::standby::Log;
use crate::state::{SeatState, SessionState};

use copies::Copies;

/// What is fixed for a session's life under one owner.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub id: SessionId,
    pub home_region: String,
    pub options: SessionOptions,
    pub epoch: Epoch,
    /// Tells two equal epochs apart.
    pub nonce: u64,
    pub code: Option<JoinCode>,
    /// The node that runs this state machine.
    pub owner: NodeId,
    pub owner_boot: BootId,
}

/// One thing that happened. `gateway` is the node it came from.
#[derive(Debug)]
pub enum Input {
    Join {
        gateway: NodeId,
        request: u64,
        user: User,
        app_version: String,
        resume: Option<Resume>,
    },
    Forward {
        gateway: NodeId,
        forward: Forward,
    },
    Ack {
        gateway: NodeId,
        ack: LinkAck,
    },
    Leave {
        gateway: NodeId,
        member: MemberKey,
    },
    /// The gateway lost the member's connection.
    Dropped {
        gateway: NodeId,
        member: MemberKey,
    },
    /// The link to the gateway broke, and with it the way to every member there.
    GatewayLost {
        gateway: NodeId,
    },
    /// A standby has every entry up to this one.
    Stored {
        node: NodeId,
        epoch: Epoch,
        index: Index,
    },
    /// Somebody claims the session under a higher epoch: it is not ordered here any longer.
    Sealed {
        epoch: Epoch,
        owner: Option<NodeId>,
    },
    /// The session ends now, for everyone.
    Close {
        error: Error,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    ToGateway {
        gateway: NodeId,
        frame: LinkFrame,
    },
    ToStandby {
        node: NodeId,
        frame: LinkFrame,
    },
    /// The node has everything that has left, and can be made the standby.
    Copied {
        node: NodeId,
    },
    /// The number of taken seats changed.
    Listing {
        players: u16,
    },
    /// The session is over; nothing comes after this.
    Closed,
    /// The session goes on elsewhere; nothing comes after this.
    Deposed,
}

/// What the owner counts, since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub ordered: u64,
    pub fanouts: u64,
    pub duplicates: u64,
    pub resumes: u64,
    pub rejected: u64,
}

/// One session, on the node that owns it.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    index: Index,
    seats: BTreeMap<PeerId, Seat>,
    last_peer: PeerId,
    retained: Retained,
    copies: Copies,
    /// What waits for the standby to have stored the entry.
    held: VecDeque<(Index, Output)>,
    /// When a session without seats ends.
    empty_until: Option<Instant>,
    closed: bool,
    counters: Counters,
    outputs: VecDeque<Output>,
}

/// One player's place.
#[derive(Debug)]
struct Seat {
    user: User,
    incarnation: Incarnation,
    presence: Presence,
    /// The newest connection of this life that has taken the seat up.
    attempt: u32,
    /// The newest entry when this life began; what is older is not for it.
    joined_at: Index,
    ordered_seen: Seq,
    reliable_seen: Seq,
    acked: Index,
    /// Nothing is known yet of its Reliable messages: the owner before had counted them.
    recovered: bool,
    /// Senders of whom it may have lost Reliable messages with the owner before, nobody knows how many;
    /// and the newest entry when it was told. It is told again until it has had a later one.
    unsure_of: BTreeMap<PeerId, Index>,
    /// Per sender, what this member must have counted when it resumes.
    reliable_sent: BTreeMap<PeerId, Sent>,
    /// While older entries are still on their way to a member that has come back.
    catching_up: Option<CatchingUp>,
}

/// How far a member is that has come back.
#[derive(Clone, Copy, Debug)]
struct CatchingUp {
    /// The newest entry that was sent to it.
    sent: Index,
    /// The next portion follows once it has acknowledged this one.
    more_at: Index,
}

/// Reliable messages of one sender that were meant for a member.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// Messages sent to the member, and those told to it as missing.
    count: u32,
    /// The entry that says that the sender has left; a member that has seen it counts no longer.
    left: Option<Index>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Presence {
    At(NodeId),
    Held {
        until: Instant,
    },
    /// Since the session has a new owner: its gateway brings it back, unless that is gone as well.
    Awaited {
        until: Instant,
    },
}

/// A seat, as `/debug/sessions` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatView {
    pub peer: PeerId,
    /// `None` while the seat is held for an absent member.
    pub gateway: Option<NodeId>,
    pub acked: Index,
}

impl Session {
    /// A session without members; the creator joins it like anyone else.
    #[must_use]
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        let empty_until = now + config.options.empty_ttl.max(Self::FIRST_JOIN);
        Self {
            config,
            index: Index(0),
            seats: BTreeMap::new(),
            last_peer: PeerId::SESSION,
            retained: Retained::default(),
            copies: Copies::alone(),
            held: VecDeque::new(),
            empty_until: Some(empty_until),
            closed: false,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// A session that another node ordered before. Nothing leaves it before [`Self::installed`].
    #[must_use]
    pub fn restore(config: SessionConfig, log: Log, now: Instant) -> Self {
        let Log { state, retained } = log;
        let until = now + Self::BACK_WITHIN;
        let held = Presence::Held {
            until: now + config.options.rejoin_hold,
        };
        let seats = state.seats.into_iter().map(|(peer, seat)| {
            let presence = if seat.connected {
                Presence::Awaited { until }
            } else {
                held.clone()
            };
            (peer, Seat::recovered(seat, presence))
        });
        let mut session = Self {
            index: state.index,
            seats: seats.collect(),
            last_peer: state.last_peer,
            retained,
            copies: Copies::unknown(),
            empty_until: None,
            ..Self::new(config, now)
        };
        session.settle_emptiness(now);
        session
    }

    /// An `empty_ttl` of zero still lets the creator in.
    const FIRST_JOIN: Duration = Duration::from_secs(1);
    /// After a takeover, how long members have before the others are told that they are away.
    const BACK_WITHIN: Duration = limits::OWNER_LOST_AFTER;

    /// What of the session outlives its owner.
    #[must_use]
    pub fn state(&self) -> SessionState {
        let seats = self.seats.iter().map(|(&peer, seat)| {
            let state = SeatState {
                user: seat.user.clone(),
                incarnation: seat.incarnation,
                connected: !matches!(seat.presence, Presence::Held { .. }),
                joined_at: seat.joined_at,
                ordered_seen: seat.ordered_seen,
            };
            (peer, state)
        });
        SessionState {
            home_region: self.config.home_region.clone(),
            options: self.config.options.clone(),
            code: self.config.code,
            index: self.index,
            last_peer: self.last_peer,
            seats: seats.collect(),
        }
    }

    /// The directory has given the join code to another session, or taken it back: those who join
    /// from here on are told what holds now.
    pub fn set_code(&mut self, code: Option<JoinCode>) {
        self.config.code = code;
    }

    /// Whether a member is still being sent what it missed.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.seats.values().any(|seat| seat.catching_up.is_some())
    }

    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The place of the newest entry.
    #[must_use]
    pub fn index(&self) -> Index {
        self.index
    }

    /// Seats taken, present or held.
    #[must_use]
    pub fn players(&self) -> u16 {
        self.seats.len() as u16
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn seats(&self) -> impl Iterator<Item = SeatView> + '_ {
        self.seats.iter().map(|(&peer, seat)| SeatView {
            peer,
            gateway: match &seat.presence {
                Presence::At(gateway) => Some(gateway.clone()),
                Presence::Held { .. } | Presence::Awaited { .. } => None,
            },
            acked: seat.acked,
        })
    }

    /// Takes one thing that happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.closed {
            return;
        }
        match input {
            Input::Join {
                gateway,
                request,
                user,
                app_version,
                resume,
            } => {
                let answer = match resume {
                    Some(resume) => self.resume(&gateway, request, &user, &resume, now),
                    None => self.join(&gateway, request, user, &app_version, now),
                };
                if let Err(error) = answer {
                    self.refuse(gateway, request, error);
                }
            }
            Input::Forward { gateway, forward } => self.forward(&gateway, forward),
            Input::Ack { gateway, ack } => {
                if let Some(seat) = self.seats.get_mut(&ack.peer)
                    && seat.presence == Presence::At(gateway)
                {
                    let index = ack.index.min(self.index);
                    seat.acknowledge(index);
                    if seat.catching_up.is_some_and(|at| index >= at.more_at) {
                        self.catch_up(ack.peer);
                    }
                }
            }
            Input::Leave { gateway, member } => {
                // The way may have broken after the member went: a held seat is given up as well.
                if self.is_at(&gateway, member) || self.is_held(member) {
                    self.give_up_seat(member.peer, ErrorCode::Ok, now);
                }
            }
            Input::Dropped { gateway, member } => {
                if self.is_at(&gateway, member) {
                    self.hold_seats(&[member.peer], now);
                }
            }
            Input::GatewayLost { gateway } => {
                let there = Presence::At(gateway);
                let gone: Vec<PeerId> = self
                    .seats
                    .iter()
                    .filter(|(_, seat)| seat.presence == there)
                    .map(|(&peer, _)| peer)
                    .collect();
                self.hold_seats(&gone, now);
            }
            Input::Stored { node, epoch, index } => {
                if epoch == self.config.epoch {
                    self.stored(&node, index, now);
                }
            }
            Input::Sealed { epoch, owner } => {
                if epoch > self.config.epoch {
                    self.depose(owner);
                }
            }
            Input::Close { error } => self.close(error),
        }
    }

    /// Lets due timers fire.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        self.call_off_if_due(now);
        let absent: Vec<PeerId> = self
            .seats
            .iter()
            .filter(
                |(_, seat)| matches!(seat.presence, Presence::Awaited { until } if until <= now),
            )
            .map(|(&peer, _)| peer)
            .collect();
        self.hold_seats(&absent, now);
        let expired: Vec<PeerId> = self
            .seats
            .iter()
            .filter(|(_, seat)| matches!(seat.presence, Presence::Held { until } if until <= now))
            .map(|(&peer, _)| peer)
            .collect();
        for peer in expired {
            self.give_up_seat(peer, ErrorCode::RejoinExpired, now);
        }
        if self.empty_until.is_some_and(|until| until <= now) {
            self.close(ErrorCode::SessionClosed.into());
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let held = self.seats.values().filter_map(|seat| match seat.presence {
            Presence::Held { until } | Presence::Awaited { until } => Some(until),
            Presence::At(_) => None,
        });
        held.chain(self.empty_until)
            .chain(self.called_off_at())
            .min()
    }

    // ------------------------------------------------------------------------------- membership

    fn join(
        &mut self,
        gateway: &NodeId,
        request: u64,
        user: User,
        app_version: &str,
        now: Instant,
    ) -> Result<(), Error> {
        let wanted = &self.config.options.app_version;
        if !wanted.is_empty() && wanted != app_version {
            return Err(Error::new(
                ErrorCode::VersionMismatch,
                format!("the session runs app_version {wanted:?}, this client {app_version:?}"),
            ));
        }
        match self
            .seats
            .iter()
            .find(|(_, seat)| seat.user.id == user.id)
            .map(|(&peer, _)| peer)
        {
            Some(peer) => self.take_over_seat(gateway, request, user, peer),
            None => self.take_new_seat(gateway, request, user),
        }?;
        self.settle_emptiness(now);
        Ok(())
    }

    fn take_new_seat(&mut self, gateway: &NodeId, request: u64, user: User) -> Result<(), Error> {
        let max = self.config.options.max_players;
        if self.players() >= max {
            return Err(Error::new(
                ErrorCode::SessionFull,
                format!("all {max} seats are taken"),
            ));
        }
        let peer = self.last_peer.next();
        if peer == self.last_peer {
            return Err(Error::new(
                ErrorCode::SessionFull,
                "the session has no peer ids left; create a new one",
            ));
        }
        self.last_peer = peer;
        let seat = Seat::new(user, Incarnation(1), gateway.clone(), self.index);
        let member = seat.member(peer);
        self.answer_joined(gateway, request, peer, &seat);
        self.seats.insert(peer, seat);
        self.tell(SessionEvent::Joined(member));
        self.outputs.push_back(Output::Listing {
            players: self.players(),
        });
        Ok(())
    }

    /// The same user joins anew: the newest connection wins the seat.
    fn take_over_seat(
        &mut self,
        gateway: &NodeId,
        request: u64,
        user: User,
        peer: PeerId,
    ) -> Result<(), Error> {
        let old = self
            .seats
            .get(&peer)
            .map(|seat| (seat.incarnation, seat.presence.clone()));
        let Some((incarnation, presence)) = old else {
            return Err(ErrorCode::Internal.into());
        };
        if incarnation.next() == incarnation {
            return Err(Error::new(
                ErrorCode::SessionFull,
                "the seat was taken too often; create a new session",
            ));
        }
        if let Presence::At(old_gateway) = presence {
            let member = MemberKey {
                session: self.config.id,
                peer,
                incarnation,
            };
            let ended = LinkMessage::Ended {
                member,
                error: ErrorCode::ReplacedByNewConnection.into(),
                can_rejoin: false,
            };
            self.send_with_next(old_gateway, ended);
        }
        let seat = Seat::new(user, incarnation.next(), gateway.clone(), self.index);
        self.answer_joined(gateway, request, peer, &seat);
        self.seats.insert(peer, seat);
        self.tell(SessionEvent::Rejoined {
            peer,
            incarnation: incarnation.next(),
        });
        Ok(())
    }

    fn resume(
        &mut self,
        gateway: &NodeId,
        request: u64,
        user: &User,
        resume: &Resume,
        now: Instant,
    ) -> Result<(), Error> {
        let newest = self.index;
        let expired = || {
            Error::new(
                ErrorCode::RejoinExpired,
                "the seat is not held any longer; join anew",
            )
        };
        let seat = self
            .seats
            .get_mut(&resume.peer)
            .filter(|seat| seat.user.id == user.id && seat.incarnation == resume.incarnation)
            .ok_or_else(expired)?;
        if resume.attempt < seat.attempt {
            // Of an old connection, whose gateway may not know yet that it is over.
            return Err(Error::new(
                ErrorCode::ReplacedByNewConnection,
                format!(
                    "resume.attempt is {}; the member has come back with {} since",
                    resume.attempt, seat.attempt
                ),
            ));
        }
        let is_this_epoch = resume.last_epoch == self.config.epoch;
        if resume.last_index > newest && resume.last_epoch.0 != 0 && !is_this_epoch {
            // Of an owner whose end nobody has.
            return Err(diverged(resume));
        }
        if !(seat.joined_at..=newest).contains(&resume.last_index) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "resume.last_index is {}; it must be {}–{newest}, from the index that the member joined at \
                     to the newest entry",
                    resume.last_index, seat.joined_at
                ),
            ));
        }
        let ordered = self.retained.epoch_of(resume.last_index);
        if ordered.is_some_and(|epoch| resume.last_epoch.0 != 0 && epoch != resume.last_epoch) {
            // It has seen an entry that is not part of this history.
            return Err(diverged(resume));
        }
        seat.attempt = resume.attempt;
        let before = std::mem::replace(&mut seat.presence, Presence::At(gateway.clone()));
        let is_recovered = std::mem::take(&mut seat.recovered);
        if is_recovered {
            seat.reliable_seen = resume.reliable_sent;
            for &(sender, count) in &resume.reliable {
                seat.count_reliable(sender, count);
            }
        }
        let mut gaps = seat.missing(resume);
        self.counters.resumes += 1;

        let peer = resume.peer;
        for (&sender, told) in &mut seat.unsure_of {
            *told = newest;
            gaps.push((sender, 0));
        }
        if is_recovered && resume.reliable_sent > Seq(0) {
            // What the owner before had of these, and passed on, is not known: neither of those who
            // are here nor of those who come back later. It may have been for the sender, too.
            gaps.push((peer, 0));
            for (_, other) in self.seats.iter_mut().filter(|(of, _)| **of != peer) {
                other.unsure_of.insert(peer, newest);
            }
            self.tell_gap(peer, 0);
        }
        if let Presence::At(old) = &before
            && old != gateway
        {
            // A gateway tells apart two connections that resume the same life of a member by itself.
            self.end_member(
                old.clone(),
                peer,
                resume.incarnation,
                ErrorCode::ReplacedByNewConnection,
            );
        }
        let first_retained = self.retained.first(newest);
        let continuous = resume.last_index.next() >= first_retained;
        let from = if continuous {
            resume.last_index
        } else {
            newest
        };
        self.answer_resumed(gateway, request, peer, from, continuous);
        for (sender, missed) in gaps {
            let session = self.config.id;
            self.send(
                gateway,
                LinkMessage::ReliableGap {
                    session,
                    peer,
                    sender,
                    missed,
                },
            );
        }
        if let Some(seat) = self.seats.get_mut(&peer) {
            let (sent, more_at) = (from, from);
            seat.catching_up = (from < newest).then_some(CatchingUp { sent, more_at });
        }
        // Before the next entry is made: it may push the first that is missed out of the retention.
        self.catch_up(peer);
        if let Presence::Held { .. } = before {
            self.tell(SessionEvent::Rejoined {
                peer,
                incarnation: resume.incarnation,
            });
        }
        self.settle_emptiness(now);
        Ok(())
    }

    /// Sends the next portion of what the member missed; with the last one it is up to date, and
    /// hears of entries as they are made.
    fn catch_up(&mut self, peer: PeerId) {
        let newest = self.index;
        let Some(seat) = self.seats.get_mut(&peer) else {
            return;
        };
        let (Some(at), Presence::At(gateway)) = (seat.catching_up, &seat.presence) else {
            return;
        };
        let gateway = gateway.clone();
        let first_retained = self.retained.first(newest);
        if at.sent.next() < first_retained {
            // Entries were made faster than it could follow. Its gateway asks anew, and is answered
            // that continuity could not be kept.
            seat.catching_up = None;
            let error = Error::new(
                ErrorCode::NotOwner,
                "the entries that this member misses are no longer kept",
            );
            return self.refuse(gateway, 0, error);
        }
        let (mut sent, mut bytes, mut middle) = (at.sent, 0, None);
        let mut portion = Vec::new();
        for entry in self.retained.after(at.sent).take(limits::REPLAY_ENTRIES) {
            sent = entry.place.index;
            bytes += entry.message.payload.len();
            if bytes >= limits::REPLAY_BYTES / 2 {
                middle.get_or_insert(sent);
            }
            let frame = LinkFrame::Fanout(Fanout {
                only: peer,
                ..entry.clone()
            });
            portion.push(frame);
            if bytes >= limits::REPLAY_BYTES {
                break;
            }
        }
        let half_way = Index(at.sent.0 + (sent.0 - at.sent.0).div_ceil(2));
        let more_at = middle.map_or(half_way, |middle| middle.min(half_way));
        seat.catching_up = (sent < newest).then_some(CatchingUp { sent, more_at });
        for frame in portion {
            self.push(gateway.clone(), frame);
        }
    }

    /// All at once, so that nobody who is gone is told of the others.
    fn hold_seats(&mut self, peers: &[PeerId], now: Instant) {
        let hold = self.config.options.rejoin_hold;
        for peer in peers {
            if let Some(seat) = self.seats.get_mut(peer) {
                seat.presence = Presence::Held { until: now + hold };
                seat.catching_up = None;
            }
        }
        for &peer in peers {
            if hold.is_zero() {
                self.give_up_seat(peer, ErrorCode::RejoinExpired, now);
            } else {
                self.tell(SessionEvent::Dropped { peer });
            }
        }
    }

    fn give_up_seat(&mut self, peer: PeerId, code: ErrorCode, now: Instant) {
        self.seats.remove(&peer);
        self.tell(SessionEvent::Left { peer, code });
        for seat in self.seats.values_mut() {
            seat.sender_left(peer, self.index);
        }
        self.outputs.push_back(Output::Listing {
            players: self.players(),
        });
        self.settle_emptiness(now);
    }

    fn settle_emptiness(&mut self, now: Instant) {
        self.empty_until = if self.seats.is_empty() {
            // Nobody is left who could resume.
            self.retained.clear();
            Some(
                self.empty_until
                    .unwrap_or(now + self.config.options.empty_ttl),
            )
        } else {
            None
        };
    }

    fn close(&mut self, error: Error) {
        let session = self.config.id;
        let everyone = MemberKey {
            session,
            peer: PeerId::SESSION,
            incarnation: Incarnation(0),
        };
        for gateway in self.gateways() {
            let ended = LinkMessage::Ended {
                member: everyone,
                error: error.clone(),
                can_rejoin: false,
            };
            let frame = LinkFrame::Control(ended);
            self.outputs.push_back(Output::ToGateway { gateway, frame });
        }
        self.held.clear();
        self.release_copies();
        self.closed = true;
        self.outputs.push_back(Output::Closed);
    }

    fn is_at(&self, gateway: &NodeId, member: MemberKey) -> bool {
        self.seats.get(&member.peer).is_some_and(|seat| {
            seat.incarnation == member.incarnation
                && matches!(&seat.presence, Presence::At(at) if at == gateway)
        })
    }

    fn is_held(&self, member: MemberKey) -> bool {
        self.seats
            .get(&member.peer)
            .is_some_and(|seat| seat.incarnation == member.incarnation && seat.gateway().is_none())
    }

    // ---------------------------------------------------------------------------------- messages

    fn forward(&mut self, gateway: &NodeId, forward: Forward) {
        if forward.epoch != self.config.epoch {
            let error = Error::new(
                ErrorCode::NotOwner,
                format!("this is epoch {}", self.config.epoch),
            );
            return self.refuse(gateway.clone(), 0, error);
        }
        let member = MemberKey {
            session: self.config.id,
            peer: forward.sender,
            incarnation: forward.incarnation,
        };
        if !self.is_at(gateway, member) {
            return;
        }
        let absent = forward
            .message
            .target
            .named()
            .iter()
            .find(|peer| !self.seats.contains_key(peer))
            .copied();
        let (mode, seq) = (forward.message.mode, forward.message.seq);
        if !self.admit(member.peer, mode, seq) {
            return;
        }
        if let Some(absent) = absent {
            self.counters.rejected += 1;
            if mode == Mode::Ordered {
                // Its own place in the order makes it known to a next owner.
                let (peer, incarnation) = (member.peer, member.incarnation);
                let refused = SessionEvent::Refused {
                    peer,
                    incarnation,
                    seq,
                    code: ErrorCode::PeerNotFound,
                    absent,
                };
                return self.tell_to(Target::Peer(peer), refused);
            }
            return self.answer_rejected(gateway, member.peer, mode, seq, absent);
        }
        let place = if mode == Mode::Ordered {
            self.next_place()
        } else {
            Place::default()
        };
        let fanout = Fanout {
            session: self.config.id,
            place,
            only: PeerId::SESSION,
            sender: forward.sender,
            incarnation: forward.incarnation,
            message: forward.message,
        };
        match mode {
            Mode::Ordered => self.commit(fanout),
            Mode::Reliable => {
                let sender = fanout.sender;
                for (_, seat) in self
                    .seats
                    .iter_mut()
                    .filter(|(peer, _)| fanout.message.target.includes(**peer, sender))
                {
                    seat.count_reliable(sender, 1);
                }
                self.spread(&fanout);
            }
            Mode::Latest | Mode::Datagram => self.spread(&fanout),
        }
    }

    /// Whether this seq of the sender is new and in turn; notes it if so.
    fn admit(&mut self, sender: PeerId, mode: Mode, seq: Seq) -> bool {
        let Some(seat) = self.seats.get_mut(&sender) else {
            return false;
        };
        match mode {
            Mode::Ordered => {
                if seq <= seat.ordered_seen {
                    self.counters.duplicates += 1;
                    return false;
                }
                if seq != seat.ordered_seen.next() {
                    return false;
                }
                seat.ordered_seen = seq;
            }
            Mode::Reliable => {
                if seq <= seat.reliable_seen {
                    self.counters.duplicates += 1;
                    return false;
                }
                let missed = seq.0 - seat.reliable_seen.0 - 1;
                seat.reliable_seen = seq;
                if missed > 0 {
                    self.tell_gap(sender, missed);
                }
            }
            Mode::Latest | Mode::Datagram => {}
        }
        true
    }

    /// Messages of this sender never came here; whom they were for is not known, so everyone else
    /// hears of them: at once, or by its count when it resumes.
    fn tell_gap(&mut self, sender: PeerId, missed: u32) {
        let mut gateways = BTreeSet::new();
        for (_, seat) in self.seats.iter_mut().filter(|(peer, _)| **peer != sender) {
            seat.count_reliable(sender, missed);
            gateways.extend(seat.gateway().cloned());
        }
        let session = self.config.id;
        for gateway in gateways {
            let gap = LinkMessage::ReliableGap {
                session,
                peer: PeerId::SESSION,
                sender,
                missed,
            };
            self.send(&gateway, gap);
        }
    }

    /// Puts an event of the session itself into the order.
    fn tell(&mut self, event: SessionEvent) {
        self.tell_to(Target::All, event);
    }

    fn tell_to(&mut self, target: Target, event: SessionEvent) {
        let place = self.next_place();
        let message = Message {
            mode: Mode::Ordered,
            channel: SESSION_CHANNEL,
            seq: Seq(0),
            target,
            key: 0,
            payload: event.encode(),
        };
        self.commit(Fanout {
            session: self.config.id,
            place,
            only: PeerId::SESSION,
            sender: PeerId::SESSION,
            incarnation: Incarnation(0),
            message,
        });
    }

    fn next_place(&self) -> Place {
        Place {
            epoch: self.config.epoch,
            index: self.index.next(),
        }
    }

    /// The entry has its place: it is stored, then every gateway with a member hears of it.
    fn commit(&mut self, entry: Fanout) {
        debug_assert_eq!(
            entry.place.index,
            self.index.next(),
            "indexes have no holes"
        );
        self.index = entry.place.index;
        self.counters.ordered += 1;
        self.store(&entry);
        for gateway in self.gateways_up_to_date() {
            self.counters.fanouts += 1;
            self.push(gateway, LinkFrame::Fanout(entry.clone()));
        }
        self.retained.push(entry);
    }

    /// One copy to each gateway with a recipient.
    fn spread(&mut self, fanout: &Fanout) {
        let recipients = self
            .seats
            .iter()
            .filter(|(peer, _)| fanout.message.target.includes(**peer, fanout.sender));
        let gateways: BTreeSet<NodeId> = recipients
            .filter_map(|(_, seat)| seat.gateway())
            .cloned()
            .collect();
        for gateway in gateways {
            self.counters.fanouts += 1;
            let frame = LinkFrame::Fanout(fanout.clone());
            if fanout.message.mode.is_unreliable() {
                self.outputs.push_back(Output::ToGateway { gateway, frame });
            } else {
                self.push(gateway, frame);
            }
        }
    }

    fn gateways(&self) -> BTreeSet<NodeId> {
        self.seats
            .values()
            .filter_map(Seat::gateway)
            .cloned()
            .collect()
    }

    /// Gateways of members who are not still being caught up.
    fn gateways_up_to_date(&self) -> BTreeSet<NodeId> {
        let seats = self.seats.values();
        seats
            .filter(|seat| seat.catching_up.is_none())
            .filter_map(Seat::gateway)
            .cloned()
            .collect()
    }

    // ----------------------------------------------------------------------------------- answers

    fn answer_joined(&mut self, gateway: &NodeId, request: u64, peer: PeerId, seat: &Seat) {
        let roster = self.roster();
        let joined = self.joined(peer, seat.incarnation, self.index, roster);
        let standby = self.standby().cloned();
        let joined = LinkMessage::Joined {
            request,
            joined,
            standby,
        };
        self.send_with_next(gateway.clone(), joined);
    }

    fn answer_resumed(
        &mut self,
        gateway: &NodeId,
        request: u64,
        peer: PeerId,
        from: Index,
        continuous: bool,
    ) {
        let Some(seat) = self.seats.get(&peer) else {
            return;
        };
        let roster = if continuous {
            Vec::new()
        } else {
            self.roster()
        };
        let joined = Joined {
            resumed: continuous,
            ordered_seen: seat.ordered_seen,
            reliable_seen: seat.reliable_seen,
            ..self.joined(peer, seat.incarnation, from, roster)
        };
        let standby = self.standby().cloned();
        let joined = LinkMessage::Joined {
            request,
            joined,
            standby,
        };
        self.send(gateway, joined);
    }

    fn answer_rejected(
        &mut self,
        gateway: &NodeId,
        peer: PeerId,
        mode: Mode,
        seq: Seq,
        absent: PeerId,
    ) {
        let error = Error::new(
            ErrorCode::PeerNotFound,
            format!("peer {absent} is not a member"),
        );
        let session = self.config.id;
        let rejected = LinkMessage::SendRejected {
            session,
            peer,
            mode,
            seq,
            error,
        };
        self.send(gateway, rejected);
    }

    fn joined(
        &self,
        peer: PeerId,
        incarnation: Incarnation,
        index: Index,
        roster: Vec<Member>,
    ) -> Joined {
        Joined {
            attachment: Attachment(0),
            session: self.config.id,
            code: self.config.code,
            home_region: self.config.home_region.clone(),
            peer,
            incarnation,
            epoch: self.config.epoch,
            index,
            roster,
            resumed: false,
            ordered_seen: Seq(0),
            reliable_seen: Seq(0),
            max_players: self.config.options.max_players,
            name: self.config.options.name.clone(),
            owner: self.config.owner.clone(),
            rejoin_hold: self.config.options.rejoin_hold,
        }
    }

    fn roster(&self) -> Vec<Member> {
        self.seats
            .iter()
            .map(|(&peer, seat)| seat.member(peer))
            .collect()
    }

    fn refuse(&mut self, gateway: NodeId, request: u64, error: Error) {
        let session = self.config.id;
        let refused = LinkMessage::Refused {
            request,
            session,
            failure: Failure::from(error),
            owner: None,
        };
        self.send(&gateway, refused);
    }

    fn end_member(
        &mut self,
        gateway: NodeId,
        peer: PeerId,
        incarnation: Incarnation,
        code: ErrorCode,
    ) {
        let member = MemberKey {
            session: self.config.id,
            peer,
            incarnation,
        };
        self.send(
            &gateway,
            LinkMessage::Ended {
                member,
                error: code.into(),
                can_rejoin: false,
            },
        );
    }

    fn send(&mut self, gateway: &NodeId, message: LinkMessage) {
        self.push(gateway.clone(), LinkFrame::Control(message));
    }

    /// Sends what says that a life has begun: its first entry, which is made next, has to be stored,
    /// or the next owner gives the same name to another one.
    fn send_with_next(&mut self, gateway: NodeId, message: LinkMessage) {
        self.push_behind(self.index.next(), gateway, LinkFrame::Control(message));
    }

    /// Sends a frame once everything that it may follow from is stored.
    fn push(&mut self, gateway: NodeId, frame: LinkFrame) {
        self.push_behind(self.index, gateway, frame);
    }

    fn push_behind(&mut self, index: Index, gateway: NodeId, frame: LinkFrame) {
        let output = Output::ToGateway { gateway, frame };
        if self.held.is_empty() && self.is_stored(index) {
            self.leaves_after(index);
            self.outputs.push_back(output);
        } else {
            self.held.push_back((index, output));
        }
    }
}

impl Seat {
    fn new(user: User, incarnation: Incarnation, gateway: NodeId, joined_at: Index) -> Self {
        Self {
            user,
            incarnation,
            presence: Presence::At(gateway),
            attempt: 0,
            joined_at,
            ordered_seen: Seq(0),
            reliable_seen: Seq(0),
            acked: Index(0),
            recovered: false,
            unsure_of: BTreeMap::new(),
            reliable_sent: BTreeMap::new(),
            catching_up: None,
        }
    }

    fn recovered(state: SeatState, presence: Presence) -> Self {
        Self {
            user: state.user,
            incarnation: state.incarnation,
            presence,
            attempt: 0,
            joined_at: state.joined_at,
            ordered_seen: state.ordered_seen,
            reliable_seen: Seq(0),
            acked: Index(0),
            recovered: true,
            unsure_of: BTreeMap::new(),
            reliable_sent: BTreeMap::new(),
            catching_up: None,
        }
    }

    fn gateway(&self) -> Option<&NodeId> {
        match &self.presence {
            Presence::At(gateway) => Some(gateway),
            Presence::Held { .. } | Presence::Awaited { .. } => None,
        }
    }

    fn member(&self, peer: PeerId) -> Member {
        Member {
            peer,
            incarnation: self.incarnation,
            user: self.user.id,
            display_name: self.user.display_name.clone(),
            connected: !matches!(self.presence, Presence::Held { .. }),
        }
    }

    fn acknowledge(&mut self, index: Index) {
        self.acked = self.acked.max(index);
        let acked = self.acked;
        self.reliable_sent
            .retain(|_, sent| sent.left.is_none_or(|left| left > acked));
        self.unsure_of.retain(|_, told| *told >= acked);
    }

    fn count_reliable(&mut self, sender: PeerId, messages: u32) {
        let sent = self.reliable_sent.entry(sender).or_default();
        sent.count = sent.count.saturating_add(messages);
    }

    /// What this member counts of a sender is kept until the member has seen that it left, for no
    /// more senders than a resume can name.
    fn sender_left(&mut self, sender: PeerId, left: Index) {
        self.unsure_of.remove(&sender);
        if let Some(sent) = self.reliable_sent.get_mut(&sender) {
            sent.left = Some(left);
        }
        while self.reliable_sent.len() > limits::TARGETS_MAX {
            let departed = self.reliable_sent.iter();
            let oldest = departed
                .filter_map(|(&sender, sent)| Some((sent.left?, sender)))
                .min();
            let Some((_, sender)) = oldest else { break };
            self.reliable_sent.remove(&sender);
        }
    }

    /// The senders of whom the member misses something, by its own count, and how much. It adds
    /// what it is told to its count, so that a gap whose announcement is lost is announced again.
    fn missing(&self, resume: &Resume) -> Vec<(PeerId, u32)> {
        let received: BTreeMap<PeerId, u32> = resume.reliable.iter().copied().collect();
        let counting = self
            .reliable_sent
            .iter()
            .filter(|(_, sent)| sent.left.is_none_or(|left| left > resume.last_index));
        counting
            .map(|(sender, sent)| {
                let count = received.get(sender).copied().unwrap_or(0);
                (*sender, sent.count.saturating_sub(count))
            })
            .filter(|(_, missed)| *missed > 0)
            .collect()
    }
}

fn diverged(resume: &Resume) -> Error {
    Error::new(
        ErrorCode::Resync,
        format!(
            "entry {} of epoch {} is not part of the session's history; join anew",
            resume.last_index, resume.last_epoch
        ),
    )
}

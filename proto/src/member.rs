//! The client's state machine: one player, from `Hello` to the end of a session and over every
//! reconnect in between.
//!
//! ```text
//!   game ──create, join, send, leave──▶ ┌────────┐ ──Send, Reconnect──▶ connection
//!        ◀──Answer, Event────────────── │ Member │ ◀──Connected, Frame, Lost──
//!                                       └────────┘
//! ```
//!
//! * An entry is delivered once, in the order of its index. A hole, or an epoch that falls, is the
//!   relay's fault: the member connects anew and resumes.
//! * An Ordered send stays *unresolved* until the member sees it in the order, or its refusal. What
//!   the owner has not seen when the member resumes is sent again, in order.
//! * A session has one terminal event. What is unresolved by then has no known outcome.
//! * A member can have a second connection, to the relay that it moves to: see [`Member::begin_move`].

mod handover;
mod latest;
mod moving;
mod seat;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::control::{
    self, ClientMessage, Failure, Join, JoinBy, Joined, RelayMessage, SessionOptions,
};
use crate::error::{Error, ErrorCode};
use crate::frame::{Attachment, ClientFrame, Mode, RelayFrame, Target};
use crate::id::{Epoch, Incarnation, Index, JoinCode, NodeId, PeerId, Seq, SessionId, UserId};
use crate::limits;

use handover::Stage;
use moving::Next;
use seat::{Phase, Seat};

/// A request waits this much longer than the gateway does, so that the gateway's own `Timeout`,
/// which says more, comes first.
pub const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// Payload bytes of unresolved Ordered sends: as much as the owner retains.
pub const UNRESOLVED_BYTES_MAX: usize = limits::RETAINED_BYTES_MAX;
/// How long a leave waits for unresolved sends to find their place.
pub const LEAVE_SETTLES_WITHIN: Duration = Duration::from_secs(1);

/// How a message is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendOptions {
    pub mode: Mode,
    pub target: Target,
    /// 0–15.
    pub channel: u8,
    /// What a `Latest` message is the newest of; 0 in the other modes.
    pub key: u16,
}

impl SendOptions {
    /// On channel 0, with key 0.
    #[must_use]
    pub const fn new(mode: Mode, target: Target) -> Self {
        Self {
            mode,
            target,
            channel: 0,
            key: 0,
        }
    }
}

/// Names a send of this member, within its present life in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId {
    pub mode: Mode,
    pub seq: Seq,
}

/// What stays the same while the member is in the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub id: SessionId,
    pub code: Option<JoinCode>,
    pub home_region: String,
    /// The member's own id.
    pub peer: PeerId,
    pub incarnation: Incarnation,
    /// The first entry that the member sees has the index after this one.
    pub joined_at: Index,
    pub max_players: u16,
    pub name: String,
    /// The relay that ordered the session when it was joined.
    pub owner: NodeId,
}

/// What a member of a session is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Message {
        sender: PeerId,
        incarnation: Incarnation,
        /// The sender's count of its messages in this mode.
        seq: Seq,
        mode: Mode,
        channel: u8,
        /// 0 unless `Latest`.
        key: u16,
        payload: Bytes,
        /// The place in the session's one order; `None` unless `Ordered`.
        index: Option<Index>,
        /// 0 unless `Ordered`.
        epoch: Epoch,
    },
    PeerJoined(control::Member),
    /// Its connection is lost, which is noticed after at most 10 s of silence; its seat is held for the
    /// session's `rejoin_hold`.
    PeerDropped(PeerId),
    /// It is back: resumed, or joined anew in a new incarnation.
    PeerRejoined(PeerId),
    /// `Ok`: it left by itself; otherwise why its seat was given up.
    PeerLeft {
        peer: PeerId,
        display_name: String,
        code: ErrorCode,
    },
    /// The Ordered send has its place: every member that stays delivers it there.
    Committed {
        send: SendId,
        index: Index,
    },
    /// The send reached nobody.
    Rejected {
        send: SendId,
        error: Error,
    },
    /// So many Reliable messages of the sender are lost.
    ReliableGap {
        sender: PeerId,
        missed: u32,
    },
    /// The connection is lost; another relay is tried.
    Reconnecting,
    /// Connected again, nothing lost.
    Resumed,
    /// The one terminal event.
    Ended {
        error: Error,
        /// The seat is held: joining by the session's id takes it again, as a new incarnation.
        can_rejoin: bool,
    },
}

/// What a request came to, outside of a session's events.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The relay has accepted the token.
    Welcome { node: NodeId, user: UserId },
    /// The `create` or `join` succeeded.
    Joined(SessionInfo),
    /// The `create` or `join` failed.
    Refused(Error),
}

/// One thing that happened to the connection.
#[derive(Debug)]
pub enum Input {
    /// There is a connection: say hello.
    Connected,
    Frame(RelayFrame),
    /// The connection is gone. If a move is under way, the next connection takes its place.
    Lost(Error),
    /// The connection of [`Member::begin_move`] is there.
    NextConnected,
    NextFrame(RelayFrame),
    /// It is gone, or could not be made.
    NextLost(Error),
    /// A frame of the connection that was the present one before [`Output::Moved`].
    FormerFrame(RelayFrame),
    FormerLost,
}

/// How a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The bidirectional stream that the client opened first.
    Control,
    /// The client's unidirectional stream.
    Bulk,
    /// A QUIC datagram; `Bulk` where it does not fit.
    Datagram,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Send {
        way: Way,
        frame: ClientFrame,
    },
    Event(Event),
    Answer(Answer),
    /// Close the connection with this error, report it [`Input::Lost`], connect elsewhere.
    Reconnect(Error),
    /// Over the connection of [`Member::begin_move`].
    SendNext {
        way: Way,
        frame: ClientFrame,
    },
    /// The next connection is the present one from here on; the present one is the former.
    Moved {
        node: Option<NodeId>,
    },
    /// Close the next connection: the present one stays.
    DropNext(Error),
    /// Close the former connection: nothing more is expected of it.
    DropFormer,
    /// The relay is about to stop, and closes the connection within this time: move to another one.
    Draining {
        deadline: Duration,
    },
}

/// Whether a connection that ended so must not be tried again.
#[must_use]
pub const fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InvalidArgument
            | ErrorCode::InvalidState
            | ErrorCode::Cancelled
            | ErrorCode::ProtocolVersion
            | ErrorCode::ReplacedByNewConnection
            | ErrorCode::MalformedFrame
            | ErrorCode::FrameTooLarge
            | ErrorCode::TruncatedFrame
            | ErrorCode::UnknownFrame
            | ErrorCode::InvalidCredentials
            | ErrorCode::TokenExpired
            | ErrorCode::TokenRevoked
            | ErrorCode::AccountBanned
            | ErrorCode::InvalidToken
    )
}

/// Whether a refused resume may succeed when it is tried again.
const fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::TimedOut
            | ErrorCode::Timeout
            | ErrorCode::RateLimited
            | ErrorCode::NotOwner
            | ErrorCode::ServerFull
            | ErrorCode::DirectoryUnavailable
    )
}

/// One player of one client.
#[derive(Debug)]
pub struct Member {
    token: String,
    sdk: String,
    link: Link,
    /// The last attachment that this connection was given.
    last_attachment: Attachment,
    last_request: u64,
    next: Option<Next>,
    state: State,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// `Hello` is sent.
    Greeting,
    Up,
}

#[derive(Debug)]
enum State {
    Idle,
    Asking { request: u64, deadline: Instant },
    Seated(Box<Seat>),
}

impl Member {
    /// `sdk` is name and version of the client library.
    #[must_use]
    pub fn new(token: String, sdk: String) -> Self {
        Self {
            token,
            sdk,
            link: Link::Down,
            last_attachment: Attachment(0),
            last_request: 0,
            next: None,
            state: State::Idle,
            outputs: VecDeque::new(),
        }
    }

    // ---------------------------------------------------------------------------------- getters

    /// Whether a relay has accepted the token on the present connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link == Link::Up
    }

    /// The session, from `Joined` to `Ended`.
    #[must_use]
    pub fn session(&self) -> Option<&SessionInfo> {
        self.seat().map(|seat| &seat.info)
    }

    /// The members as of the newest entry; the member itself from its own first entry on.
    pub fn roster(&self) -> impl Iterator<Item = &control::Member> {
        self.seat()
            .into_iter()
            .flat_map(|seat| seat.roster.values())
    }

    /// The newest entry that was seen.
    #[must_use]
    pub fn index(&self) -> Option<Index> {
        self.seat().map(|seat| seat.place.index)
    }

    /// Ordered sends without a known outcome.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.seat().map_or(0, |seat| seat.unresolved.len())
    }

    /// Whether frames of this attachment come before the `Joined` that announces it, as they can on
    /// another stream: they must wait, for they would be dropped here.
    #[must_use]
    pub const fn is_early(&self, attachment: Attachment) -> bool {
        (attachment.0.wrapping_sub(self.last_attachment.0) as i16) > 0
    }

    // --------------------------------------------------------------------------------- commands

    /// The token of the next `Hello`. Tokens are short-lived; connections outlive them.
    pub fn set_token(&mut self, token: String) {
        self.token = token;
    }

    /// Creates a session and joins it. The outcome is an [`Answer`].
    pub fn create(&mut self, options: SessionOptions, now: Instant) -> Result<(), Error> {
        let options = options.checked()?;
        self.ask(|request| ClientMessage::Create { request, options }, now)
    }

    /// Joins a session. The outcome is an [`Answer`].
    pub fn join(&mut self, by: JoinBy, app_version: String, now: Instant) -> Result<(), Error> {
        let join = Join {
            by,
            app_version,
            resume: None,
        };
        self.ask(|request| ClientMessage::Join { request, join }, now)
    }

    /// Sends a message to members of the session.
    ///
    /// While the connection is away, Ordered messages wait, Latest and Datagram are lost as they
    /// may be, and Reliable is refused with `NotConnected`.
    pub fn send(&mut self, options: SendOptions, payload: Bytes) -> Result<SendId, Error> {
        let State::Seated(seat) = &mut self.state else {
            return Err(Error::new(
                ErrorCode::InvalidState,
                "there is no session; join one first",
            ));
        };
        seat.send(options, payload, &mut self.outputs)
    }

    /// Gives the seat up. The outcome is [`Event::Ended`] with `Ok`, once what was sent before has
    /// its place in the order.
    pub fn leave(&mut self, now: Instant) -> Result<(), Error> {
        let State::Seated(seat) = &mut self.state else {
            return Err(Error::new(
                ErrorCode::InvalidState,
                "there is no session to leave",
            ));
        };
        match seat.phase {
            Phase::Live => {
                seat.phase = Phase::Leaving {
                    asked: None,
                    deadline: now + LEAVE_SETTLES_WITHIN,
                };
                self.leave_when_settled(now);
            }
            Phase::Away { .. } | Phase::Resuming { .. } => self.end(ErrorCode::Ok.into(), false),
            Phase::Leaving { .. } => {}
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------ the four verbs

    /// Takes one thing that happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Connected => {
                self.link = Link::Greeting;
                self.last_attachment = Attachment(0);
                let hello = self.hello();
                self.control(hello);
            }
            Input::Lost(error) => self.lost(error, now),
            Input::NextConnected => self.next_connected(),
            Input::NextFrame(frame) => self.next_frame(frame, now),
            Input::NextLost(error) => self.abort_move(error, now),
            Input::FormerFrame(frame) => self.former_frame(frame, now),
            Input::FormerLost => self.former_lost(now),
            // What still comes of a connection that has been given up.
            Input::Frame(_) if self.link == Link::Down => {}
            Input::Frame(frame) => {
                let handled = match frame {
                    RelayFrame::Control(message) => self.message(message, now),
                    RelayFrame::Deliver(deliver) => match self.seat_at(deliver.attachment) {
                        Some((seat, outputs)) => seat.deliver(deliver, outputs, now),
                        None => Ok(()),
                    },
                    RelayFrame::Skip(skip) => match self.seat_at(skip.attachment) {
                        Some((seat, outputs)) => seat.skip(skip, outputs, now),
                        None => Ok(()),
                    },
                };
                if let Err(error) = handled {
                    self.give_up_connection(error);
                }
                self.leave_when_settled(now);
                self.go_on_moving(now);
            }
        }
    }

    /// Lets due timers fire.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle => {}
            State::Asking { deadline, .. } => {
                if *deadline <= now {
                    self.state = State::Idle;
                    self.answer(Answer::Refused(timed_out()));
                }
            }
            State::Seated(seat) => {
                seat.acknowledge_if_due(&mut self.outputs, now);
                match seat.phase {
                    Phase::Live => {}
                    Phase::Away { until, .. } | Phase::Resuming { until, .. } if until <= now => {
                        let error = seat.away_because.take().unwrap_or_else(timed_out);
                        self.end(error, false);
                    }
                    Phase::Away { until, again } => {
                        if again.is_some_and(|again| again <= now) {
                            self.resume(until, now);
                        }
                    }
                    Phase::Resuming { deadline, .. } => {
                        // Another relay may know the way.
                        if deadline <= now {
                            self.give_up_connection(timed_out());
                        }
                    }
                    Phase::Leaving {
                        asked: Some(_),
                        deadline,
                    } if deadline <= now => {
                        self.end(timed_out(), false);
                    }
                    Phase::Leaving { .. } => self.leave_when_settled(now),
                }
            }
        }
        self.go_on_moving(now);
        self.finish_move_if_drained(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Idle => None,
            State::Asking { deadline, .. } => Some(*deadline),
            State::Seated(seat) => seat.poll_timeout(),
        };
        state.into_iter().chain(self.moving_timeout()).min()
    }

    // --------------------------------------------------------------------------- from the relay

    fn message(&mut self, message: RelayMessage, now: Instant) -> Result<(), Error> {
        match message {
            RelayMessage::Welcome {
                version,
                node,
                user,
                ..
            } => {
                if version != limits::PROTOCOL_VERSION {
                    return Err(ErrorCode::ProtocolVersion.into());
                }
                let is_new = std::mem::replace(&mut self.link, Link::Up) == Link::Greeting;
                self.answer(Answer::Welcome { node, user });
                if let State::Seated(seat) = &mut self.state
                    && let Phase::Away { until, .. } = seat.phase
                {
                    if is_new {
                        seat.count_connection();
                    }
                    self.resume(until, now);
                }
                Ok(())
            }
            RelayMessage::Joined { request, joined } => self.joined(request, joined, now),
            RelayMessage::Failed { request, failure } => {
                self.failed(request, failure, now);
                Ok(())
            }
            RelayMessage::Ended {
                attachment,
                error,
                can_rejoin,
                ..
            } => {
                if let Some((seat, _)) = self.seat_at(attachment) {
                    match (error.code(), seat.stage()) {
                        // It may be this member's own doing: the next relay's answer will tell.
                        (
                            ErrorCode::ReplacedByNewConnection,
                            Some(Stage::Asked {
                                request, deadline, ..
                            }),
                        ) => seat.set_stage(Stage::Asked {
                            request,
                            deadline,
                            ended: true,
                        }),
                        (ErrorCode::ReplacedByNewConnection, _) if seat.asked_elsewhere => {
                            self.take_seat_back(error, now);
                        }
                        _ => self.end(error, can_rejoin),
                    }
                }
                Ok(())
            }
            RelayMessage::SendRejected {
                attachment,
                mode,
                seq,
                error,
            } => {
                if let Some((seat, outputs)) = self.seat_at(attachment) {
                    seat.rejected(SendId { mode, seq }, error, outputs);
                }
                Ok(())
            }
            RelayMessage::ReliableGap {
                attachment,
                sender,
                missed,
            } => {
                if let Some((seat, outputs)) = self.seat_at(attachment)
                    // Of a gap of unknown size nothing can be set off.
                    && (missed == 0 || !seat.defers_gap(sender, missed))
                {
                    seat.count_missed(sender, missed);
                    outputs.push_back(Output::Event(Event::ReliableGap { sender, missed }));
                }
                Ok(())
            }
            RelayMessage::Pong { .. } => Ok(()),
            RelayMessage::Draining { deadline } => {
                self.outputs.push_back(Output::Draining { deadline });
                Ok(())
            }
        }
    }

    fn joined(&mut self, request: u64, joined: Joined, now: Instant) -> Result<(), Error> {
        let attachment = joined.attachment;
        self.last_attachment = attachment;
        let asked_anew =
            matches!(self.state, State::Asking { request: asked, .. } if asked == request);
        if asked_anew {
            let seat = Seat::new(joined);
            self.answer(Answer::Joined(seat.info.clone()));
            self.state = State::Seated(Box::new(seat));
            return Ok(());
        }
        match &mut self.state {
            State::Seated(seat) if seat.is_taken_up_by(request, &joined) => {
                let was_away = matches!(seat.phase, Phase::Resuming { .. });
                if !joined.resumed || joined.index > seat.place.index {
                    self.ask_to_leave(attachment);
                    self.end(not_retained(), false);
                    return Ok(());
                }
                if was_away {
                    self.outputs.push_back(Output::Event(Event::Resumed));
                    seat.asked_elsewhere = false;
                }
                // A move that became a resume, because the former relay was lost meanwhile.
                let again = match seat.stage() {
                    Some(Stage::Asked { .. }) if was_away => {
                        let again = seat.hand_over(Attachment(0), true, &joined, now);
                        seat.former_ended(true);
                        again
                    }
                    Some(Stage::Settling { .. } | Stage::Asked { .. } | Stage::Draining { .. })
                    | None => Vec::new(),
                };
                seat.take_up(&joined, &mut self.outputs, now);
                for message in again {
                    let output = seat.publish(message);
                    self.outputs.push_back(output);
                }
            }
            // Nobody waits for this seat any more.
            State::Idle | State::Asking { .. } | State::Seated(_) => {
                self.ask_to_leave(attachment);
            }
        }
        Ok(())
    }

    fn failed(&mut self, number: u64, failure: Failure, now: Instant) {
        match &mut self.state {
            State::Asking { request, .. } if *request == number => {
                self.state = State::Idle;
                self.answer(Answer::Refused(failure.error));
            }
            State::Seated(seat) => match seat.phase {
                Phase::Resuming { request, until, .. } if request == number => {
                    if is_passing(failure.error.code()) {
                        seat.away_because = Some(failure.error);
                        let again = Some(now + failure.retry_after);
                        seat.phase = Phase::Away { until, again };
                    } else {
                        self.end(failure.error, false);
                    }
                }
                // The relay does not know the seat (any more): that is what was wanted.
                Phase::Leaving {
                    asked: Some(request),
                    ..
                } if request == number => {
                    self.end(ErrorCode::Ok.into(), false);
                }
                Phase::Live
                | Phase::Away { .. }
                | Phase::Resuming { .. }
                | Phase::Leaving { .. } => {}
            },
            State::Idle | State::Asking { .. } => {}
        }
    }

    fn lost(&mut self, error: Error, now: Instant) {
        let next = self.next.take().filter(|_| !is_final(error.code()));
        let (link, last_attachment) = next.map_or((Link::Down, Attachment(0)), |next| {
            (next.link, next.last_attachment)
        });
        (self.link, self.last_attachment) = (link, last_attachment);
        if let Some(Stage::Draining { .. }) = self.seat().and_then(Seat::stage) {
            self.outputs.push_back(Output::DropFormer);
        }
        let asked = match self.seat().and_then(Seat::stage) {
            Some(Stage::Asked {
                request, deadline, ..
            }) if link == Link::Up => Some((request, deadline)),
            Some(Stage::Settling { .. } | Stage::Asked { .. } | Stage::Draining { .. }) | None => {
                None
            }
        };
        match &mut self.state {
            State::Idle => {}
            State::Asking { .. } => {
                self.state = State::Idle;
                self.answer(Answer::Refused(error));
            }
            State::Seated(seat) => match seat.phase {
                _ if is_final(error.code()) => self.end(error, false),
                Phase::Leaving { .. } => self.end(ErrorCode::Ok.into(), false),
                Phase::Live => {
                    let until = now + seat.rejoin_hold;
                    let handover = seat.handover.take().filter(|_| asked.is_some());
                    seat.detach(error, until);
                    self.outputs.push_back(Output::Event(Event::Reconnecting));
                    if let Some((request, deadline)) = asked {
                        seat.handover = handover;
                        seat.phase = Phase::Resuming {
                            request,
                            deadline,
                            until,
                        };
                    } else if link == Link::Up {
                        seat.count_connection();
                        self.resume(until, now);
                    }
                }
                Phase::Away { until, .. } | Phase::Resuming { until, .. } => {
                    seat.detach(error, until);
                    if link == Link::Up {
                        seat.count_connection();
                        self.resume(until, now);
                    }
                }
            },
        }
    }

    // ---------------------------------------------------------------------------------- helpers

    fn ask(
        &mut self,
        message: impl FnOnce(u64) -> ClientMessage,
        now: Instant,
    ) -> Result<(), Error> {
        match self.state {
            State::Seated(_) => return Err(ErrorCode::AlreadyInSession.into()),
            State::Asking { .. } => {
                let message = "another create or join is under way; wait for its answer";
                return Err(Error::new(ErrorCode::InvalidState, message));
            }
            State::Idle => {}
        }
        if self.link != Link::Up {
            return Err(ErrorCode::NotConnected.into());
        }
        let request = self.next_request();
        self.state = State::Asking {
            request,
            deadline: now + limits::REQUEST_TIMEOUT + ANSWER_GRACE,
        };
        self.control(message(request));
        Ok(())
    }

    /// Asks for the held seat; it is held `until` then.
    fn resume(&mut self, until: Instant, now: Instant) {
        if self.link != Link::Up {
            return;
        }
        let request = self.next_request();
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        let deadline = now + limits::REQUEST_TIMEOUT + ANSWER_GRACE;
        seat.phase = Phase::Resuming {
            request,
            deadline,
            until,
        };
        let join = seat.resume();
        self.control(ClientMessage::Join { request, join });
    }

    fn leave_when_settled(&mut self, now: Instant) {
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        let Phase::Leaving {
            asked: None,
            deadline,
        } = seat.phase
        else {
            return;
        };
        // Where the seat is, is not known until the next relay has answered.
        if let Some(Stage::Asked { .. }) = seat.stage() {
            return;
        }
        if seat.unresolved.is_empty() || deadline <= now {
            let attachment = seat.attachment;
            let request = self.ask_to_leave(attachment);
            if let State::Seated(seat) = &mut self.state {
                let deadline = now + limits::REQUEST_TIMEOUT;
                seat.phase = Phase::Leaving {
                    asked: Some(request),
                    deadline,
                };
            }
        }
    }

    fn ask_to_leave(&mut self, attachment: Attachment) -> u64 {
        let request = self.next_request();
        self.control(ClientMessage::Leave {
            request,
            attachment,
        });
        request
    }

    fn hello(&self) -> ClientMessage {
        ClientMessage::Hello {
            version: limits::PROTOCOL_VERSION,
            token: self.token.clone(),
            sdk: self.sdk.clone(),
        }
    }

    fn end(&mut self, error: Error, can_rejoin: bool) {
        if let Some(Stage::Draining { .. }) = self.seat().and_then(Seat::stage) {
            self.outputs.push_back(Output::DropFormer);
        }
        self.state = State::Idle;
        self.outputs
            .push_back(Output::Event(Event::Ended { error, can_rejoin }));
    }

    fn give_up_connection(&mut self, error: Error) {
        if self.link != Link::Down {
            self.link = Link::Down;
            self.outputs.push_back(Output::Reconnect(error));
        }
    }

    fn control(&mut self, message: ClientMessage) {
        let frame = ClientFrame::Control(message);
        self.outputs.push_back(Output::Send {
            way: Way::Control,
            frame,
        });
    }

    fn answer(&mut self, answer: Answer) {
        self.outputs.push_back(Output::Answer(answer));
    }

    fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    fn seat(&self) -> Option<&Seat> {
        match &self.state {
            State::Seated(seat) => Some(seat),
            State::Idle | State::Asking { .. } => None,
        }
    }

    /// The seat, if it is the one that a frame is for.
    fn seat_at(&mut self, attachment: Attachment) -> Option<(&mut Seat, &mut VecDeque<Output>)> {
        match &mut self.state {
            State::Seated(seat) if seat.attachment == attachment => Some((seat, &mut self.outputs)),
            State::Idle | State::Asking { .. } | State::Seated(_) => None,
        }
    }
}

fn timed_out() -> Error {
    ErrorCode::TimedOut.into()
}

fn not_retained() -> Error {
    let message = "more was missed than the session retains; join anew";
    Error::new(ErrorCode::Resync, message)
}

//! How a member moves to another relay while the present one still serves it: the new connection
//! is made, greeted and given the seat before the old one is let go.
//!
//! ```text
//!   present ─────────────serves─────────────┬─ former: what was under way ─┤ DropFormer
//!   next    ├─ Hello ─ Welcome ─ Join ─ Joined ┴─ present ──serves──▶
//!                                            Moved
//! ```
//!
//! If the next connection fails, the present one stays. If the present one fails, the next takes
//! its place at once, as after any other loss.

use std::time::{Duration, Instant};

use super::handover::Stage;
use super::seat::Phase;
use super::{ANSWER_GRACE, Event, Link, Member, Output, State, Way, timed_out};
use crate::control::{ClientMessage, Joined, RelayMessage};
use crate::error::{Error, ErrorCode};
use crate::frame::{Attachment, ClientFrame, RelayFrame};
use crate::id::NodeId;
use crate::limits;

/// The connection that is to take the present one's place.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) link: Link,
    pub(super) last_attachment: Attachment,
    node: Option<NodeId>,
    settles_at: Instant,
}

impl Member {
    /// Begins to move: another connection is being made. A session is taken along not before
    /// `settle` has passed, the time that what was just sent takes to its owner.
    pub fn begin_move(&mut self, settle: Duration, now: Instant) {
        let settles_at = now + settle;
        self.next = Some(Next {
            link: Link::Down,
            last_attachment: Attachment(0),
            node: None,
            settles_at,
        });
        if let State::Seated(seat) = &mut self.state {
            seat.settle(settles_at);
        }
    }

    /// Whether a move is under way, or what the former relay still brings is waited for.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.next.is_some() || self.seat().is_some_and(|seat| seat.handover.is_some())
    }

    /// Whether Reliable messages of the present connection must wait: those of the former one come
    /// first.
    #[must_use]
    pub fn holds_reliable(&self) -> bool {
        matches!(
            self.seat().and_then(super::Seat::stage),
            Some(Stage::Draining { .. })
        )
    }

    /// As [`Self::is_early`], of the next connection.
    #[must_use]
    pub fn is_early_on_next(&self, attachment: Attachment) -> bool {
        let last = self.next.as_ref().map_or(0, |next| next.last_attachment.0);
        (attachment.0.wrapping_sub(last) as i16) > 0
    }

    // -------------------------------------------------------------------------- what has happened

    pub(super) fn next_connected(&mut self) {
        let hello = self.hello();
        if let Some(next) = &mut self.next {
            next.link = Link::Greeting;
            self.control_next(hello);
        }
    }

    pub(super) fn next_frame(&mut self, frame: RelayFrame, now: Instant) {
        let RelayFrame::Control(message) = frame else {
            return;
        };
        match message {
            RelayMessage::Welcome { version, node, .. } => {
                if version != limits::PROTOCOL_VERSION {
                    return self.abort_move(ErrorCode::ProtocolVersion.into(), now);
                }
                if let Some(next) = &mut self.next {
                    next.link = Link::Up;
                    next.node = Some(node);
                }
                self.go_on_moving(now);
            }
            RelayMessage::Joined { request, joined } => self.joined_next(request, &joined, now),
            RelayMessage::Failed { request, failure } => {
                if self.asked_next().is_some_and(|asked| asked == request) {
                    self.abort_move(failure.error, now);
                }
            }
            RelayMessage::Draining { .. } => self.abort_move(ErrorCode::RelayDraining.into(), now),
            RelayMessage::Ended { .. }
            | RelayMessage::SendRejected { .. }
            | RelayMessage::ReliableGap { .. }
            | RelayMessage::Pong { .. } => {}
        }
    }

    /// The next connection is of no use: the present one stays.
    pub(super) fn abort_move(&mut self, error: Error, now: Instant) {
        if self.next.take().is_none() {
            return;
        }
        self.outputs.push_back(Output::DropNext(error.clone()));
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        let handover = seat.handover.take();
        let Some(Stage::Asked { ended, .. }) = handover.map(|handover| handover.stage) else {
            return;
        };
        // The owner may have given the seat to the next relay all the same.
        seat.asked_elsewhere = true;
        if ended {
            self.take_seat_back(error, now);
        }
    }

    /// The seat has gone to another connection of this member that did not come to anything.
    pub(super) fn take_seat_back(&mut self, error: Error, now: Instant) {
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        if let Phase::Leaving { .. } = seat.phase {
            return self.end(ErrorCode::Ok.into(), false);
        }
        let until = now + seat.rejoin_hold;
        seat.detach(error, until);
        seat.count_connection();
        self.outputs.push_back(Output::Event(Event::Reconnecting));
        self.resume(until, now);
    }

    pub(super) fn former_frame(&mut self, frame: RelayFrame, now: Instant) {
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        let Some(Stage::Draining { former, .. }) = seat.stage() else {
            return;
        };
        let outputs = &mut self.outputs;
        let handled = match frame {
            RelayFrame::Deliver(deliver) if deliver.attachment == former => {
                seat.deliver(deliver, outputs, now)
            }
            RelayFrame::Skip(skip) if skip.attachment == former => seat.skip(skip, outputs, now),
            RelayFrame::Control(RelayMessage::Ended { attachment, .. }) if attachment == former => {
                seat.former_ended(false);
                Ok(())
            }
            RelayFrame::Control(RelayMessage::SendRejected {
                attachment,
                mode,
                seq,
                error,
            }) if attachment == former => {
                seat.rejected(super::SendId { mode, seq }, error, outputs);
                Ok(())
            }
            RelayFrame::Control(RelayMessage::ReliableGap {
                attachment,
                sender,
                missed,
            }) if attachment == former => {
                seat.count_missed(sender, missed);
                outputs.push_back(Output::Event(Event::ReliableGap { sender, missed }));
                Ok(())
            }
            RelayFrame::Deliver(_) | RelayFrame::Skip(_) | RelayFrame::Control(_) => Ok(()),
        };
        if handled.is_err() {
            seat.former_ended(true);
        }
        self.finish_move_if_drained(now);
    }

    pub(super) fn former_lost(&mut self, now: Instant) {
        if let State::Seated(seat) = &mut self.state {
            seat.former_ended(true);
        }
        self.finish_move_if_drained(now);
    }

    // ---------------------------------------------------------------------------- what follows

    /// Takes the next step of a move, if its time has come.
    pub(super) fn go_on_moving(&mut self, now: Instant) {
        let Some(next) = self.next.as_ref().filter(|next| next.link == Link::Up) else {
            return;
        };
        let settles_at = next.settles_at;
        match &mut self.state {
            State::Idle => {
                self.switch();
                self.outputs.push_back(Output::DropFormer);
            }
            // The answer comes over the present connection.
            State::Asking { .. } => {}
            State::Seated(seat) if seat.phase == Phase::Live => {
                seat.settle(settles_at);
                match seat.stage() {
                    Some(Stage::Settling { ask_at }) if ask_at <= now => self.ask_next(now),
                    Some(Stage::Asked { deadline, .. }) if deadline <= now => {
                        self.abort_move(timed_out(), now);
                    }
                    Some(Stage::Settling { .. } | Stage::Asked { .. } | Stage::Draining { .. })
                    | None => {}
                }
            }
            // Once it has left, there is nothing to take along.
            State::Seated(seat) => {
                if let Some(Stage::Asked { deadline, .. }) = seat.stage()
                    && deadline <= now
                {
                    self.abort_move(timed_out(), now);
                }
            }
        }
    }

    /// When the move's next step is due.
    pub(super) fn moving_timeout(&self) -> Option<Instant> {
        let seat = self.seat()?;
        let next_is_up = self.next.as_ref().is_some_and(|next| next.link == Link::Up);
        match seat.stage()? {
            Stage::Settling { ask_at } => {
                Some(ask_at).filter(|_| next_is_up && seat.phase == Phase::Live)
            }
            Stage::Asked { deadline, .. } => Some(deadline).filter(|_| next_is_up),
            Stage::Draining { .. } => seat.drained_at(),
        }
    }

    fn ask_next(&mut self, now: Instant) {
        let request = self.next_request();
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        seat.count_connection();
        seat.set_stage(Stage::Asked {
            request,
            deadline: now + limits::REQUEST_TIMEOUT + ANSWER_GRACE,
            ended: false,
        });
        let join = seat.resume();
        self.control_next(ClientMessage::Join { request, join });
    }

    fn joined_next(&mut self, request: u64, joined: &Joined, now: Instant) {
        let attachment = joined.attachment;
        let State::Seated(seat) = &mut self.state else {
            // The session is over meanwhile: its seat there is given up.
            let request = self.next_request();
            return self.control_next(ClientMessage::Leave {
                request,
                attachment,
            });
        };
        let ended = match seat.stage() {
            Some(Stage::Asked {
                request: asked,
                ended,
                ..
            }) if asked == request => ended,
            Some(Stage::Settling { .. } | Stage::Asked { .. } | Stage::Draining { .. }) | None => {
                return;
            }
        };
        let former = seat.attachment;
        if !joined.resumed || joined.index > seat.place.index {
            self.switch();
            self.last_attachment = attachment;
            self.outputs.push_back(Output::DropFormer);
            self.ask_to_leave(attachment);
            return self.end(super::not_retained(), false);
        }
        self.outputs.push_back(Output::Moved {
            node: self.next.as_mut().and_then(|next| next.node.take()),
        });
        self.next = None;
        self.last_attachment = attachment;
        let again = seat.hand_over(former, ended, joined, now);
        seat.asked_elsewhere = false;
        seat.take_up(joined, &mut self.outputs, now);
        for message in again {
            let output = seat.publish(message);
            self.outputs.push_back(output);
        }
        self.leave_when_settled(now);
    }

    /// The next connection becomes the present one.
    fn switch(&mut self) {
        if let Some(next) = self.next.take() {
            self.link = next.link;
            self.last_attachment = next.last_attachment;
            self.outputs.push_back(Output::Moved { node: next.node });
        }
    }

    pub(super) fn finish_move_if_drained(&mut self, now: Instant) {
        let State::Seated(seat) = &mut self.state else {
            return;
        };
        let Some(gaps) = seat.take_drained(now) else {
            return;
        };
        for (sender, missed) in gaps {
            seat.count_missed(sender, missed);
            self.outputs
                .push_back(Output::Event(Event::ReliableGap { sender, missed }));
        }
        self.outputs.push_back(Output::DropFormer);
    }

    fn asked_next(&self) -> Option<u64> {
        match self.seat()?.stage()? {
            Stage::Asked { request, .. } => Some(request),
            Stage::Settling { .. } | Stage::Draining { .. } => None,
        }
    }

    fn control_next(&mut self, message: ClientMessage) {
        let frame = ClientFrame::Control(message);
        self.outputs.push_back(Output::SendNext {
            way: Way::Control,
            frame,
        });
    }
}

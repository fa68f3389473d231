//! The core's inner course: from what has happened to what follows, and from one relay to the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dreamcatcher_proto::member::{Answer, Input, Output, is_final};
use dreamcatcher_proto::{Error, ErrorCode};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Connection, EndpointEvent, VarInt};

use super::events::EventQueue;
use super::link::{self, Link, LinkEvent};
use super::{
    CLOSING_MAX, CONNECT_TIMEOUT, Core, PING_AFTER, Phase, RECONNECT_TIMEOUT, Reply, SERVER_NAME,
    SILENCE_MAX, pinned,
};

impl Core {
    // ---------------------------------------------------------------------------------- driving

    /// Lets everything that has happened take its course.
    pub(super) fn drive(&mut self, now: Instant) {
        self.driven = now;
        self.carry_out(now);
        self.roam(now);
        loop {
            self.drive_link(now);
            if !(self.drive_next(now) | self.drive_former(now)) {
                break;
            }
        }
        self.paused = !self.events.takes_streams();
        self.settle_closing();
    }

    fn drive_link(&mut self, now: Instant) {
        while let Some(link) = &mut self.link {
            match link.poll_event(&mut self.endpoint) {
                Some(LinkEvent::Up) => {
                    self.member.handle(Input::Connected, now);
                    self.carry_out(now);
                }
                Some(LinkEvent::Lost(error)) => self.lose_link(error, now),
                None => break,
            }
        }
        while let Some(link) = &mut self.link {
            let member = &self.member;
            let holds = member.holds_reliable();
            match link.next_frame(self.events.takes_streams(), |at| {
                holds || member.is_early(at)
            }) {
                Ok(Some(frame)) => {
                    self.member.handle(Input::Frame(frame), now);
                    self.carry_out(now);
                }
                Ok(None) => break,
                Err(error) => self.lose_link(ours(&error), now),
            }
        }
    }

    /// The connection that is to take the present one's place; whether anything came of it.
    fn drive_next(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(next) = &mut self.next {
            let member = &self.member;
            let input = match next.link.poll_event(&mut self.endpoint) {
                Some(LinkEvent::Up) => Input::NextConnected,
                Some(LinkEvent::Lost(error)) => Input::NextLost(error),
                None => match next.link.next_frame(true, |at| member.is_early_on_next(at)) {
                    Ok(Some(frame)) => {
                        self.next_is_up();
                        Input::NextFrame(frame)
                    }
                    Ok(None) => break,
                    Err(error) => Input::NextLost(ours(&error)),
                },
            };
            moved = true;
            self.member.handle(input, now);
            self.carry_out(now);
        }
        moved
    }

    /// The connection that was the present one before a move; whether anything came of it.
    fn drive_former(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(former) = &mut self.former {
            let input = match former.poll_event(&mut self.endpoint) {
                Some(LinkEvent::Up) => continue,
                Some(LinkEvent::Lost(_)) => Input::FormerLost,
                None => match former.next_frame(self.events.takes_streams(), |_| false) {
                    Ok(Some(frame)) => Input::FormerFrame(frame),
                    Ok(None) => break,
                    Err(_) => Input::FormerLost,
                },
            };
            moved = true;
            if let Input::FormerLost = input {
                self.close_former(now);
            }
            self.member.handle(input, now);
            self.carry_out(now);
        }
        moved
    }

    /// Hands what waits on the other links to QUIC.
    pub(super) fn flush_others(&mut self, now: Instant) {
        if let Some(former) = &mut self.former
            && former.flush().is_err()
        {
            self.close_former(now);
            self.member.handle(Input::FormerLost, now);
            self.carry_out(now);
        }
        if let Some(Err(error)) = self.next.as_mut().map(|next| next.link.flush()) {
            self.member.handle(Input::NextLost(error), now);
            self.carry_out(now);
        }
    }

    /// Does what the member wants done.
    pub(super) fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.member.poll_output() {
            match output {
                Output::Send { way, frame } => {
                    if let Some(link) = &mut self.link {
                        link.send(way, &frame);
                    }
                }
                Output::Event(event) => self.events.push(event),
                Output::Answer(Answer::Welcome { node, user }) => {
                    if let Phase::Connecting { .. } = self.phase {
                        self.replies.push_back(Reply::Connected { node, user });
                    }
                    self.phase = Phase::Connected { since: now };
                }
                Output::Answer(Answer::Joined(session)) => {
                    self.joins += 1;
                    self.consider_owner(session.owner.clone());
                    self.stats.dropped_in += self.events.dropped();
                    self.events = EventQueue::default();
                    self.replies.push_back(Reply::Joined(session));
                }
                Output::Answer(Answer::Refused(error)) => {
                    self.replies.push_back(Reply::Refused(error))
                }
                Output::Reconnect(error) => self.lose_link(ours(&error), now),
                Output::SendNext { way, frame } => {
                    if let Some(next) = &mut self.next {
                        next.link.send(way, &frame);
                    }
                }
                Output::Moved { .. } => self.moved(now),
                Output::DropNext(error) => self.drop_next(&error, now),
                Output::DropFormer => self.close_former(now),
                Output::Draining { deadline } => self.relay_drains(deadline),
            }
        }
    }

    // --------------------------------------------------------------------------------- failover

    pub(super) fn connect_first(&mut self, give_up: Instant, now: Instant) {
        while let Err(error) = self.open_link(now) {
            if let Err(error) = self.failover.next_of_first_round(&error) {
                return self.fail(error, now);
            }
        }
        // Who was silent before is not waited for as long.
        let patience = if self.failover.is_silent() {
            RECONNECT_TIMEOUT
        } else {
            CONNECT_TIMEOUT
        };
        self.phase = Phase::Connecting {
            deadline: now + patience,
            give_up,
        };
    }

    pub(super) fn reconnect(&mut self, now: Instant) {
        match self.open_link(now) {
            Ok(()) => {
                self.phase = Phase::Reconnecting {
                    deadline: now + RECONNECT_TIMEOUT,
                }
            }
            Err(_) => self.pause(Duration::ZERO, now),
        }
    }

    fn pause(&mut self, held: Duration, now: Instant) {
        self.roaming.stop();
        let [jitter, ..] = self.random.draw();
        self.phase = Phase::Pausing {
            until: now + self.failover.next_after(held, jitter),
        };
        self.roaming.wants_relays |= self.failover.has_failed_all();
    }

    fn open_link(&mut self, now: Instant) -> Result<(), Error> {
        self.link = Some(self.make_link(self.failover.present(), now)?);
        Ok(())
    }

    /// Begins to connect to the relay at this place of the list.
    pub(super) fn make_link(&mut self, place: usize, now: Instant) -> Result<Link, Error> {
        let cannot =
            |error: &dyn std::fmt::Display| Error::new(ErrorCode::Internal, error.to_string());
        let relay = self.failover.relay_at(place);
        let tls =
            pinned::client_config(relay.certificate_sha256.clone()).map_err(|e| cannot(&e))?;
        let tls = QuicClientConfig::try_from(tls).map_err(|e| cannot(&e))?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::clone(&self.transport));
        let random = self.random.clone();
        config.initial_dst_cid_provider(Arc::new(move || random.connection_id()));
        let name = relay.node_id.as_deref().unwrap_or(SERVER_NAME);
        let (handle, connection) = self
            .endpoint
            .connect(now, config, relay.address, name)
            .map_err(|error| Error::new(ErrorCode::ConnectionLost, error.to_string()))?;
        Ok(Link::new(handle, connection, now))
    }

    /// The connection is of no use any more: says goodbye and looks for the next, if there is to be
    /// one.
    pub(super) fn lose_link(&mut self, error: Error, now: Instant) {
        self.close_link(&error, now);
        self.member.handle(Input::Lost(error.clone()), now);
        if !is_final(error.code()) && self.take_next(now) {
            return self.carry_out(now);
        }
        match self.phase {
            _ if is_final(error.code()) => self.fail(error, now),
            Phase::Connecting { give_up, .. } => match self.failover.next_of_first_round(&error) {
                Ok(()) if give_up > now => self.connect_first(give_up, now),
                Ok(()) => {
                    let error = self.failover.unreachable();
                    self.fail(error, now);
                }
                Err(error) => self.fail(error, now),
            },
            Phase::Connected { since } => {
                self.stats.reconnects += 1;
                self.pause(now.saturating_duration_since(since), now);
            }
            Phase::Surveying { .. } | Phase::Reconnecting { .. } | Phase::Pausing { .. } => {
                self.pause(Duration::ZERO, now);
            }
            Phase::Failed(_) => {}
        }
        self.carry_out(now);
    }

    /// The present connection is lost while the next is being made: that one takes its place.
    fn take_next(&mut self, now: Instant) -> bool {
        let Some(next) = self.next.take() else {
            return false;
        };
        let deadline = next.reconnect_deadline();
        self.link = Some(next.link);
        self.failover.moved_to(next.place);
        self.stats.reconnects += 1;
        self.phase = if self.member.is_connected() {
            Phase::Connected { since: now }
        } else {
            Phase::Reconnecting { deadline }
        };
        true
    }

    pub(super) fn fail(&mut self, error: Error, now: Instant) {
        if self.failure().is_some() {
            return;
        }
        self.close_link(&ErrorCode::Ok.into(), now);
        if let Some(next) = self.next.take() {
            self.part(next.link, &ErrorCode::Ok.into(), now);
        }
        self.close_former(now);
        self.roaming.stop();
        self.phase = Phase::Failed(error.clone());
        self.replies.push_back(Reply::Failed(error));
    }

    fn close_link(&mut self, error: &Error, now: Instant) {
        if let Some(link) = self.link.take() {
            self.part(link, error, now);
        }
    }

    /// Says goodbye on a link.
    pub(super) fn part(&mut self, mut link: Link, error: &Error, now: Instant) {
        self.stats.dropped_out += link.dropped();
        if !link.connection.is_closed() {
            let reason = Bytes::copy_from_slice(error.message().as_bytes());
            link.connection
                .close(now, VarInt::from_u32(error.code() as u32), reason);
        }
        if self.closing.len() == CLOSING_MAX
            && let Some((handle, _)) = self.closing.pop_front()
        {
            self.endpoint.handle_event(handle, EndpointEvent::drained());
        }
        self.closing.push_back((link.handle, link.connection));
    }

    /// Forgets the connections that have said goodbye.
    pub(super) fn settle_closing(&mut self) {
        let endpoint = &mut self.endpoint;
        self.closing.retain_mut(|(handle, connection)| {
            link::exchange(connection, *handle, endpoint);
            !connection.is_drained()
        });
    }

    pub(super) fn connections(&mut self) -> impl Iterator<Item = &mut Connection> {
        let next = self.next.iter_mut().map(|next| &mut next.link);
        let links = self.link.iter_mut().chain(next).chain(&mut self.former);
        let closing = self.closing.iter_mut().map(|(_, connection)| connection);
        links.map(|link| &mut link.connection).chain(closing)
    }

    pub(super) fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        let next = self.next.iter_mut().map(|next| &mut next.link);
        self.link.iter_mut().chain(next).chain(&mut self.former)
    }

    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.link
            .as_ref()
            .map(|link| link.heard + PING_AFTER + SILENCE_MAX)
    }
}

/// An error of the relay's that was found here: another relay may do better.
fn ours(error: &Error) -> Error {
    match error.code() {
        code if is_final(code) && code != ErrorCode::ProtocolVersion => {
            Error::new(ErrorCode::ConnectionLost, error.to_string())
        }
        _ => error.clone(),
    }
}

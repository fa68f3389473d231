//! The client without I/O: [`Member`] over QUIC, with failover from relay to relay.
//!
//! ```text
//!   create, join, send, leave ─▶ ┌──────────────────────────┐ ─▶ poll_transmit ─▶ UDP
//!   poll_reply, poll_event ◀──── │ Member ⇄ Link (QUIC)     │ ◀─ handle_datagram ◀
//!                                │      Failover, Roaming   │ ◀─ handle_timeout
//!                                └──────────────────────────┘ ─▶ poll_timeout
//! ```
//!
//! It has no socket, no thread and no clock, so that a whole mesh with its players runs in one loop
//! in virtual time: same seed and same inputs, same outputs. Whoever drives it calls, per wake-up,
//! [`Core::handle_datagram`] for everything that came, [`Core::handle_timeout`], then
//! [`Core::poll_transmit`] until there is nothing more.
//!
//! There is one link, but for the time of a move: then the next one is made before the present one
//! is let go, and the former one brings what was under way.

mod drive;
mod events;
mod failover;
mod link;
mod pinned;
pub(crate) mod random;
mod roaming;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::{Bytes, BytesMut};
use dreamcatcher_proto::control::{self, JoinBy, SessionOptions};
use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::limits::PING_AFTER;
use dreamcatcher_proto::member::{Event, Input, Member, SendId, SendOptions, SessionInfo};
use dreamcatcher_proto::{Error, ErrorCode, Index, NodeId, UserId};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Transmit,
    TransportConfig,
};

use events::EventQueue;
use failover::Failover;
pub use failover::{Pick, RelayAddress};
use link::Link;
use random::Random;
pub use roaming::Probing;
use roaming::{Next, Roaming};

/// From the first packet to the relay's `Welcome`, at the first connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The whole first connect, over all relays.
pub const CONNECT_TOTAL_TIMEOUT: Duration = Duration::from_secs(15);
/// The same on a reconnect: the path is known to work, so the next relay is tried sooner.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A relay that is pinged and says nothing for this long is gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Connections that are still saying goodbye; the oldest is forgotten.
const CLOSING_MAX: usize = 4;
/// Name and version in `Hello`.
const SDK: &str = concat!("dreamcatcher-client/", env!("CARGO_PKG_VERSION"));
/// The name in TLS when the relay has none: certificates are pinned, names do not count.
const SERVER_NAME: &str = "dreamcatcher";

/// What a [`Core`] is made of.
#[derive(Clone)]
pub struct CoreConfig {
    /// In order of preference, if they are to be tried so.
    pub relays: Vec<RelayAddress>,
    pub pick: Pick,
    /// Whether to move to the relay of a session's owner when it is no farther.
    pub follow_owner: bool,
    pub probing: Probing,
    /// The access token.
    pub token: String,
    /// Seeds connection ids and jitter. Random, except in a simulation.
    pub seed: [u8; 32],
    /// UDP datagrams that one [`Transmit`] may hold (GSO), at least 1.
    pub segments_max: usize,
    /// Whether QUIC may look for a larger MTU: not where the network fragments datagrams.
    pub mtu_discovery: bool,
}

impl std::fmt::Debug for CoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            relays,
            pick,
            follow_owner,
            probing,
            segments_max,
            mtu_discovery,
            ..
        } = self;
        f.debug_struct("CoreConfig")
            .field("relays", relays)
            .field("pick", pick)
            .field("follow_owner", follow_owner)
            .field("probing", probing)
            .field("segments_max", segments_max)
            .field("mtu_discovery", mtu_discovery)
            .finish_non_exhaustive()
    }
}

/// What a connect, create or join came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A relay has accepted the token: the first time only, reconnects are silent.
    Connected { node: NodeId, user: UserId },
    /// There is no connection, and none is looked for any more.
    Failed(Error),
    /// The `create` or `join` succeeded.
    Joined(SessionInfo),
    /// The `create` or `join` failed.
    Refused(Error),
}

/// What a client counts, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that were lost and looked for anew.
    pub reconnects: u64,
    /// Moves to another relay while the former one still served.
    pub moves: u64,
    /// Moves that came to nothing: the present relay stayed.
    pub moves_failed: u64,
    /// `Latest` and `Datagram` messages that came and that the game was too slow for.
    pub dropped_in: u64,
    /// `Latest` and `Datagram` messages that were not sent because the connection was too slow.
    pub dropped_out: u64,
    /// The round trip to the relay, while there is a connection.
    pub rtt: Option<Duration>,
}

/// One client.
pub struct Core {
    member: Member,
    endpoint: Endpoint,
    transport: Arc<TransportConfig>,
    random: Random,
    segments_max: usize,
    failover: Failover,
    phase: Phase,
    roaming: Roaming,
    link: Option<Link>,
    /// While it moves to another relay: see [`roaming`].
    next: Option<Next>,
    former: Option<Link>,
    closing: VecDeque<(ConnectionHandle, Connection)>,
    replies: VecDeque<Reply>,
    events: EventQueue,
    /// Sessions joined so far: tells the events of one session from those of the next.
    joins: u64,
    /// Whether streams were left alone because the game has fallen behind.
    paused: bool,
    /// When the core was last driven.
    driven: Instant,
    stats: Stats,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// Before the first connect: which relay is near?
    Surveying {
        give_up: Instant,
    },
    /// The first connect: nobody has answered yet.
    Connecting {
        deadline: Instant,
        give_up: Instant,
    },
    Reconnecting {
        deadline: Instant,
    },
    /// Before the next try.
    Pausing {
        until: Instant,
    },
    Connected {
        since: Instant,
    },
    /// For good.
    Failed(Error),
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("phase", &self.phase)
            .field("relay", &self.failover.relay().name())
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A client that begins to connect. The outcome is a [`Reply`].
    pub fn new(config: CoreConfig, now: Instant) -> Result<Self, Error> {
        let CoreConfig {
            relays,
            pick,
            follow_owner,
            probing,
            token,
            seed,
            segments_max,
            mtu_discovery,
        } = config;
        let failover = Failover::new(relays, pick)?;
        let random = Random::new(seed);
        let ids = random.clone();
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &random.draw());
        let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
        endpoint.rng_seed(Some(random.draw()));
        endpoint.cid_generator(move || Box::new(ids.clone()));
        let mut core = Self {
            member: Member::new(token, SDK.to_owned()),
            endpoint: Endpoint::new(Arc::new(endpoint), None, mtu_discovery, None),
            transport: Arc::new(link::transport()),
            random,
            segments_max: segments_max.max(1),
            failover,
            phase: Phase::Pausing { until: now },
            roaming: Roaming::new(probing, follow_owner, now),
            link: None,
            next: None,
            former: None,
            closing: VecDeque::new(),
            replies: VecDeque::new(),
            events: EventQueue::default(),
            joins: 0,
            paused: false,
            driven: now,
            stats: Stats::default(),
        };
        core.begin_first(now);
        core.drive(now);
        Ok(core)
    }

    // ---------------------------------------------------------------------------------- getters

    /// The session, from `Joined` to `Ended`.
    #[must_use]
    pub fn session(&self) -> Option<&SessionInfo> {
        self.member.session()
    }

    /// The members as of the newest entry; the client's own from its `PeerJoined` on.
    pub fn roster(&self) -> impl Iterator<Item = &control::Member> {
        self.member.roster()
    }

    /// The newest entry of the session's order that came here.
    #[must_use]
    pub fn index(&self) -> Option<Index> {
        self.member.index()
    }

    /// Ordered sends without a known outcome.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.member.unresolved()
    }

    /// Whether a relay has accepted the token on the present connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.member.is_connected()
    }

    /// Why there will be no connection any more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&Error> {
        match &self.phase {
            Phase::Failed(error) => Some(error),
            Phase::Surveying { .. }
            | Phase::Connecting { .. }
            | Phase::Reconnecting { .. }
            | Phase::Pausing { .. }
            | Phase::Connected { .. } => None,
        }
    }

    /// Whether it is over and every goodbye is said: nothing is left to drive.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.failure().is_some() && self.closing.is_empty()
    }

    /// Sessions joined so far. The events of one are forgotten when the next is joined.
    #[must_use]
    pub fn joins(&self) -> u64 {
        self.joins
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            dropped_in: self.stats.dropped_in + self.events.dropped(),
            dropped_out: self.stats.dropped_out + self.link.as_ref().map_or(0, Link::dropped),
            rtt: self.link.as_ref().map(|link| link.connection.rtt()),
            ..self.stats
        }
    }

    // --------------------------------------------------------------------------------- commands

    /// The token for the next time that a relay asks for one. Tokens are short-lived; connections
    /// outlive them.
    pub fn set_token(&mut self, token: String) {
        self.member.set_token(token);
    }

    /// Creates a session and joins it. The outcome is a [`Reply`].
    pub fn create(&mut self, options: SessionOptions, now: Instant) -> Result<(), Error> {
        self.check_alive()?;
        self.member.create(options, now)?;
        self.drive(now);
        Ok(())
    }

    /// Joins a session. The outcome is a [`Reply`].
    pub fn join(&mut self, by: JoinBy, app_version: String, now: Instant) -> Result<(), Error> {
        self.check_alive()?;
        self.member.join(by, app_version, now)?;
        self.drive(now);
        Ok(())
    }

    /// Sends a message to members of the session. An error means that it was not sent.
    pub fn send(
        &mut self,
        options: SendOptions,
        payload: Bytes,
        now: Instant,
    ) -> Result<SendId, Error> {
        let full = self.link.as_ref().is_some_and(|link| !link.has_room());
        if options.mode == Mode::Reliable && full {
            let message = "1 MiB of Reliable messages waits to be sent; send fewer, or later";
            return Err(Error::new(ErrorCode::RateLimited, message));
        }
        let sent = self.member.send(options, payload)?;
        self.carry_out(now);
        Ok(sent)
    }

    /// Gives the seat in the session up. The outcome is [`Event::Ended`] with `Ok`.
    pub fn leave(&mut self, now: Instant) -> Result<(), Error> {
        self.member.leave(now)?;
        self.drive(now);
        Ok(())
    }

    /// Ends the connection. A session that was not left holds the seat for its `rejoin_hold`.
    pub fn close(&mut self, now: Instant) {
        self.member
            .handle(Input::Lost(ErrorCode::Cancelled.into()), now);
        self.fail(ErrorCode::Cancelled.into(), now);
        self.drive(now);
    }

    // ----------------------------------------------------------------------------------- inputs

    /// Takes a UDP datagram in.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
        now: Instant,
    ) {
        if let Some(survey) = self.roaming.survey()
            && survey.handle_datagram(from, &data, now)
        {
            return self.drive(now);
        }
        let mut response = Vec::new();
        match self
            .endpoint
            .handle(now, from, None, ecn, data, &mut response)
        {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(link) = self.links().find(|link| link.handle == handle) {
                    link.heard = now;
                    link.connection.handle_event(event);
                } else if let Some((_, connection)) =
                    self.closing.iter_mut().find(|(h, _)| *h == handle)
                {
                    connection.handle_event(event);
                }
            }
            // Nobody is to connect here, and a relay whose connection is forgotten here finds out
            // by its own timeout.
            Some(DatagramEvent::NewConnection(_) | DatagramEvent::Response(_)) | None => {}
        }
        self.drive(now);
    }

    /// Lets due timers fire. To call it too early or too often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        for connection in self.connections() {
            if connection.poll_timeout().is_some_and(|due| due <= now) {
                connection.handle_timeout(now);
            }
        }
        self.member.handle_timeout(now);
        match self.phase {
            Phase::Connecting { deadline, give_up } if deadline.min(give_up) <= now => {
                let message = "no answer in time";
                self.lose_link(Error::new(ErrorCode::TimedOut, message), now);
            }
            Phase::Reconnecting { deadline } if deadline <= now => {
                self.lose_link(ErrorCode::ConnectionLost.into(), now);
            }
            Phase::Pausing { until } if until <= now => self.reconnect(now),
            Phase::Connected { .. } if self.silent_at().is_some_and(|at| at <= now) => {
                let message = format!("nothing heard for {} s", SILENCE_MAX.as_secs());
                self.lose_link(Error::new(ErrorCode::ConnectionLost, message), now);
            }
            Phase::Surveying { .. }
            | Phase::Connecting { .. }
            | Phase::Reconnecting { .. }
            | Phase::Pausing { .. }
            | Phase::Connected { .. }
            | Phase::Failed(_) => {}
        }
        self.drive(now);
    }

    // ---------------------------------------------------------------------------------- outputs

    /// The next outcome of a connect, create or join.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// The next event of the session. When the game had fallen behind and has caught up,
    /// [`Self::poll_timeout`] becomes due.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Whether [`Self::poll_event`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether [`Self::poll_reply`] has something.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Fills `buffer` with what is to be sent next, in place of what it held.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        if let Some(survey) = self.roaming.survey()
            && let Some(destination) = survey.poll_transmit(now, buffer)
        {
            return Some(Transmit {
                destination,
                ecn: None,
                size: buffer.len(),
                segment_size: None,
                src_ip: None,
            });
        }
        buffer.clear();
        self.flush_others(now);
        if let Some(Err(error)) = self.link.as_mut().map(Link::flush) {
            self.lose_link(error, now);
            self.drive(now);
        }
        let segments_max = self.segments_max;
        let transmit = self
            .connections()
            .find_map(|connection| connection.poll_transmit(now, segments_max, buffer));
        if transmit.is_none() {
            self.settle_closing();
        }
        transmit
    }

    /// When [`Self::handle_timeout`] is next due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let connections = self
            .connections()
            .filter_map(Connection::poll_timeout)
            .min();
        let phase = match self.phase {
            Phase::Connecting { deadline, give_up } => Some(deadline.min(give_up)),
            Phase::Reconnecting { deadline } => Some(deadline),
            Phase::Pausing { until } => Some(until),
            Phase::Connected { .. } => self.silent_at(),
            Phase::Surveying { .. } | Phase::Failed(_) => None,
        };
        let caught_up = self.reads_late().then_some(self.driven);
        let roaming = self.roaming_timeout();
        [
            connections,
            phase,
            self.member.poll_timeout(),
            caught_up,
            roaming,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the game has caught up, and streams that were left alone can be read again.
    #[must_use]
    pub fn reads_late(&self) -> bool {
        self.paused && self.events.takes_streams()
    }

    fn check_alive(&self) -> Result<(), Error> {
        self.failure().map_or(Ok(()), |error| Err(error.clone()))
    }
}

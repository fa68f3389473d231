//! Links to other nodes: one connection per pair, dialled when something has to go there.
//!
//! ```text
//!   Waiting (back-off) ──dial──▶ Dialling ──their Hello──▶ Up ──lost──▶ Waiting
//!                      their dial, their Hello ───────────▶
//! ```
//!
//! Both ends may dial at once; the connection that the node with the lower id dialled stays. Frames
//! wait, within a limit, until the link is up; what was on a link that breaks is lost, and both ends
//! are told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dreamcatcher_proto::control::LinkMessage;
use dreamcatcher_proto::frame::LinkFrame;
use dreamcatcher_proto::{BootId, Error, ErrorCode, NodeId, SessionId, limits};
use tracing::{debug, error, info, warn};

use super::connection::{BULK_LANE, LaneId};
use super::endpoint::{ConnectionId, Endpoint};
use crate::identity;

/// What became of a link.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every event is a frame; a box for each would be an allocation for nothing"
)]
pub(super) enum Event {
    Frame {
        node: NodeId,
        frame: LinkFrame,
    },
    /// Frames go there from now on.
    Up {
        node: NodeId,
    },
    /// Frames on the way are lost.
    Lost {
        node: NodeId,
    },
    /// The other end is a new run: what the run before owned is gone.
    Restarted {
        node: NodeId,
        boot: BootId,
    },
    /// These had to be given up before the link was up.
    Undelivered {
        node: NodeId,
        cause: ErrorCode,
        frames: Vec<LinkFrame>,
    },
}

pub(super) struct Mesh {
    me: NodeId,
    boot: BootId,
    client_config: quinn_proto::ClientConfig,
    links: BTreeMap<NodeId, Link>,
    /// Whom a connection leads to; an accepted one that has not said its name yet is missing.
    peers: BTreeMap<ConnectionId, NodeId>,
    redials: u64,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("me", &self.me)
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Link {
    state: State,
    /// The last run of the other end that this node has met.
    boot: Option<BootId>,
    /// What waits for the link to come up.
    queue: Vec<LinkFrame>,
    failures: u32,
    /// Frames that overtook the Hello on another stream.
    early: Vec<LinkFrame>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Dialling {
        connection: ConnectionId,
    },
    Up {
        connection: ConnectionId,
        since: Instant,
        dialled: bool,
    },
}

/// First pause before a link is dialled again; doubles up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// Frames that wait for a link to come up. Members talk only through links that are up, so these
/// are requests to join; more of them than this fail at once.
const QUEUE_FRAMES_MAX: usize = 4_096;
/// Frames that may overtake a Hello.
const EARLY_FRAMES_MAX: usize = 1_024;
/// Streams that the sessions of a link are spread over, so that a lost packet holds up only some.
const LANES: usize = 8;
/// A dial that lost against the other end's waits this long for that one to come up, then goes on.
const RIVAL_COMES_WITHIN: Duration = Duration::from_millis(500);
/// Two nodes that dial each other at once do so within this time.
const SIMULTANEOUS: Duration = Duration::from_secs(2);

impl Mesh {
    pub(super) fn new(me: NodeId, boot: BootId, client_config: quinn_proto::ClientConfig) -> Self {
        Self {
            me,
            boot,
            client_config,
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            redials: 0,
        }
    }

    pub(super) fn up(&self) -> usize {
        self.links
            .values()
            .filter(|link| matches!(link.state, State::Up { .. }))
            .count()
    }

    pub(super) fn redials(&self) -> u64 {
        self.redials
    }

    pub(super) fn is_up(&self, node: &NodeId) -> bool {
        self.links
            .get(node)
            .is_some_and(|link| matches!(link.state, State::Up { .. }))
    }

    /// Sends a frame, over a link that may have to be dialled first.
    pub(super) fn send(
        &mut self,
        node: &NodeId,
        frame: LinkFrame,
        endpoint: &mut Endpoint,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let link = self
            .links
            .entry(node.clone())
            .or_insert_with(|| Link::new(now));
        if let State::Up { connection, .. } = link.state {
            let over = match endpoint.get(connection) {
                Some(quic) => {
                    write(quic, &frame);
                    quic.backlog() > limits::LINK_QUEUE_BYTES_MAX
                }
                None => true,
            };
            if over {
                let error = Error::new(ErrorCode::SlowConsumer, "the link's queue is full");
                self.drop_connection(connection, &error, endpoint, now, events);
            }
            return;
        }
        if link.queue.len() >= QUEUE_FRAMES_MAX {
            events.push(Event::Undelivered {
                node: node.clone(),
                cause: ErrorCode::Timeout,
                frames: vec![frame],
            });
            return;
        }
        link.queue.push(frame);
    }

    /// Dials what is wanted and due. `address` knows where a node listens.
    pub(super) fn dial(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        address: impl Fn(&NodeId) -> Option<std::net::SocketAddr>,
        events: &mut Vec<Event>,
    ) {
        for (node, link) in &mut self.links {
            let State::Waiting { until } = link.state else {
                continue;
            };
            if until > now || link.queue.is_empty() {
                continue;
            }
            let dialled = address(node).map(|to| {
                debug!(%node, %to, "dialling");
                endpoint.connect(self.client_config.clone(), to, node.as_str(), now)
            });
            match dialled {
                Some(Ok(connection)) => {
                    self.redials += u64::from(link.failures > 0 || link.boot.is_some());
                    link.state = State::Dialling { connection };
                    self.peers.insert(connection, node.clone());
                }
                Some(Err(error)) => {
                    warn!(%node, %error, "cannot dial");
                    link.fail(now);
                    give_up_queue(node, link, ErrorCode::Timeout, events);
                }
                None => {
                    link.fail(now);
                    give_up_queue(node, link, ErrorCode::Timeout, events);
                }
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let wanted = self.links.values().filter(|link| !link.queue.is_empty());
        wanted
            .filter_map(|link| match link.state {
                State::Waiting { until } => Some(until),
                State::Dialling { .. } | State::Up { .. } => None,
            })
            .min()
    }

    pub(super) fn connected(&mut self, connection: ConnectionId, endpoint: &mut Endpoint) {
        // Whoever dialled speaks first.
        if self.peers.contains_key(&connection) {
            self.say_hello(connection, endpoint);
        }
    }

    fn say_hello(&self, connection: ConnectionId, endpoint: &mut Endpoint) {
        let hello = LinkMessage::Hello {
            version: limits::PROTOCOL_VERSION,
            node: self.me.clone(),
            boot: self.boot,
        };
        if let Some(quic) = endpoint.get(connection) {
            write(quic, &LinkFrame::Control(hello));
        }
    }

    /// A frame came in.
    pub(super) fn frame(
        &mut self,
        connection: ConnectionId,
        frame: LinkFrame,
        endpoint: &mut Endpoint,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        if let LinkFrame::Control(LinkMessage::Hello {
            version,
            node,
            boot,
        }) = frame
        {
            if let Err(error) = self.hello(connection, version, node, boot, endpoint, now, events) {
                info!(%error, "link refused");
                self.drop_connection(connection, &error, endpoint, now, events);
            }
            return;
        }
        let Some(node) = self.peers.get(&connection) else {
            let error = Error::new(
                ErrorCode::InvalidState,
                "the first frame of a link must be Hello",
            );
            return self.drop_connection(connection, &error, endpoint, now, events);
        };
        let Some(link) = self.links.get_mut(node) else {
            return;
        };
        match link.state {
            State::Up {
                connection: current,
                ..
            } if current == connection => {
                events.push(Event::Frame {
                    node: node.clone(),
                    frame,
                });
            }
            State::Dialling {
                connection: current,
            } if current == connection => {
                link.early.push(frame);
                if link.early.len() > EARLY_FRAMES_MAX {
                    let error = Error::new(
                        ErrorCode::InvalidState,
                        "the link sends frames before its Hello",
                    );
                    self.drop_connection(connection, &error, endpoint, now, events);
                }
            }
            State::Waiting { .. } | State::Dialling { .. } | State::Up { .. } => {}
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one message with its three fields and its surroundings"
    )]
    fn hello(
        &mut self,
        connection: ConnectionId,
        version: u32,
        node: NodeId,
        boot: BootId,
        endpoint: &mut Endpoint,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        if version != limits::PROTOCOL_VERSION {
            let message = format!(
                "this node speaks version {}, the other {version}",
                limits::PROTOCOL_VERSION
            );
            return Err(Error::new(ErrorCode::ProtocolVersion, message));
        }
        let dialled = self.peers.get(&connection).cloned();
        if let Some(expected) = &dialled
            && *expected != node
        {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{node} answered for {expected}"),
            ));
        }
        let certificate = endpoint
            .get(connection)
            .and_then(|quic| quic.peer_certificate());
        if !certificate.is_some_and(|certificate| identity::peer_is(&certificate, &node))
            || node == self.me
        {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("the certificate is not that of {node}"),
            ));
        }
        let dialled = dialled.is_some();
        if !dialled {
            self.settle_rivals(connection, &node, endpoint, now, events)?;
            self.say_hello(connection, endpoint);
            self.peers.insert(connection, node.clone());
        }
        let link = self
            .links
            .entry(node.clone())
            .or_insert_with(|| Link::new(now));
        if link.boot.replace(boot).is_some_and(|before| before != boot) {
            let node = node.clone();
            events.push(Event::Restarted { node, boot });
        }
        debug!(%node, dialled, "link up");
        events.push(Event::Up { node: node.clone() });
        link.state = State::Up {
            connection,
            since: now,
            dialled,
        };
        link.failures = 0;
        if let Some(quic) = endpoint.get(connection) {
            link.queue.drain(..).for_each(|frame| write(quic, &frame));
        }
        let early = link.early.drain(..);
        events.extend(early.map(|frame| Event::Frame {
            node: node.clone(),
            frame,
        }));
        Ok(())
    }

    /// `node` dialled us: which of two connections stays?
    fn settle_rivals(
        &mut self,
        newcomer: ConnectionId,
        node: &NodeId,
        endpoint: &mut Endpoint,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(node) else {
            return Ok(());
        };
        let mine_wins = self.me < *node;
        let duplicate = || {
            Err(Error::new(
                ErrorCode::Ok,
                "another connection of this pair stays",
            ))
        };
        match link.state {
            State::Waiting { .. } => Ok(()),
            State::Dialling { connection } => {
                if mine_wins {
                    return duplicate();
                }
                self.peers.remove(&connection);
                link.state = State::Waiting { until: now };
                if let Some(quic) = endpoint.get(connection) {
                    quic.close(
                        &Error::new(ErrorCode::Ok, "another connection of this pair stays"),
                        now,
                    );
                }
                Ok(())
            }
            State::Up { since, dialled, .. }
                if dialled && mine_wins && now - since < SIMULTANEOUS =>
            {
                duplicate()
            }
            State::Up { connection, .. } => {
                debug_assert_ne!(connection, newcomer);
                let error = Error::new(
                    ErrorCode::ReplacedByNewConnection,
                    "the other end dialled again",
                );
                self.drop_connection(connection, &error, endpoint, now, events);
                Ok(())
            }
        }
    }

    /// The connection ended; `cause` is `Ok` where the other end prefers another connection of this
    /// pair.
    pub(super) fn lost(
        &mut self,
        connection: ConnectionId,
        cause: ErrorCode,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let Some(node) = self.peers.remove(&connection) else {
            return;
        };
        let Some(link) = self.links.get_mut(&node) else {
            return;
        };
        match link.state {
            State::Up {
                connection: current,
                ..
            } if current == connection => {
                info!(%node, "link lost");
                link.fail(now);
                events.push(Event::Lost { node });
            }
            State::Dialling {
                connection: current,
            } if current == connection => {
                debug!(%node, %cause, "no link");
                if cause == ErrorCode::Ok {
                    // Theirs is on its way; what waits takes that one.
                    let until = now + RIVAL_COMES_WITHIN;
                    link.state = State::Waiting { until };
                    return;
                }
                link.fail(now);
                if cause == ErrorCode::WrongClusterKey {
                    error!(%node, "{}", cause.meaning());
                }
                give_up_queue(&node, link, cause, events);
            }
            State::Waiting { .. } | State::Dialling { .. } | State::Up { .. } => {}
        }
    }

    /// The process behind this name is gone: nothing waits for it any longer.
    pub(super) fn forget(
        &mut self,
        node: &NodeId,
        endpoint: &mut Endpoint,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let Some(mut link) = self.links.remove(node) else {
            return;
        };
        give_up_queue(node, &mut link, ErrorCode::Timeout, events);
        let (State::Dialling { connection } | State::Up { connection, .. }) = link.state else {
            return;
        };
        self.peers.remove(&connection);
        if let Some(quic) = endpoint.get(connection) {
            quic.close(
                &Error::new(
                    ErrorCode::ConnectionLost,
                    "the directory says that this node is gone",
                ),
                now,
            );
        }
        if matches!(link.state, State::Up { .. }) {
            events.push(Event::Lost { node: node.clone() });
        }
    }

    /// Closes a connection, and its link with it.
    pub(super) fn drop_connection(
        &mut self,
        connection: ConnectionId,
        error: &Error,
        endpoint: &mut Endpoint,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        if let Some(quic) = endpoint.get(connection) {
            quic.close(error, now);
        }
        self.lost(connection, error.code(), now, events);
    }
}

impl Link {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting { until: now },
            boot: None,
            queue: Vec::new(),
            failures: 0,
            early: Vec::new(),
        }
    }

    fn fail(&mut self, now: Instant) {
        let pause = BACK_OFF
            .saturating_mul(1 << self.failures.min(5))
            .min(BACK_OFF_MAX);
        self.failures += 1;
        self.early.clear();
        self.state = State::Waiting { until: now + pause };
    }
}

fn give_up_queue(node: &NodeId, link: &mut Link, cause: ErrorCode, events: &mut Vec<Event>) {
    if !link.queue.is_empty() {
        let frames = std::mem::take(&mut link.queue);
        events.push(Event::Undelivered {
            node: node.clone(),
            cause,
            frames,
        });
    }
}

fn write(quic: &mut super::connection::Connection, frame: &LinkFrame) {
    let (session, unreliable) = match frame {
        LinkFrame::Control(message) => (message.session(), false),
        LinkFrame::Forward(forward) => {
            (Some(forward.session), forward.message.mode.is_unreliable())
        }
        LinkFrame::Fanout(fanout) => (Some(fanout.session), fanout.message.mode.is_unreliable()),
        LinkFrame::Ack(ack) => (Some(ack.session), false),
        LinkFrame::Store(store) => (Some(store.entry.session), false),
        LinkFrame::Stored(stored) => (Some(stored.session), false),
    };
    let lane = lane(session);
    if unreliable {
        quic.send_unreliable(lane, |out| frame.encode(out));
    } else {
        quic.send_reliable(lane, |out| frame.encode(out));
    }
}

/// Everything about one session takes the same stream, and so stays in order.
fn lane(session: Option<SessionId>) -> LaneId {
    session.map_or(BULK_LANE, |session| {
        BULK_LANE + usize::from(session.0[0]) % LANES
    })
}

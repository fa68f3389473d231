//! One event loop of a relay, without the loop: QUIC, gateway, mesh and owner as one state machine.
//!
//! ```text
//!            datagrams, directory answers, hints, time
//!                              │
//!   clients ◀──▶ endpoint ─ connection ─ gateway ─┬─ owner ─ sessions
//!   nodes   ◀──▶ endpoint ─ connection ─ mesh ────┴─ standby ─ copies
//!                              │
//!            datagrams, directory requests, next wake-up
//! ```
//!
//! A pass of a driver is: [`Node::handle`] everything that came in, [`Node::handle_timeout`], then
//! drain [`Node::poll_output`] and [`Node::poll_transmit`], and sleep until [`Node::poll_timeout`].
//! What came in together is handled together and leaves in as few packets as it fits.

mod admission;
mod budget;
mod connection;
mod endpoint;
pub mod io;
mod mesh;
mod owner;
mod rates;
mod registry;
mod repairs;
mod standby;
mod succession;
mod transport;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_directory::{
    Change, DirectoryError, Hint, Holder, Load, NodeRecord, Reply, Request,
};
use dreamcatcher_proto::control::User;
use dreamcatcher_proto::frame::{ClientFrame, LinkFrame, Mode, RelayFrame};
use dreamcatcher_proto::gateway::{self, Ask, AskId, ClientId, Gateway, Located};
use dreamcatcher_proto::token::KeySet;
use dreamcatcher_proto::{Error, ErrorCode, NodeId, SessionId, UserId, limits};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tracing::debug;

use self::connection::{BULK_LANE, CONTROL_LANE, Carriage, Received};
use self::endpoint::{ConnectionId, Endpoint};
use self::io::{
    Clock, Identity, Input, MemberView, NodeConfig, Output, SessionView, Socket, Stats, Transmit,
};
use self::mesh::Mesh;
use self::owner::{Action, Owner};
use self::rates::Rates;
use self::registry::Registry;
use self::standby::Standbys;
use crate::identity::{self, WallClock};

/// One event loop of a relay.
#[derive(Debug)]
pub struct Node {
    holder: Holder,
    region: String,
    clients_max: usize,
    clock: Clock,
    wall: Arc<WallClock>,
    rng: ChaCha12Rng,
    keys: Arc<KeySet>,
    client_endpoint: Endpoint,
    mesh_endpoint: Endpoint,
    gateway: Gateway,
    clients: BTreeMap<ClientId, ConnectionId>,
    /// Who is signed in.
    users: BTreeMap<ClientId, UserId>,
    /// Their connections, the oldest first.
    connections: BTreeMap<UserId, Vec<ClientId>>,
    connections_per_user: usize,
    /// Whether keys can be asked for anew.
    follows_keys: bool,
    /// Clients whose token names a key that is not known yet.
    held: BTreeMap<ClientId, Held>,
    rates: Rates,
    /// Clients with more waiting than one that keeps up ever has, and since when.
    behind: BTreeMap<ClientId, Instant>,
    mesh: Mesh,
    owner: Owner,
    standbys: Standbys,
    registry: Registry,
    /// What the answer to each open directory request is for.
    asked: BTreeMap<u64, Purpose>,
    last_asked: u64,
    outputs: VecDeque<Output>,
    /// A renewed certificate whose hash is published, and when it is served.
    next_identity: Option<(Instant, Identity)>,
    stopping: Option<Stopping>,
    unsettled: bool,
    stats: Stats,
    /// The latest time that this node was given.
    now: Instant,
}

/// Why the node asks the directory.
#[derive(Debug)]
enum Purpose {
    Registry(registry::Purpose),
    Owner(owner::Purpose),
    Standby(standby::Purpose),
    /// The gateway wants the session behind a join code.
    Code(AskId),
}

/// A sign-in that waits for newer keys.
#[derive(Debug)]
struct Held {
    token: String,
    until: Instant,
    /// Keys came meanwhile, without the one that it needs.
    seen_keys: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stopping {
    /// Sessions and players move to other nodes.
    Leaving {
        until: Instant,
    },
    /// Clients were told; what was sent is being written, and members move to other relays.
    Lingering {
        until: Instant,
        /// Whatever members do.
        at_most: Instant,
    },
    /// Connections are closed; their last packets leave.
    Closing {
        until: Instant,
    },
    Stopped,
}

/// How long before it is served a certificate's hash is published: clients read the relay list again
/// meanwhile.
const PUBLISHED_AHEAD: Duration = Duration::from_secs(3_600);
/// How long a stopping node writes out what it told its clients, after the last member has left.
const LINGER: Duration = Duration::from_millis(300);
/// How long it carries members at most, who move to another relay meanwhile: a handshake, a sign-in and
/// a join there are five round trips, with half a second each for the farthest.
const LINGER_MAX: Duration = Duration::from_secs(3);
/// How long it sends its last packets.
const CLOSING: Duration = Duration::from_millis(100);
/// A client with more than `CLIENT_QUEUE_BYTES_MAX` waiting has this long to catch up.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// And never has more than this waiting, however short the time.
const BEHIND_BYTES_MAX: usize = 4 * limits::CLIENT_QUEUE_BYTES_MAX;
/// How long a sign-in waits for newer keys: one read of them, on a good day.
const KEYS_WAIT: Duration = Duration::from_secs(1);
/// Sign-ins that wait so: more at once are no rotation.
const HELD_MAX: usize = 1_024;
/// Nodes that are looked at for room when the one whose turn it is has none.
const PLACES_TRIED: usize = 8;

impl Node {
    /// A node that registers itself with the first [`Self::poll_output`]. Fails only if its
    /// certificates cannot be used.
    pub fn new(config: NodeConfig, now: Instant) -> Result<Self, Error> {
        let mut rng = ChaCha12Rng::from_seed(config.seed);
        let holder = Holder {
            node: config.id.clone(),
            boot: config.boot,
        };
        let unix = config.clock.unix(now).as_secs();
        let wall = WallClock::new(unix);
        let certificate_sha256 = vec![config.identity.certificate_sha256()];
        let client_server = transport::client_server(config.identity, &wall)?;
        let mut owner_seed = [0; 32];
        rng.fill_bytes(&mut owner_seed);
        let seed = transport::seed(&mut rng);
        let (mesh_identity, ca) =
            identity::mesh_identity(&config.cluster_key, &config.id, &seed, unix)?;
        let mesh_server = transport::mesh_server(mesh_identity.clone(), &ca, &wall)?;
        let mesh_client = transport::mesh_client(mesh_identity, &ca, &wall, &mut rng)?;
        let mut endpoint_config =
            || transport::endpoint_config(&config.cluster_key, &config.id, &mut rng);
        let client_endpoint = Endpoint::new(Socket::Client, endpoint_config(), client_server)
            .limit(config.rates, config.quotas);
        let mesh_endpoint = Endpoint::new(Socket::Mesh, endpoint_config(), mesh_server);
        let record = NodeRecord {
            id: config.id.clone(),
            boot: config.boot,
            mesh_id: config.cluster_key.mesh_id(),
            host: config.host,
            region: config.region.clone(),
            address: config.advertise,
            mesh_address: config.mesh_advertise,
            certificate_sha256,
            capacity: config.capacity,
            clients_max: u32::try_from(config.clients_max).unwrap_or(u32::MAX),
            load: Load::default(),
            draining: false,
            drain_wanted: false,
        };
        Ok(Self {
            region: config.region,
            clients_max: config.clients_max,
            clock: config.clock,
            wall,
            rng,
            keys: config.keys,
            client_endpoint,
            mesh_endpoint,
            gateway: Gateway::new(config.id.clone(), config.boot),
            clients: BTreeMap::new(),
            users: BTreeMap::new(),
            connections: BTreeMap::new(),
            connections_per_user: config.quotas.connections_per_user as usize,
            follows_keys: config.follows_keys,
            held: BTreeMap::new(),
            rates: Rates::default(),
            behind: BTreeMap::new(),
            mesh: Mesh::new(config.id, config.boot, mesh_client),
            owner: Owner::new(holder.clone(), ChaCha12Rng::from_seed(owner_seed)),
            standbys: Standbys::new(holder.clone()),
            registry: Registry::new(record, now),
            holder,
            asked: BTreeMap::new(),
            last_asked: 0,
            outputs: VecDeque::new(),
            next_identity: None,
            stopping: None,
            unsettled: true,
            stats: Stats::default(),
            now,
        })
    }

    /// What this node tells the directory about itself.
    #[must_use]
    pub fn record(&self) -> &NodeRecord {
        &self.registry.record
    }

    /// Why the directory will never take this run, if so: the node then stops by itself.
    #[must_use]
    pub fn refusal(&self) -> Option<&DirectoryError> {
        self.registry.refusal()
    }

    /// Whether players can be sent here: the directory lists this node, and it can check tokens.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.registry.is_listed(self.now) && self.has_keys() && self.stopping.is_none()
    }

    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// What the wall clock says now: it may have been set, and goes on while a machine sleeps.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// What this node counted since its start.
    pub fn stats(&mut self) -> &Stats {
        let (ordered, fanouts, duplicates, resumes) = self.owner.totals();
        let counters = self.gateway.counters();
        self.stats.clients = self.clients.len() as u64;
        self.stats.links = self.mesh.up() as u64;
        self.stats.links_redialled_total = self.mesh.redials();
        self.stats.sessions_owned = self.owner.len() as u64;
        self.stats.members = self.gateway.members() as u64;
        self.stats.published_total = counters.published;
        self.stats.delivered_total = counters.delivered;
        self.stats.redirects_total = counters.redirects;
        self.stats.owners_lost_total = counters.owners_lost;
        self.stats.ordered_total = ordered;
        self.stats.fanouts_total = fanouts;
        self.stats.duplicates_total = duplicates;
        self.stats.resumes_total = resumes;
        let (takeovers, stored, fenced) = self.standbys.totals();
        self.stats.standby_copies = self.standbys.len() as u64;
        self.stats.takeovers_total = takeovers;
        self.stats.stored_total = stored;
        self.stats.fenced_total = fenced;
        let (installed, handed_over, waiting) = self.owner.successions();
        self.stats.views_installed_total = installed;
        self.stats.handovers_total = handed_over;
        self.stats.sessions_waiting = waiting as u64;
        let counts = self.client_endpoint.counts();
        self.stats.addresses = self.client_endpoint.addresses() as u64;
        self.stats.connections_refused_total = counts.refused;
        self.stats.retries_total = counts.retries;
        self.stats.over_budget_dropped_total = counts.over_budget.dropped;
        self.stats.over_budget_pauses_total = counts.over_budget.pauses;
        let (restored, codes_lost, waiting) = self.owner.repaired();
        self.stats.sessions_restored_total = restored;
        self.stats.codes_lost_total = codes_lost;
        self.stats.repairs_waiting = waiting as u64;
        &self.stats
    }

    /// The sessions that this node owns or carries members of.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionView> {
        let owned = self.owner.sessions().map(|session| SessionView {
            session: session.config().id.to_string(),
            role: "owner",
            owner: self.holder.node.to_string(),
            epoch: session.config().epoch.0,
            index: session.index().0,
            members: session
                .seats()
                .map(|seat| MemberView {
                    peer: seat.peer.0,
                    connected: seat.gateway.is_some(),
                    gateway: seat
                        .gateway
                        .map(|gateway| gateway.to_string())
                        .unwrap_or_default(),
                    acked: seat.acked.0,
                })
                .collect(),
        });
        let carried = self
            .gateway
            .routes()
            .map(|(session, owner, epoch, members)| SessionView {
                session: session.to_string(),
                role: "gateway",
                owner: owner.to_string(),
                epoch: epoch.0,
                index: members.iter().map(|(_, index)| index.0).max().unwrap_or(0),
                members: members
                    .into_iter()
                    .map(|(peer, index)| MemberView {
                        peer: peer.0,
                        gateway: self.holder.node.to_string(),
                        connected: true,
                        acked: index.0,
                    })
                    .collect(),
            });
        let copies = self
            .standbys
            .iter()
            .map(|(session, reign, standby)| SessionView {
                session: session.to_string(),
                role: "standby",
                owner: reign.owner.to_string(),
                epoch: reign.epoch.0,
                index: standby.state().index.0,
                members: Vec::new(),
            });
        owned.chain(carried).chain(copies).collect()
    }

    // -------------------------------------------------------------------------------- the verbs

    /// Takes one thing that happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.advance(now);
        match input {
            Input::Datagram(datagram) => {
                self.stats.datagrams_received += 1;
                self.stats.bytes_received += datagram.data.len() as u64;
                match datagram.socket {
                    Socket::Client => self.client_endpoint.handle(datagram, now),
                    Socket::Mesh => self.mesh_endpoint.handle(datagram, now),
                }
            }
            Input::Directory { id, reply } => self.answered(id, reply),
            Input::Hint(hint) => self.hear(hint),
            Input::Keys(keys) => self.renew_keys(keys),
            Input::Identity(identity) => self.renew_identity(identity),
            Input::Stop { within } => self.stop(within),
        }
    }

    /// Lets due timers fire.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.client_endpoint.handle_timeout(now);
        self.mesh_endpoint.handle_timeout(now);
        self.gateway.handle_timeout(now);
        self.owner.handle_timeout(now);
        self.standbys.handle_timeout(now);
        self.refuse_held();
        self.serve_next_identity();
        self.stop_further();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.settle();
        self.outputs.pop_front()
    }

    /// The next packets to send, in `buf`.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        buf.clear();
        self.now = self.now.max(now);
        self.settle();
        let transmit = self
            .client_endpoint
            .poll_transmit(self.now, buf)
            .or_else(|| self.mesh_endpoint.poll_transmit(self.now, buf))?;
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += transmit.size as u64;
        Some(transmit)
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stopping = match self.stopping {
            Some(
                Stopping::Leaving { until }
                | Stopping::Lingering { until, .. }
                | Stopping::Closing { until },
            ) => Some(until),
            Some(Stopping::Stopped) | None => None,
        };
        [
            self.client_endpoint.poll_timeout(),
            self.mesh_endpoint.poll_timeout(),
            self.gateway.poll_timeout(),
            self.owner.poll_timeout(),
            self.standbys.poll_timeout(),
            self.mesh.poll_timeout(),
            self.registry.poll_timeout(self.has_keys(), self.now),
            self.next_behind(),
            self.held.values().map(|held| held.until).min(),
            self.next_identity.as_ref().map(|(at, _)| *at),
            stopping,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.wall.set(self.clock.unix(self.now).as_secs());
        self.unsettled = true;
    }

    // --------------------------------------------------------------------------------- settling

    /// Carries everything that happened through to its end: until no machine has anything to say.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let mut received = Vec::new();
        loop {
            self.client_endpoint.poll(self.now, &mut received);
            let from_clients = !received.is_empty();
            for (connection, event) in received.drain(..) {
                self.client_event(connection, event);
            }
            self.mesh_endpoint.poll(self.now, &mut received);
            let from_mesh = !received.is_empty();
            for (connection, event) in received.drain(..) {
                self.mesh_event(connection, event);
            }
            self.settle_machines();
            if !from_clients && !from_mesh {
                break;
            }
        }
        self.dial();
        self.settle_machines();
        self.close_slow_consumers();
        self.ask_for_registry();
        self.leave_if_empty();
    }

    /// Lets gateway and owner talk until both are silent.
    fn settle_machines(&mut self) {
        loop {
            self.owner.settle(&self.registry.nodes, self.now);
            if let Some(output) = self.gateway.poll_output() {
                self.gateway_output(output);
            } else if let Some(action) = self.owner.poll_action(self.now) {
                self.owner_action(action);
            } else if let Some(action) = self.standbys.poll_action() {
                self.standby_action(action);
            } else {
                break;
            }
        }
    }

    fn gateway_output(&mut self, output: gateway::Output) {
        match output {
            gateway::Output::ToClient { client, frame } => self.write(client, &frame),
            gateway::Output::Close { client, error } => self.close_client(client, &error),
            gateway::Output::ToOwner { node, frame } if node == self.holder.node => {
                self.gateway_frame(node, frame);
            }
            gateway::Output::ToOwner { node, frame } => {
                self.stats.forwarded_total += u64::from(matches!(frame, LinkFrame::Forward(_)));
                self.send_link(&node, frame);
            }
            gateway::Output::Ask { ask, question } => self.ask(ask, question),
            gateway::Output::Check { client, token } => self.check(client, token),
        }
    }

    // ---------------------------------------------------------------------------------- signing in

    fn check(&mut self, client: ClientId, token: String) {
        if self.follows_keys && self.keys.lacks_key_of(&token) {
            self.stats.keys_unknown_total += 1;
            return self.hold(client, token);
        }
        let user = self.verified(&token);
        self.checked(client, user);
    }

    fn verified(&self, token: &str) -> Result<User, Error> {
        let unix = self.clock.unix(self.now).as_secs();
        self.keys.verify(token, unix).map(|claims| User {
            id: claims.sub,
            display_name: claims.name.to_string(),
        })
    }

    fn checked(&mut self, client: ClientId, user: Result<User, Error>) {
        let user_id = user.as_ref().ok().map(|user| user.id);
        self.gateway
            .handle(gateway::Input::Checked { client, user }, self.now);
        if let Some(user) = user_id
            && self.clients.contains_key(&client)
        {
            self.users.insert(client, user);
            let connections = self.connections.entry(user).or_default();
            connections.push(client);
            let max = self.connections_per_user;
            if max > 0 && connections.len() > max {
                let oldest = connections[0];
                let message =
                    format!("one user may have {max} connections to a relay; the newest stay");
                let error = Error::new(ErrorCode::ReplacedByNewConnection, message);
                self.close_client(oldest, &error);
            }
        }
    }

    /// The token's key may be in a newer set.
    fn hold(&mut self, client: ClientId, token: String) {
        if self.held.len() >= HELD_MAX {
            return self.checked(client, Err(unknown_key()));
        }
        let until = self.now + KEYS_WAIT;
        let seen_keys = false;
        let held = Held {
            token,
            until,
            seen_keys,
        };
        self.held.insert(client, held);
        self.outputs.push_back(Output::WantKeys);
    }

    fn renew_keys(&mut self, keys: Arc<KeySet>) {
        self.keys = keys;
        let mut known = Vec::new();
        let keys = &self.keys;
        self.held.retain(|&client, held| {
            let lacks = keys.lacks_key_of(&held.token);
            held.seen_keys |= !keys.is_empty();
            if !lacks {
                known.push((client, std::mem::take(&mut held.token)));
            }
            lacks
        });
        for (client, token) in known {
            let user = self.verified(&token);
            self.checked(client, user);
        }
    }

    fn refuse_held(&mut self) {
        let late = |held: &Held, now| held.until <= now;
        let now = self.now;
        if !self.held.values().any(|held| late(held, now)) {
            return;
        }
        let mut refused = Vec::new();
        self.held.retain(|&client, held| {
            if late(held, now) {
                refused.push((client, std::mem::take(&mut held.token), held.seen_keys));
            }
            !late(held, now)
        });
        for (client, token, seen_keys) in refused {
            let user = if seen_keys {
                self.verified(&token)
            } else {
                Err(unknown_key())
            };
            self.checked(client, user);
        }
    }

    fn owner_action(&mut self, action: Action) {
        match action {
            Action::ToGateway { node, frame } if node == self.holder.node => {
                self.gateway
                    .handle(gateway::Input::Owner { node, frame }, self.now);
            }
            Action::ToGateway { node, frame } => self.send_link(&node, frame),
            Action::Directory { purpose, request } => {
                self.ask_directory(Purpose::Owner(purpose), request)
            }
            Action::Installed(id) => self.standbys.installed(id),
            Action::Deposed(id) => self.standbys.deposed(id, self.now),
        }
    }

    fn standby_action(&mut self, action: standby::Action) {
        match action {
            standby::Action::ToNode { node, frame } if node == self.holder.node => {
                self.gateway
                    .handle(gateway::Input::Owner { node, frame }, self.now);
            }
            standby::Action::ToNode { node, frame } => self.send_link(&node, frame),
            standby::Action::Directory { purpose, request } => {
                self.ask_directory(Purpose::Standby(purpose), request);
            }
            standby::Action::Adopt(adoption) => self.owner.adopt(*adoption, self.now),
            standby::Action::Join { gateway, frame } => {
                self.owner.handle(gateway, frame, self.now);
            }
        }
    }

    /// A frame for a session's owner, which this node is, was, or may be about to be.
    fn gateway_frame(&mut self, gateway: NodeId, frame: LinkFrame) {
        use dreamcatcher_proto::control::LinkMessage as Message;
        if let LinkFrame::Control(Message::Join { session, .. }) = &frame
            && !self.owner.has(*session)
            && self.standbys.has(*session)
        {
            let id = *session;
            let owner = self.standbys.owner_of(id);
            let is_up = owner.is_some_and(|owner| self.mesh.is_up(owner));
            return self.standbys.join(gateway, frame, id, is_up);
        }
        self.owner.handle(gateway, frame, self.now);
    }

    // ---------------------------------------------------------------------------------- clients

    fn client_event(&mut self, connection: ConnectionId, event: Received) {
        let client = ClientId(u64::from(connection.serial) << 32 | u64::from(connection.slot));
        match event {
            Received::Connected => self.client_connected(client, connection),
            Received::Frame(carriage, frame) => {
                if !self.clients.contains_key(&client) {
                    return;
                }
                match ClientFrame::decode(frame).and_then(|frame| check_carriage(carriage, frame)) {
                    Ok(frame) => self.client_frame(client, frame),
                    Err(error) => self.close_client(client, &error),
                }
            }
            Received::Broken(error) => self.close_client(client, &error),
            Received::Lost(reason) => {
                debug!(client = client.0, %reason, "client gone");
                let code = connection::cause(&reason);
                if code != ErrorCode::Ok {
                    *self.stats.errors_total.entry(code).or_default() += 1;
                }
                self.forget_client(client);
            }
        }
    }

    fn client_frame(&mut self, client: ClientId, frame: ClientFrame) {
        let user = self.users.get(&client);
        let refusal = user.and_then(|&user| self.rates.refusal(user, &frame, self.now));
        if let Some(refusal) = refusal {
            *self
                .stats
                .errors_total
                .entry(ErrorCode::RateLimited)
                .or_default() += 1;
            return self.write(client, &RelayFrame::Control(refusal));
        }
        self.gateway
            .handle(gateway::Input::Client { client, frame }, self.now);
        self.settle_machines();
    }

    fn client_connected(&mut self, client: ClientId, connection: ConnectionId) {
        self.stats.client_connections_total += 1;
        self.clients.insert(client, connection);
        self.gateway
            .handle(gateway::Input::ClientConnected { client }, self.now);
        if self.clients.len() > self.clients_max {
            let message = format!("this relay holds its limit of {} clients", self.clients_max);
            self.close_client(client, &Error::new(ErrorCode::ServerFull, message));
        }
    }

    fn write(&mut self, client: ClientId, frame: &RelayFrame) {
        let Some(&connection) = self.clients.get(&client) else {
            return;
        };
        let Some(connection) = self.client_endpoint.get(connection) else {
            return;
        };
        let mode = match frame {
            RelayFrame::Deliver(deliver) => deliver.mode,
            RelayFrame::Control(_) | RelayFrame::Skip(_) => Mode::Ordered,
        };
        match mode {
            Mode::Ordered => connection.send_reliable(CONTROL_LANE, |out| frame.encode(out)),
            Mode::Reliable => connection.send_reliable(BULK_LANE, |out| frame.encode(out)),
            Mode::Latest | Mode::Datagram => {
                connection.send_unreliable(BULK_LANE, |out| frame.encode(out));
                self.stats.latest_dropped_total += connection.take_dropped();
                return;
            }
        }
        if connection.backlog() > limits::CLIENT_QUEUE_BYTES_MAX {
            self.behind.entry(client).or_insert(self.now);
        }
    }

    /// A client that does not catch up loses its connection, not its seat.
    fn close_slow_consumers(&mut self) {
        let mut slow = Vec::new();
        let (clients, endpoint, now) = (&self.clients, &mut self.client_endpoint, self.now);
        self.behind.retain(|client, since| {
            let connection = clients
                .get(client)
                .and_then(|&connection| endpoint.get(connection));
            let backlog = connection.map_or(0, |connection| connection.backlog());
            if now - *since >= BEHIND_MAX && backlog > limits::CLIENT_QUEUE_BYTES_MAX
                || backlog > BEHIND_BYTES_MAX
            {
                slow.push((*client, backlog));
            }
            backlog > limits::CLIENT_QUEUE_BYTES_MAX
        });
        for (client, backlog) in slow {
            self.stats.slow_consumers_total += 1;
            let message = format!("{backlog} bytes wait for this client; reconnect to resume");
            self.close_client(client, &Error::new(ErrorCode::SlowConsumer, message));
        }
    }

    fn next_behind(&self) -> Option<Instant> {
        self.behind.values().min().map(|&since| since + BEHIND_MAX)
    }

    fn close_client(&mut self, client: ClientId, error: &Error) {
        let Some(&connection) = self.clients.get(&client) else {
            return;
        };
        *self.stats.errors_total.entry(error.code()).or_default() += 1;
        if let Some(connection) = self.client_endpoint.get(connection) {
            connection.close(error, self.now);
        }
        self.forget_client(client);
    }

    fn forget_client(&mut self, client: ClientId) {
        self.behind.remove(&client);
        self.held.remove(&client);
        if let Some(user) = self.users.remove(&client)
            && let Some(connections) = self.connections.get_mut(&user)
        {
            connections.retain(|connection| *connection != client);
            if connections.is_empty() {
                self.connections.remove(&user);
            }
        }
        if self.clients.remove(&client).is_some() {
            self.gateway
                .handle(gateway::Input::ClientLost { client }, self.now);
        }
    }

    // ------------------------------------------------------------------------------------- mesh

    fn mesh_event(&mut self, connection: ConnectionId, event: Received) {
        let mut events = Vec::new();
        let endpoint = &mut self.mesh_endpoint;
        match event {
            Received::Connected => self.mesh.connected(connection, endpoint),
            Received::Frame(_, frame) => match LinkFrame::decode(frame) {
                Ok(frame) => self
                    .mesh
                    .frame(connection, frame, endpoint, self.now, &mut events),
                Err(error) => {
                    self.mesh
                        .drop_connection(connection, &error, endpoint, self.now, &mut events)
                }
            },
            Received::Broken(error) => {
                self.mesh
                    .drop_connection(connection, &error, endpoint, self.now, &mut events);
            }
            Received::Lost(reason) => {
                debug!(%reason, "link connection gone");
                let cause = connection::link_cause(&reason);
                if cause == ErrorCode::WrongClusterKey {
                    *self.stats.errors_total.entry(cause).or_default() += 1;
                }
                self.mesh.lost(connection, cause, self.now, &mut events);
            }
        }
        self.mesh_events(events);
    }

    fn mesh_events(&mut self, events: Vec<mesh::Event>) {
        for event in events {
            match event {
                mesh::Event::Frame { node, frame } => self.link_frame(node, frame),
                mesh::Event::Up { node } => self.standbys.owner_is_back(&node),
                mesh::Event::Lost { node } => {
                    self.owner.gateway_lost(&node, self.now);
                    self.owner.standby_lost(&node, self.now);
                    self.gateway
                        .handle(gateway::Input::LinkLost { node }, self.now);
                }
                mesh::Event::Restarted { node, boot } => {
                    self.owner.standby_gone(&node, self.now);
                    self.standbys.restarted(&node, boot, self.now);
                    self.gateway
                        .handle(gateway::Input::NodeGone { node }, self.now);
                }
                mesh::Event::Undelivered {
                    node,
                    cause,
                    frames,
                } => self.undelivered(&node, cause, frames),
            }
            self.settle_machines();
        }
    }

    /// A frame of another node: from a gateway to a session here, or from an owner to a member here.
    fn link_frame(&mut self, node: NodeId, frame: LinkFrame) {
        use dreamcatcher_proto::control::LinkMessage as Message;
        match &frame {
            LinkFrame::Forward(_)
            | LinkFrame::Ack(_)
            | LinkFrame::Control(
                Message::Create { .. }
                | Message::Join { .. }
                | Message::Leave(_)
                | Message::Dropped(_),
            ) => self.gateway_frame(node, frame),
            LinkFrame::Fanout(_)
            | LinkFrame::Control(
                Message::Joined { .. }
                | Message::Refused { .. }
                | Message::Ended { .. }
                | Message::SendRejected { .. }
                | Message::ReliableGap { .. }
                | Message::View { .. },
            ) => self
                .gateway
                .handle(gateway::Input::Owner { node, frame }, self.now),
            // The mesh keeps Hellos to itself.
            LinkFrame::Control(Message::Hello { .. }) => {}
            LinkFrame::Store(_) | LinkFrame::Stored(_) | LinkFrame::Control(_) => {
                self.copy_frame(node, frame);
            }
        }
    }

    /// Between owner and standby.
    fn copy_frame(&mut self, node: NodeId, frame: LinkFrame) {
        use dreamcatcher_proto::control::LinkMessage as Message;
        let now = self.now;
        match frame {
            LinkFrame::Store(store) => self.standbys.store(node, store, now),
            LinkFrame::Stored(stored) => self.owner.stored(node, stored, now),
            LinkFrame::Control(Message::Seal { session, epoch }) => {
                let owner = Some(node.clone());
                self.owner.sealed(session, epoch, owner, now);
                let copy = self.standbys.seal(session, epoch);
                let promises = [Some(epoch), self.owner.epoch_of(session), copy];
                let sealed = Message::Sealed {
                    session,
                    epoch: promises.into_iter().flatten().max().unwrap_or(epoch),
                    owner: None,
                };
                self.send_link(&node, LinkFrame::Control(sealed));
            }
            LinkFrame::Control(Message::Sealed {
                session,
                epoch,
                owner,
            }) => {
                self.owner.sealed(session, epoch, owner, now);
                self.standbys.sealed(&node, session, epoch, now);
            }
            LinkFrame::Control(Message::Release { session, epoch }) => {
                self.standbys.release(&node, session, epoch);
            }
            LinkFrame::Control(Message::TakeOver { session, .. }) => {
                self.standbys.take_over(&node, session, now);
            }
            LinkFrame::Control(message) => self.standbys.sync(node, message, now),
            LinkFrame::Forward(_) | LinkFrame::Fanout(_) | LinkFrame::Ack(_) => {
                debug_assert!(false, "not between owner and standby");
            }
        }
    }

    /// A node cannot be reached: requests to it fail now instead of after their time.
    fn undelivered(&mut self, node: &NodeId, cause: ErrorCode, frames: Vec<LinkFrame>) {
        use dreamcatcher_proto::control::{Failure, LinkMessage as Message};
        self.owner.standby_gone(node, self.now);
        for frame in frames {
            let LinkFrame::Control(
                Message::Create {
                    request, session, ..
                }
                | Message::Join {
                    request, session, ..
                },
            ) = frame
            else {
                continue;
            };
            let error = if cause == ErrorCode::WrongClusterKey {
                Error::new(
                    cause,
                    format!("{node} does not hold this mesh's cluster key"),
                )
            } else {
                Error::new(
                    ErrorCode::Timeout,
                    format!("{node} cannot be reached; try again"),
                )
            };
            let refused = Message::Refused {
                request,
                session,
                failure: Failure::from(error),
                owner: None,
            };
            let input = gateway::Input::Owner {
                node: node.clone(),
                frame: LinkFrame::Control(refused),
            };
            self.gateway.handle(input, self.now);
        }
    }

    fn send_link(&mut self, node: &NodeId, frame: LinkFrame) {
        let mut events = Vec::new();
        self.mesh
            .send(node, frame, &mut self.mesh_endpoint, self.now, &mut events);
        self.mesh_events(events);
    }

    fn dial(&mut self) {
        let mut events = Vec::new();
        let nodes = &self.registry.nodes;
        let address = |node: &NodeId| nodes.node(node).map(|record| record.mesh_address);
        self.mesh
            .dial(&mut self.mesh_endpoint, self.now, address, &mut events);
        self.mesh_events(events);
    }

    // -------------------------------------------------------------------------------- directory

    fn ask(&mut self, ask: AskId, question: Ask) {
        match question {
            Ask::Place { region } => {
                let located = self.place(region);
                self.gateway
                    .handle(gateway::Input::Answer { ask, located }, self.now);
            }
            Ask::Locate {
                session,
                home_region,
            } => {
                let region = home_region.unwrap_or_else(|| self.region.clone());
                let guess = self
                    .registry
                    .nodes
                    .owner(session, &region)
                    .map(|node| node.id.clone());
                let owner = guess.unwrap_or_else(|| self.holder.node.clone());
                let located = Ok(Located {
                    session,
                    owner,
                    home_region: region,
                });
                self.gateway
                    .handle(gateway::Input::Answer { ask, located }, self.now);
            }
            Ask::Code(code) => self.ask_directory(Purpose::Code(ask), Request::Code(code)),
        }
    }

    fn place(&mut self, region: Option<String>) -> Result<Located, Error> {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        let session = SessionId(id);
        let home_region = region.unwrap_or_else(|| self.region.clone());
        dreamcatcher_directory::parse_region(&home_region)?;
        let nodes = &self.registry.nodes;
        let has_room = |node: &&NodeRecord| node.load.clients < node.clients_max;
        let first = nodes.place(session, &home_region);
        // A session's players like to be where it is; who has no room for them is the last choice.
        let owner = first
            .filter(has_room)
            .or_else(|| {
                let others = nodes.owners(session, &home_region, PLACES_TRIED);
                others.into_iter().find(has_room)
            })
            .or(first)
            .map(|node| node.id.clone());
        let owner = owner.ok_or_else(|| {
            Error::new(
                ErrorCode::DirectoryUnavailable,
                "no relay is known to take the session; try again",
            )
        })?;
        Ok(Located {
            session,
            owner,
            home_region,
        })
    }

    fn ask_directory(&mut self, purpose: Purpose, request: Request) {
        self.stats.directory_requests_total += 1;
        self.last_asked += 1;
        self.asked.insert(self.last_asked, purpose);
        self.outputs.push_back(Output::Directory {
            id: self.last_asked,
            request: Box::new(request),
        });
    }

    fn ask_for_registry(&mut self) {
        let load = Load {
            sessions: self.owner.len() as u32,
            clients: self.clients.len() as u32,
        };
        let can_serve = self.has_keys();
        while let Some((purpose, request)) = self.registry.poll_request(load, can_serve, self.now) {
            self.ask_directory(Purpose::Registry(purpose), request);
        }
    }

    fn answered(&mut self, id: u64, reply: Result<Reply, DirectoryError>) {
        if let Err(DirectoryError::NotRegistered(holder)) = &reply
            && *holder == self.holder
        {
            self.registry.is_forgotten(self.now);
        }
        match self.asked.remove(&id) {
            None => debug_assert!(false, "the directory answers once"),
            Some(Purpose::Registry(purpose)) => {
                let changes = self.registry.answered(purpose, reply, self.now);
                self.nodes_changed(changes);
                if self.registry.take_is_back() {
                    self.owner.restore_all();
                }
                if let Some(error) = self.refusal()
                    && self.stopping.is_none()
                {
                    tracing::error!(node = %self.holder.node, %error, "stopping");
                    self.stop(Duration::ZERO);
                }
            }
            Some(Purpose::Owner(purpose)) => {
                let nodes = &self.registry.nodes;
                self.owner
                    .answered(purpose, reply, |holder| nodes.is_alive(holder), self.now);
            }
            Some(Purpose::Standby(purpose)) => {
                let nodes = &self.registry.nodes;
                self.standbys
                    .answered(purpose, reply, |holder| nodes.is_alive(holder), self.now);
            }
            Some(Purpose::Code(ask)) => {
                let located = self.located(reply);
                self.gateway
                    .handle(gateway::Input::Answer { ask, located }, self.now);
            }
        }
    }

    fn located(&self, reply: Result<Reply, DirectoryError>) -> Result<Located, Error> {
        let unknown = || Error::from(ErrorCode::JoinCodeNotFound);
        let Reply::Session(record) = reply.map_err(DirectoryError::for_player)? else {
            return Err(ErrorCode::Internal.into());
        };
        let record = record.ok_or_else(unknown)?;
        let is_there = |holder: &&Holder| {
            **holder == self.holder
                || self.registry.nodes.is_alive(holder)
                || self.mesh.is_up(&holder.node)
        };
        let view = &record.view;
        let mut holders = std::iter::once(&view.owner).chain(&view.standby);
        let owner = holders.find(is_there).ok_or_else(unknown)?;
        Ok(Located {
            session: record.id,
            owner: owner.node.clone(),
            home_region: record.home_region,
        })
    }

    fn hear(&mut self, hint: Hint) {
        let changes = self.registry.hear(hint);
        self.nodes_changed(changes);
    }

    fn nodes_changed(&mut self, changes: Vec<Change>) {
        if !changes.is_empty()
            && self.stopping.is_none()
            && self.registry.follow_drain_wanted(self.now)
        {
            let (node, draining) = (&self.holder.node, self.registry.record.draining);
            tracing::warn!(%node, draining, "an operator asked for it: new sessions go elsewhere while it drains");
        }
        if !changes.is_empty() {
            self.owner.nodes_changed();
        }
        for change in changes {
            // A node that still answers is alive, whatever the directory says of its lease. One that
            // does not may be back in a moment: the gateway looks for it a little longer.
            if let Change::NodeGone(holder) = change
                && holder.node != self.holder.node
                && !self.mesh.is_up(&holder.node)
            {
                let mut events = Vec::new();
                self.mesh
                    .forget(&holder.node, &mut self.mesh_endpoint, self.now, &mut events);
                self.mesh_events(events);
                self.owner.standby_gone(&holder.node, self.now);
                self.standbys.run_ended(&holder.node, holder.boot, self.now);
            }
        }
    }

    /// Publishes the hash at once, and serves the certificate when whoever reads the relay list has
    /// had time to read it again.
    fn renew_identity(&mut self, identity: Identity) {
        let hashes = &mut self.registry.record.certificate_sha256;
        hashes.insert(0, identity.certificate_sha256());
        hashes.truncate(2);
        self.registry.renew_now(self.now);
        self.next_identity = Some((self.now + PUBLISHED_AHEAD, identity));
    }

    fn serve_next_identity(&mut self) {
        let due = self.next_identity.take_if(|(at, _)| *at <= self.now);
        let Some((_, identity)) = due else { return };
        match transport::client_server(identity, &self.wall) {
            Ok(server) => self.client_endpoint.set_server(server),
            Err(error) => tracing::error!(%error, "the new certificate cannot be used"),
        }
    }

    // --------------------------------------------------------------------------------- stopping

    fn stop(&mut self, within: Duration) {
        match self.stopping {
            None => {
                self.client_endpoint.refuse_new();
                self.registry.record.draining = true;
                self.registry.renew_now(self.now);
                let deadline = within.max(LINGER_MAX);
                self.gateway
                    .handle(gateway::Input::Drain { deadline }, self.now);
                self.owner.leave();
            }
            // The second wish is not to wait any longer.
            Some(Stopping::Leaving { .. }) => {}
            Some(Stopping::Lingering { .. } | Stopping::Closing { .. } | Stopping::Stopped) => {
                return;
            }
        }
        let until = self.now + within;
        self.stopping = Some(Stopping::Leaving { until });
        self.unsettled = true;
    }

    /// Goes on to stop once nobody is left who could still move.
    fn leave_if_empty(&mut self) {
        let Some(Stopping::Leaving { until }) = self.stopping else {
            return;
        };
        let me = &self.holder.node;
        let is_last = {
            let mut others = self.registry.nodes.iter();
            !others.any(|node| node.id != *me && !node.draining)
        };
        let sessions_left = self.owner.len() > self.owner.stranded();
        let is_empty = !sessions_left && self.clients.is_empty();
        if until <= self.now || is_last || is_empty {
            self.stop_now();
        }
    }

    fn stop_now(&mut self) {
        self.stopping = Some(Stopping::Lingering {
            until: self.now + LINGER,
            at_most: self.now + LINGER_MAX,
        });
        let error = Error::new(
            ErrorCode::OwnerLost,
            "the relay that ordered the session is stopping",
        );
        self.owner.close_all(&error, self.now);
        self.settle_machines();
    }

    fn stop_further(&mut self) {
        match self.stopping {
            Some(Stopping::Lingering { at_most, .. })
                if self.gateway.members() > 0 && self.now < at_most =>
            {
                let until = at_most.min(self.now + LINGER);
                self.stopping = Some(Stopping::Lingering { until, at_most });
            }
            Some(Stopping::Lingering { until, .. }) if until <= self.now => {
                self.settle();
                let error = Error::new(
                    ErrorCode::RelayDraining,
                    "the relay is stopping; use another one",
                );
                let clients: Vec<ClientId> = self.clients.keys().copied().collect();
                clients
                    .iter()
                    .for_each(|&client| self.close_client(client, &error));
                let links: Vec<ConnectionId> = self.mesh_endpoint.connections().collect();
                for link in links {
                    if let Some(connection) = self.mesh_endpoint.get(link) {
                        connection.close(&error, self.now);
                    }
                }
                let leave = self.registry.leave();
                self.ask_directory(Purpose::Registry(registry::Purpose::Deregister), leave);
                self.stopping = Some(Stopping::Closing {
                    until: self.now + CLOSING,
                });
            }
            Some(Stopping::Closing { until }) if until <= self.now => {
                self.stopping = Some(Stopping::Stopped);
                self.outputs.push_back(Output::Stopped);
            }
            Some(
                Stopping::Leaving { .. }
                | Stopping::Lingering { .. }
                | Stopping::Closing { .. }
                | Stopping::Stopped,
            )
            | None => {}
        }
    }
}

fn unknown_key() -> Error {
    Error::new(
        ErrorCode::DirectoryUnavailable,
        "the token's key is not known to this relay yet; try again",
    )
}

/// Datagrams carry Latest and Datagram, the bulk stream all but control and Ordered; anything may
/// take the control stream.
fn check_carriage(carriage: Carriage, frame: ClientFrame) -> Result<ClientFrame, Error> {
    let misplaced = |what: &'static str| Err(Error::new(ErrorCode::MalformedFrame, what));
    match (&frame, carriage) {
        (_, Carriage::Control) => Ok(frame),
        (ClientFrame::Publish(publish), Carriage::Datagram)
            if !publish.message.mode.is_unreliable() =>
        {
            misplaced("a datagram carries an Ordered or Reliable message")
        }
        (ClientFrame::Publish(publish), Carriage::Bulk)
            if publish.message.mode == Mode::Ordered =>
        {
            misplaced("the bulk stream carries an Ordered message")
        }
        (ClientFrame::Publish(_), Carriage::Datagram | Carriage::Bulk) => Ok(frame),
        (ClientFrame::Control(_) | ClientFrame::Ack(_), Carriage::Datagram | Carriage::Bulk) => {
            misplaced("a control message or Ack outside the control stream")
        }
    }
}

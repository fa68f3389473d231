//! A relay: its nodes, and what they share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_directory::{
    Directory, DirectoryError, limits::CAPACITY_MAX, parse_host, parse_region,
};
use dreamcatcher_proto::{BootId, Error, ErrorCode, NodeId, limits};
use tokio::net::TcpListener;

use crate::driver::{Driver, Port, is_wildcard, unix_now};
use crate::identity::client_identity;
use crate::keys::KeySource;
use crate::node::io::{Clock, ClusterKey, MemberRates, NodeConfig, Quotas, Socket, Stats};

/// Event loops of one relay: more cores than this are better served by two relays.
pub const NODES_MAX: usize = 256;
/// Longest that batches may be let to grow: more would be felt in a game.
pub const BATCH_DELAY_MAX: Duration = Duration::from_millis(20);
/// The default of [`RelayConfig::max_batch_delay`].
pub const BATCH_DELAY_DEFAULT: Duration = Duration::from_millis(1);
/// How long a relay that is asked to stop may take, before it is ended.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What a relay is started with.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Node k of the relay is `<id>-<k>` in the directory.
    pub id: String,
    pub region: String,
    /// The failure domain.
    pub host: String,
    /// Where clients are served: node k on this port + k, or each on a free one if it is 0.
    pub listen: SocketAddr,
    /// Where other relays are, likewise.
    pub mesh_listen: SocketAddr,
    /// Where clients reach node 0, if that is not where it listens; port 0 stands for the same port.
    pub advertise: Option<SocketAddr>,
    /// Where other relays reach node 0, likewise.
    pub mesh_advertise: Option<SocketAddr>,
    /// Where the operator's pages are served.
    pub admin: Option<SocketAddr>,
    /// Event loops, 1–[`NODES_MAX`]: one per core.
    pub nodes: usize,
    /// Weight of each node in placement.
    pub capacity: u32,
    /// Clients of each node.
    pub clients_max: usize,
    /// Longest that a datagram waits for others to be handled with it; zero: none waits.
    pub max_batch_delay: Duration,
    /// What one member may send.
    pub rates: MemberRates,
    /// How many connections one user, address, network may have to a node.
    pub quotas: Quotas,
    /// Every newcomer has to show that its address is real, not only under load: one more round trip
    /// for each.
    pub always_retry: bool,
    pub cluster_key: ClusterKey,
    pub keys: KeySource,
    pub directory: Arc<dyn Directory>,
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{flag} {address} is in use by another process: stop that, or choose another port \
         (0 takes a free one)"
    )]
    AddressInUse {
        address: SocketAddr,
        flag: &'static str,
    },
    #[error("cannot listen on {flag} {address}: {cause}")]
    CannotListen {
        address: SocketAddr,
        flag: &'static str,
        cause: io::Error,
    },
    #[error("{0}")]
    InvalidConfig(String),
    #[error("the relay could not start: {0}")]
    Internal(String),
}

impl StartError {
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::AddressInUse { .. } => ErrorCode::AddressInUse,
            Self::CannotListen { .. } | Self::InvalidConfig(_) => ErrorCode::InvalidConfig,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

/// A node of a running relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    pub id: NodeId,
    pub boot: BootId,
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Where other relays reach it.
    pub mesh_address: SocketAddr,
    /// What clients pin, the present certificate first.
    pub certificate_sha256: Vec<[u8; 32]>,
    pub host: String,
    pub region: String,
}

/// A running relay. Dropping it is [`Relay::kill`].
#[derive(Debug)]
pub struct Relay {
    nodes: Vec<NodeInfo>,
    admin: Option<SocketAddr>,
    driver: Driver,
}

impl Relay {
    /// Binds every socket, then starts one thread per node. The nodes register with the directory on
    /// their own: [`Relay::readiness`]. Must be called within a tokio runtime.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        config.check()?;
        let listener = match config.admin {
            Some(address) => Some(bind_admin(address).await?),
            None => None,
        };
        let admin = listener.as_ref().map(TcpListener::local_addr);
        let mut relay = Self {
            nodes: Vec::with_capacity(config.nodes),
            admin: admin.transpose().map_err(internal)?,
            driver: Driver::new(
                Arc::clone(&config.directory),
                config.keys.clone(),
                config.max_batch_delay,
            )
            .map_err(internal)?,
        };
        let places = (0..config.nodes).map(|k| Place::bind(&config, k));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let boot = BootId(rand::random());
        for place in places {
            let info = place.info(&config, boot);
            let node = place.config(&config, boot)?;
            tracing::info!(
                node = %info.id,
                address = %info.address,
                mesh_address = %info.mesh_address,
                certificate_sha256 = %hex(&node.identity.certificate_sha256()),
                "listening"
            );
            relay.nodes.push(info);
            relay
                .driver
                .run(node, place.client, place.mesh)
                .map_err(internal)?;
        }
        relay.driver.watch_over(listener);
        Ok(relay)
    }

    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let present = self.nodes.iter().zip(self.driver.certificates());
        present
            .map(|(node, certificate_sha256)| NodeInfo {
                certificate_sha256,
                ..node.clone()
            })
            .collect()
    }

    /// Where the operator's pages are served.
    #[must_use]
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Whether every node is registered with the directory, or why one is not.
    pub fn readiness(&self) -> Result<(), String> {
        self.driver.readiness()
    }

    /// What each node counted, at most a quarter of a second old.
    #[must_use]
    pub fn stats(&self) -> Vec<(NodeId, Stats)> {
        self.driver.stats()
    }

    /// CPU time of the nodes' threads since their start.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.driver.cpu_time()
    }

    /// Returns, with the cause, once a node has ended that nobody asked to: the directory will not take
    /// it (`WrongClusterKey`, or `InvalidConfig` where another run has its id), or a fault of ours.
    pub async fn ended(&self) -> Error {
        match self.driver.ended().await {
            Some((_, Some(error @ DirectoryError::OtherMesh(_)))) => error.into(),
            Some((_, Some(error))) => Error::new(ErrorCode::InvalidConfig, error.to_string()),
            Some((node, None)) => {
                let message = format!("{node} has ended; the log says why");
                Error::new(ErrorCode::Internal, message)
            }
            None => Error::new(ErrorCode::Internal, "there is no node"),
        }
    }

    /// Stops in good order: clients are told, and the directory; at most 10 s, then it is ended.
    pub async fn stop(mut self) {
        let began = Instant::now();
        let (mut clients, mut members, mut sessions) = (0, 0, 0);
        for (_, stats) in self.stats() {
            clients += stats.clients;
            members += stats.members;
            sessions += stats.sessions_owned;
        }
        tracing::info!(
            clients,
            members,
            sessions,
            "stopping: sessions that are ordered here end, members of others have time to move"
        );
        let stopped = tokio::time::timeout(STOP_WITHIN, self.driver.stop()).await;
        let took_ms = began.elapsed().as_millis();
        match stopped {
            Ok(()) => tracing::info!(took_ms, "stopped"),
            Err(_) => tracing::warn!(took_ms, "did not stop within {STOP_WITHIN:?}: ended"),
        }
    }

    /// Asks for a stop as soon as the sessions and players here have moved to other relays, which they
    /// have so long for; zero does not wait. A second wish replaces the first. [`Relay::drained`] waits.
    pub async fn drain(&self, within: Duration) {
        self.driver.begin_stop(within).await;
    }

    /// Waits for the end of a [`Relay::drain`], and of what it still says then.
    pub async fn drained(&mut self) {
        self.driver.stopped().await;
    }

    /// Ends as a crash does: nothing more is sent, nobody is told.
    pub fn kill(self) {
        drop(self);
    }
}

impl RelayConfig {
    fn check(&self) -> Result<(), StartError> {
        let within = |holds: bool, message: String| {
            holds
                .then_some(())
                .ok_or(StartError::InvalidConfig(message))
        };
        parse_region(&self.region).map_err(invalid)?;
        parse_host(&self.host).map_err(invalid)?;
        within(
            (1..=NODES_MAX).contains(&self.nodes),
            format!("nodes {} must be 1–{NODES_MAX}", self.nodes),
        )?;
        within(
            (1..=CAPACITY_MAX).contains(&self.capacity),
            format!("capacity {} must be 1–{CAPACITY_MAX}", self.capacity),
        )?;
        let clients_max = limits::CLIENTS_PER_NODE_MAX;
        within(
            (1..=clients_max).contains(&self.clients_max),
            format!("clients_max {} must be 1–{clients_max}", self.clients_max),
        )?;
        within(
            self.max_batch_delay <= BATCH_DELAY_MAX,
            format!(
                "max_batch_delay {:?} must be at most {BATCH_DELAY_MAX:?}",
                self.max_batch_delay
            ),
        )
    }
}

/// Where one node is: its sockets, bound, and the addresses that others are told.
struct Place {
    id: NodeId,
    client: Port,
    mesh: Port,
    address: SocketAddr,
    mesh_address: SocketAddr,
}

impl Place {
    fn bind(config: &RelayConfig, k: usize) -> Result<Self, StartError> {
        let id = format!("{}-{k}", config.id).parse().map_err(invalid)?;
        let client = Flag {
            listen: "--listen",
            advertise: "--advertise",
        };
        let mesh = Flag {
            listen: "--mesh-listen",
            advertise: "--mesh-advertise",
        };
        let (client, address) = client.bind(Socket::Client, config.listen, config.advertise, k)?;
        let (mesh, mesh_address) =
            mesh.bind(Socket::Mesh, config.mesh_listen, config.mesh_advertise, k)?;
        Ok(Self {
            id,
            client,
            mesh,
            address,
            mesh_address,
        })
    }

    fn info(&self, config: &RelayConfig, boot: BootId) -> NodeInfo {
        NodeInfo {
            id: self.id.clone(),
            boot,
            address: self.address,
            mesh_address: self.mesh_address,
            certificate_sha256: Vec::new(),
            host: config.host.clone(),
            region: config.region.clone(),
        }
    }

    fn config(&self, config: &RelayConfig, boot: BootId) -> Result<NodeConfig, StartError> {
        let unix = unix_now();
        Ok(NodeConfig {
            id: self.id.clone(),
            boot,
            host: config.host.clone(),
            region: config.region.clone(),
            advertise: self.address,
            mesh_advertise: self.mesh_address,
            capacity: config.capacity,
            clients_max: config.clients_max,
            cluster_key: config.cluster_key.clone(),
            identity: client_identity(unix.as_secs()).map_err(internal)?,
            keys: Arc::clone(&config.keys.keys.borrow()),
            follows_keys: config.keys.wanted().is_some(),
            rates: config.rates,
            quotas: Quotas {
                always_retry: config.always_retry || config.quotas.always_retry,
                ..config.quotas
            },
            clock: Clock {
                at: Instant::now(),
                unix,
            },
            seed: rand::random(),
        })
    }
}

/// What a socket's two addresses are called on the command line.
struct Flag {
    listen: &'static str,
    advertise: &'static str,
}

impl Flag {
    fn bind(
        self,
        name: Socket,
        listen: SocketAddr,
        advertise: Option<SocketAddr>,
        k: usize,
    ) -> Result<(Port, SocketAddr), StartError> {
        let listen = plus(listen, k, self.listen)?;
        let port = Port::bind(name, listen).map_err(|e| cannot_listen(self.listen, listen, e))?;
        let bound = port.local_addr().map_err(internal)?;
        let reached = match advertise {
            Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), bound.port()),
            Some(address) => plus(address, k, self.advertise)?,
            None => bound,
        };
        if is_wildcard(reached) {
            let option = self.advertise;
            let flag = advertise.map_or(self.listen, |_| option);
            return Err(StartError::InvalidConfig(format!(
                "{reached} (from {flag}) is an address that nobody can dial: pass {option} with the \
                 one that others reach this relay at, such as 203.0.113.7:4433"
            )));
        }
        Ok((port, reached))
    }
}

pub(crate) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The address of node k; port 0 stays 0.
fn plus(address: SocketAddr, k: usize, flag: &str) -> Result<SocketAddr, StartError> {
    if address.port() == 0 {
        return Ok(address);
    }
    u16::try_from(k)
        .ok()
        .and_then(|k| address.port().checked_add(k))
        .map(|port| SocketAddr::new(address.ip(), port))
        .ok_or_else(|| {
            StartError::InvalidConfig(format!(
                "{flag} {address}: there is no port for node {k}, choose a lower one"
            ))
        })
}

async fn bind_admin(address: SocketAddr) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the admin pages are open to other machines");
    }
    TcpListener::bind(address)
        .await
        .map_err(|e| cannot_listen("--admin", address, e))
}

fn cannot_listen(flag: &'static str, address: SocketAddr, cause: io::Error) -> StartError {
    if cause.kind() == io::ErrorKind::AddrInUse {
        return StartError::AddressInUse { address, flag };
    }
    StartError::CannotListen {
        address,
        flag,
        cause,
    }
}

fn invalid(error: Error) -> StartError {
    StartError::InvalidConfig(error.message().to_owned())
}

fn internal(error: impl std::fmt::Display) -> StartError {
    StartError::Internal(error.to_string())
}

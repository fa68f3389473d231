//! What goes into a [`Node`](super::Node) and what comes out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dreamcatcher_directory::{DirectoryError, Hint, Reply, Request};
use dreamcatcher_proto::token::KeySet;
use dreamcatcher_proto::{BootId, ErrorCode, NodeId, limits};
use quinn_proto::EcnCodepoint;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Who this node is and how it is to behave; fixed for its life.
#[derive(Debug)]
pub struct NodeConfig {
    pub id: NodeId,
    pub boot: BootId,
    /// The failure domain.
    pub host: String,
    pub region: String,
    /// Where clients reach this node.
    pub advertise: SocketAddr,
    /// Where other relays reach this node.
    pub mesh_advertise: SocketAddr,
    /// Relative weight in placement.
    pub capacity: u32,
    pub clients_max: usize,
    pub cluster_key: ClusterKey,
    /// What clients are shown; its SHA-256 is published.
    pub identity: Identity,
    pub keys: Arc<KeySet>,
    /// Whether [`Output::WantKeys`] is heard: else a token of an unknown key is refused at once.
    pub follows_keys: bool,
    pub rates: MemberRates,
    pub quotas: Quotas,
    pub clock: Clock,
    /// Seeds ids, join codes and QUIC's connection ids.
    pub seed: [u8; 32],
}

/// What one member may send per second; twice as much may be saved up. 0: as much as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRates {
    pub messages_per_s: u32,
    pub bytes_per_s: u32,
}

impl Default for MemberRates {
    fn default() -> Self {
        Self {
            messages_per_s: limits::MEMBER_MESSAGES_PER_S,
            bytes_per_s: limits::MEMBER_BYTES_PER_S,
        }
    }
}

/// How many connections one user, one address, one network may have. 0: as many as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// The newest wins.
    pub connections_per_user: u32,
    /// Of IPv6: from one /64.
    pub connections_per_address: u32,
    /// New connections per second from one /24, of IPv6 /48.
    pub new_per_s: u32,
    /// And this many at once.
    pub new_burst: u32,
    /// Whether the two numbers before hold for this machine's own addresses too, which bots share.
    pub limit_loopback: bool,
    /// Every newcomer has to show that its address is real (RFC 9000, 8.1.2), not only under load.
    pub always_retry: bool,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            connections_per_user: limits::CONNECTIONS_PER_USER_MAX,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS_MAX,
            new_per_s: limits::CONNECTIONS_NEW_PER_S,
            new_burst: limits::CONNECTIONS_NEW_BURST,
            limit_loopback: false,
            always_retry: false,
        }
    }
}

/// The 32 bytes that make a mesh one.
#[derive(Clone)]
pub struct ClusterKey(pub [u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Ties the monotonic time that a node is given to the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub at: Instant,
    /// Time since the Unix epoch at `at`.
    pub unix: Duration,
}

impl Clock {
    /// Time since the Unix epoch at `now`.
    #[must_use]
    pub fn unix(&self, now: Instant) -> Duration {
        self.unix + now.saturating_duration_since(self.at)
    }
}

/// The two sockets of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Socket {
    /// Players.
    Client,
    /// Other relays.
    Mesh,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    Datagram(Datagram),
    /// The answer to an [`Output::Directory`].
    Directory {
        id: u64,
        reply: Result<Reply, DirectoryError>,
    },
    /// Something in the directory changed.
    Hint(Hint),
    /// The token keys were read again; they may be the same. Empty ones: they were given up.
    Keys(Arc<KeySet>),
    /// The client-facing certificate was renewed.
    Identity(Identity),
    /// Stop in good order: no new clients; sessions and players move to other nodes, for so long; then
    /// [`Output::Stopped`].
    Stop {
        within: Duration,
    },
}

/// A UDP datagram that came in.
#[derive(Debug)]
pub struct Datagram {
    pub socket: Socket,
    pub remote: SocketAddr,
    pub local_ip: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
    pub data: BytesMut,
}

/// One thing to do.
#[derive(Debug)]
pub enum Output {
    /// Ask the directory; the answer comes back as [`Input::Directory`] with the same `id`.
    Directory { id: u64, request: Box<Request> },
    /// A token names a key that is not known: read the keys again, and say so by [`Input::Keys`].
    WantKeys,
    /// The node has stopped: nothing comes after this.
    Stopped,
}

/// A UDP send; the bytes are in the buffer that `poll_transmit` filled.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    pub socket: Socket,
    pub destination: SocketAddr,
    pub ecn: Option<EcnCodepoint>,
    pub size: usize,
    /// Several datagrams of this size each, the last one maybe shorter (GSO).
    pub segment_size: Option<usize>,
    pub src_ip: Option<IpAddr>,
}

/// What a node counts, since its start. Read by the driver, which publishes it as metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub clients: u64,
    pub links: u64,
    pub sessions_owned: u64,
    pub members: u64,
    pub datagrams_received: u64,
    pub datagrams_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub client_connections_total: u64,
    pub published_total: [u64; 4],
    pub delivered_total: [u64; 4],
    pub ordered_total: u64,
    pub forwarded_total: u64,
    pub fanouts_total: u64,
    pub duplicates_total: u64,
    pub redirects_total: u64,
    pub resumes_total: u64,
    pub latest_dropped_total: u64,
    pub slow_consumers_total: u64,
    pub owners_lost_total: u64,
    /// Copies of sessions that other nodes own.
    pub standby_copies: u64,
    /// Sessions here whose Ordered messages wait for a standby or the directory.
    pub sessions_waiting: u64,
    pub stored_total: u64,
    pub fenced_total: u64,
    pub views_installed_total: u64,
    pub takeovers_total: u64,
    pub handovers_total: u64,
    pub links_redialled_total: u64,
    pub directory_requests_total: u64,
    /// Addresses with connections that count against a quota.
    pub addresses: u64,
    pub connections_refused_total: u64,
    pub retries_total: u64,
    pub over_budget_dropped_total: u64,
    pub over_budget_pauses_total: u64,
    pub sessions_restored_total: u64,
    pub codes_lost_total: u64,
    /// Sessions whose record or end the directory has still to be told.
    pub repairs_waiting: u64,
    pub keys_unknown_total: u64,
    /// Closes and refusals, by code.
    pub errors_total: BTreeMap<ErrorCode, u64>,
}

/// What `/debug/sessions` shows of one session that this node owns or carries members of.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SessionView {
    pub session: String,
    pub role: &'static str,
    pub owner: String,
    pub epoch: u64,
    pub index: u64,
    pub members: Vec<MemberView>,
}

/// One member in a [`SessionView`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct MemberView {
    pub peer: u16,
    pub gateway: String,
    pub connected: bool,
    pub acked: u64,
}

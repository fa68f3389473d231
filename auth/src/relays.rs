//! The relays, as clients see them.

use std::fmt;
use std::net::SocketAddr;

use dreamcatcher_proto::NodeId;
use serde::{Serialize, Serializer};

/// Where the relay list comes from: the directory's cached view. It is asked at every request, so
/// it must answer from memory.
pub trait RelayList: Send + Sync + 'static {
    fn relays(&self) -> Vec<RelayEntry>;
}

impl<F: Fn() -> Vec<RelayEntry> + Send + Sync + 'static> RelayList for F {
    fn relays(&self) -> Vec<RelayEntry> {
        self()
    }
}

/// What a client needs to choose a relay and to trust it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RelayEntry {
    pub node_id: NodeId,
    pub region: String,
    /// The failure domain; clients probe one node per host.
    pub host: String,
    /// Where clients connect.
    pub address: SocketAddr,
    /// The certificates to accept: the present one, and the next while it rotates.
    pub certificate_sha256: Vec<CertificateHash>,
    /// Clients connected now.
    pub load: u32,
    /// Clients that it has room for.
    pub capacity: u32,
    /// Whether it takes no new clients because it is about to stop.
    pub draining: bool,
}

/// The SHA-256 of a certificate in DER, in JSON 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateHash(pub [u8; 32]);

impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateHash({self})")
    }
}

impl Serialize for CertificateHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

//! The relays, as clients see them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use dreamcatcher_directory::{Directory, NodeRecord, Reply, Request, limits};
use dreamcatcher_proto::NodeId;
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The relay list, as fresh as the directory's hints make it. Reading it touches nothing but memory:
/// while the directory is away the last list stays.
#[derive(Clone, Debug)]
pub(crate) struct Relays {
    list: watch::Receiver<Arc<[RelayEntry]>>,
    _follower: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relays {
    /// Follows `directory` from here on. Must be called within a tokio runtime.
    pub(crate) fn follow(directory: Arc<dyn Directory>) -> Self {
        let (told, list) = watch::channel(Arc::from([]));
        Self {
            list,
            _follower: Arc::new(AbortOnDrop(tokio::spawn(follow(directory, told)))),
        }
    }

    /// Waits until it has at least `count` entries.
    pub(crate) async fn at_least(&self, count: usize) {
        let mut list = self.list.clone();
        // An error is a directory that has gone: then nobody comes any more.
        let _ = list.wait_for(|list| list.len() >= count).await;
    }

    pub(crate) fn list(&self) -> Arc<[RelayEntry]> {
        Arc::clone(&self.list.borrow())
    }
}

async fn follow(directory: Arc<dyn Directory>, list: watch::Sender<Arc<[RelayEntry]>>) {
    let mut hints = directory.watch();
    let mut reread = tokio::time::interval(limits::NODES_REREAD_EVERY);
    loop {
        if let Ok(Reply::Nodes(nodes)) = directory.call(Request::Nodes).await {
            list.send_replace(nodes.into_iter().map(RelayEntry::from).collect());
        }
        tokio::select! {
            hint = hints.next() => match hint {
                // One read answers all the hints that wait.
                Some(_) => while hints.try_next().is_some() {},
                None => return,
            },
            _ = reread.tick() => {}
        }
    }
}

/// What a client needs to choose a relay and to trust it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RelayEntry {
    node_id: NodeId,
    region: String,
    /// The failure domain; clients probe one node per host.
    host: String,
    /// Where clients connect.
    address: SocketAddr,
    /// The certificates to accept: the present one, and the next while it rotates.
    certificate_sha256: Vec<CertificateHash>,
    /// Clients connected now.
    load: u32,
    /// Clients that it has room for.
    capacity: u32,
    /// Whether it takes no new clients because it is about to stop.
    draining: bool,
}

impl From<NodeRecord> for RelayEntry {
    fn from(node: NodeRecord) -> Self {
        let hashes = node.certificate_sha256.into_iter();
        Self {
            node_id: node.id,
            region: node.region,
            host: node.host,
            address: node.address,
            certificate_sha256: hashes.map(CertificateHash).collect(),
            load: node.load.clients,
            capacity: node.clients_max,
            draining: node.draining || node.drain_wanted,
        }
    }
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

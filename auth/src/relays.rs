//! The relays, as clients see them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::{Directory, NodeRecord, Reply, Request, limits};
use dreamcatcher_proto::{Error, ErrorCode, NodeId};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::tasks::AbortOnDrop;

/// How long a reader waits for the first list after the start.
const FIRST_LIST_WITHIN: Duration = Duration::from_millis(900);
/// How long the directory may take to answer; the next hint or the re-read asks again.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The relay list, as fresh as the directory's hints make it. Reading it touches nothing but memory:
/// while the directory is away the last list stays.
#[derive(Clone, Debug)]
pub(crate) struct Relays {
    /// `None` until the directory answered for the first time.
    list: watch::Receiver<Option<Arc<[RelayEntry]>>>,
    _follower: Arc<AbortOnDrop>,
}

impl Relays {
    /// Follows `directory` from here on. Must be called within a tokio runtime.
    pub(crate) fn follow(directory: Arc<dyn Directory>) -> Self {
        let (told, list) = watch::channel(None);
        Self {
            list,
            _follower: Arc::new(AbortOnDrop::spawn(follow(directory, told))),
        }
    }

    /// Waits until it has at least `count` entries.
    pub(crate) async fn at_least(&self, count: usize) {
        let mut list = self.list.clone();
        // An error is a directory that has gone: then nobody comes any more.
        let enough = |list: &Option<Arc<[RelayEntry]>>| {
            list.as_ref().is_some_and(|list| list.len() >= count)
        };
        let _ = list.wait_for(enough).await;
    }

    /// The list, for whose first version it waits a moment: an empty one would say that there are
    /// no relays.
    pub(crate) async fn list(&self) -> Result<Arc<[RelayEntry]>, Error> {
        let mut list = self.list.clone();
        let known = tokio::time::timeout(FIRST_LIST_WITHIN, list.wait_for(Option::is_some)).await;
        let list = known
            .ok()
            .and_then(Result::ok)
            .and_then(|list| list.clone());
        list.ok_or(ErrorCode::DirectoryUnavailable.into())
    }
}

async fn follow(directory: Arc<dyn Directory>, list: watch::Sender<Option<Arc<[RelayEntry]>>>) {
    let mut hints = directory.watch();
    let mut reread = tokio::time::interval(limits::NODES_REREAD_EVERY);
    loop {
        let read = tokio::time::timeout(READ_TIMEOUT, directory.call(Request::Nodes)).await;
        if let Ok(Ok(Reply::Nodes(nodes))) = read {
            let entries = nodes.into_iter().map(RelayEntry::from);
            list.send_replace(Some(entries.collect()));
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Relay)]
pub(crate) struct RelayEntry {
    #[schema(value_type = String, example = "relay-1-0")]
    node_id: NodeId,
    #[schema(example = "local")]
    region: String,
    /// The failure domain; clients probe one node per host.
    host: String,
    /// Where clients connect, by QUIC.
    #[schema(value_type = String, example = "127.0.0.1:4433")]
    address: SocketAddr,
    /// The SHA-256 of each certificate to accept, in hexadecimal: the present one, and the next
    /// while it rotates.
    #[schema(value_type = Vec<String>)]
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

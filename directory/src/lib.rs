//! Who owns what: nodes and their leases, session records, join codes, listings, placement.
//!
//! ```text
//!  node ──Request──▶ Directory ──▶ Table (the rules) ──Change──▶ Watch ──▶ Nodes (cached view)
//!       ◀──Reply───  one of:       in MemoryDirectory,                     who is alive,
//!                                  or as a script in Redis                 who should own
//! ```
//!
//! The directory is a hint and a liveness device, never a safety device: it says who *may* own a
//! session, and when others may try. That two owners never both go on is kept by epochs, at every
//! receiver. So a directory that forgets, answers late, or answers twice costs time, not history.
//!
//! [`Request`] and [`Reply`] are closed: each request is one atomic step in every backend. The
//! feature `conformance` has the tests that hold a backend to the rules of [`Table`]; the feature
//! `redis` has the backend that separate processes share.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod limits;
mod memory;
mod nodes;
mod record;
#[cfg(feature = "redis")]
pub mod redis;
mod request;
mod rules;
mod url;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::broadcast;

pub use memory::{Expiry, MemoryDirectory};
pub use nodes::{Nodes, Staleness};
pub use record::{
    Change, Grade, Holder, Listing, Load, NodeRecord, SessionRecord, Timestamp, View, parse_host,
    parse_region,
};
pub use request::{DirectoryError, Filter, ListPage, Listed, NewSession, Renewal, Reply, Request};
pub use rules::Table;
pub use url::redacted;

/// The answer to one request, when it comes.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, DirectoryError>> + Send + 'a>>;

/// A backend. `Arc<dyn Directory>` is what the rest of a relay knows of it.
pub trait Directory: Send + Sync + Debug {
    /// Asks for one atomic step. Whoever calls sets the deadline; a request whose answer is given
    /// up may still have happened, and every request can be repeated safely.
    fn call(&self, request: Request) -> Answer<'_>;

    /// Hints of what changes from here on.
    fn watch(&self) -> Watch;
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    Changed(Change),
    /// Hints were or may have been lost, at least this many: read [`Request::Nodes`] again.
    Missed(u64),
}

/// A bounded queue of hints: whoever falls more than [`limits::HINTS_QUEUED_MAX`] behind loses the
/// oldest, and is told.
#[derive(Debug)]
pub struct Watch(broadcast::Receiver<Hint>);

impl Watch {
    /// A watch on what is sent through `hints`; for backends.
    #[must_use]
    pub fn new(hints: &broadcast::Sender<Hint>) -> Self {
        Self(hints.subscribe())
    }

    /// The next hint; `None` once the directory is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Hint> {
        match self.0.recv().await {
            Ok(hint) => Some(hint),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Hint::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next hint if one waits.
    pub fn try_next(&mut self) -> Option<Hint> {
        match self.0.try_recv() {
            Ok(hint) => Some(hint),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Hint::Missed(missed)),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => {
                None
            }
        }
    }
}

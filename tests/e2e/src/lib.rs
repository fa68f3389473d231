//! A client that knows nothing but `docs/protocol.md` and `dreamcatcher.proto`, and the processes
//! that it talks to.
//!
//! ```text
//!  test ─▶ Process (dreamcatcher dev, relay) ── Mesh: addresses, tokens
//!       ├▶ Cluster: Redis, Postgres, auth, relays, each a process
//!       └▶ Client ── frame, control ──QUIC──▶ relay
//! ```
//!
//! Nothing here uses a crate of the project, so that the page is what is tested. A step that does
//! not succeed fails the test by a panic; every wait has the same deadline.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever was not expected fails the test"
)]

pub mod client;
pub mod cluster;
pub mod code;
pub mod control;
pub mod example;
pub mod frame;
pub mod process;
pub mod tls;
pub mod token;

use std::future::Future;
use std::time::Duration;

/// Longest wait for anything: far beyond what a relay needs, well within what a test run bears.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What `future` yields, if it does so within [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

//! Carries the traffic of Dreamcatcher: a relay takes players' messages, has them ordered, and fans
//! them out.
//!
//! ```text
//!  players ══QUIC══▶ driver: sockets, threads ──▶ node: QUIC, gateway, mesh links, owner
//!  relays  ══QUIC══▶    │         ▲                  │
//!                       │         └────transmits─────┘
//!                       └── tokio side: directory, admin HTTP, metrics
//! ```
//!
//! [`Relay`] starts it all. [`node`] decides and does no I/O, so that a simulation runs the very code
//! that is shipped; the driver gives it sockets, threads and time; [`identity`] says who a relay is.

mod keys;
mod outage;
mod relay;

mod driver;

pub mod identity;
pub mod node;

pub use driver::metrics;
pub use keys::{JwksConfig, KeySource};
pub use node::io::{MemberRates, Quotas};
pub use relay::{
    BATCH_DELAY_DEFAULT, BATCH_DELAY_MAX, NODES_MAX, NodeInfo, Relay, RelayConfig, StartError,
};

//! User records and sign-in.
//!
//! ```text
//!  client ──POST /v1/guest──────────▶ Auth ──▶ Store (users, signing keys)
//!         ◀─access token (15 min)────  │ ▲
//!  client ──GET /v1/relays──────────▶  │ └── the directory, as its hints have it
//!  relay  ──GET /.well-known/jwks.json─┘
//!         then checks every token by itself
//! ```
//!
//! [`Auth::start`] binds, serves until [`Auth::shutdown`], and is the same in a process of its own
//! and inside `dreamcatcher dev`. Relays never ask it about a token: they hold its public keys, so
//! running games do not notice when it is away.
//!
//! # HTTP API
//!
//! HTTP/1.1 and JSON. A request body is at most 16 KiB ([`BODY_BYTES_MAX`]), of `Content-Type:
//! application/json`, and an unknown field in it is an error. The server itself speaks plain HTTP:
//! anywhere but on loopback, put TLS in front of it.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/guest` | signs a guest in: an access token |
//! | `GET /v1/relays` | the relays that a client can choose from |
//! | `GET /.well-known/jwks.json` | the public keys (RFC 7517), current and next; cache them for 300 s |
//! | `GET /livez` | `{"status":"ok"}` while the process serves |
//! | `GET /readyz` | `{"status":"ok"}` while the store answers too |
//!
//! ## `POST /v1/guest`
//!
//! ```json
//! {"secret": "ZHJlYW1jYXRjaGVyIGV4YW1wbGU", "display_name": "Ada"}
//! ```
//!
//! `secret` is drawn at random by the client, once, and kept: at least 128 bits as 22–128 characters
//! of base64url. The same secret is the same user for ever; only a hash of it is stored.
//! `display_name` is 1–32 characters; when it is given it becomes the user's name, when it never was
//! the name is `Guest-` and four digits.
//!
//! ```json
//! {"user_id": "9f86d081884c7d659a2feaa0c55ad015", "display_name": "Ada",
//!  "access_token": "eyJ…", "expires_in_s": 900, "token_type": "Bearer"}
//! ```
//!
//! ## `GET /v1/relays`
//!
//! ```json
//! {"relays": [{"node_id": "relay-1-0", "region": "local", "host": "host-1",
//!              "address": "127.0.0.1:4433", "certificate_sha256": ["5e88…"],
//!              "load": 12, "capacity": 20000, "draining": false}]}
//! ```
//!
//! A client connects by QUIC to `address`, and accepts a certificate only if its SHA-256 is listed.
//!
//! ## Errors
//!
//! Any status from 400 on has this body. `code` and `name` are of [`ErrorCode`]; the message is for
//! people and never contractual. `retry_after_ms` is there when it is known, and then the header
//! `Retry-After` (whole seconds) too.
//!
//! ```json
//! {"code": 206, "name": "RateLimited", "message": "…", "retryable": true, "retry_after_ms": 1000}
//! ```
//!
//! | status | name | when |
//! |---|---|---|
//! | 400 | `InvalidArgument` | the body is not JSON, or a value is outside its range |
//! | 404 | `InvalidArgument` | there is no such route |
//! | 405 | `InvalidArgument` | the route has another method |
//! | 413 | `MessageTooLarge` | the body is over 16 KiB |
//! | 415 | `InvalidArgument` | the `Content-Type` is not `application/json` |
//! | 422 | `InvalidArgument` | a field is missing, unknown, or of another type |
//! | 429 | `RateLimited` | too many sign-ins from this address ([`Config::guest_rate`]) |
//! | 500 | `Internal` | a fault of ours |
//! | 503 | `TimedOut` | no answer within [`Config::request_timeout`] |
//!
//! [`ErrorCode`]: dreamcatcher_proto::ErrorCode

mod account;
mod api;
mod guest;
mod keys;
mod rate;
mod refusal;
mod relays;
mod server;
mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::Directory;

pub use rate::Rate;
pub use relays::CertificateHash;
pub use server::Auth;
pub use store::StoreConfig;

/// Largest request body.
pub const BODY_BYTES_MAX: usize = 16_384;
/// Connections at a time; the next waits in the kernel's accept queue.
pub const CONNECTIONS_MAX: usize = 1_024;

/// What [`Auth::start`] needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where users and signing keys are kept.
    pub store: StoreConfig,
    /// Where the relays are that `GET /v1/relays` lists.
    pub directory: Arc<dyn Directory>,
    /// Guest sign-ins of one address (IPv6: one /64).
    pub guest_rate: Rate,
    /// The same for loopback addresses, where whole fleets of bots share one.
    pub guest_rate_loopback: Rate,
    /// From a request's header to its answer.
    pub request_timeout: Duration,
}

impl Config {
    /// A free port on loopback, a store in memory, and rates that no player notices.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            store: StoreConfig::Memory,
            directory,
            guest_rate: Rate {
                burst: 100,
                per_s: 1,
            },
            guest_rate_loopback: Rate {
                burst: 1_000,
                per_s: 100,
            },
            request_timeout: Duration::from_secs(5),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("store", &self.store)
            .field("guest_rate", &self.guest_rate)
            .field("guest_rate_loopback", &self.guest_rate_loopback)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

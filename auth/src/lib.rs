//! User records and sign-in.
//!
//! ```text
//!  client ──POST /v1/guest, login …─▶ Auth ──▶ Store (users, refresh tokens, signing keys)
//!         ◀─access token (15 min)────  │ ▲
//!         ◀─refresh token (30 days)──  │ │
//!  client ──GET /v1/relays──────────▶  │ └── the directory, as its hints have it
//!  relay  ──GET /.well-known/jwks.json─┴───▶ the directory: the same keys, if auth is away
//!         then checks every token by itself
//! ```
//!
//! [`Auth::start`] binds, serves until [`Auth::shutdown`], and is the same in a process of its own
//! and inside `dreamcatcher dev`. Relays never ask it about a token: they hold its public keys, so
//! running games do not notice when it is away. It does not notice either when its store is: what
//! needs the store is answered with 503 within a second, until the store is back.
//!
//! # HTTP API
//!
//! HTTP/1.1 and JSON; `GET /openapi.json` has it for machines. A request body is at most 16 KiB
//! ([`BODY_BYTES_MAX`]), of `Content-Type: application/json`, and an unknown field in it is an error.
//! The server itself speaks plain HTTP: anywhere but on loopback, put TLS in front of it, and name
//! that proxy in [`Config::trusted_proxies`] so that limits count players and not the proxy.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/guest` | signs a guest in |
//! | `POST /v1/register` | makes an account, of a guest if its access token comes with it, and signs in |
//! | `POST /v1/login` | signs in with a password |
//! | `POST /v1/refresh` | goes on with a sign-in: new tokens |
//! | `POST /v1/logout` | ends a sign-in |
//! | `GET /v1/me` | the user's own record |
//! | `PATCH /v1/me` | changes the display name |
//! | `DELETE /v1/me` | deletes the user with everything that belongs to it |
//! | `GET /v1/relays` | the relays that a client can choose from |
//! | `GET /.well-known/jwks.json` | the public keys (RFC 7517): current, next, previous; cache them for 300 s |
//! | `GET /openapi.json` | this API as OpenAPI 3.1 |
//! | `GET /livez` | `{"status":"ok"}` while the process serves |
//! | `GET /readyz` | 200 while players can sign in and find a relay; else 503, and the message names the cause |
//!
//! ## Signing in
//!
//! ```json
//! POST /v1/guest     {"secret": "ZHJlYW1jYXRjaGVyIGV4YW1wbGU", "display_name": "Ada"}
//! POST /v1/register  {"username": "ada", "password": "…", "email": "ada@host.example", "display_name": "Ada"}
//! POST /v1/login     {"login": "ada", "password": "…"}
//! POST /v1/refresh   {"refresh_token": "…"}
//! ```
//!
//! | field | limits |
//! |---|---|
//! | `secret` | 22–128 characters of base64url: at least 128 bits, drawn at random by the client, once, and kept |
//! | `username` | 3–32 of `A–Z a–z 0–9 _ . -`, unique without regard to case |
//! | `email` | optional; 6–254 characters, kept in lower case, unique; nothing is ever sent to it |
//! | `password` | 10–128 characters; kept as Argon2id (19 MiB, 2 passes) |
//! | `display_name` | optional; 1–32 characters |
//! | `login` | the username or the e-mail address |
//!
//! All four answer alike:
//!
//! ```json
//! {"user_id": "9f86d081884c7d659a2feaa0c55ad015", "display_name": "Ada",
//!  "access_token": "eyJ…", "expires_in_s": 900, "token_type": "Bearer",
//!  "refresh_token": "…", "refresh_expires_in_s": 2592000}
//! ```
//!
//! The same guest secret is the same user for ever. A display name becomes the user's name when it is
//! given; when it never was, the name is `Guest-` and four digits, or the username.
//!
//! `POST /v1/register` with `Authorization: Bearer` and a guest's access token gives that guest the
//! account: user id and name stay, and the secret goes on working.
//!
//! A refresh token is good once: its answer has the next one. Should that answer be lost, the same
//! token is answered again within 30 seconds, as long as the next one was not used, which is then dead.
//! Any other that comes a second time was copied, so the whole sign-in ends, and every token of it is
//! answered with `SignedOut`. `POST /v1/logout` takes the same body and ends the sign-in,
//! `{"status":"ok"}`, also if it had ended. Access tokens that are out run to their end.
//!
//! An unknown user and a wrong password are answered with the same bytes, after the same work. After
//! 5 failures at one account an address waits 1 minute for it, then 2, 4, 8 and 15, and after 20 in 10
//! minutes for all accounts. 50 failures in an hour close an account to addresses that it does not
//! know; the last 4 that signed in to it go on. The counts are in the store, so a restart does not
//! forget them.
//!
//! ## `/v1/me`
//!
//! With `Authorization: Bearer` and an access token. `GET`, and `PATCH` with `{"display_name": "…"}`,
//! answer as below; `DELETE` with `{"status":"ok"}`. Others see a new name once the user connects
//! with its next access token. Without an account, `username` and `email` are `null`.
//!
//! ```json
//! {"user_id": "9f86d081884c7d659a2feaa0c55ad015", "display_name": "Ada",
//!  "username": "ada", "email": "ada@host.example", "created_at_unix_s": 1790000000}
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
//! | 401 | `InvalidCredentials` | the user or the password is wrong |
//! | 401 | `InvalidToken` | there is no access token, or it is none of ours |
//! | 401 | `TokenExpired` | the access token's 15 minutes are over: refresh |
//! | 401 | `TokenRevoked` | the access token's user was deleted |
//! | 401 | `SignedOut` | the refresh token is unknown, expired, or was used before |
//! | 404 | `InvalidArgument` | there is no such route |
//! | 405 | `InvalidArgument` | the route has another method |
//! | 409 | `UsernameTaken` | the username or e-mail address is another account's |
//! | 409 | `AlreadyLinked` | the user has an account |
//! | 413 | `MessageTooLarge` | the body is over 16 KiB |
//! | 415 | `InvalidArgument` | the `Content-Type` is not `application/json` |
//! | 422 | `InvalidArgument` | a field is missing, unknown, or of another type |
//! | 429 | `RateLimited` | too many requests from this address ([`Config::guest_rate`]), or too many failed logins |
//! | 500 | `Internal` | a fault of ours |
//! | 503 | `RateLimited` | more passwords wait to be hashed than can be in a second or two |
//! | 503 | `StoreUnavailable` | the user records cannot be reached |
//! | 503 | `DirectoryUnavailable` | the relays are not known yet |
//! | 503 | `TimedOut` | no answer within [`Config::request_timeout`] |
//!
//! [`ErrorCode`]: dreamcatcher_proto::ErrorCode
//!
//! # Keys
//!
//! The current key signs for [`Config::key_rotate_every`]. The next one is published from the day
//! that the current one began to sign, and the previous one until the current one ends: so no relay
//! meets a token whose key it cannot have, and no token outlives its key. Several processes on one
//! store rotate together. The document is in the directory too, for relays that cannot reach it here.

mod account;
mod admin;
mod api;
mod app;
mod clock;
mod guest;
mod hash;
mod keys;
mod listener;
pub mod metrics;
mod origin;
mod rate;
mod refresh;
mod refusal;
mod relays;
mod server;
mod store;
mod tasks;
mod upkeep;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::Directory;

pub use rate::Rate;
pub use relays::CertificateHash;
pub use server::Auth;
pub use store::{Migration, PostgresConfig, StoreConfig, migrate};

/// Largest request body.
pub const BODY_BYTES_MAX: usize = 16_384;
/// Connections at a time; the next waits in the kernel's accept queue.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Shortest time between two rotations of the keys: a token lives for 15 minutes, another process
/// looks each minute whether the keys rotated, and relays keep the keys for 5 minutes.
pub const KEY_ROTATE_EVERY_MIN: Duration = Duration::from_secs(30 * 60);

/// What [`Auth::start`] needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where to serve `/livez`, `/readyz` and `/metrics` to the operator.
    pub admin: Option<SocketAddr>,
    /// Where users and signing keys are kept.
    pub store: StoreConfig,
    /// Where the relays are that `GET /v1/relays` lists.
    pub directory: Arc<dyn Directory>,
    /// Proxies whose `X-Forwarded-For` is believed: limits then count the address that it names.
    pub trusted_proxies: Vec<IpAddr>,
    /// Requests of one address (IPv6: one /64) that need the user records: sign-ins, refreshes,
    /// `/v1/me`.
    pub guest_rate: Rate,
    /// The same for loopback addresses, where whole fleets of bots share one.
    pub guest_rate_loopback: Rate,
    /// Open connections of one address (IPv6: one /64); a trusted proxy and loopback have as many as
    /// there are.
    pub connections_per_address: usize,
    /// How long a key signs, at least [`KEY_ROTATE_EVERY_MIN`].
    pub key_rotate_every: Duration,
    /// From a request's header to its answer.
    pub request_timeout: Duration,
}

impl Config {
    /// A free port on loopback, a store in memory, and rates that no player notices.
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            admin: None,
            store: StoreConfig::Memory,
            directory,
            trusted_proxies: Vec::new(),
            guest_rate: Rate {
                burst: 100,
                per_s: 1,
            },
            guest_rate_loopback: Rate {
                burst: 1_000,
                per_s: 100,
            },
            connections_per_address: 64,
            key_rotate_every: Duration::from_secs(30 * 24 * 60 * 60),
            request_timeout: Duration::from_secs(5),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("admin", &self.admin)
            .field("store", &self.store)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("guest_rate", &self.guest_rate)
            .field("guest_rate_loopback", &self.guest_rate_loopback)
            .field("connections_per_address", &self.connections_per_address)
            .field("key_rotate_every", &self.key_rotate_every)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

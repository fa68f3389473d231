//! The rules of Dreamcatcher, without I/O, clock or async.
//!
//! ```text
//!  game ─▶ Member ══frames══▶ Gateway ──link frames──▶ Session
//!          (client)           (the relay the player     (the relay that orders
//!                              is connected to)          the session's events)
//! ```
//!
//! Bytes become frames in [`codec`] and [`frame`], tokens become claims in [`token`], and the
//! three state machines [`Member`](member::Member), [`Gateway`](gateway::Gateway) and
//! [`Session`](session::Session) decide what follows. Each has the same four verbs:
//!
//! * `handle(input, now)` takes one thing that happened,
//! * `handle_timeout(now)` lets due timers fire,
//! * `poll_output()` yields what to do, until it yields nothing,
//! * `poll_timeout()` says when `handle_timeout` is next due.
//!
//! The wire is specified byte by byte in `docs/protocol.md`. What a run promised and kept is told by
//! its [`history`], whose form is in `docs/histories.md`.

#![warn(
    clippy::iter_over_hash_type,
    reason = "decisions are the same on every run"
)]

pub mod codec;
pub mod control;
pub mod error;
pub mod frame;
pub mod gateway;
pub mod history;
pub mod id;
pub mod limits;
pub mod member;
mod retained;
pub mod session;
pub mod standby;
pub mod state;
pub mod token;

pub use error::{Error, ErrorCode};
pub use id::{
    BootId, Epoch, Incarnation, Index, JoinCode, Mid, NodeId, PeerId, Seq, SessionId, UserId,
};

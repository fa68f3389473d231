//! The SDK that a game embeds: connect, create or join a session, send, receive, leave.
//!
//! ```no_run
//! use dreamcatcher_client::{Client, ConnectOptions, Error, Event, Mode, SessionOptions, Target, auth};
//!
//! # async fn play() -> Result<(), Error> {
//! let url = "http://127.0.0.1:7000";
//! let user = auth::guest(url, &auth::new_secret()?, "Ann").await?;
//! let client = Client::connect(ConnectOptions {
//!     relays: auth::relays(url).await?,
//!     token: user.token,
//!     ..ConnectOptions::default()
//! })
//! .await?;
//!
//! let mut session = client.create(SessionOptions::default()).await?; // or client.join_code("BCD-F67")
//! session.send(Mode::Ordered, Target::All, "the door is open")?;
//! while let Some(event) = session.recv().await {
//!     if let Event::Message { sender, payload, .. } = event {
//!         println!("{sender}: {payload:?}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   game ──▶ Client, Session ──lock──▶ Core ◀──drives── Worker ⇄ UDP
//!            (async, or poll)          (Member over QUIC,   (one thread for one
//!                                       no I/O: core)        or many clients)
//! ```
//!
//! * A worker thread keeps the connection alive: the game may stall. What comes meanwhile waits in a
//!   bounded queue; when that is full, `Latest` messages are conflated first, then the relay is held
//!   back, so that nothing `Ordered` is lost.
//! * No async runtime is needed: the futures run on any executor, or under [`block_on`]. A game loop
//!   reads with [`Session::poll`].
//! * The nearest relay with room is used; when another one becomes much nearer, or the session's owner
//!   is no farther, the client moves there, and the session notices nothing of it ([`nearest`]).
//! * When a relay fails, the second-best takes over and the session goes on where it was:
//!   [`Event::Reconnecting`], then [`Event::Resumed`]. A session has exactly one last event,
//!   [`Event::Ended`].
//! * With [`ConnectOptions::history`] it records what the game sends and is told, for
//!   `dreamcatcher verify-history` to hold against the promises.
//! * [`core`] is the same client without thread, socket and clock, for drivers of other kinds.

pub mod auth;
mod block_on;
mod client;
pub mod core;
mod history;
pub mod nearest;
mod renew;
mod worker;

pub use block_on::block_on;
pub use client::{Client, ConnectOptions, Sender, Session};
pub use core::{Pick, Probing, RelayAddress, Stats};
pub use worker::Worker;

pub use bytes::Bytes;
pub use dreamcatcher_proto::control::{Grade, JoinBy, Member, SessionOptions, Visibility};
pub use dreamcatcher_proto::frame::{Mode, Target};
pub use dreamcatcher_proto::member::{Event, SendId, SendOptions, SessionInfo};
pub use dreamcatcher_proto::{
    Epoch, Error, ErrorCode, Incarnation, Index, JoinCode, NodeId, PeerId, Seq, SessionId, UserId,
};

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
struct Readme;

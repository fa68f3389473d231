//! The shipped node and client code, QUIC included, in one deterministic loop in virtual time.
//!
//! ```text
//!              ┌───────────────── World: one loop, one seed ─────────────────┐
//!   Plan ────▶ │ Node ⇄ Net ⇄ Node        Node ⇄ Desk: the directory's Table │ ────▶ History ─▶ check
//!              │          ⇅                                                  │ ────▶ Trace
//!              │    client Core ─▶ player: sends, and notes what it is told  │
//!              └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! * [`plan`]: what is to happen, drawn from a seed; [`net`] and [`desk`]: what it happens through,
//! * [`world`]: the loop; [`player`]: the game of each member,
//! * [`history`]: what every member's application saw; [`checker`]: whether all promises were kept, as
//!   `dreamcatcher verify-history` judges it,
//! * [`tamper`]: faults planted into what members are delivered, which the checker must find.
//!
//! Nothing here reads a clock or draws a random number that the seed does not give: the same seed
//! gives the same trace, datagram by datagram.

use std::time::Duration;

pub mod checker;
pub mod desk;
pub mod history;
pub mod net;
pub mod plan;
pub mod player;
pub mod tamper;
pub mod world;

/// Time since the Unix epoch at the start of every run.
pub const UNIX_AT_START: Duration = Duration::from_secs(1_800_000_000);

//! What stands around the processes under test: Redis and Postgres, each a process of its own on a
//! free port of loopback, and a stretch of network with a round trip of its own. Each ends with the
//! value that holds it; `./test` installs the programs.
//!
//! A server that does not start fails the test with what it said.

mod postgres;
mod process;
mod redis;
mod udp;

pub use postgres::Postgres;
pub use process::{free_address, free_udp_address};
pub use redis::Redis;
pub use udp::UdpProxy;

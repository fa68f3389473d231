//! The servers that tests need, each a process of its own on a free port of loopback, which ends with
//! the value that holds it: `./test` installs the programs.
//!
//! A server that does not start fails the test with what it said.

mod postgres;
mod process;
mod redis;

pub use postgres::Postgres;
pub use redis::Redis;

//! The directory that separate processes share, in Redis (7.0 or later, or Valkey).
//!
//! ```text
//!  relay A ──one script call per request──▶ ┌───────────────┐
//!  relay B ──▶                              │ Redis: the    │
//!  auth    ──▶                              │ rules in Lua, │
//!     ▲                                     │ its own clock │
//!     └────────── pub/sub: hints ────────── └───────────────┘
//! ```
//!
//! Each [`Request`] is one call of one script, which follows [`Table`](crate::Table) to the letter and
//! reads Redis's clock. What is over ends at the next call of whoever it is, and without a call when
//! one of the connected processes asks for it.
//!
//! # What is stored
//!
//! | key, after `{dreamcatcher}:` | type | how many |
//! |---|---|---|
//! | `meta` | hash | one, 4 fields: incarnation, time, how far the clock is behind it, highest epoch |
//! | `jwks` | hash | one, 2 fields: the auth service's public keys |
//! | `live`, `ended`, `due` | set, hash, sorted set | one each; a member per node, ended run, term |
//! | `node:NODE` | hash | one per live node, about 1 KiB |
//! | `runs:NODE` | set | one per node with an ended run of the last minute |
//! | `session:SESSION` | hash | one per session, 0.9 KiB with its listing; 1.5 KiB with all that leads to it |
//! | `owned` | sorted set | one; a member per session, by the run that owns it |
//! | `codes`, `listed` | hash, sorted set | one each; a member per join code, listing |
//!
//! Once every session is closed and every run forgotten, `meta` and `jwks` are left. Nothing needs an
//! eviction policy, and none must be set but `noeviction`: an evicted record is a lost one. Redis may
//! lose all of it: running sessions go on, nodes register again, owners give their sessions back.
//!
//! # The user that it needs
//!
//! [`ACL`] is what a user of least privilege may do. On sentinels that have users of their own, the
//! same user needs `+auth +sentinel|get-master-addr-by-name`.

mod config;
mod connection;
mod hints;
mod host;
mod open;
mod parse;
mod script;
#[cfg(test)]
mod tests;
mod trouble;

use std::sync::{Arc, Mutex};

pub use config::RedisConfig;
use dreamcatcher_proto::Error;
use tokio::task::JoinHandle;

#[cfg(any(test, feature = "conformance"))]
use crate::record::Timestamp;
use crate::request::{DirectoryError, Reply, Request};
use crate::{Answer, Directory, Watch};
use config::Target;
use connection::{Connection, Source, keep_connected};
use script::Step;

/// The rules of a Redis user who may do what the directory needs and nothing else, with the prefix
/// `dreamcatcher`: `ACL SETUSER dreamcatcher on >PASSWORD` and then these.
pub const ACL: &[&str] = &[
    "resetkeys",
    "~{dreamcatcher}:*",
    "resetchannels",
    "&{dreamcatcher}:*",
    "-@all",
    // The connection, and the script.
    "+hello",
    "+auth",
    "+select",
    "+subscribe",
    "+evalsha",
    "+eval",
    "+wait",
    // What the script calls.
    "+time",
    "+publish",
    "+del",
    "+hget",
    "+hmget",
    "+hset",
    "+hdel",
    "+hexists",
    "+hlen",
    "+sadd",
    "+srem",
    "+scard",
    "+smembers",
    "+zadd",
    "+zrem",
    "+zrange",
];

/// A directory in Redis. Clones are the same one, and its tasks end with the last of them.
#[derive(Clone, Debug)]
pub struct RedisDirectory {
    connection: Arc<Connection>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RedisDirectory {
    /// Checks `config` (`InvalidConfig`) and begins to connect; Redis need not be there. Must be
    /// called within a tokio runtime.
    pub fn start(config: RedisConfig) -> Result<Self, Error> {
        let source = Source {
            clock: None,
            random: Mutex::new(Box::new(rand::random::<u32>)),
        };
        Self::start_with_source(&config, source)
    }

    /// With the time and the random words of a test.
    #[cfg(any(test, feature = "conformance"))]
    #[doc(hidden)]
    pub fn start_with(
        config: &RedisConfig,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
        random: impl FnMut() -> u32 + Send + 'static,
    ) -> Result<Self, Error> {
        let source = Source {
            clock: Some(Box::new(clock)),
            random: Mutex::new(Box::new(random)),
        };
        Self::start_with_source(config, source)
    }

    fn start_with_source(config: &RedisConfig, source: Source) -> Result<Self, Error> {
        let target = Target::new(config)?;
        // An error: the process has one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (connection, lost) = Connection::new(target, source);
        let task = tokio::spawn(keep_connected(Arc::clone(&connection), lost));
        Ok(Self {
            connection,
            _task: Arc::new(Task(task)),
        })
    }

    /// One round trip now: `Unavailable` says why there is none, a wrong password for example. Waits a
    /// little longer than a request does for a connection that has just begun.
    pub async fn check(&self) -> Result<(), DirectoryError> {
        let step = Step::expire();
        let answer = self.connection.ask_patiently(&step, open::CONNECT_MAX);
        answer.await.map(drop).map_err(unavailable)
    }

    async fn step(&self, request: Request) -> Result<Reply, DirectoryError> {
        let step = self
            .connection
            .with_random(|random| Step::new(&request, random))?;
        let answer = self.connection.ask(&step).await.map_err(unavailable)?;
        answer.reply(&request)
    }
}

fn unavailable(cause: String) -> DirectoryError {
    DirectoryError::Unavailable { cause }
}

impl Directory for RedisDirectory {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(self.step(request))
    }

    fn watch(&self) -> Watch {
        Watch::new(self.connection.hints())
    }
}

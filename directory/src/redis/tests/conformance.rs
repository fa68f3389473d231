//! The rules, held by a real Redis.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dreamcatcher_servers::Redis;

use crate::conformance::Subject;
use crate::redis::{ACL, RedisConfig, RedisDirectory};
use crate::{Directory, Timestamp};

/// A server, and time that passes only when it is told to.
struct Server {
    redis: Redis,
    url: String,
    now_us: Arc<AtomicU64>,
    /// Each directory has a prefix of its own.
    directories: AtomicUsize,
}

impl Server {
    fn start() -> Self {
        let redis = Redis::start();
        Self {
            url: redis.url(),
            redis,
            now_us: Arc::new(AtomicU64::new(1_700_000_000_000_000)),
            directories: AtomicUsize::new(0),
        }
    }

    /// Lets in only a user of the documented rules.
    fn start_restricted() -> Self {
        let mut server = Self::start();
        let mut setuser = vec!["acl", "setuser", "relay", "reset", "on", ">secret"];
        setuser.extend(ACL);
        assert_eq!(server.redis.cli(&setuser), "OK");
        assert_eq!(
            server.redis.cli(&["acl", "setuser", "default", "off"]),
            "OK"
        );
        server.url = format!("redis://relay:secret@{}", server.redis.address());
        server
    }
}

impl Subject for Server {
    async fn directory(&self) -> Arc<dyn Directory> {
        let mut config = RedisConfig::new(&self.url);
        let number = self.directories.fetch_add(1, Ordering::Relaxed);
        if number > 0 {
            config.prefix = format!("dreamcatcher-{number}");
        }
        let now_us = Arc::clone(&self.now_us);
        let clock = move || Timestamp(now_us.load(Ordering::Relaxed));
        let directory = RedisDirectory::start_with(&config, clock, rand::random::<u32>).unwrap();
        directory.check().await.unwrap();
        Arc::new(directory)
    }

    async fn elapse(&self, term: Duration) {
        let term_us = u64::try_from(term.as_micros()).unwrap();
        self.now_us.fetch_add(term_us, Ordering::Relaxed);
    }
}

mod as_default_user {
    use super::Server;

    crate::conformance_tests!(Server::start());
}

mod as_least_privileged_user {
    use super::Server;

    crate::conformance_tests!(Server::start_restricted());
}

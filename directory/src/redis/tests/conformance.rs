//! The rules, held by a real Redis.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dreamcatcher_servers::Redis;

use super::until;
use crate::conformance::Subject;
use crate::redis::{ACL, RedisConfig, RedisDirectory};
use crate::{Directory, Timestamp};

/// Servers, one for each directory, and time that passes only when it is told to.
struct Servers {
    running: Mutex<Vec<Redis>>,
    now_us: Arc<AtomicU64>,
    /// Lets in only a user of the documented rules.
    restricted: bool,
}

impl Servers {
    fn new(restricted: bool) -> Self {
        Self {
            running: Mutex::new(Vec::new()),
            now_us: Arc::new(AtomicU64::new(1_700_000_000_000_000)),
            restricted,
        }
    }
}

impl Subject for Servers {
    async fn directory(&self) -> Arc<dyn Directory> {
        let redis = Redis::start();
        let mut url = redis.url();
        if self.restricted {
            let mut setuser = vec!["acl", "setuser", "relay", "reset", "on", ">secret"];
            setuser.extend(ACL);
            assert_eq!(redis.cli(&setuser), "OK");
            assert_eq!(redis.cli(&["acl", "setuser", "default", "off"]), "OK");
            url = format!("redis://relay:secret@{}", redis.address());
        }
        self.running.lock().unwrap().push(redis);
        let now_us = Arc::clone(&self.now_us);
        let clock = move || Timestamp(now_us.load(Ordering::Relaxed));
        let config = RedisConfig::new(&url);
        let directory = RedisDirectory::start_with(&config, clock, rand::random::<u32>).unwrap();
        until("it is connected", async || directory.check().await.is_ok()).await;
        Arc::new(directory)
    }

    async fn elapse(&self, term: Duration) {
        let term_us = u64::try_from(term.as_micros()).unwrap();
        self.now_us.fetch_add(term_us, Ordering::Relaxed);
    }

    async fn set_back(&self, term: Duration) {
        let term_us = u64::try_from(term.as_micros()).unwrap();
        self.now_us.fetch_sub(term_us, Ordering::Relaxed);
    }
}

mod as_default_user {
    use super::Servers;

    crate::conformance_tests!(Servers::new(false));
}

mod as_least_privileged_user {
    use super::Servers;

    crate::conformance_tests!(Servers::new(true));
}

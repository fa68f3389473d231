//! Against real servers.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod conformance;
mod faults;
mod garbage;
mod measure;
mod random;
mod servers;

use std::time::{Duration, Instant};

use super::{RedisConfig, RedisDirectory};
use crate::{Directory, DirectoryError, Hint, Request, Watch};

/// How long what has to happen may take: machines under test are busy.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connected directory.
async fn start(url: &str) -> RedisDirectory {
    connected(RedisConfig::new(url)).await
}

async fn connected(config: RedisConfig) -> RedisDirectory {
    let directory = RedisDirectory::start(config).unwrap();
    until("it is connected", async || directory.check().await.is_ok()).await;
    directory
}

/// Asks again and again whether it has happened.
async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !happened().await {
        assert!(
            since.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn next_hint(watch: &mut Watch) -> Hint {
    tokio::time::timeout(DEADLINE, watch.next())
        .await
        .unwrap()
        .unwrap()
}

/// The cause for which the directory is unavailable, which is to be said within `max`.
async fn refused_within(max: Duration, directory: &RedisDirectory, request: Request) -> String {
    let since = Instant::now();
    let refused = directory.call(request).await;
    assert!(since.elapsed() < max, "{:?}: {refused:?}", since.elapsed());
    match refused {
        Err(DirectoryError::Unavailable { cause }) => cause,
        other => panic!("{other:?}"),
    }
}

//! The directory that a command is told to use.

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::redis::{RedisConfig, RedisDirectory};
use dreamcatcher_directory::{Directory, DirectoryError, Expiry, NodeRecord, Reply, Request};
use tokio::time::Instant;

use crate::args::{DirectoryArgs, DirectoryPlace};
use crate::exit::Failure;
use crate::mesh::memory_directory;
use crate::secret::{self, SecretUrl};

/// How long a command waits for one answer: a directory that is slower is as good as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a service looks at its start whether Redis takes its password. Without an answer by then
/// it starts all the same.
const CHECK_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks: connecting goes on meanwhile.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// A directory in use.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) directory: Arc<dyn Directory>,
    /// What lets terms end in a directory of this process; ends with it.
    _expiry: Option<Expiry>,
}

/// For a service: it starts without a Redis that does not answer, says so, and goes on trying.
pub(crate) async fn open(args: &DirectoryArgs) -> Result<Opened, Failure> {
    match &args.directory {
        DirectoryPlace::Memory => {
            let directory = memory_directory();
            Ok(Opened {
                _expiry: Some(directory.spawn_expiry()),
                directory: Arc::new(directory),
            })
        }
        DirectoryPlace::Redis(url) => {
            let directory = RedisDirectory::start(config(args, url)?)?;
            if let Some(cause) = silence(&directory).await? {
                tracing::warn!(%cause, "the directory does not answer; going on, and trying again");
            }
            Ok(Opened {
                directory: Arc::new(directory),
                _expiry: None,
            })
        }
    }
}

fn config(args: &DirectoryArgs, url: &SecretUrl) -> Result<RedisConfig, Failure> {
    let password = args.directory_password_file.as_deref();
    let password = password.map(|file| secret::read("--directory-password-file", file));
    Ok(RedisConfig {
        password: password.transpose()?,
        ca_file: args.directory_ca_file.clone(),
        wait_replicas: args.wait_replicas,
        prefix: args.directory_prefix.clone(),
        insecure: args.insecure,
        ..RedisConfig::new(url.expose())
    })
}

/// Why Redis does not answer yet, if so. Fails where it refuses who asks: trying again cures that in no
/// case, and a service that goes on trying hides it.
async fn silence(directory: &RedisDirectory) -> Result<Option<String>, Failure> {
    let until = Instant::now() + CHECK_WITHIN;
    loop {
        let cause = match directory.check().await {
            Ok(()) => return Ok(None),
            Err(DirectoryError::Unavailable { cause }) => cause,
            Err(other) => return Err(dreamcatcher_proto::Error::from(other).into()),
        };
        if REFUSALS.iter().any(|code| cause.contains(code)) {
            return Err(Failure::Config(format!(
                "--directory: {cause}; check its user and password, and --directory-password-file"
            )));
        }
        if Instant::now() >= until {
            return Ok(Some(cause));
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// What Redis calls a refusal: wrong or no password, or too few rights.
const REFUSALS: [&str; 3] = ["WRONGPASS", "NOAUTH", "NOPERM"];

/// For a command that asks what other processes know.
pub(crate) async fn open_shared(
    command: &str,
    args: &DirectoryArgs,
) -> Result<Arc<dyn Directory>, Failure> {
    let DirectoryPlace::Redis(url) = &args.directory else {
        return Err(Failure::usage(
            command,
            "--directory is missing: give the redis:// URL that the relays use \
             (`memory` is a directory inside one process, which no other can ask)",
        ));
    };
    let directory = RedisDirectory::start(config(args, url)?)?;
    // Why it does not answer, the first question is told as well.
    let _ = silence(&directory).await?;
    Ok(Arc::new(directory))
}

/// The answer, or why the command cannot go on.
pub(crate) async fn ask(directory: &dyn Directory, request: Request) -> Result<Reply, Failure> {
    match tokio::time::timeout(ANSWER_WITHIN, directory.call(request)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(DirectoryError::Unavailable { cause })) => Err(away(&cause)),
        Ok(Err(e)) => Err(dreamcatcher_proto::Error::from(e).into()),
        Err(_) => Err(away(&format!("no answer within {ANSWER_WITHIN:?}"))),
    }
}

fn away(cause: &str) -> Failure {
    Failure::Unavailable(format!(
        "the directory does not answer: {cause}; check --directory, that Redis runs there, and what is \
         on the way to it"
    ))
}

/// The nodes that are alive.
pub(crate) async fn nodes(directory: &dyn Directory) -> Result<Vec<NodeRecord>, Failure> {
    let reply = ask(directory, Request::Nodes).await?;
    let Reply::Nodes(nodes) = reply else {
        return Err(not_an_answer(&reply));
    };
    Ok(nodes)
}

/// A directory that answers something else than what was asked for.
pub(crate) fn not_an_answer(reply: &Reply) -> Failure {
    Failure::Failed(format!("the directory gave another answer: {reply:?}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;

    use dreamcatcher_directory::redis::ACL;

    #[test]
    fn the_redis_user_in_operations_md_may_do_what_the_directory_needs_and_no_more() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (_, from) = page
            .split_once("ACL SETUSER dreamcatcher reset on")
            .unwrap();
        let (command, _) = from.split_once("\nexport").unwrap();
        let words = command
            .split_whitespace()
            .map(|word| word.trim_matches('\''));
        let written: BTreeSet<&str> = words.filter(|&word| word != "\\").collect();
        // `reset` takes keys and channels away as well.
        let needed = ACL
            .iter()
            .copied()
            .filter(|rule| !rule.starts_with("reset"));
        assert_eq!(written, needed.collect());
    }
}

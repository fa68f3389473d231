//! The directory that a command is told to use.

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::{Directory, Expiry, Reply, Request};

use crate::args::{DirectoryArgs, DirectoryPlace};
use crate::exit::Failure;
use crate::mesh::memory_directory;

/// How long a command waits for one answer: a directory that is slower is as good as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A directory in use.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) directory: Arc<dyn Directory>,
    /// What lets terms end in a directory of this process; ends with it.
    _expiry: Option<Expiry>,
}

/// For a service: it starts without a Redis that does not answer, and goes on trying.
pub(crate) async fn open(args: &DirectoryArgs) -> Result<Opened, Failure> {
    match &args.directory {
        DirectoryPlace::Memory => {
            let directory = memory_directory();
            Ok(Opened {
                _expiry: Some(directory.spawn_expiry()),
                directory: Arc::new(directory),
            })
        }
        DirectoryPlace::Redis(url) => Err(Failure::Failed(format!("not yet: {url}"))),
    }
}

/// For a command that asks what other processes know.
pub(crate) async fn open_shared(
    command: &str,
    args: &DirectoryArgs,
) -> Result<Arc<dyn Directory>, Failure> {
    if args.directory == DirectoryPlace::Memory {
        return Err(Failure::usage(
            command,
            "--directory is missing: give the URL of the Redis that the relays use \
             (`memory` is a directory inside one process, which no other can ask)",
        ));
    }
    Ok(open(args).await?.directory)
}

/// The answer, or why the command cannot go on.
pub(crate) async fn ask(directory: &dyn Directory, request: Request) -> Result<Reply, Failure> {
    match tokio::time::timeout(ANSWER_WITHIN, directory.call(request)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(e)) => Err(dreamcatcher_proto::Error::from(e).into()),
        Err(_) => Err(Failure::Unavailable(format!(
            "the directory did not answer within {ANSWER_WITHIN:?}"
        ))),
    }
}

/// A directory that answers something else than what was asked for.
pub(crate) fn not_an_answer(reply: &Reply) -> Failure {
    Failure::Failed(format!("the directory gave another answer: {reply:?}"))
}

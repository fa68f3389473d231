//! How the process ends when something went wrong: a message, and a status that says whose turn it
//! is. The statuses are those of sysexits.h where it has one.

use std::io::{self, Write};
use std::process::ExitCode;

use dreamcatcher_proto::{Error, ErrorCode};
use dreamcatcher_relay::StartError;

use crate::out;

/// What a shell shows for a process that SIGPIPE ended: 128 + 13.
const STATUS_NOBODY_READS: u8 = 141;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line: clap says it, as it says the help.
    Usage(clap::Error),
    /// The configuration, or a file that it names: 78.
    Config(String),
    /// An address or a service: 69.
    Unavailable(String),
    /// Whoever read standard output has gone: 141, and not a word.
    NobodyReads,
    /// Everything else, a broken promise above all: 1.
    Failed(String),
}

impl Failure {
    /// The command line lacks something, or contradicts itself.
    pub(crate) fn usage(subcommand: &str, message: &str) -> Self {
        let mut command = crate::args::command();
        command.build();
        let command = command.find_subcommand_mut(subcommand);
        let kind = clap::error::ErrorKind::MissingRequiredArgument;
        Self::Usage(match command {
            Some(command) => command.error(kind, message),
            None => clap::Error::raw(kind, message),
        })
    }

    /// Tells the user, and gives the process's status.
    pub(crate) fn report(self) -> ExitCode {
        let (status, message) = match self {
            Self::Usage(error) => {
                let printed = out::written(error.print().and_then(|()| io::stdout().flush()));
                return match printed {
                    // Help that did not reach its reader. An error is one even when nobody reads it.
                    Err(failure) if !error.use_stderr() => failure.report(),
                    Ok(()) | Err(_) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
                };
            }
            Self::NobodyReads => return ExitCode::from(STATUS_NOBODY_READS),
            Self::Failed(message) => (1, message),
            Self::Unavailable(message) => (69, message),
            Self::Config(message) => (78, message),
        };
        // Without a standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "error: {message}");
        ExitCode::from(status)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        if matches!(
            error.code(),
            ErrorCode::InvalidConfig | ErrorCode::InvalidArgument | ErrorCode::WrongClusterKey
        ) {
            Self::Config(message)
        } else if error.code() == ErrorCode::AddressInUse || error.is_retryable() {
            Self::Unavailable(message)
        } else {
            Self::Failed(message)
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Error::new(error.code(), error.to_string()).into()
    }
}

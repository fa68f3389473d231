//! How the process ends when something went wrong: a message, and a status that says whose turn it
//! is. The statuses are those of sysexits.h where it has one.

use std::io::{self, Write};
use std::process::ExitCode;

use dreamcatcher_proto::{Error, ErrorCode};
use dreamcatcher_relay::StartError;

use crate::out;
use crate::secret::masked_text;

/// What a shell shows for a process that SIGPIPE ended: 128 + 13.
const STATUS_NOBODY_READS: u8 = 141;

/// A flag, an environment variable or an input is wrong: what clap ends with, too.
const STATUS_USAGE: u8 = 2;

/// Why a command failed. It is shown without the passwords of URLs in it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line: clap says it, as it says the help.
    Usage(clap::Error),
    /// The configuration, or a file that it names: 78.
    Config(String),
    /// A history cannot be read, and so not be judged: 2.
    Unreadable(String),
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
                let text = error.render().to_string();
                let shown = masked_text(&text);
                if error.use_stderr() && shown != text {
                    // Without colours, and without the password that stands in it.
                    let _ = write!(io::stderr(), "{shown}");
                    return ExitCode::from(STATUS_USAGE);
                }
                let printed = out::written(error.print().and_then(|()| io::stdout().flush()));
                return match printed {
                    // Help that did not reach its reader. An error is one even when nobody reads it.
                    Err(failure) if !error.use_stderr() => failure.report(),
                    Ok(()) | Err(_) => {
                        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(STATUS_USAGE))
                    }
                };
            }
            Self::NobodyReads => return ExitCode::from(STATUS_NOBODY_READS),
            Self::Failed(message) => (1, message),
            Self::Unreadable(message) => (STATUS_USAGE, message),
            Self::Unavailable(message) => (69, message),
            Self::Config(message) => (78, message),
        };
        // Without a standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "error: {}", masked_text(&message));
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

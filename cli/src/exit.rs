//! How the process ends when something went wrong: a message, and a status that says whose turn it
//! is. The statuses are those of sysexits.h where it has one.

use std::process::ExitCode;

use dreamcatcher_proto::{Error, ErrorCode};
use dreamcatcher_relay::StartError;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line: clap says it, as it says the help.
    Usage(clap::Error),
    /// The configuration, or a file that it names: 78.
    Config(String),
    /// An address or a service: 69.
    Unavailable(String),
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
                // Without a standard output there is nobody to tell.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
            Self::Failed(message) => (1, message),
            Self::Unavailable(message) => (69, message),
            Self::Config(message) => (78, message),
        };
        eprintln!("error: {message}");
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

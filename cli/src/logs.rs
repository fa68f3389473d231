//! Logs: on standard error, so that standard output carries what a command has to say.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, LogFormat};

/// Starts logging, for the life of the process.
pub(crate) fn start(cli: &Cli) {
    let by_default = match cli.command {
        Command::Relay(_) | Command::Auth(_) => "info",
        // They end with what the directory's own lines would have said before.
        Command::Relays(_) | Command::Sessions(_) => "warn,dreamcatcher_directory=error",
        Command::Dev(_)
        | Command::Doctor(_)
        | Command::Keygen(_)
        | Command::Load(_)
        | Command::VerifyHistory(_)
        | Command::Config(_) => "warn",
    };
    let filter = EnvFilter::new(cli.logs.log.as_deref().unwrap_or(by_default));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Told on standard error as well: where that is closed or full, it would panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    match cli.logs.log_format {
        LogFormat::Human => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

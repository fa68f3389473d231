//! The one binary, `dreamcatcher`.
//!
//! ```text
//!  args ─▶ config ─▶ logs ─▶ command ─┬─ dev ──▶ mesh (directory, auth, relays)
//!                                     │            └─▶ bots ─▶ judge ─▶ table, report
//!                                     ├─ relay
//!                                     ├─ auth, auth migrate
//!                                     ├─ load ─▶ players on a mesh ─▶ judge ─▶ report
//!                                     ├─ relays, sessions ──▶ the directory
//!                                     ├─ verify-history ◀── files that members recorded
//!                                     ├─ config show
//!                                     └─ keygen
//! ```
//!
//! `dev --report FILE` and `load --report FILE` write a [`report`], whose keys are stable.

mod args;
mod bots;
mod command;
mod config;
mod directory;
mod exit;
mod file;
mod grid;
mod judge;
mod load;
mod logs;
mod mesh;
mod out;
mod report;
mod secret;
mod stop;
mod table;

use std::process::ExitCode;

use args::{Cli, Command};
use exit::Failure;

fn main() -> ExitCode {
    let outcome = config::read(std::env::args_os()).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    logs::start(&cli);
    // Fails only where there is a provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|e| Failure::Failed(format!("cannot start threads: {e}")))?;
    runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => command::dev(args).await,
            Command::Doctor(args) => command::doctor(args).await,
            Command::Relay(args) => command::relay(args).await,
            Command::Auth(args) => command::auth(args).await,
            Command::Keygen(args) => command::keygen(&args),
            Command::Load(args) => command::load(args).await,
            Command::Relays(args) => command::relays(&args).await,
            Command::Sessions(args) => command::sessions(args).await,
            Command::VerifyHistory(args) => command::verify_history(&args),
            Command::Config(effective) => command::config(&effective),
        }
    })
}

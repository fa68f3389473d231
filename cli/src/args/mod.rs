//! The command line: what can be said, in which range, and the manual that `--help` prints.
//!
//! Nothing is required here, because any setting may also come from a configuration file
//! ([`crate::config`]); what a command cannot do without, it asks for by name when it starts.

mod auth;
mod dev;
mod doctor;
mod keygen;
mod relay;
mod value;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

pub(crate) use auth::{AuthArgs, StorePlace};
pub(crate) use dev::DevArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use keygen::KeygenArgs;
pub(crate) use relay::{DirectoryUrl, RelayArgs};

/// What every environment variable starts with; `--max-batch-delay-us` is then
/// `DREAMCATCHER_MAX_BATCH_DELAY_US`.
const ENV_PREFIX: &str = "DREAMCATCHER_";

/// An edge relay mesh for real-time co-op games.
///
/// Players connect to any relay over QUIC; each session of friends is owned by one relay,
/// which orders its events; any relay carries any player to any session.
///
/// Start with `dreamcatcher dev`: a whole mesh in one process, nothing to set up.
#[derive(Debug, Parser)]
#[command(name = "dreamcatcher", bin_name = "dreamcatcher", version, arg_required_else_help = true, after_long_help = SETTINGS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

const SETTINGS: &str = "\
Settings:
  Every setting has a flag, an environment variable and a key in the file that --config names:
  --max-batch-delay-us 500, DREAMCATCHER_MAX_BATCH_DELAY_US=500, max_batch_delay_us = 500 (TOML).
  Flags win over the environment, the environment over the file, the file over the default.
  An unknown key in the file is an error; an unknown variable is not. A variable holds for every
  command that has the flag, and an error about it names the flag.

Exit status:
  0   done, or stopped by Ctrl-C, SIGTERM or SIGHUP
  1   a promise was broken, or the command failed
  2   a flag or an environment variable is wrong
  69  something is unavailable: an address is in use, a service does not answer
  78  the configuration file, or a file that it names, is wrong
  141 whoever read the standard output has gone, as in `dreamcatcher dev | head -2`

Examples:
  dreamcatcher dev                            a mesh of three relays, until Ctrl-C
  dreamcatcher dev --bots 12 --seconds 30     12 players in sessions across it, judged
  dreamcatcher doctor                         what a player meets there, step by step
  dreamcatcher keygen --out cluster.key       the secret that the relays of a mesh share
  dreamcatcher relay --config relay.toml      one relay";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(DevArgs),
    Doctor(DoctorArgs),
    Relay(RelayArgs),
    Auth(AuthArgs),
    Keygen(KeygenArgs),
}

/// What is logged, and how.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logs (on standard error)")]
pub(crate) struct LogArgs {
    /// What to log: a level (off, error, warn, info, debug, trace), or levels by module
    ///
    /// For example `info,dreamcatcher_relay=debug`. The default is `info` for services, and `warn`
    /// for `dev` and `keygen`, whose output is on standard output.
    #[arg(long, global = true, value_name = "FILTER", value_parser = value::log_filter)]
    pub(crate) log: Option<String>,
    /// How to write a log line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object per line
    Json,
}

/// The command line as clap knows it, with an environment variable for every flag.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command().mut_args(with_environment);
    let names: Vec<String> = command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .collect();
    for name in names {
        command = command.mut_subcommand(name, |subcommand| subcommand.mut_args(with_environment));
    }
    command
}

fn with_environment(arg: clap::Arg) -> clap::Arg {
    match arg.get_long() {
        Some(long) => {
            let name = format!("{ENV_PREFIX}{}", long.to_uppercase().replace('-', "_"));
            arg.env(name).hide_env(true)
        }
        None => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        let command = command();
        let dev = command.find_subcommand("dev").unwrap_or_else(|| panic!());
        let delay = dev
            .get_arguments()
            .find(|arg| arg.get_long() == Some("max-batch-delay-us"))
            .unwrap_or_else(|| panic!());
        let name = delay.get_env().and_then(|name| name.to_str());
        assert_eq!(name, Some("DREAMCATCHER_MAX_BATCH_DELAY_US"));
    }
}

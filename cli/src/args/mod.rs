//! The command line: what can be said, in which range, and the manual that `--help` prints.
//!
//! Nothing is required here, because any setting may also come from a configuration file
//! ([`crate::config`]); what a command cannot do without, it asks for by name when it starts.

mod auth;
mod dev;
mod directory;
mod doctor;
mod inquiry;
mod keygen;
mod load;
mod relay;
mod relays;
mod sessions;
mod value;
mod verify_history;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::Effective;

pub(crate) use auth::{AuthArgs, AuthTask, MigrateArgs, StoreArgs};
pub(crate) use dev::DevArgs;
pub(crate) use directory::{DirectoryArgs, DirectoryPlace};
pub(crate) use doctor::DoctorArgs;
pub(crate) use inquiry::InquiryArgs;
pub(crate) use keygen::KeygenArgs;
pub(crate) use load::LoadArgs;
pub(crate) use relay::{JwksPlace, RelayArgs};
pub(crate) use relays::RelaysArgs;
pub(crate) use sessions::SessionsArgs;
pub(crate) use verify_history::VerifyHistoryArgs;

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
  `dreamcatcher config show COMMAND --origin` says what holds, and where it was said.
  A password is best kept in a file that a --…-file flag names: the command line is for all to see.

Exit status:
  0   done, or stopped by Ctrl-C, SIGTERM or SIGHUP
  1   a promise was broken, or the command failed
  2   a flag or an environment variable is wrong, or a history cannot be read
  69  something is unavailable: an address is in use, a service does not answer
  78  the configuration file, or a file that it names, is wrong, or a server refuses the password
  141 whoever read the standard output has gone, as in `dreamcatcher dev | head -2`

Examples:
  dreamcatcher dev                            a mesh of three relays, until Ctrl-C
  dreamcatcher dev --bots 12 --seconds 30     12 players in sessions across it, judged
  dreamcatcher doctor                         what a player meets there, step by step
  dreamcatcher keygen --out cluster.key       the secret that the relays of a mesh share
  dreamcatcher relay --config relay.toml      one relay
  dreamcatcher relays                         the relays that are alive
  dreamcatcher verify-history run-1           whether a recorded run kept every promise";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(DevArgs),
    Doctor(DoctorArgs),
    Relay(RelayArgs),
    Auth(AuthArgs),
    Keygen(KeygenArgs),
    Load(LoadArgs),
    Relays(RelaysArgs),
    Sessions(SessionsArgs),
    VerifyHistory(VerifyHistoryArgs),
    /// Added by [`command`]: it takes what the commands take whose settings it shows.
    #[command(skip)]
    Config(Effective),
}

/// What is logged, and how.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logs (on standard error)")]
pub(crate) struct LogArgs {
    /// What to log: a level (off, error, warn, info, debug, trace), or levels by module
    ///
    /// For example `info,dreamcatcher_relay=debug`. The default is `info` for services, and `warn`
    /// for the other commands, whose output is on standard output.
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
    let command = settings_from_environment(Cli::command());
    let config = config(&command);
    command.subcommand(config)
}

/// `dreamcatcher config`: `show` has each command that has settings, with the same flags.
fn config(command: &clap::Command) -> clap::Command {
    let has_settings = |command: &&clap::Command| {
        let mut arguments = command.get_arguments();
        arguments.any(|arg| arg.get_long() == Some("config"))
    };
    let shown = command.get_subcommands().filter(has_settings).map(|of| {
        let name = of.get_name().to_owned();
        clap::Command::new(name.clone())
            .about(format!("The settings of `dreamcatcher {name}`"))
            .args(of.get_arguments().cloned())
    });
    let origin = clap::Arg::new(ORIGIN)
        .long(ORIGIN)
        .global(true)
        .action(clap::ArgAction::SetTrue)
        .help(
            "Say where each comes from: a flag, the environment, a line of the file, the default",
        );
    let show = clap::Command::new("show")
        .about("Show what a command would run with")
        .long_about(SHOW)
        .after_long_help(SHOW_EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("COMMAND")
        .arg(origin)
        .subcommands(shown);
    clap::Command::new("config")
        .about("Show the settings of a command, and where they come from")
        .after_long_help(SHOW_EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(show)
}

/// The flag of `config show` that is not a setting.
pub(crate) const ORIGIN: &str = "origin";

const SHOW: &str = "\
Show what a command would run with

Takes the flags of the command, reads the environment and the file as it does, and writes what comes of
it as a configuration file. Passwords and queries in URLs are masked. Nothing is started, and no file is
read but the configuration.";

const SHOW_EXAMPLES: &str = "\
Examples:
  dreamcatcher config show relay --config relay.toml
  dreamcatcher config show auth --listen 0.0.0.0:8080 --origin";

fn settings_from_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(with_environment)
        .mut_subcommands(settings_from_environment)
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
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use dreamcatcher_proto::limits;

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

    #[test]
    fn the_flags_in_operations_md_are_those_that_there_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let page = std::fs::read_to_string(path).unwrap();
        let between = |name| {
            let begin = format!("<!-- flags of {name} -->\n");
            let (_, from) = page.split_once(&begin).unwrap();
            let (written, _) = from.split_once("<!-- end -->").unwrap();
            format!("{begin}{written}<!-- end -->\n")
        };
        let names = ["relay", "auth"];
        let is =
            names.map(|name| format!("<!-- flags of {name} -->\n{}<!-- end -->\n", flags(name)));
        let is = is.join("");
        assert!(
            names.map(between).join("") == is,
            "docs/operations.md should say:\n{is}"
        );
    }

    #[test]
    fn what_a_player_may_do_unless_said_otherwise_is_what_the_protocol_says() {
        let line = ["dreamcatcher", "relay"].map(std::ffi::OsString::from);
        let cli = crate::config::read(line).unwrap();
        let Command::Relay(relay) = cli.command else {
            panic!("{:?}", cli.command)
        };
        assert_eq!(relay.clients_max, limits::CLIENTS_PER_NODE_MAX);
        assert_eq!(relay.message_rate, limits::MEMBER_MESSAGES_PER_S);
        assert_eq!(relay.byte_rate, limits::MEMBER_BYTES_PER_S);
        let (user, address) = (relay.connections_per_user, relay.connections_per_address);
        assert_eq!(user, limits::CONNECTIONS_PER_USER_MAX);
        assert_eq!(address, limits::CONNECTIONS_PER_ADDRESS_MAX);
    }

    /// What `--help` says of each flag, as a table.
    fn flags(name: &str) -> String {
        let command = command();
        let command = command.find_subcommand(name).unwrap();
        let mut table = "\n| flag | default | |\n|---|---|---|\n".to_owned();
        for arg in command.get_arguments() {
            let value: Vec<String> = arg
                .get_value_names()
                .into_iter()
                .flatten()
                .filter(|_| !arg.is_hide_default_value_set())
                .map(|value| format!(" {}", value.replace('|', "\\|")))
                .collect();
            let help = arg.get_help().unwrap().to_string();
            let (help, described) = help.split_once(" [default: ").unwrap_or((&help, ""));
            let defaults = arg.get_default_values().iter();
            let default = match defaults.map(|value| value.to_str().unwrap()).next() {
                Some(_) if arg.is_hide_default_value_set() => String::new(),
                Some(default) => format!("`{default}`"),
                None => described.trim_end_matches(']').to_owned(),
            };
            let (long, value) = (arg.get_long().unwrap(), value.concat());
            table += &format!("| `--{long}{value}` | {default} | {help} |\n");
        }
        table + "\n"
    }
}

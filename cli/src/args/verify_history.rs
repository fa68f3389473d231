//! `dreamcatcher verify-history`.

use std::path::PathBuf;

use super::value;

/// Verify recorded histories: whether every promise was kept
///
/// Reads what members, relays and experiments recorded (`load --history`, `dev --history`, the SDK's
/// `ConnectOptions::history`), puts together what is of one session, and holds it against 19
/// invariants: one order for all, nothing lost, nothing twice, nothing from elsewhere. What nobody
/// recorded is not guessed: the table says which invariants could not be checked, and why.
///
/// The exit status is 1 if an invariant is broken, and 2 if a file cannot be read or none tells of a
/// session. docs/histories.md explains the format and each invariant.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct VerifyHistoryArgs {
    /// Histories, or directories whose .jsonl files are histories
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
    /// Violations of each invariant to show, 1–1000; all are counted
    #[arg(long, value_name = "N", default_value = "3", value_parser = value::number(1_usize..=1_000))]
    pub(crate) show: usize,
    /// Write JSON instead of a table
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher dev --bots 12 --seconds 10 --history run-1
  dreamcatcher verify-history run-1
  dreamcatcher verify-history ann.jsonl bob.jsonl --json";

//! `dreamcatcher relays`.

use super::{InquiryArgs, value};

/// Show the relays that are alive
///
/// A line for each node: a relay has one for each core. They are those that hold a lease in the
/// directory, so one that was killed is gone 3 s later. Players on a node are compared with what it has
/// room for. A draining node takes nothing new.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct RelaysArgs {
    /// Wait until this many nodes are there, 1–4096; if they do not come, the exit status is 69
    #[arg(long, value_name = "N", value_parser = value::number(1_usize..=4_096))]
    pub(crate) wait: Option<usize>,
    /// How many seconds --wait waits, 1–3600
    #[arg(long, value_name = "S", default_value = "30", value_parser = value::number(1_u64..=3_600))]
    pub(crate) within: u64,
    #[command(flatten)]
    pub(crate) inquiry: InquiryArgs,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher relays --directory redis://dreamcatcher@127.0.0.1 --directory-password-file redis.password
  dreamcatcher relays --wait 3 --within 60 --json";

//! `dreamcatcher sessions`.

use super::{InquiryArgs, value};

/// Show the sessions that are running
///
/// All of them, unlisted ones too, in the order of their ids. Control characters in a name, which a
/// player chose, are shown as escapes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct SessionsArgs {
    /// Only those of this region
    #[arg(long, value_name = "NAME", value_parser = value::region)]
    pub(crate) region: Option<String>,
    /// Only those of this version of the game
    #[arg(long, value_name = "VERSION")]
    pub(crate) app_version: Option<String>,
    /// Sessions to show at most, 1–1000000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = value::number(1_usize..=1_000_000))]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) inquiry: InquiryArgs,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher sessions --directory redis://dreamcatcher@127.0.0.1 --directory-password-file redis.password
  dreamcatcher sessions --region eu --json";

//! The flags of commands that show what the directory knows.

use std::path::PathBuf;

use super::{DirectoryArgs, value};

#[derive(Debug, clap::Args)]
pub(crate) struct InquiryArgs {
    /// Write JSON instead of a table
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

//! `dreamcatcher keygen`.

use std::path::PathBuf;

/// Make the secret that the relays of a mesh share
///
/// 32 random bytes, as 64 hexadecimal digits, in a file that only its owner can read (mode 0600). A
/// relay with another key cannot join the mesh, and whoever has the key can: treat it as a password.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  dreamcatcher keygen --out cluster.key")]
pub(crate) struct KeygenArgs {
    /// Where to write the key
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Overwrite the file if it is there: relays with the old key then cannot join
    #[arg(long)]
    pub(crate) force: bool,
}

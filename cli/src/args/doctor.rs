//! `dreamcatcher doctor`.

use std::path::PathBuf;

/// Take every step that a player takes, and say what to do about those that fail
///
/// The name of the auth service, its HTTP, its clock, signing in, the list of relays; for each relay
/// UDP and the round trip, the QUIC handshake with the certificate on the list, and whether it takes the
/// token; then a session: created on one relay, joined from another, a message there and back. What it
/// made, it takes away again.
///
/// Run it where players are: from there, firewalls and routes are theirs. The exit status is 0 if a
/// player could play, even if something is to be mended, 1 if not, and 69 if the auth service does not
/// answer.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// The auth service, as players reach it
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7000")]
    pub(crate) auth: String,
    /// Look at this relay node only
    #[arg(long, value_name = "NODE")]
    pub(crate) relay: Option<String>,
    /// Sign in to this account instead of as a guest (needs --password-file)
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// A file with the account's password
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// The certificate authority of the auth service, as PEM, if it is not one that the system trusts
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Take http:// to another machine: tokens then cross the network in the clear
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Write one JSON object at the end instead of lines
    #[arg(long)]
    pub(crate) json: bool,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher doctor                                       a mesh of `dreamcatcher dev`
  dreamcatcher doctor --auth https://auth.example
  dreamcatcher doctor --auth https://auth.example --relay eu-1-0 --json
  dreamcatcher doctor --auth https://auth.internal --ca-file ca.pem --user ann --password-file ann.txt";

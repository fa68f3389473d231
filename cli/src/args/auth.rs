//! `dreamcatcher auth`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::value;

/// Run the auth service
///
/// It signs players in and gives them access tokens, over HTTP: POST /v1/guest, GET /v1/relays,
/// GET /.well-known/jwks.json, /livez, /readyz; docs/protocol.md (“Before connecting”) says what they
/// take and answer. It speaks plain HTTP: anywhere but on loopback, put TLS in front of it.
///
/// GET /v1/relays lists the relays of the directory. This build has the memory directory only, which
/// ends at the process: the list is filled in `dreamcatcher dev`, and empty here.
///
/// SIGTERM, SIGHUP and Ctrl-C stop it gracefully: requests that have begun are answered.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct AuthArgs {
    /// Where to listen (TCP)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = value::address)]
    pub(crate) listen: SocketAddr,
    /// Where users and signing keys are kept: a file, or `memory`, which forgets them at the end
    #[arg(long, value_name = "FILE", default_value = "dreamcatcher-auth.db")]
    pub(crate) store: StorePlace,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher auth --store memory
  dreamcatcher auth --listen 127.0.0.1:8080 --store /var/lib/dreamcatcher-auth/auth.db";

/// Where the auth service keeps its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorePlace {
    Memory,
    File(PathBuf),
}

impl FromStr for StorePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give a file, or `memory`".to_owned()),
            "memory" => Ok(Self::Memory),
            file => Ok(Self::File(file.into())),
        }
    }
}

//! `dreamcatcher relay`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use dreamcatcher_relay::NODES_MAX;

use super::value;

/// Run one relay
///
/// A relay runs one node (an event loop on its own thread) per core. Node k has the id `<id>-k`, and
/// listens k ports above --listen and --mesh-listen. It keeps nothing on disk. It checks the tokens of
/// players with the keys of the auth service, in the file that --jwks names.
///
/// SIGTERM, SIGHUP and Ctrl-C stop it gracefully: players are told before the relay is gone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct RelayArgs {
    /// What the relay is called: 1–59 characters of a-z, 0-9 and inner dashes [default: the host's name]
    #[arg(long, value_name = "NAME", value_parser = value::relay_id)]
    pub(crate) id: Option<String>,
    /// Where the relay is: sessions stay in the region where they were created
    #[arg(long, value_name = "NAME", default_value = "local", value_parser = value::region)]
    pub(crate) region: String,
    /// The failure domain: what fails together has the same label [default: the host's name]
    #[arg(long, value_name = "LABEL", value_parser = value::host)]
    pub(crate) host: Option<String>,
    /// Where players connect (UDP)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4433", value_parser = value::address)]
    pub(crate) listen: SocketAddr,
    /// Where other relays connect (UDP)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4533", value_parser = value::address)]
    pub(crate) mesh_listen: SocketAddr,
    /// The address that players are told [default: --listen]
    #[arg(long, value_name = "ADDRESS", value_parser = value::address)]
    pub(crate) advertise: Option<SocketAddr>,
    /// The address that other relays are told [default: --mesh-listen]
    #[arg(long, value_name = "ADDRESS", value_parser = value::address)]
    pub(crate) mesh_advertise: Option<SocketAddr>,
    /// Where /livez, /readyz, /metrics and /debug/sessions are served (HTTP; keep it on loopback)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100", value_parser = value::address)]
    pub(crate) admin: SocketAddr,
    /// Nodes, 1–256 [default: one per core]
    #[arg(long, value_name = "N", value_parser = value::number(1_usize..=NODES_MAX))]
    pub(crate) nodes: Option<usize>,
    /// Where relays find each other: `memory`, a directory in this process for a single relay
    #[arg(long, value_name = "URL", default_value = "memory")]
    pub(crate) directory: DirectoryUrl,
    /// The public keys of the auth service: what its /.well-known/jwks.json answers
    #[arg(long, value_name = "FILE")]
    pub(crate) jwks: Option<PathBuf>,
    /// The secret that the relays of a mesh share; `dreamcatcher keygen` makes one
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster_key_file: Option<PathBuf>,
    /// Players that each node is sized for, 1–1000000; a node with twice as many gets twice the sessions
    #[arg(long, value_name = "N", default_value = "20000", value_parser = value::number(1_u32..=1_000_000))]
    pub(crate) capacity: u32,
    /// How long the relay may hold packets back to send more of them at once, 0–20000 µs
    #[arg(long, value_name = "US", default_value = "1000", value_parser = value::number(0_u64..=20_000))]
    pub(crate) max_batch_delay_us: u64,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Example, beside a running `dreamcatcher auth`:
  dreamcatcher keygen --out cluster.key
  curl -fsSo jwks.json http://127.0.0.1:8080/.well-known/jwks.json
  dreamcatcher relay --listen 127.0.0.1:4433 --mesh-listen 127.0.0.1:4533 \\
      --jwks jwks.json --cluster-key-file cluster.key

A configuration file:
  id = \"eu-1\"
  region = \"eu\"
  listen = \"0.0.0.0:4433\"
  mesh_listen = \"10.0.0.7:4533\"
  advertise = \"203.0.113.7:4433\"
  jwks = \"/etc/dreamcatcher/jwks.json\"
  cluster_key_file = \"/etc/dreamcatcher/cluster.key\"";

/// Which directory the relay uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DirectoryUrl {
    Memory,
}

impl FromStr for DirectoryUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "memory" {
            Ok(Self::Memory)
        } else if text.starts_with("redis://") || text.starts_with("rediss://") {
            Err(
                "this build has the memory directory only; give `memory`, for a single relay"
                    .to_owned(),
            )
        } else {
            Err("give `memory`".to_owned())
        }
    }
}

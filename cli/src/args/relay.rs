//! `dreamcatcher relay`.

use std::net::SocketAddr;
use std::path::PathBuf;

use dreamcatcher_proto::limits::CLIENTS_PER_NODE_MAX;
use dreamcatcher_relay::NODES_MAX;

use super::{DirectoryArgs, value};
use crate::secret::SecretUrl;

/// Run one relay
///
/// A relay runs one node (an event loop on its own thread) per core. Node k has the id `<id>-k`, and
/// listens k ports above --listen and --mesh-listen. It keeps nothing on disk. It checks the tokens of
/// players by itself, with the keys of the auth service: --jwks says where they are.
///
/// Where Redis or the auth service does not answer, the relay starts all the same, says so on its
/// /readyz page, and goes on trying. A refused password is an error.
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
    /// The public keys of the auth service: the URL of its /.well-known/jwks.json, or a file with what that answers
    #[arg(long, value_name = "FILE|URL", value_parser = value::url(jwks))]
    pub(crate) jwks: Option<JwksPlace>,
    /// The CA of an https:// --jwks, PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub(crate) jwks_ca_file: Option<PathBuf>,
    /// The secret that the relays of a mesh share, readable by its owner alone; `dreamcatcher keygen` makes one
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster_key_file: Option<PathBuf>,
    /// Players that each node is sized for, 1–1000000; a node with twice as many gets twice the sessions
    #[arg(long, value_name = "N", default_value = "20000", value_parser = value::number(1_u32..=1_000_000))]
    pub(crate) capacity: u32,
    /// Players that each node takes at most, 1–20000
    #[arg(long, value_name = "N", default_value = "20000", value_parser = value::number(1_usize..=CLIENTS_PER_NODE_MAX))]
    pub(crate) clients_max: usize,
    /// Connections that one player may have to a node, of which the newest win, 0–10000; 0: any number
    #[arg(long, value_name = "N", default_value = "4", value_parser = value::number(0_u32..=10_000))]
    pub(crate) connections_per_user: u32,
    /// Connections that one address (IPv6: one /64) may have to a node, 0–1000000; 0: any number
    #[arg(long, value_name = "N", default_value = "64", value_parser = value::number(0_u32..=1_000_000))]
    pub(crate) connections_per_address: u32,
    /// Messages that a player may send a second, 1–100000
    #[arg(long, value_name = "N", default_value = "1000", value_parser = value::number(1_u32..=100_000))]
    pub(crate) message_rate: u32,
    /// Bytes that a player may send a second, 1024–16777216
    #[arg(long, value_name = "BYTES", default_value = "262144", value_parser = value::number(1_024_u32..=16_777_216))]
    pub(crate) byte_rate: u32,
    /// Have every newcomer show that its address is real, not only under load: a round trip more for each
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) always_retry: bool,
    /// How long the relay may hold packets back to send more of them at once, 0–20000 µs
    #[arg(long, value_name = "US", default_value = "1000", value_parser = value::number(0_u64..=20_000))]
    pub(crate) max_batch_delay_us: u64,
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Example, beside a running `dreamcatcher auth`:
  dreamcatcher keygen --out cluster.key
  dreamcatcher relay --listen 127.0.0.1:4433 --mesh-listen 127.0.0.1:4533 \\
      --directory redis://dreamcatcher@127.0.0.1 --directory-password-file redis.password \\
      --jwks http://127.0.0.1:8080/.well-known/jwks.json --cluster-key-file cluster.key

A configuration file:
  id = \"eu-1\"
  region = \"eu\"
  listen = \"0.0.0.0:4433\"
  mesh_listen = \"10.0.0.7:4533\"
  advertise = \"203.0.113.7:4433\"
  directory = \"rediss://dreamcatcher@10.0.0.2\"
  directory_password_file = \"/etc/dreamcatcher/redis.password\"
  jwks = \"https://auth.example.org/.well-known/jwks.json\"
  cluster_key_file = \"/etc/dreamcatcher/cluster.key\"";

/// Where the keys are that tokens are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JwksPlace {
    File(PathBuf),
    Url(SecretUrl),
}

fn jwks(text: &str) -> Result<JwksPlace, String> {
    match text.split_once("://") {
        Some(("http" | "https", place)) if !place.is_empty() => {
            Ok(JwksPlace::Url(SecretUrl::new(text)))
        }
        None if !text.is_empty() => Ok(JwksPlace::File(text.into())),
        Some(_) | None => Err("give a file, or an http:// or https:// URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_a_file_or_behind_a_url() {
        assert_eq!(jwks("jwks.json"), Ok(JwksPlace::File("jwks.json".into())));
        for url in ["http://a/jwks.json", "https://a"] {
            assert_eq!(jwks(url), Ok(JwksPlace::Url(SecretUrl::new(url))));
        }
        for bad in ["", "https://", "ftp://a/jwks.json"] {
            assert!(jwks(bad).is_err(), "{bad:?}");
        }
    }
}

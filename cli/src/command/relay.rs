//! `dreamcatcher relay`: one relay in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::{Directory, DirectoryError};
use dreamcatcher_proto::token::{JWKS_BYTES_MAX, KeySet};
use dreamcatcher_proto::{Error, ErrorCode};
use dreamcatcher_relay::identity::ClusterKey;
use dreamcatcher_relay::{JwksConfig, KeySource, MemberRates, Quotas, Relay, RelayConfig};
use serde_json::Value;

use crate::args::{JwksPlace, RelayArgs};
use crate::directory;
use crate::exit::Failure;
use crate::out;
use crate::secret;
use crate::stop::Stop;

/// Keys for good, or where to read them again and again.
enum Keys {
    Fixed(KeySet),
    Followed(JwksConfig),
}

pub(crate) async fn relay(args: RelayArgs) -> Result<(), Failure> {
    let mut stop = Stop::on_signal()?;
    has_port("--advertise", args.advertise)?;
    has_port("--mesh-advertise", args.mesh_advertise)?;
    let Some(jwks) = args.jwks else {
        return Err(missing(
            "jwks",
            "where the auth service's /.well-known/jwks.json is",
        ));
    };
    let keys = match jwks {
        JwksPlace::File(file) => Keys::Fixed(keys(&file)?),
        JwksPlace::Url(url) => Keys::Followed(JwksConfig {
            url: url.expose().to_owned(),
            ca_file: args.jwks_ca_file,
            insecure: args.directory.insecure,
        }),
    };
    let Some(cluster_key_file) = &args.cluster_key_file else {
        return Err(missing(
            "cluster-key-file",
            "the file that `dreamcatcher keygen` made",
        ));
    };
    let cluster_key = ClusterKey::from_file(cluster_key_file)?;
    secret::check_private("--cluster-key-file", cluster_key_file)?;
    let opened = directory::open(&args.directory).await?;
    let directory = Arc::clone(&opened.directory);
    check_mesh(&*directory, &cluster_key).await?;
    let keys = match keys {
        Keys::Fixed(keys) => Arc::new(keys).into(),
        Keys::Followed(config) => KeySource::follow(config, Arc::clone(&directory))?,
    };
    let relay = Relay::start(RelayConfig {
        id: args.id.unwrap_or_else(id_of_host),
        region: args.region,
        host: args.host.unwrap_or_else(host_name),
        listen: args.listen,
        mesh_listen: args.mesh_listen,
        advertise: args.advertise,
        mesh_advertise: args.mesh_advertise,
        admin: Some(args.admin),
        nodes: args.nodes.unwrap_or_else(cores),
        capacity: args.capacity,
        clients_max: args.clients_max,
        max_batch_delay: Duration::from_micros(args.max_batch_delay_us),
        cluster_key,
        rates: MemberRates {
            messages_per_s: args.message_rate,
            bytes_per_s: args.byte_rate,
        },
        quotas: Quotas {
            connections_per_user: args.connections_per_user,
            connections_per_address: args.connections_per_address,
            ..Quotas::default()
        },
        always_retry: args.always_retry,
        keys,
        directory,
    })
    .await?;
    let outcome = match introduce(&relay) {
        Ok(()) => tokio::select! {
            () = stop.requested() => Ok(()),
            error = relay.ended() => Err(error.into()),
        },
        nobody_reads => nobody_reads,
    };
    stop.let_end(relay.stop()).await;
    outcome
}

/// Port 0 stands for a free one where a socket listens; where others are to connect it is none.
fn has_port(flag: &str, address: Option<SocketAddr>) -> Result<(), Failure> {
    match address.filter(|address| address.port() == 0) {
        Some(address) => Err(Error::new(
            ErrorCode::InvalidConfig,
            format!(
                "{flag} {address} has port 0, to which nobody can connect: write the port at which \
                 others reach this relay, such as {}:4433, or leave {flag} out to tell them where it \
                 listens",
                address.ip()
            ),
        )
        .into()),
        None => Ok(()),
    }
}

fn introduce(relay: &Relay) -> Result<(), Failure> {
    for node in relay.nodes() {
        out::say_line(format_args!(
            "{} is listening on {} (mesh {})",
            node.id, node.address, node.mesh_address
        ))?;
    }
    if let Some(admin) = relay.admin_address() {
        out::say_line(format_args!("admin pages are on http://{admin}"))?;
    }
    Ok(())
}

/// Refuses a mesh with another cluster key now, rather than at the first registration, which nobody
/// may be watching. A directory that does not answer is asked again then.
async fn check_mesh(directory: &dyn Directory, cluster_key: &ClusterKey) -> Result<(), Failure> {
    let Ok(nodes) = directory::nodes(directory).await else {
        return Ok(());
    };
    let mesh_id = cluster_key.mesh_id();
    match nodes.into_iter().find(|node| node.mesh_id != mesh_id) {
        Some(other) => Err(Error::from(DirectoryError::OtherMesh(other.id)).into()),
        None => Ok(()),
    }
}

fn keys(file: &Path) -> Result<KeySet, Failure> {
    let refused = |cause: &str| Failure::Config(format!("--jwks {}: {cause}", file.display()));
    let found = std::fs::metadata(file).map_err(|e| refused(&e.to_string()))?;
    if !found.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let size = found.len();
    if size > JWKS_BYTES_MAX as u64 {
        return Err(refused(&format!(
            "{size} bytes are over the limit of {JWKS_BYTES_MAX}; is it the auth service's JWKS?"
        )));
    }
    let document = std::fs::read_to_string(file).map_err(|e| refused(&e.to_string()))?;
    KeySet::from_jwks(&document).map_err(|e| {
        let flaw = flaw(&document).unwrap_or_else(|| e.message().to_owned());
        refused(&format!(
            "{flaw}; save what the auth service answers on /.well-known/jwks.json, as it is"
        ))
    })
}

/// What is wrong with a JWKS document, and where in it, if it is its shape.
fn flaw(document: &str) -> Option<String> {
    if document.trim().is_empty() {
        return Some("it is empty".to_owned());
    }
    let document: Value = match serde_json::from_str(document) {
        Ok(document) => document,
        Err(e) => {
            let (line, column) = (e.line(), e.column());
            return Some(format!("line {line}, column {column}: this is not JSON"));
        }
    };
    let Some(keys) = document.get("keys") else {
        return Some("`keys`, the list of the keys, is missing".to_owned());
    };
    let Some(keys) = keys.as_array() else {
        return Some("`keys` has to be a list".to_owned());
    };
    keys.iter().enumerate().find_map(|(place, key)| {
        JWK_FIELDS.iter().find_map(|(field, only)| {
            let cause = match (key.get(field).map(Value::as_str), only) {
                (Some(Some(value)), Some(only)) if value != *only => {
                    format!("has to be \"{only}\"")
                }
                (Some(Some(_)), _) => return None,
                (Some(None), _) => "has to be a text".to_owned(),
                (None, _) => "is missing".to_owned(),
            };
            Some(format!("`keys[{place}].{field}` {cause}"))
        })
    })
}

/// What a key has to say (RFC 8037, 2), and what it has to be where there is no choice.
const JWK_FIELDS: [(&str, Option<&str>); 4] = [
    ("kty", Some("OKP")),
    ("crv", Some("Ed25519")),
    ("x", None),
    ("kid", None),
];

fn missing(flag: &str, what: &str) -> Failure {
    let key = flag.replace('-', "_");
    let message = format!("--{flag} (or {key} in the configuration file) is missing: {what}");
    Failure::usage("relay", &message)
}

fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().to_lowercase()
}

/// The host's name, as far as it can stand in a node id.
fn id_of_host() -> String {
    let name = host_name();
    let label = name.split('.').next().unwrap_or_default();
    let fits = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    };
    let id: String = label.chars().map(fits).take(59).collect();
    match id.trim_matches('-') {
        "" => "relay".to_owned(),
        id => id.to_owned(),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_wrong_with_a_jwks_file_is_named_with_its_place_and_a_way_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let key = r#""kty":"OKP","crv":"Ed25519","x":"AA""#;
        for (document, flaw) in [
            (String::new(), "it is empty"),
            ("no".to_owned(), "line 1, column 2: this is not JSON"),
            (
                "{\n\"keys\": [".to_owned(),
                "line 2, column 9: this is not JSON",
            ),
            ("{}".to_owned(), "`keys`, the list of the keys, is missing"),
            ("[]".to_owned(), "`keys`, the list of the keys, is missing"),
            (r#"{"keys": 1}"#.to_owned(), "`keys` has to be a list"),
            (r#"{"keys": [{}]}"#.to_owned(), "`keys[0].kty` is missing"),
            (r#"{"keys": [7]}"#.to_owned(), "`keys[0].kty` is missing"),
            (
                r#"{"keys": [{"kty":"RSA"}]}"#.to_owned(),
                "`keys[0].kty` has to be \"OKP\"",
            ),
            (
                format!(r#"{{"keys": [{{{key}}}]}}"#),
                "`keys[0].kid` is missing",
            ),
            (
                format!(r#"{{"keys": [{{{key},"kid":7}}]}}"#),
                "`keys[0].kid` has to be a text",
            ),
        ] {
            std::fs::write(file.path(), &document).unwrap();
            let Err(Failure::Config(said)) = keys(file.path()) else {
                panic!("{document:?}")
            };
            let begins = format!("--jwks {path}: {flaw}; save what");
            assert!(said.starts_with(&begins), "{document:?}: {said}");
        }
    }
}

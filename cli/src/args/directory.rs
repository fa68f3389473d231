//! The flags that say where relays find each other.

use std::path::PathBuf;

use super::value;
use crate::secret::SecretUrl;

/// Schemes of a directory that processes share.
const SCHEMES: [&str; 6] = [
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
];

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Directory, where relays find each other")]
pub(crate) struct DirectoryArgs {
    /// `memory`, which is one process's own, or a Redis: redis://USER@HOST:PORT, or rediss:// with TLS
    ///
    /// redis+sentinel://HOST:PORT,HOST:PORT/SERVICE asks Sentinels, redis+cluster://HOST:PORT,HOST:PORT
    /// is a Redis Cluster; rediss+… likewise with TLS.
    #[arg(long, value_name = "URL", default_value = "memory", value_parser = value::url(place))]
    pub(crate) directory: DirectoryPlace,
    /// A file with the password of Redis, which wins over one in the URL
    #[arg(long, value_name = "FILE")]
    pub(crate) directory_password_file: Option<PathBuf>,
    /// The CA of a rediss:// server, PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub(crate) directory_ca_file: Option<PathBuf>,
    /// What every key and channel in Redis starts with: one for each mesh that shares the server
    #[arg(long, value_name = "NAME", default_value = "dreamcatcher", value_parser = value::prefix)]
    pub(crate) directory_prefix: String,
    /// Replicas that must have a change of an owner before it counts, 0–5
    #[arg(long, value_name = "N", default_value = "0", value_parser = value::number(0_u32..=5))]
    pub(crate) wait_replicas: u32,
    /// Accept what is unsafe off loopback: a Redis without a password, a Postgres without TLS, keys by http://
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) insecure: bool,
}

/// Which directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DirectoryPlace {
    Memory,
    Redis(SecretUrl),
}

fn place(text: &str) -> Result<DirectoryPlace, String> {
    if text == "memory" {
        return Ok(DirectoryPlace::Memory);
    }
    match text.split_once("://") {
        Some((scheme, place)) if SCHEMES.contains(&scheme) && !place.is_empty() => {
            Ok(DirectoryPlace::Redis(SecretUrl::new(text)))
        }
        Some(_) | None => Err(format!(
            "give `memory`, or a URL that starts with {}://",
            SCHEMES.join("://, ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_memory_or_a_redis() {
        assert_eq!(place("memory"), Ok(DirectoryPlace::Memory));
        for scheme in SCHEMES {
            let url = format!("{scheme}://host:6379");
            let redis = DirectoryPlace::Redis(SecretUrl::new(&url));
            assert_eq!(place(&url), Ok(redis));
        }
        for bad in [
            "",
            "redis",
            "redis://",
            "http://host",
            "Memory",
            "host:6379",
        ] {
            let refused = place(bad);
            assert!(
                refused
                    .as_ref()
                    .is_err_and(|said| said.contains("redis://")),
                "{refused:?}"
            );
        }
    }
}

//! Why Redis did not answer, in words that say what to do.

use std::fmt;

use redis::{ErrorKind, RedisError};

use super::host::Host;

/// Why there was no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) cause: String,
    /// Nothing more is to be had from this server.
    pub(super) lost: bool,
    /// Where a cluster says to go instead.
    pub(super) redirect: Option<Host>,
}

const LETS_NOT: &str = "does not let this user do all that the directory needs (its rules are in \
                        docs/operations.md)";
/// What Redis 7 says where a script runs into the limits of its user, under no code of its own.
const SCRIPT_MAY_NOT: &str = "The user executing the script can't";

pub(super) fn trouble(host: &Host, error: &RedisError) -> Trouble {
    let said = Said(error);
    let (why, lost) = match (error.kind(), error.code().unwrap_or_default()) {
        (ErrorKind::AuthenticationFailed, _) | (_, "WRONGPASS") => (
            "refuses this user name and password (WRONGPASS)".to_owned(),
            true,
        ),
        (_, "NOAUTH") => (
            "asks for a password (NOAUTH), and none is set".to_owned(),
            true,
        ),
        (_, "NOPERM") => (format!("{LETS_NOT}: {said}"), false),
        _ if said.to_string().starts_with(SCRIPT_MAY_NOT) => (format!("{LETS_NOT}: {said}"), false),
        (_, "GARBAGE") => (
            format!("holds what no relay wrote; delete the key: {said}"),
            false,
        ),
        (_, "MOVED") => (
            format!("is part of a cluster, for redis+cluster://: {said}"),
            true,
        ),
        (_, "READONLY") => ("is a replica, which takes no changes".to_owned(), true),
        (_, "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "ASK" | "TRYAGAIN") => {
            (format!("is not ready: {said}"), true)
        }
        (ErrorKind::RESP3NotSupported, _) => ("is older than version 7".to_owned(), true),
        _ => (format!("failed: {said}"), error.is_unrecoverable_error()),
    };
    let redirect = error.redirect_node();
    Trouble {
        cause: format!("Redis at {host} {why}"),
        lost,
        redirect: redirect.and_then(|(address, _slot)| Host::named_by(host, address)),
    }
}

/// An error in Redis's words, without where in the script it arose, and not at any length.
struct Said<'a>(&'a RedisError);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 300;
        let whole = self.0.to_string();
        let said = self.0.detail().unwrap_or(&whole);
        let said = said.split(" script: ").next().unwrap_or(said);
        said.chars()
            .take(CHARS_MAX)
            .filter(|c| !c.is_control())
            .try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

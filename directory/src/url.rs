//! The parts of a server's URL, and what of them may be told: it can hold a password, and one that is
//! written wrong holds it anywhere.
//!
//! ```text
//!  redis://user:password@host:6379,host:6380/0?key=value
//!  ╰─┬─╯   ╰─────┬─────╯ ╰───────┬────────╯╰─────┬─────╯
//!  scheme      login           hosts            rest
//! ```

use std::net::Ipv6Addr;

/// Longest scheme that is repeated: the longest that is known has 15.
const SCHEME_CHARS_MAX: usize = 20;
/// What stands for what is not told.
const HIDDEN: &str = "…";

/// A URL's parts after its scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// User and password, before the last `@`.
    pub(crate) login: Option<&'a str>,
    pub(crate) hosts: &'a str,
    /// From the first `/`, `?` or `#` after the hosts on.
    pub(crate) rest: &'a str,
}

impl<'a> Parts<'a> {
    /// Of what follows `://`. `None` if a `/`, `?` or `#` stands before an `@`: who wrote the one into
    /// a password and who wrote the other into a path cannot be told apart.
    pub(crate) fn new(text: &'a str) -> Option<Self> {
        const ENDS_HOSTS: [char; 3] = ['/', '?', '#'];
        let (login, after) = match text.rsplit_once('@') {
            Some((login, _)) if login.contains(ENDS_HOSTS) => return None,
            Some((login, after)) => (Some(login), after),
            None => (None, text),
        };
        let (hosts, rest) = after.split_at(after.find(ENDS_HOSTS).unwrap_or(after.len()));
        Some(Self { login, hosts, rest })
    }
}

/// Whether `scheme` can be repeated: a few letters and `+`.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    let letter = |c: u8| c.is_ascii_alphabetic() || c == b'+';
    (1..=SCHEME_CHARS_MAX).contains(&scheme.len()) && scheme.bytes().all(letter)
}

/// `url` as logs and errors may show it, whatever it is and however wrong it is written: its scheme and
/// its hosts with their ports. `…` stands for user and password, for path, query and fragment, and for
/// every part that may be a piece of a password:
///
/// ```
/// use dreamcatcher_directory::redacted;
///
/// assert_eq!(redacted("redis://relay:hunter2@db.example:6379/0"), "redis://…@db.example:6379/…");
/// assert_eq!(redacted("postgres://[::1]?password=hunter2"), "postgres://[::1]?…");
/// assert_eq!(redacted("redis://relay:hun/ter2@db.example"), "redis://…");
/// assert_eq!(redacted("relay:hunter2@db.example"), "…");
/// ```
#[must_use]
pub fn redacted(url: &str) -> String {
    let split = url.split_once("://");
    let Some((scheme, after)) = split.filter(|(scheme, _)| is_scheme(scheme)) else {
        return HIDDEN.to_owned();
    };
    let Some(Parts { login, hosts, rest }) = Parts::new(after) else {
        return format!("{scheme}://{HIDDEN}");
    };
    let login = login.map(|_| format!("{HIDDEN}@")).unwrap_or_default();
    let hosts = if hosts.split(',').all(is_host) {
        hosts
    } else {
        HIDDEN
    };
    let rest = rest.chars().next().map(|first| format!("{first}{HIDDEN}"));
    format!("{scheme}://{login}{hosts}{}", rest.unwrap_or_default())
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, port)) => (v6.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-');
            (!name.is_empty() && name.bytes().all(letter), port)
        }
    };
    let digits =
        |port: &str| port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok();
    name && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_hosts_are_shown_and_nothing_else() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost"),
            (
                "rediss://u:p@h-1.example:1,[::1]:2/3",
                "rediss://…@h-1.example:1,[::1]:2/…",
            ),
            ("redis+sentinel://@h/mymaster", "redis+sentinel://…@h/…"),
            ("postgres://u:p@h/db?sslmode=require#x", "postgres://…@h/…"),
            ("http://u:p%40@h#p", "http://…@h#…"),
            ("redis://u:p@q@h", "redis://…@h"),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
        }
    }

    #[test]
    fn what_may_be_a_piece_of_a_password_is_not_shown() {
        for (url, shown) in [
            ("", "…"),
            ("hunter2", "…"),
            ("memory:hunter2", "…"),
            ("redis:/u:hunter2@h", "…"),
            ("redis//u:hunter2@h", "…"),
            ("hunter2://h", "…"),
            ("u:p@h://h", "…"),
            ("://hunter2", "…"),
            ("averylongschemethatisnone://h", "…"),
            ("redis://", "redis://…"),
            ("redis://u:hunter2", "redis://…"),
            ("redis://u:99999", "redis://…"),
            ("redis://u:+1", "redis://…"),
            ("redis://:hunter2", "redis://…"),
            ("redis://u hunter2", "redis://…"),
            ("redis://[hunter2]", "redis://…"),
            ("redis://[::1]hunter2", "redis://…"),
            ("redis://h,u:hunter2", "redis://…"),
            ("redis://u:p@h\\hunter2", "redis://…@…"),
            ("redis://u:p/hunter2@h", "redis://…"),
            ("redis://u:p?hunter2@h", "redis://…"),
            ("redis://u:p#hunter2@h", "redis://…"),
            ("postgres://h/db?password=p@hunter2", "postgres://…"),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
        }
    }
}

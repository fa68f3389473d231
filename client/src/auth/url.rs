//! Where the auth service is, and whom to trust there.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use dreamcatcher_proto::{Error, ErrorCode};
use serde::{Deserialize, Serialize};

/// A host name has 253 characters at most; the rest is for a path.
const URL_BYTES_MAX: usize = 1_024;
const PORT_HTTP: u16 = 80;
const PORT_HTTPS: u16 = 443;

/// Whose word is taken for the service's certificate. Only `https` asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that the operating system trusts.
    #[default]
    Platform,
    /// The authorities in this PEM file, and no others: for a mesh with an authority of its own.
    CaFile(PathBuf),
}

/// The address of an auth service: `https://host[:port][/path]`.
///
/// `http` is for loopback only, because tokens and passwords would cross the network in the clear;
/// [`AuthUrl::insecure`] takes it anywhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct AuthUrl {
    tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
    insecure: bool,
    trust: Trust,
}

impl AuthUrl {
    /// The same as text parsed, but `http` is taken to any host. Whoever is on the way can then read
    /// and use every token: for a network that is trusted, and for tests.
    ///
    /// # Errors
    /// `InvalidArgument` for anything but `http[s]://host[:port][/path]`.
    pub fn insecure(text: &str) -> Result<Self, Error> {
        Ok(Self {
            insecure: true,
            ..Self::read(text)?
        })
    }

    /// The same service, with another answer to whom to trust.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Host and port, as in the header `Host`.
    pub(super) fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        let host = format!("{open}{}{close}", self.host);
        if self.port == default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    fn read(text: &str) -> Result<Self, Error> {
        if text.len() > URL_BYTES_MAX {
            let message = format!("the auth url is longer than {URL_BYTES_MAX} bytes");
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        // Before anything is shown: what stands before an @ is a password.
        if text.contains('@') {
            let message = "the auth url holds an @: give no user and no password in it";
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        let wrong = |why: &str| {
            let message = format!("auth url {text:?} {why}; give https://host[:port]");
            Error::new(ErrorCode::InvalidArgument, message)
        };
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some(_) | None => return Err(wrong("does not begin with https:// or http://")),
        };
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '\\');
        if !rest.chars().all(plain) {
            return Err(wrong(
                "has characters that do not belong there, such as spaces, ? or #",
            ));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_authority(authority)
            .ok_or_else(|| wrong("has no host, or a port that is not 1–65535"))?;
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(default_port(tls)),
            path: path.trim_end_matches('/').to_owned(),
            insecure: false,
            trust: Trust::Platform,
        })
    }

    fn is_loopback(&self) -> bool {
        let address: Option<IpAddr> = self.host.parse().ok();
        self.host.eq_ignore_ascii_case("localhost") || address.is_some_and(|ip| ip.is_loopback())
    }
}

impl FromStr for AuthUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let url = Self::read(text)?;
        if !url.tls && !url.is_loopback() {
            let message = format!(
                "auth url {url} is http, which would send tokens and passwords in the clear: give \
                 https://{}, or ask for an insecure connection if the network is trusted",
                url.host
            );
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        Ok(url)
    }
}

impl fmt::Display for AuthUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Debug for AuthUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthUrl({self}, {:?})", self.trust)
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { PORT_HTTPS } else { PORT_HTTP }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return None,
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None => None,
    };
    (!host.is_empty()).then_some((host, port))
}

/// What can name an auth service: the text of a URL, or an [`AuthUrl`].
pub trait ToAuthUrl: Sync {
    /// # Errors
    /// `InvalidArgument` if the text is not one: see [`AuthUrl`].
    fn to_auth_url(&self) -> Result<AuthUrl, Error>;
}

impl ToAuthUrl for str {
    fn to_auth_url(&self) -> Result<AuthUrl, Error> {
        self.parse()
    }
}

impl ToAuthUrl for String {
    fn to_auth_url(&self) -> Result<AuthUrl, Error> {
        self.parse()
    }
}

impl ToAuthUrl for AuthUrl {
    fn to_auth_url(&self) -> Result<AuthUrl, Error> {
        Ok(self.clone())
    }
}

/// An [`AuthUrl`] in a file of the game's.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    url: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    insecure: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
}

impl From<AuthUrl> for Stored {
    fn from(url: AuthUrl) -> Self {
        Self {
            url: url.to_string(),
            insecure: url.insecure,
            ca_file: match url.trust {
                Trust::Platform => None,
                Trust::CaFile(file) => Some(file),
            },
        }
    }
}

impl TryFrom<Stored> for AuthUrl {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self, Error> {
        let url = if stored.insecure {
            Self::insecure(&stored.url)?
        } else {
            stored.url.parse::<Self>()?
        };
        Ok(match stored.ca_file {
            None => url,
            Some(file) => url.trusting(Trust::CaFile(file)),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_perhaps_a_port_and_a_path() {
        for (text, host, port, shown) in [
            ("http://127.0.0.1", "127.0.0.1", 80, "http://127.0.0.1"),
            (
                "http://LOCALHOST:7000/",
                "LOCALHOST",
                7_000,
                "http://LOCALHOST:7000",
            ),
            ("http://[::1]", "::1", 80, "http://[::1]"),
            ("http://[::1]:7/auth/", "::1", 7, "http://[::1]:7/auth"),
            (
                "HTTPS://auth.example",
                "auth.example",
                443,
                "https://auth.example",
            ),
            (
                "https://[2001:db8::1]:8443",
                "2001:db8::1",
                8_443,
                "https://[2001:db8::1]:8443",
            ),
        ] {
            let url: AuthUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "auth:7000",
            "ftp://auth",
            "http://",
            "http:///x",
            "http://:80",
            "http://h:",
            "http://h:0",
            "http://h:65536",
            "http://h:-1",
            "http://::1",
            "http://[::1",
            "http://[::1]7",
            "http://[localhost]",
            "https://h\r\nX: y",
            "https://h?x",
            "https://h/#x",
            "https://ho st",
            "https://hôst",
            &format!("https://{}", "h".repeat(URL_BYTES_MAX)),
        ] {
            let error = bad.parse::<AuthUrl>().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = "https://ann:hunter2@auth.example"
            .parse::<AuthUrl>()
            .unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn http_is_for_loopback_unless_it_is_asked_for() {
        for text in [
            "http://auth.example:7000",
            "http://10.0.0.1",
            "http://[2001:db8::1]",
        ] {
            let error = text.parse::<AuthUrl>().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.message().contains("https://"), "{error}");
            assert_eq!(AuthUrl::insecure(text).unwrap().to_string(), text);
        }
        for text in ["http://127.0.0.2", "http://localhost", "http://[::1]"] {
            assert!(text.parse::<AuthUrl>().is_ok(), "{text}");
        }
    }

    #[test]
    fn an_address_is_kept_in_a_file_with_its_trust() {
        let url: AuthUrl = "https://auth.example".parse().unwrap();
        for url in [
            url.clone(),
            url.trusting(Trust::CaFile("/etc/mesh/ca.pem".into())),
            AuthUrl::insecure("http://10.0.0.1:7000/auth").unwrap(),
        ] {
            let text = serde_json::to_string(&url).unwrap();
            assert_eq!(serde_json::from_str::<AuthUrl>(&text).unwrap(), url);
        }
        let insecure = r#"{"url": "http://10.0.0.1"}"#;
        assert!(serde_json::from_str::<AuthUrl>(insecure).is_err());
    }
}

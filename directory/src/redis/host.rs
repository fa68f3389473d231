//! One server's address, as an operator or as Redis writes it.

use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl Host {
    /// `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub(super) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(v6) => v6.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if port.is_empty() => default_port,
            None => return None,
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let is_one = !name.is_empty() && port != 0 && name.chars().all(letter);
        is_one.then(|| Self {
            name: name.to_owned(),
            port,
        })
    }

    /// An address as Redis names it, `host:port`, in which a v6 address has no brackets and an empty
    /// host means the one that was asked.
    pub(super) fn named_by(asked: &Self, text: &str) -> Option<Self> {
        let (name, port) = text.rsplit_once(':')?;
        let name = if name.is_empty() { &asked.name } else { name };
        let port = port.parse().ok().filter(|&port| port != 0)?;
        Some(Self {
            name: name.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.name == "localhost" || self.name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails says where")]

    use super::*;

    #[test]
    fn a_host_is_read_as_redis_names_it() {
        let asked = Host::parse("192.0.2.1:7000", 1).unwrap();
        for (named, host) in [
            ("192.0.2.2:6379", "192.0.2.2:6379"),
            (":7001", "192.0.2.1:7001"),
            ("2001:db8::1:6379", "[2001:db8::1]:6379"),
        ] {
            assert_eq!(Host::named_by(&asked, named).unwrap().to_string(), host);
        }
        assert_eq!(Host::named_by(&asked, "nowhere"), None);
    }
}

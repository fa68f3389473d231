//! Where Redis is, and whether it is safe to talk to it there.

use std::fmt;
use std::path::PathBuf;

use dreamcatcher_proto::{Error, ErrorCode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};

use super::host::Host;
use crate::url::{Parts, is_scheme, redacted};

/// Hosts that one URL names: a cluster needs a few to be found by, not all of it.
const HOSTS_MAX: usize = 32;
/// Longest prefix of the keys.
const PREFIX_CHARS_MAX: usize = 32;
/// Most replicas to wait for: `WAIT` is a guard against the loss of one machine or two.
const REPLICAS_MAX: u32 = 5;

/// Where Redis is and how to be let in.
#[derive(Clone)]
pub struct RedisConfig {
    /// `scheme://[user[:password]@]host[:port][,host[:port]…][/path]`:
    ///
    /// | scheme | hosts | path |
    /// |---|---|---|
    /// | `redis`, `rediss` (TLS) | one server, or several of which one takes writes | database number |
    /// | `redis+sentinel`, `rediss+sentinel` | the sentinels | name of the service |
    /// | `redis+cluster`, `rediss+cluster` | some nodes of the cluster | none |
    ///
    /// User and password are percent-encoded. There is neither query nor fragment.
    pub url: String,
    /// Prevails over the URL's.
    pub password: Option<SecretString>,
    /// Who signs the servers' certificates (PEM), instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Replicas that have to confirm a change before it is answered; 0 to ask none.
    pub wait_replicas: u32,
    /// All keys, and the channel of hints, begin with this in braces, so that a cluster keeps them in
    /// one slot: `a-z`, `0-9` and dashes.
    pub prefix: String,
    /// Lets a Redis off loopback do without a password.
    pub insecure: bool,
}

impl RedisConfig {
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            password: None,
            ca_file: None,
            wait_replicas: 0,
            prefix: "dreamcatcher".to_owned(),
            insecure: false,
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &redacted(&self.url))
            .field("password", &self.password)
            .field("ca_file", &self.ca_file)
            .field("wait_replicas", &self.wait_replicas)
            .field("prefix", &self.prefix)
            .field("insecure", &self.insecure)
            .finish()
    }
}

/// A checked [`RedisConfig`].
#[derive(Debug)]
pub(super) struct Target {
    pub(super) hosts: Vec<Host>,
    pub(super) topology: Topology,
    /// Not shown either: who writes a password without a user writes it here.
    pub(super) user: Option<SecretString>,
    pub(super) password: Option<SecretString>,
    pub(super) tls: Option<Tls>,
    pub(super) wait_replicas: u32,
    /// With its braces and the colon.
    pub(super) prefix: String,
    pub(super) insecure: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Topology {
    Standalone { database: i64 },
    Sentinel { service: String },
    Cluster,
}

#[derive(Debug)]
pub(super) struct Tls {
    /// PEM; `None` for the system's authorities.
    pub(super) authorities: Option<Vec<u8>>,
}

impl Target {
    /// `InvalidConfig`, naming what to change. Of the URL no more is repeated than a scheme and a host
    /// that can be nothing else: whatever stands in the wrong place may be a password.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, Error> {
        let (scheme, rest) = config
            .url
            .split_once("://")
            .ok_or_else(|| invalid(format!("a Redis URL is {FORM}")))?;
        let (plain, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let encrypted = match plain {
            "redis" => false,
            "rediss" => true,
            other => return Err(unknown_scheme(other)),
        };
        let Parts { login, hosts, rest } = Parts::new(rest).ok_or_else(|| {
            invalid(
                "a /, ? or # stands before the last @ of the Redis URL: in user and password write \
                 / as %2F, ? as %3F, # as %23 and @ as %40, or keep the password in a file of its own",
            )
        })?;
        if rest.contains(['?', '#']) {
            return Err(invalid(
                "a Redis URL takes neither a query nor a fragment: leave out what begins with ? or #, \
                 or, where it is meant, write ? as %3F and # as %23",
            ));
        }
        let path = rest.strip_prefix('/').unwrap_or_default();
        let login = login.unwrap_or_default();
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let password = match &config.password {
            Some(password) => Some(password.clone()),
            None if password.is_empty() => None,
            None => Some(SecretString::from(decoded(password, "password")?)),
        };
        let topology = match kind {
            "" => Topology::Standalone {
                database: database(path)?,
            },
            "sentinel" => Topology::Sentinel {
                service: service(path)?,
            },
            "cluster" if path.is_empty() => Topology::Cluster,
            "cluster" => {
                return Err(invalid(
                    "a cluster has one database: leave what follows the hosts out of the Redis URL",
                ));
            }
            other => return Err(unknown_scheme(other)),
        };
        let default_port = match topology {
            Topology::Sentinel { .. } => 26_379,
            Topology::Standalone { .. } | Topology::Cluster => 6_379,
        };
        let target = Self {
            hosts: parse_hosts(hosts, default_port)?,
            topology,
            user: match decoded(user, "user")? {
                user if user.is_empty() => None,
                user => Some(SecretString::from(user)),
            },
            password: password.filter(|password| !password.expose_secret().is_empty()),
            tls: encrypted
                .then(|| authorities(config).map(|authorities| Tls { authorities }))
                .transpose()?,
            wait_replicas: replicas(config.wait_replicas)?,
            prefix: prefix(&config.prefix)?,
            insecure: config.insecure,
        };
        if !encrypted && config.ca_file.is_some() {
            return Err(invalid(
                "a CA file needs TLS: write rediss:// in the Redis URL, or leave the CA file out",
            ));
        }
        for host in &target.hosts {
            target.permit(host).map_err(invalid)?;
        }
        target.warn_of_plaintext();
        Ok(target)
    }

    /// Whether to talk to `host` at all, else why not. Also asked of hosts that Redis names.
    pub(super) fn permit(&self, host: &Host) -> Result<(), String> {
        if self.password.is_some() || self.insecure || host.is_loopback() {
            return Ok(());
        }
        Err(format!(
            "Redis at {host} is off loopback and no password is set, so anybody who reaches it could \
             take over every session: give it a password (requirepass or an ACL user) and pass that, \
             or allow it with --insecure"
        ))
    }

    fn warn_of_plaintext(&self) {
        let open = self.hosts.iter().find(|host| !host.is_loopback());
        if let (None, Some(host)) = (&self.tls, open) {
            tracing::warn!(
                %host,
                "what is said to Redis, its password included, can be read and changed on the way: \
                 use rediss:// unless the network is a private one"
            );
        }
    }
}

const FORM: &str = "redis://[user:password@]host:port (rediss:// with TLS), \
                    redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port";

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidConfig, message.into())
}

fn unknown_scheme(part: &str) -> Error {
    invalid(if is_scheme(part) {
        format!("{part:?} is not known in a Redis URL, which is {FORM}")
    } else {
        format!("what stands before :// is not known in a Redis URL, which is {FORM}")
    })
}

fn database(path: &str) -> Result<i64, Error> {
    if path.is_empty() {
        return Ok(0);
    }
    path.parse::<u16>().map(i64::from).map_err(|_| {
        invalid(format!(
            "what follows the host in a Redis URL is the number of a database, 0–{}: redis://host/0",
            u16::MAX
        ))
    })
}

fn service(path: &str) -> Result<String, Error> {
    let service = decoded(path, "service name")?;
    if service.is_empty() {
        return Err(invalid(
            "a redis+sentinel:// URL ends with the name that the sentinels know the service by: \
             …/mymaster",
        ));
    }
    Ok(service)
}

fn replicas(count: u32) -> Result<u32, Error> {
    if count > REPLICAS_MAX {
        return Err(invalid(format!(
            "wait_replicas {count} must be 0–{REPLICAS_MAX} replicas"
        )));
    }
    Ok(count)
}

fn prefix(text: &str) -> Result<String, Error> {
    let letter = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !(1..=PREFIX_CHARS_MAX).contains(&text.len()) || !text.bytes().all(letter) {
        return Err(invalid(format!(
            "the Redis prefix {text:?} must be 1–{PREFIX_CHARS_MAX} characters of a-z, 0-9 and dashes"
        )));
    }
    Ok(format!("{{{text}}}:"))
}

fn authorities(config: &RedisConfig) -> Result<Option<Vec<u8>>, Error> {
    let Some(path) = &config.ca_file else {
        return Ok(None);
    };
    let unusable = |why: String| invalid(format!("the CA file {} {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| unusable(format!("cannot be read: {e}")))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(found) if found.is_empty() => Err(unusable("holds no certificate (PEM)".to_owned())),
        Ok(_) => Ok(Some(pem)),
        Err(e) => Err(unusable(format!("is no PEM: {e}"))),
    }
}

fn parse_hosts(text: &str, default_port: u16) -> Result<Vec<Host>, Error> {
    let hosts: Vec<Host> = text
        .split(',')
        .take(HOSTS_MAX + 1)
        .enumerate()
        .map(|(before, host)| {
            let malformed = || {
                invalid(format!(
                    "host {} in the Redis URL is not host:port (user and password stand before it \
                     and an @)",
                    before + 1
                ))
            };
            Host::parse(host, default_port).ok_or_else(malformed)
        })
        .collect::<Result<_, _>>()?;
    if hosts.len() > HOSTS_MAX {
        return Err(invalid(format!(
            "a Redis URL names at most {HOSTS_MAX} hosts: some of them are enough to find the rest"
        )));
    }
    Ok(hosts)
}

/// Without its percent-encoding (RFC 3986, 2.1).
fn decoded(text: &str, what: &str) -> Result<String, Error> {
    // The text is not repeated: it may be a password.
    let malformed = || {
        invalid(format!(
            "the {what} in the Redis URL is not percent-encoded UTF-8: write % as %25"
        ))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).ok_or_else(malformed)?;
        let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails says where")]

    use super::*;

    #[test]
    fn a_url_names_hosts_topology_and_login() {
        let plain = target("redis://localhost").unwrap();
        assert_eq!(hosts(&plain), "localhost:6379");
        assert_eq!(plain.topology, Topology::Standalone { database: 0 });
        assert!(plain.tls.is_none() && plain.password.is_none() && plain.user.is_none());

        let full = target("rediss://us%40er:p%3Aa%2Fs%40s@redis-1.example:7000,[::1]/3").unwrap();
        assert_eq!(hosts(&full), "redis-1.example:7000 [::1]:6379");
        assert_eq!(full.topology, Topology::Standalone { database: 3 });
        assert_eq!(full.user.as_ref().unwrap().expose_secret(), "us@er");
        assert_eq!(full.password.as_ref().unwrap().expose_secret(), "p:a/s@s");
        assert!(full.tls.is_some());

        let sentinel = target("redis+sentinel://127.0.0.1,127.0.0.2:5/mymaster").unwrap();
        assert_eq!(hosts(&sentinel), "127.0.0.1:26379 127.0.0.2:5");
        let service = "mymaster".to_owned();
        assert_eq!(sentinel.topology, Topology::Sentinel { service });
        let cluster = target("redis+cluster://127.0.0.1:7000").unwrap();
        assert_eq!(cluster.topology, Topology::Cluster);
    }

    #[test]
    fn a_bad_url_is_refused_with_what_to_write() {
        for (url, says) in [
            ("localhost:6379", "redis://"),
            ("http://localhost", "\"http\""),
            ("redis+proxy://localhost", "\"proxy\""),
            ("redis://", "host:port"),
            ("redis://a:b:c", "host:port"),
            ("redis://localhost:0", "host:port"),
            ("redis://localhost/zero", "number of a database"),
            ("redis+sentinel://localhost", "mymaster"),
            ("redis+cluster://localhost/1", "one database"),
            ("redis://localhost?x=y", "neither a query"),
            ("redis://localhost/0?x=y", "neither a query"),
            ("redis+sentinel://localhost/a#b", "neither a query"),
            ("redis://user:pass/word@localhost", "%2F"),
            ("redis://a,b:c", "host 2"),
            ("redis://:%zz@localhost", "%25"),
            (
                &format!("redis://{}", ["localhost"; 33].join(",")),
                "at most 32",
            ),
        ] {
            let error = target(url)
                .err()
                .unwrap_or_else(|| panic!("{url} was taken"));
            assert_eq!(error.code(), ErrorCode::InvalidConfig, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn a_passwordless_redis_off_loopback_is_refused_unless_allowed() {
        for url in [
            "redis://192.0.2.1",
            "rediss://redis.example",
            "redis://localhost,192.0.2.1",
        ] {
            let error = target(url)
                .err()
                .unwrap_or_else(|| panic!("{url} was taken"));
            assert_eq!(error.code(), ErrorCode::InvalidConfig);
            assert!(error.to_string().contains("--insecure"), "{error}");
        }
        assert!(target("redis://:secret@192.0.2.1").is_ok());
        assert!(target("redis://[::1]").is_ok());
        let mut config = RedisConfig::new("redis://192.0.2.1");
        config.insecure = true;
        assert!(Target::new(&config).is_ok());
        config.insecure = false;
        config.password = Some(SecretString::from("secret"));
        assert!(Target::new(&config).is_ok());
    }

    #[test]
    fn no_password_is_shown() {
        let mut config = RedisConfig::new("redis://user:hunter2@localhost");
        config.password = Some(SecretString::from("hunter2"));
        let shown = format!("{config:?} {:?}", Target::new(&config).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn no_password_is_shown_wherever_in_a_url_it_stands() {
        for url in [
            "hunter2",
            "user:hunter2@localhost",
            "redis:hunter2@localhost",
            "redis:/user:hunter2@localhost",
            "redis//user:hunter2@localhost",
            "redis:user:hunter2@localhost",
            "hunter2://localhost",
            "redis+hunter2://localhost",
            "redis:hunter2@localhost://localhost",
            "redis://hunter2@localhost",
            "redis://hunter2@192.0.2.1",
            "redis://hunter2@local host",
            "redis://hunter2%@localhost",
            "redis://user:hunter2%@localhost",
            "redis://user:%ffhunter2@localhost",
            "redis://user:hunter2@",
            "redis://user:hunter2@localhost:x",
            "redis://user:hunter2@localhost:0",
            "redis://user:hunter2@localhost/x",
            "redis://user:hunter2@local@host:x",
            "redis://user:hunter2",
            "redis://:hunter2",
            "redis://localhost,user:hunter2",
            "redis://user/hunter2@localhost",
            "redis://user:/hunter2@localhost",
            "redis://user:hun/hunter2@localhost",
            "redis://user:hunter2/hun@localhost",
            "redis://user:hunter2?hun@localhost",
            "redis://user:hun?hunter2@localhost",
            "redis://user:hunter2#hun@localhost",
            "redis://user:hun#hunter2@localhost",
            "redis://6379:6379/hunter2@localhost",
            "redis://localhost/hunter2",
            "redis://localhost/0/hunter2",
            "redis://localhost?password=hunter2",
            "rediss://localhost?x=hunter2",
            "redis://localhost/0?password=hunter2",
            "redis://localhost?password=hun@hunter2",
            "redis://localhost#hunter2",
            "redis+cluster://localhost/hunter2",
            "redis+sentinel://localhost/mymaster?password=hunter2",
            "redis+sentinel://localhost/%hunter2",
            "redis+sentinel://user:hunter2@localhost",
            "redis+sentinel://user:hunter2@localhost/mymaster",
            "http://user:hunter2@localhost",
        ] {
            for insecure in [false, true] {
                let mut config = RedisConfig::new(url);
                config.insecure = insecure;
                let shown = match Target::new(&config) {
                    Ok(target) => format!("{target:?}"),
                    Err(error) => format!("{error} {error:?}"),
                };
                let shown = format!("{shown} {config:?} {}", redacted(url));
                assert!(!shown.contains("hunter2"), "{url}: {shown}");
            }
        }
    }

    #[test]
    fn other_settings_are_held_to_their_limits() {
        let with = |change: &dyn Fn(&mut RedisConfig)| {
            let mut config = RedisConfig::new("rediss://localhost");
            change(&mut config);
            Target::new(&config).err().map(|error| error.to_string())
        };
        assert_eq!(with(&|_| {}), None);
        for (says, change) in [
            (
                "0–5",
                &(|c: &mut RedisConfig| c.wait_replicas = 6) as &dyn Fn(&mut RedisConfig),
            ),
            ("a-z", &|c| c.prefix = "{x}".to_owned()),
            ("cannot be read", &|c| c.ca_file = Some("/nowhere".into())),
            ("no certificate", &|c| c.ca_file = Some("/dev/null".into())),
            ("needs TLS", &|c| {
                c.url = "redis://localhost".to_owned();
                c.ca_file = Some("/dev/null".into());
            }),
        ] {
            let error = with(change).unwrap_or_else(|| panic!("{says}: it was taken"));
            assert!(error.contains(says), "{error}");
        }
    }

    fn target(url: &str) -> Result<Target, Error> {
        Target::new(&RedisConfig::new(url))
    }

    fn hosts(target: &Target) -> String {
        let hosts: Vec<_> = target.hosts.iter().map(Host::to_string).collect();
        hosts.join(" ")
    }
}

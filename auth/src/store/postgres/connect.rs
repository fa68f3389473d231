//! From a URL to connections, and what an error on them means.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use deadpool_postgres::{TimeoutType, Timeouts};
use dreamcatcher_proto::{Error, ErrorCode};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use secrecy::ExposeSecret;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{PATIENCE, Patience, PostgresConfig, unavailable};

/// The most that `connections_max` may be: Postgres itself allows 100 unless told otherwise.
const CONNECTIONS_MAX: usize = 1_000;
/// Nobody waits to sign in.
const MIGRATING: Patience = Patience {
    connect: Duration::from_secs(10),
    ..PATIENCE
};

const APPLICATION_NAME: &str = "dreamcatcher-auth";

/// What connections are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Serve(Patience),
    Migrate,
}

/// Checks everything that can be checked without a server. Must be called within a tokio runtime.
pub(super) fn pool(config: &PostgresConfig, purpose: Purpose) -> Result<Pool, Error> {
    let (connections_max, patience, options) = match purpose {
        Purpose::Serve(patience) => (
            config.connections_max,
            patience,
            // A process that died in a transaction loses its locks.
            format!(
                "-c statement_timeout={} -c idle_in_transaction_session_timeout=5000",
                patience.statement.as_millis()
            ),
        ),
        // It may take its time, but not wait for ever for another one.
        Purpose::Migrate => (
            1,
            MIGRATING,
            "-c statement_timeout=0 -c lock_timeout=60000".to_owned(),
        ),
    };
    if !(1..=CONNECTIONS_MAX).contains(&connections_max) {
        return Err(invalid(format!(
            "connections_max is {connections_max}: it must be 1–{CONNECTIONS_MAX}"
        )));
    }
    Pool::builder(manager(config, patience, &options)?)
        .max_size(connections_max)
        .timeouts(Timeouts {
            wait: Some(patience.busy),
            create: Some(patience.connect),
            recycle: Some(patience.busy),
        })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|e| Error::new(ErrorCode::Internal, format!("no pool of connections: {e}")))
}

/// `host:port/database`, for people; never the password.
pub(super) fn place(config: &PostgresConfig) -> String {
    let Ok(postgres) = parse(config) else {
        return "postgres".to_owned();
    };
    let host = match (postgres.get_hosts().first(), postgres.get_hostaddrs()) {
        (Some(Host::Tcp(host)), _) => host.clone(),
        #[cfg(unix)]
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, addresses) => addresses.first().map_or(String::new(), ToString::to_string),
    };
    let port = postgres.get_ports().first().copied().unwrap_or(5432);
    let database = postgres.get_dbname().or(postgres.get_user());
    format!("{host}:{port}/{}", database.unwrap_or_default())
}

fn manager(config: &PostgresConfig, patience: Patience, options: &str) -> Result<Manager, Error> {
    let mut postgres = parse(config)?;
    postgres.ssl_mode(ssl_mode(&postgres, config.insecure)?);
    if let Some(password) = &config.password {
        postgres.password(password.expose_secret());
    }
    let given = postgres.get_options().unwrap_or_default();
    let options = format!("{given} {options}");
    postgres.options(options.trim_start());
    if postgres.get_application_name().is_none() {
        postgres.application_name(APPLICATION_NAME);
    }
    if postgres.get_target_session_attrs() == TargetSessionAttrs::Any {
        // Of several hosts the one that takes writes.
        postgres.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    // A host that does not answer leaves time for the next one.
    let hosts = postgres
        .get_hosts()
        .len()
        .max(postgres.get_hostaddrs().len());
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX).max(1);
    postgres.connect_timeout(patience.connect / hosts);
    let recycling = ManagerConfig {
        // Whether it is still open costs nothing to see; a query would, at each call.
        recycling_method: RecyclingMethod::Fast,
    };
    Ok(if postgres.get_ssl_mode() == SslMode::Disable {
        Manager::from_config(postgres, NoTls, recycling)
    } else {
        let tls = MakeRustlsConnect::new(tls(config.ca_file.as_deref())?);
        Manager::from_config(postgres, tls, recycling)
    })
}

/// Whether the URL is one; what it names is not looked for.
pub(in crate::store) fn check(config: &PostgresConfig) -> Result<(), Error> {
    parse(config).map(drop)
}

/// The library's own words are not passed on: a URL that is wrong in the right place makes them quote
/// a part of the password.
fn parse(config: &PostgresConfig) -> Result<Config, Error> {
    let url = config.url.expose_secret();
    let parsed = is_plain(url).then(|| url.parse::<Config>().ok()).flatten();
    let parsed = parsed.ok_or_else(|| {
        invalid(
            "its URL is not of the form postgres://user:password@host:port/database?sslmode=require; \
             in a password write / ? # @ : % as %2F %3F %23 %40 %3A %25; sslmode is disable, prefer \
             or require (each connection with TLS checks the server's certificate)",
        )
    })?;
    if parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty() {
        return Err(invalid("its URL names no host"));
    }
    Ok(parsed)
}

/// Whether nothing of a password can be taken for what is shown, or told to the server: the host and
/// the database. The library ends the password at the first `@`, so a second one is refused, and so
/// are separators of parameters before they begin.
fn is_plain(url: &str) -> bool {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"));
    let Some(rest) = rest else {
        return false;
    };
    let place = match rest.split_once('@') {
        Some((_, after)) => after,
        None => rest,
    };
    let known = |c: u8| c.is_ascii_alphanumeric() || b"-._~%:,[]/".contains(&c);
    let shown = place.split('?').next().unwrap_or_default();
    !place.contains('@') && shown.bytes().all(known)
}

/// Passwords and signing keys pass here, so that plaintext stays on this machine unless told
/// otherwise. With TLS the certificate is always checked, where libpq's `require` would not.
fn ssl_mode(postgres: &Config, insecure: bool) -> Result<SslMode, Error> {
    let wanted = postgres.get_ssl_mode();
    let local = is_local(postgres);
    if wanted == SslMode::Disable && !local && !insecure {
        return Err(invalid(
            "it is not on this machine, and its URL turns TLS off: take sslmode=disable out, or allow \
             plaintext with --insecure",
        ));
    }
    Ok(if wanted != SslMode::Prefer || (insecure && !local) {
        wanted
    } else if local {
        // A certificate for loopback is nobody's: `prefer` would refuse it.
        SslMode::Disable
    } else {
        SslMode::Require
    })
}

fn is_local(postgres: &Config) -> bool {
    let addresses = postgres.get_hostaddrs();
    if !addresses.is_empty() {
        return addresses.iter().all(IpAddr::is_loopback);
    }
    postgres.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorCode::Internal, format!("no TLS: {e}")))?;
    Ok(match ca_file {
        Some(path) => builder.with_root_certificates(roots(path)?),
        None => {
            let verifier = Verifier::new(provider).map_err(|e| {
                invalid(format!(
                    "this machine's certificates cannot be used ({e}): install ca-certificates, or \
                     name a file of them"
                ))
            })?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
    }
    .with_no_client_auth())
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let unusable = |cause: String| {
        invalid(format!(
            "the file of certificates {} cannot be used: {cause}",
            path.display()
        ))
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| unusable(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| unusable(e.to_string()))?;
        roots
            .add(certificate)
            .map_err(|e| unusable(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// What a person has to change, if that is what it takes; else it is worth another try.
pub(super) fn cannot_open(place: &str, error: PoolError) -> Error {
    match error {
        PoolError::Backend(e) => cannot_use(place, &e),
        e @ (PoolError::Timeout(_)
        | PoolError::Closed
        | PoolError::NoRuntimeSpecified
        | PoolError::PostCreateHook(_)) => no_connection(e),
    }
}

/// The same, of a statement.
pub(super) fn cannot_use(place: &str, error: &tokio_postgres::Error) -> Error {
    let what_to_do = match error.code() {
        Some(code) if is_credentials(code) => "check user and password",
        Some(&SqlState::INVALID_CATALOG_NAME) => {
            "create the database, then run `dreamcatcher auth migrate --store …`"
        }
        Some(&SqlState::UNDEFINED_TABLE) => {
            "its tables are missing: run `dreamcatcher auth migrate --store …`"
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "grant the role what docs/operations.md lists, or name another role"
        }
        Some(_) => return failed(error),
        None if is_about_credentials(error) => "check user and password",
        None if is_about_tls(error) => {
            "give the server a certificate for this host name, or name the file of the authority that \
             signed it"
        }
        None => return failed(error),
    };
    invalid(format!("{place}: {}: {what_to_do}", cause(error)))
}

fn is_credentials(code: &SqlState) -> bool {
    *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
}

/// The library tells its kinds of error apart by their texts alone.
fn is_about_credentials(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.to_string().as_str(),
        "authentication error" | "invalid configuration"
    )
}

/// A server that has no TLS or another certificate, not one that went away in the middle.
fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>());
    error.to_string() == "error performing TLS handshake"
        && io.is_none_or(|e| e.kind() == std::io::ErrorKind::InvalidData)
}

pub(super) fn no_connection(error: PoolError) -> Error {
    match error {
        PoolError::Backend(e) => failed(&e),
        PoolError::Timeout(TimeoutType::Wait) => unavailable("all connections are in use"),
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
            unavailable("no connection in time")
        }
        PoolError::Closed => Error::new(ErrorCode::Internal, "the store is closed"),
        PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            Error::new(ErrorCode::Internal, "the pool of connections is misused")
        }
    }
}

/// The database's trouble passes, and so does what its operator can put right while this program runs;
/// a statement that it does not understand is ours.
pub(super) fn failed(error: &tokio_postgres::Error) -> Error {
    let Some(code) = error.code() else {
        return unavailable(cause(error));
    };
    let passes = code.code().get(..2).is_some_and(|class| {
        matches!(
            class,
            // Connection, transaction state (read-only), credentials, no such database, conflict,
            // resources, locks, intervention (shutdown, timeout), system.
            "08" | "25" | "28" | "3D" | "40" | "53" | "55" | "57" | "58"
        )
    });
    if passes || *code == SqlState::INSUFFICIENT_PRIVILEGE || *code == SqlState::UNDEFINED_TABLE {
        unavailable(cause(error))
    } else {
        Error::new(
            ErrorCode::Internal,
            format!("the store failed: {}", cause(error)),
        )
    }
}

/// Without the server's DETAIL, which quotes rows.
pub(super) fn cause(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    text
}

pub(super) fn invalid(message: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::InvalidConfig,
        format!("the store in Postgres cannot be used: {message}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine_unless_it_is_allowed() {
        let mode = |url: &str, insecure| {
            let config = PostgresConfig {
                insecure,
                ..PostgresConfig::new(url)
            };
            parse(&config)
                .and_then(|postgres| ssl_mode(&postgres, config.insecure))
                .ok()
        };
        for local in [
            "postgres://u:p@localhost/d",
            "postgres://u:p@127.0.0.1:1,[::1]:2/d",
            "postgresql://u@%2Frun%2Fpostgresql/d",
            "postgres://u@database.example/d?hostaddr=127.0.0.1",
        ] {
            assert_eq!(mode(local, false), Some(SslMode::Disable), "{local}");
        }
        for remote in [
            "postgres://u:p@database.example/d",
            "postgres://u:p@10.0.0.1/d",
            "postgres://u:p@localhost,10.0.0.1/d",
            "postgres://u@localhost/d?hostaddr=10.0.0.1",
        ] {
            let separator = if remote.contains('?') { '&' } else { '?' };
            let disabled = format!("{remote}{separator}sslmode=disable");
            assert_eq!(mode(remote, false), Some(SslMode::Require), "{remote}");
            assert_eq!(mode(&disabled, false), None, "{remote}");
            assert_eq!(mode(&disabled, true), Some(SslMode::Disable), "{remote}");
            assert_eq!(mode(remote, true), Some(SslMode::Prefer), "{remote}");
        }
    }

    #[test]
    fn a_url_that_is_wrong_is_refused_without_a_word_of_its_password() {
        for url in [
            "",
            "canary",
            "postgres:/u:canary@h/d",
            "postgres://u@h/d?canary=canary",
            "postgres://u:can/canary?canary=1",
            "postgres://u:canary@h:port/d",
            "postgres://u:canary@h/d?sslmode=canary",
            "postgres://",
            "postgres://u:%canary@/d",
            "postgres://u:p@canary@h/d",
            "postgres://u:p@h/canary@d",
            "postgres://u@h/d&password=canary",
            "host=h password=canary",
        ] {
            let refused = pool(&PostgresConfig::new(url), Purpose::Serve(PATIENCE)).err();
            let refused = refused.unwrap_or_else(|| panic!("{url} was accepted"));
            assert_eq!(refused.code(), ErrorCode::InvalidConfig, "{url}");
            assert!(!refused.message().contains("canary"), "{refused}");
        }
    }

    #[test]
    fn neither_url_nor_password_are_printed() {
        for (url, ends_with) in [
            ("postgres://u:canary@h/d", " h:5432/d"),
            ("postgres://u@h/d?password=canary", " h:5432/d"),
            ("postgres://u:p@canary@h/d", " postgres"),
            ("postgres://u:p@h/canary@d", " postgres"),
            ("postgres://u@h/d;password=canary", " postgres"),
        ] {
            let config = PostgresConfig {
                password: Some("canary".into()),
                ..PostgresConfig::new(url)
            };
            let shown = format!("{config:?} {}", place(&config));
            assert!(!shown.contains("canary"), "{shown}");
            assert!(shown.ends_with(ends_with), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_pool_of_no_or_too_many_connections_and_a_missing_ca_file_are_refused_by_name() {
        let config = PostgresConfig::new("postgres://u@database.example/d");
        let refused = |config: PostgresConfig| {
            pool(&config, Purpose::Serve(PATIENCE))
                .map_or_else(|e| e.to_string(), |_| String::new())
        };
        for connections_max in [0, CONNECTIONS_MAX + 1] {
            let config = PostgresConfig {
                connections_max,
                ..config.clone()
            };
            assert!(refused(config).contains("connections_max"));
        }
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|e| panic!("{e}"));
        for path in [Path::new("/no/such/file.pem"), file.path()] {
            let config = PostgresConfig {
                ca_file: Some(path.to_owned()),
                ..config.clone()
            };
            assert!(refused(config).contains(&path.display().to_string()));
        }
    }
}

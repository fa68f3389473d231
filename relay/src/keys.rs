//! Where the keys come from that tokens are checked with.
//!
//! ```text
//!  auth: JWKS ──https, each 300 s, and when a token names an unknown key──▶ ┌─────────┐
//!     └──▶ directory ──when the URL fails─────────────────────────────────▶ │ follow  │ ──▶ every node
//!                                                                           └─────────┘
//! ```
//!
//! The last keys are good for a day without auth; then they are dropped, and nobody can sign in.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dreamcatcher_directory::{Directory, Reply, Request, redacted};
use dreamcatcher_proto::token::{JWKS_BYTES_MAX, KeySet};
use dreamcatcher_proto::{Error, ErrorCode};
use reqwest::{Url, redirect};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::outage::Outage;

/// How often the keys are read: auth shows a new key for longer before it signs with it.
const READ_EVERY: Duration = Duration::from_secs(300);
/// How often a token of an unknown key has them read at once, whatever clients send.
const READ_FOR_UNKNOWN_EVERY: Duration = Duration::from_secs(30);
/// After a failure, while there are keys to go on with.
const RETRY_EVERY: Duration = Duration::from_secs(15);
/// And while there are none.
const RETRY_FIRST_EVERY: Duration = Duration::from_secs(1);
/// How long one read may take.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// How long keys are good that could not be read again.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Redirects within one host that are followed.
const REDIRECTS_MAX: usize = 3;
/// Largest CA file: a few hundred certificates.
const CA_FILE_BYTES_MAX: u64 = 1_048_576;

/// Where auth publishes its keys.
#[derive(Clone, Debug)]
pub struct JwksConfig {
    /// https://, or http:// of this machine.
    pub url: String,
    /// PEM: the only CAs to trust; without it those of the system.
    pub ca_file: Option<PathBuf>,
    /// Take http:// of other machines too: whoever is on the way can then sign tokens.
    pub insecure: bool,
}

/// Where the keys come from. Clones are the same source; a followed one is read until the last is gone.
#[derive(Clone, Debug)]
pub struct KeySource {
    pub(crate) keys: watch::Receiver<Arc<KeySet>>,
    following: Option<Arc<Following>>,
    pub(crate) figures: Arc<KeyFigures>,
}

#[derive(Debug)]
struct Following {
    wanted: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of reading the keys.
#[derive(Debug, Default)]
pub(crate) struct KeyFigures {
    from_url: AtomicU64,
    from_directory: AtomicU64,
    failed: AtomicU64,
    good: Mutex<Option<Instant>>,
    trouble: Mutex<Option<String>>,
}

impl KeyFigures {
    /// Reads by outcome.
    pub(crate) fn reads(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("url", of(&self.from_url)),
            ("directory", of(&self.from_directory)),
            ("failed", of(&self.failed)),
        ]
    }

    /// Since the present keys were read; zero for keys that never change.
    pub(crate) fn age(&self) -> Duration {
        let good = *self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Why the last read failed, if it did.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read(&self, count: &AtomicU64, trouble: Option<String>) {
        count.fetch_add(1, Ordering::Relaxed);
        if trouble.is_none() {
            *self.good.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl From<Arc<KeySet>> for KeySource {
    /// The same keys for good.
    fn from(keys: Arc<KeySet>) -> Self {
        watch::channel(keys).1.into()
    }
}

impl From<watch::Receiver<Arc<KeySet>>> for KeySource {
    /// Keys that somebody else reads again when they change.
    fn from(keys: watch::Receiver<Arc<KeySet>>) -> Self {
        Self {
            keys,
            following: None,
            figures: Arc::default(),
        }
    }
}

impl KeySource {
    /// Keys that are read from auth, now and whenever that is due; where it cannot be reached, from
    /// the directory. None are there until the first read. Must be called within a tokio runtime.
    pub fn follow(config: JwksConfig, directory: Arc<dyn Directory>) -> Result<Self, Error> {
        let url = config.checked_url()?;
        let client = client(&url, config.ca_file.as_deref())?;
        let (sender, keys) = watch::channel(Arc::default());
        let wanted = Arc::new(Notify::new());
        let figures = Arc::new(KeyFigures::default());
        let follower = Follower {
            client,
            shown: redacted(url.as_str()),
            url,
            directory,
            keys: sender,
            wanted: Arc::clone(&wanted),
            figures: Arc::clone(&figures),
            good: None,
            read_for_unknown: None,
            away: Outage::default(),
            nowhere: Outage::default(),
        };
        let task = tokio::spawn(follower.run());
        Ok(Self {
            keys,
            following: Some(Arc::new(Following { wanted, task })),
            figures,
        })
    }

    /// Who is told that a token names an unknown key, if that helps.
    pub(crate) fn wanted(&self) -> Option<Arc<Notify>> {
        let following = self.following.as_ref();
        following.map(|following| Arc::clone(&following.wanted))
    }
}

impl JwksConfig {
    fn checked_url(&self) -> Result<Url, Error> {
        let url = Url::parse(&self.url)
            .map_err(|e| invalid(format!("the JWKS URL does not parse: {e}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            let message = "the JWKS URL must not have a user or password in it: keys are public";
            return Err(invalid(message.to_owned()));
        }
        let shown = redacted(&self.url);
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_loopback(&url) || self.insecure => Ok(url),
            "http" => Err(invalid(format!(
                "the JWKS URL {shown} is http:// of another machine, so that whoever is on the way \
                 could sign tokens: use https://, or pass --insecure"
            ))),
            other => Err(invalid(format!(
                "the JWKS URL {shown} has the scheme {other:?}; it must be https or http"
            ))),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// A client that needs no process-wide TLS provider.
fn client(url: &Url, ca_file: Option<&Path>) -> Result<reqwest::Client, Error> {
    let failed = |e: &dyn std::fmt::Display| invalid(format!("no TLS for the JWKS URL: {e}"));
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?;
    let tls = match ca_file {
        Some(file) => tls.with_root_certificates(cas(file)?),
        None if url.scheme() == "https" => tls.with_platform_verifier().map_err(|e| failed(&e))?,
        None => tls.with_root_certificates(rustls::RootCertStore::empty()),
    };
    let same_host = redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first();
        let stays = first.is_some_and(|first| {
            first.origin() == attempt.url().origin() && attempt.previous().len() <= REDIRECTS_MAX
        });
        if stays {
            attempt.follow()
        } else {
            attempt.stop()
        }
    });
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.with_no_client_auth())
        .redirect(same_host)
        .timeout(READ_WITHIN)
        .connect_timeout(READ_WITHIN);
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| failed(&e))
}

fn cas(file: &Path) -> Result<rustls::RootCertStore, Error> {
    let shown = file.display();
    let unusable = |cause: String| invalid(format!("CA file {shown}: {cause}"));
    let opened = std::fs::File::open(file).map_err(|e| unusable(e.to_string()))?;
    let size = opened
        .metadata()
        .map_err(|e| unusable(e.to_string()))?
        .len();
    if size > CA_FILE_BYTES_MAX {
        let message = format!("{size} bytes are over the limit of {CA_FILE_BYTES_MAX}");
        return Err(unusable(message));
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(opened)) {
        let certificate = certificate.map_err(|e| unusable(e.to_string()))?;
        roots
            .add(certificate)
            .map_err(|e| unusable(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it has no certificate (PEM) in it".to_owned()));
    }
    Ok(roots)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidConfig, message)
}

#[derive(Debug)]
struct Follower {
    client: reqwest::Client,
    url: Url,
    /// The URL as it may be logged.
    shown: String,
    directory: Arc<dyn Directory>,
    keys: watch::Sender<Arc<KeySet>>,
    wanted: Arc<Notify>,
    figures: Arc<KeyFigures>,
    /// When the present keys were read.
    good: Option<Instant>,
    read_for_unknown: Option<Instant>,
    /// The URL cannot be read.
    away: Outage,
    /// Neither can the directory.
    nowhere: Outage,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let wait = self.read().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = wanted(&self.wanted, self.read_for_unknown) => {
                    self.read_for_unknown = Some(Instant::now());
                }
            }
        }
    }

    /// Reads the keys once. Says when to read again.
    async fn read(&mut self) -> Duration {
        let over_http = match self.read_url().await {
            Ok(keys) => {
                let now = std::time::Instant::now();
                self.nowhere.works(now);
                if let Some(away) = self.away.works(now) {
                    let (url, away_s) = (&self.shown, away.as_secs());
                    tracing::info!(url, away_s, "token keys are read from their URL again");
                }
                self.take(keys, &self.figures.from_url, None);
                return READ_EVERY;
            }
            Err(cause) => cause,
        };
        match self.read_directory().await {
            Ok(keys) => {
                self.tell_directory(&over_http);
                self.take(keys, &self.figures.from_directory, None);
                RETRY_EVERY
            }
            Err(cause) => {
                let cause = format!("{over_http}; {cause}");
                self.tell_nowhere(&cause);
                self.figures.read(&self.figures.failed, Some(cause));
                self.drop_old();
                if self.good.is_some() {
                    RETRY_EVERY
                } else {
                    RETRY_FIRST_EVERY
                }
            }
        }
    }

    fn tell_directory(&mut self, cause: &str) {
        let now = std::time::Instant::now();
        let line = self.away.fails(now);
        let url = &self.shown;
        if let Some(nowhere) = self.nowhere.works(now) {
            let away_s = nowhere.as_secs();
            tracing::info!(
                url,
                cause,
                away_s,
                "token keys are there again: from the directory"
            );
        } else if let Some(line) = line {
            let away_s = line.lasted_s();
            tracing::warn!(url, cause, away_s, "token keys taken from the directory");
        }
    }

    fn tell_nowhere(&mut self, cause: &str) {
        let now = std::time::Instant::now();
        // The line below says that as well.
        let _ = self.away.fails(now);
        if let Some(line) = self.nowhere.fails(now) {
            let (url, away_s) = (&self.shown, line.lasted_s());
            tracing::warn!(url, cause, away_s, "token keys not read; trying again");
        }
    }

    fn take(&self, keys: KeySet, count: &AtomicU64, trouble: Option<String>) {
        self.figures.read(count, trouble);
        // Told even if nothing changed: whose key is still unknown then is refused.
        self.keys.send_replace(Arc::new(keys));
    }

    fn drop_old(&mut self) {
        if self.good.take_if(|at| at.elapsed() >= KEPT_FOR).is_some() {
            tracing::error!(
                url = self.shown,
                "the token keys could not be read for a day and are dropped: nobody can sign in \
                 until auth or the directory answers"
            );
            self.keys.send_replace(Arc::default());
        }
    }

    async fn read_url(&mut self) -> Result<KeySet, String> {
        let answer = async {
            let mut response = self
                .client
                .get(self.url.clone())
                .send()
                .await
                .map_err(told)?;
            if !response.status().is_success() {
                return Err(format!("it answered {}", response.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(told)? {
                if body.len() + chunk.len() > JWKS_BYTES_MAX {
                    return Err(format!(
                        "its answer is over the limit of {JWKS_BYTES_MAX} bytes"
                    ));
                }
                body.extend_from_slice(&chunk);
            }
            String::from_utf8(body).map_err(|_| "its answer is not UTF-8".to_owned())
        };
        let document = tokio::time::timeout(READ_WITHIN, answer)
            .await
            .map_err(|_| format!("no answer within {READ_WITHIN:?}"))??;
        let keys = KeySet::from_jwks(&document).map_err(|e| e.message().to_owned())?;
        self.good = Some(Instant::now());
        Ok(keys)
    }

    async fn read_directory(&mut self) -> Result<KeySet, String> {
        let reply = tokio::time::timeout(READ_WITHIN, self.directory.call(Request::Keys)).await;
        let document = match reply {
            Ok(Ok(Reply::Keys(Some(document)))) => document,
            Ok(Ok(_)) => return Err("the directory has no keys".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the directory did not answer".to_owned()),
        };
        let keys = KeySet::from_jwks(&document).map_err(|e| e.message().to_owned())?;
        self.good = Some(Instant::now());
        Ok(keys)
    }
}

/// Comes back when a token names an unknown key, and that has not been looked into lately.
async fn wanted(wanted: &Notify, last: Option<Instant>) {
    wanted.notified().await;
    if let Some(last) = last {
        tokio::time::sleep_until(last + READ_FOR_UNKNOWN_EVERY).await;
    }
}

/// The innermost cause as well: "error sending request" alone helps nobody.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

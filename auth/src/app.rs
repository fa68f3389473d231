//! What all requests share, whether or not the store is there yet.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dreamcatcher_proto::token::Claims;
use dreamcatcher_proto::{Error, ErrorCode};

use crate::Config;
use crate::hash::{Hasher, Place};
use crate::keys::{Keyring, SigningKeys};
use crate::metrics::{self, Metrics};
use crate::rate::Limiter;
use crate::refusal::Refusal;
use crate::relays::Relays;
use crate::store::{self, AnyStore, Store, StoreConfig};

/// How long an answer of the store stands for another: whoever asks for readiness costs it at most
/// one request in that time.
const ANSWER_COUNTS: Duration = Duration::from_secs(1);
/// How often its absence is logged, should it come and go.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The service, without its sockets and tasks.
pub(crate) struct App {
    store_config: StoreConfig,
    /// Empty until the store was reached for the first time.
    store: OnceLock<AnyStore>,
    /// Why the store could not be opened.
    unopened: Mutex<Option<Error>>,
    presence: Mutex<Presence>,
    pub(crate) keyring: Keyring,
    pub(crate) key_rotate_every: Duration,
    pub(crate) relays: Relays,
    pub(crate) metrics: Metrics,
    pub(crate) trusted_proxies: Vec<IpAddr>,
    pub(crate) request_timeout: Duration,
    hasher: Hasher,
    limiter: Mutex<Limiter>,
}

impl App {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            store_config: config.store.clone(),
            store: OnceLock::new(),
            unopened: Mutex::default(),
            presence: Mutex::default(),
            keyring: Keyring::new(),
            key_rotate_every: config.key_rotate_every,
            relays: Relays::follow(Arc::clone(&config.directory)),
            metrics: Metrics::new()?,
            trusted_proxies: config
                .trusted_proxies
                .iter()
                .map(IpAddr::to_canonical)
                .collect(),
            request_timeout: config.request_timeout,
            hasher: Hasher::new()?,
            limiter: Mutex::new(Limiter::new(config.guest_rate, config.guest_rate_loopback)),
        }))
    }

    /// Asks the store, which answers within a second or is not there.
    pub(crate) async fn ask<'a, T, F>(
        &'a self,
        call: impl FnOnce(&'a AnyStore) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + 'a,
    {
        let answer = match self.store.get() {
            Some(store) => call(store).await,
            None => Err(self.unopened()),
        };
        self.note(answer.as_ref().err());
        answer
    }

    /// Reaches the store if nobody did yet, and goes on with its keys: rotated, if `rotate_before`
    /// says that they are due.
    pub(crate) async fn look_at_keys(
        &self,
        rotate_before_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> Result<(), Error> {
        if self.store.get().is_none() {
            match store::open(&self.store_config).await {
                // Should two have opened it at once, the second one closes by itself.
                Ok(store) => drop(self.store.set(store)),
                Err(error) => {
                    *lock(&self.unopened) = Some(error.clone());
                    self.note(Some(&self.unopened()));
                    return Err(error);
                }
            }
        }
        let records = self
            .ask(|store| store.signing_keys(rotate_before_unix_s, now_unix_s))
            .await?;
        if self.keyring.replace(&records)? {
            self.metrics.count(metrics::KEY_CHANGES);
            tracing::info!(
                current = records.current.key_id,
                since_unix_s = records.current_since_unix_s,
                "signing keys are in force"
            );
        }
        Ok(())
    }

    /// The keys; without them nobody can sign in.
    pub(crate) fn keys(&self) -> Result<Arc<SigningKeys>, Error> {
        self.keyring.now().ok_or_else(|| {
            Error::new(
                ErrorCode::StoreUnavailable,
                "the signing keys were not read yet since the start",
            )
        })
    }

    pub(crate) fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, Error> {
        self.keys()?.verify(token, now_unix_s)
    }

    /// Takes one of the requests that `address` may make without a token.
    pub(crate) fn take(&self, address: IpAddr) -> Result<(), Refusal> {
        lock(&self.limiter)
            .take(address, Instant::now())
            .map_err(Refusal::rate_limited)
    }

    /// A place among those whose passwords are hashed.
    pub(crate) fn hashing_place(&self) -> Result<Place<'_>, Refusal> {
        self.hasher.place().ok_or_else(Refusal::hashing_busy)
    }

    /// The metrics, as of now.
    pub(crate) fn render_metrics(&self) -> String {
        self.metrics
            .gauge(metrics::HASH_QUEUE, self.hasher.queued());
        self.metrics.reached(metrics::HASHES, self.hasher.hashes());
        self.metrics.render()
    }

    pub(crate) async fn close(&self) {
        if let Some(store) = self.store.get() {
            store.close().await;
        }
    }

    /// Why there is no store yet. What a person has to change is no fault of who signs in: it can
    /// be mended without a restart.
    fn unopened(&self) -> Error {
        let cause = lock(&self.unopened);
        let cause = cause.as_ref().map(Error::message);
        Error::new(
            ErrorCode::StoreUnavailable,
            cause
                .unwrap_or("the user records were not reached yet")
                .to_owned(),
        )
    }

    /// Whether the store has answered within [`ANSWER_COUNTS`], and nothing has failed since.
    pub(crate) fn store_answered_just_now(&self) -> bool {
        let answered = lock(&self.presence).answered_at;
        answered.is_some_and(|at| at.elapsed() < ANSWER_COUNTS)
    }

    /// Notes whether the store answered, and logs that it went away or came back.
    fn note(&self, error: Option<&Error>) {
        let absent = error.filter(|error| error.code() == ErrorCode::StoreUnavailable);
        let mut presence = lock(&self.presence);
        let Some(error) = absent else {
            presence.answered_at = Some(Instant::now());
            if std::mem::take(&mut presence.away) {
                tracing::info!("the store answers again");
            }
            return;
        };
        self.metrics.count(metrics::STORE_ERRORS);
        presence.answered_at = None;
        let said = presence.said_at.is_some_and(|at| at.elapsed() < SAY_EVERY);
        if !presence.away && !said {
            presence.away = true;
            presence.said_at = Some(Instant::now());
            tracing::error!(%error, "the store does not answer");
        }
    }
}

/// How the store was met last.
#[derive(Debug, Default)]
struct Presence {
    answered_at: Option<Instant>,
    /// Whether its absence was logged, and its return was not.
    away: bool,
    said_at: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("store_config", &self.store_config)
            .field("relays", &self.relays)
            .finish_non_exhaustive()
    }
}

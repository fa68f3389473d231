//! Passwords and their Argon2id hashes, off the threads that serve requests.
//!
//! ```text
//!  login ──Place (queue)──▶ one hash per core at a time ──▶ right, wrong
//!              └─full: try again later
//! ```
//!
//! A hash takes a core for tens of milliseconds and 19 MiB, on purpose. More at a time than there are
//! cores would only make each slower, and a queue without end would answer nobody in time.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use dreamcatcher_proto::{Error, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::account::{Password, PasswordHash};
use crate::keys;

/// What OWASP's cheat sheet on password storage names first for Argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

/// Requests that wait for a core. At 20–50 ms a hash the last one waits a second or two.
pub(crate) const QUEUE_MAX: usize = 64;
/// When to come back to a full queue: half of it has passed by then.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What hashes passwords and compares them.
#[derive(Debug)]
pub(crate) struct Hasher {
    params: Params,
    /// What a password is compared with where there is no account: nothing fits it.
    decoy: PasswordHash,
    cores: Arc<Semaphore>,
    /// Running and waiting.
    places: Arc<Semaphore>,
    places_max: usize,
    hashes: AtomicU64,
}

/// A place in the queue. Whoever has one is served.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    hasher: &'a Hasher,
    _permit: OwnedSemaphorePermit,
}

/// How a password compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wrong,
    Right,
    /// Right, but hashed with other parameters than today's.
    Outdated,
}

impl Hasher {
    pub(crate) fn new() -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(OUTPUT_BYTES));
        Self::with(params.map_err(failed)?, cores, QUEUE_MAX)
    }

    fn with(params: Params, cores: usize, queue_max: usize) -> Result<Self, Error> {
        let places_max = cores + queue_max;
        Ok(Self {
            decoy: decoy(&params)?,
            params,
            cores: Arc::new(Semaphore::new(cores)),
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            hashes: AtomicU64::new(0),
        })
    }

    /// A place in the queue, unless it is full.
    pub(crate) fn place(&self) -> Option<Place<'_>> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place {
            hasher: self,
            _permit: permit,
        })
    }

    /// Places taken: passwords that are hashed or wait for it.
    pub(crate) fn queued(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// Hashes made since the start, those for comparing included.
    pub(crate) fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    /// Runs `work` once a core is free. It is finished even if the caller gives up, and keeps the
    /// core until then.
    async fn on_core<T: Send + 'static>(
        &self,
        work: impl FnOnce(Argon2<'static>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let core = self.cores.clone().acquire_owned().await.map_err(failed)?;
        self.hashes.fetch_add(1, Ordering::Relaxed);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        let running = tokio::task::spawn_blocking(move || {
            let result = work(argon2);
            drop(core);
            result
        });
        running.await.map_err(failed)
    }
}

impl Place<'_> {
    pub(crate) async fn hash(&self, password: &Password) -> Result<PasswordHash, Error> {
        let password = password.clone();
        let hash = self.hasher.on_core(move |argon2| {
            let hash: phc::PasswordHash = argon2.hash_password(password.as_bytes())?;
            Ok::<_, argon2::password_hash::Error>(hash.to_string())
        });
        hash.await?.map_err(failed)?.try_into()
    }

    /// Compares `password` with `hash`, or with one that nothing fits: a missing account takes as
    /// long as a wrong password.
    pub(crate) async fn verify(
        &self,
        password: &Password,
        hash: Option<PasswordHash>,
    ) -> Result<Verdict, Error> {
        let password = password.clone();
        let hash = hash.as_ref().unwrap_or(&self.hasher.decoy);
        let hash = phc::PasswordHash::new(hash.as_str()).map_err(failed)?;
        let today = self.hasher.params.clone();
        let verdict = self.hasher.on_core(move |argon2| {
            match argon2.verify_password(password.as_bytes(), &hash) {
                Ok(()) if is_of(&hash, &today) => Ok(Verdict::Right),
                Ok(()) => Ok(Verdict::Outdated),
                Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Verdict::Wrong),
                Err(e) => Err(failed(e)),
            }
        });
        verdict.await?
    }
}

fn is_of(hash: &phc::PasswordHash, params: &Params) -> bool {
    hash.algorithm.as_str() == Algorithm::Argon2id.as_str()
        && hash.version == Some(Version::V0x13.into())
        && Params::try_from(hash).is_ok_and(|its| {
            (its.m_cost(), its.t_cost(), its.p_cost())
                == (params.m_cost(), params.t_cost(), params.p_cost())
        })
}

/// A hash of no known password, with today's parameters.
fn decoy(params: &Params) -> Result<PasswordHash, Error> {
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost(),
        BASE64_STANDARD_NO_PAD.encode(keys::random::<SALT_BYTES>()?),
        BASE64_STANDARD_NO_PAD.encode(keys::random::<OUTPUT_BYTES>()?),
    )
    .try_into()
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("hashing a password failed: {error}"),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_alone_and_is_stored_as_argon2id() {
        let hasher = Hasher::new().unwrap();
        let place = hasher.place().unwrap();
        let hash = place.hash(&password("correct horse")).await.unwrap();
        assert!(
            hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            hash.as_str()
        );
        let other = place.hash(&password("correct horse")).await.unwrap();
        assert_ne!(hash, other, "each has its own salt");
        for (text, verdict) in [
            ("correct horse", Verdict::Right),
            ("correct horsE", Verdict::Wrong),
            ("", Verdict::Wrong),
        ] {
            let found = place.verify(&password(text), Some(hash.clone())).await;
            assert_eq!(found, Ok(verdict), "{text:?}");
        }
    }

    #[tokio::test]
    async fn without_an_account_a_password_is_hashed_all_the_same() {
        let hasher = small(8);
        let place = hasher.place().unwrap();
        let verdict = place.verify(&password("correct horse"), None).await;
        assert_eq!(verdict, Ok(Verdict::Wrong));
        assert_eq!(hasher.hashes(), 1);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_right_and_outdated() {
        let before = small(16);
        let place = before.place().unwrap();
        let old = place.hash(&password("correct horse")).await.unwrap();
        let today = small(8);
        let place = today.place().unwrap();
        for (text, verdict) in [
            ("correct horse", Verdict::Outdated),
            ("wrong horse", Verdict::Wrong),
        ] {
            let found = place.verify(&password(text), Some(old.clone())).await;
            assert_eq!(found, Ok(verdict), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_place_that_is_given_back_is_taken_again() {
        let hasher = small(8);
        let places: Vec<_> = (0..3).map_while(|_| hasher.place()).collect();
        assert_eq!(places.len(), 3, "one core and a queue of two");
        assert!(hasher.place().is_none());
        assert_eq!(hasher.queued(), 3);
        drop(places);
        assert_eq!(hasher.queued(), 0);
        assert!(hasher.place().is_some());
    }

    fn small(memory_kib: u32) -> Hasher {
        let params = Params::new(memory_kib, 1, 1, Some(OUTPUT_BYTES)).unwrap();
        Hasher::with(params, 1, 2).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::claimed(text.to_owned()).unwrap()
    }
}

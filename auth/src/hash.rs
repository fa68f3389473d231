//! Passwords and their Argon2id hashes, off the threads that serve requests.
//!
//! ```text
//!  login ──Place (queue)──▶ one hash per core at a time ──▶ right, wrong
//!              └─full: try again later   └──its memory, used again by the next
//! ```
//!
//! A hash takes a core for tens of milliseconds and 19 MiB, on purpose. More at a time than there are
//! cores would only make each slower, and a queue without end would answer nobody in time.
//!
//! The memory is kept from one hash to the next, as much as there are cores: given back to the
//! allocator it would stay in the heap of whichever thread had it, once for each thread.

use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::{self, Output, ParamsString, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
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

/// The dearest hash of another day that is compared with: three times today's memory, and passes that
/// take a second. A record that asks for more was not written by any version of this program.
const STORED_MEMORY_KIB_MAX: u32 = 65_536;
const STORED_PASSES_MAX: u32 = 16;
const STORED_LANES_MAX: u32 = 16;

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
    memory: Memory,
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
            memory: Memory::of(&params),
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

    /// Hashes once a core is free. It is finished even if the caller gives up, and keeps the core
    /// until then.
    async fn digest(
        &self,
        argon2: Argon2<'static>,
        password: Password,
        salt: Salt,
    ) -> Result<Output, Error> {
        let core = self.cores.clone().acquire_owned().await.map_err(failed)?;
        self.hashes.fetch_add(1, Ordering::Relaxed);
        let memory = self.memory.clone();
        let running = tokio::task::spawn_blocking(move || {
            let mut blocks = memory.take(argon2.params().block_count());
            let output = digest(&argon2, &password, &salt, &mut blocks);
            memory.give_back(blocks);
            // Only now, so that whoever has the core next finds the memory.
            drop(core);
            output
        });
        running.await.map_err(failed)?
    }
}

impl Place<'_> {
    pub(crate) async fn hash(&self, password: &Password) -> Result<PasswordHash, Error> {
        let params = &self.hasher.params;
        let salt = Salt::new(&keys::random::<SALT_BYTES>()?).map_err(failed)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let output = self.hasher.digest(argon2, password.clone(), salt).await?;
        phc_string(params, salt, output)
    }

    /// Compares `password` with `hash`, or with one that nothing fits: a missing account takes as
    /// long as a wrong password.
    pub(crate) async fn verify(
        &self,
        password: &Password,
        hash: Option<PasswordHash>,
    ) -> Result<Verdict, Error> {
        let hash = hash.as_ref().unwrap_or(&self.hasher.decoy);
        let hash = phc::PasswordHash::new(hash.as_str()).map_err(failed)?;
        let (Some(salt), Some(kept)) = (hash.salt, hash.hash) else {
            return Err(failed("a stored hash has no salt or no output"));
        };
        let argon2 = stored(&hash)?;
        let output = self.hasher.digest(argon2, password.clone(), salt).await?;
        // In constant time, says the documentation of `Output`.
        Ok(if output != kept {
            Verdict::Wrong
        } else if is_of(&hash, &self.hasher.params) {
            Verdict::Right
        } else {
            Verdict::Outdated
        })
    }
}

/// The memory of the hashes that are made: a buffer for each that runs, and so never more than there
/// are cores.
///
/// What is in one between two hashes is not wiped: it came from a password and salt by the same work
/// that a guess takes, the next hash overwrites it, and whoever reads this process's memory reads the
/// passwords themselves as they come.
#[derive(Clone)]
struct Memory {
    /// Blocks of a hash with today's parameters.
    blocks: usize,
    idle: Arc<Mutex<Vec<Vec<Block>>>>,
}

impl Memory {
    fn of(params: &Params) -> Self {
        Self {
            blocks: params.block_count(),
            idle: Arc::default(),
        }
    }

    /// At least this many blocks: a buffer that is idle, or a new one.
    fn take(&self, blocks: usize) -> Vec<Block> {
        let mut buffer = self.idle().pop().unwrap_or_default();
        if buffer.len() < blocks {
            buffer.resize(blocks, Block::new());
        }
        buffer
    }

    /// Keeps it for the next one, unless a hash of another day has made it larger than today's are.
    fn give_back(&self, buffer: Vec<Block>) {
        if buffer.len() <= self.blocks {
            self.idle().push(buffer);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("blocks", &self.blocks)
            .field("idle", &self.idle().len())
            .finish()
    }
}

fn digest(
    argon2: &Argon2<'_>,
    password: &Password,
    salt: &Salt,
    blocks: &mut [Block],
) -> Result<Output, Error> {
    let bytes = argon2.params().output_len().unwrap_or(OUTPUT_BYTES);
    let mut output = [0; Output::MAX_LENGTH];
    let output = output
        .get_mut(..bytes)
        .ok_or_else(|| failed(format_args!("an output of {bytes} bytes is none of ours")))?;
    argon2
        .hash_password_into_with_memory(password.as_bytes(), salt, output, blocks)
        .map_err(failed)?;
    Output::new(output).map_err(failed)
}

/// What a stored hash was made with, if that is something to spend a core on.
fn stored(hash: &phc::PasswordHash) -> Result<Argon2<'static>, Error> {
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(failed)?;
    let version = hash.version.map(Version::try_from).transpose();
    // The version that strings without one are of.
    let version = version.map_err(failed)?.unwrap_or(Version::V0x10);
    let params = Params::try_from(hash).map_err(failed)?;
    for (name, value, max) in [
        ("m", params.m_cost(), STORED_MEMORY_KIB_MAX),
        ("t", params.t_cost(), STORED_PASSES_MAX),
        ("p", params.p_cost(), STORED_LANES_MAX),
    ] {
        if value > max {
            return Err(failed(format_args!(
                "a stored hash has {name}={value}: {max} is the most that is compared with"
            )));
        }
    }
    Ok(Argon2::new(algorithm, version, params))
}

fn is_of(hash: &phc::PasswordHash, params: &Params) -> bool {
    hash.algorithm == ARGON2ID_IDENT
        && hash.version == Some(Version::V0x13.into())
        && Params::try_from(hash).is_ok_and(|its| {
            (its.m_cost(), its.t_cost(), its.p_cost())
                == (params.m_cost(), params.t_cost(), params.p_cost())
        })
}

/// A hash of no known password, with today's parameters.
fn decoy(params: &Params) -> Result<PasswordHash, Error> {
    let salt = Salt::new(&keys::random::<SALT_BYTES>()?).map_err(failed)?;
    let output = Output::new(&keys::random::<OUTPUT_BYTES>()?).map_err(failed)?;
    phc_string(params, salt, output)
}

/// As the store keeps it: of Argon2id, version 19.
fn phc_string(params: &Params, salt: Salt, output: Output) -> Result<PasswordHash, Error> {
    phc::PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(failed)?,
        salt: Some(salt),
        hash: Some(output),
    }
    .to_string()
    .try_into()
}

fn failed(error: impl fmt::Display) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("hashing a password failed: {error}"),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use tokio::task::JoinSet;

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

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn hashes_share_as_many_buffers_as_there_are_cores() {
        let params = Params::new(64, 1, 1, Some(OUTPUT_BYTES)).unwrap();
        let hasher = Arc::new(Hasher::with(params, 3, 64).unwrap());
        assert_eq!(hasher.memory.idle().len(), 0, "made when it is needed");
        let mut hashing = JoinSet::new();
        for number in 0..60 {
            let hasher = Arc::clone(&hasher);
            hashing.spawn(async move {
                let place = hasher.place().unwrap();
                let password = password(&format!("correct horse {number}"));
                let hash = place.hash(&password).await.unwrap();
                assert_eq!(
                    place.verify(&password, Some(hash)).await,
                    Ok(Verdict::Right)
                );
            });
        }
        while let Some(hashed) = hashing.join_next().await {
            hashed.unwrap();
        }
        assert_eq!(hasher.hashes(), 120);
        let idle = hasher.memory.idle();
        assert!((1..=3).contains(&idle.len()), "{} buffers", idle.len());
        assert!(idle.iter().all(|buffer| buffer.len() == 64));
    }

    #[tokio::test]
    async fn a_dearer_hash_of_another_day_leaves_no_larger_buffer_behind() {
        let before = small(256);
        let place = before.place().unwrap();
        let old = place.hash(&password("correct horse")).await.unwrap();
        let today = small(8);
        let place = today.place().unwrap();
        let verdict = place.verify(&password("correct horse"), Some(old)).await;
        assert_eq!(verdict, Ok(Verdict::Outdated));
        assert_eq!(today.memory.idle().len(), 0);
        place.hash(&password("correct horse")).await.unwrap();
        let idle = today.memory.idle();
        assert!(idle.iter().all(|buffer| buffer.len() == 8), "{idle:?}");
    }

    #[tokio::test]
    async fn a_stored_hash_that_asks_for_more_than_any_of_ours_is_garbage() {
        let hasher = small(8);
        let place = hasher.place().unwrap();
        let good = place.hash(&password("correct horse")).await.unwrap();
        for (costs, says) in [
            ("m=65537,t=1,p=1", "m=65537"),
            ("m=4294967295,t=1,p=1", "m=4294967295"),
            ("m=8,t=17,p=1", "t=17"),
            ("m=65536,t=1,p=17", "p=17"),
        ] {
            let absurd = good.as_str().replace("m=8,t=1,p=1", costs);
            let absurd = PasswordHash::try_from(absurd).unwrap();
            let refused = place.verify(&password("x"), Some(absurd)).await;
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), ErrorCode::Internal);
            assert!(refused.message().contains(says), "{refused}");
        }
        assert_eq!(hasher.hashes(), 1, "no core was spent on them");
    }

    /// From test.c of the reference implementation.
    #[tokio::test]
    async fn a_hash_that_another_implementation_made_is_compared_with() {
        let theirs = "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ\
                      $bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";
        let theirs = PasswordHash::try_from(theirs.to_owned()).unwrap();
        let hasher = small(8);
        let place = hasher.place().unwrap();
        let verdict = place.verify(&password("password"), Some(theirs)).await;
        assert_eq!(verdict, Ok(Verdict::Outdated));
    }

    fn small(memory_kib: u32) -> Hasher {
        let params = Params::new(memory_kib, 1, 1, Some(OUTPUT_BYTES)).unwrap();
        Hasher::with(params, 1, 2).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::claimed(text.to_owned()).unwrap()
    }
}

//! The signing keys: the current one, the next, published beforehand so that a relay knows it before
//! the first token that it signed, and the previous one, whose tokens are still about.
//!
//! ```text
//!  next ──▶ current ──▶ previous ──▶ gone
//!     └─ all three in the JWKS document
//! ```

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dreamcatcher_proto::token::{Claims, DisplayName, KeySet, Signer};
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use tokio::sync::watch;

use crate::store::SigningKeyRecords;

/// A private key as the store keeps it.
#[derive(Clone)]
pub(crate) struct KeyRecord {
    pub(crate) key_id: String,
    pub(crate) seed: [u8; 32],
}

impl KeyRecord {
    pub(crate) fn generate() -> Result<Self, Error> {
        Ok(Self {
            key_id: random_text::<9>()?,
            seed: random()?,
        })
    }
}

impl std::fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRecord")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// What signs tokens, and what they are checked with.
#[derive(Debug)]
pub(crate) struct SigningKeys {
    current: Signer,
    jwks: String,
    verifying: Arc<KeySet>,
}

impl SigningKeys {
    fn new(records: &SigningKeyRecords) -> Result<Self, Error> {
        let signer = |key: &KeyRecord| Signer::from_seed(&key.key_id, &key.seed);
        let previous = records.previous.as_ref().map(signer).transpose()?;
        let (current, next) = (signer(&records.current)?, signer(&records.next)?);
        let jwks = Signer::jwks([&current, &next].into_iter().chain(&previous))?;
        Ok(Self {
            verifying: Arc::new(KeySet::from_jwks(&jwks)?),
            current,
            jwks,
        })
    }

    /// An access token for `user`, from `now_unix_s` on.
    pub(crate) fn issue(
        &self,
        user: UserId,
        name: DisplayName,
        now_unix_s: u64,
    ) -> Result<String, Error> {
        self.current
            .sign(&Claims::new(user, name, random_text::<16>()?, now_unix_s))
    }

    /// Whose access token this is.
    pub(crate) fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, Error> {
        self.verifying.verify(token, now_unix_s)
    }

    /// The JWKS document.
    pub(crate) fn jwks(&self) -> &str {
        &self.jwks
    }
}

/// The keys as they are now, and word of each change. There are none until the store was read.
#[derive(Debug)]
pub(crate) struct Keyring {
    now: watch::Sender<Option<Arc<SigningKeys>>>,
    verifying: watch::Sender<Arc<KeySet>>,
}

impl Keyring {
    pub(crate) fn new() -> Self {
        Self {
            now: watch::Sender::new(None),
            verifying: watch::Sender::default(),
        }
    }

    pub(crate) fn now(&self) -> Option<Arc<SigningKeys>> {
        self.now.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<SigningKeys>>> {
        self.now.subscribe()
    }

    pub(crate) fn verifying(&self) -> watch::Receiver<Arc<KeySet>> {
        self.verifying.subscribe()
    }

    /// Goes on with what the store has; whether that was news.
    pub(crate) fn replace(&self, records: &SigningKeyRecords) -> Result<bool, Error> {
        let keys = SigningKeys::new(records)?;
        // The document names the keys in their order.
        if self.now().is_some_and(|now| now.jwks == keys.jwks) {
            return Ok(false);
        }
        self.verifying.send_replace(Arc::clone(&keys.verifying));
        self.now.send_replace(Some(Arc::new(keys)));
        Ok(true)
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::new(ErrorCode::Internal, "the system gives no random bytes"))?;
    Ok(bytes)
}

fn random_text<const N: usize>() -> Result<String, Error> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(random::<N>()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[test]
    fn a_token_is_good_before_and_after_its_key_rotates_once() {
        let keyring = Keyring::new();
        let [a, b, c, d] = [(); 4].map(|()| KeyRecord::generate().unwrap());
        assert!(keyring.replace(&records(None, &a, &b)).unwrap());
        assert!(!keyring.replace(&records(None, &a, &b)).unwrap(), "no news");
        let token = issue(&keyring);
        let early = Arc::clone(&keyring.verifying().borrow());

        assert!(keyring.replace(&records(Some(&a), &b, &c)).unwrap());
        assert!(early.verify(&issue(&keyring), 0).is_ok(), "known before");
        assert!(keyring.now().unwrap().verify(&token, 0).is_ok());

        assert!(keyring.replace(&records(Some(&b), &c, &d)).unwrap());
        assert!(keyring.now().unwrap().verify(&token, 0).is_err());
    }

    fn issue(keyring: &Keyring) -> String {
        let name = "Ada".parse().unwrap();
        keyring
            .now()
            .unwrap()
            .issue(UserId([1; 16]), name, 0)
            .unwrap()
    }

    fn records(
        previous: Option<&KeyRecord>,
        current: &KeyRecord,
        next: &KeyRecord,
    ) -> SigningKeyRecords {
        SigningKeyRecords {
            previous: previous.cloned(),
            current: current.clone(),
            next: next.clone(),
            current_since_unix_s: 0,
        }
    }
}

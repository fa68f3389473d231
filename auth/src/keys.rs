//! The signing keys: the current one, and the next, published beforehand so that a relay knows it
//! before the first token that it signed.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dreamcatcher_proto::token::{Claims, DisplayName, Signer};
use dreamcatcher_proto::{Error, ErrorCode, UserId};

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

/// What signs tokens, and what relays check them with.
#[derive(Debug)]
pub(crate) struct SigningKeys {
    current: Signer,
    jwks: String,
}

impl SigningKeys {
    pub(crate) fn new([current, next]: &[KeyRecord; 2]) -> Result<Self, Error> {
        let signer = |key: &KeyRecord| Signer::from_seed(&key.key_id, &key.seed);
        let (current, next) = (signer(current)?, signer(next)?);
        let jwks = Signer::jwks([&current, &next])?;
        Ok(Self { current, jwks })
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

    /// The JWKS document.
    pub(crate) fn jwks(&self) -> &str {
        &self.jwks
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

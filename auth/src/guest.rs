//! A guest's secret: the one thing that proves who they are.

use std::fmt;

use dreamcatcher_proto::{Error, ErrorCode};

/// 22 characters of base64url carry 132 bits; no client needs more than 128 characters.
const CHARS_MIN: usize = 22;
const CHARS_MAX: usize = 128;

/// Names the purpose, so that the same bytes hashed elsewhere give another hash.
const HASH_CONTEXT: &str = "dreamcatcher auth 2026 guest secret";

/// A secret as the client sent it. It is hashed and dropped, and never printed.
pub(crate) struct GuestSecret(String);

impl GuestSecret {
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let fits = (CHARS_MIN..=CHARS_MAX).contains(&text.len());
        let base64url = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        if !fits || !text.bytes().all(base64url) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "secret must be {CHARS_MIN}–{CHARS_MAX} characters of base64url; draw at least \
                     16 random bytes"
                ),
            ));
        }
        Ok(Self(text))
    }

    /// What the store keeps. A fast hash is enough: a random secret of 128 bits cannot be guessed,
    /// unlike a password.
    pub(crate) fn hash(&self) -> SecretHash {
        SecretHash(blake3::derive_key(HASH_CONTEXT, self.0.as_bytes()))
    }
}

impl fmt::Debug for GuestSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestSecret(…)")
    }
}

/// A guest's key in the store: from it the secret cannot be found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SecretHash(pub(crate) [u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_22_to_128_characters_of_base64url() {
        for good in ["aA0-_aA0-_aA0-_aA0-_aA", &"x".repeat(128)] {
            assert!(GuestSecret::parse(good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            &"x".repeat(21),
            &"x".repeat(129),
            &"é".repeat(22),
            "aA0+/aA0+/aA0+/aA0+/aA==",
        ] {
            let code = GuestSecret::parse(bad.to_owned())
                .map_err(|e| e.code())
                .err();
            assert_eq!(code, Some(ErrorCode::InvalidArgument), "{bad:?}");
        }
    }

    #[test]
    fn neither_a_secret_nor_its_hash_is_printed() {
        let secret = GuestSecret::parse("x".repeat(22)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            format!("{secret:?} {:?}", secret.hash()),
            "GuestSecret(…) SecretHash(…)"
        );
    }
}

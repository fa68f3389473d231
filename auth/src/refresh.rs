//! Refresh tokens: what keeps a player signed in between access tokens.
//!
//! ```text
//!  sign-in ──▶ token 1 ──refresh──▶ token 2 ──refresh──▶ token 3   one family
//!                 └─used again: whoever holds the family signs in anew
//! ```
//!
//! A token is good for one use (RFC 9700, 4.14.2). That it comes a second time means that two hold
//! it, and nobody can tell which is the thief: the whole family ends.
//!
//! With one exception, or each answer that the network loses would sign a player out: for
//! [`REPEATABLE_S`] after its use, and until its successor is used, the last token is answered again.
//! The successor of before is then dead; should anybody come with it, that is a second use. So a thief
//! gains no more than a place in a family that ends as soon as its owner goes on.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dreamcatcher_proto::{Error, ErrorCode};
use secrecy::{ExposeSecret, SecretString};

use crate::keys;
use crate::store::TokenHash;

/// How long a token may lie unused: 30 days.
pub(crate) const LIFETIME_S: u64 = 30 * 24 * 60 * 60;
/// How long a used token may come again, because its answer was lost: as long as a client takes to give
/// a call up (10 s) and to try twice more.
pub(crate) const REPEATABLE_S: u64 = 30;
const RANDOM_BYTES: usize = 32;
/// [`RANDOM_BYTES`] in base64url.
pub(crate) const CHARS: usize = 43;

/// Names the purpose, so that the same bytes hashed elsewhere give another hash.
const HASH_CONTEXT: &str = "dreamcatcher auth 2026 refresh token";

/// 256 random bits as base64url. It is never printed, and the store has only its hash.
#[derive(Clone)]
pub(crate) struct RefreshToken(SecretString);

impl RefreshToken {
    pub(crate) fn draw() -> Result<Self, Error> {
        let bytes = keys::random::<RANDOM_BYTES>()?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    /// A token as a client sent it. One that cannot be ours is answered as one that is unknown.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let base64url = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        let fits = text.len() == CHARS && text.bytes().all(base64url);
        let token = Self(text.into());
        fits.then_some(token).ok_or(ErrorCode::SignedOut.into())
    }

    /// What the store keeps. A fast hash is enough for random bits that cannot be guessed.
    pub(crate) fn hash(&self) -> TokenHash {
        TokenHash(blake3::derive_key(HASH_CONTEXT, self.text().as_bytes()))
    }

    /// For the answer to its owner.
    pub(crate) fn text(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[test]
    fn a_drawn_token_is_parsed_as_itself_and_no_two_are_alike() {
        let token = RefreshToken::draw().unwrap();
        let parsed = RefreshToken::parse(token.text().to_owned()).unwrap();
        assert_eq!(parsed.hash().0, token.hash().0);
        assert_ne!(RefreshToken::draw().unwrap().hash().0, token.hash().0);
        assert_eq!(token.text().len(), CHARS);
    }

    #[test]
    fn what_cannot_be_a_token_is_answered_as_unknown_and_never_printed() {
        for bad in [
            "",
            "CANARY",
            &"x".repeat(42),
            &"x".repeat(44),
            &"+".repeat(43),
        ] {
            let code = RefreshToken::parse(bad.to_owned()).map_err(|e| e.code());
            assert_eq!(code.unwrap_err(), ErrorCode::SignedOut, "{bad:?}");
        }
        let token = RefreshToken::parse("x".repeat(43)).unwrap();
        assert_eq!(format!("{token:?}"), "RefreshToken(…)");
    }
}

//! Tokens made by hand: what auth would never issue, and what a relay with keys of ours accepts.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

/// A signing key of ours.
#[derive(Debug)]
pub struct Key {
    id: String,
    pair: Ed25519KeyPair,
}

impl Key {
    /// The key that `seed` makes.
    #[must_use]
    pub fn new(id: &str, seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed of 32 bytes");
        Self {
            id: id.to_owned(),
            pair,
        }
    }

    /// The JWKS document (RFC 7517) that makes a relay trust this key.
    #[must_use]
    pub fn jwks(&self) -> String {
        let x = BASE64.encode(self.pair.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id, "x": x}]})
            .to_string()
    }

    /// A token that says `claims`.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let signed = unsigned(
            &json!({"alg": "EdDSA", "typ": "JWT", "kid": self.id}),
            claims,
        );
        let signature = BASE64.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Claims that are valid from `from` to `until`, in Unix seconds.
#[must_use]
pub fn claims(from: u64, until: u64) -> Value {
    json!({
        "iss": "dreamcatcher", "aud": "dreamcatcher-relay", "sub": "ab".repeat(16), "name": "Eve",
        "iat": from, "nbf": from, "exp": until, "jti": "e2e",
    })
}

/// Header and claims of a token, without its signature.
#[must_use]
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        BASE64.encode(header.to_string()),
        BASE64.encode(claims.to_string())
    )
}

/// Header and claims of `token`.
#[must_use]
pub fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let json = BASE64.decode(part).expect("base64url");
        serde_json::from_slice(&json)
    });
    let mut next = || parts.next().expect("a JWT has three parts").expect("JSON");
    (next(), next())
}

//! Access tokens: auth signs them, every relay checks them offline.
//!
//! ```text
//!  auth: Signer ──token──▶ client ──Hello──▶ relay: KeySet::verify ──▶ Claims
//!       └────────JWKS (RFC 7517)────────────────────▲
//! ```
//!
//! A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037). The algorithm is fixed: nothing in a
//! token's header chooses a key or an algorithm, except `kid`, which picks one of the keys already
//! held. `jku`, `jwk`, `x5u` and `x5c` are never read, and `crit` is refused (RFC 7515, 4.1.11).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::id::UserId;
use crate::limits;

/// Who issues tokens: the `iss` claim.
pub const ISSUER: &str = "dreamcatcher";
/// Whom tokens are for: the `aud` claim.
pub const AUDIENCE: &str = "dreamcatcher-relay";
/// How long a token is valid: short, because relays ask nobody whether it still is.
pub const LIFETIME_S: u64 = 15 * 60;
/// How far the clocks of auth and relay may differ: machines without a synchronised clock are some
/// seconds off, and a token that was issued this moment must not be refused for that. It costs a
/// token's lifetime 30 s of precision, no more.
pub const LEEWAY_S: u64 = 30;
/// Longest key id.
pub const KEY_ID_CHARS_MAX: usize = 64;
/// Keys in one JWKS document: the current one, the next one, and room for those being retired.
pub const KEYS_MAX: usize = 16;
/// Longest JWKS document: 16 keys, with room for the members that are not read.
pub const JWKS_BYTES_MAX: usize = 16_384;

/// How a player is shown to others: 1–32 characters, none of which steers a terminal or the
/// direction of text, no space at either end.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DisplayName(String);

impl DisplayName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DisplayName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        let steers = |c: char| {
            // Controls, and characters that show nothing or turn the text around.
            let unseen = [
                '\u{200b}', '\u{200e}', '\u{200f}', '\u{ad}', '\u{61c}', '\u{180e}', '\u{feff}',
                '\u{3164}',
            ];
            let ranges = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
            c.is_control() || ranges || unseen.contains(&c)
        };
        let fits = (1..=limits::DISPLAY_NAME_CHARS_MAX).contains(&text.chars().count());
        if !fits || text.trim() != text || text.contains(steers) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "display_name must be 1–{} characters, without control characters and without \
                     a space at either end",
                    limits::DISPLAY_NAME_CHARS_MAX
                ),
            ));
        }
        Ok(Self(text))
    }
}

impl FromStr for DisplayName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.to_owned().try_into()
    }
}

impl From<DisplayName> for String {
    fn from(name: DisplayName) -> Self {
        name.0
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a token says. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// [`ISSUER`].
    pub iss: String,
    /// [`AUDIENCE`].
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// How the user is shown to others.
    pub name: DisplayName,
    /// When it was issued.
    pub iat: u64,
    /// From when it is valid.
    pub nbf: u64,
    /// From when it is no longer valid.
    pub exp: u64,
    /// The token's own id: random, for telling tokens apart.
    pub jti: String,
}

impl Claims {
    /// The claims of a token for `sub`, valid for [`LIFETIME_S`] from `now_unix_s` on.
    #[must_use]
    pub fn new(sub: UserId, name: DisplayName, jti: String, now_unix_s: u64) -> Self {
        Self {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub,
            name,
            iat: now_unix_s,
            nbf: now_unix_s,
            exp: now_unix_s.saturating_add(LIFETIME_S),
            jti,
        }
    }
}

/// The public keys that a relay trusts. The default set holds none and refuses every token.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: BTreeMap<String, DecodingKey>,
}

impl KeySet {
    /// The keys of a JWKS document. One entry that is not an Ed25519 signature key with a key id
    /// of its own makes the whole document `InvalidArgument`.
    pub fn from_jwks(document: &str) -> Result<Self, Error> {
        if document.len() > JWKS_BYTES_MAX {
            return Err(bad_jwks(format!(
                "has {} bytes, the limit is {JWKS_BYTES_MAX}",
                document.len()
            )));
        }
        let set: JwkSet =
            serde_json::from_str(document).map_err(|e| bad_jwks(format!("does not parse: {e}")))?;
        if !(1..=KEYS_MAX).contains(&set.keys.len()) {
            return Err(bad_jwks(format!(
                "has {} keys, it must have 1–{KEYS_MAX}",
                set.keys.len()
            )));
        }
        let mut keys = BTreeMap::new();
        for (place, jwk) in set.keys.iter().enumerate() {
            let (key_id, key) =
                read_jwk(jwk).map_err(|cause| bad_jwks(format!("key {place}: {cause}")))?;
            if keys.insert(key_id.clone(), key).is_some() {
                return Err(bad_jwks(format!("has two keys with the kid {key_id}")));
            }
        }
        Ok(Self { keys })
    }

    /// The claims of `token`, if a key of this set signed it, it was issued for relays, and
    /// `now_unix_s` lies in its time: otherwise `TokenExpired` or `InvalidToken`.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, Error> {
        let key = self.key_of(token)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &everything_but_time())
            .map_err(|e| invalid(cause(e.kind())))?
            .claims;
        if now_unix_s.saturating_add(LEEWAY_S) < claims.nbf {
            return Err(invalid(
                "is not valid yet; check the clocks of auth and relay",
            ));
        }
        if now_unix_s >= claims.exp.saturating_add(LEEWAY_S) {
            return Err(ErrorCode::TokenExpired.into());
        }
        Ok(claims)
    }

    /// Whether the key that `token` names is in this set. If not, a newer document may have it.
    #[must_use]
    pub fn knows_key_of(&self, token: &str) -> bool {
        self.key_of(token).is_ok()
    }

    /// Whether `token` is a well-formed one of a key that is not in this set: one that a newer
    /// document may have.
    #[must_use]
    pub fn lacks_key_of(&self, token: &str) -> bool {
        Self::key_id_of(token).is_ok_and(|key_id| !self.keys.contains_key(&key_id))
    }

    /// Whether there is no key at all: nothing has been read yet, or it was given up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The ids of the keys, in order.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    fn key_of(&self, token: &str) -> Result<&DecodingKey, Error> {
        let key_id = Self::key_id_of(token)?;
        self.keys
            .get(&key_id)
            .ok_or_else(|| invalid("names a key that this mesh does not know"))
    }

    fn key_id_of(token: &str) -> Result<String, Error> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(Error::new(
                ErrorCode::InvalidToken,
                format!(
                    "the token has {} bytes, the limit is {}",
                    token.len(),
                    limits::TOKEN_BYTES_MAX
                ),
            ));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|e| invalid(cause(e.kind())))?;
        if header.alg != Algorithm::EdDSA {
            return Err(invalid("is not signed with EdDSA"));
        }
        if header.crit.is_some() {
            return Err(invalid("has a crit header, and no extension is known"));
        }
        let key_id = header.kid.filter(|id| is_key_id(id));
        key_id.ok_or_else(|| invalid("has no well-formed kid"))
    }
}

/// A private key that signs tokens. `Debug` does not print it.
#[derive(Clone, Debug)]
pub struct Signer {
    key: EncodingKey,
    header: Header,
    public: Jwk,
}

impl Signer {
    /// The signer whose private key is `seed`: 32 random bytes (RFC 8032, 5.1.5).
    pub fn from_seed(key_id: &str, seed: &[u8; 32]) -> Result<Self, Error> {
        if !is_key_id(key_id) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("a key id must be 1–{KEY_ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -"),
            ));
        }
        let key = EncodingKey::from_ed_der(&pkcs8(seed));
        let mut public = Jwk::from_encoding_key(&key, Algorithm::EdDSA)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("no public key: {e}")))?;
        public.common.key_id = Some(key_id.to_owned());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key_id.to_owned());
        Ok(Self {
            key,
            header,
            public,
        })
    }

    /// The token that says `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("signing failed: {e}")))
    }

    /// The JWKS document with the public keys of `signers`, as [`KeySet::from_jwks`] reads it.
    pub fn jwks<'a>(signers: impl IntoIterator<Item = &'a Self>) -> Result<String, Error> {
        let keys = signers
            .into_iter()
            .map(|signer| signer.public.clone())
            .collect();
        serde_json::to_string(&JwkSet { keys })
            .map_err(|e| Error::new(ErrorCode::Internal, format!("no JWKS: {e}")))
    }
}

/// The private key in PKCS#8 (RFC 8410, 7): a fixed header, then the seed.
fn pkcs8(seed: &[u8; 32]) -> [u8; 48] {
    const HEADER: [u8; 16] = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    let mut der = [0; 48];
    der[..16].copy_from_slice(&HEADER);
    der[16..].copy_from_slice(seed);
    der
}

fn is_key_id(text: &str) -> bool {
    (1..=KEY_ID_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
}

fn read_jwk(jwk: &Jwk) -> Result<(String, DecodingKey), String> {
    let AlgorithmParameters::OctetKeyPair(parameters) = &jwk.algorithm else {
        return Err("kty must be OKP, with crv and x".to_owned());
    };
    if parameters.curve != EllipticCurve::Ed25519 {
        return Err("crv must be Ed25519".to_owned());
    }
    if !matches!(jwk.common.key_algorithm, None | Some(KeyAlgorithm::EdDSA)) {
        return Err("alg must be EdDSA".to_owned());
    }
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return Err("use must be sig".to_owned());
    }
    let key_id = jwk
        .common
        .key_id
        .clone()
        .filter(|id| is_key_id(id))
        .ok_or_else(|| format!("kid must be 1–{KEY_ID_CHARS_MAX} characters of A-Z a-z 0-9 _ -"))?;
    let key = DecodingKey::from_ed_components(&parameters.x)
        .ok()
        .filter(|key| key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 32))
        .ok_or_else(|| "x must be 32 bytes in base64url without padding".to_owned())?;
    Ok((key_id, key))
}

/// The library compares times with its own clock; [`KeySet::verify`] does it with the caller's.
fn everything_but_time() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation
}

/// Nothing of the token itself goes into the text: it ends in logs.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's enum may grow"
)]
fn cause(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "has a wrong signature",
        ErrorKind::InvalidAudience => "is for another audience than dreamcatcher-relay",
        ErrorKind::InvalidIssuer => "is from another issuer than dreamcatcher",
        _ => "is malformed",
    }
}

fn invalid(cause: &'static str) -> Error {
    Error::new(ErrorCode::InvalidToken, format!("the token {cause}"))
}

fn bad_jwks(cause: String) -> Error {
    Error::new(
        ErrorCode::InvalidArgument,
        format!("the JWKS document {cause}"),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_signed_token_gives_its_claims_back() {
        let token = signer().sign(&claims()).unwrap();
        assert_eq!(keys().verify(&token, NOW), Ok(claims()));
        assert!(keys().knows_key_of(&token));
    }

    #[test]
    fn a_token_of_a_key_not_held_is_told_from_a_malformed_one() {
        let other = Signer::from_seed("k2", &[9; 32]).unwrap();
        assert!(keys().lacks_key_of(&other.sign(&claims()).unwrap()));
        assert!(!keys().lacks_key_of(&signer().sign(&claims()).unwrap()));
        assert!(!keys().lacks_key_of("no.token.this"));
        assert!(KeySet::default().is_empty() && !keys().is_empty());
    }

    #[test]
    fn a_token_is_valid_from_nbf_to_exp_with_thirty_seconds_of_leeway() {
        let token = signer().sign(&claims()).unwrap();
        let at = |now| keys().verify(&token, now).map(|_| ()).map_err(|e| e.code());
        assert_eq!(at(NOW - 31), Err(ErrorCode::InvalidToken));
        assert_eq!(at(NOW - 30), Ok(()));
        assert_eq!(at(NOW + LIFETIME_S + 29), Ok(()));
        assert_eq!(at(NOW + LIFETIME_S + 30), Err(ErrorCode::TokenExpired));
        assert_eq!(at(0), Err(ErrorCode::InvalidToken));
        assert_eq!(at(u64::MAX), Err(ErrorCode::TokenExpired));
    }

    #[test]
    fn the_header_chooses_neither_algorithm_nor_key() {
        let public = BASE64.decode(public_x(&signer())).unwrap();
        let hmac = EncodingKey::from_secret(&public);
        let hs256 = Header {
            kid: Some("k1".into()),
            ..Header::new(Algorithm::HS256)
        };
        let hs256 = jsonwebtoken::encode(&hs256, &claims(), &hmac).unwrap();
        assert_refused(&hs256, "not signed with EdDSA");

        let mallory = Signer::from_seed("k1", &[66; 32]).unwrap();
        let theirs = serde_json::to_value(&mallory.public).unwrap();
        let ed = |extra: Value| {
            let mut header = json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"});
            header
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            forge(&header, &json!(claims()), &mallory)
        };
        assert_refused(&ed(json!({})), "wrong signature");
        assert_refused(&ed(json!({ "jwk": theirs })), "wrong signature");
        assert_refused(
            &ed(json!({"jku": "https://mallory.example/jwks"})),
            "wrong signature",
        );
        assert_refused(
            &ed(json!({"x5u": "https://mallory.example/x5u"})),
            "wrong signature",
        );
        assert_refused(&ed(json!({"crit": ["b64"], "b64": false})), "crit");

        for alg in [
            "none", "None", "", "RS256", "ES256", "PS512", "HS512", "EdDSA\0",
        ] {
            let token = forge(
                &json!({"alg": alg, "kid": "k1"}),
                &json!(claims()),
                &signer(),
            );
            assert_refused(&token, "the token");
            let unsigned = &token[..=token.rfind('.').unwrap()];
            assert_refused(unsigned, "the token");
        }
    }

    #[test]
    fn a_kid_only_names_a_key_that_is_held() {
        let long = "k".repeat(65);
        for kid in [
            "",
            "k2",
            "K1",
            "k1 ",
            "../../k1",
            "' OR 1=1 --",
            "k1\0",
            "ключ",
            &long,
        ] {
            let token = forge(
                &json!({"alg": "EdDSA", "kid": kid}),
                &json!(claims()),
                &signer(),
            );
            assert_refused(&token, "the token");
            assert!(!keys().knows_key_of(&token), "{kid:?}");
        }
        let no_kid = forge(&json!({"alg": "EdDSA"}), &json!(claims()), &signer());
        assert_refused(&no_kid, "kid");
        let number = forge(
            &json!({"alg": "EdDSA", "kid": 1}),
            &json!(claims()),
            &signer(),
        );
        assert_refused(&number, "malformed");
    }

    #[test]
    fn each_claim_must_be_there_and_fit() {
        let with = |field: &str, value: Value| {
            let mut claims = json!(claims());
            claims[field] = value;
            forge(&json!({"alg": "EdDSA", "kid": "k1"}), &claims, &signer())
        };
        assert_refused(&with("aud", json!("another-service")), "audience");
        assert_refused(&with("aud", json!([AUDIENCE, "x"])), "malformed");
        assert_refused(&with("iss", json!("mallory")), "issuer");
        assert_refused(&with("sub", json!("not an id")), "malformed");
        assert_refused(&with("name", json!("")), "malformed");
        assert_refused(&with("name", json!("n".repeat(33))), "malformed");
        assert_refused(&with("name", json!("\u{1b}[2J")), "malformed");
        assert_refused(&with("exp", json!(-1)), "malformed");
        assert_refused(&with("exp", json!(1e300)), "malformed");
        for field in ["iss", "aud", "sub", "name", "iat", "nbf", "exp", "jti"] {
            assert_refused(&with(field, Value::Null), "malformed");
        }
    }

    #[test]
    fn one_changed_byte_anywhere_is_refused() {
        let token = signer().sign(&claims()).unwrap();
        for place in 0..token.len() {
            for other in [b'A', b'z', b'.', b'='] {
                let mut bytes = token.clone().into_bytes();
                if bytes[place] != other {
                    bytes[place] = other;
                    let changed = String::from_utf8(bytes).unwrap();
                    assert_refused(&changed, "the token");
                }
            }
            assert_refused(&token[..place], "the token");
        }
    }

    #[test]
    fn garbage_and_oversized_tokens_are_refused_without_a_panic() {
        for token in [
            "",
            ".",
            "..",
            "...",
            "a.b.c",
            "é.é.é",
            "e30.e30.",
            "\0",
            "W10.W10.AA",
        ] {
            assert_refused(token, "malformed");
        }
        let nested = "[".repeat(2_000);
        assert_refused(&format!("{}.e30.e30", BASE64.encode(nested)), "malformed");
        let large = "a".repeat(limits::TOKEN_BYTES_MAX + 1);
        assert_refused(&large, "limit is 4096");
    }

    #[test]
    fn a_jwks_document_with_one_bad_key_is_refused_by_name() {
        let x = public_x(&signer());
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k1"});
        let with = |field: &str, value: Value| {
            let mut key = good.clone();
            key[field] = value;
            json!({"keys": [key]}).to_string()
        };
        assert!(KeySet::from_jwks(&with("extra", json!(1))).is_ok());
        let many: Vec<Value> = (0..17).map(|_| good.clone()).collect();
        for (document, says) in [
            ("".to_owned(), "does not parse"),
            ("{}".to_owned(), "does not parse"),
            (" ".repeat(JWKS_BYTES_MAX + 1), "limit is 16384"),
            (json!({"keys": []}).to_string(), "has 0 keys"),
            (json!({ "keys": many }).to_string(), "has 17 keys"),
            (
                json!({"keys": [good.clone(), good.clone()]}).to_string(),
                "two keys",
            ),
            (with("kty", json!("oct")), "kty"),
            (with("crv", json!("P-256")), "crv"),
            (with("alg", json!("HS256")), "alg"),
            (with("use", json!("enc")), "use"),
            (with("kid", json!("a b")), "kid"),
            (with("kid", Value::Null), "kid"),
            (with("x", json!("AAAA")), "x must be"),
            (with("x", json!("?")), "x must be"),
        ] {
            let error = KeySet::from_jwks(&document).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(
                error.message().contains(says),
                "{error} should say {says:?}"
            );
        }
    }

    #[test]
    fn a_display_name_is_short_and_steers_nothing() {
        let longest = "ü".repeat(32);
        for good in ["a", "Ada Lovelace", "名前", "🦀", &longest] {
            assert_eq!(
                good.parse::<DisplayName>().map(String::from).as_deref(),
                Ok(good)
            );
        }
        let long = "ü".repeat(33);
        for bad in [
            "",
            " ",
            " a",
            "a ",
            "a\nb",
            "\u{202e}a",
            "\u{200e}\u{200b}",
            "\u{1b}[31m",
            &long,
        ] {
            let refused = bad.parse::<DisplayName>().map_err(|e| e.code());
            assert_eq!(refused, Err(ErrorCode::InvalidArgument), "{bad:?}");
        }
    }

    #[test]
    fn a_signer_prints_no_secret() {
        let printed = format!("{:?}", Signer::from_seed("k1", &[0x5a; 32]).unwrap());
        assert!(!printed.contains("90, 90"), "{printed}");
        assert!(Signer::from_seed("a b", &[0; 32]).is_err());
    }

    fn signer() -> Signer {
        Signer::from_seed("k1", &[7; 32]).unwrap()
    }

    fn keys() -> KeySet {
        KeySet::from_jwks(&Signer::jwks([&signer()]).unwrap()).unwrap()
    }

    fn claims() -> Claims {
        Claims::new(UserId([1; 16]), "Ada".parse().unwrap(), "j1".into(), NOW)
    }

    fn public_x(signer: &Signer) -> String {
        json!(signer.public)["x"].as_str().unwrap().to_owned()
    }

    /// A token with any header and any payload, signed by `signer`.
    fn forge(header: &Value, payload: &Value, signer: &Signer) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(payload));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &signer.key, Algorithm::EdDSA).unwrap();
        format!("{message}.{signature}")
    }

    fn assert_refused(token: &str, says: &str) {
        let error = keys().verify(token, NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidToken, "{token:?}");
        assert!(
            error.message().contains(says),
            "{error} should say {says:?}: {token:?}"
        );
    }
}

//! Signing in, and the list of relays: two calls to the auth service.
//!
//! ```text
//!   POST /v1/guest  {"secret", "display_name"} ─▶ access token
//!   GET  /v1/relays ─────────────────────────────▶ addresses and certificate hashes
//! ```
//!
//! The HTTP client is a small one of its own, over plain TCP, so that the SDK stays small: an
//! `https` address is refused. Put a TLS-terminating proxy on the player's side of the network, or
//! use an HTTP library of your own: [`SignIn`] and [`RelayAddress`] are plain JSON.

mod http;

use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode, UserId};
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;

use crate::core::RelayAddress;
use http::Url;

/// Letters of a new guest secret: 192 random bits.
const SECRET_CHARS: usize = 32;
/// Base64url (RFC 4648, section 5): six bits a letter.
const SECRET_ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A signed-in user.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct SignIn {
    pub user_id: UserId,
    /// How others see the player.
    pub display_name: String,
    /// The access token: what [`ConnectOptions`](crate::ConnectOptions) wants.
    #[serde(rename = "access_token")]
    pub token: String,
    /// How long the token is good for.
    #[serde(rename = "expires_in_s", deserialize_with = "seconds")]
    pub expires_in: Duration,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn")
            .field("user_id", &self.user_id)
            .field("display_name", &self.display_name)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

/// A new random secret for [`guest`]. Draw it once per installation and keep it: it *is* the user.
///
/// # Errors
/// `Internal` if the system gives no random bytes.
pub fn new_secret() -> Result<String, Error> {
    let mut bytes = [0; SECRET_CHARS];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::new(ErrorCode::Internal, "the system gives no random bytes"))?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(SECRET_ALPHABET[usize::from(byte & 63)]))
        .collect())
}

/// Signs in as the guest who holds `secret`, by the name of `name`.
///
/// # Errors
/// What the service refuses it for; `ConnectionLost` or `TimedOut` if it does not answer;
/// `InvalidArgument` for an address that is not `http://host[:port]`.
pub async fn guest(auth_url: &str, secret: &str, name: &str) -> Result<SignIn, Error> {
    let body = serde_json::json!({ "secret": secret, "display_name": name });
    call(auth_url, "POST /v1/guest", Some(body.to_string())).await
}

/// The relays that take clients: those that are about to stop are left out.
///
/// # Errors
/// As [`guest`].
pub async fn relays(auth_url: &str) -> Result<Vec<RelayAddress>, Error> {
    #[derive(Deserialize)]
    struct List {
        relays: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(flatten)]
        address: RelayAddress,
        #[serde(default)]
        draining: bool,
    }
    let list: List = call(auth_url, "GET /v1/relays", None).await?;
    Ok(list
        .relays
        .into_iter()
        .filter(|entry| !entry.draining)
        .map(|entry| entry.address)
        .collect())
}

/// Makes the call on a thread of its own, so that it can be awaited on any executor.
async fn call<T>(auth_url: &str, route: &'static str, body: Option<String>) -> Result<T, Error>
where
    T: for<'de> Deserialize<'de> + Send + 'static,
{
    let url: Url = auth_url.parse()?;
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("dreamcatcher-auth".to_owned())
        .spawn(move || {
            let answer = http::call(&url, route, body.as_deref());
            // Nobody waits any more if this fails.
            let _ = done.send(answer.and_then(|answer| read(&url, &answer)));
        })
        .map_err(|error| Error::new(ErrorCode::Internal, format!("the auth thread: {error}")))?;
    result
        .await
        .unwrap_or_else(|_| Err(ErrorCode::Internal.into()))
}

fn read<T: for<'de> Deserialize<'de>>(url: &Url, answer: &http::Answer) -> Result<T, Error> {
    #[derive(Deserialize)]
    struct Refusal {
        code: u16,
        message: String,
    }
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body).map_err(|error| {
            Error::new(
                ErrorCode::Internal,
                format!("{url} answered something else than expected: {error}"),
            )
        });
    }
    Err(match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { code, message }) => Error::new(
            ErrorCode::from_u16(code).unwrap_or(ErrorCode::Internal),
            message,
        ),
        Err(_) => Error::new(
            ErrorCode::Internal,
            format!("{url} answered with status {}", answer.status),
        ),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::block_on;

    #[test]
    fn a_guest_is_signed_in() {
        let (url, asked) = serve(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n\
             {\"user_id\": \"9f86d081884c7d659a2feaa0c55ad015\", \"display_name\": \"Ada\",\
              \"access_token\": \"eyJ\", \"expires_in_s\": 900, \"token_type\": \"Bearer\"}",
        );
        let sign_in = block_on(guest(&url, "a-secret", "Ada")).unwrap();
        assert_eq!(
            (sign_in.token.as_str(), sign_in.expires_in),
            ("eyJ", Duration::from_secs(900))
        );
        assert!(
            !format!("{sign_in:?}").contains("eyJ"),
            "tokens are not printed"
        );
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /v1/guest HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.ends_with("{\"display_name\":\"Ada\",\"secret\":\"a-secret\"}"),
            "{asked}"
        );
    }

    #[test]
    fn relays_that_are_about_to_stop_are_left_out() {
        let relay = |node: &str, draining: bool| {
            let hash = "5a".repeat(32);
            format!(
                r#"{{"node_id": "{node}", "region": "local", "host": "h", "address": "127.0.0.1:1",
                    "certificate_sha256": ["{hash}"], "load": 1, "capacity": 2, "draining": {draining}}}"#
            )
        };
        let body = format!(
            r#"{{"relays": [{}, {}]}}"#,
            relay("a-0", true),
            relay("b-0", false)
        );
        let (url, _) = serve(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let relays = block_on(relays(&url)).unwrap();
        let names: Vec<_> = relays
            .iter()
            .map(|relay| relay.node_id.as_deref())
            .collect();
        assert_eq!(names, [Some("b-0")]);
    }

    #[test]
    fn a_refusal_keeps_its_code_and_message() {
        let (url, _) = serve(
            "HTTP/1.1 429 Too Many Requests\r\n\r\n\
             {\"code\": 206, \"name\": \"RateLimited\", \"message\": \"later\", \"retryable\": true}",
        );
        let error = block_on(guest(&url, "s", "n")).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (ErrorCode::RateLimited, "later")
        );
    }

    #[test]
    fn a_service_that_is_not_there_or_talks_nonsense_is_an_error_that_names_it() {
        let nowhere = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = block_on(relays(&format!("http://{nowhere}"))).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConnectionLost);
        assert!(error.message().contains(&nowhere.to_string()), "{error}");
        for nonsense in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 500 No\r\n\r\n",
        ] {
            let (url, _) = serve(nonsense);
            let error = block_on(relays(&url)).unwrap_err();
            assert!(error.message().contains(&url), "{nonsense:?}: {error}");
        }
    }

    #[test]
    fn a_secret_is_drawn_anew_each_time_from_base64url() {
        let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(one, other);
        assert!(one.bytes().all(|c| SECRET_ALPHABET.contains(&c)) && one.len() == SECRET_CHARS);
    }

    /// Answers one request with `answer`; the thread gives the request back.
    fn serve(answer: &str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = answer.to_owned();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            let whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request).into_owned();
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("Content-Length: "));
                (body.len() >= length.map_or(0, |length| length.parse().unwrap())).then_some(text)
            };
            loop {
                let count = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..count]);
                if let Some(text) = whole(&request) {
                    stream.write_all(answer.as_bytes()).unwrap();
                    return text;
                }
            }
        });
        (url, thread)
    }
}

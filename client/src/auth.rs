//! Signing in, accounts, and the list of relays: what a player asks the auth service.
//!
//! ```text
//!   guest, register, login ─▶ SignIn: access token (minutes) + refresh token (days)
//!   refresh ◀── refresh token, good for one use ──▶ SignIn
//!   relays ─────────────────▶ addresses and certificate hashes
//! ```
//!
//! With [`Credentials`] a [`Client`](crate::Client) does the refreshing by itself:
//! [`ConnectOptions::guest`](crate::ConnectOptions::guest),
//! [`ConnectOptions::account`](crate::ConnectOptions::account).
//!
//! ```no_run
//! # async fn open() -> Result<(), dreamcatcher_client::Error> {
//! use dreamcatcher_client::auth::{self, AuthUrl, Registration, Trust};
//!
//! let auth: AuthUrl = "https://auth.example".parse()?;
//! let auth = auth.trusting(Trust::CaFile("mesh-ca.pem".into())); // an authority of one's own
//! let ann = auth::register(&auth, Registration::new("ann", "correct horse battery")).await?;
//! println!("{} is signed in for {:?}", ann.display_name, ann.expires_in);
//! # Ok(())
//! # }
//! ```
//!
//! The HTTP client is a small one of its own, so that the SDK stays small: HTTP/1.1, TLS by rustls
//! and the platform's authorities, no proxies, no redirects. Each call takes 10 s at most, on a thread
//! of its own, so that it can be awaited on any executor.

mod credentials;
mod error;
mod http;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;
mod tls;
mod url;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use dreamcatcher_proto::{Error, ErrorCode, UserId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::core::RelayAddress;
pub use credentials::{Credentials, RefreshToken};
pub use error::{AuthError, Step};
use http::{Answer, Request};
pub use url::{AuthUrl, ToAuthUrl, Trust};

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
    /// For the next access token, without asking the player: [`refresh`].
    #[serde(default)]
    pub refresh_token: Option<RefreshToken>,
    /// How long that is good for.
    #[serde(
        default,
        rename = "refresh_expires_in_s",
        deserialize_with = "maybe_seconds"
    )]
    pub refresh_expires_in: Option<Duration>,
}

/// Without the tokens.
impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn")
            .field("user_id", &self.user_id)
            .field("display_name", &self.display_name)
            .field("expires_in", &self.expires_in)
            .field("refresh_expires_in", &self.refresh_expires_in)
            .finish_non_exhaustive()
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

fn maybe_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Option::<u64>::deserialize(deserializer).map(|seconds| seconds.map(Duration::from_secs))
}

/// What the auth service knows about a user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Me {
    pub user_id: UserId,
    /// How others see the player.
    pub display_name: String,
    /// `None` for a guest.
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub email: Option<String>,
}

/// A new account, or the account that a guest is to become.
#[derive(Clone)]
pub struct Registration {
    username: String,
    password: String,
    email: Option<String>,
    display_name: Option<String>,
    guest_token: Option<String>,
}

impl Registration {
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            email: None,
            display_name: None,
            guest_token: None,
        }
    }

    #[must_use]
    pub fn email(self, email: impl Into<String>) -> Self {
        Self {
            email: Some(email.into()),
            ..self
        }
    }

    /// How others see the player; without it, by the username.
    #[must_use]
    pub fn display_name(self, name: impl Into<String>) -> Self {
        Self {
            display_name: Some(name.into()),
            ..self
        }
    }

    /// Gives the signed-in guest the account, in place: the user stays the same.
    #[must_use]
    pub fn upgrading(self, guest: &SignIn) -> Self {
        Self {
            guest_token: Some(guest.token.clone()),
            ..self
        }
    }

    fn request(&self) -> Request {
        let mut body = json!({ "username": self.username, "password": self.password });
        for (field, value) in [("email", &self.email), ("display_name", &self.display_name)] {
            if let Some(value) = value {
                body[field] = Value::from(value.as_str());
            }
        }
        Request::post("/v1/register", &body).bearer(self.guest_token.as_deref())
    }
}

/// Without the password and the token.
impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("username", &self.username)
            .field("upgrades_guest", &self.guest_token.is_some())
            .finish_non_exhaustive()
    }
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
/// `InvalidArgument` for an address that is not one ([`AuthUrl`]).
pub async fn guest(
    auth: &(impl ToAuthUrl + ?Sized),
    secret: &str,
    name: &str,
) -> Result<SignIn, AuthError> {
    call(auth, guest_request(secret, Some(name))).await
}

/// Makes an account and signs in to it.
///
/// # Errors
/// `UsernameTaken`, `AlreadyLinked` if the guest has an account, `InvalidArgument` with the limit that
/// a name or the password does not keep; and as [`guest`].
pub async fn register(
    auth: &(impl ToAuthUrl + ?Sized),
    registration: Registration,
) -> Result<SignIn, AuthError> {
    call(auth, registration.request()).await
}

/// Signs in to the account with this username or e-mail address.
///
/// # Errors
/// `InvalidCredentials`, whichever of the two is wrong; `RateLimited` after too many tries; and as
/// [`guest`].
pub async fn login(
    auth: &(impl ToAuthUrl + ?Sized),
    login: &str,
    password: &str,
) -> Result<SignIn, AuthError> {
    let body = json!({ "login": login, "password": password });
    call(auth, Request::post("/v1/login", &body)).await
}

/// A new access token for a refresh token, which is used up by it: the answer holds the next one.
///
/// # Errors
/// `SignedOut` if the token is unknown, expired or was used before; and as [`guest`].
pub async fn refresh(
    auth: &(impl ToAuthUrl + ?Sized),
    refresh_token: &RefreshToken,
) -> Result<SignIn, AuthError> {
    call(auth, refresh_request(refresh_token)).await
}

/// Ends what began with a sign-in: its refresh tokens are of no use any more. Access tokens stay good
/// for the minutes that they have left.
///
/// # Errors
/// As [`guest`].
pub async fn logout(
    auth: &(impl ToAuthUrl + ?Sized),
    refresh_token: &RefreshToken,
) -> Result<(), AuthError> {
    let body = json!({ "refresh_token": refresh_token.expose() });
    tell(auth, Request::post("/v1/logout", &body)).await
}

/// What the auth service knows about the user with this access token.
///
/// # Errors
/// `TokenExpired`, `InvalidToken`, and as [`guest`].
pub async fn me(auth: &(impl ToAuthUrl + ?Sized), token: &str) -> Result<Me, AuthError> {
    call(auth, Request::get("/v1/me").bearer(Some(token))).await
}

/// Changes how others see the user, from its next sign-in or refresh on.
///
/// # Errors
/// `InvalidArgument` for a name that is not 1–32 characters; and as [`me`].
pub async fn rename(
    auth: &(impl ToAuthUrl + ?Sized),
    token: &str,
    display_name: &str,
) -> Result<Me, AuthError> {
    let body = json!({ "display_name": display_name });
    let request = Request {
        method: "PATCH",
        ..Request::post("/v1/me", &body)
    };
    call(auth, request.bearer(Some(token))).await
}

/// Deletes the user, for good.
///
/// # Errors
/// As [`me`].
pub async fn delete(auth: &(impl ToAuthUrl + ?Sized), token: &str) -> Result<(), AuthError> {
    let request = Request {
        method: "DELETE",
        ..Request::get("/v1/me")
    };
    tell(auth, request.bearer(Some(token))).await
}

/// The relays that take clients: those that are about to stop are left out.
///
/// # Errors
/// As [`guest`].
pub async fn relays(auth: &(impl ToAuthUrl + ?Sized)) -> Result<Vec<RelayAddress>, AuthError> {
    let url = auth.to_auth_url()?;
    on_a_thread(move || relays_now(&url)).await
}

/// [`relays`], on this thread.
pub(crate) fn relays_now(url: &AuthUrl) -> Result<Vec<RelayAddress>, AuthError> {
    let mut relays = all_relays_now(url)?;
    relays.retain(|relay| !relay.draining);
    Ok(relays)
}

/// Every relay of the mesh, those that are about to stop too: for diagnosis.
///
/// # Errors
/// As [`guest`].
pub async fn all_relays(auth: &(impl ToAuthUrl + ?Sized)) -> Result<Vec<RelayAddress>, AuthError> {
    let url = auth.to_auth_url()?;
    on_a_thread(move || all_relays_now(&url)).await
}

fn all_relays_now(url: &AuthUrl) -> Result<Vec<RelayAddress>, AuthError> {
    #[derive(Deserialize)]
    struct List {
        relays: Vec<RelayAddress>,
    }
    ask(url, &Request::get("/v1/relays")).map(|list: List| list.relays)
}

/// How a plain request to the auth service went: for diagnosis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Which of the host's addresses answered.
    pub from: SocketAddr,
    /// For the TCP connection.
    pub connect: Duration,
    /// For the TLS handshake; `None` for `http`.
    pub tls: Option<Duration>,
    /// From the look-up of the name to the whole answer.
    pub total: Duration,
    pub status: u16,
    /// The service's clock, in whole seconds, if it says it.
    pub date: Option<SystemTime>,
    /// The beginning of what it answered.
    pub body: String,
}

/// Asks for a page of the auth service's, such as `/livez`, and takes whatever it answers.
///
/// # Errors
/// As [`guest`], but for refusals: those are answers here.
pub async fn ping(auth: &(impl ToAuthUrl + ?Sized), path: &'static str) -> Result<Ping, AuthError> {
    /// Enough for an error's JSON.
    const BODY_CHARS_MAX: usize = 512;
    let url = auth.to_auth_url()?;
    let answer = on_a_thread(move || http::call(&url, &Request::get(path))).await?;
    let body = String::from_utf8_lossy(&answer.body);
    Ok(Ping {
        from: answer.course.from,
        connect: answer.course.connect,
        tls: answer.course.tls,
        total: answer.course.total,
        status: answer.status,
        date: answer.date.as_deref().and_then(http_date),
        body: body.chars().take(BODY_CHARS_MAX).collect(),
    })
}

/// The addresses of the auth service's host.
///
/// # Errors
/// `ConnectionLost` if the name has none, `TimedOut` if nobody says within 5 s.
pub async fn resolve(auth: &(impl ToAuthUrl + ?Sized)) -> Result<Vec<SocketAddr>, AuthError> {
    let url = auth.to_auth_url()?;
    on_a_thread(move || http::resolve(&url)).await
}

// ---------------------------------------------------------------------------------------- requests

fn guest_request(secret: &str, name: Option<&str>) -> Request {
    let mut body = json!({ "secret": secret });
    if let Some(name) = name {
        body["display_name"] = Value::from(name);
    }
    Request::post("/v1/guest", &body)
}

fn refresh_request(refresh_token: &RefreshToken) -> Request {
    let body = json!({ "refresh_token": refresh_token.expose() });
    Request::post("/v1/refresh", &body)
}

async fn call<T: DeserializeOwned + Send + 'static>(
    auth: &(impl ToAuthUrl + ?Sized),
    request: Request,
) -> Result<T, AuthError> {
    let url = auth.to_auth_url()?;
    on_a_thread(move || ask(&url, &request)).await
}

/// A call whose answer says nothing more.
async fn tell(auth: &(impl ToAuthUrl + ?Sized), request: Request) -> Result<(), AuthError> {
    let url = auth.to_auth_url()?;
    on_a_thread(move || accepted(&url, http::call(&url, &request)?).map(drop)).await
}

/// Lets what blocks run on a thread of its own.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthError> + Send + 'static,
) -> Result<T, AuthError> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("dreamcatcher-auth".to_owned())
        // Nobody waits any more if sending fails.
        .spawn(move || drop(done.send(work())))
        .map_err(|error| Error::new(ErrorCode::Internal, format!("the auth thread: {error}")))?;
    result
        .await
        .unwrap_or_else(|_| Err(Error::from(ErrorCode::Internal).into()))
}

/// Makes the call on this thread and reads the answer.
fn ask<T: DeserializeOwned>(url: &AuthUrl, request: &Request) -> Result<T, AuthError> {
    let body = accepted(url, http::call(url, request)?)?;
    serde_json::from_slice(&body).map_err(|error| {
        // Where it went wrong, and not what stood there: that may be a token.
        let (line, column) = (error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Data => "JSON of another kind",
            serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof
            | serde_json::error::Category::Io => "something that is not JSON",
        };
        let message = format!(
            "{url} answered {} {} with {what} (line {line}, column {column}): is it a Dreamcatcher \
             auth service of this version?",
            request.method, request.path
        );
        AuthError::new(Step::Exchange, ErrorCode::Internal, message)
    })
}

/// The body of an answer that is not a refusal.
fn accepted(url: &AuthUrl, answer: Answer) -> Result<Vec<u8>, AuthError> {
    #[derive(Deserialize)]
    struct Refusal {
        code: u16,
        message: String,
        #[serde(default)]
        retry_after_ms: Option<u64>,
    }
    let refused = |code, message| AuthError::new(Step::Answer, code, message);
    match answer.status {
        200..300 => return Ok(answer.body),
        300..400 => {
            let elsewhere = answer.location.unwrap_or_else(|| "elsewhere".to_owned());
            let message = format!("{url} redirects to {elsewhere:?}; give that service's address");
            return Err(refused(ErrorCode::InvalidArgument, message));
        }
        _ => {}
    }
    Err(match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) => {
            let code = ErrorCode::from_u16(refusal.code).unwrap_or(ErrorCode::Internal);
            let exact = refusal.retry_after_ms.map(Duration::from_millis);
            refused(code, refusal.message).retry_after_or(exact.or(answer.retry_after))
        }
        // A proxy's page.
        Err(_) => {
            let code = match answer.status {
                429 => ErrorCode::RateLimited,
                502..=504 => ErrorCode::ConnectionLost,
                _ => ErrorCode::Internal,
            };
            let message = format!("{url} answered with status {}", answer.status);
            refused(code, message).retry_after_or(answer.retry_after)
        }
    })
}

/// A date as HTTP writes it, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fits = (1970..=9999).contains(&year) && (1..=31).contains(&day);
    if parts.next()? != "GMT" || !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years that begin in March: the leap day is their last.
    let years = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = years * 365 + years / 4 - years / 100 + years / 400 + day_of_year;
    let since_1970 = days.checked_sub(719_468)?;
    let seconds = since_1970 * 86_400 + hour * 3_600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

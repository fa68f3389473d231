//! An error, as HTTP says it.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use dreamcatcher_proto::{Error, ErrorCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{BODY_BYTES_MAX, hash};

/// When to come back to something that is away: it is looked for more often than that.
const RETRY_AFTER_ABSENCE: Duration = Duration::from_secs(1);

/// A request that got no answer, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: Error,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            error: Error::new(code, message.into()),
            retry_after: None,
        }
    }

    /// Too many requests of one address.
    pub(crate) fn rate_limited(retry_after: Duration) -> Self {
        let what = "too many requests from this address";
        Self::wait(StatusCode::TOO_MANY_REQUESTS, what, retry_after)
    }

    /// Too many wrong passwords, for one account or from one address: which of them is not said.
    pub(crate) fn login_limited(retry_after: Duration) -> Self {
        let what = "too many failed logins";
        Self::wait(StatusCode::TOO_MANY_REQUESTS, what, retry_after)
    }

    /// No room in the queue for another password.
    pub(crate) fn hashing_busy() -> Self {
        let what = "too many players sign in at this moment";
        Self::wait(StatusCode::SERVICE_UNAVAILABLE, what, hash::RETRY_AFTER)
    }

    /// Not ready, and why: for operators.
    pub(crate) fn not_ready(error: Error) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error,
            retry_after: Some(RETRY_AFTER_ABSENCE),
        }
    }

    pub(crate) fn body_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::MessageTooLarge,
            format!("the body is larger than the limit of {BODY_BYTES_MAX} bytes; send less"),
        )
    }

    fn wait(status: StatusCode, what: &str, retry_after: Duration) -> Self {
        let message = format!("{what}; try again in {retry_after:.1?}");
        Self {
            retry_after: Some(retry_after),
            ..Self::new(status, ErrorCode::RateLimited, message)
        }
    }
}

/// The status of an error from behind the API.
fn status_of(error: &Error) -> StatusCode {
    use ErrorCode as Code;

    let code = error.code();
    let is = |codes: &[Code]| codes.contains(&code);
    if is(&[Code::InvalidArgument]) {
        StatusCode::BAD_REQUEST
    } else if is(&[
        Code::InvalidCredentials,
        Code::InvalidToken,
        Code::TokenExpired,
        Code::TokenRevoked,
        Code::SignedOut,
    ]) {
        StatusCode::UNAUTHORIZED
    } else if is(&[Code::UsernameTaken, Code::AlreadyLinked]) {
        StatusCode::CONFLICT
    } else if error.is_retryable() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = status_of(&error);
        let absent = status == StatusCode::SERVICE_UNAVAILABLE;
        // Where the records are and what is wrong with them is for the operator.
        let inner = error.code() == ErrorCode::StoreUnavailable;
        Self {
            status,
            error: if inner { error.code().into() } else { error },
            retry_after: absent.then_some(RETRY_AFTER_ABSENCE),
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Error::from(code).into()
    }
}

/// What a refused request is answered with.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    /// Stable: what programs look at.
    #[schema(example = 206)]
    code: u16,
    /// The code's name.
    #[schema(example = "RateLimited")]
    name: &'static str,
    /// For people; never contractual.
    message: Cow<'a, str>,
    /// Whether the same request can succeed later without a change.
    retryable: bool,
    /// When to try again, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1_000)]
    retry_after_ms: Option<u64>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.error.code();
        // What went wrong inside is for the operator; the caller learns that it did. A caller's own
        // words are not logged: they may hold its secret.
        let message = if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %self.error, "request failed");
            code.meaning()
        } else {
            tracing::debug!(
                status = self.status.as_u16(),
                code = code.name(),
                "request refused"
            );
            self.error.message()
        };
        let retry_after_ms = self
            .retry_after
            .map(|after| u64::try_from(after.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX));
        let body = Json(ErrorBody {
            code: code as u16,
            name: code.name(),
            message: message.into(),
            retryable: self.error.is_retryable(),
            retry_after_ms,
        });
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if let Some(ms) = retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of the body would be the next request.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // For those who count.
        response.extensions_mut().insert(code);
        response
    }
}

//! An error, as HTTP says it.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, JsonRejection};
use axum::http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use dreamcatcher_proto::{Error, ErrorCode};
use serde::Serialize;

use crate::BODY_BYTES_MAX;

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

    pub(crate) fn rate_limited(retry_after: Duration) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            error: Error::new(
                ErrorCode::RateLimited,
                format!("too many sign-ins from this address; try again in {retry_after:.1?}"),
            ),
            retry_after: Some(retry_after),
        }
    }
}

/// An error from behind the API: the caller's fault only if it is `InvalidArgument`.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = if error.code() == ErrorCode::InvalidArgument {
            StatusCode::BAD_REQUEST
        } else if error.is_retryable() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self {
            status,
            error,
            retry_after: None,
        }
    }
}

impl From<JsonRejection> for Refusal {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's enum may grow"
    )]
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorCode::InvalidArgument,
                "the header Content-Type must be application/json",
            ),
            JsonRejection::BytesRejection(BytesRejection::FailedToBufferBody(
                FailedToBufferBody::LengthLimitError(_),
            )) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                ErrorCode::MessageTooLarge,
                format!("the body is larger than the limit of {BODY_BYTES_MAX} bytes; send less"),
            ),
            other => Self::new(
                other.status(),
                ErrorCode::InvalidArgument,
                other.body_text(),
            ),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            code: u16,
            name: &'a str,
            message: &'a str,
            retryable: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_ms: Option<u64>,
        }

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
        let body = Json(Body {
            code: code as u16,
            name: code.name(),
            message,
            retryable: self.error.is_retryable(),
            retry_after_ms,
        });
        let mut response = (self.status, body).into_response();
        if let Some(ms) = retry_after_ms {
            let seconds = HeaderValue::from(ms.div_ceil(1_000));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

//! A call to the auth service that failed.

use std::fmt;
use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode};

/// How far a call to the auth service came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An argument was wrong, or the system refused to help: nothing was sent.
    Start,
    /// The host's name has no address.
    Name,
    /// No address of the host takes a connection.
    Connect,
    /// The certificate is not one to trust, or TLS went wrong otherwise.
    Tls,
    /// The connection broke, was too slow, or does not speak this API.
    Exchange,
    /// The service answered, and refused.
    Answer,
}

/// Why a call to the auth service failed: the service's own code and words, or what became of the
/// connection. It turns into an [`Error`] by `?`.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthError {
    error: Error,
    step: Step,
    retry_after: Option<Duration>,
}

impl AuthError {
    pub(crate) fn new(step: Step, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error: Error::new(code, message.into()),
            step,
            retry_after: None,
        }
    }

    pub(super) fn retry_after_or(self, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.error.code()
    }

    /// For people; never contractual.
    #[must_use]
    pub fn message(&self) -> &str {
        self.error.message()
    }

    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.error.is_retryable()
    }

    /// How long the service wants to be left alone, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }
}

/// As it displays, as [`Error`] does.
impl fmt::Debug for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for AuthError {}

impl From<AuthError> for Error {
    fn from(error: AuthError) -> Self {
        error.error
    }
}

/// An argument that is wrong.
impl From<Error> for AuthError {
    fn from(error: Error) -> Self {
        Self {
            error,
            step: Step::Start,
            retry_after: None,
        }
    }
}

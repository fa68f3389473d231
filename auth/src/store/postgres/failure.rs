//! Why a transaction failed, and whether another try is worth it.

use dreamcatcher_proto::Error;
use tokio_postgres::error::SqlState;

use super::connect::failed;
use crate::store::unavailable;

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub(super) enum Failure {
    Database(tokio_postgres::Error),
    /// Whether it was committed is not known.
    Commit(tokio_postgres::Error),
    /// Another was first; the next try sees what it did.
    Lost,
    Refused(Error),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Most often of a connection that waited in the pool while the server went away and came back.
pub(super) fn is_connection_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN,
    }
}

impl Failure {
    /// Nothing was committed, and the cause is gone at the next try.
    pub(super) fn is_worth_another_try(&self) -> bool {
        let conflict = |e: &tokio_postgres::Error| {
            matches!(
                e.code(),
                Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
            )
        };
        match self {
            Self::Database(e) => is_connection_lost(e) || conflict(e),
            Self::Commit(e) => conflict(e),
            Self::Lost => true,
            Self::Refused(_) => false,
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Database(e) | Self::Commit(e) => failed(&e),
            Self::Lost => unavailable("others were first each time"),
            Self::Refused(error) => error,
        }
    }
}

//! What an error of SQLite means.

use dreamcatcher_proto::{Error, ErrorCode};
use rusqlite::ffi;

use crate::store::unavailable;

pub(super) fn is_not_unique(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|e| e.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE)
}

pub(super) fn closed() -> Error {
    Error::new(ErrorCode::Internal, "the store is closed")
}

/// The machine's trouble passes; anything else is ours.
pub(super) fn failed(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OutOfMemory,
        ReadOnly, SystemIoFailure,
    };
    let passes = matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | OutOfMemory
                | ReadOnly
                | SystemIoFailure
        )
    );
    if passes {
        unavailable(error)
    } else {
        Error::new(ErrorCode::Internal, format!("the store failed: {error}"))
    }
}

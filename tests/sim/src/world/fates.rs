//! How lives may end.

use dreamcatcher_proto::ErrorCode;

/// How a life ends that was left; it may have been cut off meanwhile.
pub(super) const LEFT: &[ErrorCode] = &[ErrorCode::Ok, ErrorCode::TimedOut];
/// How a life ends whose session's owner crashed.
pub(super) const LOST: &[ErrorCode] = &[ErrorCode::OwnerLost];
/// How a life ends whose user joined from another device; it may hear of it when it resumes.
pub(super) const REPLACED: &[ErrorCode] =
    &[ErrorCode::ReplacedByNewConnection, ErrorCode::RejoinExpired];
/// How a life ends for two reasons at a time.
pub(super) const ENDED: &[ErrorCode] = &[
    ErrorCode::Ok,
    ErrorCode::TimedOut,
    ErrorCode::OwnerLost,
    ErrorCode::ReplacedByNewConnection,
    ErrorCode::RejoinExpired,
];

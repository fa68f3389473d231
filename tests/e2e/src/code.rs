//! The error codes of the page that the tests expect.

pub const OK: u64 = 0;
pub const INVALID_ARGUMENT: u64 = 100;
pub const INVALID_STATE: u64 = 101;
pub const MESSAGE_TOO_LARGE: u64 = 103;
pub const PROTOCOL_VERSION: u64 = 202;
pub const RELAY_DRAINING: u64 = 203;
pub const SLOW_CONSUMER: u64 = 204;
pub const REPLACED_BY_NEW_CONNECTION: u64 = 205;
pub const MALFORMED_FRAME: u64 = 209;
pub const FRAME_TOO_LARGE: u64 = 210;
pub const TRUNCATED_FRAME: u64 = 211;
pub const UNKNOWN_FRAME: u64 = 212;
pub const HELLO_TIMEOUT: u64 = 213;
pub const TOKEN_EXPIRED: u64 = 301;
pub const INVALID_TOKEN: u64 = 307;
pub const SESSION_NOT_FOUND: u64 = 400;
pub const SESSION_FULL: u64 = 401;
pub const INVALID_JOIN_CODE: u64 = 404;
pub const ALREADY_IN_SESSION: u64 = 408;
pub const REJOIN_EXPIRED: u64 = 409;
pub const VERSION_MISMATCH: u64 = 410;
pub const OWNER_LOST: u64 = 412;
pub const JOIN_CODE_NOT_FOUND: u64 = 413;
pub const PEER_NOT_FOUND: u64 = 500;
pub const DIRECTORY_UNAVAILABLE: u64 = 901;
pub const STORE_UNAVAILABLE: u64 = 902;

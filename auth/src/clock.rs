//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

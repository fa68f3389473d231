//! Numbers that nobody can guess and that a seed repeats.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator};

/// Length of a connection id: enough that no two of one endpoint meet.
const CONNECTION_ID_BYTES: usize = 8;

/// HMAC-SHA-256 of a count, under the seed; shared between the core and QUIC's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Random(Arc<Mutex<Count>>);

#[derive(Debug)]
struct Count {
    key: hmac::Key,
    drawn: u64,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &seed);
        Self(Arc::new(Mutex::new(Count { key, drawn: 0 })))
    }

    pub(crate) fn draw(&self) -> [u8; 32] {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        count.drawn += 1;
        let tag = hmac::sign(&count.key, &count.drawn.to_be_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    pub(crate) fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.draw();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    pub(crate) fn connection_id(&self) -> ConnectionId {
        ConnectionId::new(&self.draw()[..CONNECTION_ID_BYTES])
    }
}

impl ConnectionIdGenerator for Random {
    fn generate_cid(&mut self) -> ConnectionId {
        self.connection_id()
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_no_two_of_them_are_the_same() {
        let (one, again, other) = (
            Random::new([1; 32]),
            Random::new([1; 32]),
            Random::new([2; 32]),
        );
        let first = one.draw();
        assert_eq!(first, again.draw());
        assert_ne!(first, other.draw());
        assert_ne!(first, one.draw());
    }
}

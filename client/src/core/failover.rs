//! Which relay is tried next, and when.

use std::net::SocketAddr;
use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode};
use serde::Deserialize;

/// First pause between two tries; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that held this long was a good one: the next is tried at once.
const HELD_WELL: Duration = Duration::from_secs(5);

/// A relay, as the auth service lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RelayAddress {
    pub address: SocketAddr,
    /// The certificates to accept, by the SHA-256 of their DER form, in JSON as 64 hexadecimal
    /// digits each.
    #[serde(deserialize_with = "hashes")]
    pub certificate_sha256: Vec<[u8; 32]>,
    #[serde(default)]
    pub node_id: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
}

impl RelayAddress {
    /// How it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.node_id {
            Some(node) => format!("{node} ({})", self.address),
            None => self.address.to_string(),
        }
    }
}

fn hashes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
    let hash = |text: &String| {
        let digit = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = digit(at)?;
        }
        (text.len() == 64).then_some(bytes)
    };
    let texts = Vec::<String>::deserialize(deserializer)?;
    let bytes: Option<_> = texts.iter().map(hash).collect();
    bytes
        .ok_or_else(|| serde::de::Error::custom("certificate_sha256 must be 64 hexadecimal digits"))
}

/// The relays in order of preference, and how far down the list we are.
#[derive(Debug)]
pub(super) struct Failover {
    relays: Vec<RelayAddress>,
    at: usize,
    pause: Duration,
    /// Why each try since the last good connection failed.
    causes: Vec<String>,
}

impl Failover {
    /// `InvalidArgument` if there is nothing to connect to, or no way to know that it is a relay.
    pub(super) fn new(relays: Vec<RelayAddress>) -> Result<Self, Error> {
        let argument = |message: String| Err(Error::new(ErrorCode::InvalidArgument, message));
        if relays.is_empty() {
            return argument("relays is empty; give at least one".to_owned());
        }
        if let Some(open) = relays
            .iter()
            .find(|relay| relay.certificate_sha256.is_empty())
        {
            let name = open.name();
            return argument(format!(
                "relay {name} has no certificate_sha256; give at least one"
            ));
        }
        Ok(Self {
            relays,
            at: 0,
            pause: Duration::ZERO,
            causes: Vec::new(),
        })
    }

    pub(super) fn relay(&self) -> &RelayAddress {
        &self.relays[self.at]
    }

    /// Moves on to the next relay because of `cause`, at the first connect: `Err` once each was
    /// tried, with every cause.
    pub(super) fn next_of_first_round(&mut self, cause: &Error) -> Result<(), Error> {
        self.causes
            .push(format!("{}: {cause}", self.relay().name()));
        if self.causes.len() < self.relays.len() {
            self.at = (self.at + 1) % self.relays.len();
            return Ok(());
        }
        Err(self.unreachable())
    }

    /// What to say when no relay has answered.
    pub(super) fn unreachable(&mut self) -> Error {
        let causes = std::mem::take(&mut self.causes).join("; ");
        Error::new(
            ErrorCode::NoRelayReachable,
            format!("no relay answered: {causes}"),
        )
    }

    /// Moves on to the next relay after a connection that `held` so long (zero: a try that failed),
    /// and says how long to wait before it. `jitter` is 0–255: who lost the same relay does not come
    /// back at the same moment.
    pub(super) fn next_after(&mut self, held: Duration, jitter: u8) -> Duration {
        self.causes.clear();
        self.at = (self.at + 1) % self.relays.len();
        if held >= HELD_WELL {
            self.pause = Duration::ZERO;
            return Duration::ZERO;
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.pause * (256 + u32::from(jitter) / 4) / 256
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn the_first_connect_tries_each_relay_once_in_order_and_then_names_each_cause() {
        let mut failover = Failover::new(vec![relay(1), relay(2)]).unwrap();
        assert_eq!(failover.relay(), &relay(1));
        failover
            .next_of_first_round(&ErrorCode::ConnectionLost.into())
            .unwrap();
        assert_eq!(failover.relay(), &relay(2));
        let error = failover
            .next_of_first_round(&ErrorCode::ServerFull.into())
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoRelayReachable);
        for part in [
            "relay-1-0 (127.0.0.1:1)",
            "ConnectionLost",
            "127.0.0.1:2",
            "ServerFull",
        ] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn pauses_double_to_a_limit_and_a_good_connection_resets_them() {
        let mut failover = Failover::new(vec![relay(1), relay(2)]).unwrap();
        let pauses: Vec<_> = (0..7)
            .map(|_| failover.next_after(Duration::ZERO, 0).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(
            failover.relay(),
            &relay(2),
            "each try goes to the next relay"
        );
        assert!(failover.next_after(Duration::ZERO, 255) <= PAUSE_MAX * 5 / 4);
        assert_eq!(failover.next_after(HELD_WELL, 9), Duration::ZERO);
        assert_eq!(failover.next_after(Duration::ZERO, 0), PAUSE_MIN);
    }

    #[test]
    fn a_relay_without_a_certificate_hash_is_refused() {
        let open = RelayAddress {
            certificate_sha256: Vec::new(),
            ..relay(1)
        };
        for relays in [vec![], vec![relay(2), open]] {
            assert_eq!(
                Failover::new(relays).map_err(|e| e.code()).unwrap_err(),
                ErrorCode::InvalidArgument
            );
        }
    }

    #[test]
    fn a_relay_is_read_from_the_json_of_the_auth_service() {
        let json = |hash: &str| {
            let text = format!(
                r#"{{"node_id": "relay-1-0", "region": "local", "host": "h", "address": "127.0.0.1:1",
                    "certificate_sha256": ["{hash}"], "load": 1, "capacity": 2, "draining": false}}"#
            );
            serde_json::from_str::<RelayAddress>(&text)
        };
        assert_eq!(
            json(&"5a".repeat(32)).unwrap().certificate_sha256,
            [[0x5a; 32]]
        );
        for bad in [
            "",
            "5a",
            &"5a".repeat(33),
            &"zz".repeat(32),
            &"é".repeat(32),
        ] {
            assert!(json(bad).is_err(), "{bad}");
        }
    }

    fn relay(number: u16) -> RelayAddress {
        RelayAddress {
            address: ([127, 0, 0, 1], number).into(),
            certificate_sha256: vec![[1; 32]],
            node_id: Some(format!("relay-{number}-0")),
            region: None,
        }
    }
}

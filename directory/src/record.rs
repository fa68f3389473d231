//! What is stored, as it is stored: JSON whose every field is checked when it is read, because a
//! store may hold anything.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use dreamcatcher_proto::control::Visibility;
use dreamcatcher_proto::{BootId, Epoch, Error, ErrorCode, JoinCode, NodeId, PeerId, SessionId};
use serde::{Deserialize, Serialize};

use crate::limits;

/// The directory's wall clock: µs since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `term` later. Saturates.
    #[must_use]
    pub fn after(self, term: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(term.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// How long it is from `earlier` to here; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A node in one of its runs: who holds a lease, a session, a copy of a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    pub node: NodeId,
    #[serde(with = "boot_text")]
    pub boot: BootId,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.node, self.boot.0)
    }
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Sessions that it owns.
    pub sessions: u32,
    /// Clients that are connected to it.
    pub clients: u32,
}

/// A node as it makes itself known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub id: NodeId,
    #[serde(with = "boot_text")]
    pub boot: BootId,
    /// Which mesh it belongs to: follows from the cluster key, which does not follow from it.
    #[serde(with = "nonce_text")]
    pub mesh_id: u64,
    /// The failure domain: [`parse_host`].
    #[serde(deserialize_with = "host")]
    pub host: String,
    /// [`parse_region`].
    #[serde(deserialize_with = "region")]
    pub region: String,
    /// Where clients reach it (QUIC).
    pub address: SocketAddr,
    /// Where other nodes reach it.
    pub mesh_address: SocketAddr,
    /// What clients pin: the certificates that it may present, ≤ [`limits::CERTIFICATES_MAX`].
    #[serde(with = "certificates")]
    pub certificate_sha256: Vec<[u8; 32]>,
    /// Its weight in the ring, 1–[`limits::CAPACITY_MAX`].
    #[serde(deserialize_with = "capacity")]
    pub capacity: u32,
    /// Clients that it has room for.
    pub clients_max: u32,
    pub load: Load,
    /// It takes nothing new.
    pub draining: bool,
    /// An operator asked it to drain. The directory's word, not the node's: registering and renewing
    /// leave it as it is, and a new run begins without it.
    pub drain_wanted: bool,
}

impl NodeRecord {
    #[must_use]
    pub fn holder(&self) -> Holder {
        Holder {
            node: self.id.clone(),
            boot: self.boot,
        }
    }

    /// Whether it is reached where `other` is: of two runs of one node there, the earlier is dead,
    /// because the sockets are the later's.
    pub(crate) fn is_where(&self, other: &Self) -> bool {
        (self.address, self.mesh_address) == (other.address, other.mesh_address)
    }

    /// `InvalidArgument` if a store would refuse to read this back.
    pub(crate) fn check(&self) -> Result<(), Error> {
        parse_host(&self.host)?;
        parse_region(&self.region)?;
        check_capacity(self.capacity)?;
        check_certificates(self.certificate_sha256.len())
    }
}

/// What of a node changes while it runs, as it is stored where that stands apart from the rest.
#[cfg(feature = "redis")]
#[derive(Serialize)]
pub(crate) struct NodeState<'a> {
    pub(crate) load: Load,
    pub(crate) draining: bool,
    #[serde(serialize_with = "certificates::serialize")]
    pub(crate) certificate_sha256: &'a [[u8; 32]],
}

/// Who owns a session, and who holds its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    #[serde(deserialize_with = "epoch")]
    pub epoch: Epoch,
    /// Random: tells two equal epochs apart, which a store that loses writes can give out.
    #[serde(with = "nonce_text")]
    pub nonce: u64,
    pub owner: Holder,
    pub standby: Option<Holder>,
    /// Members whose tails count when the log is rebuilt from them, ≤ [`limits::ANCHORS_MAX`].
    #[serde(deserialize_with = "anchors")]
    pub anchors: Vec<PeerId>,
}

impl View {
    /// `InvalidArgument` if a store would refuse to read this back.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_anchors(self.anchors.len())
    }
}

/// The truth about who may own a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub id: SessionId,
    #[serde(deserialize_with = "region")]
    pub home_region: String,
    /// The highest epoch that was given out for this session; its claimant may install a view.
    /// Equal to `view.epoch` unless a claim is under way or was given up.
    #[serde(deserialize_with = "epoch")]
    pub ballot: Epoch,
    pub view: View,
    pub code: Option<JoinCode>,
    /// What its owner last asserted, while that is fresh.
    pub listing: Option<Listing>,
}

impl SessionRecord {
    /// `InvalidArgument` if a store would refuse to read this back, or the view is ahead of the
    /// ballot.
    pub(crate) fn check(&self) -> Result<(), Error> {
        parse_region(&self.home_region)?;
        self.view.check()?;
        check(self.view.epoch <= self.ballot, || {
            format!(
                "the view's epoch {} is above the ballot {}",
                self.view.epoch, self.ballot
            )
        })
    }
}

/// What a list shows of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    #[serde(deserialize_with = "session_name")]
    pub name: String,
    pub players: u16,
    #[serde(deserialize_with = "max_players")]
    pub max_players: u16,
    pub visibility: Visibility,
    #[serde(deserialize_with = "app_version")]
    pub app_version: String,
    pub grade: Grade,
}

impl Listing {
    /// Seats that are free.
    #[must_use]
    pub const fn open_seats(&self) -> u16 {
        self.max_players.saturating_sub(self.players)
    }
}

/// Whether an entry is stored by a standby before it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Safe,
    Fast,
}

/// Something that changed. A hint: it may be late, doubled or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A run of a node that was not alive before.
    NodeUp(NodeRecord),
    /// The same run, with another load, address, certificate or drain flag.
    NodeChanged(NodeRecord),
    /// This run has ended, or was not heard of for its lease. What it owned may be claimed.
    NodeGone(Holder),
    /// A session has another owner or standby.
    SessionMoved {
        id: SessionId,
        view: View,
    },
    SessionClosed(SessionId),
}

/// A region name: 1–32 characters of `[a-z0-9-]`.
pub fn parse_region(text: &str) -> Result<String, Error> {
    let letter = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let fits = (1..=dreamcatcher_proto::limits::REGION_CHARS_MAX).contains(&text.len());
    check(fits && text.bytes().all(letter), || {
        let max = dreamcatcher_proto::limits::REGION_CHARS_MAX;
        format!("region {text:?} must be 1–{max} characters of a-z, 0-9 and dashes")
    })?;
    Ok(text.to_owned())
}

/// A host label: 1–253 characters of `[A-Za-z0-9._-]`, as host names are.
pub fn parse_host(text: &str) -> Result<String, Error> {
    let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    let fits = (1..=limits::HOST_CHARS_MAX).contains(&text.len());
    check(fits && text.bytes().all(letter), || {
        let max = limits::HOST_CHARS_MAX;
        format!("host {text:?} must be 1–{max} characters of letters, digits, '.', '_' and '-'")
    })?;
    Ok(text.to_owned())
}

pub(crate) fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::new(ErrorCode::InvalidArgument, message()))
    }
}

fn check_capacity(weight: u32) -> Result<(), Error> {
    let max = limits::CAPACITY_MAX;
    check((1..=max).contains(&weight), || {
        format!("capacity {weight} must be 1–{max}")
    })
}

pub(crate) fn check_certificates(count: usize) -> Result<(), Error> {
    let max = limits::CERTIFICATES_MAX;
    check(count <= max, || {
        format!("{count} certificate hashes are over the limit of {max}")
    })
}

fn check_anchors(count: usize) -> Result<(), Error> {
    let max = limits::ANCHORS_MAX;
    check(count <= max, || {
        format!("{count} anchors are over the limit of {max}")
    })
}

/// Makes a serde field reader of a check: read the plain type, then keep it or say why not.
macro_rules! checked_fields {
    ($($name:ident($value:ident: $raw:ty) -> $out:ty = $parse:expr;)*) => {
        $(fn $name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<$out, D::Error> {
            let $value = <$raw>::deserialize(deserializer)?;
            $parse.map_err(serde::de::Error::custom)
        })*
    };
}

checked_fields! {
    host(text: String) -> String = parse_host(&text);
    region(text: String) -> String = parse_region(&text);
    capacity(weight: u32) -> u32 = check_capacity(weight).map(|()| weight);
    epoch(epoch: Epoch) -> Epoch = check(epoch.0 <= limits::EPOCH_MAX, || {
        format!("epoch {epoch} must be at most {}", limits::EPOCH_MAX)
    }).map(|()| epoch);
    anchors(peers: Vec<PeerId>) -> Vec<PeerId> = check_anchors(peers.len()).map(|()| peers);
    max_players(seats: u16) -> u16 = {
        let max = dreamcatcher_proto::limits::PLAYERS_MAX;
        check((1..=max).contains(&seats), || format!("max_players {seats} must be 1–{max}"))
    }.map(|()| seats);
    session_name(name: String) -> String = {
        let max = dreamcatcher_proto::limits::SESSION_NAME_CHARS_MAX;
        check(name.chars().take(max + 1).count() <= max, || {
            format!("the session name is over the limit of {max} characters")
        })
    }.map(|()| name);
    app_version(version: String) -> String = {
        let max = dreamcatcher_proto::limits::APP_VERSION_BYTES_MAX;
        check(version.len() <= max, || format!("app_version is over the limit of {max} bytes"))
    }.map(|()| version);
}

/// 64 random bits as 16 hexadecimal digits, because a JSON number holds 53 bits in most languages.
macro_rules! text_of_64_bits {
    ($name:ident, $type:ty, $bits:expr, $wrap:expr) => {
        mod $name {
            use super::*;

            pub(super) fn serialize<S: serde::Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("{:016x}", $bits(value)))
            }

            pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let text = String::deserialize(deserializer)?;
                let bits = from_hex(&text)
                    .map(u64::from_be_bytes)
                    .ok_or_else(|| serde::de::Error::custom("must be 16 hexadecimal digits"))?;
                Ok($wrap(bits))
            }
        }
    };
}

text_of_64_bits!(boot_text, BootId, |boot: &BootId| boot.0, BootId);
text_of_64_bits!(nonce_text, u64, |nonce: &u64| *nonce, |bits| bits);

/// SHA-256 hashes as lower-case hexadecimal digits.
mod certificates {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(
        hashes: &[[u8; 32]],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(hashes.iter().map(hex))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<[u8; 32]>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        check_certificates(texts.len()).map_err(serde::de::Error::custom)?;
        texts
            .iter()
            .map(|text| from_hex(text))
            .collect::<Option<_>>()
            .ok_or_else(|| serde::de::Error::custom("a certificate hash is 64 hexadecimal digits"))
    }

    fn hex(hash: &[u8; 32]) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(feature = "redis")]
impl Holder {
    /// As it displays: `node@boot`.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (node, boot) = text.split_once('@')?;
        Some(Self {
            node: node.parse().ok()?,
            boot: BootId(from_hex(boot).map(u64::from_be_bytes)?),
        })
    }
}

/// Exactly `N` bytes in lower-case hexadecimal digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::conformance::{holder, listing, node, session};

    #[test]
    fn a_record_reads_back_as_it_was_stored() {
        let node = NodeRecord {
            boot: BootId(u64::MAX),
            ..node(&holder("a", 1))
        };
        assert_eq!(read::<NodeRecord>(stored(&node)).ok(), Some(node));
        let session = record();
        assert_eq!(read::<SessionRecord>(stored(&session)).ok(), Some(session));
        let change = Change::SessionMoved {
            id: record().id,
            view: record().view,
        };
        assert_eq!(read::<Change>(stored(&change)).ok(), Some(change));
    }

    #[test]
    fn no_number_of_a_record_needs_more_than_53_bits() {
        fn walk(value: &Value) {
            match value {
                Value::Number(n) => assert!(n.as_u64() <= Some(limits::EPOCH_MAX), "{n}"),
                Value::Array(values) => values.iter().for_each(walk),
                Value::Object(fields) => fields.values().for_each(walk),
                Value::Null | Value::Bool(_) | Value::String(_) => {}
            }
        }
        walk(&stored(&record()));
        walk(&stored(&NodeRecord {
            boot: BootId(u64::MAX),
            ..node(&holder("a", 1))
        }));
    }

    #[test]
    fn a_hostile_value_is_refused_where_it_is_read() {
        let node = stored(&node(&holder("a", 1)));
        for (field, bad) in [
            ("/id", json!("A node")),
            ("/boot", json!(1)),
            ("/boot", json!("00000000000000gg")),
            ("/boot", json!("+000000000000001")),
            ("/host", json!("")),
            ("/host", json!("a\r\nb")),
            ("/host", json!("h".repeat(254))),
            ("/region", json!("EU")),
            ("/region", json!("r".repeat(33))),
            ("/address", json!("nowhere")),
            ("/certificate_sha256", json!(["00"])),
            ("/certificate_sha256", json!(vec!["00".repeat(32); 5])),
            ("/capacity", json!(0)),
            ("/capacity", json!(limits::CAPACITY_MAX + 1)),
            ("/load/sessions", json!(-1)),
        ] {
            refuses::<NodeRecord>(&node, field, bad);
        }
        let session = stored(&record());
        for (field, bad) in [
            ("/id", json!("00")),
            ("/home_region", json!("")),
            ("/ballot", json!(u64::MAX)),
            ("/view/epoch", json!(limits::EPOCH_MAX + 1)),
            ("/view/nonce", json!("é".repeat(8))),
            ("/view/owner/node", json!("-")),
            ("/view/anchors", json!(vec![1; 17])),
            ("/code", json!("AAAAAA")),
            ("/listing/name", json!("é".repeat(65))),
            ("/listing/max_players", json!(0)),
            ("/listing/max_players", json!(65)),
            ("/listing/app_version", json!("1".repeat(65))),
            ("/listing/visibility", json!("secret")),
            ("/listing/grade", json!(2)),
        ] {
            refuses::<SessionRecord>(&session, field, bad);
        }
    }

    fn refuses<T: serde::de::DeserializeOwned>(good: &Value, field: &str, bad: Value) {
        let mut value = good.clone();
        let place = value.pointer_mut(field);
        *place.unwrap_or_else(|| panic!("no field {field}")) = bad.clone();
        assert!(read::<T>(value).is_err(), "{field} = {bad}");
    }

    fn record() -> SessionRecord {
        SessionRecord {
            id: session(1),
            home_region: "eu".to_owned(),
            ballot: Epoch(limits::EPOCH_MAX),
            view: View {
                epoch: Epoch(1),
                nonce: u64::MAX,
                owner: holder("a", u64::MAX),
                standby: Some(holder("b", 2)),
                anchors: vec![PeerId(1), PeerId(2)],
            },
            code: Some(JoinCode::draw(|| 0)),
            listing: Some(listing("a session")),
        }
    }

    fn stored<T: Serialize>(value: &T) -> Value {
        serde_json::to_value(value).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Through text, as from a store.
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> serde_json::Result<T> {
        serde_json::from_str(&value.to_string())
    }
}

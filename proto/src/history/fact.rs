//! The facts of a history. Each is one thing that one party did or saw.
//!
//! A message is named by its sender's own name for it, mode and [`Mid`], and known by a
//! digest of its content: what was said stays with the game.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorCode};
use crate::frame::{Mode, Place, Target};
use crate::id::{BootId, Epoch, Incarnation, Index, Mid, NodeId, PeerId, Seq, SessionId};
use crate::member::{Event, SendId, SendOptions, SessionInfo};

/// Who wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A client, of what its application did and saw.
    Member,
    /// A relay.
    Relay,
    /// Whoever did something to the mesh.
    Faults,
}

/// What can be recorded.
pub trait Recorded: Serialize + DeserializeOwned {
    const KIND: Kind;
    /// The last fact of a file that is not whole.
    fn incomplete(cause: Cause) -> Self;
    /// Whether this is that fact.
    fn is_incomplete(&self) -> bool;
}

/// Why a file ends before what it records does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The disk was slower than what there was to record.
    TooSlow,
    /// The file has reached [`FILE_BYTES_MAX`](super::FILE_BYTES_MAX).
    TooLarge,
    /// The file could not be written.
    CannotWrite,
}

macro_rules! recorded {
    ($(#[$doc:meta])* $name:ident, $kind:expr, {
        $($(#[$variant_doc:meta])* $variant:ident = $wire:literal $({ $($body:tt)* })? $(($inner:ty))?,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $wire)] $variant $({ $($body)* })? $(($inner))?,)*
            /// Nothing of what follows is recorded.
            #[serde(rename = "incomplete")]
            Incomplete { cause: Cause },
        }

        impl $name {
            /// What the facts are called in a file.
            pub const NAMES: &'static [&'static str] = &[$($wire,)* "incomplete"];
        }

        impl Recorded for $name {
            const KIND: Kind = $kind;

            fn incomplete(cause: Cause) -> Self {
                Self::Incomplete { cause }
            }

            fn is_incomplete(&self) -> bool {
                matches!(self, Self::Incomplete { .. })
            }
        }
    };
}

recorded! {
    /// One thing that a member's application did or saw.
    Fact, Kind::Member, {
        /// A try to create or join that did not work.
        Refused = "refused" {
            #[serde(with = "code")]
            code: ErrorCode,
        },
        Joined = "joined" {
            session: SessionId,
            /// What the member is called in it.
            peer: PeerId,
            incarnation: Incarnation,
            /// The entries that follow have greater indexes.
            index: Index,
            /// Those who were there.
            members: Vec<PeerId>,
        },
        Sent = "sent" {
            mode: Mode,
            seq: Seq,
            target: Target,
            /// What a `Latest` message is the newest of.
            #[serde(default, skip_serializing_if = "is_zero")]
            key: u16,
            message: Digest,
            /// Length of the payload.
            bytes: u32,
        },
        Delivered = "delivered" (Delivery),
        /// The session itself made an entry.
        Membership = "membership" {
            peer: PeerId,
            change: Change,
            /// Why it left; `Ok` otherwise.
            #[serde(with = "code", default = "code::ok", skip_serializing_if = "code::is_ok")]
            code: ErrorCode,
        },
        /// An own Ordered message has its place.
        Committed = "committed" { seq: Seq, index: Index },
        /// An own message reached nobody.
        Rejected = "rejected" {
            mode: Mode,
            seq: Seq,
            #[serde(with = "code")]
            code: ErrorCode,
        },
        /// Reliable messages were lost, and this says so.
        Gap = "gap" { sender: PeerId, missed: u32 },
        /// Continuity was lost: what follows has indexes from here on.
        Resync = "resync" { from: Index, epoch: Epoch },
        Reconnecting = "reconnecting",
        Resumed = "resumed",
        /// The one terminal event.
        Ended = "ended" {
            #[serde(with = "code")]
            code: ErrorCode,
        },
        /// Where it stood when the recording ended and the session did not: the newest entry that
        /// reached its application, and its sends without a known outcome.
        Standing = "standing" { index: Index, unresolved: usize },
    }
}

/// A message, as it reached an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    pub sender: PeerId,
    pub incarnation: Incarnation,
    pub mode: Mode,
    pub seq: Seq,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub key: u16,
    pub message: Digest,
    /// Length of the payload.
    pub bytes: u32,
    /// In mode Ordered; zero in the others.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    pub place: Place,
}

impl Delivery {
    #[must_use]
    pub const fn mid(&self) -> Mid {
        Mid {
            sender: self.sender,
            incarnation: self.incarnation,
            seq: self.seq,
        }
    }
}

/// What became of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Joined,
    Dropped,
    Rejoined,
    Left,
}

recorded! {
    /// One thing that a relay did with a session.
    RelayFact, Kind::Relay, {
        /// It orders a new session.
        Created = "created" { session: SessionId, epoch: Epoch, boot: BootId },
        /// It orders a session that another one ordered: what that one's epochs ordered counts up to
        /// `prefix`, and not beyond.
        TookOver = "took_over" { session: SessionId, epoch: Epoch, boot: BootId, prefix: Index },
        Ordered = "ordered" {
            session: SessionId,
            epoch: Epoch,
            boot: BootId,
            index: Index,
        },
        /// It has promised to refuse everything of lower epochs.
        Sealed = "sealed" { session: SessionId, epoch: Epoch },
        /// It has given the session away; its order under `epoch` ends with `index`.
        HandedOver = "handed_over" { session: SessionId, epoch: Epoch, index: Index, to: NodeId },
    }
}

recorded! {
    /// One thing that was done to the mesh.
    Mark, Kind::Faults, {
        /// A fault begins. Its number tells it from others.
        Injected = "injected" { fault: u32, kind: FaultKind, target: String },
        /// It is over.
        Healed = "healed" { fault: u32 },
    }
}

/// What can be done to a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A relay's process is gone. Over at once: nothing brings the same process back.
    RelayCrash,
    /// A relay's process stands still.
    RelayPause,
    /// A member's process stands still.
    MemberPause,
    /// Nothing gets through between some parties.
    Cut,
    /// Datagrams are lost, late, doubled or in another order.
    Weather,
    /// The directory does not answer.
    DirectoryDown,
    /// The user records cannot be reached.
    StoreDown,
}

impl FaultKind {
    /// In a file, and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RelayCrash => "relay_crash",
            Self::RelayPause => "relay_pause",
            Self::MemberPause => "member_pause",
            Self::Cut => "cut",
            Self::Weather => "weather",
            Self::DirectoryDown => "directory_down",
            Self::StoreDown => "store_down",
        }
    }

    /// Whether there is an end to wait for.
    #[must_use]
    pub const fn lasts(self) -> bool {
        match self {
            Self::RelayCrash => false,
            Self::RelayPause
            | Self::MemberPause
            | Self::Cut
            | Self::Weather
            | Self::DirectoryDown
            | Self::StoreDown => true,
        }
    }
}

impl Fact {
    /// That a session was joined, in which `members` were.
    pub fn joined(info: &SessionInfo, members: impl IntoIterator<Item = PeerId>) -> Self {
        Self::Joined {
            session: info.id,
            peer: info.peer,
            incarnation: info.incarnation,
            index: info.joined_at,
            members: members.into_iter().collect(),
        }
    }

    /// That a message was sent.
    #[must_use]
    pub fn sent(send: SendId, options: &SendOptions, payload: &[u8]) -> Self {
        Self::Sent {
            mode: send.mode,
            seq: send.seq,
            target: options.target.clone(),
            key: options.key,
            message: Digest::of(options.mode, options.channel, payload),
            bytes: length(payload),
        }
    }

    /// That a create or join did not work.
    #[must_use]
    pub const fn refused(error: &Error) -> Self {
        Self::Refused { code: error.code() }
    }
}

impl From<&Event> for Fact {
    fn from(event: &Event) -> Self {
        let membership = |peer, change| Self::Membership {
            peer,
            change,
            code: ErrorCode::Ok,
        };
        match event {
            Event::Message {
                sender,
                incarnation,
                seq,
                mode,
                channel,
                key,
                payload,
                index,
                epoch,
            } => Self::Delivered(Delivery {
                sender: *sender,
                incarnation: *incarnation,
                mode: *mode,
                seq: *seq,
                key: *key,
                message: Digest::of(*mode, *channel, payload),
                bytes: length(payload),
                place: Place {
                    epoch: *epoch,
                    index: index.unwrap_or_default(),
                },
            }),
            Event::PeerJoined(member) => membership(member.peer, Change::Joined),
            Event::PeerDropped(peer) => membership(*peer, Change::Dropped),
            Event::PeerRejoined(peer) => membership(*peer, Change::Rejoined),
            Event::PeerLeft { peer, code, .. } => Self::Membership {
                peer: *peer,
                change: Change::Left,
                code: *code,
            },
            Event::Committed { send, index } => Self::Committed {
                seq: send.seq,
                index: *index,
            },
            Event::Rejected { send, error } => Self::Rejected {
                mode: send.mode,
                seq: send.seq,
                code: error.code(),
            },
            Event::ReliableGap { sender, missed } => Self::Gap {
                sender: *sender,
                missed: *missed,
            },
            Event::Reconnecting => Self::Reconnecting,
            Event::Resumed => Self::Resumed,
            Event::Ended { error, .. } => Self::Ended { code: error.code() },
        }
    }
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}

/// A message by its content: the first 64 bits of BLAKE3 over mode, channel and payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

impl Digest {
    #[must_use]
    pub fn of(mode: Mode, channel: u8, payload: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[mode as u8, channel]).update(payload);
        let hash = hasher.finalize();
        let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let number = u64::from_str_radix(&text, 16);
        match number {
            Ok(number) if text.len() == 16 && text.bytes().all(is_hex) => Ok(Self(number)),
            Ok(_) | Err(_) => Err(D::Error::custom(
                "a message digest must be 16 lower-case hexadecimal digits",
            )),
        }
    }
}
const fn is_zero(key: &u16) -> bool {
    *key == 0
}

fn is_nowhere(place: &Place) -> bool {
    *place == Place::default()
}

/// An error code as its number.
mod code {
    use super::*;
    pub(super) fn serialize<S: Serializer>(code: &ErrorCode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(*code as u16)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ErrorCode, D::Error> {
        let number = u16::deserialize(from)?;
        let unknown = || D::Error::custom(format!("there is no error code {number}"));
        ErrorCode::from_u16(number).ok_or_else(unknown)
    }

    pub(super) const fn ok() -> ErrorCode {
        ErrorCode::Ok
    }
    pub(super) fn is_ok(code: &ErrorCode) -> bool {
        *code == ErrorCode::Ok
    }
}

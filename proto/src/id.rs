//! A type for each thing that has a name.
//!
//! Text forms are the ones logs, JSON and configuration use; each `FromStr` accepts exactly what
//! its `Display` prints.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::limits;

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let hex = |c: &u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
                if text.len() != 32 || !text.as_bytes().iter().all(hex) {
                    return Err(Error::new(
                        ErrorCode::InvalidArgument,
                        concat!($field, " must be 32 lower-case hexadecimal digits"),
                    ));
                }
                u128::from_str_radix(text, 16)
                    .map(|value| Self(value.to_be_bytes()))
                    .map_err(|_| Error::new(ErrorCode::InvalidArgument, $field))
            }
        }

        impl $name {
            /// The id in `bytes`, or `InvalidArgument` unless there are exactly 16.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
                bytes.try_into().map(Self).map_err(|_| {
                    Error::new(
                        ErrorCode::InvalidArgument,
                        concat!($field, " must be 16 bytes"),
                    )
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id128! {
    /// One game. 128 random bits, so that it cannot be guessed.
    SessionId, "session_id"
}
id128! {
    /// One user account, across sessions. The `sub` of a token.
    UserId, "user_id"
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The one after this. Saturates: running out of a counter is a stuck sender, never a repeat.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

number! {
    /// One member of a session, as the other members see it. Given by the owner, stable over
    /// rejoin, never reused within the session. 0 is nobody: the session itself.
    PeerId, u16
}
number! {
    /// Which life of a member: rises by one each time a user joins its seat anew, stays the same
    /// over resume. Starts at 1.
    Incarnation, u16
}
number! {
    /// A sender's count of its messages in one delivery mode, from 1.
    Seq, u32
}
number! {
    /// The place of an entry in a session's one total order, from 1.
    Index, u64
}
number! {
    /// Under which ownership an entry was ordered: unique and rising within a session.
    /// Drawn from the directory's clock in µs, so that it rises even if the directory forgets.
    Epoch, u64
}
number! {
    /// Which run of a relay process: random, drawn at start.
    BootId, u64
}

impl PeerId {
    /// The session itself, as the sender of membership entries.
    pub const SESSION: Self = Self(0);
}

/// (member, incarnation, seq): the sender's own name for a message, the key for exactly-once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mid {
    pub sender: PeerId,
    pub incarnation: Incarnation,
    pub seq: Seq,
}

impl fmt::Display for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.sender, self.incarnation, self.seq)
    }
}

/// One event loop of a relay, as the directory names it: 1–63 characters of `[a-z0-9-]`, not
/// starting or ending with a dash, so that it is also a DNS label (it is the SAN of the node's
/// mesh certificate).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(std::sync::Arc<str>);

impl NodeId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let letter = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fits = (1..=limits::NODE_ID_CHARS_MAX).contains(&text.len());
        if !fits || !text.bytes().all(letter) || text.starts_with('-') || text.ends_with('-') {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "node id {text:?} must be 1–{} characters of a-z, 0-9 and inner dashes",
                    limits::NODE_ID_CHARS_MAX
                ),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a player types to join a friend's session: 6 characters of an alphabet without vowels and
/// look-alikes. Case, spaces and dashes do not matter when it is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinCode([u8; limits::JOIN_CODE_CHARS]);

impl JoinCode {
    /// 20 letters: none that spells a word, none that looks like another.
    pub const ALPHABET: &'static [u8; 20] = b"6789BCDFGHJKLMNPQRTW";

    /// Draws a code from `random` words, without modulo bias: a draw past the largest multiple of
    /// the alphabet is thrown away (one in 2³², so a handful of words is always enough).
    pub fn draw(mut random: impl FnMut() -> u32) -> Self {
        let letters = Self::ALPHABET.len() as u32;
        let fair = u32::MAX - u32::MAX % letters;
        Self(std::array::from_fn(|_| {
            loop {
                let word = random();
                if word < fair {
                    return Self::ALPHABET[(word % letters) as usize];
                }
            }
        }))
    }
}

impl FromStr for JoinCode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || {
            Error::new(
                ErrorCode::InvalidJoinCode,
                format!(
                    "a join code is {} characters of {}",
                    limits::JOIN_CODE_CHARS,
                    String::from_utf8_lossy(Self::ALPHABET)
                ),
            )
        };
        let mut code = [0; limits::JOIN_CODE_CHARS];
        let mut letters = text
            .bytes()
            .filter(|c| !matches!(c, b' ' | b'-'))
            .map(|c| c.to_ascii_uppercase());
        for slot in &mut code {
            *slot = letters
                .next()
                .filter(|c| Self::ALPHABET.contains(c))
                .ok_or_else(malformed)?;
        }
        letters
            .next()
            .is_none()
            .then_some(Self(code))
            .ok_or_else(malformed)
    }
}

impl fmt::Debug for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinCode({self})")
    }
}

impl fmt::Display for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|c| write!(f, "{}", char::from(*c)))
    }
}

impl Serialize for JoinCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JoinCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_prints() {
        let id = SessionId([0xab; 16]);
        assert_eq!(id.to_string().parse::<SessionId>().ok(), Some(id));
        assert!("AB".repeat(16).parse::<SessionId>().is_err());
        assert!("+b".repeat(16).parse::<UserId>().is_err());
        assert!(SessionId::from_slice(&[1; 15]).is_err());
    }

    #[test]
    fn a_node_id_is_a_dns_label() {
        assert!("relay-1-0".parse::<NodeId>().is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_join_code_is_read_in_any_case_with_spaces_and_dashes() {
        let code: JoinCode = "bcd-f 67".parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(code.to_string(), "BCDF67");
        for bad in ["", "BCDF6", "BCDF678", "BCDFA6", "BCDF6é"] {
            let refused = bad.parse::<JoinCode>().map_err(|e| e.code());
            assert_eq!(refused, Err(ErrorCode::InvalidJoinCode), "{bad:?}");
        }
    }

    #[test]
    fn a_drawn_join_code_throws_biased_words_away() {
        let mut words = [u32::MAX, 0, 1, 2, 3, u32::MAX, 19, 20].into_iter();
        let code = JoinCode::draw(|| words.next().unwrap_or(0));
        assert_eq!(code.to_string(), "6789W6");
    }
}

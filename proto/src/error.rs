//! The one error table: a stable u16 on the wire and in every SDK.
//!
//! Codes are grouped by whose fault it is: 1xx the caller's, 2xx the connection's, 3xx the
//! credentials', 4xx the session's, 5xx the message's, 8xx the operator's, 9xx ours. From 10,000 on
//! they are the game's own. The text is for people and never contractual.

use std::fmt;

macro_rules! error_codes {
    ($($code:literal $name:ident $retryable:literal $doc:literal;)*) => {
        /// What went wrong, as a number that never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $(#[doc = $doc] $name = $code,)*
        }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code with this number, if there is one.
            #[must_use]
            pub const fn from_u16(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in documentation, logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What it means and what to do, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $doc,)*
                }
            }

            /// Whether the same request can succeed later without a change.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self {
                    $(Self::$name => $retryable,)*
                }
            }
        }
    };
}

error_codes! {
    0 Ok false "Nothing went wrong: a connection or session ended as asked.";
    100 InvalidArgument false "A value is outside its range; the message names the field and the limit.";
    101 InvalidState false "The call does not fit the state: for example a send before a join.";
    102 NotConnected true "There is no connection to a relay at the moment.";
    103 MessageTooLarge false "The payload is larger than the limit that the message names; send less.";
    104 Cancelled false "The caller gave the request up.";
    105 TimedOut true "The request had no answer in time.";
    106 TooManyUnresolved true "Too many ordered sends still wait for their place in the order; wait for some to resolve.";
    200 NoRelayReachable true "No relay answered; the message lists each relay's cause.";
    201 Timeout true "The relay had no answer from the session's owner in time.";
    202 ProtocolVersion false "Relay and client share no protocol version; update the older one.";
    203 RelayDraining true "The relay is shutting down; connect to another one.";
    204 SlowConsumer true "The client did not read fast enough; its seat is held, reconnect to resume.";
    205 ReplacedByNewConnection false "The same user joined the session from another connection.";
    206 RateLimited true "Too many requests; the message says when to try again.";
    207 ServerFull true "The relay has no room for another connection; use another one.";
    208 NotOwner true "Another relay owns the session; relays follow this by themselves.";
    209 MalformedFrame false "A frame's bytes do not follow docs/protocol.md.";
    210 FrameTooLarge false "A frame's length is over the limit.";
    211 TruncatedFrame false "A stream or datagram ended inside a frame.";
    212 UnknownFrame false "A frame's type is not known in this protocol version.";
    213 HelloTimeout true "No valid Hello came within the time limit.";
    214 ConnectionLost true "The connection ended without a word: the network or the relay went away.";
    300 InvalidCredentials false "User, password or guest secret are wrong.";
    301 TokenExpired true "The access token is past its time; sign in again.";
    302 TokenRevoked false "The access token was revoked.";
    303 AccountBanned false "The account is banned.";
    304 AlreadyLinked false "The account has a name and a password already.";
    306 UsernameTaken false "Another account has this username or e-mail address.";
    307 InvalidToken false "The access token is malformed, or not signed by a key that this mesh knows.";
    308 SignedOut false "The refresh token is unknown, expired or was used before: sign in again.";
    400 SessionNotFound false "There is no such session, or it is not visible to this user.";
    401 SessionFull true "Every seat of the session is taken.";
    402 SessionLocked false "The session takes no new members.";
    404 InvalidJoinCode false "The join code is malformed: it is 6 characters of 6789BCDFGHJKLMNPQRTW.";
    405 BannedFromSession false "The host banned this user from the session.";
    406 Kicked false "The host removed this member.";
    408 AlreadyInSession false "This connection is already a member of a session; leave it first.";
    409 RejoinExpired false "The seat was not held any longer; join anew.";
    410 VersionMismatch false "The session runs another app_version; the message names it.";
    411 SessionClosed false "The session ended.";
    412 OwnerLost true "The relay that ordered the session is gone, and the session with it.";
    413 JoinCodeNotFound false "No session has this join code (any more).";
    500 PeerNotFound false "The target is not a member of the session.";
    502 Resync false "Continuity could not be kept; the current state follows.";
    503 ReliableGap false "Reliable messages were lost because a relay on their path failed.";
    800 AddressInUse false "The address to listen on is taken by another process.";
    801 InvalidConfig false "The configuration has an unknown key or a value outside its range.";
    802 WrongClusterKey false "The other relay does not hold this mesh's cluster key.";
    900 Internal false "A fault of ours; please report it.";
    901 DirectoryUnavailable true "The directory did not answer; running sessions go on, new ones wait.";
    902 StoreUnavailable true "The user records cannot be reached; running sessions go on, signing in waits.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), *self as u16)
    }
}

/// A code, and what a person needs to know beyond it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    code: ErrorCode,
    message: std::borrow::Cow<'static, str>,
}

/// As it displays: this is what `fn main() -> Result<(), Error>` shows a person.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// For people; never contractual.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_by_its_number_and_numbers_rise() {
        for pair in ErrorCode::ALL.windows(2) {
            assert!((pair[0] as u16) < pair[1] as u16, "{pair:?}");
        }
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_u16(code as u16), Some(code));
        }
        assert_eq!(ErrorCode::from_u16(1), None);
    }
}

//! Control messages: Protobuf on the wire, checked types inside.
//!
//! The generated types in [`wire`] say anything that a peer may claim; the types of this module hold
//! only what has been checked, so that the state machines behind them have nothing left to validate.

mod link;

use std::time::Duration;

use bytes::{BufMut, Bytes};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::codec::Reader;
use crate::error::{Error, ErrorCode};
use crate::frame::{Attachment, Mode, kind};
use crate::id::{
    BootId, Epoch, Incarnation, Index, JoinCode, NodeId, PeerId, Seq, SessionId, UserId,
};
use crate::limits;

pub use link::{LinkMessage, MemberKey, User};

/// What prost generates from `dreamcatcher.proto`.
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod wire {
    include!("generated/dreamcatcher.v1.rs");
}

/// The creator's choices, within their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Seats, 1–64; 8 by default.
    pub max_players: u16,
    /// Unlisted by default: joined by code or id only.
    pub visibility: Visibility,
    /// At most 64 characters; empty by default.
    pub name: String,
    /// How long an absent member's seat is held, at most 600 s; 60 s by default.
    pub rejoin_hold: Duration,
    /// How long the session lives without members, at most 300 s; 30 s by default.
    pub empty_ttl: Duration,
    /// The home region, whose relays order the session: 1–32 characters of `a-z`, `0-9` and dashes. The
    /// creator's relay's by default. Where it has no relay, one of another region takes the session.
    pub region: Option<String>,
    /// At most 64 bytes. Members must run the same; any may join when it is empty, as by default.
    pub app_version: String,
    /// Fast by default.
    pub grade: Grade,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            max_players: limits::PLAYERS_DEFAULT,
            visibility: Visibility::Unlisted,
            name: String::new(),
            rejoin_hold: limits::REJOIN_HOLD_DEFAULT,
            empty_ttl: limits::EMPTY_TTL_DEFAULT,
            region: None,
            app_version: String::new(),
            grade: Grade::default(),
        }
    }
}

/// Whether another relay stores an Ordered message before it is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// It does: the crash of a relay loses no committed message. One round trip between relays.
    Safe,
    /// It is delivered at once: the crash of the owner ends the session.
    #[default]
    Fast,
}

/// Who can find a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    Public,
    Unlisted,
}

/// Client → relay.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    Hello {
        version: u32,
        token: String,
        sdk: String,
    },
    Create {
        request: u64,
        options: SessionOptions,
    },
    Join {
        request: u64,
        join: Join,
    },
    Leave {
        request: u64,
        attachment: Attachment,
    },
    Ping {
        nonce: u64,
    },
    /// A message that is well-formed but outside a limit: it is answered, the connection lives.
    Refused {
        request: u64,
        error: Error,
    },
}

/// A wish to become or become again a member of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub by: JoinBy,
    pub app_version: String,
    pub resume: Option<Resume>,
}

/// How a session is named in a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinBy {
    Code(JoinCode),
    Session {
        id: SessionId,
        home_region: Option<String>,
    },
}

/// Where a member left off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub peer: PeerId,
    pub incarnation: Incarnation,
    pub last_index: Index,
    /// Reliable messages received, per sender.
    pub reliable: Vec<(PeerId, u32)>,
    /// Which connection of this incarnation it is, 0 being the one that joined: the highest wins.
    pub attempt: u32,
    /// The epoch of the entry at `last_index`.
    pub last_epoch: Epoch,
    /// Reliable messages sent in this incarnation.
    pub reliable_sent: Seq,
}

/// Relay → client.
#[derive(Clone, Debug, PartialEq)]
pub enum RelayMessage {
    Welcome {
        version: u32,
        node: NodeId,
        boot: BootId,
        user: UserId,
    },
    Joined {
        request: u64,
        joined: Joined,
    },
    Failed {
        request: u64,
        failure: Failure,
    },
    /// The one terminal message of a session; answers `request` when that asked to leave.
    Ended {
        request: u64,
        attachment: Attachment,
        error: Error,
        can_rejoin: bool,
    },
    SendRejected {
        attachment: Attachment,
        mode: Mode,
        seq: Seq,
        error: Error,
    },
    ReliableGap {
        attachment: Attachment,
        sender: PeerId,
        missed: u32,
    },
    Pong {
        nonce: u64,
    },
    Draining {
        deadline: Duration,
    },
}

/// An error, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: Error,
    pub retry_after: Duration,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let retry_after = if error.is_retryable() {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        Self { error, retry_after }
    }
}

/// What a new member starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub attachment: Attachment,
    pub session: SessionId,
    pub code: Option<JoinCode>,
    pub home_region: String,
    pub peer: PeerId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    /// The entry that arrives next has the index after this one.
    pub index: Index,
    /// The members as of `index`.
    pub roster: Vec<Member>,
    pub resumed: bool,
    pub ordered_seen: Seq,
    pub reliable_seen: Seq,
    pub max_players: u16,
    pub name: String,
    pub owner: NodeId,
    /// How long the seat is held when the connection is lost.
    pub rejoin_hold: Duration,
}

/// One player's place in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub peer: PeerId,
    pub incarnation: Incarnation,
    pub user: UserId,
    pub display_name: String,
    pub connected: bool,
}

/// What the session itself puts into the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    Joined(Member),
    Dropped {
        peer: PeerId,
    },
    Rejoined {
        peer: PeerId,
        incarnation: Incarnation,
    },
    /// `Ok`: it left by itself; otherwise why its seat was given up.
    Left {
        peer: PeerId,
        code: ErrorCode,
    },
    /// This member's Ordered message takes no other place: it is delivered to nobody.
    Refused {
        peer: PeerId,
        incarnation: Incarnation,
        seq: Seq,
        code: ErrorCode,
        /// With `PeerNotFound`: the target that is not a member.
        absent: PeerId,
    },
}

// ------------------------------------------------------------------------------------- to the wire

impl ClientMessage {
    /// Appends the frame's type and body.
    pub fn put(&self, out: &mut impl BufMut) {
        use wire::client_control::Body;
        let (request, body) = match self {
            Self::Hello {
                version,
                token,
                sdk,
            } => (
                0,
                Body::Hello(wire::Hello {
                    version: *version,
                    token: token.clone(),
                    sdk: sdk.clone(),
                }),
            ),
            Self::Create { request, options } => (
                *request,
                Body::Create(wire::CreateSession {
                    options: Some(options.into()),
                }),
            ),
            Self::Join { request, join } => (*request, Body::Join(join.into())),
            Self::Leave {
                request,
                attachment,
            } => (
                *request,
                Body::Leave(wire::LeaveSession {
                    attachment: attachment.0.into(),
                }),
            ),
            Self::Ping { nonce } => (0, Body::Ping(wire::Ping { nonce: *nonce })),
            Self::Refused { request, .. } => {
                debug_assert!(false, "only a decoder makes `Refused`");
                (*request, Body::Ping(wire::Ping { nonce: 0 }))
            }
        };
        put(
            kind::CONTROL,
            &wire::ClientControl {
                request,
                body: Some(body),
            },
            out,
        );
    }

    pub(crate) fn read(reader: Reader) -> Result<Self, Error> {
        use wire::client_control::Body;
        let wire::ClientControl { request, body } = decode(reader)?;
        let checked = match required(body, "body")? {
            Body::Hello(hello) => Ok(Self::Hello {
                version: hello.version,
                token: hello.token,
                sdk: clip(hello.sdk, 64),
            }),
            Body::Create(create) => create
                .options
                .unwrap_or_default()
                .try_into()
                .map(|options| Self::Create { request, options }),
            Body::Join(join) => join.try_into().map(|join| Self::Join { request, join }),
            Body::Leave(leave) => u16_of(leave.attachment, "attachment").map(|a| Self::Leave {
                request,
                attachment: Attachment(a),
            }),
            Body::Ping(ping) => Ok(Self::Ping { nonce: ping.nonce }),
        };
        Ok(checked.unwrap_or_else(|error| Self::Refused { request, error }))
    }
}

impl RelayMessage {
    /// Appends the frame's type and body.
    pub fn put(&self, out: &mut impl BufMut) {
        use wire::relay_control::Body;
        let (request, body) = match self {
            Self::Welcome {
                version,
                node,
                boot,
                user,
            } => (
                0,
                Body::Welcome(wire::Welcome {
                    version: *version,
                    node_id: node.to_string(),
                    boot_id: boot.0,
                    user_id: user.0.to_vec(),
                }),
            ),
            Self::Joined { request, joined } => (*request, Body::Joined(joined.into())),
            Self::Failed { request, failure } => (*request, Body::Failed(failure.into())),
            Self::Ended {
                request,
                attachment,
                error,
                can_rejoin,
            } => (
                *request,
                Body::Ended(wire::SessionEnded {
                    attachment: attachment.0.into(),
                    cause: Some(error.into()),
                    can_rejoin: *can_rejoin,
                }),
            ),
            Self::SendRejected {
                attachment,
                mode,
                seq,
                error,
            } => (
                0,
                Body::SendRejected(wire::SendRejected {
                    attachment: attachment.0.into(),
                    mode: *mode as u32,
                    seq: seq.0,
                    cause: Some(error.into()),
                }),
            ),
            Self::ReliableGap {
                attachment,
                sender,
                missed,
            } => (
                0,
                Body::ReliableGap(wire::ReliableGap {
                    attachment: attachment.0.into(),
                    sender: sender.0.into(),
                    missed: *missed,
                }),
            ),
            Self::Pong { nonce } => (0, Body::Pong(wire::Pong { nonce: *nonce })),
            Self::Draining { deadline } => (
                0,
                Body::Draining(wire::Draining {
                    deadline_ms: millis(*deadline),
                }),
            ),
        };
        put(
            kind::CONTROL,
            &wire::RelayControl {
                request,
                body: Some(body),
            },
            out,
        );
    }

    pub(crate) fn read(reader: Reader) -> Result<Self, Error> {
        use wire::relay_control::Body;
        let wire::RelayControl { request, body } = decode(reader)?;
        Ok(match required(body, "body")? {
            Body::Welcome(welcome) => Self::Welcome {
                version: welcome.version,
                node: welcome.node_id.parse()?,
                boot: BootId(welcome.boot_id),
                user: UserId::from_slice(&welcome.user_id)?,
            },
            Body::Joined(joined) => Self::Joined {
                request,
                joined: joined.try_into()?,
            },
            Body::Failed(failure) => Self::Failed {
                request,
                failure: failure.into(),
            },
            Body::Ended(ended) => Self::Ended {
                request,
                attachment: Attachment(u16_of(ended.attachment, "attachment")?),
                error: required(ended.cause, "cause")?.into(),
                can_rejoin: ended.can_rejoin,
            },
            Body::SendRejected(rejected) => Self::SendRejected {
                attachment: Attachment(u16_of(rejected.attachment, "attachment")?),
                mode: mode_of(rejected.mode)?,
                seq: Seq(rejected.seq),
                error: required(rejected.cause, "cause")?.into(),
            },
            Body::ReliableGap(gap) => Self::ReliableGap {
                attachment: Attachment(u16_of(gap.attachment, "attachment")?),
                sender: PeerId(u16_of(gap.sender, "sender")?),
                missed: gap.missed,
            },
            Body::Pong(pong) => Self::Pong { nonce: pong.nonce },
            Body::Draining(draining) => Self::Draining {
                deadline: Duration::from_millis(draining.deadline_ms.into()),
            },
        })
    }
}

impl SessionEvent {
    /// The payload of an entry on the session's channel.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use wire::session_event::Body;
        let body = match self {
            Self::Joined(member) => Body::Joined(member.into()),
            Self::Dropped { peer } => Body::Dropped(wire::PeerDropped {
                peer_id: peer.0.into(),
            }),
            Self::Rejoined { peer, incarnation } => Body::Rejoined(wire::PeerRejoined {
                peer_id: peer.0.into(),
                incarnation: incarnation.0.into(),
            }),
            Self::Left { peer, code } => Body::Left(wire::PeerLeft {
                peer_id: peer.0.into(),
                code: *code as u32,
            }),
            Self::Refused {
                peer,
                incarnation,
                seq,
                code,
                absent,
            } => Body::Refused(wire::SendRefused {
                peer_id: peer.0.into(),
                incarnation: incarnation.0.into(),
                seq: seq.0,
                code: *code as u32,
                absent: absent.0.into(),
            }),
        };
        wire::SessionEvent { body: Some(body) }
            .encode_to_vec()
            .into()
    }

    pub fn decode(payload: Bytes) -> Result<Self, Error> {
        use wire::session_event::Body;
        let event: wire::SessionEvent = decode(Reader::new(payload))?;
        Ok(match required(event.body, "body")? {
            Body::Joined(member) => Self::Joined(member.try_into()?),
            Body::Dropped(dropped) => Self::Dropped {
                peer: PeerId(u16_of(dropped.peer_id, "peer_id")?),
            },
            Body::Rejoined(rejoined) => Self::Rejoined {
                peer: PeerId(u16_of(rejoined.peer_id, "peer_id")?),
                incarnation: Incarnation(u16_of(rejoined.incarnation, "incarnation")?),
            },
            Body::Left(left) => Self::Left {
                peer: PeerId(u16_of(left.peer_id, "peer_id")?),
                code: code_of(left.code),
            },
            Body::Refused(refused) => Self::Refused {
                peer: PeerId(u16_of(refused.peer_id, "peer_id")?),
                incarnation: Incarnation(u16_of(refused.incarnation, "incarnation")?),
                seq: Seq(refused.seq),
                code: code_of(refused.code),
                absent: PeerId(u16_of(refused.absent, "absent")?),
            },
        })
    }
}

/// Encoding into a buffer that grows cannot fail; prost says so with a `Result` all the same.
fn put(kind: u8, message: &impl prost::Message, out: &mut impl BufMut) {
    out.put_u8(kind);
    let encoded = message.encode(out);
    debug_assert!(encoded.is_ok(), "the buffer is too small");
}

// ------------------------------------------------------------------------------- parts of messages

impl From<&SessionOptions> for wire::SessionOptions {
    fn from(options: &SessionOptions) -> Self {
        Self {
            max_players: Some(options.max_players.into()),
            visibility: match options.visibility {
                Visibility::Public => wire::Visibility::Public,
                Visibility::Unlisted => wire::Visibility::Unlisted,
            }
            .into(),
            name: options.name.clone(),
            rejoin_hold_s: Some(seconds(options.rejoin_hold)),
            empty_ttl_s: Some(seconds(options.empty_ttl)),
            region: options.region.clone().unwrap_or_default(),
            app_version: options.app_version.clone(),
            grade: match options.grade {
                Grade::Safe => wire::Grade::Safe,
                Grade::Fast => wire::Grade::Fast,
            }
            .into(),
        }
    }
}

impl TryFrom<wire::SessionOptions> for SessionOptions {
    type Error = Error;

    fn try_from(wire: wire::SessionOptions) -> Result<Self, Error> {
        let default = Self::default();
        Self {
            max_players: match wire.max_players {
                None => default.max_players,
                Some(count) => u16::try_from(count).unwrap_or(u16::MAX),
            },
            visibility: match wire::Visibility::try_from(wire.visibility) {
                Ok(wire::Visibility::Public) => Visibility::Public,
                Ok(wire::Visibility::Unlisted | wire::Visibility::Unspecified) => {
                    Visibility::Unlisted
                }
                Err(_) => {
                    return Err(argument(format!(
                        "visibility {} is not 0–2",
                        wire.visibility
                    )));
                }
            },
            name: wire.name,
            rejoin_hold: wire
                .rejoin_hold_s
                .map_or(default.rejoin_hold, |s| Duration::from_secs(s.into())),
            empty_ttl: wire
                .empty_ttl_s
                .map_or(default.empty_ttl, |s| Duration::from_secs(s.into())),
            region: Some(wire.region).filter(|region| !region.is_empty()),
            app_version: wire.app_version,
            grade: match wire::Grade::try_from(wire.grade) {
                Ok(wire::Grade::Fast) => Grade::Fast,
                Ok(wire::Grade::Safe) => Grade::Safe,
                Ok(wire::Grade::Unspecified) => default.grade,
                Err(_) => return Err(argument(format!("grade {} is not 0–2", wire.grade))),
            },
        }
        .checked()
    }
}

impl SessionOptions {
    /// The options, if every one is within its limit; otherwise `InvalidArgument`, which names the
    /// field and the limit.
    pub fn checked(self) -> Result<Self, Error> {
        if !(1..=limits::PLAYERS_MAX).contains(&self.max_players) {
            return Err(argument(format!(
                "max_players is {}; it must be 1–{}",
                self.max_players,
                limits::PLAYERS_MAX
            )));
        }
        chars("name", &self.name, limits::SESSION_NAME_CHARS_MAX)?;
        at_most("rejoin_hold", self.rejoin_hold, limits::REJOIN_HOLD_MAX)?;
        at_most("empty_ttl", self.empty_ttl, limits::EMPTY_TTL_MAX)?;
        chars(
            "region",
            self.region.as_deref().unwrap_or_default(),
            limits::REGION_CHARS_MAX,
        )?;
        app_version(&self.app_version)?;
        Ok(self)
    }
}

impl From<&Join> for wire::JoinSession {
    fn from(join: &Join) -> Self {
        use wire::join_session::By;
        let (by, home_region) = match &join.by {
            JoinBy::Code(code) => (By::Code(code.to_string()), None),
            JoinBy::Session { id, home_region } => {
                (By::SessionId(id.0.to_vec()), home_region.clone())
            }
        };
        Self {
            by: Some(by),
            home_region: home_region.unwrap_or_default(),
            app_version: join.app_version.clone(),
            resume: join.resume.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::JoinSession> for Join {
    type Error = Error;

    fn try_from(wire: wire::JoinSession) -> Result<Self, Error> {
        use wire::join_session::By;
        chars("home_region", &wire.home_region, limits::REGION_CHARS_MAX)?;
        app_version(&wire.app_version)?;
        let by = match wire.by {
            Some(By::Code(code)) => JoinBy::Code(code.parse()?),
            Some(By::SessionId(id)) => JoinBy::Session {
                id: SessionId::from_slice(&id)?,
                home_region: Some(wire.home_region).filter(|region| !region.is_empty()),
            },
            None => {
                return Err(argument(
                    "a join names neither a code nor a session_id".to_owned(),
                ));
            }
        };
        let resume = wire.resume.map(Resume::try_from).transpose()?;
        Ok(Self {
            by,
            app_version: wire.app_version,
            resume,
        })
    }
}

impl From<&Resume> for wire::Resume {
    fn from(resume: &Resume) -> Self {
        Self {
            peer_id: resume.peer.0.into(),
            incarnation: resume.incarnation.0.into(),
            last_index: resume.last_index.0,
            reliable: resume
                .reliable
                .iter()
                .map(|&(sender, count)| wire::ReliableCount {
                    sender: sender.0.into(),
                    count,
                })
                .collect(),
            attempt: resume.attempt,
            last_epoch: resume.last_epoch.0,
            reliable_sent: resume.reliable_sent.0,
        }
    }
}

impl TryFrom<wire::Resume> for Resume {
    type Error = Error;

    fn try_from(wire: wire::Resume) -> Result<Self, Error> {
        if wire.reliable.len() > limits::TARGETS_MAX {
            return Err(argument(format!(
                "resume.reliable has {} senders; at most {}",
                wire.reliable.len(),
                limits::TARGETS_MAX
            )));
        }
        Ok(Self {
            peer: PeerId(u16_of(wire.peer_id, "resume.peer_id")?),
            incarnation: Incarnation(u16_of(wire.incarnation, "resume.incarnation")?),
            last_index: Index(wire.last_index),
            reliable: wire
                .reliable
                .into_iter()
                .map(|entry| {
                    Ok((
                        PeerId(u16_of(entry.sender, "resume.reliable.sender")?),
                        entry.count,
                    ))
                })
                .collect::<Result<_, Error>>()?,
            attempt: wire.attempt,
            last_epoch: Epoch(wire.last_epoch),
            reliable_sent: Seq(wire.reliable_sent),
        })
    }
}

impl From<&Joined> for wire::Joined {
    fn from(joined: &Joined) -> Self {
        Self {
            attachment: joined.attachment.0.into(),
            session_id: joined.session.0.to_vec(),
            join_code: joined.code.map(|code| code.to_string()).unwrap_or_default(),
            home_region: joined.home_region.clone(),
            peer_id: joined.peer.0.into(),
            incarnation: joined.incarnation.0.into(),
            epoch: joined.epoch.0,
            index: joined.index.0,
            roster: joined.roster.iter().map(Into::into).collect(),
            resumed: joined.resumed,
            ordered_seen: joined.ordered_seen.0,
            reliable_seen: joined.reliable_seen.0,
            max_players: joined.max_players.into(),
            name: joined.name.clone(),
            owner: joined.owner.to_string(),
            rejoin_hold_s: Some(seconds(joined.rejoin_hold)),
        }
    }
}

impl TryFrom<wire::Joined> for Joined {
    type Error = Error;

    fn try_from(wire: wire::Joined) -> Result<Self, Error> {
        Ok(Self {
            attachment: Attachment(u16_of(wire.attachment, "attachment")?),
            session: SessionId::from_slice(&wire.session_id)?,
            code: match wire.join_code.as_str() {
                "" => None,
                code => Some(code.parse()?),
            },
            home_region: wire.home_region,
            peer: PeerId(u16_of(wire.peer_id, "peer_id")?),
            incarnation: Incarnation(u16_of(wire.incarnation, "incarnation")?),
            epoch: Epoch(wire.epoch),
            index: Index(wire.index),
            roster: wire
                .roster
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            resumed: wire.resumed,
            ordered_seen: Seq(wire.ordered_seen),
            reliable_seen: Seq(wire.reliable_seen),
            max_players: u16_of(wire.max_players, "max_players")?,
            name: wire.name,
            owner: wire.owner.parse()?,
            rejoin_hold: wire.rejoin_hold_s.map_or(limits::REJOIN_HOLD_DEFAULT, |s| {
                Duration::from_secs(s.into())
            }),
        })
    }
}

impl From<&Member> for wire::Member {
    fn from(member: &Member) -> Self {
        Self {
            peer_id: member.peer.0.into(),
            incarnation: member.incarnation.0.into(),
            user_id: member.user.0.to_vec(),
            display_name: member.display_name.clone(),
            connected: member.connected,
        }
    }
}

impl TryFrom<wire::Member> for Member {
    type Error = Error;

    fn try_from(wire: wire::Member) -> Result<Self, Error> {
        Ok(Self {
            peer: PeerId(u16_of(wire.peer_id, "peer_id")?),
            incarnation: Incarnation(u16_of(wire.incarnation, "incarnation")?),
            user: UserId::from_slice(&wire.user_id)?,
            display_name: wire.display_name,
            connected: wire.connected,
        })
    }
}

impl From<&Failure> for wire::Failure {
    fn from(failure: &Failure) -> Self {
        Self {
            retry_after_ms: millis(failure.retry_after),
            ..(&failure.error).into()
        }
    }
}

impl From<&Error> for wire::Failure {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code() as u32,
            message: clip(error.message().to_owned(), 4 * limits::REASON_BYTES_MAX),
            retry_after_ms: 0,
        }
    }
}

impl From<wire::Failure> for Failure {
    fn from(wire: wire::Failure) -> Self {
        let retry_after = Duration::from_millis(wire.retry_after_ms.into());
        Self {
            error: wire.into(),
            retry_after,
        }
    }
}

impl From<wire::Failure> for Error {
    fn from(wire: wire::Failure) -> Self {
        Self::new(code_of(wire.code), wire.message)
    }
}

// -------------------------------------------------------------------------------------- checking

fn decode<M: prost::Message + Default>(reader: Reader) -> Result<M, Error> {
    let body = reader.rest();
    if body.len() > limits::CONTROL_BYTES_MAX {
        return Err(Error::new(
            ErrorCode::FrameTooLarge,
            format!(
                "a control message of {} bytes; at most {}",
                body.len(),
                limits::CONTROL_BYTES_MAX
            ),
        ));
    }
    M::decode(body).map_err(|error| {
        Error::new(
            ErrorCode::MalformedFrame,
            format!("control message: {error}"),
        )
    })
}

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Error> {
    field.ok_or_else(|| {
        Error::new(
            ErrorCode::MalformedFrame,
            format!("control message: {name} is missing or unknown"),
        )
    })
}

fn u16_of(value: u32, field: &'static str) -> Result<u16, Error> {
    u16::try_from(value).map_err(|_| argument(format!("{field} is {value}; it must be 0–65,535")))
}

fn mode_of(value: u32) -> Result<Mode, Error> {
    Mode::ALL
        .get(value as usize)
        .copied()
        .ok_or_else(|| argument(format!("mode {value} is not 0–3")))
}

/// A code from a newer peer is still an error, only without a name of its own.
fn code_of(value: u32) -> ErrorCode {
    u16::try_from(value)
        .ok()
        .and_then(ErrorCode::from_u16)
        .unwrap_or(ErrorCode::Internal)
}

fn chars(field: &'static str, text: &str, max: usize) -> Result<(), Error> {
    match text.chars().count() {
        count if count > max => Err(argument(format!(
            "{field} has {count} characters; at most {max}"
        ))),
        _ if text.chars().any(char::is_control) => Err(argument(format!(
            "{field} has control characters; use printable ones"
        ))),
        _ => Ok(()),
    }
}

fn app_version(text: &str) -> Result<(), Error> {
    match text.len() {
        len if len > limits::APP_VERSION_BYTES_MAX => Err(argument(format!(
            "app_version has {len} bytes; at most {}",
            limits::APP_VERSION_BYTES_MAX
        ))),
        _ => Ok(()),
    }
}

fn at_most(field: &'static str, value: Duration, max: Duration) -> Result<(), Error> {
    if value > max {
        return Err(argument(format!(
            "{field} is {} s; at most {} s",
            value.as_secs(),
            max.as_secs()
        )));
    }
    Ok(())
}

fn argument(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

fn clip(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

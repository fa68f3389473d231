//! What relays tell each other.

use bytes::BufMut;

use super::{
    Failure, Joined, Resume, SessionOptions, decode, mode_of, put, required, u16_of, wire,
};
use crate::codec::Reader;
use crate::error::Error;
use crate::frame::{Mode, kind};
use crate::id::{BootId, Incarnation, NodeId, PeerId, Seq, SessionId, UserId};

/// Relay ↔ relay.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkMessage {
    Hello {
        version: u32,
        node: NodeId,
        boot: BootId,
    },
    Create {
        request: u64,
        session: SessionId,
        home_region: String,
        options: SessionOptions,
        user: User,
    },
    Join {
        request: u64,
        session: SessionId,
        user: User,
        app_version: String,
        resume: Option<Resume>,
    },
    Joined {
        request: u64,
        joined: Joined,
    },
    /// With `NotOwner`, `owner` says whom to ask instead.
    Refused {
        request: u64,
        session: SessionId,
        failure: Failure,
        owner: Option<NodeId>,
    },
    Leave(MemberKey),
    Dropped(MemberKey),
    /// To one member, or to all at the gateway when `peer` is [`PeerId::SESSION`].
    Ended {
        member: MemberKey,
        error: Error,
        can_rejoin: bool,
    },
    SendRejected {
        session: SessionId,
        peer: PeerId,
        mode: Mode,
        seq: Seq,
        error: Error,
    },
    ReliableGap {
        session: SessionId,
        peer: PeerId,
        sender: PeerId,
        missed: u32,
    },
}

impl LinkMessage {
    /// The session that it is about; `None` for `Hello`.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Hello { .. } => None,
            Self::Create { session, .. }
            | Self::Join { session, .. }
            | Self::Refused { session, .. }
            | Self::SendRejected { session, .. }
            | Self::ReliableGap { session, .. } => Some(*session),
            Self::Joined { joined, .. } => Some(joined.session),
            Self::Leave(member) | Self::Dropped(member) | Self::Ended { member, .. } => {
                Some(member.session)
            }
        }
    }
}

/// A signed-in user, as the gateway knows it from a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub display_name: String,
}

/// One life of one member of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    pub session: SessionId,
    pub peer: PeerId,
    pub incarnation: Incarnation,
}

impl LinkMessage {
    /// Appends the frame's type and body.
    pub fn put(&self, out: &mut impl BufMut) {
        use wire::link_control::Body;
        let body = match self {
            Self::Hello {
                version,
                node,
                boot,
            } => Body::Hello(wire::LinkHello {
                version: *version,
                node_id: node.to_string(),
                boot_id: boot.0,
            }),
            Self::Create {
                request,
                session,
                home_region,
                options,
                user,
            } => Body::Create(wire::OwnerCreate {
                request: *request,
                session_id: session.0.to_vec(),
                home_region: home_region.clone(),
                options: Some(options.into()),
                user_id: user.id.0.to_vec(),
                display_name: user.display_name.clone(),
            }),
            Self::Join {
                request,
                session,
                user,
                app_version,
                resume,
            } => Body::Join(wire::OwnerJoin {
                request: *request,
                session_id: session.0.to_vec(),
                user_id: user.id.0.to_vec(),
                display_name: user.display_name.clone(),
                app_version: app_version.clone(),
                resume: resume.as_ref().map(Into::into),
            }),
            Self::Joined { request, joined } => Body::Joined(wire::OwnerJoined {
                request: *request,
                joined: Some(joined.into()),
            }),
            Self::Refused {
                request,
                session,
                failure,
                owner,
            } => Body::Refused(wire::OwnerRefused {
                request: *request,
                session_id: session.0.to_vec(),
                cause: Some(failure.into()),
                owner: owner.as_ref().map(ToString::to_string).unwrap_or_default(),
            }),
            Self::Leave(member) => Body::Leave((*member).into()),
            Self::Dropped(member) => Body::Dropped((*member).into()),
            Self::Ended {
                member,
                error,
                can_rejoin,
            } => Body::Ended(wire::MemberEnded {
                session_id: member.session.0.to_vec(),
                peer_id: member.peer.0.into(),
                incarnation: member.incarnation.0.into(),
                cause: Some(error.into()),
                can_rejoin: *can_rejoin,
            }),
            Self::SendRejected {
                session,
                peer,
                mode,
                seq,
                error,
            } => Body::SendRejected(wire::LinkSendRejected {
                session_id: session.0.to_vec(),
                peer_id: peer.0.into(),
                mode: *mode as u32,
                seq: seq.0,
                cause: Some(error.into()),
            }),
            Self::ReliableGap {
                session,
                peer,
                sender,
                missed,
            } => Body::ReliableGap(wire::LinkReliableGap {
                session_id: session.0.to_vec(),
                peer_id: peer.0.into(),
                sender: sender.0.into(),
                missed: *missed,
            }),
        };
        put(
            kind::LINK_CONTROL,
            &wire::LinkControl { body: Some(body) },
            out,
        );
    }

    pub(crate) fn read(reader: Reader) -> Result<Self, Error> {
        use wire::link_control::Body;
        let wire::LinkControl { body } = decode(reader)?;
        Ok(match required(body, "body")? {
            Body::Hello(hello) => Self::Hello {
                version: hello.version,
                node: hello.node_id.parse()?,
                boot: BootId(hello.boot_id),
            },
            Body::Create(create) => Self::Create {
                request: create.request,
                session: SessionId::from_slice(&create.session_id)?,
                home_region: create.home_region,
                options: create.options.unwrap_or_default().try_into()?,
                user: User {
                    id: UserId::from_slice(&create.user_id)?,
                    display_name: create.display_name,
                },
            },
            Body::Join(join) => Self::Join {
                request: join.request,
                session: SessionId::from_slice(&join.session_id)?,
                user: User {
                    id: UserId::from_slice(&join.user_id)?,
                    display_name: join.display_name,
                },
                app_version: join.app_version,
                resume: join.resume.map(TryInto::try_into).transpose()?,
            },
            Body::Joined(joined) => Self::Joined {
                request: joined.request,
                joined: required(joined.joined, "joined")?.try_into()?,
            },
            Body::Refused(refused) => Self::Refused {
                request: refused.request,
                session: SessionId::from_slice(&refused.session_id)?,
                failure: required(refused.cause, "cause")?.into(),
                owner: match refused.owner.as_str() {
                    "" => None,
                    owner => Some(owner.parse()?),
                },
            },
            Body::Leave(member) => Self::Leave(member.try_into()?),
            Body::Dropped(member) => Self::Dropped(member.try_into()?),
            Body::Ended(ended) => Self::Ended {
                member: MemberKey {
                    session: SessionId::from_slice(&ended.session_id)?,
                    peer: PeerId(u16_of(ended.peer_id, "peer_id")?),
                    incarnation: Incarnation(u16_of(ended.incarnation, "incarnation")?),
                },
                error: required(ended.cause, "cause")?.into(),
                can_rejoin: ended.can_rejoin,
            },
            Body::SendRejected(rejected) => Self::SendRejected {
                session: SessionId::from_slice(&rejected.session_id)?,
                peer: PeerId(u16_of(rejected.peer_id, "peer_id")?),
                mode: mode_of(rejected.mode)?,
                seq: Seq(rejected.seq),
                error: required(rejected.cause, "cause")?.into(),
            },
            Body::ReliableGap(gap) => Self::ReliableGap {
                session: SessionId::from_slice(&gap.session_id)?,
                peer: PeerId(u16_of(gap.peer_id, "peer_id")?),
                sender: PeerId(u16_of(gap.sender, "sender")?),
                missed: gap.missed,
            },
        })
    }
}

impl From<MemberKey> for wire::MemberGone {
    fn from(member: MemberKey) -> Self {
        Self {
            session_id: member.session.0.to_vec(),
            peer_id: member.peer.0.into(),
            incarnation: member.incarnation.0.into(),
        }
    }
}

impl TryFrom<wire::MemberGone> for MemberKey {
    type Error = Error;

    fn try_from(wire: wire::MemberGone) -> Result<Self, Error> {
        Ok(Self {
            session: SessionId::from_slice(&wire.session_id)?,
            peer: PeerId(u16_of(wire.peer_id, "peer_id")?),
            incarnation: Incarnation(u16_of(wire.incarnation, "incarnation")?),
        })
    }
}

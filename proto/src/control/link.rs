//! What relays tell each other.

use bytes::BufMut;

use super::{
    Failure, Joined, Resume, SessionOptions, decode, mode_of, put, required, u16_of, wire,
};
use crate::codec::Reader;
use crate::error::Error;
use crate::frame::{Mode, kind};
use crate::id::{BootId, Epoch, Incarnation, Index, NodeId, PeerId, Seq, SessionId, UserId};
use crate::state::SessionState;

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
        /// Who goes on if the owner fails.
        standby: Option<NodeId>,
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
    /// `missed` of 0: it is not known how many, or whether any.
    ReliableGap {
        session: SessionId,
        peer: PeerId,
        sender: PeerId,
        missed: u32,
    },
    /// To a standby: the session as it is. The retained entries from `first` on follow, then each
    /// new one.
    Sync {
        session: SessionId,
        epoch: Epoch,
        nonce: u64,
        owner_boot: BootId,
        first: Index,
        state: SessionState,
    },
    /// To owner and standby: take nothing of a lower epoch any longer.
    Seal {
        session: SessionId,
        epoch: Epoch,
    },
    /// The promise, and the answer to what comes under a lower epoch.
    Sealed {
        session: SessionId,
        epoch: Epoch,
        /// Who claims the session.
        owner: Option<NodeId>,
    },
    /// To a former standby: its copy is not needed any longer.
    Release {
        session: SessionId,
        epoch: Epoch,
    },
    /// To gateways: who goes on if the owner fails.
    View {
        session: SessionId,
        epoch: Epoch,
        standby: Option<NodeId>,
    },
    /// To the standby: claim the session now.
    TakeOver {
        session: SessionId,
        epoch: Epoch,
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
            | Self::ReliableGap { session, .. }
            | Self::Sync { session, .. }
            | Self::Seal { session, .. }
            | Self::Sealed { session, .. }
            | Self::Release { session, .. }
            | Self::View { session, .. }
            | Self::TakeOver { session, .. } => Some(*session),
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
            Self::Joined {
                request,
                joined,
                standby,
            } => Body::Joined(wire::OwnerJoined {
                request: *request,
                joined: Some(joined.into()),
                standby: name(standby.as_ref()),
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
                owner: name(owner.as_ref()),
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
            Self::Sync {
                session,
                epoch,
                nonce,
                owner_boot,
                first,
                state,
            } => Body::Sync(wire::Sync {
                session_id: session.0.to_vec(),
                epoch: epoch.0,
                nonce: *nonce,
                owner_boot: owner_boot.0,
                first: first.0,
                state: Some(state.into()),
            }),
            Self::Seal { session, epoch } => Body::Seal(wire::Seal {
                session_id: session.0.to_vec(),
                epoch: epoch.0,
            }),
            Self::Sealed {
                session,
                epoch,
                owner,
            } => Body::Sealed(wire::Sealed {
                session_id: session.0.to_vec(),
                epoch: epoch.0,
                owner: name(owner.as_ref()),
            }),
            Self::Release { session, epoch } => Body::Release(wire::Release {
                session_id: session.0.to_vec(),
                epoch: epoch.0,
            }),
            Self::View {
                session,
                epoch,
                standby,
            } => Body::View(wire::View {
                session_id: session.0.to_vec(),
                epoch: epoch.0,
                standby: name(standby.as_ref()),
            }),
            Self::TakeOver { session, epoch } => Body::TakeOver(wire::TakeOver {
                session_id: session.0.to_vec(),
                epoch: epoch.0,
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
                standby: named(&joined.standby)?,
            },
            Body::Refused(refused) => Self::Refused {
                request: refused.request,
                session: SessionId::from_slice(&refused.session_id)?,
                failure: required(refused.cause, "cause")?.into(),
                owner: named(&refused.owner)?,
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
            Body::Sync(sync) => Self::Sync {
                session: SessionId::from_slice(&sync.session_id)?,
                epoch: Epoch(sync.epoch),
                nonce: sync.nonce,
                owner_boot: BootId(sync.owner_boot),
                first: Index(sync.first),
                state: required(sync.state, "state")?.try_into()?,
            },
            Body::Seal(seal) => Self::Seal {
                session: SessionId::from_slice(&seal.session_id)?,
                epoch: Epoch(seal.epoch),
            },
            Body::Sealed(sealed) => Self::Sealed {
                session: SessionId::from_slice(&sealed.session_id)?,
                epoch: Epoch(sealed.epoch),
                owner: named(&sealed.owner)?,
            },
            Body::Release(release) => Self::Release {
                session: SessionId::from_slice(&release.session_id)?,
                epoch: Epoch(release.epoch),
            },
            Body::View(view) => Self::View {
                session: SessionId::from_slice(&view.session_id)?,
                epoch: Epoch(view.epoch),
                standby: named(&view.standby)?,
            },
            Body::TakeOver(take_over) => Self::TakeOver {
                session: SessionId::from_slice(&take_over.session_id)?,
                epoch: Epoch(take_over.epoch),
            },
        })
    }
}

fn name(node: Option<&NodeId>) -> String {
    node.map(ToString::to_string).unwrap_or_default()
}

fn named(text: &str) -> Result<Option<NodeId>, Error> {
    match text {
        "" => Ok(None),
        node => node.parse().map(Some),
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

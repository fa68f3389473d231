//! What a directory can be asked, and what it answers: each request is one atomic step.

use std::net::SocketAddr;

use dreamcatcher_proto::{Epoch, Error, ErrorCode, JoinCode, NodeId, SessionId};

use crate::limits;
use crate::record::{Holder, Listing, Load, NodeRecord, SessionRecord, View};

/// One atomic step. Its answer is the [`Reply`] named beside it, or a [`DirectoryError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Makes a run of a node known and starts its lease ([`limits::NODE_LEASE`]). A run that the
    /// directory has not seen before supersedes the node's earlier run, whose sessions are void from
    /// this instant: they are not listed, refuse its changes, and may be claimed. `NodeIdTaken` while
    /// that run is alive and reached elsewhere: both may be. `OtherMesh` while a node with another
    /// cluster key is alive: it could reach none of the others. → `Done`
    Register(NodeRecord),
    /// Prolongs a lease. `NotRegistered` if it ran out or was lost: register again. → `Done`
    Renew(Renewal),
    /// Ends a run at once. → `Done`, also if it had ended before
    Deregister(Holder),
    /// Every node that holds a lease, by id. → `Nodes`
    Nodes,
    /// Asks a live node to drain, or takes that back. `NodeNotFound` if it is not alive. → `Done`
    Drain { node: NodeId, wanted: bool },

    /// Keeps the auth service's public keys (JWKS, ≤ [`limits::KEYS_BYTES_MAX`]) for
    /// [`limits::KEYS_TTL`], for relays that cannot reach it. → `Done`
    PublishKeys(String),
    /// The keys last published, while they are kept. → `Keys`
    Keys,

    /// Makes a session under a fresh epoch, or finds that its id is taken. → `Created`, `Exists`
    CreateSession(NewSession),
    /// → `Session`
    Session(SessionId),
    /// The session with this join code. → `Session`
    Code(JoinCode),
    /// Gives the session another join code; the old one ends. → `Code(Some)`
    RotateCode { id: SessionId, epoch: Epoch },
    /// Ends the session's join code. → `Code(None)`
    RevokeCode { id: SessionId, epoch: Epoch },

    /// Begins a claim: if the stored ballot still is `expected`, raises it above itself, above
    /// `promised` (the highest epoch that any holder is known to have promised) and to the
    /// directory's clock in µs. The view stays. → `Session(Some)`, with the new ballot
    RaiseBallot {
        id: SessionId,
        expected: Epoch,
        promised: Epoch,
    },
    /// Changes owner, standby or anchors, if the stored ballot still is `ballot`. `view.epoch` is
    /// `ballot`; under the epoch that is installed already, owner and nonce stay. → `Done`
    InstallView {
        id: SessionId,
        ballot: Epoch,
        view: View,
    },
    /// Gives a record back that the directory lost; the higher ballot stays. Its join code comes back
    /// if nobody took it meanwhile. → `Session(Some)`, as stored
    Restore(SessionRecord),

    /// Shows the session in lists for [`limits::LISTING_LEASE`]. → `Done`
    Assert {
        id: SessionId,
        epoch: Epoch,
        listing: Listing,
    },
    /// Listed sessions of live owners that fit. → `Listings`
    ListSessions(Filter),
    /// Ends a session and frees its join code. → `Done`, also if there is none
    CloseSession { id: SessionId, epoch: Epoch },
}

/// What changes of a node while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub holder: Holder,
    pub load: Load,
    pub draining: bool,
    pub certificate_sha256: Vec<[u8; 32]>,
}

/// A session that its future owner asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    pub id: SessionId,
    pub home_region: String,
    pub owner: Holder,
    /// Asserted at once.
    pub listing: Option<Listing>,
    pub with_code: bool,
}

/// Which sessions to list, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub region: Option<String>,
    pub app_version: Option<String>,
    /// At least this many.
    pub open_seats: u16,
    /// Unlisted sessions too: for operators, never for players.
    pub unlisted: bool,
    /// Where the page before ended: its [`ListPage::next`].
    pub after: Option<SessionId>,
    /// Sessions in the page, 1–[`limits::LIST_PAGE_MAX`].
    pub limit: u8,
}

/// What a directory answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Nodes(Vec<NodeRecord>),
    Created {
        epoch: Epoch,
        nonce: u64,
        code: Option<JoinCode>,
    },
    Exists(SessionRecord),
    Session(Option<SessionRecord>),
    Code(Option<JoinCode>),
    Keys(Option<String>),
    Listings(ListPage),
}

/// Some of the sessions that fit a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// At most as many as were asked for; fewer do not mean that there are no more.
    pub sessions: Vec<Listed>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<SessionId>,
}

/// One session of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: SessionId,
    pub home_region: String,
    pub listing: Listing,
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The world's fault: try again; nothing is known about whether it happened.
    #[error("the directory did not answer: {cause}")]
    Unavailable { cause: String },
    /// The node holds no lease in this run: it has to register (again) first.
    #[error("{0} holds no lease: register it (again)")]
    NotRegistered(Holder),
    /// A later run of the same node took its place: this one has to stop.
    #[error(
        "{0} was superseded by a later run of the same node: end this one, or give it another id"
    )]
    Superseded(Holder),
    /// Live nodes, this one among them, hold another cluster key.
    #[error(
        "{0} and this node hold different cluster keys: give every relay of a mesh the same file, \
         and each mesh a directory of its own"
    )]
    OtherMesh(NodeId),
    /// A live run of this node is reached elsewhere. Its lease ends by itself if it is dead.
    #[error(
        "the node id {node} is that of a live relay at {address} (mesh {mesh_address}): give this \
         relay another --id; if that one is gone, its id is free {} s after it was last heard of",
        limits::NODE_LEASE.as_secs()
    )]
    NodeIdTaken {
        node: NodeId,
        address: SocketAddr,
        mesh_address: SocketAddr,
    },
    #[error("there is no live node {0}")]
    NodeNotFound(NodeId),
    #[error("session {0} is not in the directory")]
    SessionNotFound(SessionId),
    /// A compare-and-set lost; this is what is stored.
    #[error("another claim came first: the ballot is {ballot}, the view's epoch {epoch}")]
    Conflict { ballot: Epoch, epoch: Epoch },
    #[error("the directory holds its limit of {max} {what}")]
    Full { what: &'static str, max: usize },
    #[error(transparent)]
    Invalid(#[from] Error),
}

impl DirectoryError {
    /// As a player hears it: without the directory's address and what it said, which are for logs.
    #[must_use]
    pub fn for_player(self) -> Error {
        if let Self::Unavailable { .. } = self {
            return ErrorCode::DirectoryUnavailable.into();
        }
        self.into()
    }
}

impl From<DirectoryError> for Error {
    /// As a client hears it.
    fn from(error: DirectoryError) -> Self {
        let code = match &error {
            DirectoryError::Unavailable { .. } | DirectoryError::NotRegistered(_) => {
                ErrorCode::DirectoryUnavailable
            }
            DirectoryError::Superseded(_) => ErrorCode::RelayDraining,
            DirectoryError::OtherMesh(_) => ErrorCode::WrongClusterKey,
            DirectoryError::NodeIdTaken { .. } => ErrorCode::InvalidConfig,
            DirectoryError::NodeNotFound(_) => ErrorCode::InvalidArgument,
            DirectoryError::SessionNotFound(_) => ErrorCode::SessionNotFound,
            DirectoryError::Conflict { .. } => ErrorCode::NotOwner,
            DirectoryError::Full { .. } => ErrorCode::ServerFull,
            DirectoryError::Invalid(error) => return error.clone(),
        };
        Self::new(code, error.to_string())
    }
}

impl Filter {
    /// `InvalidArgument` unless the page size is within its limits.
    pub(crate) fn page(&self) -> Result<usize, Error> {
        let max = limits::LIST_PAGE_MAX;
        crate::record::check((1..=max).contains(&self.limit), || {
            format!("limit {} must be 1–{max} sessions a page", self.limit)
        })?;
        Ok(usize::from(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{holder, session};

    #[test]
    fn a_client_hears_of_the_world_s_faults_as_retryable_and_of_its_own_as_final() {
        let (ballot, epoch) = (Epoch(2), Epoch(1));
        for retryable in [
            DirectoryError::Unavailable {
                cause: "refused".to_owned(),
            },
            DirectoryError::NotRegistered(holder("a", 1)),
            DirectoryError::Superseded(holder("a", 1)),
            DirectoryError::Conflict { ballot, epoch },
            DirectoryError::Full {
                what: "sessions",
                max: 1,
            },
        ] {
            assert!(Error::from(retryable.clone()).is_retryable(), "{retryable}");
        }
        let missing = Error::from(DirectoryError::SessionNotFound(session(1)));
        assert_eq!(missing.code(), ErrorCode::SessionNotFound);
        let taken = DirectoryError::NodeIdTaken {
            node: holder("a", 1).node,
            address: ([192, 0, 2, 1], 4433).into(),
            mesh_address: ([192, 0, 2, 1], 4434).into(),
        };
        let shown = taken.to_string();
        for said in ["id a ", "192.0.2.1:4433", "192.0.2.1:4434", "--id", "3 s"] {
            assert!(shown.contains(said), "{said}: {shown}");
        }
        assert_eq!(Error::from(taken).code(), ErrorCode::InvalidConfig);
        let own = Error::new(ErrorCode::InvalidArgument, "limit");
        assert_eq!(Error::from(DirectoryError::Invalid(own.clone())), own);
    }
}

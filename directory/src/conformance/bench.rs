//! A directory under test, and what the rules say to it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_proto::control::Visibility;
use dreamcatcher_proto::{BootId, Epoch, ErrorCode, JoinCode, NodeId, SessionId};

use super::Subject;
use crate::limits;
use crate::{
    Change, Directory, DirectoryError, Filter, Grade, Hint, Holder, ListPage, Listing, Load,
    NewSession, NodeRecord, Renewal, Reply, Request, SessionRecord, View, Watch,
};

/// A directory under test, and what tests say to it.
pub(super) struct Bench<'a, S> {
    directory: Arc<dyn Directory>,
    subject: &'a S,
}

impl<S> Deref for Bench<'_, S> {
    type Target = dyn Directory;

    fn deref(&self) -> &Self::Target {
        &*self.directory
    }
}

impl<'a, S: Subject> Bench<'a, S> {
    pub(super) async fn new(subject: &'a S) -> Self {
        Self {
            directory: subject.directory().await,
            subject,
        }
    }

    pub(super) async fn ask(&self, request: Request) -> Reply {
        let asked = format!("{request:?}");
        self.call(request)
            .await
            .unwrap_or_else(|error| panic!("{error}, for {asked}"))
    }

    pub(super) async fn done(&self, request: Request) {
        assert_eq!(self.ask(request).await, Reply::Done);
    }

    pub(super) async fn refused(&self, request: Request) -> DirectoryError {
        let asked = format!("{request:?}");
        match self.call(request).await {
            Ok(reply) => panic!("granted {reply:?}, for {asked}"),
            Err(error) => error,
        }
    }

    /// Registers the first run of each.
    pub(super) async fn nodes<const N: usize>(&self, names: [&str; N]) -> [Holder; N] {
        let holders = names.map(|name| holder(name, 1));
        for holder in &holders {
            self.done(Request::Register(node(holder))).await;
        }
        holders
    }

    pub(super) async fn renew(&self, holder: &Holder, load: Load) {
        self.done(Request::Renew(renewal(holder, load))).await;
    }

    pub(super) async fn alive(&self) -> Vec<Holder> {
        let reply = self.ask(Request::Nodes).await;
        let Reply::Nodes(records) = reply else {
            panic!("{reply:?}")
        };
        records.iter().map(NodeRecord::holder).collect()
    }

    pub(super) async fn elapse_renewing(&self, holder: &Holder, term: Duration) {
        let mut left = term;
        while !left.is_zero() {
            let step = left.min(limits::NODE_RENEW_EVERY);
            self.subject.elapse(step).await;
            self.renew(holder, Load::default()).await;
            left -= step;
        }
    }

    pub(super) async fn create(&self, seed: u8, owner: &Holder) -> (Epoch, JoinCode) {
        let reply = self.ask(new_session(seed, owner)).await;
        let Reply::Created {
            epoch,
            code: Some(code),
            ..
        } = reply
        else {
            panic!("{reply:?}")
        };
        (epoch, code)
    }

    pub(super) async fn session(&self, seed: u8) -> Option<SessionRecord> {
        let reply = self.ask(Request::Session(session(seed))).await;
        let Reply::Session(record) = reply else {
            panic!("{reply:?}")
        };
        record
    }

    /// Raises the ballot above what is stored.
    pub(super) async fn raise(&self, seed: u8) -> SessionRecord {
        let expected = self.session(seed).await.expect("it exists").ballot;
        let raise = Request::RaiseBallot {
            id: session(seed),
            expected,
            promised: expected,
        };
        self.ask(raise).await.into_session()
    }

    pub(super) async fn list(&self, filter: Filter) -> ListPage {
        let reply = self.ask(Request::ListSessions(filter)).await;
        let Reply::Listings(page) = reply else {
            panic!("{reply:?}")
        };
        page
    }
}

impl Reply {
    pub(super) fn into_session(self) -> SessionRecord {
        let Self::Session(Some(record)) = self else {
            panic!("{self:?}")
        };
        record
    }
}

/// The next change that is told, which is to come within this much real time.
pub(super) async fn next_change(watch: &mut Watch) -> Change {
    const DEADLINE: Duration = Duration::from_secs(10);
    match tokio::time::timeout(DEADLINE, watch.next()).await {
        Ok(Some(Hint::Changed(change))) => change,
        other => panic!("{other:?} where a change was to be told within {DEADLINE:?}"),
    }
}

pub(super) fn up(holder: &Holder) -> Change {
    Change::NodeUp(node(holder))
}

pub(super) fn renewal(holder: &Holder, load: Load) -> Renewal {
    let NodeRecord {
        draining,
        certificate_sha256,
        ..
    } = node(holder);
    Renewal {
        holder: holder.clone(),
        load,
        draining,
        certificate_sha256,
    }
}

pub(super) fn everything() -> Filter {
    Filter {
        limit: limits::LIST_PAGE_MAX,
        ..Filter::default()
    }
}

pub(super) fn invalid(error: DirectoryError) -> ErrorCode {
    let DirectoryError::Invalid(error) = error else {
        panic!("{error:?}")
    };
    error.code()
}

pub(super) fn ahead_max_us() -> u64 {
    limits::EPOCH_AHEAD_MAX.as_secs() * 1_000_000
}

/// A claim of `owner` under the ballot that `record` shows.
pub(super) fn install(record: &SessionRecord, owner: &Holder, nonce: u64) -> Request {
    let ballot = record.ballot;
    let view = View {
        epoch: ballot,
        nonce,
        owner: owner.clone(),
        ..record.view.clone()
    };
    Request::InstallView {
        id: record.id,
        ballot,
        view,
    }
}

pub(crate) fn session(seed: u8) -> SessionId {
    SessionId([seed; 16])
}

pub(crate) fn holder(name: &str, boot: u64) -> Holder {
    let node: NodeId = name.parse().expect("tests name nodes well");
    Holder {
        node,
        boot: BootId(boot),
    }
}

pub(crate) fn node(holder: &Holder) -> NodeRecord {
    NodeRecord {
        id: holder.node.clone(),
        boot: holder.boot,
        mesh_id: 1,
        host: format!("host-{}", holder.node),
        region: "eu".to_owned(),
        address: ([192, 0, 2, 1], 4433).into(),
        mesh_address: ([192, 0, 2, 1], 4434).into(),
        certificate_sha256: vec![[7; 32]],
        capacity: 1,
        clients_max: 20_000,
        load: Load::default(),
        draining: false,
        drain_wanted: false,
    }
}

pub(crate) fn listing(name: &str) -> Listing {
    Listing {
        name: name.to_owned(),
        players: 1,
        max_players: 8,
        visibility: Visibility::Public,
        app_version: "1".to_owned(),
        grade: Grade::Fast,
    }
}

pub(crate) fn new_session(seed: u8, owner: &Holder) -> Request {
    Request::CreateSession(NewSession {
        id: session(seed),
        home_region: "eu".to_owned(),
        owner: owner.clone(),
        listing: Some(listing("a session")),
        with_code: true,
    })
}

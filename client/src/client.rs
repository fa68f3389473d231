//! What a game holds: [`Client`], [`Session`] and [`Sender`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dreamcatcher_proto::control::{JoinBy, Member, SessionOptions};
use dreamcatcher_proto::frame::{Mode, Target};
use dreamcatcher_proto::history::Fact;
use dreamcatcher_proto::member::{Event, SendId, SendOptions, SessionInfo};
use dreamcatcher_proto::{Error, ErrorCode, JoinCode, NodeId, PeerId, SessionId, UserId};

use crate::auth;
use crate::core::{Core, CoreConfig, Pick, Probing, RelayAddress, Reply, Stats};
use crate::history::Log;
use crate::renew::Renewer;
use crate::worker::{Slot, Worker};

/// How to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// What [`auth::relays`] gives. In which order they are tried is for `pick` to say.
    pub relays: Vec<RelayAddress>,
    /// The nearest with room, unless told otherwise.
    pub pick: Pick,
    /// Whether to move to the relay that orders the session when it is no farther than the present
    /// one: every message then saves a hop. True unless told otherwise.
    pub follow_owner: bool,
    /// How often nearer relays are looked for.
    pub probing: Probing,
    /// Where the list is read again when all of its relays fail, or one is about to stop; where the
    /// credentials are for, if there are any.
    pub auth_url: Option<auth::AuthUrl>,
    /// The access token of the signed-in user.
    pub token: String,
    /// What the token is renewed with before it expires, and the list of relays read anew: the client
    /// does both by itself. Those of [`ConnectOptions::guest`], [`account`](ConnectOptions::account)
    /// and [`with`](ConnectOptions::with).
    pub credentials: Option<auth::Credentials>,
    /// The game's version, for sessions that are for one version only.
    pub app_version: String,
    /// Where to record what the game sends and is told, for `dreamcatcher verify-history`: a file that
    /// is not there yet. Payloads are recorded as digests. To record never waits: where the disk is too
    /// slow, or the file has grown to 256 MiB, it ends with a line that says so.
    pub history: Option<PathBuf>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            relays: Vec::new(),
            pick: Pick::Nearest,
            follow_owner: true,
            probing: Probing::default(),
            auth_url: None,
            token: String::new(),
            credentials: None,
            app_version: String::new(),
            history: None,
        }
    }
}

impl ConnectOptions {
    /// Pins the relay with this node id, however far it is: the others only take over when it
    /// fails.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not on the list.
    pub fn prefer(mut self, node_id: &str) -> Result<Self, Error> {
        let is_it = |relay: &RelayAddress| relay.node_id.as_deref() == Some(node_id);
        if !self.relays.iter().any(is_it) {
            let known: Vec<String> = self.relays.iter().map(RelayAddress::name).collect();
            let message = format!(
                "there is no relay {node_id:?}; there are {}",
                known.join(", ")
            );
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        self.relays.sort_by_key(|relay| !is_it(relay));
        (self.pick, self.follow_owner) = (Pick::Listed, false);
        Ok(self)
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("relays", &self.relays)
            .field("pick", &self.pick)
            .field("follow_owner", &self.follow_owner)
            .field("probing", &self.probing)
            .field("auth_url", &self.auth_url)
            .field("credentials", &self.credentials)
            .field("app_version", &self.app_version)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// A connection to the mesh, kept alive by a worker thread: when another relay is much nearer, or its
/// own fails, the session goes on there.
#[derive(Debug)]
pub struct Client {
    link: Arc<Closing>,
    /// Keeps it signed in, if it has what it takes.
    pub(crate) renewer: Option<Renewer>,
    /// One request at a time.
    requests: tokio::sync::Mutex<()>,
    node: NodeId,
    user: UserId,
    app_version: String,
}

/// Says goodbye when client and session are both dropped.
#[derive(Debug)]
struct Closing(Arc<Slot>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Client {
    /// Connects, driven by a thread of its own.
    ///
    /// # Errors
    /// `NoRelayReachable` names what each relay failed of; `TokenExpired`, `InvalidToken` and
    /// `ProtocolVersion` are a relay's own words; `InvalidArgument` is about the options. It takes
    /// 15 s at most.
    pub async fn connect(options: ConnectOptions) -> Result<Self, Error> {
        Self::connect_on(&Worker::spawn()?, options).await
    }

    /// Connects, driven by a worker that is shared with other clients.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_on(worker: &Worker, options: ConnectOptions) -> Result<Self, Error> {
        let ConnectOptions {
            relays,
            pick,
            follow_owner,
            probing,
            auth_url,
            token,
            credentials,
            app_version,
            history,
        } = options;
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed)
            .map_err(|_| Error::new(ErrorCode::Internal, "the system gives no random bytes"))?;
        let config = CoreConfig {
            relays,
            pick,
            follow_owner,
            probing,
            token,
            seed,
            segments_max: 1,
            mtu_discovery: true,
        };
        let auth_url = auth_url.or(credentials.as_ref().map(|own| own.auth().clone()));
        let log = history.as_deref().map(Log::create).transpose()?;
        let link = Arc::new(Closing(worker.start(config, auth_url, log)?));
        match reply(&link.0).await {
            Reply::Connected { node, user } => {
                let renew = |credentials| Renewer::start(credentials, &link.0);
                let renewer = credentials.map(renew).transpose()?;
                let requests = tokio::sync::Mutex::new(());
                Ok(Self {
                    link,
                    renewer,
                    requests,
                    node,
                    user,
                    app_version,
                })
            }
            Reply::Failed(error) | Reply::Refused(error) => Err(error),
            Reply::Joined(_) => Err(unasked()),
        }
    }

    /// Creates a session and joins it.
    ///
    /// # Errors
    /// What the relay refuses it for; `NotConnected` while it is reconnecting; `AlreadyInSession`.
    pub async fn create(&self, options: SessionOptions) -> Result<Session, Error> {
        self.request(|core| core.create(options, Instant::now()))
            .await
    }

    /// Joins the session with this code, as a friend reads it out: `bcd-f67`.
    ///
    /// # Errors
    /// `InvalidJoinCode`, `JoinCodeNotFound`, `SessionFull`, … and as [`Self::create`].
    pub async fn join_code(&self, code: &str) -> Result<Session, Error> {
        self.join_by(JoinBy::Code(code.parse()?)).await
    }

    /// Joins the session with this id.
    ///
    /// # Errors
    /// `SessionNotFound`, `SessionFull`, … and as [`Self::create`].
    pub async fn join(&self, id: SessionId) -> Result<Session, Error> {
        self.join_by(JoinBy::Session {
            id,
            home_region: None,
        })
        .await
    }

    /// Joins a session by code, or by id with the region that its creator was told.
    ///
    /// # Errors
    /// As [`Self::join_code`] and [`Self::join`].
    pub async fn join_by(&self, by: JoinBy) -> Result<Session, Error> {
        let app_version = self.app_version.clone();
        self.request(|core| core.join(by, app_version, Instant::now()))
            .await
    }

    /// The relay that was connected to first.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The relay that is connected to at this moment, or tried.
    #[must_use]
    pub fn relay(&self) -> RelayAddress {
        self.link.0.core().relay().clone()
    }

    /// Another list of relays, for reconnects and moves from now on: relays come and go while a long
    /// game runs. The present connection stays.
    ///
    /// # Errors
    /// `InvalidArgument`; the old list stays.
    pub fn set_relays(&self, relays: Vec<RelayAddress>) -> Result<(), Error> {
        self.link.0.set_relays(relays)
    }

    /// The signed-in user.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user
    }

    /// Whether there is a connection at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.0.core().is_connected()
    }

    /// The token for reconnects from now on: access tokens are short-lived.
    pub fn set_token(&self, token: String) {
        self.link.0.core().set_token(token);
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        self.link.0.core().stats()
    }

    /// Ends the connection and waits until the relay has been told, and until the history is in its
    /// file, if one is recorded. Dropping the client does the same without waiting.
    pub async fn close(self) {
        let slot = Arc::clone(&self.link.0);
        slot.close();
        while !slot.has_parted() {
            slot.replies.notified().await;
        }
        if let Some(log) = &slot.log {
            log.written().await;
        }
    }

    async fn request(
        &self,
        ask: impl FnOnce(&mut Core) -> Result<(), Error> + Send,
    ) -> Result<Session, Error> {
        let _turn = self.requests.lock().await;
        let slot = &self.link.0;
        ask(&mut slot.core())?;
        slot.wake();
        match reply(slot).await {
            Reply::Joined(info) => {
                let core = slot.core();
                let number = core.joins();
                slot.note(|| Fact::joined(&info, core.roster().map(|member| member.peer)));
                drop(core);
                let sender = Sender {
                    link: Arc::clone(&self.link),
                    number,
                };
                Ok(Session {
                    sender,
                    info,
                    ended: false,
                })
            }
            Reply::Failed(error) | Reply::Refused(error) => {
                let _core = slot.core();
                slot.note(|| Fact::refused(&error));
                Err(error)
            }
            Reply::Connected { .. } => Err(unasked()),
        }
    }
}

/// The next reply. One comes: the core bounds every request in time.
async fn reply(slot: &Slot) -> Reply {
    loop {
        let may_be_there = slot.replies.notified();
        if let Some(reply) = slot.core().poll_reply() {
            return reply;
        }
        may_be_there.await;
    }
}

fn unasked() -> Error {
    Error::new(ErrorCode::Internal, "the reply does not answer the request")
}

/// A place in a session. Its events are read with [`Self::recv`] or [`Self::poll`]; the last one is
/// [`Event::Ended`]. Dropping it gives the seat up.
#[derive(Debug)]
pub struct Session {
    sender: Sender,
    info: SessionInfo,
    ended: bool,
}

impl Session {
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.info.id
    }

    /// What friends type to join.
    #[must_use]
    pub fn code(&self) -> Option<JoinCode> {
        self.info.code
    }

    /// The player's own id in the session.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.info.peer
    }

    #[must_use]
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// The members at this moment, the player included once its own `PeerJoined` has come.
    #[must_use]
    pub fn roster(&self) -> Vec<Member> {
        self.sender
            .with_core(|core| core.roster().cloned().collect())
            .unwrap_or_default()
    }

    /// How a member is shown to others; `peer 7` for one that is not there (any more).
    #[must_use]
    pub fn name_of(&self, peer: PeerId) -> String {
        let name = |core: &mut Core| {
            let member = core.roster().find(|member| member.peer == peer)?;
            Some(member.display_name.clone())
        };
        let name = self.sender.with_core(name).flatten();
        name.unwrap_or_else(|| format!("peer {peer}"))
    }

    /// Sends a message on channel 0. See [`Mode`] for what becomes of it.
    ///
    /// While the connection is away, Ordered messages wait, Latest and Datagram are lost as they may be,
    /// and Reliable is refused with `NotConnected`.
    ///
    /// # Errors
    /// Nothing was sent: `PeerNotFound`, `MessageTooLarge`, `TooManyUnresolved`, `RateLimited`,
    /// `NotConnected`, `InvalidArgument`, `InvalidState`.
    pub fn send(
        &self,
        mode: Mode,
        target: Target,
        payload: impl Into<Bytes>,
    ) -> Result<SendId, Error> {
        self.sender.send(mode, target, payload)
    }

    /// Sends a message on any channel, under any key.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_with(
        &self,
        options: SendOptions,
        payload: impl Into<Bytes>,
    ) -> Result<SendId, Error> {
        self.sender.send_with(options, payload)
    }

    /// Waits for the next event; `None` once `Ended` was read. It can be cancelled without losing
    /// one.
    pub async fn recv(&mut self) -> Option<Event> {
        let slot = Arc::clone(&self.sender.link.0);
        loop {
            let may_be_there = slot.events.notified();
            if let Some(event) = self.poll() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            may_be_there.await;
        }
    }

    /// The next event, if there is one: for a game loop that does not wait.
    pub fn poll(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let slot = &self.sender.link.0;
        let event = self.sender.with_core(|core| {
            let event = core.poll_event();
            if let Some(event) = &event {
                slot.note(|| Fact::from(event));
            }
            event
        });
        self.ended = matches!(event, None | Some(Some(Event::Ended { .. })));
        event.flatten()
    }

    /// For sending from other threads.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Gives the seat up, and waits until the relay knows. What was sent before still takes its
    /// place in the order; what has not been read is dropped.
    pub async fn leave(mut self) {
        if self.sender.leave().is_ok() {
            while self.recv().await.is_some() {}
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            // An error means that it has ended already.
            let _ = self.sender.leave();
        }
    }
}

/// Sends into a session from anywhere.
#[derive(Clone, Debug)]
pub struct Sender {
    link: Arc<Closing>,
    /// Which of the client's sessions it is for.
    number: u64,
}

impl Sender {
    /// As [`Session::send`].
    ///
    /// # Errors
    /// As [`Session::send`].
    pub fn send(
        &self,
        mode: Mode,
        target: Target,
        payload: impl Into<Bytes>,
    ) -> Result<SendId, Error> {
        self.send_with(SendOptions::new(mode, target), payload)
    }

    /// As [`Session::send_with`].
    ///
    /// # Errors
    /// As [`Session::send`].
    pub fn send_with(
        &self,
        options: SendOptions,
        payload: impl Into<Bytes>,
    ) -> Result<SendId, Error> {
        let payload = payload.into();
        let slot = &self.link.0;
        if slot.log.is_none() {
            return self.command(|core| core.send(options, payload, Instant::now()));
        }
        self.command(|core| {
            let send = core.send(options.clone(), payload.clone(), Instant::now())?;
            slot.note(|| Fact::sent(send, &options, &payload));
            Ok(send)
        })
    }

    /// Begins to leave; [`Event::Ended`] follows.
    ///
    /// # Errors
    /// `InvalidState` if the session has ended.
    pub fn leave(&self) -> Result<(), Error> {
        self.command(|core| core.leave(Instant::now()))
    }

    fn command<T>(&self, command: impl FnOnce(&mut Core) -> Result<T, Error>) -> Result<T, Error> {
        let over = || Err(Error::new(ErrorCode::InvalidState, "the session has ended"));
        let done = self.with_core(command).unwrap_or_else(over)?;
        self.link.0.wake();
        Ok(done)
    }

    /// Runs on the core, unless the client is in another session by now.
    fn with_core<T>(&self, run: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let mut core = self.link.0.core();
        if core.joins() != self.number {
            return None;
        }
        let done = run(&mut core);
        let caught_up = core.reads_late();
        drop(core);
        if caught_up {
            self.link.0.wake();
        }
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::block_on;

    #[test]
    fn futures_can_move_between_threads() {
        fn moves<T: Send>(_: T) {}
        fn all(client: &Client, session: &mut Session) {
            moves(client.create(SessionOptions::default()));
            moves(client.join_code(""));
            moves(session.recv());
            moves(auth::relays(""));
        }
        moves(Client::connect(ConnectOptions::default()));
        moves(all);
    }

    #[test]
    fn without_a_relay_or_without_its_hash_nothing_is_begun() {
        let open = RelayAddress::new(([127, 0, 0, 1], 1).into(), Vec::new());
        for relays in [vec![], vec![open]] {
            let options = ConnectOptions {
                relays,
                ..ConnectOptions::default()
            };
            let error = block_on(Client::connect(options)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn the_preferred_relay_is_pinned_and_must_be_on_the_list() {
        let relay = |node: &str| RelayAddress {
            node_id: Some(node.to_owned()),
            ..RelayAddress::new(([127, 0, 0, 1], 1).into(), vec![[0; 32]])
        };
        let relays = vec![relay("a-0"), relay("b-0"), relay("c-0")];
        let options = ConnectOptions {
            relays,
            ..ConnectOptions::default()
        };
        let preferred = options.clone().prefer("b-0").unwrap();
        let order: Vec<_> = preferred
            .relays
            .iter()
            .filter_map(|r| r.node_id.as_deref())
            .collect();
        assert_eq!(order, ["b-0", "a-0", "c-0"]);
        assert_eq!(
            (preferred.pick, preferred.follow_owner),
            (Pick::Listed, false)
        );
        let error = options.prefer("d-0").unwrap_err();
        assert!(error.message().contains("a-0 (127.0.0.1:1)"), "{error}");
    }
}

//! The gateway's state machine: a relay's side towards its own clients.
//!
//! ```text
//!   client ──Hello, Create, Join──▶ ┌─────────┐ ──Ask: place, code, locate──▶ the node
//!          ──Publish, Ack─────────▶ │ Gateway │ ──Create, Join, Forward─────▶ owner
//!          ◀──Joined, Deliver, Skip─│         │ ◀──Joined, Fanout───────────── owner
//!                                   └─────────┘
//! ```
//!
//! It checks tokens, stamps who sent a message, cuts one [`Fanout`] into a [`Deliver`] or [`Skip`]
//! for each of its members, and keeps members attached to their owner: when the link breaks it
//! joins them again from the last entry that they were given, at the owner or at the standby that has
//! taken its place. Where nobody has the session any longer it ends with `OwnerLost`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::control::{
    ClientMessage, Failure, Join, JoinBy, Joined, LinkMessage, MemberKey, RelayMessage, Resume,
    SessionEvent, SessionOptions, User,
};
use crate::error::{Error, ErrorCode};
use crate::frame::{
    Ack, Attachment, ClientFrame, Deliver, Fanout, Forward, LinkAck, LinkFrame, Message, Mode,
    Publish, RelayFrame, Skip,
};
use crate::id::{BootId, Epoch, Incarnation, Index, JoinCode, NodeId, PeerId, Seq, SessionId};
use crate::limits;

/// One client connection of this node; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// A question to the node, which knows directory and placement; the number comes back in
/// [`Input::Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// What only the node can find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A fresh session id, and who should own it.
    Place { region: Option<String> },
    /// The session behind a join code, and its owner.
    Code(JoinCode),
    /// Who probably owns a session: by placement, without the directory.
    Locate {
        session: SessionId,
        home_region: Option<String>,
    },
}

/// The node's answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub session: SessionId,
    pub owner: NodeId,
    pub home_region: String,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Input {
    ClientConnected {
        client: ClientId,
    },
    Client {
        client: ClientId,
        frame: ClientFrame,
    },
    /// The node has checked the token of a `Hello`.
    Checked {
        client: ClientId,
        user: Result<User, Error>,
    },
    ClientLost {
        client: ClientId,
    },
    /// A frame from an owner: over a link, or from this node itself.
    Owner {
        node: NodeId,
        frame: LinkFrame,
    },
    Answer {
        ask: AskId,
        located: Result<Located, Error>,
    },
    /// The link broke; frames on it are lost.
    LinkLost {
        node: NodeId,
    },
    /// The process that owned sessions under this name is gone for good: others go on with them.
    NodeGone {
        node: NodeId,
    },
    /// No new clients; the present ones are told.
    Drain {
        deadline: Duration,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    ToClient {
        client: ClientId,
        frame: RelayFrame,
    },
    /// Close the connection with this code, once what was sent before is written.
    Close {
        client: ClientId,
        error: Error,
    },
    ToOwner {
        node: NodeId,
        frame: LinkFrame,
    },
    Ask {
        ask: AskId,
        question: Ask,
    },
    /// Check this token.
    Check {
        client: ClientId,
        token: String,
    },
}

/// What the gateway counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By mode.
    pub published: [u64; 4],
    /// By mode.
    pub delivered: [u64; 4],
    pub redirects: u64,
    pub owners_lost: u64,
}

/// All clients of one node.
#[derive(Debug)]
pub struct Gateway {
    node: NodeId,
    boot: BootId,
    clients: BTreeMap<ClientId, Client>,
    /// The sessions that clients of this node are members of.
    routes: BTreeMap<SessionId, Route>,
    requests: BTreeMap<u64, Request>,
    asks: BTreeMap<AskId, u64>,
    last_request: u64,
    timers: BTreeSet<(Instant, Timer)>,
    draining: bool,
    counters: Counters,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// No valid `Hello` in time.
    Hello(ClientId),
    /// A request was not answered in time.
    Request(u64),
    /// The owner of a session stayed away too long.
    OwnerLost(SessionId),
    /// Try to reach the owner of a session again.
    Reattach(SessionId),
}

#[derive(Debug)]
enum Client {
    /// Connected; a valid `Hello` is due by then.
    Greeting { checking: bool, due: Instant },
    /// Signed in.
    Ready {
        user: User,
        last_attachment: Attachment,
        place: Option<Seated>,
        /// To become a member; of a member: to be attached to its owner again.
        request: Option<u64>,
    },
}

/// A client's membership.
#[derive(Clone, Debug)]
struct Seated {
    attachment: Attachment,
    key: MemberKey,
    /// The newest entry that was handed on to the client.
    last_index: Index,
    /// Under which epoch it was ordered; 0 before the first.
    last_epoch: Epoch,
    /// The client's last Reliable message that was passed on.
    reliable_sent: Seq,
    /// Reliable messages handed on to the client in this incarnation, and those that it was told
    /// to be missing, per sender who has not left.
    reliable: BTreeMap<PeerId, u32>,
    /// Which connection of this incarnation the client is, by its own count: the owner refuses to
    /// take it back once the member has come back over a newer one.
    attempt: u32,
    /// Whether the owner's last answer for this member was taken up: the gaps that follow one that
    /// was not have been counted from figures of former times.
    answered: bool,
}

/// Where a session's owner is, and who of it is here.
#[derive(Debug)]
struct Route {
    owner: NodeId,
    epoch: Epoch,
    /// Who goes on if the owner fails.
    standby: Option<NodeId>,
    /// How long the owner holds a seat, and so how long it makes sense to look for it.
    hold: Duration,
    members: Vec<(PeerId, Incarnation, ClientId)>,
    /// Since the link broke, the members whose way to the owner is not restored yet.
    detached: Vec<PeerId>,
    /// Set while there are detached members.
    search: Option<Search>,
}

/// The search for a session whose owner is out of reach.
#[derive(Clone, Debug)]
struct Search {
    until: Instant,
    again: Instant,
    /// From then on the standby is asked.
    standby_at: Instant,
    /// Who is sure not to have the session.
    without: BTreeSet<NodeId>,
}

/// A request that the owner has to answer.
#[derive(Debug)]
struct Request {
    client: ClientId,
    /// The client's own number; 0 when the gateway asks by itself.
    number: u64,
    what: Wish,
    /// When it has taken too long.
    due: Instant,
    hops: u8,
    /// Who was asked last.
    asked: Option<Located>,
    /// Answers still to come that count no longer, since the owner was asked again.
    outdated: u32,
}

#[derive(Clone, Debug)]
enum Wish {
    Create {
        options: SessionOptions,
    },
    Join {
        join: Join,
    },
    /// The gateway restores a member's way to the owner.
    Reattach {
        key: MemberKey,
    },
}

/// A wrong guess is redirected by the owner that was asked, whose own answer may be out of date
/// once, and to a standby after that: three hops reach every owner that stands still.
const HOPS_MAX: u8 = 3;
/// Between two tries to reach an owner over a new link.
const REATTACH_EVERY: Duration = Duration::from_millis(250);
/// How long only the owner is asked: a link is soon dialled again.
const STANDBY_AFTER: Duration = Duration::from_millis(750);

impl Gateway {
    #[must_use]
    pub fn new(node: NodeId, boot: BootId) -> Self {
        Self {
            node,
            boot,
            clients: BTreeMap::new(),
            routes: BTreeMap::new(),
            requests: BTreeMap::new(),
            asks: BTreeMap::new(),
            last_request: 0,
            timers: BTreeSet::new(),
            draining: false,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Clients that are members of a session.
    #[must_use]
    pub fn members(&self) -> usize {
        self.routes.values().map(|route| route.members.len()).sum()
    }

    /// Session, owner, epoch and the members here, for `/debug/sessions`.
    pub fn routes(
        &self,
    ) -> impl Iterator<Item = (SessionId, &NodeId, Epoch, Vec<(PeerId, Index)>)> {
        self.routes.iter().map(|(&session, route)| {
            let members = route
                .members
                .iter()
                .map(|&(peer, _, client)| {
                    (
                        peer,
                        self.seated(client)
                            .map_or(Index(0), |seated| seated.last_index),
                    )
                })
                .collect();
            (session, &route.owner, route.epoch, members)
        })
    }

    /// Whether nothing is left of any client: no table holds anything, no timer runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
            && self.routes.is_empty()
            && self.requests.is_empty()
            && self.asks.is_empty()
            && self.timers.is_empty()
    }

    /// Takes one thing that happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::ClientConnected { client } => {
                let due = now + limits::HELLO_TIMEOUT;
                let checking = false;
                self.clients
                    .insert(client, Client::Greeting { checking, due });
                self.timers.insert((due, Timer::Hello(client)));
            }
            Input::Client { client, frame } => self.client_frame(client, frame, now),
            Input::Checked { client, user } => self.checked(client, user),
            Input::ClientLost { client } => self.client_lost(client),
            Input::Owner { node, frame } => self.owner_frame(node, frame, now),
            Input::Answer { ask, located } => self.answer(ask, located, now),
            Input::LinkLost { node } => self.link_lost(&node, now),
            Input::NodeGone { node } => self.node_gone(&node, now),
            Input::Drain { deadline } => self.drain(deadline),
        }
    }

    /// Lets due timers fire.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, timer)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Hello(client) => {
                    let limit = limits::HELLO_TIMEOUT.as_secs();
                    let message = format!("no valid Hello within {limit} s");
                    self.close(client, Error::new(ErrorCode::HelloTimeout, message));
                }
                Timer::Request(request) => {
                    let error = Error::new(
                        ErrorCode::Timeout,
                        "the session's owner did not answer; try again",
                    );
                    self.fail_request(request, error.into(), now);
                }
                Timer::OwnerLost(session) => self.owner_lost(session),
                Timer::Reattach(session) => self.reattach(session, now),
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|&(due, _)| due)
    }

    // ---------------------------------------------------------------------------- from the client

    fn client_frame(&mut self, client: ClientId, frame: ClientFrame, now: Instant) {
        match (self.clients.get(&client), frame) {
            (None, _) => {}
            (Some(Client::Ready { .. }), ClientFrame::Publish(publish)) => {
                self.publish(client, publish);
            }
            (Some(Client::Ready { .. }), ClientFrame::Ack(ack)) => self.ack(client, ack),
            (
                Some(&Client::Greeting {
                    checking: false,
                    due,
                }),
                ClientFrame::Control(ClientMessage::Hello { version, token, .. }),
            ) => {
                self.hello(client, due, version, token);
            }
            (Some(Client::Greeting { .. }), _) => {
                self.close(
                    client,
                    Error::new(ErrorCode::InvalidState, "the first frame must be one Hello"),
                );
            }
            (Some(Client::Ready { .. }), ClientFrame::Control(message)) => {
                self.control(client, message, now);
            }
        }
    }

    fn hello(&mut self, client: ClientId, due: Instant, version: u32, token: String) {
        if self.draining {
            return self.close(client, ErrorCode::RelayDraining.into());
        }
        if version != limits::PROTOCOL_VERSION {
            let message = format!(
                "this relay speaks version {}, the client {version}",
                limits::PROTOCOL_VERSION
            );
            return self.close(client, Error::new(ErrorCode::ProtocolVersion, message));
        }
        let checking = true;
        self.clients
            .insert(client, Client::Greeting { checking, due });
        self.outputs.push_back(Output::Check { client, token });
    }

    fn checked(&mut self, client: ClientId, user: Result<User, Error>) {
        let Some(&Client::Greeting {
            checking: true,
            due,
        }) = self.clients.get(&client)
        else {
            return;
        };
        match user {
            Ok(_) if self.draining => self.close(client, ErrorCode::RelayDraining.into()),
            Ok(user) => {
                self.timers.remove(&(due, Timer::Hello(client)));
                let welcome = RelayMessage::Welcome {
                    version: limits::PROTOCOL_VERSION,
                    node: self.node.clone(),
                    boot: self.boot,
                    user: user.id,
                };
                let ready = Client::Ready {
                    user,
                    last_attachment: Attachment(0),
                    place: None,
                    request: None,
                };
                self.clients.insert(client, ready);
                self.tell(client, welcome);
            }
            Err(error) => self.close(client, error),
        }
    }

    fn control(&mut self, client: ClientId, message: ClientMessage, now: Instant) {
        match message {
            ClientMessage::Hello { .. } => {
                self.close(
                    client,
                    Error::new(ErrorCode::InvalidState, "a second Hello on one connection"),
                );
            }
            ClientMessage::Create { request, options } => {
                if let Some(number) = self.start_request(
                    client,
                    request,
                    Wish::Create {
                        options: options.clone(),
                    },
                    now,
                ) {
                    self.ask(
                        number,
                        Ask::Place {
                            region: options.region,
                        },
                    );
                }
            }
            ClientMessage::Join { request, join } => {
                let question = match &join.by {
                    JoinBy::Code(code) => Ask::Code(*code),
                    JoinBy::Session { id, home_region } => Ask::Locate {
                        session: *id,
                        home_region: home_region.clone(),
                    },
                };
                if let Some(number) = self.start_request(client, request, Wish::Join { join }, now)
                {
                    self.ask(number, question);
                }
            }
            ClientMessage::Leave {
                request,
                attachment,
            } => self.leave(client, request, attachment),
            ClientMessage::Ping { nonce } => self.tell(client, RelayMessage::Pong { nonce }),
            ClientMessage::Refused { request, error } => {
                self.tell(
                    client,
                    RelayMessage::Failed {
                        request,
                        failure: error.into(),
                    },
                );
            }
        }
    }

    /// Notes a request to become a member, unless the client is one or is about to be.
    fn start_request(
        &mut self,
        client: ClientId,
        number: u64,
        what: Wish,
        now: Instant,
    ) -> Option<u64> {
        let idle = matches!(
            self.clients.get(&client),
            Some(Client::Ready {
                place: None,
                request: None,
                ..
            })
        );
        if !idle {
            let error = Error::new(
                ErrorCode::AlreadyInSession,
                ErrorCode::AlreadyInSession.meaning(),
            );
            self.tell(
                client,
                RelayMessage::Failed {
                    request: number,
                    failure: error.into(),
                },
            );
            return None;
        }
        Some(self.note_request(client, number, what, now))
    }

    fn note_request(&mut self, client: ClientId, number: u64, what: Wish, now: Instant) -> u64 {
        self.last_request += 1;
        let noted = self.last_request;
        let due = now + limits::REQUEST_TIMEOUT;
        let request = Request {
            client,
            number,
            what,
            due,
            hops: 0,
            asked: None,
            outdated: 0,
        };
        self.requests.insert(noted, request);
        self.timers.insert((due, Timer::Request(noted)));
        if let Some(Client::Ready { request, .. }) = self.clients.get_mut(&client) {
            *request = Some(noted);
        }
        noted
    }

    fn forget_request(&mut self, number: u64) -> Option<Request> {
        let forgotten = self.requests.remove(&number)?;
        self.timers.remove(&(forgotten.due, Timer::Request(number)));
        self.asks.remove(&AskId(number));
        if let Some(Client::Ready { request, .. }) = self.clients.get_mut(&forgotten.client)
            && *request == Some(number)
        {
            *request = None;
        }
        Some(forgotten)
    }

    fn ask(&mut self, request: u64, question: Ask) {
        let ask = AskId(request);
        self.asks.insert(ask, request);
        self.outputs.push_back(Output::Ask { ask, question });
    }

    fn leave(&mut self, client: ClientId, request: u64, attachment: Attachment) {
        let Some(seated) = self
            .seated(client)
            .filter(|seated| seated.attachment == attachment)
            .cloned()
        else {
            let error = Error::new(
                ErrorCode::InvalidState,
                "this connection is not a member of that session",
            );
            return self.tell(
                client,
                RelayMessage::Failed {
                    request,
                    failure: error.into(),
                },
            );
        };
        self.send_to_owner_of(
            seated.key.session,
            LinkFrame::Control(LinkMessage::Leave(seated.key)),
        );
        self.unseat(client);
        let ended = RelayMessage::Ended {
            request,
            attachment,
            error: ErrorCode::Ok.into(),
            can_rejoin: false,
        };
        self.tell(client, ended);
    }

    fn publish(&mut self, client: ClientId, publish: Publish) {
        let Some(seated) = self
            .seated(client)
            .filter(|seated| seated.attachment == publish.attachment)
        else {
            return;
        };
        let key = seated.key;
        let Some(route) = self.routes.get(&key.session) else {
            return;
        };
        if route.detached.contains(&key.peer) {
            // Ordered is sent again by the client once the way is restored; the owner notices
            // missing Reliable messages; the other modes may be lost.
            return;
        }
        self.counters.published[publish.message.mode as usize] += 1;
        let (mode, seq) = (publish.message.mode, publish.message.seq);
        let forward = Forward {
            session: key.session,
            epoch: route.epoch,
            sender: key.peer,
            incarnation: key.incarnation,
            message: publish.message,
        };
        let node = route.owner.clone();
        self.outputs.push_back(Output::ToOwner {
            node,
            frame: LinkFrame::Forward(forward),
        });
        if mode == Mode::Reliable
            && let Some(Client::Ready {
                place: Some(seated),
                ..
            }) = self.clients.get_mut(&client)
        {
            seated.reliable_sent = seated.reliable_sent.max(seq);
        }
    }

    fn ack(&mut self, client: ClientId, ack: Ack) {
        let Some(seated) = self
            .seated(client)
            .filter(|seated| seated.attachment == ack.attachment)
        else {
            return;
        };
        let MemberKey { session, peer, .. } = seated.key;
        if self
            .routes
            .get(&session)
            .is_some_and(|route| route.detached.contains(&peer))
        {
            return;
        }
        self.send_to_owner_of(
            session,
            LinkFrame::Ack(LinkAck {
                session,
                peer,
                index: ack.index,
            }),
        );
    }

    fn client_lost(&mut self, client: ClientId) {
        match self.clients.get(&client) {
            None => return,
            Some(&Client::Greeting { due, .. }) => {
                self.timers.remove(&(due, Timer::Hello(client)));
            }
            Some(Client::Ready { request, .. }) => {
                if let Some(number) = *request {
                    self.forget_request(number);
                }
            }
        }
        if let Some(key) = self.seated(client).map(|seated| seated.key) {
            self.send_to_owner_of(key.session, LinkFrame::Control(LinkMessage::Dropped(key)));
            self.unseat(client);
            self.ask_again(key);
        }
        self.clients.remove(&client);
    }

    /// A member's old connection was given up while it is taking up its seat over a new one: the
    /// owner, which cannot tell the two apart, may now hold the seat, so it is asked once more.
    fn ask_again(&mut self, key: MemberKey) {
        let again: Vec<(u64, Located)> = self
            .resuming(key)
            .map(|(number, asked)| (number, asked.clone()))
            .collect();
        for (number, asked) in again {
            self.send_request(number, asked);
            if let Some(request) = self.requests.get_mut(&number) {
                request.outdated += 1;
            }
        }
    }

    /// The clients' own requests that an owner was asked to take up this seat again.
    fn resuming(&self, key: MemberKey) -> impl Iterator<Item = (u64, &Located)> {
        self.requests.iter().filter_map(move |(&number, request)| {
            let Wish::Join { join } = &request.what else {
                return None;
            };
            let resume = join.resume.as_ref()?;
            let asked = request.asked.as_ref()?;
            let resumed = MemberKey {
                session: asked.session,
                peer: resume.peer,
                incarnation: resume.incarnation,
            };
            (resumed == key).then_some((number, asked))
        })
    }

    // ----------------------------------------------------------------------------- from the node

    fn answer(&mut self, ask: AskId, located: Result<Located, Error>, now: Instant) {
        let Some(number) = self.asks.remove(&ask) else {
            return;
        };
        match located {
            Ok(located) => self.send_request(number, located),
            Err(error) => self.fail_request(number, error.into(), now),
        }
    }

    fn send_request(&mut self, number: u64, located: Located) {
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        request.asked = Some(located.clone());
        let Some(request) = self.requests.get(&number) else {
            return;
        };
        let Some(Client::Ready { user, .. }) = self.clients.get(&request.client) else {
            return;
        };
        let Located {
            session,
            owner,
            home_region,
        } = located;
        let user = user.clone();
        let message = match &request.what {
            Wish::Create { options } => {
                let options = options.clone();
                LinkMessage::Create {
                    request: number,
                    session,
                    home_region,
                    options,
                    user,
                }
            }
            Wish::Join { join } => LinkMessage::Join {
                request: number,
                session,
                user,
                app_version: join.app_version.clone(),
                resume: join.resume.clone(),
            },
            Wish::Reattach { key } => {
                let Some(seated) = self
                    .seated(request.client)
                    .filter(|seated| seated.key == *key)
                else {
                    return;
                };
                let resume = Some(seated.resume());
                LinkMessage::Join {
                    request: number,
                    session,
                    user,
                    app_version: String::new(),
                    resume,
                }
            }
        };
        self.outputs.push_back(Output::ToOwner {
            node: owner,
            frame: LinkFrame::Control(message),
        });
    }

    fn link_lost(&mut self, node: &NodeId, now: Instant) {
        let mut unanswered = Vec::new();
        for (&number, request) in &mut self.requests {
            if let Some(asked) = &request.asked
                && asked.owner == *node
            {
                // Its answers are lost as well.
                request.outdated = 0;
                unanswered.push((number, asked.clone(), request.what.clone()));
            }
        }
        for (number, asked, what) in unanswered {
            match what {
                Wish::Reattach { .. } => {
                    self.forget_request(number);
                }
                // To resume twice is to resume once.
                Wish::Join { join } if join.resume.is_some() => self.send_request(number, asked),
                Wish::Join { .. } | Wish::Create { .. } => {
                    let message = format!("the link to {node} broke; try again");
                    self.fail_request(number, Error::new(ErrorCode::Timeout, message).into(), now);
                }
            }
        }
        let behind: Vec<SessionId> = self
            .routes
            .iter()
            .filter(|(_, route)| route.owner == *node)
            .map(|(&session, _)| session)
            .collect();
        behind
            .into_iter()
            .for_each(|session| self.detach(session, now));
    }

    /// The way to the owner of a session is broken: look for it until it is restored or too late.
    fn detach(&mut self, session: SessionId, now: Instant) {
        let Some(route) = self.routes.get_mut(&session) else {
            return;
        };
        route.detached = route.members.iter().map(|&(peer, ..)| peer).collect();
        if route.search.is_none() {
            let search = Search {
                until: now
                    + match route.standby {
                        Some(_) => limits::OWNER_LOST_AFTER.max(route.hold),
                        // Nobody else goes on with it.
                        None => limits::OWNER_LOST_AFTER,
                    },
                again: now,
                standby_at: now + STANDBY_AFTER,
                without: BTreeSet::new(),
            };
            self.timers
                .insert((search.until, Timer::OwnerLost(session)));
            self.timers.insert((search.again, Timer::Reattach(session)));
            route.search = Some(search);
        }
    }

    /// The search goes on at once, with the standby.
    fn hurry(&mut self, session: SessionId, now: Instant) {
        let route = self.routes.get_mut(&session);
        if let Some(search) = route.and_then(|route| route.search.as_mut()) {
            self.timers
                .remove(&(search.again, Timer::Reattach(session)));
            (search.again, search.standby_at) = (now, now);
            self.timers.insert((now, Timer::Reattach(session)));
        }
    }

    /// The owner could not be reached for too long by these members.
    fn owner_lost(&mut self, session: SessionId) {
        let Some(route) = self.routes.get(&session) else {
            return;
        };
        let members = route.members.iter();
        let lost: Vec<ClientId> = members
            .filter(|(peer, ..)| route.detached.contains(peer))
            .map(|&(.., client)| client)
            .collect();
        self.counters.owners_lost += 1;
        for client in lost {
            self.end_client(client, &ErrorCode::OwnerLost.into(), false);
        }
    }

    /// Asks the owner, later the standby, to take the detached members of a session back, and again
    /// until one does.
    fn reattach(&mut self, session: SessionId, now: Instant) {
        let Some(route) = self.routes.get_mut(&session) else {
            return;
        };
        let Some(search) = &mut route.search else {
            return;
        };
        search.again = now + REATTACH_EVERY;
        self.timers.insert((search.again, Timer::Reattach(session)));
        let turns_to_standby = search.standby_at <= now;
        let standby = route.standby.as_ref().filter(|_| turns_to_standby);
        let owner = standby.unwrap_or(&route.owner).clone();
        let detached: Vec<(PeerId, Incarnation, ClientId)> = route
            .members
            .iter()
            .filter(|(peer, ..)| route.detached.contains(peer))
            .copied()
            .collect();
        for (peer, incarnation, client) in detached {
            let Some(&Client::Ready { request, .. }) = self.clients.get(&client) else {
                continue;
            };
            let key = MemberKey {
                session,
                peer,
                incarnation,
            };
            if let Some(before) = request {
                // Asking again would make the owner replay again, and its first answer outdated:
                // over a slow link none would ever be in time.
                if self.is_reattaching(before, key, &owner) {
                    continue;
                }
                self.forget_request(before);
            }
            let number = self.note_request(client, 0, Wish::Reattach { key }, now);
            self.send_request(
                number,
                Located {
                    session,
                    owner: owner.clone(),
                    home_region: String::new(),
                },
            );
        }
    }

    /// Whether this request asks `owner` to take the member back.
    fn is_reattaching(&self, number: u64, member: MemberKey, owner: &NodeId) -> bool {
        self.requests.get(&number).is_some_and(|request| {
            let asked = request.asked.as_ref();
            matches!(request.what, Wish::Reattach { key } if key == member)
                && asked.is_some_and(|asked| asked.owner == *owner)
        })
    }

    fn node_gone(&mut self, node: &NodeId, now: Instant) {
        let behind: Vec<SessionId> = self
            .routes
            .iter()
            .filter(|(_, route)| route.owner == *node)
            .map(|(&session, _)| session)
            .collect();
        for session in behind {
            self.detach(session, now);
            let route = self.routes.get_mut(&session);
            if let Some(search) = route.and_then(|route| route.search.as_mut()) {
                search.without.insert(node.clone());
            }
            if self.routes.get(&session).is_some_and(Route::is_over) {
                self.end_route(session, &ErrorCode::OwnerLost.into());
            } else {
                self.hurry(session, now);
            }
        }
    }

    fn drain(&mut self, deadline: Duration) {
        self.draining = true;
        let signed_in = self
            .clients
            .iter()
            .filter(|(_, state)| matches!(state, Client::Ready { .. }));
        let signed_in: Vec<ClientId> = signed_in.map(|(&client, _)| client).collect();
        for client in signed_in {
            self.tell(client, RelayMessage::Draining { deadline });
        }
    }

    // ---------------------------------------------------------------------------- from the owner

    fn owner_frame(&mut self, node: NodeId, frame: LinkFrame, now: Instant) {
        match frame {
            LinkFrame::Fanout(fanout) => self.fanout(&node, fanout),
            LinkFrame::Control(LinkMessage::Joined {
                request,
                joined,
                standby,
            }) => {
                self.joined(node, request, joined, standby, now);
            }
            LinkFrame::Control(LinkMessage::View {
                session,
                epoch,
                standby,
            }) => {
                if let Some(route) = self.routes.get_mut(&session)
                    && (&route.owner, route.epoch) == (&node, epoch)
                {
                    route.standby = standby;
                }
            }
            LinkFrame::Control(LinkMessage::Refused {
                request,
                session,
                failure,
                owner,
            }) => {
                if request == 0 {
                    self.sends_refused(&node, session, owner, now);
                } else {
                    self.refused(&node, request, session, failure, owner, now);
                }
            }
            LinkFrame::Control(LinkMessage::Ended {
                member,
                error,
                can_rejoin,
            }) => {
                self.ended(&node, member, &error, can_rejoin);
            }
            LinkFrame::Control(LinkMessage::SendRejected {
                session,
                peer,
                mode,
                seq,
                error,
            }) => {
                if let Some((client, attachment)) = self.member_at(&node, session, peer) {
                    self.tell(
                        client,
                        RelayMessage::SendRejected {
                            attachment,
                            mode,
                            seq,
                            error,
                        },
                    );
                }
            }
            LinkFrame::Control(LinkMessage::ReliableGap {
                session,
                peer,
                sender,
                missed,
            }) => {
                let members = self.members_at(&node, session);
                for (_, client, attachment) in members.into_iter().filter(|(member, ..)| {
                    (peer == PeerId::SESSION && *member != sender) || *member == peer
                }) {
                    if peer != PeerId::SESSION
                        && self.seated(client).is_some_and(|seated| !seated.answered)
                    {
                        continue;
                    }
                    self.count_reliable(client, sender, missed);
                    self.tell(
                        client,
                        RelayMessage::ReliableGap {
                            attachment,
                            sender,
                            missed,
                        },
                    );
                }
            }
            // What a gateway sends to an owner: those are for a session, not for this side.
            LinkFrame::Control(
                LinkMessage::Hello { .. }
                | LinkMessage::Create { .. }
                | LinkMessage::Join { .. }
                | LinkMessage::Leave(_)
                | LinkMessage::Dropped(_)
                | LinkMessage::Sync { .. }
                | LinkMessage::Seal { .. }
                | LinkMessage::Sealed { .. }
                | LinkMessage::Release { .. }
                | LinkMessage::TakeOver { .. },
            )
            | LinkFrame::Forward(_)
            | LinkFrame::Ack(_)
            | LinkFrame::Store(_)
            | LinkFrame::Stored(_) => {}
        }
    }

    fn joined(
        &mut self,
        node: NodeId,
        number: u64,
        mut joined: Joined,
        standby: Option<NodeId>,
        now: Instant,
    ) {
        let key = MemberKey {
            session: joined.session,
            peer: joined.peer,
            incarnation: joined.incarnation,
        };
        self.unanswered(key);
        if self.is_outdated(number) {
            return;
        }
        let present = self.routes.get(&key.session);
        let is_here = present.is_some_and(|route| route.has(key));
        if present.is_some_and(|route| joined.epoch < route.epoch) {
            // A former owner has nothing to say any longer.
            return self.fail_request(number, Error::from(ErrorCode::NotOwner).into(), now);
        }
        let Some(request) = self.forget_request(number) else {
            // The client is gone, or has been told that the request timed out: its seat is held.
            if !is_here && self.resuming(key).next().is_none() {
                self.outputs.push_back(Output::ToOwner {
                    node,
                    frame: LinkFrame::Control(LinkMessage::Dropped(key)),
                });
            }
            return;
        };
        let client = request.client;
        let resume = match &request.what {
            Wish::Join { join } => join.resume.clone(),
            Wish::Create { .. } => None,
            Wish::Reattach { .. } => self.seated(client).map(Seated::resume),
        };
        self.replace(key, client);
        let Some(Client::Ready {
            last_attachment,
            place,
            ..
        }) = self.clients.get_mut(&client)
        else {
            return;
        };
        if !matches!(request.what, Wish::Reattach { .. }) {
            *last_attachment = Attachment(last_attachment.0.wrapping_add(1).max(1));
        }
        joined.attachment = *last_attachment;
        *place = Some(Seated {
            attachment: *last_attachment,
            key,
            last_index: joined.index,
            last_epoch: resume
                .as_ref()
                .filter(|resume| resume.last_index == joined.index)
                .map_or(Epoch(0), |resume| resume.last_epoch),
            reliable_sent: resume
                .as_ref()
                .map_or(Seq(0), |resume| resume.reliable_sent),
            attempt: resume.as_ref().map_or(0, |resume| resume.attempt),
            reliable: resume
                .map(|resume| resume.reliable.into_iter().collect())
                .unwrap_or_default(),
            answered: true,
        });
        let route = self
            .routes
            .entry(key.session)
            .or_insert_with(|| Route::new(node.clone(), joined.epoch));
        let moved = route.owner != node || route.epoch != joined.epoch;
        (route.owner, route.epoch) = (node, joined.epoch);
        (route.standby, route.hold) = (standby, joined.rejoin_hold);
        route.members.retain(|(peer, ..)| *peer != key.peer);
        route.members.push((key.peer, key.incarnation, client));
        if moved {
            // The others have to follow this one to the new owner.
            self.detach(key.session, now);
            self.look_again(key.session, now);
        }
        if let Some(route) = self.routes.get_mut(&key.session) {
            route.detached.retain(|peer| *peer != key.peer);
        }
        self.settle_route(key.session);
        self.tell(
            client,
            RelayMessage::Joined {
                request: request.number,
                joined,
            },
        );
    }

    /// The member came back over another connection to this very node.
    fn replace(&mut self, key: MemberKey, by: ClientId) {
        let members = self
            .routes
            .get(&key.session)
            .map(|route| route.members.as_slice())
            .unwrap_or_default();
        let old = members
            .iter()
            .find(|(peer, _, client)| *peer == key.peer && *client != by)
            .map(|&(.., client)| client);
        if let Some(old) = old {
            self.end_client(old, &ErrorCode::ReplacedByNewConnection.into(), false);
        }
    }

    /// The search begins anew with the route's owner, who is known to be there.
    fn look_again(&mut self, session: SessionId, now: Instant) {
        let route = self.routes.get_mut(&session);
        if let Some(search) = route.and_then(|route| route.search.as_mut()) {
            self.timers
                .remove(&(search.again, Timer::Reattach(session)));
            search.again = now;
            search.standby_at = now + STANDBY_AFTER;
            search.without.clear();
            self.timers.insert((now, Timer::Reattach(session)));
        }
    }

    /// The owner refuses what a member sent, or has given the session to `next`: the way to it has to be
    /// found anew.
    fn sends_refused(
        &mut self,
        node: &NodeId,
        session: SessionId,
        next: Option<NodeId>,
        now: Instant,
    ) {
        let Some(route) = self.routes.get_mut(&session) else {
            return;
        };
        if route.owner != *node {
            return;
        }
        if let Some(next) = next.filter(|next| next != node) {
            route.standby = Some(next);
            self.detach(session, now);
            self.hurry(session, now);
        } else {
            self.detach(session, now);
        }
    }

    /// Whether this answers what has been asked again since.
    fn is_outdated(&mut self, number: u64) -> bool {
        let Some(request) = self.requests.get_mut(&number) else {
            return false;
        };
        let is_outdated = request.outdated > 0;
        request.outdated = request.outdated.saturating_sub(1);
        is_outdated
    }

    fn refused(
        &mut self,
        node: &NodeId,
        number: u64,
        session: SessionId,
        mut failure: Failure,
        owner: Option<NodeId>,
        now: Instant,
    ) {
        if self.is_outdated(number) {
            return;
        }
        let Some(request) = self.requests.get_mut(&number) else {
            return;
        };
        if failure.error.code() == ErrorCode::NotOwner {
            if let Some(owner) = owner
                && request.hops < HOPS_MAX
            {
                request.hops += 1;
                self.counters.redirects += 1;
                if matches!(request.what, Wish::Reattach { .. }) {
                    self.sent_on(session, &owner, now);
                }
                let Some(request) = self.requests.get(&number) else {
                    return;
                };
                let asked = request.asked.as_ref();
                let home_region = asked.map(|asked| asked.home_region.clone());
                let located = Located {
                    session,
                    owner,
                    home_region: home_region.unwrap_or_default(),
                };
                return self.send_request(number, located);
            }
            let is_reattaching = matches!(request.what, Wish::Reattach { .. });
            if !is_reattaching {
                failure = Error::from(ErrorCode::SessionNotFound).into();
            }
        }
        let code = failure.error.code();
        if matches!(code, ErrorCode::SessionNotFound | ErrorCode::OwnerLost)
            && let Some(search) = self
                .routes
                .get_mut(&session)
                .and_then(|route| route.search.as_mut())
        {
            search.without.insert(node.clone());
        }
        self.fail_request(number, failure, now);
    }

    fn fail_request(&mut self, number: u64, failure: Failure, now: Instant) {
        let Some(request) = self.forget_request(number) else {
            return;
        };
        let code = failure.error.code();
        let asked = request.asked.as_ref().map(|asked| &asked.owner);
        match request.what {
            Wish::Create { .. } | Wish::Join { .. } => {
                let request_number = request.number;
                self.tell(
                    request.client,
                    RelayMessage::Failed {
                        request: request_number,
                        failure,
                    },
                );
            }
            // It will be tried again, with the other one.
            Wish::Reattach { key }
                if matches!(
                    code,
                    ErrorCode::Timeout | ErrorCode::NotOwner | ErrorCode::DirectoryUnavailable
                ) =>
            {
                self.turn(key.session, asked, now);
            }
            // Whoever was asked is there, and has not got the session.
            Wish::Reattach { key }
                if matches!(code, ErrorCode::SessionNotFound | ErrorCode::OwnerLost) =>
            {
                let route = self.routes.get(&key.session);
                let is_over = route.is_none_or(Route::is_over);
                if is_over {
                    self.end_route(key.session, &ErrorCode::OwnerLost.into());
                } else {
                    self.turn(key.session, asked, now);
                }
            }
            Wish::Reattach { .. } => self.end_client(request.client, &failure.error, false),
        }
    }

    /// The other one is asked next: the standby after the owner, the owner after the standby. What several
    /// members are told turns the search once.
    fn turn(&mut self, session: SessionId, asked: Option<&NodeId>, now: Instant) {
        let Some(route) = self.routes.get_mut(&session) else {
            return;
        };
        let was_standby = asked.is_some() && asked == route.standby.as_ref();
        if let Some(search) = &mut route.search {
            search.standby_at = if was_standby {
                now + STANDBY_AFTER
            } else {
                now
            };
        }
    }

    /// Whoever was asked for a member says that this one has the session: so it is for the others.
    fn sent_on(&mut self, session: SessionId, to: &NodeId, now: Instant) {
        let Some(route) = self.routes.get_mut(&session) else {
            return;
        };
        if let Some(search) = &mut route.search {
            if route.owner == *to {
                search.standby_at = now + STANDBY_AFTER;
            } else {
                route.standby = Some(to.clone());
                search.standby_at = now;
            }
        }
    }

    fn ended(&mut self, node: &NodeId, member: MemberKey, error: &Error, can_rejoin: bool) {
        let Some(route) = self
            .routes
            .get(&member.session)
            .filter(|route| route.owner == *node)
        else {
            return;
        };
        if member.peer == PeerId::SESSION {
            return self.end_route(member.session, error);
        }
        if let Some(client) = route.client(member) {
            self.end_client(client, error, can_rejoin);
        }
    }

    fn end_route(&mut self, session: SessionId, error: &Error) {
        self.counters.owners_lost += u64::from(error.code() == ErrorCode::OwnerLost);
        let members = self
            .routes
            .get(&session)
            .map(|route| route.members.clone())
            .unwrap_or_default();
        for (_, _, client) in members {
            self.end_client(client, error, false);
        }
    }

    /// Tells a member that its session is over for it.
    fn end_client(&mut self, client: ClientId, error: &Error, can_rejoin: bool) {
        let Some(attachment) = self.seated(client).map(|seated| seated.attachment) else {
            return;
        };
        self.unseat(client);
        let error = error.clone();
        self.tell(
            client,
            RelayMessage::Ended {
                request: 0,
                attachment,
                error,
                can_rejoin,
            },
        );
    }

    fn fanout(&mut self, node: &NodeId, fanout: Fanout) {
        let Some(route) = self.routes.get(&fanout.session) else {
            return;
        };
        // Nothing of another owner passes; of this one also what others ordered before it.
        let stale = fanout.message.mode == Mode::Ordered && fanout.place.epoch > route.epoch;
        if route.owner != *node || stale {
            return;
        }
        let gone = left(&fanout);
        let mid = fanout.mid();
        let Message {
            mode,
            channel,
            key,
            payload,
            target,
            ..
        } = fanout.message;
        for &(peer, _, client) in &route.members {
            if (fanout.only != PeerId::SESSION && fanout.only != peer)
                || route.detached.contains(&peer)
            {
                continue;
            }
            let Some(Client::Ready {
                place: Some(seated),
                ..
            }) = self.clients.get_mut(&client)
            else {
                continue;
            };
            let attachment = seated.attachment;
            let included = target.includes(peer, fanout.sender);
            match mode {
                Mode::Ordered => {
                    // What was handed on before comes again when an owner replays; what is ahead
                    // comes again when this member has been caught up with it.
                    if fanout.place.index != seated.last_index.next()
                        || fanout.place.epoch < seated.last_epoch
                    {
                        continue;
                    }
                    seated.last_index = fanout.place.index;
                    seated.last_epoch = fanout.place.epoch;
                    if let Some(peer) = gone {
                        seated.reliable.remove(&peer);
                    }
                }
                Mode::Reliable if included => {
                    let count = seated.reliable.entry(fanout.sender).or_default();
                    *count = count.saturating_add(1);
                }
                Mode::Reliable | Mode::Latest | Mode::Datagram => {}
            }
            let frame = if included {
                self.counters.delivered[mode as usize] += 1;
                RelayFrame::Deliver(Deliver {
                    attachment,
                    mid,
                    mode,
                    channel,
                    place: fanout.place,
                    key,
                    payload: payload.clone(),
                })
            } else if mode == Mode::Ordered {
                RelayFrame::Skip(Skip {
                    attachment,
                    mid,
                    place: fanout.place,
                })
            } else {
                continue;
            };
            self.outputs.push_back(Output::ToClient { client, frame });
        }
    }

    // ---------------------------------------------------------------------------------- helpers

    fn seated(&self, client: ClientId) -> Option<&Seated> {
        match self.clients.get(&client) {
            Some(Client::Ready { place, .. }) => place.as_ref(),
            Some(Client::Greeting { .. }) | None => None,
        }
    }

    fn unseat(&mut self, client: ClientId) {
        let Some(Client::Ready { place, request, .. }) = self.clients.get_mut(&client) else {
            return;
        };
        let Some(seated) = place.take() else { return };
        if let Some(reattach) = *request {
            self.forget_request(reattach);
        }
        let session = seated.key.session;
        if let Some(route) = self.routes.get_mut(&session) {
            route.members.retain(|(.., member)| *member != client);
            route.detached.retain(|peer| *peer != seated.key.peer);
        }
        self.settle_route(session);
    }

    /// Ends the search for the owner when nobody needs it, and the route when nobody is left.
    fn settle_route(&mut self, session: SessionId) {
        let Some(route) = self.routes.get_mut(&session) else {
            return;
        };
        if route.detached.is_empty()
            && let Some(search) = route.search.take()
        {
            self.timers
                .remove(&(search.until, Timer::OwnerLost(session)));
            self.timers
                .remove(&(search.again, Timer::Reattach(session)));
        }
        if route.members.is_empty() {
            self.routes.remove(&session);
        }
    }

    fn unanswered(&mut self, key: MemberKey) {
        let route = self.routes.get(&key.session);
        let client = route.and_then(|route| route.client(key));
        if let Some(Client::Ready {
            place: Some(seated),
            ..
        }) = client.and_then(|client| self.clients.get_mut(&client))
        {
            seated.answered = false;
        }
    }

    fn count_reliable(&mut self, client: ClientId, sender: PeerId, missed: u32) {
        if let Some(Client::Ready {
            place: Some(seated),
            ..
        }) = self.clients.get_mut(&client)
        {
            let count = seated.reliable.entry(sender).or_default();
            *count = count.saturating_add(missed);
        }
    }

    /// The members here that are attached to this owner.
    fn members_at(&self, node: &NodeId, session: SessionId) -> Vec<(PeerId, ClientId, Attachment)> {
        let route = self
            .routes
            .get(&session)
            .filter(|route| route.owner == *node);
        let Some(route) = route else {
            return Vec::new();
        };
        let attached = route
            .members
            .iter()
            .filter(|(peer, ..)| !route.detached.contains(peer));
        attached
            .filter_map(|&(peer, _, client)| Some((peer, client, self.seated(client)?.attachment)))
            .collect()
    }

    fn member_at(
        &self,
        node: &NodeId,
        session: SessionId,
        peer: PeerId,
    ) -> Option<(ClientId, Attachment)> {
        let mut members = self.members_at(node, session).into_iter();
        members
            .find(|(member, ..)| *member == peer)
            .map(|(_, client, attachment)| (client, attachment))
    }

    fn send_to_owner_of(&mut self, session: SessionId, frame: LinkFrame) {
        if let Some(route) = self.routes.get(&session) {
            let node = route.owner.clone();
            self.outputs.push_back(Output::ToOwner { node, frame });
        }
    }

    fn tell(&mut self, client: ClientId, message: RelayMessage) {
        self.outputs.push_back(Output::ToClient {
            client,
            frame: RelayFrame::Control(message),
        });
    }

    /// Gives the connection up: nothing that it still sends counts.
    fn close(&mut self, client: ClientId, error: Error) {
        self.outputs.push_back(Output::Close { client, error });
        self.client_lost(client);
    }
}

impl Seated {
    fn resume(&self) -> Resume {
        Resume {
            peer: self.key.peer,
            incarnation: self.key.incarnation,
            last_index: self.last_index,
            reliable: self
                .reliable
                .iter()
                .map(|(&sender, &count)| (sender, count))
                .take(limits::TARGETS_MAX)
                .collect(),
            attempt: self.attempt,
            last_epoch: self.last_epoch,
            reliable_sent: self.reliable_sent,
        }
    }
}

/// Who has left the session by this entry: the one thing in an entry that a gateway acts on.
fn left(fanout: &Fanout) -> Option<PeerId> {
    if fanout.sender != PeerId::SESSION || fanout.message.mode != Mode::Ordered {
        return None;
    }
    match SessionEvent::decode(fanout.message.payload.clone()).ok()? {
        SessionEvent::Left { peer, .. } => Some(peer),
        SessionEvent::Joined(_)
        | SessionEvent::Dropped { .. }
        | SessionEvent::Rejoined { .. }
        | SessionEvent::Refused { .. } => None,
    }
}

impl Route {
    fn new(owner: NodeId, epoch: Epoch) -> Self {
        Self {
            owner,
            epoch,
            standby: None,
            hold: Duration::ZERO,
            members: Vec::new(),
            detached: Vec::new(),
            search: None,
        }
    }

    fn client(&self, key: MemberKey) -> Option<ClientId> {
        self.members
            .iter()
            .find(|(peer, incarnation, _)| *peer == key.peer && *incarnation == key.incarnation)
            .map(|&(.., client)| client)
    }

    fn has(&self, key: MemberKey) -> bool {
        self.client(key).is_some()
    }

    /// Whether everybody who could have the session is sure not to.
    fn is_over(&self) -> bool {
        let Some(search) = &self.search else {
            return true;
        };
        let mut candidates = self.standby.iter().chain([&self.owner]);
        candidates.all(|node| search.without.contains(node))
    }
}

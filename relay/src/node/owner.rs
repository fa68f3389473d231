//! The sessions that this node owns, and those it is about to.
//!
//! Frames of gateways go to their session. A session that is created waits for the directory, which
//! gives it its epoch; one that is asked for but not here is looked up there, so that whoever asks
//! can be sent on to its owner. What the directory forgets, or was not there to hear, it is told
//! again: [`Repairs`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use dreamcatcher_directory::{
    DirectoryError, Grade, Holder, Listing, NewSession, Reply, Request, SessionRecord, View,
    limits as lease,
};
use dreamcatcher_proto::control::{Failure, LinkMessage, SessionOptions, User};
use dreamcatcher_proto::frame::LinkFrame;
use dreamcatcher_proto::session::{Input, Output, Session, SessionConfig};
use dreamcatcher_proto::{Error, ErrorCode, NodeId, SessionId};
use tracing::{info, warn};

use super::repairs::{Repair, Repairs};

/// One thing to do.
#[derive(Debug)]
pub(super) enum Action {
    ToGateway {
        node: NodeId,
        frame: LinkFrame,
    },
    /// Ask the directory; the answer comes back to [`Owner::answered`].
    Directory {
        purpose: Purpose,
        request: Request,
    },
}

/// Why the owner asks the directory.
#[derive(Debug)]
pub(super) enum Purpose {
    Create(Box<Create>),
    /// Someone wants to join a session that is not here.
    FindOwner {
        gateway: NodeId,
        request: u64,
        session: SessionId,
    },
    /// The listing is asserted.
    Assert(SessionId),
    Repair(Repair),
}

/// A session that waits for its epoch.
#[derive(Debug)]
pub(super) struct Create {
    gateway: NodeId,
    request: u64,
    id: SessionId,
    home_region: String,
    options: SessionOptions,
    user: User,
}

#[derive(Debug)]
pub(super) struct Owner {
    me: Holder,
    sessions: BTreeMap<SessionId, Owned>,
    timers: BTreeSet<(Instant, SessionId)>,
    actions: VecDeque<Action>,
    repairs: Repairs,
    restored: u64,
    codes_lost: u64,
    ordered: u64,
    fanouts: u64,
    duplicates: u64,
    resumes: u64,
}

#[derive(Debug)]
struct Owned {
    session: Session,
    due: Option<Instant>,
    /// Of the view in the directory.
    nonce: u64,
    /// When the listing is asserted again: of unlisted sessions too, which operators see.
    assert_at: Instant,
}

impl Owner {
    pub(super) fn new(me: Holder) -> Self {
        Self {
            me,
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            repairs: Repairs::default(),
            restored: 0,
            codes_lost: 0,
            ordered: 0,
            fanouts: 0,
            duplicates: 0,
            resumes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values().map(|owned| &owned.session)
    }

    /// (ordered, fanouts, duplicates, resumes) of all sessions, closed ones included.
    pub(super) fn totals(&self) -> (u64, u64, u64, u64) {
        self.sessions().map(Session::counters).fold(
            (self.ordered, self.fanouts, self.duplicates, self.resumes),
            |(ordered, fanouts, duplicates, resumes), counters| {
                (
                    ordered + counters.ordered,
                    fanouts + counters.fanouts,
                    duplicates + counters.duplicates,
                    resumes + counters.resumes,
                )
            },
        )
    }

    /// (records given back, join codes that were taken meanwhile, sessions that wait to be told of).
    pub(super) fn repaired(&self) -> (u64, u64, usize) {
        (self.restored, self.codes_lost, self.repairs.waiting())
    }

    pub(super) fn poll_action(&mut self, now: Instant) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.repair(now))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.timers.first().map(|&(due, _)| due);
        due.into_iter().chain(self.repairs.poll_timeout()).min()
    }

    /// The directory may have lost what it knew of this node.
    pub(super) fn restore_all(&mut self) {
        if !self.sessions.is_empty() {
            let sessions = self.sessions.len();
            info!(sessions, "giving the directory its records back");
        }
        self.sessions.keys().for_each(|&id| self.repairs.lost(id));
    }

    /// A frame of a gateway, this node's own included.
    pub(super) fn handle(&mut self, gateway: NodeId, frame: LinkFrame, now: Instant) {
        let (id, input) = match frame {
            LinkFrame::Forward(forward) => (
                forward.session,
                Input::Forward {
                    gateway: gateway.clone(),
                    forward,
                },
            ),
            LinkFrame::Ack(ack) => (
                ack.session,
                Input::Ack {
                    gateway: gateway.clone(),
                    ack,
                },
            ),
            LinkFrame::Control(LinkMessage::Create {
                request,
                session: id,
                home_region,
                options,
                user,
            }) => {
                return self.create(Create {
                    gateway,
                    request,
                    id,
                    home_region,
                    options,
                    user,
                });
            }
            LinkFrame::Control(LinkMessage::Join {
                request,
                session,
                user,
                app_version,
                resume,
            }) => {
                if !self.sessions.contains_key(&session) {
                    let purpose = Purpose::FindOwner {
                        gateway,
                        request,
                        session,
                    };
                    let request = Request::Session(session);
                    return self
                        .actions
                        .push_back(Action::Directory { purpose, request });
                }
                (
                    session,
                    Input::Join {
                        gateway: gateway.clone(),
                        request,
                        user,
                        app_version,
                        resume,
                    },
                )
            }
            LinkFrame::Control(LinkMessage::Leave(member)) => (
                member.session,
                Input::Leave {
                    gateway: gateway.clone(),
                    member,
                },
            ),
            LinkFrame::Control(LinkMessage::Dropped(member)) => (
                member.session,
                Input::Dropped {
                    gateway: gateway.clone(),
                    member,
                },
            ),
            LinkFrame::Control(
                LinkMessage::Hello { .. }
                | LinkMessage::Joined { .. }
                | LinkMessage::Refused { .. }
                | LinkMessage::Ended { .. }
                | LinkMessage::SendRejected { .. }
                | LinkMessage::ReliableGap { .. },
            )
            | LinkFrame::Fanout(_) => return debug_assert!(false, "not a gateway's frame"),
        };
        let gone = matches!(input, Input::Forward { .. }) && !self.sessions.contains_key(&id);
        if gone {
            return self.refuse(gateway, 0, id, ErrorCode::NotOwner.into(), None);
        }
        self.drive(id, input, now);
    }

    /// The way to every member at `gateway` broke.
    pub(super) fn gateway_lost(&mut self, gateway: &NodeId, now: Instant) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            self.drive(
                id,
                Input::GatewayLost {
                    gateway: gateway.clone(),
                },
                now,
            );
        }
    }

    /// Ends every session.
    pub(super) fn close_all(&mut self, error: &Error, now: Instant) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            self.drive(
                id,
                Input::Close {
                    error: error.clone(),
                },
                now,
            );
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            let Some(owned) = self.sessions.get_mut(&id) else {
                continue;
            };
            owned.due = None;
            if owned.assert_at <= now {
                owned.assert_at = now + lease::LISTING_ASSERT_EVERY;
                self.assert_listing(id);
            }
            if let Some(owned) = self.sessions.get_mut(&id) {
                owned.session.handle_timeout(now);
            }
            self.drain(id);
        }
    }

    /// The directory answered.
    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        reply: Result<Reply, DirectoryError>,
        is_alive: impl Fn(&Holder) -> bool,
        now: Instant,
    ) {
        match purpose {
            Purpose::Assert(id) => self.asserted(id, reply),
            Purpose::Repair(repair) => self.repaired_by(repair, reply, now),
            Purpose::Create(create) => self.created(*create, reply, now),
            Purpose::FindOwner {
                gateway,
                request,
                session,
            } => {
                let record = match reply {
                    Ok(Reply::Session(record)) => record,
                    Ok(other) => return debug_assert!(false, "{other:?} does not answer Session"),
                    Err(error) => {
                        return self.refuse(gateway, request, session, error.for_player(), None);
                    }
                };
                let (error, owner) = self.whereabouts(record.as_ref(), is_alive);
                self.refuse(gateway, request, session, error, owner);
            }
        }
    }

    /// What to tell who asks for a session that is not here.
    fn whereabouts(
        &self,
        record: Option<&SessionRecord>,
        is_alive: impl Fn(&Holder) -> bool,
    ) -> (Error, Option<NodeId>) {
        match record.map(|record| &record.view.owner) {
            Some(owner) if *owner == self.me => (ErrorCode::SessionNotFound.into(), None),
            Some(owner) if is_alive(owner) => {
                (ErrorCode::NotOwner.into(), Some(owner.node.clone()))
            }
            Some(_) => (ErrorCode::OwnerLost.into(), None),
            None => (ErrorCode::SessionNotFound.into(), None),
        }
    }

    fn create(&mut self, create: Create) {
        let new = NewSession {
            id: create.id,
            home_region: create.home_region.clone(),
            owner: self.me.clone(),
            listing: Some(listing(&create.options, 1)),
            with_code: true,
        };
        let purpose = Purpose::Create(Box::new(create));
        self.actions.push_back(Action::Directory {
            purpose,
            request: Request::CreateSession(new),
        });
    }

    fn created(&mut self, create: Create, reply: Result<Reply, DirectoryError>, now: Instant) {
        let Create {
            gateway,
            request,
            id,
            home_region,
            options,
            user,
        } = create;
        let (epoch, nonce, code) = match reply {
            Ok(Reply::Created { epoch, nonce, code }) => (epoch, nonce, code),
            // 128 random bits that are taken: the request was repeated behind our back.
            Ok(_) => {
                let error = Error::new(ErrorCode::Timeout, "the session id is taken; try again");
                return self.refuse(gateway, request, id, error, None);
            }
            Err(error) => {
                if matches!(error, DirectoryError::Unavailable { .. }) {
                    // It may have happened all the same.
                    self.repairs.failed(Repair::Look(id), now);
                }
                return self.refuse(gateway, request, id, error.for_player(), None);
            }
        };
        let assert_at = now + lease::LISTING_ASSERT_EVERY;
        let app_version = options.app_version.clone();
        let owner = self.me.node.clone();
        let config = SessionConfig {
            id,
            home_region,
            options,
            epoch,
            code,
            owner,
        };
        let session = Session::new(config, now);
        self.sessions.insert(
            id,
            Owned {
                session,
                due: None,
                nonce,
                assert_at,
            },
        );
        self.drive(
            id,
            Input::Join {
                gateway,
                request,
                user,
                app_version,
                resume: None,
            },
            now,
        );
    }

    fn drive(&mut self, id: SessionId, input: Input, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        owned.session.handle(input, now);
        self.drain(id);
    }

    /// Carries out what a session wants, and sets its timer.
    fn drain(&mut self, id: SessionId) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let mut closed = false;
        let mut relist = false;
        while let Some(output) = owned.session.poll_output() {
            match output {
                Output::ToGateway { gateway, frame } => {
                    self.actions.push_back(Action::ToGateway {
                        node: gateway,
                        frame,
                    });
                }
                Output::Listing { .. } => relist = true,
                Output::Closed => closed = true,
            }
        }
        let due = owned
            .session
            .poll_timeout()
            .into_iter()
            .chain([owned.assert_at])
            .min();
        if due != owned.due {
            if let Some(old) = owned.due {
                self.timers.remove(&(old, id));
            }
            if let Some(new) = due {
                self.timers.insert((new, id));
            }
            owned.due = due;
        }
        if closed {
            self.forget(id);
        } else if relist {
            self.assert_listing(id);
        }
    }

    fn forget(&mut self, id: SessionId) {
        let Some(owned) = self.sessions.remove(&id) else {
            return;
        };
        if let Some(due) = owned.due {
            self.timers.remove(&(due, id));
        }
        let counters = owned.session.counters();
        self.ordered += counters.ordered;
        self.fanouts += counters.fanouts;
        self.duplicates += counters.duplicates;
        self.resumes += counters.resumes;
        let epoch = owned.session.config().epoch;
        self.repairs.ended(id, Some(epoch));
    }

    fn assert_listing(&mut self, id: SessionId) {
        let Some(owned) = self.sessions.get(&id) else {
            return;
        };
        let config = owned.session.config();
        let listing = listing(&config.options, owned.session.players());
        let request = Request::Assert {
            id,
            epoch: config.epoch,
            listing,
        };
        self.actions.push_back(Action::Directory {
            purpose: Purpose::Assert(id),
            request,
        });
    }

    fn asserted(&mut self, id: SessionId, reply: Result<Reply, DirectoryError>) {
        match reply {
            Err(DirectoryError::SessionNotFound(_)) if self.sessions.contains_key(&id) => {
                self.repairs.lost(id);
            }
            Err(error @ DirectoryError::Conflict { .. }) => {
                warn!(session = %id, %error, "another node claims a session that is ordered here");
            }
            // The next assertion says it again.
            Ok(_) | Err(_) => {}
        }
    }

    // ---------------------------------------------------------------------------------- repairs

    fn repair(&mut self, now: Instant) -> Option<Action> {
        loop {
            let repair = self.repairs.poll(now)?;
            let request = match repair {
                Repair::Restore(id) => match self.record(id) {
                    Some(record) => Request::Restore(record),
                    None => {
                        self.repairs.settled(id);
                        continue;
                    }
                },
                Repair::Close(id, epoch) => Request::CloseSession { id, epoch },
                Repair::Look(id) => Request::Session(id),
            };
            let purpose = Purpose::Repair(repair);
            return Some(Action::Directory { purpose, request });
        }
    }

    /// A session here, as the directory should know it.
    fn record(&self, id: SessionId) -> Option<SessionRecord> {
        let owned = self.sessions.get(&id)?;
        let config = owned.session.config();
        Some(SessionRecord {
            id,
            home_region: config.home_region.clone(),
            ballot: config.epoch,
            view: View {
                epoch: config.epoch,
                nonce: owned.nonce,
                owner: self.me.clone(),
                standby: None,
                anchors: Vec::new(),
            },
            code: config.code,
            listing: Some(listing(&config.options, owned.session.players())),
        })
    }

    fn repaired_by(&mut self, repair: Repair, reply: Result<Reply, DirectoryError>, now: Instant) {
        let (Repair::Restore(id) | Repair::Close(id, _) | Repair::Look(id)) = repair;
        self.repairs.settled(id);
        match (repair, reply) {
            (_, Err(DirectoryError::Unavailable { .. } | DirectoryError::NotRegistered(_))) => {
                self.repairs.failed(repair, now)
            }
            (Repair::Restore(_), Ok(Reply::Session(stored))) => {
                self.restored += 1;
                self.settle_code(id, stored.and_then(|stored| stored.code));
            }
            (Repair::Look(_), Ok(Reply::Session(Some(record)))) => {
                if record.view.owner == self.me && !self.sessions.contains_key(&id) {
                    self.repairs.ended(id, Some(record.view.epoch));
                }
            }
            (_, Ok(_)) => {}
            (_, Err(error)) => warn!(session = %id, %error, ?repair, "the directory refuses"),
        }
    }

    /// The directory has this code for the session now.
    fn settle_code(&mut self, id: SessionId, stored: Option<dreamcatcher_proto::JoinCode>) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let before = owned.session.config().code;
        if before != stored {
            self.codes_lost += u64::from(before.is_some());
            // The code itself opens the session: it is not logged.
            warn!(
                session = %id,
                has_code = stored.is_some(),
                "another session took the join code while the directory did not know this one"
            );
            owned.session.set_code(stored);
        }
    }

    fn refuse(
        &mut self,
        gateway: NodeId,
        request: u64,
        session: SessionId,
        error: Error,
        owner: Option<NodeId>,
    ) {
        let refused = LinkMessage::Refused {
            request,
            session,
            failure: Failure::from(error),
            owner,
        };
        self.actions.push_back(Action::ToGateway {
            node: gateway,
            frame: LinkFrame::Control(refused),
        });
    }
}

fn listing(options: &SessionOptions, players: u16) -> Listing {
    Listing {
        name: options.name.clone(),
        players,
        max_players: options.max_players,
        visibility: options.visibility,
        app_version: options.app_version.clone(),
        grade: Grade::Fast,
    }
}

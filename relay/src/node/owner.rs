//! The sessions that this node owns, and those it is about to.
//!
//! Frames of gateways go to their session. A session that is created waits for the directory, which
//! gives it its epoch; one that is asked for but not here is looked up there, so that whoever asks
//! can be sent on to its owner. What the directory forgets, or was not there to hear, it is told
//! again: [`Repairs`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use dreamcatcher_directory::{
    DirectoryError, Holder, Listing, NewSession, Nodes, Reply, Request, SessionRecord, View,
    limits as lease,
};
use dreamcatcher_proto::control::{Failure, Grade, LinkMessage, SessionOptions, User};
use dreamcatcher_proto::frame::{LinkFrame, Stored};
use dreamcatcher_proto::session::{Input, Output, Session, SessionConfig};
use dreamcatcher_proto::{Epoch, Error, ErrorCode, NodeId, SessionId};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use tracing::{debug, info, warn};

use super::repairs::{Repair, Repairs};
use super::standby::Adoption;
use super::succession::{BACK_WITHIN, COPY_WITHIN, RETRY_EVERY, Step, Succession};

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
    /// The claim of a session is through.
    Installed(SessionId),
    /// The session goes on elsewhere, or its claim came to nothing.
    Deposed(SessionId),
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
    /// A view is installed.
    Install(SessionId),
    /// The ballot is raised, because another node has raised it and did not go on.
    Reclaim(SessionId),
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
    /// Sessions whose standby has to be looked at.
    unsettled: BTreeSet<SessionId>,
    rng: ChaCha12Rng,
    /// Every session is handed over.
    leaving: bool,
    installed: u64,
    handed_over: u64,
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
    succession: Succession,
}

/// Views that are changed at a time: the directory and the links have other things to do.
const CHANGES_MAX: usize = 64;

impl Owner {
    pub(super) fn new(me: Holder, rng: ChaCha12Rng) -> Self {
        Self {
            me,
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            repairs: Repairs::default(),
            unsettled: BTreeSet::new(),
            rng,
            leaving: false,
            installed: 0,
            handed_over: 0,
            restored: 0,
            codes_lost: 0,
            ordered: 0,
            fanouts: 0,
            duplicates: 0,
            resumes: 0,
        }
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Under which epoch the session is ordered here.
    pub(super) fn epoch_of(&self, id: SessionId) -> Option<Epoch> {
        let owned = self.sessions.get(&id)?;
        Some(owned.session.config().epoch)
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

    /// (views installed, sessions handed over, sessions with something that waits for a standby).
    pub(super) fn successions(&self) -> (u64, u64, usize) {
        let waiting = self
            .sessions()
            .filter(|session| session.waiting().is_some());
        (self.installed, self.handed_over, waiting.count())
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
                | LinkMessage::ReliableGap { .. }
                | LinkMessage::Sync { .. }
                | LinkMessage::Seal { .. }
                | LinkMessage::Sealed { .. }
                | LinkMessage::Release { .. }
                | LinkMessage::View { .. }
                | LinkMessage::TakeOver { .. },
            )
            | LinkFrame::Fanout(_)
            | LinkFrame::Store(_)
            | LinkFrame::Stored(_) => return debug_assert!(false, "not a gateway's frame"),
        };
        let gone = matches!(input, Input::Forward { .. }) && !self.sessions.contains_key(&id);
        if gone {
            return self.refuse(gateway, 0, id, ErrorCode::NotOwner.into(), None);
        }
        self.drive(id, input, now);
    }

    // ---------------------------------------------------------------------------- from standbys

    pub(super) fn stored(&mut self, node: NodeId, stored: Stored, now: Instant) {
        let Stored {
            session,
            epoch,
            index,
        } = stored;
        self.drive(session, Input::Stored { node, epoch, index }, now);
        if let Some(owned) = self.sessions.get(&session)
            && matches!(owned.succession.step, Step::Renewing { .. })
        {
            self.unsettled.insert(session);
        }
    }

    /// A standby or claimant has promised this epoch.
    pub(super) fn sealed(
        &mut self,
        id: SessionId,
        epoch: Epoch,
        owner: Option<NodeId>,
        now: Instant,
    ) {
        self.drive(id, Input::Sealed { epoch, owner }, now);
    }

    /// The link to a node broke: what was on its way to a standby there is lost.
    pub(super) fn standby_lost(&mut self, node: &NodeId, now: Instant) {
        for id in self.with_standby(node) {
            let Some(owned) = self.sessions.get_mut(&id) else {
                continue;
            };
            match &owned.succession.step {
                Step::Copying { to, .. } if to.node == *node => {
                    owned.succession.avoid(node, now);
                    owned.succession.step = Step::Choosing;
                }
                Step::Settled | Step::Choosing => {
                    owned.session.copy_to(node.clone());
                    let until = now + BACK_WITHIN;
                    owned.succession.step = Step::Renewing { until };
                }
                Step::Copying { .. }
                | Step::Renewing { .. }
                | Step::Installing { .. }
                | Step::Retrying { .. }
                | Step::Reclaiming => owned.session.copy_to(node.clone()),
            }
            self.unsettled.insert(id);
            self.drain(id, now);
        }
    }

    /// The node cannot be reached, or is another run by now.
    pub(super) fn standby_gone(&mut self, node: &NodeId, now: Instant) {
        for id in self.with_standby(node) {
            self.give_up_standby(id, node, now);
        }
    }

    fn with_standby(&self, node: &NodeId) -> Vec<SessionId> {
        let sessions = self.sessions.iter().filter(|(_, owned)| {
            let succession = &owned.succession;
            let to = match &succession.step {
                Step::Copying { to, .. } => Some(to),
                Step::Installing { to } | Step::Retrying { to, .. } => to.as_ref(),
                Step::Settled | Step::Choosing | Step::Renewing { .. } | Step::Reclaiming => None,
            };
            let mut holders = succession.standby.iter().chain(to);
            holders.any(|holder| holder.node == *node)
        });
        sessions.map(|(&id, _)| id).collect()
    }

    fn give_up_standby(&mut self, id: SessionId, node: &NodeId, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        owned.succession.avoid(node, now);
        match &owned.succession.step {
            Step::Copying { to, .. } if to.node != *node => {}
            Step::Settled | Step::Choosing | Step::Renewing { .. } | Step::Copying { .. } => {
                owned.succession.step = Step::Choosing;
                self.unsettled.insert(id);
            }
            // Its outcome has to be known before another one can be asked for.
            Step::Installing { .. } | Step::Retrying { .. } | Step::Reclaiming => {}
        }
    }

    /// The nodes changed: who stands by, or could, has to be looked at.
    pub(super) fn nodes_changed(&mut self) {
        self.unsettled.extend(self.sessions.keys());
    }

    /// Every session is to be handed over.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.nodes_changed();
    }

    /// Sees to the standbys of the sessions here.
    pub(super) fn settle(&mut self, nodes: &Nodes, now: Instant) {
        if self.unsettled.is_empty() {
            return;
        }
        let is_changing =
            |owned: &&Owned| !matches!(owned.succession.step, Step::Settled | Step::Choosing);
        let mut changing = self.sessions.values().filter(is_changing).count();
        let unsettled = std::mem::take(&mut self.unsettled);
        for id in unsettled {
            let Some(owned) = self.sessions.get(&id) else {
                continue;
            };
            let is_new = matches!(owned.succession.step, Step::Settled | Step::Choosing);
            if is_new && changing >= CHANGES_MAX {
                self.unsettled.insert(id);
                continue;
            }
            self.settle_one(id, nodes, now);
            let owned = self.sessions.get(&id);
            changing += usize::from(is_new && owned.as_ref().is_some_and(is_changing));
            self.drain(id, now);
        }
    }

    fn settle_one(&mut self, id: SessionId, nodes: &Nodes, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let config = owned.session.config();
        let is_wanted = config.options.grade == Grade::Safe || self.leaving;
        let succession = &mut owned.succession;
        succession.leaving = self.leaving;
        if succession.step == Step::Settled {
            let can_stay = succession.is_good(nodes) || !is_wanted;
            if !can_stay || !succession.in_force {
                succession.step = Step::Choosing;
            }
        }
        match succession.step.clone() {
            Step::Settled => {}
            Step::Renewing { until } => {
                if owned.session.is_copied() {
                    succession.step = Step::Settled;
                } else if until <= now || !succession.is_good(nodes) {
                    if let Some(standby) = succession.standby.clone() {
                        succession.avoid(&standby.node, now);
                    }
                    succession.step = Step::Choosing;
                    return self.settle_one(id, nodes, now);
                }
            }
            Step::Copying { to, until } => {
                if until <= now {
                    debug!(session = %id, node = %to.node, "too slow to stand by");
                    succession.avoid(&to.node, now);
                    succession.step = Step::Choosing;
                    return self.settle_one(id, nodes, now);
                }
            }
            Step::Installing { .. } | Step::Reclaiming => {}
            Step::Retrying { to, at } => {
                if at <= now {
                    self.install(id, to);
                }
            }
            Step::Choosing => {
                let me = &self.me.node;
                let region = &config.home_region;
                let next = is_wanted
                    .then(|| succession.choose(id, region, me, nodes, now))
                    .flatten();
                match next {
                    Some(to) if succession.standby.as_ref() == Some(&to) => {
                        owned.session.copy_to(to.node);
                        let until = now + BACK_WITHIN;
                        succession.step = Step::Renewing { until };
                    }
                    Some(to) => {
                        owned.session.copy_to(to.node.clone());
                        let until = now + COPY_WITHIN;
                        succession.step = Step::Copying { to, until };
                    }
                    None if succession.in_force && succession.standby.is_none() => {
                        succession.step = Step::Settled;
                    }
                    None => self.install(id, None),
                }
            }
        }
        self.hand_over_if_ready(id);
    }

    /// Asks the directory for a view with this standby.
    fn install(&mut self, id: SessionId, to: Option<Holder>) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        owned.session.installing();
        owned.succession.step = Step::Installing { to: to.clone() };
        let epoch = owned.session.config().epoch;
        let view = View {
            epoch,
            nonce: owned.nonce,
            owner: self.me.clone(),
            standby: to,
            anchors: Vec::new(),
        };
        let request = Request::InstallView {
            id,
            ballot: epoch,
            view,
        };
        self.actions.push_back(Action::Directory {
            purpose: Purpose::Install(id),
            request,
        });
    }

    fn install_answered(
        &mut self,
        id: SessionId,
        reply: Result<Reply, DirectoryError>,
        now: Instant,
    ) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let Step::Installing { to } = owned.succession.step.clone() else {
            return;
        };
        match reply {
            Ok(_) => {
                self.installed += 1;
                let was_claimed = !owned.succession.in_force;
                owned.succession.in_force = true;
                owned.succession.standby = to.clone();
                owned.succession.step = Step::Settled;
                owned.succession.handing_over = false;
                owned.session.installed(to.as_ref().map(|to| &to.node));
                self.unsettled.insert(id);
                if was_claimed {
                    self.actions.push_back(Action::Installed(id));
                    self.drain(id, now);
                    self.assert_listing(id);
                }
            }
            Err(DirectoryError::Conflict { ballot, epoch }) => {
                self.conflict(id, ballot, epoch, now);
            }
            Err(error) => {
                if matches!(error, DirectoryError::SessionNotFound(_)) {
                    self.repairs.lost(id);
                }
                debug!(session = %id, %error, "a view waits for the directory");
                self.retry(id, to, now);
            }
        }
        self.drain(id, now);
    }

    /// The directory has another ballot or view than this node takes for granted.
    fn conflict(&mut self, id: SessionId, ballot: Epoch, epoch: Epoch, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let mine = owned.session.config().epoch;
        if epoch == mine && ballot > mine {
            // A claim was begun and given up, or is under way: the next view needs a higher epoch.
            owned.succession.step = Step::Reclaiming;
            let request = Request::RaiseBallot {
                id,
                expected: ballot,
                promised: mine,
            };
            let purpose = Purpose::Reclaim(id);
            self.actions
                .push_back(Action::Directory { purpose, request });
        } else if ballot.max(epoch) > mine {
            let (epoch, owner) = (ballot.max(epoch), None);
            self.drive(id, Input::Sealed { epoch, owner }, now);
        } else {
            // It has lost this one.
            self.repairs.lost(id);
            self.retry(id, None, now);
        }
    }

    fn reclaimed(&mut self, id: SessionId, reply: Result<Reply, DirectoryError>, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        if owned.succession.step != Step::Reclaiming {
            return;
        }
        match reply {
            Ok(Reply::Session(Some(record))) if record.view.owner == self.me => {
                info!(session = %id, epoch = %record.ballot, "goes on under a new epoch");
                owned.nonce = self.rng.next_u64();
                owned.session.reign(record.ballot, owned.nonce);
                owned.succession.in_force = false;
                owned.succession.standby = None;
                owned.succession.step = Step::Choosing;
                self.unsettled.insert(id);
            }
            Ok(Reply::Session(Some(record))) => {
                let (epoch, owner) = (record.ballot, None);
                self.drive(id, Input::Sealed { epoch, owner }, now);
            }
            Err(DirectoryError::Conflict { ballot, epoch }) => {
                return self.conflict(id, ballot, epoch, now);
            }
            Ok(_) | Err(_) => self.retry(id, None, now),
        }
        self.drain(id, now);
    }

    fn retry(&mut self, id: SessionId, to: Option<Holder>, now: Instant) {
        if let Some(owned) = self.sessions.get_mut(&id) {
            let at = now + RETRY_EVERY;
            owned.succession.step = Step::Retrying { to, at };
        }
    }

    fn hand_over_if_ready(&mut self, id: SessionId) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let succession = &mut owned.succession;
        if !succession.leaving
            || succession.handing_over
            || succession.step != Step::Settled
            || !owned.session.is_copied()
        {
            return;
        }
        let Some(standby) = succession.standby.clone() else {
            return;
        };
        succession.handing_over = true;
        self.handed_over += 1;
        let epoch = owned.session.config().epoch;
        let take_over = LinkMessage::TakeOver { session: id, epoch };
        self.actions.push_back(Action::ToGateway {
            node: standby.node,
            frame: LinkFrame::Control(take_over),
        });
    }

    /// Sessions that nobody else can take, because there is no other host.
    pub(super) fn stranded(&self) -> usize {
        let stranded = self.sessions.values().filter(|owned| {
            let succession = &owned.succession;
            succession.step == Step::Settled && succession.standby.is_none()
        });
        stranded.count()
    }

    /// A session whose owner gave it up or failed goes on here.
    pub(super) fn adopt(&mut self, adoption: Adoption, now: Instant) {
        let Adoption {
            id,
            epoch,
            before,
            log,
        } = adoption;
        let nonce = self.rng.next_u64();
        let config = SessionConfig {
            id,
            home_region: log.state.home_region.clone(),
            options: log.state.options.clone(),
            epoch,
            nonce,
            code: log.state.code,
            owner: self.me.node.clone(),
            owner_boot: self.me.boot,
        };
        let mut succession = Succession::begin();
        // It has just failed, or is leaving.
        succession.avoid(&before.owner.node, now);
        let owned = Owned {
            session: Session::restore(config, log, now),
            due: None,
            nonce,
            assert_at: now + lease::LISTING_ASSERT_EVERY,
            succession,
        };
        self.sessions.insert(id, owned);
        self.unsettled.insert(id);
        self.drain(id, now);
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
                if owned.succession.poll_timeout().is_some() {
                    self.unsettled.insert(id);
                }
            }
            self.look_whether_stalled(id, now);
            self.drain(id, now);
        }
    }

    /// A standby that stores nothing is no better than none.
    fn look_whether_stalled(&mut self, id: SessionId, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        if !owned.succession.is_stalled(now) {
            return;
        }
        owned.succession.waits(None, now);
        if let Some(standby) = owned.succession.standby.clone() {
            info!(session = %id, node = %standby.node, "the standby stores nothing");
            self.give_up_standby(id, &standby.node, now);
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
            Purpose::Assert(id) => self.asserted(id, reply, now),
            Purpose::Install(id) => self.install_answered(id, reply, now),
            Purpose::Reclaim(id) => self.reclaimed(id, reply, now),
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
                let (error, owner) = self.whereabouts(record.as_ref(), &is_alive);
                self.refuse(gateway, request, session, error, owner);
            }
        }
    }

    /// What to tell who asks for a session that is not here.
    fn whereabouts(
        &self,
        record: Option<&SessionRecord>,
        is_alive: &impl Fn(&Holder) -> bool,
    ) -> (Error, Option<NodeId>) {
        let Some(view) = record.map(|record| &record.view) else {
            return (ErrorCode::SessionNotFound.into(), None);
        };
        if view.owner == self.me {
            return (ErrorCode::SessionNotFound.into(), None);
        }
        // The standby goes on with what a dead owner had.
        let holders = std::iter::once(&view.owner).chain(&view.standby);
        match holders
            .filter(|holder| **holder != self.me)
            .find(|holder| is_alive(holder))
        {
            Some(holder) => (ErrorCode::NotOwner.into(), Some(holder.node.clone())),
            None => (ErrorCode::OwnerLost.into(), None),
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
        let is_safe = options.grade == Grade::Safe;
        let config = SessionConfig {
            id,
            home_region,
            options,
            epoch,
            nonce,
            code,
            owner: self.me.node.clone(),
            owner_boot: self.me.boot,
        };
        let mut session = Session::new(config, now);
        let succession = if is_safe {
            session.not_in_force();
            Succession::begin()
        } else {
            Succession::without()
        };
        let owned = Owned {
            session,
            due: None,
            nonce,
            assert_at,
            succession,
        };
        self.sessions.insert(id, owned);
        self.unsettled.insert(id);
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
        self.drain(id, now);
    }

    /// Carries out what a session wants, and sets its timer.
    fn drain(&mut self, id: SessionId, now: Instant) {
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        let mut closed = false;
        let mut relist = false;
        let mut deposed = false;
        let mut copied = None;
        while let Some(output) = owned.session.poll_output() {
            match output {
                Output::ToGateway { gateway, frame } => {
                    self.actions.push_back(Action::ToGateway {
                        node: gateway,
                        frame,
                    });
                }
                Output::ToStandby { node, frame } => {
                    self.actions.push_back(Action::ToGateway { node, frame });
                }
                Output::Copied { node } => copied = Some(node),
                Output::Listing { .. } => relist = true,
                Output::Closed => closed = true,
                Output::Deposed => deposed = true,
            }
        }
        if let Some(node) = copied
            && let Step::Copying { to, .. } = &owned.succession.step
            && to.node == node
        {
            let to = Some(to.clone());
            self.install(id, to);
        }
        let Some(owned) = self.sessions.get_mut(&id) else {
            return;
        };
        owned.succession.waits(owned.session.waiting(), now);
        let due = owned
            .session
            .poll_timeout()
            .into_iter()
            .chain([owned.assert_at])
            // What is to be settled has no other time.
            .chain(
                owned
                    .succession
                    .poll_timeout()
                    .filter(|_| !self.unsettled.contains(&id)),
            )
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
        if deposed {
            info!(session = %id, "goes on elsewhere");
            self.remove(id);
            self.actions.push_back(Action::Deposed(id));
        } else if closed {
            self.forget(id);
        } else if relist && owned.succession.in_force {
            self.assert_listing(id);
        }
    }

    /// The session is over.
    fn forget(&mut self, id: SessionId) {
        if let Some(epoch) = self.remove(id) {
            self.repairs.ended(id, Some(epoch));
            self.actions.push_back(Action::Installed(id));
        }
    }

    fn remove(&mut self, id: SessionId) -> Option<Epoch> {
        let owned = self.sessions.remove(&id)?;
        if let Some(due) = owned.due {
            self.timers.remove(&(due, id));
        }
        let counters = owned.session.counters();
        self.ordered += counters.ordered;
        self.fanouts += counters.fanouts;
        self.duplicates += counters.duplicates;
        self.resumes += counters.resumes;
        Some(owned.session.config().epoch)
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

    fn asserted(&mut self, id: SessionId, reply: Result<Reply, DirectoryError>, now: Instant) {
        let Some(owned) = self.sessions.get(&id) else {
            return;
        };
        match reply {
            Err(DirectoryError::SessionNotFound(_)) => self.repairs.lost(id),
            Err(DirectoryError::Conflict { epoch, .. }) if owned.succession.in_force => {
                // Another view is in force.
                let owner = None;
                self.drive(id, Input::Sealed { epoch, owner }, now);
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
                standby: owned.succession.standby.clone(),
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
        grade: match options.grade {
            Grade::Safe => dreamcatcher_directory::Grade::Safe,
            Grade::Fast => dreamcatcher_directory::Grade::Fast,
        },
    }
}

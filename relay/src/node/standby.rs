//! The copies of sessions that other nodes own, and what becomes of them when such a node fails.
//!
//! ```text
//!   Sync, Store ─▶ copy ──owner gone, or──▶ read the ─▶ raise the ─▶ owner sealed ─▶ Adopt: ordered
//!                   │     leaving           record      ballot       or gone         here from now on
//!                   └─▶ Stored
//! ```
//!
//! Whoever holds the copy that the view in the directory names may claim the session: nothing was
//! delivered that is not in it. The owner has to have promised to deliver nothing more, or to be gone:
//! its lease is over, or another run has its name. That holds even if the directory forgets a view
//! (`tests/model`, "every holder answers"). An owner that is only out of reach is left alone: it looks
//! for another standby by itself. The copy stays until the new view is installed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use dreamcatcher_directory::{DirectoryError, Holder, Reply, Request, SessionRecord, View};
use dreamcatcher_proto::control::{Failure, LinkMessage};
use dreamcatcher_proto::frame::{LinkFrame, Store, Stored};
use dreamcatcher_proto::standby::{Log, Reign, Standby};
use dreamcatcher_proto::{BootId, Epoch, Error, ErrorCode, NodeId, SessionId};
use tracing::{debug, info, warn};

/// How long an owner has to promise that it delivers nothing more, before it is asked again.
const SEALED_WITHIN: Duration = Duration::from_millis(500);
/// After a claim that came to nothing.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Members' requests that wait for one session to be claimed.
const WAITING_MAX: usize = 256;
/// Claims under way at a time: the directory has other things to do.
const CLAIMS_MAX: usize = 64;
/// A copy of which nothing was heard for this long may be one that its owner could not release.
const DOUBT_AFTER: Duration = Duration::from_secs(30);

/// One thing to do.
#[derive(Debug)]
pub(super) enum Action {
    ToNode {
        node: NodeId,
        frame: LinkFrame,
    },
    Directory {
        purpose: Purpose,
        request: Request,
    },
    /// The session is to be ordered here, once a view with this epoch is installed.
    Adopt(Box<Adoption>),
    /// A member's request, for the session that has been adopted.
    Join {
        gateway: NodeId,
        frame: LinkFrame,
    },
}

/// A session that changes hands.
#[derive(Debug)]
pub(super) struct Adoption {
    pub(super) id: SessionId,
    pub(super) epoch: Epoch,
    /// The view that is installed until then.
    pub(super) before: View,
    pub(super) log: Log,
}

/// Why the directory is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Read(SessionId),
    Raise(SessionId),
    /// Whether the copy is still wanted.
    Doubt(SessionId),
}

#[derive(Debug)]
struct Copy {
    standby: Standby,
    heard: Instant,
    /// When to claim the session, or to look whether the copy is wanted.
    due: Option<Instant>,
    claim: Claim,
    /// Who wants to join meanwhile.
    waiting: Vec<(NodeId, LinkFrame)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// The owner is there, as far as is known.
    None,
    /// It is gone, or leaves: at `due` the session is claimed.
    Due,
    Reading,
    Raising,
    /// The owner is asked for its promise.
    Sealing {
        epoch: Epoch,
        before: View,
    },
    /// It is ordered here, and waits for its view.
    Adopted,
}

#[derive(Debug)]
pub(super) struct Standbys {
    me: Holder,
    copies: BTreeMap<SessionId, Copy>,
    timers: BTreeSet<(Instant, SessionId)>,
    /// Copies with something to tell their owners.
    dirty: BTreeSet<SessionId>,
    actions: VecDeque<Action>,
    takeovers: u64,
    stored: u64,
    refused: u64,
}

impl Standbys {
    pub(super) fn new(me: Holder) -> Self {
        Self {
            me,
            copies: BTreeMap::new(),
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            actions: VecDeque::new(),
            takeovers: 0,
            stored: 0,
            refused: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    /// (sessions taken over, entries stored, frames refused because of their epoch).
    pub(super) fn totals(&self) -> (u64, u64, u64) {
        (self.takeovers, self.stored, self.refused)
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.copies.contains_key(&id)
    }

    pub(super) fn owner_of(&self, id: SessionId) -> Option<&NodeId> {
        self.copies.get(&id).map(|copy| &copy.standby.reign().owner)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Reign, &Standby)> {
        self.copies
            .iter()
            .map(|(&id, copy)| (id, copy.standby.reign(), &copy.standby))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|&(due, _)| due)
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        // What came together is told once.
        while let Some(id) = self.dirty.pop_first() {
            let Some(copy) = self.copies.get_mut(&id) else {
                continue;
            };
            if let Some(index) = copy.standby.poll_stored() {
                let reign = copy.standby.reign();
                let (session, epoch) = (id, reign.epoch);
                let stored = Stored {
                    session,
                    epoch,
                    index,
                };
                return Some(Action::ToNode {
                    node: reign.owner.clone(),
                    frame: LinkFrame::Stored(stored),
                });
            }
        }
        None
    }

    // ------------------------------------------------------------------------------ from owners

    pub(super) fn sync(&mut self, from: NodeId, message: LinkMessage, now: Instant) {
        let LinkMessage::Sync {
            session,
            epoch,
            nonce,
            owner_boot,
            first,
            state,
        } = message
        else {
            return debug_assert!(false, "not a Sync");
        };
        let reign = Reign {
            epoch,
            nonce,
            owner: from.clone(),
            owner_boot,
        };
        let synced = match self.copies.get_mut(&session) {
            Some(copy) => copy.standby.sync(reign, first, state),
            None => {
                let copy = Copy {
                    standby: Standby::new(reign, first, state),
                    heard: now,
                    due: None,
                    claim: Claim::None,
                    waiting: Vec::new(),
                };
                self.copies.insert(session, copy);
                Ok(())
            }
        };
        match synced {
            Ok(()) => {
                self.hears(session, now);
                self.dirty.insert(session);
            }
            Err(promised) => self.refuse_owner(from, session, promised),
        }
    }

    pub(super) fn store(&mut self, from: NodeId, store: Store, now: Instant) {
        let session = store.entry.session;
        let Some(copy) = self.copies.get_mut(&session) else {
            // Of a copy that was given up: the owner finds out by its silence, or by the claim.
            return;
        };
        if copy.standby.reign().owner != from {
            let promised = copy.standby.promised();
            return self.refuse_owner(from, session, promised);
        }
        match copy.standby.store(store) {
            Ok(()) => {
                self.stored += 1;
                self.hears(session, now);
                self.dirty.insert(session);
            }
            Err(error) if error.code() == ErrorCode::NotOwner => {
                let promised = copy.standby.promised();
                self.refuse_owner(from, session, promised);
            }
            Err(error) => {
                // A hole: it was sent before the link broke. The owner sends everything anew.
                debug!(%session, %error, "an entry that does not fit");
            }
        }
    }

    fn refuse_owner(&mut self, owner: NodeId, session: SessionId, promised: Epoch) {
        self.refused += 1;
        let claims = self
            .copies
            .get(&session)
            .is_some_and(|copy| copy.claim == Claim::Adopted);
        let sealed = LinkMessage::Sealed {
            session,
            epoch: promised,
            owner: claims.then(|| self.me.node.clone()),
        };
        self.actions.push_back(Action::ToNode {
            node: owner,
            frame: LinkFrame::Control(sealed),
        });
    }

    /// The owner is alive.
    fn hears(&mut self, id: SessionId, now: Instant) {
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        copy.heard = now;
        if copy.claim == Claim::None {
            self.set_due(id, Some(now + DOUBT_AFTER));
            self.send_back(id);
        }
    }

    pub(super) fn release(&mut self, from: &NodeId, id: SessionId, epoch: Epoch) {
        let Some(copy) = self.copies.get(&id) else {
            return;
        };
        let reign = copy.standby.reign();
        if reign.owner == *from && reign.epoch <= epoch && copy.claim != Claim::Adopted {
            self.send_back(id);
            self.forget(id);
        }
    }

    /// Somebody claims the session: nothing of a lower epoch is taken any longer. What holds now, if
    /// there is a copy here.
    pub(super) fn seal(&mut self, session: SessionId, epoch: Epoch) -> Option<Epoch> {
        let copy = self.copies.get_mut(&session)?;
        Some(copy.standby.seal(epoch))
    }

    /// The owner gives the session up on purpose.
    pub(super) fn take_over(&mut self, from: &NodeId, id: SessionId, now: Instant) {
        let copy = self.copies.get(&id);
        if copy.is_some_and(|copy| copy.standby.reign().owner == *from) {
            self.claim(id, now);
        }
    }

    /// There is a link to this node again: whoever asked here meanwhile is sent there.
    pub(super) fn owner_is_back(&mut self, node: &NodeId) {
        for id in self.owned_by(node, None) {
            let copy = self.copies.get(&id);
            if copy.is_some_and(|copy| copy.claim == Claim::None) {
                self.send_back(id);
            }
        }
    }

    // -------------------------------------------------------------------------- owners that are gone

    /// This run of a node is gone for good.
    pub(super) fn run_ended(&mut self, node: &NodeId, boot: BootId, now: Instant) {
        for id in self.owned_by(node, Some(boot)) {
            self.claim(id, now);
            self.go_on_sealed(id, now);
        }
    }

    /// Another run of the node has been met.
    pub(super) fn restarted(&mut self, node: &NodeId, boot: BootId, now: Instant) {
        let mut ended = self.owned_by(node, None);
        ended.retain(|id| {
            let copy = self.copies.get(id);
            copy.is_some_and(|copy| copy.standby.reign().owner_boot != boot)
        });
        for id in ended {
            self.claim(id, now);
            self.go_on_sealed(id, now);
        }
    }

    fn owned_by(&self, node: &NodeId, boot: Option<BootId>) -> Vec<SessionId> {
        let copies = self.copies.iter().filter(|(_, copy)| {
            let reign = copy.standby.reign();
            reign.owner == *node && boot.is_none_or(|boot| reign.owner_boot == boot)
        });
        copies.map(|(&id, _)| id).collect()
    }

    fn claim(&mut self, id: SessionId, at: Instant) {
        if let Some(copy) = self.copies.get_mut(&id)
            && copy.claim == Claim::None
        {
            copy.claim = Claim::Due;
            self.set_due(id, Some(at));
        }
    }

    /// A member wants to join a session of which there is a copy here. `is_up`: there is a link to its
    /// owner.
    pub(super) fn join(&mut self, gateway: NodeId, frame: LinkFrame, id: SessionId, is_up: bool) {
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        let owner = copy.standby.reign().owner.clone();
        if copy.claim == Claim::None && is_up {
            return self.refuse(gateway, &frame, id, ErrorCode::NotOwner.into(), Some(owner));
        }
        if copy.claim == Claim::Adopted {
            return self.actions.push_back(Action::Join { gateway, frame });
        }
        if copy.waiting.len() >= WAITING_MAX {
            let error = Error::new(ErrorCode::Timeout, "the session is taken over; try again");
            return self.refuse(gateway, &frame, id, error, None);
        }
        copy.waiting.push((gateway, frame));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.timers.first()
            && due <= now
        {
            self.set_due(id, None);
            let claims = self.claims();
            let Some(copy) = self.copies.get_mut(&id) else {
                continue;
            };
            match copy.claim {
                Claim::None => {
                    self.ask(Purpose::Doubt(id));
                    self.set_due(id, Some(now + DOUBT_AFTER));
                }
                Claim::Due if claims >= CLAIMS_MAX => {
                    self.set_due(id, Some(now + RETRY_AFTER));
                }
                Claim::Due => {
                    copy.claim = Claim::Reading;
                    self.ask(Purpose::Read(id));
                }
                // It did not promise in time: it may be another one's by now.
                Claim::Sealing { .. } => self.again(id, now),
                Claim::Reading | Claim::Raising | Claim::Adopted => {}
            }
        }
    }

    fn claims(&self) -> usize {
        let claims = self.copies.values().map(|copy| &copy.claim);
        claims
            .filter(|claim| !matches!(claim, Claim::None | Claim::Due))
            .count()
    }

    // ---------------------------------------------------------------------------------- claims

    fn ask(&mut self, purpose: Purpose) {
        let (Purpose::Read(id) | Purpose::Raise(id) | Purpose::Doubt(id)) = purpose;
        let request = Request::Session(id);
        self.actions
            .push_back(Action::Directory { purpose, request });
    }

    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        reply: Result<Reply, DirectoryError>,
        is_alive: impl Fn(&Holder) -> bool,
        now: Instant,
    ) {
        match (purpose, reply) {
            (Purpose::Read(id), Ok(Reply::Session(Some(record)))) => self.read(id, record, now),
            (Purpose::Raise(id), Ok(Reply::Session(Some(record)))) => {
                self.raised(id, record, is_alive, now);
            }
            (Purpose::Read(id), Ok(Reply::Session(None))) => self.unknown(id, now),
            (Purpose::Doubt(id), Ok(Reply::Session(record))) => {
                let is_wanted = record.is_some_and(|record| self.is_wanted(id, &record));
                let copy = self.copies.get(&id);
                if !is_wanted && copy.is_some_and(|copy| copy.claim == Claim::None) {
                    debug!(session = %id, "a copy that nobody wants any longer");
                    self.forget(id);
                }
            }
            (Purpose::Doubt(_), _) => {}
            (Purpose::Read(id) | Purpose::Raise(id), answer) => {
                if let Err(error) = answer
                    && !matches!(error, DirectoryError::Conflict { .. })
                {
                    debug!(session = %id, %error, "a claim has to wait");
                }
                self.again(id, now);
            }
        }
    }

    /// The claim begins anew, a little later.
    fn again(&mut self, id: SessionId, now: Instant) {
        if let Some(copy) = self.copies.get_mut(&id) {
            copy.claim = Claim::Due;
            self.set_due(id, Some(now + RETRY_AFTER));
        }
    }

    /// Whether the view names this copy.
    fn is_wanted(&self, id: SessionId, record: &SessionRecord) -> bool {
        let Some((reign, _)) = self.copies.get(&id).and_then(|copy| copy.standby.log()) else {
            return false;
        };
        let view = &record.view;
        // A later run of this node that was sent everything holds as much as the one that is named.
        let is_named = self.is_mine(view) && (view.epoch, view.nonce) == (reign.epoch, reign.nonce);
        // A claimant has given this node everything, and may have failed before its view was installed.
        let is_ahead = reign.epoch > view.epoch;
        is_named || is_ahead
    }

    fn is_mine(&self, view: &View) -> bool {
        let standby = view.standby.as_ref();
        standby.is_some_and(|standby| standby.node == self.me.node)
    }

    fn read(&mut self, id: SessionId, record: SessionRecord, now: Instant) {
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        if copy.claim != Claim::Reading {
            return;
        }
        if !self.is_wanted(id, &record) {
            return self.give_way(id, &record, now);
        }
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        copy.claim = Claim::Raising;
        let request = Request::RaiseBallot {
            id,
            expected: record.ballot,
            promised: copy.standby.promised(),
        };
        let purpose = Purpose::Raise(id);
        self.actions
            .push_back(Action::Directory { purpose, request });
    }

    fn raised(
        &mut self,
        id: SessionId,
        record: SessionRecord,
        is_alive: impl Fn(&Holder) -> bool,
        now: Instant,
    ) {
        let is_raising = |copy: &Copy| copy.claim == Claim::Raising;
        if !self.copies.get(&id).is_some_and(is_raising) {
            return;
        }
        // The view may have changed since it was read.
        if !self.is_wanted(id, &record) {
            return self.give_way(id, &record, now);
        }
        let epoch = record.ballot;
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        if copy.standby.seal(epoch) > epoch {
            return self.again(id, now);
        }
        let before = record.view;
        let owner = before.owner.clone();
        copy.claim = Claim::Sealing { epoch, before };
        self.set_due(id, Some(now + SEALED_WITHIN));
        if !is_alive(&owner) {
            return self.go_on_sealed(id, now);
        }
        let seal = LinkMessage::Seal { session: id, epoch };
        self.actions.push_back(Action::ToNode {
            node: owner.node,
            frame: LinkFrame::Control(seal),
        });
    }

    /// The owner has promised to deliver nothing more under a lower epoch.
    pub(super) fn sealed(&mut self, from: &NodeId, id: SessionId, promised: Epoch, now: Instant) {
        let Some(copy) = self.copies.get(&id) else {
            return;
        };
        if let Claim::Sealing { epoch, before } = &copy.claim
            && before.owner.node == *from
        {
            if promised > *epoch {
                return self.again(id, now);
            }
            self.go_on_sealed(id, now);
        }
    }

    /// Nobody delivers anything any longer: the session goes on from the copy.
    fn go_on_sealed(&mut self, id: SessionId, now: Instant) {
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        let Claim::Sealing { epoch, before } = &copy.claim else {
            return;
        };
        let (epoch, before) = (*epoch, before.clone());
        let Some((_, log)) = copy.standby.log() else {
            return self.again(id, now);
        };
        copy.claim = Claim::Adopted;
        let waiting = std::mem::take(&mut copy.waiting);
        self.set_due(id, None);
        info!(session = %id, %epoch, from = %before.owner, index = %log.state.index, "taking over");
        self.takeovers += 1;
        self.actions.push_back(Action::Adopt(Box::new(Adoption {
            id,
            epoch,
            before,
            log,
        })));
        let joins = waiting.into_iter();
        self.actions
            .extend(joins.map(|(gateway, frame)| Action::Join { gateway, frame }));
    }

    /// Somebody else has the session, or is to have it.
    fn give_way(&mut self, id: SessionId, record: &SessionRecord, now: Instant) {
        let is_mine = self.is_mine(&record.view);
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        let waiting = std::mem::take(&mut copy.waiting);
        let (reign, is_whole) = (copy.standby.reign(), copy.standby.log().is_some());
        if is_mine && !is_whole && reign.epoch >= record.view.epoch {
            warn!(session = %id, "the only copy of a session is not complete");
        }
        if reign.epoch < record.view.epoch || !is_mine {
            self.forget(id);
        } else {
            self.again(id, now);
        }
        let owner = Some(record.view.owner.node.clone()).filter(|owner| *owner != self.me.node);
        for (gateway, frame) in waiting {
            let error = ErrorCode::NotOwner.into();
            self.refuse(gateway, &frame, id, error, owner.clone());
        }
    }

    /// The directory does not know the session: it ended, or all is lost there and the owner gives it
    /// back. Members who ask find nobody else.
    fn unknown(&mut self, id: SessionId, now: Instant) {
        let is_late = |copy: &Copy| now.saturating_duration_since(copy.heard) >= DOUBT_AFTER;
        match self.copies.get(&id) {
            Some(copy) if is_late(copy) => {
                let waiting = self.copies.get_mut(&id);
                let waiting = waiting.map(|copy| std::mem::take(&mut copy.waiting));
                self.forget(id);
                for (gateway, frame) in waiting.unwrap_or_default() {
                    let error = ErrorCode::SessionNotFound.into();
                    self.refuse(gateway, &frame, id, error, None);
                }
            }
            Some(_) => self.again(id, now),
            None => {}
        }
    }

    /// The claim is through, and the copy needed no longer.
    pub(super) fn installed(&mut self, id: SessionId) {
        let is_adopted = |copy: &Copy| copy.claim == Claim::Adopted;
        if self.copies.get(&id).is_some_and(is_adopted) {
            self.forget(id);
        }
    }

    /// The claim came to nothing.
    pub(super) fn deposed(&mut self, id: SessionId, now: Instant) {
        let is_adopted = |copy: &Copy| copy.claim == Claim::Adopted;
        if self.copies.get(&id).is_some_and(is_adopted) {
            self.again(id, now);
        }
    }

    // ---------------------------------------------------------------------------------- helpers

    /// The owner is there after all: those who asked here are sent to it.
    fn send_back(&mut self, id: SessionId) {
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        let owner = copy.standby.reign().owner.clone();
        for (gateway, frame) in std::mem::take(&mut copy.waiting) {
            let error = ErrorCode::NotOwner.into();
            self.refuse(gateway, &frame, id, error, Some(owner.clone()));
        }
    }

    fn refuse(
        &mut self,
        gateway: NodeId,
        frame: &LinkFrame,
        session: SessionId,
        error: Error,
        owner: Option<NodeId>,
    ) {
        let LinkFrame::Control(LinkMessage::Join { request, .. }) = frame else {
            return;
        };
        let refused = LinkMessage::Refused {
            request: *request,
            session,
            failure: Failure::from(error),
            owner,
        };
        self.actions.push_back(Action::ToNode {
            node: gateway,
            frame: LinkFrame::Control(refused),
        });
    }

    fn set_due(&mut self, id: SessionId, due: Option<Instant>) {
        let Some(copy) = self.copies.get_mut(&id) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut copy.due, due) {
            self.timers.remove(&(before, id));
        }
        if let Some(due) = due {
            self.timers.insert((due, id));
        }
    }

    fn forget(&mut self, id: SessionId) {
        self.set_due(id, None);
        self.copies.remove(&id);
        self.dirty.remove(&id);
    }
}

//! The copies of a session on other nodes, and what may leave because of them.
//!
//! ```text
//!   unknown ──installed(standby)──▶ in force ──copy_to(other)──▶ Copied ──installing──▶ in doubt ─┐
//!                                      ▲───────────────── installed(other) ───────────────────────┘
//! ```
//!
//! The view in the directory says whose copy counts. While a change of it is in doubt, both copies
//! have to have an entry: whichever of the two a claimant finds holds all that was delivered. So that
//! this is true of what was delivered before as well, both have to from the moment that the next copy
//! is complete, and the directory is not asked before it has all that had left by then.

use std::time::{Duration, Instant};

use super::{Output, Session};
use crate::control::LinkMessage;
use crate::error::{Error, ErrorCode};
use crate::frame::{Fanout, LinkFrame, Store};
use crate::id::{Epoch, Index, NodeId};

/// A copy that is complete, and has stored what had left by then, is asked for at once. One that does
/// not get there holds up what leaves no longer than this.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Copies {
    /// The view in the directory names this node as the owner.
    in_force: bool,
    /// The view's; `None` where there is none, and entries are delivered at once.
    standby: Option<Copy>,
    /// Who is to become the standby.
    next: Option<Copy>,
    /// The directory has been asked to make the next the standby.
    in_doubt: bool,
    /// The newest entry that something has left after.
    released: Index,
}

#[derive(Debug)]
struct Copy {
    node: NodeId,
    /// The newest entry when it was last sent everything.
    whole_at: Index,
    /// `None` until it is complete.
    stored: Option<Index>,
    /// Whether it was said that it can be made the standby.
    told: bool,
    /// Of the next one: until when it is waited for, though nobody has asked for it.
    until: Option<Instant>,
}

impl Copies {
    pub(super) fn alone() -> Self {
        Self {
            in_force: true,
            standby: None,
            next: None,
            in_doubt: false,
            released: Index(0),
        }
    }

    pub(super) fn unknown() -> Self {
        Self {
            in_force: false,
            ..Self::alone()
        }
    }

    fn has(&self, index: Index) -> bool {
        let has = |copy: &Copy| copy.stored.is_some_and(|stored| stored >= index);
        let counts = |next: &&Copy| self.in_doubt || next.stored.is_some();
        self.in_force
            && self.standby.as_ref().is_none_or(has)
            && self.next.as_ref().filter(counts).is_none_or(has)
    }

    fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        let copies = self.standby.iter().chain(&self.next);
        copies.map(|copy| &copy.node)
    }
}

impl Copy {
    fn new(node: NodeId, whole_at: Index) -> Self {
        Self {
            node,
            whole_at,
            stored: None,
            told: false,
            until: None,
        }
    }

    /// Whether by this word it has all that has left, and had not before. A word of less than it was
    /// last sent is of the copy before: what followed was lost.
    fn hears(&mut self, index: Index, released: Index) -> bool {
        if index >= self.whole_at {
            self.stored = self.stored.max(Some(index));
        }
        let has_all = self.stored.is_some_and(|stored| stored >= released);
        has_all && !std::mem::replace(&mut self.told, has_all)
    }
}

impl Session {
    /// The standby of the view in force.
    #[must_use]
    pub fn standby(&self) -> Option<&NodeId> {
        self.copies.standby.as_ref().map(|copy| &copy.node)
    }

    /// The entry that has waited longest for a standby.
    #[must_use]
    pub fn waiting(&self) -> Option<Index> {
        self.held.front().map(|(index, _)| *index)
    }

    /// Whether the standby has everything that was there when it was last sent everything.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        let standby = self.copies.standby.as_ref();
        standby.is_some_and(|standby| standby.stored.is_some())
    }

    /// Another node has raised the ballot: the session goes on under a new epoch, once a view with it is
    /// installed. Gateways attach their members anew.
    pub fn reign(&mut self, epoch: Epoch, nonce: u64) {
        (self.config.epoch, self.config.nonce) = (epoch, nonce);
        self.copies = Copies::unknown();
        for gateway in self.gateways() {
            let error = Error::new(ErrorCode::NotOwner, "the session has a new epoch");
            let refused = LinkMessage::Refused {
                request: 0,
                session: self.config.id,
                failure: error.into(),
                owner: None,
            };
            self.send(&gateway, refused);
        }
    }

    /// The view that makes this node the owner has yet to be installed: nothing leaves before.
    pub fn not_in_force(&mut self) {
        self.copies.in_force = false;
    }

    /// The newest entry that may be delivered: its standby has it.
    pub(super) fn is_stored(&self, index: Index) -> bool {
        self.copies.has(index)
    }

    /// Something leaves that follows from this entry.
    pub(super) fn leaves_after(&mut self, index: Index) {
        self.copies.released = self.copies.released.max(index);
    }

    /// Sends everything to a node that is to become the standby. With the standby itself, everything is
    /// sent anew: what was on the way is lost. While a change is in doubt no other node is begun with:
    /// the view may name the one that was asked for.
    pub fn copy_to(&mut self, node: NodeId) {
        if self.closed {
            return;
        }
        let copies = &mut self.copies;
        let is_other = copies.next.as_ref().is_none_or(|next| next.node != node);
        let copy = Copy::new(node.clone(), self.index);
        match &mut copies.standby {
            Some(standby) if standby.node == node => {
                *standby = copy;
                // It stays: a change that has not been asked for is called off.
                if !copies.in_doubt
                    && let Some(next) = copies.next.take_if(|next| next.until.is_some())
                {
                    self.spare(next.node);
                }
            }
            _ if copies.in_doubt && is_other => return,
            Some(_) | None => {
                if let Some(former) = copies.next.replace(copy)
                    && former.node != node
                {
                    self.spare(former.node);
                }
            }
        }
        self.sync(node);
    }

    /// When the next copy is not waited for any longer.
    pub(super) fn called_off_at(&self) -> Option<Instant> {
        let next = self.copies.next.as_ref();
        next.filter(|_| !self.copies.in_doubt)?.until
    }

    pub(super) fn call_off_if_due(&mut self, now: Instant) {
        if self.called_off_at().is_some_and(|until| until <= now)
            && let Some(next) = self.copies.next.take()
        {
            self.spare(next.node);
            self.release();
        }
    }

    /// The directory is asked to make the next copy the standby, or to have none.
    pub fn installing(&mut self) {
        self.copies.in_doubt = true;
    }

    /// The view in force has this standby.
    pub fn installed(&mut self, standby: Option<&NodeId>) {
        if self.closed {
            return;
        }
        let copies = &mut self.copies;
        (copies.in_force, copies.in_doubt) = (true, false);
        let known = [copies.standby.take(), copies.next.take()];
        for copy in known.into_iter().flatten() {
            if standby == Some(&copy.node) {
                self.copies.standby = Some(copy);
            } else {
                self.release_copy(copy.node);
            }
        }
        if let Some(node) = standby
            && self.copies.standby.is_none()
        {
            self.copies.standby = Some(Copy::new(node.clone(), self.index));
            self.sync(node.clone());
        }
        let (session, epoch) = (self.config.id, self.config.epoch);
        for gateway in self.gateways() {
            let standby = standby.cloned();
            let view = LinkMessage::View {
                session,
                epoch,
                standby,
            };
            self.send(&gateway, view);
        }
        self.release();
    }

    fn sync(&mut self, node: NodeId) {
        let sync = LinkMessage::Sync {
            session: self.config.id,
            epoch: self.config.epoch,
            nonce: self.config.nonce,
            owner_boot: self.config.owner_boot,
            first: self.retained.first(self.index),
            state: self.state(),
        };
        let epoch = self.config.epoch;
        let entries = self.retained.iter().cloned();
        let stores = entries.map(|entry| LinkFrame::Store(Store { epoch, entry }));
        let frames = std::iter::once(LinkFrame::Control(sync)).chain(stores);
        let outputs = frames.map(|frame| Output::ToStandby {
            node: node.clone(),
            frame,
        });
        self.outputs.extend(outputs);
    }

    /// To every copy, complete or not: the streams keep their order.
    pub(super) fn store(&mut self, entry: &Fanout) {
        for node in self.copies.nodes() {
            let store = Store {
                epoch: self.config.epoch,
                entry: entry.clone(),
            };
            self.outputs.push_back(Output::ToStandby {
                node: node.clone(),
                frame: LinkFrame::Store(store),
            });
        }
    }

    pub(super) fn stored(&mut self, node: &NodeId, index: Index, now: Instant) {
        let index = index.min(self.index);
        let Copies {
            standby,
            next,
            released,
            ..
        } = &mut self.copies;
        let copy = standby.iter_mut().chain(next);
        let copy = copy.into_iter().find(|copy| copy.node == *node);
        if copy.is_some_and(|copy| copy.hears(index, *released)) {
            let node = node.clone();
            self.outputs.push_back(Output::Copied { node });
        }
        if let Some(next) = &mut self.copies.next
            && next.stored.is_some()
        {
            next.until.get_or_insert(now + ASKED_WITHIN);
        }
        self.release();
    }

    fn release(&mut self) {
        while let Some((index, _)) = self.held.front()
            && self.copies.has(*index)
        {
            self.copies.released = self.copies.released.max(*index);
            self.outputs
                .extend(self.held.pop_front().map(|(_, output)| output));
        }
    }

    /// The session goes on elsewhere: nothing that was not stored has been seen by anybody.
    pub(super) fn depose(&mut self, owner: Option<NodeId>) {
        self.held.clear();
        for gateway in self.gateways() {
            let error = Error::new(ErrorCode::NotOwner, "the session goes on elsewhere");
            let refused = LinkMessage::Refused {
                request: 0,
                session: self.config.id,
                failure: error.into(),
                owner: owner.clone(),
            };
            let frame = LinkFrame::Control(refused);
            self.outputs.push_back(Output::ToGateway { gateway, frame });
        }
        self.closed = true;
        self.outputs.push_back(Output::Deposed);
    }

    pub(super) fn release_copies(&mut self) {
        let nodes: Vec<NodeId> = self.copies.nodes().cloned().collect();
        nodes.into_iter().for_each(|node| self.release_copy(node));
    }

    /// Another node is to be the standby. Until the view is in force this one may be that of the view
    /// before, whose copy is all that there is if the owner fails: it finds out by itself later.
    fn spare(&mut self, node: NodeId) {
        if self.copies.in_force {
            self.release_copy(node);
        }
    }

    fn release_copy(&mut self, node: NodeId) {
        let release = LinkMessage::Release {
            session: self.config.id,
            epoch: self.config.epoch,
        };
        let frame = LinkFrame::Control(release);
        self.outputs.push_back(Output::ToStandby { node, frame });
    }
}

//! The rules of the directory, pure: a request and a time in, a reply and changes out.
//!
//! ```text
//!  Register ─▶ live ──lease ran out, Deregister──▶ ended ──ORPHAN_TTL──▶ forgotten,
//!               │ ▲                                 │  ▲                 and its sessions with it
//!               │ └──── Register, the same run ─────┘  │
//!               └──── Register, a later run ──▶ superseded
//! ```
//!
//! A session lives while its owner's run is live. Once that has ended, the record waits with its
//! epochs to be claimed; the listing is hidden at once. A later run takes the place of a live one only
//! where that was reached: elsewhere it would be a second relay of the same name. Each epoch that a table gives out is greater
//! than all before it, and than all that an earlier table gave out, because it is not below the clock.

mod lists;
mod nodes;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;

use dreamcatcher_proto::control::Visibility;
use dreamcatcher_proto::{BootId, Epoch, JoinCode, NodeId, SessionId};

use crate::limits;
use crate::record::{Change, Holder, Listing, NodeRecord, SessionRecord, Timestamp, View, check};
use crate::request::{
    DirectoryError, Filter, ListPage, Listed, NewSession, Renewal, Reply, Request,
};

/// Nodes, sessions, join codes and listings, and when each of them ends.
///
/// * [`apply`](Self::apply) takes a request and answers it,
/// * [`expire`](Self::expire) lets terms that have passed end; `apply` does so first,
/// * [`poll_change`](Self::poll_change) yields what changed, until it yields nothing: call it after
///   each of the two,
/// * [`next_expiry`](Self::next_expiry) says when `expire` is next due.
#[derive(Debug)]
pub struct Table {
    /// Runs that hold a lease: at most one of each node.
    live: BTreeMap<NodeId, Lease>,
    /// Runs that do not, any more. Every session's owner is in one of the two.
    ended: BTreeMap<Holder, Ended>,
    sessions: BTreeMap<SessionId, Session>,
    codes: BTreeMap<JoinCode, SessionId>,
    /// The sessions whose record has a listing.
    listed: BTreeSet<SessionId>,
    /// The auth service's public keys, and until when they are kept.
    keys: Option<(String, Timestamp)>,
    /// One entry for each lease, ended run and listing.
    due: BTreeSet<(Timestamp, Due)>,
    changes: VecDeque<Change>,
    /// The time, which never goes back.
    now: Timestamp,
    /// By how much the caller's clock is behind `now`, in µs, since it was set back.
    behind_us: u64,
    /// The highest epoch given out.
    issued: Epoch,
    random: Random,
}

#[derive(Debug)]
struct Lease {
    record: NodeRecord,
    until: Timestamp,
}

#[derive(Debug)]
struct Ended {
    /// A later run of the node was registered: this one cannot be registered again.
    superseded: bool,
    until: Timestamp,
}

#[derive(Debug)]
struct Session {
    record: SessionRecord,
    /// Counts only while the record has a listing.
    listed_until: Timestamp,
}

/// What ends by itself.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(NodeId),
    Orphans(Holder),
    Listing(SessionId),
}

struct Random(Box<dyn FnMut() -> u32 + Send>);

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

impl Table {
    /// An empty table that draws join codes and nonces from `random`, whose words must be
    /// unpredictable where players are strangers.
    pub fn new(random: impl FnMut() -> u32 + Send + 'static) -> Self {
        Self {
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            sessions: BTreeMap::new(),
            codes: BTreeMap::new(),
            listed: BTreeSet::new(),
            keys: None,
            due: BTreeSet::new(),
            changes: VecDeque::new(),
            now: Timestamp::default(),
            behind_us: 0,
            issued: Epoch::default(),
            random: Random(Box::new(random)),
        }
    }

    /// Takes one step, whole or not at all.
    pub fn apply(&mut self, request: Request, now: Timestamp) -> Result<Reply, DirectoryError> {
        self.expire(now);
        match request {
            Request::Register(record) => self.register(record),
            Request::Renew(renewal) => self.renew(renewal),
            Request::Deregister(holder) => {
                if self.is_live(&holder) {
                    self.end_run(&holder.node);
                }
                Ok(Reply::Done)
            }
            Request::Nodes => Ok(Reply::Nodes(
                self.live
                    .values()
                    .map(|lease| lease.record.clone())
                    .collect(),
            )),
            Request::Drain { node, wanted } => self.drain(node, wanted),
            Request::PublishKeys(document) => self.publish_keys(document),
            Request::Keys => Ok(Reply::Keys(self.keys())),
            Request::CreateSession(new) => self.create(new),
            Request::Session(id) => Ok(Reply::Session(self.record(id))),
            Request::Code(code) => Ok(Reply::Session(
                self.codes.get(&code).and_then(|&id| self.record(id)),
            )),
            Request::RotateCode { id, epoch } => {
                self.owned(id, epoch)?;
                let code = self.draw_code()?;
                self.set_code(id, Some(code));
                Ok(Reply::Code(Some(code)))
            }
            Request::RevokeCode { id, epoch } => {
                self.owned(id, epoch)?;
                self.set_code(id, None);
                Ok(Reply::Code(None))
            }
            Request::RaiseBallot {
                id,
                expected,
                promised,
            } => self.raise_ballot(id, expected, promised),
            Request::InstallView { id, ballot, view } => self.install_view(id, ballot, view),
            Request::Restore(record) => self.restore(record),
            Request::Assert { id, epoch, listing } => {
                self.owned(id, epoch)?;
                self.list(id, listing);
                Ok(Reply::Done)
            }
            Request::ListSessions(filter) => self.page(&filter).map(Reply::Listings),
            Request::CloseSession { id, epoch } => {
                if self.sessions.contains_key(&id) {
                    self.owned(id, epoch)?;
                    self.close(id);
                }
                Ok(Reply::Done)
            }
        }
    }

    /// Ends what has had its time by `now`.
    pub fn expire(&mut self, now: Timestamp) {
        self.follow(now);
        while self.due.first().is_some_and(|(at, _)| *at <= self.now) {
            match self.due.pop_first() {
                Some((_, Due::Lease(node))) => self.end_run(&node),
                Some((_, Due::Orphans(holder))) => self.forget_run(&holder),
                Some((_, Due::Listing(id))) => self.unlist(id),
                None => {}
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do, if nothing else happens: on the caller's
    /// clock.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let (at, _) = self.due.first()?;
        Some(Timestamp(at.0.saturating_sub(self.behind_us)))
    }

    /// The next change, oldest first.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Goes on after a time in which the table could not be reached: every lease gets its full term
    /// from `now`, because nobody could renew.
    pub fn resume(&mut self, now: Timestamp) {
        self.follow(now);
        let until = self.now.after(limits::NODE_LEASE);
        for (node, lease) in &mut self.live {
            self.due.remove(&(lease.until, Due::Lease(node.clone())));
            self.due.insert((until, Due::Lease(node.clone())));
            lease.until = until;
        }
    }

    /// Lets time go on as the caller's clock does. From where that is set back, time goes on at its
    /// pace, because a lease is a term and not a date; once it has caught up with the time, or is
    /// set right, it is the time again.
    fn follow(&mut self, clock: Timestamp) {
        let ran_on = Timestamp(clock.0.saturating_add(self.behind_us));
        self.now = if clock < self.now {
            self.now.max(ran_on)
        } else {
            clock
        };
        self.behind_us = self.now.0 - clock.0;
    }
}

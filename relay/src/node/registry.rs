//! This node's standing in the directory, and what it knows of the other nodes.
//!
//! ```text
//!   Absent ──Register──▶ Listed ──Renew each second──▶ Listed
//!                          └── lease lost: Register again; refused for good: stop
//! ```
//!
//! A node that has to register again may have been forgotten with all that it owns: it is told so, and
//! gives its sessions' records back. An operator's wish to drain stands in the directory's own copy
//! of the node's record.

use std::time::{Duration, Instant};

use dreamcatcher_directory::{
    Change, DirectoryError, Hint, Load, NodeRecord, Nodes, Renewal, Reply, Request, limits as lease,
};
use tracing::{info, warn};

use crate::outage::Outage;

/// Why the registry asks the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Register,
    Renew,
    ReadNodes,
    Deregister,
}

#[derive(Debug)]
pub(super) struct Registry {
    pub(super) record: NodeRecord,
    pub(super) nodes: Nodes,
    standing: Standing,
    /// When to register or renew next; `None` while an answer is due.
    next: Option<Instant>,
    reading: bool,
    /// The nodes are not read again before this, because they could not be read.
    read_after: Option<Instant>,
    /// The directory does not answer, or not as it should.
    trouble: Outage,
    /// When the directory last granted the lease.
    granted_at: Option<Instant>,
    /// It was granted anew, after it had been lost.
    is_back: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Absent,
    Listed,
    /// For good: a newer run has this node's name, or the mesh has another cluster key.
    Refused(DirectoryError),
    /// It asked to be taken off.
    Leaving,
}

/// Between two tries while the directory does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(250);

impl Registry {
    pub(super) fn new(record: NodeRecord, now: Instant) -> Self {
        Self {
            record,
            nodes: Nodes::new(),
            standing: Standing::Absent,
            next: Some(now),
            reading: false,
            read_after: None,
            trouble: Outage::default(),
            granted_at: None,
            is_back: false,
        }
    }

    /// Whether the directory lists this node, as far as is known: it has not said otherwise, nor been
    /// silent for longer than the lease lasts.
    pub(super) fn is_listed(&self, now: Instant) -> bool {
        self.standing == Standing::Listed
            && self
                .granted_at
                .is_some_and(|at| now.saturating_duration_since(at) <= lease::NODE_LEASE)
    }

    /// Whether the lease came back after it had been lost, since this was last asked.
    pub(super) fn take_is_back(&mut self) -> bool {
        std::mem::take(&mut self.is_back)
    }

    /// The directory does not know this run, as the answer to something else says.
    pub(super) fn is_forgotten(&mut self, now: Instant) {
        if self.standing == Standing::Listed {
            self.standing = Standing::Absent;
            self.next = Some(now);
        }
    }

    /// Why the directory will never take this run, if so.
    pub(super) fn refusal(&self) -> Option<&DirectoryError> {
        match &self.standing {
            Standing::Refused(error) => Some(error),
            Standing::Absent | Standing::Listed | Standing::Leaving => None,
        }
    }

    /// Takes this node off the directory.
    pub(super) fn leave(&mut self) -> Request {
        if self.refusal().is_none() {
            self.standing = Standing::Leaving;
        }
        self.next = None;
        Request::Deregister(self.record.holder())
    }

    /// The next request that is due. A node registers once it `can_serve`.
    pub(super) fn poll_request(
        &mut self,
        load: Load,
        can_serve: bool,
        now: Instant,
    ) -> Option<(Purpose, Request)> {
        let waits = self.standing == Standing::Absent && self.granted_at.is_none() && !can_serve;
        if !waits && self.next.is_some_and(|at| at <= now) {
            self.next = None;
            self.record.load = load;
            match self.standing {
                Standing::Absent => {
                    return Some((Purpose::Register, Request::Register(self.record.clone())));
                }
                Standing::Listed => {
                    let renewal = Renewal {
                        holder: self.record.holder(),
                        load,
                        draining: self.record.draining,
                        certificate_sha256: self.record.certificate_sha256.clone(),
                    };
                    return Some((Purpose::Renew, Request::Renew(renewal)));
                }
                Standing::Refused(_) | Standing::Leaving => {}
            }
        }
        if self.read_due(now).is_some_and(|at| at <= now) {
            self.reading = true;
            self.nodes.begin_read();
            return Some((Purpose::ReadNodes, Request::Nodes));
        }
        None
    }

    pub(super) fn poll_timeout(&self, can_serve: bool, now: Instant) -> Option<Instant> {
        let read = self.read_due(now);
        let waits = self.granted_at.is_none() && !can_serve;
        let next = self.next.filter(|_| !waits);
        next.into_iter().chain(read).min()
    }

    /// When to read the nodes next; `None` while that is under way.
    fn read_due(&self, now: Instant) -> Option<Instant> {
        if self.reading {
            return None;
        }
        let due = self.nodes.poll_timeout(now)?;
        Some(self.read_after.map_or(due, |after| due.max(after)))
    }

    fn tell(&mut self, error: &DirectoryError, now: Instant) {
        if let Some(line) = self.trouble.fails(now) {
            let away_s = line.lasted_s();
            warn!(node = %self.record.id, %error, away_s, "directory trouble; trying again");
        }
    }

    fn granted(&mut self, now: Instant) {
        // Not while the nodes cannot be read: that is the same trouble.
        let is_over = self.read_after.is_none();
        if let Some(away) = is_over.then(|| self.trouble.works(now)).flatten() {
            let away_s = away.as_secs();
            info!(node = %self.record.id, away_s, "directory trouble is over");
        }
        self.granted_at = Some(now);
        self.next = Some(now + lease::NODE_RENEW_EVERY);
    }

    /// The directory answered. Says what changed among the nodes.
    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        reply: Result<Reply, DirectoryError>,
        now: Instant,
    ) -> Vec<Change> {
        match (purpose, reply) {
            (Purpose::Register, Ok(_)) => {
                if self.standing == Standing::Absent {
                    self.is_back = self.granted_at.is_some();
                    info!(node = %self.record.id, again = self.is_back, "registered");
                    self.standing = Standing::Listed;
                }
                self.granted(now);
            }
            (Purpose::Renew, Ok(_)) => self.granted(now),
            (Purpose::Register | Purpose::Renew, Err(error)) => self.failed(&error, now),
            (Purpose::ReadNodes, Ok(Reply::Nodes(records))) => {
                self.reading = false;
                self.read_after = None;
                return self.nodes.finish_read(records, now);
            }
            (Purpose::ReadNodes, answer) => {
                self.reading = false;
                self.nodes.abandon_read();
                self.read_after = Some(now + RETRY_EVERY);
                if let Err(error) = answer {
                    self.tell(&error, now);
                }
            }
            (Purpose::Deregister, _) => {}
        }
        Vec::new()
    }

    fn failed(&mut self, error: &DirectoryError, now: Instant) {
        if self.standing == Standing::Leaving {
            return;
        }
        self.tell(error, now);
        self.next = Some(now + RETRY_EVERY);
        match error {
            DirectoryError::NotRegistered(_) => {
                self.standing = Standing::Absent;
                self.next = Some(now);
            }
            DirectoryError::Superseded(_) | DirectoryError::OtherMesh(_) => {
                self.standing = Standing::Refused(error.clone());
                self.next = None;
            }
            // The lease of a relay that is gone ends within seconds.
            DirectoryError::NodeIdTaken { .. }
            | DirectoryError::Unavailable { .. }
            | DirectoryError::NodeNotFound(_)
            | DirectoryError::SessionNotFound(_)
            | DirectoryError::Conflict { .. }
            | DirectoryError::Full { .. }
            | DirectoryError::Invalid(_) => {}
        }
    }

    /// A hint came in. Says what changed among the nodes.
    pub(super) fn hear(&mut self, hint: Hint) -> Vec<Change> {
        match hint {
            Hint::Changed(change) => self.nodes.hear(change),
            Hint::Missed(hints) => {
                self.nodes.missed(hints);
                Vec::new()
            }
        }
    }

    /// Follows the operator's wish, as the directory has it. Whether that changed anything.
    pub(super) fn follow_drain_wanted(&mut self, now: Instant) -> bool {
        let own = self.nodes.node(&self.record.id);
        let Some(own) = own.filter(|own| own.boot == self.record.boot) else {
            return false;
        };
        let wanted = own.drain_wanted;
        let changed = wanted != self.record.drain_wanted;
        if changed {
            self.record.drain_wanted = wanted;
            self.record.draining = wanted;
            self.renew_now(now);
        }
        changed
    }

    /// Says at once what changed of this node, instead of with the next renewal.
    pub(super) fn renew_now(&mut self, now: Instant) {
        if self.next.is_some() {
            self.next = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use dreamcatcher_proto::BootId;

    use super::*;

    #[test]
    fn a_directory_that_does_not_answer_is_asked_a_few_times_a_second() {
        let began = Instant::now();
        let mut registry = Registry::new(record(), began);
        let (mut now, mut asked) = (began, 0);
        while now < began + Duration::from_secs(1) {
            while let Some((purpose, _)) = registry.poll_request(Load::default(), true, now) {
                asked += 1;
                let cause = "refused".to_owned();
                let away = DirectoryError::Unavailable { cause };
                assert_eq!(registry.answered(purpose, Err(away), now), []);
                assert!(asked <= 8, "{asked} requests within {:?}", now - began);
            }
            now = registry.poll_timeout(true, now).unwrap();
        }
        assert_eq!(asked, 8, "to register, and for the nodes, each 250 ms");
        let (purpose, _) = registry.poll_request(Load::default(), true, now).unwrap();
        assert_eq!(purpose, Purpose::Register);
        assert_eq!(registry.answered(purpose, Ok(Reply::Done), now), []);
        assert!(registry.is_listed(now));
    }

    fn record() -> NodeRecord {
        NodeRecord {
            id: "relay-1-0".parse().unwrap(),
            boot: BootId(1),
            mesh_id: 1,
            host: "host-1".to_owned(),
            region: "eu".to_owned(),
            address: ([127, 0, 0, 1], 4_433).into(),
            mesh_address: ([127, 0, 0, 1], 4_533).into(),
            certificate_sha256: Vec::new(),
            capacity: 1,
            clients_max: 1,
            load: Load::default(),
            draining: false,
            drain_wanted: false,
        }
    }
}

//! Nodes: their runs and leases.

use super::*;

impl Table {
    pub(super) fn register(&mut self, record: NodeRecord) -> Result<Reply, DirectoryError> {
        record.check()?;
        let holder = record.holder();
        if self.is_live(&holder) {
            let drain_wanted = self.live[&holder.node].record.drain_wanted;
            self.keep(NodeRecord {
                drain_wanted,
                ..record
            });
            return Ok(Reply::Done);
        }
        let mut others = self.live.values().map(|lease| &lease.record);
        if let Some(other) = others.find(|other| other.mesh_id != record.mesh_id) {
            return Err(DirectoryError::OtherMesh(other.id.clone()));
        }
        let record = NodeRecord {
            drain_wanted: false,
            ..record
        };
        let ended = self.ended.get(&holder);
        if ended.is_some_and(|ended| ended.superseded) {
            return Err(DirectoryError::Superseded(holder));
        }
        let present = self.live.get(&holder.node).map(|lease| &lease.record);
        if let Some(present) = present.filter(|present| !record.is_where(present)) {
            return Err(DirectoryError::NodeIdTaken {
                node: holder.node,
                address: present.address,
                mesh_address: present.mesh_address,
            });
        }
        match ended {
            Some(ended) => {
                self.due
                    .remove(&(ended.until, Due::Orphans(holder.clone())));
                self.ended.remove(&holder);
            }
            None if self.live.len() + self.ended.len() >= limits::RUNS_MAX => {
                return Err(DirectoryError::Full {
                    what: "runs of nodes",
                    max: limits::RUNS_MAX,
                });
            }
            None => {}
        }
        self.end_run(&holder.node);
        let runs = |boot| Holder {
            node: holder.node.clone(),
            boot: BootId(boot),
        };
        for (_, earlier) in self.ended.range_mut(runs(u64::MIN)..=runs(u64::MAX)) {
            earlier.superseded = true;
        }
        self.changes.push_back(Change::NodeUp(record.clone()));
        self.start_lease(record);
        Ok(Reply::Done)
    }

    pub(super) fn renew(&mut self, renewal: Renewal) -> Result<Reply, DirectoryError> {
        self.living(&renewal.holder)?;
        let present = &self.live[&renewal.holder.node].record;
        let record = NodeRecord {
            load: renewal.load,
            draining: renewal.draining,
            certificate_sha256: renewal.certificate_sha256,
            ..present.clone()
        };
        record.check()?;
        self.keep(record);
        Ok(Reply::Done)
    }

    pub(super) fn drain(&mut self, node: NodeId, wanted: bool) -> Result<Reply, DirectoryError> {
        let Some(lease) = self.live.get_mut(&node) else {
            return Err(DirectoryError::NodeNotFound(node));
        };
        if lease.record.drain_wanted != wanted {
            lease.record.drain_wanted = wanted;
            self.changes
                .push_back(Change::NodeChanged(lease.record.clone()));
        }
        Ok(Reply::Done)
    }

    pub(super) fn publish_keys(&mut self, document: String) -> Result<Reply, DirectoryError> {
        let max = limits::KEYS_BYTES_MAX;
        check(document.len() <= max, || {
            format!(
                "a JWKS of {} bytes is over the limit of {max}",
                document.len()
            )
        })?;
        self.keys = Some((document, self.now.after(limits::KEYS_TTL)));
        Ok(Reply::Done)
    }

    pub(super) fn keys(&self) -> Option<String> {
        let (document, until) = self.keys.as_ref()?;
        (self.now < *until).then(|| document.clone())
    }

    /// Prolongs the lease of a live run under what it now says of itself.
    fn keep(&mut self, record: NodeRecord) {
        if let Some(lease) = self.live.remove(&record.id) {
            self.due
                .remove(&(lease.until, Due::Lease(record.id.clone())));
            if lease.record != record {
                self.changes.push_back(Change::NodeChanged(record.clone()));
            }
        }
        self.start_lease(record);
    }

    fn start_lease(&mut self, record: NodeRecord) {
        let until = self.now.after(limits::NODE_LEASE);
        self.due.insert((until, Due::Lease(record.id.clone())));
        self.live.insert(record.id.clone(), Lease { record, until });
    }

    /// Ends the node's live run, if it has one.
    pub(super) fn end_run(&mut self, node: &NodeId) {
        let Some(lease) = self.live.remove(node) else {
            return;
        };
        self.due.remove(&(lease.until, Due::Lease(node.clone())));
        let holder = lease.record.holder();
        let until = self.now.after(limits::ORPHAN_TTL);
        self.due.insert((until, Due::Orphans(holder.clone())));
        let ended = Ended {
            superseded: false,
            until,
        };
        self.ended.insert(holder.clone(), ended);
        self.changes.push_back(Change::NodeGone(holder));
    }

    /// Forgets an ended run, and closes the sessions that nobody claimed from it.
    pub(super) fn forget_run(&mut self, holder: &Holder) {
        self.ended.remove(holder);
        let orphan = |session: &Session| session.record.view.owner == *holder;
        let orphans: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| orphan(s))
            .map(|(&id, _)| id)
            .collect();
        orphans.into_iter().for_each(|id| self.close(id));
    }

    pub(super) fn is_live(&self, holder: &Holder) -> bool {
        self.live
            .get(&holder.node)
            .is_some_and(|lease| lease.record.boot == holder.boot)
    }

    /// That `holder` is live; otherwise whether it may register, or another run has its place.
    pub(super) fn living(&self, holder: &Holder) -> Result<(), DirectoryError> {
        if self.is_live(holder) {
            return Ok(());
        }
        let superseded = self.ended.get(holder).is_some_and(|ended| ended.superseded);
        if superseded || self.live.contains_key(&holder.node) {
            return Err(DirectoryError::Superseded(holder.clone()));
        }
        Err(DirectoryError::NotRegistered(holder.clone()))
    }
}

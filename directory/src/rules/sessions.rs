//! Session records: ballots and views.

use super::*;

impl Table {
    pub(super) fn create(&mut self, new: NewSession) -> Result<Reply, DirectoryError> {
        if let Some(record) = self.record(new.id) {
            return Ok(Reply::Exists(record));
        }
        self.living(&new.owner)?;
        let home_region = crate::record::parse_region(&new.home_region)?;
        self.room_for_session()?;
        let code = new.with_code.then(|| self.draw_code()).transpose()?;
        let epoch = self.next_epoch(Epoch::default());
        let nonce = u64::from(self.random.0()) << 32 | u64::from(self.random.0());
        let view = View {
            epoch,
            nonce,
            owner: new.owner,
            standby: None,
            anchors: Vec::new(),
        };
        self.insert(SessionRecord {
            id: new.id,
            home_region,
            ballot: epoch,
            view,
            code: None,
            listing: None,
        });
        self.set_code(new.id, code);
        if let Some(listing) = new.listing {
            self.list(new.id, listing);
        }
        Ok(Reply::Created { epoch, nonce, code })
    }

    pub(super) fn raise_ballot(
        &mut self,
        id: SessionId,
        expected: Epoch,
        promised: Epoch,
    ) -> Result<Reply, DirectoryError> {
        let stored = self.session(id)?.ballot;
        if stored != expected {
            return Err(self.conflict(id));
        }
        self.not_far_ahead(promised)?;
        let ballot = self.next_epoch(stored.max(promised));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.record.ballot = ballot;
        }
        Ok(Reply::Session(self.record(id)))
    }

    pub(super) fn install_view(
        &mut self,
        id: SessionId,
        ballot: Epoch,
        view: View,
    ) -> Result<Reply, DirectoryError> {
        let stored = self.session(id)?;
        let same_epoch = view.epoch == stored.view.epoch;
        let same_reign = view.nonce == stored.view.nonce && view.owner == stored.view.owner;
        if ballot != stored.ballot || view.epoch != ballot || (same_epoch && !same_reign) {
            return Err(self.conflict(id));
        }
        self.living(&view.owner)?;
        view.check()?;
        self.set_view(id, view);
        Ok(Reply::Done)
    }

    pub(super) fn restore(&mut self, record: SessionRecord) -> Result<Reply, DirectoryError> {
        let id = record.id;
        self.living(&record.view.owner)?;
        self.not_far_ahead(record.ballot)?;
        record.check()?;
        let SessionRecord {
            code,
            listing,
            ballot,
            view,
            ..
        } = record.clone();
        match self.sessions.get_mut(&id) {
            None => {
                self.room_for_session()?;
                self.insert(SessionRecord {
                    code: None,
                    listing: None,
                    ..record
                });
            }
            Some(Session { record: stored, .. }) if stored.view.epoch < view.epoch => {
                stored.ballot = stored.ballot.max(ballot);
                self.set_view(id, view);
            }
            Some(Session { record: stored, .. }) if stored.view == view => {
                stored.ballot = stored.ballot.max(ballot);
            }
            Some(_) => return Err(self.conflict(id)),
        }
        self.issued = self.issued.max(ballot);
        let has_code = self.session(id)?.code.is_some();
        if let Some(code) = code.filter(|code| !has_code && !self.codes.contains_key(code)) {
            self.set_code(id, Some(code));
        }
        if let Some(listing) = listing {
            self.list(id, listing);
        }
        Ok(Reply::Session(self.record(id)))
    }

    /// That `epoch` is the one in force, and its owner live.
    pub(super) fn owned(&self, id: SessionId, epoch: Epoch) -> Result<(), DirectoryError> {
        let view = &self.session(id)?.view;
        if view.epoch != epoch {
            return Err(self.conflict(id));
        }
        self.living(&view.owner)
    }

    pub(super) fn session(&self, id: SessionId) -> Result<&SessionRecord, DirectoryError> {
        let session = self
            .sessions
            .get(&id)
            .ok_or(DirectoryError::SessionNotFound(id))?;
        Ok(&session.record)
    }

    pub(super) fn record(&self, id: SessionId) -> Option<SessionRecord> {
        self.session(id).ok().cloned()
    }

    fn conflict(&self, id: SessionId) -> DirectoryError {
        self.session(id).map_or_else(
            |not_found| not_found,
            |stored| DirectoryError::Conflict {
                ballot: stored.ballot,
                epoch: stored.view.epoch,
            },
        )
    }

    fn room_for_session(&self) -> Result<(), DirectoryError> {
        let max = limits::SESSIONS_MAX;
        (self.sessions.len() < max)
            .then_some(())
            .ok_or(DirectoryError::Full {
                what: "sessions",
                max,
            })
    }

    fn not_far_ahead(&self, epoch: Epoch) -> Result<(), DirectoryError> {
        let max = self.now.after(limits::EPOCH_AHEAD_MAX).0;
        Ok(check(epoch.0 <= max, || {
            format!(
                "epoch {epoch} is more than an hour ahead of the directory's clock: at most {max}"
            )
        })?)
    }

    /// An epoch above `floor` and above every other, no lower than the clock.
    fn next_epoch(&mut self, floor: Epoch) -> Epoch {
        self.issued = floor.next().max(self.issued.next()).max(Epoch(self.now.0));
        self.issued
    }

    pub(super) fn insert(&mut self, record: SessionRecord) {
        let listed_until = self.now;
        self.sessions.insert(
            record.id,
            Session {
                record,
                listed_until,
            },
        );
    }

    fn set_view(&mut self, id: SessionId, view: View) {
        let Some(Session { record: stored, .. }) = self.sessions.get_mut(&id) else {
            return;
        };
        if stored.view.owner != view.owner || stored.view.standby != view.standby {
            self.changes.push_back(Change::SessionMoved {
                id,
                view: view.clone(),
            });
        }
        stored.view = view;
    }

    pub(super) fn close(&mut self, id: SessionId) {
        self.unlist(id);
        self.set_code(id, None);
        if self.sessions.remove(&id).is_some() {
            self.changes.push_back(Change::SessionClosed(id));
        }
    }
}

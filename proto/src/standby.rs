//! The standby's state machine: a copy of a session, one entry ahead of every member.
//!
//! ```text
//!   owner ──Sync, Store, Store──▶ ┌─────────┐ ──Stored (once for all that came together)──▶ owner
//!   claimant ──Seal─────────────▶ │ Standby │ ──Sealed──▶ who comes under a lower epoch
//!                                 └────┬────┘
//!                                      └─ into_log ─▶ Session, under a new epoch
//! ```
//!
//! An owner delivers an entry once its standby has stored it, so what any member has seen is here. A
//! sealed copy takes nothing of a lower epoch: the owner before can commit nothing any longer.

use crate::error::{Error, ErrorCode};
use crate::frame::{Fanout, Store};
use crate::id::{BootId, Epoch, Index, NodeId};
use crate::retained::Retained;
use crate::state::SessionState;

/// Whose copy it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    pub epoch: Epoch,
    pub nonce: u64,
    pub owner: NodeId,
    pub owner_boot: BootId,
}

/// A session's log: what a new owner starts from.
#[derive(Clone, Debug)]
pub struct Log {
    pub state: SessionState,
    pub(crate) retained: Retained,
}

/// A copy of one session.
#[derive(Debug)]
pub struct Standby {
    reign: Reign,
    /// The lowest epoch that is still taken.
    promised: Epoch,
    log: Log,
    /// The entry that comes next. While it is not newer than the state, the copy is not complete.
    next: Index,
    /// Told to the owner.
    told: Option<Index>,
    /// The complete copy that this one takes the place of, until it is complete itself.
    before: Option<(Reign, Log)>,
}

impl Standby {
    /// A copy that is complete once the entries from `first` to the state's own have come.
    #[must_use]
    pub fn new(reign: Reign, first: Index, state: SessionState) -> Self {
        let promised = reign.epoch;
        let next = first.min(state.index.next());
        let retained = Retained::default();
        Self {
            reign,
            promised,
            log: Log { state, retained },
            next,
            told: None,
            before: None,
        }
    }

    #[must_use]
    pub fn reign(&self) -> &Reign {
        &self.reign
    }

    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    #[must_use]
    pub fn state(&self) -> &SessionState {
        &self.log.state
    }

    /// Whether everything that the owner had when it began to send is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.next > self.log.state.index
    }

    /// The owner sends everything anew: it may have lost what was on the way. `Err` with the epoch that
    /// was promised, if that is higher, or another owner has it.
    pub fn sync(&mut self, reign: Reign, first: Index, state: SessionState) -> Result<(), Epoch> {
        let is_anothers = reign.epoch == self.reign.epoch && reign != self.reign;
        if reign.epoch < self.promised || is_anothers {
            return Err(self.promised);
        }
        let promised = self.promised.max(reign.epoch);
        let before = self.log();
        *self = Self {
            promised,
            before,
            ..Self::new(reign, first, state)
        };
        self.settle();
        Ok(())
    }

    /// Keeps an entry. `NotOwner` under a lower epoch than was promised.
    pub fn store(&mut self, store: Store) -> Result<(), Error> {
        let Store { epoch, entry } = store;
        if epoch < self.promised || epoch != self.reign.epoch {
            let promised = self.promised;
            let message = format!("epoch {epoch} came after {promised} was promised");
            return Err(Error::new(ErrorCode::NotOwner, message));
        }
        self.keep(entry)
    }

    fn keep(&mut self, entry: Fanout) -> Result<(), Error> {
        let index = entry.place.index;
        if index != self.next {
            let message = format!("entry {index} came where {} was next", self.next);
            return Err(Error::new(ErrorCode::MalformedFrame, message));
        }
        let last = self.log.retained.last();
        if last.is_some_and(|last| entry.place.epoch < last.epoch)
            || entry.place.epoch > self.reign.epoch
        {
            let message = format!("entry {index} is of epoch {}", entry.place.epoch);
            return Err(Error::new(ErrorCode::MalformedFrame, message));
        }
        if index > self.log.state.index {
            self.log.state.apply(&entry)?;
        }
        self.next = index.next();
        self.log.retained.push(entry);
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        if self.is_complete() {
            self.before = None;
        }
    }

    /// What to tell the owner, if it does not know yet: all that came together is told once.
    pub fn poll_stored(&mut self) -> Option<Index> {
        let stored = self.log.state.index;
        let news = self.is_complete() && self.told.is_none_or(|told| told < stored);
        news.then(|| {
            self.told = Some(stored);
            stored
        })
    }

    /// Promises to take nothing under a lower epoch, unless a higher one was promised. What holds now.
    pub fn seal(&mut self, epoch: Epoch) -> Epoch {
        self.promised = self.promised.max(epoch);
        self.promised
    }

    /// What a new owner starts from, and whose log it was. Everything that was committed up to now is in
    /// it: while the owner sends everything anew it commits nothing, so the copy before will do.
    #[must_use]
    pub fn log(&self) -> Option<(Reign, Log)> {
        if self.is_complete() {
            Some((self.reign.clone(), self.log.clone()))
        } else {
            self.before.clone()
        }
    }
}

//! The recent entries of a session: what a member that comes back is caught up from.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::frame::{Fanout, Place};
use crate::id::{Epoch, Index};
use crate::limits;

/// Entries without a hole, the oldest given up first when there are too many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retained {
    entries: VecDeque<Fanout>,
    bytes: usize,
}

impl Retained {
    pub(crate) fn push(&mut self, mut entry: Fanout) {
        // The payload is a slice of the packet that brought it: kept long, it is kept alone.
        entry.message.payload = Bytes::copy_from_slice(&entry.message.payload);
        self.bytes += entry.message.payload.len();
        self.entries.push_back(entry);
        while self.entries.len() > limits::RETAINED_ENTRIES_MAX
            || self.bytes > limits::RETAINED_BYTES_MAX
        {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.message.payload.len();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The oldest entry that is kept, or where the next one will be.
    pub(crate) fn first(&self, newest: Index) -> Index {
        self.entries
            .front()
            .map_or(newest.next(), |entry| entry.place.index)
    }

    pub(crate) fn last(&self) -> Option<Place> {
        self.entries.back().map(|entry| entry.place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Fanout> {
        self.entries.iter()
    }

    /// The entries behind this index.
    pub(crate) fn after(&self, index: Index) -> impl Iterator<Item = &Fanout> {
        let passed = self
            .entries
            .partition_point(|entry| entry.place.index <= index);
        self.entries.iter().skip(passed)
    }

    /// Under which epoch the entry was ordered, if it is kept.
    pub(crate) fn epoch_of(&self, index: Index) -> Option<Epoch> {
        let found = self.after(Index(index.0.checked_sub(1)?)).next()?.place;
        (found.index == index).then_some(found.epoch)
    }
}

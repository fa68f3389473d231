//! What a seat keeps while it moves from one relay to another, so that nothing is lost or doubled.
//!
//! ```text
//!   Settling ──ask_at──▶ Asked ──Joined──▶ Draining ──▶ done
//!   Reliable sends are       │                 Reliable of the new relay waits for
//!   kept from here on        └─ figures drawn  what the former one still brings
//! ```
//!
//! Ordered needs nothing of this: its entries have places. Reliable has none. What was on its way up
//! when the owner turned to the new relay is dropped there, so it is sent again; what is on its way
//! down from the former relay counts as missed there, so it is awaited, and set off.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Seat;
use super::seat::Phase;
use crate::control::Joined;
use crate::frame::{Attachment, Message, Mode};
use crate::id::PeerId;
use crate::limits;

/// The former relay's last messages come within this time, or count as lost.
pub(super) const DRAINS_WITHIN: Duration = Duration::from_secs(1);
/// What the owner counts as missed follows its answer on the same stream; so long is waited for it.
const COUNTED_WITHIN: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Handover {
    pub(super) stage: Stage,
    /// Reliable sends since the move began, as many as may wait to be sent.
    kept: VecDeque<Message>,
    kept_bytes: usize,
    /// Per sender, Reliable messages that came, or were told to be missing, since the figures in
    /// the resume were drawn.
    came: BTreeMap<PeerId, u32>,
    /// Per sender, what the owner takes for missed by those figures.
    missed: BTreeMap<PeerId, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not before then is the new relay asked: what was sent before the move began has arrived.
    Settling { ask_at: Instant },
    /// The new relay is asked. `ended`: the former one knows that the seat has gone.
    Asked {
        request: u64,
        deadline: Instant,
        ended: bool,
    },
    /// The new relay has the seat. `ended`: the former one has nothing more to begin.
    Draining {
        former: Attachment,
        counted: Instant,
        until: Instant,
        ended: bool,
    },
}

impl Handover {
    pub(super) fn settling(ask_at: Instant) -> Self {
        Self {
            stage: Stage::Settling { ask_at },
            kept: VecDeque::new(),
            kept_bytes: 0,
            came: BTreeMap::new(),
            missed: BTreeMap::new(),
        }
    }

    /// A Reliable message is sent over the present relay. The oldest are forgotten first: they
    /// have probably arrived.
    pub(super) fn keep(&mut self, message: &Message) {
        if let Stage::Draining { .. } = self.stage {
            return;
        }
        self.kept_bytes += message.payload.len();
        self.kept.push_back(message.clone());
        while self.kept_bytes > limits::CLIENT_QUEUE_BYTES_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            self.kept_bytes -= oldest.payload.len();
        }
    }

    /// So many Reliable messages of the sender came or are told to be missing.
    pub(super) fn count(&mut self, sender: PeerId, messages: u32) {
        if !matches!(self.stage, Stage::Settling { .. }) {
            let came = self.came.entry(sender).or_default();
            *came = came.saturating_add(messages);
        }
    }

    /// Whether the new relay's word that messages are missed waits for what the former one brings.
    pub(super) fn defers_gap(&mut self, sender: PeerId, missed: u32) -> bool {
        let Stage::Draining { .. } = self.stage else {
            return false;
        };
        let sum = self.missed.entry(sender).or_default();
        *sum = sum.saturating_add(missed);
        true
    }

    /// When the former relay is no longer waited for.
    fn drained_at(&self) -> Option<Instant> {
        let Stage::Draining {
            counted,
            until,
            ended,
            ..
        } = self.stage
        else {
            return None;
        };
        let all_came = self
            .missed
            .iter()
            .all(|(sender, missed)| self.came.get(sender).is_some_and(|came| came >= missed));
        Some(if ended && all_came { counted } else { until })
    }

    fn gaps(&self) -> impl Iterator<Item = (PeerId, u32)> {
        self.missed.iter().filter_map(|(sender, missed)| {
            let came = self.came.get(sender).copied().unwrap_or_default();
            Some((*sender, missed.checked_sub(came)?)).filter(|(_, missed)| *missed > 0)
        })
    }
}

impl Seat {
    /// Begins to keep what a move needs, unless it does so already.
    pub(super) fn settle(&mut self, ask_at: Instant) {
        if self.phase == Phase::Live && self.handover.is_none() {
            self.handover = Some(Handover::settling(ask_at));
        }
    }

    pub(super) fn stage(&self) -> Option<Stage> {
        self.handover.as_ref().map(|handover| handover.stage)
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(handover) = &mut self.handover {
            handover.stage = stage;
        }
    }

    /// The new relay has the seat: what of Reliable has not reached the owner is sent again.
    pub(super) fn hand_over(
        &mut self,
        former: Attachment,
        ended: bool,
        joined: &Joined,
        now: Instant,
    ) -> Vec<Message> {
        let Some(handover) = &mut self.handover else {
            return Vec::new();
        };
        handover.stage = Stage::Draining {
            former,
            counted: now + COUNTED_WITHIN,
            until: now + DRAINS_WITHIN,
            ended,
        };
        handover.kept_bytes = 0;
        let kept = std::mem::take(&mut handover.kept);
        let unseen = |message: &Message| message.seq > joined.reliable_seen;
        debug_assert!(kept.iter().all(|message| message.mode == Mode::Reliable));
        kept.into_iter().filter(unseen).collect()
    }

    /// The former relay has nothing more to begin, or is gone.
    pub(super) fn former_ended(&mut self, is_gone: bool) {
        if let Some(handover) = &mut self.handover
            && let Stage::Draining {
                counted,
                until,
                ended,
                ..
            } = &mut handover.stage
        {
            *ended = true;
            if is_gone {
                *until = (*until).min(*counted);
            }
        }
    }

    pub(super) fn drained_at(&self) -> Option<Instant> {
        self.handover.as_ref().and_then(Handover::drained_at)
    }

    /// Ends a handover that is drained by now: what is still missed, if so.
    pub(super) fn take_drained(&mut self, now: Instant) -> Option<Vec<(PeerId, u32)>> {
        self.drained_at().filter(|at| *at <= now)?;
        let handover = self.handover.take()?;
        Some(handover.gaps().collect())
    }
}

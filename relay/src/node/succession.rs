//! Who stands by for a session that is owned here, and how that changes.
//!
//! ```text
//!   Settled ──standby lost, slow, draining──▶ Choosing ──▶ Copying ──copied──▶ Installing ──done──▶ Settled
//!                                                ▲  └─ nobody: none ─────────────▲   │
//!                                                └──── too slow ◀────┘              no answer: again
//!                                                └─────────────── Reclaiming ◀──────┘ ballot raised
//! ```
//!
//! A new session and one that was taken over begin at Choosing: their first view has yet to be
//! installed. A change is a compare-and-set in the directory; while its outcome is not known, both
//! copies are written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dreamcatcher_directory::{Holder, Nodes};
use dreamcatcher_proto::{Index, NodeId, SessionId};

/// A node that is to become the standby has this long to store everything.
pub(super) const COPY_WITHIN: Duration = Duration::from_secs(1);
/// A standby whose link broke has this long to be back with everything stored.
pub(super) const BACK_WITHIN: Duration = Duration::from_millis(750);
/// A standby that stores nothing for so long, though it should, is replaced.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(1);
/// A node that failed as a standby is not tried again for so long.
const AVOID_FOR: Duration = Duration::from_secs(5);
/// Between two tries to install a view.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(250);
/// Nodes that are looked at: enough to find one on another host.
const CANDIDATES: usize = 8;

/// Where the choice of a standby stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The view is as it should be.
    Settled,
    Choosing,
    /// It gets everything, by then.
    Copying {
        to: Holder,
        until: Instant,
    },
    /// The standby's link broke: it gets everything anew, by then.
    Renewing {
        until: Instant,
    },
    /// The directory is asked for this view.
    Installing {
        to: Option<Holder>,
    },
    /// Another node has raised the ballot: this one does, too, and goes on under the new epoch.
    Reclaiming,
    /// It did not answer: it is asked again then.
    Retrying {
        to: Option<Holder>,
        at: Instant,
    },
}

#[derive(Debug)]
pub(super) struct Succession {
    pub(super) step: Step,
    /// The standby of the view in force.
    pub(super) standby: Option<Holder>,
    /// A view of this epoch is in force.
    pub(super) in_force: bool,
    /// Everything is to be handed over: to that node, once it stands by.
    pub(super) leaving: bool,
    /// The standby has been asked to take over.
    pub(super) handing_over: bool,
    avoid: BTreeMap<NodeId, Instant>,
    /// The entry that waits longest for the standby, and since when.
    stalled: Option<(Index, Instant)>,
}

impl Succession {
    /// Of a session whose copy matters from its first entry on.
    pub(super) fn begin() -> Self {
        Self {
            step: Step::Choosing,
            standby: None,
            in_force: false,
            leaving: false,
            handing_over: false,
            avoid: BTreeMap::new(),
            stalled: None,
        }
    }

    /// Of a session that does without: its view names nobody.
    pub(super) fn without() -> Self {
        Self {
            step: Step::Settled,
            in_force: true,
            ..Self::begin()
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let step = match &self.step {
            Step::Settled | Step::Choosing | Step::Installing { .. } | Step::Reclaiming => None,
            Step::Copying { until, .. } | Step::Renewing { until } => Some(*until),
            Step::Retrying { at, .. } => Some(*at),
        };
        let stalled = self.stalled.filter(|_| self.step == Step::Settled);
        let stalled = stalled.map(|(_, since)| since + STALLED_AFTER);
        step.into_iter().chain(stalled).min()
    }

    /// Notes which entry waits longest.
    pub(super) fn waits(&mut self, waiting: Option<Index>, now: Instant) {
        self.stalled = waiting.map(|index| match self.stalled {
            Some((before, since)) if index == before => (index, since),
            Some(_) | None => (index, now),
        });
    }

    /// Whether that has been the same one for too long.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        let late = |since| now.saturating_duration_since(since) >= STALLED_AFTER;
        self.step == Step::Settled && self.stalled.is_some_and(|(_, since)| late(since))
    }

    /// The node did not do as a standby.
    pub(super) fn avoid(&mut self, node: &NodeId, now: Instant) {
        self.avoid.retain(|_, until| *until > now);
        self.avoid.insert(node.clone(), now + AVOID_FOR);
    }

    /// Whether the standby can stay.
    pub(super) fn is_good(&self, nodes: &Nodes) -> bool {
        self.standby.as_ref().is_some_and(|standby| {
            let node = nodes.node(&standby.node);
            node.is_some_and(|node| node.boot == standby.boot && !node.draining)
        })
    }

    /// The best node on another host: in the session's region, else in another one.
    pub(super) fn choose(
        &self,
        session: SessionId,
        region: &str,
        me: &NodeId,
        nodes: &Nodes,
        now: Instant,
    ) -> Option<Holder> {
        let host = nodes.node(me).map(|node| node.host.as_str());
        let mut regions: Vec<&str> = nodes.iter().map(|node| node.region.as_str()).collect();
        regions.sort_unstable();
        regions.dedup();
        let others = regions.into_iter().filter(|other| *other != region);
        std::iter::once(region).chain(others).find_map(|region| {
            let ranked = nodes.owners(session, region, CANDIDATES);
            let good = ranked.into_iter().find(|node| {
                node.id != *me
                    && Some(node.host.as_str()) != host
                    && self.avoid.get(&node.id).is_none_or(|until| *until <= now)
            });
            good.map(dreamcatcher_directory::NodeRecord::holder)
        })
    }
}

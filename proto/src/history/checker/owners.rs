//! What only relays know: under which epoch who ordered what, and where one took over from another.

use std::collections::BTreeMap;

use super::Invariant;
use super::case::{Case, Spot};
use crate::frame::Mode;
use crate::history::Site;
use crate::history::fact::{Fact, RelayFact};
use crate::id::{BootId, Epoch, Index};

/// From which index on nothing of lower epochs counts, and who says so.
#[derive(Clone, Debug)]
struct Fence {
    epoch: Epoch,
    prefix: Index,
    site: Site,
}

impl Case<'_> {
    pub(super) fn owners(&mut self) {
        if self.relays.is_empty() {
            let reason = "no relay recorded a history of the session";
            self.unchecked(Invariant::OneBoot, reason);
            self.unchecked(Invariant::Sealed, reason);
            self.unchecked(
                Invariant::Committed,
                "no relay recorded whether one took over",
            );
            return;
        }
        self.checked(Invariant::OneBoot);
        self.checked(Invariant::Sealed);
        let mut boots: BTreeMap<Epoch, (BootId, Site)> = BTreeMap::new();
        let mut fences: Vec<Fence> = Vec::new();
        for log in self.relays.clone() {
            // Below which epoch this relay has promised to order nothing, and where; its newest
            // index of each epoch.
            let mut sealed: Option<(Epoch, usize)> = None;
            let mut newest: BTreeMap<Epoch, (Index, usize)> = BTreeMap::new();
            for (number, (_, fact)) in log.facts.iter().enumerate() {
                if fact.session() != Some(self.session) {
                    continue;
                }
                let ordering = match fact {
                    RelayFact::Created { epoch, boot, .. } => Some((*epoch, *boot)),
                    RelayFact::TookOver {
                        epoch,
                        boot,
                        prefix,
                        ..
                    } => {
                        fences.push(Fence {
                            epoch: *epoch,
                            prefix: *prefix,
                            site: log.site(number),
                        });
                        Some((*epoch, *boot))
                    }
                    RelayFact::Ordered {
                        epoch, boot, index, ..
                    } => {
                        if let Some((seal, at)) = sealed.filter(|(seal, _)| epoch < seal) {
                            let what = format!(
                                "index {index} is ordered under epoch {epoch}, and the relay is sealed at {seal}"
                            );
                            let there = Some(log.site(at));
                            self.blame_relay(Invariant::Sealed, log, number, there, what);
                        }
                        let before = newest.insert(*epoch, (*index, number));
                        if let Some((before, at)) = before.filter(|(before, _)| index <= before) {
                            let what = format!(
                                "index {index} is ordered after {before}, under epoch {epoch}"
                            );
                            let there = Some(log.site(at));
                            self.blame_relay(Invariant::Committed, log, number, there, what);
                        }
                        Some((*epoch, *boot))
                    }
                    RelayFact::Sealed { epoch, .. } => {
                        sealed = sealed.max(Some((*epoch, number)));
                        None
                    }
                    RelayFact::HandedOver { epoch, .. } => {
                        sealed = sealed.max(Some((epoch.next(), number)));
                        None
                    }
                    RelayFact::Incomplete { .. } => None,
                };
                let Some((epoch, boot)) = ordering else {
                    continue;
                };
                let (known, there) = boots
                    .entry(epoch)
                    .or_insert_with(|| (boot, log.site(number)))
                    .clone();
                if known != boot {
                    let what = format!("epoch {epoch} is of boot {boot}, elsewhere of {known}");
                    self.blame_relay(Invariant::OneBoot, log, number, Some(there), what);
                }
            }
        }
        self.fenced(fences);
    }

    /// Nothing that was ordered under an epoch before a fence counts behind it.
    fn fenced(&mut self, mut fences: Vec<Fence>) {
        // From the last to the first: the lowest prefix of all that follow an epoch counts.
        fences.sort_by_key(|fence| std::cmp::Reverse((fence.epoch, fence.prefix)));
        let mut lowest: Option<&Fence> = None;
        let mut bounds: BTreeMap<Epoch, &Fence> = BTreeMap::new();
        for fence in &fences {
            let is_lower = lowest.is_none_or(|lowest| fence.prefix < lowest.prefix);
            let bound = if is_lower {
                fence
            } else {
                lowest.unwrap_or(fence)
            };
            lowest = Some(bound);
            bounds.insert(fence.epoch, bound);
        }
        let behind = |epoch: Epoch, index: Index| {
            let (_, fence) = bounds.range(epoch.next()..).next()?;
            (epoch < fence.epoch && fence.prefix < index).then_some(*fence)
        };
        let mut broken: Vec<(Invariant, Spot, Site, String)> = Vec::new();
        for (number, life) in self.lives.iter().enumerate() {
            for (fact, (_, said)) in life.log.facts.iter().enumerate() {
                let (invariant, index, epoch, verb) = match said {
                    Fact::Delivered(delivery) if delivery.mode == Mode::Ordered => {
                        let place = delivery.place;
                        (Invariant::Sealed, place.index, place.epoch, "delivered")
                    }
                    Fact::Committed { index, .. } => {
                        let placed = self.order.get(index);
                        let Some(epoch) = placed.and_then(|placed| placed.epoch) else {
                            continue;
                        };
                        (Invariant::Committed, *index, epoch, "committed")
                    }
                    Fact::Delivered(_)
                    | Fact::Refused { .. }
                    | Fact::Joined { .. }
                    | Fact::Sent { .. }
                    | Fact::Membership { .. }
                    | Fact::Rejected { .. }
                    | Fact::Gap { .. }
                    | Fact::Resync { .. }
                    | Fact::Reconnecting
                    | Fact::Resumed
                    | Fact::Ended { .. }
                    | Fact::Standing { .. }
                    | Fact::Incomplete { .. } => continue,
                };
                if let Some(fence) = behind(epoch, index) {
                    let what = format!(
                        "index {index} of epoch {epoch} is {verb}; epoch {} recovered up to {}",
                        fence.epoch, fence.prefix
                    );
                    let spot = Spot { life: number, fact };
                    broken.push((invariant, spot, fence.site.clone(), what));
                }
            }
        }
        for (invariant, spot, there, what) in broken {
            self.blame_against(invariant, spot, there, what);
        }
    }
}

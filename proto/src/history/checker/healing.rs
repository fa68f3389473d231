//! What members may be told, and how soon they are well again, given what was done to the mesh.

use std::time::Duration;

use super::Invariant;
use super::case::{Case, Spot};
use crate::frame::Mode;
use crate::history::fact::{Fact, FaultKind};
use crate::id::{Index, Seq};

/// From when the last fault healed until everybody is well again.
pub(super) const HEALED_WITHIN: Duration = Duration::from_secs(5);

impl Case<'_> {
    /// Nobody loses continuity where one relay crashed and no more.
    pub(super) fn continuity(&mut self) {
        let mut resyncs = Vec::new();
        for (number, life) in self.lives.iter().enumerate() {
            let facts = life.log.facts.iter().enumerate();
            let lost = facts.filter(|(_, (_, fact))| matches!(fact, Fact::Resync { .. }));
            resyncs.extend(lost.map(|(fact, _)| Spot { life: number, fact }));
        }
        let are_marked = !self.history.faults.is_empty();
        let is_crash = |kind| kind == FaultKind::RelayCrash;
        let crashes = self.faults.iter().filter(|f| is_crash(f.kind)).count();
        match crashes {
            0 if !resyncs.is_empty() && !are_marked => {
                let reason = "no file marks which relays crashed";
                self.unchecked(Invariant::NoResync, reason);
            }
            0 | 1 => {
                self.checked(Invariant::NoResync);
                for spot in resyncs {
                    let what = format!("it lost continuity, and {crashes} relays had crashed");
                    self.blame(Invariant::NoResync, spot, None, what);
                }
            }
            more => {
                let reason = format!("{more} relays crashed: continuity may be lost");
                self.unchecked(Invariant::NoResync, reason);
            }
        }
    }

    /// Soon after the last fault everybody has what had its place before, and its sends have an
    /// outcome.
    pub(super) fn recovery(&mut self) {
        let lasting = self.faults.iter().filter(|fault| fault.kind.lasts());
        if let Some(open) = lasting.clone().find(|fault| fault.until.is_none()) {
            let reason = format!(
                "the fault {} of {} was never healed",
                open.kind.name(),
                open.target
            );
            return self.unchecked(Invariant::Healed, reason);
        }
        let ends = self.faults.iter().map(|f| f.until.unwrap_or(f.from));
        let Some(healed) = ends.max() else {
            if !self.is_at_rest {
                let reason = "no fault was marked, and no moment of rest was recorded";
                self.unchecked(Invariant::Healed, reason);
            }
            return;
        };
        let deadline = healed + HEALED_WITHIN;
        let mut is_checked = false;
        for number in 0..self.lives.len() {
            if self.was_there(number, healed, deadline) {
                is_checked = true;
                self.caught_up(number, healed, deadline);
                self.sends_end(number, healed, deadline);
            }
        }
        if is_checked && !self.is_at_rest {
            self.checked(Invariant::Healed);
        } else if !is_checked && !self.is_at_rest {
            let reason = "no member was there from when the last fault healed until 5 s later";
            self.unchecked(Invariant::Healed, reason);
        }
    }

    fn was_there(&self, number: usize, healed: Duration, deadline: Duration) -> bool {
        let log = self.lives[number].log;
        let joins = |fact: &Fact| matches!(fact, Fact::Joined { .. });
        let ends = |fact: &Fact| matches!(fact, Fact::Ended { .. } | Fact::Incomplete { .. });
        let at = |is: fn(&Fact) -> bool| {
            let found = log.facts.iter().find(|(_, fact)| is(fact));
            found.map(|(at, _)| *at)
        };
        let joined = at(joins).is_some_and(|at| at <= healed);
        let stayed = at(ends).is_none_or(|at| deadline < at);
        joined && stayed && deadline <= log.until()
    }

    fn caught_up(&mut self, number: usize, healed: Duration, deadline: Duration) {
        let life = self.lives[number];
        let in_time = life.log.facts.iter().filter(|(at, _)| *at <= deadline);
        let indexes = in_time.filter_map(|(_, fact)| {
            if let Fact::Delivered(delivery) = fact {
                Some(delivery.place.index)
            } else {
                None
            }
        });
        let newest = indexes.max().unwrap_or_default().max(life.joined);
        let entries = self.order.range(newest.next()..=Index(u64::MAX));
        let mut late = entries.filter(|(index, placed)| {
            **index > newest && placed.known_at <= healed && self.is_for(placed.name, life.me)
        });
        if let Some((index, placed)) = late.next() {
            let (name, there) = (placed.name, placed.spot);
            let what = format!(
                "index {index}, {name}, had its place when the last fault healed at {:.3} s, and is not here by {:.3} s",
                healed.as_secs_f64(),
                deadline.as_secs_f64()
            );
            let fact = life.log.facts.partition_point(|(at, _)| *at <= deadline);
            let spot = Spot {
                life: number,
                fact: fact.saturating_sub(1),
            };
            self.blame(Invariant::Healed, spot, Some(there), what);
        }
    }

    fn sends_end(&mut self, number: usize, healed: Duration, deadline: Duration) {
        let life = self.lives[number];
        let mut open: Vec<(Seq, Spot)> = Vec::new();
        for (fact, (at, said)) in life.log.facts.iter().enumerate() {
            match said {
                Fact::Sent {
                    mode: Mode::Ordered,
                    seq,
                    ..
                } if *at <= healed => open.push((*seq, Spot { life: number, fact })),
                Fact::Sent { .. }
                | Fact::Refused { .. }
                | Fact::Joined { .. }
                | Fact::Delivered(_)
                | Fact::Membership { .. }
                | Fact::Committed { .. }
                | Fact::Rejected { .. }
                | Fact::Gap { .. }
                | Fact::Resync { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Ended { .. }
                | Fact::Standing { .. }
                | Fact::Incomplete { .. } => {}
            }
        }
        let in_time = life.log.facts.iter().filter(|(at, _)| *at <= deadline);
        let resolved: std::collections::BTreeSet<Seq> = in_time
            .filter_map(|(_, fact)| {
                if let Fact::Committed { seq, .. }
                | Fact::Rejected {
                    mode: Mode::Ordered,
                    seq,
                    ..
                } = fact
                {
                    Some(*seq)
                } else {
                    None
                }
            })
            .collect();
        let late = open.into_iter().find(|(seq, _)| !resolved.contains(seq));
        if let Some((seq, spot)) = late {
            let name = life.name(Mode::Ordered, seq);
            let what = format!(
                "{name} has no outcome by {:.3} s, 5 s after the last fault healed",
                deadline.as_secs_f64()
            );
            self.blame(Invariant::Healed, spot, None, what);
        }
    }
}

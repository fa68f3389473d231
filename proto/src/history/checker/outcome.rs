//! What a member is told of its own messages, and of its own end.

use std::collections::BTreeMap;

use super::Invariant;
use super::case::{Case, Spot};
use crate::frame::Mode;
use crate::history::fact::Fact;
use crate::id::{Index, Seq};

impl Case<'_> {
    /// What became of a member's own Ordered messages.
    pub(super) fn resolutions(&mut self, number: usize) {
        let life = self.lives[number];
        let mut resolved: BTreeMap<(Mode, Seq), Spot> = BTreeMap::new();
        let mut committed = Index(0);
        for (fact, (_, said)) in life.log.facts.iter().enumerate() {
            let spot = Spot { life: number, fact };
            let send = match said {
                Fact::Committed { seq, index } => {
                    if *index <= committed {
                        let what = format!("index {index} is committed after {committed}");
                        self.blame(Invariant::Committed, spot, None, what);
                    }
                    committed = committed.max(*index);
                    (Mode::Ordered, *seq)
                }
                Fact::Rejected { mode, seq, .. } => (*mode, *seq),
                Fact::Refused { .. }
                | Fact::Joined { .. }
                | Fact::Sent { .. }
                | Fact::Delivered(_)
                | Fact::Membership { .. }
                | Fact::Gap { .. }
                | Fact::Resync { .. }
                | Fact::Reconnecting
                | Fact::Resumed
                | Fact::Ended { .. }
                | Fact::Standing { .. }
                | Fact::Incomplete { .. } => continue,
            };
            if let Some(before) = resolved.insert(send, spot) {
                let name = life.name(send.0, send.1);
                let what = format!("{name} is resolved again");
                self.blame(Invariant::Resolved, spot, Some(before), what);
            }
        }
        // In the order of sending: indexes rise, and nothing before the last is left out.
        let mut last: Option<(Index, Spot)> = None;
        let mut left_out: Option<(Spot, Seq)> = None;
        let (mut open, mut first_open) = (0, None);
        for (fact, (_, said)) in life.log.facts.iter().enumerate() {
            let Fact::Sent {
                mode: Mode::Ordered,
                seq,
                ..
            } = said
            else {
                continue;
            };
            let spot = Spot { life: number, fact };
            let name = life.name(Mode::Ordered, *seq);
            let is_resolved = resolved.contains_key(&(Mode::Ordered, *seq));
            match self.places.get(&name).copied() {
                Some((index, _)) => {
                    if let Some((before, there)) = last.filter(|(before, _)| index <= *before) {
                        let what = format!("{name} is at {index}, the one before at {before}");
                        self.blame(Invariant::SenderOrder, spot, Some(there), what);
                    }
                    let after = self.messages.get(&name).map(|origin| origin.after);
                    if let Some(after) = after.filter(|after| index <= *after) {
                        let what = format!("{name} is at {index}, and was sent after {after}");
                        self.blame(Invariant::Causality, spot, None, what);
                    }
                    if let Some((spot, seq)) = left_out.take() {
                        let name = life.name(Mode::Ordered, seq);
                        let what = format!("{name} was left out before index {index}");
                        self.blame(Invariant::SenderOrder, spot, None, what);
                    }
                    let is_newest = last.is_none_or(|(before, _)| before < index);
                    last = if is_newest { Some((index, spot)) } else { last };
                }
                None if !is_resolved => {
                    left_out.get_or_insert((spot, *seq));
                }
                None => {}
            }
            if !is_resolved {
                open += 1;
                first_open.get_or_insert((spot, name));
            }
        }
        if let (Some((_, _, unresolved)), Some((spot, name))) = (life.standing, first_open)
            && open > unresolved
        {
            let what = format!(
                "nobody said what became of {open} messages, {name} the first; {unresolved} may be open"
            );
            self.blame(Invariant::Resolved, spot, None, what);
        }
    }

    pub(super) fn ending(&mut self, number: usize) {
        let life = self.lives[number];
        let is_end = |fact: &Fact| matches!(fact, Fact::Ended { .. });
        let facts = life.log.facts.iter().enumerate();
        let mut after = facts.skip_while(|(_, (_, fact))| !is_end(fact));
        let Some((end, _)) = after.next() else { return };
        // The application may not have read of its end yet, and sends on.
        let is_late = |fact: &Fact| !matches!(fact, Fact::Sent { .. } | Fact::Incomplete { .. });
        if let Some((fact, (_, said))) = after.find(|(_, (_, fact))| is_late(fact)) {
            let what = format!("{said:?} comes after the terminal event");
            let (here, end) = (
                Spot { life: number, fact },
                Spot {
                    life: number,
                    fact: end,
                },
            );
            self.blame(Invariant::Terminal, here, Some(end), what);
        }
    }
}

//! What a member is told of its own messages, and of its own end.

use std::collections::BTreeSet;
use std::time::Duration;

use dreamcatcher_proto::Index;
use dreamcatcher_proto::frame::Mode;

use super::{Case, Rule};
use crate::history::{Digest, Fact, Fate, Life};

impl Case<'_> {
    /// What became of a member's own Ordered messages.
    pub(super) fn resolutions(&mut self, life: &Life) {
        let mut resolved: BTreeSet<Digest> = BTreeSet::new();
        for (at, fact) in &life.facts {
            if let Fact::Committed { message, .. } | Fact::Rejected { message, .. } = fact
                && !resolved.insert(*message)
            {
                let what = format!("{message:?} is resolved again, by {fact:?}");
                self.blame(Rule::Resolved, life, Some(*at), what);
            }
        }
        // In the order of sending: indexes rise, and nothing before the last is left out.
        let mut last = Index(0);
        let mut open: Option<(Duration, Digest)> = None;
        for (at, fact) in &life.facts {
            let Fact::Sent {
                message,
                mode: Mode::Ordered,
                ..
            } = fact
            else {
                continue;
            };
            let place = self
                .games
                .get(&life.game)
                .and_then(|o| o.places.get(message));
            match place.copied() {
                Some(index) => {
                    let after = self.messages.get(message).map(|origin| origin.after);
                    if index <= last {
                        let what = format!("{message:?} is at {index}, the one before at {last}");
                        self.blame(Rule::SenderOrder, life, Some(*at), what);
                    }
                    if after.is_some_and(|after| index <= after) {
                        let what = format!("{message:?} is at {index}, sent after {after:?}");
                        self.blame(Rule::Causality, life, Some(*at), what);
                    }
                    if let Some((at, left_out)) = open.take() {
                        let what = format!("{left_out:?} was left out before index {index}");
                        self.blame(Rule::SenderOrder, life, Some(at), what);
                    }
                    last = last.max(index);
                }
                None if !resolved.contains(message) => {
                    open.get_or_insert((*at, *message));
                }
                None => {}
            }
            if life.plays() && !resolved.contains(message) {
                let what = format!("nobody said what became of {message:?}");
                self.blame(Rule::Resolved, life, Some(*at), what);
            }
        }
    }

    pub(super) fn ending(&mut self, life: &Life) {
        let is_end = |fact: &Fact| matches!(fact, Fact::Ended { .. });
        let mut after = life
            .facts
            .iter()
            .skip_while(|(_, fact)| !is_end(fact))
            .skip(1);
        if let Some((at, fact)) = after.find(|(_, fact)| !matches!(fact, Fact::Sent { .. })) {
            let what = format!("{fact:?} after the terminal event");
            self.blame(Rule::Terminal, life, Some(*at), what);
        }
        match (life.fate, life.ended()) {
            (Fate::Plays, Some((at, code))) => {
                let what = format!("it ended with {code}, and nothing had asked for it");
                return self.blame(Rule::Terminal, life, Some(at), what);
            }
            (Fate::Ends(codes), Some((at, code))) if !codes.contains(&code) => {
                let what = format!("it ended with {code} in place of {codes:?}");
                return self.blame(Rule::Terminal, life, Some(at), what);
            }
            (Fate::Ends(codes), None) => {
                let what = format!("nothing told it that it has ended, with {codes:?}");
                return self.blame(Rule::Terminal, life, None, what);
            }
            (Fate::Ends(_), Some(_)) | (Fate::Missed, _) => return,
            (Fate::Plays, None) => {}
        }
        if life.joined().is_none() {
            self.blame(Rule::Served, life, None, "it never joined".to_owned());
        } else if !self.came_through(life) {
            let what = "none of its own Ordered messages was committed".to_owned();
            self.blame(Rule::Served, life, None, what);
        }
    }

    fn came_through(&self, life: &Life) -> bool {
        let sent = |fact: &Fact| {
            matches!(
                fact,
                Fact::Sent {
                    mode: Mode::Ordered,
                    ..
                }
            )
        };
        let committed = |fact: &Fact| matches!(fact, Fact::Committed { .. });
        let any = |wanted: &dyn Fn(&Fact) -> bool| life.facts.iter().any(|(_, fact)| wanted(fact));
        !any(&sent) || any(&committed)
    }
}

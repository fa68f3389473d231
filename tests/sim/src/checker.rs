//! Judges a run: by the invariants of every history ([`dreamcatcher_proto::history`]), and by what a
//! simulation knows beyond them: what must have become of each player.

use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::history;
pub use dreamcatcher_proto::history::{Invariant, Violation};

use crate::history::{Fact, Fate, History, Life};

/// Every promise that a run breaks; none if it keeps them all.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let report = history::check(&history.recorded());
    let mut violations: Vec<Violation> = report.violations().cloned().collect();
    for life in &history.lives {
        violations.extend(ending(life));
    }
    violations
}

/// What is wrong with the way in which a life ended, or did not.
fn ending(life: &Life) -> Option<Violation> {
    let blame = |invariant, at, what| {
        Some(Violation {
            invariant,
            session: life.session(),
            party: life.name.clone(),
            at,
            what,
            here: None,
            there: None,
        })
    };
    match (life.fate, life.ended()) {
        (Fate::Plays, Some((at, code))) => {
            let what = format!("it ended with {code}, and nothing had asked for it");
            return blame(Invariant::Terminal, Some(at), what);
        }
        (Fate::Ends(codes), Some((at, code))) if !codes.contains(&code) => {
            let what = format!("it ended with {code} in place of {codes:?}");
            return blame(Invariant::Terminal, Some(at), what);
        }
        (Fate::Ends(codes), None) => {
            let what = format!("nothing told it that it has ended, with {codes:?}");
            return blame(Invariant::Terminal, None, what);
        }
        (Fate::Ends(_), Some(_)) | (Fate::Missed, _) => return None,
        (Fate::Plays, None) => {}
    }
    if life.joined().is_none() {
        blame(Invariant::Healed, None, "it never joined".to_owned())
    } else if life.standing().is_none() {
        let what = "it is in no session at the end, and nothing told it so".to_owned();
        blame(Invariant::Terminal, None, what)
    } else if !came_through(life) {
        let what = "none of its own Ordered messages was committed".to_owned();
        blame(Invariant::Healed, None, what)
    } else {
        None
    }
}

fn came_through(life: &Life) -> bool {
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

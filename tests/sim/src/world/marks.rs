//! What a plan does to the mesh, as an experiment marks it.

use std::time::Duration;

use crate::history::{FaultKind, Mark};
use crate::net::Party;
use crate::plan::{Incident, Plan};

/// The marks of everything that `plan` will do. The weather is one that always comes, and that is over
/// when the network heals.
pub(super) fn of(plan: &Plan) -> Vec<(Duration, Mark)> {
    let mut marks = Marks::default();
    let everyone = || "everyone".to_owned();
    marks.lasts(FaultKind::Weather, everyone(), Duration::ZERO, plan.heals());
    for cut in &plan.cuts {
        let target = format!("{:?}", cut.between);
        // The network heals for all by then.
        marks.lasts(
            FaultKind::Cut,
            target,
            cut.from,
            cut.until.min(plan.heals()),
        );
    }
    for &(at, incident) in &plan.incidents {
        match incident {
            Incident::Crash(relay) => {
                let target = format!("{:?}", Party::Relay(relay));
                marks.begins(FaultKind::RelayCrash, target, at);
            }
            Incident::Silence(player, lasts) => {
                let target = format!("{:?}", Party::Player(player));
                marks.lasts(FaultKind::MemberPause, target, at, at + lasts);
            }
            Incident::DirectoryDown(lasts) => {
                let target = "the directory".to_owned();
                marks.lasts(FaultKind::DirectoryDown, target, at, at + lasts);
            }
            // Nothing is wrong with these.
            Incident::Restart(_) | Incident::Stop(_) | Incident::Leave(..) => {}
        }
    }
    marks.all.sort_by_key(|(at, _)| *at);
    marks.all
}

#[derive(Default)]
struct Marks {
    all: Vec<(Duration, Mark)>,
    count: u32,
}

impl Marks {
    fn begins(&mut self, kind: FaultKind, target: String, at: Duration) -> u32 {
        self.count += 1;
        let fault = self.count;
        self.all.push((
            at,
            Mark::Injected {
                fault,
                kind,
                target,
            },
        ));
        fault
    }

    fn lasts(&mut self, kind: FaultKind, target: String, from: Duration, until: Duration) {
        let fault = self.begins(kind, target, from);
        self.all.push((until, Mark::Healed { fault }));
    }
}

//! What must always hold, and what must be seen to happen.

use stateright::Property;

use crate::Session;
use crate::rules::Rule;
use crate::state::{Log, Member, Rebuilt, Role, State};

pub const ONE_MESSAGE: &str = "(epoch, index) names one message";
pub const TOTAL_ORDER: &str = "G1: members' logs agree";
pub const ONCE: &str = "G2: nothing is delivered twice";
pub const KEPT: &str = "I13: whoever serves has what was delivered";
pub const NO_RESYNC: &str = "I13: no member is told to undo";
pub const NEVER_FALLS: &str = "I8: no member's epoch falls";
pub const NOT_UNNOTICED: &str = "members of one epoch agree";

pub const TAKEN_OVER: &str = "a new owner goes on delivering";
pub const REPLACED: &str = "a replaced standby's successor takes over and delivers";
pub const COMPETING: &str = "two claims compete, both with the log";
pub const FORGOTTEN: &str = "a new owner delivers though the directory has lost a write";
pub const FOLLOWED: &str = "a claimant goes on to a view that the directory has lost";
pub const REBUILT: &str = "a session rebuilt from tails goes on delivering";

pub(crate) fn all() -> Vec<Property<Session>> {
    vec![
        Property::<Session>::always(ONE_MESSAGE, |_, state| one_message(state)),
        Property::<Session>::always(TOTAL_ORDER, |session, state| {
            members_agree(&session.bound(state), |_, _| true)
        }),
        Property::<Session>::always(ONCE, |_, state| state.members.iter().all(once)),
        Property::<Session>::always(KEPT, |session, state| kept(state, &session.bound(state))),
        Property::<Session>::always(NO_RESYNC, |session, state| {
            !session.bound(state).iter().any(|member| member.diverged)
        }),
        Property::<Session>::always(NEVER_FALLS, |_, state| {
            state.members.iter().all(never_falls)
        }),
        Property::<Session>::always(NOT_UNNOTICED, |_, state| {
            let members: Vec<_> = state.members.iter().collect();
            members_agree(&members, |a, b| a.epoch == b.epoch)
        }),
    ]
}

/// What a run must have come across, so that its silence about the rest means something.
pub(crate) fn seen(session: &Session) -> Vec<Property<Session>> {
    let bounds = &session.bounds;
    let mut seen = vec![Property::<Session>::sometimes(TAKEN_OVER, |_, state| {
        delivers_again(state)
    })];
    if bounds.replacements > 0 {
        seen.push(Property::<Session>::sometimes(REPLACED, |_, state| {
            let record = &state.record;
            state.past.replacements > 0 && record.view.owner.node == 2 && delivers_again(state)
        }));
    }
    if bounds.claims > 1 {
        seen.push(Property::<Session>::sometimes(COMPETING, |_, state| {
            let claimants = state.relays.iter().filter(|relay| match relay.role {
                Role::Claiming(claim) => claim.best.is_some() || claim.standby.is_some(),
                Role::Idle | Role::Owning(_) => false,
            });
            claimants.count() > 1
        }));
    }
    if bounds.losses > 0 {
        seen.push(Property::<Session>::sometimes(FORGOTTEN, |_, state| {
            state.past.losses > 0 && delivers_again(state)
        }));
    }
    if bounds.losses > 0 && session.rules.has(Rule::TellBeforeServing) {
        seen.push(Property::<Session>::sometimes(FOLLOWED, |_, state| {
            state.relays.iter().any(|relay| match relay.role {
                Role::Claiming(claim) => {
                    claim.best.is_some() && claim.view.number() > state.record.view.number()
                }
                Role::Idle | Role::Owning(_) => false,
            })
        }));
    }
    if session.can_rebuild() {
        seen.push(Property::<Session>::sometimes(REBUILT, |_, state| {
            state.past.rebuilt != Rebuilt::Never && delivers_again(state)
        }));
    }
    seen
}

impl Session {
    /// The members that the promise binds, as far as `state` has come: all; after a rebuilding from all
    /// tails the listed ones; after one from some tails none.
    fn bound<'a>(&self, state: &'a State) -> Vec<&'a Member> {
        let members: Vec<u8> = match state.past.rebuilt {
            Rebuilt::Never => self.members().collect(),
            Rebuilt::FromAll => self.listed().collect(),
            Rebuilt::FromSome => Vec::new(),
        };
        let member = |member: u8| &state.members[usize::from(member)];
        members.into_iter().map(member).collect()
    }
}

/// In whatever log it stands.
fn one_message(state: &State) -> bool {
    let pairs = |a: &Log, b: &Log| {
        let mut both = a.entries().iter().zip(b.entries());
        both.all(|(x, y)| x.epoch != y.epoch || x.mid == y.mid)
    };
    let logs: Vec<&Log> = state.logs().collect();
    logs.iter()
        .enumerate()
        .all(|(n, a)| logs[n + 1..].iter().all(|b| pairs(a, b)))
}

fn members_agree(members: &[&Member], where_: impl Fn(&Member, &Member) -> bool) -> bool {
    members.iter().enumerate().all(|(n, a)| {
        let others = members[n + 1..].iter().filter(|b| where_(a, b));
        others.into_iter().all(|b| a.log.agrees_with(&b.log))
    })
}

fn once(member: &Member) -> bool {
    let entries = member.log.entries();
    (0..entries.len()).all(|n| entries[..n].iter().all(|e| e.mid != entries[n].mid))
}

/// Whoever serves under an epoch has all that members delivered up to that epoch.
fn kept(state: &State, members: &[&Member]) -> bool {
    let mut serving = state.owners().filter(|(reign, _)| state.serves(reign));
    serving.all(|(reign, log)| {
        let mut heard = members.iter().filter(|m| m.epoch <= reign.view.epoch);
        heard.all(|member| log.extends(&member.log))
    })
}

fn never_falls(member: &Member) -> bool {
    !member.fell && member.log.entries().is_sorted_by_key(|entry| entry.epoch)
}

/// Some member has delivered entries that were ordered in two epochs.
fn delivers_again(state: &State) -> bool {
    state.members.iter().any(|member| {
        let entries = member.log.entries();
        entries.first().map(|e| e.epoch) < entries.last().map(|e| e.epoch)
    })
}

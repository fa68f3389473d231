//! What can happen next. Any of it may happen at any time: a relay may be paused for as long as it
//! likes, and nobody notices that a lease is over.

use std::fmt;

use crate::Session;
use crate::rules::Rule;
use crate::state::{
    Change, Claim, Entry, Epoch, Held, Holder, Log, Rebuilt, Record, Reign, Relay, Role, State,
    View, Way, name,
};

/// One step. Relays and members go by their numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An owner orders a message that its log does not have.
    Order { owner: u8, mid: u8 },
    /// The view's standby stores all that its owner has, and the owner hears of it.
    Store { owner: u8 },
    /// The same for the standby that comes or goes.
    StoreAside { owner: u8 },
    /// A member delivers the next entry from an owner, or finds that it must undo some.
    Deliver { owner: u8, member: u8 },
    /// An owner gives its log to another standby, and asks the directory for it.
    Replace { owner: u8, standby: u8 },
    /// The directory carries that out. The owner does not hear of it.
    Replaced { owner: u8 },
    /// The owner finds its new standby in the record.
    Learn { owner: u8 },
    /// A holder that the new view leaves out is told of it, and drops its log.
    Tell { owner: u8, node: u8 },
    /// An owner gives back the view that the directory has lost.
    Reassert { owner: u8 },
    /// A relay reads the record and raises the ballot: one step.
    Raise { node: u8 },
    /// A holder promises to a claimant and hands over what it holds.
    Seal { node: u8, holder: u8 },
    /// A member promises to a claimant.
    Promise { node: u8, member: u8 },
    /// Every listed member has promised: the log comes from their tails.
    Rebuild { node: u8 },
    /// As much, although some have not promised.
    RebuildFromSome { node: u8 },
    /// A claimant and its new standby store the recovered log.
    Stage { node: u8, standby: u8 },
    /// A claimant installs its view.
    Install { node: u8 },
    /// A relay loses its memory and starts again under a new boot id.
    Crash { node: u8 },
    /// The directory drops a relay's lease; the relay runs on.
    Lapse { node: u8 },
    /// A relay finds its lease over, and starts anew with nothing.
    Return { node: u8 },
    /// The directory falls back to its replica.
    Lose,
    /// The replica catches up, where it does not follow of itself.
    Replicate,
}

impl Session {
    /// Whatever a relay, a member or the world may try in `state`; [`Session::step`] says what comes of it.
    pub(crate) fn candidates(&self, state: &State, actions: &mut Vec<Action>) {
        let bounds = &self.bounds;
        for node in 0..bounds.relays {
            match state.relays[usize::from(node)].role {
                Role::Owning(reign) => self.of_owner(state, node, &reign, actions),
                Role::Claiming(claim) => self.of_claimant(node, &claim, actions),
                Role::Idle => {}
            }
            if state.past.claims < bounds.claims
                && !matches!(state.relays[usize::from(node)].role, Role::Owning(_))
            {
                actions.push(Action::Raise { node });
            }
            if state.past.crashes < bounds.crashes {
                actions.push(Action::Crash { node });
            }
            if state.relays[usize::from(node)].lapsed {
                actions.push(Action::Return { node });
            } else if state.past.lapses < bounds.lapses {
                actions.push(Action::Lapse { node });
            }
        }
        if state.past.losses < bounds.losses {
            actions.extend([Action::Lose, Action::Replicate]);
        }
    }

    fn of_owner(&self, state: &State, owner: u8, reign: &Reign, actions: &mut Vec<Action>) {
        for holder in reign.untold.iter().flatten() {
            let node = holder.node;
            actions.push(Action::Tell { owner, node });
        }
        if state.past.losses > 0 {
            actions.push(Action::Reassert { owner });
        }
        if !state.serves(reign) {
            return;
        }
        actions.extend((1..=self.bounds.messages).map(|mid| Action::Order { owner, mid }));
        actions.push(Action::Store { owner });
        actions.extend(
            self.members()
                .map(|member| Action::Deliver { owner, member }),
        );
        match reign.change {
            None if state.past.replacements < self.bounds.replacements => {
                let others = (0..self.bounds.relays).filter(|node| *node != owner);
                actions.extend(others.map(|standby| Action::Replace { owner, standby }));
            }
            None => {}
            Some(Change { way: Way::In, .. }) => actions.extend([
                Action::StoreAside { owner },
                Action::Replaced { owner },
                Action::Learn { owner },
            ]),
            Some(Change {
                standby,
                way: Way::Out,
                ..
            }) => actions.extend([
                Action::StoreAside { owner },
                Action::Tell {
                    owner,
                    node: standby.node,
                },
            ]),
        }
    }

    fn of_claimant(&self, node: u8, claim: &Claim, actions: &mut Vec<Action>) {
        if claim.standby.is_some() {
            actions.push(Action::Install { node });
            return;
        }
        let others = (0..self.bounds.relays).filter(|other| *other != node);
        actions.extend(others.clone().map(|holder| Action::Seal { node, holder }));
        if claim.best.is_some() {
            actions.extend(others.map(|standby| Action::Stage { node, standby }));
        } else {
            actions.extend(
                self.members()
                    .map(|member| Action::Promise { node, member }),
            );
            actions.extend([Action::Rebuild { node }, Action::RebuildFromSome { node }]);
        }
    }

    /// What comes of `action`; none where it is refused.
    pub(crate) fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Order { owner, mid } => self.order(&mut next, owner, mid),
            Action::Store { owner } => self.store(&mut next, owner),
            Action::StoreAside { owner } => self.store_aside(&mut next, owner),
            Action::Deliver { owner, member } => self.deliver(&mut next, owner, member),
            Action::Replace { owner, standby } => self.replace(&mut next, owner, standby),
            Action::Replaced { owner } => self.replaced(&mut next, owner),
            Action::Learn { owner } => self.learn(&mut next, owner),
            Action::Tell { owner, node } => tell(&mut next, owner, node),
            Action::Reassert { owner } => self.reassert(&mut next, owner),
            Action::Raise { node } => self.raise(&mut next, node),
            Action::Seal { node, holder } => self.seal(&mut next, node, holder),
            Action::Promise { node, member } => promise(&mut next, node, member),
            Action::Rebuild { node } => self.rebuild(&mut next, node, Rebuilt::FromAll),
            Action::RebuildFromSome { node } => self.rebuild(&mut next, node, Rebuilt::FromSome),
            Action::Stage { node, standby } => self.stage(&mut next, node, standby),
            Action::Install { node } => self.install(&mut next, node),
            Action::Crash { node } => {
                next.past.crashes += 1;
                restart(&mut next, node)
            }
            Action::Lapse { node } => {
                next.past.lapses += 1;
                next.relays[usize::from(node)].lapsed = true;
                Some(())
            }
            Action::Return { node } => restart(&mut next, node),
            Action::Lose => self.lose(&mut next),
            Action::Replicate => self.replicate(&mut next),
        }?;
        (next != *state).then_some(next)
    }

    // An owner.

    fn order(&self, state: &mut State, owner: u8, mid: u8) -> Option<()> {
        // The names of messages do not matter: the next new one is the lowest.
        let used = state.logs().flat_map(Log::entries).map(|e| e.mid).max();
        let (reign, held) = owning(&mut state.relays, owner)?;
        if held.log.has(mid) || mid > used.unwrap_or(0) + 1 {
            return None;
        }
        let epoch = reign.view.epoch;
        held.log.push(Entry { epoch, mid });
        Some(())
    }

    fn store(&self, state: &mut State, owner: u8) -> Option<()> {
        let (reign, held) = owning(&mut state.relays, owner)?;
        let (standby, held) = (reign.view.standby, *held);
        self.store_at(state, standby, held)?;
        owning(&mut state.relays, owner)?.0.stored = held.log.len();
        Some(())
    }

    fn store_aside(&self, state: &mut State, owner: u8) -> Option<()> {
        let (reign, held) = owning(&mut state.relays, owner)?;
        let (change, held) = (reign.change?, *held);
        self.store_at(state, change.standby, held)?;
        owning(&mut state.relays, owner)?.0.change.as_mut()?.stored = held.log.len();
        Some(())
    }

    fn store_at(&self, state: &mut State, standby: Holder, held: Held) -> Option<()> {
        if state.crashed(standby) {
            return None;
        }
        let standby = &mut state.relays[usize::from(standby.node)];
        let has = standby.held.as_mut()?;
        let refused = standby.promised > held.epoch || has.epoch != held.epoch;
        if refused && self.rules.has(Rule::StandbyChecksEpoch) {
            return None;
        }
        *has = held;
        Some(())
    }

    fn deliver(&self, state: &mut State, owner: u8, member: u8) -> Option<()> {
        let committed = self.committed(state, owner)?;
        let (reign, held) = owning(&mut state.relays, owner)?;
        let (epoch, log) = (reign.view.epoch, held.log);
        let member = &mut state.members[usize::from(member)];
        if epoch < member.promised.max(member.epoch) {
            if self.rules.has(Rule::MembersFence) {
                return None;
            }
            member.fell |= epoch < member.epoch;
        }
        member.epoch = epoch;
        member.promised = member.promised.max(epoch);
        let next = usize::from(member.log.len());
        if !log.extends(&member.log) {
            member.log = member.log.common(&log.first(committed));
            member.diverged = true;
        } else if let Some(entry) = log.first(committed).entries().get(next) {
            member.log.push(*entry);
        }
        Some(())
    }

    /// How many entries `owner` may deliver.
    fn committed(&self, state: &State, owner: u8) -> Option<u8> {
        let relay = &state.relays[usize::from(owner)];
        let (Role::Owning(reign), Some(held)) = (relay.role, relay.held) else {
            return None;
        };
        if !self.rules.has(Rule::StoreBeforeDelivering) {
            return Some(held.log.len());
        }
        let stored = reign.stored;
        Some(match reign.change {
            None => stored,
            Some(Change {
                stored: aside,
                way: Way::In,
                ..
            }) => {
                if self.rules.has(Rule::BothStoreInDoubt) {
                    stored.min(aside)
                } else {
                    stored.max(aside)
                }
            }
            Some(Change {
                standby,
                way: Way::Out,
                ..
            }) if state.gone(standby) => stored,
            Some(Change {
                stored: aside,
                way: Way::Out,
                ..
            }) => stored.min(aside),
        })
    }

    fn replace(&self, state: &mut State, owner: u8, standby: u8) -> Option<()> {
        let (reign, held) = owning(&mut state.relays, owner)?;
        let (view, mut held) = (reign.view, *held);
        if view.standby == state.holder(standby) {
            return None;
        }
        if !self.rules.has(Rule::SyncBeforeInstalling) {
            held.log = Log::default();
        }
        let change = Change {
            standby: state.holder(standby),
            stored: held.log.len(),
            way: Way::In,
        };
        give(state, standby, held)?;
        owning(&mut state.relays, owner)?.0.change = Some(change);
        state.past.replacements += 1;
        Some(())
    }

    fn replaced(&self, state: &mut State, owner: u8) -> Option<()> {
        let (reign, _) = owning(&mut state.relays, owner)?;
        let (view, next) = (reign.view, reign.next_view()?);
        let ballot = state.record.ballot;
        let same_ballot = ballot == view.epoch || !self.rules.has(Rule::CompareBallot);
        same_ballot.then(|| self.write(state, Record { ballot, view: next }))
    }

    fn learn(&self, state: &mut State, owner: u8) -> Option<()> {
        let record = state.record;
        let (reign, _) = owning(&mut state.relays, owner)?;
        let (change, old) = (reign.change?, *reign);
        if reign.next_view()? != record.view {
            return None;
        }
        let leaving = Change {
            standby: old.view.standby,
            stored: old.stored,
            way: Way::Out,
        };
        reign.view = record.view;
        reign.stored = change.stored;
        reign.change = self.rules.has(Rule::TellBeforeServing).then_some(leaving);
        state.relays[usize::from(owner)].known = Some(record.view);
        Some(())
    }

    fn reassert(&self, state: &mut State, owner: u8) -> Option<()> {
        let Record {
            ballot,
            view: stored,
        } = state.record;
        let (reign, _) = owning(&mut state.relays, owner)?;
        let view = reign.view;
        let newer =
            stored.epoch < view.epoch || stored.number() < view.number() && ballot == view.epoch;
        let ballot = ballot.max(view.epoch);
        newer.then(|| self.write(state, Record { ballot, view }))
    }

    // A claimant.

    fn raise(&self, state: &mut State, node: u8) -> Option<()> {
        state.past.claims += 1;
        let Record {
            ballot: stored,
            view,
        } = state.record;
        let ballot = self.epoch_after(stored, state.past.claims);
        self.write(state, Record { ballot, view });
        state.relays[usize::from(node)].role = Role::Claiming(Claim {
            ballot,
            view,
            best: None,
            standby: None,
        });
        // It asks itself first, which takes no time.
        let _ = self.seal(state, node, node);
        Some(())
    }

    fn seal(&self, state: &mut State, node: u8, holder: u8) -> Option<()> {
        let mut claim = claiming(&mut state.relays, node)?;
        let asked = claim.view.has(state.holder(holder)) || !self.rules.has(Rule::AskOnlyHolders);
        let relay = &mut state.relays[usize::from(holder)];
        if !asked || relay.promised > claim.ballot {
            return None;
        }
        if self.rules.has(Rule::SealBeforeReading) {
            relay.promised = claim.ballot;
            if holder != node {
                relay.role = Role::Idle;
            }
        }
        let newer = relay
            .known
            .filter(|view| view.number() > claim.view.number());
        if let Some(view) = newer.filter(|_| self.rules.has(Rule::FollowNewerViews)) {
            claim.view = view;
            claim.best = None;
        } else if let Some(held) = relay.held.filter(|held| held.epoch >= claim.view.epoch) {
            let rank = |held: &Held| (held.epoch, held.log.len());
            claim.best = claim.best.into_iter().chain([held]).max_by_key(rank);
        }
        state.relays[usize::from(node)].role = Role::Claiming(claim);
        if newer.is_some() && holder != node {
            let _ = self.seal(state, node, node);
        }
        Some(())
    }

    fn rebuild(&self, state: &mut State, node: u8, from: Rebuilt) -> Option<()> {
        let mut claim = claiming(&mut state.relays, node)?;
        let holders_gone = claim
            .view
            .holders()
            .iter()
            .all(|holder| state.gone(*holder));
        if !self.bounds.tails.may(holders_gone, from) {
            return None;
        }
        let promised = |member: &u8| state.members[usize::from(*member)].promised == claim.ballot;
        let listed = usize::from(self.bounds.listed);
        let voices: Vec<u8> = if self.rules.has(Rule::EveryListedMemberPromises) {
            self.listed().filter(promised).collect()
        } else {
            self.members().filter(promised).take(listed).collect()
        };
        let enough = match from {
            Rebuilt::Never => false,
            Rebuilt::FromAll => voices.len() == listed,
            Rebuilt::FromSome => (1..listed).contains(&voices.len()),
        };
        if !enough {
            return None;
        }
        let tails = voices.iter().map(|member| {
            let member = &state.members[usize::from(*member)];
            Held {
                epoch: member.epoch,
                log: member.log,
            }
        });
        claim.best = self.joined(tails.collect());
        state.past.rebuilt = from;
        state.relays[usize::from(node)].role = Role::Claiming(claim);
        Some(())
    }

    /// The log that `tails` speak of: the newest, then the longest, continued by older ones.
    fn joined(&self, mut tails: Vec<Held>) -> Option<Held> {
        tails.sort_by_key(|tail| (tail.epoch, tail.log.len()));
        let newest = tails.pop()?;
        let older = tails.iter().rev().map(|tail| tail.log);
        let log = if self.rules.has(Rule::ContinueNewestTail) {
            older.fold(
                newest.log,
                |log, tail| if tail.extends(&log) { tail } else { log },
            )
        } else {
            newest.log
        };
        Some(Held { log, ..newest })
    }

    fn stage(&self, state: &mut State, node: u8, standby: u8) -> Option<()> {
        let mut claim = claiming(&mut state.relays, node)?;
        let answered = |holder: &Holder| {
            let relay = &state.relays[usize::from(holder.node)];
            state.gone(*holder) || relay.promised == claim.ballot
        };
        if self.rules.has(Rule::EveryHolderAnswers) && !claim.view.holders().iter().all(answered) {
            return None;
        }
        let held = Held {
            epoch: claim.ballot,
            log: claim.best?.log,
        };
        give(state, standby, held)?;
        give(state, node, held)?;
        claim.best = None;
        claim.standby = Some(state.holder(standby));
        state.relays[usize::from(node)].role = Role::Claiming(claim);
        Some(())
    }

    fn install(&self, state: &mut State, node: u8) -> Option<()> {
        let claim = claiming(&mut state.relays, node)?;
        let ballot = state.record.ballot;
        let same_ballot = ballot == claim.ballot || !self.rules.has(Rule::CompareBallot);
        let relay = &state.relays[usize::from(node)];
        if !same_ballot || relay.promised != claim.ballot {
            return None;
        }
        let view = View {
            epoch: claim.ballot,
            turn: 0,
            owner: state.holder(node),
            standby: claim.standby?,
        };
        let left_out = |holder: Holder| {
            let tell = self.rules.has(Rule::TellBeforeServing) && !state.gone(holder);
            (tell && !view.has(holder)).then_some(holder)
        };
        let reign = Reign {
            view,
            stored: relay.held?.log.len(),
            change: None,
            untold: claim.view.holders().map(left_out),
        };
        self.write(
            state,
            Record {
                ballot: ballot.max(claim.ballot),
                view,
            },
        );
        let relay = &mut state.relays[usize::from(node)];
        relay.role = Role::Owning(reign);
        relay.known = Some(view);
        Some(())
    }

    // The directory.

    fn write(&self, state: &mut State, record: Record) {
        if state.past.losses < self.bounds.losses && !self.bounds.replica_lags {
            state.replica = Some(state.record);
        }
        state.record = record;
    }

    fn replicate(&self, state: &mut State) -> Option<()> {
        self.bounds
            .replica_lags
            .then(|| state.replica = Some(state.record))
    }

    fn lose(&self, state: &mut State) -> Option<()> {
        state.record = state.replica?;
        state.past.losses += 1;
        if state.past.losses == self.bounds.losses {
            state.replica = None;
        }
        Some(())
    }

    /// The epoch given out by the `claims`-th claim.
    fn epoch_after(&self, stored: Epoch, claims: u8) -> Epoch {
        if !self.rules.has(Rule::UniqueEpochs) {
            Epoch(stored.0 + 1)
        } else if self.bounds.clock_steps_back {
            // A number of which nothing is known but that it is above the stored one, and a nonce that
            // makes it the lower one of two equal numbers.
            Epoch((stored.0 / 8 + 1) * 8 + 7 - claims)
        } else {
            Epoch(1 + claims)
        }
    }
}

impl Reign {
    /// The view that is asked for.
    fn next_view(&self) -> Option<View> {
        let coming = self.change.filter(|change| change.way == Way::In)?;
        Some(View {
            turn: self.view.turn + 1,
            standby: coming.standby,
            ..self.view
        })
    }
}

fn owning(relays: &mut [Relay], node: u8) -> Option<(&mut Reign, &mut Held)> {
    let relay = &mut relays[usize::from(node)];
    match &mut relay.role {
        Role::Owning(reign) => Some((reign, relay.held.as_mut()?)),
        Role::Idle | Role::Claiming(_) => None,
    }
}

fn claiming(relays: &mut [Relay], node: u8) -> Option<Claim> {
    match relays[usize::from(node)].role {
        Role::Claiming(claim) => Some(claim),
        Role::Idle | Role::Owning(_) => None,
    }
}

/// Makes a holder of `node`, unless it has promised more or nobody counts on it.
fn give(state: &mut State, node: u8, held: Held) -> Option<()> {
    let relay = &mut state.relays[usize::from(node)];
    if relay.promised > held.epoch || relay.lapsed {
        return None;
    }
    relay.promised = held.epoch;
    relay.held = Some(held);
    relay.role = Role::Idle;
    Some(())
}

fn tell(state: &mut State, owner: u8, node: u8) -> Option<()> {
    let view = owning(&mut state.relays, owner)?.0.view;
    let holder = state.holder(node);
    let relay = &mut state.relays[usize::from(node)];
    if relay.promised > view.epoch {
        // Its answer names the higher epoch, so that the owner knows that its time is over.
        state.relays[usize::from(owner)].role = Role::Idle;
        return Some(());
    }
    relay.promised = view.epoch;
    relay.held = None;
    relay.known = Some(view);
    relay.role = Role::Idle;
    let (reign, _) = owning(&mut state.relays, owner)?;
    for untold in &mut reign.untold {
        *untold = untold.filter(|untold| *untold != holder);
    }
    reign.change = reign.change.filter(|change| change.standby != holder);
    Some(())
}

fn promise(state: &mut State, node: u8, member: u8) -> Option<()> {
    let ballot = claiming(&mut state.relays, node)?.ballot;
    let member = &mut state.members[usize::from(member)];
    (member.promised < ballot).then(|| member.promised = ballot)
}

fn restart(state: &mut State, node: u8) -> Option<()> {
    let relay = &mut state.relays[usize::from(node)];
    *relay = Relay {
        boot: relay.boot + 1,
        lapsed: false,
        promised: Epoch::default(),
        held: None,
        known: None,
        role: Role::Idle,
    };
    Some(())
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Order { owner, mid } => write!(f, "{} orders m{mid}", name(owner)),
            Self::Store { owner } => write!(f, "{}'s standby stores", name(owner)),
            Self::StoreAside { owner } => write!(f, "{}'s other standby stores", name(owner)),
            Self::Deliver { owner, member } => write!(f, "member {member} hears {}", name(owner)),
            Self::Replace { owner, standby } => {
                write!(f, "{} asks for {} as standby", name(owner), name(standby))
            }
            Self::Replaced { owner } => {
                write!(f, "the directory takes {}'s new standby", name(owner))
            }
            Self::Learn { owner } => write!(f, "{} learns that", name(owner)),
            Self::Tell { owner, node } => write!(f, "{} tells {}", name(owner), name(node)),
            Self::Reassert { owner } => write!(f, "{} re-asserts its view", name(owner)),
            Self::Raise { node } => write!(f, "{} raises the ballot", name(node)),
            Self::Seal { node, holder } => write!(f, "{} seals {}", name(node), name(holder)),
            Self::Promise { node, member } => {
                write!(f, "member {member} promises to {}", name(node))
            }
            Self::Rebuild { node } => write!(f, "{} rebuilds from all tails", name(node)),
            Self::RebuildFromSome { node } => write!(f, "{} rebuilds from some tails", name(node)),
            Self::Stage { node, standby } => {
                write!(f, "{} and {} store the log", name(node), name(standby))
            }
            Self::Install { node } => write!(f, "{} installs its view", name(node)),
            Self::Crash { node } => write!(f, "{} crashes", name(node)),
            Self::Lapse { node } => write!(f, "{}'s lease ends, unnoticed", name(node)),
            Self::Return { node } => write!(f, "{} notices, and starts anew", name(node)),
            Self::Lose => f.write_str("the directory falls back"),
            Self::Replicate => f.write_str("the directory's replica catches up"),
        }
    }
}

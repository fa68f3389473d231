//! What there is: the directory's record, the relays' memory, the members' tails.
//!
//! Everything is small and `Copy`, because millions of these are made; what differs only by the names of
//! relays, members or messages is one state: [`State::representative`].

use std::fmt;

use stateright::Representative;

/// Relays that a model can have.
pub const RELAYS_MAX: usize = 4;
/// Members that a model can have.
pub const MEMBERS_MAX: usize = 3;
/// Messages that a model can have, and so the entries of a log.
pub const MESSAGES_MAX: usize = 4;

/// Names a reign. Higher is newer.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u8);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// A message under the epoch in which it was ordered; its index is its place in the log.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry {
    pub epoch: Epoch,
    /// From 1; each message has a sender of its own, so that any order of them is possible.
    pub mid: u8,
}

/// Entries from index 0.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    len: u8,
    entries: [Entry; MESSAGES_MAX],
}

impl Log {
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    #[must_use]
    pub const fn len(&self) -> u8 {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn has(&self, mid: u8) -> bool {
        self.entries().iter().any(|entry| entry.mid == mid)
    }

    #[must_use]
    pub fn extends(&self, other: &Self) -> bool {
        self.entries().starts_with(other.entries())
    }

    /// Whether one of the two extends the other.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.extends(other) || other.extends(self)
    }

    /// The first `len` entries.
    #[must_use]
    pub fn first(&self, len: u8) -> Self {
        let mut entries = [Entry::default(); MESSAGES_MAX];
        let kept = usize::from(len.min(self.len));
        entries[..kept].copy_from_slice(&self.entries[..kept]);
        Self {
            len: len.min(self.len),
            entries,
        }
    }

    /// What both begin with.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let pairs = self.entries().iter().zip(other.entries());
        let len = pairs.take_while(|(a, b)| a == b).count();
        self.first(u8::try_from(len).unwrap_or(self.len))
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    fn rename(&mut self, names: &mut Names) {
        for entry in &mut self.entries[..usize::from(self.len)] {
            entry.mid = names.of(entry.mid);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.entries()
                    .iter()
                    .map(|e| format!("m{}@{:?}", e.mid, e.epoch)),
            )
            .finish()
    }
}

/// A relay in one of its runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    pub node: u8,
    pub boot: u8,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", name(self.node))?;
        (0..self.boot).try_for_each(|_| write!(f, "'"))
    }
}

/// `A`, `B`, `C`, …
#[must_use]
pub fn name(node: u8) -> char {
    char::from(b'A' + node)
}

/// Who holds a session's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    pub epoch: Epoch,
    /// Counts the standbys under this epoch.
    pub turn: u8,
    pub owner: Holder,
    pub standby: Holder,
}

impl View {
    #[must_use]
    pub fn holders(&self) -> [Holder; 2] {
        [self.owner, self.standby]
    }

    #[must_use]
    pub fn has(&self, holder: Holder) -> bool {
        self.holders().contains(&holder)
    }

    #[must_use]
    pub const fn number(&self) -> (Epoch, u8) {
        (self.epoch, self.turn)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            epoch,
            turn,
            owner,
            standby,
        } = self;
        write!(f, "{epoch:?}.{turn}({owner:?},{standby:?})")
    }
}

/// What the directory stores of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    pub ballot: Epoch,
    pub view: View,
}

/// A log as it was held under an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    pub epoch: Epoch,
    pub log: Log,
}

/// A relay's memory of the session. A crash empties it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relay {
    pub boot: u8,
    /// The directory has dropped its lease, and others count it as gone. It may not have noticed.
    pub lapsed: bool,
    /// It refuses whatever is of a lower epoch.
    pub promised: Epoch,
    pub held: Option<Held>,
    /// The newest installed view that it has heard of.
    pub known: Option<View>,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A standby, or nothing.
    Idle,
    Claiming(Claim),
    /// It believes that it owns the session.
    Owning(Reign),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub ballot: Epoch,
    /// Whose holders are asked.
    pub view: View,
    pub best: Option<Held>,
    /// Stores the best log.
    pub standby: Option<Holder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reign {
    pub view: View,
    /// Entries that the view's standby acknowledged.
    pub stored: u8,
    pub change: Option<Change>,
    /// Holders of the view before, which do not know of this one yet. It serves once there are none.
    pub untold: [Option<Holder>; 2],
}

/// A standby on its way in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    pub standby: Holder,
    /// Entries that it acknowledged.
    pub stored: u8,
    pub way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The compare-and-set is sent, the answer not seen.
    In,
    /// The directory names another; this one has not been told.
    Out,
}

/// What a member's game has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// It refuses whatever is of a lower epoch.
    pub promised: Epoch,
    /// The newest epoch that it delivered from.
    pub epoch: Epoch,
    pub log: Log,
    /// It was told to undo what it had delivered.
    pub diverged: bool,
    /// It took something of an epoch lower than one it had delivered from.
    pub fell: bool,
}

/// What has been used up of the bounds, and what has happened on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Past {
    pub claims: u8,
    pub crashes: u8,
    pub lapses: u8,
    pub replacements: u8,
    pub losses: u8,
    pub rebuilt: Rebuilt,
}

/// Whether a log has been put together from members' tails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rebuilt {
    #[default]
    Never,
    /// Every listed member had promised.
    FromAll,
    /// The wait for the others was over.
    FromSome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub record: Record,
    /// What a failover would bring back, while one may happen.
    pub replica: Option<Record>,
    pub relays: [Relay; RELAYS_MAX],
    pub members: [Member; MEMBERS_MAX],
    pub past: Past,
}

impl State {
    /// That run has ended, and its memory is lost.
    #[must_use]
    pub fn crashed(&self, holder: Holder) -> bool {
        self.relays[usize::from(holder.node)].boot != holder.boot
    }

    /// Nobody waits for that run any more.
    #[must_use]
    pub fn gone(&self, holder: Holder) -> bool {
        self.crashed(holder) || self.relays[usize::from(holder.node)].lapsed
    }

    #[must_use]
    pub fn holder(&self, node: u8) -> Holder {
        Holder {
            node,
            boot: self.relays[usize::from(node)].boot,
        }
    }

    /// The owners by their own belief, whether they serve yet or not.
    pub fn owners(&self) -> impl Iterator<Item = (Reign, Log)> + '_ {
        self.relays.iter().filter_map(|relay| match relay.role {
            Role::Owning(reign) => Some((reign, relay.held?.log)),
            Role::Idle | Role::Claiming(_) => None,
        })
    }

    /// Every log there is.
    pub fn logs(&self) -> impl Iterator<Item = &Log> {
        let relays = self.relays.iter().flat_map(|relay| {
            let best = match &relay.role {
                Role::Claiming(claim) => claim.best.as_ref(),
                Role::Idle | Role::Owning(_) => None,
            };
            relay.held.iter().chain(best).map(|held| &held.log)
        });
        relays.chain(self.members.iter().map(|member| &member.log))
    }

    /// Whether every holder that `reign` left out knows of it, or is gone.
    #[must_use]
    pub fn serves(&self, reign: &Reign) -> bool {
        reign
            .untold
            .iter()
            .flatten()
            .all(|holder| self.gone(*holder))
    }

    fn each_holder(&mut self, change: impl Fn(&mut Holder)) {
        fn in_view(view: &mut View, change: &impl Fn(&mut Holder)) {
            change(&mut view.owner);
            change(&mut view.standby);
        }
        in_view(&mut self.record.view, &change);
        if let Some(replica) = &mut self.replica {
            in_view(&mut replica.view, &change);
        }
        for relay in &mut self.relays {
            if let Some(view) = &mut relay.known {
                in_view(view, &change);
            }
            match &mut relay.role {
                Role::Idle => {}
                Role::Claiming(claim) => {
                    in_view(&mut claim.view, &change);
                    claim.standby.iter_mut().for_each(&change);
                }
                Role::Owning(reign) => {
                    in_view(&mut reign.view, &change);
                    reign.untold.iter_mut().flatten().for_each(&change);
                    reign
                        .change
                        .iter_mut()
                        .for_each(|on_its_way| change(&mut on_its_way.standby));
                }
            }
        }
    }

    fn name_relays(&mut self) {
        let view = self.record.view;
        let rank = |node: u8| match node {
            node if node == view.owner.node => (0, None),
            node if node == view.standby.node => (1, None),
            node => (2, Some(self.relays[usize::from(node)])),
        };
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(|node| rank(*node));
        let relays = order.map(|node: u8| self.relays[usize::from(node)]);
        let mut names = [0; RELAYS_MAX];
        for (name, node) in (0..).zip(order) {
            names[usize::from(node)] = name;
        }
        self.relays = relays;
        self.each_holder(|holder| holder.node = names[usize::from(holder.node)]);
    }

    fn name_messages(&mut self) {
        let mut names = Names::default();
        for relay in &mut self.relays {
            relay
                .held
                .iter_mut()
                .for_each(|held| held.log.rename(&mut names));
            if let Role::Claiming(Claim {
                best: Some(best), ..
            }) = &mut relay.role
            {
                best.log.rename(&mut names);
            }
        }
        for member in &mut self.members {
            member.log.rename(&mut names);
        }
    }
}

impl Representative for State {
    /// One of the states that differ from this one only by names. The last member keeps its place: it
    /// alone may be unlisted.
    fn representative(&self) -> Self {
        let mut state = *self;
        state.name_relays();
        state.members[..MEMBERS_MAX - 1].sort();
        state.name_messages();
        state
    }
}

/// Messages named in the order in which they are met.
#[derive(Default)]
struct Names {
    of: [u8; MESSAGES_MAX + 1],
    given: u8,
}

impl Names {
    fn of(&mut self, mid: u8) -> u8 {
        let name = &mut self.of[usize::from(mid)];
        if *name == 0 {
            self.given += 1;
            *name = self.given;
        }
        *name
    }
}

//! Checks every order of events that can befall a session's owner, standby and members.
//!
//! ```text
//!                 record: ballot, view (epoch, owner, standby)
//!                    directory ───────────▶ its replica, which may take its place
//!             compare-and-set ▲
//!                             │
//!   relay A: owner ──store──▶ relay B: standby        relay C: claimant
//!        │                          ▲                   │ 1 read the record, raise the ballot
//!        │ deliver what B stored    └───────────────────┤ 2 seal A and B: best log
//!        ▼                                              │ 3 a new standby stores it
//!   members ◀───── 2' their tails, if A and B are gone ─┘ 4 install the view, 5 tell whom it leaves out
//! ```
//!
//! * [`state`]: what there is, [`actions`]: what can happen next, [`rules`]: what keeps it in order,
//! * [`properties`]: what must always hold, [`check`]: runs of the checker.
//!
//! ```text
//! cargo test -p dreamcatcher-model -- --nocapture              small bounds; every rule taken away once
//! cargo run -p dreamcatcher-model --release -- --help          any bounds
//! ```
//!
//! What is kept: one relay crashes, or one is paused past its lease, and the directory forgets its last
//! writes; or two relays crash, and what a listed member delivered survives. What is not: a crash, a
//! pause past the lease and a forgetful directory at once (`--crashes 1 --lapses 1 --losses 1`).
//!
//! A message that is late is an action that comes late: whatever is sent may be acted on at any time, or
//! never, and both ends are judged then. No relay notices that its lease is over. A crash empties a
//! relay's memory; it is back at once under a new boot id. Not modelled: `standby: none`, handover,
//! changes of the listed members, the grade Fast.

use stateright::{Model, Property};

pub mod actions;
pub mod check;
pub mod properties;
pub mod rules;
pub mod state;

pub use actions::Action;
pub use rules::{Rule, Rules};
pub use state::State;

use state::{
    Epoch, Held, Holder, Log, MEMBERS_MAX, Member, Past, RELAYS_MAX, Rebuilt, Record, Reign, Relay,
    Role, View,
};

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// 3–[`RELAYS_MAX`].
    pub relays: u8,
    /// Members whose tails count: 1–[`MEMBERS_MAX`], one less with an unlisted one.
    pub listed: u8,
    /// One more member, that is not listed yet.
    pub unlisted: bool,
    /// 1–[`state::MESSAGES_MAX`], each with a sender of its own.
    pub messages: u8,
    pub claims: u8,
    pub crashes: u8,
    /// Relays whose lease ends while they run on.
    pub lapses: u8,
    /// Times that an owner takes another standby.
    pub replacements: u8,
    /// Times that the directory falls back to its replica.
    pub losses: u8,
    /// The replica follows when it likes, instead of being one write behind.
    pub replica_lags: bool,
    /// A new epoch is only known to be above the stored ballot, and to have another nonce.
    pub clock_steps_back: bool,
    pub tails: Tails,
}

impl Bounds {
    /// One owner, one standby, one other relay, two listed members; nothing goes wrong.
    #[must_use]
    pub const fn calm(messages: u8) -> Self {
        Self {
            relays: 3,
            listed: 2,
            unlisted: false,
            messages,
            claims: 0,
            crashes: 0,
            lapses: 0,
            replacements: 0,
            losses: 0,
            replica_lags: false,
            clock_steps_back: false,
            tails: Tails::Never,
        }
    }
}

/// When a log may be rebuilt from members' tails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tails {
    Never,
    /// Owner and standby are known to have lost their memory.
    HoldersGone,
    /// Owner and standby do not answer.
    HoldersSilent,
    /// As `HoldersGone`; and listed members that do not promise in time are not waited for.
    HoldersGoneAndMembersToo,
}

impl Tails {
    pub(crate) const fn may(self, holders_gone: bool, from: Rebuilt) -> bool {
        match self {
            Self::Never => false,
            Self::HoldersGone => holders_gone && matches!(from, Rebuilt::FromAll),
            Self::HoldersSilent => matches!(from, Rebuilt::FromAll),
            Self::HoldersGoneAndMembersToo => holders_gone,
        }
    }
}

/// One session, under these rules and within these bounds.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub rules: Rules,
    pub bounds: Bounds,
}

impl Session {
    pub(crate) fn listed(&self) -> impl Iterator<Item = u8> + Clone {
        0..self.bounds.listed
    }

    /// The unlisted one is the last that there can be.
    pub(crate) fn members(&self) -> impl Iterator<Item = u8> + Clone {
        let unlisted = self.bounds.unlisted.then_some(2);
        self.listed().chain(unlisted)
    }

    pub(crate) fn can_rebuild(&self) -> bool {
        match self.bounds.tails {
            Tails::Never => false,
            Tails::HoldersSilent => true,
            Tails::HoldersGone | Tails::HoldersGoneAndMembersToo => self.bounds.crashes > 1,
        }
    }

    fn start(&self) -> State {
        let epoch = Epoch(if self.bounds.clock_steps_back { 15 } else { 1 });
        let [owner, standby] = [0, 1].map(|node| Holder { node, boot: 0 });
        let view = View {
            epoch,
            turn: 0,
            owner,
            standby,
        };
        let log = Log::default();
        let idle = Relay {
            boot: 0,
            promised: Epoch::default(),
            held: None,
            lapsed: false,
            known: None,
            role: Role::Idle,
        };
        let holds = Relay {
            promised: epoch,
            held: Some(Held { epoch, log }),
            ..idle
        };
        let owns = Relay {
            role: Role::Owning(Reign {
                view,
                stored: 0,
                change: None,
                untold: [None; 2],
            }),
            ..holds
        };
        let member = Member {
            promised: epoch,
            epoch,
            log,
            diverged: false,
            fell: false,
        };
        let record = Record {
            ballot: epoch,
            view,
        };
        let mut relays = [idle; RELAYS_MAX];
        (relays[0], relays[1]) = (owns, holds);
        State {
            record,
            replica: (self.bounds.losses > 0).then_some(record),
            relays,
            members: [member; MEMBERS_MAX],
            past: Past::default(),
        }
    }
}

impl Model for Session {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.candidates(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = properties::all();
        properties.extend(properties::seen(self));
        properties
    }
}

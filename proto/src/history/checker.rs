//! Judges a [`History`]: pure, a few linear scans for each session, one for each [`Invariant`].
//!
//! ```text
//!   History ─ by session ─▶ Case: seats, messages, one order ─┬─ delivery, order, outcome ─▶ Findings
//!   relays, faults ───────────────────────────────────────────┴─ owners, healing ──────────▶    │
//!                                                                                   Report ◀────┘
//! ```
//!
//! The places that all members tell of give the one order of each session. What cannot be judged,
//! because nobody recorded it, is said and not guessed.

mod case;
mod delivery;
mod healing;
mod order;
mod outcome;
mod owners;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::fact::{Fact, FaultKind, Mark, RelayFact};
use super::{History, Log, Site};
use crate::id::SessionId;
use case::Case;

/// Violations of one invariant that are kept; more are counted.
pub const VIOLATIONS_MAX: usize = 1_000;
/// Reasons why one invariant was not checked somewhere that are kept; more are counted.
pub const REASONS_MAX: usize = 20;

macro_rules! invariants {
    ($($name:ident $id:literal $short:literal $guarantee:literal $sentence:literal;)*) => {
        /// A promise that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $(
                #[doc = $sentence]
                #[doc = ""]
                #[doc = concat!("Stands for ", $guarantee, ".")]
                $name,
            )*
        }

        impl Invariant {
            /// In the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its number, which stays.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)*
                }
            }

            /// In a few words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $short,)*
                }
            }

            /// The guarantee that it stands for.
            #[must_use]
            pub const fn guarantee(self) -> &'static str {
                match self {
                    $(Self::$name => $guarantee,)*
                }
            }

            /// What it says.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $sentence,)*
                }
            }
        }
    };
}

invariants! {
    OneOrder "I1" "one order" "G1, total order"
        "The same index holds the same message for all members, and a message has one index.";
    Contiguous "I2" "contiguous" "G1, total order"
        "A member's indexes rise, and every index from where it joined to where it stands is accounted for.";
    Once "I3" "once" "G2, exactly once"
        "No Ordered or Reliable message is delivered twice to a member, across reconnects and rejoins.";
    AsSent "I4" "as sent" "G7, isolation, and the sender stamped by the relay"
        "What is delivered was sent, by that member, in that mode, to that session and that receiver, unaltered.";
    Complete "I5" "complete" "G2, exactly once"
        "What has a place in the order is delivered to every member that it was sent to and that was there.";
    SenderOrder "I6" "sender order" "G3, sender FIFO without holes"
        "A sender's Ordered and Reliable messages keep its order, and no Ordered one is left out.";
    Causality "I7" "causality" "G4, causality"
        "What is sent after index i was delivered is ordered after i.";
    Epochs "I8" "epochs" "G6, fencing"
        "The epochs of what a member is delivered never fall.";
    OneBoot "I9" "one boot" "G6, fencing"
        "All entries of one epoch are ordered by one run of one relay.";
    Sealed "I10" "sealed" "G6, fencing"
        "Nothing that a sealed owner ordered counts, outside of the prefix that its successor recovered.";
    Committed "I11" "committed" "G2, exactly once"
        "The committed index never falls: neither for a member, nor when another relay takes over.";
    Entitled "I12" "entitled" "G7, isolation"
        "A member is delivered to from when it joined until its session ended for it, it left or it was removed.";
    NoResync "I13" "no resync" "G5, nothing is lost silently"
        "Where one relay crashed and no more, nobody loses continuity.";
    Healed "I14" "healed" "G9, bounded recovery"
        "5 s after the last fault healed every member has what had its place before, and its sends have an outcome; at rest all stand at the same index.";
    Rejected "I15" "rejected" "G5, nothing is lost silently"
        "What was rejected is never delivered.";
    Resolved "I16" "resolved" "G5, nothing is lost silently"
        "Each Ordered message is committed or rejected, once.";
    Newest "I17" "newest" "the delivery mode Latest"
        "A Latest message is newer than all of its sender and key before.";
    Announced "I18" "announced" "the delivery mode Reliable"
        "A Reliable message is missing only where that was said.";
    Terminal "I19" "terminal" "G5, nothing is lost silently"
        "A session has one terminal event for each member, and it is the last.";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id(), self.name())
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    /// `None` if it is about a run and not a session.
    pub session: Option<SessionId>,
    /// To whom, or by whom.
    pub party: String,
    /// When, since the history began, if there is an instant.
    pub at: Option<Duration>,
    pub what: String,
    /// The fact that breaks it, if it is one.
    pub here: Option<Site>,
    /// The fact that it contradicts.
    pub there: Option<Site>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.party)?;
        if let Some(at) = self.at {
            write!(f, " at {:.6} s", at.as_secs_f64())?;
        }
        write!(f, ": {}", self.what)?;
        match (&self.here, &self.there) {
            (Some(here), Some(there)) => write!(f, " ({here}, against {there})"),
            (Some(site), None) | (None, Some(site)) => write!(f, " ({site})"),
            (None, None) => Ok(()),
        }
    }
}

/// What is known of one invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub invariant: Invariant,
    /// In how many sessions it was checked.
    pub checked: usize,
    /// In how many it was not, or not in full.
    pub unchecked: usize,
    /// Why not: the first few reasons.
    pub reasons: BTreeSet<String>,
    /// How often it is broken.
    pub broken: usize,
    /// The first of those.
    pub violations: Vec<Violation>,
}

/// What can be said of an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds wherever it was checked.
    Kept,
    /// Nobody recorded what it takes.
    NotChecked,
    Broken,
}

impl Finding {
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match (self.broken, self.checked) {
            (1.., _) => Verdict::Broken,
            (0, 0) => Verdict::NotChecked,
            (0, 1..) => Verdict::Kept,
        }
    }
}

/// A fault that was marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub target: String,
    pub from: Duration,
    /// `None` if it was not healed, or has no end.
    pub until: Option<Duration>,
}

/// What a history comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub sessions: usize,
    /// Lives of members in sessions.
    pub members: usize,
    /// Ordered messages with a place that anybody knows.
    pub entries: usize,
    /// Messages that reached an application, in all modes.
    pub deliveries: usize,
    /// Runs of relays that were recorded.
    pub relays: usize,
    /// Times that a member lost its connection.
    pub reconnects: usize,
    /// Times that a member lost continuity, and was told so.
    pub resyncs: usize,
    /// Recordings that end before what they record did.
    pub incomplete: usize,
    pub faults: Vec<Fault>,
    /// One for each invariant, in their order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What is known of one invariant.
    #[must_use]
    pub fn finding(&self, invariant: Invariant) -> &Finding {
        &self.findings[invariant as usize]
    }

    /// The violations that were kept, by invariant.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.findings.iter().flat_map(|finding| &finding.violations)
    }

    /// Whether no invariant is broken.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.findings.iter().all(|finding| finding.broken == 0)
    }
}

/// Everything that was found so far.
#[derive(Debug)]
struct Findings(Vec<Finding>);

impl Findings {
    fn new() -> Self {
        let all = Invariant::ALL.iter().map(|&invariant| Finding {
            invariant,
            checked: 0,
            unchecked: 0,
            reasons: BTreeSet::new(),
            broken: 0,
            violations: Vec::new(),
        });
        Self(all.collect())
    }

    fn checked(&mut self, invariant: Invariant) {
        self.0[invariant as usize].checked += 1;
    }

    fn unchecked(&mut self, invariant: Invariant, reason: String) {
        let finding = &mut self.0[invariant as usize];
        finding.unchecked += 1;
        if finding.reasons.len() < REASONS_MAX {
            finding.reasons.insert(reason);
        }
    }

    fn broken(&mut self, violation: Violation) {
        let finding = &mut self.0[violation.invariant as usize];
        finding.broken += 1;
        if finding.violations.len() < VIOLATIONS_MAX {
            finding.violations.push(violation);
        }
    }
}

/// What was recorded of one session.
#[derive(Debug, Default)]
struct Recorded<'a> {
    members: Vec<&'a Log<Fact>>,
    /// Of relays that name the session.
    relays: Vec<&'a Log<RelayFact>>,
}

/// Judges a history.
#[must_use]
pub fn check(history: &History) -> Report {
    check_each(history, |_, _| {})
}

/// Judges a history, and tells before each session how many were judged, and of how many.
pub fn check_each(history: &History, mut progress: impl FnMut(usize, usize)) -> Report {
    let mut sessions: BTreeMap<SessionId, Recorded<'_>> = BTreeMap::new();
    for log in &history.members {
        if let Some(seat) = log.seat() {
            let recorded = sessions.entry(seat.session).or_default();
            recorded.members.push(log);
        }
    }
    for log in &history.relays {
        let named: BTreeSet<SessionId> =
            log.facts.iter().filter_map(|(_, f)| f.session()).collect();
        for session in named {
            if let Some(recorded) = sessions.get_mut(&session) {
                recorded.relays.push(log);
            }
        }
    }
    let faults = faults(history);
    let mut findings = Findings::new();
    let (mut members, mut entries) = (0, 0);
    let count = sessions.len();
    for (done, (session, recorded)) in sessions.into_iter().enumerate() {
        progress(done, count);
        members += recorded.members.len();
        let mut case = Case::open(session, &recorded, history, &faults, &mut findings);
        case.judge();
        entries += case.entries();
    }
    let facts = || history.members.iter().flat_map(|log| &log.facts);
    let counted = |is: fn(&Fact) -> bool| facts().filter(|(_, fact)| is(fact)).count();
    let cut = history.members.iter().filter(|log| !log.is_whole()).count()
        + history.relays.iter().filter(|log| log.is_cut).count()
        + history.faults.iter().filter(|log| log.is_cut).count();
    Report {
        sessions: count,
        members,
        entries,
        deliveries: counted(|fact| matches!(fact, Fact::Delivered(_))),
        relays: history.relays.len(),
        reconnects: counted(|fact| matches!(fact, Fact::Reconnecting)),
        resyncs: counted(|fact| matches!(fact, Fact::Resync { .. })),
        incomplete: cut,
        faults,
        findings: findings.0,
    }
}

/// The faults that were marked, in the order in which they began.
fn faults(history: &History) -> Vec<Fault> {
    let mut faults = Vec::new();
    for log in &history.faults {
        let mut open = BTreeMap::new();
        for (at, mark) in &log.facts {
            match mark {
                Mark::Injected {
                    fault,
                    kind,
                    target,
                } => {
                    open.insert(*fault, faults.len());
                    faults.push(Fault {
                        kind: *kind,
                        target: target.clone(),
                        from: *at,
                        until: None,
                    });
                }
                Mark::Healed { fault } => {
                    if let Some(place) = open.remove(fault) {
                        faults[place].until = Some(*at);
                    }
                }
                Mark::Incomplete { .. } => {}
            }
        }
    }
    faults.sort_by_key(|fault| fault.from);
    faults
}

impl RelayFact {
    /// Which session it is about.
    #[must_use]
    pub const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Created { session, .. }
            | Self::TookOver { session, .. }
            | Self::Ordered { session, .. }
            | Self::Sealed { session, .. }
            | Self::HandedOver { session, .. } => Some(*session),
            Self::Incomplete { .. } => None,
        }
    }
}

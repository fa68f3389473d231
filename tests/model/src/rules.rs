//! The rules that keep the promise. Each can be taken away, and the checker must then break it.

use std::fmt;

/// One rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// An owner delivers only what its standby has stored.
    StoreBeforeDelivering,
    /// Who hands its log to a claimant refuses lower epochs from then on; an owner stops.
    SealBeforeReading,
    /// No two ballots are equal, even if the directory has forgotten one of them.
    UniqueEpochs,
    /// A member refuses what is of a lower epoch than it has promised or delivered from.
    MembersFence,
    /// A standby refuses to store for a lower epoch than it has promised.
    StandbyChecksEpoch,
    /// A view is installed only if the ballot still is the installer's.
    CompareBallot,
    /// A new standby holds the log before the directory names it.
    SyncBeforeInstalling,
    /// Only a holder of the view in force is asked for the log.
    AskOnlyHolders,
    /// While it is not known which of two standbys the directory names, both store before delivery.
    BothStoreInDoubt,
    /// Tails count once every listed member has promised, and only theirs.
    EveryListedMemberPromises,
    /// Each holder of the view in force answers a claim, unless it is gone.
    EveryHolderAnswers,
    /// A new view serves only when each holder of the view before that it leaves out knows of it, or
    /// is gone.
    TellBeforeServing,
    /// A holder that was left out names the view that took its place; a claimant asks that one's
    /// holders instead.
    FollowNewerViews,
    /// A newer tail is continued by an older one that agrees with it.
    ContinueNewestTail,
}

impl Rule {
    pub const ALL: [Self; 14] = [
        Self::StoreBeforeDelivering,
        Self::SealBeforeReading,
        Self::UniqueEpochs,
        Self::MembersFence,
        Self::StandbyChecksEpoch,
        Self::CompareBallot,
        Self::SyncBeforeInstalling,
        Self::AskOnlyHolders,
        Self::BothStoreInDoubt,
        Self::EveryListedMemberPromises,
        Self::EveryHolderAnswers,
        Self::TellBeforeServing,
        Self::FollowNewerViews,
        Self::ContinueNewestTail,
    ];

    /// As the command line has it.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|rule| format!("{rule:?}") == text)
    }
}

/// A set of rules.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rules(u16);

impl Rules {
    pub const ALL: Self = Self((1 << Rule::ALL.len()) - 1);
    /// One holder's answer is enough for a claim, and whom a new view leaves out need not know of it.
    pub const ONE_ANSWER: Self = Self::ALL
        .without(Rule::EveryHolderAnswers)
        .without(Rule::TellBeforeServing);

    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(1 << rule as u8))
    }

    #[must_use]
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u8 != 0
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = Rule::ALL.iter().filter(|rule| !self.has(**rule));
        f.write_str("all rules")?;
        missing
            .into_iter()
            .try_for_each(|rule| write!(f, " − {rule:?}"))
    }
}

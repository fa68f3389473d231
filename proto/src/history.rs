//! Recorded histories: what members and relays did and saw, and whether every promise was kept.
//!
//! ```text
//!   member, relay, experiment ─Fact─▶ Recorder ─▶ lines of JSON ─▶ Reading ─▶ Recording
//!                                                                                │ merge
//!              Report: each invariant kept, broken, or not checked ◀─ check ◀─ History
//! ```
//!
//! * [`fact`]: the facts; [`mod@line`]: their form in a file, written by a [`Recorder`] and read by a
//!   [`Reading`]; [`checker`]: the judge, one linear scan for each [`Invariant`].
//! * Nothing here opens a file or asks for the time: whoever records passes both in.
//!
//! The form is specified in `docs/histories.md`, which a test holds against this code.

pub mod checker;
pub mod fact;
pub mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{Incarnation, Index, PeerId, SessionId};

pub use checker::{Fault, Finding, Invariant, Report, Verdict, Violation, check, check_each};
pub use fact::{Cause, Change, Delivery, Digest, Fact, FaultKind, Kind, Mark, Recorded, RelayFact};
pub use line::{Facts, Header, Reading, Recorder, Recording, Unreadable};

/// The name of the format, in the first line of every file.
pub const FORMAT: &str = "dreamcatcher-history";
/// The version of the format.
pub const VERSION: u32 = 1;
/// Longest line of a file, its end not counted: a message to as many peers as can be named fits
/// three times.
pub const LINE_BYTES_MAX: usize = 4_096;
/// Largest file: a member of a busy session for some hours. Then the recording stops.
pub const FILE_BYTES_MAX: u64 = 268_435_456;
/// Facts of a whole history: some 2 GiB of memory.
pub const FACTS_MAX: usize = 20_000_000;
/// Longest name in a header or of what a fault was done to, in characters.
pub const NAME_CHARS_MAX: usize = 128;

/// Everything that one or more recorders wrote of the same time.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Of members: one log for each life, from the wish to join to the terminal event.
    pub members: Vec<Log<Fact>>,
    /// Of relays: one log for each run of a process.
    pub relays: Vec<Log<RelayFact>>,
    /// What an experiment did to the mesh.
    pub faults: Vec<Log<Mark>>,
}

/// What one party recorded, in the order in which it happened there.
#[derive(Clone, Debug)]
pub struct Log<F> {
    /// Of the party, for people.
    pub name: String,
    /// The file, or where else it is from.
    pub source: Arc<str>,
    /// The line of the first fact in it; the others follow, one a line.
    pub first_line: usize,
    /// The recording stopped before what is recorded did.
    pub is_cut: bool,
    /// Each with its time since the history began.
    pub facts: Vec<(Duration, F)>,
}

/// Where a fact stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub source: Arc<str>,
    pub line: usize,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl<F> Log<F> {
    /// Where the fact with this number stands.
    #[must_use]
    pub fn site(&self, number: usize) -> Site {
        Site {
            source: Arc::clone(&self.source),
            line: self.first_line + number,
        }
    }

    /// When the last fact was noted.
    #[must_use]
    pub fn until(&self) -> Duration {
        self.facts.last().map(|(at, _)| *at).unwrap_or_default()
    }
}

/// What a member became when it joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub session: SessionId,
    pub peer: PeerId,
    pub incarnation: Incarnation,
    /// The entries that follow have greater indexes.
    pub index: Index,
}

impl Log<Fact> {
    /// The seat that it took, if it joined.
    #[must_use]
    pub fn seat(&self) -> Option<Seat> {
        self.facts.iter().find_map(|(_, fact)| {
            if let Fact::Joined {
                session,
                peer,
                incarnation,
                index,
                ..
            } = *fact
            {
                Some(Seat {
                    session,
                    peer,
                    incarnation,
                    index,
                })
            } else {
                None
            }
        })
    }

    /// Whether it was recorded to its end: it stands, or its session has ended for it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let last = self
            .facts
            .iter()
            .rev()
            .find(|(_, fact)| !matches!(fact, Fact::Sent { .. }));
        let ended = matches!(
            last,
            Some((
                _,
                Fact::Standing { .. } | Fact::Ended { .. } | Fact::Refused { .. }
            ))
        );
        ended && !self.is_cut
    }
}

impl History {
    /// Puts recordings together. Their times are counted from the start of the earliest.
    ///
    /// # Errors
    /// The same life of a member was recorded twice, or there are more facts than [`FACTS_MAX`].
    pub fn merge(recordings: Vec<Recording>) -> Result<Self, Unreadable> {
        let starts = recordings
            .iter()
            .map(|recording| recording.header.started_unix_ms);
        let first = starts.min().unwrap_or_default();
        let mut history = Self::default();
        let mut facts = 0_usize;
        for recording in recordings {
            facts = facts.saturating_add(recording.facts.len());
            if facts > FACTS_MAX {
                let what = format!(
                    "with this file there are more than {FACTS_MAX} facts; verify fewer sessions at a time"
                );
                return Err(Unreadable::new(&recording.source, None, what));
            }
            history.add(recording, first);
        }
        history.each_life_once()?;
        Ok(history)
    }

    fn add(&mut self, recording: Recording, first_unix_ms: u64) {
        let Recording {
            source,
            header,
            facts,
            is_cut,
        } = recording;
        let shift = Duration::from_millis(header.started_unix_ms.saturating_sub(first_unix_ms));
        match facts {
            Facts::Member(facts) => self.members.extend(
                Log {
                    name: header.name,
                    source,
                    first_line: 2,
                    is_cut,
                    facts: shifted(facts, shift),
                }
                .into_lives(),
            ),
            Facts::Relay(facts) => self.relays.push(Log {
                name: header.name,
                source,
                first_line: 2,
                is_cut,
                facts: shifted(facts, shift),
            }),
            Facts::Faults(facts) => self.faults.push(Log {
                name: header.name,
                source,
                first_line: 2,
                is_cut,
                facts: shifted(facts, shift),
            }),
        }
    }

    fn each_life_once(&self) -> Result<(), Unreadable> {
        let mut lives = BTreeMap::new();
        for log in &self.members {
            let Some(seat) = log.seat() else { continue };
            let life = (seat.session, seat.peer, seat.incarnation);
            if let Some(other) = lives.insert(life, &log.source) {
                let Seat {
                    session,
                    peer,
                    incarnation,
                    ..
                } = seat;
                let what = format!(
                    "it holds life {incarnation} of peer {peer} in session {session}, and so does \
                     {other}; give each recording once"
                );
                return Err(Unreadable::new(&log.source, None, what));
            }
        }
        Ok(())
    }
}

fn shifted<F>(mut facts: Vec<(Duration, F)>, by: Duration) -> Vec<(Duration, F)> {
    for (at, _) in &mut facts {
        *at = at.saturating_add(by);
    }
    facts
}

impl Log<Fact> {
    /// One log for each life that a member's client had: it may join one session after the other.
    fn into_lives(self) -> Vec<Self> {
        let Self {
            name,
            source,
            first_line,
            is_cut,
            facts,
        } = self;
        let mut lives: Vec<Self> = Vec::new();
        let mut has_joined = false;
        for (number, (at, fact)) in facts.into_iter().enumerate() {
            let joins = matches!(fact, Fact::Joined { .. });
            let begins = joins || matches!(fact, Fact::Refused { .. });
            if lives.is_empty() || (begins && has_joined) {
                has_joined = false;
                let name = match lives.len() {
                    0 => name.clone(),
                    before => format!("{name}, life {}", before + 1),
                };
                lives.push(Self {
                    name,
                    source: Arc::clone(&source),
                    first_line: first_line + number,
                    is_cut: false,
                    facts: Vec::new(),
                });
            }
            has_joined |= joins;
            if let Some(life) = lives.last_mut() {
                life.facts.push((at, fact));
            }
        }
        if let Some(life) = lives.last_mut() {
            life.is_cut = is_cut;
        }
        lives
    }
}

//! What was found, step by step.

use std::fmt;
use std::time::Duration;

use dreamcatcher_client::auth::AuthUrl;
use serde::Serialize;

use super::{Verdict, milliseconds};
use crate::exit::Failure;
use crate::out;
use crate::table::{NO_DATA, counted};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    Ok,
    /// It works, and should be looked at.
    Warning,
    Failed,
    /// It could not be looked at.
    Skipped,
}

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    pub(super) step: &'static str,
    /// The relay that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<String>,
    pub(super) health: Health,
    #[serde(
        rename = "ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "in_ms"
    )]
    took: Option<Duration>,
    pub(super) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

fn in_ms<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    let us = time.unwrap_or_default().as_micros();
    to.serialize_f64(us as f64 / 1e3)
}

impl Finding {
    fn new(step: &'static str, health: Health, found: impl Into<String>) -> Self {
        Self {
            step,
            relay: None,
            health,
            took: None,
            found: found.into(),
            advice: None,
        }
    }

    pub(super) fn ok(step: &'static str, found: impl Into<String>) -> Self {
        Self::new(step, Health::Ok, found)
    }

    pub(super) fn skipped(step: &'static str, found: impl Into<String>) -> Self {
        Self::new(step, Health::Skipped, found)
    }

    pub(super) fn warning(
        step: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            advice: Some(advice.into()),
            ..Self::new(step, Health::Warning, found)
        }
    }

    pub(super) fn failed(
        step: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            health: Health::Failed,
            ..Self::warning(step, found, advice)
        }
    }

    pub(super) fn took(self, time: Duration) -> Self {
        Self {
            took: Some(time),
            ..self
        }
    }

    pub(super) fn of(self, relay: &str) -> Self {
        Self {
            relay: Some(relay.to_owned()),
            ..self
        }
    }
}

/// One line, and one more if there is something to do.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = match self.health {
            Health::Ok => "ok",
            Health::Warning => "warning",
            Health::Failed => "FAILED",
            Health::Skipped => NO_DATA,
        };
        let took = self.took.map(milliseconds).unwrap_or_default();
        let relay = self.relay.as_deref().unwrap_or_default();
        let (step, found) = (self.step, &self.found);
        write!(f, "{health:<8}{step:<8} {relay:<12} {took:>11}  {found}")?;
        match &self.advice {
            Some(advice) => write!(f, "\n        ▸ {advice}"),
            None => Ok(()),
        }
    }
}

/// All findings so far; each is shown when it is noted, unless they are wanted as JSON at the end.
#[derive(Debug)]
pub(super) struct Chart {
    json: bool,
    quiet: bool,
    findings: Vec<Finding>,
}

impl Chart {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            quiet: json,
            findings: Vec::new(),
        }
    }

    /// One that shows nothing.
    #[cfg(test)]
    pub(super) fn quiet() -> Self {
        Self {
            quiet: true,
            ..Self::new(false)
        }
    }

    pub(super) fn note(&mut self, finding: Finding) -> Result<(), Failure> {
        if !self.quiet {
            out::say_line(&finding)?;
        }
        self.findings.push(finding);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The last word.
    pub(super) fn conclude(&self, auth: &AuthUrl, verdict: &Verdict) -> Result<(), Failure> {
        if self.json {
            return out::say_line(self.json(auth, verdict));
        }
        match verdict {
            Verdict::CanPlay => out::say_line(format_args!("\n{}", self.good_news())),
            // The failure says it, on standard error.
            Verdict::CannotPlay(_) | Verdict::AuthIsAway(_) => Ok(()),
        }
    }

    pub(super) fn good_news(&self) -> String {
        let count = |health| {
            let all = self.findings.iter();
            all.filter(|finding| finding.health == health).count()
        };
        let (failures, warnings) = (count(Health::Failed), count(Health::Warning));
        let counted = |number: usize, thing| counted(number as u64, thing);
        match (failures, warnings) {
            (0, 0) => "A player can play.".to_owned(),
            (0, _) => format!("A player can play. See {}.", counted(warnings, "warning")),
            (_, 0) => format!(
                "A player can play, in spite of {}.",
                counted(failures, "failure")
            ),
            (_, _) => format!(
                "A player can play, in spite of {}. See {}.",
                counted(failures, "failure"),
                counted(warnings, "warning")
            ),
        }
    }

    pub(super) fn json(&self, auth: &AuthUrl, verdict: &Verdict) -> String {
        #[derive(Serialize)]
        struct Report<'a> {
            auth: String,
            can_play: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            why_not: Option<&'a str>,
            findings: &'a [Finding],
        }
        let report = Report {
            auth: auth.to_string(),
            can_play: *verdict == Verdict::CanPlay,
            why_not: match verdict {
                Verdict::CanPlay => None,
                Verdict::CannotPlay(why) | Verdict::AuthIsAway(why) => Some(why),
            },
            findings: &self.findings,
        };
        serde_json::to_string_pretty(&report).expect("text and numbers are always JSON")
    }
}

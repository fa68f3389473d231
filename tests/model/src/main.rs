//! The model at any bound: `cargo run -p dreamcatcher-model --release -- --help`.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use dreamcatcher_model::check::{Steps, explore_aloud, shortest};
use dreamcatcher_model::state::{MEMBERS_MAX, MESSAGES_MAX, RELAYS_MAX};
use dreamcatcher_model::{Bounds, Rule, Rules, Session, Tails};
use stateright::report::{ReportData, ReportDiscovery, Reporter};

const HELP: &str = "\
Checks every order of events that can befall a session, within bounds.

usage: dreamcatcher-model [OPTION]…

  --relays N         3 or 4 [3]
  --listed N         members whose tails count, 1 to 3 [2]
  --unlisted         one more member, that is not listed yet; at most 2 listed ones then
  --messages N       1 to 4 [2]
  --claims N         claims that are begun, 0 to 6 [2]
  --crashes N        relays that lose their memory [1]
  --lapses N         relays whose lease ends while they run on [0]
  --replacements N   standbys that owners replace [1]
  --losses N         times that the directory falls back to its replica [0]
  --replica-lags     the replica is any number of writes behind, not one
  --clock-back       epochs are only above the stored ballot, not above all that were given out
  --tails WHEN       never, gone, silent, some: when members' tails may rebuild the log [never]
  --without RULE     leave out a rule; may be repeated
  --shortest         then look for the shortest way to break what is broken
  --help

Rules: ";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}{:?}", Rule::ALL);
        return ExitCode::SUCCESS;
    }
    match parse(&arguments) {
        Ok((session, find_shortest)) => run(session, find_shortest),
        Err(error) => {
            eprintln!("{error}; see --help");
            ExitCode::from(2)
        }
    }
}

fn run(session: Session, find_shortest: bool) -> ExitCode {
    let outcome = explore_aloud(
        session,
        &mut Progress {
            said: Duration::ZERO,
        },
    );
    print!("{outcome}");
    if find_shortest {
        for promise in outcome.broken.keys() {
            let path = shortest(session, promise).unwrap_or_default();
            println!("the shortest way to break {promise}:\n{}", Steps(&path));
        }
    }
    if outcome.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(arguments: &[String]) -> Result<(Session, bool), String> {
    let mut rules = Rules::ALL;
    let mut find_shortest = false;
    let mut bounds = Bounds {
        claims: 2,
        crashes: 1,
        replacements: 1,
        ..Bounds::calm(2)
    };
    let mut arguments = arguments.iter();
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{option} wants a value"));
        let mut number = |least: u8, most: u8| {
            let text = value()?;
            let number = text.parse().ok().filter(|n| (least..=most).contains(n));
            number.ok_or(format!("{option} must be {least} to {most}, not {text}"))
        };
        let top = |max: usize| u8::try_from(max).unwrap_or(u8::MAX);
        match option.as_str() {
            "--relays" => bounds.relays = number(3, top(RELAYS_MAX))?,
            "--listed" => bounds.listed = number(1, top(MEMBERS_MAX))?,
            "--unlisted" => bounds.unlisted = true,
            "--messages" => bounds.messages = number(1, top(MESSAGES_MAX))?,
            "--claims" => bounds.claims = number(0, 6)?,
            "--crashes" => bounds.crashes = number(0, 6)?,
            "--lapses" => bounds.lapses = number(0, 6)?,
            "--replacements" => bounds.replacements = number(0, 6)?,
            "--losses" => bounds.losses = number(0, 6)?,
            "--replica-lags" => bounds.replica_lags = true,
            "--clock-back" => bounds.clock_steps_back = true,
            "--shortest" => find_shortest = true,
            "--tails" => bounds.tails = tails(value()?)?,
            "--without" => {
                let text = value()?;
                let rule = Rule::named(text).ok_or(format!("there is no rule {text}"))?;
                rules = rules.without(rule);
            }
            unknown => return Err(format!("there is no option {unknown}")),
        }
    }
    if bounds.unlisted && usize::from(bounds.listed) == MEMBERS_MAX {
        return Err("--unlisted leaves room for 2 listed members".to_owned());
    }
    Ok((Session { rules, bounds }, find_shortest))
}

fn tails(text: &str) -> Result<Tails, String> {
    match text {
        "never" => Ok(Tails::Never),
        "gone" => Ok(Tails::HoldersGone),
        "silent" => Ok(Tails::HoldersSilent),
        "some" => Ok(Tails::HoldersGoneAndMembersToo),
        other => Err(format!(
            "--tails must be never, gone, silent or some, not {other}"
        )),
    }
}

/// A line every ten seconds.
struct Progress {
    said: Duration,
}

impl Reporter<Session> for Progress {
    fn report_checking(&mut self, data: ReportData) {
        let ReportData {
            unique_states,
            max_depth,
            duration,
            ..
        } = data;
        if duration >= self.said + Duration::from_secs(10) {
            self.said = duration;
            eprintln!("{unique_states} states, depth {max_depth}, {duration:.0?}");
        }
    }

    fn report_discoveries(
        &mut self,
        _: &Session,
        _: std::collections::BTreeMap<&'static str, ReportDiscovery<Session>>,
    ) where
        dreamcatcher_model::Action: fmt::Debug,
    {
        // The outcome names them.
    }
}

//! The command line of an example. What its usage lists is what it takes, so that the two agree:
//!
//! ```text
//!   --join CODE  join this session        a flag with a value: `--join CODE`, `--join=CODE`
//!   --register   make the account first   one without, and with the flag that it
//!                needs --user             needs, in the same line
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::process::exit;

/// The flags that were given, with their values; empty for those without.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments(BTreeMap<&'static str, String>);

/// A line of the usage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    name: &'static str,
    /// What its value is called.
    value: Option<&'static str>,
    needs: Option<&'static str>,
}

impl Arguments {
    /// Reads the command line. `--help` prints the usage and ends the process; so does, with status 2,
    /// what the usage does not know.
    pub(crate) fn read(usage: &'static str) -> Self {
        match parse(usage, std::env::args_os().skip(1)) {
            Ok(Some(arguments)) => arguments,
            Ok(None) => {
                // Whoever reads it may have seen enough.
                let _ = write!(std::io::stdout(), "{usage}");
                exit(0)
            }
            Err(cause) => refuse(&cause),
        }
    }

    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        self.0.get(flag).map(String::as_str)
    }
}

/// Says what is wrong with the command line, and ends the process as `dreamcatcher` does.
pub(crate) fn refuse(cause: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "error: {cause}; --help lists the flags");
    exit(2)
}

/// `None` where help is asked for.
fn parse(
    usage: &'static str,
    mut words: impl Iterator<Item = OsString>,
) -> Result<Option<Arguments>, String> {
    let mut given = BTreeMap::new();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&*word, None),
        };
        if matches!(name, "--help" | "-h") {
            return Ok(None);
        }
        let Some(flag) = flags(usage).find(|flag| flag.name == name) else {
            return Err(format!("unknown argument `{name}`"));
        };
        if let (None, Some(called)) = (&value, flag.value) {
            let next = words.next().and_then(|next| next.into_string().ok());
            let next = next.filter(|next| !next.starts_with("--"));
            value = Some(next.ok_or_else(|| format!("{name} lacks its {called}"))?);
        } else if value.is_some() && flag.value.is_none() {
            return Err(format!("{name} takes no value"));
        }
        if given.insert(flag, value.unwrap_or_default()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let names = given.keys().map(|flag| flag.name);
    let lacking = given.keys().find_map(|flag| {
        let needed = flag.needs?;
        let is_there = names.clone().any(|name| name == needed);
        (!is_there).then(|| format!("{} needs {needed}", flag.name))
    });
    match lacking {
        Some(cause) => Err(cause),
        None => Ok(Some(Arguments(
            given
                .into_iter()
                .map(|(flag, value)| (flag.name, value))
                .collect(),
        ))),
    }
}

fn flags(usage: &'static str) -> impl Iterator<Item = Flag> {
    let lines = usage.lines().filter(|line| line.starts_with("  --"));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let is_value = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase());
        let needs = line.split_once("needs ");
        Some(Flag {
            name,
            value: words.next().filter(is_value),
            needs: needs.and_then(|(_, needed)| needed.split_whitespace().next()),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = "Usage: game [FLAGS]\n\n  --join CODE  join this session\n  \
                         --user NAME  an account\n  --new        make it; needs --user\n  \
                         --help       print this\n";

    #[test]
    fn what_the_usage_lists_is_taken_in_either_spelling() {
        for line in [
            ["--join", "A-B", "--user", "ann"].as_slice(),
            &["--user=ann", "--join=A-B"],
        ] {
            let arguments = read(line).expect("all of it is listed").expect("no help");
            assert_eq!(arguments.value("--join"), Some("A-B"));
            assert_eq!(arguments.value("--user"), Some("ann"));
            assert_eq!(arguments.value("--new"), None);
        }
        let none = read(&[]).expect("nothing is needed").expect("no help");
        assert_eq!(none.value("--join"), None);
        let new = read(&["--new", "--user", "ann"]).expect("listed");
        assert_eq!(new.expect("no help").value("--new"), Some(""));
    }

    #[test]
    fn help_is_given_wherever_it_is_asked_for() {
        assert_eq!(read(&["--help"]), Ok(None));
        assert_eq!(read(&["--join", "A-B", "-h"]), Ok(None));
    }

    #[test]
    fn what_the_usage_does_not_list_is_named_without_its_value() {
        for (line, cause) in [
            (["--jion", "A-B"].as_slice(), "unknown argument `--jion`"),
            (&["--password=secret"], "unknown argument `--password`"),
            (&["A-B"], "unknown argument `A-B`"),
            (&["--join"], "--join lacks its CODE"),
            (&["--join", "--user", "ann"], "--join lacks its CODE"),
            (&["--user", "ann", "--new=yes"], "--new takes no value"),
            (&["--join", "A", "--join", "B"], "--join is given twice"),
            (&["--new"], "--new needs --user"),
        ] {
            assert_eq!(read(line), Err(cause.to_owned()));
        }
    }

    fn read(line: &[&str]) -> Result<Option<Arguments>, String> {
        parse(USAGE, line.iter().map(OsString::from))
    }
}

//! Where settings come from: flags, then the environment, then a TOML file, then defaults.
//!
//! ```text
//!  --relays 5 ──▶ clap ──▶ Cli
//!  DREAMCATCHER_RELAYS=5 ──▲
//!  relays = 5  ─(checked)──┘ becomes the default
//! ```
//!
//! A file's values take the place of clap's defaults, so that each setting has one definition and one
//! range, wherever it is set. A key of the file is a flag's name with `_` for `-`.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use clap::builder::OsStr;
use clap::{ArgMatches, Command, FromArgMatches};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::args::{self, Cli};
use crate::exit::Failure;

/// Largest configuration file: every key there is, with a page of comments each, is smaller.
const FILE_BYTES_MAX: u64 = 65_536;

/// Reads the command line, and the environment and the configuration file behind it.
pub(crate) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    let line: Vec<OsString> = line.into_iter().collect();
    let command = args::command();
    let mut matches = command.clone().try_get_matches_from(&line)?;
    if let Some((name, file)) = config_file(&matches) {
        let settings = Settings::read(&file)?;
        let command = settings.into_defaults(command, &name)?;
        matches = command.try_get_matches_from(&line)?;
    }
    Ok(Cli::from_arg_matches(&matches)?)
}

/// The subcommand, and the file that its `--config` names.
fn config_file(matches: &ArgMatches) -> Option<(String, std::path::PathBuf)> {
    let (name, matches) = matches.subcommand()?;
    let file = matches.try_get_one("config").ok()??;
    Some((name.to_owned(), std::path::PathBuf::clone(file)))
}

/// What a configuration file says.
struct Settings {
    file: String,
    entries: Vec<Entry>,
}

struct Entry {
    key: String,
    values: Vec<String>,
    line: usize,
}

impl Settings {
    fn read(file: &Path) -> Result<Self, Failure> {
        let shown = file.display().to_string();
        let refused =
            |cause: String| Failure::Config(format!("configuration file {shown}: {cause}"));
        let size = std::fs::metadata(file)
            .map_err(|e| refused(e.to_string()))?
            .len();
        if size > FILE_BYTES_MAX {
            let cause = format!(
                "{size} bytes are over the limit of {FILE_BYTES_MAX}; is it the right file?"
            );
            return Err(refused(cause));
        }
        let text = std::fs::read_to_string(file).map_err(|e| refused(e.to_string()))?;
        Self::parse(shown.clone(), &text)
    }

    fn parse(file: String, text: &str) -> Result<Self, Failure> {
        let line_at = |span: Range<usize>| text[..span.start].matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, line_at);
            at(&file, line, &format!("this is not TOML: {}", e.message()))
        })?;
        let mut entries = Vec::new();
        for (key, value) in table.into_inner() {
            let line = line_at(key.span());
            let key = key.into_inner().into_owned();
            let values = texts(&value).ok_or_else(|| {
                let kind = value.get_ref().type_str();
                let cause = format!("`{key}` is of type {kind}; give a string, a number, true or false, or a list of them");
                at(&file, line, &cause)
            })?;
            entries.push(Entry { key, values, line });
        }
        Ok(Self { file, entries })
    }

    /// `command` with what the file says as the defaults of the subcommand `name`.
    fn into_defaults(self, mut command: Command, name: &str) -> Result<Command, Failure> {
        for Entry { key, values, line } in self.entries {
            let subcommand = command.find_subcommand(name);
            let of_subcommand = subcommand.and_then(|subcommand| setting(subcommand, &key));
            let Some(arg) = of_subcommand.or_else(|| setting(&command, &key)) else {
                let known = keys(&command, name).join(", ");
                let cause = format!("unknown key `{key}`; the keys of `{name}` are {known}");
                return Err(at(&self.file, line, &cause));
            };
            check(arg, &values)
                .map_err(|cause| at(&self.file, line, &format!("`{key}`: {cause}")))?;
            let id = arg.get_id().clone();
            let is_global = arg.is_global_set();
            let defaults = values.into_iter().map(OsStr::from);
            command = if is_global {
                command.mut_arg(id, |arg| arg.default_values(defaults))
            } else {
                command.mut_subcommand(name, |subcommand| {
                    subcommand.mut_arg(id, |arg| arg.default_values(defaults))
                })
            };
        }
        Ok(command)
    }
}

fn at(file: &str, line: usize, cause: &str) -> Failure {
    Failure::Config(format!("configuration file {file}, line {line}: {cause}"))
}

/// A value as it would stand on the command line.
fn texts(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let value = value.get_ref();
    if let DeValue::Array(items) = value {
        return items.iter().map(|item| text(item.get_ref())).collect();
    }
    text(value).map(|text| vec![text])
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// The argument that a file sets by `key`.
fn setting<'a>(command: &'a Command, key: &str) -> Option<&'a clap::Arg> {
    command
        .get_arguments()
        .find(|arg| key_of(arg).is_some_and(|of| of == key))
}

/// The key of an argument. A file cannot name another file to read settings from.
fn key_of(arg: &clap::Arg) -> Option<String> {
    arg.get_long()
        .filter(|&long| long != "config")
        .map(|long| long.replace('-', "_"))
}

fn keys(command: &Command, name: &str) -> Vec<String> {
    let subcommand = command.find_subcommand(name).into_iter();
    let of_both = subcommand.chain([command]);
    let mut keys: Vec<String> = of_both
        .flat_map(Command::get_arguments)
        .filter_map(key_of)
        .collect();
    keys.sort_unstable();
    keys
}

/// Whether the argument takes these values; if not, why, in clap's words.
fn check(arg: &clap::Arg, values: &[String]) -> Result<(), String> {
    let long = arg.get_long().unwrap_or_default();
    if arg.get_value_delimiter().is_none() && values.len() != 1 {
        return Err(format!("give one value, not {}", values.len()));
    }
    let line = values.iter().map(|value| format!("--{long}={value}"));
    let alone = Command::new("check").no_binary_name(true).arg(arg.clone());
    match alone.try_get_matches_from(line) {
        Ok(_) => Ok(()),
        Err(e) => {
            let said = e.to_string();
            let first = said.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::args::{Command, LogFormat};

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file =
            written("relays = 5\nplayers = 3\nregions = [\"eu\", \"us\"]\nlog_format = \"json\"\n");
        let path = file.path().to_str().unwrap();
        let cli = read_line(&["dev", "--players", "8", "--config", path]).unwrap();
        assert_eq!(cli.logs.log_format, LogFormat::Json);
        let Command::Dev(dev) = cli.command else {
            panic!()
        };
        assert_eq!((dev.relays, dev.players, dev.bots), (5, Some(8), 0));
        assert_eq!(dev.regions, ["eu", "us"]);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_keys_that_there_are() {
        let said = refused("relays = 5\n\nspeed = 3\n");
        assert!(said.contains("line 3: unknown key `speed`"), "{said}");
        assert!(said.contains("players, regions, relays"), "{said}");
    }

    #[test]
    fn a_value_outside_its_range_is_named_with_its_line_and_the_range() {
        let said = refused("# a mesh\nrelays = 17\n");
        assert!(
            said.contains("line 2: `relays`: invalid value '17'"),
            "{said}"
        );
        assert!(said.contains("from 1 to 16"), "{said}");
    }

    #[test]
    fn a_value_of_a_wrong_kind_is_refused_with_its_line() {
        for (text, cause) in [
            ("relays = 1.5", "line 1: `relays` is of type float"),
            ("[dev]\nrelays = 1", "line 1: `dev` is of type table"),
            ("relays = [1, 2]", "line 1: `relays`: give one value, not 2"),
            ("relays = \n", "line 1: this is not TOML"),
            ("config = \"other.toml\"", "line 1: unknown key `config`"),
        ] {
            let said = refused(text);
            assert!(said.contains(cause), "{text:?}: {said}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let Err(Failure::Config(said)) = read_line(&["dev", "--config", "no/such.toml"]) else {
            panic!()
        };
        assert!(said.contains("no/such.toml"), "{said}");
    }

    fn refused(text: &str) -> String {
        let file = written(text);
        match read_line(&["dev", "--config", file.path().to_str().unwrap()]) {
            Err(Failure::Config(said)) => said,
            other => panic!("{other:?}"),
        }
    }

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn read_line(line: &[&str]) -> Result<Cli, Failure> {
        let line = ["dreamcatcher"].iter().chain(line);
        read(line.map(OsString::from))
    }
}

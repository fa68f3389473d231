//! Where settings come from: flags, then the environment, then a TOML file, then defaults.
//!
//! ```text
//!  --relays 5 ──▶ clap ──▶ Cli
//!  DREAMCATCHER_RELAYS=5 ──▲
//!  relays = 5  ─(checked)──┘ becomes the default
//! ```
//!
//! A file's values take the place of clap's defaults, so that each setting has one definition and one
//! range, wherever it is set. A key of the file is a flag's name with `_` for `-`. A task of a command,
//! as `auth migrate`, reads the command's file, and takes from it what it needs.
//!
//! `config show` reads all of it the same way, and keeps the [`Origin`] of each value.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::builder::OsStr;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::args::{self, Cli, LogArgs};
use crate::exit::Failure;
use crate::secret::masked;

/// Largest configuration file: every key there is, with a page of comments each, is smaller.
const FILE_BYTES_MAX: u64 = 65_536;

/// Reads the command line, and the environment and the configuration file behind it.
pub(crate) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    let line: Vec<OsString> = line.into_iter().collect();
    let command = args::command();
    let mut matches = command.clone().try_get_matches_from(&line)?;
    let (path, file) = config_file(&matches);
    let mut lines = Vec::new();
    if let Some(file) = &file {
        let settings = Settings::read(file)?;
        lines = settings.lines();
        matches = settings
            .into_defaults(command, &path)?
            .try_get_matches_from(&line)?;
    }
    if path.first().is_some_and(|name| name == "config") {
        return Ok(Cli {
            command: args::Command::Config(Effective {
                file,
                ..Effective::new(&path, &matches, &lines)
            }),
            logs: LogArgs::from_arg_matches(&matches)?,
        });
    }
    Ok(Cli::from_arg_matches(&matches)?)
}

/// The names of the command and its task, and the file that `--config` names.
fn config_file(matches: &ArgMatches) -> (Vec<String>, Option<PathBuf>) {
    let (path, last) = last(matches);
    let file = last.try_get_one("config").ok().flatten();
    (path, file.cloned())
}

/// The innermost command that was given: its names from the outermost on, and what it was given.
fn last(mut matches: &ArgMatches) -> (Vec<String>, &ArgMatches) {
    let mut path = Vec::new();
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name.to_owned());
        matches = inner;
    }
    (path, matches)
}

/// The command, and those that `path` names within it, the outermost first.
fn along<'a>(command: &'a Command, path: &[String]) -> Vec<&'a Command> {
    let mut all = vec![command];
    let mut outer = command;
    for name in path {
        let Some(inner) = outer.find_subcommand(name) else {
            break;
        };
        all.push(inner);
        outer = inner;
    }
    all
}

/// Changes the command that `path` names within `command`.
fn change(command: Command, path: &[String], how: &dyn Fn(Command) -> Command) -> Command {
    match path.split_first() {
        Some((name, path)) => command.mut_subcommand(name, |inner| change(inner, path, how)),
        None => how(command),
    }
}

/// The command whose settings these are, as the user calls it.
fn name_of(path: &[String]) -> String {
    match path {
        [config, show, name] if config == "config" && show == "show" => name.clone(),
        path => path.join(" "),
    }
}

/// What a command would run with.
#[derive(Debug)]
pub(crate) struct Effective {
    /// The command.
    pub(crate) of: String,
    /// The configuration file that was read.
    pub(crate) file: Option<PathBuf>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) with_origin: bool,
}

/// A setting as it may be shown.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

#[derive(Debug)]
pub(crate) enum Value {
    One(String),
    List(Vec<String>),
    /// Nothing, which stands for this if the help says so.
    Nothing(Option<String>),
}

/// Where a setting was said.
#[derive(Debug)]
pub(crate) enum Origin {
    Flag(String),
    Environment(String),
    File { line: usize },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { line } => write!(f, "file, line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Effective {
    /// `lines` is where the file sets each key that it sets.
    fn new(path: &[String], matches: &ArgMatches, lines: &[(String, usize)]) -> Self {
        let (_, matches) = last(matches);
        // As it is defined: a default from the file moves an argument to the end.
        let command = args::command();
        let all = along(&command, path);
        // Those of the command, then those of every command, such as --log.
        let of_both = all.last().into_iter().chain(all.first());
        let settings = of_both
            .flat_map(|command| command.get_arguments())
            .filter_map(|arg| Some((key_of(arg)?, arg)))
            .map(|(key, arg)| Setting {
                value: Value::of(arg, matches),
                origin: Origin::of(arg, &key, matches, lines),
                key,
            });
        Self {
            of: name_of(path),
            file: None,
            settings: settings.collect(),
            with_origin: matches.get_flag(args::ORIGIN),
        }
    }
}

impl Value {
    fn of(arg: &clap::Arg, matches: &ArgMatches) -> Self {
        let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let mut values: Vec<String> = raw.map(|raw| masked(&raw.to_string_lossy())).collect();
        if values.is_empty() {
            return Self::Nothing(described_default(arg));
        }
        if arg.get_value_delimiter().is_some() {
            return Self::List(values);
        }
        // The last is the one that holds.
        values.pop().map_or(Self::Nothing(None), Self::One)
    }
}

impl Origin {
    fn of(arg: &clap::Arg, key: &str, matches: &ArgMatches, lines: &[(String, usize)]) -> Self {
        match matches.value_source(arg.get_id().as_str()) {
            Some(ValueSource::CommandLine) => {
                Self::Flag(arg.get_long().unwrap_or_default().to_owned())
            }
            Some(ValueSource::EnvVariable) => {
                let name = arg.get_env().unwrap_or_default();
                Self::Environment(name.to_string_lossy().into_owned())
            }
            _ => match lines.iter().find(|(of_file, _)| of_file == key) {
                Some(&(_, line)) => Self::File { line },
                None => Self::Default,
            },
        }
    }
}

/// What the help of a flag says that holds where nothing is given.
fn described_default(arg: &clap::Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, default) = help.split_once("[default: ")?;
    Some(default.strip_suffix(']').unwrap_or(default).to_owned())
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
        let found = std::fs::metadata(file).map_err(|e| refused(e.to_string()))?;
        if !found.is_file() {
            return Err(refused("it is not a regular file".to_owned()));
        }
        let size = found.len();
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
            let cause = format!(
                "this is not TOML: {}; each setting is a line `key = value`, with text in quotes",
                e.message()
            );
            at(&file, line, &cause)
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

    /// On which line each key is.
    fn lines(&self) -> Vec<(String, usize)> {
        let entries = self.entries.iter();
        entries
            .map(|entry| (entry.key.clone(), entry.line))
            .collect()
    }

    /// `command` with what the file says as the defaults of the command that `path` names, or of
    /// those around it.
    fn into_defaults(self, mut command: Command, path: &[String]) -> Result<Command, Failure> {
        for Entry { key, values, line } in self.entries {
            let all = along(&command, path);
            let found = all.iter().enumerate().rev();
            let mut found = found.filter_map(|(depth, of)| Some((depth, setting(of, &key)?)));
            let Some((depth, arg)) = found.next() else {
                let (name, known) = (name_of(path), keys(&all).join(", "));
                let cause = format!("unknown key `{key}`; the keys of `{name}` are {known}");
                return Err(at(&self.file, line, &cause));
            };
            check(arg, &values)
                .map_err(|cause| at(&self.file, line, &format!("`{key}`: {cause}")))?;
            let id = arg.get_id().clone();
            let defaults: Vec<OsStr> = values.into_iter().map(OsStr::from).collect();
            command = change(command, &path[..depth], &|command| {
                command.mut_arg(&id, |arg| arg.default_values(defaults.clone()))
            });
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

/// The key of an argument. A file cannot name another file to read settings from, and says nothing
/// about how settings are shown.
fn key_of(arg: &clap::Arg) -> Option<String> {
    arg.get_long()
        .filter(|&long| long != "config" && long != args::ORIGIN)
        .map(|long| long.replace('-', "_"))
}

fn keys(commands: &[&Command]) -> Vec<String> {
    let arguments = commands.iter().flat_map(|command| command.get_arguments());
    let mut keys: Vec<String> = arguments.filter_map(key_of).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether the argument takes these values; if not, why, in clap's words.
fn check(arg: &clap::Arg, values: &[String]) -> Result<(), String> {
    let long = arg.get_long().unwrap_or_default();
    if arg.get_value_delimiter().is_none() && values.len() != 1 {
        return Err(format!("give one value, not {}", values.len()));
    }
    let is_switch = matches!(arg.get_action(), clap::ArgAction::SetTrue);
    let line: Vec<String> = match values {
        [value] if is_switch && value == "true" => vec![format!("--{long}")],
        [value] if is_switch && value == "false" => Vec::new(),
        _ if is_switch => return Err("give true or false".to_owned()),
        values => {
            let flags = values.iter().map(|value| format!("--{long}={value}"));
            flags.collect()
        }
    };
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

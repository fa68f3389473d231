//! The file format: JSON Lines (<https://jsonlines.org>). The first line is a [`Header`], each other
//! one is a time in µs since the file was begun, and a fact.
//!
//! ```text
//! {"format":"dreamcatcher-history","version":1,"kind":"member","name":"ann","started_unix_ms":1800000000000}
//! {"us":1250,"fact":{"committed":{"seq":1,"index":4}}}
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fact::{Cause, Fact, Kind, Mark, Recorded, RelayFact};
use super::{FACTS_MAX, FILE_BYTES_MAX, FORMAT, LINE_BYTES_MAX, NAME_CHARS_MAX, VERSION};
use crate::error::{Error, ErrorCode};

/// Kept free in every file for its last line.
const LAST_LINE_BYTES: u64 = 128;

/// The first line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    pub kind: Kind,
    /// Who recorded: a player, a node.
    pub name: String,
    /// When the file was begun, in ms since the Unix epoch.
    pub started_unix_ms: u64,
}

/// What every version says.
#[derive(Deserialize)]
struct AnyHeader {
    format: String,
    version: u32,
}

#[derive(Serialize)]
struct LineRef<'a, F> {
    us: u64,
    fact: &'a F,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<F> {
    us: u64,
    fact: F,
}

// ---------------------------------------------------------------------------------------- writing

/// Turns facts into the lines of one file, until that is full.
///
/// It holds no file: the lines are appended to a buffer of whoever writes them.
#[derive(Debug)]
pub struct Recorder<F> {
    bytes: u64,
    bytes_max: u64,
    is_over: bool,
    facts: PhantomData<fn(F)>,
}

impl<F: Recorded> Recorder<F> {
    /// Begins a file.
    ///
    /// # Errors
    /// `InvalidArgument` if the name is longer than [`NAME_CHARS_MAX`] or has control characters.
    pub fn begin(name: &str, started_unix_ms: u64, out: &mut Vec<u8>) -> Result<Self, Error> {
        Self::begin_with(name, started_unix_ms, FILE_BYTES_MAX, out)
    }

    /// Begins a file that becomes no larger than this.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_with(
        name: &str,
        started_unix_ms: u64,
        bytes_max: u64,
        out: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        if let Some(what) = wrong_name("the name in a history", name) {
            return Err(Error::new(ErrorCode::InvalidArgument, what));
        }
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            kind: F::KIND,
            name: name.to_owned(),
            started_unix_ms,
        };
        let before = out.len();
        put(&header, out);
        Ok(Self {
            bytes: (out.len() - before) as u64,
            bytes_max: bytes_max.min(FILE_BYTES_MAX),
            is_over: false,
            facts: PhantomData,
        })
    }

    /// Appends the line of a fact that happened so long after the file was begun. Nothing is appended
    /// once the file is over.
    pub fn note(&mut self, at: Duration, fact: &F, out: &mut Vec<u8>) {
        if self.is_over {
            return;
        }
        let before = out.len();
        put_fact(at, fact, out);
        let line = out.len() - before;
        let bytes = self.bytes + line as u64;
        if bytes + LAST_LINE_BYTES > self.bytes_max || line > LINE_BYTES_MAX {
            out.truncate(before);
            return self.cut(at, Cause::TooLarge, out);
        }
        self.bytes = bytes;
    }

    /// Appends the last line of a file that has to end here.
    pub fn cut(&mut self, at: Duration, cause: Cause, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_over, true) {
            put_fact(at, &F::incomplete(cause), out);
        }
    }

    /// Whether nothing more is recorded.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }
}

fn put_fact<F: Recorded>(at: Duration, fact: &F, out: &mut Vec<u8>) {
    let us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
    put(&LineRef { us, fact }, out);
}

fn put(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value)
        .expect("numbers and text are JSON, and a Vec takes all");
    out.push(b'\n');
}

// ---------------------------------------------------------------------------------------- reading

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub source: Arc<str>,
    /// From 1; `None` if it is about the whole file.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Unreadable {
    pub(super) fn new(source: &Arc<str>, line: Option<usize>, what: String) -> Self {
        Self {
            source: Arc::clone(source),
            line,
            what,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source, self.what),
            None => write!(f, "{}: {}", self.source, self.what),
        }
    }
}

impl std::error::Error for Unreadable {}

/// One file that was read.
#[derive(Clone, Debug)]
pub struct Recording {
    pub source: Arc<str>,
    pub header: Header,
    pub facts: Facts,
    /// It ends before what it records did.
    pub is_cut: bool,
}

/// The facts of one file, each with its time since the file was begun.
#[derive(Clone, Debug)]
pub enum Facts {
    Member(Vec<(Duration, Fact)>),
    Relay(Vec<(Duration, RelayFact)>),
    Faults(Vec<(Duration, Mark)>),
}

impl Facts {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Member(facts) => facts.len(),
            Self::Relay(facts) => facts.len(),
            Self::Faults(facts) => facts.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads one file, a line at a time.
#[derive(Debug)]
pub struct Reading {
    source: Arc<str>,
    lines: usize,
    open: Option<(Header, Facts)>,
    is_cut: bool,
}

impl Reading {
    /// `source` names the file in errors and violations.
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self {
            source: source.into(),
            lines: 0,
            open: None,
            is_cut: false,
        }
    }

    /// Takes the next line, without its end.
    ///
    /// # Errors
    /// The line is not what `docs/histories.md` says.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Unreadable> {
        self.lines += 1;
        self.take(line)
            .map_err(|what| Unreadable::new(&self.source, Some(self.lines), what))
    }

    /// Notes that the last line has no end: whoever wrote the file was stopped in the middle of it.
    pub const fn torn(&mut self) {
        self.is_cut = true;
    }

    /// Ends the file.
    ///
    /// # Errors
    /// There is no header.
    pub fn end(self) -> Result<Recording, Unreadable> {
        let Some((header, facts)) = self.open else {
            let what = format!("it is empty; a history begins with {}", a_header());
            return Err(Unreadable::new(&self.source, None, what));
        };
        Ok(Recording {
            source: self.source,
            header,
            facts,
            is_cut: self.is_cut,
        })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        if line.len() > LINE_BYTES_MAX {
            return Err(format!(
                "the line has more than {LINE_BYTES_MAX} bytes: it is not one of a history"
            ));
        }
        if self.lines > FACTS_MAX {
            return Err(format!(
                "the file has more than {FACTS_MAX} lines; record shorter histories"
            ));
        }
        if self.is_cut {
            return Err("nothing can follow `incomplete`".to_owned());
        }
        match &mut self.open {
            None => {
                let header = header(line)?;
                let facts = match header.kind {
                    Kind::Member => Facts::Member(Vec::new()),
                    Kind::Relay => Facts::Relay(Vec::new()),
                    Kind::Faults => Facts::Faults(Vec::new()),
                };
                self.open = Some((header, facts));
            }
            Some((_, Facts::Member(facts))) => self.is_cut = add(line, facts)?,
            Some((_, Facts::Relay(facts))) => self.is_cut = add(line, facts)?,
            Some((_, Facts::Faults(facts))) => {
                self.is_cut = add(line, facts)?;
                if let Some((_, Mark::Injected { target, .. })) = facts.last()
                    && let Some(what) = wrong_name("`target`", target)
                {
                    return Err(what);
                }
            }
        }
        Ok(())
    }
}

/// Reads a whole file.
///
/// # Errors
/// A line is not what `docs/histories.md` says, or there is none.
pub fn read<L: AsRef<[u8]>>(
    source: &str,
    lines: impl IntoIterator<Item = L>,
) -> Result<Recording, Unreadable> {
    let mut reading = Reading::new(source);
    for line in lines {
        reading.line(line.as_ref())?;
    }
    reading.end()
}

/// Adds the fact of a line; whether it says that the file is incomplete.
fn add<F: Recorded>(line: &[u8], facts: &mut Vec<(Duration, F)>) -> Result<bool, String> {
    let Line { us, fact } = serde_json::from_slice::<Line<F>>(line).map_err(|e| {
        format!(
            "{}; docs/histories.md lists the facts of each kind",
            plain(&e)
        )
    })?;
    let is_incomplete = fact.is_incomplete();
    facts.push((Duration::from_micros(us), fact));
    Ok(is_incomplete)
}

fn header(line: &[u8]) -> Result<Header, String> {
    let no_header =
        |what: &dyn fmt::Display| format!("{what}; a history begins with {}", a_header());
    let any: AnyHeader = serde_json::from_slice(line).map_err(|e| no_header(&plain(&e)))?;
    if any.format != FORMAT {
        return Err(no_header(&format_args!("`format` is not {FORMAT:?}")));
    }
    if any.version != VERSION {
        return Err(format!(
            "`version` is {}, and this program reads {VERSION}; use the release that recorded it",
            any.version
        ));
    }
    let header: Header = serde_json::from_slice(line).map_err(|e| no_header(&plain(&e)))?;
    wrong_name("`name`", &header.name).map_or(Ok(header), Err)
}

fn a_header() -> String {
    format!(
        "a line such as {{\"format\":\"{FORMAT}\",\"version\":{VERSION},\"kind\":\"member\",\"name\":\"ann\",\"started_unix_ms\":0}}"
    )
}

/// The error, with the place in the line alone: a line of JSON has one line.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (what, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    let shown: String = what.chars().filter(|c| !c.is_control()).collect();
    format!("{shown} (column {})", error.column())
}

/// What is wrong with a name, if anything.
fn wrong_name(field: &str, name: &str) -> Option<String> {
    let is_wrong = name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control);
    is_wrong.then(|| {
        format!("{field} must be at most {NAME_CHARS_MAX} characters without control characters")
    })
}

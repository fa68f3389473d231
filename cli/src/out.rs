//! Standard output: what a command has to say goes through here, and so does what may go wrong.
//!
//! A reader that has gone (`| head -2`) ends the process quietly, with the status of a process that
//! SIGPIPE ended: not 0, because nobody knows whether the promises would have been kept. Any other
//! error, such as a full disk, is a failure like others.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::exit::Failure;

/// Writes a text as it is, at once.
pub(crate) fn say(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(write!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes a line, at once.
pub(crate) fn say_line(line: impl Display) -> Result<(), Failure> {
    say(format_args!("{line}\n"))
}

/// A value of ours as JSON for people and programs, with its last line ended.
pub(crate) fn json(value: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(value);
    json.expect("numbers and text under text keys are always JSON") + "\n"
}

/// What it means for the process that a write to standard output ended so.
pub(crate) fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    outcome.map_err(|e| {
        if e.kind() == ErrorKind::BrokenPipe {
            Failure::NobodyReads
        } else {
            Failure::Failed(format!("cannot write to standard output: {e}"))
        }
    })
}

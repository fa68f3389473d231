//! `dreamcatcher verify-history`: whether recorded histories keep every promise.
//!
//! ```text
//!  FILE, DIR ─▶ lines ─▶ Recording ─┐
//!  FILE      ─▶ lines ─▶ Recording ─┴─ merge ─▶ History ─ check ─▶ Report ─▶ table or JSON
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dreamcatcher_proto::history::{
    FILE_BYTES_MAX, Finding, History, LINE_BYTES_MAX, Reading, Recording, Report, Verdict,
    Violation, check_each,
};
use serde::Serialize;

use crate::args::VerifyHistoryArgs;
use crate::exit::Failure;
use crate::out;
use crate::table::{counted, grouped};

/// What a directory's histories are called.
pub(crate) const EXTENSION: &str = "jsonl";
/// Whoever waits longer is told how far it is, as often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Lines read between two looks at the clock.
const LINES_PER_LOOK: u64 = 10_000;

pub(crate) fn verify_history(args: &VerifyHistoryArgs) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let files = files(&args.paths)?;
    let count = files.len();
    let mut recordings = Vec::with_capacity(count);
    for (number, file) in files.iter().enumerate() {
        let read = |lines| format!("reading file {} of {count}, line {lines}", number + 1);
        recordings.push(recording(file, |lines| progress.tell(|| read(lines)))?);
    }
    let history = History::merge(recordings).map_err(|e| Failure::Unreadable(e.to_string()))?;
    let report = check_each(&history, |done, of| {
        progress.tell(|| format!("{done} of {of} sessions are checked"));
    });
    if report.sessions == 0 {
        let shown = counted(count, "file");
        let message = format!("{shown}, and no member in them joined a session: nothing to verify");
        return Err(Failure::Unreadable(message));
    }
    if args.json {
        out::say(out::json(&Shown::new(&report, count, args.show)))?;
    } else {
        out::say(table(&report, count, args.show))?;
    }
    let broken: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict() == Verdict::Broken)
        .map(|finding| finding.invariant.id())
        .collect();
    if broken.is_empty() {
        Ok(())
    } else {
        let message = format!("the history breaks {}", broken.join(", "));
        Err(Failure::Failed(message))
    }
}

// ---------------------------------------------------------------------------------------- reading

/// The files that the paths name, each once.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
    for path in paths {
        let found = if path.is_dir() {
            of_directory(path)?
        } else {
            vec![path.clone()]
        };
        for file in found {
            let one = fs::canonicalize(&file).map_err(|e| cannot_read(&file, &e))?;
            if seen.insert(one) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn of_directory(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(directory).map_err(|e| cannot_read(directory, &e))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| cannot_read(directory, &e))?.path();
        if path.extension().is_some_and(|is| is == EXTENSION) {
            files.push(path);
        }
    }
    if files.is_empty() {
        let shown = directory.display();
        let message = format!(
            "{shown} holds no .{EXTENSION} file; `dreamcatcher load --history DIR` records some"
        );
        return Err(Failure::Unreadable(message));
    }
    files.sort();
    Ok(files)
}

fn recording(path: &Path, mut tell: impl FnMut(u64)) -> Result<Recording, Failure> {
    let wrong = |e: io::Error| cannot_read(path, &e);
    let file = File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if !metadata.is_file() {
        return Err(cannot_read(path, &io::Error::other("it is not a file")));
    }
    if metadata.len() > FILE_BYTES_MAX {
        let message = format!("it has more than {} bytes", grouped(FILE_BYTES_MAX));
        return Err(cannot_read(path, &io::Error::other(message)));
    }
    let source: String = path
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let mut reading = Reading::new(&source);
    let (mut reader, mut line, mut lines) = (BufReader::new(file), Vec::new(), 0_u64);
    loop {
        line.clear();
        // One more than fits, and its end: the reading says that it is too long.
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX as u64 + 2);
        let bytes = bounded.read_until(b'\n', &mut line).map_err(wrong)?;
        if bytes == 0 {
            break;
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && line.len() <= LINE_BYTES_MAX {
            reading.torn();
            break;
        }
        reading
            .line(&line)
            .map_err(|e| Failure::Unreadable(e.to_string()))?;
        lines += 1;
        if lines.is_multiple_of(LINES_PER_LOOK) {
            tell(lines);
        }
    }
    reading
        .end()
        .map_err(|e| Failure::Unreadable(e.to_string()))
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::Unreadable(format!("cannot read {}: {error}", path.display()))
}

/// Says on standard error how far it is, to whoever waits.
struct Progress {
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            told: Instant::now(),
        }
    }

    fn tell(&mut self, how_far: impl FnOnce() -> String) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            // Without a standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "{}", how_far());
        }
    }
}

// ---------------------------------------------------------------------------------------- showing

fn table(report: &Report, files: usize, show: usize) -> String {
    let mut lines = vec![
        format!(
            "{}: {}, {}, {}, {}",
            counted(files, "file"),
            counted(report.sessions, "session"),
            counted(report.members, "member"),
            entries(report.entries),
            deliveries(report.deliveries),
        ),
        format!("faults: {}", faults(report)),
    ];
    if report.incomplete > 0 {
        let shown = counted(report.incomplete, "recording");
        lines.push(format!(
            "{shown} ended before what was recorded did: what came after is not checked"
        ));
    }
    lines.push(String::new());
    for finding in &report.findings {
        lines.extend(rows(finding, show));
    }
    lines.push(String::new());
    lines.push(
        match (report.is_kept(), report.findings.iter().any(is_unchecked)) {
            (true, false) => "Every promise was kept.".to_owned(),
            (true, true) => "Every promise that could be checked was kept.".to_owned(),
            (false, _) => "Promises were broken.".to_owned(),
        },
    );
    lines.join("\n") + "\n"
}

fn is_unchecked(finding: &Finding) -> bool {
    finding.verdict() == Verdict::NotChecked || finding.unchecked > 0
}

fn entries(count: usize) -> String {
    let plural = if count == 1 { "entry" } else { "entries" };
    format!("{} {plural}", grouped(count as u64))
}

fn deliveries(count: usize) -> String {
    let plural = if count == 1 { "delivery" } else { "deliveries" };
    format!("{} {plural}", grouped(count as u64))
}

fn faults(report: &Report) -> String {
    let mut by_kind: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in &report.faults {
        *by_kind.entry(fault.kind.name()).or_default() += 1;
    }
    let mut said: Vec<String> = by_kind
        .into_iter()
        .map(|(kind, count)| format!("{kind} × {count}"))
        .collect();
    if said.is_empty() {
        said.push("none marked".to_owned());
    }
    said.push(counted(report.reconnects, "reconnect"));
    said.push(counted(report.resyncs, "resync"));
    said.join(", ")
}

fn rows(finding: &Finding, show: usize) -> Vec<String> {
    let sessions = |count| counted(count, "session");
    let reason = finding.reasons.iter().next().map_or("", String::as_str);
    let (verdict, more) = match finding.verdict() {
        Verdict::Kept if finding.unchecked == 0 => ("ok", sessions(finding.checked)),
        Verdict::Kept => {
            let (checked, not) = (sessions(finding.checked), finding.unchecked);
            ("ok", format!("{checked}, not in full in {not}: {reason}"))
        }
        Verdict::NotChecked => ("not checked", reason.to_owned()),
        Verdict::Broken => ("BROKEN", counted(finding.broken, "time")),
    };
    let (id, name) = (finding.invariant.id(), finding.invariant.name());
    let mut rows = vec![format!("  {id:<4} {name:<13} {verdict:<12} {more}")];
    if finding.broken > 0 {
        rows.push(format!("         {}", finding.invariant.sentence()));
    }
    let shown = finding.violations.iter().take(show);
    rows.extend(shown.map(|violation| format!("       - {}", line(violation))));
    let left = finding.broken.saturating_sub(show);
    if left > 0 {
        rows.push(format!("       … and {left} more"));
    }
    rows
}

fn line(violation: &Violation) -> String {
    let mut line = violation.party.clone();
    if let Some(session) = violation.session {
        line += &format!(" in {session}");
    }
    if let Some(at) = violation.at {
        line += &format!(", {:.6} s", at.as_secs_f64());
    }
    line += &format!(": {}", violation.what);
    match (&violation.here, &violation.there) {
        (Some(here), Some(there)) => line + &format!(" ({here}, against {there})"),
        (Some(site), None) | (None, Some(site)) => line + &format!(" ({site})"),
        (None, None) => line,
    }
}

/// What `--json` writes.
#[derive(Serialize)]
struct Shown<'a> {
    kept: bool,
    files: usize,
    sessions: usize,
    members: usize,
    entries: usize,
    deliveries: usize,
    relays: usize,
    reconnects: usize,
    resyncs: usize,
    incomplete: usize,
    faults: Vec<ShownFault<'a>>,
    invariants: Vec<ShownFinding<'a>>,
}

#[derive(Serialize)]
struct ShownFault<'a> {
    kind: &'static str,
    target: &'a str,
    from_us: u64,
    until_us: Option<u64>,
}

#[derive(Serialize)]
struct ShownFinding<'a> {
    id: &'static str,
    name: &'static str,
    guarantee: &'static str,
    says: &'static str,
    verdict: &'static str,
    sessions_checked: usize,
    sessions_not_checked: usize,
    reasons: &'a BTreeSet<String>,
    broken: usize,
    violations: Vec<ShownViolation<'a>>,
}

#[derive(Serialize)]
struct ShownViolation<'a> {
    session: Option<String>,
    party: &'a str,
    at_us: Option<u64>,
    what: &'a str,
    here: Option<String>,
    there: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(report: &'a Report, files: usize, show: usize) -> Self {
        let fault = |fault: &'a dreamcatcher_proto::history::Fault| ShownFault {
            kind: fault.kind.name(),
            target: &fault.target,
            from_us: us(fault.from),
            until_us: fault.until.map(us),
        };
        let invariants = report.findings.iter();
        Self {
            kept: report.is_kept(),
            files,
            sessions: report.sessions,
            members: report.members,
            entries: report.entries,
            deliveries: report.deliveries,
            relays: report.relays,
            reconnects: report.reconnects,
            resyncs: report.resyncs,
            incomplete: report.incomplete,
            faults: report.faults.iter().map(fault).collect(),
            invariants: invariants.map(|f| ShownFinding::new(f, show)).collect(),
        }
    }
}

impl<'a> ShownFinding<'a> {
    fn new(finding: &'a Finding, show: usize) -> Self {
        let invariant = finding.invariant;
        let violation = |violation: &'a Violation| ShownViolation {
            session: violation.session.map(|session| session.to_string()),
            party: &violation.party,
            at_us: violation.at.map(us),
            what: &violation.what,
            here: violation.here.as_ref().map(ToString::to_string),
            there: violation.there.as_ref().map(ToString::to_string),
        };
        Self {
            id: invariant.id(),
            name: invariant.name(),
            guarantee: invariant.guarantee(),
            says: invariant.sentence(),
            verdict: match finding.verdict() {
                Verdict::Kept => "ok",
                Verdict::NotChecked => "not_checked",
                Verdict::Broken => "broken",
            },
            sessions_checked: finding.checked,
            sessions_not_checked: finding.unchecked,
            reasons: &finding.reasons,
            broken: finding.broken,
            violations: finding
                .violations
                .iter()
                .take(show)
                .map(violation)
                .collect(),
        }
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

//! What is shown while bots play: refreshed in place on a terminal, a line a second elsewhere.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

/// Relays in one row: it fits 80 columns.
const RELAYS_PER_ROW: usize = 4;

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) elapsed: Duration,
    pub(crate) sessions: usize,
    /// Members by node.
    pub(crate) members: Vec<(String, u64)>,
    pub(crate) delivered_per_s: f64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) leaked: u64,
    pub(crate) older: u64,
    /// Of Latest, in the last second, if any came.
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

/// Shows one snapshot after another.
#[derive(Debug)]
pub(crate) struct Table<W> {
    out: W,
    is_terminal: bool,
    rows_shown: usize,
}

impl<W: Write> Table<W> {
    pub(crate) fn new(out: W, is_terminal: bool) -> Self {
        Self {
            out,
            is_terminal,
            rows_shown: 0,
        }
    }

    pub(crate) fn show(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        if self.is_terminal {
            let rows = rows(snapshot);
            if self.rows_shown > 0 {
                // Up to the first row of the last time.
                write!(self.out, "\x1b[{}A", self.rows_shown)?;
            }
            for row in &rows {
                // Whatever stood in the row is erased.
                writeln!(self.out, "\x1b[2K{row}")?;
            }
            self.rows_shown = rows.len();
        } else {
            writeln!(self.out, "{}", line(snapshot))?;
        }
        self.out.flush()
    }
}

fn rows(snapshot: &Snapshot) -> Vec<String> {
    let relays: Vec<String> = snapshot
        .members
        .iter()
        .map(|(node, members)| format!("{node:<12} {members:>4}"))
        .collect();
    let mut rows = vec![format!(
        "  {:>5} s   {}   {}",
        snapshot.elapsed.as_secs(),
        counted(snapshot.sessions, "session"),
        counted(members(snapshot), "member"),
    )];
    rows.extend(
        relays
            .chunks(RELAYS_PER_ROW)
            .map(|relays| format!("  {}", relays.join("   "))),
    );
    rows.push(format!(
        "  delivered/s {:>9}   Latest p50 {:>8}  p99 {:>8}",
        grouped(snapshot.delivered_per_s.round() as u64),
        milliseconds(snapshot.p50),
        milliseconds(snapshot.p99),
    ));
    rows.push(format!("  {}", faults(snapshot).join("   ")));
    rows
}

fn line(snapshot: &Snapshot) -> String {
    let relays: Vec<String> = snapshot
        .members
        .iter()
        .map(|(node, members)| format!("{node}:{members}"))
        .collect();
    format!(
        "{:>4} s  sessions {}  members {} ({})  delivered/s {}  {}  Latest p50 {}  p99 {}",
        snapshot.elapsed.as_secs(),
        snapshot.sessions,
        members(snapshot),
        relays.join(" "),
        grouped(snapshot.delivered_per_s.round() as u64),
        faults(snapshot).join("  "),
        milliseconds(snapshot.p50),
        milliseconds(snapshot.p99),
    )
}

/// What should be 0. The two that are 0 unless a relay is at fault are named when they are not.
fn faults(snapshot: &Snapshot) -> Vec<String> {
    let rare = |name, count| (count > 0).then_some((name, count));
    [
        Some(("lost", snapshot.lost)),
        Some(("duplicated", snapshot.duplicated)),
        Some(("reordered", snapshot.reordered)),
        rare("leaked", snapshot.leaked),
        rare("older", snapshot.older),
    ]
    .into_iter()
    .flatten()
    .map(|(name, count)| format!("{name} {count}"))
    .collect()
}

fn members(snapshot: &Snapshot) -> u64 {
    snapshot.members.iter().map(|(_, members)| members).sum()
}

/// Stands where nothing was measured.
pub(crate) const NO_DATA: &str = "–";

/// A duration as a table shows it.
pub(crate) fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(
        || NO_DATA.to_owned(),
        |duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3),
    )
}

/// A number of things: `1 player`, `2 players`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// A number with a comma before each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn elsewhere_than_on_a_terminal_each_snapshot_is_one_plain_line() {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out, false);
        table.show(&snapshot()).unwrap();
        table.show(&snapshot()).unwrap();
        let shown = String::from_utf8(out).unwrap();
        let line = "   7 s  sessions 4  members 12 (relay-1-0:4 relay-2-0:8)  delivered/s 1,104  lost 1  \
                    duplicated 2  reordered 3  Latest p50 0.41 ms  p99 1.20 ms\n";
        assert_eq!(shown, line.repeat(2));
    }

    #[test]
    fn on_a_terminal_a_snapshot_takes_the_place_of_the_one_before() {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out, true);
        table.show(&snapshot()).unwrap();
        table.show(&snapshot()).unwrap();
        let shown = String::from_utf8(out).unwrap();
        let (first, second) = shown.split_once("\x1b[4A").unwrap();
        assert_eq!(first, second);
        assert_eq!(first.lines().count(), 4);
        assert!(
            first
                .lines()
                .all(|row| row.starts_with("\x1b[2K") && row.chars().count() <= 80)
        );
    }

    #[test]
    fn what_was_not_measured_is_a_dash_and_rare_faults_are_named_when_they_are_there() {
        let said = line(&Snapshot {
            leaked: 4,
            older: 5,
            p50: None,
            p99: None,
            ..snapshot()
        });
        let end = "reordered 3  leaked 4  older 5  Latest p50 –  p99 –";
        assert!(said.ends_with(end), "{said}");
    }

    #[test]
    fn one_is_not_plural() {
        assert_eq!(counted(1_u64, "member"), "1 member");
        assert_eq!(counted(0_usize, "member"), "0 members");
    }

    #[test]
    fn sixteen_relays_stay_within_eighty_columns() {
        let relays = (1..=16).map(|k| (format!("relay-{k}-0"), 1_000));
        let snapshot = Snapshot {
            members: relays.collect(),
            ..snapshot()
        };
        for row in rows(&snapshot) {
            assert!(row.chars().count() <= 80, "{row}");
        }
    }

    #[test]
    fn digits_are_grouped_by_three() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), shown);
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            elapsed: Duration::from_millis(7_900),
            sessions: 4,
            members: vec![("relay-1-0".to_owned(), 4), ("relay-2-0".to_owned(), 8)],
            delivered_per_s: 1_104.4,
            lost: 1,
            duplicated: 2,
            reordered: 3,
            leaked: 0,
            older: 0,
            p50: Some(Duration::from_micros(410)),
            p99: Some(Duration::from_micros(1_200)),
        }
    }
}

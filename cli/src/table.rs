//! What is shown while bots play: refreshed in place on a terminal, a line a second elsewhere.

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
    /// Of Latest, in the last second.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
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
    let Snapshot {
        sessions,
        lost,
        duplicated,
        reordered,
        ..
    } = snapshot;
    let relays: Vec<String> = snapshot
        .members
        .iter()
        .map(|(node, members)| format!("{node:<12} {members:>4}"))
        .collect();
    let mut rows = vec![format!(
        "  {:>5} s   {sessions} sessions   {} members",
        snapshot.elapsed.as_secs(),
        members(snapshot),
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
    rows.push(format!(
        "  lost {lost}   duplicated {duplicated}   reordered {reordered}"
    ));
    rows
}

fn line(snapshot: &Snapshot) -> String {
    let Snapshot {
        sessions,
        lost,
        duplicated,
        reordered,
        ..
    } = snapshot;
    let relays: Vec<String> = snapshot
        .members
        .iter()
        .map(|(node, members)| format!("{node}:{members}"))
        .collect();
    format!(
        "{:>4} s  sessions {sessions}  members {} ({})  delivered/s {}  lost {lost}  duplicated {duplicated}  \
         reordered {reordered}  p50 {}  p99 {}",
        snapshot.elapsed.as_secs(),
        members(snapshot),
        relays.join(" "),
        grouped(snapshot.delivered_per_s.round() as u64),
        milliseconds(snapshot.p50),
        milliseconds(snapshot.p99),
    )
}

fn members(snapshot: &Snapshot) -> u64 {
    snapshot.members.iter().map(|(_, members)| members).sum()
}

/// A duration as a table shows it.
pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
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
                    duplicated 2  reordered 3  p50 0.41 ms  p99 1.20 ms\n";
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
            p50: Duration::from_micros(410),
            p99: Duration::from_micros(1_200),
        }
    }
}

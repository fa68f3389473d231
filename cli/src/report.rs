#![doc = include_str!("../../docs/report.md")]

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::judge::Verdict;
use crate::table::{NO_DATA, counted, grouped, milliseconds};

/// What a run with bots came to. `docs/report.md` explains every key.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) kept: bool,
    pub(crate) players: usize,
    pub(crate) players_expected: usize,
    pub(crate) ended_early: usize,
    pub(crate) sessions: usize,
    pub(crate) sessions_across_relays: usize,
    pub(crate) seconds: f64,
    pub(crate) hz: u32,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    pub(crate) latency_us: Quantiles,
    pub(crate) ordered_latency_us: Quantiles,
    pub(crate) connect_ms: ConnectQuantiles,
    pub(crate) delivered_per_s: f64,
    pub(crate) cpu_us_per_delivered: f64,
    pub(crate) per_relay: Vec<RelayReport>,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct RelayReport {
    pub(crate) node_id: String,
    pub(crate) clients: u64,
    pub(crate) sessions_owned: u64,
    pub(crate) delivered: u64,
    pub(crate) cpu_us: u64,
}

/// Of times in µs; all 0 where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// Of times in ms; all 0 where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ConnectQuantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Quantiles {
    pub(crate) fn of(times_us: &Histogram<u64>) -> Self {
        Self {
            p50: times_us.value_at_quantile(0.5),
            p90: times_us.value_at_quantile(0.9),
            p99: times_us.value_at_quantile(0.99),
            p999: times_us.value_at_quantile(0.999),
            max: times_us.max(),
        }
    }
}

impl ConnectQuantiles {
    pub(crate) fn of(times_us: &Histogram<u64>) -> Self {
        let Quantiles {
            p50, p90, p99, max, ..
        } = Quantiles::of(times_us);
        let ms = |us: u64| us as f64 / 1e3;
        Self {
            p50: ms(p50),
            p90: ms(p90),
            p99: ms(p99),
            max: ms(max),
        }
    }
}

impl Report {
    pub(crate) fn json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("numbers and text under text keys are always JSON") + "\n"
    }
}

/// The summary for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        // Nothing takes less than 1 µs: a 0 is of nothing.
        let us = |us: u64| milliseconds((us > 0).then(|| Duration::from_micros(us)));
        let ms = |ms: f64| unless_zero(ms, format!("{ms:.1} ms"));
        writeln!(
            f,
            "{} of {}, {} ({} across relays), {}, {:.1} s at {} Hz",
            self.players,
            counted(self.players_expected, "player"),
            counted(self.sessions, "session"),
            self.sessions_across_relays,
            counted(self.per_relay.len(), "relay"),
            self.seconds,
            self.hz,
        )?;
        writeln!(
            f,
            "  Ordered   sent {}, delivered {} of {}: {} lost, {} duplicated, {} reordered, {} leaked",
            grouped(verdict.sent),
            grouped(verdict.delivered),
            grouped(verdict.expected),
            verdict.lost,
            verdict.duplicated,
            verdict.reordered,
            verdict.leaked,
        )?;
        writeln!(
            f,
            "            p50 {}, p99 {}, max {}",
            us(self.ordered_latency_us.p50),
            us(self.ordered_latency_us.p99),
            us(self.ordered_latency_us.max),
        )?;
        writeln!(
            f,
            "  Latest    sent {}, delivered {}: {} older",
            grouped(verdict.latest_sent),
            grouped(verdict.latest_delivered),
            verdict.latest_older,
        )?;
        writeln!(
            f,
            "            p50 {}, p99 {}, max {}",
            us(self.latency_us.p50),
            us(self.latency_us.p99),
            us(self.latency_us.max),
        )?;
        writeln!(
            f,
            "  connect   p50 {}, p99 {}, max {}",
            ms(self.connect_ms.p50),
            ms(self.connect_ms.p99),
            ms(self.connect_ms.max),
        )?;
        writeln!(
            f,
            "  relays    {} delivered/s, {} of CPU for each",
            grouped(self.delivered_per_s.round() as u64),
            unless_zero(
                self.cpu_us_per_delivered,
                format!("{:.1} µs", self.cpu_us_per_delivered)
            ),
        )?;
        for (name, count) in &self.errors {
            writeln!(f, "  error     {name} {count}")?;
        }
        if self.kept {
            return f.write_str("every promise was kept");
        }
        let absent = self.players_expected - self.players;
        if absent > 0 {
            write!(f, "NOT ALL COULD PLAY: {absent} did not join. ")?;
        }
        if self.ended_early > 0 {
            write!(f, "NOT ALL COULD STAY: {} ended early. ", self.ended_early)?;
        }
        if !verdict.is_clean() {
            f.write_str("A PROMISE WAS BROKEN.")?;
        }
        Ok(())
    }
}

/// A measure as shown, or that there is none.
fn unless_zero(measure: f64, shown: String) -> String {
    if measure > 0.0 {
        shown
    } else {
        NO_DATA.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_documentation_lists_exactly_the_keys_that_there_are() {
        let report: Value = serde_json::from_str(&sample().json()).unwrap();
        let mut keys = BTreeSet::new();
        collect(&report, String::new(), &mut keys);
        let documented = include_str!("../../docs/report.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .map(str::to_owned)
            .collect::<BTreeSet<_>>();
        assert_eq!(documented, keys);
    }

    #[test]
    fn the_summary_says_what_went_wrong() {
        let mut report = sample();
        assert!(report.to_string().ends_with("every promise was kept"));
        report.kept = false;
        report.players = 10;
        report.verdict.lost = 1;
        let said = report.to_string();
        assert!(
            said.ends_with("2 did not join. A PROMISE WAS BROKEN."),
            "{said}"
        );
    }

    #[test]
    fn the_summary_of_one_player_counts_in_the_singular_and_shows_no_times_of_nothing() {
        let mut report = sample();
        (report.players, report.players_expected, report.sessions) = (1, 1, 1);
        report.cpu_us_per_delivered = 0.0;
        let said = report.to_string();
        assert!(said.starts_with("1 of 1 player, 1 session ("), "{said}");
        assert!(said.contains("1 relay,"), "{said}");
        assert!(said.contains("connect   p50 –, p99 –, max –"), "{said}");
        assert!(said.contains("– of CPU"), "{said}");
    }

    #[test]
    fn quantiles_of_nothing_are_zero() {
        let nothing = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        assert_eq!(Quantiles::of(&nothing), Quantiles::default());
    }

    /// The paths of all values, as the documentation writes them.
    fn collect(value: &Value, path: String, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let key = if path == "errors" { "<name>" } else { key };
                    let separator = if path.is_empty() { "" } else { "." };
                    collect(value, format!("{path}{separator}{key}"), keys);
                }
            }
            Value::Array(items) => {
                for item in items {
                    collect(item, format!("{path}[]"), keys);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                keys.insert(path);
            }
        }
    }

    fn sample() -> Report {
        Report {
            kept: true,
            players: 12,
            players_expected: 12,
            ended_early: 0,
            sessions: 3,
            sessions_across_relays: 3,
            seconds: 30.0,
            hz: 20,
            verdict: Verdict::default(),
            latency_us: Quantiles::default(),
            ordered_latency_us: Quantiles::default(),
            connect_ms: ConnectQuantiles::default(),
            delivered_per_s: 816.0,
            cpu_us_per_delivered: 12.5,
            per_relay: vec![RelayReport {
                node_id: "relay-1-0".to_owned(),
                clients: 4,
                sessions_owned: 1,
                delivered: 8_160,
                cpu_us: 102_000,
            }],
            errors: BTreeMap::from([("RateLimited", 1)]),
        }
    }
}

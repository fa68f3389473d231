#![doc = include_str!("../../docs/report.md")]

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dreamcatcher_proto::frame::Mode;
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::judge::Verdict;
use crate::table::{NO_DATA, counted, grouped, milliseconds};

/// What a run of `dev` with bots came to. `docs/report.md` explains every key.
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
    pub(crate) cpu_us_per_delivered: Option<f64>,
    pub(crate) per_relay: Vec<RelayReport>,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct RelayReport {
    pub(crate) node_id: String,
    pub(crate) clients: u64,
    pub(crate) sessions_owned: u64,
    pub(crate) delivered: u64,
    pub(crate) cpu_us: Option<u64>,
}

/// What a run of `load` came to. `docs/report.md` explains every key.
#[derive(Debug, Serialize)]
pub(crate) struct LoadReport {
    #[serde(flatten)]
    pub(crate) report: Report,
    #[serde(serialize_with = "mode_name")]
    pub(crate) mode: Mode,
    pub(crate) bytes: usize,
    pub(crate) placement: String,
    pub(crate) warm_up_s: u32,
    pub(crate) intended_per_s: u64,
    pub(crate) sent_per_s: f64,
    pub(crate) committed: u64,
    pub(crate) refused: u64,
    pub(crate) rejected: u64,
    pub(crate) unsent: u64,
    pub(crate) told_lost: u64,
    pub(crate) gaps: u64,
    pub(crate) reconnects: u64,
    pub(crate) resumes: u64,
    pub(crate) resyncs: u64,
    pub(crate) moves: u64,
    pub(crate) dropped_in: u64,
    pub(crate) dropped_out: u64,
    pub(crate) by_hops: Vec<HopsReport>,
    pub(crate) schedule_lag_us: Quantiles,
    pub(crate) tool: Tool,
}

/// What took so many links between relays.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HopsReport {
    pub(crate) hops: usize,
    pub(crate) delivered: u64,
    pub(crate) latency_us: Quantiles,
}

/// What the measuring itself took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Tool {
    pub(crate) cores: usize,
    pub(crate) cores_used: f64,
    pub(crate) late: bool,
}

fn mode_name<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.name())
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
        json(self)
    }

    /// What was not as promised, or that everything was.
    fn conclude(&self, judged: Mode, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        if !self.verdict.is_clean(judged) {
            f.write_str("A PROMISE WAS BROKEN.")?;
        }
        Ok(())
    }
}

impl LoadReport {
    pub(crate) fn json(&self) -> String {
        json(self)
    }

    pub(crate) fn kept(&self) -> bool {
        self.report.kept
    }
}

fn json(report: &impl Serialize) -> String {
    let json = serde_json::to_string_pretty(report);
    json.expect("numbers and text under text keys are always JSON") + "\n"
}

/// A time as shown: nothing takes less than 1 µs, so that a 0 is of nothing.
fn shown_us(us: u64) -> String {
    milliseconds((us > 0).then(|| Duration::from_micros(us)))
}

fn shown_ms(ms: f64) -> String {
    unless_zero(ms, format!("{ms:.1} ms"))
}

/// The summary for people.
impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { verdict, .. } = &self.report;
        writeln!(
            f,
            "{} of {}, {} ({} across relays), {}, {:.1} s of {} Hz × {} B {}",
            self.report.players,
            counted(self.report.players_expected, "player"),
            counted(self.report.sessions, "session"),
            self.report.sessions_across_relays,
            counted(self.report.per_relay.len(), "relay"),
            self.report.seconds,
            self.report.hz,
            self.bytes,
            self.mode.name(),
        )?;
        writeln!(
            f,
            "  sent      {}{}: {} refused, {} rejected, {} unsent",
            grouped(verdict.sent),
            match self.mode {
                Mode::Ordered => format!(", committed {}", grouped(self.committed)),
                Mode::Reliable | Mode::Latest | Mode::Datagram => String::new(),
            },
            self.refused,
            self.rejected,
            self.unsent,
        )?;
        let (late, times) = match self.mode {
            Mode::Latest => ("older", verdict.latest_older),
            Mode::Ordered | Mode::Reliable | Mode::Datagram => ("reordered", verdict.reordered),
        };
        writeln!(
            f,
            "  delivered {} of {}: {} lost{}, {} duplicated, {times} {late}, {} leaked",
            grouped(verdict.delivered),
            grouped(verdict.expected),
            grouped(verdict.lost),
            match self.told_lost {
                0 => String::new(),
                told => format!(" ({} of them told)", grouped(told)),
            },
            verdict.duplicated,
            verdict.leaked,
        )?;
        writeln!(f, "  latency   {}", self.report.latency_us)?;
        for HopsReport {
            hops,
            delivered,
            latency_us,
        } in &self.by_hops
        {
            let links = counted(*hops, "link");
            writeln!(f, "    {links} {latency_us}, {}", grouped(*delivered))?;
        }
        let connect = &self.report.connect_ms;
        writeln!(
            f,
            "  connect   p50 {}, p99 {}, max {}",
            shown_ms(connect.p50),
            shown_ms(connect.p99),
            shown_ms(connect.max),
        )?;
        writeln!(
            f,
            "  mesh      {} delivered/s: {} reconnects, {} resumes, {} moves, {} resyncs, {} gaps",
            grouped(self.report.delivered_per_s.round() as u64),
            self.reconnects,
            self.resumes,
            self.moves,
            self.resyncs,
            self.gaps,
        )?;
        if let Some(cpu_us) = self.report.cpu_us_per_delivered {
            writeln!(f, "            {cpu_us:.1} µs of the relays' CPU for each")?;
        }
        writeln!(
            f,
            "  this tool {:.2} of {}, sends late by p50 {}, p99 {}, max {}",
            self.tool.cores_used,
            counted(self.tool.cores, "core"),
            shown_us(self.schedule_lag_us.p50),
            shown_us(self.schedule_lag_us.p99),
            shown_us(self.schedule_lag_us.max),
        )?;
        for (name, count) in &self.report.errors {
            writeln!(f, "  error     {name} {count}")?;
        }
        if self.tool.late || self.unsent > 0 {
            writeln!(
                f,
                "THIS TOOL WAS LATE: its machine could not send at the times that were planned, and \
                 latency includes that. Give it a machine of its own, or less to do."
            )?;
        }
        self.report.conclude(self.mode, f)
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            shown_us(self.p50),
            shown_us(self.p90),
            shown_us(self.p99),
            shown_us(self.p999),
            shown_us(self.max),
        )
    }
}

/// The summary for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        let (us, ms) = (shown_us, shown_ms);
        let cpu_us = self.cpu_us_per_delivered.unwrap_or_default();
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
            unless_zero(cpu_us, format!("{cpu_us:.1} µs")),
        )?;
        for (name, count) in &self.errors {
            writeln!(f, "  error     {name} {count}")?;
        }
        self.conclude(Mode::Ordered, f)
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
        let (both, load_alone) = include_str!("../../docs/report.md")
            .split_once("\n## What `load` adds")
            .unwrap();
        let documented = |text: &str| {
            text.lines()
                .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
        };
        let (both, load_alone) = (documented(both), documented(load_alone));
        assert_eq!(both, keys(&sample().json()));
        let all: BTreeSet<_> = both.union(&load_alone).cloned().collect();
        assert_eq!(all, keys(&load_sample().json()));
        assert!(both.is_disjoint(&load_alone));
    }

    #[test]
    fn a_promise_is_broken_by_what_its_mode_promises_alone() {
        let mut report = load_sample();
        for (mode, lost, told_lost, reordered, says_so) in [
            (Mode::Ordered, 1, 0, 0, true),
            (Mode::Reliable, 1, 0, 0, true),
            (Mode::Reliable, 1, 1, 0, false),
            (Mode::Reliable, 0, 0, 1, true),
            (Mode::Latest, 1, 0, 0, false),
            (Mode::Datagram, 1, 0, 1, false),
        ] {
            report.mode = mode;
            report.report.kept = false;
            report.report.verdict = Verdict {
                lost,
                told_lost,
                reordered,
                ..Verdict::default()
            };
            let said = report.to_string();
            let is_said = said.ends_with("A PROMISE WAS BROKEN.");
            assert_eq!(is_said, says_so, "{mode:?}: {said}");
        }
    }

    #[test]
    fn a_tool_that_was_late_says_so() {
        let mut report = load_sample();
        assert!(!report.to_string().contains("LATE"));
        report.tool.late = true;
        assert!(report.to_string().contains("THIS TOOL WAS LATE"));
        (report.tool.late, report.unsent) = (false, 1);
        assert!(report.to_string().contains("THIS TOOL WAS LATE"));
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
        report.cpu_us_per_delivered = None;
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

    fn keys(json: &str) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        collect(
            &serde_json::from_str(json).unwrap(),
            String::new(),
            &mut keys,
        );
        keys
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
            cpu_us_per_delivered: Some(12.5),
            per_relay: vec![RelayReport {
                node_id: "relay-1-0".to_owned(),
                clients: 4,
                sessions_owned: 1,
                delivered: 8_160,
                cpu_us: Some(102_000),
            }],
            errors: BTreeMap::from([("RateLimited", 1)]),
        }
    }

    fn load_sample() -> LoadReport {
        LoadReport {
            report: sample(),
            mode: Mode::Ordered,
            bytes: 64,
            placement: "spread".to_owned(),
            warm_up_s: 2,
            intended_per_s: 240,
            sent_per_s: 240.0,
            committed: 7_200,
            refused: 0,
            rejected: 0,
            unsent: 0,
            told_lost: 0,
            gaps: 0,
            reconnects: 0,
            resumes: 0,
            resyncs: 0,
            moves: 0,
            dropped_in: 0,
            dropped_out: 0,
            by_hops: vec![HopsReport {
                hops: 1,
                delivered: 100,
                latency_us: Quantiles::default(),
            }],
            schedule_lag_us: Quantiles::default(),
            tool: Tool {
                cores: 2,
                cores_used: 0.4,
                late: false,
            },
        }
    }
}

//! What a relay counts, as Prometheus reads it.
//!
//! Each row of [`TABLE`] says what it is and where it comes from, so that nothing is published which
//! is not described. Counts are copied from the nodes' published figures when somebody asks for them;
//! only the two histograms of the event loops are recorded as they happen. Labels are the node and,
//! where a row says so, the delivery mode, the error code or the outcome: never anything that grows with users.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_proto::NodeId;
use dreamcatcher_proto::frame::Mode;
use metrics::{Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::shared::Shared;
use crate::keys::KeyFigures;
use crate::node::io::Stats;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub help: &'static str,
    source: Source,
}

/// How Prometheus is to read a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// A count of the node.
    Node(fn(&Stats) -> u64),
    /// A count of the node per delivery mode: label `mode`.
    PerMode(fn(&Stats) -> [u64; 4]),
    /// Closes and refusals per error code: label `code`.
    Errors,
    /// A figure of the event loop.
    Loop(fn(&Shared) -> f64),
    /// Reads of the token keys by outcome, of the whole relay: label `outcome`, no `node`.
    KeyReads,
    /// Age of the token keys, of the whole relay: no `node`.
    KeysAge,
    /// Recorded by the event loop, in these buckets.
    Recorded(&'static [f64]),
}

use Kind::{Counter, Gauge};
use Source::{Loop, Node, PerMode};

const PASS_SECONDS: &str = "dreamcatcher_pass_duration_seconds";
const PASS_DATAGRAMS: &str = "dreamcatcher_pass_datagrams";

/// Every metric.
#[rustfmt::skip]
pub const TABLE: &[Metric] = &[
    metric("dreamcatcher_clients", Gauge, Unit::Count, "Open client connections.", Node(|s| s.clients)),
    metric("dreamcatcher_links", Gauge, Unit::Count, "Links to other nodes that are up.", Node(|s| s.links)),
    metric("dreamcatcher_sessions_owned", Gauge, Unit::Count, "Sessions that this node orders.", Node(|s| s.sessions_owned)),
    metric("dreamcatcher_members", Gauge, Unit::Count, "Members whose gateway this node is.", Node(|s| s.members)),
    metric("dreamcatcher_registered", Gauge, Unit::Count, "1 while the directory has granted a lease, else 0.", Loop(|s| f64::from(s.readiness().is_ok()))),
    metric("dreamcatcher_client_connections_total", Counter, Unit::Count, "Client connections accepted.", Node(|s| s.client_connections_total)),
    metric("dreamcatcher_datagrams_received_total", Counter, Unit::Count, "UDP datagrams received.", Node(|s| s.datagrams_received)),
    metric("dreamcatcher_datagrams_sent_total", Counter, Unit::Count, "UDP datagrams sent.", Node(|s| s.datagrams_sent)),
    metric("dreamcatcher_received_bytes_total", Counter, Unit::Bytes, "Bytes in UDP datagrams received.", Node(|s| s.bytes_received)),
    metric("dreamcatcher_sent_bytes_total", Counter, Unit::Bytes, "Bytes in UDP datagrams sent.", Node(|s| s.bytes_sent)),
    metric("dreamcatcher_sends_dropped_total", Counter, Unit::Count, "UDP sends that failed or found the socket full; QUIC repairs them.", Loop(|s| s.sends_dropped() as f64)),
    metric("dreamcatcher_published_total", Counter, Unit::Count, "Messages taken from this node's clients, by delivery mode.", PerMode(|s| s.published_total)),
    metric("dreamcatcher_delivered_total", Counter, Unit::Count, "Messages handed to this node's clients, by delivery mode.", PerMode(|s| s.delivered_total)),
    metric("dreamcatcher_ordered_total", Counter, Unit::Count, "Entries that this node ordered as an owner.", Node(|s| s.ordered_total)),
    metric("dreamcatcher_forwarded_total", Counter, Unit::Count, "Messages forwarded to a session's owner over a link.", Node(|s| s.forwarded_total)),
    metric("dreamcatcher_fanouts_total", Counter, Unit::Count, "Copies made for gateways, this node included: one per gateway and message.", Node(|s| s.fanouts_total)),
    metric("dreamcatcher_duplicates_total", Counter, Unit::Count, "Messages that came a second time and were dropped.", Node(|s| s.duplicates_total)),
    metric("dreamcatcher_redirects_total", Counter, Unit::Count, "Requests that went to a node which is not the owner.", Node(|s| s.redirects_total)),
    metric("dreamcatcher_resumes_total", Counter, Unit::Count, "Members that came back and were caught up.", Node(|s| s.resumes_total)),
    metric("dreamcatcher_latest_dropped_total", Counter, Unit::Count, "Latest and Datagram messages dropped because a newer one or no room was there.", Node(|s| s.latest_dropped_total)),
    metric("dreamcatcher_slow_consumers_total", Counter, Unit::Count, "Connections closed because the client did not read fast enough.", Node(|s| s.slow_consumers_total)),
    metric("dreamcatcher_owners_lost_total", Counter, Unit::Count, "Sessions that ended here because their owner was lost.", Node(|s| s.owners_lost_total)),
    metric("dreamcatcher_standby_copies", Gauge, Unit::Count, "Copies of sessions that other nodes own.", Node(|s| s.standby_copies)),
    metric("dreamcatcher_sessions_waiting", Gauge, Unit::Count, "Sessions here whose Ordered messages wait: for a standby, or for the directory.", Node(|s| s.sessions_waiting)),
    metric("dreamcatcher_stored_total", Counter, Unit::Count, "Entries stored for other owners.", Node(|s| s.stored_total)),
    metric("dreamcatcher_fenced_total", Counter, Unit::Count, "Frames refused because they came under a lower epoch than was promised.", Node(|s| s.fenced_total)),
    metric("dreamcatcher_views_installed_total", Counter, Unit::Count, "Changes of an owner or standby that the directory took.", Node(|s| s.views_installed_total)),
    metric("dreamcatcher_takeovers_total", Counter, Unit::Count, "Sessions that this node claimed from an owner that failed or left.", Node(|s| s.takeovers_total)),
    metric("dreamcatcher_handovers_total", Counter, Unit::Count, "Sessions that this node gave to another one on purpose.", Node(|s| s.handovers_total)),
    metric("dreamcatcher_links_redialled_total", Counter, Unit::Count, "Dials of a link that had been up before, or that failed.", Node(|s| s.links_redialled_total)),
    metric("dreamcatcher_directory_requests_total", Counter, Unit::Count, "Requests to the directory.", Node(|s| s.directory_requests_total)),
    metric("dreamcatcher_addresses", Gauge, Unit::Count, "Addresses with connections that count against a quota.", Node(|s| s.addresses)),
    metric("dreamcatcher_connections_refused_total", Counter, Unit::Count, "Connections refused because their address or network had as many as it may.", Node(|s| s.connections_refused_total)),
    metric("dreamcatcher_retries_total", Counter, Unit::Count, "Newcomers who had to show first that their address is real.", Node(|s| s.retries_total)),
    metric("dreamcatcher_over_budget_dropped_total", Counter, Unit::Count, "Latest and Datagram messages dropped because their sender was over its rates.", Node(|s| s.over_budget_dropped_total)),
    metric("dreamcatcher_over_budget_pauses_total", Counter, Unit::Count, "Times that a member's stream was left unread because it was over its rates.", Node(|s| s.over_budget_pauses_total)),
    metric("dreamcatcher_sessions_restored_total", Counter, Unit::Count, "Session records given back to a directory that may have lost them.", Node(|s| s.sessions_restored_total)),
    metric("dreamcatcher_codes_lost_total", Counter, Unit::Count, "Join codes that another session took while the directory had lost this one.", Node(|s| s.codes_lost_total)),
    metric("dreamcatcher_repairs_waiting", Gauge, Unit::Count, "Sessions whose record or end the directory has still to be told.", Node(|s| s.repairs_waiting)),
    metric("dreamcatcher_keys_unknown_total", Counter, Unit::Count, "Sign-ins that had to wait because their token names a key not known yet.", Node(|s| s.keys_unknown_total)),
    metric("dreamcatcher_keys_reads_total", Counter, Unit::Count, "Reads of the token keys, by outcome: url, directory (the URL failed), failed (both). Of the whole relay.", Source::KeyReads),
    metric("dreamcatcher_keys_age_seconds", Gauge, Unit::Seconds, "Since the present token keys were read; 0 for keys from a file. Of the whole relay.", Source::KeysAge),
    metric("dreamcatcher_errors_total", Counter, Unit::Count, "Closes and refusals, by error code.", Source::Errors),
    metric("dreamcatcher_passes_total", Counter, Unit::Count, "Wake-ups of the event loop: each is one pass.", Loop(|s| s.passes() as f64)),
    metric("dreamcatcher_cpu_seconds", Gauge, Unit::Seconds, "CPU time that the event loop's thread used since its start.", Loop(|s| s.cpu_time().as_secs_f64())),
    metric(PASS_SECONDS, Kind::Histogram, Unit::Seconds, "Duration of one pass of the event loop.",
        Source::Recorded(&[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2])),
    metric(PASS_DATAGRAMS, Kind::Histogram, Unit::Count, "UDP datagrams received in one pass of the event loop.",
        Source::Recorded(&[0., 1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1_024., 2_048.])),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    source: Source,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        help,
        source,
    }
}

/// The metrics of one relay. Every relay has a recorder of its own, because several run in one
/// process; nothing is installed globally.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    keys: Arc<KeyFigures>,
}

impl Metrics {
    pub(super) fn new(keys: Arc<KeyFigures>) -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in TABLE {
            if let Source::Recorded(buckets) = metric.source {
                let name = Matcher::Full(metric.name.to_owned());
                builder = builder.set_buckets_for_metric(name, buckets)?;
            }
        }
        let recorder = builder.build_recorder();
        for metric in TABLE {
            let name = KeyName::from_const_str(metric.name);
            let help = SharedString::const_str(metric.help);
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, Some(metric.unit), help),
                Kind::Gauge => recorder.describe_gauge(name, Some(metric.unit), help),
                Kind::Histogram => recorder.describe_histogram(name, Some(metric.unit), help),
            }
        }
        let handle = recorder.handle();
        Ok(Self {
            recorder,
            handle,
            keys,
        })
    }

    /// What the event loop of `node` records.
    pub(super) fn figures(&self, node: &NodeId) -> LoopFigures {
        let histogram = |name| {
            self.recorder
                .register_histogram(&key(name, node, None), &META)
        };
        LoopFigures {
            seconds: histogram(PASS_SECONDS),
            datagrams: histogram(PASS_DATAGRAMS),
        }
    }

    /// The text that Prometheus reads (exposition format 0.0.4).
    pub(super) fn render<'a>(&self, nodes: impl IntoIterator<Item = &'a Arc<Shared>>) -> String {
        for shared in nodes {
            self.copy(shared);
        }
        self.copy_keys();
        self.handle.render()
    }

    /// Makes room in the histograms; to be called every few seconds.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn copy(&self, shared: &Shared) {
        let stats = shared.stats();
        for metric in TABLE {
            let set = |label, value| self.set(metric, &key(metric.name, &shared.id, label), value);
            match metric.source {
                Source::Node(read) => set(None, read(&stats) as f64),
                Source::PerMode(read) => {
                    for (mode, count) in Mode::ALL.iter().zip(read(&stats)) {
                        set(
                            Some(Label::from_static_parts("mode", mode.name())),
                            count as f64,
                        );
                    }
                }
                Source::Errors => {
                    for (code, count) in &stats.errors_total {
                        set(
                            Some(Label::from_static_parts("code", code.name())),
                            *count as f64,
                        );
                    }
                }
                Source::Loop(read) => set(None, read(shared)),
                Source::KeyReads | Source::KeysAge | Source::Recorded(_) => {}
            }
        }
    }

    fn copy_keys(&self) {
        for metric in TABLE {
            match metric.source {
                Source::KeyReads => {
                    for (outcome, count) in self.keys.reads() {
                        let label = Label::from_static_parts("outcome", outcome);
                        let key = Key::from_parts(metric.name, vec![label]);
                        self.set(metric, &key, count as f64);
                    }
                }
                Source::KeysAge => {
                    let key = Key::from_static_name(metric.name);
                    self.set(metric, &key, self.keys.age().as_secs_f64());
                }
                Source::Node(_)
                | Source::PerMode(_)
                | Source::Errors
                | Source::Loop(_)
                | Source::Recorded(_) => {}
            }
        }
    }

    fn set(&self, metric: &Metric, key: &Key, value: f64) {
        match metric.kind {
            Kind::Counter => self
                .recorder
                .register_counter(key, &META)
                .absolute(value as u64),
            Kind::Gauge => self.recorder.register_gauge(key, &META).set(value),
            // Recorded as it happens.
            Kind::Histogram => {}
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Handles of the histograms that one event loop fills.
#[derive(Debug)]
pub(super) struct LoopFigures {
    seconds: Histogram,
    datagrams: Histogram,
}

impl LoopFigures {
    pub(super) fn pass(&self, duration: Duration, datagrams: usize) {
        self.seconds.record(duration);
        self.datagrams.record(datagrams as f64);
    }
}

const META: Metadata<'static> = Metadata::new("dreamcatcher", Level::INFO, None);

fn key(name: &'static str, node: &NodeId, label: Option<Label>) -> Key {
    let mut labels = vec![Label::new("node", node.to_string())];
    labels.extend(label);
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dreamcatcher_proto::ErrorCode;

    use super::*;

    #[test]
    fn every_metric_is_described_named_for_its_kind_and_published() {
        let text = rendered();
        for metric in TABLE {
            let name = metric.name;
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert!(
                text.contains(&format!("# HELP {name} {}\n", metric.help)),
                "{name}: no help"
            );
            assert!(
                text.contains(&format!("# TYPE {name} {kind}\n")),
                "{name}: no {kind}"
            );
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            let sample = if metric.kind == Kind::Histogram {
                "_bucket{"
            } else {
                "{"
            };
            let labels = match metric.source {
                Source::KeyReads => "outcome=\"url\"",
                Source::KeysAge => "",
                Source::Node(_)
                | Source::PerMode(_)
                | Source::Errors
                | Source::Loop(_)
                | Source::Recorded(_) => "node=\"a-0\"",
            };
            let sample = if labels.is_empty() { " " } else { sample };
            assert!(
                text.contains(&format!("\n{name}{sample}{labels}")),
                "{name}: no sample"
            );
        }
        let typed: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        assert_eq!(
            typed.len(),
            TABLE.len(),
            "nothing else is published: {typed:?}"
        );
    }

    #[test]
    fn counts_carry_their_mode_and_code() {
        let text = rendered();
        for line in [
            r#"dreamcatcher_delivered_total{node="a-0",mode="latest"} 3"#,
            r#"dreamcatcher_errors_total{node="a-0",code="InvalidToken"} 7"#,
            r#"dreamcatcher_sends_dropped_total{node="a-0"} 5"#,
            r#"dreamcatcher_pass_datagrams_bucket{node="a-0",le="16"} 1"#,
            r#"dreamcatcher_pass_datagrams_bucket{node="a-0",le="8"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    fn rendered() -> String {
        let metrics = Metrics::new(Arc::default()).unwrap_or_else(|e| panic!("{e}"));
        let id = "a-0".parse().unwrap_or_else(|e| panic!("{e}"));
        let shared = Shared::new(id, [0; 32], Arc::default());
        let stats = Stats {
            delivered_total: [1, 2, 3, 4],
            errors_total: [(ErrorCode::InvalidToken, 7)].into(),
            ..Stats::default()
        };
        shared.publish(&stats, 5, 6);
        metrics
            .figures(&shared.id)
            .pass(Duration::from_micros(30), 10);
        metrics.render([&shared])
    }
}

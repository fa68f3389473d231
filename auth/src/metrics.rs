//! What the service counts, as Prometheus reads it.
//!
//! Each row of [`TABLE`] says what it is. Labels come from closed sets: a route, an outcome, an error
//! code; never anything that grows with users.

use std::fmt;
use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub help: &'static str,
    /// Every label has one of these names.
    pub labels: &'static [&'static str],
}

/// How Prometheus is to read a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

pub(crate) const GUESTS: &str = "dreamcatcher_auth_guests_total";
pub(crate) const REGISTRATIONS: &str = "dreamcatcher_auth_registrations_total";
pub(crate) const LOGINS: &str = "dreamcatcher_auth_logins_total";
pub(crate) const REFRESHES: &str = "dreamcatcher_auth_refreshes_total";
pub(crate) const REFUSALS: &str = "dreamcatcher_auth_refusals_total";
pub(crate) const HASHES: &str = "dreamcatcher_auth_hashes_total";
pub(crate) const HASH_QUEUE: &str = "dreamcatcher_auth_hash_queue";
pub(crate) const STORE_ERRORS: &str = "dreamcatcher_auth_store_errors_total";
pub(crate) const KEY_CHANGES: &str = "dreamcatcher_auth_key_changes_total";
pub(crate) const KEYS_UNPUBLISHED: &str = "dreamcatcher_auth_keys_publish_failures_total";
pub(crate) const CONNECTIONS: &str = "dreamcatcher_auth_connections";
pub(crate) const CONNECTIONS_REFUSED: &str = "dreamcatcher_auth_connections_refused_total";
pub(crate) const REQUEST_SECONDS: &str = "dreamcatcher_auth_request_duration_seconds";

/// From an answer out of memory to [`Config::request_timeout`](crate::Config::request_timeout).
const REQUEST_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5.,
];

/// Every metric.
#[rustfmt::skip]
pub const TABLE: &[Metric] = &[
    metric(GUESTS, Counter, Unit::Count, "Guests signed in.", &[]),
    metric(REGISTRATIONS, Counter, Unit::Count, "Accounts made: new ones, and guests that got a name and a password.", &["kind"]),
    metric(LOGINS, Counter, Unit::Count, "Logins, by outcome: ok, wrong (password or user), limited.", &["outcome"]),
    metric(REFRESHES, Counter, Unit::Count, "Refreshes, by outcome: ok, unknown, reused (the family was revoked).", &["outcome"]),
    metric(REFUSALS, Counter, Unit::Count, "Requests refused, by error code.", &["code"]),
    metric(HASHES, Counter, Unit::Count, "Passwords hashed, for comparing or for keeping.", &[]),
    metric(HASH_QUEUE, Gauge, Unit::Count, "Passwords that are hashed or wait for a core.", &[]),
    metric(STORE_ERRORS, Counter, Unit::Count, "Requests to the store that failed because it did not answer.", &[]),
    metric(KEY_CHANGES, Counter, Unit::Count, "Times that the signing keys changed, the first at the start included.", &[]),
    metric(KEYS_UNPUBLISHED, Counter, Unit::Count, "Times that the keys could not be written to the directory.", &[]),
    metric(CONNECTIONS, Gauge, Unit::Count, "Open connections.", &[]),
    metric(CONNECTIONS_REFUSED, Counter, Unit::Count, "Connections closed at once because their address has too many.", &[]),
    metric(REQUEST_SECONDS, Histogram, Unit::Seconds, "From a request's header to its answer, by route.", &["route"]),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        help,
        labels,
    }
}

/// The metrics of one service. Each has a recorder of its own, because several can run in one
/// process; nothing is installed globally.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, Error> {
        let buckets = Matcher::Full(REQUEST_SECONDS.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(buckets, REQUEST_BUCKETS)
            .map_err(|e| Error::new(ErrorCode::Internal, format!("no metrics: {e}")))?
            .build_recorder();
        for metric in TABLE {
            let name = KeyName::from_const_str(metric.name);
            let help = SharedString::const_str(metric.help);
            match metric.kind {
                Counter => recorder.describe_counter(name, Some(metric.unit), help),
                Gauge => recorder.describe_gauge(name, Some(metric.unit), help),
                Histogram => recorder.describe_histogram(name, Some(metric.unit), help),
            }
        }
        let handle = recorder.handle();
        let metrics = Self { recorder, handle };
        // What has no label is there from the start, with 0.
        for metric in TABLE.iter().filter(|metric| metric.labels.is_empty()) {
            match metric.kind {
                Counter => metrics.counter(metric.name, &[], 0),
                Gauge => metrics.gauge(metric.name, 0),
                Histogram => {}
            }
        }
        Ok(metrics)
    }

    /// One more of `name`.
    pub(crate) fn count(&self, name: &'static str) {
        self.counter(name, &[], 1);
    }

    /// One more of `name` with this label.
    pub(crate) fn count_by(&self, name: &'static str, label: &'static str, value: &'static str) {
        self.counter(name, &[(label, value)], 1);
    }

    /// `name` is at `value` now; it never falls.
    pub(crate) fn reached(&self, name: &'static str, value: u64) {
        self.recorder
            .register_counter(&key(name, &[]), &META)
            .absolute(value);
    }

    pub(crate) fn gauge(&self, name: &'static str, value: usize) {
        self.recorder
            .register_gauge(&key(name, &[]), &META)
            .set(value as f64);
    }

    pub(crate) fn request(&self, route: &'static str, took: Duration) {
        self.recorder
            .register_histogram(&key(REQUEST_SECONDS, &[("route", route)]), &META)
            .record(took.as_secs_f64());
    }

    /// In the exposition format of Prometheus.
    pub(crate) fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)], more: u64) {
        self.recorder
            .register_counter(&key(name, labels), &META)
            .increment(more);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

const META: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    let labels = labels.iter();
    let labels = labels.map(|&(name, value)| Label::from_static_parts(name, value));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_label_is_published_from_the_start_with_its_help() {
        let metrics = Metrics::new().unwrap_or_else(|e| panic!("{e}"));
        let text = metrics.render();
        for metric in TABLE.iter().filter(|metric| metric.labels.is_empty()) {
            let (name, help) = (metric.name, metric.help);
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{text}");
            assert!(text.contains(&format!("\n{name} 0\n")), "{text}");
        }
    }

    #[test]
    fn names_are_prefixed_and_counters_end_in_total() {
        for metric in TABLE {
            assert!(metric.name.starts_with("dreamcatcher_auth_"), "{metric:?}");
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{metric:?}"
            );
        }
    }
}

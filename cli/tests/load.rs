//! `dreamcatcher load` as a user meets it, against a mesh that `dreamcatcher dev` runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

#[test]
fn every_mode_keeps_its_promises_and_accounts_for_every_message() {
    let mesh = Mesh::start();
    for mode in ["ordered", "reliable", "latest", "datagram"] {
        let (output, report) = mesh.load(&["--mode", mode, "--admin", &mesh.admins.join(",")]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let number = |key: &str| report[key].as_u64().unwrap();
        let scheduled = 6 * 20 * 2;
        let accounted = ["sent", "refused", "rejected", "unsent"].map(number);
        assert_eq!(accounted.iter().sum::<u64>(), scheduled, "{report:#}");
        assert_eq!(number("intended_per_s"), 6 * 20);
        // Ordered goes to all three members, the other modes to the other two.
        let owed = if mode == "ordered" { 3 } else { 2 };
        assert_eq!(number("expected"), number("sent") * owed, "{report:#}");
        for key in [
            "duplicated",
            "reordered",
            "leaked",
            "latest_older",
            "gaps",
            "resyncs",
        ] {
            assert_eq!(number(key), 0, "{mode} {key}: {report:#}");
        }
        let lost = number("expected") - number("delivered");
        assert_eq!(number("lost"), lost, "{report:#}");
        if ["ordered", "reliable"].contains(&mode) {
            assert_eq!(lost, 0, "{report:#}");
        } else {
            assert!(number("delivered") > number("expected") / 2, "{report:#}");
        }
        let committed = if mode == "ordered" { number("sent") } else { 0 };
        assert_eq!(number("committed"), committed, "{report:#}");
        for (key, value) in [("mode", mode), ("placement", "spread")] {
            assert_eq!(report[key], value);
        }
        for (key, value) in [
            ("players", 6),
            ("players_expected", 6),
            ("sessions", 2),
            ("sessions_across_relays", 2),
            ("bytes", 100),
            ("hz", 20),
        ] {
            assert_eq!(report[key], value, "{key}: {report:#}");
        }
        let seconds = report["seconds"].as_f64().unwrap();
        assert!((1.9..3.0).contains(&seconds), "{seconds}");
        assert!(report["latency_us"]["p50"].as_u64().unwrap() > 0);
        assert!(report["cpu_us_per_delivered"].as_f64().unwrap() > 0.0);
        assert!(report["tool"]["cores_used"].as_f64().unwrap() > 0.0);
        let by_hops = report["by_hops"].as_array().unwrap();
        let over_links: u64 = by_hops
            .iter()
            .map(|of| of["delivered"].as_u64().unwrap())
            .sum();
        assert_eq!(over_links, number("delivered"), "{report:#}");
        assert!(
            by_hops.len() >= 2,
            "members are on different relays: {report:#}"
        );
        let relays = report["per_relay"].as_array().unwrap();
        let of_relays =
            |key: &str| -> u64 { relays.iter().map(|of| of[key].as_u64().unwrap()).sum() };
        assert_eq!((of_relays("clients"), of_relays("sessions_owned")), (6, 2));
        assert!(of_relays("cpu_us") > 0);
    }
}

#[test]
fn the_report_has_the_documented_keys_and_those_of_dev() {
    let mesh = Mesh::start();
    let (output, report) = mesh.load(&["--mode", "ordered"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let documented: BTreeSet<String> = include_str!("../../docs/report.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|key| !key.starts_with("errors."))
        .map(str::to_owned)
        .collect();
    let mut keys = BTreeSet::new();
    collect(&report, String::new(), &mut keys);
    keys.retain(|key| !key.starts_with("errors"));
    assert_eq!(keys, documented);
    for unknown in [
        &report["cpu_us_per_delivered"],
        &report["per_relay"][0]["cpu_us"],
    ] {
        assert!(unknown.is_null(), "nobody was asked for it: {report:#}");
    }
}

#[test]
fn players_can_be_pinned_to_one_relay_or_take_the_nearest() {
    let mesh = Mesh::start();
    let (output, report) = mesh.load(&["--relay", "relay-2-0"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(report["placement"], "relay-2-0");
    assert_eq!(report["sessions_across_relays"], 0);
    let relays = report["per_relay"].as_array().unwrap();
    let clients = relays
        .iter()
        .find(|of| of["node_id"] == "relay-2-0")
        .unwrap();
    assert_eq!(clients["clients"], 6, "{report:#}");

    let (output, report) = mesh.load(&["--nearest"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(
        (&report["placement"], &report["lost"]),
        (&"nearest".into(), &0.into())
    );

    let unknown = mesh.command(&["--relay", "relay-9-0"]).output().unwrap();
    refused(&unknown, 2, &["--relay relay-9-0", "relay-1-0"]);
}

#[test]
fn a_signal_ends_it_early_with_a_report() {
    let mesh = Mesh::start();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("report.json");
    let mut load = mesh.command(&["--seconds", "600", "--warm-up", "0"]);
    load.arg("--report").arg(&file).stderr(Stdio::piped());
    let mut child = load.stdout(Stdio::piped()).spawn().unwrap();
    // The first line of progress comes five seconds into the measurement.
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("measured") {
        line.clear();
        assert!(
            progress.read_line(&mut line).unwrap() > 0,
            "it ended by itself"
        );
    }
    signal("-INT", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let seconds = report["seconds"].as_f64().unwrap();
    assert!((4.0..300.0).contains(&seconds), "{seconds}");
    assert_eq!(report["lost"], 0, "{report:#}");
    assert_eq!(
        report["unsent"], 0,
        "what was never due is not unsent: {report:#}"
    );
}

#[test]
fn an_auth_service_that_is_not_there_ends_with_69_and_is_named() {
    let nowhere = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let auth = format!("http://{nowhere}");
    refused(&run(&["load", "--auth", &auth]), 69, &[&auth]);
}

#[test]
fn relays_that_are_not_there_end_with_69() {
    let mut auth = Running::start(dreamcatcher().args([
        "auth",
        "--store",
        "memory",
        "--listen",
        "127.0.0.1:0",
    ]));
    let line = auth.line_with("listening on ");
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap();
    refused(&run(&["load", "--auth", url]), 69, &[url, "lists no relay"]);
}

#[test]
fn a_relay_that_says_nothing_of_its_cpu_ends_with_69_and_is_named() {
    let mesh = Mesh::start();
    let nowhere = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let output = mesh.command(&["--admin", &nowhere]).output().unwrap();
    refused(&output, 69, &["--admin", &nowhere]);
}

#[test]
fn what_cannot_be_done_ends_with_2_and_names_the_limit() {
    let auth = ["load", "--auth", "http://127.0.0.1:1"];
    for (flags, named) in [
        (
            ["--sessions=0"].as_slice(),
            ["--sessions", "from 1 to 1000"],
        ),
        (&["--sessions=1001"], ["--sessions", "from 1 to 1000"]),
        (&["--players=1"], ["--players", "from 2 to 16"]),
        (&["--players=17"], ["--players", "from 2 to 16"]),
        (&["--hz=0"], ["--hz", "from 1 to 120"]),
        (&["--hz=121"], ["--hz", "from 1 to 120"]),
        (&["--seconds=0"], ["--seconds", "from 1 to 86400"]),
        (&["--seconds=86401"], ["--seconds", "from 1 to 86400"]),
        (&["--bytes=23"], ["--bytes 23", "stamp"]),
        (&["--bytes=65537"], ["--bytes 65537", "65536"]),
        (&["--bytes=1101", "--mode=latest"], ["--bytes 1101", "1100"]),
        (
            &["--bytes=1101", "--mode=datagram"],
            ["--bytes 1101", "1100"],
        ),
        (&["--bytes=65536", "--hz=5"], ["262,144", "--bytes 52412"]),
        (&["--mode=fast"], ["--mode", "datagram"]),
        (&["--spread", "--nearest"], ["--spread", "--nearest"]),
        (&["--nearest", "--relay=r-0"], ["--nearest", "--relay"]),
        (
            &["--report=/no/such/folder/r.json"],
            ["--report", "No such file"],
        ),
    ] {
        let line: Vec<&str> = auth.iter().chain(flags).copied().collect();
        refused(&run(&line), 2, &named);
    }
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("load.toml");
    fs::write(&config, "nearest = true\nauth = \"http://127.0.0.1:1\"\n").unwrap();
    let config = ["load", "--config", config.to_str().unwrap()];
    refused(&run(&config), 69, &["127.0.0.1:1"]);
    let both: Vec<&str> = config.iter().copied().chain(["--relay=r-0"]).collect();
    refused(&run(&both), 2, &["--nearest", "--relay"]);
    refused(&run(&["load"]), 2, &["--auth"]);
    refused(
        &run(&["load", "--auth", "localhost"]),
        2,
        &["--auth", "http://"],
    );
}

#[test]
fn help_shows_how_it_is_used() {
    let help = run(&["load", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for part in [
        "Examples:",
        "--mode latest",
        "--ramp",
        "stamp",
        "[default: 30]",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

/// `dreamcatcher dev` with three relays.
struct Mesh {
    auth: String,
    admins: Vec<String>,
    _running: Running,
}

impl Mesh {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("addresses.json");
        let mut running = Running::start(dreamcatcher().args(["dev", "--addresses"]).arg(&file));
        running.line_with("Ctrl-C");
        let addresses: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            auth: text(&addresses["auth"]),
            admins: addresses["admin"]
                .as_array()
                .unwrap()
                .iter()
                .map(text)
                .collect(),
            _running: running,
        }
    }

    /// A small load: two sessions of three players at 20 Hz for two seconds.
    fn command(&self, more: &[&str]) -> Command {
        let mut command = dreamcatcher();
        command.args(["load", "--auth", &self.auth, "--sessions=2", "--players=3"]);
        command.args(["--hz=20", "--bytes=100"]).args(more);
        command
    }

    fn load(&self, more: &[&str]) -> (Output, Value) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("report.json");
        let mut command = self.command(more);
        command
            .args(["--seconds=2", "--warm-up=1", "--report"])
            .arg(&file);
        let output = command.output().unwrap();
        let report = json(&file).unwrap_or_else(|| panic!("no report: {}", said(&output)));
        (output, report)
    }
}

fn json(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// The paths of all values, as the documentation writes them.
fn collect(value: &Value, path: String, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
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

fn dreamcatcher() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamcatcher"));
    command.stdin(Stdio::null());
    command
}

/// Runs to the end.
fn run(line: &[&str]) -> Output {
    dreamcatcher().args(line).output().unwrap()
}

/// Whether it ended with this status, saying all of this on standard error.
fn refused(output: &Output, status: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(status), "{}", said(output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    for part in parts {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn signal(name: &str, child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success());
}

/// A process that runs until the test ends.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Reads on until a line says this.
    fn line_with(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended without saying {part:?}");
        }
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        signal("-TERM", &self.child);
        // What it still says would hold it up.
        let mut rest = Vec::new();
        let _ = self.lines.read_to_end(&mut rest);
        let _ = self.child.wait();
    }
}

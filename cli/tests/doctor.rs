//! `dreamcatcher doctor` as a user meets it: what it says, and the status it ends with.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

#[test]
fn a_mesh_that_is_well_ends_with_0_in_lines_and_in_json() {
    let dev = Dev::start();
    let lines = doctor(&["--auth", &dev.auth]);
    assert_eq!(lines.status.code(), Some(0), "{lines:?}");
    let said = stdout(&lines);
    assert!(said.ends_with("A player can play.\n"), "{said}");
    for step in [
        "name", "auth", "clock", "sign-in", "relays", "udp", "quic", "token", "session",
    ] {
        assert!(
            said.lines()
                .any(|line| line.starts_with(&format!("ok      {step} "))),
            "{step}: {said}"
        );
    }

    let json = doctor(&["--auth", &dev.auth, "--json", "--relay", "relay-2-0"]);
    assert_eq!(json.status.code(), Some(0), "{json:?}");
    let report: Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(report["can_play"], true);
    let nobody = doctor(&["--auth", &dev.auth, "--json", "--relay", "relay-9-0"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    let report: Value = serde_json::from_str(&stdout(&nobody)).unwrap();
    assert_eq!(report["can_play"], false);
    assert!(report["why_not"].as_str().unwrap().contains("relay-9-0"));
    assert!(stderr(&nobody).contains("a player cannot play"));
}

#[test]
fn an_auth_service_that_is_not_there_ends_with_69() {
    let port = {
        let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
        nowhere.local_addr().unwrap().port()
    };
    let url = format!("http://127.0.0.1:{port}");
    let ended = doctor(&["--auth", &url]);
    assert_eq!(ended.status.code(), Some(69), "{ended:?}");
    assert!(stdout(&ended).contains("FAILED  auth"), "{ended:?}");
    assert!(stderr(&ended).contains(&url), "{ended:?}");
}

#[test]
fn what_is_wrong_on_the_command_line_is_named_before_anything_is_asked() {
    let folder = TempDir::new().unwrap();
    let empty = folder.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (line, status, said) in [
        (["--auth", "http://192.0.2.1"].as_slice(), 2, "--insecure"),
        (&["--auth", "auth.example"], 2, "https://"),
        (&["--user", "ann"], 2, "--password-file"),
        (&["--password-file", empty], 2, "--user"),
        (&["--user", "ann", "--password-file", empty], 78, "empty"),
        (
            &["--user", "ann", "--password-file", "/absent"],
            78,
            "/absent",
        ),
        (
            &["--auth", "https://127.0.0.1:1", "--ca-file", "/absent"],
            78,
            "/absent",
        ),
    ] {
        let ended = doctor(line);
        assert_eq!(ended.status.code(), Some(status), "{line:?}: {ended:?}");
        assert!(stderr(&ended).contains(said), "{line:?}: {ended:?}");
    }
}

fn doctor(line: &[&str]) -> Output {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_dreamcatcher"));
    doctor.arg("doctor").args(line).stdin(Stdio::null());
    doctor.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `dreamcatcher dev` with two relays; killed when dropped.
struct Dev {
    child: Child,
    auth: String,
}

impl Dev {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("mesh.json");
        let mut child = Command::new(env!("CARGO_BIN_EXE_dreamcatcher"))
            .args(["dev", "--relays", "2", "--addresses"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The file is there before the last line is said.
        let up = lines
            .map_while(Result::ok)
            .any(|line| line.contains("Ctrl-C"));
        let addresses = fs::read_to_string(&file).unwrap_or_default();
        let mut dev = Self {
            child,
            auth: String::new(),
        };
        assert!(up, "dev did not start");
        let addresses: Value = serde_json::from_str(&addresses).unwrap();
        addresses["auth"]
            .as_str()
            .unwrap()
            .clone_into(&mut dev.auth);
        dev
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

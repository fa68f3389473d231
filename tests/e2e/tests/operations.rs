//! docs/operations.md, followed to the letter: its `sh` blocks, one after the other, in one shell.
//!
//! Blocks marked `sh root` are for the machine's administrator, and are not run: what they install and
//! configure, the test brings with it.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dreamcatcher_e2e::example::example;
use dreamcatcher_e2e::process::binary;
use dreamcatcher_servers::{Postgres, Redis};
use serde_json::Value;
use tokio::process::Command;

const PAGE: &str = include_str!("../../../docs/operations.md");
/// The page's own waits are 30 and 60 s; all of it takes half a minute.
const PAGE_WITHIN: Duration = Duration::from_secs(300);
/// Ports from a base: relays 1–4 take one each.
const PORTS: u16 = 5;

#[tokio::test]
async fn the_page_leads_from_nothing_to_a_mesh_that_is_played_on() {
    let redis = Redis::start();
    let postgres = Postgres::bare();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).expect("a new folder");
    for program in [binary().to_owned(), example("chat")] {
        let name = program.file_name().expect("a program has a name");
        std::os::unix::fs::symlink(&program, programs.join(name)).expect("a new link");
    }
    let mesh = folder.path().join("mesh");
    let kept = folder.path().join("kept");
    let script = folder.path().join("page.sh");
    std::fs::write(&script, script_of(PAGE)).expect("a new file");
    let path = std::env::var("PATH").expect("a path");
    let [udp, mesh_udp, admin] = [udp_base(), udp_base(), tcp_base()];
    let child = Command::new("bash")
        .arg(&script)
        .env_clear()
        .envs([
            ("HOME", folder.path().to_str().expect("UTF-8")),
            ("PATH", &format!("{}:{path}", programs.display())),
            ("AUTH_PORT", &port_of_tcp()),
            ("AUTH_ADMIN_PORT", &port_of_tcp()),
            ("RELAY_PORT", &udp.to_string()),
            ("MESH_PORT", &mesh_udp.to_string()),
            ("ADMIN_PORT", &admin.to_string()),
            ("REDIS_PORT", &redis.address().port().to_string()),
            ("PG_PORT", &postgres.address().port().to_string()),
            ("PG_ADMIN", &format!("psql {}", postgres.admin_url())),
            ("MESH_FOLDER", mesh.to_str().expect("UTF-8")),
            ("KEPT", kept.to_str().expect("UTF-8")),
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("bash starts");
    let output = tokio::time::timeout(PAGE_WITHIN, child.wait_with_output())
        .await
        .unwrap_or_else(|_| {
            panic!(
                "the page takes longer than {PAGE_WITHIN:?}: {}",
                logs(&mesh)
            )
        })
        .expect("bash can be waited for");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{said}\n{errors}\n{}{}",
        output.status,
        logs(&mesh),
        logs(&kept)
    );
    assert!(!mesh.exists(), "its files are left");
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0", "its keys are left");
    let left = "SELECT datname FROM pg_database WHERE datname = 'dreamcatcher' UNION ALL \
                SELECT rolname FROM pg_roles WHERE rolname LIKE 'dreamcatcher\\_%'";
    let left = std::process::Command::new("psql")
        .args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--command",
            left,
        ])
        .arg(postgres.admin_url())
        .output()
        .expect("psql starts");
    assert!(left.status.success(), "{left:?}");
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "");
    for told in ["ann: the door opens", "bob: I see it", "relay-3-0"] {
        assert!(said.contains(told), "{told} is not in {said}\n{errors}");
    }
    for secret in ["redis", "pg", "pg-owner", "ann", "bob"] {
        let file = kept.join(format!("{secret}.password"));
        let secret = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        for text in [&said, &errors, &logs(&kept).into()] {
            assert!(!text.contains(secret.trim_end()), "{file:?} is printed");
        }
    }
    let report = std::fs::read_to_string(kept.join("load.json")).expect("the report");
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|e| panic!("{report}: {e}"));
    assert_eq!(report["lost"], 0, "{report}");
}

/// The page's commands, each block named before it runs; what they made is kept aside for the test
/// before the page takes it away. A command that fails ends the script, and
/// whatever is still running with it.
fn script_of(page: &str) -> String {
    let mut script =
        String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n");
    let mut ours = false;
    let mut blocks = 0;
    for (number, line) in page.lines().enumerate() {
        if line == "### Clean up" {
            script += "cp -r \"$MESH_FOLDER\" \"$KEPT\"\n";
        }
        if line.starts_with("```") {
            ours = !ours && line == "```sh";
            if ours {
                blocks += 1;
                script += &format!("echo '== line {}' | tee /dev/stderr\n", number + 1);
            }
        } else if ours {
            script += line;
            script.push('\n');
        }
    }
    assert!(blocks >= 10, "{blocks} blocks of commands on the page");
    script
}

/// What the services wrote.
fn logs(mesh: &Path) -> String {
    let files = std::fs::read_dir(mesh).into_iter().flatten().flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().ends_with(".log"));
    logs.map(|file| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        format!("-- {}\n{text}", file.file_name().display())
    })
    .collect()
}

fn port_of_tcp() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port().to_string()
}

/// A port with free ones after it, below those that the system gives out by itself.
fn udp_base() -> u16 {
    base(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok())
}

fn tcp_base() -> u16 {
    base(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn base(is_free: impl Fn(u16) -> bool) -> u16 {
    loop {
        let base = rand::random_range(10_000..32_000);
        if (base..=base + PORTS).all(&is_free) {
            return base;
        }
    }
}

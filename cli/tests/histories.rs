//! `dreamcatcher verify-history`, on what a real mesh recorded and on what nobody should have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const HEADER: &str = r#"{"format":"dreamcatcher-history","version":1,"kind":"member","name":"ann","started_unix_ms":1800000000000}"#;

#[test]
fn what_bots_record_keeps_every_promise_and_a_planted_fault_is_found_with_file_and_line() {
    let folder = TempDir::new().unwrap();
    let histories = folder.path().join("run");
    let played = run([
        "dev".as_ref(),
        "--bots=6".as_ref(),
        "--players=3".as_ref(),
        "--seconds=3".as_ref(),
        "--history".as_ref(),
        histories.as_os_str(),
    ]);
    assert!(played.status.success(), "{}", stderr(&played));
    assert_eq!(files(&histories).len(), 6);

    let kept = run(["verify-history".as_ref(), histories.as_os_str()]);
    assert_eq!(
        kept.status.code(),
        Some(0),
        "{}{}",
        stdout(&kept),
        stderr(&kept)
    );
    assert!(
        stdout(&kept).contains("6 files: 2 sessions, 6 members"),
        "{}",
        stdout(&kept)
    );
    let said = json(&run([
        "verify-history".as_ref(),
        histories.as_os_str(),
        "--json".as_ref(),
    ]));
    assert_eq!(said["kept"], true);
    assert!(said["deliveries"].as_u64() > Some(200), "{said}");
    assert_eq!(said["incomplete"], 0, "{said}");
    for (id, verdict) in [
        ("I1", "ok"),
        ("I4", "ok"),
        ("I5", "ok"),
        ("I9", "not_checked"),
    ] {
        assert_eq!(invariant(&said, id)["verdict"], verdict, "{said}");
        let in_full = invariant(&said, id)["sessions_not_checked"] == 0;
        assert_eq!(in_full, verdict == "ok", "{id}: {said}");
    }

    let file = lose_an_entry(&histories);
    let broken = run(["verify-history".as_ref(), histories.as_os_str()]);
    assert_eq!(broken.status.code(), Some(1));
    let said = stdout(&broken);
    assert!(said.contains("I5   complete      BROKEN"), "{said}");
    assert!(said.contains("1 are missing, the first is index"), "{said}");
    let sites = files(&histories);
    let mut sites = sites
        .iter()
        .map(|other| format!("against {}:", other.display()));
    assert!(sites.any(|site| said.contains(&site)), "{said}");
    let here = format!("({}:2", file.display());
    assert!(said.contains(&here), "{said}");
    assert!(stderr(&broken).contains("breaks I5"), "{}", stderr(&broken));
}

#[test]
fn a_directory_of_an_earlier_run_is_refused_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("old.jsonl"), "").unwrap();
    for command in [["dev", "--bots=2"], ["load", "--auth=http://127.0.0.1:1"]] {
        let line = command.map(OsStr::new);
        let output = run([
            &line[..],
            &["--history".as_ref(), folder.path().as_os_str()],
        ]
        .concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("old.jsonl is there already"));
    }
    let output = run(["dev", "--history", "somewhere", "--seconds=1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("--history needs --bots"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_cannot_be_read_ends_with_2_and_is_named() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let long = format!("{HEADER}\n{}\n", "x".repeat(1_000_000));
    for (path, said) in [
        (folder.path().join("none.jsonl"), "No such file"),
        (folder.path().to_owned(), "holds no .jsonl file"),
        (write("a.txt", b""), "it is empty"),
        (write("b.txt", b"\x00\x01\n"), "b.txt:1: "),
        (
            write("c.txt", format!("{HEADER}\n{{}}\n").as_bytes()),
            "c.txt:2: missing field `us`",
        ),
        (
            write("d.txt", long.as_bytes()),
            "d.txt:2: the line has more than 4096 bytes",
        ),
        (
            write("e.txt", format!("{HEADER}\n").as_bytes()),
            "no member in them joined a session",
        ),
        (PathBuf::from("/dev/zero"), "it is not a file"),
    ] {
        let output = run(["verify-history".as_ref(), path.as_os_str()]);
        assert_eq!(output.status.code(), Some(2), "{said}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(said),
            "{said}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "");
    }
    let output = run(["verify-history"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("<FILE|DIR>"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_line_is_read_and_called_incomplete() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ann.jsonl");
    let joined = r#"{"us":1,"fact":{"joined":{"session":"000102030405060708090a0b0c0d0e0f","peer":1,"incarnation":1,"index":0,"members":[1]}}}"#;
    fs::write(&path, format!("{HEADER}\n{joined}\n{{\"us\":2,\"fa")).unwrap();
    let line = [
        "verify-history".as_ref(),
        path.as_os_str(),
        path.as_os_str(),
        folder.path().as_os_str(),
    ];
    let output = run(line);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("1 file: 1 session, 1 member"),
        "each file once: {said}"
    );
    assert!(said.contains("1 recording ended before"), "{said}");
    assert!(
        said.contains("Every promise that could be checked was kept."),
        "{said}"
    );
}

#[test]
fn its_help_has_an_example() {
    let help = stdout(&run(["verify-history", "--help"]));
    assert!(
        help.contains("Examples:") && help.contains("docs/histories.md"),
        "{help}"
    );
}

/// Takes an Ordered delivery that is not its last out of some file, which it names.
fn lose_an_entry(histories: &Path) -> PathBuf {
    for file in files(histories) {
        let text = fs::read_to_string(&file).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        let is_delivered = |line: &&str| line.contains("delivered") && line.contains("ordered");
        let ordered: Vec<usize> = (0..lines.len())
            .filter(|n| is_delivered(&lines[*n]))
            .collect();
        if ordered.len() > 3 {
            lines.remove(ordered[1]);
            fs::write(&file, lines.join("\n") + "\n").unwrap();
            return file;
        }
    }
    panic!("nobody was delivered anything");
}

fn invariant<'a>(said: &'a Value, id: &str) -> &'a Value {
    let all = said["invariants"].as_array().unwrap();
    all.iter().find(|invariant| invariant["id"] == id).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

fn run<A: AsRef<OsStr>>(line: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamcatcher"));
    command.args(line).env_remove("DREAMCATCHER_HISTORY");
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! The examples as a newcomer meets them.

use std::process::{Command, Output, Stdio};

use dreamcatcher_e2e::cluster::Cluster;
use dreamcatcher_e2e::example::example;

#[test]
fn an_example_shows_its_flags_and_refuses_what_it_does_not_know() {
    for (name, flags) in [
        (
            "chat",
            ["--auth", "--relay", "--join", "--password-file"].as_slice(),
        ),
        ("walk", &["--auth", "--relay", "--join", "--seconds"]),
    ] {
        let run = |line: &[&str]| -> Output {
            let mut command = Command::new(example(name));
            let output = command.args(line).stdin(Stdio::null()).output();
            output.unwrap_or_else(|e| panic!("{name} does not start: {e}"))
        };
        for line in [["--help"].as_slice(), &["-h"], &["--join", "A", "--help"]] {
            let help = run(line);
            assert_eq!(help.status.code(), Some(0), "{name} {line:?}: {help:?}");
            let said = String::from_utf8_lossy(&help.stdout);
            for flag in flags {
                assert!(said.contains(flag), "{flag}: {said}");
            }
        }
        // Nothing listens there: it is refused before anything is tried.
        for (line, cause) in [
            (["--jion", "BCD-F67"].as_slice(), "`--jion`"),
            (&["--auth=http://127.0.0.1:1", "BCD-F67"], "`BCD-F67`"),
            (&["--relay"], "--relay lacks its NODE"),
        ] {
            let refused = run(line);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{name} {line:?}: {said}");
            assert!(said.contains(cause) && said.contains("--help"), "{said}");
            assert!(refused.stdout.is_empty(), "{refused:?}");
        }
    }
    let seconds = Command::new(example("walk"))
        .args(["--seconds", "0"])
        .output()
        .unwrap_or_else(|e| panic!("walk does not start: {e}"));
    let said = String::from_utf8_lossy(&seconds.stderr);
    assert_eq!(seconds.status.code(), Some(2), "{said}");
    assert!(said.contains("--seconds has to be 1-65535"), "{said}");
}

#[tokio::test]
async fn walk_walks_with_the_flags_that_its_help_names() {
    let cluster = Cluster::start(2).await;
    let auth = format!("--auth={}", cluster.auth_url());
    let walk = tokio::process::Command::new(example("walk"))
        .args([&auth, "--relay", "relay-2-0", "--seconds", "1"])
        .kill_on_drop(true)
        .output();
    let walked = dreamcatcher_e2e::within("the end of the walk", walk).await;
    let walked = walked.unwrap_or_else(|e| panic!("walk does not start: {e}"));
    assert!(walked.status.success(), "{walked:?}");
    let said = String::from_utf8_lossy(&walked.stdout);
    assert!(said.contains("through relay-2-0"), "{said}");
}

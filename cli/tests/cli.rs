//! The binary as a user meets it: what it says, and the status it ends with.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use dreamcatcher_servers::{Postgres, Redis};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn help_reads_like_a_manual() {
    let general = run(["--help"]);
    assert_eq!(general.status.code(), Some(0));
    for said in [
        "dev",
        "relay",
        "auth",
        "keygen",
        "relays",
        "sessions",
        "config",
        "DREAMCATCHER_",
        "Exit status",
        "Examples",
    ] {
        assert!(
            stdout(&general).contains(said),
            "{said}: {}",
            stdout(&general)
        );
    }
    for command in [
        ["dev"].as_slice(),
        &["relay"],
        &["auth"],
        &["auth", "migrate"],
        &["keygen"],
        &["relays"],
        &["sessions"],
        &["config"],
        &["config", "show"],
    ] {
        let help = run([command, &["--help"]].concat());
        assert_eq!(help.status.code(), Some(0), "{command:?}");
        assert!(
            stdout(&help).contains("Example"),
            "{command:?}: {}",
            stdout(&help)
        );
    }
    for command in ["relay", "auth"] {
        let shown = run(["config", "show", command, "--help"]);
        let flags = |help: &Output| -> Vec<String> {
            let help = stdout(help);
            let words = help.split_whitespace().map(str::to_owned);
            words.filter(|word| word.starts_with("--")).collect()
        };
        for flag in flags(&run([command, "-h"])) {
            assert!(flags(&shown).contains(&flag), "{command} {flag}");
        }
    }
}

#[test]
fn an_unknown_flag_or_command_ends_with_2_and_is_named() {
    for (line, named) in [
        (["dev", "--relay"].as_slice(), "--relay"),
        (&["dev", "--speed=3"], "--speed"),
        (&["launch"], "launch"),
        (&[], "Usage"),
    ] {
        refused(&run(line), 2, &[named]);
    }
}

#[test]
fn a_value_outside_its_range_ends_with_2_and_names_flag_and_range() {
    for (flag, value, range) in [
        ("--relays", "0", "from 1 to 16"),
        ("--relays", "17", "from 1 to 16"),
        ("--bots", "1001", "from 0 to 1000"),
        ("--players", "1", "from 2 to 16"),
        ("--hz", "121", "from 1 to 120"),
        ("--seconds", "0", "from 1 to 86400"),
        ("--max-batch-delay-us", "many", "from 0 to 20000"),
        ("--regions", "EU", "region"),
        ("--log", "loud=very", "loud"),
        ("--log-format", "xml", "human"),
    ] {
        let line = format!("{flag}={value}");
        refused(&run(["dev", &line]), 2, &[flag, value, range]);
    }
    for (command, flag, value, range) in [
        ("relay", "--clients-max", "20001", "from 1 to 20000"),
        ("relay", "--message-rate", "0", "from 1 to 100000"),
        ("relay", "--byte-rate", "1023", "from 1024 to 16777216"),
        ("relay", "--always-retry", "yes", "true or false"),
        ("relay", "--wait-replicas", "6", "from 0 to 5"),
        ("relay", "--directory-prefix", "A B", "a-z"),
        ("auth", "--key-rotate-days", "0", "from 1 to 365"),
        ("auth", "--store-connections", "257", "from 1 to 256"),
        ("auth", "--trusted-proxies", "proxy", "10.0.0.1"),
        ("auth", "--insecure", "1", "true or false"),
        ("relays", "--wait", "0", "from 1 to 4096"),
        ("relays", "--within", "3601", "from 1 to 3600"),
        ("sessions", "--limit", "0", "from 1 to 1000000"),
        ("sessions", "--region", "EU", "a-z"),
    ] {
        let line = format!("{flag}={value}");
        refused(&run([command, &line]), 2, &[flag, value, range]);
    }
}

#[test]
fn an_environment_variable_outside_its_range_ends_with_2() {
    let mut dev = dreamcatcher();
    dev.arg("dev").env("DREAMCATCHER_RELAYS", "17");
    refused(
        &dev.output().unwrap(),
        2,
        &["--relays", "17", "from 1 to 16"],
    );
}

#[test]
fn what_only_bots_need_ends_with_2_without_them() {
    for (flag, value) in [
        ("--report", "report.json"),
        ("--players", "3"),
        ("--hz", "30"),
    ] {
        refused(&run(["dev", flag, value]), 2, &[flag, "--bots"]);
    }
}

#[test]
fn more_regions_than_relays_end_with_2_and_both_are_named() {
    let line = ["dev", "--relays", "2", "--regions", "eu,us,asia"];
    refused(&run(line), 2, &["--regions", "3", "--relays is 2"]);
}

#[test]
fn a_file_that_cannot_be_written_ends_with_2_before_anything_starts() {
    let folder = TempDir::new().unwrap();
    let absent = folder.path().join("absent/file.json");
    for (path, cause) in [
        (absent.as_path(), "No such file"),
        (folder.path(), "not a file"),
        (Path::new("/dev/null"), "not a file"),
    ] {
        for flag in ["--report", "--addresses"] {
            let path = path.to_str().unwrap();
            let ended = run(["dev", "--bots", "2", flag, path]);
            refused(&ended, 2, &[flag, path, cause]);
            assert_eq!(stdout(&ended), "");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn help_calls_the_command_dreamcatcher_whatever_its_file_is_called() {
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("other-name");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dreamcatcher"), &other).unwrap();
    let help = Command::new(&other).args(["dev", "--help"]).output();
    let help = stdout(&help.unwrap());
    assert!(help.contains("Usage: dreamcatcher dev"), "{help}");
    assert!(!help.contains("other-name"), "{help}");
}

#[test]
fn a_reader_that_has_gone_ends_the_process_quietly_with_141() {
    let folder = TempDir::new().unwrap();
    let key = folder.path().join("cluster.key");
    let lines: [&[&str]; 4] = [
        &["dev", "--help"],
        &["dev", "--bots", "2", "--seconds", "1"],
        &["auth", "--store=memory", "--listen=127.0.0.1:0"],
        &["keygen", "--out", key.to_str().unwrap()],
    ];
    for line in lines {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = dreamcatcher();
        command.args(line).args(["--log", "error"]).stdout(writer);
        let ended = command.output().unwrap();
        assert_eq!(ended.status.code(), Some(141), "{line:?}: {ended:?}");
        assert_eq!(stderr(&ended), "", "{line:?}");
    }
}

#[test]
fn a_reader_that_goes_while_bots_play_ends_the_process_with_141() {
    let mut dev = dreamcatcher();
    dev.args(["dev", "--bots", "2"]).stdout(Stdio::piped());
    let mut running = Running::start(dev.stderr(Stdio::piped()));
    running.line_with("Latest p50");
    let Running { child, lines } = &mut running;
    *lines = None;
    let mut said = String::new();
    let mut errors = child.stderr.take().unwrap();
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_full_disk_behind_standard_output_or_error_ends_with_1_and_no_panic() {
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for line in [["dev", "--help"], ["dev", "--seconds=1"]] {
        let ended = dreamcatcher().args(line).stdout(full()).output().unwrap();
        refused(&ended, 1, &["cannot write to standard output", "No space"]);
        let mut mute = dreamcatcher();
        mute.args(line).stdout(full()).stderr(full());
        assert_eq!(mute.status().unwrap().code(), Some(1), "{line:?}");
    }
}

#[test]
fn an_unknown_key_in_the_configuration_ends_with_78_and_is_named_with_its_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("relay.toml");
    fs::write(&file, "region = \"eu\"\nregoin = \"eu\"\n").unwrap();
    let config = file.to_str().unwrap();
    refused(
        &run(["relay", "--config", config]),
        78,
        &[config, "line 2", "`regoin`", "region"],
    );
    refused(
        &run(["auth", "--config", config]),
        78,
        &["line 1", "`region`", "admin, directory, directory_ca_file"],
    );
}

#[test]
fn a_task_reads_the_file_of_its_command_and_no_other_keys() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("auth.toml");
    let config = file.to_str().unwrap();
    fs::write(&file, "listen = \"127.0.0.1:0\"\nstore = \"memory\"\n").unwrap();
    refused(
        &run(["auth", "migrate", "--config", config]),
        78,
        &["memory"],
    );
    fs::write(&file, "listen = \"127.0.0.1:0\"\nlitsen = 1\n").unwrap();
    refused(
        &run(["auth", "migrate", "--config", config]),
        78,
        &["line 2", "`litsen`", "`auth migrate`", "listen"],
    );
}

#[test]
fn config_show_says_what_holds_and_where_it_was_said() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("relay.toml");
    fs::write(
        &file,
        "# a relay\nregion = \"eu\"\nnodes = 2\nadmin = \"127.0.0.1:1\"\n",
    )
    .unwrap();
    let mut show = dreamcatcher();
    show.args([
        "config",
        "show",
        "relay",
        "--origin",
        "--nodes=3",
        "--config",
    ])
    .arg(&file)
    .env("DREAMCATCHER_ADMIN", "127.0.0.1:2")
    .env("DREAMCATCHER_DIRECTORY", "redis://:canary@127.0.0.1");
    let shown = show.output().unwrap();
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    for (key, value, origin) in [
        ("region", "\"eu\"", "file, line 2"),
        ("nodes", "3", "flag --nodes"),
        ("admin", "\"127.0.0.1:2\"", "environment DREAMCATCHER_ADMIN"),
        (
            "directory",
            "\"redis://:…@127.0.0.1\"",
            "environment DREAMCATCHER_DIRECTORY",
        ),
        ("capacity", "20000", "default"),
    ] {
        let line = format!("{key} = {value}");
        let said = stdout(&shown);
        let found = said.lines().find(|said| said.starts_with(&line));
        let found = found.unwrap_or_else(|| panic!("{line}: {said}"));
        assert!(found.ends_with(&format!("# {origin}")), "{found}");
    }
    assert!(!stdout(&shown).contains("canary"));
    refused(
        &run(["config", "show", "relay", "--nodes=0"]),
        2,
        &["--nodes"],
    );
    refused(&run(["config", "show", "keygen"]), 2, &["keygen"]);
    refused(&run(["config", "show"]), 2, &["relay", "auth"]);
}

#[test]
fn a_password_in_a_url_is_masked_in_every_error() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("relay.toml");
    let config = file.to_str().unwrap();
    let url = "redis://:canary@127.0.0.1:1";
    let wrong = "rdis://user:canary@127.0.0.1:1";
    fs::write(&file, format!("directory = \"{wrong}\"\n")).unwrap();
    let mut from_environment = dreamcatcher();
    from_environment
        .arg("relay")
        .env("DREAMCATCHER_DIRECTORY", wrong);
    let jwks = "https://127.0.0.1:1/jwks.json?token=canary";
    let cluster_key = folder.path().join("cluster.key");
    let cluster_key = cluster_key.to_str().unwrap();
    assert!(run(["keygen", "--out", cluster_key]).status.success());
    let relay_with = |jwks: &str| {
        let line = ["relay", "--cluster-key-file", cluster_key, "--jwks", jwks];
        run(line)
    };
    for (ended, status) in [
        (relay_with("http://192.0.2.1/jwks.json?token=canary"), 78),
        (relay_with("https://u:canary@127.0.0.1:1/jwks.json"), 78),
        (run(["relay", jwks]), 2),
        (run(["relay", "--directory", wrong]), 2),
        (run(["relay", "--config", config]), 78),
        (from_environment.output().unwrap(), 2),
        (run(["relay", url]), 2),
        (run(["relay", "--jwks", wrong]), 2),
        (run(["auth", "--store", wrong]), 2),
        (run(["auth", "--store", "postgers://u:canary/@?x@h/d"]), 2),
        (run(["config", "show", "auth", "--store", wrong]), 2),
        (run(["relays", "--within=1", "--directory", url]), 69),
        (run(["config", "show", "relay", "--jwks", jwks]), 0),
        (
            run(["config", "show", "relay", "--jwks", "https://h/?a@b=canary"]),
            0,
        ),
    ] {
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        assert!(!stderr(&ended).contains("canary"), "{ended:?}");
        assert!(!stdout(&ended).contains("canary"), "{ended:?}");
    }
}

#[test]
fn a_log_shows_no_token_of_a_url() {
    let folder = TempDir::new().unwrap();
    let jwks = "http://127.0.0.1:1/jwks.json?token=canary";
    let mut relay = relay_that_reads(folder.path(), jwks);
    let mut running = Running::start(
        relay
            .env("DREAMCATCHER_LOG", "debug")
            .stderr(Stdio::piped()),
    );
    let mut logs = Logs::of(&mut running);
    logs.line_with("token keys not read");
    assert_eq!(running.stop(), Some(0));
    let logged = logs.rest();
    assert!(logged.contains("http://127.0.0.1:1/…"), "{logged}");
    assert!(!logged.contains("canary"), "{logged}");
}

#[test]
fn a_secret_file_that_is_of_no_use_ends_with_78_and_is_named_by_its_flag() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    let path = file.to_str().unwrap();
    let redis = ["--directory", "redis://user@127.0.0.1:1"];
    let postgres = ["--store", "postgres://user@127.0.0.1:1/d"];
    for (command, place, flag) in [
        ("relays", redis, "--directory-password-file"),
        ("auth", redis, "--directory-password-file"),
        ("auth", postgres, "--store-password-file"),
    ] {
        let line = [&[command], &place[..], &[flag, path]].concat();
        let _ = fs::remove_file(&file);
        refused(&run(&line), 78, &[flag, path, "No such file"]);
        fs::write(&file, "\n").unwrap();
        refused(&run(&line), 78, &[flag, path, "empty"]);
        fs::write(&file, "two\nlines").unwrap();
        refused(&run(&line), 78, &[flag, path, "more than one line"]);
    }
}

#[test]
fn a_cluster_key_that_others_can_read_ends_with_78() {
    let folder = TempDir::new().unwrap();
    let mut relay = relay(folder.path());
    let key = folder.path().join("cluster.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(
        &relay.output().unwrap(),
        78,
        &["--cluster-key-file", "0644", "chmod 600"],
    );
}

#[test]
fn relays_and_sessions_need_a_directory_that_processes_share() {
    for command in ["relays", "sessions"] {
        for line in [[command].as_slice(), &[command, "--directory", "memory"]] {
            refused(&run(line), 2, &["--directory", "redis"]);
        }
        let nowhere = [command, "--directory", "redis://127.0.0.1:1"];
        let said = run(nowhere);
        refused(&said, 69, &["127.0.0.1:1", "check --directory"]);
        let said = stderr(&said);
        assert_eq!(said.lines().count(), 1, "the cause, once: {said}");
        assert_eq!(said.matches("127.0.0.1:1").count(), 1, "{said}");
    }
    let line = [
        "relays",
        "--directory",
        "redis://127.0.0.1:1",
        "--wait=1",
        "--within=1",
    ];
    refused(&run(line), 69, &["127.0.0.1:1"]);
}

#[test]
fn a_refused_password_ends_a_service_with_78_before_it_serves() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let url = redis.url().replace("redis://", "redis://:canary@");
    let folder = TempDir::new().unwrap();
    let mut wrong = relay(folder.path());
    wrong.args(["--directory", &url]);
    let mut none = relay(folder.path());
    none.args(["--directory", &redis.url()]);
    let mut auth = auth();
    auth.args(["--directory", &url]);
    for mut command in [wrong, none, auth] {
        let ended = command.output().unwrap();
        refused(&ended, 78, &["password"]);
        assert!(!stderr(&ended).contains("canary"), "{ended:?}");
        assert_eq!(stdout(&ended), "", "{ended:?}");
    }
}

#[test]
fn a_relay_and_auth_start_without_redis_and_join_it_when_it_comes() {
    let mut redis = Redis::start();
    redis.kill();
    let folder = TempDir::new().unwrap();
    let (mut relay, mut auth) = (relay(folder.path()), auth());
    for command in [&mut relay, &mut auth] {
        command
            .args(["--directory", &redis.url()])
            .stderr(Stdio::piped());
    }
    let (mut relay, mut auth) = (Running::start(&mut relay), Running::start(&mut auth));
    relay.line_with("listening on");
    auth.line_with("listening on");
    redis.restart();
    let url = redis.url();
    let listed = run(["relays", "--directory", &url, "--wait=1", "--json"]);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["relays"].as_array().unwrap().len(), 1, "{listed:#}");
    for running in [&mut relay, &mut auth] {
        let mut logs = running.child.stderr.take().unwrap();
        assert_eq!(running.stop(), Some(0));
        let mut logged = String::new();
        logs.read_to_string(&mut logged).unwrap();
        assert!(logged.contains("the directory does not answer"), "{logged}");
        assert!(
            logged.matches("directory trouble; ").count() <= 1,
            "{logged}"
        );
        assert!(logged.matches("directory trouble is over").count() <= 1);
    }
    let gone = run(["relays", "--directory", &url]);
    assert_eq!(stdout(&gone), "no relay is alive\n");
}

#[test]
fn relays_shows_a_row_for_each_node_and_a_password_file_is_as_good_as_a_url() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let folder = TempDir::new().unwrap();
    let password = folder.path().join("redis.password");
    fs::write(&password, "right\n").unwrap();
    let password = password.to_str().unwrap();
    let place = [
        "--directory",
        &redis.url(),
        "--directory-password-file",
        password,
    ];
    let mut relay = relay(folder.path());
    relay
        .args(place)
        .args(["--id=eu-1", "--region=eu", "--host=rack-7", "--nodes=2"]);
    let mut running = Running::start(&mut relay);
    running.line_with("listening on");
    let shown = run([&["relays", "--wait", "2"], &place[..]].concat());
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    let said = stdout(&shown);
    assert_eq!(said.lines().count(), 3, "{said}");
    for said in ["NODE", "eu-1-0", "eu-1-1", "eu", "rack-7", "0/20000"] {
        assert!(stdout(&shown).contains(said), "{said}: {}", stdout(&shown));
    }
    assert!(stderr(&shown).contains("chmod 600"), "{}", stderr(&shown));
    let none = run([&["sessions"], &place[..]].concat());
    assert_eq!(stdout(&none), "no session is running\n", "{none:?}");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_relay_with_another_cluster_key_is_told_at_its_start() {
    let redis = Redis::start();
    let (ours, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let place = ["--directory", &redis.url()];
    let mut first = relay(ours.path());
    let mut running = Running::start(first.args(place));
    running.line_with("listening on");
    let wait = [&["relays", "--wait=1"], &place[..]].concat();
    assert_eq!(run(wait).status.code(), Some(0));
    let mut second = relay(theirs.path());
    second.args(place).arg("--id=stranger");
    refused(&second.output().unwrap(), 78, &["cluster key"]);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn migrate_prepares_a_postgres_once_and_says_what_it_did() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let unprepared = auth().args(["--store", &url]).output().unwrap();
    refused(&unprepared, 78, &["auth migrate"]);
    let first = run(["auth", "migrate", "--store", &url]);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert!(stdout(&first).contains("from version 0 to"), "{first:?}");
    let again = run(["auth", "migrate", "--store", &url]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert!(stdout(&again).contains("up to date"), "{again:?}");
    assert!(!stdout(&first).contains("nobody-guesses-this"), "{first:?}");

    let mut command = auth();
    let mut running = Running::start(command.args(["--store", &url]));
    running.line_with("auth is listening on http://");
    assert_eq!(running.stop(), Some(0));
    refused(
        &run(["auth", "--store", "memory", "migrate"]),
        2,
        &["migrate"],
    );
}

#[test]
fn a_relay_says_what_it_cannot_do_without() {
    refused(&run(["relay"]), 2, &["--jwks"]);
    let missing = ["relay", "--jwks", "no/such.json"];
    refused(&run(missing), 78, &["--jwks", "no/such.json"]);
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("other.json");
    fs::write(&other, r#"{"key": []}"#).unwrap();
    let other = other.to_str().unwrap();
    let refusal = run(["relay", "--jwks", other]);
    refused(
        &refusal,
        78,
        &["--jwks", other, "`keys`", "/.well-known/jwks.json"],
    );
    assert!(!stderr(&refusal).contains("missing field"), "{refusal:?}");
    refused(
        &run(["relay", "--directory", "localhost"]),
        2,
        &["--directory", "redis://"],
    );
    refused(
        &run(["relay", "--listen", "here"]),
        2,
        &["--listen", "127.0.0.1:4433"],
    );
}

#[test]
fn an_address_that_nobody_can_reach_is_not_advertised() {
    let folder = TempDir::new().unwrap();
    for flag in ["--advertise", "--mesh-advertise"] {
        for (address, said) in [
            ("127.0.0.1:0", "such as 127.0.0.1:4433"),
            ("0.0.0.0:4433", "an address that nobody can dial"),
            ("[::]:4433", "an address that nobody can dial"),
        ] {
            let mut relay = relay(folder.path());
            let ended = relay.args([flag, address]).output().unwrap();
            refused(&ended, 78, &["InvalidConfig", flag, address, said]);
        }
    }
    let mut relay = relay(folder.path());
    relay.env("DREAMCATCHER_LISTEN", "0.0.0.0:0");
    refused(
        &relay.output().unwrap(),
        78,
        &["--listen", "pass --advertise"],
    );
}

#[test]
fn a_port_in_use_ends_with_69_and_names_the_address() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let auth = run(["auth", "--store", "memory", "--listen", &address]);
    refused(
        &auth,
        69,
        &["AddressInUse", "--listen", &address, "0 takes"],
    );

    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut relay = relay(folder.path());
    relay.args(["--listen", &address]);
    refused(
        &relay.output().unwrap(),
        69,
        &["AddressInUse", "--listen", &address],
    );
}

#[test]
fn a_wrong_cluster_key_file_ends_with_78() {
    let folder = TempDir::new().unwrap();
    let mut relay = relay(folder.path());
    fs::write(folder.path().join("cluster.key"), "secret").unwrap();
    refused(&relay.output().unwrap(), 78, &["cluster.key", "keygen"]);
}

#[test]
fn keygen_makes_a_key_for_its_owner_alone_and_overwrites_it_only_by_force() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("cluster.key");
    let path = file.to_str().unwrap();
    assert!(run(["keygen", "--out", path]).status.success());
    let first = fs::read_to_string(&file).unwrap();
    assert_eq!(first.trim().len(), 64);
    assert!(first.trim().bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert_eq!(mode(&file), 0o600);

    refused(&run(["keygen", "--out", path]), 1, &[path, "--force"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), first);

    assert!(run(["keygen", "--out", path, "--force"]).status.success());
    assert_ne!(fs::read_to_string(&file).unwrap(), first);
    assert_eq!(mode(&file), 0o600);
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn a_relay_and_auth_stop_with_0_at_sigterm_and_sighup() {
    let folder = TempDir::new().unwrap();
    let mut auth = dreamcatcher();
    auth.args(["auth", "--store", "memory", "--listen", "127.0.0.1:0"]);
    for mut command in [auth, relay(folder.path())] {
        for signal in ["-TERM", "-HUP"] {
            let mut running = Running::start(&mut command);
            running.line_with("listening on");
            assert_eq!(running.stop_by(signal), Some(0), "{signal} {command:?}");
        }
    }
}

#[test]
fn a_relay_logs_that_it_stops_and_how_long_that_took() {
    let folder = TempDir::new().unwrap();
    let mut running = Running::start(relay(folder.path()).stderr(Stdio::piped()));
    running.line_with("listening on");
    let logs = Logs::of(&mut running);
    assert_eq!(running.stop(), Some(0));
    let logged = logs.rest();
    let (_, stopping) = logged.split_once("stopping").unwrap();
    for figure in ["clients=0", "members=0", "sessions=0"] {
        assert!(stopping.contains(figure), "{figure}: {logged}");
    }
    let (_, stopped) = stopping.split_once("stopped").unwrap();
    assert!(stopped.contains("took_ms="), "{logged}");
}

#[test]
fn a_second_signal_stops_a_relay_at_once() {
    let redis = Redis::start();
    let folder = TempDir::new().unwrap();
    let mut relay = relay(folder.path());
    relay.args(["--directory", &redis.url()]);
    let mut running = Running::start(relay.stderr(Stdio::piped()));
    running.line_with("listening on");
    let mut logs = Logs::of(&mut running);
    logs.line_with("registered");
    // It cannot leave in good order then, for two seconds.
    redis.freeze();
    running.signal("-TERM");
    logs.line_with("stopping");
    // What comes right after the first is the same wish, so more than one may be needed.
    while running.child.try_wait().unwrap().is_none() {
        running.signal("-TERM");
    }
    let logged = logs.rest();
    assert!(logged.contains("a second signal"), "{logged}");
    assert!(!logged.contains("stopped took_ms"), "{logged}");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    redis.thaw();
}

#[test]
fn a_trouble_that_lasts_is_logged_when_it_begins_and_when_it_is_over() {
    let auth = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/jwks.json", auth.local_addr().unwrap());
    let folder = TempDir::new().unwrap();
    let mut relay = relay_that_reads(folder.path(), url);
    let mut running = Running::start(relay.stderr(Stdio::piped()));
    let mut logs = Logs::of(&mut running);
    // Auth is away, and is asked again each second.
    for _ in 0..4 {
        drop(auth.accept().unwrap());
    }
    let document = jwks_document();
    let length = document.len();
    let (mut asks, _) = auth.accept().unwrap();
    let mut request = [0; 4_096];
    assert!(asks.read(&mut request).unwrap() > 0);
    write!(
        asks,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{document}"
    )
    .unwrap();
    logs.line_with("token keys are read from their URL again");
    assert_eq!(running.stop(), Some(0));
    let logged = logs.rest();
    assert_eq!(logged.matches("token keys not read").count(), 1, "{logged}");
}

#[test]
fn logs_are_json_objects_where_that_is_asked_for() {
    let mut auth = dreamcatcher();
    auth.args([
        "auth",
        "--store=memory",
        "--listen=127.0.0.1:0",
        "--log-format=json",
    ]);
    auth.stderr(Stdio::piped());
    let mut running = Running::start(&mut auth);
    running.line_with("listening on");
    let mut logs = running.child.stderr.take().unwrap();
    assert_eq!(running.stop(), Some(0));
    let mut logged = String::new();
    logs.read_to_string(&mut logged).unwrap();
    assert!(!logged.is_empty());
    for line in logged.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["level"], "INFO", "{line}");
        assert!(entry["message"].is_string(), "{line}");
    }
}

#[test]
fn dev_writes_every_address_once_it_listens_and_stops_with_0_at_sigterm() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("addresses.json");
    let mut dev = dreamcatcher();
    dev.args(["dev", "--relays", "2", "--regions", "eu,us", "--addresses"])
        .arg(&file);
    let mut running = Running::start(&mut dev);
    running.line_with("--relay relay-2-0 --name Bob --join CODE");
    running.line_with("Ctrl-C");

    let addresses: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(
        addresses["auth"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert_eq!(addresses["admin"].as_array().unwrap().len(), 2);
    let relays = addresses["relays"].as_array().unwrap();
    for (relay, [node_id, region, host]) in relays
        .iter()
        .zip([["relay-1-0", "eu", "host-1"], ["relay-2-0", "us", "host-2"]])
    {
        assert_eq!(relay["node_id"], node_id);
        assert_eq!(relay["region"], region);
        assert_eq!(relay["host"], host);
        for key in ["address", "mesh_address", "admin"] {
            let address = relay[key].as_str().unwrap();
            assert!(address.starts_with("127.0.0.1:"), "{key}: {address}");
        }
        assert_eq!(relay["certificate_sha256"][0].as_str().unwrap().len(), 64);
    }
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn bots_on_different_relays_share_sessions_and_nothing_is_lost() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("report.json");
    let mut dev = dreamcatcher();
    dev.args([
        "dev",
        "--bots",
        "6",
        "--players",
        "3",
        "--seconds",
        "3",
        "--report",
    ])
    .arg(&file);
    let output = dev.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    assert!(
        stdout(&output).contains("every promise was kept"),
        "{}",
        stdout(&output)
    );

    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (key, value) in [
        ("players", 6),
        ("sessions", 2),
        ("sessions_across_relays", 2),
        ("lost", 0),
        ("duplicated", 0),
        ("reordered", 0),
        ("leaked", 0),
        ("latest_older", 0),
    ] {
        assert_eq!(report[key], value, "{key}: {report:#}");
    }
    assert_eq!(report["expected"], report["delivered"], "{report:#}");
    assert!(report["sent"].as_u64().unwrap() >= 6 * 4, "{report:#}");
    assert!(
        report["latest_delivered"].as_u64().unwrap() > 0,
        "{report:#}"
    );
    assert_eq!(report["per_relay"].as_array().unwrap().len(), 3);
    assert!(
        report["cpu_us_per_delivered"].as_f64().unwrap() > 0.0,
        "{report:#}"
    );
}

fn dreamcatcher() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamcatcher"));
    command.stdin(Stdio::null());
    command
}

/// Runs to the end.
fn run<A: AsRef<OsStr>>(line: impl IntoIterator<Item = A>) -> Output {
    dreamcatcher().args(line).output().unwrap()
}

/// Auth on a free port, with users in memory unless it is told otherwise.
fn auth() -> Command {
    let mut auth = dreamcatcher();
    auth.arg("auth")
        .env("DREAMCATCHER_STORE", "memory")
        .env("DREAMCATCHER_LISTEN", "127.0.0.1:0");
    auth
}

/// A relay on free ports, with its key and JWKS in this folder.
fn relay(folder: &Path) -> Command {
    let jwks = folder.join("jwks.json");
    fs::write(&jwks, jwks_document()).unwrap();
    relay_that_reads(folder, jwks)
}

/// The same, with its JWKS elsewhere.
fn relay_that_reads(folder: &Path, jwks: impl AsRef<OsStr>) -> Command {
    let key = folder.join("cluster.key");
    if !key.exists() {
        let made = run([OsStr::new("keygen"), OsStr::new("--out"), key.as_os_str()]);
        assert!(made.status.success(), "{made:?}");
    }
    let mut relay = dreamcatcher();
    relay.arg("relay").env("DREAMCATCHER_LISTEN", "127.0.0.1:0");
    relay.env("DREAMCATCHER_NODES", "1");
    relay.args(["--mesh-listen=127.0.0.1:0", "--admin=127.0.0.1:0"]);
    relay
        .arg("--jwks")
        .arg(jwks)
        .arg("--cluster-key-file")
        .arg(key);
    relay
}

/// With the public key of RFC 8037, appendix A.2.
fn jwks_document() -> String {
    let public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"test","x":"{public}"}}]}}"#
    )
}

/// Whether it ended with this status, saying all of this on standard error.
fn refused(output: &Output, status: i32, said: &[&str]) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    for said in said {
        assert!(stderr(output).contains(said), "{said}: {}", stderr(output));
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

/// A process that is still there. It is killed if the test fails.
struct Running {
    child: Child,
    /// `None` is a pipe that nobody reads any more.
    lines: Option<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Some(BufReader::new(child.stdout.take().unwrap()));
        Self { child, lines }
    }

    /// Reads on until a line says this.
    fn line_with(&mut self, said: &str) {
        let lines = self.lines.as_mut().unwrap();
        let mut line = String::new();
        while !line.contains(said) {
            line.clear();
            let read = lines.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended without saying {said:?}");
        }
    }

    /// SIGTERM, and the status that it ends with.
    fn stop(&mut self) -> Option<i32> {
        self.stop_by("-TERM")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn stop_by(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        let mut rest = String::new();
        self.lines
            .as_mut()
            .unwrap()
            .read_to_string(&mut rest)
            .unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process writes to standard error, as far as it was read.
struct Logs {
    lines: BufReader<ChildStderr>,
    read: String,
}

impl Logs {
    fn of(running: &mut Running) -> Self {
        Self {
            lines: BufReader::new(running.child.stderr.take().unwrap()),
            read: String::new(),
        }
    }

    /// Reads on until a line says this.
    fn line_with(&mut self, said: &str) {
        loop {
            let from = self.read.len();
            let read = self.lines.read_line(&mut self.read).unwrap();
            assert!(read > 0, "it ended without saying {said:?}: {}", self.read);
            if self.read[from..].contains(said) {
                return;
            }
        }
    }

    /// Everything, once it has ended.
    fn rest(mut self) -> String {
        self.lines.read_to_string(&mut self.read).unwrap();
        self.read
    }
}

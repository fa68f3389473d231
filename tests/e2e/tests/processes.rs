//! The command line, from outside: exit statuses, messages, signals.

use std::time::{Duration, Instant};

use dreamcatcher_e2e::client::{Client, closed};
use dreamcatcher_e2e::cluster::{Cluster, eventually};
use dreamcatcher_e2e::code;
use dreamcatcher_e2e::control::{RelayBody, SessionOptions};
use dreamcatcher_e2e::frame::{Mode, Target};
use dreamcatcher_e2e::process::{LoneRelay, Mesh, Process, secrets};
use dreamcatcher_e2e::token::Key;

#[tokio::test]
async fn an_unknown_flag_or_command_exits_2_and_is_named() {
    for (arguments, named) in [
        (&["dev", "--relais", "3"][..], "--relais"),
        (&["relay", "--nods", "3"], "--nods"),
        (&["fly"], "fly"),
        (&["dev", "--relays", "0"], "--relays"),
        (&["dev", "--relays", "many"], "many"),
        (&["dev", "--bots", "-3"], "-3"),
        (&["relay", "--listen", "nowhere"], "nowhere"),
        (&["relay"], "--jwks"),
    ] {
        let ended = Process::start(arguments).ended().await;
        assert_eq!(ended.status, Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(named),
            "{named} is not in {}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn a_malformed_configuration_exits_78_and_says_where() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("dreamcatcher.toml");
    let path = file.to_str().expect("a UTF-8 path");
    for (text, named) in [
        ("relays = [", "line 1"),
        ("relais = 3\n", "relais"),
        ("relays = \"three\"\n", "relays"),
    ] {
        std::fs::write(&file, text).expect("a new file");
        let ended = Process::start(&["dev", "--config", path]).ended().await;
        assert_eq!(ended.status, Some(78), "{text:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(named),
            "{named} is not in {}",
            ended.stderr
        );
    }
    let missing = Process::start(&["dev", "--config", "/nowhere.toml"])
        .ended()
        .await;
    assert_eq!(missing.status, Some(78), "{}", missing.stderr);
    assert!(
        missing.stderr.contains("/nowhere.toml"),
        "{}",
        missing.stderr
    );
}

#[tokio::test]
async fn secrets_that_are_none_exit_78_and_name_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (jwks, cluster_key) = secrets(directory.path(), &Key::new("ours", 7));
    let bad = directory.path().join("bad");
    std::fs::write(&bad, "not a key").expect("a new file");
    let bad = bad.to_str().expect("a UTF-8 path");
    for (jwks, cluster_key, bad) in [
        (bad, cluster_key.as_str(), bad),
        (&jwks, bad, bad),
        ("/dev/zero", &cluster_key, "/dev/zero"),
        (&jwks, "/dev/zero", "/dev/zero"),
    ] {
        let ended = Process::start(
            &[
                &["relay", "--jwks", jwks, "--cluster-key-file", cluster_key],
                LOOPBACK,
            ]
            .concat(),
        );
        let ended = ended.ended().await;
        assert_eq!(ended.status, Some(78), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(bad),
            "{bad} is not in {}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn a_port_in_use_exits_69_and_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (jwks, cluster_key) = secrets(directory.path(), &Key::new("ours", 7));
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free UDP port");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a free TCP port");
    let udp = udp
        .local_addr()
        .map(|address| (address.to_string(), udp))
        .expect("an address");
    let tcp = tcp
        .local_addr()
        .map(|address| (address.to_string(), tcp))
        .expect("an address");
    for (flag, address) in [
        ("--listen", &udp.0),
        ("--mesh-listen", &udp.0),
        ("--admin", &tcp.0),
    ] {
        let mut arguments = vec![
            "relay",
            "--nodes",
            "1",
            "--jwks",
            &jwks,
            "--cluster-key-file",
            &cluster_key,
            flag,
            address,
        ];
        for free in ["--listen", "--mesh-listen", "--admin"]
            .into_iter()
            .filter(|free| *free != flag)
        {
            arguments.extend([free, "127.0.0.1:0"]);
        }
        let ended = Process::start(&arguments).ended().await;
        assert_eq!(ended.status, Some(69), "{flag}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(address),
            "{address} is not in {}",
            ended.stderr
        );
    }
    let ended = Process::start(&["auth", "--store", "memory", "--listen", &tcp.0])
        .ended()
        .await;
    assert_eq!(ended.status, Some(69), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(&tcp.0),
        "{} is not in {}",
        tcp.0,
        ended.stderr
    );
}

#[tokio::test]
async fn sigterm_tells_the_players_and_exits_0_within_ten_seconds() {
    let mesh = Mesh::start(2).await;
    let mut ann = mesh.client(0, "Ann").await;
    let mut bea = mesh.client(1, "Bea").await;
    let created = ann
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    bea.join_code(&created.join_code)
        .await
        .expect("a join by code");

    let began = Instant::now();
    mesh.process.terminate();
    for client in [&mut ann, &mut bea] {
        let (mut draining, mut ended) = (false, false);
        while !(draining && ended) {
            match client.next_control().await.body {
                Some(RelayBody::Draining(_)) => draining = true,
                Some(RelayBody::Ended(end)) => {
                    assert_eq!(
                        u64::from(end.cause.expect("a cause").code),
                        code::OWNER_LOST
                    );
                    ended = true;
                }
                other => panic!("{other:?} on the way out"),
            }
        }
        assert_eq!(closed(&client.connection).await.0, code::RELAY_DRAINING);
    }
    let ended = mesh.process.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert!(
        began.elapsed() <= Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_stopping_relay_carries_a_member_until_it_has_moved() {
    let mut cluster = Cluster::start(3).await;
    let hers = cluster.token("Ann").await;
    let mut ann = Client::hello(&cluster.relays[0].address, &hers).await;
    let created = ann.create(SessionOptions::default()).await;
    let created = created.expect("a new session");
    let owner = cluster.number(&created.owner);
    let (carrier, other) = ((owner + 1) % 3, (owner + 2) % 3);
    // To where she stays, whoever stops.
    let seat = ann.drop_connection().await;
    let mut ann = Client::hello(&cluster.relays[owner].address, &hers).await;
    ann.resume(seat).await.expect("the seat is held");
    let token = cluster.token("Bea").await;
    let mut bea = Client::hello(&cluster.relays[carrier].address, &token).await;
    let joined = bea.join_code(&created.join_code).await;
    joined.expect("a join by code");

    // Its figures, from which it says whom it carries, are up to 250 ms old.
    let counted = format!(
        "dreamcatcher_members{{node=\"{}-0\"}} 1",
        cluster.relays[carrier].id
    );
    eventually("she is counted", async || {
        let (_, page) = cluster.page(carrier, "/metrics").await;
        page.contains(&counted).then_some(())
    })
    .await;
    let other = cluster.relays[other].address.clone();
    let node = format!("{}-0", cluster.relays[carrier].id);
    let stopping = cluster.take(&node).process;
    stopping.terminate();
    let told = bea.next_control().await.body;
    assert!(matches!(told, Some(RelayBody::Draining(_))), "{told:?}");
    // What a member far away needs to move: several round trips.
    let began = Instant::now();
    let mut turn = tokio::time::interval(Duration::from_millis(50));
    while began.elapsed() < Duration::from_secs(1) {
        turn.tick().await;
        ann.send(Mode::Ordered, Target::Others, "still there?")
            .await;
        assert_eq!(bea.ordered().await.1, "still there?");
    }
    let mut moved = Client::hello(&other, &token).await;
    let resumed = moved.resume(bea.seat().clone()).await;
    assert!(resumed.expect("the seat is hers").resumed);
    ann.send(Mode::Ordered, Target::Others, "and there?").await;
    assert_eq!(moved.ordered().await.1, "and there?");
    let ended = stopping.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("members=1"), "{}", ended.stderr);
    assert_eq!(closed(&bea.connection).await.0, code::RELAY_DRAINING);
}

#[tokio::test]
async fn a_relay_without_players_exits_0_at_sigterm() {
    let lone = LoneRelay::start(&Key::new("ours", 7)).await;
    lone.process.terminate();
    let ended = lone.process.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
}

const LOOPBACK: &[&str] = &[
    "--listen",
    "127.0.0.1:0",
    "--mesh-listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
];

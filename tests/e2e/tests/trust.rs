//! Who is let in: passwords of Redis and Postgres, the cluster key, clocks that differ.

use dreamcatcher_e2e::client::Client;
use dreamcatcher_e2e::cluster::{Cluster, Extra, eventually};
use dreamcatcher_e2e::control::SessionOptions;
use dreamcatcher_e2e::frame::{Mode, Target};
use dreamcatcher_e2e::process::{Process, secrets};
use dreamcatcher_e2e::token::Key;
use dreamcatcher_servers::{Postgres, Redis};

#[tokio::test]
async fn a_wrong_password_ends_the_start_with_what_to_do_and_is_not_printed() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let postgres = Postgres::start();
    let wrong_redis = redis.url().replace("redis://", "redis://:n0tright@");
    let wrong_postgres = {
        let address = postgres.address();
        format!("postgres://dreamcatcher:n0tright@{address}/dreamcatcher")
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (jwks, cluster_key) = secrets(directory.path(), &Key::new("ours", 7));
    let relay = [
        "relay",
        "--jwks",
        &jwks,
        "--cluster-key-file",
        &cluster_key,
        "--directory",
        &wrong_redis,
        "--listen",
        "127.0.0.1:0",
        "--mesh-listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let auth = |store, directory| {
        [
            "auth",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--store",
            store,
            "--directory",
            directory,
        ]
    };
    for arguments in [
        &relay[..],
        &auth("memory", &wrong_redis),
        &auth(&wrong_postgres, "memory"),
        &["auth", "migrate", "--store", &wrong_postgres],
    ] {
        let ended = Process::start(arguments).ended().await;
        assert_eq!(ended.status, Some(78), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("password"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("n0tright"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_relay_with_another_cluster_key_is_kept_out_and_said_so() {
    let cluster = Cluster::start(2).await;
    let other = cluster.folder().join("other.key");
    std::fs::write(&other, "0d".repeat(32)).expect("a new file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&other, mode).expect("its mode");
    let extra = Extra {
        arguments: &["--cluster-key-file", other.to_str().expect("UTF-8")],
        environment: &[],
    };
    let (stranger, _) = cluster.start_relay("stranger", extra);
    let ended = stranger.ended().await;
    assert_eq!(ended.status, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("cluster key"), "{}", ended.stderr);

    let list = cluster.get("/v1/relays").await;
    assert_eq!(list["relays"].as_array().map(Vec::len), Some(2), "{list}");
    for turn in 0..10 {
        let mut creator = cluster.client(turn % 2, "Creator").await;
        creator
            .create(SessionOptions::default())
            .await
            .expect("placed on a relay that can be reached");
    }
}

#[tokio::test]
async fn clocks_that_are_ten_seconds_apart_change_nothing() {
    let mut cluster = Cluster::start(1).await;
    let faketime = libfaketime();
    for offset in ["+10s", "-10s"] {
        let environment = [
            ("LD_PRELOAD", faketime.as_str()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let extra = Extra {
            arguments: &[],
            environment: &environment,
        };
        cluster.add_relay(extra).await;
    }
    let mut players = Vec::new();
    for relay in 0..3 {
        players.push(cluster.client(relay, "Player").await);
    }
    // Each of them creates, so that whoever owns and whoever carries differ.
    for creator in 0..3 {
        for _ in 0..3 {
            let created = players[creator]
                .create(SessionOptions::default())
                .await
                .expect("a new session");
            for joiner in (0..3).filter(|&joiner| joiner != creator) {
                players[joiner]
                    .join_code(&created.join_code)
                    .await
                    .expect("a join by code");
            }
            for (sender, player) in (0_u8..).zip(&mut players) {
                player.send(Mode::Ordered, Target::All, vec![sender]).await;
            }
            let mut orders = Vec::new();
            for player in &mut players {
                let mut order = Vec::new();
                for _ in 0..3 {
                    order.push(player.ordered().await.1[0]);
                }
                orders.push(order);
            }
            assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
            for player in &mut players {
                player.leave().await;
            }
        }
    }
    // Nobody is taken for dead, whatever its clock says.
    let relays = cluster.get("/v1/relays").await;
    assert_eq!(relays["relays"].as_array().map(Vec::len), Some(3));
    let token = cluster.token("Fresh").await;
    let slow = &cluster.relays[2].address;
    eventually(
        "a fresh token is good where the clock is behind",
        async || Some(Client::hello(slow, &token).await),
    )
    .await;
}

/// Debian keeps it in the folder of the machine's architecture.
fn libfaketime() -> String {
    let libraries = std::fs::read_dir("/usr/lib").expect("a folder").flatten();
    let found = libraries
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.exists());
    let found = found.expect("libfaketime is installed by ./test");
    found.to_str().expect("UTF-8").to_owned()
}

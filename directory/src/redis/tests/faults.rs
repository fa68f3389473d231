//! What a relay sees while Redis is away, empty, slow, locked or full of garbage.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dreamcatcher_proto::ErrorCode;
use dreamcatcher_servers::Redis;
use secrecy::SecretString;

use super::{next_hint, refused_within, start, until};
use crate::conformance::{holder, new_session, node, session};
use crate::redis::{RedisConfig, RedisDirectory};
use crate::{
    Change, Directory, DirectoryError, Filter, Hint, ListPage, Reply, Request, Timestamp, limits,
};

/// Within which a new session has to be refused while Redis is away.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_killed_redis_is_told_at_once_and_a_restarted_one_is_empty_and_works() {
    let mut redis = Redis::start();
    let directory = start(&redis.url()).await;
    let a = holder("a", 1);
    let register = Request::Register(node(&a));
    assert_eq!(directory.call(register.clone()).await, Ok(Reply::Done));
    let mut watch = directory.watch();

    redis.kill();
    for _ in 0..3 {
        let cause = refused_within(REFUSED_WITHIN, &directory, new_session(1, &a)).await;
        assert!(!cause.is_empty());
    }
    redis.restart();
    until("it is connected again", async || {
        directory.check().await.is_ok()
    })
    .await;
    assert_eq!(next_hint(&mut watch).await, Hint::Missed(0));
    let forgotten = Err(DirectoryError::NotRegistered(a.clone()));
    assert_eq!(directory.call(new_session(1, &a)).await, forgotten);
    assert_eq!(directory.call(register).await, Ok(Reply::Done));
    let created = directory.call(new_session(1, &a)).await;
    assert!(matches!(created, Ok(Reply::Created { .. })), "{created:?}");
    until("its own hint comes", async || {
        next_hint(&mut watch).await == Hint::Changed(Change::NodeUp(node(&a)))
    })
    .await;
}

#[tokio::test]
async fn a_frozen_redis_is_told_within_a_second_and_is_used_again_once_it_moves() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    redis.freeze();
    for _ in 0..4 {
        refused_within(REFUSED_WITHIN, &directory, Request::Nodes).await;
    }
    redis.thaw();
    until("it answers again", async || directory.check().await.is_ok()).await;
}

#[tokio::test]
async fn a_redis_that_never_was_there_is_waited_for() {
    let mut redis = Redis::start();
    redis.kill();
    let directory = RedisDirectory::start(RedisConfig::new(&redis.url())).unwrap();
    let cause = refused_within(REFUSED_WITHIN, &directory, Request::Nodes).await;
    let named = cause.contains(&redis.address().to_string());
    assert!(named && cause.contains("refused"), "{cause}");
    redis.restart();
    until("it is there", async || directory.check().await.is_ok()).await;
}

#[tokio::test]
async fn lost_data_is_noticed_on_a_connection_that_stayed() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let mut watch = directory.watch();
    assert_eq!(redis.cli(&["flushall"]), "OK");
    assert_eq!(
        directory.call(Request::Nodes).await,
        Ok(Reply::Nodes(vec![]))
    );
    assert_eq!(watch.try_next(), Some(Hint::Missed(0)));
    directory.check().await.unwrap();
    assert_eq!(watch.try_next(), None, "once");
}

#[tokio::test]
async fn a_wrong_password_is_called_that() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    for (password, says) in [(Some("wrong"), "WRONGPASS"), (None, "NOAUTH")] {
        let mut config = RedisConfig::new(&redis.url());
        config.password = password.map(SecretString::from);
        let directory = RedisDirectory::start(config).unwrap();
        let cause = refused_within(REFUSED_WITHIN, &directory, Request::Nodes).await;
        assert!(cause.contains(says) && !cause.contains("wrong,"), "{cause}");
    }
    let mut config = RedisConfig::new(&redis.url());
    config.password = Some(SecretString::from("right"));
    RedisDirectory::start(config)
        .unwrap()
        .check()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_passwordless_redis_off_loopback_is_not_even_asked() {
    let error = RedisDirectory::start(RedisConfig::new("redis://192.0.2.1")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidConfig);
    assert!(error.to_string().contains("--insecure"), "{error}");
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let redis = Redis::start();
    let setuser = [
        "acl", "setuser", "relay", "on", ">secret", "~*", "&*", "+@all", "-hmget",
    ];
    assert_eq!(redis.cli(&setuser), "OK");
    let url = format!("redis://relay:secret@{}", redis.address());
    let directory = RedisDirectory::start(RedisConfig::new(&url)).unwrap();
    let cause = refused_within(REFUSED_WITHIN, &directory, Request::Nodes).await;
    assert!(cause.contains("does not let this user"), "{cause}");
}

#[tokio::test]
async fn a_lease_ends_though_nobody_asks() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let mut watch = directory.watch();
    let a = holder("a", 1);
    assert_eq!(
        directory.call(Request::Register(node(&a))).await,
        Ok(Reply::Done)
    );
    let since = Instant::now();
    assert_eq!(
        next_hint(&mut watch).await,
        Hint::Changed(Change::NodeUp(node(&a)))
    );
    assert_eq!(
        next_hint(&mut watch).await,
        Hint::Changed(Change::NodeGone(a))
    );
    let after = since.elapsed();
    assert!(
        after >= limits::NODE_LEASE - Duration::from_millis(100),
        "{after:?}"
    );
}

#[tokio::test]
async fn a_lease_ends_in_its_time_though_another_server_s_clock_is_behind() {
    let redis = Redis::start();
    let a = holder("a", 1);
    // As by a master whose clock is ten minutes ahead of that of the replica which takes its place.
    let ahead = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(0).after(now + Duration::from_secs(600))
    };
    let config = RedisConfig::new(&redis.url());
    let before = RedisDirectory::start_with(&config, ahead, rand::random::<u32>).unwrap();
    until("it is connected", async || before.check().await.is_ok()).await;
    let register = Request::Register(node(&a));
    assert_eq!(before.call(register).await, Ok(Reply::Done));
    drop(before);
    until("it has hung up", async || {
        !redis.cli(&["client", "list"]).contains("sub=1")
    })
    .await;

    let directory = start(&redis.url()).await;
    let mut watch = directory.watch();
    let alive = directory.call(Request::Nodes).await;
    assert_eq!(alive, Ok(Reply::Nodes(vec![node(&a)])));
    let since = Instant::now();
    assert_eq!(
        next_hint(&mut watch).await,
        Hint::Changed(Change::NodeGone(a))
    );
    let after = since.elapsed();
    assert!(after <= 3 * limits::NODE_LEASE, "{after:?}");
    let gone = directory.call(Request::Nodes).await;
    assert_eq!(gone, Ok(Reply::Nodes(vec![])));
}

#[tokio::test]
async fn garbage_is_skipped_or_named_and_never_believed() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let a = holder("a", 1);
    assert_eq!(
        directory.call(Request::Register(node(&a))).await,
        Ok(Reply::Done)
    );
    let created = directory.call(new_session(1, &a)).await;
    let Ok(Reply::Created {
        code: Some(code), ..
    }) = created
    else {
        panic!("{created:?}")
    };

    plant_nodes(&redis);
    assert_eq!(
        directory.call(Request::Nodes).await,
        Ok(Reply::Nodes(vec![node(&a)]))
    );

    plant_sessions(&redis);
    let all = Request::ListSessions(Filter {
        limit: 100,
        unlisted: true,
        ..Filter::default()
    });
    let listed = directory.call(all).await;
    let Ok(Reply::Listings(ListPage {
        sessions,
        next: None,
    })) = listed
    else {
        panic!("{listed:?}")
    };
    let shown: Vec<_> = sessions.iter().map(|listed| listed.id).collect();
    assert_eq!(shown, [session(1)]);
    for seed in 2..=4 {
        let id = session(seed);
        let refused = directory.call(Request::Session(id)).await;
        let Err(DirectoryError::Unavailable { cause }) = refused else {
            panic!("{refused:?}")
        };
        assert!(cause.contains(&id.to_string()), "{cause}");
    }
    let mut watch = directory.watch();
    let _ = redis.cli(&[
        "publish",
        "{dreamcatcher}:hints",
        "{\"node_up\":{\"id\":\"evil\"}}",
    ]);
    let _ = redis.cli(&["publish", "{dreamcatcher}:hints", "\u{1}"]);
    let found = directory.call(Request::Code(code)).await;
    assert!(matches!(found, Ok(Reply::Session(Some(_)))), "{found:?}");
    assert_eq!(watch.try_next(), None, "what no relay says is not repeated");

    for key in [
        "live", "codes", "listed", "owned", "due", "ended", "meta", "jwks",
    ] {
        let key = format!("{{dreamcatcher}}:{key}");
        let _ = redis.cli(&["del", &key]);
        assert_eq!(redis.cli(&["set", &key, "garbage"]), "OK");
        for request in [
            Request::Nodes,
            Request::Code(code),
            Request::Keys,
            new_session(7, &a),
            Request::Register(node(&holder("b", 1))),
            Request::ListSessions(Filter {
                limit: 1,
                ..Filter::default()
            }),
        ] {
            if let Err(error) = directory.call(request).await {
                assert!(
                    error.to_string().contains("{dreamcatcher}:"),
                    "{key}: {error}"
                );
            }
        }
        let _ = redis.cli(&["del", &key]);
    }
    assert_eq!(redis.cli(&["flushall"]), "OK");
    assert_eq!(
        directory.call(Request::Register(node(&a))).await,
        Ok(Reply::Done)
    );
}

/// Records under names that `Nodes` reads, each wrong in another way.
fn plant_nodes(redis: &Redis) {
    let far = "4000000000000000";
    let key = |name: &str| format!("{{dreamcatcher}}:node:{name}");
    let boot = "0000000000000001";
    let huge = format!("{{\"id\":\"huge\",{}}}", " ".repeat(10_000));
    for (name, fixed, state) in [
        ("words", "zzz", "zzz"),
        ("empty", "", ""),
        ("array", "[]", "[]"),
        ("huge", &huge, "{}"),
        ("twice", "{\"id\":\"a\",\"id\":\"b\"}", "{\"load\":{}}"),
        ("binary", "{\u{0}}", "{\u{1}}"),
    ] {
        let fields = [
            "boot", boot, "until", far, "fixed", fixed, "state", state, "drain", "false",
        ];
        // redis-cli takes no NUL: that record is written as a control character more.
        let fields = fields.map(|field| field.replace('\0', "\u{2}"));
        let key = key(name);
        let mut command = vec!["hset", &key];
        command.extend(fields.iter().map(String::as_str));
        let _ = redis.cli(&command);
    }
    assert_eq!(redis.cli(&["set", &key("string"), "x"]), "OK");
    let _ = redis.cli(&["hset", &key("partial"), "boot", boot]);
    let _ = redis.cli(&[
        "hset",
        &key("until"),
        "boot",
        boot,
        "until",
        "inf",
        "fixed",
        "{}",
    ]);
    let mut live = vec!["sadd", "{dreamcatcher}:live"];
    live.extend([
        "words", "empty", "array", "huge", "twice", "binary", "string", "partial", "until", "none",
        "../../x", "",
    ]);
    let _ = redis.cli(&live);
    let due = [
        "zadd",
        "{dreamcatcher}:due",
        "1",
        "z:what",
        "1",
        "b:nobody",
        "1",
        "c:nothing",
        "1",
    ];
    let _ = redis.cli(
        &[
            &due[..],
            &["a:partial", "-inf", "", "2", "b:x@0000000000000001"],
        ]
        .concat(),
    );
}

fn plant_sessions(redis: &Redis) {
    let key = |seed: u8| format!("{{dreamcatcher}}:session:{}", session(seed));
    assert_eq!(redis.cli(&["set", &key(2), "x"]), "OK");
    let _ = redis.cli(&["hset", &key(3), "region", "eu", "ballot", "nan"]);
    // Whole, but not readable as what it says it is.
    let owner = holder("a", 1).to_string();
    let _ = redis.cli(&[
        "hset",
        &key(4),
        "region",
        "eu",
        "ballot",
        "1",
        "epoch",
        "2",
        "nonce",
        "0000000000000001",
        "owner",
        &owner,
        "standby",
        "",
        "anchors",
        "[1,,2]",
        "code",
        "aeiou",
        "listing",
        "{}",
        "until",
        "4000000000000000",
    ]);
    for seed in 2..=5 {
        let id = session(seed).to_string();
        let _ = redis.cli(&["zadd", "{dreamcatcher}:listed", "0", &id]);
    }
    let _ = redis.cli(&["zadd", "{dreamcatcher}:listed", "0", "zz", "0", ""]);
    let _ = redis.cli(&["hset", "{dreamcatcher}:codes", "aeiou", "nowhere"]);
}

#[tokio::test]
async fn the_tasks_end_with_the_last_clone() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let mut watch = directory.watch();
    drop(directory.clone());
    directory.check().await.unwrap();
    drop(directory);
    let deadline = Duration::from_secs(30);
    while tokio::time::timeout(deadline, watch.next())
        .await
        .unwrap()
        .is_some()
    {}
    until("it has hung up", async || {
        !redis.cli(&["client", "list"]).contains("sub=1")
    })
    .await;
}

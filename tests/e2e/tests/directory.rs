//! Redis goes away, comes back, comes back empty: running sessions do not notice.

use std::time::{Duration, Instant};

use dreamcatcher_e2e::client::Client;
use dreamcatcher_e2e::cluster::{Cluster, eventually};
use dreamcatcher_e2e::code;
use dreamcatcher_e2e::control::{Event, SessionOptions};
use dreamcatcher_e2e::frame::{Mode, Target};
use dreamcatcher_e2e::process::Process;
use serde_json::Value;

/// How soon a player hears that there can be no new session now.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// `VISIBILITY_PUBLIC`
const PUBLIC: i32 = 1;

#[tokio::test]
async fn while_redis_is_down_sessions_run_and_new_ones_are_refused_at_once() {
    let mut cluster = Cluster::start(2).await;
    let (code, mut ann, mut bea) = couple(&cluster).await;
    let mut cid = cluster.client(0, "Cid").await;
    cluster.redis.kill();
    still_plays(&mut ann, &mut bea).await;
    for attempt in 0..2 {
        let began = Instant::now();
        let refused = if attempt == 0 {
            cid.create(SessionOptions::default()).await
        } else {
            cid.join_code(&code).await
        };
        let failure = refused.expect_err("there is no directory");
        assert_eq!(
            u64::from(failure.code),
            code::DIRECTORY_UNAVAILABLE,
            "{failure:?}"
        );
        assert!(began.elapsed() <= REFUSED_WITHIN, "{:?}", began.elapsed());
    }
    assert_eq!(cluster.page(0, "/livez").await.0, 200);
    eventually("the relay says that it is not ready", async || {
        (cluster.page(0, "/readyz").await.0 == 503).then_some(())
    })
    .await;
    still_plays(&mut ann, &mut bea).await;

    cluster.redis.restart();
    ready(&cluster).await;
    eventually("the code comes back after the directory", async || {
        cid.join_code(&code).await.ok()
    })
    .await;
    still_plays(&mut ann, &mut bea).await;
}

#[tokio::test]
async fn while_redis_hangs_new_sessions_are_refused_soon() {
    let cluster = Cluster::start(2).await;
    let (_, mut ann, mut bea) = couple(&cluster).await;
    let mut cid = cluster.client(0, "Cid").await;
    cluster.redis.freeze();
    let began = Instant::now();
    let failure = cid
        .create(SessionOptions::default())
        .await
        .expect_err("there is no answer");
    assert_eq!(u64::from(failure.code), code::DIRECTORY_UNAVAILABLE);
    assert!(began.elapsed() <= REFUSED_WITHIN, "{:?}", began.elapsed());
    still_plays(&mut ann, &mut bea).await;
    cluster.redis.thaw();
    ready(&cluster).await;
    cid.create(SessionOptions::default())
        .await
        .expect("Redis answers again");
}

#[tokio::test]
async fn what_redis_forgot_comes_back_by_itself() {
    let mut cluster = Cluster::start(2).await;
    let (code, mut ann, mut bea) = couple(&cluster).await;
    assert_eq!(listed(&cluster).await, ["Cave"]);
    for flush in [true, false] {
        if flush {
            let _ = cluster.redis.cli(&["flushall"]);
        } else {
            cluster.redis.restart();
        }
        still_plays(&mut ann, &mut bea).await;
        eventually("the session is listed again", async || {
            (listed(&cluster).await == ["Cave"]).then_some(())
        })
        .await;
        let mut late = cluster.client(1, "Late").await;
        late.join_code(&code).await.expect("the code came back");
        late.leave().await;
        for player in [&mut ann, &mut bea] {
            assert!(matches!(player.event().await, Event::Joined(_)));
            assert!(matches!(player.event().await, Event::Left(_)));
        }
        eventually("both relays are listed again", async || {
            let relays = cluster.get("/v1/relays").await;
            (relays["relays"].as_array()?.len() == 2).then_some(())
        })
        .await;
        still_plays(&mut ann, &mut bea).await;
    }
}

#[tokio::test]
async fn a_thousand_sessions_leave_nothing_behind() {
    let cluster = Cluster::start(3).await;
    // From the first session on Redis keeps one number: the last epoch.
    let mut first = cluster.client(0, "First").await;
    let options = SessionOptions {
        empty_ttl_s: Some(0),
        ..SessionOptions::default()
    };
    first.create(options).await.expect("a new session");
    first.leave().await;
    eventually("the first session is gone", async || {
        listed(&cluster).await.is_empty().then_some(())
    })
    .await;
    let before = stored(&cluster);
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..100 {
        let relay = cluster.relays[number % 3].address.clone();
        let token = cluster.token("Creator").await;
        crowd.spawn(async move {
            let mut creator = Client::hello(&relay, &token).await;
            for _ in 0..10 {
                let options = SessionOptions {
                    visibility: PUBLIC,
                    empty_ttl_s: Some(0),
                    ..SessionOptions::default()
                };
                creator.create(options).await.expect("a new session");
                creator.leave().await;
            }
        });
    }
    let mut created = 0;
    while let Some(done) = crowd.join_next().await {
        done.expect("ten sessions each");
        created += 10;
    }
    assert_eq!(created, 1_000);
    eventually("Redis holds what it held before", async || {
        (stored(&cluster) == before).then_some(())
    })
    .await;
    assert!(listed(&cluster).await.is_empty());
}

/// A public session with Ann on the first relay and Bea on the second, and its code.
async fn couple(cluster: &Cluster) -> (String, Client, Client) {
    let mut ann = cluster.client(0, "Ann").await;
    let mut bea = cluster.client(1, "Bea").await;
    let options = SessionOptions {
        name: "Cave".to_owned(),
        visibility: PUBLIC,
        ..SessionOptions::default()
    };
    let created = ann.create(options).await.expect("a new session");
    bea.join_code(&created.join_code)
        .await
        .expect("a join by code");
    for (player, joins) in [(&mut ann, 2), (&mut bea, 1)] {
        for _ in 0..joins {
            assert!(matches!(player.event().await, Event::Joined(_)));
        }
    }
    (created.join_code, ann, bea)
}

async fn still_plays(ann: &mut Client, bea: &mut Client) {
    for mode in [Mode::Ordered, Mode::Reliable] {
        ann.send(mode, Target::Others, "still there?").await;
        bea.send(mode, Target::Others, "yes").await;
    }
    assert_eq!(bea.ordered().await.1, "still there?");
    assert_eq!(ann.ordered().await.1, "yes");
    assert_eq!(bea.message(Mode::Reliable).await.payload, "still there?");
    assert_eq!(ann.message(Mode::Reliable).await.payload, "yes");
}

async fn ready(cluster: &Cluster) {
    for relay in 0..cluster.relays.len() {
        eventually("the relay is ready", async || {
            (cluster.page(relay, "/readyz").await.0 == 200).then_some(())
        })
        .await;
    }
}

/// The names of the sessions that `dreamcatcher sessions` shows.
async fn listed(cluster: &Cluster) -> Vec<String> {
    let url = cluster.redis.url();
    let mut shown = Process::start(&["sessions", "--directory", &url, "--json"]);
    let all = shown.output().await;
    let all: Value = serde_json::from_str(&all).unwrap_or_else(|e| panic!("{all:?}: {e}"));
    let sessions = all["sessions"].as_array().expect("a list").iter();
    sessions
        .map(|session| session["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// The keys in Redis, and how much is in each.
fn stored(cluster: &Cluster) -> String {
    const COUNT: &str = "
        local all = {}
        for _, key in ipairs(redis.call('KEYS', '*')) do
            local kind = redis.call('TYPE', key).ok
            local count = ({hash = 'HLEN', zset = 'ZCARD', set = 'SCARD', list = 'LLEN'})[kind]
            all[#all + 1] = key .. ' ' .. (count and redis.call(count, key) or 'one')
        end
        table.sort(all)
        return table.concat(all, '\\n')";
    cluster.redis.cli(&["eval", COUNT, "0"])
}

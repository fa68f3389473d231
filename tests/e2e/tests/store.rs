//! Postgres goes away: sessions run, signing in waits.

use std::time::{Duration, Instant};

use dreamcatcher_e2e::cluster::{Cluster, eventually, read};
use dreamcatcher_e2e::code;
use dreamcatcher_e2e::control::SessionOptions;
use dreamcatcher_e2e::frame::{Mode, Target};
use serde_json::{Value, json};

const REFUSED_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn while_postgres_is_down_sessions_run_and_logins_are_refused_at_once() {
    let mut cluster = Cluster::start_with_postgres(2).await;
    let account = json!({"username": "ann", "password": "correct horse battery"});
    let registered = cluster.post("/v1/register", &account).await;
    assert_eq!(registered.status(), 200, "{registered:?}");
    let registered: Value = read(registered).await;
    let mut ann = cluster.client(0, "Ann").await;
    let mut bea = cluster.client(1, "Bea").await;
    let created = ann
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    let token = cluster.token("Cid").await;

    cluster.postgres.as_mut().expect("it runs").kill();
    let login = json!({"login": "ann", "password": "correct horse battery"});
    let guest = json!({"secret": "0".repeat(32)});
    let refresh = json!({"refresh_token": registered["refresh_token"]});
    for (route, body) in [
        ("/v1/login", &login),
        ("/v1/guest", &guest),
        ("/v1/refresh", &refresh),
    ] {
        let began = Instant::now();
        let refused = cluster.post(route, body).await;
        assert!(
            began.elapsed() <= REFUSED_WITHIN,
            "{route}: {:?}",
            began.elapsed()
        );
        assert_eq!(refused.status(), 503, "{route}: {refused:?}");
        let refused: Value = read(refused).await;
        assert_eq!(refused["code"], code::STORE_UNAVAILABLE, "{refused}");
        assert_eq!(refused["retryable"], true, "{refused}");
    }
    // Who has a token plays on, joins, and creates.
    bea.join_code(&created.join_code)
        .await
        .expect("a join by code");
    bea.send(Mode::Ordered, Target::All, "still here").await;
    assert_eq!(ann.ordered().await.1, "still here");
    let relay = cluster.relays[1].address.clone();
    let mut cid = dreamcatcher_e2e::client::Client::hello(&relay, &token).await;
    cid.join_code(&created.join_code)
        .await
        .expect("a join by code");

    cluster.postgres.as_mut().expect("it runs").restart();
    let again = eventually("logins work again", async || {
        let answer = cluster.post("/v1/login", &login).await;
        (answer.status() == 200).then_some(answer)
    })
    .await;
    let again: Value = read(again).await;
    assert_eq!(again["user_id"], registered["user_id"]);
}

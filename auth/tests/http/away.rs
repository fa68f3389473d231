//! A store that is away: everything that does not need it goes on, and the rest is told so at once.

use std::time::{Duration, Instant};

use dreamcatcher_auth::{Auth, Config, PostgresConfig, StoreConfig, migrate};
use dreamcatcher_proto::ErrorCode;
use dreamcatcher_proto::token::KeySet;
use dreamcatcher_servers::Postgres;
use reqwest::Method;
use serde_json::json;

use crate::server::{
    PASSWORD, SECRET, Server, assert_error, config, config_with_admin, eventually, unix_now_s,
};

/// What a player waits at most; more than the second of the service itself, for a busy machine.
const AT_ONCE: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn a_database_that_dies_and_comes_back_costs_only_the_sign_ins_between() {
    let mut postgres = Postgres::start();
    migrate(&store(&postgres)).await.unwrap();
    let server = Server::start(Config {
        store: store(&postgres),
        ..config_with_admin()
    })
    .await;
    let ada = server.register("ada").await;
    assert_eq!(server.get("/readyz").await.status(), 200);
    let jwks = server.auth.jwks();

    postgres.kill();
    assert_all_wait(&server, &ada["access_token"], &ada["refresh_token"]).await;
    assert_eq!(server.get_json("/livez").await, json!({"status": "ok"}));
    let ready = server.get("/readyz").await;
    assert_error(ready, 503, ErrorCode::StoreUnavailable, "cannot be reached").await;
    assert_eq!(server.auth.jwks(), jwks, "the keys are in memory");
    let served = server.get("/.well-known/jwks.json").await;
    assert_eq!(served.text().await.unwrap(), jwks);
    assert!(server.metric("dreamcatcher_auth_store_errors_total ").await > 0);

    postgres.restart();
    eventually("ready again", || async {
        server.get("/readyz").await.status() == 200
    })
    .await;
    let body = json!({"login": "ada", "password": PASSWORD});
    let again = server.posted("/v1/login", body).await;
    assert_eq!(again["user_id"], ada["user_id"]);
    let refreshed = json!({"refresh_token": ada["refresh_token"]});
    server.posted("/v1/refresh", refreshed).await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_start_without_the_database_serves_what_it_can_and_the_rest_once_it_is_there() {
    let mut postgres = Postgres::start();
    migrate(&store(&postgres)).await.unwrap();
    postgres.kill();
    let server = Server::start(Config {
        store: store(&postgres),
        ..config()
    })
    .await;
    assert_eq!(server.get_json("/livez").await, json!({"status": "ok"}));
    let ready = server.get("/readyz").await;
    assert_error(ready, 503, ErrorCode::StoreUnavailable, "").await;
    let keys = server.get("/.well-known/jwks.json").await;
    assert_error(keys, 503, ErrorCode::StoreUnavailable, "").await;
    assert_eq!(server.get_json("/v1/relays").await, json!({"relays": []}));
    let guest = server
        .post_json("/v1/guest", json!({"secret": SECRET}))
        .await;
    assert_eq!(guest.headers()["retry-after"], "1");
    assert_error(guest, 503, ErrorCode::StoreUnavailable, "").await;

    postgres.restart();
    eventually("ready", || async {
        server.get("/readyz").await.status() == 200
    })
    .await;
    let guest = server.sign_in(json!({"secret": SECRET})).await;
    let keys = KeySet::from_jwks(&server.auth.jwks()).unwrap();
    let token = guest["access_token"].as_str().unwrap();
    assert!(keys.verify(token, unix_now_s()).is_ok());
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_database_that_nobody_migrated_fails_the_start_with_what_to_do() {
    let postgres = Postgres::start();
    let error = Auth::start(Config {
        store: store(&postgres),
        ..config()
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidConfig);
    assert!(error.message().contains("auth migrate"), "{error}");
}

#[tokio::test]
async fn two_services_on_one_database_are_one() {
    let postgres = Postgres::start();
    migrate(&store(&postgres)).await.unwrap();
    let on_postgres = || Config {
        store: store(&postgres),
        ..config()
    };
    let (one, two) = (
        Server::start(on_postgres()).await,
        Server::start(on_postgres()).await,
    );
    assert_eq!(one.auth.jwks(), two.auth.jwks());
    let ada = one.register("ada").await;
    let me = two.me(Method::GET, &ada["access_token"]).await;
    assert_eq!(me.status(), 200);
    // The other one has not looked yet, and knows the key that signs now: it was the next one.
    one.auth.rotate_keys().await.unwrap();
    let ada = one.login("ada", PASSWORD).await;
    let ada: serde_json::Value = ada.json().await.unwrap();
    let me = two.me(Method::GET, &ada["access_token"]).await;
    assert_eq!(me.status(), 200);
    let taken = json!({"username": "ADA", "password": PASSWORD});
    let taken = two.post_json("/v1/register", taken).await;
    assert_error(taken, 409, ErrorCode::UsernameTaken, "").await;
    one.auth.shutdown().await;
    two.auth.shutdown().await;
}

/// Everything that needs the records is refused at once, and may be tried again.
async fn assert_all_wait(server: &Server, access: &serde_json::Value, refresh: &serde_json::Value) {
    let access = access.as_str().unwrap();
    let post = |path, body: serde_json::Value| server.request(Method::POST, path).json(&body);
    let me = |method| server.request(method, "/v1/me").bearer_auth(access);
    for request in [
        post("/v1/guest", json!({"secret": SECRET})),
        post(
            "/v1/register",
            json!({"username": "bob", "password": PASSWORD}),
        ),
        post("/v1/login", json!({"login": "ada", "password": PASSWORD})),
        post("/v1/refresh", json!({"refresh_token": refresh})),
        post("/v1/logout", json!({"refresh_token": refresh})),
        me(Method::GET),
        me(Method::PATCH).json(&json!({"display_name": "Bob"})),
        me(Method::DELETE),
    ] {
        let begun = Instant::now();
        let response = request.send().await.unwrap();
        let took = begun.elapsed();
        let url = response.url().clone();
        assert_eq!(response.headers()["retry-after"], "1", "{url}");
        let error = assert_error(response, 503, ErrorCode::StoreUnavailable, "").await;
        assert!(took < AT_ONCE, "{url} took {took:?}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.contains("127.0.0.1"), "no inner address: {error}");
    }
}

fn store(postgres: &Postgres) -> StoreConfig {
    StoreConfig::Postgres(PostgresConfig::new(&postgres.url()))
}

//! The HTTP API, over real sockets.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod account;
mod accounts_md;
mod away;
mod document;
mod keys;
mod limits;
mod server;

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_auth::{Auth, BODY_BYTES_MAX, Config, StoreConfig};
use dreamcatcher_directory::{Directory, Load, NodeRecord, Request};
use dreamcatcher_proto::token::{DisplayName, KeySet, LIFETIME_S};
use dreamcatcher_proto::{BootId, ErrorCode};
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::server::{DEADLINE, SECRET, Server, assert_error, config, directory, unix_now_s};

#[tokio::test]
async fn the_same_secret_is_the_same_user_and_another_is_another() {
    let server = Server::start(config()).await;
    let ada = server
        .sign_in(json!({"secret": SECRET, "display_name": "Ada"}))
        .await;
    let again = server.sign_in(json!({"secret": SECRET})).await;
    let other = server
        .sign_in(json!({"secret": format!("{SECRET}2")}))
        .await;
    assert_eq!(ada["user_id"], again["user_id"]);
    assert_eq!(again["display_name"], "Ada");
    assert_ne!(ada["user_id"], other["user_id"]);
    assert_ne!(ada["access_token"], again["access_token"]);
    assert_eq!(
        (&ada["token_type"], &ada["expires_in_s"]),
        (&json!("Bearer"), &json!(LIFETIME_S))
    );
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_token_verifies_offline_with_the_served_keys() {
    let server = Server::start(config()).await;
    let guest = server
        .sign_in(json!({"secret": SECRET, "display_name": "Ada"}))
        .await;
    let response = server.get("/.well-known/jwks.json").await;
    assert_eq!(response.headers()["cache-control"], "public, max-age=300");
    assert_eq!(response.headers()["content-type"], "application/json");
    let document = response.text().await.unwrap();
    assert_eq!(document, server.auth.jwks());

    let keys = KeySet::from_jwks(&document).unwrap();
    assert!(
        keys.key_ids().count() >= 2,
        "the next key is published before it signs"
    );
    let token = guest["access_token"].as_str().unwrap();
    let claims = keys.verify(token, unix_now_s()).unwrap();
    assert_eq!(json!(claims.sub), guest["user_id"]);
    assert_eq!(claims.name, "Ada".parse::<DisplayName>().unwrap());
    let late = keys
        .verify(token, unix_now_s() + LIFETIME_S + 60)
        .unwrap_err();
    assert_eq!(late.code(), ErrorCode::TokenExpired);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn each_bad_body_gets_its_own_error() {
    let server = Server::start(config()).await;
    for (body, status, says) in [
        ("".to_owned(), 400, "not JSON: send an object"),
        ("{".to_owned(), 400, "not JSON"),
        ("\u{0}".to_owned(), 400, "not JSON"),
        ("{} {}".to_owned(), 400, "nothing before or after"),
        (
            format!("{{\"secret\": {}", "[".repeat(4_000)),
            400,
            "not JSON",
        ),
        ("[".repeat(4_000), 422, "no object"),
        ("[]".to_owned(), 422, "no object"),
        (format!("[\"{SECRET}\"]"), 422, "no object"),
        ("null".to_owned(), 422, "send the fields in { and }"),
        (
            "{}".to_owned(),
            422,
            "the field secret is missing: give it, as a string",
        ),
        (
            json!({"secret": 1}).to_string(),
            422,
            "the field \"secret\" must be a string, and is a number",
        ),
        (json!({"secret": null}).to_string(), 422, "and is null"),
        (
            json!({"secret": SECRET, "display_name": {"a": 1}}).to_string(),
            422,
            "the field \"display_name\" must be a string, and is an object",
        ),
        (
            format!("{{\"secret\": \"{SECRET}\", \"secret\": \"{SECRET}\"}}"),
            422,
            "the field secret is there twice: give it once",
        ),
        (
            json!({"secret": SECRET, "admin": true}).to_string(),
            422,
            "no field \"admin\" here: leave it out; there is secret, display_name",
        ),
        (
            json!({"secret": SECRET, ("x\u{1b}".repeat(99)): true}).to_string(),
            422,
            "…\" here",
        ),
        (
            json!({"secret": "short"}).to_string(),
            400,
            "22–128 characters",
        ),
        (
            json!({"secret": "x".repeat(129)}).to_string(),
            400,
            "22–128 characters",
        ),
        (
            json!({"secret": "' OR 1=1; -- and more padding"}).to_string(),
            400,
            "base64url",
        ),
        (
            json!({"secret": SECRET, "display_name": ""}).to_string(),
            400,
            "display_name must be",
        ),
        (
            json!({"secret": SECRET, "display_name": "n".repeat(33)}).to_string(),
            400,
            "display_name must be",
        ),
        (
            json!({"secret": SECRET, "display_name": "\u{1b}[2J"}).to_string(),
            400,
            "display_name must be",
        ),
    ] {
        let response = server.post(body.clone()).await;
        let error = assert_error(response, status, ErrorCode::InvalidArgument, says).await;
        let message = error["message"].as_str().unwrap();
        for serde_says in ["at line", "column", "expected", "deserialize", "`"] {
            assert!(!message.contains(serde_says), "{message}");
        }
        assert!(message.len() < 200, "{message}");
        assert!(!message.contains('\u{1b}'), "{message}");
    }
    let unnamed = json!({"secret": SECRET, "display_name": null}).to_string();
    assert_eq!(server.post(unnamed).await.status(), 200);
    let large = server.post(" ".repeat(BODY_BYTES_MAX + 1)).await;
    assert_error(large, 413, ErrorCode::MessageTooLarge, "16384 bytes").await;

    let url = server.url("/v1/guest");
    let untyped = server.http.post(url).body("{}").send().await.unwrap();
    assert_error(untyped, 415, ErrorCode::InvalidArgument, "Content-Type").await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn an_unknown_route_and_a_wrong_method_answer_in_json() {
    let server = Server::start(config()).await;
    let response = server.get("/v2/guest?secret=no").await;
    assert_error(response, 404, ErrorCode::InvalidArgument, "no such route").await;
    let response = server.get("/v1/guest").await;
    assert_eq!(response.headers()["allow"], "POST");
    assert_error(response, 405, ErrorCode::InvalidArgument, "another method").await;
    let url = server.url("/v1/relays");
    let response = server
        .http
        .request(Method::DELETE, url)
        .send()
        .await
        .unwrap();
    assert_error(response, 405, ErrorCode::InvalidArgument, "another method").await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn relays_are_listed_as_they_are_now() {
    let directory = directory();
    let server = Server::start(Config::new(Arc::new(directory.clone()))).await;
    assert_eq!(server.get_json("/v1/relays").await, json!({"relays": []}));
    let node = NodeRecord {
        id: "relay-1-0".parse().unwrap(),
        boot: BootId(1),
        mesh_id: 1,
        host: "host-1".to_owned(),
        region: "local".to_owned(),
        address: "127.0.0.1:4433".parse().unwrap(),
        mesh_address: "127.0.0.1:4533".parse().unwrap(),
        certificate_sha256: vec![[0xab; 32]],
        capacity: 1,
        clients_max: 20_000,
        load: Load {
            sessions: 3,
            clients: 12,
        },
        draining: false,
        drain_wanted: false,
    };
    directory.call(Request::Register(node)).await.unwrap();
    let listed = server.auth.relays_listed(1);
    tokio::time::timeout(DEADLINE, listed).await.unwrap();
    assert_eq!(
        server.get_json("/v1/relays").await,
        json!({"relays": [{
            "node_id": "relay-1-0", "region": "local", "host": "host-1",
            "address": "127.0.0.1:4433", "certificate_sha256": ["ab".repeat(32)],
            "load": 12, "capacity": 20_000, "draining": false,
        }]})
    );
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_restart_keeps_users_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = || Config {
        store: StoreConfig::File(folder.path().join("auth.db")),
        ..config()
    };
    let server = Server::start(on_disk()).await;
    let before = server
        .sign_in(json!({"secret": SECRET, "display_name": "Ada"}))
        .await;
    let jwks = server.auth.jwks();
    server.auth.shutdown().await;

    let server = Server::start(on_disk()).await;
    let after = server.sign_in(json!({"secret": SECRET})).await;
    assert_eq!(before["user_id"], after["user_id"]);
    assert_eq!(after["display_name"], "Ada");
    assert_eq!(server.auth.jwks(), jwks);
    let token = before["access_token"].as_str().unwrap();
    let keys = KeySet::from_jwks(&server.auth.jwks()).unwrap();
    assert!(keys.verify(token, unix_now_s()).is_ok());
    server.auth.shutdown().await;

    for file in folder.path().read_dir().unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let found = bytes
            .windows(SECRET.len())
            .any(|window| window == SECRET.as_bytes());
        assert!(!found, "a secret is stored only as a hash");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = Server::start(config()).await;
    let taken = server.auth.local_addr();
    let error = Auth::start(Config {
        listen: taken,
        ..config()
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), ErrorCode::AddressInUse);
    assert!(error.message().contains(&taken.to_string()), "{error}");
    server.auth.shutdown().await;
    let freed = Auth::start(Config {
        listen: taken,
        ..config()
    })
    .await
    .unwrap();
    freed.shutdown().await;
}

#[tokio::test]
async fn a_hundred_bots_sign_in_at_once() {
    let server = Arc::new(Server::start(config()).await);
    let bots: Vec<_> = (0..100)
        .map(|bot| {
            let server = server.clone();
            tokio::spawn(async move {
                let body = json!({"secret": format!("{SECRET}{bot:04}")});
                server.sign_in(body).await["user_id"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
        })
        .collect();
    let mut users = std::collections::BTreeSet::new();
    for bot in bots {
        users.insert(bot.await.unwrap());
    }
    assert_eq!(users.len(), 100);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_connections() {
    let server = Server::start(config()).await;
    let mut silent = TcpStream::connect(server.auth.local_addr()).await.unwrap();
    assert_eq!(server.get("/livez").await.status(), 200);
    let stopped = tokio::time::timeout(Duration::from_secs(4), server.auth.shutdown()).await;
    assert!(stopped.is_ok(), "an idle connection held the shutdown up");
    let mut rest = Vec::new();
    assert_eq!(silent.read_to_end(&mut rest).await.unwrap_or(0), 0);
}

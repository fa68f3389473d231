//! The signing keys: where they are published, and how they rotate.

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_auth::{Auth, Config, StoreConfig};
use dreamcatcher_directory::{Directory, MemoryDirectory, Reply, Request};
use dreamcatcher_proto::ErrorCode;
use dreamcatcher_proto::token::KeySet;
use reqwest::Method;
use serde_json::json;

use crate::server::{SECRET, Server, config, directory, eventually, unix_now_s};

#[tokio::test]
async fn a_rotation_under_load_fails_no_login_and_no_check() {
    let server = Arc::new(Server::start(config()).await);
    let mut relay = server.auth.key_updates();
    // A relay that reads the keys before the rotation, and not again until after it.
    let cached = KeySet::from_jwks(&server.auth.jwks()).unwrap();
    let before = server.sign_in(json!({"secret": SECRET})).await;
    let players: Vec<_> = (0..4)
        .map(|player| {
            let server = server.clone();
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                for round in 0..10 {
                    let secret = format!("{SECRET}-{player}-{round}");
                    let guest = server.sign_in(json!({"secret": secret})).await;
                    tokens.push(guest["access_token"].as_str().unwrap().to_owned());
                }
                tokens
            })
        })
        .collect();
    relay.mark_unchanged();
    server.auth.rotate_keys().await.unwrap();
    relay.changed().await.unwrap();
    let fresh = Arc::clone(&relay.borrow());
    for player in players {
        for token in player.await.unwrap() {
            assert!(cached.verify(&token, unix_now_s()).is_ok());
            assert!(fresh.verify(&token, unix_now_s()).is_ok());
        }
    }
    let after = server.sign_in(json!({"secret": SECRET})).await;
    for guest in [before, after] {
        let token = &guest["access_token"];
        assert!(cached.verify(token.as_str().unwrap(), unix_now_s()).is_ok());
        assert!(fresh.verify(token.as_str().unwrap(), unix_now_s()).is_ok());
        assert_eq!(server.me(Method::GET, token).await.status(), 200);
    }
    assert_eq!(fresh.key_ids().count(), 3, "previous, current, next");
}

#[tokio::test]
async fn the_directory_has_the_keys_from_the_start_and_after_a_rotation() {
    let directory = directory();
    let server = Server::start(Config::new(Arc::new(directory.clone()))).await;
    for _ in 0..2 {
        let served = server.get("/.well-known/jwks.json").await;
        let served = served.text().await.unwrap();
        assert_eq!(served, server.auth.jwks());
        eventually("the keys are in the directory", || async {
            mirrored(&directory).await.as_deref() == Some(&served)
        })
        .await;
        server.auth.rotate_keys().await.unwrap();
        assert_ne!(server.auth.jwks(), served);
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_rotation_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = || Config {
        store: StoreConfig::File(folder.path().join("auth.db")),
        ..config()
    };
    let server = Server::start(on_disk()).await;
    let guest = server.sign_in(json!({"secret": SECRET})).await;
    server.auth.rotate_keys().await.unwrap();
    let jwks = server.auth.jwks();
    server.auth.shutdown().await;
    let server = Server::start(on_disk()).await;
    assert_eq!(server.auth.jwks(), jwks);
    let response = server.me(Method::GET, &guest["access_token"]).await;
    assert_eq!(response.status(), 200);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn keys_cannot_rotate_faster_than_their_tokens_end() {
    let error = Auth::start(Config {
        key_rotate_every: Duration::from_secs(60),
        ..config()
    })
    .await
    .unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidConfig);
    assert!(error.message().contains("key_rotate_every"), "{error}");
}

async fn mirrored(directory: &MemoryDirectory) -> Option<String> {
    match directory.call(Request::Keys).await {
        Ok(Reply::Keys(keys)) => keys,
        other => panic!("{other:?}"),
    }
}

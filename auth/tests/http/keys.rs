//! The signing keys: where they are published, and how they rotate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dreamcatcher_auth::{Auth, Config, StoreConfig};
use dreamcatcher_directory::{
    Answer, Directory, DirectoryError, Hint, MemoryDirectory, Reply, Request, Watch,
};
use dreamcatcher_proto::ErrorCode;
use dreamcatcher_proto::token::KeySet;
use reqwest::Method;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use crate::server::{
    DEADLINE, SECRET, Server, assert_error, config, directory, eventually, unix_now_s,
};

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
async fn a_directory_that_lost_everything_gets_the_keys_back() {
    let directory = Forgetful::default();
    let server = Server::start(Config::new(Arc::new(directory.clone()))).await;
    let mut published = directory.published.subscribe();
    for _ in 0..3 {
        let document = published.wait_for(Option::is_some);
        let document = tokio::time::timeout(DEADLINE, document).await;
        let document = document.expect("published").unwrap().clone();
        assert_eq!(document, Some(server.auth.jwks()));
        directory.forget();
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn without_an_answer_of_the_directory_players_sign_in_and_it_is_ready_once_there_was_one() {
    let directory = Forgetful::default();
    let server = Server::start(Config::new(Arc::new(directory.clone()))).await;
    let begun = Instant::now();
    let relays = server.get("/v1/relays").await;
    assert_eq!(relays.headers()["retry-after"], "1");
    assert_error(relays, 503, ErrorCode::DirectoryUnavailable, "").await;
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    server.sign_in(json!({"secret": SECRET})).await;
    let begun = Instant::now();
    let unready = server.get("/readyz").await;
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    assert_error(unready, 503, ErrorCode::DirectoryUnavailable, "--directory").await;
    assert_eq!(server.get_json("/livez").await, json!({"status": "ok"}));

    directory.answer_nodes(true).await;
    eventually("ready", || async {
        server.get("/readyz").await.status() == 200
    })
    .await;
    assert_eq!(server.get_json("/v1/relays").await, json!({"relays": []}));
    // Away again: the last list is good, and so is the service.
    directory.answer_nodes(false).await;
    assert_eq!(server.get_json("/readyz").await, json!({"status": "ok"}));
    assert_eq!(server.get_json("/v1/relays").await, json!({"relays": []}));
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

/// A directory that takes keys, loses them when it is told to, and answers nothing else unless it is
/// told that it has no nodes.
#[derive(Clone, Debug)]
struct Forgetful {
    published: watch::Sender<Option<String>>,
    hints: broadcast::Sender<Hint>,
    answers_nodes: Arc<AtomicBool>,
    /// How often it was asked for nodes.
    asked: watch::Sender<u64>,
}

impl Default for Forgetful {
    fn default() -> Self {
        Self {
            published: watch::Sender::new(None),
            hints: broadcast::Sender::new(8),
            answers_nodes: Arc::default(),
            asked: watch::Sender::new(0),
        }
    }
}

impl Forgetful {
    fn forget(&self) {
        self.published.send_replace(None);
        self.hints.send(Hint::Missed(1)).unwrap();
    }

    /// Returns once it was asked twice from then on: what is asked first may have been on its way.
    async fn answer_nodes(&self, answers: bool) {
        self.answers_nodes.store(answers, Ordering::SeqCst);
        for _ in 0..2 {
            let mut asked = self.asked.subscribe();
            self.hints.send(Hint::Missed(1)).unwrap();
            let asked = tokio::time::timeout(DEADLINE, asked.changed()).await;
            asked.expect("asked").unwrap();
        }
    }
}

impl Directory for Forgetful {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(async move {
            if let Request::PublishKeys(document) = request {
                self.published.send_replace(Some(document));
                Ok(Reply::Done)
            } else if matches!(request, Request::Nodes) {
                let answers = self.answers_nodes.load(Ordering::SeqCst);
                self.asked.send_modify(|asked| *asked += 1);
                let cause = "it is away".to_owned();
                answers
                    .then_some(Reply::Nodes(Vec::new()))
                    .ok_or(DirectoryError::Unavailable { cause })
            } else {
                let cause = "it answers nothing else".to_owned();
                Err(DirectoryError::Unavailable { cause })
            }
        })
    }

    fn watch(&self) -> Watch {
        Watch::new(&self.hints)
    }
}

async fn mirrored(directory: &MemoryDirectory) -> Option<String> {
    match directory.call(Request::Keys).await {
        Ok(Reply::Keys(keys)) => keys,
        other => panic!("{other:?}"),
    }
}

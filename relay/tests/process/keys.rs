//! Token keys come from auth over HTTP, and from the directory when that is away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use dreamcatcher_client::ErrorCode;
use dreamcatcher_directory::{Directory, Reply, Request};
use dreamcatcher_proto::token::Signer;
use dreamcatcher_relay::{JwksConfig, KeySource, Relay, RelayConfig};

use crate::setup::{config, memory, signer, start, token, try_connect, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_registers_once_it_has_keys_and_a_rotation_fails_no_login() {
    let auth = Auth::start().await;
    let directory = Arc::new(memory());
    let followed = KeySource::follow(auth.config(), directory.clone()).unwrap();
    let relay = Relay::start(RelayConfig {
        keys: followed,
        ..config("a", directory.clone())
    })
    .await
    .unwrap();
    until("a failed read", || auth.reads() > 1).await;
    let cause = relay.readiness().unwrap_err();
    assert!(cause.contains("keys") && cause.contains("503"), "{cause}");
    let nodes = directory.call(Request::Nodes).await;
    assert_eq!(nodes, Ok(Reply::Nodes(Vec::new())));

    auth.publish(&[1]);
    until("ready", || relay.readiness().is_ok()).await;
    try_connect(token(&signer(1), 1), &relay).await.unwrap();

    // The relay has not heard of the new key when the first token of it comes.
    let before = auth.reads();
    auth.publish(&[1, 2]);
    try_connect(token(&signer(2), 2), &relay).await.unwrap();
    assert_eq!(auth.reads(), before + 1);
    try_connect(token(&signer(1), 3), &relay).await.unwrap();

    // Whatever clients send, it is not read again so soon; and who cannot be judged may come back.
    for _ in 0..3 {
        let error = try_connect(token(&signer(3), 4), &relay)
            .await
            .err()
            .unwrap();
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(auth.reads(), before + 1);
    relay.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_a_fresh_read_does_not_have_is_refused_for_good() {
    let auth = Auth::start().await;
    auth.publish(&[1]);
    let directory = Arc::new(memory());
    let followed = KeySource::follow(auth.config(), directory.clone()).unwrap();
    let relay = start(RelayConfig {
        keys: followed,
        ..config("a", directory)
    })
    .await;
    let error = try_connect(token(&signer(9), 1), &relay)
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidToken, "{error}");
    relay.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_auth_is_away_the_directory_has_its_keys() {
    let auth = Auth::start().await;
    let directory = Arc::new(memory());
    let document = Signer::jwks([&signer(1)]).unwrap();
    let published = directory.call(Request::PublishKeys(document)).await;
    assert_eq!(published, Ok(Reply::Done));
    let followed = KeySource::follow(auth.config(), directory.clone()).unwrap();
    let relay = start(RelayConfig {
        keys: followed,
        ..config("a", directory)
    })
    .await;
    try_connect(token(&signer(1), 1), &relay).await.unwrap();
    relay.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_another_host_nor_an_endless_answer_gives_keys() {
    let other = Auth::start().await;
    other.publish(&[1]);
    let directory = Arc::new(memory());
    for (answer, says) in [
        (Answer::Redirect(other.url()), "302"),
        (
            Answer::Document(" ".repeat(1_000_000)),
            "over the limit of 16384",
        ),
        (Answer::Document("{\"keys\": []}".to_owned()), "1–16"),
    ] {
        let auth = Auth::start().await;
        auth.answer(answer);
        let followed = KeySource::follow(auth.config(), directory.clone()).unwrap();
        let relay = Relay::start(RelayConfig {
            keys: followed,
            ..config("a", directory.clone())
        })
        .await
        .unwrap();
        until(says, || {
            relay.readiness().is_err_and(|cause| cause.contains(says))
        })
        .await;
        relay.kill();
    }
    assert_eq!(other.reads(), 0);
}

#[tokio::test]
async fn a_source_that_cannot_be_trusted_or_used_is_refused_with_what_to_do() {
    let directory = Arc::new(memory());
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |url: &str, ca_file: Option<&std::path::Path>| JwksConfig {
        url: url.to_owned(),
        ca_file: ca_file.map(Into::into),
        insecure: false,
    };
    for (config, says) in [
        (with("http://auth.example/jwks", None), "--insecure"),
        (with("ftp://127.0.0.1/jwks", None), "https or http"),
        (
            with("https://user:hunter2@auth.example/", None),
            "user or password",
        ),
        (with("nonsense", None), "does not parse"),
        (
            with("https://auth.example/", Some(file.path())),
            "no certificate",
        ),
        (
            with("https://auth.example/", Some("no such file".as_ref())),
            "no such file",
        ),
    ] {
        let error = KeySource::follow(config, directory.clone()).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidConfig);
        assert!(error.message().contains(says), "{error}");
        assert!(!error.message().contains("hunter2"), "{error}");
    }
    for url in ["http://localhost:1/", "http://[::1]:1/"] {
        assert!(KeySource::follow(with(url, None), directory.clone()).is_ok());
    }
    let insecure = JwksConfig {
        insecure: true,
        ..with("http://auth.example/jwks", None)
    };
    assert!(KeySource::follow(insecure, directory).is_ok());
}

/// The HTTP side of auth, as far as a relay sees it: 503 until keys are published.
struct Auth {
    address: SocketAddr,
    state: Arc<Page>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Page {
    answer: Mutex<Option<Answer>>,
    reads: AtomicU32,
}

#[derive(Clone)]
enum Answer {
    Document(String),
    Redirect(String),
}

impl Auth {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Page::default());
        let router = Router::new()
            .route("/.well-known/jwks.json", get(page))
            .with_state(Arc::clone(&state));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            state,
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.address)
    }

    fn config(&self) -> JwksConfig {
        JwksConfig {
            url: self.url(),
            ca_file: None,
            insecure: false,
        }
    }

    fn publish(&self, numbers: &[u8]) {
        let signers: Vec<Signer> = numbers.iter().map(|&number| signer(number)).collect();
        self.answer(Answer::Document(Signer::jwks(&signers).unwrap()));
    }

    fn answer(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = Some(answer);
    }

    fn reads(&self) -> u32 {
        self.state.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Auth {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn page(State(page): State<Arc<Page>>) -> axum::response::Response {
    page.reads.fetch_add(1, Ordering::Relaxed);
    let answer = page.answer.lock().unwrap().clone();
    match answer {
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Answer::Document(document)) => document.into_response(),
        Some(Answer::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
    }
}

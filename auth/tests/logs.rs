//! What logs say, at their most talkative. Alone in its file: the log's receiver is the process's.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io;
use std::sync::{Arc, Mutex};

use dreamcatcher_auth::{Auth, Config};
use dreamcatcher_directory::{MemoryDirectory, Timestamp};
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

#[tokio::test]
async fn no_secret_and_no_token_is_ever_logged() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();

    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config::new(Arc::new(MemoryDirectory::new(Timestamp::default, || 0)));
    tracing::info!(?config, "starting");
    let auth = Auth::start(config).await.unwrap();
    tracing::info!(?auth, "started");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let secret = "CANARY-CANARY-CANARY-CANARY";
    let mut tokens = Vec::new();
    let call = |path: &str, body: String, bearer: Option<&str>| {
        let url = format!("http://{}{path}", auth.local_addr());
        let mut request = http.post(url).header("content-type", "application/json");
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        request.body(body).send()
    };
    let guest = json!({ "secret": secret }).to_string();
    let guest: Value = call("/v1/guest", guest, None)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let account =
        json!({"username": "canary-user", "email": "canary@host.example", "password": secret});
    let bearer = guest["access_token"].as_str().unwrap();
    let account = call("/v1/register", account.to_string(), Some(bearer))
        .await
        .unwrap();
    let account: Value = account.json().await.unwrap();
    let login = json!({"login": "canary@host.example", "password": secret}).to_string();
    let login: Value = call("/v1/login", login, None)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let refresh = json!({"refresh_token": login["refresh_token"]}).to_string();
    let refreshed = call("/v1/refresh", refresh.clone(), None).await.unwrap();
    let refreshed: Value = refreshed.json().await.unwrap();
    let again = json!({"refresh_token": refreshed["refresh_token"]}).to_string();
    let again: Value = call("/v1/refresh", again, None)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    for answer in [&guest, &account, &login, &refreshed, &again] {
        for token in ["access_token", "refresh_token"] {
            let token = answer[token].as_str().unwrap();
            tokens.extend(token.split('.').map(str::to_owned));
        }
    }
    let reused = call("/v1/refresh", refresh, None).await.unwrap();
    assert_eq!(reused.status(), 401);
    let out = json!({"refresh_token": account["refresh_token"]}).to_string();
    assert_eq!(call("/v1/logout", out, None).await.unwrap().status(), 200);
    let me = http.get(format!("http://{}/v1/me", auth.local_addr()));
    for header in [
        format!("Bearer {bearer}"),
        format!("Bearer {secret}"),
        format!("Basic {secret}"),
    ] {
        let me = me.try_clone().unwrap().header("authorization", header);
        me.send().await.unwrap();
    }
    for (path, bad) in [
        (
            "/v1/guest",
            json!({"secret": format!("{secret}!")}).to_string(),
        ),
        ("/v1/guest", json!({"secret": [secret]}).to_string()),
        (
            "/v1/guest",
            json!({"secret": secret, "display_name": ""}).to_string(),
        ),
        ("/v1/guest", json!({secret: secret}).to_string()),
        ("/v1/guest", format!("{{\"secret\": \"{secret}\"")),
        ("/v1/guest", format!("{secret} {}", "x".repeat(20_000))),
        (
            "/v1/register",
            json!({"username": "CANARY!", "password": secret}).to_string(),
        ),
        (
            "/v1/register",
            json!({"username": "canary-user", "password": secret}).to_string(),
        ),
        (
            "/v1/login",
            json!({"login": "canary-user", "password": format!("{secret}-")}).to_string(),
        ),
        (
            "/v1/login",
            json!({"login": secret.repeat(20), "password": secret}).to_string(),
        ),
        ("/v1/refresh", json!({"refresh_token": secret}).to_string()),
        ("/v1/logout", json!({"refresh_token": [secret]}).to_string()),
    ] {
        let status = call(path, bad, None).await.unwrap().status();
        assert!(status.is_client_error(), "{path}: {status}");
    }
    auth.shutdown().await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains(guest["user_id"].as_str().unwrap()),
        "the log is read: {log}"
    );
    assert!(!log.to_ascii_lowercase().contains("canary"), "{log}");
    assert_eq!(
        tokens.len(),
        5 * 4,
        "three parts of an access token, and a refresh token"
    );
    assert!(tokens.iter().all(|part| !log.contains(part)), "{log}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

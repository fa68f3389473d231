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

    let config = Config::new(Arc::new(MemoryDirectory::new(Timestamp::default, || 0)));
    tracing::info!(?config, "starting");
    let auth = Auth::start(config).await.unwrap();
    tracing::info!(?auth, "started");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v1/guest", auth.local_addr());
    let secret = "CANARY-CANARY-CANARY-CANARY";
    let post = |body: String| {
        http.post(&url)
            .header("content-type", "application/json")
            .body(body)
            .send()
    };
    let guest: Value = post(json!({ "secret": secret }).to_string())
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    for bad in [
        json!({"secret": format!("{secret}!")}).to_string(),
        json!({"secret": [secret]}).to_string(),
        json!({"secret": secret, "display_name": ""}).to_string(),
        json!({secret: secret}).to_string(),
        format!("{{\"secret\": \"{secret}\""),
        format!("{secret} {}", "x".repeat(20_000)),
    ] {
        assert!(post(bad).await.unwrap().status().is_client_error());
    }
    auth.shutdown().await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains(guest["user_id"].as_str().unwrap()),
        "the log is read: {log}"
    );
    assert!(!log.contains("CANARY"), "{log}");
    let token = guest["access_token"].as_str().unwrap();
    assert!(token.split('.').all(|part| !log.contains(part)), "{log}");
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

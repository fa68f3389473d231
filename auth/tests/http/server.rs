//! The service under test, and a client of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dreamcatcher_auth::{Auth, Config};
use dreamcatcher_directory::{MemoryDirectory, Timestamp};
use dreamcatcher_proto::ErrorCode;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// For what takes milliseconds when the machine is not busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const SECRET: &str = "ZHJlYW1jYXRjaGVyIGV4YW1wbGU";
pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct Server {
    pub(crate) auth: Auth,
    pub(crate) http: reqwest::Client,
}

impl Server {
    pub(crate) async fn start(config: Config) -> Self {
        // An error is that another test of this process was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let auth = Auth::start(config).await.unwrap();
        Self {
            auth,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.auth.local_addr())
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// Posts `body` as it is to `/v1/guest`.
    pub(crate) async fn post(&self, body: String) -> Response {
        let request = self.request(Method::POST, "/v1/guest").body(body);
        request
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn post_json(&self, path: &str, body: Value) -> Response {
        let request = self.request(Method::POST, path).json(&body);
        request.send().await.unwrap()
    }

    /// Posts what is to succeed.
    pub(crate) async fn posted(&self, path: &str, body: Value) -> Value {
        let response = self.post_json(path, body).await;
        let status = response.status();
        let no_store = response.headers()["cache-control"] == "no-store";
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        assert!(no_store, "{path}: a token is kept by nobody else");
        answer
    }

    pub(crate) async fn sign_in(&self, body: Value) -> Value {
        self.posted("/v1/guest", body).await
    }

    pub(crate) async fn register(&self, username: &str) -> Value {
        let body = json!({"username": username, "password": PASSWORD});
        self.posted("/v1/register", body).await
    }

    pub(crate) async fn login(&self, login: &str, password: &str) -> Response {
        let body = json!({"login": login, "password": password});
        self.post_json("/v1/login", body).await
    }

    pub(crate) async fn refresh(&self, token: &Value) -> Response {
        let body = json!({"refresh_token": token});
        self.post_json("/v1/refresh", body).await
    }

    /// What `/v1/me` answers to a method and an access token.
    pub(crate) async fn me(&self, method: Method, token: &Value) -> Response {
        let request = self.request(method, "/v1/me");
        let request = request.bearer_auth(token.as_str().unwrap());
        request.send().await.unwrap()
    }

    /// A figure of the metrics page.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let page = self.metrics().await;
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.auth.admin_addr().unwrap());
        let page = self.http.get(url).send().await.unwrap();
        page.text().await.unwrap()
    }
}

pub(crate) fn config() -> Config {
    Config::new(Arc::new(directory()))
}

/// With the operator's pages too.
pub(crate) fn config_with_admin() -> Config {
    Config {
        admin: Some("127.0.0.1:0".parse().unwrap()),
        ..config()
    }
}

pub(crate) fn directory() -> MemoryDirectory {
    MemoryDirectory::new(|| Timestamp(1_700_000_000_000_000), || 0)
}

pub(crate) async fn assert_error(
    response: Response,
    status: u16,
    code: ErrorCode,
    says: &str,
) -> Value {
    let found = response.status();
    let error: Value = response.json().await.unwrap();
    assert_eq!(found, status, "for {says:?}: {error}");
    assert_eq!(error["code"], code as u16, "{error}");
    assert_eq!(error["name"], code.name(), "{error}");
    assert_eq!(error["retryable"], code.is_retryable(), "{error}");
    assert!(
        error["message"].as_str().unwrap().contains(says),
        "{error} should say {says:?}"
    );
    error
}

/// Asks until the answer is as it should be.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asking = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            again.tick().await;
        }
    };
    let held = tokio::time::timeout(DEADLINE, asking).await;
    assert!(held.is_ok(), "{what}: not within {DEADLINE:?}");
}

pub(crate) fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

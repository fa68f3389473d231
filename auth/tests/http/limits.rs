//! What clients may use up, and no more.

use std::time::Duration;

use dreamcatcher_auth::{Config, Rate};
use dreamcatcher_proto::ErrorCode;
use reqwest::{Method, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::server::{DEADLINE, PASSWORD, SECRET, Server, assert_error, config, config_with_admin};

#[tokio::test]
async fn sign_ins_over_the_rate_are_told_when_to_try_again() {
    let server = Server::start(Config {
        guest_rate_loopback: Rate { burst: 3, per_s: 1 },
        ..config()
    })
    .await;
    for _ in 0..3 {
        server.sign_in(json!({"secret": SECRET})).await;
    }
    let response = limited(|| server.post(json!({"secret": SECRET}).to_string())).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let error = assert_error(response, 429, ErrorCode::RateLimited, "try again in").await;
    let retry_after_ms = error["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&retry_after_ms), "{error}");
    assert_eq!(
        server.get("/v1/relays").await.status(),
        200,
        "only what needs the user records is limited"
    );
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_body_that_never_comes_times_out_and_bothers_nobody() {
    let request_timeout = Duration::from_millis(200);
    let server = Server::start(Config {
        request_timeout,
        ..config()
    })
    .await;
    let mut slow = TcpStream::connect(server.auth.local_addr()).await.unwrap();
    let head = "POST /v1/guest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                Content-Length: 99\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(server.get("/readyz").await.status(), 200);
    let mut answer = vec![0; 4_096];
    let read = slow.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains(r#""name":"TimedOut""#), "{answer}");
    server.auth.shutdown().await;
}

#[tokio::test]
async fn bytes_that_are_not_http_cost_only_their_connection() {
    let server = Server::start(config()).await;
    let endless = vec![b'A'; 100_000];
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"\0\0\0\0\r\n\r\n",
        &endless,
    ] {
        let mut peer = TcpStream::connect(server.auth.local_addr()).await.unwrap();
        // Either end may close first; what counts is that the server closes.
        let _ = peer.write_all(garbage).await;
        let _ = peer.shutdown().await;
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest).await;
        assert_eq!(server.get_json("/livez").await, json!({"status": "ok"}));
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    let server = Server::start(config()).await;
    let mut peer = TcpStream::connect(server.auth.local_addr()).await.unwrap();
    let head = "POST /v1/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                Content-Length: 1000000000\r\n\r\n";
    peer.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = peer.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(4), read)
        .await
        .expect("before the body is due")
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_header_that_comes_a_byte_at_a_time_ends_in_time() {
    let server = Server::start(config()).await;
    let peer = TcpStream::connect(server.auth.local_addr()).await.unwrap();
    let (mut from, mut to) = peer.into_split();
    let dribble = tokio::spawn(async move {
        let mut pause = tokio::time::interval(Duration::from_millis(200));
        for byte in b"GET /livez HTTP/1.1\r\nX-Slow: "
            .iter()
            .chain([b'x'; 10_000].iter())
        {
            pause.tick().await;
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, from.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "a slow header holds its place");
    dribble.abort();
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_trusted_proxy_s_clients_have_a_rate_each_and_nobody_else_is_believed() {
    let behind = |trusted_proxies| Config {
        trusted_proxies,
        guest_rate: Rate { burst: 2, per_s: 1 },
        guest_rate_loopback: Rate { burst: 4, per_s: 1 },
        ..config()
    };
    let server = Server::start(behind(vec!["127.0.0.1".parse().unwrap()])).await;
    for client in ["198.51.100.1", "198.51.100.2"] {
        let first = guest_from(&server, client).await;
        assert_eq!(first.status(), 200, "{client} has a rate of its own");
        // Whatever the client itself claims stands to the left of what the proxy saw.
        let mut claims = (1..).map(|number| format!("203.0.113.{number}, {client}"));
        limited(|| {
            let claim = claims.next().unwrap();
            let server = &server;
            async move { guest_from(server, &claim).await }
        })
        .await;
    }
    server.auth.shutdown().await;

    let server = Server::start(behind(Vec::new())).await;
    let mut claims = (1..).map(|number| format!("198.51.100.{number}"));
    limited(|| {
        let claim = claims.next().unwrap();
        let server = &server;
        async move { guest_from(server, &claim).await }
    })
    .await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn passwords_beyond_the_queue_are_told_to_come_again() {
    let server = Server::start(Config {
        request_timeout: 2 * DEADLINE,
        ..config_with_admin()
    })
    .await;
    let mut players = JoinSet::new();
    for player in 0..200 {
        let body = json!({"username": format!("player-{player}"), "password": PASSWORD});
        let request = server.request(Method::POST, "/v1/register").json(&body);
        players.spawn(async move { request.send().await.unwrap() });
    }
    let (mut registered, mut refused) = (0, 0);
    while let Some(response) = players.join_next().await {
        let response = response.unwrap();
        if response.status() == 200 {
            registered += 1;
        } else {
            assert_eq!(response.headers()["retry-after"], "1");
            assert_error(response, 503, ErrorCode::RateLimited, "try again").await;
            refused += 1;
        }
    }
    assert!(registered >= 64, "the queue is served: {registered}");
    assert!(refused > 0, "and it is bounded");
    let hashes = server.metric("dreamcatcher_auth_hashes_total ").await;
    assert_eq!(hashes, registered, "nothing is hashed for those refused");
    assert_eq!(server.metric("dreamcatcher_auth_hash_queue ").await, 0);
    let series = r#"dreamcatcher_auth_refusals_total{code="RateLimited"} "#;
    assert_eq!(server.metric(series).await, refused);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn whoever_has_a_token_is_within_the_rate_too() {
    let server = Server::start(Config {
        guest_rate_loopback: Rate { burst: 3, per_s: 1 },
        ..config()
    })
    .await;
    let guest = server.sign_in(json!({"secret": SECRET})).await;
    let response = limited(|| server.me(Method::GET, &guest["access_token"])).await;
    assert_error(response, 429, ErrorCode::RateLimited, "too many requests").await;
    server.auth.shutdown().await;
}

/// Asks until it is too often, which a token a second does not prevent: the first refusal.
async fn limited<F: Future<Output = Response>>(mut ask: impl FnMut() -> F) -> Response {
    for _ in 0..200 {
        let response = ask().await;
        if response.status() == 429 {
            return response;
        }
        assert_eq!(response.status(), 200);
    }
    panic!("200 requests in a row were within the rate");
}

async fn guest_from(server: &Server, forwarded_for: &str) -> Response {
    let request = server.request(Method::POST, "/v1/guest");
    let request = request.header("x-forwarded-for", forwarded_for);
    request
        .json(&json!({"secret": SECRET}))
        .send()
        .await
        .unwrap()
}

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Instant;

use super::stub::{Authority, Stub, json, refused, signed_in};
use super::*;
use crate::block_on;

#[test]
fn a_guest_is_signed_in() {
    let stub = Stub::http(|_| signed_in("eyJ", 900, Some("r-1")));
    let sign_in = block_on(guest(&stub.url(), "a-secret", "Ada")).unwrap();
    assert_eq!(
        (sign_in.token.as_str(), sign_in.expires_in),
        ("eyJ", Duration::from_secs(900))
    );
    let refresh_token = sign_in.refresh_token.as_ref().map(RefreshToken::expose);
    let days = Some(Duration::from_secs(30 * 86_400));
    assert_eq!(
        (refresh_token, sign_in.refresh_expires_in),
        (Some("r-1"), days)
    );
    let asked = stub.asked();
    assert!(
        asked[0].starts_with("POST /v1/guest HTTP/1.1\r\n"),
        "{asked:?}"
    );
    assert!(
        asked[0].ends_with("{\"display_name\":\"Ada\",\"secret\":\"a-secret\"}"),
        "{asked:?}"
    );
}

#[test]
fn each_call_is_the_one_that_the_service_documents() {
    let me_json = json!({ "user_id": "9f86d081884c7d659a2feaa0c55ad015", "display_name": "Ada",
                          "username": "ada", "later": 1 });
    let stub = Stub::http(move |request| {
        let route = request.split(" HTTP/").next().unwrap();
        match route {
            "GET /v1/me" | "PATCH /v1/me" => json("200 OK", &me_json),
            "DELETE /v1/me" | "POST /v1/logout" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            _ => signed_in("t", 900, Some("r-2")),
        }
    });
    let url = stub.url();
    block_on(async {
        let ann = guest(&url, "s", "Ann").await.unwrap();
        let account = Registration::new("ann", "hunter2hunter2").email("a@b.example");
        let account = account.display_name("Ann").upgrading(&ann);
        register(&url, account).await.unwrap();
        login(&url, "ann", "hunter2hunter2").await.unwrap();
        let next = refresh(&url, &RefreshToken::from("r-1".to_owned())).await;
        logout(&url, &next.unwrap().refresh_token.unwrap())
            .await
            .unwrap();
        let me = me(&url, "t").await.unwrap();
        assert_eq!(
            (me.username.as_deref(), me.email.as_deref()),
            (Some("ada"), None)
        );
        rename(&url, "t", "Ada").await.unwrap();
        delete(&url, "t").await.unwrap();
    });
    let parts = |text: &String| {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let bearer = head
            .lines()
            .find_map(|line| line.strip_prefix("Authorization: "));
        let route = head.split(" HTTP/").next().unwrap();
        format!("{route} {} {body}", bearer.unwrap_or("-"))
    };
    let asked: Vec<String> = stub.asked().iter().skip(1).map(parts).collect();
    assert_eq!(
        asked,
        [
            "POST /v1/register Bearer t {\"display_name\":\"Ann\",\"email\":\"a@b.example\",\
             \"password\":\"hunter2hunter2\",\"username\":\"ann\"}",
            "POST /v1/login - {\"login\":\"ann\",\"password\":\"hunter2hunter2\"}",
            "POST /v1/refresh - {\"refresh_token\":\"r-1\"}",
            "POST /v1/logout - {\"refresh_token\":\"r-2\"}",
            "GET /v1/me Bearer t ",
            "PATCH /v1/me Bearer t {\"display_name\":\"Ada\"}",
            "DELETE /v1/me Bearer t ",
        ]
    );
}

#[test]
fn nothing_secret_is_printed() {
    let stub = Stub::http(|_| signed_in("canary-access", 900, Some("canary-refresh")));
    let sign_in = block_on(guest(&stub.url(), "canary-secret", "Ada")).unwrap();
    let token = sign_in.refresh_token.clone().unwrap();
    let registration = Registration::new("ann", "canary-password").upgrading(&sign_in);
    let credentials = Credentials::guest(&stub.url(), "canary-secret").unwrap();
    let account = Credentials::account(&stub.url(), token.clone()).unwrap();
    let printed = format!("{sign_in:?} {token:?} {registration:?} {credentials:?} {account:?}");
    assert!(!printed.contains("canary"), "{printed}");
}

#[test]
fn relays_that_are_about_to_stop_are_left_out() {
    let relay = |node: &str, draining: bool| {
        json!({ "node_id": node, "region": "local", "host": "h", "address": "127.0.0.1:1",
                "certificate_sha256": ["5a".repeat(32)], "load": 1, "capacity": 2,
                "draining": draining })
    };
    let body = json!({ "relays": [relay("a-0", true), relay("b-0", false)] });
    let stub = Stub::http(move |_| json("200 OK", &body));
    let listed = block_on(relays(&stub.url())).unwrap();
    let names: Vec<_> = listed
        .iter()
        .map(|relay| relay.node_id.as_deref())
        .collect();
    assert_eq!(names, [Some("b-0")]);
    assert_eq!(block_on(all_relays(&stub.url())).unwrap().len(), 2);
}

#[test]
fn a_refusal_keeps_its_code_its_message_and_when_to_come_back() {
    let body = json!({ "code": 206, "name": "RateLimited", "message": "later", "retryable": true,
                       "retry_after_ms": 1_500 });
    let stub = Stub::http(move |_| json("429 Too Many Requests\r\nRetry-After: 2", &body));
    let error = block_on(guest(&stub.url(), "s", "n")).unwrap_err();
    assert_eq!(
        (error.code(), error.message(), error.step()),
        (ErrorCode::RateLimited, "later", Step::Answer)
    );
    assert_eq!(error.retry_after(), Some(Duration::from_millis(1_500)));
    assert_eq!(Error::from(error).code(), ErrorCode::RateLimited);
}

#[test]
fn a_proxy_in_between_is_understood_without_the_services_words() {
    let cases: [(&str, ErrorCode, Option<u64>); 4] = [
        ("429 No\r\nRetry-After: 7", ErrorCode::RateLimited, Some(7)),
        ("502 Bad Gateway", ErrorCode::ConnectionLost, None),
        ("404 Not Found", ErrorCode::Internal, None),
        (
            "301 Moved\r\nLocation: https://other.example/",
            ErrorCode::InvalidArgument,
            None,
        ),
    ];
    for (status, code, seconds) in cases {
        let answer = format!("HTTP/1.1 {status}\r\n\r\n<html>");
        let stub = Stub::http(move |_| answer.clone());
        let error = block_on(relays(&stub.url())).unwrap_err();
        assert_eq!(error.code(), code, "{status}: {error}");
        assert_eq!(error.retry_after(), seconds.map(Duration::from_secs));
        assert_eq!(
            error.message().contains("other.example"),
            status.contains("301")
        );
    }
}

#[test]
fn a_service_that_is_not_there_or_talks_nonsense_is_an_error_that_names_it() {
    let nowhere = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = block_on(relays(&format!("http://{nowhere}"))).unwrap_err();
    assert_eq!(
        (error.code(), error.step()),
        (ErrorCode::ConnectionLost, Step::Connect)
    );
    assert!(error.message().contains(&nowhere.to_string()), "{error}");
    for nonsense in [
        "",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\n\r\n{\"relays\": \"eyJ-a-token\"}",
        "HTTP/1.1 500 No\r\n\r\n",
    ] {
        let stub = Stub::http(move |_| nonsense.to_owned());
        let error = block_on(relays(&stub.url())).unwrap_err();
        assert!(
            error.message().contains(&stub.url()),
            "{nonsense:?}: {error}"
        );
        assert!(
            !error.message().contains("eyJ"),
            "an answer is not repeated"
        );
    }
}

#[test]
fn a_name_without_an_address_is_told_from_a_service_that_is_away() {
    // RFC 6761, 6.4: no such name, ever.
    let error = block_on(relays("https://auth.invalid")).unwrap_err();
    assert_eq!(error.step(), Step::Name, "{error}");
    assert!(error.message().contains("auth.invalid"), "{error}");
}

#[test]
fn a_certificate_counts_only_if_the_authority_that_is_trusted_gave_it() {
    let (own, other) = (Authority::new(), Authority::new());
    let own_file = PemFile::new("own", &own.pem);
    let other_file = PemFile::new("other", &other.pem);
    let stub = Stub::https(&own, |_| signed_in("eyJ", 900, None));
    let url: AuthUrl = stub.url().parse().unwrap();
    let sign_in = |trust| block_on(guest(&url.clone().trusting(trust), "s", "n"));
    assert_eq!(sign_in(own_file.trust()).unwrap().token, "eyJ");
    for trust in [other_file.trust(), Trust::Platform] {
        let error = sign_in(trust).unwrap_err();
        assert_eq!(error.step(), Step::Tls, "{error}");
        assert!(error.message().contains("certificate"), "{error}");
    }
    assert_eq!(
        stub.asked().len(),
        1,
        "nothing was said to who was not trusted"
    );
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let file = PemFile::new("name", &authority.pem);
    let stub = Stub::https_as("elsewhere.example", &authority);
    let url: AuthUrl = stub.url().parse().unwrap();
    let error = block_on(relays(&url.trusting(file.trust()))).unwrap_err();
    assert_eq!(error.step(), Step::Tls, "{error}");
    assert!(error.message().contains("not valid for name"), "{error}");
}

#[test]
fn a_ca_file_that_is_none_is_an_error_that_names_it() {
    let url: AuthUrl = "https://127.0.0.1:1".parse().unwrap();
    let empty = PemFile::new("empty", "no certificate in here\n");
    for (file, why) in [
        (empty.path.clone(), "holds no certificate"),
        (PathBuf::from("/absent/ca.pem"), "cannot be read"),
    ] {
        let trust = Trust::CaFile(file.clone());
        let error = block_on(relays(&url.clone().trusting(trust))).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        let name = file.display().to_string();
        assert!(
            error.message().contains(&name) && error.message().contains(why),
            "{error}"
        );
    }
}

#[test]
fn a_service_that_takes_the_connection_and_says_nothing_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for (url, step, within) in [
        (format!("https://127.0.0.1:{port}"), Step::Tls, 5),
        (format!("http://127.0.0.1:{port}"), Step::Exchange, 11),
    ] {
        let begun = Instant::now();
        let url = url.parse::<AuthUrl>().unwrap();
        let error = block_on(relays(&url)).unwrap_err();
        assert_eq!((error.code(), error.step()), (ErrorCode::TimedOut, step));
        assert!(begun.elapsed() < Duration::from_secs(within), "{error}");
    }
}

#[test]
fn a_ping_says_how_it_went_and_what_the_time_is_there() {
    let stub = Stub::http(|_| {
        "HTTP/1.1 503 No\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nnot yet".to_owned()
    });
    let ping = block_on(ping(&stub.url(), "/readyz")).unwrap();
    assert_eq!((ping.status, ping.body.as_str()), (503, "not yet"));
    assert!(ping.tls.is_none() && ping.total >= ping.connect);
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(ping.date, Some(then));
}

#[test]
fn a_date_is_read_as_http_writes_it() {
    let seconds = |text| {
        let since = http_date(text)?.duration_since(SystemTime::UNIX_EPOCH);
        since.ok().map(|since| since.as_secs())
    };
    for (text, then) in [
        ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
        ("Tue, 29 Feb 2000 12:00:00 GMT", Some(951_825_600)),
        ("Sun, 22 Nov 2026 19:18:20 GMT", Some(1_795_375_100)),
        ("Fri, 31 Dec 2100 23:59:59 GMT", Some(4_133_980_799)),
    ] {
        assert_eq!(seconds(text), then, "{text}");
    }
    for bad in [
        "",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 99999999999999999 00:00:00 GMT",
        "Sun, 06 Now 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 CET",
    ] {
        assert_eq!(seconds(bad), None, "{bad}");
    }
}

#[test]
fn credentials_are_kept_as_json() {
    let url = "https://auth.example";
    let guest = Credentials::guest(url, "s").unwrap();
    let (_, refreshed) = guest.rotated(sign_in("r-1"));
    let account = Credentials::account(url, RefreshToken::from("r".to_owned())).unwrap();
    for credentials in [guest, refreshed, account] {
        let text = serde_json::to_string(&credentials).unwrap();
        let read: Credentials = serde_json::from_str(&text).unwrap();
        assert_eq!(read, credentials, "{text}");
    }
    let without_proof = r#"{"auth": {"url": "https://auth.example"}}"#;
    assert!(serde_json::from_str::<Credentials>(without_proof).is_err());
}

#[test]
fn who_has_a_refresh_token_signs_in_by_it_and_keeps_the_next_one() {
    let stub = Stub::http(|request| match request.contains("\"r-1\"") {
        true => signed_in("t-2", 900, Some("r-2")),
        false => refused("401 No", 308, "used before"),
    });
    let account = Credentials::account(&stub.url(), RefreshToken::from("r-1".to_owned())).unwrap();
    let (sign_in, next) = block_on(account.sign_in()).unwrap();
    assert_eq!(sign_in.token, "t-2");
    assert_eq!(next.refresh_token().map(RefreshToken::expose), Some("r-2"));
    let error = block_on(next.sign_in()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SignedOut);
}

#[test]
fn a_guest_whose_refresh_token_is_refused_comes_back_by_its_secret() {
    let stub = Stub::http(|request| match request.starts_with("POST /v1/refresh") {
        true => refused("401 No", 308, "expired"),
        false => signed_in("t-2", 900, Some("r-2")),
    });
    let (_, guest) = Credentials::guest(&stub.url(), "a-secret")
        .unwrap()
        .rotated(sign_in("r-1"));
    let (sign_in, next) = block_on(guest.sign_in()).unwrap();
    assert_eq!(sign_in.token, "t-2");
    assert_eq!(next.refresh_token().map(RefreshToken::expose), Some("r-2"));
    assert!(
        stub.asked()[1].ends_with("{\"secret\":\"a-secret\"}"),
        "by the name that it has"
    );
}

#[test]
fn a_secret_is_drawn_anew_each_time_from_base64url() {
    let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
    assert_ne!(one, other);
    assert!(one.bytes().all(|c| SECRET_ALPHABET.contains(&c)) && one.len() == SECRET_CHARS);
}

fn sign_in(refresh_token: &str) -> SignIn {
    let answer = signed_in("t", 900, Some(refresh_token));
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// A file that goes with its holder.
struct PemFile {
    path: PathBuf,
}

impl PemFile {
    fn new(name: &str, pem: &str) -> Self {
        let name = format!("dreamcatcher-{}-{name}.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, pem).unwrap();
        Self { path }
    }

    fn trust(&self) -> Trust {
        Trust::CaFile(self.path.clone())
    }
}

impl Drop for PemFile {
    fn drop(&mut self) {
        // What it held was no secret.
        let _ = std::fs::remove_file(&self.path);
    }
}

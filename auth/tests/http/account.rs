//! Accounts: from a guest to a login to the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher};
use dreamcatcher_auth::{Config, StoreConfig};
use dreamcatcher_proto::ErrorCode;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::server::{PASSWORD, SECRET, Server, assert_error, config, config_with_admin};

#[tokio::test]
async fn an_account_logs_in_by_name_or_email_whatever_the_case() {
    let server = Server::start(config()).await;
    let body = json!({"username": "Ada.L", "password": PASSWORD, "email": "Ada@Host.Example"});
    let registered = server.posted("/v1/register", body).await;
    assert_eq!(registered["display_name"], "Ada.L");
    assert_eq!(registered["refresh_expires_in_s"], 30 * 24 * 3_600);
    for login in ["Ada.L", "ada.l", "ada@host.example", "ADA@HOST.EXAMPLE"] {
        let body = json!({"login": login, "password": PASSWORD});
        let answer = server.posted("/v1/login", body).await;
        assert_eq!(answer["user_id"], registered["user_id"], "{login}");
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_guest_who_registers_stays_the_same_user() {
    let server = Server::start(config()).await;
    let guest = server
        .sign_in(json!({"secret": SECRET, "display_name": "Ada"}))
        .await;
    let body = json!({"username": "ada", "password": PASSWORD});
    let account = upgrade(&server, &guest, &body).await;
    assert_eq!(account["user_id"], guest["user_id"]);
    assert_eq!(account["display_name"], "Ada");
    let login = json!({"login": "ada", "password": PASSWORD});
    let login = server.posted("/v1/login", login).await;
    assert_eq!(login["user_id"], guest["user_id"]);
    let again = server.sign_in(json!({"secret": SECRET})).await;
    assert_eq!(again["user_id"], guest["user_id"], "the secret goes on");

    let request = server.request(Method::POST, "/v1/register");
    let request = request.bearer_auth(guest["access_token"].as_str().unwrap());
    let body = json!({"username": "ada2", "password": PASSWORD});
    let twice = request.json(&body).send().await.unwrap();
    assert_error(twice, 409, ErrorCode::AlreadyLinked, "").await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_username_and_an_email_are_one_account_s_even_if_many_ask_at_once() {
    let server = Arc::new(Server::start(config()).await);
    let asking: Vec<_> = (0..8)
        .map(|number| {
            let server = server.clone();
            let name = if number % 2 == 0 { "ada" } else { "ADA" };
            let body = json!({"username": name, "password": PASSWORD, "email": "ada@host.example"});
            tokio::spawn(async move { server.post_json("/v1/register", body).await })
        })
        .collect();
    let mut registered = 0;
    for response in asking {
        let response = response.await.unwrap();
        if response.status() == 200 {
            registered += 1;
        } else {
            assert_error(response, 409, ErrorCode::UsernameTaken, "").await;
        }
    }
    assert_eq!(registered, 1);
    let email = json!({"username": "bob", "password": PASSWORD, "email": "ADA@host.example"});
    let response = server.post_json("/v1/register", email).await;
    assert_error(response, 409, ErrorCode::UsernameTaken, "").await;
}

#[tokio::test]
async fn each_bad_field_is_named_with_its_limit() {
    let server = Server::start(config()).await;
    let good = json!({"username": "ada", "password": PASSWORD});
    for (path, field, value, says) in [
        (
            "/v1/register",
            "username",
            json!("ab"),
            "username must be 3–32",
        ),
        (
            "/v1/register",
            "username",
            json!("x".repeat(33)),
            "username must be 3–32",
        ),
        (
            "/v1/register",
            "username",
            json!("' OR 1=1; --"),
            "username must be 3–32",
        ),
        (
            "/v1/register",
            "password",
            json!("too short"),
            "password must be 10–128",
        ),
        (
            "/v1/register",
            "password",
            json!("x".repeat(129)),
            "password must be 10–128",
        ),
        (
            "/v1/register",
            "email",
            json!("nobody"),
            "email must be 6–254",
        ),
        (
            "/v1/register",
            "display_name",
            json!(""),
            "display_name must be 1–32",
        ),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let response = server.post_json(path, body).await;
        assert_error(response, 400, ErrorCode::InvalidArgument, says).await;
    }
    let response = server.login("a b", PASSWORD).await;
    assert_error(
        response,
        400,
        ErrorCode::InvalidArgument,
        "login is a username",
    )
    .await;
    let response = server.login("ada", &"x".repeat(129)).await;
    assert_error(
        response,
        400,
        ErrorCode::InvalidArgument,
        "password must be",
    )
    .await;
    let response = server
        .post_json("/v1/register", json!({"username": "ada"}))
        .await;
    assert_error(
        response,
        422,
        ErrorCode::InvalidArgument,
        "the field password is missing: give it, as a string",
    )
    .await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_are_told_apart_by_nothing() {
    let server = Server::start(config_with_admin()).await;
    for name in ["ada", "bob"] {
        server.register(name).await;
    }
    let mut bodies = Vec::new();
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    // In turns, so that what else the machine does falls on both.
    for number in 0..4 {
        for (login, times) in [
            (format!("nobody-{number}"), &mut unknown),
            (["ada", "bob"][number % 2].to_owned(), &mut wrong),
        ] {
            let before = server.metric("dreamcatcher_auth_hashes_total ").await;
            let begun = Instant::now();
            let response = server.login(&login, "wrong password").await;
            times.push(begun.elapsed());
            assert_eq!(response.status(), 401);
            bodies.push(response.bytes().await.unwrap());
            let after = server.metric("dreamcatcher_auth_hashes_total ").await;
            assert_eq!(after - before, 1, "one hash for {login}");
        }
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    let error: Value = serde_json::from_slice(&bodies[0]).unwrap();
    assert_eq!(error["name"], "InvalidCredentials");
    let (unknown, wrong) = (least(&unknown), least(&wrong));
    // Without a hash an answer takes a small part of the time.
    assert!(
        unknown < 2 * wrong && wrong < 2 * unknown,
        "unknown {unknown:?}, wrong {wrong:?}"
    );
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_hash_with_the_parameters_of_another_day_is_renewed_by_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.db");
    let on_disk = || Config {
        store: StoreConfig::File(file.clone()),
        ..config()
    };
    let server = Server::start(on_disk()).await;
    let ada = server.register("ada").await;
    server.auth.shutdown().await;
    let cheap = Argon2::from(Params::new(8, 1, 1, None).unwrap());
    let old: PasswordHash = cheap.hash_password(PASSWORD.as_bytes()).unwrap();
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute("UPDATE accounts SET password_hash = ?1", [old.to_string()])
        .unwrap();

    for _ in 0..2 {
        let server = Server::start(on_disk()).await;
        let body = json!({"login": "ada", "password": PASSWORD});
        let login = server.posted("/v1/login", body).await;
        assert_eq!(login["user_id"], ada["user_id"]);
        server.auth.shutdown().await;
        let hash: String = rusqlite::Connection::open(&file)
            .unwrap()
            .query_row("SELECT password_hash FROM accounts", [], |row| row.get(0))
            .unwrap();
        assert!(hash.contains("$m=19456,t=2,p=1$"), "{hash}");
    }
}

#[tokio::test]
async fn five_failures_make_an_account_wait_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = || Config {
        store: StoreConfig::File(folder.path().join("auth.db")),
        ..config()
    };
    let server = Server::start(on_disk()).await;
    for name in ["ada", "bob"] {
        server.register(name).await;
    }
    for _ in 0..5 {
        let response = server.login("ada", "wrong password").await;
        assert_error(response, 401, ErrorCode::InvalidCredentials, "").await;
        let response = server.login("nobody", "wrong password").await;
        assert_error(response, 401, ErrorCode::InvalidCredentials, "").await;
    }
    server.auth.shutdown().await;

    let server = Server::start(on_disk()).await;
    for login in ["ADA", "nobody"] {
        let response = server.login(login, PASSWORD).await;
        let header: u64 = response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=60).contains(&header), "{header}");
        assert_error(response, 429, ErrorCode::RateLimited, "failed logins").await;
    }
    assert_eq!(server.login("bob", PASSWORD).await.status(), 200);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn twenty_failures_make_an_address_wait_and_no_other() {
    let server = Server::start(behind_a_proxy()).await;
    let wrong = async |address: &str, login: &str| {
        login_from(&server, address, login, "wrong password").await
    };
    for number in 0..20 {
        let response = wrong("198.51.100.1", &format!("user-{number}")).await;
        assert_eq!(response.status(), 401, "{number}");
    }
    let response = wrong("198.51.100.1", "user-20").await;
    assert_error(response, 429, ErrorCode::RateLimited, "failed logins").await;
    let response = wrong("198.51.100.2", "user-20").await;
    assert_eq!(response.status(), 401);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn whoever_guesses_locks_out_nobody_else_and_has_five_guesses_by_name_and_email_together() {
    let server = Server::start(behind_a_proxy()).await;
    let ada = json!({"username": "ada", "password": PASSWORD, "email": "ada@host.example"});
    server.posted("/v1/register", ada).await;
    let guesser = "2001:db8:0:1::1";
    for login in ["ada", "ADA", "ada@host.example", "Ada@Host.Example", "ada"] {
        let response = login_from(&server, guesser, login, "wrong password").await;
        assert_error(response, 401, ErrorCode::InvalidCredentials, "").await;
    }
    for (address, login) in [
        (guesser, "ada"),
        (guesser, "ada@host.example"),
        ("2001:db8:0:1:ffff::2", "ada"),
    ] {
        let response = login_from(&server, address, login, PASSWORD).await;
        assert_error(response, 429, ErrorCode::RateLimited, "failed logins").await;
    }
    let elsewhere = login_from(&server, "2001:db8:0:2::1", "ada", PASSWORD).await;
    assert_eq!(elsewhere.status(), 200);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn guesses_from_everywhere_lock_out_only_strangers_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.db");
    let on_disk = || Config {
        store: StoreConfig::File(file.clone()),
        ..behind_a_proxy()
    };
    let server = Server::start(on_disk()).await;
    let (home, phone) = ("198.51.100.1", "198.51.100.2");
    let register = server.request(Method::POST, "/v1/register");
    let register = register.header("x-forwarded-for", home);
    let ada = json!({"username": "ada", "password": PASSWORD});
    assert_eq!(register.json(&ada).send().await.unwrap().status(), 200);
    let on_the_phone = login_from(&server, phone, "ada", PASSWORD).await;
    assert_eq!(on_the_phone.status(), 200);
    let everybody = ["ada", "nobody"];
    for login in everybody {
        let response = login_from(&server, "203.0.113.1", login, "wrong password").await;
        assert_eq!(response.status(), 401);
    }
    server.auth.shutdown().await;
    // As if 48 more had guessed meanwhile.
    let guessed = rusqlite::Connection::open(&file)
        .unwrap()
        .execute(
            "UPDATE login_attempts SET failures = 49 WHERE counted = 2",
            [],
        )
        .unwrap();
    // The phone's success was taken back, and its account is the one that was guessed at.
    assert_eq!(guessed, 2);

    let server = Server::start(on_disk()).await;
    let mut bodies = Vec::new();
    for login in everybody {
        let fiftieth = login_from(&server, "203.0.113.2", login, "wrong password").await;
        assert_error(fiftieth, 401, ErrorCode::InvalidCredentials, "").await;
        let stranger = login_from(&server, "203.0.113.3", login, PASSWORD).await;
        let after_s: u64 = stranger.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((3_000..=3_600).contains(&after_s), "{after_s}");
        bodies.push(
            assert_error(stranger, 429, ErrorCode::RateLimited, "failed logins").await["name"]
                .clone(),
        );
    }
    assert_eq!(
        bodies[0], bodies[1],
        "whether there is such a user is not told"
    );
    for address in [home, phone] {
        let response = login_from(&server, address, "ada", PASSWORD).await;
        assert_eq!(response.status(), 200, "{address} signed in before");
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_second_use_ends_the_sign_in() {
    let server = Server::start(config()).await;
    let first = server.register("ada").await;
    let other = json!({"login": "ada", "password": PASSWORD});
    let other = server.posted("/v1/login", other).await;

    let body = json!({"refresh_token": first["refresh_token"]});
    let second = server.posted("/v1/refresh", body).await;
    assert_eq!(second["user_id"], first["user_id"]);
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_ne!(second["access_token"], first["access_token"]);
    let body = json!({"refresh_token": second["refresh_token"]});
    let third = server.posted("/v1/refresh", body).await;

    for token in [&first["refresh_token"], &third["refresh_token"]] {
        let response = server.refresh(token).await;
        assert_error(response, 401, ErrorCode::SignedOut, "sign in again").await;
    }
    let response = server.refresh(&other["refresh_token"]).await;
    assert_eq!(response.status(), 200, "another sign-in is another family");
    for bad in ["", "x", &"x".repeat(43), "' OR 1=1; --"] {
        let response = server.refresh(&json!(bad)).await;
        assert_error(response, 401, ErrorCode::SignedOut, "").await;
    }
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_refresh_whose_answer_was_lost_is_answered_again_and_the_lost_token_is_dead() {
    let server = Server::start(config()).await;
    let first = server.register("ada").await;
    let body = json!({"refresh_token": first["refresh_token"]});
    let lost = server.posted("/v1/refresh", body.clone()).await;
    let lost_too = server.posted("/v1/refresh", body.clone()).await;
    let came = server.posted("/v1/refresh", body).await;
    assert_eq!(came["user_id"], first["user_id"]);
    let next = json!({"refresh_token": came["refresh_token"]});
    let next = server.posted("/v1/refresh", next).await;
    assert_ne!(lost["refresh_token"], lost_too["refresh_token"]);

    // Whoever comes with a token that was lost is not who went on.
    let stolen = server.refresh(&lost_too["refresh_token"]).await;
    assert_error(stolen, 401, ErrorCode::SignedOut, "sign in again").await;
    let both = server.refresh(&next["refresh_token"]).await;
    assert_error(both, 401, ErrorCode::SignedOut, "sign in again").await;
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_guest_refreshes_too_and_keeps_the_name() {
    let server = Server::start(config()).await;
    let guest = server
        .sign_in(json!({"secret": SECRET, "display_name": "Ada"}))
        .await;
    let body = json!({"refresh_token": guest["refresh_token"]});
    let again = server.posted("/v1/refresh", body).await;
    assert_eq!(again["user_id"], guest["user_id"]);
    assert_eq!(again["display_name"], "Ada");
    server.auth.shutdown().await;
}

#[tokio::test]
async fn logging_out_ends_the_sign_in_by_any_token_of_it() {
    let server = Server::start(config()).await;
    let first = server.register("ada").await;
    let body = json!({"refresh_token": first["refresh_token"]});
    let second = server.posted("/v1/refresh", body.clone()).await;
    for _ in 0..2 {
        let done = server.posted("/v1/logout", body.clone()).await;
        assert_eq!(done, json!({"status": "ok"}));
    }
    let response = server.refresh(&second["refresh_token"]).await;
    assert_error(response, 401, ErrorCode::SignedOut, "").await;
    assert_eq!(server.login("ada", PASSWORD).await.status(), 200);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_user_reads_renames_and_deletes_itself() {
    let server = Server::start(config()).await;
    let body = json!({"username": "Ada", "password": PASSWORD, "email": "Ada@Host.Example"});
    let ada = server.posted("/v1/register", body).await;
    let token = &ada["access_token"];
    let me: Value = server.me(Method::GET, token).await.json().await.unwrap();
    assert!(me["created_at_unix_s"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        (&me["user_id"], &me["username"], &me["email"]),
        (&ada["user_id"], &json!("Ada"), &json!("ada@host.example"))
    );

    let rename = |name: &str| {
        let request = server.request(Method::PATCH, "/v1/me");
        let request = request.bearer_auth(token.as_str().unwrap());
        request.json(&json!({"display_name": name})).send()
    };
    let me: Value = rename("Lovelace").await.unwrap().json().await.unwrap();
    assert_eq!(me["display_name"], "Lovelace");
    assert_eq!(me["username"], "Ada");
    let response = rename("").await.unwrap();
    assert_error(
        response,
        400,
        ErrorCode::InvalidArgument,
        "display_name must be",
    )
    .await;
    let body = json!({"refresh_token": ada["refresh_token"]});
    let again = server.posted("/v1/refresh", body).await;
    assert_eq!(again["display_name"], "Lovelace");

    assert_eq!(server.me(Method::DELETE, token).await.status(), 200);
    for method in [Method::GET, Method::DELETE] {
        let response = server.me(method, token).await;
        assert_error(response, 401, ErrorCode::TokenRevoked, "deleted").await;
    }
    let response = server.refresh(&again["refresh_token"]).await;
    assert_error(response, 401, ErrorCode::SignedOut, "").await;
    let response = server.login("ada", PASSWORD).await;
    assert_error(response, 401, ErrorCode::InvalidCredentials, "").await;
    let reborn = server.register("ada").await;
    assert_ne!(reborn["user_id"], ada["user_id"], "the name is free again");
    server.auth.shutdown().await;
}

#[tokio::test]
async fn a_deleted_guest_cannot_be_given_an_account_and_its_secret_is_a_new_user() {
    let server = Server::start(config()).await;
    let guest = server.sign_in(json!({"secret": SECRET})).await;
    server.me(Method::DELETE, &guest["access_token"]).await;
    let request = server.request(Method::POST, "/v1/register");
    let request = request.bearer_auth(guest["access_token"].as_str().unwrap());
    let body = json!({"username": "ada", "password": PASSWORD});
    let response = request.json(&body).send().await.unwrap();
    assert_error(response, 401, ErrorCode::TokenRevoked, "deleted").await;
    let again = server.sign_in(json!({"secret": SECRET})).await;
    assert_ne!(again["user_id"], guest["user_id"]);
    server.auth.shutdown().await;
}

#[tokio::test]
async fn me_without_a_token_of_ours_is_refused() {
    let server = Server::start(config()).await;
    let stranger = Server::start(config()).await;
    let theirs = stranger.sign_in(json!({"secret": SECRET})).await;
    let theirs = format!("Bearer {}", theirs["access_token"].as_str().unwrap());
    for header in [
        None,
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer e30.e30.e30"),
        Some("Basic YWRhOnBhc3N3b3Jk"),
        Some(theirs.as_str()),
    ] {
        let mut request = server.request(Method::GET, "/v1/me");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_error(response, 401, ErrorCode::InvalidToken, "").await;
    }
    server.auth.shutdown().await;
    stranger.auth.shutdown().await;
}

fn behind_a_proxy() -> Config {
    Config {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..config()
    }
}

async fn login_from(server: &Server, address: &str, login: &str, password: &str) -> Response {
    let request = server.request(Method::POST, "/v1/login");
    let request = request.header("x-forwarded-for", address);
    let body = json!({"login": login, "password": password});
    request.json(&body).send().await.unwrap()
}

async fn upgrade(server: &Server, guest: &Value, body: &Value) -> Value {
    let request = server.request(Method::POST, "/v1/register");
    let request = request.bearer_auth(guest["access_token"].as_str().unwrap());
    let response = request.json(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

/// The time that noise did not touch.
fn least(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap()
}

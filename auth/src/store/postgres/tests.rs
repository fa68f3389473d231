//! What only a server that others run can do: be away, be slow, be set up wrongly.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode, UserId};
use dreamcatcher_servers::Postgres as Server;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::suite::{ROLE, admin, grants, served, sql};
use super::super::{self as store, Migration, PATIENCE, PostgresConfig, Store, StoreConfig};
use super::Postgres;

const DATABASE: &str = "dreamcatcher";
/// What a person who signs in may wait for the answer that it cannot be done.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_has_to_be_put_right_first_is_said_by_name_and_without_a_password() {
    let server = Server::start();
    let good = admin(&server, DATABASE);
    let wrong_password = PostgresConfig {
        password: Some("canary".into()),
        ..good.clone()
    };
    let no_password = PostgresConfig::new(&format!(
        "postgres://dreamcatcher@{}/{DATABASE}",
        server.address()
    ));
    let with_tls = PostgresConfig::new(&format!("{}?sslmode=require", server.url()));
    for (config, hint) in [
        (wrong_password, "check user and password"),
        (no_password, "check user and password"),
        (admin(&server, "nowhere"), "create the database"),
        (good.clone(), "dreamcatcher auth migrate"),
        (with_tls, "give the server a certificate"),
    ] {
        refused(&config, hint).await;
    }

    migrate(&good).await.unwrap();
    // A role without the grants.
    sql(&server, DATABASE, "CREATE ROLE canary LOGIN PASSWORD 'x'").await;
    let url = format!("postgres://canary:x@{}/{DATABASE}", server.address());
    refused(&PostgresConfig::new(&url), "grant the role").await;
    // A newer program was here.
    sql(
        &server,
        DATABASE,
        "INSERT INTO refinery_schema_history
         SELECT 99, 'later', applied_on, checksum FROM refinery_schema_history LIMIT 1",
    )
    .await;
    refused(&good, "version 99").await;
    let migrated = migrate(&good).await.unwrap_err();
    assert_eq!(migrated.code(), ErrorCode::InvalidConfig);
    assert!(migrated.message().contains("version 99"), "{migrated}");
}

#[tokio::test]
async fn processes_that_migrate_at_once_do_it_once() {
    let server = Server::start();
    let config = admin(&server, DATABASE);
    let mut racing = JoinSet::new();
    for _ in 0..6 {
        let config = config.clone();
        racing.spawn(async move { migrate(&config).await.unwrap() });
    }
    let mut migrations = racing.join_all().await;
    migrations.sort_by_key(|migration| migration.from);
    assert_eq!(migrations[0], Migration { from: 0, to: 3 });
    for found in &migrations[1..] {
        assert_eq!(*found, Migration { from: 3, to: 3 });
    }
}

#[tokio::test]
async fn a_server_that_is_killed_is_told_within_a_second_and_used_again_when_it_is_back() {
    let mut server = Server::start();
    let store = prepared(&server).await;
    store.ping().await.unwrap();
    server.kill();
    for _ in 0..3 {
        away(&store).await;
    }
    let opened = open(&served(&server, DATABASE)).await;
    assert_eq!(code(&opened), Some(ErrorCode::StoreUnavailable));
    server.restart();
    assert_eq!(store.profile(nobody()).await, Ok(None));
    // One that went away and came back between two calls is not noticed.
    server.restart();
    assert_eq!(store.profile(nobody()).await, Ok(None));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_within_a_second() {
    let server = Server::start();
    let store = prepared(&server).await;
    server.freeze();
    let began = Instant::now();
    let opened = open(&served(&server, DATABASE)).await;
    let took = began.elapsed();
    server.thaw();
    assert_eq!(code(&opened), Some(ErrorCode::StoreUnavailable));
    assert!(took < ANSWER_WITHIN, "{took:?}");
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_held_and_a_pool_that_is_used_up_are_told_within_a_second() {
    let server = Server::start();
    drop(prepared(&server).await);
    let config = PostgresConfig {
        connections_max: 2,
        ..served(&server, DATABASE)
    };
    let store = Arc::new(open(&config).await.unwrap());
    let lock = Lock::take(&server).await;
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        calls.spawn(async move { away(&store).await });
    }
    let causes = calls.join_all().await;
    let waited = causes
        .iter()
        .filter(|cause| cause.contains("all connections are in use"));
    assert_eq!(waited.count(), 6, "{causes:?}");
    // By the server, which said so, or by us, who had heard nothing.
    let timed_out = causes
        .iter()
        .filter(|cause| cause.contains("57014") || cause.contains("no answer in time"));
    assert_eq!(timed_out.count(), 2, "{causes:?}");
    lock.release().await;
    assert_eq!(store.profile(nobody()).await, Ok(None));
}

#[tokio::test]
async fn the_role_that_serves_cannot_change_tables() {
    let server = Server::start();
    drop(prepared(&server).await);
    let as_role = migrate(&served(&server, "postgres")).await.unwrap_err();
    assert_eq!(as_role.code(), ErrorCode::InvalidConfig);
    let message = as_role.message();
    assert!(message.contains("permission denied"), "{as_role}");
    let tables = format!(
        "SELECT count(*) FROM pg_tables WHERE tableowner = '{ROLE}' OR
         has_table_privilege('{ROLE}', schemaname || '.' || tablename, 'TRUNCATE')"
    );
    assert_eq!(sql(&server, DATABASE, &tables).await, "0");
}

#[tokio::test]
async fn with_tls_the_certificate_is_checked_against_the_file_of_the_authority() {
    let server = Server::start();
    drop(prepared(&server).await);
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate("127.0.0.1");
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &certificate).unwrap();
    let stranger = folder.path().join("stranger.pem");
    std::fs::write(&stranger, self::certificate("127.0.0.1").0).unwrap();
    // The server's own user writes them, so that it may read them.
    for (name, text) in [("server.crt", &certificate), ("server.key", &key)] {
        let text = text.replace('\n', "\\n");
        let command = format!(
            "COPY (SELECT E'{text}') TO PROGRAM 'umask 077; printf %b \"$(cat)\" > {name}'"
        );
        sql(&server, DATABASE, &command).await;
    }
    sql(&server, DATABASE, "ALTER SYSTEM SET ssl = on").await;
    sql(&server, DATABASE, "SELECT pg_reload_conf()").await;

    let config = |ca_file: Option<std::path::PathBuf>| {
        let plain = served(&server, DATABASE);
        PostgresConfig {
            ca_file,
            ..PostgresConfig {
                url: format!(
                    "postgres://{ROLE}@{}/{DATABASE}?sslmode=require",
                    server.address()
                )
                .into(),
                ..plain
            }
        }
    };
    let store = open(&config(Some(ca_file))).await.unwrap();
    store.ping().await.unwrap();
    let encrypted = sql(
        &server,
        DATABASE,
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE ssl AND application_name = 'dreamcatcher-auth'",
    )
    .await;
    assert_eq!(encrypted, "1");
    refused(&config(Some(stranger)), "name the file of the authority").await;
}

async fn migrate(config: &PostgresConfig) -> Result<Migration, Error> {
    store::migrate(&StoreConfig::Postgres(config.clone())).await
}

async fn open(config: &PostgresConfig) -> Result<Postgres, Error> {
    Postgres::open(config, PATIENCE).await
}

/// Migrated by the superuser, and opened by the role that serves.
async fn prepared(server: &Server) -> Postgres {
    migrate(&admin(server, DATABASE)).await.unwrap();
    sql(server, DATABASE, &grants()).await;
    open(&served(server, DATABASE)).await.unwrap()
}

async fn refused(config: &PostgresConfig, hint: &str) {
    let refused = open(config).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidConfig, "{refused}");
    let message = refused.message();
    assert!(message.contains(hint), "{refused}");
    assert!(!message.contains("nobody-guesses-this"), "{refused}");
}

/// The cause that a call names, which fails in time.
async fn away(store: &Postgres) -> String {
    let began = Instant::now();
    let error = store.profile(nobody()).await.unwrap_err();
    let took = began.elapsed();
    assert_eq!(error.code(), ErrorCode::StoreUnavailable, "{error}");
    assert!(took < ANSWER_WITHIN, "{took:?}");
    error.message().to_owned()
}

/// A transaction elsewhere that holds the users.
struct Lock {
    release: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Lock {
    async fn take(server: &Server) -> Self {
        let (release, released) = oneshot::channel();
        let (taken, wait) = oneshot::channel();
        let url = server.url();
        let task = tokio::spawn(async move {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
                .await
                .unwrap();
            let connection = tokio::spawn(connection);
            client
                .batch_execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
                .await
                .unwrap();
            taken.send(()).unwrap();
            let _ = released.await;
            client.batch_execute("ROLLBACK").await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
        });
        wait.await.unwrap();
        Self { release, task }
    }

    async fn release(self) {
        drop(self.release);
        self.task.await.unwrap();
    }
}

/// A certificate that signed itself, and its key, as PEM.
fn certificate(name: &str) -> (String, String) {
    let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (signed.cert.pem(), signed.signing_key.serialize_pem())
}

fn code<T>(result: &Result<T, Error>) -> Option<ErrorCode> {
    result.as_ref().err().map(Error::code)
}

fn nobody() -> UserId {
    UserId([7; 16])
}

//! What only a file can be: old, new, foreign, held, readable by others.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Instant;

use dreamcatcher_proto::ErrorCode;
use rusqlite::Connection;

use super::open::migrate;
use super::*;
use crate::store::Migration;

/// What a program of version 1 left behind.
const VERSION_1: &str = "
    CREATE TABLE users (
        id           BLOB PRIMARY KEY CHECK (length(id) = 16),
        display_name TEXT NOT NULL,
        created_at   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE guests (
        secret_hash BLOB PRIMARY KEY CHECK (length(secret_hash) = 32),
        user_id     BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX guests_of_user ON guests (user_id);
    CREATE TABLE signing_keys (
        place      INTEGER PRIMARY KEY,
        key_id     TEXT NOT NULL UNIQUE,
        seed       BLOB NOT NULL CHECK (length(seed) = 32),
        created_at INTEGER NOT NULL
    ) STRICT;
    INSERT INTO users VALUES (x'000102030405060708090a0b0c0d0e0f', 'Ada', 7);
    INSERT INTO guests VALUES (
        x'1111111111111111111111111111111111111111111111111111111111111111',
        x'000102030405060708090a0b0c0d0e0f');
    INSERT INTO signing_keys (key_id, seed, created_at) VALUES
        ('first', x'2222222222222222222222222222222222222222222222222222222222222222', 8),
        ('second', x'3333333333333333333333333333333333333333333333333333333333333333', 8);
    PRAGMA user_version = 1;";

#[tokio::test]
async fn a_file_of_version_1_is_taken_over_without_loss_by_processes_that_race() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("auth.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(VERSION_1)
        .unwrap();
    let opening: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || Sqlite::open(&path, PATIENCE))
        })
        .collect();
    for opened in opening {
        let store = opened.join().unwrap().unwrap();
        let user = store
            .guest(SecretHash([0x11; 32]), None, 100)
            .await
            .unwrap();
        assert_eq!(user.id.0, std::array::from_fn(|at| at as u8));
        assert_eq!(user.display_name.as_str(), "Ada");
        let profile = store.profile(user.id).await.unwrap().unwrap();
        assert_eq!(profile.created_at_unix_s, 7);
        let keys = store.signing_keys(None, 100).await.unwrap();
        assert_eq!(keys.current.key_id, "first");
        assert_eq!(keys.current.seed, [0x22; 32]);
        assert_eq!(keys.current_since_unix_s, 8);
        assert_eq!(keys.next.key_id, "second");
        assert!(keys.previous.is_none());
    }
    assert_eq!(migrate(&path), Ok(Migration { from: 4, to: 4 }));
    // A program of version 1 looks at this, and refuses the file.
    let version: u32 = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA user_version", [], one)
        .unwrap();
    assert_eq!(version, 2);
}

#[tokio::test]
async fn a_file_that_is_new_or_of_version_1_says_how_far_it_was_brought() {
    let folder = tempfile::tempdir().unwrap();
    let (new, old) = (folder.path().join("new.db"), folder.path().join("old.db"));
    assert_eq!(migrate(&new), Ok(Migration { from: 0, to: 4 }));
    assert_eq!(migrate(&new), Ok(Migration { from: 4, to: 4 }));
    let connection = Connection::open(&old).unwrap();
    connection.execute_batch(VERSION_1).unwrap();
    assert_eq!(migrate(&old), Ok(Migration { from: 1, to: 4 }));
}

#[tokio::test]
async fn a_file_of_a_newer_program_or_of_no_database_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let newer = folder.path().join("newer.db");
    migrate(&newer).unwrap();
    Connection::open(&newer)
        .unwrap()
        .execute_batch(
            "INSERT INTO refinery_schema_history
             SELECT 99, 'later', applied_on, checksum FROM refinery_schema_history LIMIT 1",
        )
        .unwrap();
    let unknown = folder.path().join("unknown.db");
    Connection::open(&unknown)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    for path in [&newer, &unknown] {
        let error = Sqlite::open(path, PATIENCE).unwrap_err();
        assert!(error.message().contains("version 99"), "{error}");
    }
    let other = folder.path().join("other.db");
    std::fs::write(
        &other,
        "not a database, but long enough to look at".repeat(9),
    )
    .unwrap();
    let nowhere = folder.path().join("no/such/folder.db");
    for path in [newer, unknown, other, nowhere] {
        let error = Sqlite::open(&path, PATIENCE).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfig);
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("auth.db"), PATIENCE).unwrap();
    store.signing_keys(None, 0).await.unwrap();
    for file in folder.path().read_dir().unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o77,
            0,
            "{file:?}"
        );
    }
    store.close().await;
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_told_within_a_second_and_works_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("auth.db");
    let store = std::sync::Arc::new(Sqlite::open(&path, PATIENCE).unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.ping().await })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable, "{error}");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.ping().await, Ok(()));
}

#[tokio::test]
async fn a_store_in_memory_is_new_at_each_start() {
    let secret = SecretHash([1; 32]);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let store = Sqlite::in_memory().unwrap();
        ids.push(store.guest(secret, None, 0).await.unwrap().id);
    }
    assert_ne!(ids[0], ids[1]);
    let refused = crate::store::migrate(&crate::store::StoreConfig::Memory).await;
    assert_eq!(refused.map_err(|e| e.code()), Err(ErrorCode::InvalidConfig));
}

//! The store for one machine: SQLite, in a file or in memory.
//!
//! ```text
//!  requests ──Job (bounded queue)──▶ one thread ──▶ SQLite (WAL)
//!           ◀────── oneshot ────────
//! ```
//!
//! One thread owns the connection, so that no writer ever waits for another's lock. A full queue
//! makes requests wait, and the request timeout answers for it.

use std::fs::OpenOptions;
use std::path::Path;
use std::thread;
use std::time::Duration;

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{Store, StoreConfig, User};
use crate::guest::SecretHash;
use crate::keys::{self, KeyRecord};

/// Requests that wait for the thread. It does tens of thousands a second.
const JOBS_MAX: usize = 256;

/// How long to wait for another process that holds the file, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The schema's history: entry k takes `user_version` from k to k + 1. Entries are only appended.
const MIGRATIONS: &[&str] = &["
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
"];

enum Job {
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
    Close(oneshot::Sender<()>),
}

/// A SQLite database and the thread that owns it, which ends at `close` or with the last handle.
#[derive(Debug)]
pub(crate) struct Embedded {
    jobs: mpsc::Sender<Job>,
}

impl Embedded {
    pub(crate) fn open(config: &StoreConfig) -> Result<Self, Error> {
        let connection = match config {
            StoreConfig::Memory => Connection::open_in_memory().map_err(failed)?,
            StoreConfig::File(path) => open_file(path)?,
        };
        let connection = prepare(connection).map_err(|e| name_place(config, &e))?;
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        thread::Builder::new()
            .name("auth-store".to_owned())
            .spawn(move || work(connection, queue))
            .map_err(|e| {
                Error::new(ErrorCode::Internal, format!("no thread for the store: {e}"))
            })?;
        Ok(Self { jobs })
    }

    /// Runs `job` on the store's thread, in a transaction that stays only if it succeeds.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let job = Job::Run(Box::new(move |connection| {
            // The caller may have given up; the work is done all the same.
            let _ = answer.send(transact(connection, job));
        }));
        let closed = || Error::new(ErrorCode::Internal, "the store is closed");
        self.jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl Store for Embedded {
    async fn guest(
        &self,
        secret: SecretHash,
        name: Option<DisplayName>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        self.run(move |tx| match find_guest(tx, secret)? {
            Some(user) => rename(tx, user, name),
            None => create_guest(tx, secret, name, now_unix_s),
        })
        .await
    }

    async fn signing_keys(&self, now_unix_s: u64) -> Result<[KeyRecord; 2], Error> {
        self.run(move |tx| {
            let mut keys = read_keys(tx)?;
            while keys.len() < 2 {
                let key = KeyRecord::generate()?;
                tx.execute(
                    "INSERT INTO signing_keys (key_id, seed, created_at) VALUES (?1, ?2, ?3)",
                    params![key.key_id, key.seed, unix_i64(now_unix_s)],
                )
                .map_err(failed)?;
                keys.push(key);
            }
            keys.try_into()
                .map_err(|_| Error::new(ErrorCode::Internal, "signing_keys has more than two keys"))
        })
        .await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.run(|tx| tx.query_row("SELECT 1", [], |_| Ok(())).map_err(failed))
            .await
    }

    async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        if self.jobs.send(Job::Close(closed)).await.is_ok() {
            // An error is a thread that has already ended.
            let _ = wait.await;
        }
    }
}

fn work(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Run(job) => job(&mut connection),
            Job::Close(closed) => {
                drop(connection);
                let _ = closed.send(());
                return;
            }
        }
    }
}

fn transact<T>(
    connection: &mut Connection,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let result = job(&tx)?;
    tx.commit().map_err(failed)?;
    Ok(result)
}

fn find_guest(tx: &Transaction<'_>, secret: SecretHash) -> Result<Option<User>, Error> {
    let row: Option<([u8; 16], String)> = tx
        .prepare_cached(
            "SELECT users.id, users.display_name FROM guests JOIN users ON users.id = user_id
             WHERE secret_hash = ?1",
        )
        .and_then(|mut query| {
            query
                .query_row([secret.0], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .map_err(failed)?;
    row.map(|(id, name)| {
        Ok(User {
            id: UserId(id),
            display_name: stored_name(name)?,
        })
    })
    .transpose()
}

fn rename(tx: &Transaction<'_>, mut user: User, name: Option<DisplayName>) -> Result<User, Error> {
    if let Some(name) = name.filter(|name| *name != user.display_name) {
        tx.prepare_cached("UPDATE users SET display_name = ?2 WHERE id = ?1")
            .and_then(|mut update| update.execute(params![user.id.0, name.as_str()]))
            .map_err(failed)?;
        user.display_name = name;
    }
    Ok(user)
}

fn create_guest(
    tx: &Transaction<'_>,
    secret: SecretHash,
    name: Option<DisplayName>,
    now_unix_s: u64,
) -> Result<User, Error> {
    let id = UserId(keys::random()?);
    let display_name = match name {
        Some(name) => name,
        None => format!(
            "Guest-{:04}",
            u16::from_be_bytes([id.0[0], id.0[1]]) % 10_000
        )
        .parse()?,
    };
    tx.prepare_cached("INSERT INTO users (id, display_name, created_at) VALUES (?1, ?2, ?3)")
        .and_then(|mut insert| {
            insert.execute(params![id.0, display_name.as_str(), unix_i64(now_unix_s)])
        })
        .map_err(failed)?;
    tx.prepare_cached("INSERT INTO guests (secret_hash, user_id) VALUES (?1, ?2)")
        .and_then(|mut insert| insert.execute(params![secret.0, id.0]))
        .map_err(failed)?;
    Ok(User { id, display_name })
}

fn read_keys(tx: &Transaction<'_>) -> Result<Vec<KeyRecord>, Error> {
    let mut query = tx
        .prepare("SELECT key_id, seed FROM signing_keys ORDER BY place")
        .map_err(failed)?;
    let rows = query
        .query_map([], |row| {
            Ok(KeyRecord {
                key_id: row.get(0)?,
                seed: row.get(1)?,
            })
        })
        .map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// The file is made before SQLite opens it, so that nobody else can ever read the keys in it; its
/// journals inherit the mode.
fn open_file(path: &Path) -> Result<Connection, Error> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|e| unusable(path, &e.to_string()))?;
    Connection::open(path).map_err(|e| unusable(path, &e.to_string()))
}

/// Brings the schema up to date.
fn prepare(mut connection: Connection) -> Result<Connection, Error> {
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;")
        .map_err(failed)?;
    transact(&mut connection, |tx| {
        let version: u32 = tx
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed)?;
        let missing = MIGRATIONS.get(version as usize..).ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidConfig,
                format!(
                    "its schema is version {version}, this program knows {}; use a newer one",
                    MIGRATIONS.len()
                ),
            )
        })?;
        for migration in missing {
            tx.execute_batch(migration).map_err(failed)?;
        }
        tx.pragma_update(None, "user_version", MIGRATIONS.len() as u32)
            .map_err(failed)
    })?;
    Ok(connection)
}

fn stored_name(text: String) -> Result<DisplayName, Error> {
    DisplayName::try_from(text).map_err(|e| {
        Error::new(
            ErrorCode::Internal,
            format!("a stored name does not fit: {e}"),
        )
    })
}

fn unix_i64(unix_s: u64) -> i64 {
    i64::try_from(unix_s).unwrap_or(i64::MAX)
}

fn failed(error: rusqlite::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("the store failed: {error}"))
}

fn name_place(config: &StoreConfig, error: &Error) -> Error {
    match config {
        StoreConfig::Memory => error.clone(),
        StoreConfig::File(path) => unusable(path, error.message()),
    }
}

fn unusable(path: &Path, cause: &str) -> Error {
    Error::new(
        ErrorCode::InvalidConfig,
        format!("the store {} cannot be used: {cause}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[tokio::test]
    async fn a_secret_is_one_user_however_often_it_signs_in_at_once() {
        let store = std::sync::Arc::new(Embedded::open(&StoreConfig::Memory).unwrap());
        let racing: Vec<_> = (0..50)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.guest(secret(1), None, 0).await.unwrap().id })
            })
            .collect();
        let first = store.guest(secret(1), None, 0).await.unwrap().id;
        for user in racing {
            assert_eq!(user.await.unwrap(), first);
        }
        assert_ne!(store.guest(secret(2), None, 0).await.unwrap().id, first);
    }

    #[tokio::test]
    async fn a_name_stays_until_another_is_given_and_hostile_ones_round_trip() {
        let store = Embedded::open(&StoreConfig::Memory).unwrap();
        let name = |text: &str| text.parse::<DisplayName>().ok();
        let unnamed = store.guest(secret(1), None, 0).await.unwrap();
        assert!(
            unnamed.display_name.as_str().starts_with("Guest-"),
            "{unnamed:?}"
        );
        for text in ["'; DROP TABLE users; --", "\"\\%_", "名前"] {
            store.guest(secret(1), name(text), 0).await.unwrap();
            let user = store.guest(secret(1), None, 0).await.unwrap();
            assert_eq!(
                user,
                User {
                    id: unnamed.id,
                    display_name: name(text).unwrap()
                }
            );
        }
    }

    #[tokio::test]
    async fn a_file_of_a_newer_program_or_of_no_database_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let newer = folder.path().join("newer.db");
        Connection::open(&newer)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let other = folder.path().join("other.db");
        std::fs::write(
            &other,
            "not a database, but long enough to look at".repeat(9),
        )
        .unwrap();
        let nowhere = folder.path().join("no/such/folder.db");
        for path in [newer, other, nowhere] {
            let error = Embedded::open(&StoreConfig::File(path.clone())).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidConfig);
            assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_the_owner_can_read_the_file() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&StoreConfig::File(folder.path().join("auth.db"))).unwrap();
        store.signing_keys(0).await.unwrap();
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
    async fn a_closed_store_answers_with_an_error() {
        let store = Embedded::open(&StoreConfig::Memory).unwrap();
        store.ping().await.unwrap();
        store.close().await;
        store.close().await;
        assert!(store.ping().await.is_err());
    }

    fn secret(number: u8) -> SecretHash {
        SecretHash([number; 32])
    }
}

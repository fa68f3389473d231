//! The store for one machine: SQLite, in a file or in memory.
//!
//! ```text
//!  requests ──Job (bounded queue)──▶ one thread ──▶ SQLite (WAL)
//!           ◀────── oneshot ────────
//! ```
//!
//! One thread owns the connection, so that no writer ever waits for another's lock, and nothing that
//! it reads can change before it writes. A full queue makes requests wait, and the call's timeout
//! answers for it.

mod attempts;
mod fault;
mod keys;
mod open;
mod refresh;
#[cfg(test)]
mod tests;
mod users;

use std::path::Path;
use std::thread;
use std::time::Duration;

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use rusqlite::types::FromSql;
use rusqlite::{
    Connection, OptionalExtension, Params, Row, Transaction, TransactionBehavior, params,
};
use tokio::sync::{mpsc, oneshot};

use self::attempts::{begin_login, know_address, login_succeeded, prune_attempts};
use self::fault::{closed, failed};
use self::keys::{change_key, kept_keys};
pub(super) use self::open::migrate;
use self::open::{open_file, prepare};
use self::refresh::{prune_tokens, rotate_refresh, start_refresh};
use self::users::{account, create_guest, find_guest, profile, register, renamed};
use super::{
    Account, Attempt, AttemptKey, LoginKeys, NewAccount, PATIENCE, Patience, Profile, Prune,
    Rotation, SigningKeyRecords, Store, TokenHash, User, keyring, parse, unavailable,
};
use crate::account::{Login, PasswordHash};
use crate::guest::SecretHash;

/// Requests that wait for the thread. It does thousands a second.
const JOBS_MAX: usize = 256;

/// What a change outlives once it is answered. Only the first waits for the disk, which takes
/// milliseconds; whether an attempt is counted is not worth that twice at each sign-in.
#[derive(Clone, Copy, Debug)]
enum Stays {
    AfterPowerLoss,
    AfterCrash,
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

enum Job {
    Run(Work),
    Close(oneshot::Sender<()>),
}

/// A SQLite database and the thread that owns it, which ends at `close` or with the last handle.
#[derive(Debug)]
pub(crate) struct Sqlite {
    jobs: mpsc::Sender<Job>,
    call_timeout: Duration,
    tokens: Prune,
    attempts: Prune,
}

impl Sqlite {
    pub(super) fn in_memory() -> Result<Self, Error> {
        let connection = Connection::open_in_memory().map_err(failed)?;
        let (connection, _) = prepare(connection, PATIENCE)?;
        Self::start(connection, PATIENCE)
    }

    pub(super) fn open(path: &Path, patience: Patience) -> Result<Self, Error> {
        let (connection, migration) = open_file(path, patience)?;
        if migration.from != migration.to {
            tracing::info!(
                from = migration.from,
                to = migration.to,
                "brought the store's schema up to date"
            );
        }
        Self::start(connection, patience)
    }

    fn start(connection: Connection, patience: Patience) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        thread::Builder::new()
            .name("auth-store".to_owned())
            .spawn(move || work(connection, queue))
            .map_err(|e| {
                Error::new(ErrorCode::Internal, format!("no thread for the store: {e}"))
            })?;
        Ok(Self {
            jobs,
            call_timeout: patience.call,
            tokens: Prune::default(),
            attempts: Prune::default(),
        })
    }

    /// Runs `job` on the store's thread, in a transaction that stays only if it succeeds.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run_until(Stays::AfterPowerLoss, job).await
    }

    async fn run_until<T: Send + 'static>(
        &self,
        stays: Stays,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let job: Work = Box::new(move |connection| {
            // Whoever gave up before its turn asks again, if at all.
            if !answer.is_closed() {
                // It may give up now; the work is done all the same.
                let _ = answer.send(transact(connection, stays, job));
            }
        });
        let run = async {
            self.jobs.send(Job::Run(job)).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        tokio::time::timeout(self.call_timeout, run)
            .await
            .unwrap_or_else(|_| Err(unavailable("the file is held or the disk is slow")))
    }
}

impl Store for Sqlite {
    async fn guest(
        &self,
        secret: SecretHash,
        name: Option<DisplayName>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        self.run(move |tx| match find_guest(tx, secret)? {
            Some(user) => renamed(tx, user, name),
            None => create_guest(tx, secret, name, now_unix_s),
        })
        .await
    }

    async fn register(
        &self,
        account: NewAccount,
        upgrade: Option<UserId>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        self.run(move |tx| register(tx, &account, upgrade, now_unix_s))
            .await
    }

    async fn account(&self, login: &Login) -> Result<Option<Account>, Error> {
        let login = login.clone();
        self.run(move |tx| account(tx, &login)).await
    }

    async fn set_password_hash(&self, user: UserId, hash: PasswordHash) -> Result<(), Error> {
        self.run(move |tx| {
            execute(
                tx,
                "UPDATE accounts SET password_hash = ?2 WHERE user_id = ?1",
                params![user.0, hash.as_str()],
            )?;
            Ok(())
        })
        .await
    }

    async fn profile(&self, id: UserId) -> Result<Option<Profile>, Error> {
        self.run(move |tx| profile(tx, id)).await
    }

    async fn rename(&self, id: UserId, name: DisplayName) -> Result<Option<User>, Error> {
        self.run(move |tx| {
            let found = execute(
                tx,
                "UPDATE users SET display_name = ?2 WHERE id = ?1",
                params![id.0, name.as_str()],
            )?;
            Ok((found > 0).then_some(User {
                id,
                display_name: name,
            }))
        })
        .await
    }

    async fn delete(&self, id: UserId) -> Result<bool, Error> {
        self.run(move |tx| Ok(execute(tx, "DELETE FROM users WHERE id = ?1", [id.0])? > 0))
            .await
    }

    async fn start_refresh(
        &self,
        user: UserId,
        token: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<(), Error> {
        let prune = self.tokens.due();
        self.run(move |tx| {
            if prune {
                prune_tokens(tx, now_unix_s)?;
            }
            start_refresh(tx, user, token, expires_at_unix_s, now_unix_s)
        })
        .await
    }

    async fn rotate_refresh(
        &self,
        old: TokenHash,
        new: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<Rotation, Error> {
        let prune = self.tokens.due();
        self.run(move |tx| {
            if prune {
                prune_tokens(tx, now_unix_s)?;
            }
            rotate_refresh(tx, old, new, expires_at_unix_s, now_unix_s)
        })
        .await
    }

    async fn end_refresh(&self, token: TokenHash) -> Result<(), Error> {
        self.run(move |tx| {
            execute(
                tx,
                "DELETE FROM refresh_families
                 WHERE id = (SELECT family_id FROM refresh_tokens WHERE hash = ?1)",
                [token.0],
            )?;
            Ok(())
        })
        .await
    }

    async fn begin_login(&self, keys: LoginKeys, now_unix_s: u64) -> Result<Attempt, Error> {
        let prune = self.attempts.due();
        self.run_until(Stays::AfterCrash, move |tx| {
            if prune {
                prune_attempts(tx, now_unix_s)?;
            }
            begin_login(tx, keys, now_unix_s)
        })
        .await
    }

    async fn login_succeeded(&self, user: UserId, keys: LoginKeys) -> Result<(), Error> {
        self.run_until(Stays::AfterCrash, move |tx| login_succeeded(tx, user, keys))
            .await
    }

    async fn know_address(&self, user: UserId, pair: AttemptKey) -> Result<(), Error> {
        self.run_until(Stays::AfterCrash, move |tx| know_address(tx, user, pair))
            .await
    }

    async fn signing_keys(
        &self,
        rotate_before_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> Result<SigningKeyRecords, Error> {
        self.run(move |tx| {
            let (keys, changes) = keyring::plan(kept_keys(tx)?, rotate_before_unix_s, now_unix_s)?;
            for change in &changes {
                change_key(tx, change, now_unix_s)?;
            }
            Ok(keys)
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
    stays: Stays,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let synchronous = match stays {
        Stays::AfterPowerLoss => "FULL",
        Stays::AfterCrash => "NORMAL",
    };
    connection
        .pragma_update(None, "synchronous", synchronous)
        .map_err(failed)?;
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let result = job(&tx)?;
    tx.commit().map_err(failed)?;
    Ok(result)
}

fn find<T>(
    tx: &Transaction<'_>,
    sql: &str,
    params: impl Params,
    columns: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, Error> {
    tx.prepare_cached(sql)
        .and_then(|mut query| query.query_row(params, columns).optional())
        .map_err(failed)
}

fn execute(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<usize, Error> {
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map_err(failed)
}

fn one<T: FromSql>(row: &Row<'_>) -> rusqlite::Result<T> {
    row.get(0)
}

fn user(id: [u8; 16], name: String) -> Result<User, Error> {
    Ok(User {
        id: UserId(id),
        display_name: parse("name", name)?,
    })
}

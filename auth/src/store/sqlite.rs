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

use std::fs::OpenOptions;
use std::path::Path;
use std::thread;
use std::time::Duration;

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use refinery::{Runner, Target};
use rusqlite::types::FromSql;
use rusqlite::{
    Connection, OptionalExtension, Params, Row, Transaction, TransactionBehavior, ffi, params,
};
use tokio::sync::{mpsc, oneshot};

use super::attempts::{COUNTS_MAX, Count, Counted};
use super::keyring::{self, Change, Kept};
use super::{
    Account, Attempt, AttemptKey, FAMILIES_MAX, KnownAddresses, LoginKeys, Migration, NewAccount,
    PATIENCE, PRUNE_ROWS, Patience, Presented, Profile, Prune, Repeatable, Rotation,
    SigningKeyRecords, Store, TokenHash, USED_TOKENS_MAX, User, Verdict, guest_name,
    migration_failed, parse, runner, taken, unavailable, unix_i64, unix_u64, user_gone,
};
use crate::account::{Email, Login, PasswordHash, Username};
use crate::guest::SecretHash;
use crate::keys::{self, KeyRecord};

/// Requests that wait for the thread. It does thousands a second.
const JOBS_MAX: usize = 256;
/// Statements that are kept prepared; there are about forty.
const STATEMENTS_MAX: usize = 64;
/// Processes that open an old file at once race to migrate it. A migration is one transaction, so
/// whoever loses a race finds it done at the next try.
const MIGRATE_TRIES_MAX: u32 = 5;

/// The schema's history. Entries are only appended: each is stored with its checksum.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "V1__users",
        include_str!("../../migrations/sqlite/V1__users.sql"),
    ),
    (
        "V2__accounts",
        include_str!("../../migrations/sqlite/V2__accounts.sql"),
    ),
    (
        "V3__known_addresses",
        include_str!("../../migrations/sqlite/V3__known_addresses.sql"),
    ),
    (
        "V4__repeatable_refresh",
        include_str!("../../migrations/sqlite/V4__repeatable_refresh.sql"),
    ),
];

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
        let (column, text) = match login {
            Login::Username(name) => ("username_folded", name.folded()),
            Login::Email(email) => ("email", email.as_str().to_owned()),
        };
        self.run(move |tx| {
            let sql = format!(
                "SELECT users.id, display_name, password_hash, known_addresses
                 FROM accounts JOIN users ON users.id = user_id WHERE {column} = ?1"
            );
            type Columns = ([u8; 16], String, String, Vec<u8>);
            let row: Option<Columns> = find(tx, &sql, [text], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            row.map(|(id, name, hash, known)| {
                Ok(Account {
                    user: user(id, name)?,
                    password_hash: parse("password hash", hash)?,
                    known_addresses: KnownAddresses::of_bytes(&known),
                })
            })
            .transpose()
        })
        .await
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

fn find_guest(tx: &Transaction<'_>, secret: SecretHash) -> Result<Option<User>, Error> {
    let row: Option<([u8; 16], String)> = find(
        tx,
        "SELECT users.id, display_name FROM guests JOIN users ON users.id = user_id
         WHERE secret_hash = ?1",
        [secret.0],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    row.map(|(id, name)| user(id, name)).transpose()
}

fn renamed(tx: &Transaction<'_>, mut user: User, name: Option<DisplayName>) -> Result<User, Error> {
    if let Some(name) = name.filter(|name| *name != user.display_name) {
        execute(
            tx,
            "UPDATE users SET display_name = ?2 WHERE id = ?1",
            params![user.id.0, name.as_str()],
        )?;
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
        None => guest_name(id)?,
    };
    let user = insert_user(tx, id, display_name, now_unix_s)?;
    execute(
        tx,
        "INSERT INTO guests (secret_hash, user_id) VALUES (?1, ?2)",
        params![secret.0, id.0],
    )?;
    Ok(user)
}

fn insert_user(
    tx: &Transaction<'_>,
    id: UserId,
    display_name: DisplayName,
    now_unix_s: u64,
) -> Result<User, Error> {
    execute(
        tx,
        "INSERT INTO users (id, display_name, created_at) VALUES (?1, ?2, ?3)",
        params![id.0, display_name.as_str(), unix_i64(now_unix_s)],
    )?;
    Ok(User { id, display_name })
}

fn register(
    tx: &Transaction<'_>,
    account: &NewAccount,
    upgrade: Option<UserId>,
    now_unix_s: u64,
) -> Result<User, Error> {
    let user = match upgrade {
        Some(id) => {
            let found = profile(tx, id)?.ok_or_else(user_gone)?;
            if found.username.is_some() {
                return Err(ErrorCode::AlreadyLinked.into());
            }
            renamed(tx, found.user, account.display_name.clone())?
        }
        None => {
            let name = account.first_name()?;
            insert_user(tx, UserId(keys::random()?), name, now_unix_s)?
        }
    };
    let inserted = tx
        .prepare_cached(
            "INSERT INTO accounts (user_id, username, username_folded, email, password_hash)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                user.id.0,
                account.username.as_str(),
                account.username.folded(),
                account.email.as_ref().map(Email::as_str),
                account.password_hash.as_str(),
            ])
        });
    match inserted {
        Ok(_) => Ok(user),
        Err(e) if is_not_unique(&e) => Err(taken()),
        Err(e) => Err(failed(e)),
    }
}

fn profile(tx: &Transaction<'_>, id: UserId) -> Result<Option<Profile>, Error> {
    type Columns = (String, i64, Option<String>, Option<String>);
    let row: Option<Columns> = find(
        tx,
        "SELECT display_name, created_at, username, email
         FROM users LEFT JOIN accounts ON user_id = users.id WHERE users.id = ?1",
        [id.0],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    row.map(|(name, created_at, username, email)| {
        Ok(Profile {
            user: user(id.0, name)?,
            username: username
                .map(|text| parse::<Username>("username", text))
                .transpose()?,
            email: email
                .map(|text| parse::<Email>("e-mail address", text))
                .transpose()?,
            created_at_unix_s: unix_u64(created_at),
        })
    })
    .transpose()
}

fn start_refresh(
    tx: &Transaction<'_>,
    user: UserId,
    token: TokenHash,
    expires_at_unix_s: u64,
    now_unix_s: u64,
) -> Result<(), Error> {
    let id: Option<[u8; 16]> = find(tx, "SELECT id FROM users WHERE id = ?1", [user.0], one)?;
    let user = id.ok_or_else(user_gone)?;
    execute(
        tx,
        "DELETE FROM refresh_families WHERE user_id = ?1 AND expires_at <= ?2",
        params![user, unix_i64(now_unix_s)],
    )?;
    execute(
        tx,
        "DELETE FROM refresh_families WHERE id IN (
             SELECT id FROM refresh_families WHERE user_id = ?1
             ORDER BY revoked, expires_at DESC, id DESC LIMIT -1 OFFSET ?2)",
        params![user, FAMILIES_MAX - 1],
    )?;
    execute(
        tx,
        "INSERT INTO refresh_families (user_id, latest, revoked, expires_at) VALUES (?1, 1, 0, ?2)",
        params![user, unix_i64(expires_at_unix_s)],
    )?;
    insert_token(tx, token, tx.last_insert_rowid(), 1, expires_at_unix_s)
}

fn rotate_refresh(
    tx: &Transaction<'_>,
    old: TokenHash,
    new: TokenHash,
    expires_at_unix_s: u64,
    now_unix_s: u64,
) -> Result<Rotation, Error> {
    type Columns = (i64, Presented, [u8; 16], String);
    let row: Option<Columns> = find(
        tx,
        "SELECT family_id, latest, revoked, number, refresh_tokens.expires_at, repeatable,
             repeatable_until, users.id, display_name
         FROM refresh_tokens
         JOIN refresh_families ON refresh_families.id = family_id
         JOIN users ON users.id = user_id
         WHERE hash = ?1",
        [old.0],
        |row| {
            let presented = Presented {
                latest: row.get(1)?,
                revoked: row.get(2)?,
                number: row.get(3)?,
                expires_at: row.get(4)?,
                repeatable: Repeatable {
                    number: row.get(5)?,
                    until: row.get(6)?,
                },
            };
            Ok((row.get(0)?, presented, row.get(7)?, row.get(8)?))
        },
    )?;
    let Some((family, presented, id, name)) = row else {
        return Ok(Rotation::Unknown);
    };
    match presented.verdict(now_unix_s) {
        Verdict::Unknown => Ok(Rotation::Unknown),
        Verdict::Reused => {
            execute(
                tx,
                "UPDATE refresh_families SET revoked = 1 WHERE id = ?1",
                [family],
            )?;
            Ok(Rotation::Reused)
        }
        Verdict::Good { latest, repeatable } => {
            execute(
                tx,
                "UPDATE refresh_families SET latest = ?2, expires_at = max(expires_at, ?3),
                     repeatable = ?4, repeatable_until = ?5
                 WHERE id = ?1",
                params![
                    family,
                    latest,
                    unix_i64(expires_at_unix_s),
                    repeatable.number,
                    repeatable.until,
                ],
            )?;
            execute(
                tx,
                "DELETE FROM refresh_tokens WHERE family_id = ?1 AND number < ?2",
                params![family, latest - USED_TOKENS_MAX],
            )?;
            insert_token(tx, new, family, latest, expires_at_unix_s)?;
            Ok(Rotation::Rotated(user(id, name)?))
        }
    }
}

fn insert_token(
    tx: &Transaction<'_>,
    token: TokenHash,
    family: i64,
    number: i64,
    expires_at_unix_s: u64,
) -> Result<(), Error> {
    execute(
        tx,
        "INSERT INTO refresh_tokens (hash, family_id, number, expires_at) VALUES (?1, ?2, ?3, ?4)",
        params![token.0, family, number, unix_i64(expires_at_unix_s)],
    )?;
    Ok(())
}

/// Tokens first: a family goes when it has none left, so that no delete takes thousands with it.
fn prune_tokens(tx: &Transaction<'_>, now_unix_s: u64) -> Result<(), Error> {
    let now = unix_i64(now_unix_s);
    execute(
        tx,
        "DELETE FROM refresh_tokens WHERE hash IN (
             SELECT hash FROM refresh_tokens WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        params![now, PRUNE_ROWS],
    )?;
    execute(
        tx,
        "DELETE FROM refresh_families WHERE id IN (
             SELECT id FROM refresh_families WHERE expires_at <= ?1
             AND NOT EXISTS (SELECT 1 FROM refresh_tokens WHERE family_id = refresh_families.id)
             ORDER BY expires_at LIMIT ?2)",
        params![now, PRUNE_ROWS],
    )?;
    Ok(())
}

fn begin_login(tx: &Transaction<'_>, keys: LoginKeys, now_unix_s: u64) -> Result<Attempt, Error> {
    let mut counts = Vec::new();
    for (counted, key) in keys.counted() {
        let before = count(tx, counted, key)?.unwrap_or_default();
        match before.attempt(counted, now_unix_s) {
            Ok(count) => counts.push((counted, key, count)),
            Err(wait) => return Ok(Attempt::Wait(wait)),
        }
    }
    for (counted, key, count) in counts {
        set_count(tx, counted, key, count)?;
    }
    Ok(Attempt::Go)
}

fn login_succeeded(tx: &Transaction<'_>, user: UserId, keys: LoginKeys) -> Result<(), Error> {
    for (counted, key) in keys.counted() {
        match counted {
            Counted::Pair => {
                execute(
                    tx,
                    "DELETE FROM login_attempts WHERE counted = ?1 AND key = ?2",
                    params![counted as i16, key.0],
                )?;
            }
            Counted::Address | Counted::Account => {
                if let Some(count) = count(tx, counted, key)? {
                    set_count(tx, counted, key, count.taken_back())?;
                }
            }
        }
    }
    know_address(tx, user, keys.pair)
}

fn know_address(tx: &Transaction<'_>, user: UserId, pair: AttemptKey) -> Result<(), Error> {
    let known: Option<Vec<u8>> = find(
        tx,
        "SELECT known_addresses FROM accounts WHERE user_id = ?1",
        [user.0],
        one,
    )?;
    if let Some(known) = known.and_then(|known| KnownAddresses::of_bytes(&known).with(pair)) {
        execute(
            tx,
            "UPDATE accounts SET known_addresses = ?2 WHERE user_id = ?1",
            params![user.0, known.to_bytes()],
        )?;
    }
    Ok(())
}

fn count(tx: &Transaction<'_>, counted: Counted, key: AttemptKey) -> Result<Option<Count>, Error> {
    let row: Option<(u32, i64, i64)> = find(
        tx,
        "SELECT failures, blocked_until, forget_at FROM login_attempts
         WHERE counted = ?1 AND key = ?2",
        params![counted as i16, key.0],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    Ok(row.map(|(failures, blocked_until, forget_at)| Count {
        failures,
        blocked_until_unix_s: unix_u64(blocked_until),
        forget_at_unix_s: unix_u64(forget_at),
    }))
}

fn set_count(
    tx: &Transaction<'_>,
    counted: Counted,
    key: AttemptKey,
    count: Count,
) -> Result<(), Error> {
    execute(
        tx,
        "INSERT INTO login_attempts (counted, key, failures, blocked_until, forget_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (counted, key) DO UPDATE SET failures = excluded.failures,
             blocked_until = excluded.blocked_until, forget_at = excluded.forget_at",
        params![
            counted as i16,
            key.0,
            count.failures,
            unix_i64(count.blocked_until_unix_s),
            unix_i64(count.forget_at_unix_s),
        ],
    )?;
    Ok(())
}

fn prune_attempts(tx: &Transaction<'_>, now_unix_s: u64) -> Result<(), Error> {
    for counted in Counted::ALL {
        execute(
            tx,
            "DELETE FROM login_attempts WHERE (counted, key) IN (
                 SELECT counted, key FROM login_attempts WHERE counted = ?1 AND forget_at <= ?2
                 ORDER BY forget_at LIMIT ?3)",
            params![counted as i16, unix_i64(now_unix_s), PRUNE_ROWS],
        )?;
        execute(
            tx,
            "DELETE FROM login_attempts WHERE (counted, key) IN (
                 SELECT counted, key FROM login_attempts WHERE counted = ?1
                 ORDER BY forget_at DESC LIMIT ?3 OFFSET ?2)",
            params![counted as i16, COUNTS_MAX, PRUNE_ROWS],
        )?;
    }
    Ok(())
}

fn kept_keys(tx: &Transaction<'_>) -> Result<Vec<Kept>, Error> {
    let kept = |row: &Row<'_>| {
        let current_since: Option<i64> = row.get(3)?;
        Ok(Kept {
            place: row.get(0)?,
            record: KeyRecord {
                key_id: row.get(1)?,
                seed: row.get(2)?,
            },
            current_since_unix_s: current_since.map(unix_u64),
        })
    };
    tx.prepare_cached("SELECT place, key_id, seed, current_since FROM signing_keys ORDER BY place")
        .and_then(|mut query| query.query_map([], kept)?.collect())
        .map_err(failed)
}

fn change_key(tx: &Transaction<'_>, change: &Change, now_unix_s: u64) -> Result<(), Error> {
    let now = unix_i64(now_unix_s);
    match change {
        Change::Insert(key) => execute(
            tx,
            "INSERT INTO signing_keys (key_id, seed, created_at, current_since)
             VALUES (?1, ?2, ?3, ?4)",
            params![
                key.record.key_id,
                key.record.seed,
                now,
                key.current_since_unix_s.map(unix_i64)
            ],
        ),
        Change::MakeCurrent { place } => execute(
            tx,
            "UPDATE signing_keys SET current_since = ?2 WHERE place = ?1",
            params![place, now],
        ),
        Change::Remove { place } => execute(
            tx,
            "DELETE FROM signing_keys WHERE place = ?1",
            params![place],
        ),
    }?;
    Ok(())
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

pub(super) fn migrate(path: &Path) -> Result<Migration, Error> {
    open_file(path, PATIENCE).map(|(_, migration)| migration)
}

/// The file is made before SQLite opens it, so that nobody else can ever read the keys in it; its
/// journals inherit the mode.
fn open_file(path: &Path, patience: Patience) -> Result<(Connection, Migration), Error> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|e| unusable(path, &e.to_string()))?;
    let connection = Connection::open(path).map_err(|e| unusable(path, &e.to_string()))?;
    prepare(connection, patience).map_err(|e| unusable(path, e.message()))
}

/// Brings the schema up to date.
fn prepare(
    mut connection: Connection,
    patience: Patience,
) -> Result<(Connection, Migration), Error> {
    connection.busy_timeout(patience.busy).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;")
        .map_err(failed)?;
    let runner = runner(MIGRATIONS)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match bring_up(&mut connection, &runner) {
            Ok(migration) => return Ok((connection, migration)),
            Err(_) if tries < MIGRATE_TRIES_MAX => {}
            Err(e) => return Err(e),
        }
    }
}

fn bring_up(connection: &mut Connection, runner: &Runner) -> Result<Migration, Error> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let from = version(connection, runner)?;
    if from > known {
        return Err(Error::new(
            ErrorCode::InvalidConfig,
            format!("its schema is version {from}, this program knows {known}; use a newer one"),
        ));
    }
    if from == 1 {
        // Made by a program that counted versions by itself.
        self::runner(MIGRATIONS)?
            .set_target(Target::FakeVersion(1))
            .run(connection)
            .map_err(|e| migration_failed(&e))?;
    }
    runner.run(connection).map_err(|e| migration_failed(&e))?;
    Ok(Migration { from, to: known })
}

fn version(connection: &mut Connection, runner: &Runner) -> Result<u32, Error> {
    let history: bool = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history')",
            [],
            one,
        )
        .map_err(failed)?;
    let applied = if history {
        runner
            .get_last_applied_migration(connection)
            .map_err(|e| migration_failed(&e))?
    } else {
        None
    };
    match applied {
        Some(applied) => Ok(u32::try_from(applied.version()).unwrap_or(u32::MAX)),
        None => connection
            .query_row("PRAGMA user_version", [], one)
            .map_err(failed),
    }
}

fn is_not_unique(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|e| e.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE)
}

fn closed() -> Error {
    Error::new(ErrorCode::Internal, "the store is closed")
}

/// The machine's trouble passes; anything else is ours.
fn failed(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OutOfMemory,
        ReadOnly, SystemIoFailure,
    };
    let passes = matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | OutOfMemory
                | ReadOnly
                | SystemIoFailure
        )
    );
    if passes {
        unavailable(error)
    } else {
        Error::new(ErrorCode::Internal, format!("the store failed: {error}"))
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

    use std::time::Instant;

    use super::*;

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
        let refused = super::super::migrate(&super::super::StoreConfig::Memory).await;
        assert_eq!(refused.map_err(|e| e.code()), Err(ErrorCode::InvalidConfig));
    }
}

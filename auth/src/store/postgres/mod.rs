//! The store for more than one machine: Postgres.
//!
//! ```text
//!  requests ──▶ pool of connections ──▶ Postgres (READ COMMITTED)
//! ```
//!
//! Any number of processes share one database. What must not happen twice is held by a unique index
//! (usernames, guests), by a row's lock (a family of refresh tokens, a count of attempts) or by an
//! advisory lock (signing keys); rows are locked in one order: user, family, then tokens; the counts of
//! an address, of it at the account, of the account, then the account.
//!
//! # Roles
//!
//! [`migrate`] needs a role that may create tables. The role that serves needs no more than this, and
//! cannot change the schema:
//!
//! ```sql
//! CREATE ROLE dreamcatcher_auth LOGIN PASSWORD '…';
//! GRANT CONNECT ON DATABASE dreamcatcher TO dreamcatcher_auth;
//! GRANT USAGE ON SCHEMA public TO dreamcatcher_auth;
//! GRANT SELECT ON refinery_schema_history TO dreamcatcher_auth;
//! GRANT SELECT, INSERT, UPDATE, DELETE ON users, guests, accounts, refresh_families,
//!     refresh_tokens, login_attempts, signing_keys TO dreamcatcher_auth;
//! ```

mod connect;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool, Transaction};
use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};

pub(super) use self::connect::check;
use self::connect::{Purpose, cannot_open, cannot_use, failed, invalid, no_connection};
use super::attempts::{COUNTS_MAX, Count, Counted};
use super::keyring::{self, Change, Kept};
use super::{
    Account, Attempt, AttemptKey, FAMILIES_MAX, KnownAddresses, LoginKeys, Migration, NewAccount,
    PRUNE_ROWS, Patience, PostgresConfig, Presented, Profile, Prune, Repeatable, Rotation,
    SigningKeyRecords, Store, TokenHash, USED_TOKENS_MAX, User, Verdict, guest_name, parse, runner,
    taken, unavailable, unix_i64, unix_u64, user_gone,
};
use crate::account::{Email, Login, PasswordHash};
use crate::guest::SecretHash;
use crate::keys::{self, KeyRecord};

/// The schema's history. Entries are only appended: each is stored with its checksum.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "V1__users_and_accounts",
        include_str!("../../../migrations/postgres/V1__users_and_accounts.sql"),
    ),
    (
        "V2__known_addresses",
        include_str!("../../../migrations/postgres/V2__known_addresses.sql"),
    ),
    (
        "V3__repeatable_refresh",
        include_str!("../../../migrations/postgres/V3__repeatable_refresh.sql"),
    ),
];

/// Of a transaction that lost against another, or whose connection was gone before it began.
const TRIES_MAX: u32 = 3;
/// For cleaning up after a call that has succeeded, once in dozens of calls.
const PRUNE_TIMEOUT: Duration = Duration::from_millis(500);
/// For a migration with everything that waits before it.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(600);

/// Advisory locks have no names but numbers; these are nobody else's in a database of ours.
const MIGRATE_LOCK: i64 = 0x6472_6561_6d63_0001;
const KEYS_LOCK: i64 = 0x6472_6561_6d63_0002;

/// A pool of connections, all closed at `close` or with the last handle.
#[derive(Debug)]
pub(crate) struct Postgres {
    pool: Pool,
    call_timeout: Duration,
    tokens: Prune,
    attempts: Prune,
}

/// Why a transaction did not come to its end.
#[derive(Debug)]
enum Failure {
    Database(tokio_postgres::Error),
    /// Whether it was committed is not known.
    Commit(tokio_postgres::Error),
    /// Another was first; the next try sees what it did.
    Lost,
    Refused(Error),
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(super) async fn migrate(config: &PostgresConfig) -> Result<Migration, Error> {
    let pool = connect::pool(config, Purpose::Migrate)?;
    let place = connect::place(config);
    let client = pool.get().await.map_err(|e| cannot_open(&place, e))?;
    // Never back to the pool: the lock ends with the connection.
    let mut client = Object::take(client);
    let run = async {
        client
            .execute("SELECT pg_advisory_lock($1)", &[&MIGRATE_LOCK])
            .await
            .map_err(|e| cannot_use(&place, &e))?;
        let runner = runner(MIGRATIONS)?;
        let from = version(&client).await.map_err(|e| cannot_use(&place, &e))?;
        let to = known();
        if from > to {
            return Err(newer(&place, from));
        }
        runner
            .run_async(&mut *client)
            .await
            .map_err(|e| migration_failed(&place, &e))?;
        Ok(Migration { from, to })
    };
    let deadline = Instant::now() + MIGRATE_TIMEOUT;
    timeout_at(deadline, run)
        .await
        .unwrap_or_else(|_| Err(unavailable("the migration took too long")))
}

fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// 0: nothing was ever migrated.
async fn version(client: &tokio_postgres::Client) -> Result<u32, tokio_postgres::Error> {
    let history = client
        .query_one(
            "SELECT to_regclass('refinery_schema_history') IS NOT NULL",
            &[],
        )
        .await?;
    if !history.try_get(0)? {
        return Ok(0);
    }
    let row = client
        .query_one("SELECT max(version) FROM refinery_schema_history", &[])
        .await?;
    let version: Option<i32> = row.try_get(0)?;
    Ok(version.map_or(0, |version| u32::try_from(version).unwrap_or(u32::MAX)))
}

fn newer(place: &str, version: u32) -> Error {
    invalid(format!(
        "{place}: its schema is version {version}, this program knows {}; use a newer one",
        known()
    ))
}

fn migration_failed(place: &str, error: &refinery::Error) -> Error {
    let database = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    match database {
        Some(e) => cannot_use(place, e),
        None => super::migration_failed(error),
    }
}

impl Postgres {
    /// `InvalidConfig` if a person has to do something first, `StoreUnavailable` if the server is
    /// away.
    pub(super) async fn open(config: &PostgresConfig, patience: Patience) -> Result<Self, Error> {
        let pool = connect::pool(config, Purpose::Serve(patience))?;
        let place = connect::place(config);
        let version = async {
            let client = pool.get().await.map_err(|e| cannot_open(&place, e))?;
            version(&client).await.map_err(|e| cannot_use(&place, &e))
        };
        let version = tokio::time::timeout(patience.call, version)
            .await
            .unwrap_or_else(|_| Err(unavailable("no answer in time")))?;
        if version > known() {
            return Err(newer(&place, version));
        }
        if version < known() {
            return Err(invalid(format!(
                "{place}: its schema is version {version}, this program needs {}: run `dreamcatcher \
                 auth migrate --store …`",
                known()
            )));
        }
        Ok(Self {
            pool,
            call_timeout: patience.call,
            tokens: Prune::default(),
            attempts: Prune::default(),
        })
    }

    /// Runs `job` in a transaction that stays only if it succeeds.
    async fn transact<A: Sync, T>(
        &self,
        arguments: A,
        job: impl for<'a> Fn(&'a Transaction<'a>, &'a A) -> Answer<'a, T> + Send + Sync,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + self.call_timeout;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut client = self.client(deadline).await?;
            let attempt = async {
                let transaction = client.transaction().await?;
                let answer = job(&transaction, &arguments).await?;
                transaction.commit().await.map_err(Failure::Commit)?;
                Ok::<T, Failure>(answer)
            };
            let Ok(result) = timeout_at(deadline, attempt).await else {
                return Err(gave_up(client));
            };
            drop(client);
            match result {
                Err(failure) if tries < TRIES_MAX && failure.is_worth_another_try() => {
                    self.forget_lost(&failure);
                }
                result => return result.map_err(Failure::into_error),
            }
        }
    }

    /// Runs one statement, which is a transaction of its own.
    async fn rows(
        &self,
        deadline: Instant,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let client = self.client(deadline).await?;
            let attempt = async {
                let statement = client.prepare_cached(sql).await?;
                client.query(&statement, parameters).await
            };
            let Ok(result) = timeout_at(deadline, attempt).await else {
                return Err(gave_up(client));
            };
            drop(client);
            match result.map_err(Failure::Database) {
                Err(failure) if tries < TRIES_MAX && failure.is_worth_another_try() => {
                    self.forget_lost(&failure);
                }
                result => return result.map_err(Failure::into_error),
            }
        }
    }

    /// Where one connection was lost, so are those that wait in the pool: the next try makes a new one.
    fn forget_lost(&self, failure: &Failure) {
        if let Failure::Database(e) = failure
            && is_connection_lost(e)
        {
            self.pool.retain(|_, _| false);
        }
    }

    async fn first(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        let deadline = Instant::now() + self.call_timeout;
        let rows = self.rows(deadline, sql, parameters).await?;
        Ok(rows.into_iter().next())
    }

    async fn client(&self, deadline: Instant) -> Result<Client, Error> {
        match timeout_at(deadline, self.pool.get()).await {
            Ok(client) => client.map_err(no_connection),
            Err(_) => Err(unavailable("no connection in time")),
        }
    }

    /// Each statement passes over what others have locked, so that it waits for nobody; what it misses
    /// the next one finds.
    async fn prune(&self, statements: &[(&str, Parameters<'_>)]) {
        let deadline = Instant::now() + PRUNE_TIMEOUT;
        for (sql, parameters) in statements {
            if let Err(e) = self.rows(deadline, sql, parameters).await {
                tracing::debug!(error = %e, "cannot clean up the store");
            }
        }
    }

    async fn prune_tokens(&self, now_unix_s: u64) {
        let now = unix_i64(now_unix_s);
        self.prune(&[
            // Tokens first: a family goes when it has none left, so that no delete takes thousands
            // with it.
            (
                "DELETE FROM refresh_tokens WHERE hash IN (
                     SELECT hash FROM refresh_tokens WHERE expires_at <= $1
                     ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                &[&now, &PRUNE_ROWS],
            ),
            (
                "DELETE FROM refresh_families WHERE id IN (
                     SELECT id FROM refresh_families WHERE expires_at <= $1
                     AND NOT EXISTS (
                         SELECT 1 FROM refresh_tokens WHERE family_id = refresh_families.id)
                     ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
                &[&now, &PRUNE_ROWS],
            ),
        ])
        .await;
    }

    async fn prune_attempts(&self, now_unix_s: u64) {
        let now = unix_i64(now_unix_s);
        for counted in Counted::ALL.map(|counted| counted as i16) {
            self.prune(&[
                (
                    "DELETE FROM login_attempts WHERE counted = $1 AND key IN (
                         SELECT key FROM login_attempts WHERE counted = $1 AND forget_at <= $2
                         ORDER BY forget_at LIMIT $3 FOR UPDATE SKIP LOCKED)",
                    &[&counted, &now, &PRUNE_ROWS],
                ),
                (
                    "DELETE FROM login_attempts WHERE counted = $1 AND key IN (
                         SELECT key FROM login_attempts WHERE counted = $1
                         ORDER BY forget_at DESC LIMIT $3 OFFSET $2 FOR UPDATE SKIP LOCKED)",
                    &[&counted, &COUNTS_MAX, &PRUNE_ROWS],
                ),
            ])
            .await;
        }
    }
}

/// A connection that has not answered is not used again: its next user would wait for the answer too.
fn gave_up(client: Client) -> Error {
    drop(Object::take(client));
    unavailable("no answer in time")
}

impl Store for Postgres {
    async fn guest(
        &self,
        secret: SecretHash,
        name: Option<DisplayName>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        self.transact((secret, name, now_unix_s), |tx, (secret, name, now)| {
            Box::pin(guest(tx, *secret, name.as_ref(), *now))
        })
        .await
    }

    async fn register(
        &self,
        account: NewAccount,
        upgrade: Option<UserId>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        self.transact(
            (account, upgrade, now_unix_s),
            |tx, (account, upgrade, now)| Box::pin(register(tx, account, *upgrade, *now)),
        )
        .await
    }

    async fn account(&self, login: &Login) -> Result<Option<Account>, Error> {
        let row = match login {
            Login::Username(name) => {
                self.first(
                    "SELECT users.id, display_name, password_hash, known_addresses
                     FROM accounts JOIN users ON users.id = user_id WHERE username_folded = $1",
                    &[&name.folded()],
                )
                .await?
            }
            Login::Email(email) => {
                self.first(
                    "SELECT users.id, display_name, password_hash, known_addresses
                     FROM accounts JOIN users ON users.id = user_id WHERE email = $1",
                    &[&email.as_str()],
                )
                .await?
            }
        };
        row.map(|row| {
            Ok(Account {
                user: user(&row)?,
                password_hash: parse("password hash", column(&row, 2)?)?,
                known_addresses: KnownAddresses::of_bytes(column(&row, 3)?),
            })
        })
        .transpose()
    }

    async fn set_password_hash(&self, user: UserId, hash: PasswordHash) -> Result<(), Error> {
        self.first(
            "UPDATE accounts SET password_hash = $2 WHERE user_id = $1",
            &[&id(&user), &hash.as_str()],
        )
        .await
        .map(drop)
    }

    async fn profile(&self, user_id: UserId) -> Result<Option<Profile>, Error> {
        let row = self
            .first(
                "SELECT users.id, display_name, created_at, username, email
                 FROM users LEFT JOIN accounts ON user_id = users.id WHERE users.id = $1",
                &[&id(&user_id)],
            )
            .await?;
        row.map(|row| {
            let (username, email): (Option<String>, Option<String>) =
                (column(&row, 3)?, column(&row, 4)?);
            Ok(Profile {
                user: user(&row)?,
                username: username.map(|text| parse("username", text)).transpose()?,
                email: email
                    .map(|text| parse("e-mail address", text))
                    .transpose()?,
                created_at_unix_s: unix_u64(column(&row, 2)?),
            })
        })
        .transpose()
    }

    async fn rename(&self, user_id: UserId, name: DisplayName) -> Result<Option<User>, Error> {
        let row = self
            .first(
                "UPDATE users SET display_name = $2 WHERE id = $1 RETURNING id, display_name",
                &[&id(&user_id), &name.as_str()],
            )
            .await?;
        row.map(|row| user(&row)).transpose()
    }

    async fn delete(&self, user_id: UserId) -> Result<bool, Error> {
        let row = self
            .first(
                "DELETE FROM users WHERE id = $1 RETURNING id",
                &[&id(&user_id)],
            )
            .await?;
        Ok(row.is_some())
    }

    async fn start_refresh(
        &self,
        user: UserId,
        token: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<(), Error> {
        self.transact(
            (user, token, expires_at_unix_s, now_unix_s),
            |tx, (user, token, expires_at, now)| {
                Box::pin(start_refresh(tx, *user, *token, *expires_at, *now))
            },
        )
        .await?;
        if self.tokens.due() {
            self.prune_tokens(now_unix_s).await;
        }
        Ok(())
    }

    async fn rotate_refresh(
        &self,
        old: TokenHash,
        new: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<Rotation, Error> {
        let rotation = self
            .transact(
                (old, new, expires_at_unix_s, now_unix_s),
                |tx, (old, new, expires_at, now)| {
                    Box::pin(rotate_refresh(tx, *old, *new, *expires_at, *now))
                },
            )
            .await?;
        if self.tokens.due() {
            self.prune_tokens(now_unix_s).await;
        }
        Ok(rotation)
    }

    async fn end_refresh(&self, token: TokenHash) -> Result<(), Error> {
        self.first(
            "DELETE FROM refresh_families
             WHERE id = (SELECT family_id FROM refresh_tokens WHERE hash = $1)",
            &[&token.0.as_slice()],
        )
        .await
        .map(drop)
    }

    async fn begin_login(&self, keys: LoginKeys, now_unix_s: u64) -> Result<Attempt, Error> {
        let attempt = self
            .transact((keys, now_unix_s), |tx, (keys, now)| {
                Box::pin(begin_login(tx, *keys, *now))
            })
            .await?;
        if self.attempts.due() {
            self.prune_attempts(now_unix_s).await;
        }
        Ok(attempt)
    }

    async fn login_succeeded(&self, user: UserId, keys: LoginKeys) -> Result<(), Error> {
        self.transact((user, keys), |tx, (user, keys)| {
            Box::pin(login_succeeded(tx, *user, *keys))
        })
        .await
    }

    async fn know_address(&self, user: UserId, pair: AttemptKey) -> Result<(), Error> {
        self.transact((user, pair), |tx, (user, pair)| {
            Box::pin(know_address(tx, *user, *pair))
        })
        .await
    }

    async fn signing_keys(
        &self,
        rotate_before_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> Result<SigningKeyRecords, Error> {
        self.transact(
            (rotate_before_unix_s, now_unix_s),
            |tx, (rotate_before, now)| Box::pin(signing_keys(tx, *rotate_before, *now)),
        )
        .await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.first("SELECT 1", &[]).await.map(drop)
    }

    async fn close(&self) {
        self.pool.close();
    }
}

async fn guest(
    tx: &Transaction<'_>,
    secret: SecretHash,
    name: Option<&DisplayName>,
    now_unix_s: u64,
) -> Result<User, Failure> {
    let row = first(
        tx,
        "SELECT users.id, display_name FROM guests JOIN users ON users.id = user_id
         WHERE secret_hash = $1",
        &[&secret.0.as_slice()],
    )
    .await?;
    if let Some(row) = row {
        return renamed(tx, user(&row)?, name).await;
    }
    let new = UserId(keys::random()?);
    let name = match name {
        Some(name) => name.clone(),
        None => guest_name(new)?,
    };
    let user = insert_user(tx, new, name, now_unix_s).await?;
    let inserted = execute(
        tx,
        "INSERT INTO guests (secret_hash, user_id) VALUES ($1, $2)
         ON CONFLICT (secret_hash) DO NOTHING",
        &[&secret.0.as_slice(), &id(&new)],
    )
    .await?;
    if inserted == 0 {
        return Err(Failure::Lost);
    }
    Ok(user)
}

async fn renamed(
    tx: &Transaction<'_>,
    mut user: User,
    name: Option<&DisplayName>,
) -> Result<User, Failure> {
    if let Some(name) = name.filter(|name| **name != user.display_name) {
        execute(
            tx,
            "UPDATE users SET display_name = $2 WHERE id = $1",
            &[&id(&user.id), &name.as_str()],
        )
        .await?;
        user.display_name = name.clone();
    }
    Ok(user)
}

async fn insert_user(
    tx: &Transaction<'_>,
    new: UserId,
    display_name: DisplayName,
    now_unix_s: u64,
) -> Result<User, Failure> {
    execute(
        tx,
        "INSERT INTO users (id, display_name, created_at) VALUES ($1, $2, $3)",
        &[&id(&new), &display_name.as_str(), &unix_i64(now_unix_s)],
    )
    .await?;
    Ok(User {
        id: new,
        display_name,
    })
}

async fn register(
    tx: &Transaction<'_>,
    account: &NewAccount,
    upgrade: Option<UserId>,
    now_unix_s: u64,
) -> Result<User, Failure> {
    let user = match upgrade {
        Some(id) => upgradable(tx, id, account.display_name.as_ref()).await?,
        None => {
            let name = account.first_name()?;
            insert_user(tx, UserId(keys::random()?), name, now_unix_s).await?
        }
    };
    let inserted = execute(
        tx,
        "INSERT INTO accounts (user_id, username, username_folded, email, password_hash)
         VALUES ($1, $2, $3, $4, $5)",
        &[
            &id(&user.id),
            &account.username.as_str(),
            &account.username.folded(),
            &account.email.as_ref().map(Email::as_str),
            &account.password_hash.as_str(),
        ],
    )
    .await;
    match inserted {
        Ok(_) => Ok(user),
        Err(e) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(taken().into()),
        Err(e) => Err(e.into()),
    }
}

/// The user as it is called from now on, locked. Its account is looked for by a statement of its own:
/// one that waited for the lock would see what was there before.
async fn upgradable(
    tx: &Transaction<'_>,
    user_id: UserId,
    name: Option<&DisplayName>,
) -> Result<User, Failure> {
    let row = first(
        tx,
        "SELECT id, display_name FROM users WHERE id = $1 FOR NO KEY UPDATE",
        &[&id(&user_id)],
    )
    .await?
    .ok_or_else(user_gone)?;
    let linked = first(
        tx,
        "SELECT 1 FROM accounts WHERE user_id = $1",
        &[&id(&user_id)],
    )
    .await?;
    if linked.is_some() {
        return Err(Error::from(ErrorCode::AlreadyLinked).into());
    }
    renamed(tx, user(&row)?, name).await
}

async fn start_refresh(
    tx: &Transaction<'_>,
    user_id: UserId,
    token: TokenHash,
    expires_at_unix_s: u64,
    now_unix_s: u64,
) -> Result<(), Failure> {
    // Those who begin at once for one user wait for one another, so that no family is beyond the
    // limit.
    first(
        tx,
        "SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE",
        &[&id(&user_id)],
    )
    .await?
    .ok_or_else(user_gone)?;
    execute(
        tx,
        "DELETE FROM refresh_families WHERE user_id = $1 AND expires_at <= $2",
        &[&id(&user_id), &unix_i64(now_unix_s)],
    )
    .await?;
    execute(
        tx,
        "DELETE FROM refresh_families WHERE id IN (
             SELECT id FROM refresh_families WHERE user_id = $1
             ORDER BY revoked, expires_at DESC, id DESC OFFSET $2)",
        &[&id(&user_id), &(FAMILIES_MAX - 1)],
    )
    .await?;
    execute(
        tx,
        "WITH family AS (
             INSERT INTO refresh_families (user_id, latest, revoked, expires_at)
             VALUES ($1, 1, false, $3) RETURNING id)
         INSERT INTO refresh_tokens (hash, family_id, number, expires_at)
         SELECT $2, id, 1, $3 FROM family",
        &[
            &id(&user_id),
            &token.0.as_slice(),
            &unix_i64(expires_at_unix_s),
        ],
    )
    .await?;
    Ok(())
}

async fn rotate_refresh(
    tx: &Transaction<'_>,
    old: TokenHash,
    new: TokenHash,
    expires_at_unix_s: u64,
    now_unix_s: u64,
) -> Result<Rotation, Failure> {
    // Whoever waits for the lock sees the family as the other left it; a token's row never changes.
    let row = first(
        tx,
        "SELECT users.id, display_name, family_id, latest, revoked, number, token.expires_at,
             repeatable, repeatable_until
         FROM refresh_tokens AS token
         JOIN refresh_families ON refresh_families.id = family_id
         JOIN users ON users.id = user_id
         WHERE hash = $1 FOR NO KEY UPDATE OF refresh_families",
        &[&old.0.as_slice()],
    )
    .await?;
    let Some(row) = row else {
        return Ok(Rotation::Unknown);
    };
    let family: i64 = column(&row, 2)?;
    let presented = Presented {
        latest: column(&row, 3)?,
        revoked: column(&row, 4)?,
        number: column(&row, 5)?,
        expires_at: column(&row, 6)?,
        repeatable: Repeatable {
            number: column(&row, 7)?,
            until: column(&row, 8)?,
        },
    };
    match presented.verdict(now_unix_s) {
        Verdict::Unknown => Ok(Rotation::Unknown),
        Verdict::Reused => {
            execute(
                tx,
                "UPDATE refresh_families SET revoked = true WHERE id = $1",
                &[&family],
            )
            .await?;
            Ok(Rotation::Reused)
        }
        Verdict::Good { latest, repeatable } => {
            execute(
                tx,
                "WITH family AS (
                     UPDATE refresh_families
                     SET latest = $3, expires_at = greatest(expires_at, $4),
                         repeatable = $6, repeatable_until = $7
                     WHERE id = $1),
                 forgotten AS (
                     DELETE FROM refresh_tokens WHERE hash IN (
                         SELECT hash FROM refresh_tokens WHERE family_id = $1 AND number < $5
                         FOR UPDATE SKIP LOCKED))
                 INSERT INTO refresh_tokens (hash, family_id, number, expires_at)
                 VALUES ($2, $1, $3, $4)",
                &[
                    &family,
                    &new.0.as_slice(),
                    &latest,
                    &unix_i64(expires_at_unix_s),
                    &(latest - USED_TOKENS_MAX),
                    &repeatable.number,
                    &repeatable.until,
                ],
            )
            .await?;
            Ok(Rotation::Rotated(user(&row)?))
        }
    }
}

async fn begin_login(
    tx: &Transaction<'_>,
    keys: LoginKeys,
    now_unix_s: u64,
) -> Result<Attempt, Failure> {
    let mut counts = Vec::new();
    for (counted, key) in keys.counted() {
        let before = lock_count(tx, counted, key).await?;
        match before.attempt(counted, now_unix_s) {
            Ok(count) => counts.push((counted, key, count)),
            Err(wait) => return Ok(Attempt::Wait(wait)),
        }
    }
    for (counted, key, count) in counts {
        set_count(tx, counted, key, count).await?;
    }
    Ok(Attempt::Go)
}

async fn login_succeeded(
    tx: &Transaction<'_>,
    user: UserId,
    keys: LoginKeys,
) -> Result<(), Failure> {
    for (counted, key) in keys.counted() {
        match counted {
            Counted::Pair => {
                execute(
                    tx,
                    "DELETE FROM login_attempts WHERE counted = $1 AND key = $2",
                    &[&(counted as i16), &key.0.as_slice()],
                )
                .await?;
            }
            Counted::Address | Counted::Account => {
                let row = first(
                    tx,
                    "SELECT failures, blocked_until, forget_at FROM login_attempts
                     WHERE counted = $1 AND key = $2 FOR UPDATE",
                    &[&(counted as i16), &key.0.as_slice()],
                )
                .await?;
                if let Some(row) = row {
                    set_count(tx, counted, key, count(&row)?.taken_back()).await?;
                }
            }
        }
    }
    know_address(tx, user, keys.pair).await
}

async fn know_address(tx: &Transaction<'_>, user: UserId, pair: AttemptKey) -> Result<(), Failure> {
    let row = first(
        tx,
        "SELECT known_addresses FROM accounts WHERE user_id = $1 FOR NO KEY UPDATE",
        &[&id(&user)],
    )
    .await?;
    let Some(row) = row else {
        return Ok(());
    };
    if let Some(known) = KnownAddresses::of_bytes(column(&row, 0)?).with(pair) {
        execute(
            tx,
            "UPDATE accounts SET known_addresses = $2 WHERE user_id = $1",
            &[&id(&user), &known.to_bytes()],
        )
        .await?;
    }
    Ok(())
}

/// The count, or a new one, so that there is a row to lock.
async fn lock_count(
    tx: &Transaction<'_>,
    counted: Counted,
    key: AttemptKey,
) -> Result<Count, Failure> {
    let row = first(
        tx,
        "INSERT INTO login_attempts AS kept (counted, key, failures, blocked_until, forget_at)
         VALUES ($1, $2, 0, 0, 0)
         ON CONFLICT (counted, key) DO UPDATE SET failures = kept.failures
         RETURNING failures, blocked_until, forget_at",
        &[&(counted as i16), &key.0.as_slice()],
    )
    .await?;
    let row = row.ok_or(Failure::Lost)?;
    Ok(count(&row)?)
}

async fn set_count(
    tx: &Transaction<'_>,
    counted: Counted,
    key: AttemptKey,
    count: Count,
) -> Result<(), Failure> {
    execute(
        tx,
        "UPDATE login_attempts SET failures = $3, blocked_until = $4, forget_at = $5
         WHERE counted = $1 AND key = $2",
        &[
            &(counted as i16),
            &key.0.as_slice(),
            &i64::from(count.failures),
            &unix_i64(count.blocked_until_unix_s),
            &unix_i64(count.forget_at_unix_s),
        ],
    )
    .await?;
    Ok(())
}

fn count(row: &Row) -> Result<Count, Error> {
    Ok(Count {
        failures: u32::try_from(column::<i64>(row, 0)?).unwrap_or(u32::MAX),
        blocked_until_unix_s: unix_u64(column(row, 1)?),
        forget_at_unix_s: unix_u64(column(row, 2)?),
    })
}

async fn signing_keys(
    tx: &Transaction<'_>,
    rotate_before_unix_s: Option<u64>,
    now_unix_s: u64,
) -> Result<SigningKeyRecords, Failure> {
    let (keys, changes) = keyring::plan(kept_keys(tx).await?, rotate_before_unix_s, now_unix_s)?;
    if changes.is_empty() {
        return Ok(keys);
    }
    execute(tx, "SELECT pg_advisory_xact_lock($1)", &[&KEYS_LOCK]).await?;
    // Another process may have been first.
    let (keys, changes) = keyring::plan(kept_keys(tx).await?, rotate_before_unix_s, now_unix_s)?;
    for change in &changes {
        change_key(tx, change, now_unix_s).await?;
    }
    Ok(keys)
}

async fn kept_keys(tx: &Transaction<'_>) -> Result<Vec<Kept>, Failure> {
    let statement = tx
        .prepare_cached(
            "SELECT place, key_id, seed, current_since FROM signing_keys ORDER BY place",
        )
        .await?;
    let rows = tx.query(&statement, &[]).await?;
    let kept = rows.iter().map(|row| {
        let current_since: Option<i64> = column(row, 3)?;
        Ok(Kept {
            place: column(row, 0)?,
            record: KeyRecord {
                key_id: column(row, 1)?,
                seed: bytes(row, 2)?,
            },
            current_since_unix_s: current_since.map(unix_u64),
        })
    });
    Ok(kept.collect::<Result<_, Error>>()?)
}

async fn change_key(tx: &Transaction<'_>, change: &Change, now_unix_s: u64) -> Result<(), Failure> {
    let now = unix_i64(now_unix_s);
    match change {
        Change::Insert(key) => {
            execute(
                tx,
                "INSERT INTO signing_keys (key_id, seed, created_at, current_since)
                 VALUES ($1, $2, $3, $4)",
                &[
                    &key.record.key_id,
                    &key.record.seed.as_slice(),
                    &now,
                    &key.current_since_unix_s.map(unix_i64),
                ],
            )
            .await
        }
        Change::MakeCurrent { place } => {
            execute(
                tx,
                "UPDATE signing_keys SET current_since = $2 WHERE place = $1",
                &[place, &now],
            )
            .await
        }
        Change::Remove { place } => {
            execute(tx, "DELETE FROM signing_keys WHERE place = $1", &[place]).await
        }
    }?;
    Ok(())
}

async fn first(
    tx: &Transaction<'_>,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Option<Row>, tokio_postgres::Error> {
    let statement = tx.prepare_cached(sql).await?;
    tx.query_opt(&statement, parameters).await
}

async fn execute(
    tx: &Transaction<'_>,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<u64, tokio_postgres::Error> {
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, parameters).await
}

fn id(user: &UserId) -> &[u8] {
    &user.0
}

/// From `id` and `display_name`, which come first.
fn user(row: &Row) -> Result<User, Error> {
    Ok(User {
        id: UserId(bytes(row, 0)?),
        display_name: parse("name", column(row, 1)?)?,
    })
}

fn bytes<const N: usize>(row: &Row, at: usize) -> Result<[u8; N], Error> {
    column::<&[u8]>(row, at)?.try_into().map_err(|_| unfit(at))
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Error> {
    row.try_get(at).map_err(|_| unfit(at))
}

fn unfit(at: usize) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("column {at} of a stored row does not fit"),
    )
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Most often of a connection that waited in the pool while the server went away and came back.
fn is_connection_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN,
    }
}

impl Failure {
    /// Nothing was committed, and the cause is gone at the next try.
    fn is_worth_another_try(&self) -> bool {
        let conflict = |e: &tokio_postgres::Error| {
            matches!(
                e.code(),
                Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
            )
        };
        match self {
            Self::Database(e) => is_connection_lost(e) || conflict(e),
            Self::Commit(e) => conflict(e),
            Self::Lost => true,
            Self::Refused(_) => false,
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Database(e) | Self::Commit(e) => failed(&e),
            Self::Lost => unavailable("others were first each time"),
            Self::Refused(error) => error,
        }
    }
}

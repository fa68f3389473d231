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

mod attempts;
mod call;
mod connect;
mod failure;
mod keys;
mod migrate;
mod refresh;
#[cfg(test)]
mod tests;
mod users;

use std::time::Duration;

use deadpool_postgres::Pool;
use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, UserId};

use self::attempts::{begin_login, know_address, login_succeeded};
use self::call::{id, user};
pub(super) use self::connect::check;
use self::connect::{Purpose, cannot_open, cannot_use, invalid};
use self::keys::signing_keys;
pub(super) use self::migrate::migrate;
use self::migrate::{known, newer, version};
use self::refresh::{rotate_refresh, start_refresh};
use self::users::{guest, register};
use super::{
    Account, Attempt, AttemptKey, LoginKeys, NewAccount, Patience, PostgresConfig, Profile, Prune,
    Rotation, SigningKeyRecords, Store, TokenHash, User, unavailable,
};
use crate::account::{Login, PasswordHash};
use crate::guest::SecretHash;

/// A pool of connections, all closed at `close` or with the last handle.
#[derive(Debug)]
pub(crate) struct Postgres {
    pool: Pool,
    call_timeout: Duration,
    tokens: Prune,
    attempts: Prune,
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
        self.account_of(login).await
    }

    async fn set_password_hash(&self, user: UserId, hash: PasswordHash) -> Result<(), Error> {
        self.first(
            "UPDATE accounts SET password_hash = $2 WHERE user_id = $1",
            &[&id(&user), &hash.as_str()],
        )
        .await
        .map(drop)
    }

    async fn profile(&self, user: UserId) -> Result<Option<Profile>, Error> {
        self.profile_of(user).await
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

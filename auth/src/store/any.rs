//! Either store: which one is known at the start, from the configuration.

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, UserId};

use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{
    Account, Attempt, AttemptKey, LoginKeys, NewAccount, Profile, Rotation, SigningKeyRecords,
    Store, TokenHash, User,
};
use crate::account::{Login, PasswordHash};
use crate::guest::SecretHash;

#[derive(Debug)]
pub(crate) enum AnyStore {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

macro_rules! either {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Sqlite($store) => $call.await,
            AnyStore::Postgres($store) => $call.await,
        }
    };
}

impl Store for AnyStore {
    async fn guest(
        &self,
        secret: SecretHash,
        name: Option<DisplayName>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        either!(self, store => store.guest(secret, name, now_unix_s))
    }

    async fn register(
        &self,
        account: NewAccount,
        upgrade: Option<UserId>,
        now_unix_s: u64,
    ) -> Result<User, Error> {
        either!(self, store => store.register(account, upgrade, now_unix_s))
    }

    async fn account(&self, login: &Login) -> Result<Option<Account>, Error> {
        either!(self, store => store.account(login))
    }

    async fn set_password_hash(&self, user: UserId, hash: PasswordHash) -> Result<(), Error> {
        either!(self, store => store.set_password_hash(user, hash))
    }

    async fn profile(&self, user: UserId) -> Result<Option<Profile>, Error> {
        either!(self, store => store.profile(user))
    }

    async fn rename(&self, user: UserId, name: DisplayName) -> Result<Option<User>, Error> {
        either!(self, store => store.rename(user, name))
    }

    async fn delete(&self, user: UserId) -> Result<bool, Error> {
        either!(self, store => store.delete(user))
    }

    async fn start_refresh(
        &self,
        user: UserId,
        token: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<(), Error> {
        either!(self, store => store.start_refresh(user, token, expires_at_unix_s, now_unix_s))
    }

    async fn rotate_refresh(
        &self,
        old: TokenHash,
        new: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> Result<Rotation, Error> {
        either!(self, store => store.rotate_refresh(old, new, expires_at_unix_s, now_unix_s))
    }

    async fn end_refresh(&self, token: TokenHash) -> Result<(), Error> {
        either!(self, store => store.end_refresh(token))
    }

    async fn begin_login(&self, keys: LoginKeys, now_unix_s: u64) -> Result<Attempt, Error> {
        either!(self, store => store.begin_login(keys, now_unix_s))
    }

    async fn login_succeeded(&self, user: UserId, keys: LoginKeys) -> Result<(), Error> {
        either!(self, store => store.login_succeeded(user, keys))
    }

    async fn know_address(&self, user: UserId, pair: AttemptKey) -> Result<(), Error> {
        either!(self, store => store.know_address(user, pair))
    }

    async fn signing_keys(
        &self,
        rotate_before_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> Result<SigningKeyRecords, Error> {
        either!(self, store => store.signing_keys(rotate_before_unix_s, now_unix_s))
    }

    async fn ping(&self) -> Result<(), Error> {
        either!(self, store => store.ping())
    }

    async fn close(&self) {
        either!(self, store => store.close());
    }
}

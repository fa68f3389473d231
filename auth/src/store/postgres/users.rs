//! Users and their accounts, in Postgres.

use deadpool_postgres::Transaction;
use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::call::{column, execute, first, id, user};
use super::failure::Failure;
use crate::account::{Email, Login};
use crate::guest::SecretHash;
use crate::keys;
use crate::store::{
    Account, KnownAddresses, NewAccount, Profile, User, guest_name, parse, taken, unix_i64,
    unix_u64, user_gone,
};

impl Postgres {
    pub(super) async fn account_of(&self, login: &Login) -> Result<Option<Account>, Error> {
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

    pub(super) async fn profile_of(&self, user_id: UserId) -> Result<Option<Profile>, Error> {
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
}

pub(super) async fn guest(
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

pub(super) async fn register(
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

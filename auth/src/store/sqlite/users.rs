//! Users and their accounts, in SQLite.

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use rusqlite::{Transaction, params};

use super::fault::{failed, is_not_unique};
use super::{execute, find, user};
use crate::account::{Email, Login, Username};
use crate::guest::SecretHash;
use crate::keys;
use crate::store::{
    Account, KnownAddresses, NewAccount, Profile, User, guest_name, parse, taken, unix_i64,
    unix_u64, user_gone,
};

pub(super) fn find_guest(tx: &Transaction<'_>, secret: SecretHash) -> Result<Option<User>, Error> {
    let row: Option<([u8; 16], String)> = find(
        tx,
        "SELECT users.id, display_name FROM guests JOIN users ON users.id = user_id
         WHERE secret_hash = ?1",
        [secret.0],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    row.map(|(id, name)| user(id, name)).transpose()
}

pub(super) fn renamed(
    tx: &Transaction<'_>,
    mut user: User,
    name: Option<DisplayName>,
) -> Result<User, Error> {
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

pub(super) fn create_guest(
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

pub(super) fn register(
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

pub(super) fn account(tx: &Transaction<'_>, login: &Login) -> Result<Option<Account>, Error> {
    let (column, text) = match login {
        Login::Username(name) => ("username_folded", name.folded()),
        Login::Email(email) => ("email", email.as_str().to_owned()),
    };
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
}

pub(super) fn profile(tx: &Transaction<'_>, id: UserId) -> Result<Option<Profile>, Error> {
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

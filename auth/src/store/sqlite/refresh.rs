//! Sign-ins and their refresh tokens, in SQLite.

use dreamcatcher_proto::{Error, UserId};
use rusqlite::{Transaction, params};

use super::{execute, find, one, user};
use crate::store::{
    FAMILIES_MAX, PRUNE_ROWS, Presented, Repeatable, Rotation, TokenHash, USED_TOKENS_MAX, Verdict,
    unix_i64, user_gone,
};

pub(super) fn start_refresh(
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

pub(super) fn rotate_refresh(
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
pub(super) fn prune_tokens(tx: &Transaction<'_>, now_unix_s: u64) -> Result<(), Error> {
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

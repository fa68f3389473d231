//! Sign-ins and their refresh tokens, in Postgres.

use deadpool_postgres::Transaction;
use dreamcatcher_proto::UserId;

use super::Postgres;
use super::call::{column, execute, first, id, user};
use super::failure::Failure;
use crate::store::{
    FAMILIES_MAX, PRUNE_ROWS, Presented, Repeatable, Rotation, TokenHash, USED_TOKENS_MAX, Verdict,
    unix_i64, user_gone,
};

pub(super) async fn start_refresh(
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

pub(super) async fn rotate_refresh(
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

impl Postgres {
    pub(super) async fn prune_tokens(&self, now_unix_s: u64) {
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
}

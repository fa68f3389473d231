//! Failed logins, and the addresses that accounts know, in Postgres.

use deadpool_postgres::Transaction;
use dreamcatcher_proto::{Error, UserId};
use tokio_postgres::Row;

use super::Postgres;
use super::call::{column, execute, first, id};
use super::failure::Failure;
use crate::store::attempts::{COUNTS_MAX, Count, Counted};
use crate::store::{
    Attempt, AttemptKey, KnownAddresses, LoginKeys, PRUNE_ROWS, unix_i64, unix_u64,
};

pub(super) async fn begin_login(
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

pub(super) async fn login_succeeded(
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

pub(super) async fn know_address(
    tx: &Transaction<'_>,
    user: UserId,
    pair: AttemptKey,
) -> Result<(), Failure> {
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

impl Postgres {
    pub(super) async fn prune_attempts(&self, now_unix_s: u64) {
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

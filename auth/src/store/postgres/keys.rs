//! The signing keys, in Postgres.

use deadpool_postgres::Transaction;
use dreamcatcher_proto::Error;

use super::call::{bytes, column, execute};
use super::failure::Failure;
use crate::keys::KeyRecord;
use crate::store::keyring::{self, Change, Kept};
use crate::store::{SigningKeyRecords, unix_i64, unix_u64};

/// An advisory lock has no name but a number; this is nobody else's in a database of ours.
const KEYS_LOCK: i64 = 0x6472_6561_6d63_0002;

pub(super) async fn signing_keys(
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

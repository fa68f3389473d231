//! Failed logins, and the addresses that accounts know, in SQLite.

use dreamcatcher_proto::{Error, UserId};
use rusqlite::{Transaction, params};

use super::{execute, find, one};
use crate::store::attempts::{COUNTS_MAX, Count, Counted};
use crate::store::{
    Attempt, AttemptKey, KnownAddresses, LoginKeys, PRUNE_ROWS, unix_i64, unix_u64,
};

pub(super) fn begin_login(
    tx: &Transaction<'_>,
    keys: LoginKeys,
    now_unix_s: u64,
) -> Result<Attempt, Error> {
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

pub(super) fn login_succeeded(
    tx: &Transaction<'_>,
    user: UserId,
    keys: LoginKeys,
) -> Result<(), Error> {
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

pub(super) fn know_address(
    tx: &Transaction<'_>,
    user: UserId,
    pair: AttemptKey,
) -> Result<(), Error> {
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

pub(super) fn prune_attempts(tx: &Transaction<'_>, now_unix_s: u64) -> Result<(), Error> {
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

//! The schema, and how it is brought up to date.

use std::time::Duration;

use deadpool_postgres::Object;
use dreamcatcher_proto::Error;
use tokio::time::{Instant, timeout_at};

use super::connect::{self, Purpose, cannot_open, cannot_use, invalid};
use crate::store::{self, Migration, PostgresConfig, runner, unavailable};

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

/// For a migration with everything that waits before it.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(600);

/// An advisory lock has no name but a number; this is nobody else's in a database of ours.
const MIGRATE_LOCK: i64 = 0x6472_6561_6d63_0001;

pub(in crate::store) async fn migrate(config: &PostgresConfig) -> Result<Migration, Error> {
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

pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// 0: nothing was ever migrated.
pub(super) async fn version(client: &tokio_postgres::Client) -> Result<u32, tokio_postgres::Error> {
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

pub(super) fn newer(place: &str, version: u32) -> Error {
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
        None => store::migration_failed(error),
    }
}

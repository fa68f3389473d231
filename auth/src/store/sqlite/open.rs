//! Opening a file, and bringing its schema up to date.

use std::fs::OpenOptions;
use std::path::Path;

use dreamcatcher_proto::{Error, ErrorCode};
use refinery::{Runner, Target};
use rusqlite::Connection;

use super::fault::failed;
use super::one;
use crate::store::{self, Migration, PATIENCE, Patience, migration_failed};

/// Statements that are kept prepared; there are about forty.
const STATEMENTS_MAX: usize = 64;

/// Processes that open an old file at once race to migrate it. A migration is one transaction, so
/// whoever loses a race finds it done at the next try.
const MIGRATE_TRIES_MAX: u32 = 5;

/// The schema's history. Entries are only appended: each is stored with its checksum.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "V1__users",
        include_str!("../../../migrations/sqlite/V1__users.sql"),
    ),
    (
        "V2__accounts",
        include_str!("../../../migrations/sqlite/V2__accounts.sql"),
    ),
    (
        "V3__known_addresses",
        include_str!("../../../migrations/sqlite/V3__known_addresses.sql"),
    ),
    (
        "V4__repeatable_refresh",
        include_str!("../../../migrations/sqlite/V4__repeatable_refresh.sql"),
    ),
];

pub(in crate::store) fn migrate(path: &Path) -> Result<Migration, Error> {
    open_file(path, PATIENCE).map(|(_, migration)| migration)
}

/// The file is made before SQLite opens it, so that nobody else can ever read the keys in it; its
/// journals inherit the mode.
pub(super) fn open_file(path: &Path, patience: Patience) -> Result<(Connection, Migration), Error> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|e| unusable(path, &e.to_string()))?;
    let connection = Connection::open(path).map_err(|e| unusable(path, &e.to_string()))?;
    prepare(connection, patience).map_err(|e| unusable(path, e.message()))
}

/// Brings the schema up to date.
pub(super) fn prepare(
    mut connection: Connection,
    patience: Patience,
) -> Result<(Connection, Migration), Error> {
    connection.busy_timeout(patience.busy).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;")
        .map_err(failed)?;
    let runner = store::runner(MIGRATIONS)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match bring_up(&mut connection, &runner) {
            Ok(migration) => return Ok((connection, migration)),
            Err(_) if tries < MIGRATE_TRIES_MAX => {}
            Err(e) => return Err(e),
        }
    }
}

fn bring_up(connection: &mut Connection, runner: &Runner) -> Result<Migration, Error> {
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let from = version(connection, runner)?;
    if from > known {
        return Err(Error::new(
            ErrorCode::InvalidConfig,
            format!("its schema is version {from}, this program knows {known}; use a newer one"),
        ));
    }
    if from == 1 {
        // Made by a program that counted versions by itself.
        store::runner(MIGRATIONS)?
            .set_target(Target::FakeVersion(1))
            .run(connection)
            .map_err(|e| migration_failed(&e))?;
    }
    runner.run(connection).map_err(|e| migration_failed(&e))?;
    Ok(Migration { from, to: known })
}

fn version(connection: &mut Connection, runner: &Runner) -> Result<u32, Error> {
    let history: bool = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history')",
            [],
            one,
        )
        .map_err(failed)?;
    let applied = if history {
        runner
            .get_last_applied_migration(connection)
            .map_err(|e| migration_failed(&e))?
    } else {
        None
    };
    match applied {
        Some(applied) => Ok(u32::try_from(applied.version()).unwrap_or(u32::MAX)),
        None => connection
            .query_row("PRAGMA user_version", [], one)
            .map_err(failed),
    }
}

fn unusable(path: &Path, cause: &str) -> Error {
    Error::new(
        ErrorCode::InvalidConfig,
        format!("the store {} cannot be used: {cause}", path.display()),
    )
}

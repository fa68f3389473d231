//! One call: a transaction or a statement on a connection of the pool, within its time.

use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{Client, Object, Transaction};
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

use super::Postgres;
use super::connect::no_connection;
use super::failure::{Failure, is_connection_lost};
use crate::store::{User, parse, unavailable};

/// Of a transaction that lost against another, or whose connection was gone before it began.
const TRIES_MAX: u32 = 3;

/// For cleaning up after a call that has succeeded, once in dozens of calls.
const PRUNE_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Postgres {
    /// Runs `job` in a transaction that stays only if it succeeds.
    pub(super) async fn transact<A: Sync, T>(
        &self,
        arguments: A,
        job: impl for<'a> Fn(&'a Transaction<'a>, &'a A) -> Answer<'a, T> + Send + Sync,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + self.call_timeout;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut client = self.client(deadline).await?;
            let attempt = async {
                let transaction = client.transaction().await?;
                let answer = job(&transaction, &arguments).await?;
                transaction.commit().await.map_err(Failure::Commit)?;
                Ok::<T, Failure>(answer)
            };
            let Ok(result) = timeout_at(deadline, attempt).await else {
                return Err(gave_up(client));
            };
            drop(client);
            match result {
                Err(failure) if tries < TRIES_MAX && failure.is_worth_another_try() => {
                    self.forget_lost(&failure);
                }
                result => return result.map_err(Failure::into_error),
            }
        }
    }

    /// Runs one statement, which is a transaction of its own.
    async fn rows(
        &self,
        deadline: Instant,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let client = self.client(deadline).await?;
            let attempt = async {
                let statement = client.prepare_cached(sql).await?;
                client.query(&statement, parameters).await
            };
            let Ok(result) = timeout_at(deadline, attempt).await else {
                return Err(gave_up(client));
            };
            drop(client);
            match result.map_err(Failure::Database) {
                Err(failure) if tries < TRIES_MAX && failure.is_worth_another_try() => {
                    self.forget_lost(&failure);
                }
                result => return result.map_err(Failure::into_error),
            }
        }
    }

    /// Where one connection was lost, so are those that wait in the pool: the next try makes a new one.
    fn forget_lost(&self, failure: &Failure) {
        if let Failure::Database(e) = failure
            && is_connection_lost(e)
        {
            self.pool.retain(|_, _| false);
        }
    }

    pub(super) async fn first(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        let deadline = Instant::now() + self.call_timeout;
        let rows = self.rows(deadline, sql, parameters).await?;
        Ok(rows.into_iter().next())
    }

    async fn client(&self, deadline: Instant) -> Result<Client, Error> {
        match timeout_at(deadline, self.pool.get()).await {
            Ok(client) => client.map_err(no_connection),
            Err(_) => Err(unavailable("no connection in time")),
        }
    }

    /// Each statement passes over what others have locked, so that it waits for nobody; what it misses
    /// the next one finds.
    pub(super) async fn prune(&self, statements: &[(&str, Parameters<'_>)]) {
        let deadline = Instant::now() + PRUNE_TIMEOUT;
        for (sql, parameters) in statements {
            if let Err(e) = self.rows(deadline, sql, parameters).await {
                tracing::debug!(error = %e, "cannot clean up the store");
            }
        }
    }
}

/// A connection that has not answered is not used again: its next user would wait for the answer too.
fn gave_up(client: Client) -> Error {
    drop(Object::take(client));
    unavailable("no answer in time")
}

pub(super) async fn first(
    tx: &Transaction<'_>,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Option<Row>, tokio_postgres::Error> {
    let statement = tx.prepare_cached(sql).await?;
    tx.query_opt(&statement, parameters).await
}

pub(super) async fn execute(
    tx: &Transaction<'_>,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<u64, tokio_postgres::Error> {
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, parameters).await
}

pub(super) fn id(user: &UserId) -> &[u8] {
    &user.0
}

/// From `id` and `display_name`, which come first.
pub(super) fn user(row: &Row) -> Result<User, Error> {
    Ok(User {
        id: UserId(bytes(row, 0)?),
        display_name: parse("name", column(row, 1)?)?,
    })
}

pub(super) fn bytes<const N: usize>(row: &Row, at: usize) -> Result<[u8; N], Error> {
    column::<&[u8]>(row, at)?.try_into().map_err(|_| unfit(at))
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Error> {
    row.try_get(at).map_err(|_| unfit(at))
}

fn unfit(at: usize) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("column {at} of a stored row does not fit"),
    )
}

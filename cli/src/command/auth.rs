//! `dreamcatcher auth`: the auth service in a process of its own, and `auth migrate`.

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_auth::{Auth, Config, Migration, PostgresConfig, StoreConfig};

use crate::args::{AuthArgs, AuthTask, MigrateArgs, StoreArgs};
use crate::directory;
use crate::exit::Failure;
use crate::out;
use crate::secret;
use crate::stop::Stop;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) async fn auth(args: AuthArgs) -> Result<(), Failure> {
    match args.task {
        Some(AuthTask::Migrate(args)) => migrate(&args).await,
        None => serve(args).await,
    }
}

async fn serve(args: AuthArgs) -> Result<(), Failure> {
    let mut stop = Stop::on_signal()?;
    let store = store(&args.store, args.directory.insecure)?;
    let opened = directory::open(&args.directory).await?;
    let rotate_days = u32::try_from(args.key_rotate_days).unwrap_or(u32::MAX);
    let auth = Auth::start(Config {
        listen: args.listen,
        admin: args.admin,
        store,
        trusted_proxies: args.trusted_proxies,
        key_rotate_every: DAY.saturating_mul(rotate_days),
        ..Config::new(Arc::clone(&opened.directory))
    })
    .await?;
    let said = introduce(&auth);
    if said.is_ok() {
        stop.requested().await;
    }
    stop.let_end(auth.shutdown()).await;
    said
}

fn introduce(auth: &Auth) -> Result<(), Failure> {
    if let Some(admin) = auth.admin_addr() {
        out::say_line(format_args!("admin pages are on http://{admin}"))?;
    }
    out::say_line(format_args!(
        "auth is listening on http://{}",
        auth.local_addr()
    ))
}

async fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let store = store(&args.store, args.insecure)?;
    let Migration { from, to } = dreamcatcher_auth::migrate(&store).await?;
    if from == to {
        out::say_line(format_args!("the store is up to date: version {to}"))
    } else {
        out::say_line(format_args!(
            "the store was brought from version {from} to {to}"
        ))
    }
}

fn store(args: &StoreArgs, insecure: bool) -> Result<StoreConfig, Failure> {
    let StoreConfig::Postgres(postgres) = args.store.clone() else {
        return Ok(args.store.clone());
    };
    let password = args.store_password_file.as_deref();
    let password = password.map(|file| secret::read("--store-password-file", file));
    Ok(StoreConfig::Postgres(PostgresConfig {
        password: password.transpose()?,
        ca_file: args.store_ca_file.clone(),
        connections_max: args.store_connections,
        insecure,
        ..postgres
    }))
}

//! `dreamcatcher auth`: the auth service in a process of its own, and `auth migrate`.

use std::sync::Arc;

use dreamcatcher_auth::{Auth, Config, StoreConfig};

use crate::args::{AuthArgs, AuthTask, MigrateArgs, StoreArgs, StorePlace};
use crate::directory;
use crate::exit::Failure;
use crate::out;
use crate::stop::Stop;

pub(crate) async fn auth(args: AuthArgs) -> Result<(), Failure> {
    match args.task {
        Some(AuthTask::Migrate(args)) => migrate(&args).await,
        None => serve(args).await,
    }
}

async fn serve(args: AuthArgs) -> Result<(), Failure> {
    let mut stop = Stop::on_signal()?;
    let opened = directory::open(&args.directory).await?;
    let auth = Auth::start(Config {
        listen: args.listen,
        store: store(&args.store, args.directory.insecure)?,
        ..Config::new(Arc::clone(&opened.directory))
    })
    .await?;
    let said = out::say_line(format_args!(
        "auth is listening on http://{}",
        auth.local_addr()
    ));
    if said.is_ok() {
        stop.requested().await;
    }
    auth.shutdown().await;
    said
}

async fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let _store = store(&args.store, args.insecure)?;
    tokio::task::yield_now().await;
    Ok(())
}

fn store(args: &StoreArgs, _insecure: bool) -> Result<StoreConfig, Failure> {
    Ok(match &args.store {
        StorePlace::Memory => StoreConfig::Memory,
        StorePlace::File(file) => StoreConfig::File(file.clone()),
        StorePlace::Postgres(url) => return Err(Failure::Failed(format!("not yet: {url}"))),
    })
}

//! `dreamcatcher auth`: the auth service in a process of its own.

use std::sync::Arc;

use dreamcatcher_auth::{Auth, Config, StoreConfig};

use crate::args::{AuthArgs, StorePlace};
use crate::exit::Failure;
use crate::mesh::memory_directory;
use crate::out;
use crate::stop::Stop;

pub(crate) async fn auth(args: AuthArgs) -> Result<(), Failure> {
    let mut stop = Stop::on_signal()?;
    let auth = Auth::start(Config {
        listen: args.listen,
        store: match args.store {
            StorePlace::Memory => StoreConfig::Memory,
            StorePlace::File(file) => StoreConfig::File(file),
        },
        // No directory is shared between processes, so no relay is known here.
        ..Config::new(Arc::new(memory_directory()))
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

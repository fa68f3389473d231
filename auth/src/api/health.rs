//! For those who watch over the process.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dreamcatcher_proto::Error;

use super::parts::Done;
use crate::app::App;
use crate::refusal::{ErrorBody, Refusal};
use crate::store::Store;

/// Whether the process serves. It asks nobody: a restart mends neither the store nor the directory.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health", responses((status = 200, body = Done)))]
pub(crate) async fn live() -> Json<Done> {
    Done::OK
}

/// Whether players can sign in and find a relay: the store answers, the signing keys are there, and the
/// directory has answered since the start. Should it go away later, the relays that it named last go
/// on being listed, and this stays as it is.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "health",
    responses((status = 200, body = Done),
        (status = 503, body = ErrorBody, description = "The message names the cause.")))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Done>, Refusal> {
    let store = async {
        if !app.store_answered_just_now() {
            app.ask(Store::ping).await?;
        }
        app.keys().map(drop)
    };
    // Both within the second after which whoever asks gives up.
    let (store, relays) = tokio::join!(store, app.relays.list());
    store.map_err(Refusal::not_ready)?;
    relays.map_err(|error| Refusal::not_ready(unlisted(&error)))?;
    Ok(Done::OK)
}

fn unlisted(error: &Error) -> Error {
    Error::new(
        error.code(),
        "the directory has not answered since the start, so no relay can be listed: check that it \
         runs, and --directory",
    )
}

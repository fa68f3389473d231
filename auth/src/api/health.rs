//! For those who watch over the process.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::parts::Done;
use crate::app::App;
use crate::refusal::{ErrorBody, Refusal};
use crate::store::Store;

/// Whether the process serves. It asks nobody: a restart mends neither the store nor the directory.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health", responses((status = 200, body = Done)))]
pub(crate) async fn live() -> Json<Done> {
    Done::OK
}

/// Players can sign in.
#[derive(Serialize, ToSchema)]
pub(crate) struct Readiness {
    #[schema(example = "ok")]
    status: &'static str,
    /// Whether the directory has answered since the start, so that relays can be listed.
    relays_known: bool,
}

/// Whether players can sign in: the store answers and the signing keys are there.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "health",
    responses((status = 200, body = Readiness),
        (status = 503, body = ErrorBody, description = "The message names the cause.")))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Readiness>, Refusal> {
    if !app.store_answered_just_now() {
        app.ask(Store::ping).await.map_err(Refusal::not_ready)?;
    }
    app.keys().map_err(Refusal::not_ready)?;
    Ok(Json(Readiness {
        status: "ok",
        relays_known: app.relays.known(),
    }))
}

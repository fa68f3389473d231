//! What clients and relays read of the mesh. None of it needs the store.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::refusal::{ErrorBody, Refusal};
use crate::relays::RelayEntry;

/// How long relays may keep the JWKS document.
const JWKS_CACHE_CONTROL: &str = "public, max-age=300";

/// The relays, in the order of their ids.
#[derive(Serialize, ToSchema)]
#[schema(as = RelayList)]
pub(super) struct RelayList<'a> {
    relays: &'a [RelayEntry],
}

/// The relays that a client can choose from. A client connects by QUIC, and accepts a certificate
/// only if its SHA-256 is listed.
#[utoipa::path(get, path = "/v1/relays", tag = "mesh",
    responses((status = 200, body = RelayList),
        (status = 503, body = ErrorBody, description = "DirectoryUnavailable: it did not answer since the start.")))]
pub(super) async fn relays(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let relays = app.relays.list().await?;
    Ok(Json(RelayList { relays: &relays }).into_response())
}

/// The public keys that check access tokens (RFC 7517): current, next and previous.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "mesh",
    responses((status = 200, body = JwksDocument),
        (status = 503, body = ErrorBody, description = "StoreUnavailable: the keys were not read since the start.")))]
pub(super) async fn jwks(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Refusal> {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, JWKS_CACHE_CONTROL),
    ];
    Ok((headers, app.keys()?.jwks().to_owned()))
}

#[derive(ToSchema)]
#[schema(as = Jwks)]
#[expect(dead_code, reason = "read by the document alone")]
pub(super) struct JwksDocument {
    /// A JWK (RFC 7517, section 4) each: Ed25519 (RFC 8037).
    #[schema(value_type = Vec<Object>)]
    keys: Vec<()>,
}

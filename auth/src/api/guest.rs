//! Guests: whoever holds a secret is its user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dreamcatcher_proto::token::DisplayName;
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::Body;
use super::parts::{BodyRefused, Caller, Failed, Limited, SignIn};
use crate::app::App;
use crate::clock::unix_now_s;
use crate::guest::GuestSecret;
use crate::metrics;
use crate::refusal::Refusal;
use crate::store::Store;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestRequest {
    /// Drawn at random by the client, once, and kept: base64url, at least 128 bits.
    #[schema(min_length = 22, max_length = 128, pattern = "^[A-Za-z0-9_-]*$")]
    secret: String,
    /// Becomes the user's name.
    #[schema(min_length = 1, max_length = 32)]
    display_name: Option<String>,
}

/// Signs a guest in. The same secret is the same user for ever.
#[utoipa::path(post, path = "/v1/guest", tag = "sign in", request_body = GuestRequest,
    responses((status = 200, body = SignIn), BodyRefused, Limited, Failed))]
pub(super) async fn guest(
    State(app): State<Arc<App>>,
    _: Caller,
    Body(request): Body<GuestRequest>,
) -> Result<Json<SignIn>, Refusal> {
    let secret = GuestSecret::parse(request.secret)?.hash();
    let name = request
        .display_name
        .map(DisplayName::try_from)
        .transpose()?;
    let now_unix_s = unix_now_s();
    let user = app
        .ask(|store| store.guest(secret, name, now_unix_s))
        .await?;
    tracing::debug!(user_id = %user.id, "guest signed in");
    let answer = SignIn::begin(&app, user, now_unix_s).await?;
    app.metrics.count(metrics::GUESTS);
    Ok(answer)
}

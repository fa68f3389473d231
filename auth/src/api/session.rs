//! Staying signed in, and signing out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dreamcatcher_proto::ErrorCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::Body;
use super::parts::{BodyRefused, Caller, Done, Failed, Limited, SignIn};
use crate::app::App;
use crate::clock::unix_now_s;
use crate::metrics::REFRESHES;
use crate::refresh::{self, RefreshToken};
use crate::refusal::{ErrorBody, Refusal};
use crate::store::{Rotation, Store};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshRequest {
    #[schema(min_length = 43, max_length = 43)]
    refresh_token: String,
}

/// Gives a new access token, and a new refresh token in the place of this one. A refresh token that
/// comes a second time ends the whole sign-in, unless it does so within 30 seconds and before the new
/// one was used: then its answer was lost, and another new one takes the place.
#[utoipa::path(post, path = "/v1/refresh", tag = "sign in", request_body = RefreshRequest,
    responses((status = 200, body = SignIn),
        (status = 401, body = ErrorBody, description = "SignedOut: the token is unknown, expired, or was used before."),
        BodyRefused, Limited, Failed))]
pub(super) async fn refresh(
    State(app): State<Arc<App>>,
    _: Caller,
    Body(request): Body<RefreshRequest>,
) -> Result<Json<SignIn>, Refusal> {
    // A token that is taken cannot be given back: what would fail afterwards has to fail before.
    app.keys()?;
    let old = RefreshToken::parse(request.refresh_token)?;
    let new = RefreshToken::draw()?;
    let now_unix_s = unix_now_s();
    let expires_at_unix_s = now_unix_s + refresh::LIFETIME_S;
    let rotated = app
        .ask(|store| store.rotate_refresh(old.hash(), new.hash(), expires_at_unix_s, now_unix_s));
    let (outcome, user) = match rotated.await? {
        Rotation::Rotated(user) => ("ok", Some(user)),
        Rotation::Reused => ("reused", None),
        Rotation::Unknown => ("unknown", None),
    };
    app.metrics.count_by(REFRESHES, "outcome", outcome);
    let user = user.ok_or(ErrorCode::SignedOut)?;
    Ok(SignIn::answer(&app, user, &new, now_unix_s)?)
}

/// Ends the sign-in that the refresh token belongs to. Access tokens that are out run to their end.
#[utoipa::path(post, path = "/v1/logout", tag = "sign in", request_body = RefreshRequest,
    responses((status = 200, body = Done, description = "Signed out, also if it was before."),
        BodyRefused, Limited, Failed))]
pub(super) async fn logout(
    State(app): State<Arc<App>>,
    _: Caller,
    Body(request): Body<RefreshRequest>,
) -> Result<Json<Done>, Refusal> {
    if let Ok(token) = RefreshToken::parse(request.refresh_token) {
        app.ask(|store| store.end_refresh(token.hash())).await?;
    }
    Ok(Done::OK)
}

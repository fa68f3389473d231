//! A user's own record.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dreamcatcher_proto::UserId;
use dreamcatcher_proto::token::DisplayName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::parts::{BodyRefused, Caller, Done, Failed, Limited, SignedIn, user_gone};
use crate::app::App;
use crate::refusal::{ErrorBody, Refusal};
use crate::store::{Profile, Store};

/// What a user sees of its own record.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    #[schema(value_type = String, example = "9f86d081884c7d659a2feaa0c55ad015")]
    user_id: UserId,
    #[schema(value_type = String, min_length = 1, max_length = 32)]
    display_name: DisplayName,
    /// `null` for a guest.
    username: Option<String>,
    /// `null` if none was given.
    email: Option<String>,
    /// When the user first signed in, in seconds since 1970.
    created_at_unix_s: u64,
}

impl From<Profile> for Me {
    fn from(profile: Profile) -> Self {
        Self {
            user_id: profile.user.id,
            display_name: profile.user.display_name,
            username: profile.username.map(|name| name.as_str().to_owned()),
            email: profile.email.map(|email| email.as_str().to_owned()),
            created_at_unix_s: profile.created_at_unix_s,
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MeChange {
    #[schema(min_length = 1, max_length = 32)]
    display_name: String,
}

/// The user's own record.
#[utoipa::path(get, path = "/v1/me", operation_id = "getMe", tag = "me", security(("access_token" = [])),
    responses((status = 200, body = Me),
        (status = 401, body = ErrorBody, description = "InvalidToken, TokenExpired, or TokenRevoked: the user was deleted."),
        Limited, Failed))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    _: Caller,
    SignedIn(id): SignedIn,
) -> Result<Json<Me>, Refusal> {
    let profile = app.ask(|store| store.profile(id)).await?;
    Ok(Json(profile.ok_or_else(user_gone)?.into()))
}

/// Changes the display name. Others see it once the user connects with the next access token.
#[utoipa::path(patch, path = "/v1/me", operation_id = "changeMe", tag = "me", security(("access_token" = [])),
    request_body = MeChange,
    responses((status = 200, body = Me),
        (status = 401, body = ErrorBody, description = "InvalidToken, TokenExpired, or TokenRevoked: the user was deleted."),
        BodyRefused, Limited, Failed))]
pub(super) async fn change(
    State(app): State<Arc<App>>,
    _: Caller,
    SignedIn(id): SignedIn,
    Body(request): Body<MeChange>,
) -> Result<Json<Me>, Refusal> {
    let name = DisplayName::try_from(request.display_name)?;
    let renamed = app.ask(|store| store.rename(id, name)).await?;
    renamed.ok_or_else(user_gone)?;
    let profile = app.ask(|store| store.profile(id)).await?;
    Ok(Json(profile.ok_or_else(user_gone)?.into()))
}

/// Deletes the user with everything that belongs to it. Access tokens that are out run to their end.
#[utoipa::path(delete, path = "/v1/me", operation_id = "deleteMe", tag = "me", security(("access_token" = [])),
    responses((status = 200, body = Done),
        (status = 401, body = ErrorBody, description = "InvalidToken, TokenExpired, or TokenRevoked: the user was deleted before."),
        Limited, Failed))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    _: Caller,
    SignedIn(id): SignedIn,
) -> Result<Json<Done>, Refusal> {
    let deleted = app.ask(|store| store.delete(id)).await?;
    if !deleted {
        return Err(user_gone());
    }
    tracing::debug!(user_id = %id, "user deleted");
    Ok(Done::OK)
}

//! What several routes take from a request, and what several answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use dreamcatcher_proto::token::{self, DisplayName};
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::app::App;
use crate::clock::unix_now_s;
use crate::origin::client_address;
use crate::refresh::{self, RefreshToken};
use crate::refusal::{ErrorBody, Refusal};
use crate::store::{Store, User};

/// Where a request for the user records comes from, within the rate of its address.
pub(super) struct Caller(pub(super) IpAddr);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.ok_or(Error::new(ErrorCode::Internal, "a request from nowhere"))?;
        let address = client_address(peer.ip(), &parts.headers, &app.trusted_proxies);
        app.take(address)?;
        Ok(Self(address))
    }
}

/// The user whose access token came with the request, if one did.
pub(super) struct MaybeSignedIn(pub(super) Option<UserId>);

impl FromRequestParts<Arc<App>> for MaybeSignedIn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let Some(header) = parts.headers.get(AUTHORIZATION) else {
            return Ok(Self(None));
        };
        let token = header.to_str().ok().and_then(|text| text.split_once(' '));
        let Some(("bearer", token)) = token
            .map(|(scheme, token)| (scheme.to_ascii_lowercase(), token.trim()))
            .as_ref()
            .map(|(scheme, token)| (scheme.as_str(), *token))
        else {
            return Err(no_token());
        };
        let claims = app.verify(token, unix_now_s())?;
        Ok(Self(Some(claims.sub)))
    }
}

/// The user whose access token came with the request.
pub(super) struct SignedIn(pub(super) UserId);

impl FromRequestParts<Arc<App>> for SignedIn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let MaybeSignedIn(user) = MaybeSignedIn::from_request_parts(parts, app).await?;
        user.map(Self).ok_or_else(no_token)
    }
}

fn no_token() -> Refusal {
    let message = "the header Authorization must be: Bearer, a space, and an access token";
    Error::new(ErrorCode::InvalidToken, message).into()
}

/// A token whose user was deleted meanwhile.
pub(super) fn user_gone() -> Refusal {
    Error::new(ErrorCode::TokenRevoked, "the user was deleted").into()
}

/// A user who is signed in.
#[derive(Serialize, ToSchema)]
pub(super) struct SignIn {
    #[schema(value_type = String, example = "9f86d081884c7d659a2feaa0c55ad015")]
    user_id: UserId,
    /// How others see the player.
    #[schema(value_type = String, min_length = 1, max_length = 32)]
    display_name: DisplayName,
    /// For relays, and for `Authorization: Bearer` here.
    access_token: String,
    /// How long the access token is good for.
    #[schema(example = 900)]
    expires_in_s: u64,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// For `POST /v1/refresh`, once: its answer has the next one. Keep it as secret as a password.
    #[schema(min_length = 43, max_length = 43)]
    refresh_token: String,
    /// How long the refresh token is good for if it is not used.
    #[schema(example = 2_592_000)]
    refresh_expires_in_s: u64,
}

impl SignIn {
    /// Begins a sign-in of `user`.
    pub(super) async fn begin(app: &App, user: User, now_unix_s: u64) -> Result<Json<Self>, Error> {
        let token = RefreshToken::draw()?;
        let expires_at_unix_s = now_unix_s + refresh::LIFETIME_S;
        let id = user.id;
        app.ask(|store| store.start_refresh(id, token.hash(), expires_at_unix_s, now_unix_s))
            .await?;
        Self::answer(app, user, &token, now_unix_s)
    }

    pub(super) fn answer(
        app: &App,
        user: User,
        refresh_token: &RefreshToken,
        now_unix_s: u64,
    ) -> Result<Json<Self>, Error> {
        let name = user.display_name.clone();
        Ok(Json(Self {
            user_id: user.id,
            display_name: user.display_name,
            access_token: app.keys()?.issue(user.id, name, now_unix_s)?,
            expires_in_s: token::LIFETIME_S,
            token_type: "Bearer",
            refresh_token: refresh_token.text().to_owned(),
            refresh_expires_in_s: refresh::LIFETIME_S,
        }))
    }
}

/// It is done, or it is well.
#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    #[schema(example = "ok")]
    status: &'static str,
}

impl Done {
    pub(super) const OK: Json<Self> = Json(Self { status: "ok" });
}

/// What any route with a body can refuse.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the document alone")]
pub(super) enum BodyRefused {
    /// InvalidArgument: the body is not JSON, or a value is outside its range.
    #[response(status = 400)]
    Value(ErrorBody<'static>),
    /// MessageTooLarge: the body is over 16 KiB.
    #[response(status = 413)]
    TooLarge(ErrorBody<'static>),
    /// InvalidArgument: the `Content-Type` is not `application/json`.
    #[response(status = 415)]
    Type(ErrorBody<'static>),
    /// InvalidArgument: a field is missing, unknown, or of another type.
    #[response(status = 422)]
    Field(ErrorBody<'static>),
}

/// What any route that needs the user records can answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the document alone")]
pub(super) enum Failed {
    /// Internal: a fault of ours.
    #[response(status = 500)]
    Ours(ErrorBody<'static>),
    /// StoreUnavailable, RateLimited (passwords wait for a core) or TimedOut: try again.
    #[response(status = 503)]
    Later(ErrorBody<'static>),
}

/// What any route that needs the user records can refuse.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the document alone")]
pub(super) enum Limited {
    /// RateLimited: too many requests from this address, or too many failed logins.
    #[response(status = 429)]
    Limited(ErrorBody<'static>),
}

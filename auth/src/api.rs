//! The routes, and what each does.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use dreamcatcher_proto::token::{self, DisplayName};
use dreamcatcher_proto::{ErrorCode, UserId};
use serde::{Deserialize, Serialize};

use crate::guest::GuestSecret;
use crate::keys::SigningKeys;
use crate::rate::Limiter;
use crate::refusal::Refusal;
use crate::relays::{RelayEntry, Relays};
use crate::server::unix_now_s;
use crate::store::Store;
use crate::{BODY_BYTES_MAX, Config};

/// How long relays may keep the JWKS document.
const JWKS_CACHE_CONTROL: &str = "public, max-age=300";
const NO_STORE: &str = "no-store";

/// What the handlers share.
pub(crate) struct App<S> {
    pub(crate) store: S,
    pub(crate) keys: SigningKeys,
    relays: Relays,
    limiter: Mutex<Limiter>,
    request_timeout: Duration,
}

impl<S: Store> App<S> {
    pub(crate) fn new(config: &Config, store: S, keys: SigningKeys, relays: Relays) -> Arc<Self> {
        Arc::new(Self {
            store,
            keys,
            relays,
            limiter: Mutex::new(Limiter::new(config.guest_rate, config.guest_rate_loopback)),
            request_timeout: config.request_timeout,
        })
    }

    fn take(&self, address: IpAddr) -> Result<(), Refusal> {
        self.limiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(address, Instant::now())
            .map_err(Refusal::rate_limited)
    }
}

pub(crate) fn router<S: Store>(app: Arc<App<S>>) -> Router {
    Router::new()
        .route("/v1/guest", post(guest::<S>))
        .route("/v1/relays", get(relays::<S>))
        .route("/.well-known/jwks.json", get(jwks::<S>))
        .route("/livez", get(ok))
        .route("/readyz", get(ready::<S>))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), in_time::<S>))
        .with_state(app)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestRequest {
    secret: String,
    display_name: Option<String>,
}

#[derive(Serialize)]
struct GuestAnswer {
    user_id: UserId,
    display_name: DisplayName,
    access_token: String,
    expires_in_s: u64,
    token_type: &'static str,
}

async fn guest<S: Store>(
    State(app): State<Arc<App<S>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Result<Json<GuestRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    app.take(peer.ip())?;
    let Json(request) = request?;
    let secret = GuestSecret::parse(request.secret)?;
    let name = request
        .display_name
        .map(DisplayName::try_from)
        .transpose()?;
    let now_unix_s = unix_now_s();
    let user = app.store.guest(secret.hash(), name, now_unix_s).await?;
    let access_token = app
        .keys
        .issue(user.id, user.display_name.clone(), now_unix_s)?;
    tracing::debug!(user_id = %user.id, "guest signed in");
    let answer = GuestAnswer {
        user_id: user.id,
        display_name: user.display_name,
        access_token,
        expires_in_s: token::LIFETIME_S,
        token_type: "Bearer",
    };
    Ok(([(CACHE_CONTROL, NO_STORE)], Json(answer)).into_response())
}

async fn relays<S: Store>(State(app): State<Arc<App<S>>>) -> Response {
    #[derive(Serialize)]
    struct Answer<'a> {
        relays: &'a [RelayEntry],
    }
    let list = app.relays.list();
    let answer = Json(Answer { relays: &list });
    ([(CACHE_CONTROL, NO_STORE)], answer).into_response()
}

async fn jwks<S: Store>(State(app): State<Arc<App<S>>>) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, JWKS_CACHE_CONTROL),
    ];
    (headers, app.keys.jwks().to_owned())
}

async fn ok() -> impl IntoResponse {
    #[derive(Serialize)]
    struct Answer {
        status: &'static str,
    }
    ([(CACHE_CONTROL, NO_STORE)], Json(Answer { status: "ok" }))
}

async fn ready<S: Store>(State(app): State<Arc<App<S>>>) -> Result<impl IntoResponse, Refusal> {
    app.store.ping().await?;
    Ok(ok().await)
}

async fn no_route() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        ErrorCode::InvalidArgument,
        "there is no such route; those that there are: POST /v1/guest, GET /v1/relays, \
         GET /.well-known/jwks.json, GET /livez, GET /readyz",
    )
}

async fn no_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::InvalidArgument,
        "the route has another method; the header Allow names it",
    )
}

/// Ends a request, reading its body included, that takes too long.
async fn in_time<S: Store>(
    State(app): State<Arc<App<S>>>,
    request: Request,
    next: Next,
) -> Response {
    tokio::time::timeout(app.request_timeout, next.run(request))
        .await
        .unwrap_or_else(|_| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::TimedOut,
                format!("the request had no answer within {:?}", app.request_timeout),
            )
            .into_response()
        })
}

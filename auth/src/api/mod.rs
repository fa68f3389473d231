//! The routes.
//!
//! ```text
//!  request ──measured──▶ in time ──▶ body not too large ──▶ route ──▶ answer or Refusal
//! ```

mod account;
mod body;
mod document;
mod guest;
mod health;
mod me;
mod mesh;
mod parts;
mod session;

use std::future::ready;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use dreamcatcher_proto::{Error, ErrorCode};

use crate::BODY_BYTES_MAX;
use crate::app::App;
use crate::metrics::REFUSALS;
use crate::refusal::Refusal;

pub(crate) use health::{live, ready as is_ready};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// What a request to no route is counted as.
const NO_ROUTE: &str = "none";

type Handler = MethodRouter<Arc<App>>;

/// Every route, by path; the document describes the same ones.
fn routes(document: Arc<str>) -> [(&'static str, Handler); 11] {
    [
        ("/v1/guest", post(guest::guest)),
        ("/v1/register", post(account::register)),
        ("/v1/login", post(account::login)),
        ("/v1/refresh", post(session::refresh)),
        ("/v1/logout", post(session::logout)),
        ("/v1/me", get(me::show).patch(me::change).delete(me::delete)),
        ("/v1/relays", get(mesh::relays)),
        ("/.well-known/jwks.json", get(mesh::jwks)),
        (
            "/openapi.json",
            get(move || ready(document::show(&document))),
        ),
        ("/livez", get(health::live)),
        ("/readyz", get(health::ready)),
    ]
}

pub(crate) fn router(app: Arc<App>) -> Result<Router, Error> {
    let document = document::render()?.into();
    let mut router = Router::new();
    let mut paths = Vec::new();
    for (path, handler) in routes(document) {
        router = router.route(path, handler);
        paths.push(path);
    }
    let paths: Arc<[&'static str]> = paths.into();
    let measure = (Arc::clone(&app), paths);
    Ok(router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(not_too_large))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), in_time))
        .layer(middleware::from_fn_with_state(measure, measured))
        .with_state(app))
}

async fn no_route() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        ErrorCode::InvalidArgument,
        "there is no such route; GET /openapi.json describes those that there are",
    )
}

async fn no_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::InvalidArgument,
        "the route has another method; the header Allow names it",
    )
}

/// Refuses a body that says that it is too large, before any of it is read.
async fn not_too_large(request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|text| text.to_str().ok()?.parse().ok());
    if length.is_some_and(|bytes: u64| bytes > BODY_BYTES_MAX as u64) {
        return Refusal::body_too_large().into_response();
    }
    next.run(request).await
}

/// Ends a request, reading its body included, that takes too long.
async fn in_time(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
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

/// Counts, and says that no answer may be kept unless its route says otherwise.
async fn measured(
    State((app, paths)): State<(Arc<App>, Arc<[&'static str]>)>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let route = paths.iter().find(|path| **path == request.uri().path());
    let mut response = next.run(request).await;
    app.metrics
        .request(route.copied().unwrap_or(NO_ROUTE), begun.elapsed());
    if let Some(code) = response.extensions().get::<ErrorCode>() {
        app.metrics.count_by(REFUSALS, "code", code.name());
    }
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
    response
}

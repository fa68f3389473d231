//! The operator's HTTP: `/livez`, `/readyz` and `/metrics`, on a listener of its own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::api;
use crate::app::App;

/// The exposition format that the metrics are in.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is aborted.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>) {
    let pages = Router::new()
        .route("/livez", get(api::live))
        .route("/readyz", get(api::ready))
        .route("/metrics", get(metrics))
        .with_state(app);
    if let Err(error) = axum::serve(listener, pages).await {
        tracing::error!(%error, "the admin listener failed");
    }
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS_TYPE)], app.render_metrics())
}

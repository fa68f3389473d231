//! The operator's HTTP: `/livez`, `/readyz`, `/metrics` and `/debug/sessions`, on a listener of its own.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use dreamcatcher_proto::NodeId;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::mailbox::{Mailbox, Message};
use super::metrics::Metrics;
use super::shared::Shared;
use crate::node::io::SessionView;

/// How long a node may take to show its sessions.
const SHOW_WITHIN: Duration = Duration::from_secs(1);
/// The exposition format that the metrics are in.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the pages are made of.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) nodes: Arc<[(Arc<Shared>, Mailbox)]>,
    pub(super) metrics: Arc<Metrics>,
}

/// Serves until it is aborted.
pub(super) async fn serve(listener: TcpListener, admin: Admin) {
    let pages = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/debug/sessions", get(sessions))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, pages).await {
        tracing::error!(%error, "the admin listener failed");
    }
}

/// Whether every event loop runs: nothing that a restart would not mend.
async fn live(State(admin): State<Admin>) -> Response {
    let dead =
        |shared: &Shared| (!shared.is_running()).then(|| "its event loop has ended".to_owned());
    verdict(admin.causes(dead))
}

/// Whether clients can be sent here.
async fn ready(State(admin): State<Admin>) -> Response {
    verdict(admin.causes(|shared| shared.readiness().err()))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let text = admin
        .metrics
        .render(admin.nodes.iter().map(|(shared, _)| shared));
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

#[derive(serde::Serialize)]
struct NodeSessions {
    node: NodeId,
    sessions: Vec<SessionView>,
}

async fn sessions(State(admin): State<Admin>) -> Response {
    let mut shown = Vec::with_capacity(admin.nodes.len());
    for (shared, mailbox) in admin.nodes.iter() {
        match tokio::time::timeout(SHOW_WITHIN, ask(mailbox)).await {
            Ok(Some(sessions)) => shown.push(NodeSessions {
                node: shared.id.clone(),
                sessions,
            }),
            Ok(None) | Err(_) => {
                let cause = format!("{}: no answer within {SHOW_WITHIN:?}\n", shared.id);
                return (StatusCode::SERVICE_UNAVAILABLE, cause).into_response();
            }
        }
    }
    Json(shown).into_response()
}

async fn ask(mailbox: &Mailbox) -> Option<Vec<SessionView>> {
    let (reply, answer) = oneshot::channel();
    mailbox.send(Message::Sessions(reply)).await;
    answer.await.ok()
}

impl Admin {
    /// A line for each node that something is wrong with.
    fn causes(&self, wrong: impl Fn(&Shared) -> Option<String>) -> String {
        let mut causes = String::new();
        for (shared, _) in self.nodes.iter() {
            if let Some(cause) = wrong(shared) {
                let _ = writeln!(causes, "{}: {cause}", shared.id);
            }
        }
        causes
    }
}

fn verdict(causes: String) -> Response {
    if causes.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, causes).into_response()
    }
}

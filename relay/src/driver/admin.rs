//! The operator's HTTP: `/livez`, `/readyz`, `/metrics`, `/debug/node` and `/debug/sessions`, on a
//! listener of its own. Whoever connects has so long to ask, and only so many can at a time.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use dreamcatcher_proto::NodeId;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::mailbox::{Mailbox, Message};
use super::metrics::Metrics;
use super::shared::Shared;
use crate::node::io::SessionView;
use crate::relay::hex;

/// How long a node may take to show its sessions.
const SHOW_WITHIN: Duration = Duration::from_secs(1);
/// From connecting, and after each answer, to a complete request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time: a scraper, a probe and some people. More wait in the kernel.
const CONNECTIONS_MAX: usize = 64;
/// After a failure to accept, which is one of this machine: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
        .route("/debug/node", get(nodes))
        .route("/debug/sessions", get(sessions))
        .with_state(admin);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    // Never an error: nobody closes the semaphore.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the admin listener");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let pages = pages.clone();
        connections.spawn(async move {
            converse(stream, pages).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, pages: Router) {
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    if let Err(error) = conversation.await {
        tracing::debug!(%error, "an admin connection failed");
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
struct NodeView {
    node: NodeId,
    /// What clients pin, the present certificate first.
    certificate_sha256: Vec<String>,
    ready: bool,
}

async fn nodes(State(admin): State<Admin>) -> Response {
    let nodes = admin.nodes.iter().map(|(shared, _)| NodeView {
        node: shared.id.clone(),
        certificate_sha256: shared.certificates().iter().map(hex).collect(),
        ready: shared.readiness().is_ok(),
    });
    Json(nodes.collect::<Vec<_>>()).into_response()
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

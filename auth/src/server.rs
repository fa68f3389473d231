//! Binds, accepts, and stops without cutting an answer off.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use dreamcatcher_proto::{Error, ErrorCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::api::{self, App};
use crate::keys::SigningKeys;
use crate::relays::Relays;
use crate::store::{Embedded, Store};
use crate::{BODY_BYTES_MAX, CONNECTIONS_MAX, Config};

/// From one answer, or the connection's start, to the end of the next request's header. It frees
/// the place of a connection that says nothing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may take to end after `shutdown`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: the usual cause is that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running service. Dropping it stops it too, without waiting for the end.
#[derive(Debug)]
pub struct Auth {
    local_addr: SocketAddr,
    relays: Relays,
    jwks: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Auth {
    /// Opens the store, makes signing keys if it has none, binds, and serves.
    ///
    /// `AddressInUse` names the address, `InvalidConfig` what else cannot be used.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| cannot_listen(config.listen, &e))?;
        let local_addr = listener
            .local_addr()
            .map_err(|e| cannot_listen(config.listen, &e))?;
        let store = Embedded::open(&config.store)?;
        let keys = SigningKeys::new(&store.signing_keys(unix_now_s()).await?)?;
        let jwks = keys.jwks().to_owned();
        let relays = Relays::follow(Arc::clone(&config.directory));
        let app = App::new(&config, store, keys, relays.clone());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, app, stopped));
        tracing::info!(address = %local_addr, "auth is listening");
        Ok(Self {
            local_addr,
            relays,
            jwks,
            stop,
            task,
        })
    }

    /// The address that it listens on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The JWKS document that it serves, for relays in the same process.
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// Returns once `GET /v1/relays` lists at least this many nodes.
    pub async fn relays_listed(&self, count: usize) {
        self.relays.at_least(count).await;
    }

    /// Accepts nothing more, ends the requests under way, and closes the store.
    pub async fn shutdown(self) {
        drop(self.stop);
        if let Err(e) = self.task.await {
            tracing::error!(error = %e, "auth did not stop cleanly");
        }
    }
}

async fn serve<S: Store>(
    listener: TcpListener,
    app: Arc<App<S>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let router = api::router(app.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = &mut stopped => break,
        };
        let Some((stream, peer, place)) = accepted else {
            break;
        };
        let connection = graceful.watch(connection(stream, peer, router.clone()));
        connections.spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(%peer, error = %e, "connection failed");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "cut off connections that did not end"
        );
    }
    connections.shutdown().await;
    app.store.close().await;
    tracing::info!("auth has stopped");
}

/// The next connection, once there is a place for it. `None` never comes while this server runs:
/// nobody closes the semaphore.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Some((stream, peer, place)),
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    // An answer is one small write; waiting to fill a packet would only delay it. Where the option
    // cannot be set the answer is slower, no more.
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(2 * BODY_BYTES_MAX)
        .serve_connection(
            TokioIo::new(stream),
            TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer)))),
        )
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::AddrInUse {
        let message = format!(
            "--listen {address} is in use by another process: stop that, or choose another port \
             (0 takes a free one)"
        );
        Error::new(ErrorCode::AddressInUse, message)
    } else {
        Error::new(
            ErrorCode::InvalidConfig,
            format!("cannot listen on {address}: {error}"),
        )
    }
}

pub(crate) fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

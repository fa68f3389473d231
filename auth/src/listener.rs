//! Accepts connections, each within its limits, and ends them without cutting an answer off.
//!
//! | limit | from | to |
//! |---|---|---|
//! | [`HEADER_TIMEOUT`] | a connection's start, or an answer | the end of the next request's header |
//! | [`Config::request_timeout`](crate::Config::request_timeout) | that | the answer, the body having come |
//! | [`CONNECTION_AGE_MAX`] | a connection's start | the answer that closes it |
//! | [`CONNECTION_LIFE_MAX`] | a connection's start | its end, even if an answer is not taken |

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request};
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::app::App;
use crate::metrics::{CONNECTIONS, CONNECTIONS_REFUSED};
use crate::rate::bucket_of;
use crate::{BODY_BYTES_MAX, CONNECTIONS_MAX};

/// It frees the place of a connection that says nothing, or says it a byte at a time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests on a connection of this age are its last ones.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(120);
/// Room for the last request, and for an answer on a slow line.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(180);
/// How long requests under way may take to end after the stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: the usual cause is that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopped`, or its sender is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    per_address_max: usize,
    mut stopped: oneshot::Receiver<()>,
) {
    let router = router.layer(middleware::from_fn(close_when_old));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let crowd = Arc::new(Crowd::new(per_address_max, app.trusted_proxies.clone()));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        app.metrics.gauge(CONNECTIONS, connections.len());
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = &mut stopped => break,
        };
        let Some((stream, peer, place)) = accepted else {
            break;
        };
        let Some(seat) = crowd.enter(peer.ip()) else {
            app.metrics.count(CONNECTIONS_REFUSED);
            continue;
        };
        let connection = graceful.watch(connection(stream, peer, router.clone()));
        connections.spawn(async move {
            match tokio::time::timeout(CONNECTION_LIFE_MAX, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(%peer, error = %e, "connection failed"),
                Err(_) => tracing::debug!(%peer, "cut off a connection that took no answer"),
            }
            drop((place, seat));
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

/// When a connection was accepted.
#[derive(Clone, Copy)]
struct Since(Instant);

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    // An answer is one small write; waiting to fill a packet would only delay it. Where the option
    // cannot be set the answer is slower, no more.
    let _ = stream.set_nodelay(true);
    let router = router
        .layer(Extension(ConnectInfo(peer)))
        .layer(Extension(Since(Instant::now())));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(2 * BODY_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

/// Lets nobody keep a place for ever.
async fn close_when_old(
    Extension(Since(since)): Extension<Since>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if since.elapsed() > CONNECTION_AGE_MAX {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Who is connected how often: nobody takes the places of all others. Trusted proxies speak for many,
/// and on loopback whole fleets of bots share an address.
#[derive(Debug)]
struct Crowd {
    per_address_max: usize,
    exempt: Vec<IpAddr>,
    /// At most [`CONNECTIONS_MAX`] entries: one per connection.
    seats: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address.
#[derive(Debug)]
struct Seat {
    crowd: Arc<Crowd>,
    /// `None` where connections are not counted.
    address: Option<IpAddr>,
}

impl Crowd {
    fn new(per_address_max: usize, trusted_proxies: Vec<IpAddr>) -> Self {
        Self {
            per_address_max,
            exempt: trusted_proxies,
            seats: Mutex::default(),
        }
    }

    fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let peer = peer.to_canonical();
        let counted = !self.exempt.contains(&peer) && !peer.is_loopback();
        let address = counted.then(|| bucket_of(peer));
        if let Some(address) = address {
            let mut seats = self.seats();
            let taken = seats.entry(address).or_default();
            if *taken >= self.per_address_max {
                return None;
            }
            *taken += 1;
        }
        Some(Seat {
            crowd: Arc::clone(self),
            address,
        })
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut seats = self.crowd.seats();
        if let Some(taken) = seats.get_mut(&address) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_others_have_theirs() {
        let crowd = crowd();
        let seats: Vec<_> = (0..2).map_while(|_| crowd.enter(ip("192.0.2.1"))).collect();
        assert_eq!(seats.len(), 2);
        assert!(crowd.enter(ip("192.0.2.1")).is_none());
        assert!(crowd.enter(ip("::ffff:192.0.2.1")).is_none());
        assert!(crowd.enter(ip("192.0.2.2")).is_some());
        drop(seats);
        assert!(crowd.enter(ip("192.0.2.1")).is_some());
        assert!(crowd.seats().is_empty(), "nothing is left behind");
    }

    #[test]
    fn proxies_and_loopback_are_not_counted() {
        let crowd = crowd();
        for address in ["10.0.0.1", "127.0.0.1", "::1"] {
            let seats: Vec<_> = (0..100).map_while(|_| crowd.enter(ip(address))).collect();
            assert_eq!(seats.len(), 100, "{address}");
        }
    }

    fn crowd() -> Arc<Crowd> {
        Arc::new(Crowd::new(2, vec![ip("10.0.0.1")]))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }
}

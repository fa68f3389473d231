//! The service as a whole: binds, starts its tasks, and stops them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use dreamcatcher_proto::token::KeySet;
use dreamcatcher_proto::{Error, ErrorCode};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::clock::unix_now_s;
use crate::tasks::AbortOnDrop;
use crate::{Config, KEY_ROTATE_EVERY_MIN, admin, api, listener, upkeep};

/// What [`Auth::jwks`] says before there are keys.
const NO_KEYS: &str = r#"{"keys":[]}"#;

/// The running service. Dropping it stops it too, without waiting for the end.
#[derive(Debug)]
pub struct Auth {
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    app: Arc<App>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _upkeep: [AbortOnDrop; 2],
    _admin: Option<AbortOnDrop>,
}

impl Auth {
    /// Binds, reaches for the store, makes signing keys if it has none, and serves.
    ///
    /// A store that is away does not stop it: it goes on trying, `/readyz` names the cause, and
    /// whoever signs in is told to try again. `AddressInUse` names the address, `InvalidConfig` what
    /// else cannot be used: among others a store that nobody has migrated.
    pub async fn start(config: Config) -> Result<Self, Error> {
        if config.key_rotate_every < KEY_ROTATE_EVERY_MIN {
            let message = format!(
                "key_rotate_every {:?} must be at least {KEY_ROTATE_EVERY_MIN:?}: tokens would \
                 outlive the keys that check them",
                config.key_rotate_every
            );
            return Err(Error::new(ErrorCode::InvalidConfig, message));
        }
        let (listener, local_addr) = bind("--listen", config.listen).await?;
        let admin = match config.admin {
            Some(address) => Some(bind("--admin", address).await?),
            None => None,
        };
        let app = App::new(&config)?;
        match upkeep::look(&app).await {
            Err(error) if !error.is_retryable() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let router = api::router(Arc::clone(&app))?;
        let upkeep = [
            AbortOnDrop::spawn(upkeep::keep_keys(Arc::clone(&app))),
            AbortOnDrop::spawn(upkeep::publish_keys(Arc::clone(&app), config.directory)),
        ];
        let (stop, stopped) = oneshot::channel();
        let per_address_max = config.connections_per_address;
        let served = listener::serve(listener, Arc::clone(&app), router, per_address_max, stopped);
        let task = tokio::spawn(served);
        tracing::info!(address = %local_addr, "auth is listening");
        let admin_addr = admin.as_ref().map(|(_, address)| *address);
        let admin =
            admin.map(|(listener, _)| AbortOnDrop::spawn(admin::serve(listener, Arc::clone(&app))));
        Ok(Self {
            local_addr,
            admin_addr,
            app,
            stop,
            task,
            _upkeep: upkeep,
            _admin: admin,
        })
    }

    /// The address that it listens on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where it serves its operator's pages, if it does.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The JWKS document that it serves now. It has no keys until the store was reached, which a
    /// store on this machine was by the start.
    #[must_use]
    pub fn jwks(&self) -> String {
        let keys = self.app.keyring.now();
        keys.map_or_else(|| NO_KEYS.to_owned(), |keys| keys.jwks().to_owned())
    }

    /// The public keys and each change of them, for relays in the same process.
    #[must_use]
    pub fn key_updates(&self) -> watch::Receiver<Arc<KeySet>> {
        self.app.keyring.verifying()
    }

    /// Rotates the signing keys now: the next one signs, the current one checks what it signed, and
    /// a new next one is published. What the previous one signed is no longer good, so wait 20
    /// minutes between two rotations, unless a key is no longer secret.
    pub async fn rotate_keys(&self) -> Result<(), Error> {
        let now_unix_s = unix_now_s();
        self.app
            .look_at_keys(Some(now_unix_s.saturating_add(1)), now_unix_s)
            .await
    }

    /// Returns once `GET /v1/relays` lists at least this many nodes.
    pub async fn relays_listed(&self, count: usize) {
        self.app.relays.at_least(count).await;
    }

    /// Accepts nothing more, ends the requests under way, and closes the store.
    pub async fn shutdown(self) {
        drop(self.stop);
        if let Err(e) = self.task.await {
            tracing::error!(error = %e, "auth did not stop cleanly");
        }
        drop(self._upkeep);
        self.app.close().await;
        tracing::info!("auth has stopped");
    }
}

/// Listens on `address`, which `option` gave.
async fn bind(option: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |e: io::Error| {
        if e.kind() == io::ErrorKind::AddrInUse {
            let message = format!(
                "{option} {address} is in use by another process: stop that, or choose another \
                 port (0 takes a free one)"
            );
            Error::new(ErrorCode::AddressInUse, message)
        } else {
            let message = format!("cannot listen on {option} {address}: {e}");
            Error::new(ErrorCode::InvalidConfig, message)
        }
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    Ok((listener, local_addr))
}

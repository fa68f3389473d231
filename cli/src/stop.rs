//! When to stop: Ctrl-C or SIGTERM.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Failure;

/// Tells every part of the process that it is time to stop. Clones hear the same.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens to the signals from here on. Must be called within a tokio runtime.
    pub(crate) fn on_signal() -> Result<Self, Failure> {
        let handler = |kind| {
            signal(kind).map_err(|e| Failure::Failed(format!("cannot listen to signals: {e}")))
        };
        let (mut interrupt, mut terminate) = (
            handler(SignalKind::interrupt())?,
            handler(SignalKind::terminate())?,
        );
        let (told, stop) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Fails only when nobody waits any more.
            let _ = told.send(true);
        });
        Ok(Self(stop))
    }

    /// Returns when a signal came. Cancel-safe.
    pub(crate) async fn requested(&mut self) {
        // An error means that the runtime, and the task with it, is going down.
        let _ = self.0.wait_for(|&stop| stop).await;
    }
}

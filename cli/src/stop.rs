//! When to stop: Ctrl-C, SIGTERM, or SIGHUP, unless that is ignored as `nohup` has it.
//!
//! The first signal asks for a graceful end. A second one, Ctrl-C or SIGTERM, ends that at once.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::Failure;

/// Signals that come so soon after the first are the same wish: who ends a group of processes, as
/// `timeout` does, may reach each of them twice.
const SAME_WISH: Duration = Duration::from_millis(250);

/// Tells every part of the process that it is time to stop. Clones hear the same.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<Wish>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    GoOn,
    Stop,
    StopAtOnce,
}

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
        let mut hangup = if ignores_hangup() {
            None
        } else {
            Some(handler(SignalKind::hangup())?)
        };
        let (told, stop) = watch::channel(Wish::GoOn);
        tokio::spawn(async move {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hung_up => {}
            }
            // Each fails only when nobody waits any more.
            let _ = told.send(Wish::Stop);
            let first = Instant::now();
            while first.elapsed() < SAME_WISH {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            let _ = told.send(Wish::StopAtOnce);
        });
        Ok(Self(stop))
    }

    /// Returns when a signal came. Cancel-safe.
    pub(crate) async fn requested(&mut self) {
        self.wished(Wish::Stop).await;
    }

    /// Lets `stopping` come to its end, unless a second signal does not wait for that.
    pub(crate) async fn let_end(&mut self, stopping: impl Future<Output = ()>) {
        tokio::select! {
            () = stopping => {}
            () = self.wished(Wish::StopAtOnce) => {
                tracing::warn!("a second signal: stopped at once, and nobody was told");
            }
        }
    }

    async fn wished(&mut self, least: Wish) {
        // An error means that the runtime, and the task with it, is going down.
        let _ = self.0.wait_for(|&wish| wish >= least).await;
    }
}

/// Whether whoever started the process has it ignore SIGHUP: to listen would undo that.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal n is bit n - 1, and SIGHUP is 1.
    mask.is_some_and(|mask| mask & 1 == 1)
}

//! What the service does without being asked: it reaches the store, rotates the keys, and keeps their
//! public halves in the directory.
//!
//! ```text
//!  store ──keys, each minute──▶ Keyring ──change, each minute, lost hints──▶ directory
//!                                  └──▶ /.well-known/jwks.json
//! ```

use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_directory::{Directory, Hint, Reply, Request};
use dreamcatcher_proto::Error;

use crate::app::App;
use crate::clock::unix_now_s;
use crate::metrics;

/// How often the keys are looked at: another process may have rotated them, or it is time to.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pauses between attempts to reach the store, doubling.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often the keys are written to the directory, which may have lost them.
const PUBLISH_EVERY: Duration = Duration::from_secs(60);
/// Pause after the directory did not take them.
const PUBLISH_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long the directory may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks at the keys until it is aborted.
pub(crate) async fn keep_keys(app: Arc<App>) {
    let mut pause = PAUSE_MIN;
    loop {
        if let Err(error) = look(&app).await {
            // That the store is away was said already.
            tracing::debug!(%error, "cannot look at the keys");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        } else {
            pause = PAUSE_MIN;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Reads the keys, rotated if it is time to.
pub(crate) async fn look(app: &App) -> Result<(), Error> {
    let now_unix_s = unix_now_s();
    let due = now_unix_s.saturating_sub(app.key_rotate_every.as_secs());
    app.look_at_keys(Some(due), now_unix_s).await
}

/// Writes the keys to the directory until it is aborted, or the directory is gone.
pub(crate) async fn publish_keys(app: Arc<App>, directory: Arc<dyn Directory>) {
    let mut keys = app.keyring.watch();
    let mut hints = directory.watch();
    loop {
        let document = keys
            .borrow_and_update()
            .as_ref()
            .map(|keys| keys.jwks().to_owned());
        let mut again = PUBLISH_EVERY;
        if let Some(document) = document
            && !publish(&*directory, document).await
        {
            app.metrics.count(metrics::KEYS_UNPUBLISHED);
            again = PUBLISH_AGAIN_AFTER;
        }
        let lost_hints = async {
            while let Some(hint) = hints.next().await {
                if matches!(hint, Hint::Missed(_)) {
                    return;
                }
            }
            // Gone: nobody can be told of anything any more.
            std::future::pending().await
        };
        tokio::select! {
            changed = keys.changed() => if changed.is_err() { return },
            () = lost_hints => {}
            () = tokio::time::sleep(again) => {}
        }
    }
}

async fn publish(directory: &dyn Directory, document: String) -> bool {
    let call = directory.call(Request::PublishKeys(document));
    let cause = match tokio::time::timeout(PUBLISH_TIMEOUT, call).await {
        Ok(Ok(Reply::Done)) => return true,
        Ok(Ok(reply)) => format!("the directory answered {reply:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {PUBLISH_TIMEOUT:?}"),
    };
    tracing::warn!(
        cause,
        "the keys are not in the directory; relays read them here meanwhile"
    );
    false
}

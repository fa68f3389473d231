//! Keeps a client signed in, and its list of relays fresh.
//!
//! ```text
//!             ┌─ 2/3 of the token's life ─▶ POST /v1/refresh ─▶ set_token ──▶ Core
//!   Renewer ──┤                                   └─▶ Credentials, for the game to keep
//!  (a thread) └─ each 60 s ─▶ GET /v1/relays ─▶ set_relays ─▶ Core
//! ```
//!
//! Relays check a token when a client connects, and never again: a session that runs does not notice
//! that the auth service is away, only a reconnect after the token's end would.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dreamcatcher_proto::{Error, ErrorCode};
use tokio::sync::watch;

use crate::auth::{self, AuthError, Credentials};
use crate::client::{Client, ConnectOptions};
use crate::core::RelayAddress;
use crate::worker::Slot;

/// A token is renewed after this share of its life: a third is left for an auth service that is away.
const RENEW_AT: f64 = 2.0 / 3.0;
/// Or so much sooner, by chance: those who signed in together do not come back together.
const RENEW_JITTER: f64 = 0.1;
/// How often the list of relays is read: relays come and go within minutes.
const RELAYS_EVERY: Duration = Duration::from_secs(60);
/// How often it is seen whether something is due: a machine that wakes up is behind by that much.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After the first failure; doubled by each.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Who is kept signed in.
pub(crate) trait Renewed: Send + Sync {
    fn set_token(&self, token: String);
    fn set_relays(&self, relays: Vec<RelayAddress>);
}

impl Renewed for Slot {
    fn set_token(&self, token: String) {
        self.core().set_token(token);
    }

    fn set_relays(&self, relays: Vec<RelayAddress>) {
        if let Err(error) = Slot::set_relays(self, relays) {
            tracing::warn!(%error, "the new list of relays is not used");
        }
    }
}

/// A thread that ends when this is dropped, or at the end of the call to the auth service that it is
/// in, 10 s later at most.
pub(crate) struct Renewer {
    stop: Arc<Stop>,
    news: watch::Receiver<News>,
    /// The same, as far as the game has waited for it.
    seen: tokio::sync::Mutex<watch::Receiver<News>>,
}

/// What the game can learn.
#[derive(Clone)]
struct News {
    credentials: Credentials,
    /// Why there will be no new token any more.
    failure: Option<Error>,
}

#[derive(Default)]
struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn asked(&self) -> MutexGuard<'_, bool> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, or until it is asked for; whether it was.
    fn wait(&self, time: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.asked(), time, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl fmt::Debug for Renewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewer").finish_non_exhaustive()
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        *self.stop.asked() = true;
        self.stop.changed.notify_all();
    }
}

impl Renewer {
    /// Begins to renew, at once if the credentials were never used.
    pub(crate) fn start<C: Renewed + 'static>(
        credentials: Credentials,
        client: &Arc<C>,
    ) -> Result<Self, Error> {
        let news = News {
            credentials: credentials.clone(),
            failure: None,
        };
        let (tell, news) = watch::channel(news);
        let stop = Arc::<Stop>::default();
        let client: Weak<C> = Arc::downgrade(client);
        let renewal = Renewal {
            stop: Arc::clone(&stop),
            client,
            tell,
            credentials,
            renew_at: RENEW_AT - RENEW_JITTER * chance(),
            retry: None,
            relays_due: Instant::now() + jittered(RELAYS_EVERY),
        };
        std::thread::Builder::new()
            .name("dreamcatcher-renew".to_owned())
            .spawn(move || renewal.run())
            .map_err(|e| Error::new(ErrorCode::Internal, format!("the renewing thread: {e}")))?;
        Ok(Self {
            stop,
            seen: tokio::sync::Mutex::new(news.clone()),
            news,
        })
    }

    fn credentials(&self) -> Credentials {
        self.news.borrow().credentials.clone()
    }

    async fn changed(&self) -> Result<Credentials, Error> {
        let mut seen = self.seen.lock().await;
        // The news of a failure are the last.
        if seen.borrow().failure.is_none() && seen.changed().await.is_err() {
            return Err(Error::new(
                ErrorCode::Internal,
                "the renewing thread has ended",
            ));
        }
        let news = seen.borrow_and_update().clone();
        news.failure.map_or(Ok(news.credentials), Err)
    }
}

/// The thread.
struct Renewal<C> {
    stop: Arc<Stop>,
    client: Weak<C>,
    tell: watch::Sender<News>,
    credentials: Credentials,
    /// The share of the token's life after which it is renewed.
    renew_at: f64,
    /// After a failure: the pause, and when it is over.
    retry: Option<(Duration, Instant)>,
    relays_due: Instant,
}

impl<C: Renewed> Renewal<C> {
    fn run(mut self) {
        while self.client.strong_count() > 0 {
            if self.is_renewal_due() {
                self.renew();
            }
            if self.relays_due <= Instant::now() {
                self.read_relays();
            }
            if self.stop.wait(LOOK_EVERY) {
                return;
            }
        }
    }

    fn is_renewal_due(&self) -> bool {
        let failed_for_good = self.tell.borrow().failure.is_some();
        let life_says = self
            .credentials
            .life()
            .is_none_or(|life| life.is_past(self.renew_at));
        let pause_is_over = self.retry.is_none_or(|(_, until)| until <= Instant::now());
        !failed_for_good && life_says && pause_is_over
    }

    fn renew(&mut self) {
        match self.credentials.sign_in_now() {
            Ok((sign_in, credentials)) => {
                self.credentials = credentials.clone();
                self.renew_at = RENEW_AT - RENEW_JITTER * chance();
                // Even a token that is dead on arrival is not renewed in a loop.
                self.retry = Some((Duration::ZERO, Instant::now() + RETRY_MIN));
                // The game first: if it ends now, it has what to come back with.
                self.tell.send_replace(News {
                    credentials,
                    failure: None,
                });
                // Not held through a call: the client ends when the game lets it go.
                if let Some(client) = self.client.upgrade() {
                    client.set_token(sign_in.token);
                }
                tracing::debug!(user_id = %sign_in.user_id, "access token renewed");
            }
            Err(error) if is_for_good(&error) => {
                tracing::warn!(%error, "the player has to sign in again");
                self.tell
                    .send_modify(|news| news.failure = Some(error.into()));
            }
            Err(error) => {
                let doubled = self.retry.map_or(RETRY_MIN, |(pause, _)| pause * 2);
                let pause = doubled.clamp(RETRY_MIN, RETRY_MAX);
                let wait = jittered(pause).max(error.retry_after().unwrap_or_default());
                self.retry = Some((pause, Instant::now() + wait));
                tracing::debug!(%error, ?wait, "access token not renewed");
            }
        }
    }

    fn read_relays(&mut self) {
        self.relays_due = Instant::now() + jittered(RELAYS_EVERY);
        match auth::relays_now(self.credentials.auth()) {
            // The old ones are better than none.
            Ok(relays) if relays.is_empty() => {}
            Ok(relays) => {
                if let Some(client) = self.client.upgrade() {
                    client.set_relays(relays);
                }
            }
            Err(error) => tracing::debug!(%error, "the list of relays was not read"),
        }
    }
}

/// Whether only the player can do something about it.
fn is_for_good(error: &AuthError) -> bool {
    matches!(
        error.code(),
        ErrorCode::InvalidCredentials
            | ErrorCode::TokenRevoked
            | ErrorCode::AccountBanned
            | ErrorCode::SignedOut
            | ErrorCode::InvalidArgument
    )
}

/// From 0 to 1; 0 if the system gives no random bytes.
fn chance() -> f64 {
    let mut byte = [0];
    match aws_lc_rs::rand::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.0,
    }
}

/// Three quarters of it to all of it.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(1.0 - chance() / 4.0)
}

// --------------------------------------------------------------------------------- the game's side

impl ConnectOptions {
    /// Signs in as a new guest and reads the relay list. The guest's secret is in the credentials: a
    /// game that keeps [`Client::credentials`] meets its guests again by [`Self::with`].
    ///
    /// # Errors
    /// As [`auth::guest`] and [`auth::relays`].
    pub async fn guest(auth: &(impl auth::ToAuthUrl + ?Sized), name: &str) -> Result<Self, Error> {
        let secret = auth::new_secret()?;
        let credentials = Credentials::guest(auth, &secret)?;
        let sign_in = auth::guest(auth, &secret, name).await?;
        Self::signed_in(&credentials, sign_in).await
    }

    /// Signs in to an account, by username or e-mail address, and reads the relay list.
    ///
    /// # Errors
    /// As [`auth::login`] and [`auth::relays`].
    pub async fn account(
        auth: &(impl auth::ToAuthUrl + ?Sized),
        login: &str,
        password: &str,
    ) -> Result<Self, Error> {
        let sign_in = auth::login(auth, login, password).await?;
        Self::of(auth, sign_in).await
    }

    /// Goes on from a sign-in that was just made, such as by [`auth::register`], and reads the relay
    /// list. Without a refresh token in it, nothing is renewed.
    ///
    /// # Errors
    /// As [`auth::relays`].
    pub async fn of(
        auth: &(impl auth::ToAuthUrl + ?Sized),
        sign_in: auth::SignIn,
    ) -> Result<Self, Error> {
        match sign_in.refresh_token.clone() {
            Some(token) => Self::signed_in(&Credentials::account(auth, token)?, sign_in).await,
            None => Ok(Self {
                relays: auth::relays(auth).await?,
                token: sign_in.token,
                auth_url: Some(auth.to_auth_url()?),
                ..Self::default()
            }),
        }
    }

    /// Signs in by what a former run of the game kept, and reads the relay list.
    ///
    /// ```no_run
    /// use dreamcatcher_client::auth::Credentials;
    /// use dreamcatcher_client::{Client, ConnectOptions, Error};
    ///
    /// # async fn play(file: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// let kept: Credentials = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    /// let client = Client::connect(ConnectOptions::with(&kept).await?).await?;
    /// // Refresh tokens change: keep the present one, now and whenever it does.
    /// loop {
    ///     let kept = client.credentials();
    ///     std::fs::write(file, serde_json::to_string(&kept)?)?; // where only the player can read it
    ///     client.credentials_changed().await?;
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Credentials::sign_in`] and [`auth::relays`].
    pub async fn with(credentials: &Credentials) -> Result<Self, Error> {
        let (sign_in, credentials) = credentials.sign_in().await?;
        Ok(Self {
            relays: auth::relays(credentials.auth()).await?,
            token: sign_in.token,
            credentials: Some(credentials),
            ..Self::default()
        })
    }

    async fn signed_in(credentials: &Credentials, sign_in: auth::SignIn) -> Result<Self, Error> {
        let (sign_in, credentials) = credentials.rotated(sign_in);
        Ok(Self {
            relays: auth::relays(credentials.auth()).await?,
            token: sign_in.token,
            credentials: Some(credentials),
            ..Self::default()
        })
    }
}

impl Client {
    /// What to keep for the next start of the game, as it is now: with
    /// [`ConnectOptions::with`] the player is signed in again without a password. `None` if the client
    /// was connected without credentials.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        self.renewer.as_ref().map(Renewer::credentials)
    }

    /// Waits until the credentials are others than at the last call, and gives them. It can be
    /// cancelled without missing a change.
    ///
    /// # Errors
    /// `SignedOut`, `AccountBanned`, …: no new token will come, the player has to sign in again. The
    /// session goes on as long as its relay does. `InvalidState` if the client was connected without
    /// credentials.
    pub async fn credentials_changed(&self) -> Result<Credentials, Error> {
        let Some(renewer) = &self.renewer else {
            let message = "the client was connected without credentials";
            return Err(Error::new(ErrorCode::InvalidState, message));
        };
        renewer.changed().await
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::auth::RefreshToken;
    use crate::auth::stub::{Stub, json, refused, signed_in};
    use crate::block_on;

    #[test]
    fn a_token_is_renewed_before_it_expires_and_the_refresh_token_changes_each_time() {
        let count = AtomicU64::new(1);
        let stub = Stub::http(move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            signed_in(
                &format!("t-{number}"),
                1,
                Some(&format!("r-{}", number + 1)),
            )
        });
        let client = Arc::new(Fake::default());
        let renewer = Renewer::start(account(&stub, "r-1"), &client).unwrap();
        for round in 1..=3 {
            let request = stub.wait_for("POST /v1/refresh", round - 1);
            assert!(request.contains(&format!("\"r-{round}\"")), "{request}");
            client.wait_for(&format!("t-{round}"));
        }
        drop(renewer);
    }

    #[test]
    fn the_game_learns_of_new_credentials_before_they_are_used() {
        let stub = Stub::http(|_| signed_in("t-1", 900, Some("r-2")));
        let client = Arc::new(Fake::default());
        let renewer = Renewer::start(account(&stub, "r-1"), &client).unwrap();
        let changed = block_on(renewer.changed()).unwrap();
        assert_eq!(changed, account(&stub, "r-2"));
        assert_eq!(renewer.credentials(), changed);
        client.wait_for("t-1");
        assert_eq!(stub.asked().len(), 1, "it is good for 900 s");
    }

    #[test]
    fn what_only_the_player_can_mend_is_told_and_not_tried_again() {
        let stub = Stub::http(|_| refused("401 No", 308, "used before"));
        let client = Arc::new(Fake::default());
        let renewer = Renewer::start(account(&stub, "r-1"), &client).unwrap();
        for _ in 0..2 {
            let error = block_on(renewer.changed()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::SignedOut);
        }
        assert_eq!(renewer.credentials(), account(&stub, "r-1"));
        assert_eq!(*client.tokens.lock().unwrap(), [""; 0]);
    }

    #[test]
    fn an_auth_service_that_is_away_is_asked_again_until_it_is_back() {
        let count = AtomicU64::new(0);
        let stub = Stub::http(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => "HTTP/1.1 502 Bad Gateway\r\n\r\n".to_owned(),
            1 => refused("503 No", 902, "no store"),
            _ => signed_in("t-1", 900, Some("r-2")),
        });
        let client = Arc::new(Fake::default());
        let _renewer = Renewer::start(account(&stub, "r-1"), &client).unwrap();
        client.wait_for("t-1");
        assert_eq!(stub.asked().len(), 3);
    }

    #[test]
    fn a_guest_without_a_refresh_token_is_signed_in_by_its_secret() {
        let stub = Stub::http(|_| signed_in("t-1", 900, None));
        let client = Arc::new(Fake::default());
        let guest = Credentials::guest(&stub.url(), "a-secret").unwrap();
        let _renewer = Renewer::start(guest, &client).unwrap();
        client.wait_for("t-1");
        assert!(stub.asked()[0].starts_with("POST /v1/guest "));
    }

    #[test]
    fn the_thread_ends_with_its_holder_and_with_its_client() {
        let stub = Stub::http(|_| signed_in("t", 900, Some("r")));
        for holder_goes_first in [true, false] {
            let client = Arc::new(Fake::default());
            let renewer = Renewer::start(account(&stub, "r"), &client).unwrap();
            let stop = Arc::downgrade(&renewer.stop);
            client.wait_for("t");
            let mut news = renewer.news.clone();
            if holder_goes_first {
                drop((renewer, client));
                // The thread held the only sender.
                block_on(async { while news.changed().await.is_ok() {} });
                assert!(stop.strong_count() == 0);
            } else {
                drop(client);
                block_on(async { while news.changed().await.is_ok() {} });
                drop(renewer);
            }
        }
    }

    #[test]
    fn options_of_a_guest_hold_what_it_takes_to_meet_it_again() {
        let stub = Stub::http(|request| match request.starts_with("GET /v1/relays") {
            true => json("200 OK", &serde_json::json!({ "relays": [] })),
            false => signed_in("t-1", 900, Some("r-1")),
        });
        let options = block_on(ConnectOptions::guest(&stub.url(), "Ann")).unwrap();
        let kept = options.credentials.unwrap();
        assert_eq!(options.token, "t-1");
        assert!(stub.asked()[0].contains(kept.guest_secret().unwrap()));
        assert_eq!(kept.refresh_token().unwrap().expose(), "r-1");
        let again = block_on(ConnectOptions::with(&kept)).unwrap();
        assert!(stub.asked()[2].starts_with("POST /v1/refresh "));
        assert_eq!(again.credentials.unwrap(), kept);
        let account = block_on(ConnectOptions::account(&stub.url(), "ann", "pass")).unwrap();
        let kept = account.credentials.unwrap();
        assert_eq!((kept.guest_secret(), kept.life().is_some()), (None, true));
    }

    /// What a client was told.
    #[derive(Default)]
    struct Fake {
        tokens: Mutex<Vec<String>>,
        more: Condvar,
    }

    impl Renewed for Fake {
        fn set_token(&self, token: String) {
            self.tokens.lock().unwrap().push(token);
            self.more.notify_all();
        }

        fn set_relays(&self, _: Vec<RelayAddress>) {}
    }

    impl Fake {
        fn wait_for(&self, token: &str) {
            let missing = |tokens: &mut Vec<String>| !tokens.iter().any(|known| known == token);
            let tokens = self.tokens.lock().unwrap();
            let patience = Duration::from_secs(20);
            let waited = self.more.wait_timeout_while(tokens, patience, missing);
            let (tokens, result) = waited.unwrap();
            assert!(!result.timed_out(), "{token} did not come: {tokens:?}");
        }
    }

    fn account(stub: &Stub, refresh_token: &str) -> Credentials {
        Credentials::account(&stub.url(), RefreshToken::from(refresh_token.to_owned())).unwrap()
    }
}

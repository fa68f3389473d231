//! What a player proves to be itself with, from one start of the game to the next.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use dreamcatcher_proto::Error;
use serde::{Deserialize, Serialize};

use super::error::AuthError;
use super::url::{AuthUrl, ToAuthUrl};
use super::{SignIn, ask};

/// Good for one new access token, and for the refresh token that takes its place. Whoever holds it is
/// the user: it is neither printed nor logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefreshToken(String);

impl RefreshToken {
    /// The token itself, to be kept where only the player can read it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for RefreshToken {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

/// What it takes to get access tokens without asking the player: the auth service's address with a
/// guest's secret, a refresh token, or both.
///
/// It is JSON by serde, for a file that only the player can read. Refresh tokens change at each use:
/// keep what [`Client::credentials`](crate::Client::credentials) has to say.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    auth: AuthUrl,
    #[serde(flatten)]
    proof: Proof,
    /// Of the access token that came with them.
    #[serde(skip)]
    life: Option<Life>,
}

/// The same user in the same way, at whatever time.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.auth == other.auth && self.proof == other.proof
    }
}

impl Eq for Credentials {}

/// When an access token was issued, by both clocks: one stands still while the machine sleeps, the
/// other may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    begun: Instant,
    begun_wall: SystemTime,
    lasts: Duration,
}

impl Life {
    pub(crate) fn begin(lasts: Duration) -> Self {
        Self {
            begun: Instant::now(),
            begun_wall: SystemTime::now(),
            lasts,
        }
    }

    /// Whether `share` of it, from 0 to 1, is over.
    pub(crate) fn is_past(&self, share: f64) -> bool {
        let then = self.lasts.mul_f64(share);
        let by_wall = self.begun_wall.elapsed().unwrap_or_default();
        self.begun.elapsed().max(by_wall) >= then
    }
}

/// At least one of the two.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Proof {
    Guest {
        guest_secret: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh_token: Option<RefreshToken>,
    },
    Account {
        refresh_token: RefreshToken,
    },
}

impl Credentials {
    /// Those of the guest who holds `secret`: see [`new_secret`](super::new_secret).
    ///
    /// # Errors
    /// `InvalidArgument` for what is no address of an auth service.
    pub fn guest(auth: &(impl ToAuthUrl + ?Sized), secret: &str) -> Result<Self, Error> {
        Ok(Self {
            auth: auth.to_auth_url()?,
            proof: Proof::Guest {
                guest_secret: secret.to_owned(),
                refresh_token: None,
            },
            life: None,
        })
    }

    /// Those of whoever was given this refresh token: see [`SignIn::refresh_token`].
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub fn account(
        auth: &(impl ToAuthUrl + ?Sized),
        refresh_token: RefreshToken,
    ) -> Result<Self, Error> {
        Ok(Self {
            auth: auth.to_auth_url()?,
            proof: Proof::Account { refresh_token },
            life: None,
        })
    }

    #[must_use]
    pub fn auth(&self) -> &AuthUrl {
        &self.auth
    }

    /// What makes its holder this guest; an account has none.
    #[must_use]
    pub fn guest_secret(&self) -> Option<&str> {
        match &self.proof {
            Proof::Guest { guest_secret, .. } => Some(guest_secret),
            Proof::Account { .. } => None,
        }
    }

    #[must_use]
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        match &self.proof {
            Proof::Guest { refresh_token, .. } => refresh_token.as_ref(),
            Proof::Account { refresh_token } => Some(refresh_token),
        }
    }

    /// Signs in by them: by the refresh token, or by the guest's secret where there is no token or it
    /// is refused. The credentials to keep from now on come with it.
    ///
    /// # Errors
    /// As [`refresh`](super::refresh). `SignedOut` means that the player has to log in again.
    pub async fn sign_in(&self) -> Result<(SignIn, Self), AuthError> {
        let credentials = self.clone();
        super::on_a_thread(move || credentials.sign_in_now()).await
    }

    /// [`Self::sign_in`], on this thread.
    pub(crate) fn sign_in_now(&self) -> Result<(SignIn, Self), AuthError> {
        let refresh = |token| ask(&self.auth, &super::refresh_request(token));
        let sign_in = match &self.proof {
            Proof::Account { refresh_token } => refresh(refresh_token),
            Proof::Guest {
                guest_secret,
                refresh_token,
            } => match refresh_token.as_ref().map(refresh) {
                Some(Ok(sign_in)) => Ok(sign_in),
                Some(Err(error)) if error.is_retryable() => Err(error),
                Some(Err(_)) | None => ask(&self.auth, &super::guest_request(guest_secret, None)),
            },
        };
        sign_in.map(|sign_in| self.rotated(sign_in))
    }

    /// With the refresh token of `sign_in`, in place of the one that is used up.
    pub(crate) fn rotated(&self, sign_in: SignIn) -> (SignIn, Self) {
        let new = sign_in.refresh_token.clone();
        let proof = match &self.proof {
            Proof::Guest { guest_secret, .. } => Proof::Guest {
                guest_secret: guest_secret.clone(),
                refresh_token: new,
            },
            Proof::Account { refresh_token } => Proof::Account {
                refresh_token: new.unwrap_or_else(|| refresh_token.clone()),
            },
        };
        let new = Self {
            auth: self.auth.clone(),
            proof,
            life: Some(Life::begin(sign_in.expires_in)),
        };
        (sign_in, new)
    }

    /// `None` if they were never used.
    pub(crate) fn life(&self) -> Option<Life> {
        self.life
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.proof {
            Proof::Guest { .. } => "guest",
            Proof::Account { .. } => "account",
        };
        write!(f, "Credentials({kind}, {:?})", self.auth)
    }
}

//! Accounts: a username, perhaps an e-mail address, and a password.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode};
use serde::Deserialize;
use utoipa::ToSchema;

use super::parts::{BodyRefused, Caller, Failed, Limited, MaybeSignedIn, SignIn, user_gone};
use crate::account::{Email, Login, Password, PasswordHash, Username};
use crate::app::App;
use crate::clock::unix_now_s;
use crate::hash::{Place, Verdict};
use crate::metrics::{LOGINS, REGISTRATIONS};
use crate::rate::bucket_of;
use crate::refusal::{ErrorBody, Refusal};
use crate::store::{Account, Attempt, AttemptKey, NewAccount, Store, User};

/// Name the purpose of a hash, so that a text and an address never share one.
const ACCOUNT_CONTEXT: &str = "dreamcatcher auth 2026 login attempts of an account";
const ADDRESS_CONTEXT: &str = "dreamcatcher auth 2026 login attempts from an address";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterRequest {
    /// Compared without regard to case.
    #[schema(min_length = 3, max_length = 32, pattern = "^[A-Za-z0-9_.-]*$")]
    username: String,
    #[schema(min_length = 10, max_length = 128, format = "password")]
    password: String,
    /// To log in with as well. Nothing is ever sent to it.
    #[schema(min_length = 6, max_length = 254, format = "email")]
    email: Option<String>,
    /// Without one a guest keeps its name, and a new user is called by its username.
    #[schema(min_length = 1, max_length = 32)]
    display_name: Option<String>,
}

/// Makes an account and signs in. With a guest's access token the guest gets the account, and keeps
/// its user id and all that belongs to it.
#[utoipa::path(post, path = "/v1/register", tag = "sign in", request_body = RegisterRequest,
    security((), ("access_token" = [])),
    responses((status = 200, body = SignIn),
        (status = 401, body = ErrorBody, description = "InvalidToken, TokenExpired or TokenRevoked: the guest's access token."),
        (status = 409, body = ErrorBody, description = "UsernameTaken: the username or e-mail address is another account's. AlreadyLinked: the user has an account."),
        BodyRefused, Limited, Failed))]
pub(super) async fn register(
    State(app): State<Arc<App>>,
    _: Caller,
    MaybeSignedIn(upgrade): MaybeSignedIn,
    request: Result<Json<RegisterRequest>, JsonRejection>,
) -> Result<Json<SignIn>, Refusal> {
    let Json(request) = request?;
    let password = Password::chosen(request.password)?;
    let username = Username::try_from(request.username)?;
    let email = request.email.map(Email::try_from).transpose()?;
    let display_name = request
        .display_name
        .map(DisplayName::try_from)
        .transpose()?;
    let place = app.hashing_place()?;
    // A hash is too dear to be made for records that are away.
    app.ask(Store::ping).await?;
    let account = NewAccount {
        username,
        email,
        password_hash: place.hash(&password).await?,
        display_name,
    };
    drop(place);
    let now_unix_s = unix_now_s();
    let registered = app.ask(|store| store.register(account, upgrade, now_unix_s));
    let user = registered.await.map_err(|error| {
        // Nobody gave a password to be wrong: it is the guest who is gone.
        if error.code() == ErrorCode::InvalidCredentials {
            user_gone()
        } else {
            error.into()
        }
    })?;
    tracing::debug!(user_id = %user.id, "user registered");
    let kind = if upgrade.is_some() { "upgrade" } else { "new" };
    app.metrics.count_by(REGISTRATIONS, "kind", kind);
    Ok(SignIn::begin(&app, user, now_unix_s).await?)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginRequest {
    /// The username or the e-mail address, without regard to case.
    #[schema(min_length = 3, max_length = 254)]
    login: String,
    #[schema(max_length = 128, format = "password")]
    password: String,
}

/// Signs in with a password. An unknown user and a wrong password are answered alike.
#[utoipa::path(post, path = "/v1/login", tag = "sign in", request_body = LoginRequest,
    responses((status = 200, body = SignIn),
        (status = 401, body = ErrorBody, description = "InvalidCredentials: the user or the password is wrong."),
        BodyRefused, Limited, Failed))]
pub(super) async fn login(
    State(app): State<Arc<App>>,
    Caller(address): Caller,
    request: Result<Json<LoginRequest>, JsonRejection>,
) -> Result<Json<SignIn>, Refusal> {
    let Json(request) = request?;
    let password = Password::claimed(request.password)?;
    let login = Login::try_from(request.login)?;
    // A full queue is no failed attempt, so it is asked first.
    let place = app.hashing_place()?;
    let now_unix_s = unix_now_s();
    let (account, address) = attempt_keys(&login, address);
    let attempt = app.ask(|store| store.begin_login(account, address, now_unix_s));
    match attempt.await? {
        Attempt::Go => {}
        Attempt::Wait(wait) => {
            app.metrics.count_by(LOGINS, "outcome", "limited");
            return Err(Refusal::login_limited(wait));
        }
    }
    let found = app.ask(|store| store.account(&login)).await?;
    let Some(user) = check(&app, &place, found, &password).await? else {
        app.metrics.count_by(LOGINS, "outcome", "wrong");
        return Err(ErrorCode::InvalidCredentials.into());
    };
    drop(place);
    app.ask(|store| store.login_succeeded(account, address))
        .await?;
    tracing::debug!(user_id = %user.id, "user logged in");
    let answer = SignIn::begin(&app, user, now_unix_s).await?;
    app.metrics.count_by(LOGINS, "outcome", "ok");
    Ok(answer)
}

/// The account's user, if the password is right. Whatever is wrong, one hash was made.
async fn check(
    app: &App,
    place: &Place<'_>,
    found: Option<Account>,
    password: &Password,
) -> Result<Option<User>, Error> {
    let (user, hash): (Option<User>, Option<PasswordHash>) = found
        .map(|account| (account.user, account.password_hash))
        .unzip();
    let verdict = place.verify(password, hash).await?;
    match (verdict, user) {
        (Verdict::Wrong, _) | (_, None) => Ok(None),
        (Verdict::Right, Some(user)) => Ok(Some(user)),
        (Verdict::Outdated, Some(user)) => {
            let (id, hash) = (user.id, place.hash(password).await?);
            app.ask(|store| store.set_password_hash(id, hash)).await?;
            Ok(Some(user))
        }
    }
}

/// What failed logins are counted under. Neither e-mail addresses nor IP addresses are in that table.
fn attempt_keys(login: &Login, address: IpAddr) -> (AttemptKey, AttemptKey) {
    let key = |context, text: String| AttemptKey(blake3::derive_key(context, text.as_bytes()));
    (
        key(ACCOUNT_CONTEXT, login.folded()),
        key(ADDRESS_CONTEXT, bucket_of(address).to_string()),
    )
}

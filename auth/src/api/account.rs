//! Accounts: a username, perhaps an e-mail address, and a password.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::Body;
use super::parts::{BodyRefused, Caller, Failed, Limited, MaybeSignedIn, SignIn, user_gone};
use crate::account::{Email, Login, Password, PasswordHash, Username};
use crate::app::App;
use crate::clock::unix_now_s;
use crate::hash::{Place, Verdict};
use crate::metrics::{LOGINS, REGISTRATIONS};
use crate::rate::bucket_of;
use crate::refusal::{ErrorBody, Refusal};
use crate::store::{Account, Attempt, AttemptKey, LoginKeys, NewAccount, Store, User};

/// Name the purpose of a hash, so that two kinds of things never share one.
const USER_CONTEXT: &str = "dreamcatcher auth 2026 login attempts of a user";
const NOBODY_CONTEXT: &str = "dreamcatcher auth 2026 login attempts of a login that is nobody's";
const ADDRESS_CONTEXT: &str = "dreamcatcher auth 2026 login attempts from an address";
const PAIR_CONTEXT: &str = "dreamcatcher auth 2026 login attempts of an account from an address";

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
    Caller(address): Caller,
    MaybeSignedIn(upgrade): MaybeSignedIn,
    Body(request): Body<RegisterRequest>,
) -> Result<Json<SignIn>, Refusal> {
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
    let (id, pair) = (user.id, pair_of(of_user(user.id), of_address(address)));
    if let Err(error) = app.ask(|store| store.know_address(id, pair)).await {
        // The account is there all the same; its first login makes the address known.
        tracing::debug!(%error, "an address is not known to its account");
    }
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
    Body(request): Body<LoginRequest>,
) -> Result<Json<SignIn>, Refusal> {
    let password = Password::claimed(request.password)?;
    let login = Login::try_from(request.login)?;
    // A full queue is no failed attempt, so it is asked first.
    let place = app.hashing_place()?;
    let now_unix_s = unix_now_s();
    let found = app.ask(|store| store.account(&login)).await?;
    let keys = login_keys(&login, found.as_ref(), address);
    let attempt = app.ask(|store| store.begin_login(keys, now_unix_s));
    match attempt.await? {
        Attempt::Go => {}
        Attempt::Wait(wait) => {
            app.metrics.count_by(LOGINS, "outcome", "limited");
            return Err(Refusal::login_limited(wait));
        }
    }
    let Some(user) = check(&app, &place, found, &password).await? else {
        app.metrics.count_by(LOGINS, "outcome", "wrong");
        return Err(ErrorCode::InvalidCredentials.into());
    };
    drop(place);
    let id = user.id;
    app.ask(|store| store.login_succeeded(id, keys)).await?;
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

/// What an attempt is counted under: the user, however it was named, or a name that is nobody's.
/// Neither names nor IP addresses are in the store.
fn login_keys(login: &Login, found: Option<&Account>, address: IpAddr) -> LoginKeys {
    let account = match found {
        Some(account) => of_user(account.user.id),
        None => key(NOBODY_CONTEXT, login.folded().as_bytes()),
    };
    let address = of_address(address);
    let pair = pair_of(account, address);
    LoginKeys {
        account,
        address,
        pair,
        known: found.is_some_and(|account| account.known_addresses.contains(pair)),
    }
}

fn of_user(id: UserId) -> AttemptKey {
    key(USER_CONTEXT, &id.0)
}

fn of_address(address: IpAddr) -> AttemptKey {
    key(ADDRESS_CONTEXT, bucket_of(address).to_string().as_bytes())
}

fn pair_of(account: AttemptKey, address: AttemptKey) -> AttemptKey {
    key(PAIR_CONTEXT, &[account.0, address.0].concat())
}

fn key(context: &str, bytes: &[u8]) -> AttemptKey {
    AttemptKey(blake3::derive_key(context, bytes))
}

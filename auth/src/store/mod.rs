//! What is kept: users, what they sign in with, how often signing in failed, and the signing keys.
//!
//! ```text
//!  requests ──▶ Store ──▶ AnyStore ─┬─▶ Sqlite    one thread, one file (or memory)
//!                                   └─▶ Postgres  a pool of connections
//! ```
//!
//! Both hold to the same rules, which `suite` states once for both. What is secret is kept as a hash
//! from which it cannot be found; only the signing keys are kept as they are.

mod any;
mod attempts;
mod keyring;
mod postgres;
mod sqlite;
#[cfg(test)]
mod suite;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode, UserId};
use refinery::Runner;
use secrecy::SecretString;

pub(crate) use any::AnyStore;

use self::attempts::{Counted, KNOWN_ADDRESSES_MAX};
use self::postgres::Postgres;
use self::sqlite::Sqlite;
use crate::account::{Email, Login, PasswordHash, Username};
use crate::guest::SecretHash;
use crate::keys::KeyRecord;
use crate::refresh::REPEATABLE_S;

/// Sign-ins that one user can have at a time, on as many devices; the longest unused one goes.
pub(crate) const FAMILIES_MAX: i64 = 32;
/// Used refresh tokens that one sign-in remembers, to notice a second use. At one use per access
/// token (15 minutes) that is more than the 30 days which a refresh token lasts.
pub(crate) const USED_TOKENS_MAX: i64 = 4_096;
/// Whoever signs in learns within a second that it has to wait.
const PATIENCE: Patience = Patience {
    call: Duration::from_millis(850),
    statement: Duration::from_millis(750),
    connect: Duration::from_millis(700),
    busy: Duration::from_millis(500),
};
/// A store is cleaned of what has expired once in this many calls that add to it …
const PRUNE_EVERY: u32 = 64;
/// … by so many rows of a table: more than were added, so that what is left behind shrinks.
const PRUNE_ROWS: i64 = 4 * PRUNE_EVERY as i64;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// From a call to its answer, with all that it takes.
    call: Duration,
    /// For the server to carry out a statement, with the locks that it waits for.
    statement: Duration,
    /// For a new connection with everything that belongs to it.
    connect: Duration,
    /// For a connection of the pool when all are in use, or a file that another process holds, such
    /// as a backup.
    busy: Duration,
}

/// Where users and signing keys are kept.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// In memory: gone with the process, users and keys alike.
    Memory,
    /// In this SQLite file, readable by its owner alone, created at the first start.
    File(PathBuf),
    /// In a Postgres database, which [`migrate`] has prepared.
    Postgres(PostgresConfig),
}

/// `memory`, `sqlite:PATH`, or a URL `postgres://…` or `postgresql://…`.
///
/// Nothing else is taken for a file: it may be a URL with a slip of the pen, and what is a file is
/// shown. The error, `InvalidConfig`, repeats nothing of the text either.
impl FromStr for StoreConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            // `sqlite://x`, or a URL after the prefix.
            let url = path.starts_with("//") || path.contains("://");
            return if path.is_empty() || url {
                Err(not_a_store())
            } else {
                Ok(Self::File(path.into()))
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let config = PostgresConfig::new(text);
            postgres::check(&config)?;
            return Ok(Self::Postgres(config));
        }
        Err(not_a_store())
    }
}

fn not_a_store() -> Error {
    Error::new(
        ErrorCode::InvalidConfig,
        "a store is `memory`, sqlite:PATH, or postgres://USER@HOST/DATABASE; what is given is none of \
         these",
    )
}

/// Which Postgres, and how to reach it.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/database`, as libpq reads it: several hosts are separated by
    /// commas, and `sslmode` is `disable`, `prefer` or `require`.
    pub url: SecretString,
    /// Over the one in the URL, if there is one.
    pub password: Option<SecretString>,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Connections at a time.
    pub connections_max: usize,
    /// Whether a connection that is not on loopback may go without TLS.
    pub insecure: bool,
}

impl PostgresConfig {
    /// The URL with 16 connections, and nothing beyond it.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.into(),
            password: None,
            ca_file: None,
            connections_max: 16,
            insecure: false,
        }
    }
}

/// What [`migrate`] has done: the schema's version before and after, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    pub from: u32,
    pub to: u32,
}

/// Brings the schema of a store up to date. Any number of processes may do so at once: one does the
/// work, the others find it done.
///
/// A SQLite file migrates itself when it is opened, so this is needed for Postgres alone. There it
/// needs a role that may create tables; docs/operations.md has the grants for the role that serves.
pub async fn migrate(config: &StoreConfig) -> Result<Migration, Error> {
    match config {
        StoreConfig::Memory => Err(Error::new(
            ErrorCode::InvalidConfig,
            "a store in memory is new at each start: there is nothing to migrate",
        )),
        StoreConfig::File(path) => sqlite::migrate(path),
        StoreConfig::Postgres(config) => postgres::migrate(config).await,
    }
}

/// Opens the store that `config` names. `InvalidConfig` says what a person has to change;
/// `StoreUnavailable` means that trying again later can succeed.
pub(crate) async fn open(config: &StoreConfig) -> Result<AnyStore, Error> {
    Ok(match config {
        StoreConfig::Memory => AnyStore::Sqlite(Sqlite::in_memory()?),
        StoreConfig::File(path) => AnyStore::Sqlite(Sqlite::open(path, PATIENCE)?),
        StoreConfig::Postgres(config) => {
            AnyStore::Postgres(Postgres::open(config, PATIENCE).await?)
        }
    })
}

/// A user's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) display_name: DisplayName,
}

/// What a user becomes who registers.
#[derive(Clone, Debug)]
pub(crate) struct NewAccount {
    pub(crate) username: Username,
    pub(crate) email: Option<Email>,
    pub(crate) password_hash: PasswordHash,
    /// `None`: the name that the user has, or else its username.
    pub(crate) display_name: Option<DisplayName>,
}

impl NewAccount {
    /// What a new user is called.
    fn first_name(&self) -> Result<DisplayName, Error> {
        match &self.display_name {
            Some(name) => Ok(name.clone()),
            None => self.username.as_str().parse(),
        }
    }
}

/// A user who can sign in with a password.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) password_hash: PasswordHash,
    pub(crate) known_addresses: KnownAddresses,
}

/// The last addresses that have signed in to an account, the latest first, each as the
/// [`LoginKeys::pair`] of the account with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownAddresses(Vec<AttemptKey>);

impl KnownAddresses {
    fn of_bytes(bytes: &[u8]) -> Self {
        let (keys, _) = bytes.as_chunks();
        Self(keys.iter().copied().map(AttemptKey).collect())
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|key| key.0).collect()
    }

    pub(crate) fn contains(&self, pair: AttemptKey) -> bool {
        self.0.contains(&pair)
    }

    /// With this one first; `None` if it is.
    fn with(&self, pair: AttemptKey) -> Option<Self> {
        if self.0.first() == Some(&pair) {
            return None;
        }
        let others = self.0.iter().copied().filter(|key| *key != pair);
        let keys = std::iter::once(pair).chain(others);
        Some(Self(keys.take(KNOWN_ADDRESSES_MAX).collect()))
    }
}

/// What a user may see of its own record. A guest has neither username nor e-mail address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) user: User,
    pub(crate) username: Option<Username>,
    pub(crate) email: Option<Email>,
    pub(crate) created_at_unix_s: u64,
}

/// What the store keeps of a refresh token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenHash(pub(crate) [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// What the store keeps of an account or an address: enough to count attempts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptKey(pub(crate) [u8; 32]);

/// What an attempt to log in is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoginKeys {
    /// The user that the login names, or else what was typed.
    pub(crate) account: AttemptKey,
    pub(crate) address: AttemptKey,
    /// Both in one: the account, salted with it, from this address.
    pub(crate) pair: AttemptKey,
    /// Whether the address has signed in to the account before.
    pub(crate) known: bool,
}

impl LoginKeys {
    /// In the order in which they are asked, and in which their rows are locked. What an account
    /// counts of strangers is not asked of an address that it knows.
    fn counted(self) -> impl Iterator<Item = (Counted, AttemptKey)> {
        let of_strangers = (!self.known).then_some((Counted::Account, self.account));
        [(Counted::Address, self.address), (Counted::Pair, self.pair)]
            .into_iter()
            .chain(of_strangers)
    }
}

impl fmt::Debug for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptKey(…)")
    }
}

/// What came of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// The new token is in force, the old one is used.
    Rotated(User),
    /// It was used before, so two hold it and one of them stole it: its sign-in is over for both.
    Reused,
    /// It has expired, its sign-in is over, or it never was.
    Unknown,
}

/// Whether a password may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Go,
    Wait(Duration),
}

/// The signing keys, from the one that is going to the one that is coming.
#[derive(Clone, Debug)]
pub(crate) struct SigningKeyRecords {
    /// Signs nothing any more; what it signed may still be in use.
    pub(crate) previous: Option<KeyRecord>,
    pub(crate) current: KeyRecord,
    pub(crate) next: KeyRecord,
    pub(crate) current_since_unix_s: u64,
}

/// A refresh token as it was found, with its family.
#[derive(Clone, Copy, Debug)]
struct Presented {
    /// The number of the token that is in force.
    latest: i64,
    revoked: bool,
    number: i64,
    expires_at: i64,
    repeatable: Repeatable,
}

/// The used token that may come again while its successor has not been used: its number, 0 for none,
/// and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Repeatable {
    number: i64,
    until: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The next token takes its place.
    Good {
        latest: i64,
        repeatable: Repeatable,
    },
    Reused,
    Unknown,
}

impl Presented {
    fn verdict(self, now_unix_s: u64) -> Verdict {
        let now = unix_i64(now_unix_s);
        let latest = self.latest.saturating_add(1);
        if self.expires_at <= now || (self.revoked && self.number == self.latest) {
            Verdict::Unknown
        } else if self.number == self.latest {
            let repeatable = Repeatable {
                number: self.number,
                until: now.saturating_add(unix_i64(REPEATABLE_S)),
            };
            Verdict::Good { latest, repeatable }
        } else if !self.revoked
            && self.number == self.repeatable.number
            && now < self.repeatable.until
        {
            // The time runs from its first use, however often it comes.
            let repeatable = self.repeatable;
            Verdict::Good { latest, repeatable }
        } else {
            Verdict::Reused
        }
    }
}

/// Says which call is to clean up: the first of a process, and then one in [`PRUNE_EVERY`].
#[derive(Debug, Default)]
struct Prune(AtomicU32);

impl Prune {
    fn due(&self) -> bool {
        self.0
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(PRUNE_EVERY)
    }
}

/// A place for records that outlive a request.
///
/// Each method is one transaction, and answers within a second. `StoreUnavailable` is a database that
/// is away or slow: whether the change was made is then not known.
pub(crate) trait Store: Send + Sync + 'static {
    /// The user with this secret, a new one if there is none. `name`, if given, becomes its name.
    fn guest(
        &self,
        secret: SecretHash,
        name: Option<DisplayName>,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<User, Error>> + Send;

    /// Makes an account: of the user `upgrade`, who keeps everything, or of a new one.
    ///
    /// `UsernameTaken` is the username or the e-mail address, compared without regard to case;
    /// `AlreadyLinked` a user who has an account, `InvalidCredentials` one who is gone.
    fn register(
        &self,
        account: NewAccount,
        upgrade: Option<UserId>,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<User, Error>> + Send;

    fn account(&self, login: &Login)
    -> impl Future<Output = Result<Option<Account>, Error>> + Send;

    /// For a hash with other parameters of the same password. A user who is gone is no error.
    fn set_password_hash(
        &self,
        user: UserId,
        hash: PasswordHash,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    fn profile(&self, user: UserId) -> impl Future<Output = Result<Option<Profile>, Error>> + Send;

    /// `None`: there is no such user.
    fn rename(
        &self,
        user: UserId,
        name: DisplayName,
    ) -> impl Future<Output = Result<Option<User>, Error>> + Send;

    /// Removes the user with everything that belongs to it; whether there was one.
    fn delete(&self, user: UserId) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Begins a sign-in with its first refresh token. Ends those of the user that have expired, and
    /// beyond [`FAMILIES_MAX`] the one that was not used for the longest time.
    ///
    /// `InvalidCredentials` is a user who is gone.
    fn start_refresh(
        &self,
        user: UserId,
        token: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Puts `new` in the place of `old`, if `old` is in force, or was until [`REPEATABLE_S`] ago and
    /// its successor has not been used.
    fn rotate_refresh(
        &self,
        old: TokenHash,
        new: TokenHash,
        expires_at_unix_s: u64,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<Rotation, Error>> + Send;

    /// Ends the sign-in that this token belongs to, be it used or not.
    fn end_refresh(&self, token: TokenHash) -> impl Future<Output = Result<(), Error>> + Send;

    /// Counts a failed attempt before it is made, so that guesses which race cannot slip through. An
    /// attempt that has to wait is not counted.
    fn begin_login(
        &self,
        keys: LoginKeys,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<Attempt, Error>> + Send;

    /// Takes the count back: all failures of the address at this account, and this one attempt of
    /// the address and of the account. From now on the account knows the address.
    fn login_succeeded(
        &self,
        user: UserId,
        keys: LoginKeys,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Has the account of `user` know an address, by its [`LoginKeys::pair`]. A user without an
    /// account is no error.
    fn know_address(
        &self,
        user: UserId,
        pair: AttemptKey,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The signing keys, made at the first call.
    ///
    /// If the current one became so before `rotate_before_unix_s`, each moves on by one place and a new
    /// next one is made: of several processes that ask at once, one does so.
    fn signing_keys(
        &self,
        rotate_before_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<SigningKeyRecords, Error>> + Send;

    /// Returns once the store has shown that it answers.
    fn ping(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends what is under way and lets go of the files or connections. Later calls fail.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// A name that nobody chose.
fn guest_name(id: UserId) -> Result<DisplayName, Error> {
    format!(
        "Guest-{:04}",
        u16::from_be_bytes([id.0[0], id.0[1]]) % 10_000
    )
    .parse()
}

fn runner(migrations: &[(&str, &str)]) -> Result<Runner, Error> {
    let migrations: Result<Vec<_>, _> = migrations
        .iter()
        .map(|(name, sql)| refinery::Migration::unapplied(name, sql))
        .collect();
    Ok(Runner::new(&migrations.map_err(|e| migration_failed(&e))?))
}

fn migration_failed(error: &refinery::Error) -> Error {
    Error::new(
        ErrorCode::Internal,
        format!("the schema cannot be brought up to date: {error}"),
    )
}

/// A value that only this program writes: one that does not parse is its fault.
fn parse<T: TryFrom<String, Error = Error>>(what: &str, text: String) -> Result<T, Error> {
    T::try_from(text).map_err(|e| {
        Error::new(
            ErrorCode::Internal,
            format!("a stored {what} does not fit: {}", e.message()),
        )
    })
}

fn unavailable(cause: impl fmt::Display) -> Error {
    Error::new(
        ErrorCode::StoreUnavailable,
        format!("the user records cannot be reached: {cause}"),
    )
}

fn taken() -> Error {
    ErrorCode::UsernameTaken.into()
}

fn user_gone() -> Error {
    Error::new(
        ErrorCode::InvalidCredentials,
        "the user does not exist any more",
    )
}

fn unix_i64(unix_s: u64) -> i64 {
    i64::try_from(unix_s).unwrap_or(i64::MAX)
}

/// Times are never before 1970 here.
fn unix_u64(unix_s: i64) -> u64 {
    u64::try_from(unix_s).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_knows_the_last_addresses_and_forgets_the_longest_unused() {
        let key = |number: u8| AttemptKey([number; 32]);
        let mut known = KnownAddresses::default();
        for number in [1, 2, 3, 4, 1, 5] {
            known = known
                .with(key(number))
                .unwrap_or_else(|| panic!("{number}"));
            assert_eq!(KnownAddresses::of_bytes(&known.to_bytes()), known);
        }
        assert_eq!(known.0, [5, 1, 4, 3].map(key));
        assert_eq!(known.with(key(5)), None, "nothing to write");
        assert!(known.contains(key(3)) && !known.contains(key(2)));
    }

    #[test]
    fn a_store_is_memory_a_file_or_a_postgres() {
        let parsed = |text: &str| text.parse::<StoreConfig>();
        assert!(matches!(parsed("memory"), Ok(StoreConfig::Memory)));
        for path in ["auth.db", "/var/lib/auth.db", "./a b.db", "postgres.db"] {
            let store = parsed(&format!("sqlite:{path}"));
            assert!(
                matches!(&store, Ok(StoreConfig::File(file)) if file.as_os_str() == path),
                "{store:?}"
            );
        }
        for url in [
            "postgres://u:hunter2@h/db",
            "postgresql://u@h:5433/db?sslmode=require&password=hunter2",
            "postgres://u:hunter%402@[::1]:5432,h-2.example/db",
            "postgres://h/db?user=u%40tenant&password=hunter2",
            "postgres://u:hunter2@%2Frun%2Fpostgresql/db",
            "postgres://u:hunter2/?#[]$&@h/db",
        ] {
            let store = parsed(url);
            assert!(matches!(store, Ok(StoreConfig::Postgres(_))), "{url}");
            assert!(!format!("{store:?}").contains("hunter"), "{store:?}");
        }
    }

    #[test]
    fn a_store_with_a_slip_of_the_pen_is_refused_and_nothing_of_it_is_repeated() {
        for text in [
            "",
            "hunter2",
            "hunter2.db",
            "Memory",
            "sqlite:",
            "sqlite//hunter2",
            "sqlite://hunter2",
            "sqlite:postgres://u:hunter2@h/db",
            "SQLite:hunter2",
            "postgres:/u:hunter2@h/db",
            "postgres:u:hunter2@h/db",
            "postgresql:u:hunter2@h/db",
            "postgresql:/u:hunter2@h/db",
            "postgres//u:hunter2@h/db",
            "postgres;//u:hunter2@h/db",
            "Postgres://u:hunter2@h/db",
            "POSTGRESQL://u:hunter2@h/db",
            "postgers://u:hunter2@h/db",
            " postgres://u:hunter2@h/db",
            "postgres ://u:hunter2@h/db",
            "jdbc:postgresql://h/db?password=hunter2",
            "host=h user=u password=hunter2",
            "u:hunter2@h/db",
            "postgres://",
            "postgres://u:hunter2@",
            "postgres://u:hunter2@/db",
            "postgres://u:hunter2",
            "postgres://u:hunter2/db",
            "postgres://u:p@hunter2@h/db",
            "postgres://u:p@hunter2:5432@h/db",
            "postgres://u:p@hunter2/x@h/db",
            "postgres://u:p@h/x@hunter2",
            "postgres://u:p@h?hunter2@h/db",
            "postgres://u:p@h/db&password=hunter2",
            "postgres://u:p@h/db;password=hunter2",
            "postgres://u:p@h/db password=hunter2",
            "postgres://u:p@h&password=hunter2/db",
            "postgres://u:p@h/db?password=x&y@hunter2=1",
            "postgres://u:p@h/db?passwd=hunter2",
            "postgres://u:p@h/db?hunter2",
            "postgres://u:p@h/db?sslmode=hunter2",
            "postgres://u:p@h:hunter2/db",
            "postgres://u:p@h,x:hunter2/db",
        ] {
            let error = text.parse::<StoreConfig>().err();
            let error = error.unwrap_or_else(|| panic!("{text:?} was accepted"));
            assert_eq!(error.code(), ErrorCode::InvalidConfig, "{text:?}");
            let shown = format!("{error} {error:?} {}", error.message());
            assert!(!shown.contains("hunter"), "{text:?}: {shown}");
            let config = StoreConfig::Postgres(PostgresConfig::new(text));
            assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
        }
    }
}

//! What is kept: users, what they sign in with, and the signing keys.

mod embedded;

use std::future::Future;
use std::path::PathBuf;

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, UserId};

pub(crate) use embedded::Embedded;

use crate::guest::SecretHash;
use crate::keys::KeyRecord;

/// Where users and signing keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In memory: gone with the process, users and keys alike.
    Memory,
    /// In this SQLite file, readable by its owner alone, created at the first start.
    File(PathBuf),
}

/// A user's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) display_name: DisplayName,
}

/// A place for records that outlive a request. Each method is one transaction.
pub(crate) trait Store: Send + Sync + 'static {
    /// The user with this secret, a new one if there is none. `name`, if given, becomes its name.
    fn guest(
        &self,
        secret: SecretHash,
        name: Option<DisplayName>,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<User, Error>> + Send;

    /// The current and the next signing key, made at the first call.
    fn signing_keys(
        &self,
        now_unix_s: u64,
    ) -> impl Future<Output = Result<[KeyRecord; 2], Error>> + Send;

    /// Returns once the store has shown that it answers.
    fn ping(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends what is under way and lets go of the files. Later calls fail.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

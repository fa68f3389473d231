//! A relay beside auth and a directory that come, go and forget, and players who ask for too much.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod floods;
mod keys;
mod quotas;
mod repairs;
mod setup;

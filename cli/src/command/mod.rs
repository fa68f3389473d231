//! What each command does.

mod auth;
mod config;
mod dev;
mod doctor;
mod keygen;
mod load;
mod relay;
mod relays;
mod sessions;
pub(crate) mod verify_history;

pub(crate) use auth::auth;
pub(crate) use config::config;
pub(crate) use dev::dev;
pub(crate) use doctor::doctor;
pub(crate) use keygen::keygen;
pub(crate) use load::load;
pub(crate) use relay::relay;
pub(crate) use relays::relays;
pub(crate) use sessions::sessions;
pub(crate) use verify_history::verify_history;

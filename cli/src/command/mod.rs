//! What each command does.

mod auth;
mod dev;
mod doctor;
mod keygen;
mod relay;

pub(crate) use auth::auth;
pub(crate) use dev::dev;
pub(crate) use doctor::doctor;
pub(crate) use keygen::keygen;
pub(crate) use relay::relay;

//! How a player that plays by itself comes in: as a guest, by the front door.

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dreamcatcher_client::{Client, ConnectOptions, Pick, RelayAddress, Session, Worker, auth};
use dreamcatcher_proto::Error;
use dreamcatcher_proto::control::SessionOptions;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::group::Group;
use crate::command::verify_history::EXTENSION;

/// Players that sign in and connect at a time: a handshake costs a relay the CPU of some hundred
/// messages.
const CONNECTING_MAX: usize = 32;
/// A token is renewed between these shares of its life.
const RENEW_AT: Range<f64> = 0.3..0.6;
/// And not more often, however short its life.
const RENEW_EVERY_MIN: Duration = Duration::from_secs(30);

/// Where all players of a fleet come in.
#[derive(Debug)]
pub(crate) struct Entrance {
    auth_url: String,
    /// The SDK's threads, which the players share.
    workers: Vec<Worker>,
    doors: Semaphore,
    /// Where the players record their histories, if they are to.
    histories: Option<PathBuf>,
}

/// Who comes in.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) group: &'a Group,
    /// Its place in its session, from 0; the first creates it.
    pub(crate) place: usize,
    /// Its number in the fleet.
    pub(crate) number: usize,
    pub(crate) relays: Vec<RelayAddress>,
    pub(crate) pick: Pick,
}

/// A player in its session.
#[derive(Debug)]
pub(crate) struct Seated {
    pub(crate) client: Client,
    pub(crate) session: Session,
    /// From the first packet until the relay had accepted the token.
    pub(crate) connected_in: Duration,
    pub(crate) pass: Pass,
}

/// What a player stays signed in by.
#[derive(Debug)]
pub(crate) struct Pass {
    secret: SecretString,
    /// How long its token is good for.
    lasts: Duration,
}

impl Entrance {
    pub(crate) fn new(
        auth_url: String,
        workers: usize,
        histories: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let workers = (0..workers.max(1)).map(|_| Worker::spawn());
        Ok(Self {
            auth_url,
            workers: workers.collect::<Result<_, _>>()?,
            doors: Semaphore::new(CONNECTING_MAX),
            histories,
        })
    }

    /// Signs in, connects, and creates or joins the session of the group.
    pub(crate) async fn enter(&self, guest: Guest<'_>) -> Result<Seated, Error> {
        let Guest {
            group,
            place,
            number,
            relays,
            pick,
        } = guest;
        let secret = auth::new_secret()?;
        let door = self.doors.acquire().await;
        let name = format!("Bot-{number}");
        let sign_in = auth::guest(self.auth_url.as_str(), &secret, &name).await?;
        let history =
            |directory: &PathBuf| directory.join(format!("player-{number:04}.{EXTENSION}"));
        let options = ConnectOptions {
            history: self.histories.as_ref().map(history),
            ..options(relays, pick, sign_in.token)?
        };
        let begun = Instant::now();
        let worker = &self.workers[number % self.workers.len()];
        let client = Client::connect_on(worker, options).await?;
        let connected_in = begun.elapsed();
        drop(door);
        let session = if place == 0 {
            client.create(SessionOptions::default()).await?
        } else {
            let code = group.code().await?;
            client.join_code(&code.to_string()).await?
        };
        group.judge().joined(place, session.peer());
        Ok(Seated {
            client,
            session,
            connected_in,
            pass: Pass {
                secret: secret.into(),
                lasts: sign_in.expires_in,
            },
        })
    }

    /// Keeps a player's token fresh, for the day that its relay fails. It never ends: to be dropped
    /// with the player. The SDK would do the same, with a thread for each.
    pub(crate) async fn renew(&self, client: &Client, pass: &Pass) {
        loop {
            // Who came at one moment does not come back at one.
            let share = rand::random_range(RENEW_AT);
            tokio::time::sleep(pass.lasts.mul_f64(share).max(RENEW_EVERY_MIN)).await;
            let _door = self.doors.acquire().await;
            match auth::guest(self.auth_url.as_str(), pass.secret.expose_secret(), "Bot").await {
                Ok(sign_in) => client.set_token(sign_in.token),
                Err(error) => tracing::warn!(%error, "a player's token cannot be renewed"),
            }
        }
    }
}

fn options(relays: Vec<RelayAddress>, pick: Pick, token: String) -> Result<ConnectOptions, Error> {
    let first = relays.first().and_then(|relay| relay.node_id.clone());
    let options = ConnectOptions {
        relays,
        token,
        ..ConnectOptions::default()
    };
    match (pick, first) {
        (Pick::Listed, Some(first)) => options.prefer(&first),
        (Pick::Listed, None) | (Pick::Nearest, _) => Ok(options),
    }
}

/// Every relay, another one first for each member of a session: member i of session s prefers relay
/// s + i.
pub(crate) fn spread(relays: &[RelayAddress], group: usize, place: usize) -> Vec<RelayAddress> {
    let mut relays = relays.to_vec();
    let own = (group + place) % relays.len().max(1);
    relays.rotate_left(own);
    relays
}

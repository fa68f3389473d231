//! How a player that plays by itself comes in: as a guest, by the front door.

use std::time::{Duration, Instant};

use dreamcatcher_client::{Client, ConnectOptions, RelayAddress, Session, Worker, auth};
use dreamcatcher_proto::Error;
use dreamcatcher_proto::control::SessionOptions;
use tokio::sync::Semaphore;

use super::group::Group;

/// Players that sign in and connect at a time: a handshake costs a relay the CPU of some hundred
/// messages.
const CONNECTING_MAX: usize = 32;

/// Where all players of a fleet come in.
#[derive(Debug)]
pub(crate) struct Entrance {
    auth_url: String,
    /// The SDK's threads, which the players share.
    workers: Vec<Worker>,
    doors: Semaphore,
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

/// To which of its relays a player connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The first that answers, in their order.
    First,
    /// The one that the SDK finds nearest.
    Nearest,
}

/// A player in its session.
#[derive(Debug)]
pub(crate) struct Seated {
    pub(crate) client: Client,
    pub(crate) session: Session,
    /// From the first packet until the relay had accepted the token.
    pub(crate) connected_in: Duration,
}

impl Entrance {
    pub(crate) fn new(auth_url: String, workers: usize) -> Result<Self, Error> {
        let workers = (0..workers.max(1)).map(|_| Worker::spawn());
        Ok(Self {
            auth_url,
            workers: workers.collect::<Result<_, _>>()?,
            doors: Semaphore::new(CONNECTING_MAX),
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
        let (client, connected_in) = self.connect(number, relays, pick).await?;
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
        })
    }

    async fn connect(
        &self,
        number: usize,
        relays: Vec<RelayAddress>,
        pick: Pick,
    ) -> Result<(Client, Duration), Error> {
        let _door = self.doors.acquire().await;
        let name = format!("Bot-{number}");
        let sign_in = auth::guest(self.auth_url.as_str(), &auth::new_secret()?, &name).await?;
        let first = relays.first().and_then(|relay| relay.node_id.clone());
        let options = ConnectOptions {
            relays,
            token: sign_in.token,
            ..ConnectOptions::default()
        };
        let options = match (pick, first) {
            (Pick::First, Some(first)) => options.prefer(&first)?,
            (Pick::First, None) | (Pick::Nearest, _) => options,
        };
        let begun = Instant::now();
        let worker = &self.workers[number % self.workers.len()];
        let client = Client::connect_on(worker, options).await?;
        Ok((client, begun.elapsed()))
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

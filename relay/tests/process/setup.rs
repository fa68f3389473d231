//! Relays and players on one directory.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dreamcatcher_client::{
    Client, ConnectOptions, Error, Event, RelayAddress, Session, SessionOptions,
};
use dreamcatcher_directory::{Directory, MemoryDirectory, Timestamp};
use dreamcatcher_proto::UserId;
use dreamcatcher_proto::token::{Claims, KeySet, Signer};
use dreamcatcher_relay::identity::ClusterKey;
use dreamcatcher_relay::node::io::Stats;
use dreamcatcher_relay::{KeySource, MemberRates, Quotas, Relay, RelayConfig};

/// Longer than anything here takes: whoever waits this long waits for ever.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn signer(number: u8) -> Signer {
    Signer::from_seed(&format!("k{number}"), &[number; 32]).unwrap()
}

pub(crate) fn keys() -> KeySource {
    let document = Signer::jwks([&signer(1)]).unwrap();
    Arc::new(KeySet::from_jwks(&document).unwrap()).into()
}

/// A directory of the wall clock.
pub(crate) fn memory() -> MemoryDirectory {
    let mut word = rand::random::<u32>();
    let random = move || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word
    };
    MemoryDirectory::new(|| Timestamp(unix().as_micros() as u64), random)
}

/// One node in a region of its own, so that a session's region says who owns it.
pub(crate) fn config(id: &str, directory: Arc<dyn Directory>) -> RelayConfig {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    RelayConfig {
        id: id.to_owned(),
        region: id.to_owned(),
        host: id.to_owned(),
        listen: any,
        mesh_listen: any,
        advertise: None,
        mesh_advertise: None,
        admin: None,
        nodes: 1,
        capacity: 100,
        clients_max: 1_000,
        max_batch_delay: Duration::ZERO,
        rates: MemberRates::default(),
        quotas: Quotas::default(),
        always_retry: false,
        cluster_key: ClusterKey([7; 32]),
        keys: keys(),
        directory,
    }
}

pub(crate) async fn start(config: RelayConfig) -> Relay {
    let relay = Relay::start(config).await.unwrap();
    until("ready", || relay.readiness().is_ok()).await;
    relay
}

pub(crate) fn token(signer: &Signer, user: u8) -> String {
    let name = "Player".parse().unwrap();
    let claims = Claims::new(UserId([user; 16]), name, "1".to_owned(), unix().as_secs());
    signer.sign(&claims).unwrap()
}

pub(crate) async fn try_connect(token: String, relay: &Relay) -> Result<Client, Error> {
    let node = relay.nodes().remove(0);
    let options = ConnectOptions {
        relays: vec![RelayAddress {
            node_id: Some(node.id.to_string()),
            region: Some(node.region),
            ..RelayAddress::new(node.address, node.certificate_sha256)
        }],
        token,
        ..ConnectOptions::default()
    };
    within_deadline(Client::connect(options)).await
}

pub(crate) async fn connect(user: u8, relay: &Relay) -> Client {
    try_connect(token(&signer(1), user), relay).await.unwrap()
}

/// A public session that the relay of this region owns; asks until the client's own relay knows it.
pub(crate) async fn created_in(client: &Client, region: &str) -> Session {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let options = SessionOptions {
            region: Some(region.to_owned()),
            visibility: dreamcatcher_client::Visibility::Public,
            name: region.to_owned(),
            ..SessionOptions::default()
        };
        match within_deadline(client.create(options)).await {
            Ok(session) => {
                // Until its relay is known, another one takes it.
                if session.info().owner.as_str().starts_with(region) {
                    return session;
                }
                session.leave().await;
            }
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next message; an event that says that the way was disturbed fails the test.
pub(crate) async fn next_message(session: &mut Session) -> String {
    within_deadline(async {
        loop {
            match session.recv().await {
                Some(Event::Message { payload, .. }) => {
                    return String::from_utf8_lossy(&payload).into_owned();
                }
                Some(event @ (Event::Ended { .. } | Event::Reconnecting)) => panic!("{event:?}"),
                Some(_) => {}
                None => panic!("no more events"),
            }
        }
    })
    .await
}

pub(crate) fn stats(relay: &Relay) -> Stats {
    relay.stats().remove(0).1
}

pub(crate) async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

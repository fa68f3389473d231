//! Relays of one mesh, over real sockets: what players see when one of them is not what it should be.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dreamcatcher_client::{
    Client, ConnectOptions, ErrorCode, Event, Mode, Pick, RelayAddress, Session, SessionOptions,
    Target,
};
use dreamcatcher_directory::{
    Answer, Directory, MemoryDirectory, NodeRecord, Request, Timestamp, Watch,
};
use dreamcatcher_proto::UserId;
use dreamcatcher_proto::token::{Claims, KeySet, Signer};
use dreamcatcher_relay::identity::ClusterKey;
use dreamcatcher_relay::{MemberRates, Quotas, Relay, RelayConfig};

/// Longer than anything here takes: whoever waits this long waits for ever.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_with_another_cluster_key_is_refused_by_name_and_the_rest_of_the_mesh_goes_on() {
    let mesh = Mesh::new();
    let ours = mesh.start("ours", "eu", ClusterKey([7; 32])).await;
    let honest = mesh.launch("honest", "us", ClusterKey([8; 32])).await;
    let refused = within_deadline(honest.ended()).await;
    assert_eq!(refused.code(), ErrorCode::WrongClusterKey, "{refused}");

    // The directory takes it at its word; no relay does.
    let directory = Arc::new(Lying(mesh.directory.clone()));
    let foreign = mesh
        .launch_on(directory, "foreign", "us", ClusterKey([8; 32]))
        .await;
    until("ready", || foreign.readiness().is_ok()).await;
    let ann = mesh.connect(1, &[&ours]).await;

    let error = created_in(&ann, "us").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongClusterKey, "{error}");
    assert!(error.message().contains("foreign-0"), "{error}");
    assert!(!error.is_retryable());

    let mut session = created_in(&ann, "eu").await.unwrap();
    session
        .send(Mode::Ordered, Target::All, "still here")
        .unwrap();
    assert_eq!(next_message(&mut session).await, "still here");
    ours.stop().await;
    foreign.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_dial_each_other_at_once_keep_one_link_and_fail_no_request() {
    let mesh = Mesh::new();
    for round in 0..8 {
        // Killed relays stay listed until their leases end: each round has regions of its own.
        let (eu, us) = (format!("eu{round}"), format!("us{round}"));
        let one = mesh
            .start(&format!("a{round}"), &eu, ClusterKey([7; 32]))
            .await;
        let two = mesh
            .start(&format!("b{round}"), &us, ClusterKey([7; 32]))
            .await;
        let ann = mesh.connect(1, &[&one]).await;
        let bob = mesh.connect(2, &[&two]).await;
        let (far_of_ann, far_of_bob) = tokio::join!(created_in(&ann, &us), created_in(&bob, &eu));
        let (_ann, _bob) = (far_of_ann.unwrap(), far_of_bob.unwrap());
        until("one link", || {
            let links = |relay: &Relay| {
                let stats = relay.stats();
                stats.iter().map(|(_, stats)| stats.links).sum::<u64>()
            };
            links(&one) == 1 && links(&two) == 1
        })
        .await;
        one.kill();
        two.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_gateway_dies_its_member_resumes_elsewhere_and_misses_nothing() {
    let mesh = Mesh::new();
    let owner = mesh.start("owner", "eu", ClusterKey([7; 32])).await;
    let gateway = mesh.start("gateway", "us", ClusterKey([7; 32])).await;
    let ann = mesh.connect(1, &[&owner]).await;
    let bob = mesh.connect(2, &[&gateway, &owner]).await;
    let mut hers = created_in(&ann, "eu").await.unwrap();
    let mut his = within_deadline(bob.join_code(&hers.code().unwrap().to_string()))
        .await
        .unwrap();

    hers.send(Mode::Ordered, Target::All, "before").unwrap();
    assert_eq!(next_message(&mut his).await, "before");
    gateway.kill();
    hers.send(Mode::Ordered, Target::All, "while he is away")
        .unwrap();
    his.send(Mode::Ordered, Target::All, "sent into the void")
        .unwrap();
    let mut seen = vec![next_message(&mut his).await, next_message(&mut his).await];
    let mut order = seen.clone();
    seen.sort();
    assert_eq!(seen, ["sent into the void", "while he is away"]);
    order.insert(0, "before".to_owned());
    for expected in &order {
        assert_eq!(
            next_message(&mut hers).await,
            *expected,
            "both see one order"
        );
    }
    owner.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_owner_dies_each_member_gets_one_owner_lost_and_the_client_lives_on() {
    let mesh = Mesh::new();
    let owner = mesh.start("owner", "eu", ClusterKey([7; 32])).await;
    let gateway = mesh.start("gateway", "us", ClusterKey([7; 32])).await;
    let ann = mesh.connect(1, &[&gateway]).await;
    let mut session = created_in(&ann, "eu").await.unwrap();
    owner.kill();
    let mut ends = Vec::new();
    while let Some(event) = within_deadline(session.recv()).await {
        if let Event::Ended { error, .. } = event {
            ends.push(error.code());
        }
    }
    assert_eq!(ends, [ErrorCode::OwnerLost]);
    created_in(&ann, "us").await.unwrap();
    gateway.stop().await;
}

// -------------------------------------------------------------------------------------------- helpers

struct Mesh {
    directory: MemoryDirectory,
    signer: Signer,
}

impl Mesh {
    fn new() -> Self {
        let mut word = 0_u32;
        let random = move || {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            word
        };
        let now = || Timestamp(u64::try_from(unix().as_micros()).unwrap());
        let directory = MemoryDirectory::new(now, random);
        Self {
            directory,
            signer: Signer::from_seed("k1", &[7; 32]).unwrap(),
        }
    }

    /// One node in a region of its own, so that a session's region says who owns it.
    async fn start(&self, id: &str, region: &str, cluster_key: ClusterKey) -> Relay {
        let relay = self.launch(id, region, cluster_key).await;
        until("ready", || relay.readiness().is_ok()).await;
        relay
    }

    /// The same, which may never be ready.
    async fn launch(&self, id: &str, region: &str, cluster_key: ClusterKey) -> Relay {
        let directory = Arc::new(self.directory.clone());
        self.launch_on(directory, id, region, cluster_key).await
    }

    async fn launch_on(
        &self,
        directory: Arc<dyn Directory>,
        id: &str,
        region: &str,
        cluster_key: ClusterKey,
    ) -> Relay {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let keys = KeySet::from_jwks(&Signer::jwks([&self.signer]).unwrap()).unwrap();
        let config = RelayConfig {
            id: id.to_owned(),
            region: region.to_owned(),
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
            cluster_key,
            keys: Arc::new(keys).into(),
            directory,
        };
        Relay::start(config).await.unwrap()
    }

    async fn connect(&self, user: u8, relays: &[&Relay]) -> Client {
        let name = "Player".parse().unwrap();
        let claims = Claims::new(UserId([user; 16]), name, "1".to_owned(), unix().as_secs());
        let address = |relay: &&Relay| {
            let node = relay.nodes().remove(0);
            RelayAddress {
                node_id: Some(node.id.to_string()),
                region: Some(node.region),
                ..RelayAddress::new(node.address, node.certificate_sha256)
            }
        };
        let options = ConnectOptions {
            relays: relays.iter().map(address).collect(),
            token: self.signer.sign(&claims).unwrap(),
            pick: Pick::Listed,
            follow_owner: false,
            ..ConnectOptions::default()
        };
        within_deadline(Client::connect(options)).await.unwrap()
    }
}

/// A directory as a relay sees it that lies about its mesh.
#[derive(Debug)]
struct Lying(MemoryDirectory);

impl Directory for Lying {
    fn call(&self, request: Request) -> Answer<'_> {
        let mut request = request;
        if let Request::Register(NodeRecord { mesh_id, .. }) = &mut request {
            *mesh_id = ClusterKey([7; 32]).mesh_id();
        }
        self.0.call(request)
    }

    fn watch(&self) -> Watch {
        self.0.watch()
    }
}

/// The region's relay may have started a moment ago: asks until the client's own relay knows it, and
/// has had enough of asking.
async fn created_in(client: &Client, region: &str) -> Result<Session, dreamcatcher_client::Error> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let options = SessionOptions {
            region: Some(region.to_owned()),
            ..SessionOptions::default()
        };
        match within_deadline(client.create(options)).await {
            Err(error)
                if matches!(
                    error.code(),
                    ErrorCode::DirectoryUnavailable | ErrorCode::RateLimited
                ) && Instant::now() < deadline => {}
            outcome => return outcome,
        }
    }
}

async fn next_message(session: &mut Session) -> String {
    within_deadline(async {
        loop {
            match session.recv().await {
                Some(Event::Message { payload, .. }) => {
                    return String::from_utf8(payload.to_vec()).unwrap();
                }
                Some(Event::Ended { error, .. }) => panic!("the session ended: {error}"),
                Some(_) => {}
                None => panic!("no more events"),
            }
        }
    })
    .await
}

async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

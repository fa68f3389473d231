//! Players in three places, relays in three regions, real processes, and 20, 80 or 200 ms between
//! them: a stretch of slow network for each pair.

use std::time::Duration;

use dreamcatcher_client::{
    Client, ConnectOptions, Event, Mode, Probing, RelayAddress, Session, SessionOptions, Target,
    auth,
};
use dreamcatcher_e2e::PATIENCE;
use dreamcatcher_e2e::cluster::{Cluster, Extra, eventually};
use dreamcatcher_servers::UdpProxy;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// From a player to the relay at home, to the next region, and to the one after that.
const RTT: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
];
/// Often, so that a test need not wait for half a minute.
const PROBING: Probing = Probing {
    every: Duration::from_millis(800),
    warm_every: Duration::from_millis(400),
};

#[tokio::test]
async fn each_player_picks_the_nearest_relay_and_moves_when_it_slows_down() {
    let cluster = mesh().await;
    let mut players = Vec::new();
    for home in 0..REGIONS.len() {
        players.push(Player::connect(&cluster, home, false).await);
    }
    for (home, player) in players.iter().enumerate() {
        assert_eq!(player.region(), REGIONS[home]);
    }
    let [ann, bea, cid] = &mut players[..] else {
        panic!("three players")
    };
    let mut from_ann = ann
        .client
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    let code = from_ann.code().expect("a code").to_string();
    let mut to_bea = bea.client.join_code(&code).await.expect("a join by code");
    let mut to_cid = cid.client.join_code(&code).await.expect("a join by code");
    for turn in 0..5 {
        say(&from_ann, turn);
    }
    // Ann's home is suddenly as far as the other end of the world.
    ann.roads[0].set_rtt(Duration::from_millis(300));
    let mut turn = 5;
    eventually("Ann has moved", async || {
        say(&from_ann, turn);
        turn += 1;
        (ann.region() == REGIONS[1]).then_some(())
    })
    .await;
    for _ in 0..5 {
        say(&from_ann, turn);
        turn += 1;
    }
    for listener in [&mut from_ann, &mut to_bea, &mut to_cid] {
        assert_eq!(
            heard(listener, turn).await,
            (0..turn).collect::<Vec<u32>>(),
            "nothing lost, nothing twice, nothing out of order"
        );
    }
    assert_eq!(bea.region(), REGIONS[1], "whoever was well off stays");
    assert_eq!(cid.region(), REGIONS[2], "whoever was well off stays");
}

#[tokio::test]
async fn two_relays_that_are_about_as_far_are_not_moved_between() {
    let cluster = mesh().await;
    let player = Player::connect(&cluster, 0, false).await;
    assert_eq!(player.region(), REGIONS[0]);
    // 9 ms more than the other: too little to move for.
    player.roads[1].set_rtt(Duration::from_millis(60));
    player.roads[0].set_rtt(Duration::from_millis(69));
    let _session = player
        .client
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    let moved = async {
        while player.region() == REGIONS[0] {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Several measurements long.
    let watched = tokio::time::timeout(5 * PROBING.every, moved);
    assert!(watched.await.is_err(), "moved to {}", player.region());
}

#[tokio::test]
async fn a_player_moves_to_the_owner_s_relay_when_that_is_no_farther() {
    let cluster = mesh().await;
    let ann = Player::connect(&cluster, 0, false).await;
    let mut session = ann
        .client
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    let owner = cluster.number(session.info().owner.as_str());
    // Bea's home is another one; then the owner comes as near.
    let home = (owner + 1) % REGIONS.len();
    let bea = Player::connect(&cluster, home, true).await;
    assert_eq!(bea.region(), REGIONS[home]);
    bea.roads[owner].set_rtt(RTT[0]);
    let code = session.code().expect("a code").to_string();
    let mut joined = bea.client.join_code(&code).await.expect("a join by code");
    eventually("Bea is at the owner's relay", async || {
        (bea.region() == REGIONS[owner]).then_some(())
    })
    .await;
    for turn in 0..5 {
        say(&joined, turn);
    }
    for listener in [&mut session, &mut joined] {
        assert_eq!(heard(listener, 5).await, [0, 1, 2, 3, 4]);
    }
}

/// Relays in three regions, each a process.
async fn mesh() -> Cluster {
    let mut cluster = Cluster::start(0).await;
    for region in REGIONS {
        let extra = Extra {
            arguments: &["--region", region],
            environment: &[],
        };
        cluster.add_relay(extra).await;
    }
    cluster
}

/// A player, and the roads to each relay.
struct Player {
    client: Client,
    roads: Vec<UdpProxy>,
}

impl Player {
    async fn connect(cluster: &Cluster, home: usize, follow_owner: bool) -> Self {
        let count = REGIONS.len();
        let roads: Vec<UdpProxy> = (0..count)
            .map(|relay| {
                let distance = (relay + count - home) % count;
                UdpProxy::start(cluster.relays[relay].address.address, RTT[distance])
            })
            .collect();
        let listed = auth::relays(cluster.auth_url()).await.expect("the list");
        let relays = listed
            .into_iter()
            .map(|relay| {
                let number = cluster.number(relay.node_id.as_deref().expect("an id"));
                RelayAddress {
                    address: roads[number].address(),
                    ..relay
                }
            })
            .collect();
        let options = ConnectOptions {
            relays,
            token: cluster.token("Player").await,
            follow_owner,
            probing: PROBING,
            ..ConnectOptions::default()
        };
        let client = Client::connect(options).await.expect("a relay");
        Self { client, roads }
    }

    /// Where it is connected.
    fn region(&self) -> String {
        self.client.relay().region.expect("every relay has one")
    }
}

fn say(session: &Session, turn: u32) {
    session
        .send(Mode::Ordered, Target::All, turn.to_be_bytes().to_vec())
        .expect("room for it");
}

/// The first `count` messages.
async fn heard(session: &mut Session, count: u32) -> Vec<u32> {
    let all = async {
        let mut turns = Vec::new();
        while turns.len() < count as usize {
            let event = session.recv().await.expect("the session goes on");
            if let Event::Message { payload, .. } = event {
                let bytes = payload.as_ref().try_into().expect("four bytes");
                turns.push(u32::from_be_bytes(bytes));
            } else {
                assert!(!matches!(event, Event::Ended { .. }), "{event:?}");
            }
        }
        turns
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("all that was said")
}

//! Relays as processes of their own, over Redis: players on any of them share sessions; a relay can
//! be lost or added.

use std::time::{Duration, Instant};

use dreamcatcher_e2e::client::{Client, What};
use dreamcatcher_e2e::cluster::{Cluster, Extra, eventually};
use dreamcatcher_e2e::code;
use dreamcatcher_e2e::control::{Event, Joined, RelayBody, SessionOptions};
use dreamcatcher_e2e::frame::{Mode, Target};

/// What OwnerLost may take: the gateway looks for the owner for 5 s after it has noticed its silence.
const OWNER_LOST_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn eight_players_on_three_relays_share_a_session_in_every_mode() {
    let cluster = Cluster::start(3).await;
    let (_, mut players) = party(&cluster, 8).await;
    for player in &mut players {
        for mode in [Mode::Ordered, Mode::Reliable] {
            for turn in 0..20_u8 {
                player.send(mode, Target::Others, vec![turn]).await;
            }
        }
    }
    let mut orders = Vec::new();
    for player in &mut players {
        let mut order = Vec::new();
        while order.len() < 7 * 20 {
            let entry = player.entry().await;
            if let What::Message { payload, .. } = entry.what {
                order.push((entry.index, entry.mid.sender, payload[0]));
            }
        }
        let mut reliable = [0; 9];
        for _ in 0..7 * 20 {
            let message = player.message(Mode::Reliable).await;
            let next = &mut reliable[usize::from(message.mid.sender)];
            assert_eq!(message.payload[0], *next, "each sender's in its order");
            *next += 1;
        }
        orders.push((player.peer(), order));
    }
    // Everyone's list lacks its own: put together, an index is one message.
    let mut at_index = std::collections::BTreeMap::new();
    for (peer, order) in orders {
        for (index, sender, turn) in order {
            assert_ne!(sender, peer);
            assert_eq!(
                *at_index.entry(index).or_insert((sender, turn)),
                (sender, turn)
            );
        }
    }
    assert_eq!(at_index.len(), 8 * 20);

    // These may be lost on any network, and on a busy loopback: one of many comes.
    for mode in [Mode::Latest, Mode::Datagram] {
        let [first, rest @ ..] = &mut players[..] else {
            panic!("a party")
        };
        for other in rest {
            let came = eventually("a datagram", async || {
                first.send(mode, Target::Others, "here").await;
                let wait = Duration::from_millis(200);
                tokio::time::timeout(wait, other.message(mode)).await.ok()
            });
            assert_eq!(came.await.payload, "here");
        }
    }
}

#[tokio::test]
async fn a_player_whose_relay_was_killed_resumes_on_another_and_missed_nothing() {
    let mut cluster = Cluster::start(3).await;
    // The owner is relay 1 or 2; whoever is on the third loses only a gateway.
    let (created, mut players) = party(&cluster, 3).await;
    let owner = cluster.number(&created.owner);
    let lost = (0..3).find(|&relay| relay != owner).expect("three relays");
    let other = 3 - owner - lost;
    let token = cluster.token("the one who returns").await;
    let mut victim = Client::hello(&cluster.relays[lost].address, &token).await;
    victim
        .join_code(&created.join_code)
        .await
        .expect("a join by code");

    let mut witness = players.swap_remove(owner);
    for turn in 0..10_u8 {
        witness
            .send(Mode::Ordered, Target::Others, vec![turn])
            .await;
    }
    for turn in 0..5_u8 {
        assert_eq!(victim.ordered().await.1.as_ref(), [turn]);
    }
    let seat = victim.seat().clone();
    let node = format!("{}-0", cluster.relays[lost].id);
    let address = cluster.relays[other].address.clone();
    cluster.take(&node).process.kill().await;
    for turn in 10..20_u8 {
        witness
            .send(Mode::Ordered, Target::Others, vec![turn])
            .await;
    }

    let mut victim = Client::hello(&address, &token).await;
    let joined = victim.resume(seat).await.expect("the seat is held");
    assert!(joined.resumed);
    for turn in 5..20_u8 {
        assert_eq!(victim.ordered().await.1.as_ref(), [turn]);
    }
}

#[tokio::test]
async fn when_the_owner_is_killed_every_player_is_told_once() {
    let mut cluster = Cluster::start(3).await;
    let (created, players) = party(&cluster, 6).await;
    let owner = cluster.take(&created.owner);
    let began = Instant::now();
    owner.process.kill().await;
    let mut told = 0;
    for mut player in players {
        if player.welcome.node_id == created.owner {
            continue; // Its connection is gone with the relay.
        }
        match player.next_control().await.body {
            Some(RelayBody::Ended(end)) => {
                assert_eq!(
                    u64::from(end.cause.expect("a cause").code),
                    code::OWNER_LOST
                );
                assert!(!end.can_rejoin);
            }
            other => panic!("{other:?} instead of the end"),
        }
        assert!(began.elapsed() < OWNER_LOST_WITHIN, "{:?}", began.elapsed());
        player.ping().await; // The connection goes on,
        player
            .create(SessionOptions::default())
            .await
            .expect("and so do its sessions");
        told += 1;
    }
    assert_eq!(told, 4);
}

#[tokio::test]
async fn a_relay_that_is_added_gets_new_sessions_and_its_players_reach_old_ones() {
    let mut cluster = Cluster::start(2).await;
    let (created, mut players) = party(&cluster, 2).await;
    cluster.add_relay(Extra::default()).await;

    let mut late = cluster.client(2, "Late").await;
    late.join_code(&created.join_code)
        .await
        .expect("a join by code");
    players[0].send(Mode::Ordered, Target::All, "welcome").await;
    assert_eq!(late.ordered().await.1, "welcome");

    // Each id is as likely to fall to it as to either other: forty that do not are a 1 in 10⁷ chance.
    for user in 0..4 {
        let mut creator = cluster.client(user % 2, "Creator").await;
        for _ in 0..10 {
            let created = creator
                .create(SessionOptions::default())
                .await
                .expect("a new session");
            if created.owner == "relay-3-0" {
                return;
            }
            creator.leave().await;
        }
    }
    panic!("the new relay owns none of 40 new sessions");
}

/// A session of `count` players, dealt over the relays; each has seen the others join.
async fn party(cluster: &Cluster, count: usize) -> (Joined, Vec<Client>) {
    let relays = cluster.relays.len();
    let mut players = vec![cluster.client(0, "Player 0").await];
    let options = SessionOptions {
        max_players: Some(16),
        ..SessionOptions::default()
    };
    let created = players[0].create(options).await.expect("a new session");
    for number in 1..count {
        let mut player = cluster
            .client(number % relays, &format!("Player {number}"))
            .await;
        player
            .join_code(&created.join_code)
            .await
            .expect("a join by code");
        players.push(player);
    }
    for (at, player) in players.iter_mut().enumerate() {
        for _ in at..count {
            assert!(matches!(player.event().await, Event::Joined(_)));
        }
    }
    (created, players)
}

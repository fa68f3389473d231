//! Players on different relays share a session, in all four modes.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever was not expected fails the test"
)]

use std::collections::BTreeMap;

use dreamcatcher_e2e::client::{Client, Entry, What};
use dreamcatcher_e2e::control::{By, Event, JoinSession, SessionOptions};
use dreamcatcher_e2e::frame::{Mode, Target};
use dreamcatcher_e2e::process::Mesh;

/// Each sends this many in the test of the order.
const SENDS: u32 = 200;

/// A session with a member on each of three relays; every member has seen everyone join.
async fn three_players(mesh: &Mesh) -> [Client; 3] {
    let mut clients = [
        mesh.client(0, "Ann").await,
        mesh.client(1, "Bea").await,
        mesh.client(2, "Cid").await,
    ];
    let created = clients[0]
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    for client in &mut clients[1..] {
        let joined = client
            .join_code(&created.join_code)
            .await
            .expect("a join by code");
        assert_eq!(
            (&joined.session_id, &joined.owner),
            (&created.session_id, &created.owner)
        );
    }
    for (at, client) in clients.iter_mut().enumerate() {
        for _ in at..3 {
            assert!(matches!(client.event().await, Event::Joined(_)));
        }
    }
    clients
}

#[tokio::test]
async fn a_joiner_finds_the_roster_and_everyone_hears_of_it_in_order() {
    let mesh = Mesh::start(2).await;
    let (mut ann, mut bea) = (mesh.client(0, "Ann").await, mesh.client(1, "Bea").await);
    assert_ne!(
        ann.welcome.node_id, bea.welcome.node_id,
        "they are on different relays"
    );
    let options = SessionOptions {
        name: "Cave".to_owned(),
        max_players: Some(2),
        ..SessionOptions::default()
    };
    let created = ann.create(options).await.expect("a new session");
    assert_eq!(
        (
            created.name.as_str(),
            created.max_players,
            created.peer_id,
            created.incarnation
        ),
        ("Cave", 2, 1, 1)
    );
    assert!(created.roster.is_empty() && !created.resumed);

    // Case, spaces and dashes do not matter.
    let typed = created.join_code.to_lowercase();
    let joined = bea
        .join_code(&format!("{}-{} ", &typed[..3], &typed[3..]))
        .await
        .expect("a join by code");
    let names: Vec<&str> = joined
        .roster
        .iter()
        .map(|member| member.display_name.as_str())
        .collect();
    assert_eq!((names, joined.peer_id), (vec!["Ann"], 2));

    let Event::Joined(first) = ann.event().await else {
        panic!("the first entry is one's own")
    };
    assert_eq!(
        (first.peer_id, first.user_id.as_slice()),
        (1, ann.welcome.user_id.as_slice())
    );
    for client in [&mut ann, &mut bea] {
        let Event::Joined(member) = client.event().await else {
            panic!("Bea joins")
        };
        assert_eq!(
            (
                member.peer_id,
                member.display_name.as_str(),
                member.connected
            ),
            (2, "Bea", true)
        );
    }

    bea.leave().await;
    let Event::Left(left) = ann.event().await else {
        panic!("Bea leaves")
    };
    assert_eq!((left.peer_id, left.code), (2, 0));
    let again = bea
        .join_code(&created.join_code)
        .await
        .expect("the seat is free again");
    assert_eq!(
        (again.peer_id, again.attachment),
        (3, 2),
        "a peer id is never used twice"
    );
}

#[tokio::test]
async fn members_on_three_relays_see_one_order_with_every_message_once() {
    let mesh = Mesh::start(3).await;
    let mut clients = three_players(&mesh).await;
    for turn in 1..=SENDS {
        for client in &mut clients {
            let payload = format!("{}/{turn}", client.peer());
            let target = match turn % 4 {
                0 => Target::All,
                1 => Target::Others,
                2 => Target::Peer(turn as u16 % 3 + 1),
                _ => Target::Peers(vec![1, 3]),
            };
            assert_eq!(client.send(Mode::Ordered, target, payload).await, turn);
        }
    }
    let mut orders: Vec<Vec<Entry>> = Vec::new();
    for client in &mut clients {
        let mut order = Vec::new();
        while order.len() < 3 * SENDS as usize {
            order.push(client.entry().await);
        }
        assert_eq!(client.seat().unresolved(), 0, "every send is committed");
        orders.push(order);
    }
    // The client itself checks that indexes have no hole and none comes twice.
    let mut seqs = BTreeMap::new();
    for at in 0..orders[0].len() {
        let Entry { index, mid, .. } = orders[0][at];
        let seq: &mut u32 = seqs.entry(mid.sender).or_default();
        *seq += 1;
        assert_eq!(*seq, mid.seq, "a sender's messages keep their order");
        for (client, order) in clients.iter().zip(&orders) {
            assert_eq!(
                (order[at].index, order[at].mid),
                (index, mid),
                "one order for all"
            );
            let me = client.peer();
            let included = match mid.seq % 4 {
                0 => true,
                1 => mid.sender != me,
                2 => mid.seq as u16 % 3 + 1 == me,
                _ => me != 2,
            };
            match &order[at].what {
                What::Message { channel, payload } if included => {
                    assert_eq!(
                        (*channel, payload.as_ref()),
                        (0, format!("{}/{}", mid.sender, mid.seq).as_bytes())
                    );
                }
                What::Skip if !included => {}
                other => panic!("{other:?} for peer {me} at {mid:?}"),
            }
        }
    }
}

#[tokio::test]
async fn reliable_messages_reach_whom_they_are_for_once_and_in_order() {
    let mesh = Mesh::start(3).await;
    let mut clients = three_players(&mesh).await;
    for turn in 0..100_u16 {
        for (_, target) in targets() {
            clients[0]
                .send(Mode::Reliable, target, turn.to_be_bytes().to_vec())
                .await;
        }
    }
    clients[0].send(Mode::Reliable, Target::All, "end").await;
    for client in &mut clients {
        let included: Vec<bool> = targets()
            .iter()
            .map(|(who, _)| who.contains(&client.peer()))
            .collect();
        for seq in 1..=400_u32 {
            if included[(seq as usize - 1) % 4] {
                let message = client.message(Mode::Reliable).await;
                assert_eq!(
                    (message.mid.sender, message.mid.incarnation, message.mid.seq),
                    (1, 1, seq)
                );
                assert_eq!(
                    message.payload.as_ref(),
                    ((seq as u16 - 1) / 4).to_be_bytes()
                );
            }
        }
        assert_eq!(client.message(Mode::Reliable).await.payload, "end");
    }
}

#[tokio::test]
async fn latest_and_datagram_reach_whom_they_are_for_and_nobody_else() {
    let mesh = Mesh::start(3).await;
    let mut clients = three_players(&mesh).await;
    for mode in [Mode::Latest, Mode::Datagram] {
        for (key, (who, target)) in targets().into_iter().enumerate() {
            for at in 0..clients.len() {
                // They may be lost, so the test sends until each recipient has one.
                while who.contains(&clients[at].peer()) && !has(&clients[at], mode, key as u16) {
                    let payload = [mode as u8, key as u8].to_vec();
                    clients[0]
                        .send_keyed(mode, target.clone(), key as u16, payload)
                        .await;
                    clients[0].ping().await;
                    clients[at].ping().await;
                }
            }
        }
    }
    for client in &mut clients {
        client.ping().await;
        let mut newest: BTreeMap<u16, u32> = BTreeMap::new();
        for message in client.messages.values().flatten() {
            let (who, _) = &targets()[usize::from(message.payload[1])];
            assert_eq!(message.payload[0], message.mode as u8);
            assert!(
                who.contains(&client.peer()),
                "{message:?} is not for peer {}",
                client.peer()
            );
            if message.mode == Mode::Latest {
                assert_eq!(u16::from(message.payload[1]), message.key);
                let before = newest.insert(message.key, message.mid.seq);
                assert!(before < Some(message.mid.seq), "loopback keeps the order");
            }
        }
    }
}

#[tokio::test]
async fn the_largest_payload_passes_in_every_mode() {
    let mesh = Mesh::start(2).await;
    let (mut ann, mut bea) = (mesh.client(0, "Ann").await, mesh.client(1, "Bea").await);
    let created = ann
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    bea.join_code(&created.join_code)
        .await
        .expect("a join by code");
    let payload: Vec<u8> = (0..65_536_u32).map(|at| (at * 31 / 8) as u8).collect();
    for mode in Mode::ALL {
        ann.send(mode, Target::Others, payload.clone()).await;
        let received = match mode {
            Mode::Ordered => bea.ordered().await.1,
            Mode::Reliable | Mode::Latest | Mode::Datagram => bea.message(mode).await.payload,
        };
        assert!(received == payload, "{mode:?}");
    }
    // What every path carries in one datagram, and one more that is still small.
    for mode in [Mode::Latest, Mode::Datagram] {
        for bytes in [0, 1_100, 1_101, 3_000] {
            ann.send(mode, Target::Others, payload[..bytes].to_vec())
                .await;
            assert_eq!(bea.message(mode).await.payload.len(), bytes);
        }
    }
}

#[tokio::test]
async fn players_of_different_regions_share_a_session() {
    let mesh = Mesh::start_in("eu,us", 4).await;
    let mut ann = mesh.client(0, "Ann").await;
    let created = ann
        .create(SessionOptions::default())
        .await
        .expect("a new session");
    let id = || Some(By::SessionId(created.session_id.clone()));
    let told = created.home_region.clone();
    // Where the session lives is a hint: it is found without it, and in spite of a wrong one.
    let joins = [
        JoinSession {
            by: Some(By::Code(created.join_code.clone())),
            ..JoinSession::default()
        },
        JoinSession {
            by: id(),
            home_region: told,
            ..JoinSession::default()
        },
        JoinSession {
            by: id(),
            ..JoinSession::default()
        },
        JoinSession {
            by: id(),
            home_region: "us".to_owned(),
            ..JoinSession::default()
        },
        JoinSession {
            by: id(),
            home_region: "mars".to_owned(),
            ..JoinSession::default()
        },
    ];
    for (join, relay) in joins.into_iter().zip([1, 3, 1, 3, 1]) {
        let mut bea = mesh.client(relay, "Bea").await;
        let joined = bea
            .join(join.clone())
            .await
            .unwrap_or_else(|e| panic!("{join:?}: {e:?}"));
        assert_eq!(
            (joined.owner, joined.home_region),
            (created.owner.clone(), created.home_region.clone())
        );
        bea.send(Mode::Ordered, Target::Others, "hello").await;
        assert_eq!(ann.ordered().await.1, "hello");
    }
}

#[tokio::test]
async fn sessions_on_the_same_relays_hear_nothing_of_each_other() {
    let mesh = Mesh::start(2).await;
    let mut sessions = Vec::new();
    for number in 0..8_u8 {
        let (mut ann, mut bea) = (mesh.client(0, "Ann").await, mesh.client(1, "Bea").await);
        let created = ann
            .create(SessionOptions::default())
            .await
            .expect("a new session");
        bea.join_code(&created.join_code)
            .await
            .expect("a join by code");
        sessions.push((number, ann, bea));
    }
    for _ in 0..20 {
        for (number, ann, bea) in &mut sessions {
            for mode in Mode::ALL {
                ann.send(mode, Target::All, vec![*number]).await;
                bea.send(mode, Target::All, vec![*number]).await;
            }
        }
    }
    for (number, ann, bea) in &mut sessions {
        for client in [ann, bea] {
            for _ in 0..40 {
                assert_eq!(client.ordered().await.1.as_ref(), [*number]);
                assert_eq!(
                    client.message(Mode::Reliable).await.payload.as_ref(),
                    [*number]
                );
            }
            client.ping().await;
            let messages = client.messages.values().flatten();
            assert!(
                messages
                    .into_iter()
                    .all(|message| message.payload.as_ref() == [*number])
            );
            assert!(client.entries.is_empty() && client.messages[&Mode::Reliable].is_empty());
        }
    }
}

fn has(client: &Client, mode: Mode, key: u16) -> bool {
    let messages = client.messages.get(&mode);
    messages.is_some_and(|messages| {
        messages
            .iter()
            .any(|message| u16::from(message.payload[1]) == key)
    })
}

/// Who receives what peer 1 sends so.
fn targets() -> [(Vec<u16>, Target); 4] {
    [
        (vec![1, 2, 3], Target::All),
        (vec![2, 3], Target::Others),
        (vec![3], Target::Peer(3)),
        (vec![1, 2], Target::Peers(vec![2, 1])),
    ]
}

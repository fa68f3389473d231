//! Relays that are killed while a session of grade Safe is played: real processes, the SDK as games use
//! it, and what its players see.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dreamcatcher_client::{
    Client, ConnectOptions, Event, Grade, Mode, Session, SessionOptions, Target, auth,
};
use dreamcatcher_e2e::PATIENCE;
use dreamcatcher_e2e::cluster::Cluster;

/// Messages of each player, before and after the relay is killed.
const BEFORE: u32 = 50;
const AFTER: u32 = 150;
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::test]
async fn when_the_owner_of_a_safe_session_is_killed_nothing_is_lost_doubled_or_reordered() {
    play_on_without("the owner", |owner, _| owner).await;
}

#[tokio::test]
async fn when_the_standby_of_a_safe_session_is_killed_nothing_is_lost_doubled_or_reordered() {
    play_on_without("a relay that is not the owner", |owner, other| {
        assert_ne!(owner, other);
        other
    })
    .await;
}

/// Three players on three relays; one relay is killed in the middle.
async fn play_on_without(whom: &str, which: impl FnOnce(usize, usize) -> usize) {
    let mut cluster = Cluster::start(3).await;
    let mut clients = Vec::new();
    for relay in &cluster.relays {
        let options = ConnectOptions {
            relays: auth::relays(cluster.auth_url()).await.expect("the list"),
            token: cluster.token("Player").await,
            ..ConnectOptions::default()
        };
        let options = options.prefer(&format!("{}-0", relay.id)).expect("a relay");
        clients.push(Client::connect(options).await.expect("a connection"));
    }
    let options = SessionOptions {
        grade: Grade::Safe,
        ..SessionOptions::default()
    };
    let first = clients[0].create(options).await.expect("a new session");
    let code = first.code().expect("a code").to_string();
    let owner = first.info().owner.to_string();
    let mut sessions = vec![first];
    for client in &clients[1..] {
        sessions.push(client.join_code(&code).await.expect("a join by code"));
    }
    let count = sessions.len() as u32;

    let mut heard: Vec<Heard> = sessions.iter().map(|_| Heard::default()).collect();
    for turn in 0..BEFORE {
        say(&sessions, turn);
        tokio::time::sleep(PAUSE).await;
    }
    let owner = cluster.number(&owner);
    let victim = which(owner, (owner + 1) % 3);
    let node = format!("{}-0", cluster.relays[victim].id);
    let killed = Instant::now();
    cluster.take(&node).process.kill().await;
    let talking = async {
        for turn in BEFORE..BEFORE + AFTER {
            say(&sessions, turn);
            tokio::time::sleep(PAUSE).await;
        }
    };
    talking.await;
    for (session, heard) in sessions.iter_mut().zip(&mut heard) {
        let all = heard.all(session, (BEFORE + AFTER) * count);
        tokio::time::timeout(PATIENCE, all)
            .await
            .unwrap_or_else(|_| panic!("{} heard", heard.at.len()));
    }
    println!(
        "{whom} killed: all that was said was heard {:?} later",
        killed.elapsed()
    );

    let order = &heard[0].at;
    let mut next = BTreeMap::new();
    for (sender, turn) in order.values() {
        let due = next.entry(*sender).or_insert(0);
        assert_eq!(turn, due, "each sender's in its order, once");
        *due += 1;
    }
    for other in &heard[1..] {
        for (index, message) in &other.at {
            // Who joined later does not hear what was before.
            assert_eq!(order.get(index).unwrap_or(message), message, "at {index}");
        }
        assert_eq!(other.at.len(), order.len());
    }
}

/// What one player heard, by its place.
#[derive(Default)]
struct Heard {
    at: BTreeMap<u64, (u32, u32)>,
}

impl Heard {
    async fn all(&mut self, session: &mut Session, count: u32) {
        while self.at.len() < count as usize {
            match session.recv().await.expect("the session goes on") {
                Event::Message { index, payload, .. } => {
                    let index = index.expect("it is ordered").0;
                    let (sender, turn) = payload.split_at(4);
                    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four"));
                    let before = self.at.insert(index, (number(sender), number(turn)));
                    assert_eq!(before, None, "index {index} came twice");
                }
                Event::Ended { error, .. } => panic!("ended: {error}"),
                Event::PeerJoined(_)
                | Event::PeerDropped(_)
                | Event::PeerRejoined(_)
                | Event::PeerLeft { .. }
                | Event::Committed { .. }
                | Event::Rejected { .. }
                | Event::ReliableGap { .. }
                | Event::Reconnecting
                | Event::Resumed => {}
            }
        }
    }
}

fn say(sessions: &[Session], turn: u32) {
    for (number, session) in (0_u32..).zip(sessions) {
        let payload = [number.to_be_bytes(), turn.to_be_bytes()].concat();
        session
            .send(Mode::Ordered, Target::All, payload)
            .expect("room for it");
    }
}

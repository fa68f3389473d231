//! A member whose connection is gone comes back, anywhere, and has missed nothing.

use dreamcatcher_e2e::client::{Client, Seat, What, closed};
use dreamcatcher_e2e::cluster::{Cluster, Extra};
use dreamcatcher_e2e::code;
use dreamcatcher_e2e::control::{
    By, Event, JoinSession, RelayBody, ReliableCount, Resume, SessionOptions,
};
use dreamcatcher_e2e::frame::{Mode, Target};
use dreamcatcher_e2e::process::Mesh;

/// Ann on the first relay, Bea on the second with the token that she comes back with.
async fn two_players(mesh: &Mesh, options: SessionOptions) -> (Client, Client, String) {
    let mut ann = mesh.client(0, "Ann").await;
    let token = mesh.token("Bea").await;
    let mut bea = Client::hello(&mesh.relays[1], &token).await;
    let created = ann.create(options).await.expect("a new session");
    bea.join_code(&created.join_code)
        .await
        .expect("a join by code");
    for _ in 0..2 {
        assert!(matches!(ann.event().await, Event::Joined(_)));
    }
    assert!(matches!(bea.event().await, Event::Joined(_)));
    (ann, bea, token)
}

#[tokio::test]
async fn a_member_that_resumes_on_another_relay_misses_nothing_and_sees_nothing_twice() {
    let mesh = Mesh::start(3).await;
    let (mut ann, mut bea, token) = two_players(&mesh, SessionOptions::default()).await;

    // What Bea has seen, what is on its way to her, and what she sent with her last breath.
    for turn in 0..20_u8 {
        ann.send(Mode::Ordered, Target::Others, vec![turn]).await;
        bea.send(Mode::Ordered, Target::Others, vec![turn]).await;
    }
    for turn in 0..5_u8 {
        assert_eq!(bea.ordered().await.1.as_ref(), [turn]);
    }
    let behind = unseen(&bea);
    let seat = bea.drop_connection().await;

    let mut from_bea = Vec::new();
    loop {
        match ann.entry().await.what {
            What::Message { payload, .. } => from_bea.push(payload[0]),
            What::Event(Event::Dropped(peer)) => {
                assert_eq!(peer.peer_id, 2);
                break;
            }
            What::Event(other) => panic!("{other:?}"),
            What::Skip => {}
        }
    }
    for turn in 20..40_u8 {
        ann.send(Mode::Ordered, Target::All, vec![turn]).await;
    }

    let mut bea = Client::hello(&mesh.relays[2], &token).await;
    let joined = bea.resume(seat).await.expect("the seat is held");
    assert!(joined.resumed);
    bea.send(Mode::Ordered, Target::All, "back").await;

    // The client checks that there is no hole and no repetition; here: that it is all there.
    let mut from_ann = behind;
    let mut dropped = 0;
    let mut back = false;
    while !back {
        match bea.entry().await.what {
            What::Message { payload, .. } if payload == "back" => back = true,
            What::Message { payload, .. } => from_ann.push(payload[0]),
            What::Event(Event::Dropped(_)) => dropped += 1,
            What::Event(Event::Rejoined(peer)) => {
                assert_eq!((peer.peer_id, peer.incarnation), (2, 1))
            }
            What::Event(other) => panic!("{other:?}"),
            What::Skip => {}
        }
    }
    assert_eq!(from_ann, (5..40).collect::<Vec<u8>>());
    assert_eq!((dropped, bea.seat().unresolved()), (1, 0));

    loop {
        match ann.entry().await.what {
            What::Message { payload, .. } if payload == "back" => break,
            What::Message { payload, .. } if payload[0] < 20 => from_bea.push(payload[0]),
            What::Message { .. } | What::Event(Event::Rejoined(_)) | What::Skip => {}
            What::Event(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(
        from_bea,
        (0..20).collect::<Vec<u8>>(),
        "each of hers once and in order, sent again or not"
    );
}

#[tokio::test]
async fn a_member_whose_old_connection_lives_on_resumes_and_the_old_one_is_told() {
    let mesh = Mesh::start(3).await;
    let (mut ann, mut bea, token) = two_players(&mesh, SessionOptions::default()).await;
    for relay in [2, 0, 1] {
        let seat: Seat = bea.seat().clone();
        let mut again = Client::hello(&mesh.relays[relay], &token).await;
        assert!(again.resume(seat).await.expect("the seat is hers").resumed);
        match bea.next_control().await.body {
            Some(RelayBody::Ended(ended)) => {
                let cause = ended.cause.expect("a cause");
                assert_eq!(u64::from(cause.code), code::REPLACED_BY_NEW_CONNECTION);
            }
            other => panic!("{other:?} instead of the end"),
        }
        bea = again;
        ann.send(Mode::Ordered, Target::All, "still there?").await;
        assert_eq!(bea.ordered().await.1, "still there?");
        bea.send(Mode::Ordered, Target::All, "yes").await;
        assert_eq!(ann.ordered().await.1, "still there?");
        assert_eq!(ann.ordered().await.1, "yes");
        assert_eq!(bea.ordered().await.1, "yes");
    }
}

#[tokio::test]
async fn a_member_that_joins_anew_has_its_seat_in_a_new_life() {
    let mesh = Mesh::start(2).await;
    let (mut ann, bea, token) = two_players(&mesh, SessionOptions::default()).await;
    let code = bea.seat().joined.join_code.clone();
    let seat = bea.drop_connection().await;
    assert!(matches!(ann.event().await, Event::Dropped(_)));

    let mut bea = Client::hello(&mesh.relays[0], &token).await;
    let joined = bea.join_code(&code).await.expect("a join by code");
    assert_eq!(
        (joined.peer_id, joined.incarnation, joined.resumed),
        (2, 2, false)
    );
    assert_eq!(joined.roster.len(), 2);
    for client in [&mut ann, &mut bea] {
        let Event::Rejoined(peer) = client.event().await else {
            panic!("she is back")
        };
        assert_eq!((peer.peer_id, peer.incarnation), (2, 2));
    }
    assert_eq!(
        bea.send(Mode::Ordered, Target::All, "hello again").await,
        1,
        "counters start anew"
    );
    assert_eq!(ann.ordered().await.1, "hello again");

    // The former life cannot be resumed any more.
    let mut ghost = Client::hello(&mesh.relays[1], &token).await;
    let failure = ghost.resume(seat).await.expect_err("a former life");
    assert_eq!(u64::from(failure.code), code::REJOIN_EXPIRED);
}

#[tokio::test]
async fn a_seat_is_given_up_when_its_time_is_over() {
    let mesh = Mesh::start(2).await;
    let options = SessionOptions {
        rejoin_hold_s: Some(1),
        ..SessionOptions::default()
    };
    let (mut ann, bea, token) = two_players(&mesh, options).await;
    let seat = bea.drop_connection().await;
    assert!(matches!(ann.event().await, Event::Dropped(_)));
    let Event::Left(left) = ann.event().await else {
        panic!("her seat is given up")
    };
    assert_eq!(
        (left.peer_id, u64::from(left.code)),
        (2, code::REJOIN_EXPIRED)
    );

    let mut bea = Client::hello(&mesh.relays[0], &token).await;
    let failure = bea.resume(seat).await.expect_err("the seat is gone");
    assert_eq!(u64::from(failure.code), code::REJOIN_EXPIRED);
}

#[tokio::test]
async fn reliable_messages_that_were_lost_on_the_way_to_an_absent_member_are_counted() {
    let mesh = Mesh::start(3).await;
    let (mut ann, mut bea, token) = two_players(&mesh, SessionOptions::default()).await;
    ann.send(Mode::Reliable, Target::Others, "one").await;
    assert_eq!(bea.message(Mode::Reliable).await.payload, "one");
    let seat = bea.drop_connection().await;
    assert!(matches!(ann.event().await, Event::Dropped(_)));
    for lost in ["two", "three"] {
        ann.send(Mode::Reliable, Target::Others, lost).await;
    }
    // A stranger's rejection comes back through the owner: what was sent before is there too.
    ann.send(Mode::Reliable, Target::Peer(9), "fence").await;
    assert!(matches!(
        ann.next_control().await.body,
        Some(RelayBody::SendRejected(_))
    ));

    let mut bea = Client::hello(&mesh.relays[2], &token).await;
    assert!(bea.resume(seat).await.expect("the seat is held").resumed);
    match bea.next_control().await.body {
        Some(RelayBody::ReliableGap(gap)) => assert_eq!((gap.sender, gap.missed), (1, 2)),
        other => panic!("{other:?} instead of a gap"),
    }
    ann.send(Mode::Reliable, Target::Others, "four").await;
    let message = bea.message(Mode::Reliable).await;
    assert_eq!(
        (message.payload.as_ref(), message.mid.seq),
        (&b"four"[..], 5)
    );
}

#[tokio::test]
async fn a_rejection_that_was_lost_with_the_connection_is_told_again() {
    let mesh = Mesh::start(2).await;
    let (mut ann, mut bea, token) = two_players(&mesh, SessionOptions::default()).await;
    bea.send(Mode::Ordered, Target::Peer(9), "to nobody").await;
    bea.send(Mode::Ordered, Target::All, "to all").await;
    assert_eq!(ann.ordered().await.1, "to all");
    // She has read neither.
    let seat = bea.drop_connection().await;
    assert_eq!(seat.unresolved(), 2);

    let mut bea = Client::hello(&mesh.relays[0], &token).await;
    assert_eq!(
        bea.resume(seat)
            .await
            .expect("the seat is held")
            .ordered_seen,
        2
    );
    let Event::Refused(refused) = bea.event().await else {
        panic!("it is not refused");
    };
    assert_eq!((refused.seq, refused.absent), (1, 9));
    assert_eq!(bea.ordered().await.1, "to all");
    assert_eq!(bea.seat().unresolved(), 0);
}

#[tokio::test]
async fn a_resume_that_claims_too_much_harms_nobody() {
    let mesh = Mesh::start(2).await;
    let (mut ann, mut bea, token) = two_players(&mesh, SessionOptions::default()).await;
    ann.send(Mode::Reliable, Target::Others, "one").await;
    assert_eq!(bea.message(Mode::Reliable).await.payload, "one");
    let seat = bea.drop_connection().await;
    assert!(matches!(ann.event().await, Event::Dropped(_)));

    let mut bea = Client::hello(&mesh.relays[1], &token).await;
    let honest = seat.resume();
    let everything = ReliableCount {
        sender: 1,
        count: u32::MAX,
    };
    #[rustfmt::skip] // a table
    let cases = [
        (Resume { last_index: u64::MAX, ..honest.clone() }, "last_index"),
        (Resume { last_index: 0, ..honest.clone() }, "last_index"),
        (Resume { reliable: vec![everything; 129], ..honest.clone() }, "reliable"),
        (Resume { peer_id: u32::MAX, ..honest.clone() }, "peer_id"),
    ];
    for (resume, field) in cases {
        let failure = bea.join(by_id(&seat, resume)).await.expect_err(field);
        assert_eq!(
            u64::from(failure.code),
            code::INVALID_ARGUMENT,
            "{failure:?}"
        );
        assert!(
            failure.message.contains(field),
            "{field} is not in {failure:?}"
        );
    }
    let other_seat = Resume {
        peer_id: 1,
        ..honest.clone()
    };
    let failure = bea
        .join(by_id(&seat, other_seat))
        .await
        .expect_err("another's seat");
    assert_eq!(u64::from(failure.code), code::REJOIN_EXPIRED);

    let resume = Resume {
        reliable: vec![everything; 128],
        ..honest
    };
    bea.join(by_id(&seat, resume))
        .await
        .expect("the seat is held");
    ann.send(Mode::Reliable, Target::Others, "two").await;
    assert_eq!(bea.message(Mode::Reliable).await.payload, "two");
    ann.ping().await;
}

#[tokio::test]
async fn a_member_that_does_not_read_is_let_go_and_resumes_without_a_gap() {
    // Relays that let a member send faster than the usual rates do.
    let mut mesh = Cluster::start(0).await;
    for _ in 0..3 {
        let extra = Extra {
            arguments: &["--byte-rate", "16777216"],
            environment: &[],
        };
        mesh.add_relay(extra).await;
    }
    let mut ann = mesh.client(0, "Ann").await;
    let token = mesh.token("Bea").await;
    let mut bea = Client::hello(&mesh.relays[1].address, &token).await;
    let mut cid = mesh.client(2, "Cid").await;
    let created = ann.create(SessionOptions::default()).await;
    let code = created.expect("a new session").join_code;
    for joiner in [&mut bea, &mut cid] {
        joiner.join_code(&code).await.expect("a join by code");
    }
    for _ in 0..3 {
        assert!(matches!(ann.event().await, Event::Joined(_)));
    }

    // More than fits into all that lies between Ann and Bea, less than the owner retains.
    let sends = 110_u8;
    let mut told = false;
    for turn in 0..sends {
        ann.send(Mode::Ordered, Target::All, vec![turn; 65_536])
            .await;
        assert_eq!(cid.ordered().await.1[0], turn, "the others go on");
        loop {
            match ann.entry().await.what {
                What::Message { payload, .. } => break assert_eq!(payload[0], turn),
                What::Event(Event::Dropped(_)) => told = true,
                other @ (What::Event(_) | What::Skip) => panic!("{other:?}"),
            }
        }
    }
    let (closed, reason) = closed(&bea.connection).await;
    assert_eq!(closed, code::SLOW_CONSUMER, "{reason}");
    if !told {
        assert!(matches!(ann.event().await, Event::Dropped(_)));
    }

    let seat = bea.drop_connection().await;
    let mut bea = Client::hello(&mesh.relays[0].address, &token).await;
    assert!(bea.resume(seat).await.expect("the seat is held").resumed);
    for turn in 0..sends {
        assert_eq!(bea.ordered().await.1[0], turn);
    }
}

fn by_id(seat: &Seat, resume: Resume) -> JoinSession {
    let by = Some(By::SessionId(seat.joined.session_id.clone()));
    JoinSession {
        by,
        resume: Some(resume),
        ..JoinSession::default()
    }
}

/// The messages that a client has received and its test has not looked at.
fn unseen(client: &Client) -> Vec<u8> {
    let payloads = client.entries.iter().filter_map(|entry| match &entry.what {
        What::Message { payload, .. } => payload.first().copied(),
        What::Event(_) | What::Skip => None,
    });
    payloads.collect()
}

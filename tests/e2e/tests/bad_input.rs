//! Whatever a client sends, it is told what was wrong, and nobody else notices.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever was not expected fails the test"
)]

use bytes::{Bytes, BytesMut};
use dreamcatcher_e2e::client::{Client, What, closed, connect};
use dreamcatcher_e2e::control::{
    By, ClientBody, ClientControl, CreateSession, Event, Failure, Hello, JoinSession, LeaveSession,
    Nonce, RelayBody, ReliableCount, Resume, SessionOptions,
};
use dreamcatcher_e2e::frame::{self, Mode, Publish, Target};
use dreamcatcher_e2e::process::{LoneRelay, Mesh};
use dreamcatcher_e2e::token::{self, Key};
use dreamcatcher_e2e::{code, tls, within};
use quinn::{ConnectionError, VarInt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// Two players in a session, one of them on the relay that is ill-treated.
struct Bystanders {
    ann: Client,
    bea: Client,
}

impl Bystanders {
    async fn on(mesh: &Mesh) -> Self {
        let (mut ann, mut bea) = (mesh.client(0, "Ann").await, mesh.client(1, "Bea").await);
        let created = ann
            .create(SessionOptions::default())
            .await
            .expect("a new session");
        bea.join_code(&created.join_code)
            .await
            .expect("a join by code");
        for _ in 0..2 {
            assert!(matches!(ann.event().await, Event::Joined(_)));
        }
        assert!(matches!(bea.event().await, Event::Joined(_)));
        Self { ann, bea }
    }

    /// They talk both ways; nothing but their talk has come.
    async fn are_undisturbed(&mut self, by: &str) {
        self.ann
            .send(Mode::Ordered, Target::All, by.to_owned())
            .await;
        self.bea
            .send(Mode::Ordered, Target::All, by.to_owned())
            .await;
        for client in [&mut self.ann, &mut self.bea] {
            for _ in 0..2 {
                match client.entry().await.what {
                    What::Message { payload, .. } => assert_eq!(payload, by),
                    other => panic!("after {by}: {other:?}"),
                }
            }
            client.ping().await;
            assert!(
                client.controls.is_empty(),
                "after {by}: {:?}",
                client.controls
            );
            assert!(
                client.messages.is_empty() && client.entries.is_empty(),
                "after {by}"
            );
        }
    }
}

/// How bytes are sent.
#[derive(Clone, Copy, Debug)]
enum Way {
    Control,
    /// A unidirectional stream.
    Bulk,
    Datagram,
}

#[tokio::test]
async fn bytes_that_are_no_frame_close_the_connection_with_what_was_wrong() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    let publish = |change: &dyn Fn(&mut Vec<u8>)| {
        // attachment 1, Datagram, channel 0, seq 1, All
        let mut body = vec![frame::PUBLISH, 0, 1, 3, 0, 0, 0, 0, 1, 0];
        change(&mut body);
        frame::framed(&body).to_vec()
    };
    let body = |kind: u8, len: usize| {
        let mut body = vec![0; len];
        body[0] = kind;
        frame::framed(&body).to_vec()
    };
    let ordered = publish(&|body| body[3] = 0);
    let ping = frame::encode_control(&ClientControl {
        request: 0,
        body: Some(ClientBody::Ping(Nonce { nonce: 1 })),
    });
    #[rustfmt::skip] // a table
    let cases = [
        ("a length of 0", Way::Control, vec![0], code::MALFORMED_FRAME),
        ("a length of 2^62", Way::Control, vec![0xff; 8], code::FRAME_TOO_LARGE),
        ("a length one over the limit", Way::Control, vec![0x80, 1, 4, 1], code::FRAME_TOO_LARGE),
        ("a control message over its limit", Way::Control, body(frame::CONTROL, 32_770), code::FRAME_TOO_LARGE),
        ("a type that is not known", Way::Control, body(0x77, 1), code::UNKNOWN_FRAME),
        ("a relay's frame", Way::Control, body(frame::DELIVER, 40), code::UNKNOWN_FRAME),
        ("a frame between relays", Way::Control, body(0x20, 60), code::UNKNOWN_FRAME),
        ("control between relays", Way::Control, body(0x02, 4), code::UNKNOWN_FRAME),
        ("no control message", Way::Control, body(frame::CONTROL, 1), code::MALFORMED_FRAME),
        ("no Protobuf", Way::Control, vec![4, frame::CONTROL, 0xff, 0xff, 0xff], code::MALFORMED_FRAME),
        ("a header that is cut short", Way::Control, body(frame::PUBLISH, 9), code::MALFORMED_FRAME),
        ("mode 4", Way::Control, publish(&|body| body[3] = 4), code::MALFORMED_FRAME),
        ("channel 16", Way::Control, publish(&|body| body[4] = 16), code::MALFORMED_FRAME),
        ("the session's channel", Way::Control, publish(&|body| body[4] = 255), code::MALFORMED_FRAME),
        ("target 2", Way::Control, publish(&|body| body[9] = 2), code::MALFORMED_FRAME),
        ("no target", Way::Control, publish(&|body| { body[9] = 4; body.push(0); }), code::MALFORMED_FRAME),
        ("129 targets", Way::Control, publish(&|body| { body[9] = 4; body.push(129); body.extend([0; 258]); }), code::MALFORMED_FRAME),
        ("a long Ack", Way::Control, body(frame::ACK, 12), code::MALFORMED_FRAME),
        ("a payload over its limit", Way::Control, body(frame::PUBLISH, 10 + 65_537), code::MESSAGE_TOO_LARGE),
        ("a control stream that ends early", Way::Control, vec![5, frame::CONTROL], code::TRUNCATED_FRAME),
        ("a bulk stream that ends early", Way::Bulk, vec![0x40, 5, frame::PUBLISH], code::TRUNCATED_FRAME),
        ("control on the bulk stream", Way::Bulk, ping.to_vec(), code::MALFORMED_FRAME),
        ("Ordered on the bulk stream", Way::Bulk, ordered.clone(), code::MALFORMED_FRAME),
        ("garbage on the bulk stream", Way::Bulk, vec![0xee; 100], code::FRAME_TOO_LARGE),
        ("a datagram that ends early", Way::Datagram, vec![5, frame::PUBLISH], code::TRUNCATED_FRAME),
        ("a datagram with a length of 0", Way::Datagram, vec![0, 0, 0], code::MALFORMED_FRAME),
        ("a datagram of garbage", Way::Datagram, vec![0xff; 1_000], code::FRAME_TOO_LARGE),
        ("an unknown type in a datagram", Way::Datagram, body(0x77, 1), code::UNKNOWN_FRAME),
        ("control in a datagram", Way::Datagram, ping.to_vec(), code::MALFORMED_FRAME),
        ("Ordered in a datagram", Way::Datagram, ordered, code::MALFORMED_FRAME),
    ];
    for (name, way, bytes, expected) in cases {
        let mut eve = mesh.client(0, "Eve").await;
        match way {
            Way::Control => {
                eve.write_control(&bytes).await;
                eve.finish_control();
            }
            Way::Bulk => {
                let mut bulk = eve.connection.open_uni().await.expect("a bulk stream");
                bulk.write_all(&bytes).await.expect("room");
                bulk.finish().expect("it is open");
            }
            Way::Datagram => eve.connection.send_datagram(bytes.into()).expect("it fits"),
        }
        let (closed, reason) = closed(&eve.connection).await;
        assert_eq!(closed, expected, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name} comes with words");
        bystanders.are_undisturbed(name).await;
    }
}

#[tokio::test]
async fn streams_that_break_the_rules_close_the_connection() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;

    let eve = mesh.client(0, "Eve").await;
    let (mut second, _) = eve.connection.open_bi().await.expect("QUIC allows it");
    let _ = second.write_all(&[1]).await;
    assert_eq!(closed(&eve.connection).await.0, code::INVALID_STATE);
    bystanders.are_undisturbed("a second control stream").await;

    let eve = mesh.client(0, "Eve").await;
    let mut bulk = eve.connection.open_uni().await.expect("a bulk stream");
    bulk.write_all(&[0x40]).await.expect("room");
    bulk.reset(VarInt::from_u32(0)).expect("it is open");
    assert_eq!(closed(&eve.connection).await.0, code::INVALID_STATE);
    bystanders.are_undisturbed("a reset").await;

    let mut eve = mesh.client(0, "Eve").await;
    eve.finish_control();
    assert_eq!(closed(&eve.connection).await.0, code::INVALID_STATE);
    bystanders.are_undisturbed("an ended control stream").await;
}

#[tokio::test]
async fn a_connection_without_a_proper_hello_is_closed_with_what_was_wrong() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    let token = mesh.token("Eve").await;
    let control = |body| {
        frame::encode_control(&ClientControl {
            request: 0,
            body: Some(body),
        })
        .to_vec()
    };
    let hello = |version| {
        control(ClientBody::Hello(Hello {
            version,
            token: token.clone(),
            sdk: String::new(),
        }))
    };
    let publish = Publish {
        attachment: 1,
        mode: Mode::Datagram,
        channel: 0,
        seq: 1,
        target: Target::All,
        key: 0,
        payload: "early".into(),
    };
    let publish = publish.encode().to_vec();
    #[rustfmt::skip] // a table
    let cases = [
        ("a ping first", control(ClientBody::Ping(Nonce { nonce: 1 })), code::INVALID_STATE),
        ("a message first", publish.clone(), code::INVALID_STATE),
        ("two Hellos", [hello(1), hello(1)].concat(), code::INVALID_STATE),
        ("garbage first", vec![1, 0x77], code::UNKNOWN_FRAME),
        ("version 0", hello(0), code::PROTOCOL_VERSION),
        ("version 2", hello(2), code::PROTOCOL_VERSION),
        ("half a Hello", hello(1)[..20].to_vec(), code::HELLO_TIMEOUT),
    ];
    for (name, bytes, expected) in cases {
        let (_endpoint, connection) = connect(&mesh.relays[0], tls::ALPN)
            .await
            .expect("a connection");
        let (mut stream, _answers) = connection.open_bi().await.expect("the control stream");
        stream.write_all(&bytes).await.expect("room");
        let (closed, reason) = closed(&connection).await;
        assert_eq!(closed, expected, "{name}: {reason}");
        bystanders.are_undisturbed(name).await;
    }

    let (_endpoint, connection) = connect(&mesh.relays[0], tls::ALPN)
        .await
        .expect("a connection");
    connection.send_datagram(publish.into()).expect("it fits");
    assert_eq!(
        closed(&connection).await.0,
        code::INVALID_STATE,
        "a datagram first"
    );
    bystanders.are_undisturbed("a datagram first").await;

    let (_endpoint, connection) = connect(&mesh.relays[0], tls::ALPN)
        .await
        .expect("a connection");
    assert_eq!(
        closed(&connection).await.0,
        code::HELLO_TIMEOUT,
        "not a word"
    );
    bystanders.are_undisturbed("not a word").await;

    let mut eve = Client::hello(&mesh.relays[0], &token).await;
    eve.write_control(&hello(1)).await;
    assert_eq!(
        closed(&eve.connection).await.0,
        code::INVALID_STATE,
        "a second Hello"
    );
    bystanders.are_undisturbed("a second Hello").await;
}

#[tokio::test]
async fn another_alpn_fails_in_tls() {
    let mesh = Mesh::start(1).await;
    for alpn in ["h3", "dreamcatcher/2", "dreamcatcher-mesh/1"] {
        // Alert 120, no_application_protocol, as RFC 9001 carries it.
        match connect(&mesh.relays[0], alpn).await {
            Err(ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(u64::from(close.error_code), 0x178, "{alpn}: {close}");
            }
            other => panic!("{alpn}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_that_auth_did_not_issue_is_refused() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    let token = mesh.token("Eve").await;
    let (header, claims) = token::parts(&token);
    let signature = token.rsplit('.').next().expect("a JWT has a signature");
    let key_id = header["kid"].as_str().expect("a key id");
    let none = json!({"alg": "none", "typ": "JWT", "kid": key_id});
    let mut promoted = claims.clone();
    promoted["sub"] = json!("00".repeat(16));
    #[rustfmt::skip] // a table
    let cases = [
        ("no token", String::new()),
        ("words", "let me in".to_owned()),
        ("no signature", format!("{}.", token::unsigned(&none, &claims))),
        ("a cut signature", format!("{}.", token::unsigned(&header, &claims))),
        ("changed claims", format!("{}.{signature}", token::unsigned(&header, &promoted))),
        ("another key under the same name", Key::new(key_id, 66).sign(&claims)),
        ("a key of nobody's", Key::new("nobody", 66).sign(&claims)),
        ("5,000 characters", "x".repeat(5_000)),
    ];
    for (name, forged) in cases {
        assert_eq!(
            refusal(&mesh.relays[0], forged).await,
            code::INVALID_TOKEN,
            "{name}"
        );
        bystanders.are_undisturbed(name).await;
    }
}

#[tokio::test]
async fn a_token_is_refused_outside_its_time_and_for_another_audience() {
    let key = Key::new("ours", 7);
    let lone = LoneRelay::start(&key).await;
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("it is after 1970")
        .as_secs();
    let with = |field: &str, value: &str| {
        let mut claims = token::claims(now, now + 900);
        claims[field] = json!(value);
        key.sign(&claims)
    };
    let client = Client::hello(&lone.relay, &key.sign(&token::claims(now, now + 900))).await;
    assert_eq!(client.welcome.user_id, [0xab; 16], "a good token is taken");
    #[rustfmt::skip] // a table
    let cases = [
        ("expired", key.sign(&token::claims(now - 960, now - 60)), code::TOKEN_EXPIRED),
        ("not valid yet", key.sign(&token::claims(now + 60, now + 960)), code::INVALID_TOKEN),
        ("another audience", with("aud", "another"), code::INVALID_TOKEN),
        ("another issuer", with("iss", "another"), code::INVALID_TOKEN),
        ("no user", with("sub", "Eve"), code::INVALID_TOKEN),
    ];
    for (name, token, expected) in cases {
        assert_eq!(refusal(&lone.relay, token).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_granted_is_answered_and_the_connection_lives() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    let session = bystanders.ann.seat().joined.session_id.clone();
    let mut eve = mesh.client(0, "Eve").await;

    let options = SessionOptions::default;
    #[rustfmt::skip] // a table
    let cases = [
        (SessionOptions { max_players: Some(0), ..options() }, "max_players"),
        (SessionOptions { max_players: Some(65), ..options() }, "max_players"),
        (SessionOptions { name: "n".repeat(65), ..options() }, "name"),
        (SessionOptions { rejoin_hold_s: Some(601), ..options() }, "rejoin_hold"),
        (SessionOptions { empty_ttl_s: Some(301), ..options() }, "empty_ttl"),
        (SessionOptions { app_version: "v".repeat(65), ..options() }, "app_version"),
        (SessionOptions { region: "r".repeat(33), ..options() }, "region"),
        (SessionOptions { visibility: 9, ..options() }, "visibility"),
    ];
    for (options, field) in cases {
        let failure = eve.create(options).await.expect_err(field);
        assert_eq!(u64::from(failure.code), code::INVALID_ARGUMENT);
        assert!(
            failure.message.contains(field),
            "{field} is not in {failure:?}"
        );
    }

    let join = |by, resume| JoinSession {
        by,
        resume,
        ..JoinSession::default()
    };
    let stranger = Resume {
        peer_id: 1,
        incarnation: 1,
        ..Resume::default()
    };
    #[rustfmt::skip] // a table
    let cases = [
        (join(None, None), code::INVALID_ARGUMENT),
        (join(Some(By::SessionId(vec![7; 16])), None), code::SESSION_NOT_FOUND),
        (join(Some(By::SessionId(vec![7; 15])), None), code::INVALID_ARGUMENT),
        (join(Some(By::Code("WWWWWW".to_owned())), None), code::JOIN_CODE_NOT_FOUND),
        (join(Some(By::Code("AEIOU!".to_owned())), None), code::INVALID_JOIN_CODE),
        (join(Some(By::Code("BCD".to_owned())), None), code::INVALID_JOIN_CODE),
        (join(Some(By::SessionId(session)), Some(stranger)), code::REJOIN_EXPIRED),
    ];
    for (join, expected) in cases {
        let failure = eve.join(join.clone()).await.expect_err("a refusal");
        assert_eq!(u64::from(failure.code), expected, "{join:?}: {failure:?}");
    }
    let leave = eve
        .ask(ClientBody::Leave(LeaveSession { attachment: 1 }))
        .await;
    assert_eq!(
        failure_code(leave),
        code::INVALID_STATE,
        "a leave of nothing"
    );
    eve.ping().await;
    bystanders.are_undisturbed("refusals").await;

    // Nothing is left of the refused requests that would be in the way of a good one.
    let small = SessionOptions {
        max_players: Some(1),
        app_version: "1.2".to_owned(),
        ..options()
    };
    let created = eve.create(small).await.expect("a new session");
    assert_eq!(
        u64::from(eve.create(options()).await.expect_err("a refusal").code),
        code::ALREADY_IN_SESSION
    );
    assert_eq!(
        u64::from(
            eve.join_code(&created.join_code)
                .await
                .expect_err("a refusal")
                .code
        ),
        code::ALREADY_IN_SESSION
    );
    let mut fay = mesh.client(1, "Fay").await;
    let failure = fay
        .join_code(&created.join_code)
        .await
        .expect_err("a refusal");
    assert_eq!(u64::from(failure.code), code::VERSION_MISMATCH);
    assert!(failure.message.contains("1.2"), "{failure:?}");
    let by = Some(By::Code(created.join_code));
    let join = JoinSession {
        by,
        app_version: "1.2".to_owned(),
        ..JoinSession::default()
    };
    assert_eq!(
        u64::from(fay.join(join).await.expect_err("a refusal").code),
        code::SESSION_FULL
    );
    bystanders.are_undisturbed("more refusals").await;
}

#[tokio::test]
async fn a_message_to_a_stranger_is_rejected_in_every_mode() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    for mode in Mode::ALL {
        for target in [Target::Peer(9), Target::Peers(vec![1, 2, 9])] {
            let seq = bystanders.bea.send(mode, target, "hello?").await;
            if mode == Mode::Ordered {
                // In the order, where it would have been.
                let Event::Refused(refused) = bystanders.bea.event().await else {
                    panic!("it is not refused");
                };
                assert_eq!((refused.seq, refused.absent), (seq, 9));
                assert_eq!(u64::from(refused.code), code::PEER_NOT_FOUND);
                assert!(matches!(bystanders.ann.entry().await.what, What::Skip));
                continue;
            }
            match bystanders.bea.next_control().await.body {
                Some(RelayBody::SendRejected(rejected)) => {
                    assert_eq!((rejected.mode, rejected.seq), (mode as u32, seq));
                    let cause = rejected.cause.expect("a cause");
                    assert_eq!(u64::from(cause.code), code::PEER_NOT_FOUND);
                    assert!(cause.message.contains('9'), "{cause:?}");
                }
                other => panic!("{mode:?}: {other:?} instead of SendRejected"),
            }
        }
    }
    bystanders.are_undisturbed("a message to a stranger").await;
    assert_eq!(bystanders.bea.seat().unresolved(), 0);
}

#[tokio::test]
async fn a_message_of_an_earlier_membership_reaches_nobody() {
    let mesh = Mesh::start(2).await;
    let Bystanders { mut ann, mut bea } = Bystanders::on(&mesh).await;
    let code = ann.seat().joined.join_code.clone();
    bea.leave().await;
    bea.join_code(&code).await.expect("a join by code");
    for mode in Mode::ALL {
        let stale = Publish {
            attachment: 1,
            mode,
            channel: 0,
            seq: 1,
            target: Target::All,
            key: 0,
            payload: "stale".into(),
        };
        bea.publish(&stale).await;
        bea.send(mode, Target::Others, "fresh").await;
        let received = match mode {
            Mode::Ordered => ann.ordered().await.1,
            Mode::Reliable | Mode::Latest | Mode::Datagram => ann.message(mode).await.payload,
        };
        assert_eq!(received, "fresh", "{mode:?}");
    }
    ann.ping().await;
    assert!(ann.messages.values().all(|messages| messages.is_empty()));
}

#[tokio::test]
async fn who_creates_or_joins_too_often_is_told_when_to_try_again_and_others_are_not() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    let mut eve = Client::hello(&mesh.relays[0], &mesh.token("Eve").await).await;
    let mut refused = None;
    // A burst of 10 is granted.
    for _ in 0..=20 {
        match eve.create(SessionOptions::default()).await {
            Ok(_) => eve.leave().await,
            Err(failure) => {
                refused = Some(failure);
                break;
            }
        }
    }
    let refused = refused.expect("no limit");
    assert_eq!(refused.code, 206, "{refused:?}");
    assert!((1..=3_000).contains(&refused.retry_after_ms), "{refused:?}");
    let mut refused = None;
    for _ in 0..=40 {
        let failure = eve.join_code("BCDF67").await.expect_err("an unknown code");
        if failure.code != 413 {
            refused = Some(failure);
            break;
        }
    }
    assert_eq!(refused.expect("no limit").code, 206);
    bystanders.are_undisturbed("a user in a hurry").await;
}

#[tokio::test]
async fn mutated_frames_harm_at_most_their_own_connection() {
    let mesh = Mesh::start(2).await;
    let mut bystanders = Bystanders::on(&mesh).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..40 {
        let token = mesh.token("Eve").await;
        let mut eve = Client::hello(&mesh.relays[0], &token).await;
        // A member, half of the time: what she sends then goes on to the owner.
        if random.random() {
            eve.create(SessionOptions::default())
                .await
                .expect("a new session");
        }
        for _ in 0..100 {
            let frame = mutated(&mut random);
            match random.random_range(0..3) {
                0 => eve.write_control(&frame).await,
                1 => eve.write_bulk(&frame).await,
                // An error says that the connection is closed, as it should be before long.
                _ => drop(eve.connection.send_datagram(frame)),
            }
        }
    }
    bystanders.are_undisturbed("mutated frames").await;
}

/// A frame that a client may send, but for a few of its bytes.
fn mutated(random: &mut StdRng) -> Bytes {
    let (sender, count) = (random.random_range(0..4), random.random());
    let control = [
        ClientBody::Ping(Nonce {
            nonce: random.random(),
        }),
        ClientBody::Leave(LeaveSession {
            attachment: random.random_range(0..3),
        }),
        ClientBody::Create(CreateSession {
            options: Some(SessionOptions::default()),
        }),
        ClientBody::Join(JoinSession {
            by: Some(By::SessionId(vec![random.random(); 16])),
            resume: Some(Resume {
                peer_id: sender,
                incarnation: random.random_range(0..3),
                last_index: random.random_range(0..9),
                reliable: vec![ReliableCount { sender, count }; 3],
                attempt: random.random(),
            }),
            ..JoinSession::default()
        }),
    ];
    let publish = Publish {
        attachment: random.random_range(0..3),
        mode: Mode::ALL[random.random_range(0..4)],
        channel: random.random_range(0..16),
        seq: random.random_range(0..9),
        target: [
            Target::All,
            Target::Others,
            Target::Peer(1),
            Target::Peers(vec![1, 2]),
        ][random.random_range(0..4)]
        .clone(),
        key: random.random(),
        payload: Bytes::from_static(b"payload"),
    };
    let ack = frame::encode_ack(1, random.random_range(0..9));
    let body = control[random.random_range(0..4)].clone();
    let control = frame::encode_control(&ClientControl {
        request: random.random(),
        body: Some(body),
    });
    let frame = [publish.encode(), ack, control][random.random_range(0..3)].clone();

    // The length is right, so that what is behind it is looked at.
    let mut body = frame::split(&mut BytesMut::from(frame))
        .expect("a whole frame")
        .to_vec();
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..body.len());
        match random.random_range(0..3) {
            0 => body[at] = random.random(),
            1 => body.insert(at, random.random()),
            _ => body.truncate(at.max(1)),
        }
    }
    frame::framed(&body)
}

/// The code with which a relay refuses a Hello with this token.
async fn refusal(relay: &dreamcatcher_e2e::client::RelayAddress, token: String) -> u64 {
    let (_endpoint, connection) = connect(relay, tls::ALPN).await.expect("a connection");
    let (mut stream, _answers) = connection.open_bi().await.expect("the control stream");
    let hello = ClientBody::Hello(Hello {
        version: 1,
        token,
        sdk: String::new(),
    });
    let hello = frame::encode_control(&ClientControl {
        request: 0,
        body: Some(hello),
    });
    within("room", stream.write_all(&hello))
        .await
        .expect("room");
    closed(&connection).await.0
}

fn failure_code(answer: RelayBody) -> u64 {
    match answer {
        RelayBody::Failed(Failure { code, .. }) => u64::from(code),
        other => panic!("{other:?} instead of a refusal"),
    }
}

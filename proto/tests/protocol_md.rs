//! `docs/protocol.md` and the code say the same: every example on the page decodes to the value
//! that stands here and encodes back to its bytes, and the tables are the code's.
//!
//! An example stands in a block fenced as `hex`: a line `[side name]`, what it says in words, then
//! lines of `bytes ; comment`. `DREAMCATCHER_PRINT_EXAMPLES=1 cargo test -p dreamcatcher-proto
//! --test protocol_md -- --nocapture` prints what the bytes should be.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dreamcatcher_proto::codec::split_datagram;
use dreamcatcher_proto::control::{
    ClientMessage, Failure, Grade, Join, JoinBy, Joined, LinkMessage, Member, MemberKey,
    RelayMessage, Resume, SessionEvent, SessionOptions, User,
};
use dreamcatcher_proto::frame::{
    Ack, Attachment, ClientFrame, Deliver, Fanout, Forward, LinkAck, LinkFrame, Message, Mode,
    Place, Publish, RelayFrame, SESSION_CHANNEL, Skip, Store, Stored, Target,
};
use dreamcatcher_proto::state::{SeatState, SessionState};
use dreamcatcher_proto::{
    BootId, Epoch, Error, ErrorCode, Incarnation, Index, JoinCode, Mid, NodeId, PeerId, Seq,
    SessionId, UserId, limits,
};

const PAGE: &str = include_str!("../../docs/protocol.md");
const PROTO: &str = include_str!("../dreamcatcher.proto");

/// What an example's bytes are.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Client(ClientFrame),
    Relay(RelayFrame),
    Link(LinkFrame),
    /// The payload of an entry that the session made.
    Event(SessionEvent),
    /// The frames of one QUIC datagram.
    Datagram(Vec<ClientFrame>),
}

impl Value {
    fn side(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Relay(_) => "relay",
            Self::Link(_) => "link",
            Self::Event(_) => "event",
            Self::Datagram(_) => "datagram",
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        match self {
            Self::Client(frame) => frame.encode(&mut out),
            Self::Relay(frame) => frame.encode(&mut out),
            Self::Link(frame) => frame.encode(&mut out),
            Self::Event(event) => return event.encode().to_vec(),
            Self::Datagram(frames) => frames.iter().for_each(|frame| frame.encode(&mut out)),
        }
        out.to_vec()
    }

    fn decode(side: &str, bytes: Vec<u8>) -> Result<Self, Error> {
        let bytes = Bytes::from(bytes);
        if side == "event" {
            return SessionEvent::decode(bytes).map(Self::Event);
        }
        let mut frames = split_datagram(bytes).collect::<Result<Vec<_>, _>>()?;
        if side == "datagram" {
            let frames = frames.into_iter().map(ClientFrame::decode);
            return frames.collect::<Result<_, _>>().map(Self::Datagram);
        }
        assert_eq!(frames.len(), 1, "an example is one frame");
        let frame = frames.remove(0);
        match side {
            "client" => ClientFrame::decode(frame).map(Self::Client),
            "relay" => RelayFrame::decode(frame).map(Self::Relay),
            "link" => LinkFrame::decode(frame).map(Self::Link),
            other => panic!("{other:?} is not a side"),
        }
    }
}

#[test]
fn every_example_decodes_to_its_value_and_encodes_back_to_its_bytes() {
    if std::env::var_os("DREAMCATCHER_PRINT_EXAMPLES").is_some() {
        for (name, value) in values() {
            println!("{} {name} {}", value.side(), hex(&value.encode()));
        }
    }
    let mut page = examples();
    for (name, value) in values() {
        let name = format!("{} {name}", value.side());
        let bytes = page.remove(&name);
        let bytes = bytes.unwrap_or_else(|| panic!("the page has no example [{name}]"));
        let decoded = Value::decode(value.side(), bytes.clone());
        assert_eq!(decoded.as_ref(), Ok(&value), "[{name}]");
        assert_eq!(hex(&value.encode()), hex(&bytes), "[{name}]");
    }
    let unknown: Vec<&String> = page.keys().collect();
    assert!(unknown.is_empty(), "no value stands here for {unknown:?}");
}

#[test]
fn every_frame_type_has_an_example() {
    let shown: BTreeSet<(&str, u8)> = values()
        .iter()
        .filter(|(_, value)| !matches!(value, Value::Event(_) | Value::Datagram(_)))
        .map(|(_, value)| (value.side(), value.encode()[2]))
        .collect();
    let known = |side: &'static str, decode: fn(Bytes) -> Option<ErrorCode>| {
        (0..=u8::MAX)
            .filter(move |&kind| decode(vec![kind].into()) != Some(ErrorCode::UnknownFrame))
            .map(move |kind| (side, kind))
    };
    let known: BTreeSet<(&str, u8)> =
        known("client", |b| ClientFrame::decode(b).err().map(|e| e.code()))
            .chain(known("relay", |b| {
                RelayFrame::decode(b).err().map(|e| e.code())
            }))
            .chain(known("link", |b| {
                LinkFrame::decode(b).err().map(|e| e.code())
            }))
            .collect();
    assert_eq!(shown, known);
}

#[test]
fn every_control_message_and_session_event_has_an_example() {
    let page = examples();
    for (message, side) in [
        ("ClientControl", "client"),
        ("RelayControl", "relay"),
        ("LinkControl", "link"),
        ("SessionEvent", "event"),
    ] {
        let start = PROTO.find(&format!("message {message} {{")).unwrap();
        let body = PROTO[start..].split_once("oneof body {").unwrap().1;
        let body = body.split_once('}').unwrap().0;
        let fields = body
            .split(';')
            .filter_map(|field| field.split_whitespace().nth(1));
        for field in fields {
            let name = format!("{side} {field}");
            assert!(page.contains_key(&name), "the page has no example [{name}]");
        }
    }
}

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let page: Vec<(String, String)> = table("limits")
        .into_iter()
        .map(|row| (bare(&row[0]), row[1].clone()))
        .collect();
    let code: Vec<(String, String)> = limits::TABLE
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(page, code);
}

#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let retryable = |retryable| if retryable { "yes" } else { "no" };
    let code: Vec<Vec<String>> = ErrorCode::ALL
        .iter()
        .map(|&code| {
            vec![
                (code as u16).to_string(),
                code.name().to_owned(),
                retryable(code.is_retryable()).to_owned(),
                code.meaning().to_owned(),
            ]
        })
        .collect();
    if std::env::var_os("DREAMCATCHER_PRINT_EXAMPLES").is_some() {
        code.iter()
            .for_each(|row| println!("| {} |", row.join(" | ")));
    }
    assert_eq!(table("errors"), code);
}

// -------------------------------------------------------------------------------- reading the page

/// The examples of the page: name and bytes.
fn examples() -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for block in PAGE.split("```hex\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let mut name = None;
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(header) = line.strip_prefix('[') {
                let title = header.split_once(']').unwrap().0.to_owned();
                let before = found.insert(title.clone(), Vec::new());
                assert!(before.is_none(), "the page has [{title}] twice");
                name = Some(title);
                continue;
            }
            let digits: String = line.split(';').next().unwrap().split_whitespace().collect();
            let digits: Vec<char> = digits.chars().collect();
            let name = name
                .as_ref()
                .unwrap_or_else(|| panic!("no name before {line:?}"));
            let bytes = found.get_mut(name).unwrap();
            for pair in digits.chunks(2) {
                let byte = u8::from_str_radix(&String::from_iter(pair), 16);
                bytes.push(byte.unwrap_or_else(|e| panic!("[{name}] {line:?}: {e}")));
            }
        }
    }
    found
}

/// The cells of the table that follows `<!-- table: NAME -->`, without its header.
fn table(name: &str) -> Vec<Vec<String>> {
    let mark = format!("<!-- table: {name} -->\n");
    let after = PAGE
        .split_once(&mark)
        .unwrap_or_else(|| panic!("the page has no {mark}"))
        .1;
    after
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

fn bare(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// --------------------------------------------------------------------------------------- the values

const SESSION: SessionId = SessionId([0x5e; 16]);
const ALICE: UserId = UserId([0xa1; 16]);
const BOB: UserId = UserId([0xb0; 16]);
const EPOCH: Epoch = Epoch(0x0006_1a2b_3c4d_5e6f);

/// What stands on the page under each name.
fn values() -> Vec<(&'static str, Value)> {
    [
        client_values(),
        relay_values(),
        event_values(),
        link_values(),
        standby_values(),
    ]
    .concat()
}

fn client_values() -> Vec<(&'static str, Value)> {
    let hello = ClientMessage::Hello {
        version: 1,
        token: "eyJh.eyJz.c2ln".to_owned(),
        sdk: "example/1".to_owned(),
    };
    let create = ClientMessage::Create {
        request: 1,
        options: SessionOptions {
            max_players: 4,
            name: "Cave".to_owned(),
            grade: Grade::Safe,
            ..SessionOptions::default()
        },
    };
    let join = ClientMessage::Join {
        request: 2,
        join: Join {
            by: JoinBy::Code(code()),
            app_version: String::new(),
            resume: None,
        },
    };
    let resume = ClientMessage::Join {
        request: 3,
        join: Join {
            by: JoinBy::Session {
                id: SESSION,
                home_region: Some("eu".to_owned()),
            },
            app_version: String::new(),
            resume: Some(resume()),
        },
    };
    let leave = ClientMessage::Leave {
        request: 4,
        attachment: Attachment(1),
    };
    let control = |name, message| (name, Value::Client(ClientFrame::Control(message)));
    let publish = |message| {
        ClientFrame::Publish(Publish {
            attachment: Attachment(1),
            message,
        })
    };
    let moves = [
        publish(latest(Target::Others)),
        publish(datagram(Target::All)),
    ];
    vec![
        control("hello", hello),
        control("create", create),
        control("join", join),
        control("join-resume", resume),
        control("leave", leave),
        control("ping", ClientMessage::Ping { nonce: 7 }),
        (
            "publish-ordered",
            Value::Client(publish(ordered(Target::All))),
        ),
        (
            "publish-reliable",
            Value::Client(publish(reliable(Target::Peers(vec![PeerId(2), PeerId(3)])))),
        ),
        (
            "publish-latest",
            Value::Client(publish(latest(Target::Others))),
        ),
        (
            "publish-datagram",
            Value::Client(publish(datagram(Target::Peer(PeerId(2))))),
        ),
        (
            "ack",
            Value::Client(ClientFrame::Ack(Ack {
                attachment: Attachment(1),
                index: Index(42),
            })),
        ),
        ("two-frames", Value::Datagram(moves.to_vec())),
    ]
}

fn relay_values() -> Vec<(&'static str, Value)> {
    let control = |name, message| (name, Value::Relay(RelayFrame::Control(message)));
    let deliver = |name, message: Message, place| {
        let frame = RelayFrame::Deliver(Deliver {
            attachment: Attachment(1),
            mid: mid(message.seq),
            mode: message.mode,
            channel: message.channel,
            place,
            key: message.key,
            payload: message.payload,
        });
        (name, Value::Relay(frame))
    };
    let event = RelayFrame::Deliver(Deliver {
        attachment: Attachment(1),
        mid: Mid {
            sender: PeerId::SESSION,
            incarnation: Incarnation(0),
            seq: Seq(0),
        },
        mode: Mode::Ordered,
        channel: SESSION_CHANNEL,
        place: place(43),
        key: 0,
        payload: SessionEvent::Dropped { peer: PeerId(2) }.encode(),
    });
    let skip = RelayFrame::Skip(Skip {
        attachment: Attachment(1),
        mid: mid(Seq(5)),
        place: place(42),
    });
    vec![
        control(
            "welcome",
            RelayMessage::Welcome {
                version: 1,
                node: node(),
                boot: BootId(0x0102_0304_0506_0708),
                user: ALICE,
            },
        ),
        control(
            "joined",
            RelayMessage::Joined {
                request: 2,
                joined: joined(Attachment(1)),
            },
        ),
        control(
            "joined-resumed",
            RelayMessage::Joined {
                request: 3,
                joined: Joined {
                    index: Index(42),
                    roster: Vec::new(),
                    resumed: true,
                    ordered_seen: Seq(5),
                    reliable_seen: Seq(3),
                    ..joined(Attachment(1))
                },
            },
        ),
        control(
            "failed",
            RelayMessage::Failed {
                request: 2,
                failure: failure(),
            },
        ),
        control(
            "ended",
            RelayMessage::Ended {
                request: 4,
                attachment: Attachment(1),
                error: Error::new(ErrorCode::Ok, ""),
                can_rejoin: false,
            },
        ),
        control(
            "send_rejected",
            RelayMessage::SendRejected {
                attachment: Attachment(1),
                mode: Mode::Reliable,
                seq: Seq(3),
                error: no_peer(),
            },
        ),
        control(
            "reliable_gap",
            RelayMessage::ReliableGap {
                attachment: Attachment(1),
                sender: PeerId(2),
                missed: 4,
            },
        ),
        control("pong", RelayMessage::Pong { nonce: 7 }),
        control(
            "draining",
            RelayMessage::Draining {
                deadline: Duration::from_secs(5),
            },
        ),
        deliver("deliver-ordered", ordered(Target::All), place(42)),
        deliver("deliver-reliable", reliable(Target::All), Place::default()),
        deliver("deliver-latest", latest(Target::All), Place::default()),
        deliver("deliver-datagram", datagram(Target::All), Place::default()),
        ("deliver-event", Value::Relay(event)),
        ("skip", Value::Relay(skip)),
    ]
}

fn event_values() -> Vec<(&'static str, Value)> {
    let event = |name, event| (name, Value::Event(event));
    vec![
        event("joined", SessionEvent::Joined(bob())),
        event("dropped", SessionEvent::Dropped { peer: PeerId(2) }),
        event(
            "rejoined",
            SessionEvent::Rejoined {
                peer: PeerId(2),
                incarnation: Incarnation(1),
            },
        ),
        event(
            "refused",
            SessionEvent::Refused {
                peer: PeerId(2),
                incarnation: Incarnation(1),
                seq: Seq(6),
                code: ErrorCode::PeerNotFound,
                absent: PeerId(9),
            },
        ),
        event(
            "left",
            SessionEvent::Left {
                peer: PeerId(2),
                code: ErrorCode::RejoinExpired,
            },
        ),
    ]
}

fn link_values() -> Vec<(&'static str, Value)> {
    let control = |name, message| (name, Value::Link(LinkFrame::Control(message)));
    let user = User {
        id: BOB,
        display_name: "Bob".to_owned(),
    };
    let member = MemberKey {
        session: SESSION,
        peer: PeerId(2),
        incarnation: Incarnation(1),
    };
    let forward = LinkFrame::Forward(Forward {
        session: SESSION,
        epoch: EPOCH,
        sender: PeerId(1),
        incarnation: Incarnation(1),
        message: ordered(Target::All),
    });
    let fanout = LinkFrame::Fanout(Fanout {
        session: SESSION,
        place: place(42),
        only: PeerId::SESSION,
        sender: PeerId(1),
        incarnation: Incarnation(1),
        message: ordered(Target::All),
    });
    let ack = LinkFrame::Ack(LinkAck {
        session: SESSION,
        peer: PeerId(2),
        index: Index(42),
    });
    vec![
        control(
            "hello",
            LinkMessage::Hello {
                version: 1,
                node: node(),
                boot: BootId(0x0102_0304_0506_0708),
            },
        ),
        control(
            "create",
            LinkMessage::Create {
                request: 8,
                session: SESSION,
                home_region: "eu".to_owned(),
                options: safe(),
                user: user.clone(),
            },
        ),
        control(
            "join",
            LinkMessage::Join {
                request: 9,
                session: SESSION,
                user,
                app_version: String::new(),
                resume: Some(resume()),
            },
        ),
        control(
            "joined",
            LinkMessage::Joined {
                request: 9,
                joined: Joined {
                    roster: Vec::new(),
                    resumed: true,
                    ordered_seen: Seq(5),
                    ..joined(Attachment(0))
                },
                standby: Some(standby()),
            },
        ),
        control(
            "refused",
            LinkMessage::Refused {
                request: 9,
                session: SESSION,
                failure: Failure {
                    error: Error::new(ErrorCode::NotOwner, "not here"),
                    retry_after: Duration::ZERO,
                },
                owner: Some(node()),
            },
        ),
        control("leave", LinkMessage::Leave(member)),
        control("dropped", LinkMessage::Dropped(member)),
        control(
            "ended",
            LinkMessage::Ended {
                member,
                error: Error::new(ErrorCode::SessionClosed, "over"),
                can_rejoin: false,
            },
        ),
        control(
            "send_rejected",
            LinkMessage::SendRejected {
                session: SESSION,
                peer: PeerId(2),
                mode: Mode::Reliable,
                seq: Seq(3),
                error: no_peer(),
            },
        ),
        control(
            "reliable_gap",
            LinkMessage::ReliableGap {
                session: SESSION,
                peer: PeerId(2),
                sender: PeerId(1),
                missed: 4,
            },
        ),
        ("forward", Value::Link(forward)),
        ("fanout", Value::Link(fanout)),
        ("link_ack", Value::Link(ack)),
    ]
}

fn standby_values() -> Vec<(&'static str, Value)> {
    let control = |name, message| (name, Value::Link(LinkFrame::Control(message)));
    let (session, epoch) = (SESSION, EPOCH);
    let later = Epoch(EPOCH.0 + 1);
    // Ordered by the owner before, and sent by the one that has gone on from its standby.
    let entry = Fanout {
        session,
        place: place(42),
        only: PeerId::SESSION,
        sender: PeerId(1),
        incarnation: Incarnation(1),
        message: ordered(Target::All),
    };
    let store = LinkFrame::Store(Store {
        epoch: later,
        entry,
    });
    let stored = LinkFrame::Stored(Stored {
        session,
        epoch: later,
        index: Index(42),
    });
    let seat = SeatState {
        user: User {
            id: BOB,
            display_name: "Bob".to_owned(),
        },
        incarnation: Incarnation(1),
        connected: true,
        joined_at: Index(9),
        ordered_seen: Seq(5),
    };
    let state = SessionState {
        home_region: "eu".to_owned(),
        options: safe(),
        code: Some(code()),
        index: Index(42),
        last_peer: PeerId(3),
        seats: [(PeerId(2), seat)].into(),
    };
    let sync = LinkMessage::Sync {
        session,
        epoch,
        nonce: 0x1112_1314_1516_1718,
        owner_boot: BootId(0x0102_0304_0506_0708),
        first: Index(40),
        state,
    };
    let owner = Some(standby());
    vec![
        control("sync", sync),
        ("store", Value::Link(store)),
        ("stored", Value::Link(stored)),
        control(
            "view",
            LinkMessage::View {
                session,
                epoch,
                standby: Some(standby()),
            },
        ),
        control(
            "seal",
            LinkMessage::Seal {
                session,
                epoch: later,
            },
        ),
        control(
            "sealed",
            LinkMessage::Sealed {
                session,
                epoch: later,
                owner,
            },
        ),
        control("release", LinkMessage::Release { session, epoch }),
        control("take_over", LinkMessage::TakeOver { session, epoch }),
    ]
}

fn ordered(target: Target) -> Message {
    message(Mode::Ordered, 0, Seq(5), target, 0, b"door")
}

fn reliable(target: Target) -> Message {
    message(Mode::Reliable, 1, Seq(3), target, 0, b"map")
}

fn latest(target: Target) -> Message {
    message(Mode::Latest, 2, Seq(900), target, 7, b"x=1")
}

fn datagram(target: Target) -> Message {
    message(Mode::Datagram, 15, Seq(12), target, 0, b"hi")
}

fn message(
    mode: Mode,
    channel: u8,
    seq: Seq,
    target: Target,
    key: u16,
    payload: &'static [u8],
) -> Message {
    Message {
        mode,
        channel,
        seq,
        target,
        key,
        payload: Bytes::from_static(payload),
    }
}

fn mid(seq: Seq) -> Mid {
    Mid {
        sender: PeerId(1),
        incarnation: Incarnation(1),
        seq,
    }
}

fn place(index: u64) -> Place {
    Place {
        epoch: EPOCH,
        index: Index(index),
    }
}

fn node() -> NodeId {
    "relay-1-0".parse().unwrap()
}

fn safe() -> SessionOptions {
    SessionOptions {
        grade: Grade::Safe,
        ..SessionOptions::default()
    }
}

fn standby() -> NodeId {
    "relay-2-0".parse().unwrap()
}

fn code() -> JoinCode {
    "BCDF67".parse().unwrap()
}

fn resume() -> Resume {
    Resume {
        peer: PeerId(2),
        incarnation: Incarnation(1),
        last_index: Index(42),
        reliable: vec![(PeerId(1), 3)],
        attempt: 1,
        last_epoch: EPOCH,
        reliable_sent: Seq(4),
    }
}

fn bob() -> Member {
    Member {
        peer: PeerId(2),
        incarnation: Incarnation(1),
        user: BOB,
        display_name: "Bob".to_owned(),
        connected: true,
    }
}

fn joined(attachment: Attachment) -> Joined {
    Joined {
        attachment,
        session: SESSION,
        code: Some(code()),
        home_region: "eu".to_owned(),
        peer: PeerId(2),
        incarnation: Incarnation(1),
        epoch: EPOCH,
        index: Index(9),
        roster: vec![Member {
            peer: PeerId(1),
            user: ALICE,
            display_name: "Alice".to_owned(),
            ..bob()
        }],
        resumed: false,
        ordered_seen: Seq(0),
        reliable_seen: Seq(0),
        max_players: 4,
        name: "Cave".to_owned(),
        owner: node(),
        rejoin_hold: Duration::from_secs(60),
    }
}

fn failure() -> Failure {
    Failure {
        error: Error::new(ErrorCode::SessionFull, "all 4 seats are taken"),
        retry_after: Duration::from_secs(1),
    }
}

fn no_peer() -> Error {
    Error::new(ErrorCode::PeerNotFound, "peer 9")
}

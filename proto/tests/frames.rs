//! Every frame survives the wire, and nothing that a peer can send does worse than an error.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dreamcatcher_proto::codec::{FrameSplitter, put_varint, split_datagram};
use dreamcatcher_proto::control::{
    ClientMessage, Failure, Grade, Join, JoinBy, Joined, LinkMessage, Member, MemberKey,
    RelayMessage, Resume, SessionEvent, SessionOptions, User, Visibility, wire,
};
use dreamcatcher_proto::frame::{
    Ack, Attachment, ClientFrame, Deliver, Fanout, Forward, LinkAck, LinkFrame, Message, Mode,
    Place, Publish, RelayFrame, SESSION_CHANNEL, Skip, Store, Stored, Target, kind,
};
use dreamcatcher_proto::state::{SeatState, SessionState};
use dreamcatcher_proto::{
    BootId, Epoch, Error, ErrorCode, Incarnation, Index, JoinCode, Mid, NodeId, PeerId, Seq,
    SessionId, UserId, limits,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

proptest! {
    #[test]
    fn every_client_frame_survives_the_wire(frame in client_frame()) {
        prop_assert_eq!(ClientFrame::decode(body_of(|out| frame.encode(out))), Ok(frame));
    }

    #[test]
    fn every_relay_frame_survives_the_wire(frame in relay_frame()) {
        prop_assert_eq!(RelayFrame::decode(body_of(|out| frame.encode(out))), Ok(frame));
    }

    #[test]
    fn every_link_frame_survives_the_wire(frame in link_frame()) {
        prop_assert_eq!(LinkFrame::decode(body_of(|out| frame.encode(out))), Ok(frame));
    }

    #[test]
    fn every_session_event_survives_the_wire(event in session_event()) {
        prop_assert_eq!(SessionEvent::decode(event.encode()), Ok(event));
    }

    #[test]
    fn frames_of_a_datagram_come_out_in_order(frames in vec(client_frame(), 0..8)) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        let read: Result<Vec<_>, _> = split_datagram(out.freeze())
            .map(|frame| frame.and_then(ClientFrame::decode))
            .collect();
        prop_assert_eq!(read, Ok(frames));
    }

    #[test]
    fn a_frame_that_is_cut_short_is_an_error(
        client in client_frame(), relay in relay_frame(), link in link_frame(), event in session_event(),
    ) {
        let cut = |whole: &Bytes, payload: usize, code: fn(Bytes) -> Option<ErrorCode>| {
            // A payload has no length of its own: the frame's prefix guards it.
            for len in 0..whole.len() - payload {
                prop_assert_eq!(code(whole.slice(..len)), Some(ErrorCode::MalformedFrame), "at {}", len);
            }
            for len in 0..=whole.len() {
                let mut out = BytesMut::new();
                put_varint(&mut out, whole.len() as u32);
                out.extend_from_slice(whole);
                let out = out.freeze().slice(..len);
                if len > 0 {
                    let mut datagram = split_datagram(out.clone());
                    let code = datagram.next().unwrap().map_err(|e| e.code());
                    prop_assert_eq!(code, Err(ErrorCode::TruncatedFrame));
                }
                let mut stream = FrameSplitter::default();
                stream.push(out);
                prop_assert_eq!(stream.next_frame(), Ok(None));
                prop_assert_eq!(stream.finish().is_err(), len > 0);
            }
            Ok(())
        };
        let payload = match &client {
            ClientFrame::Publish(publish) => publish.message.payload.len(),
            ClientFrame::Control(_) | ClientFrame::Ack(_) => 0,
        };
        cut(&body_of(|out| client.encode(out)), payload, |b| ClientFrame::decode(b).err().map(|e| e.code()))?;
        let payload = match &relay {
            RelayFrame::Deliver(deliver) => deliver.payload.len(),
            RelayFrame::Control(_) | RelayFrame::Skip(_) => 0,
        };
        cut(&body_of(|out| relay.encode(out)), payload, |b| RelayFrame::decode(b).err().map(|e| e.code()))?;
        let payload = match &link {
            LinkFrame::Forward(forward) => forward.message.payload.len(),
            LinkFrame::Fanout(fanout) => fanout.message.payload.len(),
            LinkFrame::Store(store) => store.entry.message.payload.len(),
            LinkFrame::Control(_) | LinkFrame::Ack(_) | LinkFrame::Stored(_) => 0,
        };
        cut(&body_of(|out| link.encode(out)), payload, |b| LinkFrame::decode(b).err().map(|e| e.code()))?;
        cut(&event.encode(), 0, |b| SessionEvent::decode(b).err().map(|e| e.code()))?;
    }

    #[test]
    fn bytes_after_the_end_of_a_frame_are_an_error(ack in ack(), skip in skip(), link in link_ack(), more in vec(any::<u8>(), 1..9)) {
        let longer = |put: &dyn Fn(&mut BytesMut)| {
            let mut out = BytesMut::new();
            put(&mut out);
            out.extend_from_slice(&more);
            out.freeze()
        };
        for code in [
            ClientFrame::decode(longer(&|out| ack.put(out))).map_err(|e| e.code()).err(),
            RelayFrame::decode(longer(&|out| skip.put(out))).map_err(|e| e.code()).err(),
            LinkFrame::decode(longer(&|out| link.put(out))).map_err(|e| e.code()).err(),
        ] {
            prop_assert_eq!(code, Some(ErrorCode::MalformedFrame));
        }
    }

    #[test]
    fn random_bytes_never_panic(first in known_kind(), bytes in vec(any::<u8>(), 0..512)) {
        decode_everything(&bytes);
        decode_everything(&[&[first], bytes.as_slice()].concat());
    }

    #[test]
    fn mutated_frames_never_panic(
        client in client_frame(), relay in relay_frame(), link in link_frame(), event in session_event(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        for mut bytes in [
            body_of(|out| client.encode(out)).to_vec(),
            body_of(|out| relay.encode(out)).to_vec(),
            body_of(|out| link.encode(out)).to_vec(),
            event.encode().to_vec(),
        ] {
            for (at, byte, change) in &changes {
                let at = at.index(bytes.len());
                match change {
                    0 => bytes[at] = *byte,
                    1 => bytes.insert(at, *byte),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            decode_everything(&bytes);
        }
    }

    #[test]
    fn a_type_that_does_not_belong_is_unknown(first in any::<u8>(), rest in vec(any::<u8>(), 0..40)) {
        let bytes = Bytes::from([&[first], rest.as_slice()].concat());
        let unknown = |error: Option<Error>| error.map(|e| e.code()) == Some(ErrorCode::UnknownFrame);
        prop_assert_eq!(
            unknown(ClientFrame::decode(bytes.clone()).err()),
            !matches!(first, kind::CONTROL | kind::PUBLISH | kind::ACK)
        );
        prop_assert_eq!(
            unknown(RelayFrame::decode(bytes.clone()).err()),
            !matches!(first, kind::CONTROL | kind::DELIVER | kind::SKIP)
        );
        prop_assert_eq!(
            unknown(LinkFrame::decode(bytes).err()),
            !matches!(first, kind::LINK_CONTROL | kind::FORWARD | kind::FANOUT | kind::LINK_ACK | kind::STORE | kind::STORED)
        );
    }

    #[test]
    fn options_within_their_limits_come_back_as_they_are(options in session_options()) {
        prop_assert_eq!(options.clone().checked(), Ok(options));
    }
}

#[test]
fn the_largest_payload_fits_with_the_longest_header_and_one_byte_more_is_too_large() {
    let message = |payload: usize| Message {
        mode: Mode::Latest,
        channel: 0,
        seq: Seq(1),
        target: Target::Peers(vec![PeerId(1); limits::TARGETS_MAX]),
        key: 1,
        payload: vec![0; payload].into(),
    };
    let frames = |payload: usize| {
        let publish = ClientFrame::Publish(Publish {
            attachment: Attachment(1),
            message: message(payload),
        });
        let deliver = RelayFrame::Deliver(Deliver {
            attachment: Attachment(1),
            mid: Mid {
                sender: PeerId(1),
                incarnation: Incarnation(1),
                seq: Seq(1),
            },
            mode: Mode::Ordered,
            channel: 0,
            place: Place::default(),
            key: 0,
            payload: vec![0; payload].into(),
        });
        let fanout = LinkFrame::Fanout(Fanout {
            session: SessionId([0; 16]),
            place: Place::default(),
            only: PeerId::SESSION,
            sender: PeerId(1),
            incarnation: Incarnation(1),
            message: message(payload),
        });
        [
            ClientFrame::decode(body_of(|out| publish.encode(out))).map(|_| ()),
            RelayFrame::decode(body_of(|out| deliver.encode(out))).map(|_| ()),
            LinkFrame::decode(body_of(|out| fanout.encode(out))).map(|_| ()),
        ]
    };
    assert_eq!(frames(limits::PAYLOAD_BYTES_MAX), [Ok(()), Ok(()), Ok(())]);
    for refused in frames(limits::PAYLOAD_BYTES_MAX + 1) {
        let error = refused.unwrap_err();
        assert_eq!(error.code(), ErrorCode::MessageTooLarge);
        assert!(error.message().contains("65536"), "{error}");
    }
}

#[test]
fn a_control_message_over_the_limit_is_too_large() {
    let sized = |kind: u8, bytes: usize| {
        let mut out = vec![0; 1 + bytes];
        out[0] = kind;
        Bytes::from(out)
    };
    let over = limits::CONTROL_BYTES_MAX + 1;
    for error in [
        ClientFrame::decode(sized(kind::CONTROL, over)).unwrap_err(),
        RelayFrame::decode(sized(kind::CONTROL, over)).unwrap_err(),
        LinkFrame::decode(sized(kind::LINK_CONTROL, over)).unwrap_err(),
        SessionEvent::decode(sized(kind::CONTROL, over)).unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::FrameTooLarge, "{error}");
    }
    let within = ClientFrame::decode(sized(kind::CONTROL, over - 1)).unwrap_err();
    assert_eq!(within.code(), ErrorCode::MalformedFrame);
}

#[test]
fn the_longest_roster_fits_a_control_message() {
    let member = Member {
        peer: PeerId(u16::MAX),
        incarnation: Incarnation(u16::MAX),
        user: UserId([0xff; 16]),
        display_name: "\u{1f3ae}".repeat(limits::DISPLAY_NAME_CHARS_MAX),
        connected: true,
    };
    let joined = Joined {
        roster: vec![member; 128],
        name: "\u{1f3ae}".repeat(limits::SESSION_NAME_CHARS_MAX),
        ..empty_joined()
    };
    let message = RelayMessage::Joined {
        request: u64::MAX,
        joined,
    };
    let frame = RelayFrame::Control(message);
    assert_eq!(
        RelayFrame::decode(body_of(|out| frame.encode(out))),
        Ok(frame)
    );
}

#[test]
fn the_state_of_the_fullest_session_fits_a_control_message() {
    let seat = SeatState {
        user: User {
            id: UserId([0xff; 16]),
            display_name: "\u{1f3ae}".repeat(limits::DISPLAY_NAME_CHARS_MAX),
        },
        incarnation: Incarnation(u16::MAX),
        connected: true,
        joined_at: Index(u64::MAX),
        ordered_seen: Seq(u32::MAX),
    };
    let first = u16::MAX - limits::PLAYERS_MAX;
    let state = SessionState {
        home_region: "x".repeat(limits::REGION_CHARS_MAX),
        options: SessionOptions {
            max_players: limits::PLAYERS_MAX,
            name: "\u{1f3ae}".repeat(limits::SESSION_NAME_CHARS_MAX),
            region: Some("x".repeat(limits::REGION_CHARS_MAX)),
            app_version: "x".repeat(limits::APP_VERSION_BYTES_MAX),
            rejoin_hold: limits::REJOIN_HOLD_MAX,
            ..SessionOptions::default()
        },
        code: Some("666666".parse().unwrap()),
        index: Index(u64::MAX),
        last_peer: PeerId(u16::MAX),
        seats: (first..u16::MAX)
            .map(|peer| (PeerId(peer), seat.clone()))
            .collect(),
    };
    let frame = LinkFrame::Control(LinkMessage::Sync {
        session: SessionId([0xff; 16]),
        epoch: Epoch(u64::MAX),
        nonce: u64::MAX,
        owner_boot: BootId(u64::MAX),
        first: Index(u64::MAX),
        state,
    });
    assert_eq!(
        LinkFrame::decode(body_of(|out| frame.encode(out))),
        Ok(frame)
    );
}

#[test]
fn a_state_with_more_seats_than_a_session_has_is_refused() {
    let seat = |peer| wire::SeatState {
        member: Some(wire::Member {
            peer_id: peer,
            incarnation: 1,
            user_id: vec![1; 16],
            ..wire::Member::default()
        }),
        ..wire::SeatState::default()
    };
    let read = |seats| {
        let state = wire::SessionState {
            seats: (1..=seats).map(seat).collect(),
            ..wire::SessionState::default()
        };
        SessionState::try_from(state).map(|state| state.seats.len())
    };
    let most = usize::from(limits::PLAYERS_MAX);
    assert_eq!(read(most as u32), Ok(most));
    assert_eq!(
        read(most as u32 + 1).unwrap_err().code(),
        ErrorCode::MalformedFrame
    );
}

#[test]
fn the_largest_entry_can_be_stored() {
    let entry = Fanout {
        session: SessionId([0xff; 16]),
        place: Place {
            epoch: Epoch(u64::MAX),
            index: Index(u64::MAX),
        },
        only: PeerId::SESSION,
        sender: PeerId(1),
        incarnation: Incarnation(1),
        message: Message {
            mode: Mode::Ordered,
            channel: 0,
            seq: Seq(1),
            target: Target::Peers(vec![PeerId(1); limits::TARGETS_MAX]),
            key: 0,
            payload: Bytes::from(vec![0; limits::PAYLOAD_BYTES_MAX]),
        },
    };
    let epoch = Epoch(u64::MAX);
    let frame = LinkFrame::Store(Store { epoch, entry });
    assert_eq!(
        LinkFrame::decode(body_of(|out| frame.encode(out))),
        Ok(frame)
    );
}

#[test]
fn options_outside_their_limits_are_refused_with_field_and_limit_and_do_not_end_the_connection() {
    let long = |count: usize| "x".repeat(count);
    let options = wire::SessionOptions::default;
    #[rustfmt::skip] // a table
    let cases = [
        (wire::SessionOptions { max_players: Some(0), ..options() }, "max_players", "1–64"),
        (wire::SessionOptions { max_players: Some(65), ..options() }, "max_players", "1–64"),
        (wire::SessionOptions { max_players: Some(u32::MAX), ..options() }, "max_players", "1–64"),
        (wire::SessionOptions { visibility: 3, ..options() }, "visibility", "0–2"),
        (wire::SessionOptions { grade: 3, ..options() }, "grade", "0–2"),
        (wire::SessionOptions { name: long(65), ..options() }, "name", "64"),
        (wire::SessionOptions { name: "a\nb".to_owned(), ..options() }, "name", "printable"),
        (wire::SessionOptions { rejoin_hold_s: Some(601), ..options() }, "rejoin_hold", "600"),
        (wire::SessionOptions { rejoin_hold_s: Some(u32::MAX), ..options() }, "rejoin_hold", "600"),
        (wire::SessionOptions { empty_ttl_s: Some(301), ..options() }, "empty_ttl", "300"),
        (wire::SessionOptions { region: long(33), ..options() }, "region", "32"),
        (wire::SessionOptions { app_version: long(65), ..options() }, "app_version", "64"),
    ];
    for (options, field, limit) in cases {
        let create = wire::CreateSession {
            options: Some(options),
        };
        refused(
            wire::client_control::Body::Create(create),
            ErrorCode::InvalidArgument,
            field,
            limit,
        );
    }
}

#[test]
fn joins_outside_their_limits_are_refused_with_field_and_limit_and_do_not_end_the_connection() {
    use wire::join_session::By;
    let id = || Some(By::SessionId(vec![1; 16]));
    let join = wire::JoinSession::default;
    let resume = |resume| wire::JoinSession {
        by: id(),
        resume: Some(resume),
        ..join()
    };
    let argument = ErrorCode::InvalidArgument;
    #[rustfmt::skip] // a table
    let cases = [
        (join(), argument, "session_id", "code"),
        (wire::JoinSession { by: Some(By::SessionId(vec![1; 15])), ..join() }, argument, "session_id", "16 bytes"),
        (wire::JoinSession { by: Some(By::Code("AEIOU1".to_owned())), ..join() }, ErrorCode::InvalidJoinCode, "join code", "6 characters"),
        (wire::JoinSession { by: id(), home_region: "x".repeat(33), ..join() }, argument, "home_region", "32"),
        (wire::JoinSession { by: id(), app_version: "x".repeat(65), ..join() }, argument, "app_version", "64"),
        (resume(wire::Resume { peer_id: 65_536, ..wire::Resume::default() }), argument, "resume.peer_id", "65,535"),
        (resume(wire::Resume { incarnation: 65_536, ..wire::Resume::default() }), argument, "resume.incarnation", "65,535"),
        (resume(wire::Resume { reliable: vec![wire::ReliableCount::default(); 129], ..wire::Resume::default() }), argument, "resume.reliable", "128"),
        (resume(wire::Resume { reliable: vec![wire::ReliableCount { sender: 65_536, count: 1 }], ..wire::Resume::default() }), argument, "resume.reliable.sender", "65,535"),
    ];
    for (join, code, field, limit) in cases {
        refused(wire::client_control::Body::Join(join), code, field, limit);
    }
    let leave = wire::LeaveSession { attachment: 65_536 };
    refused(
        wire::client_control::Body::Leave(leave),
        argument,
        "attachment",
        "65,535",
    );
}

#[test]
fn options_that_are_absent_have_their_defaults() {
    let control = wire::ClientControl {
        request: 1,
        body: Some(wire::client_control::Body::Create(
            wire::CreateSession::default(),
        )),
    };
    let frame = ClientFrame::decode(control_frame(&control));
    let create = ClientMessage::Create {
        request: 1,
        options: SessionOptions::default(),
    };
    assert_eq!(frame, Ok(ClientFrame::Control(create)));
}

#[test]
fn data_fields_outside_their_tables_are_malformed() {
    let publish = |change: &dyn Fn(&mut Vec<u8>)| {
        // attachment 1, Datagram, channel 0, seq 1, All, no payload
        let mut bytes = vec![kind::PUBLISH, 0, 1, 3, 0, 0, 0, 0, 1, 0];
        change(&mut bytes);
        ClientFrame::decode(bytes.into())
            .map(|_| ())
            .map_err(|e| e.code())
    };
    assert_eq!(publish(&|_| {}), Ok(()));
    let malformed = Err(ErrorCode::MalformedFrame);
    assert_eq!(publish(&|bytes| bytes[3] = 4), malformed, "mode");
    assert_eq!(publish(&|bytes| bytes[4] = 16), malformed, "channel");
    assert_eq!(
        publish(&|bytes| bytes[4] = SESSION_CHANNEL),
        malformed,
        "the session's channel"
    );
    assert_eq!(publish(&|bytes| bytes[9] = 2), malformed, "target");
    assert_eq!(
        publish(&|bytes| {
            bytes[9] = 4;
            bytes.push(0)
        }),
        malformed,
        "no targets"
    );
    let many = limits::TARGETS_MAX as u8 + 1;
    assert_eq!(
        publish(&|bytes| {
            bytes[9] = 4;
            bytes.push(many);
            bytes.extend([0; 300])
        }),
        malformed,
        "too many targets"
    );
}

#[test]
fn an_error_code_of_a_newer_peer_is_still_an_error() {
    for code in [1, 65_535, 65_536, u32::MAX] {
        let failure = wire::Failure {
            code,
            message: "new".to_owned(),
            retry_after_ms: 0,
        };
        let error = Error::from(failure);
        assert_eq!(
            (error.code(), error.message()),
            (ErrorCode::Internal, "new")
        );
    }
}

fn refused(body: wire::client_control::Body, code: ErrorCode, field: &str, limit: &str) {
    let control = wire::ClientControl {
        request: 77,
        body: Some(body),
    };
    match ClientFrame::decode(control_frame(&control)) {
        Ok(ClientFrame::Control(ClientMessage::Refused { request: 77, error })) => {
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(field), "{field} is not in {error}");
            assert!(error.message().contains(limit), "{limit} is not in {error}");
        }
        other => panic!("{field} was not refused: {other:?}"),
    }
}

fn control_frame(control: &wire::ClientControl) -> Bytes {
    [&[kind::CONTROL][..], &control.encode_to_vec()]
        .concat()
        .into()
}

fn decode_everything(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = ClientFrame::decode(bytes.clone());
    let _ = RelayFrame::decode(bytes.clone());
    let _ = LinkFrame::decode(bytes.clone());
    let _ = SessionEvent::decode(bytes);
}

/// The one frame that `encode` writes, its length prefix taken off.
fn body_of(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    let mut splitter = FrameSplitter::default();
    splitter.push(out.freeze());
    let frame = splitter.next_frame().unwrap().unwrap();
    assert_eq!(splitter.next_frame(), Ok(None));
    assert_eq!(splitter.finish(), Ok(()));
    frame
}

// --------------------------------------------------------------------------- any value of each type

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    prop_oneof![
        client_message().prop_map(ClientFrame::Control),
        (attachment(), message(0..limits::CHANNELS)).prop_map(|(attachment, message)| {
            ClientFrame::Publish(Publish {
                attachment,
                message,
            })
        }),
        ack().prop_map(ClientFrame::Ack),
    ]
}

fn relay_frame() -> impl Strategy<Value = RelayFrame> {
    prop_oneof![
        relay_message().prop_map(RelayFrame::Control),
        deliver().prop_map(RelayFrame::Deliver),
        skip().prop_map(RelayFrame::Skip),
    ]
}

fn link_frame() -> impl Strategy<Value = LinkFrame> {
    prop_oneof![
        link_message().prop_map(LinkFrame::Control),
        (
            session(),
            epoch(),
            peer(),
            incarnation(),
            message(0..limits::CHANNELS)
        )
            .prop_map(|(session, epoch, sender, incarnation, message)| {
                LinkFrame::Forward(Forward {
                    session,
                    epoch,
                    sender,
                    incarnation,
                    message,
                })
            }),
        fanout().prop_map(LinkFrame::Fanout),
        link_ack().prop_map(LinkFrame::Ack),
        (epoch(), fanout()).prop_map(|(epoch, entry)| LinkFrame::Store(Store { epoch, entry })),
        (session(), epoch(), index()).prop_map(|(session, epoch, index)| {
            LinkFrame::Stored(Stored {
                session,
                epoch,
                index,
            })
        }),
    ]
}

fn fanout() -> impl Strategy<Value = Fanout> {
    (
        session(),
        place(),
        peer(),
        peer(),
        incarnation(),
        message(any_channel()),
    )
        .prop_map(
            |(session, place, only, sender, incarnation, message)| Fanout {
                session,
                place,
                only,
                sender,
                incarnation,
                message,
            },
        )
}

fn client_message() -> impl Strategy<Value = ClientMessage> {
    prop_oneof![
        (any::<u32>(), text(80), "[a-z/0-9.]{0,64}").prop_map(|(version, token, sdk)| {
            ClientMessage::Hello {
                version,
                token,
                sdk,
            }
        }),
        (any::<u64>(), session_options())
            .prop_map(|(request, options)| ClientMessage::Create { request, options }),
        (any::<u64>(), join()).prop_map(|(request, join)| ClientMessage::Join { request, join }),
        (any::<u64>(), attachment()).prop_map(|(request, attachment)| ClientMessage::Leave {
            request,
            attachment
        }),
        any::<u64>().prop_map(|nonce| ClientMessage::Ping { nonce }),
    ]
}

fn relay_message() -> impl Strategy<Value = RelayMessage> {
    prop_oneof![
        (any::<u32>(), node(), boot(), user_id()).prop_map(|(version, node, boot, user)| {
            RelayMessage::Welcome {
                version,
                node,
                boot,
                user,
            }
        }),
        (any::<u64>(), joined())
            .prop_map(|(request, joined)| RelayMessage::Joined { request, joined }),
        (any::<u64>(), failure())
            .prop_map(|(request, failure)| RelayMessage::Failed { request, failure }),
        (any::<u64>(), attachment(), error(), any::<bool>()).prop_map(
            |(request, attachment, error, can_rejoin)| {
                RelayMessage::Ended {
                    request,
                    attachment,
                    error,
                    can_rejoin,
                }
            }
        ),
        (attachment(), mode(), seq(), error()).prop_map(|(attachment, mode, seq, error)| {
            RelayMessage::SendRejected {
                attachment,
                mode,
                seq,
                error,
            }
        }),
        (attachment(), peer(), any::<u32>()).prop_map(|(attachment, sender, missed)| {
            RelayMessage::ReliableGap {
                attachment,
                sender,
                missed,
            }
        }),
        any::<u64>().prop_map(|nonce| RelayMessage::Pong { nonce }),
        any::<u32>().prop_map(|ms| RelayMessage::Draining {
            deadline: Duration::from_millis(ms.into())
        }),
    ]
}

fn link_message() -> impl Strategy<Value = LinkMessage> {
    let user = || (user_id(), text(32)).prop_map(|(id, display_name)| User { id, display_name });
    prop_oneof![
        (any::<u32>(), node(), boot()).prop_map(|(version, node, boot)| LinkMessage::Hello {
            version,
            node,
            boot
        }),
        (any::<u64>(), session(), text(32), session_options(), user()).prop_map(
            |(request, session, home_region, options, user)| LinkMessage::Create {
                request,
                session,
                home_region,
                options,
                user
            }
        ),
        (
            any::<u64>(),
            session(),
            user(),
            text(64),
            option::of(resume())
        )
            .prop_map(
                |(request, session, user, app_version, resume)| LinkMessage::Join {
                    request,
                    session,
                    user,
                    app_version,
                    resume
                }
            ),
        (any::<u64>(), joined(), option::of(node())).prop_map(|(request, joined, standby)| {
            LinkMessage::Joined {
                request,
                joined,
                standby,
            }
        }),
        (any::<u64>(), session(), failure(), option::of(node())).prop_map(
            |(request, session, failure, owner)| LinkMessage::Refused {
                request,
                session,
                failure,
                owner
            }
        ),
        member_key().prop_map(LinkMessage::Leave),
        member_key().prop_map(LinkMessage::Dropped),
        (member_key(), error(), any::<bool>()).prop_map(|(member, error, can_rejoin)| {
            LinkMessage::Ended {
                member,
                error,
                can_rejoin,
            }
        }),
        (session(), peer(), mode(), seq(), error()).prop_map(
            |(session, peer, mode, seq, error)| {
                LinkMessage::SendRejected {
                    session,
                    peer,
                    mode,
                    seq,
                    error,
                }
            }
        ),
        (session(), peer(), peer(), any::<u32>()).prop_map(|(session, peer, sender, missed)| {
            LinkMessage::ReliableGap {
                session,
                peer,
                sender,
                missed,
            }
        }),
        (
            session(),
            epoch(),
            any::<u64>(),
            boot(),
            index(),
            session_state()
        )
            .prop_map(|(session, epoch, nonce, owner_boot, first, state)| {
                LinkMessage::Sync {
                    session,
                    epoch,
                    nonce,
                    owner_boot,
                    first,
                    state,
                }
            }),
        (session(), epoch()).prop_map(|(session, epoch)| LinkMessage::Seal { session, epoch }),
        (session(), epoch(), option::of(node())).prop_map(|(session, epoch, owner)| {
            LinkMessage::Sealed {
                session,
                epoch,
                owner,
            }
        }),
        (session(), epoch()).prop_map(|(session, epoch)| LinkMessage::Release { session, epoch }),
        (session(), epoch(), option::of(node())).prop_map(|(session, epoch, standby)| {
            LinkMessage::View {
                session,
                epoch,
                standby,
            }
        }),
        (session(), epoch()).prop_map(|(session, epoch)| LinkMessage::TakeOver { session, epoch }),
    ]
}

fn session_state() -> impl Strategy<Value = SessionState> {
    let seat = (member(), index(), seq()).prop_map(|(member, joined_at, ordered_seen)| {
        let state = SeatState {
            user: User {
                id: member.user,
                display_name: member.display_name,
            },
            incarnation: member.incarnation,
            connected: member.connected,
            joined_at,
            ordered_seen,
        };
        (member.peer, state)
    });
    (
        text(32),
        session_options(),
        option::of(join_code()),
        index(),
        peer(),
        vec(seat, 0..12),
    )
        .prop_map(
            |(home_region, options, code, index, last_peer, seats)| SessionState {
                home_region,
                options,
                code,
                index,
                last_peer,
                seats: seats.into_iter().collect(),
            },
        )
}

fn session_event() -> impl Strategy<Value = SessionEvent> {
    prop_oneof![
        member().prop_map(SessionEvent::Joined),
        peer().prop_map(|peer| SessionEvent::Dropped { peer }),
        (peer(), incarnation())
            .prop_map(|(peer, incarnation)| SessionEvent::Rejoined { peer, incarnation }),
        (peer(), code()).prop_map(|(peer, code)| SessionEvent::Left { peer, code }),
        (peer(), incarnation(), seq(), code(), peer()).prop_map(
            |(peer, incarnation, seq, code, absent)| SessionEvent::Refused {
                peer,
                incarnation,
                seq,
                code,
                absent,
            }
        ),
    ]
}

fn message(channel: impl Strategy<Value = u8>) -> impl Strategy<Value = Message> {
    (mode(), channel, seq(), target(), any::<u16>(), payload()).prop_map(
        |(mode, channel, seq, target, key, payload)| {
            let key = if mode == Mode::Latest { key } else { 0 };
            Message {
                mode,
                channel,
                seq,
                target,
                key,
                payload,
            }
        },
    )
}

fn deliver() -> impl Strategy<Value = Deliver> {
    (
        attachment(),
        mid(),
        mode(),
        any_channel(),
        place(),
        any::<u16>(),
        payload(),
    )
        .prop_map(
            |(attachment, mid, mode, channel, place, key, payload)| Deliver {
                attachment,
                mid,
                mode,
                channel,
                place: if mode == Mode::Ordered {
                    place
                } else {
                    Place::default()
                },
                key: if mode == Mode::Latest { key } else { 0 },
                payload,
            },
        )
}

fn ack() -> impl Strategy<Value = Ack> {
    (attachment(), index()).prop_map(|(attachment, index)| Ack { attachment, index })
}

fn skip() -> impl Strategy<Value = Skip> {
    (attachment(), mid(), place()).prop_map(|(attachment, mid, place)| Skip {
        attachment,
        mid,
        place,
    })
}

fn link_ack() -> impl Strategy<Value = LinkAck> {
    (session(), peer(), index()).prop_map(|(session, peer, index)| LinkAck {
        session,
        peer,
        index,
    })
}

fn session_options() -> impl Strategy<Value = SessionOptions> {
    (
        1..=limits::PLAYERS_MAX,
        prop_oneof![Just(Visibility::Public), Just(Visibility::Unlisted)],
        text(limits::SESSION_NAME_CHARS_MAX),
        0..=limits::REJOIN_HOLD_MAX.as_secs(),
        0..=limits::EMPTY_TTL_MAX.as_secs(),
        option::of("[a-z]{1,32}"),
        "[ -~]{0,64}",
        prop_oneof![Just(Grade::Safe), Just(Grade::Fast)],
    )
        .prop_map(
            |(max_players, visibility, name, hold, ttl, region, app_version, grade)| {
                SessionOptions {
                    max_players,
                    visibility,
                    name,
                    rejoin_hold: Duration::from_secs(hold),
                    empty_ttl: Duration::from_secs(ttl),
                    region,
                    app_version,
                    grade,
                }
            },
        )
}

fn join() -> impl Strategy<Value = Join> {
    let by = prop_oneof![
        join_code().prop_map(JoinBy::Code),
        (session(), option::of("[a-z]{1,32}"))
            .prop_map(|(id, home_region)| JoinBy::Session { id, home_region }),
    ];
    (by, "[ -~]{0,64}", option::of(resume())).prop_map(|(by, app_version, resume)| Join {
        by,
        app_version,
        resume,
    })
}

fn resume() -> impl Strategy<Value = Resume> {
    (
        peer(),
        incarnation(),
        index(),
        vec((peer(), any::<u32>()), 0..limits::TARGETS_MAX),
        any::<u32>(),
        epoch(),
        seq(),
    )
        .prop_map(
            |(peer, incarnation, last_index, reliable, attempt, last_epoch, reliable_sent)| {
                Resume {
                    peer,
                    incarnation,
                    last_index,
                    reliable,
                    attempt,
                    last_epoch,
                    reliable_sent,
                }
            },
        )
}

fn joined() -> impl Strategy<Value = Joined> {
    let place = (
        attachment(),
        session(),
        option::of(join_code()),
        text(32),
        peer(),
        incarnation(),
        epoch(),
        index(),
    );
    let rest = (
        vec(member(), 0..12),
        any::<bool>(),
        seq(),
        seq(),
        any::<u16>(),
        text(64),
        node(),
    );
    (place, rest).prop_map(
        |(
            (attachment, session, code, home_region, peer, incarnation, epoch, index),
            (roster, resumed, ordered_seen, reliable_seen, max_players, name, owner),
        )| Joined {
            attachment,
            session,
            code,
            home_region,
            peer,
            incarnation,
            epoch,
            index,
            roster,
            resumed,
            ordered_seen,
            reliable_seen,
            max_players,
            name,
            owner,
            rejoin_hold: Duration::from_secs(u64::from(max_players)),
        },
    )
}

fn empty_joined() -> Joined {
    Joined {
        attachment: Attachment(u16::MAX),
        session: SessionId([0xff; 16]),
        code: Some("666666".parse().unwrap()),
        home_region: "x".repeat(limits::REGION_CHARS_MAX),
        peer: PeerId(u16::MAX),
        incarnation: Incarnation(u16::MAX),
        epoch: Epoch(u64::MAX),
        index: Index(u64::MAX),
        roster: Vec::new(),
        resumed: true,
        ordered_seen: Seq(u32::MAX),
        reliable_seen: Seq(u32::MAX),
        max_players: u16::MAX,
        name: String::new(),
        owner: "x".repeat(limits::NODE_ID_CHARS_MAX).parse().unwrap(),
        rejoin_hold: limits::REJOIN_HOLD_MAX,
    }
}

fn member() -> impl Strategy<Value = Member> {
    (peer(), incarnation(), user_id(), text(32), any::<bool>()).prop_map(
        |(peer, incarnation, user, display_name, connected)| Member {
            peer,
            incarnation,
            user,
            display_name,
            connected,
        },
    )
}

fn member_key() -> impl Strategy<Value = MemberKey> {
    (session(), peer(), incarnation()).prop_map(|(session, peer, incarnation)| MemberKey {
        session,
        peer,
        incarnation,
    })
}

fn failure() -> impl Strategy<Value = Failure> {
    (error(), any::<u32>()).prop_map(|(error, ms)| Failure {
        error,
        retry_after: Duration::from_millis(ms.into()),
    })
}

fn error() -> impl Strategy<Value = Error> {
    (code(), text(100)).prop_map(|(code, message)| Error::new(code, message))
}

fn code() -> impl Strategy<Value = ErrorCode> {
    prop::sample::select(ErrorCode::ALL)
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::All),
        Just(Target::Others),
        peer().prop_map(Target::Peer),
        vec(peer(), 1..=limits::TARGETS_MAX).prop_map(Target::Peers),
    ]
}

fn mid() -> impl Strategy<Value = Mid> {
    (peer(), incarnation(), seq()).prop_map(|(sender, incarnation, seq)| Mid {
        sender,
        incarnation,
        seq,
    })
}

fn place() -> impl Strategy<Value = Place> {
    (epoch(), index()).prop_map(|(epoch, index)| Place { epoch, index })
}

fn known_kind() -> impl Strategy<Value = u8> {
    prop::sample::select(&[1, 2, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x24][..])
}

fn any_channel() -> impl Strategy<Value = u8> {
    prop_oneof![0..limits::CHANNELS, Just(SESSION_CHANNEL)]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(&Mode::ALL[..])
}

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn join_code() -> impl Strategy<Value = JoinCode> {
    "[6789BCDFGHJKLMNPQRTW]{6}".prop_map(|code| code.parse().unwrap())
}

fn node() -> impl Strategy<Value = NodeId> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|id| id.parse().unwrap())
}

/// Up to `max` printable characters of any length.
fn text(max: usize) -> impl Strategy<Value = String> {
    vec(
        prop::char::range(' ', '\u{2fff}').prop_filter("printable", |c| !c.is_control()),
        0..=max,
    )
    .prop_map(String::from_iter)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

fn user_id() -> impl Strategy<Value = UserId> {
    any::<[u8; 16]>().prop_map(UserId)
}

fn attachment() -> impl Strategy<Value = Attachment> {
    any::<u16>().prop_map(Attachment)
}

fn peer() -> impl Strategy<Value = PeerId> {
    any::<u16>().prop_map(PeerId)
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u16>().prop_map(Incarnation)
}

fn seq() -> impl Strategy<Value = Seq> {
    any::<u32>().prop_map(Seq)
}

fn index() -> impl Strategy<Value = Index> {
    any::<u64>().prop_map(Index)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn boot() -> impl Strategy<Value = BootId> {
    any::<u64>().prop_map(BootId)
}

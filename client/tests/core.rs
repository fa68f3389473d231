//! The core against a relay of the test's own making, over QUIC in memory and in virtual time.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stage;

use std::time::Duration;

use bytes::Bytes;
use dreamcatcher_client::core::{CONNECT_TIMEOUT, RECONNECT_TIMEOUT, Reply, SILENCE_MAX};
use dreamcatcher_client::nearest::PROBE_WITHIN;
use dreamcatcher_client::{
    ErrorCode, Event, Index, Mode, Pick, SendOptions, SessionOptions, Target,
};
use dreamcatcher_proto::control::ClientMessage;
use dreamcatcher_proto::frame::ClientFrame;
use dreamcatcher_proto::limits::PING_AFTER;

use stage::{FIRST, SECOND, Stage, Way, ended, joined, message, ordered};

// ---------------------------------------------------------------------------------------- connecting

#[test]
fn a_client_says_hello_on_the_control_stream_and_is_connected_by_the_welcome() {
    let mut stage = Stage::new(&[FIRST]);
    let (way, frame) = stage.next_frame();
    let ClientFrame::Control(ClientMessage::Hello {
        version: 1, token, ..
    }) = frame
    else {
        panic!("{frame:?}");
    };
    assert_eq!((way, token.as_str()), (Way::Control, "token"));
    assert_eq!(stage.core.poll_reply(), None);
    stage.welcome();
    assert!(matches!(
        stage.core.poll_reply(),
        Some(Reply::Connected { .. })
    ));
}

#[test]
fn when_no_relay_answers_each_has_had_its_time_and_the_error_names_each() {
    let mut stage = Stage::dark(&[FIRST, SECOND], Pick::Listed);
    let start = stage.now;
    let error = loop {
        match stage.core.poll_reply() {
            Some(Reply::Failed(error)) => break error,
            Some(other) => panic!("{other:?}"),
            None => stage.step(),
        }
    };
    assert_eq!(stage.now - start, 2 * CONNECT_TIMEOUT);
    assert_eq!(error.code(), ErrorCode::NoRelayReachable);
    for relay in [FIRST, SECOND] {
        assert!(error.message().contains(&relay.to_string()), "{error}");
    }
}

#[test]
fn where_udp_is_blocked_the_error_says_so_of_each_relay() {
    let mut stage = Stage::dark(&[FIRST, SECOND], Pick::Nearest);
    let start = stage.now;
    let error = loop {
        match stage.core.poll_reply() {
            Some(Reply::Failed(error)) => break error,
            Some(other) => panic!("{other:?}"),
            None => stage.step(),
        }
    };
    assert_eq!(stage.now - start, PROBE_WITHIN + 2 * RECONNECT_TIMEOUT);
    assert_eq!(error.code(), ErrorCode::NoRelayReachable);
    let silent = "no answer to 3 probes within 600 ms; is UDP blocked?";
    assert_eq!(error.message().matches(silent).count(), 2, "{error}");
}

#[test]
fn a_relay_with_another_certificate_is_not_talked_to_and_the_error_says_why() {
    let mut stage = Stage::with_pinned(&[FIRST], [7; 32]);
    stage.settle();
    let Some(Reply::Failed(error)) = stage.core.poll_reply() else {
        panic!("it connected");
    };
    assert_eq!(error.code(), ErrorCode::NoRelayReachable);
    assert!(
        error.message().contains("not one of the pinned ones"),
        "{error}"
    );
}

#[test]
fn a_token_that_is_refused_is_not_shown_to_another_relay() {
    let mut stage = Stage::new(&[FIRST, SECOND]);
    stage.next_frame();
    stage.close(ErrorCode::TokenExpired, "sign in again");
    let Some(Reply::Failed(error)) = stage.core.poll_reply() else {
        panic!("it went on");
    };
    assert_eq!(
        (error.code(), error.message()),
        (ErrorCode::TokenExpired, "sign in again")
    );
    stage.pass(Duration::from_secs(30));
    assert!(stage.core.is_finished());
    assert_eq!(stage.connections, 1);
}

#[test]
fn a_relay_that_drains_or_is_silent_is_left_for_the_next_and_the_session_is_resumed_there() {
    for silent in [false, true] {
        let mut stage = Stage::joined(&[FIRST, SECOND]);
        stage
            .core
            .send(all(Mode::Ordered), "a".into(), stage.now)
            .unwrap();
        let lost_at = stage.now;
        if silent {
            stage.unreachable = Some(FIRST);
            stage.pass(PING_AFTER + SILENCE_MAX + Duration::from_secs(1));
        } else {
            stage.close(ErrorCode::RelayDraining, "");
            stage.pass(Duration::from_secs(1));
        }
        assert!(stage.now - lost_at < Duration::from_secs(5));
        assert_eq!(stage.core.poll_event(), Some(Event::Reconnecting));
        assert_eq!(stage.served, Some(SECOND));
        stage.frames.clear();
        stage.welcome();
        let (_, frame) = stage.next_frame();
        let ClientFrame::Control(ClientMessage::Join { request, join }) = frame else {
            panic!("{frame:?}");
        };
        assert_eq!(join.resume.unwrap().last_index, Index(10));
        stage.send(Way::Control, &joined(request, true));
        assert_eq!(stage.core.poll_event(), Some(Event::Resumed));
        let (_, frame) = stage.next_frame();
        assert!(
            matches!(frame, ClientFrame::Publish(_)),
            "what was unresolved is sent again: {frame:?}"
        );
        assert_eq!(stage.core.poll_reply(), None, "a reconnect answers nobody");
    }
}

// ------------------------------------------------------------------------------------------- frames

#[test]
fn small_frames_share_a_datagram_and_what_fits_none_takes_the_bulk_stream() {
    let mut stage = Stage::joined(&[FIRST]);
    for size in [10, 10, 4_000, 10] {
        stage
            .core
            .send(all(Mode::Latest), vec![0; size].into(), stage.now)
            .unwrap();
    }
    stage
        .core
        .send(all(Mode::Reliable), "r".into(), stage.now)
        .unwrap();
    stage.settle();
    let ways: Vec<_> = stage.frames.iter().map(|(way, _)| *way).collect();
    assert_eq!(ways.iter().filter(|way| **way == Way::Datagram).count(), 3);
    assert_eq!(ways.iter().filter(|way| **way == Way::Bulk).count(), 2);
    assert_eq!(stage.datagrams, 1, "three frames, one datagram");
}

#[test]
fn without_datagrams_everything_takes_the_bulk_stream() {
    let mut stage = Stage::without_datagrams();
    stage
        .core
        .send(all(Mode::Latest), "l".into(), stage.now)
        .unwrap();
    assert_eq!(stage.next_frame().0, Way::Bulk);
}

#[test]
fn a_message_that_overtakes_the_joined_on_another_stream_waits_for_it() {
    let mut stage = Stage::new(&[FIRST]);
    stage.welcome();
    stage
        .core
        .create(SessionOptions::default(), stage.now)
        .unwrap();
    stage.settle();
    stage.send(Way::Bulk, &message(Mode::Reliable, 1, 0));
    assert_eq!(stage.core.poll_event(), None);
    stage.send(Way::Control, &joined(1, false));
    let Some(Event::Message {
        mode: Mode::Reliable,
        ..
    }) = stage.core.poll_event()
    else {
        panic!("the message is lost");
    };
}

#[test]
fn a_game_that_does_not_read_holds_the_relay_back_and_misses_nothing() {
    const ENTRIES: u64 = 60_000;
    let mut stage = Stage::joined(&[FIRST]);
    for index in 11..11 + ENTRIES {
        stage.send_later(Way::Control, &ordered(index));
    }
    stage.pass(Duration::from_secs(2));
    assert!(stage.unsent() > 0, "the relay could send everything");
    let mut read = 0;
    let mut most = 0;
    while read < ENTRIES {
        let mut waiting = 0;
        while let Some(event) = stage.core.poll_event() {
            let Event::Message { index, .. } = event else {
                continue;
            };
            assert_eq!(index, Some(Index(11 + read)));
            (read, waiting) = (read + 1, waiting + 1);
        }
        most = waiting.max(most);
        stage.step();
    }
    assert!(most <= 16_384, "{most} events waited");
}

#[test]
fn the_one_terminal_event_comes_when_the_client_is_closed_or_the_session_ends() {
    let mut stage = Stage::joined(&[FIRST]);
    stage.send(Way::Control, &ended(ErrorCode::SessionClosed));
    stage.core.close(stage.now);
    stage.settle();
    let events: Vec<_> = std::iter::from_fn(|| stage.core.poll_event()).collect();
    let [Event::Ended { error, .. }] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(error.code(), ErrorCode::SessionClosed);
    stage.pass(Duration::from_secs(30));
    assert!(stage.core.is_finished());

    let mut stage = Stage::joined(&[FIRST]);
    stage.core.close(stage.now);
    let Some(Event::Ended { error, .. }) = stage.core.poll_event() else {
        panic!("no end");
    };
    assert_eq!(error.code(), ErrorCode::Cancelled);
    assert_eq!(stage.core.poll_event(), None);
}

#[test]
fn garbage_from_a_relay_makes_the_client_look_for_another() {
    for way in [Way::Control, Way::Bulk, Way::Datagram] {
        let mut stage = Stage::joined(&[FIRST, SECOND]);
        stage.send_bytes(way, &[3, 0x77, 1, 2]);
        stage.pass(Duration::from_secs(1));
        assert_eq!(
            stage.core.poll_event(),
            Some(Event::Reconnecting),
            "{way:?}"
        );
        assert_eq!(stage.served, Some(SECOND));
    }
}

#[test]
fn payload_bytes_arrive_as_they_were_sent() {
    let mut stage = Stage::joined(&[FIRST]);
    let payload = Bytes::from((0..=255).cycle().take(65_536).collect::<Vec<u8>>());
    stage
        .core
        .send(all(Mode::Reliable), payload.clone(), stage.now)
        .unwrap();
    stage.pass(Duration::from_secs(1));
    let (_, frame) = stage.next_frame();
    let ClientFrame::Publish(publish) = frame else {
        panic!("{frame:?}");
    };
    assert_eq!(publish.message.payload, payload);
}

fn all(mode: Mode) -> SendOptions {
    SendOptions::new(mode, Target::All)
}

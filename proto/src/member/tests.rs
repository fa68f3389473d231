#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test's virtual time starts somewhere"
)]

use super::*;
use crate::control::{Resume, SessionEvent};
use crate::frame::{Ack, Deliver, Place, Publish, SESSION_CHANNEL, Skip};
use crate::id::{BootId, Mid};

const ME: PeerId = PeerId(2);
const OTHER: PeerId = PeerId(1);
const EPOCH: Epoch = Epoch(5);
const JOINED_AT: u64 = 10;

// -------------------------------------------------------------------------- connection and requests

#[test]
fn hello_is_the_first_frame_of_every_connection() {
    let (mut member, now) = (Member::new("token".into(), "sdk/1".into()), Instant::now());
    for _ in 0..2 {
        member.handle(Input::Connected, now);
        assert_eq!(outputs(&mut member), [control(hello())]);
        assert!(!member.is_connected(), "not before the welcome");
        member.handle(Input::Frame(welcome()), now);
        assert_eq!(outputs(&mut member), [Output::Answer(welcomed())]);
        assert!(member.is_connected());
        member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
        assert_eq!(
            outputs(&mut member),
            [],
            "without a session there is nobody to tell"
        );
    }
}

#[test]
fn commands_that_do_not_fit_the_state_are_refused() {
    let (mut member, now) = (Member::new("token".into(), "sdk/1".into()), Instant::now());
    assert_eq!(
        code(member.create(SessionOptions::default(), now)),
        ErrorCode::NotConnected
    );
    assert_eq!(
        code(send(&mut member, Mode::Ordered)),
        ErrorCode::InvalidState
    );
    assert_eq!(code(member.leave(now)), ErrorCode::InvalidState);
    let mut member = connected(now);
    let bad = SessionOptions {
        max_players: 0,
        ..SessionOptions::default()
    };
    assert_eq!(code(member.create(bad, now)), ErrorCode::InvalidArgument);
    member.create(SessionOptions::default(), now).unwrap();
    assert_eq!(
        code(member.create(SessionOptions::default(), now)),
        ErrorCode::InvalidState
    );
    let (mut member, now) = seated();
    assert_eq!(
        code(member.create(SessionOptions::default(), now)),
        ErrorCode::AlreadyInSession
    );
}

#[test]
fn a_request_is_answered_once_by_the_relay_by_the_clock_or_by_the_loss_of_the_connection() {
    let now = Instant::now();
    let refused = |error: ErrorCode| [Output::Answer(Answer::Refused(error.into()))];
    let asking = || {
        let mut member = connected(now);
        member.create(SessionOptions::default(), now).unwrap();
        let options = SessionOptions::default();
        assert_eq!(
            outputs(&mut member),
            [control(ClientMessage::Create {
                request: 1,
                options
            })]
        );
        member
    };
    let failed = || {
        message(RelayMessage::Failed {
            request: 1,
            failure: Error::from(ErrorCode::SessionFull).into(),
        })
    };

    let mut member = asking();
    member.handle(Input::Frame(failed()), now);
    assert_eq!(outputs(&mut member), refused(ErrorCode::SessionFull));
    member.handle(Input::Frame(failed()), now);
    assert_eq!(outputs(&mut member), []);

    let mut member = asking();
    let due = now + limits::REQUEST_TIMEOUT + ANSWER_GRACE;
    assert_eq!(member.poll_timeout(), Some(due));
    member.handle_timeout(due - Duration::from_millis(1));
    assert_eq!(outputs(&mut member), []);
    member.handle_timeout(due);
    assert_eq!(outputs(&mut member), refused(ErrorCode::TimedOut));

    let mut member = asking();
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    assert_eq!(outputs(&mut member), refused(ErrorCode::ConnectionLost));
}

#[test]
fn a_seat_that_nobody_waits_for_any_more_is_given_up_again() {
    let now = Instant::now();
    let mut member = connected(now);
    member.handle(Input::Frame(joined(7, 3)), now);
    let attachment = Attachment(3);
    assert_eq!(
        outputs(&mut member),
        [control(ClientMessage::Leave {
            request: 1,
            attachment
        })]
    );
    assert_eq!(member.session(), None);
}

#[test]
fn a_draining_relay_is_to_be_left_while_it_still_serves() {
    let (mut member, now) = seated();
    let deadline = Duration::from_secs(1);
    member.handle(
        Input::Frame(message(RelayMessage::Draining { deadline })),
        now,
    );
    assert_eq!(outputs(&mut member), [Output::Draining { deadline }]);
    assert!(member.is_connected());
}

// ----------------------------------------------------------------------------------------- the order

#[test]
fn an_entry_is_delivered_once_and_in_its_place() {
    let (mut member, now) = seated();
    for index in [11, 11, 12, 11, 12] {
        member.handle(Input::Frame(deliver(OTHER, index as u32, index)), now);
    }
    assert_eq!(
        events(&mut member),
        [received(OTHER, 11, 11), received(OTHER, 12, 12)]
    );
    assert_eq!(member.index(), Some(Index(12)));
}

#[test]
fn a_skipped_place_is_taken_without_an_event() {
    let (mut member, now) = seated();
    member.handle(Input::Frame(skip(OTHER, 1, 11)), now);
    member.handle(Input::Frame(deliver(OTHER, 2, 12)), now);
    assert_eq!(events(&mut member), [received(OTHER, 2, 12)]);
}

#[test]
fn a_hole_or_a_falling_epoch_ends_the_connection_and_nothing_more_of_it_counts() {
    let old = place(11, EPOCH.0 - 1);
    for frame in [
        deliver(OTHER, 1, 12),
        skip(OTHER, 1, 12),
        deliver_at(OTHER, 1, old),
    ] {
        let (mut member, now) = seated();
        member.handle(Input::Frame(frame), now);
        let all = outputs(&mut member);
        assert!(matches!(all.as_slice(), [Output::Reconnect(_)]), "{all:?}");
        member.handle(Input::Frame(deliver(OTHER, 1, 11)), now);
        assert_eq!(outputs(&mut member), []);
        member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
        assert_eq!(events(&mut member), [Event::Reconnecting]);
        assert_eq!(member.index(), Some(Index(JOINED_AT)));
    }
}

#[test]
fn frames_of_another_attachment_are_dropped() {
    let (mut member, now) = seated();
    let RelayFrame::Deliver(frame) = deliver(OTHER, 1, 11) else {
        unreachable!()
    };
    let other = Deliver {
        attachment: Attachment(2),
        ..frame
    };
    member.handle(Input::Frame(RelayFrame::Deliver(other)), now);
    let ended = RelayMessage::Ended {
        request: 0,
        attachment: Attachment(2),
        error: ErrorCode::SessionClosed.into(),
        can_rejoin: false,
    };
    member.handle(Input::Frame(message(ended)), now);
    assert_eq!(outputs(&mut member), []);
}

#[test]
fn frames_that_overtake_their_joined_are_early_and_only_those() {
    let (member, _) = seated();
    assert!(!member.is_early(Attachment(0)));
    assert!(!member.is_early(Attachment(1)));
    assert!(member.is_early(Attachment(2)));
}

#[test]
fn the_roster_follows_the_order() {
    let (mut member, now) = seated();
    let third = peer(PeerId(3), "Cleo");
    let left = Event::PeerLeft {
        peer: PeerId(3),
        display_name: "Cleo".into(),
        code: ErrorCode::Ok,
    };
    for (index, told, event) in [
        (
            11,
            SessionEvent::Joined(third.clone()),
            Event::PeerJoined(third),
        ),
        (
            12,
            SessionEvent::Dropped { peer: OTHER },
            Event::PeerDropped(OTHER),
        ),
        (
            13,
            SessionEvent::Left {
                peer: PeerId(3),
                code: ErrorCode::Ok,
            },
            left,
        ),
    ] {
        member.handle(Input::Frame(session_event(&told, index)), now);
        assert_eq!(events(&mut member), [event]);
    }
    let roster: Vec<_> = member
        .roster()
        .map(|member| (member.peer, member.connected))
        .collect();
    assert_eq!(roster, [(OTHER, false)]);
    let back = SessionEvent::Rejoined {
        peer: OTHER,
        incarnation: Incarnation(2),
    };
    member.handle(Input::Frame(session_event(&back, 14)), now);
    assert!(
        member
            .roster()
            .all(|member| member.connected && member.incarnation == Incarnation(2))
    );
}

#[test]
fn a_session_event_that_cannot_be_read_ends_the_connection() {
    let (mut member, now) = seated();
    let RelayFrame::Deliver(frame) = deliver(PeerId::SESSION, 0, 11) else {
        unreachable!()
    };
    let garbage = Deliver {
        channel: SESSION_CHANNEL,
        ..frame
    };
    member.handle(Input::Frame(RelayFrame::Deliver(garbage)), now);
    assert!(matches!(
        outputs(&mut member).as_slice(),
        [Output::Reconnect(_)]
    ));
}

#[test]
fn entries_are_acknowledged_in_time_and_after_many() {
    let (mut member, now) = seated();
    let acked = |index| {
        let frame = ClientFrame::Ack(Ack {
            attachment: Attachment(1),
            index: Index(index),
        });
        Output::Send {
            way: Way::Control,
            frame,
        }
    };
    member.handle(Input::Frame(deliver(OTHER, 1, 11)), now);
    events(&mut member);
    assert_eq!(member.poll_timeout(), Some(now + limits::ACK_DELAY));
    member.handle_timeout(now + limits::ACK_DELAY);
    assert_eq!(outputs(&mut member), [acked(11)]);
    assert_eq!(member.poll_timeout(), None);
    for index in 12..12 + limits::ACK_EVERY_ENTRIES {
        member.handle(Input::Frame(skip(OTHER, index as u32, index)), now);
    }
    assert_eq!(
        outputs(&mut member),
        [acked(11 + limits::ACK_EVERY_ENTRIES)]
    );
}

// --------------------------------------------------------------------------------- the other modes

#[test]
fn latest_is_never_older_than_what_was_delivered_before_for_its_key() {
    let (mut member, now) = seated();
    for (key, seq) in [(0, 2), (0, 1), (0, 2), (7, 1), (0, 3)] {
        let RelayFrame::Deliver(frame) = unordered(Mode::Latest, seq) else {
            unreachable!()
        };
        member.handle(
            Input::Frame(RelayFrame::Deliver(Deliver { key, ..frame })),
            now,
        );
    }
    assert_eq!(seqs(&mut member), [2, 1, 3]);
}

#[test]
fn reliable_is_delivered_once_and_datagrams_as_they_come() {
    let (mut member, now) = seated();
    for mode in [Mode::Reliable, Mode::Datagram] {
        for seq in [1, 3, 3, 2] {
            member.handle(Input::Frame(unordered(mode, seq)), now);
        }
    }
    assert_eq!(seqs(&mut member), [1, 3, 1, 3, 3, 2]);
}

#[test]
fn lost_reliable_messages_are_told() {
    let (mut member, now) = seated();
    let gap = RelayMessage::ReliableGap {
        attachment: Attachment(1),
        sender: OTHER,
        missed: 4,
    };
    member.handle(Input::Frame(message(gap)), now);
    assert_eq!(
        events(&mut member),
        [Event::ReliableGap {
            sender: OTHER,
            missed: 4
        }]
    );
}

// ------------------------------------------------------------------------------------------ sending

#[test]
fn each_mode_has_its_way_and_counts_for_itself() {
    let (mut member, _) = seated();
    for (mode, way) in [
        (Mode::Ordered, Way::Control),
        (Mode::Reliable, Way::Bulk),
        (Mode::Latest, Way::Datagram),
        (Mode::Datagram, Way::Datagram),
    ] {
        for seq in 1..=2 {
            assert_eq!(
                send(&mut member, mode).unwrap(),
                SendId {
                    mode,
                    seq: Seq(seq)
                }
            );
            assert_eq!(outputs(&mut member), [publish(way, mode, seq)]);
        }
    }
}

#[test]
fn what_cannot_be_sent_is_refused_at_once_and_says_why() {
    let (mut member, _) = seated();
    let to = |target| SendOptions::new(Mode::Ordered, target);
    let all = to(Target::All);
    let too_large = vec![0; limits::PAYLOAD_BYTES_MAX + 1];
    for (options, payload, refused) in [
        (
            SendOptions {
                channel: 16,
                ..all.clone()
            },
            vec![],
            ErrorCode::InvalidArgument,
        ),
        (
            SendOptions {
                key: 1,
                ..all.clone()
            },
            vec![],
            ErrorCode::InvalidArgument,
        ),
        (all, too_large, ErrorCode::MessageTooLarge),
        (to(Target::Peer(PeerId(9))), vec![], ErrorCode::PeerNotFound),
        (
            to(Target::Peers(vec![OTHER, PeerId(9)])),
            vec![],
            ErrorCode::PeerNotFound,
        ),
        (
            to(Target::Peers(vec![])),
            vec![],
            ErrorCode::InvalidArgument,
        ),
        (
            to(Target::Peers(vec![OTHER; 129])),
            vec![],
            ErrorCode::InvalidArgument,
        ),
    ] {
        assert_eq!(code(member.send(options, payload.into())), refused);
    }
    assert_eq!(outputs(&mut member), []);
    let sent = member
        .send(to(Target::Peers(vec![OTHER, ME])), Bytes::new())
        .unwrap();
    assert_eq!(sent.seq, Seq(1), "a refused send takes no number");
}

#[test]
fn a_send_is_committed_when_its_own_entry_comes_back_delivered_or_skipped() {
    let (mut member, now) = seated();
    for _ in 0..2 {
        send(&mut member, Mode::Ordered).unwrap();
    }
    outputs(&mut member);
    member.handle(Input::Frame(deliver(ME, 1, 11)), now);
    assert_eq!(events(&mut member), [received(ME, 1, 11), committed(1, 11)]);
    member.handle(Input::Frame(skip(ME, 2, 12)), now);
    assert_eq!(events(&mut member), [committed(2, 12)]);
    assert_eq!(member.unresolved(), 0);
}

#[test]
fn a_refused_send_is_rejected_at_its_place_in_the_order_and_once() {
    let (mut member, now) = seated();
    for _ in 0..3 {
        send(&mut member, Mode::Ordered).unwrap();
    }
    outputs(&mut member);
    member.handle(Input::Frame(skip(ME, 1, 11)), now);
    member.handle(Input::Frame(session_event(&refused(ME, 1, 2), 12)), now);
    member.handle(Input::Frame(skip(ME, 3, 13)), now);
    assert_eq!(
        events(&mut member),
        [committed(1, 11), refusal(2), committed(3, 13)]
    );
    for (entry, index) in [(refused(ME, 1, 2), 14), (refused(ME, 1, 9), 15)] {
        member.handle(Input::Frame(session_event(&entry, index)), now);
    }
    assert_eq!(
        events(&mut member),
        [],
        "it had its outcome, or was never sent"
    );
}

#[test]
fn a_refusal_of_another_member_or_life_concerns_nobody_here() {
    let (mut member, now) = seated();
    send(&mut member, Mode::Ordered).unwrap();
    outputs(&mut member);
    for (entry, index) in [(refused(OTHER, 1, 1), 11), (refused(ME, 2, 1), 12)] {
        member.handle(Input::Frame(session_event(&entry, index)), now);
    }
    assert_eq!(events(&mut member), []);
    assert_eq!(member.unresolved(), 1);
}

#[test]
fn unresolved_sends_are_limited_in_number_and_in_bytes() {
    let (mut member, now) = seated();
    for _ in 0..limits::UNRESOLVED_SENDS_MAX {
        send(&mut member, Mode::Ordered).unwrap();
    }
    assert_eq!(
        code(send(&mut member, Mode::Ordered)),
        ErrorCode::TooManyUnresolved
    );
    send(&mut member, Mode::Latest).unwrap();
    member.handle(Input::Frame(skip(ME, 1, 11)), now);
    send(&mut member, Mode::Ordered).unwrap();

    let (mut member, _) = seated();
    let large = Bytes::from(vec![0; limits::PAYLOAD_BYTES_MAX]);
    let all = || SendOptions::new(Mode::Ordered, Target::All);
    for _ in 0..UNRESOLVED_BYTES_MAX / limits::PAYLOAD_BYTES_MAX {
        member.send(all(), large.clone()).unwrap();
    }
    assert_eq!(
        code(member.send(all(), large)),
        ErrorCode::TooManyUnresolved
    );
}

// ----------------------------------------------------------------------------------------- resuming

#[test]
fn a_resume_says_where_the_member_was_and_sends_again_what_the_owner_has_not_seen() {
    let (mut member, now) = seated();
    for _ in 0..3 {
        send(&mut member, Mode::Ordered).unwrap();
    }
    member.handle(Input::Frame(unordered(Mode::Reliable, 4)), now);
    member.handle(Input::Frame(unordered(Mode::Reliable, 6)), now);
    let told_missing = RelayMessage::ReliableGap {
        attachment: Attachment(1),
        sender: OTHER,
        missed: 3,
    };
    member.handle(Input::Frame(message(told_missing)), now);
    member.handle(Input::Frame(skip(ME, 1, 11)), now);
    outputs(&mut member);

    come_back(&mut member, now);
    let resume = Resume {
        peer: ME,
        incarnation: Incarnation(1),
        last_index: Index(11),
        reliable: vec![(OTHER, 2 + 3)],
        attempt: 1,
        last_epoch: EPOCH,
        reliable_sent: Seq(0),
    };
    assert_eq!(outputs(&mut member), [control(resume_request(2, resume))]);

    member.handle(Input::Frame(resumed(2, 11, 2)), now);
    let again = publish(Way::Control, Mode::Ordered, 3);
    assert_eq!(outputs(&mut member), [Output::Event(Event::Resumed), again]);
    member.handle(Input::Frame(skip(ME, 2, 12)), now);
    assert_eq!(
        events(&mut member),
        [committed(2, 12)],
        "the replay resolves it"
    );
    assert_eq!(member.unresolved(), 1);
}

#[test]
fn a_refusal_that_was_lost_on_the_way_comes_with_the_replay() {
    let (mut member, now) = seated();
    for _ in 0..2 {
        send(&mut member, Mode::Ordered).unwrap();
    }
    come_back(&mut member, now);
    member.handle(Input::Frame(resumed(2, JOINED_AT, 1)), now);
    outputs(&mut member);
    member.handle(Input::Frame(session_event(&refused(ME, 1, 1), 11)), now);
    assert_eq!(events(&mut member), [refusal(1)]);
    assert_eq!(member.unresolved(), 1);
}

#[test]
fn a_relay_that_restored_the_way_to_the_owner_is_sent_again_what_the_owner_has_not_seen() {
    let (mut member, now) = seated();
    for _ in 0..2 {
        send(&mut member, Mode::Ordered).unwrap();
    }
    outputs(&mut member);
    member.handle(Input::Frame(resumed(0, JOINED_AT, 1)), now);
    assert_eq!(
        outputs(&mut member),
        [publish(Way::Control, Mode::Ordered, 2)]
    );
}

#[test]
fn while_away_ordered_waits_reliable_is_refused_and_the_rest_is_lost() {
    let (mut member, now) = seated();
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    assert_eq!(events(&mut member), [Event::Reconnecting]);
    send(&mut member, Mode::Ordered).unwrap();
    send(&mut member, Mode::Latest).unwrap();
    assert_eq!(
        code(send(&mut member, Mode::Reliable)),
        ErrorCode::NotConnected
    );
    assert_eq!(outputs(&mut member), []);
    member.handle(Input::Connected, now);
    member.handle(Input::Frame(welcome()), now);
    outputs(&mut member);
    member.handle(Input::Frame(resumed(2, JOINED_AT, 0)), now);
    let waited = publish(Way::Control, Mode::Ordered, 1);
    assert_eq!(
        outputs(&mut member),
        [Output::Event(Event::Resumed), waited]
    );
}

#[test]
fn a_seat_that_is_not_taken_up_in_time_is_lost_for_the_reason_of_the_last_failure() {
    let (mut member, now) = seated();
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    let later = now + Duration::from_secs(9);
    member.handle(Input::Lost(ErrorCode::ServerFull.into()), later);
    assert_eq!(events(&mut member), [Event::Reconnecting]);
    assert_eq!(
        member.poll_timeout(),
        Some(now + limits::REJOIN_HOLD_DEFAULT)
    );
    member.handle_timeout(now + limits::REJOIN_HOLD_DEFAULT);
    assert_eq!(events(&mut member), [ended(ErrorCode::ServerFull)]);
}

#[test]
fn a_resume_that_is_refused_for_now_is_tried_again_and_one_that_is_refused_for_good_ends_it() {
    let (mut member, now) = seated();
    come_back(&mut member, now);
    outputs(&mut member);
    let refuse = |request, code: ErrorCode| {
        let failure = Failure {
            error: code.into(),
            retry_after: Duration::from_secs(1),
        };
        message(RelayMessage::Failed { request, failure })
    };
    member.handle(Input::Frame(refuse(2, ErrorCode::Timeout)), now);
    assert_eq!(outputs(&mut member), []);
    let again = now + Duration::from_secs(1);
    assert_eq!(member.poll_timeout(), Some(again));
    member.handle_timeout(again);
    assert!(matches!(
        outputs(&mut member).as_slice(),
        [Output::Send { .. }]
    ));
    member.handle(Input::Frame(refuse(3, ErrorCode::RejoinExpired)), again);
    assert_eq!(events(&mut member), [ended(ErrorCode::RejoinExpired)]);
}

#[test]
fn a_resume_counts_the_connections_of_this_life_and_not_the_requests() {
    let attempts = |member: &mut Member| -> Vec<u32> {
        let resume = |output| match output {
            Output::Send {
                frame: ClientFrame::Control(ClientMessage::Join { join, .. }),
                ..
            } => join.resume,
            Output::Send { .. }
            | Output::Answer(_)
            | Output::Reconnect(_)
            | Output::Event(_)
            | Output::SendNext { .. }
            | Output::Moved { .. }
            | Output::DropNext(_)
            | Output::DropFormer
            | Output::Draining { .. } => None,
        };
        let resumes = outputs(member).into_iter().filter_map(resume);
        resumes.map(|resume| resume.attempt).collect()
    };
    let (mut member, now) = seated();
    come_back(&mut member, now);
    assert_eq!(attempts(&mut member), [1]);
    let failure = Failure {
        error: ErrorCode::Timeout.into(),
        retry_after: Duration::from_secs(1),
    };
    let refused = message(RelayMessage::Failed {
        request: 2,
        failure,
    });
    member.handle(Input::Frame(refused), now);
    member.handle_timeout(now + Duration::from_secs(1));
    assert_eq!(attempts(&mut member), [1], "asked again, at the same relay");

    // A connection that the relay never welcomed asks for nothing and counts for nothing.
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    member.handle(Input::Connected, now);
    come_back(&mut member, now);
    assert_eq!(attempts(&mut member), [2]);
    member.handle(Input::Frame(resumed(4, JOINED_AT, 0)), now);
    come_back(&mut member, now);
    assert_eq!(attempts(&mut member), [3]);
}

#[test]
fn a_relay_that_does_not_answer_a_resume_is_left_for_another_one() {
    let (mut member, now) = seated();
    come_back(&mut member, now);
    outputs(&mut member);
    let due = now + limits::REQUEST_TIMEOUT + ANSWER_GRACE;
    assert_eq!(member.poll_timeout(), Some(due));
    member.handle_timeout(due);
    assert_eq!(outputs(&mut member), [Output::Reconnect(timed_out())]);
    member.handle(Input::Lost(timed_out()), due);
    assert_eq!(
        member.poll_timeout(),
        Some(now + limits::REJOIN_HOLD_DEFAULT)
    );
}

#[test]
fn a_resume_that_leaves_a_gap_ends_the_session_and_gives_the_seat_up() {
    for (index, resumed) in [(JOINED_AT + 5, true), (JOINED_AT, false)] {
        let (mut member, now) = seated();
        come_back(&mut member, now);
        outputs(&mut member);
        let frame = joined_with(2, 1, |joined| {
            (joined.index, joined.resumed) = (Index(index), resumed)
        });
        member.handle(Input::Frame(frame), now);
        let all = outputs(&mut member);
        let [
            Output::Send { .. },
            Output::Event(Event::Ended { error, .. }),
        ] = all.as_slice()
        else {
            panic!("{all:?}");
        };
        assert_eq!(error.code(), ErrorCode::Resync);
    }
}

#[test]
fn a_close_that_says_so_ends_the_session_for_good() {
    for code in [
        ErrorCode::TokenExpired,
        ErrorCode::InvalidToken,
        ErrorCode::ProtocolVersion,
    ] {
        let (mut member, now) = seated();
        member.handle(Input::Lost(code.into()), now);
        assert_eq!(outputs(&mut member), [Output::Event(ended(code))]);
    }
    for code in [
        ErrorCode::RelayDraining,
        ErrorCode::SlowConsumer,
        ErrorCode::ConnectionLost,
    ] {
        let (mut member, now) = seated();
        member.handle(Input::Lost(code.into()), now);
        assert_eq!(outputs(&mut member), [Output::Event(Event::Reconnecting)]);
    }
}

// ------------------------------------------------------------------------------------------ the end

#[test]
fn a_leave_waits_until_every_send_has_its_place_and_ends_once() {
    let (mut member, now) = seated();
    send(&mut member, Mode::Ordered).unwrap();
    outputs(&mut member);
    member.leave(now).unwrap();
    assert_eq!(outputs(&mut member), []);
    assert_eq!(
        code(send(&mut member, Mode::Ordered)),
        ErrorCode::InvalidState
    );
    member.handle(Input::Frame(skip(ME, 1, 11)), now);
    let attachment = Attachment(1);
    let leave = control(ClientMessage::Leave {
        request: 2,
        attachment,
    });
    assert_eq!(
        outputs(&mut member),
        [Output::Event(committed(1, 11)), leave]
    );
    let over = RelayMessage::Ended {
        request: 2,
        attachment,
        error: ErrorCode::Ok.into(),
        can_rejoin: false,
    };
    for _ in 0..2 {
        member.handle(Input::Frame(message(over.clone())), now);
    }
    assert_eq!(outputs(&mut member), [Output::Event(ended(ErrorCode::Ok))]);
    assert_eq!(member.session(), None);
}

#[test]
fn a_leave_ends_even_if_nobody_answers() {
    let (mut member, now) = seated();
    send(&mut member, Mode::Ordered).unwrap();
    member.leave(now).unwrap();
    outputs(&mut member);
    let settled = now + LEAVE_SETTLES_WITHIN;
    assert_eq!(member.poll_timeout(), Some(settled));
    member.handle_timeout(settled);
    assert!(matches!(
        outputs(&mut member).as_slice(),
        [Output::Send { .. }]
    ));
    member.handle_timeout(settled + limits::REQUEST_TIMEOUT);
    assert_eq!(events(&mut member), [ended(ErrorCode::TimedOut)]);

    let (mut member, now) = seated();
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    member.leave(now).unwrap();
    assert_eq!(
        events(&mut member),
        [Event::Reconnecting, ended(ErrorCode::Ok)]
    );
}

#[test]
fn nothing_follows_the_end_of_a_session() {
    let (mut member, now) = seated();
    let over = RelayMessage::Ended {
        request: 0,
        attachment: Attachment(1),
        error: ErrorCode::OwnerLost.into(),
        can_rejoin: false,
    };
    for frame in [message(over.clone()), deliver(OTHER, 1, 11), message(over)] {
        member.handle(Input::Frame(frame), now);
    }
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    assert_eq!(
        outputs(&mut member),
        [Output::Event(ended(ErrorCode::OwnerLost))]
    );
    assert_eq!(member.poll_timeout(), None);
}

// --------------------------------------------------------------------------------------------- moving

#[test]
fn without_a_session_a_member_moves_as_soon_as_the_next_relay_has_welcomed_it() {
    let now = Instant::now();
    let mut member = connected(now);
    member.begin_move(Duration::from_secs(9), now);
    member.handle(Input::NextConnected, now);
    assert_eq!(outputs(&mut member), [control_next(hello())]);
    member.handle(Input::NextFrame(welcome()), now);
    let moved = Output::Moved { node: Some(node()) };
    assert_eq!(outputs(&mut member), [moved, Output::DropFormer]);
    assert!(member.is_connected() && !member.is_moving());
    member.create(SessionOptions::default(), now).unwrap();
}

#[test]
fn a_session_is_taken_along_once_what_was_sent_has_settled_and_no_event_tells_of_it() {
    let (mut member, now) = seated();
    let settle = Duration::from_millis(80);
    member.begin_move(settle, now);
    member.handle(Input::NextConnected, now);
    outputs(&mut member);
    member.handle(Input::NextFrame(welcome()), now);
    assert_eq!(outputs(&mut member), [], "what was just sent is on its way");
    assert_eq!(member.poll_timeout(), Some(now + settle));

    let now = now + settle;
    member.handle_timeout(now);
    assert_eq!(
        outputs(&mut member),
        [control_next(asked(2, 10, vec![], 1))]
    );
    // The present relay serves until the next one has answered.
    member.handle(Input::Frame(deliver(OTHER, 1, 11)), now);
    send(&mut member, Mode::Ordered).unwrap();
    assert_eq!(
        outputs(&mut member),
        [received(OTHER, 1, 11),]
            .map(Output::Event)
            .into_iter()
            .chain([publish(Way::Control, Mode::Ordered, 1)])
            .collect::<Vec<_>>()
    );
    member.handle(Input::NextFrame(resumed(2, 10, 0)), now);
    let after = outputs(&mut member);
    assert_eq!(
        after,
        [
            Output::Moved { node: Some(node()) },
            publish(Way::Control, Mode::Ordered, 1),
        ],
        "what the owner has not seen is sent again"
    );
    // The replay brings again what the former relay has brought.
    for index in [11, 12] {
        member.handle(Input::Frame(deliver(OTHER, index as u32 - 10, index)), now);
    }
    assert_eq!(events(&mut member), [received(OTHER, 2, 12)]);
}

#[test]
fn what_the_former_relay_still_brings_is_no_gap_and_what_it_does_not_bring_is_one() {
    for brought in [2, 1] {
        let (mut member, now) = moved();
        assert!(member.holds_reliable());
        // Two that the owner sent over the former relay, and that the resume did not count.
        let sender = OTHER;
        let gap = RelayMessage::ReliableGap {
            attachment: Attachment(1),
            sender,
            missed: 2,
        };
        member.handle(Input::Frame(message(gap)), now);
        for seq in 1..=brought {
            member.handle(Input::FormerFrame(unordered(Mode::Reliable, seq)), now);
        }
        let ended = RelayMessage::Ended {
            request: 0,
            attachment: Attachment(1),
            error: ErrorCode::ReplacedByNewConnection.into(),
            can_rejoin: false,
        };
        member.handle(Input::FormerFrame(message(ended)), now);
        let before: Vec<Event> = events(&mut member);
        assert_eq!(before.len(), brought as usize, "{before:?}");
        let due = member.poll_timeout().unwrap();
        let (soon, late) = (Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(
            due - now < soon,
            brought == 2,
            "it waits for what is missing"
        );
        member.handle_timeout(due.max(now + late * u32::from(brought == 1)));
        let after: Vec<Output> = outputs(&mut member)
            .into_iter()
            .filter(|output| !matches!(output, Output::Send { .. }))
            .collect();
        let gap = Output::Event(Event::ReliableGap { sender, missed: 1 });
        let expected: &[Output] = match brought {
            2 => &[Output::DropFormer],
            _ => &[gap, Output::DropFormer],
        };
        assert_eq!(after, expected);
        assert!(!member.holds_reliable() && !member.is_moving());
    }
}

#[test]
fn reliable_messages_that_the_owner_has_not_seen_are_sent_again_after_a_move() {
    let (mut member, now) = seated();
    send(&mut member, Mode::Reliable).unwrap();
    member.begin_move(Duration::ZERO, now);
    send(&mut member, Mode::Reliable).unwrap();
    send(&mut member, Mode::Reliable).unwrap();
    member.handle(Input::NextConnected, now);
    member.handle(Input::NextFrame(welcome()), now);
    send(&mut member, Mode::Reliable).unwrap();
    outputs(&mut member);
    let answer = joined_with(2, 1, |joined| {
        joined.resumed = true;
        joined.reliable_seen = Seq(2);
    });
    member.handle(Input::NextFrame(answer), now);
    let again = |seq| publish(Way::Bulk, Mode::Reliable, seq);
    assert_eq!(
        outputs(&mut member),
        [Output::Moved { node: Some(node()) }, again(3), again(4)]
    );
}

#[test]
fn if_the_next_relay_fails_the_present_one_stays() {
    for asked in [false, true] {
        let (mut member, now) = seated();
        let settle = if asked {
            Duration::ZERO
        } else {
            Duration::from_secs(9)
        };
        member.begin_move(settle, now);
        member.handle(Input::NextConnected, now);
        member.handle(Input::NextFrame(welcome()), now);
        outputs(&mut member);
        let lost = Error::from(ErrorCode::ConnectionLost);
        member.handle(Input::NextLost(lost.clone()), now);
        assert_eq!(outputs(&mut member), [Output::DropNext(lost)]);
        member.handle(Input::Frame(deliver(OTHER, 1, 11)), now);
        assert_eq!(events(&mut member), [received(OTHER, 1, 11)]);

        // Had it the seat all the same, the present relay says so: then it is taken back.
        let ended = message(RelayMessage::Ended {
            request: 0,
            attachment: Attachment(1),
            error: ErrorCode::ReplacedByNewConnection.into(),
            can_rejoin: false,
        });
        member.handle(Input::Frame(ended), now);
        let after = outputs(&mut member);
        if asked {
            let resume = control(asked_again(3, 11, 2));
            assert_eq!(after, [Output::Event(Event::Reconnecting), resume]);
        } else {
            assert!(
                matches!(after[..], [Output::Event(Event::Ended { .. })]),
                "{after:?}"
            );
        }
    }
}

#[test]
fn a_seat_that_went_to_a_next_relay_that_died_is_taken_back_at_once() {
    let (mut member, now) = seated();
    member.begin_move(Duration::ZERO, now);
    member.handle(Input::NextConnected, now);
    member.handle(Input::NextFrame(welcome()), now);
    outputs(&mut member);
    let ended = message(RelayMessage::Ended {
        request: 0,
        attachment: Attachment(1),
        error: ErrorCode::ReplacedByNewConnection.into(),
        can_rejoin: false,
    });
    member.handle(Input::Frame(ended), now);
    assert_eq!(outputs(&mut member), [], "it may be its own doing");
    let lost = Error::from(ErrorCode::ConnectionLost);
    member.handle(Input::NextLost(lost.clone()), now);
    let resume = control(asked_again(3, 10, 2));
    assert_eq!(
        outputs(&mut member),
        [
            Output::DropNext(lost),
            Output::Event(Event::Reconnecting),
            resume
        ]
    );
    member.handle(Input::Frame(resumed(3, 10, 0)), now);
    assert_eq!(events(&mut member), [Event::Resumed]);
}

#[test]
fn if_the_present_relay_fails_during_a_move_the_next_one_takes_its_place() {
    for asked in [false, true] {
        let (mut member, now) = seated();
        let settle = if asked {
            Duration::ZERO
        } else {
            Duration::from_secs(9)
        };
        member.begin_move(settle, now);
        member.handle(Input::NextConnected, now);
        member.handle(Input::NextFrame(welcome()), now);
        outputs(&mut member);
        member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
        let resume = control(asked_again(2, 10, 1));
        let expected = match asked {
            true => vec![Output::Event(Event::Reconnecting)],
            false => vec![Output::Event(Event::Reconnecting), resume],
        };
        assert_eq!(outputs(&mut member), expected);
        assert!(member.is_connected());
        member.handle(Input::Frame(resumed(2, 10, 0)), now);
        assert_eq!(events(&mut member), [Event::Resumed]);
    }
}

#[test]
fn a_leave_during_a_move_waits_until_it_is_known_where_the_seat_is() {
    let (mut member, now) = seated();
    member.begin_move(Duration::ZERO, now);
    member.handle(Input::NextConnected, now);
    member.handle(Input::NextFrame(welcome()), now);
    outputs(&mut member);
    member.leave(now).unwrap();
    assert_eq!(outputs(&mut member), []);
    member.handle(Input::NextFrame(resumed(2, 10, 0)), now);
    let leave = control(ClientMessage::Leave {
        request: 3,
        attachment: Attachment(1),
    });
    assert_eq!(
        outputs(&mut member),
        [Output::Moved { node: Some(node()) }, leave]
    );
}

// ---------------------------------------------------------------------------------------- the stage

fn connected(now: Instant) -> Member {
    let mut member = Member::new("token".into(), "sdk/1".into());
    member.handle(Input::Connected, now);
    member.handle(Input::Frame(welcome()), now);
    outputs(&mut member);
    member
}

/// A member that has joined as peer 2, beside peer 1, in epoch 5 at index 10.
fn seated() -> (Member, Instant) {
    let now = Instant::now();
    let mut member = connected(now);
    member.create(SessionOptions::default(), now).unwrap();
    outputs(&mut member);
    member.handle(Input::Frame(joined(1, 1)), now);
    let answers = outputs(&mut member);
    assert!(
        matches!(answers.as_slice(), [Output::Answer(Answer::Joined(_))]),
        "{answers:?}"
    );
    (member, now)
}

/// A member that has just moved.
fn moved() -> (Member, Instant) {
    let (mut member, now) = seated();
    member.begin_move(Duration::ZERO, now);
    member.handle(Input::NextConnected, now);
    member.handle(Input::NextFrame(welcome()), now);
    member.handle(Input::NextFrame(resumed(2, 10, 0)), now);
    outputs(&mut member);
    (member, now)
}

fn asked(
    request: u64,
    last_index: u64,
    reliable: Vec<(PeerId, u32)>,
    attempt: u32,
) -> ClientMessage {
    let resume = Resume {
        peer: ME,
        incarnation: Incarnation(1),
        last_index: Index(last_index),
        reliable,
        attempt,
        last_epoch: if last_index == JOINED_AT {
            Epoch(0)
        } else {
            EPOCH
        },
        reliable_sent: Seq(0),
    };
    resume_request(request, resume)
}

fn asked_again(request: u64, last_index: u64, attempt: u32) -> ClientMessage {
    asked(request, last_index, vec![], attempt)
}

fn control_next(message: ClientMessage) -> Output {
    Output::SendNext {
        way: Way::Control,
        frame: ClientFrame::Control(message),
    }
}

/// Loses the connection and gets a new one, up to the request to resume.
fn come_back(member: &mut Member, now: Instant) {
    member.handle(Input::Lost(ErrorCode::ConnectionLost.into()), now);
    member.handle(Input::Connected, now);
    outputs(member);
    member.handle(Input::Frame(welcome()), now);
    assert_eq!(member.poll_output(), Some(Output::Answer(welcomed())));
}

fn send(member: &mut Member, mode: Mode) -> Result<SendId, Error> {
    member.send(
        SendOptions::new(mode, Target::All),
        Bytes::from_static(b"x"),
    )
}

fn outputs(member: &mut Member) -> Vec<Output> {
    std::iter::from_fn(|| member.poll_output()).collect()
}

fn events(member: &mut Member) -> Vec<Event> {
    let event = |output| match output {
        Output::Event(event) => Some(event),
        Output::Send { .. }
        | Output::Answer(_)
        | Output::Reconnect(_)
        | Output::SendNext { .. }
        | Output::Moved { .. }
        | Output::DropNext(_)
        | Output::DropFormer
        | Output::Draining { .. } => None,
    };
    outputs(member).into_iter().filter_map(event).collect()
}

fn seqs(member: &mut Member) -> Vec<u32> {
    let seq = |event| match event {
        Event::Message { seq, .. } => seq.0,
        other @ (Event::PeerJoined(_)
        | Event::PeerDropped(_)
        | Event::PeerRejoined(_)
        | Event::PeerLeft { .. }
        | Event::Committed { .. }
        | Event::Rejected { .. }
        | Event::ReliableGap { .. }
        | Event::Reconnecting
        | Event::Resumed
        | Event::Ended { .. }) => panic!("{other:?}"),
    };
    events(member).into_iter().map(seq).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorCode {
    result.unwrap_err().code()
}

fn control(message: ClientMessage) -> Output {
    Output::Send {
        way: Way::Control,
        frame: ClientFrame::Control(message),
    }
}

fn hello() -> ClientMessage {
    ClientMessage::Hello {
        version: 1,
        token: "token".into(),
        sdk: "sdk/1".into(),
    }
}

fn resume_request(request: u64, resume: Resume) -> ClientMessage {
    let by = JoinBy::Session {
        id: SessionId([7; 16]),
        home_region: Some("eu".into()),
    };
    let join = Join {
        by,
        app_version: String::new(),
        resume: Some(resume),
    };
    ClientMessage::Join { request, join }
}

fn publish(way: Way, mode: Mode, seq: u32) -> Output {
    let message = crate::frame::Message {
        mode,
        channel: 0,
        seq: Seq(seq),
        target: Target::All,
        key: 0,
        payload: Bytes::from_static(b"x"),
    };
    let frame = ClientFrame::Publish(Publish {
        attachment: Attachment(1),
        message,
    });
    Output::Send { way, frame }
}

fn message(message: RelayMessage) -> RelayFrame {
    RelayFrame::Control(message)
}

fn node() -> NodeId {
    "relay-1-0".parse().unwrap()
}

fn welcome() -> RelayFrame {
    message(RelayMessage::Welcome {
        version: 1,
        node: node(),
        boot: BootId(1),
        user: UserId([9; 16]),
    })
}

fn welcomed() -> Answer {
    Answer::Welcome {
        node: node(),
        user: UserId([9; 16]),
    }
}

fn peer(peer: PeerId, name: &str) -> control::Member {
    control::Member {
        peer,
        incarnation: Incarnation(1),
        user: UserId([8; 16]),
        display_name: name.into(),
        connected: true,
    }
}

fn joined(request: u64, attachment: u16) -> RelayFrame {
    joined_with(request, attachment, |_| {})
}

/// The answer to a resume, by an owner that has seen so many Ordered sends.
fn resumed(request: u64, index: u64, ordered_seen: u32) -> RelayFrame {
    joined_with(request, 1, |joined| {
        joined.resumed = true;
        joined.index = Index(index);
        joined.ordered_seen = Seq(ordered_seen);
        joined.roster.clear();
    })
}

fn joined_with(request: u64, attachment: u16, change: impl FnOnce(&mut Joined)) -> RelayFrame {
    let mut joined = Joined {
        attachment: Attachment(attachment),
        session: SessionId([7; 16]),
        code: None,
        home_region: "eu".into(),
        peer: ME,
        incarnation: Incarnation(1),
        epoch: EPOCH,
        index: Index(JOINED_AT),
        roster: vec![peer(OTHER, "Ann")],
        resumed: false,
        ordered_seen: Seq(0),
        reliable_seen: Seq(0),
        max_players: 8,
        name: String::new(),
        owner: node(),
        rejoin_hold: limits::REJOIN_HOLD_DEFAULT,
    };
    change(&mut joined);
    message(RelayMessage::Joined { request, joined })
}

fn place(index: u64, epoch: u64) -> Place {
    Place {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn mid(sender: PeerId, seq: u32) -> Mid {
    Mid {
        sender,
        incarnation: Incarnation(1),
        seq: Seq(seq),
    }
}

fn deliver(sender: PeerId, seq: u32, index: u64) -> RelayFrame {
    deliver_at(sender, seq, place(index, EPOCH.0))
}

fn deliver_at(sender: PeerId, seq: u32, place: Place) -> RelayFrame {
    RelayFrame::Deliver(Deliver {
        attachment: Attachment(1),
        mid: mid(sender, seq),
        mode: Mode::Ordered,
        channel: 3,
        place,
        key: 0,
        payload: Bytes::from_static(b"y"),
    })
}

fn unordered(mode: Mode, seq: u32) -> RelayFrame {
    let RelayFrame::Deliver(frame) = deliver_at(OTHER, seq, Place::default()) else {
        unreachable!()
    };
    RelayFrame::Deliver(Deliver { mode, ..frame })
}

fn session_event(event: &SessionEvent, index: u64) -> RelayFrame {
    let RelayFrame::Deliver(frame) = deliver(PeerId::SESSION, 0, index) else {
        unreachable!()
    };
    RelayFrame::Deliver(Deliver {
        channel: SESSION_CHANNEL,
        payload: event.encode(),
        ..frame
    })
}

fn skip(sender: PeerId, seq: u32, index: u64) -> RelayFrame {
    let (mid, place) = (mid(sender, seq), place(index, EPOCH.0));
    RelayFrame::Skip(Skip {
        attachment: Attachment(1),
        mid,
        place,
    })
}

fn received(sender: PeerId, seq: u32, index: u64) -> Event {
    Event::Message {
        sender,
        incarnation: Incarnation(1),
        seq: Seq(seq),
        mode: Mode::Ordered,
        channel: 3,
        key: 0,
        payload: Bytes::from_static(b"y"),
        index: Some(Index(index)),
        epoch: EPOCH,
    }
}

fn own(seq: u32) -> SendId {
    SendId {
        mode: Mode::Ordered,
        seq: Seq(seq),
    }
}

fn committed(seq: u32, index: u64) -> Event {
    Event::Committed {
        send: own(seq),
        index: Index(index),
    }
}

fn refused(peer: PeerId, incarnation: u16, seq: u32) -> SessionEvent {
    SessionEvent::Refused {
        peer,
        incarnation: Incarnation(incarnation),
        seq: Seq(seq),
        code: ErrorCode::PeerNotFound,
        absent: PeerId(9),
    }
}

/// What the application hears of [`refused`].
fn refusal(seq: u32) -> Event {
    Event::Rejected {
        send: own(seq),
        error: Error::new(ErrorCode::PeerNotFound, "peer 9 is not a member"),
    }
}

fn ended(code: ErrorCode) -> Event {
    Event::Ended {
        error: code.into(),
        can_rejoin: false,
    }
}

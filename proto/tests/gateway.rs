//! The gateway's state machine: an input at a time, and exactly what comes out; then two gateways
//! and an owner, in memory, whose links and clients break at random.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dreamcatcher_proto::control::{
    ClientMessage, Failure, Join, JoinBy, Joined, LinkMessage, MemberKey, RelayMessage, Resume,
    SessionEvent, SessionOptions, User,
};
use dreamcatcher_proto::frame::{
    Ack, Attachment, ClientFrame, Deliver, Fanout, LinkFrame, Message, Mode, Place, Publish,
    RelayFrame, SESSION_CHANNEL, Skip, Target,
};
use dreamcatcher_proto::gateway::{Ask, AskId, ClientId, Gateway, Input, Located, Output};
use dreamcatcher_proto::session::{self, Session, SessionConfig};
use dreamcatcher_proto::{
    BootId, Epoch, Error, ErrorCode, Incarnation, Index, JoinCode, Mid, NodeId, PeerId, Seq,
    SessionId, UserId, limits,
};
use proptest::prelude::*;

const ID: SessionId = SessionId([7; 16]);
const EPOCH: Epoch = Epoch(9);

// ------------------------------------------------------------------------------------------ hello

#[test]
fn a_client_with_a_valid_token_is_welcome() {
    let mut relay = Relay::new();
    relay.connect(1);
    assert_eq!(relay.hello(1, limits::PROTOCOL_VERSION), ["check c1 t"]);
    assert_eq!(relay.checked(1, Ok(user(1))), ["c1: welcome"]);
    assert_eq!(
        relay.control(1, ClientMessage::Ping { nonce: 5 }),
        ["c1: pong 5"]
    );
    assert_eq!(relay.wait(Duration::from_secs(60)), NOTHING);
    relay.lose(1);
    assert!(relay.gateway.is_idle());
}

#[test]
fn a_client_with_a_bad_token_is_closed_with_the_reason() {
    let mut relay = Relay::new();
    relay.connect(1);
    relay.hello(1, limits::PROTOCOL_VERSION);
    let expired = Err(ErrorCode::TokenExpired.into());
    assert_eq!(relay.checked(1, expired), ["c1: close TokenExpired"]);
    assert!(relay.gateway.is_idle());
}

#[test]
fn a_client_without_a_valid_hello_in_time_is_closed() {
    let mut relay = Relay::new();
    relay.connect(1);
    relay.connect(2);
    relay.hello(2, limits::PROTOCOL_VERSION);
    assert_eq!(
        relay.gateway.poll_timeout(),
        Some(relay.now + limits::HELLO_TIMEOUT)
    );
    assert_eq!(
        relay.wait(limits::HELLO_TIMEOUT),
        ["c1: close HelloTimeout", "c2: close HelloTimeout"]
    );
    assert_eq!(relay.checked(2, Ok(user(2))), NOTHING, "too late");
    assert!(relay.gateway.is_idle());
}

#[test]
fn the_first_frame_is_a_hello_and_no_other_is() {
    let mut relay = Relay::new();
    relay.connect(1);
    assert_eq!(
        relay.control(1, ClientMessage::Ping { nonce: 5 }),
        ["c1: close InvalidState"]
    );
    relay.connect(2);
    relay.hello(2, limits::PROTOCOL_VERSION);
    assert_eq!(
        relay.hello(2, limits::PROTOCOL_VERSION),
        ["c2: close InvalidState"],
        "while the first is being checked"
    );
    assert_eq!(relay.checked(2, Ok(user(2))), NOTHING);
    relay.sign_in(3);
    assert_eq!(
        relay.hello(3, limits::PROTOCOL_VERSION),
        ["c3: close InvalidState"]
    );
    assert_eq!(relay.control(3, ClientMessage::Ping { nonce: 5 }), NOTHING);
    assert!(relay.gateway.is_idle());
}

#[test]
fn another_protocol_version_is_refused() {
    let mut relay = Relay::new();
    relay.connect(1);
    assert_eq!(
        relay.hello(1, limits::PROTOCOL_VERSION + 1),
        ["c1: close ProtocolVersion"]
    );
}

#[test]
fn a_draining_relay_tells_its_clients_and_takes_no_new_ones() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.connect(2);
    relay.connect(3);
    relay.hello(3, limits::PROTOCOL_VERSION);
    let deadline = Duration::from_secs(60);
    assert_eq!(relay.input(Input::Drain { deadline }), ["c1: draining 60"]);
    assert_eq!(
        relay.hello(2, limits::PROTOCOL_VERSION),
        ["c2: close RelayDraining"]
    );
    assert_eq!(relay.checked(3, Ok(user(3))), ["c3: close RelayDraining"]);
}

#[test]
fn what_is_outside_a_limit_is_answered_and_the_connection_lives() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    let error = ErrorCode::InvalidArgument.into();
    assert_eq!(
        relay.control(1, ClientMessage::Refused { request: 4, error }),
        ["c1: failed 4 InvalidArgument"]
    );
    assert_eq!(
        relay.control(1, ClientMessage::Ping { nonce: 1 }),
        ["c1: pong 1"]
    );
}

// --------------------------------------------------------------------------------- create and join

#[test]
fn a_create_is_placed_and_then_answered_by_the_owner() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    assert_eq!(relay.create(1), ["ask 1 place"]);
    assert_eq!(relay.answer(1, Ok(8)), ["8: create 1 in eu by player 1"]);
    assert_eq!(
        relay.owner(8, joined(1, 1, 1, 0)),
        ["c1: joined 6 a1 1.1 @0"]
    );
    assert_eq!(
        relay.fanout(8, 1, 0, Mode::Ordered, Target::All),
        ["c1: a1 #1 0.1.1"]
    );
}

#[test]
fn a_join_by_code_or_id_is_located_first() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.sign_in(2);
    let code: JoinCode = "BCDF67".parse().unwrap_or_else(|e| panic!("{e}"));
    let join = Join {
        by: JoinBy::Code(code),
        app_version: String::new(),
        resume: None,
    };
    assert_eq!(
        relay.control(1, ClientMessage::Join { request: 6, join }),
        ["ask 1 code BCDF67"]
    );
    assert_eq!(relay.answer(1, Ok(8)), ["8: join 1 by player 1"]);
    assert_eq!(relay.join(2, None), ["ask 2 locate"]);
    assert_eq!(relay.answer(2, Ok(8)), ["8: join 2 by player 2"]);
}

#[test]
fn what_cannot_be_located_is_told() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.join(1, None);
    assert_eq!(
        relay.answer(1, Err(ErrorCode::JoinCodeNotFound.into())),
        ["c1: failed 6 JoinCodeNotFound"]
    );
    relay.join(1, None);
    relay.answer(2, Ok(8));
    assert_eq!(
        relay.owner(8, refused(2, ErrorCode::SessionNotFound, None)),
        ["c1: failed 6 SessionNotFound"]
    );
    relay.lose(1);
    assert!(relay.gateway.is_idle());
}

#[test]
fn a_wrong_guess_is_redirected_three_times_and_not_more() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.create(1);
    relay.answer(1, Ok(8));
    let not_here = |owner| refused(1, ErrorCode::NotOwner, owner);
    assert_eq!(
        relay.owner(8, not_here(Some(7))),
        ["7: create 1 in eu by player 1"]
    );
    assert_eq!(
        relay.owner(7, not_here(Some(6))),
        ["6: create 1 in eu by player 1"]
    );
    assert_eq!(
        relay.owner(6, not_here(Some(5))),
        ["5: create 1 in eu by player 1"]
    );
    assert_eq!(
        relay.owner(5, not_here(Some(4))),
        ["c1: failed 6 SessionNotFound"]
    );
    assert_eq!(relay.gateway.counters().redirects, 3);
    relay.join(1, None);
    relay.answer(2, Ok(8));
    assert_eq!(
        relay.owner(8, refused(2, ErrorCode::NotOwner, None)),
        ["c1: failed 6 SessionNotFound"]
    );
}

#[test]
fn a_client_is_in_one_session_or_asks_for_one() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.join(1, None);
    assert_eq!(relay.create(1), ["c1: failed 6 AlreadyInSession"]);
    relay.answer(1, Ok(8));
    assert_eq!(relay.join(1, None), ["c1: failed 6 AlreadyInSession"]);
    relay.owner(8, joined(1, 1, 1, 0));
    assert_eq!(relay.join(1, None), ["c1: failed 6 AlreadyInSession"]);
    relay.leave(1, 1);
    assert_eq!(relay.join(1, None), ["ask 2 locate"]);
}

#[test]
fn a_request_without_an_answer_times_out_and_a_late_answer_gives_the_seat_back() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.join(1, None);
    assert_eq!(
        relay.wait(limits::REQUEST_TIMEOUT),
        ["c1: failed 6 Timeout"]
    );
    assert_eq!(relay.answer(1, Ok(8)), NOTHING);
    relay.join(1, None);
    relay.answer(2, Ok(8));
    assert_eq!(
        relay.wait(limits::REQUEST_TIMEOUT),
        ["c1: failed 6 Timeout"]
    );
    assert_eq!(relay.owner(8, joined(2, 1, 1, 0)), ["8: dropped 1.1"]);
    assert_eq!(
        relay.owner(8, refused(2, ErrorCode::SessionFull, None)),
        NOTHING
    );
    relay.lose(1);
    assert!(relay.gateway.is_idle());
}

#[test]
fn a_client_that_is_gone_before_the_answer_gives_its_seat_back() {
    let mut relay = Relay::new();
    relay.sign_in(1);
    relay.join(1, None);
    relay.lose(1);
    assert_eq!(relay.answer(1, Ok(8)), NOTHING);
    relay.sign_in(2);
    relay.join(2, None);
    relay.answer(2, Ok(8));
    relay.lose(2);
    assert_eq!(relay.owner(8, joined(2, 1, 1, 0)), ["8: dropped 1.1"]);
    assert!(relay.gateway.is_idle());
}

#[test]
fn each_join_has_its_own_attachment_and_frames_of_another_are_dropped() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.leave(1, 1);
    relay.join(1, None);
    relay.answer(2, Ok(8));
    assert_eq!(
        relay.owner(8, joined(2, 3, 1, 4)),
        ["c1: joined 6 a2 3.1 @4"]
    );
    assert_eq!(relay.publish(1, 1, Mode::Ordered, 1), NOTHING);
    assert_eq!(relay.ack(1, 1, 4), NOTHING);
    assert_eq!(relay.leave(1, 1), ["c1: failed 6 InvalidState"]);
    assert_eq!(relay.publish(1, 2, Mode::Ordered, 1), ["8: forward 3.1.1"]);
    assert_eq!(relay.ack(1, 2, 4), ["8: ack 3 4"]);
}

#[test]
fn a_leave_is_answered_at_once_and_told_to_the_owner() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    assert_eq!(relay.leave(1, 1), ["8: leave 1.1", "c1: ended 6 a1 Ok"]);
    assert_eq!(relay.fanout(8, 1, 2, Mode::Ordered, Target::All), NOTHING);
    assert_eq!(relay.lose(1), NOTHING);
    assert!(relay.gateway.is_idle());
}

#[test]
fn a_lost_client_is_told_to_the_owner_and_leaves_nothing_behind() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 1);
    assert_eq!(relay.gateway.members(), 2);
    assert_eq!(relay.lose(1), ["8: dropped 1.1"]);
    assert_eq!(relay.lose(1), NOTHING);
    assert_eq!(relay.gateway.members(), 1);
    relay.lose(2);
    assert!(relay.gateway.is_idle());
}

#[test]
fn the_newest_connection_of_a_member_replaces_the_older_one() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 3);
    relay.sign_in(2);
    relay.join(2, Some(resume(1, 1, 2)));
    assert_eq!(
        relay.answer(2, Ok(8)),
        ["8: join 2 by player 2 resume 1.1 @2 []"]
    );
    assert_eq!(
        relay.owner(8, joined(2, 1, 1, 2)),
        [
            "c1: ended 0 a1 ReplacedByNewConnection",
            "c2: joined 6 a1 1.1 @2"
        ]
    );
    assert_eq!(relay.lose(1), NOTHING, "the seat is not its own any more");
    // Whose seat was held meanwhile, and joins anew, comes with a new incarnation.
    relay.sign_in(3);
    relay.join(3, None);
    relay.answer(3, Ok(8));
    assert_eq!(
        relay.owner(8, joined(3, 1, 2, 5)),
        [
            "c2: ended 0 a1 ReplacedByNewConnection",
            "c3: joined 6 a1 1.2 @5"
        ]
    );
    assert_eq!(relay.gateway.members(), 1);
}

#[test]
fn an_old_connection_that_ends_while_the_new_one_resumes_does_not_take_its_seat_along() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 3);
    relay.sign_in(2);
    relay.join(2, Some(resume(1, 1, 2)));
    relay.answer(2, Ok(8));
    assert_eq!(
        relay.lose(1),
        ["8: dropped 1.1", "8: join 2 by player 2 resume 1.1 @2 []"]
    );
    assert_eq!(
        relay.owner(8, joined(2, 1, 1, 2)),
        NOTHING,
        "the seat was dropped after it"
    );
    assert_eq!(
        relay.owner(8, joined(2, 1, 1, 2)),
        ["c2: joined 6 a1 1.1 @2"]
    );
    // Nor does the late answer to a request that timed out.
    relay.sign_in(3);
    relay.join(3, Some(resume(1, 1, 2)));
    relay.answer(3, Ok(8));
    relay.lose(2);
    relay.owner(8, joined(3, 1, 1, 2));
    relay.wait(limits::REQUEST_TIMEOUT);
    relay.join(3, Some(resume(1, 1, 2)));
    relay.answer(4, Ok(8));
    assert_eq!(relay.owner(8, joined(3, 1, 1, 2)), NOTHING);
    assert_eq!(
        relay.owner(8, joined(4, 1, 1, 2)),
        ["c3: joined 6 a1 1.1 @2"]
    );
}

// ------------------------------------------------------------------------------------------- data

#[test]
fn what_a_member_publishes_is_stamped_with_its_own_name() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 1);
    for mode in Mode::ALL {
        assert_eq!(relay.publish(2, 1, mode, 5), ["8: forward 2.1.5"]);
    }
    assert_eq!(relay.gateway.counters().published, [1; 4]);
    relay.sign_in(3);
    assert_eq!(
        relay.publish(3, 1, Mode::Ordered, 1),
        NOTHING,
        "it is no member"
    );
}

#[test]
fn an_entry_is_delivered_to_whom_it_is_for_and_skipped_by_the_others() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    let ordered = Mode::Ordered;
    assert_eq!(
        relay.fanout(8, 1, 1, ordered, Target::All),
        ["c1: a1 #1 1.1.1", "c2: a1 #1 1.1.1"]
    );
    assert_eq!(
        relay.fanout(8, 2, 1, ordered, Target::Others),
        ["c1: a1 skip #2 1.1.2", "c2: a1 #2 1.1.2"]
    );
    assert_eq!(
        relay.fanout(8, 3, 1, ordered, Target::Peer(PeerId(1))),
        ["c1: a1 #3 1.1.3", "c2: a1 skip #3 1.1.3"]
    );
    assert_eq!(
        relay.fanout(8, 3, 1, ordered, Target::Peer(PeerId(1))),
        NOTHING,
        "they have it"
    );
}

#[test]
fn an_unordered_message_is_delivered_to_whom_it_is_for() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    for mode in [Mode::Reliable, Mode::Latest, Mode::Datagram] {
        let name = mode.name();
        assert_eq!(
            relay.fanout(8, 4, 1, mode, Target::All),
            [
                format!("c1: a1 {name} 1.1.4"),
                format!("c2: a1 {name} 1.1.4")
            ]
        );
        assert_eq!(
            relay.fanout(8, 5, 1, mode, Target::Others),
            [format!("c2: a1 {name} 1.1.5")]
        );
    }
}

#[test]
fn a_replayed_entry_reaches_only_the_one_who_missed_it() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    let mut replay = fanout(1, 1, Mode::Ordered, Target::Peer(PeerId(1)));
    replay.only = PeerId(2);
    assert_eq!(
        relay.owner(8, LinkFrame::Fanout(replay)),
        ["c2: a1 skip #1 1.1.1"]
    );
}

#[test]
fn entries_of_a_later_epoch_and_frames_of_another_node_are_dropped() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    let mut stale = fanout(1, 2, Mode::Ordered, Target::All);
    stale.place.epoch = Epoch(10);
    assert_eq!(relay.owner(8, LinkFrame::Fanout(stale)), NOTHING);
    for mode in Mode::ALL {
        assert_eq!(relay.fanout(7, 1, 2, mode, Target::All), NOTHING);
    }
    assert_eq!(
        relay.owner(7, ended(0, 0, ErrorCode::SessionClosed)),
        NOTHING
    );
    assert_eq!(relay.owner(7, rejected(1, 1)), NOTHING);
    assert_eq!(relay.owner(7, gap(0, 2, 1)), NOTHING);
    assert_eq!(
        relay.owner(7, refused(0, ErrorCode::NotOwner, None)),
        NOTHING
    );
    assert_eq!(
        relay.wait(Duration::ZERO),
        NOTHING,
        "the way is not searched anew"
    );
    // Not even a member that joins there brings the others under a lower epoch.
    relay.sign_in(2);
    relay.join(2, None);
    relay.answer(2, Ok(7));
    let mut old = joined(2, 2, 1, 0);
    if let LinkFrame::Control(LinkMessage::Joined { joined, .. }) = &mut old {
        joined.epoch = Epoch(8);
    }
    assert_eq!(relay.owner(7, old), ["c2: failed 6 NotOwner"]);
    assert_eq!(
        relay.fanout(8, 1, 2, Mode::Ordered, Target::All),
        ["c1: a1 #1 2.1.1"]
    );
}

#[test]
fn frames_that_only_a_session_understands_are_ignored() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    let member = key(1, 1);
    for frame in [LinkMessage::Leave(member), LinkMessage::Dropped(member)] {
        assert_eq!(relay.owner(8, LinkFrame::Control(frame)), NOTHING);
    }
}

#[test]
fn rejections_and_gaps_reach_whom_they_concern() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    assert_eq!(
        relay.owner(8, rejected(2, 3)),
        ["c2: a1 rejected ordered 3 PeerNotFound"]
    );
    assert_eq!(relay.owner(8, gap(0, 2, 4)), ["c1: a1 gap 2: 4"]);
    assert_eq!(relay.owner(8, gap(2, 1, 4)), ["c2: a1 gap 1: 4"]);
    assert_eq!(relay.owner(8, rejected(9, 3)), NOTHING);
    // The answer to a request that counts no longer, and what follows it.
    assert_eq!(relay.owner(8, joined(77, 2, 1, 0)), NOTHING);
    assert_eq!(relay.owner(8, gap(2, 1, 4)), NOTHING);
    assert_eq!(relay.owner(8, gap(0, 1, 4)), ["c2: a1 gap 1: 4"]);
}

#[test]
fn an_end_reaches_one_member_or_all() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.seat(3, 3, 0);
    assert_eq!(
        relay.owner(8, ended(2, 2, ErrorCode::Kicked)),
        NOTHING,
        "another life"
    );
    assert_eq!(
        relay.owner(8, ended(2, 1, ErrorCode::Kicked)),
        ["c2: ended 0 a1 Kicked"]
    );
    assert_eq!(
        relay.owner(8, ended(0, 0, ErrorCode::SessionClosed)),
        [
            "c1: ended 0 a1 SessionClosed",
            "c3: ended 0 a1 SessionClosed"
        ]
    );
    assert_eq!(relay.gateway.routes().count(), 0);
    assert_eq!(relay.gateway.counters().owners_lost, 0);
}

// ------------------------------------------------------------------------------- a link that breaks

#[test]
fn members_are_attached_again_from_the_last_entry_and_counts_that_they_were_given() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.fanout(8, 1, 2, Mode::Ordered, Target::All);
    relay.fanout(8, 1, 2, Mode::Reliable, Target::Others);
    relay.owner(8, gap(1, 2, 4));
    assert_eq!(relay.lose_link(8), NOTHING);
    assert_eq!(
        relay.wait(Duration::ZERO),
        [
            "8: join 3 by player 1 resume 1.1 @1 [2: 5]",
            "8: join 4 by player 2 resume 2.1 @1 []"
        ]
    );
    // Until the answer nothing goes either way.
    for mode in Mode::ALL {
        assert_eq!(relay.publish(1, 1, mode, 1), NOTHING);
        assert_eq!(relay.fanout(8, 2, 2, mode, Target::All), NOTHING);
    }
    assert_eq!(relay.ack(1, 1, 1), NOTHING);
    assert_eq!(relay.owner(8, gap(0, 9, 1)), NOTHING);
    assert_eq!(
        relay.owner(8, joined(3, 1, 1, 1)),
        ["c1: joined 0 a1 1.1 @1"],
        "in the same attachment"
    );
    assert_eq!(
        relay.fanout(8, 2, 2, Mode::Ordered, Target::All),
        ["c1: a1 #2 2.1.2"]
    );
    assert_eq!(relay.publish(1, 1, Mode::Ordered, 1), ["8: forward 1.1.1"]);
    relay.owner(8, joined(4, 2, 1, 1));
    assert_eq!(relay.wait(limits::REJOIN_HOLD_DEFAULT), NOTHING);
    assert_eq!(relay.gateway.poll_timeout(), None);
}

#[test]
fn a_refused_forward_is_a_broken_way() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    assert_eq!(
        relay.owner(8, refused(0, ErrorCode::NotOwner, None)),
        NOTHING
    );
    assert_eq!(
        relay.wait(Duration::ZERO),
        ["8: join 2 by player 1 resume 1.1 @0 []"]
    );
    let mut later = joined(2, 1, 1, 0);
    if let LinkFrame::Control(LinkMessage::Joined { joined, .. }) = &mut later {
        joined.epoch = Epoch(10);
    }
    assert_eq!(relay.owner(8, later), ["c1: joined 0 a1 1.1 @0"]);
    // What was ordered under epoch 9 comes as part of the history; after the first of epoch 10
    // nothing of it does.
    assert_eq!(
        relay.fanout(8, 1, 1, Mode::Ordered, Target::All),
        ["c1: a1 #1 1.1.1"]
    );
    let mut entry = fanout(2, 1, Mode::Ordered, Target::All);
    entry.place.epoch = Epoch(10);
    assert_eq!(
        relay.owner(8, LinkFrame::Fanout(entry)),
        ["c1: a1 #2 1.1.2"]
    );
    assert_eq!(
        relay.fanout(8, 3, 1, Mode::Ordered, Target::All),
        NOTHING,
        "epoch 9 is over"
    );
}

#[test]
fn the_owner_is_asked_once_per_link_and_only_the_last_answer_counts() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    assert_eq!(
        relay.wait(Duration::from_millis(500)),
        NOTHING,
        "it may be slow"
    );
    relay.lose_link(8);
    assert_eq!(
        relay.wait(Duration::from_millis(500)),
        ["8: join 3 by player 1 resume 1.1 @0 []"]
    );
    assert_eq!(relay.owner(8, joined(2, 1, 1, 0)), NOTHING);
    assert_eq!(
        relay.owner(8, joined(3, 1, 1, 0)),
        ["c1: joined 0 a1 1.1 @0"]
    );
}

#[test]
fn a_member_is_attached_again_with_its_own_count_of_its_connections() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.sign_in(2);
    let resume = Resume {
        attempt: 3,
        ..resume(2, 1, 4)
    };
    relay.join(2, Some(resume));
    relay.answer(2, Ok(8));
    relay.owner(8, joined(2, 2, 1, 4));
    // As often as the link breaks, it is the same connection.
    for request in [3, 5] {
        relay.lose_link(8);
        assert_eq!(
            relay.wait(Duration::ZERO),
            [
                format!("8: join {request} by player 1 resume 1.1 @0 []"),
                format!(
                    "8: join {} by player 2 resume 2.1 @4 [] attempt 3",
                    request + 1
                )
            ]
        );
        relay.owner(8, joined(request, 1, 1, 0));
        relay.owner(8, joined(request + 1, 2, 1, 4));
    }
}

#[test]
fn a_client_whose_member_is_at_another_relay_by_now_is_told_and_nobody_else_is() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    // No word to the owner: the seat is the other connection's.
    assert_eq!(
        relay.owner(8, refused(3, ErrorCode::ReplacedByNewConnection, None)),
        ["c1: ended 0 a1 ReplacedByNewConnection"]
    );
    assert_eq!(
        relay.owner(8, joined(4, 2, 1, 0)),
        ["c2: joined 0 a1 2.1 @0"]
    );
    assert_eq!(relay.lose(1), NOTHING);
    assert_eq!(relay.wait(limits::REJOIN_HOLD_DEFAULT), NOTHING);
}

#[test]
fn an_owner_that_stays_away_ends_the_session_exactly_once() {
    for (standby, looked_for) in [
        (None, limits::OWNER_LOST_AFTER),
        // As long as it holds a seat.
        (Some(7), limits::REJOIN_HOLD_DEFAULT),
    ] {
        let mut relay = Relay::new();
        relay.seat(1, 1, 0);
        relay.seat(2, 2, 0);
        relay.view(8, EPOCH, standby);
        relay.lose_link(8);
        let mut ends = Vec::new();
        let mut waited = Duration::ZERO;
        while waited < 2 * looked_for {
            relay.lose_link(8);
            waited += Duration::from_millis(100);
            let outputs = relay.wait(Duration::from_millis(100));
            let is_end = |line: &String| line.starts_with('c');
            ends.extend(outputs.into_iter().filter(is_end));
            assert_eq!(ends.is_empty(), waited < looked_for, "{standby:?}");
        }
        assert_eq!(
            ends,
            ["c1: ended 0 a1 OwnerLost", "c2: ended 0 a1 OwnerLost"]
        );
        assert_eq!(relay.gateway.counters().owners_lost, 1);
        assert_eq!(relay.lose(1), NOTHING);
        relay.lose(2);
        assert!(relay.gateway.is_idle());
    }
}

#[test]
fn an_owner_that_is_gone_ends_its_sessions_at_once() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.lose_link(8);
    assert_eq!(relay.input(Input::NodeGone { node: node(7) }), NOTHING);
    assert_eq!(
        relay.input(Input::NodeGone { node: node(8) }),
        ["c1: ended 0 a1 OwnerLost", "c2: ended 0 a1 OwnerLost"]
    );
    assert_eq!(relay.wait(Duration::from_secs(60)), NOTHING);
    assert_eq!(relay.gateway.poll_timeout(), None);
}

#[test]
fn an_owner_that_does_not_know_the_session_has_lost_it() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    assert_eq!(
        relay.owner(8, refused(3, ErrorCode::SessionNotFound, None)),
        ["c1: ended 0 a1 OwnerLost", "c2: ended 0 a1 OwnerLost"]
    );
    assert_eq!(
        relay.owner(8, refused(4, ErrorCode::SessionNotFound, None)),
        NOTHING
    );
    assert_eq!(relay.gateway.counters().owners_lost, 1);
}

#[test]
fn a_member_whose_seat_is_gone_is_told_and_the_others_stay() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    assert_eq!(
        relay.owner(8, refused(3, ErrorCode::RejoinExpired, None)),
        ["c1: ended 0 a1 RejoinExpired"]
    );
    assert_eq!(
        relay.owner(8, joined(4, 2, 1, 0)),
        ["c2: joined 0 a1 2.1 @0"]
    );
}

#[test]
fn who_leaves_or_is_lost_while_detached_is_not_attached_again() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.seat(3, 3, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    assert_eq!(relay.leave(1, 1), ["8: leave 1.1", "c1: ended 6 a1 Ok"]);
    assert_eq!(relay.lose(2), ["8: dropped 2.1"]);
    assert_eq!(relay.owner(8, joined(4, 1, 1, 0)), ["8: dropped 1.1"]);
    assert_eq!(relay.owner(8, joined(5, 2, 1, 0)), ["8: dropped 2.1"]);
    // The last detached one leaves: the search ends, and a later one has its own time.
    relay.leave(3, 1);
    assert_eq!(relay.gateway.poll_timeout(), None);
}

#[test]
fn a_second_break_has_its_own_time() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    relay.owner(8, joined(3, 1, 1, 0));
    relay.leave(2, 1);
    relay.wait(limits::REJOIN_HOLD_DEFAULT - Duration::from_millis(1));
    relay.lose_link(8);
    let soon = relay.wait(Duration::from_millis(1));
    assert_eq!(soon, ["8: join 5 by player 1 resume 1.1 @0 []"]);
}

#[test]
fn who_is_attached_in_time_stays_when_another_is_not() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    relay.owner(8, joined(3, 1, 1, 0));
    let outputs = relay.wait(limits::REJOIN_HOLD_DEFAULT);
    assert_eq!(
        outputs.last().map(String::as_str),
        Some("c2: ended 0 a1 OwnerLost")
    );
    assert_eq!(relay.gateway.members(), 1);
}

#[test]
fn members_follow_the_first_of_them_to_a_new_owner() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.sign_in(3);
    relay.join(3, None);
    relay.answer(3, Ok(6));
    let mut newer = joined(3, 3, 1, 0);
    if let LinkFrame::Control(LinkMessage::Joined { joined, .. }) = &mut newer {
        joined.epoch = Epoch(10);
    }
    assert_eq!(relay.owner(6, newer), ["c3: joined 6 a1 3.1 @0"]);
    assert_eq!(
        relay.wait(Duration::ZERO),
        [
            "6: join 4 by player 1 resume 1.1 @0 []",
            "6: join 5 by player 2 resume 2.1 @0 []"
        ]
    );
}

// ---------------------------------------------------------------------- an owner that does not return

#[test]
fn a_session_whose_owner_stays_away_is_looked_for_at_its_standby() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.fanout(8, 1, 2, Mode::Ordered, Target::All);
    relay.view(8, EPOCH, Some(7));
    relay.lose_link(8);
    assert_eq!(
        relay.wait(Duration::ZERO).len(),
        2,
        "the owner is asked first"
    );
    for _ in 0..2 {
        assert_eq!(relay.wait(Duration::from_millis(250)), NOTHING);
    }
    assert_eq!(
        relay.wait(Duration::from_millis(250)),
        [
            "7: join 5 by player 1 resume 1.1 @1 []",
            "7: join 6 by player 2 resume 2.1 @1 []"
        ]
    );
    // A claim takes a while: the answer of now is awaited.
    assert_eq!(relay.wait(Duration::from_millis(750)), NOTHING);
    assert_eq!(
        relay.owner(7, joined_under(5, 1, 1, Epoch(10))),
        ["c1: joined 0 a1 1.1 @1"]
    );
    assert_eq!(
        relay.owner(7, joined_under(6, 2, 1, Epoch(10))),
        ["c2: joined 0 a1 2.1 @1"]
    );
    assert_eq!(relay.wait(limits::REJOIN_HOLD_DEFAULT), NOTHING);
    assert_eq!(relay.gateway.counters().owners_lost, 0);
}

#[test]
fn what_the_owner_before_ordered_comes_from_the_one_that_goes_on_and_nothing_from_itself() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    relay.fanout(8, 1, 2, Mode::Ordered, Target::All);
    relay.input(Input::NodeGone { node: node(8) });
    relay.wait(Duration::ZERO);
    relay.owner(7, joined_under(2, 1, 1, Epoch(10)));
    for mode in Mode::ALL {
        assert_eq!(
            relay.fanout(8, 2, 2, mode, Target::All),
            NOTHING,
            "{mode:?}"
        );
    }
    for frame in [
        ended(0, 0, ErrorCode::SessionClosed),
        gap(0, 2, 1),
        refused(0, ErrorCode::NotOwner, Some(6)),
    ] {
        assert_eq!(relay.owner(8, frame), NOTHING);
    }
    assert_eq!(
        relay.fanout(7, 2, 2, Mode::Ordered, Target::All),
        ["c1: a1 #2 2.1.2"],
        "ordered under the epoch before"
    );
    let entry = |index, epoch| {
        let mut entry = fanout(index, 2, Mode::Ordered, Target::All);
        entry.place.epoch = Epoch(epoch);
        LinkFrame::Fanout(entry)
    };
    assert_eq!(relay.owner(7, entry(3, 11)), NOTHING, "an epoch to come");
    assert_eq!(relay.owner(7, entry(3, 10)), ["c1: a1 #3 2.1.3"]);
    assert_eq!(relay.owner(7, entry(4, 9)), NOTHING, "a falling epoch");
}

#[test]
fn the_standby_of_an_owner_that_is_gone_is_asked_at_once() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    assert_eq!(relay.input(Input::NodeGone { node: node(8) }), NOTHING);
    assert_eq!(
        relay.wait(Duration::ZERO),
        ["7: join 2 by player 1 resume 1.1 @0 []"]
    );
    // Who is gone has not got the session: one word is enough.
    assert_eq!(
        relay.owner(7, refused(2, ErrorCode::SessionNotFound, None)),
        ["c1: ended 0 a1 OwnerLost"]
    );
}

#[test]
fn only_the_owner_in_its_epoch_says_who_stands_by() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    relay.view(8, EPOCH, Some(6));
    relay.view(5, EPOCH, Some(5));
    relay.view(8, Epoch(8), Some(5));
    relay.view(8, Epoch(10), Some(5));
    relay.input(Input::NodeGone { node: node(8) });
    assert_eq!(
        relay.wait(Duration::ZERO),
        ["6: join 2 by player 1 resume 1.1 @0 []"]
    );
    // Without one there is nobody to ask.
    let mut alone = Relay::new();
    alone.seat(1, 1, 0);
    alone.view(8, EPOCH, Some(7));
    alone.view(8, EPOCH, None);
    assert_eq!(
        alone.input(Input::NodeGone { node: node(8) }),
        ["c1: ended 0 a1 OwnerLost"]
    );
}

#[test]
fn a_session_is_lost_when_owner_and_standby_both_have_not_got_it() {
    for codes in [
        [ErrorCode::SessionNotFound, ErrorCode::OwnerLost],
        [ErrorCode::OwnerLost, ErrorCode::SessionNotFound],
    ] {
        let mut relay = Relay::new();
        relay.seat(1, 1, 0);
        relay.seat(2, 2, 0);
        relay.view(8, EPOCH, Some(7));
        relay.lose_link(8);
        relay.wait(Duration::ZERO);
        // All at once, as it happens: each of them is asked at the other one next.
        for request in [3, 4] {
            assert_eq!(relay.owner(8, refused(request, codes[0], None)), NOTHING);
        }
        assert_eq!(
            relay.wait(Duration::from_millis(250)),
            [
                "7: join 5 by player 1 resume 1.1 @0 []",
                "7: join 6 by player 2 resume 2.1 @0 []"
            ]
        );
        assert_eq!(
            relay.owner(7, refused(5, codes[1], None)),
            ["c1: ended 0 a1 OwnerLost", "c2: ended 0 a1 OwnerLost"]
        );
        assert_eq!(relay.gateway.counters().owners_lost, 1);
        assert_eq!(relay.gateway.poll_timeout(), None);
    }
}

#[test]
fn whoever_cannot_say_is_asked_again_after_the_other_one() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.seat(2, 2, 0);
    relay.view(8, EPOCH, Some(7));
    relay.input(Input::NodeGone { node: node(5) });
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    let mut request = 3;
    for (asked, next, code) in [
        (8, 7, ErrorCode::NotOwner),
        (7, 8, ErrorCode::DirectoryUnavailable),
        (8, 7, ErrorCode::NotOwner),
    ] {
        for request in [request, request + 1] {
            assert_eq!(relay.owner(asked, refused(request, code, None)), NOTHING);
        }
        request += 2;
        let outputs = relay.wait(Duration::from_millis(250));
        assert_eq!(outputs.len(), 2, "{outputs:?}");
        assert!(
            outputs[0].starts_with(&format!("{next}: join {request} ")),
            "{outputs:?}"
        );
    }
}

#[test]
fn an_owner_that_gives_the_session_up_says_where_it_goes_on() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    assert_eq!(
        relay.owner(8, refused(0, ErrorCode::NotOwner, Some(6))),
        NOTHING
    );
    assert_eq!(
        relay.wait(Duration::ZERO),
        ["6: join 2 by player 1 resume 1.1 @0 []"]
    );
    assert_eq!(
        relay.owner(6, joined_under(2, 1, 0, Epoch(10))),
        ["c1: joined 0 a1 1.1 @0"]
    );
}

#[test]
fn a_member_that_is_sent_on_waits_for_the_answer_there_however_long_it_takes() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    relay.input(Input::NodeGone { node: node(8) });
    relay.wait(Duration::ZERO);
    assert_eq!(
        relay.owner(7, refused(2, ErrorCode::NotOwner, Some(6))),
        ["6: join 2 by player 1 resume 1.1 @0 []"]
    );
    assert_eq!(relay.wait(Duration::from_millis(250)), NOTHING);
    assert_eq!(relay.wait(Duration::from_millis(500)), NOTHING);
    assert_eq!(
        relay.owner(6, joined_under(2, 1, 0, Epoch(10))),
        ["c1: joined 0 a1 1.1 @0"]
    );
}

#[test]
fn an_answer_of_a_former_owner_takes_nobody_back() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    relay.lose_link(8);
    relay.wait(Duration::ZERO);
    assert_eq!(relay.owner(8, joined_under(2, 1, 0, Epoch(8))), NOTHING);
    assert_eq!(
        relay.wait(Duration::from_millis(250)),
        ["7: join 3 by player 1 resume 1.1 @0 []"]
    );
}

#[test]
fn a_member_says_what_it_had_under_which_epoch_and_what_it_has_sent() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    relay.view(8, EPOCH, Some(7));
    for seq in 1..=3 {
        relay.publish(1, 1, Mode::Reliable, seq);
    }
    let asked = |relay: &mut Relay| {
        relay.lose_link(8);
        relay.gateway.handle_timeout(relay.now);
        std::iter::from_fn(|| relay.gateway.poll_output()).find_map(|output| match output {
            Output::ToOwner {
                frame: LinkFrame::Control(LinkMessage::Join { resume, .. }),
                ..
            } => resume.map(|resume| (resume.last_epoch, resume.reliable_sent)),
            Output::ToOwner { .. }
            | Output::ToClient { .. }
            | Output::Close { .. }
            | Output::Ask { .. }
            | Output::Check { .. } => None,
        })
    };
    assert_eq!(asked(&mut relay), Some((Epoch(0), Seq(3))));
    // What it sends while the way is broken is not on the way.
    relay.publish(1, 1, Mode::Reliable, 4);
    relay.owner(8, joined(2, 1, 1, 0));
    relay.fanout(8, 1, 2, Mode::Ordered, Target::All);
    assert_eq!(asked(&mut relay), Some((EPOCH, Seq(3))));
}

#[test]
fn counts_of_who_has_left_are_forgotten() {
    let mut relay = Relay::new();
    relay.seat(1, 1, 0);
    let mut index = 0;
    for peer in 2..500 {
        relay.fanout(8, 1, peer, Mode::Reliable, Target::All);
        index += 1;
        let left = SessionEvent::Left {
            peer: PeerId(peer),
            code: ErrorCode::Ok,
        };
        let mut entry = fanout(index, 0, Mode::Ordered, Target::All);
        entry.message.channel = SESSION_CHANNEL;
        entry.message.payload = left.encode();
        relay.owner(8, LinkFrame::Fanout(entry));
    }
    relay.lose_link(8);
    assert_eq!(
        relay.wait(Duration::ZERO),
        [format!("8: join 2 by player 1 resume 1.1 @{index} []")]
    );
}

// --------------------------------------------------------------- an owner, two gateways, four players

const PLAYERS: usize = 4;

/// A step of a random history; gateways 0 and 1.
#[derive(Clone, Debug)]
enum Step {
    /// Lets so many frames arrive in one of the queues.
    Pump {
        queue: usize,
        frames: usize,
    },
    Send {
        who: usize,
        mode: Mode,
        absent: bool,
    },
    /// The player's connection breaks; its relay notices later.
    Cut {
        who: usize,
    },
    /// The oldest broken connection is noticed.
    Notice,
    /// A new connection, to resume, or to join anew.
    Connect {
        who: usize,
        gateway: usize,
        anew: bool,
    },
    Leave {
        who: usize,
    },
    Break {
        gateway: usize,
    },
    /// One side hears of the break before the other.
    Hear {
        gateway: usize,
        at_owner: bool,
    },
    Heal {
        gateway: usize,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (who, gateway) = (0..PLAYERS, 0..2_usize);
    let rarely = proptest::bool::weighted(0.1);
    prop_oneof![
        40 => (0..64_usize, 1..12_usize).prop_map(|(queue, frames)| Step::Pump { queue, frames }),
        20 => (who.clone(), 0..3_usize, rarely).prop_map(|(who, mode, absent)| {
            Step::Send { who, mode: Mode::ALL[mode], absent }
        }),
        3 => who.clone().prop_map(|who| Step::Cut { who }),
        3 => Just(Step::Notice),
        6 => (who.clone(), gateway.clone(), rarely).prop_map(|(who, gateway, anew)| {
            Step::Connect { who, gateway, anew }
        }),
        1 => proptest::option::weighted(0.3, who).prop_map(|who| {
            who.map_or(Step::Notice, |who| Step::Leave { who })
        }),
        3 => gateway.clone().prop_map(|gateway| Step::Break { gateway }),
        2 => (gateway.clone(), any::<bool>()).prop_map(|(gateway, at_owner)| {
            Step::Hear { gateway, at_owner }
        }),
        5 => gateway.prop_map(|gateway| Step::Heal { gateway }),
        8 => (0..700_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each player sees the one order without hole or repeat, and in the end everything is there:
    /// every send resolved, every Reliable message delivered or counted as missing.
    #[test]
    fn whatever_breaks_everyone_sees_the_one_order_and_nothing_hangs(
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let mut mesh = Mesh::new();
        for step in steps {
            mesh.take(step);
        }
        mesh.heal();
    }
}

struct Mesh {
    now: Instant,
    owner: Session,
    relays: [Gateway; 2],
    links: [Link; 2],
    /// The connections, alive or not noticed to be broken; the client's number is the place here.
    connections: Vec<Connection>,
    players: Vec<Player>,
    /// Who only skipped an entry does not know what it says.
    order: BTreeMap<Index, (Mid, Option<Bytes>)>,
}

/// Between a gateway and the owner.
#[derive(Default)]
struct Link {
    up: VecDeque<LinkFrame>,
    down: VecDeque<LinkFrame>,
    broken: bool,
    /// Whether the gateway, and the owner, have not heard of the break.
    unheard: [bool; 2],
}

struct Connection {
    gateway: usize,
    who: usize,
    up: VecDeque<ClientFrame>,
    down: VecDeque<RelayFrame>,
    alive: bool,
    noticed: bool,
}

struct Player {
    connection: Option<usize>,
    phase: Phase,
    request: u64,
    attachment: Attachment,
    seat: Option<Seat>,
    /// Over all its lives.
    mids: BTreeSet<Mid>,
    /// Joined more than once, so that its counts do not span the whole history.
    is_new: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Greeting,
    Idle,
    Asking,
    Live,
    Leaving,
}

struct Seat {
    peer: PeerId,
    incarnation: Incarnation,
    last: Index,
    sent: [u32; 4],
    unresolved: VecDeque<Message>,
    reliable: BTreeMap<PeerId, u32>,
    attempt: u32,
}

impl Mesh {
    fn new() -> Self {
        let now = start();
        let config = SessionConfig {
            id: ID,
            home_region: "eu".to_owned(),
            options: SessionOptions {
                rejoin_hold: Duration::from_secs(600),
                empty_ttl: Duration::from_secs(300),
                ..SessionOptions::default()
            },
            epoch: EPOCH,
            nonce: 1,
            code: None,
            owner: node(8),
            owner_boot: BootId(1),
        };
        let player = || Player {
            connection: None,
            phase: Phase::Idle,
            request: 0,
            attachment: Attachment(0),
            seat: None,
            mids: BTreeSet::new(),
            is_new: false,
        };
        let mut mesh = Self {
            now,
            owner: Session::new(config, now),
            relays: [0, 1].map(|relay| Gateway::new(node(relay), BootId(1))),
            links: [Link::default(), Link::default()],
            connections: Vec::new(),
            players: std::iter::repeat_with(player).take(PLAYERS).collect(),
            order: BTreeMap::new(),
        };
        for who in 0..PLAYERS {
            mesh.connect(who, who % 2, false);
            mesh.quiesce();
        }
        mesh
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Pump { queue, frames } => {
                for _ in 0..frames {
                    self.pump(queue);
                }
            }
            Step::Send { who, mode, absent } => self.send(who, mode, absent),
            Step::Cut { who } => self.cut(who),
            Step::Notice => {
                let broken = self.connections.iter().position(|c| !c.alive && !c.noticed);
                if let Some(connection) = broken {
                    self.notice(connection);
                }
            }
            Step::Connect { who, gateway, anew } => {
                if anew {
                    self.cut(who);
                }
                self.connect(who, gateway, anew);
            }
            Step::Leave { who } => {
                let player = &mut self.players[who];
                if player.phase == Phase::Live {
                    player.request += 1;
                    player.phase = Phase::Leaving;
                    let (request, attachment) = (player.request, player.attachment);
                    self.say(
                        who,
                        ClientMessage::Leave {
                            request,
                            attachment,
                        },
                    );
                }
            }
            Step::Break { gateway } => {
                let link = &mut self.links[gateway];
                if !link.broken {
                    *link = Link {
                        broken: true,
                        unheard: [true; 2],
                        ..Link::default()
                    };
                }
            }
            Step::Hear { gateway, at_owner } => self.hear_of_break(gateway, at_owner),
            Step::Heal { gateway } => {
                self.hear_of_break(gateway, true);
                self.hear_of_break(gateway, false);
                self.links[gateway].broken = false;
            }
            Step::Wait(millis) => self.wait(Duration::from_millis(millis)),
        }
    }

    /// Everything works again: soon everyone is at the same place, and nothing is open.
    fn heal(&mut self) {
        for gateway in 0..2 {
            self.take(Step::Heal { gateway });
        }
        for _ in 0..60 {
            for connection in 0..self.connections.len() {
                self.notice_if_broken(connection);
            }
            for who in 0..PLAYERS {
                self.connect(who, who % 2, false);
            }
            self.quiesce();
            self.wait(Duration::from_millis(250));
        }
        for mode in [Mode::Reliable, Mode::Ordered] {
            (0..PLAYERS).for_each(|who| self.send(who, mode, false));
        }
        self.quiesce();
        for (who, player) in self.players.iter().enumerate() {
            assert_eq!(player.phase, Phase::Live, "player {who} hangs");
            let seat = player.seat.as_ref().unwrap_or_else(|| panic!("no seat"));
            assert_eq!(seat.last, self.owner.index(), "player {who}");
            assert_eq!(seat.unresolved, [], "player {who}");
            for other in self.players.iter().filter(|_| !player.is_new) {
                let Some(sender) = other.seat.as_ref().filter(|_| !other.is_new) else {
                    continue;
                };
                if sender.peer != seat.peer {
                    let counted = seat.reliable.get(&sender.peer).copied();
                    let sent = sender.sent[Mode::Reliable as usize];
                    assert_eq!(counted, Some(sent), "{} of {}", seat.peer, sender.peer);
                }
            }
        }
        for who in 0..PLAYERS {
            self.cut(who);
        }
        for connection in 0..self.connections.len() {
            self.notice_if_broken(connection);
        }
        self.quiesce();
        self.wait(limits::REQUEST_TIMEOUT);
        assert!(
            self.relays.iter().all(Gateway::is_idle),
            "{:?}",
            self.relays
        );
        assert!(self.owner.seats().all(|seat| seat.gateway.is_none()));
    }

    // ------------------------------------------------------------------------------- the players

    fn connect(&mut self, who: usize, gateway: usize, anew: bool) {
        let player = &mut self.players[who];
        if anew {
            player.seat = None;
        }
        if player.connection.is_some() {
            if player.phase == Phase::Idle {
                self.ask(who);
            }
            return;
        }
        let number = self.connections.len();
        player.connection = Some(number);
        player.phase = Phase::Greeting;
        if let Some(seat) = &mut player.seat {
            seat.attempt += 1;
        }
        self.connections.push(Connection {
            gateway,
            who,
            up: VecDeque::new(),
            down: VecDeque::new(),
            alive: true,
            noticed: false,
        });
        let client = ClientId(number as u64);
        self.relays[gateway].handle(Input::ClientConnected { client }, self.now);
        self.say(who, hello(limits::PROTOCOL_VERSION));
    }

    fn cut(&mut self, who: usize) {
        let player = &mut self.players[who];
        player.attachment = Attachment(0);
        player.phase = Phase::Idle;
        if let Some(number) = player.connection.take() {
            let connection = &mut self.connections[number];
            connection.alive = false;
            connection.up.clear();
            connection.down.clear();
        }
    }

    fn notice_if_broken(&mut self, number: usize) {
        if !self.connections[number].alive && !self.connections[number].noticed {
            self.notice(number);
        }
    }

    fn notice(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        connection.noticed = true;
        let (gateway, client) = (connection.gateway, ClientId(number as u64));
        self.relays[gateway].handle(Input::ClientLost { client }, self.now);
        self.drain_relay(gateway);
    }

    fn say(&mut self, who: usize, message: ClientMessage) {
        self.push(who, ClientFrame::Control(message));
    }

    fn push(&mut self, who: usize, frame: ClientFrame) {
        if let Some(number) = self.players[who].connection {
            self.connections[number].up.push_back(frame);
        }
    }

    fn ask(&mut self, who: usize) {
        let player = &mut self.players[who];
        player.request += 1;
        player.phase = Phase::Asking;
        let resume = player.seat.as_ref().map(|seat| Resume {
            peer: seat.peer,
            incarnation: seat.incarnation,
            last_index: seat.last,
            reliable: seat.reliable.clone().into_iter().collect(),
            attempt: seat.attempt,
            last_epoch: EPOCH,
            reliable_sent: Seq(seat.sent[Mode::Reliable as usize]),
        });
        let request = player.request;
        self.say(
            who,
            ClientMessage::Join {
                request,
                join: by_id(resume),
            },
        );
    }

    fn send(&mut self, who: usize, mode: Mode, absent: bool) {
        let player = &mut self.players[who];
        let (is_live, attachment) = (player.phase == Phase::Live, player.attachment);
        let Some(seat) = player.seat.as_mut() else {
            return;
        };
        if (mode == Mode::Reliable && !is_live) || player.phase == Phase::Leaving {
            return;
        }
        seat.sent[mode as usize] += 1;
        let seq = Seq(seat.sent[mode as usize]);
        let target = if absent && mode == Mode::Ordered {
            Target::Peer(PeerId(9_999))
        } else {
            Target::All
        };
        let payload = Bytes::from(format!("{who} {seq}"));
        let message = Message {
            mode,
            channel: 0,
            seq,
            target,
            key: 0,
            payload,
        };
        if mode == Mode::Ordered {
            seat.unresolved.push_back(message.clone());
        }
        if is_live {
            self.push(
                who,
                ClientFrame::Publish(Publish {
                    attachment,
                    message,
                }),
            );
        }
    }

    fn hear(&mut self, who: usize, frame: RelayFrame) {
        let player = &mut self.players[who];
        match frame {
            RelayFrame::Control(RelayMessage::Welcome { .. }) => self.ask(who),
            RelayFrame::Control(RelayMessage::Joined { request, joined }) => {
                let awaited = match player.phase {
                    Phase::Asking => player.request,
                    Phase::Live | Phase::Leaving => 0,
                    Phase::Greeting | Phase::Idle => panic!("unasked"),
                };
                assert_eq!(request, awaited);
                self.joined(who, joined);
            }
            RelayFrame::Control(RelayMessage::Failed { request, failure }) => {
                let code = failure.error.code();
                if code == ErrorCode::InvalidState {
                    // A leave that crossed the end of the session.
                    return;
                }
                assert_eq!(request, player.request);
                if code == ErrorCode::RejoinExpired {
                    player.seat = None;
                } else {
                    assert_eq!(code, ErrorCode::Timeout);
                }
                player.phase = Phase::Idle;
            }
            RelayFrame::Control(RelayMessage::Ended {
                attachment, error, ..
            }) => {
                assert_eq!(attachment, player.attachment);
                // A connection that resumes never loses the seat to an older one.
                let replaced = error.code() == ErrorCode::ReplacedByNewConnection;
                assert!(player.is_new || !replaced, "player {who}");
                player.attachment = Attachment(0);
                player.seat = None;
                player.phase = Phase::Idle;
            }
            RelayFrame::Control(RelayMessage::SendRejected { .. }) => {
                panic!("only Ordered messages have absent targets, and those are refused in turn");
            }
            RelayFrame::Control(RelayMessage::ReliableGap {
                attachment,
                sender,
                missed,
            }) => {
                assert_eq!(attachment, player.attachment);
                if let Some(seat) = &mut player.seat {
                    *seat.reliable.entry(sender).or_default() += missed;
                }
            }
            RelayFrame::Deliver(deliver) => {
                assert_eq!(deliver.attachment, player.attachment);
                self.deliver(who, deliver);
            }
            RelayFrame::Skip(skip) => {
                assert_eq!(skip.attachment, player.attachment);
                self.skip(who, skip);
            }
            RelayFrame::Control(RelayMessage::Pong { .. } | RelayMessage::Draining { .. }) => {}
        }
    }

    fn joined(&mut self, who: usize, joined: Joined) {
        let player = &mut self.players[who];
        player.attachment = joined.attachment;
        if player.phase == Phase::Asking {
            player.phase = Phase::Live;
        }
        if !joined.resumed {
            player.is_new = joined.index.0 >= PLAYERS as u64 || !player.mids.is_empty();
            let before = player.seat.as_ref();
            let before = before.filter(|seat| seat.incarnation == joined.incarnation);
            let attempt = before.map_or(0, |seat| seat.attempt);
            player.seat = Some(Seat {
                peer: joined.peer,
                incarnation: joined.incarnation,
                last: joined.index,
                sent: [0; 4],
                unresolved: VecDeque::new(),
                reliable: BTreeMap::new(),
                attempt,
            });
            return;
        }
        let seat = player.seat.as_ref().unwrap_or_else(|| panic!("no seat"));
        assert_eq!(
            (joined.peer, joined.incarnation),
            (seat.peer, seat.incarnation)
        );
        assert_eq!(joined.index, seat.last);
        let again: Vec<Message> = seat
            .unresolved
            .iter()
            .filter(|message| message.seq > joined.ordered_seen)
            .cloned()
            .collect();
        let attachment = player.attachment;
        for message in again {
            self.push(
                who,
                ClientFrame::Publish(Publish {
                    attachment,
                    message,
                }),
            );
        }
    }

    /// Everything is for all, but that a send was refused.
    fn skip(&mut self, who: usize, skip: Skip) {
        let Some(seat) = self.players[who].seat.as_mut() else {
            return;
        };
        assert_eq!(skip.mid.sender, PeerId::SESSION, "player {who}");
        assert_eq!(skip.place.index, seat.last.next(), "player {who}");
        seat.last = skip.place.index;
        let (mid, _) = self
            .order
            .entry(skip.place.index)
            .or_insert_with(|| (skip.mid, None));
        assert_eq!(*mid, skip.mid);
    }

    fn deliver(&mut self, who: usize, deliver: Deliver) {
        let player = &mut self.players[who];
        let Some(seat) = player.seat.as_mut() else {
            return;
        };
        let Deliver {
            mid,
            mode,
            place,
            payload,
            ..
        } = deliver;
        if mode == Mode::Reliable {
            *seat.reliable.entry(mid.sender).or_default() += 1;
        }
        if mode != Mode::Ordered {
            return;
        }
        assert_eq!(place.index, seat.last.next(), "player {who}");
        seat.last = place.index;
        let (placed, said) = self.order.entry(place.index).or_insert((mid, None));
        assert_eq!(*placed, mid);
        assert_eq!(*said.get_or_insert_with(|| payload.clone()), payload);
        if mid.sender == PeerId::SESSION {
            match SessionEvent::decode(payload) {
                Ok(SessionEvent::Left { peer, .. }) => {
                    seat.reliable.remove(&peer);
                }
                Ok(SessionEvent::Refused {
                    peer,
                    incarnation,
                    seq,
                    ..
                }) => {
                    assert_eq!((peer, incarnation), (seat.peer, seat.incarnation));
                    let before = seat.unresolved.len();
                    seat.unresolved.retain(|message| message.seq != seq);
                    assert_eq!(seat.unresolved.len() + 1, before, "{seq} is refused once");
                }
                _ => {}
            }
            return;
        }
        assert!(player.mids.insert(mid), "player {who} got {mid} twice");
        if (mid.sender, mid.incarnation) == (seat.peer, seat.incarnation) {
            let at = seat
                .unresolved
                .iter()
                .position(|message| message.seq == mid.seq);
            let at = at.unwrap_or_else(|| panic!("{mid} was resolved before"));
            seat.unresolved.remove(at);
        }
    }

    // ---------------------------------------------------------------------------------- the ways

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for gateway in 0..2 {
            self.relays[gateway].handle_timeout(self.now);
            self.drain_relay(gateway);
        }
        self.owner.handle_timeout(self.now);
        self.drain_owner();
    }

    fn hear_of_break(&mut self, gateway: usize, at_owner: bool) {
        let unheard = &mut self.links[gateway].unheard[usize::from(at_owner)];
        if !std::mem::take(unheard) {
            return;
        }
        if at_owner {
            let gateway = node(gateway as u8);
            self.owner
                .handle(session::Input::GatewayLost { gateway }, self.now);
            self.drain_owner();
        } else {
            self.relays[gateway].handle(Input::LinkLost { node: node(8) }, self.now);
            self.relays[gateway].handle_timeout(self.now);
            self.drain_relay(gateway);
        }
    }

    fn quiesce(&mut self) {
        while (0..4 + 2 * self.connections.len()).any(|queue| self.pump(queue)) {}
    }

    /// Lets one frame arrive; `false` if there is none.
    fn pump(&mut self, queue: usize) -> bool {
        let queue = queue % (4 + 2 * self.connections.len());
        let (line, is_up) = (queue / 2, queue.is_multiple_of(2));
        if let Some(link) = self.links.get_mut(line) {
            let frame = if link.broken {
                None
            } else if is_up {
                link.up.pop_front()
            } else {
                link.down.pop_front()
            };
            let Some(frame) = frame else { return false };
            if is_up {
                self.owner_hears(line, frame);
            } else {
                let input = Input::Owner {
                    node: node(8),
                    frame,
                };
                self.relays[line].handle(input, self.now);
                self.drain_relay(line);
            }
            return true;
        }
        let number = line - 2;
        let connection = &mut self.connections[number];
        let (gateway, who) = (connection.gateway, connection.who);
        if is_up {
            let Some(frame) = connection.up.pop_front() else {
                return false;
            };
            let client = ClientId(number as u64);
            self.relays[gateway].handle(Input::Client { client, frame }, self.now);
            self.drain_relay(gateway);
        } else {
            let Some(frame) = connection.down.pop_front() else {
                return false;
            };
            self.hear(who, frame);
        }
        true
    }

    fn owner_hears(&mut self, gateway: usize, frame: LinkFrame) {
        let gateway = node(gateway as u8);
        let input = match frame {
            LinkFrame::Control(LinkMessage::Join {
                request,
                user,
                app_version,
                resume,
                ..
            }) => session::Input::Join {
                gateway,
                request,
                user,
                app_version,
                resume,
            },
            LinkFrame::Control(LinkMessage::Leave(member)) => {
                session::Input::Leave { gateway, member }
            }
            LinkFrame::Control(LinkMessage::Dropped(member)) => {
                session::Input::Dropped { gateway, member }
            }
            LinkFrame::Forward(forward) => session::Input::Forward { gateway, forward },
            LinkFrame::Ack(ack) => session::Input::Ack { gateway, ack },
            LinkFrame::Control(
                LinkMessage::Hello { .. }
                | LinkMessage::Create { .. }
                | LinkMessage::Joined { .. }
                | LinkMessage::Refused { .. }
                | LinkMessage::Ended { .. }
                | LinkMessage::SendRejected { .. }
                | LinkMessage::ReliableGap { .. }
                | LinkMessage::Sync { .. }
                | LinkMessage::Seal { .. }
                | LinkMessage::Sealed { .. }
                | LinkMessage::Release { .. }
                | LinkMessage::View { .. }
                | LinkMessage::TakeOver { .. },
            )
            | LinkFrame::Fanout(_)
            | LinkFrame::Store(_)
            | LinkFrame::Stored(_) => panic!("not a member's wish"),
        };
        self.owner.handle(input, self.now);
        self.drain_owner();
    }

    fn drain_owner(&mut self) {
        while let Some(output) = self.owner.poll_output() {
            match output {
                session::Output::ToGateway { gateway, frame } => {
                    let gateway = usize::from(gateway != node(0));
                    let link = &mut self.links[gateway];
                    if !link.broken {
                        link.down.push_back(frame);
                    }
                }
                session::Output::Listing { .. } => {}
                session::Output::ToStandby { .. }
                | session::Output::Copied { .. }
                | session::Output::Closed
                | session::Output::Deposed => panic!("it has members, and no standby: {output:?}"),
            }
        }
    }

    fn drain_relay(&mut self, relay: usize) {
        while let Some(output) = self.relays[relay].poll_output() {
            match output {
                Output::ToClient { client, frame } => {
                    let connection = &mut self.connections[client.0 as usize];
                    if connection.alive {
                        connection.down.push_back(frame);
                    }
                }
                Output::ToOwner { node: to, frame } => {
                    assert_eq!(to, node(8));
                    // Lost, until the break is noticed; then kept for the link that comes next.
                    let link = &mut self.links[relay];
                    if !link.unheard[0] {
                        link.up.push_back(frame);
                    }
                }
                Output::Ask { ask, .. } => {
                    let located = Ok(located(8));
                    self.relays[relay].handle(Input::Answer { ask, located }, self.now);
                }
                Output::Check { client, .. } => {
                    let who = self.connections[client.0 as usize].who;
                    let user = Ok(user(who as u8));
                    self.relays[relay].handle(Input::Checked { client, user }, self.now);
                }
                // A greeting that waited too long in its queue.
                Output::Close { client, .. } => {
                    let number = client.0 as usize;
                    let who = self.connections[number].who;
                    if self.players[who].connection == Some(number) {
                        self.cut(who);
                    }
                    self.connections[number].noticed = true;
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------- helpers

const NOTHING: [&str; 0] = [];

struct Relay {
    gateway: Gateway,
    now: Instant,
}

impl Relay {
    fn new() -> Self {
        Self {
            gateway: Gateway::new(node(1), BootId(1)),
            now: start(),
        }
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.gateway.poll_output())
            .map(|output| show(&output))
            .collect()
    }

    fn input(&mut self, input: Input) -> Vec<String> {
        self.gateway.handle(input, self.now);
        self.drain()
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.gateway.handle_timeout(self.now);
        self.drain()
    }

    fn connect(&mut self, client: u64) {
        let client = ClientId(client);
        assert_eq!(self.input(Input::ClientConnected { client }), NOTHING);
    }

    fn hello(&mut self, client: u64, version: u32) -> Vec<String> {
        self.control(client, hello(version))
    }

    fn checked(&mut self, client: u64, user: Result<User, Error>) -> Vec<String> {
        let client = ClientId(client);
        self.input(Input::Checked { client, user })
    }

    /// Client n as player n.
    fn sign_in(&mut self, client: u64) {
        self.connect(client);
        self.hello(client, limits::PROTOCOL_VERSION);
        self.checked(client, Ok(user(client as u8)));
    }

    /// Client n, as the nth to ask, as this peer of the session that node 8 owns.
    fn seat(&mut self, client: u64, peer: u16, index: u64) {
        self.sign_in(client);
        self.join(client, None);
        self.answer(client, Ok(8));
        self.owner(8, joined(client, peer, 1, index));
    }

    fn control(&mut self, client: u64, message: ClientMessage) -> Vec<String> {
        let (client, frame) = (ClientId(client), ClientFrame::Control(message));
        self.input(Input::Client { client, frame })
    }

    fn create(&mut self, client: u64) -> Vec<String> {
        let options = SessionOptions::default();
        self.control(
            client,
            ClientMessage::Create {
                request: 6,
                options,
            },
        )
    }

    fn join(&mut self, client: u64, resume: Option<Resume>) -> Vec<String> {
        let join = by_id(resume);
        self.control(client, ClientMessage::Join { request: 6, join })
    }

    fn leave(&mut self, client: u64, attachment: u16) -> Vec<String> {
        let attachment = Attachment(attachment);
        self.control(
            client,
            ClientMessage::Leave {
                request: 6,
                attachment,
            },
        )
    }

    fn publish(&mut self, client: u64, attachment: u16, mode: Mode, seq: u32) -> Vec<String> {
        let message = fanout_message(seq, mode, Target::All);
        let attachment = Attachment(attachment);
        let frame = ClientFrame::Publish(Publish {
            attachment,
            message,
        });
        let client = ClientId(client);
        self.input(Input::Client { client, frame })
    }

    fn ack(&mut self, client: u64, attachment: u16, index: u64) -> Vec<String> {
        let (attachment, index) = (Attachment(attachment), Index(index));
        let frame = ClientFrame::Ack(Ack { attachment, index });
        let client = ClientId(client);
        self.input(Input::Client { client, frame })
    }

    fn answer(&mut self, ask: u64, owner: Result<u8, Error>) -> Vec<String> {
        let (ask, located) = (AskId(ask), owner.map(located));
        self.input(Input::Answer { ask, located })
    }

    fn owner(&mut self, from: u8, frame: LinkFrame) -> Vec<String> {
        let node = node(from);
        self.input(Input::Owner { node, frame })
    }

    fn view(&mut self, from: u8, epoch: Epoch, standby: Option<u8>) {
        let view = LinkMessage::View {
            session: ID,
            epoch,
            standby: standby.map(node),
        };
        assert_eq!(self.owner(from, LinkFrame::Control(view)), NOTHING);
    }

    fn fanout(
        &mut self,
        from: u8,
        number: u64,
        sender: u16,
        mode: Mode,
        target: Target,
    ) -> Vec<String> {
        self.owner(
            from,
            LinkFrame::Fanout(fanout(number, sender, mode, target)),
        )
    }

    fn lose(&mut self, client: u64) -> Vec<String> {
        let client = ClientId(client);
        self.input(Input::ClientLost { client })
    }

    fn lose_link(&mut self, to: u8) -> Vec<String> {
        self.input(Input::LinkLost { node: node(to) })
    }
}

fn start() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test passes the time in; any start will do"
    )]
    Instant::now()
}

fn node(number: u8) -> NodeId {
    let id = format!("relay-{number}").parse();
    id.unwrap_or_else(|e| panic!("{e}"))
}

fn user(number: u8) -> User {
    User {
        id: UserId([number; 16]),
        display_name: format!("player {number}"),
    }
}

fn key(peer: u16, incarnation: u16) -> MemberKey {
    MemberKey {
        session: ID,
        peer: PeerId(peer),
        incarnation: Incarnation(incarnation),
    }
}

fn located(owner: u8) -> Located {
    Located {
        session: ID,
        owner: node(owner),
        home_region: "eu".to_owned(),
    }
}

fn hello(version: u32) -> ClientMessage {
    ClientMessage::Hello {
        version,
        token: "t".to_owned(),
        sdk: String::new(),
    }
}

fn by_id(resume: Option<Resume>) -> Join {
    let by = JoinBy::Session {
        id: ID,
        home_region: None,
    };
    Join {
        by,
        app_version: String::new(),
        resume,
    }
}

fn resume(peer: u16, incarnation: u16, last_index: u64) -> Resume {
    Resume {
        peer: PeerId(peer),
        incarnation: Incarnation(incarnation),
        last_index: Index(last_index),
        reliable: Vec::new(),
        attempt: 0,
        last_epoch: Epoch(0),
        reliable_sent: Seq(0),
    }
}

fn joined(request: u64, peer: u16, incarnation: u16, index: u64) -> LinkFrame {
    let joined = Joined {
        attachment: Attachment(0),
        session: ID,
        code: None,
        home_region: "eu".to_owned(),
        peer: PeerId(peer),
        incarnation: Incarnation(incarnation),
        epoch: EPOCH,
        index: Index(index),
        roster: Vec::new(),
        resumed: false,
        ordered_seen: Seq(0),
        reliable_seen: Seq(0),
        max_players: 8,
        name: String::new(),
        owner: node(8),
        rejoin_hold: limits::REJOIN_HOLD_DEFAULT,
    };
    LinkFrame::Control(LinkMessage::Joined {
        request,
        joined,
        standby: None,
    })
}

/// In its first life.
fn joined_under(request: u64, peer: u16, index: u64, of: Epoch) -> LinkFrame {
    let mut frame = joined(request, peer, 1, index);
    if let LinkFrame::Control(LinkMessage::Joined { joined, .. }) = &mut frame {
        joined.epoch = of;
    }
    frame
}

fn refused(request: u64, code: ErrorCode, owner: Option<u8>) -> LinkFrame {
    let failure = Failure::from(Error::from(code));
    let owner = owner.map(node);
    LinkFrame::Control(LinkMessage::Refused {
        request,
        session: ID,
        failure,
        owner,
    })
}

fn ended(peer: u16, incarnation: u16, code: ErrorCode) -> LinkFrame {
    let (member, error) = (key(peer, incarnation), code.into());
    LinkFrame::Control(LinkMessage::Ended {
        member,
        error,
        can_rejoin: false,
    })
}

fn rejected(peer: u16, seq: u32) -> LinkFrame {
    let (peer, seq, error) = (PeerId(peer), Seq(seq), ErrorCode::PeerNotFound.into());
    LinkFrame::Control(LinkMessage::SendRejected {
        session: ID,
        peer,
        mode: Mode::Ordered,
        seq,
        error,
    })
}

fn gap(peer: u16, sender: u16, missed: u32) -> LinkFrame {
    let (peer, sender) = (PeerId(peer), PeerId(sender));
    LinkFrame::Control(LinkMessage::ReliableGap {
        session: ID,
        peer,
        sender,
        missed,
    })
}

/// `number`: the seq, and in mode Ordered the index too.
fn fanout(number: u64, sender: u16, mode: Mode, target: Target) -> Fanout {
    let place = match mode {
        Mode::Ordered => Place {
            epoch: EPOCH,
            index: Index(number),
        },
        Mode::Reliable | Mode::Latest | Mode::Datagram => Place::default(),
    };
    Fanout {
        session: ID,
        place,
        only: PeerId::SESSION,
        sender: PeerId(sender),
        incarnation: Incarnation(1),
        message: fanout_message(number as u32, mode, target),
    }
}

fn fanout_message(seq: u32, mode: Mode, target: Target) -> Message {
    let payload = Bytes::from_static(b"hello");
    Message {
        mode,
        channel: 3,
        seq: Seq(seq),
        target,
        key: 0,
        payload,
    }
}

/// An output in a line: `c1` is client 1, a bare number a node, `a1` an attachment.
fn show(output: &Output) -> String {
    match output {
        Output::ToClient { client, frame } => format!("c{}: {}", client.0, show_client(frame)),
        Output::Close { client, error } => format!("c{}: close {:?}", client.0, error.code()),
        Output::ToOwner { node, frame } => {
            format!(
                "{}: {}",
                &node.as_str()["relay-".len()..],
                show_owner(frame)
            )
        }
        Output::Ask { ask, question } => match question {
            Ask::Place { .. } => format!("ask {} place", ask.0),
            Ask::Code(code) => format!("ask {} code {code}", ask.0),
            Ask::Locate { .. } => format!("ask {} locate", ask.0),
        },
        Output::Check { client, token } => format!("check c{} {token}", client.0),
    }
}

fn show_client(frame: &RelayFrame) -> String {
    match frame {
        RelayFrame::Control(RelayMessage::Welcome { .. }) => "welcome".to_owned(),
        RelayFrame::Control(RelayMessage::Joined { request, joined }) => {
            let Joined {
                attachment,
                peer,
                incarnation,
                index,
                ..
            } = joined;
            format!(
                "joined {request} a{} {peer}.{incarnation} @{index}",
                attachment.0
            )
        }
        RelayFrame::Control(RelayMessage::Failed { request, failure }) => {
            format!("failed {request} {:?}", failure.error.code())
        }
        RelayFrame::Control(RelayMessage::Ended {
            request,
            attachment,
            error,
            ..
        }) => {
            format!("ended {request} a{} {:?}", attachment.0, error.code())
        }
        RelayFrame::Control(RelayMessage::SendRejected {
            attachment,
            mode,
            seq,
            error,
        }) => {
            format!(
                "a{} rejected {} {seq} {:?}",
                attachment.0,
                mode.name(),
                error.code()
            )
        }
        RelayFrame::Control(RelayMessage::ReliableGap {
            attachment,
            sender,
            missed,
        }) => {
            format!("a{} gap {sender}: {missed}", attachment.0)
        }
        RelayFrame::Control(RelayMessage::Pong { nonce }) => format!("pong {nonce}"),
        RelayFrame::Control(RelayMessage::Draining { deadline }) => {
            format!("draining {}", deadline.as_secs())
        }
        RelayFrame::Deliver(deliver) => {
            let Deliver {
                attachment,
                mid,
                mode,
                place,
                ..
            } = deliver;
            match mode {
                Mode::Ordered => format!("a{} #{} {mid}", attachment.0, place.index),
                Mode::Reliable | Mode::Latest | Mode::Datagram => {
                    format!("a{} {} {mid}", attachment.0, mode.name())
                }
            }
        }
        RelayFrame::Skip(skip) => {
            format!(
                "a{} skip #{} {}",
                skip.attachment.0, skip.place.index, skip.mid
            )
        }
    }
}

fn show_owner(frame: &LinkFrame) -> String {
    match frame {
        LinkFrame::Control(LinkMessage::Create {
            request,
            session,
            home_region,
            user,
            ..
        }) => {
            assert_eq!(*session, ID);
            format!("create {request} in {home_region} by {}", user.display_name)
        }
        LinkFrame::Control(LinkMessage::Join {
            request,
            session,
            user,
            resume,
            ..
        }) => {
            assert_eq!(*session, ID);
            let join = format!("join {request} by {}", user.display_name);
            match resume {
                None => join,
                Some(Resume {
                    peer,
                    incarnation,
                    last_index,
                    reliable,
                    attempt,
                    last_epoch: _,
                    reliable_sent: _,
                }) => {
                    let counts = reliable
                        .iter()
                        .map(|(peer, count)| format!("{peer}: {count}"));
                    let counts = counts.collect::<Vec<_>>().join(", ");
                    let of = match attempt {
                        0 => String::new(),
                        later => format!(" attempt {later}"),
                    };
                    format!("{join} resume {peer}.{incarnation} @{last_index} [{counts}]{of}")
                }
            }
        }
        LinkFrame::Control(LinkMessage::Leave(key)) => {
            format!("leave {}.{}", key.peer, key.incarnation)
        }
        LinkFrame::Control(LinkMessage::Dropped(key)) => {
            format!("dropped {}.{}", key.peer, key.incarnation)
        }
        LinkFrame::Forward(forward) => {
            assert_eq!((forward.session, forward.epoch), (ID, EPOCH));
            format!(
                "forward {}.{}.{}",
                forward.sender, forward.incarnation, forward.message.seq
            )
        }
        LinkFrame::Ack(ack) => format!("ack {} {}", ack.peer, ack.index),
        LinkFrame::Control(
            LinkMessage::Hello { .. }
            | LinkMessage::Joined { .. }
            | LinkMessage::Refused { .. }
            | LinkMessage::Ended { .. }
            | LinkMessage::SendRejected { .. }
            | LinkMessage::ReliableGap { .. }
            | LinkMessage::Sync { .. }
            | LinkMessage::Seal { .. }
            | LinkMessage::Sealed { .. }
            | LinkMessage::Release { .. }
            | LinkMessage::View { .. }
            | LinkMessage::TakeOver { .. },
        )
        | LinkFrame::Fanout(_)
        | LinkFrame::Store(_)
        | LinkFrame::Stored(_) => panic!("not a gateway's: {frame:?}"),
    }
}

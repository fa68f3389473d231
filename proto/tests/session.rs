//! The owner's state machine: an input at a time, and exactly what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dreamcatcher_proto::control::{
    Joined, LinkMessage, MemberKey, Resume, SessionEvent, SessionOptions, User,
};
use dreamcatcher_proto::frame::{Fanout, Forward, LinkAck, LinkFrame, Message, Mode, Target};
use dreamcatcher_proto::session::{Input, Output, Session, SessionConfig};
use dreamcatcher_proto::{
    BootId, Epoch, Error, ErrorCode, Incarnation, Index, Mid, NodeId, PeerId, Seq, SessionId,
    UserId, limits,
};
use proptest::prelude::*;

const ID: SessionId = SessionId([7; 16]);
const EPOCH: Epoch = Epoch(9);

// ------------------------------------------------------------------------------------- membership

#[test]
fn a_new_member_is_told_where_it_starts_and_then_hears_of_itself_first() {
    let mut owner = Owner::new(SessionOptions::default());
    assert_eq!(
        owner.ask(1, 1, None),
        ["1: joined 1.1 @0 []", "1: #1 joined 1.1", "players 1"]
    );
    assert_eq!(
        owner.ask(2, 2, None),
        [
            "2: joined 2.1 @1 [1.1]",
            "1: #2 joined 2.1",
            "2: #2 joined 2.1",
            "players 2"
        ]
    );
}

#[test]
fn held_seats_are_taken_seats() {
    let mut owner = Owner::new(SessionOptions {
        max_players: 2,
        ..SessionOptions::default()
    });
    owner.join(1, 1);
    owner.join(1, 2);
    assert_eq!(owner.ask(1, 3, None), ["1: refused SessionFull"]);
    owner.drop_member(1, 2, 1);
    assert_eq!(owner.ask(1, 3, None), ["1: refused SessionFull"]);
    assert_eq!(owner.session.players(), 2);
}

#[test]
fn a_peer_id_is_never_used_twice() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(1, 2);
    owner.input(leave(1, 2, 1));
    assert_eq!(owner.join(1, 2).peer, PeerId(3));
}

#[test]
fn the_newest_connection_of_a_user_takes_its_seat_and_the_old_one_is_told() {
    let mut owner = Owner::new(SessionOptions {
        max_players: 1,
        ..SessionOptions::default()
    });
    owner.join(1, 1);
    owner.ordered(1, 1, 1, Target::All);
    assert_eq!(
        owner.ask(2, 1, None),
        [
            "1: ended 1.1 ReplacedByNewConnection",
            "2: joined 1.2 @2 [1.1]",
            "2: #3 rejoined 1.2"
        ]
    );
    // Its counting starts anew, and the old life is over.
    assert_eq!(owner.send(1, 1, 1, Mode::Ordered, 2, Target::All), NOTHING);
    assert_eq!(
        owner.send(2, 1, 2, Mode::Ordered, 1, Target::All),
        ["2: #4 1.2.1"]
    );
}

#[test]
fn a_held_seat_that_its_user_joins_anew_gets_a_new_incarnation() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    assert_eq!(owner.drop_member(1, 1, 1), ["2: #3 dropped 1"]);
    assert_eq!(
        owner.ask(2, 1, None),
        ["2: joined 1.2 @3 [1.1-, 2.1]", "2: #4 rejoined 1.2"]
    );
}

#[test]
fn another_app_version_is_refused() {
    let mut owner = Owner::new(SessionOptions {
        app_version: "7".to_owned(),
        ..SessionOptions::default()
    });
    assert_eq!(owner.ask(1, 1, None), ["1: refused VersionMismatch"]);
    let joined = owner.input(Input::Join {
        gateway: node(1),
        request: 5,
        user: user(1),
        app_version: "7".to_owned(),
        resume: None,
    });
    assert_eq!(joined[0], "1: joined 1.1 @0 []");
}

#[test]
fn a_member_that_leaves_gives_its_seat_up_present_or_held() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.join(2, 3);
    assert_eq!(
        owner.input(leave(2, 2, 1)),
        ["1: #4 left 2 Ok", "2: #4 left 2 Ok", "players 2"]
    );
    owner.drop_member(2, 3, 1);
    assert_eq!(
        owner.input(leave(2, 3, 1)),
        ["1: #6 left 3 Ok", "players 1"]
    );
}

#[test]
fn what_another_gateway_or_an_older_life_says_of_a_member_is_ignored() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.ask(1, 1, None);
    let index = owner.session.index();
    for (gateway, peer, incarnation) in [(2, 1, 2), (1, 1, 1), (1, 9, 1), (1, 0, 0), (1, 2, 1)] {
        assert_eq!(owner.drop_member(gateway, peer, incarnation), NOTHING);
        assert_eq!(owner.input(leave(gateway, peer, incarnation)), NOTHING);
        for mode in Mode::ALL {
            let sent = owner.send(gateway, peer, incarnation, mode, 1, Target::All);
            assert_eq!(sent, NOTHING, "{mode:?}");
        }
    }
    assert_eq!(owner.input(ack(2, 1, 1)), NOTHING);
    assert_eq!(owner.acked(1), Index(0));
    assert_eq!(owner.session.index(), index);
}

#[test]
fn a_lost_gateway_holds_every_seat_behind_it_and_tells_only_the_others() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.join(2, 3);
    assert_eq!(
        owner.input(Input::GatewayLost { gateway: node(2) }),
        ["1: #4 dropped 2", "1: #5 dropped 3"]
    );
    assert_eq!(
        owner.input(Input::GatewayLost { gateway: node(2) }),
        NOTHING
    );
}

#[test]
fn a_seat_is_held_for_rejoin_hold_and_not_longer() {
    let mut owner = Owner::new(SessionOptions {
        rejoin_hold: Duration::from_secs(10),
        ..SessionOptions::default()
    });
    owner.join(1, 1);
    owner.join(2, 2);
    owner.drop_member(2, 2, 1);
    assert_eq!(
        owner.session.poll_timeout(),
        Some(owner.now + Duration::from_secs(10))
    );
    assert_eq!(owner.wait(Duration::from_millis(9_999)), NOTHING);
    assert_eq!(
        owner.wait(Duration::from_millis(1)),
        ["1: #4 left 2 RejoinExpired", "players 1"]
    );
    assert_eq!(owner.session.poll_timeout(), None);
    assert_eq!(
        owner.ask(2, 2, Some(resume(2, 1, 3))),
        ["2: refused RejoinExpired"]
    );
}

#[test]
fn without_a_hold_a_lost_member_has_left() {
    let mut owner = Owner::new(SessionOptions {
        rejoin_hold: Duration::ZERO,
        ..SessionOptions::default()
    });
    owner.join(1, 1);
    owner.join(2, 2);
    owner.join(2, 3);
    assert_eq!(
        owner.input(Input::GatewayLost { gateway: node(2) }),
        [
            "1: #4 left 2 RejoinExpired",
            "players 2",
            "1: #5 left 3 RejoinExpired",
            "players 1"
        ]
    );
}

#[test]
fn an_empty_session_lives_for_empty_ttl_and_a_join_saves_it() {
    let mut owner = Owner::new(SessionOptions {
        empty_ttl: Duration::from_secs(30),
        ..SessionOptions::default()
    });
    owner.join(1, 1);
    assert_eq!(owner.session.poll_timeout(), None);
    owner.input(leave(1, 1, 1));
    owner.wait(Duration::from_secs(29));
    owner.join(1, 1);
    assert_eq!(owner.wait(Duration::from_secs(60)), NOTHING);
    owner.input(leave(1, 2, 1));
    assert_eq!(owner.wait(Duration::from_secs(30)), ["closed"]);
    assert_eq!(owner.session.poll_timeout(), None);
}

#[test]
fn an_empty_ttl_of_zero_lets_the_creator_in_and_ends_with_the_last_member() {
    let mut owner = Owner::new(SessionOptions {
        empty_ttl: Duration::ZERO,
        ..SessionOptions::default()
    });
    owner.join(1, 1);
    assert_eq!(owner.input(leave(1, 1, 1)), ["players 0"]);
    assert_eq!(owner.session.poll_timeout(), Some(owner.now));
    assert_eq!(owner.wait(Duration::ZERO), ["closed"]);
}

#[test]
fn a_close_ends_every_gateway_once_and_nothing_comes_after_it() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(1, 2);
    owner.join(2, 3);
    let error = Error::from(ErrorCode::RelayDraining);
    assert_eq!(
        owner.input(Input::Close { error }),
        [
            "1: ended 0.0 RelayDraining",
            "2: ended 0.0 RelayDraining",
            "closed"
        ]
    );
    assert_eq!(owner.ask(1, 4, None), NOTHING);
    assert_eq!(owner.send(1, 1, 1, Mode::Ordered, 1, Target::All), NOTHING);
    assert_eq!(owner.wait(Duration::from_secs(1_000)), NOTHING);
}

// --------------------------------------------------------------------------------------- messages

#[test]
fn an_entry_goes_once_to_each_gateway_whomever_it_is_for() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(1, 2);
    owner.join(2, 3);
    for (seq, target) in [
        Target::All,
        Target::Others,
        Target::Peer(PeerId(3)),
        Target::Peers(vec![PeerId(1), PeerId(2)]),
    ]
    .into_iter()
    .enumerate()
    {
        let seq = seq as u32 + 1;
        let index = 3 + seq;
        assert_eq!(
            owner.ordered(1, 1, seq, target),
            [
                format!("1: #{index} 1.1.{seq}"),
                format!("2: #{index} 1.1.{seq}")
            ]
        );
    }
}

#[test]
fn an_unordered_message_goes_once_to_each_gateway_with_a_recipient() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.join(2, 3);
    owner.join(3, 4);
    for mode in [Mode::Reliable, Mode::Latest, Mode::Datagram] {
        let name = mode.name();
        let mut send = |seq, target| owner.send(1, 1, 1, mode, seq, target);
        assert_eq!(
            send(1, Target::All),
            [1, 2, 3].map(|gateway| format!("{gateway}: {name} 1.1.1"))
        );
        assert_eq!(
            send(2, Target::Others),
            [2, 3].map(|gateway| format!("{gateway}: {name} 1.1.2"))
        );
        assert_eq!(
            send(3, Target::Peer(PeerId(1))),
            [format!("1: {name} 1.1.3")]
        );
        assert_eq!(
            send(4, Target::Peers(vec![PeerId(2), PeerId(3)])),
            [format!("2: {name} 1.1.4")]
        );
    }
    // A held seat is no reason to send.
    owner.drop_member(3, 4, 1);
    assert_eq!(
        owner.send(1, 1, 1, Mode::Latest, 9, Target::Peer(PeerId(4))),
        NOTHING
    );
}

#[test]
fn ordered_messages_are_taken_in_turn_without_duplicates_or_holes() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    assert_eq!(owner.ordered(1, 1, 0, Target::All), NOTHING);
    assert_eq!(owner.ordered(1, 1, 2, Target::All), NOTHING, "1 is missing");
    assert_eq!(owner.ordered(1, 1, 1, Target::All), ["1: #2 1.1.1"]);
    assert_eq!(owner.ordered(1, 1, 1, Target::All), NOTHING, "a duplicate");
    assert_eq!(owner.ordered(1, 1, 2, Target::All), ["1: #3 1.1.2"]);
    assert_eq!(owner.session.counters().duplicates, 2);
}

#[test]
fn an_absent_target_is_rejected_and_its_seq_is_used_up() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    for mode in Mode::ALL {
        let name = mode.name();
        let rejected = owner.send(1, 1, 1, mode, 1, Target::Peers(vec![PeerId(1), PeerId(8)]));
        if mode == Mode::Ordered {
            // At a place in the order, so that the next owner refuses it as well.
            let refused = "#3 refused 1.1.1 PeerNotFound 8";
            assert_eq!(rejected, [format!("1: {refused}"), format!("2: {refused}")]);
        } else {
            assert_eq!(rejected, [format!("1: rejected 1 {name} 1 PeerNotFound")]);
        }
        let next = owner.send(1, 1, 1, mode, 2, Target::All);
        assert!(next[0].ends_with("1.1.2"), "{next:?}");
    }
    assert_eq!(
        owner.ordered(1, 1, 3, Target::Peer(PeerId::SESSION))[0],
        "1: #5 refused 1.1.3 PeerNotFound 0"
    );
    assert_eq!(
        owner.ordered(1, 1, 3, Target::All),
        NOTHING,
        "it had its answer"
    );
    assert_eq!(owner.session.counters().rejected, 5);
}

#[test]
fn a_forward_of_another_epoch_is_refused() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    let mut forward = message(1, 1, Mode::Ordered, 1, Target::All);
    forward.epoch = Epoch(8);
    let gateway = node(1);
    assert_eq!(
        owner.input(Input::Forward { gateway, forward }),
        ["1: refused NotOwner"]
    );
    assert_eq!(owner.ordered(1, 1, 1, Target::All), ["1: #2 1.1.1"]);
}

#[test]
fn an_acknowledgement_rises_and_stays_within_the_order() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(1, 2);
    for (index, acked) in [(1, 1), (u64::MAX, 2), (0, 2)] {
        owner.input(ack(1, 1, index));
        assert_eq!(owner.acked(1), Index(acked));
    }
}

// ----------------------------------------------------------------------------------------- resume

#[test]
fn a_member_that_resumes_gets_exactly_what_it_missed() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.ordered(1, 1, 1, Target::All);
    owner.ordered(2, 2, 1, Target::All);
    owner.drop_member(2, 2, 1);
    owner.ordered(1, 1, 2, Target::Peer(PeerId(1)));
    // Through another gateway; it had everything up to entry 3.
    assert_eq!(
        owner.ask(3, 2, Some(resume(2, 1, 3))),
        [
            "3: joined 2.1 @3 resumed, seen 1/0",
            "3: #4 2.1.1 only 2",
            "3: #5 dropped 2 only 2",
            "3: #6 1.1.2 only 2",
            "1: #7 rejoined 2.1",
            "3: #7 rejoined 2.1"
        ]
    );
    assert_eq!(
        owner.send(3, 2, 1, Mode::Ordered, 2, Target::All),
        ["1: #8 2.1.2", "3: #8 2.1.2"]
    );
}

#[test]
fn a_present_member_resumes_over_another_gateway_and_the_old_connection_is_told() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    assert_eq!(
        owner.ask(3, 2, Some(resume(2, 1, 2))),
        [
            "2: ended 2.1 ReplacedByNewConnection",
            "3: joined 2.1 @2 resumed, seen 0/0"
        ]
    );
    assert_eq!(
        owner.drop_member(2, 2, 1),
        NOTHING,
        "it is not there any more"
    );
    // Over the same gateway: the gateway tells its connections apart by itself.
    assert_eq!(
        owner.ask(3, 2, Some(resume(2, 1, 1))),
        [
            "3: joined 2.1 @1 resumed, seen 0/0",
            "3: #2 joined 2.1 only 2"
        ]
    );
}

#[test]
fn of_a_members_connections_the_newest_has_the_seat() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    let over = |attempt, incarnation, last_index| {
        Some(Resume {
            attempt,
            ..resume(2, incarnation, last_index)
        })
    };
    let taken_up = ["3: joined 2.1 @2 resumed, seen 0/0"];
    let ended = ["2: ended 2.1 ReplacedByNewConnection", taken_up[0]];
    assert_eq!(owner.ask(3, 2, over(2, 1, 2)), ended);
    // Of an older connection: the seat stays where it is.
    for attempt in [0, 1] {
        assert_eq!(
            owner.ask(2, 2, over(attempt, 1, 2)),
            ["2: refused ReplacedByNewConnection"]
        );
    }
    assert_eq!(owner.send(2, 2, 1, Mode::Ordered, 1, Target::All), NOTHING);
    assert_eq!(owner.ask(3, 2, over(2, 1, 2)), taken_up, "asked again");
    // A refused one counts for nothing, and a held seat knows its newest connection too.
    assert_eq!(
        owner.ask(2, 2, over(9, 1, 99)),
        ["2: refused InvalidArgument"]
    );
    owner.drop_member(3, 2, 1);
    assert_eq!(
        owner.ask(2, 2, over(1, 1, 2)),
        ["2: refused ReplacedByNewConnection"]
    );
    assert_eq!(
        owner.ask(3, 2, over(2, 1, 2)).first().map(String::as_str),
        Some(taken_up[0])
    );
    // A new life counts from 0.
    let anew = owner.join(1, 2);
    assert_eq!(
        owner
            .ask(3, 2, over(0, 2, anew.index.0))
            .first()
            .map(String::as_str),
        Some("1: ended 2.2 ReplacedByNewConnection")
    );
}

#[test]
fn only_its_own_user_in_its_own_life_can_resume_a_seat() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.drop_member(2, 2, 1);
    for (who, peer, incarnation) in [(1, 2, 1), (3, 2, 1), (2, 2, 2), (2, 1, 1), (2, 9, 1)] {
        let answer = owner.ask(2, who, Some(resume(peer, incarnation, 2)));
        assert_eq!(answer, ["2: refused RejoinExpired"]);
    }
}

#[test]
fn a_resume_starts_between_the_members_join_and_the_newest_entry() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.ordered(1, 1, 1, Target::All);
    owner.join(2, 2);
    for beyond in [0, 1, 4, u64::MAX] {
        let answer = owner.ask(2, 2, Some(resume(2, 1, beyond)));
        assert_eq!(answer, ["2: refused InvalidArgument"], "{beyond}");
    }
    assert_eq!(
        owner.ask(2, 2, Some(resume(2, 1, 2))),
        [
            "2: joined 2.1 @2 resumed, seen 0/0",
            "2: #3 joined 2.1 only 2"
        ]
    );
}

#[test]
fn who_comes_back_after_the_retention_goes_on_from_the_newest_entry_with_the_roster() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.drop_member(2, 2, 1);
    let entries = limits::RETAINED_ENTRIES_MAX as u32;
    for seq in 1..=entries {
        owner.ordered(1, 1, seq, Target::All);
    }
    // 3 (its own drop) and later are older than the retention, which starts at 4.
    let newest = u64::from(entries) + 3;
    assert_eq!(
        owner.ask(2, 2, Some(resume(2, 1, 2)))[..],
        [
            format!("2: joined 2.1 @{newest} [1.1, 2.1] anew, seen 0/0"),
            format!("1: #{} rejoined 2.1", newest + 1),
            format!("2: #{} rejoined 2.1", newest + 1),
        ]
    );
    owner.drop_member(2, 2, 1);
    let oldest = owner.session.index().0 - u64::from(entries);
    let answer = owner.ask(2, 2, Some(resume(2, 1, oldest)));
    assert_eq!(
        answer[0],
        format!("2: joined 2.1 @{oldest} resumed, seen 0/0")
    );
    assert!(
        answer[1].contains(&format!("#{} ", oldest + 1)),
        "{answer:?}"
    );
    assert_eq!(answer.len(), 2 + limits::REPLAY_ENTRIES);
}

#[test]
fn a_member_is_caught_up_in_portions_that_it_acknowledges_and_then_hears_entries_as_they_are_made()
{
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.drop_member(2, 2, 1);
    let (mut seq, mut at) = (0, 2);
    let mut made = |owner: &mut Owner, count| {
        for _ in 0..count {
            seq += 1;
            let elsewhere = owner.ordered(1, 1, seq, Target::All);
            assert_eq!(elsewhere.len(), 1, "{elsewhere:?}");
        }
    };
    made(&mut owner, 5_000);
    let mut portion = owner.ask(2, 2, Some(resume(2, 1, at)));
    portion.retain(|output| output.starts_with("2: #"));
    let mut portions = 0;
    while owner.session.is_catching_up() {
        assert!(portion.len() <= limits::REPLAY_ENTRIES);
        for output in &portion {
            at += 1;
            assert!(
                output.starts_with(&format!("2: #{at} ")),
                "{output} is not {at}"
            );
        }
        portions += 1;
        let first = at - portion.len() as u64 + 1;
        made(&mut owner, 100);
        assert_eq!(owner.input(ack(2, 2, first)), [""; 0], "too soon for more");
        portion = owner.input(ack(2, 2, at));
    }
    for output in &portion {
        at += 1;
        assert!(
            output.starts_with(&format!("2: #{at} ")),
            "{output} is not {at}"
        );
    }
    assert!(portions >= 4, "{portions}");
    assert_eq!(at, owner.session.index().0);
    let live = owner.ordered(1, 1, 5_000 + 100 * portions + 1, Target::All);
    assert_eq!(live.len(), 2, "{live:?}");
}

#[test]
fn who_cannot_keep_up_with_the_retention_while_it_is_caught_up_is_sent_to_ask_anew() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.drop_member(2, 2, 1);
    let entries = limits::RETAINED_ENTRIES_MAX as u32;
    for seq in 1..=entries / 2 {
        owner.ordered(1, 1, seq, Target::All);
    }
    owner.ask(2, 2, Some(resume(2, 1, 2)));
    for seq in entries / 2 + 1..=3 * entries {
        owner.ordered(1, 1, seq, Target::All);
    }
    let sent = 2 + limits::REPLAY_ENTRIES as u64;
    let answer = owner.input(ack(2, 2, sent));
    assert_eq!(answer.len(), 1);
    assert!(answer[0].contains("NotOwner"), "{answer:?}");
    assert!(!owner.session.is_catching_up());
    let anew = owner.ask(2, 2, Some(resume(2, 1, sent)));
    assert!(anew[0].contains("anew"), "{anew:?}");
}

#[test]
fn retention_is_bounded_in_bytes() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    let payload = Bytes::from(vec![0; limits::PAYLOAD_BYTES_MAX]);
    let entries = (limits::RETAINED_BYTES_MAX / limits::PAYLOAD_BYTES_MAX) as u32;
    for seq in 1..=entries + 1 {
        let mut forward = message(1, 1, Mode::Ordered, seq, Target::All);
        forward.message.payload = payload.clone();
        let gateway = node(1);
        owner.input(Input::Forward { gateway, forward });
    }
    // Entry 2 holds seq 1, which had to make room.
    let answer = owner.ask(1, 1, Some(resume(1, 1, 1)));
    assert!(answer[0].contains("anew"), "{answer:?}");
    let answer = owner.ask(1, 1, Some(resume(1, 1, 2)));
    assert!(!answer[0].contains("anew"), "{answer:?}");
    let portion = limits::REPLAY_BYTES / limits::PAYLOAD_BYTES_MAX;
    assert_eq!(
        answer.len(),
        1 + portion,
        "a portion is bounded in bytes too"
    );
}

#[test]
fn rejections_are_told_again_to_who_may_have_lost_them() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.ordered(1, 1, 1, Target::Peer(PeerId(8)));
    owner.ordered(1, 1, 2, Target::All);
    owner.ordered(1, 1, 3, Target::Peer(PeerId(8)));
    assert_eq!(
        owner.ask(2, 1, Some(resume(1, 1, 1))),
        [
            "1: ended 1.1 ReplacedByNewConnection",
            "2: joined 1.1 @1 resumed, seen 3/0",
            "2: #2 refused 1.1.1 PeerNotFound 8 only 1",
            "2: #3 1.1.2 only 1",
            "2: #4 refused 1.1.3 PeerNotFound 8 only 1"
        ]
    );
}

// ------------------------------------------------------------------------------------ reliable gaps

#[test]
fn reliable_messages_lost_on_the_way_to_the_owner_are_counted_to_everyone_else() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.join(2, 3);
    owner.send(1, 1, 1, Mode::Reliable, 1, Target::All);
    assert_eq!(
        owner.send(1, 1, 1, Mode::Reliable, 4, Target::Peer(PeerId(3))),
        ["2: gap for 0 from 1: 2", "2: reliable 1.1.4"]
    );
    assert_eq!(
        owner.send(1, 1, 1, Mode::Reliable, 3, Target::All),
        NOTHING,
        "it was counted as missing"
    );
    // One who counted all that it was told misses nothing; one who was told of nothing, all.
    let mut all = resume(2, 1, 3);
    all.reliable = vec![(PeerId(1), 3)];
    assert_eq!(
        owner.ask(2, 2, Some(all)),
        ["2: joined 2.1 @3 resumed, seen 0/0"]
    );
    assert_eq!(
        owner.ask(2, 3, Some(resume(3, 1, 3)))[1],
        "2: gap for 3 from 1: 4"
    );
}

#[test]
fn reliable_messages_that_a_member_missed_are_counted_when_it_resumes_until_it_says_so() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    for seq in 1..=3 {
        owner.send(1, 1, 1, Mode::Reliable, seq, Target::All);
    }
    owner.send(1, 1, 1, Mode::Reliable, 4, Target::Peer(PeerId(1)));
    owner.drop_member(2, 2, 1);
    owner.send(1, 1, 1, Mode::Reliable, 5, Target::Others);
    owner.send(1, 1, 1, Mode::Reliable, 7, Target::Others);
    let mut back = resume(2, 1, 3);
    back.reliable = vec![(PeerId(1), 2)];
    // 3, 5, 6 (which never came) and 7.
    assert_eq!(
        owner.ask(2, 2, Some(back.clone()))[1],
        "2: gap for 2 from 1: 4"
    );
    // The announcement is lost, and with it what comes next.
    owner.send(1, 1, 1, Mode::Reliable, 8, Target::Others);
    assert_eq!(
        owner.ask(2, 2, Some(back.clone()))[1],
        "2: gap for 2 from 1: 5"
    );
    back.reliable = vec![(PeerId(1), 7)];
    let answer = owner.ask(2, 2, Some(back));
    assert!(!answer[1].contains("gap"), "{answer:?}");
}

#[test]
fn a_sender_that_left_is_counted_until_its_leaving_is_seen() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.drop_member(2, 2, 1);
    owner.send(1, 1, 1, Mode::Reliable, 1, Target::All);
    owner.input(leave(1, 1, 1));
    assert_eq!(
        owner.ask(2, 2, Some(resume(2, 1, 3)))[1],
        "2: gap for 2 from 1: 1"
    );
    let after = owner.ask(2, 2, Some(resume(2, 1, 4)));
    assert!(!after[1].contains("gap"), "{after:?}");
}

#[test]
fn a_wild_reliable_seq_is_survived() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.join(1, 1);
    owner.join(2, 2);
    owner.send(1, 1, 1, Mode::Reliable, u32::MAX, Target::All);
    owner.ask(1, 1, None);
    owner.send(1, 1, 2, Mode::Reliable, u32::MAX, Target::All);
    assert_eq!(
        owner.ask(2, 2, Some(resume(2, 1, 2)))[1],
        format!("2: gap for 2 from 1: {}", u32::MAX)
    );
}

// ------------------------------------------------------------------------------------ random inputs

const USERS: u8 = 5;
const GATEWAYS: u8 = 3;

/// A step of a random history; users and gateways by number from 1.
#[derive(Clone, Debug)]
enum Step {
    Join(u8, u8),
    Resume(u8, u8),
    Leave(u8),
    Drop(u8),
    GatewayLost(u8),
    /// `skip`: how far the seq is from the one that is due, less 1: 0 repeats, 2 makes a hole.
    Send {
        who: u8,
        mode: Mode,
        skip: u32,
        target: u8,
    },
    Ack(u8, u64),
    /// A frame of that member, from a gateway where it may not be, in a life that may be over.
    Stray {
        gateway: u8,
        peer: u16,
        incarnation: u16,
    },
    Wait(u64),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let (who, gateway) = (1..=USERS, 1..=GATEWAYS);
    prop_oneof![
        3 => (who.clone(), gateway.clone()).prop_map(|(w, g)| Step::Join(w, g)),
        4 => (who.clone(), gateway.clone()).prop_map(|(w, g)| Step::Resume(w, g)),
        1 => who.clone().prop_map(Step::Leave),
        3 => who.clone().prop_map(Step::Drop),
        1 => gateway.clone().prop_map(Step::GatewayLost),
        20 => (who.clone(), 0..4_usize, 0..8_u32, 0..8_u8).prop_map(|(who, mode, skip, target)| {
            Step::Send { who, mode: Mode::ALL[mode], skip: if skip > 2 { 1 } else { skip }, target }
        }),
        2 => (who, 0..200_u64).prop_map(|(w, i)| Step::Ack(w, i)),
        2 => (gateway, 0..8_u16, 0..4_u16).prop_map(|(gateway, peer, incarnation)| {
            Step::Stray { gateway, peer, incarnation }
        }),
        2 => (0..1_500_u64).prop_map(Step::Wait),
        1 => proptest::bool::weighted(0.02).prop_map(|c| if c { Step::Close } else { Step::Wait(0) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Order, exactly-once, contiguity across resumes, sender order and exact Reliable counts.
    #[test]
    fn whatever_comes_each_member_sees_the_one_order(steps in proptest::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
    }
}

/// Users and their gateways as one: each user counts what it receives.
struct World {
    owner: Owner,
    closed: bool,
    users: BTreeMap<u8, Player>,
    /// What stands at each index.
    order: BTreeMap<Index, (Mid, Bytes)>,
    /// Per life of a member, the seqs that were committed or rejected, in this order.
    resolved: BTreeMap<(PeerId, Incarnation), u32>,
}

/// What a user knows of its seat.
struct Player {
    gateway: Option<u8>,
    peer: PeerId,
    incarnation: Incarnation,
    attempt: u32,
    last: Index,
    mids: BTreeSet<Mid>,
    sent: [u32; 4],
    /// Received, or told to be missing.
    reliable: BTreeMap<PeerId, u32>,
    /// What it should have received, or been told to be missing, if it was always there.
    due: BTreeMap<PeerId, u32>,
}

impl World {
    fn new() -> Self {
        let owner = Owner::new(SessionOptions {
            max_players: 4,
            rejoin_hold: Duration::from_secs(5),
            empty_ttl: Duration::from_secs(3),
            ..SessionOptions::default()
        });
        Self {
            owner,
            closed: false,
            users: BTreeMap::new(),
            order: BTreeMap::new(),
            resolved: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Join(who, gateway) => {
                let outputs = self.owner.raw(join(gateway, who, None));
                self.see(outputs, Some(who));
            }
            Step::Resume(who, gateway) => {
                let Some(player) = self.users.get_mut(&who) else {
                    return;
                };
                player.attempt += 1;
                let resume = Resume {
                    peer: player.peer,
                    incarnation: player.incarnation,
                    last_index: player.last,
                    reliable: player.reliable.clone().into_iter().collect(),
                    attempt: player.attempt,
                    last_epoch: EPOCH,
                    reliable_sent: Seq(player.sent[Mode::Reliable as usize]),
                };
                let outputs = self.owner.raw(join(gateway, who, Some(resume)));
                self.see(outputs, Some(who));
            }
            Step::Leave(who) => {
                if let Some(player) = self.users.remove(&who)
                    && let Some(gateway) = player.gateway
                {
                    let outputs =
                        self.owner
                            .raw(leave(gateway, player.peer.0, player.incarnation.0));
                    self.see(outputs, None);
                }
            }
            Step::Drop(who) => {
                if let Some(player) = self.users.get_mut(&who)
                    && let Some(gateway) = player.gateway.take()
                {
                    let (gateway, member) =
                        (node(gateway), key(player.peer.0, player.incarnation.0));
                    let outputs = self.owner.raw(Input::Dropped { gateway, member });
                    self.see(outputs, None);
                }
            }
            Step::GatewayLost(gateway) => {
                for player in self.users.values_mut() {
                    player.gateway = player.gateway.filter(|at| *at != gateway);
                }
                let gateway = node(gateway);
                let outputs = self.owner.raw(Input::GatewayLost { gateway });
                self.see(outputs, None);
            }
            Step::Send {
                who,
                mode,
                skip,
                target,
            } => self.send(who, mode, skip, target),
            Step::Ack(who, index) => {
                if let Some(player) = self.users.get(&who)
                    && let Some(gateway) = player.gateway
                {
                    let index = index.min(player.last.0);
                    let outputs = self.owner.raw(ack(gateway, player.peer.0, index));
                    self.see(outputs, None);
                }
            }
            Step::Stray {
                gateway,
                peer,
                incarnation,
            } => {
                let is_real = self.users.values().any(|player| {
                    (player.gateway, player.peer.0, player.incarnation.0)
                        == (Some(gateway), peer, incarnation)
                });
                if !is_real {
                    let forward = message(peer, incarnation, Mode::Ordered, 1, Target::All);
                    let gateway = node(gateway);
                    let outputs = self.owner.raw(Input::Forward { gateway, forward });
                    assert_eq!(outputs, []);
                }
            }
            Step::Wait(millis) => {
                self.owner.now += Duration::from_millis(millis);
                self.owner.session.handle_timeout(self.owner.now);
                let outputs = self.owner.drain();
                self.see(outputs, None);
            }
            Step::Close => {
                let error = ErrorCode::SessionClosed.into();
                let outputs = self.owner.raw(Input::Close { error });
                self.see(outputs, None);
            }
        }
        for player in self.users.values() {
            if player.gateway.is_some() {
                assert_eq!(player.reliable, player.due, "peer {}", player.peer);
                assert_eq!(player.last, self.owner.session.index());
            }
        }
    }

    fn send(&mut self, who: u8, mode: Mode, skip: u32, target: u8) {
        let Some(player) = self.users.get_mut(&who) else {
            return;
        };
        let Some(gateway) = player.gateway else {
            return;
        };
        let seq = player.sent[mode as usize] + skip;
        let is_taken = match mode {
            Mode::Ordered => skip == 1,
            Mode::Reliable => skip >= 1,
            Mode::Latest | Mode::Datagram => true,
        };
        let sender = player.peer;
        let target = match target {
            0 => Target::Others,
            1..=5 => Target::Peer(PeerId(target.into())),
            6.. => Target::All,
        };
        let seats: BTreeSet<PeerId> = self.owner.session.seats().map(|seat| seat.peer).collect();
        let is_rejected = target.named().iter().any(|peer| !seats.contains(peer));
        let missed = seq.saturating_sub(player.sent[mode as usize] + 1);
        let life = (sender, player.incarnation);
        let forward = message(sender.0, life.1.0, mode, seq, target.clone());
        if is_taken {
            player.sent[mode as usize] = seq;
        }
        if is_taken && mode == Mode::Reliable {
            for player in self.users.values_mut() {
                let told = if player.peer == sender { 0 } else { missed };
                let got = target.includes(player.peer, sender) && !is_rejected;
                let due = told + u32::from(got);
                if due > 0 {
                    *player.due.entry(sender).or_default() += due;
                }
            }
        }
        let before = self.owner.session.index();
        let gateway = node(gateway);
        let outputs = self.owner.raw(Input::Forward { gateway, forward });
        let is_refused = is_taken && is_rejected;
        let rejections = outputs.iter().filter(|o| show(o).contains("rejected"));
        assert_eq!(
            rejections.count(),
            usize::from(is_refused && mode != Mode::Ordered)
        );
        let refusals = outputs.iter().filter(|o| show(o).contains(" refused "));
        assert_eq!(refusals.count() > 0, is_refused && mode == Mode::Ordered);
        if mode == Mode::Ordered && is_taken {
            let due = self.resolved.entry(life).or_default();
            *due += 1;
            assert_eq!(*due, seq, "each seq is resolved once, in turn");
        }
        let has_a_place = mode == Mode::Ordered && is_taken;
        let after = self.owner.session.index();
        assert_eq!(after.0 - before.0, u64::from(has_a_place));
        self.see(outputs, None);
    }

    /// `asking`: who awaits the answer to a join.
    fn see(&mut self, outputs: Vec<Output>, asking: Option<u8>) {
        for output in outputs {
            assert!(!self.closed, "after Closed: {}", show(&output));
            match output {
                Output::Listing { players } => assert!(players <= 4),
                Output::Closed => self.closed = true,
                Output::ToStandby { .. } | Output::Copied { .. } | Output::Deposed => {
                    panic!("nobody copies this session: {output:?}")
                }
                Output::ToGateway { gateway, frame } => {
                    let gateway = gateway.as_str()["relay-".len()..].parse();
                    let gateway: u8 = gateway.unwrap_or_else(|e| panic!("{e}"));
                    self.hear(gateway, frame, asking);
                }
            }
        }
    }

    fn hear(&mut self, gateway: u8, frame: LinkFrame, asking: Option<u8>) {
        match frame {
            LinkFrame::Control(LinkMessage::Joined { joined, .. }) => {
                let who = asking.unwrap_or_else(|| panic!("unasked"));
                self.joined(who, gateway, joined);
            }
            LinkFrame::Control(LinkMessage::Refused { failure, .. }) => {
                let who = asking.unwrap_or_else(|| panic!("unasked"));
                if failure.error.code() == ErrorCode::RejoinExpired {
                    self.users.remove(&who);
                } else {
                    assert_eq!(failure.error.code(), ErrorCode::SessionFull);
                }
            }
            LinkFrame::Control(LinkMessage::Ended { member, .. }) => {
                for player in self.users.values_mut() {
                    let is_meant = member.peer == PeerId::SESSION
                        || (player.peer, player.incarnation) == (member.peer, member.incarnation);
                    if is_meant && player.gateway == Some(gateway) {
                        player.gateway = None;
                    }
                }
            }
            LinkFrame::Control(LinkMessage::ReliableGap {
                peer,
                sender,
                missed,
                ..
            }) => {
                for player in self.users.values_mut() {
                    let is_meant =
                        peer == player.peer || (peer == PeerId::SESSION && player.peer != sender);
                    if is_meant && player.gateway == Some(gateway) {
                        *player.reliable.entry(sender).or_default() += missed;
                    }
                }
            }
            LinkFrame::Fanout(fanout) => self.fanout(gateway, &fanout),
            LinkFrame::Control(
                LinkMessage::SendRejected { .. }
                | LinkMessage::Hello { .. }
                | LinkMessage::Create { .. }
                | LinkMessage::Join { .. }
                | LinkMessage::Leave(_)
                | LinkMessage::Dropped(_)
                | LinkMessage::Sync { .. }
                | LinkMessage::Seal { .. }
                | LinkMessage::Sealed { .. }
                | LinkMessage::Release { .. }
                | LinkMessage::View { .. }
                | LinkMessage::TakeOver { .. },
            )
            | LinkFrame::Forward(_)
            | LinkFrame::Ack(_)
            | LinkFrame::Store(_)
            | LinkFrame::Stored(_) => {}
        }
    }

    fn joined(&mut self, who: u8, gateway: u8, joined: Joined) {
        if joined.resumed {
            let player = self
                .users
                .get_mut(&who)
                .unwrap_or_else(|| panic!("resumed"));
            assert_eq!(
                (joined.peer, joined.incarnation),
                (player.peer, player.incarnation)
            );
            assert_eq!(joined.index, player.last);
            assert_eq!(
                joined.ordered_seen,
                Seq(player.sent[Mode::Ordered as usize])
            );
            assert_eq!(
                joined.reliable_seen,
                Seq(player.sent[Mode::Reliable as usize])
            );
            player.gateway = Some(gateway);
            return;
        }
        let old = self
            .users
            .remove(&who)
            .filter(|old| old.peer == joined.peer);
        let player = Player {
            gateway: Some(gateway),
            peer: joined.peer,
            incarnation: joined.incarnation,
            attempt: old
                .as_ref()
                .filter(|old| old.incarnation == joined.incarnation)
                .map_or(0, |old| old.attempt),
            last: joined.index,
            mids: old.map(|old| old.mids).unwrap_or_default(),
            sent: [0; 4],
            reliable: BTreeMap::new(),
            due: BTreeMap::new(),
        };
        self.users.insert(who, player);
    }

    fn fanout(&mut self, gateway: u8, fanout: &Fanout) {
        let (mode, sender) = (fanout.message.mode, fanout.sender);
        let there = self.users.values_mut().filter(|player| {
            let is_meant = fanout.only == PeerId::SESSION || fanout.only == player.peer;
            player.gateway == Some(gateway) && is_meant
        });
        for player in there {
            if mode == Mode::Reliable && fanout.message.target.includes(player.peer, sender) {
                *player.reliable.entry(sender).or_default() += 1;
            }
            if mode != Mode::Ordered || fanout.place.index <= player.last {
                continue;
            }
            assert_eq!(
                fanout.place.index,
                player.last.next(),
                "peer {}",
                player.peer
            );
            assert_eq!(fanout.place.epoch, EPOCH);
            player.last = fanout.place.index;
            let what = (fanout.mid(), fanout.message.payload.clone());
            let placed = self.order.entry(fanout.place.index);
            assert_eq!(*placed.or_insert_with(|| what.clone()), what);
            if sender != PeerId::SESSION {
                assert!(player.mids.insert(fanout.mid()), "twice: {}", fanout.mid());
            } else if let Ok(SessionEvent::Left { peer, .. }) = SessionEvent::decode(what.1) {
                player.reliable.remove(&peer);
                player.due.remove(&peer);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------- helpers

const NOTHING: [&str; 0] = [];

struct Owner {
    session: Session,
    now: Instant,
}

impl Owner {
    fn new(options: SessionOptions) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test passes the time in; any start will do"
        )]
        let now = Instant::now();
        let config = SessionConfig {
            id: ID,
            home_region: "eu".to_owned(),
            options,
            epoch: EPOCH,
            nonce: 1,
            code: None,
            owner: node(9),
            owner_boot: BootId(1),
        };
        let session = Session::new(config, now);
        Self { session, now }
    }

    fn raw(&mut self, input: Input) -> Vec<Output> {
        self.session.handle(input, self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.session.poll_output()).collect()
    }

    fn input(&mut self, input: Input) -> Vec<String> {
        self.raw(input).iter().map(show).collect()
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.session.handle_timeout(self.now);
        self.drain().iter().map(show).collect()
    }

    fn ask(&mut self, gateway: u8, who: u8, resume: Option<Resume>) -> Vec<String> {
        self.input(join(gateway, who, resume))
    }

    fn join(&mut self, gateway: u8, who: u8) -> Joined {
        let outputs = self.raw(join(gateway, who, None));
        let joined = outputs.into_iter().find_map(|output| match output {
            Output::ToGateway {
                frame: LinkFrame::Control(LinkMessage::Joined { joined, .. }),
                ..
            } => Some(joined),
            Output::ToGateway { .. }
            | Output::ToStandby { .. }
            | Output::Copied { .. }
            | Output::Listing { .. }
            | Output::Closed
            | Output::Deposed => None,
        });
        joined.unwrap_or_else(|| panic!("user {who} did not get in"))
    }

    fn send(
        &mut self,
        gateway: u8,
        peer: u16,
        incarnation: u16,
        mode: Mode,
        seq: u32,
        target: Target,
    ) -> Vec<String> {
        let forward = message(peer, incarnation, mode, seq, target);
        let gateway = node(gateway);
        self.input(Input::Forward { gateway, forward })
    }

    /// Of a member in its first life.
    fn ordered(&mut self, gateway: u8, peer: u16, seq: u32, target: Target) -> Vec<String> {
        self.send(gateway, peer, 1, Mode::Ordered, seq, target)
    }

    fn drop_member(&mut self, gateway: u8, peer: u16, incarnation: u16) -> Vec<String> {
        let (gateway, member) = (node(gateway), key(peer, incarnation));
        self.input(Input::Dropped { gateway, member })
    }

    fn acked(&self, peer: u16) -> Index {
        let seat = self.session.seats().find(|seat| seat.peer == PeerId(peer));
        seat.unwrap_or_else(|| panic!("peer {peer} has no seat"))
            .acked
    }
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

fn join(gateway: u8, who: u8, resume: Option<Resume>) -> Input {
    Input::Join {
        gateway: node(gateway),
        request: 5,
        user: user(who),
        app_version: String::new(),
        resume,
    }
}

fn leave(gateway: u8, peer: u16, incarnation: u16) -> Input {
    let (gateway, member) = (node(gateway), key(peer, incarnation));
    Input::Leave { gateway, member }
}

fn ack(gateway: u8, peer: u16, index: u64) -> Input {
    let ack = LinkAck {
        session: ID,
        peer: PeerId(peer),
        index: Index(index),
    };
    let gateway = node(gateway);
    Input::Ack { gateway, ack }
}

fn resume(peer: u16, incarnation: u16, last_index: u64) -> Resume {
    Resume {
        peer: PeerId(peer),
        incarnation: Incarnation(incarnation),
        last_index: Index(last_index),
        reliable: Vec::new(),
        attempt: 0,
        last_epoch: EPOCH,
        reliable_sent: Seq(0),
    }
}

fn message(peer: u16, incarnation: u16, mode: Mode, seq: u32, target: Target) -> Forward {
    let message = Message {
        mode,
        channel: 3,
        seq: Seq(seq),
        target,
        key: 0,
        payload: Bytes::from(format!("{peer}.{incarnation}.{seq}")),
    };
    Forward {
        session: ID,
        epoch: EPOCH,
        sender: PeerId(peer),
        incarnation: Incarnation(incarnation),
        message,
    }
}

/// An output in a line: `gateway: what`, an entry as `#index`, a member as `peer.incarnation`
/// (with a dash when absent), a message as `peer.incarnation.seq`.
fn show(output: &Output) -> String {
    match output {
        Output::ToGateway { gateway, frame } => {
            format!(
                "{}: {}",
                &gateway.as_str()["relay-".len()..],
                show_frame(frame)
            )
        }
        Output::Listing { players } => format!("players {players}"),
        Output::Closed => "closed".to_owned(),
        Output::ToStandby { .. } | Output::Copied { .. } | Output::Deposed => {
            panic!("nobody copies this session: {output:?}")
        }
    }
}

fn show_frame(frame: &LinkFrame) -> String {
    match frame {
        LinkFrame::Control(LinkMessage::Joined {
            request,
            joined,
            standby,
        }) => {
            assert_eq!(*standby, None);
            assert_eq!((*request, joined.session, joined.epoch), (5, ID, EPOCH));
            let seats = joined.roster.iter().map(|member| {
                let mark = if member.connected { "" } else { "-" };
                format!("{}.{}{mark}", member.peer, member.incarnation)
            });
            let roster = format!("[{}]", seats.collect::<Vec<_>>().join(", "));
            let seen = format!("seen {}/{}", joined.ordered_seen, joined.reliable_seen);
            let start = format!(
                "joined {}.{} @{}",
                joined.peer, joined.incarnation, joined.index
            );
            match (
                joined.resumed,
                joined
                    .roster
                    .iter()
                    .any(|m| m.peer == joined.peer && m.incarnation == joined.incarnation),
            ) {
                (true, _) => format!("{start} resumed, {seen}"),
                (false, true) => format!("{start} {roster} anew, {seen}"),
                (false, false) => format!("{start} {roster}"),
            }
        }
        LinkFrame::Control(LinkMessage::Refused { failure, owner, .. }) => {
            assert_eq!(*owner, None);
            format!("refused {:?}", failure.error.code())
        }
        LinkFrame::Control(LinkMessage::Ended {
            member,
            error,
            can_rejoin,
        }) => {
            assert!(!can_rejoin);
            format!(
                "ended {}.{} {:?}",
                member.peer,
                member.incarnation,
                error.code()
            )
        }
        LinkFrame::Control(LinkMessage::SendRejected {
            peer,
            mode,
            seq,
            error,
            ..
        }) => {
            format!("rejected {peer} {} {seq} {:?}", mode.name(), error.code())
        }
        LinkFrame::Control(LinkMessage::ReliableGap {
            peer,
            sender,
            missed,
            ..
        }) => {
            format!("gap for {peer} from {sender}: {missed}")
        }
        LinkFrame::Fanout(fanout) => show_fanout(fanout),
        LinkFrame::Control(
            LinkMessage::Hello { .. }
            | LinkMessage::Create { .. }
            | LinkMessage::Join { .. }
            | LinkMessage::Leave(_)
            | LinkMessage::Dropped(_)
            | LinkMessage::Sync { .. }
            | LinkMessage::Seal { .. }
            | LinkMessage::Sealed { .. }
            | LinkMessage::Release { .. }
            | LinkMessage::View { .. }
            | LinkMessage::TakeOver { .. },
        )
        | LinkFrame::Forward(_)
        | LinkFrame::Ack(_)
        | LinkFrame::Store(_)
        | LinkFrame::Stored(_) => panic!("not an owner's: {frame:?}"),
    }
}

fn show_fanout(fanout: &Fanout) -> String {
    let Message { mode, payload, .. } = &fanout.message;
    let what = if fanout.sender == PeerId::SESSION {
        match SessionEvent::decode(payload.clone()).unwrap_or_else(|e| panic!("{e}")) {
            SessionEvent::Joined(member) => {
                format!("joined {}.{}", member.peer, member.incarnation)
            }
            SessionEvent::Dropped { peer } => format!("dropped {peer}"),
            SessionEvent::Rejoined { peer, incarnation } => {
                format!("rejoined {peer}.{incarnation}")
            }
            SessionEvent::Left { peer, code } => format!("left {peer} {code:?}"),
            SessionEvent::Refused {
                peer,
                incarnation,
                seq,
                code,
                absent,
            } => {
                assert_eq!(fanout.message.target, Target::Peer(peer));
                format!("refused {peer}.{incarnation}.{seq} {code:?} {absent}")
            }
        }
    } else {
        fanout.mid().to_string()
    };
    let only = match fanout.only {
        PeerId::SESSION => String::new(),
        peer => format!(" only {peer}"),
    };
    if *mode == Mode::Ordered {
        assert_eq!(fanout.place.epoch, EPOCH);
        format!("#{} {what}{only}", fanout.place.index)
    } else {
        assert_eq!(fanout.place.index, Index(0));
        format!("{} {what}{only}", mode.name())
    }
}

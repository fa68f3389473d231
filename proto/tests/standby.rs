//! What an owner's crash leaves: the owner, its standby and whoever goes on, an input at a time; then
//! three nodes, in memory, whose links break and whose owner dies at random.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dreamcatcher_proto::control::{
    Joined, LinkMessage, MemberKey, Resume, SessionEvent, SessionOptions, User,
};
use dreamcatcher_proto::frame::{
    Fanout, Forward, LinkFrame, Message, Mode, Place, SESSION_CHANNEL, Store, Target,
};
use dreamcatcher_proto::session::{Input, Output, Session, SessionConfig};
use dreamcatcher_proto::standby::{Reign, Standby};
use dreamcatcher_proto::state::{SeatState, SessionState};
use dreamcatcher_proto::{
    BootId, Epoch, ErrorCode, Incarnation, Index, Mid, NodeId, PeerId, Seq, SessionId, UserId,
    limits,
};
use proptest::prelude::*;

const ID: SessionId = SessionId([7; 16]);
const EPOCH: Epoch = Epoch(9);

// ---------------------------------------------------------------------------- what leaves, and when

#[test]
fn nothing_ordered_leaves_before_the_standby_has_it() {
    let mut owner = Owner::with_standby();
    assert_eq!(owner.send(Mode::Ordered, 1), ["8< store 2"]);
    assert_eq!(owner.send(Mode::Ordered, 2), ["8< store 3"]);
    assert_eq!(owner.session.waiting(), Some(Index(2)));
    assert_eq!(owner.stored(8, 2), ["1: #2 1.1.1"]);
    assert_eq!(owner.stored(8, 3), ["1: #3 1.1.2"]);
    assert_eq!(owner.session.waiting(), None);
}

#[test]
fn whoever_gets_in_hears_so_once_the_standby_knows_it_too() {
    let mut owner = Owner::with_standby();
    assert_eq!(owner.input(join(1, 2, None)), ["8< store 2", "players 2"]);
    assert_eq!(
        owner.stored(8, 2),
        ["1: joined 2.1 @1 standby 8", "1: #2 joined 2.1"]
    );
    // Anew: the life before is over only then.
    assert_eq!(owner.input(join(1, 2, None)), ["8< store 3"]);
    assert_eq!(
        owner.stored(8, 3),
        [
            "1: ended 2.1",
            "1: joined 2.2 @2 standby 8",
            "1: #3 rejoined 2.2"
        ]
    );
}

#[test]
fn what_follows_from_an_entry_waits_behind_it_and_latest_and_datagram_do_not() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    assert_eq!(owner.send(Mode::Reliable, 1), NOTHING);
    assert_eq!(owner.send(Mode::Latest, 1), ["1: latest 1.1.1"]);
    assert_eq!(owner.send(Mode::Datagram, 1), ["1: datagram 1.1.1"]);
    assert_eq!(owner.stored(8, 2), ["1: #2 1.1.1", "1: reliable 1.1.1"]);
    assert_eq!(owner.send(Mode::Reliable, 2), ["1: reliable 1.1.2"]);
}

#[test]
fn only_the_standbys_word_of_this_epoch_counts() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    assert_eq!(owner.stored(7, 2), NOTHING, "of a node that has no copy");
    let (node, index) = (node(8), Index(2));
    for epoch in [Epoch(8), Epoch(10)] {
        let node = node.clone();
        assert_eq!(owner.input(Input::Stored { node, epoch, index }), NOTHING);
    }
    assert_eq!(owner.stored(8, u64::MAX), ["1: #2 1.1.1"]);
    // What it says of entries that are not made yet is not believed.
    assert_eq!(owner.send(Mode::Ordered, 2), ["8< store 3"]);
    assert_eq!(owner.session.waiting(), Some(Index(3)));
}

#[test]
fn a_change_of_the_standby_is_asked_for_once_the_next_has_all_that_has_left() {
    let mut owner = Owner::with_standby();
    assert_eq!(owner.copy_to(7), ["7< sync 1 from 1", "7< store 1"]);
    assert_eq!(owner.send(Mode::Ordered, 1), ["8< store 2", "7< store 2"]);
    // The one that is in force decides until the next is complete; what it let go the next has to have.
    assert_eq!(owner.stored(8, 2), ["1: #2 1.1.1"]);
    assert_eq!(owner.stored(7, 1), NOTHING);
    assert_eq!(owner.send(Mode::Ordered, 2), ["8< store 3", "7< store 3"]);
    assert_eq!(
        owner.stored(8, 3),
        NOTHING,
        "from now on both have to have it"
    );
    assert_eq!(owner.stored(7, 2), ["copied 7"]);
    assert_eq!(owner.stored(7, 3), ["1: #3 1.1.2"]);
}

#[test]
fn a_next_copy_that_stores_no_more_holds_nothing_up_for_long() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    owner.send(Mode::Ordered, 1);
    owner.stored(8, 2);
    owner.stored(7, 1);
    owner.send(Mode::Ordered, 2);
    assert_eq!(owner.stored(8, 3), NOTHING);
    let due = owner.session.poll_timeout().unwrap();
    assert_eq!(due, owner.now + Duration::from_secs(1));
    assert_eq!(owner.wait(Duration::from_millis(999)), NOTHING);
    assert_eq!(
        owner.wait(Duration::from_millis(1)),
        ["7< release", "1: #3 1.1.2"]
    );
    assert_eq!(owner.session.poll_timeout(), None);
    assert_eq!(owner.send(Mode::Ordered, 3), ["8< store 4"]);
    // Once it has been asked for, there is no way back but the directory's answer.
    owner.copy_to(7);
    owner.stored(8, 4);
    owner.stored(7, 4);
    owner.session.installing();
    owner.send(Mode::Ordered, 4);
    owner.stored(8, 5);
    assert_eq!(owner.wait(Duration::from_secs(60)), NOTHING);
    assert_eq!(
        owner.installed(Some(8)),
        ["7< release", "1: #5 1.1.4", "1: view 8"]
    );
}

#[test]
fn a_change_that_was_not_asked_for_is_called_off_with_the_standbys_return() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    owner.stored(7, 1);
    assert_eq!(
        owner.copy_to(8),
        ["7< release", "8< sync 1 from 1", "8< store 1"]
    );
    assert_eq!(owner.stored(8, 1), ["copied 8"]);
    assert_eq!(owner.send(Mode::Ordered, 1), ["8< store 2"]);
    assert_eq!(owner.stored(8, 2), ["1: #2 1.1.1"]);
}

#[test]
fn while_a_change_of_the_standby_is_in_doubt_both_have_to_have_an_entry() {
    for (first, second) in [(8, 7), (7, 8)] {
        let mut owner = Owner::with_standby();
        owner.copy_to(7);
        owner.stored(7, 1);
        owner.session.installing();
        owner.send(Mode::Ordered, 1);
        assert_eq!(owner.stored(first, 2), NOTHING);
        assert_eq!(owner.stored(second, 2), ["1: #2 1.1.1"]);
    }
}

#[test]
fn the_new_standby_is_told_to_the_gateways_and_the_former_released() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    owner.stored(7, 1);
    owner.session.installing();
    owner.send(Mode::Ordered, 1);
    owner.stored(7, 2);
    assert_eq!(
        owner.installed(Some(7)),
        ["8< release", "1: #2 1.1.1", "1: view 7"]
    );
    assert_eq!(owner.send(Mode::Ordered, 2), ["7< store 3"]);
    assert_eq!(owner.stored(8, 3), NOTHING, "its word counts no longer");
    assert_eq!(owner.stored(7, 3), ["1: #3 1.1.2"]);
}

#[test]
fn without_a_standby_everything_leaves() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    owner.session.installing();
    assert_eq!(
        owner.installed(None),
        ["8< release", "1: #2 1.1.1", "1: view -"]
    );
    assert_eq!(owner.send(Mode::Ordered, 2), ["1: #3 1.1.2"]);
}

#[test]
fn a_standby_that_the_view_names_and_nobody_has_copied_to_gets_a_copy_before_anything_leaves() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    owner.stored(7, 1);
    owner.session.installing();
    assert_eq!(
        owner.installed(Some(6)),
        ["8< release", "7< release", "6< sync 1 from 1", "6< store 1"]
    );
    assert_eq!(owner.send(Mode::Ordered, 1), ["6< store 2"]);
    assert_eq!(owner.stored(6, 2), ["copied 6", "1: view 6", "1: #2 1.1.1"]);
}

#[test]
fn while_a_change_is_in_doubt_no_other_node_is_begun_with() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    owner.stored(7, 1);
    owner.session.installing();
    assert_eq!(owner.copy_to(6), NOTHING);
    assert_eq!(owner.send(Mode::Ordered, 1), ["8< store 2", "7< store 2"]);
    // Both of them can be sent everything anew.
    assert_eq!(owner.copy_to(7)[0], "7< sync 2 from 1");
    assert_eq!(owner.copy_to(8)[0], "8< sync 2 from 1");
    owner.stored(7, 2);
    assert_eq!(owner.stored(8, 2), ["copied 8", "1: #2 1.1.1"]);
    assert_eq!(owner.installed(Some(7)), ["8< release", "1: view 7"]);
    assert_eq!(owner.copy_to(6)[0], "6< sync 2 from 1");
}

#[test]
fn a_copy_that_was_begun_anew_is_complete_once_it_has_what_it_was_sent() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    for seq in 1..=3 {
        owner.send(Mode::Ordered, seq);
    }
    owner.stored(8, 4);
    owner.copy_to(7);
    // On its way since before the link broke: the entries behind it were lost.
    assert_eq!(owner.stored(7, 2), NOTHING);
    assert_eq!(owner.stored(7, 4), ["copied 7"]);
}

#[test]
fn a_standby_whose_link_broke_is_sent_everything_anew_and_what_waits_leaves_then() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    assert!(owner.session.is_copied());
    assert_eq!(
        owner.copy_to(8),
        ["8< sync 2 from 1", "8< store 1", "8< store 2"]
    );
    assert!(!owner.session.is_copied());
    assert_eq!(owner.session.waiting(), Some(Index(2)));
    // Another run of the node has to be named in the view: it can be, from here on.
    assert_eq!(owner.stored(8, 2), ["copied 8", "1: #2 1.1.1"]);
    assert!(owner.session.is_copied());
}

#[test]
fn nothing_but_latest_and_datagram_leaves_before_the_owners_view_is_in_force() {
    let mut owner = Owner::new(SessionOptions::default());
    owner.session.not_in_force();
    assert_eq!(owner.input(join(1, 1, None)), ["players 1"]);
    assert_eq!(owner.send(Mode::Ordered, 1), NOTHING);
    assert_eq!(owner.send(Mode::Datagram, 1), ["1: datagram 1.1.1"]);
    assert_eq!(
        owner.installed(None),
        [
            "1: joined 1.1 @0 standby -",
            "1: #1 joined 1.1",
            "1: #2 1.1.1",
            "1: view -"
        ]
    );
}

#[test]
fn a_deposed_session_releases_nothing_and_says_who_goes_on() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    for epoch in [Epoch(8), EPOCH] {
        let owner_is = None;
        assert_eq!(
            owner.input(Input::Sealed {
                epoch,
                owner: owner_is
            }),
            NOTHING
        );
    }
    let sealed = Input::Sealed {
        epoch: Epoch(10),
        owner: Some(node(8)),
    };
    assert_eq!(owner.input(sealed), ["1: refused 0, ask 8", "deposed"]);
    assert_eq!(owner.stored(8, 2), NOTHING);
    assert_eq!(owner.installed(None), NOTHING);
    assert_eq!(owner.copy_to(8), NOTHING);
    assert_eq!(owner.send(Mode::Latest, 1), NOTHING);
    owner.now += Duration::from_secs(1_000);
    owner.session.handle_timeout(owner.now);
    assert_eq!(owner.drain(), NOTHING);
    assert_eq!(owner.session.poll_timeout(), None);
}

#[test]
fn no_copy_is_released_before_the_owners_own_view_is_in_force() {
    let mut owner = Owner::with_standby();
    owner.session.reign(Epoch(10), 2);
    assert_eq!(owner.drain(), NOTHING, "its new epoch is not in force");
    // The view of the epoch before names node 8 until then.
    owner.copy_to(8);
    assert_eq!(
        owner.copy_to(7),
        ["7< sync 1 from 1", "7< store 1 of 9"],
        "and 8 keeps what it has"
    );
    owner.stored(7, 1);
    owner.session.installing();
    assert_eq!(
        owner.installed(Some(7)),
        ["1: refused 0, ask -", "1: view 7"]
    );
    assert_eq!(owner.send(Mode::Ordered, 1), ["7< store 2"]);
    assert_eq!(owner.stored(7, 2), ["1: #2 1.1.1"]);
}

#[test]
fn a_session_that_ends_releases_its_copies() {
    let mut owner = Owner::with_standby();
    owner.copy_to(7);
    let error = ErrorCode::SessionClosed.into();
    assert_eq!(
        owner.input(Input::Close { error }),
        ["1: ended 0.0", "8< release", "7< release", "closed"]
    );
}

// --------------------------------------------------------------------------------------- the standby

#[test]
fn a_standby_has_stored_once_everything_is_there_and_says_it_once_for_all() {
    let mut standby = Standby::new(reign(9), Index(2), state(4));
    for index in 2..=3 {
        standby.store(store(9, 9, index)).unwrap();
        assert_eq!(standby.poll_stored(), None, "not complete");
        assert!(standby.log().is_none());
    }
    standby.store(store(9, 9, 4)).unwrap();
    standby.store(store(9, 9, 5)).unwrap();
    assert_eq!(standby.poll_stored(), Some(Index(5)));
    assert_eq!(standby.poll_stored(), None);
    assert!(standby.log().is_some());
}

#[test]
fn a_copy_without_entries_is_complete_at_once() {
    let mut standby = Standby::new(reign(9), Index(5), state(4));
    assert_eq!(standby.poll_stored(), Some(Index(4)));
    let mut new = Standby::new(reign(9), Index(1), state(0));
    assert_eq!(new.poll_stored(), Some(Index(0)));
}

#[test]
fn the_complete_copy_before_is_kept_until_the_new_one_is_complete() {
    let mut standby = Standby::new(reign(9), Index(1), state(0));
    standby.store(store(9, 9, 1)).unwrap();
    standby.sync(reign(10), Index(1), state(3)).unwrap();
    standby.store(store(10, 9, 1)).unwrap();
    for _ in 0..2 {
        let (whose, log) = standby.log().unwrap();
        assert_eq!((whose, log.state.index), (reign(9), Index(1)));
        assert_eq!(standby.poll_stored(), None);
        // The link breaks again.
        standby.sync(reign(10), Index(1), state(3)).unwrap();
        standby.store(store(10, 9, 1)).unwrap();
    }
    standby.store(store(10, 10, 2)).unwrap();
    standby.store(store(10, 10, 3)).unwrap();
    let (whose, log) = standby.log().unwrap();
    assert_eq!((whose, log.state.index), (reign(10), Index(3)));
    assert_eq!(standby.poll_stored(), Some(Index(3)));
}

#[test]
fn a_sealed_standby_refuses_lower_epochs_and_says_what_it_promised() {
    let mut standby = Standby::new(reign(9), Index(1), state(0));
    standby.store(store(9, 9, 1)).unwrap();
    assert_eq!(standby.seal(Epoch(12)), Epoch(12));
    assert_eq!(standby.seal(Epoch(11)), Epoch(12), "promised is promised");
    for _ in 0..2 {
        let error = standby.store(store(9, 9, 2)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotOwner);
        assert_eq!(
            standby.sync(reign(11), Index(1), state(0)),
            Err(Epoch(12)),
            "a claimant that came too late"
        );
    }
    let (whose, log) = standby.log().unwrap();
    assert_eq!((whose, log.state.index), (reign(9), Index(1)));
    standby.sync(reign(12), Index(2), state(1)).unwrap();
    standby.store(store(12, 12, 2)).unwrap();
    assert_eq!(standby.state().index, Index(2));
}

#[test]
fn of_two_owners_with_one_epoch_the_first_has_the_standby() {
    let mut standby = Standby::new(reign(9), Index(1), state(0));
    let other = Reign {
        nonce: 2,
        owner: node(6),
        ..reign(9)
    };
    assert_eq!(standby.sync(other, Index(1), state(0)), Err(Epoch(9)));
    standby.store(store(9, 9, 1)).unwrap();
    assert_eq!(standby.reign(), &reign(9));
    assert_eq!(standby.state().index, Index(1));
}

#[test]
fn an_entry_that_does_not_fit_changes_nothing() {
    let mut standby = Standby::new(reign(9), Index(1), state(0));
    standby.store(store(9, 8, 1)).unwrap();
    standby.store(store(9, 9, 2)).unwrap();
    let mut full = state(0);
    full.seats = (1..=limits::PLAYERS_MAX).map(|p| seat(p, 0)).collect();
    let mut crowded = Standby::new(reign(9), Index(1), full.clone());
    let one_more = event(
        9,
        1,
        &SessionEvent::Joined(dreamcatcher_proto::control::Member {
            peer: PeerId(65),
            incarnation: Incarnation(1),
            user: UserId([65; 16]),
            display_name: String::new(),
            connected: true,
        }),
    );
    let mut garbage = store(9, 9, 3);
    garbage.entry.message.channel = SESSION_CHANNEL;
    let mut unordered = store(9, 9, 3);
    unordered.entry.message.mode = Mode::Reliable;
    let wrong = [
        (store(9, 9, 1), "what was stored"),
        (store(9, 9, 4), "a hole"),
        (store(9, 9, 0), "no entry"),
        (store(9, 9, u64::MAX), "the last there is"),
        (store(9, 8, 3), "a falling epoch"),
        (store(9, 10, 3), "an epoch to come"),
        (garbage, "no event"),
        (unordered, "no entry either"),
    ];
    for (store, what) in wrong {
        let before = standby.state().clone();
        let error = standby.store(store).unwrap_err();
        assert_eq!(error.code(), ErrorCode::MalformedFrame, "{what}");
        assert_eq!(standby.state(), &before, "{what}");
        assert!(standby.is_complete(), "{what}");
    }
    for epoch in [8, 10] {
        let error = standby.store(store(epoch, 8, 3)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotOwner, "epoch {epoch}");
    }
    standby.store(store(9, 9, 3)).unwrap();
    assert_eq!(standby.state().index, Index(3));
    assert_eq!(standby.poll_stored(), Some(Index(3)));

    let error = crowded.store(one_more).unwrap_err();
    assert_eq!(error.code(), ErrorCode::MalformedFrame);
    assert_eq!(crowded.state(), &full);
    crowded.store(store(9, 9, 1)).unwrap();
    assert_eq!(crowded.poll_stored(), Some(Index(1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Syncs, entries and seals of any numbers: what is stored has no hole, no epoch falls, and a log
    /// is always one that some owner sent completely.
    #[test]
    fn whatever_an_owner_sends_a_standby_holds_a_history(
        steps in proptest::collection::vec((0..8_u8, 7..12_u64, 7..12_u64, 0..9_u64, 0..9_u64), 1..120),
    ) {
        let mut standby = Standby::new(reign(7), Index(1), state(0));
        let (mut promised, mut had_log, mut told) = (Epoch(7), true, Index(0));
        for (kind, epoch, of, index, first) in steps {
            match kind {
                0 => {
                    if let Err(higher) = standby.sync(reign(epoch), Index(first), state(index)) {
                        prop_assert_eq!(higher, promised);
                    } else {
                        prop_assert!(Epoch(epoch) >= promised);
                        told = Index(0);
                    }
                }
                1 => {
                    standby.seal(Epoch(epoch));
                }
                2 | 3 => {
                    let _ = standby.store(store(epoch, of, index));
                }
                _ => {
                    // Mostly what comes next, so that histories grow.
                    let next = standby.state().index.next().0;
                    let epoch = standby.reign().epoch;
                    let stored = standby.store(store(epoch.0, epoch.0, next));
                    if stored.is_ok() {
                        prop_assert!(epoch >= promised);
                    }
                }
            }
            prop_assert!(standby.promised() >= promised);
            promised = standby.promised();
            if let Some(index) = standby.poll_stored() {
                prop_assert!(standby.is_complete());
                prop_assert_eq!(index, standby.state().index);
                prop_assert!(index >= told);
                told = index;
            }
            let log = standby.log();
            prop_assert!(log.is_some() || !had_log, "a complete copy got lost");
            had_log = log.is_some();
            if let Some((whose, log)) = log {
                let now = start();
                let config = config(SessionOptions::default(), Epoch(99), 6);
                let mut session = Session::restore(config, log.clone(), now);
                prop_assert!(whose.epoch <= promised);
                prop_assert_eq!(session.index(), log.state.index);
                // Its entries are next to each other, up to the newest.
                session.copy_to(node(8));
                let mut due = None;
                let mut before = Epoch(0);
                while let Some(output) = session.poll_output() {
                    if let Output::ToStandby { frame: LinkFrame::Store(store), .. } = output {
                        let Place { epoch, index } = store.entry.place;
                        prop_assert!(due.is_none_or(|due| due == index));
                        prop_assert!(epoch >= before);
                        (due, before) = (Some(index.next()), epoch);
                    }
                }
                prop_assert!(due.is_none_or(|due| due == log.state.index.next()));
            }
        }
    }
}

// ------------------------------------------------------------------------------------------ after it

#[test]
fn the_next_owner_goes_on_where_the_last_one_was_seen() {
    let mut owner = Owner::with_standby();
    owner.input(join(2, 2, None));
    owner.send(Mode::Ordered, 1);
    owner.stored(8, 3);
    let mut next = owner.fail_over();
    assert_eq!(next.session.index(), Index(3));
    next.session.installing();
    assert_eq!(
        next.input(join(1, 1, Some(resume(1, 1, 2)))),
        NOTHING,
        "its view is not in force"
    );
    assert_eq!(
        next.installed(None),
        [
            "1: joined 1.1 @2 standby -, seen 1/0",
            "1: #3 1.1.1 of 9",
            "1: view -"
        ]
    );
    // It sends the one again that it has heard nothing of, and the one that nobody knows.
    assert_eq!(next.send(Mode::Ordered, 1), NOTHING);
    assert_eq!(next.send(Mode::Ordered, 2), ["1: #4 1.1.2"]);
}

#[test]
fn nobody_is_told_of_members_that_come_back_in_time() {
    let mut owner = Owner::with_standby();
    owner.input(join(2, 2, None));
    owner.stored(8, 2);
    let mut next = owner.fail_over();
    next.installed(None);
    assert_eq!(
        next.input(join(1, 1, Some(resume(1, 1, 2)))),
        ["1: joined 1.1 @2 standby -, seen 0/0"]
    );
    assert_eq!(
        next.wait(limits::OWNER_LOST_AFTER),
        ["1: #3 dropped 2"],
        "the other one is away"
    );
    assert_eq!(
        next.input(join(2, 2, Some(resume(2, 1, 2))))[..2],
        ["2: joined 2.1 @2 standby -, seen 0/0", "2: #3 dropped 2"]
    );
}

#[test]
fn who_was_away_when_the_owner_failed_is_away_for_the_next_one() {
    let mut owner = Owner::with_standby();
    owner.input(join(2, 2, None));
    owner.input(dropped(2, 2));
    owner.stored(8, 3);
    let mut next = owner.fail_over();
    next.installed(None);
    next.input(join(1, 1, Some(resume(1, 1, 3))));
    assert_eq!(
        next.wait(limits::OWNER_LOST_AFTER),
        NOTHING,
        "all know that"
    );
    // And that it is back, they have to be told.
    let back = next.input(join(2, 2, Some(resume(2, 1, 3))));
    assert!(back.contains(&"1: #4 rejoined 2.1".to_owned()), "{back:?}");
    // A seat is held as long as ever.
    let mut next = owner.fail_over();
    next.installed(None);
    next.input(join(1, 1, Some(resume(1, 1, 3))));
    let hold = limits::REJOIN_HOLD_DEFAULT;
    assert_eq!(next.wait(hold), ["1: #4 left 2 RejoinExpired", "players 1"]);
}

#[test]
fn entries_of_the_owner_before_keep_their_epoch_and_new_ones_have_the_new() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    owner.stored(8, 2);
    let mut next = owner.fail_over();
    assert_eq!(
        next.copy_to(7),
        ["7< sync 2 from 1", "7< store 1 of 9", "7< store 2 of 9"]
    );
    next.stored(7, 2);
    next.session.installing();
    next.installed(Some(7));
    next.input(join(1, 1, Some(resume(1, 1, 2))));
    assert_eq!(next.send(Mode::Ordered, 2), ["7< store 3"]);
    // The new standby takes both, and the next owner in turn hands on three reigns.
    let mut standby = Standby::new(
        Reign {
            epoch: Epoch(10),
            ..reign(10)
        },
        Index(1),
        state(0),
    );
    for (of, index) in [(9, 1), (9, 2), (10, 3)] {
        standby.store(store(10, of, index)).unwrap();
    }
}

#[test]
fn a_member_that_has_seen_another_history_is_told_to_join_anew() {
    let mut owner = Owner::with_standby();
    owner.send(Mode::Ordered, 1);
    owner.stored(8, 2);
    let mut next = owner.fail_over();
    next.installed(None);
    let elsewhere = Resume {
        last_epoch: Epoch(8),
        ..resume(1, 1, 2)
    };
    assert_eq!(
        next.input(join(1, 1, Some(elsewhere))),
        ["1: refused 5 Resync"]
    );
    let ahead = resume(1, 1, 3);
    let answer = next.input(join(1, 1, Some(ahead)));
    assert_eq!(
        answer,
        ["1: refused 5 Resync"],
        "it saw what nobody else has"
    );
    assert_eq!(
        next.input(join(1, 1, Some(resume(1, 1, 2)))),
        ["1: joined 1.1 @2 standby -, seen 1/0"]
    );
}

#[test]
fn reliable_messages_that_the_owner_may_have_lost_are_told_to_whoever_comes_back_in_any_order() {
    for order in [[1, 2], [2, 1]] {
        let mut owner = Owner::with_standby();
        owner.input(join(2, 2, None));
        owner.stored(8, 2);
        let mut next = owner.fail_over();
        next.installed(None);
        let mut told = Vec::new();
        for who in order {
            let back = Resume {
                // Player 1 has sent three.
                reliable_sent: Seq(if who == 1 { 3 } else { 0 }),
                ..resume(who.into(), 1, 2)
            };
            told.extend(next.input(join(who, who, Some(back))));
        }
        told.retain(|line| line.contains("gap"));
        told.sort();
        // Some may have been for the sender, too.
        assert_eq!(told.len(), 2, "{told:?}");
        for (line, who) in told.iter().zip(["1: ", "2: "]) {
            assert!(
                line.starts_with(who) && line.ends_with("from 1: 0"),
                "{told:?}"
            );
        }
        // From there on all are counted again.
        assert_eq!(
            next.forward(1, 1, Mode::Reliable, 5),
            [
                "2: gap for 0 from 1: 1",
                "1: reliable 1.1.5",
                "2: reliable 1.1.5"
            ]
        );
    }
}

// ------------------------------------------------------------------------- three nodes, five players

const USERS: u8 = 5;
const NODES: [u8; 3] = [6, 7, 8];
const GATEWAYS: u8 = 2;

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Join(u8, u8),
    Resume(u8, u8),
    Leave(u8),
    Drop(u8),
    GatewayLost(u8),
    Send {
        who: u8,
        mode: Mode,
        target: u8,
    },
    Ack(u8),
    Wait(u64),
    /// So many frames arrive at a node with a copy.
    Store {
        node: usize,
        frames: usize,
    },
    /// The owner hears of what has been stored.
    Stored {
        node: usize,
    },
    /// So many frames arrive at a gateway.
    Pump {
        gateway: u8,
        frames: usize,
    },
    /// The link to a copy breaks, and the owner sends everything anew.
    Relink {
        node: usize,
    },
    /// Another standby is begun.
    Copy {
        node: usize,
    },
    /// The directory has made the change, and the owner hears it.
    Installed,
    /// The directory has made the change, or not, and nobody knows.
    Unheard(bool),
    /// A claim that came to nothing has raised the ballot: the owner goes on under a higher epoch.
    Reign {
        node: usize,
    },
    /// The owner dies after so many of its frames have arrived at the standby, and of them at the
    /// gateways.
    Crash {
        stores: usize,
        frames: usize,
        standby_lost: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (who, gateway, node) = (1..=USERS, 1..=GATEWAYS, 0..NODES.len());
    prop_oneof![
        4 => (who.clone(), gateway.clone()).prop_map(|(w, g)| Step::Join(w, g)),
        8 => (who.clone(), gateway.clone()).prop_map(|(w, g)| Step::Resume(w, g)),
        1 => who.clone().prop_map(Step::Leave),
        3 => who.clone().prop_map(Step::Drop),
        1 => gateway.clone().prop_map(Step::GatewayLost),
        30 => (who.clone(), 0..4_usize, 0..9_u8).prop_map(|(who, mode, target)| {
            Step::Send { who, mode: Mode::ALL[mode], target }
        }),
        2 => who.prop_map(Step::Ack),
        3 => (0..1_500_u64).prop_map(Step::Wait),
        16 => (node.clone(), 1..30_usize).prop_map(|(node, frames)| Step::Store { node, frames }),
        12 => node.clone().prop_map(|node| Step::Stored { node }),
        8 => (gateway, 1..30_usize).prop_map(|(gateway, frames)| Step::Pump { gateway, frames }),
        1 => node.clone().prop_map(|node| Step::Relink { node }),
        2 => node.prop_map(|node| Step::Copy { node }),
        2 => Just(Step::Installed),
        1 => any::<bool>().prop_map(Step::Unheard),
        1 => (0..NODES.len()).prop_map(|node| Step::Reign { node }),
        2 => (0..20_usize, 0..20_usize, any::<bool>()).prop_map(|(stores, frames, standby_lost)| {
            Step::Crash { stores, frames, standby_lost }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The standby holds what the owner holds; whoever goes on from it has every entry that anybody
    /// has seen; every member goes on without a hole; every send has one outcome.
    #[test]
    fn whenever_the_owner_dies_nothing_that_anybody_has_seen_is_lost(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.heal();
    }
}

/// The owner, the copies on other nodes, and users whose gateways only hand on.
struct World {
    owner: Owner,
    at: u8,
    epoch: Epoch,
    copies: BTreeMap<u8, Copied>,
    /// The standby in the directory's view.
    view: Option<u8>,
    /// A view of this epoch is installed.
    in_force: bool,
    /// What the owner has asked the directory for.
    asked: Option<Option<u8>>,
    users: BTreeMap<u8, Player>,
    /// Frames that have left the owner and are not at their gateway yet.
    ways: BTreeMap<u8, VecDeque<LinkFrame>>,
    /// What the owner was at each index, under each epoch.
    states: BTreeMap<(Epoch, Index), SessionState>,
    /// Entries that somebody has seen; that stays so, whoever owns the session.
    order: BTreeMap<Index, (Epoch, Mid, Bytes)>,
    /// Whose each life is.
    lives: BTreeMap<(PeerId, Incarnation), u8>,
    /// Who asked to join, through which gateway, and has no answer yet.
    asking: BTreeMap<u64, (u8, u8)>,
    /// How many Reliable messages were sent to each life, per sender.
    due: BTreeMap<(PeerId, Incarnation), BTreeMap<PeerId, u32>>,
    last_request: u64,
}

/// A copy, and what is on its way to and from it.
#[derive(Default)]
struct Copied {
    standby: Option<Standby>,
    up: VecDeque<LinkFrame>,
    down: VecDeque<(Epoch, Index)>,
}

/// What a user knows of its seat.
struct Player {
    gateway: Option<u8>,
    peer: PeerId,
    incarnation: Incarnation,
    attempt: u32,
    last: Index,
    last_epoch: Epoch,
    mids: BTreeSet<Mid>,
    sent: [u32; 4],
    unresolved: VecDeque<Message>,
    /// Received, or told to be missing, and of whom it was told that nobody knows.
    reliable: BTreeMap<PeerId, u32>,
    unknown: BTreeSet<PeerId>,
    /// Who is here, by what it was told.
    roster: BTreeMap<PeerId, (Incarnation, bool)>,
}

impl World {
    fn new() -> Self {
        let owner = Owner::new(options());
        let mut world = Self {
            owner,
            at: 6,
            epoch: EPOCH,
            copies: NODES.map(|node| (node, Copied::default())).into(),
            view: None,
            in_force: false,
            asked: None,
            users: BTreeMap::new(),
            ways: BTreeMap::new(),
            states: BTreeMap::new(),
            order: BTreeMap::new(),
            lives: BTreeMap::new(),
            asking: BTreeMap::new(),
            due: BTreeMap::new(),
            last_request: 0,
        };
        world.owner.session.not_in_force();
        world.change_standby(Some(7));
        world
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Join(who, gateway) => {
                if !self.is_asking(who) {
                    self.ask(who, gateway, None);
                }
            }
            Step::Resume(who, gateway) => self.resume(who, gateway),
            Step::Leave(who) => {
                if !self.is_asking(who)
                    && let Some(player) = self.users.remove(&who)
                    && let Some(gateway) = player.gateway
                {
                    let member = key(player.peer.0, player.incarnation.0);
                    let gateway = node(gateway);
                    self.input(Input::Leave { gateway, member });
                }
            }
            Step::Drop(who) => {
                let Some(gateway) = self.users.get(&who).and_then(|player| player.gateway) else {
                    return;
                };
                // A gateway hands on what it has before it hears of a break.
                self.pump(gateway, usize::MAX);
                if let Some(player) = self.users.get_mut(&who)
                    && player.gateway.take() == Some(gateway)
                {
                    let (gateway, member) =
                        (node(gateway), key(player.peer.0, player.incarnation.0));
                    self.input(Input::Dropped { gateway, member });
                }
            }
            Step::GatewayLost(gateway) => {
                self.pump(gateway, usize::MAX);
                for player in self.users.values_mut() {
                    player.gateway = player.gateway.filter(|at| *at != gateway);
                }
                self.asking.retain(|_, (_, at)| *at != gateway);
                let gateway = node(gateway);
                self.input(Input::GatewayLost { gateway });
            }
            Step::Send { who, mode, target } => self.send(who, mode, target),
            Step::Ack(who) => {
                if let Some(player) = self.users.get(&who)
                    && let Some(gateway) = player.gateway
                {
                    let input = ack(gateway, player.peer.0, player.last.0);
                    self.input(input);
                }
            }
            Step::Wait(millis) => {
                self.owner.now += Duration::from_millis(millis);
                self.owner.session.handle_timeout(self.owner.now);
                self.drain();
            }
            Step::Store { node, frames } => self.store(NODES[node], frames),
            Step::Stored { node } => self.hear_of_stores(NODES[node]),
            Step::Pump { gateway, frames } => self.pump(gateway, frames),
            Step::Relink { node: number } => {
                let number = NODES[number];
                let copied = self.copies.entry(number).or_default();
                copied.up.clear();
                copied.down.clear();
                let is_asked = self.asked == Some(Some(number));
                if is_asked || self.owner.session.standby() == Some(&node(number)) {
                    self.owner.session.copy_to(node(number));
                    self.drain();
                }
            }
            Step::Copy { node: number } => {
                // A node that was released is not begun with again while a word of it is on its way.
                let copied = &self.copies[&NODES[number]];
                let is_quiet = copied.standby.is_some() || copied.down.is_empty();
                let is_released = copied
                    .up
                    .iter()
                    .any(|frame| matches!(frame, LinkFrame::Control(LinkMessage::Release { .. })));
                let is_free = is_quiet && !is_released;
                if NODES[number] != self.at && self.asked.is_none() && is_free {
                    self.owner.session.copy_to(node(NODES[number]));
                    self.drain();
                }
            }
            Step::Installed => self.installed(),
            Step::Unheard(made) => {
                if let Some(asked) = self.asked
                    && made
                {
                    self.view = asked;
                }
            }
            Step::Reign { node: number } => {
                // What was asked for under the epoch before may have come true or not.
                self.asked = None;
                self.in_force = false;
                self.epoch = Epoch(self.epoch.0 + 1);
                self.owner.session.reign(self.epoch, 2);
                self.drain();
                let other = NODES[number] != self.at;
                let next = self.view.or_else(|| other.then_some(NODES[number]));
                match next {
                    Some(next) => self.owner.session.copy_to(node(next)),
                    None => self.ask_for(None),
                }
                self.drain();
            }
            Step::Crash {
                stores,
                frames,
                standby_lost,
            } => self.crash(stores, frames, standby_lost),
        }
        self.compare();
    }

    /// The standby's state is the owner's at the same index.
    fn compare(&mut self) {
        let state = self.owner.session.state();
        self.states.insert((self.epoch, state.index), state);
        for copied in self.copies.values() {
            let Some(standby) = &copied.standby else {
                continue;
            };
            let place = (standby.reign().epoch, standby.state().index);
            if let Some(state) = self.states.get(&place) {
                assert_eq!(standby.state(), state, "at {place:?}");
            }
        }
    }

    // ---------------------------------------------------------------------------------- the nodes

    fn change_standby(&mut self, to: Option<u8>) {
        match to {
            Some(to) => {
                self.owner.session.copy_to(node(to));
                self.drain();
                self.store(to, usize::MAX);
                self.hear_of_stores(to);
            }
            None => self.ask_for(None),
        }
        self.installed();
    }

    fn ask_for(&mut self, standby: Option<u8>) {
        self.owner.session.installing();
        self.asked = Some(standby);
    }

    fn installed(&mut self) {
        if let Some(standby) = self.asked.take() {
            self.view = standby;
            self.in_force = true;
            let standby = standby.map(node);
            self.owner.session.installed(standby.as_ref());
            self.drain();
        }
    }

    fn store(&mut self, number: u8, frames: usize) {
        for _ in 0..frames {
            let copied = self.copies.entry(number).or_default();
            let Some(frame) = copied.up.pop_front() else {
                break;
            };
            match frame {
                LinkFrame::Control(LinkMessage::Sync {
                    epoch,
                    nonce,
                    owner_boot,
                    first,
                    state,
                    ..
                }) => {
                    let owner = node(self.at);
                    let reign = Reign {
                        epoch,
                        nonce,
                        owner,
                        owner_boot,
                    };
                    match &mut copied.standby {
                        Some(standby) => standby.sync(reign, first, state).unwrap(),
                        None => copied.standby = Some(Standby::new(reign, first, state)),
                    }
                }
                LinkFrame::Store(store) => {
                    if let Some(standby) = &mut copied.standby {
                        // After a break the rest of what was sent before comes to nothing.
                        let _ = standby.store(store);
                    }
                }
                LinkFrame::Control(LinkMessage::Release { .. }) => copied.standby = None,
                frame @ (LinkFrame::Control(_)
                | LinkFrame::Forward(_)
                | LinkFrame::Fanout(_)
                | LinkFrame::Ack(_)
                | LinkFrame::Stored(_)) => panic!("not for a standby: {frame:?}"),
            }
            // All that comes together is told once, and what comes alone alone.
            if let Some(standby) = &mut copied.standby
                && (copied.up.is_empty() || frames < 3)
                && let Some(index) = standby.poll_stored()
            {
                copied.down.push_back((standby.reign().epoch, index));
            }
        }
        let copied = self.copies.entry(number).or_default();
        if let Some(standby) = &mut copied.standby
            && let Some(index) = standby.poll_stored()
        {
            copied.down.push_back((standby.reign().epoch, index));
        }
        self.compare();
    }

    fn hear_of_stores(&mut self, number: u8) {
        while let Some((epoch, index)) = self
            .copies
            .get_mut(&number)
            .and_then(|copied| copied.down.pop_front())
        {
            let node = node(number);
            self.input(Input::Stored { node, epoch, index });
        }
    }

    fn crash(&mut self, stores: usize, frames: usize, standby_lost: bool) {
        let Some(standby) = self.view else {
            // Nobody can go on from nothing.
            return;
        };
        if standby_lost {
            // The other copy, that of a change in doubt, does not help: it is the view that counts.
            for (_, copied) in self.copies.iter_mut().filter(|(node, _)| **node != standby) {
                copied.standby = None;
            }
        }
        self.store(standby, stores);
        for gateway in 1..=GATEWAYS {
            self.pump(gateway, frames);
        }
        let dead = self.at;
        self.ways.clear();
        self.asked = None;
        self.asking.clear();
        for player in self.users.values_mut() {
            player.gateway = None;
        }
        for copied in self.copies.values_mut() {
            copied.up.clear();
            copied.down.clear();
        }
        let seen = self.order.keys().next_back().copied();
        let epoch = Epoch(self.epoch.0 + 1);
        let copy = self.copies.get_mut(&standby);
        let copy = copy.and_then(|copied| copied.standby.as_mut());
        let copy = copy.unwrap_or_else(|| panic!("the view's standby {standby} has no copy"));
        assert_eq!(copy.seal(epoch), epoch);
        let log = copy.log();
        let (_, log) = log.unwrap_or_else(|| panic!("the copy on {standby} is not complete"));
        assert!(
            Some(log.state.index) >= seen,
            "{seen:?} was seen and {} is stored",
            log.state.index
        );
        self.copies.insert(standby, Copied::default());
        self.copies.insert(dead, Copied::default());
        self.in_force = false;
        (self.at, self.epoch, self.view) = (standby, epoch, Some(dead));
        // A life that nobody was told of may begin once more.
        self.due.retain(|(peer, incarnation), _| {
            let seat = log.state.seats.get(peer);
            seat.is_some_and(|seat| seat.incarnation == *incarnation)
        });
        let config = config(options(), epoch, standby);
        self.owner.session = Session::restore(config, log, self.owner.now);
        self.compare();
        // The view is changed with the next standby in it, or with none.
        let next = NODES
            .into_iter()
            .find(|node| *node != standby && *node != dead);
        self.change_standby(next.filter(|_| !frames.is_multiple_of(3)));
        if self.view.is_none() {
            self.change_standby(Some(dead));
        }
    }

    /// Everything works: soon everyone is at the same place, and nothing is open.
    fn heal(&mut self) {
        self.installed();
        if !self.in_force {
            let next = NODES.into_iter().find(|node| *node != self.at);
            self.change_standby(next);
        }
        for _ in 0..4 {
            self.settle();
            let users: Vec<u8> = self.users.keys().copied().collect();
            for who in users {
                if self.users[&who].gateway.is_none() {
                    self.resume(who, 1 + who % GATEWAYS);
                }
            }
        }
        // Those who left while nobody was there to hear it are known to be away by then.
        let soon = limits::OWNER_LOST_AFTER.as_millis() as u64;
        self.take(Step::Wait(soon));
        self.settle();
        assert_eq!(self.owner.session.waiting(), None);
        assert!(self.asking.is_empty(), "{:?} have no answer", self.asking);
        let newest = self.owner.session.index();
        let seats = self.owner.session.state().seats;
        let everyone: BTreeMap<PeerId, (Incarnation, bool)> = self
            .owner
            .session
            .seats()
            .map(|seat| {
                let incarnation = seats[&seat.peer].incarnation;
                (seat.peer, (incarnation, seat.gateway.is_some()))
            })
            .collect();
        for (who, player) in &self.users {
            assert_eq!(player.last, newest, "user {who}");
            assert_eq!(player.unresolved, [], "user {who}");
            assert_eq!(player.roster, everyone, "user {who}");
            // A sender is not told of its own; of who never came back nobody knows what it sent.
            let life = (player.peer, player.incarnation);
            let due = self.due.get(&life).into_iter().flatten();
            let is_back = |sender: &PeerId| self.users.values().any(|user| user.peer == *sender);
            for (sender, due) in
                due.filter(|(sender, _)| is_back(sender) && **sender != player.peer)
            {
                let counted = player.reliable.get(sender).copied().unwrap_or(0);
                assert!(
                    counted >= *due || player.unknown.contains(sender),
                    "user {who} counts {counted} of {due} from {sender}"
                );
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            for number in NODES {
                self.store(number, usize::MAX);
                self.hear_of_stores(number);
            }
            self.installed();
            for gateway in 1..=GATEWAYS {
                self.pump(gateway, usize::MAX);
            }
            let users: Vec<u8> = self.users.keys().copied().collect();
            users.into_iter().for_each(|who| self.take(Step::Ack(who)));
        }
    }

    // -------------------------------------------------------------------------------- the members

    fn resume(&mut self, who: u8, gateway: u8) {
        let Some(player) = self.users.get(&who) else {
            return;
        };
        if self.is_asking(who) {
            return;
        }
        // Its connection of before is read to the end, as when a member moves.
        if let Some(before) = player.gateway {
            self.pump(before, usize::MAX);
        }
        let Some(player) = self.users.get_mut(&who) else {
            return;
        };
        player.gateway = None;
        player.attempt += 1;
        let resume = Resume {
            peer: player.peer,
            incarnation: player.incarnation,
            last_index: player.last,
            reliable: player.reliable.clone().into_iter().collect(),
            attempt: player.attempt,
            last_epoch: player.last_epoch,
            reliable_sent: Seq(player.sent[Mode::Reliable as usize]),
        };
        self.ask(who, gateway, Some(resume));
    }

    fn is_asking(&self, who: u8) -> bool {
        self.asking.values().any(|(asking, _)| *asking == who)
    }

    fn ask(&mut self, who: u8, gateway: u8, resume: Option<Resume>) {
        self.last_request += 1;
        let request = self.last_request;
        self.asking.insert(request, (who, gateway));
        self.input(Input::Join {
            gateway: node(gateway),
            request,
            user: user(who),
            app_version: String::new(),
            resume,
        });
    }

    fn send(&mut self, who: u8, mode: Mode, target: u8) {
        let Some(player) = self.users.get_mut(&who) else {
            return;
        };
        if player.gateway.is_none() && mode != Mode::Ordered {
            return;
        }
        player.sent[mode as usize] += 1;
        let seq = player.sent[mode as usize];
        let target = match target {
            // One who is not there, or left while this was on its way.
            1..=5 if mode == Mode::Ordered => Target::Peer(PeerId(target.into())),
            0 if mode == Mode::Ordered => Target::Others,
            _ => Target::All,
        };
        let (sender, incarnation) = (player.peer, player.incarnation);
        let forward = message(sender.0, incarnation.0, mode, seq, target, self.epoch);
        if mode == Mode::Ordered {
            player.unresolved.push_back(forward.message.clone());
        }
        let Some(gateway) = player.gateway else {
            return;
        };
        // Of a life that is over nothing counts, whether its player knows that yet or not.
        let seats = self.owner.session.state().seats;
        let is_current = seats
            .get(&sender)
            .is_some_and(|seat| seat.incarnation == incarnation);
        if mode == Mode::Reliable && is_current {
            for (&peer, seat) in &seats {
                let due = self.due.entry((peer, seat.incarnation)).or_default();
                *due.entry(sender).or_default() += 1;
            }
        }
        let gateway = node(gateway);
        self.input(Input::Forward { gateway, forward });
    }

    fn input(&mut self, input: Input) {
        self.owner.session.handle(input, self.owner.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.owner.session.poll_output() {
            match output {
                Output::ToGateway { gateway, frame } => {
                    let way = self.ways.entry(number(&gateway)).or_default();
                    way.push_back(frame);
                }
                Output::ToStandby { node, frame } => {
                    let copied = self.copies.entry(number(&node)).or_default();
                    copied.up.push_back(frame);
                }
                Output::Copied { node } => {
                    let is_new = !self.in_force || self.view != Some(number(&node));
                    if self.asked.is_none() && is_new {
                        self.ask_for(Some(number(&node)));
                    }
                }
                Output::Listing { .. } => {}
                Output::Closed | Output::Deposed => panic!("it goes on: {output:?}"),
            }
        }
    }

    fn pump(&mut self, gateway: u8, frames: usize) {
        for _ in 0..frames {
            let way = self.ways.entry(gateway).or_default();
            let Some(frame) = way.pop_front() else {
                break;
            };
            self.hear(gateway, frame);
        }
    }

    fn hear(&mut self, gateway: u8, frame: LinkFrame) {
        match frame {
            LinkFrame::Control(LinkMessage::Joined {
                request, joined, ..
            }) => self.joined(request, gateway, &joined),
            LinkFrame::Control(LinkMessage::Refused {
                request, failure, ..
            }) => {
                let code = failure.error.code();
                if request == 0 {
                    assert_eq!(code, ErrorCode::NotOwner);
                    // The way has to be found anew.
                    let there = |player: &&mut Player| player.gateway == Some(gateway);
                    for player in self.users.values_mut().filter(there) {
                        player.gateway = None;
                    }
                    return;
                }
                let Some((who, _)) = self.asking.remove(&request) else {
                    return;
                };
                if code == ErrorCode::RejoinExpired {
                    self.users.remove(&who);
                } else {
                    assert_eq!(code, ErrorCode::SessionFull, "{}", failure.error);
                }
            }
            LinkFrame::Control(LinkMessage::Ended { member, .. }) => {
                for player in self.users.values_mut() {
                    let life = (player.peer, player.incarnation);
                    if life == (member.peer, member.incarnation) && player.gateway == Some(gateway)
                    {
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
                        if missed == 0 {
                            player.unknown.insert(sender);
                        }
                    }
                }
            }
            LinkFrame::Fanout(fanout) => self.fanout(gateway, &fanout),
            LinkFrame::Control(LinkMessage::View { .. }) => {}
            frame @ (LinkFrame::Control(_)
            | LinkFrame::Forward(_)
            | LinkFrame::Ack(_)
            | LinkFrame::Store(_)
            | LinkFrame::Stored(_)) => panic!("not for a gateway: {frame:?}"),
        }
    }

    fn joined(&mut self, request: u64, gateway: u8, joined: &Joined) {
        assert!(joined.epoch <= self.epoch);
        let Some((who, _)) = self.asking.remove(&request) else {
            // Whoever asked is gone: its gateway gives the seat back, unless it has the member by
            // now or asks for it.
            let life = (joined.peer, joined.incarnation);
            let has_it = self.users.iter().any(|(&who, player)| {
                let is_wanted = player.gateway == Some(gateway)
                    || self.asking.values().any(|asking| *asking == (who, gateway));
                (player.peer, player.incarnation) == life && is_wanted
            });
            if has_it {
                return;
            }
            let member = key(joined.peer.0, joined.incarnation.0);
            let gateway = node(gateway);
            return self.input(Input::Dropped { gateway, member });
        };
        if joined.resumed {
            let player = self.users.get_mut(&who).unwrap();
            assert_eq!(
                (joined.peer, joined.incarnation),
                (player.peer, player.incarnation)
            );
            assert_eq!(joined.index, player.last);
            player.gateway = Some(gateway);
            let (peer, incarnation) = (player.peer.0, player.incarnation.0);
            let again: Vec<Message> = player
                .unresolved
                .iter()
                .filter(|message| message.seq > joined.ordered_seen)
                .cloned()
                .collect();
            for message in again {
                let forward = Forward {
                    message,
                    ..self::message(peer, incarnation, Mode::Ordered, 0, Target::All, self.epoch)
                };
                let gateway = node(gateway);
                self.input(Input::Forward { gateway, forward });
            }
            return;
        }
        let life = (joined.peer, joined.incarnation);
        assert_eq!(
            self.lives.insert(life, who),
            None,
            "{life:?} is given twice"
        );
        // What its life before had sent, it alone knew.
        for due in self.due.values_mut() {
            due.remove(&joined.peer);
        }
        let old = self
            .users
            .remove(&who)
            .filter(|old| old.peer == joined.peer);
        let player = Player {
            gateway: Some(gateway),
            peer: joined.peer,
            incarnation: joined.incarnation,
            attempt: 0,
            last: joined.index,
            last_epoch: Epoch(0),
            mids: old.map(|old| old.mids).unwrap_or_default(),
            sent: [0; 4],
            unresolved: VecDeque::new(),
            reliable: BTreeMap::new(),
            unknown: BTreeSet::new(),
            roster: joined
                .roster
                .iter()
                .map(|member| (member.peer, (member.incarnation, member.connected)))
                .collect(),
        };
        self.users.insert(who, player);
    }

    fn fanout(&mut self, gateway: u8, fanout: &Fanout) {
        let (mode, sender) = (fanout.message.mode, fanout.sender);
        let Place { epoch, index } = fanout.place;
        let there = self.users.values_mut().filter(|player| {
            let is_meant = fanout.only == PeerId::SESSION || fanout.only == player.peer;
            player.gateway == Some(gateway) && is_meant
        });
        for player in there {
            if mode == Mode::Reliable && fanout.message.target.includes(player.peer, sender) {
                *player.reliable.entry(sender).or_default() += 1;
            }
            // As a gateway does it: what is ahead comes again when the member is caught up.
            if mode != Mode::Ordered || index != player.last.next() {
                continue;
            }
            let peer = player.peer;
            assert!(epoch >= player.last_epoch, "peer {peer}");
            (player.last, player.last_epoch) = (index, epoch);
            let what = (epoch, fanout.mid(), fanout.message.payload.clone());
            let placed = self.order.entry(index);
            assert_eq!(*placed.or_insert_with(|| what.clone()), what, "at {index}");
            if sender != PeerId::SESSION {
                assert!(player.mids.insert(fanout.mid()), "twice: {}", fanout.mid());
                if (sender, fanout.incarnation) == (peer, player.incarnation) {
                    player.resolve(fanout.message.seq);
                }
                continue;
            }
            let event = SessionEvent::decode(what.2).unwrap();
            if let SessionEvent::Left { peer: gone, .. } = event
                && let Some(due) = self.due.get_mut(&(peer, player.incarnation))
            {
                due.remove(&gone);
            }
            player.event(event);
        }
    }
}

impl Player {
    /// In turn: nothing is ordered before what was sent before it.
    fn resolve(&mut self, seq: Seq) {
        let first = self.unresolved.pop_front();
        assert_eq!(first.map(|message| message.seq), Some(seq));
    }

    fn event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Joined(member) => {
                self.roster.insert(member.peer, (member.incarnation, true));
            }
            SessionEvent::Dropped { peer } => {
                if let Some(member) = self.roster.get_mut(&peer) {
                    assert!(member.1, "{peer} is away already");
                    member.1 = false;
                }
            }
            SessionEvent::Rejoined { peer, incarnation } => {
                let before = self.roster.insert(peer, (incarnation, true));
                assert!(before.is_some(), "{peer} is not a member");
            }
            SessionEvent::Left { peer, .. } => {
                self.roster.remove(&peer);
                self.reliable.remove(&peer);
            }
            SessionEvent::Refused {
                peer,
                incarnation,
                seq,
                ..
            } => {
                if (peer, incarnation) == (self.peer, self.incarnation) {
                    self.resolve(seq);
                }
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
        let now = start();
        let session = Session::new(config(options, EPOCH, 9), now);
        Self { session, now }
    }

    /// With player 1 as its first member, at gateway 1, and node 8 as its standby.
    fn with_standby() -> Self {
        let mut owner = Self::new(SessionOptions::default());
        owner.input(join(1, 1, None));
        owner.copy_to(8);
        owner.stored(8, 1);
        owner.session.installing();
        owner.installed(Some(8));
        owner
    }

    /// Node 8 goes on from what it has stored by now: all that was sent to it.
    fn fail_over(&mut self) -> Self {
        let log = {
            let state = SessionState {
                index: Index(0),
                last_peer: PeerId(0),
                seats: BTreeMap::new(),
                ..self.session.state()
            };
            let mut standby = Standby::new(reign(9), Index(1), state);
            self.session.copy_to(node(5));
            while let Some(output) = self.session.poll_output() {
                if let Output::ToStandby {
                    frame: LinkFrame::Store(store),
                    ..
                } = output
                {
                    standby.store(store).unwrap();
                }
            }
            standby.log().unwrap().1
        };
        assert_eq!(log.state, self.session.state());
        let config = config(log.state.options.clone(), Epoch(10), 8);
        Self {
            session: Session::restore(config, log, self.now),
            now: self.now,
        }
    }

    fn input(&mut self, input: Input) -> Vec<String> {
        self.session.handle(input, self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        let epoch = self.session.config().epoch;
        std::iter::from_fn(|| self.session.poll_output())
            .map(|output| show(&output, epoch))
            .collect()
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.session.handle_timeout(self.now);
        self.drain()
    }

    fn send(&mut self, mode: Mode, seq: u32) -> Vec<String> {
        self.forward(1, 1, mode, seq)
    }

    fn forward(&mut self, gateway: u8, peer: u16, mode: Mode, seq: u32) -> Vec<String> {
        let epoch = self.session.config().epoch;
        let forward = message(peer, 1, mode, seq, Target::All, epoch);
        let gateway = node(gateway);
        self.input(Input::Forward { gateway, forward })
    }

    fn stored(&mut self, from: u8, index: u64) -> Vec<String> {
        let epoch = self.session.config().epoch;
        let (node, index) = (node(from), Index(index));
        self.input(Input::Stored { node, epoch, index })
    }

    fn copy_to(&mut self, to: u8) -> Vec<String> {
        self.session.copy_to(node(to));
        self.drain()
    }

    fn installed(&mut self, standby: Option<u8>) -> Vec<String> {
        self.session.installed(standby.map(node).as_ref());
        self.drain()
    }
}

fn start() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test passes the time in; any start will do"
    )]
    Instant::now()
}

fn options() -> SessionOptions {
    SessionOptions {
        max_players: 4,
        rejoin_hold: Duration::from_secs(20),
        empty_ttl: limits::EMPTY_TTL_MAX,
        ..SessionOptions::default()
    }
}

fn config(options: SessionOptions, epoch: Epoch, owner: u8) -> SessionConfig {
    SessionConfig {
        id: ID,
        home_region: "eu".to_owned(),
        options,
        epoch,
        nonce: 1,
        code: None,
        owner: node(owner),
        owner_boot: BootId(1),
    }
}

fn node(number: u8) -> NodeId {
    format!("relay-{number}").parse().unwrap()
}

fn number(node: &NodeId) -> u8 {
    node.as_str()["relay-".len()..].parse().unwrap()
}

fn reign(epoch: u64) -> Reign {
    Reign {
        epoch: Epoch(epoch),
        nonce: 1,
        owner: node(9),
        owner_boot: BootId(1),
    }
}

fn state(index: u64) -> SessionState {
    SessionState {
        home_region: "eu".to_owned(),
        options: SessionOptions::default(),
        code: None,
        index: Index(index),
        last_peer: PeerId(1),
        seats: [seat(1, 0)].into(),
    }
}

fn seat(peer: u16, joined_at: u64) -> (PeerId, SeatState) {
    let seat = SeatState {
        user: user(peer as u8),
        incarnation: Incarnation(1),
        connected: true,
        joined_at: Index(joined_at),
        ordered_seen: Seq(0),
    };
    (PeerId(peer), seat)
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

fn dropped(gateway: u8, peer: u16) -> Input {
    let (gateway, member) = (node(gateway), key(peer, 1));
    Input::Dropped { gateway, member }
}

fn ack(gateway: u8, peer: u16, index: u64) -> Input {
    let ack = dreamcatcher_proto::frame::LinkAck {
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

fn message(
    peer: u16,
    incarnation: u16,
    mode: Mode,
    seq: u32,
    target: Target,
    epoch: Epoch,
) -> Forward {
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
        epoch,
        sender: PeerId(peer),
        incarnation: Incarnation(incarnation),
        message,
    }
}

/// An entry of player 1, sent under `epoch` and ordered under `of`.
fn store(epoch: u64, of: u64, index: u64) -> Store {
    let Forward { message, .. } =
        message(1, 1, Mode::Ordered, index as u32, Target::All, Epoch(of));
    let entry = Fanout {
        session: ID,
        place: Place {
            epoch: Epoch(of),
            index: Index(index),
        },
        only: PeerId::SESSION,
        sender: PeerId(1),
        incarnation: Incarnation(1),
        message,
    };
    Store {
        epoch: Epoch(epoch),
        entry,
    }
}

fn event(epoch: u64, index: u64, event: &SessionEvent) -> Store {
    let mut store = store(epoch, epoch, index);
    store.entry.sender = PeerId::SESSION;
    store.entry.incarnation = Incarnation(0);
    store.entry.message.channel = SESSION_CHANNEL;
    store.entry.message.payload = event.encode();
    store
}

/// An output in a line: `1:` to gateway 1, `8<` to the standby 8, an entry as `#index`.
fn show(output: &Output, epoch: Epoch) -> String {
    let of = |place: Place| {
        if place.epoch == epoch {
            String::new()
        } else {
            format!(" of {}", place.epoch)
        }
    };
    let name = |node: &Option<NodeId>| {
        node.as_ref()
            .map_or("-".to_owned(), |node| number(node).to_string())
    };
    match output {
        Output::ToStandby { node, frame } => {
            let what = match frame {
                LinkFrame::Control(LinkMessage::Sync { first, state, .. }) => {
                    format!("sync {} from {first}", state.index)
                }
                LinkFrame::Store(store) => {
                    assert_eq!(store.epoch, epoch);
                    let place = store.entry.place;
                    format!("store {}{}", place.index, of(place))
                }
                LinkFrame::Control(LinkMessage::Release { .. }) => "release".to_owned(),
                frame @ (LinkFrame::Control(_)
                | LinkFrame::Forward(_)
                | LinkFrame::Fanout(_)
                | LinkFrame::Ack(_)
                | LinkFrame::Stored(_)) => panic!("not for a standby: {frame:?}"),
            };
            format!("{}< {what}", number(node))
        }
        Output::Copied { node } => format!("copied {}", number(node)),
        Output::Listing { players } => format!("players {players}"),
        Output::Closed => "closed".to_owned(),
        Output::Deposed => "deposed".to_owned(),
        Output::ToGateway { gateway, frame } => {
            let what = match frame {
                LinkFrame::Control(LinkMessage::Joined {
                    joined, standby, ..
                }) => {
                    let seen = if joined.resumed {
                        format!(", seen {}/{}", joined.ordered_seen, joined.reliable_seen)
                    } else {
                        String::new()
                    };
                    format!(
                        "joined {}.{} @{} standby {}{seen}",
                        joined.peer,
                        joined.incarnation,
                        joined.index,
                        name(standby)
                    )
                }
                LinkFrame::Control(LinkMessage::View { standby, .. }) => {
                    format!("view {}", name(standby))
                }
                LinkFrame::Control(LinkMessage::Refused {
                    request,
                    failure,
                    owner,
                    ..
                }) => {
                    let code = failure.error.code();
                    match (code, owner) {
                        (ErrorCode::NotOwner, owner) => {
                            format!("refused {request}, ask {}", name(owner))
                        }
                        (code, _) => format!("refused {request} {code:?}"),
                    }
                }
                LinkFrame::Control(LinkMessage::Ended { member, .. }) => {
                    format!("ended {}.{}", member.peer, member.incarnation)
                }
                LinkFrame::Control(LinkMessage::ReliableGap {
                    peer,
                    sender,
                    missed,
                    ..
                }) => format!("gap for {peer} from {sender}: {missed}"),
                LinkFrame::Fanout(fanout) => show_fanout(fanout, &of(fanout.place)),
                frame @ (LinkFrame::Control(_)
                | LinkFrame::Forward(_)
                | LinkFrame::Ack(_)
                | LinkFrame::Store(_)
                | LinkFrame::Stored(_)) => panic!("not for a gateway: {frame:?}"),
            };
            format!("{}: {what}", number(gateway))
        }
    }
}

fn show_fanout(fanout: &Fanout, of: &str) -> String {
    let mode = fanout.message.mode;
    if mode != Mode::Ordered {
        return format!("{} {}", mode.name(), fanout.mid());
    }
    let index = fanout.place.index;
    if fanout.sender != PeerId::SESSION {
        return format!("#{index} {}{of}", fanout.mid());
    }
    let event = SessionEvent::decode(fanout.message.payload.clone()).unwrap();
    let what = match event {
        SessionEvent::Joined(member) => format!("joined {}.{}", member.peer, member.incarnation),
        SessionEvent::Dropped { peer } => format!("dropped {peer}"),
        SessionEvent::Rejoined { peer, incarnation } => format!("rejoined {peer}.{incarnation}"),
        SessionEvent::Left { peer, code } => format!("left {peer} {code:?}"),
        SessionEvent::Refused { seq, .. } => format!("refused {seq}"),
    };
    format!("#{index} {what}{of}")
}

//! A judge that cannot find a fault is worth nothing: each test plants one.

use std::time::Duration;

use super::*;

const SESSION: u64 = 0xfeed;

#[test]
fn a_session_that_keeps_its_promises_is_clean() {
    let mut judge = full(3);
    for index in 1..=300 {
        act(&mut judge, index % 3, index as u64, &[0, 1, 2]);
    }
    let verdict = judge.verdict();
    assert!(verdict.is_clean(Mode::Ordered), "{verdict:?}");
    assert_eq!(
        (verdict.sent, verdict.expected, verdict.delivered),
        (300, 900, 900)
    );
    assert_eq!(judge.so_far(), verdict);
    assert!(
        judge.order.len() <= ORDER_TRIM + 1,
        "the order is forgotten once all are past it"
    );
}

#[test]
fn what_did_not_come_is_lost() {
    let mut judge = full(2);
    act(&mut judge, 0, 1, &[0, 1]);
    act(&mut judge, 0, 2, &[0]);
    assert_eq!(judge.so_far().lost, 0, "it may be under way");
    assert!(!judge.is_settled());
    assert_eq!(
        judge.verdict(),
        Verdict {
            sent: 2,
            expected: 4,
            delivered: 3,
            lost: 1,
            ..Verdict::default()
        }
    );

    act(&mut judge, 0, 3, &[0, 1]);
    assert_eq!(judge.so_far().lost, 1, "the next one overtook it");
}

#[test]
fn what_comes_twice_is_duplicated() {
    let mut judge = full(2);
    act(&mut judge, 0, 1, &[0, 1]);
    judge.heard(1, Mode::Ordered, Some(Index(1)), stamp(0, 1));
    judge.heard(1, Mode::Ordered, Some(Index(2)), stamp(0, 1));
    let verdict = judge.verdict();
    assert_eq!(
        (verdict.duplicated, verdict.delivered, verdict.expected),
        (2, 4, 2)
    );
    assert_eq!((verdict.lost, verdict.reordered), (0, 0));
}

#[test]
fn what_comes_late_is_reordered_and_not_lost() {
    let mut judge = full(2);
    let (first, second) = (judge.send(0), judge.send(0));
    judge.heard(1, Mode::Ordered, Some(Index(2)), stamp(0, second));
    assert_eq!(judge.so_far().lost, 1);
    judge.heard(1, Mode::Ordered, Some(Index(1)), stamp(0, first));
    let verdict = judge.so_far();
    assert_eq!((verdict.reordered, verdict.lost), (1, 0));
}

#[test]
fn members_that_see_different_orders_are_found_out() {
    let mut judge = full(2);
    let (of_0, of_1) = (judge.send(0), judge.send(1));
    judge.heard(0, Mode::Ordered, Some(Index(1)), stamp(0, of_0));
    judge.heard(0, Mode::Ordered, Some(Index(2)), stamp(1, of_1));
    judge.heard(1, Mode::Ordered, Some(Index(1)), stamp(1, of_1));
    judge.heard(1, Mode::Ordered, Some(Index(2)), stamp(0, of_0));
    assert_eq!(judge.verdict().reordered, 2);
}

#[test]
fn an_index_that_falls_is_reordered() {
    let mut judge = full(2);
    act(&mut judge, 0, 7, &[0, 1]);
    act(&mut judge, 1, 7, &[0]);
    act(&mut judge, 0, 6, &[1]);
    assert_eq!(judge.verdict().reordered, 2);
}

#[test]
fn a_commit_at_another_index_than_the_delivery_is_reordered() {
    let mut judge = full(2);
    act(&mut judge, 0, 1, &[0, 1]);
    act(&mut judge, 1, 2, &[0, 1]);
    judge.committed(0, 1, Index(1));
    assert_eq!(judge.verdict().reordered, 0);
    judge.committed(0, 1, Index(2));
    assert_eq!(judge.verdict().reordered, 1);
}

#[test]
fn what_belongs_to_another_session_is_leaked() {
    let mut judge = full(2);
    judge.send(0);
    judge.send_latest(0);
    let foreign = stamp(0, 1).map(|stamp| Stamp {
        session: SESSION + 1,
        ..stamp
    });
    let from_nobody = stamp(2, 1);
    let never_sent = stamp(0, 2);
    for alien in [foreign, from_nobody, never_sent, None] {
        judge.heard(1, Mode::Ordered, Some(Index(1)), alien);
        judge.heard(1, Mode::Latest, None, alien);
    }
    assert_eq!(judge.verdict().leaked, 8);
}

#[test]
fn a_latest_message_that_comes_back_to_its_sender_is_leaked() {
    let mut judge = full(2);
    let number = judge.send_latest(0);
    judge.heard(0, Mode::Latest, None, stamp(0, number));
    assert_eq!(judge.verdict().leaked, 1);
}

#[test]
fn a_latest_message_may_be_missing_but_never_older() {
    let mut judge = full(2);
    for _ in 0..5 {
        judge.send_latest(0);
    }
    for number in [1, 4, 3, 4, 5] {
        judge.heard(1, Mode::Latest, None, stamp(0, number));
    }
    let verdict = judge.verdict();
    assert_eq!(
        (verdict.latest_older, verdict.latest_delivered, verdict.lost),
        (2, 5, 0)
    );
}

#[test]
fn a_rejected_message_is_not_owed_and_must_not_come() {
    let mut judge = full(2);
    let refused = judge.send(0);
    act(&mut judge, 0, 1, &[0, 1]);
    judge.rejected(0, refused);
    let verdict = judge.verdict();
    assert!(verdict.is_clean(Mode::Ordered), "{verdict:?}");
    assert_eq!((verdict.sent, verdict.expected), (1, 2));

    let refused = judge.send(0);
    judge.rejected(0, refused);
    act(&mut judge, 0, 2, &[0, 1]);
    assert!(judge.is_settled());
    judge.heard(1, Mode::Ordered, Some(Index(3)), stamp(0, refused));
    assert_eq!(judge.verdict().leaked, 1);
}

#[test]
fn a_member_that_is_gone_is_owed_what_came_before() {
    let mut judge = full(3);
    act(&mut judge, 0, 1, &[0, 1, 2]);
    act(&mut judge, 0, 2, &[0, 1]);
    act(&mut judge, 0, 3, &[0, 1, 2]);
    judge.gone(2);
    act(&mut judge, 0, 4, &[0, 1]);
    assert_eq!(judge.verdict().lost, 1);
}

#[test]
fn a_sender_that_is_gone_owes_what_it_was_told_is_committed() {
    let mut judge = full(2);
    act(&mut judge, 0, 1, &[0, 1]);
    let committed = judge.send(0);
    judge.committed(0, committed, Index(2));
    judge.send(0);
    judge.gone(0);
    assert_eq!(
        judge.verdict().lost,
        1,
        "the second; the third was never committed"
    );
}

#[test]
fn a_member_that_never_joined_is_owed_nothing() {
    let mut judge = Judge::new(SESSION, 2, Mode::Ordered);
    judge.joined(0, PeerId(1));
    act(&mut judge, 0, 1, &[0]);
    assert!(judge.verdict().is_clean(Mode::Ordered));
    assert_eq!(judge.verdict().expected, 1);
}

#[test]
fn holes_beyond_the_limit_still_count_as_lost() {
    let mut judge = full(2);
    for _ in 0..HOLES_MAX + 10 {
        judge.send(0);
    }
    act(&mut judge, 0, 1, &[0, 1]);
    let lost_by_each = HOLES_MAX as u64 + 10;
    assert_eq!(judge.so_far().lost, 2 * lost_by_each);
    assert_eq!(judge.verdict().lost, 2 * lost_by_each);
}

#[test]
fn reliable_is_held_to_its_senders_order_and_to_losing_nothing_in_silence() {
    let mut judge = full_of(3, Mode::Reliable);
    for _ in 0..4 {
        judge.send(0);
    }
    for number in 1..=4 {
        hear(&mut judge, 1, 0, number);
    }
    // 2 never comes, 3 comes late, 1 comes twice.
    for number in [1, 4, 3, 1] {
        hear(&mut judge, 2, 0, number);
    }
    let verdict = judge.verdict();
    assert_eq!((verdict.sent, verdict.expected), (4, 8));
    assert_eq!(
        (verdict.lost, verdict.reordered, verdict.duplicated),
        (1, 1, 1)
    );
    assert!(!verdict.is_clean(Mode::Reliable));
    assert!(!judge.is_settled());
}

#[test]
fn what_a_reliable_receiver_was_told_is_lost_breaks_no_promise_and_no_more_than_that() {
    let mut judge = full_of(2, Mode::Reliable);
    for _ in 0..5 {
        judge.send(0);
    }
    hear(&mut judge, 1, 0, 1);
    hear(&mut judge, 1, 0, 4);
    hear(&mut judge, 1, 0, 5);
    judge.told_of_gap(1, peer(0), 1);
    let verdict = judge.verdict();
    assert_eq!((verdict.lost, verdict.told_lost), (2, 1));
    assert!(!verdict.is_clean(Mode::Reliable), "one more than was told");
    judge.told_of_gap(1, peer(0), 1);
    judge.told_of_gap(1, PeerId(99), 7);
    let verdict = judge.verdict();
    assert_eq!((verdict.lost, verdict.told_lost), (2, 2));
    assert!(verdict.is_clean(Mode::Reliable));
    assert!(judge.is_settled());
}

#[test]
fn a_reliable_message_that_comes_back_to_its_sender_or_from_elsewhere_is_leaked() {
    let mut judge = full_of(2, Mode::Reliable);
    judge.send(0);
    hear(&mut judge, 0, 0, 1);
    hear(&mut judge, 1, 0, 2);
    judge.heard(1, Mode::Reliable, None, None);
    judge.heard(1, Mode::Ordered, Some(Index(1)), stamp(0, 1));
    assert_eq!(judge.verdict().leaked, 4);
}

#[test]
fn latest_as_the_judged_mode_may_be_missing_but_never_older() {
    let mut judge = full_of(2, Mode::Latest);
    for _ in 0..5 {
        judge.send(0);
    }
    for number in [1, 4, 3, 4, 5] {
        hear(&mut judge, 1, 0, number);
    }
    let verdict = judge.verdict();
    assert_eq!((verdict.latest_older, verdict.latest_sent), (2, 5));
    assert_eq!((verdict.expected, verdict.delivered), (5, 5));
    assert_eq!((verdict.duplicated, verdict.reordered), (0, 0));
    assert_eq!(verdict.lost, 2, "2 and 3, which was too late to count");
    assert!(!verdict.is_clean(Mode::Latest));
    let clean = Verdict {
        latest_older: 0,
        ..verdict
    };
    assert!(clean.is_clean(Mode::Latest), "to lose some is its nature");
}

#[test]
fn datagrams_may_be_missing_late_and_double_but_not_from_elsewhere() {
    let mut judge = full_of(2, Mode::Datagram);
    for _ in 0..4 {
        judge.send(0);
    }
    for number in [2, 1, 4, 4] {
        hear(&mut judge, 1, 0, number);
    }
    let verdict = judge.verdict();
    assert_eq!(
        (verdict.lost, verdict.reordered, verdict.duplicated),
        (1, 1, 1)
    );
    assert!(verdict.is_clean(Mode::Datagram));
    hear(&mut judge, 1, 0, 5);
    assert!(!judge.verdict().is_clean(Mode::Datagram));
}

#[test]
fn the_warm_up_is_not_counted_and_its_faults_are() {
    let mut judge = full(2).with_warm_up();
    act(&mut judge, 0, 1, &[0, 1]);
    act(&mut judge, 0, 2, &[0]);
    (0..2).for_each(|member| judge.measure(member));
    act(&mut judge, 0, 3, &[0, 1]);
    act(&mut judge, 1, 4, &[0, 1]);
    let verdict = judge.verdict();
    assert_eq!((verdict.sent, verdict.delivered), (2, 4));
    assert_eq!(verdict.lost, 1, "of the warm-up");
    assert!(!verdict.is_clean(Mode::Ordered));
    assert_eq!(judge.sent_total(), 4);
    assert!(!judge.is_measured(0, 2) && judge.is_measured(0, 3));
}

#[test]
fn what_latest_loses_in_the_warm_up_is_not_counted() {
    let mut judge = full_of(2, Mode::Latest).with_warm_up();
    for _ in 0..3 {
        judge.send(0);
    }
    hear(&mut judge, 1, 0, 1);
    judge.measure(0);
    for number in [4, 5] {
        assert_eq!(judge.send(0), number);
    }
    assert!(!hear(&mut judge, 1, 0, 2), "late, and of the warm-up");
    assert!(hear(&mut judge, 1, 0, 4));
    let verdict = judge.verdict();
    assert_eq!((verdict.sent, verdict.expected), (2, 2));
    assert_eq!((verdict.delivered, verdict.lost), (1, 1));
}

#[test]
fn a_message_that_was_not_sent_after_all_leaves_its_number_to_the_next() {
    let mut judge = full_of(2, Mode::Reliable);
    judge.send(0);
    judge.unsent(0);
    assert_eq!(judge.send(0), 1);
    hear(&mut judge, 1, 0, 1);
    let verdict = judge.verdict();
    assert_eq!((verdict.sent, verdict.lost), (1, 0));
    assert!(judge.is_settled());
}

#[test]
fn a_reliable_message_that_was_rejected_is_not_owed() {
    let mut judge = full_of(2, Mode::Reliable).with_warm_up();
    judge.send(0);
    judge.rejected(0, 1);
    judge.measure(0);
    for _ in 0..2 {
        judge.send(0);
    }
    judge.rejected(0, 2);
    hear(&mut judge, 1, 0, 3);
    let verdict = judge.verdict();
    assert_eq!((verdict.sent, verdict.expected, verdict.lost), (1, 1, 0));
    assert!(verdict.is_clean(Mode::Reliable));
}

fn full(members: usize) -> Judge {
    full_of(members, Mode::Ordered)
}

fn full_of(members: usize, judged: Mode) -> Judge {
    let mut judge = Judge::new(SESSION, members, judged);
    (0..members).for_each(|member| judge.joined(member, peer(member)));
    judge
}

fn peer(member: usize) -> PeerId {
    PeerId(u16::try_from(member).unwrap_or(u16::MAX) + 1)
}

/// `sender` sends, and these receive it at `index`.
fn act(judge: &mut Judge, sender: usize, index: u64, receivers: &[usize]) {
    let number = judge.send(sender);
    for &receiver in receivers {
        let stamp = stamp(u16::try_from(sender).unwrap_or(u16::MAX), number);
        judge.heard(receiver, Mode::Ordered, Some(Index(index)), stamp);
    }
}

/// `receiver` gets a message of the judged mode, which is not Ordered.
fn hear(judge: &mut Judge, receiver: usize, sender: u16, number: u32) -> bool {
    let mode = judge.judged;
    judge.heard(receiver, mode, None, stamp(sender, number))
}

fn stamp(sender: u16, number: u32) -> Option<Stamp> {
    Some(Stamp {
        session: SESSION,
        sent: Duration::ZERO,
        sender,
        number,
    })
}

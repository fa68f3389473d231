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
    assert!(verdict.is_clean(), "{verdict:?}");
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
    judge.ordered(1, Index(1), stamp(0, 1));
    judge.ordered(1, Index(2), stamp(0, 1));
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
    judge.ordered(1, Index(2), stamp(0, second));
    assert_eq!(judge.so_far().lost, 1);
    judge.ordered(1, Index(1), stamp(0, first));
    let verdict = judge.so_far();
    assert_eq!((verdict.reordered, verdict.lost), (1, 0));
}

#[test]
fn members_that_see_different_orders_are_found_out() {
    let mut judge = full(2);
    let (of_0, of_1) = (judge.send(0), judge.send(1));
    judge.ordered(0, Index(1), stamp(0, of_0));
    judge.ordered(0, Index(2), stamp(1, of_1));
    judge.ordered(1, Index(1), stamp(1, of_1));
    judge.ordered(1, Index(2), stamp(0, of_0));
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
        judge.ordered(1, Index(1), alien);
        judge.latest(1, alien);
    }
    assert_eq!(judge.verdict().leaked, 8);
}

#[test]
fn a_latest_message_that_comes_back_to_its_sender_is_leaked() {
    let mut judge = full(2);
    let number = judge.send_latest(0);
    judge.latest(0, stamp(0, number));
    assert_eq!(judge.verdict().leaked, 1);
}

#[test]
fn a_latest_message_may_be_missing_but_never_older() {
    let mut judge = full(2);
    for _ in 0..5 {
        judge.send_latest(0);
    }
    for number in [1, 4, 3, 4, 5] {
        judge.latest(1, stamp(0, number));
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
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!((verdict.sent, verdict.expected), (1, 2));

    let refused = judge.send(0);
    judge.rejected(0, refused);
    act(&mut judge, 0, 2, &[0, 1]);
    assert!(judge.is_settled());
    judge.ordered(1, Index(3), stamp(0, refused));
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
    let mut judge = Judge::new(SESSION, 2);
    judge.joined(0);
    act(&mut judge, 0, 1, &[0]);
    assert!(judge.verdict().is_clean());
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

fn full(members: usize) -> Judge {
    let mut judge = Judge::new(SESSION, members);
    (0..members).for_each(|member| judge.joined(member));
    judge
}

/// `sender` sends, and these receive it at `index`.
fn act(judge: &mut Judge, sender: usize, index: u64, receivers: &[usize]) {
    let number = judge.send(sender);
    for &receiver in receivers {
        let stamp = stamp(u16::try_from(sender).unwrap_or(u16::MAX), number);
        judge.ordered(receiver, Index(index), stamp);
    }
}

fn stamp(sender: u16, number: u32) -> Option<Stamp> {
    Some(Stamp {
        session: SESSION,
        sent: Duration::ZERO,
        sender,
        number,
    })
}

//! The checker's own test: every planted fault is found, and nothing is found where none is.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::OnceLock;
use std::time::Duration;

use dreamcatcher_proto::frame::{Mode, Place, Target};
use dreamcatcher_proto::{Epoch, ErrorCode, Index};
use dreamcatcher_sim::checker::{Rule, check};
use dreamcatcher_sim::history::{Change, Delivery, Digest, Fact, Fate, History, Life};
use dreamcatcher_sim::plan::Plan;
use dreamcatcher_sim::tamper::{Fault, Tamper};
use dreamcatcher_sim::world::{run, run_tampered};

const LENGTH: Duration = Duration::from_secs(12);
/// The life that the faults are planted into.
const VICTIM: usize = 4;

#[test]
fn a_recorded_history_without_a_fault_breaks_nothing() {
    assert_eq!(check(recorded()), []);
    assert!(recorded().deliveries() > 2_000);
}

#[test]
fn a_planted_reorder_is_caught() {
    caught(Rule::Contiguous, |victim, _| {
        let (first, second) = (ordered(victim, 10), ordered(victim, 11));
        victim.facts.swap(first, second);
    });
}

#[test]
fn two_messages_at_one_index_are_caught() {
    caught(Rule::Order, |victim, _| {
        let (first, second) = (ordered(victim, 10), ordered(victim, 11));
        let (a, b) = (
            delivery(victim, first).place,
            delivery(victim, second).place,
        );
        delivery(victim, first).place = b;
        delivery(victim, second).place = a;
        victim.facts.swap(first, second);
    });
}

#[test]
fn a_planted_duplicate_is_caught() {
    caught(Rule::Once, |victim, _| {
        let at = ordered(victim, 10);
        victim.facts.insert(at + 1, victim.facts[at].clone());
    });
}

#[test]
fn a_planted_loss_is_caught() {
    caught(Rule::Complete, |victim, _| {
        victim.facts.remove(ordered(victim, 10));
    });
}

#[test]
fn a_lost_tail_is_caught() {
    caught(Rule::Complete, |victim, _| {
        let last = victim
            .facts
            .iter()
            .rposition(|(_, fact)| is_delivered(fact, Mode::Ordered));
        victim.facts.remove(last.unwrap());
    });
}

#[test]
fn an_entry_that_nobody_knows_is_caught() {
    let mut history = recorded().clone();
    let lost = {
        let victim = &mut history.lives[VICTIM];
        let at = ordered(victim, 10);
        delivery(victim, at).message
    };
    for life in &mut history.lives {
        life.facts.retain(|(_, fact)| match fact {
            Fact::Delivered(Delivery { message, .. })
            | Fact::Committed { message, .. }
            | Fact::Sent { message, .. } => *message != lost,
            Fact::Refused { .. }
            | Fact::Joined { .. }
            | Fact::Membership { .. }
            | Fact::Rejected { .. }
            | Fact::Gap { .. }
            | Fact::Reconnecting
            | Fact::Resumed
            | Fact::Ended { .. }
            | Fact::Standing { .. } => true,
        });
    }
    assert_caught(Rule::Contiguous, &history);
}

#[test]
fn a_planted_leak_from_another_session_is_caught() {
    caught(Rule::Isolation, |victim, recorded| {
        let mut foreign = recorded
            .lives
            .iter()
            .filter(|life| life.game != victim.game);
        let leak = foreign.next().unwrap().deliveries().next().unwrap();
        victim
            .facts
            .insert(ordered(victim, 10), (leak.0, Fact::Delivered(leak.1)));
    });
}

#[test]
fn an_altered_payload_is_caught() {
    caught(Rule::Unaltered, |victim, _| {
        let at = ordered(victim, 10);
        let message = &mut delivery(victim, at).message;
        *message = Digest(!message.0);
    });
}

#[test]
fn a_forged_sender_is_caught() {
    caught(Rule::Addressed, |victim, _| {
        let at = ordered(victim, 10);
        delivery(victim, at).sender.0 += 1;
    });
}

#[test]
fn a_message_that_was_not_for_this_member_is_caught() {
    caught(Rule::Addressed, |victim, recorded| {
        let (me, _) = victim.joined().unwrap();
        let others = recorded
            .lives
            .iter()
            .filter(|life| life.game == victim.game);
        let mut stray = others.filter_map(|life| {
            let (sender, _) = life.joined()?;
            life.facts.iter().find_map(|(at, fact)| {
                let (message, target) = sent(fact, Mode::Datagram)?;
                let (mode, key, place) = (Mode::Datagram, 0, Place::default());
                let stray = Delivery {
                    message,
                    sender,
                    mode,
                    key,
                    place,
                };
                (!target.includes(me, sender)).then_some((*at, Fact::Delivered(stray)))
            })
        });
        let stray = stray.next().unwrap();
        victim.facts.insert(ordered(victim, 10), stray);
    });
}

#[test]
fn an_older_latest_is_caught() {
    caught(Rule::Newest, |victim, _| {
        let newer = nth(victim, 60, |fact| is_delivered(fact, Mode::Latest));
        let Delivery { sender, key, .. } = *delivery(victim, newer);
        let same = |fact: &Fact| matches!(fact, Fact::Delivered(d) if (d.mode, d.sender, d.key) == (Mode::Latest, sender, key));
        let older = nth(victim, 0, same);
        victim.facts.swap(older, newer);
    });
}

#[test]
fn a_reliable_message_that_is_missing_without_a_word_is_caught() {
    caught(Rule::Announced, |victim, _| {
        let first = nth(victim, 0, |fact| is_delivered(fact, Mode::Reliable));
        let sender = delivery(victim, first).sender;
        let same = |fact: &Fact| matches!(fact, Fact::Delivered(d) if (d.mode, d.sender) == (Mode::Reliable, sender));
        victim.facts.remove(nth(victim, 1, same));
    });
}

#[test]
fn a_rejected_message_that_is_delivered_is_caught() {
    caught(Rule::Rejected, |victim, _| {
        let at = nth(victim, 3, |fact| matches!(fact, Fact::Committed { .. }));
        if let Fact::Committed { message, .. } = victim.facts[at].1 {
            let code = ErrorCode::PeerNotFound;
            victim.facts[at].1 = Fact::Rejected { message, code };
        }
    });
}

#[test]
fn a_send_of_which_nobody_says_what_became_is_caught() {
    caught(Rule::Resolved, |victim, _| {
        let at = nth(victim, 3, |fact| matches!(fact, Fact::Committed { .. }));
        victim.facts.remove(at);
    });
}

#[test]
fn a_send_that_is_resolved_twice_is_caught() {
    caught(Rule::Resolved, |victim, _| {
        let at = nth(victim, 3, |fact| matches!(fact, Fact::Committed { .. }));
        victim.facts.insert(at + 1, victim.facts[at].clone());
    });
}

#[test]
fn a_falling_epoch_is_caught() {
    caught(Rule::Epoch, |victim, _| {
        let at = ordered(victim, 10);
        delivery(victim, at).place.epoch = Epoch(1);
    });
}

#[test]
fn a_sender_whose_messages_change_places_is_caught() {
    caught(Rule::SenderOrder, |victim, _| {
        let nth_sent = |n| nth(victim, n, |fact| sent(fact, Mode::Ordered).is_some());
        let (first, second) = (nth_sent(2), nth_sent(3));
        victim.facts.swap(first, second);
    });
}

#[test]
fn an_answer_that_is_ordered_before_what_it_answers_is_caught() {
    caught(Rule::Causality, |victim, _| {
        let at = nth(victim, 2, |fact| sent(fact, Mode::Ordered).is_some());
        let answer = victim.facts.remove(at);
        victim.facts.push(answer);
    });
}

#[test]
fn a_terminal_event_too_many_too_few_or_out_of_place_is_caught() {
    let end = |code| (LENGTH, Fact::Ended { code });
    const LOST: Fate = Fate::Ends(&[ErrorCode::OwnerLost]);
    caught(Rule::Terminal, |victim, _| {
        victim.fate = LOST;
        victim
            .facts
            .extend([end(ErrorCode::OwnerLost), end(ErrorCode::OwnerLost)]);
    });
    caught(Rule::Terminal, |victim, _| victim.fate = LOST);
    caught(Rule::Terminal, |victim, _| {
        victim.fate = LOST;
        victim.facts.push(end(ErrorCode::Kicked));
    });
    caught(Rule::Terminal, |victim, _| {
        victim.facts.push(end(ErrorCode::OwnerLost))
    });
}

#[test]
fn a_member_that_is_left_behind_or_never_served_is_caught() {
    caught(Rule::Together, |victim, _| {
        if let Some((_, Fact::Standing { index, .. })) = victim.facts.last_mut() {
            *index = Index(index.0 - 1);
        }
    });
    caught(Rule::Served, |victim, _| victim.facts.clear());
}

#[test]
fn members_that_see_others_come_and_go_differently_are_caught() {
    caught(Rule::Order, |victim, _| {
        let at = nth(victim, 0, |fact| matches!(fact, Fact::Membership { .. }));
        if let Fact::Membership { change, .. } = &mut victim.facts[at].1 {
            *change = Change::Left;
        }
    });
}

#[test]
fn faults_in_what_a_running_client_hands_over_are_caught() {
    for fault in Fault::ALL {
        let tamper = Tamper::new(fault, 2, Duration::from_secs(5));
        let outcome = run_tampered(Plan::calm(1, LENGTH), Some(tamper));
        let rule = match fault {
            Fault::Reorder => Rule::Contiguous,
            Fault::Duplicate => Rule::Once,
            Fault::Lose => Rule::Complete,
            Fault::Leak => Rule::Isolation,
            Fault::Alter => Rule::Unaltered,
            Fault::Older => Rule::Newest,
        };
        assert_caught(rule, &outcome.history);
    }
}

/// A short run that nothing happens to.
fn recorded() -> &'static History {
    static RECORDED: OnceLock<History> = OnceLock::new();
    RECORDED.get_or_init(|| run(Plan::calm(1, LENGTH)).history)
}

/// That the fault that is planted into one life breaks this rule.
fn caught(rule: Rule, plant: impl Fn(&mut Life, &History)) {
    let mut history = recorded().clone();
    plant(&mut history.lives[VICTIM], recorded());
    assert_caught(rule, &history);
}

fn assert_caught(rule: Rule, history: &History) {
    let found = check(history);
    let named = found.iter().any(|violation| violation.rule == rule);
    assert!(named, "{rule:?} is not in {found:?}");
}

/// Where the nth fact of a kind stands.
fn nth(life: &Life, nth: usize, wanted: impl Fn(&Fact) -> bool) -> usize {
    let facts = life.facts.iter().enumerate();
    let mut found = facts.filter(|(_, (_, fact))| wanted(fact));
    found.nth(nth).unwrap().0
}

/// Where the nth Ordered delivery stands.
fn ordered(life: &Life, n: usize) -> usize {
    nth(life, n, |fact| is_delivered(fact, Mode::Ordered))
}

fn is_delivered(fact: &Fact, mode: Mode) -> bool {
    matches!(fact, Fact::Delivered(delivery) if delivery.mode == mode)
}

fn sent(fact: &Fact, wanted: Mode) -> Option<(Digest, &Target)> {
    if let Fact::Sent {
        message,
        mode,
        target,
        ..
    } = fact
        && *mode == wanted
    {
        Some((*message, target))
    } else {
        None
    }
}

fn delivery(life: &mut Life, at: usize) -> &mut Delivery {
    let fact = &mut life.facts[at].1;
    if let Fact::Delivered(delivery) = fact {
        delivery
    } else {
        panic!("{fact:?} is no delivery")
    }
}

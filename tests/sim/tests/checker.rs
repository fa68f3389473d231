//! The checker's own test: every planted fault is found, and nothing is found where none is.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::OnceLock;
use std::time::Duration;

use dreamcatcher_proto::frame::{Mode, Place};
use dreamcatcher_proto::history::{self, Verdict};
use dreamcatcher_proto::{BootId, Epoch, ErrorCode, Incarnation, Index, SessionId};
use dreamcatcher_sim::checker::{Invariant, check};
use dreamcatcher_sim::history::{
    Change, Delivery, Digest, Fact, Fate, FaultKind, History, Life, Log, Mark, RelayFact,
};
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
    caught(Invariant::Contiguous, |victim, _| {
        let (first, second) = (ordered(victim, 10), ordered(victim, 11));
        victim.facts.swap(first, second);
    });
}

#[test]
fn two_messages_at_one_index_are_caught() {
    caught(Invariant::OneOrder, |victim, _| {
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
    caught(Invariant::Once, |victim, _| {
        let at = ordered(victim, 10);
        victim.facts.insert(at + 1, victim.facts[at].clone());
    });
}

#[test]
fn a_planted_loss_is_caught() {
    caught(Invariant::Complete, |victim, _| {
        victim.facts.remove(ordered(victim, 10));
    });
}

#[test]
fn a_lost_tail_is_caught() {
    caught(Invariant::Complete, |victim, _| {
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
        *delivery(victim, at)
    };
    for life in &mut history.lives {
        life.facts.retain(|(_, fact)| match fact {
            Fact::Delivered(Delivery { message, .. }) | Fact::Sent { message, .. } => {
                *message != lost.message
            }
            Fact::Committed { index, .. } => *index != lost.place.index,
            Fact::Refused { .. }
            | Fact::Joined { .. }
            | Fact::Membership { .. }
            | Fact::Rejected { .. }
            | Fact::Gap { .. }
            | Fact::Resync { .. }
            | Fact::Reconnecting
            | Fact::Resumed
            | Fact::Ended { .. }
            | Fact::Standing { .. }
            | Fact::Incomplete { .. } => true,
        });
    }
    assert_caught(Invariant::Contiguous, &history);
}

#[test]
fn a_planted_leak_from_another_session_is_caught() {
    caught(Invariant::AsSent, |victim, recorded| {
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
    caught(Invariant::AsSent, |victim, _| {
        let at = ordered(victim, 10);
        let message = &mut delivery(victim, at).message;
        *message = Digest(!message.0);
    });
}

#[test]
fn a_forged_sender_is_caught() {
    caught(Invariant::AsSent, |victim, _| {
        let at = ordered(victim, 10);
        delivery(victim, at).sender.0 += 1;
    });
}

#[test]
fn a_message_that_was_not_for_this_member_is_caught() {
    caught(Invariant::AsSent, |victim, recorded| {
        let (me, _) = victim.joined().unwrap();
        let others = recorded
            .lives
            .iter()
            .filter(|life| life.game == victim.game);
        let mut stray = others.filter_map(|life| {
            let (sender, _) = life.joined()?;
            life.facts.iter().find_map(|(at, fact)| {
                let Fact::Sent {
                    mode: Mode::Datagram,
                    seq,
                    target,
                    message,
                    bytes,
                    ..
                } = fact
                else {
                    return None;
                };
                let stray = Delivery {
                    sender,
                    incarnation: Incarnation(1),
                    mode: Mode::Datagram,
                    seq: *seq,
                    key: 0,
                    message: *message,
                    bytes: *bytes,
                    place: Place::default(),
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
    caught(Invariant::Newest, |victim, _| {
        let newer = nth(victim, 60, |fact| is_delivered(fact, Mode::Latest));
        let Delivery { sender, key, .. } = *delivery(victim, newer);
        let same = |fact: &Fact| matches!(fact, Fact::Delivered(d) if (d.mode, d.sender, d.key) == (Mode::Latest, sender, key));
        let older = nth(victim, 0, same);
        victim.facts.swap(older, newer);
    });
}

#[test]
fn a_reliable_message_that_is_missing_without_a_word_is_caught() {
    caught(Invariant::Announced, |victim, _| {
        let first = nth(victim, 0, |fact| is_delivered(fact, Mode::Reliable));
        let sender = delivery(victim, first).sender;
        let same = |fact: &Fact| matches!(fact, Fact::Delivered(d) if (d.mode, d.sender) == (Mode::Reliable, sender));
        victim.facts.remove(nth(victim, 1, same));
    });
}

#[test]
fn a_rejected_message_that_is_delivered_is_caught() {
    caught(Invariant::Rejected, |victim, _| {
        let at = nth(victim, 3, |fact| matches!(fact, Fact::Committed { .. }));
        if let Fact::Committed { seq, .. } = victim.facts[at].1 {
            let (mode, code) = (Mode::Ordered, ErrorCode::PeerNotFound);
            victim.facts[at].1 = Fact::Rejected { mode, seq, code };
        }
    });
}

#[test]
fn a_send_of_which_nobody_says_what_became_is_caught() {
    caught(Invariant::Resolved, |victim, _| {
        let at = nth(victim, 3, |fact| matches!(fact, Fact::Committed { .. }));
        victim.facts.remove(at);
    });
}

#[test]
fn a_send_that_is_resolved_twice_is_caught() {
    caught(Invariant::Resolved, |victim, _| {
        let at = nth(victim, 3, |fact| matches!(fact, Fact::Committed { .. }));
        victim.facts.insert(at + 1, victim.facts[at].clone());
    });
}

#[test]
fn a_falling_epoch_is_caught() {
    caught(Invariant::Epochs, |victim, _| {
        let at = ordered(victim, 10);
        delivery(victim, at).place.epoch = Epoch(1);
    });
}

#[test]
fn a_sender_whose_messages_change_places_is_caught() {
    caught(Invariant::SenderOrder, |victim, _| {
        let nth_sent = |n| nth(victim, n, |fact| is_sent(fact, Mode::Ordered));
        let (first, second) = (nth_sent(2), nth_sent(3));
        victim.facts.swap(first, second);
    });
}

#[test]
fn an_answer_that_is_ordered_before_what_it_answers_is_caught() {
    caught(Invariant::Causality, |victim, _| {
        let at = nth(victim, 2, |fact| is_sent(fact, Mode::Ordered));
        let answer = victim.facts.remove(at);
        victim.facts.push(answer);
    });
}

#[test]
fn a_terminal_event_too_many_too_few_or_out_of_place_is_caught() {
    let end = |code| (LENGTH, Fact::Ended { code });
    const LOST: Fate = Fate::Ends(&[ErrorCode::OwnerLost]);
    caught(Invariant::Terminal, |victim, _| {
        victim.fate = LOST;
        victim
            .facts
            .extend([end(ErrorCode::OwnerLost), end(ErrorCode::OwnerLost)]);
    });
    caught(Invariant::Terminal, |victim, _| victim.fate = LOST);
    caught(Invariant::Terminal, |victim, _| {
        victim.fate = LOST;
        victim.facts.push(end(ErrorCode::Kicked));
    });
    caught(Invariant::Terminal, |victim, _| {
        victim.facts.push(end(ErrorCode::OwnerLost))
    });
}

#[test]
fn a_member_that_is_left_behind_or_never_served_is_caught() {
    caught(Invariant::Healed, |victim, _| {
        if let Some((_, Fact::Standing { index, .. })) = victim.facts.last_mut() {
            *index = Index(index.0 - 1);
        }
    });
    caught(Invariant::Healed, |victim, _| victim.facts.clear());
}

#[test]
fn members_that_see_others_come_and_go_differently_are_caught() {
    caught(Invariant::OneOrder, |victim, _| {
        let at = nth(victim, 0, |fact| matches!(fact, Fact::Membership { .. }));
        if let Fact::Membership { change, .. } = &mut victim.facts[at].1 {
            *change = Change::Left;
        }
    });
}

#[test]
fn a_commit_that_falls_back_is_caught() {
    caught(Invariant::Committed, |victim, _| {
        let commit = |fact: &Fact| matches!(fact, Fact::Committed { .. });
        let (first, second) = (nth(victim, 3, commit), nth(victim, 4, commit));
        victim.facts.swap(first, second);
    });
}

#[test]
fn who_hears_more_after_it_left_is_caught() {
    let mut history = recorded().clone();
    let victim = history.lives[VICTIM].clone();
    let (me, _) = victim.joined().unwrap();
    let other = history
        .lives
        .iter_mut()
        .find(|life| life.game == victim.game && life.name != victim.name);
    let other = other.unwrap();
    let kicked = Fact::Membership {
        peer: me,
        change: Change::Left,
        code: ErrorCode::Kicked,
    };
    let at = ordered(other, 5);
    other.facts.insert(at, (other.facts[at].0, kicked));
    assert_caught(Invariant::Entitled, &history);
    caught(Invariant::Entitled, |victim, _| {
        let at = ordered(victim, 5);
        let code = ErrorCode::Kicked;
        victim
            .facts
            .insert(at, (victim.facts[at].0, Fact::Ended { code }));
    });
}

#[test]
fn a_relay_that_orders_what_it_should_breaks_nothing_and_its_invariants_are_checked() {
    let mut history = recorded().clone();
    let (_, log) = owner_of(&history);
    history.relays.push(log);
    assert_eq!(check(&history), []);
    let report = history::check(&history.recorded());
    for invariant in [Invariant::OneBoot, Invariant::Sealed] {
        let finding = report.finding(invariant);
        assert_eq!(finding.verdict(), Verdict::Kept, "{finding:?}");
        assert!(
            finding.unchecked > 0,
            "the other sessions' owners recorded nothing"
        );
    }
    let report = history::check(&recorded().recorded());
    for invariant in [Invariant::OneBoot, Invariant::Sealed] {
        let finding = report.finding(invariant);
        assert_eq!(finding.verdict(), Verdict::NotChecked);
        assert!(!finding.reasons.is_empty());
    }
}

#[test]
fn an_epoch_that_two_runs_order_under_is_caught() {
    let mut history = recorded().clone();
    let (_, log) = owner_of(&history);
    let mut other = log.clone();
    for (_, fact) in &mut other.facts {
        if let RelayFact::Created { boot, .. } | RelayFact::Ordered { boot, .. } = fact {
            *boot = BootId(boot.0 + 1);
        }
    }
    history.relays.extend([log, other]);
    assert_caught(Invariant::OneBoot, &history);
}

#[test]
fn entries_of_a_sealed_owner_behind_the_recovered_prefix_are_caught() {
    let mut history = recorded().clone();
    let (session, log) = owner_of(&history);
    let victim = &mut history.lives[VICTIM];
    let at = ordered(victim, 10);
    let place = delivery(victim, at).place;
    let took_over = |prefix| Log {
        facts: vec![(
            LENGTH,
            RelayFact::TookOver {
                session,
                epoch: place.epoch.next(),
                boot: BootId(99),
                prefix,
            },
        )],
        ..log.clone()
    };
    let [all, less] = [Index(u64::MAX), place.index].map(took_over);
    history.relays = vec![log.clone(), all];
    assert_eq!(check(&history), [], "everything is in the prefix");
    history.relays = vec![log, less];
    assert_caught(Invariant::Sealed, &history);
    // Some of what follows was committed.
    assert_caught(Invariant::Committed, &history);
}

#[test]
fn a_relay_that_orders_on_after_it_was_sealed_is_caught() {
    let mut history = recorded().clone();
    let (session, mut log) = owner_of(&history);
    let epoch = Epoch(u64::MAX);
    log.facts
        .insert(20, (LENGTH, RelayFact::Sealed { session, epoch }));
    history.relays.push(log);
    assert_caught(Invariant::Sealed, &history);
}

#[test]
fn a_relay_that_orders_an_index_again_is_caught() {
    let mut history = recorded().clone();
    let (_, mut log) = owner_of(&history);
    log.facts.swap(20, 21);
    history.relays.push(log);
    assert_caught(Invariant::Committed, &history);
}

#[test]
fn a_lost_continuity_is_caught_unless_two_relays_crashed() {
    let mut history = recorded().clone();
    let victim = &mut history.lives[VICTIM];
    let at = ordered(victim, 10);
    let Place { epoch, index } = delivery(victim, at).place;
    let from = Index(index.0 - 1);
    victim
        .facts
        .insert(at, (victim.facts[at].0, Fact::Resync { from, epoch }));
    let crash = |fault| {
        let (kind, target) = (FaultKind::RelayCrash, format!("relay {fault}"));
        let crash = Mark::Injected {
            fault,
            kind,
            target,
        };
        (Duration::from_secs(2), crash)
    };
    assert_caught(Invariant::NoResync, &history);
    history.faults.push(crash(91));
    assert_caught(Invariant::NoResync, &history);
    history.faults.push(crash(92));
    assert_eq!(check(&history), [], "two relays may lose what both held");
    let report = history::check(&history.recorded());
    let finding = report.finding(Invariant::NoResync);
    assert_eq!(finding.verdict(), Verdict::NotChecked);
}

#[test]
fn a_member_that_is_not_well_5_s_after_the_last_fault_is_caught() {
    let mut history = recorded().clone();
    let index = {
        let victim = &mut history.lives[VICTIM];
        let at = ordered(victim, 10);
        delivery(victim, at).place.index
    };
    let game = history.lives[VICTIM].game;
    let known = history.lives.iter().filter(|life| life.game == game);
    let known = known.flat_map(|life| {
        let of_index = life.deliveries().filter(|(_, d)| d.place.index == index);
        of_index.map(|(at, _)| at).collect::<Vec<_>>()
    });
    let healed = known.min().unwrap();
    let (fault, kind, target) = (1, FaultKind::Cut, "everyone".to_owned());
    let injected = Mark::Injected {
        fault,
        kind,
        target,
    };
    let mended = Mark::Healed { fault };
    history.faults = vec![(Duration::ZERO, injected), (healed, mended)];
    assert_eq!(check(&history), [], "nothing is late");
    let victim = &mut history.lives[VICTIM];
    let late = ordered(victim, 10);
    for (at, _) in &mut victim.facts[late..] {
        *at += Duration::from_secs(6);
    }
    assert_caught(Invariant::Healed, &history);
    history.faults.pop();
    let found = check(&history);
    assert_eq!(found, [], "who is still cut off may be late");
}

#[test]
fn faults_in_what_a_running_client_hands_over_are_caught() {
    for fault in Fault::ALL {
        let tamper = Tamper::new(fault, 2, Duration::from_secs(5));
        let outcome = run_tampered(Plan::calm(1, LENGTH), Some(tamper));
        let rule = match fault {
            Fault::Reorder => Invariant::Contiguous,
            Fault::Duplicate => Invariant::Once,
            Fault::Lose => Invariant::Complete,
            Fault::Leak => Invariant::AsSent,
            Fault::Alter => Invariant::AsSent,
            Fault::Older => Invariant::Newest,
        };
        assert_caught(rule, &outcome.history);
    }
}

/// A short run that nothing happens to.
fn recorded() -> &'static History {
    static RECORDED: OnceLock<History> = OnceLock::new();
    RECORDED.get_or_init(|| run(Plan::calm(1, LENGTH)).history)
}

/// What the relay that ordered the victim's session would have recorded.
fn owner_of(history: &History) -> (SessionId, Log<RelayFact>) {
    let victim = &history.lives[VICTIM];
    let session = victim.session().unwrap();
    let boot = BootId(7);
    let mut facts = Vec::new();
    for (at, delivery) in victim.deliveries() {
        let Place { epoch, index } = delivery.place;
        if facts.is_empty() && delivery.mode == Mode::Ordered {
            facts.push((
                Duration::ZERO,
                RelayFact::Created {
                    session,
                    epoch,
                    boot,
                },
            ));
        }
        if delivery.mode == Mode::Ordered {
            facts.push((
                at,
                RelayFact::Ordered {
                    session,
                    epoch,
                    boot,
                    index,
                },
            ));
        }
    }
    let log = Log {
        name: "relay-1-0".to_owned(),
        source: "relay-1-0".into(),
        first_line: 1,
        is_cut: false,
        facts,
    };
    (session, log)
}

/// That the fault that is planted into one life breaks this rule.
fn caught(rule: Invariant, plant: impl Fn(&mut Life, &History)) {
    let mut history = recorded().clone();
    plant(&mut history.lives[VICTIM], recorded());
    assert_caught(rule, &history);
}

fn assert_caught(rule: Invariant, history: &History) {
    let found = check(history);
    let named = found.iter().any(|violation| violation.invariant == rule);
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

fn is_sent(fact: &Fact, wanted: Mode) -> bool {
    matches!(fact, Fact::Sent { mode, .. } if *mode == wanted)
}

fn delivery(life: &mut Life, at: usize) -> &mut Delivery {
    let fact = &mut life.facts[at].1;
    if let Fact::Delivered(delivery) = fact {
        delivery
    } else {
        panic!("{fact:?} is no delivery")
    }
}

//! Histories as files: what is written reads back, and what is not a history is refused with the line,
//! the field and what to do.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use dreamcatcher_proto::frame::{Mode, Place, Target};
use dreamcatcher_proto::history::line::read;
use dreamcatcher_proto::history::{
    Cause, Change, Delivery, Digest, FILE_BYTES_MAX, Fact, Facts, History, Invariant,
    LINE_BYTES_MAX, Reading, Recorder, Recording, Verdict, check,
};
use dreamcatcher_proto::{Epoch, ErrorCode, Incarnation, Index, PeerId, Seq, SessionId};
use proptest::prelude::*;

const HEADER: &str = r#"{"format":"dreamcatcher-history","version":1,"kind":"member","name":"ann","started_unix_ms":1800000000000}"#;

#[test]
fn what_a_recorder_writes_reads_back() {
    let facts = session_of(PeerId(1), PeerId(2));
    let recording = recorded("ann", &facts);
    assert_eq!(recording.header.name, "ann");
    assert!(!recording.is_cut);
    let Facts::Member(read) = recording.facts else {
        panic!("{:?}", recording.facts)
    };
    assert_eq!(read, facts);
}

#[test]
fn two_members_of_a_session_are_put_together_and_judged() {
    let ann = recorded("ann", &session_of(PeerId(1), PeerId(2)));
    let bob = recorded("bob", &session_of(PeerId(2), PeerId(1)));
    let report = check(&History::merge(vec![ann, bob]).unwrap());
    assert_eq!((report.sessions, report.members, report.entries), (1, 2, 2));
    assert!(
        report.is_kept(),
        "{:?}",
        report.violations().collect::<Vec<_>>()
    );
    let verdict = |invariant| report.finding(invariant).verdict();
    assert_eq!(verdict(Invariant::OneOrder), Verdict::Kept);
    assert_eq!(verdict(Invariant::OneBoot), Verdict::NotChecked);
    assert_eq!(report.finding(Invariant::AsSent).unchecked, 0);
}

#[test]
fn a_violation_names_file_and_line_of_both_sides() {
    let ann = session_of(PeerId(1), PeerId(2));
    let mut bob = session_of(PeerId(2), PeerId(1));
    let at = bob
        .iter()
        .position(|(_, fact)| matches!(fact, Fact::Delivered(d) if d.sender == PeerId(1)));
    let at = at.unwrap();
    if let Fact::Delivered(delivery) = &mut bob[at].1 {
        delivery.message = Digest(1);
    }
    let both = vec![recorded("ann", &ann), recorded("bob", &bob)];
    let report = check(&History::merge(both).unwrap());
    let finding = report.finding(Invariant::AsSent);
    let said = finding.violations[0].to_string();
    // Its header is the first line.
    let sent = ann
        .iter()
        .position(|(_, fact)| matches!(fact, Fact::Sent { .. }));
    let sites = format!(
        "(bob.jsonl:{}, against ann.jsonl:{})",
        at + 2,
        sent.unwrap() + 2
    );
    assert!(said.ends_with(&sites), "{said}");
}

#[test]
fn what_a_member_that_recorded_nothing_sent_is_not_judged_and_the_report_says_so() {
    let ann = recorded("ann", &session_of(PeerId(1), PeerId(2)));
    let report = check(&History::merge(vec![ann]).unwrap());
    assert!(
        report.is_kept(),
        "{:?}",
        report.violations().collect::<Vec<_>>()
    );
    let finding = report.finding(Invariant::AsSent);
    assert_eq!(finding.unchecked, 1);
    assert!(finding.reasons.contains("peer 2 recorded no history"));
    let order = report.finding(Invariant::OneOrder);
    assert_eq!(order.verdict(), Verdict::NotChecked);
}

#[test]
fn who_joins_twice_has_two_lives() {
    let mut facts = session_of(PeerId(1), PeerId(2));
    let lines = facts.len();
    let mut again = session_of(PeerId(1), PeerId(2));
    if let Fact::Joined { session, .. } = &mut again[0].1 {
        *session = SessionId([9; 16]);
    }
    facts.extend(again);
    let history = History::merge(vec![recorded("ann", &facts)]).unwrap();
    assert_eq!(history.members.len(), 2);
    assert_eq!(history.members[1].name, "ann, life 2");
    assert_eq!(history.members[1].first_line, 2 + lines);
    assert_eq!(check(&history).sessions, 2);
}

#[test]
fn a_life_that_is_given_twice_is_refused_and_both_files_are_named() {
    let facts = session_of(PeerId(1), PeerId(2));
    let refused = History::merge(vec![recorded("ann", &facts), recorded("copy", &facts)]);
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("copy.jsonl") && said.contains("ann.jsonl"),
        "{said}"
    );
}

#[test]
fn times_of_files_that_began_at_other_times_are_put_on_one_clock() {
    let facts = vec![(Duration::from_millis(5), Fact::Reconnecting)];
    let mut late = recorded("late", &facts);
    late.header.started_unix_ms += 2_000;
    let history = History::merge(vec![late, recorded("early", &facts)]).unwrap();
    assert_eq!(history.members[0].until(), Duration::from_millis(2_005));
    assert_eq!(history.members[1].until(), Duration::from_millis(5));
}

#[test]
fn a_file_that_is_full_ends_with_a_line_that_says_so_within_its_limit() {
    let mut out = Vec::new();
    let mut recorder = Recorder::begin_with("ann", 0, 1_000, &mut out).unwrap();
    for _ in 0..100 {
        recorder.note(Duration::from_secs(1), &Fact::Reconnecting, &mut out);
    }
    assert!(recorder.is_over());
    assert!(out.len() <= 1_000, "{}", out.len());
    let last = String::from_utf8(out.clone()).unwrap();
    let last = last.lines().last().unwrap().to_owned();
    assert_eq!(
        last,
        r#"{"us":1000000,"fact":{"incomplete":{"cause":"too_large"}}}"#
    );
    assert!(read("f", lines(&out)).unwrap().is_cut);
}

#[test]
fn a_recorder_that_is_cut_notes_nothing_more() {
    let mut out = Vec::new();
    let mut recorder = Recorder::<Fact>::begin("ann", 0, &mut out).unwrap();
    recorder.cut(Duration::ZERO, Cause::TooSlow, &mut out);
    let length = out.len();
    recorder.cut(Duration::ZERO, Cause::TooLarge, &mut out);
    recorder.note(Duration::ZERO, &Fact::Resumed, &mut out);
    assert_eq!(out.len(), length);
    const { assert!(FILE_BYTES_MAX > 1_000_000) };
}

#[test]
fn what_a_cut_off_recording_may_have_missed_is_not_held_against_anybody() {
    // The recorder of peer 1 was stopped before it noted its own send.
    let mut ann = session_of(PeerId(1), PeerId(2));
    ann.truncate(1);
    let mut ann = recorded("ann", &ann);
    ann.is_cut = true;
    let bob = recorded("bob", &session_of(PeerId(2), PeerId(1)));
    let report = check(&History::merge(vec![ann, bob]).unwrap());
    assert!(
        report.is_kept(),
        "{:?}",
        report.violations().collect::<Vec<_>>()
    );
    assert_eq!(report.incomplete, 1);
    let reasons = &report.finding(Invariant::AsSent).reasons;
    assert!(
        reasons.contains("the history of ann ends early"),
        "{reasons:?}"
    );
}

#[test]
fn what_is_not_a_history_is_refused_with_line_field_and_what_to_do() {
    let fact = |fact: &str| format!("{HEADER}\n{fact}");
    let other = |from: &str, to: &str| HEADER.replace(from, to);
    for (text, said) in [
        (
            String::new(),
            "f: it is empty; a history begins with a line such as",
        ),
        ("{}".to_owned(), "f:1: missing field `format`"),
        ("PK\x03\x04".to_owned(), "a history begins with"),
        (
            other("dreamcatcher-history", "pcap"),
            "`format` is not \"dreamcatcher-history\"",
        ),
        (
            other("\"version\":1", "\"version\":2"),
            "`version` is 2, and this program reads 1",
        ),
        (other("member", "referee"), "unknown variant `referee`"),
        (
            other("ann", "\\u001b[2J"),
            "`name` must be at most 128 characters without control",
        ),
        (other("ann", &"n".repeat(129)), "`name` must be at most 128"),
        (fact("{}"), "f:2: missing field `us`"),
        (
            fact(r#"{"us":-1,"fact":"resumed"}"#),
            "f:2: invalid value: integer `-1`",
        ),
        (
            fact(r#"{"us":1,"fact":"exploded"}"#),
            "unknown variant `exploded`",
        ),
        (
            fact(r#"{"us":1,"fact":{"committed":{"seq":1}}}"#),
            "missing field `index`",
        ),
        (
            fact(r#"{"us":1,"fact":{"committed":{"seq":1,"index":2,"x":3}}}"#),
            "unknown field `x`",
        ),
        (
            fact(r#"{"us":1,"fact":{"ended":{"code":3}}}"#),
            "there is no error code 3",
        ),
        (
            fact(r#"{"us":1,"fact":{"incomplete":{"cause":"bored"}}}"#),
            "unknown variant `bored`",
        ),
        (
            fact(r#"{"us":1,"fact":"resumed"} x"#),
            "trailing characters",
        ),
        (fact(&"[".repeat(300)), "f:2: "),
        (
            fact(&"x".repeat(LINE_BYTES_MAX + 1)),
            "f:2: the line has more than 4096 bytes",
        ),
        (
            fact("{\"us\":1,\"fact\":{\"incomplete\":{\"cause\":\"too_slow\"}}}\n{}"),
            "f:3: nothing can follow `incomplete`",
        ),
        (
            fact(
                r#"{"us":1,"fact":{"joined":{"session":"AA","peer":1,"incarnation":1,"index":0,"members":[]}}}"#,
            ),
            "session_id must be 32 lower-case hexadecimal digits",
        ),
    ] {
        let refused = read("f", text.lines());
        let refused = refused.map(|r| r.facts.len()).unwrap_err().to_string();
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(!refused.chars().any(char::is_control), "{refused:?}");
    }
}

#[test]
fn a_target_of_a_fault_cannot_write_to_a_terminal() {
    let header = HEADER.replace("member", "faults");
    let mark = r#"{"us":1,"fact":{"injected":{"fault":1,"kind":"cut","target":"\u001b[2J"}}}"#;
    let refused = read("f", [header.as_str(), mark]).unwrap_err().to_string();
    assert!(refused.contains("`target` must be"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut reading = Reading::new("f");
        let _ = reading.line(&line);
        let mut reading = Reading::new("f");
        reading.line(HEADER.as_bytes()).unwrap();
        let _ = reading.line(&line);
    }

    /// Whatever members say, the judge comes to a verdict, at extreme numbers too.
    #[test]
    fn no_facts_make_the_judge_panic(
        ann in prop::collection::vec(any_fact(), 0..40),
        bob in prop::collection::vec(any_fact(), 0..40),
    ) {
        let log = |name, mut facts: Vec<(Duration, Fact)>, peer| {
            let joined = session_of(PeerId(peer), PeerId(3 - peer)).remove(0);
            facts.insert(0, joined);
            recorded(name, &facts)
        };
        if let Ok(history) = History::merge(vec![log("ann", ann, 1), log("bob", bob, 2)]) {
            let report = check(&history);
            prop_assert!(report.sessions > 0);
        }
    }

    #[test]
    fn every_fact_reads_back(facts in prop::collection::vec(any_fact(), 0..20)) {
        let recording = recorded("ann", &facts);
        let Facts::Member(read) = recording.facts else { panic!() };
        prop_assert_eq!(read, facts);
    }
}

fn any_fact() -> impl Strategy<Value = (Duration, Fact)> {
    let number = || prop_oneof![0..5_u64, Just(u64::MAX), Just(u64::MAX - 1)];
    let mode = prop::sample::select(&Mode::ALL);
    let kind = 0..13_u8;
    let numbers = (number(), number(), number(), 0..4_u16, any::<bool>());
    (kind, mode, numbers).prop_map(|(kind, mode, (a, b, c, peer, flag))| {
        let seq = Seq(u32::try_from(a).unwrap_or(u32::MAX));
        let (index, epoch, peer) = (Index(b), Epoch(c), PeerId(peer));
        let code = if flag {
            ErrorCode::Ok
        } else {
            ErrorCode::Kicked
        };
        let incarnation = Incarnation(1);
        let fact = match kind {
            0 => Fact::Refused { code },
            1 => Fact::Joined {
                session: SessionId([7; 16]),
                peer,
                incarnation: Incarnation(2 + u16::from(flag)),
                index,
                members: vec![PeerId(1), PeerId(2)],
            },
            2 => Fact::Sent {
                mode,
                seq,
                target: if flag {
                    Target::All
                } else {
                    Target::Peers(vec![peer])
                },
                key: 0,
                message: Digest(a),
                bytes: 1,
            },
            3 | 4 => Fact::Delivered(Delivery {
                sender: peer,
                incarnation,
                mode,
                seq,
                key: 0,
                message: Digest(a),
                bytes: 1,
                place: Place { epoch, index },
            }),
            5 => Fact::Membership {
                peer,
                change: if flag { Change::Left } else { Change::Joined },
                code,
            },
            6 => Fact::Committed { seq, index },
            7 => Fact::Rejected { mode, seq, code },
            8 => Fact::Gap {
                sender: peer,
                missed: u32::MAX,
            },
            9 => Fact::Resync { from: index, epoch },
            10 => Fact::Reconnecting,
            11 => Fact::Ended { code },
            _ => Fact::Standing {
                index,
                unresolved: 0,
            },
        };
        (Duration::from_micros(c), fact)
    })
}

/// What a member sees of a session of two in which each says one thing: first peer 1, then peer 2.
fn session_of(me: PeerId, other: PeerId) -> Vec<(Duration, Fact)> {
    let incarnation = Incarnation(1);
    let message = |peer: PeerId| Digest::of(Mode::Ordered, 0, &[peer.0 as u8]);
    let delivered = |peer: PeerId| {
        Fact::Delivered(Delivery {
            sender: peer,
            incarnation,
            mode: Mode::Ordered,
            seq: Seq(1),
            key: 0,
            message: message(peer),
            bytes: 1,
            place: Place {
                epoch: Epoch(5),
                index: Index(u64::from(peer.0)),
            },
        })
    };
    let joined = Fact::Joined {
        session: SessionId([7; 16]),
        peer: me,
        incarnation,
        index: Index(0),
        members: vec![me, other],
    };
    let sent = Fact::Sent {
        mode: Mode::Ordered,
        seq: Seq(1),
        target: Target::All,
        key: 0,
        message: message(me),
        bytes: 1,
    };
    let committed = Fact::Committed {
        seq: Seq(1),
        index: Index(u64::from(me.0)),
    };
    let mut facts = vec![joined, sent];
    for peer in [PeerId(1), PeerId(2)] {
        facts.push(delivered(peer));
        if peer == me {
            facts.push(committed.clone());
        }
    }
    facts.push(Fact::Standing {
        index: Index(2),
        unresolved: 0,
    });
    let at = |number: usize| Duration::from_millis(number as u64);
    facts
        .into_iter()
        .enumerate()
        .map(|(n, fact)| (at(n), fact))
        .collect()
}

fn recorded(name: &str, facts: &[(Duration, Fact)]) -> Recording {
    let mut out = Vec::new();
    let mut recorder = Recorder::begin(name, 1_800_000_000_000, &mut out).unwrap();
    for (at, fact) in facts {
        recorder.note(*at, fact, &mut out);
    }
    read(&format!("{name}.jsonl"), lines(&out)).unwrap()
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let file = file.strip_suffix(b"\n").unwrap();
    file.split(|byte| *byte == b'\n')
}

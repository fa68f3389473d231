//! What happens to a mesh, one thing at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use dreamcatcher_proto::ErrorCode;
use dreamcatcher_proto::frame::Mode;
use dreamcatcher_sim::checker::check;
use dreamcatcher_sim::history::{Change, Fact, History, Life};
use dreamcatcher_sim::net::{Between, Cut, Party};
use dreamcatcher_sim::plan::{Incident, Plan, PlayerPlan};
use dreamcatcher_sim::world::run;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

#[test]
fn in_calm_weather_everyone_joins_and_nobody_ever_reconnects() {
    for seed in SEEDS {
        let history = kept(Plan::calm(seed, s(20)));
        assert_eq!(history.lives.len(), 24);
        assert_eq!(history.count(|fact| matches!(fact, Fact::Reconnecting)), 0);
        assert_eq!(history.count(|fact| matches!(fact, Fact::Gap { .. })), 0);
        for mode in Mode::ALL {
            let of_mode =
                |fact: &Fact| matches!(fact, Fact::Delivered(delivery) if delivery.mode == mode);
            assert!(history.count(of_mode) > 200, "seed {seed}: {}", mode.name());
        }
    }
}

#[test]
fn when_a_relay_crashes_every_session_goes_on_and_loses_nothing() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(35));
        plan.incidents.push((s(8), Incident::Crash(0)));
        let pinned = plan.players.iter().filter(|p| p.relay == 0).count();
        let history = kept(plan);
        assert_eq!(
            history.count(|fact| matches!(fact, Fact::Ended { .. })),
            0,
            "seed {seed}"
        );
        let resumed = history.lives.iter();
        let resumed = resumed.filter(|life| count(life, |f| *f == Fact::Resumed) > 0);
        assert_eq!(
            resumed.count(),
            pinned,
            "seed {seed}: the crash must matter"
        );
        let epochs = |life: &Life| {
            let ordered = life.deliveries().filter(|(_, d)| d.mode == Mode::Ordered);
            ordered
                .map(|(_, d)| d.place.epoch)
                .collect::<BTreeSet<_>>()
                .len()
        };
        let moved = history.lives.iter().filter(|life| epochs(life) > 1).count();
        assert!(moved > 0, "seed {seed}: no session had another owner");
    }
}

#[test]
fn a_mesh_link_that_is_dark_for_three_seconds_ends_no_session_and_loses_nothing() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(30));
        let link = Between::Both(Party::Relay(0), Party::Relay(1));
        plan.cuts.push(cut(link, s(8), s(11)));
        let history = kept(plan);
        assert_eq!(
            history.count(|fact| matches!(fact, Fact::Ended { .. })),
            0,
            "seed {seed}"
        );
    }
}

#[test]
fn a_client_that_goes_silent_is_dropped_for_the_others_and_comes_back_without_a_gap() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(40));
        plan.incidents.push((s(8), Incident::Silence(0, s(15))));
        let history = kept(plan);
        let [silent] = lives_of(&history, 0)[..] else {
            panic!("seed {seed}: it has one life");
        };
        assert_eq!(
            count(silent, |f| *f == Fact::Reconnecting),
            1,
            "seed {seed}"
        );
        assert_eq!(count(silent, |f| *f == Fact::Resumed), 1, "seed {seed}");
        let others = history.lives.iter().filter(|life| life.game == silent.game);
        for other in others.filter(|other| other.name != silent.name) {
            for change in [Change::Dropped, Change::Rejoined] {
                let saw = |fact: &Fact| matches!(fact, Fact::Membership { change: c, .. } if *c == change);
                assert_eq!(
                    count(other, saw),
                    1,
                    "seed {seed}: {}, {change:?}",
                    other.name
                );
            }
            assert_eq!(count(other, |f| *f == Fact::Reconnecting), 0, "seed {seed}");
        }
    }
}

#[test]
fn a_relay_that_lost_touch_with_a_player_does_not_take_its_seat_back() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(30));
        let old = Party::Relay(0);
        for number in 0..plan.players.len() {
            if plan.players[number].relay == 0 {
                let player = Party::Player(number);
                // It hears nothing and moves on; its goodbye does not arrive.
                plan.cuts
                    .push(cut(Between::OneWay(old, player), s(10), s(20)));
                plan.cuts.push(cut(
                    Between::OneWay(player, old),
                    Duration::from_millis(13_300),
                    s(20),
                ));
            }
        }
        for other in 1..plan.relays {
            let link = Between::Both(old, Party::Relay(other));
            plan.cuts
                .push(cut(link, s(12), Duration::from_millis(14_200)));
        }
        let history = kept(plan);
        let ended = |fact: &Fact| matches!(fact, Fact::Ended { .. });
        assert_eq!(history.count(ended), 0, "seed {seed}");
    }
}

#[test]
fn a_player_that_leaves_is_told_so_once_and_can_join_anew() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(25));
        plan.incidents.push((s(6), Incident::Leave(4, s(2))));
        let history = kept(plan);
        let lives: Vec<&Life> = lives_of(&history, 4);
        assert_eq!(lives.len(), 2, "seed {seed}");
        assert_eq!(
            count(lives[0], |f| *f
                == Fact::Ended {
                    code: ErrorCode::Ok
                }),
            1
        );
        assert!(lives[1].plays());
    }
}

#[test]
fn the_newest_connection_of_a_user_wins_the_seat() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(25));
        let second = PlayerPlan {
            creates: false,
            starts: s(6),
            relay: (plan.players[4].relay + 1) % plan.relays,
            ..plan.players[4]
        };
        plan.players.push(second);
        let history = kept(plan);
        let [old] = lives_of(&history, 4)[..] else {
            panic!("seed {seed}: the first device has one life");
        };
        let replaced = Fact::Ended {
            code: ErrorCode::ReplacedByNewConnection,
        };
        assert_eq!(count(old, |fact| *fact == replaced), 1, "seed {seed}");
    }
}

#[test]
fn running_sessions_do_not_notice_that_the_directory_is_away() {
    for seed in SEEDS {
        let mut plan = Plan::calm(seed, s(30));
        plan.incidents.push((s(6), Incident::DirectoryDown(s(15))));
        let history = kept(plan);
        assert_eq!(
            history.count(|fact| matches!(fact, Fact::Reconnecting)),
            0,
            "seed {seed}"
        );
        assert_eq!(
            history.count(|fact| matches!(fact, Fact::Ended { .. })),
            0,
            "seed {seed}"
        );
    }
}

/// The history of a run that keeps every promise.
fn kept(plan: Plan) -> History {
    let seed = plan.seed;
    let history = run(plan).history;
    let violations: Vec<String> = check(&history).iter().map(ToString::to_string).collect();
    assert!(
        violations.is_empty(),
        "seed {seed}:\n{}",
        violations.join("\n")
    );
    history
}

fn lives_of(history: &History, player: usize) -> Vec<&Life> {
    let name = format!("player {player},");
    history
        .lives
        .iter()
        .filter(|life| life.name.starts_with(&name))
        .collect()
}

fn count(life: &Life, wanted: impl Fn(&Fact) -> bool) -> usize {
    life.facts.iter().filter(|(_, fact)| wanted(fact)).count()
}

fn cut(between: Between, from: Duration, until: Duration) -> Cut {
    Cut {
        between,
        from,
        until,
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

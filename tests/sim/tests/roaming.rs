//! Clients that look for the nearest relay: each finds it, moves when that pays, and its session
//! notices nothing.

use std::time::Duration;

use dreamcatcher_client::core::{Pick, Probing};
use dreamcatcher_sim::checker::check;
use dreamcatcher_sim::history::{Change, Fact, History};
use dreamcatcher_sim::net::{Between, Cut, Distance, Party};
use dreamcatcher_sim::plan::{Incident, Plan, Roaming};
use dreamcatcher_sim::world::{Outcome, run};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=2;
/// So that a run of half a minute sees several measurements.
const PROBING: Probing = Probing {
    every: s(4),
    warm_every: s(1),
};
/// One way, by how many steps a relay is away on the circle of them.
const FAR: [u64; 3] = [10, 40, 100];

#[test]
fn each_client_is_at_the_relay_that_is_20_ms_away_not_at_80_or_200() {
    for seed in SEEDS {
        let outcome = kept(regions(seed, s(20)));
        for (player, (relay, stats)) in &outcome.clients {
            assert_eq!(*relay, name(player % 3), "seed {seed}: player {player}");
            assert_eq!((stats.moves, stats.reconnects), (0, 0), "seed {seed}");
        }
    }
}

#[test]
fn when_its_relay_slows_down_a_client_moves_and_its_session_notices_nothing() {
    for seed in SEEDS {
        let mut plan = regions(seed, s(40));
        for player in (0..plan.players.len()).filter(|player| player % 3 == 0) {
            plan.distances
                .push(distance(player, 0, s(8), Duration::from_millis(150)));
        }
        let outcome = kept(plan);
        for (player, (relay, stats)) in &outcome.clients {
            let (wanted, moves) = if player % 3 == 0 {
                (1, 1)
            } else {
                (player % 3, 0)
            };
            assert_eq!(*relay, name(wanted), "seed {seed}: player {player}");
            assert_eq!((stats.moves, stats.reconnects), (moves, 0), "seed {seed}");
        }
        is_seamless(seed, &outcome.history);
    }
}

#[test]
fn between_two_relays_that_are_almost_equally_far_nobody_moves_however_it_jitters() {
    for seed in SEEDS {
        let mut plan = regions(seed, s(40));
        plan.weather.jitter_us = 4_000;
        for player in 0..plan.players.len() {
            for relay in 0..plan.relays {
                let delay = Duration::from_micros(20_000 + 1_500 * relay as u64);
                plan.distances.push(distance(player, relay, s(0), delay));
            }
        }
        let outcome = kept(plan);
        let moves: u64 = outcome.clients.values().map(|(_, stats)| stats.moves).sum();
        assert_eq!(moves, 0, "seed {seed}");
    }
}

#[test]
fn a_member_moves_to_the_relay_of_its_owner_if_that_is_no_farther_and_loses_nothing() {
    for seed in SEEDS {
        let mut plan = regions(seed, s(20));
        plan.roaming = Roaming {
            pick: Pick::Listed,
            follow_owner: true,
            probing: PROBING,
        };
        for player in 0..plan.players.len() {
            for relay in 0..plan.relays {
                let delay = Duration::from_millis(15);
                plan.distances.push(distance(player, relay, s(0), delay));
            }
        }
        let outcome = kept(plan.clone());
        let mut moves = 0;
        for (player, (relay, stats)) in &outcome.clients {
            moves += stats.moves;
            let game = plan.players[*player].game;
            let together = outcome
                .clients
                .iter()
                .filter(|(other, _)| plan.players[**other].game == game);
            for (_, (other, _)) in together {
                assert_eq!(
                    relay, other,
                    "seed {seed}: the members of session {game} are apart"
                );
            }
        }
        println!(
            "seed {seed}: {moves} of {} members moved",
            outcome.clients.len()
        );
        assert!(moves > 5, "seed {seed}: {moves}");
        is_seamless(seed, &outcome.history);
    }
}

#[test]
fn a_member_stays_where_it_is_if_the_owner_is_farther() {
    for seed in SEEDS {
        let mut plan = regions(seed, s(20));
        plan.roaming.follow_owner = true;
        let outcome = kept(plan);
        for (player, (relay, stats)) in &outcome.clients {
            assert_eq!(*relay, name(player % 3), "seed {seed}: player {player}");
            assert_eq!(stats.moves, 0, "seed {seed}: player {player}");
        }
    }
}

#[test]
fn a_relay_that_dies_while_clients_move_to_it_costs_them_nothing() {
    for seed in SEEDS {
        let mut failed = 0;
        for cut_from in [8_500, 10_000] {
            let mut plan = regions(seed, s(40));
            for player in (0..plan.players.len()).filter(|player| player % 3 == 0) {
                plan.distances
                    .push(distance(player, 0, s(8), Duration::from_millis(60)));
                // It is the nearest from here on; some time on the way there it falls silent.
                plan.distances
                    .push(distance(player, 1, s(8), Duration::from_millis(5)));
                plan.cuts.push(Cut {
                    between: Between::Both(Party::Player(player), Party::Relay(1)),
                    from: Duration::from_millis(cut_from + 61 * player as u64),
                    until: s(30),
                });
            }
            let outcome = kept(plan);
            let ended = |fact: &Fact| matches!(fact, Fact::Ended { .. });
            assert_eq!(
                outcome.history.count(ended),
                0,
                "seed {seed}, {cut_from} ms"
            );
            let clients = outcome.clients.values();
            failed += clients.map(|(_, stats)| stats.moves_failed).sum::<u64>();
        }
        println!("seed {seed}: {failed} moves came to nothing");
        assert!(failed > 0, "seed {seed}: it never died during a move");
    }
}

#[test]
fn when_a_relay_stops_in_good_order_its_members_move_before_it_is_gone() {
    for seed in SEEDS {
        let mut plan = regions(seed, s(25));
        plan.roaming.pick = Pick::Nearest;
        // Near enough to be gone in time.
        for player in 0..plan.players.len() {
            for relay in 0..plan.relays {
                let delay = Duration::from_millis(if relay == player % 3 { 5 } else { 12 });
                plan.distances.push(distance(player, relay, s(0), delay));
            }
        }
        plan.incidents.push((s(8), Incident::Stop(0)));
        let outcome = kept(plan);
        let saved = outcome.history.lives.iter().filter(|life| life.plays());
        let (mut count, mut reconnected) = (0, 0);
        for life in saved {
            count += 1;
            let facts = life.facts.iter();
            reconnected += facts
                .filter(|(_, fact)| *fact == Fact::Reconnecting)
                .count();
        }
        println!("seed {seed}: {count} members were saved, {reconnected} of them noticed");
        assert!(count > 0, "seed {seed}");
        assert_eq!(reconnected, 0, "seed {seed}");
        for (player, (relay, stats)) in &outcome.clients {
            assert_ne!(*relay, name(0), "seed {seed}: player {player}");
            let moved = u64::from(player % 3 == 0);
            assert_eq!(
                (stats.moves, stats.reconnects),
                (moved, 0),
                "seed {seed}: {player}"
            );
        }
    }
}

#[test]
fn after_a_crash_the_nearest_of_the_others_takes_over_as_fast_as_the_next_of_a_list() {
    let mut took = [Pick::Listed, Pick::Nearest].map(|pick| {
        let mut longest = Duration::ZERO;
        for seed in SEEDS {
            let mut plan = regions(seed, s(30));
            plan.roaming.pick = pick;
            plan.incidents.push((s(10), Incident::Crash(0)));
            let outcome = kept(plan);
            for life in outcome.history.lives.iter().filter(|life| life.plays()) {
                let resumed = life.facts.iter().filter(|(_, fact)| *fact == Fact::Resumed);
                longest = resumed
                    .map(|(at, _)| *at - s(10))
                    .fold(longest, Duration::max);
            }
            if pick == Pick::Nearest {
                for (player, (relay, _)) in outcome.clients.iter().filter(|(p, _)| *p % 3 == 0) {
                    assert_eq!(*relay, name(1), "seed {seed}: player {player}");
                }
            }
        }
        longest
    });
    println!(
        "from the crash to the last Resumed: {:?} listed, {:?} nearest",
        took[0], took[1]
    );
    took[0] += Duration::from_millis(50);
    assert!(took[1] > Duration::ZERO && took[1] <= took[0], "{took:?}");
}

#[test]
fn roaming_clients_keep_every_promise_in_any_weather_and_a_seed_says_everything() {
    let seeds = std::env::var("DREAMCATCHER_SEEDS").map_or(Ok(6), |seeds| seeds.parse());
    let seeds = seeds.unwrap_or_else(|error| panic!("DREAMCATCHER_SEEDS: {error}"));
    for seed in 1..=seeds {
        let mut plan = Plan::stormy(seed, s(40));
        plan.roaming = Roaming {
            pick: Pick::Nearest,
            follow_owner: true,
            probing: PROBING,
        };
        // Whoever is near changes every few seconds.
        for step in 0..6 {
            for player in 0..plan.players.len() {
                for relay in 0..plan.relays {
                    let near = (player + step) % plan.relays == relay;
                    let delay = Duration::from_millis(if near { 3 } else { 40 });
                    let from = s(6 * step as u64);
                    plan.distances.push(distance(player, relay, from, delay));
                }
            }
        }
        let first = kept(plan.clone());
        let moves: u64 = first.clients.values().map(|(_, stats)| stats.moves).sum();
        println!("seed {seed}: {moves} moves");
        assert!(moves > 0, "seed {seed}");
        if seed == 1 {
            assert_eq!(run(plan).trace, first.trace);
        }
    }
}

/// Three relays in regions of their own: to player p relay p mod 3 is 20 ms there and back, the next
/// one 80, the one after that 200.
fn regions(seed: u64, length: Duration) -> Plan {
    let mut plan = Plan::calm(seed, length);
    plan.roaming = Roaming {
        pick: Pick::Nearest,
        follow_owner: false,
        probing: PROBING,
    };
    for player in 0..plan.players.len() {
        for relay in 0..plan.relays {
            let far = FAR[(relay + plan.relays - player % 3) % plan.relays];
            let delay = Duration::from_millis(far);
            plan.distances.push(distance(player, relay, s(0), delay));
        }
    }
    plan
}

fn distance(player: usize, relay: usize, from: Duration, delay: Duration) -> Distance {
    Distance {
        between: Between::Both(Party::Player(player), Party::Relay(relay)),
        from,
        delay,
    }
}

fn name(relay: usize) -> String {
    format!("relay-{}-0", relay + 1)
}

/// The outcome of a run that keeps every promise.
fn kept(plan: Plan) -> Outcome {
    let seed = plan.seed;
    let outcome = run(plan);
    let violations: Vec<String> = check(&outcome.history)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        violations.is_empty(),
        "seed {seed}:\n{}",
        violations.join("\n")
    );
    outcome
}

/// Nobody was told of anything.
fn is_seamless(seed: u64, history: &History) {
    let tells = |fact: &Fact| {
        matches!(
            fact,
            Fact::Reconnecting
                | Fact::Resumed
                | Fact::Gap { .. }
                | Fact::Ended { .. }
                | Fact::Membership {
                    change: Change::Dropped | Change::Rejoined,
                    ..
                }
        )
    };
    for life in &history.lives {
        let told: Vec<_> = life.facts.iter().filter(|(_, fact)| tells(fact)).collect();
        assert!(told.is_empty(), "seed {seed}: {}: {told:?}", life.name);
    }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

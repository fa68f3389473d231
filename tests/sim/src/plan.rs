//! What is to happen in a run, drawn from its seed alone.

use std::time::Duration;

use dreamcatcher_client::core::{Pick, Probing};
use dreamcatcher_proto::frame::Mode;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::net::{Between, Cut, Distance, Party, Weather};

/// How long before the end the network heals: by then everyone must have caught up.
pub const HEALED_BEFORE_END: Duration = Duration::from_secs(5);
/// How long before the end the last message is sent.
pub const QUIET_BEFORE_END: Duration = Duration::from_secs(1);
/// From the crash of a relay to the last client that knows of it.
const NOTICED_WITHIN: Duration = Duration::from_secs(8);
/// Sessions of a run.
const GAMES: usize = 8;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub length: Duration,
    pub relays: usize,
    /// Each connects to a relay of its own choice first, so that a session's members are spread.
    pub players: Vec<PlayerPlan>,
    pub rates: Rates,
    pub weather: Weather,
    pub cuts: Vec<Cut>,
    /// How far parties are from each other; where nothing is said, the weather has it.
    pub distances: Vec<Distance>,
    pub roaming: Roaming,
    pub incidents: Vec<(Duration, Incident)>,
}

/// How clients choose their relays.
#[derive(Clone, Copy, Debug)]
pub struct Roaming {
    pub pick: Pick,
    pub follow_owner: bool,
    pub probing: Probing,
}

/// One client of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayerPlan {
    pub user: usize,
    pub game: usize,
    /// The first player of a game creates its session; the others get its code.
    pub creates: bool,
    pub starts: Duration,
    /// The relay that it prefers.
    pub relay: usize,
}

/// Messages per second of each member.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub ordered: f64,
    pub reliable: f64,
    pub latest: f64,
    pub datagram: f64,
}

impl Rates {
    #[must_use]
    pub const fn of(self, mode: Mode) -> f64 {
        match mode {
            Mode::Ordered => self.ordered,
            Mode::Reliable => self.reliable,
            Mode::Latest => self.latest,
            Mode::Datagram => self.datagram,
        }
    }
}

/// Something that happens to a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// The relay is gone, mid-loop, and says nothing.
    Crash(usize),
    /// A relay of the same name starts.
    Restart(usize),
    /// The relay stops in good order.
    Stop(usize),
    /// The player's process stands still, for so long.
    Silence(usize, Duration),
    /// The player leaves its session, and joins it anew after so long.
    Leave(usize, Duration),
    /// No request to the directory is answered, for so long.
    DirectoryDown(Duration),
}

impl Plan {
    /// Eight calm sessions of three on three relays, without incidents.
    #[must_use]
    pub fn calm(seed: u64, length: Duration) -> Self {
        Self::drawn(seed, length, 3, |_| 3)
    }

    /// Weather, cuts and incidents as the seed has it. In one run of four a relay crashes.
    #[must_use]
    pub fn stormy(seed: u64, length: Duration) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x706c_616e);
        let relays = rng.random_range(2..=3);
        let mut plan = Self::drawn(seed, length, relays, |rng| rng.random_range(3..=4));
        plan.weather = Weather {
            delay_us: 500..=rng.random_range(2_000..=40_000),
            jitter_us: rng.random_range(0..=15_000),
            loss: rng.random_range(0.0..=0.05),
            duplication: rng.random_range(0.0..=0.03),
            mtu: 1_252..=1_500,
        };
        let calm_from = plan.heals();
        let within = |rng: &mut ChaCha8Rng, longest: f64| {
            let lasts = Duration::from_secs_f64(rng.random_range(0.2..=longest));
            let latest = calm_from.saturating_sub(lasts).as_secs_f64().max(6.0);
            (
                Duration::from_secs_f64(rng.random_range(5.0..latest)),
                lasts,
            )
        };
        let mut mesh_is_cut = false;
        for _ in 0..rng.random_range(1..=3) {
            let number = rng.random_range(0..relays);
            let relay = Party::Relay(number);
            let next_relay = Party::Relay((number + 1) % relays);
            let player = Party::Player(rng.random_range(0..plan.players.len()));
            // The mesh breaks once, for less than the time after which an owner counts as lost.
            let kinds = if mesh_is_cut { 0..3 } else { 0..6 };
            let (between, longest) = match rng.random_range(kinds) {
                0 => (Between::AllOf(player), 8.0),
                1 => (Between::Both(player, relay), 8.0),
                2 => (Between::OneWay(relay, player), 8.0),
                3 => (Between::Everyone, 2.0),
                4 => (Between::Both(relay, next_relay), 3.0),
                _ => (Between::OneWay(relay, next_relay), 3.0),
            };
            mesh_is_cut |= longest < 8.0;
            let (from, lasts) = within(&mut rng, longest);
            plan.cuts.push(Cut {
                between,
                from,
                until: from + lasts,
            });
        }
        for _ in 0..rng.random_range(0..=2) {
            let player = rng.random_range(0..plan.players.len());
            let (at, lasts) = within(&mut rng, 12.0);
            let incident = match rng.random_range(0..3) {
                0 => Incident::Silence(player, lasts),
                1 => Incident::Leave(player, lasts.min(Duration::from_secs(4))),
                _ => Incident::DirectoryDown(lasts.min(Duration::from_secs(6))),
            };
            plan.incidents.push((at, incident));
        }
        if rng.random_bool(0.25) {
            let relay = rng.random_range(0..relays);
            // Early enough for everyone to notice before the end.
            let (at, _) = within(&mut rng, 12.0);
            let at = at.min(calm_from.saturating_sub(NOTICED_WITHIN));
            plan.incidents.push((at, Incident::Crash(relay)));
            let back = at + Duration::from_secs_f64(rng.random_range(0.5..=8.0));
            if rng.random_bool(0.5) && back < calm_from {
                plan.incidents.push((back, Incident::Restart(relay)));
            }
        }
        if rng.random_bool(0.5) {
            // A user's second device takes the seat over.
            let first = plan.players[rng.random_range(0..plan.players.len())];
            let (starts, _) = within(&mut rng, 10.0);
            plan.players.push(PlayerPlan {
                creates: false,
                starts,
                relay: rng.random_range(0..relays),
                ..first
            });
        }
        plan
    }

    fn drawn(
        seed: u64,
        length: Duration,
        relays: usize,
        members: impl Fn(&mut ChaCha8Rng) -> usize,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut players = Vec::new();
        for game in 0..GAMES {
            for member in 0..members(&mut rng) {
                players.push(PlayerPlan {
                    user: players.len(),
                    game,
                    creates: member == 0,
                    starts: Duration::from_micros(rng.random_range(0..1_000_000)),
                    relay: (game + member) % relays,
                });
            }
        }
        Self {
            seed,
            length,
            relays,
            players,
            rates: Rates {
                ordered: 2.0,
                reliable: 0.5,
                latest: 5.0,
                datagram: 0.5,
            },
            weather: Weather {
                delay_us: 500..=20_000,
                jitter_us: 0,
                loss: 0.0,
                duplication: 0.0,
                mtu: 1_452..=1_500,
            },
            cuts: Vec::new(),
            distances: Vec::new(),
            roaming: Roaming {
                pick: Pick::Listed,
                follow_owner: false,
                probing: Probing::default(),
            },
            incidents: Vec::new(),
        }
    }

    /// From here on the network carries everything.
    #[must_use]
    pub fn heals(&self) -> Duration {
        self.length.saturating_sub(HEALED_BEFORE_END)
    }

    /// From here on nobody sends.
    #[must_use]
    pub fn quiet(&self) -> Duration {
        self.length.saturating_sub(QUIET_BEFORE_END)
    }
}

//! The loop: every relay, every client, the network and the directory, one event after the other.
//!
//! A party is drained as a driver does it: after everything that reached it at one instant was
//! handled, and its timers have fired.

mod fates;
mod marks;
mod players;
mod relays;
mod tasks;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_client::Stats;
use dreamcatcher_proto::JoinCode;
use dreamcatcher_proto::token::{KeySet, Signer};
use dreamcatcher_relay::node::Node;
use dreamcatcher_relay::node::io::{Datagram, Input, Output, Socket};

use self::tasks::Task;
use crate::desk::{Desk, Letter, Run};
use crate::history::{Fact, History};
use crate::net::{Arrival, Net, Party, Trace};
use crate::plan::Plan;
use crate::player::Player;
use crate::tamper::Tamper;

/// How often a party can be woken at one instant: more is a wake-up that never comes to rest.
const WAKES_AT_ONE_INSTANT_MAX: u32 = 1_000;

thread_local! {
    static HERE: Cell<(Duration, Option<Party>)> = const { Cell::new((Duration::ZERO, None)) };
}

/// The virtual time of the run on this thread, and whose turn it is: for log lines.
#[must_use]
pub fn here() -> (Duration, Option<Party>) {
    HERE.get()
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub history: History,
    /// Digest and number of all datagrams and deliveries.
    pub trace: (u64, u64),
    pub datagrams: u64,
    pub dropped: u64,
    /// Where each player's client is at the end, and how it came there.
    pub clients: BTreeMap<usize, (String, Stats)>,
}

/// Runs `plan` from its start to its end.
#[must_use]
pub fn run(plan: Plan) -> Outcome {
    run_tampered(plan, None)
}

/// Runs `plan` with a fault planted into what members are delivered.
#[must_use]
pub fn run_tampered(plan: Plan, tamper: Option<Tamper>) -> Outcome {
    let mut world = World::new(plan, tamper);
    while world.step() {}
    world.finish()
}

/// A session as the players of a game know it among themselves.
#[derive(Debug, Default)]
struct Game {
    /// What the creator told the others.
    code: Option<JoinCode>,
    /// Its owner has crashed: nobody can join it any more.
    lost: bool,
}

struct World {
    plan: Plan,
    /// Only the origin of virtual time: differences are all that counts.
    origin: Instant,
    now: Duration,
    wakes_now: u32,
    net: Net,
    desk: Desk,
    /// `None` after a crash.
    relays: Vec<Option<Node>>,
    /// The present or last run of each relay.
    boots: Vec<u64>,
    players: BTreeMap<usize, Player>,
    games: BTreeMap<usize, Game>,
    tasks: BTreeMap<(Duration, u64), Task>,
    planned: u64,
    /// When each party wants to be woken; the relays come first.
    wakes: Vec<Option<Duration>>,
    /// Parties that something happened to and that were not drained since.
    touched: BTreeSet<Party>,
    history: History,
    trace: Trace,
    tamper: Option<Tamper>,
    signer: Signer,
    keys: Arc<KeySet>,
    buffer: Vec<u8>,
}

impl World {
    fn new(plan: Plan, tamper: Option<Tamper>) -> Self {
        let signer = Signer::from_seed("sim", &[7; 32]).expect("the key id is well-formed");
        let jwks = Signer::jwks([&signer]).expect("the key is an Ed25519 key");
        let keys = Arc::new(KeySet::from_jwks(&jwks).expect("it was just written"));
        let net = Net::new(
            plan.seed,
            plan.weather.clone(),
            plan.cuts.clone(),
            plan.distances.clone(),
            plan.heals(),
        );
        let mut world = Self {
            origin: Instant::now(),
            now: Duration::ZERO,
            wakes_now: 0,
            net,
            desk: Desk::new(plan.seed),
            relays: (0..plan.relays).map(|_| None).collect(),
            boots: vec![0; plan.relays],
            players: BTreeMap::new(),
            games: BTreeMap::new(),
            tasks: BTreeMap::new(),
            planned: 0,
            wakes: vec![None; plan.relays + plan.players.len()],
            touched: BTreeSet::new(),
            history: History::default(),
            trace: Trace::default(),
            tamper,
            signer,
            keys,
            buffer: Vec::with_capacity(65_536),
            plan,
        };
        for relay in 0..world.plan.relays {
            world.start_relay(relay);
        }
        for player in 0..world.plan.players.len() {
            world.plan_at(world.plan.players[player].starts, Task::Start(player));
        }
        world.history.faults = marks::of(&world.plan);
        for (at, incident) in world.plan.incidents.clone() {
            world.plan_at(at, Task::Incident(incident));
        }
        world
    }

    /// Moves on to the next instant at which something happens, and lets it happen. `false` once
    /// the end is reached.
    fn step(&mut self) -> bool {
        let task = self.tasks.keys().next().map(|(at, _)| *at);
        let wake = self.wakes.iter().flatten().min().copied();
        let next = [task, wake, self.net.next_arrival(), self.desk.next_step()];
        let Some(next) = next.into_iter().flatten().min() else {
            return false;
        };
        if next > self.now {
            self.now = next;
            self.wakes_now = 0;
        }
        if self.now >= self.plan.length {
            return false;
        }
        self.wakes_now += 1;
        assert!(
            self.wakes_now < WAKES_AT_ONE_INSTANT_MAX,
            "seed {}: time stands still at {:?}: {:?}",
            self.plan.seed,
            self.now,
            self.wakes,
        );
        while let Some(arrival) = self.net.arrive(self.now) {
            self.hand_over(arrival);
        }
        while let Some((to, letter)) = self.desk.poll(self.now) {
            self.hand_in(to, letter);
        }
        while let Some(entry) = self.tasks.first_entry()
            && entry.key().0 <= self.now
        {
            let task = entry.remove();
            self.perform(task);
        }
        self.wake_up();
        while let Some(party) = self.touched.pop_first() {
            self.drain(party);
        }
        true
    }

    fn finish(mut self) -> Outcome {
        for player in self.players.values() {
            let life = &mut self.history.lives[player.life];
            if let (true, Some(index)) = (life.plays(), player.core.index()) {
                let unresolved = player.core.unresolved();
                let standing = Fact::Standing { index, unresolved };
                life.facts.push((self.plan.length, standing));
            }
        }
        let clients = self.players.iter().map(|(&number, player)| {
            let relay = player.core.relay().node_id.clone().unwrap_or_default();
            (number, (relay, player.core.stats()))
        });
        Outcome {
            clients: clients.collect(),
            history: self.history,
            trace: self.trace.digest(),
            datagrams: self.net.sent,
            dropped: self.net.dropped,
        }
    }

    // ------------------------------------------------------------------------------- what comes

    fn hand_over(&mut self, arrival: Arrival) {
        let Some((party, socket)) = Party::at(arrival.to) else {
            return;
        };
        HERE.set((self.now, Some(party)));
        let now = self.instant();
        match party {
            Party::Relay(relay) => {
                let Some(Some(node)) = self.relays.get_mut(relay) else {
                    return;
                };
                let datagram = Datagram {
                    socket,
                    remote: arrival.from,
                    local_ip: Some(arrival.to.ip()),
                    ecn: arrival.ecn,
                    data: arrival.data,
                };
                node.handle(Input::Datagram(datagram), now);
            }
            Party::Player(player) => {
                let Some(player) = self.players.get_mut(&player).filter(|p| !p.silent) else {
                    return;
                };
                let Arrival {
                    from, ecn, data, ..
                } = arrival;
                player.core.handle_datagram(from, ecn, data, now);
            }
        }
        self.touched.insert(party);
    }

    fn hand_in(&mut self, to: Run, letter: Letter) {
        let now = self.instant();
        if self.boots[to.relay] != to.boot {
            return;
        }
        HERE.set((self.now, Some(Party::Relay(to.relay))));
        if let Some(node) = &mut self.relays[to.relay] {
            let input = match letter {
                Letter::Reply { id, reply } => Input::Directory { id, reply },
                Letter::Hint(hint) => Input::Hint(hint),
            };
            node.handle(input, now);
            self.touched.insert(Party::Relay(to.relay));
        }
    }

    fn wake_up(&mut self) {
        let now = self.instant();
        for place in 0..self.wakes.len() {
            if self.wakes[place].is_none_or(|at| at > self.now) {
                continue;
            }
            self.wakes[place] = None;
            let party = match place.checked_sub(self.plan.relays) {
                None => Party::Relay(place),
                Some(player) => Party::Player(player),
            };
            HERE.set((self.now, Some(party)));
            match party {
                Party::Relay(relay) => {
                    if let Some(node) = &mut self.relays[relay] {
                        node.handle_timeout(now);
                    }
                }
                Party::Player(player) => {
                    if let Some(player) = self.players.get_mut(&player).filter(|p| !p.silent) {
                        player.core.handle_timeout(now);
                    }
                }
            }
            self.touched.insert(party);
        }
    }

    // ----------------------------------------------------------------------------- what is done

    fn drain(&mut self, party: Party) {
        let now = self.instant();
        HERE.set((self.now, Some(party)));
        *self.wake_of(party) = None;
        match party {
            Party::Relay(relay) => {
                let Some(node) = &mut self.relays[relay] else {
                    return;
                };
                let boot = self.boots[relay];
                let mut stopped = false;
                while let Some(output) = node.poll_output() {
                    match output {
                        Output::Directory { id, request } => {
                            self.desk.ask(Run { relay, boot }, id, *request, self.now);
                        }
                        Output::Stopped => stopped = true,
                        Output::WantKeys => {}
                    }
                }
                while let Some(transmit) = node.poll_transmit(now, &mut self.buffer) {
                    let from = party.address(transmit.socket);
                    let segment = transmit.segment_size.unwrap_or(transmit.size);
                    for data in self.buffer[..transmit.size].chunks(segment) {
                        self.trace
                            .add((self.now, from, transmit.destination, data.len()));
                        self.net
                            .send(self.now, from, transmit.destination, transmit.ecn, data);
                    }
                }
                if stopped {
                    self.desk.unwatch(Run { relay, boot });
                    self.relays[relay] = None;
                }
                self.wake_later(
                    party,
                    self.relays[relay].as_ref().and_then(Node::poll_timeout),
                );
            }
            Party::Player(number) => {
                while let Some(seen) = self.players.get_mut(&number).and_then(Player::see) {
                    self.seen(number, seen);
                }
                let Some(player) = self.players.get_mut(&number).filter(|p| !p.silent) else {
                    return;
                };
                let from = party.address(Socket::Client);
                while let Some(transmit) = player.core.poll_transmit(now, &mut self.buffer) {
                    let segment = transmit.segment_size.unwrap_or(transmit.size);
                    for data in self.buffer[..transmit.size].chunks(segment) {
                        self.trace
                            .add((self.now, from, transmit.destination, data.len()));
                        self.net
                            .send(self.now, from, transmit.destination, transmit.ecn, data);
                    }
                }
                let wake = player.core.poll_timeout();
                self.wake_later(party, wake);
                if self.players[&number].core.has_events() {
                    self.touched.insert(party);
                }
            }
        }
    }

    fn wake_later(&mut self, party: Party, at: Option<Instant>) {
        if let Some(at) = at {
            let at = at.saturating_duration_since(self.origin).max(self.now);
            *self.wake_of(party) = Some(at);
        }
    }

    // ---------------------------------------------------------------------------------- helpers

    fn wake_of(&mut self, party: Party) -> &mut Option<Duration> {
        match party {
            Party::Relay(relay) => &mut self.wakes[relay],
            Party::Player(player) => &mut self.wakes[self.plan.relays + player],
        }
    }

    fn game_of(&mut self, number: usize) -> &mut Game {
        self.games
            .entry(self.plan.players[number].game)
            .or_default()
    }

    fn plan_at(&mut self, at: Duration, task: Task) {
        self.planned += 1;
        self.tasks.insert((at, self.planned), task);
    }

    fn instant(&self) -> Instant {
        self.origin + self.now
    }
}

//! Which relay is used: the nearest with room, or the first of the list; which is next when it fails,
//! and when it is tried.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dreamcatcher_proto::{Error, ErrorCode};
use serde::Deserialize;

use crate::nearest::{self, CANDIDATES_MAX};

/// First pause between two tries; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that held this long was a good one: the next is tried at once.
const HELD_WELL: Duration = Duration::from_secs(5);
/// A relay must be so much nearer to be worth a move: less is what measurements differ by.
const NEARER_BY: Duration = Duration::from_millis(10);
/// And its round trip at most this part of the present one: 10 ms of 200 are not felt.
const NEARER_PART: (u32, u32) = (2, 3);
/// In so many measurements, one after the other.
const NEARER_TIMES: u32 = 2;
/// The owner's relay is no farther than the present one if it is by no more than this: what the hop
/// between the two costs at least, and what an attached member saves.
const OWNER_FARTHER_MAX: Duration = Duration::from_millis(2);
/// A relay that a move to it failed is left alone for so long.
const SHUNNED_FOR: Duration = Duration::from_secs(60);
/// Unanswered probes in a row after which the second-best is another one.
const SILENT_AFTER: u32 = 2;
/// Causes that an error lists.
const CAUSES_MAX: usize = 8;

/// A relay, as the auth service lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RelayAddress {
    pub address: SocketAddr,
    /// The certificates to accept, by the SHA-256 of their DER form, in JSON as 64 hexadecimal
    /// digits each.
    #[serde(deserialize_with = "hashes")]
    pub certificate_sha256: Vec<[u8; 32]>,
    #[serde(default)]
    pub node_id: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    /// The machine it runs on: relays of one host are equally far, and fail together.
    #[serde(default)]
    pub host: Option<String>,
    /// Clients connected to it.
    #[serde(default)]
    pub load: u32,
    /// Clients that it has room for; 0 if that is not known.
    #[serde(default)]
    pub capacity: u32,
    /// Whether it takes no new clients, because it is about to stop.
    #[serde(default)]
    pub draining: bool,
}

impl RelayAddress {
    /// A relay of which no more is known than how to reach it.
    #[must_use]
    pub const fn new(address: SocketAddr, certificate_sha256: Vec<[u8; 32]>) -> Self {
        Self {
            address,
            certificate_sha256,
            node_id: None,
            region: None,
            host: None,
            load: 0,
            capacity: 0,
            draining: false,
        }
    }

    /// How it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.node_id {
            Some(node) => format!("{node} ({})", self.address),
            None => self.address.to_string(),
        }
    }

    fn is_full(&self) -> bool {
        self.capacity > 0 && self.load >= self.capacity
    }

    /// Whether both run on one machine, as far as is known.
    fn shares_host(&self, other: &Self) -> bool {
        match (&self.host, &other.host) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => {
                self.address.ip() == other.address.ip() && !self.address.ip().is_loopback()
            }
        }
    }
}

fn hashes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<[u8; 32]>, D::Error> {
    let hash = |text: &String| {
        let digit = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = digit(at)?;
        }
        (text.len() == 64).then_some(bytes)
    };
    let texts = Vec::<String>::deserialize(deserializer)?;
    let bytes: Option<_> = texts.iter().map(hash).collect();
    bytes
        .ok_or_else(|| serde::de::Error::custom("certificate_sha256 must be 64 hexadecimal digits"))
}

/// How a relay is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// The one that answers soonest, among those with room; a nearer one is moved to.
    #[default]
    Nearest,
    /// In the order of the list: the first is used, the others take over when it fails.
    Listed,
}

/// The relays, and which of them is tried or used.
#[derive(Debug)]
pub(super) struct Failover {
    pick: Pick,
    relays: Vec<Known>,
    /// In which they are tried.
    order: Vec<usize>,
    /// Place in `order`.
    at: usize,
    /// Tries that failed since the last good connection.
    failed: usize,
    pause: Duration,
    /// Why each try of the first round failed.
    causes: Vec<(usize, String)>,
}

/// A relay, and what was found out about it.
#[derive(Debug)]
struct Known {
    address: RelayAddress,
    rtt: Option<Duration>,
    /// Probes in a row that it did not answer.
    unanswered: u32,
    /// Measurements in a row in which it was much nearer than the present one.
    nearer: u32,
    /// It was moved to in vain, or has said that it stops.
    shunned_until: Option<Instant>,
    /// No longer on the list; it is in use.
    delisted: bool,
}

impl Known {
    fn new(address: RelayAddress) -> Self {
        Self {
            address,
            rtt: None,
            unanswered: 0,
            nearer: 0,
            shunned_until: None,
            delisted: false,
        }
    }

    /// Whether it takes nobody, as far as is known.
    fn is_to_avoid(&self) -> bool {
        self.address.draining || self.address.is_full() || self.delisted
    }

    fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| now < until)
    }
}

impl Failover {
    /// `InvalidArgument` if there is nothing to connect to, or no way to know that it is a relay.
    pub(super) fn new(relays: Vec<RelayAddress>, pick: Pick) -> Result<Self, Error> {
        check(&relays)?;
        let relays: Vec<Known> = relays.into_iter().map(Known::new).collect();
        let mut order: Vec<usize> = (0..relays.len()).collect();
        order.sort_by_key(|&place| relays[place].is_to_avoid());
        Ok(Self {
            pick,
            relays,
            order,
            at: 0,
            failed: 0,
            pause: Duration::ZERO,
            causes: Vec::new(),
        })
    }

    pub(super) fn pick(&self) -> Pick {
        self.pick
    }

    pub(super) fn present(&self) -> usize {
        self.order[self.at]
    }

    pub(super) fn relay(&self) -> &RelayAddress {
        &self.relays[self.present()].address
    }

    pub(super) fn relay_at(&self, place: usize) -> &RelayAddress {
        &self.relays[place].address
    }

    pub(super) fn len(&self) -> usize {
        self.relays.len()
    }

    /// Whether the relay that is tried has left its probes unanswered.
    pub(super) fn is_silent(&self) -> bool {
        self.relays[self.present()].unanswered > 0
    }

    // ---------------------------------------------------------------------------------- measuring

    /// Whom to measure: at most [`CANDIDATES_MAX`], one of each host and, as long as there are
    /// others, one of each region. The present one, the second-best and those that were much nearer
    /// the last time are among them. `draw` gives random numbers.
    pub(super) fn candidates(&self, connected: bool, mut draw: impl FnMut() -> u64) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        if connected {
            chosen.push(self.present());
            chosen.extend(self.second_best());
            let nearer = (0..self.relays.len()).filter(|&place| self.relays[place].nearer > 0);
            let nearer: Vec<usize> = nearer.filter(|place| !chosen.contains(place)).collect();
            chosen.extend(nearer);
        }
        let mut others: Vec<usize> = (0..self.relays.len()).collect();
        for left in (1..others.len()).rev() {
            others.swap(left, (draw() % (left as u64 + 1)) as usize);
        }
        others.sort_by_key(|&place| self.relays[place].is_to_avoid());
        let none_has_room = self.relays.iter().all(Known::is_to_avoid);
        for one_of_each_region in [true, false] {
            for &place in &others {
                let relay = &self.relays[place];
                let here = |&other: &usize| {
                    let other = &self.relays[other].address;
                    other.shares_host(&relay.address)
                        || one_of_each_region
                            && other.region.is_some()
                            && other.region == relay.address.region
                };
                let wanted = none_has_room || !relay.is_to_avoid();
                if wanted && !chosen.contains(&place) && !chosen.iter().any(here) {
                    chosen.push(place);
                }
            }
        }
        chosen.truncate(CANDIDATES_MAX);
        chosen
    }

    /// Notes what a measurement, or a single probe, found.
    pub(super) fn measured(&mut self, place: usize, rtt: Option<Duration>) {
        let relay = &mut self.relays[place];
        match rtt {
            Some(rtt) => (relay.rtt, relay.unanswered) = (Some(rtt), 0),
            None => relay.unanswered = relay.unanswered.saturating_add(1),
        }
    }

    /// The same, of a relay that is only kept warm: one probe weighs less than a measurement.
    pub(super) fn kept_warm(&mut self, place: usize, rtt: Option<Duration>) {
        let before = self.relays[place].rtt;
        let smooth = |rtt| before.map_or(rtt, |before| (before * 3 + rtt) / 4);
        self.measured(place, rtt.map(smooth));
    }

    /// Puts the relays into the order in which they are tried first.
    pub(super) fn rank(&mut self) {
        self.order = self.ranked(None);
        self.at = 0;
    }

    /// By room, by answer, by distance; a relay that has just failed and its host come last.
    fn ranked(&self, failed: Option<usize>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.relays.len()).collect();
        order.sort_by_key(|&place| {
            let relay = &self.relays[place];
            let fails_too = failed.is_some_and(|failed| {
                let failed = &self.relays[failed].address;
                failed.shares_host(&relay.address)
            });
            (
                failed == Some(place),
                relay.is_to_avoid(),
                relay.unanswered >= SILENT_AFTER || relay.rtt.is_none() && relay.unanswered > 0,
                fails_too,
                self.rtt_of(place).unwrap_or(Duration::MAX),
                place,
            )
        });
        order
    }

    /// Its own figure, or that of its host.
    fn rtt_of(&self, place: usize) -> Option<Duration> {
        let relay = &self.relays[place];
        let hosts = self.relays.iter().filter_map(|other| {
            other
                .rtt
                .filter(|_| other.address.shares_host(&relay.address))
        });
        relay.rtt.or_else(|| hosts.min())
    }

    /// Who takes over when the present one fails.
    pub(super) fn second_best(&self) -> Option<usize> {
        let present = self.present();
        let second = self.ranked(Some(present)).into_iter().next()?;
        (second != present).then_some(second)
    }

    /// Compares the `others` that were just measured with the present one: who has been much nearer
    /// for long enough to be worth a move.
    pub(super) fn nearer(&mut self, others: &[usize], now: Instant) -> Option<usize> {
        let present = self.relays[self.present()].rtt?;
        for &place in others {
            let relay = &mut self.relays[place];
            let (part, of) = NEARER_PART;
            let is_nearer = relay.unanswered == 0
                && !relay.is_to_avoid()
                && !relay.is_shunned(now)
                && relay
                    .rtt
                    .is_some_and(|rtt| rtt + NEARER_BY <= present && rtt * of <= present * part);
            relay.nearer = if is_nearer { relay.nearer + 1 } else { 0 };
        }
        let long_enough = |&place: &usize| self.relays[place].nearer >= NEARER_TIMES;
        let places = (0..self.relays.len()).filter(long_enough);
        places.min_by_key(|&place| self.relays[place].rtt)
    }

    /// Whether a relay looks much nearer, so that it is worth measuring again soon.
    pub(super) fn is_undecided(&self) -> bool {
        self.relays.iter().any(|relay| relay.nearer > 0)
    }

    // --------------------------------------------------------------------------------------- moving

    /// The relay of the owner, if it is another one that takes clients.
    pub(super) fn owner(&self, node: &str, now: Instant) -> Option<usize> {
        let is_it = |relay: &Known| relay.address.node_id.as_deref() == Some(node);
        let place = self.relays.iter().position(is_it)?;
        let relay = &self.relays[place];
        let takes = !relay.is_to_avoid() && !relay.is_shunned(now);
        (takes && place != self.present()).then_some(place)
    }

    pub(super) fn shares_host_with_present(&self, place: usize) -> bool {
        self.relays[place].address.shares_host(self.relay())
    }

    /// Whether the owner's relay was just measured to be no farther than the present one.
    pub(super) fn is_no_farther(&self, place: usize) -> bool {
        let (owner, present) = (&self.relays[place], &self.relays[self.present()]);
        owner.unanswered == 0
            && owner
                .rtt
                .zip(present.rtt)
                .is_some_and(|(owner, present)| owner <= present + OWNER_FARTHER_MAX)
    }

    /// Where to go when the present relay is about to stop.
    pub(super) fn refuge(&self, now: Instant) -> Option<usize> {
        let present = self.present();
        let order = match self.pick {
            Pick::Nearest => self.ranked(Some(present)),
            Pick::Listed => {
                let mut order = self.order.clone();
                order.rotate_left(self.at);
                order
            }
        };
        let open = |place: &usize| {
            let relay = &self.relays[*place];
            *place != present && !relay.is_shunned(now) && !relay.is_to_avoid()
        };
        order.into_iter().find(open)
    }

    /// The present relay has said that it stops.
    pub(super) fn drains(&mut self) {
        let present = self.present();
        self.relays[present].address.draining = true;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.relay().draining
    }

    /// A move to this relay came to nothing.
    pub(super) fn shun(&mut self, place: usize, now: Instant) {
        let relay = &mut self.relays[place];
        (relay.nearer, relay.shunned_until) = (0, Some(now + SHUNNED_FOR));
    }

    /// This relay is the present one from here on.
    pub(super) fn moved_to(&mut self, place: usize) {
        let at = self.order.iter().position(|&other| other == place);
        self.at = at.unwrap_or(self.at);
        self.relays.iter_mut().for_each(|relay| relay.nearer = 0);
    }

    /// Another list, of which the relays in use stay known even if they are not on it. `in_use`
    /// are places, before and after.
    pub(super) fn set_relays(
        &mut self,
        relays: Vec<RelayAddress>,
        in_use: &mut [usize],
    ) -> Result<(), Error> {
        check(&relays)?;
        let present = self.relay().clone();
        let used: Vec<RelayAddress> = in_use
            .iter()
            .map(|&place| self.relays[place].address.clone())
            .collect();
        let mut before = std::mem::take(&mut self.relays);
        for address in relays {
            let same = |known: &Known| known.address.address == address.address;
            let known = before
                .iter()
                .position(same)
                .map(|at| before.swap_remove(at));
            let known = known.unwrap_or_else(|| Known::new(address.clone()));
            self.relays.push(Known {
                address,
                delisted: false,
                ..known
            });
        }
        let is_used = |known: &Known| known.address == present || used.contains(&known.address);
        for known in before {
            if is_used(&known) {
                self.relays.push(Known {
                    delisted: true,
                    ..known
                });
            }
        }
        let place_of = |address: SocketAddr| {
            let same = |known: &Known| known.address.address == address;
            self.relays.iter().position(same).unwrap_or_default()
        };
        for (place, relay) in in_use.iter_mut().zip(&used) {
            *place = place_of(relay.address);
        }
        let present = place_of(present.address);
        self.order = match self.pick {
            Pick::Nearest => self.ranked(None),
            Pick::Listed => {
                let mut order: Vec<usize> = (0..self.relays.len()).collect();
                order.sort_by_key(|&place| self.relays[place].is_to_avoid());
                order
            }
        };
        self.moved_to(present);
        Ok(())
    }

    // --------------------------------------------------------------------------------------- failing

    /// Moves on to the next relay because of `cause`, at the first connect: `Err` once each was
    /// tried, with every cause.
    pub(super) fn next_of_first_round(&mut self, cause: &Error) -> Result<(), Error> {
        let mut cause = cause.to_string();
        if self.is_silent() {
            cause = format!("{cause}; {}", nearest::silent().message());
        }
        self.causes.push((self.present(), cause));
        if self.causes.len() < self.relays.len() {
            self.at = (self.at + 1) % self.relays.len();
            return Ok(());
        }
        Err(self.unreachable())
    }

    /// What to say when no relay has answered: what each failed of.
    pub(super) fn unreachable(&mut self) -> Error {
        let causes = std::mem::take(&mut self.causes);
        let tried = |place: &usize| causes.iter().any(|(tried, _)| tried == place);
        let mut lines: Vec<String> = causes
            .iter()
            .map(|(place, cause)| format!("{}: {cause}", self.relays[*place].address.name()))
            .collect();
        for place in self.order.iter().filter(|place| !tried(place)) {
            let relay = &self.relays[*place];
            let cause = if relay.unanswered > 0 {
                nearest::silent().message().to_owned()
            } else {
                "there was no time left to try it".to_owned()
            };
            lines.push(format!("{}: {cause}", relay.address.name()));
        }
        let more = lines.len().saturating_sub(CAUSES_MAX);
        lines.truncate(CAUSES_MAX);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        let message = format!("no relay answered: {}", lines.join("; "));
        Error::new(ErrorCode::NoRelayReachable, message)
    }

    /// Moves on to the next relay after a connection that `held` so long (zero: a try that failed),
    /// and says how long to wait before it. `jitter` is 0–255: who lost the same relay does not come
    /// back at the same moment.
    pub(super) fn next_after(&mut self, held: Duration, jitter: u8) -> Duration {
        self.causes.clear();
        match self.pick {
            Pick::Nearest if held > Duration::ZERO => {
                self.order = self.ranked(Some(self.present()));
                self.at = 0;
            }
            Pick::Nearest | Pick::Listed => self.at = (self.at + 1) % self.relays.len(),
        }
        self.failed = if held > Duration::ZERO {
            0
        } else {
            self.failed + 1
        };
        if held >= HELD_WELL {
            self.pause = Duration::ZERO;
            return Duration::ZERO;
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.pause * (256 + u32::from(jitter) / 4) / 256
    }

    /// Whether every relay was tried in vain, once more.
    pub(super) fn has_failed_all(&self) -> bool {
        self.failed > 0 && self.failed.is_multiple_of(self.relays.len())
    }
}

fn check(relays: &[RelayAddress]) -> Result<(), Error> {
    let argument = |message: String| Err(Error::new(ErrorCode::InvalidArgument, message));
    if relays.is_empty() {
        return argument("relays is empty; give at least one".to_owned());
    }
    let is_open = |relay: &&RelayAddress| relay.certificate_sha256.is_empty();
    match relays.iter().find(is_open) {
        Some(open) => argument(format!(
            "relay {} has no certificate_sha256; give at least one",
            open.name()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn the_first_connect_tries_each_relay_once_in_order_and_then_names_each_cause() {
        let mut failover = Failover::new(vec![relay(1), relay(2)], Pick::Listed).unwrap();
        assert_eq!(failover.relay(), &relay(1));
        failover
            .next_of_first_round(&ErrorCode::ConnectionLost.into())
            .unwrap();
        assert_eq!(failover.relay(), &relay(2));
        let error = failover
            .next_of_first_round(&ErrorCode::ServerFull.into())
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoRelayReachable);
        for part in [
            "relay-1-0 (127.0.0.1:1)",
            "ConnectionLost",
            "127.0.0.1:2",
            "ServerFull",
        ] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn pauses_double_to_a_limit_and_a_good_connection_resets_them() {
        let mut failover = Failover::new(vec![relay(1), relay(2)], Pick::Listed).unwrap();
        let pauses: Vec<_> = (0..7)
            .map(|_| failover.next_after(Duration::ZERO, 0).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(
            failover.relay(),
            &relay(2),
            "each try goes to the next relay"
        );
        assert!(failover.next_after(Duration::ZERO, 255) <= PAUSE_MAX * 5 / 4);
        assert_eq!(failover.next_after(HELD_WELL, 9), Duration::ZERO);
        assert_eq!(failover.next_after(Duration::ZERO, 0), PAUSE_MIN);
    }

    #[test]
    fn candidates_are_spread_over_regions_first_then_over_hosts_and_skip_who_has_no_room() {
        let mut numbers = 0..;
        let mut draw = || numbers.next().unwrap_or_default();
        let place = |region: &str, host: &str, number| RelayAddress {
            region: Some(region.to_owned()),
            host: Some(host.to_owned()),
            ..relay(number)
        };
        let mut relays = vec![
            place("eu", "eu-a", 1),
            place("eu", "eu-a", 2),
            place("eu", "eu-b", 3),
            place("us", "us-a", 4),
            place("us", "us-a", 5),
            place("ap", "ap-a", 6),
            place("sa", "sa-a", 7),
        ];
        (relays[5].load, relays[5].capacity) = (10, 10);
        relays[6].draining = true;
        for _ in 0..20 {
            let failover = Failover::new(relays.clone(), Pick::Nearest).unwrap();
            let chosen = failover.candidates(false, &mut draw);
            let regions: Vec<_> = chosen
                .iter()
                .map(|&at| relays[at].region.as_deref())
                .collect();
            let hosts: Vec<_> = chosen
                .iter()
                .map(|&at| relays[at].host.as_deref())
                .collect();
            assert_eq!(chosen.len(), 3, "{chosen:?}: one of each host with room");
            assert_ne!(regions[0], regions[1], "each region before a second of one");
            for host in ["eu-a", "eu-b", "us-a"] {
                assert!(hosts.contains(&Some(host)), "{hosts:?}");
            }
        }
        relays.iter_mut().for_each(|relay| relay.draining = true);
        let failover = Failover::new(relays, Pick::Nearest).unwrap();
        assert_eq!(
            failover.candidates(false, draw).len(),
            CANDIDATES_MAX,
            "nothing else is there"
        );
    }

    #[test]
    fn the_nearest_with_room_is_tried_first_then_the_unknown_and_the_silent_last() {
        let mut full = relay(1);
        (full.load, full.capacity) = (5, 5);
        let relays = vec![full, relay(2), relay(3), relay(4), relay(5)];
        let mut failover = Failover::new(relays, Pick::Nearest).unwrap();
        for (place, rtt) in [(0, Some(1)), (1, None), (2, Some(80)), (3, Some(20))] {
            failover.measured(place, rtt.map(Duration::from_millis));
        }
        failover.rank();
        assert_eq!(failover.order, [3, 2, 4, 1, 0]);
        assert_eq!(failover.second_best(), Some(2));
    }

    #[test]
    fn a_failed_relay_is_followed_by_the_next_nearest_on_another_host() {
        let at = |host: &str, number| RelayAddress {
            host: Some(host.to_owned()),
            ..relay(number)
        };
        let relays = vec![at("a", 1), at("a", 2), at("b", 3), at("c", 4)];
        let mut failover = Failover::new(relays, Pick::Nearest).unwrap();
        for (place, rtt) in [(0, 10), (1, 11), (2, 40), (3, 30)] {
            failover.measured(place, Some(Duration::from_millis(rtt)));
        }
        failover.rank();
        assert_eq!(failover.present(), 0);
        failover.next_after(HELD_WELL, 0);
        assert_eq!(failover.order, [3, 2, 1, 0]);
    }

    #[test]
    fn a_move_must_be_worth_it_twice_in_a_row() {
        let now = Instant::now();
        let ms = |ms| Some(Duration::from_millis(ms));
        let mut failover = Failover::new(vec![relay(1), relay(2)], Pick::Nearest).unwrap();
        let mut measure = |present, other| {
            failover.measured(0, ms(present));
            failover.measured(1, ms(other));
            failover.nearer(&[1], now)
        };
        // Too little in milliseconds, too little in part, and both a little short.
        for (present, other) in [(20, 11), (100, 67), (29, 20), (10, 10), (10, 30)] {
            for _ in 0..5 {
                assert_eq!(measure(present, other), None, "{present} and {other}");
            }
        }
        assert_eq!(measure(30, 20), None, "once is chance");
        assert_eq!(measure(20, 20), None, "and it was");
        assert_eq!(measure(30, 20), None);
        assert_eq!(measure(30, 20), Some(1));
        failover.shun(1, now);
        for _ in 0..3 {
            failover.measured(1, ms(1));
            assert_eq!(failover.nearer(&[1], now), None, "it was moved to in vain");
        }
    }

    #[test]
    fn a_new_list_keeps_what_is_known_and_the_relay_in_use() {
        let mut failover = Failover::new(vec![relay(1), relay(2)], Pick::Nearest).unwrap();
        failover.measured(1, Some(Duration::from_millis(7)));
        failover.rank();
        assert_eq!(failover.relay(), &relay(2));
        failover
            .set_relays(vec![relay(3), relay(1)], &mut [])
            .unwrap();
        assert_eq!(
            failover.relay(),
            &relay(2),
            "it is in use, though not on the list"
        );
        assert_eq!(failover.refuge(Instant::now()), Some(0));
        let mut used = [failover.present()];
        failover
            .set_relays(vec![relay(2), relay(4)], &mut used)
            .unwrap();
        assert_eq!((used, failover.len()), ([0], 2));
        assert_eq!(failover.rtt_of(0), Some(Duration::from_millis(7)));
        assert!(failover.set_relays(Vec::new(), &mut []).is_err());
        assert_eq!(failover.len(), 2);
    }

    #[test]
    fn an_error_lists_so_many_causes_and_says_how_many_more_there_are() {
        let relays: Vec<_> = (1..=10).map(relay).collect();
        let mut failover = Failover::new(relays, Pick::Nearest).unwrap();
        failover.measured(3, None);
        failover
            .next_of_first_round(&ErrorCode::ServerFull.into())
            .unwrap();
        let error = failover.unreachable();
        assert_eq!(error.code(), ErrorCode::NoRelayReachable);
        for part in [
            "ServerFull",
            "no answer to 3 probes",
            "; and 2 more",
            "no time left",
        ] {
            assert!(error.message().contains(part), "{error}");
        }
        assert_eq!(error.message().matches("relay-").count(), CAUSES_MAX);
    }

    #[test]
    fn a_relay_without_a_certificate_hash_is_refused() {
        let open = RelayAddress {
            certificate_sha256: Vec::new(),
            ..relay(1)
        };
        for relays in [vec![], vec![relay(2), open]] {
            assert_eq!(
                Failover::new(relays, Pick::Listed)
                    .map_err(|e| e.code())
                    .unwrap_err(),
                ErrorCode::InvalidArgument
            );
        }
    }

    #[test]
    fn a_relay_is_read_from_the_json_of_the_auth_service() {
        let json = |hash: &str| {
            let text = format!(
                r#"{{"node_id": "relay-1-0", "region": "local", "host": "h", "address": "127.0.0.1:1",
                    "certificate_sha256": ["{hash}"], "load": 1, "capacity": 2, "draining": false}}"#
            );
            serde_json::from_str::<RelayAddress>(&text)
        };
        assert_eq!(
            json(&"5a".repeat(32)).unwrap().certificate_sha256,
            [[0x5a; 32]]
        );
        for bad in [
            "",
            "5a",
            &"5a".repeat(33),
            &"zz".repeat(32),
            &"é".repeat(32),
        ] {
            assert!(json(bad).is_err(), "{bad}");
        }
    }

    fn relay(number: u16) -> RelayAddress {
        RelayAddress {
            node_id: Some(format!("relay-{number}-0")),
            ..RelayAddress::new(([127, 0, 0, 1], number).into(), vec![[1; 32]])
        }
    }
}

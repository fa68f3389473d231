//! The network between relays and players: every datagram in flight, and what happens to it.
//!
//! ```text
//!   send ─▶ cut? ─▶ too large? ─▶ lost? ─▶ delay + jitter ─┬▶ heap ─▶ arrive
//!                                                 doubled? └▶ heap ─▶ arrive
//! ```
//!
//! Jitter is drawn per datagram, so later ones overtake earlier ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::BytesMut;
use dreamcatcher_relay::node::io::Socket;
use quinn_proto::EcnCodepoint;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Someone with a network address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    Relay(usize),
    Player(usize),
}

impl Party {
    /// Where the party receives; players have one socket.
    #[must_use]
    pub fn address(self, socket: Socket) -> SocketAddr {
        let (net, number) = match self {
            Self::Relay(number) => (0, number),
            Self::Player(number) => (1, number),
        };
        let [high, low] = (number as u16 + 1).to_be_bytes();
        let port = match socket {
            Socket::Client => 4433,
            Socket::Mesh => 4434,
        };
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, net, high, low)), port)
    }

    /// Who receives at `address`, and on which socket.
    #[must_use]
    pub fn at(address: SocketAddr) -> Option<(Self, Socket)> {
        let IpAddr::V4(ip) = address.ip() else {
            return None;
        };
        let [10, net, high, low] = ip.octets() else {
            return None;
        };
        let number = usize::from(u16::from_be_bytes([high, low])).checked_sub(1)?;
        let socket = match address.port() {
            4433 => Socket::Client,
            4434 => Socket::Mesh,
            _ => return None,
        };
        match net {
            0 => Some((Self::Relay(number), socket)),
            1 => Some((Self::Player(number), socket)),
            _ => None,
        }
    }
}

/// What the network does to datagrams, until it heals.
#[derive(Clone, Debug)]
pub struct Weather {
    /// One-way delay of a link in µs; each link draws its own.
    pub delay_us: RangeInclusive<u64>,
    /// Additional delay of a datagram in µs, at most.
    pub jitter_us: u64,
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that a datagram arrives twice.
    pub duplication: f64,
    /// Largest UDP payload that a link carries; each draws its own.
    pub mtu: RangeInclusive<usize>,
}

/// A time in which nothing gets through between some parties.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub between: Between,
    pub from: Duration,
    pub until: Duration,
}

/// How long a datagram takes between some parties, from a time on.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    pub between: Between,
    pub from: Duration,
    /// One way.
    pub delay: Duration,
}

/// Which links a [`Cut`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Every link.
    Everyone,
    /// Every link of one party.
    AllOf(Party),
    /// The link of two parties, both ways.
    Both(Party, Party),
    /// The link of two parties, from the first to the second only.
    OneWay(Party, Party),
}

impl Between {
    fn includes(self, from: Party, to: Party) -> bool {
        match self {
            Self::Everyone => true,
            Self::AllOf(party) => party == from || party == to,
            Self::Both(a, b) => (a, b) == (from, to) || (a, b) == (to, from),
            Self::OneWay(a, b) => (a, b) == (from, to),
        }
    }
}

/// A datagram that has arrived.
#[derive(Debug)]
pub struct Arrival {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub ecn: Option<EcnCodepoint>,
    pub data: BytesMut,
}

/// The digest of all that happened in a run: equal for equal seeds.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hasher: std::collections::hash_map::DefaultHasher,
    events: u64,
}

impl Trace {
    pub fn add(&mut self, event: impl Hash) {
        event.hash(&mut self.hasher);
        self.events += 1;
    }

    /// The digest so far, and of how many events.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        (self.hasher.finish(), self.events)
    }
}

/// Every datagram in flight.
#[derive(Debug)]
pub struct Net {
    rng: ChaCha8Rng,
    weather: Weather,
    cuts: Vec<Cut>,
    distances: Vec<Distance>,
    /// From here on nothing is lost, doubled, cut or jittered.
    heals: Duration,
    links: BTreeMap<(Party, Party), Link>,
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    flying: BTreeMap<u64, Arrival>,
    launched: u64,
    pub sent: u64,
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    delay: Duration,
    mtu: usize,
}

impl Net {
    #[must_use]
    pub fn new(
        seed: u64,
        weather: Weather,
        cuts: Vec<Cut>,
        distances: Vec<Distance>,
        heals: Duration,
    ) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x006e_6574),
            weather,
            cuts,
            distances,
            heals,
            links: BTreeMap::new(),
            due: BinaryHeap::new(),
            flying: BTreeMap::new(),
            launched: 0,
            sent: 0,
            dropped: 0,
        }
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next datagram that has arrived by `now`.
    pub fn arrive(&mut self, now: Duration) -> Option<Arrival> {
        let Reverse((at, number)) = *self.due.peek()?;
        if at > now {
            return None;
        }
        self.due.pop();
        self.flying.remove(&number)
    }

    /// Puts a datagram on its way, or loses it.
    pub fn send(
        &mut self,
        now: Duration,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<EcnCodepoint>,
        data: &[u8],
    ) {
        self.sent += 1;
        let (Some((sender, _)), Some((receiver, _))) = (Party::at(from), Party::at(to)) else {
            self.dropped += 1;
            return;
        };
        let link = self.link(sender, receiver);
        let said = |distance: &&Distance| {
            distance.from <= now && distance.between.includes(sender, receiver)
        };
        let said = self.distances.iter().rev().find(said);
        let delay = said.map_or(link.delay, |distance| distance.delay);
        let stormy = now < self.heals;
        let cut = |cut: &Cut| {
            (cut.from..cut.until).contains(&now) && cut.between.includes(sender, receiver)
        };
        if data.len() > link.mtu
            || stormy && (self.cuts.iter().any(cut) || self.rng.random_bool(self.weather.loss))
        {
            self.dropped += 1;
            return;
        }
        let copies = 1 + usize::from(stormy && self.rng.random_bool(self.weather.duplication));
        for _ in 0..copies {
            let jitter = if stormy {
                self.rng.random_range(0..=self.weather.jitter_us)
            } else {
                0
            };
            let at = wake_up(now + delay + Duration::from_micros(jitter));
            let arrival = Arrival {
                from,
                to,
                ecn,
                data: data.into(),
            };
            self.launched += 1;
            self.due.push(Reverse((at, self.launched)));
            self.flying.insert(self.launched, arrival);
        }
    }

    fn link(&mut self, a: Party, b: Party) -> Link {
        let Self {
            links,
            rng,
            weather,
            ..
        } = self;
        *links.entry((a.min(b), a.max(b))).or_insert_with(|| Link {
            delay: Duration::from_micros(rng.random_range(weather.delay_us.clone())),
            mtu: rng.random_range(weather.mtu.clone()),
        })
    }
}

/// What arrives within this time is handled in one pass, as by a relay's driver under load.
const READ_EVERY: Duration = Duration::from_millis(1);

fn wake_up(at: Duration) -> Duration {
    let every = READ_EVERY.as_micros();
    let whole = at.as_micros().div_ceil(every) * every;
    Duration::from_micros(whole as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Party = Party::Relay(0);
    const B: Party = Party::Player(300);

    #[test]
    fn an_address_names_its_party_and_socket() {
        for party in [A, Party::Relay(2), Party::Player(0), B] {
            for socket in [Socket::Client, Socket::Mesh] {
                assert_eq!(Party::at(party.address(socket)), Some((party, socket)));
            }
        }
    }

    #[test]
    fn a_network_loses_doubles_reorders_and_cuts_until_it_heals() {
        let weather = Weather {
            delay_us: 1_000..=20_000,
            jitter_us: 5_000,
            loss: 0.1,
            duplication: 0.1,
            mtu: 1_300..=1_500,
        };
        let s = Duration::from_secs;
        let cut = Cut {
            between: Between::Both(A, B),
            from: s(1),
            until: s(2),
        };
        let mut net = Net::new(7, weather, vec![cut], Vec::new(), s(3));
        let mut pass = |at: Duration, count: u16| -> Vec<u16> {
            for number in 0..count {
                let (from, to) = (A.address(Socket::Client), B.address(Socket::Client));
                net.send(at, from, to, None, &number.to_be_bytes());
            }
            std::iter::from_fn(|| net.arrive(at + s(1)))
                .map(|arrival| u16::from_be_bytes([arrival.data[0], arrival.data[1]]))
                .collect()
        };
        let stormy = pass(s(0), 1_000);
        let mut distinct = stormy.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(
            (850..950).contains(&distinct.len()),
            "lost: {}",
            distinct.len()
        );
        assert!(
            stormy.len() > distinct.len() + 50,
            "doubled: {}",
            stormy.len()
        );
        assert!(!stormy.is_sorted(), "reordered");
        assert!(pass(s(1), 1_000).is_empty(), "cut");
        assert_eq!(pass(s(3), 1_000), (0..1_000).collect::<Vec<_>>(), "healed");
    }
}

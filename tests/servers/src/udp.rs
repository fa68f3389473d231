//! A stretch of network: UDP to one target and back, with a round trip that can be set.
//!
//! ```text
//!  client ──▶ front ──(rtt / 2)──▶ a socket for this client ──▶ target
//!         ◀──────────(rtt / 2)───                           ◀──
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longest sleep of the thread: how late it notices that it is to end.
const NAP: Duration = Duration::from_millis(50);
/// The largest UDP datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A proxy that holds each datagram back for half of a round trip, in each direction. Its thread ends
/// with it.
#[derive(Debug)]
pub struct UdpProxy {
    address: SocketAddr,
    controls: Arc<Controls>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Controls {
    rtt_us: AtomicU64,
    cut: AtomicBool,
    stop: AtomicBool,
}

impl UdpProxy {
    /// A proxy on a free port of loopback for `target`, with a round trip of `rtt`.
    #[must_use]
    pub fn start(target: SocketAddr, rtt: Duration) -> Self {
        let front = nonblocking().unwrap_or_else(|e| panic!("no UDP socket: {e}"));
        let address = front.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let controls = Arc::new(Controls {
            rtt_us: AtomicU64::new(micros(rtt)),
            cut: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let line = Line {
            front,
            target,
            controls: Arc::clone(&controls),
            clients: Vec::new(),
            number_of: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            sent: 0,
        };
        Self {
            address,
            controls,
            thread: Some(std::thread::spawn(move || line.run())),
        }
    }

    /// Where clients send to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Datagrams that come from here on take this long, there and back.
    pub fn set_rtt(&self, rtt: Duration) {
        self.controls.rtt_us.store(micros(rtt), Ordering::Relaxed);
    }

    /// Drops everything, or lets it through again.
    pub fn set_cut(&self, cut: bool) {
        self.controls.cut.store(cut, Ordering::Relaxed);
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.controls.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and has said so.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Line {
    front: UdpSocket,
    target: SocketAddr,
    controls: Arc<Controls>,
    clients: Vec<(SocketAddr, UdpSocket)>,
    number_of: BTreeMap<SocketAddr, usize>,
    /// By when they are due, then in the order in which they came.
    under_way: BinaryHeap<Reverse<Held>>,
    sent: u64,
}

/// A datagram that is held back until it is due; the number keeps those due at once in order.
type Held = (Instant, u64, Way, Vec<u8>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ToTarget(usize),
    ToClient(usize),
}

impl Line {
    fn run(mut self) {
        while !self.controls.stop.load(Ordering::Relaxed) {
            self.wait();
            let now = Instant::now();
            self.take_in(now);
            self.let_out(now);
        }
    }

    /// Until a datagram comes or one is due.
    fn wait(&self) {
        let due = self.under_way.peek().map(|Reverse((due, ..))| *due);
        let nap = due.map_or(NAP, |due| {
            due.saturating_duration_since(Instant::now()).min(NAP)
        });
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(nap.subsec_nanos()),
        };
        let sockets = std::iter::once(&self.front).chain(self.clients.iter().map(|(_, s)| s));
        let mut watched: Vec<PollFd<'_>> = sockets
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        // An error is a signal: look again.
        let _ = poll(&mut watched, Some(&timeout));
    }

    fn take_in(&mut self, now: Instant) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok((length, client)) = self.front.recv_from(&mut buffer) {
            if let Some(number) = self.client(client) {
                self.hold(Way::ToTarget(number), &buffer[..length], now);
            }
        }
        for number in 0..self.clients.len() {
            while let Ok(length) = self.clients[number].1.recv(&mut buffer) {
                self.hold(Way::ToClient(number), &buffer[..length], now);
            }
        }
    }

    /// The number of a client, with a socket of its own towards the target.
    fn client(&mut self, address: SocketAddr) -> Option<usize> {
        if let Some(&number) = self.number_of.get(&address) {
            return Some(number);
        }
        let socket = nonblocking().ok()?;
        socket.connect(self.target).ok()?;
        let number = self.clients.len();
        self.clients.push((address, socket));
        self.number_of.insert(address, number);
        Some(number)
    }

    fn hold(&mut self, way: Way, datagram: &[u8], now: Instant) {
        if self.controls.cut.load(Ordering::Relaxed) {
            return;
        }
        let half = Duration::from_micros(self.controls.rtt_us.load(Ordering::Relaxed) / 2);
        self.sent += 1;
        self.under_way
            .push(Reverse((now + half, self.sent, way, datagram.to_vec())));
    }

    fn let_out(&mut self, now: Instant) {
        while let Some(Reverse((due, ..))) = self.under_way.peek() {
            if *due > now {
                return;
            }
            let Some(Reverse((_, _, way, datagram))) = self.under_way.pop() else {
                return;
            };
            // What a full or closed socket does not take is lost, as on any network.
            let _ = match way {
                Way::ToTarget(number) => self.clients[number].1.send(&datagram),
                Way::ToClient(number) => self.front.send_to(&datagram, self.clients[number].0),
            };
        }
    }
}

fn nonblocking() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_as_long_as_it_is_set_to() {
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
        let target = echo.local_addr().unwrap_or_else(|e| panic!("{e}"));
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], from);
            }
        });
        let proxy = UdpProxy::start(target, Duration::from_millis(80));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
        let round_trip = |number: u8| {
            let began = Instant::now();
            client
                .send_to(&[number], proxy.address())
                .unwrap_or_else(|e| panic!("{e}"));
            let mut buffer = [0; 16];
            let length = client.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(&buffer[..length], [number]);
            began.elapsed()
        };
        assert!(round_trip(1) >= Duration::from_millis(80));
        proxy.set_rtt(Duration::from_millis(200));
        assert!(round_trip(2) >= Duration::from_millis(200));
    }
}

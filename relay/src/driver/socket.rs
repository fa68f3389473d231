//! One UDP port of a node: batched receive and send (recvmmsg, GRO, GSO) through `quinn-udp`.
//!
//! A send that the socket has no room for waits in a bounded queue until the socket is writable; one
//! that fails, or finds the queue full, is dropped and counted: QUIC repairs it as any other loss.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use mio::event::Source;
use mio::{Interest, Registry, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};

use crate::node::io::{Datagram, Socket, Transmit};

/// What the kernel is asked to hold for each direction, where it allows that much: 8 ms of a
/// gigabyte per second.
const KERNEL_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// One receive buffer: whatever GRO merges, it stays below 64 KiB.
const RECEIVE_BYTES: usize = 65_536;
/// Sends that wait for the socket to be writable. The kernel's own buffer is full then, so more
/// would only be later.
const WAITING_SENDS_MAX: usize = 256;

/// A bound socket.
pub(crate) struct Port {
    name: Socket,
    socket: mio::net::UdpSocket,
    state: UdpSocketState,
    waiting: VecDeque<(Transmit, Vec<u8>)>,
    /// Datagrams may wait in the kernel. Events are edge-triggered, so this stays set until a receive
    /// comes back with less than it has room for.
    readable: bool,
    /// The poll reports when the socket is writable.
    awaits_writable: bool,
    sends_dropped: u64,
}

impl Port {
    pub(crate) fn bind(name: Socket, address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        let reference = UdpSockRef::from(&socket);
        let state = UdpSocketState::new(reference)?;
        // Best effort: the kernel clamps it to net.core.{r,w}mem_max.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER_BYTES);
        Ok(Self {
            name,
            socket: mio::net::UdpSocket::from_std(socket),
            state,
            waiting: VecDeque::new(),
            readable: true,
            awaits_writable: false,
            sends_dropped: 0,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket
            .register(registry, self.token(), Interest::READABLE)
    }

    pub(super) fn token(&self) -> Token {
        Token(self.name as usize)
    }

    /// What the poll said of this socket.
    pub(super) fn ready(&mut self, event: &mio::event::Event, registry: &Registry) {
        self.readable |= event.is_readable();
        if event.is_writable() && self.awaits_writable {
            self.flush(registry);
        }
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Sends that were dropped so far.
    pub(super) fn sends_dropped(&self) -> u64 {
        self.sends_dropped
    }

    /// Receives one batch and gives each datagram to `take`. Says how many there were.
    pub(super) fn receive(
        &mut self,
        buffers: &mut ReceiveBuffers,
        mut take: impl FnMut(Datagram),
    ) -> usize {
        let mut parts = buffers.bytes.chunks_exact_mut(RECEIVE_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        let reference = UdpSockRef::from(&self.socket);
        let filled = match self.state.recv(reference, &mut slices, &mut buffers.meta) {
            Ok(filled) => filled,
            // ECONNREFUSED and the like tell of one earlier send: more may wait behind it.
            Err(error) => {
                self.readable = error.kind() != io::ErrorKind::WouldBlock;
                return 0;
            }
        };
        self.readable = filled == BATCH_SIZE;
        let mut datagrams = 0;
        for (meta, slice) in buffers.meta.iter().zip(&slices).take(filled) {
            let bytes = slice.get(..meta.len).unwrap_or_default();
            for data in bytes.chunks(meta.stride.max(1)) {
                datagrams += 1;
                take(Datagram {
                    socket: self.name,
                    remote: meta.addr,
                    local_ip: meta.dst_ip,
                    ecn: meta
                        .ecn
                        .and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8)),
                    data: BytesMut::from(data),
                });
            }
        }
        datagrams
    }

    /// Sends `bytes`, now or when there is room for them.
    pub(super) fn send(&mut self, transmit: &Transmit, bytes: &[u8], registry: &Registry) {
        if !self.waiting.is_empty() {
            return self.wait(transmit, bytes, registry);
        }
        if let Some(rest) = self.try_send(transmit, bytes) {
            self.wait(transmit, &bytes[bytes.len() - rest..], registry);
        }
    }

    /// Sends in as many calls as the kernel needs. `Some(n)`: no room for the last n bytes.
    fn try_send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Option<usize> {
        let segment = transmit.segment_size.unwrap_or(bytes.len()).max(1);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = segment.saturating_mul(self.state.max_gso_segments().max(1));
            let (contents, behind) = rest.split_at(rest.len().min(room));
            let sent = self.state.try_send(
                UdpSockRef::from(&self.socket),
                &quinn_udp::Transmit {
                    destination: transmit.destination,
                    ecn: transmit
                        .ecn
                        .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
                    contents,
                    segment_size: (contents.len() > segment).then_some(segment),
                    src_ip: transmit.src_ip,
                },
            );
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(rest.len()),
                Err(error) => {
                    self.sends_dropped += 1;
                    tracing::debug!(to = %transmit.destination, %error, "a send was dropped");
                }
            }
            rest = behind;
        }
        None
    }

    fn wait(&mut self, transmit: &Transmit, bytes: &[u8], registry: &Registry) {
        if self.waiting.len() == WAITING_SENDS_MAX {
            self.sends_dropped += 1;
            return;
        }
        self.waiting.push_back((*transmit, bytes.to_vec()));
        self.await_writable(registry);
    }

    fn flush(&mut self, registry: &Registry) {
        while let Some((transmit, bytes)) = self.waiting.pop_front() {
            if let Some(rest) = self.try_send(&transmit, &bytes) {
                let rest = bytes[bytes.len() - rest..].to_vec();
                self.waiting.push_front((transmit, rest));
                return;
            }
        }
        self.await_writable(registry);
    }

    /// Asks for writable events while sends wait, and only then: each acknowledged packet would wake
    /// the loop otherwise.
    fn await_writable(&mut self, registry: &Registry) {
        let wanted = !self.waiting.is_empty();
        if wanted == self.awaits_writable {
            return;
        }
        let interest = if wanted {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        let token = self.token();
        match self.socket.reregister(registry, token, interest) {
            Ok(()) => self.awaits_writable = wanted,
            Err(error) => {
                self.sends_dropped += self.waiting.len() as u64;
                self.waiting.clear();
                tracing::warn!(%error, "waiting for a writable socket failed");
            }
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("name", &self.name)
            .field("waiting", &self.waiting.len())
            .field("readable", &self.readable)
            .finish_non_exhaustive()
    }
}

/// Where datagrams land, for both ports of a node in turn.
pub(super) struct ReceiveBuffers {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl ReceiveBuffers {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BYTES * BATCH_SIZE],
            meta: [RecvMeta::default(); BATCH_SIZE],
        }
    }
}

impl fmt::Debug for ReceiveBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiveBuffers")
    }
}

/// Where a socket that is bound to `bound` can be reached: a wildcard address is nobody's.
pub(crate) fn is_wildcard(bound: SocketAddr) -> bool {
    match bound.ip() {
        IpAddr::V4(ip) => ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::time::{Duration, Instant};

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn every_segment_of_a_send_arrives_as_its_own_datagram() {
        let mut pair = Pair::new();
        let bytes: Vec<u8> = (0..10_u8)
            .flat_map(|n| vec![n; if n == 9 { 7 } else { 1_200 }])
            .collect();
        pair.send(&bytes, Some(1_200));
        let received = pair.receive(10);
        assert!(received.iter().all(|d| d.remote == pair.source()));
        for (n, datagram) in received.iter().enumerate() {
            assert_eq!(datagram.data.len(), if n == 9 { 7 } else { 1_200 });
            assert!(datagram.data.iter().all(|byte| usize::from(*byte) == n));
            assert_eq!(datagram.ecn, Some(quinn_proto::EcnCodepoint::Ect0));
            assert_eq!(datagram.local_ip, Some([127, 0, 0, 1].into()));
        }
    }

    #[test]
    fn more_datagrams_than_one_batch_holds_are_all_received() {
        let mut pair = Pair::new();
        for n in 0..100_u8 {
            pair.send(&[n; 40], None);
        }
        let received = pair.receive(100);
        let order: Vec<u8> = received.iter().map(|datagram| datagram.data[0]).collect();
        assert_eq!(order, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn a_send_that_must_wait_is_sent_in_order_when_the_socket_is_writable() {
        let mut pair = Pair::new();
        let registry = pair.poll.registry().try_clone().unwrap();
        let transmit = pair.transmit(1, None);
        for n in 0..=WAITING_SENDS_MAX {
            pair.from.wait(&transmit, &[n as u8], &registry);
        }
        assert_eq!(pair.from.sends_dropped(), 1, "the queue is bounded");
        pair.send(b"x", None);
        assert_eq!(pair.from.sends_dropped(), 2, "nothing overtakes");
        let received = pair.receive(WAITING_SENDS_MAX);
        let order: Vec<u8> = received.iter().map(|datagram| datagram.data[0]).collect();
        assert_eq!(
            order,
            (0..WAITING_SENDS_MAX).map(|n| n as u8).collect::<Vec<u8>>()
        );
        assert!(!pair.from.awaits_writable);
    }

    #[test]
    fn a_send_that_nobody_can_deliver_is_dropped_and_counted() {
        let mut pair = Pair::new();
        let registry = pair.poll.registry().try_clone().unwrap();
        let mut transmit = pair.transmit(70_000, None);
        transmit.destination = pair.to.local_addr().unwrap();
        pair.from.send(&transmit, &vec![0; 70_000], &registry);
        assert_eq!(pair.from.sends_dropped(), 1);
        pair.send(b"next", None);
        assert_eq!(pair.receive(1)[0].data, b"next"[..]);
    }

    struct Pair {
        poll: Poll,
        from: Port,
        to: Port,
    }

    impl Pair {
        fn new() -> Self {
            let any = "127.0.0.1:0".parse().unwrap();
            let poll = Poll::new().unwrap();
            let mut from = Port::bind(Socket::Client, any).unwrap();
            let mut to = Port::bind(Socket::Mesh, any).unwrap();
            from.register(poll.registry()).unwrap();
            to.register(poll.registry()).unwrap();
            Self { poll, from, to }
        }

        fn source(&self) -> SocketAddr {
            self.from.local_addr().unwrap()
        }

        fn transmit(&self, size: usize, segment_size: Option<usize>) -> Transmit {
            Transmit {
                socket: Socket::Client,
                destination: self.to.local_addr().unwrap(),
                ecn: Some(quinn_proto::EcnCodepoint::Ect0),
                size,
                segment_size,
                src_ip: None,
            }
        }

        fn send(&mut self, bytes: &[u8], segment_size: Option<usize>) {
            let transmit = self.transmit(bytes.len(), segment_size);
            self.from.send(&transmit, bytes, self.poll.registry());
        }

        /// Polls until `count` datagrams came.
        fn receive(&mut self, count: usize) -> Vec<Datagram> {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut buffers = ReceiveBuffers::new();
            let mut events = Events::with_capacity(8);
            let mut received = Vec::new();
            while received.len() < count {
                assert!(
                    Instant::now() < deadline,
                    "{} of {count} came",
                    received.len()
                );
                self.poll
                    .poll(&mut events, Some(Duration::from_millis(100)))
                    .unwrap();
                for event in &events {
                    let port = if event.token() == self.to.token() {
                        &mut self.to
                    } else {
                        &mut self.from
                    };
                    port.ready(event, self.poll.registry());
                }
                while self.to.is_readable() {
                    self.to
                        .receive(&mut buffers, |datagram| received.push(datagram));
                }
            }
            received
        }
    }
}

//! The thread that drives clients, so that the game may stall.
//!
//! ```text
//!   game threads ──lock──▶ Slot { Core } ◀──lock── worker thread ⇄ UDP sockets, one per client
//!         └──────────wake (mio)──────────────────────▲
//! ```
//!
//! A core is locked for the length of one call or one pass, some microseconds. One worker can drive
//! many clients; each pass drains a client's socket, lets its timers fire, and sends everything that
//! has become due in as few system calls as the kernel allows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dreamcatcher_proto::history::Fact;
use dreamcatcher_proto::{Error, ErrorCode};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use quinn_proto::Transmit;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use tokio::sync::Notify;

use crate::auth;
use crate::block_on;
use crate::core::{Core, CoreConfig, RelayAddress};
use crate::history::Log;

/// Datagrams that the kernel may join into one buffer (GRO) fit this.
const RECEIVE_BUFFER_BYTES: usize = 65_536;
/// Buffers filled by one system call.
const RECEIVE_BATCH: usize = 16;
/// System calls for one client before the others have their turn.
const RECEIVE_TURNS_MAX: usize = 16;
/// UDP datagrams in one send (GSO).
const SEGMENTS_MAX: usize = 10;
/// Readiness events taken per wake-up; more wait for the next.
const READY_MAX: usize = 256;
/// Between two reads of the relay list.
const READ_RELAYS_EVERY: Duration = Duration::from_secs(5);
const WAKER: Token = Token(usize::MAX);

/// A thread that drives any number of clients. It ends when the last handle to it and the last of
/// its clients are dropped.
#[derive(Clone, Debug)]
pub struct Worker {
    running: Arc<Running>,
}

/// Stops the thread when the last handle is gone.
#[derive(Debug)]
struct Running {
    door: Arc<Door>,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.door.inbox).stop = true;
        self.door.ring();
    }
}

/// Where the thread is reached.
#[derive(Debug)]
struct Door {
    waker: Waker,
    inbox: Mutex<Inbox>,
}

/// What is new since the last pass. It holds each client once at most.
#[derive(Debug, Default)]
struct Inbox {
    next_id: usize,
    new: Vec<Driven>,
    woken: Vec<usize>,
    stop: bool,
}

impl Door {
    fn ring(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the client's worker thread cannot be woken");
        }
    }
}

/// One client, as game and worker share it.
#[derive(Debug)]
pub(crate) struct Slot {
    id: usize,
    core: Mutex<Core>,
    woken: AtomicBool,
    worker: Worker,
    /// There may be an event.
    pub(crate) events: Notify,
    /// There may be a reply, or the goodbye is said.
    pub(crate) replies: Notify,
    parted: AtomicBool,
    /// Whether the socket reaches IPv6 relays too.
    ipv6: bool,
    list: RelayList,
    /// What the game does and sees, if that is to be recorded.
    pub(crate) log: Option<Log>,
}

/// Where the list of relays is read again.
#[derive(Debug, Default)]
struct RelayList {
    auth_url: Option<auth::AuthUrl>,
    /// By a thread of its own, one at a time.
    reading: AtomicBool,
    read_at: Mutex<Option<Instant>>,
}

impl Slot {
    /// Another list for the core, as far as the socket reaches its relays.
    pub(crate) fn set_relays(&self, mut relays: Vec<RelayAddress>) -> Result<(), Error> {
        if !self.ipv6 {
            relays.retain(|relay| relay.address.is_ipv4());
        }
        self.core().set_relays(relays)?;
        self.wake();
        Ok(())
    }

    /// Has the list read again, if it can be and was not just read.
    fn read_relays(self: &Arc<Self>) {
        let Some(url) = self.list.auth_url.clone() else {
            return;
        };
        let now = Instant::now();
        let mut read_at = lock(&self.list.read_at);
        let is_fresh = read_at.is_some_and(|at| now < at + READ_RELAYS_EVERY);
        if is_fresh || self.list.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        *read_at = Some(now);
        let slot = Arc::downgrade(self);
        let thread = std::thread::Builder::new()
            .name("dreamcatcher-relays".to_owned())
            .spawn(move || read_relays(&url, &slot));
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread to read the relay list");
            self.list.reading.store(false, Ordering::Release);
        }
    }

    /// Records what the game did or saw. To be called with the core locked: that keeps the order.
    pub(crate) fn note(&self, fact: impl FnOnce() -> Fact) {
        if let Some(log) = &self.log {
            log.note(fact());
        }
    }

    /// Ends the connection, and what is recorded of it.
    pub(crate) fn close(&self) {
        let mut core = self.core();
        if let Some(log) = &self.log {
            log.end(&core);
        }
        core.close(Instant::now());
        drop(core);
        self.wake();
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Has the worker look at this client.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let door = &self.worker.running.door;
            lock(&door.inbox).woken.push(self.id);
            door.ring();
        }
    }

    /// Whether the client is closed and has told the relay so.
    pub(crate) fn has_parted(&self) -> bool {
        self.parted.load(Ordering::Acquire)
    }
}

/// Ends by itself: an HTTP call has a time limit.
fn read_relays(url: &auth::AuthUrl, slot: &Weak<Slot>) {
    let read = block_on(auth::relays(url)).map_err(Error::from);
    let Some(slot) = slot.upgrade() else { return };
    if let Err(error) = read.and_then(|relays| slot.set_relays(relays)) {
        tracing::warn!(%error, "the relay list could not be read again");
    }
    slot.list.reading.store(false, Ordering::Release);
}

impl Worker {
    /// Starts a worker thread. `Internal` if the system has no room for one.
    pub fn spawn() -> Result<Self, Error> {
        let poll = Poll::new().map_err(|error| system("the worker's poll", &error))?;
        let waker = Waker::new(poll.registry(), WAKER)
            .map_err(|error| system("the worker's waker", &error))?;
        let door = Arc::new(Door {
            waker,
            inbox: Mutex::default(),
        });
        let drive = Drive {
            poll,
            door: Arc::clone(&door),
            clients: BTreeMap::new(),
            timers: BTreeSet::new(),
            receive: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER_BYTES],
            transmit: Vec::new(),
        };
        std::thread::Builder::new()
            .name("dreamcatcher".to_owned())
            .spawn(move || drive.run())
            .map_err(|error| system("the worker thread", &error))?;
        Ok(Self {
            running: Arc::new(Running { door }),
        })
    }

    /// Opens a socket and begins to drive a new client over it.
    pub(crate) fn start(
        &self,
        config: CoreConfig,
        auth_url: Option<auth::AuthUrl>,
        log: Option<Log>,
    ) -> Result<Arc<Slot>, Error> {
        let ipv6 = config.relays.iter().any(|relay| relay.address.is_ipv6());
        let any = if ipv6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        let socket =
            UdpSocket::bind((any, 0).into()).map_err(|error| system("the UDP socket", &error))?;
        let udp = UdpSocketState::new(UdpSockRef::from(&socket))
            .map_err(|error| system("the UDP socket", &error))?;
        let config = CoreConfig {
            segments_max: udp.max_gso_segments().min(SEGMENTS_MAX),
            mtu_discovery: !udp.may_fragment(),
            ..config
        };
        let core = Mutex::new(Core::new(config, Instant::now())?);
        let door = &self.running.door;
        let mut inbox = lock(&door.inbox);
        let id = inbox.next_id;
        inbox.next_id += 1;
        let slot = Arc::new(Slot {
            id,
            core,
            woken: AtomicBool::new(false),
            worker: self.clone(),
            events: Notify::new(),
            replies: Notify::new(),
            parted: AtomicBool::new(false),
            ipv6,
            list: RelayList {
                auth_url,
                ..RelayList::default()
            },
            log,
        });
        inbox.new.push(Driven {
            slot: Arc::clone(&slot),
            socket,
            udp,
            ipv6,
            due: None,
            unsent: None,
        });
        drop(inbox);
        door.ring();
        Ok(slot)
    }
}

/// One client, as the worker holds it.
#[derive(Debug)]
struct Driven {
    slot: Arc<Slot>,
    socket: UdpSocket,
    udp: UdpSocketState,
    /// An IPv6 socket names IPv4 relays by their mapped addresses.
    ipv6: bool,
    /// Its place among the timers.
    due: Option<Instant>,
    /// What the kernel had no room for.
    unsent: Option<(Transmit, Vec<u8>)>,
}

/// The worker thread.
#[derive(Debug)]
struct Drive {
    poll: Poll,
    door: Arc<Door>,
    clients: BTreeMap<usize, Driven>,
    timers: BTreeSet<(Instant, usize)>,
    receive: Vec<u8>,
    transmit: Vec<u8>,
}

impl Drive {
    fn run(mut self) {
        let mut ready = Events::with_capacity(READY_MAX);
        // Those with more to read than their turn allowed.
        let mut unread = BTreeSet::new();
        loop {
            let timeout = match self.timers.first() {
                _ if !unread.is_empty() => Some(Duration::ZERO),
                Some((due, _)) => Some(due.saturating_duration_since(Instant::now())),
                None => None,
            };
            match self.poll.poll(&mut ready, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return tracing::error!(%error, "the client's worker thread cannot poll");
                }
            }
            let mut readable = std::mem::take(&mut unread);
            readable.extend(
                ready
                    .iter()
                    .map(|event| event.token().0)
                    .filter(|id| *id != WAKER.0),
            );
            let mut turn = readable.clone();
            if self.take_inbox(&mut turn) && self.clients.is_empty() {
                return;
            }
            let now = Instant::now();
            turn.extend(self.timers.range(..=(now, usize::MAX)).map(|(_, id)| *id));
            for id in turn {
                if self.pass(id, readable.contains(&id)) {
                    unread.insert(id);
                }
            }
        }
    }

    /// Adds who is new or was woken to `turn`; whether to stop once nobody is left.
    fn take_inbox(&mut self, turn: &mut BTreeSet<usize>) -> bool {
        let mut inbox = lock(&self.door.inbox);
        turn.extend(inbox.woken.drain(..));
        let new = std::mem::take(&mut inbox.new);
        let stop = inbox.stop;
        drop(inbox);
        for mut driven in new {
            let id = driven.slot.id;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) =
                self.poll
                    .registry()
                    .register(&mut driven.socket, Token(id), interest)
            {
                tracing::error!(%error, "a client's socket cannot be polled");
                driven.slot.core().close(Instant::now());
            }
            self.clients.insert(id, driven);
            turn.insert(id);
        }
        stop
    }

    /// Drains, handles and sends for one client; whether there is more to read.
    fn pass(&mut self, id: usize, readable: bool) -> bool {
        let Some(driven) = self.clients.get_mut(&id) else {
            return false;
        };
        let slot = Arc::clone(&driven.slot);
        slot.woken.store(false, Ordering::Release);
        let mut core = slot.core();
        let unread = readable && driven.receive(&mut core, &mut self.receive);
        let now = Instant::now();
        core.handle_timeout(now);
        let sent = driven.send(&mut core, &mut self.transmit, now);
        let due = core.poll_timeout();
        if driven.due != due {
            self.timers.extend(due.map(|due| (due, id)));
            if let Some(before) = std::mem::replace(&mut driven.due, due) {
                self.timers.remove(&(before, id));
            }
        }
        let parted = sent && core.failure().is_some();
        slot.parted.fetch_or(parted, Ordering::AcqRel);
        if core.take_wants_relays() {
            slot.read_relays();
        }
        if core.has_replies() || parted {
            slot.replies.notify_one();
        }
        if core.has_events() || parted {
            slot.events.notify_one();
        }
        if core.is_finished() {
            if let Some(before) = driven.due.take() {
                self.timers.remove(&(before, id));
            }
            self.clients.remove(&id);
        }
        unread
    }
}

impl Driven {
    /// Hands what has come to the core; whether there may be more.
    fn receive(&mut self, core: &mut Core, buffer: &mut [u8]) -> bool {
        for _ in 0..RECEIVE_TURNS_MAX {
            let mut meta = [RecvMeta::default(); RECEIVE_BATCH];
            let mut parts = buffer.chunks_exact_mut(RECEIVE_BUFFER_BYTES);
            let mut slices: [IoSliceMut<'_>; RECEIVE_BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
            let count = match self
                .udp
                .recv(UdpSockRef::from(&self.socket), &mut slices, &mut meta)
            {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // An empty socket, or news of a datagram that did not arrive: QUIC sees to that.
                Err(_) => return false,
            };
            let now = Instant::now();
            for (meta, bytes) in meta
                .iter()
                .zip(buffer.chunks_exact(RECEIVE_BUFFER_BYTES))
                .take(count)
            {
                let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                let ecn = meta
                    .ecn
                    .and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
                for datagram in bytes[..meta.len].chunks(meta.stride.max(1)) {
                    core.handle_datagram(from, ecn, BytesMut::from(datagram), now);
                }
            }
        }
        true
    }

    /// Sends everything that is due; `false` if the kernel has no room.
    fn send(&mut self, core: &mut Core, buffer: &mut Vec<u8>, now: Instant) -> bool {
        if let Some((transmit, bytes)) = self.unsent.take()
            && !self.send_one(&transmit, &bytes)
        {
            self.unsent = Some((transmit, bytes));
            return false;
        }
        while let Some(transmit) = core.poll_transmit(now, buffer) {
            if !self.send_one(&transmit, buffer) {
                self.unsent = Some((transmit, std::mem::take(buffer)));
                return false;
            }
        }
        true
    }

    fn send_one(&self, transmit: &Transmit, bytes: &[u8]) -> bool {
        let destination = match transmit.destination {
            SocketAddr::V4(v4) if self.ipv6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => transmit.destination,
        };
        let transmit = quinn_udp::Transmit {
            destination,
            ecn: transmit
                .ecn
                .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        match self.udp.send(UdpSockRef::from(&self.socket), &transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // Any other error is a datagram lost on the way: QUIC sends again what matters.
            Ok(()) | Err(_) => true,
        }
    }
}

fn system(what: &'static str, error: &io::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("{what}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

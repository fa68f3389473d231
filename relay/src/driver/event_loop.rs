//! The loop of one node: one thread that owns the node and both its sockets.
//!
//! ```text
//!          ┌─────────────────────────── one pass ───────────────────────────┐
//!  wait ──▶ receive both sockets ──▶ mailbox ──▶ timeout ──▶ outputs ──▶ send ──▶ publish
//!   ▲                                                                               │
//!   └── idle: poll until something happens · busy: sleep until max_batch_delay is over, then poll ◀┘
//! ```
//!
//! A pass drains the sockets, lets the node handle everything, and then sends everything, so that
//! messages which arrive together leave together. When at least two datagrams arrive per
//! `max_batch_delay` (see [`Pace`]) passes begin that long after each other, the thread sleeping in
//! between, and batches grow with load; below that it wakes at once. So beside the pass that is under
//! way no datagram waits longer than `max_batch_delay`, with a delay of zero none waits at all, and a
//! loop that is full never sleeps.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_directory::DirectoryError;
use mio::{Events, Poll};
use tokio::sync::Notify;

use super::mailbox::{Inbox, Message};
use super::metrics::LoopFigures;
use super::pace::Pace;
use super::shared::Shared;
use super::side::{Calls, unix_now};
use super::socket::{Port, ReceiveBuffers};
use crate::node::Node;
use crate::node::io::{Clock, Input, Output, Socket};

/// Receive batches in one pass: 2,048 packets, some milliseconds of work. The rest waits for the next
/// pass, so that timers and sends are never starved.
const RECEIVE_BATCHES_MAX: usize = 64;
/// Messages of the mailbox in one pass.
const MESSAGES_PER_PASS_MAX: usize = 256;
/// How often figures are published while anything happens.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// Longest sleep in the poll: it bounds what a lost wake-up could cost.
const POLL_MAX: Duration = Duration::from_secs(1);
/// Events of two sockets and the waker.
const EVENTS_MAX: usize = 8;

/// Everything that a node's thread owns.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) node: Node,
    pub(super) poll: Poll,
    pub(super) client: Port,
    pub(super) mesh: Port,
    pub(super) inbox: Inbox,
    pub(super) calls: Calls,
    pub(super) shared: Arc<Shared>,
    pub(super) figures: LoopFigures,
    pub(super) max_batch_delay: Duration,
    /// Who reads the token keys again.
    pub(super) keys_wanted: Option<Arc<Notify>>,
}

impl EventLoop {
    /// Runs until the node has stopped, or was killed.
    pub(super) fn run(self) {
        let shared = Arc::clone(&self.shared);
        let _on_its_way = shared.enter_thread();
        exact_sleep();
        if let Err(error) = Running::new(self).run() {
            tracing::error!(node = %shared.id, %error, "the event loop failed");
        }
    }
}

/// Why the loop goes on or not.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Pass,
    Stopped,
    Killed,
}

#[derive(Debug)]
struct Running {
    own: EventLoop,
    buffers: ReceiveBuffers,
    transmit: Vec<u8>,
    events: Events,
    pace: Pace,
    /// Directory requests that found no room: answered at the start of the next pass.
    refused: Vec<u64>,
    published_at: Instant,
    unpublished: bool,
    /// The mailbox held more than one pass reads.
    more_messages: bool,
    passes: u64,
}

impl Running {
    fn new(own: EventLoop) -> Self {
        let now = Instant::now();
        Self {
            pace: Pace::new(own.max_batch_delay, now),
            own,
            buffers: ReceiveBuffers::new(),
            transmit: Vec::new(),
            events: Events::with_capacity(EVENTS_MAX),
            refused: Vec::new(),
            published_at: now,
            unpublished: true,
            more_messages: false,
            passes: 0,
        }
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let started = Instant::now();
            let received = self.receive();
            match self.pass() {
                Next::Pass => {}
                // Whoever is killed sends nothing and says nothing.
                Next::Killed => return Ok(()),
                Next::Stopped => {
                    self.own
                        .shared
                        .set_refusal(self.own.node.refusal().cloned());
                    self.publish(Instant::now());
                    return Ok(());
                }
            }
            self.passes += 1;
            let node = &self.own.node;
            self.own.shared.set_ready(node.is_ready(), node.has_keys());
            let now = Instant::now();
            let took = now - started;
            self.own.figures.pass(took, received);
            if now - self.published_at >= PUBLISH_EVERY {
                self.publish(now);
            } else {
                self.unpublished = true;
            }
            if let Some(delay) = self.pace.after_pass(received, took, now) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this thread has nothing else to do: letting datagrams gather is the point"
                )]
                std::thread::sleep(delay);
            }
            self.wait()?;
        }
    }

    /// Everything but receiving: handle, then send.
    fn pass(&mut self) -> Next {
        self.answer_refused();
        self.read_mailbox();
        if self.own.inbox.is_killed() {
            return Next::Killed;
        }
        let now = Instant::now();
        let unix = unix_now();
        self.own.node.set_clock(Clock { at: now, unix });
        self.own.node.handle_timeout(now);
        let next = self.outputs();
        self.send(now);
        next
    }

    fn receive(&mut self) -> usize {
        let own = &mut self.own;
        let mut received = 0;
        for _ in 0..RECEIVE_BATCHES_MAX / 2 {
            if !own.client.is_readable() && !own.mesh.is_readable() {
                break;
            }
            for port in [&mut own.client, &mut own.mesh] {
                if port.is_readable() {
                    let now = Instant::now();
                    let node = &mut own.node;
                    received += port.receive(&mut self.buffers, |datagram| {
                        node.handle(Input::Datagram(datagram), now);
                    });
                }
            }
        }
        received
    }

    fn answer_refused(&mut self) {
        for id in std::mem::take(&mut self.refused) {
            let reply = Err(DirectoryError::Unavailable {
                cause: "too many requests wait for it".to_owned(),
            });
            self.own
                .node
                .handle(Input::Directory { id, reply }, Instant::now());
        }
    }

    fn read_mailbox(&mut self) {
        self.more_messages = false;
        for _ in 0..MESSAGES_PER_PASS_MAX {
            match self.own.inbox.next() {
                Some(Message::Input(input)) => self.own.node.handle(input, Instant::now()),
                Some(Message::Sessions(reply)) => {
                    // Whoever asked may have given up.
                    let _ = reply.send(self.own.node.sessions());
                }
                None => return,
            }
        }
        self.more_messages = true;
    }

    fn outputs(&mut self) -> Next {
        let mut next = Next::Pass;
        while let Some(output) = self.own.node.poll_output() {
            match output {
                Output::Directory { id, request } => {
                    if !self.own.calls.ask(id, *request) {
                        self.refused.push(id);
                    }
                }
                Output::WantKeys => {
                    if let Some(wanted) = &self.own.keys_wanted {
                        wanted.notify_one();
                    }
                }
                Output::Stopped => next = Next::Stopped,
            }
        }
        next
    }

    fn send(&mut self, now: Instant) {
        let own = &mut self.own;
        while let Some(transmit) = own.node.poll_transmit(now, &mut self.transmit) {
            let port = match transmit.socket {
                Socket::Client => &mut own.client,
                Socket::Mesh => &mut own.mesh,
            };
            let bytes = self.transmit.get(..transmit.size).unwrap_or(&self.transmit);
            port.send(&transmit, bytes, own.poll.registry());
        }
    }

    /// Sleeps until a socket, the mailbox or a timer has something.
    fn wait(&mut self) -> io::Result<()> {
        let timeout = self.timeout();
        let own = &mut self.own;
        match own.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        for event in &self.events {
            for port in [&mut own.client, &mut own.mesh] {
                if event.token() == port.token() {
                    port.ready(event, own.poll.registry());
                }
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let own = &self.own;
        let at_once = own.client.is_readable()
            || own.mesh.is_readable()
            || self.more_messages
            || !self.refused.is_empty();
        if at_once {
            return Duration::ZERO;
        }
        let publish = self.unpublished.then(|| self.published_at + PUBLISH_EVERY);
        let next = [own.node.poll_timeout(), publish]
            .into_iter()
            .flatten()
            .min();
        next.map_or(POLL_MAX, |at| {
            at.saturating_duration_since(Instant::now()).min(POLL_MAX)
        })
    }

    fn publish(&mut self, now: Instant) {
        let dropped = self.own.client.sends_dropped() + self.own.mesh.sends_dropped();
        self.own
            .shared
            .publish(self.own.node.stats(), dropped, self.passes);
        self.published_at = now;
        self.unpublished = false;
    }
}

/// Has the kernel end this thread's sleeps when they are over, not up to 50 µs later.
fn exact_sleep() {
    #[cfg(target_os = "linux")]
    {
        // Best effort: without it batches are only a little larger.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
}

//! Runs nodes: sockets, threads, and the tokio side.
//!
//! ```text
//!            one thread per node                        │            tokio
//!  client ══UDP══▶ Port ─▶ ┌───────────┐ ──Calls───────▶│ carry_calls ──▶ directory
//!                          │ EventLoop │                │
//!  relay  ══UDP══▶ Port ─▶ │  (Node)   │ ◀──Mailbox─────│ forward_hints, forward_keys,
//!                          └───────────┘                │ renew_identity
//!                                └──figures──▶ Shared ──│──▶ Metrics ──▶ admin HTTP
//! ```
//!
//! A node's thread never waits for anything but its sockets and its [`Mailbox`]; every queue between
//! the two sides is bounded. Threads and tasks belong to the [`Driver`], and end with it.

mod admin;
mod event_loop;
mod mailbox;
pub mod metrics;
mod pace;
mod shared;
mod side;
mod socket;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use dreamcatcher_directory::{Directory, DirectoryError};
use dreamcatcher_proto::NodeId;
use mio::{Poll, Token, Waker};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::admin::Admin;
use self::event_loop::EventLoop;
use self::mailbox::{Mailbox, Message};
use self::metrics::Metrics;
use self::shared::Shared;
use self::side::Calls;
pub(crate) use self::side::unix_now;
pub(crate) use self::socket::{Port, is_wildcard};
use crate::keys::KeySource;
use crate::node::Node;
use crate::node::io::{Input, NodeConfig, Stats};

/// How often the histograms make room for new values.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// The waker's place in the poll, beside the two sockets.
const WAKER: Token = Token(usize::MAX);

/// The running nodes of one relay.
#[derive(Debug)]
pub(crate) struct Driver {
    nodes: Vec<RunningNode>,
    metrics: Arc<Metrics>,
    directory: Arc<dyn Directory>,
    keys: KeySource,
    max_batch_delay: Duration,
    /// Carry what the nodes ask the directory, until the nodes have ended.
    carriers: JoinSet<()>,
    /// Run as long as the relay does.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct RunningNode {
    shared: Arc<Shared>,
    mailbox: Mailbox,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread has ended.
    ended: watch::Receiver<()>,
}

impl Driver {
    pub(crate) fn new(
        directory: Arc<dyn Directory>,
        keys: KeySource,
        max_batch_delay: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            nodes: Vec::new(),
            metrics: Arc::new(Metrics::new(Arc::clone(&keys.figures)).map_err(io::Error::other)?),
            directory,
            keys,
            max_batch_delay,
            carriers: JoinSet::new(),
            tasks: JoinSet::new(),
        })
    }

    /// Starts a node on its two sockets. Must be called within a tokio runtime.
    pub(crate) fn run(
        &mut self,
        config: NodeConfig,
        mut client: Port,
        mut mesh: Port,
    ) -> io::Result<()> {
        let certificate = config.identity.certificate_sha256();
        let figures = Arc::clone(&self.keys.figures);
        let shared = Shared::new(config.id.clone(), certificate, figures);
        let poll = Poll::new()?;
        client.register(poll.registry())?;
        mesh.register(poll.registry())?;
        let (mailbox, inbox) = Mailbox::new(Waker::new(poll.registry(), WAKER)?);
        let (calls, call_queue) = Calls::new();
        let started = config.clock.at;
        // The watch is older than the node's first look at the directory, so that nothing is missed.
        let hints = self.directory.watch();
        let event_loop = EventLoop {
            node: Node::new(config, started).map_err(io::Error::other)?,
            poll,
            client,
            mesh,
            inbox,
            calls,
            shared: Arc::clone(&shared),
            figures: self.metrics.figures(&shared.id),
            max_batch_delay: self.max_batch_delay,
            keys_wanted: self.keys.wanted(),
        };
        let (end, ended) = watch::channel(());
        let thread = std::thread::Builder::new()
            .name(shared.id.to_string())
            .spawn(move || {
                let _end: watch::Sender<()> = end;
                event_loop.run();
            })?;
        self.carriers.spawn(side::carry_calls(
            call_queue,
            Arc::clone(&self.directory),
            mailbox.clone(),
            Arc::clone(&shared),
        ));
        self.tasks
            .spawn(side::forward_hints(hints, mailbox.clone()));
        self.tasks
            .spawn(side::forward_keys(self.keys.keys.clone(), mailbox.clone()));
        self.tasks
            .spawn(side::renew_identity(mailbox.clone(), Arc::clone(&shared)));
        self.nodes.push(RunningNode {
            shared,
            mailbox,
            thread: Some(thread),
            ended,
        });
        Ok(())
    }

    /// Starts what watches over all nodes: the metrics' upkeep and, if there is a listener, the admin
    /// pages.
    pub(crate) fn watch_over(&mut self, listener: Option<TcpListener>) {
        let metrics = Arc::clone(&self.metrics);
        self.tasks.spawn(async move {
            let mut due = tokio::time::interval(UPKEEP_EVERY);
            loop {
                due.tick().await;
                metrics.upkeep();
            }
        });
        if let Some(listener) = listener {
            let nodes = self.nodes.iter();
            let admin = Admin {
                nodes: nodes
                    .map(|node| (Arc::clone(&node.shared), node.mailbox.clone()))
                    .collect(),
                metrics: Arc::clone(&self.metrics),
            };
            self.tasks.spawn(admin::serve(listener, admin));
        }
    }

    /// SHA-256 of the certificates that each node may present, in the order of the nodes.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = Vec<[u8; 32]>> {
        self.nodes.iter().map(|node| node.shared.certificates())
    }

    /// Whether clients can be sent to every node; else what is wrong with the first.
    pub(crate) fn readiness(&self) -> Result<(), String> {
        let mut nodes = self.nodes.iter().map(|node| &node.shared);
        nodes.try_for_each(|shared| {
            shared
                .readiness()
                .map_err(|cause| format!("{}: {cause}", shared.id))
        })
    }

    pub(crate) fn stats(&self) -> Vec<(NodeId, Stats)> {
        let nodes = self.nodes.iter().map(|node| &node.shared);
        nodes
            .map(|shared| (shared.id.clone(), shared.stats()))
            .collect()
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        self.nodes.iter().map(|node| node.shared.cpu_time()).sum()
    }

    /// Waits until a node has ended, which nobody asked it to; says which, and why as far as the
    /// directory is the cause.
    pub(crate) async fn ended(&self) -> Option<(NodeId, Option<DirectoryError>)> {
        let nodes = self.nodes.iter().enumerate();
        let mut ends: JoinSet<usize> = nodes
            .map(|(at, node)| {
                let ended = closed(node.ended.clone());
                async move {
                    ended.await;
                    at
                }
            })
            .collect();
        let first = ends.join_next().await?.ok()?;
        let shared = &self.nodes.get(first)?.shared;
        Some((shared.id.clone(), shared.refusal()))
    }

    /// Asks every node to stop in good order, and waits until they have, and until the directory has
    /// answered what they asked last.
    pub(crate) async fn stop(&mut self) {
        self.begin_stop(Duration::ZERO).await;
        self.stopped().await;
    }

    /// Asks every node to move its sessions and players to other nodes, for so long, and to stop then.
    pub(crate) async fn begin_stop(&self, within: Duration) {
        for node in &self.nodes {
            let stop = Input::Stop { within };
            node.mailbox.send(Message::Input(stop)).await;
        }
    }

    /// Waits until every node has stopped.
    pub(crate) async fn stopped(&mut self) {
        for node in &mut self.nodes {
            closed(node.ended.clone()).await;
        }
        while self.carriers.join_next().await.is_some() {}
    }
}

/// Returns once the sender is dropped, whatever became of its thread.
async fn closed(mut ended: watch::Receiver<()>) {
    while ended.changed().await.is_ok() {}
}

impl Drop for Driver {
    /// Threads that still run drop their nodes where they are, and send nothing.
    fn drop(&mut self) {
        for node in &self.nodes {
            node.mailbox.kill();
        }
        for thread in self.nodes.iter_mut().filter_map(|node| node.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a node's thread had panicked");
            }
        }
    }
}

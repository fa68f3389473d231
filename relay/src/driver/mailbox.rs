//! What the tokio side tells a node's thread: a bounded queue, and a waker for its poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::Waker;
use tokio::sync::{mpsc, oneshot};

use crate::node::io::{Input, SessionView};

/// Messages that wait for one node. Senders wait when it is full: answers and hints come no faster
/// than the node takes them.
const MESSAGES_MAX: usize = 1_024;

/// One thing for the node's thread to do.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every message is an input: a box would be one more allocation"
)]
pub(super) enum Message {
    Input(Input),
    /// Show what the node knows of its sessions.
    Sessions(oneshot::Sender<Vec<SessionView>>),
}

/// The sending end. Clones are the same mailbox.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    messages: mpsc::Sender<Message>,
    waker: Arc<Waker>,
    killed: Arc<AtomicBool>,
}

impl Mailbox {
    pub(super) fn new(waker: Waker) -> (Self, Inbox) {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let killed = Arc::new(AtomicBool::new(false));
        let mailbox = Self {
            messages: sender,
            waker: Arc::new(waker),
            killed: Arc::clone(&killed),
        };
        (mailbox, Inbox { messages, killed })
    }

    /// Delivers `message` once there is room. `false` if the node has stopped.
    pub(super) async fn send(&self, message: Message) -> bool {
        self.messages.send(message).await.is_ok() && self.wake()
    }

    /// Ends the thread where it is.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) -> bool {
        self.waker.wake().is_ok()
    }
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: mpsc::Receiver<Message>,
    killed: Arc<AtomicBool>,
}

impl Inbox {
    pub(super) fn next(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}

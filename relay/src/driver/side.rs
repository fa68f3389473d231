//! The tokio side of a node: what its thread must not wait for.
//!
//! ```text
//!  node's thread ──Calls (bounded)──▶ carry_calls ──▶ dyn Directory
//!        ▲                                 │answers       │hints
//!        └──────────────Mailbox────────────┴── forward_hints, forward_keys, renew_identity
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dreamcatcher_directory::{Directory, DirectoryError, Reply, Request, Watch};
use dreamcatcher_proto::token::KeySet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::mailbox::{Mailbox, Message};
use super::shared::Shared;
use crate::identity::{CLIENT_RENEW_EVERY, client_identity};
use crate::node::io::Input;

/// Requests of one node that wait for the directory; the next is answered `Unavailable` at once.
const CALLS_MAX: usize = 1_024;
/// Of those, places that only the node's own standing may take: members who join and leave as fast
/// as they can must not cost the node its lease.
const CALLS_RESERVED: usize = 16;
/// Requests of one node that the directory works on at a time.
const CALLS_AT_A_TIME: usize = 64;
/// From asking to `Unavailable`: below the term of a lease, so that a slow answer is known in time.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The same where a player waits for the answer, who is to hear within a second.
const PLAYER_CALL_TIMEOUT: Duration = Duration::from_millis(800);
/// Until a certificate is tried again that could not be made.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Where the node's thread puts its requests to the directory.
#[derive(Debug)]
pub(super) struct Calls(mpsc::Sender<Call>);

/// The other end of [`Calls`].
#[derive(Debug)]
pub(super) struct CallQueue(mpsc::Receiver<Call>);

#[derive(Debug)]
struct Call {
    id: u64,
    request: Request,
    timeout: Duration,
    deadline: Instant,
}

impl Calls {
    pub(super) fn new() -> (Self, CallQueue) {
        let (sender, receiver) = mpsc::channel(CALLS_MAX);
        (Self(sender), CallQueue(receiver))
    }

    /// `false` if there is no room: the caller answers the request itself.
    pub(super) fn ask(&self, id: u64, request: Request) -> bool {
        let standing = matches!(
            request,
            Request::Register(_) | Request::Renew(_) | Request::Deregister(_) | Request::Nodes
        );
        if !standing && self.0.capacity() <= CALLS_RESERVED {
            return false;
        }
        let timeout = timeout_of(&request);
        let deadline = Instant::now() + timeout;
        self.0
            .try_send(Call {
                id,
                request,
                timeout,
                deadline,
            })
            .is_ok()
    }
}

const fn timeout_of(request: &Request) -> Duration {
    match request {
        Request::CreateSession(_) | Request::Session(_) | Request::Code(_) => PLAYER_CALL_TIMEOUT,
        Request::Register(_)
        | Request::Renew(_)
        | Request::Deregister(_)
        | Request::Nodes
        | Request::Drain { .. }
        | Request::PublishKeys(_)
        | Request::Keys
        | Request::RotateCode { .. }
        | Request::RevokeCode { .. }
        | Request::RaiseBallot { .. }
        | Request::InstallView { .. }
        | Request::Restore(_)
        | Request::Assert { .. }
        | Request::ListSessions(_)
        | Request::CloseSession { .. } => CALL_TIMEOUT,
    }
}

/// Carries requests to the directory and answers back, until the node's thread has ended and the last
/// request is answered.
pub(super) async fn carry_calls(
    mut queue: CallQueue,
    directory: Arc<dyn Directory>,
    mailbox: Mailbox,
    shared: Arc<Shared>,
) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = under_way.join_next() => {}
            call = queue.0.recv(), if under_way.len() < CALLS_AT_A_TIME => match call {
                Some(call) => {
                    under_way.spawn(carry(call, Arc::clone(&directory), mailbox.clone(), Arc::clone(&shared)));
                }
                None => break,
            },
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn carry(call: Call, directory: Arc<dyn Directory>, mailbox: Mailbox, shared: Arc<Shared>) {
    let Call {
        id,
        request,
        timeout,
        deadline,
    } = call;
    let reply = tokio::time::timeout_at(deadline, directory.call(request))
        .await
        .unwrap_or_else(|_| {
            let cause = format!("no answer within {timeout:?}");
            Err(DirectoryError::Unavailable { cause })
        });
    shared.set_directory_trouble(trouble(&reply));
    // A node that has stopped needs no answer.
    let _ = mailbox
        .send(Message::Input(Input::Directory { id, reply }))
        .await;
}

/// What an answer says against the directory or the node's place in it.
fn trouble(reply: &Result<Reply, DirectoryError>) -> Option<String> {
    match reply {
        Err(
            error @ (DirectoryError::Unavailable { .. }
            | DirectoryError::NotRegistered(_)
            | DirectoryError::Superseded(_)
            | DirectoryError::OtherMesh(_)
            | DirectoryError::NodeIdTaken { .. }
            | DirectoryError::Full { .. }
            | DirectoryError::Invalid(_)),
        ) => Some(error.to_string()),
        Ok(_)
        | Err(
            DirectoryError::NodeNotFound(_)
            | DirectoryError::SessionNotFound(_)
            | DirectoryError::Conflict { .. },
        ) => None,
    }
}

/// Forwards what changes in the directory.
pub(super) async fn forward_hints(mut hints: Watch, mailbox: Mailbox) {
    while let Some(hint) = hints.next().await {
        if !mailbox.send(Message::Input(Input::Hint(hint))).await {
            return;
        }
    }
}

/// Hands the node the token keys, which may have changed since it was made, and whenever they change.
pub(super) async fn forward_keys(mut keys: watch::Receiver<Arc<KeySet>>, mailbox: Mailbox) {
    loop {
        let present = Arc::clone(&keys.borrow_and_update());
        if !mailbox.send(Message::Input(Input::Keys(present))).await
            || keys.changed().await.is_err()
        {
            return;
        }
    }
}

/// Gives the node a new client-facing certificate in good time.
pub(super) async fn renew_identity(mailbox: Mailbox, shared: Arc<Shared>) {
    let mut wait = CLIENT_RENEW_EVERY;
    loop {
        tokio::time::sleep(wait).await;
        wait = match client_identity(unix_now().as_secs()) {
            Ok(identity) => {
                shared.renew_certificate(identity.certificate_sha256());
                if !mailbox
                    .send(Message::Input(Input::Identity(identity)))
                    .await
                {
                    return;
                }
                CLIENT_RENEW_EVERY
            }
            Err(error) => {
                tracing::error!(node = %shared.id, %error, "no new certificate: trying again");
                RENEW_AGAIN_AFTER
            }
        };
    }
}

/// Time since the Unix epoch; zero on a machine whose clock is before it.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use dreamcatcher_directory::Answer;
    use dreamcatcher_proto::JoinCode;
    use mio::{Poll, Token, Waker};
    use tokio::sync::broadcast;

    use super::super::mailbox::Inbox;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_never_answers_is_unavailable_after_two_seconds() {
        let mut side = Side::new();
        let asked_at = Instant::now();
        // More than it works on at a time: those that wait have the same deadline.
        for id in 0..100 {
            assert!(side.calls.ask(id, Request::Nodes));
        }
        let mut answered = Vec::new();
        while answered.len() < 100 {
            let Some(message) = side.inbox.next() else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let Message::Input(Input::Directory { id, reply }) = message else {
                panic!("{message:?}");
            };
            assert!(
                matches!(reply, Err(DirectoryError::Unavailable { .. })),
                "{reply:?}"
            );
            answered.push(id);
        }
        answered.sort_unstable();
        assert_eq!(answered, (0..100).collect::<Vec<u64>>(), "each once");
        assert!(asked_at.elapsed() < CALL_TIMEOUT + Duration::from_millis(100));
        side.shared.set_ready(false, true);
        assert!(
            side.shared
                .readiness()
                .unwrap_err()
                .contains("no answer within 2s")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_player_hears_within_a_second_that_the_directory_does_not_answer() {
        let mut side = Side::new();
        let asked_at = Instant::now();
        let code: JoinCode = "BCDF67".parse().unwrap();
        assert!(side.calls.ask(1, Request::Code(code)));
        while side.inbox.next().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(asked_at.elapsed() < Duration::from_millis(900));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_keeps_room_for_the_nodes_own_standing() {
        let (calls, _queue) = Calls::new();
        let code = || Request::Code("BCDF67".parse().unwrap());
        let full = (0..).find(|id| !calls.ask(*id, code())).unwrap();
        assert_eq!(full, (CALLS_MAX - CALLS_RESERVED) as u64);
        let full = (full..).find(|id| !calls.ask(*id, Request::Nodes)).unwrap();
        assert_eq!(full, CALLS_MAX as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn the_carrier_ends_when_the_thread_has_ended_and_all_is_answered() {
        let side = Side::new();
        let code: JoinCode = "BCDF67".parse().unwrap();
        assert!(side.calls.ask(1, Request::Code(code)));
        drop(side.calls);
        side.carrier.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_comes_every_six_days() {
        let mut side = Side::new();
        let first = side.shared.certificates();
        let renewing = tokio::spawn(renew_identity(
            side.mailbox.clone(),
            Arc::clone(&side.shared),
        ));
        tokio::time::sleep(CLIENT_RENEW_EVERY + Duration::from_secs(1)).await;
        let Some(Message::Input(Input::Identity(identity))) = side.inbox.next() else {
            panic!("no certificate came");
        };
        let now = side.shared.certificates();
        assert_eq!(now, [identity.certificate_sha256(), first[0]]);
        renewing.abort();
    }

    #[derive(Debug)]
    struct Silent(broadcast::Sender<dreamcatcher_directory::Hint>);

    impl Directory for Silent {
        fn call(&self, _request: Request) -> Answer<'_> {
            Box::pin(std::future::pending())
        }

        fn watch(&self) -> Watch {
            Watch::new(&self.0)
        }
    }

    struct Side {
        calls: Calls,
        mailbox: Mailbox,
        inbox: Inbox,
        shared: Arc<Shared>,
        carrier: tokio::task::JoinHandle<()>,
        _poll: Poll,
    }

    impl Side {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let (mailbox, inbox) = Mailbox::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let (calls, queue) = Calls::new();
            let shared = Shared::new("a-0".parse().unwrap(), [1; 32], Arc::default());
            let silent = Arc::new(Silent(broadcast::Sender::new(1)));
            let carrier = carry_calls(queue, silent, mailbox.clone(), Arc::clone(&shared));
            Self {
                carrier: tokio::spawn(carrier),
                calls,
                mailbox,
                inbox,
                shared,
                _poll: poll,
            }
        }
    }
}

//! The directory in memory: for one machine, and for tests of what happens when it is away.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast};

use crate::limits;
use crate::record::Timestamp;
use crate::request::{DirectoryError, Reply, Request};
use crate::rules::Table;
use crate::{Answer, Directory, Hint, Watch};

/// A [`Table`] behind a lock. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct MemoryDirectory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    clock: Clock,
    hints: broadcast::Sender<Hint>,
    /// Something falls due sooner than before.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    table: Table,
    down: bool,
}

struct Clock(Box<dyn Fn() -> Timestamp + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.0().0)
    }
}

impl MemoryDirectory {
    /// An empty directory that reads the wall time from `clock` and draws join codes and nonces from
    /// `random`. Without an [`Expiry`] terms end at the next call, not when they are over.
    pub fn new(
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
        random: impl FnMut() -> u32 + Send + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                table: Table::new(random),
                down: false,
            }),
            clock: Clock(Box::new(clock)),
            hints: broadcast::Sender::new(limits::HINTS_QUEUED_MAX),
            sooner: Notify::new(),
        }))
    }

    /// Starts the task that lets terms end when they are over; it stops when the handle is dropped.
    /// Must be called within a tokio runtime.
    #[must_use = "dropping the handle stops the task"]
    pub fn spawn_expiry(&self) -> Expiry {
        Expiry(tokio::spawn(expire_when_due(self.clone())))
    }

    /// Makes the directory unreachable, or reachable again. While it is away nothing in it changes;
    /// when it is back every lease has its full term, and watchers are told to read again.
    pub fn set_down(&self, down: bool) {
        let mut state = self.0.lock();
        if state.down && !down {
            state.table.resume(self.0.now());
            self.0.tell(Hint::Missed(0));
            self.0.sooner.notify_one();
        }
        state.down = down;
    }

    fn step(&self, request: Request) -> Result<Reply, DirectoryError> {
        let mut state = self.0.lock();
        if state.down {
            return Err(DirectoryError::Unavailable {
                cause: "it was taken down".to_owned(),
            });
        }
        let was_due = state.table.next_expiry();
        let reply = state.table.apply(request, self.0.now());
        self.0.tell_changes(&mut state.table);
        // A renewed lease ends later: the task then wakes once for nothing, not for each renewal.
        if state
            .table
            .next_expiry()
            .is_some_and(|at| was_due.is_none_or(|was| at < was))
        {
            self.0.sooner.notify_one();
        }
        reply
    }

    /// Ends what is over; says when the next term ends.
    fn expire(&self) -> Option<Timestamp> {
        let mut state = self.0.lock();
        if state.down {
            return None;
        }
        state.table.expire(self.0.now());
        self.0.tell_changes(&mut state.table);
        state.table.next_expiry()
    }
}

impl Directory for MemoryDirectory {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(std::future::ready(self.step(request)))
    }

    fn watch(&self) -> Watch {
        Watch::new(&self.0.hints)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A step that panicked elsewhere is a fault of ours that has been reported there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.clock.0()
    }

    fn tell_changes(&self, table: &mut Table) {
        while let Some(change) = table.poll_change() {
            self.tell(Hint::Changed(change));
        }
    }

    fn tell(&self, hint: Hint) {
        // Fails only when nobody watches.
        let _ = self.hints.send(hint);
    }
}

/// The task of [`MemoryDirectory::spawn_expiry`].
#[derive(Debug)]
pub struct Expiry(tokio::task::JoinHandle<()>);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn expire_when_due(directory: MemoryDirectory) {
    loop {
        let next = directory.expire();
        let sooner = directory.0.sooner.notified();
        match next {
            None => sooner.await,
            Some(at) => {
                let wait = at.since(directory.0.now());
                // Whichever comes first: look again.
                let _ = tokio::time::timeout(wait, sooner).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::conformance::{Subject, holder, new_session, node};
    use crate::record::Change;

    /// Time that passes only when it is told to.
    struct Memory {
        now_us: Arc<AtomicU64>,
    }

    impl Memory {
        fn new() -> Self {
            Self {
                now_us: Arc::new(AtomicU64::new(1_700_000_000_000_000)),
            }
        }

        fn empty(&self) -> MemoryDirectory {
            let now_us = Arc::clone(&self.now_us);
            let mut word = 0_u32;
            let random = move || {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                word
            };
            MemoryDirectory::new(move || Timestamp(now_us.load(Ordering::Relaxed)), random)
        }
    }

    impl Subject for Memory {
        async fn directory(&self) -> Arc<dyn Directory> {
            Arc::new(self.empty())
        }

        async fn elapse(&self, term: Duration) {
            let term_us = u64::try_from(term.as_micros()).unwrap_or(u64::MAX);
            self.now_us.fetch_add(term_us, Ordering::Relaxed);
        }

        async fn set_back(&self, term: Duration) {
            let term_us = u64::try_from(term.as_micros()).unwrap_or(u64::MAX);
            self.now_us.fetch_sub(term_us, Ordering::Relaxed);
        }
    }

    crate::conformance_tests!(Memory::new());

    #[tokio::test]
    async fn a_directory_that_is_down_answers_unavailable_and_forgets_nothing() {
        let time = Memory::new();
        let directory = time.empty();
        let a = holder("a", 1);
        let register = Request::Register(node(&a));
        assert_eq!(directory.call(register).await, Ok(Reply::Done));
        let mut watch = directory.watch();

        directory.set_down(true);
        time.elapse(10 * limits::NODE_LEASE).await;
        assert_eq!(
            directory.expire(),
            None,
            "while it is away nothing in it changes"
        );
        let refused = directory.call(new_session(1, &a)).await;
        assert!(
            matches!(refused, Err(DirectoryError::Unavailable { .. })),
            "{refused:?}"
        );

        directory.set_down(false);
        assert_eq!(watch.try_next(), Some(Hint::Missed(0)));
        assert_eq!(
            directory.call(Request::Nodes).await,
            Ok(Reply::Nodes(vec![node(&a)]))
        );
        time.elapse(limits::NODE_LEASE).await;
        assert_eq!(
            directory.call(Request::Nodes).await,
            Ok(Reply::Nodes(vec![]))
        );
        assert_eq!(watch.try_next(), Some(Hint::Changed(Change::NodeGone(a))));
    }

    #[tokio::test]
    async fn a_watcher_that_falls_behind_is_told_how_much_it_missed() {
        let directory = Memory::new().empty();
        let a = holder("a", 1);
        let mut watch = directory.watch();
        let over = 10;
        for clients in 0..(limits::HINTS_QUEUED_MAX + over) as u32 {
            let mut record = node(&a);
            record.load.clients = clients;
            assert_eq!(
                directory.call(Request::Register(record)).await,
                Ok(Reply::Done)
            );
        }
        assert_eq!(watch.next().await, Some(Hint::Missed(over as u64)));
        let next = watch.next().await;
        assert!(
            matches!(next, Some(Hint::Changed(Change::NodeChanged(_)))),
            "{next:?}"
        );
    }

    #[tokio::test]
    async fn the_expiry_task_ends_a_lease_that_nobody_asks_about() {
        let start = std::time::Instant::now();
        // A clock that runs a hundred times as fast: the lease is over in 30 ms.
        let clock = move || Timestamp(1_000_000 + 100 * start.elapsed().as_micros() as u64);
        let directory = MemoryDirectory::new(clock, || 0);
        let expiry = directory.spawn_expiry();
        // The task finds nothing to wait for, until the lease begins.
        tokio::task::yield_now().await;
        let mut watch = directory.watch();
        let a = holder("a", 1);
        assert_eq!(
            directory.call(Request::Register(node(&a))).await,
            Ok(Reply::Done)
        );
        let hints = async { (watch.next().await, watch.next().await) };
        let (up, gone) = tokio::time::timeout(Duration::from_secs(30), hints)
            .await
            .unwrap_or_else(|_| panic!("the lease did not end"));
        assert_eq!(up, Some(Hint::Changed(Change::NodeUp(node(&a)))));
        assert_eq!(gone, Some(Hint::Changed(Change::NodeGone(a))));
        drop((expiry, directory));
        let closed = tokio::time::timeout(Duration::from_secs(30), watch.next());
        assert_eq!(closed.await.ok(), Some(None), "the last owner is gone");
    }
}

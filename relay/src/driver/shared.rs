//! What a node's thread lets others see, without asking it.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dreamcatcher_directory::DirectoryError;
use dreamcatcher_proto::NodeId;

use crate::keys::KeyFigures;
use crate::node::io::Stats;

/// Certificates that a node may present: the present one, and the one before it.
const CERTIFICATES_PUBLISHED: usize = 2;

/// Written by the node's thread and the side tasks, read by anyone.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: NodeId,
    stats: Mutex<Stats>,
    sends_dropped: AtomicU64,
    passes: AtomicU64,
    certificates: Mutex<Vec<[u8; 32]>>,
    /// Clients can be sent here.
    ready: AtomicBool,
    has_keys: AtomicBool,
    keys: Arc<KeyFigures>,
    /// Why the directory refused or did not answer, if it did so last.
    directory_trouble: Mutex<Option<String>>,
    /// Why the directory will never take this run, if so.
    refusal: Mutex<Option<DirectoryError>>,
    running: AtomicBool,
    /// 0 once the thread has ended.
    thread_id: AtomicI32,
    cpu_ns: AtomicU64,
}

impl Shared {
    pub(super) fn new(id: NodeId, certificate: [u8; 32], keys: Arc<KeyFigures>) -> Arc<Self> {
        Arc::new(Self {
            id,
            stats: Mutex::default(),
            sends_dropped: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            certificates: Mutex::new(vec![certificate]),
            ready: AtomicBool::new(false),
            has_keys: AtomicBool::new(false),
            keys,
            directory_trouble: Mutex::default(),
            refusal: Mutex::default(),
            running: AtomicBool::new(true),
            thread_id: AtomicI32::new(0),
            cpu_ns: AtomicU64::new(0),
        })
    }

    /// The thread's own publication: what the node counted, sends that were dropped, passes.
    pub(super) fn publish(&self, stats: &Stats, sends_dropped: u64, passes: u64) {
        lock(&self.stats).clone_from(stats);
        self.sends_dropped.store(sends_dropped, Ordering::Relaxed);
        self.passes.store(passes, Ordering::Relaxed);
        self.cpu_ns.store(own_cpu_ns(), Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        lock(&self.stats).clone()
    }

    pub(super) fn sends_dropped(&self) -> u64 {
        self.sends_dropped.load(Ordering::Relaxed)
    }

    pub(super) fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// SHA-256 of the certificates that clients may be shown, the present one first.
    pub(super) fn certificates(&self) -> Vec<[u8; 32]> {
        lock(&self.certificates).clone()
    }

    pub(super) fn renew_certificate(&self, hash: [u8; 32]) {
        let mut certificates = lock(&self.certificates);
        certificates.insert(0, hash);
        certificates.truncate(CERTIFICATES_PUBLISHED);
    }

    pub(super) fn set_ready(&self, ready: bool, has_keys: bool) {
        self.has_keys.store(has_keys, Ordering::Release);
        self.ready.store(ready, Ordering::Release);
    }

    pub(super) fn set_directory_trouble(&self, trouble: Option<String>) {
        *lock(&self.directory_trouble) = trouble;
    }

    pub(super) fn set_refusal(&self, refusal: Option<DirectoryError>) {
        *lock(&self.refusal) = refusal;
    }

    pub(super) fn refusal(&self) -> Option<DirectoryError> {
        lock(&self.refusal).clone()
    }

    /// Whether clients can be sent here, or why not.
    pub(super) fn readiness(&self) -> Result<(), String> {
        if !self.is_running() {
            return Err("its event loop has ended".to_owned());
        }
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.has_keys.load(Ordering::Acquire) {
            let cause = self.keys.trouble();
            let cause = cause.unwrap_or_else(|| "they are being read".to_owned());
            return Err(format!("it has no keys to check tokens with: {cause}"));
        }
        let trouble = lock(&self.directory_trouble).clone();
        Err(trouble.unwrap_or_else(|| "it has not registered yet, or it is stopping".to_owned()))
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// To be called by the node's thread first of all, and kept until its end.
    pub(super) fn enter_thread(self: &Arc<Self>) -> OnThread {
        #[cfg(target_os = "linux")]
        self.thread_id.store(
            rustix::thread::gettid().as_raw_nonzero().get(),
            Ordering::Release,
        );
        OnThread(Arc::clone(self))
    }

    /// CPU time of the thread: as the scheduler counts it while it runs, else as it last said.
    pub(super) fn cpu_time(&self) -> Duration {
        let published = self.cpu_ns.load(Ordering::Relaxed);
        let thread = self.thread_id.load(Ordering::Acquire);
        let running_ns = (thread != 0).then(|| scheduled_ns(thread)).flatten();
        Duration::from_nanos(running_ns.unwrap_or(published))
    }
}

/// Says that the thread has ended when it is dropped, by a panic too.
#[derive(Debug)]
pub(super) struct OnThread(Arc<Shared>);

impl Drop for OnThread {
    fn drop(&mut self) {
        self.0.cpu_ns.store(own_cpu_ns(), Ordering::Relaxed);
        self.0.thread_id.store(0, Ordering::Release);
        self.0.running.store(false, Ordering::Release);
    }
}

/// The first field of schedstat is the time on the CPU in ns (proc(5)).
fn scheduled_ns(thread: i32) -> Option<u64> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn own_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let below = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(below)
}

/// A panic while the lock was held leaves a value that is whole: each is replaced in one go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_certificates_are_published() {
        let shared = shared();
        shared.renew_certificate([2; 32]);
        shared.renew_certificate([3; 32]);
        assert_eq!(shared.certificates(), [[3; 32], [2; 32]]);
    }

    #[test]
    fn cpu_time_rises_while_the_thread_runs_and_is_kept_when_it_ended() {
        let shared = shared();
        let on_thread = shared.enter_thread();
        let before = shared.cpu_time();
        let mut sum = 0_u64;
        while shared.cpu_time() <= before {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
            shared.publish(&Stats::default(), 0, 0);
        }
        let running = shared.cpu_time();
        drop(on_thread);
        assert!(shared.cpu_time() >= running.saturating_sub(Duration::from_millis(20)));
        assert!(shared.readiness().is_err());
    }

    fn shared() -> Arc<Shared> {
        let id = "a-0".parse().unwrap_or_else(|e| panic!("{e}"));
        Shared::new(id, [1; 32], Arc::default())
    }
}

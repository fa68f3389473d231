//! The threads that send: each message at its time, as exactly as the kernel wakes a thread.
//!
//! A pacer never waits for an answer, and it leaves nothing out: what it could not send in time it sends
//! at once, with the time at which it was due, so that a stall shows in the latency of every message that
//! it held up (no coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use dreamcatcher_client::Sender;
use dreamcatcher_proto::frame::{Mode, Target};
use dreamcatcher_proto::{Error, ErrorCode};
use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::schedule::Schedule;
use super::tally::Tally;
use crate::bots::group::Group;
use crate::bots::measures::{record, times};
use crate::judge::Stamp;

/// How long after the end a pacer still sends what it was late with.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Who sends.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) group: Arc<Group>,
    pub(super) place: usize,
    pub(super) sender: Sender,
    /// When in a period.
    pub(super) phase: Duration,
}

/// What every pacer does.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) schedule: Schedule,
    pub(super) mode: Mode,
    pub(super) bytes: usize,
    pub(super) tally: Arc<Tally>,
}

/// What a pacer did, of the messages that are measured.
#[derive(Debug)]
pub(super) struct Paced {
    /// How late each message was handed to the SDK, in µs.
    pub(super) lag: Histogram<u64>,
    /// Messages that the SDK did not take.
    pub(super) refused: u64,
    /// Messages for which no time was left.
    pub(super) unsent: u64,
}

impl Default for Paced {
    fn default() -> Self {
        Self {
            lag: times(),
            refused: 0,
            unsent: 0,
        }
    }
}

impl Paced {
    /// Takes another pacer's counts in.
    pub(super) fn add(&mut self, other: &Self) {
        self.lag += &other.lag;
        self.refused += other.refused;
        self.unsent += other.unsent;
    }
}

/// Pacers that run. Dropping them stops them.
#[derive(Debug)]
pub(super) struct Pacers {
    stop: Arc<AtomicBool>,
    threads: Vec<Thread>,
    outcomes: Vec<oneshot::Receiver<Paced>>,
}

impl Pacers {
    /// Deals the seats out to so many threads.
    pub(super) fn start(task: &Task, seats: Vec<Seat>, threads: usize) -> Result<Self, Error> {
        let mut lanes: Vec<Vec<Seat>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
        for (at, seat) in seats.into_iter().enumerate() {
            lanes[at % threads.max(1)].push(seat);
        }
        let mut pacers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            outcomes: Vec::new(),
        };
        for mut seats in lanes {
            seats.sort_by_key(|seat| seat.phase);
            let pacer = Pacer {
                task: task.clone(),
                seats,
                stop: Arc::clone(&pacers.stop),
                paced: Paced::default(),
            };
            let (done, outcome) = oneshot::channel();
            let handle = thread::Builder::new()
                .name("pacer".to_owned())
                .spawn(move || {
                    // Fails only when nobody is interested any more.
                    let _ = done.send(pacer.run());
                })
                .map_err(|e| Error::new(ErrorCode::Internal, format!("a pacer's thread: {e}")))?;
            pacers.threads.push(handle.thread().clone());
            pacers.outcomes.push(outcome);
        }
        Ok(pacers)
    }

    /// Has them send nothing more from here on.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
    }

    /// What they did, once all have ended.
    pub(super) async fn outcome(mut self) -> Paced {
        let mut paced = Paced::default();
        for outcome in std::mem::take(&mut self.outcomes) {
            // A pacer that panicked has said so, and has nothing to tell.
            paced.add(&outcome.await.unwrap_or_default());
        }
        paced
    }
}

impl Drop for Pacers {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Pacer {
    task: Task,
    /// By phase.
    seats: Vec<Seat>,
    stop: Arc<AtomicBool>,
    paced: Paced,
}

impl Pacer {
    fn run(mut self) -> Paced {
        let schedule = self.task.schedule;
        let too_late = schedule.end() + LATE_MAX;
        let seats = std::mem::take(&mut self.seats);
        for k in 0..schedule.total {
            for seat in &seats {
                let due = schedule.due(k, seat.phase);
                let Some(now) = self.wait_until(due) else {
                    return self.paced;
                };
                if now > too_late {
                    self.paced.unsent += u64::from(k >= schedule.warm_up);
                    continue;
                }
                self.send(seat, k, due, now);
            }
        }
        self.paced
    }

    /// The time once it is `due` or later; none if there is nothing more to send.
    fn wait_until(&self, due: Instant) -> Option<Instant> {
        loop {
            let now = Instant::now();
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            if now >= due {
                return Some(now);
            }
            thread::park_timeout(due - now);
        }
    }

    fn send(&mut self, seat: &Seat, k: u32, due: Instant, now: Instant) {
        let Task {
            schedule,
            mode,
            bytes,
            tally,
        } = &self.task;
        let is_measured = k >= schedule.warm_up;
        let (session, number) = {
            let mut judge = seat.group.judge();
            if k == schedule.warm_up {
                judge.measure(seat.place);
            }
            (judge.session(), judge.send(seat.place))
        };
        let stamp = Stamp {
            session,
            sent: tally.measures.at(due),
            sender: u16::try_from(seat.place).unwrap_or(u16::MAX),
            number,
        };
        let target = match mode {
            Mode::Ordered => Target::All,
            Mode::Reliable | Mode::Latest | Mode::Datagram => Target::Others,
        };
        if is_measured {
            record(&mut self.paced.lag, now - due);
        }
        if let Err(error) = seat.sender.send(*mode, target, stamp.payload(*bytes)) {
            seat.group.judge().unsent(seat.place);
            tally.measures.error(&error, "send");
            self.paced.refused += u64::from(is_measured);
        }
    }
}

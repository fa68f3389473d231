//! Staying connected: who asks gets the present connection or a reason at once, and one task sees to
//! it that there is one.
//!
//! ```text
//!  Connecting ──opened──▶ Up ──lost──▶ Connecting (once, at once) ──failed──▶ Down, tried again with
//!      │                                                                       growing pauses
//!      └──────failed──────────────────────────────────────────────────────────▶
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::Target;
use super::hints;
use super::host::Host;
use super::open::{Call, Lines};
use super::parse::Answer;
use super::script::Step;
use crate::record::Timestamp;
use crate::{Hint, limits};

/// How long Redis may take for one step. With [`FIRST_TRY_MAX`] it stays below the second within
/// which a new session is refused while Redis is away.
pub(super) const CALL_MAX: Duration = Duration::from_millis(600);
/// How long a call waits for the first attempt to connect; while later ones go on it fails at once.
const FIRST_TRY_MAX: Duration = Duration::from_millis(300);
/// The first pause between attempts; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause: how late a Redis that is back is noticed.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one: its loss is followed by an attempt at once.
const STEADY_AFTER: Duration = Duration::from_secs(1);
/// How often Redis is asked if nobody asks: a connection that died silently is noticed by it.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Relays ask for what is over at different moments, so that one finds it and the others nothing.
const EXPIRE_JITTER_MAX: Duration = Duration::from_millis(100);
/// The pause after what is over could not be asked for.
const EXPIRE_RETRY: Duration = Duration::from_millis(200);
/// Words of lost connections that wait: one is enough for each.
const LOST_QUEUED_MAX: usize = 8;

/// Where time and chance come from; tests bring their own.
pub(super) struct Source {
    /// `None`: the server's.
    pub(super) clock: Option<Box<dyn Fn() -> Timestamp + Send + Sync>>,
    pub(super) random: Mutex<Box<dyn FnMut() -> u32 + Send>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What callers and the task share.
#[derive(Debug)]
pub(super) struct Connection {
    target: Target,
    source: Source,
    hints: broadcast::Sender<Hint>,
    state: watch::Sender<State>,
    lost: mpsc::Sender<Lost>,
    /// When the next term ends, as last heard.
    due: watch::Sender<Option<Instant>>,
    incarnation: Mutex<Option<String>>,
}

#[derive(Clone, Debug)]
enum State {
    Connecting { since: Instant },
    Up(Lines),
    Down { cause: String },
}

/// A connection is of no use any more.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) generation: u64,
    pub(super) cause: String,
    /// Where a cluster says to go instead.
    pub(super) redirect: Option<Host>,
}

impl Connection {
    pub(super) fn new(target: Target, source: Source) -> (Arc<Self>, mpsc::Receiver<Lost>) {
        let (lost, told) = mpsc::channel(LOST_QUEUED_MAX);
        let since = Instant::now();
        let connection = Self {
            target,
            source,
            hints: broadcast::Sender::new(limits::HINTS_QUEUED_MAX),
            state: watch::Sender::new(State::Connecting { since }),
            lost,
            due: watch::Sender::new(None),
            incarnation: Mutex::new(None),
        };
        (Arc::new(connection), told)
    }

    pub(super) fn hints(&self) -> &broadcast::Sender<Hint> {
        &self.hints
    }

    /// Gives `draw` the words that a step may need.
    pub(super) fn with_random<T>(&self, draw: impl FnOnce(&mut dyn FnMut() -> u32) -> T) -> T {
        let mut random = self
            .source
            .random
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        draw(&mut **random)
    }

    /// Takes one step, or says why nothing is known about whether it was taken.
    pub(super) async fn ask(&self, step: &Step) -> Result<Answer, String> {
        self.ask_patiently(step, FIRST_TRY_MAX).await
    }

    /// As [`Self::ask`], waiting up to `patience` for the first attempt to connect.
    pub(super) async fn ask_patiently(
        &self,
        step: &Step,
        patience: Duration,
    ) -> Result<Answer, String> {
        let lines = self.lines(patience).await?;
        match timeout(CALL_MAX, lines.take(&self.call(step))).await {
            Ok(Ok(answer)) => {
                self.met(&answer);
                Ok(answer)
            }
            Ok(Err(trouble)) => {
                if trouble.lost {
                    self.tell_lost(&lines, trouble.cause.clone(), trouble.redirect);
                }
                Err(trouble.cause)
            }
            Err(_) => {
                let cause = format!("Redis at {} said nothing for {CALL_MAX:?}", lines.host);
                self.tell_lost(&lines, cause.clone(), None);
                Err(cause)
            }
        }
    }

    async fn lines(&self, patience: Duration) -> Result<Lines, String> {
        let mut state = self.state.subscribe();
        loop {
            let since = match &*state.borrow_and_update() {
                State::Up(lines) => return Ok(lines.clone()),
                State::Down { cause } => return Err(cause.clone()),
                State::Connecting { since } => *since,
            };
            let left = (since + patience).saturating_duration_since(Instant::now());
            if timeout(left, state.changed()).await.is_err() {
                return Err("Redis is not connected yet".to_owned());
            }
        }
    }

    fn call<'a>(&'a self, step: &'a Step) -> Call<'a> {
        let time = self
            .source
            .clock
            .as_ref()
            .map(|clock| clock().0.to_string());
        Call {
            prefix: &self.target.prefix,
            time: time.unwrap_or_default(),
            step,
        }
    }

    fn tell_lost(&self, lines: &Lines, cause: String, redirect: Option<Host>) {
        // Full: this has been told.
        let _ = self.lost.try_send(Lost {
            generation: lines.generation,
            cause,
            redirect,
        });
    }

    /// Takes from an answer what concerns all: whether the directory still is the one it was, and
    /// when the next term ends.
    fn met(&self, answer: &Answer) {
        let at = answer
            .due_in_us
            .map(|us| Instant::now() + Duration::from_micros(us));
        self.due.send_if_modified(|due| {
            let sooner = at.is_some_and(|at| due.is_none_or(|due| at < due));
            *due = at;
            sooner
        });
        let mut known = self
            .incarnation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(&answer.incarnation) {
            return;
        }
        if known.replace(answer.incarnation.clone()).is_some() {
            tracing::warn!(
                "Redis lost the directory: nodes register again, and owners give back their sessions"
            );
            let _ = self.hints.send(Hint::Missed(0));
        }
    }

    /// Until a call fails, Redis closes the connection, or another server takes its place: asks for
    /// what is over when it is, so that it is told in time.
    async fn attend(&self, generation: u64, host: &Host, lost: &mut mpsc::Receiver<Lost>) -> Lost {
        let replaced = self.target.replaced(host);
        tokio::pin!(replaced);
        let mut due = self.due.subscribe();
        let mut asked = Instant::now();
        let mut not_before = asked;
        loop {
            let jitter = EXPIRE_JITTER_MAX.mul_f32(rand::random());
            let next = due.borrow_and_update().unwrap_or(asked + ASK_EVERY);
            let at = next.min(asked + ASK_EVERY).max(not_before) + jitter;
            tokio::select! {
                told = lost.recv() => match told {
                    Some(lost) if lost.generation == generation => return lost,
                    // Of an earlier connection, or none: the sender is ours.
                    Some(_) | None => continue,
                },
                changed = due.changed() => match changed {
                    Ok(()) | Err(_) => continue,
                },
                cause = &mut replaced => return Lost {
                    generation,
                    cause,
                    redirect: None,
                },
                () = sleep_until(at) => {}
            }
            // A renewal meanwhile may have put it off.
            let now = Instant::now();
            let is_due = self.due.borrow().is_some_and(|at| at <= now);
            if is_due || now >= asked + ASK_EVERY {
                asked = now;
                not_before = match self.ask(&Step::expire()).await {
                    Ok(_) => now,
                    Err(_) => Instant::now() + EXPIRE_RETRY,
                };
            }
        }
    }

    async fn open(&self, generation: u64, redirect: Option<Host>) -> Result<Lines, String> {
        let listener = hints::listener(generation, self.hints.clone(), self.lost.clone());
        let config = AsyncConnectionConfig::new()
            // Each call has its own.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(listener);
        let hello = Step::expire();
        let hello = self.call(&hello);
        let opening = self.target.open(generation, redirect, &config, &hello);
        let (lines, answer) = opening.await?;
        self.met(&answer);
        Ok(lines)
    }
}

/// Connects, and connects again, for as long as it runs.
pub(super) async fn keep_connected(connection: Arc<Connection>, mut lost: mpsc::Receiver<Lost>) {
    let (mut generation, mut failures, mut redirect) = (0, 0_u32, None);
    let mut told = String::new();
    loop {
        generation += 1;
        let cause = match connection.open(generation, redirect.take()).await {
            Ok(lines) => {
                tracing::info!(host = %lines.host, "the directory is connected to Redis");
                told.clear();
                // Nobody listened before.
                let _ = connection.hints.send(Hint::Missed(0));
                let host = lines.host.clone();
                connection.state.send_replace(State::Up(lines));
                let since = Instant::now();
                let end = connection.attend(generation, &host, &mut lost).await;
                tracing::warn!(cause = %end.cause, "the directory lost its connection to Redis");
                redirect = end.redirect;
                if since.elapsed() >= STEADY_AFTER {
                    failures = 0;
                }
                if failures == 0 {
                    failures = 1;
                    let since = Instant::now();
                    connection.state.send_replace(State::Connecting { since });
                    continue;
                }
                end.cause
            }
            Err(cause) => {
                // The same again is not worth another line.
                if told != cause {
                    tracing::warn!(%cause, "the directory cannot connect to Redis and keeps trying");
                    told.clone_from(&cause);
                }
                cause
            }
        };
        connection.state.send_replace(State::Down { cause });
        failures = failures.saturating_add(1);
        sleep(pause(failures)).await;
    }
}

/// Doubles with each failure, and differs between relays, so that they do not come all at once.
fn pause(failures: u32) -> Duration {
    let whole = RETRY_MIN
        .saturating_mul(1 << failures.min(8))
        .min(RETRY_MAX);
    whole.mul_f32(0.5 + 0.5 * rand::random::<f32>())
}

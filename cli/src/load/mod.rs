//! Load on a mesh that is there already: an open loop, and the truth about every message.
//!
//! ```text
//!  Load ──schedule──▶ Pacer (threads) ──each message at its time──▶ SDK ─▶ mesh
//!   │  ◀─joined────── Player (tasks) ◀──────────events───────────── SDK ◀──┘
//!   │                   └─▶ Judge of its session, Tally of the load
//!   └─▶ progress, report
//! ```
//!
//! Players come in at the pace of the ramp. Once all have, the pacers send: first the warm-up, then what
//! is measured. Then nobody sends, and what is under way arrives, so that lost is what never came.

mod admin;
mod pacer;
mod player;
mod progress;
mod schedule;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Stderr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dreamcatcher_client::{RelayAddress, auth};
use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::{Error, ErrorCode};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::bots::entrance::Entrance;
use crate::bots::group::Group;
use crate::bots::per;
use crate::exit::Failure;
use crate::judge::{Judge, Verdict};
use crate::report::{
    ConnectQuantiles, HopsReport, LoadReport, Quantiles, RelayReport, Report, Tool,
};
use crate::stop::Stop;

use pacer::{Paced, Pacers, Seat, Task};
use player::{Company, Joined, Phase, Player, Shared};
use progress::{Look, Progress};
use schedule::Schedule;
use tally::{Tally, read};

/// How long the last players may take to join, beyond the ramp.
const GATHER_WITHIN: Duration = Duration::from_secs(60);
/// From when all have joined until the first message: every player listens by then.
const START_AFTER: Duration = Duration::from_millis(100);
/// How long what is under way at the end may take to arrive.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
/// What may be lost is lost once nothing has come for so long.
const QUIET: Duration = Duration::from_millis(500);
/// How often it is looked whether everything has arrived.
const SETTLED_EVERY: Duration = Duration::from_millis(50);
/// How long players may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Threads of the SDK, and as many that send. More take time from the relays where they share the
/// machine.
const THREADS_MAX: usize = 4;
/// A tool that hands messages to the SDK later than this, at the 99th percentile, was itself too slow to
/// tell how the mesh fared.
const LATE: Duration = Duration::from_millis(5);

/// What load, and where.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) auth: String,
    pub(crate) sessions: usize,
    /// Of each session.
    pub(crate) players: usize,
    pub(crate) hz: u32,
    pub(crate) bytes: usize,
    pub(crate) mode: Mode,
    pub(crate) placement: Placement,
    /// Sessions that are begun a second.
    pub(crate) ramp: u32,
    pub(crate) warm_up_s: u32,
    pub(crate) seconds: u64,
    /// Where relays say what CPU time they use.
    pub(crate) admins: Vec<SocketAddr>,
    /// Where players record their histories, if they are to.
    pub(crate) histories: Option<PathBuf>,
}

/// Which relay each player connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Each of a session to another one, in turn.
    Spread,
    /// To the one that is nearest to this machine.
    Nearest,
    /// All to this one.
    Pinned(String),
}

impl Placement {
    fn name(&self) -> &str {
        match self {
            Self::Spread => "spread",
            Self::Nearest => "nearest",
            Self::Pinned(node) => node,
        }
    }
}

/// Puts the load on the mesh, and tells how it went; `None` if it was stopped before all had joined.
pub(crate) async fn run(plan: Plan, stop: &mut Stop) -> Result<Option<LoadReport>, Failure> {
    let relays = relays(&plan).await?;
    admin::cpu(&plan.admins).await?;
    let mut load = Load::start(plan, relays)?;
    let gathered = tokio::select! {
        () = load.gather() => true,
        () = stop.requested() => false,
    };
    load.progress.end();
    if !gathered {
        load.leave().await;
        return Ok(None);
    }
    if let Some(error) = load.first_error.take_if(|_| load.joined.is_empty()) {
        load.leave().await;
        return Err(nobody_joined(&error));
    }
    let measured = load.measure(stop).await;
    if measured.is_ok() {
        load.settle().await;
    }
    load.leave().await;
    Ok(Some(load.report(measured?)))
}

/// The relays that players may connect to.
async fn relays(plan: &Plan) -> Result<Vec<RelayAddress>, Failure> {
    let mut relays = listed(&plan.auth).await.map_err(|error| {
        if error.code() == ErrorCode::InvalidArgument {
            Failure::usage("load", &format!("--auth: {}", error.message()))
        } else {
            error.into()
        }
    })?;
    if let Placement::Pinned(node) = &plan.placement {
        let known: Vec<String> = relays.iter().map(RelayAddress::name).collect();
        relays.retain(|relay| relay.node_id.as_deref() == Some(node));
        if relays.is_empty() {
            return Err(Failure::usage(
                "load",
                &format!(
                    "--relay {node} is not in the list; there are {}",
                    known.join(", ")
                ),
            ));
        }
    }
    Ok(relays)
}

async fn listed(auth_url: &str) -> Result<Vec<RelayAddress>, Error> {
    let relays = auth::relays(auth_url).await?;
    if relays.is_empty() {
        let message = format!(
            "the auth service at {auth_url} lists no relay that takes players: is one running, with the \
             same --directory as auth?"
        );
        return Err(Error::new(ErrorCode::NoRelayReachable, message));
    }
    Ok(relays)
}

fn nobody_joined(error: &Error) -> Failure {
    let code = error.code();
    let hint = if code == ErrorCode::RateLimited {
        "; a lower --ramp comes in more slowly"
    } else {
        ""
    };
    Error::new(
        code,
        format!("nobody could join: {}{hint}", error.message()),
    )
    .into()
}

struct Load {
    plan: Plan,
    companies: Vec<Arc<Company>>,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    attendance: mpsc::Receiver<Result<Joined, Error>>,
    players: JoinSet<()>,
    joined: Vec<Joined>,
    first_error: Option<Error>,
    progress: Progress<Stderr>,
}

/// What was measured, from its begin to its end.
struct Window {
    length: Duration,
    /// CPU time of this process.
    cpu: Duration,
    /// Messages that each player got.
    delivered: Vec<u64>,
    /// CPU time of the nodes that say it.
    relays_cpu: admin::Cpu,
    paced: Paced,
}

/// One moment.
struct Mark {
    at: Instant,
    cpu: Duration,
    delivered: Vec<u64>,
    relays_cpu: admin::Cpu,
}

impl Load {
    fn start(plan: Plan, relays: Vec<RelayAddress>) -> Result<Self, Failure> {
        let count = plan.sessions * plan.players;
        let shared = Arc::new(Shared {
            entrance: Entrance::new(plan.auth.clone(), threads(), plan.histories.clone())?,
            relays,
            placement: plan.placement.clone(),
            tally: Arc::new(Tally::new(count)),
            bytes: plan.bytes,
        });
        let (phase, phases) = watch::channel(Phase::Gathering);
        let (attend, attendance) = mpsc::channel(count);
        let mut load = Self {
            companies: Vec::with_capacity(plan.sessions),
            shared,
            phase,
            attendance,
            players: JoinSet::new(),
            joined: Vec::with_capacity(count),
            first_error: None,
            progress: Progress::on_stderr(),
            plan,
        };
        let begun = Instant::now();
        for number in 0..load.plan.sessions {
            let judge = Judge::new(rand::random(), load.plan.players, load.plan.mode);
            let company = Arc::new(Company {
                group: Arc::new(Group::new(number, judge.with_warm_up())),
                players: load.plan.players,
                hops: OnceLock::new(),
            });
            let comes = begun + Duration::from_secs_f64(number as f64 / f64::from(load.plan.ramp));
            for place in 0..load.plan.players {
                let player = Player {
                    shared: Arc::clone(&load.shared),
                    company: Arc::clone(&company),
                    number: number * load.plan.players + place,
                    place,
                    comes,
                    phase: phases.clone(),
                    attendance: attend.clone(),
                };
                load.players.spawn(player.live());
            }
            load.companies.push(company);
        }
        Ok(load)
    }

    /// Waits until every player has joined, or has said why it cannot.
    async fn gather(&mut self) {
        let expected = self.plan.sessions * self.plan.players;
        let ramp = Duration::from_secs_f64(self.plan.sessions as f64 / f64::from(self.plan.ramp));
        let deadline = tokio::time::sleep(ramp + GATHER_WITHIN);
        tokio::pin!(deadline);
        let mut look_due = tokio::time::interval(LOOK_EVERY);
        look_due.tick().await;
        let mut answers = 0;
        while answers < expected {
            let said = tokio::select! {
                said = self.attendance.recv() => said,
                () = &mut deadline => return,
                _ = look_due.tick() => {
                    let joined = self.joined.len();
                    self.progress.show(&Look::Gathering { joined, expected });
                    continue;
                }
            };
            answers += 1;
            match said {
                Some(Ok(joined)) => self.joined.push(joined),
                Some(Err(error)) => {
                    self.shared.tally.measures.error(&error, "join");
                    self.first_error.get_or_insert(error);
                }
                None => return,
            }
        }
    }

    /// Has everything sent at its time, showing how it fares.
    async fn measure(&mut self, stop: &mut Stop) -> Result<Window, Failure> {
        self.phase.send_replace(Phase::Playing);
        self.measure_distances();
        let Plan {
            hz,
            warm_up_s,
            seconds,
            mode,
            bytes,
            ..
        } = self.plan;
        let schedule = Schedule::new(Instant::now() + START_AFTER, hz, warm_up_s, seconds);
        let task = Task {
            schedule,
            mode,
            bytes,
            tally: Arc::clone(&self.shared.tally),
        };
        let pacers = Pacers::start(&task, self.seats(&schedule), threads())?;
        let warmed_up = self.watch(&schedule, schedule.measured_from(), stop).await;
        let before = self.mark().await;
        if warmed_up {
            self.watch(&schedule, schedule.end(), stop).await;
        }
        if Instant::now() < schedule.end() {
            pacers.stop();
        }
        let after = self.mark().await;
        self.progress.end();
        let delivered = after.delivered.iter().zip(&before.delivered);
        let relays_cpu = after.relays_cpu.iter().filter_map(|(node, cpu)| {
            let before = before.relays_cpu.get(node)?;
            Some((node.clone(), cpu.saturating_sub(*before)))
        });
        Ok(Window {
            length: after.at - before.at,
            cpu: after.cpu.saturating_sub(before.cpu),
            delivered: delivered.map(|(after, before)| after - before).collect(),
            relays_cpu: relays_cpu.collect(),
            paced: pacers.outcome().await,
        })
    }

    /// How far everything is at this moment.
    async fn mark(&self) -> Mark {
        let (at, cpu, delivered) = (Instant::now(), cpu_time(), self.shared.tally.delivered());
        let relays_cpu = admin::cpu(&self.plan.admins).await;
        Mark {
            at,
            cpu,
            delivered,
            relays_cpu: relays_cpu.unwrap_or_else(|error| {
                // Everybody answered at first: a relay that does not any more is no reason to stop.
                tracing::warn!(%error, "the relays' CPU time is not known");
                admin::Cpu::new()
            }),
        }
    }

    /// Shows how the load fares until then; whether nobody wants it stopped.
    async fn watch(&mut self, schedule: &Schedule, until: Instant, stop: &mut Stop) -> bool {
        let is_warm_up = until == schedule.measured_from();
        let from = if is_warm_up {
            schedule.start
        } else {
            schedule.measured_from()
        };
        let end = tokio::time::sleep_until(until.into());
        tokio::pin!(end);
        let mut look_due = tokio::time::interval_at((from + LOOK_EVERY).into(), LOOK_EVERY);
        let mut shown = (Instant::now(), self.so_far());
        loop {
            tokio::select! {
                // What ends it comes first: no look where nothing is measured any more.
                biased;
                () = stop.requested() => return false,
                () = &mut end => return true,
                _ = look_due.tick() => {}
            }
            let now = (Instant::now(), self.so_far());
            let (counts, verdict) = &now.1;
            let (counts_before, _) = &shown.1;
            let passed = (now.0 - shown.0).as_secs_f64();
            self.progress.show(&Look::Sending {
                is_warm_up,
                elapsed: now.0.saturating_duration_since(from),
                of: until - from,
                sent_per_s: per(counts.0 - counts_before.0, passed),
                delivered_per_s: per(counts.1 - counts_before.1, passed),
                latency: self.shared.tally.recent(),
                lost: verdict.lost,
                duplicated: verdict.duplicated,
                reordered: verdict.reordered,
                leaked: verdict.leaked,
            });
            shown = now;
        }
    }

    /// Messages sent and delivered, the warm-up included, and what the judges know.
    fn so_far(&self) -> ((u64, u64), Verdict) {
        let mut verdict = Verdict::default();
        let mut sent = 0;
        for company in &self.companies {
            let judge = company.group.judge();
            verdict += judge.so_far();
            sent += judge.sent_total();
        }
        ((sent, self.shared.tally.delivered().iter().sum()), verdict)
    }

    /// Waits until what was sent has arrived everywhere, or has had its time.
    async fn settle(&self) {
        let may_lose = self.plan.mode.is_unreliable();
        let settled = async {
            let mut look = tokio::time::interval(SETTLED_EVERY);
            let mut last = (Instant::now(), 0);
            loop {
                look.tick().await;
                if self
                    .companies
                    .iter()
                    .all(|it| it.group.judge().is_settled())
                {
                    return;
                }
                let delivered = self.shared.tally.delivered().iter().sum();
                if delivered != last.1 {
                    last = (Instant::now(), delivered);
                } else if may_lose && last.0.elapsed() >= QUIET {
                    return;
                }
            }
        };
        if tokio::time::timeout(SETTLE_WITHIN, settled).await.is_err() {
            tracing::warn!("not everything arrived within {SETTLE_WITHIN:?} after the last send");
        }
    }

    async fn leave(&mut self) {
        self.phase.send_replace(Phase::Leaving);
        let left = async { while self.players.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::warn!("not every player left within {LEAVE_WITHIN:?}");
            self.players.abort_all();
        }
    }

    fn seats(&self, schedule: &Schedule) -> Vec<Seat> {
        let seat = |joined: &Joined| Seat {
            group: Arc::clone(&self.companies[joined.group].group),
            place: joined.place,
            sender: joined.sender.clone(),
            phase: schedule.phase(joined.number),
        };
        self.joined.iter().map(seat).collect()
    }

    /// Tells each session how many links lie between its players.
    fn measure_distances(&self) {
        let players = self.plan.players;
        let mut seats: Vec<Vec<Option<&Joined>>> = vec![vec![None; players]; self.plan.sessions];
        for joined in &self.joined {
            seats[joined.group][joined.place] = Some(joined);
        }
        for (company, seats) in self.companies.iter().zip(seats) {
            let hops = seats.iter().flat_map(|from| {
                seats.iter().map(move |to| {
                    let (from, to) = ((*from)?, (*to)?);
                    Some(usize::from(from.node != from.owner) + usize::from(to.owner != to.node))
                })
            });
            // It is told once.
            let _ = company.hops.set(hops.collect());
        }
    }

    fn report(&self, window: Window) -> LoadReport {
        let (plan, tally) = (&self.plan, &self.shared.tally);
        let mut verdict = Verdict::default();
        let mut ended_early = 0;
        for company in &self.companies {
            let judge = company.group.judge();
            verdict += judge.verdict();
            ended_early += judge.gone_count();
        }
        let measured = tally.measures.so_far();
        let latency = tally.so_far();
        let seconds = window.length.as_secs_f64();
        let players_expected = plan.sessions * plan.players;
        let mut nodes: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for joined in &self.joined {
            nodes.entry(joined.group).or_default().insert(&joined.node);
        }
        let per_relay = self.per_relay(&window);
        let quantiles = Quantiles::of(&latency.all);
        let lag = Quantiles::of(&window.paced.lag);
        let (dropped_in, dropped_out) = tally.dropped_in_and_out();
        LoadReport {
            report: Report {
                kept: verdict.is_clean(plan.mode)
                    && ended_early == 0
                    && self.joined.len() == players_expected,
                players: self.joined.len(),
                players_expected,
                ended_early,
                sessions: nodes.len(),
                sessions_across_relays: nodes.values().filter(|nodes| nodes.len() > 1).count(),
                seconds,
                hz: plan.hz,
                verdict,
                latency_us: quantiles,
                ordered_latency_us: if plan.mode == Mode::Ordered {
                    quantiles
                } else {
                    Quantiles::default()
                },
                connect_ms: ConnectQuantiles::of(&measured.connect),
                delivered_per_s: per(window.delivered.iter().sum(), seconds),
                cpu_us_per_delivered: cpu_us(&per_relay)
                    .map(|cpu_us| per(cpu_us, window.delivered.iter().sum::<u64>() as f64)),
                per_relay,
                errors: measured.errors,
            },
            mode: plan.mode,
            bytes: plan.bytes,
            placement: plan.placement.name().to_owned(),
            warm_up_s: plan.warm_up_s,
            intended_per_s: u64::from(plan.hz) * self.joined.len() as u64,
            sent_per_s: per(verdict.sent, seconds),
            committed: read(&tally.committed),
            refused: window.paced.refused,
            rejected: read(&tally.rejected),
            unsent: window.paced.unsent,
            told_lost: verdict.told_lost,
            gaps: read(&tally.gaps),
            reconnects: read(&tally.reconnects),
            resumes: read(&tally.resumes),
            resyncs: read(&tally.resyncs),
            moves: read(&tally.moves),
            dropped_in,
            dropped_out,
            by_hops: by_hops(&latency),
            schedule_lag_us: lag,
            tool: Tool {
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                cores_used: window.cpu.as_secs_f64() / seconds.max(f64::EPSILON),
                late: lag.p99 > as_us(LATE),
            },
        }
    }

    /// What each node had to do, as far as it can be seen from here.
    fn per_relay(&self, window: &Window) -> Vec<RelayReport> {
        let mut relays: BTreeMap<&str, RelayReport> = BTreeMap::new();
        let listed = self.shared.relays.iter();
        let listed = listed.filter_map(|relay| relay.node_id.as_deref());
        let met = self
            .joined
            .iter()
            .flat_map(|of| [of.node.as_str(), &of.owner]);
        for node in listed.chain(met) {
            relays.entry(node).or_insert_with(|| RelayReport {
                node_id: node.to_owned(),
                clients: 0,
                sessions_owned: 0,
                delivered: 0,
                cpu_us: window.relays_cpu.get(node).copied().map(as_us),
            });
        }
        for joined in &self.joined {
            if let Some(relay) = relays.get_mut(joined.node.as_str()) {
                relay.clients += 1;
                relay.delivered += window.delivered[joined.number];
            }
            if joined.place == 0
                && let Some(relay) = relays.get_mut(joined.owner.as_str())
            {
                relay.sessions_owned += 1;
            }
        }
        relays.into_values().collect()
    }
}

/// Of all relays together, if each says it.
fn cpu_us(relays: &[RelayReport]) -> Option<u64> {
    relays.iter().map(|relay| relay.cpu_us).sum()
}

fn as_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn by_hops(latency: &tally::Latency) -> Vec<HopsReport> {
    let hops = latency.by_hops.iter().enumerate();
    hops.filter(|(_, times)| !times.is_empty())
        .map(|(hops, times)| HopsReport {
            hops,
            delivered: times.len(),
            latency_us: Quantiles::of(times),
        })
        .collect()
}

/// Threads of each kind: one per core, as far as that helps.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX))
}

/// CPU time of this process, all its threads together.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

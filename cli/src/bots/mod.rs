//! Players that play by themselves, through the same SDK and the same front door as everybody.
//!
//! ```text
//!  Fleet ─phase─▶ Bot ──guest, connect, create / join by code──▶ mesh
//!        ◀joined─  │ ──Latest at --hz, Ordered at 2 Hz─────────▶
//!                  │ ◀─────────────events───────────────────────
//!                  └─▶ Judge of its session, Measures of the fleet ─▶ table, report
//! ```
//!
//! The members of a session are on different relays: member i of session s prefers relay s + i.

mod bot;
pub(crate) mod entrance;
pub(crate) mod group;
pub(crate) mod measures;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal, Stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_client::RelayAddress;
use dreamcatcher_proto::frame::Mode;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::exit::Failure;
use crate::judge::{Judge, Verdict};
use crate::mesh::{Mesh, Work};
use crate::out;
use crate::report::{ConnectQuantiles, Quantiles, RelayReport, Report};
use crate::stop::Stop;
use crate::table::{Snapshot, Table};

use bot::{Attendance, Bot, Phase, Shared};
use entrance::Entrance;
use group::Group;
use measures::Measures;

/// SDK threads that the bots share: bots are there to load the relays, not to be load themselves.
const WORKERS: usize = 2;
/// How long bots may take to gather; who is not there then does not play.
const GATHER_WITHIN: Duration = Duration::from_secs(60);
/// How long what is under way at the end may take to arrive.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
/// How long bots may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
const TABLE_EVERY: Duration = Duration::from_secs(1);

/// How many bots play, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) bots: usize,
    /// At most so many in one session.
    pub(crate) players: usize,
    pub(crate) hz: u32,
    /// Until it is stopped, if there is no number.
    pub(crate) seconds: Option<u64>,
    /// Where they record their histories, if they are to.
    pub(crate) histories: Option<PathBuf>,
}

/// Lets bots play on the mesh, and tells how it went; `None` if it was stopped before they played.
pub(crate) async fn play(
    plan: Plan,
    mesh: &Mesh,
    stop: &mut Stop,
) -> Result<Option<Report>, Failure> {
    let mut fleet = Fleet::start(plan, mesh)?;
    let gathered = tokio::select! {
        () = fleet.gather() => true,
        () = stop.requested() => false,
    };
    if !gathered {
        fleet.leave().await;
        return Ok(None);
    }
    let measured = fleet.measure(mesh, stop).await;
    if measured.is_ok() {
        fleet.settle().await;
    }
    fleet.leave().await;
    Ok(Some(fleet.report(&measured?)))
}

struct Fleet {
    plan: Plan,
    groups: Vec<Arc<Group>>,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    attendance: mpsc::Receiver<Attendance>,
    bots: JoinSet<()>,
    players: usize,
    /// The nodes that the members of each session are connected to.
    nodes: BTreeMap<usize, BTreeSet<String>>,
    table: Table<Stdout>,
}

/// What was measured between two moments.
struct Window {
    length: Duration,
    /// Messages delivered, as the bots count.
    delivered: u64,
    relays: Vec<RelayReport>,
}

impl Fleet {
    fn start(plan: Plan, mesh: &Mesh) -> Result<Self, Failure> {
        let shared = Arc::new(Shared {
            entrance: Entrance::new(mesh.auth_url(), WORKERS, plan.histories.clone())?,
            relays: relays(mesh),
            walk_every: Duration::from_secs(1) / plan.hz,
            measures: Measures::new(Instant::now()),
            arrival: Notify::new(),
        });
        let (phase, phases) = watch::channel(Phase::Gathering);
        let (attend, attendance) = mpsc::channel(plan.bots.max(1));
        let (bots, players) = (plan.bots, plan.players);
        let mut fleet = Self {
            plan,
            groups: Vec::new(),
            shared,
            phase,
            attendance,
            bots: JoinSet::new(),
            players: 0,
            nodes: BTreeMap::new(),
            table: Table::new(io::stdout(), io::stdout().is_terminal()),
        };
        for (number, size) in group::sizes(bots, players).into_iter().enumerate() {
            let group = Arc::new(Group::new(
                number,
                Judge::new(rand::random(), size, Mode::Ordered),
            ));
            for place in 0..size {
                let number = fleet.bots.len();
                let bot = Bot {
                    shared: Arc::clone(&fleet.shared),
                    group: Arc::clone(&group),
                    number,
                    place,
                    offset: number as f64 / bots as f64,
                    phase: phases.clone(),
                    attendance: attend.clone(),
                };
                fleet.bots.spawn(bot.live());
            }
            fleet.groups.push(group);
        }
        Ok(fleet)
    }

    /// Waits until every bot has joined, or has said why it cannot.
    async fn gather(&mut self) {
        let deadline = tokio::time::sleep(GATHER_WITHIN);
        tokio::pin!(deadline);
        for _ in 0..self.plan.bots {
            let said = tokio::select! {
                said = self.attendance.recv() => said,
                () = &mut deadline => return,
            };
            match said {
                Some(Attendance::Joined { group, node }) => {
                    self.players += 1;
                    self.nodes.entry(group).or_default().insert(node);
                }
                Some(Attendance::Failed(error)) => {
                    self.shared.measures.error(&error, "join");
                }
                None => return,
            }
        }
    }

    /// Lets them play, showing how they fare.
    async fn measure(&mut self, mesh: &Mesh, stop: &mut Stop) -> Result<Window, Failure> {
        let (begun, before, delivered_before) = (Instant::now(), mesh.work(), self.delivered());
        self.phase.send_replace(Phase::Playing);
        let mut shown = (begun, delivered_before);
        let mut table_due = tokio::time::interval(TABLE_EVERY);
        table_due.tick().await;
        let end = async {
            match self.plan.seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            tokio::select! {
                _ = table_due.tick() => {}
                () = &mut end => break,
                () = stop.requested() => break,
            }
            let now = (Instant::now(), self.delivered());
            let snapshot = self.snapshot(&mesh.work(), begun, shown, now);
            shown = now;
            out::written(self.table.show(&snapshot))?;
        }
        self.phase.send_replace(Phase::Settling);
        Ok(Window {
            length: begun.elapsed(),
            delivered: self.delivered() - delivered_before,
            relays: between(&before, &mesh.work()),
        })
    }

    /// Waits until what was sent has arrived everywhere, or has had its time.
    async fn settle(&self) {
        let settled = async {
            for group in &self.groups {
                loop {
                    let arrival = self.shared.arrival.notified();
                    if group.judge().is_settled() {
                        break;
                    }
                    arrival.await;
                }
            }
        };
        if tokio::time::timeout(SETTLE_WITHIN, settled).await.is_err() {
            tracing::warn!("not everything arrived within {SETTLE_WITHIN:?} after the last send");
        }
    }

    async fn leave(&mut self) {
        self.phase.send_replace(Phase::Leaving);
        let left = async { while self.bots.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::warn!("not every bot left within {LEAVE_WITHIN:?}");
            self.bots.abort_all();
        }
    }

    fn snapshot(
        &self,
        work: &[Work],
        begun: Instant,
        (before, delivered_before): (Instant, u64),
        (now, delivered): (Instant, u64),
    ) -> Snapshot {
        let mut so_far = Verdict::default();
        for group in &self.groups {
            so_far += group.judge().so_far();
        }
        let recent = self.shared.measures.recent();
        let members = |work: &Work| (work.node_id.clone(), work.stats.clients);
        Snapshot {
            elapsed: now - begun,
            sessions: self.nodes.len(),
            members: work.iter().map(members).collect(),
            delivered_per_s: per(delivered - delivered_before, (now - before).as_secs_f64()),
            lost: so_far.lost,
            duplicated: so_far.duplicated,
            reordered: so_far.reordered,
            leaked: so_far.leaked,
            older: so_far.latest_older,
            p50: recent.map(|(p50, _)| p50),
            p99: recent.map(|(_, p99)| p99),
        }
    }

    /// Messages that reached bots, in all modes.
    fn delivered(&self) -> u64 {
        let delivered = |group: &Arc<Group>| group.judge().delivered_total();
        self.groups.iter().map(delivered).sum()
    }

    fn report(&self, window: &Window) -> Report {
        let mut verdict = Verdict::default();
        let mut ended_early = 0;
        for group in &self.groups {
            let judge = group.judge();
            verdict += judge.verdict();
            ended_early += judge.gone_count();
        }
        let measured = self.shared.measures.so_far();
        let seconds = window.length.as_secs_f64();
        let cpu_us: u64 = window.relays.iter().filter_map(|relay| relay.cpu_us).sum();
        Report {
            kept: verdict.is_clean(Mode::Ordered)
                && ended_early == 0
                && self.players == self.plan.bots,
            players: self.players,
            players_expected: self.plan.bots,
            ended_early,
            sessions: self.nodes.len(),
            sessions_across_relays: self.nodes.values().filter(|nodes| nodes.len() > 1).count(),
            seconds,
            hz: self.plan.hz,
            verdict,
            latency_us: Quantiles::of(&measured.latest),
            ordered_latency_us: Quantiles::of(&measured.ordered),
            connect_ms: ConnectQuantiles::of(&measured.connect),
            delivered_per_s: per(window.delivered, seconds),
            cpu_us_per_delivered: Some(per(cpu_us, window.delivered as f64)),
            per_relay: window.relays.clone(),
            errors: measured.errors,
        }
    }
}

/// The relays as the SDK takes them.
fn relays(mesh: &Mesh) -> Vec<RelayAddress> {
    let nodes = mesh.nodes().into_iter();
    nodes
        .map(|node| RelayAddress {
            node_id: Some(node.id.to_string()),
            region: Some(node.region),
            ..RelayAddress::new(node.address, node.certificate_sha256)
        })
        .collect()
}

/// What each node did from `before` to `after`.
fn between(before: &[Work], after: &[Work]) -> Vec<RelayReport> {
    let delivered = |work: &Work| work.stats.delivered_total.iter().sum::<u64>();
    let done = |(before, after): (&Work, &Work)| RelayReport {
        node_id: after.node_id.clone(),
        clients: after.stats.clients,
        sessions_owned: after.stats.sessions_owned,
        delivered: delivered(after) - delivered(before),
        cpu_us: u64::try_from((after.cpu - before.cpu).as_micros()).ok(),
    };
    before.iter().zip(after).map(done).collect()
}

pub(crate) fn per(amount: u64, units: f64) -> f64 {
    if units > 0.0 {
        amount as f64 / units
    } else {
        0.0
    }
}

//! Looking for a nearer relay, and moving there while the present one still serves.
//!
//! ```text
//!   survey ─▶ the first connect: in which order
//!   each 30 s ─▶ much nearer, twice in a row? ─┐
//!   the owner's relay is no farther? ──────────┼─▶ Next (QUIC, Hello, resume) ─▶ Link
//!   the relay drains? ─────────────────────────┘                        Link ─▶ Former
//!   each 5 s ─▶ one probe keeps the second-best warm, for when the relay fails
//! ```

use std::time::{Duration, Instant};

use dreamcatcher_proto::limits::PING_AFTER;
use dreamcatcher_proto::member::Input;
use dreamcatcher_proto::{Error, ErrorCode, NodeId};

use super::link::Link;
use super::{Core, Phase, Pick, RECONNECT_TIMEOUT, RelayAddress, SILENCE_MAX};
use crate::nearest::{PROBES, Survey};

/// What was sent just before a move has reached its owner after two round trips and this: time for
/// the way from relay to relay, and for one loss.
const SETTLE: Duration = Duration::from_millis(50);
/// A finding is measured again after this part of the usual time.
const CONFIRM_PART: u32 = 6;

/// How often relays are measured while connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Up to five relays, three probes each; a quarter of it up or down, by chance.
    pub every: Duration,
    /// The second-best, one probe.
    pub warm_every: Duration,
}

impl Default for Probing {
    /// 30 s: players do not change continents; 5 s: what NAT keeps open, with room. Together some
    /// 0.8 KB/s.
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30),
            warm_every: Duration::from_secs(5),
        }
    }
}

/// What a core does about nearer relays.
#[derive(Debug)]
pub(super) struct Roaming {
    probing: Probing,
    follow_owner: bool,
    running: Option<Running>,
    survey_due: Instant,
    warm_due: Instant,
    /// Whose relay is to be compared with the present one.
    owner: Option<NodeId>,
    /// The relay stops within this time.
    drains_within: Option<Duration>,
    /// All relays failed, or one stops: the list may have changed.
    pub(super) wants_relays: bool,
}

/// A measurement under way.
#[derive(Debug)]
struct Running {
    purpose: Purpose,
    places: Vec<usize>,
    survey: Survey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Before the first connect.
    First,
    Regular,
    Warm,
    /// Whether the owner's relay is no farther.
    Owner(usize),
}

/// The connection to the relay that is moved to.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) place: usize,
    pub(super) link: Link,
    /// When the relay must have answered `Hello`.
    deadline: Instant,
    is_up: bool,
}

impl Next {
    /// When it is given up, unless something comes.
    fn gives_up_at(&self) -> Instant {
        if self.is_up {
            self.link.heard + PING_AFTER + SILENCE_MAX
        } else {
            self.deadline
        }
    }

    pub(super) fn reconnect_deadline(&self) -> Instant {
        self.deadline
    }
}

impl Roaming {
    pub(super) fn new(probing: Probing, follow_owner: bool, now: Instant) -> Self {
        Self {
            probing,
            follow_owner,
            running: None,
            survey_due: now + probing.every,
            warm_due: now + probing.warm_every,
            owner: None,
            drains_within: None,
            wants_relays: false,
        }
    }

    pub(super) fn stop(&mut self) {
        (self.running, self.owner, self.drains_within) = (None, None, None);
    }

    pub(super) fn survey(&mut self) -> Option<&mut Survey> {
        self.running.as_mut().map(|running| &mut running.survey)
    }
}

impl Core {
    /// The relay that is connected to, or tried.
    #[must_use]
    pub fn relay(&self) -> &RelayAddress {
        self.failover.relay()
    }

    /// Whether a move to another relay is under way.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.next.is_some()
    }

    /// Another list of relays, for reconnects and moves from now on. The present connection stays,
    /// even if its relay is not on the list. [`Self::handle_timeout`] becomes due.
    ///
    /// # Errors
    /// `InvalidArgument` as [`Self::new`]; the old list stays.
    pub fn set_relays(&mut self, relays: Vec<RelayAddress>) -> Result<(), Error> {
        let mut next = self.next.as_ref().map(|next| next.place);
        self.failover.set_relays(relays, next.as_mut_slice())?;
        if let (Some(next), Some(place)) = (&mut self.next, next) {
            next.place = place;
        }
        // Its places are those of the old list. The first one is needed.
        if let Some(Purpose::First) = self.roaming.running.as_ref().map(|r| r.purpose) {
            self.roaming.running = None;
            self.phase = Phase::Pausing { until: self.driven };
            self.begin_first(self.driven);
        }
        self.roaming.running = None;
        self.roaming.wants_relays = false;
        if self.failover.is_draining() {
            self.roaming.drains_within.get_or_insert(RECONNECT_TIMEOUT);
        }
        Ok(())
    }

    /// Whether the list of relays should be read anew, by whoever can: once for each time.
    pub fn take_wants_relays(&mut self) -> bool {
        std::mem::take(&mut self.roaming.wants_relays)
    }

    // ------------------------------------------------------------------------------------- surveys

    /// Before the first connect: finds out in which order, if there is a choice.
    pub(super) fn begin_first(&mut self, now: Instant) {
        let give_up = now + super::CONNECT_TOTAL_TIMEOUT;
        if self.failover.pick() == Pick::Listed || self.failover.len() == 1 {
            return self.connect_first(give_up, now);
        }
        let random = self.random.clone();
        let places = self.failover.candidates(false, || random.number());
        self.phase = Phase::Surveying { give_up };
        self.begin_survey(Purpose::First, places, PROBES, now);
    }

    fn begin_survey(&mut self, purpose: Purpose, places: Vec<usize>, probes: usize, now: Instant) {
        let address = |&place: &usize| self.failover.relay_at(place).address;
        let targets: Vec<_> = places.iter().map(address).collect();
        self.roaming.running = Some(Running {
            purpose,
            survey: Survey::new(&targets, probes, self.random.draw(), now),
            places,
        });
    }

    /// Whether there is a connection to do better than, and no move under way.
    fn may_roam(&self) -> bool {
        matches!(self.phase, Phase::Connected { .. }) && self.next.is_none()
    }

    fn measures(&self) -> bool {
        self.may_roam() && self.failover.pick() == Pick::Nearest && self.failover.len() > 1
    }

    pub(super) fn roam(&mut self, now: Instant) {
        if let Some(survey) = self.roaming.survey() {
            survey.handle_timeout(now);
            if survey.poll_timeout().is_none() {
                self.finish_survey(now);
            }
        }
        if let Some(next) = &self.next
            && next.gives_up_at() <= now
        {
            let error = Error::new(ErrorCode::TimedOut, "no answer in time");
            self.member.handle(Input::NextLost(error), now);
            self.carry_out(now);
        }
        if !self.may_roam() {
            return;
        }
        if let Some(within) = self.roaming.drains_within.take() {
            self.flee(within, now);
        } else if let Some(owner) = self.roaming.owner.take() {
            self.look_at_owner(owner.as_str(), now);
        }
        if !self.measures() || self.roaming.running.is_some() {
            return;
        }
        if self.roaming.survey_due <= now {
            let random = self.random.clone();
            let places = self.failover.candidates(true, || random.number());
            self.begin_survey(Purpose::Regular, places, PROBES, now);
        } else if self.roaming.warm_due <= now
            && let Some(second) = self.failover.second_best()
        {
            self.begin_survey(Purpose::Warm, vec![second], 1, now);
        }
    }

    pub(super) fn roaming_timeout(&self) -> Option<Instant> {
        let running = self.roaming.running.as_ref();
        let survey = running.map(|running| running.survey.poll_timeout().unwrap_or(self.driven));
        let next = self.next.as_ref().map(Next::gives_up_at);
        let wish = self.roaming.drains_within.is_some() || self.roaming.owner.is_some();
        let wish = (wish && self.may_roam()).then_some(self.driven);
        let due = self.roaming.survey_due.min(self.roaming.warm_due);
        let due = (self.measures() && running.is_none()).then_some(due);
        [survey, next, wish, due].into_iter().flatten().min()
    }

    fn finish_survey(&mut self, now: Instant) {
        let Some(Running {
            purpose,
            places,
            survey,
        }) = self.roaming.running.take()
        else {
            return;
        };
        for (&place, rtt) in places.iter().zip(survey.medians()) {
            if purpose == Purpose::Warm {
                self.failover.kept_warm(place, rtt);
            } else {
                self.failover.measured(place, rtt);
            }
        }
        self.roaming.warm_due = now + self.roaming.probing.warm_every;
        match purpose {
            Purpose::First => {
                self.plan_survey(now);
                self.failover.rank();
                if let Phase::Surveying { give_up } = self.phase {
                    self.connect_first(give_up, now);
                }
            }
            Purpose::Regular => {
                let present = self.failover.present();
                let is_other = |place: &usize| *place != present;
                let others: Vec<usize> = places.into_iter().filter(is_other).collect();
                let nearer = self.failover.nearer(&others, now);
                self.plan_survey(now);
                if let Some(place) = nearer.filter(|_| self.may_roam()) {
                    self.begin_move(place, "it is much nearer", None, now);
                }
            }
            Purpose::Warm => {}
            Purpose::Owner(place) => {
                if self.may_roam() && self.failover.is_no_farther(place) {
                    self.begin_move(place, "it owns the session", None, now);
                }
            }
        }
    }

    /// When to measure next: soon, if somebody looks much nearer.
    fn plan_survey(&mut self, now: Instant) {
        let every = self.roaming.probing.every;
        let wait = if self.failover.is_undecided() {
            every / CONFIRM_PART
        } else {
            let [jitter, ..] = self.random.draw();
            every * 3 / 4 + every / 2 * u32::from(jitter) / 256
        };
        self.roaming.survey_due = now + wait;
    }

    // --------------------------------------------------------------------------------------- moves

    /// A session was joined: its owner's relay saves every message a hop.
    pub(super) fn consider_owner(&mut self, owner: NodeId) {
        if self.roaming.follow_owner {
            self.roaming.owner = Some(owner);
        }
    }

    fn look_at_owner(&mut self, owner: &str, now: Instant) {
        let Some(place) = self.failover.owner(owner, now) else {
            return;
        };
        if self.failover.shares_host_with_present(place) {
            return self.begin_move(place, "it owns the session", None, now);
        }
        // Like is compared with like: both are measured now, by the same packets.
        let places = vec![self.failover.present(), place];
        self.begin_survey(Purpose::Owner(place), places, PROBES, now);
    }

    /// The relay stops: where to is looked for when the time has come.
    pub(super) fn relay_drains(&mut self, within: Duration) {
        self.failover.drains();
        self.roaming.drains_within = Some(within);
        self.roaming.wants_relays = true;
    }

    fn flee(&mut self, within: Duration, now: Instant) {
        match self.failover.refuge(now) {
            Some(place) => self.begin_move(place, "the present one stops", Some(within / 4), now),
            None => tracing::debug!("the relay stops, and there is no other to move to"),
        }
    }

    fn begin_move(&mut self, place: usize, why: &str, settle_max: Option<Duration>, now: Instant) {
        let rtt = self.link.as_ref().map(|link| link.connection.rtt());
        let settle = SETTLE + 2 * rtt.unwrap_or_default();
        let settle = settle_max.map_or(settle, |max| settle.min(max));
        let relay = self.failover.relay_at(place).name();
        tracing::debug!(%relay, why, "moving to another relay");
        match self.make_link(place, now) {
            Ok(link) => {
                self.roaming.running = None;
                self.member.begin_move(settle, now);
                self.next = Some(Next {
                    place,
                    link,
                    deadline: now + RECONNECT_TIMEOUT,
                    is_up: false,
                });
            }
            Err(error) => self.shun(place, &error, now),
        }
    }

    pub(super) fn next_is_up(&mut self) {
        if let Some(next) = &mut self.next {
            next.is_up = true;
        }
    }

    /// The next connection is the present one from here on.
    pub(super) fn moved(&mut self, now: Instant) {
        let Some(next) = self.next.take() else { return };
        self.close_former(now);
        self.former = self.link.replace(next.link);
        self.failover.moved_to(next.place);
        self.phase = Phase::Connected { since: now };
        self.stats.moves += 1;
        self.roaming.drains_within = None;
        self.plan_survey(now);
    }

    pub(super) fn drop_next(&mut self, error: &Error, now: Instant) {
        let Some(next) = self.next.take() else { return };
        let place = next.place;
        self.part(next.link, error, now);
        self.shun(place, error, now);
        self.plan_survey(now);
    }

    pub(super) fn close_former(&mut self, now: Instant) {
        if let Some(former) = self.former.take() {
            self.part(former, &ErrorCode::Ok.into(), now);
        }
    }

    fn shun(&mut self, place: usize, error: &Error, now: Instant) {
        let relay = self.failover.relay_at(place).name();
        tracing::debug!(%relay, %error, "the move came to nothing");
        self.failover.shun(place, now);
        self.stats.moves_failed += 1;
        if self.failover.is_draining() {
            // It is still there, but not for long.
            self.roaming.drains_within.get_or_insert(Duration::ZERO);
        }
    }
}

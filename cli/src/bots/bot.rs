//! One bot: signs in, joins its session, walks and acts until it is told to stop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dreamcatcher_client::{Pick, RelayAddress, Session};
use dreamcatcher_proto::frame::{Mode, Target};
use dreamcatcher_proto::member::{Event, SendId};
use dreamcatcher_proto::{Error, ErrorCode, Index};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use super::entrance::{Entrance, Guest, Seated, spread};
use super::group::Group;
use super::measures::Measures;
use crate::judge::{Judge, Stamp};

/// How often a bot acts: a door, a pick-up, a score now and then.
const ACT_EVERY: Duration = Duration::from_millis(500);
/// A bot's message: a position with a velocity, an animation state and some more.
const PAYLOAD_BYTES: usize = 64;

/// How far the fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Bots connect and join; nobody sends.
    Gathering,
    Playing,
    /// Nobody sends any more; what is under way arrives.
    Settling,
    Leaving,
}

/// What a bot tells the fleet once.
#[derive(Debug)]
pub(super) enum Attendance {
    Joined { group: usize, node: String },
    Failed(Error),
}

/// What all bots share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) entrance: Entrance,
    pub(super) relays: Vec<RelayAddress>,
    pub(super) walk_every: Duration,
    pub(super) measures: Measures,
    /// Something arrived while the fleet settles.
    pub(super) arrival: Notify,
}

/// One bot.
#[derive(Debug)]
pub(super) struct Bot {
    pub(super) shared: Arc<Shared>,
    pub(super) group: Arc<Group>,
    /// Its number in the fleet.
    pub(super) number: usize,
    /// Its place in its session, from 0; the first creates it.
    pub(super) place: usize,
    /// From 0 to 1: when in a period it sends.
    pub(super) offset: f64,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) attendance: mpsc::Sender<Attendance>,
}

impl Bot {
    /// Everything a bot does in its life.
    pub(super) async fn live(mut self) {
        let mut phase = self.phase.clone();
        let joined = tokio::select! {
            joined = self.join() => joined,
            _ = phase.wait_for(|phase| *phase != Phase::Gathering) => {
                Err(Error::new(ErrorCode::Cancelled, "the others did not wait any longer"))
            }
        };
        if self.place == 0 {
            let code = joined
                .as_ref()
                .ok()
                .and_then(|seated| seated.session.code());
            self.group.tell(code);
        }
        let (said, playing) = match joined {
            Ok(seated) => {
                self.shared.measures.connected(seated.connected_in);
                let node = seated.client.node().to_string();
                let said = Attendance::Joined {
                    group: self.group.number,
                    node,
                };
                (said, Some(seated))
            }
            Err(error) => (Attendance::Failed(error), None),
        };
        // Fails only when the fleet is gone, and this task with it.
        let _ = self.attendance.send(said).await;
        if let Some(Seated {
            client, session, ..
        }) = playing
        {
            self.play(session).await;
            client.close().await;
        }
    }

    async fn join(&self) -> Result<Seated, Error> {
        let guest = Guest {
            group: &self.group,
            place: self.place,
            number: self.number,
            relays: spread(&self.shared.relays, self.group.number, self.place),
            pick: Pick::Listed,
        };
        self.shared.entrance.enter(guest).await
    }

    async fn play(&mut self, mut session: Session) {
        let mut phase = self.phase.clone();
        let mut unresolved = VecDeque::new();
        let (mut walk, mut act) = (None, None);
        loop {
            let now_in = *phase.borrow_and_update();
            match now_in {
                Phase::Gathering => {}
                Phase::Playing => {
                    walk.get_or_insert_with(|| self.rhythm(self.shared.walk_every));
                    act.get_or_insert_with(|| self.rhythm(ACT_EVERY));
                }
                Phase::Settling => (walk, act) = (None, None),
                Phase::Leaving => break,
            }
            tokio::select! {
                changed = phase.changed() => if changed.is_err() { break },
                event = session.recv() => {
                    let mut next = event;
                    while let Some(event) = next {
                        if self.hear(event, &mut unresolved).is_break() {
                            return;
                        }
                        next = session.poll();
                    }
                    if now_in == Phase::Settling {
                        self.shared.arrival.notify_one();
                    }
                }
                () = beat(&mut walk) => self.walk(&session),
                () = beat(&mut act) => self.act(&session, &mut unresolved),
            }
        }
        session.leave().await;
    }

    fn walk(&self, session: &Session) {
        let Some(number) = self.number(Judge::send_latest) else {
            return;
        };
        let sent = session.send(Mode::Latest, Target::Others, self.payload(number));
        if let Err(error) = sent {
            self.shared.measures.error(&error, "walk");
        }
    }

    fn act(&self, session: &Session, unresolved: &mut VecDeque<(SendId, u32)>) {
        let Some(number) = self.number(Judge::send) else {
            return;
        };
        match session.send(Mode::Ordered, Target::All, self.payload(number)) {
            // As many as the SDK lets wait, `UNRESOLVED_SENDS_MAX`.
            Ok(send) => unresolved.push_back((send, number)),
            Err(error) => self.refused(number, &error),
        }
    }

    /// The number of the next message; none once nobody sends any more. The phase is read under the
    /// judge's lock, so that whoever finds the session settled after the phase has changed has seen
    /// every number.
    fn number(&self, next: impl FnOnce(&mut Judge, usize) -> u32) -> Option<u32> {
        let mut judge = self.group.judge();
        let sends = *self.phase.borrow() == Phase::Playing;
        sends.then(|| next(&mut judge, self.place))
    }

    fn refused(&self, number: u32, error: &Error) {
        self.shared.measures.error(error, "act");
        self.group.judge().rejected(self.place, number);
    }

    fn payload(&self, number: u32) -> Bytes {
        let stamp = Stamp {
            session: self.group.judge().session(),
            sent: self.shared.measures.at(Instant::now()),
            sender: u16::try_from(self.place).unwrap_or(u16::MAX),
            number,
        };
        stamp.payload(PAYLOAD_BYTES)
    }

    /// Tells the judge what came. Breaks at the session's end.
    fn hear(
        &self,
        event: Event,
        unresolved: &mut VecDeque<(SendId, u32)>,
    ) -> std::ops::ControlFlow<()> {
        match event {
            Event::Message {
                mode,
                payload,
                index,
                ..
            } => self.message(mode, &payload, index),
            Event::Committed { send, index } => {
                if let Some(number) = take(unresolved, send) {
                    self.group.judge().committed(self.place, number, index);
                }
            }
            Event::Rejected { send, error } => {
                if let Some(number) = take(unresolved, send) {
                    self.refused(number, &error);
                }
            }
            Event::ReliableGap { .. } => {
                let gap = ErrorCode::ReliableGap.into();
                self.shared.measures.error(&gap, "hear everything");
            }
            Event::Ended { error, .. } => {
                self.shared.measures.error(&error, "stay in its session");
                self.group.judge().gone(self.place);
                self.shared.arrival.notify_one();
                return std::ops::ControlFlow::Break(());
            }
            Event::Reconnecting => tracing::info!(bot = self.number, "a bot reconnects"),
            Event::PeerJoined(_)
            | Event::PeerDropped(_)
            | Event::PeerRejoined(_)
            | Event::PeerLeft { .. }
            | Event::Resumed => {}
        }
        std::ops::ControlFlow::Continue(())
    }

    fn message(&self, mode: Mode, payload: &[u8], index: Option<Index>) {
        let stamp = Stamp::read(payload, PAYLOAD_BYTES);
        let measures = &self.shared.measures;
        let took = stamp.map(|stamp| measures.at(Instant::now()).saturating_sub(stamp.sent));
        self.group.judge().heard(self.place, mode, index, stamp);
        match mode {
            Mode::Ordered => took.into_iter().for_each(|took| measures.ordered(took)),
            Mode::Latest => took.into_iter().for_each(|took| measures.latest(took)),
            // No bot sends any: the judge has seen to it.
            Mode::Reliable | Mode::Datagram => {}
        }
    }

    fn rhythm(&self, period: Duration) -> Interval {
        let first = tokio::time::Instant::now() + period.mul_f64(self.offset);
        let mut interval = tokio::time::interval_at(first, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        interval
    }
}

/// The next beat, while there is a rhythm.
async fn beat(rhythm: &mut Option<Interval>) {
    match rhythm {
        Some(rhythm) => {
            rhythm.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// The number of a send whose outcome came. Outcomes come nearly in order, so it is near the front.
fn take(unresolved: &mut VecDeque<(SendId, u32)>, send: SendId) -> Option<u32> {
    let at = unresolved.iter().position(|(waits, _)| *waits == send)?;
    unresolved.remove(at).map(|(_, number)| number)
}

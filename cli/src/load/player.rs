//! One player: comes in, and listens until it is told to go. What it sends, a pacer sends.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dreamcatcher_client::{Pick, RelayAddress, Sender, Session};
use dreamcatcher_proto::frame::Mode;
use dreamcatcher_proto::member::Event;
use dreamcatcher_proto::{Error, ErrorCode, Index};
use tokio::sync::{mpsc, watch};

use super::Placement;
use super::tally::{Tally, count};
use crate::bots::entrance::{Entrance, Guest, Seated, spread};
use crate::bots::group::Group;
use crate::judge::Stamp;

/// How far the load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Players come in.
    Gathering,
    /// The pacers send, or what they sent arrives.
    Playing,
    Leaving,
}

/// What all players share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) entrance: Entrance,
    pub(super) relays: Vec<RelayAddress>,
    pub(super) placement: Placement,
    pub(super) tally: Arc<Tally>,
    pub(super) bytes: usize,
}

/// One session: its players, and how far apart they are.
#[derive(Debug)]
pub(super) struct Company {
    pub(super) group: Arc<Group>,
    pub(super) players: usize,
    /// Links between relays from each player to each, once all have joined.
    pub(super) hops: OnceLock<Vec<Option<usize>>>,
}

impl Company {
    fn hops(&self, from: usize, to: usize) -> Option<usize> {
        self.hops.get()?.get(from * self.players + to).copied()?
    }
}

/// A player that has joined.
#[derive(Debug)]
pub(super) struct Joined {
    /// Of its session.
    pub(super) group: usize,
    pub(super) place: usize,
    /// In the whole load.
    pub(super) number: usize,
    /// The node that it is connected to.
    pub(super) node: String,
    /// The node that orders the session.
    pub(super) owner: String,
    pub(super) sender: Sender,
}

/// One player.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) shared: Arc<Shared>,
    pub(super) company: Arc<Company>,
    pub(super) number: usize,
    pub(super) place: usize,
    /// When it comes in.
    pub(super) comes: Instant,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) attendance: mpsc::Sender<Result<Joined, Error>>,
}

impl Player {
    /// Everything that a player does.
    pub(super) async fn live(self) {
        let group = &self.company.group;
        let mut phase = self.phase.clone();
        let seated = tokio::select! {
            seated = self.come_in() => seated,
            _ = phase.wait_for(|phase| *phase != Phase::Gathering) => {
                Err(Error::new(ErrorCode::Cancelled, "the others did not wait any longer"))
            }
        };
        if self.place == 0 {
            group.tell(
                seated
                    .as_ref()
                    .ok()
                    .and_then(|seated| seated.session.code()),
            );
        }
        let said = seated.as_ref().map_err(Error::clone).map(|seated| Joined {
            group: group.number,
            place: self.place,
            number: self.number,
            node: seated.client.node().to_string(),
            owner: seated.session.info().owner.to_string(),
            sender: seated.session.sender(),
        });
        // Fails only when the load is gone, and this task with it.
        let _ = self.attendance.send(said).await;
        if let Ok(seated) = seated {
            self.play(seated).await;
        }
    }

    async fn play(&self, seated: Seated) {
        let Seated {
            client,
            mut session,
            connected_in,
            pass,
        } = seated;
        let Shared {
            entrance, tally, ..
        } = &*self.shared;
        tally.measures.connected(connected_in);
        tokio::select! {
            () = self.listen(&mut session) => {}
            () = entrance.renew(&client, &pass) => {}
        }
        tally.seen_by_sdk(&client.stats());
        session.leave().await;
        client.close().await;
    }

    async fn come_in(&self) -> Result<Seated, Error> {
        tokio::time::sleep_until(self.comes.into()).await;
        let relays = &self.shared.relays;
        let (relays, pick) = match self.shared.placement {
            Placement::Spread => {
                let number = self.company.group.number;
                (spread(relays, number, self.place), Pick::Listed)
            }
            Placement::Pinned(_) => (relays.clone(), Pick::Listed),
            Placement::Nearest => (relays.clone(), Pick::Nearest),
        };
        let guest = Guest {
            group: &self.company.group,
            place: self.place,
            number: self.number,
            relays,
            pick,
        };
        self.shared.entrance.enter(guest).await
    }

    /// Hears everything until it is time to leave, or the session's end.
    async fn listen(&self, session: &mut Session) {
        let mut phase = self.phase.clone();
        let leaving = phase.wait_for(|phase| *phase == Phase::Leaving);
        tokio::pin!(leaving);
        loop {
            let mut next = tokio::select! {
                _ = &mut leaving => return,
                event = session.recv() => event,
            };
            while let Some(event) = next {
                if self.hear(event).is_break() {
                    return;
                }
                next = session.poll();
            }
        }
    }

    /// Tells the judge and the tally what came. Breaks at the session's end.
    fn hear(&self, event: Event) -> ControlFlow<()> {
        let Shared { tally, .. } = &*self.shared;
        match event {
            Event::Message {
                mode,
                payload,
                index,
                ..
            } => self.message(mode, &payload, index),
            // The SDK counts what it took as the judge does: in one mode, from 1, without holes.
            Event::Committed { send, index } => {
                let mut judge = self.company.group.judge();
                judge.committed(self.place, send.seq.0, index);
                if judge.is_measured(self.place, send.seq.0) {
                    count(&tally.committed);
                }
            }
            Event::Rejected { send, error } => {
                let mut judge = self.company.group.judge();
                judge.rejected(self.place, send.seq.0);
                if judge.is_measured(self.place, send.seq.0) {
                    count(&tally.rejected);
                }
                drop(judge);
                tally.measures.error(&error, "have a message taken");
            }
            Event::ReliableGap { sender, missed } => {
                let mut judge = self.company.group.judge();
                judge.told_of_gap(self.place, sender, missed);
                drop(judge);
                count(&tally.gaps);
                let gap = ErrorCode::ReliableGap.into();
                tally.measures.error(&gap, "hear everything");
            }
            Event::Reconnecting => {
                count(&tally.reconnects);
                tracing::info!(player = self.number, "a player reconnects");
            }
            Event::Resumed => count(&tally.resumes),
            Event::Ended { error, .. } => {
                if error.code() == ErrorCode::Resync {
                    count(&tally.resyncs);
                }
                tally.measures.error(&error, "stay in its session");
                self.company.group.judge().gone(self.place);
                return ControlFlow::Break(());
            }
            Event::PeerJoined(_)
            | Event::PeerDropped(_)
            | Event::PeerRejoined(_)
            | Event::PeerLeft { .. } => {}
        }
        ControlFlow::Continue(())
    }

    fn message(&self, mode: Mode, payload: &[u8], index: Option<Index>) {
        let Shared { tally, bytes, .. } = &*self.shared;
        let now = tally.measures.at(Instant::now());
        let stamp = Stamp::read(payload, *bytes);
        let is_measured = {
            let mut judge = self.company.group.judge();
            judge.heard(self.place, mode, index, stamp)
        };
        tally.arrived(self.number);
        if let Some(stamp) = stamp.filter(|_| is_measured) {
            let took: Duration = now.saturating_sub(stamp.sent);
            let hops = self.company.hops(usize::from(stamp.sender), self.place);
            tally.took(took, hops);
        }
    }
}

//! The game of one member: it says things at its own pace, and notes everything that it is told.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use dreamcatcher_client::core::{Core, CoreConfig, RelayAddress, Reply};
use dreamcatcher_proto::control::{Grade, JoinBy, SessionOptions};
use dreamcatcher_proto::frame::{Mode, Target};
use dreamcatcher_proto::member::{SendOptions, SessionInfo};
use dreamcatcher_proto::{Error, JoinCode, PeerId};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::history::Fact;
use crate::plan::{PlayerPlan, Roaming};

/// Keys of `Latest` messages that a member uses.
const KEYS: u16 = 2;
/// One message in so many is large: as a datagram it does not fit, on a stream it takes several.
const LARGE_EVERY: u32 = 40;

/// One client and the game that runs on it.
#[derive(Debug)]
pub struct Player {
    pub plan: PlayerPlan,
    /// Its present life, by its number in the history.
    pub life: usize,
    pub core: Core,
    /// Its process stands still.
    pub silent: bool,
    messages: u32,
    rng: ChaCha8Rng,
}

/// What a player saw.
#[derive(Debug)]
pub enum Seen {
    Joined(SessionInfo),
    /// It is not in a session, and what it asked for did not work.
    Refused(Error),
    /// Its client has given up.
    Failed(Error),
    Fact(Fact),
}

/// What every client of a run is given.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The relay that it prefers comes first.
    pub relays: Vec<RelayAddress>,
    pub roaming: Roaming,
    pub token: String,
    pub seed: u64,
}

impl Player {
    /// A player whose client begins to connect.
    pub fn new(plan: PlayerPlan, life: usize, ticket: Ticket, now: Instant) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(ticket.seed);
        let config = CoreConfig {
            relays: ticket.relays,
            pick: ticket.roaming.pick,
            follow_owner: ticket.roaming.follow_owner,
            probing: ticket.roaming.probing,
            token: ticket.token,
            seed: rng.random(),
            segments_max: 8,
            mtu_discovery: true,
        };
        let core = Core::new(config, now).expect("relays are given, with certificates");
        Self {
            plan,
            life,
            core,
            silent: false,
            messages: 0,
            rng,
        }
    }

    /// Asks for its session: by its code, or for a new one if there is none.
    pub fn ask(&mut self, code: Option<JoinCode>, now: Instant) -> Result<(), Error> {
        match code {
            Some(code) => self.core.join(JoinBy::Code(code), String::new(), now),
            None => {
                let options = SessionOptions {
                    grade: Grade::Safe,
                    ..SessionOptions::default()
                };
                self.core.create(options, now)
            }
        }
    }

    /// Starts another life in its session.
    pub fn begin(&mut self, life: usize) {
        self.life = life;
    }

    /// How long it waits before its next message, if it sends `rate` in a second.
    pub fn pause(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(self.rng.random_range(0.5..1.5) / rate)
    }

    /// Says something. `None` if its client refuses.
    pub fn say(&mut self, mode: Mode, now: Instant) -> Option<Fact> {
        let me = self.core.session()?.peer;
        let target = self.target(me);
        let key = if mode == Mode::Latest {
            self.rng.random_range(0..KEYS)
        } else {
            0
        };
        let channel = self.rng.random_range(0..4);
        let payload = self.payload();
        let options = SendOptions {
            mode,
            target,
            channel,
            key,
        };
        let send = self.core.send(options.clone(), payload.clone(), now).ok()?;
        Some(Fact::sent(send, &options, &payload))
    }

    fn target(&mut self, me: PeerId) -> Target {
        let roster: Vec<PeerId> = self.core.roster().map(|member| member.peer).collect();
        match (self.rng.random_range(0..10), roster.choose(&mut self.rng)) {
            (0..5, _) | (_, None) => Target::All,
            (5..8, _) => Target::Others,
            (8, Some(peer)) => Target::Peer(*peer),
            (_, Some(peer)) if *peer == me => Target::Peers(vec![me]),
            (_, Some(peer)) => Target::Peers(vec![me, *peer]),
        }
    }

    /// Bytes that no other message of the run has: who sends it, and its how-many-eth it is.
    fn payload(&mut self) -> Bytes {
        let filler = match self.rng.random_range(0..LARGE_EVERY) {
            0 => 2_000,
            _ => self.rng.random_range(0..120),
        };
        let mut payload = BytesMut::with_capacity(8 + filler);
        payload.put_u32(self.life as u32);
        payload.put_u32(self.messages);
        payload.put_bytes(self.messages as u8, filler);
        self.messages += 1;
        payload.freeze()
    }

    /// The next thing that it is told.
    pub fn see(&mut self) -> Option<Seen> {
        if let Some(reply) = self.core.poll_reply() {
            return match reply {
                Reply::Connected { .. } => self.see(),
                Reply::Failed(error) => Some(Seen::Failed(error)),
                Reply::Joined(info) => Some(Seen::Joined(info)),
                Reply::Refused(error) => Some(Seen::Refused(error)),
            };
        }
        let event = self.core.poll_event()?;
        Some(Seen::Fact(Fact::from(&event)))
    }
}

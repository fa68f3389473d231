//! The same random requests to the pure rules, to memory and to Redis: each answer and each hint has
//! to be the same, also across a lost connection. `DREAMCATCHER_SEED` replays a run.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dreamcatcher_proto::{Epoch, PeerId};
use dreamcatcher_servers::Redis;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::until;
use crate::conformance::{holder, listing, new_session, node, session};
use crate::redis::{RedisConfig, RedisDirectory};
use crate::{
    Change, Directory, DirectoryError, Filter, Hint, Holder, Load, MemoryDirectory, NewSession,
    NodeRecord, Renewal, Reply, Request, SessionRecord, Table, Timestamp, View, Watch, limits,
};

const SEEDS: u64 = 20;
const STEPS: u64 = 400;
const START_US: u64 = 1_700_000_000_000_000;

#[tokio::test]
async fn random_requests_have_the_same_answers_from_the_rules_memory_and_redis() {
    let redis = Redis::start();
    let seeds: Vec<u64> = match std::env::var("DREAMCATCHER_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).map(|_| rand::random()).collect(),
    };
    for (run, seed) in seeds.into_iter().enumerate() {
        println!("DREAMCATCHER_SEED={seed}");
        Three::start(&redis, run, seed).run(&redis).await;
    }
}

/// Three directories that see the same times and the same random words.
struct Three {
    rng: StdRng,
    now_us: Arc<AtomicU64>,
    /// Which words are drawn: a repeated request draws the same.
    draw: Arc<AtomicU64>,
    table: Table,
    memory: MemoryDirectory,
    redis: RedisDirectory,
    memory_hints: Watch,
    redis_hints: Watch,
}

impl Three {
    fn start(redis: &Redis, run: usize, seed: u64) -> Self {
        let now_us = Arc::new(AtomicU64::new(START_US));
        let draw = Arc::new(AtomicU64::new(0));
        let clock = || {
            let now_us = Arc::clone(&now_us);
            move || Timestamp(now_us.load(Ordering::Relaxed))
        };
        let mut config = RedisConfig::new(&redis.url());
        config.prefix = format!("run-{run}");
        let memory = MemoryDirectory::new(clock(), words(&draw));
        let redis = RedisDirectory::start_with(&config, clock(), words(&draw)).unwrap();
        Self {
            rng: StdRng::seed_from_u64(seed),
            table: Table::new(words(&draw)),
            memory_hints: memory.watch(),
            redis_hints: redis.watch(),
            memory,
            redis,
            now_us,
            draw,
        }
    }

    async fn run(mut self, redis: &Redis) {
        until("Redis is there", async || self.redis.check().await.is_ok()).await;
        // All of them know the same time before the clock is first set back.
        self.ask(0, Request::Nodes, "the first").await;
        for step in 0..STEPS {
            if step == STEPS / 2 {
                assert_ne!(redis.cli(&["client", "kill", "type", "pubsub"]), "0");
            }
            let request = self.request();
            let asked = format!("step {step}: {request:?}");
            self.ask(step, request, &asked).await;
        }
    }

    async fn ask(&mut self, step: u64, request: Request, asked: &str) {
        let now = Timestamp(self.now_us.load(Ordering::Relaxed));
        // The low bits count repetitions.
        self.draw.store(step << 32, Ordering::Relaxed);
        let expected = self.table.apply(request.clone(), now);
        let changes: Vec<Change> = std::iter::from_fn(|| self.table.poll_change()).collect();
        assert_eq!(self.memory.call(request.clone()).await, expected, "{asked}");
        assert_eq!(heard(&mut self.memory_hints), changes, "{asked}");

        let mut answer = None;
        until("Redis answers", async || {
            // The connection was cut before the request came through: it is asked again.
            answer = Some(self.redis.call(request.clone()).await);
            self.draw.fetch_add(1, Ordering::Relaxed);
            !matches!(answer, Some(Err(DirectoryError::Unavailable { .. })))
        })
        .await;
        assert_eq!(answer, Some(expected), "{asked}");
        assert_eq!(heard(&mut self.redis_hints), changes, "{asked}");
    }

    fn request(&mut self) -> Request {
        let id = session(self.rng.random_range(1..6));
        let known = self.known(id);
        let epoch = known.as_ref().map_or(Epoch(1), |record| {
            if self.rarely() {
                Epoch(record.view.epoch.0 - 1)
            } else {
                record.view.epoch
            }
        });
        match self.rng.random_range(0..24) {
            0..3 => self.elapse(),
            3..6 => Request::Register(NodeRecord {
                mesh_id: 1 + u64::from(self.rarely()),
                address: ([192, 0, 2, 1 + u8::from(self.rarely())], 4433).into(),
                draining: self.rarely(),
                load: self.load(),
                ..node(&self.run_of_a_node())
            }),
            6..8 => Request::Renew(Renewal {
                holder: self.run_of_a_node(),
                load: self.load(),
                draining: self.rarely(),
                certificate_sha256: vec![[self.rng.random_range(0..2); 32]],
            }),
            8 if self.rarely() => Request::Deregister(self.run_of_a_node()),
            9 => Request::Drain {
                node: self.run_of_a_node().node,
                wanted: self.rng.random(),
            },
            10 if self.rarely() => Request::PublishKeys(format!("{{\"keys\":[{}]}}", id)),
            11 => Request::Keys,
            8..14 => {
                let Request::CreateSession(new) = new_session(id.0[0], &self.run_of_a_node())
                else {
                    unreachable!()
                };
                Request::CreateSession(NewSession {
                    with_code: self.rng.random(),
                    listing: new.listing.filter(|_| self.rng.random()),
                    ..new
                })
            }
            14 => known
                .and_then(|record| record.code)
                .map_or(Request::Session(id), Request::Code),
            15 => Request::RotateCode { id, epoch },
            16 => Request::RevokeCode { id, epoch },
            17 => Request::RaiseBallot {
                id,
                expected: known.as_ref().map_or(epoch, |record| record.ballot),
                promised: if self.rarely() {
                    Epoch(u64::MAX)
                } else {
                    epoch
                },
            },
            18 | 19 => self.install(id, known),
            20 => match known {
                Some(record) => Request::Restore(SessionRecord {
                    id: if self.rarely() { session(9) } else { id },
                    ..record
                }),
                None => Request::Session(id),
            },
            21 => Request::Assert {
                id,
                epoch,
                listing: listing("é\"\\\u{7}…"),
            },
            22 => Request::ListSessions(Filter {
                region: Some("eu".to_owned()).filter(|_| self.rng.random()),
                app_version: Some("1".to_owned()).filter(|_| self.rng.random()),
                open_seats: self.rng.random_range(0..9),
                unlisted: self.rng.random(),
                after: Some(id).filter(|_| self.rng.random()),
                limit: self.rng.random_range(1..4),
            }),
            _ => Request::CloseSession { id, epoch },
        }
    }

    fn elapse(&mut self) -> Request {
        if self.rarely() {
            let back_us = self.rng.random_range(0..100_000_000);
            self.now_us.fetch_sub(back_us, Ordering::Relaxed);
            return Request::Nodes;
        }
        let ms = match self.rng.random_range(0..8) {
            0..4 => self.rng.random_range(0..1_000),
            4..7 => self.rng.random_range(0..20_000),
            _ => self.rng.random_range(0..70_000),
        };
        let term_us = Duration::from_millis(ms).as_micros() as u64;
        self.now_us.fetch_add(term_us, Ordering::Relaxed);
        Request::Nodes
    }

    fn install(
        &mut self,
        id: dreamcatcher_proto::SessionId,
        known: Option<SessionRecord>,
    ) -> Request {
        let Some(record) = known else {
            return Request::Session(id);
        };
        let owner = if self.rng.random() {
            self.run_of_a_node()
        } else {
            record.view.owner.clone()
        };
        let ballot = if self.rarely() {
            record.view.epoch
        } else {
            record.ballot
        };
        let nonce = if owner == record.view.owner {
            record.view.nonce
        } else {
            self.rng.random()
        };
        let view = View {
            epoch: ballot,
            nonce,
            standby: Some(self.run_of_a_node()).filter(|_| self.rng.random()),
            anchors: (0..self.rng.random_range(0..3))
                .map(|_| PeerId(self.rng.random()))
                .collect(),
            owner,
        };
        Request::InstallView { id, ballot, view }
    }

    /// What the rules hold of the session, without asking them.
    fn known(&mut self, id: dreamcatcher_proto::SessionId) -> Option<SessionRecord> {
        let now = Timestamp(self.now_us.load(Ordering::Relaxed));
        match self.table.apply(Request::Session(id), now) {
            Ok(Reply::Session(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    fn run_of_a_node(&mut self) -> Holder {
        let name = ["a", "b", "c-1"][self.rng.random_range(0..3)];
        holder(name, self.rng.random_range(1..4))
    }

    fn load(&mut self) -> Load {
        Load {
            sessions: self.rng.random_range(0..2),
            clients: 0,
        }
    }

    fn rarely(&mut self) -> bool {
        self.rng.random_bool(0.2)
    }
}

/// Random words that depend only on which draw it is, and start anew with each.
fn words(draw: &Arc<AtomicU64>) -> impl FnMut() -> u32 + Send + Sync + 'static {
    let draw = Arc::clone(draw);
    let (mut last, mut rng) = (u64::MAX, StdRng::seed_from_u64(0));
    move || {
        let present = draw.load(Ordering::Relaxed);
        if present != last {
            last = present;
            rng = StdRng::seed_from_u64(present >> 32);
        }
        rng.random()
    }
}

fn heard(watch: &mut Watch) -> Vec<Change> {
    let hints = std::iter::from_fn(|| watch.try_next());
    hints
        .filter_map(|hint| match hint {
            Hint::Changed(change) => Some(change),
            Hint::Missed(_) => None,
        })
        .collect()
}

#[tokio::test]
async fn a_thousand_sessions_leave_nothing_behind() {
    let redis = Redis::start();
    let now_us = Arc::new(AtomicU64::new(START_US));
    let clock = Arc::clone(&now_us);
    let clock = move || Timestamp(clock.load(Ordering::Relaxed));
    let config = RedisConfig::new(&redis.url());
    let directory = RedisDirectory::start_with(&config, clock, rand::random::<u32>).unwrap();
    let owner = holder("a", 1);
    assert_eq!(
        directory.call(Request::Register(node(&owner))).await,
        Ok(Reply::Done)
    );
    for number in 1..=1_000_u128 {
        let Request::CreateSession(new) = new_session(1, &owner) else {
            unreachable!()
        };
        let id = dreamcatcher_proto::SessionId(number.to_be_bytes());
        let create = Request::CreateSession(NewSession { id, ..new });
        let Ok(Reply::Created { epoch, .. }) = directory.call(create).await else {
            panic!("session {number} was not created")
        };
        // The others end with their owner.
        if number % 2 == 0 {
            let close = Request::CloseSession { id, epoch };
            assert_eq!(directory.call(close).await, Ok(Reply::Done));
        }
    }
    let keys = Request::PublishKeys("{}".to_owned());
    assert_eq!(directory.call(keys).await, Ok(Reply::Done));
    let last_of = |count: &str| redis.cli(&["zrange", "{dreamcatcher}:owned", count, count]);
    assert!(!last_of("499").is_empty() && last_of("500").is_empty());
    assert_eq!(
        directory.call(Request::Deregister(owner)).await,
        Ok(Reply::Done)
    );
    now_us.fetch_add(limits::ORPHAN_TTL.as_micros() as u64, Ordering::Relaxed);
    until("it has forgotten the run", async || {
        directory.check().await.unwrap();
        redis.cli(&["dbsize"]) == "2"
    })
    .await;
    let mut left: Vec<String> = redis
        .cli(&["keys", "*"])
        .lines()
        .map(str::to_owned)
        .collect();
    left.sort();
    assert_eq!(left, ["{dreamcatcher}:jwks", "{dreamcatcher}:meta"]);
}

//! What only the table itself can show; the rules that hold for every backend are in
//! [`crate::conformance`].

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::conformance::{holder, listing, new_session, node, session};
use crate::nodes::Nodes;
use crate::record::Load;

const START: Timestamp = Timestamp(1_700_000_000_000_000);

#[test]
fn epochs_rise_within_one_microsecond_and_when_the_clock_is_set_back() {
    let mut table = table();
    let mut last = Epoch::default();
    for now in [START, START, Timestamp(START.0 - 1_000_000), Timestamp(0)] {
        let epoch = create(&mut table, 1, now);
        assert!(epoch > last, "{epoch} after {last} at {now:?}");
        close(&mut table, 1, epoch, now);
        last = epoch;
    }
}

#[test]
fn a_clock_that_is_set_back_shortens_no_lease() {
    let mut table = table();
    register(&mut table, START);
    register(&mut table, Timestamp(START.0 - 3_600_000_000));
    let near_the_end = START.after(limits::NODE_LEASE - Duration::from_millis(1));
    let alive = Ok(Reply::Nodes(vec![node(&holder("a", 1))]));
    assert_eq!(table.apply(Request::Nodes, near_the_end), alive);
}

#[test]
fn what_is_due_is_due_on_the_clock_that_was_set_back() {
    let mut table = table();
    register(&mut table, START);
    assert_eq!(table.next_expiry(), Some(START.after(limits::NODE_LEASE)));
    let back = Timestamp(START.0 - 600_000_000);
    table.expire(back);
    let due = back.after(limits::NODE_LEASE);
    assert_eq!(table.next_expiry(), Some(due));
    table.expire(Timestamp(due.0 - 1));
    assert_eq!(table.live.len(), 1);
    table.expire(due);
    assert_eq!(table.live.len(), 0);
}

#[test]
fn epochs_rise_after_the_table_forgot() {
    let later = START.after(Duration::from_secs(1));
    let before = create(&mut table(), 1, START);
    let after = create(&mut table(), 1, later);
    assert!(after > before);
    assert_eq!(
        after,
        Epoch(later.0),
        "an epoch is the clock, unless that has to be exceeded"
    );
}

#[test]
fn a_table_that_draws_only_taken_codes_says_that_it_is_full() {
    let mut table = Table::new(|| 0);
    register(&mut table, START);
    create(&mut table, 1, START);
    let refused = table.apply(new_session(2, &holder("a", 1)), START);
    assert!(
        matches!(
            refused,
            Err(DirectoryError::Full {
                what: "join codes",
                ..
            })
        ),
        "{refused:?}"
    );
    let found = table.apply(Request::Session(session(2)), START);
    assert_eq!(found, Ok(Reply::Session(None)), "whole or not at all");
}

#[test]
fn a_node_that_restarts_without_end_fills_the_table_only_to_its_limit() {
    let mut table = table();
    for boot in 1..=limits::RUNS_MAX as u64 {
        let registered = table.apply(Request::Register(node(&holder("a", boot))), START);
        assert_eq!(registered, Ok(Reply::Done), "run {boot}");
    }
    let next = Request::Register(node(&holder("a", 0)));
    let full = DirectoryError::Full {
        what: "runs of nodes",
        max: limits::RUNS_MAX,
    };
    assert_eq!(table.apply(next.clone(), START), Err(full));
    assert_eq!(
        table.apply(next, START.after(limits::ORPHAN_TTL)),
        Ok(Reply::Done)
    );
}

#[test]
fn a_list_looks_at_a_bounded_number_of_sessions_and_still_comes_to_its_end() {
    let mut table = table();
    register(&mut table, START);
    let count = limits::LIST_SCAN_MAX + 1;
    for number in 1..=count {
        let id = SessionId((number as u128).to_be_bytes());
        let listing = Listing {
            app_version: if number == count { "rare" } else { "1" }.to_owned(),
            ..listing("a session")
        };
        let owner = holder("a", 1);
        let new = NewSession {
            id,
            home_region: "eu".to_owned(),
            owner,
            listing: Some(listing),
            with_code: false,
        };
        table
            .apply(Request::CreateSession(new), START)
            .unwrap_or_else(|e| panic!("{e}"));
    }
    let rare = Filter {
        app_version: Some("rare".to_owned()),
        limit: 1,
        ..Filter::default()
    };
    let first = table.page(&rare).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(first.sessions, []);
    let second = table.page(&Filter {
        after: first.next,
        ..rare
    });
    let second = second.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((second.sessions.len(), second.next), (1, None));
}

proptest! {
    /// Whatever is asked in whatever order, after every step the table is whole, and a view that
    /// follows its hints and reads it now and then knows the same nodes.
    #[test]
    fn the_table_is_whole_after_every_step(steps in prop::collection::vec(step(), 1..120)) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
            history.check();
        }
        let mut again = History::new();
        for step in &steps {
            again.take(step);
            again.check();
        }
        prop_assert_eq!(format!("{:?}", history.table), format!("{:?}", again.table));
    }
}

/// What a random run does next. Nodes, runs and sessions are few, so that they collide.
#[derive(Clone, Debug)]
enum Step {
    Elapse { ms: u64 },
    Register { run: (u8, u64), draining: bool },
    Renew { run: (u8, u64), sessions: u32 },
    Deregister { run: (u8, u64) },
    Drain { node: u8, wanted: bool },
    PublishKeys { number: u8 },
    Create { id: u8, run: (u8, u64) },
    Raise { id: u8, stale: bool },
    Install { id: u8, run: (u8, u64), stale: bool },
    Restore { id: u8 },
    Rotate { id: u8 },
    Revoke { id: u8 },
    Assert { id: u8, stale: bool },
    Close { id: u8 },
    BeginRead,
    FinishRead,
}

fn step() -> impl Strategy<Value = Step> {
    let run = || (0..3_u8, 1..4_u64);
    let id = || 1..4_u8;
    let rarely = || prop::bool::weighted(0.2);
    prop_oneof![
        4 => prop_oneof![8 => 0..2_000_u64, 8 => 0..70_000_u64, 1 => 0..100_000_000_u64].prop_map(|ms| Step::Elapse { ms }),
        4 => (run(), any::<bool>()).prop_map(|(run, draining)| Step::Register { run, draining }),
        3 => (run(), 0..3_u32).prop_map(|(run, sessions)| Step::Renew { run, sessions }),
        1 => run().prop_map(|run| Step::Deregister { run }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(node, wanted)| Step::Drain { node, wanted }),
        1 => any::<u8>().prop_map(|number| Step::PublishKeys { number }),
        4 => (id(), run()).prop_map(|(id, run)| Step::Create { id, run }),
        3 => (id(), rarely()).prop_map(|(id, stale)| Step::Raise { id, stale }),
        3 => (id(), run(), rarely()).prop_map(|(id, run, stale)| Step::Install { id, run, stale }),
        1 => id().prop_map(|id| Step::Restore { id }),
        1 => id().prop_map(|id| Step::Rotate { id }),
        1 => id().prop_map(|id| Step::Revoke { id }),
        2 => (id(), rarely()).prop_map(|(id, stale)| Step::Assert { id, stale }),
        1 => id().prop_map(|id| Step::Close { id }),
        1 => Just(Step::BeginRead),
        1 => Just(Step::FinishRead),
    ]
}

/// A table under random requests, and what was seen of it.
struct History {
    table: Table,
    now: Timestamp,
    /// The last record seen of each session, also of one that was closed since.
    seen: BTreeMap<SessionId, SessionRecord>,
    /// Who ruled under each epoch.
    reigns: BTreeMap<(SessionId, Epoch), (u64, Holder)>,
    asserted_at: BTreeMap<SessionId, Timestamp>,
    /// Of which runs an operator wished last that they drain.
    drained: BTreeSet<Holder>,
    published: Option<(String, Timestamp)>,
    view: Nodes,
    read: Option<Vec<NodeRecord>>,
    clock: Instant,
}

impl History {
    fn new() -> Self {
        Self {
            table: table(),
            now: START,
            seen: BTreeMap::new(),
            reigns: BTreeMap::new(),
            asserted_at: BTreeMap::new(),
            drained: BTreeSet::new(),
            published: None,
            view: Nodes::new(),
            read: None,
            clock: Instant::now(),
        }
    }

    fn take(&mut self, step: &Step) {
        match self.request(step) {
            Some(request) => self.ask(request),
            None => self.table.expire(self.now),
        }
        while let Some(change) = self.table.poll_change() {
            self.view.hear(change);
        }
    }

    fn ask(&mut self, request: Request) {
        let mut asserts = None;
        if let Request::Assert { id, .. } | Request::CreateSession(NewSession { id, .. }) = &request
        {
            asserts = Some(*id);
        } else if let Request::Restore(SessionRecord {
            id,
            listing: Some(_),
            ..
        }) = &request
        {
            asserts = Some(*id);
        }
        if let Request::PublishKeys(document) = &request {
            self.published = Some((document.clone(), self.now));
        }
        let mut drain = None;
        if let Request::Drain { node, wanted } = &request {
            drain = Some((node.clone(), *wanted));
        }
        let reply = self.table.apply(request, self.now);
        if let (Some((node, wanted)), Ok(Reply::Done)) = (drain, &reply) {
            let run = self.table.live[&node].record.holder();
            if wanted {
                self.drained.insert(run);
            } else {
                self.drained.remove(&run);
            }
        }
        if let (Some(id), Ok(Reply::Done | Reply::Created { .. } | Reply::Session(_))) =
            (asserts, &reply)
        {
            self.asserted_at.insert(id, self.now);
        }
        if let Ok(Reply::Created { epoch, .. }) = reply {
            let earlier = self.reigns.keys().map(|(_, epoch)| *epoch).max();
            assert!(Some(epoch) > earlier, "a new session has a new epoch");
        }
    }

    /// The request that `step` amounts to now.
    fn request(&mut self, step: &Step) -> Option<Request> {
        let run = |(name, boot): (u8, u64)| holder(["a", "b", "c"][usize::from(name)], boot);
        let known = |id: u8| self.seen.get(&session(id)).cloned();
        let held = |id: u8| known(id).map(|record| (record.id, record.view.epoch));
        match *step {
            Step::Elapse { ms } => {
                self.now = self.now.after(Duration::from_millis(ms));
                None
            }
            Step::Register { run: of, draining } => Some(Request::Register(NodeRecord {
                draining,
                ..node(&run(of))
            })),
            Step::Renew { run: of, sessions } => Some(Request::Renew(Renewal {
                holder: run(of),
                load: Load {
                    sessions,
                    clients: 0,
                },
                draining: false,
                certificate_sha256: vec![],
            })),
            Step::Deregister { run: of } => Some(Request::Deregister(run(of))),
            Step::Drain { node, wanted } => Some(Request::Drain {
                node: run((node, 1)).node,
                wanted,
            }),
            Step::PublishKeys { number } => {
                Some(Request::PublishKeys(format!("{{\"keys\":[{number}]}}")))
            }
            Step::Create { id, run: of } => Some(new_session(id, &run(of))),
            Step::Raise { id, stale } => known(id).map(|record| Request::RaiseBallot {
                id: record.id,
                expected: if stale {
                    record.view.epoch
                } else {
                    record.ballot
                },
                promised: record.ballot,
            }),
            Step::Install { id, run: of, stale } => known(id).map(|record| {
                let epoch = if stale {
                    record.view.epoch
                } else {
                    record.ballot
                };
                let view = View {
                    epoch,
                    nonce: of.1,
                    owner: run(of),
                    ..record.view
                };
                Request::InstallView {
                    id: record.id,
                    ballot: epoch,
                    view,
                }
            }),
            Step::Restore { id } => known(id).map(Request::Restore),
            Step::Rotate { id } => held(id).map(|(id, epoch)| Request::RotateCode { id, epoch }),
            Step::Revoke { id } => held(id).map(|(id, epoch)| Request::RevokeCode { id, epoch }),
            Step::Assert { id, stale } => held(id).map(|(id, epoch)| {
                let epoch = if stale { Epoch(epoch.0 - 1) } else { epoch };
                Request::Assert {
                    id,
                    epoch,
                    listing: listing("asserted"),
                }
            }),
            Step::Close { id } => held(id).map(|(id, epoch)| Request::CloseSession { id, epoch }),
            Step::BeginRead => {
                self.view.begin_read();
                self.read = Some(self.table.live.values().map(|l| l.record.clone()).collect());
                None
            }
            Step::FinishRead => {
                if let Some(records) = self.read.take() {
                    self.view.finish_read(records, self.clock);
                }
                None
            }
        }
    }

    fn check(&mut self) {
        let table = &self.table;
        let terms = table.live.len() + table.ended.len() + table.listed.len();
        assert_eq!(table.due.len(), terms, "each term ends once");
        assert!(
            table.next_expiry().is_none_or(|at| at > self.now),
            "what is over has ended"
        );

        // A wish ends with the lease, also where the same run comes back.
        self.drained.retain(|run| table.is_live(run));
        for lease in table.live.values() {
            let wanted = self.drained.contains(&lease.record.holder());
            assert_eq!(lease.record.drain_wanted, wanted, "an operator's wish");
        }
        let kept = self.published.as_ref();
        let kept = kept.filter(|(_, at)| self.now.since(*at) < limits::KEYS_TTL);
        assert_eq!(table.keys(), kept.map(|(document, _)| document.clone()));

        let live: Vec<_> = table.live.values().map(|lease| &lease.record).collect();
        assert!(self.view.iter().eq(live), "the cached view follows");
        for holder in table.ended.keys() {
            assert!(!table.is_live(holder), "{holder} has ended");
        }

        let coded: BTreeMap<_, _> = table
            .sessions
            .iter()
            .filter_map(|(id, s)| Some((s.record.code?, *id)))
            .collect();
        assert_eq!(
            coded, table.codes,
            "a code leads to its session, and to no other"
        );

        for (id, Session { record, .. }) in &table.sessions {
            let owner = &record.view.owner;
            assert!(
                table.is_live(owner) || table.ended.contains_key(owner),
                "{owner} is unknown"
            );
            assert!(record.view.epoch <= record.ballot);
            if let Some(before) = self.seen.get(id) {
                assert!(before.ballot <= record.ballot, "a ballot fell");
                assert!(before.view.epoch <= record.view.epoch, "an epoch fell");
            }
            let reign = (record.view.nonce, owner.clone());
            let known = self
                .reigns
                .entry((*id, record.view.epoch))
                .or_insert(reign.clone());
            assert_eq!(*known, reign, "an epoch has one owner");

            assert_eq!(record.listing.is_some(), table.listed.contains(id));
            if record.listing.is_some() {
                let age = self.now.since(self.asserted_at[id]);
                assert!(age < limits::LISTING_LEASE, "listed for {age:?}");
            }
            self.seen.insert(*id, record.clone());
        }
    }
}

fn table() -> Table {
    let mut word = 0_u32;
    Table::new(move || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word
    })
}

fn register(table: &mut Table, now: Timestamp) {
    let registered = table.apply(Request::Register(node(&holder("a", 1))), now);
    assert_eq!(registered, Ok(Reply::Done));
}

fn create(table: &mut Table, seed: u8, now: Timestamp) -> Epoch {
    register(table, now);
    match table.apply(new_session(seed, &holder("a", 1)), now) {
        Ok(Reply::Created { epoch, .. }) => epoch,
        other => panic!("{other:?}"),
    }
}

fn close(table: &mut Table, seed: u8, epoch: Epoch, now: Timestamp) {
    let closed = table.apply(
        Request::CloseSession {
            id: session(seed),
            epoch,
        },
        now,
    );
    assert_eq!(closed, Ok(Reply::Done));
}

//! The cached view of the live nodes: who is alive, and who should own a session.
//!
//! ```text
//!  Hint::Changed ──hear──▶┐                      ┌─▶ owner, owners, place (a ring per region)
//!  Hint::Missed ──missed─▶├─ Nodes, by id ───────┼─▶ node, is_alive
//!  Reply::Nodes ─finish──▶┘  (as of its age)     └─▶ needs_read, staleness
//! ```
//!
//! It outlives the directory: while that is away the last known nodes stay, and only grow old.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use consistenthash::{Node, Ring};
use dreamcatcher_proto::{NodeId, SessionId};

use crate::limits;
use crate::record::{Change, Holder, NodeRecord};

/// Live nodes, as far as is known.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// By id.
    records: Vec<NodeRecord>,
    /// Nodes that take sessions, by region; never empty.
    regions: BTreeMap<String, Ring>,
    /// Nodes that take sessions, of every region.
    everywhere: Ring,
    read: Read,
    confirmed_at: Option<Instant>,
    hints_missed: u64,
    reads: u64,
}

/// Where the reading of all nodes stands.
#[derive(Clone, Debug, Default)]
enum Read {
    /// Hints were lost, or nothing was read yet.
    #[default]
    Needed,
    /// Asked for; what came meanwhile may be younger than the answer.
    UnderWay {
        heard: Vec<Change>,
        missed: bool,
    },
    Complete,
}

/// How far the view can be from the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staleness {
    /// Since all nodes were last read; `None` if they never were.
    pub age: Option<Duration>,
    /// Hints known to be lost, so far.
    pub hints_missed: u64,
    /// Complete reads, so far.
    pub reads: u64,
}

impl Nodes {
    /// Knows nobody, and needs to read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The live nodes, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &NodeRecord> {
        self.records.iter()
    }

    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&NodeRecord> {
        self.find(id.as_str())
    }

    /// Whether this very run of a node is alive.
    #[must_use]
    pub fn is_alive(&self, holder: &Holder) -> bool {
        self.node(&holder.node)
            .is_some_and(|record| record.boot == holder.boot)
    }

    /// Who should own `session`: the ring's first choice in its region, or anywhere if no node of
    /// the region takes sessions. A guess: the session's record is the truth.
    #[must_use]
    pub fn owner(&self, session: SessionId, region: &str) -> Option<&NodeRecord> {
        self.find(&self.ring(region).owner(&session.0)?.id)
    }

    /// The ring's first choices on `n` different hosts: the owner, then who can stand by.
    #[must_use]
    pub fn owners(&self, session: SessionId, region: &str, n: usize) -> Vec<&NodeRecord> {
        let ranked = self.ring(region).owners_on_distinct_hosts(&session.0, n);
        ranked
            .into_iter()
            .filter_map(|node| self.find(&node.id))
            .collect()
    }

    /// Who should be given the new `session`: the ring's first choice with room left, so that no
    /// node owns more than 1.25 times its share.
    #[must_use]
    pub fn place(&self, session: SessionId, region: &str) -> Option<&NodeRecord> {
        let sessions = |node: &Node| {
            self.find(&node.id)
                .map_or(0, |record| u64::from(record.load.sessions))
        };
        self.find(&self.ring(region).place(&session.0, sessions)?.id)
    }

    /// Takes a hint; says which nodes came, changed or went by it.
    pub fn hear(&mut self, change: Change) -> Vec<Change> {
        if let Read::UnderWay { heard, missed } = &mut self.read {
            if heard.len() < limits::HINTS_HELD_MAX {
                heard.push(change.clone());
            } else {
                *missed = true;
            }
        }
        let mut news = Vec::new();
        self.follow(change, &mut news);
        news
    }

    /// Hints were lost, at least this many.
    pub fn missed(&mut self, hints: u64) {
        self.hints_missed = self.hints_missed.saturating_add(hints);
        match &mut self.read {
            Read::UnderWay { missed, .. } => *missed = true,
            Read::Needed | Read::Complete => self.read = Read::Needed,
        }
    }

    /// Whether to read all nodes now.
    #[must_use]
    pub fn needs_read(&self, now: Instant) -> bool {
        self.poll_timeout(now).is_some_and(|at| at <= now)
    }

    /// When to read all nodes; `None` while that is under way.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        match (&self.read, self.confirmed_at) {
            (Read::UnderWay { .. }, _) => None,
            (Read::Complete, Some(at)) => Some(at + limits::NODES_REREAD_EVERY),
            (Read::Needed, _) | (Read::Complete, None) => Some(now),
        }
    }

    /// All nodes have been asked for.
    pub fn begin_read(&mut self) {
        self.read = Read::UnderWay {
            heard: Vec::new(),
            missed: false,
        };
    }

    /// They did not come.
    pub fn abandon_read(&mut self) {
        self.read = Read::Needed;
    }

    /// They came; says which nodes came, changed or went. Hints that were heard since the read began
    /// prevail over it, because it may be older.
    pub fn finish_read(&mut self, records: Vec<NodeRecord>, now: Instant) -> Vec<Change> {
        let (heard, missed) = match std::mem::take(&mut self.read) {
            Read::UnderWay { heard, missed } => (heard, missed),
            Read::Needed | Read::Complete => (Vec::new(), false),
        };
        self.read = if missed { Read::Needed } else { Read::Complete };
        self.confirmed_at = Some(now);
        self.reads += 1;
        self.replace(records, heard)
    }

    #[must_use]
    pub fn staleness(&self, now: Instant) -> Staleness {
        Staleness {
            age: self
                .confirmed_at
                .map(|at| now.saturating_duration_since(at)),
            hints_missed: self.hints_missed,
            reads: self.reads,
        }
    }
}

impl Nodes {
    /// Moves to `records` as amended by `heard`.
    fn replace(&mut self, records: Vec<NodeRecord>, heard: Vec<Change>) -> Vec<Change> {
        let mut next: BTreeMap<NodeId, NodeRecord> = records
            .into_iter()
            .map(|record| (record.id.clone(), record))
            .collect();
        for change in heard {
            match change {
                Change::NodeUp(record) | Change::NodeChanged(record) => {
                    next.insert(record.id.clone(), record);
                }
                Change::NodeGone(holder) => {
                    if next
                        .get(&holder.node)
                        .is_some_and(|record| record.boot == holder.boot)
                    {
                        next.remove(&holder.node);
                    }
                }
                Change::SessionMoved { .. } | Change::SessionClosed(_) => {}
            }
        }
        let mut news = Vec::new();
        let gone: Vec<_> = self
            .iter()
            .filter(|r| !next.contains_key(&r.id))
            .map(NodeRecord::holder)
            .collect();
        for holder in gone {
            self.follow(Change::NodeGone(holder), &mut news);
        }
        for record in next.into_values() {
            self.follow(Change::NodeChanged(record), &mut news);
        }
        news
    }

    /// Follows one change, and adds what it amounts to for what was known before.
    fn follow(&mut self, change: Change, news: &mut Vec<Change>) {
        match change {
            Change::NodeUp(record) | Change::NodeChanged(record) => self.put(record, news),
            Change::NodeGone(holder) => {
                if self.is_alive(&holder) {
                    self.take(&holder.node);
                    news.push(Change::NodeGone(holder));
                }
            }
            Change::SessionMoved { .. } | Change::SessionClosed(_) => {}
        }
    }

    fn put(&mut self, record: NodeRecord, news: &mut Vec<Change>) {
        match self.position(record.id.as_str()) {
            Ok(at) if self.records[at] == record => {}
            Ok(at) => {
                let old = std::mem::replace(&mut self.records[at], record.clone());
                if seat(&old) != seat(&record) {
                    self.leave_rings(&old);
                    self.enter_rings(&record);
                }
                if old.boot == record.boot {
                    news.push(Change::NodeChanged(record));
                } else {
                    news.extend([Change::NodeGone(old.holder()), Change::NodeUp(record)]);
                }
            }
            Err(at) => {
                self.enter_rings(&record);
                self.records.insert(at, record.clone());
                news.push(Change::NodeUp(record));
            }
        }
    }

    fn take(&mut self, id: &NodeId) {
        if let Ok(at) = self.position(id.as_str()) {
            let old = self.records.remove(at);
            self.leave_rings(&old);
        }
    }

    fn enter_rings(&mut self, record: &NodeRecord) {
        if record.draining {
            return;
        }
        let node = Node {
            id: record.id.to_string(),
            weight: record.capacity,
            host: record.host.clone(),
        };
        // Refused only beyond what a directory holds, or with a weight that no record has: such a
        // node is known, and is given nothing.
        if self.everywhere.insert(node.clone()).is_ok() {
            let _ = self
                .regions
                .entry(record.region.clone())
                .or_default()
                .insert(node);
        }
    }

    fn leave_rings(&mut self, record: &NodeRecord) {
        self.everywhere.remove(record.id.as_str());
        if let Some(ring) = self.regions.get_mut(&record.region) {
            ring.remove(record.id.as_str());
            if ring.is_empty() {
                self.regions.remove(&record.region);
            }
        }
    }

    fn ring(&self, region: &str) -> &Ring {
        self.regions.get(region).unwrap_or(&self.everywhere)
    }

    fn find(&self, id: &str) -> Option<&NodeRecord> {
        self.position(id).ok().map(|at| &self.records[at])
    }

    fn position(&self, id: &str) -> Result<usize, usize> {
        self.records
            .binary_search_by(|record| record.id.as_str().cmp(id))
    }
}

/// What decides a node's place in the rings.
fn seat(record: &NodeRecord) -> (&str, &str, u32, bool) {
    (
        &record.region,
        &record.host,
        record.capacity,
        record.draining,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{holder, node, session};

    #[test]
    fn a_session_falls_to_its_region_and_elsewhere_only_if_that_is_empty() {
        let mut nodes = Nodes::new();
        assert_eq!(nodes.owner(session(1), "eu"), None);
        nodes.hear(Change::NodeUp(within("us", "u")));
        assert_eq!(owner(&nodes, "eu"), Some("u"));
        nodes.hear(Change::NodeUp(within("eu", "e")));
        assert_eq!(
            (owner(&nodes, "eu"), owner(&nodes, "us")),
            (Some("e"), Some("u"))
        );
        nodes.hear(Change::NodeGone(holder("e", 1)));
        assert_eq!(owner(&nodes, "eu"), Some("u"));
    }

    #[test]
    fn a_draining_node_is_known_and_given_nothing() {
        let mut nodes = of(["a", "b"]);
        let first = nodes.owner(session(1), "eu").cloned();
        let first = first.unwrap_or_else(|| panic!("there are nodes"));
        let draining = NodeRecord {
            draining: true,
            ..first.clone()
        };
        nodes.hear(Change::NodeChanged(draining));
        assert!(nodes.is_alive(&first.holder()));
        assert_ne!(
            nodes.owner(session(1), "eu").map(|r| &r.id),
            Some(&first.id)
        );
        nodes.hear(Change::NodeChanged(first.clone()));
        assert_eq!(nodes.owner(session(1), "eu"), Some(&first));
    }

    #[test]
    fn a_full_owner_passes_a_new_session_to_the_next_and_the_standby_is_on_another_host() {
        let mut nodes = of(["a", "b", "c"]);
        let ranked: Vec<_> = nodes
            .owners(session(1), "eu", 3)
            .into_iter()
            .cloned()
            .collect();
        assert_eq!(ranked.len(), 3);
        assert_eq!(nodes.place(session(1), "eu"), Some(&ranked[0]));

        let mut full = ranked[0].clone();
        full.load.sessions = 100;
        nodes.hear(Change::NodeChanged(full));
        assert_eq!(nodes.place(session(1), "eu"), Some(&ranked[1]));

        let beside = NodeRecord {
            host: ranked[0].host.clone(),
            ..ranked[1].clone()
        };
        nodes.hear(Change::NodeChanged(beside));
        let ids: Vec<_> = nodes
            .owners(session(1), "eu", 2)
            .iter()
            .map(|r| r.id.clone())
            .collect();
        assert_eq!(ids, [ranked[0].id.clone(), ranked[2].id.clone()]);
    }

    #[test]
    fn another_run_of_a_node_is_told_as_an_end_and_a_beginning() {
        let mut nodes = of(["a"]);
        let later = node(&holder("a", 2));
        let both = [
            Change::NodeGone(holder("a", 1)),
            Change::NodeUp(later.clone()),
        ];
        assert_eq!(nodes.hear(Change::NodeUp(later.clone())), both);
        assert!(!nodes.is_alive(&holder("a", 1)));
        assert_eq!(
            nodes.hear(Change::NodeGone(holder("a", 1))),
            [],
            "it had gone"
        );
        assert_eq!(nodes.hear(Change::NodeUp(later)), [], "nothing new");
    }

    #[test]
    fn a_read_makes_up_for_lost_hints() {
        let now = Instant::now();
        let mut nodes = of(["a", "b"]);
        nodes.missed(2);
        assert!(nodes.needs_read(now));
        nodes.begin_read();
        assert_eq!(nodes.poll_timeout(now), None, "one read at a time");
        let news = nodes.finish_read(vec![node(&holder("b", 1)), node(&holder("c", 1))], now);
        let expected = [
            Change::NodeGone(holder("a", 1)),
            Change::NodeUp(node(&holder("c", 1))),
        ];
        assert_eq!(news, expected);
        let staleness = Staleness {
            age: Some(Duration::ZERO),
            hints_missed: 2,
            reads: 1,
        };
        assert_eq!(nodes.staleness(now), staleness);
    }

    #[test]
    fn a_hint_prevails_over_a_read_that_began_before_it() {
        let now = Instant::now();
        let mut nodes = of(["a"]);
        nodes.begin_read();
        nodes.hear(Change::NodeGone(holder("a", 1)));
        nodes.hear(Change::NodeUp(node(&holder("b", 1))));
        assert_eq!(nodes.finish_read(vec![node(&holder("a", 1))], now), []);
        assert!(nodes.iter().eq([&node(&holder("b", 1))]));
    }

    #[test]
    fn a_hint_lost_during_a_read_asks_for_another() {
        let now = Instant::now();
        let mut nodes = of(["a"]);
        nodes.begin_read();
        nodes.missed(1);
        nodes.finish_read(vec![], now);
        assert!(nodes.needs_read(now));
    }

    #[test]
    fn the_view_reads_again_after_a_while_and_keeps_what_it_knows_if_nothing_comes() {
        let now = Instant::now();
        let mut nodes = of(["a"]);
        assert_eq!(nodes.poll_timeout(now), Some(now), "nothing was read yet");
        nodes.begin_read();
        nodes.finish_read(vec![node(&holder("a", 1))], now);
        let due = now + limits::NODES_REREAD_EVERY;
        assert_eq!(nodes.poll_timeout(now), Some(due));
        assert!(!nodes.needs_read(now) && nodes.needs_read(due));
        nodes.begin_read();
        nodes.abandon_read();
        assert!(nodes.needs_read(due) && nodes.is_alive(&holder("a", 1)));
        assert_eq!(nodes.staleness(due).age, Some(limits::NODES_REREAD_EVERY));
    }

    fn of<const N: usize>(names: [&str; N]) -> Nodes {
        let mut nodes = Nodes::new();
        for name in names {
            nodes.hear(Change::NodeUp(node(&holder(name, 1))));
        }
        nodes
    }

    fn within(region: &str, name: &str) -> NodeRecord {
        NodeRecord {
            region: region.to_owned(),
            ..node(&holder(name, 1))
        }
    }

    fn owner<'a>(nodes: &'a Nodes, region: &str) -> Option<&'a str> {
        nodes
            .owner(session(1), region)
            .map(|record| record.id.as_str())
    }
}

//! What a ring promises, on large fixed sets and on random small ones.

#![expect(clippy::unwrap_used, reason = "an unwrap is an assertion here")]

use std::collections::{BTreeMap, BTreeSet};

use consistenthash::{Node, Ring, RingError};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

#[test]
fn a_million_keys_spread_evenly_over_fifty_nodes() {
    let ring = equal(50);
    let mut loads: BTreeMap<&str, u64> = BTreeMap::new();
    for key in 0..1_000_000u64 {
        *loads
            .entry(&ring.owner(&key.to_le_bytes()).unwrap().id)
            .or_default() += 1;
    }
    assert_eq!(loads.len(), 50);
    let fullest = loads.values().max().unwrap();
    assert!(*fullest as f64 / 20_000.0 <= 1.10, "{fullest} of 20,000");
    let emptiest = loads.values().min().unwrap();
    assert!(*emptiest as f64 / 20_000.0 >= 0.90, "{emptiest} of 20,000");
}

#[test]
fn a_nodes_share_is_its_weight() {
    let weights = [1u32, 2, 3, 4, 10, 30];
    let ring = Ring::new(weights.map(|weight| node(&format!("w{weight}"), weight, "h"))).unwrap();
    let mut loads = BTreeMap::new();
    for key in 0..500_000u64 {
        *loads
            .entry(ring.owner(&key.to_be_bytes()).unwrap().weight)
            .or_insert(0u64) += 1;
    }
    for weight in weights {
        let fair = f64::from(weight) / 50.0 * 500_000.0;
        let off = loads[&weight] as f64 / fair - 1.0;
        assert!(off.abs() < 0.03, "weight {weight}: {:+.2} %", off * 100.0);
    }
}

#[test]
fn adding_or_removing_a_node_moves_its_keys_alone_and_no_more_than_its_share() {
    let before = equal(50);
    let mut after = before.clone();
    after.insert(node("joined", 1, "new")).unwrap();
    let mut moved = 0;
    for key in 0..200_000u64 {
        let key = key.to_le_bytes();
        let (was, is) = (before.owner(&key).unwrap(), after.owner(&key).unwrap());
        if was != is {
            assert_eq!(is.id, "joined", "moved between nodes that stayed");
            moved += 1;
        }
    }
    let fair = 200_000.0 / 51.0;
    assert!(
        (f64::from(moved) / fair - 1.0).abs() < 0.10,
        "{moved} of {fair:.0}"
    );
    assert_eq!(after.remove("joined"), Some(node("joined", 1, "new")));
    for key in 0..1_000u64 {
        assert_eq!(
            after.owner(&key.to_le_bytes()),
            before.owner(&key.to_le_bytes())
        );
    }
}

#[test]
fn five_hundred_nodes_never_pass_their_load_limit() {
    let ring = Ring::new((0..500).map(|i| node(&format!("n{i}"), 1 + i % 4, "h"))).unwrap();
    let sum: u64 = ring.nodes().map(|node| u64::from(node.weight)).sum();
    let mut loads: BTreeMap<String, u64> = ring.nodes().map(|n| (n.id.clone(), 0)).collect();
    let keys = 20_000u64;
    for key in 0..keys {
        let chosen = ring
            .place(&key.to_le_bytes(), |node| loads[&node.id])
            .unwrap();
        let load = loads[&chosen.id] + 1;
        assert!(
            load <= ring.load_limit(chosen.weight, key + 1),
            "{chosen:?} holds {load}"
        );
        *loads.get_mut(&chosen.id).unwrap() = load;
    }
    for node in ring.nodes() {
        let fair = keys as f64 * f64::from(node.weight) / sum as f64;
        assert!(
            loads[&node.id] as f64 <= (1.25 * fair).ceil(),
            "{node:?}: {}",
            loads[&node.id]
        );
    }
    let free = (0..keys).filter(|key| {
        let key = key.to_le_bytes();
        ring.place(&key, |_| 0) == ring.owner(&key)
    });
    assert_eq!(
        free.count() as u64,
        keys,
        "without load the owner is placed"
    );
}

#[test]
fn an_empty_ring_has_no_answer() {
    let ring = Ring::default();
    assert!(ring.is_empty());
    assert_eq!(ring.owner(b"key"), None);
    assert_eq!(ring.owners(b"key", 3), Vec::<&Node>::new());
    assert_eq!(
        ring.owners_on_distinct_hosts(b"key", 3),
        Vec::<&Node>::new()
    );
    assert_eq!(ring.place(b"key", |_| 0), None);
    assert_eq!(ring.load_limit(1, 100), 0);
}

#[test]
fn a_duplicate_id_or_a_weight_of_zero_is_refused_and_changes_nothing() {
    let mut ring = equal(3);
    let same = ring.insert(node("n1", 9, "elsewhere")).unwrap_err();
    assert_eq!(same, RingError::DuplicateId { id: "n1".into() });
    assert!(same.to_string().contains("\"n1\""), "{same}");
    let none = ring.insert(node("n9", 0, "h9")).unwrap_err();
    assert_eq!(none, RingError::ZeroWeight { id: "n9".into() });
    assert_eq!(ring.len(), 3);
    assert_eq!(ring.get("n1"), Some(&node("n1", 1, "h1")));
    assert_eq!(ring.get("n9"), None);
    assert!(Ring::new([node("a", 1, "h"), node("a", 1, "h")]).is_err());
}

#[test]
fn a_ring_takes_no_node_beyond_its_limit() {
    let mut ring = equal(consistenthash::NODES_MAX as u32);
    let full = ring.insert(node("more", 1, "h")).unwrap_err();
    assert_eq!(full, RingError::Full { id: "more".into() });
}

#[test]
fn the_largest_weights_and_loads_do_not_overflow() {
    let ring = Ring::new((0..40).map(|i| node(&format!("n{i}"), u32::MAX, "h"))).unwrap();
    assert!(ring.place(b"key", |_| u64::MAX).is_some());
    assert_eq!(ring.load_limit(u32::MAX, 400), 13, "1.25 × 10, rounded up");
    assert_eq!(equal(1).load_limit(u32::MAX, u64::MAX), u64::MAX);
}

proptest! {
    #[test]
    fn the_order_of_insertion_does_not_matter(nodes in nodes(), key in key(), turn in 0usize..12) {
        let mut other = nodes.clone();
        other.reverse();
        let turn = turn % other.len();
        other.rotate_left(turn);
        let (ring, other) = (Ring::new(nodes).unwrap(), Ring::new(other).unwrap());
        prop_assert!(ring.ranked(&key).eq(other.ranked(&key)));
    }

    #[test]
    fn the_rank_holds_every_node_once_and_owners_are_its_head(
        nodes in nodes(), key in key(), n in 0usize..15
    ) {
        let ring = Ring::new(nodes).unwrap();
        let ranked: Vec<&Node> = ring.ranked(&key).collect();
        let distinct: BTreeSet<&str> = ranked.iter().map(|node| node.id.as_str()).collect();
        prop_assert_eq!(distinct.len(), ring.len());
        prop_assert_eq!(ring.owner(&key), ranked.first().copied());
        prop_assert_eq!(ring.owners(&key, n), &ranked[..n.min(ranked.len())]);
    }

    /// So a node that goes hands each of its keys to the next in rank, and one that comes takes
    /// keys but moves none between the others.
    #[test]
    fn a_node_comes_and_goes_without_changing_the_rank_of_the_others(
        nodes in nodes(), key in key(), which in 0usize..12
    ) {
        let mut ring = Ring::new(nodes).unwrap();
        let gone = ring.nodes().nth(which % ring.len()).unwrap().clone();
        let before: Vec<Node> = ring.ranked(&key).cloned().collect();
        ring.remove(&gone.id).unwrap();
        prop_assert!(ring.ranked(&key).eq(before.iter().filter(|node| **node != gone)));
        ring.insert(gone).unwrap();
        prop_assert!(ring.ranked(&key).eq(before.iter()));
    }

    #[test]
    fn a_heavier_node_gains_keys_and_loses_none(
        nodes in nodes(), key in key(), which in 0usize..12, more in 1u32..1_000
    ) {
        let mut ring = Ring::new(nodes).unwrap();
        let mut node = ring.nodes().nth(which % ring.len()).unwrap().clone();
        let before = ring.owner(&key).unwrap().clone();
        ring.remove(&node.id).unwrap();
        node.weight += more;
        ring.insert(node.clone()).unwrap();
        let after = ring.owner(&key).unwrap();
        prop_assert!(after.id == node.id || *after == before, "{before:?} -> {after:?}");
    }

    #[test]
    fn owners_on_distinct_hosts_are_the_best_node_of_each_host(
        nodes in nodes(), key in key(), n in 0usize..6
    ) {
        let ring = Ring::new(nodes).unwrap();
        let mut hosts = BTreeSet::new();
        let best: Vec<&Node> = ring.ranked(&key).filter(|node| hosts.insert(&node.host)).collect();
        prop_assert_eq!(ring.owners_on_distinct_hosts(&key, n), &best[..n.min(best.len())]);
    }

    #[test]
    fn the_first_in_rank_that_is_not_full_is_placed(
        nodes in nodes(), key in key(), loads in vec(0u64..20, 12)
    ) {
        let ring = Ring::new(nodes).unwrap();
        let load_of: BTreeMap<&Node, u64> = ring.nodes().zip(loads).collect();
        let total: u64 = load_of.values().sum();
        let weights: u64 = ring.nodes().map(|node| u64::from(node.weight)).sum();
        let room = |node: &Node| {
            let share = (total + 1) as f64 * f64::from(node.weight) / weights as f64;
            (load_of[node] + 1) as f64 <= (1.25 * share).ceil()
        };
        let expected = ring.ranked(&key).find(|node| room(node));
        prop_assert!(expected.is_some(), "all full");
        prop_assert_eq!(ring.place(&key, |node| load_of[node]), expected);
    }
}

fn node(id: &str, weight: u32, host: &str) -> Node {
    Node {
        id: id.into(),
        weight,
        host: host.into(),
    }
}

fn equal(nodes: u32) -> Ring {
    Ring::new((0..nodes).map(|i| node(&format!("n{i}"), 1, &format!("h{i}")))).unwrap()
}

/// 1–12 nodes on up to 4 hosts.
fn nodes() -> impl Strategy<Value = Vec<Node>> {
    btree_map("[a-z0-9-]{1,20}", (1u32..1_000, "[a-d]"), 1..12).prop_map(|nodes| {
        nodes
            .into_iter()
            .map(|(id, (weight, host))| node(&id, weight, &host))
            .collect()
    })
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

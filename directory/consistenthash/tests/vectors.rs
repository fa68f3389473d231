//! The committed vectors hold, and are the ones that `examples/vectors.rs` prints.

#![expect(
    clippy::unwrap_used,
    reason = "a malformed vector fails the test where it stands"
)]

use std::collections::BTreeMap;

use consistenthash::{Node, Ring};

#[path = "../examples/vectors.rs"]
#[expect(dead_code, reason = "its main")]
mod example;

const VECTORS: &str = include_str!("../vectors.tsv");

/// Read from the file alone, as an implementation in another language reads it.
#[test]
fn the_ring_answers_every_committed_vector() {
    let mut sets = BTreeMap::new();
    let mut cases = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["nodes", name, nodes] => {
                sets.insert(name, Set::parse(nodes));
            }
            ["case", name, key, owners, hosts, placed] => {
                let set = &sets[name];
                let key = bytes(key);
                assert_eq!(ids(set.ring.owners(&key, 5)), owners, "{line}");
                assert_eq!(
                    ids(set.ring.owners_on_distinct_hosts(&key, 3)),
                    hosts,
                    "{line}"
                );
                let chosen = set.ring.place(&key, |node| set.loads[&node.id]);
                assert_eq!(chosen.map(|node| node.id.as_str()), Some(placed), "{line}");
                cases += 1;
            }
            _ => panic!("neither nodes nor a case: {line}"),
        }
    }
    assert_eq!(cases, 1_000);
}

#[test]
fn the_committed_vectors_are_the_generated_ones() {
    assert!(
        example::vectors() == VECTORS,
        "vectors.tsv differs from what `cargo run -p consistenthash --example vectors` prints"
    );
}

struct Set {
    ring: Ring,
    loads: BTreeMap<String, u64>,
}

impl Set {
    fn parse(nodes: &str) -> Self {
        let mut loads = BTreeMap::new();
        let nodes = nodes.split(' ').map(|item| {
            let fields: Vec<&str> = item.split('|').collect();
            let [id, weight, host, load] = fields[..] else {
                panic!("{item}")
            };
            loads.insert(id.to_owned(), load.parse().unwrap());
            Node {
                id: id.into(),
                weight: weight.parse().unwrap(),
                host: host.into(),
            }
        });
        let ring = Ring::new(nodes).unwrap();
        Self { ring, loads }
    }
}

fn ids(nodes: Vec<&Node>) -> String {
    nodes
        .iter()
        .map(|node| node.id.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

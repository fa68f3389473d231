//! Prints `vectors.tsv`. After a change of the definition (which moves every key of every running
//! mesh):
//!
//! ```text
//! cargo run -p consistenthash --example vectors > directory/consistenthash/vectors.tsv
//! ```

use consistenthash::{Node, Ring};

const HEAD: &str = "\
# Test vectors of the consistenthash crate; its documentation defines what is computed.
# Fields are separated by tabs, list items by spaces; text is UTF-8, a line starting with # is a comment.
#
# nodes  SET  id|weight|host|load ...
#     a set of nodes; the order in which they are given plays no part
# case  SET  KEY  OWNERS  HOSTS  PLACED
#     KEY     the key in hexadecimal; may be empty
#     OWNERS  the ids of owners(key, 5)
#     HOSTS   the ids of owners_on_distinct_hosts(key, 3)
#     PLACED  the id of place(key), under the loads that the set gives
";
const CASES: usize = 1_000;
/// Keys of each length up to here come first, then these long ones, then session ids of 16 bytes.
const EVERY_LENGTH_BELOW: usize = 256;
const LONG: [usize; 11] = [
    256, 257, 511, 512, 1_023, 1_024, 1_025, 1_088, 2_047, 2_048, 2_049,
];

fn main() {
    print!("{}", vectors());
}

/// The whole file.
pub(crate) fn vectors() -> String {
    let sets = sets();
    let mut text = HEAD.to_owned();
    for (name, nodes) in &sets {
        let nodes: Vec<String> = nodes
            .iter()
            .map(|(node, load)| format!("{}|{}|{}|{load}", node.id, node.weight, node.host))
            .collect();
        text += &format!("nodes\t{name}\t{}\n", nodes.join(" "));
    }
    let rings: Vec<Ring> = sets.iter().map(|(_, nodes)| ring(nodes)).collect();
    let mut random = Random(1);
    for case in 0..CASES {
        let key = random.bytes(key_len(case));
        let at = case % sets.len();
        text += &line(sets[at].0, &sets[at].1, &rings[at], &key);
    }
    text
}

fn line(name: &str, nodes: &[(Node, u64)], ring: &Ring, key: &[u8]) -> String {
    let ids = |nodes: Vec<&Node>| -> String {
        nodes
            .iter()
            .map(|node| node.id.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let load = |node: &Node| {
        nodes
            .iter()
            .find(|(n, _)| n == node)
            .map_or(0, |(_, load)| *load)
    };
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "case\t{name}\t{hex}\t{}\t{}\t{}\n",
        ids(ring.owners(key, 5)),
        ids(ring.owners_on_distinct_hosts(key, 3)),
        ids(ring.place(key, load).into_iter().collect()),
    )
}

/// Sets that differ in what decides: size, weights, shared hosts, ids of every hash class, loads.
fn sets() -> Vec<(&'static str, Vec<(Node, u64)>)> {
    let node = |id: String, weight: u32, host: String, load: u64| (Node { id, weight, host }, load);
    let long = |len: usize| format!("{len}-{}", "é".repeat(len / 2));
    vec![
        ("one", vec![node("solo".into(), 7, "a".into(), 1_000)]),
        (
            "same-host",
            (0..2u32)
                .map(|i| node(format!("dev-{i}"), 1, "dev".into(), u64::from(i)))
                .collect(),
        ),
        (
            "three",
            (1..=3u32)
                .map(|i| {
                    node(
                        format!("relay-{i}-0"),
                        1,
                        format!("relay-{i}"),
                        u64::from(40 * i),
                    )
                })
                .collect(),
        ),
        (
            "weights",
            (0..6u32)
                .map(|i| node(format!("w{}", 1 << i), 1 << i, format!("h{i}"), 10 << i))
                .collect(),
        ),
        (
            "cores",
            (0..16u32)
                .map(|i| {
                    let host = format!("fra-{}", i / 4);
                    node(format!("{host}-{}", i % 4), 100, host, u64::from(i * i))
                })
                .collect(),
        ),
        (
            "extremes",
            vec![
                node("least".into(), 1, "a".into(), 0),
                node("half".into(), u32::MAX / 2, "b".into(), 1 << 62),
                node("most".into(), u32::MAX, "c".into(), u64::MAX),
            ],
        ),
        (
            "ids",
            [0, 1, 2, 3, 5, 6, 10, 12, 14, 30, 60, 150, 300]
                .into_iter()
                .map(|len| node(long(len), 3, format!("h{}", len % 5), len as u64))
                .collect(),
        ),
        (
            "region",
            (0..50u32)
                .map(|i| {
                    let load = u64::from(i * 37 % 50 + 75);
                    node(format!("ams-{i}-0"), 1 + i % 3, format!("ams-{i}"), load)
                })
                .collect(),
        ),
    ]
}

fn ring(nodes: &[(Node, u64)]) -> Ring {
    Ring::new(nodes.iter().map(|(node, _)| node.clone())).expect("the sets are well-formed")
}

fn key_len(case: usize) -> usize {
    match case.checked_sub(EVERY_LENGTH_BELOW) {
        None => case,
        Some(after) => LONG.get(after).copied().unwrap_or(16),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the keys are the same on every run.
struct Random(u64);

impl Random {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ value >> 31
    }
}

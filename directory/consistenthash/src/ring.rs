//! The ring: nodes by id, and the ranked choice for a key.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::iter::FusedIterator;

use crate::cost::{cost, fmix64};
use crate::xxh3::xxh3_64;

/// Most nodes of a ring: `owner` looks at each of them, which takes about a millisecond at this
/// number; below it no sum or product of loads and weights overflows.
pub const NODES_MAX: usize = 65_536;

/// One candidate of a [`Ring`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Its name, unique in the ring. With the key alone it decides the hash: renaming moves keys.
    pub id: String,
    /// Its capacity relative to the other nodes, from 1: twice the weight, twice the keys.
    pub weight: u32,
    /// Its failure domain. Plays no part in the rank.
    pub host: String,
}

/// Why a node is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The id is in the ring already.
    DuplicateId { id: String },
    /// The weight is 0.
    ZeroWeight { id: String },
    /// The ring holds [`NODES_MAX`] nodes already.
    Full { id: String },
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateId { id } => {
                write!(
                    f,
                    "node id {id:?} is in the ring already: remove that node first"
                )
            }
            Self::ZeroWeight { id } => {
                write!(
                    f,
                    "weight of node {id:?} is 0: give 1 or more, or leave the node out"
                )
            }
            Self::Full { id } => {
                write!(
                    f,
                    "node {id:?} is one too many: a ring holds {NODES_MAX} nodes"
                )
            }
        }
    }
}

impl std::error::Error for RingError {}

/// A set of weighted nodes that ranks itself anew for each key. The crate documentation defines
/// the rank; equal sets rank equally, whatever the order of insertion, process or platform.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// By id, so that equal sets are equal rings.
    slots: Vec<Slot>,
    weight_sum: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    node: Node,
    /// xxh3 of the id.
    hash: u64,
}

impl Ring {
    /// A ring of `nodes`, or the first reason why one of them is refused.
    pub fn new(nodes: impl IntoIterator<Item = Node>) -> Result<Self, RingError> {
        let mut ring = Self::default();
        nodes.into_iter().try_for_each(|node| ring.insert(node))?;
        Ok(ring)
    }

    /// Adds `node`. Keys move only to it, none between the others.
    pub fn insert(&mut self, node: Node) -> Result<(), RingError> {
        let Err(place) = self.position(&node.id) else {
            return Err(RingError::DuplicateId { id: node.id });
        };
        if node.weight == 0 {
            return Err(RingError::ZeroWeight { id: node.id });
        }
        if self.slots.len() >= NODES_MAX {
            return Err(RingError::Full { id: node.id });
        }
        self.weight_sum += u64::from(node.weight);
        let hash = xxh3_64(node.id.as_bytes());
        self.slots.insert(place, Slot { node, hash });
        Ok(())
    }

    /// Takes the node named `id` out. Only its keys move, each to the node that ranked next.
    pub fn remove(&mut self, id: &str) -> Option<Node> {
        let place = self.position(id).ok()?;
        let node = self.slots.remove(place).node;
        self.weight_sum -= u64::from(node.weight);
        Some(node)
    }

    /// The node named `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Node> {
        self.position(id).ok().map(|place| &self.slots[place].node)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.slots.iter().map(|slot| &slot.node)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no node at all, and so no owner for any key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The first node in `key`'s rank; `None` if the ring is empty. Allocates nothing.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> Option<&Node> {
        self.bids(key).min().map(|bid| bid.node)
    }

    /// The first `n` nodes in `key`'s rank, best first; fewer if the ring is smaller.
    #[must_use]
    pub fn owners(&self, key: &[u8], n: usize) -> Vec<&Node> {
        self.ranked(key).take(n).collect()
    }

    /// Like [`owners`](Self::owners), but a node whose host has a better node in the list is passed
    /// over: the first is the owner, the second its standby. Fewer than `n` if there are fewer hosts.
    #[must_use]
    pub fn owners_on_distinct_hosts(&self, key: &[u8], n: usize) -> Vec<&Node> {
        let mut chosen: Vec<&Node> = Vec::new();
        for node in self.ranked(key) {
            if chosen.len() == n {
                break;
            }
            if chosen.iter().all(|other| other.host != node.host) {
                chosen.push(node);
            }
        }
        chosen
    }

    /// All nodes, best first for `key`. Lazy: the first few cost little more than `owner`.
    #[must_use]
    pub fn ranked(&self, key: &[u8]) -> Ranked<'_> {
        Ranked {
            heap: self.bids(key).map(Reverse).collect(),
        }
    }

    /// The first node in `key`'s rank that can take one more key and stay within its
    /// [`load_limit`](Self::load_limit); `None` only if the ring is empty.
    ///
    /// `load` says how many keys a node holds now. Loads of nodes outside the ring do not count.
    #[must_use]
    pub fn place(&self, key: &[u8], load: impl Fn(&Node) -> u64) -> Option<&Node> {
        let total: u128 = self.nodes().map(|node| u128::from(load(node))).sum();
        self.ranked(key)
            .find(|node| u128::from(load(node)) < self.limit(node.weight, total + 1))
    }

    /// Most keys that a node of `weight` may hold of `total` in this ring: 1.25 times its fair
    /// share, rounded up. 0 if the ring is empty.
    #[must_use]
    pub fn load_limit(&self, weight: u32, total: u64) -> u64 {
        u64::try_from(self.limit(weight, u128::from(total))).unwrap_or(u64::MAX)
    }

    /// ⌈5·total·weight ÷ (4·weight_sum)⌉: `total` is at most 2¹⁶ loads of 64 bits, so that the
    /// product has at most 115 bits.
    fn limit(&self, weight: u32, total: u128) -> u128 {
        match self.weight_sum {
            0 => 0,
            sum => (5 * total * u128::from(weight)).div_ceil(4 * u128::from(sum)),
        }
    }

    fn bids(&self, key: &[u8]) -> impl Iterator<Item = Bid<'_>> {
        let key_hash = xxh3_64(key);
        self.slots.iter().map(move |slot| Bid {
            cost: cost(fmix64(slot.hash ^ key_hash)),
            node: &slot.node,
        })
    }

    fn position(&self, id: &str) -> Result<usize, usize> {
        self.slots
            .binary_search_by(|slot| slot.node.id.as_str().cmp(id))
    }
}

/// The nodes of a [`Ring`] in the rank of one key, best first.
#[derive(Clone, Debug)]
pub struct Ranked<'a> {
    heap: BinaryHeap<Reverse<Bid<'a>>>,
}

impl<'a> Iterator for Ranked<'a> {
    type Item = &'a Node;

    fn next(&mut self) -> Option<&'a Node> {
        self.heap.pop().map(|Reverse(bid)| bid.node)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.heap.len(), Some(self.heap.len()))
    }
}

impl ExactSizeIterator for Ranked<'_> {}
impl FusedIterator for Ranked<'_> {}

/// A node with its cost for one key; the least bid wins.
#[derive(Clone, Debug)]
struct Bid<'a> {
    /// At most 2³⁸, so that its product with a weight has at most 70 bits.
    cost: u64,
    node: &'a Node,
}

impl Ord for Bid<'_> {
    /// By cost ÷ weight, cross-multiplied so that nothing is rounded; then by id.
    fn cmp(&self, other: &Self) -> Ordering {
        let ours = u128::from(self.cost) * u128::from(other.node.weight);
        let theirs = u128::from(other.cost) * u128::from(self.node.weight);
        ours.cmp(&theirs)
            .then_with(|| self.node.id.cmp(&other.node.id))
    }
}

impl PartialOrd for Bid<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bid<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bid<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_cost_per_weight_is_decided_by_the_id() {
        let node = |id: &str, weight| Node {
            id: id.into(),
            weight,
            host: "h".into(),
        };
        let (a, b) = (node("a", 3), node("b", u32::MAX));
        let bid = |cost, node| Bid { cost, node };
        assert!(bid(3, &a) < bid(u64::from(u32::MAX), &b));
        assert!(bid(3, &a) > bid(u64::from(u32::MAX) - 1, &b));
        assert!(bid(1 << 38, &a) > bid(1 << 38, &b));
    }
}

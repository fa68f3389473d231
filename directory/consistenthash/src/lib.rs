//! Consistent hashing by weighted rendezvous, in integers.
//!
//! Every node has a cost for every key; the nodes by rising cost ÷ weight are the key's *rank*, and
//! the first of them owns the key. Whoever knows the same nodes computes the same rank, in any
//! process, on any platform, in any language. When a node joins or leaves, only the keys that it
//! gains or had move.
//!
//! ```text
//!  id ──xxh3──┐
//!             ├─ ^ ─ fmix64 ─▶ h ─▶ cost = −log₂(h/2⁶⁴) ─┐
//!  key ─xxh3──┘                                          ├─▶ rank: least cost ÷ weight first
//!                                               weight ──┘      ├─▶ owner, owners(n)
//!                                                               ├─▶ first node of each host
//!                                                 loads ────────┴─▶ place: first one not full
//! ```
//!
//! ```
//! use consistenthash::{Node, Ring};
//!
//! let node = |id: &str, weight, host: &str| Node { id: id.into(), weight, host: host.into() };
//! let mut ring = Ring::new([
//!     node("ams-1-0", 1, "ams-1"),
//!     node("ams-1-1", 1, "ams-1"),
//!     node("ams-2-0", 2, "ams-2"),
//! ])?;
//!
//! let owner = ring.owner(b"session").expect("the ring has nodes").clone();
//! let pair = ring.owners_on_distinct_hosts(b"session", 2);
//! assert_eq!(pair[0], &owner);
//! assert_ne!(pair[1].host, owner.host, "a standby is never on its owner's host");
//!
//! // An owner that is full passes the key to the next in rank.
//! let next = ring.owners(b"session", 2)[1].clone();
//! let placed = ring.place(b"session", |node| if *node == owner { 100 } else { 0 });
//! assert_eq!(placed, Some(&next));
//!
//! // And so does one that is gone.
//! ring.remove(&owner.id);
//! assert_eq!(ring.owner(b"session"), Some(&next));
//! # Ok::<(), consistenthash::RingError>(())
//! ```
//!
//! # Definition
//!
//! Enough to implement it again; `vectors.tsv` beside this crate's manifest has 1,000 cases to check
//! the result against, and its head says how to read them. All arithmetic is on integers; `>>` and
//! `/` round down; numbers are unsigned, and products modulo 2⁶⁴ where that is said.
//!
//! 1. **Hash.** `X(b)` is XXH3-64 of the bytes `b` with seed 0 and the default secret. An id is
//!    hashed as UTF-8, a key as it is. `h = fmix64(X(id) ^ X(key))`, where `fmix64(v)` is, modulo 2⁶⁴:
//!    `v ^= v >> 33; v *= 0xff51afd7ed558ccd; v ^= v >> 33; v *= 0xc4ceb9fe1a85ec53; v ^= v >> 33`.
//! 2. **Table.** `T[i] = round(log₂(1 + i/1024) · 2³²)` for `i` = 0 … 1024. No entry is near a tie,
//!    so double precision suffices to build it. XXH3-64 over its entries as little-endian 64-bit
//!    words is `0x4820759e7d6be69c`.
//! 3. **Cost**, −log₂(h/2⁶⁴) in units of 2⁻³². If `h` is 0, take 1. With `z` the number of leading
//!    zero bits of `h`, and `m = h << z`:
//!    `i = (m >> 53) & 1023`, `f = (m >> 21) & 0xffffffff`,
//!    `cost = ((z + 1) << 32) − T[i] − (((T[i+1] − T[i]) · f) >> 32)`. It lies in 1 ..= 2³⁸.
//! 4. **Rank.** Node a comes before node b if `cost_a · weight_b < cost_b · weight_a` (70-bit
//!    products), or if those are equal and a's id comes first in byte order.
//! 5. **Owners.** `owner` is the first of the rank, `owners(n)` the first n. For distinct hosts, walk
//!    the rank and pass over each node whose host has been taken.
//! 6. **Bounded load.** With `total` the keys that the ring's nodes hold now and `W` the sum of their
//!    weights, `place` takes the first of the rank with
//!    `load + 1 ≤ ⌈5 · (total + 1) · weight / (4 · W)⌉`. There always is one: were every node at its
//!    limit, they would hold more than 1.25 times what they hold.
//!
//! # Why this way
//!
//! * The cost of a key at a node is exponentially distributed, and the least of exponentials, each
//!   divided by its weight, falls to a node with probability weight ÷ W: shares are exact, without
//!   virtual points, and a changed weight moves only the keys that it must.
//! * Floats round differently between languages and maths libraries. The table is exact everywhere,
//!   and its chords are within 1.8·10⁻⁷ of the logarithm.
//! * `owner` is a scan at about 10 ns a node: 5 µs for a region of 500, with nothing to keep in step
//!   when nodes come and go.
//!
//! # Sources
//!
//! * D. G. Thaler, C. V. Ravishankar: *Using Name-Based Mappings to Increase Hit Rates*, IEEE/ACM
//!   Transactions on Networking 6(1), 1998: rendezvous, "highest random weight".
//! * J. Resch: *New Hashing Algorithms for Data Storage*, SNIA Storage Developer Conference, 2015:
//!   weights through the logarithm.
//! * V. Mirrokni, M. Thorup, M. Zadimoghaddam: *Consistent Hashing with Bounded Loads*, SODA 2018.
//! * Y. Collet: *xxHash fast digest algorithm*, specification 0.2.0: XXH3-64.
//! * A. Appleby: MurmurHash3: the finaliser `fmix64`.

mod cost;
mod ring;
mod xxh3;

pub use ring::{NODES_MAX, Node, Ranked, Ring, RingError};

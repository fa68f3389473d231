//! Every limit and term of the directory, once.

use std::time::Duration;

/// How long a node is taken for alive after it was last heard of. Three renewals fit in, so that one
/// lost renewal kills nobody, and a dead owner is noticed within seconds.
pub const NODE_LEASE: Duration = Duration::from_secs(3);
/// How often a node renews its lease.
pub const NODE_RENEW_EVERY: Duration = Duration::from_secs(1);
/// How long a listing is shown after its owner last asserted it.
pub const LISTING_LEASE: Duration = Duration::from_secs(15);
/// How often an owner asserts its listings: one lost assertion hides nothing.
pub const LISTING_ASSERT_EVERY: Duration = Duration::from_secs(5);
/// How long a session record outlives its owner's run, so that another node can claim it: the
/// default time that members' seats are held.
pub const ORPHAN_TTL: Duration = Duration::from_secs(60);
/// How long the auth service's keys are kept after it last published them: it may be away for a day.
pub const KEYS_TTL: Duration = Duration::from_secs(86_400);
/// Largest JWKS document: the limit of those who read it.
pub const KEYS_BYTES_MAX: usize = dreamcatcher_proto::token::JWKS_BYTES_MAX;
/// How often the cached view reads all nodes again, even if it missed nothing that it knows of.
pub const NODES_REREAD_EVERY: Duration = Duration::from_secs(5);

/// Runs of nodes that are known, alive or within [`ORPHAN_TTL`] of their end: 50 hosts of 16 cores,
/// each restarted four times a minute.
pub const RUNS_MAX: usize = 4_096;
/// Session records, in memory at about half a KiB each: 128 MiB. Every one can have a
/// join code, and a drawn code is then taken once in 244 draws.
pub const SESSIONS_MAX: usize = 262_144;
/// Draws of a join code before the table counts as full: 16 taken ones in a row are not chance.
pub const CODE_DRAWS_MAX: usize = 16;
/// Hints that wait for one watcher: more than a restart of every node at once causes.
pub const HINTS_QUEUED_MAX: usize = 4_096;
/// Hints that the cached view holds back while a read of all nodes is under way.
pub const HINTS_HELD_MAX: usize = 1_024;
/// Certificate hashes of one node: the present certificate, the next, and the last during rotation.
pub const CERTIFICATES_MAX: usize = 4;
/// Members that a view lists by name; with more the first to sync are listed.
pub const ANCHORS_MAX: usize = 16;
/// Largest capacity of a node, relative to the others.
pub const CAPACITY_MAX: u32 = 1_000_000;
/// Longest host label: a DNS name (RFC 1035, 2.3.4).
pub const HOST_CHARS_MAX: usize = 253;
/// Sessions in one page of a list.
pub const LIST_PAGE_MAX: u8 = 100;
/// Sessions that one list request looks at: a filter that fits few gives short pages, not long waits.
pub const LIST_SCAN_MAX: usize = 1_000;
/// Largest epoch: what JSON and Lua numbers hold exactly (2⁵³ − 1). Microseconds get there in 2255.
pub const EPOCH_MAX: u64 = (1 << 53) - 1;
/// How far a promised epoch may be ahead of the directory's time: more is a broken clock, and would
/// be in force for as long.
///
/// The directory's time is its clock's until that is set back; then it goes on from where it was. A
/// clock that jumps ahead by whatever it is ends every lease at once, and nodes and owners make
/// themselves known again; once it is set right, the epochs given out meanwhile are still no further
/// ahead than the time that goes on, and can be claimed. Only a directory that has lost everything
/// begins with the clock: it takes back epochs up to this much ahead of it and refuses later ones
/// until the clock is there. Their sessions go on with their owners meanwhile.
pub const EPOCH_AHEAD_MAX: Duration = Duration::from_secs(3_600);

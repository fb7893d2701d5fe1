//! How much of everything a migration takes, and why.
//!
//! The store has limits of its own, in [`crate::store::limits`]; a test keeps the largest seal and the largest
//! generation below the largest value it takes.

use std::time::Duration;

/// Longest encoded message: what the transport carries as one.
pub const MESSAGE_LEN_BYTES_MAX: usize = 1 << 20;

/// Longest encoding of one offer's items. An offer is answered with grants as a whole, so short ones let the first
/// bytes travel while the rest is still being described.
pub const OFFER_ITEMS_LEN_BYTES_MAX: usize = 256 << 10;

/// Longest record that travels with the cut: one message, less the fields around it.
pub const RECORD_LEN_BYTES_MAX: usize = MESSAGE_LEN_BYTES_MAX - 4096;

/// Most items of one migration. A node of a 175-billion-parameter job has some 10^4; their ids in a seal or a
/// generation take half a megabyte of the store.
pub const ITEMS_MAX: usize = 65_536;

/// Most parcels that are put in order at once: several times what a migration takes, for plans about whole jobs.
pub const PARCELS_MAX: usize = 1 << 18;

/// Most parcels that may hang together by what they need. Each cut through them takes time that grows faster than they do;
/// what is sent as one belongs into one parcel.
pub const ENTANGLED_MAX: usize = 4096;

/// Most items that one item is computed from. A layer's saved tensor needs its parameters and its input.
pub const INPUTS_PER_ITEM_MAX: usize = 1024;

/// Longest name of an item: a path through nested modules.
pub const NAME_LEN_BYTES_MAX: usize = 512;

/// Longest item: more than any tensor, and little enough that sums over all items stay within 64 bits.
pub const ITEM_BYTES_MAX: u64 = 1 << 40;

/// Most ranks that take over from one: as many as a large pipeline has stages, and each of them seals and is watched.
pub const TARGETS_MAX: usize = 1024;

/// Most shards that have an owner; with the next limit, all owners fit in one message beside an offer's items.
pub const SHARDS_MAX: usize = 2048;

/// Longest name of a shard: a layer's or a stage's path, and short enough that all owners fit in one message.
pub const SHARD_NAME_LEN_BYTES_MAX: usize = 128;

/// Longest reason, in words. A longer one is cut.
pub const REASON_LEN_BYTES_MAX: usize = 1024;

/// Most names of lost items in a generation; the reason says how many there are in all.
pub const MISSING_NAMES_MAX: usize = 1024;

/// Most bytes that are posted and not yet applied. Posted bytes can't be put in another order any more; this is a
/// tenth of a second at 5 Gb/s.
pub const WINDOW_BYTES_MAX: u64 = 64 << 20;

/// Most items that are posted and not yet applied, so that small ones don't pile up in the transport.
pub const WINDOW_ITEMS_MAX: usize = 64;

/// How often one item is sent before it is given up. The transport has retried each chunk by then.
pub const SENDS_PER_ITEM_MAX: u32 = 8;

/// Most ranges that one message says a target has kept of an earlier attempt, of all its items: two thirds of a message, and
/// far more than what an attempt leaves in pieces. What isn't said is sent again.
pub const KEPT_RANGES_MAX: usize = 32_768;

/// How long what has landed is kept for another attempt, at most: several times the longest notice of a spot machine, since a deadline
/// is for a peer to say.
pub const KEPT_TIME_MAX: Duration = Duration::from_secs(600);

/// How far the measured rate must move, in quarters of the rate planned with, before a plan is made anew.
pub const REPLAN_RATE_QUARTERS: u64 = 1;

/// With less than this left there is no time for another attempt, and a source leaves the end to its targets.
pub const ATTEMPT_TIME_MIN: Duration = Duration::from_secs(5);

/// How long after the deadline verification may hold up a seal.
pub const VERIFY_GRACE: Duration = Duration::from_secs(1);

/// How long after the deadline the other targets' seals are waited for.
pub const SEAL_GRACE: Duration = Duration::from_secs(3);

/// How long after the source's death the other targets' seals are waited for: several times what a target needs to
/// notice that death by itself.
pub const SOURCE_GONE_GRACE: Duration = Duration::from_secs(5);

/// How long after the deadline the source waits for the generation that ends its migration.
pub const GENERATION_GRACE: Duration = Duration::from_secs(10);

/// How long a session waits for the store's word on its proposal. The store's client gives up well before.
pub const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(30);

//! How much of everything a plan about a whole job takes, and why.

/// Most assets of one departure: what the order of parcels takes, less the operations that stand beside them.
pub const ASSETS_MAX: usize = 1 << 17;

/// Most operations of one departure; each makes at least one asset.
pub const OPERATIONS_MAX: usize = 1 << 17;

/// Longest asset in bytes: more than any tensor, and little enough that sums over all of them fit in 62 bits.
pub const ASSET_BYTES_MAX: u64 = 1 << 40;

/// Longest time anywhere in a departure, in seconds: three years, so that sums of nanoseconds fit in 62 bits.
pub const TIME_S_MAX: f64 = 1e8;

/// Quickest link in bytes per second: a million times what a machine has, so that products of rates stay finite.
pub const RATE_MAX: f64 = 1e18;

/// Longest name in bytes: a path through nested modules, with a microbatch and a step.
pub const NAME_LEN_BYTES_MAX: usize = 512;

/// Longest manifest file in bytes: some 500 for each of the most assets there may be, and still quickly read.
pub const MANIFEST_LEN_BYTES_MAX: usize = 64 << 20;

/// Most ranks that leave at once, and most that may take over: as many stages as a long pipeline has.
pub const RANKS_MAX: usize = 1024;

/// Most events of a preemption trace: weeks of a large cluster, each line of which is a few dozen bytes.
pub const TRACE_EVENTS_MAX: usize = 1_000_000;

/// Latest event of a trace, in milliseconds from its beginning: a hundred years, so that sums of times stay far from overflow.
pub const TRACE_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;

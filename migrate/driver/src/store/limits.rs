//! How long clients and servers of a store try, and how much they keep.

use std::time::Duration;

/// How many connections a client keeps for its next calls. A process rarely has more calls under way than its wait for
/// a generation, its wait for a notice, and one other.
pub(super) const IDLE_CONNECTIONS_MAX: usize = 4;

/// Pause after the first failed try, doubled up to [`PAUSE_MAX`]: a store that restarts its socket is back by then.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Longest pause between two tries: short beside any timeout, long beside what a try costs the server.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Longest try to connect to one address; a further one may find the host up, or another address of it.
pub(super) const CONNECT_TRY: Duration = Duration::from_secs(1);

/// Bytes that a server reads of one client before the others get their turn: some microseconds of copying.
pub(super) const READ_BYTES: usize = 64 << 10;

/// How long a server accepts no connection after the process ran out of files: time for some to be closed.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a process may take between claiming its rank and being reachable. Until then nobody can ask it whether
/// it lives, so its claim stands.
pub const CLAIM_GRACE: Duration = Duration::from_secs(5);

/// How often a claim is tried while others change it: each time somebody else has won, so more are never needed.
pub(super) const CLAIM_ATTEMPTS_MAX: usize = 16;

/// How old what a journal holds is taken to be after the machine was started again: older than the store can say.
pub(super) const ANOTHER_BOOT: Duration = Duration::from_secs(50 * 24 * 3600);

/// How often a journal is opened that its owner puts a new one in the place of, which takes an owner that does so all the time.
pub(super) const JOURNAL_OPENS_MAX: usize = 8;

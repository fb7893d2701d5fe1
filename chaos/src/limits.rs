//! How much a proxy holds, and how soon it looks at what it was told.

use std::time::Duration;

/// Frames that wait on one way of one connection: enough for a delay of a tenth of a second at full speed; then the sender waits.
pub const WAITING_FRAMES_MAX: usize = 256;

/// Bytes taken from a socket at once: a copy of some microseconds.
pub const READ_BYTES: usize = 64 << 10;

/// Bytes written at once when a rate is set: small, so that a slow link is slow evenly.
pub const PACED_BYTES: usize = 4 << 10;

/// How long a thread waits before it looks whether the proxy is over, or was told something new.
pub const LOOK: Duration = Duration::from_millis(20);

/// How long the process behind the proxy may take to accept: longer than it takes to start listening, short for who waits.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest delay that is rehearsed: beyond every timeout of a job, and far from where a clock would overflow.
pub const DELAY_MAX: Duration = Duration::from_secs(3600);

/// Rules that one way has. Each is looked at for each frame; there are seven kinds of them.
pub const RULES_MAX: usize = 64;

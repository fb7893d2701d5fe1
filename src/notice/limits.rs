//! How much of everything the notice sources take, and why.

use std::time::Duration;

/// Where the metadata service of every EC2 instance is: a link-local address that the hypervisor answers.
pub const EC2_METADATA_URL: &str = "http://169.254.169.254";

/// Most notices at a time. Each source has one; the rest is what the program itself raises.
pub const NOTICES_MAX: usize = 64;

/// Most unread events of one subscriber: more than any job sees, and too few to fill memory.
pub const EVENTS_MAX: usize = 256;

/// Longest time that a notice may leave. Longer ones are mistakes, and a clock could overflow.
pub const LEFT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often the notice file is looked at: a tenth of a second is little of any notice, and costs one system call.
pub const FILE_POLL: Duration = Duration::from_millis(100);

/// Longest notice file that is read: a duration or one line of JSON.
pub const FILE_BYTES_MAX: u64 = 4096;

/// How often EC2's metadata is asked. AWS advises at most every 5 s; every second costs half a second of 120 on
/// average, and stays far below the service's own limit.
pub const EC2_POLL: Duration = Duration::from_secs(1);

/// What is left at most when EC2 takes an instance back; a wall clock that is behind must not make it more.
pub const EC2_LEFT_MAX: Duration = Duration::from_secs(120);

/// How long an EC2 metadata token lives: the longest that the service grants, so that it is rarely asked for.
pub const EC2_TOKEN_SECONDS: u32 = 21_600;

/// Longest metadata token that is taken. They are 56 characters today.
pub const EC2_TOKEN_BYTES_MAX: usize = 1024;

/// Longest exchange with a metadata service. It answers from the same machine, within milliseconds.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest head of an HTTP answer, as in common servers.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 << 10;

/// Longest body of an HTTP answer; the ones we ask for are below 200 bytes.
pub const HTTP_BODY_BYTES_MAX: usize = 16 << 10;

/// Longest wait in one request for a drain order. It also bounds how long a dropped watcher goes on listening.
pub const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// Pause after the store could not be asked, so that a dead store isn't flooded.
pub const DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// How often an order is written while others write it: each time somebody else has won.
pub const DRAIN_ATTEMPTS_MAX: usize = 16;

/// Longest that dropping a watcher waits for its threads: every close is done within two seconds.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a dropped watcher looks whether its threads have ended; short beside what it waits for.
pub const STOP_POLL: Duration = Duration::from_millis(2);

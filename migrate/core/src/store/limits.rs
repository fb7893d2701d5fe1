//! How much of everything the store takes, and why.

use std::time::Duration;

/// Longest key. Ours are paths such as `migration/7/3.1/0/seal/12`; a longer one is a mistake.
pub const KEY_LEN_BYTES_MAX: usize = 256;

/// Longest value. A generation record of 10^5 items stays below 2 MiB; tensors don't belong here.
pub const VALUE_LEN_BYTES_MAX: usize = 4 << 20;

/// Most keys. Nothing is ever deleted: a job of 64 ranks that migrates 500 times writes half of this.
pub const KEYS_MAX: usize = 65_536;

/// Most bytes of keys and values together: what the hosting process can spare beside its training.
pub const TOTAL_BYTES_MAX: u64 = 256 << 20;

/// The latest version that a journal may name: a store that wrote a million times a second would take 290,000 years to
/// get there, and versions after it can be counted.
pub const VERSION_MAX: u64 = u64::MAX / 2;

/// A journal is written anew when it is twice as long as what the store holds, and this: so often that it stays short, and
/// so seldom that nobody waits for it often.
pub const JOURNAL_SLACK_BYTES: u64 = 64 << 20;

/// Most bytes of a journal: twice what a store may hold, the slack, and heads of records. A longer one is another program's.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// Most clients at a time. A rank holds two or three connections; the usual soft limit of open files is 1024.
pub const CLIENTS_MAX: usize = 900;

/// Most bytes that all clients' unfinished requests and unread answers may occupy.
pub const BUFFERED_BYTES_MAX: usize = 256 << 20;

/// What one client may have buffered when the above is used up: enough for any request but a large value.
pub const BUFFERED_SMALL_BYTES: usize = 64 << 10;

/// Longest frame body: one value, its key, and the few numbers around them.
pub const FRAME_BODY_BYTES_MAX: usize = VALUE_LEN_BYTES_MAX + 4096;

/// Longest piece of text in a refusal: several sentences, so that a hostile peer can't fill a log.
pub const TEXT_LEN_BYTES_MAX: usize = 1024;

/// Most entries of one page of a listing. A page also ends where the frame is full.
pub const LIST_PAGE_ENTRIES_MAX: usize = 4096;

/// Longest wait that the server grants for one request; a client that waits longer asks again. It bounds how long a
/// silent death of the server goes unnoticed.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// A connection that hasn't said who it is by then is closed.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(3);

/// A request that was begun, or an answer that isn't read, may take this long. The largest value needs 420 kB/s.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection without a request for this long is closed; clients reconnect by themselves.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How many writes that were overwritten since are remembered by their token, so that a swap whose answer was lost
/// can still be told that it won: several seconds' worth under the heaviest use.
pub const REMEMBERED_WINS_MAX: usize = 4096;

/// Longest ticket in a peer's claim. A ticket names a few addresses and keys; this holds hundreds of them.
pub const TICKET_LEN_BYTES_MAX: usize = 64 << 10;

/// Longest host name, or reason of a drain order: host names end at 253 bytes by their own rules.
pub const NAME_LEN_BYTES_MAX: usize = 255;

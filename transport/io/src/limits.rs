//! Limits that only the doing half needs; the others are in [`xfer_transport_core::limits`].

use std::time::Duration;

use xfer_transport_core::limits::CHUNK_ATTEMPTS_MAX;

/// Longest wait that anybody asks for: a hundred years are as good as for ever, and far from where a clock would overflow.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Live grants of one endpoint. Each is a table entry that every arriving chunk may have to look up.
pub const GRANTS_MAX: usize = 65_536;

/// Messages that wait in a subscriber's channel; more stay with the peer's path, and then with the peer.
pub const SUBSCRIBER_MESSAGES_MAX: usize = 256;

/// Loans to one peer that are not back. Each keeps memory that nobody else can have.
pub const LOANS_MAX: usize = 4_096;

/// Events that wait for a subscriber of events. What it doesn't take is dropped and counted.
pub const EVENTS_MAX: usize = 4_096;

/// Transfers up to this size are sent by the thread that asks for them: cheaper than waking another.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;

/// The same of a step, which somebody waits for: a wake-up takes longer than a socket takes so much.
pub const INLINE_STEP_BYTES_MAX: u64 = 256 << 10;

/// The same of a step where the other end sees the memory: nothing is copied here, and what is summed is summed while the other
/// end copies.
pub const INLINE_SEEN_BYTES_MAX: u64 = 1 << 20;

/// The longest that a link may look for more without sleeping: beyond it a wake-up is a small part of the wait.
pub const BUSY_POLL_MAX: Duration = Duration::from_millis(1);

/// How long somebody looks at memory that both ends see for what has to come next, where such looks have paid: what waking two
/// threads costs, with some time for the other end to do its part.
pub const LOOK_AHEAD: Duration = Duration::from_micros(50);

/// What a look for the end of a transfer is longer by, in bytes of it a microsecond: as fast as a busy machine copies them.
pub const LOOK_BYTES_PER_US: u64 = 8 << 10;

/// How many sleeps follow a look that found nothing, at most: each such look makes them twice as many.
pub const SLEEPS_PER_LOOK_MAX: u32 = 64;

/// Looks at memory before the processor is offered to others, a few hundred nanoseconds: where the other end runs on the same
/// one, every look is in its way, and where it doesn't, an offer that nobody takes costs about as much.
pub const LOOKS_BEFORE_YIELD: usize = 16;

/// Looks at memory before the kernel is asked too, a few microseconds: what comes over a socket meanwhile has taken longer than that.
pub const LOOKS_BEFORE_CALL: usize = 64;

/// Looks before the processor is offered to others where each look is a system call.
pub const CALLS_BEFORE_YIELD: usize = 4;

/// Peers at which whoever waits for a message of any looks for a moment without being told to: each costs a call or two a look.
pub const LOOKED_AT_MAX: usize = 4;

/// How often a thread tries to get at a link that another looks at, which has it for one system call at a time: a microsecond or two. After
/// that it does something else with it.
pub const LOOKED_AT_TRIES: u32 = 128;

/// Whoever gets the processor back later than this has offered it to somebody who computes, and who would have it again at the
/// next offer: from then on sleeping is the sooner way to get it. A scheduler lets one who computes go on for longer than this, and one
/// who looks, too, is through sooner.
pub const YIELD_MAX: Duration = Duration::from_millis(1);

/// How many times as long as such a look took the endpoint goes without any, at most: some milliseconds are as much as hundreds of
/// wake-ups, which the looks between have to save first.
pub const HELD_UP_TIMES_MAX: u32 = 64;

/// How many times more that is each time: the first look that is held up means nothing, and a few in a row say that somebody computes
/// there.
pub const HELD_UP_STEP: u32 = 4;

/// How long the end of a link waits for the other end to read the last words.
pub const FAREWELL: Duration = Duration::from_millis(300);

/// How soon a message is offered again to a subscriber whose channel was full.
pub const RETRY_SUBSCRIBER_AFTER: Duration = Duration::from_millis(2);

/// How long a shutdown waits for queued messages to be received.
pub const LINGER: Duration = Duration::from_millis(500);

/// How long a shutdown waits for links to say goodbye and for threads to end, after the linger.
pub const SHUTDOWN_REST: Duration = Duration::from_millis(1_000);

/// How long an accept waits before it looks whether the endpoint is shutting down.
pub const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// How often lost links are dialled again: soon beside a deadline of seconds, rarely beside what a call costs.
pub const REDIAL_EVERY: Duration = Duration::from_millis(200);

/// How long one such attempt may take: a peer that is silent for longer is declared dead anyway.
pub const REDIAL_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How often a connect that met the end of an earlier connection begins again: once is usual, and a peer with which it goes on
/// and on is not there to stay.
pub const CONNECTED_ANEW_MAX: u32 = 3;

/// How long the thread for signs of life waits while there is no peer; it is woken when one comes.
pub const IDLE_BEATS_WAIT: Duration = Duration::from_secs(1);

/// Bytes that a link reads before its thread looks at what is to be sent.
pub const READ_BUDGET_BYTES: usize = 4 << 20;

/// Bytes of a segment of the arena, unless one region needs more. Many small tensors share one, so that descriptors and
/// mappings are few; only what was allocated has pages.
pub const ARENA_SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes of the ring through which a link passes memory that can't be shared: small enough to stay in the processor's
/// caches between the two copies, large enough that both ends always have a part to work on.
pub const RING_BYTES: u64 = 1 << 20;

/// A grant of so many bytes is filled past the caches. Measured beside 32 MiB of cache: through them half as fast at
/// 64 MiB, equal at 16 MiB, twice as fast at 4 MiB.
pub const STREAM_BYTES_MIN: u64 = 16 << 20;

/// Segments that one link shows to its peer, or is shown by it. Each is a mapping; what is over goes through the ring.
pub const SEGMENTS_MAX: usize = 1_024;

/// Ended transfers that the flight recorder keeps: some thousand items leave in one hand-over, and the last of them tell why it
/// failed. About 200 KB.
pub const FLIGHT_RECORDS_MAX: usize = 1_024;

/// How long a device is given to come to the end of what it reads or writes before it is stopped, which costs its link: a chunk
/// takes it a tenth of a millisecond to some ten; a fence is to be there within a quarter of a second.
pub const READER_GRACE: Duration = Duration::from_millis(150);

/// How often whoever waits for a device looks whether it is through.
pub const READER_LOOK_EVERY: Duration = Duration::from_micros(100);

/// Chunks from this size on are sent without the kernel's copy, where that is asked for. Measured (docs/zerocopy.md): sending them costs
/// the kernel 0.90 of what it does with the copy, and as much or more at 128 KiB and below.
pub const ZEROCOPY_BYTES_MIN: u32 = 256 << 10;

/// So many sends more in which that gained nothing than in which it did, and a link asks for it no more: a few milliseconds' worth.
pub const ZEROCOPY_VAIN_MAX: u32 = 8;

/// A send that the kernel needs longer than this, its acknowledgement included, gains nothing: half of what a fence waits for before it
/// ends the connection, so that on a slow path one costs no more than where the kernel has a copy.
pub const ZEROCOPY_HELD_MAX: Duration = Duration::from_millis(75);

/// How long a queue pair that was stopped may take to give back what was under way before it is ended for good.
pub const DRAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// Packets that one end of a queue pair has room for before it is known who is at the other, and where nothing but signs of life comes
/// from there: enough for greetings and a few signs of life, and little of the memory that may be pinned.
pub const RDMA_ROOM_AT_FIRST: u16 = 8;

/// Packets that one end of a queue pair has room for. Each is a buffer of 8 KiB at both ends; a batch of acknowledgements takes one,
/// and what is longer than some of them is read from where it lies.
pub const RDMA_ROOM: u16 = 32;

/// Chunks of one link that the other end may read and has not taken: it works on one, and the next is there when that is done.
pub const EXPOSED_CHUNKS_MAX: usize = 16;

/// Bytes of these from which on no further one is exposed: two chunks of the usual length are under way, so that the wire is never
/// idle between them, and a higher lane waits for no more than that.
pub const EXPOSED_BYTES_ENOUGH: u64 = 1 << 20;

/// Reads of one link that are under way at once; devices allow 16 and more.
pub const READS_MAX: u8 = 16;

/// Bytes that one link keeps registered for later use. Registered memory can't be moved or paged out, and counts against what a
/// process may lock.
pub const REGISTERED_BYTES_MAX: u64 = 256 << 20;

/// Most that is registered at once: what is near a chunk is likely to be needed soon, and registering costs by the page.
pub const REGISTERED_BLOCK_BYTES: u64 = 16 << 20;

/// A chunk that comes back so often goes by the way that asks nothing of the other end: what it was told there of a better way may
/// still be on its way here, behind the request to send again, and a chunk has twice as many attempts in all.
pub const ASKING_ATTEMPTS_MAX: u8 = (CHUNK_ATTEMPTS_MAX / 2) as u8;

/// Regions of devices' memory that one device can't reach, and isn't asked to again: more than a job has buffers there that matter. Each
/// is a pointer and a sentence.
pub const REFUSED_DMABUFS_MAX: usize = 256;

/// How long memory stays registered that nobody has used.
pub const REGISTERED_FOR: Duration = Duration::from_secs(10);

/// Rails, which are devices that a process uses side by side: more than a machine has.
pub const RAILS_MAX: usize = 16;

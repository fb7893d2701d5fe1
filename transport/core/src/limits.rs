//! Every limit of the transport, in one place, each with its reason.

use std::time::Duration;

use crate::Lane;

/// Bytes of a frame header on the wire.
pub const FRAME_HEADER_BYTES: usize = 48;

/// The smallest chunk. Below a page, headers and acknowledgements cost more than the payload.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;

/// The largest chunk. A chunk is what a higher lane waits for and what is sent again after damage.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;

/// The chunk unless configured. Large enough that a header, an acknowledgement and a wake-up vanish in its copy;
/// small enough to be still in the second-level cache when its checksum is followed by its copy.
pub const CHUNK_BYTES_DEFAULT: u32 = 1 << 20;

/// The longest chunk that travels on the link for messages. It holds up an acknowledgement for as long as it takes to
/// copy, some 20 microseconds, which is what a wake-up costs too.
pub const EXPRESS_BYTES_MAX: u32 = 64 << 10;

/// Bytes of a step that may be under way while more goes on the link for messages: who posts more is after throughput, and
/// a queue of its chunks must not form in front of acknowledgements and signs of life.
pub const EXPRESS_WINDOW_BYTES: u64 = 256 << 10;

/// Chunks of one transfer. Bounds the bookkeeping of a transfer; larger ones use larger chunks.
pub const CHUNKS_PER_TRANSFER_MAX: u64 = 1 << 20;

/// Bytes of one transfer: what the largest chunk and the chunk count allow (16 TiB).
pub const TRANSFER_BYTES_MAX: u64 = CHUNKS_PER_TRANSFER_MAX * CHUNK_BYTES_MAX as u64;

/// Transfers to one peer that are not yet over and reported. Bounds the tables of both ends.
pub const TRANSFERS_PER_PEER_MAX: usize = 65_536;

/// How often a chunk is sent before its transfer fails. Damage that repeats is a broken host, not noise.
pub const CHUNK_ATTEMPTS_MAX: u32 = 8;

/// Bytes of one application message. What is larger is a transfer.
pub const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// Bytes of one link message: a full batch of acknowledgements fits.
pub const LINK_MESSAGE_BYTES_MAX: u32 = 32 << 10;

/// Bytes of one greeting (hello, welcome, reject, bye): read before anything about the peer is known.
pub const GREETING_BYTES_MAX: u32 = 512;

/// Acknowledgements in one link message: more than a full window of chunks, so that one message can answer it.
pub const ACKS_PER_MESSAGE_MAX: usize = 1_024;

/// Ended transfers in one link message: more than end between two messages, in 8 KiB of body.
pub const ENDED_PER_MESSAGE_MAX: usize = 1_024;

/// Bytes of a job's name: a run id with a suffix; it travels in every greeting.
pub const JOB_BYTES_MAX: usize = 128;

/// Bytes of the sentence with which a peer is refused.
pub const REASON_BYTES_MAX: usize = 256;

/// Bytes of a ticket. It is carried by a store, next to many others.
pub const TICKET_BYTES_MAX: usize = 1_024;

/// Addresses in a ticket: one for each way to move bytes that a build may know.
pub const ADDRESSES_MAX: usize = 8;

/// Bytes of one address in a ticket: an IPv6 address with zone and port, or a backend's own keys.
pub const ADDRESS_BYTES_MAX: usize = 64;

/// Links to one peer, counting those that both ends opened at the same moment: twice one for control, one for signs of
/// life, sixteen for data, and two that stand by over other backends.
pub const LINKS_PER_PEER_MAX: usize = 40;

/// Bytes that a packet between ends which share memory carries itself. Up to about this many, copying them twice through
/// a socket costs less than the second packet that a place in shared memory takes.
pub const PACKET_INLINE_BYTES_MAX: usize = 16 << 10;

/// Between ends which share memory, the sum of a chunk that is longer follows it in a packet of its own: it is taken while the
/// other end copies. Up to about this many bytes, that packet costs as much as the sum.
pub const SUM_AHEAD_BYTES_MAX: u32 = 64 << 10;

/// Bytes of payload that a packet between queue pairs carries itself. Up to about this many, copying them twice costs less
/// than the round trip that a read takes; and there is room for some dozens of them at both ends of every link.
pub const RDMA_INLINE_BYTES_MAX: usize = 8 << 10;

/// Channels of one peer: each costs a queue of messages.
pub const CHANNELS_MAX: usize = 64;

/// Messages of one channel that the peer has not taken yet. More is backpressure for the sender.
pub const CHANNEL_MESSAGES_MAX: usize = 1_024;

/// Bytes of one channel's messages that the peer has not taken yet.
pub const CHANNEL_BYTES_MAX: usize = 4 << 20;

/// Link messages that a peer may leave unacknowledged. An honest peer answers a few; one that sends data but never
/// acknowledges is cut off here.
pub const LINK_MESSAGES_MAX: usize = 65_536;

/// Messages received before they are acknowledged without waiting for the next heartbeat.
pub const RECEIVED_BEFORE_ACK: u32 = 64;

/// Bytes of messages received before they are acknowledged without waiting for the next heartbeat.
pub const RECEIVED_BYTES_BEFORE_ACK: usize = 1 << 20;

/// Finished transfers that are reported to the peer together.
pub const ENDED_BATCH: usize = 256;

/// How often an idle link says that it is alive.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

/// Silence after which a link is suspected: five lost heartbeats.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(500);

/// Silence after which a link is dead: ten lost heartbeats. Pauses below 400 ms must never be mistaken for death.
pub const DEAD_AFTER: Duration = Duration::from_millis(1_000);

/// A pause of our own thread that is longer than this is taken off the peer's silence: it was we who did not listen.
pub const OWN_PAUSE_MIN: Duration = Duration::from_millis(250);

/// How long a link whose thread is held up at the other end is kept, while the other end's process says that this is so. A
/// thread that hangs for longer hangs for good.
pub const HELD_UP_MAX: Duration = Duration::from_secs(10);

/// How long a peer that gives signs of life may be without any link that carries something: several attempts to open one
/// fit, and whoever waits for a transfer without a deadline hears of it.
pub const STRANDED_MAX: Duration = Duration::from_secs(3);

/// How long a connection may take to introduce itself.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that have not introduced themselves yet. Each costs a thread and a socket.
pub const HANDSHAKES_MAX: usize = 64;

/// How long a fence waits for its proof before the transfer is quarantined.
pub const FENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a way to a peer is opened again before it is left alone, if there is another: a cable that is pulled and put back a few
/// times is forgiven.
pub const OPENED_AGAIN_MAX: usize = 6;

/// Within which time that counts: long enough for a way that breaks with every large transfer, however seldom these are.
pub const OPENED_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// Chunks that one link may be bringing at once: a device reads half as many at most, and where there is none they come one after
/// the other.
pub const CHUNKS_ARRIVING_PER_LINK_MAX: usize = 32;

/// Payload bytes of a lane that may be posted to links and not yet acknowledged, all links of a peer together.
///
/// Bytes in a socket can't be recalled: what is posted of a lower lane is what a higher lane waits for, so lower
/// lanes get less. Each is several times what a 100 Gb/s network holds in 100 microseconds.
pub const fn lane_window_bytes(lane: Lane) -> u64 {
    match lane {
        Lane::Control => 4 << 20,
        Lane::Step => 16 << 20,
        Lane::Rescue => 8 << 20,
        Lane::Bulk => 4 << 20,
    }
}

/// Ranges of one piece of memory that are known to have landed: a transfer's chunks, before those that follow each other are
/// counted as one, and 80 KB of a message. What is over is not noted, and is sent again if it comes to that.
pub const LANDED_RANGES_MAX: usize = 4_096;

/// While a limit on what leaves binds, a transfer of at most so many bytes goes before longer ones of its lane, whoever they
/// are for: cursors, tables and small parameters, each of which delays the others by less than a usual chunk does.
pub const SHORT_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_a_usual_chunk_and_a_lower_lane_gets_no_more() {
        let windows = [Lane::Step, Lane::Rescue, Lane::Bulk].map(lane_window_bytes);
        assert!(windows.is_sorted_by(|higher, lower| higher > lower), "{windows:?}");
        // What a network of 100 Gb/s holds in 100 us, which is more than a usual chunk of 1 MiB.
        assert!(Lane::ALL.map(lane_window_bytes).iter().all(|window| *window > 1_250_000));
    }
}

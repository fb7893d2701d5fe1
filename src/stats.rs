//! Counters of an engine, as JSON.

use serde_json::{Map, Value, json};
use xfer_transport::Stats;
use xfer_transport_core::Lane;

/// All counters of the transport as a JSON object; sizes in bytes, the lanes by name.
pub(crate) fn to_json(stats: &Stats) -> String {
    let lanes: Map<String, Value> = Lane::ALL
        .into_iter()
        .map(|lane| {
            let counters = stats.lane(lane);
            let counters = json!({
                "sent_bytes": counters.sent_bytes,
                "sent_chunks": counters.sent_chunks,
                "received_bytes": counters.received_bytes,
                "received_chunks": counters.received_chunks,
                "transfers_done": counters.transfers_done,
                "done_bytes": counters.done_bytes,
            });
            (lane.to_string(), counters)
        })
        .collect();
    json!({
        "lanes": lanes,
        "transfers_started": stats.transfers_started,
        "transfers_done": stats.transfers_done,
        "transfers_cancelled": stats.transfers_cancelled,
        "transfers_expired": stats.transfers_expired,
        "transfers_failed": stats.transfers_failed,
        "chunks_retried": stats.chunks_retried,
        "chunks_damaged": stats.chunks_damaged,
        "late_bytes": stats.late_bytes,
        "fences": stats.fences,
        "revocations": stats.revocations,
        "quarantined_transfers": stats.quarantined_transfers,
        "quarantined_bytes": stats.quarantined_bytes,
        "messages_sent": stats.messages_sent,
        "messages_received": stats.messages_received,
        "events_dropped": stats.events_dropped,
        "handshakes_refused": stats.handshakes_refused,
        "links_lost": stats.links_lost,
        "peers_up": stats.peers_up,
        "peers_down": stats.peers_down,
    })
    .to_string()
}

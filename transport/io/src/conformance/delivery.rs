//! What is written arrives, and lanes are lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use xfer_transport_core::limits::lane_window_bytes;

use super::{Make, PATIENCE, Pair, Random, eventually, filled, memory, pattern, seed, start};
use crate::{
    Admission, BackendId, Cancelled, Deadline, Endpoint, EndpointConfig, Grant, Lane, TransferError, TransferHandle,
};

/// Sizes around which something could go wrong: nothing, one byte, a page less one, a chunk, several and a bit.
pub const SIZES_BYTES: [u64; 5] = [0, 1, 4095, 1 << 20, (5 << 20) + 3];

/// Every size arrives whole, is accounted for, and its checksum is the source's and the destination's.
pub fn bytes_of_all_sizes_arrive(make: Make<'_>) {
    let pair = Pair::new(make);
    for (salt, len_bytes) in SIZES_BYTES.into_iter().enumerate() {
        let source = filled(pattern(len_bytes, salt as u64));
        let (destination, grant) = pair.granted(len_bytes);
        let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
        let done = write.wait(Some(PATIENCE)).expect("applied and verified");
        assert_eq!(done.bytes, len_bytes);
        assert_eq!(done.crc32c, source.crc32c());
        assert_eq!(done.over.iter().map(|(_, bytes)| bytes).sum::<u64>(), len_bytes);
        assert_eq!(grant.received(), len_bytes);
        assert_eq!(destination.copy_to_vec(), source.copy_to_vec());
    }
    let (sent, received) = (pair.sender.stats(), pair.receiver.stats());
    let total: u64 = SIZES_BYTES.iter().sum();
    assert_eq!(sent.transfers_done, SIZES_BYTES.len() as u64);
    assert_eq!(sent.lane(Lane::Step).done_bytes, total);
    assert_eq!(received.lane(Lane::Step).received_bytes, total);
    assert_eq!(sent.lane(Lane::Step).sent_bytes, total, "nothing had to be sent twice");
}

/// A range of the source lands in a range of the destination, and nowhere else.
pub fn odd_ranges_arrive_where_they_belong(make: Make<'_>) {
    let pair = Pair::with(make, |config| config.chunk_bytes = 4096);
    let mut random = Random(seed());
    let source = filled(pattern(100_003, 1));
    for _ in 0..50 {
        let (destination, grant) = pair.granted(70_001);
        let len_bytes = random.below(60_000);
        let from = random.below(100_003 - len_bytes);
        let to = random.below(70_001 - len_bytes);
        let slice = source.slice(from..from + len_bytes).expect("inside");
        let remote = grant.remote().slice(to, len_bytes).expect("inside");
        let write = pair.sender.write(pair.receiver.id(), slice, remote, Lane::Bulk, None);
        write.wait(Some(PATIENCE)).expect("applied and verified");
        let mut expected = vec![0; 70_001];
        expected[to as usize..(to + len_bytes) as usize]
            .copy_from_slice(&source.copy_to_vec()[from as usize..(from + len_bytes) as usize]);
        assert!(destination.copy_to_vec() == expected, "{len_bytes} bytes from {from} to {to}");
    }
}

/// Many transfers at once, both ways and in all lanes, don't disturb each other.
pub fn many_transfers_at_once_arrive(make: Make<'_>) {
    const EACH_WAY: u64 = 200;
    let pair = Pair::with(make, |config| config.chunk_bytes = 16 << 10);
    let mut random = Random(seed());
    let mut under_way = Vec::new();
    for salt in 0..2 * EACH_WAY {
        let (from, to) = if salt % 2 == 0 { (&pair.sender, &pair.receiver) } else { (&pair.receiver, &pair.sender) };
        let source = filled(pattern(random.below(100_000), salt));
        let destination = memory(source.len_bytes());
        let grant = to.grant(&destination, from.id()).expect("a grant");
        let lane = Lane::ALL[random.below(4) as usize];
        let write = from.write(to.id(), source.all(), grant.remote().all(), lane, None);
        under_way.push((write, source, destination, grant));
    }
    for (write, source, destination, _grant) in under_way {
        let done = write.wait(Some(PATIENCE)).expect("applied and verified");
        assert_eq!(done.crc32c, source.crc32c());
        assert!(destination.copy_to_vec() == source.copy_to_vec());
    }
}

/// A small step transfer doesn't wait for a large rescue that was there before it.
pub fn a_step_overtakes_a_rescue(make: Make<'_>) {
    const RESCUE_BYTES: u64 = 128 << 20;
    let pair = Pair::new(make);
    let rescue = memory(RESCUE_BYTES);
    let (_rescued, rescue_grant) = pair.granted(RESCUE_BYTES);
    let step = filled(pattern(64 << 10, 2));
    let (stepped, step_grant) = pair.granted(64 << 10);
    let (to, lane) = (pair.receiver.id(), Lane::Rescue);
    let rescuing = pair.sender.write(to, rescue.all(), rescue_grant.remote().all(), lane, None);
    eventually("the rescue is under way", || rescue_grant.received() > 0);
    // Read when the step completes, on the thread that completes it.
    let received_then = Arc::new(AtomicU64::new(u64::MAX));
    let (then, grant) = (Arc::clone(&received_then), rescue_grant);
    let grant = Arc::new(grant);
    let watched = Arc::clone(&grant);
    let stepping = pair.sender.write(to, step.all(), step_grant.remote().all(), Lane::Step, None);
    stepping.on_done(Box::new(move |_| then.store(watched.received(), Ordering::SeqCst)));
    stepping.wait(Some(PATIENCE)).expect("applied and verified");
    assert_eq!(stepped.crc32c(), step.crc32c());
    eventually("the callback ran", || received_then.load(Ordering::SeqCst) != u64::MAX);
    assert!(received_then.load(Ordering::SeqCst) < RESCUE_BYTES, "the step waited for all of the rescue");
    rescuing.wait(Some(PATIENCE)).expect("the rescue goes on");
    assert_eq!(grant.received(), RESCUE_BYTES);
}

/// A receiver that takes nothing costs its sender no more than the lane's window.
pub fn what_is_posted_is_bounded(make: Make<'_>) {
    let pair = Pair::new(make);
    let len_bytes = 4 * lane_window_bytes(Lane::Rescue);
    let source = memory(len_bytes);
    let (_destination, grant) = pair.granted(len_bytes);
    pair.receiver_links.pause(true);
    let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
    let window = lane_window_bytes(Lane::Rescue);
    let sent = || pair.sender.stats().lane(Lane::Rescue).sent_bytes;
    // A backend may hold less by itself, but every one posts something.
    eventually("something is posted", || sent() > 0);
    // Until the first link is given up for dead, and what it carried goes again over the next.
    while pair.sender.stats().links_lost == 0 && write.try_result().is_none() {
        let (posted, lost) = (sent(), pair.sender.stats().links_lost);
        assert!(posted <= window || lost > 0, "{posted} bytes were posted to a peer that takes nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    let outcome = write.wait(Some(PATIENCE));
    assert!(matches!(outcome, Err(TransferError::PeerGone { .. })), "{outcome:?}");
    pair.receiver_links.pause(false);
}

/// A transfer says which backend carried it.
pub fn the_path_is_reported(make: Make<'_>, expected: BackendId) {
    let pair = Pair::new(make);
    let source = filled(pattern(3 << 20, 3));
    let (_destination, grant) = pair.granted(3 << 20);
    let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
    let done = write.wait(Some(PATIENCE)).expect("applied and verified");
    assert_eq!(done.over, [(expected, 3 << 20)]);
    assert_eq!(done.retried_chunks, 0);
}

/// While a limit binds, what was asked for first leaves first, whichever peer it is for.
pub fn a_limit_is_shared_in_the_order_of_the_requests(make: Make<'_>) {
    const CHUNKS: u64 = 24;
    const CHUNK_BYTES: u64 = 64 << 10;
    let change = |config: &mut EndpointConfig| config.chunk_bytes = CHUNK_BYTES as u32;
    let [(sender, _), (first, _), (second, _)] = [0, 1, 2].map(|rank| start(make, rank, 1, &change));
    let granted = |to: &Endpoint| {
        sender.connect(&to.ticket(), PATIENCE).expect("connected");
        let region = memory(CHUNKS * CHUNK_BYTES);
        to.grant(&region, sender.id()).expect("a grant")
    };
    let (to_first, to_second) = (granted(&first), Arc::new(granted(&second)));
    let source = filled(pattern(CHUNKS * CHUNK_BYTES, 6));
    let write =
        |to: &Endpoint, grant: &Grant| sender.write(to.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
    // Nothing leaves before both are asked for, and then one chunk every 16 ms.
    sender.set_egress_limit(Some(1));
    let (early, late) = (write(&first, &to_first), write(&second, &to_second));
    let (received, watched) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::clone(&to_second));
    let then = Arc::clone(&received);
    early.on_done(Box::new(move |_| then.store(watched.received(), Ordering::SeqCst)));
    sender.set_egress_limit(Some(4_000_000));
    early.wait(Some(PATIENCE)).expect("applied and verified");
    eventually("the callback ran", || received.load(Ordering::SeqCst) != u64::MAX);
    // By chance it would be all of it. A thread that comes late for its turn loses it.
    let received = received.load(Ordering::SeqCst);
    assert!(received <= CHUNKS / 2 * CHUNK_BYTES, "{received} bytes of what was asked for later went before");
    late.wait(Some(PATIENCE)).expect("its turn came");
}

/// Once a path is measured, a transfer with a deadline says from the start whether it can be in time.
pub fn what_can_not_be_in_time_is_known_when_it_is_asked_for(make: Make<'_>) {
    const LEN_BYTES: u64 = 1 << 20;
    let pair = Pair::with(make, |config| config.chunk_bytes = 64 << 10);
    let (sender, to) = (&pair.sender, pair.receiver.id());
    let source = filled(pattern(LEN_BYTES, 8));
    let (_destination, grant) = pair.granted(LEN_BYTES);
    let write = |time: Option<Duration>| {
        let deadline = time.map(|time| sender.deadline_in(time));
        (sender.write(to, source.all(), grant.remote().all(), Lane::Rescue, deadline), deadline)
    };
    let (unmeasured, _) = write(Some(PATIENCE));
    assert_eq!((unmeasured.forecast(), sender.forecast(to, Lane::Rescue, 1)), (None, None));
    unmeasured.wait(Some(PATIENCE)).expect("applied and verified");
    eventually("the path is measured", || {
        write(None).0.wait(Some(PATIENCE)).expect("applied and verified");
        sender.rate(to).is_some()
    });
    // An hour for it, then a few seconds of what would take a quarter of one.
    sender.set_egress_limit(Some(1_000));
    let hour = Duration::from_secs(3600);
    let (fits, by) = write(Some(hour));
    let expected = |handle: &TransferHandle, by: Option<Deadline>| {
        handle.forecast().zip(by).map(|(forecast, by)| forecast.admission(by))
    };
    assert_eq!(expected(&fits, by), Some(Admission::Fits));
    let (late, by) = write(Some(PATIENCE));
    assert_eq!(expected(&late, by), Some(Admission::WillNotFit));
    let (behind, own) = (late.forecast().expect("measured"), fits.forecast().expect("measured"));
    assert!(behind.earliest > own.earliest, "it waits for the one before it");
    let overtakes = sender.forecast(to, Lane::Step, 0).expect("measured");
    assert!(overtakes.earliest < own.earliest, "a step waits for no rescue that has not left");
    for handle in [fits, late] {
        assert_eq!(handle.cancel(), Cancelled::Fenced);
    }
}

/// A lane's own limit is kept, and no other lane's.
pub fn a_lane_limit_holds_its_lane_only(make: Make<'_>) {
    const BYTES_PER_S: u64 = 10_000_000;
    let pair = Pair::with(make, |config| {
        config.chunk_bytes = 64 << 10;
        config.lane_bytes_per_s[Lane::Rescue as usize] = Some(BYTES_PER_S);
    });
    assert_eq!(pair.sender.lane_limit(Lane::Rescue), Some(BYTES_PER_S));
    let source = filled(pattern(2_000_000, 7));
    let (_destination, grant) = pair.granted(2_000_000);
    let write = |lane| pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), lane, None);
    let rescue = write(Lane::Rescue).wait(Some(PATIENCE)).expect("applied and verified");
    // What may leave at once, and the last chunk, which may overdraw.
    let least = (2_000_000 - BYTES_PER_S / 50 - (64 << 10)) as f64 / BYTES_PER_S as f64;
    assert!(rescue.took.as_secs_f64() >= least, "{:?}, not {least} s", rescue.took);
    pair.sender.set_lane_limit(Lane::Rescue, Some(1));
    // The first chunk may overdraw; the second would have to wait for hours.
    let held = write(Lane::Rescue);
    write(Lane::Bulk).wait(Some(PATIENCE)).expect("another lane is not held up");
    assert_eq!(held.try_result(), None);
    pair.sender.set_lane_limit(Lane::Rescue, None);
    held.wait(Some(PATIENCE)).expect("the limit is lifted");
}

/// A limit on what leaves is kept, and lifted when it is lifted.
pub fn the_egress_limit_holds(make: Make<'_>) {
    const BYTES_PER_S: u64 = 20_000_000;
    let pair = Pair::with(make, |config| {
        config.chunk_bytes = 64 << 10;
        config.egress_bytes_per_s = Some(BYTES_PER_S);
    });
    let source = filled(pattern(4_000_000, 4));
    let (_destination, grant) = pair.granted(4_000_000);
    let write = || pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Bulk, None);
    let limited = write().wait(Some(PATIENCE)).expect("applied and verified");
    // What may leave at once, and the last chunk, which may overdraw.
    let free = BYTES_PER_S / 50 + (64 << 10);
    let least = (4_000_000 - free) as f64 / BYTES_PER_S as f64;
    assert!(limited.took.as_secs_f64() >= least, "{:?}, not {least} s", limited.took);
    pair.sender.set_egress_limit(Some(1_000));
    let slow = write();
    eventually("the limit holds it up", || pair.sender.stats().transfers_started == 2);
    pair.sender.set_egress_limit(None);
    slow.wait(Some(PATIENCE)).expect("the limit is lifted");
}

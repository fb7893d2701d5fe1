//! Links break, peers die, and nothing is lost that need not be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Make, PATIENCE, Pair, Random, eventually, filled, memory, pattern, seed, start, text};
use crate::{Cancelled, Channel, DownReason, Lane, PeerEvent, SendError, TransferError};

const LEN_BYTES: u64 = 64 << 20;

/// A transfer survives the loss of links, one after the other, as long as one is left; lost links come back.
pub fn a_lost_link_loses_nothing(make: Make<'_>) {
    let pair = Pair::new(make);
    let events = pair.sender.events();
    let mut random = Random(seed());
    let source = filled(pattern(LEN_BYTES, 1));
    for round in 0..8 {
        eventually("all links are there", || pair.receiver_links.open_links() == 4);
        let (destination, grant) = pair.granted(LEN_BYTES);
        let (to, remote) = (pair.receiver.id(), grant.remote().all());
        let write = pair.sender.write(to, source.all(), remote, Lane::Rescue, None);
        let when = random.below(LEN_BYTES);
        eventually("it is under way", || grant.received() >= when);
        // The control link, then data links, and the one for signs of life.
        pair.receiver_links.cut(round % 4);
        let done = write.wait(Some(PATIENCE)).expect("the other links carry it");
        assert_eq!((done.bytes, done.crc32c), (LEN_BYTES, source.crc32c()));
        assert!(destination.crc32c() == source.crc32c());
        assert_eq!(grant.received(), LEN_BYTES, "no chunk was applied twice");
    }
    assert_eq!(events.try_iter().collect::<Vec<_>>(), [], "the peer was there all the time");
}

/// A peer whose connections break is gone at once; its transfers fail, those of others don't.
pub fn a_dead_peer_fails_only_its_own_transfers(make: Make<'_>) {
    let (sender, _) = start(make, 0, 1, &|_| {});
    let (dying, dying_links) = start(make, 1, 1, &|_| {});
    let (living, _) = start(make, 2, 1, &|_| {});
    let events = sender.events();
    for peer in [&dying, &living] {
        sender.connect(&peer.ticket(), PATIENCE).expect("connected");
        assert_eq!(events.recv_timeout(PATIENCE), Ok(PeerEvent::Up(peer.id())));
    }
    let source = filled(pattern(LEN_BYTES, 2));
    let write = |to: &crate::Endpoint| {
        let destination = memory(LEN_BYTES);
        let grant = to.grant(&destination, sender.id()).expect("a grant");
        let write = sender.write(to.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
        (write, destination, grant)
    };
    let (lost, _, lost_grant) = write(&dying);
    let (kept, kept_destination, _kept_grant) = write(&living);
    eventually("both are under way", || lost_grant.received() > 0);
    dying_links.cut_all();
    match lost.wait(Some(PATIENCE)) {
        Err(TransferError::PeerGone { peer, .. }) => assert_eq!(peer, dying.id()),
        // The last byte may have been faster.
        Ok(done) => assert_eq!(done.bytes, LEN_BYTES),
        Err(error) => panic!("{error}"),
    }
    let mut down = None;
    eventually("the dead peer is gone", || {
        // It is called again while the last of its links is found broken; whoever is dead doesn't answer then either.
        dying_links.cut_all();
        down = events.try_recv().ok();
        down.is_some()
    });
    let down = down.expect("an event");
    // It may have been called again before the last of its links was found broken: in vain, or it has given this end up by then.
    let broke = |reason: &DownReason| {
        use DownReason::{Lost, Replaced, Reset, Unreachable};
        matches!(reason, Lost(_) | Reset(_) | Replaced(_) | Unreachable(_))
    };
    assert!(matches!(&down, PeerEvent::Down { peer, reason } if *peer == dying.id() && broke(reason)), "{down:?}");
    assert_eq!((sender.peer(1), sender.peer(2)), (None, Some(living.id())));
    let done = kept.wait(Some(PATIENCE)).expect("another peer's death is no reason to fail");
    assert_eq!(done.crc32c, source.crc32c());
    assert!(kept_destination.crc32c() == source.crc32c());
    // To a peer that is gone nothing is begun.
    let late = sender.write(dying.id(), source.all(), lost_grant.remote().all(), Lane::Step, None);
    assert_eq!(late.wait(None), Err(TransferError::NotConnected(dying.id())));
    let message = sender.send(dying.id(), Channel(1), text("too late"));
    assert_eq!(message, Err(SendError::NotConnected(dying.id())));
}

/// A peer that says nothing is found dead. Since it may wake up, no fence is claimed; since it is not there, nothing
/// is waited for.
pub fn a_silent_peer_is_found_dead(make: Make<'_>) {
    let pair = Pair::new(make);
    let events = pair.sender.events();
    let source = filled(pattern(LEN_BYTES, 3));
    let (_destination, grant) = pair.granted(LEN_BYTES);
    pair.receiver_links.pause(true);
    let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
    let outcome = write.wait(Some(PATIENCE));
    let silent = |outcome: &Result<_, TransferError>| {
        matches!(outcome, Err(TransferError::PeerGone { reason: DownReason::Silent(_), .. }))
    };
    assert!(silent(&outcome), "{outcome:?}");
    assert_eq!(write.cancel(), Cancelled::Quarantined, "the peer may wake up and apply what it has received");
    let down = events.recv_timeout(PATIENCE);
    assert!(matches!(down, Ok(PeerEvent::Down { reason: DownReason::Silent(_), .. })), "{down:?}");
    assert_eq!(pair.sender.stats().quarantined_transfers, 1);
    assert_eq!(pair.sender.stats().quarantined_bytes, 0, "nobody is left to hold the memory for");
    // It wakes up, finds its links closed, and comes back as the same life.
    pair.receiver_links.pause(false);
    eventually("it notices", || pair.receiver.peer(0).is_none());
    // More than once, if it is answered on a link that the other end had given up.
    eventually("the same life comes back", || {
        pair.receiver.connect(&pair.sender.ticket(), PATIENCE).is_ok()
            && pair.sender.peer(1) == Some(pair.receiver.id())
    });
}

/// A cancel while the peer says nothing returns within its bound, and claims nothing.
pub fn a_cancel_without_an_answer_is_quarantine(make: Make<'_>) {
    let pair = Pair::new(make);
    let source = filled(pattern(LEN_BYTES, 4));
    let (_destination, grant) = pair.granted(LEN_BYTES);
    let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
    eventually("it is under way", || grant.received() > 0);
    pair.receiver_links.pause(true);
    let outcome = write.cancel();
    let stats = pair.sender.stats();
    match outcome {
        Cancelled::Quarantined => {
            assert!(stats.quarantined_transfers == 1 && write.try_result().is_some());
            // That it is found dead proves nothing either: it may wake up.
            eventually("the silent peer is found dead", || pair.sender.stats().quarantined_bytes == 0);
            assert_eq!(write.cancel(), Cancelled::Quarantined);
        }
        // All of it may have been acknowledged just before.
        Cancelled::Completed(done) => assert_eq!(done.bytes, LEN_BYTES),
        Cancelled::Fenced => panic!("a fence was claimed that nobody can have proven"),
    }
    pair.receiver_links.pause(false);
}

/// Bytes that change while they are sent never count as sent: either all of them arrived as they were at some
/// moment each, or the transfer fails.
pub fn a_source_that_changes_is_noticed(make: Make<'_>) {
    let pair = Pair::with(make, |config| config.chunk_bytes = 256 << 10);
    let source = memory(8 << 20);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(seed());
            while !stop.load(Ordering::SeqCst) {
                let at = random.below((8 << 20) - 64);
                source.write_at(at, &random.next().to_le_bytes()).expect("inside");
            }
        });
        for _ in 0..20 {
            let (destination, grant) = pair.granted(8 << 20);
            let to = pair.receiver.id();
            let write = pair.sender.write(to, source.all(), grant.remote().all(), Lane::Step, None);
            match write.wait(Some(PATIENCE)) {
                Ok(done) => assert_eq!(done.crc32c, destination.crc32c(), "a torn success"),
                Err(TransferError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// A shutdown returns within two seconds, whatever is under way and whoever doesn't answer.
pub fn a_shutdown_is_bounded(make: Make<'_>) {
    for paused in [false, true] {
        let pair = Pair::new(make);
        let source = filled(pattern(LEN_BYTES, 5));
        let (_destination, grant) = pair.granted(LEN_BYTES);
        let events = pair.receiver.events();
        pair.sender.set_egress_limit(Some(1_000_000));
        let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
        pair.sender.send(pair.receiver.id(), Channel(1), text("the last words")).expect("queued");
        pair.receiver_links.pause(paused);
        let started = Instant::now();
        pair.sender.shutdown();
        assert!(started.elapsed() <= Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(write.wait(None), Err(TransferError::ShutDown));
        if paused {
            pair.receiver_links.pause(false);
            assert!(matches!(events.recv_timeout(PATIENCE), Ok(PeerEvent::Down { .. })));
        } else {
            let down = events.recv_timeout(PATIENCE);
            let left = PeerEvent::Down { peer: pair.sender.id(), reason: DownReason::Left };
            assert_eq!(down, Ok(left));
        }
        let late = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
        assert_eq!(late.wait(None), Err(TransferError::ShutDown));
    }
}

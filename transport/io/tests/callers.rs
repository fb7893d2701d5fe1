//! Threads that wait for something of a peer take in by themselves what arrives, over shared memory and TCP, without being told to
//! look: whatever they wait for, however many they are, and whenever they stop.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use xfer_transport::backend::Backend;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::{Make, PATIENCE, Pair, Random, pattern, seed};
use xfer_transport::{Channel, Endpoint, Lane, Region, TransferError};

fn over_shm() -> Arc<dyn Backend> {
    Arc::new(ShmBackend::bind().expect("shared memory"))
}

fn over_tcp() -> Arc<dyn Backend> {
    Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"))
}

const WAYS: [Make<'static>; 2] = [&over_shm, &over_tcp];

/// Memory of `to` that `from` may write, with what is written there, again and again, until `rounds` are through.
fn write_again_and_again(from: &Endpoint, to: &Endpoint, len_bytes: u64, rounds: u64) {
    let destination = Region::allocate(len_bytes).expect("memory");
    let grant = to.grant(&destination, from.id()).expect("a grant");
    for round in 0..rounds {
        let bytes = pattern(len_bytes, seed() + round);
        let source = Region::from_vec(bytes.clone());
        let write = from.write(to.id(), source.all(), grant.remote().all(), Lane::Step, None);
        write.wait(Some(PATIENCE)).expect("applied and verified");
        assert!(destination.copy_to_vec() == bytes, "round {round} of {len_bytes} bytes");
    }
}

#[test]
fn callers_of_both_ends_wait_for_writes_and_messages_while_bulk_comes_and_goes() {
    for make in WAYS {
        let pair = Pair::new(make);
        let ends = [(&pair.sender, &pair.receiver), (&pair.receiver, &pair.sender)];
        thread::scope(|scope| {
            for (here, there) in ends {
                for (len_bytes, rounds) in [(9 << 20, 12), (64 << 10, 400), (300 << 10, 100), (100, 400)] {
                    scope.spawn(move || write_again_and_again(here, there, len_bytes, rounds));
                }
                let incoming = here.subscribe(Channel(1));
                scope.spawn(move || {
                    for number in 0..400 {
                        let payload = pattern(8 + Random(number).below(300), number);
                        here.send(there.id(), Channel(1), payload.clone().into()).expect("room");
                        // The other end says the same.
                        let next = here.next(&incoming, Some(PATIENCE)).expect("a message");
                        assert!(next.payload == payload, "message {number}");
                    }
                });
            }
        });
    }
}

#[test]
fn who_stops_waiting_leaves_what_comes_next_to_others() {
    for make in WAYS {
        let pair = Pair::new(make);
        let incoming = pair.sender.subscribe(Channel(1));
        let mut random = Random(seed());
        for number in 0..600_u64 {
            // Looks, and stops at a random moment around the one at which the message comes.
            let early = pair.sender.next(&incoming, Some(Duration::from_nanos(1 + random.below(20_000))));
            assert_eq!(early, None);
            let payload = Bytes::copy_from_slice(&number.to_le_bytes());
            pair.receiver.send(pair.sender.id(), Channel(1), payload).expect("room");
            let late = pair.sender.next(&incoming, Some(Duration::from_nanos(1 + random.below(60_000))));
            // Whoever sleeps for it is told by another thread.
            let message = late.or_else(|| incoming.recv_timeout(PATIENCE).ok()).expect("a message");
            assert_eq!(message.payload[..], number.to_le_bytes());
        }
    }
}

#[test]
fn a_wait_that_ends_before_its_transfer_takes_nothing_away() {
    for make in WAYS {
        let pair = Pair::new(make);
        let (destination, grant) = pair.granted(64 << 10);
        let incoming = pair.sender.subscribe(Channel(1));
        for round in 0..20 {
            let source = Region::from_vec(pattern(64 << 10, round));
            pair.receiver_links.pause(true);
            let write = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
            let patience = Duration::from_micros(200);
            assert_eq!(write.wait(Some(patience)), Err(TransferError::StillRunning(patience)));
            pair.receiver_links.pause(false);
            pair.receiver.send(pair.sender.id(), Channel(1), Bytes::from_static(b"words")).expect("room");
            assert_eq!(incoming.recv_timeout(PATIENCE).expect("a message").payload, b"words"[..]);
            write.wait(Some(PATIENCE)).expect("applied and verified");
            assert!(destination.copy_to_vec() == source.copy_to_vec());
        }
    }
}

#[test]
fn several_wait_for_one_link_and_each_gets_its_own() {
    for make in WAYS {
        let pair = Pair::new(make);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| write_again_and_again(&pair.sender, &pair.receiver, 16 << 10, 300));
            }
        });
    }
}

#[test]
fn links_that_are_lost_while_callers_look_lose_nothing() {
    for make in WAYS {
        let pair = Pair::new(make);
        thread::scope(|scope| {
            let writes: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| write_again_and_again(&pair.sender, &pair.receiver, 64 << 10, 300)))
                .collect();
            for at in 0.. {
                // One at a time: with the last of them the peer would be gone.
                while pair.receiver_links.open_links() < 4 && writes.iter().any(|write| !write.is_finished()) {
                    thread::yield_now();
                }
                if writes.iter().all(|write| write.is_finished()) {
                    break;
                }
                pair.receiver_links.cut(at % 4);
            }
        });
    }
}

//! Shared memory passes the suite while its ends look instead of sleeping, so that small packets go by mailbox; and whoever
//! waits for a message may look for it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use xfer_transport::backend::Backend;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::{
    Make, PATIENCE, Pair, Random, delivery, failure, fence, identity, look_before_sleeping, messages, pattern, seed,
    trials,
};
use xfer_transport::{Channel, Endpoint, Incoming, SendError};

/// Long enough that most messages find somebody who looks, short enough that some don't.
const BUSY_POLL: Duration = Duration::from_micros(100);

fn make() -> Arc<dyn Backend> {
    look_before_sleeping(BUSY_POLL);
    Arc::new(ShmBackend::bind().expect("shared memory"))
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() { $group::$name(&make, $($($argument),*)?); })*
    };
}

include!("suite/mod.rs");

fn over_tcp() -> Arc<dyn Backend> {
    look_before_sleeping(BUSY_POLL);
    Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"))
}

/// What each message holds: some fit into a letter, some don't, some need many packets.
fn message(number: u64) -> Bytes {
    let len_bytes = [0, 8, 100, 150, 250, 5_000, 40_000][(Random(number).next() % 7) as usize];
    pattern(len_bytes, number).into()
}

fn send(from: &Endpoint, to: &Endpoint, number: u64) {
    while let Err(error) = from.send(to.id(), Channel(1), message(number)) {
        assert!(matches!(error, SendError::Full(_)), "{error}");
        thread::yield_now();
    }
}

#[test]
fn who_looks_for_messages_gets_each_once_and_in_order() {
    const ROUNDS: u64 = 1_500;
    for (make, both_look) in [(&make as Make<'_>, true), (&make, false), (&over_tcp, true)] {
        let pair = Pair::new(make);
        let ends = [(&pair.sender, &pair.receiver, ROUNDS), (&pair.receiver, &pair.sender, ROUNDS / 2)];
        thread::scope(|scope| {
            for (at, (here, there, most)) in ends.into_iter().enumerate() {
                let incoming = here.subscribe(Channel(1));
                scope.spawn(move || {
                    let mut random = Random(seed() + at as u64);
                    let (mut sent, mut taken, expected) = (0, 0, ROUNDS + ROUNDS / 2 - most);
                    // One end has more to say than the other, and both stop now and then.
                    while sent < most || taken < expected {
                        if sent < most {
                            send(here, there, sent);
                            sent += 1;
                        }
                        let looks = both_look || at == 0;
                        let patience = if sent < most || taken == expected { Duration::ZERO } else { PATIENCE };
                        let next = match looks {
                            true => here.next(&incoming, Some(patience.max(Duration::from_micros(random.below(300))))),
                            false => incoming.recv_timeout(patience).ok(),
                        };
                        if let Some(Incoming { from, payload }) = next {
                            assert!((from, &payload) == (there.id(), &message(taken)), "message {taken}");
                            taken += 1;
                        } else {
                            assert!(patience < PATIENCE, "message {taken} did not come");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn who_looks_hears_of_the_end_and_of_nothing_in_time() {
    let pair = Pair::new(&make);
    let incoming = pair.sender.subscribe(Channel(1));
    assert_eq!(pair.sender.next(&incoming, Some(Duration::from_millis(2))), None);
    send(&pair.receiver, &pair.sender, 3);
    let next = pair.sender.next(&incoming, Some(PATIENCE)).expect("a message");
    assert_eq!(next.payload, message(3));
    pair.sender.shutdown();
    assert_eq!(pair.sender.next(&incoming, None), None);
}

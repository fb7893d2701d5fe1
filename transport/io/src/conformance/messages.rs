//! Messages arrive once and in order, and whoever doesn't read them holds up nobody else.

use xfer_transport_core::limits::{CHANNEL_BYTES_MAX, CHANNEL_MESSAGES_MAX, MESSAGE_BYTES_MAX};

use bytes::Bytes;

use super::{Make, PATIENCE, Pair, Random, eventually, filled, pattern, seed, text};
use crate::limits::SUBSCRIBER_MESSAGES_MAX;
use crate::{Channel, Endpoint, Lane, PeerId, SendError};

/// Sends, and waits while the queue is full.
fn send(from: &Endpoint, to: PeerId, channel: Channel, payload: &Bytes) {
    eventually("there is room in the queue", || match from.send(to, channel, payload.clone()) {
        Ok(()) => true,
        Err(SendError::Full(_)) => false,
        Err(error) => panic!("{error}"),
    });
}

/// Messages of all sizes arrive, in the order of their channel.
pub fn messages_keep_their_order(make: Make<'_>) {
    const COUNT: u64 = 2_000;
    let pair = Pair::new(make);
    let channels = [Channel(0), Channel(7), Channel(u16::MAX)];
    let subscribers = channels.map(|channel| pair.receiver.subscribe(channel));
    std::thread::scope(|scope| {
        let (sender, to) = (&pair.sender, pair.receiver.id());
        for (channel, subscriber) in channels.into_iter().zip(subscribers) {
            scope.spawn(move || {
                for number in 0..COUNT {
                    send(sender, to, channel, &Bytes::from(pattern(number % 600, number)));
                }
            });
            scope.spawn(move || {
                for number in 0..COUNT {
                    let incoming = subscriber.recv_timeout(PATIENCE).expect("a message");
                    assert_eq!(incoming.from, sender.id());
                    assert!(incoming.payload == pattern(number % 600, number), "message {number} of {channel:?}");
                }
            });
        }
    });
    eventually("all are counted", || pair.receiver.stats().messages_received == 3 * COUNT);
}

/// The order holds while links break under the messages.
pub fn messages_survive_lost_links(make: Make<'_>) {
    const COUNT: u64 = 3_000;
    let pair = Pair::new(make);
    let mut random = Random(seed());
    let subscriber = pair.receiver.subscribe(Channel(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..COUNT {
                send(&pair.sender, pair.receiver.id(), Channel(1), &Bytes::from(pattern(100, number)));
            }
        });
        for number in 0..COUNT {
            if number % 500 == 250 {
                // The newest may not have introduced itself yet, and one that has must be left: without any, the peer is gone.
                eventually("links to cut", || pair.receiver_links.open_links() >= 3);
                pair.receiver_links.cut(random.below(2) as usize);
            }
            let incoming = subscriber.recv_timeout(PATIENCE).expect("a message");
            assert!(incoming.payload == pattern(100, number), "message {number}");
        }
    });
    assert!(pair.receiver.stats().links_lost > 0);
}

/// A channel that nobody reads fills up and says so. Others, and transfers, go on.
pub fn unread_messages_hold_up_only_their_channel(make: Make<'_>) {
    let pair = Pair::new(make);
    let to = pair.receiver.id();
    let mut queued = 0;
    let mib = Bytes::from(vec![0; MESSAGE_BYTES_MAX as usize]);
    while pair.sender.send(to, Channel(1), mib.clone()).is_ok() {
        queued += mib.len();
        assert!(queued <= CHANNEL_BYTES_MAX, "nobody reads, and {queued} bytes were taken");
    }
    assert_eq!(pair.sender.send(to, Channel(1), mib.clone()), Err(SendError::Full(to)));
    let subscriber = pair.receiver.subscribe(Channel(2));
    send(&pair.sender, to, Channel(2), &text("not held up"));
    assert_eq!(subscriber.recv_timeout(PATIENCE).expect("a message").payload, "not held up");
    let source = filled(pattern(4 << 20, 1));
    let (_destination, grant) = pair.granted(4 << 20);
    let write = pair.sender.write(to, source.all(), grant.remote().all(), Lane::Step, None);
    write.wait(Some(PATIENCE)).expect("not held up");
    // Whoever comes late finds everything.
    let late = pair.receiver.subscribe(Channel(1));
    for _ in 0..queued / mib.len() {
        assert_eq!(late.recv_timeout(PATIENCE).expect("a message").payload, mib);
    }
    send(&pair.sender, to, Channel(1), &text("room again"));
    assert_eq!(late.recv_timeout(PATIENCE).expect("a message").payload, "room again");
}

/// A subscriber that is behind costs its own queue and the peer's, and loses nothing.
pub fn a_slow_subscriber_loses_nothing(make: Make<'_>) {
    let pair = Pair::new(make);
    let to = pair.receiver.id();
    let subscriber = pair.receiver.subscribe(Channel(1));
    let mut sent = 0_u64;
    // Full means that the subscriber's queue, the backlog and the sender's queue are.
    let fill = |sent: &mut u64| {
        while pair.sender.send(to, Channel(1), Bytes::copy_from_slice(&sent.to_le_bytes())).is_ok() {
            *sent += 1;
            assert!(*sent <= 1 << 20, "queues without an end");
        }
    };
    let enough = (SUBSCRIBER_MESSAGES_MAX + CHANNEL_MESSAGES_MAX) as u64;
    eventually("all queues are full", || {
        fill(&mut sent);
        sent >= enough
    });
    for number in 0..sent {
        let incoming = subscriber.recv_timeout(PATIENCE).expect("a message");
        assert_eq!(incoming.payload, number.to_le_bytes()[..]);
    }
}

/// What is too long is refused, and what is just short enough is not.
pub fn messages_are_bounded(make: Make<'_>) {
    let pair = Pair::new(make);
    let subscriber = pair.receiver.subscribe(Channel(1));
    let most = MESSAGE_BYTES_MAX as usize;
    let longest = Bytes::from(pattern(most as u64, 1));
    pair.sender.send(pair.receiver.id(), Channel(1), longest.clone()).expect("short enough");
    assert_eq!(subscriber.recv_timeout(PATIENCE).expect("a message").payload, longest);
    let longer = Bytes::from(vec![0; most + 1]);
    assert_eq!(pair.sender.send(pair.receiver.id(), Channel(1), longer), Err(SendError::TooLong(most + 1)));
}

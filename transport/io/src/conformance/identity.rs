//! Who may connect, and who is refused by name.

use super::{Make, PATIENCE, Pair, eventually, start, text};
use crate::{Channel, ConnectError, DownReason, PeerEvent, PeerId, RejectReason, TicketError};

/// Connecting again, from either end, changes nothing.
pub fn connecting_twice_is_connecting_once(make: Make<'_>) {
    let pair = Pair::new(make);
    let events = pair.sender.events();
    let links = pair.receiver_links.open_links();
    assert_eq!(pair.sender.connect(&pair.receiver.ticket(), PATIENCE).ok(), Some(pair.receiver.id()));
    assert_eq!(pair.receiver.connect(&pair.sender.ticket(), PATIENCE).ok(), Some(pair.sender.id()));
    assert_eq!(pair.receiver_links.open_links(), links);
    assert_eq!(events.try_iter().count(), 0);
}

/// Both ends connect to each other at the same moment, and are one peer to each other.
pub fn connecting_crosswise_is_connecting_once(make: Make<'_>) {
    for _ in 0..10 {
        let (left, _) = start(make, 0, 1, &|_| {});
        let (right, _) = start(make, 1, 1, &|_| {});
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| left.connect(&right.ticket(), PATIENCE));
            right.connect(&left.ticket(), PATIENCE).expect("connected");
            connecting.join().expect("no panic").expect("connected");
        });
        let subscribers = [left.subscribe(Channel(1)), right.subscribe(Channel(1))];
        left.send(right.id(), Channel(1), text("from the left")).expect("connected");
        right.send(left.id(), Channel(1), text("from the right")).expect("connected");
        assert_eq!(subscribers[1].recv_timeout(PATIENCE).expect("a message").payload, "from the left");
        assert_eq!(subscribers[0].recv_timeout(PATIENCE).expect("a message").payload, "from the right");
    }
}

/// A second process with the identity of one that is connected is refused, and the first one is not disturbed.
pub fn a_claimed_identity_is_refused(make: Make<'_>) {
    let pair = Pair::new(make);
    let (double, _) = start(make, 0, 1, &|_| {});
    match double.connect(&pair.receiver.ticket(), PATIENCE) {
        Err(ConnectError::Refused { reason: RejectReason::Claimed, sentence, .. }) => {
            assert_eq!(sentence, "rank 0 is already claimed");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pair.receiver.peer(0), Some(pair.sender.id()));
    let subscriber = pair.receiver.subscribe(Channel(1));
    pair.sender.send(pair.receiver.id(), Channel(1), text("still here")).expect("connected");
    assert_eq!(subscriber.recv_timeout(PATIENCE).expect("a message").payload, "still here");
}

/// A later life of a rank takes the place of the earlier one, which can't come back.
pub fn a_later_life_replaces_the_earlier(make: Make<'_>) {
    let pair = Pair::new(make);
    let events = pair.receiver.events();
    let (reborn, _) = start(make, 0, 2, &|_| {});
    reborn.connect(&pair.receiver.ticket(), PATIENCE).expect("a later life");
    let replaced = PeerEvent::Down { peer: pair.sender.id(), reason: DownReason::Replaced(reborn.id()) };
    assert_eq!(events.recv_timeout(PATIENCE), Ok(replaced));
    assert_eq!(events.recv_timeout(PATIENCE), Ok(PeerEvent::Up(reborn.id())));
    assert_eq!(pair.receiver.peer(0), Some(PeerId { rank: 0, incarnation: 2 }));
    eventually("the earlier life notices", || pair.sender.peer(1).is_none());
    for _ in 0..2 {
        match pair.sender.connect(&pair.receiver.ticket(), PATIENCE) {
            Err(ConnectError::Refused { reason: RejectReason::Superseded, sentence, .. }) => {
                assert_eq!(sentence, "rank 0 (life 1) is of the past: life 2 was here");
            }
            other => panic!("{other:?}"),
        }
        // Nor once the later one is gone.
        reborn.shutdown();
        eventually("the later life is gone", || pair.receiver.peer(0).is_none());
    }
}

/// Processes of another job, and processes that answer where another should, are refused by name.
pub fn strangers_are_refused(make: Make<'_>) {
    let (one, _) = start(make, 0, 1, &|_| {});
    let (other_job, _) = start(make, 1, 1, &|config| config.job = "another".into());
    match one.connect(&other_job.ticket(), PATIENCE) {
        Err(ConnectError::OtherJob { theirs, ours }) => assert_eq!((&*theirs, &*ours), ("another", super::JOB)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(one.connect(&one.ticket(), PATIENCE), Err(ConnectError::Myself(_))));
    // A ticket whose job was changed on the way: the other end finds out.
    let mut ticket = crate::core::ticket::Ticket::decode(&other_job.ticket()).expect("a ticket");
    ticket.job = super::JOB.into();
    match one.connect(&ticket.encode(), PATIENCE) {
        Err(ConnectError::Refused { reason: RejectReason::Job, sentence, .. }) => {
            assert_eq!(sentence, "rank 1 (life 1) is in job \"another\", not in \"conformance\"");
        }
        other => panic!("{other:?}"),
    }
    // A ticket of a life that is over, where the next one listens.
    let (next, _) = start(make, 1, 2, &|_| {});
    let mut ticket = crate::core::ticket::Ticket::decode(&next.ticket()).expect("a ticket");
    ticket.id.incarnation = 1;
    match one.connect(&ticket.encode(), PATIENCE) {
        Err(ConnectError::Refused { reason: RejectReason::NotMe, sentence, .. }) => {
            assert_eq!(sentence, "this is rank 1 (life 2), not rank 1 (life 1)");
        }
        other => panic!("{other:?}"),
    }
    // The same identity, but not the process that the ticket was made by.
    let mut ticket = crate::core::ticket::Ticket::decode(&next.ticket()).expect("a ticket");
    ticket.nonce ^= 1;
    assert!(matches!(one.connect(&ticket.encode(), PATIENCE), Err(ConnectError::WrongPeer { .. })));
    assert_eq!(one.peer(1), None);
}

/// What is no ticket is an error, and so is where nobody listens.
pub fn bad_tickets_are_errors(make: Make<'_>) {
    let (one, _) = start(make, 0, 1, &|_| {});
    let (gone, _) = start(make, 1, 1, &|_| {});
    let ticket = gone.ticket();
    gone.shutdown();
    drop(gone);
    assert!(matches!(
        one.connect(&ticket, PATIENCE),
        Err(ConnectError::Unreachable { .. } | ConnectError::Lost { .. })
    ));
    assert!(matches!(one.connect(b"", PATIENCE), Err(ConnectError::Ticket(TicketError::NotATicket))));
    assert!(matches!(one.connect(&ticket[1..], PATIENCE), Err(ConnectError::Ticket(TicketError::NotATicket))));
    let mut damaged = ticket.to_vec();
    damaged[12] ^= 1;
    assert!(matches!(one.connect(&damaged, PATIENCE), Err(ConnectError::Ticket(TicketError::Malformed(_)))));
    damaged[4] = 99;
    assert!(matches!(one.connect(&damaged, PATIENCE), Err(ConnectError::Ticket(TicketError::Version(99)))));
}

//! What goes wrong with devices, and what it costs: queue pairs that fail, completions that are lost, ports that go down, networks that
//! lose some packets.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::backend::verbs::VerbsBackend;
use xfer_transport::conformance::{JOB, PATIENCE, eventually, fence, pattern, trials};
use xfer_transport::{BackendId, Channel, Endpoint, EndpointConfig, Lane, PeerId, Region};

use super::{LEN_BYTES, places, with};

/// An endpoint that may use a device, with which something is wrong, and TCP.
fn with_tcp(rank: u32, place: IpAddr, mishap: impl FnOnce(VerbsBackend) -> VerbsBackend) -> Endpoint {
    let address = SocketAddr::new(place, 0);
    let verbs = mishap(VerbsBackend::bind(address, None).expect("it could be bound before"));
    let tcp = TcpBackend::bind(address).expect("a port");
    let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, JOB);
    config.chunk_bytes = 256 << 10;
    config.backends = vec![Arc::new(verbs), Arc::new(tcp)];
    Endpoint::start(config).expect("an endpoint")
}

/// Whether one is connected to the other so far that there is another way beside the device's.
fn has_tcp(sender: &Endpoint, receiver: &Endpoint) -> bool {
    let connected = sender.connect(&receiver.ticket(), PATIENCE).is_ok();
    let route = sender.route(receiver.id()).filter(|_| connected);
    route.is_some_and(|route| route.over == BackendId::Tcp || route.standing_by.contains(&BackendId::Tcp))
}

/// Bytes that go from one to the other, whatever happens meanwhile, and are counted once.
fn arrives(sender: &Endpoint, receiver: &Endpoint, source: &Region) {
    let destination = Region::allocate(source.len_bytes()).expect("memory");
    let grant = receiver.grant(&destination, sender.id()).expect("a grant");
    let write = sender.write(receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
    let done = write.wait(Some(PATIENCE)).expect("what was not acknowledged goes again");
    assert_eq!((done.bytes, done.crc32c), (source.len_bytes(), source.crc32c()));
    assert!(destination.copy_to_vec() == source.copy_to_vec());
    assert_eq!(done.over.iter().map(|(_, bytes)| bytes).sum::<u64>(), source.len_bytes());
}

#[test]
fn a_queue_pair_that_fails_at_any_request_costs_nothing_but_the_chunks_under_way() {
    let Some(places) = places() else { return };
    let (here, there) = (places[0], places[1 % places.len()]);
    let source = Region::from_vec(pattern(4 * LEN_BYTES, 5));
    // The first request of all, and then some of those with which chunks are moved: when there are so many, the links are up.
    for at in [0, 40, 41, 42, 44, 47, 51] {
        for (ours, theirs) in [(Some(at), None), (None, Some(at))] {
            let failing = |work: Option<u64>| {
                move |verbs: VerbsBackend| if let Some(work) = work { verbs.failing_after(work) } else { verbs }
            };
            let (sender, receiver) = (with_tcp(0, here, failing(ours)), with_tcp(1, there, failing(theirs)));
            // A device that fails while the two introduce each other takes the peer with it, as long as nothing else is there.
            eventually("TCP carries or stands by", || has_tcp(&sender, &receiver));
            let gone = || (sender.stats().peers_down, receiver.stats().peers_down);
            let before = gone();
            (0..2).for_each(|_| arrives(&sender, &receiver, &source));
            assert_eq!(gone(), before, "{ours:?} {theirs:?}");
        }
    }
}

/// What the transport has told of in this process, since it was asked for first.
fn told() -> MutexGuard<'static, Vec<String>> {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    struct Ears;
    struct Words(String);

    impl tracing::field::Visit for Words {
        fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0 += &format!("{value:?} ");
        }
    }

    impl tracing::Subscriber for Ears {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::INFO
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut words = Words(String::new());
            event.record(&mut words);
            SAID.lock().unwrap_or_else(PoisonError::into_inner).push(words.0);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| tracing::subscriber::set_global_default(Ears).expect("nobody else listens"));
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until somebody has said `words`.
fn is_said(words: &str) {
    eventually(words, || told().iter().any(|said| said.contains(words)));
}

/// The matrix's F28, and F27 by one completion.
#[test]
fn a_completion_that_is_lost_or_bad_ends_its_link_by_name_and_costs_only_what_was_under_way() {
    let Some(places) = places() else { return };
    let (here, there) = (places[0], places[1 % places.len()]);
    let source = Region::from_vec(pattern(4 * LEN_BYTES, 13));
    type Mishap = fn(VerbsBackend, u64) -> VerbsBackend;
    let kinds: [(Mishap, &str); 2] =
        [(VerbsBackend::losing_after, "was lost"), (VerbsBackend::spoiling_after, "the device failed (fatal error)")];
    for (mishap, says) in kinds {
        // One of those with which a link comes up, and then some of those with which chunks are moved.
        for at in [6, 30, 31, 32, 35, 40] {
            for ours in [true, false] {
                told().clear();
                let wrong = |verbs: VerbsBackend| mishap(verbs, at);
                let (sender, receiver) = match ours {
                    true => (with_tcp(0, here, wrong), with_tcp(1, there, |verbs| verbs)),
                    false => (with_tcp(0, here, |verbs| verbs), with_tcp(1, there, wrong)),
                };
                eventually("TCP carries or stands by", || has_tcp(&sender, &receiver));
                let gone = || (sender.stats().peers_down, receiver.stats().peers_down);
                let before = gone();
                (0..2).for_each(|_| arrives(&sender, &receiver, &source));
                // Every link gives signs of life, so each loses one sooner or later, whether or not it has moved anything; one that has not
                // come up by then is no link that was lost, but a way that is not used.
                let began = Instant::now();
                loop {
                    let unused = sender.route(receiver.id()).map(|route| route.unused).unwrap_or_default();
                    let mut why = unused.iter().map(|(_, why)| why);
                    if why.any(|why| why.contains(says)) || told().iter().any(|said| said.contains(says)) {
                        break;
                    }
                    assert!(
                        began.elapsed() < PATIENCE,
                        "{at} {ours}: nobody says `{says}`, but {:?}, and {unused:?}",
                        told()
                    );
                    std::thread::yield_now();
                }
                arrives(&sender, &receiver, &source);
                assert_eq!(gone(), before, "{says} {at} {ours}");
            }
        }
    }
}

#[test]
fn links_that_lose_completions_do_not_write_too_late() {
    let Some(places) = places() else { return };
    let make = with(places, |verbs| verbs.losing_after(400));
    fence::a_cancel_is_a_fence(&make, trials(30));
    fence::a_revoke_is_a_fence(&make, trials(30));
}

/// There is always enough; were there not, the device would lose what doesn't fit, and say so.
#[test]
fn too_little_room_for_completions_ends_the_link_by_name() {
    let Some(places) = places() else { return };
    let (here, there) = (places[0], places[1 % places.len()]);
    told().clear();
    let sender = with_tcp(0, here, |verbs| verbs.with_room_for(4));
    let receiver = with_tcp(1, there, |verbs| verbs);
    eventually("TCP carries or stands by", || has_tcp(&sender, &receiver));
    let incoming = receiver.subscribe(Channel(1));
    let (mut sent, mut taken) = (0_u64, 0_u64);
    // Each message that leaves completes at once, and nobody has to look before the next.
    eventually("it is full", || {
        for _ in 0..24 {
            sent += u64::from(sender.send(receiver.id(), Channel(1), sent.to_le_bytes().to_vec().into()).is_ok());
        }
        while let Ok(message) = incoming.try_recv() {
            assert_eq!(message.payload[..], taken.to_le_bytes());
            taken += 1;
        }
        told().iter().any(|said| said.contains("overrun"))
    });
    while taken < sent {
        let message = incoming.recv_timeout(PATIENCE).expect("every message arrives");
        assert_eq!(message.payload[..], taken.to_le_bytes());
        taken += 1;
    }
    assert_eq!((sender.stats().peers_down, receiver.stats().peers_down), (0, 0));
}

/// Does something to the cable between the devices, on a machine that has one: `make test-rdma` makes such a machine.
fn cable(what: &str) -> Option<()> {
    let Ok(_) = std::env::var("RDMA_NET_A") else {
        println!("no cable here that can be pulled: `make test-rdma` makes a machine that has one");
        return None;
    };
    let status = Command::new("cable").arg(what).status().expect("a program of that machine");
    assert!(status.success(), "cable {what}");
    Some(())
}

#[test]
fn a_port_that_goes_down_ends_its_links_at_once_and_by_name() {
    let Some(places) = places() else { return };
    let (here, there) = (places[0], places[1 % places.len()]);
    let (sender, receiver) = (with_tcp(0, here, |verbs| verbs), with_tcp(1, there, |verbs| verbs));
    eventually("TCP stands by", || has_tcp(&sender, &receiver));
    let source = Region::from_vec(pattern(LEN_BYTES, 14));
    arrives(&sender, &receiver, &source);
    told().clear();
    if cable("down").is_none() {
        return;
    }
    is_said("port 1 is down");
    cable("up");
    arrives(&sender, &receiver, &source);
    eventually("the device carries again", || {
        sender.route(receiver.id()).is_some_and(|route| route.over == BackendId::Verbs)
    });
    arrives(&sender, &receiver, &source);
    assert_eq!((sender.stats().peers_down, receiver.stats().peers_down), (0, 0));
}

#[test]
fn a_network_that_loses_the_long_packets_of_a_device_is_left_alone_by_name() {
    let Some(places) = places() else { return };
    let (here, there) = (places[0], places[1 % places.len()]);
    let (sender, receiver) = (with_tcp(0, here, |verbs| verbs), with_tcp(1, there, |verbs| verbs));
    eventually("TCP stands by", || has_tcp(&sender, &receiver));
    if cable("narrow").is_none() {
        return;
    }
    let source = Region::from_vec(pattern(LEN_BYTES, 15));
    let began = Instant::now();
    let unused = loop {
        assert!(began.elapsed() < 4 * PATIENCE, "it is opened again and again");
        // Links come up, since short packets pass, and break with the first chunk.
        arrives(&sender, &receiver, &source);
        let route = sender.route(receiver.id()).expect("connected");
        if let Some((_, why)) = route.unused.into_iter().find(|(backend, _)| *backend == BackendId::Verbs) {
            break why;
        }
    };
    assert!(unused.contains("again and again"), "{unused}");
    arrives(&sender, &receiver, &source);
    assert_eq!(sender.route(receiver.id()).map(|route| route.over), Some(BackendId::Tcp));
    cable("mend");
    assert_eq!((sender.stats().peers_down, receiver.stats().peers_down), (0, 0));
}

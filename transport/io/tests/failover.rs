//! Shared memory and TCP to the same peer: the better one carries, and the other takes over in the middle of an item.

use std::sync::Arc;

use xfer_transport::backend::Backend;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::flaky::Flaky;
use xfer_transport::conformance::{JOB, PATIENCE, eventually, pattern};
use xfer_transport::{BackendId, Endpoint, EndpointConfig, Lane, PeerId, Region, StartError};

const LEN_BYTES: u64 = 64 << 20;

/// An endpoint that listens on both, and what breaks its links over each.
fn both(rank: u32) -> (Endpoint, Arc<Flaky>, Arc<Flaky>) {
    let shm = Flaky::new(Arc::new(ShmBackend::bind().expect("shared memory")));
    let tcp = Flaky::new(Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port")));
    let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, JOB);
    config.backends = vec![Arc::clone(&shm) as Arc<dyn Backend>, Arc::clone(&tcp) as Arc<dyn Backend>];
    (Endpoint::start(config).expect("an endpoint"), shm, tcp)
}

#[test]
fn an_item_goes_on_over_tcp_when_shared_memory_breaks_and_comes_back_to_it() {
    let (sender, _, _) = both(0);
    let (receiver, shm, _) = both(1);
    sender.connect(&receiver.ticket(), PATIENCE).expect("connected");
    for shared in [false, true] {
        eventually("shared memory carries", || {
            sender.route(receiver.id()).is_some_and(|route| route.over == BackendId::Shm && route.links == 2)
        });
        assert_eq!(sender.route(receiver.id()).map(|route| route.standing_by), Some(vec![BackendId::Tcp]));
        let source = if shared { Region::shared(LEN_BYTES) } else { Region::allocate(LEN_BYTES) }.expect("memory");
        source.write_at(0, &pattern(LEN_BYTES, 11)).expect("inside");
        let destination = Region::allocate(LEN_BYTES).expect("memory");
        let grant = receiver.grant(&destination, sender.id()).expect("a grant");
        // Half a second, so that the break comes in the middle, however busy the machine is.
        sender.set_egress_limit(Some(1 << 27));
        let write = sender.write(receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
        eventually("some of it has arrived", || grant.received() > 0);
        shm.cut_all();
        let done = write.wait(Some(PATIENCE)).expect("the peer is still there");
        sender.set_egress_limit(None);
        assert_eq!(done.crc32c, destination.crc32c());
        assert_eq!(destination.copy_to_vec(), source.copy_to_vec());
        let over: Vec<BackendId> = done.over.iter().map(|(backend, _)| *backend).collect();
        assert!(over.contains(&BackendId::Shm) && over.contains(&BackendId::Tcp), "{:?}", done.over);
        assert_eq!(done.over.iter().map(|(_, bytes)| bytes).sum::<u64>(), LEN_BYTES, "each byte is counted once");
    }
    assert_eq!((sender.stats().peers_down, receiver.stats().peers_down), (0, 0));
}

#[test]
fn a_way_that_breaks_again_and_again_is_left_alone() {
    let (sender, _, _) = both(0);
    let (receiver, shm, _) = both(1);
    sender.connect(&receiver.ticket(), PATIENCE).expect("connected");
    eventually("tcp stands by", || {
        sender.route(receiver.id()).is_some_and(|route| route.standing_by == [BackendId::Tcp])
    });
    eventually("it breaks so often that it is not taken again", || {
        shm.cut_all();
        let route = sender.route(receiver.id());
        route.is_some_and(|route| route.over == BackendId::Tcp && !route.unused.is_empty())
    });
    let route = sender.route(receiver.id()).expect("connected");
    let (backend, why) = route.unused.first().expect("one");
    assert!(*backend == BackendId::Shm && why.contains("again and again"), "{backend}: {why}");
    let (source, destination) = (Region::from_vec(pattern(1 << 20, 12)), Region::allocate(1 << 20).expect("memory"));
    let grant = receiver.grant(&destination, sender.id()).expect("a grant");
    let write = sender.write(receiver.id(), source.all(), grant.remote().all(), Lane::Step, None);
    let done = write.wait(Some(PATIENCE)).expect("the peer is still there");
    assert_eq!(done.over.iter().map(|(backend, _)| *backend).collect::<Vec<_>>(), [BackendId::Tcp]);
    assert_eq!((sender.stats().peers_down, receiver.stats().peers_down), (0, 0));
}

#[test]
fn a_way_that_has_fallen_silent_holds_up_no_other_and_no_other_peer() {
    let (sender, silent, _) = both(0);
    let receivers: Vec<_> = (1..=4).map(both).collect();
    for (receiver, ..) in &receivers {
        sender.connect(&receiver.ticket(), PATIENCE).expect("connected");
    }
    let carried_by = |receiver: &Endpoint, over: BackendId, standing_by: &[BackendId]| {
        sender.route(receiver.id()).is_some_and(|route| route.over == over && route.standing_by == standing_by)
    };
    for (receiver, shm, _) in &receivers {
        eventually("tcp stands by", || {
            carried_by(receiver, BackendId::Shm, &[BackendId::Tcp]) && shm.open_links() == 4
        });
    }
    silent.fall_silent();
    for (_, shm, tcp) in &receivers {
        // What is left gives signs of life and carries nothing.
        (0..3).for_each(|_| shm.cut(0));
        tcp.cut_all();
    }
    for (receiver, ..) in &receivers {
        eventually("tcp carries", || carried_by(receiver, BackendId::Tcp, &[]));
    }
    assert_eq!(sender.stats().peers_down, 0);
}

#[test]
fn shared_memory_carries_when_nothing_is_set_and_a_transport_that_is_named_is_kept_to() {
    let start = |rank, transports: Option<Vec<BackendId>>| {
        let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, JOB);
        config.transports = transports;
        Endpoint::start(config)
    };
    let (anything, tcp) = (start(0, None).expect("starts"), start(1, Some(vec![BackendId::Tcp])).expect("starts"));
    let (shm, also) = (start(2, Some(vec![BackendId::Shm])).expect("starts"), start(3, None).expect("starts"));
    for (peer, over, standing_by) in
        [(&tcp, BackendId::Tcp, vec![]), (&shm, BackendId::Shm, vec![]), (&also, BackendId::Shm, vec![BackendId::Tcp])]
    {
        anything.connect(&peer.ticket(), PATIENCE).expect("connected");
        eventually("all links are there", || {
            anything.route(peer.id()).is_some_and(|route| route.over == over && route.standing_by == standing_by)
        });
    }
    let error = tcp.connect(&shm.ticket(), PATIENCE).expect_err("nothing in common");
    assert!(error.to_string().contains("listens on nothing that this build can reach"), "{error}");
    for (transports, says) in [(vec![], "no transport is wanted"), (vec![BackendId::Sim], "sim is not a transport")] {
        match start(4, Some(transports)) {
            Err(StartError::Config(sentence)) => assert!(sentence.contains(says), "{sentence}"),
            other => panic!("{other:?}"),
        }
    }
}

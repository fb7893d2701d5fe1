//! RDMA verbs pass the suite, between the devices of a machine that has some.

mod mishaps;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use xfer_transport::backend::Backend;
use xfer_transport::backend::verbs::{VerbsBackend, addresses};
use xfer_transport::conformance::{
    JOB, PATIENCE, Pair, delivery, eventually, failure, fence, identity, messages, pattern, trials,
};
use xfer_transport::{BackendId, Endpoint, EndpointConfig, Lane, PeerId, Region, StartError};
use xfer_transport_core::rdma::{INTRODUCTION_BYTES, Introduction, Opening, ROOM_MIN};

const LEN_BYTES: u64 = 4 << 20;

/// The addresses to bind, or nothing after a sentence that says why.
fn places() -> Option<Vec<IpAddr>> {
    addresses().map_err(|why| eprintln!("skipped: {why}")).ok()
}

fn maker(places: Vec<IpAddr>) -> impl Fn() -> Arc<dyn Backend> {
    with(places, |backend| backend)
}

/// One place after the other, so that two ends are on two devices where there are two.
fn with(places: Vec<IpAddr>, change: fn(VerbsBackend) -> VerbsBackend) -> impl Fn() -> Arc<dyn Backend> {
    let made = AtomicUsize::new(0);
    move || {
        let place = places[made.fetch_add(1, Ordering::Relaxed) % places.len()];
        Arc::new(change(VerbsBackend::bind(SocketAddr::new(place, 0), None).expect("it could be bound before")))
    }
}

macro_rules! suite {
    ($($group:ident::$name:ident $(($($argument:expr),*))?;)*) => {
        $(#[test] fn $name() {
            let Some(places) = places() else { return };
            $group::$name(&maker(places), $($($argument),*)?);
        })*
    };
}

include!("suite/mod.rs");

#[test]
fn the_path_is_reported() {
    let Some(places) = places() else { return };
    delivery::the_path_is_reported(&maker(places), BackendId::Verbs);
}

/// This runs everywhere: what is missing differs.
#[test]
fn what_is_not_there_is_a_sentence_and_stops_nothing() {
    let start = |change: fn(&mut EndpointConfig)| {
        let mut config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, JOB);
        change(&mut config);
        Endpoint::start(config)
    };
    start(|_| {}).expect("nobody has asked for RDMA");
    for change in [
        (|config| config.transports = Some(vec![BackendId::Verbs, BackendId::Tcp])) as fn(&mut EndpointConfig),
        |config| config.verbs_device = Some("no-such-device".into()),
    ] {
        let why = match start(change) {
            Err(StartError::NoVerbs(why)) => why.to_string(),
            other => panic!("{other:?}"),
        };
        let known = ["libibverbs is not on this machine", "no RDMA device", "not usable", "can't be opened"];
        assert!(known.iter().any(|words| why.contains(words)), "{why}");
    }
}

/// Chunks are registered one by one where a device has no windows to open on what is registered.
#[test]
fn a_device_without_windows_does_the_same() {
    let Some(places) = places() else { return };
    let make = with(places, VerbsBackend::without_windows);
    delivery::bytes_of_all_sizes_arrive(&make);
    delivery::many_transfers_at_once_arrive(&make);
    fence::a_cancel_is_a_fence(&make, trials(50));
    fence::a_revoke_is_a_fence(&make, trials(50));
    failure::a_source_that_changes_is_noticed(&make);
}

#[test]
fn nothing_may_be_read_by_a_peer_while_nothing_is_under_way() {
    let Some(places) = places() else { return };
    for change in [|backend| backend, VerbsBackend::without_windows] {
        let pair = Pair::with(&with(places.clone(), change), |config| config.chunk_bytes = 64 << 10);
        let source = Region::from_vec(pattern(LEN_BYTES, 3));
        for cancelled in [false, true, false] {
            let (destination, grant) = pair.granted(LEN_BYTES);
            let (to, remote) = (pair.receiver.id(), grant.remote().all());
            let write = pair.sender.write(to, source.all(), remote, Lane::Rescue, None);
            eventually("it is under way", || grant.received() > 0);
            if cancelled {
                write.cancel();
            } else {
                write.wait(Some(PATIENCE)).expect("applied and verified");
                assert_eq!(destination.crc32c(), source.crc32c());
            }
            // A transfer ends when its source is read no more, and not a moment before.
            assert_eq!(pair.sender.stats().exposed_bytes, 0, "cancelled: {cancelled}");
        }
    }
}

/// Memory that this process has pinned, in KiB.
fn pinned_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn who_has_not_said_who_he_is_has_little_memory_pinned_for_him() {
    let Some(places) = places() else { return };
    let make = maker(places);
    let backend = make();
    let mut config = EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, JOB);
    config.backends = vec![Arc::clone(&backend)];
    let endpoint = Endpoint::start(config).expect("an endpoint");
    let before = pinned_kib();
    let address = String::from_utf8(backend.address().to_vec()).expect("words");
    let mut stranger = TcpStream::connect(&address).expect("it listens");
    stranger.set_read_timeout(Some(PATIENCE)).expect("set");
    let IpAddr::V4(ip) = address.parse::<SocketAddr>().expect("an address").ip() else { return };
    let gid = ip.to_ipv6_mapped().octets();
    let hello = Introduction { queue_pair: 77, psn: 7, gid, mtu_bytes: 1024, reads: 1, rail: 0, room: ROOM_MIN };
    stranger.write_all(&Opening::Hello(hello).encode()).expect("said");
    let mut words = [0; INTRODUCTION_BYTES];
    stranger.read_exact(&mut words).expect("it answers");
    assert!(matches!(Opening::decode(&words), Ok(Opening::Hello(_))));
    let pinned = pinned_kib() - before;
    assert!((1..=192).contains(&pinned), "{pinned} KiB");
    drop((stranger, endpoint));
}

/// So little memory may be locked by this thread, and those that it starts, until this is dropped.
struct Locked(Rlimit);

impl Locked {
    /// Fails where this thread may not give up the right to pass the limit.
    fn at_most(len_bytes: u64) -> rustix::io::Result<Self> {
        let mut sets = capabilities(None)?;
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets)?;
        let before = getrlimit(Resource::Memlock);
        let maximum = before.maximum.map(|maximum| maximum.max(len_bytes));
        setrlimit(Resource::Memlock, Rlimit { current: Some(len_bytes), maximum })?;
        Ok(Self(before))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        _ = setrlimit(Resource::Memlock, Rlimit { ..self.0 });
    }
}

#[test]
fn memory_that_can_not_be_registered_goes_in_packets_and_the_route_says_why() {
    const CHUNK_BYTES: u32 = 4 << 20;
    let Some(places) = places() else { return };
    // Enough for the links, and for what the first transfer takes.
    let roomy = Locked::at_most(64 << 20).expect("rights can be given up");
    for receiver_can_not in [false, true] {
        let pair = Pair::with(&maker(places.clone()), |config| {
            config.chunk_bytes = CHUNK_BYTES;
            config.links_per_peer = 1;
        });
        let source = Region::from_vec(pattern(LEN_BYTES, 9));
        let write = || {
            let (destination, grant) = pair.granted(LEN_BYTES);
            let (to, remote) = (pair.receiver.id(), grant.remote().all());
            let write = pair.sender.write(to, source.all(), remote, Lane::Rescue, None);
            write.wait(Some(PATIENCE)).expect("it goes another way");
            assert!(destination.copy_to_vec() == source.copy_to_vec());
        };
        let ordinary = || pair.sender.route(pair.receiver.id()).and_then(|route| route.ordinary).expect("two ways");
        if receiver_can_not {
            // The sender has registered the source, and goes on with that.
            write();
            assert_eq!(ordinary().copies, 0, "{:?}", ordinary());
        }
        let tight = Locked::at_most(1 << 20).expect("less than before");
        write();
        drop(tight);
        let who = if receiver_can_not { "the peer can't register" } else { "this process can't register" };
        assert!(ordinary().copies == 2 && ordinary().sentence.contains(who), "{:?}", ordinary());
        // What the links have is kept, and what else is there goes on as it did.
        write();
    }
    drop(roomy);
}

/// Packets that a device has sent since the machine was started, where its driver counts them.
fn sent_packets(device: &str) -> Option<u64> {
    let counter = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts");
    std::fs::read_to_string(counter).ok()?.trim().parse().ok()
}

#[test]
fn devices_that_are_named_carry_side_by_side_whatever_address_is_bound() {
    if places().is_none() {
        return;
    }
    let names = xfer_sys::verbs::device_names().expect("there are some");
    let before: Vec<_> = names.iter().map(|name| sent_packets(name)).collect();
    let make = || {
        let backend = VerbsBackend::bind(([127, 0, 0, 1], 0).into(), Some(&names.join(","))).expect("all can be used");
        assert_eq!(backend.rails().len(), names.len());
        Arc::new(backend) as Arc<dyn Backend>
    };
    let pair = Pair::with(&make, |config| config.links_per_peer = 2 * names.len());
    let source = Region::from_vec(pattern(4 * LEN_BYTES, 11));
    let (destination, grant) = pair.granted(4 * LEN_BYTES);
    let (to, remote) = (pair.receiver.id(), grant.remote().all());
    let write = pair.sender.write(to, source.all(), remote, Lane::Rescue, None);
    write.wait(Some(PATIENCE)).expect("applied and verified");
    assert!(destination.copy_to_vec() == source.copy_to_vec());
    for (name, before) in names.iter().zip(before) {
        // Introductions and signs of life are a few dozen packets; a chunk is some hundred.
        let sent = before.zip(sent_packets(name)).map(|(before, after)| after - before);
        assert!(sent.is_none_or(|sent| sent > 200), "{name} has sent {sent:?} packets");
    }
}

//! The same rules in memory and over TCP; what happens when the network or the store fails.

mod cutter;
mod identity;
mod journal;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use xfer_migrate_core::store::limits;
use xfer_migrate_core::store::wire;

use super::*;
use cutter::Cutter;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Long enough for a busy machine; no test that passes waits for it.
const AMPLE: Duration = Duration::from_secs(30);

/// Bound of calls that must fail.
const SHORT: Duration = Duration::from_millis(300);

fn serve() -> (StoreServer, TcpStore) {
    let server = StoreServer::bind(LOOPBACK, Exposure::LoopbackOnly).unwrap();
    let store = connect(server.local_addr(), AMPLE);
    (server, store)
}

fn connect(address: SocketAddr, timeout: Duration) -> TcpStore {
    TcpStore::connect(&address.to_string(), timeout).unwrap()
}

fn won(swap: Result<Swap, StoreError>) -> Version {
    match swap {
        Ok(Swap::Won(version)) => version,
        other => panic!("expected a win, got {other:?}"),
    }
}

/// An address at which nobody listens.
fn vacant() -> SocketAddr {
    TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap()
}

fn obeys_the_rules(store: &dyn Store) {
    assert_eq!(store.get("key"), Ok(None));
    let first = won(store.compare_and_swap("key", Version::ABSENT, "one".into()));
    let Ok(Swap::Lost(held)) = store.compare_and_swap("key", Version::ABSENT, "two".into()) else {
        panic!("a key was created twice");
    };
    assert_eq!((held.version, &held.value[..]), (first, &b"one"[..]));
    let second = won(store.compare_and_swap("key", first, "two".into()));
    assert!(second > first);
    assert!(matches!(store.compare_and_swap("key", first, "three".into()), Ok(Swap::Lost(_))));

    let waited = store.wait("key", first, AMPLE).unwrap().unwrap();
    assert_eq!((waited.version, &waited.value[..]), (second, &b"two"[..]));
    assert_eq!(store.wait("key", second, Duration::from_millis(20)), Ok(None));
    assert_eq!(store.wait("key", second, Duration::ZERO), Ok(None));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait("key", second, AMPLE));
        let third = won(store.compare_and_swap("key", second, "three".into()));
        assert_eq!(waiting.join().unwrap().unwrap().unwrap().version, third);
    });

    won(store.compare_and_swap("list/b", Version::ABSENT, vec![2; 3 << 20].into()));
    won(store.compare_and_swap("list/a", Version::ABSENT, vec![1; 3 << 20].into()));
    let listed: Vec<(String, usize)> =
        store.list("list/").unwrap().into_iter().map(|(key, found)| (key, found.value.len())).collect();
    assert_eq!(listed, [("list/a".to_owned(), 3 << 20), ("list/b".to_owned(), 3 << 20)]);
    assert_eq!(store.list("").unwrap().len(), 3);
    assert_eq!(store.list("nothing").unwrap(), []);

    let error = store.get("two words").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`two words` can't be a key of the store: a key is 1 to 256 printable characters without spaces"
    );
    assert!(matches!(store.wait("", Version::ABSENT, AMPLE), Err(StoreError::InvalidKey { .. })));
    assert!(matches!(store.list("\n"), Err(StoreError::InvalidKey { .. })));
    let error = store.compare_and_swap("key", Version::ABSENT, vec![0; limits::VALUE_LEN_BYTES_MAX + 1].into());
    assert!(matches!(error, Err(StoreError::NoRoom { .. })));
    let error = store.compare_and_swap("unwritten", second, "x".into());
    assert_eq!(error, Err(StoreError::NeverWritten { key: "unwritten".into(), expected: second }));
}

#[test]
fn the_rules_hold_in_memory() {
    obeys_the_rules(&MemoryStore::new());
}

#[test]
fn the_rules_hold_over_tcp() {
    let (_server, store) = serve();
    obeys_the_rules(&store);
}

/// Adds one to a counter by compare-and-swap, as often as it takes.
fn increment(store: &dyn Store) {
    loop {
        let held = store.get("counter").unwrap();
        let (version, count) = held.map_or((Version::ABSENT, 0), |held| (held.version, count(&held)));
        if let Swap::Won(_) = store.compare_and_swap("counter", version, (count + 1).to_string().into()).unwrap() {
            return;
        }
    }
}

fn count(held: &Versioned) -> u64 {
    std::str::from_utf8(&held.value).unwrap().parse().unwrap()
}

#[test]
fn eight_threads_count_exactly() {
    let (server, store) = serve();
    thread::scope(|scope| {
        for _ in 0..4 {
            let own = connect(server.local_addr(), AMPLE);
            scope.spawn(move || (0..50).for_each(|_| increment(&own)));
            scope.spawn(|| (0..50).for_each(|_| increment(&store)));
        }
    });
    let held = store.get("counter").unwrap().unwrap();
    assert_eq!((count(&held), held.version), (400, Version(400)));
}

#[test]
fn a_lost_answer_is_asked_for_again_and_written_once() {
    let (server, direct) = serve();
    // The second answer is lost: the first is the one to the get.
    let cutter = Cutter::start(server.local_addr(), |answer| answer == 1);
    let store = connect(cutter.address(), AMPLE);
    store.get("key").unwrap();
    let version = won(store.compare_and_swap("key", Version::ABSENT, "once".into()));
    assert_eq!(version, Version(1));
    assert_eq!(direct.get("key").unwrap().unwrap().version, Version(1));
    assert_eq!(cutter.cuts(), 1);
}

#[test]
fn a_lost_answer_is_told_right_even_when_the_value_was_replaced_since() {
    let (server, direct) = serve();
    let rival = connect(server.local_addr(), AMPLE);
    // By the time the answer is cut, the swap is done; the rival replaces its value by an equal one.
    let cutter = Cutter::start(server.local_addr(), move |answer| {
        if answer == 0 {
            won(rival.compare_and_swap("key", Version(1), "same".into()));
        }
        answer == 0
    });
    let store = connect(cutter.address(), AMPLE);
    assert_eq!(won(store.compare_and_swap("key", Version::ABSENT, "same".into())), Version(1));
    assert_eq!(direct.get("key").unwrap().unwrap().version, Version(2));
}

#[test]
fn counting_is_exact_over_connections_that_break() {
    let (server, direct) = serve();
    let cutter = Cutter::start(server.local_addr(), |answer| answer % 7 == 3);
    thread::scope(|scope| {
        for _ in 0..8 {
            let store = connect(cutter.address(), AMPLE);
            scope.spawn(move || (0..15).for_each(|_| increment(&store)));
        }
    });
    let held = direct.get("counter").unwrap().unwrap();
    assert_eq!((count(&held), held.version), (120, Version(120)));
    assert!(cutter.cuts() > 10, "{} cuts", cutter.cuts());
}

#[test]
fn a_swap_whose_outcome_stays_unknown_says_so() {
    let (server, direct) = serve();
    // Every answer is lost, also those to asking again.
    let cutter = Cutter::start(server.local_addr(), |_| true);
    let store = connect(cutter.address(), SHORT);
    let error = store.compare_and_swap("key", Version::ABSENT, "value".into()).unwrap_err();
    assert!(matches!(&error, StoreError::Unresolved { key, .. } if key == "key"), "{error}");
    assert_eq!(direct.get("key").unwrap().unwrap().version, Version(1));
    assert!(matches!(store.get("key"), Err(StoreError::Silent { .. })));
}

#[test]
fn calls_to_a_store_that_is_gone_end_with_an_error() {
    let (server, _) = serve();
    let address = server.local_addr();
    let store = connect(address, SHORT);
    let version = won(store.compare_and_swap("key", Version::ABSENT, "value".into()));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait("key", version, AMPLE));
        drop(server);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(error.is_environment(), "{error}");
    });
    for error in [store.get("key").unwrap_err(), store.list("").unwrap_err()] {
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
    // On a kept connection it might have been sent; here none is left, so it certainly was not.
    let error = store.compare_and_swap("key", version, "more".into()).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

#[test]
fn a_restarted_store_is_refused_by_those_who_knew_the_first() {
    let (server, store) = serve();
    let address = server.local_addr();
    won(store.compare_and_swap("generation", Version::ABSENT, "7".into()));
    drop(server);
    let _second = StoreServer::bind(address, Exposure::LoopbackOnly).unwrap();
    let restarted = StoreError::Restarted { address: address.to_string() };
    assert_eq!(store.get("generation"), Err(restarted.clone()));
    assert_eq!(store.compare_and_swap("generation", Version(1), "8".into()), Err(restarted.clone()));
    assert_eq!(store.wait("generation", Version(1), AMPLE), Err(restarted));
    assert_eq!(connect(address, AMPLE).get("generation"), Ok(None));
}

#[test]
fn nobody_listening_is_a_sentence_with_a_remedy() {
    let address = vacant().to_string();
    let error = TcpStore::connect(&address, Duration::ZERO).unwrap_err();
    let tried = match &error {
        StoreError::Unreachable { tried, .. } => *tried,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        error.to_string(),
        format!(
            "no store at {address} (connection refused), tried for {tried:.1?}; \
             start one with `xfer store --bind {address}` or set XFER_STORE=HOST:PORT"
        )
    );
    assert!(error.is_environment());
}

#[test]
fn a_client_that_comes_first_waits_for_the_store() {
    let address = vacant();
    thread::scope(|scope| {
        let early = scope.spawn(|| TcpStore::connect(&address.to_string(), AMPLE));
        let _server = StoreServer::bind(address, Exposure::LoopbackOnly).unwrap();
        let store = early.join().unwrap().unwrap();
        assert_eq!(store.get("key"), Ok(None));
    });
}

#[test]
fn addresses_that_are_none_are_refused_at_once() {
    for (address, cause) in [
        ("localhost", "it has no port"),
        (":29501", "it has no host"),
        ("localhost:", "its port is not a number from 1 to 65535"),
        ("localhost:0", "its port is not a number from 1 to 65535"),
        ("localhost:70000", "its port is not a number from 1 to 65535"),
    ] {
        let error = TcpStore::connect(address, AMPLE).unwrap_err();
        assert_eq!(error, StoreError::BadAddress { address: address.into(), cause: cause.into() });
    }
}

/// Somebody who isn't a store: does `greet` to each connection.
fn impostor(greet: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || listener.incoming().flatten().for_each(greet));
    address
}

#[test]
fn what_is_no_store_is_told_apart() {
    let connect = |address: SocketAddr| TcpStore::connect(&address.to_string(), SHORT).unwrap_err();

    let http = impostor(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
    let error = connect(http).to_string();
    assert!(error.contains("does not speak the `xfer store` protocol; check XFER_STORE"), "{error}");

    let newer = impostor(|mut stream| {
        let mut welcome = wire::welcome(Ok(1));
        welcome[10] = 2;
        stream.write_all(&welcome).unwrap();
    });
    let error = connect(newer).to_string();
    assert!(error.contains("it speaks version 2 of the `xfer store` protocol, this is version 1"), "{error}");

    let closes = impostor(|mut stream| drop(stream.read(&mut [0; wire::HELLO_BYTES])));
    assert!(matches!(connect(closes), StoreError::NoGreeting { .. }));

    // A socket that listens and is never accepted from: the system takes the connection, nobody answers.
    let stopped = TcpListener::bind(LOOPBACK).unwrap();
    let error = connect(stopped.local_addr().unwrap());
    assert!(matches!(&error, StoreError::Silent { cause, .. } if cause == "timed out"), "{error}");
}

#[test]
fn garbage_disturbs_nobody() {
    let (server, store) = serve();
    let address = server.local_addr();
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..4_u8 {
            let sent = &sent;
            scope.spawn(move || {
                for length in [1, 16, 17, 500, 70_000] {
                    let mut stream = TcpStream::connect(address).unwrap();
                    if seed % 2 == 0 {
                        stream.write_all(&wire::hello()).unwrap();
                    }
                    // The store may close before it has read all; that is the point.
                    let _ = stream.write_all(&vec![0xa0 + seed; length]);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| (0..50).for_each(|_| increment(&store)));
    });
    assert_eq!(sent.into_inner(), 20);
    assert_eq!(count(&store.get("counter").unwrap().unwrap()), 50);
}

#[test]
fn the_first_process_hosts_and_the_second_joins() {
    let address = vacant().to_string();
    let first = host_or_connect(&address, Exposure::LoopbackOnly, AMPLE).unwrap();
    let second = host_or_connect(&address, Exposure::LoopbackOnly, AMPLE).unwrap();
    assert!(first.server.is_some() && second.server.is_none());
    won(first.store.compare_and_swap("key", Version::ABSENT, "value".into()));
    assert_eq!(second.store.get("key").unwrap().unwrap().value, "value");
}

#[test]
fn a_store_is_not_exposed_unless_that_is_said() {
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, vacant().port()));
    let error = StoreServer::bind(everywhere, Exposure::LoopbackOnly).unwrap_err();
    assert_eq!(error, BindError::Exposed { address: everywhere });
    assert!(error.to_string().contains("XFER_INSECURE=1"));
    let error = host_or_connect(&everywhere.to_string(), Exposure::LoopbackOnly, SHORT).unwrap_err();
    assert_eq!(error, HostError::Bind(BindError::Exposed { address: everywhere }));

    let server = StoreServer::bind(everywhere, Exposure::AnyInterface).unwrap();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, server.local_addr().port()));
    assert_eq!(connect(loopback, AMPLE).get("key"), Ok(None));
}

#[test]
fn an_address_in_use_and_one_of_another_machine_are_told_apart() {
    let (server, _) = serve();
    let address = server.local_addr();
    let error = StoreServer::bind(address, Exposure::LoopbackOnly).unwrap_err();
    assert_eq!(error, BindError::InUse { address });
    // An address that is for documentation only, so no machine has it.
    let address = SocketAddr::from(([192, 0, 2, 1], 29501));
    let error = StoreServer::bind(address, Exposure::AnyInterface).unwrap_err();
    assert_eq!(error, BindError::NotLocal { address });
}

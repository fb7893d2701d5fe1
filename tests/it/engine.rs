//! Engines: identity, store, tagged sends and receives.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{WAIT, engines, pattern};
use xfer::store::{ClaimError, StoreError};
use xfer::{EngineBuilder, EngineError, Lane, Region, Stopped, TaggedError};

#[test]
fn sends_and_receives_match_by_tag_in_posting_order_whoever_is_first() {
    let [one, two] = engines();
    let sent = |name| Region::from_vec(pattern(name, 200_003));
    let (early, late) = (Region::allocate(200_003).unwrap(), Region::allocate(200_003).unwrap());
    let first = one.send(sent("first"), 1, "x", Lane::Step);
    let second = one.send(sent("second"), 1, "x", Lane::Bulk);
    let other = Region::allocate(200_003).unwrap();
    let receives = [two.recv(&other, 0, "y"), two.recv(&early, 0, "x"), two.recv(&late, 0, "x")];
    let third = one.send(sent("third"), 1, "y", Lane::Step);
    for operation in receives.iter().chain([&first, &second, &third]) {
        assert_eq!(operation.wait(Some(WAIT)).unwrap(), Ok(200_003));
    }
    assert_eq!(early.copy_to_vec(), pattern("first", 200_003));
    assert_eq!(late.copy_to_vec(), pattern("second", 200_003));
    assert_eq!(other.copy_to_vec(), pattern("third", 200_003));
}

#[test]
fn both_sides_hear_of_sizes_that_differ() {
    let [one, two] = engines();
    let receive = two.recv(&Region::allocate(10).unwrap(), 0, "x");
    let send = one.send(Region::allocate(11).unwrap(), 1, "x", Lane::Step);
    let mismatch = |rank, theirs, ours| Err(TaggedError::SizeMismatch { rank, tag: "x".into(), theirs, ours });
    assert_eq!(send.wait(Some(WAIT)).unwrap(), mismatch(1, 10, 11));
    assert_eq!(receive.wait(Some(WAIT)).unwrap(), mismatch(0, 11, 10));
}

#[test]
fn a_cancelled_receive_is_not_written_any_more_and_its_tag_can_be_used_again() {
    let [one, two] = engines();
    let abandoned = Region::from_vec(vec![5; 1000]);
    let receive = two.recv(&abandoned, 0, "x");
    assert_eq!(receive.cancel(), Stopped::Fenced);
    assert!(matches!(receive.result(), Some(Err(TaggedError::Cancelled { .. }))));
    let memory = Region::allocate(1000).unwrap();
    let again = two.recv(&memory, 0, "x");
    let send = one.send(Region::from_vec(vec![9; 1000]), 1, "x", Lane::Step);
    assert_eq!(send.wait(Some(WAIT)).unwrap(), Ok(1000));
    assert_eq!(again.wait(Some(WAIT)).unwrap(), Ok(1000));
    assert_eq!(abandoned.copy_to_vec(), vec![5; 1000]);
    assert_eq!(memory.copy_to_vec(), vec![9; 1000]);
}

#[test]
fn what_waits_for_a_rank_that_dies_ends_by_name() {
    let [one, two] = engines();
    let receive = one.recv(&Region::allocate(10).unwrap(), 1, "gone");
    let send = one.send(Region::allocate(10).unwrap(), 1, "unheard", Lane::Step);
    two.close();
    for operation in [receive, send] {
        let lost = operation.wait(Some(WAIT)).unwrap();
        assert!(matches!(lost, Err(TaggedError::PeerLost { rank: 1, .. })), "{lost:?}");
    }
    assert!(!one.alive(1));
    let late = one.send(Region::allocate(10).unwrap(), 1, "late", Lane::Step);
    assert!(matches!(late.result(), Some(Err(TaggedError::PeerLost { rank: 1, .. }))));
}

#[test]
fn a_second_process_of_a_rank_is_refused_and_a_dead_one_is_replaced() {
    let [one, two] = engines();
    let builder = || EngineBuilder::new(1, 2).unwrap().store(one.store_address());
    let refused = builder().start().unwrap_err();
    assert!(matches!(refused, EngineError::Claim(ClaimError::Taken { rank: 1, .. })), "{refused}");

    two.close();
    let again = builder().start().unwrap();
    assert_eq!((again.id().rank, again.id().incarnation), (1, 2));
    again.connect(WAIT).unwrap();
    let memory = Region::allocate(4).unwrap();
    one.connect(WAIT).unwrap();
    let receive = one.recv(&memory, 1, "hello");
    again.send(Region::from_vec(vec![1, 2, 3, 4]), 0, "hello", Lane::Step);
    assert_eq!(receive.wait(Some(WAIT)).unwrap(), Ok(4));
}

#[test]
fn a_store_that_is_not_there_is_a_sentence_with_a_remedy() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = xfer::store::TcpStore::connect(&address.to_string(), Duration::from_millis(200)).unwrap_err();
    let text = missing.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("xfer store"), "{text}");
}

#[test]
fn a_port_that_speaks_something_else_is_no_store() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let web = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 64]);
        client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nwhat is this about, please?").unwrap();
    });
    let refused = xfer::store::TcpStore::connect(&address, Duration::from_secs(2)).unwrap_err();
    assert!(!matches!(refused, StoreError::Restarted { .. }), "{refused}");
    web.join().unwrap();
}

#[test]
fn garbage_at_the_endpoint_hurts_nobody() {
    let [one, two] = engines();
    let ticket = xfer_transport_core::ticket::Ticket::decode(&one.endpoint().ticket()).unwrap();
    let tcp = ticket.addresses.iter().find(|(backend, _)| *backend == xfer_transport_core::BackendId::Tcp).unwrap();
    let address = std::str::from_utf8(&tcp.1).unwrap().to_owned();
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(&pattern("noise", 4096)).unwrap();
    stranger.set_read_timeout(Some(WAIT)).unwrap();
    // Whatever it is told, the connection ends.
    let mut told = Vec::new();
    let _ = stranger.read_to_end(&mut told);
    let memory = Region::allocate(4).unwrap();
    let receive = two.recv(&memory, 0, "x");
    one.send(Region::from_vec(vec![1; 4]), 1, "x", Lane::Step);
    assert_eq!(receive.wait(Some(WAIT)).unwrap(), Ok(4));
}

#[test]
fn ranks_outside_the_job_and_unknown_sources_of_notices_are_refused() {
    let outside = EngineBuilder::new(2, 2).unwrap().store("127.0.0.1:0").start().unwrap_err();
    assert!(matches!(outside, EngineError::Rank { rank: 2, world_size: 2 }));
    let [one] = engines();
    let unknown = one.notice_source("carrier pigeon", None).err().unwrap();
    assert!(unknown.to_string().contains("carrier pigeon") && unknown.to_string().contains("imds"));
}

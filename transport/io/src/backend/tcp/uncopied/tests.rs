//! The kernel's notices, and sends over sockets of this machine: it copies them at the other end, and reads the source until then.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use proptest::prelude::*;
use xfer_transport_core::Lane;

use super::*;
use crate::conformance::{PATIENCE, eventually};
use crate::memory::Region;
use crate::transfer::{Transfer, Transferred};

const LEN_BYTES: usize = 32 << 20;
const BEFORE: u8 = 1;
const AFTER: u8 = 2;

/// A piece of control data.
fn piece(level: i32, kind: i32, origin: u8, code: u8, first: u32, last: u32) -> Vec<u8> {
    let mut piece = (HEAD_BYTES + 16).to_ne_bytes().to_vec();
    piece.extend([level.to_ne_bytes(), kind.to_ne_bytes(), [0; 4], [origin, 0, code, 0]].concat());
    piece.extend([first.to_ne_bytes(), last.to_ne_bytes()].concat());
    piece
}

fn read(control: &[u8]) -> Vec<(u32, u32, bool)> {
    notices(control).map(|notice| (notice.first, notice.last, notice.copied)).collect()
}

#[test]
fn notices_are_found_among_other_things() {
    let notice = piece(libc::SOL_IP, libc::IP_RECVERR, ORIGIN_ZEROCOPY, 0, 3, 9);
    let copied = piece(libc::SOL_IPV6, libc::IPV6_RECVERR, ORIGIN_ZEROCOPY, CODE_COPIED, u32::MAX, 0);
    let others = [
        piece(libc::SOL_SOCKET, libc::IP_RECVERR, ORIGIN_ZEROCOPY, 0, 1, 1),
        piece(libc::SOL_IP, libc::IP_RECVERR, 2, 0, 1, 1),
        (HEAD_BYTES + 1).to_ne_bytes().into_iter().chain([0; 16]).collect(),
    ];
    assert_eq!(read(&[&others.concat(), &notice[..], &copied].concat()), [(3, 9, false), (u32::MAX, 0, true)]);
    for len in 0..notice.len() {
        assert_eq!(read(&notice[..len]), [], "{len} bytes");
    }
    assert_eq!(read(&[&0_usize.to_ne_bytes()[..], &notice].concat()), [], "a piece that has no end");
    assert_eq!(read(&[&usize::MAX.to_ne_bytes()[..], &notice].concat()), [], "a piece that is longer than all of it");
}

proptest! {
    #[test]
    fn no_control_data_is_too_much(control in proptest::collection::vec(any::<u8>(), 0..CONTROL_BYTES)) {
        prop_assert!(notices(&control).count() <= CONTROL_BYTES / HEAD_BYTES);
    }
}

/// A connection, of which the first end sends without copies.
fn connection(wish: ZeroCopy) -> (Arc<Uncopied>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let ours = TcpStream::connect(listener.local_addr().expect("its address")).expect("it listens");
    ours.set_nonblocking(true).expect("a socket that doesn't block");
    let (theirs, _) = listener.accept().expect("it was called");
    theirs.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (Uncopied::new(&Arc::new(ours), wish), theirs)
}

fn transfer() -> (Region, Arc<Transfer>, Source) {
    let region = Region::from_vec(vec![BEFORE; LEN_BYTES]);
    let transfer = Arc::new(Transfer::new(Lane::Step, LEN_BYTES as u64, Some(region.all())));
    let source = transfer.source(0, LEN_BYTES as u32).expect("all of it");
    (region, transfer, source)
}

/// Sends until the socket is full. How much that was.
fn fill(uncopied: &Arc<Uncopied>, source: &Source) -> usize {
    let mut sent = 0;
    while sent < LEN_BYTES {
        match uncopied.send(source, sent, LEN_BYTES - sent).expect("it goes without a copy") {
            Ok(more) => sent += more,
            Err(error) if is_for_later(&error) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < LEN_BYTES && !uncopied.is_through(), "a socket holds less than that, and nobody reads");
    sent
}

/// Reads so much, or until the end. How much of it was the source as it was after its fence.
fn late(theirs: &mut TcpStream, mut bytes: usize) -> usize {
    let (mut buffer, mut late) = (vec![0; 1 << 20], 0);
    while bytes > 0 {
        let most = bytes.min(buffer.len());
        let got = theirs.read(&mut buffer[..most]).unwrap_or(0);
        if got == 0 {
            break;
        }
        late += buffer[..got].iter().filter(|byte| **byte == AFTER).count();
        bytes -= got;
    }
    late
}

#[test]
fn a_fence_waits_until_the_kernel_has_read() {
    let (uncopied, mut theirs) = connection(ZeroCopy::Always(1));
    let (region, transfer, source) = transfer();
    let sent = fill(&uncopied, &source);
    let reading = std::thread::spawn(move || late(&mut theirs, sent));
    assert!(transfer.close_gate());
    region.write_at(0, &vec![AFTER; LEN_BYTES]).expect("inside");
    assert_eq!(reading.join().expect("no panic"), 0);
    assert!(uncopied.is_through() && uncopied.reap().is_ok(), "the connection goes on");
    assert!(uncopied.send(&source, 0, 1).is_none(), "the gate is closed");
}

#[test]
fn a_peer_that_takes_nothing_costs_the_connection_and_not_the_fence() {
    let (uncopied, mut theirs) = connection(ZeroCopy::Always(1));
    let (region, transfer, source) = transfer();
    let sent = fill(&uncopied, &source);
    assert!(transfer.close_gate());
    region.write_at(0, &vec![AFTER; LEN_BYTES]).expect("inside");
    assert_eq!(late(&mut theirs, sent), 0);
    assert!(uncopied.is_through());
    let error = uncopied.reap().expect_err("it was ended").to_string();
    assert!(error.contains("has not taken"), "{error}");
}

#[test]
fn who_has_all_of_it_is_not_waited_for_and_the_memory_is_kept() {
    let (uncopied, mut theirs) = connection(ZeroCopy::Always(1));
    let (region, transfer, source) = transfer();
    let sent = fill(&uncopied, &source);
    let (bytes, took) = (LEN_BYTES as u64, Duration::ZERO);
    assert!(transfer.end(Ok(Transferred { bytes, crc32c: 0, over: Vec::new(), took, retried_chunks: 0 }), true));
    drop((source, transfer, region));
    let held = |uncopied: &Uncopied| uncopied.lock().held.front().map(|held| held.source.slice().clone());
    let kept = held(&uncopied).expect("the kernel has not read it");
    assert!(kept.copy_to_vec().iter().all(|byte| *byte == BEFORE));
    assert_eq!(late(&mut theirs, sent), 0);
    eventually("the kernel is through with it", || uncopied.reap().is_ok() && uncopied.is_through());
}

#[test]
fn what_is_of_no_use_any_more_is_forgotten() {
    let (uncopied, _theirs) = connection(ZeroCopy::Always(1));
    let (_region, transfer, source) = transfer();
    fill(&uncopied, &source);
    uncopied.halt();
    assert!(uncopied.is_through() && transfer.close_gate());
}

#[test]
fn a_kernel_that_copies_all_the_same_is_asked_no_more() {
    let (uncopied, theirs) = connection(ZeroCopy::From(1));
    let (_region, transfer, source) = transfer();
    let reading = std::thread::spawn(move || std::io::copy(&mut &theirs, &mut std::io::sink()));
    let mut sends = 0;
    eventually("it is noticed", || {
        uncopied.reap().expect("the connection is there");
        match uncopied.send(&source, 0, 4096) {
            Some(sent) => sends += u32::from(sent.is_ok()),
            None => return true,
        }
        false
    });
    assert!(sends >= ZEROCOPY_VAIN_MAX, "after {sends}");
    let manner = uncopied.manner();
    assert!(manner.copies == 2 && manner.sentence.contains("in spite of"), "{manner:?}");
    assert!(transfer.close_gate());
    uncopied.stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    drop(uncopied);
    reading.join().expect("no panic").expect("all of it");
}

/// Sends with these numbers, of which the kernel has none.
fn held(uncopied: &Arc<Uncopied>, source: &Source, ids: &[u32]) -> State {
    let mut state = State::default();
    for id in ids {
        let source = source.admit(Arc::clone(uncopied) as Arc<dyn Reader>, u64::from(*id)).expect("the gate is open");
        state.held.push_back(Held { id: *id, since: Instant::now(), len_bytes: 1, source });
    }
    state
}

#[test]
fn numbers_begin_anew_after_the_last() {
    let (uncopied, _theirs) = connection(ZeroCopy::From(1));
    let (_region, _transfer, source) = transfer();
    let mut state = held(&uncopied, &source, &[u32::MAX - 1, u32::MAX, 0, 1]);
    let mut over = Vec::new();
    let notice = Notice { first: u32::MAX, last: 0, copied: false };
    state.through(notice, Instant::now(), &ZeroCopy::From(1), &mut over);
    let ids = |held: &mut dyn Iterator<Item = &Held>| held.map(|held| held.id).collect::<Vec<_>>();
    assert_eq!(ids(&mut over.iter()), [u32::MAX, 0]);
    assert_eq!(ids(&mut state.held.iter()), [u32::MAX - 1, 1]);
}

#[test]
fn what_gains_nothing_outweighs_what_does_before_it_is_given_up() {
    let (uncopied, _theirs) = connection(ZeroCopy::From(1));
    let (_region, _transfer, source) = transfer();
    let stops = |wish: ZeroCopy, copied: &dyn Fn(u32) -> bool, took: Duration| {
        let ids: Vec<u32> = (0..100).collect();
        let mut state = held(&uncopied, &source, &ids);
        let mut over = Vec::new();
        for id in ids {
            let notice = Notice { first: id, last: id, copied: copied(id) };
            state.through(notice, Instant::now() + took, &wish, &mut over);
            if state.stopped.is_some() {
                return Some(id + 1);
            }
        }
        None
    };
    let (from, always) = (ZeroCopy::From(1), ZeroCopy::Always(1));
    assert_eq!(stops(from, &|_| true, Duration::ZERO), Some(ZEROCOPY_VAIN_MAX));
    assert_eq!(stops(from, &|id| id % 2 == 0, Duration::ZERO), None, "every other one");
    assert_eq!(stops(from, &|_| false, Duration::ZERO), None);
    assert_eq!(stops(from, &|_| false, 2 * ZEROCOPY_HELD_MAX), Some(ZEROCOPY_VAIN_MAX), "a slow path");
    assert_eq!(stops(always, &|_| true, 2 * ZEROCOPY_HELD_MAX), None, "whatever turns out");
}

//! Memory of devices, which comes as a descriptor, is moved like any other: over RDMA, TCP and shared memory, with its fences.
//!
//! Few machines give a process such memory; the virtual machine `dmabuf` of `.ci/test-rdma` does. Elsewhere the sentence says what is
//! missing.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use xfer_sys::dmabuf;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::{TcpBackend, ZeroCopy};
use xfer_transport::backend::verbs::{VerbsBackend, addresses};
use xfer_transport::backend::{Backend, Manner};
use xfer_transport::conformance::{PATIENCE, Pair, delivery, failure, fence, filled, lie_in_dmabufs, pattern, trials};
use xfer_transport::{Lane, MemoryError, Region, Slice};

const LEN_BYTES: u64 = 4 << 20;

/// Whether there is such memory, after a sentence where there is none.
fn is_there() -> bool {
    lie_in_dmabufs().map_err(|error| eprintln!("skipped: {error}")).is_ok()
}

macro_rules! suite {
    ($module:ident, $make:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn bytes_of_all_sizes_arrive() {
                with($make, |make| delivery::bytes_of_all_sizes_arrive(&make));
            }

            #[test]
            fn odd_ranges_arrive_where_they_belong() {
                with($make, |make| delivery::odd_ranges_arrive_where_they_belong(&make));
            }

            #[test]
            fn many_transfers_at_once_arrive() {
                with($make, |make| delivery::many_transfers_at_once_arrive(&make));
            }

            #[test]
            fn a_cancel_is_a_fence() {
                with($make, |make| fence::a_cancel_is_a_fence(&make, trials(100)));
            }

            #[test]
            fn a_cancel_may_come_at_any_time() {
                with($make, |make| fence::a_cancel_may_come_at_any_time(&make));
            }

            #[test]
            fn a_deadline_is_a_fence() {
                with($make, |make| fence::a_deadline_is_a_fence(&make, trials(50)));
            }

            #[test]
            fn a_revoke_is_a_fence() {
                with($make, |make| fence::a_revoke_is_a_fence(&make, trials(50)));
            }

            #[test]
            fn only_live_grants_are_written() {
                with($make, |make| fence::only_live_grants_are_written(&make));
            }

            #[test]
            fn a_lost_link_loses_nothing() {
                with($make, |make| failure::a_lost_link_loses_nothing(&make));
            }

            #[test]
            fn a_source_that_changes_is_noticed() {
                with($make, |make| failure::a_source_that_changes_is_noticed(&make));
            }
        }
    };
}

suite!(over_rdma, rdma());
suite!(over_tcp, Some(tcp));
suite!(over_shared_memory, Some(shm));

/// Runs a case where there is both memory of devices and the backend.
fn with<M: Fn() -> Arc<dyn Backend>>(make: Option<M>, case: impl FnOnce(M)) {
    if let (true, Some(make)) = (is_there(), make) {
        case(make);
    }
}

/// One place after the other, so that two ends are on two devices where there are two.
fn rdma() -> Option<impl Fn() -> Arc<dyn Backend>> {
    let places = addresses().map_err(|why| eprintln!("skipped: {why}")).ok()?;
    let made = AtomicUsize::new(0);
    Some(move || {
        let place = places[made.fetch_add(1, Ordering::Relaxed) % places.len()];
        let backend = VerbsBackend::bind(SocketAddr::new(place, 0), None).expect("it could be bound before");
        Arc::new(backend) as Arc<dyn Backend>
    })
}

fn tcp() -> Arc<dyn Backend> {
    Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"))
}

fn shm() -> Arc<dyn Backend> {
    Arc::new(ShmBackend::bind().expect("shared memory"))
}

/// Writes it, and looks whether it arrived.
fn move_from(pair: &Pair, source: &Slice, destination: &Region) {
    let grant = pair.receiver.grant(destination, pair.sender.id()).expect("a grant");
    let write = pair.sender.write(pair.receiver.id(), source.clone(), grant.remote().all(), Lane::Rescue, None);
    write.wait(Some(PATIENCE)).expect("applied and verified");
    assert!(destination.copy_to_vec() == source.copy_to_vec());
}

#[test]
fn it_is_zeroed_written_and_summed_like_any_other() {
    if !is_there() {
        return;
    }
    for len_bytes in [0, 1, 5_000, 3 << 20] {
        let region = Region::dmabuf(len_bytes).expect("there was some");
        assert!(region.is_dmabuf() && !region.is_shared());
        assert_eq!(region.copy_to_vec(), vec![0; len_bytes as usize]);
        let bytes = pattern(len_bytes, 1);
        region.write_at(0, &bytes).expect("inside");
        assert_eq!((region.copy_to_vec(), region.crc32c()), (bytes.clone(), Region::from_vec(bytes).crc32c()));
    }
}

#[test]
fn what_the_processor_may_not_write_is_refused_by_name() {
    let Ok(read_only) = dmabuf::of_heap(4096, false) else {
        eprintln!("skipped: no {} on this machine", dmabuf::HEAP);
        return;
    };
    let refused = Region::from_dmabuf(read_only, 0, 4096).expect_err("nothing could be received there");
    assert!(matches!(refused, MemoryError::Unmapped { len_bytes: 4096, .. }), "{refused}");
    assert!(refused.to_string().contains("can't be mapped"), "{refused}");
}

#[test]
fn a_part_of_what_a_descriptor_stands_for_is_moved_and_nothing_beside_it() {
    let file = memfd_create("pages", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory file");
    ftruncate(&file, 2 * LEN_BYTES).expect("its length");
    fcntl_add_seals(&file, SealFlags::SHRINK).expect("it can't shrink");
    let Ok(whole) = dmabuf::of_file(file.as_fd(), LEN_BYTES, LEN_BYTES) else {
        eprintln!("skipped: no {} on this machine", dmabuf::OF_FILES);
        return;
    };
    let (offset, len_bytes) = (100_003, 2_000_001);
    let again = whole.try_clone().expect("a descriptor");
    let region = Region::from_dmabuf(whole, offset, len_bytes).expect("it is inside");
    let mut backends: Vec<Box<dyn Fn() -> Arc<dyn Backend>>> = vec![Box::new(tcp), Box::new(shm)];
    if let Some(rdma) = rdma() {
        backends.push(Box::new(rdma));
    }
    for (salt, make) in backends.iter().enumerate() {
        let pair = Pair::new(make);
        let source = Region::from_vec(pattern(len_bytes, salt as u64));
        move_from(&pair, &source.all(), &region);
        let mut all = vec![0; 2 * LEN_BYTES as usize];
        rustix::io::pread(&file, &mut all[..], 0).expect("read");
        let (start, end) = ((LEN_BYTES + offset) as usize, (LEN_BYTES + offset + len_bytes) as usize);
        assert!(all[start..end] == source.copy_to_vec()[..], "it is the memory itself");
        assert!(all[..start].iter().chain(&all[end..]).all(|byte| *byte == 0));
        // And back, from the same descriptor a second time.
        let twin = Region::from_dmabuf(again.try_clone().expect("a descriptor"), offset, len_bytes).expect("inside");
        move_from(&pair, &twin.all(), &Region::allocate(len_bytes).expect("memory"));
    }
}

/// How both ends of a pair move memory of devices, by their own words.
fn manners(pair: &Pair) -> [Option<Manner>; 2] {
    [(&pair.sender, pair.receiver.id()), (&pair.receiver, pair.sender.id())]
        .map(|(end, peer)| end.route(peer).and_then(|route| route.dmabufs))
}

#[test]
fn a_card_goes_on_reading_other_memory_in_place_and_the_route_says_which_way_this_goes() {
    let (true, Some(make)) = (is_there(), rdma()) else { return };
    let pair = Pair::with(&make, |config| config.links_per_peer = 1);
    let ordinary = [Region::from_vec(pattern(LEN_BYTES, 1)), Region::allocate(LEN_BYTES).expect("memory")];
    let of_devices = [filled(pattern(LEN_BYTES, 2)), Region::dmabuf(LEN_BYTES).expect("there was some")];
    move_from(&pair, &ordinary[0].all(), &ordinary[1]);
    assert_eq!(manners(&pair), [None, None], "there was none");
    move_from(&pair, &ordinary[0].all(), &of_devices[1]);
    move_from(&pair, &of_devices[0].all(), &ordinary[1]);
    move_from(&pair, &of_devices[0].all(), &of_devices[1]);
    for manner in manners(&pair) {
        let manner = manner.expect("there was some at both ends");
        // What it says depends on the card and its driver, and is said by the name of the call.
        assert!(manner.sentence.contains("ibv_reg_dmabuf_mr"), "{manner:?}");
        eprintln!("memory of devices, {} copies: {}", manner.copies, manner.sentence);
    }
    move_from(&pair, &ordinary[0].all(), &ordinary[1]);
    let manner = pair.sender.route(pair.receiver.id()).and_then(|route| route.ordinary).expect("two ways");
    assert_eq!(manner.copies, 0, "{manner:?}");
    assert_eq!(pair.sender.stats().exposed_bytes, 0);
}

#[test]
fn the_kernel_is_not_asked_to_send_from_where_it_is_mapped_since_that_says_nothing_of_other_memory() {
    if !is_there() {
        return;
    }
    let make = || {
        let backend = TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        Arc::new(backend.with_zerocopy(ZeroCopy::From(64 << 10))) as Arc<dyn Backend>
    };
    let pair = Pair::with(&make, |config| config.links_per_peer = 1);
    let to = Region::dmabuf(LEN_BYTES).expect("there was some");
    for salt in 0..4 {
        move_from(&pair, &filled(pattern(LEN_BYTES, salt)).all(), &to);
    }
    let manner = pair.sender.route(pair.receiver.id()).and_then(|route| route.ordinary).expect("two ways");
    assert!(!manner.sentence.contains("pinned"), "{manner:?}");
}

#[test]
fn other_processes_are_not_asked_to_fetch_it_and_go_on_fetching_other_memory() {
    if !is_there() {
        return;
    }
    let pair = Pair::with(&shm, |config| config.links_per_peer = 1);
    let ordinary = Region::from_vec(pattern(LEN_BYTES, 1));
    let to = Region::allocate(LEN_BYTES).expect("memory");
    let manner = || pair.sender.route(pair.receiver.id()).and_then(|route| route.ordinary).expect("two ways");
    // The ends find out whether they can.
    move_from(&pair, &ordinary.all(), &to);
    move_from(&pair, &ordinary.all(), &to);
    let before = manner();
    move_from(&pair, &filled(pattern(LEN_BYTES, 2)).all(), &to);
    move_from(&pair, &ordinary.all(), &Region::dmabuf(LEN_BYTES).expect("there was some"));
    assert_eq!(manner(), before);
}

//! Two queue pairs of this machine talk to each other, where it has an RDMA device: what is sent, read and written arrives, and a
//! window that was closed is closed.
#![allow(unsafe_code, reason = "devices are given memory")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use xfer_sys::verbs::{
    Access, Capacity, CompletionChannel, CompletionQueue, Context, GidKind, LinkLayer, MemoryRegion, MemoryWindow,
    Part, Path, ProtectionDomain, QueuePair, Status, Timing, Work, device_names,
};

const LEN: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(30);
const CAPACITY: Capacity = Capacity { sends: 16, receives: 16, inline_bytes: 64 };

struct End {
    pair: QueuePair,
    memory: Vec<u8>,
    port: u8,
    gid_index: u8,
    gid: [u8; 16],
    mtu_bytes: u32,
}

impl End {
    /// An end on a device, if it has a port with an address of IP.
    fn new(name: &str) -> Option<Self> {
        let context = Context::open(name).expect("the device opens");
        let ports = context.port_numbers().filter_map(|number| context.port(number).ok());
        let mut ports = ports.filter(|port| port.is_active && port.layer == LinkLayer::Ethernet);
        let (port, gid) = ports.find_map(|port| {
            let mut gids = context.gids(&port).into_iter();
            Some((port, gids.find(|gid| gid.kind == GidKind::RoceV2 && gid.address().is_ipv4())?))
        })?;
        let domain = ProtectionDomain::new(&context).expect("a domain");
        let channel = CompletionChannel::new(&context).expect("a channel");
        let queue = Arc::new(CompletionQueue::new(channel, 64, 1).expect("a completion queue"));
        let pair = QueuePair::new(&domain, &queue, CAPACITY).expect("a queue pair");
        pair.prepare(port.number, Access::REMOTE_READ.and(Access::REMOTE_WRITE)).expect("it is set up");
        let memory = vec![0; LEN];
        Some(Self {
            pair,
            memory,
            port: port.number,
            gid_index: gid.index,
            gid: gid.bytes,
            mtu_bytes: port.mtu_bytes.min(1024),
        })
    }

    fn connect(&self, other: &Self) {
        let path = Path {
            port: self.port,
            gid_index: self.gid_index,
            gid: other.gid,
            queue_pair: other.pair.number(),
            psn: 7,
            mtu_bytes: self.mtu_bytes,
            reads_of_peer: 4,
        };
        self.pair.connect(&path).expect("connected");
        self.pair.start(7, 4, Timing { timeout_exponent: 15, retries: 5 }).expect("started");
    }

    fn register(&mut self, access: Access) -> MemoryRegion {
        let (start, len) = (self.memory.as_mut_ptr(), self.memory.len());
        // SAFETY: the memory is looked at again only after the work that names it is done, and outlives the registration.
        unsafe { MemoryRegion::register(self.pair.domain(), start, len, access) }.expect("registered")
    }

    fn part(&self, key: u32) -> Part {
        Part { start: self.memory.as_ptr() as u64, len_bytes: LEN as u32, key }
    }

    fn done(&self) -> (u64, Status) {
        let until = Instant::now() + PATIENCE;
        let mut found = None;
        while found.is_none() {
            assert!(Instant::now() < until, "nothing completes");
            self.pair.queue().poll(|completion| found = Some((completion.id, completion.status))).expect("polled");
            std::thread::yield_now();
        }
        found.expect("found")
    }
}

fn ends() -> Option<(End, End)> {
    let names = match device_names() {
        Ok(names) => names,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let (first, second) = (names.first()?, names.get(1).or(names.first())?);
    let ends = End::new(first).zip(End::new(second));
    if ends.is_none() {
        eprintln!("skipped: {} has no active port with an address of IP (RoCE v2)", names.join(", "));
    }
    ends
}

#[test]
fn what_is_sent_read_and_written_arrives() {
    let Some((mut here, mut there)) = ends() else { return };
    here.connect(&there);
    there.connect(&here);
    let mine = here.register(Access::LOCAL_WRITE);
    let theirs = there.register(Access::REMOTE_READ.and(Access::REMOTE_WRITE));
    let pattern: Vec<u8> = (0..LEN).map(|at| (at * 7 % 251) as u8).collect();
    there.memory.copy_from_slice(&pattern);
    let remote = there.memory.as_ptr() as u64;
    let read = Work::Read { part: here.part(mine.local_key()), remote, remote_key: theirs.remote_key() };
    // SAFETY: both memories are left alone until the completion below.
    unsafe { here.pair.post([(1, &read)]) }.expect("posted");
    assert_eq!(here.done(), (1, Status::DONE));
    assert!(here.memory == pattern);

    here.memory.fill(0x5a);
    let write = Work::Write { part: here.part(mine.local_key()), remote, remote_key: theirs.remote_key() };
    // SAFETY: as above.
    unsafe { here.pair.post([(2, &write)]) }.expect("posted");
    assert_eq!(here.done(), (2, Status::DONE));
    assert!(there.memory.iter().all(|byte| *byte == 0x5a));

    here.memory[..5].copy_from_slice(b"hello");
    // SAFETY: as above.
    unsafe { there.pair.post_room(3, Part { len_bytes: 64, ..there.part(theirs.local_key()) }) }.expect("room");
    let send =
        Work::Send { part: Part { len_bytes: 5, ..here.part(0) }, inline: here.pair.capacity().inline_bytes >= 5 };
    // SAFETY: as above.
    unsafe { here.pair.post([(4, &send)]) }.expect("posted");
    assert_eq!((here.done(), there.done()), ((4, Status::DONE), (3, Status::DONE)));
    assert_eq!(&there.memory[..5], b"hello");
}

#[test]
fn whether_memory_of_devices_could_be_registered_is_said() {
    let Some((here, _)) = ends() else { return };
    let name = here.pair.domain().context().name();
    match here.pair.domain().takes_dmabufs() {
        Ok(()) => assert!(!name.starts_with("rxe"), "Soft-RoCE has no way to"),
        Err(error) => assert!(error.to_string().contains("ibv_reg_dmabuf_mr"), "{name}: {error}"),
    }
}

#[test]
fn a_window_lets_read_until_it_is_closed() {
    let Some((mut here, mut there)) = ends() else { return };
    if !there.pair.domain().context().has_windows() {
        eprintln!("skipped: {} has no memory windows of type 2", there.pair.domain().context().name());
        return;
    }
    here.connect(&there);
    there.connect(&here);
    let mine = here.register(Access::LOCAL_WRITE);
    let theirs = there.register(Access::LOCAL_WRITE.and(Access::WINDOWS));
    there.memory.fill(9);
    let window = MemoryWindow::new(there.pair.domain()).expect("a window");
    let key = window.next_key();
    let start = there.memory.as_ptr() as u64 + 4096;
    let open = Work::Open { window: &window, key, on: &theirs, start, len_bytes: 4096 };
    let word = Work::Send { part: Part { len_bytes: 5, ..there.part(theirs.local_key()) }, inline: false };
    // SAFETY: what arrives is not looked at.
    unsafe { here.pair.post_room(9, Part { len_bytes: 64, ..here.part(mine.local_key()) }) }.expect("room");
    // SAFETY: the memory outlives the window, and is left alone until the completion below.
    unsafe { there.pair.post([(1, &open), (5, &word)]) }.expect("posted");
    assert_eq!(there.done(), (5, Status::DONE), "an opening that is done says nothing");
    assert_eq!(here.done(), (9, Status::DONE));
    here.memory.fill(0);
    let read = |len_bytes, remote| Work::Read {
        part: Part { len_bytes, ..here.part(mine.local_key()) },
        remote,
        remote_key: key,
    };
    // SAFETY: the memory is left alone until the completion below.
    unsafe { here.pair.post([(2, &read(4096, start))]) }.expect("posted");
    assert_eq!(here.done(), (2, Status::DONE));
    assert_eq!(here.memory.iter().filter(|byte| **byte == 9).count(), 4096);
    // SAFETY: nothing is named.
    unsafe { there.pair.post([(3, &Work::Close { key })]) }.expect("posted");
    assert_eq!(there.done(), (3, Status::DONE));
    // SAFETY: as above.
    unsafe { here.pair.post([(4, &read(4096, start))]) }.expect("posted");
    assert_eq!(here.done(), (4, Status::REMOTE_ACCESS), "a closed window lets nobody read");
}

#[test]
fn what_is_sent_wakes_who_waits_for_nothing_else() {
    let Some((mut here, mut there)) = ends() else { return };
    here.connect(&there);
    there.connect(&here);
    let mine = here.register(Access::LOCAL_WRITE);
    let theirs = there.register(Access::LOCAL_WRITE.and(Access::REMOTE_READ));
    let queue = Arc::clone(here.pair.queue());
    queue.arm(true).expect("armed");
    let remote = there.memory.as_ptr() as u64;
    let read = Work::Read { part: here.part(mine.local_key()), remote, remote_key: theirs.remote_key() };
    // SAFETY: both memories are left alone until the completion below.
    unsafe { here.pair.post([(1, &read)]) }.expect("posted");
    assert_eq!(here.done(), (1, Status::DONE));
    assert!(!queue.take_announcement(), "a read is nothing that was sent");
    // SAFETY: as above.
    unsafe { here.pair.post_room(2, Part { len_bytes: 64, ..here.part(mine.local_key()) }) }.expect("room");
    let word = Work::Send { part: Part { len_bytes: 5, ..there.part(theirs.local_key()) }, inline: false };
    // SAFETY: as above.
    unsafe { there.pair.post([(3, &word)]) }.expect("posted");
    assert_eq!(here.done(), (2, Status::DONE));
    let until = Instant::now() + PATIENCE;
    while !queue.take_announcement() {
        assert!(Instant::now() < until, "nothing is announced");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_under_way_when_a_queue_pair_fails_is_flushed() {
    let Some((mut here, there)) = ends() else { return };
    here.connect(&there);
    let mine = here.register(Access::LOCAL_WRITE);
    let part = here.part(mine.local_key());
    // SAFETY: the memory is left alone until the completion below.
    unsafe { here.pair.post_room(1, part) }.expect("posted");
    here.pair.fail().expect("failed");
    assert_eq!(here.done(), (1, Status::FLUSHED));
    here.pair.end().expect("ended");
    // SAFETY: nothing is named.
    assert!(unsafe { here.pair.post([(2, &Work::Close { key: 1 })]) }.is_err(), "it has ended");
}

//! Sessions that fail, one after the other, in one process: what they held must be given back.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::{Make, PATIENCE, Random, eventually, start};
use crate::{Cancelled, Endpoint, Lane, MemoryError, Region, TransferError, arena_bytes_in_use};

const LEN_BYTES: u64 = 256 << 10;
const CHUNK_BYTES: u32 = 16 << 10;

/// The latest moment of a failure after its transfer began: some come before the first byte, some after the last.
const FAILS_WITHIN: Duration = Duration::from_micros(400);

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Live grants of the endpoint that stays.
    pub grants: u64,
    /// Bytes of memory in use that peers can be shown.
    pub arena_bytes: u64,
    /// Bytes of the process's memory that are resident.
    pub resident_bytes: u64,
}

/// How the sessions ended, and what was held before and after them.
#[derive(Debug, Clone)]
pub struct Soak {
    /// How many sessions came to which end.
    pub ends: BTreeMap<&'static str, u64>,
    /// After the warm-up.
    pub before: Held,
    /// After the last session.
    pub after: Held,
    /// Resident bytes after each tenth of the sessions: what leaks grows with every one of them, what an allocator keeps doesn't.
    pub resident_bytes: Vec<u64>,
    /// How long the sessions took after the warm-up.
    pub took: Duration,
}

/// Lets `sessions` sessions fail after `warm_up` others, between one endpoint that stays and one that comes for each of
/// them. Nothing else may go on in this process.
///
/// # Panics
///
/// When descriptors, threads or grants don't come back to what they were, or a session has no end.
pub fn failed_sessions(make: Make<'_>, sessions: u64, warm_up: u64, seed: u64) -> Soak {
    // The arena keeps its last segment, so it is there from the start.
    drop(Region::shared(1).expect("shared memory"));
    let (stays, _) = start(make, 0, 1, &small_chunks);
    let idle = settled(&stays);
    let mut random = Random(seed);
    let mut warming = BTreeMap::new();
    let life = |session: u64| u32::try_from(2 + session).expect("fewer sessions than lives");
    for session in 0..warm_up {
        fail(make, &stays, life(session), &mut random, &mut warming);
    }
    given_back(&stays, &idle);
    let before = Held::of(&stays);
    let (mut ends, mut resident_bytes, began) = (BTreeMap::new(), Vec::new(), Instant::now());
    for session in 0..sessions {
        fail(make, &stays, life(warm_up + session), &mut random, &mut ends);
        if (session + 1) % (sessions / 10).max(1) == 0 {
            resident_bytes.push(Held::of(&stays).resident_bytes);
        }
    }
    let took = began.elapsed();
    given_back(&stays, &idle);
    Soak { ends, before, after: Held::of(&stays), resident_bytes, took }
}

fn small_chunks(config: &mut crate::EndpointConfig) {
    config.chunk_bytes = CHUNK_BYTES;
}

/// What is held once threads of before have gone: they are counted as gone a moment sooner than the system sees it.
fn settled(stays: &Endpoint) -> Held {
    const SAME: u32 = 100;
    let (mut held, mut same) = (Held::of(stays), 0);
    while same < SAME {
        std::thread::sleep(Duration::from_millis(1));
        let now = Held::of(stays);
        same = if (now.descriptors, now.threads) == (held.descriptors, held.threads) { same + 1 } else { 0 };
        held = now;
    }
    held
}

fn given_back(stays: &Endpoint, idle: &Held) {
    let same = |now: &Held| {
        (now.descriptors, now.threads, now.grants, now.arena_bytes)
            == (idle.descriptors, idle.threads, idle.grants, idle.arena_bytes)
    };
    let until = Instant::now() + PATIENCE;
    while !same(&Held::of(stays)) {
        assert!(Instant::now() < until, "an idle endpoint holds {idle:?}; after failed sessions {:?}", Held::of(stays));
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Held {
    fn of(endpoint: &Endpoint) -> Self {
        let entries = |folder: &str| fs::read_dir(folder).map_or(0, Iterator::count);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            grants: endpoint.stats().grants_live,
            arena_bytes: arena_bytes_in_use(),
            resident_bytes: kib << 10,
        }
    }
}

/// One session, and how it failed. `stays` reads or writes, memory is ordinary or shared, and the failure comes at any time.
fn fail(make: Make<'_>, stays: &Endpoint, life: u32, random: &mut Random, ends: &mut BTreeMap<&'static str, u64>) {
    let kind = random.below(8);
    let mut count = |end| *ends.entry(end).or_insert(0) += 1;
    // Of a life that is over, once a later one has been here.
    let is_late = kind == 0 && life > 2 && stays.stats().peers_up > 0;
    let (comes, links) = start(make, 1, if is_late { 1 } else { life }, &small_chunks);
    if is_late {
        comes.connect(&stays.ticket(), PATIENCE).expect_err("it is of the past");
        return count("refused by name");
    }
    if kind == 1 {
        let ticket = comes.ticket();
        comes.shutdown();
        stays.connect(&ticket, PATIENCE).expect_err("nobody is there");
        return count("nobody there");
    }
    stays.connect(&comes.ticket(), PATIENCE).expect("connected, also if the life before this was not known to be over");
    eventually("both know it", || comes.peer(0) == Some(stays.id()));
    let (from, to) = if random.below(2) == 0 { (stays, &comes) } else { (&comes, stays) };
    let source = memory(random).expect("memory");
    let destination = memory(random).expect("memory");
    let grant = to.grant(&destination, from.id()).expect("a grant");
    let deadline =
        (kind == 2).then(|| from.deadline_in(Duration::from_nanos(random.below(FAILS_WITHIN.as_nanos() as u64))));
    let write = from.write(to.id(), source.all(), grant.remote().all(), Lane::Rescue, deadline);
    random.pause(FAILS_WITHIN);
    match kind {
        2 => {}
        3 => drop(grant),
        4 => comes.shutdown(),
        5 => links.cut_all(),
        6 => stays.send(comes.id(), crate::Channel(1), super::text("never taken")).expect("sent"),
        _ => match write.cancel() {
            Cancelled::Fenced => {}
            Cancelled::Completed(_) => return count("too late to fail"),
            Cancelled::Quarantined => panic!("a peer that is there proves its fence"),
        },
    }
    // Dropped with all that it holds, and the transfer under way.
    if kind == 6 {
        drop(comes);
    }
    count(match write.wait(Some(PATIENCE)) {
        Ok(_) => "too late to fail",
        Err(TransferError::Cancelled) => "cancelled",
        Err(TransferError::Expired) => "deadline passed",
        Err(TransferError::Revoked { .. }) => "grant revoked",
        Err(TransferError::PeerGone { .. } | TransferError::NotConnected(_)) => "peer gone",
        Err(TransferError::ShutDown) => "shut down itself",
        Err(error) => panic!("no end that was meant: {error}"),
    });
}

fn memory(random: &mut Random) -> Result<Region, MemoryError> {
    if random.below(2) == 0 { Region::shared(LEN_BYTES) } else { Region::allocate(LEN_BYTES) }
}

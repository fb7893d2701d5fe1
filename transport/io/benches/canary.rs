//! Looks for bytes that come too late: transfers are cancelled at random instants, and their memory is watched afterwards.
//!
//! `cargo bench -p xfer-transport --bench canary [-- TRIALS [SEED]]`: over TCP, over shared memory from ordinary memory and from
//! such that is read where it lies, and over RDMA where there are devices; or over those of them that are named. After a cancel
//! that says `Fenced`, the destination is filled with one pattern and the source with another; either of them found changed in
//! the destination later was written too late, or read too late. The short version of this runs with the tests of every backend.

use std::collections::VecDeque;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::backend::verbs::{self, VerbsBackend};
use xfer_transport::conformance::{Make, PATIENCE, Pair, Random, pattern};
use xfer_transport::{Cancelled, Lane, Region};

const TRIALS: u64 = 100_000;
const LEN_BYTES: u64 = 256 << 10;
const CHUNK_BYTES: u32 = 16 << 10;

/// What the destination holds once nothing may be written into it, and the source once nothing may be read from it.
const CANARY: u8 = 0xc5;
const POISON: u8 = 0x3a;

/// How many destinations are watched while further transfers push what is still on its way through the links.
const WATCHED: usize = 32;

#[derive(Default)]
struct Counts {
    fenced: u64,
    completed: u64,
    quarantined: u64,
    late_bytes: u64,
    torn: u64,
    fences: Vec<Duration>,
}

fn main() {
    let mut numbers = env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let trials = numbers.next().unwrap_or(TRIALS);
    let seed = numbers.next().unwrap_or(1);
    println!("# cancel at a random instant, two endpoints in one process, {LEN_BYTES} bytes each, seed {seed}");
    println!(
        "{:14} {:>8} {:>8} {:>10} {:>12} {:>11} {:>6} {:>14} {:>14} {:>14} {:>8}",
        "over",
        "trials",
        "fenced",
        "completed",
        "quarantined",
        "late bytes",
        "torn",
        "fence p50(ms)",
        "fence p99(ms)",
        "fence max(ms)",
        "time(s)"
    );
    let tcp: Make<'_> = &|| Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
    let shm: Make<'_> = &|| Arc::new(ShmBackend::bind().expect("shared memory"));
    let places = verbs::addresses();
    let next = AtomicUsize::new(0);
    // One device after the other, so that two ends are on two.
    let rdma: Make<'_> = &|| {
        let places = places.as_ref().expect("asked for where there are some");
        let place = places[next.fetch_add(1, Ordering::Relaxed) % places.len()];
        Arc::new(VerbsBackend::bind((place, 0).into(), None).expect("it has the address"))
    };
    let mut ways = vec![("tcp", tcp, false), ("shm", shm, false), ("shm, in place", shm, true)];
    match &places {
        Ok(_) => ways.push(("verbs", rdma, false)),
        Err(why) => println!("# not over verbs: {why}"),
    }
    let named: Vec<String> = env::args().skip(1).collect();
    let is_named = |over: &str| named.iter().any(|word| word == over);
    if ways.iter().any(|(over, ..)| is_named(over)) {
        ways.retain(|(over, ..)| is_named(over));
    }
    let mut wrong = 0;
    for (over, make, shared) in ways {
        let began = Instant::now();
        let mut counts = run(make, shared, trials, seed);
        counts.print(over, trials, began.elapsed());
        wrong += counts.late_bytes + counts.torn;
    }
    if wrong > 0 {
        std::process::exit(1);
    }
}

impl Counts {
    fn print(&mut self, over: &str, trials: u64, took: Duration) {
        self.fences.sort_unstable();
        let at = |share: f64| {
            let place = ((self.fences.len() as f64 * share) as usize).min(self.fences.len().saturating_sub(1));
            self.fences.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        println!(
            "{over:14} {:>8} {:>8} {:>10} {:>12} {:>11} {:>6} {:>14.3} {:>14.3} {:>14.3} {:>8.1}",
            trials,
            self.fenced,
            self.completed,
            self.quarantined,
            self.late_bytes,
            self.torn,
            at(0.5),
            at(0.99),
            at(1.0),
            took.as_secs_f64()
        );
    }
}

fn run(make: Make<'_>, shared: bool, trials: u64, seed: u64) -> Counts {
    let pair = Pair::with(make, |config| config.chunk_bytes = CHUNK_BYTES);
    let mut random = Random(seed);
    let bytes = pattern(LEN_BYTES, 7);
    let canary = vec![CANARY; LEN_BYTES as usize];
    let poison = vec![POISON; LEN_BYTES as usize];
    let mut counts = Counts::default();
    let mut watched = VecDeque::new();
    for _ in 0..trials {
        let (destination, grant) = pair.granted(LEN_BYTES);
        let source = if shared { Region::shared(LEN_BYTES) } else { Region::allocate(LEN_BYTES) }.expect("memory");
        source.write_at(0, &bytes).expect("inside");
        let remote = grant.remote().all();
        let write = pair.sender.write(pair.receiver.id(), source.all(), remote, Lane::Rescue, None);
        // The instant is what is tried out; none of them is waited for. Shared memory is through sooner.
        let within_us = if random.below(2) == 0 { 20 } else { 150 };
        random.pause(Duration::from_micros(within_us));
        let asked = Instant::now();
        match write.cancel() {
            Cancelled::Fenced => {
                counts.fences.push(asked.elapsed());
                counts.fenced += 1;
                destination.write_at(0, &canary).expect("inside");
                source.write_at(0, &poison).expect("inside");
                // The grant lives on: it is the cancel that has to hold, and not the end of the grant.
                watched.push_back((destination, grant));
            }
            Cancelled::Completed(_) => {
                counts.completed += 1;
                counts.torn += u64::from(destination.copy_to_vec() != bytes);
            }
            Cancelled::Quarantined => counts.quarantined += 1,
        }
        if watched.len() > WATCHED {
            counts.late_bytes += watched.pop_front().map_or(0, |(destination, _)| changed(&destination));
        }
    }
    // What is still on its way is pushed through by what is sent behind it.
    let (_destination, grant) = pair.granted(LEN_BYTES);
    let source = Region::from_vec(bytes);
    let flush = pair.sender.write(pair.receiver.id(), source.all(), grant.remote().all(), Lane::Rescue, None);
    flush.wait(Some(PATIENCE)).expect("the links work");
    counts.late_bytes += watched.iter().map(|(destination, _)| changed(destination)).sum::<u64>();
    counts
}

/// How many bytes were written after they must not be.
fn changed(destination: &Region) -> u64 {
    destination.copy_to_vec().iter().filter(|byte| **byte != CANARY).count() as u64
}

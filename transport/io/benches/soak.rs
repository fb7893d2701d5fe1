//! Whether sessions that fail leave anything behind: descriptors, threads, grants, memory.
//!
//! `cargo bench -p xfer-transport --bench soak [-- SESSIONS [SEED]]`. Each session connects, begins a transfer and fails at a
//! random moment in one of the ways that the table counts. Descriptors, threads, grants and the arena have to be exactly
//! what they were; the resident memory within a mebibyte. The short version of this runs with the tests.

use std::env;
use std::sync::Arc;

use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::Make;
use xfer_transport::conformance::soak::{Soak, failed_sessions};

const SESSIONS: u64 = 10_000;
const WARM_UP: u64 = 500;
const DRIFT_BYTES_MAX: u64 = 1 << 20;

fn main() {
    let mut numbers = env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let sessions = numbers.next().unwrap_or(SESSIONS);
    let seed = numbers.next().unwrap_or(1);
    println!("# {sessions} sessions that fail, after {WARM_UP} others, one process, seed {seed}");
    println!(
        "{:>5} {:>16} {:>12} {:>12} {:>14} {:>24} {:>8}",
        "over", "descriptors", "threads", "grants", "arena bytes", "resident (KiB)", "time(s)"
    );
    let tcp: Make<'_> = &|| Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
    let shm: Make<'_> = &|| Arc::new(ShmBackend::bind().expect("shared memory"));
    let mut drifted = false;
    for (over, make) in [("tcp", tcp), ("shm", shm)] {
        let soak = failed_sessions(make, sessions, WARM_UP, seed);
        print(over, &soak);
        drifted |= soak.after.resident_bytes > soak.before.resident_bytes + DRIFT_BYTES_MAX;
    }
    if drifted {
        println!("the resident memory grew by more than {} KiB", DRIFT_BYTES_MAX >> 10);
        std::process::exit(1);
    }
}

fn print(over: &str, soak: &Soak) {
    let (before, after) = (&soak.before, &soak.after);
    let drift = (after.resident_bytes as i64 - before.resident_bytes as i64) >> 10;
    println!(
        "{over:>5} {:>16} {:>12} {:>12} {:>14} {:>24} {:>8.1}",
        format!("{} -> {}", before.descriptors, after.descriptors),
        format!("{} -> {}", before.threads, after.threads),
        format!("{} -> {}", before.grants, after.grants),
        format!("{} -> {}", before.arena_bytes, after.arena_bytes),
        format!("{} -> {} ({drift:+})", before.resident_bytes >> 10, after.resident_bytes >> 10),
        soak.took.as_secs_f64()
    );
    let ends: Vec<String> = soak.ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
    println!("      {}", ends.join(", "));
    let tenths: Vec<String> = soak.resident_bytes.iter().map(|bytes| (bytes >> 10).to_string()).collect();
    println!("      resident after each tenth (KiB): {}", tenths.join(" "));
}

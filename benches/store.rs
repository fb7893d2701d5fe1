//! What a store's journal costs: a write with and without it, and how soon a store is there again.
//!
//! `cargo bench --bench store [-- WRITES]`. Figures are of the file system that the temporary folder is on.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use xfer::store::{Exposure, Store, StoreServer, Swap, TcpStore, Version};

const WAIT: Duration = Duration::from_secs(60);
const WRITES: u64 = 100_000;
/// Keys of a job: claims, seals, and a generation that is replaced again and again.
const KEYS: u64 = 1000;
const WRITERS: u64 = 8;
const VALUE_BYTES: usize = 200;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let writes = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(WRITES);
    let folder = tempfile::tempdir()?;
    let journal = folder.path().join("journal");
    println!("# {writes} writes of {VALUE_BYTES} bytes to {KEYS} keys");
    let server = StoreServer::bind(([127, 0, 0, 1], 0).into(), Exposure::LoopbackOnly)?;
    alone("without a journal", &server, 2000)?;
    drop(server);

    let server = start(&journal)?;
    alone("with a journal", &server, 2000)?;
    let began = Instant::now();
    thread::scope(|scope| {
        let server = &server;
        let begin = |writer| scope.spawn(move || write(server, writer, writes / WRITERS));
        let writers: Vec<_> = (0..WRITERS).map(begin).collect();
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer panicked")?.map(drop))
    })?;
    let each_us = began.elapsed().as_secs_f64() * 1e6 / writes as f64;
    println!("with a journal, {WRITERS} writers    {each_us:8.1} us a write, {:.1} MB", len_mb(&journal)?);
    drop(server);

    let began = Instant::now();
    let server = start(&journal)?;
    let store = TcpStore::connect(&server.local_addr().to_string(), WAIT)?;
    let held = store.list("")?.len();
    println!("started again             {:8.1} ms until it answered, {held} keys", began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn start(journal: &Path) -> Outcome<StoreServer> {
    let failed = |error| eprintln!("{error}");
    Ok(StoreServer::bind_journaled(([127, 0, 0, 1], 0).into(), Exposure::LoopbackOnly, journal, failed)?)
}

/// One writer, one write after the other.
fn alone(name: &str, server: &StoreServer, writes: u64) -> Outcome<()> {
    let mut times = write(server, u64::MAX, writes)?;
    times.sort_unstable();
    let us = |at: usize| times[at].as_secs_f64() * 1e6;
    println!("{name:24}  {:8.1} us a write, p99 {:.1} us", us(times.len() / 2), us(times.len() * 99 / 100));
    Ok(())
}

fn write(server: &StoreServer, writer: u64, writes: u64) -> Outcome<Vec<Duration>> {
    let store = TcpStore::connect(&server.local_addr().to_string(), WAIT)?;
    let keys = KEYS / WRITERS;
    let mut versions = vec![Version::ABSENT; keys as usize];
    let mut times = Vec::new();
    for at in 0..writes {
        let key = (at % keys) as usize;
        let began = Instant::now();
        match store.compare_and_swap(&format!("key/{writer}/{key}"), versions[key], vec![7; VALUE_BYTES].into())? {
            Swap::Won(version) => versions[key] = version,
            Swap::Lost(_) => return Err("somebody else writes the same keys".into()),
        }
        times.push(began.elapsed());
    }
    Ok(times)
}

fn len_mb(path: &Path) -> Outcome<f64> {
    Ok(std::fs::metadata(path)?.len() as f64 / 1e6)
}

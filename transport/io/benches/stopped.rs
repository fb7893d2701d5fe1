//! Looks for bytes of a process that was stopped in the middle of a transfer and goes on after its fence.
//!
//! `cargo bench -p xfer-transport --bench stopped [-- TRIALS [SEED]]`: once over TCP and once over shared memory, a process is stopped at a
//! random instant of many transfers. If it was the sender, its grants are revoked meanwhile, and their memory is filled with a
//! pattern that must still be there after it went on. If it was the receiver, the transfers are cancelled meanwhile, its memory is
//! looked at while it stands, and must be the same after it went on for all that were said to be fenced.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use xfer_transport::backend::Backend;
use xfer_transport::backend::shm::ShmBackend;
use xfer_transport::backend::tcp::TcpBackend;
use xfer_transport::conformance::{JOB, PATIENCE, Random, pattern};
use xfer_transport::{
    BackendId, Cancelled, Endpoint, EndpointConfig, Grant, Lane, PeerId, Place, Region, RegionId, RemoteRegion,
    TransferHandle,
};

const TRIALS: u64 = 3_200;
const AT_ONCE: usize = 32;
const LEN_BYTES: u64 = 256 << 10;
const CHUNK_BYTES: u32 = 16 << 10;
const CANARY: u8 = 0xc5;
const POISON: u8 = 0x3a;

/// By when the process is stopped, and the transfers are cancelled.
const STOPS_WITHIN: Duration = Duration::from_millis(3);

const PARENT: PeerId = PeerId { rank: 0, incarnation: 1 };
const CHILD: PeerId = PeerId { rank: 1, incarnation: 1 };

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Counts {
    trials: u64,
    fenced: u64,
    completed: u64,
    quarantined: u64,
    late_bytes: u64,
}

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, over, ticket] = words.as_slice()
        && word == "child"
    {
        return child(BackendId::from_wire(over.parse()?).ok_or("no such transport")?, ticket);
    }
    let mut numbers = words.iter().filter_map(|word| word.parse::<u64>().ok());
    let trials = numbers.next().unwrap_or(TRIALS);
    let seed = numbers.next().unwrap_or(1);
    println!(
        "# a process is stopped at a random instant of {AT_ONCE} transfers of {LEN_BYTES} bytes, and goes on after them, seed {seed}"
    );
    println!(
        "{:20} {:>8} {:>8} {:>10} {:>12} {:>11} {:>8}",
        "stopped", "trials", "fenced", "completed", "quarantined", "late bytes", "time(s)"
    );
    let mut late_bytes = 0;
    for over in [BackendId::Tcp, BackendId::Shm] {
        for (who, round) in [("sender", stop_sender as Round), ("receiver", stop_receiver)] {
            let began = Instant::now();
            let (endpoint, mut child) = connected(over)?;
            let mut random = Random(seed);
            let mut counts = Counts::default();
            while counts.trials < trials {
                round(&endpoint, &mut child, &mut random, &mut counts)?;
            }
            late_bytes += counts.late_bytes;
            println!(
                "{:20} {:>8} {:>8} {:>10} {:>12} {:>11} {:>8.1}",
                format!("{who}, {over}"),
                counts.trials,
                counts.fenced,
                counts.completed,
                counts.quarantined,
                counts.late_bytes,
                began.elapsed().as_secs_f64()
            );
        }
    }
    if late_bytes > 0 {
        std::process::exit(1);
    }
    Ok(())
}

type Round = fn(&Endpoint, &mut Peer, &mut Random, &mut Counts) -> Outcome<()>;

/// The child writes; it is stopped, its grants are revoked, it goes on.
fn stop_sender(endpoint: &Endpoint, child: &mut Peer, random: &mut Random, counts: &mut Counts) -> Outcome<()> {
    let regions: Vec<Region> = (0..AT_ONCE).map(|_| Region::allocate(LEN_BYTES)).collect::<Result<_, _>>()?;
    let grants: Vec<Grant> = regions.iter().map(|region| endpoint.grant(region, CHILD)).collect::<Result<_, _>>()?;
    let ids: Vec<String> = grants.iter().map(|grant| grant.remote().id.0.to_string()).collect();
    child.ask(&format!("write {}", ids.join(" ")))?;
    random.pause(STOPS_WITHIN);
    child.signal(Signal::STOP)?;
    for (grant, region) in grants.into_iter().zip(&regions) {
        counts.completed += u64::from(grant.received() == LEN_BYTES);
        grant.revoke();
        region.write_at(0, &[CANARY; LEN_BYTES as usize])?;
    }
    child.signal(Signal::CONT)?;
    // All its transfers have ended, so all that it sent has been answered.
    child.ask("wait")?;
    let late = |region: &Region| region.copy_to_vec().iter().filter(|byte| **byte != CANARY).count() as u64;
    counts.late_bytes += regions.iter().map(late).sum::<u64>();
    counts.trials += AT_ONCE as u64;
    counts.fenced += AT_ONCE as u64;
    Ok(())
}

/// The child receives; it is stopped, the transfers to it are cancelled, it goes on.
fn stop_receiver(endpoint: &Endpoint, child: &mut Peer, random: &mut Random, counts: &mut Counts) -> Outcome<()> {
    let granted = child.ask(&format!("grant {}", AT_ONCE + 1))?;
    let places: Vec<(RemoteRegion, u64)> = granted.split(' ').map(place).collect::<Outcome<_>>()?;
    let (flush, places) = places.split_last().ok_or("nothing was granted")?;
    let shared = random.below(2) == 0;
    let source = |salt| {
        let source = if shared { Region::shared(LEN_BYTES)? } else { Region::allocate(LEN_BYTES)? };
        source.write_at(0, &pattern(LEN_BYTES, salt))?;
        Ok::<_, Box<dyn Error>>(source)
    };
    let sources: Vec<Region> = (1..=AT_ONCE as u64).map(source).collect::<Outcome<_>>()?;
    let begin = |(source, (remote, _)): (&Region, &(RemoteRegion, u64))| {
        endpoint.write(CHILD, source.all(), remote.all(), Lane::Rescue, None)
    };
    let writes: Vec<TransferHandle> = sources.iter().zip(places).map(begin).collect();
    let cancel_at: Vec<Instant> = writes
        .iter()
        .map(|_| Instant::now() + Duration::from_nanos(random.below(2 * STOPS_WITHIN.as_nanos() as u64)))
        .collect();
    let ends: Vec<Cancelled> = thread::scope(|scope| {
        let cancelling = writes.iter().zip(&sources).zip(&cancel_at).map(|((write, source), at)| {
            scope.spawn(move || {
                while Instant::now() < *at {
                    thread::yield_now();
                }
                let end = write.cancel();
                if end == Cancelled::Fenced {
                    source.write_at(0, &[POISON; LEN_BYTES as usize]).expect("inside");
                }
                end
            })
        });
        let cancelling: Vec<_> = cancelling.collect();
        random.pause(STOPS_WITHIN);
        child.signal(Signal::STOP)?;
        Ok::<_, Box<dyn Error>>(cancelling.into_iter().map(|thread| thread.join().expect("it ends")).collect())
    })?;
    let memory = File::open(format!("/proc/{}/mem", child.process.id()))?;
    let look = |address: u64| {
        let mut bytes = vec![0; LEN_BYTES as usize];
        memory.read_exact_at(&mut bytes, address).map(|()| bytes)
    };
    let fenced: Vec<u64> =
        ends.iter().zip(places).filter(|(end, _)| **end == Cancelled::Fenced).map(|(_, (_, at))| *at).collect();
    let before: Vec<Vec<u8>> = fenced.iter().map(|address| look(*address)).collect::<Result<_, _>>()?;
    child.signal(Signal::CONT)?;
    // What is still on its way is pushed through by what is sent behind it, or ends with its connection.
    let until = Instant::now() + PATIENCE;
    let last = source(0)?;
    while endpoint.write(CHILD, last.all(), flush.0.all(), Lane::Bulk, None).wait(Some(PATIENCE)).is_err() {
        // It may have been given up, and have to find that out.
        let _ = endpoint.connect(&child.ticket, PATIENCE);
        if Instant::now() > until {
            return Err("the child does not come back".into());
        }
    }
    for (address, before) in fenced.iter().zip(before) {
        let after = look(*address)?;
        counts.late_bytes += before.iter().zip(&after).filter(|(before, after)| before != after).count() as u64;
    }
    child.ask("drop")?;
    counts.trials += AT_ONCE as u64;
    for end in ends {
        match end {
            Cancelled::Fenced => counts.fenced += 1,
            Cancelled::Completed(_) => counts.completed += 1,
            Cancelled::Quarantined => counts.quarantined += 1,
        }
    }
    Ok(())
}

fn place(word: &str) -> Outcome<(RemoteRegion, u64)> {
    let (id, address) = word.split_once('@').ok_or("no place")?;
    Ok((remote(id)?, address.parse()?))
}

fn remote(id: &str) -> Outcome<RemoteRegion> {
    Ok(RemoteRegion { id: RegionId(id.parse()?), len_bytes: LEN_BYTES, place: Place::Host })
}

fn start(id: PeerId, over: BackendId) -> Outcome<Endpoint> {
    let mut config = EndpointConfig::new(id, JOB);
    config.chunk_bytes = CHUNK_BYTES;
    let backend: Arc<dyn Backend> = match over {
        BackendId::Shm => Arc::new(ShmBackend::bind()?),
        _ => Arc::new(TcpBackend::bind(([127, 0, 0, 1], 0).into())?),
    };
    config.backends = vec![backend];
    Ok(Endpoint::start(config)?)
}

/// The other process: grants, writes, and waits as it is told.
fn child(over: BackendId, ticket: &str) -> Outcome<()> {
    let endpoint = start(CHILD, over)?;
    endpoint.connect(&from_hex(ticket)?, PATIENCE)?;
    println!("{}", to_hex(&endpoint.ticket()));
    let source = Region::from_vec(pattern(LEN_BYTES, 7));
    let mut held: Vec<(Region, Grant)> = Vec::new();
    let mut writes: Vec<TransferHandle> = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let answer = match words.next() {
            Some("grant") => {
                let count: usize = words.next().ok_or("how many")?.parse()?;
                for _ in 0..count {
                    let region = Region::allocate(LEN_BYTES)?;
                    let grant = endpoint.grant(&region, PARENT)?;
                    held.push((region, grant));
                }
                let places =
                    held.iter().map(|(region, grant)| format!("{}@{}", grant.remote().id.0, region.as_ptr() as usize));
                places.collect::<Vec<_>>().join(" ")
            }
            Some("write") => {
                for id in words {
                    writes.push(endpoint.write(PARENT, source.all(), remote(id)?.all(), Lane::Rescue, None));
                }
                String::new()
            }
            Some("wait") => {
                let ends = writes.drain(..).map(|write| write.wait(Some(PATIENCE)).is_ok());
                ends.filter(|done| *done).count().to_string()
            }
            _ => {
                held.clear();
                String::new()
            }
        };
        println!("{answer}");
    }
    Ok(())
}

fn connected(over: BackendId) -> Outcome<(Endpoint, Peer)> {
    let endpoint = start(PARENT, over)?;
    let mut command = Command::new(env::current_exe()?);
    command.args(["child", &(over as u8).to_string(), &to_hex(&endpoint.ticket())]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let input = process.stdin.take().ok_or("no input")?;
    let mut lines = BufReader::new(process.stdout.take().ok_or("no output")?).lines();
    let ticket = from_hex(&lines.next().ok_or("the child said nothing")??)?;
    Ok((endpoint, Peer { process, input, lines, ticket }))
}

/// The other process, which does not outlive this.
struct Peer {
    process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    ticket: Vec<u8>,
}

impl Peer {
    fn signal(&self, signal: Signal) -> Outcome<()> {
        Ok(kill_process(Pid::from_raw(self.process.id() as i32).ok_or("no process")?, signal)?)
    }

    fn ask(&mut self, line: &str) -> Outcome<String> {
        writeln!(self.input, "{line}")?;
        Ok(self.lines.next().ok_or("the child has ended")??)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Outcome<Vec<u8>> {
    (0..text.len() / 2).map(|at| Ok(u8::from_str_radix(&text[2 * at..2 * at + 2], 16)?)).collect()
}

//! Every way that bytes take between two processes of a machine, held against one plain copy of the same bytes: a `memcpy`
//! for shared memory, a blocking socket into the final buffer for TCP. All are taken in turn, in one run.
//!
//! `cargo bench -p xfer-transport --bench ways -- [--sizes-kib N,N,...] [--rounds N] [--links N] [--under-way N] [--ways A,B]`
//!
//! What is measured are ratios: the plain copy's time over xfer's, applied and verified. On a machine that does other things
//! too most of a time is waiting for a processor, so there are two: of medians, and of the fastest tenth, where neither
//! waited. The processor's time is that of both processes for a GB. What is moved in pieces of a size is as long as the
//! piece, or 4 MiB: no piece is overwritten while it is written.
//!
//! With `--features unsummed` each way is measured without checksums too, and what they cost is printed: of its throughput, by
//! medians and by the fastest tenths, and of the processors' time.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use xfer_transport::{
    BackendId, Endpoint, EndpointConfig, Grant, Lane, PeerId, Place, Region, RegionId, RemoteRegion, TransferHandle,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(60);
const WHOLE_BYTES_MIN: u64 = 4 << 20;
const SENDER: PeerId = PeerId { rank: 0, incarnation: 1 };
const RECEIVER: PeerId = PeerId { rank: 1, incarnation: 1 };

/// How two processes are connected.
struct Way {
    name: &'static str,
    over: BackendId,
    fetches: bool,
    shared: bool,
}

const WAYS: [Way; 4] = [
    Way { name: "arena", over: BackendId::Shm, fetches: true, shared: true },
    Way { name: "fetched", over: BackendId::Shm, fetches: true, shared: false },
    Way { name: "ring", over: BackendId::Shm, fetches: false, shared: false },
    Way { name: "tcp", over: BackendId::Tcp, fetches: false, shared: false },
];

fn main() -> Outcome<()> {
    if std::env::args().any(|argument| argument == "--receiver") {
        return receive();
    }
    let sizes: Vec<u64> = match option("--sizes-kib") {
        Some(sizes) => sizes.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => vec![64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10],
    };
    let mut other = Other::start()?;
    println!(
        "{:>10} {:>8} {:>11} {:>11} {:>9} {:>9} {:>11} {:>13} {:>14}",
        "size (KiB)",
        "way",
        "plain GB/s",
        "xfer GB/s",
        "ratio p50",
        "ratio p10",
        "cpu s a GB",
        "plain's cpu",
        "sums cost"
    );
    for size in sizes {
        for row in measure(&mut other, size << 10, number("--rounds", 15))? {
            println!("{:>10} {row}", size);
        }
    }
    other.end()
}

fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn number(name: &str, usual: usize) -> usize {
    option(name).and_then(|number| number.parse().ok()).unwrap_or(usual)
}

fn start(id: PeerId, way: &Way) -> Outcome<Endpoint> {
    let mut config = EndpointConfig::new(id, "ways");
    config.transports = Some(vec![way.over]);
    config.fetches = way.fetches;
    config.links_per_peer = number("--links", config.links_per_peer);
    Ok(Endpoint::start(config)?)
}

/// Whether chunks are summed from here on, in this process: in a build that ships they always are.
fn set_sums(_wanted: bool) -> bool {
    #[cfg(feature = "unsummed")]
    return xfer_transport::unsummed::set_sums(_wanted);
    #[cfg(not(feature = "unsummed"))]
    true
}

/// What this process has had of the processors.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The other process: does what it is told, one line each.
fn receive() -> Outcome<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let endpoints = WAYS.iter().map(|way| start(RECEIVER, way)).collect::<Outcome<Vec<_>>>()?;
    let tickets: Vec<String> = endpoints.iter().map(|endpoint| hex(&endpoint.ticket())).collect();
    println!("{} {}", listener.local_addr()?, tickets.join(" "));
    std::thread::spawn(move || -> Option<()> {
        let (mut plain, _) = listener.accept().ok()?;
        let (mut len, mut buffer) = ([0; 8], Vec::new());
        loop {
            plain.read_exact(&mut len).ok()?;
            let len = u64::from_le_bytes(len) as usize;
            buffer.resize(len.max(buffer.len()), 1);
            plain.read_exact(&mut buffer[..len]).ok()?;
            plain.write_all(&[1]).ok()?;
        }
    });
    let mut granted: Vec<Option<Grant>> = WAYS.iter().map(|_| None).collect();
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["grant", way, len_bytes] => {
                let way: usize = way.parse()?;
                granted[way] = None;
                let grant = endpoints[way].grant(&Region::allocate(len_bytes.parse()?)?, SENDER)?;
                println!("{}", grant.remote().id.0);
                granted[way] = Some(grant);
            }
            ["sums", wanted] => println!("{}", u8::from(set_sums(wanted == "1"))),
            ["sum", way] => println!("{}", granted[way.parse::<usize>()?].as_ref().ok_or("nothing")?.region().crc32c()),
            _ => println!("{}", cpu_time().as_nanos()),
        }
    }
    Ok(())
}

/// The other process as this one sees it.
struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    plain: TcpStream,
    endpoints: Vec<Endpoint>,
}

impl Other {
    fn start() -> Outcome<Self> {
        let arguments = std::env::args().skip(1).chain(["--receiver".to_owned()]);
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let plain = TcpStream::connect(words.next().ok_or("the receiver did not introduce itself")?)?;
        plain.set_nodelay(true)?;
        let mut endpoints = Vec::new();
        for (way, ticket) in WAYS.iter().zip(words) {
            let endpoint = start(SENDER, way)?;
            endpoint.connect(&unhex(ticket)?, PATIENCE)?;
            endpoints.push(endpoint);
        }
        Ok(Self { child, input, output, plain, endpoints })
    }

    fn ask(&mut self, what: &str) -> Outcome<u64> {
        writeln!(self.input, "{what}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    /// What both processes have had of the processors.
    fn cpu_time(&mut self) -> Outcome<Duration> {
        Ok(cpu_time() + Duration::from_nanos(self.ask("cpu")?))
    }

    fn sums(&mut self, wanted: bool) -> Outcome<()> {
        set_sums(wanted);
        self.ask(if wanted { "sums 1" } else { "sums 0" }).map(drop)
    }

    fn plain_copy(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.plain.write_all(&(bytes.len() as u64).to_le_bytes())?;
        bytes.chunks(1 << 20).try_for_each(|part| self.plain.write_all(part))?;
        Ok(self.plain.read_exact(&mut [0])?)
    }

    fn end(self) -> Outcome<()> {
        let Self { mut child, input, endpoints, .. } = self;
        endpoints.iter().for_each(Endpoint::shutdown);
        drop(input);
        child.wait()?;
        Ok(())
    }
}

/// Times of one kind, and the processors' time of all of them.
#[derive(Default)]
struct Times(Vec<Duration>, Duration);

impl Times {
    fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) as f64 * quantile).round() as usize].as_secs_f64()
    }
}

/// One way at one size.
struct Moved {
    way: &'static Way,
    at: usize,
    source: Region,
    remote: RemoteRegion,
    summed: Times,
    unsummed: Times,
}

impl Moved {
    /// All of it once, in pieces.
    fn once(&self, other: &Other, piece_bytes: u64) -> Outcome<()> {
        let mut under_way = VecDeque::<TransferHandle>::new();
        for start in (0..self.remote.len_bytes).step_by(piece_bytes as usize) {
            if under_way.len() >= number("--under-way", 4) {
                under_way.pop_front().ok_or("nothing")?.wait(Some(PATIENCE))?;
            }
            let from = self.source.slice(start..start + piece_bytes).ok_or("no such piece")?;
            let to = self.remote.slice(start, piece_bytes).ok_or("no such piece")?;
            under_way.push_back(other.endpoints[self.at].write(RECEIVER, from, to, Lane::Step, None));
        }
        under_way.into_iter().try_for_each(|write| write.wait(Some(PATIENCE)).map(drop))?;
        Ok(())
    }
}

fn measure(other: &mut Other, piece_bytes: u64, rounds: usize) -> Outcome<Vec<String>> {
    let whole_bytes = piece_bytes * WHOLE_BYTES_MIN.div_ceil(piece_bytes);
    let bytes: Vec<u8> = (0..whole_bytes).map(|byte| (byte * 31 / 7) as u8).collect();
    let mut into = vec![1; bytes.len()];
    let mut moved = Vec::new();
    let wanted = option("--ways");
    for (at, way) in
        WAYS.iter().enumerate().filter(|(_, way)| wanted.as_ref().is_none_or(|ways| ways.contains(way.name)))
    {
        let source = if way.shared { Region::shared(whole_bytes)? } else { Region::allocate(whole_bytes)? };
        source.write_at(0, &bytes)?;
        let id = RegionId(other.ask(&format!("grant {at} {whole_bytes}"))?);
        let remote = RemoteRegion { id, len_bytes: whole_bytes, place: Place::Host };
        moved.push(Moved { way, at, source, remote, summed: Times::default(), unsummed: Times::default() });
    }
    let [mut memcpy, mut socket] = [Times::default(), Times::default()];
    // In turn, so that whatever else the machine does hits all alike; the first of each only warms up.
    for round in 0..=rounds {
        let timed = |other: &mut Other, times: &mut Times, run: &mut dyn FnMut(&mut Other) -> Outcome<()>| {
            // Once before, so that all find in the caches what fits there.
            run(other)?;
            let (cpu, started) = (other.cpu_time()?, Instant::now());
            run(other)?;
            let took = started.elapsed();
            if round > 0 {
                times.0.push(took);
                times.1 += other.cpu_time()?.saturating_sub(cpu);
            }
            Outcome::Ok(())
        };
        timed(other, &mut memcpy, &mut |_| {
            for (from, to) in bytes.chunks(piece_bytes as usize).zip(into.chunks_mut(piece_bytes as usize)) {
                to.copy_from_slice(std::hint::black_box(from));
            }
            std::hint::black_box(&into[..]);
            Ok(())
        })?;
        timed(other, &mut socket, &mut |other| {
            bytes.chunks(piece_bytes as usize).try_for_each(|piece| other.plain_copy(piece))
        })?;
        for moved in &mut moved {
            let kinds: &[bool] = match (cfg!(feature = "unsummed"), round % 2) {
                (false, _) => &[true],
                (true, 0) => &[true, false],
                (true, _) => &[false, true],
            };
            for summed in kinds.iter().copied() {
                let kept = if summed { &mut moved.summed } else { &mut moved.unsummed };
                let mut times = std::mem::take(kept);
                other.sums(summed)?;
                timed(other, &mut times, &mut |other| moved.once(other, piece_bytes))?;
                other.sums(true)?;
                *(if summed { &mut moved.summed } else { &mut moved.unsummed }) = times;
            }
        }
    }
    let gb = (whole_bytes * rounds as u64) as f64 / 1e9;
    let mut rows = Vec::new();
    for Moved { way, at, source, summed, unsummed, .. } in &moved {
        if other.ask(&format!("sum {at}"))? != u64::from(source.crc32c()) {
            return Err(format!("what came by {} is not what was sent", way.name).into());
        }
        let plain = if way.over == BackendId::Tcp { &socket } else { &memcpy };
        let gb_per_s = |times: &Times| whole_bytes as f64 / times.quantile(0.5) / 1e9;
        let cost = |summed: f64, unsummed: f64| format!("{:.0}%", 100.0 * (1.0 - unsummed / summed));
        let times = |at: f64| cost(summed.quantile(at), unsummed.quantile(at));
        let processors = || cost(summed.1.as_secs_f64(), unsummed.1.as_secs_f64());
        let cost = match cfg!(feature = "unsummed") {
            true => [times(0.5), times(0.1), processors()].join(" "),
            false => "-".into(),
        };
        rows.push(format!(
            "{:>8} {:>11.2} {:>11.2} {:>9.2} {:>9.2} {:>11.3} {:>13.3} {cost:>14}",
            way.name,
            gb_per_s(plain),
            gb_per_s(summed),
            plain.quantile(0.5) / summed.quantile(0.5),
            plain.quantile(0.1) / summed.quantile(0.1),
            summed.1.as_secs_f64() / gb,
            plain.1.as_secs_f64() / gb,
        ));
    }
    Ok(rows)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Outcome<Vec<u8>> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).ok_or("half a byte".into()));
    digits.map(|pair: Outcome<&str>| Ok(u8::from_str_radix(pair?, 16)?)).collect()
}

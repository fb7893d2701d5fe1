//! What TCP costs: one large peer write against a plain blocking copy between the same two processes, and the time
//! of small things.
//!
//! `cargo bench -p xfer-transport --bench tcp -- [--json] [--mib N] [--rounds N] [--links N] [--chunk-kib N]`

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use xfer_transport::{
    BackendId, Channel, Endpoint, EndpointConfig, Grant, Incoming, Lane, PeerId, Place, Region, RegionId, RemoteRegion,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(30);
const PING: Channel = Channel(1);
const PONG: Channel = Channel(2);
const SMALL_ROUNDS: usize = 5_000;

fn main() -> Outcome<()> {
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    let len_bytes = (number("--mib", 64) as u64) << 20;
    if has("--receiver") {
        return receive(len_bytes);
    }
    let results = measure(len_bytes, number("--rounds", 5))?;
    if has("--json") {
        println!("{}", results.json());
    } else {
        println!("{}", results.table());
    }
    Ok(())
}

/// The number after `name` on the command line.
fn number(name: &str, usual: usize) -> usize {
    let after = std::env::args().skip_while(|argument| argument != name).nth(1);
    after.and_then(|number| number.parse().ok()).unwrap_or(usual)
}

fn config(rank: u32) -> EndpointConfig {
    let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, "bench");
    config.transports = Some(vec![BackendId::Tcp]);
    config.links_per_peer = number("--links", config.links_per_peer);
    config.chunk_bytes = number("--chunk-kib", config.chunk_bytes as usize >> 10) as u32 * 1024;
    config
}

/// The other process: takes plain copies and peer writes into memory of its own, and answers pings.
fn receive(len_bytes: u64) -> Outcome<()> {
    let endpoint = Endpoint::start(config(1))?;
    let pings = endpoint.subscribe(PING);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let destination = Region::allocate(len_bytes)?;
    let grant: Grant = endpoint.grant(&destination, PeerId { rank: 0, incarnation: 1 })?;
    let remote = grant.remote();
    println!("{} {} {}", listener.local_addr()?, remote.id.0, hex(&endpoint.ticket()));
    std::thread::spawn(move || -> Option<()> {
        let (mut plain, _) = listener.accept().ok()?;
        let mut buffer = vec![1; len_bytes as usize];
        loop {
            plain.read_exact(&mut buffer).ok()?;
            plain.write_all(&[1]).ok()?;
        }
    });
    std::thread::spawn(move || {
        for Incoming { from, payload } in pings {
            if endpoint.send(from, PONG, payload).is_err() {
                return;
            }
        }
    });
    // The parent closes our input when it is done.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(grant);
    Ok(())
}

struct Results {
    len_bytes: u64,
    plain_gb_per_s: f64,
    xfer_gb_per_s: f64,
    message_us: (f64, f64),
    write_us: (f64, f64),
}

fn measure(len_bytes: u64, rounds: usize) -> Outcome<Results> {
    let mut child = spawn(len_bytes)?;
    let mut line = String::new();
    let output = child.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut line)?;
    let [address, region, ticket] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err("the receiver did not introduce itself".into());
    };
    let mut plain = TcpStream::connect(address)?;
    plain.set_nodelay(true)?;
    let endpoint = Endpoint::start(config(0))?;
    let pongs = endpoint.subscribe(PONG);
    let peer = endpoint.connect(&unhex(ticket)?, PATIENCE)?;
    let remote = RemoteRegion { id: RegionId(region.parse()?), len_bytes, place: Place::Host };
    let source = Region::from_vec((0..len_bytes).map(|byte| (byte * 31 / 7) as u8).collect());
    let bytes = source.copy_to_vec();

    let mut copy = || -> Outcome<Duration> {
        let started = Instant::now();
        plain.write_all(&bytes)?;
        plain.read_exact(&mut [0])?;
        Ok(started.elapsed())
    };
    let write = |len: u64| -> Outcome<Duration> {
        let from = source.slice(0..len).ok_or("too long")?;
        let to = remote.slice(0, len).ok_or("too long")?;
        let started = Instant::now();
        endpoint.write(peer, from, to, Lane::Step, None).wait(Some(PATIENCE))?;
        Ok(started.elapsed())
    };
    // In turn, so that whatever else the machine does hits both alike; the first of each only warms up.
    let (mut plain_times, mut xfer_times) = (Vec::new(), Vec::new());
    for _ in 0..=rounds {
        plain_times.push(copy()?);
        xfer_times.push(write(len_bytes)?);
    }
    let ping = || -> Outcome<Duration> {
        let started = Instant::now();
        endpoint.send(peer, PING, Bytes::from_static(b"8 bytes!"))?;
        pongs.recv_timeout(PATIENCE)?;
        Ok(started.elapsed() / 2)
    };
    let message_times = (0..SMALL_ROUNDS).map(|_| ping()).collect::<Outcome<Vec<_>>>()?;
    let write_times = (0..SMALL_ROUNDS).map(|_| write(8)).collect::<Outcome<Vec<_>>>()?;
    endpoint.shutdown();
    drop(child.stdin.take());
    child.wait()?;
    let gb_per_s = |times: &[Duration]| len_bytes as f64 / quantile(&times[1..], 0.5).as_nanos() as f64;
    let small = |times: &[Duration]| {
        (quantile(times, 0.5).as_nanos() as f64 / 1e3, quantile(times, 0.99).as_nanos() as f64 / 1e3)
    };
    Ok(Results {
        len_bytes,
        plain_gb_per_s: gb_per_s(&plain_times),
        xfer_gb_per_s: gb_per_s(&xfer_times),
        message_us: small(&message_times),
        write_us: small(&write_times),
    })
}

fn spawn(len_bytes: u64) -> Outcome<Child> {
    let mib = (len_bytes >> 20).to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--receiver", "--mib", &mib]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

impl Results {
    fn table(&self) -> String {
        let Self { len_bytes, plain_gb_per_s, xfer_gb_per_s, message_us, write_us } = self;
        format!(
            "{:<42} {:>10}\n{:<42} {plain_gb_per_s:>10.2}\n{:<42} {xfer_gb_per_s:>10.2}\n{:<42} {:>10.3}\n\n\
             {:<42} {:>10} {:>10}\n{:<42} {:>10.1} {:>10.1}\n{:<42} {:>10.1} {:>10.1}",
            format!("{} MiB between two processes, loopback", len_bytes >> 20),
            "GB/s",
            "plain blocking socket copy",
            "xfer write, applied and verified",
            "ratio",
            xfer_gb_per_s / plain_gb_per_s,
            "8 bytes",
            "p50 (us)",
            "p99 (us)",
            "message, one way",
            message_us.0,
            message_us.1,
            "write, applied, verified, acknowledged",
            write_us.0,
            write_us.1,
        )
    }

    fn json(&self) -> String {
        let Self { len_bytes, plain_gb_per_s, xfer_gb_per_s, message_us, write_us } = self;
        format!(
            "{{\"bench\":\"tcp\",\"len_bytes\":{len_bytes},\"plain_gb_per_s\":{plain_gb_per_s:.4},\
             \"xfer_gb_per_s\":{xfer_gb_per_s:.4},\"ratio\":{:.4},\
             \"message_us\":{{\"p50\":{:.2},\"p99\":{:.2}}},\"write_us\":{{\"p50\":{:.2},\"p99\":{:.2}}}}}",
            xfer_gb_per_s / plain_gb_per_s,
            message_us.0,
            message_us.1,
            write_us.0,
            write_us.1,
        )
    }
}

fn quantile(times: &[Duration], quantile: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * quantile).round() as usize]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Outcome<Vec<u8>> {
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).ok_or("half a byte".into()));
    digits.map(|pair: Outcome<&str>| Ok(u8::from_str_radix(pair?, 16)?)).collect()
}

//! What `xfer-bench` can be asked for.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use xfer::config::parse;
use xfer_transport::backend::tcp::ZeroCopy;
use xfer_transport::core::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use xfer_transport::{BackendId, Lane};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// Bytes a second, by size.
    Bw,
    /// Time of one message or write, by size.
    Lat,
    /// Small writes a second.
    Rate,
    /// Time of a step's write, idle and while a rescue fills the path.
    Mixed,
    /// State that is handed over at a notice: from the notice to the commit.
    Migrate,
    /// Cancels at random moments: how long a fence takes, and whether a byte comes late.
    Cancel,
    /// Time to allocate, grant and revoke memory.
    Reg,
    /// Time to connect.
    Connect,
}

/// What is done once an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Op {
    /// A write into granted memory, applied and verified.
    Write,
    /// A message, one way.
    Send,
    /// A loan: read where it lies, and given back. For bw and rate with --mem shared.
    Lend,
}

/// Where the source lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Memory {
    /// Ordinary memory.
    Host,
    /// The arena, which peers on this machine read in place.
    Shared,
    /// Memory that comes as a descriptor, as that of devices does: of /dev/dma_heap/system or /dev/udmabuf.
    Dmabuf,
}

/// Measures what two processes can move between each other, and checks what arrives.
///
/// Without a host it is the server and waits for clients. With one it is the client. With --loopback it is both.
#[derive(Debug, Clone, Parser)]
#[command(name = "xfer-bench", version, max_term_width = 120, after_help = crate::failure::EXIT_CODES)]
pub(crate) struct Options {
    /// Where the server is, as HOST[:PORT]; or `probe`, to list what can move bytes here.
    #[arg(value_name = "HOST[:PORT]|probe")]
    pub(crate) target: Option<String>,
    /// Starts the server on this machine as well.
    #[arg(long, short = 'l')]
    pub(crate) loopback: bool,
    /// Where the server listens, as IP:PORT; 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:18515")]
    pub(crate) bind: std::net::SocketAddr,
    /// As server: ends after one client.
    #[arg(long)]
    pub(crate) once: bool,
    /// What to measure.
    #[arg(long, short = 't', value_enum, default_value = "bw")]
    pub(crate) test: Test,
    /// What is done once an iteration [default: send for lat, else write].
    #[arg(long, value_enum)]
    pub(crate) op: Option<Op>,
    /// The smallest size [default: as the test needs it]. K, M and G are binary, KB, MB and GB decimal.
    #[arg(long, short = 'b', value_parser = size)]
    pub(crate) minbytes: Option<u64>,
    /// The largest size.
    #[arg(long, short = 'e', value_parser = size)]
    pub(crate) maxbytes: Option<u64>,
    /// What each size is larger than the one before.
    #[arg(long, short = 'f', default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=1024))]
    pub(crate) stepfactor: u64,
    /// These sizes and no others.
    #[arg(long, short = 's', value_delimiter = ',', value_parser = size, conflicts_with_all = ["minbytes", "maxbytes"])]
    pub(crate) size: Vec<u64>,
    /// Iterations of each size [default: as many as half a second takes, 10 at least].
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) iters: Option<u64>,
    /// Iterations before those that count.
    #[arg(long, short = 'w', default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub(crate) warmup: u64,
    /// Writes that are under way at the same time [default: 1; 64 for rate].
    #[arg(long, short = 'q', value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) streams: Option<u64>,
    /// What may move the bytes, best first: shm,verbs,tcp or some of them.
    #[arg(long, default_value = "auto", value_parser = transports)]
    pub(crate) transport: Transports,
    /// The RDMA devices of this end, as device[:port[/gid]]; else the one whose port has the address.
    #[arg(long, env = "XFER_VERBS_DEVICE")]
    pub(crate) verbs_device: Option<String>,
    /// From which size on TCP sends chunks without the kernel's copy: auto, a size, or 0 for never.
    #[arg(long, env = "XFER_ZEROCOPY", value_name = "auto|SIZE|0", default_value = "0", value_parser = zerocopy)]
    pub(crate) zerocopy: ZeroCopy,
    /// Fails unless the bytes go over this.
    #[arg(long, value_name = "shm|verbs|tcp", value_parser = backend)]
    pub(crate) require_path: Option<BackendId>,
    /// Where the source lies.
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) mem: Memory,
    /// Data links to the peer.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub(crate) links: u64,
    /// Bytes of a chunk.
    #[arg(long, default_value = "1M", value_parser = chunk)]
    pub(crate) chunk: u64,
    /// What a notice of migrate leaves, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) notice_ms: u64,
    /// How long both ends look for more without sleeping before they do, in microseconds.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub(crate) busy_poll: u64,
    /// The processor on which this end runs, and with --loopback that of the server.
    #[arg(long, value_name = "NUMBER[,NUMBER]", value_delimiter = ',', num_args = 1..=2)]
    pub(crate) pin_cores: Vec<u64>,
    /// Shows what both ends need of the processors for a GB, beside what the plain copy needs.
    #[arg(long)]
    pub(crate) cpu_util: bool,
    /// The lane of bw, rate and lat.
    #[arg(long, default_value = "step", value_parser = lane)]
    pub(crate) lane: Lane,
    /// Doesn't check what arrived.
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Doesn't sum what is sent: what the checksums cost. Both ends have to say so.
    #[cfg(feature = "unsummed")]
    #[arg(long)]
    pub(crate) no_sums: bool,
    /// What random moments and bytes are drawn from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The longest that one step may take, in seconds.
    #[arg(long, short = 'T', default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// Fails if a size of bw stays below this, in GB/s.
    #[arg(long, value_name = "GB/s")]
    pub(crate) min_bw: Option<f64>,
    /// Writes one JSON document; `-` is standard output, instead of the table.
    #[arg(long, short = 'J', value_name = "FILE")]
    pub(crate) json: Option<String>,
    /// Appends each result as a line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) jsonl: Option<String>,
    /// Writes the results as CSV.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<String>,
    /// Shows Gbit/s instead of GB/s in the table.
    #[arg(long)]
    pub(crate) report_gbits: bool,
}

/// What may move the bytes; none for all that are here.
#[derive(Debug, Clone)]
pub(crate) struct Transports(pub(crate) Option<Vec<BackendId>>);

/// The largest size: both ends hold it in memory, and the source twice.
pub(crate) const SIZE_BYTES_MAX: u64 = 4 << 30;

impl Options {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    pub(crate) fn op(&self) -> Op {
        self.op.unwrap_or(if self.test == Test::Lat { Op::Send } else { Op::Write })
    }

    pub(crate) fn streams(&self) -> u64 {
        self.streams.unwrap_or(if self.test == Test::Rate { 64 } else { 1 })
    }

    /// The sizes to measure, in bytes.
    pub(crate) fn sizes(&self) -> Result<Vec<u64>, String> {
        let (least, most) = match self.test {
            Test::Bw => (64 << 10, 256 << 20),
            Test::Lat => (8, 32 << 10),
            Test::Rate => (8, 4 << 10),
            Test::Mixed => (4 << 10, 4 << 10),
            Test::Migrate => (64 << 20, 64 << 20),
            Test::Cancel => (4 << 20, 4 << 20),
            Test::Reg => (64 << 10, 64 << 20),
            Test::Connect => return Ok(vec![0]),
        };
        let sizes = if self.size.is_empty() {
            let least = self.minbytes.unwrap_or(self.maxbytes.map_or(least, |most| least.min(most)));
            let most = self.maxbytes.unwrap_or(most.max(least));
            if least > most {
                return Err(format!("--minbytes {least} is more than --maxbytes {most}"));
            }
            std::iter::successors(Some(least), |size| size.checked_mul(self.stepfactor))
                .take_while(|s| *s <= most)
                .collect()
        } else {
            self.size.clone()
        };
        let limit = if self.op() == Op::Send {
            u64::from(xfer_transport::core::limits::MESSAGE_BYTES_MAX)
        } else {
            SIZE_BYTES_MAX
        };
        match sizes.iter().find(|size| !(1..=limit).contains(*size)) {
            Some(size) => Err(format!("a size of {size} bytes: this test takes 1 to {limit}")),
            None => Ok(sizes),
        }
    }
}

/// A number of bytes; K, M and G are binary.
fn size(text: &str) -> Result<u64, String> {
    let binary = [('K', 10), ('M', 20), ('G', 30)];
    let shifted = binary.iter().find_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix([*unit, unit.to_ascii_lowercase()])?.parse().ok()?;
        number.checked_mul(1 << shift)
    });
    shifted.map_or_else(
        || parse::size(text).map_err(|_| "a size is a number of bytes, as in 65536, 64K or 1MB".into()),
        Ok,
    )
}

fn zerocopy(text: &str) -> Result<ZeroCopy, String> {
    parse::zerocopy(text).or_else(|error| parse::zerocopy(&size(text).map_err(|_| error)?.to_string()))
}

fn chunk(text: &str) -> Result<u64, String> {
    let within = u64::from(CHUNK_BYTES_MIN)..=u64::from(CHUNK_BYTES_MAX);
    let found = size(text)?;
    if within.contains(&found) {
        Ok(found)
    } else {
        Err(format!("a chunk has {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} bytes"))
    }
}

fn transports(text: &str) -> Result<Transports, String> {
    parse::transports(text).map(Transports)
}

fn backend(text: &str) -> Result<BackendId, String> {
    match parse::transports(text)?.as_deref() {
        Some([backend]) => Ok(*backend),
        _ => Err("one path is named: shm, verbs or tcp".to_owned()),
    }
}

fn lane(text: &str) -> Result<Lane, String> {
    let lanes = [Lane::Step, Lane::Rescue, Lane::Bulk];
    lanes.into_iter().find(|lane| lane.to_string() == text).ok_or_else(|| "a lane is step, rescue or bulk".to_owned())
}

//! What can be set, where each value comes from, and what it is when nobody sets it.
//!
//! A bare `torchrun train.py` needs none of this: torchrun's own variables are read as they are (`RANK`,
//! `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`, `TORCHELASTIC_RUN_ID`, `TORCHELASTIC_RESTART_COUNT`).
//!
//! A value is taken from the first of: a flag of the program, the environment, the file `xfer.toml`, the default. In
//! the file, names are written without the prefix and in small letters: `notice_file = "/run/preempted"`.
#![doc = include_str!("config/settings.md")]

pub mod parse;
mod reader;
mod settings;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xfer_migrate::store::Exposure;
use xfer_transport::backend::tcp::ZeroCopy;
use xfer_transport_core::BackendId;

use crate::notice::{self, limits::EC2_METADATA_URL};
use reader::Reader;
pub use settings::{DefaultValue, SETTINGS, Setting, markdown};

/// The file that is read when it is there and no other is named.
const FILE: &str = "xfer.toml";

/// Longest configuration file that is read. All settings together take some hundred bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Everything that can be set, parsed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The process's rank, as torchrun gives it.
    pub rank: Option<u32>,
    /// How many processes the job has, as torchrun gives it.
    pub world_size: Option<u32>,
    /// How often torchrun has restarted the job's processes.
    pub restart_count: u32,
    /// Where the job's store is, as `HOST:PORT`.
    pub store: String,
    /// How long a call to the store may take.
    pub store_timeout: Duration,
    /// How long to wait for the store when the job starts.
    pub start_timeout: Duration,
    /// The name of the job: processes of different jobs refuse each other.
    pub job: String,
    /// Where this process is reached by the others.
    pub bind: SocketAddr,
    /// What the others are told instead.
    pub advertise: Option<SocketAddr>,
    /// What may move bytes, best first; none for all that are here.
    pub transports: Option<Vec<BackendId>>,
    /// How many connections carry data to each peer.
    pub links_per_peer: usize,
    /// The unit of sending, checking and sending again.
    pub chunk_bytes: u32,
    /// The most that this process sends; none for no limit.
    pub egress_bytes_per_s: Option<u64>,
    /// How long links look for more without sleeping.
    pub busy_poll: Duration,
    /// Whether memory that isn't shared is fetched from processes of this machine.
    pub shm_fetch: bool,
    /// From which size on TCP sends chunks without the kernel's copy.
    pub zerocopy: ZeroCopy,
    /// The RDMA devices to use; `None` takes the one whose port has the address of `bind`.
    pub verbs_device: Option<String>,
    /// Whether to listen where other machines reach us although nobody is asked who he is.
    pub insecure: bool,
    /// The file whose appearance is a notice.
    pub notice_file: Option<PathBuf>,
    /// What is left after SIGTERM.
    pub grace: Duration,
    /// Where to ask for EC2's notices; none to ask nobody.
    pub imds_url: Option<String>,
    /// What is logged, as a filter of `tracing`.
    pub log: String,
    /// How a log line is written.
    pub log_format: LogFormat,
    /// Where migrations leave their traces.
    pub trace_dir: Option<PathBuf>,
    /// Every value with where it comes from, in the order of [`SETTINGS`], torchrun's last.
    pub values: Vec<Value>,
    /// What was given and has no effect.
    pub warnings: Vec<String>,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line of text.
    Text,
    /// For programs: one line of JSON.
    Json,
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The variable's name.
    pub name: &'static str,
    /// What it holds; empty when there is none.
    pub text: String,
    /// Where that comes from.
    pub source: ValueSource,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// A flag of the program.
    Flag(&'static str),
    /// A variable of the environment.
    Environment,
    /// The configuration file.
    File(PathBuf),
    /// Nobody set it, and it follows from something else that was set.
    Derived(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Derived(from) => write!(f, "from {from}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value can't be understood.
    #[error("{name}={text} ({source_of_value}) is not understood: {expected}")]
    BadValue {
        /// The variable's name.
        name: &'static str,
        /// What it holds.
        text: String,
        /// Where that comes from.
        source_of_value: ValueSource,
        /// What would be understood.
        expected: String,
    },
    /// The configuration file can't be read.
    #[error("the configuration file {} can't be read: {cause}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// A value given on a command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The variable that it goes before.
    pub name: &'static str,
    /// How it is written on the command line.
    pub flag: &'static str,
    /// The value.
    pub text: String,
}

impl Config {
    /// The configuration of this process, from its environment and `xfer.toml`.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::with_flags(Vec::new())
    }

    /// The configuration of this process; flags go before everything else.
    pub fn with_flags(flags: Vec<Flag>) -> Result<Self, ConfigError> {
        let environment: BTreeMap<String, String> = env::vars_os()
            .map(|(name, text)| (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned()))
            .collect();
        let file = match environment.get(settings::CONFIG.name).filter(|path| !path.is_empty()) {
            Some(path) => Some(read_file(Path::new(path))?),
            None if Path::new(FILE).exists() => Some(read_file(Path::new(FILE))?),
            None => None,
        };
        Self::resolve(Inputs { flags, environment, file })
    }

    /// The configuration that follows from what is given, whatever this process's own environment is.
    pub fn resolve(inputs: Inputs) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(inputs)?;
        let rank = reader.torchrun("RANK", parse::number)?;
        let world_size = reader.torchrun("WORLD_SIZE", parse::number)?;
        let master = reader.torchrun("MASTER_ADDR", parse::text)?;
        let master_port: Option<u16> = reader.torchrun("MASTER_PORT", parse::number)?;
        let run_id = reader.torchrun("TORCHELASTIC_RUN_ID", parse::text)?;
        let restart_count = reader.torchrun("TORCHELASTIC_RESTART_COUNT", parse::number)?;

        // torch's own store listens at MASTER_PORT, so ours is the next.
        let beside = master.zip(master_port.and_then(|port| port.checked_add(1)));
        let beside = beside.map(|(host, port)| (parse::join_host_port(&host, port), "MASTER_ADDR, MASTER_PORT"));
        let run_id = run_id.map(|run_id| (run_id, "TORCHELASTIC_RUN_ID"));
        Ok(Self {
            rank,
            world_size,
            restart_count: restart_count.unwrap_or(0),
            store: reader.derived(&settings::STORE, beside, "127.0.0.1:29501", parse::address)?,
            store_timeout: reader.value(&settings::STORE_TIMEOUT, parse::duration)?,
            start_timeout: reader.value(&settings::START_TIMEOUT, parse::duration)?,
            job: reader.derived(&settings::JOB, run_id, "default", parse::text)?,
            bind: reader.value(&settings::BIND, parse::socket_address)?,
            advertise: reader.optional(&settings::ADVERTISE, parse::socket_address)?,
            transports: reader.value(&settings::TRANSPORTS, parse::transports)?,
            links_per_peer: reader.value(&settings::LINKS, parse::within(1, 16))?,
            chunk_bytes: reader.value(&settings::CHUNK, parse::chunk)?,
            egress_bytes_per_s: reader.value(&settings::EGRESS, parse::rate)?,
            busy_poll: reader.value(&settings::BUSY_POLL, parse::duration)?,
            shm_fetch: reader.value(&settings::SHM_FETCH, parse::switch)?,
            zerocopy: reader.value(&settings::ZEROCOPY, parse::zerocopy)?,
            verbs_device: reader.value(&settings::VERBS_DEVICE, parse::verbs_device)?,
            insecure: reader.value(&settings::INSECURE, parse::switch)?,
            notice_file: reader.optional(&settings::NOTICE_FILE, parse::text)?.map(PathBuf::from),
            grace: reader.value(&settings::GRACE, parse::duration)?,
            imds_url: match reader.value(&settings::IMDS_URL, parse::text)?.as_str() {
                "off" => None,
                "auto" => notice::is_ec2().then(|| EC2_METADATA_URL.to_owned()),
                url => Some(url.to_owned()),
            },
            log: reader.value(&settings::LOG, parse::text)?,
            log_format: reader.value(&settings::LOG_FORMAT, parse::log_format)?,
            trace_dir: reader.optional(&settings::TRACE_DIR, parse::text)?.map(PathBuf::from),
            warnings: reader.unknown(),
            values: reader.finish(),
        })
    }

    /// Who may reach the servers of this process.
    pub fn exposure(&self) -> Exposure {
        match self.insecure {
            true => Exposure::AnyInterface,
            false => Exposure::LoopbackOnly,
        }
    }

    /// What this process listens to for notices, without `xfer drain`, which needs the job's store.
    pub fn notice_sources(&self) -> Vec<notice::Source> {
        let mut sources = vec![notice::Source::Signal { grace: self.grace }];
        if let Some(path) = &self.notice_file {
            sources.push(notice::Source::File { path: path.clone(), grace: self.grace });
        }
        if let Some(url) = &self.imds_url {
            sources.push(notice::Source::Ec2 { url: url.clone() });
        }
        sources
    }
}

/// What a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Flags of the program.
    pub flags: Vec<Flag>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The configuration file: its path and what is in it.
    pub file: Option<(PathBuf, String)>,
}

fn read_file(path: &Path) -> Result<(PathBuf, String), ConfigError> {
    let failed = |error: io::Error| ConfigError::File { path: path.to_owned(), cause: error.to_string() };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::File {
            path: path.to_owned(),
            cause: format!("it is longer than {FILE_BYTES_MAX} bytes"),
        });
    }
    Ok((path.to_owned(), text))
}

#[cfg(test)]
mod tests;

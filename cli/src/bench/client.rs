//! The end that writes: connected to a server, with memory granted there, and a plain socket beside it for comparison.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xfer_transport::conformance::pattern;
use xfer_transport::{
    Endpoint, EndpointConfig, Lane, Loan, PeerId, Place, Region, RegionId, RemoteRegion, RemoteSlice, Route,
    TransferHandle,
};

use crate::failure::{Failure, Outcome};
use crate::options::{Memory, Options};
use crate::processor;
use crate::server::{CLIENT, JOB, LOANS, SERVER};
use crate::talk::{Talk, hello, unhex};

/// Where a server listens unless it is said.
const PORT: u16 = 18515;

/// A client that is connected.
pub(crate) struct Client {
    pub(crate) options: Options,
    pub(crate) endpoint: Endpoint,
    pub(crate) ticket: Vec<u8>,
    pub(crate) server_machine: Value,
    talk: Talk,
    raw: Option<TcpStream>,
    /// Ends last.
    _server: Option<Spawned>,
}

impl Client {
    /// Reaches the server, or starts one.
    pub(crate) fn connect(options: &Options) -> Outcome<Self> {
        let (address, server) = match &options.target {
            Some(target) => (resolve(target)?, None),
            None => {
                let server = Spawned::start(options)?;
                (server.address, Some(server))
            }
        };
        let unreachable =
            |error| Failure::connection(format!("no server at {address}: {error}; start one with `xfer-bench`"));
        let stream = TcpStream::connect_timeout(&address, options.timeout()).map_err(unreachable)?;
        let _ = stream.set_read_timeout(Some(options.timeout()));
        let mut talk = Talk::new(stream)?;
        let mut words = hello();
        words["chunk"] = options.chunk.into();
        words["links"] = options.links.into();
        words["busy_poll"] = options.busy_poll.into();
        if let Some(transports) = &options.transport.0 {
            words["transports"] = transports.iter().map(ToString::to_string).collect();
        }
        let answer = talk.ask(&words)?;
        let ticket =
            answer["ticket"].as_str().and_then(unhex).ok_or_else(|| Failure::connection("the server has no ticket"))?;
        let endpoint = start_endpoint(options, CLIENT, talk.stream())?;
        endpoint.connect(&ticket, options.timeout()).map_err(Failure::connection)?;
        Ok(Self {
            options: options.clone(),
            endpoint,
            ticket,
            server_machine: answer["machine"].clone(),
            talk,
            raw: None,
            _server: server,
        })
    }

    /// Another endpoint of this process, for the next life of its rank.
    pub(crate) fn another(&self, incarnation: u32) -> Outcome<Endpoint> {
        start_endpoint(&self.options, PeerId { incarnation, ..CLIENT }, self.talk.stream())
    }

    pub(crate) fn route(&self) -> Outcome<Route> {
        self.endpoint.route(SERVER).ok_or_else(|| Failure::connection("the server is not connected any more"))
    }

    /// The path as it is now, which must be the one that is required.
    pub(crate) fn checked_route(&self) -> Outcome<Route> {
        let route = self.route()?;
        match self.options.require_path {
            Some(required) if required != route.over => {
                let unused = route.unused.iter().find(|(backend, _)| *backend == required);
                let why = unused.map_or("the server doesn't listen on it", |(_, why)| why);
                Err(Failure::wrong_path(format!("{required} is required, the bytes go over {}: {why}", route.over)))
            }
            _ => Ok(route),
        }
    }

    /// Memory of the server that this end may write.
    pub(crate) fn grant(&mut self, slot: u64, len_bytes: u64) -> Outcome<RemoteRegion> {
        let ask = json!({ "ask": "grant", "slot": slot, "len_bytes": len_bytes, "incarnation": self.endpoint.id().incarnation });
        let id = RegionId(self.talk.ask_number(&ask, "region")?);
        Ok(RemoteRegion { id, len_bytes, place: Place::Host })
    }

    /// Asks about a slot, and takes one number of the answer.
    pub(crate) fn ask(&mut self, what: &str, slot: u64, len_bytes: u64, seed: u64) -> Outcome<Value> {
        self.talk.ask(&json!({ "ask": what, "slot": slot, "len_bytes": len_bytes, "seed": seed }))
    }

    /// A source as the options want it, with bytes of its own.
    pub(crate) fn source(&self, len_bytes: u64, seed: u64) -> Outcome<Region> {
        let region = match self.options.mem {
            Memory::Host => Region::allocate(len_bytes),
            Memory::Shared => Region::shared(len_bytes),
            Memory::Dmabuf => Region::dmabuf(len_bytes),
        };
        let region = region.map_err(Failure::connection)?;
        region.write_at(0, &pattern(len_bytes, seed)).map_err(Failure::connection)?;
        Ok(region)
    }

    pub(crate) fn write(&self, from: &Region, to: RemoteSlice, lane: Lane) -> TransferHandle {
        self.endpoint.write(SERVER, from.all(), to, lane, None)
    }

    /// What both ends have had of the processors.
    pub(crate) fn processor_time(&mut self) -> Outcome<Duration> {
        let ask = json!({ "ask": "processor" });
        Ok(processor::time() + Duration::from_nanos(self.talk.ask_number(&ask, "nanos")?))
    }

    /// Says something that needs more than numbers, and hears the answer.
    pub(crate) fn tell(&mut self, what: &Value) -> Outcome<Value> {
        self.talk.ask(what)
    }

    /// The address at which the server sees this end.
    pub(crate) fn local_ip(&self) -> Outcome<IpAddr> {
        Ok(self.talk.stream().local_addr().map_err(Failure::connection)?.ip())
    }

    /// Lets the server read `region` where it lies.
    pub(crate) fn lend(&self, region: &Region, crc32c: Option<u32>) -> Outcome<Loan> {
        self.endpoint.lend(SERVER, LOANS, region.all(), crc32c).map_err(Failure::usage)
    }

    /// One plain copy of `bytes` through a socket into the server's buffer.
    pub(crate) fn raw_copy(&mut self, bytes: &[u8]) -> Outcome<Duration> {
        const PART: usize = 1 << 20;
        if self.raw.is_none() {
            let answer = self.talk.ask(&json!({ "ask": "raw" }))?;
            let address: Option<SocketAddr> = answer["address"].as_str().and_then(|address| address.parse().ok());
            let stream = TcpStream::connect(address.ok_or_else(|| Failure::connection("no plain socket"))?);
            let stream = stream.map_err(Failure::connection)?;
            let _ = (stream.set_nodelay(true), stream.set_read_timeout(Some(self.options.timeout())));
            self.raw = Some(stream);
        }
        let Some(stream) = &mut self.raw else { return Err(Failure::connection("no plain socket")) };
        let started = Instant::now();
        let copied = stream
            .write_all(&(bytes.len() as u64).to_le_bytes())
            .and_then(|()| bytes.chunks(PART).try_for_each(|part| stream.write_all(part)))
            .and_then(|()| stream.read_exact(&mut [0]));
        copied.map_err(Failure::connection)?;
        Ok(started.elapsed())
    }
}

fn start_endpoint(options: &Options, id: PeerId, talk: &TcpStream) -> Outcome<Endpoint> {
    let mut config = EndpointConfig::new(id, JOB);
    // The address at which the server has seen us.
    config.bind = SocketAddr::new(talk.local_addr().map_err(Failure::connection)?.ip(), 0);
    config.chunk_bytes = u32::try_from(options.chunk).map_err(Failure::usage)?;
    config.links_per_peer = options.links as usize;
    config.busy_poll = Duration::from_micros(options.busy_poll);
    config.transports.clone_from(&options.transport.0);
    config.zerocopy = options.zerocopy;
    config.verbs_device.clone_from(&options.verbs_device);
    Endpoint::start(config).map_err(Failure::usage)
}

fn resolve(target: &str) -> Outcome<SocketAddr> {
    let found = target.to_socket_addrs().or_else(|_| (target, PORT).to_socket_addrs()).map(|mut found| found.next());
    match found {
        Ok(Some(address)) => Ok(address),
        _ => Err(Failure::connection(format!("no host is called {target:?}; the server says what to write"))),
    }
}

/// A server that this client has started.
struct Spawned {
    child: Child,
    address: SocketAddr,
}

impl Spawned {
    fn start(options: &Options) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(Failure::connection)?;
        let timeout = options.timeout.to_string();
        let mut command = Command::new(program);
        command
            .args(["--once", "--bind", "127.0.0.1:0", "--timeout", &timeout])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(devices) = &options.verbs_device {
            command.args(["--verbs-device", devices]);
        }
        if let Some(processor) = options.pin_cores.get(1) {
            command.args(["--pin-cores", &processor.to_string()]);
        }
        #[cfg(feature = "unsummed")]
        if options.no_sums {
            command.arg("--no-sums");
        }
        let mut child =
            command.spawn().map_err(|error| Failure::connection(format!("no server could be started: {error}")))?;
        let mut line = String::new();
        let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let address = line.strip_prefix("server listens at ").and_then(|rest| rest.split(';').next()?.parse().ok());
        match (read, address) {
            (Some(Ok(_)), Some(address)) => Ok(Self { child, address }),
            _ => {
                let _ = (child.kill(), child.wait());
                Err(Failure::connection("the server did not start"))
            }
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // It ends with its client; if it doesn't, it is not left behind.
        let _ = (self.child.kill(), self.child.wait());
    }
}

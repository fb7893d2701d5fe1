//! The end that is written to: grants memory, answers messages, and looks at what arrived.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use xfer_transport::conformance::pattern;
use xfer_transport::{BackendId, Channel, Endpoint, EndpointConfig, Grant, Incoming, PeerId, Region};

use crate::failure::{Failure, Outcome};
use crate::machine;
use crate::migrate::Target;
use crate::options::{Options, SIZE_BYTES_MAX};
use crate::processor;
use crate::talk::{PROTOCOL, Talk, hex};

/// Messages that the server sends back, and where it sends them.
pub(crate) const PING: Channel = Channel(1);
pub(crate) const PONG: Channel = Channel(2);

/// What the server reads where it lies.
pub(crate) const LOANS: Channel = Channel(3);

/// Who is who.
pub(crate) const SERVER: PeerId = PeerId { rank: 1, incarnation: 1 };
pub(crate) const CLIENT: PeerId = PeerId { rank: 0, incarnation: 1 };
pub(crate) const JOB: &str = "xfer-bench";

/// What the destination is filled with where nothing may be written any more.
const CANARY: u8 = 0xc5;

/// Pieces of memory that one client has at once.
const SLOTS: u64 = 4;

/// Waits for clients, one after the other.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let listener = TcpListener::bind(options.bind).map_err(|error| {
        Failure::connection(format!("can't listen on {}: {error}; --bind IP:0 takes a free port", options.bind))
    })?;
    let address = listener.local_addr().map_err(Failure::connection)?;
    println!("server listens at {address}; measure with: xfer-bench {address}");
    loop {
        let (stream, from) = listener.accept().map_err(Failure::connection)?;
        let _ = stream.set_read_timeout(Some(options.timeout() * 10));
        let served = Talk::new(stream).and_then(|talk| serve(talk, address.ip(), options.verbs_device.as_deref()));
        if options.once {
            return served;
        }
        if let Err(failure) = served {
            eprintln!("xfer-bench: {from}: {}", failure.what());
        }
    }
}

struct Session {
    endpoint: Endpoint,
    /// Loans whose bytes were not those that were lent.
    damaged: Arc<AtomicU64>,
    slots: Vec<Option<(Region, Grant)>>,
    transports: Option<Vec<BackendId>>,
    /// Who takes over what the client hands over.
    target: Option<Target>,
    ip: IpAddr,
}

fn serve(mut talk: Talk, ip: IpAddr, verbs_device: Option<&str>) -> Outcome<()> {
    let mut session = None;
    while let Some(request) = talk.hear()? {
        let answer = answer(&mut session, &request, ip, verbs_device).unwrap_or_else(|error| json!({ "error": error }));
        talk.say(&answer)?;
    }
    Ok(())
}

fn answer(
    session: &mut Option<Session>,
    request: &Value,
    ip: IpAddr,
    verbs_device: Option<&str>,
) -> Result<Value, String> {
    let number = |field: &str| request[field].as_u64().ok_or_else(|| format!("no {field}"));
    let what = request["ask"].as_str().unwrap_or_default();
    if what == "hello" {
        if number("protocol")? != PROTOCOL {
            return Err(format!("this is xfer-bench {}, use the same on both ends", env!("CARGO_PKG_VERSION")));
        }
        let started = Session::start(request, ip, verbs_device)?;
        let ticket = hex(&started.endpoint.ticket());
        *session = Some(started);
        return Ok(json!({ "ticket": ticket, "machine": machine::describe() }));
    }
    let session = session.as_mut().ok_or("say hello first")?;
    match what {
        "grant" => session.grant(number("slot")?, number("len_bytes")?, number("incarnation")?),
        "wrong" => {
            let expected = pattern(session.region(number("slot")?, number("len_bytes")?)?.len_bytes(), number("seed")?);
            let found = session.region(number("slot")?, number("len_bytes")?)?.copy_to_vec();
            Ok(json!({ "wrong": expected.iter().zip(&found).filter(|(a, b)| a != b).count() }))
        }
        "canary" => {
            let region = session.region(number("slot")?, number("len_bytes")?)?;
            let canary = vec![CANARY; region.len_bytes() as usize];
            region.write_at(0, &canary).map_err(|error| error.to_string())?;
            Ok(json!({}))
        }
        "late" => {
            let bytes = session.region(number("slot")?, number("len_bytes")?)?.copy_to_vec();
            Ok(json!({ "late": bytes.iter().filter(|byte| **byte != CANARY).count() }))
        }
        "migrate" => {
            session.target = Some(Target::start(request, session.ip, session.transports.clone())?);
            Ok(json!({}))
        }
        "migrated" => {
            let target = session.target.take().ok_or("nothing was to be taken over")?;
            target.wrong(number("seed")?).map(|wrong| json!({ "wrong": wrong }))
        }
        "damaged" => Ok(json!({ "damaged": session.damaged.swap(0, Ordering::SeqCst) })),
        "crc32c" => Ok(json!({ "crc32c": session.region(number("slot")?, number("len_bytes")?)?.crc32c() })),
        "processor" => Ok(json!({ "nanos": u64::try_from(processor::time().as_nanos()).unwrap_or(u64::MAX) })),
        "raw" => raw_sink(session.ip).map(|address| json!({ "address": address })).map_err(|error| error.to_string()),
        other => Err(format!("nobody can be asked {other:?} here")),
    }
}

impl Session {
    /// Set up as the client is: what differs between two ends is what nobody finds.
    fn start(hello: &Value, ip: IpAddr, verbs_device: Option<&str>) -> Result<Self, String> {
        let mut config = EndpointConfig::new(SERVER, JOB);
        config.verbs_device = verbs_device.map(str::to_owned);
        config.bind = SocketAddr::new(ip, 0);
        config.chunk_bytes =
            hello["chunk"].as_u64().and_then(|chunk| u32::try_from(chunk).ok()).unwrap_or(config.chunk_bytes);
        config.links_per_peer = hello["links"].as_u64().map_or(config.links_per_peer, |links| links as usize);
        config.busy_poll = Duration::from_micros(hello["busy_poll"].as_u64().unwrap_or(0));
        config.transports = hello["transports"].as_array().map(|names| {
            let named = |name: &Value| {
                BackendId::PREFERRED.into_iter().find(|id| Some(id.to_string().as_str()) == name.as_str())
            };
            names.iter().filter_map(named).collect()
        });
        let transports = config.transports.clone();
        let endpoint = Endpoint::start(config).map_err(|error| error.to_string())?;
        let (pings, echoing) = (endpoint.subscribe(PING), endpoint.clone());
        thread::spawn(move || {
            while let Some(Incoming { from, payload }) = echoing.next(&pings, None) {
                // The client has gone, or stops asking: nothing to answer then.
                let _ = echoing.send(from, PONG, payload);
            }
        });
        let damaged = Arc::<AtomicU64>::default();
        let (loans, found) = (endpoint.borrow(LOANS), Arc::clone(&damaged));
        thread::spawn(move || {
            for borrowed in loans {
                if borrowed.is_intact() == Some(false) {
                    found.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Ok(Self { endpoint, damaged, slots: (0..SLOTS).map(|_| None).collect(), transports, target: None, ip })
    }

    fn grant(&mut self, slot: u64, len_bytes: u64, incarnation: u64) -> Result<Value, String> {
        if slot >= SLOTS || len_bytes > SIZE_BYTES_MAX {
            return Err(format!("there are {SLOTS} slots of {SIZE_BYTES_MAX} bytes at most"));
        }
        let to = PeerId { incarnation: u32::try_from(incarnation).map_err(|error| error.to_string())?, ..CLIENT };
        let region = Region::allocate(len_bytes).map_err(|error| error.to_string())?;
        let grant = self.endpoint.grant(&region, to).map_err(|error| error.to_string())?;
        let id = grant.remote().id.0;
        self.slots[slot as usize] = Some((region, grant));
        Ok(json!({ "region": id, "len_bytes": len_bytes }))
    }

    /// The first bytes of what a slot holds.
    fn region(&self, slot: u64, len_bytes: u64) -> Result<Region, String> {
        let slot = usize::try_from(slot).ok().and_then(|slot| self.slots.get(slot)?.as_ref());
        let (region, _) = slot.ok_or("nothing was granted there")?;
        if len_bytes != region.len_bytes() {
            return Err(format!("{} bytes were granted there", region.len_bytes()));
        }
        Ok(region.clone())
    }
}

/// Takes what a plain socket brings into one buffer, and says after each length that it is there.
fn raw_sink(ip: IpAddr) -> std::io::Result<String> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = Vec::new();
        let mut len = [0; 8];
        loop {
            stream.read_exact(&mut len)?;
            let len_bytes = u64::from_le_bytes(len).min(SIZE_BYTES_MAX) as usize;
            buffer.resize(len_bytes.max(buffer.len()), 0);
            stream.read_exact(&mut buffer[..len_bytes])?;
            stream.write_all(&[1])?;
        }
    });
    Ok(address)
}

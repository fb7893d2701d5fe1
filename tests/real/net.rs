//! What is done to the connections of a job, which all lead through proxies then.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use xfer_chaos::{Action, Callers, Faults, Proxy, Rule, Way};
use xfer_faults::Step;
use xfer_transport_core::PeerId;
use xfer_transport_core::frame::{FrameHeader, FrameKind};
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::message::{Greeting, Hello, LinkRole, RejectReason};

use crate::faults::cut_off;
use crate::job::{Job, OTHER, SOURCE, TARGET};
use crate::{Outcome, WAIT};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// Nothing comes or goes between the source and everybody else.
    Cut,
    /// What the target says doesn't reach the source.
    OneWay,
    /// The source doesn't reach the store.
    StoreCut,
    /// All connections of the source are reset, several times.
    Flap,
    /// What the source sends creeps.
    Slow,
    /// Everything takes its time, and not always the same.
    Jitter,
    /// Something is done to one frame that the source sends to the target.
    Once(Action, FrameKind),
    /// Something is done to each frame that the target sends to the source.
    Always(Action, FrameKind),
    /// The target comes back as a later version would: its connections break, and new ones are greeted so.
    NextVersion,
    /// What the source sends arrives late: when the notice was taken back, and the memory is in use for something else.
    Late,
    /// The last chunk that the source has sent to the target passes once more.
    Replay,
    /// What the source sends is taken slowly, and time is plenty.
    SlowReader,
    /// Somebody who is nobody calls a rank.
    Stranger(Stranger),
}

/// Somebody who is no member of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// Many connections, and no word on them.
    Silent,
    /// Bytes that mean nothing.
    Babbling,
    /// A member of another job, with a sound greeting.
    OfAnotherJob,
}

impl Stranger {
    /// Calls `address`, and returns the connections, to be kept open.
    fn call(self, address: SocketAddr) -> Outcome<Vec<TcpStream>> {
        match self {
            // Some less than may be unknown at once.
            Self::Silent => (0..48).map(|_| Ok(TcpStream::connect(address)?)).collect(),
            Self::Babbling => {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&[0xa5; 4096])?;
                Ok(vec![stream])
            }
            Self::OfAnotherJob => {
                let id = |rank| PeerId { rank, incarnation: 1 };
                let (from, to) = (id(TARGET), id(OTHER));
                let job = "another".to_owned();
                let hello = Hello { job, from, nonce: 1, session: 1, to, role: LinkRole::Control };
                let payload = Greeting::Hello(hello).encode();
                let header = FrameHeader::for_payload(FrameKind::Greeting, &payload).encode();
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&[&header[..], &payload].concat())?;
                stream.set_read_timeout(Some(WAIT))?;
                let mut answer = Vec::new();
                // It is told why, and the connection ends.
                stream.read_to_end(&mut answer)?;
                let reject = answer.get(FRAME_HEADER_BYTES..).map(Greeting::decode);
                match reject {
                    Some(Ok(Greeting::Reject(RejectReason::Job, _))) => Ok(Vec::new()),
                    other => Err(format!("a member of another job was told {other:?}").into()),
                }
            }
        }
    }
}

/// The proxies of a job: one before each rank, and one before the store for each rank.
pub struct Proxies {
    pub ranks: Vec<Proxy>,
    pub stores: Vec<Proxy>,
    port: u16,
}

impl Proxies {
    pub fn start(store: SocketAddr) -> Outcome<Self> {
        /// Jobs of one program tell their ranks' addresses apart by the port.
        static PORT: AtomicU16 = AtomicU16::new(4077);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let ranks = (0..3).map(|rank| Proxy::start(free, behind(rank, port), 1)).collect::<Result<_, _>>()?;
        let stores = (0..3).map(|_| Proxy::start(free, store, 1)).collect::<Result<_, _>>()?;
        Ok(Self { ranks, stores, port })
    }

    /// Does `faults` to everything that the source says to other ranks, or hears from them.
    fn set_source(&self, way: Way, faults: &Faults) {
        let (to_lower, to_higher) = match way {
            Way::Out => (Way::In, Way::Out),
            Way::In => (Way::Out, Way::In),
        };
        // The higher rank of two has called the lower one.
        self.ranks[OTHER as usize].set(Callers::Rank(SOURCE), to_lower, faults.clone());
        self.ranks[SOURCE as usize].set(Callers::Rank(TARGET), to_higher, faults.clone());
    }

    /// Where the process of `rank` really listens.
    pub fn behind(&self, rank: u32) -> SocketAddr {
        behind(rank, self.port)
    }

    pub fn heal(&self) {
        self.ranks.iter().chain(&self.stores).for_each(Proxy::heal);
    }
}

/// An address of the loopback network that no other test has.
fn behind(rank: u32, port: u16) -> SocketAddr {
    let pid = std::process::id();
    let [_, high, middle, low] = (pid << 2 | (rank + 1)).to_be_bytes();
    SocketAddr::from(([127, 1 + (high & 0x3f), middle, low], port))
}

impl Net {
    pub fn inject(self, job: &mut Job, step: Step) -> Outcome<()> {
        let proxies = job.proxies.as_ref().ok_or("the connections lead through no proxy")?;
        match self {
            Self::Cut => {
                [Way::In, Way::Out].iter().for_each(|way| proxies.set_source(*way, &Faults::stalled()));
                let stores = &proxies.stores[SOURCE as usize];
                [Way::In, Way::Out].iter().for_each(|way| stores.set(Callers::All, *way, Faults::stalled()));
                cut_off(job, step)
            }
            Self::OneWay => {
                proxies.ranks[SOURCE as usize].set(Callers::Rank(TARGET), Way::In, Faults::stalled());
                gone(job, step, &[(SOURCE, TARGET)])?;
                given_time(job, step)
            }
            Self::StoreCut => {
                let stores = &proxies.stores[SOURCE as usize];
                [Way::In, Way::Out].iter().for_each(|way| stores.set(Callers::All, *way, Faults::stalled()));
                job.unknowing = Some(SOURCE);
                Ok(())
            }
            Self::Flap => {
                for _ in 0..3 {
                    let passed = proxies.ranks[OTHER as usize].passed_bytes();
                    // One link at a time goes, and comes back; the path keeps what was acknowledged.
                    proxies.set_source(Way::Out, &Faults::rule(Rule::once(Action::Reset, Some(FrameKind::Data))));
                    until(|| proxies.ranks[OTHER as usize].passed_bytes() > passed)?;
                }
                Ok(())
            }
            Self::Slow => {
                proxies.set_source(Way::Out, &Faults { bytes_per_s: Some(100_000), ..Faults::default() });
                job.rank(SOURCE).ask("deadline 3000").map(drop)
            }
            Self::Jitter => {
                let jitter = Duration::from_millis(10);
                let faults = Faults { delay: 2 * jitter, jitter, ..Faults::default() };
                [Way::In, Way::Out].iter().for_each(|way| proxies.set_source(*way, &faults));
                Ok(())
            }
            Self::Once(action, kind) => {
                let to_target = &proxies.ranks[SOURCE as usize];
                // At the handshake it is the target that speaks first.
                let way = if step == Step::Handshake { Way::In } else { Way::Out };
                to_target.set(Callers::All, way, Faults::rule(Rule::once(action, Some(kind))));
                Ok(())
            }
            Self::Always(action, kind) => {
                let rule = Rule::always(action, Some(kind));
                proxies.ranks[SOURCE as usize].set(Callers::Rank(TARGET), Way::In, Faults::rule(rule));
                Ok(())
            }
            Self::NextVersion => {
                let rule = Rule::always(Action::NextVersion, Some(FrameKind::Greeting));
                proxies.ranks[SOURCE as usize].set(Callers::Rank(TARGET), Way::In, Faults::rule(rule));
                proxies.ranks[SOURCE as usize].reset();
                gone(job, step, &[(SOURCE, TARGET), (TARGET, SOURCE)])?;
                given_time(job, step)
            }
            Self::Late => {
                proxies.set_source(Way::Out, &Faults { delay: LATE_BY, ..Faults::default() });
                job.rank(SOURCE).ask("withdraw")?;
                for rank in [SOURCE, OTHER, TARGET] {
                    job.rank(rank).ask(&format!("await outcome 0 {}", WAIT.as_millis()))?;
                }
                job.fill()
            }
            Self::Replay => {
                if step == Step::Release {
                    for rank in [SOURCE, OTHER, TARGET] {
                        job.rank(rank).ask(&format!("await outcome 0 {}", WAIT.as_millis()))?;
                    }
                    job.fill()?;
                }
                let proxy = &job.proxies.as_ref().ok_or("no proxies")?.ranks[SOURCE as usize];
                if proxy.replay(Callers::Rank(TARGET), Way::Out) == 0 {
                    return Err("there is no connection that anything passed on".into());
                }
                job.rank(TARGET).ask(&format!("await late 1 {}", WAIT.as_millis())).map(drop)
            }
            Self::SlowReader => {
                proxies.set_source(Way::Out, &Faults { bytes_per_s: Some(8_000_000), ..Faults::default() });
                Ok(())
            }
            Self::Stranger(stranger) => {
                let connections = stranger.call(proxies.behind(OTHER))?;
                job.strangers.extend(connections);
                Ok(())
            }
        }
    }

    /// Whether it ends the connections between source and target, and they stay ended.
    pub fn parts(self) -> bool {
        let violation = matches!(self, Self::Once(Action::FlipHeader | Action::Oversize, _));
        violation || matches!(self, Self::Once(Action::FlipPayload, FrameKind::Message) | Self::NextVersion)
    }

    /// Undoes it, if the others' end comes first; whether it did.
    pub fn lift(self, job: &Job) -> bool {
        if let (Self::Cut | Self::OneWay | Self::StoreCut, Some(proxies)) = (self, &job.proxies) {
            proxies.heal();
            return true;
        }
        false
    }
}

/// How much later what is late arrives: long after a notice is taken back, sooner than its sender is taken for dead.
const LATE_BY: Duration = Duration::from_millis(300);

/// Where the target is alive and would go on, the source is given the time to act first.
fn given_time(job: &mut Job, step: Step) -> Outcome<()> {
    match step {
        Step::Verify | Step::Commit => job.rank(SOURCE).ask(&format!("await outcome 0 {}", WAIT.as_millis())).map(drop),
        _ => Ok(()),
    }
}

/// Waits until each first rank takes the second for dead.
pub fn gone(job: &mut Job, step: Step, pairs: &[(u32, u32)]) -> Outcome<()> {
    if step == Step::Handshake {
        return Ok(());
    }
    for (who, whom) in pairs {
        job.rank(*who).ask(&format!("await down {whom} {}", WAIT.as_millis()))?;
    }
    Ok(())
}

/// Waits until something is so, for as long as a test waits.
fn until(is_so: impl Fn() -> bool) -> Outcome<()> {
    let began = std::time::Instant::now();
    while !is_so() {
        if began.elapsed() > WAIT {
            return Err("nothing passes any more".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

//! How soon a peer that is gone is noticed, and how rarely one that isn't: real processes, killed, stopped, cut off and starved.
//!
//! `cargo bench --bench detection [-- SECONDS]`. Each trial starts a peer and connects; then it is killed (crash), stopped (hang), cut
//! off by a proxy that passes nothing on (partition), or stopped and let go on (pause). Last, four processes that keep writing to
//! each other are starved for SECONDS (20) each time: by twice as many busy threads as there are processors in a process beside
//! them, and by busy threads of their own, as many in each as there are processors, which is what a framework's threads do that
//! hold them all. Whoever is declared dead then was declared so wrongly. A goal that is missed makes it end with 1.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use xfer::{Endpoint, EndpointConfig, Lane, PeerId, Region};
use xfer_chaos::{Callers, Faults, Proxy, Way};
use xfer_transport::{BackendId, PeerEvent, Place, RegionId, RemoteRegion};

const WAIT: Duration = Duration::from_secs(20);
const TRIALS: usize = 100;
const PEERS: u32 = 4;

/// What must not be exceeded, at the 99th percentile.
const CRASH_GOAL: Duration = Duration::from_millis(100);
const SILENCE_GOAL: Duration = Duration::from_millis(1_250);

/// What a starved peer writes to the survivor, over and over.
const LEN_BYTES: u64 = 8 << 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<ExitCode> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, rank, over, peers @ ..] = words.as_slice()
        && word == "peer"
    {
        return peer(rank.parse()?, over.parse()?, peers).map(|()| ExitCode::SUCCESS);
    }
    let seconds = words.first().map_or(Ok(20), |word| word.parse())?;
    println!("# until the survivor is told, two processes, {TRIALS} crashes, {0} hangs and partitions", TRIALS / 4);
    println!(
        "{:28} {:>8} {:>9} {:>9} {:>9} {:>8} {:>7}",
        "what", "noticed", "p50(ms)", "p99(ms)", "max(ms)", "goal", "false"
    );
    let mut met = true;
    for over in [BackendId::Tcp, BackendId::Shm] {
        let crashed = trials(TRIALS, over, false, |peer| peer.signal(Signal::KILL))?;
        met &= soon(&format!("crash (SIGKILL), {over}"), CRASH_GOAL, &crashed);
        let hung = trials(TRIALS / 4, over, false, |peer| peer.signal(Signal::STOP))?;
        met &= soon(&format!("hang (SIGSTOP), {over}"), SILENCE_GOAL, &hung);
    }
    let parted = trials(TRIALS / 4, BackendId::Tcp, true, Peer::cut_off)?;
    met &= soon("partition, tcp", SILENCE_GOAL, &parted);
    for pause_ms in [300, 390] {
        let pause = Duration::from_millis(pause_ms);
        let paused = trials(TRIALS / 4, BackendId::Tcp, false, |peer| peer.pause(pause))?;
        met &= never(&format!("pause of {pause_ms} ms, tcp"), &paused);
    }
    let processors = thread::available_parallelism()?.get();
    println!("\n# {PEERS} processes that write to each other, starved; all must live");
    println!("{:40} {:>8} {:>13} {:>7} {:>17}", "busy threads", "seconds", "peer-seconds", "false", "per peer-second");
    for over in [BackendId::Tcp, BackendId::Shm] {
        let time = Duration::from_secs(seconds);
        met &= starved(&format!("{} beside them, {over}", 2 * processors), over, time, 2 * processors, 0)?;
        met &= starved(&format!("{processors} in each of them, {over}"), over, time, 0, processors)?;
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints how soon it was noticed. Whether it was each time, and soon enough.
fn soon(what: &str, goal: Duration, noticed: &[Option<Duration>]) -> bool {
    let at_p99 = print(what, &format!("{} ms", goal.as_millis()), noticed, "-");
    noticed.iter().all(Option::is_some) && at_p99 <= goal.as_secs_f64() * 1e3
}

/// Prints how often somebody was declared dead. Whether nobody was.
fn never(what: &str, noticed: &[Option<Duration>]) -> bool {
    let wrong = noticed.iter().flatten().count();
    print(what, "never", noticed, &wrong.to_string());
    wrong == 0
}

fn print(what: &str, goal: &str, noticed: &[Option<Duration>], wrong: &str) -> f64 {
    let mut took: Vec<f64> = noticed.iter().flatten().map(|took| took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1))).copied();
    let text = |share: f64| at(share).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    println!(
        "{what:28} {:>8} {:>9} {:>9} {:>9} {goal:>8} {wrong:>7}",
        format!("{}/{}", took.len(), noticed.len()),
        text(0.5),
        text(0.99),
        text(1.0)
    );
    at(0.99).unwrap_or(0.0)
}

fn config(rank: u32, over: BackendId) -> EndpointConfig {
    let mut config = EndpointConfig::new(PeerId { rank, incarnation: 1 }, "detection");
    config.transports = Some(vec![over]);
    config
}

/// How long after `harm` the survivor was told that the peer is gone; nothing if it was not within three times what it may take.
fn trials(
    count: usize,
    over: BackendId,
    through_proxy: bool,
    harm: impl Fn(&mut Peer) -> Outcome<()>,
) -> Outcome<Vec<Option<Duration>>> {
    const GIVEN_UP: Duration = Duration::from_secs(4);
    const QUIET: Duration = Duration::from_millis(1500);
    let trial = |number: usize| {
        let mut config = config(0, over);
        let proxy = if through_proxy { Some(proxy_to(&mut config)?) } else { None };
        let survivor = Endpoint::start(config)?;
        let events = survivor.events();
        let mut peer = Peer::start(1, over, &[survivor.ticket().to_vec()])?;
        peer.proxy = proxy;
        await_up(&events)?;
        // At another place between two heartbeats each time.
        thread::sleep(Duration::from_millis(150 + (number as u64 * 37) % 100));
        let began = Instant::now();
        harm(&mut peer)?;
        let mut noticed = match await_down(&events, if peer.may_live { QUIET } else { GIVEN_UP }) {
            true => Some(began.elapsed()),
            false => None,
        };
        // A peer that was paused must not take the survivor for dead either.
        if peer.may_live && peer.ask("deaths")?.parse::<usize>()? > 0 {
            noticed = noticed.or(Some(began.elapsed()));
        }
        drop(peer);
        survivor.shutdown();
        Ok(noticed)
    };
    (0..count).map(trial).collect()
}

fn proxy_to(config: &mut EndpointConfig) -> Outcome<Proxy> {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    // Free a moment ago; the endpoint takes it right after this.
    config.bind = TcpListener::bind(anywhere)?.local_addr()?;
    let proxy = Proxy::start(anywhere, config.bind, 1)?;
    config.advertise = Some(proxy.address());
    Ok(proxy)
}

/// Starves some processes and counts false deaths. Whether there was none.
fn starved(what: &str, over: BackendId, time: Duration, beside: usize, inside: usize) -> Outcome<bool> {
    let survivor = Endpoint::start(config(0, over))?;
    let events = survivor.events();
    let mut tickets = vec![survivor.ticket().to_vec()];
    let (mut peers, mut grants) = (Vec::new(), Vec::new());
    for rank in 1..PEERS {
        let mut peer = Peer::start(rank, over, &tickets)?;
        tickets.push(peer.ticket.clone());
        await_up(&events)?;
        let grant = survivor.grant(&Region::allocate(LEN_BYTES)?, PeerId { rank, incarnation: 1 })?;
        peer.ask(&format!("write {}", grant.remote().id.0))?;
        grants.push(grant);
        peers.push(peer);
    }
    for peer in &mut peers {
        peer.ask(&format!("busy {inside}"))?;
    }
    // What is beside them is another process: a scheduler that is fair to groups would be fair to it.
    let beside = Peer::start(PEERS, over, &[]).and_then(|mut other| {
        other.ask(&format!("busy {beside}"))?;
        Ok(other)
    })?;
    let until = Instant::now() + time;
    let mut deaths = 0;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        deaths += usize::from(await_down(&events, left));
    }
    drop(beside);
    // What the peers saw among themselves counts as well.
    for peer in &mut peers {
        deaths += peer.ask("deaths")?.parse::<usize>()?;
    }
    let carried: u64 = grants.iter().map(|grant| grant.received()).sum();
    let peer_seconds = u64::from(PEERS * (PEERS - 1)) * time.as_secs();
    println!(
        "{what:40} {:>8} {peer_seconds:>13} {deaths:>7} {:>17.6}   ({} MB written meanwhile)",
        time.as_secs(),
        deaths as f64 / peer_seconds.max(1) as f64,
        carried / 1_000_000
    );
    Ok(deaths == 0)
}

fn await_up(events: &Receiver<PeerEvent>) -> Outcome<()> {
    match events.recv_timeout(WAIT) {
        Ok(PeerEvent::Up(_)) => Ok(()),
        other => Err(format!("no peer came: {other:?}").into()),
    }
}

fn await_down(events: &Receiver<PeerEvent>, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(PeerEvent::Down { .. }) => return true,
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// The program of a peer: connects to whom it is told, does what its lines say, and counts who goes.
fn peer(rank: u32, over: u8, tickets: &[String]) -> Outcome<()> {
    let over = BackendId::from_wire(over).ok_or("no such transport")?;
    let endpoint = Endpoint::start(config(rank, over))?;
    let events = endpoint.events();
    for ticket in tickets {
        endpoint.connect(&from_hex(ticket)?, WAIT)?;
    }
    println!("{}", to_hex(&endpoint.ticket()));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match line.split_once(' ') {
            Some(("busy", count)) => {
                (0..count.parse()?).for_each(|_| drop(thread::spawn(busy)));
                String::new()
            }
            Some(("write", id)) => {
                let to = RemoteRegion { id: RegionId(id.parse()?), len_bytes: LEN_BYTES, place: Place::Host };
                let (endpoint, source) = (endpoint.clone(), Region::allocate(LEN_BYTES)?);
                let survivor = endpoint.peer(0).ok_or("the survivor is gone")?;
                thread::spawn(move || {
                    while endpoint.write(survivor, source.all(), to.all(), Lane::Rescue, None).wait(None).is_ok() {}
                });
                String::new()
            }
            _ => events.try_iter().filter(|event| matches!(event, PeerEvent::Down { .. })).count().to_string(),
        };
        println!("{answer}");
    }
    Ok(())
}

fn busy() {
    loop {
        std::hint::spin_loop();
    }
}

/// A peer that does not outlive this.
struct Peer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    ticket: Vec<u8>,
    /// Whether it was let go on.
    may_live: bool,
    /// What leads from it to the survivor.
    proxy: Option<Proxy>,
}

impl Peer {
    fn start(rank: u32, over: BackendId, tickets: &[Vec<u8>]) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("peer")
            .args([rank.to_string(), (over as u8).to_string()])
            .args(tickets.iter().map(|ticket| to_hex(ticket)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let ticket = from_hex(&lines.next().ok_or("the peer said nothing")??)?;
        Ok(Self { child, input, lines, ticket, may_live: false, proxy: None })
    }

    fn signal(&mut self, signal: Signal) -> Outcome<()> {
        Ok(kill_process(Pid::from_raw(self.child.id() as i32).ok_or("no process")?, signal)?)
    }

    fn pause(&mut self, time: Duration) -> Outcome<()> {
        self.may_live = true;
        self.signal(Signal::STOP)?;
        thread::sleep(time);
        self.signal(Signal::CONT)
    }

    fn cut_off(&mut self) -> Outcome<()> {
        let proxy = self.proxy.as_ref().ok_or("nothing to cut")?;
        [Way::In, Way::Out].iter().for_each(|way| proxy.set(Callers::All, *way, Faults::stalled()));
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Outcome<String> {
        writeln!(self.input, "{line}")?;
        Ok(self.lines.next().ok_or("the peer has ended")??)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Outcome<Vec<u8>> {
    (0..text.len() / 2).map(|at| Ok(u8::from_str_radix(&text[2 * at..2 * at + 2], 16)?)).collect()
}

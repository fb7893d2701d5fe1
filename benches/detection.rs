//! How soon a peer that is gone is noticed, and how rarely one that isn't: real processes, killed, stopped and starved.
//!
//! `cargo bench --bench detection [-- SECONDS]`. Each trial starts a peer and connects; then it is killed (crash), stopped (hang), or
//! stopped and let go on (pause). Last, all processors are given twice as many busy threads as there are, for SECONDS (60), between
//! four peers: whoever is declared dead then was declared so wrongly.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use xfer::{Endpoint, EndpointConfig, PeerId};
use xfer_transport::PeerEvent;

const WAIT: Duration = Duration::from_secs(20);
const TRIALS: usize = 100;
const PEERS: u32 = 4;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, rank, peers @ ..] = words.as_slice()
        && word == "peer"
    {
        return peer(rank.parse()?, peers);
    }
    let seconds = words.first().map_or(Ok(60), |word| word.parse())?;
    println!("# until the survivor is told, two processes over TCP on loopback, {TRIALS} trials each");
    println!(
        "{:24} {:>8} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "what", "noticed", "p50(ms)", "p99(ms)", "max(ms)", "goal", "false"
    );
    row("crash (SIGKILL)", "100 ms", &trials(TRIALS, |peer| peer.signal(Signal::KILL))?, false);
    row("hang (SIGSTOP)", "1.25 s", &trials(TRIALS / 2, |peer| peer.signal(Signal::STOP))?, false);
    for pause_ms in [300, 390] {
        let paused = trials(TRIALS / 4, |peer| peer.pause(Duration::from_millis(pause_ms)))?;
        row(&format!("pause of {pause_ms} ms"), "never", &paused, true);
    }
    oversubscribed(Duration::from_secs(seconds))
}

fn row(what: &str, goal: &str, noticed: &[Option<Duration>], is_false: bool) {
    let mut took: Vec<f64> = noticed.iter().flatten().map(|took| took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| match took.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.1}", took[((took.len() as f64 * share) as usize).min(took.len() - 1)]),
    };
    let wrong = if is_false { took.len().to_string() } else { "-".to_owned() };
    println!(
        "{what:24} {:>8} {:>9} {:>9} {:>9} {goal:>7} {wrong:>7}",
        format!("{}/{}", took.len(), noticed.len()),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// How long after `harm` the survivor was told that the peer is gone; nothing if it was not within three times what it may take.
fn trials(count: usize, harm: impl Fn(&mut Peer) -> Outcome<()>) -> Outcome<Vec<Option<Duration>>> {
    const GIVEN_UP: Duration = Duration::from_secs(4);
    const QUIET: Duration = Duration::from_millis(1500);
    let trial = |number: usize| {
        let survivor = Endpoint::start(EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "detection"))?;
        let events = survivor.events();
        let mut peer = Peer::start(1, &[survivor.ticket().to_vec()])?;
        await_up(&events)?;
        // At another place between two heartbeats each time.
        thread::sleep(Duration::from_millis(150 + (number as u64 * 37) % 100));
        let began = Instant::now();
        harm(&mut peer)?;
        let noticed = match await_down(&events, if peer.may_live { QUIET } else { GIVEN_UP }) {
            true => Some(began.elapsed()),
            false => None,
        };
        drop(peer);
        survivor.shutdown();
        Ok(noticed)
    };
    (0..count).map(trial).collect()
}

fn oversubscribed(time: Duration) -> Outcome<()> {
    let survivor = Endpoint::start(EndpointConfig::new(PeerId { rank: 0, incarnation: 1 }, "detection"))?;
    let events = survivor.events();
    let mut tickets = vec![survivor.ticket().to_vec()];
    let mut peers = Vec::new();
    for rank in 1..PEERS {
        let peer = Peer::start(rank, &tickets)?;
        tickets.push(peer.ticket.clone());
        peers.push(peer);
        await_up(&events)?;
    }
    let until = Instant::now() + time;
    let count = 2 * thread::available_parallelism()?.get();
    let busy: Vec<_> = (0..count).map(|_| thread::spawn(move || while Instant::now() < until {})).collect();
    let mut deaths = 0;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        deaths += usize::from(await_down(&events, left));
    }
    busy.into_iter().for_each(|thread| drop(thread.join()));
    // What the peers saw among themselves counts as well.
    for peer in &mut peers {
        deaths += peer.deaths()?;
    }
    let pairs = PEERS * (PEERS - 1) / 2;
    println!(
        "\n{count} busy threads beside {PEERS} processes for {} s: {deaths} false deaths in {} peer-seconds (goal 0)",
        time.as_secs(),
        u64::from(pairs) * 2 * time.as_secs()
    );
    Ok(())
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

/// The program of a peer: connects to whom it is told, and counts who goes.
fn peer(rank: u32, tickets: &[String]) -> Outcome<()> {
    let endpoint = Endpoint::start(EndpointConfig::new(PeerId { rank, incarnation: 1 }, "detection"))?;
    let events = endpoint.events();
    for ticket in tickets {
        endpoint.connect(&from_hex(ticket)?, WAIT)?;
    }
    println!("{}", to_hex(&endpoint.ticket()));
    for _line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let deaths = events.try_iter().filter(|event| matches!(event, PeerEvent::Down { .. })).count();
        println!("{deaths}");
    }
    Ok(())
}

/// A peer that does not outlive this.
struct Peer {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    ticket: Vec<u8>,
    /// Whether it was let go on.
    may_live: bool,
}

impl Peer {
    fn start(rank: u32, tickets: &[Vec<u8>]) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("peer").arg(rank.to_string()).args(tickets.iter().map(|ticket| to_hex(ticket)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let ticket = from_hex(&lines.next().ok_or("the peer said nothing")??)?;
        Ok(Self { child, input, lines, ticket, may_live: false })
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

    fn deaths(&mut self) -> Outcome<usize> {
        writeln!(self.input, "deaths")?;
        Ok(self.lines.next().ok_or("the peer has ended")??.parse()?)
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

//! A job of real processes: the store and three ranks, each told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, setrlimit, waitpid};
use serde_json::Value;
use tempfile::TempDir;
use xfer::migrate::GenerationRecord;
use xfer::store::{Exposure, Store, StoreServer, Swap, TcpStore, Version};
use xfer_faults::Over;

use crate::clock;
use crate::faults::Fault;
use crate::namespaces::Namespaces;
use crate::net::Proxies;
use crate::pauses::Pauses;
use crate::rdma::Machine;
use crate::{Outcome, WAIT};

/// The rank that leaves, the one that is done something to, and the one that stays whatever happens.
pub const SOURCE: u32 = 1;
pub const TARGET: u32 = 2;
pub const OTHER: u32 = 0;

/// A process that is told what to do, and killed when nobody needs it any more.
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    stopped: bool,
    /// Gone, and meant to be.
    pub dead: bool,
}

impl Process {
    fn start(name: String, mut command: Command) -> Outcome<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("a child without output")?;
        let input = child.stdin.take();
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name, child, input, lines, stopped: false, dead: false })
    }

    /// Says what to do; the answer is taken by [`Process::answer`].
    pub fn tell(&mut self, command: &str) -> Outcome<()> {
        let input = self.input.as_mut().ok_or("its input is closed")?;
        input.write_all(format!("{command}\n").as_bytes())?;
        Ok(())
    }

    /// What it says next, as it is.
    pub fn answer(&mut self) -> Outcome<Value> {
        match self.lines.recv_timeout(WAIT + Duration::from_secs(10)) {
            Ok(line) => Ok(serde_json::from_str(&line)?),
            Err(RecvTimeoutError::Timeout) => Err(format!("{} hangs", self.name).into()),
            Err(RecvTimeoutError::Disconnected) => Err(format!("{} has ended", self.name).into()),
        }
    }

    /// Says what to do and waits for the answer, which may be an error.
    pub fn try_ask(&mut self, command: &str) -> Outcome<Value> {
        self.tell(command)?;
        self.answer()
    }

    /// Says what to do and waits until it is done.
    pub fn ask(&mut self, command: &str) -> Outcome<Value> {
        let answer = self.try_ask(command)?;
        match answer.get("error") {
            Some(error) => Err(format!("{}: {command}: {error}", self.name).into()),
            None => Ok(answer),
        }
    }

    pub fn signal(&mut self, signal: Signal) -> Outcome<()> {
        let pid = Pid::from_raw(self.child.id() as i32).ok_or("a process without a number")?;
        kill_process(pid, signal)?;
        match signal {
            Signal::STOP => {
                // A signal only asks for it: threads on other processors go on for a moment.
                waitpid(Some(pid), WaitOptions::UNTRACED)?;
                self.stopped = true;
            }
            Signal::CONT => self.stopped = false,
            Signal::KILL => {
                self.child.wait()?;
                self.dead = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until it is gone.
    pub fn gone(&mut self) -> Outcome<()> {
        let until = Instant::now() + WAIT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                return Err(format!("{} doesn't end", self.name).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.dead = true;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_there(&self) -> bool {
        !self.dead && !self.stopped
    }

    /// Closes its input, at which it ends by itself; an error if it doesn't, or not well.
    pub fn end(&mut self) -> Outcome<()> {
        self.input = None;
        let until = Instant::now() + WAIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.dead = true;
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("{} ended with {status}", self.name).into())
                };
            }
            if Instant::now() > until {
                return Err(format!("{} doesn't end", self.name).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a job differs from the usual one.
#[derive(Default)]
pub struct Setup {
    /// Whether what moves over shared memory lies in ordinary memory, and goes through rings.
    pub in_rings: bool,
    /// Whether each rank has a wall clock of its own.
    pub clocks: bool,
    /// Whether the store keeps a journal.
    pub journal: bool,
    /// An address that somebody else listens on.
    pub taken: Option<TcpListener>,
    /// Words for the program of the rank that something is done to.
    pub target_arguments: Vec<String>,
    /// Its environment.
    pub target_environment: Vec<(&'static str, String)>,
}

/// The store and the ranks of the founding case.
pub struct Job {
    pub setup: Setup,
    pub over: Over,
    pub ranks: Vec<Process>,
    pub store: Option<StoreProcess>,
    pub pauses: Pauses,
    /// What the connections lead through, if they do.
    pub proxies: Option<Proxies>,
    /// Where each process has its own network, if it has.
    pub namespaces: Option<Namespaces>,
    /// The RDMA devices of the machine, if they carry the job's bytes.
    pub rdma: Option<Machine>,
    /// What the store held before it was killed.
    pub last_record: Option<GenerationRecord>,
    /// Who can't come to know the end before the fault is lifted.
    pub unknowing: Option<u32>,
    /// Connections of people who are no members.
    pub strangers: Vec<TcpStream>,
    /// How many migrations have begun and ended before the one that is looked at.
    pub attempts: u64,
    /// Sentences with which something was refused on the way.
    pub refusals: Vec<String>,
    pub folder: TempDir,
}

pub struct StoreProcess {
    pub process: Process,
    pub address: SocketAddr,
    journal: Option<PathBuf>,
}

impl Job {
    /// Starts the processes, in such a way that `fault` can be done to them; they don't know each other yet.
    pub fn start(fault: Fault, over: Over) -> Outcome<Self> {
        let setup = fault.setup()?;
        let folder = tempfile::tempdir()?;
        let pauses = Pauses::start(folder.path())?;
        let namespaces = if over == Over::Namespaces { Some(Namespaces::start()?) } else { None };
        let journal = setup.journal.then(|| folder.path().join("journal"));
        let rdma = if over == Over::Verbs { Some(Machine::take(fault)?) } else { None };
        // With those who stay, so that the source is cut off from it, too.
        let place = rdma.as_ref().map(|machine| machine.address(OTHER));
        let store = start_store(namespaces.as_ref(), place, journal)?;
        let proxies = if fault.is_on_the_wire() { Some(Proxies::start(store.address)?) } else { None };
        let mut job = Self {
            proxies,
            over,
            last_record: None,
            unknowing: None,
            strangers: Vec::new(),
            setup,
            ranks: Vec::new(),
            store: Some(store),
            pauses,
            attempts: 0,
            refusals: Vec::new(),
            folder,
            namespaces,
            rdma,
        };
        for rank in 0..3 {
            let process = job.launch(rank)?;
            job.ranks.push(process);
        }
        for rank in 0..3 {
            job.welcome(rank)?;
        }
        Ok(job)
    }

    /// Starts the process of `rank`, without waiting for it.
    pub fn launch(&self, rank: u32) -> Outcome<Process> {
        let store = self.store.as_ref().ok_or("there is no store")?.address;
        let through = self.proxies.as_ref().map(|proxies| &proxies.stores[rank as usize]);
        let store = through.map_or(store, |proxy| proxy.address()).to_string();
        let mut command = program(&["rank", &rank.to_string()], self.namespaces.as_ref().map(|all| all.rank(rank)))?;
        command.env("XFER_STORE", &store).env("XFER_CHUNK", "64KiB").env("XFER_STORE_TIMEOUT", "2s");
        match self.over {
            // Shared memory would lead past the proxies.
            Over::Tcp => command.env("XFER_TRANSPORTS", "tcp"),
            Over::Shm if self.setup.in_rings => command.env("XFER_TRANSPORTS", "shm,tcp").env("XFER_SHM_FETCH", "0"),
            Over::Shm => command.env("XFER_TRANSPORTS", "shm,tcp").arg("arena=yes"),
            Over::Namespaces => command
                .env("XFER_TRANSPORTS", "tcp")
                .env("XFER_BIND", Namespaces::address(rank).to_string())
                .env("XFER_INSECURE", "1"),
            Over::Verbs => {
                let machine = self.rdma.as_ref().ok_or("the job has no RDMA devices")?;
                command.env("XFER_TRANSPORTS", "verbs,tcp").env("XFER_INSECURE", "1");
                command.env("XFER_BIND", machine.address(rank).to_string())
            }
        };
        let (name, path) = self.pauses.variable();
        command.env(name, path);
        if let Some(proxies) = &self.proxies {
            let proxy = proxies.ranks[rank as usize].address().to_string();
            command.env("XFER_BIND", proxies.behind(rank).to_string()).env("XFER_ADVERTISE", proxy);
        }
        if self.setup.clocks {
            clock::give(&mut command, self.folder.path(), rank)?;
        }
        if rank == TARGET {
            command.args(&self.setup.target_arguments).envs(self.setup.target_environment.iter().cloned());
        }
        Process::start(format!("rank {rank}"), command)
    }

    /// Waits for the first words of `rank`.
    pub fn welcome(&mut self, rank: u32) -> Outcome<()> {
        let ready = self.rank(rank).answer()?;
        match ready["error"].as_str() {
            Some(error) => {
                self.refusals.push(error.to_owned());
                self.rank(rank).end()
            }
            None => Ok(()),
        }
    }

    pub fn rank(&mut self, rank: u32) -> &mut Process {
        &mut self.ranks[rank as usize]
    }

    /// Tells several at once, so that they can wait for each other; errors are kept as refusals.
    pub fn together(&mut self, command: &str) -> Outcome<()> {
        let there: Vec<u32> = (0..3).filter(|rank| self.ranks[*rank as usize].is_there()).collect();
        for rank in &there {
            self.rank(*rank).tell(command)?;
        }
        for rank in &there {
            let answer = self.rank(*rank).answer()?;
            self.refusals.extend(answer["error"].as_str().map(str::to_owned));
        }
        Ok(())
    }

    /// What the store holds now, or held last: the truth about who owns what.
    pub fn generation(&mut self) -> Outcome<Option<GenerationRecord>> {
        match &mut self.store {
            Some(store) if store.process.is_there() => store.generation(),
            _ => Ok(self.last_record.clone()),
        }
    }

    /// Everybody who knows the end uses what was migrated for something else.
    pub fn fill(&mut self) -> Outcome<()> {
        let mut there = self.ranks.iter_mut().filter(|process| process.is_there());
        there.try_for_each(|process| process.ask("fill").map(drop))
    }

    /// Ends every process that is left, and what they ran in; an error if one is left after all.
    pub fn end(&mut self) -> Outcome<()> {
        let store = self.store.iter_mut().map(|store| &mut store.process);
        // The ranks first: one that leaves tells the store so.
        for process in self.ranks.iter_mut().chain(store).filter(|process| !process.dead) {
            process.end()?;
        }
        self.namespaces.take().map_or(Ok(()), Namespaces::end)
    }
}

impl StoreProcess {
    /// The disk is full for whatever the store writes next, which it is made to do; it ends, and is started again with what
    /// its journal holds. What was to be written is asked for until it is done.
    pub fn fill_disk(&mut self) -> Outcome<()> {
        let journal = self.journal.clone().ok_or("the store keeps no journal")?;
        self.process.ask("full")?;
        let address = self.address.to_string();
        let store = TcpStore::connect(&address, WAIT)?;
        thread::scope(|scope| {
            let written = scope.spawn(|| store.compare_and_swap("full", Version::ABSENT, vec![7; 1000].into()));
            self.process.gone()?;
            *self = start_store(None, Some(self.address), Some(journal))?;
            match written.join().map_err(|_| "a call of the store panicked")?? {
                Swap::Won(_) => Ok(()),
                Swap::Lost(_) => Err("somebody else writes the same".into()),
            }
        })
    }

    /// Asked of the process itself, which alone can be reached from wherever it is.
    fn generation(&mut self) -> Outcome<Option<GenerationRecord>> {
        let held = self.process.ask("generation")?;
        let Some(bytes) = held["record"].as_array() else { return Ok(None) };
        let bytes: Vec<u8> = bytes.iter().filter_map(|byte| byte.as_u64()).map(|byte| byte as u8).collect();
        Ok(Some(GenerationRecord::decode(&bytes)?))
    }
}

/// Starts a store where another one was or is to be, or wherever there is room.
fn start_store(
    namespaces: Option<&Namespaces>,
    at: Option<SocketAddr>,
    journal: Option<PathBuf>,
) -> Outcome<StoreProcess> {
    let listen = at.unwrap_or_else(|| match namespaces {
        Some(_) => Namespaces::store_address(),
        None => SocketAddr::from(([127, 0, 0, 1], 0)),
    });
    let mut command = program(&["store", &listen.to_string()], namespaces.map(Namespaces::store))?;
    command.args(&journal);
    let mut process = Process::start("the store".to_owned(), command)?;
    let address = process.answer()?["ready"].as_str().unwrap_or_default().parse()?;
    Ok(StoreProcess { process, address, journal })
}

/// This very program, to play another part, in a network of its own if one is named.
fn program(words: &[&str], namespace: Option<&str>) -> Outcome<Command> {
    let program = std::env::current_exe()?;
    let mut command = match namespace {
        None => Command::new(program),
        Some(name) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", name]).arg(program);
            command
        }
    };
    command.args(words);
    // Whoever looks for a reason sets the variable.
    if std::env::var_os("XFER_LOG").is_none() {
        command.env("XFER_LOG", "off");
    }
    Ok(command)
}

/// The store as a process of its own, until its input ends; says what it holds when it is asked.
pub fn serve_store(listen: &str, journal: Option<&str>) {
    let listen: SocketAddr = listen.parse().expect("real store ADDRESS [JOURNAL]");
    // Off the loopback it stands in a network that this job has for itself.
    let exposure = if listen.ip().is_loopback() { Exposure::LoopbackOnly } else { Exposure::AnyInterface };
    let server = match journal {
        None => StoreServer::bind(listen, exposure),
        Some(journal) => StoreServer::bind_journaled(listen, exposure, Path::new(journal), |_| std::process::exit(1)),
    };
    let address = server.as_ref().expect("a free port").local_addr().to_string();
    println!("{}", serde_json::json!({ "ready": address }));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(journal) = journal.filter(|_| line == "full") {
            limit_files(journal).expect("a limit that is lower");
            println!("{}", serde_json::json!({}));
            continue;
        }
        let found = TcpStore::connect(&address, WAIT).and_then(|store| store.get("generation"));
        let answer = match found {
            Ok(found) => serde_json::json!({ "record": found.map(|found| found.value.to_vec()) }),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        println!("{answer}");
    }
}

/// Of what is written into `journal` next, a few bytes fit.
fn limit_files(journal: &str) -> std::io::Result<()> {
    // Without a handler, the signal that comes with it would end the process.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    let most = std::fs::metadata(journal)?.len() + 20;
    let limits = Rlimit { current: Some(most), ..getrlimit(Resource::Fsize) };
    Ok(setrlimit(Resource::Fsize, limits)?)
}

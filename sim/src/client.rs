//! A process's clients of the store, one for each of its threads that ask: they reconnect, ask again, and give up in time.

use std::collections::VecDeque;
use std::time::Duration;

use xfer_migrate_core::seal;
use xfer_migrate_core::store::records::{GENERATION_KEY, kept_generation_key};
use xfer_migrate_core::store::wire::{self, Answer, Request};
use xfer_migrate_core::store::{Swap, SwapRequest, Token, Version, Versioned, limits};
use xfer_migrate_core::{GenerationKind, GenerationRecord, MigrationId, Seal};
use xfer_transport_core::{PeerId, Time};

use crate::outside::Outside;
use crate::store::{Connection, Parcel, StoreHost};

/// How long a call goes on while the store can't be reached.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one look at a key waits there.
const WATCH: Duration = Duration::from_millis(500);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// What a thread asks the store.
#[derive(Debug, Clone)]
pub enum Ask {
    /// What are the generations after this one?
    Read(u64),
    /// Replace the generation that this record is based on.
    Propose(Box<GenerationRecord>),
    /// Create a target's seal.
    Publish(Box<Seal>),
    /// Tell of every generation from now on.
    WatchGeneration,
    /// Tell of this seal.
    WatchSeal {
        /// Its migration.
        migration: MigrationId,
        /// Where it will be.
        key: String,
    },
}

/// What a process hears of it.
#[derive(Debug, Clone)]
pub enum Told {
    /// The answer to [`Ask::Read`], oldest first.
    Read(Result<Vec<GenerationRecord>, String>),
    /// All generations since the one that a proposal was based on, oldest first.
    Decided(Result<Vec<GenerationRecord>, String>),
    /// What the store holds where a seal belongs.
    Seal(MigrationId, Seal),
    /// There are other generations, oldest first.
    Generations(Vec<GenerationRecord>),
    /// The store can't be reached.
    Lost(String),
}

#[derive(Debug)]
struct Call {
    ask: Ask,
    /// The version that a swap replaces, once it is known.
    expected: Option<Version>,
    token: Token,
    /// The generation that is to be kept before it is replaced.
    keeps: Option<(GenerationRecord, Token)>,
    /// The generation that was found, and its version, while those between it and the known one are read.
    found: Option<(GenerationRecord, Version)>,
    /// What was read of those.
    missed: Vec<GenerationRecord>,
    /// Whether a swap was sent, so that it may have been done.
    asked: bool,
    in_flight: bool,
    until: Time,
    failed: bool,
}

#[derive(Debug, Default)]
struct Thread {
    queue: VecDeque<Ask>,
    call: Option<Call>,
    connection: Option<Connection>,
    greeted: bool,
    inbound: Vec<u8>,
    pause_until: Option<Time>,
    /// The version that a watcher knows.
    version: Version,
    /// The generation that a watcher knows.
    known: u64,
}

/// All clients of one process.
#[derive(Debug)]
pub struct Clients {
    process: PeerId,
    client: u64,
    swaps: u64,
    life: Option<u64>,
    threads: Vec<Thread>,
    told: VecDeque<Told>,
}

/// The thread that proposes and publishes, one after the other.
const WORKER: usize = 0;

/// The thread that reads on the driver's behalf.
const READER: usize = 1;

impl Clients {
    /// The clients of a process, which knows a generation and watches those after it from now on.
    pub fn new(process: PeerId, client: u64, known: u64) -> Self {
        let mut clients = Self {
            process,
            client,
            swaps: 0,
            life: None,
            threads: (0..3).map(|_| Thread::default()).collect(),
            told: VecDeque::new(),
        };
        clients.threads[2].known = known;
        clients.threads[2].queue.push_back(Ask::WatchGeneration);
        clients
    }

    /// Asks for something.
    pub fn ask(&mut self, out: &mut Outside, store: &mut StoreHost, ask: Ask) {
        let at = match &ask {
            Ask::Propose(_) | Ask::Publish(_) => WORKER,
            Ask::Read(_) => READER,
            Ask::WatchGeneration | Ask::WatchSeal { .. } => {
                self.threads.push(Thread::default());
                self.threads.len() - 1
            }
        };
        self.threads[at].queue.push_back(ask);
        self.run(out, store, at);
    }

    /// Nobody wants to hear of seals of `migration` any more.
    pub fn forget(&mut self, migration: MigrationId) {
        for thread in &mut self.threads {
            let about = |ask: &Ask| matches!(ask, Ask::WatchSeal { migration: of, .. } if *of == migration);
            thread.queue.retain(|ask| !about(ask));
            thread.call.take_if(|call| about(&call.ask));
        }
    }

    /// What was heard.
    pub fn poll_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// When to call [`Clients::on_timers`].
    pub fn poll_timeout(&self) -> Option<Time> {
        let times = self.threads.iter().flat_map(|thread| {
            let until = thread.call.as_ref().map(|call| call.until);
            [until, thread.pause_until]
        });
        times.flatten().min()
    }

    /// Begins whatever can begin.
    pub fn start(&mut self, out: &mut Outside, store: &mut StoreHost) {
        (0..self.threads.len()).for_each(|at| self.run(out, store, at));
    }

    /// Does what is due.
    pub fn on_timers(&mut self, out: &mut Outside, store: &mut StoreHost) {
        for at in 0..self.threads.len() {
            let now = out.now;
            let thread = &mut self.threads[at];
            if thread.pause_until.is_some_and(|until| until <= now) {
                thread.pause_until = None;
                self.run(out, store, at);
            }
            if self.threads[at].call.as_ref().is_some_and(|call| call.until <= now) {
                self.hang_up(out, store, at);
                self.failed(out, store, at, "it did not answer in time");
            }
        }
    }

    /// Something came over one of the connections.
    pub fn receive(&mut self, out: &mut Outside, store: &mut StoreHost, connection: Connection, parcel: Parcel) {
        let Some(at) = self.threads.iter().position(|thread| thread.connection == Some(connection)) else { return };
        match parcel {
            Parcel::Bytes(bytes) => self.threads[at].inbound.extend(bytes),
            Parcel::Closed => {
                self.broken(out, at);
                return;
            }
            Parcel::Open => return,
        }
        if !self.threads[at].greeted {
            let Some(welcome) = self.threads[at].inbound.first_chunk::<{ wire::WELCOME_BYTES }>() else { return };
            match wire::read_welcome(welcome) {
                Ok(life) if self.life.is_none_or(|known| known == life) => self.life = Some(life),
                Ok(life) => {
                    out.checks.refuses_store();
                    self.hang_up(out, store, at);
                    let known = self.life.unwrap_or_default();
                    self.failed(out, store, at, &format!("the store was restarted: life {life}, not {known}"));
                    return;
                }
                Err(error) => {
                    out.checks.refuses_store();
                    self.hang_up(out, store, at);
                    self.failed(out, store, at, &error.to_string());
                    return;
                }
            }
            let thread = &mut self.threads[at];
            thread.greeted = true;
            thread.inbound.drain(..wire::WELCOME_BYTES);
            self.run(out, store, at);
        }
        let Some(answer) = take_answer(&mut self.threads[at].inbound) else { return };
        match answer {
            Ok(answer) => self.answered(out, store, at, answer),
            Err(reason) => {
                self.hang_up(out, store, at);
                self.failed(out, store, at, &reason);
            }
        }
    }

    /// Takes the next step of a thread's call.
    fn run(&mut self, out: &mut Outside, store: &mut StoreHost, at: usize) {
        let thread = &mut self.threads[at];
        if thread.pause_until.is_some() {
            return;
        }
        if thread.call.is_none() {
            let Some(ask) = thread.queue.pop_front() else { return };
            let waits = matches!(ask, Ask::WatchGeneration | Ask::WatchSeal { .. });
            let bound = CALL_TIMEOUT + if waits { WATCH } else { Duration::ZERO };
            let token = Token { client: self.client, sequence: self.swaps };
            self.swaps += 2;
            thread.call = Some(Call {
                ask,
                expected: None,
                token,
                keeps: None,
                found: None,
                missed: Vec::new(),
                asked: false,
                in_flight: false,
                until: out.now.after(bound),
                failed: false,
            });
        }
        if thread.connection.is_none() {
            let connection = out.store_open(store, self.process);
            out.send_to_store(store, connection, Parcel::Bytes(wire::hello().to_vec()));
            let thread = &mut self.threads[at];
            thread.connection = Some(connection);
            thread.greeted = false;
            thread.inbound.clear();
            return;
        }
        let thread = &mut self.threads[at];
        let (Some(connection), Some(call)) = (thread.connection, &mut thread.call) else { return };
        if thread.greeted && !call.in_flight {
            let request = request_of(call, thread.version, thread.known);
            call.asked |= matches!(request, Request::Swap(_));
            call.in_flight = true;
            let mut frame = Vec::new();
            request.encode(&mut frame);
            out.send_to_store(store, connection, Parcel::Bytes(frame));
        }
    }

    fn answered(&mut self, out: &mut Outside, store: &mut StoreHost, at: usize, answer: Answer) {
        let thread = &mut self.threads[at];
        let Some(call) = &mut thread.call else { return };
        call.in_flight = false;
        let told = match (&call.ask, answer) {
            (_, Answer::Refused(refusal)) => return self.failed(out, store, at, &refusal.to_string()),
            (_, Answer::Value(kept)) if call.found.is_some() => return self.missed(out, store, at, kept),
            (Ask::Propose(_), Answer::Swapped(_)) if call.keeps.take().is_some() => {
                // Whoever was first has written the same. The swap itself was not asked for yet.
                call.asked = false;
                None
            }
            (Ask::Propose(record), Answer::Value(found)) => {
                let version = found.as_ref().map_or(Version::ABSENT, |found| found.version);
                match read_generation(found.map(|found| found.value)) {
                    Ok(current) if current.generation == record.base => {
                        call.expected = Some(version);
                        if current.kind != GenerationKind::Initial {
                            let token = Token { sequence: call.token.sequence + 1, ..call.token };
                            call.keeps = Some((current, token));
                        }
                        None
                    }
                    Ok(current) => return self.found(out, store, at, current, version),
                    Err(reason) => return self.failed(out, store, at, &reason),
                }
            }
            (Ask::Read(_) | Ask::WatchGeneration, Answer::Value(Some(found)))
            | (Ask::Propose(_), Answer::Swapped(Swap::Lost(found))) => match read_generation(Some(found.value)) {
                Ok(latest) => return self.found(out, store, at, latest, found.version),
                Err(reason) => return self.failed(out, store, at, &reason),
            },
            (Ask::Propose(record), Answer::Swapped(Swap::Won(_))) => Some(Told::Decided(Ok(vec![(**record).clone()]))),
            (Ask::Publish(seal), Answer::Swapped(Swap::Won(_))) => Some(Told::Seal(seal.migration, (**seal).clone())),
            (Ask::Publish(seal), Answer::Swapped(Swap::Lost(found))) => Some(match Seal::decode(&found.value) {
                Ok(kept) => Told::Seal(seal.migration, kept),
                Err(error) => Told::Lost(error.to_string()),
            }),
            (Ask::WatchSeal { migration, .. }, Answer::Value(Some(found))) => {
                Seal::decode(&found.value).ok().map(|seal| Told::Seal(*migration, seal))
            }
            (watch @ (Ask::WatchGeneration | Ask::WatchSeal { .. }), Answer::Value(None)) => {
                let again = watch.clone();
                thread.queue.push_back(again);
                thread.call = None;
                self.run(out, store, at);
                return;
            }
            (_, other) => return self.failed(out, store, at, &format!("an answer to something else: {other:?}")),
        };
        if let Some(told) = told {
            self.threads[at].call = None;
            self.told.push_back(told);
        }
        self.run(out, store, at);
    }

    /// A thread has found a generation: those that it has missed, as far as they are not there yet, are read first.
    fn found(
        &mut self,
        out: &mut Outside,
        store: &mut StoreHost,
        at: usize,
        latest: GenerationRecord,
        version: Version,
    ) {
        let thread = &mut self.threads[at];
        let Some(call) = &mut thread.call else { return };
        if next_missed(call, thread.known) < latest.generation {
            call.found = Some((latest, version));
            return self.run(out, store, at);
        }
        self.tell(out, store, at, latest, version);
    }

    /// A thread has read one of the generations that it has missed, or that isn't there.
    fn missed(&mut self, out: &mut Outside, store: &mut StoreHost, at: usize, kept: Option<Versioned>) {
        let thread = &mut self.threads[at];
        let Some(call) = &mut thread.call else { return };
        let Some((latest, version)) = call.found.take() else { return };
        match kept.and_then(|kept| GenerationRecord::decode(&kept.value).ok()) {
            Some(record) => {
                call.missed.push(record);
                self.found(out, store, at, latest, version);
            }
            None => self.tell(out, store, at, latest, version),
        }
    }

    fn tell(
        &mut self,
        out: &mut Outside,
        store: &mut StoreHost,
        at: usize,
        latest: GenerationRecord,
        version: Version,
    ) {
        let thread = &mut self.threads[at];
        let Some(mut call) = thread.call.take() else { return };
        let mut records = std::mem::take(&mut call.missed);
        let generation = latest.generation;
        records.push(latest);
        self.told.push_back(match call.ask {
            Ask::Read(_) => Told::Read(Ok(records)),
            Ask::WatchGeneration => {
                (thread.version, thread.known) = (version, generation);
                thread.queue.push_back(Ask::WatchGeneration);
                Told::Generations(records)
            }
            _ => Told::Decided(Ok(records)),
        });
        self.run(out, store, at);
    }

    /// The connection broke: the call goes on over another one, while there is time.
    fn broken(&mut self, out: &mut Outside, at: usize) {
        let thread = &mut self.threads[at];
        thread.connection = None;
        thread.greeted = false;
        if let Some(call) = &mut thread.call {
            call.in_flight = false;
            if !std::mem::replace(&mut call.failed, true) {
                call.until = call.until.min(out.now.after(CALL_TIMEOUT));
            }
            thread.pause_until = Some(out.now.after(PAUSE));
        }
    }

    fn hang_up(&mut self, out: &mut Outside, store: &mut StoreHost, at: usize) {
        if let Some(connection) = self.threads[at].connection.take() {
            out.send_to_store(store, connection, Parcel::Closed);
        }
        self.threads[at].greeted = false;
    }

    fn failed(&mut self, out: &mut Outside, store: &mut StoreHost, at: usize, why: &str) {
        let thread = &mut self.threads[at];
        let Some(call) = thread.call.take() else { return };
        let reason = if call.asked { format!("what became of a write is unknown: {why}") } else { why.to_owned() };
        thread.pause_until = None;
        let told = match call.ask {
            Ask::Read(_) => Told::Read(Err(reason)),
            Ask::Propose(_) => Told::Decided(Err(reason)),
            Ask::Publish(_) => Told::Lost(reason),
            watch @ (Ask::WatchGeneration | Ask::WatchSeal { .. }) => {
                // A store that is gone stays gone for those who wait; ask again at leisure.
                thread.queue.push_back(watch);
                thread.pause_until = Some(out.now.after(WATCH));
                Told::Lost(reason)
            }
        };
        self.told.push_back(told);
        self.run(out, store, at);
    }
}

/// The generation after which a call asks.
fn known_to(call: &Call, watched: u64) -> u64 {
    match &call.ask {
        Ask::Read(known) => *known,
        Ask::Propose(record) => record.base,
        _ => watched,
    }
}

/// The generation that a call reads next, of those that it has missed.
fn next_missed(call: &Call, watched: u64) -> u64 {
    known_to(call, watched) + 1 + call.missed.len() as u64
}

fn request_of(call: &Call, version: Version, watched: u64) -> Request {
    let key = || GENERATION_KEY.to_owned();
    if call.found.is_some() {
        return Request::Get { key: kept_generation_key(next_missed(call, watched)) };
    }
    if let Some((current, token)) = &call.keeps {
        return crate::store::create(kept_generation_key(current.generation), current.encode(), *token, call.asked);
    }
    match (&call.ask, call.expected) {
        (Ask::Read(_), _) | (Ask::Propose(_), None) => Request::Get { key: key() },
        (Ask::Propose(record), Some(expected)) => Request::Swap(SwapRequest {
            key: key(),
            expected,
            value: record.encode(),
            token: call.token,
            again: call.asked,
        }),
        (Ask::Publish(seal), _) => {
            let key = seal::seal_key(seal.migration, seal.target.rank);
            crate::store::create(key, seal.encode(), call.token, call.asked)
        }
        (Ask::WatchGeneration, _) => Request::Wait { key: key(), newer_than: version, timeout: WATCH },
        (Ask::WatchSeal { key, .. }, _) => {
            Request::Wait { key: key.clone(), newer_than: Version::ABSENT, timeout: WATCH.min(limits::WAIT_MAX) }
        }
    }
}

fn read_generation(value: Option<bytes::Bytes>) -> Result<GenerationRecord, String> {
    let value = value.ok_or("the store holds no generation")?;
    GenerationRecord::decode(&value).map_err(|error| error.to_string())
}

/// A whole answer off the front, or why there can't be one.
fn take_answer(inbound: &mut Vec<u8>) -> Option<Result<Answer, String>> {
    let head = *inbound.first_chunk::<{ wire::FRAME_HEAD_BYTES }>()?;
    let len_bytes = match wire::body_len_bytes(head) {
        Ok(len_bytes) => len_bytes,
        Err(error) => return Some(Err(error.to_string())),
    };
    let end = wire::FRAME_HEAD_BYTES + len_bytes;
    let body = inbound.get(wire::FRAME_HEAD_BYTES..end)?;
    let answer = wire::check_body(head, body)
        .map_err(|error| error.to_string())
        .and_then(|()| Answer::decode(body).map_err(|error| error.to_string()));
    inbound.drain(..end);
    Some(answer)
}

//! The process that hosts the store: the production service, its clients' connections, and somebody who reads along.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::GenerationRecord;
use xfer_migrate_core::store::journal::{Head, Journal, Record, recover};
use xfer_migrate_core::store::records::GENERATION_KEY;
use xfer_migrate_core::store::wire::{self, Answer, Request};
use xfer_migrate_core::store::{
    ClientId, Service, ServiceLimits, StateLimits, StoreState, SwapRequest, Token, Version, limits,
};
use xfer_transport_core::{PeerId, Time};

use crate::outside::{Event, Outside};
use crate::trace::Who;

/// A client's connection to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub usize);

/// What goes one way over such a connection.
#[derive(Debug, Clone)]
pub enum Parcel {
    /// The client calls.
    Open,
    /// Some bytes.
    Bytes(Vec<u8>),
    /// The other end is gone.
    Closed,
}

/// Something arrives at the store or at a client.
#[derive(Debug, Clone)]
pub enum StoreEvent {
    /// At the store.
    ToStore(Connection, Parcel),
    /// At a client.
    ToClient(Connection, Parcel),
    /// The store looks at its timers.
    Timer,
}

#[derive(Debug)]
struct Line {
    process: PeerId,
    client: Option<ClientId>,
    /// When the last parcel each way arrives: they stay in order.
    last_at: [Time; 2],
    held: [VecDeque<Parcel>; 2],
    store_open: bool,
    client_open: bool,
}

/// What the store's process has written down, which outlives it.
#[derive(Debug)]
struct Disk {
    bytes: Vec<u8>,
    journal: Journal,
    /// The next write is torn, and the process ends.
    tears: bool,
}

/// What became of what had to be written down.
#[derive(Debug, PartialEq, Eq)]
enum WrittenDown {
    Nothing,
    All,
    Torn,
}

/// The process that hosts the store.
#[derive(Debug)]
pub struct StoreHost {
    service: Option<Service>,
    disk: Option<Disk>,
    /// The latest write when it last said something: whoever heard it relies on that.
    answered_for: Version,
    life: u64,
    lines: Vec<Line>,
    timer_at: Option<Time>,
    reader: Option<ClientId>,
    seen: Version,
    /// Whether it is stopped.
    pub paused: bool,
    /// The generation that is true.
    pub generation: GenerationRecord,
}

impl StoreHost {
    /// A store that holds `generation`, and is as empty as a new one otherwise.
    pub fn new(now: Time, generation: GenerationRecord, keeps_journal: bool) -> Self {
        let disk = keeps_journal.then(|| {
            let head = Head { life: 1, clock: [0; 16], ahead_ns: 0 };
            let (mut journal, bytes) = Journal::begin(&head, &StoreState::new(StateLimits::default()));
            journal.synced();
            Disk { bytes, journal, tears: false }
        });
        let mut host = Self {
            service: None,
            disk,
            answered_for: Version::ABSENT,
            life: 1,
            lines: Vec::new(),
            timer_at: None,
            reader: None,
            seen: Version::ABSENT,
            paused: false,
            generation: generation.clone(),
        };
        host.start(now);
        host.write_first(now, &generation);
        host
    }

    /// Whether what it holds outlives its process.
    pub fn keeps_journal(&self) -> bool {
        self.disk.is_some()
    }

    /// Whether its next write is torn.
    pub fn tear_next_write(&mut self, tears: bool) {
        if let Some(disk) = &mut self.disk {
            disk.tears = tears;
        }
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.service.is_some()
    }

    /// Which life of the store this is.
    pub fn life(&self) -> u64 {
        self.life
    }

    fn start(&mut self, now: Time) {
        let limits = ServiceLimits::default();
        let service = match &mut self.disk {
            None => Service::new(self.life, limits),
            Some(disk) => {
                let found = recover(&disk.bytes, limits.state).expect("what is on the disk was written by a store");
                disk.bytes.truncate(found.whole_bytes as usize);
                disk.journal = Journal::of(found.whole_bytes);
                Service::journaled(found.head.life, found.state, limits)
            }
        };
        self.begin(now, service);
    }

    fn begin(&mut self, now: Time, mut service: Service) {
        let reader = service.open(now);
        if let Some(reader) = reader {
            service.receive(now, reader, &wire::hello());
            let welcome_bytes = service.output(reader).len();
            service.sent(now, reader, welcome_bytes);
        }
        self.reader = reader;
        self.service = Some(service);
    }

    /// An operator writes the generation that the job begins with.
    fn write_first(&mut self, now: Time, generation: &GenerationRecord) {
        let swap = SwapRequest {
            key: GENERATION_KEY.to_owned(),
            expected: Version::ABSENT,
            value: generation.encode(),
            token: Token { client: 0, sequence: 0 },
            again: false,
        };
        self.ask_as_reader(now, &Request::Swap(swap));
        self.write_down();
        if let Some((service, reader)) = self.service.as_mut().zip(self.reader) {
            let answer_bytes = service.output(reader).len();
            service.sent(now, reader, answer_bytes);
        }
        self.seen = Version(1);
        self.wait_as_reader(now);
    }

    /// Puts what was written onto the disk, if there is one; whole, unless the disk tears it.
    fn write_down(&mut self) -> WrittenDown {
        let Some((service, disk)) = self.service.as_mut().zip(self.disk.as_mut()) else { return WrittenDown::Nothing };
        let writes = service.take_writes();
        if writes.is_empty() {
            return WrittenDown::Nothing;
        }
        for written in writes {
            disk.journal.append(&Record::Written(written), &mut disk.bytes);
        }
        if disk.tears {
            return WrittenDown::Torn;
        }
        disk.journal.synced();
        service.writes_are_durable();
        WrittenDown::All
    }

    fn ask_as_reader(&mut self, now: Time, request: &Request) {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        if let Some((service, reader)) = self.service.as_mut().zip(self.reader) {
            service.receive(now, reader, &frame);
        }
    }

    fn wait_as_reader(&mut self, now: Time) {
        let request =
            Request::Wait { key: GENERATION_KEY.to_owned(), newer_than: self.seen, timeout: limits::WAIT_MAX };
        self.ask_as_reader(now, &request);
    }

    /// What was written since, if it is a generation.
    fn read_along(&mut self, now: Time) -> Option<GenerationRecord> {
        let (service, reader) = self.service.as_mut().zip(self.reader)?;
        let output = service.output(reader);
        let body = output.get(wire::FRAME_HEAD_BYTES..)?;
        let answer = Answer::decode(body).ok();
        let len_bytes = output.len();
        service.sent(now, reader, len_bytes);
        let found = match answer {
            Some(Answer::Value(Some(found))) => {
                self.seen = found.version;
                GenerationRecord::decode(&found.value).ok()
            }
            _ => None,
        };
        self.wait_as_reader(now);
        if let Some(record) = &found {
            self.generation = record.clone();
        }
        found
    }
}

impl Outside {
    /// A client calls the store.
    pub fn store_open(&mut self, store: &mut StoreHost, process: PeerId) -> Connection {
        store.lines.push(Line {
            process,
            client: None,
            last_at: [self.now; 2],
            held: Default::default(),
            store_open: true,
            client_open: true,
        });
        let connection = Connection(store.lines.len() - 1);
        self.send_to_store(store, connection, Parcel::Open);
        connection
    }

    /// A client sends, or hangs up.
    pub fn send_to_store(&mut self, store: &mut StoreHost, connection: Connection, parcel: Parcel) {
        let line = &mut store.lines[connection.0];
        if matches!(parcel, Parcel::Closed) {
            line.client_open = false;
        }
        let condition = self.network.condition(line.process.rank as usize, self.network.store());
        let at = self.now.after(condition.delay + self.random.within(condition.jitter)).max(line.last_at[0]);
        line.last_at[0] = at;
        self.schedule(at, Event::Store(StoreEvent::ToStore(connection, parcel)));
    }

    fn send_to_client(&mut self, store: &mut StoreHost, connection: Connection, parcel: Parcel) {
        let line = &mut store.lines[connection.0];
        let condition = self.network.condition(self.network.store(), line.process.rank as usize);
        let at = self.now.after(condition.delay + self.random.within(condition.jitter)).max(line.last_at[1]);
        line.last_at[1] = at;
        self.schedule(at, Event::Store(StoreEvent::ToClient(connection, parcel)));
    }

    /// Something arrives at the store. Generations that were decided by it.
    pub fn at_store(
        &mut self,
        store: &mut StoreHost,
        connection: Connection,
        parcel: Parcel,
    ) -> Option<GenerationRecord> {
        let line = &mut store.lines[connection.0];
        let cut = self.network.condition(line.process.rank as usize, self.network.store()).cut;
        if cut || store.paused || !line.held[0].is_empty() {
            line.held[0].push_back(parcel);
            return None;
        }
        let now = self.now;
        let Some(service) = &mut store.service else {
            line.store_open = false;
            self.send_to_client(store, connection, Parcel::Closed);
            return None;
        };
        match parcel {
            Parcel::Open => line.client = service.open(now),
            Parcel::Bytes(bytes) => {
                if let Some(client) = line.client {
                    service.receive(now, client, &bytes);
                }
            }
            Parcel::Closed => {
                if let Some(client) = line.client.take() {
                    service.closed(client);
                }
            }
        }
        self.after_service(store)
    }

    /// The store's timers are due.
    pub fn store_timer(&mut self, store: &mut StoreHost) -> Option<GenerationRecord> {
        store.timer_at = None;
        if store.paused {
            return None;
        }
        let now = self.now;
        store.service.as_mut()?.handle_timeout(now);
        self.after_service(store)
    }

    /// Carries off what the service has to say, and writes down what it may not say before, as its server does.
    fn after_service(&mut self, store: &mut StoreHost) -> Option<GenerationRecord> {
        let now = self.now;
        let mut decided = None;
        loop {
            decided = store.read_along(now).or(decided);
            self.say_all(store);
            match store.write_down() {
                WrittenDown::Nothing => break,
                WrittenDown::All => {}
                WrittenDown::Torn => {
                    self.tear(store);
                    return decided;
                }
            }
        }
        while let Some((client, _)) = store.service.as_mut().and_then(Service::poll_closed) {
            if let Some(at) = store.lines.iter().position(|line| line.client == Some(client)) {
                store.lines[at].client = None;
                self.send_to_client(store, Connection(at), Parcel::Closed);
            }
        }
        if let Some(at) = store.service.as_ref().and_then(Service::poll_timeout)
            && store.timer_at.is_none_or(|planned| at < planned || planned < now)
        {
            store.timer_at = Some(at);
            // Never at once: what is due was just dealt with.
            self.schedule(at.max(now.after(Duration::from_micros(1))), Event::Store(StoreEvent::Timer));
        }
        decided
    }

    fn say_all(&mut self, store: &mut StoreHost) {
        let now = self.now;
        for at in 0..store.lines.len() {
            let Some((service, client)) = store.service.as_mut().zip(store.lines[at].client) else { continue };
            let output = service.output(client);
            if output.is_empty() {
                continue;
            }
            let bytes = output.to_vec();
            store.answered_for = service.state().latest();
            service.sent(now, client, bytes.len());
            self.send_to_client(store, Connection(at), Parcel::Bytes(bytes));
        }
    }

    /// The disk took some of what was written last, perhaps all of it, perhaps with something else behind it; and the
    /// store, which doesn't know what it took, ends.
    fn tear(&mut self, store: &mut StoreHost) {
        let Some(disk) = &mut store.disk else { return };
        disk.tears = false;
        let unsure_bytes = disk.journal.len_bytes() - disk.journal.durable_bytes();
        let kept_bytes = self.random.below(unsure_bytes + 1);
        disk.bytes.truncate((disk.journal.durable_bytes() + kept_bytes) as usize);
        if self.random.per_mille(300) {
            let garbage = (0..self.random.below(40)).map(|_| self.random.below(256) as u8).collect::<Vec<_>>();
            disk.bytes.extend(garbage);
        }
        let words = move || format!("its disk took {kept_bytes} of {unsure_bytes} bytes, and no more");
        self.trace.add(self.now, Who::Store, "fault", words);
        self.kill_store(store);
    }

    /// Whether a parcel for a client gets through now; else it is held back.
    pub fn reaches_client(&mut self, store: &mut StoreHost, connection: Connection, parcel: &Parcel) -> Option<PeerId> {
        let line = &mut store.lines[connection.0];
        let rank = line.process.rank as usize;
        if !line.client_open {
            return None;
        }
        if self.network.condition(self.network.store(), rank).cut
            || self.paused.contains(&line.process)
            || !line.held[1].is_empty()
        {
            line.held[1].push_back(parcel.clone());
            return None;
        }
        Some(line.process)
    }

    /// Lines work again, or somebody goes on: what was held back comes soon.
    pub fn release_held_by_store(&mut self, store: &mut StoreHost) {
        for at in 0..store.lines.len() {
            let [to_store, to_client] = std::mem::take(&mut store.lines[at].held);
            let wait = self.random.within(Duration::from_millis(30));
            for parcel in to_store {
                self.schedule_in(wait, Event::Store(StoreEvent::ToStore(Connection(at), parcel)));
            }
            for parcel in to_client {
                self.schedule_in(wait, Event::Store(StoreEvent::ToClient(Connection(at), parcel)));
            }
        }
        if !store.paused && store.is_up() {
            self.schedule_in(Duration::ZERO, Event::Store(StoreEvent::Timer));
        }
    }

    /// The store's process dies, with all that it held but what is on its disk.
    pub fn kill_store(&mut self, store: &mut StoreHost) {
        if store.service.take().is_none() {
            return;
        }
        let left = if store.keeps_journal() { "its journal is left" } else { "all that it held is gone" };
        self.trace.add(self.now, Who::Store, "fault", || format!("its process dies, and {left}"));
        store.reader = None;
        store.paused = false;
        for at in 0..store.lines.len() {
            if store.lines[at].client.take().is_some() {
                store.lines[at].held[1].clear();
                self.send_to_client(store, Connection(at), Parcel::Closed);
            }
        }
    }

    /// A store begins at the same address: the same one if there is a journal, else an empty one, as another life. What was
    /// decided and never said.
    pub fn restart_store(&mut self, store: &mut StoreHost) -> Option<GenerationRecord> {
        if store.is_up() {
            return None;
        }
        if store.keeps_journal() {
            store.start(self.now);
            let latest = store.service.as_ref().map_or(Version::ABSENT, |service| service.state().latest());
            self.checks.store_kept(store.answered_for, latest);
            self.trace
                .add(self.now, Who::Store, "store", || format!("it is started again, and holds all up to {latest}"));
            store.wait_as_reader(self.now);
            return self.after_service(store);
        }
        store.life += 1;
        store.start(self.now);
        let first = GenerationRecord::initial(store.generation.owners.clone());
        store.write_first(self.now, &first);
        let life = store.life;
        self.trace.add(self.now, Who::Store, "store", || format!("an empty store begins as life {life}"));
        None
    }
}

/// A value's bytes as a request to replace nothing.
pub fn create(key: String, value: Bytes, token: Token, again: bool) -> Request {
    Request::Swap(SwapRequest { key, expected: Version::ABSENT, value, token, again })
}

//! A world for sessions: it runs the real machines, carries out what they ask for, and checks what must always hold.

mod check;
mod items;
mod network;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::session::{
    Event, Input, Output, SourceConfig, SourceSession, SourceState, TargetConfig, TargetSession, TargetState,
};
use xfer_migrate_core::{Body, GenerationKind, GenerationRecord, ItemId, Message, MigrationId, PlanPolicy, Seal};
use xfer_transport_core::{Deadline, PeerId, RateInterval, RegionId, Time};

use store::Store;

pub use items::{id, owners_before, standard_items};
pub use network::{Faults, Random};

pub const SOURCE: PeerId = PeerId { rank: 1, incarnation: 3 };
pub const LEFT: PeerId = PeerId { rank: 0, incarnation: 1 };
pub const RIGHT: PeerId = PeerId { rank: 2, incarnation: 1 };

/// What the source says at the cut.
pub const RECORD: &[u8] = b"step 41";

/// The generation that is true when a world begins.
pub const BASE: u64 = 7;

/// How everything behaves when nothing goes wrong.
#[derive(Debug, Clone)]
pub struct Options {
    pub time_left: Duration,
    pub bytes_per_s: u64,
    pub latency: Duration,
    /// How long the store takes to answer, and to tell its watchers.
    pub store_delay: Duration,
    pub verify_delay: Duration,
    /// How long a death takes to be noticed.
    pub notice_of_death: Duration,
    pub memory_bytes: BTreeMap<u32, u64>,
    pub policy: PlanPolicy,
    /// When the source says that nothing is added any more; never, if it is none.
    pub cut_after: Option<Duration>,
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            time_left: Duration::from_secs(30),
            bytes_per_s: 10_000_000,
            latency: Duration::from_millis(1),
            store_delay: Duration::from_millis(2),
            verify_delay: Duration::from_millis(3),
            notice_of_death: Duration::from_millis(100),
            memory_bytes: BTreeMap::from([(0, 1 << 30), (2, 1 << 30)]),
            policy: PlanPolicy::ShipAll,
            cut_after: Some(Duration::ZERO),
            faults: Faults::default(),
        }
    }
}

/// Moments at which a test steps in, each told once it has just happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The source exists, and nothing has left it.
    Begun,
    /// A target admitted the first offer.
    Admitted(u32),
    /// The source has memory for some items.
    Granted,
    /// The first write was applied.
    FirstWritten,
    /// So many items are known to the source to have landed.
    Landed(usize),
    /// A target knows that nothing is added any more.
    CutAt(u32),
    /// The source has sent all that it sends.
    Finished,
    /// A target was asked for its last word.
    Fencing(u32),
    /// The store holds a target's seal.
    Sealed(u32),
    /// A proposal is on its way to the store.
    Proposed(u32),
    /// The store holds the next generation.
    Decided,
}

/// What a test does to the world at some moment.
type Script = Box<dyn FnOnce(&mut World)>;

/// Something that will happen.
enum Happening {
    Deliver { to: u32, from: PeerId, message: Message },
    Input { to: u32, input: Input },
    WriteEnds { item: ItemId, region: RegionId, write: u64 },
    Verify { at: u32, item: ItemId, crc32c: u32 },
    Fence { at: u32 },
    Swap { by: u32, record: GenerationRecord },
    CreateSeal { by: u32, key: String, seal: Seal },
    Watch { by: u32, keys: Vec<String> },
    Script(Script),
}

enum Session {
    Source(Box<SourceSession>),
    Target(Box<TargetSession>),
}

struct Node {
    peer: PeerId,
    alive: bool,
    session: Option<Session>,
    events: Vec<(Time, Event)>,
}

/// Granted memory of one item.
struct Memory {
    target: u32,
    item: ItemId,
    /// The digest of what is in it.
    content: Option<u32>,
    fenced: bool,
}

pub struct World {
    pub now: Time,
    pub options: Options,
    start: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    counter: u64,
    nodes: BTreeMap<u32, Node>,
    memory: BTreeMap<RegionId, Memory>,
    /// Writes under way, by item, and when the link is free again.
    writes: BTreeMap<ItemId, u64>,
    link_free_at: Time,
    sends: BTreeMap<ItemId, u32>,
    store: Store,
    random: Random,
    steps: BTreeSet<Step>,
    scripts: Vec<(Step, Script)>,
    landed_at_source: usize,
    /// When each rank died.
    deaths: BTreeMap<u32, Time>,
    /// Since when a rank takes the source for dead.
    believed: BTreeMap<u32, Time>,
    deadline: Time,
}

impl World {
    pub fn new(options: Options) -> Self {
        let start = Time::from_nanos(1_000_000_000);
        let node = |peer: PeerId| (peer.rank, Node { peer, alive: true, session: None, events: Vec::new() });
        let random = Random::new(options.faults.seed);
        let mut world = Self {
            now: start,
            deadline: start.after(options.time_left),
            options,
            start,
            queue: BTreeMap::new(),
            counter: 0,
            nodes: BTreeMap::from([node(LEFT), node(SOURCE), node(RIGHT)]),
            memory: BTreeMap::new(),
            writes: BTreeMap::new(),
            link_free_at: start,
            sends: BTreeMap::new(),
            store: Store::new(base()),
            random,
            steps: BTreeSet::new(),
            scripts: Vec::new(),
            landed_at_source: 0,
            deaths: BTreeMap::new(),
            believed: BTreeMap::new(),
        };
        let config = SourceConfig {
            source: SOURCE,
            attempt: 0,
            base: base(),
            targets: vec![LEFT.rank, RIGHT.rank],
            owners_after: owners_after(),
            deadline: Deadline(world.deadline),
            rate: RateInterval { low: world.options.bytes_per_s, high: world.options.bytes_per_s },
            reserve: Duration::from_millis(500),
            policy: world.options.policy,
        };
        let source = SourceSession::new(start, config).expect("the configuration is sound");
        world.node(SOURCE.rank).session = Some(Session::Source(Box::new(source)));
        world
    }

    /// A world in which the source offers everything at once, and cuts when its options say so.
    pub fn usual(options: Options) -> Self {
        let cut_after = options.cut_after;
        let mut world = Self::new(options);
        world.at(Duration::ZERO, |world| {
            // With no time at all, or if a script withdrew, it is too late for them.
            let _ = world.try_input(SOURCE.rank, Input::Items(standard_items()));
        });
        if let Some(after) = cut_after {
            world.at(after, |world| {
                // It may have ended by then.
                let _ = world.try_input(SOURCE.rank, Input::Cut { record: Bytes::from_static(RECORD) });
            });
        }
        world
    }

    /// Lets `script` run once `step` has happened.
    pub fn on(&mut self, step: Step, script: impl FnOnce(&mut World) + 'static) -> &mut Self {
        self.scripts.push((step, Box::new(script)));
        self
    }

    /// Lets `script` run `after` the beginning.
    pub fn at(&mut self, after: Duration, script: impl FnOnce(&mut World) + 'static) -> &mut Self {
        let at = self.start.after(after);
        self.schedule_at(at, Happening::Script(Box::new(script)));
        self
    }

    /// Runs until nothing happens any more.
    pub fn run(&mut self) {
        self.step(Step::Begun);
        self.settle(SOURCE.rank);
        // Bounded: no test needs a hundredth of it.
        for _ in 0..1_000_000 {
            let next = self.queue.keys().next().map(|(at, _)| *at);
            let timer = self.alive().filter_map(|rank| Some((self.timeout(rank)?, rank))).min();
            match (next, timer) {
                (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    let (_, happening) = self.queue.pop_first().expect("its key was just seen");
                    self.happen(happening);
                }
                (_, Some((due, rank))) => {
                    self.now = self.now.max(due);
                    self.timed_out(rank);
                    let again = self.timeout(rank);
                    assert!(again.is_none_or(|at| at > self.now), "a timer of rank {rank} is due again at once");
                }
                (_, None) => {
                    self.check_end();
                    return;
                }
            }
        }
        panic!("the world does not come to rest");
    }

    /// The process of `rank` is gone from now on.
    pub fn kill(&mut self, rank: u32) {
        if !std::mem::replace(&mut self.node(rank).alive, false) {
            return;
        }
        self.deaths.insert(rank, self.now);
        if rank == SOURCE.rank {
            self.writes.clear();
        }
        let peer = self.node(rank).peer;
        for other in self.alive().collect::<Vec<_>>() {
            let input = Input::PeerGone { peer, reason: "connection reset".to_owned() };
            self.schedule(self.options.notice_of_death, Happening::Input { to: other, input });
        }
    }

    /// The process of `rank` is told that the source is gone, which isn't so.
    pub fn believe_source_dead(&mut self, rank: u32) {
        if self.target(rank).is_some() {
            let now = self.now;
            self.believed.entry(rank).or_insert(now);
        }
        let input = Input::PeerGone { peer: SOURCE, reason: "no byte for 1 s".to_owned() };
        // It may be too late for it.
        let _ = self.try_input(rank, input);
    }

    /// The store answers nobody any more.
    pub fn lose_store(&mut self) {
        self.store.lost = true;
    }

    /// The store answers `rank` no more.
    pub fn cut_off_from_store(&mut self, rank: u32) {
        self.store.cut_off.insert(rank);
    }

    /// The store answers `rank` again, who looks at the generation.
    pub fn reconnect_to_store(&mut self, rank: u32) {
        self.store.cut_off.remove(&rank);
        let record = self.store.generation.clone();
        self.input(rank, Input::GenerationSeen { record });
    }

    /// Gives the session of `rank` an input, which it must take.
    pub fn input(&mut self, rank: u32, input: Input) {
        let name = input.name();
        if let Err(violation) = self.try_input(rank, input) {
            panic!("{name} at rank {rank}: {violation}");
        }
    }

    /// Gives the session of `rank` an input.
    pub fn try_input(&mut self, rank: u32, input: Input) -> Result<(), xfer_migrate_core::session::Violation> {
        let now = self.now;
        let node = self.node(rank);
        if !node.alive {
            return Ok(());
        }
        let result = match &mut node.session {
            Some(Session::Source(session)) => session.handle(now, input),
            Some(Session::Target(session)) => session.handle(now, input),
            None => Ok(()),
        };
        self.settle(rank);
        result
    }

    /// How many writes are under way.
    pub fn writes_under_way(&self) -> usize {
        self.writes.len()
    }

    /// What the user of `rank` was told.
    pub fn events(&self, rank: u32) -> Vec<Event> {
        self.nodes[&rank].events.iter().map(|(_, event)| event.clone()).collect()
    }

    /// When the user of `rank` was told of an event like this.
    pub fn told(&self, rank: u32, like: impl Fn(&Event) -> bool) -> Option<Duration> {
        let found = self.nodes[&rank].events.iter().find(|(_, event)| like(event));
        found.map(|(at, _)| at.since(self.start))
    }

    /// The generation that the store holds.
    pub fn generation(&self) -> &GenerationRecord {
        &self.store.generation
    }

    /// Asserts that the store's generation is of `kind`, and that every process that lives and took part was told.
    pub fn assert_ends(&self, kind: GenerationKind) -> &GenerationRecord {
        let record = self.generation();
        assert_eq!(record.kind, kind, "{}", record.reason);
        for rank in self.alive().filter(|rank| self.nodes[rank].session.is_some()) {
            let last = self.events(rank).pop();
            let told = match last {
                Some(Event::Committed { record }) => (GenerationKind::Handoff, record),
                Some(Event::Restored { record }) => (GenerationKind::Restore, record),
                Some(Event::Withdrawn { record }) => (GenerationKind::Withdrawn, record),
                other => panic!("rank {rank} was last told {other:?}"),
            };
            assert_eq!(told, (kind, record.clone()), "rank {rank}");
        }
        record
    }

    pub fn source(&self) -> &SourceSession {
        match &self.nodes[&SOURCE.rank].session {
            Some(Session::Source(session)) => session,
            _ => panic!("the source has a session from the beginning"),
        }
    }

    pub fn target(&self, rank: u32) -> Option<&TargetSession> {
        match &self.nodes[&rank].session {
            Some(Session::Target(session)) => Some(session),
            _ => None,
        }
    }

    fn node(&mut self, rank: u32) -> &mut Node {
        self.nodes.get_mut(&rank).expect("all ranks are there from the beginning")
    }

    fn alive(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter(|(_, node)| node.alive).map(|(rank, _)| *rank)
    }

    fn timeout(&self, rank: u32) -> Option<Time> {
        match self.nodes[&rank].session.as_ref()? {
            Session::Source(session) => session.poll_timeout(),
            Session::Target(session) => session.poll_timeout(),
        }
    }

    fn timed_out(&mut self, rank: u32) {
        let now = self.now;
        match &mut self.node(rank).session {
            Some(Session::Source(session)) => session.handle_timeout(now),
            Some(Session::Target(session)) => session.handle_timeout(now),
            None => {}
        }
        self.settle(rank);
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.schedule_at(self.now.after(after), happening);
    }

    fn schedule_at(&mut self, at: Time, happening: Happening) {
        self.counter += 1;
        self.queue.insert((at, self.counter), happening);
    }

    /// Runs what waits for `step`.
    fn step(&mut self, step: Step) {
        if !self.steps.insert(step) {
            return;
        }
        let (due, later) = std::mem::take(&mut self.scripts).into_iter().partition(|(at, _)| *at == step);
        self.scripts = later;
        let due: Vec<(Step, Script)> = due;
        for (_, script) in due {
            script(self);
        }
    }

    /// Does what the session of `rank` asks for, until it asks for nothing.
    fn settle(&mut self, rank: u32) {
        loop {
            let now = self.now;
            let node = self.node(rank);
            if !node.alive {
                return;
            }
            let (output, event) = match &mut node.session {
                Some(Session::Source(session)) => (session.poll_output(now), session.poll_event()),
                Some(Session::Target(session)) => (session.poll_output(now), session.poll_event()),
                None => return,
            };
            if output.is_none() && event.is_none() {
                break;
            }
            if let Some(event) = event {
                self.note(rank, event);
            }
            if let Some(output) = output {
                self.carry_out(rank, output);
            }
        }
        self.note_states(rank);
    }

    fn note(&mut self, rank: u32, event: Event) {
        let now = self.now;
        self.node(rank).events.push((now, event.clone()));
        self.check_event(rank, &event);
        match event {
            Event::Landed { .. } if rank == SOURCE.rank => {
                self.landed_at_source += 1;
                self.step(Step::Landed(self.landed_at_source));
            }
            Event::Granted if rank == SOURCE.rank => self.step(Step::Granted),
            _ => {}
        }
    }

    fn note_states(&mut self, rank: u32) {
        let step = match self.nodes[&rank].session.as_ref() {
            Some(Session::Source(session)) if session.state() == SourceState::Finished => Step::Finished,
            Some(Session::Target(session)) => match session.state() {
                TargetState::Receiving => Step::Admitted(rank),
                TargetState::Cut => Step::CutAt(rank),
                TargetState::Fencing => Step::Fencing(rank),
                _ => return,
            },
            _ => return,
        };
        self.step(step);
    }

    fn carry_out(&mut self, rank: u32, output: Output) {
        self.check_output(rank, &output);
        match output {
            Output::Send { to, message } => self.send(rank, to, message),
            Output::Write { item, to, remote, .. } => self.write(item, to, remote.id),
            Output::Compare { item, .. } => panic!("nobody has kept anything of item {item}"),
            Output::Withdraw { item } => self.cancel_write(item),
            Output::Allocate { items } => self.allocate(rank, items),
            Output::Verify { item, crc32c } => {
                self.schedule(self.options.verify_delay, Happening::Verify { at: rank, item, crc32c });
            }
            Output::FenceAll => self.schedule(self.options.latency, Happening::Fence { at: rank }),
            Output::PublishSeal { key, seal } => {
                self.schedule(self.options.store_delay, Happening::CreateSeal { by: rank, key, seal });
            }
            Output::WatchSeals { keys } => {
                self.schedule(self.options.store_delay, Happening::Watch { by: rank, keys });
            }
            Output::Propose { record } => {
                self.schedule(self.options.store_delay, Happening::Swap { by: rank, record });
                self.step(Step::Proposed(rank));
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { to, from, message } => self.deliver(to, from, message),
            Happening::Input { to, input } => self.input(to, input),
            Happening::WriteEnds { item, region, write } => self.write_ends(item, region, write),
            Happening::Verify { at, item, crc32c } => self.verify(at, item, crc32c),
            Happening::Fence { at } => self.fence(at),
            Happening::Swap { by, record } => self.swap(by, record),
            Happening::CreateSeal { by, key, seal } => self.create_seal(by, key, seal),
            Happening::Watch { by, keys } => self.watch(by, keys),
            Happening::Script(script) => script(self),
        }
    }

    /// A message arrives. A target's session begins with the first offer.
    fn deliver(&mut self, to: u32, from: PeerId, message: Message) {
        // Who is known to be dead is not listened to any more.
        if self.deaths.get(&from.rank).is_some_and(|at| self.now >= at.after(self.options.notice_of_death)) {
            return;
        }
        let (me, seen) = (self.node(to).peer, self.store.generation.clone());
        let memory_bytes = self.options.memory_bytes.get(&to).copied().unwrap_or(0);
        let is_first = matches!(&message.body, Body::Offer(offer) if offer.sequence == 0);
        let node = self.node(to);
        if node.session.is_none() && is_first {
            let config = TargetConfig { me, migration: message.migration, base: seen, memory_bytes };
            node.session = Some(Session::Target(Box::new(TargetSession::new(config))));
        }
        // Messages may be repeated and come in any order when faults say so; then some of them are refused.
        let lenient = self.options.faults.is_disorderly();
        let what = message.body.name();
        match self.try_input(to, Input::Message { from, message }) {
            Err(violation) if !lenient => panic!("{what} at rank {to}: {violation}"),
            _ => {}
        }
    }
}

pub fn migration() -> MigrationId {
    MigrationId { source: SOURCE, generation: BASE, attempt: 0 }
}

pub fn base() -> GenerationRecord {
    GenerationRecord { generation: BASE, base: BASE, ..GenerationRecord::initial(owners_before()) }
}

pub fn owners_after() -> Vec<(String, u32)> {
    vec![("layers.0-5".to_owned(), LEFT.rank), ("layers.6-11".to_owned(), RIGHT.rank)]
}

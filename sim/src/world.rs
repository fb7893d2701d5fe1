//! Runs a scenario: faults first, with every promise looked at; then all heals, and the job has to come to rest and go on.

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xfer_migrate_core::{GenerationRecord, limits};
use xfer_transport_core::path::PathConfig;
use xfer_transport_core::schedule::Windows;
use xfer_transport_core::{PeerId, Time};

use crate::check::{Broken, Seen};
use crate::client::CALL_TIMEOUT;
use crate::endpoint::Endpoint;
use crate::happening::{Happening, When};
use crate::network::{End, Network, Packet, WireId};
use crate::node::{Ending, Node};
use crate::outside::{Address, Event, Outside};
use crate::random::Random;
use crate::scenario::{CHUNK_BYTES, Scenario, WINDOW_BYTES};
use crate::step::Step;
use crate::store::{StoreEvent, StoreHost};
use crate::trace::{Trace, Who};

/// Events after which a run is said not to end: a hundred times what any run takes.
const EVENTS_MAX: u64 = 5_000_000;

/// How long the job may take to come to rest once all is well: all bounds of both sessions one after the other.
const REST: Duration = Duration::from_secs(
    limits::GENERATION_GRACE.as_secs() + limits::PROPOSAL_TIMEOUT.as_secs() + limits::SEAL_GRACE.as_secs() + 5,
);

/// How long somebody may not know the latest generation although all is well: a watcher whose answer was lost with half a frame waits
/// for the rest of it as long as a call may take.
const TOLD: Duration = Duration::from_millis(CALL_TIMEOUT.as_millis() as u64 + 1_000);

/// What the follow-up hand-over may take, with nothing in its way.
const FOLLOW_UP: Duration = Duration::from_secs(10);

/// A run that is over.
#[derive(Debug)]
pub struct Outcome {
    /// The promise that was broken, if one was.
    pub broken: Option<Broken>,
    /// How many events there were.
    pub events: u64,
    /// How long it took in virtual time.
    pub took: Duration,
    /// Every generation that was true.
    pub history: Vec<GenerationRecord>,
    /// How many of them there were when all healed.
    pub decided: usize,
    /// How migrations ended, for whom, until all healed.
    pub endings: Vec<(PeerId, Ending)>,
    /// What was seen on the side until all healed.
    pub seen: Seen,
    /// Whether a follow-up hand-over was possible, and committed.
    pub followed_up: bool,
    /// Steps that were reached.
    pub steps: BTreeSet<Step>,
    /// What happened, if lines were kept.
    pub trace: Trace,
}

/// A running scenario.
#[derive(Debug)]
pub struct World {
    /// Everything around the processes.
    pub out: Outside,
    /// The store's process.
    pub store: StoreHost,
    /// All processes that ever were.
    pub nodes: BTreeMap<PeerId, Node>,
    scenario: Scenario,
    waiting: Vec<(When, Happening)>,
    steps: BTreeSet<(Step, Option<u32>)>,
    events: u64,
    healed: bool,
    deadline: Time,
    withdrawals: BTreeMap<PeerId, usize>,
}

/// Runs a scenario to its end; with `keeps`, the trace has its lines.
pub fn run(scenario: Scenario, keeps: bool) -> Outcome {
    let mut world = World::new(scenario, keeps);
    world.with_faults();
    let endings = world.endings();
    let reached: BTreeSet<Step> = world.steps.iter().map(|(step, _)| *step).collect();
    let decided = world.out.checks.history.len();
    let seen = world.out.checks.seen;
    world.heal();
    let followed_up = world.recover();
    world.out.trace.add(world.out.now, Who::World, "end", || match world.out.checks.broken() {
        Some(broken) => format!("BROKEN {broken}"),
        None => "all promises were kept".to_owned(),
    });
    Outcome {
        broken: world.out.checks.broken().cloned(),
        events: world.events,
        took: world.out.now.since(Time::ZERO),
        history: std::mem::take(&mut world.out.checks.history),
        endings,
        seen,
        decided,
        followed_up,
        steps: reached,
        trace: world.out.trace,
    }
}

impl World {
    /// A world at its beginning.
    pub fn new(scenario: Scenario, keeps: bool) -> Self {
        let random = Random::new(scenario.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x51f0);
        let network = Network::new(scenario.ranks as usize + 1, scenario.usual, scenario.pipe_bytes);
        let first = GenerationRecord::initial(scenario.owners.clone());
        let trace = Trace::new(keeps);
        let mut out = Outside::new(scenario.ranks as usize, network, random, trace, scenario.work_delay);
        out.checks.window_bytes = WINDOW_BYTES;
        out.checks.history.push(first.clone());
        let mut world = Self {
            store: StoreHost::new(Time::ZERO, first, scenario.keeps_journal),
            out,
            nodes: BTreeMap::new(),
            waiting: Vec::new(),
            steps: BTreeSet::new(),
            events: 0,
            healed: false,
            deadline: Time::ZERO,
            withdrawals: BTreeMap::new(),
            scenario,
        };
        for rank in 0..world.scenario.ranks {
            world.begin(PeerId { rank, incarnation: 1 }, 1);
        }
        for (when, what) in world.scenario.timeline.clone() {
            match when {
                When::At(at) => world.out.schedule(Time::ZERO.after(at), Event::Happening(what)),
                When::On(..) => world.waiting.push((when, what)),
            }
        }
        let heal_at = Time::ZERO.after(world.scenario.heal_at);
        world.out.schedule(heal_at, Event::Heal);
        world
    }

    /// A process begins, and owns what the store says that its rank owns.
    fn begin(&mut self, id: PeerId, version: u64) {
        let out = &mut self.out;
        let nonce = out.random.number();
        // No two clocks share an origin; the differences are of hours, so that a mixed-up reading can't pass for right.
        let clock = Duration::from_millis(out.random.between(1, 36_000_000));
        let mut windows = Windows::default();
        windows.bytes = windows.bytes.map(|_| WINDOW_BYTES);
        let config = PathConfig { chunk_bytes: CHUNK_BYTES, windows };
        let endpoint = Endpoint::new(id, nonce, clock, config, self.scenario.data_links);
        let known = self.out.checks.history.last().cloned().unwrap_or_else(|| self.store.generation.clone());
        let mut node = Node::new(id, endpoint, self.out.random.number(), known.clone());
        let mine = known.owners.iter().filter(|(_, rank)| *rank == id.rank);
        for (name, _) in mine {
            node.load_shard(&mut self.out, &self.scenario.habits, name, version);
        }
        self.out.directory[id.rank as usize] = Some(Address { id, nonce });
        node.clients.start(&mut self.out, &mut self.store);
        let first_look = self.out.random.within(Duration::from_millis(20));
        self.out.schedule_in(first_look, Event::Wake(id));
        self.nodes.insert(id, node);
    }

    /// The process that has a rank now.
    pub fn current(&self, rank: u32) -> Option<PeerId> {
        let address = self.out.directory.get(rank as usize).copied().flatten()?;
        self.nodes.get(&address.id).filter(|node| node.alive).map(|node| node.id)
    }

    fn is_over(&self) -> bool {
        self.out.checks.broken().is_some() || self.events >= EVENTS_MAX
    }

    /// The first phase: until everything heals.
    fn with_faults(&mut self) {
        while !self.healed && !self.is_over() && self.step(Time::MAX) {}
    }

    /// The next event; `false` if there is none before `until`.
    fn step(&mut self, until: Time) -> bool {
        let Some(event) = self.out.next_event(until) else { return false };
        self.events += 1;
        if self.events >= EVENTS_MAX {
            self.out.checks.fail("P9", "the run does not come to an end".to_owned());
        }
        match event {
            Event::Arrive { wire, from } => self.arrive(wire, from),
            Event::Room { wire, from } => {
                if let End::Open { process, link } = self.out.network.wire(wire).ends[from] {
                    self.with(process, |node, out, _| node.endpoint.pump_link(out, link));
                }
            }
            Event::Wake(process) => self.on_process(process, Event::Wake(process)),
            Event::Done { process, work } => self.on_process(process, Event::Done { process, work }),
            Event::Store(event) => self.on_store(event),
            // What users have begun goes on; nothing new goes wrong once all is well.
            Event::Happening(what) if self.healed && !goes_on(&what) => {}
            Event::Happening(what) => self.happen(&what),
            Event::Heal => self.healed = true,
        }
        self.look_at_steps();
        true
    }

    /// Lets a process do something, if it lives; a stopped one does it later.
    fn on_process(&mut self, process: PeerId, event: Event) {
        let stopped = self.out.paused.contains(&process);
        let Some(node) = self.nodes.get_mut(&process).filter(|node| node.alive) else { return };
        if stopped {
            node.deferred.push(event);
            return;
        }
        let (out, store, habits) = (&mut self.out, &mut self.store, &self.scenario.habits);
        match event {
            Event::Wake(_) => node.wake(out, store, habits),
            Event::Done { work, .. } => node.work_done(out, store, habits, work),
            _ => {}
        }
    }

    /// Lets a process that lives and isn't stopped do something, and take in what follows.
    fn with(&mut self, process: PeerId, act: impl FnOnce(&mut Node, &mut Outside, &mut StoreHost)) {
        let Some(node) = self.nodes.get_mut(&process).filter(|node| node.alive) else { return };
        act(node, &mut self.out, &mut self.store);
        node.turn(&mut self.out, &mut self.store, &self.scenario.habits);
    }

    fn on_store(&mut self, event: StoreEvent) {
        let decided = match event {
            StoreEvent::ToStore(connection, parcel) => self.out.at_store(&mut self.store, connection, parcel),
            StoreEvent::Timer => self.out.store_timer(&mut self.store),
            StoreEvent::ToClient(connection, parcel) => {
                if let Some(process) = self.out.reaches_client(&mut self.store, connection, &parcel) {
                    self.with(process, |node, out, store| node.clients.receive(out, store, connection, parcel));
                }
                None
            }
        };
        self.decided(decided);
    }

    fn decided(&mut self, record: Option<GenerationRecord>) {
        let Some(record) = record else { return };
        let text = format!("generation {}: {}, owners {:?}", record.generation, record.kind, record.owners);
        self.out.trace.add(self.out.now, Who::Store, "store", || text);
        self.out.checks.decided(&self.out.memory, &record);
        if let Some(source) = record.source {
            self.out.reach(Step::Release, source);
        }
    }

    fn restart_store(&mut self) {
        let decided = self.out.restart_store(&mut self.store);
        self.decided(decided);
    }

    /// The front of a pipe arrives.
    fn arrive(&mut self, wire: WireId, from: usize) {
        let to = 1 - from;
        let line = self.out.network.line(wire, from);
        let connection = self.out.network.wire(wire);
        let (end, rank) = (connection.ends[to], connection.ranks[to]);
        let pipe = &mut connection.pipes[from];
        pipe.scheduled = false;
        if line.cut {
            return;
        }
        let halfway = pipe.halfway;
        let Some(packet) = pipe.front().cloned() else { return };
        match (end, packet) {
            (End::Closed, _) => {
                self.out.network.wire(wire).pipes[from].lose();
                self.out.network.wire(wire).pipes[from].take();
                return;
            }
            (End::Expected, Packet::Open) => self.call_arrives(wire, rank),
            (End::Expected, _) => {}
            (End::Open { process, .. }, _) if self.out.paused.contains(&process) => return,
            (End::Open { process, .. }, _) if !self.nodes.get(&process).is_some_and(|node| node.alive) => {}
            (End::Open { process, link }, Packet::Frame { header, payload }) => {
                if halfway {
                    self.with(process, |node, out, _| node.endpoint.finish_frame(out, link, &payload));
                } else {
                    let mut is_chunk = false;
                    self.with(process, |node, out, _| {
                        is_chunk = node.endpoint.begin_frame(out, link, &header, &payload, false);
                    });
                    let still_there = matches!(self.out.network.wire(wire).ends[to], End::Open { .. });
                    if is_chunk && still_there {
                        let nanos = payload.len() as u64 * 500_000_000 / line.bytes_per_s.max(1);
                        self.out.network.wire(wire).pipes[from].halfway = true;
                        self.out.schedule_front(wire, from, Duration::from_nanos(nanos));
                        return;
                    }
                }
            }
            (End::Open { process, link }, Packet::Torn { header, payload }) => {
                self.with(process, |node, out, _| {
                    let _ = node.endpoint.begin_frame(out, link, &header, &payload, true);
                });
            }
            (End::Open { process, link }, Packet::Gone { reset }) => {
                self.with(process, |node, out, _| node.endpoint.on_gone(out, link, reset));
            }
            (End::Open { .. }, Packet::Open) => {}
        }
        let had_room = self.out.network.has_room(wire, from);
        self.out.network.wire(wire).pipes[from].take();
        if !had_room && self.out.network.has_room(wire, from) {
            self.out.schedule_in(line.delay, Event::Room { wire, from });
        }
        self.out.schedule_front(wire, from, Duration::ZERO);
    }

    /// Somebody calls the machine of `rank`.
    fn call_arrives(&mut self, wire: WireId, rank: u32) {
        let callee = self.current(rank);
        let takes = callee.is_some_and(|callee| self.nodes[&callee].endpoint.has_descriptors);
        let Some(callee) = callee.filter(|_| takes) else {
            self.out.network.wire(wire).ends[1] = End::Closed;
            self.out.put(wire, 1, Packet::Gone { reset: true });
            return;
        };
        let mut link = None;
        self.with(callee, |node, out, _| link = Some(node.endpoint.accept(out, wire)));
        if let Some(link) = link {
            self.out.network.wire(wire).ends[1] = End::Open { process: callee, link };
        }
    }

    /// Steps that were reached begin what waits for them.
    fn look_at_steps(&mut self) {
        while let Some((step, process)) = self.out.reached.pop_front() {
            let anybody = self.steps.insert((step, None));
            let here = self.steps.insert((step, Some(process.rank)));
            if !anybody && !here {
                continue;
            }
            let now = self.out.now;
            let mut due = Vec::new();
            self.waiting.retain(|(when, what)| {
                let When::On(on, rank, after) = when else { return true };
                let is_due = *on == step
                    && match rank {
                        None => anybody,
                        Some(rank) => here && *rank == process.rank,
                    };
                if is_due {
                    due.push((now.after(*after), what.clone()));
                }
                !is_due
            });
            for (at, what) in due {
                // Whatever is waited for at the very moment happens before anything else does.
                if at == now { self.happen(&what) } else { self.out.schedule(at, Event::Happening(what)) }
            }
        }
    }

    fn endings(&self) -> Vec<(PeerId, Ending)> {
        let endings =
            self.nodes.values().flat_map(|node| node.endings.iter().map(|(_, ending)| (node.id, ending.clone())));
        endings.collect()
    }

    // The second phase.

    /// All faults are over.
    fn heal(&mut self) {
        if self.is_over() {
            return;
        }
        self.waiting.clear();
        self.out.trace.add(self.out.now, Who::World, "fault", || "all faults are over".to_owned());
        let usual = self.scenario.usual;
        self.out.network.each_condition(|condition| *condition = usual);
        self.out.network.mistreatment = Default::default();
        self.out.failing_allocations.iter_mut().for_each(|left| *left = 0);
        let paused: Vec<PeerId> = self.out.paused.iter().copied().collect();
        for process in paused {
            self.resume(process);
        }
        for node in self.nodes.values_mut() {
            node.endpoint.has_descriptors = true;
            node.endpoint.version = xfer_transport_core::frame::VERSION;
            node.endpoint.job = "job".to_owned();
        }
        self.store.paused = false;
        self.store.tear_next_write(false);
        self.restart_store();
        self.out.release_held();
        self.out.release_held_by_store(&mut self.store);
    }

    /// Everybody comes to rest; then somebody hands over with nothing in the way, and that commits. Whether it did.
    fn recover(&mut self) -> bool {
        let bound = self.deadline.max(self.out.now).after(REST);
        while !self.is_over() && !self.rests() {
            if !self.step(bound) {
                let who: Vec<String> =
                    self.nodes.values().filter(|node| node.alive && !rests(node)).map(why_restless).collect();
                self.out.checks.fail("P9", format!("not at rest: {}", who.join("; ")));
            }
        }
        if self.is_over() {
            return false;
        }
        let settled = self.out.now.after(Duration::from_secs(2));
        while !self.is_over() && self.step(settled) {}
        let told = self.out.now.after(TOLD);
        while !self.is_over() && !self.all_know() && self.step(told) {}
        let bound = self.out.now.after(REST);
        while !self.is_over() && !self.all_connected() {
            if !self.step(bound) {
                self.out.checks.fail("P9", "processes that live and reach each other don't connect".to_owned());
            }
        }
        self.check_rest();
        !self.is_over() && self.follow_up()
    }

    fn rests(&self) -> bool {
        self.nodes.values().filter(|node| node.alive).all(rests)
    }

    /// Whether everybody is connected to the present life of every other rank.
    fn all_connected(&self) -> bool {
        let present: Vec<PeerId> = (0..self.scenario.ranks).filter_map(|rank| self.current(rank)).collect();
        present.iter().all(|here| {
            let endpoint = &self.nodes[here].endpoint;
            present.iter().all(|there| here == there || endpoint.peer(there.rank) == Some(*there))
        })
    }

    /// Whether everybody knows the generation that is true.
    fn all_know(&self) -> bool {
        let last = self.out.checks.history.last().map_or(0, |record| record.generation);
        self.nodes.values().filter(|node| node.alive).all(|node| node.generation.generation == last)
    }

    /// P4, P13: everybody who lives and reaches the store knows the same generation. P1: nothing is left open.
    fn check_rest(&mut self) {
        for node in self.nodes.values().filter(|node| node.alive) {
            self.out.checks.at_rest(node.id);
            let known = node.generation.generation;
            let last = self.out.checks.history.last().map_or(0, |record| record.generation);
            if self.store.life() == 1 && known != last {
                self.out.checks.fail("P4", format!("{} knows generation {known}, and {last} is true", node.id));
            }
        }
    }

    /// One more hand-over with nothing in its way.
    fn follow_up(&mut self) -> bool {
        if self.store.life() != 1 {
            return false;
        }
        let free: Vec<PeerId> = (0..self.scenario.ranks)
            .filter_map(|rank| self.current(rank))
            .filter(|id| self.nodes[id].leaving.is_none())
            .collect();
        let owner = (0..self.scenario.ranks).filter_map(|rank| self.current(rank)).find(|id| {
            let node = &self.nodes[id];
            let owns =
                node.generation.owners.iter().any(|(name, rank)| *rank == id.rank && node.shards.contains_key(name));
            owns && free.iter().any(|other| other != id)
        });
        let Some(owner) = owner else { return false };
        let targets: Vec<u32> = free.iter().filter(|id| **id != owner).map(|id| id.rank).collect();
        let until = self.out.now.after(FOLLOW_UP);
        let before = self.out.checks.history.len();
        let habits = self.scenario.habits.clone();
        self.scenario.habits.memory_bytes.clear();
        let mut begun = false;
        self.with(owner, |node, out, _| {
            begun = node.hand_over(out, &habits, &targets, FOLLOW_UP * 2);
            node.offer(out, true);
            node.cut(out);
        });
        if self.out.random.per_mille(500) {
            self.waiting.push((When::On(Step::Bulk, None, Duration::ZERO), Happening::BreakOneWire(owner.rank)));
            self.steps.clear();
        }
        if !begun {
            self.out.checks.fail("P9", format!("{owner} can't hand over again after all is well"));
        }
        while !self.is_over() {
            let decided = self.out.checks.history.len() > before;
            if decided && self.rests() {
                break;
            }
            if !self.step(until) {
                let why = why_restless(&self.nodes[&owner]);
                self.out.checks.fail("P9", format!("a hand-over with nothing in its way does not end: {why}"));
            }
        }
        let record = self.out.checks.history.last();
        let committed = record.is_some_and(|record| record.kind == xfer_migrate_core::GenerationKind::Handoff);
        if !committed && !self.is_over() {
            let reason = record.map_or(String::new(), |record| format!("{}: {}", record.kind, record.reason));
            self.out.checks.fail("P9", format!("a hand-over with nothing in its way ends otherwise: {reason}"));
        }
        committed
    }
}

/// Whether something still happens once all is well: what users have begun, and the loss of one connection of several.
fn goes_on(what: &Happening) -> bool {
    matches!(what, Happening::Delta(_) | Happening::Cut(_) | Happening::BreakOneWire(_))
}

fn rests(node: &Node) -> bool {
    node.rests() && node.endpoint.unfinished() == (0, 0)
}

fn why_restless(node: &Node) -> String {
    let source = node.source.as_ref().map_or("-", |run| run.session.state().name());
    let targets: Vec<&str> = node.targets.values().map(|run| run.session.state().name()).collect();
    let (running, held) = node.endpoint.unfinished();
    format!("{}: source {source}, targets {targets:?}, {running} transfers, {held} held back", node.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_does_the_same_and_another_seed_does_not() {
        let lines = |seed| -> Vec<String> {
            run(Scenario::of_seed(seed), true).trace.lines().iter().map(ToString::to_string).collect()
        };
        assert_eq!(lines(12), lines(12));
        assert_ne!(lines(12), lines(13));
    }

    #[test]
    fn when_nothing_goes_wrong_everything_commits() {
        let outcome = run(Scenario::quiet(1), false);
        assert_eq!(outcome.broken, None);
        assert!(outcome.history[1..].iter().all(|record| record.kind == xfer_migrate_core::GenerationKind::Handoff));
        assert!(outcome.decided == 2 && outcome.followed_up);
    }

    #[test]
    fn some_hundred_seeds_keep_every_promise() {
        for seed in 0..300 {
            let outcome = run(Scenario::of_seed(seed), false);
            assert_eq!(outcome.broken, None, "seed {seed}");
        }
    }
}

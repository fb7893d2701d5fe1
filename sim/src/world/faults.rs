//! What a scenario does to a world, carried out.

use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::{Body, Cut, GenerationKind, Message};
use xfer_transport_core::limits::FRAME_HEADER_BYTES;
use xfer_transport_core::{PeerId, Place, RemoteRegion};

use super::World;
use crate::happening::Happening;
use crate::memory::Use;
use crate::network::{End, Packet, WireId};
use crate::node::Ending;
use crate::outside::Event;
use crate::trace::Who;

impl World {
    pub(super) fn happen(&mut self, what: &Happening) {
        let kind = match what {
            Happening::Notice { .. } | Happening::Delta(_) | Happening::Cut(_) | Happening::Withdraw(_) => "user",
            _ => "fault",
        };
        self.out.trace.add(self.out.now, Who::World, kind, || what.to_string());
        match what {
            Happening::Notice { rank, left } => self.notice(*rank, *left),
            Happening::Delta(rank) => self.at(*rank, |world, id| world.with(id, |node, out, _| node.offer(out, true))),
            Happening::Cut(rank) => self.at(*rank, |world, id| world.with(id, |node, out, _| node.cut(out))),
            Happening::Withdraw(rank) => self.at(*rank, |world, id| world.with(id, |node, out, _| node.stay(out))),
            Happening::Kill { rank, silently } => {
                if let Some(id) = self.current(*rank) {
                    self.kill(id, *silently);
                }
            }
            Happening::Restart(rank) => self.restart(*rank),
            Happening::Pause(rank) => self.at(*rank, |world, id| _ = world.out.paused.insert(id)),
            Happening::Resume(rank) => {
                let paused: Vec<PeerId> = self.out.paused.iter().filter(|id| id.rank == *rank).copied().collect();
                paused.into_iter().for_each(|id| self.resume(id));
            }
            Happening::CutLine { from, to } => self.line(*from, *to, true),
            Happening::MendLine { from, to } => {
                self.line(*from, *to, false);
                self.out.release_held();
                self.out.release_held_by_store(&mut self.store);
            }
            Happening::BreakWires(a, b) => {
                for wire in self.wires_of(*a) {
                    if self.out.network.wire(wire).ranks.contains(b) {
                        self.out.break_wire(wire);
                    }
                }
            }
            Happening::BreakOneWire(rank) => self.break_one(*rank),
            Happening::Slow { bytes_per_s, jitter } => {
                self.out.network.each_condition(|condition| {
                    condition.bytes_per_s = *bytes_per_s;
                    condition.jitter = *jitter;
                });
            }
            Happening::Mistreat(how) => self.out.network.mistreatment = *how,
            Happening::KillStore => self.out.kill_store(&mut self.store),
            Happening::RestartStore => self.restart_store(),
            Happening::TearJournal => self.store.tear_next_write(true),
            Happening::PauseStore => self.store.paused = true,
            Happening::ResumeStore => {
                self.store.paused = false;
                self.out.release_held_by_store(&mut self.store);
            }
            Happening::FailAllocations(rank, times) => self.out.failing_allocations[*rank as usize] = *times,
            Happening::Descriptors(rank, there) => {
                self.at(*rank, |world, id| world.with(id, |node, _, _| node.endpoint.has_descriptors = *there));
            }
            Happening::Busy(rank, time) => {
                self.at(*rank, |world, id| world.with(id, |node, out, _| node.keep_busy(out.now, *time)));
            }
            Happening::ChangeSource(rank) => {
                self.at(*rank, |world, id| world.with(id, |node, out, _| node.change_source(out)));
            }
            Happening::Decay(rank) => {
                self.at(*rank, |world, id| {
                    if let Some(node) = world.nodes.get(&id) {
                        node.decay(&mut world.out);
                    }
                });
            }
            Happening::OtherVersion(rank) => {
                self.at(*rank, |world, id| world.with(id, |node, _, _| node.endpoint.version += 1));
            }
            Happening::OtherJob(rank) => {
                self.at(*rank, |world, id| world.with(id, |node, _, _| node.endpoint.job = "another".to_owned()));
            }
            Happening::Garbage(rank) => self.garbage(*rank),
            Happening::Intrude(rank) => self.intrude(*rank),
            Happening::Replay(rank) => self.replay(*rank),
            // Nothing in a core reads a wall clock, and nothing here has one: the line in the trace is all there is.
            Happening::WallJump(..) => {}
        }
    }

    fn at(&mut self, rank: u32, act: impl FnOnce(&mut Self, PeerId)) {
        if let Some(id) = self.current(rank) {
            act(self, id);
        }
    }

    fn notice(&mut self, rank: u32, left: Duration) {
        let Some(id) = self.current(rank).filter(|id| !self.out.paused.contains(id)) else { return };
        let targets: Vec<u32> = self.scenario.targets.get(&rank).cloned().unwrap_or_default();
        // An operator names those that are there and stay.
        let targets: Vec<u32> = targets
            .into_iter()
            .filter(|target| self.current(*target).is_some_and(|id| self.nodes[&id].leaving.is_none()))
            .collect();
        self.deadline = self.deadline.max(self.out.now.after(left));
        let habits = self.scenario.habits.clone();
        self.with(id, |node, out, _| {
            // With nobody to take over there is nothing to begin.
            if !targets.is_empty() {
                node.hand_over(out, &habits, &targets, left);
            }
        });
        let [delta, cut] = self.scenario.pace;
        self.out.schedule_in(delta, Event::Happening(Happening::Delta(rank)));
        self.out.schedule_in(delta + cut, Event::Happening(Happening::Cut(rank)));
        if self.scenario.retries {
            self.retry_later(id, left);
        }
    }

    /// A first attempt that came to nothing is followed by another one, while there is time.
    fn retry_later(&mut self, id: PeerId, left: Duration) {
        let attempts = self.withdrawals.entry(id).or_default();
        *attempts += 1;
        if *attempts > 2 {
            return;
        }
        let withdrawn = self.nodes[&id]
            .endings
            .iter()
            .any(|(_, ending)| matches!(ending, Ending::Record(record) if record.kind == GenerationKind::Withdrawn));
        let again = left.saturating_sub(left / 3);
        if withdrawn || *attempts == 1 {
            self.out.schedule_in(left / 3, Event::Happening(Happening::Notice { rank: id.rank, left: again }));
        }
    }

    /// A process dies.
    fn kill(&mut self, id: PeerId, silently: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.alive = false;
        node.endpoint.die(&mut self.out, silently);
        self.out.paused.remove(&id);
    }

    /// A new life of a rank begins; an earlier one that is stopped knows nothing of it.
    fn restart(&mut self, rank: u32) {
        let earlier = self.out.directory[rank as usize].map(|address| address.id);
        if let Some(id) = earlier.filter(|id| !self.out.paused.contains(id)) {
            self.kill(id, false);
        }
        let incarnation = earlier.map_or(0, |id| id.incarnation) + 1;
        self.begin(PeerId { rank, incarnation }, 1);
    }

    pub(super) fn resume(&mut self, id: PeerId) {
        if !self.out.paused.remove(&id) {
            return;
        }
        self.out.checks.resumed(id.rank, self.out.now);
        let deferred = self.nodes.get_mut(&id).map(|node| std::mem::take(&mut node.deferred)).unwrap_or_default();
        // What has arrived is read before anybody looks at the clock.
        for wire in self.wires_of(id.rank) {
            for from in 0..2 {
                self.out.schedule_front(wire, from, Duration::ZERO);
            }
        }
        self.out.release_held_by_store(&mut self.store);
        for event in deferred {
            self.out.schedule_in(Duration::from_micros(50), event);
        }
    }

    fn line(&mut self, from: Option<u32>, to: Option<u32>, cut: bool) {
        let store = self.out.network.store();
        let machine = |rank: Option<u32>| rank.map_or(store, |rank| rank as usize);
        self.out.network.condition_mut(machine(from), machine(to)).cut = cut;
    }

    fn wires_of(&self, rank: u32) -> Vec<WireId> {
        let wires = self.out.network.wires();
        wires.filter(|(_, wire)| wire.ranks.contains(&rank)).map(|(id, _)| id).collect()
    }

    /// What a rank sent last is sent once more: its frames over the connections that carried them, and the messages of
    /// its sessions as if they were new.
    fn replay(&mut self, rank: u32) {
        for wire in self.wires_of(rank) {
            for end in 0..2 {
                let ends = self.out.network.wire(wire).ends;
                let is_mine = matches!(ends[end], End::Open { process, .. } if process.rank == rank);
                if is_mine && matches!(ends[1 - end], End::Open { .. }) {
                    for (header, payload) in self.out.sent_last.get(&(wire, end)).cloned().unwrap_or_default() {
                        self.out.put(wire, end, Packet::Frame { header, payload });
                    }
                }
            }
        }
        self.at(rank, |world, id| world.with(id, |node, out, _| node.say_again(out)));
    }

    /// One connection breaks, of the first pair of processes that has several.
    fn break_one(&mut self, rank: u32) {
        let is_open = |end: &End| matches!(end, End::Open { .. });
        let wires = self.out.network.wires();
        let open: Vec<(WireId, [u32; 2])> = wires
            .filter(|(_, wire)| wire.ranks.contains(&rank) && wire.ends.iter().all(is_open))
            .map(|(id, wire)| (id, wire.ranks))
            .collect();
        let links = |at: u32, to: u32| self.current(at).map_or(0, |id| self.nodes[&id].endpoint.links_to(to));
        let several = open.iter().find(|(_, [a, b])| links(*a, *b) > 1 && links(*b, *a) > 1);
        if let Some((wire, _)) = several.copied() {
            self.out.break_wire(wire);
        }
    }

    /// A rank's connections carry bytes that are no frames.
    fn garbage(&mut self, rank: u32) {
        for wire in self.wires_of(rank) {
            for end in 0..2 {
                let ends = self.out.network.wire(wire).ends;
                let is_mine = matches!(ends[end], End::Open { process, .. } if process.rank == rank);
                if is_mine && !matches!(ends[1 - end], End::Closed) {
                    let header = [0xa5; FRAME_HEADER_BYTES];
                    self.out.put(wire, end, Packet::Frame { header, payload: Bytes::from_static(b"garbage") });
                }
            }
        }
    }

    /// A rank that has no part in a migration tries to take one: it says what only the source may say, refuses what
    /// only a target may refuse, and writes into memory that was granted to somebody else.
    fn intrude(&mut self, rank: u32) {
        let Some(id) = self.current(rank) else { return };
        let source = self.nodes.values().find_map(|node| node.source.as_ref().filter(|_| node.id != id));
        let Some((migration, total_items)) =
            source.map(|run| (run.session.migration(), run.session.manifest().len() as u32))
        else {
            return;
        };
        let grants: Vec<_> = self.out.checks.grants().collect();
        let others: Vec<PeerId> =
            (0..self.scenario.ranks).filter(|other| *other != rank).filter_map(|other| self.current(other)).collect();
        let mine = (self.out.memory.add(id, vec![0xee; 64], Use::Owned), (0, 64));
        for (region, memory) in grants {
            if matches!(self.out.memory.state(memory), Use::Granted(to) if to == id) {
                continue;
            }
            let (owner, len_bytes) = (self.out.memory.owner(memory), self.out.memory.bytes(memory).len() as u64);
            let remote = RemoteRegion { id: region, len_bytes, place: Place::Host };
            self.with(id, |node, out, _| _ = node.endpoint.write(out, owner, mine, remote, None, u64::MAX));
        }
        for to in others {
            let record = Bytes::from_static(b"forged");
            let cut = Body::Cut(Cut { total_items, record });
            let refuse = Body::Refuse { refusal: xfer_migrate_core::Refusal::Leaving { rank } };
            for body in [cut, refuse] {
                let payload = Message { migration, body }.encode();
                self.with(id, |node, out, _| node.endpoint.send(out, to, payload));
            }
        }
    }
}

//! Messages, writes and memory of a world, and what goes wrong with them.

use std::collections::BTreeMap;
use std::time::Duration;

use xfer_migrate_core::session::Input;
use xfer_migrate_core::{ItemId, Message};
use xfer_transport_core::{Place, RegionId, RemoteRegion};

use super::{Happening, Memory, SOURCE, Session, Step, World};

/// What goes wrong on the way.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub seed: u64,
    /// Messages out of a hundred that come twice.
    pub repeated_percent: u64,
    /// Each message is late by up to this, so that later ones may overtake it.
    pub jitter: Duration,
    /// The first so many sendings of these items arrive damaged.
    pub damaged_sends: BTreeMap<ItemId, u32>,
    /// The first so many writes of these items fail, and may be tried again.
    pub failed_writes: BTreeMap<ItemId, u32>,
}

impl Faults {
    pub fn is_disorderly(&self) -> bool {
        self.repeated_percent > 0 || !self.jitter.is_zero()
    }
}

/// A reproducible sequence (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

/// What an item's bytes at the source have for a digest.
pub(super) fn content_of(item: ItemId) -> u32 {
    (item.0 as u32).wrapping_mul(0x9e37_79b9)
}

impl World {
    pub(super) fn send(&mut self, from: u32, to: u32, message: Message) {
        let from = self.node(from).peer;
        let copies = 1 + u32::from(self.random.below(100) < self.options.faults.repeated_percent);
        for _ in 0..copies {
            let jitter = self.options.faults.jitter.as_nanos() as u64;
            let late = self.options.latency + Duration::from_nanos(self.random.below(jitter));
            // What travels is what a peer would decode.
            let message = Message::decode(&message.encode()).expect("what is encoded can be decoded");
            self.schedule(late, Happening::Deliver { to, from, message });
        }
    }

    pub(super) fn allocate(&mut self, rank: u32, items: Vec<(ItemId, u64)>) {
        let mut grants = Vec::new();
        for (item, len_bytes) in items {
            let id = RegionId(self.random.next());
            self.memory.insert(id, Memory { target: rank, item, content: None, fenced: false });
            grants.push((item, RemoteRegion { id, len_bytes, place: Place::Host }));
        }
        self.schedule(self.options.latency, Happening::Input { to: rank, input: Input::Allocated { grants } });
    }

    /// All writes share the source's link, one after the other.
    pub(super) fn write(&mut self, item: ItemId, to: u32, region: RegionId) {
        assert_eq!(self.memory[&region].target, to, "memory is written that another rank granted");
        let bytes = self.source().manifest().get(item).expect("it was offered").bytes;
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.options.bytes_per_s);
        self.link_free_at = self.link_free_at.max(self.now).after(Duration::from_nanos(nanos as u64));
        *self.sends.entry(item).or_default() += 1;
        self.counter += 1;
        let write = self.counter;
        assert!(self.writes.insert(item, write).is_none(), "item {item} is written twice at a time");
        let at = self.link_free_at.after(self.options.latency);
        self.schedule_at(at, Happening::WriteEnds { item, region, write });
    }

    pub(super) fn cancel_write(&mut self, item: ItemId) {
        if self.writes.remove(&item).is_some() {
            let input = Input::WriteFailed { item, retry: false, reason: "cancelled".to_owned() };
            self.schedule(Duration::ZERO, Happening::Input { to: SOURCE.rank, input });
        }
    }

    pub(super) fn write_ends(&mut self, item: ItemId, region: RegionId, write: u64) {
        if self.writes.get(&item) != Some(&write) {
            return;
        }
        self.writes.remove(&item);
        let send = self.sends[&item];
        let faulty = |faults: &BTreeMap<ItemId, u32>| faults.get(&item).is_some_and(|count| send <= *count);
        let (damaged, failed) =
            (faulty(&self.options.faults.damaged_sends), faulty(&self.options.faults.failed_writes));
        let target = self.memory[&region].target;
        let memory = self.memory.get_mut(&region).expect("it was granted");
        let input = if memory.fenced || !self.nodes[&target].alive {
            Input::WriteFailed { item, retry: false, reason: "the grant was revoked".to_owned() }
        } else if failed {
            Input::WriteFailed { item, retry: true, reason: "the link was lost".to_owned() }
        } else {
            memory.content = Some(content_of(item) ^ u32::from(damaged));
            Input::Written { item, crc32c: content_of(item) }
        };
        if matches!(input, Input::Written { .. }) {
            self.step(Step::FirstWritten);
        }
        self.input(SOURCE.rank, input);
    }

    pub(super) fn verify(&mut self, at: u32, item: ItemId, crc32c: u32) {
        let ok = self.content_at(at, item) == Some(crc32c);
        self.input(at, Input::Verified { item, crc32c, ok });
    }

    pub(super) fn fence(&mut self, at: u32) {
        for memory in self.memory.values_mut().filter(|memory| memory.target == at) {
            memory.fenced = true;
        }
        self.input(at, Input::Fenced);
    }

    pub(super) fn content_at(&self, rank: u32, item: ItemId) -> Option<u32> {
        let mut found = self.memory.values().filter(|memory| memory.target == rank && memory.item == item);
        found.next().and_then(|memory| memory.content)
    }

    /// Whether `rank` has fenced all memory that it granted.
    pub(super) fn is_fenced(&self, rank: u32) -> bool {
        self.memory.values().filter(|memory| memory.target == rank).all(|memory| memory.fenced)
    }

    pub(super) fn session(&self, rank: u32) -> Option<&Session> {
        self.nodes[&rank].session.as_ref()
    }
}

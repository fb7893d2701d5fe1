//! The store of a world: one generation under compare-and-swap, and seals that are created once.

use std::collections::{BTreeMap, BTreeSet};

use xfer_migrate_core::session::Input;
use xfer_migrate_core::{GenerationRecord, Seal, seal};

use super::{Happening, Step, World};

pub struct Store {
    pub generation: GenerationRecord,
    seals: BTreeMap<String, Seal>,
    watchers: BTreeMap<String, BTreeSet<u32>>,
    pub lost: bool,
    pub cut_off: BTreeSet<u32>,
}

impl Store {
    pub fn new(generation: GenerationRecord) -> Self {
        Self { generation, seals: BTreeMap::new(), watchers: BTreeMap::new(), lost: false, cut_off: BTreeSet::new() }
    }

    pub fn seal(&self, rank: u32) -> Option<&Seal> {
        self.seals.get(&seal::seal_key(super::migration(), rank))
    }
}

impl World {
    pub(super) fn swap(&mut self, by: u32, record: GenerationRecord) {
        if !self.reaches_store(by) {
            return;
        }
        if self.store.generation.generation == record.base {
            self.check_decision(&record);
            // What the store holds is what a client would decode.
            self.store.generation = GenerationRecord::decode(&record.encode()).expect("what is encoded can be decoded");
            self.step(Step::Decided);
            // Everybody watches the generation; who proposed is told by its answer.
            for rank in self.alive().filter(|rank| *rank != by).collect::<Vec<_>>() {
                self.tell_generation(rank);
            }
        }
        self.tell_generation(by);
    }

    pub(super) fn create_seal(&mut self, by: u32, key: String, seal: Seal) {
        if !self.reaches_store(by) {
            return;
        }
        let seal = Seal::decode(&seal.encode()).expect("what is encoded can be decoded");
        let rank = seal.target.rank;
        let kept = self.store.seals.entry(key.clone()).or_insert(seal).clone();
        let mut told = self.store.watchers.get(&key).cloned().unwrap_or_default();
        told.insert(by);
        for to in told {
            self.tell_seal(to, kept.clone());
        }
        self.step(Step::Sealed(rank));
    }

    pub(super) fn watch(&mut self, by: u32, keys: Vec<String>) {
        if !self.reaches_store(by) {
            return;
        }
        for key in keys {
            if let Some(seal) = self.store.seals.get(&key).cloned() {
                self.tell_seal(by, seal);
            } else {
                self.store.watchers.entry(key).or_default().insert(by);
            }
        }
    }

    /// Another migration's generation appears in the store.
    pub fn overtake(&mut self, record: GenerationRecord) {
        self.store.generation = record;
        for rank in self.alive().collect::<Vec<_>>() {
            self.tell_generation(rank);
        }
    }

    fn tell_generation(&mut self, to: u32) {
        if !self.store.lost && !self.store.cut_off.contains(&to) {
            let input = Input::GenerationSeen { record: self.store.generation.clone() };
            self.schedule(self.options.store_delay, Happening::Input { to, input });
        }
    }

    fn tell_seal(&mut self, to: u32, seal: Seal) {
        if !self.store.lost && !self.store.cut_off.contains(&to) {
            self.schedule(self.options.store_delay, Happening::Input { to, input: Input::SealSeen { seal } });
        }
    }

    fn reaches_store(&mut self, by: u32) -> bool {
        if !self.store.lost && !self.store.cut_off.contains(&by) {
            return true;
        }
        let input = Input::StoreLost { reason: "no store at 127.0.0.1:29501".to_owned() };
        self.schedule(self.options.store_delay, Happening::Input { to: by, input });
        false
    }
}

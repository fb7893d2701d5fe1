//! The store of a searched job: the production store's state, and every generation that it has ever held.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use xfer_migrate_core::store::records::{GENERATION_KEY, kept_generation_key};
use xfer_migrate_core::store::{StateLimits, StoreState, Swap, SwapRequest, Token, Version};
use xfer_migrate_core::{GenerationKind, GenerationRecord, Seal};
use xfer_transport_core::Time;

use crate::check::Broken;
use crate::fingerprint::{Print, Printed, print_of};
use crate::setting::Mistake;

/// The store never looks at how old a value is, so one time serves for all writes.
const TIME: Time = Time::ZERO;

/// The store.
#[derive(Debug, Clone, Hash)]
pub struct Store {
    state: StoreState,
    /// All generations that were ever true, oldest first.
    history: Vec<Printed<GenerationRecord>>,
    seals: BTreeMap<String, Seal>,
    /// The swaps that have won.
    won: BTreeSet<(u64, u64)>,
}

/// What a proposal led to.
pub struct Proposed {
    /// What the store then holds.
    pub record: Printed<GenerationRecord>,
    /// Whether it was written now.
    pub is_new: bool,
}

impl Store {
    pub fn new(base: GenerationRecord) -> Self {
        let mut state = StoreState::new(StateLimits::default());
        let swap = request(GENERATION_KEY, Version::ABSENT, base.encode(), Token { client: 9, sequence: 0 }, false);
        state.compare_and_swap(TIME, swap).expect("an empty store takes a generation");
        Self { state, history: vec![Printed::new(base)], seals: BTreeMap::new(), won: BTreeSet::new() }
    }

    /// The fingerprint of what later answers depend on. Versions are only compared with those that were read, so in
    /// which order values were written isn't part of it; see [`Store::knows`] for swaps that are asked for again.
    pub fn print_what_matters(&self) -> Print {
        print_of(&(&self.history, &self.seals))
    }

    /// This store with the generations of `history` in place of its own, and without the seals of other ranks' migrations
    /// than that of `source`.
    pub fn seen_by(&self, source: u32, history: Vec<Printed<GenerationRecord>>) -> Self {
        let mut seen = Self { history, ..self.clone() };
        seen.seals.retain(|_, seal| seal.migration.source.rank == source);
        seen
    }

    /// Whether a swap has won, as one that is asked for again is told.
    pub fn knows(&self, token: Token) -> bool {
        self.won.contains(&(token.client, token.sequence))
    }

    /// The generation that is true.
    pub fn current(&self) -> &Printed<GenerationRecord> {
        self.history.last().expect("there is a generation from the beginning")
    }

    /// The generation of a number, if it was ever true.
    pub fn generation(&self, number: u64) -> Option<&Printed<GenerationRecord>> {
        self.history.iter().find(|record| record.generation == number)
    }

    /// All generations that were ever true, oldest first.
    pub fn history(&self) -> &[Printed<GenerationRecord>] {
        &self.history
    }

    /// The version of the generation.
    pub fn version(&self) -> Version {
        self.held(GENERATION_KEY).expect("there is a generation from the beginning").0
    }

    /// The seal at a key.
    pub fn seal(&self, key: &str) -> Option<Seal> {
        self.held(key).map(|(_, value)| Seal::decode(&value).expect("only seals are written there"))
    }

    /// Creates a seal; what the key then holds.
    pub fn publish(&mut self, key: &str, seal: &Seal, token: Token, again: bool) -> Result<Seal, Broken> {
        let swap = request(key, Version::ABSENT, seal.encode(), token, again);
        match self.state.compare_and_swap(TIME, swap) {
            Ok(Swap::Won(_)) => {
                self.won.insert((token.client, token.sequence));
                self.seals.insert(key.to_owned(), seal.clone());
                Ok(seal.clone())
            }
            Ok(Swap::Lost(found)) => Seal::decode(&found.value).map_err(|error| Broken::new(error.to_string())),
            Err(refusal) => Err(Broken::new(format!("the store refuses a seal: {refusal}"))),
        }
    }

    /// Keeps the generation that is true now for those who hear of it when another one has replaced it.
    pub fn keep(&mut self) -> Result<(), Broken> {
        let current = self.current().clone();
        if current.kind == GenerationKind::Initial {
            return Ok(());
        }
        let token = Token { client: u64::MAX, sequence: current.generation };
        let swap = request(&kept_generation_key(current.generation), Version::ABSENT, current.encode(), token, false);
        match self.state.compare_and_swap(TIME, swap) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(Broken::new(format!("the store refuses to keep a generation: {refusal}"))),
        }
    }

    /// The generations after `known`, as somebody reads them who has not looked since; the latest is last.
    pub fn since(&self, known: u64) -> Result<Vec<Printed<GenerationRecord>>, Broken> {
        let missed = self.history.iter().filter(|record| record.generation > known);
        for record in missed.clone().filter(|record| record.generation < self.current().generation) {
            let kept = self.held(&kept_generation_key(record.generation));
            let kept = kept.map(|(_, value)| GenerationRecord::decode(&value));
            if kept.as_ref().is_none_or(|kept| kept.as_ref() != Ok(&**record)) {
                return Err(Broken::new(format!("generation {} is nowhere to be read", record.generation)));
            }
        }
        Ok(missed.cloned().collect())
    }

    /// Replaces the generation if it still is the one that was read as `read`.
    pub fn propose(
        &mut self,
        record: &Printed<GenerationRecord>,
        read: Version,
        token: Token,
        again: bool,
        mistake: Option<Mistake>,
    ) -> Result<Proposed, Broken> {
        let before = self.version();
        let expected = if mistake == Some(Mistake::StoreWithoutCompare) { before } else { read };
        let swap = request(GENERATION_KEY, expected, record.encode(), token, again);
        let swap = self.state.compare_and_swap(TIME, swap);
        match swap.map_err(|refusal| Broken::new(format!("the store refuses a generation: {refusal}")))? {
            Swap::Won(_) if self.version() == before => Ok(Proposed { record: self.current().clone(), is_new: false }),
            Swap::Won(_) => {
                self.won.insert((token.client, token.sequence));
                self.wrote(record)?;
                Ok(Proposed { record: record.clone(), is_new: true })
            }
            Swap::Lost(found) => {
                let winner = GenerationRecord::decode(&found.value).map_err(|error| Broken::new(error.to_string()))?;
                if winner != **self.current() {
                    return Err(Broken::new("the store answers with another generation than it holds"));
                }
                Ok(Proposed { record: self.current().clone(), is_new: false })
            }
        }
    }

    /// Each generation is written once, on the one before it, and reads as it was written.
    fn wrote(&mut self, record: &Printed<GenerationRecord>) -> Result<(), Broken> {
        let latest = self.current().generation;
        if record.generation != latest + 1 {
            let number = record.generation;
            return Err(Broken::new(format!(
                "generation {number} is written over generation {latest}: it has two records, or none before it"
            )));
        }
        let (_, value) = self.held(GENERATION_KEY).expect("it was just written");
        if GenerationRecord::decode(&value).as_ref() != Ok(&**record) {
            return Err(Broken::new("a generation does not read as it was written"));
        }
        self.history.push(record.clone());
        Ok(())
    }

    fn held(&self, key: &str) -> Option<(Version, Bytes)> {
        let found = self.state.get(TIME, key).expect("our keys are sound");
        found.map(|found| (found.version, found.value))
    }
}

fn request(key: &str, expected: Version, value: Bytes, token: Token, again: bool) -> SwapRequest {
    SwapRequest { key: key.to_owned(), expected, value, token, again }
}

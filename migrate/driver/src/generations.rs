//! The store's generations: the one that is true, how the next one is proposed, and those that somebody has missed.
//!
//! The store holds one generation, and who waits for the next may see the one after it: he was stopped, or the store
//! was far. What ended his migration is then no longer there, and what follows says nothing of it. So whoever replaces a
//! generation keeps it first, under a key of its own, and whoever sees one reads those in between.

use std::io;
use std::sync::Arc;
use std::thread;

use xfer_migrate_core::store::records::{GENERATION_KEY, kept_generation_key};
use xfer_migrate_core::{GenerationKind, GenerationRecord};

use crate::driver::Job;
use crate::migrations::{Shared, StartError};
use crate::store::{Store, Swap, Version};
use crate::watch::{WATCH, look};

/// The generation that is true now; writes the first one where there is none.
pub(crate) fn first(store: &dyn Store) -> Result<(Version, GenerationRecord), StartError> {
    let initial = GenerationRecord::initial(Vec::new());
    let (version, value) = match store.compare_and_swap(GENERATION_KEY, Version::ABSENT, initial.encode())? {
        Swap::Won(version) => return Ok((version, initial)),
        Swap::Lost(found) => (found.version, found.value),
    };
    let generation = GenerationRecord::decode(&value).map_err(|error| StartError::Generation(error.to_string()))?;
    Ok((version, generation))
}

/// Replaces the store's generation by `record` if it still is the one that `record` is based on. All generations after
/// that one, whoever made them, oldest first.
pub(crate) fn propose(store: &dyn Store, record: GenerationRecord) -> Result<Vec<GenerationRecord>, String> {
    let (version, current) = current(store)?;
    if current.generation != record.base {
        return up_to(store, record.base, current);
    }
    // It ended somebody's migration, who may not have heard of it yet.
    if current.kind != GenerationKind::Initial {
        let key = kept_generation_key(current.generation);
        // Whoever was first has written the same.
        store.compare_and_swap(&key, Version::ABSENT, current.encode()).map_err(|error| error.to_string())?;
    }
    let swap = store.compare_and_swap(GENERATION_KEY, version, record.encode());
    match swap.map_err(|error| error.to_string())? {
        Swap::Won(_) => Ok(vec![record]),
        Swap::Lost(winner) => {
            let winner = GenerationRecord::decode(&winner.value).map_err(|error| error.to_string())?;
            up_to(store, record.base, winner)
        }
    }
}

/// All generations after `known`, oldest first.
pub(crate) fn since(store: &dyn Store, known: u64) -> Result<Vec<GenerationRecord>, String> {
    let (_, current) = current(store)?;
    up_to(store, known, current)
}

/// What was kept after `known` and before `latest`, and that itself. Ends at the first that isn't there, so a number
/// that makes no sense costs one look.
pub(crate) fn up_to(store: &dyn Store, known: u64, latest: GenerationRecord) -> Result<Vec<GenerationRecord>, String> {
    let mut records = Vec::new();
    for generation in known.saturating_add(1)..latest.generation {
        let found = store.get(&kept_generation_key(generation)).map_err(|error| error.to_string())?;
        let Some(found) = found else {
            tracing::warn!(
                generation,
                "a generation was replaced and not kept; who took part in it is not told its end"
            );
            break;
        };
        records.push(GenerationRecord::decode(&found.value).map_err(|error| error.to_string())?);
    }
    records.push(latest);
    Ok(records)
}

/// Tells the driver of every generation after `known`, which was found as `version`.
pub(crate) fn watch(
    store: Arc<dyn Store>,
    shared: &Arc<Shared>,
    mut version: Version,
    mut known: u64,
) -> io::Result<()> {
    let jobs = shared.jobs.clone();
    let alive = Arc::downgrade(shared);
    let watch = move || {
        while alive.strong_count() > 0 {
            let found = match look(&*store, GENERATION_KEY, version) {
                Ok(None) => continue,
                Ok(Some(found)) => match GenerationRecord::decode(&found.value) {
                    Ok(latest) => up_to(&*store, known, latest).map(|records| (found.version, records)),
                    // It stays as it is until it is replaced.
                    Err(error) => {
                        version = found.version;
                        Err(format!("the store's generation can't be read: {error}"))
                    }
                },
                Err(error) => Err(error.to_string()),
            };
            let job = match found {
                Ok((found, records)) => {
                    version = found;
                    known = records.last().map_or(known, |latest| latest.generation);
                    Job::Generations(Ok(records))
                }
                Err(reason) => Job::Generations(Err(reason)),
            };
            let is_lost = matches!(job, Job::Generations(Err(_)));
            if jobs.send(job).is_err() {
                return;
            }
            if is_lost {
                // A store that is gone stays gone for those who wait; ask again at leisure.
                thread::sleep(WATCH);
            }
        }
    };
    thread::Builder::new().name("xfer-generation".into()).spawn(watch)?;
    Ok(())
}

fn current(store: &dyn Store) -> Result<(Version, GenerationRecord), String> {
    let found = store.get(GENERATION_KEY).map_err(|error| error.to_string())?;
    let found = found.ok_or("the store holds no generation")?;
    let record = GenerationRecord::decode(&found.value).map_err(|error| error.to_string())?;
    Ok((found.version, record))
}

#[cfg(test)]
mod tests {
    use xfer_transport_core::PeerId;

    use super::*;
    use crate::store::MemoryStore;

    fn on(base: &GenerationRecord, rank: u32) -> GenerationRecord {
        GenerationRecord {
            generation: base.generation + 1,
            base: base.generation,
            kind: GenerationKind::Withdrawn,
            source: Some(PeerId { rank, incarnation: 1 }),
            ..base.clone()
        }
    }

    fn numbers(records: &[GenerationRecord]) -> Vec<(u64, Option<u32>)> {
        records.iter().map(|record| (record.generation, record.source.map(|source| source.rank))).collect()
    }

    #[test]
    fn whoever_looks_late_learns_of_each_generation_in_order() {
        let store = MemoryStore::new();
        let (_, mut latest) = first(&store).unwrap();
        for rank in 1..=4 {
            latest = on(&latest, rank);
            assert_eq!(propose(&store, latest.clone()), Ok(vec![latest.clone()]));
        }
        assert_eq!(numbers(&since(&store, 0).unwrap()), [(1, Some(1)), (2, Some(2)), (3, Some(3)), (4, Some(4))]);
        assert_eq!(numbers(&since(&store, 2).unwrap()), [(3, Some(3)), (4, Some(4))]);
        assert_eq!(numbers(&since(&store, 4).unwrap()), [(4, Some(4))]);
    }

    #[test]
    fn a_proposal_that_comes_too_late_learns_who_won_and_what_followed() {
        let store = MemoryStore::new();
        let (_, initial) = first(&store).unwrap();
        let (winner, loser) = (on(&initial, 1), on(&initial, 2));
        propose(&store, winner.clone()).unwrap();
        propose(&store, on(&winner, 3)).unwrap();
        assert_eq!(numbers(&propose(&store, loser).unwrap()), [(1, Some(1)), (2, Some(3))]);
    }

    #[test]
    fn a_generation_far_from_all_others_costs_one_look() {
        let store = MemoryStore::new();
        let (version, initial) = first(&store).unwrap();
        let far = GenerationRecord { generation: u64::MAX, base: u64::MAX - 1, ..on(&initial, 1) };
        store.compare_and_swap(GENERATION_KEY, version, far.encode()).unwrap();
        assert_eq!(numbers(&since(&store, 0).unwrap()), [(u64::MAX, Some(1))]);
    }
}

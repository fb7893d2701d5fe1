//! Two hand-overs at once, seen from one of them.
//!
//! Two sources share the store's generation, the lives of the targets and the clock, and nothing else. So what the second
//! one can do to the first can be said in a few steps that may happen at any time ([`Setting::beside`]). That no state of
//! two sources is left out by that is argued in `docs/exhaustive.md`, and tried here: [`print_of_first`] is
//! looked for among the states of one source.
//!
//! [`Setting::beside`]: crate::Setting::beside

use xfer_migrate_core::{GenerationKind, GenerationRecord};

use crate::fingerprint::{Print, Printed};
use crate::forget::{forget, print_what_matters};
use crate::happening::all_over;
use crate::world::{SOURCES, World, strangers};

/// The fingerprint of what the first source and its targets see of a state in which there are two. None when they all have
/// ended: then deaths and the clock go on for the other one's sake, and change nothing for them.
pub fn print_of_first(world: &World) -> Option<Print> {
    let mut seen = world.clone();
    seen.sources.truncate(1);
    seen.pairs.truncate(2);
    if all_over(&seen) {
        return None;
    }
    let mut history: Vec<Printed<GenerationRecord>> = Vec::new();
    for record in world.store.history() {
        let others = history.last().filter(|_| record.source.is_some_and(|source| source.rank != SOURCES[0]));
        let record = match others {
            Some(base) => Printed::new(strangers(base, GenerationKind::Withdrawn)),
            None => record.clone(),
        };
        history.push(record);
    }
    for place in 0..2 {
        let end = end_in(&history, world.pair(0, place).end.as_ref());
        seen.pair_mut(0, place).end = end;
    }
    seen.source_mut(0).end = end_in(&history, world.sources[0].end.as_ref());
    let store = world.store.seen_by(SOURCES[0], history);
    let print = store.print_what_matters();
    seen.store = Printed::with(store, print);
    forget(&mut seen);
    Some(print_what_matters(&seen))
}

fn end_in(
    history: &[Printed<GenerationRecord>],
    end: Option<&Printed<GenerationRecord>>,
) -> Option<Printed<GenerationRecord>> {
    history.iter().find(|record| Some(record.generation) == end.map(|end| end.generation)).cloned()
}

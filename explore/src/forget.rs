//! What a search may forget: all by which no later answer differs, so that states which go on alike are one state.
//!
//! Two things are done. [`forget`] sets aside what nobody reads any more, which also keeps steps from being taken that
//! would change nothing; [`print_what_matters`] then leaves out what only looks different. That both are right is argued in
//! `docs/exhaustive.md` and tried in the tests, where small jobs are searched with and without them.

use std::hash::{Hash, Hasher};

use xfer_migrate_core::session::{SourceState, TargetState};
use xfer_migrate_core::store::Token;

use crate::fingerprint::{Print, print_by};
use crate::happening::Owner;
use crate::world::{Ask, Job, SOURCES, TARGETS, World};

/// Sets aside what nobody reads any more.
pub fn forget(world: &mut World) {
    // Another attempt reads it all again, as long as there is somebody to make one.
    if world.may.retries > 0 && world.sources.iter().any(|source| source.alive) {
        return;
    }
    let latest = world.store.current().generation;
    for s in 0..world.sources.len() {
        let source = &world.sources[s];
        let over = !source.alive || source.session.state().is_over();
        if over && (source.known != latest || !source.jobs.is_empty()) {
            let source = world.source_mut(s);
            source.known = latest;
            source.jobs.retain(|job| !is_settled(job, latest));
        }
    }
    for t in 0..2 {
        let is_over = |s: usize| world.pair(s, t).state().is_some_and(|state| state.is_over());
        let over = !world.targets[t].alive || (0..world.sources.len()).all(is_over);
        let decided = !world.targets[t].alive || (0..world.sources.len()).all(|s| !listens_for_deaths(world, s, t));
        let target = &mut world.targets[t];
        if over {
            target.known = latest;
        }
        if decided {
            (target.apart, target.told) = (true, true);
        }
    }
    // A process has one connection to the store: its silence about one session is heard by all.
    let alone = world.sources.len() == 1;
    for (s, t) in world.places() {
        forget_pair(world, s, t);
        let pair = world.pair(s, t);
        let over = pair.state().is_some_and(|state| state.is_over());
        if alone && over && pair.jobs.iter().any(|job| is_settled(job, latest)) {
            world.pair_mut(s, t).jobs.retain(|job| !is_settled(job, latest));
        }
    }
}

/// Whether a proposal has lost already, and its session needs no word of that.
fn is_settled(job: &Job, latest: u64) -> bool {
    matches!(&job.ask, Ask::Propose { record, .. } if record.base < latest)
}

/// What a target does depends on who is gone until it has proposed.
fn listens_for_deaths(world: &World, s: usize, t: usize) -> bool {
    use TargetState::*;
    matches!(world.pair(s, t).state(), None | Some(Idle | Receiving | Cut | Fencing | Sealed))
}

fn forget_pair(world: &mut World, s: usize, t: usize) {
    use SourceState::*;
    let (source, pair) = (&world.sources[s], world.pair(s, t));
    let sends = source.alive && matches!(source.session.state(), Offered | Streaming | Cut | Finished);
    // A write that is under way may still end, and is told of.
    let speaks = sends || (source.alive && !source.writes.is_empty());
    let hears = world.targets[t].alive && listens_for_deaths(world, s, t);
    let over = !world.targets[t].alive || pair.state().is_some_and(|state| state.is_over());
    let (mut lost, mut told) = ([pair.to_target.lost, pair.to_source.lost], [pair.to_target.told, pair.to_source.told]);
    told = [told[0] || !hears, told[1] || !sends];
    let unread = pair.to_target.messages.is_empty() && pair.to_source.messages.is_empty();
    if unread && !speaks && (told[0] || lost[0] || lost[1]) {
        // Nothing is sent any more: whether a way is lost only says that a death may be noticed, if that is still to come.
        lost = [true, true];
    }
    let watching = pair.watching && !over;
    let now = ([pair.to_target.lost, pair.to_source.lost], [pair.to_target.told, pair.to_source.told], pair.watching);
    if now != (lost, told, watching) {
        let pair = world.pair_mut(s, t);
        [pair.to_target.lost, pair.to_source.lost] = lost;
        [pair.to_target.told, pair.to_source.told] = told;
        pair.watching = watching;
    }
}

/// The fingerprint of a state without what only looks different. What may still go wrong is not part of it.
pub fn print_what_matters(world: &World) -> Print {
    print_by(|printer| {
        world.now.hash(printer);
        world.store.hash(printer);
        world.targets.hash(printer);
        for (s, source) in world.sources.iter().enumerate() {
            (source.alive, source.attempt, source.has_cut, source.known, &source.heirs).hash(printer);
            if source.alive {
                (&source.session, &source.writes, &source.end).hash(printer);
                source.jobs.iter().for_each(|job| hash_job(world, Owner::Source(s), job, printer));
            } else {
                // Its session is only asked what it was about.
                source.session.migration().hash(printer);
            }
        }
        for (s, t) in world.places() {
            let pair = world.pair(s, t);
            (&pair.session, &pair.to_target, &pair.to_source, &pair.work).hash(printer);
            (pair.watching, pair.fenced, &pair.seal, &pair.end).hash(printer);
            (&pair.kept, &pair.there).hash(printer);
            // What was sealed is known by the seal, and what was not is nobody's any more.
            let over = pair.state().is_some_and(|state| state.is_over());
            // Unless it is kept: two sources find nothing when they try again.
            let is_kept = world.may.retries > 0 && world.sources.len() == 1;
            if !pair.fenced || (pair.seal.is_none() && !over) || is_kept {
                pair.memory.hash(printer);
            }
            pair.jobs.len().hash(printer);
            pair.jobs.iter().for_each(|job| hash_job(world, Owner::Target(s, t), job, printer));
        }
    })
}

/// A swap is told by whether it can still win, not by the version that it expects.
fn hash_job(world: &World, owner: Owner, job: &Job, hasher: &mut impl Hasher) {
    let rank = match owner {
        Owner::Source(s) => SOURCES[s],
        Owner::Target(_, t) => TARGETS[t],
    };
    let won = job.again && world.store.knows(Token { client: u64::from(rank), sequence: job.sequence });
    (job.again, won).hash(hasher);
    match &job.ask {
        Ask::Publish { key, seal } => (key, seal).hash(hasher),
        Ask::Propose { record, read } => {
            let can_win = read.map(|read| read == world.store.version());
            (record, can_win).hash(hasher);
        }
    }
}

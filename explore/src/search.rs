//! Breadth first over all states, on several threads, one level at a time.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::apply::Steps;
use crate::check::{self, Broken};
use crate::fingerprint::{Print, print_of};
use crate::happening::{self, Happening};
use crate::memo::Memo;
use crate::setting::Setting;
use crate::world::World;

/// Parts of the table of states that are seen, each behind a lock of its own.
const SHARDS: usize = 256;

/// States that a thread takes at a time.
const CHUNK: usize = 256;

/// A search of one setting.
#[derive(Debug)]
pub struct Search {
    setting: Setting,
    threads: usize,
    states_max: usize,
}

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps from one state to another, or to one that was seen before.
    pub transitions: u64,
    /// Steps of the longest shortest way.
    pub depth: usize,
    /// How the states at rest ended, and how many of them.
    pub ends: BTreeMap<String, u64>,
    /// Whether there was no state left to look at.
    pub complete: bool,
    /// The shortest way to something that is broken.
    pub violation: Option<Trace>,
}

/// A way from the beginning to a violation.
#[derive(Debug, Clone)]
pub struct Trace {
    /// What happens.
    steps: Vec<Happening>,
    /// What is broken then.
    pub broken: Broken,
}

/// A state that was found, and how.
struct Found {
    world: World,
    parent: u32,
    step: u16,
}

#[derive(Default)]
struct Level {
    found: Vec<Found>,
    transitions: u64,
    ends: BTreeMap<String, u64>,
    /// The state and the step that broke something; no step if it is the state itself.
    broken: Vec<(u32, Option<u16>, Broken)>,
}

struct Seen(Vec<Mutex<HashSet<Print, BuildHasherDefault<Given>>>>);

impl Search {
    /// A search of all states of `setting`, as far as there are at most `states_max`.
    pub fn new(setting: Setting, threads: usize, states_max: usize) -> Self {
        Self { setting, threads: threads.max(1), states_max }
    }

    /// Searches; `progress` is told the depth, the states so far and how many of them are new, after each level.
    pub fn run(&self, mut progress: impl FnMut(usize, usize, usize)) -> Result<Report, Broken> {
        let mut memos: Vec<Memo> = (0..self.threads).map(|_| Memo::default()).collect();
        let first = Steps { setting: &self.setting, memo: &mut memos[0] }.begin()?;
        let seen = Seen((0..SHARDS).map(|_| Mutex::default()).collect());
        seen.insert(print_of(&first));
        let mut ways: Vec<(u32, u16)> = vec![(0, 0)];
        let mut frontier = vec![(first, 0_u32)];
        let mut report = Report { states: 1, ..Report::default() };
        while !frontier.is_empty() {
            let level = self.level(&frontier, &seen, &mut memos);
            report.transitions += level.transitions;
            for (end, count) in level.ends {
                *report.ends.entry(end).or_default() += count;
            }
            // Whichever thread was first, the same one of several violations is told.
            let first = level.broken.into_iter().min_by_key(|(_, _, broken)| broken.to_string());
            if let Some((state, step, broken)) = first {
                report.violation = Some(self.trace(&ways, state, step, broken)?);
                return Ok(report);
            }
            frontier = Vec::with_capacity(level.found.len());
            for found in level.found {
                frontier.push((found.world, ways.len() as u32));
                ways.push((found.parent, found.step));
            }
            report.states = ways.len();
            report.depth += usize::from(!frontier.is_empty());
            progress(report.depth, report.states, frontier.len());
            if report.states > self.states_max {
                return Ok(report);
            }
        }
        report.complete = true;
        Ok(report)
    }

    fn level(&self, frontier: &[(World, u32)], seen: &Seen, memos: &mut [Memo]) -> Level {
        let next = AtomicUsize::new(0);
        let parts = thread::scope(|scope| {
            let run = |memo| scope.spawn(|| self.part(frontier, &next, seen, memo));
            let threads: Vec<_> = memos.iter_mut().map(run).collect();
            threads.into_iter().map(|thread| thread.join().expect("a searching thread ends")).collect::<Vec<Level>>()
        });
        let mut level = Level::default();
        for part in parts {
            level.found.extend(part.found);
            level.transitions += part.transitions;
            level.broken.extend(part.broken);
            for (end, count) in part.ends {
                *level.ends.entry(end).or_default() += count;
            }
        }
        level
    }

    fn part(&self, frontier: &[(World, u32)], next: &AtomicUsize, seen: &Seen, memo: &mut Memo) -> Level {
        let mut level = Level::default();
        let mut steps = Steps { setting: &self.setting, memo };
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed).min(frontier.len());
            let chunk = &frontier[from..(from + CHUNK).min(frontier.len())];
            if chunk.is_empty() {
                return level;
            }
            for (world, id) in chunk {
                self.expand(world, *id, seen, &mut steps, &mut level);
            }
        }
    }

    fn expand(&self, world: &World, id: u32, seen: &Seen, steps: &mut Steps<'_>, level: &mut Level) {
        let mut bound = Vec::new();
        happening::bound_to_happen(world, &self.setting, &mut bound);
        if bound.is_empty() {
            match check::at_rest(world) {
                Ok(end) => *level.ends.entry(end).or_default() += 1,
                Err(broken) => level.broken.push((id, None, broken)),
            }
        }
        for (step, happening) in happening::next(world, &self.setting).into_iter().enumerate() {
            let step = step as u16;
            let mut after = world.clone();
            level.transitions += 1;
            if let Err(broken) = steps.take(&mut after, happening) {
                level.broken.push((id, Some(step), broken));
            } else if seen.insert(print_of(&after)) {
                level.found.push(Found { world: after, parent: id, step });
            }
        }
    }

    /// Takes the way to a state again, since only the numbers of its steps were kept.
    fn trace(&self, ways: &[(u32, u16)], state: u32, last: Option<u16>, broken: Broken) -> Result<Trace, Broken> {
        let mut numbers: Vec<u16> = last.into_iter().collect();
        let mut at = state;
        while at != 0 {
            let (parent, step) = ways[at as usize];
            numbers.push(step);
            at = parent;
        }
        let mut memo = Memo::default();
        let mut taken = Steps { setting: &self.setting, memo: &mut memo };
        let mut world = taken.begin()?;
        let mut steps = Vec::new();
        for number in numbers.into_iter().rev() {
            let happening = happening::next(&world, &self.setting)[usize::from(number)];
            steps.push(happening);
            // The last one breaks what is told beside it.
            let _ = taken.take(&mut world, happening);
        }
        Ok(Trace { steps, broken })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>4}  {step}", at + 1)?;
        }
        write!(f, "      BROKEN: {}", self.broken)
    }
}

impl Seen {
    /// Whether it is new.
    fn insert(&self, print: Print) -> bool {
        let shard = &self.0[(print % SHARDS as u128) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(print)
    }
}

/// Fingerprints are as good as any hash of them.
#[derive(Default)]
struct Given(u64);

impl Hasher for Given {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            self.0 ^= word.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        }
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = (print >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

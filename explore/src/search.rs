//! Breadth first over all states, on several threads, one level at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::apply::Steps;
use crate::beside::print_of_first;
use crate::check::{self, Broken};
use crate::fingerprint::print_of;
use crate::forget::print_what_matters;
use crate::happening::{self, Happening};
use crate::memo::Memo;
use crate::setting::{Budgets, Setting};
use crate::world::World;

/// Parts of the table of states that are seen, each behind a lock of its own.
const SHARDS: usize = 256;

/// States that are looked at before they are freed.
const BATCH: usize = 1 << 16;

/// States that a thread takes at a time.
const CHUNK: usize = 256;

/// A search of one setting.
#[derive(Debug)]
pub struct Search {
    setting: Setting,
    threads: usize,
    states_max: usize,
    /// States of which one must be what the first of two sources sees of each state here.
    among: Option<States>,
}

/// The fingerprints of states, without what may still go wrong.
pub type States = HashSet<u128>;

/// Steps by their kind: all of them, and those that led to a new state.
pub type Kinds = BTreeMap<&'static str, (u64, u64)>;

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps from one state to another, or to one that was seen before.
    pub transitions: u64,
    /// For each kind of step, how many there were, and how many of them led to a state that was new.
    pub kinds: Kinds,
    /// Steps of the longest shortest way.
    pub depth: usize,
    /// How the states at rest ended, and how many of them.
    pub ends: BTreeMap<String, u64>,
    /// Whether there was no state left to look at.
    pub complete: bool,
    /// A session that does otherwise than one which a reduced search would take for it; looked for where nothing is
    /// reduced.
    pub unlike: Option<String>,
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
    kinds: Kinds,
    ends: BTreeMap<String, u64>,
    /// The state and the step that broke something; no step if it is the state itself.
    broken: Vec<(u32, Option<u16>, Broken)>,
}

/// Fingerprints, each with the budgets that its state was seen with.
type Shard = HashMap<[u64; 2], u64, BuildHasherDefault<Given>>;

/// For each state, with which budgets it was seen.
struct Seen {
    shards: Vec<Mutex<Shard>>,
    /// None where nothing is reduced, and a budget is a part of the state.
    budgets: Option<Budgets>,
}

impl Level {
    fn add(&mut self, part: Self) {
        self.found.extend(part.found);
        self.broken.extend(part.broken);
        for (kind, (steps, new)) in part.kinds {
            let sum = self.kinds.entry(kind).or_default();
            *sum = (sum.0 + steps, sum.1 + new);
        }
        for (end, count) in part.ends {
            *self.ends.entry(end).or_default() += count;
        }
    }
}

impl Search {
    /// A search of all states of `setting`, as far as there are at most `states_max`.
    pub fn new(setting: Setting, threads: usize, states_max: usize) -> Self {
        Self { setting, threads: threads.max(1), states_max, among: None }
    }

    /// The same, in which it is a violation if the first source sees a state that isn't among `states`.
    #[must_use]
    pub fn among(self, states: States) -> Self {
        Self { among: Some(states), ..self }
    }

    /// Searches; `progress` is told the depth, the states so far and how many of them are new, after each level.
    pub fn run(&self, progress: impl FnMut(usize, usize, usize)) -> Result<Report, Broken> {
        self.all(progress).map(|(report, _)| report)
    }

    /// Searches, and keeps the fingerprints of all states.
    pub fn run_and_keep(&self, progress: impl FnMut(usize, usize, usize)) -> Result<(Report, States), Broken> {
        self.all(progress).map(|(report, seen)| (report, seen.states()))
    }

    fn all(&self, mut progress: impl FnMut(usize, usize, usize)) -> Result<(Report, Seen), Broken> {
        let mut memos: Vec<Memo> = (0..self.threads).map(|_| Memo::new(self.setting.reduced)).collect();
        let first = Steps { setting: &self.setting, memo: &mut memos[0] }.begin()?;
        let seen = Seen::new(&self.setting);
        seen.insert(&first, self.setting.reduced);
        let mut ways: Vec<(u32, u16)> = vec![(0, 0)];
        let mut frontier = vec![(first, 0_u32)];
        let mut report = Report { states: 1, ..Report::default() };
        while !frontier.is_empty() {
            let mut level = Level::default();
            // In parts, so that what was looked at is freed while its successors are kept.
            while !frontier.is_empty() {
                let part = frontier.split_off(frontier.len().saturating_sub(BATCH));
                level.add(self.level(&part, &seen, &mut memos));
            }
            for (kind, (steps, new)) in level.kinds {
                report.transitions += steps;
                let sum = report.kinds.entry(kind).or_default();
                *sum = (sum.0 + steps, sum.1 + new);
            }
            for (end, count) in level.ends {
                *report.ends.entry(end).or_default() += count;
            }
            // Whichever thread was first, the same one of several violations is told.
            let first = level.broken.into_iter().min_by_key(|(_, _, broken)| broken.to_string());
            if let Some((state, step, broken)) = first {
                report.violation = Some(self.trace(&ways, state, step, broken)?);
                return Ok((report, seen));
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
                return Ok((report, seen));
            }
        }
        report.complete = true;
        report.unlike = memos.iter().find_map(|memo| memo.unlike().map(str::to_owned));
        Ok((report, seen))
    }

    fn level(&self, frontier: &[(World, u32)], seen: &Seen, memos: &mut [Memo]) -> Level {
        let next = AtomicUsize::new(0);
        let parts = thread::scope(|scope| {
            let run = |memo| scope.spawn(|| self.part(frontier, &next, seen, memo));
            let threads: Vec<_> = memos.iter_mut().map(run).collect();
            threads.into_iter().map(|thread| thread.join().expect("a searching thread ends")).collect::<Vec<Level>>()
        });
        let mut level = Level::default();
        parts.into_iter().for_each(|part| level.add(part));
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
            let kind = level.kinds.entry(happening.kind()).or_default();
            kind.0 += 1;
            if let Err(broken) = steps.take(&mut after, happening) {
                level.broken.push((id, Some(step), broken));
            } else if seen.insert(&after, self.setting.reduced) {
                kind.1 += 1;
                let strange = |states: &States| print_of_first(&after).is_some_and(|first| !states.contains(&first));
                if self.among.as_ref().is_some_and(strange) {
                    let broken = Broken::new("the first source sees a state that is none of one source beside another");
                    level.broken.push((id, Some(step), broken));
                }
                steps.memo.share(&mut after);
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
        let mut memo = Memo::new(self.setting.reduced);
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
    fn new(setting: &Setting) -> Self {
        let budgets = setting.reduced.then(|| Budgets::new(setting.may)).flatten();
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), budgets }
    }

    fn states(&self) -> States {
        let shards = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        shards
            .flat_map(|shard| shard.keys().copied().collect::<Vec<_>>())
            .map(|[low, high]| u128::from(high) << 64 | u128::from(low))
            .collect()
    }

    /// Whether it is new: not seen before, nor with a budget with which all could happen that now can.
    fn insert(&self, world: &World, reduced: bool) -> bool {
        let (print, bit, covering) = match &self.budgets {
            Some(budgets) => {
                let (bit, covering) = budgets.bits(&world.may);
                (print_what_matters(world), bit, covering)
            }
            None if reduced => (print_of(&(print_what_matters(world), world.may)), 1, 1),
            None => (print_of(world), 1, 1),
        };
        let shard = &self.shards[(print % SHARDS as u128) as usize];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = shard.entry([print as u64, (print >> 64) as u64]).or_default();
        let is_new = *seen & covering == 0;
        *seen |= bit;
        is_new
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

    fn write_u64(&mut self, word: u64) {
        self.0 ^= word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

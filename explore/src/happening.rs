//! What can happen next in a state.

use std::fmt;

use xfer_migrate_core::limits::{GENERATION_GRACE, SEAL_GRACE, SOURCE_GONE_GRACE};
use xfer_migrate_core::seal::seal_key;
use xfer_migrate_core::session::{SourceState, TargetState};
use xfer_migrate_core::store::records::GENERATION_KEY;
use xfer_migrate_core::{GenerationKind, ItemId};
use xfer_transport_core::Time;

use crate::setting::{Mistake, Setting, TIME_LEFT};
use crate::world::{Ask, Pair, SOURCES, STRANGER, TARGETS, World};

/// Who owns a session: a source, or a target for one source. Places, not ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    Source(usize),
    Target(usize, usize),
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Source,
    Target,
}

/// How a write ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteEnd {
    Applied,
    Damaged,
    /// It failed, and may work when it is tried again.
    Failed,
    /// It can't work any more: cancelled, revoked, or the other end is gone.
    Over,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// The oldest message between a source and a target arrives at one end.
    Arrives(usize, usize, End),
    /// All that is under way to one end is gone.
    Vanishes(usize, usize, End),
    /// The memory worker of a target has done its oldest job for a source.
    Works(usize, usize),
    WriteEnds(usize, ItemId, WriteEnd),
    /// The store does the oldest job of a session's owner, and the answer arrives.
    Stores(Owner),
    /// The store's answer is lost after it was done, and it is asked again.
    AsksAgain(Owner),
    /// The store is not heard of; the request was done or not.
    StoreSilent(Owner, bool),
    /// A source's process hears of the latest generation.
    SourceHears(usize),
    /// A target's process hears of the latest generation.
    TargetHears(usize),
    /// A target hears of the other target's seal.
    SealHeard(usize, usize),
    /// One end learns that the other is gone.
    Gone(usize, usize, End),
    /// A target learns that the other target is gone.
    OtherGone(usize),
    /// Time passes, until the next timer is due.
    Time(Time),
    Fires(Owner),
    Cuts(usize),
    Withdraws(usize),
    /// A target is told to leave, too.
    Leaves(usize),
    SourceDies(usize),
    TargetDies(usize),
    /// What is sent to one end from now on is lost.
    Loses(usize, usize, End),
    /// What one target is told of the other is lost: it takes it for dead.
    LosesOther(usize),
    /// Another migration makes a generation on the same base.
    Overtaken(GenerationKind),
    /// A target's process hears that the store is silent, as it was about another migration.
    SilentElsewhere(usize),
    /// A source begins another attempt.
    Retries(usize),
}

/// Everything that can happen next, always in the same order.
pub fn next(world: &World, setting: &Setting) -> Vec<Happening> {
    let mut next = Vec::new();
    bound_to_happen(world, setting, &mut next);
    if !(next.is_empty() && all_over(world)) {
        may_happen(world, setting, &mut next);
    }
    for (source, node) in world.sources.iter().enumerate() {
        let parted = (0..2).all(|target| world.pair(source, target).state().is_none_or(|state| state.is_over()));
        let over = node.alive && node.session.state().is_over() && parted && node.jobs.is_empty();
        if over
            && world.may.retries > 0
            && node.writes.is_empty()
            && (!setting.keeps || !heirs(world).is_empty())
            && owns(world, SOURCES[source])
            && node.known == world.store.current().generation
        {
            next.push(Happening::Retries(source));
        }
    }
    next
}

/// What happens sooner or later unless something else comes first: a state without it is at rest.
pub fn bound_to_happen(world: &World, setting: &Setting, next: &mut Vec<Happening>) {
    for (source, target) in world.places() {
        let pair = world.pair(source, target);
        let (from, to) = (&world.sources[source], &world.targets[target]);
        for end in [End::Target, End::Source] {
            let (way, sender) = match end {
                End::Target => (&pair.to_target, from.alive),
                End::Source => (&pair.to_source, to.alive),
            };
            if !way.messages.is_empty() {
                next.push(Happening::Arrives(source, target, end));
                if way.lost || !sender {
                    next.push(Happening::Vanishes(source, target, end));
                }
            }
        }
        if !pair.work.is_empty() {
            next.push(Happening::Works(source, target));
        }
        let parted = pair.to_target.lost || pair.to_source.lost;
        // Who has no session and is sent nothing has nothing to do with it.
        let cares = pair.session.as_ref().is_some_and(|session| !session.state().is_over())
            || (pair.session.is_none() && !pair.to_target.messages.is_empty());
        if to.alive && cares && !pair.to_target.told && (!from.alive || parted) {
            next.push(Happening::Gone(source, target, End::Target));
        }
        if from.alive && !from.session.state().is_over() && !pair.to_source.told && (!to.alive || parted) {
            next.push(Happening::Gone(source, target, End::Source));
        }
        if pair.watching
            && to.alive
            && setting.mistake != Some(Mistake::DeafWatchers)
            && hears_seal(world, source, target)
        {
            next.push(Happening::SealHeard(source, target));
        }
        if !pair.jobs.is_empty() {
            next.push(Happening::Stores(Owner::Target(source, target)));
        }
        if pair.due().is_some_and(|due| due <= world.now) {
            next.push(Happening::Fires(Owner::Target(source, target)));
        }
    }
    for (source, node) in world.sources.iter().enumerate() {
        for (item, cancelled) in &node.writes {
            let pair = &world.pair(source, place_of(node.session.manifest().get(*item).map(|item| item.target)));
            let target = place_of(node.session.manifest().get(*item).map(|item| item.target));
            let cut_off = !world.targets[target].alive || pair.fenced || pair.to_target.lost || pair.to_source.lost;
            if !cut_off {
                next.push(Happening::WriteEnds(source, *item, WriteEnd::Applied));
            }
            if cut_off || *cancelled {
                next.push(Happening::WriteEnds(source, *item, WriteEnd::Over));
            }
        }
        if !node.jobs.is_empty() {
            next.push(Happening::Stores(Owner::Source(source)));
        }
        if node.due().is_some_and(|due| due <= world.now) {
            next.push(Happening::Fires(Owner::Source(source)));
        }
    }
    let latest = world.store.current().generation;
    if setting.mistake != Some(Mistake::DeafWatchers) {
        for (source, node) in world.sources.iter().enumerate() {
            if node.alive && node.known < latest {
                next.push(Happening::SourceHears(source));
            }
        }
        for (target, node) in world.targets.iter().enumerate() {
            if node.alive && node.known < latest {
                next.push(Happening::TargetHears(target));
            }
        }
    }
    for (target, node) in world.targets.iter().enumerate() {
        let cares = (0..world.sources.len())
            .any(|source| world.pair(source, target).state().is_some_and(|state| !state.is_over()));
        // What is told for another migration's sake is told to all.
        if node.alive && (cares || setting.beside) && !node.told && (node.apart || !world.targets[1 - target].alive) {
            next.push(Happening::OtherGone(target));
        }
    }
    // A timer is never passed over: who sleeps through one is as good as dead, which is tried by itself.
    let due = next.iter().any(|happening| matches!(happening, Happening::Fires(_)));
    if !due
        && setting.mistake != Some(Mistake::StoppedClock)
        && let Some(at) = next_time(world)
    {
        next.push(Happening::Time(at));
    }
}

fn may_happen(world: &World, setting: &Setting, next: &mut Vec<Happening>) {
    let may = world.may;
    for (source, node) in world.sources.iter().enumerate().filter(|(_, node)| node.alive) {
        let state = node.session.state();
        if matches!(state, SourceState::Offered | SourceState::Streaming) {
            next.push(Happening::Cuts(source));
        }
        if may.withdrawals > 0 && (node.is_listening() || state == SourceState::Expired) {
            next.push(Happening::Withdraws(source));
        }
        for item in node.writes.keys() {
            let target = place_of(node.session.manifest().get(*item).map(|item| item.target));
            let open = world.targets[target].alive && !world.pair(source, target).fenced;
            if open && may.damages > 0 {
                next.push(Happening::WriteEnds(source, *item, WriteEnd::Damaged));
            }
            if open && may.failed_writes > 0 {
                next.push(Happening::WriteEnds(source, *item, WriteEnd::Failed));
            }
        }
        if may.crashes > 0 {
            next.push(Happening::SourceDies(source));
        }
    }
    for (target, node) in world.targets.iter().enumerate().filter(|(_, node)| node.alive) {
        if may.leaving_targets > 0 && !node.leaving {
            next.push(Happening::Leaves(target));
        }
        if may.crashes > 0 {
            next.push(Happening::TargetDies(target));
        }
        if may.losses > 0 && !node.apart && world.targets[1 - target].alive {
            next.push(Happening::LosesOther(target));
        }
    }
    if may.losses > 0 {
        for (source, target) in world.places() {
            let pair = world.pair(source, target);
            let both = world.sources[source].alive && world.targets[target].alive;
            for (way, end) in [(&pair.to_target, End::Target), (&pair.to_source, End::Source)] {
                if both && !way.lost {
                    next.push(Happening::Loses(source, target, end));
                }
            }
            may_lose_answer(pair.jobs.front(), Owner::Target(source, target), next);
        }
        for (source, node) in world.sources.iter().enumerate() {
            may_lose_answer(node.jobs.front(), Owner::Source(source), next);
        }
    }
    if may.overtakes > 0 && (setting.beside || world.store.history().len() == 1) {
        next.push(Happening::Overtaken(GenerationKind::Withdrawn));
        // What it moves matters to those who try again.
        if setting.beside && may.retries > 0 && owns(world, STRANGER) {
            next.push(Happening::Overtaken(GenerationKind::Handoff));
        }
    }
    let due = next.iter().any(|happening| matches!(happening, Happening::Fires(_)));
    if setting.beside && !due {
        let until = next_time(world).unwrap_or(Time::MAX);
        let others = others_timers(world).into_iter().flatten();
        next.extend(others.filter(|at| world.now < *at && *at < until).map(Happening::Time));
    }
    if setting.beside && may.losses > 0 {
        for (target, node) in world.targets.iter().enumerate() {
            let open = |source| world.pair(source, target).state().is_some_and(|state| !state.is_over());
            if node.alive && (0..world.sources.len()).any(open) {
                next.push(Happening::SilentElsewhere(target));
            }
        }
    }
}

/// The targets towards which another attempt is made: those that are there, and stay.
pub fn heirs(world: &World) -> Vec<u32> {
    let targets = TARGETS.into_iter().zip(&world.targets);
    targets.filter(|(_, target)| target.alive && !target.leaving).map(|(rank, _)| rank).collect()
}

fn owns(world: &World, rank: u32) -> bool {
    world.store.current().owners.iter().any(|(_, owner)| *owner == rank)
}

fn may_lose_answer(job: Option<&crate::world::Job>, owner: Owner, next: &mut Vec<Happening>) {
    let Some(job) = job else { return };
    next.push(Happening::StoreSilent(owner, false));
    // To read and not be answered changes nothing.
    if !matches!(job.ask, Ask::Propose { read: None, .. }) {
        next.push(Happening::StoreSilent(owner, true));
        if !job.again {
            next.push(Happening::AsksAgain(owner));
        }
    }
}

/// When a timer of a second hand-over may be due that began with the first one. Before the deadline, such a timer runs
/// from a moment in which a source was noticed to be gone, and so from one at which the clock has stopped: those are
/// `SOURCE_GONE_GRACE` apart, the timer's own length. From the deadline on, it is the deadline's, that of the seals, or
/// that of the source's patience.
fn others_timers(world: &World) -> [Option<Time>; 4] {
    let deadline = Time::ZERO.after(TIME_LEFT);
    let next = world.now.after(SOURCE_GONE_GRACE);
    let after = [deadline, deadline.after(SEAL_GRACE), deadline.after(GENERATION_GRACE)];
    [(world.may.stops > 0 && next < deadline).then_some(next), Some(after[0]), Some(after[1]), Some(after[2])]
}

/// Whether a moment is one of those between a hand-over's own timers of which there are only so many.
pub fn is_stop(world: &World, at: Time) -> bool {
    at < Time::ZERO.after(TIME_LEFT) && next_time(world).is_none_or(|next| at < next)
}

/// Whether all that lives has ended for good.
pub fn all_over(world: &World) -> bool {
    world.sources.iter().all(|node| !node.alive || node.session.state().is_over())
        && world.pairs.iter().all(|pair| pair.state().is_none_or(|state| state.is_over()))
}

fn hears_seal(world: &World, source: usize, target: usize) -> bool {
    let pair: &Pair = world.pair(source, target);
    let Some(session) = &pair.session else { return false };
    let key = seal_key(session.migration(), TARGETS[1 - target]);
    debug_assert_ne!(key, GENERATION_KEY);
    !session.state().is_over() && world.store.seal(&key).is_some()
}

/// When the next timer is due. A proposal is not waited for longer than the store's client asks: it gives up well before,
/// which is the store's silence.
fn next_time(world: &World) -> Option<Time> {
    let asks = |state: SourceState| state == SourceState::Withdrawing;
    let sources = world.sources.iter().filter(|node| node.jobs.is_empty() || !asks(node.session.state()));
    let proposes = |pair: &Pair| pair.state() == Some(TargetState::Proposing) && !pair.jobs.is_empty();
    let targets = world.pairs.iter().filter(|pair| !proposes(pair));
    let sources = sources.filter_map(|node| node.due());
    sources.chain(targets.filter_map(|pair| pair.due())).filter(|due| *due > world.now).min()
}

/// The place of a target's rank; of the first for a rank that is none, which no item has.
pub fn place_of(rank: Option<u32>) -> usize {
    TARGETS.iter().position(|target| Some(*target) == rank).unwrap_or(0)
}

impl Happening {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Arrives(..) => "message arrives",
            Self::Vanishes(..) => "messages vanish",
            Self::Works(..) => "memory job done",
            Self::WriteEnds(..) => "write ends",
            Self::Stores(_) => "store answers",
            Self::AsksAgain(_) => "answer lost",
            Self::StoreSilent(..) | Self::SilentElsewhere(_) => "store silent",
            Self::SourceHears(_) | Self::TargetHears(_) => "generation heard",
            Self::SealHeard(..) => "seal heard",
            Self::Gone(..) | Self::OtherGone(_) => "death noticed",
            Self::Time(_) => "time passes",
            Self::Fires(_) => "timer fires",
            Self::Cuts(_) => "cut",
            Self::Withdraws(_) => "notice withdrawn",
            Self::Leaves(_) => "target leaves",
            Self::SourceDies(_) | Self::TargetDies(_) => "process dies",
            Self::Loses(..) | Self::LosesOther(_) => "connection lost",
            Self::Overtaken(_) => "generation made",
            Self::Retries(_) => "further attempt",
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = |owner: &Owner| match *owner {
            Owner::Source(source) => format!("source {}", SOURCES[source]),
            Owner::Target(source, target) => format!("target {} (for {})", TARGETS[target], SOURCES[source]),
        };
        let way = |source: usize, target: usize, end: End| match end {
            End::Target => format!("from source {} to target {}", SOURCES[source], TARGETS[target]),
            End::Source => format!("from target {} to source {}", TARGETS[target], SOURCES[source]),
        };
        match self {
            Self::Arrives(s, t, end) => write!(f, "message arrives    {}", way(*s, *t, *end)),
            Self::Vanishes(s, t, end) => write!(f, "messages vanish    {}", way(*s, *t, *end)),
            Self::Works(s, t) => write!(f, "memory job done    {}", owner(&Owner::Target(*s, *t))),
            Self::WriteEnds(s, item, end) => {
                write!(f, "write ends         source {}, item {item}: {end:?}", SOURCES[*s])
            }
            Self::Stores(who) => write!(f, "store answers      {}", owner(who)),
            Self::AsksAgain(who) => write!(f, "answer lost        {}, which asks the store again", owner(who)),
            Self::StoreSilent(who, done) => write!(f, "store silent       {}, request done: {done}", owner(who)),
            Self::SourceHears(s) => write!(f, "generation heard   source {}", SOURCES[*s]),
            Self::TargetHears(t) => write!(f, "generation heard   target {}", TARGETS[*t]),
            Self::SealHeard(s, t) => write!(f, "seal heard         {}", owner(&Owner::Target(*s, *t))),
            Self::Gone(s, t, end) => write!(f, "death noticed      {}", way(*s, *t, *end)),
            Self::OtherGone(t) => write!(f, "death noticed      target {} of the other target", TARGETS[*t]),
            Self::Time(at) => write!(f, "time passes        until {at}"),
            Self::Fires(who) => write!(f, "timer fires        {}", owner(who)),
            Self::Cuts(s) => write!(f, "cut                source {}", SOURCES[*s]),
            Self::Withdraws(s) => write!(f, "notice withdrawn   source {}", SOURCES[*s]),
            Self::Leaves(t) => write!(f, "notice             target {}", TARGETS[*t]),
            Self::SourceDies(s) => write!(f, "process dies       source {}", SOURCES[*s]),
            Self::TargetDies(t) => write!(f, "process dies       target {}", TARGETS[*t]),
            Self::Loses(s, t, end) => write!(f, "connection lost    {}", way(*s, *t, *end)),
            Self::LosesOther(t) => write!(f, "connection lost    target {} hears nothing of the other", TARGETS[*t]),
            Self::Overtaken(kind) => write!(f, "generation made    by another migration: {kind}"),
            Self::SilentElsewhere(t) => write!(f, "store silent       target {}, about another migration", TARGETS[*t]),
            Self::Retries(s) => write!(f, "further attempt    source {}", SOURCES[*s]),
        }
    }
}

//! What follows from one step: sessions are told, and what they ask for is under way.

use bytes::Bytes;
use xfer_migrate_core::session::{Input, SourceState, TargetConfig, TargetSession};
use xfer_migrate_core::store::Token;
use xfer_migrate_core::{Body, GenerationRecord, ItemId, Message, Seal, seal};
use xfer_transport_core::{Deadline, Place, RemoteRegion};

use crate::check::{self, Broken};
use crate::fingerprint::Printed;
use crate::forget::forget;
use crate::happening::{End, Happening, Owner, WriteEnd, heirs, is_stop, place_of};
use crate::memo::{Effect, Memo, Stimulus, drain};
use crate::setting::{Mistake, Setting};
use crate::world::{
    Ask, Content, Job, Pair, RECORD, SOURCES, STRANGER, TARGETS, Work, World, begin, content_of, known, matching, peer,
    region_of, strangers,
};

/// Far more than any target of these jobs is offered.
const MEMORY_BYTES: u64 = 1 << 20;

/// What steps are taken with.
pub struct Steps<'a> {
    pub setting: &'a Setting,
    pub memo: &'a mut Memo,
}

type Done = Result<(), Broken>;

impl Steps<'_> {
    /// The first state: what the sources offered is under way.
    pub fn begin(&mut self) -> Result<World, Broken> {
        let mut world = World::new(self.setting);
        world.store = self.memo.store((*world.store).clone());
        for source in 0..world.sources.len() {
            self.start(&mut world, source)?;
        }
        self.settle(&mut world)?;
        Ok(world)
    }

    /// Takes one step; what broke, if something did.
    pub fn take(&mut self, world: &mut World, happening: Happening) -> Done {
        match happening {
            Happening::Arrives(s, t, end) => self.arrives(world, s, t, end)?,
            Happening::Vanishes(s, t, End::Target) => world.pair_mut(s, t).to_target.messages.clear(),
            Happening::Vanishes(s, t, End::Source) => world.pair_mut(s, t).to_source.messages.clear(),
            Happening::Works(s, t) => self.works(world, s, t)?,
            Happening::WriteEnds(s, item, end) => self.write_ends(world, s, item, end)?,
            Happening::Stores(owner) => self.stores(world, owner)?,
            Happening::AsksAgain(owner) => {
                world.may.losses -= 1;
                self.execute(world, owner)?;
                if let Some(job) = jobs(world, owner).front_mut() {
                    job.again = true;
                }
            }
            Happening::StoreSilent(owner, done) => {
                world.may.losses -= 1;
                if done {
                    self.execute(world, owner)?;
                }
                jobs(world, owner).pop_front();
                let lost = Stimulus::Other(Input::StoreLost { reason: "no answer".to_owned() });
                self.tell_process(world, owner, &lost)?;
            }
            Happening::SourceHears(s) => {
                let record = world.store.current().clone();
                self.hears(world, Owner::Source(s), &record)?;
            }
            Happening::TargetHears(t) => {
                let record = world.store.current().clone();
                self.hears(world, Owner::Target(0, t), &record)?;
            }
            Happening::SealHeard(s, t) => {
                world.pair_mut(s, t).watching = false;
                let session = world.pair(s, t).session.as_ref();
                let key = session.map(|session| seal::seal_key(session.migration(), TARGETS[1 - t]));
                if let Some(seal) = key.and_then(|key| world.store.seal(&key)) {
                    self.tell_target(world, s, t, &Stimulus::Other(Input::SealSeen { seal }))?;
                }
            }
            Happening::Gone(s, t, End::Target) => {
                world.pair_mut(s, t).to_target.told = true;
                self.tell_target(world, s, t, &gone(SOURCES[s]))?;
            }
            Happening::Gone(s, t, End::Source) => {
                world.pair_mut(s, t).to_source.told = true;
                self.tell_source(world, s, &gone(TARGETS[t]))?;
            }
            Happening::OtherGone(t) => {
                world.targets[t].told = true;
                for s in 0..world.sources.len() {
                    self.tell_target(world, s, t, &gone(TARGETS[1 - t]))?;
                }
            }
            Happening::Time(at) => {
                world.may.stops -= u8::from(is_stop(world, at));
                world.now = at;
            }
            Happening::Fires(Owner::Source(s)) => self.tell_source(world, s, &Stimulus::Timer)?,
            Happening::Fires(Owner::Target(s, t)) => self.tell_target(world, s, t, &Stimulus::Timer)?,
            Happening::Cuts(s) => {
                self.tell_source(world, s, &Stimulus::Other(Input::Cut { record: Bytes::from_static(RECORD) }))?;
                // When it was too late for it, training goes on.
                let cut = matches!(world.sources[s].session.state(), SourceState::Cut | SourceState::Finished);
                world.source_mut(s).has_cut = cut;
            }
            Happening::Withdraws(s) => {
                world.may.withdrawals -= 1;
                let reason = "the notice was withdrawn".to_owned();
                self.tell_source(world, s, &Stimulus::Other(Input::Withdraw { reason }))?;
            }
            Happening::Leaves(t) => {
                world.may.leaving_targets -= 1;
                world.targets[t].leaving = true;
                let notice = Stimulus::Other(Input::Notice { deadline: Deadline(world.now) });
                for s in 0..world.sources.len() {
                    self.tell_target(world, s, t, &notice)?;
                }
            }
            Happening::SourceDies(s) => source_dies(world, s),
            Happening::TargetDies(t) => target_dies(world, t),
            Happening::Loses(s, t, end) => {
                world.may.losses -= 1;
                let pair = world.pair_mut(s, t);
                if end == End::Target { pair.to_target.lost = true } else { pair.to_source.lost = true }
            }
            Happening::LosesOther(t) => {
                world.may.losses -= 1;
                world.targets[t].apart = true;
            }
            Happening::Overtaken(kind) => {
                world.may.overtakes -= 1;
                let record = Printed::new(strangers(world.store.current(), kind));
                let mut store = (*world.store).clone();
                store.keep()?;
                let read = store.version();
                let token = Token { client: u64::from(STRANGER), sequence: record.generation };
                store.propose(&record, read, token, false, None)?;
                world.store = self.memo.store(store);
            }
            Happening::SilentElsewhere(t) => {
                world.may.losses -= 1;
                let lost = Stimulus::Other(Input::StoreLost { reason: "no answer".to_owned() });
                self.tell_process(world, Owner::Target(0, t), &lost)?;
            }
            Happening::Retries(s) => self.retries(world, s)?,
        }
        self.settle(world)?;
        if self.setting.reduced {
            forget(world);
        }
        check::always(world)
    }

    /// Does at once what isn't a step of its own in this setting, and forgets what nobody listens to.
    fn settle(&mut self, world: &mut World) -> Done {
        loop {
            let mut moved = false;
            for (s, t) in world.places() {
                self.drop_unheard(world, s, t)?;
                if !self.setting.message_steps {
                    for end in [End::Target, End::Source] {
                        let pair = world.pair(s, t);
                        let way = if end == End::Target { &pair.to_target } else { &pair.to_source };
                        let sender = if end == End::Target { world.sources[s].alive } else { world.targets[t].alive };
                        if !way.messages.is_empty() && !way.lost && sender {
                            self.arrives(world, s, t, end)?;
                            moved = true;
                        }
                    }
                }
                if !self.setting.work_steps && !world.pair(s, t).work.is_empty() {
                    self.works(world, s, t)?;
                    moved = true;
                }
            }
            if !self.setting.write_steps {
                for s in 0..world.sources.len() {
                    let first = world.sources[s].writes.keys().next().copied();
                    if let Some(item) = first {
                        let place = place_of(world.sources[s].session.manifest().get(item).map(|item| item.target));
                        let pair = world.pair(s, place);
                        let open = world.targets[place].alive && !pair.fenced;
                        let open = open && !pair.to_target.lost && !pair.to_source.lost;
                        let end = if open { WriteEnd::Applied } else { WriteEnd::Over };
                        self.write_ends(world, s, item, end)?;
                        moved = true;
                    }
                }
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// Messages that a session ignores, now and ever after, may as well not be there. That it does is seen by trying.
    fn drop_unheard(&mut self, world: &mut World, s: usize, t: usize) -> Done {
        let pair = world.pair(s, t);
        let deaf = |name: &str| Broken::new(format!("a {name} that comes too late is not ignored"));
        if !pair.is_listening() && !pair.to_target.messages.is_empty() {
            for message in &pair.to_target.messages {
                let session = pair.session.as_ref().ok_or_else(|| deaf(message.body.name()))?;
                let answer =
                    self.memo.target(session, world.now, &Stimulus::Message(peer(SOURCES[s]), message.clone()));
                // A timer that is due may run on the way; what the message says changes nothing.
                let timer = self.memo.target(session, world.now, &Stimulus::Timer);
                if answer.refused.is_some() || answer.session.print() != timer.session.print() {
                    return Err(deaf(message.body.name()));
                }
            }
            world.pair_mut(s, t).to_target.messages.clear();
        }
        let (source, pair) = (&world.sources[s], world.pair(s, t));
        if !source.is_listening() && !pair.to_source.messages.is_empty() {
            for message in pair.to_source.messages.iter().filter(|_| source.alive) {
                let stimulus = Stimulus::Message(peer(TARGETS[t]), message.clone());
                let answer = self.memo.source(&source.session, world.now, &stimulus);
                let timer = self.memo.source(&source.session, world.now, &Stimulus::Timer);
                // It learns which life of the target speaks, which is the only one there is.
                if answer.refused.is_some() || answer.effects.len() != timer.effects.len() {
                    return Err(deaf(message.body.name()));
                }
            }
            world.pair_mut(s, t).to_source.messages.clear();
        }
        Ok(())
    }

    fn start(&mut self, world: &mut World, s: usize) -> Done {
        let now = world.now;
        let source = world.source_mut(s);
        let mut session = (*source.session).clone();
        let effects = drain(&mut session, now, self.setting.reduced);
        source.session = self.memo.printed(session);
        effects.iter().try_for_each(|effect| self.source_wants(world, s, effect))
    }

    fn retries(&mut self, world: &mut World, s: usize) -> Done {
        world.may.retries -= 1;
        let (now, base) = (world.now, (**world.store.current()).clone());
        let keeps = self.setting.keeps;
        let heirs = if keeps { heirs(world) } else { TARGETS.to_vec() };
        let source = world.source_mut(s);
        source.attempt = if keeps { attempt_towards(source.attempt, &heirs) } else { source.attempt + 1 };
        source.has_cut = false;
        source.end = None;
        source.session = Printed::new(begin(self.setting, SOURCES[s], now, source.attempt, (base, &heirs)));
        source.heirs = heirs;
        for t in 0..2 {
            let pair = world.pair_mut(s, t);
            let (to_target, to_source) = (pair.to_target.clone(), pair.to_source.clone());
            let kept = if keeps { std::mem::take(&mut pair.memory) } else { Default::default() };
            *pair = Pair { to_target, to_source, kept, ..Pair::default() };
        }
        self.start(world, s)
    }

    fn arrives(&mut self, world: &mut World, s: usize, t: usize, end: End) -> Done {
        let pair = world.pair_mut(s, t);
        if end == End::Source {
            let Some(message) = pair.to_source.messages.pop_front() else { return Ok(()) };
            return self.tell_source(world, s, &Stimulus::Message(peer(TARGETS[t]), message));
        }
        let Some(message) = pair.to_target.messages.pop_front() else { return Ok(()) };
        let is_first = matches!(&message.body, Body::Offer(offer) if offer.sequence == 0);
        if pair.session.is_none() && is_first {
            self.begin_target(world, s, t, &message)?;
        }
        self.tell_target(world, s, t, &Stimulus::Message(peer(SOURCES[s]), message))
    }

    /// As a driver does it: the store is read again for an offer that is based on news, and who leaves says so.
    fn begin_target(&mut self, world: &mut World, s: usize, t: usize, message: &Message) -> Done {
        if message.migration.generation > world.targets[t].known {
            let record = world.store.current().clone();
            self.hears(world, Owner::Target(s, t), &record)?;
        }
        let known = world.store.generation(world.targets[t].known);
        let base = known.ok_or_else(|| Broken::new("a target knows a generation that never was"))?;
        let (me, migration) = (peer(TARGETS[t]), message.migration);
        let config = TargetConfig { me, migration, base: (**base).clone(), memory_bytes: MEMORY_BYTES };
        world.pair_mut(s, t).session = Some(self.memo.printed(TargetSession::new(config)));
        if world.targets[t].leaving {
            let notice = Stimulus::Other(Input::Notice { deadline: Deadline(world.now) });
            self.tell_target(world, s, t, &notice)?;
        }
        Ok(())
    }

    fn works(&mut self, world: &mut World, s: usize, t: usize) -> Done {
        let attempt = world.sources[s].attempt;
        let mistake = self.setting.mistake;
        let pair = world.pair_mut(s, t);
        let Some(work) = pair.work.pop_front() else { return Ok(()) };
        let input = match work {
            Work::Allocate(items) => {
                let grant = |(item, len_bytes): (ItemId, u64)| {
                    (item, RemoteRegion { id: region_of(item, attempt), len_bytes, place: Place::Host })
                };
                let mut kept = Vec::new();
                for (item, bytes) in &items {
                    let content = pair.kept.remove(item).unwrap_or(Content::Empty);
                    pair.memory.insert(*item, content);
                    let landed = known(content, *item, *bytes);
                    let there = matching(*item, *bytes, &landed).bytes();
                    if there > 0 {
                        pair.there.insert(*item, there);
                    }
                    kept.push((*item, landed));
                }
                kept.retain(|(_, landed)| !landed.is_empty());
                if !kept.is_empty() {
                    self.tell_target(world, s, t, &Stimulus::Other(Input::Kept { items: kept }))?;
                }
                Input::Allocated { grants: items.into_iter().map(grant).collect() }
            }
            Work::Verify(item, crc32c) => {
                let sum = match pair.memory.get(&item) {
                    Some(Content::Whole) => Some(content_of(item)),
                    Some(Content::Damaged) => Some(!content_of(item)),
                    _ => None,
                };
                Input::Verified { item, crc32c, ok: sum == Some(crc32c) || mistake == Some(Mistake::UnverifiedBytes) }
            }
            Work::Fence => {
                pair.fenced = mistake != Some(Mistake::FenceThatDoesNotHold);
                Input::Fenced
            }
        };
        self.tell_target(world, s, t, &Stimulus::Other(input))
    }

    fn write_ends(&mut self, world: &mut World, s: usize, item: ItemId, end: WriteEnd) -> Done {
        world.source_mut(s).writes.remove(&item);
        let t = place_of(world.sources[s].session.manifest().get(item).map(|item| item.target));
        let alive = world.targets[t].alive;
        let pair = world.pair_mut(s, t);
        let content = match end {
            WriteEnd::Applied => Content::Whole,
            WriteEnd::Damaged => Content::Damaged,
            WriteEnd::Failed | WriteEnd::Over => Content::Torn,
        };
        if alive && !pair.fenced && pair.memory.contains_key(&item) {
            if pair.seal.is_some() {
                return Err(Broken::new(format!("item {item} is written at rank {} after its seal", TARGETS[t])));
            }
            pair.memory.insert(item, content);
        }
        match end {
            WriteEnd::Damaged => world.may.damages -= 1,
            WriteEnd::Failed => world.may.failed_writes -= 1,
            WriteEnd::Applied | WriteEnd::Over => {}
        }
        let input = match end {
            WriteEnd::Applied | WriteEnd::Damaged => Input::Written { item, crc32c: content_of(item) },
            WriteEnd::Failed => Input::WriteFailed { item, retry: true, reason: "damaged".to_owned() },
            WriteEnd::Over => Input::WriteFailed { item, retry: false, reason: "over".to_owned() },
        };
        self.tell_source(world, s, &Stimulus::Other(input))
    }

    /// The oldest job of `owner` is done at the store, and answered.
    fn stores(&mut self, world: &mut World, owner: Owner) -> Done {
        let answer = self.execute(world, owner)?;
        match answer {
            Stored::ToSwap => Ok(()),
            Stored::Seal(seal) => {
                jobs(world, owner).pop_front();
                let Owner::Target(s, t) = owner else { return Ok(()) };
                self.tell_target(world, s, t, &Stimulus::Other(Input::SealSeen { seal }))
            }
            Stored::Generation(record) => {
                jobs(world, owner).pop_front();
                self.hears(world, owner, &record)
            }
        }
    }

    fn execute(&mut self, world: &mut World, owner: Owner) -> Result<Stored, Broken> {
        let job = jobs(world, owner).front().cloned();
        let Some(Job { ask, sequence, again }) = job else { return Err(Broken::new("there is no job to do")) };
        let client = match owner {
            Owner::Source(s) => SOURCES[s],
            Owner::Target(_, t) => TARGETS[t],
        };
        let token = Token { client: u64::from(client), sequence };
        let mut store = (*world.store).clone();
        let stored = match ask {
            Ask::Publish { key, seal } => Stored::Seal(store.publish(&key, &seal, token, again)?),
            Ask::Propose { record, read: None } => {
                if store.current().generation != record.base {
                    return Ok(Stored::Generation(store.current().clone()));
                }
                let read = Some(store.version());
                // Kept before it is replaced. To the swap it makes no difference when: it is the same whoever does it.
                store.keep()?;
                if let Some(job) = jobs(world, owner).front_mut() {
                    job.ask = Ask::Propose { record, read };
                }
                world.store = self.memo.store(store);
                return Ok(Stored::ToSwap);
            }
            Ask::Propose { record, read: Some(read) } => {
                let proposed = store.propose(&record, read, token, again, self.setting.mistake)?;
                if proposed.is_new {
                    check::decision(world, &proposed.record)?;
                }
                Stored::Generation(proposed.record)
            }
        };
        world.store = self.memo.store(store);
        Ok(stored)
    }

    /// A process hears of a generation, reads those that it has missed, and tells all its sessions of each.
    fn hears(&mut self, world: &mut World, owner: Owner, record: &Printed<GenerationRecord>) -> Done {
        let known = match owner {
            Owner::Source(s) => &mut world.source_mut(s).known,
            Owner::Target(_, t) => &mut world.targets[t].known,
        };
        let since = std::mem::replace(known, record.generation.max(*known));
        let records = match self.setting.mistake {
            _ if since >= record.generation => vec![record.clone()],
            Some(Mistake::ForgottenGenerations) => vec![record.clone()],
            _ => world.store.since(since)?,
        };
        records.into_iter().try_for_each(|record| self.tell_process(world, owner, &Stimulus::Generation(record)))
    }

    fn tell_process(&mut self, world: &mut World, owner: Owner, stimulus: &Stimulus) -> Done {
        match owner {
            Owner::Source(s) => self.tell_source(world, s, stimulus),
            Owner::Target(_, t) => (0..world.sources.len()).try_for_each(|s| self.tell_target(world, s, t, stimulus)),
        }
    }

    fn tell_source(&mut self, world: &mut World, s: usize, stimulus: &Stimulus) -> Done {
        if !world.sources[s].alive {
            return Ok(());
        }
        let before = world.sources[s].session.state();
        let answer = self.memo.source(&world.sources[s].session, world.now, stimulus);
        // Its own user may be too late; others are never refused.
        let by_its_user = matches!(stimulus, Stimulus::Other(Input::Cut { .. } | Input::Withdraw { .. }));
        if let Some(refused) = answer.refused.as_ref().filter(|_| !by_its_user) {
            return Err(Broken::new(format!("source {} refuses: {refused}", SOURCES[s])));
        }
        if before.is_over() && answer.session.state() != before {
            return Err(Broken::new(format!("source {} had ended, and goes on", SOURCES[s])));
        }
        world.source_mut(s).session = answer.session.clone();
        answer.effects.iter().try_for_each(|effect| self.source_wants(world, s, effect))
    }

    fn tell_target(&mut self, world: &mut World, s: usize, t: usize, stimulus: &Stimulus) -> Done {
        let Some(session) = &world.pair(s, t).session else { return Ok(()) };
        let before = session.state();
        let answer = self.memo.target(session, world.now, stimulus);
        if let Some(refused) = &answer.refused {
            return Err(Broken::new(format!("target {} refuses: {refused}", TARGETS[t])));
        }
        if before.is_over() && answer.session.state() != before {
            return Err(Broken::new(format!("target {} had ended, and goes on", TARGETS[t])));
        }
        world.pair_mut(s, t).session = Some(answer.session.clone());
        answer.effects.iter().try_for_each(|effect| self.target_wants(world, s, t, effect))
    }

    fn source_wants(&mut self, world: &mut World, s: usize, effect: &Effect) -> Done {
        let now = world.now;
        match effect {
            Effect::Send(to, message) => {
                let t = place_of(Some(*to));
                if world.targets[t].alive && !world.pair(s, t).to_target.lost {
                    world.pair_mut(s, t).to_target.messages.push_back(message.clone());
                }
            }
            Effect::Compare(item, kept) => {
                let bytes = world.sources[s].session.manifest().get(*item).map_or(0, |item| item.bytes);
                let believed = self.setting.mistake == Some(Mistake::BelievedKept);
                let there = if believed { kept.clone() } else { matching(*item, bytes, kept) };
                self.tell_source(world, s, &Stimulus::Other(Input::Compared { item: *item, there }))?;
            }
            Effect::Write(item, to, remote, there) => {
                let t = place_of(Some(*to));
                check::writes(world, s, t, *item, there.bytes())?;
                if world.pair(s, t).there.contains_key(item) {
                    world.pair_mut(s, t).there.remove(item);
                }
                let source = world.source_mut(s);
                let late = source.session.deadline().has_passed(now);
                let granted = remote.id == region_of(*item, source.attempt);
                if late || !granted || source.writes.insert(*item, false).is_some() {
                    return Err(Broken::new(format!("item {item} is written to rank {to} late, twice or elsewhere")));
                }
            }
            Effect::Withdraw(item) => {
                if let Some(cancelled) = world.source_mut(s).writes.get_mut(item) {
                    *cancelled = true;
                }
            }
            Effect::Propose(record) => {
                let source = world.source_mut(s);
                let sequence = u64::from(source.attempt);
                let ask = Ask::Propose { record: record.clone(), read: None };
                source.jobs.push_back(Job { ask, sequence, again: false });
            }
            Effect::Ended(record) => {
                check::obeys(world, record, SOURCES[s])?;
                world.source_mut(s).end = Some(record.clone());
            }
            other => return Err(Broken::new(format!("source {} acts as a target: {other:?}", SOURCES[s]))),
        }
        Ok(())
    }

    fn target_wants(&mut self, world: &mut World, s: usize, t: usize, effect: &Effect) -> Done {
        let sequence = 100 * s as u64 + 10 * u64::from(world.sources[s].attempt);
        match effect {
            Effect::Send(_, message) => {
                check::said(world, s, t, message)?;
                if world.sources[s].alive && !world.pair(s, t).to_source.lost {
                    world.pair_mut(s, t).to_source.messages.push_back(message.clone());
                }
            }
            Effect::Allocate(items) => world.pair_mut(s, t).work.push_back(Work::Allocate(items.clone())),
            Effect::Verify(item, crc32c) => world.pair_mut(s, t).work.push_back(Work::Verify(*item, *crc32c)),
            Effect::Fence => world.pair_mut(s, t).work.push_back(Work::Fence),
            Effect::Publish(key, seal) => {
                check::sealed(world, s, t, seal)?;
                let pair = world.pair_mut(s, t);
                pair.seal = Some(seal.clone());
                let ask = Ask::Publish { key: key.clone(), seal: seal.clone() };
                pair.jobs.push_back(Job { ask, sequence, again: false });
            }
            Effect::Watch => world.pair_mut(s, t).watching = true,
            Effect::Propose(record) => {
                let ask = Ask::Propose { record: record.clone(), read: None };
                world.pair_mut(s, t).jobs.push_back(Job { ask, sequence: sequence + 1, again: false });
            }
            Effect::Ended(record) => {
                check::obeys(world, record, TARGETS[t])?;
                world.pair_mut(s, t).end = Some(record.clone());
            }
            other => return Err(Broken::new(format!("target {} acts as a source: {other:?}", TARGETS[t]))),
        }
        Ok(())
    }
}

/// The number of the attempt after `attempt`, another one for other heirs: of sessions that have ended only the name is looked at, and
/// what they were about has to follow from it.
fn attempt_towards(attempt: u32, heirs: &[u32]) -> u32 {
    let bits = TARGETS.iter().enumerate().filter(|(_, rank)| heirs.contains(rank)).map(|(place, _)| 1 << place);
    (attempt / 4 + 1) * 4 + bits.sum::<u32>()
}

/// What the store said.
enum Stored {
    /// The generation was read; it is yet to be swapped.
    ToSwap,
    Seal(Seal),
    Generation(Printed<GenerationRecord>),
}

fn jobs(world: &mut World, owner: Owner) -> &mut std::collections::VecDeque<Job> {
    match owner {
        Owner::Source(s) => &mut world.source_mut(s).jobs,
        Owner::Target(s, t) => &mut world.pair_mut(s, t).jobs,
    }
}

fn gone(rank: u32) -> Stimulus {
    Stimulus::Other(Input::PeerGone { peer: peer(rank), reason: "gone".to_owned() })
}

/// What it had sent may still arrive; what it was writing ends nowhere.
fn source_dies(world: &mut World, s: usize) {
    world.may.crashes -= 1;
    let source = world.source_mut(s);
    source.alive = false;
    source.writes.clear();
    source.jobs.clear();
    for t in 0..2 {
        world.pair_mut(s, t).to_source.messages.clear();
    }
}

fn target_dies(world: &mut World, t: usize) {
    world.may.crashes -= 1;
    world.targets[t].alive = false;
    for s in 0..world.sources.len() {
        let pair = world.pair_mut(s, t);
        let (to_target, to_source) = (std::mem::take(&mut pair.to_target), std::mem::take(&mut pair.to_source));
        *pair = Pair { to_target, to_source, ..Pair::default() };
        pair.to_target.messages.clear();
    }
}

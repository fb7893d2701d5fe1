//! A side that takes over: it grants, verifies, seals, and decides with the others.

mod alike;
mod ending;
mod state;

use std::collections::{BTreeMap, VecDeque};

use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, RemoteRegion, Time};

use super::ignored::Ignored;
use super::inbox::{Arrived, Inbox, OnSent};
use super::{Event, Input, Output, Violation};
use crate::generation::GenerationRecord;
use crate::item::ItemId;
use crate::limits;
use crate::manifest::Manifest;
use crate::message::{Body, Cut, Message, MigrationId, Offer, Refusal};
use crate::planted::{self, Bug};
use crate::seal::Seal;

pub use state::TargetState;

/// What a [`TargetSession`] begins with.
#[derive(Debug, Clone, Hash)]
pub struct TargetConfig {
    /// This process.
    pub me: PeerId,
    /// What is offered.
    pub migration: MigrationId,
    /// The generation that this process knows to be true. Where the offer is based on a later one, the store must be
    /// read again first: this process has only not heard of it yet.
    pub base: GenerationRecord,
    /// How much memory there is for this migration.
    pub memory_bytes: u64,
}

/// One attempt of another process to leave, seen from a process that takes over.
#[derive(Debug, Clone, Hash)]
pub struct TargetSession {
    state: TargetState,
    config: TargetConfig,
    targets: Vec<u32>,
    owners_after: Vec<(String, u32)>,
    deadline: Deadline,
    manifest: Manifest,
    inbox: Inbox,
    /// The next offer's number.
    sequence: u32,
    cut: Option<Cut>,
    /// Whether memory is fenced, once that was asked for.
    fenced: bool,
    fence_asked_at: Time,
    /// What this target sealed.
    seal: Option<Seal>,
    /// What the store holds, this target's own included.
    seals: BTreeMap<u32, Seal>,
    gone: BTreeMap<u32, String>,
    source_gone: Option<(Time, String)>,
    proposed_at: Time,
    ignored: Ignored,
    outputs: VecDeque<Output>,
    events: VecDeque<Event>,
}

impl TargetSession {
    /// A target that waits for the first offer.
    pub fn new(config: TargetConfig) -> Self {
        Self {
            state: TargetState::Idle,
            config,
            targets: Vec::new(),
            owners_after: Vec::new(),
            deadline: Deadline(Time::MAX),
            manifest: Manifest::default(),
            inbox: Inbox::default(),
            sequence: 0,
            cut: None,
            fenced: false,
            fence_asked_at: Time::MAX,
            seal: None,
            seals: BTreeMap::new(),
            gone: BTreeMap::new(),
            source_gone: None,
            proposed_at: Time::MAX,
            ignored: Ignored::default(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`. Afterwards, poll outputs and events. On an error nothing has changed, except
    /// that timers that were due by `now` have run.
    pub fn handle(&mut self, now: Time, input: Input) -> Result<(), Violation> {
        self.handle_timeout(now);
        match input {
            Input::Message { from, message } => self.on_message(now, from, message)?,
            Input::PeerGone { peer, reason } => self.on_peer_gone(now, peer, reason),
            Input::Notice { .. } => self.on_notice(),
            Input::GenerationSeen { record } => self.on_generation(record)?,
            Input::StoreLost { reason } => self.on_store_lost(reason),
            Input::Kept { items } => self.on_kept(items)?,
            Input::Allocated { grants } => self.on_allocated(grants)?,
            Input::AllocationFailed { reason } => self.on_allocation_failed(reason)?,
            Input::Verified { item, crc32c, ok } => self.on_verified(item, crc32c, ok)?,
            Input::Fenced => self.on_fenced()?,
            Input::SealSeen { seal } => self.on_seal_seen(seal)?,
            Input::Items(_)
            | Input::Cut { .. }
            | Input::Withdraw { .. }
            | Input::Rate(_)
            | Input::Written { .. }
            | Input::WriteFailed { .. }
            | Input::Compared { .. } => {
                return Err(Violation::WrongSide { what: input.name(), side: "target" });
            }
        }
        self.advance(now);
        Ok(())
    }

    /// Does what is due by `now`. Afterwards, poll outputs, events and the next timeout.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        let unanswered =
            self.state == TargetState::Proposing && now >= self.proposed_at.after(limits::PROPOSAL_TIMEOUT);
        if unanswered {
            self.fail("the store did not say what became of the proposal".to_owned());
        }
    }

    /// When to call [`TargetSession::handle_timeout`]; ask again after every input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.state {
            TargetState::Receiving | TargetState::Cut => Some(self.deadline.0),
            TargetState::Fencing if self.fenced => Some(self.verify_until().min(self.seals_until())),
            TargetState::Fencing => Some(self.seals_until()),
            TargetState::Sealed if self.is_published() && self.has_lost_target() => {
                Some(self.deadline.0.min(self.seals_until()))
            }
            TargetState::Sealed => Some(self.seals_until()),
            TargetState::Proposing => Some(self.proposed_at.after(limits::PROPOSAL_TIMEOUT)),
            _ => None,
        }
    }

    /// What to do next; ask until there is nothing, after every input and timeout.
    #[must_use]
    pub fn poll_output(&mut self, _now: Time) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What a user may want to know; ask until there is nothing, after every input and timeout.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where it is.
    pub fn state(&self) -> TargetState {
        self.state
    }

    /// What it is called.
    pub fn migration(&self) -> MigrationId {
        self.config.migration
    }

    /// What was offered so far, to all targets.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The moment after which nothing more comes from the source.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// How many inputs came too late to matter.
    pub fn ignored(&self) -> u64 {
        self.ignored.count()
    }

    fn on_message(&mut self, now: Time, from: PeerId, message: Message) -> Result<(), Violation> {
        if message.migration != self.config.migration {
            return Err(Violation::OtherMigration { theirs: message.migration, ours: self.config.migration });
        }
        if from != self.config.migration.source && !planted::is(Bug::ListenToStrangers) {
            return Err(Violation::Stranger { from });
        }
        let what = message.body.name();
        let early = self.state == TargetState::Idle;
        match message.body {
            Body::Kept { .. }
            | Body::Grants { .. }
            | Body::Refuse { .. }
            | Body::Landed { .. }
            | Body::Damaged { .. } => Err(Violation::WrongSide { what, side: "target" }),
            Body::Offer(offer) if early => self.on_offer(now, offer),
            _ if early => Err(Violation::NotNow { what, state: self.state.name() }),
            _ if !self.state.is_receiving() => {
                self.ignored.one_more();
                Ok(())
            }
            Body::Offer(offer) => self.on_offer(now, offer),
            Body::Sent { item, version, crc32c, send } => self.on_sent(item, version, Arrived { send, crc32c }),
            Body::Cut(cut) => self.on_cut(cut),
            Body::Finished { skipped } => self.inbox.skip(self.config.me.rank, &skipped),
            Body::Deadline { time_left } => {
                self.bring_forward(now, Deadline::after(now, time_left));
                Ok(())
            }
        }
    }

    fn on_offer(&mut self, now: Time, offer: Offer) -> Result<(), Violation> {
        if offer.sequence < self.sequence {
            self.ignored.one_more();
            return Ok(());
        }
        if offer.sequence > self.sequence {
            return Err(Violation::Sequence { what: "offer", found: offer.sequence, expected: self.sequence });
        }
        let deadline = Deadline::after(now, offer.time_left);
        if let Err(refusal) = self.admit(offer) {
            return self.refuse(refusal);
        }
        self.state.on_offer()?;
        self.bring_forward(now, deadline);
        Ok(())
    }

    /// Takes an offer in, or says why not.
    fn admit(&mut self, offer: Offer) -> Result<(), Refusal> {
        let invalid = |reason: &str| Refusal::Invalid { reason: reason.to_owned() };
        let rank = self.config.me.rank;
        if offer.sequence == 0 {
            self.check_terms(&offer)?;
            self.targets = offer.targets;
            self.owners_after = offer.owners_after;
        } else if !offer.targets.is_empty() || !offer.owners_after.is_empty() {
            return Err(invalid("targets and owners belong into the first offer alone"));
        }
        if offer.items.iter().any(|item| !self.targets.contains(&item.target)) {
            return Err(invalid("an item goes to a rank that is not a target"));
        }
        let known = self.manifest.len();
        self.manifest.extend(offer.items).map_err(|error| invalid(&error.to_string()))?;
        if self.cut.as_ref().is_some_and(|cut| self.manifest.len() > cut.total_items as usize) {
            return Err(invalid("there are more items than the cut said"));
        }
        let own = self.manifest.items()[known..].iter().filter(|item| item.target == rank);
        let items = self.inbox.add(offer.sequence, own);
        if self.inbox.bytes() > self.config.memory_bytes {
            let (needed_bytes, available_bytes) = (self.inbox.bytes(), self.config.memory_bytes);
            return Err(Refusal::OutOfMemory { rank, needed_bytes, available_bytes });
        }
        self.sequence += 1;
        if items.is_empty() {
            self.send(Body::Grants { sequence: offer.sequence, grants: Vec::new() });
        } else {
            self.outputs.push_back(Output::Allocate { items });
        }
        Ok(())
    }

    fn check_terms(&self, offer: &Offer) -> Result<(), Refusal> {
        let MigrationId { source, generation: offered, .. } = self.config.migration;
        let (rank, known) = (self.config.me.rank, self.config.base.generation);
        if offered != known {
            return Err(Refusal::OtherGeneration { offered, known });
        }
        if !offer.targets.contains(&rank) {
            return Err(Refusal::NotATarget { rank });
        }
        if offer.targets.contains(&source.rank) {
            return Err(Refusal::Invalid { reason: "the rank that leaves is among the targets".to_owned() });
        }
        Ok(())
    }

    fn on_sent(&mut self, item: ItemId, version: u64, arrived: Arrived) -> Result<(), Violation> {
        match self.inbox.sent(self.config.me.rank, item, version, arrived)? {
            OnSent::Verify => self.outputs.push_back(Output::Verify { item, crc32c: arrived.crc32c }),
            OnSent::Repeat => self.send(Body::Landed { item, send: arrived.send }),
            OnSent::Known => self.ignored.one_more(),
        }
        Ok(())
    }

    fn on_cut(&mut self, cut: Cut) -> Result<(), Violation> {
        if self.cut.as_ref() == Some(&cut) {
            self.ignored.one_more();
            return Ok(());
        }
        if self.manifest.len() > cut.total_items as usize {
            let expected = self.manifest.len() as u32;
            return Err(Violation::Sequence { what: "cut", found: cut.total_items, expected });
        }
        self.state.on_cut()?;
        self.cut = Some(cut);
        self.events.push_back(Event::Cut);
        Ok(())
    }

    /// Says what is there of the items that are granted next, as far as one message can.
    fn on_kept(&mut self, mut items: Vec<(ItemId, Landed)>) -> Result<(), Violation> {
        if !self.state.is_receiving() {
            self.ignored.one_more();
            return Ok(());
        }
        self.inbox.check_kept(&items)?;
        let mut ranges = 0;
        items.retain(|(_, landed)| {
            let count = landed.ranges().count();
            let fits = count > 0 && ranges + count <= limits::KEPT_RANGES_MAX;
            ranges += if fits { count } else { 0 };
            fits
        });
        if !items.is_empty() {
            self.send(Body::Kept { items });
        }
        Ok(())
    }

    fn on_allocated(&mut self, grants: Vec<(ItemId, RemoteRegion)>) -> Result<(), Violation> {
        if !self.state.is_receiving() {
            self.ignored.one_more();
            return Ok(());
        }
        let sequence = self.inbox.allocated(&grants)?;
        self.send(Body::Grants { sequence, grants });
        self.events.push_back(Event::Granted);
        Ok(())
    }

    fn on_allocation_failed(&mut self, reason: String) -> Result<(), Violation> {
        if !self.state.is_receiving() {
            self.ignored.one_more();
            return Ok(());
        }
        self.refuse(Refusal::Allocation { reason })
    }

    fn on_verified(&mut self, item: ItemId, crc32c: u32, ok: bool) -> Result<(), Violation> {
        if !self.state.is_receiving() && self.state != TargetState::Fencing {
            self.ignored.one_more();
            return Ok(());
        }
        let ok = ok || planted::is(Bug::LandUnverified);
        let send = self.inbox.verified(item, crc32c, ok)?;
        self.events.push_back(if ok { Event::Landed { item } } else { Event::Damaged { item } });
        self.send(if ok { Body::Landed { item, send } } else { Body::Damaged { item, send } });
        Ok(())
    }

    /// This process leaves, too. What it has sealed is better kept than refused: a restart of it would cost more.
    fn on_notice(&mut self) {
        if self.state == TargetState::Idle || self.state.is_receiving() {
            // Possible from these states.
            let _ = self.refuse(Refusal::Leaving { rank: self.config.me.rank });
        } else {
            self.ignored.one_more();
        }
    }

    fn on_peer_gone(&mut self, now: Time, peer: PeerId, reason: String) {
        let source = self.config.migration.source;
        if peer == source && self.source_gone.is_none() {
            self.source_gone = Some((now, reason));
        } else if peer.rank != source.rank && peer.rank != self.config.me.rank {
            self.gone.entry(peer.rank).or_insert(reason);
        } else {
            self.ignored.one_more();
        }
    }

    fn on_fenced(&mut self) -> Result<(), Violation> {
        match self.state {
            TargetState::Fencing if !self.fenced => self.fenced = true,
            TargetState::Idle | TargetState::Receiving | TargetState::Cut => {
                return Err(Violation::NotNow { what: "fenced", state: self.state.name() });
            }
            _ => self.ignored.one_more(),
        }
        Ok(())
    }

    fn on_seal_seen(&mut self, seal: Seal) -> Result<(), Violation> {
        // What has ended looks at no seal any more, so it can't refuse one either.
        if self.state.is_over() {
            self.ignored.one_more();
            return Ok(());
        }
        let rank = seal.target.rank;
        let foreign = |item: &ItemId| self.manifest.get(*item).is_some_and(|item| item.target != rank);
        if seal.migration != self.config.migration
            || !self.targets.contains(&rank)
            || seal.landed.iter().chain(&seal.missing).any(foreign)
        {
            return Err(Violation::Seal { rank });
        }
        if self.seals.get(&rank).is_some_and(|known| *known != seal) {
            return Err(Violation::Seal { rank });
        }
        if self.seals.contains_key(&rank) {
            self.ignored.one_more();
            return Ok(());
        }
        if rank == self.config.me.rank && self.seal.as_ref() != Some(&seal) {
            self.fail(format!("an earlier life of rank {rank} has sealed this migration"));
            return Ok(());
        }
        self.seals.insert(rank, seal);
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), Violation> {
        self.state.on_refuse()?;
        self.outputs.push_back(Output::FenceAll);
        self.events.push_back(Event::Refused { by: self.config.me.rank, reason: refusal.to_string() });
        self.send(Body::Refuse { refusal });
        Ok(())
    }

    fn bring_forward(&mut self, now: Time, deadline: Deadline) {
        self.deadline = self.deadline.min(deadline);
        self.advance(now);
    }

    fn send(&mut self, body: Body) {
        let message = Message { migration: self.config.migration, body };
        self.outputs.push_back(Output::Send { to: self.config.migration.source.rank, message });
    }
}

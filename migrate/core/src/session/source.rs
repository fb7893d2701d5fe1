//! The side that leaves: it describes, sends and waits; it doesn't decide.

mod alike;
mod config;
mod ending;
mod state;

use std::collections::VecDeque;

use bytes::Bytes;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, RateInterval, Time};

use super::ignored::Ignored;
use super::outbox::{Again, Found, Outbox};
use super::{Event, Input, Output, Violation};
use crate::cost::RecomputeCost;
use crate::item::{Item, ItemId};
use crate::limits;
use crate::manifest::Manifest;
use crate::message::{Body, Cut, Message, MigrationId, Offer, item_len_bytes};
use crate::plan::{Plan, Planner, Standing};

pub use config::{SourceConfig, SourceConfigError};
pub use state::SourceState;

/// A rank that takes over, as the source knows it.
#[derive(Debug, Clone, Hash)]
struct Target {
    rank: u32,
    /// Which life of it takes part: the one that spoke first.
    peer: Option<PeerId>,
    /// Whether it answered the first offer.
    granted: bool,
    /// Whether it was told that nothing more comes.
    finished: bool,
    gone: bool,
}

/// One attempt to leave, seen from the process that leaves.
#[derive(Debug, Clone, Hash)]
pub struct SourceSession {
    state: SourceState,
    migration: MigrationId,
    config: SourceConfig,
    targets: Vec<Target>,
    manifest: Manifest,
    outbox: Outbox,
    planner: Planner,
    plan: Plan,
    /// The rate that the plan was made with.
    planned_rate: RateInterval,
    /// The next offer's number.
    sequence: u32,
    proposed_at: Option<Time>,
    store_lost: Option<String>,
    ignored: Ignored,
    outputs: VecDeque<Output>,
    events: VecDeque<Event>,
}

impl SourceSession {
    /// Begins to leave: the targets are asked at once.
    pub fn new(now: Time, config: SourceConfig) -> Result<Self, SourceConfigError> {
        config.check()?;
        let migration =
            MigrationId { source: config.source, generation: config.base.generation, attempt: config.attempt };
        let target = |rank: &u32| Target { rank: *rank, peer: None, granted: false, finished: false, gone: false };
        let manifest = Manifest::default();
        let mut session = Self {
            state: SourceState::Offered,
            migration,
            targets: config.targets.iter().map(target).collect(),
            outbox: Outbox::default(),
            plan: Plan::new(&manifest, &config.budget(now), config.policy),
            planned_rate: config.rate,
            planner: Planner::new(&manifest),
            manifest,
            sequence: 0,
            proposed_at: None,
            store_lost: None,
            ignored: Ignored::default(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            config,
        };
        let (targets, owners_after) = (session.config.targets.clone(), session.config.owners_after.clone());
        session.offer(now, targets, owners_after, Vec::new());
        Ok(session)
    }

    /// Takes in what happened at `now`. Afterwards, poll outputs and events. On an error nothing has changed, except
    /// that timers that were due by `now` have run.
    pub fn handle(&mut self, now: Time, input: Input) -> Result<(), Violation> {
        self.handle_timeout(now);
        match input {
            Input::Message { from, message } => self.on_message(now, from, message)?,
            Input::PeerGone { peer, reason } => self.on_peer_gone(now, peer, &reason),
            Input::Notice { deadline } => self.on_notice(now, deadline),
            Input::GenerationSeen { record } => self.on_generation(record)?,
            Input::StoreLost { reason } => self.on_store_lost(reason),
            Input::Items(items) => self.on_items(now, items)?,
            Input::Cut { record } => self.on_cut(record)?,
            Input::Withdraw { reason } => self.on_withdraw(now, reason)?,
            Input::Rate(rate) => self.on_rate(now, rate),
            Input::Written { item, crc32c } => self.on_written(item, crc32c)?,
            Input::WriteFailed { item, retry, reason } => self.on_write_failed(now, item, retry, &reason)?,
            Input::Compared { item, there } => self.on_compared(now, item, there)?,
            Input::Kept { .. }
            | Input::Allocated { .. }
            | Input::AllocationFailed { .. }
            | Input::Verified { .. }
            | Input::Fenced
            | Input::SealSeen { .. } => return Err(Violation::WrongSide { what: input.name(), side: "source" }),
        }
        self.finish_targets()
    }

    /// Does what is due by `now`. Afterwards, poll outputs, events and the next timeout.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.state.is_sending() && self.config.deadline.has_passed(now) {
            self.expire();
        }
        if self.timeout_of_state().is_some_and(|at| now >= at) {
            let waited_for = match self.state {
                SourceState::Expired => "no target's generation was seen after the deadline",
                _ => "the store did not say what became of the proposal to stay",
            };
            let reason = match self.store_lost.take() {
                Some(lost) => format!("{waited_for} ({lost})"),
                None => waited_for.to_owned(),
            };
            self.fail(reason);
        }
    }

    /// When to call [`SourceSession::handle_timeout`]; ask again after every input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.state.is_sending() { Some(self.config.deadline.0) } else { self.timeout_of_state() }
    }

    /// What to do next; ask until there is nothing, after every input and timeout.
    #[must_use]
    pub fn poll_output(&mut self, now: Time) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if !self.state.is_sending() || self.config.deadline.has_passed(now) {
            return None;
        }
        if let Some((item, kept)) = self.outbox.next_to_compare() {
            return Some(Output::Compare { item, kept });
        }
        let (item, to, remote, there) = self.outbox.post()?;
        Some(Output::Write { item, to, remote, there })
    }

    /// What a user may want to know; ask until there is nothing, after every input and timeout.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where it is.
    pub fn state(&self) -> SourceState {
        self.state
    }

    /// What it is called.
    pub fn migration(&self) -> MigrationId {
        self.migration
    }

    /// What was offered so far.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The latest plan, for what was not posted when it was made.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many bytes of an item its target doesn't have yet, as far as that is known of earlier attempts: what a write of it
    /// carries. None if it was not offered.
    pub fn missing_bytes(&self, item: ItemId) -> Option<u64> {
        self.outbox.missing_bytes(item)
    }

    /// The moment after which this process may be gone.
    pub fn deadline(&self) -> Deadline {
        self.config.deadline
    }

    /// How many inputs came too late to matter.
    pub fn ignored(&self) -> u64 {
        self.ignored.count()
    }

    fn on_message(&mut self, now: Time, from: PeerId, message: Message) -> Result<(), Violation> {
        if message.migration != self.migration {
            return Err(Violation::OtherMigration { theirs: message.migration, ours: self.migration });
        }
        let place = self.targets.iter().position(|target| target.rank == from.rank);
        let place = place.ok_or(Violation::Stranger { from })?;
        if self.targets[place].peer.is_some_and(|peer| peer != from) {
            return Err(Violation::Stranger { from });
        }
        let what = message.body.name();
        match message.body {
            Body::Kept { .. }
            | Body::Grants { .. }
            | Body::Refuse { .. }
            | Body::Landed { .. }
            | Body::Damaged { .. }
                if !self.state.is_sending() =>
            {
                self.ignored.one_more();
            }
            Body::Kept { items } => {
                self.outbox.keep(from.rank, &items)?;
                self.replan_if_reweighed(now);
            }
            Body::Grants { sequence, grants } => {
                if sequence >= self.sequence {
                    return Err(Violation::Sequence { what, found: sequence, expected: self.sequence - 1 });
                }
                self.outbox.grant(from.rank, &grants)?;
                if sequence == 0 && !std::mem::replace(&mut self.targets[place].granted, true) {
                    self.on_admitted()?;
                }
            }
            Body::Refuse { refusal } => {
                let reason = refusal.to_string();
                self.events.push_back(Event::Refused { by: from.rank, reason: reason.clone() });
                self.withdraw(now, format!("rank {} refused: {reason}", from.rank))?;
            }
            Body::Landed { item, send } => {
                if self.outbox.landed(from.rank, item, send)? {
                    self.events.push_back(Event::Landed { item });
                } else {
                    self.ignored.one_more();
                }
            }
            Body::Damaged { item, send } => match self.outbox.damaged(from.rank, item, send)? {
                Some(again) => {
                    self.events.push_back(Event::Damaged { item });
                    self.on_again(now, item, again, "it arrived damaged every time");
                }
                None => self.ignored.one_more(),
            },
            Body::Offer(_) | Body::Sent { .. } | Body::Cut(_) | Body::Finished { .. } | Body::Deadline { .. } => {
                return Err(Violation::WrongSide { what, side: "source" });
            }
        }
        self.targets[place].peer = Some(from);
        Ok(())
    }

    fn on_admitted(&mut self) -> Result<(), Violation> {
        if self.targets.iter().all(|target| target.granted) {
            self.events.push_back(Event::Granted);
            if self.state == SourceState::Offered {
                self.state.on_granted()?;
            }
        }
        Ok(())
    }

    fn on_items(&mut self, now: Time, items: Vec<Item>) -> Result<(), Violation> {
        if !matches!(self.state, SourceState::Offered | SourceState::Streaming) {
            return Err(Violation::NotNow { what: "items", state: self.state.name() });
        }
        for item in &items {
            if !self.config.targets.contains(&item.target) {
                return Err(Violation::NotATarget { name: item.name.to_string(), target: item.target });
            }
            if item.cost == (RecomputeCost::Fetch { from: self.config.source.rank }) {
                let rank = self.config.source.rank;
                return Err(Violation::FetchFromSource { name: item.name.to_string(), rank });
            }
        }
        let known = self.manifest.len();
        self.manifest.extend(items)?;
        let mut part = Vec::new();
        let mut part_len_bytes = 0;
        let added: Vec<Item> = self.manifest.items()[known..].to_vec();
        let mut by_id: Vec<&Item> = added.iter().collect();
        by_id.sort_unstable_by_key(|item| item.id);
        by_id.into_iter().for_each(|item| self.outbox.add(item));
        for item in added {
            let len_bytes = item_len_bytes(&item);
            if part_len_bytes + len_bytes > limits::OFFER_ITEMS_LEN_BYTES_MAX {
                self.offer(now, Vec::new(), Vec::new(), std::mem::take(&mut part));
                part_len_bytes = 0;
            }
            part_len_bytes += len_bytes;
            part.push(item);
        }
        if !part.is_empty() {
            self.offer(now, Vec::new(), Vec::new(), part);
        }
        self.planner = self.planner();
        self.replan(now);
        Ok(())
    }

    fn on_cut(&mut self, record: Bytes) -> Result<(), Violation> {
        if record.len() > limits::RECORD_LEN_BYTES_MAX {
            let max_bytes = limits::RECORD_LEN_BYTES_MAX;
            return Err(Violation::RecordTooLong { len_bytes: record.len(), max_bytes });
        }
        self.state.on_cut()?;
        // Within limits, so the number fits.
        let cut = Cut { total_items: self.manifest.len() as u32, record };
        self.send_all(&Body::Cut(cut));
        Ok(())
    }

    fn on_withdraw(&mut self, now: Time, reason: String) -> Result<(), Violation> {
        // It may have decided so by itself meanwhile.
        if matches!(self.state, SourceState::Withdrawing | SourceState::Withdrawn) {
            self.ignored.one_more();
            return Ok(());
        }
        self.withdraw(now, reason)
    }

    fn on_notice(&mut self, now: Time, deadline: Deadline) {
        if !self.state.is_sending() || deadline >= self.config.deadline {
            self.ignored.one_more();
            return;
        }
        self.config.deadline = deadline;
        self.send_all(&Body::Deadline { time_left: deadline.left(now) });
        self.replan(now);
        self.handle_timeout(now);
    }

    fn on_rate(&mut self, now: Time, rate: RateInterval) {
        self.config.rate = rate;
        let planned = self.planned_rate;
        if self.state.is_sending() && (moved(planned.low, rate.low) || moved(planned.high, rate.high)) {
            self.replan(now);
        }
    }

    fn on_written(&mut self, item: ItemId, crc32c: u32) -> Result<(), Violation> {
        let (to, send) = self.outbox.applied(item)?;
        self.is_applied(to, item, send, crc32c);
        Ok(())
    }

    fn on_compared(&mut self, now: Time, item: ItemId, there: Landed) -> Result<(), Violation> {
        match self.outbox.compared(item, there)? {
            Found::All { target, send, crc32c } => self.is_applied(target, item, send, crc32c),
            Found::Rest => {}
            Found::TooLate => self.ignored.one_more(),
        }
        self.replan_if_reweighed(now);
        Ok(())
    }

    /// All bytes of an item are at its target, which checks them.
    fn is_applied(&mut self, to: u32, item: ItemId, send: u32, crc32c: u32) {
        // After the deadline a target may still take it, until its fence.
        let matters = self.state.is_sending() || self.state == SourceState::Expired;
        let gone = self.targets.iter().any(|target| target.rank == to && target.gone);
        let version = self.manifest.get(item).map(|item| item.version);
        match version {
            Some(version) if matters && !gone => self.send(to, Body::Sent { item, version, crc32c, send }),
            _ => self.ignored.one_more(),
        }
    }

    fn on_write_failed(&mut self, now: Time, item: ItemId, retry: bool, reason: &str) -> Result<(), Violation> {
        let gone = |rank| self.targets.iter().any(|target| target.rank == rank && target.gone);
        let retry = retry && !self.manifest.get(item).is_some_and(|item| gone(item.target));
        let again = self.outbox.failed(item, retry)?;
        self.on_again(now, item, again, reason);
        Ok(())
    }

    fn on_again(&mut self, now: Time, item: ItemId, again: Again, reason: &str) {
        match again {
            // A plan that was made while it was on its way gave it no place.
            Again::Queued if self.state.is_sending() => self.replan(now),
            Again::Queued | Again::GivenUp => {}
            Again::Lost => {
                let name = self.manifest.get(item).map_or_else(|| item.to_string(), |item| item.name.to_string());
                self.give_up(now, format!("item `{name}` can't be sent: {reason}"));
            }
        }
    }

    fn on_peer_gone(&mut self, now: Time, peer: PeerId, reason: &str) {
        let is_peer = |target: &&mut Target| target.rank == peer.rank && target.peer.is_none_or(|known| known == peer);
        let Some(target) = self.targets.iter_mut().find(is_peer).filter(|target| !target.gone) else {
            self.ignored.one_more();
            return;
        };
        target.gone = true;
        if !self.state.is_sending() {
            self.ignored.one_more();
            return;
        }
        self.outbox.give_up_target(peer.rank);
        self.events.push_back(Event::TargetLost { rank: peer.rank, reason: reason.to_owned() });
        self.give_up(now, format!("rank {} is gone: {reason}", peer.rank));
    }

    /// Tells each target that has all that it gets.
    fn finish_targets(&mut self) -> Result<(), Violation> {
        if self.state != SourceState::Cut {
            return Ok(());
        }
        for place in 0..self.targets.len() {
            let Target { rank, finished, gone, .. } = self.targets[place];
            if !finished && !gone && self.outbox.is_finished(rank) {
                self.targets[place].finished = true;
                self.send(rank, Body::Finished { skipped: self.outbox.skipped(rank) });
            }
        }
        if self.targets.iter().all(|target| target.finished || target.gone) {
            self.state.on_finished()?;
        }
        Ok(())
    }

    /// For what items weigh now.
    fn planner(&mut self) -> Planner {
        self.outbox.weighed();
        Planner::with(&self.manifest, |item| self.outbox.missing_bytes(item.id).unwrap_or(item.bytes))
    }

    fn replan_if_reweighed(&mut self, now: Time) {
        if self.outbox.is_reweighed() && self.state.is_sending() {
            self.replan(now);
        }
    }

    /// Orders anew what is not posted yet.
    fn replan(&mut self, now: Time) {
        if self.outbox.is_reweighed() {
            self.planner = self.planner();
        }
        let standing = |item: &Item| {
            let told = self.targets.iter().any(|target| target.rank == item.target && target.finished);
            if told { Standing::GivenUp } else { self.outbox.standing(item.id) }
        };
        let (budget, ahead) = (self.config.budget(now), self.outbox.posted_bytes());
        self.plan = self.planner.plan(&self.manifest, &budget, self.config.policy, ahead, standing);
        self.planned_rate = self.config.rate;
        self.outbox.set_order(&self.plan.order);
        self.events.push_back(Event::Planned { verdict: self.plan.verdict });
    }

    fn offer(&mut self, now: Time, targets: Vec<u32>, owners_after: Vec<(String, u32)>, items: Vec<Item>) {
        let time_left = self.config.deadline.left(now);
        let offer = Offer { sequence: self.sequence, time_left, targets, owners_after, items };
        self.sequence += 1;
        self.send_all(&Body::Offer(offer));
    }

    fn send_all(&mut self, body: &Body) {
        for rank in self.config.targets.clone() {
            self.send(rank, body.clone());
        }
    }

    fn send(&mut self, to: u32, body: Body) {
        let message = Message { migration: self.migration, body };
        self.outputs.push_back(Output::Send { to, message });
    }
}

/// Whether a rate moved far enough from the one that was planned with.
fn moved(planned: u64, now: u64) -> bool {
    planned.abs_diff(now).saturating_mul(4) > planned.saturating_mul(limits::REPLAN_RATE_QUARTERS)
}

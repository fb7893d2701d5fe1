//! How a migration ends at a target: fence, seal, propose, obey.

use xfer_transport_core::Time;

use super::{TargetSession, TargetState};
use crate::generation::{GenerationKind, GenerationRecord};
use crate::item::ItemId;
use crate::limits;
use crate::planted::{self, Bug};
use crate::seal::{self, Seal};
use crate::session::decision::Evidence;
use crate::session::{Event, Output, Violation};

impl TargetSession {
    pub(super) fn on_generation(&mut self, record: GenerationRecord) -> Result<(), Violation> {
        if record.generation <= self.config.migration.generation || self.state.is_over() {
            self.ignored.one_more();
            return Ok(());
        }
        let fence = self.state.is_receiving();
        let ends = record.ends(self.config.migration);
        let event = match record.kind {
            GenerationKind::Handoff if ends && !self.is_mine(&record) => {
                self.fail(format!("generation {} counts on bytes that this rank does not have", record.generation));
                return Ok(());
            }
            GenerationKind::Handoff if ends => {
                self.state.on_committed()?;
                Event::Committed { record }
            }
            GenerationKind::Restore if ends => {
                self.state.on_restored()?;
                Event::Restored { record }
            }
            GenerationKind::Withdrawn if ends => {
                self.state.on_withdrawn()?;
                Event::Withdrawn { record }
            }
            _ => {
                self.state.on_superseded()?;
                Event::Superseded { record }
            }
        };
        // Nothing is to be said or written any more; only memory that peers may write to is still to be fenced.
        self.outputs.retain(|output| *output == Output::FenceAll);
        if fence {
            self.outputs.push_back(Output::FenceAll);
        }
        self.events.push_back(event);
        Ok(())
    }

    /// Before its own seal, a target goes on without the store: it may be back by then.
    pub(super) fn on_store_lost(&mut self, reason: String) {
        match self.state {
            TargetState::Fencing | TargetState::Sealed | TargetState::Proposing => self.fail(reason),
            _ => self.ignored.one_more(),
        }
    }

    /// Whether a record's root for this rank is the one that it sealed.
    fn is_mine(&self, record: &GenerationRecord) -> bool {
        let sealed = self.seal.as_ref().map(|seal| (self.config.me.rank, seal.root));
        sealed.is_some_and(|mine| record.roots.contains(&mine))
    }

    /// Takes the steps that follow from what is known at `now`.
    pub(super) fn advance(&mut self, now: Time) {
        if self.state.is_receiving() && self.has_to_seal(now) && self.state.on_fence().is_ok() {
            self.fence_asked_at = now;
            self.outputs.push_back(Output::FenceAll);
        }
        let settled = !self.inbox.is_verifying() || now >= self.verify_until();
        let fenced = self.fenced || planted::is(Bug::SealBeforeFence);
        if self.state == TargetState::Fencing && fenced && settled {
            self.publish();
        }
        if matches!(self.state, TargetState::Fencing | TargetState::Sealed)
            && let Some(record) = self.decision(now)
        {
            self.propose(now, record);
        }
    }

    /// Whether nothing more is to come: all is here, the source is gone, or the time is over.
    fn has_to_seal(&self, now: Time) -> bool {
        let all_offered = self.cut.as_ref().is_some_and(|cut| self.manifest.len() == cut.total_items as usize);
        (all_offered && self.inbox.is_complete()) || self.source_gone.is_some() || self.deadline.has_passed(now)
    }

    fn publish(&mut self) {
        if self.state.on_seal().is_err() {
            return;
        }
        let (migration, target) = (self.config.migration, self.config.me);
        let leaves = self.inbox.leaves();
        let landed: Vec<ItemId> = leaves.iter().map(|leaf| leaf.id).collect();
        let missing = self.inbox.missing();
        self.events.push_back(Event::Sealed { landed: landed.len(), missing: missing.len() });
        let seal = Seal { migration, target, root: seal::root(&leaves), landed, missing, cut: self.cut.clone() };
        self.seal = Some(seal.clone());
        self.outputs.push_back(Output::PublishSeal { key: seal::seal_key(migration, target.rank), seal });
        let others = self.targets.iter().filter(|rank| **rank != target.rank);
        let keys: Vec<String> = others.map(|rank| seal::seal_key(migration, *rank)).collect();
        if !keys.is_empty() {
            self.outputs.push_back(Output::WatchSeals { keys });
        }
    }

    /// The generation to propose now, if it is time for one.
    fn decision(&self, now: Time) -> Option<GenerationRecord> {
        let evidence = Evidence {
            migration: self.config.migration,
            me: self.config.me.rank,
            targets: &self.targets,
            owners_after: &self.owners_after,
            manifest: &self.manifest,
            seals: &self.seals,
            gone: &self.gone,
            source_gone: self.source_gone.as_ref().map(|(_, reason)| reason.as_str()),
        };
        if now >= self.seals_until() {
            return Some(evidence.decide_now());
        }
        if self.state != TargetState::Sealed || !self.is_published() {
            return None;
        }
        if self.has_lost_target() {
            // A source that still has time may withdraw, which is better than a checkpoint.
            let source_may_act = self.source_gone.is_none() && !self.deadline.has_passed(now);
            return (!source_may_act).then(|| evidence.decide_now());
        }
        evidence.decide()
    }

    fn propose(&mut self, now: Time, record: GenerationRecord) {
        if self.state.on_propose().is_ok() {
            self.proposed_at = now;
            self.outputs.push_back(Output::Propose { record });
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        let had_grants = self.state.is_receiving();
        if self.state.on_failed().is_ok() {
            if had_grants {
                self.outputs.push_back(Output::FenceAll);
            }
            self.events.push_back(Event::Failed { reason });
        }
    }

    /// Whether the store holds this target's seal.
    pub(super) fn is_published(&self) -> bool {
        self.seals.contains_key(&self.config.me.rank)
    }

    pub(super) fn has_lost_target(&self) -> bool {
        self.targets.iter().any(|rank| self.gone.contains_key(rank))
    }

    /// Until when verification may hold up the seal.
    pub(super) fn verify_until(&self) -> Time {
        self.fence_asked_at.after(limits::VERIFY_GRACE)
    }

    /// Until when the other targets' seals are waited for.
    pub(super) fn seals_until(&self) -> Time {
        let by_deadline = self.deadline.0.after(limits::SEAL_GRACE);
        match &self.source_gone {
            Some((at, _)) => by_deadline.min(at.after(limits::SOURCE_GONE_GRACE)),
            None => by_deadline,
        }
    }
}

//! How a migration ends at its source: it waits, or proposes to stay, and obeys.

use xfer_transport_core::Time;

use super::{SourceSession, SourceState};
use crate::generation::{GenerationKind, GenerationRecord};
use crate::limits;
use crate::planted::{self, Bug};
use crate::session::{Event, Output, Violation};

impl SourceSession {
    pub(super) fn on_generation(&mut self, record: GenerationRecord) -> Result<(), Violation> {
        if record.generation <= self.migration.generation || self.state.is_over() {
            self.ignored.one_more();
            return Ok(());
        }
        let sending = self.state.is_sending();
        let event = match record.kind {
            GenerationKind::Handoff if record.ends(self.migration) => {
                self.state.on_committed()?;
                Event::Committed { record }
            }
            GenerationKind::Restore if record.ends(self.migration) => {
                self.state.on_restored()?;
                Event::Restored { record }
            }
            GenerationKind::Withdrawn if record.ends(self.migration) => {
                self.state.on_withdrawn()?;
                Event::Withdrawn { record }
            }
            _ => {
                self.state.on_superseded()?;
                Event::Superseded { record }
            }
        };
        // Nothing is to be said or written any more; only writes are still to be cancelled.
        self.outputs.retain(|output| matches!(output, Output::Withdraw { .. }));
        if sending {
            self.withdraw_writes();
        }
        self.events.push_back(event);
        Ok(())
    }

    /// Only a proposal needs the store: items go on without it, and the targets may well reach it.
    pub(super) fn on_store_lost(&mut self, reason: String) {
        if self.state == SourceState::Withdrawing {
            self.fail(reason);
        } else {
            self.store_lost = Some(reason);
        }
    }

    /// Ends this attempt if there is time for another one; otherwise what the targets make of it is better.
    pub(super) fn give_up(&mut self, now: Time, reason: String) {
        let alone = self.targets.iter().all(|target| target.gone);
        if self.state.is_sending() && (alone || self.config.deadline.left(now) >= limits::ATTEMPT_TIME_MIN) {
            // Possible from every state in which items are sent.
            let _ = self.withdraw(now, reason);
        }
    }

    pub(super) fn withdraw(&mut self, now: Time, reason: String) -> Result<(), Violation> {
        let sending = self.state.is_sending();
        self.state.on_withdraw()?;
        self.proposed_at = Some(now);
        if sending {
            self.withdraw_writes();
        }
        let mut record = self.config.base.withdrawn(self.migration, reason);
        if planted::is(Bug::SourceCommits) {
            record.kind = GenerationKind::Handoff;
        }
        self.outputs.push_back(Output::Propose { record });
        Ok(())
    }

    pub(super) fn expire(&mut self) {
        if self.state.on_expired().is_ok() {
            self.withdraw_writes();
            self.events.push_back(Event::Expired);
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        if self.state.on_failed().is_ok() {
            self.events.push_back(Event::Failed { reason });
        }
    }

    /// Cancels what is posted. Called once, on the way out of the states in which items are sent.
    fn withdraw_writes(&mut self) {
        self.outputs.extend(self.outbox.posted().map(|item| Output::Withdraw { item }));
    }

    pub(super) fn timeout_of_state(&self) -> Option<Time> {
        match self.state {
            SourceState::Expired => Some(self.config.deadline.0.after(limits::GENERATION_GRACE)),
            SourceState::Withdrawing => self.proposed_at.map(|at| at.after(limits::PROPOSAL_TIMEOUT)),
            _ => None,
        }
    }
}

//! What leaves at once when a notice comes, and when it must not.
//!
//! Parameters and moments are constant until the optimizer steps, so they can leave the moment a notice arrives, without asking
//! the training loop. The one time they may not be read is inside the optimizer's step: a hand-over waits for its end, and a
//! step waits for no hand-over but is refused, since a node that has begun to leave has taken its last step. A step also makes
//! what was protected stale (other versions, new moments), so it has to be protected again before it can leave.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use xfer_migrate::{HandOver, HandOverError, Migrations, Rescue};

/// What is protected, and whether it may be read now.
#[derive(Clone)]
pub(crate) struct Protection {
    shared: Arc<Shared>,
}

struct Shared {
    migrations: Migrations,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    protected: Option<Protected>,
    updating: bool,
    /// A notice that came when nothing could leave: inside the optimizer's step, or before anything was protected.
    due: Option<Instant>,
}

struct Protected {
    /// In which generation it was protected, if anybody said so.
    generation: Option<u64>,
    targets: Vec<u32>,
    owners_after: Vec<(String, u32)>,
    items: Vec<Rescue>,
}

/// The optimizer is stepping: no hand-over reads protected memory until this is dropped.
#[derive(Debug)]
pub struct UpdateGuard {
    protection: Protection,
}

impl Protection {
    pub(crate) fn new(migrations: Migrations) -> Self {
        Self { shared: Arc::new(Shared { migrations, state: Mutex::new(State::default()) }) }
    }

    /// Replaces what is protected; it leaves at once if a notice waits for it.
    pub(crate) fn set(
        &self,
        generation: Option<u64>,
        targets: Vec<u32>,
        owners_after: Vec<(String, u32)>,
        items: Vec<Rescue>,
    ) {
        let mut state = self.state();
        state.protected = Some(Protected { generation, targets, owners_after, items });
        self.begin_if_due(&mut state);
    }

    /// This process has to go by `deadline`: begins the hand-over of what is protected as soon as it may be read.
    pub(crate) fn leave(&self, deadline: Instant) {
        let mut state = self.state();
        state.due = Some(deadline);
        self.begin_if_due(&mut state);
    }

    /// The notice was withdrawn before anything left.
    pub(crate) fn stay(&self) {
        self.state().due = None;
    }

    /// Marks the optimizer's step; `None` when a hand-over is under way.
    pub(crate) fn update(&self) -> Option<UpdateGuard> {
        let mut state = self.state();
        if under_way(&self.shared.migrations) {
            return None;
        }
        state.updating = true;
        state.protected = None;
        Some(UpdateGuard { protection: self.clone() })
    }

    fn begin_if_due(&self, state: &mut State) {
        let Some(deadline) = state.due else { return };
        let time_left = deadline.saturating_duration_since(Instant::now());
        if under_way(&self.shared.migrations) {
            state.due = None;
            self.shared.migrations.deadline_moved(time_left);
            return;
        }
        let Some(protected) = state.protected.as_ref().filter(|_| !state.updating) else {
            return;
        };
        let hand_over =
            HandOver { targets: protected.targets.clone(), owners_after: protected.owners_after.clone(), time_left };
        let begun = self.shared.migrations.hand_over_in(protected.generation, hand_over, protected.items.clone());
        match begun {
            // It does as soon as something is protected in the generation that follows.
            Err(error @ (HandOverError::NotItsTurn { .. } | HandOverError::Outdated { .. })) => {
                tracing::warn!(%error, "the hand-over of what is protected waits");
                return;
            }
            Err(error) => tracing::error!(%error, "the hand-over of what is protected did not begin"),
            Ok(_) => {}
        }
        state.due = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UpdateGuard {
    fn drop(&mut self) {
        let mut state = self.protection.state();
        state.updating = false;
        self.protection.begin_if_due(&mut state);
    }
}

impl std::fmt::Debug for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Protection")
            .field("items", &state.protected.as_ref().map(|protected| protected.items.len()))
            .field("updating", &state.updating)
            .finish_non_exhaustive()
    }
}

/// Whether a hand-over from this process has begun and not come back as withdrawn: after a commit this process owns
/// nothing, so it has nothing to update either.
fn under_way(migrations: &Migrations) -> bool {
    migrations.outgoing().is_some_and(|outgoing| {
        !matches!(outgoing.outcome(), Some(Ok(outcome)) if outcome.kind == xfer_migrate::OutcomeKind::Withdrawn)
    })
}

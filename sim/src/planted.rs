//! Bugs that are planted in the cores and beside them: each has to be found, or the promises that it breaks are not
//! looked at.

use std::cell::Cell;

use xfer_migrate_core::planted as migrate;
use xfer_transport_core::planted as transport;

use crate::scenario::Scenario;
use crate::world;

thread_local! {
    static SOURCES_ARE_TRUSTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether nobody reads a source again after it was written, on this thread.
pub fn sources_are_trusted() -> bool {
    SOURCES_ARE_TRUSTED.get()
}

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// In the transport.
    Transport(transport::Bug),
    /// In the migration.
    Migrate(migrate::Bug),
    /// In what runs them: nobody reads a source again after it was written.
    TrustSources,
}

impl Bug {
    /// All bugs.
    pub fn all() -> impl Iterator<Item = Self> {
        let cores = transport::Bug::ALL.iter().copied().map(Self::Transport);
        cores.chain(migrate::Bug::ALL.iter().copied().map(Self::Migrate)).chain([Self::TrustSources])
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Transport(bug) => format!("{bug:?}"),
            Self::Migrate(bug) => format!("{bug:?}"),
            Self::TrustSources => format!("{self:?}"),
        }
    }
}

/// How a bug was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How many seeds it took.
    pub seeds: u64,
    /// The promise that was seen to be broken.
    pub promise: String,
    /// How.
    pub how: String,
}

/// Runs seeds from `from` on with `bug` planted until it is found, `count` at most.
pub fn hunt(bug: Bug, from: u64, count: u64) -> Option<Found> {
    plant(Some(bug));
    let found = (0..count).find_map(|at| {
        let seed = from + at;
        let ran = std::panic::catch_unwind(|| world::run(Scenario::of_seed(seed), false));
        let (promise, how) = match ran {
            Ok(outcome) => outcome.broken.map(|broken| (broken.promise.to_owned(), broken.how))?,
            Err(_) => ("panic".to_owned(), "an assertion of the core".to_owned()),
        };
        Some(Found { seeds: at + 1, promise, how })
    });
    plant(None);
    found
}

fn plant(bug: Option<Bug>) {
    SOURCES_ARE_TRUSTED.set(bug == Some(Bug::TrustSources));
    transport::plant(match bug {
        Some(Bug::Transport(bug)) => Some(bug),
        _ => None,
    });
    migrate::plant(match bug {
        Some(Bug::Migrate(bug)) => Some(bug),
        _ => None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cheap part of the hunt: without any of these, nothing would be safe.
    #[test]
    fn bugs_that_break_the_first_promises_are_found_soon() {
        let bugs = [
            Bug::Transport(transport::Bug::SkipFence),
            Bug::Transport(transport::Bug::EndTwice),
            Bug::Transport(transport::Bug::DoneEarly),
            Bug::Migrate(migrate::Bug::CommitWithoutSeals),
            Bug::Migrate(migrate::Bug::SealBeforeFence),
            Bug::Migrate(migrate::Bug::SwapAnyVersion),
            Bug::TrustSources,
        ];
        for bug in bugs {
            assert!(hunt(bug, 0, 1000).is_some(), "{} is not found", bug.name());
        }
    }

    #[test]
    fn without_a_bug_nothing_is_found() {
        plant(None);
        assert!((0..50).all(|seed| world::run(Scenario::of_seed(seed), false).broken.is_none()));
    }
}

//! Runs migration sessions over an endpoint and a compare-and-swap store.
//!
//! `xfer-migrate-core` decides; this crate does: it moves the bytes that a session asks for, checks what landed, talks to the store,
//! and keeps the clock. One thread runs all sessions of a process, and whatever may block (memory, digests, fences, the
//! store) runs beside it.
//!
//! | part | is |
//! |---|---|
//! | [`Migrations`] | the migrations of one process: hand over, take over, who owns what |
//! | [`Outgoing`], [`Incoming`] | one migration, seen from its source or from a target |
//! | [`store`] | the store of a job: over TCP, or in memory |
#![forbid(unsafe_code)]

mod bell;
mod driver;
mod forecast;
mod generations;
mod kept;
mod migrations;
mod outcome;
mod pause;
mod report;
mod rescue;
mod rooms;
mod source;
pub mod store;
mod takeover;
mod target;
mod trace;
mod watch;
mod worker;

pub use bell::Bell;
pub use migrations::{HandOverError, Incoming, Migrations, MigrationsConfig, OfferError, Outgoing, StartError};
pub use outcome::{MigrationError, Outcome, OutcomeKind};
pub use report::{Moved, Report};
pub use rescue::{Cost, HandOver, Rescue};
pub use takeover::{TakeOver, TakeOvers};
pub use trace::{Ended, Trace, Trip};
pub use xfer_plan::manifest::Prospect;
pub use xfer_plan::{Choice, Handling, Mode, Progress};

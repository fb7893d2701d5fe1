//! What a departure would cost, before it happens.
//!
//! A [`Departure`] is what a node that leaves puts at stake: assets with their bytes, operations that can make them
//! again, the open step, a link, a notice. [`plan()`] says what makes it, in which order, in which [`Mode`], what it
//! is expected to cost and what no plan could do better. Departures come from a [`Job`] of a known [`Shape`], or from
//! a manifest that a running job wrote ([`manifest`]). [`Sweep`] compares with what others do, over many jobs and
//! over traces of real preemptions.
//!
//! All of it is arithmetic: no files, clock, threads or chance. Orders and choices are those of
//! [`xfer_migrate_core::plan`], which a running hand-over uses too.
#![forbid(unsafe_code)]

mod baseline;
mod chart;
mod choice;
mod copies;
mod departure;
mod document;
mod evaluate;
mod job;
mod law;
pub mod limits;
pub mod manifest;
mod memory;
mod mode;
mod page;
mod report;
mod script;
mod shape;
mod sweep;
pub mod trace;

pub use baseline::Baseline;
pub use chart::loss_against_link;
pub use choice::{Choice, choose};
pub use copies::{Copies, Standing};
pub use departure::{Asset, Departure, DepartureError, Handling, Operation, Progress, Window};
pub use document::document;
pub use evaluate::{Outcome, OutcomeKind, Parts};
pub use job::{Job, JobError, SPILL_RANK};
pub use law::{KillLaw, LinkEstimate};
pub use memory::Shortage;
pub use mode::Mode;
pub use page::page;
pub use report::{Expected, Fate, Planned, Remedies, Row, plan};
pub use script::Script;
pub use shape::{Device, Family, Shape};
pub use sweep::{Cell, Comparison, CopiesCell, Sweep, SweepError, compare};
pub use xfer_migrate_core::plan::Computing;

//! Migration decisions without I/O.
//!
//! A rank that is told to leave owns bytes that nobody else has. This crate decides which of them are worth
//! moving before the deadline and in which order ([`Plan`]), runs both sides of their move ([`session`]), and makes
//! ownership pass in one atomic step ([`GenerationRecord`], in the [`store`]). It has no sockets, no clock, no threads,
//! no randomness and no `unsafe`: time and events come in as arguments, actions come out.
//!
//! | part | what it decides |
//! |---|---|
//! | [`Item`], [`Manifest`] | what there is, and what can be had again without its bytes ([`coverage()`]) |
//! | [`Budget`], [`Plan`], [`plan`] | what to send, in which order, and what will become of the rest |
//! | [`session`] | offer, grants, landing, seals, commit: both sides, in every fault |
//! | [`Message`], [`Seal`], [`GenerationRecord`] | what travels and what is kept, as bounded bytes |
//! | [`Kept`] | what of an attempt that ended is worth keeping for the next |
//! | [`store`] | who wins a compare-and-swap |
//! | [`limits`] | how much of everything there may be, and why |
#![forbid(unsafe_code)]

mod budget;
mod codec;
mod cost;
mod generation;
mod item;
mod kept;
pub mod limits;
mod manifest;
mod message;
pub mod plan;
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
pub mod seal;
pub mod session;
pub mod store;

pub use budget::Budget;
pub use codec::DecodeError;
pub use cost::RecomputeCost;
pub use generation::{GenerationKind, GenerationRecord, Root};
pub use item::{GroupId, Item, ItemClass, ItemId};
pub use kept::Kept;
pub use manifest::{Coverage, Manifest, ManifestError, coverage};
pub use message::{Body, Cut, Message, MigrationId, Offer, Refusal};
pub use plan::{Plan, PlanPolicy, PlanRow, Verdict};
pub use seal::Seal;

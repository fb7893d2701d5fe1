//! Exhaustive search of a hand-over: every order in which things can happen to a small job.
//!
//! The production sessions and the production store of `xfer-migrate-core` run in a world of one or two sources,
//! two targets and a store. From each state the search goes on with everything that can happen next:
//! a message arrives, a job is done, a timer fires, a process dies, a connection is lost. A state that was seen before
//! isn't looked at again, so the search ends, and then it has seen them all. In each state it is checked that nothing
//! is broken that a hand-over promises; [`check`] says in words what that is.
//!
//! | part | what it is |
//! |---|---|
//! | [`Setting`] | who takes part, what may go wrong, how small the steps are, which mistake is made on purpose |
//! | [`check`] | what must hold |
//! | [`Search`] | breadth first, so that the way to a violation is the shortest |
//!
//! `docs/exhaustive.md` says what is covered and what isn't.
#![forbid(unsafe_code)]

mod apply;
mod beside;
pub mod check;
mod fingerprint;
mod forget;
mod happening;
mod memo;
mod search;
mod setting;
mod store;
mod world;

pub use check::Broken;
pub use search::{Report, Search, Trace};
pub use setting::{Budget, Mistake, Setting};

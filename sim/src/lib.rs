//! A deterministic simulator of the two cores.
//!
//! It runs whole jobs in virtual time: processes with the production paths, links and sessions, a store with the
//! production service, and a network, memory and clock that are modelled. One seed decides everything that happens, so
//! that a run can be repeated exactly; what must always hold is looked at after every event.
//!
//! | part | what it is |
//! |---|---|
//! | [`scenario`] | what a run begins with and what goes wrong in it, from a seed |
//! | [`world`] | runs a scenario: faults first, then everything heals and the job has to go on |
//! | [`check`] | the promises as invariants |
//! | [`endpoint`], [`client`], [`node`] | what the crates around the cores do, without threads and sockets |
//! | [`network`], [`memory`], [`store`] | what is modelled: lines, who may write what, the store's process |
//! | [`trace`] | what happened, one event a line |
#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod endpoint;
pub mod happening;
pub mod matrix;
pub mod memory;
pub mod network;
pub mod node;
pub mod outside;
#[cfg(feature = "planted")]
pub mod planted;
pub mod random;
pub mod scenario;
pub mod shard;
pub mod store;
pub mod trace;
pub mod world;

pub use xfer_faults::step;

/// The commit that this was built from, as far as the build knew.
pub const COMMIT: &str = match option_env!("XFER_SIM_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

//! Faults on purpose: a proxy between the processes of a job, for tests and for rehearsals.
//!
//! A process is told to give out the proxy's address instead of its own (`XFER_ADVERTISE`), or to look for its store there
//! (`XFER_STORE`). Everything then passes through here and can be delayed, held up, slowed, and, frame by frame, doubled, swapped,
//! damaged, cut off or thrown away; what is left to chance is decided by a seed.
//!
//! | part | is |
//! |---|---|
//! | [`Proxy`] | listens, and passes on what it is not told to spoil |
//! | [`Faults`], [`Rule`] | what is done to what passes one way |
//!
//! Whole frames are the unit: TCP itself never loses, doubles or swaps bytes, so a fault that is to be noticed as what it is has to
//! keep the frames around it sound.
#![forbid(unsafe_code)]

mod chance;
mod faults;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
mod proxy;
mod pump;

pub use faults::{Action, Callers, Faults, Rule, Way};
pub use proxy::{Proxy, ProxyError};

//! Transport decisions without I/O.
//!
//! This crate holds what decides in the transport: which chunk leaves next, what a frame means, when a
//! link is dead, which bytes must be sent again. It has no sockets, no clock, no threads, no randomness and no
//! `unsafe`: time and events come in as arguments, actions come out.
#![forbid(unsafe_code)]

mod codec;
pub mod deadline;
pub mod egress;
pub mod forecast;
pub mod frame;
pub mod inbound;
pub mod integrity;
pub mod landed;
pub mod lane;
pub mod limits;
pub mod link;
pub mod message;
pub mod outbound;
pub mod pacing;
pub mod packet;
pub mod path;
pub mod peer;
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
pub mod rate;
pub mod rdma;
pub mod region;
pub mod schedule;
pub mod steadiness;
pub mod stream;
pub mod ticket;
pub mod time;

pub use codec::DecodeError;
pub use deadline::Deadline;
pub use forecast::{Admission, Forecast};
pub use lane::Lane;
pub use peer::{BackendId, PeerId};
pub use rate::{Measured, RateInterval};
pub use region::{Place, RegionId, RemoteRegion, RemoteSlice};
pub use time::Time;

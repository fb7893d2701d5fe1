//! xfer moves the state of a training job off machines that are taken away.
//!
//! This crate is the front door: what a training program, its Python package and the tools use.
//!
//! | module | is |
//! |---|---|
//! | [`Engine`] | one process's end: peers, tagged sends and receives, notices, migrations |
//! | [`migrate`] | handing over and taking over, whatever the framework |
//! | [`config`] | what can be set, and where each value comes from |
//! | [`notice`] | who says that this machine goes away, and when |
//! | [`store`] | the agreement of the job's processes: values with compare-and-swap |
//! | [`log`] | log lines |
//!
//! Two processes, one tensor:
//!
//! ```no_run
//! use std::time::Duration;
//! use xfer::{EngineBuilder, Lane, Region};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rank: u32 = std::env::args().nth(1).ok_or("usage: PROGRAM RANK")?.parse()?;
//! let engine = EngineBuilder::new(rank, 2)?.store("127.0.0.1:29501").start()?;
//! engine.connect(Duration::from_secs(30))?;
//! let memory = Region::allocate(64 << 20)?;
//! let tensor = match rank {
//!     0 => engine.send(memory, 1, "weights", Lane::Step),
//!     _ => engine.recv(&memory, 0, "weights"),
//! };
//! let bytes = tensor.wait(Some(Duration::from_secs(10))).ok_or("nobody answered in time")??;
//! println!("{bytes} bytes moved, verified");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod builder;
pub mod config;
mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod log;
mod metrics;
pub mod notice;
mod protect;
mod tagged;
mod trace;

pub use builder::EngineBuilder;
pub use engine::{Engine, EngineError};
pub use protect::UpdateGuard;
pub use tagged::{Operation, Stopped, TAG_LEN_MAX_BYTES, Tagged, TaggedError, WANTS_MAX_PER_PEER};
pub use xfer_migrate::{Bell, store};
pub use xfer_transport::{
    Cancelled, Endpoint, EndpointConfig, Grant, MemoryError, Region, Slice, TransferError, TransferHandle, Transferred,
};
pub use xfer_transport_core::{Deadline, Lane, PeerId, Place, RegionId, RemoteRegion, RemoteSlice, Time};

/// Handing over and taking over: items, sessions and their outcome.
pub mod migrate {
    pub use xfer_migrate::{
        Choice, Cost, Ended, HandOver, HandOverError, Handling, Incoming, MigrationError, Migrations, MigrationsConfig,
        Mode, Moved, OfferError, Outcome, OutcomeKind, Outgoing, Progress, Prospect, Report, Rescue, TakeOver,
        TakeOvers, Trace, Trip,
    };
    pub use xfer_migrate_core::{GenerationKind, GenerationRecord, Item, ItemClass};
}

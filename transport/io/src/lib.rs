//! Moves bytes between the memories of processes: regions, backends, the endpoint.
//!
//! The receiver grants memory; a sender writes into live grants only. Each transfer has a lane, may have a deadline,
//! is verified at its destination, and can be cancelled for sure: what is decided is in
//! [`xfer_transport_core`], what is done is here.
//!
//! ```
//! use std::time::Duration;
//! use xfer_transport::{Endpoint, EndpointConfig, Lane, PeerId, Region};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let start = |rank| Endpoint::start(EndpointConfig::new(PeerId { rank, incarnation: 1 }, "example"));
//! let (sender, receiver) = (start(0)?, start(1)?);
//! sender.connect(&receiver.ticket(), Duration::from_secs(5))?;
//!
//! // The receiver grants memory to the sender; `remote` travels to it in a message.
//! let destination = Region::allocate(1 << 20)?;
//! let grant = receiver.grant(&destination, sender.id())?;
//! let remote = grant.remote();
//!
//! let source = Region::from_vec(vec![7; 1 << 20]);
//! let deadline = sender.deadline_in(Duration::from_secs(10));
//! let done = sender.write(receiver.id(), source.all(), remote.all(), Lane::Step, Some(deadline)).wait(None)?;
//! assert_eq!((done.bytes, done.crc32c), (1 << 20, destination.crc32c()));
//! # Ok(())
//! # }
//! ```

pub mod backend;
mod backlog;
mod beats;
mod config;
pub mod conformance;
mod dial;
mod endpoint;
mod error;
mod flight;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod grants;
mod greeting;
mod histogram;
mod hub;
mod intake;
pub mod limits;
mod loans;
mod memory;
mod peer;
mod peers;
mod shared;
mod stats;
mod transfer;
#[doc(hidden)]
pub mod unsummed;
mod wake;
mod worker;

pub use xfer_transport_core as core;
pub use xfer_transport_core::landed::Landed;
pub use xfer_transport_core::message::{LoanRefusal, Refusal, RejectReason};
pub use xfer_transport_core::path::WriteError;
pub use xfer_transport_core::ticket::TicketError;
pub use xfer_transport_core::{
    Admission, BackendId, Deadline, Forecast, Lane, Measured, PeerId, Place, RateInterval, RegionId, RemoteRegion,
    RemoteSlice, Time,
};

pub use config::EndpointConfig;
pub use endpoint::{Endpoint, Route};
pub use error::{ConnectError, DownReason, GrantError, LendError, LoanError, SendError, StartError, TransferError};
pub use flight::{FlightEnd, FlightRecord};
pub use grants::{Fenced, Grant};
pub use histogram::Histogram;
pub use hub::{Channel, Incoming, PeerEvent};
pub use intake::{Intake, Landing};
pub use loans::{Borrowed, Loan};
pub use memory::{MemoryError, Region, Slice, arena_bytes_in_use};
pub use stats::{Counter, LaneStats, Stats};
pub use transfer::{Cancelled, Reading, Source, TransferHandle, Transferred};

//! RDMA verbs: libibverbs opened at run time, and owners of its objects that end them in the right order.
//!
//! Each owner keeps alive what it needs: a queue pair its completion queue and its protection domain, these the device. What a
//! device does to memory is asked for by calls that are `unsafe`, and say for how long the memory has to stay.
#![allow(unsafe_code, reason = "a foreign library is called, which is given memory that a device reads and writes")]

mod abi;
mod completion;
mod device;
mod error;
mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod layout;
mod library;
mod memory;
mod queue_pair;

pub use completion::{Completion, CompletionChannel, CompletionQueue, Status};
pub use device::{Context, Gid, GidKind, LinkLayer, Port, device_names};
pub use error::VerbsError;
pub use event::Event;
pub use layout::layout;
pub use library::is_there;
pub use memory::{Access, MemoryRegion, MemoryWindow, ProtectionDomain};
pub use queue_pair::{Capacity, Part, Path, QueuePair, Timing, Work};

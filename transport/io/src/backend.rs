//! What moves bytes: a backend opens and accepts links, a link carries frames. The seam for CUDA and NCCL
//! too.
//!
//! A link is polled and never blocks. The sending side hands it operations; one that doesn't fit comes back. The
//! receiving side places bytes through the [`Intake`] it is given, which knows the live grants and the fence: a
//! backend can't write memory in any other way.

mod frame;
pub mod shm;
pub mod sim;
pub mod tcp;
pub mod verbs;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xfer_transport_core::BackendId;
use xfer_transport_core::frame::{FrameError, FrameHeader};
use xfer_transport_core::ticket::Ticket;

use crate::intake::Intake;
use crate::memory::Slice;
use crate::transfer::Source;

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// It reaches other machines.
    pub crosses_hosts: bool,
    /// Its payload bytes can't change on the way unnoticed, even without our checksums.
    pub checks_payload: bool,
    /// Copies of each payload byte that it makes in user space.
    pub copies: u8,
}

/// A way to reach peers.
pub trait Backend: Send + Sync + 'static {
    /// Which one it is.
    fn id(&self) -> BackendId;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Where it listens: what [`Backend::open`] of another process takes.
    fn address(&self) -> Bytes;

    /// Connects to where a backend of the same kind listens, within `timeout`.
    fn open(&self, address: &[u8], timeout: Duration) -> io::Result<Box<dyn Link>>;

    /// The next connection from outside; `None` if there was none within `timeout`.
    fn accept(&self, timeout: Duration) -> io::Result<Option<Box<dyn Link>>>;

    /// Words for an address, for messages to people.
    fn describe(&self, address: &[u8]) -> String;

    /// Stops listening; what is open stays open.
    fn close(&self);
}

/// One connection to one peer. All calls return at once.
pub trait Link: Send {
    /// Whose it is.
    fn backend(&self) -> BackendId;

    /// Whether it would take another operation now.
    fn has_room(&self) -> bool;

    /// Takes `op`, or gives it back when the link has enough to do: offer it again after [`Link::poll`].
    fn submit(&mut self, op: Op) -> Result<(), Op>;

    /// Whether it sums a chunk of so many bytes by itself, when that hides behind something else: then its header has no sum
    /// when it is submitted.
    fn sums(&self, _len_bytes: u32) -> bool {
        false
    }

    /// Sends what was submitted and takes in what has arrived, as far as that goes without waiting.
    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError>;

    /// Nothing more is submitted for now.
    fn submitted(&mut self) {}

    /// Whether [`Link::readiness`] says nothing before [`Link::rest`] was called.
    fn rests(&self) -> bool {
        false
    }

    /// Somebody is about to wait for [`Link::readiness`]. Whether there is something to do instead.
    fn rest(&mut self) -> bool {
        false
    }

    /// What there is to look at, for whoever looks instead of sleeping.
    fn sight(&self) -> Sight {
        Sight::None
    }

    /// Somebody begins to look, or stops. Ask [`Link::peek`] meanwhile, and once more after the end.
    fn look(&mut self, _begins: bool) {}

    /// Whether something has arrived, as far as its [`Sight`] goes.
    fn peek(&mut self) -> bool {
        false
    }

    /// Takes in what [`Link::peek`] has seen, at least.
    fn poll_peeked(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.poll(intake)
    }

    /// Whether everything that was submitted has left this process.
    fn is_drained(&self) -> bool;

    /// What becomes readable or writable when there is more to do.
    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync>;

    /// What of it to wait for.
    fn interest(&self) -> Interest;

    /// A moment at which there is something to do without anything becoming ready.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// How it moves ordinary memory, where there is more than one way.
    fn manner(&self) -> Option<Manner> {
        None
    }

    /// How it moved memory of devices, where there is more than one way, once there was some.
    fn dmabuf_manner(&self) -> Option<Manner> {
        None
    }

    /// A descriptor that becomes readable when the process at the other end is over, where that can be known.
    fn process(&self) -> Option<Arc<OwnedFd>> {
        None
    }

    /// Says that nothing more will be sent. What was sent before still arrives.
    fn finish(&mut self);
}

/// What whoever looks for something to arrive can see of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Nothing before [`Link::readiness`] tells of it.
    None,
    /// Memory, for next to nothing; what is not there [`Link::readiness`] tells of.
    Memory,
    /// Everything that [`Link::readiness`] tells of, for a system call: nobody else has to be told of it meanwhile.
    Everything,
}

/// Something to send.
#[derive(Debug)]
pub enum Op {
    /// A chunk, read from its source while the source's gate is open.
    Chunk {
        /// Its header, with the checksum of the source as it was when it was scheduled, unless the [link sums](Link::sums).
        header: FrameHeader,
        /// Where its bytes are.
        source: Source,
    },
    /// Anything else.
    Message {
        /// Its header.
        header: FrameHeader,
        /// Its bytes.
        payload: Bytes,
        /// Memory that the other end has to see when it reads the message, if there is a way to show it.
        shows: Option<Slice>,
    },
}

impl Op {
    /// Bytes of its payload.
    pub fn len_bytes(&self) -> u64 {
        let (Self::Chunk { header, .. } | Self::Message { header, .. }) = self;
        u64::from(header.len_bytes)
    }
}

/// How memory of one kind is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    /// Copies of each byte, the kernel's between two processes included.
    pub copies: u8,
    /// Which way that is, and why no better one.
    pub sentence: String,
}

/// What a link waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Something arrives.
    pub readable: bool,
    /// There is room to send.
    pub writable: bool,
    /// There is more to do right now.
    pub at_once: bool,
}

/// Whether somebody listens where a ticket says, asked for at most `timeout` at each address.
pub fn answers(ticket: &Ticket, timeout: Duration) -> bool {
    ticket.addresses.iter().any(|(backend, address)| match backend {
        BackendId::Tcp => tcp::answers(address, timeout),
        BackendId::Shm => shm::answers(address, timeout),
        // The connection that introduces queue pairs is one of TCP.
        BackendId::Verbs => tcp::answers(address, timeout),
        _ => false,
    })
}

/// A way to move bytes, and whether it can be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Which one.
    pub backend: BackendId,
    /// What was found, or why it can't be used.
    pub found: Result<String, String>,
}

/// Tries all backends of this build, the preferred one first.
pub fn probe() -> Vec<Probe> {
    let passed = "sealed memory files can be passed to processes of this user";
    let shm = shm::ShmBackend::bind().map(|_| format!("{passed}; {}", shm::ordinary_memory()));
    let tcp = tcp::TcpBackend::bind(([127, 0, 0, 1], 0).into()).map(|_| "a socket of this machine listens".to_owned());
    let [shm, tcp] = [shm, tcp].map(|found| found.map_err(|error| error.to_string()));
    [(BackendId::Shm, shm), (BackendId::Verbs, verbs::probe()), (BackendId::Tcp, tcp)]
        .map(|(backend, found)| Probe { backend, found })
        .into()
}

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The other end closed it.
    #[error("closed by the other end")]
    Closed,
    /// The system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What arrived is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// What arrived is a frame that may not be.
    #[error("protocol violation: {0}")]
    Violation(String),
}

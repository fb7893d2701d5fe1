//! What can go wrong, one enum an operation.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use xfer_transport_core::limits::{CHANNELS_MAX, MESSAGE_BYTES_MAX};
use xfer_transport_core::message::{LoanRefusal, Refusal, RejectReason};
use xfer_transport_core::ticket::TicketError;
use xfer_transport_core::{BackendId, PeerId, RegionId, frame};

use crate::backend::LinkError;
use crate::limits::{GRANTS_MAX, LOANS_MAX};

/// Why an endpoint doesn't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting that can't be.
    #[error("{0}")]
    Config(String),
    /// Without encryption, only this machine may connect.
    #[error(
        "{0} can be reached from other machines and links are not encrypted yet: \
         bind 127.0.0.1, or set XFER_INSECURE=1 on a trusted network"
    )]
    Exposed(SocketAddr),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// Memory can't be shared here, and it was asked for by name.
    #[error("no shared memory here: {0}; leave `shm` out of XFER_TRANSPORTS")]
    NoSharedMemory(std::io::Error),
    /// RDMA can't be used here, and it was asked for by name.
    #[error("no RDMA here: {0}; leave `verbs` out of XFER_TRANSPORTS and XFER_VERBS_DEVICE unset")]
    NoVerbs(std::io::Error),
    /// The system gives no thread or descriptor.
    #[error("can't start: {0}")]
    System(#[from] std::io::Error),
}

/// Why a peer can't be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The bytes are no ticket that this build can use.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The ticket is of another job.
    #[error("the ticket is of job {theirs:?}, this process is in {ours:?}")]
    OtherJob {
        /// The ticket's job.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The ticket is our own.
    #[error("{0} can't connect to itself")]
    Myself(PeerId),
    /// A later life of the rank is connected.
    #[error("{peer} is of the past: {later} is connected")]
    Superseded {
        /// Whom the ticket names.
        peer: PeerId,
        /// Who is connected.
        later: PeerId,
    },
    /// No backend of the ticket is here.
    #[error("{0} listens on nothing that this build can reach")]
    NoCommonBackend(PeerId),
    /// Nobody answers there.
    #[error("can't reach {peer} over {backend} at {address}: {error}")]
    Unreachable {
        /// Who is meant.
        peer: PeerId,
        /// Over what.
        backend: BackendId,
        /// Where.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The peer refuses.
    #[error("{peer} refuses: {sentence}")]
    Refused {
        /// Who refuses.
        peer: PeerId,
        /// Why.
        reason: RejectReason,
        /// Its own words.
        sentence: String,
    },
    /// The ends speak different wire versions.
    #[error("{peer} speaks wire version {theirs}, this build {ours}: run the same xfer on all ranks", ours = frame::VERSION)]
    Version {
        /// Who was meant.
        peer: PeerId,
        /// Its version.
        theirs: u8,
    },
    /// Another process answers there.
    #[error("{found} answers where {expected} should: the ticket is out of date")]
    WrongPeer {
        /// Whom the ticket names.
        expected: PeerId,
        /// Who answers.
        found: PeerId,
    },
    /// The connection broke before both ends knew each other.
    #[error("lost {peer} while greeting: {reason}")]
    Lost {
        /// Who was meant.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// An earlier connection to the peer ended while this one began.
    #[error("the connection to {0} began anew meanwhile: connect again")]
    BeganAnew(PeerId),
    /// It took too long.
    #[error("{peer} did not answer within {after:?}")]
    TimedOut {
        /// Who was meant.
        peer: PeerId,
        /// How long it was waited for.
        after: Duration,
    },
    /// The endpoint is shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
}

/// Why memory can't be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// The table of grants is full.
    #[error("{GRANTS_MAX} grants are live: revoke some, or grant larger regions")]
    TooMany,
    /// The endpoint is shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
}

/// Why a message can't be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Longer than a message can be.
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes, this one has {0}: write it into a grant")]
    TooLong(usize),
    /// The peer is not connected (any more).
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The peer doesn't take its messages fast enough.
    #[error("the queue of this channel to {0} is full: it doesn't take its messages, try again later")]
    Full(PeerId),
    /// Too many channels are in use.
    #[error("{CHANNELS_MAX} channels to {0} are in use: use fewer")]
    TooManyChannels(PeerId),
    /// The endpoint is shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
}

/// Why memory can't be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LendError {
    /// It is memory that no other process can see.
    #[error("this memory can't be read where it lies: allocate it with `Region::shared`, or write it")]
    NotShared,
    /// The peer doesn't see the memory of this machine.
    #[error("{0} isn't reached over shared memory: write to it instead")]
    OtherMachine(PeerId),
    /// As much is lent as may be.
    #[error("{LOANS_MAX} loans to {0} are not back: lend larger pieces, or wait for some")]
    TooMany(PeerId),
    /// The peer is not connected (any more).
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The endpoint is shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
}

/// How a loan ended, if not by being given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoanError {
    /// The peer doesn't take it, and has not read it.
    #[error("{by} does not take the loan: {refusal}", refusal = loan_refusal_words(*refusal))]
    Refused {
        /// Who.
        by: PeerId,
        /// Why.
        refusal: LoanRefusal,
    },
    /// The peer is gone. Its process may still read the memory, which is held until that is over.
    #[error("{peer} is gone: {reason}; its loan is held until its process has ended")]
    PeerGone {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// Not an end: the wait timed out and the loan goes on.
    #[error("not given back after {0:?}; the loan goes on")]
    StillLent(Duration),
}

fn loan_refusal_words(refusal: LoanRefusal) -> &'static str {
    match refusal {
        LoanRefusal::NotSeen => "it does not see that memory",
        LoanRefusal::Nobody => "nobody borrows on that channel",
        LoanRefusal::Behind => "its reader has as many as may wait",
    }
}

/// Why a transfer did not complete. Exactly one end per transfer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Its deadline passed.
    #[error("expired: its deadline passed before every byte was applied and verified")]
    Expired,
    /// The peer is gone.
    #[error("{peer} is gone: {reason}")]
    PeerGone {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// The peer was not connected when the transfer was asked for.
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The grant is not live (any more), or is not for us.
    #[error("the receiver does not take region {region}: {refusal}", refusal = refusal_words(*refusal))]
    Revoked {
        /// The grant.
        region: RegionId,
        /// What the receiver says.
        refusal: Refusal,
    },
    /// A chunk arrived damaged every time it was sent.
    #[error(
        "damaged on every attempt, at byte {offset} of the region: a link or memory is broken, or the source changes while it is sent"
    )]
    Damaged {
        /// Where in the region, in bytes.
        offset: u64,
    },
    /// Source and destination have different lengths.
    #[error("{source_bytes} bytes don't fit a destination of {destination_bytes} bytes: slice one of them")]
    LengthMismatch {
        /// The source's length.
        source_bytes: u64,
        /// The destination's length.
        destination_bytes: u64,
    },
    /// A limit of the path.
    #[error("{0}")]
    Limit(#[from] xfer_transport_core::path::WriteError),
    /// The endpoint was shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
    /// Not an end: the wait timed out and the transfer goes on.
    #[error("not finished after {0:?}; the transfer goes on")]
    StillRunning(Duration),
}

fn refusal_words(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotGranted => "it is revoked, or granted to another peer",
        Refusal::OutOfBounds => "the write leaves the granted region",
    }
}

/// Why a peer is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownReason {
    /// It left on purpose.
    #[error("it left")]
    Left,
    /// It closed all connections.
    #[error("connection lost: {0}")]
    Lost(String),
    /// Connections to it were reset: by its system, or by a machine on the way that does so in its name.
    #[error("connection lost: {0}")]
    Reset(String),
    /// The network doesn't reach it any more. It may be alive.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It said nothing for too long. It may be stopped, and wake up.
    #[error("silent for {0:?}")]
    Silent(Duration),
    /// A later life of its rank, or a new connection of the same life, took its place.
    #[error("replaced by {0}")]
    Replaced(PeerId),
    /// It broke the protocol.
    #[error("protocol violation: {0}")]
    Violation(String),
    /// This endpoint was shut down.
    #[error("this endpoint was shut down")]
    ShutDown,
}

impl From<&LinkError> for DownReason {
    fn from(error: &LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Lost(error.to_string()),
            LinkError::Io(io) => match io.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                    Self::Reset(error.to_string())
                }
                _ => Self::Unreachable(error.to_string()),
            },
            LinkError::Frame(_) | LinkError::Violation(_) => Self::Violation(error.to_string()),
        }
    }
}

impl DownReason {
    /// Whether it is known that the peer writes nothing more into its memory on our behalf: its end of every
    /// connection is closed. One that is only silent may wake up and apply what its sockets still hold; and a reset may
    /// come from a firewall on the way, while the peer still reads what had arrived before.
    pub(crate) fn proves_fence(&self) -> bool {
        matches!(self, Self::Left | Self::Lost(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_proves_no_fence_and_a_goodbye_and_a_close_do() {
        let by = |kind: io::ErrorKind| DownReason::from(&LinkError::Io(kind.into()));
        assert!(!by(io::ErrorKind::ConnectionReset).proves_fence());
        assert!(!by(io::ErrorKind::BrokenPipe).proves_fence());
        assert!(!by(io::ErrorKind::TimedOut).proves_fence());
        assert!(DownReason::from(&LinkError::Closed).proves_fence());
        assert!(DownReason::Left.proves_fence());
    }
}

//! One process a rank, and which of the rank's lives it is.
//!
//! A process claims its rank before it does anything under that name. A claim whose process still answers is refused
//! to a second one; a claim whose process is gone is taken over with the next incarnation, by which everybody tells
//! the two apart.

use bytes::Bytes;
use xfer_migrate_core::DecodeError;
use xfer_migrate_core::store::limits;
use xfer_migrate_core::store::records::{PeerClaim, peer_key};

use super::limits::{CLAIM_ATTEMPTS_MAX, CLAIM_GRACE};
use super::{Store, StoreError, Swap, Version, Versioned};

/// Why a rank could not be claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another process has it.
    #[error("rank {rank} is already claimed by pid {pid} on {host}, which answers; give each process its own RANK")]
    Taken {
        /// Which rank.
        rank: u32,
        /// Who has it.
        pid: u32,
        /// Where that is.
        host: String,
    },
    /// A later life of the rank has taken over.
    #[error(
        "rank {rank} was taken over by pid {pid} on {host} (life {incarnation}), which found this process gone; \
         end this one"
    )]
    TakenOver {
        /// Which rank.
        rank: u32,
        /// Who has it now.
        pid: u32,
        /// Where that is.
        host: String,
        /// Which life of the rank that is.
        incarnation: u32,
    },
    /// Others claim it as fast as we do.
    #[error("rank {rank} is being claimed by several processes at once; give each process its own RANK")]
    Contested {
        /// Which rank.
        rank: u32,
    },
    /// There is no claim where this process has put one.
    #[error("rank {rank} was never claimed in this store")]
    Unclaimed {
        /// Which rank.
        rank: u32,
    },
    /// What is there is no claim.
    #[error("the claim of rank {rank} can't be read ({reason}); another version of xfer wrote it, or another program")]
    Unreadable {
        /// Which rank.
        rank: u32,
        /// What is wrong with it.
        reason: DecodeError,
    },
    /// The ticket is longer than a claim takes.
    #[error(
        "the ticket of rank {rank} has {len_bytes} bytes, a claim takes at most {}; bind fewer addresses",
        limits::TICKET_LEN_BYTES_MAX
    )]
    TicketTooLong {
        /// Which rank.
        rank: u32,
        /// How long it is.
        len_bytes: usize,
    },
    /// The store can't be asked.
    #[error("rank {rank} can't be claimed: {cause}")]
    Store {
        /// Which rank.
        rank: u32,
        /// Why not.
        cause: StoreError,
    },
}

/// Claims `rank` for this process and returns which of its lives this is.
///
/// `ticket` is how this process is reached; it may be empty while that isn't known yet, and is then given by
/// [`publish_ticket`] within [`CLAIM_GRACE`]. `is_alive` asks the process behind an earlier claim's ticket, and has to
/// return within a bound of its own. The call waits at most [`CLAIM_GRACE`] for a process that is just starting.
pub fn claim_identity(
    store: &dyn Store,
    rank: u32,
    ticket: &[u8],
    is_alive: &dyn Fn(&[u8]) -> bool,
) -> Result<u32, ClaimError> {
    let key = peer_key(rank);
    let failed = |cause| ClaimError::Store { rank, cause };
    let mut held = store.get(&key).map_err(failed)?;
    for _ in 0..CLAIM_ATTEMPTS_MAX {
        let (expected, incarnation) = match &held {
            None => (Version::ABSENT, 1),
            Some(found) => {
                let claim = decode(rank, found)?;
                if claim.ticket.is_empty() {
                    let grace = CLAIM_GRACE.saturating_sub(found.age);
                    if let Some(newer) = store.wait(&key, found.version, grace).map_err(failed)? {
                        held = Some(newer);
                        continue;
                    }
                } else if is_alive(&claim.ticket) {
                    return Err(ClaimError::Taken { rank, pid: claim.pid, host: claim.host });
                }
                (found.version, claim.incarnation.saturating_add(1))
            }
        };
        let value = ours(rank, incarnation, ticket)?;
        match store.compare_and_swap(&key, expected, value).map_err(failed)? {
            Swap::Won(_) => return Ok(incarnation),
            Swap::Lost(newer) => held = Some(newer),
        }
    }
    Err(ClaimError::Contested { rank })
}

/// Says how the process that claimed `rank` as `incarnation` is reached.
pub fn publish_ticket(store: &dyn Store, rank: u32, incarnation: u32, ticket: &[u8]) -> Result<(), ClaimError> {
    let key = peer_key(rank);
    let failed = |cause| ClaimError::Store { rank, cause };
    let mut found = store.get(&key).map_err(failed)?.ok_or(ClaimError::Unclaimed { rank })?;
    for _ in 0..CLAIM_ATTEMPTS_MAX {
        let claim = decode(rank, &found)?;
        if claim.incarnation != incarnation {
            let PeerClaim { pid, host, incarnation, .. } = claim;
            return Err(ClaimError::TakenOver { rank, pid, host, incarnation });
        }
        let value = ours(rank, incarnation, ticket)?;
        match store.compare_and_swap(&key, found.version, value).map_err(failed)? {
            Swap::Won(_) => return Ok(()),
            Swap::Lost(newer) => found = newer,
        }
    }
    Err(ClaimError::Contested { rank })
}

/// The name of this host, as reports and claims give it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn ours(rank: u32, incarnation: u32, ticket: &[u8]) -> Result<Bytes, ClaimError> {
    if ticket.len() > limits::TICKET_LEN_BYTES_MAX {
        return Err(ClaimError::TicketTooLong { rank, len_bytes: ticket.len() });
    }
    let ticket = Bytes::copy_from_slice(ticket);
    Ok(PeerClaim { incarnation, pid: std::process::id(), host: host_name(), ticket }.encode())
}

fn decode(rank: u32, found: &Versioned) -> Result<PeerClaim, ClaimError> {
    PeerClaim::decode(&found.value).map_err(|reason| ClaimError::Unreadable { rank, reason })
}

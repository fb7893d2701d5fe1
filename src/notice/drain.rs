//! `xfer drain`: an operator's order, through the job's store.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use xfer_migrate::store::records::{DrainOrder, PEER_PREFIX, PeerClaim, notice_key, peer_key};
use xfer_migrate::store::{Store, StoreError, Swap, Version};
use xfer_migrate_core::DecodeError;
use xfer_transport_core::PeerId;

use super::{Notice, Origin, Shared, limits};

/// Why an order was not given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// No process has claimed the rank.
    #[error("no process of this job is rank {rank}; {}", known(.claimed))]
    NoSuchRank {
        /// Which rank was meant.
        rank: u32,
        /// The ranks that are claimed.
        claimed: Vec<String>,
    },
    /// There is no order to take back.
    #[error("rank {rank} has no drain order to take back")]
    NotOrdered {
        /// Which rank was meant.
        rank: u32,
    },
    /// The claim or the order in the store can't be read.
    #[error("what the store holds of rank {rank} can't be read ({reason}); another version of xfer wrote it")]
    Unreadable {
        /// Which rank was meant.
        rank: u32,
        /// What is wrong with it.
        reason: DecodeError,
    },
    /// Others order it as fast as we do.
    #[error("rank {rank} is being drained by several others at once; look at `xfer status`")]
    Contested {
        /// Which rank was meant.
        rank: u32,
    },
    /// The store can't be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells the process of `rank` that it has `left` to leave; returns whom that concerns. A new order replaces an
/// earlier one.
pub fn order_drain(store: &dyn Store, rank: u32, left: Duration, reason: &str) -> Result<PeerId, DrainError> {
    write(store, rank, Some(left.min(limits::LEFT_MAX)), reason)
}

/// Takes the order to `rank` back; returns whom that concerns.
pub fn withdraw_drain(store: &dyn Store, rank: u32) -> Result<PeerId, DrainError> {
    write(store, rank, None, "")
}

fn write(store: &dyn Store, rank: u32, left: Option<Duration>, reason: &str) -> Result<PeerId, DrainError> {
    let unreadable = |reason| DrainError::Unreadable { rank, reason };
    let Some(claim) = store.get(&peer_key(rank))? else {
        let claimed = store.list(PEER_PREFIX)?.into_iter();
        let claimed = claimed.map(|(key, _)| key[PEER_PREFIX.len()..].to_owned()).collect();
        return Err(DrainError::NoSuchRank { rank, claimed });
    };
    let incarnation = PeerClaim::decode(&claim.value).map_err(unreadable)?.incarnation;
    let key = notice_key(rank);
    let nonce = RandomState::new().build_hasher().finish();
    let value = DrainOrder { incarnation, nonce, left, reason: reason.to_owned() }.encode();
    let mut held = store.get(&key)?;
    for _ in 0..limits::DRAIN_ATTEMPTS_MAX {
        if left.is_none() {
            let order = held.as_ref().map(|held| DrainOrder::decode(&held.value)).transpose().map_err(unreadable)?;
            if !order.is_some_and(|order| order.incarnation == incarnation && order.left.is_some()) {
                return Err(DrainError::NotOrdered { rank });
            }
        }
        let expected = held.as_ref().map_or(Version::ABSENT, |held| held.version);
        match store.compare_and_swap(&key, expected, value.clone())? {
            Swap::Won(_) => return Ok(PeerId { rank, incarnation }),
            Swap::Lost(newer) => held = Some(newer),
        }
    }
    Err(DrainError::Contested { rank })
}

/// Waits for orders to `peer` until the watcher stops.
pub(super) fn watch(shared: &Shared, store: &dyn Store, peer: PeerId) {
    let key = notice_key(peer.rank);
    let mut seen = Version::ABSENT;
    let mut complained = false;
    while !shared.is_stopped() {
        match store.wait(&key, seen, limits::DRAIN_WAIT) {
            Ok(None) => complained = false,
            Ok(Some(found)) => {
                complained = false;
                seen = found.version;
                match DrainOrder::decode(&found.value) {
                    Ok(order) => follow(shared, peer, &order, found.age),
                    Err(error) => tracing::warn!(%error, "a drain order to {peer} can't be read and is not followed"),
                }
            }
            Err(error) => {
                if !complained {
                    complained = true;
                    tracing::warn!(%error, "`xfer drain` is not heard while the store can't be asked");
                }
                shared.sleep(limits::DRAIN_PAUSE);
            }
        }
    }
}

pub(super) fn follow(shared: &Shared, peer: PeerId, order: &DrainOrder, age: Duration) {
    match order.left {
        _ if order.incarnation != peer.incarnation => {
            tracing::debug!("a drain order to another life of rank {} is not ours", peer.rank);
        }
        Some(left) => {
            let id = format!("drain-{:016x}", order.nonce);
            let notice = Notice::new(Origin::Drain, id, left.saturating_sub(age)).because(order.reason.as_str());
            shared.board().replace(notice);
        }
        None => shared.board().clear(Origin::Drain),
    }
}

fn known(claimed: &[String]) -> String {
    match claimed.is_empty() {
        true => "no rank is claimed in this store".to_owned(),
        false => format!("claimed are {}", claimed.join(", ")),
    }
}

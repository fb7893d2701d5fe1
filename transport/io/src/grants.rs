//! The receiver's live grants. Whatever arrives is placed through this table, and revoking is a fence.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::rand::GetRandomFlags;
use xfer_transport_core::message::Refusal;
use xfer_transport_core::{PeerId, Place, RegionId, RemoteRegion};

use crate::error::GrantError;
use crate::intake::Slot;
use crate::limits::GRANTS_MAX;
use crate::memory::{Region, Slice};
use crate::stats::{Counters, add, subtract};

/// A grant is over: no byte of it is written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced;

/// Memory that one peer may write into. Revoked when dropped.
pub struct Grant {
    entry: Arc<Entry>,
    grants: Arc<Grants>,
}

/// What is known of a live grant.
#[derive(Debug)]
pub(crate) struct Entry {
    id: RegionId,
    to: PeerId,
    region: Region,
    received_bytes: AtomicU64,
}

/// All live grants of an endpoint.
#[derive(Debug)]
pub(crate) struct Grants {
    table: Mutex<Table>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    live: HashMap<RegionId, Arc<Entry>>,
    /// The receiving ends of all links.
    slots: Vec<Weak<Slot>>,
}

impl Grants {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { table: Mutex::default(), counters }
    }

    pub(crate) fn grant(self: &Arc<Self>, region: &Region, to: PeerId) -> Result<Grant, GrantError> {
        let mut table = self.lock();
        if table.live.len() >= GRANTS_MAX {
            return Err(GrantError::TooMany);
        }
        let id = loop {
            let id = RegionId(random_u64());
            if id.0 != 0 && !table.live.contains_key(&id) {
                break id;
            }
        };
        let entry = Arc::new(Entry { id, to, region: region.clone(), received_bytes: AtomicU64::new(0) });
        table.live.insert(id, Arc::clone(&entry));
        add(&self.counters.grants_live, 1);
        Ok(Grant { entry, grants: Arc::clone(self) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the fence know of a link's receiving end.
    pub(crate) fn register(&self, slot: &Arc<Slot>) {
        let mut table = self.lock();
        table.slots.retain(|slot| slot.strong_count() > 0);
        table.slots.push(Arc::downgrade(slot));
    }

    /// The order makes it a fence: once the entry is out of the table no chunk begins, and whoever began before is
    /// in a slot, which is emptied under the lock that every single read into it takes.
    fn revoke(&self, id: RegionId) {
        let slots = {
            let mut table = self.lock();
            if table.live.remove(&id).is_none() {
                return;
            }
            table.slots.clone()
        };
        for slot in slots.iter().filter_map(Weak::upgrade) {
            if !slot.clear_region(id) {
                // Its queue pair can't even be destroyed: the kernel's driver hangs. The memory stays allocated.
                tracing::error!("a device does not say that it has stopped to write into grant {id}");
                add(&self.counters.unproven_fences, 1);
            }
        }
        subtract(&self.counters.grants_live, 1);
        add(&self.counters.revocations, 1);
    }
}

impl Table {
    /// The memory for `len_bytes` bytes from `peer` at `offset` of the grant `id`.
    pub(crate) fn look_up(
        &self,
        id: RegionId,
        peer: PeerId,
        offset: u64,
        len_bytes: u32,
    ) -> Result<(Arc<Entry>, Slice), Refusal> {
        let entry = self.live.get(&id).filter(|entry| entry.to == peer).ok_or(Refusal::NotGranted)?;
        let end = offset.checked_add(u64::from(len_bytes)).ok_or(Refusal::OutOfBounds)?;
        let slice = entry.region.slice(offset..end).ok_or(Refusal::OutOfBounds)?;
        Ok((Arc::clone(entry), slice))
    }
}

impl Entry {
    pub(crate) fn id(&self) -> RegionId {
        self.id
    }

    pub(crate) fn add_received(&self, len_bytes: u32) {
        self.received_bytes.fetch_add(u64::from(len_bytes), Ordering::Relaxed);
    }
}

impl Grant {
    /// What the peer needs to write into it.
    pub fn remote(&self) -> RemoteRegion {
        RemoteRegion { id: self.entry.id, len_bytes: self.entry.region.len_bytes(), place: Place::Host }
    }

    /// Who may write into it.
    pub fn peer(&self) -> PeerId {
        self.entry.to
    }

    /// The memory.
    pub fn region(&self) -> &Region {
        &self.entry.region
    }

    /// Bytes that were applied and verified so far.
    pub fn received(&self) -> u64 {
        self.entry.received_bytes.load(Ordering::Relaxed)
    }

    /// Ends the grant. When this returns, no byte of the region is written by its peer any more.
    ///
    /// It waits for a link that is copying into the region just now, which takes microseconds: links never wait for
    /// bytes while they may write. A device that writes by itself is waited for, and stopped if it takes longer than a tenth of a
    /// second or so; that one can't be stopped is a broken driver, which is logged and counted
    /// ([`crate::Stats::unproven_fences`]).
    pub fn revoke(self) -> Fenced {
        drop(self);
        Fenced
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.grants.revoke(self.entry.id);
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({} to {}, {:?})", self.entry.id, self.entry.to, self.entry.region)
    }
}

/// A number that a peer can't guess. Asked of the kernel each time: what a library keeps of its randomness, the processes
/// that were forked from one share.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        // A kernel without it; then at least no two numbers of this process are alike, and the process's id is in them.
        _ => RandomState::new().hash_one(std::process::id()),
    }
}

//! Registrations of granted memory, kept for a while: registering costs by the page, and chunks of one region come one after the other.
#![allow(unsafe_code, reason = "memory is registered for a device")]

use std::sync::Arc;
use std::time::Instant;

use xfer_sys::verbs::{Access, MemoryRegion, ProtectionDomain, VerbsError};

use super::dmabufs::Dmabufs;
use crate::limits::{REGISTERED_BLOCK_BYTES, REGISTERED_BYTES_MAX, REGISTERED_FOR};
use crate::memory::{RegionIdentity, Slice};

/// What one link has registered of regions, block by block, for its own device only.
#[derive(Debug)]
pub(super) struct Registrations {
    domain: Arc<ProtectionDomain>,
    dmabufs: Arc<Dmabufs>,
    access: Access,
    kept: Vec<Kept>,
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    of: RegionIdentity,
    start: u64,
    len_bytes: u64,
    registration: Arc<MemoryRegion>,
    used: Instant,
}

impl Registrations {
    pub(super) fn new(domain: &Arc<ProtectionDomain>, dmabufs: &Arc<Dmabufs>, access: Access) -> Self {
        Self { domain: Arc::clone(domain), dmabufs: Arc::clone(dmabufs), access, kept: Vec::new(), bytes: 0 }
    }

    /// A registration that covers `slice`. Hold it, and the slice, for as long as a device works with them.
    pub(super) fn of(&mut self, slice: &Slice, now: Instant) -> Result<Arc<MemoryRegion>, VerbsError> {
        let (region, range) = (slice.region(), slice.range());
        let covers = |kept: &&mut Kept| {
            kept.of.is(region) && kept.start <= range.start && range.end <= kept.start + kept.len_bytes
        };
        if let Some(kept) = self.kept.iter_mut().find(covers) {
            kept.used = now;
            return Ok(Arc::clone(&kept.registration));
        }
        let start = range.start - range.start % REGISTERED_BLOCK_BYTES;
        let end = (start + REGISTERED_BLOCK_BYTES).min(region.len_bytes());
        let (start, end) = if range.end <= end { (start, end) } else { (range.start, range.end) };
        let block = region.slice(start..end).unwrap_or_else(|| slice.clone());
        self.make_room(end - start);
        let registered = self.register(&block);
        // Where that much may not be locked, what isn't used just now makes room, and the chunk alone may do.
        let (registration, block) = match registered {
            Err(error) if block.len_bytes() > slice.len_bytes() && !matches!(error, VerbsError::NotReached { .. }) => {
                self.forget(|_| false);
                (self.register(slice)?, slice.clone())
            }
            registered => (registered?, block),
        };
        let registration = Arc::new(registration);
        self.bytes += block.len_bytes();
        self.kept.push(Kept {
            of: region.identity(),
            start: block.range().start,
            len_bytes: block.len_bytes(),
            registration: Arc::clone(&registration),
            used: now,
        });
        Ok(registration)
    }

    /// Ends what nobody has used for a while, and what is of regions that are gone.
    pub(super) fn look(&mut self, now: Instant) {
        // What work needs is being used.
        self.kept.iter_mut().filter(|kept| Arc::strong_count(&kept.registration) > 1).for_each(|kept| kept.used = now);
        self.forget(|kept| !kept.of.is_gone() && now.saturating_duration_since(kept.used) < REGISTERED_FOR);
    }

    /// When there is something to end, at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.kept.iter().map(|kept| kept.used + REGISTERED_FOR).min()
    }

    fn register(&self, block: &Slice) -> Result<MemoryRegion, VerbsError> {
        // SAFETY: only work that holds the slice names the registration; without such work no device looks at the memory, whoever
        // has it by then.
        unsafe { self.dmabufs.register(&self.domain, block, self.access) }
    }

    /// Forgets the least used ones, until so much more is within the limit.
    fn make_room(&mut self, len_bytes: u64) {
        self.forget(|kept| !kept.of.is_gone());
        while self.bytes + len_bytes > REGISTERED_BYTES_MAX {
            let idle = self.kept.iter().filter(|kept| Arc::strong_count(&kept.registration) == 1);
            let Some(used) = idle.map(|kept| kept.used).min() else { return };
            self.forget(|kept| kept.used != used);
        }
    }

    /// Forgets those for which `keep` doesn't hold and that no work needs.
    fn forget(&mut self, keep: impl Fn(&Kept) -> bool) {
        self.kept.retain(|kept| keep(kept) || Arc::strong_count(&kept.registration) > 1);
        self.bytes = self.kept.iter().map(|kept| kept.len_bytes).sum();
    }
}

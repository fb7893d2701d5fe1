//! Registered buffers for packets: those that arrive, and those that leave.
#![allow(unsafe_code, reason = "a device reads and writes them")]

use std::io;
use std::sync::Arc;

use xfer_sys::verbs::{Access, MemoryRegion, Part, ProtectionDomain};

use crate::memory::Region;

/// Buffers of one length, each named by its number.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Before the memory, so that it ends first.
    registration: MemoryRegion,
    memory: Region,
    len_bytes: usize,
}

impl Buffers {
    pub(super) fn new(
        domain: &Arc<ProtectionDomain>,
        count: u16,
        len_bytes: usize,
        access: Access,
    ) -> io::Result<Self> {
        // Each begins a line of the cache.
        let len_bytes = len_bytes.next_multiple_of(64);
        let all = usize::from(count) * len_bytes;
        let memory = Region::allocate(all as u64).map_err(io::Error::other)?;
        // SAFETY: the memory outlives the registration, which is dropped first, and nobody looks at it but through `self`.
        let registration = unsafe { MemoryRegion::register(domain, memory.as_ptr(), all, access) }?;
        Ok(Self { registration, memory, len_bytes })
    }

    /// A buffer, or its first bytes, for a device.
    pub(super) fn part(&self, number: u16, len: usize) -> Part {
        Part {
            start: self.at(number) as u64,
            len_bytes: len.min(self.len_bytes) as u32,
            key: self.registration.local_key(),
        }
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The first bytes of a buffer.
    ///
    /// # Safety
    ///
    /// No device may have it meanwhile.
    pub(super) unsafe fn bytes(&self, number: u16, len: usize) -> &[u8] {
        // SAFETY: the buffer is inside the memory, which lives, and as long as that; that nobody writes it is the caller's word.
        unsafe { std::slice::from_raw_parts(self.at(number), len.min(self.len_bytes)) }
    }

    /// Puts bytes into a buffer, one part after the other, and says how many they are; what doesn't fit is left out.
    ///
    /// # Safety
    ///
    /// No device may have it meanwhile.
    pub(super) unsafe fn fill(&self, number: u16, at: usize, bytes: &[u8]) -> usize {
        let at = at.min(self.len_bytes);
        let len = bytes.len().min(self.len_bytes - at);
        // SAFETY: the range is inside the buffer, and `bytes` is not: it is memory of somebody else.
        unsafe { self.at(number).add(at).copy_from_nonoverlapping(bytes.as_ptr(), len) };
        len
    }

    /// Puts a part of a source into a buffer, as [`Buffers::fill`] does.
    ///
    /// # Safety
    ///
    /// No device may have the buffer meanwhile.
    pub(super) unsafe fn fill_from(
        &self,
        number: u16,
        at: usize,
        source: &crate::Slice,
        from: usize,
        len: usize,
    ) -> usize {
        let at = at.min(self.len_bytes);
        let from = from.min(source.len_bytes() as usize);
        let len = len.min(self.len_bytes - at).min(source.len_bytes() as usize - from);
        // SAFETY: both ranges are inside of what they are ranges of. The source may be written meanwhile, which its checksum notices.
        unsafe { self.at(number).add(at).copy_from(source.as_ptr().add(from), len) };
        len
    }

    fn at(&self, number: u16) -> *mut u8 {
        let count = self.memory.len_bytes() as usize / self.len_bytes;
        debug_assert!(usize::from(number) < count);
        self.memory.as_ptr().wrapping_add(usize::from(number).min(count - 1) * self.len_bytes)
    }
}

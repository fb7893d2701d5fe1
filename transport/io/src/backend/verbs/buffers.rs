//! Registered buffers for packets: those that arrive, and those that leave.
#![allow(unsafe_code, reason = "a device reads and writes them")]

use std::io;
use std::sync::{Arc, OnceLock};

use xfer_sys::verbs::{Access, MemoryRegion, Part, ProtectionDomain};

use crate::memory::Region;

/// Buffers of one length, each named by its number: some at first, and more once they are worth their memory.
#[derive(Debug)]
pub(super) struct Buffers {
    domain: Arc<ProtectionDomain>,
    access: Access,
    len_bytes: usize,
    first: Block,
    more: OnceLock<Block>,
}

#[derive(Debug)]
struct Block {
    /// Before the memory, so that it ends first.
    registration: MemoryRegion,
    memory: Region,
    count: u16,
}

impl Block {
    fn new(domain: &Arc<ProtectionDomain>, count: u16, len_bytes: usize, access: Access) -> io::Result<Self> {
        let all = usize::from(count) * len_bytes;
        let memory = Region::allocate(all as u64).map_err(io::Error::other)?;
        // SAFETY: the memory outlives the registration, which is dropped first, and nobody looks at it but through `Buffers`.
        let registration = unsafe { MemoryRegion::register(domain, memory.as_ptr(), all, access) }?;
        Ok(Self { registration, memory, count })
    }
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
        let first = Block::new(domain, count, len_bytes, access)?;
        Ok(Self { domain: Arc::clone(domain), access, len_bytes, first, more: OnceLock::new() })
    }

    /// Makes them so many more. Only once.
    pub(super) fn grow(&self, more: u16) -> io::Result<()> {
        let block = Block::new(&self.domain, more, self.len_bytes, self.access)?;
        self.more.set(block).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    /// A buffer, or its first bytes, for a device.
    pub(super) fn part(&self, number: u16, len: usize) -> Part {
        Part {
            start: self.at(number) as u64,
            len_bytes: len.min(self.len_bytes) as u32,
            key: self.block(number).0.registration.local_key(),
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
        let _reading = source.begin_reading();
        // SAFETY: both ranges are inside of what they are ranges of. The source may be written meanwhile, which its checksum notices.
        unsafe { self.at(number).add(at).copy_from(source.as_ptr().add(from), len) };
        len
    }

    fn at(&self, number: u16) -> *mut u8 {
        let (block, number) = self.block(number);
        debug_assert!(number < block.count);
        block.memory.as_ptr().wrapping_add(usize::from(number.min(block.count - 1)) * self.len_bytes)
    }

    /// Where a buffer is, and as which one there.
    fn block(&self, number: u16) -> (&Block, u16) {
        match (number.checked_sub(self.first.count), self.more.get()) {
            (Some(number), Some(more)) => (more, number),
            _ => (&self.first, number),
        }
    }
}

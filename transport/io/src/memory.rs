//! Memory that may be moved: owned by xfer, or borrowed from a framework together with what keeps it alive.
#![allow(
    unsafe_code,
    reason = "memory that peers write is reached through raw pointers; each use says why it is sound"
)]

mod arena;
mod copy;
mod dmabuf;
mod fetch;
mod landed;
mod segment;

use std::alloc::{Layout, alloc, dealloc};
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, Weak};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use xfer_sys::dmabuf::{HEAP, OF_FILES};
use xfer_transport_core::integrity;
use xfer_transport_core::landed::Landed;

use dmabuf::Dmabuf;
pub(crate) use fetch::fetch;
pub(crate) use landed::Writing;
pub(crate) use segment::{Segment, View, Views, dropped_segments};

/// Memory is aligned to pages, so that registering it never covers a neighbour.
const ALIGN_BYTES: usize = 4096;

/// Below this, touching pages at once costs less than a mapping of their own.
const RESERVE_BYTES_MIN: u64 = 256 << 10;

/// Memory that may be moved. Clones are the same memory; it lives until the last clone, slice and transfer of it
/// are gone.
///
/// While a transfer reads or a grant admits writes, the bytes change under whoever else looks at them: read them
/// after the transfer has ended, or after the grant was revoked.
#[derive(Clone)]
pub struct Region(Arc<RegionInner>);

struct RegionInner {
    start: NonNull<u8>,
    len_bytes: u64,
    /// Where it lies in memory that a peer on this machine can be shown.
    shared: Option<(Arc<Segment>, u64)>,
    /// What is behind it, if it is memory of a device.
    dmabuf: Option<Dmabuf>,
    /// What of it peers have written.
    landed: Mutex<Landed>,
    /// Dropped last: it may be what `start` points into.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the pointer is valid for as long as the owner lives, from whichever thread; all access through `Region`
// is by raw copies that tolerate that others write at the same time.
unsafe impl Send for RegionInner {}
// SAFETY: as above.
unsafe impl Sync for RegionInner {}

/// Bytes that regions of this process occupy just now in memory that peers on this machine can be shown.
pub fn arena_bytes_in_use() -> u64 {
    arena::in_use_bytes()
}

/// Which region something is about. It doesn't keep the region alive.
#[derive(Debug, Clone)]
pub(crate) struct RegionIdentity(Weak<RegionInner>);

impl RegionIdentity {
    /// Whether it is the same region.
    pub(crate) fn is(&self, region: &Region) -> bool {
        ptr::eq(self.0.as_ptr(), Arc::as_ptr(&region.0))
    }

    /// Whether the region is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// A range of a [`Region`]; always inside it. Keeps it alive.
#[derive(Clone)]
pub struct Slice {
    region: Region,
    start: u64,
    len_bytes: u64,
}

/// Why memory can't be had or reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The system has no memory left.
    #[error("no memory for {0} bytes: free some, or move less at once")]
    Exhausted(u64),
    /// Memory that can be shared can't be had.
    #[error("no shared memory for {len_bytes} bytes ({}): free some, or use ordinary memory", std::io::Error::from_raw_os_error(*errno))]
    NotShared {
        /// How much was asked for, in bytes.
        len_bytes: u64,
        /// What the system says.
        errno: i32,
    },
    /// More than a process can address.
    #[error("{0} bytes are more than a process can address")]
    TooLong(u64),
    /// A null pointer with a length.
    #[error("a null pointer has no {0} bytes")]
    Null(u64),
    /// No memory of devices can be had.
    #[error(
        "no {len_bytes} bytes of memory for devices ({HEAP}: {}; {OF_FILES}: {}): a kernel with \
         CONFIG_DMABUF_HEAPS_SYSTEM or CONFIG_UDMABUF has them, and in a container they have to be passed with --device",
        std::io::Error::from_raw_os_error(*heap_errno), std::io::Error::from_raw_os_error(*file_errno)
    )]
    NoDmabufs {
        /// How much was asked for, in bytes.
        len_bytes: u64,
        /// What the system says of its heap.
        heap_errno: i32,
        /// What it says of memory files for devices.
        file_errno: i32,
    },
    /// A descriptor of something else than memory of a device.
    #[error("the descriptor stands for no memory of a device (no dmabuf: {})", std::io::Error::from_raw_os_error(*errno))]
    NoDmabuf {
        /// What the system says.
        errno: i32,
    },
    /// Memory of a device that the processor can't reach.
    #[error(
        "{len_bytes} bytes of memory of a device can't be mapped ({}), and this version sums what it moves there: \
         copy them to memory of the host first",
        std::io::Error::from_raw_os_error(*errno)
    )]
    Unmapped {
        /// How much was to be mapped, in bytes.
        len_bytes: u64,
        /// What the system says.
        errno: i32,
    },
    /// A range that leaves the region.
    #[error("{len_bytes} bytes at {offset} leave a region of {region_bytes} bytes")]
    OutOfBounds {
        /// Where the range starts, in bytes.
        offset: u64,
        /// Its length, in bytes.
        len_bytes: u64,
        /// The region's length, in bytes.
        region_bytes: u64,
    },
}

impl Region {
    /// Zeroed memory, aligned to pages; every page is touched, so that a first transfer doesn't pay for it.
    pub fn allocate(len_bytes: u64) -> Result<Self, MemoryError> {
        let len = usize::try_from(len_bytes).map_err(|_| MemoryError::TooLong(len_bytes))?;
        let layout = Layout::from_size_align(len.max(1), ALIGN_BYTES).map_err(|_| MemoryError::TooLong(len_bytes))?;
        // SAFETY: the layout's size isn't zero.
        let start = NonNull::new(unsafe { alloc(layout) }).ok_or(MemoryError::Exhausted(len_bytes))?;
        let owner = Allocation { start, layout };
        // SAFETY: the allocation has `layout.size()` bytes and nobody else knows it yet.
        unsafe { start.as_ptr().write_bytes(0, layout.size()) };
        Ok(Self::new(start, len_bytes, Box::new(owner)))
    }

    /// Zeroed memory like [`Region::allocate`]'s, whose pages are there only once they are written: for memory that is
    /// granted in a hurry and filled by a link that is slower than the system is at giving pages.
    pub fn reserve(len_bytes: u64) -> Result<Self, MemoryError> {
        if len_bytes < RESERVE_BYTES_MIN {
            return Self::allocate(len_bytes);
        }
        let len = usize::try_from(len_bytes).map_err(|_| MemoryError::TooLong(len_bytes))?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping wherever the system likes touches no memory that anybody has.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) };
        let start = mapped.ok().and_then(|start| NonNull::new(start.cast::<u8>()));
        let start = start.ok_or(MemoryError::Exhausted(len_bytes))?;
        // SAFETY: all of the mapping, which nobody else knows. Large pages are a hint: hundreds of times fewer faults.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        let owner = Mapping { start, len };
        Ok(Self::new(start, len_bytes, Box::new(owner)))
    }

    /// Zeroed memory like [`Region::allocate`]'s that peers on this machine read where it lies: what is sent from it is
    /// copied once, by whoever receives it. It comes from an arena that this process has once, and goes back there.
    pub fn shared(len_bytes: u64) -> Result<Self, MemoryError> {
        arena::allocate(len_bytes)
    }

    /// Whether peers on this machine can read it where it lies.
    pub fn is_shared(&self) -> bool {
        self.0.shared.is_some()
    }

    /// Whether nobody else has it: no clone, slice, grant or transfer of it is left.
    pub fn is_held_once(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// What tells it from all other regions, also from those that lie at its place later, and keeps it alive no longer.
    pub(crate) fn identity(&self) -> RegionIdentity {
        RegionIdentity(Arc::downgrade(&self.0))
    }

    fn new(start: NonNull<u8>, len_bytes: u64, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self::with(start, len_bytes, None, None, owner)
    }

    fn with(
        start: NonNull<u8>,
        len_bytes: u64,
        shared: Option<(Arc<Segment>, u64)>,
        dmabuf: Option<Dmabuf>,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self(Arc::new(RegionInner { start, len_bytes, shared, dmabuf, landed: Mutex::default(), _owner: owner }))
    }

    /// `len_bytes` bytes at `at` of a segment, which has them, until `owner` is dropped.
    fn of_segment(segment: Arc<Segment>, at: u64, len_bytes: u64, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self::with(segment.at(at), len_bytes, Some((segment, at)), None, owner)
    }

    /// Memory of somebody else, kept alive by `owner`.
    ///
    /// # Safety
    ///
    /// `start` must be valid for reads and writes of `len_bytes` bytes until `owner` is dropped, on any thread.
    /// Others may change the bytes meanwhile; a transfer of bytes that change is torn, which its checksums notice.
    pub unsafe fn from_raw(
        start: *mut u8,
        len_bytes: u64,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Result<Self, MemoryError> {
        if isize::try_from(len_bytes).is_err() {
            return Err(MemoryError::TooLong(len_bytes));
        }
        let start = match NonNull::new(start) {
            Some(start) => start,
            None if len_bytes == 0 => NonNull::dangling(),
            None => return Err(MemoryError::Null(len_bytes)),
        };
        let shared = if len_bytes > 0 { arena::find(start.as_ptr(), len_bytes) } else { None };
        Ok(Self::with(start, len_bytes, shared, None, owner))
    }

    /// The bytes of a vector.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self::from_owner(bytes)
    }

    /// The bytes that `owner` gives access to, which is asked once and dropped with the region.
    pub fn from_owner<T: AsMut<[u8]> + Send + Sync + 'static>(owner: T) -> Self {
        // An `Arc` may be moved while others point into what it holds; of a `Box` the compiler assumes that nobody does.
        let mut owner = Arc::new(owner);
        let bytes = Arc::get_mut(&mut owner).map(T::as_mut).unwrap_or_default();
        let (start, len_bytes) = (NonNull::from(&mut *bytes).cast(), bytes.len() as u64);
        Self::new(start, len_bytes, Box::new(owner))
    }

    /// How many bytes there are.
    pub fn len_bytes(&self) -> u64 {
        self.0.len_bytes
    }

    /// Where they start. Of [memory of a device](Region::from_dmabuf) the processor may not see there what a device has just written,
    /// nor a device what it has: only what goes through this type takes care of that.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.start.as_ptr()
    }

    /// All of it.
    pub fn all(&self) -> Slice {
        Slice { region: self.clone(), start: 0, len_bytes: self.len_bytes() }
    }

    /// A range of it, or `None` where that leaves the region.
    pub fn slice(&self, range: Range<u64>) -> Option<Slice> {
        let len_bytes = range.end.checked_sub(range.start)?;
        (range.end <= self.len_bytes()).then(|| Slice { region: self.clone(), start: range.start, len_bytes })
    }

    /// A copy of the bytes.
    pub fn copy_to_vec(&self) -> Vec<u8> {
        self.all().copy_to_vec()
    }

    /// Overwrites the bytes from `offset` on.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        let out_of_bounds = MemoryError::OutOfBounds { offset, len_bytes, region_bytes: self.len_bytes() };
        let end = offset.checked_add(len_bytes).ok_or(out_of_bounds)?;
        let slice = self.slice(offset..end).ok_or(out_of_bounds)?;
        self.lock_landed().forget(&(offset..end));
        slice.copy_from(0, bytes);
        Ok(())
    }

    /// CRC-32C of the bytes.
    pub fn crc32c(&self) -> u32 {
        self.all().crc32c()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes)", self.len_bytes())
    }
}

impl Slice {
    /// The region it is a range of.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Which bytes of the region.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.len_bytes
    }

    /// How many bytes there are.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Where the bytes start.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: a slice is inside its region, so the result is inside it or one past its end.
        unsafe { self.region.as_ptr().add(self.start as usize) }
    }

    /// A part of it, or `None` where that leaves it.
    pub fn slice(&self, range: Range<u64>) -> Option<Self> {
        let len_bytes = range.end.checked_sub(range.start)?;
        let inside = range.end <= self.len_bytes;
        inside.then(|| Self { region: self.region.clone(), start: self.start + range.start, len_bytes })
    }

    /// A copy of the bytes.
    pub fn copy_to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len_bytes as usize];
        let _reading = self.begin_reading();
        // SAFETY: both are valid for `len_bytes` bytes, and a vector that was just made overlaps nothing.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.as_ptr(), bytes.len()) };
        bytes
    }

    /// CRC-32C of the bytes.
    pub fn crc32c(&self) -> u32 {
        self.crc32c_append(0, 0, self.len_bytes as usize)
    }

    /// CRC-32C of what `crc32c` covers followed by `len` bytes at `at`; a range that leaves the slice is cut.
    pub(crate) fn crc32c_append(&self, crc32c: u32, at: usize, len: usize) -> u32 {
        let (at, len) = self.clip(at, len);
        let reading = self.begin_reading();
        // SAFETY: `clip` keeps the range inside the slice, which is inside its region, which lives. If somebody
        // writes meanwhile, the sum is of bytes that never were together: it then doesn't match and the chunk is
        // sent again.
        let bytes = unsafe { std::slice::from_raw_parts(self.as_ptr().add(at), len) };
        let crc32c = integrity::crc32c_append(crc32c, bytes);
        // What was not seen for sure was not verified.
        if reading.has_failed { !crc32c } else { crc32c }
    }

    /// The segment that it lies in, and where, if peers on this machine can be shown that.
    pub(crate) fn shared(&self) -> Option<(&Arc<Segment>, u64)> {
        self.region.0.shared.as_ref().map(|(segment, at)| (segment, at + self.start))
    }

    /// Overwrites the bytes from `at` on; what would leave the slice is left out.
    pub(crate) fn copy_from(&self, at: usize, bytes: &[u8]) {
        let (at, len) = self.clip(at, bytes.len());
        let _writing = self.begin_writing();
        // SAFETY: `clip` keeps the range inside the slice. `bytes` may lie in the same region only if the caller
        // made a reference into memory that is being written, so `copy` allows for overlap.
        unsafe { self.as_ptr().add(at).copy_from(bytes.as_ptr(), len) };
    }

    /// Overwrites `len` bytes from `at` on by those of `from` from `from_at` on; what would leave either is left out.
    pub(crate) fn copy_from_slice(&self, at: usize, from: &Self, from_at: usize, len: usize) {
        let (from_at, len) = from.clip(from_at, len);
        let (at, len) = self.clip(at, len);
        let (_reading, _writing) = (from.begin_reading(), self.begin_writing());
        // SAFETY: `clip` keeps both ranges inside their slices. They may be of one region, so `copy` allows for overlap.
        unsafe { self.as_ptr().add(at).copy_from(from.as_ptr().add(from_at), len) };
    }

    fn clip(&self, at: usize, len: usize) -> (usize, usize) {
        let at = at.min(self.len_bytes as usize);
        (at, len.min(self.len_bytes as usize - at))
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({:?} of {:?})", self.range(), self.region)
    }
}

/// Memory of the global allocator.
struct Allocation {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocator takes memory back on any thread.
unsafe impl Send for Allocation {}
// SAFETY: a shared reference to an allocation gives access to nothing.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout, and dropped once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Memory mapped by the system.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the system takes memory back on any thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference to a mapping gives access to nothing.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this very length, and dropped once. It can't fail for a mapping that is there.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_memory_is_zeroed_aligned_and_written_like_any_other() {
        for len in [0, 1, RESERVE_BYTES_MIN - 1, RESERVE_BYTES_MIN, 5 << 20] {
            let region = Region::reserve(len).unwrap();
            assert_eq!((region.len_bytes(), region.as_ptr() as usize % ALIGN_BYTES), (len, 0));
            if len > 0 {
                region.write_at(len - 1, &[7]).unwrap();
                let mut expected = vec![0; len as usize - 1];
                expected.push(7);
                assert_eq!(region.copy_to_vec(), expected);
            }
        }
        assert!(matches!(Region::reserve(u64::MAX), Err(MemoryError::TooLong(_) | MemoryError::Exhausted(_))));
    }

    #[test]
    fn a_region_is_zeroed_aligned_and_bounded() {
        let region = Region::allocate(10_000).expect("memory");
        assert_eq!(region.as_ptr() as usize % ALIGN_BYTES, 0);
        assert_eq!(region.copy_to_vec(), vec![0; 10_000]);
        assert!(region.slice(9_999..10_001).is_none());
        assert!(region.slice(0..10_000).is_some_and(|all| all.slice(1..10_001).is_none()));
        assert_eq!(
            region.write_at(9_999, b"ab"),
            Err(MemoryError::OutOfBounds { offset: 9_999, len_bytes: 2, region_bytes: 10_000 })
        );
        assert_eq!(region.copy_to_vec(), vec![0; 10_000], "a write out of bounds writes nothing");
    }

    #[test]
    fn absurd_lengths_are_errors() {
        assert_eq!(Region::allocate(u64::MAX).err(), Some(MemoryError::TooLong(u64::MAX)));
        // SAFETY: a null pointer isn't accepted, so its bytes are never touched.
        let null = unsafe { Region::from_raw(std::ptr::null_mut(), 1, Box::new(())) };
        assert_eq!(null.err(), Some(MemoryError::Null(1)));
    }

    #[test]
    fn the_owner_outlives_every_slice() {
        let witness = Arc::new(());
        let mut bytes = vec![1_u8, 2, 3, 4].into_boxed_slice();
        let (start, owner) = (bytes.as_mut_ptr(), (bytes, Arc::clone(&witness)));
        // SAFETY: the box is moved into the owner; its bytes stay where they are.
        let region = unsafe { Region::from_raw(start, 4, Box::new(owner)) }.expect("a region");
        assert!(region.is_held_once());
        let tail = region.slice(2..4).expect("inside");
        assert!(!region.is_held_once(), "a slice has it, too");
        drop(region);
        assert_eq!(tail.copy_to_vec(), [3, 4]);
        assert_eq!(Arc::strong_count(&witness), 2);
        drop(tail);
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn empty_regions_are_regions() {
        for region in [Region::from_vec(Vec::new()), Region::allocate(0).expect("no memory needed")] {
            assert_eq!((region.len_bytes(), region.crc32c()), (0, 0));
            assert!(region.all().is_empty());
        }
    }
}

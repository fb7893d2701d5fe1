//! Memory in a file without a name: ours, which peers on this machine may read, and theirs, which we read.
//!
//! A segment is sealed as soon as it is mapped. It can't shrink, so that no reader ever meets a page that is gone; and it
//! can't be mapped for writing or written by a descriptor any more, so that whoever it is passed to can only read.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat};
use rustix::fs::{ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};

use xfer_transport_core::integrity;

use super::copy::copy_and_sum;
use super::{Mapping, Slice};
use crate::limits::STREAM_BYTES_MIN;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Memory of ours that peers on this machine may be shown.
#[derive(Debug)]
pub(crate) struct Segment {
    id: u64,
    file: OwnedFd,
    mapping: Mapping,
}

/// How many segments are gone: whoever has shown some looks through them when this changes.
pub(crate) fn dropped_segments() -> u64 {
    DROPPED.load(Ordering::SeqCst)
}

impl Segment {
    /// `len_bytes` zeroed bytes, without pages until they are written or reserved.
    pub(crate) fn create(len_bytes: u64) -> io::Result<Self> {
        let len = usize::try_from(len_bytes).ok().filter(|len| *len > 0 && isize::try_from(*len).is_ok());
        let len = len.ok_or(io::ErrorKind::InvalidInput)?;
        let file = memfd_create("xfer", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, len_bytes)?;
        let mapping = map(&file, len, ProtFlags::READ | ProtFlags::WRITE)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), file, mapping })
    }

    /// Unique in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.mapping.len as u64
    }

    /// Where the byte `at` lies; the end of the segment if it has none.
    pub(crate) fn at(&self, at: u64) -> NonNull<u8> {
        let at = (at as usize).min(self.mapping.len);
        // SAFETY: the result is inside the mapping or one past its end.
        unsafe { self.mapping.start.add(at) }
    }

    /// Gives a range its pages, or says that there are none left, which a write to them would only say by a signal.
    pub(crate) fn reserve(&self, at: u64, len_bytes: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::empty(), at, len_bytes.max(1))?)
    }

    /// All of it as words that others may read meanwhile.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        words(&self.mapping)
    }

    /// Makes a range zero.
    pub(crate) fn clear(&self, at: u64, len_bytes: u64) {
        let (at, len) = clip(self.mapping.len, at as usize, len_bytes as usize);
        // SAFETY: inside the mapping, which is ours to write; that somebody reads meanwhile changes nothing for us.
        unsafe { self.mapping.start.add(at).write_bytes(0, len) };
    }

    /// Copies `len` bytes of `from` to `at`; what would leave either is left out.
    pub(crate) fn fill(&self, at: usize, from: &Slice, from_at: usize, len: usize) {
        let (from_at, len) = from.clip(from_at, len);
        let (at, len) = clip(self.mapping.len, at, len);
        let _reading = from.begin_reading();
        // SAFETY: both ranges were clipped to what is there. The source may be in this very segment, so `copy` allows for
        // overlap; that others look at either meanwhile is what checksums are for.
        unsafe { self.mapping.start.as_ptr().add(at).copy_from(from.as_ptr().add(from_at), len) };
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

/// Memory of a peer on this machine. Its bytes may change at any time, so no reference to them is ever handed out but as atomics.
#[derive(Debug)]
pub(crate) struct View(Mapping);

impl View {
    fn map(file: &OwnedFd, len_bytes: u64) -> io::Result<Self> {
        let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
        // What can shrink would end us with a signal when it does.
        if !fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
            return refuse("a peer passed memory that can shrink");
        }
        let size = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
        match isize::try_from(len_bytes) {
            Ok(len @ 1..) if len_bytes <= size => Ok(Self(map(file, len as usize, ProtFlags::READ)?)),
            _ => refuse("a peer passed less memory than it says"),
        }
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.0.len as u64
    }

    /// Where it lies. The bytes may be read as long as the view lives.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.0.start.as_ptr()
    }

    /// All of it as words, which its owner may change at any time. They are for relaxed loads alone, which is what memory
    /// that can't be written allows for.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        words(&self.0)
    }

    /// A copy of `len` bytes from `at`; what would leave the view is left out.
    pub(crate) fn copy_to_vec(&self, at: usize, len: usize) -> Vec<u8> {
        let (at, len) = clip(self.0.len, at, len);
        let mut bytes = vec![0; len];
        // SAFETY: the range was clipped to what is mapped, and a vector that was just made overlaps nothing.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.as_ptr().add(at), len) };
        bytes
    }

    /// CRC-32C of `len` bytes from `at`; what would leave the view is left out.
    pub(crate) fn crc32c(&self, at: usize, len: usize) -> u32 {
        let (at, len) = clip(self.0.len, at, len);
        // SAFETY: the range was clipped to what is mapped. If its owner writes meanwhile, the sum is of bytes that never
        // were together, and doesn't match.
        let bytes = unsafe { std::slice::from_raw_parts(self.as_ptr().add(at), len) };
        integrity::crc32c(bytes)
    }

    /// Copies `len` bytes from `at` to `into_at` of `into`, and returns CRC-32C of what `crc32c` covers followed by them;
    /// what would leave either is left out.
    pub(crate) fn copy_to(&self, at: usize, len: usize, into: &Slice, into_at: usize, crc32c: u32) -> u32 {
        let (at, len) = clip(self.0.len, at, len);
        let (into_at, len) = into.clip(into_at, len);
        let _writing = into.begin_writing();
        let streams = into.region().len_bytes() >= STREAM_BYTES_MIN;
        // SAFETY: both ranges were clipped to what is there, and a peer's memory is mapped beside ours; even if it is
        // ours, mapped a second time, the bytes are only copied, and checksums say what came of it.
        unsafe { copy_and_sum(self.0.start.as_ptr().add(at), into.as_ptr().add(into_at), len, crc32c, streams) }
    }
}

/// The peers' memory that is mapped: each once, however many links show it.
#[derive(Debug, Default)]
pub(crate) struct Views(Mutex<HashMap<(u64, u64), Weak<View>>>);

impl Views {
    /// Maps what a peer has passed, unless it is mapped already.
    pub(crate) fn map(&self, file: &OwnedFd, len_bytes: u64) -> io::Result<Arc<View>> {
        let stat = fstat(file)?;
        let mut views = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|_, view| view.strong_count() > 0);
        // Two files that are there at the same time have different numbers.
        let key = (stat.st_dev, stat.st_ino);
        if let Some(view) = views.get(&key).and_then(Weak::upgrade).filter(|view| view.len_bytes() == len_bytes) {
            return Ok(view);
        }
        let view = Arc::new(View::map(file, len_bytes)?);
        views.insert(key, Arc::downgrade(&view));
        Ok(view)
    }
}

fn words(mapping: &Mapping) -> &[AtomicU64] {
    // SAFETY: the mapping begins with a page, has whole words as counted here, and lives as long as what is returned. Whoever
    // else knows these words may change them: they are read and written as atomics only.
    unsafe { std::slice::from_raw_parts(mapping.start.as_ptr().cast(), mapping.len / size_of::<u64>()) }
}

fn map(file: &OwnedFd, len: usize, access: ProtFlags) -> io::Result<Mapping> {
    // SAFETY: a new mapping wherever the system likes touches no memory that anybody has.
    let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file, 0) }?;
    let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: all of the mapping, which nobody else knows. Large pages are a hint.
    let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
    Ok(Mapping { start, len })
}

fn clip(of: usize, at: usize, len: usize) -> (usize, usize) {
    let at = at.min(of);
    (at, len.min(of - at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;

    fn passed(segment: &Segment) -> OwnedFd {
        segment.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_one_end_writes_the_other_reads_in_place() {
        let segment = Segment::create(10_000).unwrap();
        let view = Views::default().map(&passed(&segment), 10_000).unwrap();
        segment.fill(9_998, &Region::from_vec(vec![1, 2, 3]).all(), 0, 3);
        let into = Region::allocate(4).unwrap();
        let sum = view.copy_to(9_997, 4, &into.all(), 0, 0);
        assert_eq!(sum, integrity::crc32c(&[0, 1, 2]));
        assert_eq!(into.copy_to_vec(), [0, 1, 2, 0], "what leaves the segment is left out");
    }

    #[test]
    fn nobody_who_is_passed_a_segment_can_write_or_resize_it() {
        let segment = Segment::create(4096).unwrap();
        let file = passed(&segment);
        assert!(map(&file, 4096, ProtFlags::READ | ProtFlags::WRITE).is_err());
        assert!(rustix::io::write(&file, b"x").is_err());
        assert!(ftruncate(&file, 0).is_err() && ftruncate(&file, 8192).is_err());
    }

    #[test]
    fn what_can_shrink_or_is_too_short_is_refused() {
        let views = Views::default();
        let unsealed = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(views.map(&unsealed, 4096).unwrap_err().to_string().contains("can shrink"));
        let segment = Segment::create(4096).unwrap();
        for len_bytes in [0, 4097, u64::MAX] {
            assert!(views.map(&passed(&segment), len_bytes).unwrap_err().to_string().contains("less memory"));
        }
    }

    #[test]
    fn a_segment_is_mapped_once_and_unmapped_with_its_last_user() {
        let (segment, views) = (Segment::create(4096).unwrap(), Views::default());
        let first = views.map(&passed(&segment), 4096).unwrap();
        assert!(Arc::ptr_eq(&first, &views.map(&passed(&segment), 4096).unwrap()));
        let weak = Arc::downgrade(&first);
        drop(first);
        assert!(weak.upgrade().is_none());
    }
}

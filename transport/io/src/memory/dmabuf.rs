//! Memory of devices: it comes as a descriptor (a dmabuf), by which network cards reach it, and is mapped for the processor.
//!
//! The two are kept apart. What a card is given is the descriptor, which asks nothing of the processor: see
//! `backend/verbs/dmabufs.rs`. What sums and copies goes through the mapping, and says before and after that it does, so that it sees
//! what devices have written, and they what it has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, ftruncate, memfd_create, seek};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use xfer_sys::dmabuf::{self, Access};

use super::{ALIGN_BYTES, Mapping, MemoryError, Region, Slice};

/// What is behind a region that is memory of a device.
#[derive(Debug)]
pub(crate) struct Dmabuf {
    file: OwnedFd,
    /// Where the region begins in it, in bytes.
    offset: u64,
    /// It was said in the log that the processor could not be let in.
    has_failed: AtomicBool,
}

impl Dmabuf {
    /// The descriptor, and where the byte `at` of the region is in what it stands for.
    pub(crate) fn place(&self, at: u64) -> (BorrowedFd<'_>, u64) {
        (self.file.as_fd(), self.offset + at)
    }
}

impl Region {
    /// Memory of a device, from `offset` on, in bytes: what a graphics driver, a heap of the kernel's or another driver has given the
    /// descriptor for. The region keeps it, and maps it for the processor, which sums what is moved and carries it where no card
    /// does.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoDmabuf`] for another kind of descriptor, [`MemoryError::OutOfBounds`] for more than is behind it, and
    /// [`MemoryError::Unmapped`] for memory that its owner doesn't let the processor read and write.
    pub fn from_dmabuf(file: OwnedFd, offset: u64, len_bytes: u64) -> Result<Self, MemoryError> {
        // It tells such descriptors from others, and has the owner do what may fail: later there is nobody to tell.
        for access in [Access::Read, Access::Write] {
            let reached = dmabuf::begin(file.as_fd(), access).and_then(|()| dmabuf::end(file.as_fd(), access));
            reached.map_err(|error| match errno_of(&error) {
                errno @ (libc::ENOTTY | libc::EBADF) => MemoryError::NoDmabuf { errno },
                errno => MemoryError::Unmapped { len_bytes, errno },
            })?;
        }
        Self::map_dmabuf(file, offset, len_bytes)
    }

    /// Zeroed memory that devices can be given the descriptor of: of the kernel's heap for that, or made of a memory file.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoDmabufs`] where this process may have neither.
    pub fn dmabuf(len_bytes: u64) -> Result<Self, MemoryError> {
        let pages_bytes = len_bytes.max(1).checked_next_multiple_of(ALIGN_BYTES as u64);
        let pages_bytes = pages_bytes.ok_or(MemoryError::TooLong(len_bytes))?;
        let made = dmabuf::of_heap(pages_bytes, true).or_else(|heap| {
            of_memory_file(pages_bytes).map_err(|file| MemoryError::NoDmabufs {
                len_bytes,
                heap_errno: errno_of(&heap),
                file_errno: errno_of(&file),
            })
        });
        Self::from_dmabuf(made?, 0, len_bytes)
    }

    /// Whether it is memory of a device, which comes as a descriptor.
    pub fn is_dmabuf(&self) -> bool {
        self.0.dmabuf.is_some()
    }

    /// The same without asking whether it is such a descriptor: tests have none on most machines, and memory files instead.
    pub(crate) fn map_dmabuf(file: OwnedFd, offset: u64, len_bytes: u64) -> Result<Self, MemoryError> {
        let unmapped = |errno: i32| MemoryError::Unmapped { len_bytes, errno };
        let region_bytes = seek(&file, SeekFrom::End(0)).map_err(|error| unmapped(error.raw_os_error()))?;
        let end = offset.checked_add(len_bytes).filter(|end| *end <= region_bytes);
        end.ok_or(MemoryError::OutOfBounds { offset, len_bytes, region_bytes })?;
        // A mapping begins with a page, and is not empty.
        let before = offset % ALIGN_BYTES as u64;
        let len = usize::try_from(before + len_bytes.max(1)).map_err(|_| MemoryError::TooLong(len_bytes))?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the system likes touches no memory that anybody has.
        let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, &file, offset - before) };
        let start = start.map_err(|error| unmapped(error.raw_os_error()))?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(unmapped(libc::ENOMEM))?;
        // SAFETY: `before` is less than the mapping's length.
        let first = unsafe { start.add(before as usize) };
        let dmabuf = Dmabuf { file, offset, has_failed: AtomicBool::new(false) };
        Ok(Self::with(first, len_bytes, None, Some(dmabuf), Box::new(Mapping { start, len })))
    }
}

/// Such memory that is a memory file: the processor writes it at its price, and it is there where the heap is not.
fn of_memory_file(len_bytes: u64) -> io::Result<OwnedFd> {
    let file = memfd_create("xfer-dmabuf", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, len_bytes)?;
    // The kernel asks for it: what could shrink would leave a device with pages that are somebody else's.
    fcntl_add_seals(&file, SealFlags::SHRINK)?;
    dmabuf::of_file(file.as_fd(), 0, len_bytes)
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The processor looks at memory, or writes it, until this is dropped: of interest to memory of devices alone.
#[must_use = "it says when the processor is through"]
pub(crate) struct Touching<'a> {
    of: Option<(&'a Dmabuf, Access)>,
    /// It could not be let in: what it sees may not be what devices have written.
    pub(crate) has_failed: bool,
}

impl Slice {
    /// What is behind it, if that is memory of a device, and where in it the slice begins.
    pub(crate) fn dmabuf(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.region.0.dmabuf.as_ref().map(|dmabuf| dmabuf.place(self.start))
    }

    /// The processor begins to look at it.
    pub(crate) fn begin_reading(&self) -> Touching<'_> {
        self.touch(Access::Read)
    }

    /// The processor begins to write it.
    pub(crate) fn begin_writing(&self) -> Touching<'_> {
        self.touch(Access::Write)
    }

    fn touch(&self, access: Access) -> Touching<'_> {
        let of = self.region.0.dmabuf.as_ref().map(|dmabuf| (dmabuf, access));
        let began = of.map_or(Ok(()), |(dmabuf, access)| dmabuf::begin(dmabuf.file.as_fd(), access));
        let Err(error) = began else { return Touching { of, has_failed: false } };
        if let Some((dmabuf, _)) = of
            && !dmabuf.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                "memory of a device can't be reached any more ({error}): its sums don't match from here on"
            );
        }
        Touching { of: None, has_failed: true }
    }
}

impl Drop for Touching<'_> {
    fn drop(&mut self) {
        if let Some((dmabuf, access)) = self.of {
            // What was wrong with it, the next beginning says.
            let _ = dmabuf::end(dmabuf.file.as_fd(), access);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memory file in place of memory of a device, of which the processor notices no difference but that nobody has to be told.
    fn file(len_bytes: u64) -> OwnedFd {
        let file = memfd_create("not-a-device", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&file, len_bytes).expect("its length");
        file
    }

    #[test]
    fn another_kind_of_descriptor_is_refused_by_name() {
        let refused = Region::from_dmabuf(file(4096), 0, 4096).expect_err("a memory file");
        assert_eq!(refused, MemoryError::NoDmabuf { errno: libc::ENOTTY });
        assert!(refused.to_string().contains("dmabuf"), "{refused}");
    }

    #[test]
    fn it_begins_anywhere_and_ends_where_its_memory_does() {
        let len_bytes = 3 * ALIGN_BYTES as u64;
        let whole = file(len_bytes);
        let again = whole.try_clone().expect("a descriptor");
        let offset = ALIGN_BYTES as u64 + 100;
        let region = Region::map_dmabuf(whole, offset, len_bytes - offset).expect("mapped");
        assert!(region.is_dmabuf() && !region.is_shared());
        assert_eq!(region.as_ptr() as usize % ALIGN_BYTES, 100, "as far into a page as it is there");
        let slice = region.slice(50..60).expect("inside");
        assert_eq!(slice.dmabuf().map(|(_, at)| at), Some(offset + 50));
        region.write_at(region.len_bytes() - 1, &[7]).expect("inside");
        for (offset, len_bytes) in [(offset, len_bytes), (0, len_bytes + 1), (u64::MAX, 1)] {
            let descriptor = again.try_clone().expect("a descriptor");
            let refused = Region::map_dmabuf(descriptor, offset, len_bytes).err();
            assert_eq!(refused, Some(MemoryError::OutOfBounds { offset, len_bytes, region_bytes: 3 * 4096 }));
        }
        let mut last = [0];
        rustix::io::pread(&again, &mut last, len_bytes - 1).expect("read");
        assert_eq!(last, [7], "the region is the memory itself");
        let empty = Region::map_dmabuf(again, len_bytes, 0).expect("nothing is always there");
        assert_eq!((empty.len_bytes(), empty.copy_to_vec()), (0, Vec::new()));
    }

    #[test]
    fn what_can_not_be_seen_has_no_sum_that_matches() {
        let region = Region::map_dmabuf(file(4096), 0, 4096).expect("mapped");
        let same = Region::from_vec(vec![0; 4096]);
        assert_ne!(region.crc32c(), same.crc32c(), "a memory file doesn't let itself be announced to");
    }
}

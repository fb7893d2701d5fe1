//! Memory that comes as a descriptor which other devices understand (a dmabuf): the kernel's calls about it.
//!
//! Whoever has such memory, a graphics driver or a heap of the kernel's, gives a descriptor for it. A network card reaches it by that
//! descriptor; the processor reaches it only where its owner lets it be mapped, and then says before and after that it looks, so
//! that no cache stands between the two.
#![allow(unsafe_code, reason = "the kernel is called, with structures of its own")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// The heap from which anybody may have such memory who may open it.
pub const HEAP: &str = "/dev/dma_heap/system";

/// What makes such memory of a memory file.
pub const OF_FILES: &str = "/dev/udmabuf";

/// What the processor does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looks at it.
    Read,
    /// Changes it.
    Write,
}

/// `struct dma_buf_sync`.
#[repr(C)]
struct SyncCall {
    flags: u64,
}

/// `struct dma_heap_allocation_data`.
#[repr(C)]
struct HeapCall {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// `struct udmabuf_create`.
#[repr(C)]
struct CreateCall {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_END: u64 = 4;
const CREATE_CLOEXEC: u32 = 1;

const SYNC: libc::Ioctl = libc::_IOW::<SyncCall>(b'b' as u32, 0);
const ALLOCATE: libc::Ioctl = libc::_IOWR::<HeapCall>(b'H' as u32, 0);
const CREATE: libc::Ioctl = libc::_IOW::<CreateCall>(b'u' as u32, 0x42);

/// The processor is about to reach memory that it has mapped. Waits for what a device does with it, where its owner knows of that.
///
/// # Errors
///
/// `ENOTTY`: it is no such descriptor. What else there is, its owner says.
pub fn begin(dmabuf: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(dmabuf, access, 0)
}

/// The processor is through with it.
pub fn end(dmabuf: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(dmabuf, access, SYNC_END)
}

fn sync(dmabuf: BorrowedFd<'_>, access: Access, end: u64) -> io::Result<()> {
    let flags = end
        | match access {
            Access::Read => SYNC_READ,
            Access::Write => SYNC_WRITE,
        };
    let mut sync = SyncCall { flags };
    loop {
        match call(dmabuf.as_raw_fd(), SYNC, &mut sync) {
            // It has waited for a device, and was interrupted.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            result => return result.map(drop),
        }
    }
}

/// So many bytes of the heap, rounded up to whole pages, all zero. The processor can map them for reading; for writing, too, if they
/// are `writable`.
pub fn of_heap(len_bytes: u64, writable: bool) -> io::Result<OwnedFd> {
    let heap = open(HEAP)?;
    let mode = if writable { libc::O_RDWR } else { libc::O_RDONLY };
    let fd_flags = (mode | libc::O_CLOEXEC) as u32;
    let mut allocation = HeapCall { len: len_bytes, fd: 0, fd_flags, heap_flags: 0 };
    call(heap.as_raw_fd(), ALLOCATE, &mut allocation)?;
    Ok(owned(allocation.fd as RawFd))
}

/// So many bytes of a memory file, which has whole pages of them and can't shrink, from `offset` on, where a page begins.
pub fn of_file(memory: BorrowedFd<'_>, offset: u64, len_bytes: u64) -> io::Result<OwnedFd> {
    let maker = open(OF_FILES)?;
    let memfd = memory.as_raw_fd() as u32;
    let mut create = CreateCall { memfd, flags: CREATE_CLOEXEC, offset, size: len_bytes };
    Ok(owned(call(maker.as_raw_fd(), CREATE, &mut create)?))
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)
}

/// One call about a descriptor, with the structure that belongs to its number.
fn call<T>(descriptor: RawFd, number: libc::Ioctl, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the numbers above say how long the structures are that each is called with, and the kernel writes no more.
    let result = unsafe { libc::ioctl(descriptor, number, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// What `<linux/dma-buf.h>`, `<linux/dma-heap.h>` and `<linux/udmabuf.h>` must say on this machine: expressions in C, and what they
/// are here.
pub fn layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("sizeof(struct dma_buf_sync)", size_of::<SyncCall>()),
        ("DMA_BUF_SYNC_READ", SYNC_READ as usize),
        ("DMA_BUF_SYNC_WRITE", SYNC_WRITE as usize),
        ("DMA_BUF_SYNC_START", 0),
        ("DMA_BUF_SYNC_END", SYNC_END as usize),
        ("DMA_BUF_IOCTL_SYNC", SYNC as usize),
        ("sizeof(struct dma_heap_allocation_data)", size_of::<HeapCall>()),
        ("offsetof(struct dma_heap_allocation_data, len)", offset_of!(HeapCall, len)),
        ("offsetof(struct dma_heap_allocation_data, fd)", offset_of!(HeapCall, fd)),
        ("offsetof(struct dma_heap_allocation_data, fd_flags)", offset_of!(HeapCall, fd_flags)),
        ("offsetof(struct dma_heap_allocation_data, heap_flags)", offset_of!(HeapCall, heap_flags)),
        ("DMA_HEAP_IOCTL_ALLOC", ALLOCATE as usize),
        ("sizeof(struct udmabuf_create)", size_of::<CreateCall>()),
        ("offsetof(struct udmabuf_create, memfd)", offset_of!(CreateCall, memfd)),
        ("offsetof(struct udmabuf_create, flags)", offset_of!(CreateCall, flags)),
        ("offsetof(struct udmabuf_create, offset)", offset_of!(CreateCall, offset)),
        ("offsetof(struct udmabuf_create, size)", offset_of!(CreateCall, size)),
        ("UDMABUF_FLAGS_CLOEXEC", CREATE_CLOEXEC as usize),
        ("UDMABUF_CREATE", CREATE as usize),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// What was read off the headers once, so that a change here is noticed on machines without them too.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_structures_and_numbers_are_those_of_the_headers() {
        let layout = layout();
        for (expression, expected) in [
            ("sizeof(struct dma_buf_sync)", 8),
            ("DMA_BUF_IOCTL_SYNC", 0x4008_6200),
            ("sizeof(struct dma_heap_allocation_data)", 24),
            ("offsetof(struct dma_heap_allocation_data, fd)", 8),
            ("DMA_HEAP_IOCTL_ALLOC", 0xc018_4800),
            ("sizeof(struct udmabuf_create)", 24),
            ("offsetof(struct udmabuf_create, offset)", 8),
            ("UDMABUF_CREATE", 0x4018_7542),
        ] {
            let found = layout.iter().find(|(of, _)| *of == expression).map(|(_, found)| *found);
            assert_eq!(found, Some(expected), "{expression}");
        }
    }

    #[test]
    fn what_is_no_such_descriptor_is_told_apart() {
        let file = File::open("/proc/self/status").expect("Linux has it");
        for access in [Access::Read, Access::Write] {
            let error = begin(file.as_fd(), access).expect_err("a file");
            assert_eq!(error.raw_os_error(), Some(libc::ENOTTY), "{error}");
        }
    }
}

//! Bytes of another process, copied by the kernel straight from where they lie there.

use std::io;

use rustix::process::Pid;

use super::Slice;

/// Copies `len` bytes at the address `from` of a process to `into_at` of `into`; what would leave `into` is left
/// out. An address that isn't there is an error, and so is a process that is not known or may not be read.
pub(crate) fn fetch(process: Option<Pid>, from: u64, into: &Slice, into_at: usize, len: usize) -> io::Result<()> {
    let pid = process.ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))?.as_raw_nonzero().get();
    let (into_at, len) = into.clip(into_at, len);
    let _writing = into.begin_writing();
    let mut done = 0;
    while done < len {
        let remote = from.checked_add(done as u64).and_then(|at| usize::try_from(at).ok());
        let remote = remote.ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        let here = into.as_ptr().wrapping_add(into_at + done);
        let here = libc::iovec { iov_base: here.cast(), iov_len: len - done };
        let there = libc::iovec { iov_base: remote as *mut libc::c_void, iov_len: len - done };
        // SAFETY: `clip` keeps the range inside the slice, which lives, and the kernel writes it as it would for another
        // process: no reference to it is made here. The address of the other process is only looked up there, by a kernel
        // that refuses what isn't mapped.
        let got = unsafe { libc::process_vm_readv(pid, &here, 1, &there, 1, 0) };
        match usize::try_from(got) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Ok(got) => done += got,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::sync::Arc;

    use rustix::mm::{MapFlags, ProtFlags, mmap};

    use super::*;
    use crate::backend::Backend;
    use crate::backend::shm::ShmBackend;
    use crate::conformance::{PATIENCE, Pair, pattern};
    use crate::memory::{Mapping, Region};

    /// Memory that the kernel copies for nobody, its owner included; nothing where there is no such thing.
    fn secret(len: usize) -> Option<Region> {
        // SAFETY: the call takes a number, gives a descriptor that nobody else has, and touches no memory.
        let file = unsafe {
            let file = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
            OwnedFd::from_raw_fd(i32::try_from(file).ok().filter(|file| *file >= 0)?)
        };
        rustix::fs::ftruncate(&file, len as u64).ok()?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the system likes touches no memory that anybody has.
        let start = unsafe { mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, &file, 0) }.ok()?;
        let start = std::ptr::NonNull::new(start.cast::<u8>())?;
        // SAFETY: the mapping is as long as it is said to be, and lives as long as its owner.
        unsafe { Region::from_raw(start.as_ptr(), len as u64, Box::new(Mapping { start, len })) }.ok()
    }

    #[test]
    fn what_the_kernel_does_not_copy_goes_through_the_ring() {
        const LEN_BYTES: u64 = 1 << 20;
        let Some(source) = secret(LEN_BYTES as usize) else {
            eprintln!("skipped: no secret memory here (memfd_secret)");
            return;
        };
        source.write_at(0, &pattern(LEN_BYTES, 1)).unwrap();
        let make = || Arc::new(ShmBackend::bind().expect("shared memory")) as Arc<dyn Backend>;
        let pair = Pair::with(&make, |config| config.chunk_bytes = 64 << 10);
        let ordinary = Region::from_vec(pattern(LEN_BYTES, 2));
        // The ends find out that they can fetch, and then that they can't fetch this.
        for from in [&ordinary, &source, &source] {
            let (destination, grant) = pair.granted(LEN_BYTES);
            let (to, remote) = (pair.receiver.id(), grant.remote().all());
            let write = pair.sender.write(to, from.all(), remote, crate::Lane::Step, None);
            write.wait(Some(PATIENCE)).expect("it goes another way");
            assert!(destination.copy_to_vec() == from.copy_to_vec());
        }
    }

    #[test]
    fn what_lies_in_a_process_is_fetched_and_what_does_not_is_an_error() {
        let me = Some(rustix::process::getpid());
        let source = Region::from_vec((0..200).collect());
        let into = Region::allocate(100).unwrap();
        // A kernel, or a container, without the call has nothing to test.
        match fetch(me, source.as_ptr() as u64 + 50, &into.all(), 10, 1_000) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                eprintln!("skipped: process_vm_readv is not allowed here ({error})");
                return;
            }
            fetched => fetched.expect("it is this process"),
        }
        let expected: Vec<u8> = [0; 10].into_iter().chain(50..140).collect();
        assert_eq!(into.copy_to_vec(), expected, "what leaves the destination is left out");
        let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(errno(fetch(me, 8, &into.all(), 0, 8)), Some(libc::EFAULT));
        assert_eq!(errno(fetch(me, u64::MAX, &into.all(), 0, 8)), Some(libc::EFAULT));
        assert_eq!(errno(fetch(Pid::from_raw(i32::MAX), 8, &into.all(), 0, 8)), Some(libc::ESRCH));
        assert_eq!(errno(fetch(None, 8, &into.all(), 0, 8)), Some(libc::EPERM));
    }
}

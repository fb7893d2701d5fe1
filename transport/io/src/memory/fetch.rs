//! Bytes of another process, copied by the kernel straight from where they lie there.

use std::io;

use rustix::process::Pid;

use super::Slice;

/// Copies `len` bytes at the address `from` of a process to `into_at` of `into`; what would leave `into` is left
/// out. An address that isn't there is an error, and so is a process that is not known or may not be read.
pub(crate) fn fetch(process: Option<Pid>, from: u64, into: &Slice, into_at: usize, len: usize) -> io::Result<()> {
    let pid = process.ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))?.as_raw_nonzero().get();
    let (into_at, len) = into.clip(into_at, len);
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
    use super::*;
    use crate::memory::Region;

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

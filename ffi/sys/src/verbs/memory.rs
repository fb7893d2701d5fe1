//! Memory that a device may reach: registrations of it, and windows on these for the other end.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::abi;
use super::device::Context;
use super::{QueuePair, VerbsError};

const BY_DESCRIPTOR: &str = "ibv_reg_dmabuf_mr";

/// What belongs together: a queue pair reaches only what was registered in its own domain.
#[derive(Debug)]
pub struct ProtectionDomain {
    pub(super) context: Arc<Context>,
    pub(super) raw: *mut abi::Pd,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until this is dropped.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

/// Who may do what with registered memory. Reading it by its own device is always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(i32);

impl Access {
    /// This machine's device reads it.
    pub const LOCAL_READ: Self = Self(0);
    /// This machine's device writes it.
    pub const LOCAL_WRITE: Self = Self(1);
    /// The other end writes it, and our device on its behalf.
    pub const REMOTE_WRITE: Self = Self(1 | 1 << 1);
    /// The other end reads it.
    pub const REMOTE_READ: Self = Self(1 << 2);
    /// Windows may be opened on it.
    pub const WINDOWS: Self = Self(1 << 4);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn bits(self) -> i32 {
        self.0
    }
}

/// Registered memory: its pages stay where they are until this is dropped.
#[derive(Debug)]
pub struct MemoryRegion {
    domain: Arc<ProtectionDomain>,
    pub(super) raw: *mut abi::Mr,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until this is dropped.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

/// A window that a queue pair opens for its other end on a part of registered memory, and closes again.
#[derive(Debug)]
pub struct MemoryWindow {
    domain: Arc<ProtectionDomain>,
    pub(super) raw: *mut abi::Mw,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until this is dropped.
unsafe impl Send for MemoryWindow {}
// SAFETY: as above.
unsafe impl Sync for MemoryWindow {}

impl ProtectionDomain {
    /// A domain of its own on a device.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.library.alloc_pd)(context.raw) };
        let raw = Context::is_null("no protection domain (ibv_alloc_pd)", raw)?;
        Ok(Arc::new(Self { context: Arc::clone(context), raw }))
    }

    /// The device.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether memory of another device could be registered, which comes as a descriptor (a dmabuf); else why not. It is asked for
    /// with a descriptor that there can't be: who takes any complains about that one.
    pub fn takes_dmabufs(&self) -> Result<(), VerbsError> {
        let register = self.context.library.reg_dmabuf_mr.ok_or(VerbsError::NoSymbol(BY_DESCRIPTOR))?;
        // SAFETY: the domain lives; no memory is behind the descriptor.
        let raw = unsafe { register(self.raw, 0, 4096, 0, -1, Access::LOCAL_WRITE.0) };
        let error = io::Error::last_os_error();
        if !raw.is_null() {
            // SAFETY: registered just now, and ended once.
            unsafe { (self.context.library.dereg_mr)(raw) };
        }
        match error.raw_os_error() {
            Some(libc::EBADF) => Ok(()),
            _ if !raw.is_null() => Ok(()),
            _ => Err(VerbsError::Failed { what: "no registration by descriptor (ibv_reg_dmabuf_mr)", error }),
        }
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: made by us, ended once; all that was made in it kept it and is gone.
        unsafe { (self.context.library.dealloc_pd)(self.raw) };
    }
}

impl MemoryRegion {
    /// Registers `len` bytes at `start`.
    ///
    /// # Safety
    ///
    /// The bytes must stay mapped for as long as any work names the registration, or the other end may, and they change whenever
    /// these write them. When they are unmapped before it ends, it keeps pages that nobody else has any more.
    pub unsafe fn register(
        domain: &Arc<ProtectionDomain>,
        start: *mut u8,
        len: usize,
        access: Access,
    ) -> Result<Self, VerbsError> {
        let library = domain.context.library;
        // SAFETY: the domain lives; that the memory is there is the caller's word, and the kernel looks itself.
        let raw = unsafe { (library.reg_mr)(domain.raw, start.cast(), len, access.bits()) };
        if raw.is_null() {
            return Err(refused(len as u64, io::Error::last_os_error()));
        }
        Ok(Self { domain: Arc::clone(domain), raw })
    }

    /// Registers `len` bytes of memory that comes as a descriptor (a dmabuf), from `offset` on, whether the processor reaches them or
    /// not. Work names them as if they were at `start`, which lies as far into a page as `offset` does. Windows can't be opened on
    /// them: the kernel takes no such registration.
    ///
    /// # Errors
    ///
    /// As [`ProtectionDomain::takes_dmabufs`] says; or what the device has against this descriptor.
    ///
    /// # Safety
    ///
    /// The bytes change whenever work names the registration, or the other end writes them. The memory stays where it is until the
    /// registration ends, also when the descriptor is closed before.
    pub unsafe fn register_dmabuf(
        domain: &Arc<ProtectionDomain>,
        (dmabuf, offset): (BorrowedFd<'_>, u64),
        start: u64,
        len: usize,
        access: Access,
    ) -> Result<Self, VerbsError> {
        let register = domain.context.library.reg_dmabuf_mr.ok_or(VerbsError::NoSymbol(BY_DESCRIPTOR))?;
        // SAFETY: the domain lives, and the descriptor is open; what is behind it the kernel looks at itself.
        let raw = unsafe { register(domain.raw, offset, len, start, dmabuf.as_raw_fd(), access.bits()) };
        let raw = Context::is_null("memory can't be registered by its descriptor (ibv_reg_dmabuf_mr)", raw)?;
        Ok(Self { domain: Arc::clone(domain), raw })
    }

    /// What names it in our own work.
    pub fn local_key(&self) -> u32 {
        // SAFETY: the registration lives as long as `self`.
        unsafe { (*self.raw).lkey }
    }

    /// What names it in work of the other end.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw).rkey }
    }

    /// Ends it. When this returns without an error no device reaches the memory through it any more.
    pub fn end(self) -> Result<(), VerbsError> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: registered by us, and ended once: what `ManuallyDrop` holds isn't dropped.
        let result = unsafe { (this.domain.context.library.dereg_mr)(this.raw) };
        // SAFETY: the domain is taken out once, and `this` is not looked at any more.
        drop(unsafe { std::ptr::read(&this.domain) });
        VerbsError::check("a registration doesn't end (ibv_dereg_mr)", result)
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: registered by us, ended once.
        unsafe { (self.domain.context.library.dereg_mr)(self.raw) };
    }
}

/// Too little that may be locked is the usual reason, and has a remedy.
fn refused(len_bytes: u64, error: io::Error) -> VerbsError {
    // SAFETY: a structure of two numbers, for which zeros are values.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours and whole.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    let is_limited = known && limit.rlim_cur != libc::RLIM_INFINITY;
    match error.raw_os_error() {
        Some(libc::ENOMEM) if is_limited => VerbsError::Memlock { len_bytes, limit_bytes: limit.rlim_cur },
        _ => VerbsError::Failed { what: "memory can't be registered (ibv_reg_mr)", error },
    }
}

impl MemoryWindow {
    /// A window that is closed. Only on a device that [has windows](Context::has_windows).
    pub fn new(domain: &Arc<ProtectionDomain>) -> Result<Self, VerbsError> {
        const TYPE_2: i32 = 2;
        let Some(alloc) = domain.context.ops().alloc_mw else {
            return Err(VerbsError::NoSymbol("alloc_mw"));
        };
        // SAFETY: the domain lives.
        let raw = unsafe { alloc(domain.raw, TYPE_2) };
        let raw = Context::is_null("no memory window (ibv_alloc_mw)", raw)?;
        Ok(Self { domain: Arc::clone(domain), raw })
    }

    /// The key under which it is opened next; the one before is worth nothing from then on.
    pub fn next_key(&self) -> u32 {
        // SAFETY: the window lives as long as `self`.
        let key = unsafe { (*self.raw).rkey };
        // The low byte is the owner's to choose.
        (key & !0xff) | (key.wrapping_add(1) & 0xff)
    }

    /// Whether it is of the domain of `queue`, so that it can be opened there.
    pub fn is_of(&self, queue: &QueuePair) -> bool {
        Arc::ptr_eq(&self.domain, queue.domain())
    }

    /// Ends it. When this returns without an error nobody reaches memory through it any more.
    pub fn end(self) -> Result<(), VerbsError> {
        let this = std::mem::ManuallyDrop::new(self);
        let result = this.dealloc();
        // SAFETY: the domain is taken out once, and `this` is not looked at any more.
        drop(unsafe { std::ptr::read(&this.domain) });
        VerbsError::check("a window doesn't end (ibv_dealloc_mw)", result)
    }

    fn dealloc(&self) -> i32 {
        let Some(dealloc) = self.domain.context.ops().dealloc_mw else { return libc::ENOSYS };
        // SAFETY: made by us; each of the two callers ends it once.
        unsafe { dealloc(self.raw) }
    }
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        self.dealloc();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::verbs::fake::{Answers, Call, device};

    const TAKES: Answers = Answers { by_descriptor: 0, where_mapped: 0 };

    #[test]
    fn what_is_registered_by_its_descriptor_is_named_as_if_it_was_mapped_and_ends_before_its_domain() {
        let (context, calls) = device(TAKES);
        let domain = ProtectionDomain::new(&context).expect("a domain");
        drop(context);
        let file = std::fs::File::open("/proc/self/status").expect("any descriptor");
        let access = Access::REMOTE_READ;
        // SAFETY: no device reads or writes anything.
        let registration =
            unsafe { MemoryRegion::register_dmabuf(&domain, (file.as_fd(), 4096 + 12), 0x7000_000c, 100, access) };
        let registration = registration.expect("it takes them");
        drop(domain);
        let descriptor = file.as_raw_fd();
        let asked = Call::RegisterByDescriptor {
            descriptor,
            offset: 4108,
            start: 0x7000_000c,
            len_bytes: 100,
            access: access.bits(),
        };
        assert_eq!(calls.take(), [asked]);
        let key = registration.local_key();
        registration.end().expect("it ends");
        assert_eq!(calls.take(), [Call::End { key }, Call::EndDomain, Call::Close]);
    }

    #[test]
    fn a_device_is_asked_with_a_descriptor_that_there_can_not_be() {
        let refuses = Answers { by_descriptor: libc::EOPNOTSUPP, ..TAKES };
        for (answers, takes) in [(TAKES, true), (refuses, false)] {
            let (context, calls) = device(answers);
            let domain = ProtectionDomain::new(&context).expect("a domain");
            let said = domain.takes_dmabufs();
            assert_eq!(said.is_ok(), takes, "{said:?}");
            assert!(matches!(calls.take()[..], [Call::RegisterByDescriptor { descriptor: -1, .. }]), "nothing else");
        }
    }

    #[test]
    fn a_refusal_is_a_sentence_with_the_name_of_the_call() {
        let (context, _) = device(Answers { by_descriptor: libc::EOPNOTSUPP, where_mapped: libc::EFAULT });
        let domain = ProtectionDomain::new(&context).expect("a domain");
        let file = std::fs::File::open("/proc/self/status").expect("any descriptor");
        let mut bytes = [0; 8];
        // SAFETY: nothing is registered.
        let (by_descriptor, where_mapped) = unsafe {
            (
                MemoryRegion::register_dmabuf(&domain, (file.as_fd(), 0), 0, 8, Access::LOCAL_WRITE),
                MemoryRegion::register(&domain, bytes.as_mut_ptr(), 8, Access::LOCAL_WRITE),
            )
        };
        for (refused, name, errno) in
            [(by_descriptor, "ibv_reg_dmabuf_mr", libc::EOPNOTSUPP), (where_mapped, "ibv_reg_mr", libc::EFAULT)]
        {
            let error = refused.expect_err("refused");
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(error.raw_os_error(), Some(errno));
        }
    }
}

//! A device that isn't there, for tests of what is asked of one: memory is registered with it, and that is all it can do.
//!
//! What it shows is what would be asked of a driver, and in which order. What a driver does then, it can't show.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use super::abi;
use super::device::Context;
use super::library::Library;

/// One call of the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Memory is registered where it is mapped (`ibv_reg_mr`).
    Register {
        /// Where it begins.
        start: u64,
        /// How long it is, in bytes.
        len_bytes: u64,
        /// Who may do what, as bits.
        access: i32,
    },
    /// Memory is registered by its descriptor (`ibv_reg_dmabuf_mr`).
    RegisterByDescriptor {
        /// Its number in this process.
        descriptor: i32,
        /// Where it begins there, in bytes.
        offset: u64,
        /// At which address work names it.
        start: u64,
        /// How long it is, in bytes.
        len_bytes: u64,
        /// Who may do what, as bits.
        access: i32,
    },
    /// A registration ends (`ibv_dereg_mr`): it was the one with this key.
    End {
        /// Its key.
        key: u32,
    },
    /// A domain ends (`ibv_dealloc_pd`).
    EndDomain,
    /// The device is closed.
    Close,
}

/// What the device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// To a registration by descriptor: the system's number of an error, or 0. A descriptor that there can't be is `EBADF`, unless the
    /// answer to all is `EOPNOTSUPP`: the kernel looks at it after that.
    pub by_descriptor: i32,
    /// To one of memory that is mapped.
    pub where_mapped: i32,
}

/// What the device was asked, which outlives it.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<VecDeque<Call>>>);

impl Calls {
    /// What was asked since this was called last, in order.
    pub fn take(&self) -> Vec<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn push(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(call);
    }
}

/// A device, and what it is asked.
pub fn device(answers: Answers) -> (Arc<Context>, Calls) {
    let calls = Calls::default();
    // SAFETY: a structure of pointers, functions that there may not be, and numbers, for all of which zeros are values.
    let head: abi::Context = unsafe { std::mem::zeroed() };
    let device = Fake { _head: head, answers, calls: calls.clone(), keys: Mutex::new(0) };
    let raw = Box::into_raw(Box::new(device)).cast();
    (Arc::new(Context::fake(&LIBRARY, raw)), calls)
}

/// What a pointer to the context points to.
#[repr(C)]
struct Fake {
    _head: abi::Context,
    answers: Answers,
    calls: Calls,
    keys: Mutex<u32>,
}

static LIBRARY: Library = Library {
    get_device_list: no_list,
    free_device_list: no_free,
    get_device_name: no_name,
    open_device: no_open,
    close_device: close,
    query_device: no_query,
    query_port: no_port,
    query_gid: no_gid,
    alloc_pd: domain,
    dealloc_pd: end_domain,
    reg_mr: register,
    reg_dmabuf_mr: Some(register_by_descriptor),
    dereg_mr: end,
    create_comp_channel: no_channel,
    destroy_comp_channel: no_channel_end,
    create_cq: no_queue,
    destroy_cq: no_queue_end,
    get_cq_event: no_queue_event,
    ack_cq_events: no_acknowledgement,
    get_async_event: no_event,
    ack_async_event: no_event_acknowledgement,
    create_qp: no_pair,
    modify_qp: no_change,
    destroy_qp: no_pair_end,
};

/// The device that a domain is of.
///
/// # Safety
///
/// The domain must be one of a fake device that is open.
unsafe fn of(domain: *mut abi::Pd) -> &'static Fake {
    // SAFETY: a domain of ours knows its context, which is the head of a device of ours; that it is open is the caller's word.
    unsafe { &*(*domain)._context.cast::<Fake>() }
}

impl Fake {
    fn answer(&self, errno: i32, domain: *mut abi::Pd, call: Call) -> *mut abi::Mr {
        self.calls.push(call);
        if errno != 0 {
            // SAFETY: this thread's own number.
            unsafe { *libc::__errno_location() = errno };
            return std::ptr::null_mut();
        }
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        *keys += 1;
        let nothing = std::ptr::null_mut::<c_void>();
        Box::into_raw(Box::new(abi::Mr {
            _context: nothing.cast(),
            _pd: domain,
            _addr: nothing,
            _length: 0,
            _handle: 0,
            lkey: *keys,
            rkey: *keys,
        }))
    }
}

extern "C" fn close(context: *mut abi::Context) -> c_int {
    // SAFETY: made by `device`, closed once; nothing of it is left, as with any device.
    let device = unsafe { Box::from_raw(context.cast::<Fake>()) };
    device.calls.push(Call::Close);
    0
}

extern "C" fn domain(context: *mut abi::Context) -> *mut abi::Pd {
    Box::into_raw(Box::new(abi::Pd { _context: context }))
}

extern "C" fn end_domain(domain: *mut abi::Pd) -> c_int {
    // SAFETY: as `of` asks for, and ended once.
    unsafe {
        of(domain).calls.push(Call::EndDomain);
        drop(Box::from_raw(domain));
    }
    0
}

extern "C" fn register(domain: *mut abi::Pd, start: *mut c_void, len: usize, access: c_int) -> *mut abi::Mr {
    // SAFETY: as `of` asks for.
    let device = unsafe { of(domain) };
    let call = Call::Register { start: start as u64, len_bytes: len as u64, access };
    device.answer(device.answers.where_mapped, domain, call)
}

extern "C" fn register_by_descriptor(
    domain: *mut abi::Pd,
    offset: u64,
    len: usize,
    start: u64,
    descriptor: c_int,
    access: c_int,
) -> *mut abi::Mr {
    // SAFETY: as `of` asks for.
    let device = unsafe { of(domain) };
    let errno = match device.answers.by_descriptor {
        libc::EOPNOTSUPP => libc::EOPNOTSUPP,
        _ if descriptor < 0 => libc::EBADF,
        errno => errno,
    };
    let call = Call::RegisterByDescriptor { descriptor, offset, start, len_bytes: len as u64, access };
    device.answer(errno, domain, call)
}

extern "C" fn end(registration: *mut abi::Mr) -> c_int {
    // SAFETY: made by `answer` for a domain that lives as long, and ended once.
    unsafe {
        let registration = Box::from_raw(registration);
        of(registration._pd).calls.push(Call::End { key: registration.lkey });
    }
    0
}

// What it can't do.

extern "C" fn no_list(_: *mut c_int) -> *mut *mut abi::Device {
    std::ptr::null_mut()
}
extern "C" fn no_free(_: *mut *mut abi::Device) {}
extern "C" fn no_name(_: *mut abi::Device) -> *const c_char {
    c"fake0".as_ptr()
}
extern "C" fn no_open(_: *mut abi::Device) -> *mut abi::Context {
    std::ptr::null_mut()
}
extern "C" fn no_query(_: *mut abi::Context, _: *mut abi::DeviceAttr) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_port(_: *mut abi::Context, _: u8, _: *mut abi::PortAttr) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_gid(_: *mut abi::Context, _: u8, _: c_int, _: *mut [u8; 16]) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_channel(_: *mut abi::Context) -> *mut abi::CompChannel {
    std::ptr::null_mut()
}
extern "C" fn no_channel_end(_: *mut abi::CompChannel) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_queue(
    _: *mut abi::Context,
    _: c_int,
    _: *mut c_void,
    _: *mut abi::CompChannel,
    _: c_int,
) -> *mut abi::Cq {
    std::ptr::null_mut()
}
extern "C" fn no_queue_end(_: *mut abi::Cq) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_queue_event(_: *mut abi::CompChannel, _: *mut *mut abi::Cq, _: *mut *mut c_void) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_acknowledgement(_: *mut abi::Cq, _: u32) {}
extern "C" fn no_event(_: *mut abi::Context, _: *mut abi::AsyncEvent) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_event_acknowledgement(_: *mut abi::AsyncEvent) {}
extern "C" fn no_pair(_: *mut abi::Pd, _: *mut abi::QpInitAttr) -> *mut abi::Qp {
    std::ptr::null_mut()
}
extern "C" fn no_change(_: *mut abi::Qp, _: *mut abi::QpAttr, _: c_int) -> c_int {
    libc::ENOSYS
}
extern "C" fn no_pair_end(_: *mut abi::Qp) -> c_int {
    libc::ENOSYS
}

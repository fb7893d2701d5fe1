//! The library and its table of functions, opened once, when somebody asks, and never closed.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::VerbsError;
use super::abi::{AsyncEvent, CompChannel, Context, Cq, Device, DeviceAttr, Mr, Pd, PortAttr, Qp, QpAttr, QpInitAttr};

/// The name that all of rdma-core's versions have had.
const NAME: &CStr = c"libibverbs.so.1";

/// The functions that are called, at the version whose structures we know: the library has most of them a second time, with the
/// structures of 2006.
pub(super) struct Library {
    pub(super) get_device_list: unsafe extern "C" fn(*mut c_int) -> *mut *mut Device,
    pub(super) free_device_list: unsafe extern "C" fn(*mut *mut Device),
    pub(super) get_device_name: unsafe extern "C" fn(*mut Device) -> *const c_char,
    pub(super) open_device: unsafe extern "C" fn(*mut Device) -> *mut Context,
    pub(super) close_device: unsafe extern "C" fn(*mut Context) -> c_int,
    pub(super) query_device: unsafe extern "C" fn(*mut Context, *mut DeviceAttr) -> c_int,
    pub(super) query_port: unsafe extern "C" fn(*mut Context, u8, *mut PortAttr) -> c_int,
    pub(super) query_gid: unsafe extern "C" fn(*mut Context, u8, c_int, *mut [u8; 16]) -> c_int,
    pub(super) alloc_pd: unsafe extern "C" fn(*mut Context) -> *mut Pd,
    pub(super) dealloc_pd: unsafe extern "C" fn(*mut Pd) -> c_int,
    pub(super) reg_mr: unsafe extern "C" fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr,
    /// Newer than the others.
    pub(super) reg_dmabuf_mr: Option<unsafe extern "C" fn(*mut Pd, u64, usize, u64, c_int, c_int) -> *mut Mr>,
    pub(super) dereg_mr: unsafe extern "C" fn(*mut Mr) -> c_int,
    pub(super) create_comp_channel: unsafe extern "C" fn(*mut Context) -> *mut CompChannel,
    pub(super) destroy_comp_channel: unsafe extern "C" fn(*mut CompChannel) -> c_int,
    pub(super) create_cq: unsafe extern "C" fn(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq,
    pub(super) destroy_cq: unsafe extern "C" fn(*mut Cq) -> c_int,
    pub(super) get_cq_event: unsafe extern "C" fn(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int,
    pub(super) ack_cq_events: unsafe extern "C" fn(*mut Cq, u32),
    pub(super) get_async_event: unsafe extern "C" fn(*mut Context, *mut AsyncEvent) -> c_int,
    pub(super) ack_async_event: unsafe extern "C" fn(*mut AsyncEvent),
    pub(super) create_qp: unsafe extern "C" fn(*mut Pd, *mut QpInitAttr) -> *mut Qp,
    pub(super) modify_qp: unsafe extern "C" fn(*mut Qp, *mut QpAttr, c_int) -> c_int,
    pub(super) destroy_qp: unsafe extern "C" fn(*mut Qp) -> c_int,
}

/// Whether the library is on this machine, opened by this call if it was not before.
pub fn is_there() -> Result<(), VerbsError> {
    Library::open().map(drop)
}

impl Library {
    /// The table. A library that was not there is looked for again: it may have been installed meanwhile.
    pub(super) fn open() -> Result<&'static Self, VerbsError> {
        static OPEN: OnceLock<Library> = OnceLock::new();
        if let Some(library) = OPEN.get() {
            return Ok(library);
        }
        let library = Self::load()?;
        Ok(OPEN.get_or_init(|| library))
    }

    fn load() -> Result<Self, VerbsError> {
        // SAFETY: the name ends in a zero; what runs when the library is loaded is the system's own and asks nothing of us.
        let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(VerbsError::NoLibrary { tried: "libibverbs.so.1", reason: loader_says() });
        }
        const BASE: &CStr = c"IBVERBS_1.1";
        const CHANNEL: &CStr = c"IBVERBS_1.0";
        // SAFETY: each name at that version is a function of the type of its field, as the headers of rdma-core declare it, and
        // the handle stays open for ever.
        unsafe {
            Ok(Self {
                get_device_list: symbol(handle, "ibv_get_device_list", c"ibv_get_device_list", BASE)?,
                free_device_list: symbol(handle, "ibv_free_device_list", c"ibv_free_device_list", BASE)?,
                get_device_name: symbol(handle, "ibv_get_device_name", c"ibv_get_device_name", BASE)?,
                open_device: symbol(handle, "ibv_open_device", c"ibv_open_device", BASE)?,
                close_device: symbol(handle, "ibv_close_device", c"ibv_close_device", BASE)?,
                query_device: symbol(handle, "ibv_query_device", c"ibv_query_device", BASE)?,
                query_port: symbol(handle, "ibv_query_port", c"ibv_query_port", BASE)?,
                query_gid: symbol(handle, "ibv_query_gid", c"ibv_query_gid", BASE)?,
                alloc_pd: symbol(handle, "ibv_alloc_pd", c"ibv_alloc_pd", BASE)?,
                dealloc_pd: symbol(handle, "ibv_dealloc_pd", c"ibv_dealloc_pd", BASE)?,
                reg_mr: symbol(handle, "ibv_reg_mr", c"ibv_reg_mr", BASE)?,
                reg_dmabuf_mr: symbol(handle, "ibv_reg_dmabuf_mr", c"ibv_reg_dmabuf_mr", c"IBVERBS_1.12").ok(),
                dereg_mr: symbol(handle, "ibv_dereg_mr", c"ibv_dereg_mr", BASE)?,
                create_comp_channel: symbol(handle, "ibv_create_comp_channel", c"ibv_create_comp_channel", CHANNEL)?,
                destroy_comp_channel: symbol(handle, "ibv_destroy_comp_channel", c"ibv_destroy_comp_channel", CHANNEL)?,
                create_cq: symbol(handle, "ibv_create_cq", c"ibv_create_cq", BASE)?,
                destroy_cq: symbol(handle, "ibv_destroy_cq", c"ibv_destroy_cq", BASE)?,
                get_cq_event: symbol(handle, "ibv_get_cq_event", c"ibv_get_cq_event", BASE)?,
                ack_cq_events: symbol(handle, "ibv_ack_cq_events", c"ibv_ack_cq_events", BASE)?,
                get_async_event: symbol(handle, "ibv_get_async_event", c"ibv_get_async_event", BASE)?,
                ack_async_event: symbol(handle, "ibv_ack_async_event", c"ibv_ack_async_event", BASE)?,
                create_qp: symbol(handle, "ibv_create_qp", c"ibv_create_qp", BASE)?,
                modify_qp: symbol(handle, "ibv_modify_qp", c"ibv_modify_qp", BASE)?,
                destroy_qp: symbol(handle, "ibv_destroy_qp", c"ibv_destroy_qp", BASE)?,
            })
        }
    }
}

/// The function `name` of the library, in the form that its headers of `version` declare.
///
/// # Safety
///
/// `F` must be the type of a pointer to that function.
unsafe fn symbol<F>(handle: *mut c_void, words: &'static str, name: &CStr, version: &CStr) -> Result<F, VerbsError> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    #[cfg(target_env = "gnu")]
    // SAFETY: the handle is open, and both texts end in a zero.
    let found = unsafe { libc::dlvsym(handle, name.as_ptr(), version.as_ptr()) };
    #[cfg(not(target_env = "gnu"))]
    let found = {
        // Loaders without versions give the newest, which is the one that is wanted.
        let _ = version;
        // SAFETY: the handle is open, and the name ends in a zero.
        unsafe { libc::dlsym(handle, name.as_ptr()) }
    };
    if found.is_null() {
        return Err(VerbsError::NoSymbol(words));
    }
    // SAFETY: a pointer of the size of `F` that isn't null; that it is one to such a function is the caller's word.
    Ok(unsafe { std::mem::transmute_copy(&found) })
}

fn loader_says() -> String {
    // SAFETY: the text belongs to the loader and stays until this thread's next call of it, and it is copied here.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() { "no reason given".to_owned() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

//! The structures that libibverbs and we agree on, as its headers lay them out on 64-bit machines.
//!
//! They have been the same since version 1.1 of the interface (2007), and are checked against the headers where these are
//! installed ([`super::layout`]). What the library allocates is only ever looked at in its first fields; what we allocate is
//! whole.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Functions that the headers call through the context, because each device has its own.
#[repr(C)]
pub(super) struct ContextOps {
    _compat_before_windows: [*const c_void; 7],
    pub(super) alloc_mw: Option<unsafe extern "C" fn(*mut Pd, c_int) -> *mut Mw>,
    _bind_mw: *const c_void,
    pub(super) dealloc_mw: Option<unsafe extern "C" fn(*mut Mw) -> c_int>,
    _compat_create_cq: *const c_void,
    pub(super) poll_cq: Option<unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int>,
    pub(super) req_notify_cq: Option<unsafe extern "C" fn(*mut Cq, c_int) -> c_int>,
    _compat_before_sends: [*const c_void; 12],
    pub(super) post_send: Option<unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int>,
    pub(super) post_recv: Option<unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    _compat_after_receives: [*const c_void; 5],
}

/// An open device; the library allocates it.
#[repr(C)]
pub(super) struct Context {
    _device: *const c_void,
    pub(super) ops: ContextOps,
    _cmd_fd: c_int,
    pub(super) async_fd: c_int,
}

/// A device in the list; only ever pointed to.
#[repr(C)]
pub(super) struct Device {
    _private: [u8; 0],
}

/// A protection domain; only its head is ours to know.
#[repr(C)]
pub(super) struct Pd {
    pub(super) _context: *mut Context,
}

/// A registration; its head.
#[repr(C)]
pub(super) struct Mr {
    pub(super) _context: *mut Context,
    pub(super) _pd: *mut Pd,
    pub(super) _addr: *mut c_void,
    pub(super) _length: usize,
    pub(super) _handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// A memory window; its head.
#[repr(C)]
pub(super) struct Mw {
    _context: *mut Context,
    _pd: *mut Pd,
    pub(super) rkey: u32,
}

/// A completion channel; its head.
#[repr(C)]
pub(super) struct CompChannel {
    _context: *mut Context,
    pub(super) fd: c_int,
}

/// A completion queue; its head.
#[repr(C)]
pub(super) struct Cq {
    pub(super) context: *mut Context,
    _channel: *mut CompChannel,
    /// What it was given when it was made.
    pub(super) cq_context: *mut c_void,
}

/// A queue pair; its head.
#[repr(C)]
pub(super) struct Qp {
    pub(super) context: *mut Context,
    /// What it was given when it was made.
    pub(super) qp_context: *mut c_void,
    _pd: *mut Pd,
    _send_cq: *mut Cq,
    _recv_cq: *mut Cq,
    _srq: *mut c_void,
    _handle: u32,
    pub(super) qp_num: u32,
}

/// Something that has happened without being asked for.
#[repr(C)]
pub(super) struct AsyncEvent {
    /// What it has happened to, by its kind: a pointer to a queue or a queue pair, or the number of a port in its first four bytes.
    pub(super) element: *mut c_void,
    pub(super) event_type: c_int,
}

/// What a device can do.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct DeviceAttr {
    _fw_ver: [c_char; 64],
    _guids: [u64; 2],
    _max_mr_size: u64,
    _page_size_cap: u64,
    _versions: [u32; 3],
    _max_qp: c_int,
    pub(super) max_qp_wr: c_int,
    pub(super) device_cap_flags: c_uint,
    _max_sge: [c_int; 2],
    _max_cq: c_int,
    pub(super) max_cqe: c_int,
    _max_mr: c_int,
    _max_pd: c_int,
    pub(super) max_qp_rd_atom: c_int,
    _max_ee_rd_atom: c_int,
    _max_res_rd_atom: c_int,
    pub(super) max_qp_init_rd_atom: c_int,
    _max_ee_init_rd_atom: c_int,
    _atomic_cap: c_int,
    _max_ee: c_int,
    _max_rdd: c_int,
    pub(super) max_mw: c_int,
    _max_others: [c_int; 11],
    _max_pkeys: u16,
    _local_ca_ack_delay: u8,
    pub(super) phys_port_cnt: u8,
}

/// What a port is like.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct PortAttr {
    pub(super) state: c_int,
    _max_mtu: c_int,
    pub(super) active_mtu: c_int,
    pub(super) gid_tbl_len: c_int,
    _port_cap_flags: u32,
    pub(super) max_msg_sz: u32,
    _counters: [u32; 2],
    _pkey_tbl_len: u16,
    pub(super) lid: u16,
    _sm_lid: u16,
    _bytes: [u8; 7],
    pub(super) phys_state: u8,
    pub(super) link_layer: u8,
    _flags: u8,
    _port_cap_flags2: u16,
}

/// What is asked of a queue pair.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpCap {
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
}

/// How a queue pair is made.
#[repr(C)]
pub(super) struct QpInitAttr {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: c_int,
    pub(super) sq_sig_all: c_int,
}

/// The way to the other end.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct AhAttr {
    pub(super) dgid: [u64; 2],
    pub(super) flow_label: u32,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) dlid: u16,
    pub(super) sl: u8,
    pub(super) src_path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port_num: u8,
}

/// What is changed about a queue pair.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpAttr {
    pub(super) qp_state: c_int,
    pub(super) cur_qp_state: c_int,
    pub(super) path_mtu: c_int,
    pub(super) path_mig_state: c_int,
    pub(super) qkey: u32,
    pub(super) rq_psn: u32,
    pub(super) sq_psn: u32,
    pub(super) dest_qp_num: u32,
    pub(super) qp_access_flags: c_uint,
    pub(super) cap: QpCap,
    pub(super) ah_attr: AhAttr,
    pub(super) alt_ah_attr: AhAttr,
    pub(super) pkey_index: u16,
    pub(super) alt_pkey_index: u16,
    pub(super) en_sqd_async_notify: u8,
    pub(super) sq_draining: u8,
    pub(super) max_rd_atomic: u8,
    pub(super) max_dest_rd_atomic: u8,
    pub(super) min_rnr_timer: u8,
    pub(super) port_num: u8,
    pub(super) timeout: u8,
    pub(super) retry_cnt: u8,
    pub(super) rnr_retry: u8,
    pub(super) alt_port_num: u8,
    pub(super) alt_timeout: u8,
    pub(super) rate_limit: u32,
}

/// A part of registered memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// Work for the sending half. The union of the headers is spelt out as its longest member, the one for atomics.
#[repr(C)]
pub(super) struct SendWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut Self,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: c_int,
    pub(super) send_flags: c_uint,
    /// Immediate data, or the key to invalidate.
    pub(super) invalidate_rkey: u32,
    pub(super) remote_addr: u64,
    /// For remote memory; of atomics the operand begins here.
    pub(super) rkey: u32,
    _rest_of_atomic: [u32; 5],
    _xrc_remote_srqn: u64,
    pub(super) bind: BindMw,
}

/// What a window is bound to.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BindMw {
    pub(super) mw: *mut Mw,
    pub(super) rkey: u32,
    pub(super) mr: *mut Mr,
    pub(super) addr: u64,
    pub(super) length: u64,
    pub(super) access: c_uint,
}

/// Room for the receiving half.
#[repr(C)]
pub(super) struct RecvWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut Self,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
}

/// What became of some work.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Wc {
    pub(super) wr_id: u64,
    pub(super) status: c_int,
    pub(super) opcode: c_int,
    pub(super) vendor_err: u32,
    pub(super) byte_len: u32,
    pub(super) imm_data: u32,
    pub(super) qp_num: u32,
    pub(super) src_qp: u32,
    pub(super) wc_flags: c_uint,
    pub(super) pkey_index: u16,
    pub(super) slid: u16,
    pub(super) sl: u8,
    pub(super) dlid_path_bits: u8,
}

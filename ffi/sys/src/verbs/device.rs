//! Devices, their ports, and the addresses of these.

use std::ffi::CStr;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::{io, ptr};

use super::VerbsError;
use super::abi;
use super::library::Library;

const PORT_ACTIVE: i32 = 4;
const LINK_INFINIBAND: u8 = 1;
const CAN_BIND_WINDOWS: u32 = 1 << 23 | 1 << 24;

/// An open device. Whatever is made on it keeps it open.
#[derive(Debug)]
pub struct Context {
    pub(super) library: &'static Library,
    pub(super) raw: *mut abi::Context,
    name: String,
    reads_max: u8,
    work_max: u32,
    has_windows: bool,
    ports: u8,
}

// SAFETY: the interface allows all its calls from any thread; the pointer stays valid until the context is dropped.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("libibverbs")
    }
}

/// What a port is like just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its number; the first is 1.
    pub number: u8,
    /// Whether it carries.
    pub is_active: bool,
    /// Bytes of payload in a packet.
    pub mtu_bytes: u32,
    /// How many addresses its table may hold.
    pub gids: u16,
    /// What is below it.
    pub layer: LinkLayer,
}

/// What carries a port's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// Ethernet: the port has addresses of IP.
    Ethernet,
    /// InfiniBand: it has numbers of its subnet.
    InfiniBand,
}

/// One address of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gid {
    /// Its place in the port's table.
    pub index: u8,
    /// It.
    pub bytes: [u8; 16],
    /// What speaks it.
    pub kind: GidKind,
}

/// What protocol an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GidKind {
    /// RDMA in UDP: crosses routers.
    RoceV2,
    /// Something else: RoCE v1, InfiniBand, iWARP.
    Other,
}

impl Gid {
    /// The address as one of IP.
    pub fn address(&self) -> IpAddr {
        Ipv6Addr::from(self.bytes).to_canonical()
    }
}

/// The devices of this machine, by name.
pub fn device_names() -> Result<Vec<String>, VerbsError> {
    let library = Library::open()?;
    let list = List::new(library)?;
    Ok(list.devices().map(|device| list.name(device)).collect())
}

/// The library's list of devices.
struct List {
    library: &'static Library,
    start: *mut *mut abi::Device,
    len: usize,
}

impl List {
    fn new(library: &'static Library) -> Result<Self, VerbsError> {
        let mut len = 0;
        // SAFETY: the call writes the length and gives a list that is ours to free.
        let start = unsafe { (library.get_device_list)(&mut len) };
        if start.is_null() {
            // A kernel without RDMA says so with ENOSYS.
            let error = io::Error::last_os_error();
            return Err(VerbsError::NoDevice(format!("the kernel has no RDMA: {error}")));
        }
        let list = Self { library, start, len: usize::try_from(len).unwrap_or(0) };
        if list.len == 0 {
            return Err(VerbsError::NoDevice("the kernel's list is empty".to_owned()));
        }
        Ok(list)
    }

    fn devices(&self) -> impl Iterator<Item = *mut abi::Device> {
        // SAFETY: the list has so many entries, and lives as long as `self`.
        (0..self.len).map(|at| unsafe { *self.start.add(at) })
    }

    fn name(&self, device: *mut abi::Device) -> String {
        // SAFETY: the device is of this list, and its name lives as long as that.
        unsafe { CStr::from_ptr((self.library.get_device_name)(device)) }.to_string_lossy().into_owned()
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: it came from the library and is freed once. Open devices stay.
        unsafe { (self.library.free_device_list)(self.start) };
    }
}

impl Context {
    /// Opens the device `name`.
    pub fn open(name: &str) -> Result<Arc<Self>, VerbsError> {
        let library = Library::open()?;
        let list = List::new(library)?;
        let Some(device) = list.devices().find(|device| list.name(*device) == name) else {
            let names: Vec<String> = list.devices().map(|device| list.name(device)).collect();
            return Err(VerbsError::NotFound {
                wanted: name.to_owned(),
                there: format!("there is {}", names.join(", ")),
            });
        };
        // SAFETY: the device is of a list that still lives.
        let raw = unsafe { (library.open_device)(device) };
        if raw.is_null() {
            return Err(VerbsError::NotOpened { device: name.to_owned(), error: io::Error::last_os_error() });
        }
        let mut context =
            Self { library, raw, name: name.to_owned(), reads_max: 0, work_max: 0, has_windows: false, ports: 0 };
        super::event::never_block(raw)?;
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut attributes: abi::DeviceAttr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open and the structure is whole.
        let result = unsafe { (library.query_device)(raw, &mut attributes) };
        VerbsError::check("the device says nothing of itself (ibv_query_device)", result)?;
        let reads = attributes.max_qp_rd_atom.min(attributes.max_qp_init_rd_atom);
        context.reads_max = u8::try_from(reads.clamp(0, 255)).unwrap_or(u8::MAX);
        context.work_max = u32::try_from(attributes.max_qp_wr.min(attributes.max_cqe)).unwrap_or(0);
        context.has_windows = attributes.device_cap_flags & CAN_BIND_WINDOWS != 0 && attributes.max_mw > 0;
        context.ports = attributes.phys_port_cnt;
        Ok(Arc::new(context))
    }

    /// One that was not opened: see [`super::fake`].
    #[cfg(any(test, feature = "fake"))]
    pub(super) fn fake(library: &'static Library, raw: *mut abi::Context) -> Self {
        Self { library, raw, name: "fake0".to_owned(), reads_max: 0, work_max: 0, has_windows: false, ports: 0 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many reads of remote memory a queue pair may have under way.
    pub fn reads_max(&self) -> u8 {
        self.reads_max
    }

    /// How much work a queue pair, or a completion queue, may hold.
    pub fn work_max(&self) -> u32 {
        self.work_max
    }

    /// Whether a queue pair can bind windows by itself (type 2).
    pub fn has_windows(&self) -> bool {
        self.has_windows
    }

    /// Its ports' numbers.
    pub fn port_numbers(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.ports
    }

    /// What a port is like just now.
    pub fn port(&self, number: u8) -> Result<Port, VerbsError> {
        // SAFETY: a structure of numbers, for which zeros are values. Older devices fill in only its beginning.
        let mut port: abi::PortAttr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open and the structure is whole.
        let result = unsafe { (self.library.query_port)(self.raw, number, &mut port) };
        VerbsError::check("no such port (ibv_query_port)", result)?;
        Ok(Port {
            number,
            is_active: port.state == PORT_ACTIVE,
            mtu_bytes: 128 << port.active_mtu.clamp(1, 5),
            gids: u16::try_from(port.gid_tbl_len.clamp(0, 256)).unwrap_or(0),
            layer: if port.link_layer == LINK_INFINIBAND { LinkLayer::InfiniBand } else { LinkLayer::Ethernet },
        })
    }

    /// The address at `index` of a port's table; nothing if there is none.
    pub fn gid(&self, port: u8, index: u8) -> Option<Gid> {
        let mut bytes = [0; 16];
        // SAFETY: the context is open and an address has 16 bytes.
        let result = unsafe { (self.library.query_gid)(self.raw, port, i32::from(index), &mut bytes) };
        if result != 0 || bytes == [0; 16] {
            return None;
        }
        // What an address is for is said in a file, by kernels that are older than any function for it, too.
        let path = format!("/sys/class/infiniband/{}/ports/{port}/gid_attrs/types/{index}", self.name);
        let is_v2 = fs::read_to_string(path).is_ok_and(|kind| kind.trim() == "RoCE v2");
        Some(Gid { index, bytes, kind: if is_v2 { GidKind::RoceV2 } else { GidKind::Other } })
    }

    /// All addresses of a port.
    pub fn gids(&self, port: &Port) -> Vec<Gid> {
        let indices = 0..=u8::try_from(port.gids.saturating_sub(1)).unwrap_or(u8::MAX);
        if port.gids == 0 { Vec::new() } else { indices.filter_map(|index| self.gid(port.number, index)).collect() }
    }

    pub(super) fn ops(&self) -> &abi::ContextOps {
        // SAFETY: the context is open, and its table is set before it is given out.
        unsafe { &(*self.raw).ops }
    }

    pub(super) fn is_null<T>(what: &'static str, pointer: *mut T) -> Result<*mut T, VerbsError> {
        if ptr::eq(pointer, ptr::null()) { Err(VerbsError::last(what)) } else { Ok(pointer) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by us, closed once; all that was made on it kept it open and is gone.
        unsafe { (self.library.close_device)(self.raw) };
    }
}

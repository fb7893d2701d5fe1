//! Shared memory: reaches processes of the same user on the same machine, and lets them read what they are sent in place.
//!
//! Two ends talk through a socket of the kernel, in packets: frames, and where their payload lies. The receiver pulls:
//! it maps what the sender shows, for reading only, and copies from there into its own granted memory, in the same place
//! and under the same lock as every other backend. So the fence is the same too: nobody can write another's memory, and
//! what a receiver has been told to forget it doesn't read.
//!
//! What lies in the arena ([`crate::Region::shared`]) is copied once, by the receiver. Other memory goes through a small
//! ring that the sender fills and the receiver empties. The ring's positions travel in packets, so no word of shared
//! memory is agreed on by two processes: the kernel's socket orders everything, and there is nothing to spin on.
//!
//! Whoever is told to look instead of sleeping ([`crate::EndpointConfig::busy_poll`]) has something to look at: while it does,
//! small packets lie in a mailbox that both ends see (`mailbox.rs`), and cost no system call.

mod link;
mod mail;
mod mailbox;
mod receive;
mod send;
mod socket;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{accept_with, bind, connect, listen, shutdown, socket_with};
use rustix::process::{geteuid, getpid};
use xfer_transport_core::BackendId;

use self::link::ShmLink;
use crate::backend::{Backend, Capabilities, Link};
use crate::grants::random_u64;
use crate::memory::{Segment, Views};

/// What names of our sockets begin with; what follows is drawn, so that nobody listens there before us.
const NAME: &str = "xfer-";

/// Callers that wait to be accepted. More than introduce themselves at once are refused anyway.
const CALLERS_MAX: i32 = 64;

/// Listens under a name of its own, which goes with it.
#[derive(Debug)]
pub struct ShmBackend {
    listener: OwnedFd,
    name: Bytes,
    views: Arc<Views>,
    /// Whether this end fetches from other processes, where it may.
    fetches: bool,
}

impl ShmBackend {
    /// Listens; fails where the system doesn't let memory be shared.
    pub fn bind() -> io::Result<Self> {
        Segment::create(1).map_err(|error| io::Error::new(error.kind(), format!("no sealed memory file: {error}")))?;
        let name = Bytes::from(format!("{NAME}{:016x}{:016x}", random_u64(), random_u64()));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&listener, &SocketAddrUnix::new_abstract_name(&name)?)?;
        listen(&listener, CALLERS_MAX)?;
        Ok(Self { listener, name, views: Arc::default(), fetches: true })
    }

    /// The same, as on a system that lets no process read another: what can't be shown comes through the ring.
    #[must_use]
    pub fn without_fetch(self) -> Self {
        Self { fetches: false, ..self }
    }

    fn link(&self, socket: OwnedFd) -> io::Result<Box<dyn Link>> {
        let pid = socket_peercred(&socket)?.pid;
        Ok(Box::new(ShmLink::new(socket, Arc::clone(&self.views), pid, self.fetches)))
    }
}

impl Backend for ShmBackend {
    fn id(&self) -> BackendId {
        BackendId::Shm
    }

    fn capabilities(&self) -> Capabilities {
        // What both ends see can't be damaged on a way that it doesn't go.
        Capabilities { crosses_hosts: false, checks_payload: true, copies: 1 }
    }

    fn address(&self) -> Bytes {
        self.name.clone()
    }

    fn open(&self, address: &[u8], timeout: Duration) -> io::Result<Box<dyn Link>> {
        self.link(call(address, timeout)?)
    }

    fn accept(&self, timeout: Duration) -> io::Result<Option<Box<dyn Link>>> {
        use rustix::io::Errno;
        let mut descriptors = [PollFd::new(&self.listener, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(socket) if is_ours(&socket)? => Ok(Some(self.link(socket)?)),
            Ok(_) => {
                tracing::warn!("refused a process of another user that wants to share memory");
                Ok(None)
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn describe(&self, address: &[u8]) -> String {
        format!("@{}", String::from_utf8_lossy(address))
    }

    fn close(&self) {
        let _ = shutdown(&self.listener, Shutdown::Both);
    }
}

/// How memory that can't be passed will go, as far as that can be said without a peer.
pub(super) fn ordinary_memory() -> String {
    let number = random_u64();
    let tried = receive::probe(Some(getpid()), &raw const number as u64, number);
    // A process may always read itself; what it may do with others is set here, if the kernel has that at all.
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match (tried, scope.trim()) {
        (Err(error), _) => format!("ordinary memory goes through a ring (process_vm_readv: {error})"),
        (Ok(()), "" | "0") => "ordinary memory is fetched with process_vm_readv".to_owned(),
        (Ok(()), scope) => format!(
            "ordinary memory goes through a ring, unless processes may trace others (kernel.yama.ptrace_scope is {scope})"
        ),
    }
}

/// Whether a process of this user listens there.
pub(super) fn answers(address: &[u8], timeout: Duration) -> bool {
    call(address, timeout).is_ok()
}

fn call(address: &[u8], timeout: Duration) -> io::Result<OwnedFd> {
    if !address.starts_with(NAME.as_bytes()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an address"));
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Where too many callers wait already, the call itself waits.
    set_socket_timeout(&socket, Timeout::Send, Some(timeout.max(Duration::from_millis(1))))?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(address)?).map_err(|error| match error {
        rustix::io::Errno::CONNREFUSED => io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "nobody listens there on this machine: it is on another one, in another container, or gone",
        ),
        error => error.into(),
    })?;
    match is_ours(&socket)? {
        true => Ok(socket),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")),
    }
}

/// A link on a socket whose other end is known to be ours; it fetches nothing, since the same packets have to do the same.
pub(crate) fn link_on(socket: OwnedFd) -> Box<dyn Link> {
    Box::new(ShmLink::new(socket, Arc::default(), getpid(), false))
}

/// Puts one packet on a socket as a peer would, with a descriptor along.
pub(crate) fn put_packet(socket: &OwnedFd, packet: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    socket::send(socket, packet, &[], file)
}

pub(crate) use mailbox::forged as forged_mailbox;

/// Whether the other end runs as the same user: names of this kind have no permissions, so anybody may call.
fn is_ours(socket: &OwnedFd) -> io::Result<bool> {
    Ok(socket_peercred(socket)?.uid == geteuid())
}

//! RDMA verbs: reaches machines whose network cards read each other's memory by themselves, without a copy and without a processor.
//!
//! Two ends are connected by a queue pair, and by a connection of TCP, which introduces the queue pairs to each other and then only
//! tells of the other end's death. Everything else goes over the queue pair: frames in packets, into room that the other end has
//! said it has; and of a chunk only where it lies. **The receiver pulls**: its card reads the chunk from there into the granted
//! memory. Nobody is ever told where to write; and what may be read is one chunk, while it is on its way.
//!
//! A fence has to do with a device here, which writes by itself what it was told to. So the slot through which every backend
//! writes knows who is writing into it (`Pulling` in `intake.rs`), and a source's gate knows who reads it
//! (`Reader` in `gate.rs`): both give the device a moment to come to its end, and stop it where it doesn't. What proves the end
//! is in `wire.rs`.

mod buffers;
mod dmabufs;
mod link;
mod rail;
mod receive;
mod registrations;
mod send;
mod staging;
mod watch;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};
use xfer_transport_core::BackendId;

use self::link::VerbsLink;
use self::rail::Rail;
use crate::backend::{Backend, Capabilities, Link};

/// Listens where a device of this machine is.
#[derive(Debug)]
pub struct VerbsBackend {
    listener: TcpListener,
    address: SocketAddr,
    rails: Vec<Rail>,
    opened: AtomicUsize,
}

impl VerbsBackend {
    /// Listens on `address`, over the device whose port has that address; or over those that `devices` names, as
    /// `device[:port[/gid]]`, several with commas between them. Fails with a sentence where there is none.
    pub fn bind(address: SocketAddr, devices: Option<&str>) -> io::Result<Self> {
        let rails = match devices {
            Some(devices) => rail::named(devices)?,
            None => vec![rail::at(address.ip())?],
        };
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, rails, opened: AtomicUsize::new(0) })
    }

    /// The same, as over a device without memory windows: each chunk is registered for itself while it may be read.
    #[must_use]
    pub fn without_windows(self) -> Self {
        self.rails.iter().for_each(|rail| rail.has_windows.store(false, Ordering::Relaxed));
        self
    }

    /// The same, with queue pairs that fail after so many pieces of work each, as a cable does that is pulled.
    #[must_use]
    pub fn failing_after(mut self, work: u64) -> Self {
        self.rails.iter_mut().for_each(|rail| rail.mishaps.fails_after = Some(work));
        self
    }

    /// The same, whose links lose one completion each, after so many, as a driver with a mistake does.
    #[must_use]
    pub fn losing_after(mut self, completions: u64) -> Self {
        self.rails.iter_mut().for_each(|rail| rail.mishaps.loses_after = Some(completions));
        self
    }

    /// The same, of whose links one completion each, after so many, says that the device has failed.
    #[must_use]
    pub fn spoiling_after(mut self, completions: u64) -> Self {
        self.rails.iter_mut().for_each(|rail| rail.mishaps.spoils_after = Some(completions));
        self
    }

    /// The same, with room for so many completions and not for all that there may be: the device loses what doesn't fit.
    #[must_use]
    pub fn with_room_for(mut self, completions: u32) -> Self {
        self.rails.iter_mut().for_each(|rail| rail.mishaps.completions = Some(completions));
        self
    }

    /// The devices, ports and addresses that it uses, in words.
    pub fn rails(&self) -> Vec<String> {
        self.rails.iter().map(ToString::to_string).collect()
    }
}

impl Backend for VerbsBackend {
    fn id(&self) -> BackendId {
        BackendId::Verbs
    }

    fn capabilities(&self) -> Capabilities {
        // Every packet has a checksum of 32 bits from card to card.
        Capabilities { crosses_hosts: true, checks_payload: true, copies: 0 }
    }

    fn address(&self) -> Bytes {
        self.address.to_string().into()
    }

    fn open(&self, address: &[u8], timeout: Duration) -> io::Result<Box<dyn Link>> {
        let until = Instant::now() + timeout;
        let stream = call(address, self.address.ip(), timeout)?;
        let rail = self.opened.fetch_add(1, Ordering::Relaxed) % self.rails.len();
        Ok(Box::new(VerbsLink::call(stream, &self.rails[rail], rail as u8, until)?))
    }

    fn accept(&self, timeout: Duration) -> io::Result<Option<Box<dyn Link>>> {
        let mut descriptors = [PollFd::new(&self.listener, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(Box::new(VerbsLink::answer(stream, &self.rails)?))),
            Err(error) if super::tcp::is_of_the_caller(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn describe(&self, address: &[u8]) -> String {
        String::from_utf8_lossy(address).into_owned()
    }

    fn close(&self) {
        // As for TCP: until the last owner is gone, the system would go on taking calls.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// The addresses of this machine at which this can be bound, one for each port of a device; or why there is none.
pub fn addresses() -> Result<Vec<IpAddr>, String> {
    rail::addresses()
}

/// What there is on this machine that can be used, in a sentence; or why nothing can.
pub(super) fn probe() -> Result<String, String> {
    rail::probe()
}

/// Calls from the address at which this end is known: on a machine with several, the system might take another, to which the
/// device is not connected.
fn call(address: &[u8], from: IpAddr, timeout: Duration) -> io::Result<TcpStream> {
    let text = std::str::from_utf8(address).ok().and_then(|text| text.parse().ok());
    let address: SocketAddr = text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an address"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if from.is_ipv4() == address.is_ipv4() {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&address.into(), timeout.max(Duration::from_millis(1)))?;
    Ok(socket.into())
}

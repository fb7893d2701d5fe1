//! TCP: reaches every machine, and needs nothing but the kernel.

mod link;
mod receive;
mod send;
mod uncopied;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xfer_transport_core::BackendId;

use self::link::TcpLink;
use crate::backend::{Backend, Capabilities, Link};
use crate::limits::ZEROCOPY_BYTES_MIN;

/// Listens on one address.
#[derive(Debug)]
pub struct TcpBackend {
    listener: TcpListener,
    address: SocketAddr,
    /// What peers are told.
    advertised: SocketAddr,
    zerocopy: ZeroCopy,
}

/// Whether the kernel is asked to send chunks from where they lie, without a copy of its own (`MSG_ZEROCOPY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// No.
    #[default]
    Off,
    /// Those of so many bytes and more, until it turns out that a link gains nothing by it.
    From(u32),
    /// The same whatever turns out: for tests and measurements.
    Always(u32),
}

impl ZeroCopy {
    /// Where that was measured to pay.
    pub const AUTO: Self = Self::From(ZEROCOPY_BYTES_MIN);

    fn is_for(self, len_bytes: u32) -> bool {
        match self {
            Self::Off => false,
            Self::From(least) | Self::Always(least) => len_bytes >= least,
        }
    }
}

impl TcpBackend {
    /// Listens on `address`; port 0 lets the system choose one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, advertised: address, zerocopy: ZeroCopy::Off })
    }

    /// The same, with another address for peers, if there is one: something leads from there to here.
    #[must_use]
    pub fn advertised_as(self, address: Option<SocketAddr>) -> Self {
        Self { advertised: address.unwrap_or(self.advertised), ..self }
    }

    /// The same, with chunks sent without the kernel's copy, or not.
    #[must_use]
    pub fn with_zerocopy(self, zerocopy: ZeroCopy) -> Self {
        Self { zerocopy, ..self }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Backend for TcpBackend {
    fn id(&self) -> BackendId {
        BackendId::Tcp
    }

    fn capabilities(&self) -> Capabilities {
        // TCP's own checksum has 16 bits and ends at the network card.
        Capabilities { crosses_hosts: true, checks_payload: false, copies: 0 }
    }

    fn address(&self) -> Bytes {
        self.advertised.to_string().into()
    }

    fn open(&self, address: &[u8], timeout: Duration) -> io::Result<Box<dyn Link>> {
        Ok(Box::new(TcpLink::new(call(address, timeout)?, self.zerocopy)?))
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
            Ok((stream, _)) => Ok(Some(Box::new(TcpLink::new(stream, self.zerocopy)?))),
            Err(error) if is_of_the_caller(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn describe(&self, address: &[u8]) -> String {
        String::from_utf8_lossy(address).into_owned()
    }

    fn close(&self) {
        // The listener is closed when the last owner drops it. Until then the system would go on taking calls that nobody
        // answers, and whoever asks whether this process lives would be told that it does.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// Whether somebody listens there.
pub(super) fn answers(address: &[u8], timeout: Duration) -> bool {
    call(address, timeout).is_ok()
}

fn call(address: &[u8], timeout: Duration) -> io::Result<TcpStream> {
    let text = std::str::from_utf8(address).ok().and_then(|text| text.parse().ok());
    let address: SocketAddr = text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an address"))?;
    TcpStream::connect_timeout(&address, timeout.max(Duration::from_millis(1)))
}

/// A link on a stream that somebody else has set up not to block.
pub(crate) fn link_on(stream: TcpStream) -> Box<dyn Link> {
    Box::new(TcpLink::on(stream, ZeroCopy::Off))
}

/// Whether an accept failed because of who called, or because nobody did.
pub(super) fn is_of_the_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}

//! One TCP connection: what is received and what is sent, each with its own place in the stream.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::SockRef;
use xfer_transport_core::BackendId;

use super::ZeroCopy;
use super::receive::Receiver;
use super::send::Sender;
use crate::backend::{Interest, Link, LinkError, Manner, Op, Sight};
use crate::intake::Intake;

/// One TCP connection.
pub(super) struct TcpLink {
    stream: Arc<TcpStream>,
    receiver: Receiver,
    sender: Sender,
}

impl TcpLink {
    pub(super) fn new(stream: TcpStream, zerocopy: ZeroCopy) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Frames are written whole; waiting for more would only delay them.
        SockRef::from(&stream).set_tcp_nodelay(true)?;
        Ok(Self::on(stream, zerocopy))
    }

    /// The same on a stream that is set up already.
    pub(super) fn on(stream: TcpStream, zerocopy: ZeroCopy) -> Self {
        Self { stream: Arc::new(stream), receiver: Receiver::new(), sender: Sender::new(zerocopy) }
    }
}

impl Link for TcpLink {
    fn backend(&self) -> BackendId {
        BackendId::Tcp
    }

    fn has_room(&self) -> bool {
        self.sender.is_idle()
    }

    fn submit(&mut self, op: Op) -> Result<(), Op> {
        self.sender.submit(&self.stream, op)
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        // Before what a connection that we have ended ourselves says.
        self.sender.reap()?;
        // What has arrived comes first, and a failure to send last: the words before an end are worth hearing.
        self.receiver.receive(&self.stream, intake)?;
        self.sender.advance(&self.stream)
    }

    fn sight(&self) -> Sight {
        Sight::Everything
    }

    fn peek(&mut self) -> bool {
        self.receiver.peek(&self.stream)
    }

    fn is_drained(&self) -> bool {
        self.sender.is_idle() && self.sender.is_through()
    }

    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync> {
        Arc::clone(&self.stream) as Arc<dyn AsFd + Send + Sync>
    }

    fn interest(&self) -> Interest {
        Interest { readable: true, writable: !self.sender.is_idle(), at_once: self.receiver.has_more() }
    }

    fn manner(&self) -> Option<Manner> {
        self.sender.manner()
    }

    fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.sender.halt();
    }
}

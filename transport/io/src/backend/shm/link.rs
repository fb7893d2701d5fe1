//! One connection between two processes that share memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{Shutdown, shutdown};
use xfer_transport_core::BackendId;

use super::receive::Receiver;
use super::send::Sender;
use crate::backend::{Interest, Link, LinkError, Op};
use crate::intake::Intake;
use crate::memory::Views;

/// One connection.
pub(super) struct ShmLink {
    socket: Arc<OwnedFd>,
    receiver: Receiver,
    sender: Sender,
}

impl ShmLink {
    pub(super) fn new(socket: OwnedFd, views: Arc<Views>) -> Self {
        Self { socket: Arc::new(socket), receiver: Receiver::new(views), sender: Sender::new() }
    }
}

impl Link for ShmLink {
    fn backend(&self) -> BackendId {
        BackendId::Shm
    }

    fn has_room(&self) -> bool {
        self.sender.is_idle()
    }

    fn submit(&mut self, op: Op) -> Result<(), Op> {
        self.sender.submit(&self.socket, op)
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.receiver.receive(&self.socket, &mut self.sender, intake)?;
        self.sender.advance(&self.socket)
    }

    fn is_drained(&self) -> bool {
        self.sender.is_idle()
    }

    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync> {
        Arc::clone(&self.socket) as Arc<dyn AsFd + Send + Sync>
    }

    fn interest(&self) -> Interest {
        Interest { readable: true, writable: self.sender.waits_for_socket(), at_once: self.receiver.has_more() }
    }

    fn finish(&mut self) {
        let _ = shutdown(&*self.socket, Shutdown::Write);
    }
}

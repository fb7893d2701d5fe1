//! One connection between two processes that share memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use xfer_transport_core::BackendId;
use xfer_transport_core::packet::sum_follows;

use super::receive::Receiver;
use super::send::Sender;
use crate::backend::{Interest, Link, LinkError, Manner, Op, Sight};
use crate::intake::Intake;
use crate::memory::Views;

/// One connection.
pub(super) struct ShmLink {
    socket: Arc<OwnedFd>,
    receiver: Receiver,
    sender: Sender,
    process: Option<Arc<OwnedFd>>,
}

impl ShmLink {
    /// A connection to the process `pid`, from which bytes may be fetched or not.
    pub(super) fn new(socket: OwnedFd, views: Arc<Views>, pid: Pid, fetches: bool) -> Self {
        let receiver = Receiver::new(views, fetches.then_some(pid));
        // Where it can't be had, nothing is said of the process's end.
        let process = pidfd_open(pid, PidfdFlags::empty()).ok().map(Arc::new);
        Self { socket: Arc::new(socket), receiver, sender: Sender::new(), process }
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

    fn sums(&self, len_bytes: u32) -> bool {
        sum_follows(len_bytes)
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.receiver.receive(&self.socket, &mut self.sender, intake, false)?;
        self.sender.advance(&self.socket)
    }

    fn sight(&self) -> Sight {
        Sight::Memory
    }

    fn look(&mut self, begins: bool) {
        self.sender.look(&self.socket, begins);
    }

    fn peek(&mut self) -> bool {
        self.sender.mail.peek()
    }

    fn poll_peeked(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.receiver.receive(&self.socket, &mut self.sender, intake, true)?;
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

    fn process(&self) -> Option<Arc<OwnedFd>> {
        self.process.clone()
    }

    fn manner(&self) -> Option<Manner> {
        Some(self.sender.manner())
    }

    fn finish(&mut self) {
        let _ = shutdown(&*self.socket, Shutdown::Write);
    }
}

//! Packets on a socket of the kernel, and descriptors along with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg};

/// Sends one packet, with `file` along, or nothing of it.
pub(super) fn send(socket: &OwnedFd, head: &[u8], inline: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    if !files.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket.as_fd(), &[IoSlice::new(head), IoSlice::new(inline)], &mut ancillary, flags)?;
    Ok(())
}

/// Receives one packet: its length, 0 at the end of all, and the descriptor that came along.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // The kernel closes what doesn't fit.
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    let mut files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.by_ref().flatten().next();
    // Ours to say, not a lie of the other end, which has sent it: whoever has no descriptor left gets the packet without.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        let words =
            "there is no room for the descriptor of memory that the peer shows: allow this process more open files";
        return Err(io::Error::other(words));
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is longer than any"));
    }
    Ok((received.bytes, file))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// The kernel leaves away what it finds no room for, as it does where a process may open no further file.
    #[test]
    fn a_descriptor_that_finds_no_room_is_our_trouble_and_no_lie_of_the_peer() {
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("two sockets");
        // Room for one is rounded up, and some more fit into it.
        let files = [here.as_fd(); 16];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(here.as_fd(), &[IoSlice::new(b"packet")], &mut ancillary, SendFlags::NOSIGNAL).expect("it is sent");
        let said = receive(&there, &mut [0; 64]).expect_err("sixteen don't fit").to_string();
        assert!(said.contains("more open files"), "{said}");
    }
}

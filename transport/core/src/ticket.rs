//! A ticket: how a process can be reached, as opaque bytes that any store can carry.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, put_bytes, put_text};
use crate::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, JOB_BYTES_MAX, TICKET_BYTES_MAX};
use crate::message::{peer, put_peer};
use crate::{BackendId, PeerId, frame, integrity};

const MAGIC: [u8; 4] = *b"xftk";

/// How one process can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The wire version that the process speaks.
    pub version: u8,
    /// Its job.
    pub job: String,
    /// Who it is.
    pub id: PeerId,
    /// Which process that is, among those that may claim the same identity.
    pub nonce: u64,
    /// Where it listens. Backends that this build doesn't know are left out.
    pub addresses: Vec<(BackendId, Bytes)>,
}

impl Ticket {
    /// The bytes to hand on.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(MAGIC);
        bytes.push(self.version);
        put_text(&mut bytes, &self.job, JOB_BYTES_MAX);
        put_peer(&mut bytes, self.id);
        bytes.extend(self.nonce.to_le_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        bytes.extend((addresses.len() as u16).to_le_bytes());
        for (backend, address) in addresses {
            bytes.push(*backend as u8);
            put_bytes(&mut bytes, address, ADDRESS_BYTES_MAX);
        }
        let checksum = integrity::crc32c(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes.into()
    }

    /// Reads a ticket. One of another wire version gives only its version, as an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > TICKET_BYTES_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        let Some((MAGIC, after_magic)) = bytes.split_first_chunk().map(|(head, rest)| (*head, rest)) else {
            return Err(TicketError::NotATicket);
        };
        match after_magic.first() {
            None => return Err(TicketError::NotATicket),
            Some(&frame::VERSION) => {}
            Some(&version) => return Err(TicketError::Version(version)),
        }
        let Some((body, checksum)) = bytes.split_last_chunk::<4>() else {
            return Err(TicketError::NotATicket);
        };
        if integrity::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(TicketError::Malformed(DecodeError::Checksum));
        }
        let mut reader = Reader::new(&body[MAGIC.len()..]);
        let ticket = Self::read(&mut reader)?;
        reader.end()?;
        Ok(ticket)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = reader.u8("version")?;
        let job = reader.text("job", JOB_BYTES_MAX)?;
        let id = peer(reader)?;
        let nonce = reader.u64("nonce")?;
        let mut addresses = Vec::new();
        for _ in 0..reader.count("addresses", ADDRESSES_MAX, 3)? {
            let backend = reader.u8("backend")?;
            let address = reader.bytes("address", ADDRESS_BYTES_MAX)?;
            // A newer peer may also listen on what this build doesn't have.
            if let Some(backend) = BackendId::from_wire(backend) {
                addresses.push((backend, Bytes::copy_from_slice(address)));
            }
        }
        Ok(Self { version, job, id, nonce, addresses })
    }
}

/// Why bytes are no ticket that this build can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The bytes are something else.
    #[error("not an xfer ticket")]
    NotATicket,
    /// Longer than any ticket.
    #[error("a ticket has at most {TICKET_BYTES_MAX} bytes, got {0}")]
    TooLong(usize),
    /// From a process with another wire version.
    #[error("the ticket is of wire version {0}, this build speaks {ours}: run the same xfer on all ranks", ours = frame::VERSION)]
    Version(u8),
    /// Damaged or cut.
    #[error("damaged ticket: {0}")]
    Malformed(#[from] DecodeError),
}

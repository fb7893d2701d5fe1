//! What links and paths say to each other.
//!
//! Greetings open and close one link. Link messages belong to the path: they are numbered, kept until received, and
//! sent again over another link when theirs is lost.

use bytes::Bytes;

use crate::PeerId;
use crate::codec::{DecodeError, Reader, put_text};
use crate::limits::{ACKS_PER_MESSAGE_MAX, CHANNELS_MAX, ENDED_PER_MESSAGE_MAX, JOB_BYTES_MAX, REASON_BYTES_MAX};
use crate::path::TransferId;
use crate::stream::StreamId;

/// What a link carries while others are there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkRole {
    /// Messages, acknowledgements and signs of life, so that they are never behind bulk.
    Control = 0,
    /// Chunks.
    Data = 1,
    /// Nothing but signs of life of the whole process, which don't depend on what any other link does.
    Beat = 2,
}

/// The first words on a link, and the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// From who opened the link.
    Hello(Hello),
    /// The link is accepted, by this process.
    Welcome {
        /// Who accepts.
        id: PeerId,
        /// Which process that is.
        nonce: u64,
        /// Its number for this connection of the two.
        session: u64,
    },
    /// The link is refused, and why.
    Reject(RejectReason, String),
    /// The process leaves on purpose: nothing of it follows, and it will land nothing more.
    Bye,
}

/// Who opens a link, and whom it wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The job; both ends must be of the same.
    pub job: String,
    /// Who opens the link.
    pub from: PeerId,
    /// A random number of that process: links with the same are one peer.
    pub nonce: u64,
    /// Its number for this connection of the two: links with another one belong to a connection that is over.
    pub session: u64,
    /// Whom it wants to reach.
    pub to: PeerId,
    /// What the link is for.
    pub role: LinkRole,
}

/// Why a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RejectReason {
    /// The ends don't speak the same wire version.
    Version = 1,
    /// The link is for another job.
    Job = 2,
    /// Another process has this rank and incarnation already.
    Claimed = 3,
    /// A later life of this rank is connected.
    Superseded = 4,
    /// The address belongs to another process than the one that is meant.
    NotMe = 5,
    /// Too many links or handshakes.
    Busy = 6,
    /// The endpoint is shutting down.
    Leaving = 7,
    /// The first frame was no hello.
    Malformed = 8,
}

impl RejectReason {
    fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::Job,
            3 => Self::Claimed,
            4 => Self::Superseded,
            5 => Self::NotMe,
            6 => Self::Busy,
            7 => Self::Leaving,
            8 => Self::Malformed,
            _ => return None,
        })
    }
}

impl Greeting {
    /// The payload of a greeting frame.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(64);
        match self {
            Self::Hello(hello) => {
                bytes.push(1);
                put_text(&mut bytes, &hello.job, JOB_BYTES_MAX);
                put_peer(&mut bytes, hello.from);
                bytes.extend(hello.nonce.to_le_bytes());
                bytes.extend(hello.session.to_le_bytes());
                put_peer(&mut bytes, hello.to);
                bytes.push(hello.role as u8);
            }
            Self::Welcome { id, nonce, session } => {
                bytes.push(2);
                put_peer(&mut bytes, *id);
                bytes.extend(nonce.to_le_bytes());
                bytes.extend(session.to_le_bytes());
            }
            Self::Reject(reason, sentence) => {
                bytes.extend([3, *reason as u8]);
                put_text(&mut bytes, sentence, REASON_BYTES_MAX);
            }
            Self::Bye => bytes.push(4),
        }
        bytes.into()
    }

    /// Reads the payload of a greeting frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let greeting = match reader.u8("greeting")? {
            1 => Self::Hello(Hello {
                job: reader.text("job", JOB_BYTES_MAX)?,
                from: peer(&mut reader)?,
                nonce: reader.u64("nonce")?,
                session: reader.u64("session")?,
                to: peer(&mut reader)?,
                role: match reader.u8("role")? {
                    0 => LinkRole::Control,
                    1 => LinkRole::Data,
                    2 => LinkRole::Beat,
                    number => return Err(unknown("link role", number)),
                },
            }),
            2 => Self::Welcome { id: peer(&mut reader)?, nonce: reader.u64("nonce")?, session: reader.u64("session")? },
            3 => {
                let number = reader.u8("reason")?;
                let reason = RejectReason::from_wire(number).ok_or_else(|| unknown("reason", number))?;
                Self::Reject(reason, reader.text("sentence", REASON_BYTES_MAX)?)
            }
            4 => Self::Bye,
            number => return Err(unknown("greeting", number)),
        };
        reader.end()?;
        Ok(greeting)
    }
}

/// A chunk that was applied at its destination and verified there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Its transfer.
    pub transfer: TransferId,
    /// Where in the region it is, in bytes.
    pub offset: u64,
    /// CRC-32C of the bytes as they lie there.
    pub crc32c: u32,
}

/// Why a receiver doesn't take a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The grant is not live (any more), or is another peer's.
    NotGranted = 1,
    /// The chunk leaves the granted region.
    OutOfBounds = 2,
}

/// One loan of a path. The lender counts from 1; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoanId(pub u64);

/// Memory that the receiver of the message may read where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// Which loan.
    pub id: LoanId,
    /// For whom, among the receiver's readers.
    pub channel: u16,
    /// The segment that the memory lies in, which was shown on the same link.
    pub segment: u64,
    /// Where in it, in bytes.
    pub at: u64,
    /// How much, in bytes.
    pub len_bytes: u64,
    /// CRC-32C of the bytes, if the lender has it.
    pub crc32c: Option<u32>,
}

/// Why a loan is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LoanRefusal {
    /// The memory can't be seen by who was to read it.
    NotSeen = 1,
    /// Nobody reads that channel.
    Nobody = 2,
    /// Its reader has as many as may wait.
    Behind = 3,
}

/// A numbered message between the two ends of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkMessage {
    /// Chunks that are applied.
    Acks(Vec<Ack>),
    /// A chunk whose bytes are not what was sent: send it again.
    Damaged {
        /// Its transfer.
        transfer: TransferId,
        /// Where in the region it should be, in bytes.
        offset: u64,
    },
    /// A chunk that is not taken.
    Refused {
        /// Its transfer.
        transfer: TransferId,
        /// Why.
        refusal: Refusal,
    },
    /// The transfer is over: write nothing more of it, and say so.
    Fence(TransferId),
    /// Nothing more of the transfer will be written.
    Fenced(TransferId),
    /// Transfers that are complete and acknowledged: forget them.
    Ended(Vec<TransferId>),
    /// Memory to be read where it lies, until it is returned.
    Lend(Loan),
    /// The memory of a loan is read no more.
    Returned(LoanId),
    /// A loan that is not taken: its memory was not read.
    LoanRefused {
        /// Which.
        loan: LoanId,
        /// Why.
        refusal: LoanRefusal,
    },
}

const ACK_BYTES: usize = 20;
const LEND: u8 = 7;

impl LinkMessage {
    /// The payload of a link frame.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(32);
        match self {
            Self::Acks(acks) => {
                bytes.push(1);
                bytes.extend((acks.len() as u16).to_le_bytes());
                for ack in acks {
                    bytes.extend(ack.transfer.0.to_le_bytes());
                    bytes.extend(ack.offset.to_le_bytes());
                    bytes.extend(ack.crc32c.to_le_bytes());
                }
            }
            Self::Damaged { transfer, offset } => {
                bytes.push(2);
                bytes.extend(transfer.0.to_le_bytes());
                bytes.extend(offset.to_le_bytes());
            }
            Self::Refused { transfer, refusal } => {
                bytes.extend([3, *refusal as u8]);
                bytes.extend(transfer.0.to_le_bytes());
            }
            Self::Fence(transfer) => {
                bytes.push(4);
                bytes.extend(transfer.0.to_le_bytes());
            }
            Self::Fenced(transfer) => {
                bytes.push(5);
                bytes.extend(transfer.0.to_le_bytes());
            }
            Self::Ended(transfers) => {
                bytes.push(6);
                bytes.extend((transfers.len() as u16).to_le_bytes());
                for transfer in transfers {
                    bytes.extend(transfer.0.to_le_bytes());
                }
            }
            Self::Lend(loan) => {
                bytes.push(LEND);
                for number in [loan.id.0, loan.segment, loan.at, loan.len_bytes] {
                    bytes.extend(number.to_le_bytes());
                }
                bytes.extend(loan.channel.to_le_bytes());
                bytes.push(u8::from(loan.crc32c.is_some()));
                bytes.extend(loan.crc32c.unwrap_or(0).to_le_bytes());
            }
            Self::Returned(loan) => {
                bytes.push(8);
                bytes.extend(loan.0.to_le_bytes());
            }
            Self::LoanRefused { loan, refusal } => {
                bytes.extend([9, *refusal as u8]);
                bytes.extend(loan.0.to_le_bytes());
            }
        }
        bytes.into()
    }

    /// The loan that an encoded message is about to make.
    pub fn lends(bytes: &[u8]) -> Option<LoanId> {
        let id = bytes.strip_prefix(&[LEND])?.first_chunk()?;
        Some(LoanId(u64::from_le_bytes(*id)))
    }

    /// Reads the payload of a link frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8("link message")? {
            1 => {
                let count = reader.count("acks", ACKS_PER_MESSAGE_MAX, ACK_BYTES)?;
                let mut acks = Vec::with_capacity(count);
                for _ in 0..count {
                    acks.push(Ack {
                        transfer: transfer(&mut reader)?,
                        offset: reader.u64("offset")?,
                        crc32c: reader.u32("crc32c")?,
                    });
                }
                Self::Acks(acks)
            }
            2 => Self::Damaged { transfer: transfer(&mut reader)?, offset: reader.u64("offset")? },
            3 => {
                let refusal = match reader.u8("refusal")? {
                    1 => Refusal::NotGranted,
                    2 => Refusal::OutOfBounds,
                    number => return Err(unknown("refusal", number)),
                };
                Self::Refused { transfer: transfer(&mut reader)?, refusal }
            }
            4 => Self::Fence(transfer(&mut reader)?),
            5 => Self::Fenced(transfer(&mut reader)?),
            6 => {
                let count = reader.count("ended", ENDED_PER_MESSAGE_MAX, 8)?;
                let ended: Result<Vec<_>, _> = (0..count).map(|_| transfer(&mut reader)).collect();
                Self::Ended(ended?)
            }
            LEND => {
                let (id, segment) = (LoanId(reader.u64("loan")?), reader.u64("segment")?);
                let (at, len_bytes) = (reader.u64("at")?, reader.u64("length")?);
                let channel = reader.u16("channel")?;
                let crc32c = match (reader.u8("checked")?, reader.u32("crc32c")?) {
                    (0, 0) => None,
                    (1, crc32c) => Some(crc32c),
                    (number, _) => return Err(unknown("checked", number)),
                };
                Self::Lend(Loan { id, channel, segment, at, len_bytes, crc32c })
            }
            8 => Self::Returned(LoanId(reader.u64("loan")?)),
            9 => {
                let refusal = match reader.u8("refusal")? {
                    1 => LoanRefusal::NotSeen,
                    2 => LoanRefusal::Nobody,
                    3 => LoanRefusal::Behind,
                    number => return Err(unknown("refusal", number)),
                };
                Self::LoanRefused { loan: LoanId(reader.u64("loan")?), refusal }
            }
            number => return Err(unknown("link message", number)),
        };
        reader.end()?;
        Ok(message)
    }
}

/// How far the numbered messages of each stream have been received: the payload of a beat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received(pub Vec<(StreamId, u64)>);

impl Received {
    /// The payload of a beat frame.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(2 + self.0.len() * 12);
        bytes.extend((self.0.len() as u16).to_le_bytes());
        for (stream, next) in &self.0 {
            bytes.extend(stream.0.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        bytes.into()
    }

    /// Reads the payload of a beat frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        // The streams of all channels and the path's own.
        let count = reader.count("received", CHANNELS_MAX + 1, 12)?;
        let mut received = Vec::with_capacity(count);
        for _ in 0..count {
            received.push((StreamId(reader.u32("stream")?), reader.u64("next")?));
        }
        reader.end()?;
        Ok(Self(received))
    }
}

pub(crate) fn put_peer(into: &mut Vec<u8>, peer: PeerId) {
    into.extend(peer.rank.to_le_bytes());
    into.extend(peer.incarnation.to_le_bytes());
}

pub(crate) fn peer(reader: &mut Reader<'_>) -> Result<PeerId, DecodeError> {
    Ok(PeerId { rank: reader.u32("rank")?, incarnation: reader.u32("incarnation")? })
}

fn transfer(reader: &mut Reader<'_>) -> Result<TransferId, DecodeError> {
    reader.u64("transfer").map(TransferId)
}

fn unknown(what: &'static str, number: u8) -> DecodeError {
    DecodeError::Unknown { what, number: u64::from(number) }
}

//! What two ends say to each other that are connected by queue pairs: how they find each other, and packets.
//!
//! The queue pairs are introduced over a connection of the network, which then only tells of the other end's death. Packets are
//! sent over the queue pairs, each into room that the other end has said it has: frames with their payload, or where the payload
//! lies, from where the other end reads it. All little endian.

use crate::DecodeError;
use crate::codec::Reader;
use crate::frame::FrameHeader;
use crate::integrity::crc32c;
use crate::limits::{FRAME_HEADER_BYTES, RDMA_INLINE_BYTES_MAX, REASON_BYTES_MAX};
use crate::packet::PacketError;

/// Bytes of an introduction, and of the head of a refusal.
pub const INTRODUCTION_BYTES: usize = 52;

/// Bytes before the body of a packet.
pub const PACKET_HEAD_BYTES: usize = 4;

/// The longest packet.
pub const PACKET_BYTES_MAX: usize = PACKET_HEAD_BYTES + FRAME_HEADER_BYTES + RDMA_INLINE_BYTES_MAX;

const MAGIC: u32 = u32::from_le_bytes(*b"xfrq");
const VERSION: u8 = 1;
const HELLO: u8 = 1;
const REFUSAL: u8 = 2;

/// How one end's queue pair is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Its number, of 24 bits.
    pub queue_pair: u32,
    /// The number of its first packet, of 24 bits, which nobody can guess.
    pub psn: u32,
    /// The address of its port.
    pub gid: [u8; 16],
    /// Bytes of payload that its port takes in a packet.
    pub mtu_bytes: u32,
    /// Reads of its memory that may be under way at once.
    pub reads: u8,
    /// Which of its devices it is, for ends that have several.
    pub rail: u8,
    /// How many packets it has room for.
    pub room: u16,
}

/// The first words on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Who is there.
    Hello(Introduction),
    /// It doesn't go; a sentence of so many bytes follows.
    Refusal {
        /// Its length.
        len_bytes: u16,
    },
}

impl Opening {
    /// The bytes for the connection.
    pub fn encode(&self) -> [u8; INTRODUCTION_BYTES] {
        let mut bytes = Vec::with_capacity(INTRODUCTION_BYTES);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.push(VERSION);
        match self {
            Self::Hello(hello) => {
                bytes.extend([HELLO, hello.reads, hello.rail]);
                bytes.extend(hello.queue_pair.to_le_bytes());
                bytes.extend(hello.psn.to_le_bytes());
                bytes.extend(hello.mtu_bytes.to_le_bytes());
                bytes.extend(hello.room.to_le_bytes());
                bytes.extend(hello.gid);
            }
            Self::Refusal { len_bytes } => {
                bytes.push(REFUSAL);
                bytes.extend(len_bytes.to_le_bytes());
            }
        }
        let mut whole = [0; INTRODUCTION_BYTES];
        whole[..bytes.len()].copy_from_slice(&bytes);
        let checksum = crc32c(&whole[..INTRODUCTION_BYTES - 4]);
        whole[INTRODUCTION_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        whole
    }

    /// Reads the first words, whose numbers are then within their limits.
    pub fn decode(bytes: &[u8; INTRODUCTION_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let unknown = |what, number: u32| DecodeError::Unknown { what, number: u64::from(number) };
        let magic = reader.u32("magic")?;
        if magic != MAGIC {
            return Err(unknown("first words", magic));
        }
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(unknown("version of queue pairs", version.into()));
        }
        let opening = match reader.u8("kind")? {
            HELLO => {
                let (reads, rail) = (reader.u8("reads")?, reader.u8("rail")?);
                let (queue_pair, psn) = (reader.u32("queue pair")?, reader.u32("packet number")?);
                let (mtu_bytes, room) = (reader.u32("packet length")?, reader.u16("room")?);
                let mut gid = [0; 16];
                for byte in &mut gid {
                    *byte = reader.u8("address")?;
                }
                let whole = mtu_bytes.is_power_of_two() && (256..=4096).contains(&mtu_bytes);
                if queue_pair >> 24 != 0 || psn >> 24 != 0 {
                    return Err(unknown("queue pair", queue_pair.max(psn)));
                }
                if !whole || room < ROOM_MIN {
                    return Err(unknown("room for packets", if whole { room.into() } else { mtu_bytes }));
                }
                Self::Hello(Introduction { queue_pair, psn, gid, mtu_bytes, reads, rail, room })
            }
            REFUSAL => {
                let len_bytes = reader.u16("length of a refusal")?;
                if usize::from(len_bytes) > REASON_BYTES_MAX {
                    return Err(unknown("length of a refusal", len_bytes.into()));
                }
                Self::Refusal { len_bytes }
            }
            kind => return Err(unknown("kind of first words", kind.into())),
        };
        // What is not used is zero, and the sum is right: what was read is all that was said.
        if opening.encode() == *bytes { Ok(opening) } else { Err(DecodeError::Checksum) }
    }
}

/// The least room with which two ends can always tell each other of more.
pub const ROOM_MIN: u16 = 4;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RdmaPacket<'a> {
    /// So many of the reader's exposed chunks have been read, or are not wanted, since this was said last: the oldest ones.
    pub taken: u8,
    /// So many packets of the reader were looked at, so there is room for as many more.
    pub freed: u16,
    /// What it brings.
    pub body: Body<'a>,
}

/// What a packet brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// Nothing but the numbers before it. The first of all packets is one of these.
    Nothing,
    /// A frame begins; its payload begins with these bytes, and goes on in the packets that follow.
    Frame {
        /// Its header.
        header: FrameHeader,
        /// The first bytes of its payload.
        inline: &'a [u8],
    },
    /// More of the payload.
    More(&'a [u8]),
    /// A whole chunk, which the reader reads from where it lies.
    Exposed {
        /// Its header.
        header: FrameHeader,
        /// Its address.
        at: u64,
        /// The key under which it may be read, until it is said to be taken.
        key: u32,
    },
    /// The rest of the payload doesn't come: nobody wants it any more.
    Abandon,
    /// The chunk that this packet says is taken can't be read: it has to come in packets, and so does all else.
    Unread {
        /// The system's number of the error.
        errno: u32,
    },
}

const NOTHING: u8 = 1;
const FRAME: u8 = 2;
const MORE: u8 = 3;
const EXPOSED: u8 = 4;
const ABANDON: u8 = 5;
const UNREAD: u8 = 6;

/// The numbers of a packet, without what it brings: they are looked at as soon as it is there.
pub fn numbers_of(bytes: &[u8]) -> Option<(u8, u16)> {
    let [_, taken, low, high] = *bytes.first_chunk::<PACKET_HEAD_BYTES>()?;
    Some((taken, u16::from_le_bytes([low, high])))
}

impl<'a> RdmaPacket<'a> {
    /// The bytes without what is inline, which follows them.
    pub fn encode_head(&self) -> Vec<u8> {
        let kind = match self.body {
            Body::Nothing => NOTHING,
            Body::Frame { .. } => FRAME,
            Body::More(_) => MORE,
            Body::Exposed { .. } => EXPOSED,
            Body::Abandon => ABANDON,
            Body::Unread { .. } => UNREAD,
        };
        let mut head = Vec::with_capacity(PACKET_HEAD_BYTES + FRAME_HEADER_BYTES + 12);
        head.extend([kind, self.taken]);
        head.extend(self.freed.to_le_bytes());
        match &self.body {
            Body::Frame { header, .. } => head.extend(header.encode()),
            Body::Exposed { header, at, key } => {
                head.extend(header.encode());
                head.extend(at.to_le_bytes());
                head.extend(key.to_le_bytes());
            }
            Body::Unread { errno } => head.extend(errno.to_le_bytes()),
            Body::Nothing | Body::More(_) | Body::Abandon => {}
        }
        head
    }

    /// What of it is inline.
    pub fn inline(&self) -> &'a [u8] {
        match self.body {
            Body::Frame { inline, .. } | Body::More(inline) => inline,
            _ => &[],
        }
    }

    /// Reads one packet, which is all of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let kind = *bytes.first().ok_or(PacketError::Kind(None))?;
        let length = PacketError::Length { kind, len_bytes: bytes.len() };
        let (taken, freed) = numbers_of(bytes).ok_or(length)?;
        let rest = &bytes[PACKET_HEAD_BYTES..];
        let nothing = |rest: &[u8], body: Body<'a>| if rest.is_empty() { Ok(body) } else { Err(length) };
        let inline = |rest: &'a [u8]| if rest.len() <= RDMA_INLINE_BYTES_MAX { Ok(rest) } else { Err(length) };
        let header = |rest: &'a [u8]| -> Result<(FrameHeader, &'a [u8]), PacketError> {
            let (header, rest) = rest.split_at_checked(FRAME_HEADER_BYTES).ok_or(length)?;
            Ok((FrameHeader::decode(header)?, rest))
        };
        let body = match kind {
            NOTHING => nothing(rest, Body::Nothing)?,
            FRAME => {
                let (header, rest) = header(rest)?;
                Body::Frame { header, inline: inline(rest)? }
            }
            MORE => Body::More(inline(rest)?),
            EXPOSED => {
                let (header, rest) = header(rest)?;
                let (at, key) = rest.split_first_chunk::<8>().ok_or(length)?;
                let key = u32::from_le_bytes(key.try_into().map_err(|_| length)?);
                Body::Exposed { header, at: u64::from_le_bytes(*at), key }
            }
            ABANDON => nothing(rest, Body::Abandon)?,
            UNREAD => Body::Unread { errno: u32::from_le_bytes(rest.try_into().map_err(|_| length)?) },
            _ => return Err(PacketError::Kind(Some(kind))),
        };
        Ok(Self { taken, freed, body })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FrameKind;

    fn hello() -> Introduction {
        Introduction {
            queue_pair: 0xff_fffe,
            psn: 0x12_3456,
            gid: std::array::from_fn(|at| at as u8),
            mtu_bytes: 4096,
            reads: 16,
            rail: 1,
            room: ROOM_MIN,
        }
    }

    fn written(packet: &RdmaPacket<'_>) -> Vec<u8> {
        [&packet.encode_head(), packet.inline()].concat()
    }

    fn all(bytes: &[u8]) -> Vec<RdmaPacket<'_>> {
        let header = FrameHeader::for_payload(FrameKind::Data, bytes);
        [
            Body::Nothing,
            Body::Frame { header, inline: bytes },
            Body::More(bytes),
            Body::Exposed { header, at: u64::MAX - 1, key: 7 },
            Body::Abandon,
            Body::Unread { errno: u32::MAX },
        ]
        .map(|body| RdmaPacket { taken: 3, freed: 0x1234, body })
        .into()
    }

    #[test]
    fn packets_that_are_encoded_are_decoded_and_nothing_shorter_or_longer() {
        for packet in all(b"payload") {
            let bytes = written(&packet);
            assert_eq!(RdmaPacket::decode(&bytes), Ok(packet));
            assert_eq!(numbers_of(&bytes), Some((3, 0x1234)));
            if packet.inline().is_empty() {
                assert!(RdmaPacket::decode(&bytes[..bytes.len() - 1]).is_err(), "{packet:?}");
                assert!(RdmaPacket::decode(&[&bytes[..], &[0]].concat()).is_err(), "{packet:?}");
            }
        }
    }

    #[test]
    fn what_is_inline_is_limited_from_both_sides() {
        let header = FrameHeader::for_payload(FrameKind::Data, b"");
        for (len, fits) in [(RDMA_INLINE_BYTES_MAX, true), (RDMA_INLINE_BYTES_MAX + 1, false)] {
            let bytes = vec![1; len];
            for body in [Body::More(&bytes), Body::Frame { header, inline: &bytes }] {
                let packet = RdmaPacket { taken: 0, freed: 0, body };
                assert_eq!(RdmaPacket::decode(&written(&packet)).is_ok(), fits, "{len}");
                assert!(!fits || written(&packet).len() <= PACKET_BYTES_MAX);
            }
        }
    }

    #[test]
    fn first_words_that_are_encoded_are_decoded() {
        let longest = Opening::Refusal { len_bytes: REASON_BYTES_MAX as u16 };
        for opening in [Opening::Hello(hello()), longest, Opening::Refusal { len_bytes: 0 }] {
            assert_eq!(Opening::decode(&opening.encode()), Ok(opening));
        }
    }

    #[test]
    fn numbers_of_an_introduction_are_limited_from_both_sides() {
        let good = hello();
        for (bad, of) in [
            (Introduction { queue_pair: 1 << 24, ..good }, "24 bits of a number"),
            (Introduction { psn: 1 << 24, ..good }, "24 bits of a packet's"),
            (Introduction { mtu_bytes: 128, ..good }, "the shortest packet"),
            (Introduction { mtu_bytes: 8192, ..good }, "the longest packet"),
            (Introduction { mtu_bytes: 1000, ..good }, "no power of two"),
            (Introduction { room: ROOM_MIN - 1, ..good }, "the least room"),
        ] {
            assert!(Opening::decode(&Opening::Hello(bad).encode()).is_err(), "{of}");
        }
        let refusal = Opening::Refusal { len_bytes: REASON_BYTES_MAX as u16 + 1 };
        assert!(Opening::decode(&refusal.encode()).is_err());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_of_the_first_words_is_noticed(bit in 0_usize..INTRODUCTION_BYTES * 8) {
            let mut bytes = Opening::Hello(hello()).encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Opening::decode(&bytes).is_err());
        }

        #[test]
        fn garbage_is_an_error_or_a_packet_that_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            if let Ok(packet) = RdmaPacket::decode(&bytes) {
                prop_assert_eq!(written(&packet), bytes);
            }
        }
    }
}

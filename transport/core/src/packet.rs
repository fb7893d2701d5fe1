//! What two ends say to each other that see the same memory: frames, and where their bytes lie.
//!
//! One packet of a socket is one of these; little endian, the kind first. A descriptor says no more than a number that
//! the reader looks up in what it was shown, and a range that it checks against what it has mapped.

use crate::frame::{FrameError, FrameHeader};
use crate::limits::{FRAME_HEADER_BYTES, PACKET_INLINE_BYTES_MAX, SUM_AHEAD_BYTES_MAX};

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A frame begins; its payload begins with these bytes, and goes on in the packets that follow.
    Frame {
        /// Its header.
        header: FrameHeader,
        /// The first bytes of its payload.
        inline: &'a [u8],
    },
    /// More of the payload.
    More(&'a [u8]),
    /// More of the payload lies in the sender's ring.
    Staged {
        /// Where, in bytes.
        at: u64,
        /// How much, in bytes.
        len_bytes: u32,
    },
    /// A whole frame, whose payload lies in a segment that was shown.
    Lent {
        /// Its header.
        header: FrameHeader,
        /// Which segment.
        segment: u64,
        /// Where its payload begins, in bytes.
        at: u64,
    },
    /// A whole frame, whose payload lies in ordinary memory of the sender: the reader fetches it from there.
    Plain {
        /// Its header.
        header: FrameHeader,
        /// Its payload's address in the sender's process.
        at: u64,
    },
    /// Something to try on whether the reader can fetch from the sender's process.
    Probe {
        /// An address there.
        at: u64,
        /// The number that lies there.
        number: u64,
    },
    /// What came of it; said again when it doesn't work any more.
    Probed {
        /// The system's number of the error, 0 if there was none.
        errno: u32,
    },
    /// The checksum of a chunk that is longer than [`SUM_AHEAD_BYTES_MAX`], whose header has none, after all of it.
    Sum {
        /// CRC-32C of its payload.
        crc32c: u32,
    },
    /// The rest of the payload doesn't come: nobody wants it any more.
    Abandon,
    /// A segment; its descriptor comes along.
    Segment {
        /// How it is called from now on.
        id: u64,
        /// Its length.
        len_bytes: u64,
    },
    /// The sender's ring; its descriptor comes along.
    Ring {
        /// Its length.
        len_bytes: u64,
    },
    /// The sender's mailbox; its descriptor comes along.
    Mailbox {
        /// Its length.
        len_bytes: u64,
    },
    /// There is a letter in the sender's mailbox that the reader may not look for any more.
    Rung,
    /// A segment that is not needed any more.
    Forget {
        /// Which.
        id: u64,
    },
    /// So much of the reader's ring was read since this was said last.
    Freed {
        /// How much, in bytes.
        len_bytes: u64,
    },
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A kind that this version doesn't have, or nothing at all.
    #[error("unknown kind of packet {0:?}")]
    Kind(Option<u8>),
    /// Of another length than its kind has.
    #[error("a packet of kind {kind} of {len_bytes} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// Its length.
        len_bytes: usize,
    },
    /// The header in it is none.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

const FRAME: u8 = 1;
const MORE: u8 = 2;
const STAGED: u8 = 3;
const LENT: u8 = 4;
const ABANDON: u8 = 5;
const SEGMENT: u8 = 6;
const RING: u8 = 7;
const FORGET: u8 = 8;
const FREED: u8 = 9;
const PLAIN: u8 = 10;
const PROBE: u8 = 11;
const PROBED: u8 = 12;
const MAILBOX: u8 = 13;
const RUNG: u8 = 14;
const SUM: u8 = 15;

/// Whether the checksum of a chunk of so many bytes follows it.
pub fn sum_follows(len_bytes: u32) -> bool {
    len_bytes > SUM_AHEAD_BYTES_MAX
}

impl<'a> Packet<'a> {
    /// The bytes without what is inline, which follows them.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(1 + FRAME_HEADER_BYTES + 16);
        let mut put = |kind: u8, header: &[u8], numbers: &[u64]| {
            head.push(kind);
            head.extend(header);
            numbers.iter().for_each(|number| head.extend(number.to_le_bytes()));
        };
        match self {
            Self::Frame { header, .. } => put(FRAME, &header.encode(), &[]),
            Self::More(_) => put(MORE, &[], &[]),
            Self::Staged { at, len_bytes } => put(STAGED, &[], &[*at, u64::from(*len_bytes)]),
            Self::Lent { header, segment, at } => put(LENT, &header.encode(), &[*segment, *at]),
            Self::Plain { header, at } => put(PLAIN, &header.encode(), &[*at]),
            Self::Probe { at, number } => put(PROBE, &[], &[*at, *number]),
            Self::Probed { errno } => put(PROBED, &[], &[u64::from(*errno)]),
            Self::Sum { crc32c } => put(SUM, &[], &[u64::from(*crc32c)]),
            Self::Abandon => put(ABANDON, &[], &[]),
            Self::Segment { id, len_bytes } => put(SEGMENT, &[], &[*id, *len_bytes]),
            Self::Ring { len_bytes } => put(RING, &[], &[*len_bytes]),
            Self::Mailbox { len_bytes } => put(MAILBOX, &[], &[*len_bytes]),
            Self::Rung => put(RUNG, &[], &[]),
            Self::Forget { id } => put(FORGET, &[], &[*id]),
            Self::Freed { len_bytes } => put(FREED, &[], &[*len_bytes]),
        }
        head
    }

    /// What of it is inline.
    pub fn inline(&self) -> &'a [u8] {
        match *self {
            Self::Frame { inline, .. } | Self::More(inline) => inline,
            _ => &[],
        }
    }

    /// Reads one packet, which is all of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let (&kind, rest) = bytes.split_first().ok_or(PacketError::Kind(None))?;
        let length = PacketError::Length { kind, len_bytes: bytes.len() };
        let numbers = |rest: &[u8], count: usize| -> Result<[u64; 2], PacketError> {
            let (numbers, left) = rest.as_chunks::<8>();
            if numbers.len() != count || !left.is_empty() {
                return Err(length);
            }
            let number = |at: usize| numbers.get(at).map_or(0, |bytes| u64::from_le_bytes(*bytes));
            Ok([number(0), number(1)])
        };
        let inline = |rest: &'a [u8]| if rest.len() <= PACKET_INLINE_BYTES_MAX { Ok(rest) } else { Err(length) };
        Ok(match kind {
            FRAME => {
                let (header, rest) = rest.split_at_checked(FRAME_HEADER_BYTES).ok_or(length)?;
                Self::Frame { header: FrameHeader::decode(header)?, inline: inline(rest)? }
            }
            MORE => Self::More(inline(rest)?),
            STAGED => {
                let [at, len_bytes] = numbers(rest, 2)?;
                Self::Staged { at, len_bytes: u32::try_from(len_bytes).map_err(|_| length)? }
            }
            LENT => {
                let (header, rest) = rest.split_at_checked(FRAME_HEADER_BYTES).ok_or(length)?;
                let [segment, at] = numbers(rest, 2)?;
                Self::Lent { header: FrameHeader::decode(header)?, segment, at }
            }
            PLAIN => {
                let (header, rest) = rest.split_at_checked(FRAME_HEADER_BYTES).ok_or(length)?;
                let [at, _] = numbers(rest, 1)?;
                Self::Plain { header: FrameHeader::decode(header)?, at }
            }
            PROBE => numbers(rest, 2).map(|[at, number]| Self::Probe { at, number })?,
            PROBED => {
                let [errno, _] = numbers(rest, 1)?;
                Self::Probed { errno: u32::try_from(errno).map_err(|_| length)? }
            }
            SUM => {
                let [crc32c, _] = numbers(rest, 1)?;
                Self::Sum { crc32c: u32::try_from(crc32c).map_err(|_| length)? }
            }
            ABANDON => numbers(rest, 0).map(|_| Self::Abandon)?,
            SEGMENT => numbers(rest, 2).map(|[id, len_bytes]| Self::Segment { id, len_bytes })?,
            RING => numbers(rest, 1).map(|[len_bytes, _]| Self::Ring { len_bytes })?,
            MAILBOX => numbers(rest, 1).map(|[len_bytes, _]| Self::Mailbox { len_bytes })?,
            RUNG => numbers(rest, 0).map(|_| Self::Rung)?,
            FORGET => numbers(rest, 1).map(|[id, _]| Self::Forget { id })?,
            FREED => numbers(rest, 1).map(|[len_bytes, _]| Self::Freed { len_bytes })?,
            _ => return Err(PacketError::Kind(Some(kind))),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FrameKind;

    fn all(bytes: &[u8]) -> Vec<Packet<'_>> {
        let header = FrameHeader::for_payload(FrameKind::Data, bytes);
        let [id, at, len_bytes] = [u64::MAX, 1 << 40, 7];
        vec![
            Packet::Frame { header, inline: bytes },
            Packet::More(bytes),
            Packet::Staged { at, len_bytes: u32::MAX },
            Packet::Lent { header, segment: id, at },
            Packet::Plain { header, at },
            Packet::Probe { at, number: id },
            Packet::Probed { errno: u32::MAX },
            Packet::Sum { crc32c: u32::MAX },
            Packet::Abandon,
            Packet::Segment { id, len_bytes },
            Packet::Ring { len_bytes },
            Packet::Mailbox { len_bytes },
            Packet::Rung,
            Packet::Forget { id },
            Packet::Freed { len_bytes },
        ]
    }

    fn written(packet: &Packet<'_>) -> Vec<u8> {
        [&packet.encode_head(), packet.inline()].concat()
    }

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_shorter_or_longer() {
        for packet in all(b"payload") {
            let bytes = written(&packet);
            assert_eq!(Packet::decode(&bytes), Ok(packet));
            if packet.inline().is_empty() {
                assert!(Packet::decode(&bytes[..bytes.len() - 1]).is_err(), "{packet:?}");
                assert!(Packet::decode(&[&bytes[..], &[0]].concat()).is_err(), "{packet:?}");
            }
        }
    }

    #[test]
    fn what_is_inline_is_limited_from_both_sides() {
        let most = vec![1; PACKET_INLINE_BYTES_MAX];
        assert_eq!(Packet::decode(&written(&Packet::More(&most))), Ok(Packet::More(&most)));
        let over = vec![1; PACKET_INLINE_BYTES_MAX + 1];
        assert!(matches!(Packet::decode(&written(&Packet::More(&over))), Err(PacketError::Length { .. })));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_packet_that_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(written(&packet), bytes);
            }
        }
    }
}

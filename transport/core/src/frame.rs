//! The 48-byte header in front of everything that crosses a link.
//!
//! Little endian: magic `u32`, version `u8`, kind `u8`, lane `u8`, attempt `u8`, region `u64`, offset `u64`,
//! transfer `u64`, length `u32`, payload CRC-32C `u32`, header CRC-32C `u32`, reserved `u32`.

use crate::limits::{
    CHUNK_BYTES_MAX, FRAME_HEADER_BYTES, GREETING_BYTES_MAX, LINK_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use crate::{Lane, integrity};

/// The version of the wire format; both ends must speak the same.
pub const VERSION: u8 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"xfer");
const HEADER_CRC_AT: usize = 40;

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A chunk: `len` bytes for `offset` of `region`, of `transfer`.
    Data = 1,
    /// An application message: `region` is its channel, `transfer` its number in the channel.
    Message = 2,
    /// A message between paths ([`crate::message::LinkMessage`]): `transfer` is its number.
    Link = 3,
    /// A message between links ([`crate::message::Greeting`]), before anything else and at the end.
    Greeting = 4,
    /// A sign of life, with what was received ([`crate::message::Received`]). On a link that is for these alone, `transfer` is
    /// 1 while threads of the sender's other links are held up, so that their silence is not taken for a broken link.
    Beat = 5,
}

impl FrameKind {
    fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Data,
            2 => Self::Message,
            3 => Self::Link,
            4 => Self::Greeting,
            5 => Self::Beat,
            _ => return None,
        })
    }

    /// The longest payload of this kind, in bytes.
    pub const fn len_bytes_max(self) -> u32 {
        match self {
            Self::Data => CHUNK_BYTES_MAX,
            Self::Message => MESSAGE_BYTES_MAX,
            Self::Link | Self::Beat => LINK_MESSAGE_BYTES_MAX,
            Self::Greeting => GREETING_BYTES_MAX,
        }
    }
}

/// A parsed header: its length is within the limit of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What follows.
    pub kind: FrameKind,
    /// The lane it was scheduled on.
    pub lane: Lane,
    /// How often a chunk was sent before: a later copy takes the place of an earlier one that still arrives.
    pub attempt: u8,
    /// The grant that a chunk is for; a message's channel.
    pub region: u64,
    /// Where in the region a chunk goes, in bytes.
    pub offset: u64,
    /// The transfer a chunk belongs to; a message's number.
    pub transfer: u64,
    /// Bytes that follow the header.
    pub len_bytes: u32,
    /// CRC-32C of those bytes.
    pub payload_crc32c: u32,
}

/// Why bytes are not a frame header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer than 48 bytes.
    #[error("a frame header has 48 bytes, got {0}")]
    Short(usize),
    /// The peer doesn't speak this protocol.
    #[error("not an xfer frame (it starts with {0:#010x})")]
    Magic(u32),
    /// The peer speaks another version.
    #[error("wire version {0}, this build speaks {VERSION}: run the same xfer on all ranks")]
    Version(u8),
    /// The header was damaged on the way.
    #[error("damaged frame header (checksum {got:#010x}, expected {expected:#010x})")]
    Checksum {
        /// What the header says.
        got: u32,
        /// What its bytes give.
        expected: u32,
    },
    /// A kind that this version doesn't have.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A lane that this version doesn't have.
    #[error("unknown lane {0}")]
    Lane(u8),
    /// Reserved bits that must be zero.
    #[error("reserved bits are set in a frame header")]
    Reserved,
    /// The payload is longer than its kind allows.
    #[error("a {kind:?} frame of {len_bytes} bytes is over its limit")]
    Length {
        /// The kind.
        kind: FrameKind,
        /// The length it claims, in bytes.
        len_bytes: u32,
    },
}

impl FrameHeader {
    /// A header of `kind` whose other fields are zero, for `payload`.
    pub fn for_payload(kind: FrameKind, payload: &[u8]) -> Self {
        Self {
            kind,
            lane: Lane::Control,
            attempt: 0,
            region: 0,
            offset: 0,
            transfer: 0,
            len_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc32c: integrity::crc32c(payload),
        }
    }

    /// The bytes for the wire.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[6] = self.lane as u8;
        bytes[7] = self.attempt;
        bytes[8..16].copy_from_slice(&self.region.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.transfer.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_crc32c.to_le_bytes());
        let checksum = header_checksum(&bytes);
        bytes[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header from the first 48 of `bytes`.
    ///
    /// Magic and version are judged before the checksum, so that a peer of another kind or version is refused by
    /// name and not as damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(FrameError::Short(bytes.len()));
        };
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        if bytes[4] != VERSION {
            return Err(FrameError::Version(bytes[4]));
        }
        let (got, expected) = (u32_at(bytes, HEADER_CRC_AT), header_checksum(bytes));
        if got != expected {
            return Err(FrameError::Checksum { got, expected });
        }
        let kind = FrameKind::from_wire(bytes[5]).ok_or(FrameError::Kind(bytes[5]))?;
        let lane = Lane::from_wire(bytes[6]).ok_or(FrameError::Lane(bytes[6]))?;
        if u32_at(bytes, 44) != 0 {
            return Err(FrameError::Reserved);
        }
        let len_bytes = u32_at(bytes, 32);
        if len_bytes > kind.len_bytes_max() {
            return Err(FrameError::Length { kind, len_bytes });
        }
        Ok(Self {
            kind,
            lane,
            attempt: bytes[7],
            region: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            transfer: u64_at(bytes, 24),
            len_bytes,
            payload_crc32c: u32_at(bytes, 36),
        })
    }
}

/// Covers everything but itself; the reserved field after it is required to be zero.
fn header_checksum(bytes: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    integrity::crc32c(&bytes[..HEADER_CRC_AT])
}

fn u32_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = FrameHeader> {
        (1_u8..=5, 0_u8..4, any::<u8>(), any::<[u64; 3]>(), any::<[u32; 2]>()).prop_map(
            |(kind, lane, attempt, [region, offset, transfer], [len, payload_crc32c])| {
                let kind = FrameKind::from_wire(kind).expect("a known kind");
                FrameHeader {
                    kind,
                    lane: Lane::from_wire(lane).expect("a known lane"),
                    attempt,
                    region,
                    offset,
                    transfer,
                    len_bytes: len % (kind.len_bytes_max() + 1),
                    payload_crc32c,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(header in header()) {
            prop_assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn any_flipped_bit_is_noticed(header in header(), bit in 0_usize..FRAME_HEADER_BYTES * 8) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(FrameHeader::decode(&bytes).is_err());
        }

        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            prop_assert!(FrameHeader::decode(&bytes).is_err());
        }
    }

    #[test]
    fn another_version_is_refused_by_name_even_if_its_layout_differs() {
        let mut bytes = [0xff; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = VERSION + 1;
        assert_eq!(FrameHeader::decode(&bytes), Err(FrameError::Version(VERSION + 1)));
    }

    #[test]
    fn lengths_are_limited_per_kind_from_both_sides() {
        for kind in [FrameKind::Data, FrameKind::Message, FrameKind::Link, FrameKind::Greeting, FrameKind::Beat] {
            let mut header = FrameHeader::for_payload(kind, b"");
            header.len_bytes = kind.len_bytes_max();
            assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
            header.len_bytes += 1;
            assert_eq!(
                FrameHeader::decode(&header.encode()),
                Err(FrameError::Length { kind, len_bytes: header.len_bytes })
            );
        }
    }

    #[test]
    fn the_layout_on_the_wire_is_fixed() {
        let header = FrameHeader {
            kind: FrameKind::Data,
            lane: Lane::Rescue,
            attempt: 3,
            region: 0x1122_3344_5566_7788,
            offset: 4096,
            transfer: 7,
            len_bytes: 1 << 20,
            payload_crc32c: 0xdead_beef,
        };
        let hex: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            &hex[..80],
            "786665720101020388776655443322110010000000000000\
             070000000000000000001000efbeadde"
        );
    }
}

//! The messages of tagged sends and receives: a receiver announces where the bytes may go, a sender says when they are there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use xfer_transport_core::RegionId;

use super::TAG_LEN_MAX_BYTES;

/// One message between two ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The receiver waits for `tag`: the sender may write `len_bytes` bytes into `region`.
    Want { id: u64, region: RegionId, len_bytes: u64, tag: String },
    /// The receiver no longer waits.
    Unwant { id: u64 },
    /// All bytes of `id` are applied and verified.
    Done { id: u64 },
    /// The sender can't fill `id`.
    Gone { id: u64, reason: Gone },
}

/// Why a sender can't fill what its receiver waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// The sender posted another size under this tag.
    Size { sender_bytes: u64 },
    /// The sender cancelled, expired or lost its link in the middle.
    Stopped,
}

/// Bytes that are no tagged message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a tagged message: {0}")]
pub(super) struct DecodeError(&'static str);

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Self::Want { id, region, len_bytes, tag } => {
                out.put_u8(1);
                out.put_u64_le(*id);
                out.put_u64_le(region.0);
                out.put_u64_le(*len_bytes);
                out.put_slice(tag.as_bytes());
            }
            Self::Unwant { id } => {
                out.put_u8(2);
                out.put_u64_le(*id);
            }
            Self::Done { id } => {
                out.put_u8(3);
                out.put_u64_le(*id);
            }
            Self::Gone { id, reason } => {
                out.put_u8(4);
                out.put_u64_le(*id);
                match reason {
                    Gone::Size { sender_bytes } => {
                        out.put_u8(1);
                        out.put_u64_le(*sender_bytes);
                    }
                    Gone::Stopped => {
                        out.put_u8(2);
                        out.put_u64_le(0);
                    }
                }
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() < 9 {
            return Err(DecodeError("shorter than a kind and an id"));
        }
        let kind = bytes.get_u8();
        let id = bytes.get_u64_le();
        let message = match kind {
            1 => {
                if bytes.len() < 16 {
                    return Err(DecodeError("a want without a region"));
                }
                let region = RegionId(bytes.get_u64_le());
                let len_bytes = bytes.get_u64_le();
                if bytes.len() > TAG_LEN_MAX_BYTES {
                    return Err(DecodeError("its tag is too long"));
                }
                let tag = std::str::from_utf8(bytes).map_err(|_| DecodeError("its tag is not UTF-8"))?;
                return Ok(Self::Want { id, region, len_bytes, tag: tag.to_owned() });
            }
            2 => Self::Unwant { id },
            3 => Self::Done { id },
            4 => {
                if bytes.len() < 9 {
                    return Err(DecodeError("a refusal without its reason"));
                }
                let reason = match bytes.get_u8() {
                    1 => Gone::Size { sender_bytes: bytes.get_u64_le() },
                    2 => {
                        bytes.advance(8);
                        Gone::Stopped
                    }
                    _ => return Err(DecodeError("an unknown reason")),
                };
                Self::Gone { id, reason }
            }
            _ => return Err(DecodeError("an unknown kind")),
        };
        if bytes.is_empty() { Ok(message) } else { Err(DecodeError("bytes after its end")) }
    }
}

/// Whether bytes are a message; if so, it is the same after it was written and read again.
pub(crate) fn comes_back(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else { return false };
    assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire_and_no_prefix_or_extension_does() {
        let messages = [
            Message::Want { id: 7, region: RegionId(u64::MAX), len_bytes: 1 << 40, tag: "s1/m2/b4/fwd".into() },
            Message::Unwant { id: 1 },
            Message::Done { id: u64::MAX },
            Message::Gone { id: 3, reason: Gone::Size { sender_bytes: 9 } },
            Message::Gone { id: 3, reason: Gone::Stopped },
        ];
        for message in messages {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message.clone()));
            if !matches!(message, Message::Want { .. }) {
                let mut longer = bytes.to_vec();
                longer.push(0);
                assert!(Message::decode(&longer).is_err());
            }
            assert!(Message::decode(&bytes[..8]).is_err());
        }
    }

    #[test]
    fn a_tag_beyond_its_limit_or_not_text_is_refused() {
        let want = |tag: &[u8]| {
            let mut bytes = vec![1];
            bytes.extend([0; 24]);
            bytes.extend(tag);
            Message::decode(&bytes)
        };
        assert!(want(&vec![b'a'; TAG_LEN_MAX_BYTES]).is_ok());
        assert!(want(&vec![b'a'; TAG_LEN_MAX_BYTES + 1]).is_err());
        assert!(want(&[0xff]).is_err());
        assert!(Message::decode(&[9; 9]).is_err());
    }
}

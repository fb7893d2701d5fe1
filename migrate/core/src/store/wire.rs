//! How store and clients talk: a greeting each way, then one request and one answer at a time.
//!
//! ```text
//! client → store   "xfer store" | version u16 | reserved u32                      16 bytes
//! store → client   "xfer store" | version u16 | verdict u32 | life u64            24 bytes
//! either           body length u32 | crc32c of the body u32 | body                a frame
//! ```
//!
//! All numbers are little endian. The name comes first in both directions, so that a client that reached something
//! else, or something else that reached a store, is told apart in the first bytes.

use std::time::Duration;

use bytes::Bytes;

use super::{Refusal, Swap, SwapRequest, Token, Version, Versioned, limits};
use crate::codec::{DecodeError, Reader, Writer};

/// The protocol's name, the first bytes in both directions.
pub const NAME: &[u8; 10] = b"xfer store";

/// The one version that this build speaks.
pub const VERSION: u16 = 1;

/// Length of a client's greeting.
pub const HELLO_BYTES: usize = 16;

/// Length of the store's greeting.
pub const WELCOME_BYTES: usize = 24;

/// Length of what comes before a frame's body.
pub const FRAME_HEAD_BYTES: usize = 8;

/// Why a greeting is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GreetingError {
    /// It isn't this protocol at all.
    #[error("it does not speak the `xfer store` protocol")]
    NotThisProtocol,
    /// It is another version of it.
    #[error("it speaks version {theirs} of the `xfer store` protocol, this is version {VERSION}")]
    OtherVersion {
        /// The version it speaks.
        theirs: u16,
    },
    /// It has no room for another client.
    #[error("it serves as many clients as it can; close some, or wait")]
    Full,
}

/// Why a frame can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It announces more than a frame holds.
    #[error("a frame of {len_bytes} bytes is too long; at most {} are taken", limits::FRAME_BODY_BYTES_MAX)]
    TooLong {
        /// What it announces.
        len_bytes: u64,
    },
    /// Its checksum differs.
    #[error("the frame's checksum is {found:08x}, its bytes give {computed:08x}")]
    Damaged {
        /// What its head says.
        found: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// Its body can't be understood.
    #[error(transparent)]
    Body(#[from] DecodeError),
}

/// A client's greeting.
pub fn hello() -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..10].copy_from_slice(NAME);
    bytes[10..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Judges the bytes of a greeting that are there so far; none when more are needed.
///
/// A client that speaks something else is recognised by its first wrong byte, not only once 16 have come.
pub fn read_hello(bytes: &[u8]) -> Option<Result<(), GreetingError>> {
    let common = bytes.len().min(NAME.len());
    if bytes[..common] != NAME[..common] {
        return Some(Err(GreetingError::NotThisProtocol));
    }
    let hello = bytes.first_chunk::<HELLO_BYTES>()?;
    match u16::from_le_bytes([hello[10], hello[11]]) {
        VERSION => Some(Ok(())),
        theirs => Some(Err(GreetingError::OtherVersion { theirs })),
    }
}

/// The store's greeting: which life of the store this is, or why the client isn't served.
pub fn welcome(verdict: Result<u64, GreetingError>) -> [u8; WELCOME_BYTES] {
    let (verdict, life): (u32, u64) = match verdict {
        Ok(life) => (0, life),
        Err(GreetingError::NotThisProtocol) => (1, 0),
        Err(GreetingError::OtherVersion { .. }) => (2, 0),
        Err(GreetingError::Full) => (3, 0),
    };
    let mut bytes = [0; WELCOME_BYTES];
    bytes[..10].copy_from_slice(NAME);
    bytes[10..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&verdict.to_le_bytes());
    bytes[16..].copy_from_slice(&life.to_le_bytes());
    bytes
}

/// The life of the store that greets, or why it doesn't serve this client.
pub fn read_welcome(bytes: &[u8; WELCOME_BYTES]) -> Result<u64, GreetingError> {
    if !bytes.starts_with(NAME) {
        return Err(GreetingError::NotThisProtocol);
    }
    let theirs = u16::from_le_bytes([bytes[10], bytes[11]]);
    let verdict = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    let [.., a, b, c, d, e, f, g, h] = *bytes;
    match verdict {
        3 => Err(GreetingError::Full),
        _ if theirs != VERSION => Err(GreetingError::OtherVersion { theirs }),
        0 => Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(GreetingError::NotThisProtocol),
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What does the key hold? Answered by [`Answer::Value`].
    Get {
        /// The key.
        key: String,
    },
    /// Replace a value. Answered by [`Answer::Swapped`].
    Swap(SwapRequest),
    /// What does the key hold, once it is newer than this? Answered by [`Answer::Value`], empty when time is up.
    Wait {
        /// The key.
        key: String,
        /// The version that is known already.
        newer_than: Version,
        /// How long to wait; the store waits at most [`limits::WAIT_MAX`].
        timeout: Duration,
    },
    /// What do the keys with this beginning hold? Answered by [`Answer::Page`].
    List {
        /// How the keys begin.
        prefix: String,
        /// The last key of the page before; empty for the first page.
        after: String,
    },
}

/// What the store answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value, if there is one.
    Value(Option<Versioned>),
    /// What became of a swap.
    Swapped(Swap),
    /// Some entries of a listing, in the order of their keys.
    Page {
        /// Keys and values.
        entries: Vec<(String, Versioned)>,
        /// Whether there are entries after these.
        more: bool,
    },
    /// Why the store didn't do what it was asked.
    Refused(Refusal),
}

impl Request {
    /// Appends the request as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |writer| match self {
            Self::Get { key } => {
                writer.u8(1);
                writer.bytes(key.as_bytes());
            }
            Self::Swap(swap) => {
                writer.u8(2);
                writer.bytes(swap.key.as_bytes());
                writer.u64(swap.expected.0);
                writer.u64(swap.token.client);
                writer.u64(swap.token.sequence);
                writer.u8(swap.again.into());
                writer.bytes(&swap.value);
            }
            Self::Wait { key, newer_than, timeout } => {
                writer.u8(3);
                writer.bytes(key.as_bytes());
                writer.u64(newer_than.0);
                writer.u32(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
            }
            Self::List { prefix, after } => {
                writer.u8(4);
                writer.bytes(prefix.as_bytes());
                writer.bytes(after.as_bytes());
            }
        });
    }

    /// The request of a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match reader.u8("the kind of request")? {
            1 => Self::Get { key: key(&mut reader, "the key")? },
            2 => Self::Swap(SwapRequest {
                key: key(&mut reader, "the key")?,
                expected: Version(reader.u64("the expected version")?),
                token: Token { client: reader.u64("the client")?, sequence: reader.u64("the sequence")? },
                again: reader.bool("whether it was asked before")?,
                value: reader.bytes("the value", limits::VALUE_LEN_BYTES_MAX)?,
            }),
            3 => Self::Wait {
                key: key(&mut reader, "the key")?,
                newer_than: Version(reader.u64("the known version")?),
                timeout: Duration::from_millis(reader.u32("the timeout")?.into()),
            },
            4 => Self::List { prefix: key(&mut reader, "the prefix")?, after: key(&mut reader, "the last key")? },
            number => return Err(DecodeError::Unknown { field: "the kind of request", number: number.into() }),
        };
        reader.end()?;
        Ok(request)
    }
}

impl Answer {
    /// Appends the answer as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |writer| match self {
            Self::Value(None) => writer.u8(1),
            Self::Value(Some(found)) => {
                writer.u8(2);
                put_versioned(writer, found);
            }
            Self::Swapped(Swap::Won(version)) => {
                writer.u8(3);
                writer.u64(version.0);
            }
            Self::Swapped(Swap::Lost(found)) => {
                writer.u8(4);
                put_versioned(writer, found);
            }
            Self::Page { entries, more } => {
                writer.u8(5);
                writer.u8((*more).into());
                writer.list(entries, |writer, (key, found)| {
                    writer.bytes(key.as_bytes());
                    put_versioned(writer, found);
                });
            }
            Self::Refused(refusal) => {
                writer.u8(6);
                put_refusal(writer, refusal);
            }
        });
    }

    /// The answer of a frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let answer = match reader.u8("the kind of answer")? {
            1 => Self::Value(None),
            2 => Self::Value(Some(versioned(&mut reader)?)),
            3 => Self::Swapped(Swap::Won(Version(reader.u64("the version")?))),
            4 => Self::Swapped(Swap::Lost(versioned(&mut reader)?)),
            5 => page(&mut reader)?,
            6 => Self::Refused(refusal(&mut reader)?),
            number => return Err(DecodeError::Unknown { field: "the kind of answer", number: number.into() }),
        };
        reader.end()?;
        Ok(answer)
    }
}

/// How long the body of a frame is, of its first [`FRAME_HEAD_BYTES`]: checked before anything is allocated for it.
pub fn body_len_bytes(head: [u8; FRAME_HEAD_BYTES]) -> Result<usize, FrameError> {
    let len_bytes = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if len_bytes as usize > limits::FRAME_BODY_BYTES_MAX {
        return Err(FrameError::TooLong { len_bytes: len_bytes.into() });
    }
    Ok(len_bytes as usize)
}

/// Checks a body against the checksum in its head.
pub fn check_body(head: [u8; FRAME_HEAD_BYTES], body: &[u8]) -> Result<(), FrameError> {
    let found = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let computed = crc32c::crc32c(body);
    if found != computed {
        return Err(FrameError::Damaged { found, computed });
    }
    Ok(())
}

/// Bytes of a page's body before its entries: kind, whether more follows, their number.
pub(super) const PAGE_HEAD_BYTES: usize = 1 + 1 + 4;

/// Bytes of an entry beside key and value: both lengths, version and age.
const ENTRY_HEAD_BYTES: usize = 4 + 4 + 8 + 4;

/// Bytes that one entry takes of a page.
pub(super) fn entry_bytes(key: &str, value: &Bytes) -> usize {
    ENTRY_HEAD_BYTES + key.len() + value.len()
}

fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer)) {
    let mut writer = Writer::default();
    write(&mut writer);
    let body = writer.into_bytes();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
}

fn key(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    reader.text(field, limits::KEY_LEN_BYTES_MAX).map(str::to_owned)
}

fn put_versioned(writer: &mut Writer, found: &Versioned) {
    writer.u64(found.version.0);
    // 49 days of milliseconds; what is older is old enough.
    writer.u32(u32::try_from(found.age.as_millis()).unwrap_or(u32::MAX));
    writer.bytes(&found.value);
}

fn versioned(reader: &mut Reader<'_>) -> Result<Versioned, DecodeError> {
    Ok(Versioned {
        version: Version(reader.u64("the version")?),
        age: Duration::from_millis(reader.u32("the age")?.into()),
        value: reader.bytes("the value", limits::VALUE_LEN_BYTES_MAX)?,
    })
}

fn page(reader: &mut Reader<'_>) -> Result<Answer, DecodeError> {
    let more = reader.bool("whether more follows")?;
    let entries = reader.list("the entries", limits::LIST_PAGE_ENTRIES_MAX, ENTRY_HEAD_BYTES, |reader| {
        Ok((key(reader, "a key")?, versioned(reader)?))
    })?;
    Ok(Answer::Page { entries, more })
}

fn put_refusal(writer: &mut Writer, refusal: &Refusal) {
    match refusal {
        Refusal::InvalidKey => writer.u8(1),
        Refusal::ValueTooLong { len_bytes } => numbered(writer, 2, *len_bytes),
        Refusal::TooManyKeys { keys_max } => numbered(writer, 3, *keys_max),
        Refusal::OutOfBytes { total_bytes_max } => numbered(writer, 4, *total_bytes_max),
        Refusal::NeverWritten { expected } => numbered(writer, 5, expected.0),
        Refusal::Forgotten => writer.u8(6),
        Refusal::Busy => writer.u8(7),
        Refusal::Malformed(text) => {
            writer.u8(8);
            writer.text(text, limits::TEXT_LEN_BYTES_MAX);
        }
    }
}

fn numbered(writer: &mut Writer, code: u8, number: u64) {
    writer.u8(code);
    writer.u64(number);
}

fn refusal(reader: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    Ok(match reader.u8("the refusal")? {
        1 => Refusal::InvalidKey,
        2 => Refusal::ValueTooLong { len_bytes: reader.u64("the length")? },
        3 => Refusal::TooManyKeys { keys_max: reader.u64("the limit")? },
        4 => Refusal::OutOfBytes { total_bytes_max: reader.u64("the limit")? },
        5 => Refusal::NeverWritten { expected: Version(reader.u64("the expected version")?) },
        6 => Refusal::Forgotten,
        7 => Refusal::Busy,
        8 => Refusal::Malformed(reader.text("the reason", limits::TEXT_LEN_BYTES_MAX)?.to_owned()),
        number => return Err(DecodeError::Unknown { field: "the refusal", number: number.into() }),
    })
}

#[cfg(test)]
mod tests;

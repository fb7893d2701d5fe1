//! What a store writes down so that it can be started again: each write before anybody hears of it.
//!
//! ```text
//! head     "xfer journal" | version u16 | reserved u16 | life u64 | clock 16 bytes | ahead u64 | crc32c u32
//! record   body length u32 | crc32c of the rest u32 | durable u64 | body
//! body     1 | key | value | version | client | sequence | written       a write
//!          2 | client | sequence | version                               a write that was overwritten, which is remembered
//!          3 | version                                                   the newest that isn't remembered any more
//! ```
//!
//! All numbers are little endian, times in nanoseconds of the store's clock. `durable` says how much of the journal was
//! known to be on the disk when the record was written. It tells two kinds of damage apart. What a crash tore off was
//! never answered for, and is cut. But a damaged record that a later one knew to be on the disk *was* answered for: then
//! nothing is guessed, and the journal is refused.

use xfer_transport_core::Time;

use super::state::{Refusal, StateLimits, StoreState, Written};
use super::{Token, Version, limits};
use crate::codec::{DecodeError, Reader, Writer};

/// The first bytes of a journal.
const NAME: &[u8; 12] = b"xfer journal";

/// The one version that this build reads and writes.
const VERSION: u16 = 1;

/// Length of a head.
pub const HEAD_BYTES: usize = 12 + 2 + 2 + 8 + 16 + 8 + 4;

/// Length of what comes before a record's body.
const RECORD_HEAD_BYTES: usize = 4 + 4 + 8;

/// What is true of a whole journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which store it is of: clients know it by this number, however often it is started again.
    pub life: u64,
    /// Which clock of the machine times are of; opaque here.
    pub clock: [u8; 16],
    /// What the store's clock is ahead of that one, in nanoseconds.
    pub ahead_ns: u64,
}

/// One thing that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A swap won.
    Written(Written),
    /// A swap had won before its key was overwritten.
    Remembered(Token, Version),
    /// Overwritten writes up to this one may not be remembered.
    Forgotten(Version),
}

/// Why a journal can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It begins with something else.
    #[error("it is not the journal of a store")]
    NotAJournal,
    /// Another version of this program wrote it.
    #[error("it was written in version {theirs} of the format, this is version {VERSION}")]
    OtherVersion {
        /// Its version.
        theirs: u16,
    },
    /// Its head is damaged.
    #[error("its head is damaged")]
    DamagedHead,
    /// Something that was on the disk is damaged.
    #[error(
        "it is damaged at byte {at}, and what stands there had been answered for; \
         use a copy, or begin with another journal and restart the processes of the job"
    )]
    Damaged {
        /// Where the first damaged record begins.
        at: u64,
    },
    /// A whole record makes no sense after those before it.
    #[error("what it holds at byte {at} can't be: {reason}")]
    Senseless {
        /// Where the record begins.
        at: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a journal held.
#[derive(Debug)]
pub struct Recovered {
    /// Its head.
    pub head: Head,
    /// The store as it was.
    pub state: StoreState,
    /// How much of it is whole. What follows was torn off by a crash: it has to be cut before more is written.
    pub whole_bytes: u64,
    /// The store's clock at the latest write.
    pub latest: Time,
}

/// Writes records; knows how much of them is on the disk.
#[derive(Debug)]
pub struct Journal {
    durable_bytes: u64,
    written_bytes: u64,
}

impl Head {
    /// As the beginning of a journal.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut writer = Writer::default();
        writer.array(NAME);
        writer.array(&VERSION.to_le_bytes());
        writer.array(&[0; 2]);
        writer.u64(self.life);
        writer.array(&self.clock);
        writer.u64(self.ahead_ns);
        let fields = writer.into_bytes();
        let mut head = [0; HEAD_BYTES];
        head[..HEAD_BYTES - 4].copy_from_slice(&fields);
        head[HEAD_BYTES - 4..].copy_from_slice(&crc32c::crc32c(&fields).to_le_bytes());
        head
    }

    fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        if !bytes.starts_with(NAME) {
            return Err(JournalError::NotAJournal);
        }
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or(JournalError::DamagedHead)?;
        let (fields, crc) = head.split_at(HEAD_BYTES - 4);
        let mut reader = Reader::new(&fields[NAME.len()..]);
        let read = |reader: &mut Reader<'_>| -> Result<(u16, Self), DecodeError> {
            let theirs = u16::from_le_bytes(reader.array("the version")?);
            reader.array::<2>("the reserved bytes")?;
            let life = reader.u64("the life")?;
            Ok((theirs, Self { life, clock: reader.array("the clock")?, ahead_ns: reader.u64("the offset")? }))
        };
        let (theirs, found) = read(&mut reader).map_err(|_| JournalError::DamagedHead)?;
        if theirs != VERSION {
            return Err(JournalError::OtherVersion { theirs });
        }
        if crc32c::crc32c(fields).to_le_bytes() != crc {
            return Err(JournalError::DamagedHead);
        }
        Ok(found)
    }
}

impl Journal {
    /// Of a journal of which so many bytes are whole and on the disk.
    pub fn of(durable_bytes: u64) -> Self {
        Self { durable_bytes, written_bytes: durable_bytes }
    }

    /// A journal from its beginning: a head, and all that a store holds.
    pub fn begin(head: &Head, state: &StoreState) -> (Self, Vec<u8>) {
        let mut journal = Self::of(0);
        let mut bytes = head.encode().to_vec();
        journal.written_bytes = bytes.len() as u64;
        for record in state.records() {
            journal.append(&record, &mut bytes);
        }
        (journal, bytes)
    }

    /// Puts the bytes of a record behind `out`, to be written at the end of the journal.
    pub fn append(&mut self, record: &Record, out: &mut Vec<u8>) {
        let body = record.encode();
        let mut rest = Vec::with_capacity(8 + body.len());
        rest.extend_from_slice(&self.durable_bytes.to_le_bytes());
        rest.extend_from_slice(&body);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&rest).to_le_bytes());
        out.extend_from_slice(&rest);
        self.written_bytes += (RECORD_HEAD_BYTES + body.len()) as u64;
    }

    /// All that was appended is on the disk.
    pub fn synced(&mut self) {
        self.durable_bytes = self.written_bytes;
    }

    /// How long it is.
    pub fn len_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// How much of it is known to be on the disk.
    pub fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }
}

/// The store that a journal describes.
pub fn recover(bytes: &[u8], limits: StateLimits) -> Result<Recovered, JournalError> {
    let head = Head::decode(bytes)?;
    let mut state = StoreState::new(limits);
    let mut at = HEAD_BYTES;
    let mut latest = Time::ZERO;
    while let Some(found) = record_at(bytes, at) {
        let senseless = |reason: String| JournalError::Senseless { at: at as u64, reason };
        let record = Record::decode(found.body).map_err(|error| senseless(error.to_string()))?;
        if let Record::Written(written) = &record {
            latest = latest.max(written.at);
        }
        state.replay(record).map_err(|error| senseless(error.to_string()))?;
        at = found.end;
    }
    if was_durable(bytes, at) {
        return Err(JournalError::Damaged { at: at as u64 });
    }
    Ok(Recovered { head, state, whole_bytes: at as u64, latest })
}

struct Found<'a> {
    durable_bytes: u64,
    body: &'a [u8],
    end: usize,
}

/// A whole, undamaged record that begins at `at`.
fn record_at(bytes: &[u8], at: usize) -> Option<Found<'_>> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<RECORD_HEAD_BYTES>()?;
    let [a, b, c, d, ..] = *head;
    let len_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    if len_bytes > limits::FRAME_BODY_BYTES_MAX {
        return None;
    }
    let body = rest.get(..len_bytes)?;
    let [.., e, f, g, h, i, j, k, l] = *head;
    let durable_bytes = u64::from_le_bytes([e, f, g, h, i, j, k, l]);
    // No record knew of more than was before it. Asked first, since it costs nothing to look for others at each byte.
    if durable_bytes > at as u64 {
        return None;
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[8..]), body);
    (head[4..8] == sum.to_le_bytes()).then_some(Found { durable_bytes, body, end: at + RECORD_HEAD_BYTES + len_bytes })
}

/// Whether a record after `at` was written when what stands at `at` was on the disk.
fn was_durable(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len()).any(|later| {
        let knew = bytes.get(later + 8..later + RECORD_HEAD_BYTES).and_then(|knew| knew.first_chunk());
        let knew = knew.map_or(0, |knew| u64::from_le_bytes(*knew));
        knew > at as u64 && record_at(bytes, later).is_some_and(|found| found.durable_bytes > at as u64)
    })
}

impl Record {
    fn encode(&self) -> bytes::Bytes {
        let mut writer = Writer::default();
        match self {
            Self::Written(written) => {
                writer.u8(1);
                writer.bytes(written.key.as_bytes());
                writer.bytes(&written.value);
                writer.u64(written.version.0);
                put_token(&mut writer, written.token);
                writer.duration(written.at.since(Time::ZERO));
            }
            Self::Remembered(token, version) => {
                writer.u8(2);
                put_token(&mut writer, *token);
                writer.u64(version.0);
            }
            Self::Forgotten(version) => {
                writer.u8(3);
                writer.u64(version.0);
            }
        }
        writer.into_bytes()
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let record = match reader.u8("the kind of record")? {
            1 => Self::Written(Written {
                key: reader.text("the key", limits::KEY_LEN_BYTES_MAX)?.to_owned(),
                value: reader.bytes("the value", limits::VALUE_LEN_BYTES_MAX)?,
                version: Version(reader.u64("the version")?),
                token: token(&mut reader)?,
                at: Time::ZERO.after(reader.duration("the time")?),
            }),
            2 => Self::Remembered(token(&mut reader)?, Version(reader.u64("the version")?)),
            3 => Self::Forgotten(Version(reader.u64("the version")?)),
            number => return Err(DecodeError::Unknown { field: "the kind of record", number: number.into() }),
        };
        reader.end()?;
        Ok(record)
    }
}

fn put_token(writer: &mut Writer, token: Token) {
    writer.u64(token.client);
    writer.u64(token.sequence);
}

fn token(reader: &mut Reader<'_>) -> Result<Token, DecodeError> {
    Ok(Token { client: reader.u64("the client")?, sequence: reader.u64("the sequence")? })
}

/// Why a record can't follow those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Versions only grow.
    #[error("{version} follows {latest}")]
    Order {
        /// The record's version.
        version: Version,
        /// The latest before it.
        latest: Version,
    },
    /// The store would not have taken it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// More is remembered than may be.
    #[error("it remembers more than {max} overwritten writes")]
    TooManyRemembered {
        /// How many may be.
        max: usize,
    },
}

#[cfg(test)]
mod tests;

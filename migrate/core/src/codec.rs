//! Numbers, text and lists in a buffer, little endian, each length checked before anything is allocated.

use std::time::Duration;

use bytes::Bytes;

/// Why bytes from outside are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the bytes end inside {field}")]
    Truncated {
        /// Which field.
        field: &'static str,
    },
    /// A field is longer than it may be.
    #[error("{field} has a length of {len}; at most {max} is taken")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its announced length, in bytes or entries.
        len: u64,
        /// What would have been taken.
        max: u64,
    },
    /// A number has no meaning to this version.
    #[error("{field} {number} is not known to this version")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it held.
        number: u64,
    },
    /// Text isn't UTF-8.
    #[error("{field} is not UTF-8 text")]
    NotText {
        /// Which field.
        field: &'static str,
    },
    /// A field contradicts another one.
    #[error("{field} is inconsistent: {reason}")]
    Inconsistent {
        /// Which field.
        field: &'static str,
        /// How.
        reason: &'static str,
    },
    /// There are bytes after the last field.
    #[error("{len_bytes} bytes follow the last field")]
    Trailing {
        /// How many.
        len_bytes: u64,
    },
}

/// Appends fields to a buffer.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// A duration in nanoseconds; the longest that fits when it is longer.
    pub(crate) fn duration(&mut self, duration: Duration) {
        self.u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn array<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes with their length before them. What we write ourselves is within limits, so the length fits.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    /// Text, cut at a character where it would exceed `max_bytes`.
    pub(crate) fn text(&mut self, text: &str, max_bytes: usize) {
        self.bytes(cut(text, max_bytes).as_bytes());
    }

    /// How many entries there are, then each of them.
    pub(crate) fn list<T>(&mut self, entries: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.u32(entries.len() as u32);
        for entry in entries {
            write(self, entry);
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

/// The longest beginning of `text` that has at most `max_bytes`.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Takes fields off the front of bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn duration(&mut self, field: &'static str) -> Result<Duration, DecodeError> {
        Ok(Duration::from_nanos(self.u64(field)?))
    }

    /// A number that stands for false or true.
    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            number => Err(DecodeError::Unknown { field, number: number.into() }),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Bytes with their length before them. They are copied, so that a short value doesn't keep a long one alive.
    pub(crate) fn bytes(&mut self, field: &'static str, max_bytes: usize) -> Result<Bytes, DecodeError> {
        Ok(Bytes::copy_from_slice(self.slice(field, max_bytes)?))
    }

    pub(crate) fn text(&mut self, field: &'static str, max_bytes: usize) -> Result<&'a str, DecodeError> {
        let slice = self.slice(field, max_bytes)?;
        std::str::from_utf8(slice).map_err(|_| DecodeError::NotText { field })
    }

    /// At most `max` entries of at least `entry_bytes` each: more than the rest of the bytes can hold is refused
    /// before there is memory for them.
    pub(crate) fn list<T>(
        &mut self,
        field: &'static str,
        max: usize,
        entry_bytes: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let len = self.u32(field)?;
        if len as usize > max {
            return Err(DecodeError::TooLong { field, len: len.into(), max: max as u64 });
        }
        if (len as usize).saturating_mul(entry_bytes) > self.0.len() {
            return Err(DecodeError::Truncated { field });
        }
        let mut entries = Vec::with_capacity(len as usize);
        for _ in 0..len {
            entries.push(read(self)?);
        }
        Ok(entries)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing { len_bytes: left as u64 }),
        }
    }

    fn slice(&mut self, field: &'static str, max_bytes: usize) -> Result<&'a [u8], DecodeError> {
        let len_bytes = self.u32(field)?;
        if len_bytes as usize > max_bytes {
            return Err(DecodeError::TooLong { field, len: len_bytes.into(), max: max_bytes as u64 });
        }
        let (taken, rest) = self.0.split_at_checked(len_bytes as usize).ok_or(DecodeError::Truncated { field })?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_claims_more_than_is_there_is_refused_before_it_is_allocated() {
        let mut writer = Writer::default();
        writer.u32(1_000_000);
        writer.u64(1);
        let bytes = writer.into_bytes();
        let read = Reader::new(&bytes).list("ids", 2_000_000, 8, |reader| reader.u64("id"));
        assert_eq!(read, Err(DecodeError::Truncated { field: "ids" }));
        let read = Reader::new(&bytes).list("ids", 999_999, 8, |reader| reader.u64("id"));
        assert_eq!(read, Err(DecodeError::TooLong { field: "ids", len: 1_000_000, max: 999_999 }));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("größe", 4), "grö");
        assert_eq!(cut("größe", 3), "gr");
        assert_eq!(cut("größe", 99), "größe");
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.bool("flag"), Ok(true));
        assert_eq!(reader.bool("flag"), Err(DecodeError::Unknown { field: "flag", number: 2 }));
        assert_eq!(reader.end(), Err(DecodeError::Trailing { len_bytes: 1 }));
    }
}

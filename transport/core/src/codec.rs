//! Reading and writing of small bounded fields, shared by the messages and the ticket.

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends inside a field.
    #[error("ends inside `{0}`")]
    Short(&'static str),
    /// Bytes are left over.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A number that names nothing.
    #[error("unknown {what} {number}")]
    Unknown {
        /// What the number should name.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// A field over its limit.
    #[error("`{what}` has {count}, the limit is {limit}")]
    TooMany {
        /// The field.
        what: &'static str,
        /// What it claims.
        count: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Text that isn't UTF-8.
    #[error("`{0}` is not text")]
    NotText(&'static str),
    /// A checksum that doesn't fit.
    #[error("damaged: the checksum doesn't fit")]
    Checksum,
}

/// Takes fields off the front of received bytes.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short(what))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of items of `item_bytes` each: within `limit`, and all of them really there.
    pub(crate) fn count(&mut self, what: &'static str, limit: usize, item_bytes: usize) -> Result<usize, DecodeError> {
        let count = usize::from(self.u16(what)?);
        if count > limit {
            return Err(DecodeError::TooMany { what, count: count as u64, limit: limit as u64 });
        }
        if count * item_bytes > self.rest.len() {
            return Err(DecodeError::Short(what));
        }
        Ok(count)
    }

    /// Bytes with their length in front.
    pub(crate) fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.count(what, limit, 1)?;
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    /// Text with its length in front.
    pub(crate) fn text(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        let bytes = self.bytes(what, limit)?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::NotText(what))?;
        Ok(text.to_owned())
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// Appends `bytes`, cut at `limit`, with their length in front.
pub(crate) fn put_bytes(into: &mut Vec<u8>, bytes: &[u8], limit: usize) {
    let bytes = &bytes[..bytes.len().min(limit).min(usize::from(u16::MAX))];
    into.extend((bytes.len() as u16).to_le_bytes());
    into.extend(bytes);
}

/// Appends `text`, cut at the last whole character within `limit` bytes, with its length in front.
pub(crate) fn put_text(into: &mut Vec<u8>, text: &str, limit: usize) {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_bytes(into, &text.as_bytes()[..end], limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_believed_only_when_all_its_items_are_there() {
        let count = |item_bytes| Reader::new(&[2, 0, 1, 2, 3, 4, 5, 6, 7]).count("items", 2, item_bytes);
        assert_eq!(count(3), Ok(2));
        assert_eq!(count(4), Err(DecodeError::Short("items")), "seven bytes are not two items of four");
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let cut = |limit| {
            let mut bytes = Vec::new();
            put_text(&mut bytes, "aéé", limit);
            Reader::new(&bytes).text("text", 9)
        };
        for (limit, text) in [(0, ""), (1, "a"), (2, "a"), (3, "aé"), (4, "aé"), (5, "aéé"), (9, "aéé")] {
            assert_eq!(cut(limit), Ok(text.to_owned()), "{limit} bytes");
        }
    }
}

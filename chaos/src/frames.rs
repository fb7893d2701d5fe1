//! Cuts a stream of bytes into whole frames; what is no stream of frames passes as it comes.

use xfer_transport_core::frame::FrameHeader;
use xfer_transport_core::limits::FRAME_HEADER_BYTES;

/// Whole frames out of a stream. Holds one frame at most, which the transport bounds.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    bytes: Vec<u8>,
    /// Something else came: the store's protocol, or garbage.
    foreign: bool,
}

/// Something that passes as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What it says of itself, if it is a frame.
    pub(crate) header: Option<FrameHeader>,
    pub(crate) bytes: Vec<u8>,
}

impl Cutter {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next piece, once it is complete.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        if !self.foreign && self.bytes.len() >= FRAME_HEADER_BYTES {
            match FrameHeader::decode(&self.bytes) {
                Ok(header) => {
                    let len = FRAME_HEADER_BYTES + header.len_bytes as usize;
                    if self.bytes.len() < len {
                        return None;
                    }
                    let rest = self.bytes.split_off(len);
                    let bytes = std::mem::replace(&mut self.bytes, rest);
                    return Some(Piece { header: Some(header), bytes });
                }
                Err(_) => self.foreign = true,
            }
        }
        // What doesn't begin as a frame must not be kept waiting for 48 bytes. The store's protocol begins with "xfer", too.
        self.foreign |= self.bytes.iter().zip(b"xfer\x01").any(|(found, expected)| found != expected);
        if !self.foreign || self.bytes.is_empty() {
            return None;
        }
        Some(Piece { header: None, bytes: std::mem::take(&mut self.bytes) })
    }

    /// What is left at the end of the stream.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfer_transport_core::frame::FrameKind;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader::for_payload(FrameKind::Message, payload);
        [&header.encode()[..], payload].concat()
    }

    #[test]
    fn frames_come_whole_however_they_arrive() {
        let stream = [frame(b"one"), frame(b""), frame(b"three")].concat();
        for part in [1, 7, 48, stream.len()] {
            let mut cutter = Cutter::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(part) {
                cutter.push(bytes);
                found.extend(std::iter::from_fn(|| cutter.next()));
            }
            let lengths: Vec<u32> = found.iter().map(|piece| piece.header.expect("a frame").len_bytes).collect();
            assert_eq!(lengths, [3, 0, 5]);
            assert_eq!(found.iter().flat_map(|piece| piece.bytes.clone()).collect::<Vec<_>>(), stream);
        }
    }

    #[test]
    fn what_is_no_frame_passes_at_once_and_for_good() {
        let mut cutter = Cutter::default();
        cutter.push(b"xfer store");
        assert_eq!(cutter.next(), Some(Piece { header: None, bytes: b"xfer store".to_vec() }));
        cutter.push(&frame(b"x"));
        assert_eq!(cutter.next().and_then(|piece| piece.header), None);
        let mut cutter = Cutter::default();
        cutter.push(&frame(b"cut off")[..50]);
        assert_eq!(cutter.next(), None);
        assert_eq!(cutter.rest().len(), 50);
    }
}

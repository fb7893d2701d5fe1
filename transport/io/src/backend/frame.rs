//! The frame that arrives on a link, put together from whatever brings its bytes.

use bytes::{Bytes, BytesMut};
use xfer_transport_core::frame::{FrameHeader, FrameKind};

use super::LinkError;
use crate::intake::{Intake, Landing};

/// What of a frame has arrived. Backends that move a chunk's bytes in a way of their own count them in `at`, and then ask for the end.
pub(super) enum Frame {
    /// The next thing is a header.
    None,
    Chunk {
        len: usize,
        at: usize,
    },
    Message {
        header: FrameHeader,
        payload: BytesMut,
    },
}

impl Frame {
    /// Its header is there.
    pub(super) fn begin(&mut self, header: FrameHeader, intake: &mut Intake) -> Result<(), LinkError> {
        if !matches!(self, Self::None) {
            return Err(violation("a frame inside another"));
        }
        let len = header.len_bytes as usize;
        *self = if header.kind == FrameKind::Data {
            intake.begin_chunk(header)?;
            Self::Chunk { len, at: 0 }
        } else {
            intake.begin_message(&header)?;
            Self::Message { header, payload: BytesMut::with_capacity(len) }
        };
        Ok(())
    }

    /// Bytes of it that are still to come.
    pub(super) fn rest(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Chunk { len, at } => len - at,
            Self::Message { header, payload } => header.len_bytes as usize - payload.len(),
        }
    }

    /// Takes bytes of its payload and no others. It ends when they are all.
    pub(super) fn bytes(&mut self, bytes: &[u8], intake: &mut Intake) -> Result<(), LinkError> {
        let rest = self.rest();
        match self {
            Self::None => return Err(violation("bytes of no frame")),
            _ if bytes.len() > rest => return Err(violation("more bytes than the frame has")),
            Self::Chunk { .. } if bytes.is_empty() => {}
            Self::Chunk { at, .. } => {
                *at += intake.place(*at, |landing| {
                    if let Landing::Memory(memory) = landing {
                        memory.copy_from(*at, bytes);
                    }
                    Ok::<_, LinkError>(bytes.len())
                })?;
            }
            Self::Message { payload, .. } => payload.extend_from_slice(bytes),
        }
        self.end_if_whole(intake)
    }

    /// Hands it over if nothing of it is still to come.
    pub(super) fn end_if_whole(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        if self.rest() > 0 {
            return Ok(());
        }
        match std::mem::replace(self, Self::None) {
            Self::None => {}
            Self::Chunk { .. } => intake.finish_chunk(),
            Self::Message { header, payload } => {
                let payload: Bytes = payload.freeze();
                intake.message(header, payload)?;
            }
        }
        Ok(())
    }

    /// The rest of a chunk doesn't come.
    pub(super) fn abandon(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        match std::mem::replace(self, Self::None) {
            Self::Chunk { .. } => {
                intake.abandon_chunk();
                Ok(())
            }
            _ => Err(violation("the end of a chunk that did not begin")),
        }
    }
}

pub(super) fn violation(what: &str) -> LinkError {
    LinkError::Violation(what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use xfer_transport_core::path::LinkId;

    use super::*;
    use crate::grants::Grants;

    /// Takes whatever comes, and writes nothing.
    fn intake() -> Intake {
        let grants = Arc::new(Grants::new(Arc::default()));
        let mut intake = Intake::new(LinkId(0), Arc::default(), grants, Arc::default());
        intake.discard_all();
        intake
    }

    fn header(kind: FrameKind, payload: &[u8]) -> FrameHeader {
        FrameHeader::for_payload(kind, payload)
    }

    #[test]
    fn a_message_is_handed_over_once_it_is_whole_in_whatever_parts_it_came() {
        for payload in [&b"words"[..], b""] {
            for part_bytes in 1..=payload.len().max(1) {
                let (mut frame, mut intake) = (Frame::None, intake());
                frame.begin(header(FrameKind::Greeting, payload), &mut intake).expect("nothing was under way");
                assert!(frame.rest() == payload.len() && intake.messages.is_empty());
                for part in payload.chunks(part_bytes) {
                    frame.bytes(part, &mut intake).expect("it fits");
                }
                frame.end_if_whole(&mut intake).expect("it is not damaged");
                let got: Vec<&[u8]> = intake.messages.iter().map(|(_, payload)| &payload[..]).collect();
                assert_eq!(got, [payload]);
                assert!(matches!(frame, Frame::None));
            }
        }
    }

    #[test]
    fn a_frame_takes_no_byte_more_than_it_has_and_no_frame_inside_it() {
        for kind in [FrameKind::Greeting, FrameKind::Data] {
            let (mut frame, mut intake) = (Frame::None, intake());
            frame.begin(header(kind, b"1234"), &mut intake).expect("nothing was under way");
            assert!(frame.begin(header(kind, b"5"), &mut intake).is_err());
            frame.bytes(b"123", &mut intake).expect("it fits");
            assert!(frame.bytes(b"45", &mut intake).is_err());
            assert_eq!(frame.rest(), 1);
            frame.bytes(b"4", &mut intake).expect("it fits");
            assert!(frame.bytes(b"", &mut intake).is_err(), "it is over");
        }
    }

    #[test]
    fn only_a_chunk_is_abandoned() {
        let (mut frame, mut intake) = (Frame::None, intake());
        assert!(frame.abandon(&mut intake).is_err());
        frame.begin(header(FrameKind::Greeting, b"1"), &mut intake).expect("nothing was under way");
        assert!(frame.abandon(&mut intake).is_err());
        let mut frame = Frame::None;
        frame.begin(header(FrameKind::Data, b"12"), &mut intake).expect("nothing was under way");
        frame.bytes(b"1", &mut intake).expect("it fits");
        frame.abandon(&mut intake).expect("it had begun");
        frame.begin(header(FrameKind::Data, b"12"), &mut intake).expect("it is over");
    }
}

//! How a stream is cut into frames, for fuzz targets; no interface for programs.

use crate::frames::Cutter;

/// Cuts a stream that comes in parts of `part_bytes`: nothing is lost or added. It says whether a frame was in it.
pub fn cut(stream: &[u8], part_bytes: usize) -> bool {
    let mut cutter = Cutter::default();
    let mut passed = Vec::new();
    let mut frames = 0;
    for part in stream.chunks(part_bytes.max(1)) {
        cutter.push(part);
        while let Some(piece) = cutter.next() {
            frames += usize::from(piece.header.is_some());
            passed.extend(piece.bytes);
        }
    }
    passed.extend(cutter.rest());
    assert_eq!(passed, stream, "what passes is what came");
    frames > 0
}

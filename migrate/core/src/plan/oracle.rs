//! Exact answers for small cases, by trying everything: what plans are measured against.

/// A group as the exact search sees it: its bytes, and the nanoseconds that it takes to compute it again.
pub(super) type Piece = (u64, u64);

/// The soonest end of sending some pieces at `bytes_per_s` while the others are computed, when at most `room_bytes` are
/// sent.
pub(super) fn soonest_end_ns(pieces: &[Piece], bytes_per_s: u64, room_bytes: u64) -> u64 {
    let end = |bytes: u64, compute_ns: u64| (bytes <= room_bytes).then(|| send_ns(bytes, bytes_per_s).max(compute_ns));
    let ends = subsets(pieces).filter_map(|(sent, kept)| end(sent.0, kept.1));
    ends.min().expect("sending nothing is always possible")
}

/// The most nanoseconds of computing that `room_bytes` can save.
pub(super) fn most_saved_ns(pieces: &[Piece], room_bytes: u64) -> u64 {
    let saved = subsets(pieces).filter(|(sent, _)| sent.0 <= room_bytes).map(|(sent, _)| sent.1);
    saved.max().expect("sending nothing is always possible")
}

pub(super) fn send_ns(bytes: u64, bytes_per_s: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s)) as u64
}

/// Each way to divide the pieces in two, as the sums of both parts.
fn subsets(pieces: &[Piece]) -> impl Iterator<Item = (Piece, Piece)> {
    assert!(pieces.len() <= 16, "this is for small cases");
    (0_u32..1 << pieces.len()).map(move |chosen| {
        let sum = |inside: bool| {
            let parts = pieces.iter().enumerate().filter(|(at, _)| (chosen & (1 << at) != 0) == inside);
            parts.fold((0, 0), |sum: Piece, (_, piece)| (sum.0 + piece.0, sum.1 + piece.1))
        };
        (sum(true), sum(false))
    })
}

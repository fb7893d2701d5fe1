//! Exact answers for small cases, by trying everything: what plans are measured against.

use super::blocks::Parcel;
use super::ship::{Computing, Link, Piece as Shipped};

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

/// The most that any selection of `parcels` that holds all its needs saves with at most `room_bytes`.
pub(super) fn most_saved_by_closures_ns(parcels: &[Parcel], room_bytes: u64) -> u64 {
    let all = masks(parcels.len()).filter_map(|chosen| {
        let is_in = |place: &usize| chosen & (1 << place) != 0;
        let inside = || (0..parcels.len()).filter(is_in).map(|place| &parcels[place]);
        let closed = inside().all(|parcel| parcel.needs.iter().all(is_in));
        let bytes: u64 = inside().map(|parcel| parcel.bytes).sum();
        (closed && bytes <= room_bytes).then(|| inside().map(|parcel| parcel.saves_ns).sum())
    });
    all.max().expect("sending nothing is always possible")
}

/// The soonest end of all choices of what to send.
pub(super) fn soonest_end_of_all_ns(pieces: &[Shipped], link: Link, computing: Computing) -> u64 {
    let all = masks(pieces.len()).filter_map(|chosen| {
        let is_in = |place: &usize| chosen & (1 << place) != 0;
        let bytes: u64 = (0..pieces.len()).filter(is_in).map(|place| pieces[place].bytes).sum();
        let kept = || (0..pieces.len()).filter(|place| !is_in(place)).map(|place| &pieces[place]);
        let of_target = |target| kept().filter(|piece| piece.target == target).map(|piece| piece.saves_ns).sum();
        let compute_ns: u64 = kept().map(|piece| of_target(piece.target)).max().unwrap_or(0);
        let time_ns = |bytes| if bytes == 0 { 0 } else { send_ns(bytes, link.bytes_per_s) };
        let (sent_ns, free_ns) = (time_ns(bytes + link.ahead_bytes), time_ns(link.free_bytes));
        let end = match computing {
            Computing::Beside => sent_ns.max(free_ns + compute_ns),
            Computing::After => sent_ns.max(free_ns) + compute_ns,
        };
        (bytes <= link.room_bytes).then_some(end)
    });
    all.min().expect("sending nothing is always possible")
}

/// Each way to divide the pieces in two, as the sums of both parts.
fn subsets(pieces: &[Piece]) -> impl Iterator<Item = (Piece, Piece)> {
    masks(pieces.len()).map(move |chosen| {
        let sum = |inside: bool| {
            let parts = pieces.iter().enumerate().filter(|(at, _)| (chosen & (1 << at) != 0) == inside);
            parts.fold((0, 0), |sum: Piece, (_, piece)| (sum.0 + piece.0, sum.1 + piece.1))
        };
        (sum(true), sum(false))
    })
}

/// Each way to choose of `count` things, as bits.
fn masks(count: usize) -> impl Iterator<Item = u32> {
    assert!(count <= 16, "this is for small cases");
    0_u32..1 << count
}

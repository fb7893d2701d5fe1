//! What to send, of what could also be computed again, when the link's rate is known as an interval and a plan was made
//! before.

use xfer_transport_core::RateInterval;

use super::ship::{Choice, Computing, Ladder, Link, Piece};

/// Chooses which of `pieces`, which come by falling density, are sent; `before` says which of them the last plan sends.
///
/// What pays at the low end of the rate is sent, what doesn't pay at the high end isn't, and what is disputed between the
/// two stays as it was planned. A measured rate goes up and down all the time. With a plan for its middle, a moment in
/// which the link is quick puts pieces on it that are not whole when it is slow again: its time is gone, and they are
/// computed all the same.
///
/// So a new plan is never later than the one before at any rate within the interval, constant or not: what is added pays at
/// the lowest, what is left out at the highest. Where the link falls to a part `q` of the low end, it is later by `1/q - 1`
/// times what the plan before would compute, at most; where it rises above the high end, by what the plan before sends takes
/// there.
pub(super) fn choose(
    pieces: &[Piece],
    before: &[bool],
    rate: RateInterval,
    room_bytes: u64,
    computing: Computing,
) -> Choice {
    let ladder = Ladder::new(pieces);
    let link = |bytes_per_s| Link { bytes_per_s, ahead_bytes: 0, free_bytes: 0, room_bytes };
    let ends_of_rate = [link(rate.low), link(rate.high.max(rate.low))];
    let ends = |sent: &[bool]| ends_of_rate.map(|link| ladder.end_ns(sent, link, computing));
    let fits = |sent: &[bool]| ladder.bytes(sent) <= room_bytes;

    let surely = ladder.choose(ends_of_rate[0], computing).sent;
    let is_disputed = before.iter().zip(&surely).any(|(before, surely)| *before && !surely);
    // What doesn't fit any more is no plan to stay with.
    let stays = fits(before).then(|| ends(before));
    let is_never_later = |sent: &Vec<bool>| {
        let is_in_time = |before: [u64; 2]| ends(sent).iter().zip(before).all(|(end, before)| *end <= before);
        fits(sent) && stays.is_none_or(is_in_time)
    };
    let mut plans = Vec::with_capacity(3);
    if is_disputed && stays.is_some() {
        let possibly = ladder.choose(ends_of_rate[1], computing).sent;
        let stay = |at: usize| surely[at] || before[at] && possibly[at];
        plans.push((0..pieces.len()).map(stay).collect());
        plans.push(possibly);
    }
    plans.push(surely);
    let sent = plans.into_iter().find(is_never_later).unwrap_or_else(|| before.to_vec());
    ladder.judge(sent, link(rate.low.midpoint(rate.high)), computing)
}

#[cfg(test)]
mod tests;

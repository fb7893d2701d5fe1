//! What moves in a job of real processes: items whose bytes tell whose they are.

use std::time::Duration;

use xfer::Region;
use xfer::migrate::{Cost, ItemClass, Rescue};

use crate::Outcome;

/// State that lands while the link is slow, and state that doesn't.
pub const SMALL_BYTES: usize = 4 << 10;
pub const LARGE_BYTES: usize = 4 << 20;

/// Longer than it takes to send it: an activation that is worth sending, and can be had again.
const COMPUTE: Duration = Duration::from_secs(3600);

/// An irreplaceable item for `target`.
pub fn state(target: u32, len_bytes: usize, in_arena: bool) -> Outcome<Rescue> {
    let name = format!("state for {target}, {len_bytes} bytes");
    Ok(Rescue {
        region: region(pattern(&name, len_bytes), in_arena)?,
        name,
        class: ItemClass::Parameter,
        target,
        version: 7,
        group: String::new(),
        cost: Cost::Irreplaceable,
    })
}

/// What a forward pass left for `target`.
pub fn activation(target: u32, in_arena: bool) -> Outcome<Rescue> {
    let name = format!("activation for {target}");
    Ok(Rescue {
        region: region(pattern(&name, LARGE_BYTES), in_arena)?,
        name,
        class: ItemClass::Saved,
        cost: Cost::Compute { time: COMPUTE, from: Vec::new() },
        ..state(target, 0, false)?
    })
}

fn region(bytes: Vec<u8>, in_arena: bool) -> Outcome<Region> {
    if !in_arena {
        return Ok(Region::from_vec(bytes));
    }
    let region = Region::shared(bytes.len() as u64)?;
    region.write_at(0, &bytes)?;
    Ok(region)
}

/// Bytes that are different for each name and place.
fn pattern(name: &str, len_bytes: usize) -> Vec<u8> {
    let seed = seed(name);
    (0..len_bytes as u64).map(|at| byte(seed, at)).collect()
}

fn seed(name: &str) -> u64 {
    name.bytes().fold(7, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()))
}

fn byte(seed: u64, at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9).wrapping_add(seed) >> 7) as u8
}

/// Whether these are an item's bytes, all from before a change or all from after it.
///
/// Looks at a little of it at a time: who asks may be a process that has no memory left.
pub fn is_whole(name: &str, region: &Region) -> bool {
    let seed = seed(name);
    let differs = |change: u8| {
        blocks(region).any(|(at, block)| (at..).zip(block).any(|(at, found)| found != byte(seed, at) ^ change))
    };
    !differs(0) || !differs(!0)
}

/// A region's bytes in short pieces, each with its place.
pub fn blocks(region: &Region) -> impl Iterator<Item = (u64, Vec<u8>)> {
    const BLOCK_BYTES: u64 = 64 << 10;
    let len_bytes = region.len_bytes();
    (0..len_bytes)
        .step_by(BLOCK_BYTES as usize)
        .filter_map(move |at| Some((at, region.slice(at..len_bytes.min(at + BLOCK_BYTES))?.copy_to_vec())))
}

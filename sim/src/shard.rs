//! What ranks own: shards of made-up tensors whose bytes can be told apart from any others.

use std::time::Duration;

use xfer_migrate_core::{GroupId, Item, ItemClass, ItemId, RecomputeCost};
use xfer_transport_core::PeerId;
use xfer_transport_core::integrity::crc32c;

use crate::memory::{Memory, MemoryId, Use};
use crate::random::Random;

/// One tensor of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in the shard.
    pub name: &'static str,
    /// What kind of thing it is.
    pub class: ItemClass,
    /// Its length.
    pub bytes: u64,
    /// How long it takes to compute it again from the named parts; nothing if it can't be.
    pub again: Option<(Duration, &'static [&'static str])>,
    /// Whether it changes until the cut, and is offered only then.
    pub late: bool,
}

/// A shard as its owner holds it.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Which content its parts have.
    pub version: u64,
    /// Its parts, and where they are.
    pub parts: Vec<(Part, MemoryId)>,
}

impl Shard {
    /// A shard in memory of `owner`.
    pub fn new(memory: &mut Memory, owner: PeerId, name: &str, version: u64, parts: &[Part]) -> Self {
        let place = |part: &Part| {
            let bytes = content(name, part.name, version, part.bytes);
            (part.clone(), memory.add(owner, bytes, Use::Owned))
        };
        Self { version, parts: parts.iter().map(place).collect() }
    }
}

/// The parts of a shard, of lengths that chance decides.
pub fn parts(random: &mut Random, chunk_bytes: u64, longest_chunks: u64) -> Vec<Part> {
    let mut bytes = || match random.below(4) {
        0 => random.between(1, chunk_bytes),
        1 => chunk_bytes * random.between(1, longest_chunks),
        _ => random.between(1, chunk_bytes * longest_chunks),
    };
    let lengths = [bytes(), bytes(), 16, bytes(), bytes(), bytes()];
    let mut parts = parts_of_lengths(lengths);
    let keep = random.between(2, parts.len() as u64) as usize;
    parts.truncate(keep);
    parts
}

/// All parts that a shard may have, of these lengths.
pub fn parts_of_lengths(bytes: [u64; 6]) -> Vec<Part> {
    let ms = Duration::from_millis;
    let part = |at: usize, name, class, again, late| Part { name, class, bytes: bytes[at], again, late };
    vec![
        part(0, "weight", ItemClass::Parameter, None, false),
        part(1, "moment", ItemClass::OptimizerState, None, false),
        part(2, "rng", ItemClass::Rng, None, true),
        part(3, "input", ItemClass::Boundary, None, true),
        part(4, "hidden", ItemClass::Saved, Some((ms(400), &["weight", "input"] as &[_])), true),
        part(5, "saved", ItemClass::Saved, Some((ms(90), &["hidden"] as &[_])), true),
    ]
}

/// The bytes that a part has as this version.
pub fn content(shard: &str, part: &str, version: u64, bytes: u64) -> Vec<u8> {
    let name = u64::from(crc32c(shard.as_bytes())) << 32 | u64::from(crc32c(part.as_bytes()));
    let mut random = Random::new(name ^ version.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut content = Vec::with_capacity(bytes as usize + 8);
    while (content.len() as u64) < bytes {
        content.extend(random.number().to_le_bytes());
    }
    content.truncate(bytes as usize);
    content
}

/// The name of a part in a migration.
pub fn item_name(shard: &str, part: &str) -> String {
    format!("{shard}/{part}")
}

/// Parts of a shard as items of a migration; ids count on from `first`, and those of inputs are looked up by name.
pub fn item(shard: &str, part: &Part, version: u64, target: u32, id: ItemId, find: impl Fn(&str) -> ItemId) -> Item {
    let cost = match part.again {
        None => RecomputeCost::Irreplaceable,
        Some((time, from)) => {
            RecomputeCost::Compute { time, from: from.iter().map(|input| find(&item_name(shard, input))).collect() }
        }
    };
    Item {
        id,
        name: item_name(shard, part.name).into(),
        class: part.class,
        bytes: part.bytes,
        version,
        target,
        group: GroupId::ALONE,
        cost,
    }
}

//! In which order parcels are worth most, at every moment at which the link may die.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use super::flow::Network;
use crate::limits;

/// Bytes that are sent together or not at all, what having them saves, and what else must be there for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parcel {
    /// What it weighs on the link, in bytes. May be 0, for what costs nothing once its needs are there.
    pub bytes: u64,
    /// What it saves, in nanoseconds, once it and its needs are there. May be 0, for what only others need.
    pub saves_ns: u64,
    /// The places of the parcels without which it is worth nothing.
    pub needs: Vec<usize>,
}

/// Parcels that are sent one after the other: no selection of what is left is worth more per byte.
///
/// Blocks come in falling order of density. At the end of each, no selection with as few bytes saves more, whatever
/// the rate of the link; in between, [`best_saved_ns`] bounds what any selection saves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The places of its parcels, needs first.
    pub parcels: Vec<usize>,
    /// Their bytes.
    pub bytes: u64,
    /// What they save, in nanoseconds.
    pub saves_ns: u64,
}

/// Why parcels can't be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlocksError {
    /// A parcel needs one that isn't there.
    #[error("parcel {parcel} needs parcel {needs}, and there are only {parcels}")]
    UnknownNeed {
        /// The parcel.
        parcel: usize,
        /// What it needs.
        needs: usize,
        /// How many there are.
        parcels: usize,
    },
    /// A parcel needs itself.
    #[error("parcel {parcel} needs itself, directly or over others")]
    Cycle {
        /// A parcel on the circle.
        parcel: usize,
    },
    /// There are too many parcels.
    #[error("{parcels} parcels are too many; at most {} are ordered", limits::PARCELS_MAX)]
    TooMany {
        /// How many there are.
        parcels: usize,
    },
    /// Too many parcels hang together.
    #[error(
        "{parcels} parcels hang together; at most {} may, so put what travels together into one",
        limits::ENTANGLED_MAX
    )]
    TooEntangled {
        /// How many do.
        parcels: usize,
    },
    /// The sum of all bytes, or of all savings, is absurd.
    #[error("the {what} of all parcels add up to more than 2^62")]
    TooMuch {
        /// Which sum.
        what: &'static str,
    },
}

/// Puts `parcels` into the order in which they are worth most, as blocks of falling density.
///
/// The blocks are those of the Sidney decomposition of the precedence. Parcels that nothing ties to others are sorted;
/// where several need the same, a minimum cut finds the selection that is worth most per byte, and so on with both of
/// its sides. Takes O(n log n) for n parcels without shared needs.
///
/// ```
/// use xfer_migrate_core::plan::{Parcel, blocks};
///
/// let parcel = |bytes, saves_ns, needs: &[usize]| Parcel { bytes, saves_ns, needs: needs.to_vec() };
/// // 1 and 2 are worth something only with 0; together they are worth more per byte than 3.
/// let order = blocks(&[parcel(8, 0, &[]), parcel(1, 60, &[0]), parcel(1, 60, &[0]), parcel(1, 9, &[])])?;
/// assert_eq!(order.iter().map(|block| block.parcels.clone()).collect::<Vec<_>>(), [vec![0, 1, 2], vec![3]]);
/// # Ok::<(), xfer_migrate_core::plan::BlocksError>(())
/// ```
pub fn blocks(parcels: &[Parcel]) -> Result<Vec<Block>, BlocksError> {
    check_sums(parcels)?;
    let order = needs_first(parcels)?;
    let mut found = Vec::with_capacity(parcels.len());
    for component in components(parcels, order).chunks() {
        match component {
            [_] => found.push(Block::of(parcels, component.to_vec())),
            _ if component.len() > limits::ENTANGLED_MAX => {
                return Err(BlocksError::TooEntangled { parcels: component.len() });
            }
            [root, leaves @ ..] if leaves.iter().all(|leaf| parcels[*leaf].needs == [*root]) => {
                star(parcels, *root, leaves, &mut found);
            }
            _ => divide(parcels, component.to_vec(), &mut found),
        }
    }
    // Within a component densities fall strictly, so no block overtakes what it needs.
    found.sort_by(Block::before);
    Ok(found)
}

/// The most that any selection of `bytes` can save, in nanoseconds, rounded up: whole blocks, and a part of the next.
pub fn best_saved_ns(blocks: &[Block], bytes: u64) -> u64 {
    let mut room = bytes;
    let mut saved: u64 = 0;
    for block in blocks {
        if block.bytes > room {
            let part = (u128::from(block.saves_ns) * u128::from(room)).div_ceil(u128::from(block.bytes));
            // A part of a `u64`.
            return saved.saturating_add(part as u64);
        }
        room -= block.bytes;
        saved = saved.saturating_add(block.saves_ns);
    }
    saved
}

impl Block {
    fn of(parcels: &[Parcel], places: Vec<usize>) -> Self {
        let mut block = Self { parcels: places, ..Self::default() };
        for place in &block.parcels {
            block.bytes += parcels[*place].bytes;
            block.saves_ns += parcels[*place].saves_ns;
        }
        block
    }

    /// Most saved per byte first; among equals the shorter one, which is worth something sooner.
    pub(super) fn before(&self, other: &Self) -> Ordering {
        before((self.bytes, self.saves_ns), (other.bytes, other.saves_ns))
    }
}

/// [`Block::before`] of (bytes, saved nanoseconds).
fn before(one: (u64, u64), other: (u64, u64)) -> Ordering {
    let ((one_bytes, one_ns), (other_bytes, other_ns)) = (one, other);
    let ours = u128::from(one_ns) * u128::from(other_bytes);
    let theirs = u128::from(other_ns) * u128::from(one_bytes);
    // Nothing saved for no bytes compares as equal to everything, and belongs to the end.
    (one_ns == 0).cmp(&(other_ns == 0)).then(theirs.cmp(&ours)).then(one_bytes.cmp(&other_bytes))
}

/// Sums stay far from overflow, also in products of two of them.
fn check_sums(parcels: &[Parcel]) -> Result<(), BlocksError> {
    if parcels.len() > limits::PARCELS_MAX {
        return Err(BlocksError::TooMany { parcels: parcels.len() });
    }
    let sum = |of: fn(&Parcel) -> u64| parcels.iter().map(|parcel| u128::from(of(parcel))).sum::<u128>();
    if sum(|parcel| parcel.bytes) > 1 << 62 {
        return Err(BlocksError::TooMuch { what: "bytes" });
    }
    if sum(|parcel| parcel.saves_ns) > 1 << 62 {
        return Err(BlocksError::TooMuch { what: "savings" });
    }
    Ok(())
}

/// The parcels in an order in which needs come first, otherwise as given: Kahn's algorithm with the smallest place first.
fn needs_first(parcels: &[Parcel]) -> Result<Vec<usize>, BlocksError> {
    if parcels.iter().enumerate().all(|(place, parcel)| parcel.needs.iter().all(|needs| *needs < place)) {
        return Ok((0..parcels.len()).collect());
    }
    let mut waits_for = vec![0_u32; parcels.len()];
    let mut dependents = vec![0_usize; parcels.len()];
    for (place, parcel) in parcels.iter().enumerate() {
        for needs in &parcel.needs {
            let error = BlocksError::UnknownNeed { parcel: place, needs: *needs, parcels: parcels.len() };
            *dependents.get_mut(*needs).ok_or(error)? += 1;
            waits_for[place] += 1;
        }
    }
    let pairs = parcels.iter().enumerate().flat_map(|(place, parcel)| parcel.needs.iter().map(move |to| (*to, place)));
    let needed_by = Chunks::new(&dependents, pairs);
    let mut free: BinaryHeap<Reverse<usize>> =
        (0..parcels.len()).filter(|place| waits_for[*place] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(parcels.len());
    while let Some(Reverse(place)) = free.pop() {
        order.push(place);
        for dependent in needed_by.chunk(place) {
            waits_for[*dependent] -= 1;
            if waits_for[*dependent] == 0 {
                free.push(Reverse(*dependent));
            }
        }
    }
    match waits_for.iter().position(|waits| *waits > 0) {
        Some(parcel) => Err(BlocksError::Cycle { parcel }),
        None => Ok(order),
    }
}

/// Lists of places, one behind the other in one piece of memory: most of them are short.
struct Chunks {
    places: Vec<usize>,
    /// Where each list begins; and the end.
    starts: Vec<usize>,
}

impl Chunks {
    /// Lists that have `counts` places each; `pairs` are (list, place), in the order of each list.
    fn new(counts: &[usize], pairs: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut starts = Vec::with_capacity(counts.len() + 1);
        starts.push(0);
        let ends = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        starts.extend(ends);
        let mut next = starts.clone();
        let mut places = vec![0; starts[counts.len()]];
        for (list, place) in pairs {
            places[next[list]] = place;
            next[list] += 1;
        }
        Self { places, starts }
    }

    fn chunk(&self, list: usize) -> &[usize] {
        &self.places[self.starts[list]..self.starts[list + 1]]
    }

    fn chunks(&self) -> impl Iterator<Item = &[usize]> {
        (0..self.starts.len() - 1).map(|list| self.chunk(list))
    }
}

/// The parcels that hang together, each component in the order given by `order`.
fn components(parcels: &[Parcel], order: Vec<usize>) -> Chunks {
    if parcels.iter().all(|parcel| parcel.needs.is_empty()) {
        return Chunks { places: order, starts: (0..=parcels.len()).collect() };
    }
    let mut leader: Vec<usize> = (0..parcels.len()).collect();
    for (place, parcel) in parcels.iter().enumerate() {
        for needs in &parcel.needs {
            let (a, b) = (find(&mut leader, place), find(&mut leader, *needs));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut number_of = vec![usize::MAX; parcels.len()];
    let mut counts: Vec<usize> = Vec::new();
    for place in &order {
        let leader = find(&mut leader, *place);
        if number_of[leader] == usize::MAX {
            number_of[leader] = counts.len();
            counts.push(0);
        }
        counts[number_of[leader]] += 1;
    }
    let pairs = order.iter().map(|place| (number_of[find(&mut leader, *place)], *place));
    Chunks::new(&counts, pairs)
}

fn find(leader: &mut [usize], mut place: usize) -> usize {
    while leader[place] != place {
        leader[place] = leader[leader[place]];
        place = leader[place];
    }
    place
}

/// The blocks of a parcel that several others need, and nothing else: it takes along the densest of them as long as each
/// makes all of these denser. The others follow by themselves.
fn star(parcels: &[Parcel], root: usize, leaves: &[usize], found: &mut Vec<Block>) {
    let of = |leaf: &usize| (parcels[*leaf].bytes, parcels[*leaf].saves_ns);
    let mut rest = leaves.to_vec();
    rest.sort_by(|one, other| before(of(one), of(other)));
    let mut first = Block::of(parcels, vec![root]);
    let denser = |leaf: &&usize, first: &Block| {
        let (bytes, saves_ns) = of(leaf);
        u128::from(saves_ns) * u128::from(first.bytes) >= u128::from(first.saves_ns) * u128::from(bytes)
    };
    let mut taken = 0;
    while let Some(leaf) = rest.get(taken).filter(|leaf| denser(leaf, &first)) {
        first.parcels.push(*leaf);
        first.bytes += parcels[*leaf].bytes;
        first.saves_ns += parcels[*leaf].saves_ns;
        taken += 1;
    }
    found.push(first);
    found.extend(rest[taken..].iter().map(|leaf| Block::of(parcels, vec![*leaf])));
}

/// Divides parcels that hang together into their blocks.
///
/// At the density of the whole, the closure that is worth most above that price holds all blocks that are denser, and
/// what it leaves holds the others. If nothing is worth more than the whole, the whole is one block.
fn divide(parcels: &[Parcel], component: Vec<usize>, found: &mut Vec<Block>) {
    let mut stack = vec![component];
    while let Some(places) = stack.pop() {
        let whole = Block::of(parcels, places);
        let (dense, rest) = split(parcels, &whole);
        if dense.is_empty() || rest.is_empty() {
            found.push(whole);
        } else {
            stack.push(rest);
            stack.push(dense);
        }
    }
}

/// The part of `whole` that is worth most above its average density, with all it needs; and the rest.
fn split(parcels: &[Parcel], whole: &Block) -> (Vec<usize>, Vec<usize>) {
    let count = whole.parcels.len();
    let (source, sink) = (count, count + 1);
    let local: BTreeMap<usize, usize> = whole.parcels.iter().enumerate().map(|(at, place)| (*place, at)).collect();
    let mut network = Network::with_vertices(count + 2);
    let mut gains = Vec::with_capacity(count);
    let mut endless: i128 = 1;
    for place in &whole.parcels {
        // Value minus bytes at the price of the whole, times the bytes of the whole: exact, and below 2^125.
        let gain = i128::from(parcels[*place].saves_ns) * i128::from(whole.bytes)
            - i128::from(parcels[*place].bytes) * i128::from(whole.saves_ns);
        endless += gain.max(0);
        gains.push(gain);
    }
    for (at, gain) in gains.iter().enumerate() {
        match gain {
            1.. => network.connect(source, at, *gain),
            0 => {}
            _ => network.connect(at, sink, -*gain),
        }
        for needs in &parcels[whole.parcels[at]].needs {
            // What isn't here any more is in a denser block, so it is there first.
            if let Some(needs) = local.get(needs) {
                network.connect(at, *needs, endless);
            }
        }
    }
    let inside = network.largest_source_side(source, sink);
    let worth: i128 = gains.iter().zip(&inside).filter(|(_, inside)| **inside).map(|(gain, _)| *gain).sum();
    if worth <= 0 {
        return (Vec::new(), whole.parcels.clone());
    }
    let (mut dense, mut rest) = (Vec::new(), Vec::new());
    for (place, inside) in whole.parcels.iter().zip(&inside) {
        if *inside { dense.push(*place) } else { rest.push(*place) }
    }
    (dense, rest)
}

#[cfg(test)]
mod tests;

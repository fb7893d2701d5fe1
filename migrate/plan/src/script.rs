//! What leaves in which order, once a mode is chosen: for each leaving rank's link, and what each byte on it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use xfer_migrate_core::ItemClass;
use xfer_migrate_core::plan::{Block, BlocksError, Choice, Parcel, Piece, blocks};

use crate::departure::Departure;
use crate::mode::Mode;

/// What becomes of an asset, whatever the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only its bytes will do, and without them the job goes back to a checkpoint.
    State,
    /// Only its bytes will do, and without them the open step is lost.
    Step,
    /// It can be made again.
    Computable,
    /// A rank that stays has it.
    Elsewhere,
    /// It follows from something else in no time.
    Derived,
}

/// A departure seen by the planner: each asset's kind and carrier, and what can be made again in its best order.
#[derive(Debug, Clone)]
pub(crate) struct Stock<'a> {
    pub(crate) departure: &'a Departure,
    pub(crate) kinds: Vec<Kind>,
    /// The number of the link that carries it.
    pub(crate) line_of: Vec<usize>,
    /// The number of its target.
    pub(crate) target_of: Vec<usize>,
    pub(crate) lines: usize,
    pub(crate) targets: usize,
    /// For each line its state, in the order in which it is best sent.
    pub(crate) state: Vec<Vec<usize>>,
    /// For each line what the open step needs.
    pub(crate) step: Vec<Vec<usize>>,
    /// For each line what can be made again, densest first.
    pub(crate) blocks: Vec<Vec<Choosable>>,
    /// What each of these blocks weighs and saves.
    pub(crate) pieces: Vec<Vec<Piece>>,
    /// What each target fetches from ranks that stay, in bytes.
    pub(crate) fetched_bytes: Vec<u64>,
    /// What each target has to compute whatever is sent: nothing of these can be sent any more.
    pub(crate) all_compute_s: Vec<f64>,
}

/// A block that is sent or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choosable {
    /// Its assets, needs first.
    pub(crate) assets: Vec<usize>,
    /// Its operations.
    pub(crate) operations: Vec<usize>,
    /// What they take: (target, seconds).
    pub(crate) gains: Vec<(usize, f64)>,
}

/// What leaves, in order, in one mode.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// The mode.
    pub mode: Mode,
    /// What each leaving rank's link carries.
    pub(crate) lines: Arc<[Line]>,
    /// Whether the open step is to be kept.
    pub(crate) keeps_step: bool,
    /// What each target computes if all that is sent arrives, in seconds.
    pub(crate) kept_s: Vec<f64>,
}

/// What one link carries.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Line {
    /// The assets in order.
    pub(crate) order: Vec<usize>,
    /// Bytes up to here may leave from `first_ready_s` on, the others from `rest_ready_s` on.
    pub(crate) split_bytes: u64,
    pub(crate) first_ready_s: f64,
    pub(crate) rest_ready_s: f64,
    /// Behind this byte all state of this rank is there.
    pub(crate) state_end: u64,
    /// Behind this byte all that the open step needs is there.
    pub(crate) step_end: u64,
    pub(crate) total: u64,
    /// Operations that needn't run once the byte is there: (byte, target, seconds), in the order of bytes.
    pub(crate) gains: Vec<(u64, usize, f64)>,
}

/// Behind which byte of a line each asset is there; the largest number where it never is.
struct Ends(Vec<u64>);

impl Ends {
    fn of(&self, place: usize) -> Option<u64> {
        Some(self.0[place]).filter(|end| *end != u64::MAX)
    }
}

impl<'a> Stock<'a> {
    pub(crate) fn new(departure: &'a Departure) -> Result<Self, BlocksError> {
        let numbers = |ranks: &mut dyn Iterator<Item = u32>| {
            let mut numbers = BTreeMap::new();
            for rank in ranks {
                let next = numbers.len();
                numbers.entry(rank).or_insert(next);
            }
            numbers
        };
        let leaving = numbers(&mut departure.leaving.iter().copied());
        let targets = numbers(&mut departure.assets.iter().map(|asset| asset.target));
        let mut stock = Self {
            departure,
            kinds: kinds(departure),
            line_of: Vec::new(),
            target_of: departure.assets.iter().map(|asset| targets[&asset.target]).collect(),
            lines: leaving.len(),
            targets: targets.len(),
            state: vec![Vec::new(); leaving.len()],
            step: vec![Vec::new(); leaving.len()],
            blocks: vec![Vec::new(); leaving.len()],
            pieces: vec![Vec::new(); leaving.len()],
            fetched_bytes: vec![0; targets.len()],
            all_compute_s: vec![0.0; targets.len()],
        };
        for (place, asset) in departure.assets.iter().enumerate() {
            let carrier = departure.carrier(asset);
            stock.line_of.push(carrier.map_or(usize::MAX, |rank| leaving[&rank]));
            match stock.kinds[place] {
                Kind::Elsewhere if !asset.holders.contains(&asset.target) => {
                    stock.fetched_bytes[stock.target_of[place]] += asset.bytes;
                }
                Kind::State => stock.state[stock.line_of[place]].push(place),
                Kind::Step => stock.step[stock.line_of[place]].push(place),
                _ => {}
            }
        }
        stock.state.iter_mut().for_each(|state| order_state(departure, state));
        stock.order_computable()?;
        Ok(stock)
    }

    /// The order of what can be made again. An operation is one parcel with all that only it is for; what others need too
    /// is a parcel of its own.
    fn order_computable(&mut self) -> Result<(), BlocksError> {
        let assets = &self.departure.assets;
        let is_computable = |place: &usize| self.kinds[*place] == Kind::Computable;
        let mut parcel_of = vec![usize::MAX; assets.len()];
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut things: Vec<Choosable> = Vec::new();
        for place in assets.iter().flat_map(|asset| &asset.needs).filter(|place| is_computable(place)) {
            if parcel_of[*place] == usize::MAX {
                parcel_of[*place] = parcels.len();
                parcels.push(Parcel { bytes: assets[*place].bytes, saves_ns: 0, needs: Vec::new() });
                things.push(Choosable { assets: vec![*place], operations: Vec::new(), gains: Vec::new() });
            }
        }
        let shared = parcels.len();
        let known = |parcels: &[usize]| -> Vec<usize> {
            let known = parcels.iter().map(|place| parcel_of[*place]);
            known.filter(|parcel| *parcel != usize::MAX).collect()
        };
        for parcel in 0..shared {
            parcels[parcel].needs = known(&assets[things[parcel].assets[0]].needs);
        }
        for (number, operation) in self.departure.operations.iter().enumerate() {
            let carried: Vec<usize> = operation.outputs.iter().copied().filter(is_computable).collect();
            // It runs only if something that it makes would be missing otherwise.
            let Some(first) = carried.first().copied() else { continue };
            let target = self.target_of[first];
            self.all_compute_s[target] += operation.time_s;
            let mut parcel = Parcel { bytes: 0, saves_ns: (operation.time_s * 1e9) as u64, needs: Vec::new() };
            let gains = vec![(target, operation.time_s)];
            let mut thing = Choosable { assets: Vec::new(), operations: vec![number], gains };
            for place in carried {
                if parcel_of[place] == usize::MAX {
                    parcel.bytes += assets[place].bytes;
                    parcel.needs.extend(known(&assets[place].needs));
                    thing.assets.push(place);
                } else {
                    parcel.needs.push(parcel_of[place]);
                }
            }
            parcel.needs.sort_unstable();
            parcel.needs.dedup();
            parcels.push(parcel);
            things.push(thing);
        }
        for block in blocks(&parcels)? {
            self.add_block(&block, &mut things);
        }
        Ok(())
    }

    fn add_block(&mut self, block: &Block, things: &mut [Choosable]) {
        let Some((first, others)) = block.parcels.split_first() else { return };
        let mut whole = std::mem::take(&mut things[*first]);
        for parcel in others {
            whole.assets.append(&mut things[*parcel].assets);
            whole.operations.append(&mut things[*parcel].operations);
            whole.gains.append(&mut things[*parcel].gains);
        }
        let made = |operation: &usize| self.departure.operations[*operation].outputs[0];
        let Some(first) = whole.operations.first().map(made).or(whole.assets.first().copied()) else { return };
        let target = self.target_of[first];
        let line = self.line_of[whole.assets.first().copied().unwrap_or(first)];
        self.pieces[line].push(Piece { target, bytes: block.bytes, saves_ns: block.saves_ns });
        self.blocks[line].push(whole);
    }

    /// A script that sends all state, then `step`, then the blocks that are `chosen`, for each line.
    pub(crate) fn in_best_order(
        &self,
        mode: Mode,
        steps: Vec<Vec<usize>>,
        chosen: &[Choice],
        keeps_step: bool,
    ) -> Script {
        let mut kept_s = self.all_compute_s.clone();
        let mut lines = Vec::with_capacity(self.lines);
        for (number, step) in steps.into_iter().enumerate() {
            let mut line = Line { order: self.state[number].clone(), ..Line::default() };
            line.state_end = self.bytes_of(&line.order);
            line.step_end = line.state_end + self.bytes_of(&step);
            line.total = line.step_end;
            line.order.extend(step);
            for (at, block) in self.blocks[number].iter().enumerate() {
                if chosen.get(number).is_some_and(|choice| choice.sent[at]) {
                    line.order.extend(&block.assets);
                    line.total += self.pieces[number][at].bytes;
                    for (target, seconds) in &block.gains {
                        line.gains.push((line.total, *target, *seconds));
                        kept_s[*target] = (kept_s[*target] - seconds).max(0.0);
                    }
                }
            }
            line.split_bytes = line.total;
            lines.push(line);
        }
        Script { mode, lines: lines.into(), keeps_step, kept_s }
    }

    pub(crate) fn bytes_of(&self, places: &[usize]) -> u64 {
        places.iter().map(|place| self.departure.assets[*place].bytes).sum()
    }

    /// A script that sends `orders`, one for each line, which need not be good ones.
    pub(crate) fn script(&self, mode: Mode, orders: Vec<Vec<usize>>, keeps_step: bool) -> Script {
        let mut kept_s = self.all_compute_s.clone();
        let lines: Vec<Line> = orders.into_iter().enumerate().map(|(line, order)| self.line(line, order)).collect();
        for (_, target, seconds) in lines.iter().flat_map(|line| &line.gains) {
            kept_s[*target] = (kept_s[*target] - seconds).max(0.0);
        }
        Script { mode, lines: lines.into(), keeps_step, kept_s }
    }

    fn line(&self, number: usize, order: Vec<usize>) -> Line {
        let mut line = Line::default();
        let mut end_of = Ends(vec![u64::MAX; self.departure.assets.len()]);
        for place in &order {
            line.total += self.departure.assets[*place].bytes;
            end_of.0[*place] = line.total;
            match self.kinds[*place] {
                Kind::State => line.state_end = line.total,
                Kind::Step => line.step_end = line.total,
                _ => {}
            }
        }
        line.step_end = line.step_end.max(line.state_end);
        line.split_bytes = line.total;
        // What is left out never comes.
        if self.state[number].iter().any(|place| end_of.of(*place).is_none()) {
            line.state_end = u64::MAX;
        }
        if self.step[number].iter().any(|place| end_of.of(*place).is_none()) {
            line.step_end = u64::MAX;
        }
        for choosable in &self.blocks[number] {
            for operation in &choosable.operations {
                let operation = &self.departure.operations[*operation];
                let carried = operation.outputs.iter().filter(|place| self.kinds[**place] == Kind::Computable);
                let ends: Option<Vec<u64>> = carried.map(|place| self.end_with_needs(*place, &end_of)).collect();
                if let Some(end) = ends.and_then(|ends| ends.into_iter().max()) {
                    line.gains.push((end, self.target_of[operation.outputs[0]], operation.time_s));
                }
            }
        }
        line.gains.sort_by_key(|gain| gain.0);
        line.order = order;
        line
    }

    /// Behind which byte an asset and all that it needs is there; none if that never is.
    fn end_with_needs(&self, place: usize, end_of: &Ends) -> Option<u64> {
        let mut end = end_of.of(place)?;
        let mut stack = self.departure.assets[place].needs.clone();
        let mut seen = Vec::new();
        while let Some(need) = stack.pop() {
            if matches!(self.kinds[need], Kind::Elsewhere | Kind::Derived) || seen.contains(&need) {
                continue;
            }
            seen.push(need);
            end = end.max(end_of.of(need)?);
            stack.extend(&self.departure.assets[need].needs);
        }
        Some(end)
    }
}

/// Puts state into the order in which it is best sent: small records, then parameters, so that computing can begin, then
/// the rest; the smallest first among their like.
fn order_state(departure: &Departure, state: &mut [usize]) {
    state.sort_by_key(|place| {
        let asset = &departure.assets[*place];
        let class = match asset.class {
            ItemClass::Rng | ItemClass::Meta => 0,
            ItemClass::Parameter => 1,
            _ => 2,
        };
        (class, asset.bytes)
    });
}

/// What becomes of each asset.
fn kinds(departure: &Departure) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = departure
        .assets
        .iter()
        .map(|asset| match asset.class {
            _ if departure.carrier(asset).is_none() => Kind::Elsewhere,
            ItemClass::Gradient | ItemClass::Boundary | ItemClass::Saved => Kind::Step,
            _ => Kind::State,
        })
        .collect();
    for operation in &departure.operations {
        for output in &operation.outputs {
            if kinds[*output] != Kind::Elsewhere {
                kinds[*output] = if operation.time_s == 0.0 { Kind::Derived } else { Kind::Computable };
            }
        }
    }
    kinds
}

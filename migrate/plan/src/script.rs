//! What leaves in which order, once a mode is chosen: for each leaving rank's link, and what each byte on it is for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use xfer_migrate_core::ItemClass;
use xfer_migrate_core::plan::{Block, BlocksError, Choice, Parcel, Piece, blocks};

use crate::departure::Departure;
use crate::memory::Shortage;
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
    /// The assets of all blocks, one block after the other.
    block_assets: Vec<usize>,
    /// Likewise what their operations take: (target, seconds).
    gains: Vec<(usize, f64)>,
    /// What each of these blocks weighs and saves.
    pub(crate) pieces: Vec<Vec<Piece>>,
    /// What each target fetches from ranks that stay, in bytes.
    pub(crate) fetched_bytes: Vec<u64>,
    /// The rates that stand for all that may be.
    pub(crate) rates: Vec<f64>,
    /// Likewise the moments of death, and how likely each is.
    pub(crate) deaths: Vec<(f64, f64)>,
    /// The modes in which a target would be offered more than it has room for, which it refuses.
    pub(crate) short: Vec<(Mode, Shortage)>,
    /// How many bytes of what can be computed again targets have room for together.
    pub(crate) spare_bytes: u64,
    /// What each target has to compute whatever is sent: nothing of these can be sent any more.
    pub(crate) all_compute_s: Vec<f64>,
}

/// A block that is sent or not: where its assets are, needs first, and its operations' gains.
#[derive(Debug, Clone)]
pub(crate) struct Choosable {
    assets: Range<usize>,
    gains: Range<usize>,
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
    /// In place of order and gains: which blocks leave behind the step. Plays through like the line that it becomes when
    /// it is written out, and takes a tenth of the time to make.
    pub(crate) sketch: Vec<bool>,
}

/// What a parcel of the computable order stands for.
enum Thing {
    /// An asset that several need.
    Shared(usize),
    /// An operation, with all that only it is for.
    Operation(usize),
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
            block_assets: Vec::new(),
            gains: Vec::new(),
            pieces: vec![Vec::new(); leaving.len()],
            fetched_bytes: vec![0; targets.len()],
            rates: departure.window.link.rates(),
            deaths: departure.window.law.deaths(),
            short: Vec::new(),
            spare_bytes: u64::MAX,
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
        stock.short = stock.shortages();
        stock.spare_bytes = stock.spare_bytes(Mode::Stop).unwrap_or(u64::MAX);
        Ok(stock)
    }

    /// The order of what can be made again. An operation is one parcel with all that only it is for; what others need too
    /// is a parcel of its own.
    fn order_computable(&mut self) -> Result<(), BlocksError> {
        let assets = &self.departure.assets;
        let mut parcels: Vec<Parcel> = Vec::with_capacity(self.departure.operations.len());
        let mut things: Vec<Thing> = Vec::with_capacity(self.departure.operations.len());
        let mut parcel_of = vec![usize::MAX; assets.len()];
        for place in assets.iter().flat_map(|asset| &asset.needs).copied() {
            if self.is_computable(place) && parcel_of[place] == usize::MAX {
                parcel_of[place] = parcels.len();
                parcels.push(Parcel { bytes: assets[place].bytes, saves_ns: 0, needs: Vec::new() });
                things.push(Thing::Shared(place));
            }
        }
        let known = |places: &[usize], parcels: &mut Vec<usize>| {
            parcels.extend(places.iter().map(|place| parcel_of[*place]).filter(|parcel| *parcel != usize::MAX));
        };
        for (parcel, thing) in parcels.iter_mut().zip(&things) {
            if let Thing::Shared(place) = thing {
                known(&assets[*place].needs, &mut parcel.needs);
            }
        }
        for (number, operation) in self.departure.operations.iter().enumerate() {
            let is_computable = |place: &usize| self.kinds[*place] == Kind::Computable;
            let mut carried = operation.outputs.iter().copied().filter(is_computable).peekable();
            // It runs only if something that it makes would be missing otherwise.
            let Some(first) = carried.peek().copied() else { continue };
            self.all_compute_s[self.target_of[first]] += operation.time_s;
            let mut parcel = Parcel { bytes: 0, saves_ns: (operation.time_s * 1e9) as u64, needs: Vec::new() };
            for place in carried {
                if parcel_of[place] == usize::MAX {
                    parcel.bytes += assets[place].bytes;
                    known(&assets[place].needs, &mut parcel.needs);
                } else {
                    parcel.needs.push(parcel_of[place]);
                }
            }
            parcel.needs.sort_unstable();
            parcel.needs.dedup();
            parcels.push(parcel);
            things.push(Thing::Operation(number));
        }
        self.block_assets.reserve(assets.len());
        self.gains.reserve(things.len());
        for block in blocks(&parcels)? {
            self.add_block(&block, &things, &parcel_of);
        }
        Ok(())
    }

    fn add_block(&mut self, block: &Block, things: &[Thing], parcel_of: &[usize]) {
        let (first_asset, first_gain) = (self.block_assets.len(), self.gains.len());
        let mut made = None;
        for parcel in &block.parcels {
            match things[*parcel] {
                Thing::Shared(place) => self.block_assets.push(place),
                Thing::Operation(number) => {
                    let operation = &self.departure.operations[number];
                    let target = self.target_of[operation.outputs[0]];
                    made.get_or_insert(operation.outputs[0]);
                    self.gains.push((target, operation.time_s));
                    let is_computable = |place: &usize| self.kinds[*place] == Kind::Computable;
                    let own = |place: &usize| is_computable(place) && parcel_of[*place] == usize::MAX;
                    self.block_assets.extend(operation.outputs.iter().copied().filter(own));
                }
            }
        }
        let asset = self.block_assets.get(first_asset).copied();
        let Some(first) = made.or(asset) else { return };
        let (target, line) = (self.target_of[first], self.line_of[asset.unwrap_or(first)]);
        self.pieces[line].push(Piece { target, bytes: block.bytes, saves_ns: block.saves_ns });
        let (assets, gains) = (first_asset..self.block_assets.len(), first_gain..self.gains.len());
        self.blocks[line].push(Choosable { assets, gains });
    }

    fn is_computable(&self, place: usize) -> bool {
        self.kinds[place] == Kind::Computable
    }

    /// What a block's operations take: (target, seconds).
    fn gains_of(&self, block: &Choosable) -> &[(usize, f64)] {
        &self.gains[block.gains.clone()]
    }

    /// The sketch of a script that sends, on each line, all state, then what `mode` wants of the open step, then the
    /// blocks that are `chosen`.
    pub(crate) fn in_best_order(&self, mode: Mode, chosen: &[Choice], keeps_step: bool) -> Script {
        let mut kept_s = self.all_compute_s.clone();
        let mut lines = Vec::with_capacity(self.lines);
        for number in 0..self.lines {
            let mut line =
                Line { state_end: self.bytes_of(&mut self.state[number].iter().copied()), ..Line::default() };
            line.step_end = line.state_end + self.bytes_of(&mut self.wanted(mode, number));
            line.total = line.step_end;
            if let Some(choice) = chosen.get(number) {
                for (at, block) in self.blocks[number].iter().enumerate().filter(|(at, _)| choice.sent[*at]) {
                    line.total += self.pieces[number][at].bytes;
                    for (target, seconds) in self.gains_of(block) {
                        kept_s[*target] = (kept_s[*target] - seconds).max(0.0);
                    }
                }
                line.sketch.clone_from(&choice.sent);
            }
            line.split_bytes = line.total;
            lines.push(line);
        }
        Script { mode, lines: lines.into(), keeps_step, kept_s }
    }

    /// A script from [`Stock::in_best_order`] whose lines say what they carry.
    pub(crate) fn written_out(&self, script: &Script) -> Script {
        if script.mode == Mode::Rollback {
            return script.clone();
        }
        let lines = script.lines.iter().enumerate().map(|(number, line)| {
            let mut line = line.clone();
            line.order = self.state[number].iter().copied().chain(self.wanted(script.mode, number)).collect();
            let mut end = line.step_end;
            for (at, _) in std::mem::take(&mut line.sketch).iter().enumerate().filter(|(_, sent)| **sent) {
                let block = &self.blocks[number][at];
                end += self.pieces[number][at].bytes;
                line.order.extend(&self.block_assets[block.assets.clone()]);
                line.gains.extend(self.gains_of(block).iter().map(|(target, seconds)| (end, *target, *seconds)));
            }
            line
        });
        Script { lines: lines.collect(), ..script.clone() }
    }

    /// Adds what targets compute of what `line` sends behind byte `at`.
    pub(crate) fn add_late(&self, number: usize, line: &Line, at: u64, compute_s: &mut [f64]) {
        for (_, target, seconds) in line.gains.iter().rev().take_while(|gain| gain.0 > at) {
            compute_s[*target] += seconds;
        }
        let mut end = line.total;
        for (place, _) in line.sketch.iter().enumerate().rev().filter(|(_, sent)| **sent) {
            if end <= at {
                return;
            }
            for (target, seconds) in self.gains_of(&self.blocks[number][place]).iter().rev() {
                compute_s[*target] += seconds;
            }
            end -= self.pieces[number][place].bytes;
        }
    }

    pub(crate) fn bytes_of(&self, places: &mut dyn Iterator<Item = usize>) -> u64 {
        places.map(|place| self.departure.assets[place].bytes).sum()
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
        for operation in &self.departure.operations {
            let carried = || operation.outputs.iter().filter(|place| self.is_computable(**place));
            if carried().next().is_none_or(|first| self.line_of[*first] != number) {
                continue;
            }
            let ends: Option<Vec<u64>> = carried().map(|place| self.end_with_needs(*place, &end_of)).collect();
            if let Some(end) = ends.and_then(|ends| ends.into_iter().max()) {
                line.gains.push((end, self.target_of[operation.outputs[0]], operation.time_s));
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

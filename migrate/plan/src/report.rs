//! The plan of a departure: what makes it, what it costs, and what no plan could do better.

use std::cmp::Ordering;

use xfer_migrate_core::plan::BlocksError;

use crate::departure::Departure;
use crate::evaluate::{Outcome, OutcomeKind};
use crate::memory::Shortage;
use crate::mode::{Best, Mode, Shelf};
use crate::script::{Kind, Script, Stock};

/// What becomes of an asset, if the link carries what is expected of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// Sent, and there so many seconds after the notice.
    Sent {
        /// When.
        arrives_s: f64,
    },
    /// Sent as far as the time allows, which isn't far enough.
    Late,
    /// Computed again.
    Recomputed,
    /// Fetched from a rank that stays.
    Fetched,
    /// Made from something else in no time.
    Derived,
    /// Done without: what it is for is done again.
    GivenUp,
}

impl Fate {
    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent { .. } => "sent",
            Self::Late => "sent, but late",
            Self::Recomputed => "computed again",
            Self::Fetched => "fetched elsewhere",
            Self::Derived => "derived",
            Self::GivenUp => "given up",
        }
    }
}

/// What would have to be different for everything to make it, nine times in ten.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remedies {
    /// Whether it does as things are.
    pub fits: bool,
    /// The rate that the link would have to carry half of the time, in bytes per second; none if no rate helps.
    pub link_bytes_per_s: Option<f64>,
    /// How long the notice would have to be, in seconds; none if no time helps.
    pub notice_s: Option<f64>,
    /// Or what each leaving node might have at most, of what nobody else has, in bytes.
    pub room_bytes: u64,
}

/// One asset of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Its place in the departure.
    pub place: usize,
    /// What becomes of it.
    pub fate: Fate,
}

/// What one mode is expected to come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The mode.
    pub mode: Mode,
    /// The loss, in seconds.
    pub loss_s: f64,
    /// What no script of this mode could do better, in seconds.
    pub bound_s: f64,
    /// How likely the job goes back to a checkpoint.
    pub p_rollback: f64,
    /// How likely the open step is lost, but not the state.
    pub p_step_lost: f64,
    /// At the expected rate, until the deadline.
    pub typical: Outcome,
}

/// The plan of a departure.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// All modes, best first: the first one is the plan's.
    pub modes: Vec<Expected>,
    /// What leaves at the expected rate.
    pub script: Script,
    /// What is sent, first things first: places of the departure.
    pub order: Vec<usize>,
    /// What becomes of each asset: what is sent in its order, then the others.
    pub rows: Vec<Row>,
    /// Which modes some target refuses, because it has too little room.
    pub short: Vec<(Mode, Shortage)>,
    /// The least loss of any plan, in seconds: no mode's bound is lower.
    pub bound_s: f64,
    /// How many bytes each leaving rank's link carries at most.
    pub sent_bytes: u64,
    /// Likewise of what must arrive so that nothing is lost but what is computed again.
    pub needed_bytes: u64,
    /// Likewise of what must arrive so that the job doesn't go back to a checkpoint.
    pub state_bytes: u64,
}

impl Planned {
    /// What the chosen mode is expected to come to.
    pub fn expected(&self) -> &Expected {
        &self.modes[0]
    }

    /// How much more the plan loses than the bound, as a part of what it loses: 0 is proven to be best.
    pub fn gap(&self) -> f64 {
        let loss_s = self.expected().loss_s;
        if loss_s > 1e-9 { ((loss_s - self.bound_s) / loss_s).max(0.0) } else { 0.0 }
    }

    /// What is lost at the expected rate if the machine dies at a moment: pairs of seconds from the notice and seconds.
    pub fn losses_against_death(&self, departure: &Departure) -> Vec<(f64, f64)> {
        let Ok(stock) = Stock::new(departure) else { return Vec::new() };
        let (window, moments) = (&departure.window, 400);
        let loss_at = |at: u32| {
            let death = f64::from(at) / f64::from(moments);
            (death * window.notice_s, stock.outcome(&self.script, window.link.bytes_per_s, death).loss_s)
        };
        (0..=moments).map(loss_at).collect()
    }

    /// What would have to be different for everything that can't be computed again to make it, nine times in ten.
    pub fn remedies(&self, departure: &Departure) -> Remedies {
        let window = &departure.window;
        let (sending_s, low) = (window.sending_s(), window.link.low());
        let needed = self.needed_bytes as f64;
        let spread = if window.link.bytes_per_s > 0.0 { low / window.link.bytes_per_s } else { 1.0 };
        Remedies {
            fits: needed <= sending_s * low,
            link_bytes_per_s: (sending_s > 0.0).then(|| needed / sending_s / spread),
            notice_s: (low > 0.0).then(|| needed / low + window.detect_s + window.reserve_s),
            room_bytes: (sending_s * low) as u64,
        }
    }

    /// Whether nothing can be saved.
    pub fn is_hopeless(&self) -> bool {
        self.expected().mode == Mode::Rollback
    }
}

/// Plans a departure: orders what can leave, chooses what does at each rate, and the mode by its expected loss.
///
/// # Errors
///
/// When more hangs together than can be put in order.
pub fn plan(departure: &Departure) -> Result<Planned, BlocksError> {
    let stock = Stock::new(departure)?;
    let mut shelves: Vec<(Shelf<'_>, Expected)> = Vec::new();
    for mode in Mode::ALL {
        let mut shelf = Shelf::default();
        let expected = stock.expect(mode, &mut shelf);
        shelves.push((shelf, expected));
    }
    let rate = departure.window.link.bytes_per_s;
    let stop = shelves.iter_mut().find(|(_, expected)| expected.mode == Mode::Stop);
    let stop = stop.map(|(shelf, _)| shelf.scripts(&stock, Mode::Stop, rate)[0].script.clone());
    shelves.sort_by(|(_, one), (_, other)| one.before(other));
    let modes: Vec<Expected> = shelves.iter().map(|(_, expected)| *expected).collect();
    let bound_s = modes.iter().map(|expected| expected.bound_s).fold(f64::INFINITY, f64::min);
    let script = {
        let scripts = shelves[0].0.scripts(&stock, modes[0].mode, rate);
        stock.written_out(&scripts[stock.place_of_best(scripts, rate)].script)
    };
    let needs = stop.unwrap_or_else(|| script.clone());
    let most = |of: &dyn Fn(usize) -> u64| (0..stock.lines).map(of).max().unwrap_or(0);
    Ok(Planned {
        order: script.lines.iter().flat_map(|line| line.order.iter().copied()).collect(),
        rows: stock.rows(&script),
        sent_bytes: most(&|line| script.lines[line].total),
        needed_bytes: most(&|line| needs.lines[line].step_end),
        state_bytes: most(&|line| needs.lines[line].state_end),
        short: stock.short.clone(),
        modes,
        script,
        bound_s,
    })
}

impl Expected {
    /// The smaller loss first. Of equal ones that of the mode that disturbs least; but where nothing is saved anyway, it
    /// isn't worth trying.
    fn before(&self, other: &Self) -> Ordering {
        let loss = |expected: &Self| (expected.loss_s * 1e9).round();
        let in_vain = |expected: &Self| expected.p_rollback > 1.0 - 1e-9 && expected.mode != Mode::Rollback;
        loss(self).total_cmp(&loss(other)).then(in_vain(self).cmp(&in_vain(other))).then(self.mode.cmp(&other.mode))
    }

    /// Takes in what happens with this probability.
    pub(crate) fn add(&mut self, likely: f64, outcome: Outcome) {
        self.loss_s += likely * outcome.loss_s;
        match outcome.kind {
            OutcomeKind::HandOff => {}
            OutcomeKind::StepLost => self.p_step_lost += likely,
            OutcomeKind::RolledBack => self.p_rollback += likely,
        }
    }
}

impl Stock<'_> {
    /// What is lost by who knows rate and moment of death, and chooses the mode accordingly.
    pub(crate) fn clairvoyant_loss_s(&self) -> f64 {
        let (rates, deaths) = (&self.rates, &self.deaths);
        let mut shelves: Vec<(Mode, Shelf<'_>)> = Mode::ALL.map(|mode| (mode, Shelf::default())).into();
        let mut sum_s = 0.0;
        for rate in rates {
            let mut least_s = vec![f64::INFINITY; deaths.len()];
            for (mode, shelf) in &mut shelves {
                for best in shelf.scripts(self, *mode, *rate) {
                    for (least_s, (death, _)) in least_s.iter_mut().zip(deaths) {
                        *least_s = least_s.min(self.least_loss_s(&best.script, &best.bounds_s, *rate, *death));
                    }
                }
            }
            let of_rate: f64 = least_s.iter().zip(deaths).map(|(least_s, (_, likely))| least_s * likely).sum();
            sum_s += of_rate / rates.len() as f64;
        }
        sum_s
    }

    /// What `mode` comes to over all rates and moments of death.
    pub(crate) fn expect<'a>(&'a self, mode: Mode, shelf: &mut Shelf<'a>) -> Expected {
        let (rate, rates, deaths) = (self.departure.window.link.bytes_per_s, &self.rates, &self.deaths);
        let mut expected = Expected {
            mode,
            loss_s: 0.0,
            bound_s: 0.0,
            p_rollback: 0.0,
            p_step_lost: 0.0,
            typical: {
                let scripts = shelf.scripts(self, mode, rate);
                self.outcome(&scripts[self.place_of_best(scripts, rate)].script, rate, 1.0)
            },
        };
        for rate in rates {
            let scripts = shelf.scripts(self, mode, *rate);
            let best = &scripts[self.place_of_best(scripts, *rate)];
            for (death, likely) in deaths {
                expected.add(likely / rates.len() as f64, self.outcome(&best.script, *rate, *death));
            }
            // Nobody knows the moment of death: what is wanted is the same whenever it comes.
            let least = scripts.iter().map(|best| {
                let least_s = |death| self.least_loss_s(&best.script, &best.bounds_s, *rate, death);
                deaths.iter().map(|(death, likely)| likely * least_s(*death)).sum::<f64>()
            });
            expected.bound_s += least.fold(f64::INFINITY, f64::min) / rates.len() as f64;
        }
        // Sums of many small parts.
        (expected.p_rollback, expected.p_step_lost) = (expected.p_rollback.min(1.0), expected.p_step_lost.min(1.0));
        expected
    }

    /// Which of the scripts between which a rate decides is best at it.
    pub(crate) fn place_of_best(&self, scripts: &[Best], rate: f64) -> usize {
        let loss_s = |best: &Best| -> f64 {
            self.deaths.iter().map(|(death, likely)| likely * self.outcome(&best.script, rate, *death).loss_s).sum()
        };
        let losses: Vec<f64> = scripts.iter().map(loss_s).collect();
        (0..losses.len()).min_by(|one, other| losses[*one].total_cmp(&losses[*other])).unwrap_or(0)
    }

    /// What becomes of each asset if `script` runs at the expected rate.
    fn rows(&self, script: &Script) -> Vec<Row> {
        let window = &self.departure.window;
        let mut is_sent = vec![false; self.departure.assets.len()];
        let mut rows = Vec::with_capacity(is_sent.len());
        for line in script.lines.iter() {
            let mut end = 0;
            for place in &line.order {
                end += self.departure.assets[*place].bytes;
                is_sent[*place] = true;
                let at_s = line.arrival_s(end, window.link.bytes_per_s);
                let fate = match at_s <= window.sending_s() + 1e-9 {
                    true => Fate::Sent { arrives_s: at_s + window.detect_s },
                    false => Fate::Late,
                };
                rows.push(Row { place: *place, fate });
            }
        }
        for place in (0..is_sent.len()).filter(|place| !is_sent[*place]) {
            let fate = match self.kinds[place] {
                Kind::Elsewhere => Fate::Fetched,
                Kind::Derived => Fate::Derived,
                // Behind a step that is complete, or dropped, nothing of it is computed again.
                Kind::Computable if script.mode == Mode::Stop && script.keeps_step => Fate::Recomputed,
                _ => Fate::GivenUp,
            };
            rows.push(Row { place, fate });
        }
        rows
    }
}

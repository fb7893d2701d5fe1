//! The ways to leave, and the best script of each.

use std::fmt;

use xfer_migrate_core::ItemClass;
use xfer_migrate_core::plan::{Choice, Ladder, Link};

use crate::evaluate::time_s;
use crate::script::{Line, Script, Stock};

/// A way to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// The node finishes the open step, and hands over parameters and optimizer state after it.
    Drain,
    /// State leaves at once, since it is constant until the optimizer steps; the node finishes its microbatches
    /// meanwhile, its gradients leave last, and the new owners step.
    Overlap,
    /// The node stops; state, gradients so far and what is in flight leave, or are computed again.
    Stop,
    /// The node stops; only state leaves, and the open step is done again.
    DropStep,
    /// The node is given up, and the job goes back to a checkpoint.
    Rollback,
}

impl Mode {
    /// All modes, those that lose least first.
    pub const ALL: [Self; 5] = [Self::Drain, Self::Overlap, Self::Stop, Self::DropStep, Self::Rollback];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Overlap => "overlap",
            Self::Stop => "stop",
            Self::DropStep => "drop-step",
            Self::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A script, and what no other of its mode could do better.
#[derive(Debug, Clone)]
pub(crate) struct Best {
    pub(crate) script: Script,
    /// For each line, the least time from the last byte of the open step until the rest is there too.
    pub(crate) bounds_s: Vec<f64>,
}

/// The scripts of one mode, made anew only when another rate chooses other blocks.
#[derive(Debug, Default)]
pub(crate) struct Shelf<'a> {
    /// For each line how its blocks are best sent, whatever the rate.
    ladders: Vec<Ladder<'a>>,
    chosen: Vec<Vec<bool>>,
    scripts: Vec<Best>,
}

impl<'a> Shelf<'a> {
    /// The scripts of `mode` between which the rate decides, each the best of its kind.
    pub(crate) fn scripts(&mut self, stock: &'a Stock<'_>, mode: Mode, bytes_per_s: f64) -> &[Best] {
        // Only what can be computed again depends on the rate.
        if mode != Mode::Stop && !self.scripts.is_empty() {
            return &self.scripts;
        }
        let choices: Vec<Choice> = match mode {
            Mode::Stop => {
                if self.ladders.is_empty() {
                    self.ladders = stock.pieces.iter().map(|pieces| Ladder::new(pieces)).collect();
                }
                (0..stock.lines).map(|line| stock.choose(&self.ladders, line, bytes_per_s)).collect()
            }
            _ => Vec::new(),
        };
        let is_new = self.scripts.is_empty() || !self.chosen.iter().eq(choices.iter().map(|choice| &choice.sent));
        if is_new {
            let plain = |script| Best { script, bounds_s: vec![0.0; stock.lines] };
            self.scripts = stock.scripts(mode, &choices).into_iter().map(plain).collect();
        }
        for (line, choice) in choices.iter().enumerate() {
            let step_s = time_s(stock.step_bytes(line), bytes_per_s);
            self.scripts[0].bounds_s[line] = (choice.bound_ns as f64 / 1e9 - step_s).max(0.0);
        }
        if is_new {
            self.chosen = choices.into_iter().map(|choice| choice.sent).collect();
        }
        &self.scripts
    }
}

impl Stock<'_> {
    fn scripts(&self, mode: Mode, choices: &[Choice]) -> Vec<Script> {
        let left_s = (self.departure.progress.step_left_s - self.departure.window.detect_s).max(0.0);
        let given_up = |kept: &Script| Script { keeps_step: false, ..kept.clone() };
        match mode {
            Mode::Rollback => {
                let lines = vec![Line::default(); self.lines].into();
                vec![Script { mode, lines, keeps_step: false, kept_s: self.all_compute_s.clone() }]
            }
            Mode::DropStep => vec![self.in_best_order(mode, &[], false)],
            Mode::Drain => {
                let script = self.in_best_order(mode, &[], true);
                let late = |line: &Line| Line { first_ready_s: left_s, rest_ready_s: left_s, ..line.clone() };
                vec![self.finished(script, late)]
            }
            Mode::Overlap => {
                let script = self.in_best_order(mode, &[], true);
                let late = |line: &Line| Line { split_bytes: line.state_end, rest_ready_s: left_s, ..line.clone() };
                let kept = self.finished(script, late);
                let given_up = given_up(&kept);
                vec![kept, given_up]
            }
            Mode::Stop => {
                let described_s = self.departure.handling.describe_s;
                let late =
                    |line: &Line| Line { split_bytes: line.state_end, rest_ready_s: described_s, ..line.clone() };
                let mut kept = self.in_best_order(mode, choices, true);
                if described_s > 0.0 {
                    kept.lines = kept.lines.iter().map(late).collect();
                }
                let given_up = given_up(&kept);
                vec![kept, given_up]
            }
        }
    }

    /// What a mode wants of the open step on a line, beside what can be computed again.
    pub(crate) fn wanted(&self, mode: Mode, line: usize) -> impl Iterator<Item = usize> {
        let is_wanted = move |place: &usize| match mode {
            // Behind the step nothing is in flight, and its gradients are used.
            Mode::Drain | Mode::DropStep | Mode::Rollback => false,
            Mode::Overlap => self.is_gradient(*place),
            Mode::Stop => self.is_there(*place),
        };
        self.step[line].iter().copied().filter(is_wanted)
    }

    /// At the end of a step nothing is to be computed again; `late` says from when on its lines may send.
    fn finished(&self, script: Script, late: impl Fn(&Line) -> Line) -> Script {
        Script { lines: script.lines.iter().map(late).collect(), kept_s: vec![0.0; self.targets], ..script }
    }

    /// Whether something of the open step exists by now: before the first backward there is nothing in the gradients.
    fn is_there(&self, place: usize) -> bool {
        self.has_gradients() || !self.is_gradient(place)
    }

    fn has_gradients(&self) -> bool {
        self.departure.progress.step_done_s > 0.0
    }

    fn is_gradient(&self, place: usize) -> bool {
        self.departure.assets[place].class == ItemClass::Gradient
    }

    /// What of a line's blocks is worth sending behind state and step.
    fn choose(&self, ladders: &[Ladder<'_>], line: usize, bytes_per_s: f64) -> Choice {
        let window = &self.departure.window;
        let room = (window.sending_s() * bytes_per_s) as u64;
        let spare = self.spare_bytes;
        let state_bytes = self.bytes_of(&mut self.state[line].iter().copied());
        let step_bytes = self.step_bytes(line);
        let link = Link {
            bytes_per_s: bytes_per_s as u64,
            ahead_bytes: step_bytes,
            // What targets fetch from ranks that stay takes its time meanwhile.
            free_bytes: self.fetched_bytes.iter().copied().max().unwrap_or(0).saturating_sub(state_bytes),
            room_bytes: room.saturating_sub(state_bytes).saturating_sub(step_bytes).min(spare),
        };
        ladders[line].choose(link, window.computing)
    }

    fn step_bytes(&self, line: usize) -> u64 {
        self.bytes_of(&mut self.wanted(Mode::Stop, line))
    }
}

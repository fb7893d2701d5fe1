//! What a script comes to at one rate and one moment of death.

use xfer_migrate_core::plan::Computing;

use crate::departure::{Departure, Progress};
use crate::mode::Mode;
use crate::script::{Line, Script, Stock};

/// How a departure ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// The new owners go on with the open step, or behind it.
    HandOff,
    /// The new owners have the state, and do the open step from its beginning.
    StepLost,
    /// The job goes back to a checkpoint.
    RolledBack,
}

/// What a departure came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub kind: OutcomeKind,
    /// When training goes on, in seconds from the notice.
    pub resumed_s: f64,
    /// How much later the open step ends than it would have without the departure, in seconds.
    pub loss_s: f64,
}

impl Stock<'_> {
    /// What `script` comes to at `bytes_per_s`, on machines that die after this part of the notice.
    pub(crate) fn outcome(&self, script: &Script, bytes_per_s: f64, death: f64) -> Outcome {
        let Departure { progress, window, .. } = self.departure;
        if script.mode == Mode::Rollback {
            return rolled_back(progress, window.detect_s);
        }
        let cut_s = (window.notice_s * death - window.detect_s).clamp(0.0, window.sending_s());
        let reached: Vec<u64> = script.lines.iter().map(|line| line.reached(cut_s, bytes_per_s)).collect();
        let all = |end: fn(&Line) -> u64| script.lines.iter().zip(&reached).all(|(line, at)| *at >= end(line));
        let last_s = |end: fn(&Line) -> u64| {
            script.lines.iter().map(|line| line.arrival_s(end(line), bytes_per_s)).fold(0.0_f64, f64::max)
        };
        let fetched_s = self.fetched_bytes.iter().map(|bytes| time_s(*bytes, bytes_per_s)).fold(0.0_f64, f64::max);
        if !all(|line| line.state_end) || !fetched_s.is_finite() {
            return rolled_back(progress, window.detect_s + cut_s);
        }
        let state_s = last_s(|line| line.state_end).max(fetched_s);
        if !script.keeps_step || !all(|line| line.step_end) {
            // Whoever waits for the rest learns of the death.
            let known_s = if script.keeps_step { cut_s.max(fetched_s) } else { state_s };
            return step_lost(progress, window.detect_s + known_s);
        }
        let whole = all(|line| line.total);
        let sent_s = if whole { last_s(|line| line.total).max(fetched_s) } else { cut_s.max(fetched_s) };
        let mut compute_s = script.kept_s.clone();
        for (number, (line, at)) in script.lines.iter().zip(&reached).enumerate() {
            self.add_late(number, line, *at, &mut compute_s);
        }
        let longest = |times: &[f64]| times.iter().copied().fold(0.0_f64, f64::max);
        let ready_s = match window.computing {
            Computing::After => sent_s + longest(&compute_s),
            // What was given up for good begins as soon as there is something to compute with.
            Computing::Beside if whole => sent_s.max(state_s + longest(&compute_s)),
            Computing::Beside => {
                let late: Vec<f64> = compute_s.iter().zip(&script.kept_s).map(|(all, kept)| all - kept).collect();
                (state_s + longest(&compute_s)).max(sent_s + longest(&late))
            }
        };
        handed_off(progress, script.mode, window.detect_s, window.detect_s + ready_s)
    }

    /// The least loss of any script that wants what `script` does: all state, and all of the open step or nothing of it.
    /// `bounds_s` is the least time from the last byte of the step to when the rest is there, for each line.
    pub(crate) fn least_loss_s(&self, script: &Script, bounds_s: &[f64], bytes_per_s: f64, death: f64) -> f64 {
        let Departure { progress, window, .. } = self.departure;
        let outcome = self.outcome(script, bytes_per_s, death);
        if script.mode != Mode::Stop || outcome.kind != OutcomeKind::HandOff {
            return outcome.loss_s;
        }
        let arrivals = script.lines.iter().map(|line| line.arrival_s(line.step_end, bytes_per_s));
        let ready_s = arrivals.zip(bounds_s).map(|(at, bound)| at + bound).fold(0.0_f64, f64::max);
        let least = handed_off(progress, script.mode, window.detect_s, window.detect_s + ready_s);
        least.loss_s.min(outcome.loss_s)
    }
}

fn handed_off(progress: &Progress, mode: Mode, detect_s: f64, resumed_s: f64) -> Outcome {
    let left_s = progress.step_left_s;
    match mode {
        // The step went on meanwhile, and is complete.
        Mode::Drain | Mode::Overlap => {
            let resumed_s = resumed_s.max(left_s);
            Outcome { kind: OutcomeKind::HandOff, resumed_s, loss_s: resumed_s - left_s }
        }
        // It went on until the notice was heard.
        _ => {
            let trained_s = detect_s.min(left_s);
            let rest_s = left_s - trained_s;
            let loss_s = resumed_s - trained_s + rest_s * (progress.slowdown - 1.0);
            Outcome { kind: OutcomeKind::HandOff, resumed_s, loss_s }
        }
    }
}

/// The whole step is done again, by fewer nodes.
fn step_again_s(progress: &Progress) -> f64 {
    (progress.step_done_s + progress.step_left_s) * progress.slowdown - progress.step_left_s
}

fn step_lost(progress: &Progress, resumed_s: f64) -> Outcome {
    Outcome { kind: OutcomeKind::StepLost, resumed_s, loss_s: resumed_s + step_again_s(progress) }
}

fn rolled_back(progress: &Progress, known_s: f64) -> Outcome {
    let resumed_s = known_s + progress.reload_s;
    let loss_s = resumed_s + progress.rollback_s + step_again_s(progress);
    Outcome { kind: OutcomeKind::RolledBack, resumed_s, loss_s }
}

impl Line {
    /// When the byte is there, in seconds from the first one that could leave.
    pub(crate) fn arrival_s(&self, byte: u64, bytes_per_s: f64) -> f64 {
        if byte == u64::MAX {
            return f64::INFINITY;
        }
        let first = byte.min(self.split_bytes);
        let first_s = if first == 0 { 0.0 } else { self.first_ready_s + time_s(first, bytes_per_s) };
        match byte - first {
            0 => first_s,
            rest => first_s.max(self.rest_ready_s) + time_s(rest, bytes_per_s),
        }
    }

    /// Up to which byte all is there at `cut_s`.
    fn reached(&self, cut_s: f64, bytes_per_s: f64) -> u64 {
        let carried = |from_s: f64| ((cut_s - from_s).max(0.0) * bytes_per_s * (1.0 + 1e-12)) as u64;
        let first = carried(self.first_ready_s);
        if first < self.split_bytes {
            return first;
        }
        let first_s = if self.split_bytes == 0 { 0.0 } else { self.arrival_s(self.split_bytes, bytes_per_s) };
        self.split_bytes.saturating_add(carried(first_s.max(self.rest_ready_s))).min(self.total)
    }
}

pub(crate) fn time_s(bytes: u64, bytes_per_s: f64) -> f64 {
    if bytes == 0 { 0.0 } else { bytes as f64 / bytes_per_s }
}

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
    /// What takes that long.
    pub parts: Parts,
    /// How much later the open step ends than it would have without the departure, in seconds.
    pub loss_s: f64,
}

/// What there is between a notice and the moment at which training goes on, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Parts {
    /// Until the notice is heard.
    pub detect_s: f64,
    /// Until the last byte is there that is waited for.
    pub stream_s: f64,
    /// Digests that are not through then.
    pub verify_s: f64,
    /// Seals and the commit.
    pub commit_s: f64,
    /// What new owners have to do before they can go on.
    pub take_over_s: f64,
    /// What is computed again.
    pub compute_s: f64,
    /// Reading a checkpoint.
    pub reload_s: f64,
    /// What the step takes longer than all of this.
    pub train_s: f64,
}

impl Parts {
    /// All of them with words, in order.
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("detect", self.detect_s),
            ("stream", self.stream_s),
            ("verify", self.verify_s),
            ("commit", self.commit_s),
            ("take over", self.take_over_s),
            ("compute again", self.compute_s),
            ("reload", self.reload_s),
            ("train", self.train_s),
        ]
    }

    /// All of them together.
    pub fn sum_s(&self) -> f64 {
        self.named().iter().map(|(_, seconds)| seconds).sum()
    }
}

impl Stock<'_> {
    /// What `script` comes to at `bytes_per_s`, on machines that die after this part of the notice.
    pub(crate) fn outcome(&self, script: &Script, bytes_per_s: f64, death: f64) -> Outcome {
        let Departure { progress, window, .. } = self.departure;
        let detect_s = window.detect_s;
        if script.mode == Mode::Rollback || self.is_refused(script.mode) {
            return rolled_back(progress, Parts { detect_s, ..Parts::default() });
        }
        let cut_s = (window.notice_s * death - detect_s).clamp(0.0, window.sending_s());
        let reached: Vec<u64> = script.lines.iter().map(|line| line.reached(cut_s, bytes_per_s)).collect();
        let all = |end: fn(&Line) -> u64| script.lines.iter().zip(&reached).all(|(line, at)| *at >= end(line));
        let last_s = |end: fn(&Line) -> u64| {
            script.lines.iter().map(|line| line.arrival_s(end(line), bytes_per_s)).fold(0.0_f64, f64::max)
        };
        let fetched_s = self.fetched_bytes.iter().map(|bytes| time_s(*bytes, bytes_per_s)).fold(0.0_f64, f64::max);
        if !all(|line| line.state_end) || !fetched_s.is_finite() {
            return rolled_back(progress, Parts { detect_s, stream_s: cut_s, ..Parts::default() });
        }
        let state_s = last_s(|line| line.state_end).max(fetched_s);
        if !script.keeps_step || !all(|line| line.step_end) {
            if !progress.redo {
                return rolled_back(progress, Parts { detect_s, stream_s: cut_s, ..Parts::default() });
            }
            // Whoever waits for the rest learns of the death.
            let known_s = if script.keeps_step { cut_s.max(fetched_s) } else { state_s };
            return step_lost(progress, self.handled(script, known_s));
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
        let compute_s = (ready_s - sent_s).max(0.0);
        handed_off(progress, script.mode, Parts { compute_s, ..self.handled(script, sent_s) })
    }

    /// What there is beside computing, if the last byte that matters is there at `sent_s`.
    fn handled(&self, script: &Script, sent_s: f64) -> Parts {
        let handling = &self.departure.handling;
        let bytes = script.lines.iter().map(|line| line.total).max().unwrap_or(0) as f64;
        let verify_s = handling.digest_bytes_per_s.map_or(0.0, |rate| (bytes / rate - sent_s).max(0.0));
        let (meanwhile_s, after_s) = self.taking_over(script);
        let late_s = (meanwhile_s - sent_s - verify_s - handling.commit_s).max(0.0);
        Parts {
            detect_s: self.departure.window.detect_s,
            stream_s: sent_s,
            verify_s,
            commit_s: handling.commit_s,
            take_over_s: late_s + after_s,
            ..Parts::default()
        }
    }

    /// What the new owner that has most to do does while bytes come, and afterwards, in seconds.
    fn taking_over(&self, script: &Script) -> (f64, f64) {
        let handling = &self.departure.handling;
        let with_forwards = if script.mode == Mode::Stop && script.keeps_step { 1.0 } else { 0.0 };
        let meanwhile_s = handling.meanwhile_s + with_forwards * handling.stop_meanwhile_s;
        (meanwhile_s, handling.after_s + with_forwards * handling.stop_after_s)
    }

    /// The least loss of any script that wants what `script` does: all state, and all of the open step or nothing of it.
    /// `bounds_s` is the least time from the last byte of the step to when the rest is there, for each line.
    pub(crate) fn least_loss_s(&self, script: &Script, bounds_s: &[f64], bytes_per_s: f64, death: f64) -> f64 {
        let Departure { progress, window, handling, .. } = self.departure;
        let outcome = self.outcome(script, bytes_per_s, death);
        if script.mode != Mode::Stop || outcome.kind != OutcomeKind::HandOff {
            return outcome.loss_s;
        }
        let arrivals = script.lines.iter().map(|line| line.arrival_s(line.step_end, bytes_per_s));
        let ready_s = arrivals.zip(bounds_s).map(|(at, bound)| at + bound).fold(0.0_f64, f64::max);
        let parts = Parts {
            detect_s: window.detect_s,
            stream_s: ready_s,
            commit_s: handling.commit_s,
            take_over_s: self.taking_over(script).1,
            ..Parts::default()
        };
        handed_off(progress, script.mode, parts).loss_s.min(outcome.loss_s)
    }
}

fn handed_off(progress: &Progress, mode: Mode, parts: Parts) -> Outcome {
    let (left_s, ready_s) = (progress.step_left_s, parts.sum_s());
    let kind = OutcomeKind::HandOff;
    match mode {
        // The step went on meanwhile, and is complete.
        Mode::Drain | Mode::Overlap => {
            let resumed_s = ready_s.max(left_s);
            let parts = Parts { train_s: resumed_s - ready_s, ..parts };
            Outcome { kind, resumed_s, parts, loss_s: resumed_s - left_s }
        }
        // It went on until the notice was heard.
        _ => {
            let trained_s = parts.detect_s.min(left_s);
            let rest_s = left_s - trained_s;
            let loss_s = ready_s - trained_s + rest_s * (progress.slowdown - 1.0);
            Outcome { kind, resumed_s: ready_s, parts, loss_s }
        }
    }
}

/// The whole step is done again, by fewer nodes.
fn step_again_s(progress: &Progress) -> f64 {
    (progress.step_done_s + progress.step_left_s) * progress.slowdown - progress.step_left_s
}

fn step_lost(progress: &Progress, parts: Parts) -> Outcome {
    let resumed_s = parts.sum_s();
    Outcome { kind: OutcomeKind::StepLost, resumed_s, parts, loss_s: resumed_s + step_again_s(progress) }
}

fn rolled_back(progress: &Progress, known: Parts) -> Outcome {
    let parts = Parts { reload_s: progress.reload_s, ..known };
    let resumed_s = parts.sum_s();
    let loss_s = resumed_s + progress.rollback_s + step_again_s(progress);
    Outcome { kind: OutcomeKind::RolledBack, resumed_s, parts, loss_s }
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

//! What to send, of what could also be computed again, so that everything is there soonest.

use std::collections::BinaryHeap;

use crate::budget::time_for;

/// What is sent as a whole or computed again as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Who would compute it: a small number, given out from 0.
    pub target: usize,
    /// What it weighs on the link.
    pub bytes: u64,
    /// How long its target computes it, in nanoseconds.
    pub saves_ns: u64,
}

/// When targets compute what isn't sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Computing {
    /// While the link sends the rest.
    Beside,
    /// Once all that is sent is there.
    After,
}

/// What carries pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// In bytes per second.
    pub bytes_per_s: u64,
    /// What it carries first, while targets can compute already.
    pub ahead_bytes: u64,
    /// Until it could have carried so many bytes, nobody waits for it and nothing can be computed.
    pub free_bytes: u64,
    /// How many bytes of pieces can be sent at all.
    pub room_bytes: u64,
}

/// Which pieces to send, and how good that is.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// For each piece, whether it is sent.
    pub sent: Vec<bool>,
    /// When all of them are there, in nanoseconds from the first byte.
    pub end_ns: u64,
    /// No choice ends before that, in nanoseconds, even if pieces could be sent in part.
    pub bound_ns: u64,
}

/// Chooses which of `pieces`, which come by falling density, are sent over `link`.
///
/// The link and the targets are unrelated machines. If a piece could be sent in part, it would be best to bring the
/// busiest targets down together, each sending its densest pieces first, until the link costs more than it saves: a
/// linear program that this solves exactly, and whose value bounds every choice. Whole pieces are at most one piece a
/// target away from that; those in question are tried.
pub fn choose(pieces: &[Piece], link: Link, computing: Computing) -> Choice {
    let relaxed = Relaxed::solve(pieces, link, computing);
    let nothing = Trial::start(pieces, link, computing);
    let everything = nothing.clone().with_all();
    let whole = nothing.clone().with(&relaxed.whole);
    let rounded_up = whole.clone().with(&relaxed.split);
    let trials = [whole.complete(), rounded_up.complete(), nothing, everything];
    let best = trials.into_iter().filter(|trial| trial.bytes <= link.room_bytes).min_by_key(Trial::end_ns);
    // Sending nothing always fits.
    let (sent, end_ns) = best.map_or_else(|| (Vec::new(), 0), |trial| (trial.sent.clone(), trial.end_ns()));
    // Rounded to whole nanoseconds, the relaxation may come out later than what it bounds.
    Choice { sent, end_ns, bound_ns: (relaxed.end_ns.max(0.0) as u64).min(end_ns) }
}

/// The best choice if pieces could be sent in part.
struct Relaxed {
    /// What is sent as a whole.
    whole: Vec<usize>,
    /// What is sent in part: at most one piece a target.
    split: Vec<usize>,
    end_ns: f64,
}

/// The moment at which the busiest targets are down to `level_ns`, and what changes then for `target`.
#[derive(PartialEq)]
struct Step {
    level_ns: f64,
    target: usize,
}

impl Relaxed {
    fn solve(pieces: &[Piece], link: Link, computing: Computing) -> Self {
        let targets = pieces.iter().map(|piece| piece.target + 1).max().unwrap_or(0);
        let mut queues: Vec<Vec<usize>> = vec![Vec::new(); targets];
        let mut levels_ns = vec![0.0; targets];
        for (at, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.saves_ns > 0) {
            queues[piece.target].push(at);
            levels_ns[piece.target] += piece.saves_ns as f64;
        }
        let mut queues: Vec<_> = queues.into_iter().map(|queue| queue.into_iter()).collect();
        let mut steps: BinaryHeap<Step> =
            levels_ns.iter().enumerate().map(|(target, level_ns)| Step { level_ns: *level_ns, target }).collect();
        // For each target that is at the level, the piece that it is sending.
        let mut current: Vec<Option<usize>> = vec![None; targets];
        let mut whole = Vec::new();
        let (mut bytes, mut slope) = (link.ahead_bytes as f64, 0.0_f64);
        let room = bytes + link.room_bytes as f64;
        let bytes_per_ns = link.bytes_per_s as f64 / 1e9;
        let mut level_ns = steps.peek().map_or(0.0, |step| step.level_ns);

        while let Some(step) = steps.pop() {
            let by_room = level_ns - (room - bytes).max(0.0) / slope.max(f64::MIN_POSITIVE);
            let by_end = lowest_level(level_ns, bytes, slope, link.free_bytes as f64, bytes_per_ns, computing);
            let lowest = by_room.max(by_end).min(level_ns);
            if lowest > step.level_ns {
                bytes += slope * (level_ns - lowest);
                level_ns = lowest;
                break;
            }
            bytes += slope * (level_ns - step.level_ns);
            level_ns = step.level_ns;
            if let Some(done) = current[step.target].take() {
                whole.push(done);
                slope -= cost(&pieces[done]);
            }
            let Some(next) = queues[step.target].next() else { break };
            slope += cost(&pieces[next]);
            current[step.target] = Some(next);
            steps.push(Step { level_ns: (level_ns - pieces[next].saves_ns as f64).max(0.0), target: step.target });
        }
        let time_ns = |bytes: f64| if bytes > 0.0 { bytes / bytes_per_ns } else { 0.0 };
        let (send_ns, free_ns) = (time_ns(bytes), time_ns(link.free_bytes as f64));
        let end_ns = match computing {
            Computing::Beside => send_ns.max(free_ns + level_ns),
            Computing::After => send_ns.max(free_ns) + level_ns,
        };
        let split = current.into_iter().flatten().collect();
        Self { whole, split, end_ns: end_ns * (1.0 - 1e-12) }
    }
}

/// Down to which level it pays to go on at `slope` bytes a nanosecond.
fn lowest_level(level_ns: f64, bytes: f64, slope: f64, free: f64, bytes_per_ns: f64, computing: Computing) -> f64 {
    if slope <= 0.0 {
        return 0.0;
    }
    match computing {
        // The link is through when the targets are.
        Computing::Beside => ((bytes - free + slope * level_ns) / (bytes_per_ns + slope)).max(0.0),
        Computing::After if slope < bytes_per_ns => 0.0,
        // As long as nobody waits for the link, it costs nothing.
        Computing::After => level_ns - (free - bytes).max(0.0) / slope,
    }
}

/// The bytes that take a nanosecond off its target.
fn cost(piece: &Piece) -> f64 {
    piece.bytes as f64 / piece.saves_ns as f64
}

/// A choice under trial.
#[derive(Clone)]
struct Trial<'a> {
    pieces: &'a [Piece],
    link: Link,
    computing: Computing,
    sent: Vec<bool>,
    bytes: u64,
    /// What each target computes.
    compute_ns: Vec<u64>,
}

impl<'a> Trial<'a> {
    /// Nothing is sent.
    fn start(pieces: &'a [Piece], link: Link, computing: Computing) -> Self {
        let targets = pieces.iter().map(|piece| piece.target + 1).max().unwrap_or(0);
        let mut compute_ns = vec![0_u64; targets];
        for piece in pieces {
            compute_ns[piece.target] = compute_ns[piece.target].saturating_add(piece.saves_ns);
        }
        Self { pieces, link, computing, sent: vec![false; pieces.len()], bytes: 0, compute_ns }
    }

    /// These are sent too.
    fn with(mut self, places: &[usize]) -> Self {
        for place in places {
            let piece = &self.pieces[*place];
            self.sent[*place] = true;
            self.bytes = self.bytes.saturating_add(piece.bytes);
            self.compute_ns[piece.target] = self.compute_ns[piece.target].saturating_sub(piece.saves_ns);
        }
        self
    }

    /// Everything is sent that saves something.
    fn with_all(mut self) -> Self {
        for (piece, sent) in self.pieces.iter().zip(&mut self.sent).filter(|(piece, _)| piece.saves_ns > 0) {
            *sent = true;
            self.bytes = self.bytes.saturating_add(piece.bytes);
        }
        self.compute_ns.fill(0);
        self
    }

    /// Adds each piece that fits and brings the end nearer, the densest first.
    fn complete(mut self) -> Self {
        let (mut first, mut second) = self.busiest();
        let mut end_ns = self.end_ns();
        for (at, piece) in self.pieces.iter().enumerate() {
            let bytes = self.bytes.saturating_add(piece.bytes);
            if self.sent[at] || piece.saves_ns == 0 || bytes > self.link.room_bytes {
                continue;
            }
            let left_ns = self.compute_ns[piece.target].saturating_sub(piece.saves_ns);
            let others_ns = if first.1 == piece.target { second } else { first.0 };
            let with_ns = self.end_of(bytes, left_ns.max(others_ns));
            if with_ns < end_ns {
                (self.bytes, end_ns) = (bytes, with_ns);
                self.sent[at] = true;
                self.compute_ns[piece.target] = left_ns;
                (first, second) = self.busiest();
            }
        }
        self
    }

    fn end_ns(&self) -> u64 {
        self.end_of(self.bytes, self.busiest().0.0)
    }

    /// The longest computation and its target; and the longest of the others.
    fn busiest(&self) -> ((u64, usize), u64) {
        let (mut first, mut second) = ((0, 0), 0);
        for (target, ns) in self.compute_ns.iter().copied().enumerate() {
            if ns > first.0 {
                (first, second) = ((ns, target), first.0);
            } else {
                second = second.max(ns);
            }
        }
        (first, second)
    }

    fn end_of(&self, bytes: u64, compute_ns: u64) -> u64 {
        let send_ns = self.time_ns(bytes.saturating_add(self.link.ahead_bytes));
        let free_ns = self.time_ns(self.link.free_bytes);
        match self.computing {
            Computing::Beside => send_ns.max(free_ns.saturating_add(compute_ns)),
            Computing::After => send_ns.max(free_ns).saturating_add(compute_ns),
        }
    }

    fn time_ns(&self, bytes: u64) -> u64 {
        let nanos = time_for(bytes, self.link.bytes_per_s).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    /// The highest level first; levels are finite.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.level_ns.total_cmp(&other.level_ns).then(other.target.cmp(&self.target))
    }
}

#[cfg(test)]
mod tests;

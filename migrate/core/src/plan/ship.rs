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

impl Computing {
    /// When all is there: sent after `sent_ns`, and computed in `compute_ns` once nobody waits for the link any more.
    fn end_ns(self, sent_ns: u64, free_ns: u64, compute_ns: u64) -> u64 {
        match self {
            Self::Beside => sent_ns.max(free_ns.saturating_add(compute_ns)),
            Self::After => sent_ns.max(free_ns).saturating_add(compute_ns),
        }
    }
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
    /// Likewise when those that are sent are.
    pub sent_ns: u64,
    /// No choice ends before that, in nanoseconds, even if pieces could be sent in part.
    pub bound_ns: u64,
}

/// Chooses which of `pieces`, which come by falling density, are sent over `link`: [`Ladder::choose`] for one link.
pub fn choose(pieces: &[Piece], link: Link, computing: Computing) -> Choice {
    Ladder::new(pieces).choose(link, computing)
}

/// How pieces, which come by falling density, are best sent one after the other, over whatever link.
///
/// The link and the targets are unrelated machines. If a piece could be sent in part, it would be best to bring the
/// busiest targets down together, each sending its densest pieces first, until the link costs more than it saves: a
/// linear program that one walk down solves exactly, and whose value bounds every choice. The way down is the same for
/// every link, which only decides where it ends: so it is walked once, and looked up for each rate.
#[derive(Debug, Clone)]
pub struct Ladder<'a> {
    pieces: &'a [Piece],
    rungs: Vec<Rung>,
    /// What each target computes if nothing is sent, in nanoseconds.
    compute_ns: Vec<u64>,
    /// The bytes of everything that saves something.
    bytes: u64,
}

/// The moment at which the busiest targets are down to a level, and what they send from there on.
#[derive(Debug, Clone, Copy)]
struct Rung {
    level_ns: f64,
    /// What was sent until here.
    bytes: f64,
    /// The bytes that take the next nanosecond off all of them.
    slope: f64,
    /// The piece that is whole now.
    done: Option<u32>,
    /// The piece that its target sends now; none at the end of the ladder.
    next: Option<u32>,
}

/// The best choice if pieces could be sent in part.
struct Relaxed {
    /// How many rungs it goes down.
    rungs: usize,
    end_ns: f64,
}

impl<'a> Ladder<'a> {
    /// Walks all the way down.
    pub fn new(pieces: &'a [Piece]) -> Self {
        let targets = pieces.iter().map(|piece| piece.target + 1).max().unwrap_or(0);
        let mut queues: Vec<Vec<u32>> = vec![Vec::new(); targets];
        let mut compute_ns = vec![0_u64; targets];
        let mut all_bytes = 0_u64;
        for (at, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.saves_ns > 0) {
            queues[piece.target].push(at as u32);
            compute_ns[piece.target] = compute_ns[piece.target].saturating_add(piece.saves_ns);
            all_bytes = all_bytes.saturating_add(piece.bytes);
        }
        let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
        let top = |(target, level_ns): (usize, &u64)| Step { level_ns: *level_ns as f64, target };
        let mut steps: BinaryHeap<Step> = compute_ns.iter().enumerate().map(top).collect();
        // For each target that is at the level, the piece that it is sending.
        let mut current: Vec<Option<u32>> = vec![None; targets];
        let mut rungs: Vec<Rung> = Vec::with_capacity(pieces.len() + targets);
        let (mut bytes, mut slope) = (0.0, 0.0_f64);
        let mut level_ns = steps.peek().map_or(0.0, |step| step.level_ns);
        while let Some(step) = steps.pop() {
            bytes += slope * (level_ns - step.level_ns);
            level_ns = step.level_ns;
            let done = current[step.target].take();
            slope -= done.map_or(0.0, |done| cost(&pieces[done as usize]));
            let next = queues[step.target].next();
            slope += next.map_or(0.0, |next| cost(&pieces[next as usize]));
            rungs.push(Rung { level_ns, bytes, slope, done, next });
            let Some(next) = next else { break };
            current[step.target] = Some(next);
            let below_ns = level_ns - pieces[next as usize].saves_ns as f64;
            steps.push(Step { level_ns: below_ns.max(0.0), target: step.target });
        }
        Self { pieces, rungs, compute_ns, bytes: all_bytes }
    }

    /// Chooses which pieces are sent over `link`. Whole pieces are at most one piece a target away from the best there
    /// could be in part; those in question are tried.
    pub fn choose(&self, link: Link, computing: Computing) -> Choice {
        let relaxed = self.relax(link, computing);
        let nothing = Trial::start(self, link, computing);
        let everything_ns = nothing.end_of(self.bytes, 0);
        let mut whole = nothing.clone();
        let mut split: Vec<Option<u32>> = vec![None; self.compute_ns.len()];
        for rung in &self.rungs[..relaxed.rungs] {
            if let Some(done) = rung.done {
                whole.send(done as usize);
                split[self.pieces[done as usize].target] = None;
            }
            if let Some(next) = rung.next {
                split[self.pieces[next as usize].target] = Some(next);
            }
        }
        let mut rounded_up = whole.clone();
        split.into_iter().flatten().for_each(|piece| rounded_up.send(piece as usize));
        let trials = [whole, rounded_up].map(Trial::complete).into_iter();
        // Sending nothing always fits.
        let best = trials.filter(|trial| trial.bytes <= link.room_bytes).min_by_key(|trial| trial.end_ns);
        let best = best.filter(|trial| trial.end_ns <= nothing.end_ns).unwrap_or_else(|| nothing.clone());
        let (mut sent, mut end_ns, mut sent_bytes) = (best.sent, best.end_ns, best.bytes);
        if everything_ns < end_ns && self.bytes <= link.room_bytes {
            sent = self.pieces.iter().map(|piece| piece.saves_ns > 0).collect();
            (end_ns, sent_bytes) = (everything_ns, self.bytes);
        }
        // Rounded to whole nanoseconds, the relaxation may come out later than what it bounds.
        let bound_ns = (relaxed.end_ns.max(0.0) as u64).min(end_ns);
        Choice { sent, end_ns, sent_ns: sent_ns(sent_bytes, link).min(end_ns), bound_ns }
    }

    /// How good it is to send exactly `sent` over `link`.
    pub(super) fn judge(&self, sent: Vec<bool>, link: Link, computing: Computing) -> Choice {
        let end_ns = self.end_ns(&sent, link, computing);
        let sent_ns = sent_ns(self.bytes(&sent), link).min(end_ns);
        let bound_ns = (self.relax(link, computing).end_ns.max(0.0) as u64).min(end_ns);
        Choice { sent, end_ns, sent_ns, bound_ns }
    }

    /// When all pieces are there if exactly `sent` are sent over `link`, in nanoseconds from the first byte.
    pub(super) fn end_ns(&self, sent: &[bool], link: Link, computing: Computing) -> u64 {
        let mut compute_ns = vec![0_u64; self.compute_ns.len()];
        for (piece, _) in self.pieces.iter().zip(sent).filter(|(_, sent)| !**sent) {
            compute_ns[piece.target] = compute_ns[piece.target].saturating_add(piece.saves_ns);
        }
        let most_ns = compute_ns.into_iter().max().unwrap_or(0);
        computing.end_ns(sent_ns(self.bytes(sent), link), time_ns(link.free_bytes, link), most_ns)
    }

    /// What `sent` weighs on a link, in bytes.
    pub(super) fn bytes(&self, sent: &[bool]) -> u64 {
        let pieces = self.pieces.iter().zip(sent).filter(|(_, sent)| **sent);
        pieces.fold(0, |sum: u64, (piece, _)| sum.saturating_add(piece.bytes))
    }

    fn relax(&self, link: Link, computing: Computing) -> Relaxed {
        let ahead = link.ahead_bytes as f64;
        let (room, free) = (link.room_bytes as f64, link.free_bytes as f64);
        let bytes_per_ns = link.bytes_per_s as f64 / 1e9;
        let (mut level_ns, mut bytes) = self.rungs.first().map_or((0.0, ahead), |top| (top.level_ns, ahead));
        let mut rungs = usize::from(!self.rungs.is_empty());
        for (at, rung) in self.rungs.iter().enumerate() {
            (level_ns, bytes, rungs) = (rung.level_ns, rung.bytes + ahead, at + 1);
            let by_room = level_ns - (room - rung.bytes).max(0.0) / rung.slope.max(f64::MIN_POSITIVE);
            let by_end = lowest_level(level_ns, bytes, rung.slope, free, bytes_per_ns, computing);
            let lowest = by_room.max(by_end).min(level_ns);
            if self.rungs.get(at + 1).is_some_and(|below| lowest > below.level_ns) {
                bytes += rung.slope * (level_ns - lowest);
                level_ns = lowest;
                break;
            }
        }
        let time_ns = |bytes: f64| if bytes > 0.0 { bytes / bytes_per_ns } else { 0.0 };
        let (send_ns, free_ns) = (time_ns(bytes), time_ns(free));
        let end_ns = match computing {
            Computing::Beside => send_ns.max(free_ns + level_ns),
            Computing::After => send_ns.max(free_ns) + level_ns,
        };
        Relaxed { rungs, end_ns: end_ns * (1.0 - 1e-12) }
    }
}

/// The moment at which a target is down to `level_ns`.
#[derive(PartialEq)]
struct Step {
    level_ns: f64,
    target: usize,
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
    free_ns: u64,
    sent: Vec<bool>,
    bytes: u64,
    /// What each target computes.
    compute_ns: Vec<u64>,
    end_ns: u64,
}

impl<'a> Trial<'a> {
    /// Nothing is sent.
    fn start(ladder: &Ladder<'a>, link: Link, computing: Computing) -> Self {
        let (pieces, compute_ns) = (ladder.pieces, ladder.compute_ns.clone());
        let free_ns = time_ns(link.free_bytes, link);
        let sent = vec![false; pieces.len()];
        let mut trial = Self { pieces, link, computing, free_ns, sent, bytes: 0, compute_ns, end_ns: 0 };
        trial.end_ns = trial.end_of(0, trial.busiest().0.0);
        trial
    }

    /// This one is sent too. The end is known again once the trial is complete.
    fn send(&mut self, place: usize) {
        let piece = &self.pieces[place];
        self.sent[place] = true;
        self.bytes = self.bytes.saturating_add(piece.bytes);
        self.compute_ns[piece.target] = self.compute_ns[piece.target].saturating_sub(piece.saves_ns);
    }

    /// Adds each piece that fits and brings the end nearer, the densest first.
    fn complete(mut self) -> Self {
        let (mut first, mut second) = self.busiest();
        self.end_ns = self.end_of(self.bytes, first.0);
        let ns_per_byte = 1e9 / self.link.bytes_per_s as f64;
        for (at, piece) in self.pieces.iter().enumerate() {
            // Nobody waits for a target that isn't the busiest; and exact times are computed only where it may matter.
            if self.sent[at] || piece.target != first.1 || self.costs_more_than_it_saves(piece, ns_per_byte) {
                continue;
            }
            let bytes = self.bytes.saturating_add(piece.bytes);
            if piece.saves_ns == 0 || bytes > self.link.room_bytes {
                continue;
            }
            let left_ns = self.compute_ns[piece.target].saturating_sub(piece.saves_ns);
            let with_ns = self.end_of(bytes, left_ns.max(second));
            if with_ns < self.end_ns {
                (self.bytes, self.end_ns) = (bytes, with_ns);
                self.sent[at] = true;
                self.compute_ns[piece.target] = left_ns;
                (first, second) = self.busiest();
            }
        }
        self
    }

    /// Whether that can be told without computing exactly: everybody waits for the link already, and a piece takes it
    /// longer than its target.
    fn costs_more_than_it_saves(&self, piece: &Piece, ns_per_byte: f64) -> bool {
        let link_is_waited_for = self.bytes.saturating_add(self.link.ahead_bytes) >= self.link.free_bytes;
        let saves_ns = piece.saves_ns as f64 * (1.0 + 1e-12) + 2.0;
        self.computing == Computing::After && link_is_waited_for && piece.bytes as f64 * ns_per_byte > saves_ns
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
        self.computing.end_ns(sent_ns(bytes, self.link), self.free_ns, compute_ns)
    }
}

/// When `bytes` of pieces are there.
fn sent_ns(bytes: u64, link: Link) -> u64 {
    time_ns(bytes.saturating_add(link.ahead_bytes), link)
}

fn time_ns(bytes: u64, link: Link) -> u64 {
    let nanos = time_for(bytes, link.bytes_per_s).as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
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

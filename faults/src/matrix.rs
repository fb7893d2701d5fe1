//! The matrix itself: which fault applies at which step, who stages it, and what becomes of it in the simulator.

use crate::Required;
use crate::Required::{Commits, Quarantines, Refuses, Restores, RollsBack};
use crate::step::Step;

/// Runs of each cell in the simulator, with other lengths, delays and connections.
pub const VARIANTS: u64 = 3;

/// The faults of which the simulator stages any two together.
pub const PAIRED: [&str; 6] = ["F01", "F02", "F03", "F07", "F11", "F12"];

/// Who has to stage a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Real processes and the simulator.
    R,
    /// The simulator alone.
    S,
}

/// What becomes of a cell in the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simulated {
    /// It is staged, and this has to come of it.
    Ends(Required),
    /// It isn't, for this reason.
    Absent(&'static str),
}

/// One fault at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Who has to stage it.
    pub mark: Mark,
    /// What the simulator does with it.
    pub simulated: Simulated,
}

/// A fault, and its cells in the order of [`Step::ALL`]; none where it does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its number.
    pub id: &'static str,
    /// What goes wrong.
    pub name: &'static str,
    /// What is required at each step.
    pub cells: [Option<Cell>; 9],
}

impl Fault {
    /// All cells of it that apply.
    pub fn at_steps(&self) -> impl Iterator<Item = (Step, Cell)> + use<'_> {
        Step::ALL.into_iter().zip(self.cells).filter_map(|(step, cell)| Some((step, cell?)))
    }

    /// The cell of a step, if it applies there.
    pub fn at(&self, step: Step) -> Option<Cell> {
        self.cells[step as usize]
    }
}

const fn cell(mark: Mark, simulated: Simulated) -> Option<Cell> {
    Some(Cell { mark, simulated })
}

const fn r(required: Required) -> Option<Cell> {
    cell(Mark::R, Simulated::Ends(required))
}

const fn s(required: Required) -> Option<Cell> {
    cell(Mark::S, Simulated::Ends(required))
}

const fn r_absent(reason: &'static str) -> Option<Cell> {
    cell(Mark::R, Simulated::Absent(reason))
}

const fn s_absent(reason: &'static str) -> Option<Cell> {
    cell(Mark::S, Simulated::Absent(reason))
}

const fn row(id: &'static str, name: &'static str, cells: [Option<Cell>; 9]) -> Fault {
    Fault { id, name, cells }
}

/// The simulator sees that somebody refused; the words are for people, and looked at where processes are real.
const REFUSES: Required = Refuses("");

const REGISTRATION: &str = "the simulator moves bytes without a device: no memory is registered there";
const VERBS: &str = "the simulator has links and no queue pairs: their completions are tried over devices";
const COMPLETIONS: &str =
    "the simulator has links and no queue pairs: the backend's suite loses and spoils completions of devices";
const NCCL: &str = "there is no NCCL backend yet";
const CUDA: &str = "there is no device memory yet";

/// All faults.
#[rustfmt::skip]
pub const FAULTS: [Fault; 36] = [
    // handshake, register, notice, bulk, delta, verify, commit, release, resume
    row("F01", "source killed",
        [r(Commits), s(Restores), r(Restores), r(Restores), r(Restores), r(Restores), r(Commits), r(Commits), s(Restores)]),
    row("F02", "target killed",
        [r(Commits), s(RollsBack), r(RollsBack), r(RollsBack), r(RollsBack), r(RollsBack), r(Commits), r(Commits), r(RollsBack)]),
    row("F03", "store killed",
        [s(RollsBack), None, r(RollsBack), r(RollsBack), r(RollsBack), s(RollsBack), r(RollsBack), r(Commits), r(RollsBack)]),
    row("F04", "a process stops, is declared dead, and goes on",
        [r(Commits), s(Restores), r(Restores), r(Restores), r(Restores), r(Restores), r(Commits), r(Commits), r(Restores)]),
    row("F05", "a process is busy",
        [s(Commits), None, r(Commits), r(Commits), r(Commits), s(Commits), s(Commits), s(Commits), s(Commits)]),
    row("F06", "a second, shorter notice, and then the kill",
        [None, None, r(Commits), r(Commits), r(Commits), s(Commits), r(Commits), r(Commits), None]),
    row("F07", "a target has to leave, too",
        [s(Commits), None, r(RollsBack), r(RollsBack), r(RollsBack), s(RollsBack), r(Commits), s(Commits), r(RollsBack)]),
    row("F08", "no target has room, or none is left",
        [None, None, r(REFUSES), s(RollsBack), s(RollsBack), s(RollsBack), s(RollsBack), None, s(RollsBack)]),
    row("F09", "the notice is withdrawn",
        [None, None, r(RollsBack), r(RollsBack), s(RollsBack), s(RollsBack), r(Commits), None, r(RollsBack)]),
    row("F10", "the deadline comes now",
        [None, None, r(Restores), r(Restores), r(Restores), r(Restores), r(Commits), s(Commits), None]),
    row("F11", "partition, both ways",
        [r(Commits), None, r(RollsBack), r(RollsBack), r(RollsBack), r(RollsBack), r(Commits), r(Commits), r(RollsBack)]),
    row("F12", "partition, one way",
        [r(Commits), None, r(RollsBack), r(RollsBack), s(RollsBack), r(RollsBack), r(Commits), r(Commits), s(RollsBack)]),
    row("F13", "only source and store are cut",
        [None, None, r(Commits), s(Commits), s(Commits), s(Commits), r(Commits), r(Commits), r(Commits)]),
    row("F14", "flapping link",
        [s(Commits), None, s(Commits), r(Commits), s(Commits), s(Commits), s(Commits), s(Commits), s(Commits)]),
    row("F15", "slow link, 1 % of its rate",
        [None, None, s(Restores), r(Restores), r(Commits), s(Commits), s(Commits), s(Commits), None]),
    row("F16", "latency and jitter",
        [s(Commits), None, s(Commits), r(Commits), s(Commits), s(Commits), s(Commits), s(Commits), s(Commits)]),
    row("F17", "duplicates, replays, messages of before",
        [r(Commits), None, r(Commits), r(Commits), r(Commits), r(Commits), r(Commits), r(Commits), r(Commits)]),
    row("F18", "a payload bit flips",
        [None, None, None, r(Commits), r(Commits), r(Commits), s(Commits), None, r(Commits)]),
    row("F19", "garbage instead of a frame",
        [r(Commits), r(RollsBack), r(RollsBack), r(RollsBack), r(RollsBack), r(RollsBack), r(Commits), r(Commits), r(RollsBack)]),
    row("F20", "a connection is reset",
        [r(Commits), None, r(Commits), r(Commits), s(Commits), s(Commits), r(Commits), s(Commits), s(Commits)]),
    row("F21", "a peer that does not read",
        [r(Commits), None, s(Commits), r(Commits), s(Commits), s(Commits), s(Commits), None, None]),
    row("F22", "out of descriptors",
        [r(Commits), r(Commits), s(Commits), r(Commits), s(Commits), None, s(Commits), None, r(Commits)]),
    row("F23", "an allocation fails",
        [s(REFUSES), r(REFUSES), r(REFUSES), r(REFUSES), s(Commits), s(Commits), s(Commits), None, r(REFUSES)]),
    row("F24", "the store's disk is full: its next write is torn",
        [None, None, r(Commits), None, None, None, r(Commits), r(Commits), r(Commits)]),
    row("F25", "registration of device or pinned memory fails",
        [None, r_absent(REGISTRATION), None, r_absent(REGISTRATION), s_absent(REGISTRATION), None, None, None, s_absent(REGISTRATION)]),
    row("F26", "the source changes while it is sent",
        [None, None, None, r(Commits), r(Commits), r(Commits), None, None, None]),
    row("F27", "verbs: error completion",
        [s_absent(VERBS), s_absent(VERBS), None, s_absent(VERBS), s_absent(VERBS), s_absent(VERBS), None, None, None]),
    row("F28", "verbs: a completion is lost",
        [None, None, None, s_absent(COMPLETIONS), s_absent(COMPLETIONS), s_absent(COMPLETIONS), None, None, None]),
    row("F29", "a late write after cancel",
        [None, None, None, r(Quarantines), r(Quarantines), r(Quarantines), None, r(Commits), None]),
    row("F30", "NCCL: error, hang, wrong data",
        [s_absent(NCCL), None, None, s_absent(NCCL), s_absent(NCCL), None, None, s_absent(NCCL), None]),
    row("F31", "GPU: copy, stream, sticky error",
        [None, s_absent(CUDA), None, s_absent(CUDA), s_absent(CUDA), s_absent(CUDA), None, None, None]),
    row("F32", "a wall clock jumps by an hour",
        [r(Commits), None, r(Commits), r(Commits), s(Commits), s(Commits), r(Commits), r(Commits), r(Commits)]),
    row("F33", "a machine freezes for 5 s",
        [s(Commits), None, s(RollsBack), r(RollsBack), r(RollsBack), s(RollsBack), r(Commits), r(Commits), s(RollsBack)]),
    row("F34", "another wire version",
        [r(REFUSES), None, r(REFUSES), s(REFUSES), None, None, r(REFUSES), None, r(REFUSES)]),
    row("F35", "another job or layout",
        [r(REFUSES), r(REFUSES), r(REFUSES), None, None, None, None, None, r(REFUSES)]),
    row("F36", "a peer without the right to",
        [r(REFUSES), r(REFUSES), r(REFUSES), r(REFUSES), s(REFUSES), s(REFUSES), r(REFUSES), r(REFUSES), r(REFUSES)]),
];

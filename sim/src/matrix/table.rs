//! The table of faults: the one place that says which fault is staged where, and what is required of it.

use super::Required::{Commits, Later, Quarantines, Refuses, Restores, RollsBack};
use super::{Cell, Required, Where};

/// A fault, and its cells in the order of [`Step::ALL`](crate::step::Step::ALL); none where it does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its number.
    pub id: &'static str,
    /// What goes wrong.
    pub name: &'static str,
    /// What is required at each step.
    pub cells: [Option<Cell>; 9],
}

const fn r(required: Required) -> Option<Cell> {
    Some(Cell { place: Where::Real, required })
}

const fn s(required: Required) -> Option<Cell> {
    Some(Cell { place: Where::Simulator, required })
}

const fn row(id: &'static str, name: &'static str, cells: [Option<Cell>; 9]) -> Fault {
    Fault { id, name, cells }
}

/// All faults.
#[rustfmt::skip]
pub const FAULTS: [Fault; 36] = [
    // handshake, register, notice, bulk, delta, verify, commit, release, recover
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
        [None, None, r(Refuses), s(RollsBack), s(RollsBack), s(RollsBack), s(RollsBack), None, s(RollsBack)]),
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
        [s(Refuses), r(Refuses), r(Refuses), r(Refuses), s(Commits), s(Commits), s(Commits), None, r(Refuses)]),
    row("F24", "journal: disk full, torn write",
        [None, None, r(Later), None, None, None, r(Later), r(Later), r(Later)]),
    row("F25", "registration of device or pinned memory fails",
        [None, r(Later), None, r(Later), s(Later), None, None, None, s(Later)]),
    row("F26", "the source changes while it is sent",
        [None, None, None, r(Commits), r(Commits), r(Commits), None, None, None]),
    row("F27", "verbs: error completion",
        [s(Later), s(Later), None, s(Later), s(Later), s(Later), None, None, None]),
    row("F28", "verbs: a completion is lost",
        [None, None, None, s(Later), s(Later), s(Later), None, None, None]),
    row("F29", "a late write after cancel",
        [None, None, None, r(Quarantines), r(Quarantines), r(Quarantines), None, r(Commits), None]),
    row("F30", "NCCL: error, hang, wrong data",
        [s(Later), None, None, s(Later), s(Later), None, None, s(Later), None]),
    row("F31", "GPU: copy, stream, sticky error",
        [None, s(Later), None, s(Later), s(Later), s(Later), None, None, None]),
    row("F32", "a wall clock jumps by an hour",
        [r(Commits), None, r(Commits), r(Commits), s(Commits), s(Commits), r(Commits), r(Commits), r(Commits)]),
    row("F33", "a machine freezes for 5 s",
        [s(Commits), None, s(RollsBack), r(RollsBack), r(RollsBack), s(RollsBack), r(Commits), r(Commits), s(RollsBack)]),
    row("F34", "another wire version",
        [r(Refuses), None, r(Refuses), s(Refuses), None, None, r(Refuses), None, r(Refuses)]),
    row("F35", "another job or layout",
        [r(Refuses), r(Refuses), r(Refuses), None, None, None, None, None, r(Refuses)]),
    row("F36", "a peer without the right to",
        [r(Refuses), r(Refuses), r(Refuses), r(Refuses), s(Refuses), s(Refuses), r(Refuses), r(Refuses), r(Refuses)]),
];

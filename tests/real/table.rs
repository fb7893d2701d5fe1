//! The cells of the fault matrix that real processes are put through, each with the outcome that it must have.

use crate::faults::{Fault, Part};

/// Where a migration is when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The processes run, and are not connected.
    Handshake,
    /// A target has been offered items, and is about to allocate their memory.
    Register,
    /// The targets have heard that the source leaves; nothing is offered yet.
    Notice,
    /// The first items have landed, the large ones are on their way.
    Bulk,
    /// All state has landed; the last items are on their way and the cut is known.
    Delta,
    /// Everything has been written; a target is about to compare its digest.
    Verify,
    /// All targets have sealed, and are about to propose the next generation.
    Commit,
    /// The next generation is true.
    Release,
    /// A first attempt was withdrawn, and a second one is as far as `Bulk`.
    Resume,
}

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    /// The targets own, with all that landed and a list of what is to be computed again.
    Commits,
    /// The source owns as before.
    RollsBack,
    /// The targets own, whole items only, and restore what is missing from a checkpoint.
    Expires,
    /// Somebody says no, in a sentence that contains this; nothing changes.
    Refuses(&'static str),
    /// Nobody can know: every process says so, in a sentence that contains this, and nobody acts.
    Undecided(&'static str),
}

/// One fault at several steps.
pub struct Row {
    /// Its number in the matrix.
    pub fault: &'static str,
    /// What it is, for the test's name.
    pub name: &'static str,
    pub how: Fault,
    pub cells: &'static [(Step, Required)],
    /// Whether it is staged on the connections between processes, so that all of them lead through a proxy.
    pub proxied: bool,
}

/// Cells of the matrix that there is nothing to stage for, and why. They are not counted as passed.
pub struct Absent {
    pub fault: &'static str,
    pub steps: &'static [Step],
    pub reason: &'static str,
}

use Required::{Commits, Expires, Refuses, RollsBack, Undecided};
use Step::{Bulk, Commit, Delta, Handshake, Notice, Register, Release, Resume, Verify};

const fn row(fault: &'static str, name: &'static str, how: Fault, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, how, cells, proxied: false }
}

const fn proxied(fault: &'static str, name: &'static str, how: Fault, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, how, cells, proxied: true }
}

/// All that is run, over each transport.
pub const ROWS: &[Row] = &[
    row(
        "F01",
        "source_killed",
        Fault::Kill(Part::Source),
        &[
            (Handshake, Refuses("[1]")),
            (Notice, Expires),
            (Bulk, Expires),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
        ],
    ),
    row(
        "F02",
        "target_killed",
        Fault::Kill(Part::Target),
        &[
            (Handshake, Refuses("[2]")),
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Delta, RollsBack),
            (Verify, RollsBack),
            // The source has time left and still has everything, so it takes the work back rather than leave it to a dead owner.
            (Commit, RollsBack),
            (Release, Commits),
            (Resume, RollsBack),
        ],
    ),
    row(
        "F03",
        "store_killed",
        Fault::Kill(Part::Store),
        &[
            (Notice, Undecided("no store at")),
            (Bulk, Undecided("no store at")),
            (Delta, Undecided("no store at")),
            (Commit, Undecided("no store at")),
        ],
    ),
    row(
        "F04",
        "source_zombie",
        Fault::Zombie(Part::Source),
        &[
            (Notice, Expires),
            (Bulk, Expires),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
        ],
    ),
    row(
        "F04",
        "target_zombie",
        Fault::Zombie(Part::Target),
        &[
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Delta, RollsBack),
            (Verify, RollsBack),
            (Commit, RollsBack),
            (Release, Commits),
            (Resume, RollsBack),
        ],
    ),
    row("F05", "processors_busy", Fault::Starve, &[(Notice, Commits), (Bulk, Commits), (Delta, Commits)]),
    row(
        "F06",
        "second_term",
        Fault::SecondTerm,
        &[(Notice, Commits), (Bulk, Commits), (Delta, Commits), (Commit, Commits), (Release, Commits)],
    ),
    row(
        "F06",
        "term_then_kill",
        Fault::TermThenKill,
        &[(Notice, Expires), (Bulk, Expires), (Delta, Commits), (Commit, Commits), (Release, Commits)],
    ),
    row(
        "F07",
        "target_leaves_too",
        Fault::TargetNotice,
        &[
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Delta, RollsBack),
            // What it has sealed is better kept than refused.
            (Commit, Commits),
            (Resume, RollsBack),
        ],
    ),
    row("F08", "no_room", Fault::NoRoom, &[(Notice, Refuses("rank 2 refused"))]),
    row(
        "F09",
        "withdrawn",
        Fault::Withdraw,
        &[(Notice, RollsBack), (Bulk, RollsBack), (Commit, RollsBack), (Resume, RollsBack)],
    ),
    row(
        "F10",
        "deadline_now",
        Fault::DeadlineNow,
        &[(Notice, Expires), (Bulk, Expires), (Delta, Commits), (Verify, Commits), (Commit, Commits)],
    ),
    row("F22", "few_files", Fault::FewFiles, &[(Handshake, Refuses("Too many open files"))]),
    row("F22", "files_used_up", Fault::FilesUsedUp, &[(Register, Commits), (Bulk, Commits), (Resume, Commits)]),
    row("F26", "source_changes", Fault::SourceChanges, &[(Bulk, Commits), (Delta, Commits), (Verify, Commits)]),
    row(
        "F33",
        "long_pause",
        Fault::Freeze,
        &[(Bulk, Commits), (Delta, Commits), (Release, Commits), (Resume, Commits)],
    ),
    row("F35", "other_job", Fault::OtherJob, &[(Handshake, Refuses("job"))]),
];

/// What is not run.
pub const ABSENT: &[Absent] = &[];

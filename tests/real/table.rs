//! The cells of the fault matrix that real processes are put through, each with the outcome that it must have.

use xfer_chaos::Action::{Duplicate, FlipHeader, FlipPayload, NextVersion, Oversize, Reset, Swap, Truncate};
use xfer_transport_core::frame::FrameKind::{Data, Greeting, Link, Message};

use crate::faults::{Fault, Part};
use crate::net::{Net, Stranger};

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
    proxied(
        "F11",
        "source_cut_off",
        Fault::Net(Net::Cut),
        &[
            (Handshake, Refuses("[1]")),
            (Notice, Expires),
            (Bulk, Expires),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
            (Resume, Expires),
        ],
    ),
    proxied(
        "F12",
        "target_not_heard",
        Fault::Net(Net::OneWay),
        &[
            (Handshake, Refuses("[1]")),
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Verify, RollsBack),
            (Commit, RollsBack),
            (Release, Commits),
        ],
    ),
    proxied(
        "F13",
        "store_cut_off",
        Fault::Net(Net::StoreCut),
        &[(Notice, Commits), (Commit, Commits), (Release, Commits), (Resume, Commits)],
    ),
    proxied("F14", "links_flap", Fault::Net(Net::Flap), &[(Bulk, Commits)]),
    proxied("F15", "slow_link", Fault::Net(Net::Slow), &[(Bulk, Expires), (Delta, Commits)]),
    proxied("F16", "latency_and_jitter", Fault::Net(Net::Jitter), &[(Bulk, Commits)]),
    proxied(
        "F17",
        "message_twice",
        Fault::Net(Net::Once(Duplicate, Message)),
        &[
            (Notice, Commits),
            (Bulk, Commits),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
            (Resume, Commits),
        ],
    ),
    proxied(
        "F17",
        "acknowledgement_twice",
        Fault::Net(Net::Once(Duplicate, Link)),
        &[(Bulk, Commits), (Delta, Commits), (Verify, Commits), (Resume, Commits)],
    ),
    proxied(
        "F17",
        "chunk_twice",
        Fault::Net(Net::Once(Duplicate, Data)),
        &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)],
    ),
    proxied(
        "F17",
        "chunks_swapped",
        Fault::Net(Net::Once(Swap, Data)),
        &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)],
    ),
    proxied("F17", "hello_twice", Fault::Net(Net::Once(Duplicate, Greeting)), &[(Handshake, Commits)]),
    proxied(
        "F18",
        "chunk_flipped",
        Fault::Net(Net::Once(FlipPayload, Data)),
        &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)],
    ),
    proxied(
        "F19",
        "hello_garbled",
        Fault::Net(Net::Once(FlipHeader, Greeting)),
        &[(Handshake, Refuses("damaged frame header"))],
    ),
    proxied(
        "F19",
        "header_garbled",
        Fault::Net(Net::Once(FlipHeader, Data)),
        &[(Notice, RollsBack), (Bulk, RollsBack), (Delta, RollsBack), (Resume, RollsBack)],
    ),
    proxied("F19", "oversized", Fault::Net(Net::Once(Oversize, Data)), &[(Bulk, RollsBack), (Delta, RollsBack)]),
    proxied(
        "F19",
        "cut_off_in_a_frame",
        Fault::Net(Net::Once(Truncate, Data)),
        &[(Notice, Commits), (Bulk, Commits), (Delta, Commits), (Resume, Commits)],
    ),
    proxied("F20", "hello_reset", Fault::Net(Net::Once(Reset, Greeting)), &[(Handshake, Commits)]),
    proxied("F20", "link_reset", Fault::Net(Net::Once(Reset, Data)), &[(Bulk, Commits)]),
    proxied("F20", "control_link_reset", Fault::Net(Net::Once(Reset, Message)), &[(Bulk, Commits), (Commit, Commits)]),
    proxied("F21", "slow_reader", Fault::Net(Net::SlowReader), &[(Bulk, Commits)]),
    proxied("F21", "silent_strangers", Fault::Net(Net::Stranger(Stranger::Silent)), &[(Handshake, Commits)]),
    proxied(
        "F19",
        "stranger_babbles",
        Fault::Net(Net::Stranger(Stranger::Babbling)),
        &[(Register, Commits), (Verify, Commits), (Commit, Commits), (Release, Commits)],
    ),
    proxied(
        "F36",
        "stranger_of_another_job",
        Fault::Net(Net::Stranger(Stranger::OfAnotherJob)),
        &[
            (Handshake, Commits),
            (Register, Commits),
            (Notice, Commits),
            (Bulk, Commits),
            (Commit, Commits),
            (Release, Commits),
            (Resume, Commits),
        ],
    ),
    proxied(
        "F34",
        "next_version",
        Fault::Net(Net::Always(NextVersion, Greeting)),
        &[(Handshake, Refuses("wire version"))],
    ),
];

/// What is not run, and why.
pub const ABSENT: &[Absent] = &[
    Absent {
        fault: "F03",
        steps: &[Release, Resume],
        reason: "no journal: the store is in memory, and what it held is gone with its process",
    },
    Absent {
        fault: "F23",
        steps: &[Register, Notice, Bulk, Resume],
        reason: "memory comes from the system's overcommit: not staged yet",
    },
    Absent { fault: "F24", steps: &[Notice, Commit, Release, Resume], reason: "no journal: the store is in memory" },
    Absent { fault: "F25", steps: &[Register, Bulk], reason: "TCP registers no memory" },
    Absent {
        fault: "F29",
        steps: &[Bulk, Delta, Verify, Release],
        reason: "looked for at random instants by the canary, not by step",
    },
    Absent {
        fault: "F32",
        steps: &[Handshake, Notice, Bulk, Commit, Release, Resume],
        reason: "a process's wall clock can't be moved alone without a library that isn't everywhere",
    },
    Absent {
        fault: "F34",
        steps: &[Notice, Commit, Resume],
        reason: "a peer of another version is refused at the handshake, before these",
    },
    Absent {
        fault: "F35",
        steps: &[Register, Notice, Resume],
        reason: "a peer of another job is refused at the handshake, before these",
    },
];

//! What real processes are put through: each fault in the ways in which it is staged, over which transports, with its outcome.

use crate::Required;
use crate::Required::{Commits, Quarantines, Refuses, Restores, RollsBack, Undecided};
use crate::step::Step;
use crate::step::Step::{Bulk, Commit, Delta, Handshake, Notice, Register, Release, Resume, Verify};

/// What carries the bytes while a fault is staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// TCP over loopback, through proxies if the fault is one of connections.
    Tcp,
    /// Shared memory, with TCP standing by.
    Shm,
    /// TCP between network namespaces, where they can be made.
    Namespaces,
}

impl Over {
    /// Its name in tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Namespaces => "netns",
        }
    }
}

/// One way to stage a fault, at several steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The fault's number.
    pub fault: &'static str,
    /// What is done, as the test's name has it.
    pub name: &'static str,
    /// Over what.
    pub over: &'static [Over],
    /// What must come of it at each step.
    pub cells: &'static [(Step, Required)],
}

/// Cells that real processes have to stage by the matrix, and don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent {
    /// The fault's number.
    pub fault: &'static str,
    /// Where.
    pub steps: &'static [Step],
    /// Why.
    pub reason: &'static str,
}

const fn row(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, over: &[Over::Tcp, Over::Shm], cells }
}

/// A fault that proxies stage, which shared memory would lead past.
const fn on_the_wire(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, over: &[Over::Tcp], cells }
}

/// A fault of memory or sockets that only processes of one machine share.
const fn within_a_machine(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, over: &[Over::Shm], cells }
}

/// A fault that the system's own network stages.
const fn between_namespaces(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, over: &[Over::Namespaces], cells }
}

/// All that is run, over each transport.
pub const ROWS: &[Row] = &[
    row(
        "F01",
        "source_killed",
        &[
            (Handshake, Refuses("[1]")),
            (Notice, Restores),
            (Bulk, Restores),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
        ],
    ),
    row(
        "F02",
        "target_killed",
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
        &[
            (Notice, Undecided("no store at")),
            (Bulk, Undecided("no store at")),
            (Delta, Undecided("no store at")),
            (Commit, Undecided("no store at")),
            // Who knows what is true already keeps to it.
            (Release, Commits),
            (Resume, Undecided("no store at")),
        ],
    ),
    row(
        "F04",
        "source_zombie",
        &[
            (Handshake, Refuses("[1]")),
            (Notice, Restores),
            (Bulk, Restores),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
        ],
    ),
    row(
        "F04",
        "target_zombie",
        &[
            (Handshake, Refuses("[2]")),
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Delta, RollsBack),
            (Verify, RollsBack),
            (Commit, RollsBack),
            (Release, Commits),
            (Resume, RollsBack),
        ],
    ),
    row("F05", "processors_busy", &[(Notice, Commits), (Bulk, Commits), (Delta, Commits)]),
    row(
        "F05",
        "worker_panics",
        &[
            (Notice, Refuses("a worker panicked")),
            // What nobody has verified is sent again.
            (Bulk, Commits),
            (Delta, Commits),
            (Commit, Commits),
        ],
    ),
    row(
        "F06",
        "second_term",
        &[(Notice, Commits), (Bulk, Commits), (Delta, Commits), (Commit, Commits), (Release, Commits)],
    ),
    row(
        "F06",
        "term_then_kill",
        &[(Notice, Restores), (Bulk, Restores), (Delta, Commits), (Commit, Commits), (Release, Commits)],
    ),
    row(
        "F07",
        "target_leaves_too",
        &[
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Delta, RollsBack),
            // What it has sealed is better kept than refused.
            (Commit, Commits),
            (Resume, RollsBack),
        ],
    ),
    row("F08", "no_room", &[(Notice, Refuses("rank 2 refused"))]),
    row("F09", "withdrawn", &[(Notice, RollsBack), (Bulk, RollsBack), (Commit, RollsBack), (Resume, RollsBack)]),
    row(
        "F10",
        "deadline_now",
        &[(Notice, Restores), (Bulk, Restores), (Delta, Commits), (Verify, Commits), (Commit, Commits)],
    ),
    row("F22", "few_files", &[(Handshake, Refuses("Too many open files"))]),
    row("F22", "files_used_up", &[(Register, Commits), (Bulk, Commits), (Resume, Commits)]),
    row("F22", "port_taken", &[(Handshake, Refuses("in use"))]),
    row(
        "F23",
        "no_memory",
        &[
            (Register, Refuses("no memory for")),
            (Notice, Refuses("no memory for")),
            (Bulk, Refuses("no memory for")),
            (Resume, Refuses("no memory for")),
        ],
    ),
    row("F26", "source_changes", &[(Bulk, Commits), (Delta, Commits), (Verify, Commits)]),
    row("F29", "target_stopped", &[(Bulk, Quarantines), (Delta, Quarantines)]),
    row(
        "F32",
        "wall_clocks_jump",
        &[
            (Handshake, Commits),
            (Notice, Commits),
            (Bulk, Commits),
            (Commit, Commits),
            (Release, Commits),
            (Resume, Commits),
        ],
    ),
    row(
        "F33",
        "long_pause",
        &[(Bulk, Commits), (Delta, Commits), (Commit, Commits), (Release, Commits), (Resume, Commits)],
    ),
    row("F35", "other_job", &[(Handshake, Refuses("job"))]),
    // The source is told no by name, and what it offers besides goes on.
    row("F35", "wrong_layout", &[(Register, Commits), (Notice, Commits), (Resume, Commits)]),
    within_a_machine("F18", "ring_scribbled", &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)]),
    within_a_machine(
        "F20",
        "connections_break",
        &[(Notice, Commits), (Bulk, Commits), (Delta, Commits), (Commit, Commits)],
    ),
    between_namespaces(
        "F11",
        "link_down",
        &[
            (Handshake, Refuses("[1]")),
            (Notice, Restores),
            (Bulk, Restores),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
            (Resume, Restores),
        ],
    ),
    between_namespaces(
        "F13",
        "store_unreachable",
        &[(Notice, Commits), (Commit, Commits), (Release, Commits), (Resume, Commits)],
    ),
    between_namespaces("F15", "link_shaped", &[(Bulk, Restores), (Delta, Commits)]),
    on_the_wire(
        "F11",
        "source_cut_off",
        &[
            (Handshake, Refuses("[1]")),
            (Notice, Restores),
            (Bulk, Restores),
            (Delta, Commits),
            (Verify, Commits),
            (Commit, Commits),
            (Release, Commits),
            (Resume, Restores),
        ],
    ),
    on_the_wire(
        "F12",
        "target_not_heard",
        &[
            (Handshake, Refuses("[1]")),
            (Notice, RollsBack),
            (Bulk, RollsBack),
            (Verify, RollsBack),
            (Commit, RollsBack),
            (Release, Commits),
        ],
    ),
    on_the_wire("F13", "store_cut_off", &[(Notice, Commits), (Commit, Commits), (Release, Commits), (Resume, Commits)]),
    on_the_wire("F14", "links_flap", &[(Bulk, Commits)]),
    on_the_wire("F15", "slow_link", &[(Bulk, Restores), (Delta, Commits)]),
    on_the_wire("F16", "latency_and_jitter", &[(Bulk, Commits)]),
    on_the_wire(
        "F17",
        "message_twice",
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
    on_the_wire(
        "F17",
        "acknowledgement_twice",
        &[(Bulk, Commits), (Delta, Commits), (Verify, Commits), (Resume, Commits)],
    ),
    on_the_wire("F17", "chunk_twice", &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)]),
    on_the_wire("F17", "chunks_swapped", &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)]),
    on_the_wire("F17", "hello_twice", &[(Handshake, Commits)]),
    on_the_wire("F18", "chunk_flipped", &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)]),
    on_the_wire("F19", "hello_garbled", &[(Handshake, Refuses("damaged frame header"))]),
    on_the_wire(
        "F19",
        "header_garbled",
        &[(Notice, RollsBack), (Bulk, RollsBack), (Delta, RollsBack), (Resume, RollsBack)],
    ),
    on_the_wire("F19", "oversized", &[(Notice, RollsBack), (Bulk, RollsBack), (Delta, RollsBack), (Resume, RollsBack)]),
    on_the_wire(
        "F19",
        "cut_off_in_a_frame",
        &[(Notice, Commits), (Bulk, Commits), (Delta, Commits), (Resume, Commits)],
    ),
    on_the_wire("F20", "hello_reset", &[(Handshake, Commits)]),
    on_the_wire("F20", "link_reset", &[(Notice, Commits), (Bulk, Commits), (Delta, Commits)]),
    on_the_wire("F20", "control_link_reset", &[(Notice, Commits), (Bulk, Commits), (Commit, Commits)]),
    on_the_wire("F21", "slow_reader", &[(Bulk, Commits)]),
    on_the_wire("F21", "silent_strangers", &[(Handshake, Commits)]),
    on_the_wire(
        "F19",
        "stranger_babbles",
        &[(Register, Commits), (Verify, Commits), (Commit, Commits), (Release, Commits)],
    ),
    on_the_wire(
        "F36",
        "stranger_of_another_job",
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
    row("F24", "journal_full", &[(Notice, Commits), (Commit, Commits), (Release, Commits), (Resume, Commits)]),
    // Words that can't be trusted end the connection, and with it the peer; the source, which has everything, stays.
    on_the_wire("F18", "message_flipped", &[(Bulk, RollsBack), (Resume, RollsBack)]),
    on_the_wire("F29", "chunks_late", &[(Bulk, RollsBack), (Delta, RollsBack)]),
    on_the_wire("F29", "chunk_replayed", &[(Verify, Commits), (Release, Commits)]),
    on_the_wire("F34", "next_version_comes_back", &[(Notice, RollsBack), (Commit, RollsBack), (Resume, RollsBack)]),
    on_the_wire("F34", "next_version", &[(Handshake, Refuses("wire version"))]),
];

/// What is not run, and why.
pub const ABSENT: &[Absent] = &[
    Absent {
        fault: "F18",
        steps: &[Verify],
        reason: "everything has been written by then; a message that is flipped ends its connection, as at the steps before",
    },
    Absent {
        fault: "F25",
        steps: &[Register, Bulk],
        reason: "neither TCP nor shared memory pins or registers what it moves",
    },
];

/// Cells of [`ROWS`] that are not staged over shared memory, and why. Asked of those in which items are on their way.
pub const ABSENT_OVER_SHM: &[Absent] = &[
    Absent {
        fault: "F11",
        steps: &[Bulk, Delta, Verify],
        reason: "nothing can part two processes of one machine but the end of one",
    },
    Absent {
        fault: "F12",
        steps: &[Bulk, Verify],
        reason: "a connection within a machine does not carry one way only",
    },
    Absent { fault: "F14", steps: &[Bulk], reason: "a connection within a machine does not come and go" },
    Absent {
        fault: "F15",
        steps: &[Bulk, Delta],
        reason: "no link between two processes of one machine can be shaped",
    },
    Absent {
        fault: "F16",
        steps: &[Bulk],
        reason: "the kernel's own queue has no latency to speak of, and loses nothing",
    },
    Absent { fault: "F17", steps: &[Bulk, Delta, Verify], reason: "the kernel neither doubles nor swaps packets" },
    Absent {
        fault: "F19",
        steps: &[Bulk, Delta, Verify],
        reason: "packets never leave the kernel; the decoder of packets is a fuzz target",
    },
    Absent { fault: "F21", steps: &[Bulk], reason: "a reader that stops is staged as a process that stops, in F04" },
    Absent { fault: "F29", steps: &[Verify], reason: "the receiver pulls, so that nothing is written late" },
    Absent {
        fault: "F36",
        steps: &[Bulk],
        reason: "who connects within a machine is told by the kernel; another user needs another user's rights",
    },
];

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
    /// RDMA between two devices of one machine, where there are two, with TCP standing by.
    Verbs,
}

impl Over {
    /// Its name in tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Namespaces => "netns",
            Self::Verbs => "verbs",
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

const fn row(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, over: &[Over::Tcp, Over::Shm, Over::Verbs], cells }
}

/// A fault for which it makes no difference that a network card moves the bytes.
const fn without_verbs(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
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

/// A fault of RDMA devices, or of what is between them.
const fn between_devices(fault: &'static str, name: &'static str, cells: &'static [(Step, Required)]) -> Row {
    Row { fault, name, over: &[Over::Verbs], cells }
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
    without_verbs("F08", "no_room", &[(Notice, Refuses("rank 2 refused"))]),
    row("F09", "withdrawn", &[(Notice, RollsBack), (Bulk, RollsBack), (Commit, RollsBack), (Resume, RollsBack)]),
    row(
        "F10",
        "deadline_now",
        &[(Notice, Restores), (Bulk, Restores), (Delta, Commits), (Verify, Commits), (Commit, Commits)],
    ),
    without_verbs("F22", "few_files", &[(Handshake, Refuses("Too many open files"))]),
    row("F22", "files_used_up", &[(Register, Commits), (Bulk, Commits), (Resume, Commits)]),
    without_verbs("F22", "port_taken", &[(Handshake, Refuses("in use"))]),
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
    without_verbs(
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
    without_verbs("F35", "other_job", &[(Handshake, Refuses("job"))]),
    // The source is told no by name, and what it offers besides goes on.
    without_verbs("F35", "wrong_layout", &[(Register, Commits), (Notice, Commits), (Resume, Commits)]),
    within_a_machine("F18", "ring_scribbled", &[(Bulk, Commits), (Delta, Commits), (Resume, Commits)]),
    within_a_machine(
        "F20",
        "connections_break",
        &[(Notice, Commits), (Bulk, Commits), (Delta, Commits), (Commit, Commits)],
    ),
    between_devices("F14", "rdma_hiccup", &[(Bulk, Commits)]),
    between_devices("F15", "cable_shaped", &[(Bulk, Restores), (Delta, Commits)]),
    between_devices("F16", "cable_jitters", &[(Bulk, Commits)]),
    between_devices("F17", "packets_twice_and_swapped", &[(Bulk, Commits), (Delta, Commits), (Verify, Commits)]),
    between_devices("F18", "packets_damaged", &[(Bulk, Commits), (Delta, Commits)]),
    between_devices("F25", "pins_used_up", &[(Register, Commits), (Bulk, Commits)]),
    between_devices("F27", "rdma_packets_lost", &[(Register, Commits), (Bulk, Commits), (Delta, Commits)]),
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
    without_verbs(
        "F24",
        "journal_full",
        &[(Notice, Commits), (Commit, Commits), (Release, Commits), (Resume, Commits)],
    ),
    // Words that can't be trusted end the connection, and with it the peer; the source, which has everything, stays.
    on_the_wire("F18", "message_flipped", &[(Bulk, RollsBack), (Resume, RollsBack)]),
    on_the_wire("F29", "chunks_late", &[(Bulk, RollsBack), (Delta, RollsBack)]),
    on_the_wire("F29", "chunk_replayed", &[(Verify, Commits), (Release, Commits)]),
    on_the_wire("F34", "next_version_comes_back", &[(Notice, RollsBack), (Commit, RollsBack), (Resume, RollsBack)]),
    on_the_wire("F34", "next_version", &[(Handshake, Refuses("wire version"))]),
];

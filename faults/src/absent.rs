//! What real processes are not put through, and why: cells that nobody stages, and those that one transport has no place for.

use crate::step::Step;
use crate::step::Step::{Bulk, Delta, Verify};

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

/// What is not run, and why.
pub const ABSENT: &[Absent] = &[Absent {
    fault: "F18",
    steps: &[Verify],
    reason: "everything has been written by then; a message that is flipped ends its connection, as at the steps before",
}];

/// Cells of [`ROWS`](crate::ROWS) that are not staged over RDMA, and why. Asked of those in which items are on their way.
pub const ABSENT_OVER_VERBS: &[Absent] = &[
    Absent {
        fault: "F11",
        steps: &[Bulk, Delta, Verify],
        reason: "one cable carries what all say to each other and to the store; between namespaces each has its own",
    },
    Absent {
        fault: "F12",
        steps: &[Bulk, Verify],
        reason: "one cable carries what all say to each other and to the store; between proxies each way is its own",
    },
    Absent {
        fault: "F19",
        steps: &[Bulk, Delta, Verify],
        reason: "words go through the parsers that TCP has, where garbage is staged, and payload has no headers",
    },
    Absent {
        fault: "F20",
        steps: &[Bulk],
        reason: "the connections of RDMA and of TCP look alike from outside; the backend's own suite breaks single links",
    },
    Absent { fault: "F21", steps: &[Bulk], reason: "a reader that stops is staged as a process that stops, in F04" },
    Absent { fault: "F29", steps: &[Verify], reason: "the receiver pulls, so that nothing is written late" },
    Absent { fault: "F32", steps: &[Bulk], reason: "what moves the bytes never sees a wall clock" },
    Absent {
        fault: "F36",
        steps: &[Bulk],
        reason: "strangers call by TCP, and are refused before they hear of any memory",
    },
];

/// Cells of [`ROWS`](crate::ROWS) that are not staged over shared memory, and why. Asked of those in which items are on their way.
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
    Absent { fault: "F25", steps: &[Bulk], reason: "shared memory neither pins nor registers what it moves" },
    Absent { fault: "F29", steps: &[Verify], reason: "the receiver pulls, so that nothing is written late" },
    Absent {
        fault: "F36",
        steps: &[Bulk],
        reason: "who connects within a machine is told by the kernel; another user needs another user's rights",
    },
];

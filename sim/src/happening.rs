//! What a scenario does to a world: what users and operators ask for, and what goes wrong.

use std::fmt;
use std::time::Duration;

use crate::network::Mistreatment;
use crate::step::Step;

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long after the beginning.
    At(Duration),
    /// So long after a step is reached for the first time, at this rank if one is named.
    On(Step, Option<u32>, Duration),
}

/// One thing that is done to a world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    // What users and operators ask for.
    /// A rank has to leave, and hands over to the scenario's targets.
    Notice {
        /// Who.
        rank: u32,
        /// What is left to it.
        left: Duration,
    },
    /// The training loop of a rank that leaves reaches a safe point: it adds what was still changing.
    Delta(u32),
    /// Nothing more is added.
    Cut(u32),
    /// The notice of a rank is taken back.
    Withdraw(u32),

    // What goes wrong.
    /// A process dies; its machine too if nobody is told.
    Kill {
        /// Which.
        rank: u32,
        /// Whether its machine is gone too, so that no connection is closed.
        silently: bool,
    },
    /// A new life of a rank begins.
    Restart(u32),
    /// A process stops, and knows nothing of it.
    Pause(u32),
    /// It goes on.
    Resume(u32),
    /// Nothing gets from one machine to another; `None` is the store's.
    CutLine {
        /// From here.
        from: Option<u32>,
        /// To there.
        to: Option<u32>,
    },
    /// It gets there again.
    MendLine {
        /// From here.
        from: Option<u32>,
        /// To there.
        to: Option<u32>,
    },
    /// All connections between two processes break.
    BreakWires(u32, u32),
    /// One connection of a rank to another breaks, where there are several.
    BreakOneWire(u32),
    /// Lines between all machines carry so much, and take so long.
    Slow {
        /// What a connection carries.
        bytes_per_s: u64,
        /// What comes on top of the usual delay, by chance.
        jitter: Duration,
    },
    /// What happens to frames from now on.
    Mistreat(Mistreatment),
    /// The store's process dies with all that it holds but its journal, if it keeps one.
    KillStore,
    /// A store begins in its place: of its journal, or empty.
    RestartStore,
    /// The disk of a store that keeps a journal is full: its next write is torn, and it ends.
    TearJournal,
    /// The store's process stops.
    PauseStore,
    /// It goes on.
    ResumeStore,
    /// The next allocations of a rank fail.
    FailAllocations(u32, u32),
    /// A rank can't open or accept connections, or can again.
    Descriptors(u32, bool),
    /// The worker of a rank is busy with something else for so long.
    Busy(u32, Duration),
    /// What an item of a rank holds changes while it may be on its way.
    ChangeSource(u32),
    /// A byte that landed at a rank changes by itself, as memory does now and then.
    Decay(u32),
    /// A rank speaks another wire version in connections that begin from now on.
    OtherVersion(u32),
    /// A rank belongs to another job in connections that begin from now on.
    OtherJob(u32),
    /// All connections of a rank carry bytes that are no frames.
    Garbage(u32),
    /// A rank that has no part in it writes to a target as if it had, and sends messages of other migrations.
    Intrude(u32),
    /// All lines' last messages of a rank are sent once more, as if they were new.
    Replay(u32),
    /// A wall clock jumps; what reads it are logs.
    WallJump(u32, i64),
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = |rank: &Option<u32>| rank.map_or("the store".to_owned(), |rank| format!("rank {rank}"));
        match self {
            Self::Notice { rank, left } => write!(f, "rank {rank} has to leave within {left:?}"),
            Self::Delta(rank) => write!(f, "rank {rank} reaches a safe point"),
            Self::Cut(rank) => write!(f, "rank {rank} cuts"),
            Self::Withdraw(rank) => write!(f, "the notice of rank {rank} is withdrawn"),
            Self::Kill { rank, silently: false } => write!(f, "the process of rank {rank} is killed"),
            Self::Kill { rank, silently: true } => write!(f, "the machine of rank {rank} is gone"),
            Self::Restart(rank) => write!(f, "rank {rank} begins another life"),
            Self::Pause(rank) => write!(f, "the process of rank {rank} stops"),
            Self::Resume(rank) => write!(f, "the process of rank {rank} goes on"),
            Self::CutLine { from, to } => write!(f, "nothing gets from {} to {}", machine(from), machine(to)),
            Self::MendLine { from, to } => write!(f, "it gets from {} to {} again", machine(from), machine(to)),
            Self::BreakWires(a, b) => write!(f, "all connections between ranks {a} and {b} break"),
            Self::BreakOneWire(rank) => write!(f, "one connection of rank {rank} breaks"),
            Self::Slow { bytes_per_s, jitter } => write!(f, "lines carry {bytes_per_s} B/s, with {jitter:?} of jitter"),
            Self::Mistreat(how) => write!(f, "frames are mistreated: {how:?}"),
            Self::KillStore => f.write_str("the store's process is killed"),
            Self::RestartStore => f.write_str("the store is started again"),
            Self::TearJournal => f.write_str("the store's disk is full"),
            Self::PauseStore => f.write_str("the store's process stops"),
            Self::ResumeStore => f.write_str("the store's process goes on"),
            Self::FailAllocations(rank, times) => write!(f, "rank {rank} gets no memory {times} times"),
            Self::Descriptors(rank, true) => write!(f, "rank {rank} has descriptors again"),
            Self::Descriptors(rank, false) => write!(f, "rank {rank} runs out of descriptors"),
            Self::Busy(rank, time) => write!(f, "the worker of rank {rank} is busy for {time:?}"),
            Self::ChangeSource(rank) => write!(f, "rank {rank} changes what it is sending"),
            Self::Decay(rank) => write!(f, "a byte that landed at rank {rank} decays"),
            Self::OtherVersion(rank) => write!(f, "rank {rank} speaks another version"),
            Self::OtherJob(rank) => write!(f, "rank {rank} is of another job"),
            Self::Garbage(rank) => write!(f, "connections of rank {rank} carry garbage"),
            Self::Intrude(rank) => write!(f, "rank {rank} meddles"),
            Self::Replay(rank) => write!(f, "old messages of rank {rank} are sent again"),
            Self::WallJump(rank, seconds) => write!(f, "the wall clock of rank {rank} jumps by {seconds} s"),
        }
    }
}

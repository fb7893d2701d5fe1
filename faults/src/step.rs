//! The steps of a hand-over: the columns of the matrix.

use std::fmt;

/// A moment of a hand-over: the columns of the fault matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Two processes introduce themselves to each other.
    Handshake,
    /// A target was asked for memory, and has not granted it.
    Register,
    /// The source was told to leave, and has planned and offered.
    Notice,
    /// Bytes of the first items land.
    Bulk,
    /// The source has cut: what was still changing is on its way.
    Delta,
    /// A target compares what landed with its digest.
    Verify,
    /// All have sealed, and a target proposes the next generation.
    Commit,
    /// The store holds the next generation, and not everybody knows.
    Release,
    /// A first attempt came to nothing or a process came back, and the job goes on from there.
    Resume,
}

impl Step {
    /// All steps in their order.
    pub const ALL: [Self; 9] = [
        Self::Handshake,
        Self::Register,
        Self::Notice,
        Self::Bulk,
        Self::Delta,
        Self::Verify,
        Self::Commit,
        Self::Release,
        Self::Resume,
    ];

    /// The heading of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Register => "register",
            Self::Notice => "notice",
            Self::Bulk => "bulk",
            Self::Delta => "delta",
            Self::Verify => "verify",
            Self::Commit => "commit",
            Self::Release => "release",
            Self::Resume => "resume",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

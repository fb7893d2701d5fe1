//! Who takes part, and over what they reach each other.

use std::fmt;

/// One process of the job, and which of its lives.
///
/// A restarted process keeps its rank and gets a higher incarnation: it is a new peer, and what was meant for its
/// earlier life is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The process's rank in the job.
    pub rank: u32,
    /// Which life of that rank this is; the first is 1.
    pub incarnation: u32,
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} (life {})", self.rank, self.incarnation)
    }
}

/// A way to move bytes, as named on the wire and in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum BackendId {
    /// TCP sockets.
    Tcp = 1,
    /// An in-process network for tests.
    Sim = 2,
    /// Memory of one machine that both ends see.
    Shm = 3,
    /// RDMA verbs: queue pairs of network cards that reach memory by themselves.
    Verbs = 4,
}

impl BackendId {
    /// All that this build knows, the one that is preferred first: what copies least and asks least of the kernel.
    pub const PREFERRED: [Self; 4] = [Self::Shm, Self::Verbs, Self::Tcp, Self::Sim];

    /// Its place in [`BackendId::PREFERRED`]; lower is better.
    pub fn rank(self) -> usize {
        Self::PREFERRED.iter().position(|backend| *backend == self).unwrap_or(usize::MAX)
    }

    /// The backend of a wire number, if this build knows it.
    pub fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Tcp),
            2 => Some(Self::Sim),
            3 => Some(Self::Shm),
            4 => Some(Self::Verbs),
            _ => None,
        }
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Sim => "sim",
            Self::Shm => "shm",
            Self::Verbs => "verbs",
        })
    }
}

//! Memory as a peer sees it: an id and a length, no pointer and no ownership.

use std::fmt;

/// Names one grant of one region. Random and never reused, so a frame for an earlier grant finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u64);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where a region's bytes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// Ordinary host memory.
    Host,
}

/// What a peer needs to write into memory that was granted to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteRegion {
    /// The grant.
    pub id: RegionId,
    /// How many bytes it covers.
    pub len_bytes: u64,
    /// Where they live.
    pub place: Place,
}

impl RemoteRegion {
    /// All of the region.
    pub fn all(self) -> RemoteSlice {
        RemoteSlice { region: self, offset: 0, len_bytes: self.len_bytes }
    }

    /// `len_bytes` bytes from `offset`, or `None` where that leaves the region.
    pub fn slice(self, offset: u64, len_bytes: u64) -> Option<RemoteSlice> {
        let end = offset.checked_add(len_bytes)?;
        (end <= self.len_bytes).then_some(RemoteSlice { region: self, offset, len_bytes })
    }
}

/// A range of a [`RemoteRegion`]; always inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteSlice {
    region: RemoteRegion,
    offset: u64,
    len_bytes: u64,
}

impl RemoteSlice {
    /// The grant it is a range of.
    pub fn region(&self) -> RemoteRegion {
        self.region
    }

    /// Where it starts in the region, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes it covers.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

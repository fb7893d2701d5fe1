//! Modelled memory: real bytes, and for each range who may write it just now, so that a late write is seen.

use std::ops::Range as Extent;

use bytes::Bytes;
use xfer_transport_core::PeerId;
use xfer_transport_core::landed::Landed;
use xfer_transport_core::path::TransferId;

/// One range of memory of one process. Never reused: memory that is given back gets a new number when it is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryId(pub usize);

/// What a range is for just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Its process reads and writes it; no peer may.
    Owned,
    /// One peer may write it.
    Granted(PeerId),
    /// Nobody writes it any more; it waits for a decision.
    Fenced,
    /// It was given back, and is somebody else's by now.
    Free,
}

/// The transfer that a byte belongs to: its sender, the sender's number of the connection, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transfer {
    /// Who sends.
    pub from: PeerId,
    /// The sender's number for the connection.
    pub session: u64,
    /// The transfer.
    pub id: TransferId,
}

#[derive(Debug)]
struct Range {
    owner: PeerId,
    bytes: Vec<u8>,
    state: Use,
    /// Raised whenever the use changes: whoever began to write under an earlier one is late.
    epoch: u32,
    /// What of it peers have written, as it was verified then.
    landed: Landed,
}

/// All memory of all processes.
#[derive(Debug, Default)]
pub struct Memory {
    ranges: Vec<Range>,
}

impl Memory {
    /// Memory of `owner` that holds `bytes`.
    pub fn add(&mut self, owner: PeerId, bytes: Vec<u8>, state: Use) -> MemoryId {
        self.ranges.push(Range { owner, bytes, state, epoch: 0, landed: Landed::default() });
        MemoryId(self.ranges.len() - 1)
    }

    /// Changes what a range is for. Whoever writes under what it was for before is late from now on.
    pub fn set_use(&mut self, id: MemoryId, state: Use) {
        let range = &mut self.ranges[id.0];
        range.state = state;
        range.epoch += 1;
    }

    /// What a range is for.
    pub fn state(&self, id: MemoryId) -> Use {
        self.ranges[id.0].state
    }

    /// Whose it is.
    pub fn owner(&self, id: MemoryId) -> PeerId {
        self.ranges[id.0].owner
    }

    /// Under which use it is; a writer remembers it.
    pub fn epoch(&self, id: MemoryId) -> u32 {
        self.ranges[id.0].epoch
    }

    /// All bytes.
    pub fn bytes(&self, id: MemoryId) -> &[u8] {
        &self.ranges[id.0].bytes
    }

    /// Its process writes into it.
    pub fn overwrite(&mut self, id: MemoryId, bytes: Vec<u8>) {
        self.ranges[id.0].bytes = bytes;
    }

    /// A chunk begins to land there.
    pub fn landing(&mut self, id: MemoryId, extent: &Extent<u64>) {
        self.ranges[id.0].landed.forget(extent);
    }

    /// A chunk has landed there, and was verified.
    pub fn has_landed(&mut self, id: MemoryId, extent: Extent<u64>, crc32c: u32) {
        self.ranges[id.0].landed.insert(extent, crc32c);
    }

    /// What is known to have landed there.
    pub fn known(&self, id: MemoryId) -> Landed {
        self.ranges[id.0].landed.known()
    }

    /// A part of it, as it is now.
    pub fn copy(&self, id: MemoryId, offset: u64, len_bytes: u32) -> Bytes {
        let start = offset as usize;
        Bytes::copy_from_slice(&self.ranges[id.0].bytes[start..start + len_bytes as usize])
    }

    /// A peer's bytes land. Says what is wrong with that, if something is; then nothing was written.
    pub fn land(&mut self, id: MemoryId, epoch: u32, writer: PeerId, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let range = &mut self.ranges[id.0];
        if range.state != Use::Granted(writer) || range.epoch != epoch {
            return Err(format!("bytes of {writer} land in memory of {} that is {:?} now", range.owner, range.state));
        }
        let start = offset as usize;
        match range.bytes.get_mut(start..start + bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => return Err(format!("bytes of {writer} land outside of the memory that was granted")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PeerId = PeerId { rank: 0, incarnation: 1 };
    const PEER: PeerId = PeerId { rank: 1, incarnation: 1 };

    #[test]
    fn a_write_after_the_use_changed_is_seen_even_when_it_was_granted_again() {
        let mut memory = Memory::default();
        let id = memory.add(ME, vec![0; 8], Use::Granted(PEER));
        let epoch = memory.epoch(id);
        assert_eq!(memory.land(id, epoch, PEER, 4, &[7; 4]), Ok(()));
        memory.set_use(id, Use::Fenced);
        assert!(memory.land(id, epoch, PEER, 0, &[9; 4]).is_err());
        memory.set_use(id, Use::Granted(PEER));
        assert!(memory.land(id, epoch, PEER, 0, &[9; 4]).is_err());
        assert_eq!(memory.bytes(id), [0, 0, 0, 0, 7, 7, 7, 7]);
    }

    #[test]
    fn a_stranger_and_a_write_outside_are_seen() {
        let mut memory = Memory::default();
        let id = memory.add(ME, vec![0; 8], Use::Granted(PEER));
        assert!(memory.land(id, 0, ME, 0, &[1]).is_err());
        assert!(memory.land(id, 0, PEER, 5, &[1; 4]).is_err());
    }
}

//! Memory of the host that a device reads into in place of memory that it doesn't reach, and from where the processor copies it there.
#![allow(unsafe_code, reason = "memory is registered for a device")]

use std::io;
use std::sync::Arc;

use xfer_sys::verbs::{Access, MemoryRegion, ProtectionDomain, VerbsError};

use crate::limits::READS_MAX;
use crate::memory::{Region, Slice};

/// Room for as many parts as one link may read at once. It costs nothing before it is needed.
#[derive(Debug)]
pub(super) struct Staging {
    domain: Arc<ProtectionDomain>,
    part_bytes: usize,
    room: Option<Room>,
}

#[derive(Debug)]
struct Room {
    /// Before the memory, so that it ends first.
    registration: Arc<MemoryRegion>,
    memory: Region,
    free: Vec<u64>,
}

/// A place for one part.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    /// What the device writes.
    pub(super) memory: Slice,
    pub(super) registration: Arc<MemoryRegion>,
}

impl Staging {
    /// Room for parts of at most so many bytes.
    pub(super) fn new(domain: &Arc<ProtectionDomain>, part_bytes: usize) -> Self {
        Self { domain: Arc::clone(domain), part_bytes, room: None }
    }

    /// Makes room, unless there is some.
    pub(super) fn prepare(&mut self) -> Result<(), VerbsError> {
        if self.room.is_none() {
            let (count, part_bytes) = (u64::from(READS_MAX), self.part_bytes as u64);
            let memory = Region::allocate(count * part_bytes).map_err(|_| VerbsError::Failed {
                what: "no memory to read into in place of memory of a device",
                error: io::ErrorKind::OutOfMemory.into(),
            })?;
            let len = memory.len_bytes() as usize;
            // SAFETY: the memory outlives the registration: whoever has a place holds both, the registration first.
            let registration =
                unsafe { MemoryRegion::register(&self.domain, memory.as_ptr(), len, Access::LOCAL_WRITE) }?;
            self.room = Some(Room { registration: Arc::new(registration), memory, free: (0..count).rev().collect() });
        }
        Ok(())
    }

    /// A place for a part, if one is free.
    pub(super) fn take(&mut self) -> Option<Place> {
        let part_bytes = self.part_bytes as u64;
        let room = self.room.as_mut()?;
        let number = room.free.pop()?;
        let memory = room.memory.slice(number * part_bytes..(number + 1) * part_bytes)?;
        Some(Place { number, memory, registration: Arc::clone(&room.registration) })
    }

    /// No device writes there any more, and what it has written is not needed.
    pub(super) fn give_back(&mut self, place: &Place) {
        if let Some(room) = &mut self.room {
            room.free.push(place.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use xfer_sys::verbs::fake::{Answers, Call, device};

    use super::*;

    #[test]
    fn there_is_a_place_for_each_read_and_nothing_before_it_is_needed() {
        let (context, calls) = device(Answers { by_descriptor: libc::EOPNOTSUPP, where_mapped: 0 });
        let domain = ProtectionDomain::new(&context).expect("a domain");
        let mut staging = Staging::new(&domain, 4096);
        assert!(staging.take().is_none());
        assert_eq!(calls.take(), []);
        staging.prepare().expect("registered");
        staging.prepare().expect("it is there");
        assert!(matches!(calls.take()[..], [Call::Register { len_bytes: 65_536, .. }]), "once");
        let places: Vec<Place> = std::iter::from_fn(|| staging.take()).collect();
        let mut starts: Vec<u64> = places.iter().map(|place| place.memory.range().start).collect();
        starts.sort_unstable();
        assert_eq!(starts, (0..u64::from(READS_MAX)).map(|number| number * 4096).collect::<Vec<_>>());
        staging.give_back(&places[3]);
        assert_eq!(staging.take().map(|place| place.number), Some(places[3].number));
        drop(staging);
        assert_eq!(calls.take(), [], "who has a place has its memory, and its registration");
        drop(places);
        assert!(matches!(calls.take()[..], [Call::End { .. }]));
    }

    #[test]
    fn what_may_not_be_locked_is_an_error() {
        let (context, _) = device(Answers { by_descriptor: libc::EOPNOTSUPP, where_mapped: libc::ENOMEM });
        let domain = ProtectionDomain::new(&context).expect("a domain");
        let mut staging = Staging::new(&domain, 4096);
        assert!(staging.prepare().is_err() && staging.take().is_none());
    }
}

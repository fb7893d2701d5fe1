//! The fence of a link: the one place through which it writes granted memory, and how that is taken away from it.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xfer_transport_core::RegionId;
use xfer_transport_core::path::TransferId;

use crate::grants::Entry;
use crate::memory::{Slice, Writing};

/// The one place through which a link writes granted memory. Whoever ends a transfer or a grant empties it; the link
/// holds its lock during every single copy.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The grant that is being written, 0 for none, [`SEVERAL`]: lets a fence pass by links that are busy elsewhere.
    region: AtomicU64,
    /// The transfer that is being written, the same way.
    transfer: AtomicU64,
    /// How many targets a device may still be writing though they were taken away: then no fence passes by.
    endings: AtomicUsize,
    held: Mutex<Held>,
}

/// In place of one number: a fence has to look.
const SEVERAL: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(super) struct Held {
    /// One for each chunk that is under way: one, where no device brings them.
    pub(super) targets: Vec<Target>,
    /// Taken away, and not yet known to be left alone: whoever else fences one of these has to wait for it too.
    ending: Vec<Arc<Target>>,
}

#[derive(Debug)]
pub(super) struct Target {
    /// Which of the link's chunks is for it.
    pub(super) number: u64,
    pub(super) transfer: TransferId,
    pub(super) offset: u64,
    pub(super) memory: Slice,
    pub(super) entry: Arc<Entry>,
    pub(super) writing: Writing,
    /// What writes into it by itself, without anybody who copies.
    pub(super) pulling: Option<Arc<dyn Pulling>>,
}

/// A device that writes granted memory by itself, as it was told to: a fence has to wait for it, or stop it.
pub(crate) trait Pulling: Send + Sync + fmt::Debug {
    /// Ends what was posted so far: it comes to its end by itself within a moment, or the device is stopped. Whether that is
    /// proven: then the device writes nothing of it any more. Whoever asks holds no lock that is needed to find out.
    fn stop(&self) -> bool;
}

impl Held {
    pub(super) fn target(&self, number: u64) -> Option<&Target> {
        self.targets.iter().find(|target| target.number == number)
    }
}

impl Slot {
    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fill(&self, target: Target) {
        let mut held = self.lock();
        held.targets.push(target);
        self.note(&held);
    }

    pub(super) fn take(&self, number: u64) -> Option<Target> {
        let mut held = self.lock();
        let at = held.targets.iter().position(|target| target.number == number)?;
        let target = held.targets.swap_remove(at);
        self.note(&held);
        Some(target)
    }

    /// Says what is being written, for fences that pass by.
    fn note(&self, held: &Held) {
        let of = |number: fn(&Target) -> u64| {
            let mut numbers = held.targets.iter().map(number);
            let first = numbers.next().unwrap_or(0);
            if numbers.all(|number| number == first) { first } else { SEVERAL }
        };
        self.region.store(of(|target| target.entry.id().0), Ordering::SeqCst);
        self.transfer.store(of(|target| target.transfer.0), Ordering::SeqCst);
    }

    /// Whether a fence need not look, from what is `written`. In this order: what is taken away is counted before it stops being
    /// what is written.
    fn passes(&self, written: &AtomicU64, fenced: u64) -> bool {
        let written = written.load(Ordering::SeqCst);
        written != fenced && written != SEVERAL && self.endings.load(Ordering::SeqCst) == 0
    }

    /// The grant `id` is over. When this returns, the link doesn't write into it any more.
    /// `false` if there is no proof of that.
    pub(crate) fn clear_region(&self, id: RegionId) -> bool {
        self.passes(&self.region, id.0) || self.clear_if(|target| target.entry.id() == id)
    }

    /// `transfer` is over. When this returns, the link doesn't write anything of it any more.
    /// `false` if there is no proof of that.
    pub(crate) fn clear_transfer(&self, transfer: TransferId) -> bool {
        self.passes(&self.transfer, transfer.0) || self.clear_if(|target| target.transfer == transfer)
    }

    /// Another link has the chunk.
    pub(super) fn clear_chunk(&self, transfer: TransferId, offset: u64) -> bool {
        self.clear_if(|target| target.transfer == transfer && target.offset == offset)
    }

    /// The peer is gone.
    pub(crate) fn clear(&self) -> bool {
        self.clear_if(|_| true)
    }

    /// Takes away what is written now, and waits for what a device still writes of what was. What it doesn't say the end of stays
    /// among what is ending, with its memory.
    pub(super) fn clear_if(&self, which: impl Fn(&Target) -> bool) -> bool {
        let ending: Vec<Arc<Target>> = {
            let mut held = self.lock();
            let taken: Vec<Target> = held.targets.extract_if(.., |target| which(target)).collect();
            held.ending.extend(taken.into_iter().filter(|target| target.pulling.is_some()).map(Arc::new));
            self.endings.store(held.ending.len(), Ordering::SeqCst);
            self.note(&held);
            held.ending.iter().filter(|target| which(target)).cloned().collect()
        };
        // Nothing more is posted into these; what is under way has its memory kept until it is known to be over. Not under the
        // lock, which the link's thread takes to go on.
        let is_over = |target: &&Arc<Target>| target.pulling.as_ref().is_none_or(|pulling| pulling.stop());
        let over: Vec<&Arc<Target>> = ending.iter().filter(is_over).collect();
        if !over.is_empty() {
            let mut held = self.lock();
            held.ending.retain(|target| !over.iter().any(|ended| Arc::ptr_eq(ended, target)));
            self.endings.store(held.ending.len(), Ordering::SeqCst);
        }
        over.len() == ending.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use xfer_transport_core::frame::{FrameHeader, FrameKind};
    use xfer_transport_core::path::LinkId;
    use xfer_transport_core::{Lane, PeerId};

    use super::super::Arriving;
    use super::*;
    use crate::backend::LinkError;
    use crate::conformance::PATIENCE;
    use crate::grants::Grants;
    use crate::stats::Counters;
    use crate::{Grant, Intake, Region};

    const PEER: PeerId = PeerId { rank: 1, incarnation: 1 };
    const TRANSFER: TransferId = TransferId(7);

    /// A device that says when it is asked to stop, and stops when it is let.
    #[derive(Debug)]
    struct Device {
        asked: Mutex<Sender<()>>,
        stops: Mutex<Receiver<bool>>,
    }

    impl Pulling for Device {
        fn stop(&self) -> bool {
            self.asked.lock().unwrap().send(()).expect("somebody listens");
            self.stops.lock().unwrap().recv_timeout(PATIENCE).expect("it is let")
        }
    }

    /// A slot whose target a device writes, with what tells of the device and lets it stop.
    fn pulled() -> (Arc<Slot>, Grant, Receiver<()>, Sender<bool>) {
        let grants = Arc::new(Grants::new(Arc::default()));
        let region = Region::allocate(4096).expect("memory");
        let grant = grants.grant(&region, PEER).expect("a grant");
        let (entry, memory) = grants.lock().look_up(grant.remote().id, PEER, 0, 4096).expect("granted");
        let (asked, asks) = channel();
        let (lets, stops) = channel();
        let pulling: Arc<dyn Pulling> = Arc::new(Device { asked: Mutex::new(asked), stops: Mutex::new(stops) });
        let slot = Arc::<Slot>::default();
        let writing = memory.begin_to_write();
        slot.fill(Target { number: 1, transfer: TRANSFER, offset: 0, memory, entry, writing, pulling: Some(pulling) });
        (slot, grant, asks, lets)
    }

    #[test]
    fn whoever_fences_what_is_being_fenced_already_waits_for_the_device_too() {
        let (slot, grant, asks, lets) = pulled();
        let id = grant.remote().id;
        std::thread::scope(|scope| {
            let revoke = scope.spawn(|| slot.clear_region(id));
            asks.recv_timeout(PATIENCE).expect("the device is asked to stop");
            // The target is taken away by now, and the device still writes.
            let others = [
                scope.spawn(|| slot.clear_transfer(TRANSFER)),
                scope.spawn(|| slot.clear_region(id)),
                scope.spawn(|| slot.clear()),
            ];
            // Each of them asks the device itself, before any is told that it has stopped.
            others.iter().for_each(|_| asks.recv_timeout(PATIENCE).expect("it is asked"));
            (0..4).for_each(|_| lets.send(true).expect("it listens"));
            assert!(revoke.join().unwrap() && others.into_iter().all(|other| other.join().unwrap()));
        });
        assert!(slot.clear_region(id) && slot.clear_transfer(TRANSFER), "nothing is left to wait for");
        assert_eq!(asks.try_iter().count(), 0);
    }

    #[test]
    fn a_device_that_does_not_stop_is_no_fence_and_keeps_its_memory() {
        let (slot, grant, asks, lets) = pulled();
        let id = grant.remote().id;
        for proven in [false, false, true] {
            lets.send(proven).expect("it listens");
            assert_eq!(slot.clear_region(id), proven);
            assert_eq!(slot.lock().ending.len(), usize::from(!proven), "what it may write is kept");
        }
        assert_eq!(asks.try_iter().count(), 3);
    }

    #[test]
    fn a_device_is_told_nothing_more_once_the_target_is_taken_away() {
        let (slot, grant, _asks, lets) = pulled();
        let counters = Arc::<Counters>::default();
        let grants = Arc::new(Grants::new(Arc::clone(&counters)));
        let mut intake = Intake::new(LinkId(0), Arc::clone(&slot), grants, counters);
        let header = FrameHeader { lane: Lane::Step, ..FrameHeader::for_payload(FrameKind::Data, b"") };
        intake.chunk = Some(Arriving { number: 1, header, wanted: true, crc32c: 0 });
        let pulling = slot.lock().target(1).and_then(|target| target.pulling.clone()).expect("a device");
        let mut posted = 0;
        let mut post = |intake: &mut Intake| {
            intake.pull(&pulling, || {
                posted += 1;
                Ok::<_, LinkError>(())
            })
        };
        assert!(post(&mut intake).expect("posted"));
        assert!(intake.destination().is_some());
        lets.send(true).expect("it listens");
        assert!(slot.clear_region(grant.remote().id));
        assert!(!post(&mut intake).expect("not posted"));
        assert!(intake.destination().is_none());
        assert_eq!(posted, 1);
    }

    #[test]
    fn of_several_chunks_a_fence_takes_those_that_it_is_about() {
        let (slot, grant, asks, lets) = pulled();
        let (others, other_grant, ..) = pulled();
        let other = others.take(1).expect("filled");
        let other_transfer = TransferId(TRANSFER.0 + 1);
        slot.fill(Target { number: 2, transfer: other_transfer, pulling: None, ..other });
        assert!(slot.clear_chunk(other_transfer, 4096) && slot.clear_transfer(TransferId(1)));
        assert!(slot.lock().target(1).is_some() && slot.lock().target(2).is_some(), "neither was meant");
        lets.send(true).expect("it listens");
        assert!(slot.clear_region(grant.remote().id));
        assert_eq!(asks.try_iter().count(), 1);
        assert!(slot.lock().target(1).is_none() && slot.lock().target(2).is_some());
        assert!(slot.clear_region(grant.remote().id), "it passes by what is left");
        assert!(slot.clear_region(other_grant.remote().id));
        assert!(slot.lock().targets.is_empty());
    }

    #[test]
    fn a_fence_passes_by_a_slot_that_writes_something_else() {
        let (slot, grant, asks, _lets) = pulled();
        let other = RegionId(grant.remote().id.0 ^ 1);
        assert!(slot.clear_region(other) && slot.clear_transfer(TransferId(8)) && slot.clear_chunk(TRANSFER, 4096));
        assert_eq!(asks.try_iter().count(), 0, "nobody was asked");
        assert!(slot.lock().target(1).is_some());
    }
}

//! Memory of other devices, which comes as a descriptor (a dmabuf): by which way this device reaches it.
//!
//! | way | when | copies |
//! | --- | --- | --- |
//! | by its descriptor (`ibv_reg_dmabuf_mr`) | the provider has it | 0 |
//! | where it is mapped (`ibv_reg_mr`) | a module of the kernel's gives the device its pages (peer memory), or they are ordinary ones | 0 |
//! | beside it: in packets when it is sent, through memory of the host when it is received | else | 1 at each end |
//!
//! Whether the provider has it is found out once a device. What of such memory is not reached is known by its region, and not asked
//! again with each chunk of it.
#![allow(unsafe_code, reason = "memory is registered for a device")]

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use xfer_sys::verbs::{Access, MemoryRegion, ProtectionDomain, VerbsError};

use crate::backend::Manner;
use crate::limits::REFUSED_DMABUFS_MAX;
use crate::memory::{RegionIdentity, Slice};

/// What one device makes of such memory. All its links go by it.
#[derive(Debug, Default)]
pub(super) struct Dmabufs {
    /// Why it takes none by their descriptors, unless it does.
    by_descriptor: OnceLock<Result<(), String>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The way that was taken last, with why no better one was.
    way: Option<Way>,
    /// What was not reached, and why not by its descriptor.
    refused: Vec<(RegionIdentity, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    ByDescriptor,
    WhereMapped(String),
    Beside(String),
}

/// The way of which there would be, in a sentence, before there is such memory.
pub(super) fn probe(domain: &ProtectionDomain) -> String {
    match domain.takes_dmabufs() {
        Ok(()) => "registers memory of devices (dmabufs) by its descriptor".to_owned(),
        Err(error) => {
            format!("memory of devices (dmabufs) is registered where it is mapped, or else copied, since {error}")
        }
    }
}

impl Dmabufs {
    /// Registers memory of whatever kind.
    ///
    /// # Errors
    ///
    /// [`VerbsError::NotReached`] for memory of a device that this one doesn't reach; what else there may be against memory.
    ///
    /// # Safety
    ///
    /// As for [`MemoryRegion::register`]: the memory must be kept for as long as work names the registration, or the other end may.
    pub(super) unsafe fn register(
        &self,
        domain: &Arc<ProtectionDomain>,
        memory: &Slice,
        access: Access,
    ) -> Result<MemoryRegion, VerbsError> {
        let (start, len) = (memory.as_ptr(), memory.len_bytes() as usize);
        let Some(place) = memory.dmabuf() else {
            // SAFETY: the caller's word.
            return unsafe { MemoryRegion::register(domain, start, len, access) };
        };
        let known = |(region, why): &(RegionIdentity, String)| region.is(memory.region()).then(|| why.clone());
        if let Some(by_descriptor) = self.lock().refused.iter().find_map(known) {
            return Err(not_reached(by_descriptor));
        }
        let by_descriptor = match self.takes_descriptors(domain) {
            Ok(()) => {
                // SAFETY: the caller's word.
                match unsafe { MemoryRegion::register_dmabuf(domain, place, start as u64, len, access) } {
                    Ok(registration) => {
                        self.went(Way::ByDescriptor);
                        return Ok(registration);
                    }
                    // Some memory of this kind may do where other does not.
                    Err(error) => error.to_string(),
                }
            }
            Err(why) => why,
        };
        // SAFETY: the caller's word.
        match unsafe { MemoryRegion::register(domain, start, len, access) } {
            Ok(registration) => {
                self.went(Way::WhereMapped(by_descriptor));
                Ok(registration)
            }
            // There are no pages to pin, and there won't be.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                self.went(Way::Beside(format!("{by_descriptor}; {error}")));
                self.refuse(memory.region().identity(), &by_descriptor);
                Err(not_reached(by_descriptor))
            }
            Err(error) => {
                self.went(Way::Beside(format!("{by_descriptor}; {error}")));
                Err(error)
            }
        }
    }

    /// Whether windows can be opened on what is registered of `memory`: not where the kernel has only its descriptor.
    pub(super) fn takes_windows(&self, domain: &ProtectionDomain, memory: &Slice) -> bool {
        memory.dmabuf().is_none() || self.takes_descriptors(domain).is_err()
    }

    /// How such memory was moved last; nothing before there was some.
    pub(super) fn manner(&self) -> Option<Manner> {
        let (copies, sentence) = match self.lock().way.clone()? {
            Way::ByDescriptor => (0, "registered by its descriptor (ibv_reg_dmabuf_mr)".to_owned()),
            Way::WhereMapped(why) => (0, format!("registered where it is mapped ({why})")),
            Way::Beside(why) => {
                (2, format!("in packets when it is sent, through memory of the host when it is received ({why})"))
            }
        };
        Some(Manner { copies, sentence })
    }

    fn takes_descriptors(&self, domain: &ProtectionDomain) -> Result<(), String> {
        self.by_descriptor.get_or_init(|| domain.takes_dmabufs().map_err(|error| error.to_string())).clone()
    }

    fn went(&self, way: Way) {
        let mut state = self.lock();
        if state.way.as_ref() != Some(&way) {
            if let Way::Beside(why) = &way {
                tracing::warn!("memory of devices is copied: {why}");
            }
            state.way = Some(way);
        }
    }

    /// It is not asked for again, unless there is so much of the kind that it doesn't matter.
    fn refuse(&self, region: RegionIdentity, by_descriptor: &str) {
        let refused = &mut self.lock().refused;
        refused.retain(|(region, _)| !region.is_gone());
        if refused.len() < REFUSED_DMABUFS_MAX {
            refused.push((region, by_descriptor.to_owned()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It has no descriptor that is taken, and no pages that can be pinned.
fn not_reached(by_descriptor: String) -> VerbsError {
    let error = std::io::Error::from_raw_os_error(libc::EFAULT);
    let where_mapped = VerbsError::Failed { what: "memory can't be registered (ibv_reg_mr)", error };
    VerbsError::NotReached { by_descriptor, where_mapped: Box::new(where_mapped) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use xfer_sys::verbs::fake::{Answers, Call, Calls, device};

    use super::super::registrations::Registrations;
    use super::*;
    use crate::limits::REGISTERED_BLOCK_BYTES;
    use crate::memory::Region;

    const OFFSET: u64 = 8192;

    /// The middle of a memory file in place of memory of a device: what is asked of a card is the same.
    fn memory(len_bytes: u64) -> Region {
        let file = memfd_create("not-a-device", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&file, OFFSET + len_bytes).expect("its length");
        Region::map_dmabuf(file, OFFSET, len_bytes).expect("mapped")
    }

    fn domain(by_descriptor: i32, where_mapped: i32) -> (Arc<ProtectionDomain>, Calls) {
        let (context, calls) = device(Answers { by_descriptor, where_mapped });
        (ProtectionDomain::new(&context).expect("a domain"), calls)
    }

    fn register(dmabufs: &Dmabufs, domain: &Arc<ProtectionDomain>, memory: &Slice) -> Result<MemoryRegion, VerbsError> {
        // SAFETY: the device reads and writes nothing.
        unsafe { dmabufs.register(domain, memory, Access::REMOTE_READ) }
    }

    fn copies(dmabufs: &Dmabufs) -> Option<u8> {
        dmabufs.manner().map(|manner| manner.copies)
    }

    /// Of calls, how many were which.
    fn counts(calls: &Calls) -> (usize, usize, usize) {
        let calls = calls.take();
        let count = |is: fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count();
        (
            count(|call| matches!(call, Call::RegisterByDescriptor { .. })),
            count(|call| matches!(call, Call::Register { .. })),
            count(|call| matches!(call, Call::End { .. })),
        )
    }

    #[test]
    fn what_has_a_descriptor_is_registered_by_it_where_the_provider_takes_it_and_ends_before_the_domain() {
        let (domain, calls) = domain(0, 0);
        let (dmabufs, region) = (Arc::new(Dmabufs::default()), memory(100_000));
        assert_eq!(dmabufs.manner(), None);
        let slice = region.slice(5_000..60_000).expect("inside");
        assert!(!dmabufs.takes_windows(&domain, &slice), "the kernel opens none on it");
        let mut registrations = Registrations::new(&domain, &dmabufs, Access::LOCAL_WRITE);
        let now = Instant::now();
        let registration = registrations.of(&slice, now).expect("registered");
        let again = registrations.of(&region.slice(0..100).expect("inside"), now).expect("it is there");
        assert!(Arc::ptr_eq(&registration, &again), "all of it is registered at once");
        let (descriptor, offset) = slice.dmabuf().map(|(file, at)| (file.as_raw_fd(), at)).expect("it has one");
        assert_eq!(offset, OFFSET + 5_000);
        let asked = calls.take();
        assert!(matches!(asked[0], Call::RegisterByDescriptor { descriptor: -1, .. }), "whether it takes any");
        let start = region.as_ptr() as u64;
        let by_descriptor = |offset, start, len_bytes| {
            // That this machine's device writes it.
            let access = 1;
            Call::RegisterByDescriptor { descriptor, offset, start, len_bytes, access }
        };
        assert_eq!(asked[1..], [by_descriptor(OFFSET, start, 100_000)]);
        assert_eq!(copies(&dmabufs), Some(0));
        let key = registration.local_key();
        drop((registration, again));
        // Whoever has it again has another region.
        drop((slice, region));
        registrations.look(now);
        assert_eq!(calls.take(), [Call::End { key }]);
        drop((registrations, domain));
        assert_eq!(calls.take(), [Call::EndDomain, Call::Close]);
    }

    #[test]
    fn blocks_of_it_lie_where_the_descriptor_has_them() {
        let (domain, calls) = domain(0, 0);
        let (dmabufs, region) = (Arc::new(Dmabufs::default()), memory(REGISTERED_BLOCK_BYTES + 5_000));
        let mut registrations = Registrations::new(&domain, &dmabufs, Access::LOCAL_WRITE);
        let last = region.slice(REGISTERED_BLOCK_BYTES + 1_000..REGISTERED_BLOCK_BYTES + 2_000).expect("inside");
        registrations.of(&last, Instant::now()).expect("registered");
        let block = calls.take().pop();
        let (place, address) = (OFFSET + REGISTERED_BLOCK_BYTES, region.as_ptr() as u64 + REGISTERED_BLOCK_BYTES);
        assert!(
            matches!(block, Some(Call::RegisterByDescriptor { offset, start, len_bytes: 5_000, .. })
                if (offset, start) == (place, address)),
            "{block:?}"
        );
    }

    #[test]
    fn where_the_provider_does_not_take_it_it_is_registered_where_it_is_mapped_and_nothing_is_asked_twice() {
        let (domain, calls) = domain(libc::EOPNOTSUPP, 0);
        let (dmabufs, region) = (Dmabufs::default(), memory(10_000));
        let registrations: Vec<_> =
            (0..3).map(|_| register(&dmabufs, &domain, &region.all()).expect("registered")).collect();
        assert!(dmabufs.takes_windows(&domain, &region.all()));
        assert_eq!(counts(&calls), (1, 3, 0), "whether it takes any is asked once");
        let manner = dmabufs.manner().expect("there was some");
        assert!(manner.copies == 0 && manner.sentence.contains("ibv_reg_dmabuf_mr"), "{manner:?}");
        drop(registrations);
        assert_eq!(counts(&calls), (0, 0, 3));
    }

    #[test]
    fn where_the_provider_takes_others_and_not_this_one_the_next_way_is_tried() {
        let (domain, calls) = domain(libc::EINVAL, 0);
        let (dmabufs, region) = (Dmabufs::default(), memory(10_000));
        register(&dmabufs, &domain, &region.all()).expect("registered");
        assert_eq!(counts(&calls), (2, 1, 1));
        let manner = dmabufs.manner().expect("there was some");
        assert!(manner.copies == 0 && manner.sentence.contains("Invalid argument"), "{manner:?}");
    }

    #[test]
    fn what_is_reached_in_no_way_is_said_by_name_and_not_asked_for_again() {
        let (domain, calls) = domain(libc::EOPNOTSUPP, libc::EFAULT);
        let (dmabufs, region) = (Arc::new(Dmabufs::default()), memory(REGISTERED_BLOCK_BYTES));
        let mut registrations = Registrations::new(&domain, &dmabufs, Access::LOCAL_WRITE);
        let chunk = region.slice(0..1_000).expect("inside");
        for _ in 0..3 {
            let refused = registrations.of(&chunk, Instant::now()).expect_err("refused");
            let sentence = refused.to_string();
            assert!(sentence.contains("ibv_reg_dmabuf_mr") && sentence.contains("Bad address"), "{sentence}");
            assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
        }
        assert_eq!(counts(&calls), (1, 1, 0), "neither a smaller part nor the same again");
        assert_eq!(copies(&dmabufs), Some(2));
        // Another one may do, and is asked for.
        register(&dmabufs, &domain, &memory(10).all()).expect_err("refused");
        assert_eq!(counts(&calls), (0, 1, 0));
        // What is gone takes no place from others.
        drop((chunk, region));
        register(&dmabufs, &domain, &memory(10).all()).expect_err("refused");
        assert_eq!(dmabufs.lock().refused.len(), 1);
    }

    #[test]
    fn what_may_not_be_locked_today_may_be_tomorrow() {
        let (domain, calls) = domain(libc::EOPNOTSUPP, libc::ENOMEM);
        let (dmabufs, region) = (Dmabufs::default(), memory(10_000));
        for _ in 0..2 {
            register(&dmabufs, &domain, &region.all()).expect_err("refused");
        }
        assert_eq!(counts(&calls), (1, 2, 0));
    }

    #[test]
    fn other_memory_is_registered_as_ever() {
        let (domain, calls) = domain(0, 0);
        let (dmabufs, region) = (Arc::new(Dmabufs::default()), Region::allocate(10_000).expect("memory"));
        assert!(dmabufs.takes_windows(&domain, &region.all()));
        let mut registrations = Registrations::new(&domain, &dmabufs, Access::WINDOWS);
        registrations.of(&region.all(), Instant::now()).expect("registered");
        registrations.look(Instant::now() + Duration::from_secs(60));
        assert_eq!(counts(&calls), (0, 1, 1));
        assert_eq!(dmabufs.manner(), None);
    }
}

//! What the thread of a link sleeps on: one descriptor that tells of its link and of whoever wakes it.
//!
//! Somebody who looks at a link and sees everything that arrives there takes that off the descriptor meanwhile: else the thread
//! would be woken for it too, and when it comes after 8 to 20 us the other is through, and it in the way.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::wake::Wake;

pub(super) type Readiness = Arc<dyn AsFd + Send + Sync>;

/// A link's readiness, and a wake-up.
pub(super) struct Watch {
    epoll: OwnedFd,
    pub(super) readiness: Readiness,
    pub(super) wake: Wake,
}

impl Watch {
    /// Tells of the wake-up, and of nothing else yet.
    pub(super) fn new(readiness: Readiness) -> io::Result<Self> {
        let (epoll, wake) = (epoll::create(CreateFlags::CLOEXEC)?, Wake::new()?);
        epoll::add(&epoll, &wake, EventData::new_u64(0), EventFlags::IN)?;
        epoll::add(&epoll, (*readiness).as_fd(), EventData::new_u64(1), EventFlags::empty())?;
        Ok(Self { epoll, readiness, wake })
    }

    /// Tells of this of the link from now on, and at once if it is the case by now; who sleeps here need not wake up for that.
    pub(super) fn tell_of(&self, flags: EventFlags) {
        // It can't fail: both descriptors are open, and one is on the other.
        let _ = epoll::modify(&self.epoll, (*self.readiness).as_fd(), EventData::new_u64(1), flags);
    }

    /// Sleeps until there is something to tell, and says whether there is.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 2];
        let timeout = Timespec::try_from(timeout).ok();
        // Interrupted or failed, the next turn finds out what there is to do.
        matches!(epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()), Ok(1..))
    }
}

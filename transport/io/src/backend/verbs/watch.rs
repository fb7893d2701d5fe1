//! What happens to a device by itself, and the links that end by it.
//!
//! A device tells of it once, to whoever asks first. So every link that uses it asks when there is something, and passes on what is
//! about others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use xfer_sys::verbs::{Context, Event};

use super::wire::Wire;

/// The links over one device.
#[derive(Debug, Default)]
pub(super) struct Watch {
    watchers: Mutex<Vec<Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    owner: u64,
    port: u8,
    wire: Weak<Wire>,
}

/// Another number for a link's queues, as the device's events will name them.
pub(super) fn next_owner() -> u64 {
    static OWNERS: AtomicU64 = AtomicU64::new(1);
    OWNERS.fetch_add(1, Ordering::Relaxed)
}

impl Watch {
    /// From now on `wire` is told.
    pub(super) fn add(&self, owner: u64, port: u8, wire: &Arc<Wire>) {
        let mut watchers = self.lock();
        watchers.retain(|watcher| watcher.wire.strong_count() > 0);
        watchers.push(Watcher { owner, port, wire: Arc::downgrade(wire) });
    }

    /// Hears what has happened, and ends the links that it ends.
    pub(super) fn hear(&self, context: &Context) {
        loop {
            let event = match context.take_event() {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    // Nothing would be heard any more.
                    self.ended_by(&Event::DeviceFailed).iter().for_each(|wire| wire.ended_by(&error.to_string()));
                    return;
                }
            };
            tracing::debug!("{}: {event}", context.name());
            self.ended_by(&event).iter().for_each(|wire| wire.ended_by(&event.to_string()));
        }
    }

    fn ended_by(&self, event: &Event) -> Vec<Arc<Wire>> {
        let watchers = self.lock();
        let ended = watchers.iter().filter(|watcher| watcher.is_ended_by(event));
        ended.filter_map(|watcher| watcher.wire.upgrade()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    fn is_ended_by(&self, event: &Event) -> bool {
        match *event {
            Event::QueueOverrun { owner } | Event::PairFailed { owner, .. } => owner == self.owner,
            Event::PortDown { port } => port == self.port,
            Event::DeviceFailed => true,
            Event::Other { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_the_links_that_it_is_about() {
        let watchers = [(1, 1), (2, 1), (3, 2)].map(|(owner, port)| Watcher { owner, port, wire: Weak::new() });
        let ended = |event: Event| -> Vec<u64> {
            watchers.iter().filter(|watcher| watcher.is_ended_by(&event)).map(|watcher| watcher.owner).collect()
        };
        assert_eq!(ended(Event::QueueOverrun { owner: 2 }), [2]);
        assert_eq!(ended(Event::PairFailed { owner: 3, number: 1 }), [3]);
        assert_eq!(ended(Event::PortDown { port: 1 }), [1, 2]);
        assert_eq!(ended(Event::DeviceFailed), [1, 2, 3]);
        assert_eq!(ended(Event::Other { number: 9 }), []);
    }
}

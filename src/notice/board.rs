//! All notices there are, which of them counts, and who is told.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Notice, NoticeEvent, Origin, limits};

/// Notices by source and id. Every change of the one that counts goes to every subscriber, in order.
#[derive(Default)]
pub(super) struct Board {
    notices: BTreeMap<(Origin, String), Notice>,
    counts: Option<Notice>,
    subscribers: Vec<SyncSender<NoticeEvent>>,
}

impl Board {
    pub(super) fn counts(&self) -> Option<&Notice> {
        self.counts.as_ref()
    }

    pub(super) fn subscribe(&mut self) -> Receiver<NoticeEvent> {
        let (events, subscriber) = sync_channel(limits::EVENTS_MAX);
        if let Some(notice) = &self.counts {
            // A new channel has room.
            let _ = events.try_send(NoticeEvent::Raised(notice.clone()));
        }
        self.subscribers.push(events);
        subscriber
    }

    /// Adds a notice or replaces the one of the same source and id; false when there are too many.
    pub(super) fn raise(&mut self, notice: Notice) -> bool {
        let key = (notice.source, notice.id.clone());
        let fits = self.notices.len() < limits::NOTICES_MAX || self.notices.contains_key(&key);
        if fits {
            self.notices.insert(key, notice);
            self.settle();
        }
        fits
    }

    /// Makes `notice` the only one of its source: a source that we listen to has one thing to say. It is heard however
    /// many the program itself has raised.
    pub(super) fn replace(&mut self, notice: Notice) {
        self.notices.retain(|(origin, _), _| *origin != notice.source);
        self.notices.insert((notice.source, notice.id.clone()), notice);
        self.settle();
    }

    /// Removes what `origin` said.
    pub(super) fn clear(&mut self, origin: Origin) {
        self.notices.retain(|(source, _), _| *source != origin);
        self.settle();
    }

    /// Removes the notices with this id; false if there is none.
    pub(super) fn withdraw(&mut self, id: &str) -> bool {
        let before = self.notices.len();
        self.notices.retain(|(_, held), _| held != id);
        self.settle();
        self.notices.len() < before
    }

    /// The notice of a source, if it has one.
    pub(super) fn of(&self, origin: Origin) -> Option<&Notice> {
        self.notices.iter().find(|((source, _), _)| *source == origin).map(|(_, notice)| notice)
    }

    /// Finds the notice that counts and tells everybody if it is another one.
    fn settle(&mut self) {
        let counts = self.notices.values().min_by_key(|notice| (!notice.certain, notice.deadline)).cloned();
        if counts == self.counts {
            return;
        }
        let before = std::mem::replace(&mut self.counts, counts.clone());
        let event = match (counts, before) {
            (Some(notice), _) => {
                tracing::warn!(id = notice.id, "notice: {notice}");
                NoticeEvent::Raised(notice)
            }
            (None, Some(notice)) => {
                tracing::warn!(id = notice.id, "notice withdrawn: {}", notice.source);
                NoticeEvent::Withdrawn(notice)
            }
            (None, None) => return,
        };
        self.subscribers.retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
    }
}

//! The order in which work completes.
//!
//! What is posted on one half of a queue pair completes in that order. So a completion that comes before its time says that an earlier
//! one was lost, by a device, its driver, or a queue that was full: what that work did is not known, and never will be. Each end of a
//! link gives signs of life, so there is always a later one before long.

use std::collections::VecDeque;

use super::kind;

/// Work that was posted and has not completed.
#[derive(Debug, Default)]
pub(super) struct Order {
    sends: VecDeque<Posted>,
    rooms: VecDeque<u64>,
}

#[derive(Debug)]
struct Posted {
    id: u64,
    /// Whether it has a completion even if it goes well.
    is_announced: bool,
}

/// A completion that can't be, since that of other work was lost; or that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfOrder {
    /// The work whose completion was next; nothing if there was no such work.
    pub(super) missing: Option<u64>,
}

impl Order {
    pub(super) fn posted(&mut self, id: u64, is_announced: bool) {
        self.sends.push_back(Posted { id, is_announced });
    }

    pub(super) fn room_posted(&mut self, id: u64) {
        self.rooms.push_back(id);
    }

    /// The work `id` has completed.
    pub(super) fn completed(&mut self, id: u64) -> Result<(), OutOfOrder> {
        let next = if id >> 56 == kind::ROOM {
            self.rooms.pop_front()
        } else {
            // Work of which only failure is told has gone well by then.
            while self.sends.front().is_some_and(|first| !first.is_announced && first.id != id) {
                self.sends.pop_front();
            }
            self.sends.pop_front().map(|first| first.id)
        };
        if next == Some(id) { Ok(()) } else { Err(OutOfOrder { missing: next }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: u64 = kind::OPEN << 56 | 7;
    const SEND: u64 = kind::SEND << 56;
    const READ: u64 = kind::READ << 56;
    const ROOM: u64 = kind::ROOM << 56;

    fn order() -> Order {
        let mut order = Order::default();
        for (id, is_announced) in [(OPEN, false), (SEND, true), (READ, true), (READ, true), (SEND | 1, true)] {
            order.posted(id, is_announced);
        }
        (0..3).for_each(|room| order.room_posted(ROOM | room));
        order
    }

    #[test]
    fn work_completes_as_it_was_posted_and_each_half_by_itself() {
        let mut order = order();
        for id in [ROOM, SEND, READ, ROOM | 1, READ, SEND | 1, ROOM | 2] {
            assert_eq!(order.completed(id), Ok(()), "{id:x}");
        }
        assert_eq!(order.completed(ROOM), Err(OutOfOrder { missing: None }), "one too many");
    }

    #[test]
    fn work_of_which_only_failure_is_told_may_complete_too() {
        let mut order = order();
        assert_eq!([OPEN, SEND, READ].map(|id| order.completed(id)), [Ok(()); 3]);
    }

    #[test]
    fn a_completion_that_is_lost_is_named_by_the_next() {
        assert_eq!(order().completed(READ), Err(OutOfOrder { missing: Some(SEND) }));
        assert_eq!(order().completed(ROOM | 1), Err(OutOfOrder { missing: Some(ROOM) }));
        let mut order = order();
        assert_eq!([SEND, READ].map(|id| order.completed(id)), [Ok(()); 2]);
        assert_eq!(order.completed(SEND | 1), Err(OutOfOrder { missing: Some(READ) }));
    }
}

//! Whether a way to a peer is worth taking again.
//!
//! A way that breaks under load and can be opened again at once, like a network that reorders packets or loses long ones, is worse
//! than none: each time, what was under way goes again. So one that had to be opened again too often is left alone while there
//! is another.

use std::collections::VecDeque;

use crate::Time;
use crate::limits::{OPENED_AGAIN_MAX, OPENED_AGAIN_WITHIN};

/// How often one way was opened again.
#[derive(Debug, Default)]
pub struct Steadiness {
    /// When, as far as it counts.
    opened_again: VecDeque<Time>,
    unsteady: bool,
}

impl Steadiness {
    /// Links that were lost have been opened again.
    pub fn opened_again(&mut self, now: Time) {
        while self.opened_again.front().is_some_and(|at| now.since(*at) > OPENED_AGAIN_WITHIN) {
            self.opened_again.pop_front();
        }
        self.opened_again.push_back(now);
        self.unsteady |= self.opened_again.len() >= OPENED_AGAIN_MAX;
    }

    /// Whether it is not opened any more.
    pub fn is_unsteady(&self) -> bool {
        self.unsteady
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_way_that_is_opened_again_too_often_is_left_alone_for_good() {
        let mut way = Steadiness::default();
        for time in 1..OPENED_AGAIN_MAX as u64 {
            way.opened_again(at(time));
            assert!(!way.is_unsteady(), "{time}");
        }
        way.opened_again(at(OPENED_AGAIN_MAX as u64));
        assert!(way.is_unsteady());
        way.opened_again(at(1 << 40));
        assert!(way.is_unsteady());
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut way = Steadiness::default();
        let within_ms = OPENED_AGAIN_WITHIN.as_millis() as u64;
        for time in 0..10 * OPENED_AGAIN_MAX as u64 {
            way.opened_again(at(time * (within_ms / (OPENED_AGAIN_MAX as u64 - 1) + 1)));
            assert!(!way.is_unsteady(), "{time}");
        }
        assert!(way.opened_again.len() < OPENED_AGAIN_MAX);
    }
}

//! The moment after which bytes that arrive are worth nothing.

use std::time::Duration;

use crate::Time;
use crate::planted::{self, Bug};

/// A moment on the local clock after which a transfer has no value.
///
/// It travels between processes as the time that is left, because their clocks share no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(pub Time);

impl Deadline {
    /// The deadline `left` after `now`.
    pub fn after(now: Time, left: Duration) -> Self {
        Self(now.after(left))
    }

    /// What is left at `now`; zero once it has passed.
    pub fn left(self, now: Time) -> Duration {
        self.0.since(now)
    }

    /// Whether it has passed at `now`. At the very moment it has: "by" excludes the deadline itself.
    pub fn has_passed(self, now: Time) -> bool {
        if planted::is(Bug::DeadlineLate) {
            return now > self.0.after(Duration::from_millis(1));
        }
        now >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_passed_at_its_very_moment() {
        let deadline = Deadline::after(Time::from_nanos(5), Duration::from_nanos(10));
        for (now, left, passed) in [(0, 15, false), (14, 1, false), (15, 0, true), (16, 0, true)] {
            let now = Time::from_nanos(now);
            assert_eq!((deadline.left(now), deadline.has_passed(now)), (Duration::from_nanos(left), passed), "{now}");
        }
    }
}

//! When a transfer can be expected to be done, from what its path was seen to carry.

use std::time::Duration;

use crate::{Deadline, RateInterval, Time};

/// Between which two moments a transfer is expected to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Forecast {
    /// If the path carries the most that was measured.
    pub earliest: Time,
    /// If it carries the least.
    pub latest: Time,
}

/// What a forecast says of a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Even at the least rate that was measured it is done before.
    Fits,
    /// That depends on what the path will carry.
    MayFit,
    /// Not even at the most that was measured.
    WillNotFit,
}

impl Forecast {
    /// When the last of `bytes` is acknowledged on a path that carries `rate` from `now` on: `now + bytes / rate`.
    pub fn new(bytes: u64, rate: RateInterval, now: Time) -> Self {
        Self { earliest: after(bytes, rate.high, now), latest: after(bytes, rate.low, now) }
    }

    /// Whether a transfer that is expected then makes a deadline.
    pub fn admission(self, deadline: Deadline) -> Admission {
        match (deadline.has_passed(self.latest), deadline.has_passed(self.earliest)) {
            (false, _) => Admission::Fits,
            (true, false) => Admission::MayFit,
            (true, true) => Admission::WillNotFit,
        }
    }
}

/// Never, at a rate of nothing.
fn after(bytes: u64, bytes_per_s: u64, now: Time) -> Time {
    let nanos = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(bytes_per_s));
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).map_or(Time::MAX, |nanos| now.after(Duration::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_between_the_two_moments_or_it_is_not() {
        let forecast = Forecast::new(1_000, RateInterval { low: 100, high: 500 }, Time::from_nanos(7));
        assert_eq!(forecast.earliest, Time::from_nanos(2_000_000_007));
        assert_eq!(forecast.latest, Time::from_nanos(10_000_000_007));
        // A deadline excludes itself.
        for (at_ns, admission) in [
            (2_000_000_007, Admission::WillNotFit),
            (2_000_000_008, Admission::MayFit),
            (10_000_000_007, Admission::MayFit),
            (10_000_000_008, Admission::Fits),
        ] {
            assert_eq!(forecast.admission(Deadline(Time::from_nanos(at_ns))), admission, "{at_ns}");
        }
    }

    #[test]
    fn a_path_that_carries_nothing_is_never_done_and_one_with_nothing_to_carry_is() {
        let stuck = Forecast::new(1, RateInterval { low: 0, high: 0 }, Time::ZERO);
        assert_eq!((stuck.earliest, stuck.latest), (Time::MAX, Time::MAX));
        let endless = Forecast::new(u64::MAX, RateInterval { low: 1, high: 1 }, Time::ZERO);
        assert_eq!(endless.latest, Time::MAX);
        let nothing = Forecast::new(0, RateInterval { low: 1, high: 1 }, Time::ZERO);
        assert_eq!(nothing.latest, Time::ZERO);
    }
}

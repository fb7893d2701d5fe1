//! How many bytes a link carries before a deadline.

use std::time::Duration;

use xfer_transport_core::{Deadline, RateInterval, Time};

/// What a plan has to work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The moment of planning.
    pub now: Time,
    /// The moment after which bytes are worth nothing.
    pub deadline: Deadline,
    /// What the link carries, in bytes per second: `low` is what promises are made on.
    pub rate: RateInterval,
    /// Kept free before the deadline, for verification, seals and the commit.
    pub reserve: Duration,
}

impl Budget {
    /// The time in which bytes may travel.
    pub fn window(&self) -> Duration {
        self.deadline.left(self.now).saturating_sub(self.reserve)
    }

    /// The bytes that can be counted on to arrive.
    pub fn bytes_low(&self) -> u64 {
        bytes_in(self.window(), self.rate.low)
    }

    /// The middle of the rate's interval, in bytes per second: the best guess where a wrong one costs little.
    pub fn rate_middle(&self) -> u64 {
        self.rate.low.midpoint(self.rate.high)
    }
}

/// How long `bytes` take at `bytes_per_s`; the longest time there is at a rate of zero.
pub(crate) fn time_for(bytes: u64, bytes_per_s: u64) -> Duration {
    if bytes == 0 {
        return Duration::ZERO;
    }
    if bytes_per_s == 0 {
        return Duration::MAX;
    }
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s);
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

fn bytes_in(time: Duration, bytes_per_s: u64) -> u64 {
    let bytes = time.as_nanos() * u128::from(bytes_per_s) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBIT: u64 = 125_000_000;

    fn budget(left_s: u64, reserve_s: u64) -> Budget {
        let now = Time::from_nanos(7);
        Budget {
            now,
            deadline: Deadline::after(now, Duration::from_secs(left_s)),
            rate: RateInterval { low: GBIT, high: 3 * GBIT },
            reserve: Duration::from_secs(reserve_s),
        }
    }

    #[test]
    fn promises_are_made_on_the_low_rate_and_without_the_reserve() {
        assert_eq!(budget(30, 2).bytes_low(), 28 * GBIT);
        assert_eq!(budget(30, 2).rate_middle(), 2 * GBIT);
        assert_eq!(budget(1, 2).bytes_low(), 0, "a reserve longer than what is left leaves nothing");
    }

    #[test]
    fn no_number_overflows() {
        let endless = Budget {
            deadline: Deadline(Time::MAX),
            rate: RateInterval { low: u64::MAX, high: u64::MAX },
            ..budget(1, 0)
        };
        assert_eq!(endless.bytes_low(), u64::MAX);
        assert_eq!(endless.rate_middle(), u64::MAX);
        assert_eq!(time_for(u64::MAX, 1), Duration::MAX);
        assert_eq!(time_for(1, 0), Duration::MAX);
        assert_eq!(time_for(0, 0), Duration::ZERO);
        assert_eq!(time_for(3 * GBIT, 2 * GBIT), Duration::from_millis(1500));
    }
}

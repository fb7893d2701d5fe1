//! A token bucket: how many payload bytes may leave a process per second.

use std::time::Duration;

use crate::Time;

/// How much may leave at once after a pause, as time at the configured rate.
const BURST: Duration = Duration::from_millis(20);

/// Limits what leaves to a rate. A chunk may leave while the bucket isn't empty and may overdraw it, so that a rate
/// far below one chunk per burst still moves chunks, only further apart.
#[derive(Debug, Clone, Default)]
pub struct TokenBucket {
    limit: Option<Limit>,
}

#[derive(Debug, Clone)]
struct Limit {
    bytes_per_s: u64,
    /// Bytes that may leave now; negative while overdrawn.
    tokens: i128,
    filled: Time,
}

impl TokenBucket {
    /// The limit in bytes per second; none if there is no limit.
    pub fn limit(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.bytes_per_s)
    }

    /// A bucket for `bytes_per_s`; `None` lets everything pass.
    pub fn new(bytes_per_s: Option<u64>, now: Time) -> Self {
        let mut bucket = Self::default();
        bucket.set(bytes_per_s, now);
        bucket
    }

    /// Changes the rate from `now` on; a debt is forgotten. A rate of 0 is read as 1: a limit slows, it doesn't cut.
    pub fn set(&mut self, bytes_per_s: Option<u64>, now: Time) {
        self.limit = bytes_per_s.map(|bytes_per_s| {
            let bytes_per_s = bytes_per_s.max(1);
            Limit { bytes_per_s, tokens: burst_bytes(bytes_per_s), filled: now }
        });
    }

    /// Whether a chunk may leave at `now`, else when to ask again.
    pub fn ready(&mut self, now: Time) -> Result<(), Time> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        let gained =
            i128::from(now.since(limit.filled).as_nanos() as u64) * i128::from(limit.bytes_per_s) / 1_000_000_000;
        // Fractions of a byte stay in the clock rather than being lost at every call.
        if gained > 0 {
            limit.tokens = (limit.tokens + gained).min(burst_bytes(limit.bytes_per_s));
            limit.filled = now;
        }
        if limit.tokens > 0 {
            return Ok(());
        }
        let nanos = (1 - limit.tokens) * 1_000_000_000 / i128::from(limit.bytes_per_s) + 1;
        Err(now.after(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
    }

    /// `bytes` have left.
    pub fn take(&mut self, bytes: u64) {
        if let Some(limit) = &mut self.limit {
            limit.tokens -= i128::from(bytes);
        }
    }
}

fn burst_bytes(bytes_per_s: u64) -> i128 {
    (i128::from(bytes_per_s) * BURST.as_millis() as i128 / 1_000).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_limit_everything_passes() {
        let mut bucket = TokenBucket::default();
        bucket.take(u64::MAX);
        assert_eq!(bucket.ready(Time::ZERO), Ok(()));
    }

    proptest! {
        /// Whoever obeys the bucket stays within rate × time + burst + one chunk, and isn't kept from using it.
        #[test]
        fn what_leaves_follows_the_rate(rate in 1_000_u64..10_000_000_000, chunk in 1_u64..16_000_000) {
            let mut bucket = TokenBucket::new(Some(rate), Time::ZERO);
            let (mut now, mut left) = (Time::ZERO, 0_u64);
            for _ in 0..200 {
                match bucket.ready(now) {
                    Ok(()) => { bucket.take(chunk); left += chunk; }
                    Err(again) => { prop_assert!(again > now); now = again; }
                }
            }
            let allowed = now.as_nanos() as f64 / 1e9 * rate as f64;
            let slack = burst_bytes(rate) as f64 + chunk as f64 + 2.0;
            prop_assert!(left as f64 <= allowed + slack, "{left} of {allowed}");
            if now > Time::ZERO {
                prop_assert!(left as f64 + slack >= allowed, "{left} of {allowed}");
            }
        }
    }
}

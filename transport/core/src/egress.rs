//! What may leave a process, and whose turn it is while a limit binds: one order over all of its peers.
//!
//! Every path asks for itself, whenever one of its links has room. Where nothing limits them, they don't know of each
//! other. Where something does, whoever asked in vain has a claim until shortly after the moment at which it was told to
//! ask again; and what has less of a claim waits for it. So a small item that nothing can replace doesn't wait by chance
//! behind bulk for another peer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pacing::TokenBucket;
use crate::{Lane, Time};

/// How late whoever has the best claim may come, before somebody else is served: a turn of a busy scheduler. Its
/// transfer may also be over, and then this is what the limit loses, once.
const GRACE: Duration = Duration::from_millis(5);

/// Who is served first: the lower lane number; within a lane what is short; then what was asked for earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Its lane.
    pub lane: Lane,
    /// Whether its transfer is longer than [`SHORT_BYTES_MAX`](crate::limits::SHORT_BYTES_MAX). A short one costs all others
    /// little, and would wait long for them: with a slow link, one peer's table of contents for another's gigabytes.
    pub is_long: bool,
    /// Its place in the order in which transfers were asked for, over all peers.
    pub order: u64,
}

/// The limits of one process.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    all: Turnstile,
    lanes: [Turnstile; Lane::ALL.len()],
}

impl Egress {
    /// Limits all lanes together to so many payload bytes per second; `None` is no limit.
    pub fn set(&mut self, bytes_per_s: Option<u64>, now: Time) {
        self.all.set(bytes_per_s, now);
    }

    /// Limits one lane.
    pub fn set_lane(&mut self, lane: Lane, bytes_per_s: Option<u64>, now: Time) {
        self.lanes[lane as usize].set(bytes_per_s, now);
    }

    /// The limit of all lanes together.
    pub fn limit(&self) -> Option<u64> {
        self.all.bucket.limit()
    }

    /// The limit of one lane.
    pub fn lane_limit(&self, lane: Lane) -> Option<u64> {
        self.lanes[lane as usize].bucket.limit()
    }

    /// Whether a chunk of `claim` may leave at `now`.
    pub fn ready(&mut self, claim: Claim, now: Time) -> Result<(), Wait> {
        self.lanes[claim.lane as usize].ready(claim, now).map_err(Wait::Lane)?;
        self.all.ready(claim, now).map_err(Wait::All)
    }

    /// `bytes` of `claim` have left.
    pub fn take(&mut self, claim: Claim, bytes: u64) {
        self.lanes[claim.lane as usize].take(claim, bytes);
        self.all.take(claim, bytes);
    }
}

/// A chunk may not leave yet: when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Its lane is at its limit; others may be served meanwhile.
    Lane(Time),
    /// Everything is.
    All(Time),
}

/// One limit, and who waits for it.
#[derive(Debug, Clone, Default)]
struct Turnstile {
    bucket: TokenBucket,
    /// Claim → until when others wait for it. One a path and lane at most, as long as the limit binds.
    waiting: BTreeMap<Claim, Time>,
}

impl Turnstile {
    fn set(&mut self, bytes_per_s: Option<u64>, now: Time) {
        self.bucket.set(bytes_per_s, now);
        self.waiting.clear();
    }

    fn ready(&mut self, claim: Claim, now: Time) -> Result<(), Time> {
        if self.bucket.limit().is_none() {
            return Ok(());
        }
        self.waiting.retain(|_, until| *until > now);
        let again = match self.bucket.ready(now) {
            Ok(()) => match self.waiting.first_key_value() {
                // It comes at any moment, and asking again then is soon enough.
                Some((best, until)) if *best < claim => *until,
                _ => return Ok(()),
            },
            Err(again) => again,
        };
        self.waiting.insert(claim, again.after(GRACE));
        Err(again)
    }

    fn take(&mut self, claim: Claim, bytes: u64) {
        self.bucket.take(bytes);
        self.waiting.remove(&claim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;
    const CHUNK: u64 = 100_000;

    fn claim(lane: Lane, order: u64) -> Claim {
        Claim { lane, is_long: true, order }
    }

    fn limited() -> Egress {
        let mut egress = Egress::default();
        egress.set(Some(RATE), Time::ZERO);
        egress
    }

    /// Serves whoever is ready, in the order in which they ask, and says whose chunks left.
    fn serve(egress: &mut Egress, asking: &mut Vec<(Claim, u64)>) -> Vec<Claim> {
        let (mut now, mut served) = (Time::ZERO, Vec::new());
        while !asking.is_empty() {
            let mut again = None;
            for (claim, chunks) in asking.iter_mut() {
                match egress.ready(*claim, now) {
                    Ok(()) => {
                        egress.take(*claim, CHUNK);
                        served.push(*claim);
                        *chunks -= 1;
                    }
                    Err(Wait::All(at) | Wait::Lane(at)) => again = again.into_iter().chain([at]).min(),
                }
            }
            asking.retain(|(_, chunks)| *chunks > 0);
            now = again.unwrap_or(now);
        }
        served
    }

    #[test]
    fn without_a_limit_nobody_waits_and_nobody_has_a_claim() {
        let mut egress = Egress::default();
        for order in [9, 1, 5] {
            assert_eq!(egress.ready(claim(Lane::Bulk, order), Time::ZERO), Ok(()));
            egress.take(claim(Lane::Bulk, order), u64::MAX);
        }
        assert!(egress.all.waiting.is_empty());
    }

    #[test]
    fn what_was_asked_for_first_leaves_first_whoever_asks_first() {
        let [first, second, third] = [1, 2, 3].map(|order| claim(Lane::Rescue, order));
        let served = serve(&mut limited(), &mut vec![(third, 4), (second, 4), (first, 4)]);
        // Nobody had a claim when the first chunk left.
        assert_eq!(served[0], third);
        let expected: Vec<Claim> = [[first; 4], [second; 4]].concat();
        assert_eq!(served[1..9], expected);
    }

    #[test]
    fn what_is_short_waits_for_nothing_long_of_its_lane() {
        let [first, second] = [1, 2].map(|order| claim(Lane::Rescue, order));
        let short = Claim { is_long: false, ..claim(Lane::Rescue, 3) };
        let served = serve(&mut limited(), &mut vec![(first, 3), (second, 3), (short, 1)]);
        assert_eq!(served, [first, short, first, first, second, second, second]);
    }

    #[test]
    fn a_higher_lane_goes_before_what_was_asked_for_earlier() {
        let (bulk, step) = (claim(Lane::Bulk, 1), claim(Lane::Step, 2));
        let served = serve(&mut limited(), &mut vec![(bulk, 5), (step, 3)]);
        assert_eq!(served, [bulk, step, step, step, bulk, bulk, bulk, bulk]);
    }

    #[test]
    fn who_does_not_come_for_its_turn_loses_it_and_no_more_than_that() {
        let mut egress = limited();
        let [gone, waits] = [1, 2].map(|order| claim(Lane::Rescue, order));
        egress.take(gone, CHUNK);
        let Err(Wait::All(again)) = egress.ready(gone, Time::ZERO) else { panic!("the bucket is overdrawn") };
        assert_eq!(egress.ready(waits, again), Err(Wait::All(again.after(GRACE))), "the other one is expected");
        assert_eq!(egress.ready(waits, again.after(GRACE)), Ok(()), "it didn't come");
    }

    #[test]
    fn a_lane_at_its_limit_holds_up_no_other() {
        let mut egress = Egress::default();
        egress.set_lane(Lane::Rescue, Some(RATE), Time::ZERO);
        assert_eq!((egress.limit(), egress.lane_limit(Lane::Rescue)), (None, Some(RATE)));
        let (rescue, bulk) = (claim(Lane::Rescue, 1), claim(Lane::Bulk, 2));
        assert_eq!(egress.ready(rescue, Time::ZERO), Ok(()));
        egress.take(rescue, CHUNK);
        let Err(Wait::Lane(again)) = egress.ready(rescue, Time::ZERO) else { panic!("its lane is overdrawn") };
        assert_eq!(egress.ready(bulk, Time::ZERO), Ok(()));
        assert_eq!(egress.ready(rescue, again), Ok(()));
        egress.set_lane(Lane::Rescue, None, Time::ZERO);
        egress.take(rescue, u64::MAX);
        assert_eq!(egress.ready(rescue, Time::ZERO), Ok(()), "the limit is lifted");
    }
}

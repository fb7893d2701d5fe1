//! After the end of a transfer or a grant, nothing of it is written or read.

use std::time::Duration;

use super::{Make, PATIENCE, Pair, Random, filled, memory, pattern, seed};
use crate::{Cancelled, Fenced, Grant, Lane, Region, TransferError};

const LEN_BYTES: u64 = 4 << 20;

/// Chunks that are small against the sockets' buffers, so that many are on their way when a fence strikes.
const CHUNK_BYTES: u32 = 64 << 10;

/// What the destination is filled with once it must not be written any more.
const CANARY: u8 = 0xc5;

/// A pair, a source, and the means to find out whether anything is written too late.
struct Trial {
    pair: Pair,
    source: Region,
    flush_source: Region,
    flush: (Region, Grant),
}

impl Trial {
    fn new(make: Make<'_>) -> Self {
        let pair = Pair::with(make, |config| config.chunk_bytes = CHUNK_BYTES);
        let source = filled(pattern(LEN_BYTES, 7));
        let flush_source = filled(pattern(16 * u64::from(CHUNK_BYTES), 8));
        let flush = pair.granted(flush_source.len_bytes());
        Self { pair, source, flush_source, flush }
    }

    /// Pushes everything that is still on its way through all links, by sending something behind it.
    fn flush(&self) {
        let (to, remote) = (self.pair.receiver.id(), self.flush.1.remote().all());
        let write = self.pair.sender.write(to, self.flush_source.all(), remote, Lane::Step, None);
        write.wait(Some(PATIENCE)).expect("the links work");
    }

    /// The destination belongs to its owner again: whatever is written into it now is too late.
    fn expect_silence(&self, destination: &Region, what: &str) {
        destination.write_at(0, &vec![CANARY; LEN_BYTES as usize]).expect("inside");
        self.flush();
        let late = destination.copy_to_vec().iter().filter(|byte| **byte != CANARY).count();
        assert_eq!(late, 0, "{late} bytes were written after {what}");
    }
}

/// Cancels `trials` transfers at random instants. Whenever a cancel says that it is fenced, the destination stays
/// as it is; whenever it says that the transfer was complete, it is.
pub fn a_cancel_is_a_fence(make: Make<'_>, trials: u64) {
    let trial = Trial::new(make);
    let mut random = Random(seed());
    let (mut fenced, mut completed) = (0, 0);
    for _ in 0..trials {
        let (destination, grant) = trial.pair.granted(LEN_BYTES);
        let (to, remote) = (trial.pair.receiver.id(), grant.remote().all());
        let write = trial.pair.sender.write(to, trial.source.all(), remote, Lane::Rescue, None);
        random.pause(Duration::from_micros(2_500));
        match write.cancel() {
            Cancelled::Fenced => {
                fenced += 1;
                assert_eq!(write.try_result(), Some(Err(TransferError::Cancelled)));
                // The grant is still live: only the transfer's own fence protects the memory.
                trial.expect_silence(&destination, "a cancel");
                drop(grant);
            }
            Cancelled::Completed(transferred) => {
                completed += 1;
                assert_eq!(transferred.crc32c, destination.crc32c());
                trial.expect_silence(&destination, "a completion");
            }
            Cancelled::Quarantined => panic!("both ends are alive and a fence was not proven"),
        }
    }
    assert!(fenced > 0, "{completed} transfers were over before they were cancelled");
    let stats = trial.pair.sender.stats();
    assert_eq!((stats.transfers_cancelled, stats.quarantined_transfers), (fenced, 0));
}

/// Cancelling what has not begun, is over, or is cancelled already.
pub fn a_cancel_may_come_at_any_time(make: Make<'_>) {
    let trial = Trial::new(make);
    let (destination, grant) = trial.pair.granted(LEN_BYTES);
    let write = |from: &Region| {
        trial.pair.sender.write(trial.pair.receiver.id(), from.all(), grant.remote().all(), Lane::Bulk, None)
    };
    let done = write(&trial.source);
    let transferred = done.wait(Some(PATIENCE)).expect("applied and verified");
    assert_eq!(done.cancel(), Cancelled::Completed(transferred));
    // Nothing leaves at this rate, so the next one can't be over; what has not begun needs no round trip.
    trial.pair.sender.set_egress_limit(Some(1));
    let _first = write(&trial.source);
    let waiting = write(&trial.source);
    assert_eq!(waiting.cancel(), Cancelled::Fenced);
    assert_eq!(waiting.cancel(), Cancelled::Fenced);
    assert_eq!(waiting.wait(None), Err(TransferError::Cancelled));
    trial.pair.sender.set_egress_limit(None);
    assert_eq!(destination.len_bytes(), LEN_BYTES);
}

/// A transfer whose deadline passes ends as expired, and then nothing of it is written any more.
pub fn a_deadline_is_a_fence(make: Make<'_>, trials: u64) {
    let trial = Trial::new(make);
    let mut random = Random(seed());
    let mut expired = 0;
    for _ in 0..trials {
        let (destination, grant) = trial.pair.granted(LEN_BYTES);
        let (to, remote) = (trial.pair.receiver.id(), grant.remote().all());
        let left = Duration::from_micros(random.below(2_500));
        let deadline = Some(trial.pair.sender.deadline_in(left));
        let write = trial.pair.sender.write(to, trial.source.all(), remote, Lane::Rescue, deadline);
        match write.wait(Some(PATIENCE)) {
            Ok(transferred) => assert_eq!(transferred.crc32c, destination.crc32c()),
            Err(TransferError::Expired) => {
                expired += 1;
                assert_eq!(write.cancel(), Cancelled::Fenced, "both ends are alive");
            }
            Err(error) => panic!("{error}"),
        }
        trial.expect_silence(&destination, "a deadline");
    }
    assert!(expired > 0, "no deadline passed in time");
    assert_eq!(trial.pair.sender.stats().transfers_expired, expired);
}

/// When a revoke returns, nothing is written into the region any more, and the sender learns of it.
pub fn a_revoke_is_a_fence(make: Make<'_>, trials: u64) {
    let trial = Trial::new(make);
    let mut random = Random(seed());
    let mut revoked = 0;
    for _ in 0..trials {
        let (destination, grant) = trial.pair.granted(LEN_BYTES);
        let (to, remote) = (trial.pair.receiver.id(), grant.remote().all());
        let write = trial.pair.sender.write(to, trial.source.all(), remote, Lane::Rescue, None);
        random.pause(Duration::from_micros(2_500));
        assert_eq!(grant.revoke(), Fenced);
        // Filled at once, while the sender doesn't know yet and goes on sending.
        destination.write_at(0, &vec![CANARY; LEN_BYTES as usize]).expect("inside");
        match write.wait(Some(PATIENCE)) {
            Ok(transferred) => assert_eq!(transferred.crc32c, trial.source.crc32c()),
            Err(TransferError::Revoked { region, .. }) => {
                assert_eq!(region, remote.region().id);
                revoked += 1;
            }
            Err(error) => panic!("{error}"),
        }
        trial.flush();
        let late = destination.copy_to_vec().iter().filter(|byte| **byte != CANARY).count();
        assert_eq!(late, 0, "{late} bytes were written after a revoke");
    }
    assert!(revoked > 0, "all transfers were over before their grant was revoked");
}

/// A peer may write only what was granted to it.
pub fn only_live_grants_are_written(make: Make<'_>) {
    let trial = Trial::new(make);
    let pair = &trial.pair;
    let source = trial.source.slice(0..4096).expect("inside");
    let refused = |remote: crate::RemoteSlice| {
        let write = pair.sender.write(pair.receiver.id(), source.clone(), remote, Lane::Step, None);
        let outcome = write.wait(Some(PATIENCE));
        assert!(matches!(outcome, Err(TransferError::Revoked { .. })), "{outcome:?}");
    };
    // Granted to somebody else.
    let granted = memory(4096);
    let others = pair.receiver.grant(&granted, crate::PeerId { rank: 9, incarnation: 1 }).expect("a grant");
    refused(others.remote().all());
    // An earlier grant of the same memory.
    let early = pair.receiver.grant(&granted, pair.sender.id()).expect("a grant");
    let remote = early.remote();
    early.revoke();
    let _later = pair.receiver.grant(&granted, pair.sender.id()).expect("a grant");
    refused(remote.all());
    // A peer that claims that a region is larger than it is.
    let (small, grant) = pair.granted(1024);
    let mut forged = grant.remote();
    forged.len_bytes = 4096;
    refused(forged.all());
    forged.len_bytes = u64::MAX;
    refused(forged.slice(u64::MAX - 4096, 4096).expect("inside what it claims"));
    assert_eq!(granted.copy_to_vec(), vec![0; 4096]);
    assert_eq!(small.copy_to_vec(), vec![0; 1024]);
}

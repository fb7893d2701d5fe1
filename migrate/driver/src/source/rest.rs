//! One item's write: of all of it, or of the gaps that its target has.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use xfer_transport::{Endpoint, Landed, Region, TransferError, TransferHandle, Transferred};
use xfer_transport_core::{Deadline, Lane, PeerId, RemoteRegion, integrity};

use crate::migrations::lock;

/// Is told how a write ended.
type Done = Box<dyn FnOnce(Result<Transferred, TransferError>) + Send>;

/// Writes what of `region` isn't there, and tells `done` once all of that has ended: with the checksum of the whole region, the parts
/// that were there included, and the figures of what was sent. The transfers, to be cancelled.
pub(super) fn write(
    endpoint: &Endpoint,
    peer: PeerId,
    (region, remote, there): (&Region, RemoteRegion, &Landed),
    deadline: Deadline,
    done: Done,
) -> Vec<TransferHandle> {
    let all = 0..region.len_bytes();
    let gaps = there.missing(all.clone());
    // What is there as a whole is not written; if somebody asks for it, all of it is.
    let (gaps, there) = if gaps.is_empty() { (vec![all], Landed::default()) } else { (gaps, there.clone()) };
    let parts =
        gaps.iter().filter_map(|gap| Some((region.slice(gap.clone())?, remote.slice(gap.start, gap.end - gap.start)?)));
    let writes: Vec<TransferHandle> =
        parts.map(|(from, to)| endpoint.write(peer, from, to, Lane::Rescue, Some(deadline))).collect();
    let parts = there.ranges().collect();
    let rest = Arc::new(Mutex::new(Rest { parts, left: writes.len(), moved: Ok(nothing()), done: Some(done) }));
    for (gap, write) in gaps.into_iter().zip(&writes) {
        let rest = Arc::clone(&rest);
        write.on_done(Box::new(move |result| {
            let end = lock(&rest).ended(gap, result);
            if let Some((done, result)) = end {
                done(result);
            }
        }));
    }
    writes
}

/// What is still to end, and what came of the others.
struct Rest {
    /// What is there, with checksums.
    parts: Vec<(Range<u64>, u32)>,
    left: usize,
    /// The figures of all, or what went wrong first.
    moved: Result<Transferred, TransferError>,
    done: Option<Done>,
}

impl Rest {
    /// A gap's write has ended. Whom to tell what, if it was the last one.
    fn ended(
        &mut self,
        gap: Range<u64>,
        result: &Result<Transferred, TransferError>,
    ) -> Option<(Done, Result<Transferred, TransferError>)> {
        match (&mut self.moved, result) {
            (Ok(moved), Ok(part)) => {
                add(moved, part);
                self.parts.push((gap, part.crc32c));
            }
            (moved @ Ok(_), Err(error)) => *moved = Err(error.clone()),
            (Err(_), _) => {}
        }
        self.left -= 1;
        if self.left > 0 {
            return None;
        }
        self.parts.sort_unstable_by_key(|(range, _)| range.start);
        let parts = self.parts.iter().map(|(range, crc32c)| (*crc32c, range.end - range.start));
        let crc32c = integrity::combine(parts);
        let moved = self.moved.clone().map(|moved| Transferred { crc32c, ..moved });
        self.done.take().map(|done| (done, moved))
    }
}

fn nothing() -> Transferred {
    Transferred { bytes: 0, crc32c: 0, over: Vec::new(), took: Duration::ZERO, retried_chunks: 0 }
}

fn add(moved: &mut Transferred, part: &Transferred) {
    moved.bytes += part.bytes;
    moved.took = moved.took.max(part.took);
    moved.retried_chunks += part.retried_chunks;
    for (backend, bytes) in &part.over {
        match moved.over.iter_mut().find(|(known, _)| known == backend) {
            Some((_, sum)) => *sum += bytes,
            None => moved.over.push((*backend, *bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use xfer_transport::BackendId;

    use super::*;

    const ALL: [u8; 6] = [1, 2, 3, 4, 5, 6];

    fn part(range: Range<usize>) -> Transferred {
        let bytes = range.len() as u64;
        let (over, took) = (vec![(BackendId::Tcp, bytes)], Duration::from_secs(bytes));
        Transferred { bytes, crc32c: integrity::crc32c(&ALL[range]), over, took, retried_chunks: 1 }
    }

    /// Bytes 2 and 3 are there; the others are two gaps.
    fn rest() -> (Rest, mpsc::Receiver<Result<Transferred, TransferError>>) {
        let (said, told) = mpsc::channel();
        let done: Done = Box::new(move |result| said.send(result).expect("somebody asks"));
        let parts = vec![(2..4, integrity::crc32c(&ALL[2..4]))];
        (Rest { parts, left: 2, moved: Ok(nothing()), done: Some(done) }, told)
    }

    fn end(rest: &mut Rest, range: Range<usize>, result: Result<Transferred, TransferError>) {
        if let Some((done, result)) = rest.ended(range.start as u64..range.end as u64, &result) {
            done(result);
        }
    }

    #[test]
    fn the_checksum_is_of_all_bytes_and_the_figures_are_of_those_that_were_sent() {
        let (mut rest, told) = rest();
        end(&mut rest, 4..6, Ok(part(4..6)));
        assert!(told.try_recv().is_err(), "one gap is open");
        end(&mut rest, 0..2, Ok(part(0..2)));
        let moved = told.recv().expect("it is told").expect("both have landed");
        assert_eq!((moved.crc32c, moved.bytes, moved.over), (integrity::crc32c(&ALL), 4, vec![(BackendId::Tcp, 4)]));
        assert_eq!((moved.took, moved.retried_chunks), (Duration::from_secs(2), 2));
    }

    #[test]
    fn what_went_wrong_first_is_told_when_nothing_is_under_way_any_more() {
        let (mut rest, told) = rest();
        end(&mut rest, 0..2, Err(TransferError::ShutDown));
        assert!(told.try_recv().is_err(), "bytes may still be written");
        end(&mut rest, 4..6, Ok(part(4..6)));
        assert!(matches!(told.recv(), Ok(Err(TransferError::ShutDown))));
    }
}

//! Tests bw and rate: writes of one size, some of them under way at the same time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Map;
use xfer_transport::{BackendId, Loan, Region, RemoteRegion, TransferHandle};

use crate::ceiling::Ceiling;
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::options::{Memory, Op, Test};
use crate::report::Row;
use crate::samples::Samples;

/// How long the iterations of one size go on unless their number is said.
const SPAN: Duration = Duration::from_millis(500);

/// Fewer say nothing, however long they take.
const ITERS_MIN: u64 = 10;

pub(crate) fn run(client: &mut Client, size: u64) -> Outcome<Row> {
    let options = client.options.clone();
    let (streams, timeout) = (options.streams(), options.timeout());
    if options.op() == Op::Lend && options.mem != Memory::Shared {
        return Err(Failure::usage("only --mem shared can be read where it lies, so --op lend needs it"));
    }
    let source = client.source(size, options.seed)?;
    let remote = client.grant(0, size)?;
    let ceiling = match options.test {
        Test::Bw => Some(Ceiling::measure(client, &source.copy_to_vec())?),
        _ => None,
    };
    let begin = |client: &Client, region: &Region| match options.op() {
        Op::Lend => client.lend(region, None).map(UnderWay::Lent),
        _ => Ok(UnderWay::Written(client.write(region, remote.all(), options.lane))),
    };
    for _ in 0..options.warmup {
        begin(client, &source)?.done(timeout)?;
    }
    let (mut under_way, mut times) = (VecDeque::new(), Vec::new());
    let processor = client.processor_time()?;
    let (started, mut begun) = (Instant::now(), 0_u64);
    loop {
        let more = match options.iters {
            Some(iters) => begun < iters,
            None => begun < ITERS_MIN || started.elapsed() < SPAN,
        };
        if more && (under_way.len() as u64) < streams {
            under_way.push_back((Instant::now(), begin(client, &source)?));
            begun += 1;
            continue;
        }
        let Some((at, transfer)) = under_way.pop_front() else { break };
        transfer.done(timeout)?;
        times.push(at.elapsed());
    }
    let span = started.elapsed();
    let processor = client.processor_time()?.saturating_sub(processor);
    let route = client.checked_route()?;
    let lends = options.op() == Op::Lend;
    let verified = match options.no_verify {
        true => None,
        false if lends => Some(verify_loan(client, &source)?),
        false => Some(verify(client, remote)?),
    };
    Ok(Row {
        test: if options.test == Test::Bw { "bw" } else { "rate" },
        op: if lends { "lend" } else { "write" },
        size,
        copies: match (route.over, options.mem) {
            _ if lends => Some(0),
            (BackendId::Shm, Memory::Shared) => Some(1),
            (BackendId::Shm, Memory::Dmabuf) => Some(2),
            (BackendId::Verbs, Memory::Dmabuf) => route.dmabufs.as_ref().map(|manner| manner.copies),
            (BackendId::Shm, Memory::Host) => route.ordinary.as_ref().map(|manner| manner.copies),
            _ => Some(0),
        },
        route,
        streams,
        bytes: begun * size,
        span,
        times: Samples::from(times),
        ceiling,
        processor: Some(processor),
        verified,
        extra: Map::new(),
    })
}

/// One iteration that has begun.
enum UnderWay {
    Written(TransferHandle),
    Lent(Loan),
}

impl UnderWay {
    fn done(self, timeout: Duration) -> Outcome<()> {
        match self {
            Self::Written(transfer) => done(transfer, timeout),
            Self::Lent(loan) => loan.wait(timeout).map_err(Failure::connection),
        }
    }
}

/// One more loan, whose every byte the other end reads and sums before it gives it back.
fn verify_loan(client: &mut Client, source: &Region) -> Outcome<(u64, u64)> {
    let loan = client.lend(source, Some(source.crc32c()))?;
    loan.wait(client.options.timeout()).map_err(Failure::connection)?;
    let damaged = client.ask("damaged", 0, source.len_bytes(), 0)?["damaged"].as_u64();
    let damaged = damaged.ok_or_else(|| Failure::connection("the server did not say what it read"))?;
    Ok((source.len_bytes(), damaged * source.len_bytes()))
}

pub(crate) fn done(transfer: TransferHandle, timeout: Duration) -> Outcome<()> {
    transfer.wait(Some(timeout)).map(drop).map_err(Failure::connection)
}

/// One more write, of other bytes than before, and a look at each of them at the other end.
pub(crate) fn verify(client: &mut Client, remote: RemoteRegion) -> Outcome<(u64, u64)> {
    let (size, seed) = (remote.len_bytes, client.options.seed.wrapping_add(1));
    let source = client.source(size, seed)?;
    done(client.write(&source, remote.all(), client.options.lane), client.options.timeout())?;
    let wrong = client.ask("wrong", 0, size, seed)?["wrong"].as_u64();
    Ok((size, wrong.ok_or_else(|| Failure::connection("the server did not say what arrived"))?))
}

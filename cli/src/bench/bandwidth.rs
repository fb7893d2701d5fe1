//! Tests bw and rate: writes of one size, some of them under way at the same time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Map;
use xfer_transport::{BackendId, Region, RemoteRegion, TransferHandle};

use crate::ceiling::Ceiling;
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::options::{Memory, Test};
use crate::report::Row;
use crate::samples::Samples;

/// How long the iterations of one size go on unless their number is said.
const SPAN: Duration = Duration::from_millis(500);

/// Fewer say nothing, however long they take.
const ITERS_MIN: u64 = 10;

pub(crate) fn run(client: &mut Client, size: u64) -> Outcome<Row> {
    let options = client.options.clone();
    let (streams, timeout) = (options.streams(), options.timeout());
    let source = client.source(size, options.seed)?;
    let remote = client.grant(0, size)?;
    let ceiling = match options.test {
        Test::Bw => Some(Ceiling::measure(client, &source.copy_to_vec())?),
        _ => None,
    };
    let write = |region: &Region| client.write(region, remote.all(), options.lane);
    for _ in 0..options.warmup {
        done(write(&source), timeout)?;
    }
    let (mut under_way, mut times) = (VecDeque::new(), Vec::new());
    let (started, mut begun) = (Instant::now(), 0_u64);
    loop {
        let more = match options.iters {
            Some(iters) => begun < iters,
            None => begun < ITERS_MIN || started.elapsed() < SPAN,
        };
        if more && (under_way.len() as u64) < streams {
            under_way.push_back((Instant::now(), write(&source)));
            begun += 1;
            continue;
        }
        let Some((at, transfer)) = under_way.pop_front() else { break };
        done(transfer, timeout)?;
        times.push(at.elapsed());
    }
    let span = started.elapsed();
    let route = client.checked_route()?;
    let verified = if options.no_verify { None } else { Some(verify(client, remote)?) };
    Ok(Row {
        test: if options.test == Test::Bw { "bw" } else { "rate" },
        op: "write",
        size,
        copies: match (route.over, options.mem) {
            (BackendId::Shm, Memory::Shared) => Some(1),
            (BackendId::Shm, Memory::Host) => Some(2),
            _ => Some(0),
        },
        route,
        streams,
        bytes: begun * size,
        span,
        times: Samples::from(times),
        ceiling,
        verified,
        extra: Map::new(),
    })
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

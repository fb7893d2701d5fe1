//! Test cancel: writes that are cancelled at random moments, and whether any byte comes after the cancel has returned.

use std::time::{Duration, Instant};

use serde_json::{Map, json};
use xfer_transport::conformance::Random;
use xfer_transport::{Cancelled, Lane, Region, RemoteRegion};

use crate::bandwidth::done;
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::report::Row;
use crate::samples::Samples;

/// Trials unless their number is said.
const ITERS: u64 = 200;

/// Bytes that are sent behind a cancelled write, over all links, so that whatever it left there has arrived.
const FLUSH_BYTES: u64 = 4 << 20;

pub(crate) fn run(client: &mut Client, size: u64) -> Outcome<Row> {
    let options = client.options.clone();
    let iters = options.iters.unwrap_or(ITERS);
    let source = client.source(size, options.seed)?;
    let remote = client.grant(0, size)?;
    let flush = (client.source(FLUSH_BYTES, options.seed)?, client.grant(1, FLUSH_BYTES)?);
    let usual = usual_time(client, &source, remote)?;
    let mut random = Random(options.seed);
    let (mut fenced, mut completed, mut quarantined, mut late) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut times = Vec::new();
    let started = Instant::now();
    for _ in 0..iters {
        let write = client.write(&source, remote.all(), Lane::Rescue);
        random.pause(usual);
        let at = Instant::now();
        let outcome = write.cancel();
        match outcome {
            Cancelled::Fenced => {
                fenced += 1;
                times.push(at.elapsed());
            }
            Cancelled::Completed(_) => completed += 1,
            // Nothing is claimed of it, so nothing can be wrong.
            Cancelled::Quarantined => {
                quarantined += 1;
                continue;
            }
        }
        client.ask("canary", 0, size, 0)?;
        done(client.write(&flush.0, flush.1.all(), Lane::Step), options.timeout())?;
        let found = client.ask("late", 0, size, 0)?["late"].as_u64();
        late += found.ok_or_else(|| Failure::connection("the server did not say what came late"))?;
    }
    let extra = Map::from_iter([
        ("trials".to_owned(), json!(iters)),
        ("fenced".to_owned(), json!(fenced)),
        ("completed".to_owned(), json!(completed)),
        ("quarantined".to_owned(), json!(quarantined)),
        ("late_bytes".to_owned(), json!(late)),
    ]);
    Ok(Row {
        test: "cancel",
        op: "write",
        size,
        route: client.checked_route()?,
        copies: None,
        streams: 1,
        bytes: 0,
        span: started.elapsed(),
        times: Samples::from(times),
        ceiling: None,
        processor: None,
        verified: None,
        extra,
    })
}

/// How long such a write takes when nobody cancels it: cancels are to come at any moment of it.
fn usual_time(client: &Client, source: &Region, remote: RemoteRegion) -> Outcome<Duration> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let at = Instant::now();
        done(client.write(source, remote.all(), Lane::Rescue), client.options.timeout())?;
        times.push(at.elapsed());
    }
    Ok(Duration::from_nanos((Samples::from(times).quantile_us(0.5) * 1e3) as u64))
}

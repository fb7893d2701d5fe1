//! Test mixed: how long a training step's write takes while a rescue fills the path, against the same on an idle path.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use xfer_transport::{Lane, Region, RemoteRegion};

use crate::bandwidth::{done, verify};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::report::Row;
use crate::samples::Samples;

/// Bytes of one write of the rescue, and how many of them wait: what is queued must not matter.
const RESCUE_BYTES: u64 = 64 << 20;
const RESCUE_WRITES: usize = 4;

/// Writes of the step in each half, unless their number is said.
const ITERS: u64 = 1_000;

pub(crate) fn run(client: &mut Client, size: u64) -> Outcome<Row> {
    let options = client.options.clone();
    let iters = options.iters.unwrap_or(ITERS);
    let source = client.source(size, options.seed)?;
    let remote = client.grant(0, size)?;
    let rescued = client.source(RESCUE_BYTES, options.seed)?;
    let rescue_remote = client.grant(1, RESCUE_BYTES)?;
    for _ in 0..options.warmup {
        steps(client, &source, remote, 1)?;
        done(client.write(&rescued, rescue_remote.all(), Lane::Rescue), options.timeout())?;
    }
    let idle = Samples::from(steps(client, &source, remote, iters)?);
    let stop = AtomicBool::new(false);
    let (busy, span, rescue) = thread::scope(|scope| {
        let rescuing = scope.spawn(|| -> Outcome<(u64, Duration)> {
            let started = Instant::now();
            let mut bytes = 0;
            let mut queue: Vec<_> =
                (0..RESCUE_WRITES).map(|_| client.write(&rescued, rescue_remote.all(), Lane::Rescue)).collect();
            while !stop.load(Ordering::SeqCst) {
                done(queue.remove(0), options.timeout())?;
                bytes += RESCUE_BYTES;
                queue.push(client.write(&rescued, rescue_remote.all(), Lane::Rescue));
            }
            let took = started.elapsed();
            queue.iter().for_each(|write| _ = write.cancel());
            Ok((bytes, took))
        });
        let started = Instant::now();
        let busy = steps(client, &source, remote, iters);
        let span = started.elapsed();
        stop.store(true, Ordering::SeqCst);
        let rescue = rescuing.join().unwrap_or_else(|_| Err(Failure::connection("the rescue's thread panicked")));
        (busy, span, rescue)
    });
    let (times, (rescue_bytes, rescue_time)) = (Samples::from(busy?), rescue?);
    let ratio = |quantile: f64| times.quantile_us(quantile) / idle.quantile_us(quantile).max(f64::MIN_POSITIVE);
    let rescue_gbps = rescue_bytes as f64 / rescue_time.as_nanos().max(1) as f64;
    let extra = Map::from_iter([
        ("idle_lat_us".to_owned(), idle.json()),
        ("idle_p50_us".to_owned(), json!(idle.quantile_us(0.5))),
        ("idle_p99_us".to_owned(), json!(idle.quantile_us(0.99))),
        ("ratio_p50".to_owned(), json!(ratio(0.5))),
        ("ratio_p99".to_owned(), json!(ratio(0.99))),
        ("rescue_gbps".to_owned(), json!(rescue_gbps)),
    ]);
    let verified = if options.no_verify { None } else { Some(verify(client, remote)?) };
    Ok(Row {
        test: "mixed",
        op: "write",
        size,
        route: client.checked_route()?,
        copies: None,
        streams: 1,
        bytes: size * iters,
        span,
        times,
        ceiling: None,
        processor: None,
        verified,
        extra,
    })
}

/// Writes of the step, one after the other.
fn steps(client: &Client, source: &Region, remote: RemoteRegion, iters: u64) -> Outcome<Vec<Duration>> {
    let one = |_| {
        let at = Instant::now();
        done(client.write(source, remote.all(), Lane::Step), client.options.timeout())?;
        Ok(at.elapsed())
    };
    (0..iters).map(one).collect()
}

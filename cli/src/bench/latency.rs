//! Test lat: how long one message or one write takes, with nothing else under way.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, json};
use xfer_transport::conformance::pattern;

use crate::bandwidth::{done, verify};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::options::Op;
use crate::report::Row;
use crate::samples::Samples;
use crate::server::{PING, PONG, SERVER};

/// Iterations unless their number is said: the 99.9th percentile of fewer is one of them.
const ITERS: u64 = 5_000;

pub(crate) fn run(client: &mut Client, size: u64) -> Outcome<Row> {
    let options = client.options.clone();
    let (iters, timeout) = (options.iters.unwrap_or(ITERS), options.timeout());
    let (mut times, mut wrong) = (Vec::new(), 0);
    let verified;
    let started;
    match options.op() {
        Op::Send => {
            let pongs = client.endpoint.subscribe(PONG);
            let payload = Bytes::from(pattern(size, options.seed));
            let mut begun = Instant::now();
            for iteration in 0..iters + options.warmup {
                if iteration == options.warmup {
                    begun = Instant::now();
                }
                let at = Instant::now();
                client.endpoint.send(SERVER, PING, payload.clone()).map_err(Failure::connection)?;
                let answer = client.endpoint.next(&pongs, Some(timeout));
                let answer = answer.ok_or_else(|| Failure::connection("no answer in time"))?;
                let took = at.elapsed();
                if iteration >= options.warmup {
                    times.push(took / 2);
                }
                if !options.no_verify {
                    wrong += payload.iter().zip(&answer.payload).filter(|(a, b)| a != b).count() as u64;
                    wrong += payload.len().abs_diff(answer.payload.len()) as u64;
                }
            }
            started = begun;
            verified = (!options.no_verify).then_some((size * iters, wrong));
        }
        Op::Lend => return Err(Failure::usage("--op lend is for bw and rate")),
        Op::Write => {
            let source = client.source(size, options.seed)?;
            let remote = client.grant(0, size)?;
            for _ in 0..options.warmup {
                done(client.write(&source, remote.all(), options.lane), timeout)?;
            }
            started = Instant::now();
            for _ in 0..iters {
                let at = Instant::now();
                done(client.write(&source, remote.all(), options.lane), timeout)?;
                times.push(at.elapsed());
            }
            verified = if options.no_verify { None } else { Some(verify(client, remote)?) };
        }
    }
    // Of messages, half the time that both ways took.
    let span = times.iter().sum::<Duration>().min(started.elapsed());
    let op = options.op();
    let mut extra = Map::new();
    extra.insert("one_way".into(), json!(op == Op::Send));
    Ok(Row {
        test: "lat",
        op: if op == Op::Send { "send" } else { "write" },
        size,
        route: client.checked_route()?,
        copies: None,
        streams: 1,
        bytes: size * iters,
        span,
        times: Samples::from(times),
        ceiling: None,
        processor: None,
        verified,
        extra,
    })
}

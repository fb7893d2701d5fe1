//! Tests reg and connect: what it costs before the first byte moves.

use std::time::Instant;

use serde_json::{Map, json};
use xfer_transport::{Endpoint, Region};

use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::options::Memory;
use crate::report::Row;
use crate::samples::Samples;
use crate::server::SERVER;

/// Iterations unless their number is said.
const ITERS: u64 = 50;

/// Memory of one size: allocated and touched (the times of the table), granted, revoked, given back.
pub(crate) fn register(client: &mut Client, size: u64) -> Outcome<Row> {
    let iters = client.options.iters.unwrap_or(ITERS);
    let (mut allocated, mut granted, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
    let started = Instant::now();
    for _ in 0..iters {
        let at = Instant::now();
        let region = match client.options.mem {
            Memory::Host => Region::allocate(size),
            Memory::Shared => Region::shared(size),
            Memory::Dmabuf => Region::dmabuf(size),
        };
        let region = region.map_err(Failure::connection)?;
        allocated.push(at.elapsed());
        let at = Instant::now();
        let grant = client.endpoint.grant(&region, SERVER).map_err(Failure::connection)?;
        granted.push(at.elapsed());
        let at = Instant::now();
        grant.revoke();
        revoked.push(at.elapsed());
    }
    let span = started.elapsed();
    let (granted, revoked) = (Samples::from(granted), Samples::from(revoked));
    let extra = Map::from_iter([
        ("grant_us".to_owned(), json!(granted.quantile_us(0.5))),
        ("revoke_us".to_owned(), json!(revoked.quantile_us(0.5))),
    ]);
    Ok(Row { extra, ..row(client, "reg", size, span, Samples::from(allocated))? })
}

/// From a ticket to a peer that can be written to.
pub(crate) fn connect(client: &mut Client) -> Outcome<Row> {
    let iters = client.options.iters.unwrap_or(ITERS);
    let mut times = Vec::new();
    let started = Instant::now();
    for life in 0..iters {
        // Each is the next life of this rank, so that the server takes it for what it is.
        let endpoint: Endpoint = client.another(u32::try_from(life + 2).map_err(Failure::usage)?)?;
        let at = Instant::now();
        endpoint.connect(&client.ticket, client.options.timeout()).map_err(Failure::connection)?;
        times.push(at.elapsed());
        client.endpoint = endpoint;
    }
    let span = started.elapsed();
    row(client, "connect", 0, span, Samples::from(times))
}

fn row(client: &Client, test: &'static str, size: u64, span: std::time::Duration, times: Samples) -> Outcome<Row> {
    let op = if test == "reg" { "allocate" } else { "connect" };
    let (route, extra) = (client.checked_route()?, Map::new());
    let bytes = 0;
    Ok(Row {
        test,
        op,
        size,
        route,
        copies: None,
        streams: 1,
        bytes,
        span,
        times,
        ceiling: None,
        processor: None,
        verified: None,
        extra,
    })
}

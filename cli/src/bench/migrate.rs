//! Test migrate: state that is handed over at a notice, from the notice to the commit, and what of its deadline is left.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use xfer::migrate::{Cost, ItemClass, OutcomeKind, Rescue};
use xfer::{Engine, EngineBuilder};
use xfer_transport::BackendId;
use xfer_transport::conformance::pattern;

use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::report::Row;
use crate::samples::Samples;

/// Hand-overs of each size unless their number is said: each is a job of its own.
const ITERS: u64 = 3;

/// Bytes of one item: a tensor of a few million parameters.
const ITEM_BYTES: u64 = 4 << 20;

/// A hand-over that has not begun so long after its deadline does not begin.
const BEGUN_AFTER: Duration = Duration::from_secs(1);

/// Who leaves, and who takes over.
const SOURCE: u32 = 0;
const TARGET: u32 = 1;

/// What one hand-over came to.
#[derive(Default)]
struct Moved {
    finish: Duration,
    /// All of it was committed, and in time.
    met: bool,
    admitted: bool,
    committed_bytes: u64,
    retried_chunks: u64,
    /// How often the bytes went on over another transport.
    switches: u64,
    path: String,
    wrong: u64,
}

pub(crate) fn run(client: &mut Client, size: u64) -> Outcome<Row> {
    let iters = client.options.iters.unwrap_or(ITERS);
    let notice = Duration::from_millis(client.options.notice_ms);
    let runs: Vec<Moved> = (0..iters).map(|run| hand_over(client, size, run, notice)).collect::<Outcome<_>>()?;
    let times = Samples::from(runs.iter().map(|run| run.finish).collect::<Vec<_>>());
    let worst = times.quantile_us(1.0) / 1e3;
    let notice_ms = client.options.notice_ms as f64;
    let sum = |of: fn(&Moved) -> u64| runs.iter().map(of).sum::<u64>();
    let wrong = sum(|run| run.wrong);
    let extra = Map::from_iter([
        ("notice_ms".to_owned(), json!(client.options.notice_ms)),
        ("admitted".to_owned(), json!(runs.iter().filter(|run| run.admitted).count())),
        ("met".to_owned(), json!(runs.iter().filter(|run| run.met).count())),
        ("finish_ms".to_owned(), json!(times.quantile_us(0.5) / 1e3)),
        ("slack_ms".to_owned(), json!(notice_ms - worst)),
        ("committed_bytes".to_owned(), json!(sum(|run| run.committed_bytes))),
        ("resent_chunks".to_owned(), json!(sum(|run| run.retried_chunks))),
        ("switches".to_owned(), json!(sum(|run| run.switches))),
        ("over".to_owned(), json!(runs.iter().map(|run| run.path.as_str()).collect::<Vec<_>>())),
    ]);
    Ok(Row {
        test: "migrate",
        op: "hand-over",
        size,
        route: client.checked_route()?,
        copies: None,
        streams: 1,
        bytes: sum(|run| run.committed_bytes),
        span: runs.iter().map(|run| run.finish).sum(),
        times,
        ceiling: None,
        processor: None,
        verified: (!client.options.no_verify).then_some((sum(|run| run.committed_bytes), wrong)),
        extra,
    })
}

fn hand_over(client: &mut Client, size: u64, run: u64, notice: Duration) -> Outcome<Moved> {
    let (timeout, seed) = (client.options.timeout(), client.options.seed);
    let ip = client.local_ip()?;
    // Free a moment ago; whoever takes it meanwhile makes this run fail by name.
    let free = TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()).map_err(Failure::connection)?;
    let place = Place { store: free.to_string(), ip, transports: client.options.transport.0.clone() };
    let job = format!("xfer-bench-{run}");
    let source = place.builder(SOURCE, &job)?.start().map_err(Failure::connection)?;
    client.tell(&json!({ "ask": "migrate", "store": place.store, "job": job, "timeout_s": timeout.as_secs() }))?;
    source.connect(timeout).map_err(Failure::connection)?;
    let starts = (0..size).step_by(ITEM_BYTES as usize).enumerate();
    let state = starts.map(|(number, start)| {
        Ok(Rescue {
            name: number.to_string(),
            class: ItemClass::Parameter,
            region: client.source((size - start).min(ITEM_BYTES), seed.wrapping_add(number as u64))?,
            target: TARGET,
            version: 1,
            group: String::new(),
            cost: Cost::Irreplaceable,
        })
    });
    source.protect(vec![TARGET], vec![("all".to_owned(), TARGET)], state.collect::<Outcome<_>>()?);
    let began = Instant::now();
    source.raise_notice("bench", notice).map_err(Failure::connection)?;
    let outgoing = source.bell().wait_for(Some(timeout.min(notice + BEGUN_AFTER)), || source.outgoing());
    let Some(outgoing) = outgoing else {
        // There was less time than it takes to begin.
        source.close();
        return Ok(Moved { finish: began.elapsed(), ..Moved::default() });
    };
    // The deadline may have passed by now, and then it is being decided without.
    let refused = outgoing.cut("bench".into()).err();
    let undecided = || refused.map_or("nothing was decided in time".to_owned(), |error| error.to_string());
    let outcome = outgoing.wait(Some(timeout)).ok_or_else(|| Failure::connection(undecided()))?;
    let finish = began.elapsed();
    let outcome = outcome.map_err(Failure::connection)?;
    let report = outgoing.report();
    let handed_over = outcome.kind == OutcomeKind::Handoff;
    // A target that nothing was offered in time still waits for it, and has nothing to say.
    let answer =
        if handed_over { client.tell(&json!({ "ask": "migrated", "seed": seed }))? } else { json!({ "wrong": 0 }) };
    source.close();
    let wrong = answer["wrong"].as_u64().ok_or_else(|| Failure::connection("the server did not say what it has"))?;
    Ok(Moved {
        finish,
        met: handed_over && finish <= notice,
        admitted: report.skipped.is_empty() && report.predicted_s().is_none_or(|at| at <= notice.as_secs_f64()),
        committed_bytes: if handed_over { report.moved_bytes() } else { 0 },
        retried_chunks: report.retried_chunks,
        switches: report.path.len().saturating_sub(1) as u64,
        path: report.path.keys().map(String::as_str).collect::<Vec<_>>().join(","),
        wrong,
    })
}

/// Where a job of two processes meets.
#[derive(Clone)]
struct Place {
    store: String,
    ip: IpAddr,
    transports: Option<Vec<BackendId>>,
}

impl Place {
    fn builder(&self, rank: u32, job: &str) -> Outcome<EngineBuilder> {
        let builder = EngineBuilder::new(rank, 2).map_err(Failure::usage)?;
        let builder = builder.store(&self.store).job(job).bind(SocketAddr::new(self.ip, 0));
        Ok(builder.host_store(rank == SOURCE).transports(self.transports.clone()))
    }
}

/// The end that takes over, on the server.
pub(crate) struct Target(JoinHandle<Outcome<Landed>>);

/// Items by name, as they landed.
type Landed = Vec<(String, Vec<u8>)>;

impl Target {
    /// Joins the job that is asked for.
    pub(crate) fn start(request: &Value, ip: IpAddr, transports: Option<Vec<BackendId>>) -> Result<Self, String> {
        let text = |field: &str| request[field].as_str().map(str::to_owned).ok_or_else(|| format!("no {field}"));
        let (place, job) = (Place { store: text("store")?, ip, transports }, text("job")?);
        let timeout = Duration::from_secs(request["timeout_s"].as_u64().unwrap_or(60));
        Ok(Self(thread::spawn(move || {
            let engine = place.builder(TARGET, &job)?.start().map_err(Failure::connection)?;
            take_over(&engine, timeout)
        })))
    }

    /// How many bytes of what landed are not those that were sent.
    pub(crate) fn wrong(self, seed: u64) -> Result<u64, String> {
        let landed = self.0.join().map_err(|_| "the target's thread panicked".to_owned())?;
        let landed = landed.map_err(|failure| failure.what().to_owned())?;
        let wrong = landed.iter().map(|(name, found)| {
            let number: u64 = name.parse().unwrap_or(u64::MAX);
            let expected = pattern(found.len() as u64, seed.wrapping_add(number));
            expected.iter().zip(found).filter(|(a, b)| a != b).count() as u64
        });
        Ok(wrong.sum())
    }
}

fn take_over(engine: &Engine, timeout: Duration) -> Outcome<Landed> {
    engine.connect(timeout).map_err(Failure::connection)?;
    let incoming = engine.bell().wait_for(Some(timeout), || engine.incoming());
    let incoming = incoming.ok_or_else(|| Failure::connection("nothing came to be taken over"))?;
    let outcome = incoming.wait(Some(timeout)).ok_or_else(|| Failure::connection("nothing was decided in time"))?;
    let outcome = outcome.map_err(Failure::connection)?;
    let landed = outcome.landed.iter().filter_map(|name| Some((name.clone(), incoming.landed(name)?.copy_to_vec())));
    let landed = landed.collect();
    engine.close();
    Ok(landed)
}

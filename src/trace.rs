//! Traces: what each migration did when, in files that `xfer trace` puts together and Perfetto or Chrome draws.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::UNIX_EPOCH;
use std::{fs, thread};

use serde_json::{Map, Value, json};
use xfer_migrate::{Ended, Trip};
use xfer_transport::{Endpoint, FlightRecord};
use xfer_transport_core::{BackendId, Time};

/// Tracks of a process in a trace. Items overlap, so they are drawn as asynchronous events, each on a line of its own.
const PHASES_TRACK: u32 = 1;
const ITEMS_TRACK: u32 = 2;

/// Writes a file into `dir` for every migration that ends and is told to what this returns; the thread ends with the last
/// sender.
pub(crate) fn follow(dir: &Path, endpoint: &Endpoint) -> io::Result<mpsc::Sender<Ended>> {
    let (told, ends) = mpsc::channel::<Ended>();
    let (dir, endpoint) = (dir.to_owned(), endpoint.clone());
    thread::Builder::new().name("xfer-trace".into()).spawn(move || {
        for (count, ended) in ends.iter().enumerate() {
            match write(&dir, count, &endpoint, &ended) {
                Ok(paths) => tracing::info!(?paths, "a migration left its trace"),
                Err(error) => tracing::warn!(dir = %dir.display(), %error, "a migration could leave no trace there"),
            }
        }
    })?;
    Ok(told)
}

fn write(dir: &Path, count: usize, endpoint: &Endpoint, ended: &Ended) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let me = endpoint.id();
    let name = |what: &str| dir.join(format!("{what}-rank{}-life{}-{count}.json", me.rank, me.incarnation));
    let mut written = vec![name("trace")];
    fs::write(&written[0], document(endpoint, ended).to_string())?;
    if ended.is_failure() {
        let failure = json!({
            "rank": me.rank,
            "incarnation": me.incarnation,
            "reason": ended.report.reason,
            "counters": counters(endpoint),
            "flights": flights(endpoint),
        });
        written.push(name("flights"));
        fs::write(&written[1], failure.to_string())?;
    }
    Ok(written)
}

/// A trace in the format of Chrome's `about:tracing`, which Perfetto reads too. Times are microseconds since 1970, so that
/// traces of several processes lie beside each other as well as their clocks agree.
fn document(endpoint: &Endpoint, ended: &Ended) -> Value {
    let me = endpoint.id();
    let (report, trace) = (&ended.report, &ended.trace);
    let at = |time: Time| -> u64 {
        let since = endpoint.on_calendar(time).duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    };
    let migration = format!("migration from rank {}", trace.source);
    let mut events = vec![
        json!({ "ph": "M", "name": "process_name", "pid": me.rank, "args": { "name": format!("rank {}", me.rank) } }),
        json!({ "ph": "M", "name": "process_sort_index", "pid": me.rank, "args": { "sort_index": me.rank } }),
        track(me.rank, PHASES_TRACK, &format!("phases as {}", report.side)),
        track(me.rank, ITEMS_TRACK, "items"),
    ];
    for (phase, start, end) in &trace.phases {
        events.push(json!({
            "ph": "X", "cat": "phase", "name": phase, "pid": me.rank, "tid": PHASES_TRACK,
            "ts": at(*start), "dur": at(*end).saturating_sub(at(*start)), "args": { "of": migration },
        }));
    }
    for (index, trip) in trace.trips.iter().enumerate() {
        // Unique over the files of a job, which end up in one.
        let id = format!("{}.{}.{}", me.rank, trace.source, index);
        events.extend(trip_events(me.rank, &id, trip, at));
    }
    json!({
        "displayTimeUnit": "ms",
        "traceEvents": events,
        "otherData": {
            "rank": me.rank,
            "incarnation": me.incarnation,
            "report": serde_json::from_str::<Value>(&report.to_json()).unwrap_or_default(),
            "counters": counters(endpoint),
        },
    })
}

fn track(rank: u32, track: u32, name: &str) -> Value {
    json!({ "ph": "M", "name": "thread_name", "pid": rank, "tid": track, "args": { "name": name } })
}

/// An item on its way is a span; at a target, which knows only when it landed, it is an instant.
fn trip_events(rank: u32, id: &str, trip: &Trip, at: impl Fn(Time) -> u64) -> Vec<Value> {
    let event = |ph: &str, time: Time| {
        json!({
            "ph": ph, "cat": trip.class, "name": trip.name, "id": id, "pid": rank, "tid": ITEMS_TRACK, "ts": at(time),
            "args": { "bytes": trip.bytes, "to": trip.to, "landed": trip.landed.is_some() },
        })
    };
    match (trip.left, trip.landed) {
        (Some(left), landed) => vec![event("b", left), event("e", landed.unwrap_or(left))],
        (None, Some(landed)) => vec![event("n", landed)],
        (None, None) => Vec::new(),
    }
}

fn counters(endpoint: &Endpoint) -> Value {
    serde_json::from_str(&crate::metrics::to_json(&endpoint.stats())).unwrap_or_default()
}

/// The latest transfers; times in seconds since the endpoint started, sizes in bytes.
pub(crate) fn flights(endpoint: &Endpoint) -> Value {
    endpoint.flights().iter().map(flight).collect()
}

fn flight(record: &FlightRecord) -> Value {
    let seconds = |time: Time| time.since(Time::ZERO).as_secs_f64();
    let ended = record.ended.as_ref();
    let over = ended.and_then(|end| end.result.as_ref().ok());
    json!({
        "transfer": record.transfer,
        "peer": record.peer.rank,
        "peer_incarnation": record.peer.incarnation,
        "lane": record.lane.to_string(),
        "bytes": record.bytes,
        "began_s": seconds(record.began),
        "ended_s": ended.map(|end| seconds(end.at)),
        "state": match ended.map(|end| &end.result) {
            None => "under way",
            Some(Ok(_)) => "done",
            Some(Err(_)) => "failed",
        },
        "error": ended.and_then(|end| end.result.as_ref().err()).map(ToString::to_string),
        "fenced": ended.map(|end| end.fenced),
        "retried_chunks": ended.map(|end| end.retried_chunks),
        "over": over.map(|over| by_backend(over)),
    })
}

fn by_backend(over: &[(BackendId, u64)]) -> Map<String, Value> {
    over.iter().map(|(backend, bytes)| (backend.to_string(), Value::from(*bytes))).collect()
}

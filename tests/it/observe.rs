//! What can be seen from outside: counters, the flight recorder, traces, metrics; and that they tell the truth.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use xfer::migrate::{HandOver, OutcomeKind};
use xfer::{Engine, Lane, Region};

use crate::support::{WAIT, engines_with, state};

fn hand_over(leaving: &Engine, time_left: Duration) -> xfer::migrate::Outgoing {
    let owners_after = vec![("front".to_owned(), 0), ("back".to_owned(), 2)];
    leaving.hand_over(HandOver { targets: vec![0, 2], owners_after, time_left }).unwrap()
}

/// The documents in `dir` whose names begin with `what`, once there are `count`.
fn documents(dir: &Path, what: &str, count: usize) -> Vec<Value> {
    let deadline = std::time::Instant::now() + WAIT;
    loop {
        let found: Vec<Value> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let is_one = path.file_name()?.to_str()?.starts_with(what);
                // One that is half written is not there yet.
                is_one.then(|| serde_json::from_str(&fs::read_to_string(path).unwrap()).ok()).flatten()
            })
            .collect();
        if found.len() >= count {
            assert_eq!(found.len(), count);
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{} of {count} in {}", found.len(), dir.display());
        std::thread::yield_now();
    }
}

#[test]
fn every_rank_leaves_a_trace_that_agrees_with_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let [first, leaving, last] = engines_with(|builder| builder.trace_dir(Some(dir.path().to_owned())));
    let outgoing = hand_over(&leaving, Duration::from_secs(60));
    outgoing.offer(vec![state("a", 0, 3_000_001), state("b", 2, 100)]).unwrap();
    outgoing.cut("step 3".into()).unwrap();
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().kind, OutcomeKind::Handoff);

    let traces = documents(dir.path(), "trace-", 3);
    for trace in &traces {
        let (other, events) = (&trace["otherData"], trace["traceEvents"].as_array().unwrap());
        assert_eq!((&other["report"]["verdict"], &other["report"]["generation"]), (&"handoff".into(), &1.into()));
        let items: Vec<&Value> = events.iter().filter(|event| event["cat"] == "parameter").collect();
        let (phases, expected): (&[&str], _) = match other["rank"].as_u64().unwrap() {
            // Two events for each item of the source, from leaving to landing; one at its target.
            1 => {
                (&["grants", "first byte", "stream", "decision"], vec![("a", "b"), ("b", "b"), ("a", "e"), ("b", "e")])
            }
            rank => (&["grants", "cut", "seal", "decision"], vec![(if rank == 0 { "a" } else { "b" }, "n")]),
        };
        let mut found: Vec<_> =
            items.iter().map(|item| (item["name"].as_str().unwrap(), item["ph"].as_str().unwrap())).collect();
        found.sort_by_key(|(name, ph)| (*ph, *name));
        assert_eq!(found, expected);
        let bytes: u64 =
            items.iter().filter(|item| item["ph"] != "b").map(|item| item["args"]["bytes"].as_u64().unwrap()).sum();
        assert_eq!(Some(bytes), other["report"]["moved_bytes"].as_u64(), "the trace and the report agree to the byte");
        for phase in phases {
            assert!(events.iter().any(|event| event["cat"] == "phase" && event["name"] == *phase), "{phase}: {trace}");
        }
    }
    assert!(
        !fs::read_dir(dir.path()).unwrap().any(|entry| entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("flights"))
    );

    // Counters of both ends, the recorder and the report are about the same bytes.
    let sent = leaving.endpoint().stats();
    let received: u64 =
        [&first, &last].map(|end| end.endpoint().stats().lane(Lane::Rescue).received_bytes).iter().sum();
    assert_eq!((sent.lane(Lane::Rescue).done_bytes, received), (3_000_101, 3_000_101));
    assert_eq!(sent.lane(Lane::Rescue).took.count(), 2);
    let flights: Value = serde_json::from_str(&leaving.flights_json()).unwrap();
    let done: u64 =
        flights.as_array().unwrap().iter().filter(|f| f["state"] == "done").map(|f| f["bytes"].as_u64().unwrap()).sum();
    assert_eq!(done, 3_000_101);
    assert_eq!(outgoing.report().moved_bytes(), 3_000_101);
}

#[test]
fn a_migration_that_fails_leaves_the_flight_recorder_too() {
    let dir = tempfile::tempdir().unwrap();
    let [first, leaving, last] = engines_with(|builder| builder.trace_dir(Some(dir.path().to_owned())));
    leaving.endpoint().set_egress_limit(Some(1_000_000));
    let outgoing = hand_over(&leaving, Duration::from_secs(60));
    outgoing.offer(vec![state("small", 0, 1_000), state("huge", 2, 20_000_000)]).unwrap();
    outgoing.cut("step 3".into()).unwrap();
    leaving
        .bell()
        .wait_for(Some(WAIT), || (outgoing.report().moved_items() == 1).then_some(()))
        .expect("`small` lands");
    // The machine is gone sooner than was said.
    leaving.migrations().deadline_moved(Duration::ZERO);
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().kind, OutcomeKind::Restore, "there was no time for `huge`");

    documents(dir.path(), "trace-", 3);
    let recorded = documents(dir.path(), "flights-", 3);
    let of_source = recorded.iter().find(|recorded| recorded["rank"] == 1).expect("the source left one");
    let flights = of_source["flights"].as_array().unwrap();
    let huge = flights.iter().find(|flight| flight["bytes"] == 20_000_000).expect("the recorder has it");
    assert!(huge["state"] != "done", "{huge}");
    assert!(of_source["counters"]["transfers_started"].as_u64() >= Some(1), "{of_source}");
    drop((first, last));
}

#[test]
fn metrics_name_the_peers_and_count_what_was_sent() {
    let [first, second] = engines_with(|builder| builder);
    let region = Region::from_vec(vec![7; 1000]);
    let into = Region::allocate(1000).unwrap();
    let sent = first.send(region, 1, "x", Lane::Step);
    second.recv(&into, 0, "x").wait(Some(WAIT)).unwrap().unwrap();
    sent.wait(Some(WAIT)).unwrap().unwrap();
    let metrics = first.metrics();
    for line in [
        "xfer_lane_done_bytes_total{rank=\"0\",lane=\"step\"} 1000",
        "xfer_transfer_duration_seconds_count{rank=\"0\",lane=\"step\"} 1",
        "xfer_peer_connected{rank=\"0\",peer=\"1\"} 1",
        "xfer_generation{rank=\"0\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

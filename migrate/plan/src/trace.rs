//! Preemptions as they really happened, or as they might: traces of nodes that come and go.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::baseline::Baseline;
use crate::job::Job;
use crate::limits;
use crate::sweep::{Comparison, SweepError, compare};

/// A node that comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds from the beginning.
    pub at_ms: u64,
    /// Whether it comes.
    pub comes: bool,
    /// Which.
    pub node: String,
}

/// Why a file is no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the trace: {problem}; a line is `milliseconds,add|remove,node`")]
pub struct TraceError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Nodes that were told to leave together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departing {
    /// When the first was told.
    pub at_ms: u64,
    /// How many of the job's nodes there were.
    pub nodes: u32,
    /// How many of them left.
    pub leaves: u32,
}

/// What a trace cost in all.
#[derive(Debug, Clone, Default)]
pub struct Replayed {
    /// How often nodes of the job left.
    pub departures: usize,
    /// How many in all.
    pub nodes_left: u64,
    /// How often all of them left at once.
    pub all_left: usize,
    /// What the plans were expected to lose, in seconds.
    pub plan_loss_s: f64,
    /// How many rollbacks are expected with plans.
    pub plan_rollbacks: f64,
    /// Likewise of each baseline: seconds, rollbacks.
    pub baselines: BTreeMap<Baseline, (f64, f64)>,
}

/// Reads `milliseconds,add|remove,node` lines, in the order of time.
pub fn parse(text: &str) -> Result<Vec<Event>, TraceError> {
    let mut events: Vec<Event> = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let broken = |problem: String| TraceError { line: at + 1, problem };
        if events.len() == limits::TRACE_EVENTS_MAX {
            return Err(broken(format!("more than {} events", limits::TRACE_EVENTS_MAX)));
        }
        let mut parts = line.split(',').map(str::trim);
        let (Some(at_ms), Some(what), Some(node), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(broken("not three parts".into()));
        };
        let at_ms: u64 = at_ms.parse().map_err(|_| broken(format!("`{at_ms}` is no time")))?;
        if at_ms > limits::TRACE_MS_MAX {
            return Err(broken(format!("{at_ms} is later than {}", limits::TRACE_MS_MAX)));
        }
        let comes = match what {
            "add" => true,
            "remove" => false,
            other => return Err(broken(format!("`{other}` is neither add nor remove"))),
        };
        if node.is_empty() || node.len() > limits::NAME_LEN_BYTES_MAX {
            return Err(broken("the node has no name, or a very long one".into()));
        }
        if events.last().is_some_and(|last| last.at_ms > at_ms) {
            return Err(broken("it is earlier than the line before".into()));
        }
        events.push(Event { at_ms, comes, node: node.to_owned() });
    }
    Ok(events)
}

/// A trace of a made-up spot market, the same for the same seed: every four minutes or so some nodes are taken, as often
/// several at once as in traces of real ones, and come back later.
pub fn synthetic(seed: u64, hours: u64, nodes: u32) -> Vec<Event> {
    /// How often 1, 2, ... nodes went within a minute, of 79 times that any did, on EC2 p3 spot instances.
    const SIZES: [u64; 6] = [39, 13, 15, 7, 1, 4];
    let mut state = seed;
    let mut random = |below: u64| {
        // SplitMix64: good enough to be varied, and the same everywhere.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    };
    let name = |number: u32| format!("node{number}");
    let mut events: Vec<Event> = (0..nodes).map(|number| Event { at_ms: 0, comes: true, node: name(number) }).collect();
    let mut away: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut present: BTreeSet<u32> = (0..nodes).collect();
    let mut at_ms = 0;
    while at_ms < hours * 3_600_000 {
        at_ms += 60_000 * (1 + random(8));
        let back: Vec<u64> = away.range(..=at_ms).map(|(when, _)| *when).collect();
        for when in back {
            for number in away.remove(&when).unwrap_or_default() {
                present.insert(number);
                events.push(Event { at_ms, comes: true, node: name(number) });
            }
        }
        let mut draw = random(SIZES.iter().sum());
        let size = SIZES.iter().position(|weight| {
            let is_it = draw < *weight;
            draw = draw.saturating_sub(*weight);
            is_it
        });
        for _ in 0..=size.unwrap_or(0) {
            let Some(number) = present.iter().copied().nth(random(present.len() as u64) as usize) else { break };
            present.remove(&number);
            events.push(Event { at_ms, comes: false, node: name(number) });
            away.entry(at_ms + 60_000 * (5 + random(20))).or_default().push(number);
        }
    }
    events
}

/// When nodes of a job of at most `nodes` left: removals within `notice_ms` of the first are one departure. The job takes
/// whatever nodes there are when one begins.
pub fn departures(events: &[Event], nodes: u32, notice_ms: u64) -> Vec<Departing> {
    let mut present: BTreeSet<&str> = BTreeSet::new();
    let mut found: Vec<Departing> = Vec::new();
    // The nodes of the job that have not left in the open departure, and when it ends.
    let mut open: Option<(BTreeSet<&str>, u64)> = None;
    for event in events {
        if event.comes {
            present.insert(&event.node);
            continue;
        }
        if open.as_ref().is_none_or(|(_, until)| event.at_ms > *until) {
            let job: BTreeSet<&str> = present.iter().copied().take(nodes as usize).collect();
            found.push(Departing { at_ms: event.at_ms, nodes: job.len() as u32, leaves: 0 });
            open = Some((job, event.at_ms.saturating_add(notice_ms)));
        }
        present.remove(event.node.as_str());
        if let (Some((job, _)), Some(last)) = (&mut open, found.last_mut()) {
            // A node that is said to leave twice leaves once.
            last.leaves += u32::from(job.remove(event.node.as_str()));
        }
    }
    found.retain(|departing| departing.leaves > 0);
    found
}

/// What a trace costs a job like `job`, with plans and with each baseline. Where all nodes leave, there must be a place
/// to spill to; what it takes is taken to be a node's.
pub fn replay(events: &[Event], job: &Job) -> Result<Replayed, SweepError> {
    let notice_ms = (job.window.notice_s * 1e3) as u64;
    let mut known: BTreeMap<(u32, u32), Comparison> = BTreeMap::new();
    let mut replayed = Replayed::default();
    for departing in departures(events, job.nodes, notice_ms) {
        let key = (departing.nodes, departing.leaves);
        let comparison = match known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let smaller = Job { nodes: departing.nodes, leaves: departing.leaves, spill: true, ..job.clone() };
                unknown.insert(compare(&smaller.departure()?)?.1)
            }
        };
        replayed.departures += 1;
        replayed.nodes_left += u64::from(departing.leaves);
        replayed.all_left += usize::from(departing.leaves == departing.nodes);
        replayed.plan_loss_s += comparison.plan.loss_s;
        replayed.plan_rollbacks += comparison.plan.p_rollback;
        for (baseline, expected) in &comparison.baselines {
            let sum = replayed.baselines.entry(*baseline).or_default();
            *sum = (sum.0 + expected.loss_s, sum.1 + expected.p_rollback);
        }
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str =
        "0,add,a\n0,add,b\n0,add,c\n0,add,d\n60000,remove,a\n61000,remove,b\n200000,add,e\n300000,remove,d\n";

    #[test]
    fn removals_within_a_notice_are_one_departure() {
        let events = parse(TRACE).unwrap();
        let found = departures(&events, 3, 30_000);
        let departing = |at_ms, nodes, leaves| Departing { at_ms, nodes, leaves };
        assert_eq!(found, [departing(60_000, 3, 2), departing(300_000, 3, 1)]);
        assert_eq!(departures(&events, 3, 500).len(), 3);
        let twice = parse("0,add,a\n0,add,b\n1,remove,a\n2,remove,a\n3,remove,a").unwrap();
        assert_eq!(departures(&twice, 2, 30_000), [departing(1, 2, 1)]);
        let late = parse(&format!("0,add,a\n{},remove,a", limits::TRACE_MS_MAX)).unwrap();
        assert_eq!(departures(&late, 1, u64::MAX), [departing(limits::TRACE_MS_MAX, 1, 1)]);
        // A spare node's removal is no departure of the job's.
        assert_eq!(departures(&events, 1, 30_000), [departing(60_000, 1, 1)]);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        for (text, problem) in [
            ("0,add", "not three parts"),
            ("0,add,a,b", "not three parts"),
            ("x,add,a", "`x` is no time"),
            ("-1,add,a", "`-1` is no time"),
            ("3153600000001,add,a", "3153600000001 is later than 3153600000000"),
            ("0,join,a", "`join` is neither add nor remove"),
            ("0,add,", "the node has no name, or a very long one"),
            ("5,add,a\n4,add,b", "it is earlier than the line before"),
        ] {
            let line = text.lines().count();
            assert_eq!(parse(text), Err(TraceError { line, problem: problem.into() }), "{text}");
        }
        assert_eq!(parse("\n"), Ok(vec![]));
    }

    #[test]
    fn made_up_traces_are_traces_and_the_same_for_one_seed() {
        let events = synthetic(7, 10, 12);
        assert_eq!(events, synthetic(7, 10, 12));
        assert_ne!(events, synthetic(8, 10, 12));
        assert!(events.is_sorted_by_key(|event| event.at_ms));
        let mut present = BTreeSet::new();
        for event in &events {
            let changed = if event.comes { present.insert(&event.node) } else { present.remove(&event.node) };
            assert!(changed, "{event:?}");
        }
        let several = departures(&events, 12, 30_000).iter().filter(|departing| departing.leaves > 1).count();
        assert!(several > 10, "{several}");
    }
}

//! Counters of an engine: as JSON, and as text for Prometheus.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use xfer_transport::{Counter, Histogram, Stats};
use xfer_transport_core::{Lane, RateInterval};

/// What is a level and not a count; everything else only grows.
const GAUGES: [&str; 3] = ["grants_live", "quarantined_bytes", "lent_bytes"];

/// All counters of the transport as a JSON object; sizes in bytes, times in seconds, the lanes by name.
pub(crate) fn to_json(stats: &Stats) -> String {
    let plain = |counters: &mut dyn Iterator<Item = Counter>| -> Map<String, Value> {
        counters.map(|counter| (counter.name.to_owned(), counter.value.into())).collect()
    };
    let lanes: Map<String, Value> = Lane::ALL
        .into_iter()
        .map(|lane| {
            let mut counters = plain(&mut stats.lane(lane).each());
            counters.insert("took_s".to_owned(), quantiles(&stats.lane(lane).took));
            (lane.to_string(), Value::Object(counters))
        })
        .collect();
    let mut all = plain(&mut stats.each());
    all.insert("lanes".to_owned(), Value::Object(lanes));
    Value::Object(all).to_string()
}

/// Upper bounds of quantiles; null where nothing was counted.
fn quantiles(took: &Histogram) -> Value {
    let at_most = |share| took.at_most(share).map(|bound| bound.as_secs_f64());
    json!({ "p50": at_most(0.5), "p90": at_most(0.9), "p99": at_most(0.99), "sum": took.sum().as_secs_f64() })
}

/// The same in the text format of Prometheus 0.0.4, each sample with the rank that it is of. `rates` has each other rank with
/// what the path to it carries: `None` if it is not connected, `Some(None)` if nothing was measured yet.
pub(crate) fn to_prometheus(
    rank: u32,
    generation: u64,
    rates: impl Iterator<Item = (u32, Option<Option<RateInterval>>)>,
    stats: &Stats,
) -> String {
    let mut text = Text::default();
    let me = format!("rank=\"{rank}\"");
    for counter in stats.each() {
        let gauge = GAUGES.contains(&counter.name);
        let name = if gauge { counter.name.to_owned() } else { format!("{}_total", counter.name) };
        text.head(&name, counter.meaning, if gauge { "gauge" } else { "counter" });
        text.sample(&name, &me, counter.value);
    }
    let lanes = Lane::ALL.map(|lane| (format!("{me},lane=\"{lane}\""), stats.lane(lane)));
    for (index, counter) in lanes[0].1.each().enumerate() {
        let name = format!("lane_{}_total", counter.name);
        text.head(&name, counter.meaning, "counter");
        for (labels, lane) in &lanes {
            text.sample(&name, labels, lane.each().nth(index).map_or(0, |counter| counter.value));
        }
    }
    text.head("transfer_duration_seconds", "How long completed transfers took.", "histogram");
    for (labels, lane) in &lanes {
        text.histogram("transfer_duration_seconds", labels, &lane.took);
    }
    text.head("generation", "The number of the ownership that is true now.", "gauge");
    text.sample("generation", &me, generation);
    let rates: Vec<_> = rates.collect();
    text.head("peer_connected", "Whether a rank is connected (1) or not (0).", "gauge");
    for (peer, rate) in &rates {
        text.sample("peer_connected", &format!("{me},peer=\"{peer}\""), u64::from(rate.is_some()));
    }
    text.head(
        "peer_rate_bytes_per_second",
        "What the path to a rank carries, measured while it was busy: it lies between the two bounds.",
        "gauge",
    );
    for (peer, rate) in rates.iter().filter_map(|(peer, rate)| Some((peer, (*rate)??))) {
        for (bound, value) in [("low", rate.low), ("high", rate.high)] {
            let labels = format!("{me},peer=\"{peer}\",bound=\"{bound}\"");
            text.sample("peer_rate_bytes_per_second", &labels, value);
        }
    }
    text.0
}

/// Lines of the text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string can't fail.
        let _ = write!(self.0, "# HELP xfer_{name} {help}\n# TYPE xfer_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "xfer_{name}{{{labels}}} {value}");
    }

    /// Buckets count all that is no longer than their bound, those before them included.
    fn histogram(&mut self, name: &str, labels: &str, took: &Histogram) {
        let mut so_far = 0;
        for (bound, count) in took.buckets() {
            so_far += count;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
            self.sample(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), so_far);
        }
        self.sample(&format!("{name}_sum"), labels, took.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), labels, took.count());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn prometheus_reads_the_text() {
        let rate = RateInterval { low: 10, high: 20 };
        let rates = [(0, Some(Some(rate))), (2, Some(None)), (3, None)];
        let text = to_prometheus(1, 7, rates.into_iter(), &Stats::default());
        let mut declared = HashSet::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                let name = head.split(' ').next().expect("a name");
                assert!(declared.insert(name.to_owned()), "{name} is declared once");
            } else if !line.starts_with("# HELP ") {
                let (name, rest) = line.split_once('{').expect("labels");
                let (labels, value) = rest.split_once("} ").expect("a value");
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
                let family = family.filter(|family| declared.contains(*family)).unwrap_or(name);
                assert!(declared.contains(family), "{line}: declared before its samples");
                assert!(labels.starts_with("rank=\"1\""), "{line}");
                value.parse::<f64>().expect("a number");
            }
        }
        for line in [
            "# TYPE xfer_late_bytes_total counter",
            "# TYPE xfer_quarantined_bytes gauge",
            "xfer_lane_sent_bytes_total{rank=\"1\",lane=\"rescue\"} 0",
            "xfer_transfer_duration_seconds_bucket{rank=\"1\",lane=\"step\",le=\"0.000001\"} 0",
            "xfer_transfer_duration_seconds_bucket{rank=\"1\",lane=\"step\",le=\"+Inf\"} 0",
            "xfer_generation{rank=\"1\"} 7",
            "xfer_peer_connected{rank=\"1\",peer=\"3\"} 0",
            "xfer_peer_rate_bytes_per_second{rank=\"1\",peer=\"0\",bound=\"high\"} 20",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("peer=\"2\",bound"), "what was not measured has no sample");
    }

    #[test]
    fn json_has_every_counter_once() {
        let found: Value = serde_json::from_str(&to_json(&Stats::default())).expect("it is JSON");
        for counter in Stats::default().each() {
            assert_eq!(found[counter.name], 0, "{}", counter.name);
        }
        assert_eq!(found["lanes"]["rescue"]["done_bytes"], 0);
        assert_eq!(found["lanes"]["rescue"]["took_s"]["p99"], Value::Null);
    }
}

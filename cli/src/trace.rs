//! `xfer trace`: puts the traces that the ranks of a job have left together, into one file that Perfetto and Chrome draw.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{print, table};

/// Files that are looked at, and the longest that is read: a hand-over of 100,000 items leaves some 30 MB.
const FILES_MAX: usize = 4_096;
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Options of `xfer trace`.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder that was XFER_TRACE_DIR of the job's processes; copies of several machines' files may lie in it.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The file to write; `-` for standard output, and then nothing else is written there.
    #[arg(long, short, value_name = "FILE", default_value = "xfer-trace.json")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut traces = Vec::new();
    let mut unreadable = Vec::new();
    for path in files(&options.dir)? {
        match Trace::read(&path) {
            Ok(trace) => traces.push(trace),
            Err(reason) => unreadable.push(format!("{} can't be read: {reason}", path.display())),
        }
    }
    if traces.is_empty() && unreadable.is_empty() {
        let dir = options.dir.display();
        return Err(Failure::failed(format!(
            "no trace in {dir}: run the job with XFER_TRACE_DIR={dir}; a migration leaves its trace when it ends"
        )));
    }
    let rows: Vec<[String; 6]> = traces.iter().map(Trace::row).collect();
    let merged = merge(traces).to_string();
    if options.output == Path::new("-") {
        print(&merged);
    } else {
        fs::write(&options.output, &merged)
            .map_err(|error| Failure::environment(format!("{} can't be written: {error}", options.output.display())))?;
        print(&table(["rank", "side", "verdict", "items", "bytes", "seconds"], &rows));
        print(&format!("\n{} is for https://ui.perfetto.dev or chrome://tracing\n", options.output.display()));
    }
    match unreadable.into_iter().next() {
        None => Ok(()),
        Some(unreadable) => Err(Failure::partial(unreadable)),
    }
}

/// The traces in a folder, in the order of their names.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::environment(format!("{} can't be read: {error}", dir.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let is_trace = name.to_str().is_some_and(|name| name.starts_with("trace-") && name.ends_with(".json"));
        if is_trace {
            files.push(dir.join(name));
        }
    }
    if files.len() > FILES_MAX {
        return Err(Failure::failed(format!("{} has over {FILES_MAX} traces; move some away", dir.display())));
    }
    files.sort();
    Ok(files)
}

/// What one rank has left of one migration.
struct Trace {
    events: Vec<Value>,
    other: Value,
}

impl Trace {
    fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        // Taken only where there is an object: asking anything else for a key that is to be changed is a panic.
        let mut take = |key| document.get_mut(key).map(Value::take);
        let Some(Value::Array(events)) = take("traceEvents") else {
            return Err("it has no list `traceEvents`".to_owned());
        };
        Ok(Self { events, other: take("otherData").unwrap_or_default() })
    }

    fn row(&self) -> [String; 6] {
        let report = &self.other["report"];
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let items = report["moved"].as_object().into_iter().flat_map(|moved| moved.values());
        let items: u64 = items.filter_map(|moved| moved["items"].as_u64()).sum();
        let phases = report["phases_s"].as_object().into_iter().flat_map(|phases| phases.values());
        let seconds: f64 = phases.filter_map(Value::as_f64).sum();
        [
            self.other["rank"].as_u64().map_or_else(|| "-".to_owned(), |rank| rank.to_string()),
            word(&report["side"]),
            word(&report["verdict"]),
            items.to_string(),
            report["moved_bytes"].as_u64().unwrap_or(0).to_string(),
            format!("{seconds:.3}"),
        ]
    }
}

/// All events in one document, in the order of time, which begins with the first of them.
fn merge(traces: Vec<Trace>) -> Value {
    let mut events = Vec::new();
    let mut others = Vec::new();
    for trace in traces {
        events.extend(trace.events);
        others.push(trace.other);
    }
    let first = events.iter().filter_map(|event| event["ts"].as_u64()).min().unwrap_or(0);
    for event in &mut events {
        if let Some(ts) = event.get_mut("ts")
            && let Some(at) = ts.as_u64()
        {
            *ts = (at - first).into();
        }
    }
    // What has no time says what tracks are called, and comes first.
    events.sort_by_key(|event| event["ts"].as_u64());
    json!({ "displayTimeUnit": "ms", "traceEvents": events, "otherData": { "first_us": first, "ranks": others } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_several_ranks_lie_beside_each_other() {
        let rank = |rank: u64, ts: u64| Trace {
            events: vec![json!({ "ph": "X", "pid": rank, "ts": ts, "dur": 5 }), json!({ "ph": "M", "pid": rank })],
            other: json!({ "rank": rank }),
        };
        let merged = merge(vec![rank(1, 1_000_000), rank(0, 999_000)]);
        let at: Vec<_> =
            merged["traceEvents"].as_array().unwrap().iter().map(|e| (e["pid"].as_u64(), e["ts"].as_u64())).collect();
        assert_eq!(at, [(Some(1), None), (Some(0), None), (Some(0), Some(0)), (Some(1), Some(1000))]);
    }

    #[test]
    fn what_is_no_trace_is_refused_by_name() {
        for (text, reason) in [("{}", "no list"), ("[1", "EOF"), ("{\"traceEvents\": 3}", "no list"), ("7", "no list")]
        {
            let refused = Trace::parse(text).err().expect("it is refused");
            assert!(refused.contains(reason), "{refused}");
        }
    }
}

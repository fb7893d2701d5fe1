//! What a figure was measured on: one without its machine means nothing.

use std::fs;
use std::thread;

use serde_json::{Value, json};

/// This machine, for the report.
pub(crate) fn describe() -> Value {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let cpu = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo");
    let memory_kib = memory.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    json!({
        "name": xfer::store::host_name(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": cpu.map_or("unknown", |(_, name)| name),
        "cpus": thread::available_parallelism().map_or(0, usize::from),
        "memory_bytes": memory_kib.unwrap_or(0) * 1024,
        "load_1min": read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
    })
}

/// The same in a line for people.
pub(crate) fn line(machine: &Value) -> String {
    let text = |field: &str| machine[field].as_str().unwrap_or("?").to_owned();
    format!(
        "{}: {} x {}, {:.0} GB, Linux {}, load {}",
        text("name"),
        machine["cpus"],
        text("cpu"),
        machine["memory_bytes"].as_u64().unwrap_or(0) as f64 / 1e9,
        text("kernel"),
        machine["load_1min"],
    )
}

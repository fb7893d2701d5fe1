//! Values as people write them: settings, sizes, faults, jobs, traces. What is accepted can be used as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use xfer::config::{Config, Inputs, SETTINGS, parse};
use xfer::fuzzing;
use xfer_chaos::Faults;
use xfer_plan::{Family, Job, Shape, trace};

/// Plans of more than this take longer than a fuzzer has; what builds them is the same for more.
const ASSETS_PLANNED_MAX: usize = 500;

/// Most layers that a job may have.
const LAYERS_MAX: u64 = 4096;

/// An environment, as lines `NAME=value`, and after a line `---` what is in `xfer.toml`.
pub fn settings(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (environment, file) = text.split_once("\n---\n").map_or((text, None), |(lines, file)| (lines, Some(file)));
    let lines = environment.lines().filter_map(|line| line.split_once('='));
    // Whether this machine is one of EC2's is not in the input.
    let imds = [("XFER_IMDS_URL", "off")];
    let environment: BTreeMap<String, String> =
        imds.into_iter().chain(lines).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let file = file.map(|text| (PathBuf::from("xfer.toml"), text.to_owned()));
    let config = match Config::resolve(Inputs { flags: Vec::new(), environment, file }) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    for time in [config.store_timeout, config.start_timeout, config.grace] {
        assert!(Instant::now().checked_add(time).is_some(), "{time:?} is no time to wait");
    }
    assert!((1..=16).contains(&config.links_per_peer) && config.egress_bytes_per_s != Some(0));
    assert!(config.transports.as_ref().is_none_or(|transports| !transports.is_empty()));
    assert!(config.store.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()));
    assert!(config.values.len() >= SETTINGS.len(), "each setting says where it comes from");
    let _ = (config.exposure(), config.notice_sources());
    fuzzing::log_filter(&config)
}

/// One value: a duration, a size, the rate of a link, transports, faults.
pub fn value(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let duration = parse::duration(text);
    assert!(duration.as_ref().is_ok_and(|time| Instant::now().checked_add(*time).is_some()) || duration.is_err());
    let rate = parse::link_rate(text);
    assert!(rate.as_ref().is_ok_and(|rate| rate.is_finite() && *rate >= 0.0) || rate.is_err());
    let faults = Faults::read(text, parse::duration, parse::size);
    if let Ok(faults) = &faults {
        assert!(Instant::now().checked_add(faults.delay + faults.jitter).is_some());
        assert!(faults.rules.iter().all(|rule| (0.0..=1.0).contains(&rule.chance)));
    }
    let transports = parse::transports(text);
    assert!(
        transports.as_ref().is_ok_and(|found| found.as_ref().is_none_or(|found| found.len() <= 2))
            || transports.is_err()
    );
    duration.is_ok() | rate.is_ok() | faults.is_ok() | transports.is_ok() | parse::size(text).is_ok()
}

/// A trace of preemptions, for jobs of one, three and many nodes.
pub fn preemptions(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let events = match trace::parse(text) {
        Ok(events) => events,
        Err(error) => {
            assert!(error.to_string().contains(&format!("line {}", error.line)));
            return false;
        }
    };
    assert!(events.is_sorted_by_key(|event| event.at_ms));
    for nodes in [1, 3, u32::MAX] {
        for departing in trace::departures(&events, nodes, 30_000) {
            assert!((1..=departing.nodes).contains(&departing.leaves) && departing.nodes <= nodes, "{departing:?}");
        }
    }
    let mut job = Job::new(Shape { layers: 4, hidden: 8, ffn: 32, heads: 1, kv_heads: 1, ..Shape::known()[0].clone() });
    job.microbatches = 2;
    if let Ok(replayed) = trace::replay(&events, &job) {
        assert!(replayed.plan_loss_s.is_finite() && replayed.nodes_left >= replayed.departures as u64);
    }
    !events.is_empty()
}

/// A job as the options of `xfer plan` describe it: numbers of any size, one after the other.
pub fn job(bytes: &[u8]) -> bool {
    let mut numbers = bytes.chunks(8).map(|part| {
        let mut number = [0; 8];
        number[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(number)
    });
    let mut next = || numbers.next().unwrap_or_default();
    let family = if next() % 2 == 0 { Family::Gpt } else { Family::Llama };
    let (layers, hidden, ffn, heads, kv_heads) = (next(), next(), next(), next(), next());
    // What is no depth stays none; a sound one is made small, since each layer is a hundred parts.
    let layers = if layers <= LAYERS_MAX { layers % 32 } else { layers };
    let (vocabulary, sequence) = (next(), next());
    let shape = Shape { name: "custom".into(), family, layers, hidden, ffn, heads, kv_heads, vocabulary, sequence };
    let mut job = Job::new(shape);
    (job.devices, job.nodes, job.leaves) = (next(), next() as u32, next() as u32);
    // Each of a thousand replicas holds each of a hundred thousand tensors: gigabytes, which whoever asks may wait for.
    (job.replicas, job.zero) = (next() as u32 % 64, next() as u8);
    (job.batch, job.microbatches, job.gradient_bytes) = (next(), next(), next());
    job.memory_bytes = Some(next()).filter(|bytes| *bytes > 0);
    job.spill = next() % 2 == 0;
    for field in [
        &mut job.done,
        &mut job.rollback_s,
        &mut job.reload_s,
        &mut job.device.flops_per_s,
        &mut job.device.memory_bytes_per_s,
        &mut job.window.notice_s,
        &mut job.window.detect_s,
        &mut job.window.reserve_s,
        &mut job.window.link.bytes_per_s,
        &mut job.window.link.spread,
    ] {
        *field = Some(f64::from_bits(next())).filter(|value| *value != 0.0).unwrap_or(*field);
    }
    let departure = match job.departure() {
        Ok(departure) => departure,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    if departure.assets.len() <= ASSETS_PLANNED_MAX
        && let Ok(planned) = xfer_plan::plan(&departure)
    {
        assert!(planned.expected().loss_s.is_finite());
        assert_eq!(planned.rows.len(), departure.assets.len(), "everything has a fate");
    }
    true
}

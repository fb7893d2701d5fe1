//! Results for people and programs: a table as they come, JSON, lines of JSON, CSV.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use xfer_transport::backend::Manner;
use xfer_transport::{BackendId, Route};

use crate::ceiling::Ceiling;
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::machine;
use crate::options::Options;
use crate::samples::Samples;

/// Grows when a field changes its meaning; new fields don't count.
const SCHEMA: u64 = 1;

/// What was measured of one size.
pub(crate) struct Row {
    pub(crate) test: &'static str,
    pub(crate) op: &'static str,
    pub(crate) size: u64,
    pub(crate) route: Route,
    /// Copies of each payload byte in user space.
    pub(crate) copies: Option<u8>,
    pub(crate) streams: u64,
    /// Payload bytes of all iterations.
    pub(crate) bytes: u64,
    pub(crate) span: Duration,
    pub(crate) times: Samples,
    pub(crate) ceiling: Option<Ceiling>,
    /// What both ends had of the processors in that time, where that was measured.
    pub(crate) processor: Option<Duration>,
    /// Bytes that were compared, and those that were wrong.
    pub(crate) verified: Option<(u64, u64)>,
    /// What only this test has, by name.
    pub(crate) extra: Map<String, Value>,
}

impl Row {
    /// Aggregate, in GB/s: all bytes over all of the time.
    pub(crate) fn gb_per_s(&self) -> f64 {
        let nanos = self.span.as_nanos() as f64;
        if nanos > 0.0 { self.bytes as f64 / nanos } else { 0.0 }
    }

    fn line_pct(&self) -> Option<f64> {
        let ceiling = self.ceiling.as_ref()?.of(self.route.over).gb_per_s;
        (ceiling > 0.0).then(|| self.gb_per_s() / ceiling * 100.0)
    }

    /// What both ends had of the processors for a GB, and what the plain copy has.
    fn processor_s_per_gb(&self) -> [Option<f64>; 2] {
        let ours = |time: Duration| time.as_secs_f64() / (self.bytes as f64 / 1e9).max(f64::MIN_POSITIVE);
        let line = self.ceiling.as_ref().map(|ceiling| ceiling.of(self.route.over).processor_s_per_gb);
        [self.processor.map(ours), line]
    }

    fn json(&self) -> Value {
        let mut result = json!({
            "test": self.test,
            "op": self.op,
            "size": self.size,
            "path": {
                "transport": self.route.over.to_string(),
                "links": self.route.links,
                "standing_by": self.route.standing_by.iter().map(BackendId::to_string).collect::<Vec<_>>(),
                "copies": self.copies,
                "ordinary": self.route.ordinary.as_ref().map(|manner| &manner.sentence),
                "dmabufs": self.route.dmabufs.as_ref().map(|manner| &manner.sentence),
                "fallback_reason": self.route.unused.iter().map(|(id, why)| format!("{id}: {why}")).next(),
            },
            "streams": self.streams,
            "iters": self.times.len(),
            "bytes": self.bytes,
            "span_us": self.span.as_nanos() as f64 / 1e3,
            "bw_gbps": self.gb_per_s(),
            "line_pct": self.line_pct(),
            "lat_us": self.times.json(),
            "verify": match self.verified {
                Some((checked, wrong)) => json!({ "mode": "full", "checked": checked, "wrong": wrong }),
                None => json!({ "mode": "off", "checked": 0, "wrong": 0 }),
            },
        });
        if let Some(ceiling) = &self.ceiling {
            let [raw_tcp, memcpy] = [ceiling.raw_tcp.gb_per_s, ceiling.memcpy.gb_per_s];
            result["ceiling_gbps"] = json!({ "raw_tcp": raw_tcp, "memcpy": memcpy });
        }
        if let [Some(ours), line] = self.processor_s_per_gb() {
            result["cpu"] = json!({ "s_per_gb": ours, "line_s_per_gb": line });
        }
        for (name, value) in &self.extra {
            result[name] = value.clone();
        }
        result
    }

    /// The columns of the table.
    fn cells(&self, options: &Options) -> Vec<(&'static str, String)> {
        let gbits = options.report_gbits;
        let rate = if gbits { self.gb_per_s() * 8.0 } else { self.gb_per_s() };
        let us = |time_us: f64| format!("{time_us:.1}");
        let mut cells = vec![
            ("size(B)", self.size.to_string()),
            ("op", self.op.to_owned()),
            ("path", self.route.over.to_string()),
            ("str", self.streams.to_string()),
            ("iters", self.times.len().to_string()),
            ("t_avg(us)", us(self.times.mean_us())),
            ("p50(us)", us(self.times.quantile_us(0.5))),
            ("p99(us)", us(self.times.quantile_us(0.99))),
        ];
        match self.test {
            "mixed" | "cancel" | "reg" | "connect" | "migrate" => {
                let names: &[(&str, &str)] = match self.test {
                    "mixed" => &[
                        ("idle_p50(us)", "idle_p50_us"),
                        ("idle_p99(us)", "idle_p99_us"),
                        ("ratio_p50", "ratio_p50"),
                        ("rescue(GB/s)", "rescue_gbps"),
                    ],
                    "cancel" => &[
                        ("fenced", "fenced"),
                        ("completed", "completed"),
                        ("quarantined", "quarantined"),
                        ("late_bytes", "late_bytes"),
                    ],
                    "migrate" => &[
                        ("notice(ms)", "notice_ms"),
                        ("admitted", "admitted"),
                        ("met", "met"),
                        ("finish(ms)", "finish_ms"),
                        ("slack(ms)", "slack_ms"),
                        ("committed(B)", "committed_bytes"),
                        ("resent", "resent_chunks"),
                        ("switches", "switches"),
                    ],
                    "reg" => &[("grant(us)", "grant_us"), ("revoke(us)", "revoke_us")],
                    _ => &[],
                };
                cells.extend(names.iter().map(|(title, name)| (*title, shown(&self.extra[*name]))));
            }
            _ => {
                cells.push(("p99.9(us)", us(self.times.quantile_us(0.999))));
                cells.push((if gbits { "BW(Gb/s)" } else { "BW(GB/s)" }, format!("{rate:.3}")));
                let per_us = self.times.len() as f64 / (self.span.as_nanos() as f64 / 1e3).max(f64::MIN_POSITIVE);
                cells.push(("Mmsg/s", format!("{per_us:.4}")));
                cells.push(("line%", self.line_pct().map_or("-".to_owned(), |pct| format!("{pct:.0}"))));
                if options.cpu_util {
                    let shown =
                        |at: usize| self.processor_s_per_gb()[at].map_or("-".into(), |time| format!("{time:.3}"));
                    cells.extend([("cpu(s/GB)", shown(0)), ("line's", shown(1))]);
                }
                cells.push(("#wrong", self.verified.map_or("-".to_owned(), |(_, wrong)| wrong.to_string())));
            }
        }
        cells
    }
}

fn shown(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if !value.is_u64() => format!("{number:.2}"),
        _ => value.to_string(),
    }
}

/// Where results go.
pub(crate) struct Report {
    options: Options,
    started: f64,
    hosts: Vec<Value>,
    /// How ordinary memory and that of devices are moved, as was said last.
    manners: [Option<Manner>; 2],
    results: Vec<Value>,
    csv: Option<File>,
    jsonl: Option<File>,
    json: Option<File>,
    titles: Vec<&'static str>,
    failed: Option<Failure>,
}

impl Report {
    /// Opens all files first: a measurement that can't be kept needs not be made.
    pub(crate) fn open(options: &Options) -> Outcome<Self> {
        let open = |path: &Option<String>, append: bool| -> Outcome<Option<File>> {
            let Some(path) = path.as_deref().filter(|path| *path != "-") else { return Ok(None) };
            let opened = OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(path);
            opened.map(Some).map_err(|error| Failure::usage(format!("can't write {path}: {error}")))
        };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Ok(Self {
            options: options.clone(),
            started,
            hosts: vec![machine::describe()],
            manners: [None, None],
            results: Vec::new(),
            csv: open(&options.csv, false)?,
            jsonl: open(&options.jsonl, true)?,
            json: open(&options.json, false)?,
            titles: Vec::new(),
            failed: None,
        })
    }

    fn has_table(&self) -> bool {
        self.options.json.as_deref() != Some("-")
    }

    /// Says what is measured, on what.
    pub(crate) fn begin(&mut self, client: &Client) -> Outcome<()> {
        self.hosts.push(client.server_machine.clone());
        let route = client.checked_route()?;
        if self.has_table() {
            println!("# xfer-bench {}, test {:?}", env!("CARGO_PKG_VERSION"), self.options.test);
            for (end, host) in ["client", "server"].iter().zip(&self.hosts) {
                println!("# {end}: {}", machine::line(host));
            }
            let standing_by: Vec<String> = route.standing_by.iter().map(ToString::to_string).collect();
            println!("# path: {} by {} links; standing by: {}", route.over, route.links, standing_by.join(", "));
            self.say_manners(&route);
            for (backend, why) in &route.unused {
                println!("# not over {backend}: {why}");
            }
            println!(
                "# line%: of one plain copy of the same bytes in the same run: tcp a blocking socket, shm a memcpy"
            );
        }
        Ok(())
    }

    /// Says how memory is moved, if that has changed: some of it turns out only as it moves.
    fn say_manners(&mut self, route: &Route) {
        let kinds = [("ordinary memory", &route.ordinary), ("memory of devices", &route.dmabufs)];
        for ((kind, manner), said) in kinds.into_iter().zip(&mut self.manners) {
            if said != manner {
                said.clone_from(manner);
                if let Some(manner) = manner {
                    println!("# {kind}: {} copies, {}", manner.copies, manner.sentence);
                }
            }
        }
    }

    pub(crate) fn add(&mut self, row: Row) -> Outcome<()> {
        self.judge(&row);
        let cells = row.cells(&self.options);
        if self.has_table() {
            self.say_manners(&row.route);
            let titles: Vec<&'static str> = cells.iter().map(|(title, _)| *title).collect();
            let line = |texts: &mut dyn Iterator<Item = &str>| {
                texts
                    .zip(&titles)
                    .map(|(text, title)| format!("{text:>0$}", title.len().max(9)))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            if titles != self.titles {
                println!("{}", line(&mut titles.iter().copied()));
            }
            println!("{}", line(&mut cells.iter().map(|(_, text)| text.as_str())));
            self.titles = titles;
        }
        let result = row.json();
        let write = |file: &mut Option<File>, text: String| match file {
            Some(file) => file.write_all(text.as_bytes()).map_err(Failure::usage),
            None => Ok(()),
        };
        write(&mut self.jsonl, format!("{result}\n"))?;
        if self.results.is_empty() {
            write(&mut self.csv, csv_line(cells.iter().map(|(title, _)| *title)))?;
        }
        write(&mut self.csv, csv_line(cells.iter().map(|(_, text)| text.as_str())))?;
        self.results.push(result);
        Ok(())
    }

    /// The worst that is wrong with a result decides how the program ends.
    fn judge(&mut self, row: &Row) {
        let wrong = row.verified.map_or(0, |(_, wrong)| wrong);
        let late = row.extra.get("late_bytes").and_then(Value::as_u64).unwrap_or(0);
        if wrong > 0 || late > 0 {
            self.failed =
                Some(Failure::wrong_data(format!("{wrong} wrong and {late} late bytes at size {}", row.size)));
        }
        match (self.options.require_path, self.options.min_bw) {
            (Some(required), _) if row.route.over != required && self.failed.is_none() => {
                self.failed = Some(Failure::wrong_path(format!(
                    "size {} went over {}, not {required}",
                    row.size, row.route.over
                )));
            }
            _ if row.extra.get("met").is_some_and(|met| met.as_u64() < Some(row.times.len() as u64))
                && self.failed.is_none() =>
            {
                self.failed =
                    Some(Failure::too_late(format!("the deadline passed before size {} was committed", row.size)));
            }
            (_, Some(least)) if row.test == "bw" && row.gb_per_s() < least && self.failed.is_none() => {
                let rate = row.gb_per_s();
                self.failed = Some(Failure::too_slow(format!("{rate:.3} GB/s at size {} is below {least}", row.size)));
            }
            _ => {}
        }
    }

    pub(crate) fn finish(&mut self, failure: Option<&Failure>) -> Outcome<()> {
        let failure = failure.or(self.failed.as_ref());
        let environment: Map<String, Value> = std::env::vars()
            .filter(|(name, _)| name.starts_with("XFER_"))
            .map(|(name, text)| (name, text.into()))
            .collect();
        let options = &self.options;
        let document = json!({
            "schema": SCHEMA,
            "tool": "xfer-bench",
            "version": env!("CARGO_PKG_VERSION"),
            "start_time": self.started,
            "argv": std::env::args().collect::<Vec<_>>(),
            "env": environment,
            "hosts": self.hosts,
            "config": {
                "links": options.links, "busy_poll_us": options.busy_poll, "chunk": options.chunk, "lane": options.lane.to_string(),
                "mem": format!("{:?}", options.mem).to_lowercase(), "seed": options.seed,
            },
            "results": self.results,
            "verdicts": { "code": failure.map_or(0, Failure::code), "text": failure.map(Failure::what) },
        });
        let has_table = self.has_table();
        match &mut self.json {
            Some(file) => writeln!(file, "{document:#}").map_err(Failure::usage)?,
            None if !has_table => println!("{document:#}"),
            None => {}
        }
        Ok(())
    }

    /// Whether all results are as they were asked for.
    pub(crate) fn verdict(self) -> Outcome<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

fn csv_line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\n"
}

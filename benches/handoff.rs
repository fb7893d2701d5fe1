//! How much of a link a hand-over uses, and how soon it begins: on loopback, and on a link shaped to 1 Gb/s.
//!
//! `cargo bench --bench handoff [-- --json]`. The shaped link is a pair of network namespaces with a token bucket (`tc tbf`)
//! between them; it takes root and iproute2, and is left out with a sentence where they aren't.

use std::env;
use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xfer::migrate::{Cost, ItemClass, OutcomeKind, Rescue};
use xfer::{Engine, EngineBuilder, Region};

const WAIT: Duration = Duration::from_secs(60);
const RUNS: usize = 5;
const ITEM_BYTES: usize = 4 << 20;
/// What the shaped link carries, with all headers.
const SHAPED_BITS_PER_S: u64 = 1_000_000_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["source", address, items] => source(address, items.parse()?),
        ["target", address] => target(address),
        _ => bench(words.contains(&"--json")),
    }
}

fn bench(as_json: bool) -> Outcome<()> {
    let mut rows = vec![row("loopback", None, measure(&Place::Loopback, 128)?)];
    match Namespaces::new() {
        Ok(namespaces) => {
            let runs = measure(&Place::Shaped(&namespaces), 32)?;
            rows.push(row("tbf 1 Gb/s", Some(SHAPED_BITS_PER_S / 8), runs));
        }
        Err(reason) => eprintln!("the shaped link is left out: {reason}"),
    }
    if as_json {
        println!("{}", Value::Array(rows));
        return Ok(());
    }
    println!("# a hand-over to one rank, two processes; median of {RUNS} runs; MB and GB are 10^6 and 10^9 bytes");
    println!(
        "{:12} {:>10} {:>10} {:>10} {:>9} {:>16}",
        "link", "state(MB)", "time(ms)", "GB/s", "of link", "first byte(ms)"
    );
    for row in rows {
        println!(
            "{:12} {:>10.1} {:>10.1} {:>10.3} {:>9} {:>16.2}",
            row["link"].as_str().unwrap_or_default(),
            row["bytes"].as_f64().unwrap_or_default() / 1e6,
            row["seconds"].as_f64().unwrap_or_default() * 1e3,
            row["bytes_per_s"].as_f64().unwrap_or_default() / 1e9,
            row["of_link"].as_f64().map_or("-".to_owned(), |share| format!("{share:.3}")),
            row["first_byte_s"].as_f64().unwrap_or_default() * 1e3,
        );
    }
    Ok(())
}

fn row(link: &str, bytes_per_s: Option<u64>, mut runs: Vec<Run>) -> Value {
    runs.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let median = runs[runs.len() / 2];
    runs.sort_by(|one, other| one.first_byte_s.total_cmp(&other.first_byte_s));
    let rate = median.bytes / median.seconds;
    json!({
        "link": link,
        "bytes": median.bytes,
        "seconds": median.seconds,
        "bytes_per_s": rate,
        "of_link": bytes_per_s.map(|link| rate / link as f64),
        "first_byte_s": runs[runs.len() / 2].first_byte_s,
    })
}

#[derive(Clone, Copy)]
struct Run {
    bytes: f64,
    /// From the notice to the commit.
    seconds: f64,
    /// From the notice to the first write.
    first_byte_s: f64,
}

fn measure(place: &Place<'_>, items: usize) -> Outcome<Vec<Run>> {
    (0..RUNS).map(|run| measure_once(place, items, 29_600 + run as u16)).collect()
}

fn measure_once(place: &Place<'_>, items: usize, port: u16) -> Outcome<Run> {
    let store = format!("{}:{port}", place.source_ip());
    let mut target = Ended(place.command(1).args(["target", &store]).stdin(Stdio::null()).spawn()?);
    let source = place.command(0).args(["source", &store, &items.to_string()]).stdin(Stdio::null()).output()?;
    if !source.status.success() || !target.0.wait()?.success() {
        return Err(format!("a run failed: {}", String::from_utf8_lossy(&source.stderr)).into());
    }
    let said: Value = serde_json::from_slice(&source.stdout)?;
    let figure = |name: &str| said[name].as_f64().ok_or_else(|| format!("the source said nothing of {name}"));
    Ok(Run { bytes: figure("bytes")?, seconds: figure("seconds")?, first_byte_s: figure("first_byte_s")? })
}

/// Rank 0: has state, gets a notice, hands over.
fn source(store: &str, items: usize) -> Outcome<()> {
    let engine = EngineBuilder::new(0, 2)?.store(store).start()?;
    engine.connect(WAIT)?;
    let state = (0..items).map(|number| Rescue {
        name: format!("state {number}"),
        class: ItemClass::Parameter,
        region: Region::from_vec(vec![number as u8; ITEM_BYTES]),
        target: 1,
        version: 1,
        group: String::new(),
        cost: Cost::Irreplaceable,
    });
    engine.protect(vec![1], vec![("all".to_owned(), 1)], state.collect());

    let began = Instant::now();
    engine.raise_notice("bench", Duration::from_secs(30))?;
    let outgoing = engine.bell().wait_for(Some(WAIT), || engine.outgoing()).ok_or("nothing left")?;
    let offset_s = began.elapsed().as_secs_f64();
    outgoing.cut("bench".into())?;
    let outcome = outgoing.wait(Some(WAIT)).ok_or("nothing was decided")??;
    let seconds = began.elapsed().as_secs_f64();
    if outcome.kind != OutcomeKind::Handoff {
        return Err(outcome.reason.into());
    }
    let report = outgoing.report();
    let until_first: Vec<f64> = report.phases_s.iter().map(|(_, seconds)| *seconds).collect();
    let place = report.phases_s.iter().position(|(phase, _)| *phase == "first byte").ok_or("no byte left")?;
    let first_byte_s = offset_s + until_first[..=place].iter().sum::<f64>();
    println!("{}", json!({ "bytes": report.moved_bytes(), "seconds": seconds, "first_byte_s": first_byte_s }));
    engine.close();
    Ok(())
}

/// Rank 1: takes over.
fn target(store: &str) -> Outcome<()> {
    let engine: Engine = EngineBuilder::new(1, 2)?.store(store).host_store(false).start()?;
    engine.connect(WAIT)?;
    let incoming = engine.bell().wait_for(Some(WAIT), || engine.incoming()).ok_or("nothing came")?;
    incoming.wait(Some(WAIT)).ok_or("nothing was decided")??;
    // The source hears of the commit from the store, and ends first.
    let gone = Instant::now();
    while engine.alive(0) && gone.elapsed() < WAIT {
        thread::sleep(Duration::from_millis(1));
    }
    engine.close();
    Ok(())
}

/// Where the two processes of a run are.
enum Place<'a> {
    Loopback,
    Shaped(&'a Namespaces),
}

impl Place<'_> {
    fn source_ip(&self) -> &'static str {
        match self {
            Self::Loopback => "127.0.0.1",
            Self::Shaped(_) => "10.77.0.1",
        }
    }

    /// A process of `rank`, where that rank is.
    fn command(&self, rank: u32) -> Command {
        let this = env::current_exe().expect("a running program has a path");
        match self {
            Self::Loopback => Command::new(this),
            Self::Shaped(namespaces) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespaces.names[rank as usize]]).arg(this);
                // The namespaces hold nobody but these two processes.
                command.env("XFER_INSECURE", "1").env("XFER_BIND", format!("10.77.0.{}:0", rank + 1));
                command
            }
        }
    }
}

/// Two network namespaces with a shaped link between them; gone when dropped.
struct Namespaces {
    names: [String; 2],
}

impl Namespaces {
    fn new() -> Result<Self, String> {
        let names = ["a", "b"].map(|end| format!("xfer-{}-{end}", std::process::id()));
        let links = ["va", "vb"];
        let made = Self { names };
        for name in &made.names {
            ip(&["netns", "add", name])?;
        }
        ip(&[
            "link",
            "add",
            links[0],
            "netns",
            &made.names[0],
            "type",
            "veth",
            "peer",
            "name",
            links[1],
            "netns",
            &made.names[1],
        ])?;
        for (end, link) in links.into_iter().enumerate() {
            let name = &made.names[end];
            ip(&["-n", name, "addr", "add", &format!("10.77.0.{}/24", end + 1), "dev", link])?;
            ip(&["-n", name, "link", "set", link, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            let shape = format!(
                "netns exec {name} tc qdisc add dev {link} root tbf rate {SHAPED_BITS_PER_S}bit burst 1mbit latency 50ms"
            );
            ip(&shape.split(' ').collect::<Vec<_>>())?;
        }
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            // The link goes with its namespaces; a namespace that was never made is none to remove.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new("ip").args(arguments).output().map_err(|error| format!("`ip` can't be run: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(format!("`ip {}` failed: {said}", arguments.join(" ")))
}

/// A child that does not outlive this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

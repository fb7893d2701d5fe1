//! Seeds, many at a time or one with its trace.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use xfer_sim::scenario::Scenario;
use xfer_sim::trace::LEGEND;
use xfer_sim::world::{self, Outcome};

/// How many broken seeds are told one by one; the last line counts them all.
const TOLD_MAX: usize = 20;

/// Which seeds to run.
#[derive(Args)]
pub struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Threads that run seeds side by side; each seed has one [default: one for each core].
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Default)]
struct Sums {
    broken: Vec<(u64, String)>,
    virtual_time: Duration,
    events: u64,
    followed_up: u64,
    /// Seeds in which something was not sent again, and how many bytes that was.
    kept: (u64, u64),
    kinds: std::collections::BTreeMap<&'static str, u64>,
}

/// Runs a seed; what it panics with is a broken promise, too.
pub fn outcome_of(seed: u64) -> Result<Outcome, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| world::run(Scenario::of_seed(seed), false)));
    let outcome = ran.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("it panics: {}", text.unwrap_or_default())
    })?;
    match &outcome.broken {
        Some(broken) => Err(broken.to_string()),
        None => Ok(outcome),
    }
}

/// The command `seeds`.
pub fn run(options: &Options) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let sums = Mutex::new(Sums::default());
    let threads = options.threads.or_else(|| thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= options.count {
                        return;
                    }
                    let seed = options.from.wrapping_add(at);
                    add(&sums, seed, outcome_of(seed));
                }
            });
        }
    });
    std::panic::set_hook(silent);
    let Ok(mut sums) = sums.into_inner() else { return ExitCode::FAILURE };
    sums.broken.sort();
    for (seed, how) in sums.broken.iter().take(TOLD_MAX) {
        say(&format!("seed {seed}, commit {}: {how}\n", xfer_sim::COMMIT));
        say(&format!("    cargo run --release -p xfer-sim -- replay {seed}\n"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let kinds: Vec<String> = sums.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    say(&format!(
        "generations: {}; {} follow-up hand-overs committed; {} events in {:.1} virtual hours\n",
        kinds.join(", "),
        sums.followed_up,
        sums.events,
        sums.virtual_time.as_secs_f64() / 3600.0
    ));
    let (kept, kept_bytes) = sums.kept;
    say(&format!(
        "in {kept} seeds a further attempt found {kept_bytes} bytes where they belong, and did not send them\n"
    ));
    let per_s = options.count as f64 / seconds.max(1e-9);
    let broken = sums.broken.len();
    say(&format!("{} seeds, {broken} violations, {per_s:.0} seeds/s on {threads} threads\n", options.count));
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(sums: &Mutex<Sums>, seed: u64, outcome: Result<Outcome, String>) {
    let Ok(mut sums) = sums.lock() else { return };
    match outcome {
        Err(how) => sums.broken.push((seed, how)),
        Ok(outcome) => {
            sums.virtual_time += outcome.took;
            sums.events += outcome.events;
            sums.followed_up += u64::from(outcome.followed_up);
            sums.kept.0 += u64::from(outcome.seen.kept_bytes > 0);
            sums.kept.1 += outcome.seen.kept_bytes;
            for record in &outcome.history[1..] {
                *sums.kinds.entry(record.kind.name()).or_default() += 1;
            }
        }
    }
}

/// The command `replay`.
pub fn replay(seed: u64) -> ExitCode {
    let outcome = world::run(Scenario::of_seed(seed), true);
    say(&format!("# seed {seed}, commit {}\n{LEGEND}", xfer_sim::COMMIT));
    for line in outcome.trace.lines() {
        say(&format!("{line}\n"));
    }
    if outcome.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes to standard output; a reader that goes away early is no failure.
pub fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

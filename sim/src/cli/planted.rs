//! The hunt for planted bugs.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Args;
use xfer_sim::planted::{Bug, Found, hunt};

use crate::seeds::say;

/// How long to hunt.
#[derive(Args)]
pub struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Most seeds for each bug.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
}

/// The command `planted`.
pub fn run(options: &Options) -> ExitCode {
    let bugs: Vec<Bug> = Bug::all().collect();
    let found: Mutex<Vec<Option<Found>>> = Mutex::new(vec![None; bugs.len()]);
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let how = hunt(*bug, options.from, options.count);
                    if let (Ok(mut found), Some(at)) = (found.lock(), bugs.iter().position(|other| other == bug)) {
                        found[at] = how;
                    }
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let Ok(found) = found.into_inner() else { return ExitCode::FAILURE };
    say(&format!("{:<22}{:>8}  {:<6} {}\n", "planted bug", "seeds", "broken", "how it was seen"));
    for (bug, found) in bugs.iter().zip(&found) {
        match found {
            Some(found) => {
                say(&format!("{:<22}{:>8}  {:<6} {}\n", bug.name(), found.seeds, found.promise, found.how));
            }
            None => say(&format!("{:<22}{:>8}  -      not found in {} seeds\n", bug.name(), "-", options.count)),
        }
    }
    let count = found.iter().flatten().count();
    say(&format!("{count} of {} planted bugs found within {} seeds\n", bugs.len(), options.count));
    if count == bugs.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

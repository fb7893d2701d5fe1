//! The fault matrix, run and shown.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Args;
use xfer_faults::{FAULTS, Required};
use xfer_sim::matrix::{judge, observe, pairs, staged};

use crate::seeds::say;

/// How to show it.
#[derive(Args)]
pub struct Options {
    /// Prints the table as a document instead of running it.
    #[arg(long)]
    markdown: bool,
    /// Says what each variant of each cell does, and judges nothing.
    #[arg(long)]
    observe: bool,
}

/// The command `matrix`.
pub fn run(options: &Options) -> ExitCode {
    if options.markdown {
        say(&xfer_faults::document::markdown());
        return ExitCode::SUCCESS;
    }
    let cells: Vec<_> = staged().collect();
    if options.observe {
        for (fault, step, _) in &cells {
            say(&format!("{} {:<10} {:?}\n", fault.id, step.name(), observe(fault, *step)));
        }
        return ExitCode::SUCCESS;
    }
    let wrong = in_parallel(cells.len(), |at| {
        let (fault, step, required) = cells[at];
        let how = judge(fault, step, required).wrong?;
        Some(format!("{} {} at {step}: {how}", fault.id, fault.name))
    });
    let two: Vec<_> = pairs().collect();
    let wrong_pairs = in_parallel(two.len(), |at| {
        let pair = two[at];
        Some(format!("{} then {} at {}: {}", pair.first, pair.second, pair.step, pair.wrong()?))
    });
    for line in wrong.iter().chain(&wrong_pairs) {
        say(&format!("{line}\n"));
    }
    for required in
        [Required::Commits, Required::RollsBack, Required::Restores, Required::Refuses(""), Required::Quarantines]
    {
        let count = cells.iter().filter(|(_, _, of_cell)| *of_cell == required).count();
        say(&format!("{count:>4} cells: {required}\n"));
    }
    let all = FAULTS.iter().map(|fault| fault.at_steps().count()).sum::<usize>();
    say(&format!("{:>4} cells: not staged, for the reasons in docs/faults.md\n", all - cells.len()));
    say(&format!("{} of {} pairs keep every promise\n", two.len() - wrong_pairs.len(), two.len()));
    say(&format!(
        "{} of {} cells that can be staged do what is required; {all} cells in all\n",
        cells.len() - wrong.len(),
        cells.len()
    ));
    if wrong.is_empty() && wrong_pairs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn in_parallel(count: usize, wrong: impl Fn(usize) -> Option<String> + Sync) -> Vec<String> {
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    if let (Some(line), Ok(mut lines)) = (wrong(at), lines.lock()) {
                        lines.push((at, line));
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap_or_default();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

//! Real processes under faults: each cell of the matrix that can be staged is a test, and must end as its table says.
//!
//! The program is its own cast: started by a test as `real rank N` or `real store` it plays that part, and is told what to do line by
//! line. `real matrix` shows all cells, and those that aren't staged; `cargo nextest run --test real F02` runs those of one fault.
#![forbid(unsafe_code)]

mod again;
mod check;
mod clock;
mod faults;
mod items;
mod job;
mod ledger;
mod namespaces;
mod net;
mod pauses;
mod rank;
mod rdma;
mod shared;
mod stage;
mod staging;

use std::error::Error;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use xfer_faults::{ABSENT, Over, ROWS, Required, Step};

use faults::Fault;
use job::Job;

/// Longer than any step takes, short enough for one that hangs.
pub const WAIT: Duration = Duration::from_secs(20);

/// What can fail for any reason, which the test then shows.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((part, rest)) if part == "rank" => {
            let rank = rest.first().and_then(|word| word.parse().ok()).expect("real rank N");
            rank::main(rank, &rest[1..]);
        }
        Some((part, rest)) if part == "store" => {
            let address = rest.first().expect("real store ADDRESS [JOURNAL]");
            job::serve_store(address, rest.get(1).map(String::as_str));
        }
        Some((part, _)) if part == "matrix" => matrix(),
        _ => libtest_mimic::run(&Arguments::from_args(), trials()).exit(),
    }
}

/// The whole of what is staged and what isn't, for people.
fn matrix() {
    for row in ROWS {
        for (step, required) in row.cells {
            println!("{} {:24} {step:10} {required:?}", row.fault, row.name);
        }
    }
    for absent in ABSENT {
        println!("{} not staged at {:?}: {}", absent.fault, absent.steps, absent.reason);
    }
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for row in ROWS {
        let fault = staging::fault(row.name);
        for (over, (step, required)) in
            row.over.iter().flat_map(|over| row.cells.iter().map(move |cell| (*over, *cell)))
        {
            let name = format!("{}::{}_{}::{step}", over.name(), row.fault, row.name);
            trials.push(Trial::test(name, move || {
                let fault = fault.ok_or_else(|| format!("nobody knows how to stage `{}`", row.name))?;
                run(fault, over, step, required).map_err(|error| Failed::from(error.to_string()))
            }));
        }
    }
    trials.extend(again::trials());
    trials
}

/// One cell: to its step, the fault, and on to an end that is the required one.
fn run(fault: Fault, over: Over, step: Step, required: Required) -> Outcome<()> {
    if let Some(reason) = fault.missing(over) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let mut job = Job::start(fault, over)?;
    stage::reach(&mut job, step)?;
    fault.inject(&mut job, step)?;
    stage::finish(&mut job, step, fault.parts(step))?;
    // From here on, who knows the end has other things in the memory that was migrated.
    job.fill()?;
    if fault.lift(&mut job)? {
        stage::settle(&mut job)?;
    }
    let reports = stage::quiet(&mut job)?;
    check::check(&mut job, &reports, required)?;
    // P9: every process that is left ends when it is told to.
    job.end()
}

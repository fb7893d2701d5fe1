//! Real processes under faults: each cell of the matrix that can be staged is a test, and must end as its table says.
//!
//! The program is its own cast: started by a test as `real rank N` or `real store` it plays that part, and is told what to do line by
//! line. `real matrix` shows all cells, and those that aren't staged; `cargo nextest run --test real F02` runs those of one fault.
#![forbid(unsafe_code)]

mod check;
mod faults;
mod job;
mod net;
mod pauses;
mod rank;
mod stage;
mod table;

use std::error::Error;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use job::Job;
use table::{ABSENT, ROWS, Required, Row, Step};

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
        Some((part, _)) if part == "store" => job::serve_store(),
        Some((part, _)) if part == "matrix" => matrix(),
        _ => libtest_mimic::run(&Arguments::from_args(), trials()).exit(),
    }
}

/// The whole of what is staged and what isn't, for people.
fn matrix() {
    for row in ROWS {
        for (step, required) in row.cells {
            println!("{} {:24} {:10} {required:?}", row.fault, row.name, format!("{step:?}"));
        }
    }
    for absent in ABSENT {
        println!("{} not staged at {:?}: {}", absent.fault, absent.steps, absent.reason);
    }
}

fn trials() -> Vec<Trial> {
    let cells = ROWS.iter().flat_map(|row| row.cells.iter().map(move |(step, required)| (row, *step, *required)));
    cells
        .map(|(row, step, required)| {
            let name = format!("tcp::{}_{}::{}", row.fault, row.name, format!("{step:?}").to_lowercase());
            Trial::test(name, move || run(row, step, required).map_err(|error| Failed::from(error.to_string())))
        })
        .collect()
}

/// One cell: to its step, the fault, and on to an end that is the required one.
fn run(row: &Row, step: Step, required: Required) -> Outcome<()> {
    let mut job = Job::start(row.how.setup(), row.proxied)?;
    stage::reach(&mut job, step)?;
    row.how.inject(&mut job, step)?;
    let mut reports = stage::finish(&mut job, step)?;
    if row.how.lift(&mut job)? {
        reports = stage::settle(&mut job)?;
    }
    check::check(&job, &reports, required)?;
    // P9: every process that is left ends when it is told to.
    for process in job.ranks.iter_mut().filter(|process| process.is_there()) {
        process.end()?;
    }
    Ok(())
}

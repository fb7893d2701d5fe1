//! The program `xfer-sim`: runs seeds, replays one, shows what happened.
#![forbid(unsafe_code)]

mod matrix;
#[cfg(feature = "planted")]
mod planted;
mod report;
mod seeds;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs whole jobs in virtual time under faults, and looks whether every promise is kept.
#[derive(Parser)]
#[command(
    name = "xfer-sim",
    version,
    about,
    max_term_width = 120,
    after_help = "Exit codes: 0 all promises kept, 1 one was broken, 2 wrong usage."
)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed after the other, and says which of them break a promise.
    Seeds(seeds::Options),
    /// Stages every fault at every step, and looks whether the required outcome comes.
    Matrix(matrix::Options),
    /// Plants one bug after the other in the cores, and says after how many seeds it was found.
    #[cfg(feature = "planted")]
    Planted(planted::Options),
    /// Runs one seed and writes a page about it: what happened when, and who owned what.
    Report(report::Options),
    /// Runs one seed and prints what happened, one event a line.
    Replay {
        /// The seed.
        seed: u64,
    },
}

fn main() -> ExitCode {
    match Program::parse().command {
        Command::Seeds(options) => seeds::run(&options),
        Command::Matrix(options) => matrix::run(&options),
        #[cfg(feature = "planted")]
        Command::Planted(options) => planted::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Replay { seed } => seeds::replay(seed),
    }
}

//! The program `xfer`: the operator's side of a training job that moves off machines which are taken away.
#![forbid(unsafe_code)]

mod chaos;
mod drain;
mod failure;
mod info;
mod output;
mod plan;
mod status;
mod store;
mod trace;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use xfer::config::{Config, Flag};
use xfer::store::TcpStore;

use failure::Failure;

/// How long a command tries to reach the store: an operator waits for it, and a store that runs answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Moves the state of a training job off machines that are taken away.
#[derive(Parser)]
#[command(name = "xfer", version, about, max_term_width = 120, after_help = failure::EXIT_CODES)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Rehearses faults on a running job: kills and stops its processes, spoils its connections.
    Chaos(chaos::Options),
    /// Hosts the store of a job until it is told to stop (SIGTERM, Ctrl-C).
    Store(store::Options),
    /// Tells the process of a rank to leave its machine, or that it may stay after all.
    Drain(drain::Options),
    /// Shows what would be saved of nodes that leave, in which order, and what it would cost.
    Plan(Box<plan::Options>),
    /// Shows the version, what can move bytes here, and with --config every setting and where it comes from.
    Info(info::Options),
    /// Shows who owns what, who takes part, and who is told to leave, as the store of the job has it.
    Status(status::Options),
    /// Puts the traces of a job's migrations together, for Perfetto or Chrome to draw.
    Trace(trace::Options),
}

/// Where the store is.
#[derive(Args)]
struct StoreOption {
    /// The store of the job [default: XFER_STORE, else beside MASTER_ADDR:MASTER_PORT, else 127.0.0.1:29501].
    #[arg(long = "store", value_name = "HOST:PORT")]
    address: Option<String>,
}

impl StoreOption {
    /// The configuration with this option in it.
    fn config(&self) -> Result<Config, Failure> {
        let flag = |text: &String| Flag { name: "XFER_STORE", flag: "--store", text: text.clone() };
        configuration(self.address.iter().map(flag).collect())
    }
}

fn main() -> ExitCode {
    let program = Program::parse();
    let (name, outcome) = match &program.command {
        Command::Chaos(options) => ("chaos", chaos::run(options)),
        Command::Store(options) => ("store", store::run(options)),
        Command::Drain(options) => ("drain", drain::run(options)),
        Command::Plan(options) => ("plan", plan::run(options)),
        Command::Info(options) => ("info", info::run(options)),
        Command::Status(options) => ("status", status::run(options)),
        Command::Trace(options) => ("trace", trace::run(options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(name),
    }
}

/// The configuration, with what has no effect said on standard error.
fn configuration(flags: Vec<Flag>) -> Result<Config, Failure> {
    let config = Config::with_flags(flags)?;
    for warning in &config.warnings {
        output::warn(warning);
    }
    Ok(config)
}

/// The store of the job.
fn connect(config: &Config) -> Result<TcpStore, Failure> {
    let store = TcpStore::connect(&config.store, config.store_timeout.min(PATIENCE))?;
    Ok(store.with_call_timeout(config.store_timeout))
}

//! `xfer-bench`: what two processes can move between each other, beside what a plain socket and a plain copy can.
//!
//! Each measurement prints its machine, the path that its bytes took, and a ceiling of the same run: the same bytes
//! through a blocking socket into the final buffer, and copied once in memory. What arrives is compared byte by byte.
#![forbid(unsafe_code)]

mod bandwidth;
mod cancel;
mod ceiling;
mod client;
mod failure;
mod latency;
mod machine;
mod migrate;
mod mixed;
mod options;
mod processor;
mod report;
mod samples;
mod server;
mod setup;
mod talk;

use std::process::ExitCode;

use clap::Parser;
use xfer::config::Config;
use xfer_transport::backend::{Probe, probe};

use client::Client;
use failure::{Failure, Outcome};
use options::{Options, Test};
use report::Report;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Failure::usage("").code().into() } else { ExitCode::SUCCESS };
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(options: &Options) -> Outcome<()> {
    #[cfg(feature = "unsummed")]
    if options.no_sums {
        xfer_transport::unsummed::set_sums(false);
    }
    // What went wrong on the way and was mended, a link that was lost: else it would only be a figure that nobody understands.
    xfer::log::init(&Config::from_env().map_err(Failure::usage)?).map_err(Failure::usage)?;
    // Before there is any other thread.
    if let Some(processor) = options.pin_cores.first() {
        processor::stay_on(*processor)?;
    }
    match (options.target.as_deref(), options.loopback) {
        (Some("probe"), false) => {
            list_backends();
            Ok(())
        }
        (Some(_), true) => Err(Failure::usage("--loopback starts its own server: leave the host out")),
        (None, false) => server::run(options),
        _ => measure(options),
    }
}

fn measure(options: &Options) -> Outcome<()> {
    let sizes = options.sizes().map_err(Failure::usage)?;
    let mut report = Report::open(options)?;
    let mut client = Client::connect(options)?;
    report.begin(&client)?;
    let mut measured = Ok(());
    for size in sizes {
        let row = match options.test {
            Test::Bw | Test::Rate => bandwidth::run(&mut client, size),
            Test::Lat => latency::run(&mut client, size),
            Test::Mixed => mixed::run(&mut client, size),
            Test::Migrate => migrate::run(&mut client, size),
            Test::Cancel => cancel::run(&mut client, size),
            Test::Reg => setup::register(&mut client, size),
            Test::Connect => setup::connect(&mut client),
        };
        match row.and_then(|row| report.add(row)) {
            Ok(()) => {}
            Err(failure) => {
                measured = Err(failure);
                break;
            }
        }
    }
    // What was measured before a failure is reported too.
    report.finish(measured.as_ref().err())?;
    measured?;
    report.verdict()
}

fn list_backends() {
    for Probe { backend, found } in probe() {
        match found {
            Ok(found) => println!("{backend:<10} yes  {found}"),
            Err(why) => println!("{backend:<10} no   {why}"),
        }
    }
    for name in ["cuda_ipc", "nccl"] {
        println!("{name:<10} no   not part of this version");
    }
}

//! `xfer drain`: tells a rank to leave, or that it may stay.

use std::time::Duration;

use clap::Args;
use xfer::config::parse;
use xfer::notice::{order_drain, withdraw_drain};

use crate::StoreOption;
use crate::failure::Failure;
use crate::output::{print, span};

/// Options of `xfer drain`.
#[derive(Args)]
pub(crate) struct Options {
    /// Whose process is to leave.
    rank: u32,
    /// How long it has: 30s, 2m, or a number of seconds.
    #[arg(long, value_name = "TIME", value_parser = parse::duration, required_unless_present = "withdraw")]
    deadline: Option<Duration>,
    /// Takes an earlier order back.
    #[arg(long, conflicts_with_all = ["deadline", "reason"])]
    withdraw: bool,
    /// Why, for the logs of the job.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    store: StoreOption,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let store = crate::connect(&options.store.config()?)?;
    match options.deadline {
        Some(left) if !options.withdraw => {
            let reason = options.reason.as_deref().unwrap_or_default();
            let peer = order_drain(&store, options.rank, left, reason)?;
            print(&format!("{peer} is told to leave within {}\n", span(left)));
        }
        _ => {
            let peer = withdraw_drain(&store, options.rank)?;
            print(&format!("{peer} is told that it may stay\n"));
        }
    }
    Ok(())
}

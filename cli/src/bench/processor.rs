//! The processors: how much of them this process has had, and on which it runs.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::failure::{Failure, Outcome};

/// What this process has had, all threads together.
pub(crate) fn time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs this thread, and all that it starts from now on, on one of them.
pub(crate) fn stay_on(processor: u64) -> Outcome<()> {
    let refused = |why: String| Failure::usage(format!("can't run on processor {processor}: {why}"));
    let number = usize::try_from(processor).ok().filter(|number| *number < CpuSet::MAX_CPU);
    let mut only = CpuSet::new();
    only.set(number.ok_or_else(|| refused("there is none of that number".into()))?);
    sched_setaffinity(None, &only).map_err(|error| refused(error.to_string()))
}

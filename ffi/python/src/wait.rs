//! Waiting without the GIL, so that other Python threads run and Ctrl-C works.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xfer::config::parse::DURATION_MAX;

/// How long a wait goes without looking at Python's signals: what a person feels as "at once".
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// Seconds as Python gives them: `None` waits for ever; negative or absurd numbers are refused.
pub(crate) fn timeout(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    seconds.map(duration).transpose()
}

/// A duration in seconds from Python.
pub(crate) fn duration(seconds: f64) -> PyResult<Duration> {
    let refused = |why: String| PyValueError::new_err(format!("{seconds} is not a duration in seconds: {why}"));
    let found = Duration::try_from_secs_f64(seconds).map_err(|error| refused(error.to_string()))?;
    if found > DURATION_MAX { Err(refused("it is longer than 100 years".to_owned())) } else { Ok(found) }
}

/// Calls `look` with short waits, without the GIL, until it finds something; `None` after `timeout`.
pub(crate) fn until<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    look: impl Fn(Duration) -> Option<T> + Sync,
) -> PyResult<Option<T>> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = end.map_or(SIGNAL_CHECK, |end| end.saturating_duration_since(Instant::now()));
        if let Some(found) = py.detach(|| look(left.min(SIGNAL_CHECK))) {
            return Ok(Some(found));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(None);
        }
        py.check_signals()?;
    }
}

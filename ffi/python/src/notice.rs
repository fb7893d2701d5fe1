//! `Notice`: somebody said that this machine goes away.

use std::time::Instant;

use pyo3::prelude::*;

/// The notice in force for this rank.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Notice {
    /// Who said so: "signal", "file", "store", "imds" or "api".
    #[pyo3(get)]
    source: String,
    /// Which notice it is.
    #[pyo3(get)]
    id: String,
    /// Whether it is more than a hint.
    #[pyo3(get)]
    certain: bool,
    deadline: Instant,
}

impl Notice {
    pub(crate) fn new(source: String, id: String, certain: bool, deadline: Instant) -> Self {
        Self { source, id, certain, deadline }
    }
}

#[pymethods]
impl Notice {
    /// Seconds until the machine is gone; 0 when it should be gone already.
    #[getter]
    fn seconds_left(&self) -> f64 {
        self.deadline.saturating_duration_since(Instant::now()).as_secs_f64()
    }

    fn __repr__(&self) -> String {
        format!("Notice(source={:?}, seconds_left={:.3})", self.source, self.seconds_left())
    }
}

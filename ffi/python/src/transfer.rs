//! `Transfer`: one tagged send or receive.

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use xfer::{Engine, Operation, Stopped};

use crate::error::{self, Interrupted};
use crate::wait;

/// One send or receive under way. Dropping it cancels nothing.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Transfer {
    pub(crate) operation: Operation,
    pub(crate) engine: Engine,
}

#[pymethods]
impl Transfer {
    /// Bytes moved, once they are applied and verified at the destination.
    #[pyo3(signature = (timeout=None, interruptible=false))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>, interruptible: bool) -> PyResult<u64> {
        let bell = self.engine.bell();
        let found = wait::until(py, wait::timeout(timeout)?, |slice| {
            bell.wait_for(Some(slice), || {
                // Looked at first: bytes that are here are worth more than the news that they need not have come.
                self.operation
                    .result()
                    .map(Ok)
                    .or_else(|| (interruptible && self.engine.interrupted()).then_some(Err(())))
            })
        })?;
        match found {
            Some(Ok(Ok(bytes))) => Ok(bytes),
            Some(Ok(Err(failure))) => Err(error::tagged(&failure)),
            Some(Err(())) => Err(Interrupted::new_err(
                "a migration ended or this rank was told to leave while the transfer waited; look at Engine.incoming() and Engine.notice()",
            )),
            None => Err(PyTimeoutError::new_err(format!(
                "not done after {:.3} s; the transfer goes on: wait again or cancel() it",
                timeout.unwrap_or_default()
            ))),
        }
    }

    /// Whether it has ended, well or not.
    fn done(&self) -> bool {
        self.operation.result().is_some()
    }

    /// Stops the transfer for sure.
    fn cancel(&self, py: Python<'_>) -> &'static str {
        match py.detach(|| self.operation.cancel()) {
            Stopped::Fenced => "fenced",
            Stopped::Completed => "completed",
            Stopped::Quarantined => "quarantined",
        }
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.operation)
    }
}

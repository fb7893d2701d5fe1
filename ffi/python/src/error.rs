//! Errors of xfer as Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyTimeoutError};
use pyo3::prelude::*;
use xfer::{EngineError, TaggedError};

create_exception!(xfer, XferError, PyException, "Any failure of xfer.");
create_exception!(xfer, PeerLost, XferError, "The other rank died or can't be reached.");
create_exception!(xfer, Cancelled, XferError, "The transfer was cancelled.");
create_exception!(xfer, Expired, XferError, "The transfer's deadline passed first.");
create_exception!(xfer, Interrupted, XferError, "The ownership of layers changed while the call waited.");
create_exception!(xfer, StoreLost, XferError, "The store can't be reached.");

/// Adds the exceptions to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("XferError", py.get_type::<XferError>())?;
    module.add("PeerLost", py.get_type::<PeerLost>())?;
    module.add("Cancelled", py.get_type::<Cancelled>())?;
    module.add("Expired", py.get_type::<Expired>())?;
    module.add("Interrupted", py.get_type::<Interrupted>())?;
    module.add("StoreLost", py.get_type::<StoreLost>())
}

/// Any error of the library as an `XferError` with its own words.
pub(crate) fn failed(error: impl std::fmt::Display) -> PyErr {
    XferError::new_err(error.to_string())
}

/// The exception for a tagged send or receive that ended without its bytes.
pub(crate) fn tagged(error: &TaggedError) -> PyErr {
    let text = error.to_string();
    match error {
        TaggedError::PeerLost { .. } => PeerLost::new_err(text),
        TaggedError::Cancelled { .. } => Cancelled::new_err(text),
        TaggedError::Expired { .. } => Expired::new_err(text),
        _ => XferError::new_err(text),
    }
}

/// The exception for a failure of the engine.
pub(crate) fn engine(error: &EngineError) -> PyErr {
    let text = error.to_string();
    match error {
        EngineError::Store(_) => StoreLost::new_err(text),
        EngineError::Timeout { .. } => PyTimeoutError::new_err(text),
        _ => XferError::new_err(text),
    }
}

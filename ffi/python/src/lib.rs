//! `xfer._xfer`: the native module of the Python package `xfer`.
//!
//! A thin border: it turns Python's objects into the types of the crate `xfer` and back, gives the GIL away while it waits, and
//! decides nothing. Signatures and docstrings for people are in `xfer/_xfer.pyi`.

mod engine;
mod error;
mod item;
mod memory;
mod migration;
mod notice;
mod transfer;
mod wait;

use pyo3::prelude::*;

#[pymodule]
fn _xfer(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    error::register(module)?;
    module.add_class::<memory::Memory>()?;
    module.add_class::<transfer::Transfer>()?;
    module.add_class::<notice::Notice>()?;
    module.add_class::<item::Item>()?;
    module.add_class::<migration::Outcome>()?;
    module.add_class::<migration::Outgoing>()?;
    module.add_class::<migration::Incoming>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<engine::Updating>()?;
    Ok(())
}

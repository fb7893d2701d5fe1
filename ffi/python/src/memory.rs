//! `Memory`: host memory that Python and xfer share.
#![allow(unsafe_code)] // The buffer protocol and borrowed pointers are C's.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use xfer::Region;

/// Host memory that can be sent from or received into.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Memory {
    pub(crate) region: Region,
}

#[pymethods]
impl Memory {
    /// `nbytes` zeroed, page-aligned bytes owned by xfer.
    #[staticmethod]
    fn allocate(py: Python<'_>, nbytes: u64) -> PyResult<Self> {
        py.detach(|| Region::allocate(nbytes))
            .map(|region| Self { region })
            .map_err(|error| PyMemoryError::new_err(error.to_string()))
    }

    /// `nbytes` zeroed, page-aligned bytes that other processes of this machine read where they lie.
    #[staticmethod]
    fn shared(py: Python<'_>, nbytes: u64) -> PyResult<Self> {
        py.detach(|| Region::shared(nbytes))
            .map(|region| Self { region })
            .map_err(|error| PyMemoryError::new_err(error.to_string()))
    }

    /// Whether other processes of this machine can read it where it lies.
    #[getter]
    fn is_shared(&self) -> bool {
        self.region.is_shared()
    }

    /// `nbytes` at `address`, valid while `owner` lives.
    #[staticmethod]
    fn borrow(address: usize, nbytes: u64, owner: Py<PyAny>) -> PyResult<Self> {
        if address == 0 && nbytes > 0 {
            return Err(PyValueError::new_err("address 0 is no memory (a meta tensor has none)"));
        }
        // SAFETY: the caller of this constructor promises that the range is valid while `owner` lives, and the region keeps
        // `owner` alive until its last user is done.
        unsafe { Region::from_raw(address as *mut u8, nbytes, Box::new(owner)) }
            .map(|region| Self { region })
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    #[getter]
    fn nbytes(&self) -> u64 {
        self.region.len_bytes()
    }

    #[getter]
    fn address(&self) -> usize {
        self.region.as_ptr() as usize
    }

    /// CRC-32C of all bytes.
    fn crc32c(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.region.crc32c())
    }

    fn __len__(&self) -> PyResult<usize> {
        usize::try_from(self.region.len_bytes()).map_err(|error| PyValueError::new_err(error.to_string()))
    }

    fn __repr__(&self) -> String {
        format!("Memory({} bytes)", self.region.len_bytes())
    }

    /// # Safety
    ///
    /// Called by the interpreter with a `view` to fill, as the buffer protocol says.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let region = &slf.get().region;
        let len =
            ffi::Py_ssize_t::try_from(region.len_bytes()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        // SAFETY: `view` is the interpreter's to fill; the exporter is `slf`, which owns the region and is kept alive by
        // the view; the address doesn't change while the region lives.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), region.as_ptr().cast::<c_void>(), len, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

//! `Item`: one thing worth rescuing, as Python describes it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use xfer::migrate::{Cost, ItemClass, Rescue};

use crate::memory::Memory;
use crate::wait;

/// One thing worth rescuing.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Item {
    pub(crate) rescue: Rescue,
}

#[pymethods]
impl Item {
    #[new]
    #[pyo3(signature = (name, kind, memory, target, version, group=String::new(), recompute_s=None, recompute_from=Vec::new()))]
    #[allow(clippy::too_many_arguments)] // Python calls it with keywords.
    fn new(
        name: String,
        kind: &str,
        memory: &Bound<'_, Memory>,
        target: u32,
        version: u64,
        group: String,
        recompute_s: Option<f64>,
        recompute_from: Vec<String>,
    ) -> PyResult<Self> {
        let class = kind_from_text(kind)?;
        let cost = match recompute_s {
            Some(seconds) => Cost::Compute { time: wait::duration(seconds)?, from: recompute_from },
            None if recompute_from.is_empty() => Cost::Irreplaceable,
            None => {
                return Err(PyValueError::new_err(format!(
                    "item {name}: recompute_from without recompute_s; say how many seconds it takes to compute it again"
                )));
            }
        };
        Ok(Self { rescue: Rescue { name, class, region: memory.get().region.clone(), target, version, group, cost } })
    }

    fn __repr__(&self) -> String {
        let rescue = &self.rescue;
        format!("Item({:?}, {} bytes, to rank {})", rescue.name, rescue.region.len_bytes(), rescue.target)
    }
}

pub(crate) fn kind_from_text(kind: &str) -> PyResult<ItemClass> {
    ItemClass::ALL.into_iter().find(|class| class.name() == kind).ok_or_else(|| {
        let known = ItemClass::ALL.map(ItemClass::name).join(", ");
        PyValueError::new_err(format!("no kind of item is called {kind:?}; there are: {known}"))
    })
}

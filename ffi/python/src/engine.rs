//! `Engine`: this process's end of xfer, for Python.

use std::collections::BTreeMap;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use xfer::migrate::{HandOver, Rescue};
use xfer::{EngineBuilder, EngineError, Lane, UpdateGuard};

use crate::error;
use crate::item::Item;
use crate::memory::Memory;
use crate::migration::{Incoming, Outgoing, json};
use crate::notice::Notice;
use crate::transfer::Transfer;
use crate::wait;

/// The id of notices that the program raises itself, unless it names them.
const CALL: &str = "api";

/// This process's end of xfer: its identity, its peers, its notices and its migrations.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Engine {
    engine: xfer::Engine,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        rank=None, world_size=None, store=None, bind=None, job=None, egress_bytes_per_s=None, host_store=None, memory_limit=None
    ))]
    #[allow(clippy::too_many_arguments)] // Python calls it with keywords.
    fn new(
        py: Python<'_>,
        rank: Option<u32>,
        world_size: Option<u32>,
        store: Option<String>,
        bind: Option<String>,
        job: Option<String>,
        egress_bytes_per_s: Option<u64>,
        host_store: Option<bool>,
        memory_limit: Option<u64>,
    ) -> PyResult<Self> {
        let start = || {
            let mut builder = EngineBuilder::from_env()?;
            if let Some(rank) = rank {
                builder = builder.rank(rank);
            }
            if let Some(world_size) = world_size {
                builder = builder.world_size(world_size);
            }
            if let Some(store) = store {
                builder = builder.store(store);
            }
            if let Some(bind) = bind {
                builder = builder.bind(bind.parse().map_err(|_| EngineError::Address { text: bind })?);
            }
            if let Some(job) = job {
                builder = builder.job(job);
            }
            if let Some(host) = host_store {
                builder = builder.host_store(host);
            }
            if let Some(limit) = memory_limit {
                builder = builder.memory_limit_bytes(limit);
            }
            if egress_bytes_per_s.is_some() {
                builder = builder.egress_bytes_per_s(egress_bytes_per_s);
            }
            builder.start()
        };
        py.detach(start).map(|engine| Self { engine }).map_err(|failure| error::engine(&failure))
    }

    #[getter]
    fn rank(&self) -> u32 {
        self.engine.id().rank
    }

    #[getter]
    fn incarnation(&self) -> u32 {
        self.engine.id().incarnation
    }

    #[getter]
    fn world_size(&self) -> u32 {
        self.engine.world_size()
    }

    #[getter]
    fn generation(&self) -> u64 {
        self.engine.generation()
    }

    #[getter]
    fn store_address(&self) -> String {
        self.engine.store_address().to_owned()
    }

    /// Waits until every rank is reached.
    #[pyo3(signature = (timeout=30.0))]
    fn connect(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = wait::duration(timeout)?;
        py.detach(|| self.engine.connect(timeout)).map_err(|failure| error::engine(&failure))
    }

    /// Starts sending all of `memory` to rank `to`.
    #[pyo3(signature = (memory, to, tag, lane="step"))]
    fn send(&self, py: Python<'_>, memory: &Bound<'_, Memory>, to: u32, tag: &str, lane: &str) -> PyResult<Transfer> {
        let lane = match lane {
            "step" => Lane::Step,
            "bulk" => Lane::Bulk,
            other => {
                return Err(PyValueError::new_err(format!(
                    "no lane for tensors is called {other:?}; there are: step, bulk"
                )));
            }
        };
        let region = memory.get().region.clone();
        Ok(self.transfer(py.detach(|| self.engine.send(region, to, tag, lane))))
    }

    /// Starts receiving into all of `memory` from rank `source`.
    fn recv(&self, py: Python<'_>, memory: &Bound<'_, Memory>, source: u32, tag: &str) -> Transfer {
        let region = memory.get().region.clone();
        self.transfer(py.detach(|| self.engine.recv(&region, source, tag)))
    }

    /// Whether `rank` is connected now.
    fn alive(&self, rank: u32) -> bool {
        self.engine.alive(rank)
    }

    /// The value of a key of the store.
    fn store_get<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let value = py.detach(|| self.engine.store_get(key)).map_err(|failure| error::engine(&failure))?;
        Ok(value.map(|value| PyBytes::new(py, &value)))
    }

    /// Writes a key of the store if it is absent; whether this call did.
    fn store_create(&self, py: Python<'_>, key: &str, value: Vec<u8>) -> PyResult<bool> {
        py.detach(|| self.engine.store_create(key, value.into())).map_err(|failure| error::engine(&failure))
    }

    /// The notice in force for this rank, if any.
    fn notice(&self) -> Option<Notice> {
        self.engine.notice().map(|notice| {
            let deadline = notice.deadline();
            Notice::new(notice.source.to_string(), notice.id, notice.certain, deadline)
        })
    }

    /// Tells this rank that it has `seconds` to live.
    #[pyo3(signature = (seconds, source=CALL))]
    fn raise_notice(&self, seconds: f64, source: &str) -> PyResult<()> {
        let left = wait::duration(seconds)?;
        self.engine.raise_notice(source, left).map_err(|failure| error::engine(&failure))
    }

    /// Takes back the notice of `raise_notice`; whether there was one.
    #[pyo3(signature = (source=CALL))]
    fn withdraw_notice(&self, source: &str) -> bool {
        self.engine.withdraw_notice(source)
    }

    /// Starts native threads that watch for notices.
    #[pyo3(signature = (sources=vec!["signal".to_owned(), "store".to_owned()], grace_s=None))]
    fn watch_notices(&self, py: Python<'_>, sources: Vec<String>, grace_s: Option<f64>) -> PyResult<()> {
        let grace: Option<Duration> = wait::timeout(grace_s)?;
        py.detach(|| {
            sources.iter().try_for_each(|name| {
                let source = self.engine.notice_source(name, grace)?;
                self.engine.watch_notices(source)
            })
        })
        .map_err(|failure: EngineError| error::engine(&failure))
    }

    /// What is to leave at once when a notice comes.
    #[pyo3(signature = (targets, owners_after, items, generation=None))]
    fn protect(
        &self,
        py: Python<'_>,
        targets: Vec<u32>,
        owners_after: BTreeMap<String, u32>,
        items: Vec<PyRef<'_, Item>>,
        generation: Option<u64>,
    ) {
        let items: Vec<Rescue> = items.iter().map(|item| item.rescue.clone()).collect();
        let owners_after = owners_after.into_iter().collect();
        py.detach(|| match generation {
            Some(generation) => self.engine.protect_in(generation, targets, owners_after, items),
            None => self.engine.protect(targets, owners_after, items),
        });
    }

    /// Context manager around the optimizer's step.
    fn updating(slf: &Bound<'_, Self>) -> Updating {
        Updating { engine: slf.get().engine.clone(), guard: std::sync::Mutex::new(None) }
    }

    /// The hand-over that the notice or `hand_over` started.
    fn outgoing(&self) -> Option<Outgoing> {
        self.engine.outgoing().map(|outgoing| Outgoing { outgoing, engine: self.engine.clone() })
    }

    /// Starts a hand-over now.
    #[pyo3(signature = (targets, owners_after, seconds, generation=None))]
    fn hand_over(
        &self,
        py: Python<'_>,
        targets: Vec<u32>,
        owners_after: BTreeMap<String, u32>,
        seconds: f64,
        generation: Option<u64>,
    ) -> PyResult<Outgoing> {
        let hand_over =
            HandOver { targets, owners_after: owners_after.into_iter().collect(), time_left: wait::duration(seconds)? };
        let begin = || match generation {
            Some(generation) => self.engine.hand_over_in(generation, hand_over),
            None => self.engine.hand_over(hand_over),
        };
        let outgoing = py.detach(begin).map_err(|failure| error::engine(&failure))?;
        Ok(Outgoing { outgoing, engine: self.engine.clone() })
    }

    /// The latest hand-over to this rank that `dismiss` has not put away.
    fn incoming(&self) -> Option<Incoming> {
        self.engine.incoming().map(|incoming| Incoming { incoming, engine: self.engine.clone() })
    }

    /// Puts the latest incoming hand-over away: it interrupts nothing any more.
    fn dismiss(&self) {
        self.engine.dismiss();
    }

    /// Counters as plain values.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json(py, &self.engine.stats_json())
    }

    /// The same counters as text for Prometheus.
    fn metrics(&self) -> String {
        self.engine.metrics()
    }

    /// The latest transfers from this process.
    fn flights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json(py, &self.engine.flights_json())
    }

    /// Ends all threads and connections; bounded.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.engine.close());
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<Bound<'_, PyType>>,
        _value: Option<Bound<'_, PyAny>>,
        _traceback: Option<Bound<'_, PyAny>>,
    ) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("Engine({}, world_size={})", self.engine.id(), self.engine.world_size())
    }
}

impl Engine {
    fn transfer(&self, operation: xfer::Operation) -> Transfer {
        Transfer { operation, engine: self.engine.clone() }
    }
}

/// Context manager around the optimizer's step: protected memory is about to change.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Updating {
    engine: xfer::Engine,
    guard: std::sync::Mutex<Option<UpdateGuard>>,
}

#[pymethods]
impl Updating {
    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        let guard = py.detach(|| self.engine.updating()).map_err(|failure| error::engine(&failure))?;
        *self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(guard);
        Ok(())
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<Bound<'_, PyType>>,
        _value: Option<Bound<'_, PyAny>>,
        _traceback: Option<Bound<'_, PyAny>>,
    ) {
        let guard = self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        py.detach(|| drop(guard));
    }
}

//! `Outgoing`, `Incoming` and `Outcome`: a hand-over seen from Python.

use std::collections::BTreeMap;

use pyo3::exceptions::{PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use xfer::Engine;
use xfer::migrate::{self, Handling, Mode, Progress, Prospect, Rescue, TakeOver, TakeOvers};

use crate::error::{self, Interrupted};
use crate::item::{Item, kind_from_text};
use crate::memory::Memory;
use crate::wait;

/// What the store's new generation says; the same on every rank.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Outcome {
    outcome: migrate::Outcome,
}

#[pymethods]
impl Outcome {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.outcome.kind {
            migrate::OutcomeKind::Handoff => "handoff",
            migrate::OutcomeKind::Restore => "restore",
            migrate::OutcomeKind::Withdrawn => "withdrawn",
        }
    }

    #[getter]
    fn generation(&self) -> u64 {
        self.outcome.generation
    }

    #[getter]
    fn source(&self) -> u32 {
        self.outcome.source
    }

    #[getter]
    fn owners(&self) -> BTreeMap<String, u32> {
        self.outcome.owners.iter().cloned().collect()
    }

    #[getter]
    fn landed(&self) -> Vec<String> {
        self.outcome.landed.clone()
    }

    #[getter]
    fn recompute(&self) -> Vec<String> {
        self.outcome.recompute.clone()
    }

    #[getter]
    fn missing(&self) -> Vec<String> {
        self.outcome.missing.clone()
    }

    #[getter]
    fn reason(&self) -> String {
        self.outcome.reason.clone()
    }

    #[getter]
    fn record<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.outcome.record)
    }

    fn __repr__(&self) -> String {
        format!(
            "Outcome(kind={:?}, generation={}, landed={}, recompute={}, missing={})",
            self.kind(),
            self.outcome.generation,
            self.outcome.landed.len(),
            self.outcome.recompute.len(),
            self.outcome.missing.len()
        )
    }
}

/// This rank's hand-over, seen from the source.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Outgoing {
    pub(crate) outgoing: migrate::Outgoing,
    pub(crate) engine: Engine,
}

#[pymethods]
impl Outgoing {
    /// Adds items; may be called several times before `cut`.
    fn offer(&self, py: Python<'_>, items: Vec<PyRef<'_, Item>>) -> PyResult<()> {
        let rescues: Vec<Rescue> = items.iter().map(|item| item.rescue.clone()).collect();
        py.detach(|| self.outgoing.offer(rescues)).map_err(error::failed)
    }

    /// Nothing more comes; `record` travels with the commit.
    #[pyo3(signature = (record, take_over=Vec::new(), slower=1.0))]
    fn cut(&self, py: Python<'_>, record: Vec<u8>, take_over: Vec<Load>, slower: f64) -> PyResult<()> {
        wait::duration(slower)?;
        let owners = take_over.into_iter().map(owner).collect::<PyResult<_>>()?;
        py.detach(|| self.outgoing.cut_for(record.into(), TakeOvers { owners, slower })).map_err(error::failed)
    }

    /// The notice was withdrawn: ends "withdrawn" unless a commit came first.
    fn withdraw(&self, py: Python<'_>) -> PyResult<Outcome> {
        py.detach(|| self.outgoing.withdraw()).map_err(error::failed)?;
        self.wait(py, None, false)
    }

    /// The outcome, once the store has it.
    #[pyo3(signature = (timeout=None, interruptible=false))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>, interruptible: bool) -> PyResult<Outcome> {
        let bell = self.engine.bell();
        let found = wait::until(py, wait::timeout(timeout)?, |slice| {
            bell.wait_for(Some(slice), || {
                self.outgoing
                    .outcome()
                    .map(Ok)
                    .or_else(|| (interruptible && self.engine.interrupted()).then_some(Err(())))
            })
        })?;
        match found {
            Some(Ok(outcome)) => outcome.map(|outcome| Outcome { outcome }).map_err(error::failed),
            Some(Err(())) => Err(Interrupted::new_err("interrupted while waiting for the commit")),
            None => Err(PyTimeoutError::new_err("the migration has not ended yet")),
        }
    }

    /// All that is offered so far, as `xfer plan --manifest` reads it.
    #[pyo3(signature = (done_s=0.0, left_s=0.0, slowdown=1.0, rollback_s=900.0, reload_s=60.0))]
    fn manifest(
        &self,
        py: Python<'_>,
        done_s: f64,
        left_s: f64,
        slowdown: f64,
        rollback_s: f64,
        reload_s: f64,
    ) -> PyResult<String> {
        for seconds in [done_s, left_s, slowdown, rollback_s, reload_s] {
            wait::duration(seconds)?;
        }
        let redo = false;
        let progress = Progress { step_done_s: done_s, step_left_s: left_s, slowdown, rollback_s, reload_s, redo };
        py.detach(|| self.outgoing.manifest_json(progress)).map_err(error::failed)
    }

    /// Which of the ways `open` loses least, with `prospects` offered too.
    #[pyo3(signature = (
        open, prospects, done_s=0.0, left_s=0.0, slowdown=1.0, rollback_s=900.0, reload_s=60.0,
        meanwhile_s=0.0, after_s=0.0, stop_meanwhile_s=0.0, stop_after_s=0.0, describe_s=0.0
    ))]
    #[allow(clippy::too_many_arguments)] // Python calls it with keywords.
    fn weigh<'py>(
        &self,
        py: Python<'py>,
        open: Vec<String>,
        prospects: Vec<Described>,
        done_s: f64,
        left_s: f64,
        slowdown: f64,
        rollback_s: f64,
        reload_s: f64,
        meanwhile_s: f64,
        after_s: f64,
        stop_meanwhile_s: f64,
        stop_after_s: f64,
        describe_s: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let measured = [meanwhile_s, after_s, stop_meanwhile_s, stop_after_s, describe_s];
        for seconds in [done_s, left_s, slowdown, rollback_s, reload_s].into_iter().chain(measured) {
            wait::duration(seconds)?;
        }
        let redo = false;
        let progress = Progress { step_done_s: done_s, step_left_s: left_s, slowdown, rollback_s, reload_s, redo };
        let (digest_bytes_per_s, commit_s) = (None, 0.0);
        let handling =
            Handling { digest_bytes_per_s, commit_s, meanwhile_s, after_s, stop_meanwhile_s, stop_after_s, describe_s };
        let open = open.iter().map(|name| mode_from_text(name)).collect::<PyResult<Vec<Mode>>>()?;
        let prospects = prospects.into_iter().map(prospect).collect::<PyResult<Vec<Prospect>>>()?;
        let choice = py.detach(|| self.outgoing.weigh(progress, handling, open, prospects)).map_err(error::failed)?;
        let choice = choice.ok_or_else(|| PyValueError::new_err("no way is open; name at least one"))?;
        json(py, &choice.to_json())
    }

    /// How many bytes more a target has room for.
    fn room(&self, rank: u32) -> Option<u64> {
        self.outgoing.room(rank)
    }

    /// This is how the rank leaves, and why: for the log and the report.
    fn leaves_by(&self, mode: &str, why: &str) -> PyResult<()> {
        self.outgoing.leaves_by(mode_from_text(mode)?, why);
        Ok(())
    }

    /// Figures of the migration as plain values.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json(py, &self.outgoing.report().to_json())
    }
}

/// A new owner's rank, and in seconds what it does, as [`TakeOver`] has it: busy, prepared, hears, meanwhile, after, graph, bind, again.
type Load = (u32, f64, f64, f64, f64, f64, f64, f64, f64);

fn owner((rank, busy, prepared, hears, meanwhile, after, graph, bind, again): Load) -> PyResult<TakeOver> {
    Ok(TakeOver {
        rank,
        busy: wait::duration(busy)?,
        prepared: wait::duration(prepared)?,
        hears: wait::duration(hears)?,
        meanwhile: wait::duration(meanwhile)?,
        after: wait::duration(after)?,
        graph: wait::duration(graph)?,
        bind: wait::duration(bind)?,
        again: wait::duration(again)?,
    })
}

/// Name, kind, bytes, target, group, `recompute_s` and `recompute_from` of something that may be offered.
type Described = (String, String, u64, u32, String, Option<f64>, Vec<String>);

fn prospect(described: Described) -> PyResult<Prospect> {
    let (name, kind, bytes, target, group, recompute_s, recompute_from) = described;
    let class = kind_from_text(&kind)?;
    recompute_s.map(wait::duration).transpose()?;
    Ok(Prospect { name, class, bytes, target, group, recompute_s, recompute_from })
}

fn mode_from_text(name: &str) -> PyResult<Mode> {
    Mode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
        let known = Mode::ALL.map(Mode::name).join(", ");
        PyValueError::new_err(format!("no way to leave is called {name:?}; there are: {known}"))
    })
}

/// A hand-over to this rank.
#[pyclass(frozen, module = "xfer")]
pub(crate) struct Incoming {
    pub(crate) incoming: migrate::Incoming,
    pub(crate) engine: Engine,
}

#[pymethods]
impl Incoming {
    #[getter]
    fn source(&self) -> u32 {
        self.incoming.source()
    }

    /// (name, kind, bytes) of the items offered to this rank so far.
    fn items(&self) -> Vec<(String, &'static str, u64)> {
        self.incoming.items().into_iter().map(|item| (item.name.to_string(), item.class.name(), item.bytes)).collect()
    }

    /// The item's memory once all of it is there and verified.
    fn landed(&self, name: &str) -> Option<Memory> {
        self.incoming.landed(name).map(|region| Memory { region })
    }

    /// This rank goes on: for the report.
    fn goes_on(&self, computed_s: f64) -> PyResult<()> {
        self.incoming.goes_on(wait::duration(computed_s)?);
        Ok(())
    }

    /// The outcome, once the store has it.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Outcome> {
        let bell = self.engine.bell();
        let found =
            wait::until(py, wait::timeout(timeout)?, |slice| bell.wait_for(Some(slice), || self.incoming.outcome()))?;
        match found {
            Some(outcome) => outcome.map(|outcome| Outcome { outcome }).map_err(error::failed),
            None => Err(PyTimeoutError::new_err("the migration has not ended yet")),
        }
    }

    /// Figures of the migration as plain values.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json(py, &self.incoming.report().to_json())
    }
}

/// A JSON text of ours as Python's own values.
pub(crate) fn json<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (text,))
}

//! What a migration did when: for drawing it afterwards, all ranks side by side.

use xfer_transport_core::Time;

use crate::report::Report;

/// One migration as one side saw it, in time. All times are of that side's endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// The rank that was to leave.
    pub source: u32,
    /// Its phases in order: name, beginning, end.
    pub phases: Vec<(&'static str, Time, Time)>,
    /// The items that were on their way, in the order in which they left (at the source) or landed (at a target).
    pub trips: Vec<Trip>,
}

/// One item's way.
#[derive(Debug, Clone, PartialEq)]
pub struct Trip {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: &'static str,
    /// The rank that it goes to.
    pub to: u32,
    /// Its bytes.
    pub bytes: u64,
    /// When its first byte was asked to leave; none at a target, which can't tell.
    pub left: Option<Time>,
    /// When it was known to be there, verified; none if that was never heard.
    pub landed: Option<Time>,
}

/// A migration that has ended here, or that can't be decided.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What it did, in figures.
    pub report: Report,
    /// And when.
    pub trace: Trace,
}

impl Ended {
    /// Whether it ended otherwise than anybody wished: lost work, or nobody knows.
    pub fn is_failure(&self) -> bool {
        !matches!(self.report.verdict, Some("handoff" | "withdrawn"))
    }
}

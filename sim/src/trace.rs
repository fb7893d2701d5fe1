//! What happened in a run, one event a line, in columns.

use std::fmt;

use xfer_transport_core::{PeerId, Time};

/// Explains the columns; printed above a trace.
pub const LEGEND: &str = "\
# ms     virtual time since the beginning of the run, in milliseconds
# who    rank.life of the process, `store`, or `world` for what is done to all of it
# what   fault: something goes wrong  user: what a program asks for  say, hear: session messages  event: what the
#        user of a session is told  link: connections  xfer: transfers  mem: granted memory  store: requests, answers
#        and what the store holds  check: a promise that was looked at  end: how the run ended
";

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A process of the job.
    Process(PeerId),
    /// The process that hosts the store.
    Store,
    /// Nobody in particular.
    World,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(id) => f.pad(&format!("{}.{}", id.rank, id.incarnation)),
            Self::Store => f.pad("store"),
            Self::World => f.pad("world"),
        }
    }
}

/// One line of a trace.
#[derive(Debug, Clone)]
pub struct Line {
    /// When, in virtual time.
    pub at: Time,
    /// Who.
    pub who: Who,
    /// Which kind of event; see [`LEGEND`].
    pub what: &'static str,
    /// The event in words.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at.as_nanos() as f64 / 1e6;
        write!(f, "{ms:>12.3}  {:<6}  {:<6}  {}", self.who, self.what, self.text)
    }
}

/// Keeps lines when somebody wants to read them.
#[derive(Debug, Default)]
pub struct Trace {
    keeps: bool,
    lines: Vec<Line>,
}

impl Trace {
    /// A trace that keeps its lines, or one that costs nothing.
    pub fn new(keeps: bool) -> Self {
        Self { keeps, lines: Vec::new() }
    }

    /// Adds a line; `text` is only asked for when lines are kept.
    pub fn add(&mut self, at: Time, who: Who, what: &'static str, text: impl FnOnce() -> String) {
        if self.keeps {
            self.lines.push(Line { at, who, what, text: text() });
        }
    }

    /// What was kept.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

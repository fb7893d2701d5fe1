//! What a search covers: who takes part, what may go wrong, and in how small steps.

use std::fmt;
use std::time::Duration;

/// One job to search.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What it is called on the command line.
    pub name: &'static str,
    /// How many ranks leave at the same time: one or two.
    pub sources: usize,
    /// Whether each source also has an item that can be computed again from one of the other target.
    pub recomputable: bool,
    /// What is left until the sources' deadline when the search begins.
    pub time_left: Duration,
    /// How often each thing may go wrong, or otherwise than usual.
    pub may: Budget,
    /// Whether each message is a step of its own. Otherwise messages arrive at once where nothing is lost.
    pub message_steps: bool,
    /// Whether memory, digests and fences take a step each. Otherwise they are done at once.
    pub work_steps: bool,
    /// Whether the end of each write is a step of its own.
    pub write_steps: bool,
    /// A mistake to make on purpose.
    pub mistake: Option<Mistake>,
}

/// How often each thing may happen in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Processes that die.
    pub crashes: u8,
    /// Connections that are lost: everything later in that direction, or the store's answer to one request.
    pub losses: u8,
    /// Writes that arrive with other bytes than they left with.
    pub damages: u8,
    /// Writes that fail, and may be tried again.
    pub failed_writes: u8,
    /// Notices that are withdrawn.
    pub withdrawals: u8,
    /// Targets that are told to leave, too.
    pub leaving_targets: u8,
    /// Generations that a stranger makes on the same base.
    pub overtakes: u8,
    /// Attempts that a source makes after it was overtaken or has stayed.
    pub retries: u8,
}

/// A mistake that the search must find; without these, "no violation" would mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The store writes a generation whatever it holds.
    StoreWithoutCompare,
    /// A target says that its memory is fenced, and it isn't.
    FenceThatDoesNotHold,
    /// A target takes bytes for verified without looking at them.
    UnverifiedBytes,
    /// Nobody hears of generations unless it proposed itself.
    DeafWatchers,
    /// Timers never run.
    StoppedClock,
}

impl Setting {
    /// The settings that are searched by default, the smallest first: one source in smaller and smaller steps, then two
    /// sources in large ones.
    pub fn all() -> Vec<Self> {
        vec![Self::small(), Self::writes(), Self::one_source(), Self::two_sources()]
    }

    /// The setting of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|setting| setting.name == name)
    }

    /// One source, and few things that go wrong: seconds, for every test run.
    pub fn small() -> Self {
        Self {
            name: "small",
            sources: 1,
            recomputable: false,
            time_left: Duration::from_secs(30),
            may: Budget { crashes: 1, ..Budget::default() },
            message_steps: false,
            work_steps: false,
            write_steps: false,
            mistake: None,
        }
    }

    /// One source whose writes end one by one, late, damaged, or not at all.
    pub fn writes() -> Self {
        Self {
            name: "writes",
            may: Budget { crashes: 1, damages: 1, ..Budget::default() },
            write_steps: true,
            ..Self::small()
        }
    }

    /// One source, everything in steps of its own.
    pub fn one_source() -> Self {
        Self {
            name: "one-source",
            may: Budget { crashes: 2, losses: 2, withdrawals: 1, ..Budget::default() },
            message_steps: true,
            work_steps: true,
            write_steps: true,
            ..Self::small()
        }
    }

    /// Two sources that leave at the same time, towards the same two targets.
    pub fn two_sources() -> Self {
        Self {
            name: "two-sources",
            sources: 2,
            may: Budget { crashes: 2, losses: 2, withdrawals: 1, retries: 1, ..Budget::default() },
            ..Self::small()
        }
    }

    /// The same, with `mistake`.
    #[must_use]
    pub fn with(self, mistake: Mistake) -> Self {
        Self { mistake: Some(mistake), ..self }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Budget { crashes, losses, damages, failed_writes, withdrawals, leaving_targets, overtakes, retries } =
            self.may;
        write!(f, "{} of 2 sources and 2 targets, one store", self.sources)?;
        for (count, what) in [
            (crashes, "crashes"),
            (losses, "losses"),
            (damages, "damaged writes"),
            (failed_writes, "failed writes"),
            (withdrawals, "notices withdrawn"),
            (leaving_targets, "targets that leave"),
            (overtakes, "generations of strangers"),
            (retries, "further attempts"),
        ] {
            if count > 0 {
                write!(f, ", at most {count} {what}")?;
            }
        }
        let steps = [(self.message_steps, "message"), (self.work_steps, "local job"), (self.write_steps, "write")];
        let steps: Vec<&str> = steps.iter().filter(|(own, _)| *own).map(|(_, what)| *what).collect();
        if steps.is_empty() { Ok(()) } else { write!(f, "; a step for each {}", steps.join(", each ")) }
    }
}

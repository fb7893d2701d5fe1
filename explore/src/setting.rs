//! What a search covers: who takes part, what may go wrong, and in how small steps.

use std::fmt;
use std::time::Duration;

/// What is left until the sources' deadline when an attempt begins.
pub const TIME_LEFT: Duration = Duration::from_secs(30);

/// One job to search.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What it is called on the command line.
    pub name: &'static str,
    /// How many ranks leave at the same time: one or two.
    pub sources: usize,
    /// Whether each source also has an item that can be computed again from one of the other target.
    pub recomputable: bool,
    /// How often each thing may go wrong, or otherwise than usual.
    pub may: Budget,
    /// Whether each message is a step of its own. Otherwise messages arrive at once where nothing is lost.
    pub message_steps: bool,
    /// Whether memory, digests and fences take a step each. Otherwise they are done at once.
    pub work_steps: bool,
    /// Whether the end of each write is a step of its own.
    pub write_steps: bool,
    /// Whether the second source is whatever it may be: all that it could do to this hand-over can happen at any time.
    pub beside: bool,
    /// Whether targets keep what has landed for another attempt, which is made towards those that are left.
    pub keeps: bool,
    /// Whether states that go on alike are one state.
    pub reduced: bool,
    /// After how many states a search of it ends, unless told otherwise.
    pub states_max: usize,
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
    /// Moments between the timers of a hand-over at which another one's timer is due.
    pub stops: u8,
}

impl Budget {
    const KINDS: usize = 9;

    /// Whether whatever may go wrong with `other` may go wrong with this, too.
    fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.counts(), other.counts());
        mine.iter().zip(&theirs).all(|(mine, theirs)| mine >= theirs)
    }

    fn counts(&self) -> [u8; Self::KINDS] {
        let Self { crashes, losses, damages, failed_writes, withdrawals, leaving_targets, overtakes, retries, stops } =
            *self;
        [crashes, losses, damages, failed_writes, withdrawals, leaving_targets, overtakes, retries, stops]
    }
}

/// Numbers all budgets that are left within one, and knows which of them allow whatever another one does.
#[derive(Debug)]
pub struct Budgets {
    within: Budget,
    /// For each number, the numbers of those that cover it, as bits.
    covering: Vec<u64>,
}

impl Budgets {
    /// Those within `within`, if they are few enough to have a bit each.
    pub fn new(within: Budget) -> Option<Self> {
        let count = within.counts().iter().map(|most| usize::from(*most) + 1).product::<usize>();
        if count > 64 {
            return None;
        }
        let of = |number: usize| {
            let mut rest = number;
            let mut counts = [0; Budget::KINDS];
            for (count, most) in counts.iter_mut().zip(within.counts()) {
                *count = (rest % (usize::from(most) + 1)) as u8;
                rest /= usize::from(most) + 1;
            }
            let [crashes, losses, damages, failed_writes, withdrawals, leaving_targets, overtakes, retries, stops] =
                counts;
            Budget { crashes, losses, damages, failed_writes, withdrawals, leaving_targets, overtakes, retries, stops }
        };
        let covering = |number: usize| {
            (0..count).filter(|other| of(*other).covers(&of(number))).fold(0, |bits, other| bits | 1_u64 << other)
        };
        Some(Self { within, covering: (0..count).map(covering).collect() })
    }

    /// The bit of what is left, and the bits of all that cover it, its own included.
    pub fn bits(&self, left: &Budget) -> (u64, u64) {
        let number = self
            .within
            .counts()
            .iter()
            .zip(left.counts())
            .rev()
            .fold(0, |number, (most, count)| number * (usize::from(*most) + 1) + usize::from(count));
        (1 << number, self.covering[number])
    }
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
    /// Who hears of a generation doesn't ask for those that he has missed.
    ForgottenGenerations,
    /// A source takes what targets have kept for its own bytes without looking at them.
    BelievedKept,
}

impl Setting {
    /// The settings that are searched by default, the smallest first.
    pub fn all() -> Vec<Self> {
        vec![Self::small(), Self::writes(), Self::again(), Self::beside(), Self::one_source(), Self::two_sources()]
    }

    /// The setting of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|setting| setting.name == name)
    }

    /// One source, in steps as large as they can be.
    pub fn small() -> Self {
        Self {
            name: "small",
            sources: 1,
            recomputable: false,
            may: Budget { crashes: 2, losses: 2, ..Budget::default() },
            message_steps: false,
            work_steps: false,
            write_steps: false,
            beside: false,
            keeps: false,
            reduced: true,
            states_max: 4_000_000,
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

    /// One source that tries again: a target dies, refuses, or the notice is withdrawn, at any moment of the first attempt, and what
    /// has landed until then stays where it is.
    pub fn again() -> Self {
        Self {
            name: "again",
            keeps: true,
            may: Budget { crashes: 1, leaving_targets: 1, retries: 1, ..Budget::default() },
            ..Self::writes()
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

    /// One source, while another one leaves at the same time towards the same two targets: it may do whatever it can do
    /// to this one, which is more than it would. So this is about two sources, each of which is this one.
    pub fn beside() -> Self {
        Self {
            name: "beside",
            beside: true,
            states_max: 20_000_000,
            may: Budget { crashes: 2, losses: 2, overtakes: 1, stops: 2, ..Budget::default() },
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
        let Budget { crashes, losses, damages, failed_writes, withdrawals, leaving_targets, overtakes, retries, stops } =
            self.may;
        match (self.sources, self.beside) {
            (2, _) => write!(f, "2 sources, 2 targets, a store")?,
            (_, false) => write!(f, "1 source, 2 targets, a store")?,
            (_, true) => write!(f, "1 source beside whatever another one does, 2 targets, a store")?,
        }
        for (count, what) in [
            (crashes, "crashes"),
            (losses, "losses"),
            (damages, "damaged writes"),
            (failed_writes, "failed writes"),
            (withdrawals, "notices withdrawn"),
            (leaving_targets, "targets that leave"),
            (overtakes, "generations of strangers"),
            (retries, "further attempts"),
            (stops, "timers of others"),
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

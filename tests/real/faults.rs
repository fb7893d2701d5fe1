//! What is done to the processes of a job, by signals, orders and limits.

use rustix::process::Signal;

use crate::job::{Job, OTHER, SOURCE, Setup, TARGET};
use crate::net::Net;
use crate::table::Step;
use crate::{Outcome, WAIT};

/// Whom it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Source,
    Target,
    Store,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Part),
    /// SIGSTOP, and SIGCONT once the others have declared it dead and the migration has ended without it.
    Zombie(Part),
    /// Everybody stops for longer than a silent peer may, and goes on.
    Freeze,
    /// Twice as many busy threads as processors, in each process.
    Starve,
    /// SIGTERM, and another one; a signal is a notice, and the second changes nothing.
    SecondTerm,
    /// SIGTERM, then SIGKILL.
    TermThenKill,
    /// A target has to leave, too.
    TargetNotice,
    /// A target has less memory than is offered.
    NoRoom,
    /// The notice is taken back.
    Withdraw,
    /// The deadline comes at once.
    DeadlineNow,
    /// The target may open no further file.
    FilesUsedUp,
    /// The target starts with too few files to work with.
    FewFiles,
    /// The source's memory changes while it is sent.
    SourceChanges,
    /// On the connections.
    Net(Net),
    /// The target's settings are of another job.
    OtherJob,
}

impl Fault {
    /// What has to be different from the start.
    pub fn setup(self) -> Setup {
        let mut setup = Setup::default();
        match self {
            Self::NoRoom => setup.target_arguments.push("memory=1000000".into()),
            Self::FewFiles => setup.target_arguments.push("files=8".into()),
            Self::OtherJob => setup.target_environment.push(("XFER_JOB", "another".into())),
            _ => {}
        }
        setup
    }

    /// Does it to `job`, which stands at `step`, and waits until it is felt.
    pub fn inject(self, job: &mut Job, step: Step) -> Outcome<()> {
        match self {
            Self::Kill(part) => kill(job, part, step),
            Self::Zombie(part) => zombie(job, part, step),
            Self::Freeze => freeze(job),
            Self::Starve => job.together("burn 3000"),
            Self::SecondTerm => terminate(job),
            Self::TermThenKill => {
                terminate(job)?;
                kill(job, Part::Source, step)
            }
            Self::TargetNotice => {
                job.rank(TARGET).ask("notice 60000")?;
                job.rank(TARGET).ask(&format!("await notice 0 {}", WAIT.as_millis())).map(drop)
            }
            Self::Withdraw => {
                job.rank(SOURCE).ask("withdraw")?;
                job.rank(SOURCE).ask(&format!("await outcome 0 {}", WAIT.as_millis())).map(drop)
            }
            Self::DeadlineNow => {
                job.rank(SOURCE).ask("deadline 100")?;
                // Before the cut, what is offered within these milliseconds could still make it.
                match step {
                    Step::Notice | Step::Bulk => {
                        job.rank(OTHER).ask(&format!("await outcome 0 {}", WAIT.as_millis())).map(drop)
                    }
                    _ => Ok(()),
                }
            }
            Self::FilesUsedUp => job.rank(TARGET).ask("files").map(drop),
            Self::SourceChanges => job.rank(SOURCE).ask("change").map(drop),
            Self::Net(net) => net.inject(job, step),
            // In force from the start.
            Self::NoRoom | Self::FewFiles | Self::OtherJob => Ok(()),
        }
    }

    /// What is undone once the others have come to their end.
    pub fn lift(self, job: &mut Job) -> Outcome<bool> {
        match self {
            Self::Zombie(part) => {
                process(job, part)?.signal(Signal::CONT)?;
                Ok(true)
            }
            Self::Net(net) => Ok(net.lift(job)),
            _ => Ok(false),
        }
    }
}

fn rank_of(part: Part) -> Option<u32> {
    match part {
        Part::Source => Some(SOURCE),
        Part::Target => Some(TARGET),
        Part::Store => None,
    }
}

fn process(job: &mut Job, part: Part) -> Outcome<&mut crate::job::Process> {
    match rank_of(part) {
        Some(rank) => Ok(job.rank(rank)),
        None => Ok(&mut job.store.as_mut().ok_or("there is no store")?.process),
    }
}

fn kill(job: &mut Job, part: Part, step: Step) -> Outcome<()> {
    process(job, part)?.signal(Signal::KILL)?;
    match rank_of(part) {
        Some(rank) if step != Step::Handshake => noticed(job, rank, step),
        // Without a store, nobody can end it before the deadline.
        None => job.rank(SOURCE).ask("deadline 500").map(drop),
        _ => Ok(()),
    }
}

fn zombie(job: &mut Job, part: Part, step: Step) -> Outcome<()> {
    process(job, part)?.signal(Signal::STOP)?;
    match rank_of(part) {
        Some(rank) if step != Step::Handshake => noticed(job, rank, step),
        _ => Ok(()),
    }
}

/// Waits until everybody else takes `rank` for dead. At the commit, the source is the one who may act on it: it is given the time.
fn noticed(job: &mut Job, rank: u32, step: Step) -> Outcome<()> {
    for other in [OTHER, SOURCE, TARGET] {
        if job.rank(other).is_there() {
            job.rank(other).ask(&format!("await down {rank} {}", WAIT.as_millis()))?;
        }
    }
    if step == Step::Commit && job.rank(SOURCE).is_there() {
        job.rank(SOURCE).ask(&format!("await outcome 0 {}", WAIT.as_millis()))?;
    }
    Ok(())
}

fn freeze(job: &mut Job) -> Outcome<()> {
    /// Longer than the silence at which a peer is dead.
    const FROZEN: std::time::Duration = std::time::Duration::from_secs(5);

    job.ranks.iter_mut().try_for_each(|rank| rank.signal(Signal::STOP))?;
    // The fault is the passing of time itself.
    std::thread::sleep(FROZEN);
    job.ranks.iter_mut().try_for_each(|rank| rank.signal(Signal::CONT))
}

fn terminate(job: &mut Job) -> Outcome<()> {
    job.rank(SOURCE).ask("watch 60000")?;
    job.rank(SOURCE).signal(Signal::TERM)?;
    job.rank(SOURCE).ask(&format!("await notice 0 {}", WAIT.as_millis()))?;
    job.rank(SOURCE).signal(Signal::TERM)
}

//! What is done to the processes of a job, by signals, orders and limits.

use std::net::TcpListener;

use rustix::process::Signal;
use xfer_faults::{Over, Step};

use crate::clock;
use crate::job::{Job, OTHER, SOURCE, Setup, TARGET};
use crate::namespaces::{self, Namespaces};
use crate::net::{Net, gone};
use crate::rdma::{self, Rdma};
use crate::{Outcome, WAIT, shared};

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
    /// On RDMA devices and what is between them.
    Rdma(Rdma),
    /// A thread that does the work of a step panics.
    WorkerPanics,
    /// The target's address is somebody else's.
    PortTaken,
    /// The target gets no more memory from the system.
    NoMemory,
    /// The source offers something to a rank that takes nothing over.
    WrongLayout,
    /// Wall clocks jump by an hour, to either side.
    ClocksJump,
    /// The target stops while it may read the source, which takes the notice back.
    TargetStopped,
    /// The source writes garbage over the memory that it shows the target.
    Scribble,
    /// The source's connections over shared memory end.
    SharedBreaks,
    /// The source's link is down.
    LinkDown,
    /// The source's way to the store leads nowhere.
    StoreUnreachable,
    /// The source's link is shaped to a fraction of what it has to carry.
    LinkShaped,
    /// The target's settings are of another job.
    OtherJob,
    /// The disk of the store's journal is full when it writes next; it ends, and is started again.
    JournalFull,
}

impl Fault {
    /// What has to be different from the start.
    pub fn setup(self) -> Outcome<Setup> {
        let mut setup = Setup::default();
        match self {
            Self::NoRoom => setup.target_arguments.push("memory=1000000".into()),
            Self::FewFiles => setup.target_arguments.push("files=8".into()),
            Self::OtherJob => setup.target_environment.push(("XFER_JOB", "another".into())),
            Self::ClocksJump => setup.clocks = true,
            Self::JournalFull => setup.journal = true,
            Self::Scribble => setup.in_rings = true,
            // Where the limit is 0 from the start, nothing would ever go by RDMA.
            Self::Rdma(Rdma::PinsUsedUp) => setup.target_arguments.push("pins=limited".into()),
            Self::PortTaken => {
                let taken = TcpListener::bind("127.0.0.1:0")?;
                setup.target_environment.push(("XFER_BIND", taken.local_addr()?.to_string()));
                setup.taken = Some(taken);
            }
            _ => {}
        }
        Ok(setup)
    }

    /// Why it can't be staged on this machine, if so.
    pub fn missing(self, over: Over) -> Option<String> {
        match self {
            _ if over == Over::Verbs => rdma::missing(),
            Self::ClocksJump => clock::missing(),
            Self::Scribble | Self::SharedBreaks => shared::missing(),
            Self::LinkDown | Self::StoreUnreachable | Self::LinkShaped => namespaces::missing(),
            _ => None,
        }
    }

    /// Whether it is done to connections, so that all of them have to lead through a proxy.
    pub fn is_on_the_wire(self) -> bool {
        matches!(self, Self::Net(_))
    }

    /// Whether source and target take each other for dead, while both live and reach the store.
    pub fn parts(self, step: Step) -> bool {
        matches!(self, Self::Net(net) if net.parts()) && step != Step::Handshake
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
            Self::Rdma(rdma) => rdma.inject(job, step),
            Self::WorkerPanics => worker_panics(job, step),
            Self::NoMemory => job.rank(TARGET).ask(&format!("memory {SPARE_BYTES}")).map(drop),
            Self::WrongLayout => wrong_layout(job, step),
            Self::ClocksJump => clock::jump(job),
            Self::Scribble => shared::scribble(job),
            Self::SharedBreaks => shared::break_connections(job),
            Self::TargetStopped => target_stopped(job),
            Self::LinkDown => {
                namespaces(job)?.lower(SOURCE)?;
                cut_off(job, step)
            }
            Self::StoreUnreachable => {
                namespaces(job)?.blackhole_store(SOURCE)?;
                job.unknowing = Some(SOURCE);
                Ok(())
            }
            Self::LinkShaped => {
                namespaces(job)?.shape(SOURCE, SHAPED_BITS_PER_S)?;
                job.rank(SOURCE).ask("deadline 3000").map(drop)
            }
            Self::JournalFull => job.store.as_mut().ok_or("there is no store")?.fill_disk(),
            // In force from the start.
            Self::NoRoom | Self::FewFiles | Self::OtherJob | Self::PortTaken => Ok(()),
        }
    }

    /// What is undone once the others have come to their end.
    pub fn lift(self, job: &mut Job) -> Outcome<bool> {
        match self {
            Self::Zombie(part) => {
                process(job, part)?.signal(Signal::CONT)?;
                Ok(true)
            }
            Self::TargetStopped => {
                job.rank(TARGET).signal(Signal::CONT)?;
                Ok(true)
            }
            Self::LinkDown => namespaces(job)?.raise(SOURCE).map(|()| true),
            Self::StoreUnreachable => namespaces(job)?.unhole_store(SOURCE).map(|()| true),
            Self::Net(net) => Ok(net.lift(job)),
            Self::Rdma(rdma) => rdma.lift(job),
            _ => Ok(false),
        }
    }
}

/// What the largest item has, and a little more.
const ITEM_BYTES_MAX: u64 = (4 << 20) + 8192;

/// Less than an item has, enough for everything else.
const SPARE_BYTES: u64 = 2 << 20;

/// A hundredth of what the job would need until its deadline.
const SHAPED_BITS_PER_S: u64 = 800_000;

fn namespaces(job: &Job) -> Outcome<&Namespaces> {
    Ok(job.namespaces.as_ref().ok_or("the job has no networks of its own")?)
}

/// Waits until the source and everybody else have given each other up.
pub fn cut_off(job: &mut Job, step: Step) -> Outcome<()> {
    gone(job, step, &[(OTHER, SOURCE), (TARGET, SOURCE), (SOURCE, TARGET)])
}

/// The next work of the step panics at the target: where it allocates, verifies, or proposes.
fn worker_panics(job: &mut Job, step: Step) -> Outcome<()> {
    let moment = match step {
        Step::Notice => "register",
        Step::Commit => "propose",
        _ => "verify",
    };
    job.pauses.break_at(TARGET, moment);
    Ok(())
}

/// The source is told by name that rank 3 takes nothing over, and nothing else changes.
fn wrong_layout(job: &mut Job, step: Step) -> Outcome<()> {
    let said = job.rank(SOURCE).try_ask("offer elsewhere")?;
    match said["error"].as_str() {
        Some(error) if error.contains("rank 3") => Ok(()),
        _ => Err(format!("at {step}, something for a rank that takes nothing over was answered {said}").into()),
    }
}

/// The source wants its memory back, and who may read it doesn't answer: it gets no proof, and must say so.
fn target_stopped(job: &mut Job) -> Outcome<()> {
    job.rank(TARGET).signal(Signal::STOP)?;
    // So much that some of it must be on its way to the target, whatever the other one has taken.
    let sent = job.rank(SOURCE).ask("report")?["sent_bytes"].as_u64().ok_or("nothing is counted")?;
    job.rank(SOURCE).ask("limit off")?;
    job.rank(SOURCE).ask(&format!("await sent {} {}", sent + ITEM_BYTES_MAX, WAIT.as_millis()))?;
    job.rank(SOURCE).ask("withdraw")?;
    job.rank(SOURCE).ask(&format!("await quarantined 1 {}", WAIT.as_millis())).map(drop)
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
    if part == Part::Store && step == Step::Release {
        // Who has heard what is true keeps to it.
        for rank in [SOURCE, OTHER, TARGET] {
            job.rank(rank).ask(&format!("await outcome 0 {}", WAIT.as_millis()))?;
        }
        job.last_record = job.generation()?;
    }
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

//! Two RDMA devices and the cable between them, and what is done to both. There are such on the machine that `make test-rdma` makes.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::faults::Fault;
use crate::job::{Job, SOURCE, TARGET};
use crate::{Outcome, WAIT};
use xfer_faults::Step;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rdma {
    /// Packets of RDMA get lost, all of them, and nothing else does.
    PacketsLost,
    /// The same for a moment: shorter than it takes to give up.
    Hiccup,
    /// The cable does to packets, of RDMA and of TCP, what the words say that `tc` takes for netem.
    Netem(&'static str),
    /// The source's end lets through a fraction of what the job needs.
    Shaped,
    /// The target may pin no more memory.
    PinsUsedUp,
}

impl Rdma {
    /// Whether it is done to what all jobs of the machine share.
    fn is_of_the_machine(self) -> bool {
        self != Self::PinsUsedUp
    }

    pub fn inject(self, job: &mut Job, step: Step) -> Outcome<()> {
        if self == Self::Hiccup {
            // So that something is on its way all the time.
            job.rank(SOURCE).ask("limit 8000000")?;
        }
        let machine = job.rdma.as_ref().ok_or("the job has no RDMA devices")?;
        match self {
            Self::PacketsLost => machine.cable("deaf")?,
            Self::Hiccup => {
                machine.cable("deaf")?;
                // The fault is the passing of time itself: less than the retries of a request take.
                std::thread::sleep(std::time::Duration::from_millis(50));
                return machine.cable("mend");
            }
            Self::Netem(words) => return machine.shape(&format!("netem {words} limit 100000")),
            Self::Shaped => {
                machine.shape("tbf rate 800kbit burst 16kb latency 400ms")?;
                return job.rank(SOURCE).ask("deadline 3000").map(drop);
            }
            // What it has pinned stays so; what comes later is memory that it has not.
            Self::PinsUsedUp => return no_more_pins(job.rank(TARGET).pid()),
        }
        carried_otherwise(job, step)
    }

    /// What is undone once the others have come to their end.
    pub fn lift(self, job: &mut Job) -> Outcome<bool> {
        let machine = job.rdma.as_ref().ok_or("the job has no RDMA devices")?;
        machine.restore().map(|()| false)
    }
}

/// Waits until something has gone the other way: a fault that nobody has met proves nothing.
fn carried_otherwise(job: &mut Job, step: Step) -> Outcome<()> {
    if !matches!(step, Step::Bulk | Step::Delta) {
        return Ok(());
    }
    job.rank(SOURCE).ask("limit off")?;
    job.rank(SOURCE).ask(&format!("await over_tcp 1 {}", WAIT.as_millis())).map(drop)
}

/// The devices of this machine, as a job has them: alone, if something is to be done to them.
pub struct Machine {
    ends: [End; 2],
    /// Whether no other job uses them meanwhile.
    alone: bool,
    /// Held as long as the job lives.
    _lock: File,
}

/// One device, at its end of the cable.
struct End {
    net: String,
    ip: IpAddr,
}

impl End {
    /// As the machine's environment names it.
    fn named(letter: char) -> Option<Self> {
        let variable = |what: &str| std::env::var(format!("RDMA_{what}_{letter}")).ok();
        Some(Self { net: variable("NET")?, ip: variable("IP")?.parse().ok()? })
    }
}

/// Why there are none, if so.
pub fn missing() -> Option<String> {
    match ['A', 'B'].map(End::named) {
        [Some(_), Some(_)] => None,
        _ => Some(
            "no two RDMA devices are named by RDMA_NET_A, RDMA_IP_A and so on: `make test-rdma` makes a machine that has them"
                .into(),
        ),
    }
}

impl Machine {
    /// Waits until no other job of this machine stands in the way of `fault`.
    pub fn take(fault: Fault) -> Outcome<Self> {
        let [Some(first), Some(second)] = ['A', 'B'].map(End::named) else { return Err("no RDMA devices".into()) };
        let lock = File::create(std::env::temp_dir().join("xfer-real-rdma.lock"))?;
        let alone = matches!(fault, Fault::Rdma(rdma) if rdma.is_of_the_machine());
        flock(&lock, if alone { FlockOperation::LockExclusive } else { FlockOperation::LockShared })?;
        Ok(Self { ends: [first, second], alone, _lock: lock })
    }

    /// Where the process of `rank` is: the source at one end, everybody else at the other.
    pub fn address(&self, rank: u32) -> SocketAddr {
        SocketAddr::new(self.ends[end_of(rank)].ip, 0)
    }

    fn cable(&self, what: &str) -> Outcome<()> {
        run("cable", &[what])
    }

    /// What leaves at either end goes through a queue of this kind.
    fn shape(&self, queue: &str) -> Outcome<()> {
        self.ends.iter().try_for_each(|end| {
            let words = ["qdisc", "replace", "dev", &end.net, "root"].into_iter().chain(queue.split(' '));
            run("tc", &words.collect::<Vec<_>>())
        })
    }

    /// Puts the cable into the state in which it was found. Who doesn't have it alone has done nothing to it.
    fn restore(&self) -> Outcome<()> {
        if !self.alone {
            return Ok(());
        }
        self.cable("mend")?;
        self.cable("up")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // After a test that failed; the failure is what counts.
        let _ = self.restore();
    }
}

fn end_of(rank: u32) -> usize {
    usize::from(rank == SOURCE)
}

fn run(program: &str, words: &[&str]) -> Outcome<()> {
    let said = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err(format!("{program} {words:?}: {}", String::from_utf8_lossy(&said.stderr).trim()).into())
}

/// Gives up the right to pin without a limit, which root has; for a process that has one thread so far.
pub fn pin_within_limits() -> Outcome<()> {
    let now = capabilities(None)?;
    let without = |set: CapabilitySet| set.difference(CapabilitySet::IPC_LOCK);
    let sets = CapabilitySets { effective: without(now.effective), permitted: without(now.permitted), ..now };
    Ok(set_capabilities(None, sets)?)
}

/// From now on the process can't pin another page.
fn no_more_pins(pid: u32) -> Outcome<()> {
    let pid = Pid::from_raw(pid as i32).ok_or("a process without a number")?;
    prlimit(Some(pid), Resource::Memlock, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

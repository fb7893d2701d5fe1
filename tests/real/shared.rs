//! What a peer of the same machine can do to shared memory and to the sockets that go with it, done to it from outside.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};

use crate::job::{Job, SOURCE, TARGET};
use crate::{Outcome, WAIT};

/// What a link's ring has; the arena is larger.
const RING_BYTES: u64 = 1 << 20;

/// So slow that the transfer outlasts many pauses, and so fast that some chunk is in a ring at the end of each.
const LIMIT: &str = "limit 2000000";

/// How long the target stands still, far from being declared dead, and how long it runs in between.
const PAUSE: Duration = Duration::from_millis(50);

/// The source writes garbage over its rings, again and again, until the target has met it.
pub fn scribble(job: &mut Job) -> Outcome<()> {
    let (source, target) = (job.rank(SOURCE).pid(), job.rank(TARGET).pid());
    let memory = OpenOptions::new().write(true).open(format!("/proc/{source}/mem"))?;
    let target = Pid::from_raw(target as i32).ok_or("a process without a number")?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scribbler = scope.spawn(|| scribble_until(&over, &memory, source, target));
        let met = job.rank(SOURCE).ask(LIMIT);
        let met = met.and_then(|_| job.rank(TARGET).ask(&format!("await damaged 1 {}", WAIT.as_millis())));
        over.store(true, Ordering::SeqCst);
        scribbler.join().map_err(|_| "the scribbler panicked")??;
        met.map(drop)
    })
}

/// A target that runs may have copied a chunk before anybody comes to scribble on it: it stands still meanwhile.
fn scribble_until(over: &AtomicBool, memory: &File, source: u32, target: Pid) -> std::io::Result<()> {
    let garbage = vec![0x5a; RING_BYTES as usize];
    while !over.load(Ordering::SeqCst) {
        kill_process(target, Signal::STOP)?;
        thread::sleep(PAUSE);
        // A link makes its ring when it first has to.
        let scribbled =
            rings(source).and_then(|rings| rings.iter().try_for_each(|at| memory.write_all_at(&garbage, *at)));
        kill_process(target, Signal::CONT)?;
        scribbled?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Where the rings of a process lie, those that it writes itself.
fn rings(pid: u32) -> std::io::Result<Vec<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let ring = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        (rest.starts_with("rw-s") && rest.contains("memfd:xfer") && end - start == RING_BYTES).then_some(start)
    };
    Ok(maps.lines().filter_map(ring).collect())
}

/// All connections of the source over shared memory end, while its process lives.
pub fn break_connections(job: &mut Job) -> Outcome<()> {
    let number = job.rank(SOURCE).pid();
    let pid = Pid::from_raw(number as i32).ok_or("a process without a number")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut broken = 0;
    for entry in std::fs::read_dir(format!("/proc/{number}/fd"))? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A descriptor that was closed since is nobody's connection.
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let is_unix = socket_domain(&socket) == Ok(AddressFamily::UNIX) && socket_acceptconn(&socket) == Ok(false);
        if is_unix && shutdown(&socket, Shutdown::Both).is_ok() {
            broken += 1;
        }
    }
    if broken == 0 {
        return Err("the source has no connection over shared memory".into());
    }
    Ok(())
}

/// Why nobody can reach into a process here, if so.
pub fn missing() -> Option<String> {
    // As a test would: a process that this one has started.
    let mut child = std::process::Command::new("sleep").arg("60").spawn().ok()?;
    let opened = OpenOptions::new().write(true).open(format!("/proc/{}/mem", child.id()));
    let _ = child.kill();
    let _ = child.wait();
    opened.err().map(|error| format!("the memory of another process can't be written here ({error})"))
}

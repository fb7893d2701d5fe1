//! A network of its own for each process of a job: namespaces joined by pairs of virtual links, where the system lets us make them.
//!
//! ```text
//! hub (the store)  10.77.0.1 ── 10.77.0.2  rank 0
//!                  10.77.1.1 ── 10.77.1.2  rank 1
//!                  10.77.2.1 ── 10.77.2.2  rank 2
//! ```
//!
//! The hub routes. All addresses are the same in every job, since nobody outside sees them.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Outcome;
use crate::job::SOURCE;

/// The namespaces of one job. They are removed with it, and those of a test that was killed by the next test.
pub struct Namespaces {
    /// The hub's, and one for each rank.
    names: Vec<String>,
}

/// Names begin so, and go on with the number of the process that made them.
const PREFIX: &str = "xfer-real-";

/// Why there can be none, if so.
pub fn missing() -> Option<String> {
    let probe = Namespaces { names: vec![unique("probe")] };
    let made = ip(&["netns", "add", &probe.names[0]]).and_then(|()| {
        ip(&["-n", &probe.names[0], "link", "add", "probe", "type", "veth", "peer", "name", "eborp"])?;
        tc(&[
            "-n",
            &probe.names[0],
            "qdisc",
            "add",
            "dev",
            "probe",
            "root",
            "tbf",
            "rate",
            "1mbit",
            "burst",
            "16kb",
            "latency",
            "1s",
        ])
    });
    made.err().map(|error| format!("network namespaces can't be made here ({error})"))
}

impl Namespaces {
    pub fn start() -> Outcome<Self> {
        sweep();
        let made = Self { names: ["hub", "rank0", "rank1", "rank2"].map(unique).into() };
        for name in &made.names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        for rank in 0..3 {
            let (hub, of_rank) = (made.store(), made.rank(rank));
            let there = format!("to{rank}");
            ip(&["-n", hub, "link", "add", &there, "type", "veth", "peer", "name", "up", "netns", of_rank])?;
            ip(&["-n", hub, "address", "add", &format!("10.77.{rank}.1/24"), "dev", &there])?;
            ip(&["-n", of_rank, "address", "add", &format!("10.77.{rank}.2/24"), "dev", "up"])?;
            ip(&["-n", hub, "link", "set", "dev", &there, "up"])?;
            made.raise(rank)?;
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        ip(&["netns", "exec", made.store(), "sh", "-c", forward])?;
        Ok(made)
    }

    pub fn store(&self) -> &str {
        &self.names[0]
    }

    pub fn rank(&self, rank: u32) -> &str {
        &self.names[1 + rank as usize]
    }

    /// Where the process of `rank` listens: nobody else is there to have the port.
    pub fn address(rank: u32) -> SocketAddr {
        SocketAddr::from(([10, 77, rank as u8, 2], 4100))
    }

    /// Where the store listens: at the hub's end of the source's link.
    pub fn store_address() -> SocketAddr {
        SocketAddr::from(([10, 77, SOURCE as u8, 1], 4000))
    }

    /// The link of `rank` goes down, as if its cable were pulled.
    pub fn lower(&self, rank: u32) -> Outcome<()> {
        ip(&["-n", self.rank(rank), "link", "set", "dev", "up", "down"])
    }

    /// It is up again, with the route that went with it.
    pub fn raise(&self, rank: u32) -> Outcome<()> {
        ip(&["-n", self.rank(rank), "link", "set", "dev", "up", "up"])?;
        ip(&["-n", self.rank(rank), "route", "replace", "default", "via", &format!("10.77.{rank}.1")])
    }

    /// What `rank` sends to the store gets nowhere, and it is not told so.
    pub fn blackhole_store(&self, rank: u32) -> Outcome<()> {
        let store = format!("{}/32", Self::store_address().ip());
        ip(&["-n", self.rank(rank), "route", "add", "blackhole", &store])
    }

    pub fn unhole_store(&self, rank: u32) -> Outcome<()> {
        let store = format!("{}/32", Self::store_address().ip());
        ip(&["-n", self.rank(rank), "route", "del", "blackhole", &store])
    }

    /// `rank` sends no more than `bits_per_s`.
    pub fn shape(&self, rank: u32, bits_per_s: u64) -> Outcome<()> {
        let rate = format!("{bits_per_s}bit");
        let shaper = ["qdisc", "add", "dev", "up", "root", "tbf", "rate", &rate, "burst", "16kb", "latency", "400ms"];
        tc(&[&["-n", self.rank(rank)], &shaper[..]].concat())
    }

    /// Removes them, and sees that they are gone.
    pub fn end(mut self) -> Outcome<()> {
        let names = std::mem::take(&mut self.names);
        names.iter().try_for_each(|name| ip(&["netns", "del", name]))?;
        let left = existing()?;
        match names.iter().find(|name| left.contains(name)) {
            Some(name) => Err(format!("the namespace {name} is left").into()),
            None => Ok(()),
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // After a test that failed; the failure is what counts.
        self.names.iter().for_each(|name| _ = ip(&["netns", "del", name]));
    }
}

fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes what tests left that were killed.
fn sweep() {
    for name in existing().unwrap_or_default() {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            // Another test may be about it, too.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn existing() -> Outcome<Vec<String>> {
    let said = Command::new("ip").args(["netns", "list"]).output()?;
    let text = String::from_utf8_lossy(&said.stdout);
    Ok(text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect())
}

fn ip(words: &[&str]) -> Outcome<()> {
    run(Command::new("ip").args(words))
}

fn tc(words: &[&str]) -> Outcome<()> {
    run(Command::new("tc").args(words))
}

fn run(command: &mut Command) -> Outcome<()> {
    let said = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if said.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&said.stderr).trim()).into())
}

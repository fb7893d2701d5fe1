//! `xfer chaos`: rehearses faults on a running job, whose processes are one's own and on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xfer::config::parse;
use xfer::store::{Store, host_name};
use xfer_chaos::{Callers, Faults, Proxy, ProxyError, Way};
use xfer_migrate_core::store::records::{PeerClaim, peer_key};

use crate::StoreOption;
use crate::failure::Failure;
use crate::output::{print, span};

/// Options of `xfer chaos`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Kills the process of a rank (SIGKILL): a machine that is gone.
    Kill(Whom),
    /// Stops the process of a rank (SIGSTOP), and lets it go on after a while: a machine that hangs.
    Stop {
        #[command(flatten)]
        whom: Whom,
        /// How long: 300ms is a pause that nobody minds, 3s a death and a return.
        #[arg(long = "for", value_name = "TIME", value_parser = parse::duration)]
        time: Duration,
    },
    /// Stands between a process and the others, and spoils what passes, until it is told to stop (SIGTERM, Ctrl-C).
    Proxy(ProxyOptions),
}

#[derive(Args)]
struct Whom {
    /// Whose process.
    rank: u32,
    #[command(flatten)]
    store: StoreOption,
}

#[derive(Args)]
struct ProxyOptions {
    /// Where to listen: what the process gives out as XFER_ADVERTISE, or looks for as XFER_STORE.
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Where everything goes on to: the process's XFER_BIND, or the store.
    #[arg(long, value_name = "HOST:PORT")]
    to: SocketAddr,
    /// What is done, separated by commas: delay=20ms, jitter=5ms, rate=1MB/s, stall, and with a chance from 0 to 1 for each
    /// frame: drop, duplicate, swap, flip, garble, oversize, next-version, truncate, reset (as in flip=0.001).
    #[arg(long, value_name = "FAULTS", value_parser = faults)]
    fault: Faults,
    /// Which way: in to the process, out of it, or both.
    #[arg(long, value_enum, default_value = "both")]
    way: Ways,
    /// Only on connections that this rank has opened (the higher rank of two opens).
    #[arg(long, value_name = "RANK")]
    from: Option<u32>,
    /// Waits for so long before anything is spoiled.
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "0s")]
    after: Duration,
    /// Lets everything pass again after so long; 0s for never.
    #[arg(long = "for", value_name = "TIME", value_parser = parse::duration, default_value = "0s")]
    time: Duration,
    /// Decides what is left to chance: the same seed, the same decisions for the same frames.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Ways {
    In,
    Out,
    Both,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    match &options.what {
        What::Kill(whom) => {
            let (pid, name) = process(whom)?;
            send(pid, Signal::KILL, &name)?;
            print(&format!("{name} is killed\n"));
            Ok(())
        }
        What::Stop { whom, time } => {
            let (pid, name) = process(whom)?;
            send(pid, Signal::STOP, &name)?;
            print(&format!("{name} is stopped for {}\n", span(*time)));
            std::thread::sleep(*time);
            send(pid, Signal::CONT, &name)?;
            print(&format!("{name} goes on\n"));
            Ok(())
        }
        What::Proxy(options) => proxy(options),
    }
}

/// The process of a rank, as it has told the store, if it is one of this machine.
fn process(whom: &Whom) -> Result<(Pid, String), Failure> {
    let store = crate::connect(&whom.store.config()?)?;
    let rank = whom.rank;
    let found = store.get(&peer_key(rank))?;
    let found = found.ok_or_else(|| Failure::failed(format!("no process has claimed rank {rank} in this store")))?;
    let claim = PeerClaim::decode(&found.value).map_err(Failure::failed)?;
    if claim.host != host_name() {
        let host = claim.host;
        return Err(Failure::environment(format!("rank {rank} runs on {host}; rehearse its fault there")));
    }
    let pid = i32::try_from(claim.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::failed(format!("rank {rank} claims to be process {}", claim.pid)))?;
    Ok((pid, format!("rank {rank} (process {})", claim.pid)))
}

fn send(pid: Pid, signal: Signal, name: &str) -> Result<(), Failure> {
    kill_process(pid, signal).map_err(|error| match error {
        rustix::io::Errno::PERM => Failure::environment(format!("{name} belongs to another user")),
        rustix::io::Errno::SRCH => Failure::failed(format!("{name} is gone already")),
        error => Failure::failed(format!("{name} can't be signalled: {error}")),
    })
}

fn proxy(options: &ProxyOptions) -> Result<(), Failure> {
    // A proxy passes on what it is given to whoever reaches it.
    if !options.listen.ip().is_loopback() && !crate::configuration(Vec::new())?.insecure {
        return Err(Failure::environment(format!(
            "{} can be reached from other machines; listen on 127.0.0.1, or set XFER_INSECURE=1 on a trusted network",
            options.listen
        )));
    }
    // Before anybody is told that it listens: who then stops it is heard.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::environment)?;
    let started = Proxy::start(options.listen, options.to, options.seed);
    let proxy = std::sync::Arc::new(started.map_err(|error: ProxyError| Failure::environment(error))?);
    let spoiling = std::sync::Arc::clone(&proxy);
    let (callers, ways, faults) =
        (options.from.map_or(Callers::All, Callers::Rank), options.way, options.fault.clone());
    let spoil = move || {
        for (way, asked) in [(Way::In, Ways::In), (Way::Out, Ways::Out)] {
            if ways == Ways::Both || ways == asked {
                spoiling.set(callers, way, faults.clone());
            }
        }
    };
    // What is to be in force from the start is so before anybody can learn where to call.
    if options.after.is_zero() {
        spoil();
    }
    print(&format!("proxy listens at {}, leads to {}, seed {}\n", proxy.address(), options.to, options.seed));
    let timed = std::sync::Arc::clone(&proxy);
    let (after, time) = (options.after, options.time);
    std::thread::spawn(move || {
        if !after.is_zero() {
            std::thread::sleep(after);
            spoil();
        }
        if !time.is_zero() {
            std::thread::sleep(time);
            timed.heal();
        }
    });
    let _ = signals.forever().next();
    print(&format!("{} bytes passed, {} frames spoiled\n", proxy.passed_bytes(), proxy.spoiled_frames()));
    Ok(())
}

/// Faults as they are written on the command line.
fn faults(text: &str) -> Result<Faults, String> {
    Faults::read(text, parse::duration, parse::size)
}

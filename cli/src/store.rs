//! `xfer store`: hosts the store of a job.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xfer::config::Flag;
use xfer::store::StoreServer;

use crate::failure::Failure;
use crate::output::print;

/// Options of `xfer store`.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen; port 0 takes a free one [default: XFER_STORE, else 127.0.0.1:29501].
    #[arg(long, value_name = "HOST:PORT")]
    bind: Option<String>,
    /// A file that the store writes all down in before it answers, and begins from; made if it isn't there. A store that
    /// died is then started again with the same address and journal, and the job goes on.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let flag = |text: &String| Flag { name: "XFER_STORE", flag: "--bind", text: text.clone() };
    let config = crate::configuration(options.bind.iter().map(flag).collect())?;
    xfer::log::init(&config)?;
    // Before anybody is told that the store runs: who then stops it is heard.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::environment)?;
    let address = resolve(&config.store)?;
    let Some(journal) = &options.journal else {
        let server = StoreServer::bind(address, config.exposure())?;
        print(&format!("store listens at {}\n", server.local_addr()));
        let _ = signals.forever().next();
        drop(server);
        print("store stopped; what it held is gone\n");
        return Ok(());
    };
    let (failed, failure) = mpsc::channel();
    let handle = signals.handle();
    let server = StoreServer::bind_journaled(address, config.exposure(), journal, move |error| {
        let _ = failed.send(error);
        handle.close();
    })?;
    print(&format!("store listens at {}, with its journal in {}\n", server.local_addr(), journal.display()));
    let _ = signals.forever().next();
    drop(server);
    match failure.try_recv() {
        Ok(error) => Err(Failure::failed(error)),
        Err(_) => {
            print(&format!("store stopped; what it held is in {}\n", journal.display()));
            Ok(())
        }
    }
}

fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let found = address.to_socket_addrs().map_err(|error| {
        Failure::environment(format!("`{address}` has no address ({error}); bind one of this machine's own"))
    })?;
    // A name may have addresses of both kinds; the older kind is the one that peers give as 127.0.0.1.
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| Failure::environment(format!("`{address}` has no address")))
}

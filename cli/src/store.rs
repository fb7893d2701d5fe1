//! `xfer store`: hosts the store of a job.

use std::net::{SocketAddr, ToSocketAddrs};

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
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let flag = |text: &String| Flag { name: "XFER_STORE", flag: "--bind", text: text.clone() };
    let config = crate::configuration(options.bind.iter().map(flag).collect())?;
    xfer::log::init(&config)?;
    // Before anybody is told that the store runs: who then stops it is heard.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::environment)?;
    let server = StoreServer::bind(resolve(&config.store)?, config.exposure())?;
    print(&format!("store listens at {}\n", server.local_addr()));
    let _ = signals.forever().next();
    drop(server);
    print("store stopped; what it held is gone\n");
    Ok(())
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

//! Who hosts the store when nobody runs one: the first process of the job, if the address is its own.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::connection::resolve;
use super::{BindError, Bound, Exposure, StoreError, StoreServer, TcpStore};

/// A job's store, and its server if it is this process that hosts it.
#[derive(Debug)]
pub struct Hosted {
    /// The store.
    pub store: TcpStore,
    /// Serves it; the store is gone when this is dropped.
    pub server: Option<StoreServer>,
}

/// Why there is no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// It can't be hosted here.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hosts the store at `address` if that is an address of this machine and nobody listens there; otherwise, or after
/// that, connects to it, trying for `timeout`.
///
/// Binding decides, so of two processes that start at once exactly one hosts.
pub fn host_or_connect(address: &str, exposure: Exposure, timeout: Duration) -> Result<Hosted, HostError> {
    let server = host(address, exposure, timeout)?;
    Ok(Hosted { store: TcpStore::connect(address, timeout)?, server })
}

fn host(address: &str, exposure: Exposure, timeout: Duration) -> Result<Option<StoreServer>, BindError> {
    // A name that has no address yet is for the connection to complain about.
    let candidates = resolve(address, Bound::new(timeout)).unwrap_or_default();
    let Some(&candidate) = candidates.iter().find(|candidate| is_local(candidate.ip())) else { return Ok(None) };
    match StoreServer::bind(candidate, exposure) {
        Ok(server) => Ok(Some(server)),
        Err(BindError::InUse { .. } | BindError::NotLocal { .. }) => Ok(None),
        // A store that somebody else exposes may well be used.
        Err(BindError::Exposed { .. }) if is_taken(candidate) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an address is this machine's: only then can a socket have it.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn is_taken(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_err()
}

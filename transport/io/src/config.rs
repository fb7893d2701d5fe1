//! How an endpoint is set up.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use xfer_transport_core::limits::{
    CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, JOB_BYTES_MAX, LINKS_PER_PEER_MAX,
};
use xfer_transport_core::{BackendId, Lane, PeerId};

use crate::backend::Backend;
use crate::backend::shm::ShmBackend;
use crate::backend::tcp::{TcpBackend, ZeroCopy};
use crate::backend::verbs::VerbsBackend;
use crate::error::StartError;
use crate::limits::BUSY_POLL_MAX;

/// How an endpoint is set up. Start from [`EndpointConfig::new`] and change what differs.
#[derive(Clone)]
pub struct EndpointConfig {
    /// Who this process is. A process that was restarted has the same rank and a higher incarnation.
    pub id: PeerId,
    /// The job: processes of different jobs refuse each other.
    pub job: String,
    /// Where to listen. An address that other machines reach needs `XFER_INSECURE=1`: links are not encrypted.
    pub bind: SocketAddr,
    /// The address that peers are told instead, where something (a port mapping, a proxy) leads from there to `bind`.
    pub advertise: Option<SocketAddr>,
    /// Links for data to each peer, besides one for control.
    pub links_per_peer: usize,
    /// Bytes of a chunk, the unit of scheduling, checking and sending again.
    pub chunk_bytes: u32,
    /// Payload bytes that may leave per second, all peers together.
    pub egress_bytes_per_s: Option<u64>,
    /// The same for each lane, in the order of [`Lane::ALL`].
    pub lane_bytes_per_s: [Option<u64>; Lane::ALL.len()],
    /// How long a link, and whoever waits for a transfer, looks for more after something has happened before it sleeps, at
    /// most [`BUSY_POLL_MAX`]. A wake-up costs more than a message takes, and a processor that looks can do nothing else.
    pub busy_poll: Duration,
    /// Whether memory that isn't shared is fetched from processes of this machine, where the system lets one read another's;
    /// else it is passed through a ring.
    pub fetches: bool,
    /// Whether chunks leave over TCP without the kernel's copy.
    pub zerocopy: ZeroCopy,
    /// The RDMA devices to use, as `device[:port[/gid]]` with commas between several; `None` takes the one whose port has the
    /// address of `bind`.
    pub verbs_device: Option<String>,
    /// Which of our own backends to open, the preferred one first: each must be there. `None` takes all that are.
    pub transports: Option<Vec<BackendId>>,
    /// What moves bytes instead of our own backends, if there is any.
    pub backends: Vec<Arc<dyn Backend>>,
}

impl EndpointConfig {
    /// The defaults for one process of a job.
    pub fn new(id: PeerId, job: impl Into<String>) -> Self {
        Self {
            id,
            job: job.into(),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            // Two keep a large transfer going when one is lost; more only help where one core can't fill the network.
            links_per_peer: 2,
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            egress_bytes_per_s: None,
            lane_bytes_per_s: [None; Lane::ALL.len()],
            busy_poll: Duration::ZERO,
            fetches: true,
            zerocopy: ZeroCopy::Off,
            verbs_device: None,
            transports: None,
            backends: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let refuse = |sentence: String| Err(StartError::Config(sentence));
        if self.job.len() > JOB_BYTES_MAX {
            return refuse(format!("a job's name has at most {JOB_BYTES_MAX} bytes, this one has {}", self.job.len()));
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return refuse(format!(
                "a chunk has {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} bytes, not {}",
                self.chunk_bytes
            ));
        }
        if self.busy_poll > BUSY_POLL_MAX {
            return refuse(format!("links look for more for {BUSY_POLL_MAX:?} at most, not for {:?}", self.busy_poll));
        }
        // Half of the limit, since both ends may connect at the same moment, without those for control, for signs of life and
        // standing by.
        let links_max = LINKS_PER_PEER_MAX / 2 - 4;
        if !(1..=links_max).contains(&self.links_per_peer) {
            return refuse(format!("a peer has 1 to {links_max} data links, not {}", self.links_per_peer));
        }
        Ok(())
    }

    /// The backends to use, the preferred one first.
    pub(crate) fn open_backends(&self) -> Result<Vec<Arc<dyn Backend>>, StartError> {
        if !self.backends.is_empty() {
            return Ok(self.backends.clone());
        }
        let Some(wanted) = &self.transports else {
            let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
            match self.open_shm() {
                Ok(shm) => backends.push(shm),
                // It reaches nobody whom TCP doesn't, so this process is only slower without it.
                Err(error) => {
                    tracing::warn!("no shared memory here, peers on this machine are reached by tcp: {error}")
                }
            }
            match self.open_verbs() {
                Ok(verbs) => backends.push(verbs),
                Err(StartError::NoVerbs(why)) if self.verbs_device.is_none() => tracing::debug!("no RDMA: {why}"),
                Err(error) => return Err(error),
            }
            backends.push(self.open_tcp()?);
            return Ok(backends);
        };
        if wanted.is_empty() {
            return Err(StartError::Config("no transport is wanted: name some of shm, verbs and tcp".into()));
        }
        let open = |id: &BackendId| match id {
            BackendId::Shm => self.open_shm().map_err(StartError::NoSharedMemory),
            BackendId::Verbs => self.open_verbs(),
            BackendId::Tcp => self.open_tcp(),
            other => Err(StartError::Config(format!(
                "{other} is not a transport of this build: name some of shm, verbs and tcp"
            ))),
        };
        wanted.iter().map(open).collect()
    }

    fn open_shm(&self) -> io::Result<Arc<dyn Backend>> {
        let shm = ShmBackend::bind()?;
        Ok(Arc::new(if self.fetches { shm } else { shm.without_fetch() }))
    }

    fn open_verbs(&self) -> Result<Arc<dyn Backend>, StartError> {
        self.check_bind()?;
        // The port that was chosen is TCP's.
        let address = SocketAddr::new(self.bind.ip(), 0);
        let verbs = VerbsBackend::bind(address, self.verbs_device.as_deref()).map_err(StartError::NoVerbs)?;
        Ok(Arc::new(verbs))
    }

    fn open_tcp(&self) -> Result<Arc<dyn Backend>, StartError> {
        self.check_bind()?;
        let tcp = TcpBackend::bind(self.bind).map_err(|error| StartError::Bind { address: self.bind, error })?;
        Ok(Arc::new(tcp.advertised_as(self.advertise).with_zerocopy(self.zerocopy)))
    }

    fn check_bind(&self) -> Result<(), StartError> {
        let insecure = std::env::var_os("XFER_INSECURE").is_some_and(|value| value == "1");
        if !self.bind.ip().is_loopback() && !insecure {
            return Err(StartError::Exposed(self.bind));
        }
        if self.bind.ip().is_unspecified() {
            return Err(StartError::Config(format!(
                "{} says nothing to a peer: bind the address at which this machine is reached",
                self.bind
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backends: Vec<String> = self.backends.iter().map(|backend| backend.id().to_string()).collect();
        f.debug_struct("EndpointConfig")
            .field("id", &self.id)
            .field("job", &self.job)
            .field("bind", &self.bind)
            .field("advertise", &self.advertise)
            .field("links_per_peer", &self.links_per_peer)
            .field("chunk_bytes", &self.chunk_bytes)
            .field("egress_bytes_per_s", &self.egress_bytes_per_s)
            .field("lane_bytes_per_s", &self.lane_bytes_per_s)
            .field("busy_poll", &self.busy_poll)
            .field("fetches", &self.fetches)
            .field("zerocopy", &self.zerocopy)
            .field("verbs_device", &self.verbs_device)
            .field("transports", &self.transports)
            .field("backends", &backends)
            .finish()
    }
}

//! `EngineBuilder`: what an engine needs to know, and how it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use xfer_migrate::store::{Hosted, StoreServer, TcpStore, claim_identity, host_or_connect, publish_ticket};
use xfer_migrate::{Bell, Migrations, MigrationsConfig};
use xfer_transport::{Endpoint, EndpointConfig};
use xfer_transport_core::ticket::Ticket;
use xfer_transport_core::{BackendId, PeerId};

use crate::config::Config;
use crate::engine::{Engine, EngineError, Inner};
use crate::notice::NoticeWatcher;
use crate::protect::Protection;
use crate::tagged::Tagged;

/// Memory that others' migrations may take here unless told otherwise: half a large host's, since adopted layers must fit.
const MEMORY_LIMIT_BYTES: u64 = 256 << 30;

/// Builds an [`Engine`]: what isn't set here comes from the environment, a file or a default, as [`Config`] says.
#[derive(Debug, Clone)]
#[must_use]
pub struct EngineBuilder {
    config: Config,
    host_store: Option<bool>,
    memory_limit_bytes: u64,
}

impl EngineBuilder {
    /// A builder for rank `rank` of `world_size`, whatever the environment says of that.
    pub fn new(rank: u32, world_size: u32) -> Result<Self, EngineError> {
        Ok(Self::from_env()?.rank(rank).world_size(world_size))
    }

    /// A builder with what the environment says: torchrun's names, then `XFER_*`.
    pub fn from_env() -> Result<Self, EngineError> {
        Ok(Self { config: Config::from_env()?, host_store: None, memory_limit_bytes: MEMORY_LIMIT_BYTES })
    }

    /// This process's rank.
    pub fn rank(mut self, rank: u32) -> Self {
        self.config.rank = Some(rank);
        self
    }

    /// How many processes the job has.
    pub fn world_size(mut self, world_size: u32) -> Self {
        self.config.world_size = Some(world_size);
        self
    }

    /// Where the store is, as `HOST:PORT`.
    pub fn store(mut self, address: impl Into<String>) -> Self {
        self.config.store = address.into();
        self
    }

    /// Whether this process serves the store; by default rank 0 does, if nobody else does and the address is its own.
    pub fn host_store(mut self, host: bool) -> Self {
        self.host_store = Some(host);
        self
    }

    /// Where this process is reached by the others; port 0 takes a free one.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.config.bind = address;
        self
    }

    /// What may move bytes, best first; each must be there. `None` takes all that are.
    pub fn transports(mut self, transports: Option<Vec<BackendId>>) -> Self {
        self.config.transports = transports;
        self
    }

    /// The name of the job; processes of different jobs refuse each other.
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.config.job = job.into();
        self
    }

    /// The most that this process sends, in payload bytes a second; `None` for no limit.
    pub fn egress_bytes_per_s(mut self, limit: Option<u64>) -> Self {
        self.config.egress_bytes_per_s = limit;
        self
    }

    /// The most memory that others' migrations may take here.
    pub fn memory_limit_bytes(mut self, limit: u64) -> Self {
        self.memory_limit_bytes = limit;
        self
    }

    /// Where migrations leave their traces; `None` for nowhere.
    pub fn trace_dir(mut self, dir: Option<PathBuf>) -> Self {
        self.config.trace_dir = dir;
        self
    }

    /// Finds or hosts the store, claims the rank, and starts to listen.
    pub fn start(self) -> Result<Engine, EngineError> {
        let Self { config, host_store, memory_limit_bytes } = self;
        crate::log::init(&config)?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let world_size =
            config.world_size.ok_or(EngineError::Unset { what: "the number of processes", variable: "WORLD_SIZE" })?;
        let rank = config.rank.ok_or(EngineError::Unset { what: "this process's rank", variable: "RANK" })?;
        if rank >= world_size {
            return Err(EngineError::Rank { rank, world_size });
        }

        let (store_address, Hosted { store, server }) = find_store(&config, host_store.unwrap_or(rank == 0))?;
        let store = Arc::new(store);
        let incarnation = claim_identity(&*store, rank, &[], &answers)?;
        let mut endpoint_config = EndpointConfig::new(PeerId { rank, incarnation }, config.job.clone());
        endpoint_config.bind = config.bind;
        endpoint_config.transports = config.transports.clone();
        endpoint_config.advertise = config.advertise;
        endpoint_config.links_per_peer = config.links_per_peer;
        endpoint_config.chunk_bytes = config.chunk_bytes;
        endpoint_config.egress_bytes_per_s = config.egress_bytes_per_s;
        endpoint_config.busy_poll = config.busy_poll;
        endpoint_config.fetches = config.shm_fetch;
        endpoint_config.zerocopy = config.zerocopy;
        endpoint_config.verbs_device.clone_from(&config.verbs_device);
        let endpoint = Endpoint::start(endpoint_config)?;
        publish_ticket(&*store, rank, incarnation, &endpoint.ticket())?;

        let trace = |cause| EngineError::System { what: "no thread for traces", cause };
        let ended =
            config.trace_dir.as_deref().map(|dir| crate::trace::follow(dir, &endpoint)).transpose().map_err(trace)?;
        let bell = Arc::new(Bell::default());
        let thread = |cause| EngineError::System { what: "no thread for tagged messages", cause };
        let tagged = Tagged::new(&endpoint, Arc::clone(&bell)).map_err(thread)?;
        let migrations = Migrations::start(
            &endpoint,
            Arc::clone(&store) as Arc<_>,
            Arc::clone(&bell),
            MigrationsConfig { memory_limit_bytes, ended },
        )?;
        Engine::new(Inner {
            world_size,
            store_address,
            protection: Protection::new(migrations.clone()),
            notices: Mutex::new(NoticeWatcher::start(Vec::new())?),
            closed: AtomicBool::new(false),
            server: Mutex::new(server),
            config,
            endpoint,
            store,
            bell,
            tagged,
            migrations,
        })
    }
}

/// The store and its address: a free port is known only once it is bound.
fn find_store(config: &Config, host: bool) -> Result<(String, Hosted), EngineError> {
    if !host {
        let store = TcpStore::connect(&config.store, config.start_timeout)?.with_call_timeout(config.store_timeout);
        return Ok((config.store.clone(), Hosted { store, server: None }));
    }
    if let Some(address) = config.store.parse::<SocketAddr>().ok().filter(|address| address.port() == 0) {
        let server = StoreServer::bind(address, config.exposure()).map_err(xfer_migrate::store::HostError::from)?;
        let address = server.local_addr().to_string();
        let store = TcpStore::connect(&address, config.store_timeout)?;
        return Ok((address, Hosted { store, server: Some(server) }));
    }
    let Hosted { store, server } = host_or_connect(&config.store, config.exposure(), config.start_timeout)?;
    Ok((config.store.clone(), Hosted { store: store.with_call_timeout(config.store_timeout), server }))
}

/// Whether the process behind a ticket still answers: only then its rank is taken.
fn answers(ticket: &[u8]) -> bool {
    const PATIENCE: Duration = Duration::from_millis(500);
    // A ticket that can't be read was left by another version, of which it isn't known whether it lives: then its rank is taken.
    let Ok(ticket) = Ticket::decode(ticket) else { return true };
    xfer_transport::backend::answers(&ticket, PATIENCE)
}

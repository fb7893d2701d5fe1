//! `Engine`: one process's end of xfer, with its peers, its notices and its migrations.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use xfer_migrate::store::{ClaimError, HostError, Store, StoreError, StoreServer, Swap, TcpStore, Version};
use xfer_migrate::{Bell, HandOver, HandOverError, Incoming, Migrations, Outgoing, Rescue};
use xfer_transport::{ConnectError, Endpoint, Region};
use xfer_transport_core::{Lane, PeerId};

use crate::builder::EngineBuilder;
use crate::config::{Config, ConfigError};
use crate::notice::{self, Notice, NoticeError, NoticeEvent, NoticeWatcher, Origin};
use crate::protect::{Protection, UpdateGuard};
use crate::tagged::{Operation, Tagged};

/// How long one look for a peer's ticket takes before this process looks whether it is closing.
const LOOK: Duration = Duration::from_millis(500);

/// This process's end of xfer. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) world_size: u32,
    pub(crate) store_address: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Arc<TcpStore>,
    /// Served here, if it is; gone with the engine.
    pub(crate) server: Mutex<Option<StoreServer>>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) tagged: Tagged,
    pub(crate) migrations: Migrations,
    pub(crate) protection: Protection,
    pub(crate) notices: Mutex<NoticeWatcher>,
    pub(crate) closed: AtomicBool,
}

/// Why the engine could not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The environment or a file has a value that makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log filter makes no sense.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// Something that only the caller can know is not known.
    #[error("{what} is not known; set {variable} (torchrun does) or give it to the engine")]
    Unset {
        /// What.
        what: &'static str,
        /// The variable that would say so.
        variable: &'static str,
    },
    /// A rank outside the job.
    #[error("rank {rank} is not in a job of {world_size} processes; ranks count from 0")]
    Rank {
        /// The rank.
        rank: u32,
        /// How many processes there are.
        world_size: u32,
    },
    /// Text that is no address.
    #[error("`{text}` is not an address; it is written HOST:PORT with a numeric host, as in 127.0.0.1:0")]
    Address {
        /// The text.
        text: String,
    },
    /// Nothing can be listened to under this name.
    #[error("no source of notices is called `{name}`, or it is not configured; there are: signal, file, store, imds")]
    NoticeSource {
        /// The name.
        name: String,
    },
    /// Notices can't be listened to.
    #[error(transparent)]
    Notice(#[from] NoticeError),
    /// The store can't be reached or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no store and none could be hosted.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The rank can't be claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The endpoint could not start.
    #[error(transparent)]
    Endpoint(#[from] xfer_transport::StartError),
    /// Migrations could not start.
    #[error(transparent)]
    Migrations(#[from] xfer_migrate::StartError),
    /// A thread could not be started, or the system refused something else.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A peer is there and can't be talked to.
    #[error("rank {rank} can't be reached: {cause}")]
    Connect {
        /// The peer's rank.
        rank: u32,
        /// Why.
        cause: ConnectError,
    },
    /// Not all ranks came in time.
    #[error(
        "waited {waited:?} for rank {missing:?} of {world_size}{obstacle}; start the missing processes, with this store: {store}"
    )]
    Timeout {
        /// How long.
        waited: Duration,
        /// Which ranks did not come.
        missing: Vec<u32>,
        /// What was found last in the way, with what goes before it in the sentence.
        obstacle: String,
        /// How many there should be.
        world_size: u32,
        /// Where they should look.
        store: String,
    },
    /// A hand-over could not begin.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// A hand-over is under way, so this process has taken its last optimizer step.
    #[error("rank {rank} is handing over and takes no further optimizer step; cut the migration at this point")]
    Leaving {
        /// This process's rank.
        rank: u32,
    },
}

impl Engine {
    pub(crate) fn new(inner: Inner) -> Result<Self, EngineError> {
        let engine = Self { inner: Arc::new(inner) };
        engine.follow_notices()?;
        Ok(engine)
    }

    /// An engine as the environment describes it: torchrun's names, then `XFER_*`.
    pub fn from_env() -> Result<Self, EngineError> {
        EngineBuilder::from_env()?.start()
    }

    /// Who this process is.
    pub fn id(&self) -> PeerId {
        self.inner.endpoint.id()
    }

    /// How many ranks the job has.
    pub fn world_size(&self) -> u32 {
        self.inner.world_size
    }

    /// Where the store is, as `HOST:PORT`.
    pub fn store_address(&self) -> &str {
        &self.inner.store_address
    }

    /// The endpoint: grants, writes with lane and deadline, rates.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// The migrations of this process.
    pub fn migrations(&self) -> &Migrations {
        &self.inner.migrations
    }

    /// Rung whenever something ends that a caller may wait for.
    pub fn bell(&self) -> &Bell {
        &self.inner.bell
    }

    /// Waits until every rank of the job is reached.
    pub fn connect(&self, timeout: Duration) -> Result<(), EngineError> {
        let began = Instant::now();
        let me = self.id().rank;
        let mut obstacle = None;
        // The higher rank calls the lower one, so that each pair meets once.
        for rank in (0..self.world_size()).filter(|rank| *rank != me) {
            while self.inner.endpoint.peer(rank).is_none() {
                let left = timeout.saturating_sub(began.elapsed());
                if left.is_zero() {
                    return Err(self.not_all_came(began.elapsed(), obstacle));
                }
                if rank < me {
                    obstacle = self.call(rank, left)?.or(obstacle);
                } else {
                    thread::sleep(Duration::from_millis(2).min(left));
                }
            }
        }
        Ok(())
    }

    /// Tries once to reach a rank, by the ticket that it left in the store; returns what was in the way.
    fn call(&self, rank: u32, left: Duration) -> Result<Option<ConnectError>, EngineError> {
        match self.inner.ticket_of(rank, left.min(LOOK))? {
            Some(ticket) => match self.inner.endpoint.connect(&ticket, left.min(LOOK)) {
                Ok(_) => Ok(None),
                // Its process may be starting again under a new ticket; whoever is wrong for good says so by name.
                Err(
                    obstacle @ (ConnectError::Unreachable { .. }
                    | ConnectError::WrongPeer { .. }
                    | ConnectError::Lost { .. }
                    | ConnectError::BeganAnew(_)
                    | ConnectError::TimedOut { .. }),
                ) => {
                    thread::sleep(Duration::from_millis(20).min(left));
                    Ok(Some(obstacle))
                }
                Err(cause) => Err(EngineError::Connect { rank, cause }),
            },
            None => Ok(None),
        }
    }

    fn not_all_came(&self, waited: Duration, obstacle: Option<ConnectError>) -> EngineError {
        let missing = (0..self.world_size())
            .filter(|rank| *rank != self.id().rank && self.inner.endpoint.peer(*rank).is_none())
            .collect();
        let obstacle = obstacle.map_or_else(String::new, |obstacle| format!(" ({obstacle})"));
        let (world_size, store) = (self.world_size(), self.inner.store_address.clone());
        EngineError::Timeout { waited, missing, obstacle, world_size, store }
    }

    /// Whether `rank` is connected now.
    pub fn alive(&self, rank: u32) -> bool {
        rank == self.id().rank || self.inner.endpoint.peer(rank).is_some()
    }

    /// Sends all of `region` to rank `to`; complete once the receiver has it, verified.
    pub fn send(&self, region: Region, to: u32, tag: &str, lane: Lane) -> Operation {
        self.inner.tagged.send(region, to, tag, lane)
    }

    /// Receives into all of `region` from rank `source`.
    pub fn recv(&self, region: &Region, source: u32, tag: &str) -> Operation {
        self.inner.tagged.recv(region, source, tag)
    }

    /// The value of a key of the store.
    pub fn store_get(&self, key: &str) -> Result<Option<Bytes>, EngineError> {
        Ok(self.inner.store.get(key)?.map(|found| found.value))
    }

    /// Waits at most `timeout` for a key of the store to be there.
    pub fn store_wait(&self, key: &str, timeout: Duration) -> Result<Option<Bytes>, EngineError> {
        let found = self.inner.store.wait(key, Version::ABSENT, timeout)?;
        Ok(found.map(|found| found.value))
    }

    /// Writes a key of the store if it is absent; whether this call did.
    pub fn store_create(&self, key: &str, value: Bytes) -> Result<bool, EngineError> {
        let swap = self.inner.store.compare_and_swap(key, Version::ABSENT, value)?;
        Ok(matches!(swap, Swap::Won(_)))
    }

    /// The number of the ownership that is true now, as far as this process has heard.
    pub fn generation(&self) -> u64 {
        self.inner.migrations.generation().map_or(0, |record| record.generation)
    }

    /// The notice in force for this process, if any.
    pub fn notice(&self) -> Option<Notice> {
        self.inner.notices().current()
    }

    /// Tells this process that it has `left` to live; `id` names the notice, for whoever may take it back.
    pub fn raise_notice(&self, id: &str, left: Duration) -> Result<(), EngineError> {
        Ok(self.inner.notices().raise(Notice::new(Origin::Call, id, left))?)
    }

    /// Takes back the notices called `id`; false if there is none.
    pub fn withdraw_notice(&self, id: &str) -> bool {
        self.inner.notices().withdraw(id)
    }

    /// Listens to a source of notices, on a native thread of its own.
    pub fn watch_notices(&self, source: notice::Source) -> Result<(), EngineError> {
        Ok(self.inner.notices().watch(source)?)
    }

    /// A source of notices by the name that people give it: "signal", "file", "store" (`xfer drain`) or "imds" (EC2). `grace` is how long
    /// a process lives after a notice that doesn't say; else `XFER_GRACE`.
    pub fn notice_source(&self, name: &str, grace: Option<Duration>) -> Result<notice::Source, EngineError> {
        let config = &self.inner.config;
        let grace = grace.unwrap_or(config.grace);
        let source = match name {
            "signal" => Some(notice::Source::Signal { grace }),
            "file" => config.notice_file.clone().map(|path| notice::Source::File { path, grace }),
            "store" => {
                Some(notice::Source::Drain { store: Arc::clone(&self.inner.store) as Arc<dyn Store>, peer: self.id() })
            }
            "imds" => config.imds_url.clone().map(|url| notice::Source::Ec2 { url }),
            _ => None,
        };
        source.ok_or_else(|| EngineError::NoticeSource { name: name.to_owned() })
    }

    /// What is to leave at once when a notice comes; replaces what was protected before.
    pub fn protect(&self, targets: Vec<u32>, owners_after: Vec<(String, u32)>, items: Vec<Rescue>) {
        self.inner.protection.set(None, targets, owners_after, items);
    }

    /// [`Engine::protect`] by somebody who has followed ownership up to `generation`: what he says of who owns what afterwards isn't true
    /// any more once there is a newer one, and nothing leaves by it then.
    pub fn protect_in(&self, generation: u64, targets: Vec<u32>, owners_after: Vec<(String, u32)>, items: Vec<Rescue>) {
        self.inner.protection.set(Some(generation), targets, owners_after, items);
    }

    /// Marks the optimizer's step: what is protected is about to change, and has to be protected again afterwards.
    pub fn updating(&self) -> Result<UpdateGuard, EngineError> {
        self.inner.protection.update().ok_or(EngineError::Leaving { rank: self.id().rank })
    }

    /// Begins a hand-over now.
    pub fn hand_over(&self, hand_over: HandOver) -> Result<Outgoing, EngineError> {
        Ok(self.inner.migrations.hand_over(hand_over, Vec::new())?)
    }

    /// Begins a hand-over now, unless there is a newer generation than the one that it was prepared in.
    pub fn hand_over_in(&self, generation: u64, hand_over: HandOver) -> Result<Outgoing, EngineError> {
        Ok(self.inner.migrations.hand_over_in(Some(generation), hand_over, Vec::new())?)
    }

    /// The latest hand-over from this process.
    pub fn outgoing(&self) -> Option<Outgoing> {
        self.inner.migrations.outgoing()
    }

    /// The latest hand-over to this process that was not dismissed.
    pub fn incoming(&self) -> Option<Incoming> {
        self.inner.migrations.incoming()
    }

    /// Puts the latest incoming hand-over away.
    pub fn dismiss(&self) {
        self.inner.migrations.dismiss();
    }

    /// Whether a caller in the middle of a step should look up: its own notice has come, or a hand-over to it has ended.
    pub fn interrupted(&self) -> bool {
        self.notice().is_some() || self.incoming().is_some_and(|incoming| incoming.outcome().is_some())
    }

    /// The transport's counters as a JSON object; sizes in bytes.
    pub fn stats_json(&self) -> String {
        crate::metrics::to_json(&self.inner.endpoint.stats())
    }

    /// The same as text that Prometheus reads, with who owns what and what the paths carry: serve it, or write it to a file
    /// for its node exporter.
    pub fn metrics(&self) -> String {
        let peers = (0..self.world_size()).filter(|rank| *rank != self.id().rank);
        let rates = peers.map(|rank| (rank, self.inner.endpoint.peer(rank).map(|peer| self.inner.endpoint.rate(peer))));
        crate::metrics::to_prometheus(self.id().rank, self.generation(), rates, &self.inner.endpoint.stats())
    }

    /// What the flight recorder has, as JSON: the latest transfers from this process, those under way last. Times are in
    /// seconds since the engine started, sizes in bytes.
    pub fn flights_json(&self) -> String {
        crate::trace::flights(&self.inner.endpoint).to_string()
    }

    /// Ends all threads and connections of this engine; bounded.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Passes what the watcher hears on to protection and to whoever waits.
    fn follow_notices(&self) -> Result<(), EngineError> {
        let events = self.inner.notices().subscribe();
        let inner = Arc::downgrade(&self.inner);
        thread::Builder::new()
            .name("xfer-notices".into())
            .spawn(move || {
                for event in events {
                    let Some(inner) = inner.upgrade() else { return };
                    inner.noticed(&event);
                }
            })
            .map(drop)
            .map_err(|cause| EngineError::System { what: "no thread for notices", cause })
    }
}

impl Inner {
    fn notices(&self) -> MutexGuard<'_, NoticeWatcher> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noticed(&self, event: &NoticeEvent) {
        match event {
            NoticeEvent::Raised(notice) => {
                tracing::warn!(%notice, "this process has to leave");
                // A hint is for preparing; what is protected leaves when it is certain.
                if notice.certain {
                    // Whether anything leaves or not, nothing is to be handed to a process that goes.
                    self.migrations.deadline_moved(notice.left());
                    self.protection.leave(notice.deadline());
                }
            }
            NoticeEvent::Withdrawn(notice) => {
                tracing::warn!(source = %notice.source, "the notice was withdrawn");
                self.protection.stay();
                self.migrations.stay();
                if let Some(outgoing) = self.migrations.outgoing().filter(|outgoing| outgoing.outcome().is_none()) {
                    // Refused only when the migration has just ended: then its outcome stands.
                    let _ = outgoing.withdraw();
                }
            }
        }
        self.bell.ring();
    }

    fn ticket_of(&self, rank: u32, wait: Duration) -> Result<Option<Bytes>, EngineError> {
        let key = xfer_migrate::store::records::peer_key(rank);
        let Some(found) = self.store.wait(&key, Version::ABSENT, wait)? else {
            return Ok(None);
        };
        let claim = xfer_migrate::store::records::PeerClaim::decode(&found.value)
            .map_err(|reason| EngineError::Claim(ClaimError::Unreadable { rank, reason }))?;
        Ok(Some(claim.ticket).filter(|ticket| !ticket.is_empty()))
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.migrations.close();
            self.endpoint.shutdown();
            *self.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.bell.ring();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("id", &self.id())
            .field("world_size", &self.inner.world_size)
            .field("store", &self.inner.store_address)
            .finish_non_exhaustive()
    }
}

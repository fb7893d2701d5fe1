//! The sockets of a store: one thread, one poll over all clients; what is answered is decided in the core.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use xfer_migrate_core::store::wire::{self, GreetingError};
use xfer_migrate_core::store::{ClientId, CloseReason, Service, ServiceLimits};
use xfer_transport_core::Time;

use super::error::cause;
use super::journal::{JournalFile, Opened};
use super::limits::{ACCEPT_PAUSE, READ_BYTES};
use super::random_u64;

/// Who may reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Only processes of this machine. A store asks nobody who he is.
    LoopbackOnly,
    /// Whoever reaches the address: for networks where everybody is trusted.
    AnyInterface,
}

/// Why a store can't be served at an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address is reached from other machines, and that was not allowed.
    #[error(
        "a store at {address} could be written by anybody who reaches it, as it asks nobody who he is; \
         use an address of 127.0.0.1, or set XFER_INSECURE=1 where everybody on the network is trusted"
    )]
    Exposed {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// Somebody listens there already.
    #[error("{address} is in use by another process; if that is a store, use it, or choose another port")]
    InUse {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The address belongs to another machine.
    #[error("{address} is not an address of this machine; run the store where it is, or choose another")]
    NotLocal {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The journal can't be used.
    #[error("the journal {} can't be used: {cause}", path.display())]
    Journal {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// The system refuses for another reason.
    #[error("a store can't listen at {address}: {cause}")]
    System {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        cause: String,
    },
}

/// Why a store stopped serving. What was answered for is in its journal, if it has one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFailure {
    /// The journal takes no more.
    #[error(
        "the store stops, as its journal {} can't be written ({cause}); nothing that it answered for is lost: \
         make room, and start it with the same journal",
        path.display()
    )]
    Journal {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The system doesn't let it wait for its clients.
    #[error("the store stops: polling its clients failed ({0})")]
    Poll(io::Error),
}

/// What is called when a store stops by itself, on its thread.
type OnFailure = Box<dyn FnOnce(StoreFailure) + Send>;

/// A store that this process serves over TCP until the value is dropped.
#[derive(Debug)]
pub struct StoreServer {
    local_addr: SocketAddr,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl StoreServer {
    /// Serves a new, empty store at `address`; port 0 takes any free one.
    pub fn bind(address: SocketAddr, exposure: Exposure) -> Result<Self, BindError> {
        Self::start(address, exposure, None, Box::new(|error| tracing::error!("{error}")))
    }

    /// Serves the store that the file `journal` tells of, or a new one if there is no such file. What it answers for is in
    /// the journal before, so that a store that is started again, at the same address and with the same journal, is the
    /// same store to its clients. `failed` is called if it stops by itself, since the journal can't be written any more.
    pub fn bind_journaled(
        address: SocketAddr,
        exposure: Exposure,
        journal: &Path,
        failed: impl FnOnce(StoreFailure) + Send + 'static,
    ) -> Result<Self, BindError> {
        let opened = JournalFile::open(journal)
            .map_err(|error| BindError::Journal { path: journal.to_owned(), cause: error.to_string() })?;
        Self::start(address, exposure, Some(opened), Box::new(failed))
    }

    fn start(
        address: SocketAddr,
        exposure: Exposure,
        opened: Option<Opened>,
        failed: OnFailure,
    ) -> Result<Self, BindError> {
        if exposure == Exposure::LoopbackOnly && !address.ip().is_loopback() {
            return Err(BindError::Exposed { address });
        }
        let bind_error = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            io::ErrorKind::AddrNotAvailable => BindError::NotLocal { address },
            _ => BindError::System { address, cause: cause(&error) },
        };
        let listener = TcpListener::bind(address).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(io::Error::from).map_err(bind_error)?);
        let limits = ServiceLimits::default();
        let (service, journal, began) = match opened {
            Some(Opened { journal, state, life, now }) => (Service::journaled(life, state, limits), Some(journal), now),
            None => (Service::new(random_u64(), limits), None, Time::ZERO),
        };
        let server = Loop {
            listener,
            stop: Arc::clone(&stop),
            service,
            journal,
            streams: BTreeMap::new(),
            origin: Instant::now(),
            began,
            accept_from: Time::ZERO,
        };
        let run = || {
            if let Err(error) = server.run() {
                failed(error);
            }
        };
        let thread = thread::Builder::new().name("xfer-store".to_owned()).spawn(run).map_err(bind_error)?;
        tracing::debug!(address = %local_addr, "serving a store");
        Ok(Self { local_addr, stop, thread: Some(thread) })
    }

    /// Where it listens, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        // The counter can't be full after one write, and the loop blocks nowhere but in its poll.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    listener: TcpListener,
    stop: Arc<OwnedFd>,
    service: Service,
    journal: Option<JournalFile>,
    streams: BTreeMap<ClientId, TcpStream>,
    origin: Instant,
    /// What the store's clock said at the origin.
    began: Time,
    /// No connection is accepted before.
    accept_from: Time,
}

/// What a poll found.
#[derive(Default)]
struct Ready {
    stop: bool,
    connections: bool,
    readable: Vec<ClientId>,
    /// Hung up or broken. Said even of those whose bytes aren't wanted.
    gone: Vec<ClientId>,
}

impl Loop {
    fn run(mut self) -> Result<(), StoreFailure> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let ready = self.poll().map_err(StoreFailure::Poll)?;
            if ready.stop {
                return Ok(());
            }
            for id in ready.gone {
                self.drop_client(id);
            }
            for id in ready.readable {
                self.read(id, &mut bytes);
            }
            if ready.connections {
                self.accept();
            }
            self.service.handle_timeout(self.now());
            // A client that has read its answer may have sent its next request along, and that may write again.
            while {
                self.write_all();
                self.write_down()?
            } {}
            while let Some((id, reason)) = self.service.poll_closed() {
                self.streams.remove(&id);
                report_closed(reason);
            }
        }
    }

    fn now(&self) -> Time {
        self.began.after(self.origin.elapsed())
    }

    /// Puts what was written into the journal; `true` if there was something.
    fn write_down(&mut self) -> Result<bool, StoreFailure> {
        let writes = self.service.take_writes();
        let Some(journal) = self.journal.as_mut().filter(|_| !writes.is_empty()) else { return Ok(false) };
        if let Err(cause) = journal.append(writes, self.service.state()) {
            return Err(StoreFailure::Journal { path: journal.path().to_owned(), cause });
        }
        self.service.writes_are_durable();
        Ok(true)
    }

    fn poll(&self) -> io::Result<Ready> {
        let now = self.now();
        let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
        let accepts = self.accept_from <= now;
        fds.push(PollFd::new(&self.listener, if accepts { PollFlags::IN } else { PollFlags::empty() }));
        for (&id, stream) in &self.streams {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, self.service.wants_input(id));
            wanted.set(PollFlags::OUT, !self.service.output(id).is_empty());
            fds.push(PollFd::new(stream, wanted));
        }
        let resume = (!accepts).then_some(self.accept_from);
        let next = self.service.poll_timeout().into_iter().chain(resume).min();
        // Rounded up to the poll's clock, or the loop would spin through the last microsecond.
        let timeout = next.map(|next| next.since(now) + Duration::from_millis(1));
        let timeout = timeout.map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let mut ready = Ready {
            stop: !fds[0].revents().is_empty(),
            connections: fds[1].revents().contains(PollFlags::IN),
            ..Ready::default()
        };
        for (&id, fd) in self.streams.keys().zip(&fds[2..]) {
            let found = fd.revents();
            if found.contains(PollFlags::IN) {
                ready.readable.push(id);
            } else if found.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                ready.gone.push(id);
            }
        }
        Ok(ready)
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!(%error, "the store accepts no connection for a moment");
                    self.accept_from = self.now().after(ACCEPT_PAUSE);
                    return;
                }
            };
            if let Err(error) = self.admit(stream) {
                tracing::debug!(%error, "a connection to the store was lost as it began");
            }
        }
    }

    fn admit(&mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        match self.service.open(self.now()) {
            Some(id) => {
                self.streams.insert(id, stream);
            }
            None => {
                tracing::warn!("the store has as many clients as it takes and turns one away");
                // A new socket has room for a greeting.
                stream.write_all(&wire::welcome(Err(GreetingError::Full)))?;
            }
        }
        Ok(())
    }

    fn read(&mut self, id: ClientId, bytes: &mut [u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match stream.read(bytes) {
            Ok(read) if read > 0 => self.service.receive(self.now(), id, &bytes[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.drop_client(id),
        }
    }

    /// Writes what the sockets take. An answer to one client may have been caused by another.
    fn write_all(&mut self) {
        let mut gone = Vec::new();
        for (&id, stream) in &mut self.streams {
            loop {
                let output = self.service.output(id);
                if output.is_empty() {
                    break;
                }
                match stream.write(output) {
                    Ok(written) if written > 0 => {
                        let now = self.began.after(self.origin.elapsed());
                        self.service.sent(now, id, written);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(_) | Err(_) => {
                        gone.push(id);
                        break;
                    }
                }
            }
        }
        for id in gone {
            self.drop_client(id);
        }
    }

    fn drop_client(&mut self, id: ClientId) {
        self.service.closed(id);
        self.streams.remove(&id);
    }
}

fn report_closed(reason: CloseReason) {
    match reason {
        CloseReason::Idle => tracing::debug!("the store closes a connection: {reason}"),
        _ => tracing::info!("the store closes a connection: {reason}"),
    }
}

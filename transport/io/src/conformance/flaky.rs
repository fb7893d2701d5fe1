//! A backend around another whose links can be cut and paused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use xfer_transport_core::BackendId;

use crate::backend::{Backend, Capabilities, Interest, Link, LinkError, Manner, Op, Sight};
use crate::intake::Intake;

use super::{PATIENCE, eventually};

/// How soon a cut or a pause is noticed by a link that has nothing to do.
const NOTICED_AFTER: Duration = Duration::from_millis(5);

/// A backend whose links can be broken.
pub struct Flaky {
    inner: Arc<dyn Backend>,
    links: Mutex<Vec<Weak<Switches>>>,
    paused: Arc<AtomicBool>,
    silent: AtomicBool,
}

#[derive(Debug, Default)]
struct Switches {
    cut: AtomicBool,
    /// Its thread is held up by a pause.
    stands: AtomicBool,
}

impl Flaky {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { inner, links: Mutex::default(), paused: Arc::default(), silent: AtomicBool::default() })
    }

    /// Links that are open.
    pub fn open_links(&self) -> usize {
        self.live().len()
    }

    /// Breaks the open link at `index`, counted in the order in which they were opened, modulo how many there are.
    pub fn cut(&self, index: usize) {
        let live = self.live();
        if let Some(link) = index.checked_rem(live.len()).map(|index| &live[index]) {
            link.cut.store(true, Ordering::SeqCst);
        }
    }

    /// Breaks all links.
    pub fn cut_all(&self) {
        self.live().iter().for_each(|link| link.cut.store(true, Ordering::SeqCst));
    }

    /// While paused, all links stay open and their threads stand still, as those of a stopped process. Returns when
    /// they do.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
        if paused {
            let stands = |link: &Arc<Switches>| link.stands.load(Ordering::SeqCst);
            eventually("all links stand still", || self.live().iter().all(stands));
        }
    }

    /// From now on whoever calls hears nothing, as behind a firewall that drops what it doesn't let through.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    fn live(&self) -> Vec<Arc<Switches>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.strong_count() > 0);
        let open = links.iter().filter_map(Weak::upgrade);
        open.filter(|link| !link.cut.load(Ordering::SeqCst)).collect()
    }

    fn wrap(&self, link: Box<dyn Link>) -> Box<dyn Link> {
        let switches = Arc::<Switches>::default();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&switches));
        drop(links);
        Box::new(FlakyLink { link, switches, paused: Arc::clone(&self.paused) })
    }
}

impl Backend for Flaky {
    fn id(&self) -> BackendId {
        self.inner.id()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn address(&self) -> Bytes {
        self.inner.address()
    }

    fn open(&self, address: &[u8], timeout: Duration) -> io::Result<Box<dyn Link>> {
        if self.silent.load(Ordering::SeqCst) {
            std::thread::sleep(timeout);
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.inner.open(address, timeout).map(|link| self.wrap(link))
    }

    fn accept(&self, timeout: Duration) -> io::Result<Option<Box<dyn Link>>> {
        Ok(self.inner.accept(timeout)?.map(|link| self.wrap(link)))
    }

    fn describe(&self, address: &[u8]) -> String {
        self.inner.describe(address)
    }

    fn close(&self) {
        self.inner.close();
    }
}

struct FlakyLink {
    link: Box<dyn Link>,
    switches: Arc<Switches>,
    paused: Arc<AtomicBool>,
}

impl FlakyLink {
    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Stands still while it is to, and fails if it is cut.
    fn wait_or_fail(&self) -> Result<(), LinkError> {
        if self.switches.cut.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        let until = Instant::now() + PATIENCE;
        while self.is_paused() && Instant::now() < until {
            self.switches.stands.store(true, Ordering::SeqCst);
            std::thread::sleep(NOTICED_AFTER);
        }
        self.switches.stands.store(false, Ordering::SeqCst);
        Ok(())
    }
}

impl Link for FlakyLink {
    fn backend(&self) -> BackendId {
        self.link.backend()
    }

    fn has_room(&self) -> bool {
        !self.is_paused() && self.link.has_room()
    }

    fn submit(&mut self, op: Op) -> Result<(), Op> {
        if self.is_paused() { Err(op) } else { self.link.submit(op) }
    }

    fn poll(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.wait_or_fail()?;
        self.link.poll(intake)
    }

    fn sums(&self, len_bytes: u32) -> bool {
        self.link.sums(len_bytes)
    }

    fn sight(&self) -> Sight {
        self.link.sight()
    }

    fn look(&mut self, begins: bool) {
        self.link.look(begins);
    }

    fn peek(&mut self) -> bool {
        self.link.peek()
    }

    fn poll_peeked(&mut self, intake: &mut Intake) -> Result<(), LinkError> {
        self.wait_or_fail()?;
        self.link.poll_peeked(intake)
    }

    fn is_drained(&self) -> bool {
        self.link.is_drained()
    }

    fn readiness(&self) -> Arc<dyn AsFd + Send + Sync> {
        self.link.readiness()
    }

    fn interest(&self) -> Interest {
        self.link.interest()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let soon = Instant::now() + NOTICED_AFTER;
        Some(self.link.poll_timeout().map_or(soon, |due| due.min(soon)))
    }

    fn process(&self) -> Option<Arc<OwnedFd>> {
        self.link.process()
    }

    fn manner(&self) -> Option<Manner> {
        self.link.manner()
    }

    fn dmabuf_manner(&self) -> Option<Manner> {
        self.link.dmabuf_manner()
    }

    fn finish(&mut self) {
        self.link.finish();
    }
}

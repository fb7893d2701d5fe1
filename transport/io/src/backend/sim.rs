//! A network inside one process, with faults: the same endpoint runs over it as over a real one.
//!
//! The faults are drawn from a seed; when they strike still depends on how threads run.

mod link;
mod pipe;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use xfer_transport_core::BackendId;

use self::link::SimLink;
use self::pipe::Connection;
use crate::backend::{Backend, Capabilities, Link};

/// A network that endpoints join through [`SimNetwork::backend`]. Clones are the same network.
#[derive(Debug, Clone)]
pub struct SimNetwork(Arc<Network>);

#[derive(Debug)]
struct Network {
    state: Mutex<State>,
    /// Somebody has connected.
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    random: u64,
    next_address: u64,
    callers: HashMap<u64, VecDeque<SimLink>>,
    connections: Vec<Arc<Connection>>,
    faults: Faults,
}

/// What the network does to what crosses it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// How long a frame is on its way. Frames of one link stay in order.
    pub delay: Range<Duration>,
    /// Flips a bit in one of so many chunks; 0 for none.
    pub corrupt_one_in: u32,
    /// Cuts the link at one of so many chunks; 0 for none.
    pub cut_one_in: u32,
    /// Nothing arrives, while all links stay open.
    pub stalled: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self { delay: Duration::ZERO..Duration::ZERO, corrupt_one_in: 0, cut_one_in: 0, stalled: false }
    }
}

/// What happens to one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fate {
    delay: Duration,
    /// The bit to flip, counted modulo the payload's bits.
    corrupt: Option<u64>,
    cut: bool,
}

impl SimNetwork {
    /// A network without faults, whose faults will be drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed, ..State::default() };
        Self(Arc::new(Network { state: Mutex::new(state), called: Condvar::new() }))
    }

    /// A new place in the network.
    pub fn backend(&self) -> Arc<SimBackend> {
        let mut state = self.0.lock();
        state.next_address += 1;
        let address = state.next_address;
        state.callers.insert(address, VecDeque::new());
        Arc::new(SimBackend { network: self.clone(), address })
    }

    /// Changes the faults for what is sent from now on.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.0.lock();
        state.faults = faults;
        state.connections.iter().for_each(|connection| connection.wake());
    }

    /// Cuts one of the open links, drawn from the seed. `false` if none is open.
    pub fn cut_one(&self) -> bool {
        let mut state = self.0.lock();
        state.connections.retain(|connection| !connection.is_over());
        if state.connections.is_empty() {
            return false;
        }
        let which = state.draw() % state.connections.len() as u64;
        state.connections[which as usize].cut();
        true
    }

    /// Links that are open.
    pub fn open_links(&self) -> usize {
        self.0.lock().connections.iter().filter(|connection| !connection.is_over()).count()
    }

    fn fate(&self, is_chunk: bool) -> Fate {
        let mut state = self.0.lock();
        let Range { start, end } = state.faults.delay;
        let spread = end.saturating_sub(start).as_nanos() as u64;
        let delay = if spread == 0 { start } else { start + Duration::from_nanos(state.draw() % spread) };
        let (corrupt, cut) = (state.faults.corrupt_one_in, state.faults.cut_one_in);
        let corrupted = is_chunk && state.strikes(corrupt);
        Fate { delay, corrupt: corrupted.then(|| state.draw()), cut: is_chunk && state.strikes(cut) }
    }

    fn is_stalled(&self) -> bool {
        self.0.lock().faults.stalled
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next number of the SplitMix64 sequence.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn strikes(&mut self, one_in: u32) -> bool {
        one_in > 0 && self.draw().is_multiple_of(u64::from(one_in))
    }
}

/// One place in a [`SimNetwork`].
#[derive(Debug)]
pub struct SimBackend {
    network: SimNetwork,
    address: u64,
}

impl Backend for SimBackend {
    fn id(&self) -> BackendId {
        BackendId::Sim
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { crosses_hosts: false, checks_payload: false, copies: 2 }
    }

    fn address(&self) -> Bytes {
        Bytes::copy_from_slice(&self.address.to_le_bytes())
    }

    fn open(&self, address: &[u8], _timeout: Duration) -> io::Result<Box<dyn Link>> {
        let bytes = address.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not an address"))?;
        let connection = Arc::new(Connection::new()?);
        let (near, far) = SimLink::pair(&connection, &self.network);
        let mut state = self.network.0.lock();
        let callers = state.callers.get_mut(&u64::from_le_bytes(bytes)).ok_or(io::ErrorKind::ConnectionRefused)?;
        callers.push_back(far);
        state.connections.retain(|connection| !connection.is_over());
        state.connections.push(connection);
        self.network.0.called.notify_all();
        Ok(Box::new(near))
    }

    fn accept(&self, timeout: Duration) -> io::Result<Option<Box<dyn Link>>> {
        let nobody = |state: &mut State| state.callers.get(&self.address).is_some_and(VecDeque::is_empty);
        let waited = self.network.0.called.wait_timeout_while(self.network.0.lock(), timeout, nobody);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let caller = state.callers.get_mut(&self.address).and_then(VecDeque::pop_front);
        Ok(caller.map(|link| Box::new(link) as Box<dyn Link>))
    }

    fn describe(&self, address: &[u8]) -> String {
        match address.try_into() {
            Ok(bytes) => format!("place {}", u64::from_le_bytes(bytes)),
            Err(_) => "nowhere".into(),
        }
    }

    fn close(&self) {
        self.network.0.lock().callers.remove(&self.address);
        self.network.0.called.notify_all();
    }
}

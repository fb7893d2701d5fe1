//! One transfer in the hands of whoever asked for it: a future, a blocking wait, a callback, a cancel.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use xfer_transport_core::limits::FENCE_TIMEOUT;
use xfer_transport_core::path::TransferId;
use xfer_transport_core::{BackendId, Forecast, Lane};

use crate::error::TransferError;
use crate::gate::{Gate, Inside, Reader};
use crate::memory::Slice;
use crate::peer::Peer;
use crate::stats::{Counters, add, subtract};

/// How a transfer went that completed: every byte is at its destination and was verified there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// How many bytes.
    pub bytes: u64,
    /// CRC-32C of all of them.
    pub crc32c: u32,
    /// What each backend carried, in bytes.
    pub over: Vec<(BackendId, u64)>,
    /// From the request to the last acknowledgement.
    pub took: Duration,
    /// Chunks that were sent more than once.
    pub retried_chunks: u32,
}

/// What a cancel came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// No byte of the source will be read and none of the destination written any more, on either side.
    Fenced,
    /// It was complete before the cancel reached it.
    Completed(Transferred),
    /// The peer gave no proof within a second that it writes nothing more. This side reads the source no more; its
    /// memory is held and counted until the proof comes or the peer is gone.
    Quarantined,
}

/// One transfer under way. Dropping it cancels nothing, and keeps no memory alive longer than the transfer does.
#[must_use = "a transfer reports its errors only here"]
#[derive(Clone)]
pub struct TransferHandle(Arc<Transfer>);

/// A transfer as the endpoint knows it.
pub(crate) struct Transfer {
    pub(crate) lane: Lane,
    pub(crate) len_bytes: u64,
    gate: Gate,
    state: Mutex<State>,
    done: Condvar,
    /// Where to cancel it: empty for a transfer that never began.
    at: OnceLock<(Arc<Peer>, TransferId)>,
    /// When it was expected to be done, if it has a deadline and its path was measured.
    forecast: OnceLock<Forecast>,
}

type Callback = Box<dyn FnOnce(&Result<Transferred, TransferError>) + Send>;

#[derive(Default)]
struct State {
    /// The source, as long as it may be read or is held back.
    source: Option<Slice>,
    result: Option<Result<Transferred, TransferError>>,
    /// Whether the other end is known to write nothing more.
    fenced: bool,
    /// Threads that sleep until the end: without any, waking them would cost a system call for nothing.
    sleepers: usize,
    /// It is about to end on a thread that must not run strangers' code.
    ends_unheard: bool,
    wakers: Vec<Waker>,
    callbacks: Vec<Callback>,
}

impl TransferHandle {
    pub(crate) fn new(transfer: Arc<Transfer>) -> Self {
        Self(transfer)
    }

    /// A transfer that failed before anything of it left.
    pub(crate) fn failed(lane: Lane, error: TransferError) -> Self {
        let transfer = Transfer::new(lane, 0, None);
        transfer.end(Err(error), true);
        Self(Arc::new(transfer))
    }

    /// Blocks until the transfer is over, or for `timeout`: then it is [`TransferError::StillRunning`].
    ///
    /// Without a timeout this ends when the transfer does: at its deadline, or when the peer is found dead, at the
    /// latest.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Transferred, TransferError> {
        let started = Instant::now();
        if let Some((peer, _)) = self.0.at.get()
            && !self.0.is_over()
        {
            peer.look_for_end(&self.0, timeout);
        }
        let mut state = self.0.lock();
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
            if let (Some(timeout), Some(Duration::ZERO)) = (timeout, left) {
                return Err(TransferError::StillRunning(timeout));
            }
            state = self.0.sleep(state, left);
        }
    }

    /// How it ended, if it has.
    pub fn try_result(&self) -> Option<Result<Transferred, TransferError>> {
        self.0.lock().result.clone()
    }

    /// When it was expected to be done, as it was asked for, and with [`Forecast::admission`] whether that is in time. Nothing
    /// for a transfer without a deadline, and while its path is not measured. A transfer that is not expected to be in time
    /// begins all the same: cancel it if what would arrive is worth nothing.
    pub fn forecast(&self) -> Option<Forecast> {
        self.0.forecast.get().copied()
    }

    /// Ends the transfer for sure. Takes a round trip, and a second at most.
    pub fn cancel(&self) -> Cancelled {
        if let Some((peer, id)) = self.0.at.get()
            && self.try_result().is_none()
        {
            peer.cancel(*id);
            // How that ended is asked again at the end of the transfer.
            let _ = self.0.close_gate();
            // The path gives up on the proof after FENCE_TIMEOUT; the margin is for the thread that says so.
            let _ = self.wait(Some(FENCE_TIMEOUT + Duration::from_millis(100)));
        }
        let state = self.0.lock();
        match &state.result {
            Some(Ok(transferred)) => Cancelled::Completed(transferred.clone()),
            Some(Err(_)) if state.fenced => Cancelled::Fenced,
            _ => Cancelled::Quarantined,
        }
    }

    /// Calls `f` when the transfer is over: at once and right here if it is already, else on a thread that serves
    /// links, so be brief and wait for nothing. A panic of `f` is logged and goes no further.
    pub fn on_done(&self, f: Callback) {
        let mut state = self.0.lock_heard();
        match &state.result {
            None => state.callbacks.push(f),
            Some(result) => {
                let result = result.clone();
                drop(state);
                call(f, &result);
            }
        }
    }
}

impl Future for TransferHandle {
    type Output = Result<Transferred, TransferError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock_heard();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for TransferHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = self.try_result();
        f.debug_struct("TransferHandle").field("bytes", &self.0.len_bytes).field("result", &result).finish()
    }
}

impl Transfer {
    pub(crate) fn new(lane: Lane, len_bytes: u64, source: Option<Slice>) -> Self {
        Self {
            lane,
            len_bytes,
            gate: Gate::default(),
            state: Mutex::new(State { source, ..State::default() }),
            done: Condvar::new(),
            at: OnceLock::new(),
            forecast: OnceLock::new(),
        }
    }

    pub(crate) fn began(&self, peer: Arc<Peer>, id: TransferId, forecast: Option<Forecast>) {
        let _ = self.at.set((peer, id));
        if let Some(forecast) = forecast {
            let _ = self.forecast.set(forecast);
        }
    }

    /// The part of the source that makes a chunk; nothing once it must not be read.
    pub(crate) fn source(self: &Arc<Self>, offset: u64, len_bytes: u32) -> Option<Source> {
        let state = self.lock();
        let slice = state.source.as_ref()?.slice(offset..offset.checked_add(u64::from(len_bytes))?)?;
        Some(Source { slice, transfer: Arc::clone(self) })
    }

    /// The source is read no more when this returns; or, if there is no proof of that within a second, `false`.
    pub(crate) fn close_gate(&self) -> bool {
        // Links copy without waiting, so whoever is inside leaves within a copy of one chunk; and a device that doesn't come to an
        // end by itself is stopped.
        self.gate.close(FENCE_TIMEOUT)
    }

    /// The same at the end of the transfer, whose bytes have all arrived if it is `done`.
    pub(crate) fn stop_reading(&self, done: bool) -> bool {
        if done {
            self.gate.finish();
        }
        let closed = self.close_gate();
        if !closed {
            tracing::error!(
                "a source is still read {FENCE_TIMEOUT:?} after its transfer: it is kept until that is over"
            );
        }
        closed
    }

    /// It is over: tells everyone who waits. Only the first end counts.
    pub(crate) fn end(&self, result: Result<Transferred, TransferError>, fenced: bool) -> bool {
        if result.is_ok() {
            self.gate.finish();
        }
        let fenced = self.close_gate() && fenced;
        let mut state = self.lock();
        if state.result.is_some() {
            return false;
        }
        state.fenced = fenced;
        if fenced {
            state.source = None;
        }
        let (wakers, callbacks) = (std::mem::take(&mut state.wakers), std::mem::take(&mut state.callbacks));
        state.result = Some(result.clone());
        let sleepers = state.sleepers;
        drop(state);
        if sleepers > 0 {
            self.done.notify_all();
        }
        wakers.into_iter().for_each(Waker::wake);
        callbacks.into_iter().for_each(|callback| call(callback, &result));
        true
    }

    /// Whether it is.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().result.is_some()
    }

    /// Whether nobody has to be told but those who block for it. If so it is about to end, and whoever wants to be told from
    /// here on waits until it has: another thread than one of ours must not run their code.
    pub(crate) fn is_unheard(&self) -> bool {
        let mut state = self.lock();
        state.ends_unheard = state.callbacks.is_empty() && state.wakers.is_empty();
        state.ends_unheard
    }

    /// Its state, for one who wants to be told of its end.
    fn lock_heard(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.ends_unheard && state.result.is_none() {
            state = self.sleep(state, None);
        }
        state
    }

    /// Until it ends, most often.
    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>, timeout: Option<Duration>) -> MutexGuard<'a, State> {
        state.sleepers += 1;
        let mut state = match timeout {
            None => self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => self.done.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0,
        };
        state.sleepers -= 1;
        state
    }

    /// Held back no longer. What a device still reads keeps its memory by itself.
    pub(crate) fn release(&self, fenced: bool) {
        let fenced = self.close_gate() && fenced;
        let mut state = self.lock();
        state.source = None;
        state.fenced |= fenced;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a stranger's code, which may be on a thread that serves links: a panic ends here, early or late.
fn call(callback: Callback, result: &Result<Transferred, TransferError>) {
    if catch_unwind(AssertUnwindSafe(|| callback(result))).is_err() {
        tracing::error!("a callback of a transfer panicked");
    }
}

/// A part of a transfer's source that a link may read while the gate is open.
#[derive(Clone)]
pub struct Source {
    slice: Slice,
    transfer: Arc<Transfer>,
}

impl Source {
    /// How many bytes there are.
    pub fn len_bytes(&self) -> u64 {
        self.slice.len_bytes()
    }

    /// Whether they are memory of a device.
    pub(crate) fn is_dmabuf(&self) -> bool {
        self.slice.region().is_dmabuf()
    }

    /// How many bytes the whole transfer has.
    pub(crate) fn transfer_bytes(&self) -> u64 {
        self.transfer.len_bytes
    }

    /// The bytes, unless they must not be read any more. Hold what this returns while reading, and never wait
    /// meanwhile: a cancel waits for it.
    pub fn read(&self) -> Option<Reading<'_>> {
        let inside = self.transfer.gate.enter()?;
        Some(Reading { slice: &self.slice, _inside: inside })
    }

    /// The bytes for a device, which reads them on the other end's behalf until what this returns is dropped; nothing if they
    /// must not be read any more. A cancel waits for that, and tells `reader` to see to it.
    pub(crate) fn expose(&self, reader: Arc<dyn Reader>, number: u64) -> Option<Exposed> {
        let exposed = Exposed(self.admit(reader, number)?);
        if let Some(counters) = exposed.0.counters() {
            add(&counters.exposed_bytes, self.slice.len_bytes());
        }
        Some(exposed)
    }

    /// The same for one who reads them on our own behalf.
    pub(crate) fn admit(&self, reader: Arc<dyn Reader>, number: u64) -> Option<Admitted> {
        let admitted = self.transfer.gate.admit(reader, number);
        admitted.then(|| Admitted {
            slice: self.slice.clone(),
            transfer: Arc::clone(&self.transfer),
            number,
            is_inside: true,
        })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?})", self.slice)
    }
}

/// The right to read a source.
pub struct Reading<'a> {
    slice: &'a Slice,
    _inside: Inside<'a>,
}

impl Reading<'_> {
    /// The bytes.
    pub fn slice(&self) -> &Slice {
        self.slice
    }
}

/// A source that somebody reads without our copying it. Drop it once that is over for sure.
pub(crate) struct Admitted {
    slice: Slice,
    transfer: Arc<Transfer>,
    number: u64,
    is_inside: bool,
}

impl Admitted {
    /// The bytes.
    pub(crate) fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Under which number it was admitted.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Nobody has to wait for its end any more; the memory is kept all the same.
    pub(crate) fn leave(&mut self) {
        if std::mem::take(&mut self.is_inside) {
            self.transfer.gate.leave(self.number);
        }
    }

    /// Those of its endpoint.
    pub(crate) fn counters(&self) -> Option<&Counters> {
        self.transfer.at.get().map(|(peer, _)| &*peer.shared.counters)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.number, self.slice)
    }
}

/// A source that the other end may read. Drop it once that is over for sure.
#[derive(Debug)]
pub(crate) struct Exposed(Admitted);

impl Exposed {
    /// The bytes.
    pub(crate) fn slice(&self) -> &Slice {
        self.0.slice()
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        if let Some(counters) = self.0.counters() {
            subtract(&counters.exposed_bytes, self.0.slice.len_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;

    #[test]
    fn a_source_that_is_still_read_is_not_fenced() {
        let region = Region::from_vec(vec![1; 8]);
        let transfer = Arc::new(Transfer::new(Lane::Step, 8, Some(region.all())));
        let source = transfer.source(0, 8).expect("all of it");
        let reading = source.read().expect("the gate is open");
        assert!(transfer.end(Err(TransferError::Cancelled), true));
        let handle = TransferHandle::new(Arc::clone(&transfer));
        assert_eq!(handle.cancel(), Cancelled::Quarantined);
        transfer.release(true);
        assert_eq!(handle.cancel(), Cancelled::Quarantined, "the other end's proof is not ours");
        drop(reading);
        transfer.release(true);
        assert_eq!(handle.cancel(), Cancelled::Fenced);
    }
}

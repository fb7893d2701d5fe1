//! Memory on loan: what a peer on this machine reads where it lies, without any copy, until it gives it back.
//!
//! The lender keeps the memory as it is: its region, and with it the arena's piece, lives until the borrower has given it
//! back or its process is known to be over. That a connection ended proves nothing: whoever has the memory mapped may
//! still read it. So such memory is held, and counted, and looked at whenever lost links are.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xfer_transport_core::PeerId;
use xfer_transport_core::message::{LinkMessage, Loan as Terms, LoanId, LoanRefusal};

use crate::error::{LendError, LoanError};
use crate::hub::{Channel, Offer};
use crate::limits::LOANS_MAX;
use crate::memory::{Slice, View};
use crate::peer::Peer;
use crate::stats::{Counters, add, subtract};

/// Memory that is lent. Dropping it ends nothing: the memory comes back when the borrower gives it back.
#[must_use = "a loan says only here how it ended"]
#[derive(Clone)]
pub struct Loan(Arc<Lent>);

/// What was borrowed: bytes of a peer, read where they lie. They are given back when this is dropped.
///
/// The lender promises to leave them alone meanwhile, and nothing here can write them. Whether it keeps its word is what
/// [`Borrowed::is_intact`] is for.
pub struct Borrowed {
    from: PeerId,
    terms: Terms,
    view: Arc<View>,
    peer: Weak<Peer>,
}

struct Lent {
    len_bytes: u64,
    ended: Mutex<Option<Result<(), LoanError>>>,
    done: Condvar,
}

/// The loans to and from one peer.
#[derive(Default)]
pub(crate) struct Loans {
    out: Mutex<Out>,
    /// What the peer has shown, by its own number.
    shown: Mutex<HashMap<u64, Weak<View>>>,
}

#[derive(Default)]
struct Out {
    next: u64,
    lent: HashMap<LoanId, (Arc<Lent>, Slice)>,
    /// The peer is gone: nothing is lent any more.
    closed: bool,
}

/// Memory that was lent to peers that are gone, until their processes are.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Vec<(Slice, Option<Arc<OwnedFd>>)>>);

impl Loan {
    /// Blocks until the memory is back, or for `timeout`: then it is [`LoanError::StillLent`].
    pub fn wait(&self, timeout: Duration) -> Result<(), LoanError> {
        let until = Instant::now() + timeout;
        let mut ended = lock(&self.0.ended);
        loop {
            if let Some(ended) = &*ended {
                return ended.clone();
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Err(LoanError::StillLent(timeout));
            };
            ended = self.0.done.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How it ended, if it has.
    pub fn try_result(&self) -> Option<Result<(), LoanError>> {
        lock(&self.0.ended).clone()
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("bytes", &self.0.len_bytes).field("result", &self.try_result()).finish()
    }
}

impl Lent {
    fn end(&self, result: Result<(), LoanError>) {
        lock(&self.ended).get_or_insert(result);
        self.done.notify_all();
    }
}

impl Borrowed {
    /// Whose bytes they are.
    pub fn from(&self) -> PeerId {
        self.from
    }

    /// How many there are.
    pub fn len_bytes(&self) -> u64 {
        self.terms.len_bytes
    }

    /// Where they lie. They may be read until this is dropped, and never written.
    pub fn as_ptr(&self) -> *const u8 {
        self.view.as_ptr().wrapping_add(self.terms.at as usize)
    }

    /// A copy of them.
    pub fn copy_to_vec(&self) -> Vec<u8> {
        self.view.copy_to_vec(self.terms.at as usize, self.terms.len_bytes as usize)
    }

    /// Their CRC-32C, which reads all of them.
    pub fn crc32c(&self) -> u32 {
        self.view.crc32c(self.terms.at as usize, self.terms.len_bytes as usize)
    }

    /// Whether they are those whose checksum the lender has given, which reads all of them; nothing if it gave none.
    pub fn is_intact(&self) -> Option<bool> {
        self.terms.crc32c.map(|crc32c| crc32c == self.crc32c())
    }
}

impl fmt::Debug for Borrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Borrowed({} bytes of {})", self.terms.len_bytes, self.from)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(peer) = self.peer.upgrade() {
            peer.say(&LinkMessage::Returned(self.terms.id));
        }
    }
}

impl Loans {
    /// Notes a loan, and says what the peer is to be told.
    pub(crate) fn lend(
        &self,
        peer: PeerId,
        channel: Channel,
        slice: Slice,
        crc32c: Option<u32>,
    ) -> Result<(Loan, Terms), LendError> {
        let (segment, at) = slice.shared().map(|(segment, at)| (segment.id(), at)).ok_or(LendError::NotShared)?;
        let mut out = lock(&self.out);
        if out.closed {
            return Err(LendError::NotConnected(peer));
        }
        if out.lent.len() >= LOANS_MAX {
            return Err(LendError::TooMany(peer));
        }
        out.next += 1;
        let (id, len_bytes) = (LoanId(out.next), slice.len_bytes());
        let lent = Arc::new(Lent { len_bytes, ended: Mutex::default(), done: Condvar::new() });
        out.lent.insert(id, (Arc::clone(&lent), slice));
        Ok((Loan(lent), Terms { id, channel: channel.0, segment, at, len_bytes, crc32c }))
    }

    /// The memory of a loan, for whoever has to show it.
    pub(crate) fn memory(&self, id: LoanId) -> Option<Slice> {
        lock(&self.out).lent.get(&id).map(|(_, slice)| slice.clone())
    }

    /// The peer has given something back, or doesn't take it. Said twice, or of what was never lent, it is no news.
    pub(crate) fn ended(&self, id: LoanId, result: Result<(), LoanError>, counters: &Counters) {
        let lent = lock(&self.out).lent.remove(&id);
        if let Some((lent, slice)) = lent {
            subtract(&counters.lent_bytes, slice.len_bytes());
            // The memory first: whoever waits may want it.
            drop(slice);
            lent.end(result);
        }
    }

    /// The peer is gone. What it has borrowed is held until its process is over.
    pub(crate) fn close(&self, error: &LoanError, process: Option<&Arc<OwnedFd>>, held: &Held) {
        let lent: Vec<_> = {
            let mut out = lock(&self.out);
            out.closed = true;
            out.lent.drain().collect()
        };
        for (_, (lent, slice)) in lent {
            held.hold(slice, process.cloned());
            lent.end(Err(error.clone()));
        }
    }

    /// The peer has shown a segment.
    pub(crate) fn shown(&self, id: u64, view: &Arc<View>) {
        let mut shown = lock(&self.shown);
        shown.retain(|_, view| view.strong_count() > 0);
        shown.insert(id, Arc::downgrade(view));
    }

    /// The peer lends something: hands it to whoever asked for such, or says why not.
    pub(crate) fn offered(peer: &Arc<Peer>, terms: Terms) {
        let view = lock(&peer.loans.shown).get(&terms.segment).and_then(Weak::upgrade);
        let inside =
            |view: &Arc<View>| terms.at.checked_add(terms.len_bytes).is_some_and(|end| end <= view.len_bytes());
        let refusal = match view.filter(inside) {
            None => LoanRefusal::NotSeen,
            Some(view) => {
                let from = peer.id();
                let borrowed = Borrowed { from, terms, view, peer: Arc::downgrade(peer) };
                match peer.shared.hub.lend(Channel(terms.channel), borrowed) {
                    Ok(()) => return,
                    Err((offer, mut back)) => {
                        // It was never taken, so it isn't given back.
                        back.peer = Weak::new();
                        if matches!(offer, Offer::Full) { LoanRefusal::Behind } else { LoanRefusal::Nobody }
                    }
                }
            }
        };
        peer.path().reply(&LinkMessage::LoanRefused { loan: terms.id, refusal });
    }
}

impl Held {
    fn hold(&self, slice: Slice, process: Option<Arc<OwnedFd>>) {
        lock(&self.0).push((slice, process));
    }

    /// Lets go of what was lent to processes that are over.
    pub(crate) fn look(&self, counters: &Counters) {
        lock(&self.0).retain(|(slice, process)| {
            let over = process.as_ref().is_some_and(is_over);
            if over {
                subtract(&counters.lent_bytes, slice.len_bytes());
            }
            !over
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Somebody may still read it, so it is never handed out again.
        let held = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, process)| !process.as_ref().is_some_and(is_over));
        held.drain(..).for_each(|(slice, _)| std::mem::forget(slice));
    }
}

/// Whether a process has ended: its descriptor is readable then.
fn is_over(process: &Arc<OwnedFd>) -> bool {
    let mut descriptors = [PollFd::new(&**process, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut descriptors, Some(&at_once)), Ok(1..))
}

impl Peer {
    /// Lends `slice` to the peer.
    pub(crate) fn lend(
        self: &Arc<Self>,
        channel: Channel,
        slice: Slice,
        crc32c: Option<u32>,
    ) -> Result<Loan, LendError> {
        if !self.sees_memory() {
            return Err(LendError::OtherMachine(self.id()));
        }
        let len_bytes = slice.len_bytes();
        let (loan, terms) = self.loans.lend(self.id(), channel, slice, crc32c)?;
        add(&self.shared.counters.lent_bytes, len_bytes);
        self.say(&LinkMessage::Lend(terms));
        Ok(loan)
    }

    fn say(self: &Arc<Self>, message: &LinkMessage) {
        self.path().reply(message);
        self.kick();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! How the two ends of a link get to know each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use xfer_transport_core::PeerId;
use xfer_transport_core::frame::FrameError;
use xfer_transport_core::limits::HANDSHAKES_MAX;
use xfer_transport_core::message::{Greeting, Hello, LinkRole, RejectReason};

use crate::backend::LinkError;
use crate::error::{ConnectError, DownReason};
use crate::peer::{Identity, Peer};
use crate::peers::{OpenedBy, Peers};
use crate::stats::add;
use crate::worker::Worker;

/// Which end of a greeting this is.
pub(crate) enum Side {
    /// We opened the link.
    Opening(Opening),
    /// They did.
    Accepting(Accepting),
}

/// We opened a link and wait for the answer.
pub(crate) struct Opening {
    pub(crate) peers: Arc<Peers>,
    pub(crate) hello: Hello,
    /// Which process is meant.
    pub(crate) nonce: u64,
    /// Who waits for the outcome; told once.
    pub(crate) done: Option<SyncSender<Result<Arc<Peer>, ConnectError>>>,
}

/// Somebody opened a link and has not said who it is.
pub(crate) struct Accepting {
    pub(crate) peers: Arc<Peers>,
    /// Counted until it has.
    pub(crate) pending: Option<Pending>,
}

/// A connection that has not introduced itself.
pub(crate) struct Pending(Arc<AtomicUsize>);

impl Pending {
    /// Counts one more, if there may be more.
    pub(crate) fn enter(count: &Arc<AtomicUsize>) -> Option<Self> {
        let admitted = count.fetch_add(1, Ordering::SeqCst) < HANDSHAKES_MAX;
        let pending = Self(Arc::clone(count));
        admitted.then_some(pending)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Side {
    /// What we say first, if it is on us.
    pub(crate) fn first_words(&self) -> Option<Greeting> {
        match self {
            Self::Opening(opening) => Some(Greeting::Hello(opening.hello.clone())),
            Self::Accepting(_) => None,
        }
    }

    /// The other end has said who it is, or what it thinks of us.
    pub(crate) fn greeted(&mut self, worker: &Arc<Worker>, greeting: Greeting) -> Result<(), DownReason> {
        match self {
            Self::Opening(opening) => opening.answered(worker, greeting),
            Self::Accepting(accepting) => accepting.introduced(worker, greeting),
        }
    }

    /// The link ended. If that was before both knew each other, whoever waits for it is told.
    pub(crate) fn ended(mut self, worker: &Worker, error: Option<&LinkError>, reason: &DownReason) {
        match &mut self {
            Self::Opening(opening) => {
                let peer = opening.hello.to;
                let error = match error {
                    Some(LinkError::Frame(FrameError::Version(theirs))) => {
                        ConnectError::Version { peer, theirs: *theirs }
                    }
                    _ => ConnectError::Lost { peer, reason: reason.to_string() },
                };
                opening.tell(Err(error));
            }
            Self::Accepting(accepting) => {
                if accepting.pending.take().is_some() {
                    add(&accepting.peers.shared().counters.handshakes_refused, 1);
                    tracing::warn!("refused a connection: {reason}");
                    if let Some(LinkError::Frame(error)) = error {
                        let reject = match error {
                            FrameError::Version(_) => RejectReason::Version,
                            _ => RejectReason::Malformed,
                        };
                        worker.say_goodbye(&Greeting::Reject(reject, error.to_string()));
                    }
                }
            }
        }
    }
}

impl Opening {
    fn answered(&mut self, worker: &Arc<Worker>, greeting: Greeting) -> Result<(), DownReason> {
        let expected = self.hello.to;
        match greeting {
            Greeting::Welcome { id, nonce, session } => {
                if id != expected || nonce != self.nonce {
                    self.tell(Err(ConnectError::WrongPeer { expected, found: id }));
                    return Err(DownReason::Violation(format!("{id} answered where {expected} should")));
                }
                let identity = Identity { id, nonce, session };
                match self.peers.admit(identity, worker, OpenedBy::Us { session: self.hello.session }) {
                    Ok(peer) => {
                        worker.open(&peer, self.hello.role, None);
                        self.tell(Ok(peer));
                        Ok(())
                    }
                    Err((_, sentence)) => {
                        let began_anew = self.peers.session(expected.rank) != self.hello.session;
                        self.tell(Err(match began_anew {
                            true => ConnectError::BeganAnew(expected),
                            false => ConnectError::Lost { peer: expected, reason: sentence.clone() },
                        }));
                        Err(DownReason::Lost(sentence))
                    }
                }
            }
            Greeting::Reject(reason, sentence) => {
                let down = DownReason::Lost(format!("refused: {sentence}"));
                self.tell(Err(ConnectError::Refused { peer: expected, reason, sentence }));
                Err(down)
            }
            Greeting::Hello(_) | Greeting::Bye => Err(DownReason::Violation("no answer to a hello".into())),
        }
    }

    fn tell(&mut self, outcome: Result<Arc<Peer>, ConnectError>) {
        if let Some(done) = self.done.take() {
            // Whoever waited may have given up.
            let _ = done.try_send(outcome);
        }
    }
}

impl Accepting {
    fn introduced(&mut self, worker: &Arc<Worker>, greeting: Greeting) -> Result<(), DownReason> {
        let Greeting::Hello(hello) = greeting else {
            return Err(DownReason::Violation("the first frame was no hello".into()));
        };
        let admitted = self.peers.judge(&hello).and_then(|identity| self.peers.admit(identity, worker, OpenedBy::Them));
        match admitted {
            Ok(peer) => {
                self.pending = None;
                let welcome = self.welcome(hello.from);
                worker.open(&peer, hello.role, Some(&welcome));
                Ok(())
            }
            Err((reason, sentence)) => {
                self.pending = None;
                add(&self.peers.shared().counters.handshakes_refused, 1);
                tracing::warn!("refused {}: {sentence}", hello.from);
                worker.say_goodbye(&Greeting::Reject(reason, sentence.clone()));
                Err(DownReason::Lost(format!("refused: {sentence}")))
            }
        }
    }

    fn welcome(&self, to: PeerId) -> Greeting {
        let shared = self.peers.shared();
        Greeting::Welcome { id: shared.id, nonce: shared.nonce, session: self.peers.session(to.rank) }
    }
}

/// The role of a peer's first link, and of the others that carry something.
pub(crate) fn role_of(link: usize) -> LinkRole {
    if link == 0 { LinkRole::Control } else { LinkRole::Data }
}

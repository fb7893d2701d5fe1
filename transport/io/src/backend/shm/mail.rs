//! The two mailboxes of one link: made when somebody first looks for letters, and shown to the other end over the socket.

use std::sync::Arc;

use super::mailbox::{BOX_BYTES, LETTER_BYTES_MAX, Lie, Mailbox, Put, Taken};
use crate::backend::LinkError;
use crate::memory::{Segment, View};

/// Both boxes, and what was sent and received beside them.
#[derive(Default)]
pub(super) struct Mail {
    mailbox: Mailbox,
    ours: Option<Arc<Segment>>,
    /// The other end can see ours.
    is_shown: bool,
    theirs: Option<Arc<View>>,
    /// Packets that went and came over the socket.
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Mail {
    /// Somebody looks for letters from here on, or nobody does: then look once more.
    pub(super) fn look(&mut self, begins: bool) {
        if begins {
            self.make();
        }
        if let Some(ours) = &self.ours {
            Mailbox::look(ours.words(), begins);
        }
    }

    /// Where there is no memory for it, everything goes over the socket.
    fn make(&mut self) {
        let made = || Segment::create(BOX_BYTES).and_then(|segment| segment.reserve(0, BOX_BYTES).map(|()| segment));
        if self.ours.is_none() {
            self.ours = made().ok().map(Arc::new);
        }
    }

    /// Ours, if the other end has to be shown it.
    pub(super) fn take_unshown(&mut self) -> Option<Arc<Segment>> {
        let ours = self.ours.clone().filter(|_| !self.is_shown);
        self.is_shown |= ours.is_some();
        ours
    }

    /// Whether another box may be shown, of so many bytes.
    pub(super) fn admits(&self, len_bytes: u64) -> bool {
        self.theirs.is_none() && len_bytes == BOX_BYTES
    }

    /// The other end has shown its own. It looks for letters, so ours is needed too.
    pub(super) fn shown(&mut self, theirs: Arc<View>) {
        self.make();
        self.theirs = Some(theirs);
    }

    /// Whether a packet that is short enough would go by letter just now.
    pub(super) fn is_looked_at(&self) -> bool {
        let theirs = self.theirs.as_ref().filter(|_| self.is_shown);
        theirs.is_some_and(|theirs| Mailbox::is_looked_at(theirs.words()))
    }

    /// Puts a packet into our box, if it can go that way.
    pub(super) fn put(&mut self, head: &[u8], inline: &[u8]) -> Result<Put, LinkError> {
        match (&self.ours, &self.theirs) {
            (Some(ours), Some(theirs)) if self.is_shown => {
                Ok(self.mailbox.put(ours.words(), theirs.words(), self.sent, [head, inline])?)
            }
            _ => Ok(Put::No),
        }
    }

    /// Whether there is a letter.
    pub(super) fn peek(&self) -> bool {
        self.ours.is_some() && self.theirs.as_ref().is_some_and(|theirs| self.mailbox.peek(theirs.words()))
    }

    /// Takes the next letter, unless something on the socket comes first.
    pub(super) fn take(&mut self, into: &mut [u8; LETTER_BYTES_MAX]) -> Result<Taken, LinkError> {
        match (&self.ours, &self.theirs) {
            (Some(ours), Some(theirs)) => Ok(self.mailbox.take(ours.words(), theirs.words(), self.received, into)?),
            _ => Ok(Taken::Nothing),
        }
    }
}

impl From<Lie> for LinkError {
    fn from(Lie(what): Lie) -> Self {
        Self::Violation(format!("its mailbox says what can't be: {what}"))
    }
}

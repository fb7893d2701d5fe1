//! How the two ends of a link get to know each other.

use xfer_transport_core::BackendId;
use xfer_transport_core::frame::FrameError;
use xfer_transport_core::limits::LINKS_PER_PEER_MAX;
use xfer_transport_core::link::LinkMachine;
use xfer_transport_core::message::{Greeting, Hello, LinkRole, RejectReason};
use xfer_transport_core::path::LinkId;

use super::{DIAL_TIMEOUT, Down, Endpoint, Identity, Link, LinkEvent, Opening, Peer, Rank};
use crate::network::WireId;
use crate::outside::{Address, Outside};
use crate::step::Step;

/// Which end opened a link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OpenedBy {
    /// We did, and said so under this number for the connection.
    Us(u64),
    Them,
}

type Rejection = (RejectReason, String);

impl Endpoint {
    /// Opens a link to whoever is at `address`.
    pub(super) fn call(&mut self, out: &mut Outside, address: Address, role: LinkRole) {
        let hello = Hello {
            job: self.job.clone(),
            from: self.id,
            nonce: self.nonce,
            session: self.session(out, address.id.rank),
            to: address.id,
            role,
        };
        let id = self.next_link();
        let wire = out.open_wire(self.id, id, address.id.rank);
        let mut link = self.link(out, wire, 0, role);
        link.greetings.push_back(Greeting::Hello(hello.clone()).encode());
        link.opening = Some(Opening { hello, nonce: address.nonce, until: out.now.after(DIAL_TIMEOUT) });
        self.links.insert(id, link);
        out.reach(Step::Handshake, self.id);
    }

    /// Somebody calls.
    pub fn accept(&mut self, out: &mut Outside, wire: WireId) -> LinkId {
        let id = self.next_link();
        let link = self.link(out, wire, 1, LinkRole::Data);
        self.links.insert(id, link);
        id
    }

    fn next_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    fn link(&self, out: &Outside, wire: WireId, end: usize, role: LinkRole) -> Link {
        Link {
            wire,
            end,
            machine: LinkMachine::new(self.local(out.now)),
            opening: None,
            peer: None,
            role,
            greetings: Default::default(),
            beat: false,
            arriving: None,
            slot: None,
            paced_until: None,
        }
    }

    /// Our number for the connection to `rank`; a new one after each end.
    fn session(&mut self, out: &mut Outside, rank: u32) -> u64 {
        let fresh = || Rank { incarnation: 0, session: out.random.number() };
        self.ranks.entry(rank).or_insert_with(fresh).session
    }

    /// The other end has said who it is, or what it thinks of us.
    pub(super) fn greeted(&mut self, out: &mut Outside, id: LinkId, greeting: Greeting) -> Result<(), Down> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        match (link.opening.take(), greeting) {
            (Some(opening), Greeting::Welcome { id: found, nonce, session }) => {
                if found != opening.hello.to || nonce != opening.nonce {
                    return Err(Down::Violation(format!("{found} answered where {} should", opening.hello.to)));
                }
                let identity = Identity { id: found, nonce, session };
                let opened_by = OpenedBy::Us(opening.hello.session);
                self.admit(out, identity, id, opened_by).map_err(|_| Down::Lost("the connection began anew"))?;
                self.open(out, id, found.rank, opening.hello.role);
                if let Some(peer) = self.peers.get_mut(&found.rank) {
                    peer.dialled = true;
                }
                Ok(())
            }
            (Some(opening), Greeting::Reject(reason, sentence)) => {
                out.note(self.id, "link", || format!("refused by {}: {sentence}", opening.hello.to));
                out.checks.refused(reason);
                Err(Down::Lost("refused"))
            }
            (Some(_), _) => Err(Down::Violation("no answer to a hello".to_owned())),
            (None, Greeting::Hello(hello)) => self.introduced(out, id, &hello),
            (None, _) => Err(Down::Violation("the first frame was no hello".to_owned())),
        }
    }

    fn introduced(&mut self, out: &mut Outside, id: LinkId, hello: &Hello) -> Result<(), Down> {
        let judged = self.judge(hello).and_then(|identity| self.admit(out, identity, id, OpenedBy::Them));
        match judged {
            Ok(()) => {
                let session = self.session(out, hello.from.rank);
                let welcome = Greeting::Welcome { id: self.id, nonce: self.nonce, session };
                if let Some(link) = self.links.get_mut(&id) {
                    link.greetings.push_back(welcome.encode());
                }
                self.open(out, id, hello.from.rank, hello.role);
                Ok(())
            }
            Err((reason, sentence)) => {
                out.note(self.id, "link", || format!("refuses {}: {sentence}", hello.from));
                self.reject(out, id, reason, sentence);
                Err(Down::Left)
            }
        }
    }

    /// A stranger's first frame can't be understood.
    pub(super) fn reject_frame(&mut self, out: &mut Outside, id: LinkId, error: FrameError) {
        let unknown = self.links.get(&id).is_some_and(|link| link.peer.is_none() && link.opening.is_none());
        if unknown {
            let reason = match error {
                FrameError::Version(_) => RejectReason::Version,
                _ => RejectReason::Malformed,
            };
            self.reject(out, id, reason, error.to_string());
        }
    }

    fn reject(&mut self, out: &mut Outside, id: LinkId, reason: RejectReason, sentence: String) {
        out.checks.refused(reason);
        if let Some(link) = self.links.get(&id) {
            let payload = Greeting::Reject(reason, sentence).encode();
            self.send_greeting(out, link.wire, link.end, payload);
        }
    }

    fn open(&mut self, out: &mut Outside, id: LinkId, rank: u32, role: LinkRole) {
        let now = self.local(out.now);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.role = role;
        link.peer = Some(rank);
        // It was greeting, so it can be welcomed.
        let _ = link.machine.handle(LinkEvent::Welcomed, now);
        if let Some(peer) = self.peers.get_mut(&rank) {
            peer.path.add_link(id, BackendId::Sim, role);
        }
        self.pump(out);
        // The one that called opens the other links at once.
        self.next_dial = self.next_dial.min(out.now);
    }

    /// Judges who opens a link to us.
    fn judge(&self, hello: &Hello) -> Result<Identity, Rejection> {
        if hello.job != self.job {
            return Err((RejectReason::Job, format!("{} is in job {:?}, not in {:?}", self.id, self.job, hello.job)));
        }
        if hello.from.rank == self.id.rank {
            return Err((RejectReason::Claimed, format!("rank {} is already claimed", self.id.rank)));
        }
        if hello.to != self.id {
            return Err((RejectReason::NotMe, format!("this is {}, not {}", self.id, hello.to)));
        }
        Ok(Identity { id: hello.from, nonce: hello.nonce, session: hello.session })
    }

    /// Makes a link one of the peer with this identity, who may be new or take an earlier life's place.
    fn admit(&mut self, out: &mut Outside, identity: Identity, id: LinkId, by: OpenedBy) -> Result<(), Rejection> {
        let rank = identity.id.rank;
        let our_session = self.session(out, rank);
        let began_anew = || (RejectReason::Superseded, "the connection began anew meanwhile".to_owned());
        if matches!(by, OpenedBy::Us(session) if session != our_session) {
            return Err(began_anew());
        }
        let here = self.ranks.get(&rank).map_or(0, |rank| rank.incarnation);
        if identity.id.incarnation < here {
            return Err((RejectReason::Superseded, format!("{} is of the past: life {here} was here", identity.id)));
        }
        if let Some(peer) = self.peers.get_mut(&rank) {
            if peer.identity == identity {
                if peer.links.len() >= LINKS_PER_PEER_MAX {
                    return Err((RejectReason::Busy, format!("{LINKS_PER_PEER_MAX} links are open already")));
                }
                peer.links.insert(id);
                return Ok(());
            }
            if peer.identity.id == identity.id && peer.identity.nonce != identity.nonce {
                return Err((RejectReason::Claimed, format!("rank {rank} is already claimed")));
            }
            self.bring_down(out, rank, &Down::Replaced);
            if matches!(by, OpenedBy::Us(_)) {
                return Err(began_anew());
            }
        }
        let our_session = self.session(out, rank);
        self.ranks.insert(rank, Rank { incarnation: identity.id.incarnation, session: our_session });
        let peer = Peer {
            identity,
            our_session,
            path: super::Path::new(self.config),
            inbound: Default::default(),
            links: [id].into(),
            transfers: Default::default(),
            quarantine: Default::default(),
            unproven: false,
            dialled: false,
        };
        self.peers.insert(rank, peer);
        out.note(self.id, "link", || format!("{} is connected", identity.id));
        Ok(())
    }
}

//! Sessions answer alike whenever they are asked alike, so each answer is worked out once.
//!
//! The millions of states of a job are combinations of a few thousand states of its sessions.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use xfer_migrate_core::session::{Event, Input, Output, SourceSession, TargetSession, Violation};
use xfer_migrate_core::{Body, GenerationRecord, ItemId, Message, Seal};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{PeerId, RemoteRegion, Time};

use crate::fingerprint::{Print, Printed, Printer, print_by, print_of};
use crate::store::Store;
use crate::world::{Pair, Source, World};

/// Answers that are kept; beyond, all are forgotten and worked out anew, so that memory is bounded.
const ANSWERS_MAX: usize = 400_000;

/// What happens to a session.
#[derive(Debug, Clone, Hash)]
pub enum Stimulus {
    Message(PeerId, Printed<Message>),
    Generation(Printed<GenerationRecord>),
    Other(Input),
    /// Its timer is due.
    Timer,
}

/// What a session wants done, or says.
#[derive(Debug, Clone)]
pub enum Effect {
    Send(u32, Printed<Message>),
    Compare(ItemId, Landed),
    Write(ItemId, u32, RemoteRegion, Landed),
    Withdraw(ItemId),
    Allocate(Vec<(ItemId, u64)>),
    Verify(ItemId, u32),
    Fence,
    Publish(String, Printed<Seal>),
    Watch,
    Propose(Printed<GenerationRecord>),
    Ended(Printed<GenerationRecord>),
}

/// What became of a session.
#[derive(Debug)]
pub struct Answer<S> {
    pub session: Printed<S>,
    pub effects: Vec<Effect>,
    /// Why it refused what happened.
    pub refused: Option<Violation>,
}

/// All answers that were worked out lately.
#[derive(Debug)]
pub struct Memo {
    /// Whether sessions that do the same from now on are taken for one.
    reduced: bool,
    sources: HashMap<Print, Arc<Answer<SourceSession>>>,
    targets: HashMap<Print, Arc<Answer<TargetSession>>>,
    /// What sessions that are taken for one when all is reduced have answered, where it isn't.
    alike: HashMap<Print, Print>,
    /// A session that answered otherwise than another one that would be taken for it.
    unlike: Option<String>,
    /// Parts of states, each once.
    all_sources: HashMap<Print, Arc<Source>>,
    all_pairs: HashMap<Print, Arc<Pair>>,
    all_stores: HashMap<Print, Printed<Store>>,
}

impl Memo {
    /// No answers yet.
    pub fn new(reduced: bool) -> Self {
        Self {
            reduced,
            sources: HashMap::new(),
            targets: HashMap::new(),
            alike: HashMap::new(),
            unlike: None,
            all_sources: HashMap::new(),
            all_pairs: HashMap::new(),
            all_stores: HashMap::new(),
        }
    }

    /// A store, once, with the fingerprint by which this search tells stores apart.
    pub fn store(&mut self, store: Store) -> Printed<Store> {
        let whole = print_of(&store);
        if let Some(known) = self.all_stores.get(&whole) {
            return known.clone();
        }
        if self.all_stores.len() >= ANSWERS_MAX {
            self.all_stores.clear();
        }
        let print = if self.reduced { store.print_what_matters() } else { whole };
        let store = Printed::with(store, print);
        self.all_stores.insert(whole, store.clone());
        store
    }

    /// Keeps equal parts of states once: there are far fewer of them than of states.
    pub fn share(&mut self, world: &mut World) {
        world.sources.iter_mut().for_each(|source| share(&mut self.all_sources, source));
        world.pairs.iter_mut().for_each(|pair| share(&mut self.all_pairs, pair));
    }

    /// A session that does otherwise than another one that a reduced search takes for it. Looked for where nothing is
    /// reduced.
    pub fn unlike(&self) -> Option<&str> {
        self.unlike.as_deref()
    }

    /// A session, with the fingerprint by which this search tells sessions apart.
    pub fn printed<S: Session>(&self, session: S) -> Printed<S> {
        if self.reduced {
            let print = print_by(|printer| session.hash_what_matters(printer));
            Printed::with(session, print)
        } else {
            Printed::new(session)
        }
    }

    /// What `session` does about `stimulus` at `now`.
    pub fn source(
        &mut self,
        session: &Printed<SourceSession>,
        now: Time,
        stimulus: &Stimulus,
    ) -> Arc<Answer<SourceSession>> {
        let key = print_of(&(session, now, stimulus));
        if let Some(answer) = self.sources.get(&key) {
            return Arc::clone(answer);
        }
        let answer = self.work_out(session, now, stimulus);
        keep(&mut self.sources, key, answer)
    }

    /// What `session` does about `stimulus` at `now`.
    pub fn target(
        &mut self,
        session: &Printed<TargetSession>,
        now: Time,
        stimulus: &Stimulus,
    ) -> Arc<Answer<TargetSession>> {
        let key = print_of(&(session, now, stimulus));
        if let Some(answer) = self.targets.get(&key) {
            return Arc::clone(answer);
        }
        let answer = self.work_out(session, now, stimulus);
        keep(&mut self.targets, key, answer)
    }

    fn work_out<S: Session>(&mut self, session: &Printed<S>, now: Time, stimulus: &Stimulus) -> Answer<S> {
        let mut asked: S = (**session).clone();
        let refused = match stimulus {
            Stimulus::Message(from, message) => {
                asked.handle(now, Input::Message { from: *from, message: (**message).clone() }).err()
            }
            Stimulus::Generation(record) => {
                asked.handle(now, Input::GenerationSeen { record: (**record).clone() }).err()
            }
            Stimulus::Other(input) => asked.handle(now, input.clone()).err(),
            Stimulus::Timer => {
                asked.handle_timeout(now);
                None
            }
        };
        let effects = drain(&mut asked, now, self.reduced);
        if !self.reduced {
            self.doubt::<S>(session, now, stimulus, &asked, &effects);
        }
        Answer { session: self.printed(asked), effects, refused }
    }

    /// Compares an answer with those of sessions that a reduced search takes for this one.
    fn doubt<S: Session>(&mut self, before: &S, now: Time, stimulus: &Stimulus, after: &S, effects: &[Effect]) {
        let asked = print_by(|printer| {
            before.hash_what_matters(printer);
            now.hash(printer);
            match stimulus {
                Stimulus::Generation(record) => without_reason((**record).clone()).hash(printer),
                other => other.hash(printer),
            }
        });
        let answered = print_by(|printer| {
            after.hash_what_matters(printer);
            effects.iter().for_each(|effect| effect.hash_what_matters(printer));
        });
        if *self.alike.entry(asked).or_insert(answered) != answered {
            self.unlike = Some(format!("{stimulus:?} at {now}: {before:?}"));
        }
    }
}

fn share<T: Hash>(known: &mut HashMap<Print, Arc<T>>, part: &mut Arc<T>) {
    if known.len() >= ANSWERS_MAX {
        known.clear();
    }
    let kept = known.entry(print_of(&**part)).or_insert_with(|| Arc::clone(part));
    *part = Arc::clone(kept);
}

fn keep<S>(known: &mut HashMap<Print, Arc<Answer<S>>>, key: Print, answer: Answer<S>) -> Arc<Answer<S>> {
    let answer = Arc::new(answer);
    if known.len() >= ANSWERS_MAX {
        known.clear();
    }
    known.insert(key, Arc::clone(&answer));
    answer
}

impl Effect {
    /// Feeds `hasher` with what follows from it, which is everything but reasons in words.
    fn hash_what_matters(&self, hasher: &mut Printer) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Self::Send(to, message) => match &message.body {
                Body::Refuse { .. } => (to, message.migration).hash(hasher),
                _ => (to, message).hash(hasher),
            },
            Self::Compare(item, kept) => (item, kept).hash(hasher),
            Self::Write(item, to, remote, there) => (item, to, remote, there).hash(hasher),
            Self::Withdraw(item) => item.hash(hasher),
            Self::Allocate(items) => items.hash(hasher),
            Self::Verify(item, crc32c) => (item, crc32c).hash(hasher),
            Self::Fence | Self::Watch => {}
            Self::Publish(key, seal) => (key, seal).hash(hasher),
            Self::Propose(record) | Self::Ended(record) => without_reason((**record).clone()).hash(hasher),
        }
    }
}

/// What nobody decides by is left out, so that records that differ in it alone are one.
fn without_reason(record: GenerationRecord) -> GenerationRecord {
    GenerationRecord { reason: String::new(), ..record }
}

/// What both kinds of sessions can do.
pub trait Session: Clone + Hash + fmt::Debug {
    fn hash_what_matters(&self, hasher: &mut Printer);
    fn handle(&mut self, now: Time, input: Input) -> Result<(), Violation>;
    fn handle_timeout(&mut self, now: Time);
    fn poll_output(&mut self, now: Time) -> Option<Output>;
    fn poll_event(&mut self) -> Option<Event>;
}

macro_rules! session {
    ($name:ident) => {
        impl Session for $name {
            fn hash_what_matters(&self, hasher: &mut Printer) {
                $name::hash_what_matters(self, hasher);
            }

            fn handle(&mut self, now: Time, input: Input) -> Result<(), Violation> {
                $name::handle(self, now, input)
            }

            fn handle_timeout(&mut self, now: Time) {
                $name::handle_timeout(self, now);
            }

            fn poll_output(&mut self, now: Time) -> Option<Output> {
                $name::poll_output(self, now)
            }

            fn poll_event(&mut self) -> Option<Event> {
                $name::poll_event(self)
            }
        }
    };
}

session!(SourceSession);
session!(TargetSession);

/// All that a session wants done at `now`.
pub fn drain<S: Session>(session: &mut S, now: Time, reduced: bool) -> Vec<Effect> {
    let mut effects = Vec::new();
    while let Some(output) = session.poll_output(now) {
        effects.push(match output {
            Output::Send { to, message } => Effect::Send(to, Printed::new(message)),
            Output::Compare { item, kept } => Effect::Compare(item, kept),
            Output::Write { item, to, remote, there } => Effect::Write(item, to, remote, there),
            Output::Withdraw { item } => Effect::Withdraw(item),
            Output::Allocate { items } => Effect::Allocate(items),
            Output::Verify { item, crc32c } => Effect::Verify(item, crc32c),
            Output::FenceAll => Effect::Fence,
            Output::PublishSeal { key, seal } => Effect::Publish(key, Printed::new(seal)),
            Output::WatchSeals { .. } => Effect::Watch,
            Output::Propose { record } if reduced => Effect::Propose(Printed::new(without_reason(record))),
            Output::Propose { record } => Effect::Propose(Printed::new(record)),
        });
    }
    while let Some(event) = session.poll_event() {
        match event {
            Event::Committed { record }
            | Event::Restored { record }
            | Event::Withdrawn { record }
            | Event::Superseded { record } => effects.push(Effect::Ended(Printed::new(record))),
            _ => {}
        }
    }
    effects
}

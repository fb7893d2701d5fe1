//! Sessions answer alike whenever they are asked alike, so each answer is worked out once.
//!
//! The millions of states of a job are combinations of a few thousand states of its sessions.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use xfer_migrate_core::session::{Event, Input, Output, SourceSession, TargetSession, Violation};
use xfer_migrate_core::{GenerationRecord, ItemId, Message, Seal};
use xfer_transport_core::{PeerId, RemoteRegion, Time};

use crate::fingerprint::{Print, Printed, print_of};

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
    Write(ItemId, u32, RemoteRegion),
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
#[derive(Debug, Default)]
pub struct Memo {
    sources: HashMap<Print, Arc<Answer<SourceSession>>>,
    targets: HashMap<Print, Arc<Answer<TargetSession>>>,
}

impl Memo {
    /// What `session` does about `stimulus` at `now`.
    pub fn source(
        &mut self,
        session: &Printed<SourceSession>,
        now: Time,
        stimulus: &Stimulus,
    ) -> Arc<Answer<SourceSession>> {
        answer(&mut self.sources, session, now, stimulus)
    }

    /// What `session` does about `stimulus` at `now`.
    pub fn target(
        &mut self,
        session: &Printed<TargetSession>,
        now: Time,
        stimulus: &Stimulus,
    ) -> Arc<Answer<TargetSession>> {
        answer(&mut self.targets, session, now, stimulus)
    }
}

/// What both kinds of sessions can do.
pub trait Session: Clone + Hash {
    fn handle(&mut self, now: Time, input: Input) -> Result<(), Violation>;
    fn handle_timeout(&mut self, now: Time);
    fn poll_output(&mut self, now: Time) -> Option<Output>;
    fn poll_event(&mut self) -> Option<Event>;
}

macro_rules! session {
    ($name:ident) => {
        impl Session for $name {
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

fn answer<S: Session>(
    known: &mut HashMap<Print, Arc<Answer<S>>>,
    session: &Printed<S>,
    now: Time,
    stimulus: &Stimulus,
) -> Arc<Answer<S>> {
    let key = print_of(&(session, now, stimulus));
    if let Some(answer) = known.get(&key) {
        return Arc::clone(answer);
    }
    let mut asked: S = (**session).clone();
    let refused = match stimulus {
        Stimulus::Message(from, message) => {
            asked.handle(now, Input::Message { from: *from, message: (**message).clone() }).err()
        }
        Stimulus::Generation(record) => asked.handle(now, Input::GenerationSeen { record: (**record).clone() }).err(),
        Stimulus::Other(input) => asked.handle(now, input.clone()).err(),
        Stimulus::Timer => {
            asked.handle_timeout(now);
            None
        }
    };
    let effects = drain(&mut asked, now);
    let answer = Arc::new(Answer { session: Printed::new(asked), effects, refused });
    if known.len() >= ANSWERS_MAX {
        known.clear();
    }
    known.insert(key, Arc::clone(&answer));
    answer
}

/// All that a session wants done at `now`.
pub fn drain<S: Session>(session: &mut S, now: Time) -> Vec<Effect> {
    let mut effects = Vec::new();
    while let Some(output) = session.poll_output(now) {
        effects.push(match output {
            Output::Send { to, message } => Effect::Send(to, Printed::new(message)),
            Output::Write { item, to, remote } => Effect::Write(item, to, remote),
            Output::Withdraw { item } => Effect::Withdraw(item),
            Output::Allocate { items } => Effect::Allocate(items),
            Output::Verify { item, crc32c } => Effect::Verify(item, crc32c),
            Output::FenceAll => Effect::Fence,
            Output::PublishSeal { key, seal } => Effect::Publish(key, Printed::new(seal)),
            Output::WatchSeals { .. } => Effect::Watch,
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

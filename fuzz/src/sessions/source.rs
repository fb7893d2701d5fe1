//! Hostile targets and a hostile store, against a source that has a little of everything to hand over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use xfer_migrate_core::session::{Input, Output, SourceConfig, SourceSession, SourceState};
use xfer_migrate_core::{
    GenerationRecord, GroupId, Item, ItemClass, ItemId, Message, PlanPolicy, RecomputeCost, limits,
};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, RateInterval, Time};

use super::{MIGRATION, Records, SOURCE, STEPS_MAX, TIMEOUTS_MAX, first, first_generation, message, peer};

const TARGETS: [u32; 2] = [1, 2];

/// Runs one source through an input, and to its end; says whether that was a handoff.
pub fn source(bytes: &[u8]) -> bool {
    let config = SourceConfig {
        source: SOURCE,
        attempt: MIGRATION.attempt,
        base: first_generation(),
        targets: TARGETS.to_vec(),
        owners_after: vec![("a".into(), 1), ("b".into(), 2)],
        deadline: Deadline::after(Time::ZERO, Duration::from_secs(10)),
        rate: RateInterval { low: 1 << 20, high: 1 << 21 },
        reserve: Duration::from_millis(500),
        policy: PlanPolicy::default(),
    };
    let session = SourceSession::new(Time::ZERO, config).expect("the configuration is sound");
    let mut source = Source { session, now: Time::ZERO, writes: true, writing: BTreeMap::new() };
    for (kind, payload) in Records(bytes) {
        match kind % 8 {
            rank @ 0..=1 => {
                if let Some(message) = message(payload) {
                    let from = PeerId { rank: TARGETS[usize::from(rank)], incarnation: 1 };
                    source.take(Input::Message { from, message });
                }
            }
            2 => source.now = source.now.after(Duration::from_millis(100 * u64::from(first(payload)))),
            3 => source.take(Input::PeerGone { peer: peer(payload), reason: String::new() }),
            4 => source.take(Input::Items(items(first(payload)))),
            5 => {
                if let Ok(record) = GenerationRecord::decode(payload) {
                    source.take(Input::GenerationSeen { record });
                }
            }
            6 => source.take(match first(payload) % 4 {
                0 => Input::Cut { record: payload.to_vec().into() },
                1 => Input::Withdraw { reason: String::new() },
                2 => Input::StoreLost { reason: String::new() },
                _ => Input::Rate(RateInterval { low: 1, high: payload.len() as u64 }),
            }),
            _ => source.writes = first(payload) & 1 == 0,
        }
    }
    source.run_to_the_end();
    source.session.state() == SourceState::Committed
}

/// Four items, one of each cost and one twice as dear; `batch` keeps their names apart from other calls'.
fn items(batch: u8) -> Vec<Item> {
    let id = |place: u64| ItemId(u64::from(batch) * 4 + place);
    let item = |place: u64, target: u32, bytes: u64, cost: RecomputeCost| Item {
        id: id(place),
        name: id(place).to_string().into(),
        class: ItemClass::Saved,
        bytes,
        version: 1,
        target,
        group: GroupId::ALONE,
        cost,
    };
    let compute = |from: Vec<ItemId>| RecomputeCost::Compute { time: Duration::from_millis(5), from };
    vec![
        item(0, 1, 64, RecomputeCost::Irreplaceable),
        item(1, 1, 4096, compute(vec![id(0)])),
        item(2, 2, 1, RecomputeCost::Fetch { from: 1 }),
        item(3, 2, 1 << 20, compute(vec![])),
    ]
}

/// A source and its driver.
struct Source {
    session: SourceSession,
    now: Time,
    writes: bool,
    writing: BTreeMap<ItemId, u64>,
}

impl Source {
    /// Hands `input` to the session, and does what it asks for until it asks for nothing more.
    fn take(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        for _ in 0..STEPS_MAX {
            if let Some(input) = inputs.pop_front() {
                // What a session refuses is a violation of the other side's, not of its own.
                let _ = self.session.handle(self.now, input);
            }
            while self.session.poll_event().is_some() {}
            match self.session.poll_output(self.now) {
                Some(output) => inputs.extend(self.act(output)),
                None if inputs.is_empty() => return,
                None => {}
            }
        }
        panic!("a source never stops asking: {:?}", self.session);
    }

    fn act(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send { to, message } => {
                assert!(TARGETS.contains(&to));
                assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
                None
            }
            // What it has of the item is what was kept, or isn't.
            Output::Compare { item, kept } => {
                let there = if self.writes { kept } else { Landed::default() };
                Some(Input::Compared { item, there })
            }
            Output::Write { item, to, remote, there } => {
                let known = self.session.manifest().get(item).expect("only what was offered is written");
                let is_inside = there.ranges().all(|(range, _)| range.end <= known.bytes);
                assert!(is_inside && there.bytes() < known.bytes, "what is there is a part of the item");
                assert_eq!((known.target, known.bytes), (to, remote.len_bytes), "a grant is as long as its item");
                assert_eq!(self.writing.insert(item, known.bytes), None, "an item is written once at a time");
                assert!(self.writing.len() <= limits::WINDOW_ITEMS_MAX);
                self.writing.remove(&item);
                Some(if self.writes {
                    Input::Written { item, crc32c: 0 }
                } else {
                    Input::WriteFailed { item, retry: item.0 % 2 == 0, reason: String::new() }
                })
            }
            Output::Propose { record } => {
                assert_eq!((record.base, record.generation), (0, 1));
                assert_eq!(GenerationRecord::decode(&record.encode()).as_ref(), Ok(&record));
                Some(Input::GenerationSeen { record })
            }
            // Writes end at once here, so that there is none left to cancel.
            Output::Withdraw { .. } => None,
            other => panic!("a source does nothing of the sort: {other:?}"),
        }
    }

    /// Lets time pass from timer to timer. Who leaves knows in the end what became of it, or that nothing could be learnt.
    fn run_to_the_end(&mut self) {
        for _ in 0..TIMEOUTS_MAX {
            match self.session.poll_timeout() {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.session.handle_timeout(self.now);
            self.take(Input::PeerGone { peer: SOURCE, reason: String::new() });
        }
        let state = self.session.state();
        assert!(state.is_over() || state == SourceState::Failed, "undecided at the end: {:?}", self.session);
    }
}

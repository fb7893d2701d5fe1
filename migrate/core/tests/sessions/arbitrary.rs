//! One session against a world that says whatever it likes, in any order: it never panics, an input that it refuses
//! changes nothing, and what it says of itself stays true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use xfer_migrate_core::session::{
    Event, Input, Output, SourceConfig, SourceSession, SourceState, TargetConfig, TargetSession, TargetState,
};
use xfer_migrate_core::{
    Body, Cut, GenerationKind, GenerationRecord, Item, ItemId, Message, MigrationId, Offer, PlanPolicy, Refusal, Seal,
    limits,
};
use xfer_transport_core::landed::Landed;
use xfer_transport_core::{Deadline, PeerId, Place, RateInterval, RegionId, RemoteRegion, Time};

use crate::world::{BASE, LEFT, RIGHT, SOURCE, base, migration, owners_after, standard_items};

/// What happens next.
#[derive(Debug, Clone)]
enum Act {
    /// The oldest or the newest thing that was asked for is answered, well or badly.
    Answer { newest: bool, well: bool },
    /// Something comes that nobody asked for, or that was asked for long ago.
    Any(Box<Input>),
    /// The next timer runs.
    Timer,
}

fn item() -> impl Strategy<Value = ItemId> {
    (1_u64..=11).prop_map(ItemId)
}

fn peer() -> impl Strategy<Value = PeerId> {
    let strangers = vec![
        PeerId { rank: 1, incarnation: 2 },
        PeerId { rank: 2, incarnation: 2 },
        PeerId { rank: 9, incarnation: 1 },
    ];
    prop_oneof![6 => prop::sample::select(vec![LEFT, SOURCE, RIGHT]), 1 => prop::sample::select(strangers)]
}

fn of_migration() -> impl Strategy<Value = MigrationId> {
    let others = vec![
        MigrationId { attempt: 1, ..migration() },
        MigrationId { generation: BASE - 1, ..migration() },
        MigrationId { source: RIGHT, ..migration() },
    ];
    prop_oneof![12 => Just(migration()), 1 => prop::sample::select(others)]
}

fn offers() -> impl Strategy<Value = Offer> {
    let items = prop::sample::subsequence(standard_items(), 0..=10);
    (0_u32..4, 0_u64..40, any::<bool>(), items).prop_map(|(sequence, seconds, orderly, items)| Offer {
        sequence,
        time_left: Duration::from_secs(seconds),
        targets: if (sequence == 0) == orderly { vec![LEFT.rank, RIGHT.rank] } else { vec![] },
        owners_after: if sequence == 0 { owners_after() } else { vec![] },
        items: if sequence == 0 { vec![] } else { items },
    })
}

fn cuts() -> impl Strategy<Value = Cut> {
    (0_u32..12).prop_map(|total_items| Cut { total_items, record: Bytes::from_static(b"step") })
}

fn grants() -> impl Strategy<Value = Vec<(ItemId, RemoteRegion)>> {
    let length = prop::sample::select(vec![5000, 20_000, 500_000, 1_000_000, 2_000_000]);
    let grant = (item(), any::<u64>(), length)
        .prop_map(|(item, id, len_bytes)| (item, RemoteRegion { id: RegionId(id), len_bytes, place: Place::Host }));
    prop::collection::vec(grant, 0..4)
}

/// What a target may say that it has: of lengths below, at and beyond those of items.
fn kept() -> impl Strategy<Value = Vec<(ItemId, Landed)>> {
    let end = prop::sample::select(vec![4000, 5000, 20_000, 500_000, 1_000_000, 2_000_000]);
    let range = (prop::sample::select(vec![0_u64, 1, 4500]), end, 0_u32..3);
    let landed = prop::collection::vec(range, 0..3).prop_map(|ranges| {
        let mut landed = Landed::default();
        for (start, end, crc32c) in ranges.into_iter().filter(|(start, end, _)| start < end) {
            landed.insert(start..end, crc32c);
        }
        landed
    });
    prop::collection::vec((item(), landed), 0..4)
}

fn bodies() -> impl Strategy<Value = Body> {
    let said = || (item(), 0_u32..4);
    prop_oneof![
        3 => offers().prop_map(Body::Offer),
        2 => (0_u32..4, grants()).prop_map(|(sequence, grants)| Body::Grants { sequence, grants }),
        2 => kept().prop_map(|items| Body::Kept { items }),
        1 => Just(Body::Refuse { refusal: Refusal::Leaving { rank: 2 } }),
        3 => (item(), 40_u64..42, 0_u32..3, 0_u32..4)
            .prop_map(|(item, version, crc32c, send)| Body::Sent { item, version, crc32c, send }),
        2 => said().prop_map(|(item, send)| Body::Landed { item, send }),
        1 => said().prop_map(|(item, send)| Body::Damaged { item, send }),
        2 => cuts().prop_map(Body::Cut),
        1 => prop::collection::vec(item(), 0..4).prop_map(|skipped| Body::Finished { skipped }),
        1 => (0_u64..40).prop_map(|seconds| Body::Deadline { time_left: Duration::from_secs(seconds) }),
    ]
}

fn records() -> impl Strategy<Value = GenerationRecord> {
    let kinds = vec![GenerationKind::Handoff, GenerationKind::Restore, GenerationKind::Withdrawn];
    (0_u64..3, prop::sample::select(kinds), of_migration()).prop_map(|(later, kind, migration)| GenerationRecord {
        generation: BASE + later,
        base: BASE + later - 1,
        kind,
        source: Some(migration.source),
        attempt: migration.attempt,
        ..base()
    })
}

fn seals() -> impl Strategy<Value = Seal> {
    let ids = || prop::collection::vec(item(), 0..4);
    (of_migration(), peer(), any::<bool>(), ids(), ids(), prop::option::of(cuts())).prop_map(
        |(migration, target, root, landed, missing, cut)| Seal {
            migration,
            target,
            root: [root.into(); 32],
            landed,
            missing,
            cut,
        },
    )
}

fn inputs() -> impl Strategy<Value = Input> {
    let reason = || "because".to_owned();
    let deadline = |seconds: u64| Deadline(Time::from_nanos(seconds * 1_000_000_000));
    prop_oneof![
        12 => (peer(), of_migration(), bodies()).prop_map(|(from, migration, body)| Input::Message {
            from,
            message: Message { migration, body },
        }),
        1 => peer().prop_map(move |peer| Input::PeerGone { peer, reason: reason() }),
        1 => (0_u64..60).prop_map(move |seconds| Input::Notice { deadline: deadline(seconds) }),
        1 => records().prop_map(|record| Input::GenerationSeen { record }),
        1 => Just(Input::StoreLost { reason: reason() }),
        2 => prop::sample::subsequence(standard_items(), 0..=10).prop_map(Input::Items),
        1 => Just(Input::Cut { record: Bytes::new() }),
        1 => Just(Input::Withdraw { reason: reason() }),
        1 => any::<[u64; 2]>().prop_map(|[low, high]| Input::Rate(RateInterval { low, high })),
        1 => (item(), 0_u32..3).prop_map(|(item, crc32c)| Input::Written { item, crc32c }),
        1 => (item(), any::<bool>())
            .prop_map(move |(item, retry)| Input::WriteFailed { item, retry, reason: reason() }),
        1 => kept().prop_map(|mut kept| match kept.pop() {
            Some((item, there)) => Input::Compared { item, there },
            None => Input::Kept { items: kept },
        }),
        1 => kept().prop_map(|items| Input::Kept { items }),
        1 => grants().prop_map(|grants| Input::Allocated { grants }),
        1 => Just(Input::AllocationFailed { reason: reason() }),
        1 => (item(), 0_u32..3, any::<bool>()).prop_map(|(item, crc32c, ok)| Input::Verified { item, crc32c, ok }),
        1 => Just(Input::Fenced),
        2 => seals().prop_map(|seal| Input::SealSeen { seal }),
    ]
}

fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let act = prop_oneof![
        6 => (any::<bool>(), prop::bool::weighted(0.9)).prop_map(|(newest, well)| Act::Answer { newest, well }),
        6 => inputs().prop_map(|input| Act::Any(Box::new(input))),
        1 => Just(Act::Timer),
    ];
    prop::collection::vec((0_u64..400, act), 0..80)
}

/// Either machine.
trait Machine: Debug {
    fn handle(&mut self, now: Time, input: Input) -> bool;
    fn handle_timeout(&mut self, now: Time);
    fn poll_timeout(&self) -> Option<Time>;
    fn poll_output(&mut self, now: Time) -> Option<Output>;
    fn poll_event(&mut self) -> Option<Event>;
}

macro_rules! machine {
    ($session:ty) => {
        impl Machine for $session {
            fn handle(&mut self, now: Time, input: Input) -> bool {
                self.handle(now, input).is_ok()
            }
            fn handle_timeout(&mut self, now: Time) {
                self.handle_timeout(now);
            }
            fn poll_timeout(&self) -> Option<Time> {
                self.poll_timeout()
            }
            fn poll_output(&mut self, now: Time) -> Option<Output> {
                self.poll_output(now)
            }
            fn poll_event(&mut self) -> Option<Event> {
                self.poll_event()
            }
        }
    };
}

machine!(SourceSession);
machine!(TargetSession);

/// What a session said so far, and what it was told.
#[derive(Default)]
struct History {
    asked: Vec<Output>,
    verified: BTreeSet<ItemId>,
    granted: BTreeMap<ItemId, RemoteRegion>,
    fence_asked: bool,
    fenced: bool,
    sealed: bool,
    seals: BTreeSet<u32>,
    proposed: bool,
    ends: usize,
    posted: BTreeSet<ItemId>,
}

impl History {
    fn note_input(&mut self, input: &Input) {
        match input {
            Input::Verified { item, ok: true, .. } => {
                self.verified.insert(*item);
            }
            Input::Fenced => self.fenced |= self.fence_asked,
            Input::SealSeen { seal } => {
                self.seals.insert(seal.target.rank);
            }
            Input::Message { message: Message { body: Body::Grants { grants, .. }, .. }, .. } => {
                self.granted.extend(grants.iter().copied());
            }
            Input::Written { item, .. } | Input::WriteFailed { item, .. } => {
                self.posted.remove(item);
            }
            _ => {}
        }
    }

    fn note_output(&mut self, output: &Output) {
        match output {
            Output::Send { message: Message { body: Body::Landed { item, .. }, .. }, .. } => {
                assert!(self.verified.contains(item), "item {item} landed unverified");
                assert!(!self.sealed, "item {item} landed after the seal");
            }
            Output::Send { message, .. } => {
                let len_bytes = message.encode().len();
                assert!(len_bytes <= limits::MESSAGE_LEN_BYTES_MAX, "a message of {len_bytes} bytes");
            }
            Output::Write { item, remote, .. } => {
                assert_eq!(self.granted.get(item), Some(remote), "item {item} is written where nobody granted it");
                assert!(self.posted.insert(*item), "item {item} is posted twice at a time");
                assert!(self.posted.len() <= limits::WINDOW_ITEMS_MAX);
            }
            Output::FenceAll => self.fence_asked = true,
            Output::PublishSeal { seal, .. } => {
                assert!(self.fenced, "memory is sealed that was not fenced");
                assert!(!std::mem::replace(&mut self.sealed, true), "a seal is written once");
                assert!(seal.landed.iter().all(|item| self.verified.contains(item)));
            }
            Output::Propose { record } => {
                assert!(!std::mem::replace(&mut self.proposed, true), "a session proposes once");
                assert_eq!((record.base, record.generation), (BASE, BASE + 1));
                if record.kind == GenerationKind::Handoff {
                    let all = [LEFT.rank, RIGHT.rank].iter().all(|rank| self.seals.contains(rank));
                    assert!(all, "a hand-off is proposed without all seals");
                }
            }
            _ => {}
        }
    }

    fn note_event(&mut self, event: &Event) {
        let is_end = matches!(
            event,
            Event::Committed { .. } | Event::Restored { .. } | Event::Withdrawn { .. } | Event::Superseded { .. }
        );
        self.ends += usize::from(is_end);
        assert!(self.ends <= 1, "it ended twice, the second time by {event:?}");
    }
}

/// The answer to something that was asked for.
fn answer(output: &Output, well: bool) -> Option<Input> {
    let reason = "it did not work".to_owned();
    Some(match output {
        Output::Write { item, .. } if well => Input::Written { item: *item, crc32c: 1 },
        Output::Write { item, .. } => Input::WriteFailed { item: *item, retry: item.0 % 2 == 0, reason },
        Output::Compare { item, kept } if well => Input::Compared { item: *item, there: kept.clone() },
        Output::Compare { item, .. } => Input::Compared { item: *item, there: Landed::default() },
        Output::Allocate { items } if well => {
            let grant = |(item, len_bytes): &(ItemId, u64)| {
                (*item, RemoteRegion { id: RegionId(item.0), len_bytes: *len_bytes, place: Place::Host })
            };
            Input::Allocated { grants: items.iter().map(grant).collect() }
        }
        Output::Allocate { .. } => Input::AllocationFailed { reason },
        Output::Verify { item, crc32c } => Input::Verified { item: *item, crc32c: *crc32c, ok: well },
        Output::FenceAll => Input::Fenced,
        Output::PublishSeal { seal, .. } if well => Input::SealSeen { seal: seal.clone() },
        Output::Propose { record } if well => Input::GenerationSeen { record: record.clone() },
        Output::PublishSeal { .. } | Output::Propose { .. } => Input::StoreLost { reason },
        // The other side does as it is told.
        Output::Send { to, message } => {
            let from = if *to == LEFT.rank { LEFT } else { RIGHT };
            let body = match &message.body {
                Body::Offer(offer) => {
                    let own = offer.items.iter().filter(|item| item.target == *to);
                    let grant = |item: &Item| {
                        (item.id, RemoteRegion { id: RegionId(item.id.0), len_bytes: item.bytes, place: Place::Host })
                    };
                    Body::Grants { sequence: offer.sequence, grants: own.map(grant).collect() }
                }
                Body::Sent { item, send, .. } if well => Body::Landed { item: *item, send: *send },
                Body::Sent { item, send, .. } => Body::Damaged { item: *item, send: *send },
                _ => return None,
            };
            Input::Message { from, message: Message { migration: message.migration, body } }
        }
        Output::Withdraw { .. } | Output::WatchSeals { .. } => return None,
    })
}

/// Lets `acts` happen to `machine`, then lets it run out of timers.
fn perform(machine: &mut dyn Machine, acts: Vec<(u64, Act)>) {
    let mut now = Time::ZERO;
    let mut history = History::default();
    drain(machine, now, &mut history);
    for (after_ms, act) in acts {
        now = now.after(Duration::from_millis(after_ms));
        let input = match act {
            Act::Timer => {
                now = now.max(machine.poll_timeout().unwrap_or(now).min(Time::from_nanos(60_000_000_000)));
                None
            }
            Act::Answer { newest, well } => {
                let at = if newest { history.asked.len().wrapping_sub(1) } else { 0 };
                let output = (at < history.asked.len()).then(|| history.asked.remove(at));
                output.and_then(|output| answer(&output, well))
            }
            Act::Any(input) => Some(*input),
        };
        machine.handle_timeout(now);
        let again = machine.poll_timeout();
        assert!(again.is_none_or(|at| at > now), "a timer is due again at once");
        drain(machine, now, &mut history);
        let Some(input) = input else { continue };
        let before = format!("{machine:?}");
        if machine.handle(now, input.clone()) {
            history.note_input(&input);
        } else {
            assert_eq!(format!("{machine:?}"), before, "what was refused changed something: {input:?}");
        }
        drain(machine, now, &mut history);
    }
    for _ in 0..16 {
        let Some(at) = machine.poll_timeout() else { return };
        now = now.max(at);
        machine.handle_timeout(now);
        drain(machine, now, &mut history);
    }
    panic!("timers without end");
}

fn drain(machine: &mut dyn Machine, now: Time, history: &mut History) {
    while let Some(output) = machine.poll_output(now) {
        history.note_output(&output);
        history.asked.push(output);
    }
    while let Some(event) = machine.poll_event() {
        history.note_event(&event);
    }
}

proptest! {
    #![proptest_config(crate::chaos::config())]

    #[test]
    fn a_target_stands_anything(acts in acts(), memory_bytes in prop::sample::select(vec![0_u64, 4_000_000, 1 << 40])) {
        let config = TargetConfig { me: RIGHT, migration: migration(), base: base(), memory_bytes };
        let mut session = TargetSession::new(config);
        // Most begin well, to get far.
        let (time_left, owners_after) = (Duration::from_secs(20), owners_after());
        let terms = Offer { sequence: 0, time_left, targets: vec![0, 2], owners_after, items: vec![] };
        let items = standard_items();
        let items = Offer { sequence: 1, targets: vec![], owners_after: vec![], items, ..terms.clone() };
        for offer in [terms, items] {
            if memory_bytes > 0 {
                let message = Message { migration: migration(), body: Body::Offer(offer) };
                let taken = session.handle(Time::ZERO, Input::Message { from: SOURCE, message });
                prop_assert_eq!(taken, Ok(()));
            }
        }
        perform(&mut session, acts);
        let rests = session.state().is_over() || matches!(session.state(), TargetState::Failed | TargetState::Idle);
        prop_assert!(rests, "it rests in {}", session.state().name());
    }

    #[test]
    fn a_source_stands_anything(
        acts in acts(),
        rate in any::<[u64; 2]>(),
        ship_all in any::<bool>(),
        begins_well in any::<bool>(),
    ) {
        let config = SourceConfig {
            source: SOURCE,
            attempt: 0,
            base: base(),
            targets: vec![LEFT.rank, RIGHT.rank],
            owners_after: owners_after(),
            deadline: Deadline(Time::from_nanos(20_000_000_000)),
            rate: RateInterval { low: rate[0], high: rate[1] },
            reserve: Duration::from_secs(1),
            policy: if ship_all { PlanPolicy::ShipAll } else { PlanPolicy::Threshold },
        };
        let mut session = SourceSession::new(Time::ZERO, config).expect("the configuration is sound");
        if begins_well {
            prop_assert!(session.handle(Time::ZERO, Input::Items(standard_items())).is_ok());
        }
        perform(&mut session, acts);
        let rests = session.state().is_over() || session.state() == SourceState::Failed;
        prop_assert!(rests, "it rests in {}", session.state().name());
    }
}

//! A source plans anew when what it planned with has changed, and leaves alone what it has said or posted.

use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::session::{Event, Input, Output, SourceConfig, SourceSession};
use xfer_migrate_core::{Body, Item, ItemId, Message, Offer, PlanPolicy, RecomputeCost, Verdict};
use xfer_transport_core::{Deadline, PeerId, Place, RateInterval, RegionId, RemoteRegion, Time};

use crate::world::{LEFT, RIGHT, SOURCE, base, migration, owners_after, standard_items};

const NOW: Time = Time::from_nanos(1_000_000_000);

fn rate(bytes_per_s: u64) -> RateInterval {
    RateInterval { low: bytes_per_s, high: bytes_per_s }
}

fn source(bytes_per_s: u64) -> SourceSession {
    let config = SourceConfig {
        source: SOURCE,
        attempt: 0,
        base: base(),
        targets: vec![LEFT.rank, RIGHT.rank],
        owners_after: owners_after(),
        deadline: Deadline::after(NOW, Duration::from_secs(10)),
        rate: rate(bytes_per_s),
        reserve: Duration::ZERO,
        policy: PlanPolicy::Threshold,
    };
    SourceSession::new(NOW, config).expect("the configuration is sound")
}

fn item(at: u64, bytes: u64, target: u32, saves_ms: Option<u64>) -> Item {
    let cost = match saves_ms {
        Some(ms) => RecomputeCost::Compute { time: Duration::from_millis(ms), from: vec![] },
        None => RecomputeCost::Irreplaceable,
    };
    Item { id: ItemId(at), name: format!("item.{at}").into(), bytes, target, cost, ..standard_items()[0].clone() }
}

/// Gives `session` inputs that it takes.
fn give(session: &mut SourceSession, inputs: impl IntoIterator<Item = Input>) {
    for input in inputs {
        session.handle(NOW, input).expect("this is how it goes");
    }
}

/// Grants memory for everything that `offered` says, and what is asked for afterwards.
fn granted(session: &mut SourceSession, offered: &[Output]) -> Vec<Output> {
    for output in offered {
        let Output::Send { to, message: Message { body: Body::Offer(Offer { sequence, items, .. }), .. } } = output
        else {
            continue;
        };
        let grant = |item: &Item| {
            (item.id, RemoteRegion { id: RegionId(item.id.0), len_bytes: item.bytes, place: Place::Host })
        };
        let grants = items.iter().filter(|item| item.target == *to).map(grant).collect();
        give(session, [said(*to, Body::Grants { sequence: *sequence, grants })]);
    }
    outputs(session)
}

fn said(by: u32, body: Body) -> Input {
    let from = PeerId { rank: by, incarnation: 1 };
    Input::Message { from, message: Message { migration: migration(), body } }
}

fn outputs(session: &mut SourceSession) -> Vec<Output> {
    std::iter::from_fn(|| session.poll_output(NOW)).collect()
}

fn verdicts(session: &mut SourceSession) -> Vec<Verdict> {
    let events = std::iter::from_fn(|| session.poll_event());
    let verdict = |event| match event {
        Event::Planned { verdict } => Some(verdict),
        _ => None,
    };
    events.filter_map(verdict).collect()
}

fn written(outputs: &[Output]) -> Vec<u64> {
    let item = |output: &Output| match output {
        Output::Write { item, .. } => Some(item.0),
        _ => None,
    };
    outputs.iter().filter_map(item).collect()
}

#[test]
fn a_rate_that_moves_by_more_than_a_quarter_makes_a_new_plan() {
    for (moved_to, plans) in [(1000, 0), (1250, 0), (1251, 1), (750, 0), (749, 1)] {
        let mut session = source(1000);
        give(&mut session, [Input::Items(vec![item(1, 5000, 0, None)])]);
        assert_eq!(verdicts(&mut session), [Verdict::Fits { spare: Duration::from_secs(5) }]);
        give(&mut session, [Input::Rate(rate(moved_to))]);
        assert_eq!(verdicts(&mut session).len(), plans, "{moved_to} bytes per second");
        // One end of the interval is enough.
        give(&mut session, [Input::Rate(RateInterval { low: moved_to, high: 9000 })]);
        assert_eq!(verdicts(&mut session).len(), 1);
    }
}

#[test]
fn what_is_posted_takes_its_time_before_what_is_planned() {
    let mut session = source(1000);
    give(&mut session, [Input::Items(vec![item(1, 6000, 0, None), item(2, 5000, 0, None)])]);
    assert_eq!(verdicts(&mut session), [Verdict::Loses { irreplaceable: 1, bytes_short: 1000 }]);
    let offered = outputs(&mut session);
    assert_eq!(written(&granted(&mut session, &offered)), [2, 1]);
    give(&mut session, [Input::Items(vec![item(3, 10, 0, None)])]);
    assert_eq!(verdicts(&mut session), [Verdict::Loses { irreplaceable: 1, bytes_short: 1010 }]);
    assert_eq!(session.plan().order, [ItemId(3)], "what is posted keeps its order");
    give(&mut session, [Input::Written { item: ItemId(2), crc32c: 0 }, Input::Items(vec![item(4, 1, 0, None)])]);
    assert_eq!(verdicts(&mut session), [Verdict::Fits { spare: Duration::from_millis(3989) }]);
}

/// A plan has no place for what is on its way; whoever has to be sent again needs one.
#[test]
fn what_has_to_be_sent_again_is_so_whatever_was_planned_meanwhile() {
    let failed = Input::WriteFailed { item: ItemId(1), retry: true, reason: "it changed".to_owned() };
    let damaged = said(0, Body::Damaged { item: ItemId(1), send: 1 });
    for not_there in [vec![failed], vec![Input::Written { item: ItemId(1), crc32c: 0 }, damaged]] {
        let mut session = source(1000);
        give(&mut session, [Input::Items(vec![item(1, 3000, 0, None)])]);
        let offered = outputs(&mut session);
        assert_eq!(written(&granted(&mut session, &offered)), [1]);
        give(&mut session, [Input::Rate(rate(9000)), Input::Cut { record: Bytes::new() }]);
        give(&mut session, not_there);
        assert_eq!(written(&outputs(&mut session)), [1], "it is posted again, and nobody is told to do without it");
    }
}

#[test]
fn a_nearer_deadline_makes_a_new_plan() {
    let mut session = source(1000);
    give(&mut session, [Input::Items(vec![item(1, 5000, 0, None)])]);
    let deadline = Deadline::after(NOW, Duration::from_secs(4));
    give(&mut session, [Input::Notice { deadline }]);
    let expected =
        [Verdict::Fits { spare: Duration::from_secs(5) }, Verdict::Loses { irreplaceable: 1, bytes_short: 1000 }];
    assert_eq!(verdicts(&mut session), expected);
}

#[test]
fn a_faster_link_takes_more_along() {
    let mut session = source(1000);
    give(&mut session, [Input::Items(vec![item(1, 10, 0, None), item(2, 100_000, 0, Some(500))])]);
    assert_eq!(session.plan().recompute, [ItemId(2)]);
    give(&mut session, [Input::Rate(rate(1_000_000))]);
    assert_eq!(session.plan().order, [ItemId(1), ItemId(2)]);
}

/// The link is slow, quick for a moment, slow, and then quick for good: what pays at the moment's rate only isn't sent.
#[test]
fn a_moment_in_which_the_link_is_quick_changes_no_plan() {
    let mut session = source(1000);
    // It pays from 200 kB/s on.
    give(&mut session, [Input::Items(vec![item(1, 10, 0, None), item(2, 100_000, 0, Some(500))])]);
    let expected = [
        (1000, 1000, false),
        (1000, 900_000, false),
        (1000, 1000, false),
        (250_000, 900_000, true),
        (150_000, 900_000, true),
        (150_000, 190_000, false),
        (150_000, 900_000, false),
    ];
    for (low, high, is_sent) in expected {
        give(&mut session, [Input::Rate(RateInterval { low, high })]);
        let plan = session.plan();
        assert_eq!(plan.order.contains(&ItemId(2)), is_sent, "{low} to {high} bytes per second");
        assert_eq!(plan.recompute.contains(&ItemId(2)), !is_sent);
    }
}

#[test]
fn what_a_target_was_told_not_to_wait_for_is_not_sent_any_more() {
    let mut session = source(1000);
    let items = vec![item(1, 10, 0, None), item(2, 100_000, 0, Some(500)), item(3, 10, 2, None)];
    give(&mut session, [Input::Items(items), Input::Cut { record: Bytes::new() }]);
    let offered = outputs(&mut session);
    assert_eq!(written(&granted(&mut session, &offered)), [1, 3]);
    give(
        &mut session,
        [Input::Written { item: ItemId(1), crc32c: 0 }, said(0, Body::Landed { item: ItemId(1), send: 1 })],
    );
    let finished = Message { migration: migration(), body: Body::Finished { skipped: vec![ItemId(2)] } };
    assert!(outputs(&mut session).contains(&Output::Send { to: 0, message: finished }));

    give(&mut session, [Input::Rate(rate(1_000_000))]);
    assert_eq!(session.plan().order, []);
    assert_eq!(outputs(&mut session), []);
}

#[test]
fn what_fails_after_a_new_plan_was_made_is_sent_again() {
    let mut session = source(1000);
    give(&mut session, [Input::Items(vec![item(1, 10, 0, None), item(2, 10, 0, None)])]);
    let offered = outputs(&mut session);
    assert_eq!(written(&granted(&mut session, &offered)), [1, 2]);
    give(&mut session, [Input::Written { item: ItemId(2), crc32c: 0 }, Input::Rate(rate(2000))]);
    assert_eq!(session.plan().order, [], "both are under way");

    let changed = Input::WriteFailed { item: ItemId(1), retry: true, reason: "its memory changed".to_owned() };
    give(&mut session, [changed, said(0, Body::Damaged { item: ItemId(2), send: 1 })]);
    assert_eq!(written(&outputs(&mut session)), [1, 2]);
}

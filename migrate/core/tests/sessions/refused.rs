//! What must not happen is refused by its name and changes nothing.

use std::time::Duration;

use bytes::Bytes;
use xfer_migrate_core::session::{
    Event, Input, Output, SourceConfig, SourceConfigError, SourceSession, SourceState, TargetConfig, TargetSession,
    TargetState, Violation,
};
use xfer_migrate_core::{
    Body, Cut, GenerationKind, GenerationRecord, Item, ItemId, Message, MigrationId, Offer, PlanPolicy, RecomputeCost,
    Refusal, Seal, limits,
};
use xfer_transport_core::{Deadline, PeerId, Place, RateInterval, RegionId, RemoteRegion, Time};

use crate::world::{BASE, LEFT, RIGHT, SOURCE, base, id, migration, owners_after, standard_items};

const NOW: Time = Time::from_nanos(1_000_000_000);
const STRANGER: PeerId = PeerId { rank: 9, incarnation: 1 };

fn config() -> SourceConfig {
    SourceConfig {
        source: SOURCE,
        attempt: 0,
        base: base(),
        targets: vec![LEFT.rank, RIGHT.rank],
        owners_after: owners_after(),
        deadline: Deadline::after(NOW, Duration::from_secs(20)),
        rate: RateInterval { low: 1_000_000, high: 1_000_000 },
        reserve: Duration::ZERO,
        policy: PlanPolicy::ShipAll,
    }
}

fn from(peer: PeerId, body: Body) -> Input {
    Input::Message { from: peer, message: Message { migration: migration(), body } }
}

fn grant(name: &str) -> (ItemId, RemoteRegion) {
    let len_bytes = standard_items().iter().find(|item| item.id == id(name)).map_or(0, |item| item.bytes);
    (id(name), RemoteRegion { id: RegionId(id(name).0), len_bytes, place: Place::Host })
}

/// A source whose targets take part, with memory for `rng` and `layer.6.weight` that it has written.
fn source() -> SourceSession {
    let mut session = SourceSession::new(NOW, config()).expect("the configuration is sound");
    let inputs = [
        Input::Items(standard_items()),
        from(LEFT, Body::Grants { sequence: 0, grants: vec![] }),
        from(RIGHT, Body::Grants { sequence: 0, grants: vec![] }),
        from(LEFT, Body::Grants { sequence: 1, grants: vec![grant("rng")] }),
        from(RIGHT, Body::Grants { sequence: 1, grants: vec![grant("layer.6.weight")] }),
    ];
    for input in inputs {
        session.handle(NOW, input).expect("this is how it goes");
    }
    while session.poll_output(NOW).is_some() {}
    session.handle(NOW, Input::Written { item: id("rng"), crc32c: 5 }).expect("it is posted");
    while session.poll_output(NOW).is_some() {}
    session
}

fn terms() -> Offer {
    Offer {
        sequence: 0,
        time_left: Duration::from_secs(20),
        targets: vec![LEFT.rank, RIGHT.rank],
        owners_after: owners_after(),
        items: vec![],
    }
}

fn offer_of(sequence: u32, items: Vec<Item>) -> Offer {
    Offer { sequence, targets: vec![], owners_after: vec![], items, ..terms() }
}

fn new_target() -> TargetSession {
    TargetSession::new(TargetConfig { me: RIGHT, migration: migration(), base: base(), memory_bytes: 1 << 30 })
}

/// A target with memory for its five items, of which `layer.6.weight` has landed.
fn target() -> TargetSession {
    let mut session = new_target();
    let own = ["layer.6.weight", "layer.6.adam", "layer.6.grad", "layer.6.input", "layer.6.saved"];
    let item = id("layer.6.weight");
    let inputs = [
        from(SOURCE, Body::Offer(terms())),
        from(SOURCE, Body::Offer(offer_of(1, standard_items()))),
        Input::Allocated { grants: own.map(grant).to_vec() },
        from(SOURCE, Body::Sent { item, version: 41, crc32c: 5, send: 1 }),
        Input::Verified { item, crc32c: 5, ok: true },
    ];
    for input in inputs {
        session.handle(NOW, input).expect("this is how it goes");
    }
    while session.poll_output(NOW).is_some() {}
    session
}

#[test]
fn a_source_refuses_by_name() {
    let rng = id("rng");
    let other = MigrationId { attempt: 1, ..migration() };
    let lost = |name: &str, target, cost| Item {
        id: ItemId(99),
        name: name.into(),
        target,
        cost,
        ..standard_items()[0].clone()
    };
    let cases = [
        (
            Input::Message {
                from: LEFT,
                message: Message { migration: other, body: Body::Landed { item: rng, send: 1 } },
            },
            "the message is about the migration of rank 1 (life 3) from generation 7, attempt 1, and this is the \
             migration of rank 1 (life 3) from generation 7, attempt 0",
        ),
        (from(STRANGER, Body::Landed { item: rng, send: 1 }), "rank 9 (life 1) has no part in this migration"),
        (
            from(PeerId { incarnation: 2, ..LEFT }, Body::Landed { item: rng, send: 1 }),
            "rank 0 (life 2) has no part in this migration",
        ),
        (from(RIGHT, Body::Landed { item: rng, send: 1 }), "item #1 is not offered to rank 2"),
        (from(LEFT, Body::Landed { item: rng, send: 2 }), "landed can't be said of item #1 now"),
        (from(LEFT, Body::Finished { skipped: vec![] }), "finished is not for a source"),
        (from(LEFT, Body::Grants { sequence: 2, grants: vec![] }), "grants has sequence 2, and 1 is expected"),
        (
            from(
                LEFT,
                Body::Grants { sequence: 1, grants: vec![(rng, RemoteRegion { len_bytes: 1, ..grant("rng").1 })] },
            ),
            "the grants don't fit the items that were offered: a region is not as long as its item",
        ),
        (Input::Fenced, "fenced is not for a source"),
        (Input::Written { item: rng, crc32c: 5 }, "written can't be said of item #1 now"),
        (
            Input::WriteFailed { item: ItemId(98), retry: true, reason: String::new() },
            "write failed can't be said of item #98 now",
        ),
        (
            Input::Items(vec![lost("more", 9, RecomputeCost::Irreplaceable)]),
            "item `more` goes to rank 9, which is not a target of this migration",
        ),
        (
            Input::Items(vec![lost("more", 0, RecomputeCost::Fetch { from: 1 })]),
            "item `more` is to be fetched from rank 1, which leaves; say what it costs to do without it",
        ),
        (
            Input::Items(vec![lost("rng", 0, RecomputeCost::Irreplaceable)]),
            "two items are called `rng`; names are unique over a migration",
        ),
        (
            Input::Cut { record: vec![0; limits::RECORD_LEN_BYTES_MAX + 1].into() },
            "a record of 1044481 bytes is too long; at most 1044480 travel with a commit",
        ),
    ];
    let mut session = source();
    for (input, expected) in cases {
        let before = format!("{session:?}");
        let refused = session.handle(NOW, input).expect_err(expected);
        assert_eq!(refused.to_string(), expected);
        assert_eq!(format!("{session:?}"), before);
    }
}

#[test]
fn a_target_refuses_by_name() {
    let weight = id("layer.6.weight");
    let adam = id("layer.6.adam");
    let sent = |item, version, crc32c, send| from(SOURCE, Body::Sent { item, version, crc32c, send });
    let seal =
        Seal { migration: migration(), target: STRANGER, root: [0; 32], landed: vec![], missing: vec![], cut: None };
    let cases = [
        (
            Input::Message {
                from: SOURCE,
                message: Message {
                    migration: MigrationId { generation: 6, ..migration() },
                    body: Body::Offer(terms()),
                },
            },
            "the message is about the migration of rank 1 (life 3) from generation 6, attempt 0, and this is the \
             migration of rank 1 (life 3) from generation 7, attempt 0",
        ),
        (
            from(PeerId { incarnation: 4, ..SOURCE }, Body::Cut(Cut { total_items: 10, record: Bytes::new() })),
            "rank 1 (life 4) has no part in this migration",
        ),
        (
            from(LEFT, Body::Cut(Cut { total_items: 10, record: Bytes::new() })),
            "rank 0 (life 1) has no part in this migration",
        ),
        (from(SOURCE, Body::Landed { item: weight, send: 1 }), "landed is not for a target"),
        (from(SOURCE, Body::Offer(offer_of(3, vec![]))), "offer has sequence 3, and 2 is expected"),
        (
            from(SOURCE, Body::Cut(Cut { total_items: 9, record: Bytes::new() })),
            "cut has sequence 9, and 10 is expected",
        ),
        (sent(id("rng"), 41, 5, 1), "item #1 is not offered to rank 2"),
        (sent(adam, 40, 5, 1), "item #5 is there already with other content"),
        (sent(weight, 41, 6, 1), "item #4 is there already with other content"),
        (sent(weight, 41, 5, 2), "item #4 is there already with other content"),
        (from(SOURCE, Body::Finished { skipped: vec![id("rng")] }), "item #1 is not offered to rank 2"),
        (Input::Verified { item: adam, crc32c: 5, ok: true }, "verified can't be said of item #5 now"),
        (Input::Fenced, "fenced is impossible in state Receiving"),
        (
            Input::Allocated { grants: vec![] },
            "the grants don't fit the items that were offered: nothing is being allocated",
        ),
        (Input::Items(vec![]), "items is not for a target"),
        (
            Input::SealSeen { seal: seal.clone() },
            "the seal of rank 9 is not for this migration, or names items that are not that rank's",
        ),
        (
            Input::SealSeen { seal: Seal { target: LEFT, landed: vec![weight], ..seal } },
            "the seal of rank 0 is not for this migration, or names items that are not that rank's",
        ),
    ];
    let mut session = target();
    for (input, expected) in cases {
        let before = format!("{session:?}");
        let refused = session.handle(NOW, input).expect_err(expected);
        assert_eq!(refused.to_string(), expected);
        assert_eq!(format!("{session:?}"), before);
    }
}

#[test]
fn before_the_first_offer_nothing_else_counts() {
    let mut session = new_target();
    let finished = from(SOURCE, Body::Finished { skipped: vec![] });
    let expected = Violation::NotNow { what: "finished", state: "Idle" };
    assert_eq!(session.handle(NOW, finished), Err(expected));
    assert_eq!(session.state(), TargetState::Idle);
}

#[test]
fn a_deadline_that_a_target_was_told_does_not_move_away() {
    let mut session = target();
    let told = |seconds| from(SOURCE, Body::Deadline { time_left: Duration::from_secs(seconds) });
    for (seconds, left) in [(30, 20), (5, 5), (10, 5)] {
        assert_eq!(session.handle(NOW, told(seconds)), Ok(()));
        assert_eq!(session.deadline().left(NOW), Duration::from_secs(left));
        assert_eq!(session.poll_timeout(), Some(session.deadline().0));
    }
}

#[test]
fn an_offer_that_comes_twice_is_ignored() {
    let mut session = new_target();
    assert_eq!(session.handle(NOW, from(SOURCE, Body::Offer(terms()))), Ok(()));
    while session.poll_output(NOW).is_some() {}
    assert_eq!(session.handle(NOW, from(SOURCE, Body::Offer(terms()))), Ok(()));
    assert_eq!((session.ignored(), session.poll_output(NOW)), (1, None));
}

#[test]
fn a_target_that_has_ended_looks_at_no_seal() {
    let mut session = target();
    let record = GenerationRecord {
        generation: BASE + 1,
        base: BASE,
        kind: GenerationKind::Withdrawn,
        source: Some(SOURCE),
        ..base()
    };
    assert_eq!(session.handle(NOW, Input::GenerationSeen { record }), Ok(()));
    assert_eq!(session.state(), TargetState::Withdrawn);
    let foreign = Seal {
        migration: MigrationId { attempt: 9, ..migration() },
        target: STRANGER,
        root: [7; 32],
        landed: vec![],
        missing: vec![],
        cut: None,
    };
    assert_eq!((session.handle(NOW, Input::SealSeen { seal: foreign }), session.ignored()), (Ok(()), 1));
}

#[test]
fn offers_that_make_no_sense_are_refused_to_the_source() {
    let cases = [
        (vec![Offer { targets: vec![0], ..terms() }], Refusal::NotATarget { rank: 2 }),
        (
            vec![Offer { targets: vec![1, 2], ..terms() }],
            Refusal::Invalid { reason: "the rank that leaves is among the targets".to_owned() },
        ),
        (
            vec![terms(), Offer { sequence: 1, ..terms() }],
            Refusal::Invalid { reason: "targets and owners belong into the first offer alone".to_owned() },
        ),
        (
            vec![terms(), offer_of(1, vec![Item { target: 9, ..standard_items()[0].clone() }])],
            Refusal::Invalid { reason: "an item goes to a rank that is not a target".to_owned() },
        ),
        (
            vec![terms(), offer_of(1, standard_items()), offer_of(2, standard_items())],
            Refusal::Invalid { reason: "two items have the id #1".to_owned() },
        ),
    ];
    for (offers, refusal) in cases {
        let mut session = new_target();
        for offer in offers {
            assert_eq!(session.handle(NOW, from(SOURCE, Body::Offer(offer))), Ok(()));
        }
        assert_eq!(session.state(), TargetState::Refused);
        let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output(NOW)).collect();
        let message = Message { migration: migration(), body: Body::Refuse { refusal } };
        assert_eq!(outputs.last(), Some(&Output::Send { to: 1, message }));
        assert!(outputs.contains(&Output::FenceAll), "what was granted is fenced");
    }
}

#[test]
fn a_target_takes_what_its_memory_holds_to_the_last_byte() {
    let items = standard_items();
    let needed_bytes: u64 = items.iter().filter(|item| item.target == RIGHT.rank).map(|item| item.bytes).sum();
    let admits = |memory_bytes| {
        let config = TargetConfig { me: RIGHT, migration: migration(), base: base(), memory_bytes };
        let mut session = TargetSession::new(config);
        for offer in [terms(), offer_of(1, items.clone())] {
            assert_eq!(session.handle(NOW, from(SOURCE, Body::Offer(offer))), Ok(()));
        }
        session.state() != TargetState::Refused
    };
    assert_eq!([needed_bytes - 1, needed_bytes].map(admits), [false, true]);
}

#[test]
fn more_items_than_the_cut_said_are_refused() {
    let mut session = new_target();
    let inputs = [
        Body::Offer(terms()),
        Body::Cut(Cut { total_items: 9, record: Bytes::new() }),
        Body::Offer(offer_of(1, standard_items())),
    ];
    for body in inputs {
        assert_eq!(session.handle(NOW, from(SOURCE, body)), Ok(()));
    }
    assert_eq!(session.state(), TargetState::Refused);
}

#[test]
fn a_cut_that_overtakes_an_offer_waits_for_it() {
    let mut session = new_target();
    let cut = Body::Cut(Cut { total_items: 10, record: Bytes::new() });
    for body in [Body::Offer(terms()), cut, Body::Offer(offer_of(1, standard_items()))] {
        assert_eq!(session.handle(NOW, from(SOURCE, body)), Ok(()));
        assert_ne!(session.state(), TargetState::Fencing, "it does not take a part for the whole");
    }
    assert_eq!(session.state(), TargetState::Cut);
}

#[test]
fn nobody_owns_on_the_strength_of_other_bytes_than_it_has() {
    let mut session = target();
    let handoff = |roots| GenerationRecord {
        generation: BASE + 1,
        base: BASE,
        kind: GenerationKind::Handoff,
        source: Some(SOURCE),
        owners: owners_after(),
        roots,
        ..base()
    };
    // It has not sealed at all.
    let record = handoff(vec![(2, [7; 32])]);
    assert_eq!(session.handle(NOW, Input::GenerationSeen { record }), Ok(()));
    let last = std::iter::from_fn(|| session.poll_event()).last();
    let reason = "generation 8 counts on bytes that this rank does not have".to_owned();
    assert_eq!(last, Some(Event::Failed { reason }));
    assert_eq!(session.poll_output(NOW), Some(Output::FenceAll));

    // It has sealed other bytes.
    let mut session = target();
    let gone = Input::PeerGone { peer: SOURCE, reason: "killed".to_owned() };
    for input in [gone, Input::Fenced] {
        assert_eq!(session.handle(NOW, input), Ok(()));
    }
    let seal = std::iter::from_fn(|| session.poll_output(NOW)).find_map(|output| match output {
        Output::PublishSeal { seal, .. } => Some(seal),
        _ => None,
    });
    let sealed = seal.expect("it is fenced").root;
    let record = handoff(vec![(0, sealed), (2, [7; 32])]);
    assert_eq!(session.handle(NOW, Input::GenerationSeen { record }), Ok(()));
    assert_eq!(session.state(), TargetState::Failed);
    // The right one is obeyed, however late it is.
    let record = handoff(vec![(2, sealed)]);
    assert_eq!(session.handle(NOW, Input::GenerationSeen { record }), Ok(()));
    assert_eq!(session.state(), TargetState::Committed);
}

#[test]
fn a_seal_of_an_earlier_life_is_not_taken_for_ones_own() {
    let mut session = target();
    for input in [Input::PeerGone { peer: SOURCE, reason: "killed".to_owned() }, Input::Fenced] {
        assert_eq!(session.handle(NOW, input), Ok(()));
    }
    let earlier = PeerId { incarnation: 0, ..RIGHT };
    let seal =
        Seal { migration: migration(), target: earlier, root: [3; 32], landed: vec![], missing: vec![], cut: None };
    assert_eq!(session.handle(NOW, Input::SealSeen { seal }), Ok(()));
    let last = std::iter::from_fn(|| session.poll_event()).last();
    assert_eq!(last, Some(Event::Failed { reason: "an earlier life of rank 2 has sealed this migration".to_owned() }));
}

#[test]
fn a_source_does_not_begin_what_can_not_end() {
    let shards = |count: usize| (0..count).map(|at| (format!("s{at}"), 0)).collect::<Vec<_>>();
    let long = "s".repeat(limits::SHARD_NAME_LEN_BYTES_MAX + 1);
    let cases = [
        (SourceConfig { targets: vec![], ..config() }, SourceConfigError::NoTarget),
        (SourceConfig { targets: vec![0, 2, 0], ..config() }, SourceConfigError::DuplicateTarget { rank: 0 }),
        (SourceConfig { targets: vec![0, 1], ..config() }, SourceConfigError::TargetIsSource { rank: 1 }),
        (
            SourceConfig { targets: (10..=10 + limits::TARGETS_MAX as u32).collect(), ..config() },
            SourceConfigError::TooManyTargets { targets: limits::TARGETS_MAX + 1 },
        ),
        (
            SourceConfig { owners_after: shards(limits::SHARDS_MAX + 1), ..config() },
            SourceConfigError::TooManyShards { shards: limits::SHARDS_MAX + 1 },
        ),
        (
            SourceConfig { owners_after: vec![("a".to_owned(), 0), ("a".to_owned(), 2)], ..config() },
            SourceConfigError::DuplicateShard { shard: "a".to_owned() },
        ),
        (
            SourceConfig { owners_after: vec![(long.clone(), 0)], ..config() },
            SourceConfigError::ShardName { shard: long },
        ),
        (
            SourceConfig { owners_after: vec![("a".to_owned(), 1)], ..config() },
            SourceConfigError::OwnerLeaves { shard: "a".to_owned(), rank: 1 },
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(SourceSession::new(NOW, config).err(), Some(expected));
    }
    let most = SourceConfig { owners_after: shards(limits::SHARDS_MAX), ..config() };
    assert!(SourceSession::new(NOW, most).is_ok());
}

#[test]
fn no_write_begins_at_the_deadline_even_if_the_timer_is_late() {
    let mut session = SourceSession::new(NOW, config()).expect("the configuration is sound");
    let granted = from(LEFT, Body::Grants { sequence: 1, grants: vec![grant("rng")] });
    for input in [Input::Items(standard_items()), granted] {
        assert_eq!(session.handle(NOW, input), Ok(()));
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output(config().deadline.0)).collect();
    assert!(outputs.iter().all(|output| matches!(output, Output::Send { .. })));
    assert_eq!(session.state(), SourceState::Offered);
    assert!(matches!(session.poll_output(NOW), Some(Output::Write { .. })));
}

#[test]
fn many_items_are_offered_in_messages_of_bounded_length() {
    let item = |at: u64| Item {
        id: ItemId(at),
        name: format!("{}.{at}", "n".repeat(400)).into(),
        cost: RecomputeCost::Compute {
            time: Duration::ZERO,
            from: if at == 0 { vec![] } else { vec![ItemId(at - 1)] },
        },
        ..standard_items()[0].clone()
    };
    let mut session = SourceSession::new(NOW, config()).expect("the configuration is sound");
    assert_eq!(session.handle(NOW, Input::Items((0..2000).rev().map(item).collect())), Ok(()));
    let mut sequence = 0;
    let mut next = 0;
    while let Some(output) = session.poll_output(NOW) {
        let Output::Send { to: 0, message } = output else { continue };
        assert!(message.encode().len() <= limits::MESSAGE_LEN_BYTES_MAX);
        let Body::Offer(offer) = message.body else { panic!("only offers are sent") };
        assert_eq!(offer.sequence, sequence);
        sequence += 1;
        for item in offer.items {
            assert_eq!(item.id, ItemId(next), "inputs come before what needs them");
            next += 1;
        }
    }
    assert_eq!(next, 2000);
    assert!(sequence > 3, "{sequence} offers");
}

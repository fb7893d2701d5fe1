//! One thing goes wrong, at every step where it can, and ends as it has to.

use std::collections::BTreeMap;
use std::time::Duration;

use xfer_migrate_core::session::{Event, Input};
use xfer_migrate_core::{GenerationKind, GenerationRecord, ItemId, limits};
use xfer_transport_core::{Deadline, PeerId};

use crate::world::{BASE, Faults, LEFT, Options, RIGHT, SOURCE, Step, World, base, id, standard_items};

/// Items that only their bytes can bring.
const STATE: usize = 7;

fn slow() -> Options {
    Options { bytes_per_s: 1_000_000, ..Options::default() }
}

fn without_cut() -> Options {
    Options { cut_after: None, ..Options::default() }
}

fn names(ids: &[ItemId]) -> Vec<String> {
    let items = standard_items();
    let name = |id: &ItemId| items.iter().find(|item| item.id == *id).map(|item| item.name.to_string());
    ids.iter().filter_map(name).collect()
}

fn run(options: Options, step: Step, script: impl FnOnce(&mut World) + 'static) -> World {
    let mut world = World::usual(options);
    world.on(step, script);
    world.run();
    world
}

// The source dies.

#[test]
fn a_source_that_dies_unheard_changes_nothing() {
    let world = run(Options::default(), Step::Begun, |world| world.kill(SOURCE.rank));
    assert_eq!(*world.generation(), base());
    assert!(world.target(LEFT.rank).is_none() && world.target(RIGHT.rank).is_none());
}

#[test]
fn before_the_cut_the_source_takes_the_hand_over_with_it() {
    for step in [Step::Admitted(LEFT.rank), Step::Granted, Step::FirstWritten, Step::Landed(3), Step::Landed(10)] {
        let world = run(without_cut(), step, |world| world.kill(SOURCE.rank));
        let record = world.assert_ends(GenerationKind::Restore);
        let expected = "rank 1 was gone (connection reset) before it had offered everything";
        assert!(record.reason.contains(expected), "{step:?}: {}", record.reason);
        let ended = world.told(LEFT.rank, |event| matches!(event, Event::Restored { .. })).expect("it ended");
        assert!(ended < Duration::from_secs(2), "{step:?}: it waited until {ended:?}, and the deadline is after 30 s");
    }
}

#[test]
fn after_the_cut_what_landed_decides() {
    for landed in 1..=10 {
        let world = run(Options::default(), Step::Landed(landed), |world| world.kill(SOURCE.rank));
        if landed < STATE {
            let record = world.assert_ends(GenerationKind::Restore);
            assert!(record.missing.contains(&"layer.6.adam".to_owned()), "{:?}", record.missing);
            assert!(record.reason.starts_with("lost: "), "{}", record.reason);
        } else {
            let record = world.assert_ends(GenerationKind::Handoff);
            assert_eq!(record.landed.len() + record.recompute.len(), 10);
            assert!(record.landed.len() >= landed);
        }
    }
}

#[test]
fn what_follows_is_computed_across_targets_in_its_order() {
    // Only the state has landed: the right side's saved tensors follow from the left side's.
    let world = run(slow(), Step::Landed(STATE), |world| world.kill(SOURCE.rank));
    let record = world.assert_ends(GenerationKind::Handoff);
    assert_eq!(names(&record.recompute), ["layer.4.saved", "layer.6.input", "layer.6.saved"]);
}

#[test]
fn a_source_is_not_needed_once_its_bytes_are_there() {
    // The right side's items are the last to land.
    let steps = [Step::Finished, Step::Fencing(RIGHT.rank), Step::Sealed(RIGHT.rank), Step::Proposed(RIGHT.rank)];
    for step in steps {
        let world = run(Options::default(), step, |world| world.kill(SOURCE.rank));
        assert_eq!(world.assert_ends(GenerationKind::Handoff).landed.len(), 10, "{step:?}");
    }
}

#[test]
fn what_has_arrived_is_verified_before_the_seal_but_not_for_ever() {
    // The last item arrives after some 0.81 s; the source's death is noticed at 0.93 s, and verification may take
    // until 1.93 s then.
    let landed = |verify_delay_ms| {
        let options = Options { verify_delay: Duration::from_millis(verify_delay_ms), ..Options::default() };
        let mut world = World::usual(options);
        world.at(Duration::from_millis(830), |world| world.kill(SOURCE.rank));
        world.run();
        world.assert_ends(GenerationKind::Handoff).landed.len()
    };
    assert_eq!(landed(1050), 10);
    assert!(landed(1150) < 10);
}

#[test]
fn the_same_generation_seen_again_changes_nothing() {
    let world = run(Options::default(), Step::Landed(3), |world| {
        for rank in [LEFT.rank, SOURCE.rank, RIGHT.rank] {
            world.input(rank, Input::GenerationSeen { record: base() });
        }
    });
    world.assert_ends(GenerationKind::Handoff);
}

// The deadline.

#[test]
fn a_deadline_that_leaves_only_activations_out_still_hands_over() {
    let options = Options { time_left: Duration::from_millis(7600), ..slow() };
    let mut world = World::usual(options);
    world.run();
    let record = world.assert_ends(GenerationKind::Handoff);
    assert_eq!(names(&record.recompute), ["layer.4.saved", "layer.6.saved"][1..]);
    let events = world.events(SOURCE.rank);
    assert_eq!(events[events.len() - 2], Event::Expired);
}

#[test]
fn a_deadline_that_leaves_state_out_goes_back_to_a_checkpoint() {
    let options = Options { time_left: Duration::from_secs(5), ..slow() };
    let mut world = World::usual(options);
    world.run();
    let record = world.assert_ends(GenerationKind::Restore);
    assert_eq!(record.missing[..2], ["layer.4.adam", "layer.6.adam"]);
    for rank in [LEFT.rank, RIGHT.rank] {
        let told = world.told(rank, |event| matches!(event, Event::Restored { .. })).expect("it ended");
        assert!(told < Duration::from_secs(6), "the end is told within a second of the deadline, not after {told:?}");
    }
}

#[test]
fn a_deadline_before_the_cut_goes_back_to_a_checkpoint() {
    let mut world = World::usual(without_cut());
    world.run();
    let record = world.assert_ends(GenerationKind::Restore);
    assert_eq!(record.reason, "the deadline passed before everything was offered");
}

#[test]
fn a_deadline_may_come_nearer() {
    let mut world = World::usual(slow());
    world.at(Duration::from_secs(2), |world| {
        let deadline = Deadline::after(world.now, Duration::from_millis(5600));
        world.input(SOURCE.rank, Input::Notice { deadline });
    });
    world.run();
    let record = world.assert_ends(GenerationKind::Handoff);
    assert_eq!(names(&record.recompute), ["layer.6.saved"]);
    let expired = world.told(SOURCE.rank, |event| *event == Event::Expired);
    assert_eq!(expired, Some(Duration::from_millis(7600)));
    let sealed = world.told(LEFT.rank, |event| matches!(event, Event::Sealed { .. })).expect("it sealed");
    assert!(sealed < Duration::from_secs(8), "{sealed:?}");
}

#[test]
fn a_deadline_does_not_move_away() {
    let mut world = World::usual(slow());
    world.at(Duration::from_secs(2), |world| {
        let deadline = Deadline::after(world.now, Duration::from_secs(3600));
        world.input(SOURCE.rank, Input::Notice { deadline });
        assert_eq!(world.source().ignored(), 1);
    });
    world.run();
    world.assert_ends(GenerationKind::Handoff);
}

// A target doesn't take part, or no longer.

#[test]
fn a_target_without_memory_refuses_and_the_source_stays() {
    let options = Options { memory_bytes: BTreeMap::from([(0, 1 << 30), (2, 1000)]), ..Options::default() };
    let mut world = World::usual(options);
    world.run();

    assert_eq!(world.generation().kind, GenerationKind::Withdrawn);
    assert_eq!(world.generation().owners, base().owners);
    let needed = "4520000 bytes don't fit; rank 2 takes at most 1000 bytes of others' migrations";
    assert_eq!(world.generation().reason, format!("rank 2 refused: {needed}"));
    let refused = Event::Refused { by: 2, reason: needed.to_owned() };
    assert!(world.events(SOURCE.rank).contains(&refused));
    assert_eq!(world.events(RIGHT.rank), [refused]);
    for rank in [SOURCE.rank, LEFT.rank] {
        assert!(matches!(world.events(rank).last(), Some(Event::Withdrawn { .. })), "rank {rank}");
    }
}

#[test]
fn a_target_that_can_not_allocate_refuses_and_the_source_stays() {
    let world = run(Options::default(), Step::Admitted(RIGHT.rank), |world| {
        world.at(Duration::from_micros(1500), |world| {
            world.input(RIGHT.rank, Input::AllocationFailed { reason: "out of memory".to_owned() });
        });
    });
    assert_eq!(world.generation().kind, GenerationKind::Withdrawn);
    assert_eq!(world.generation().reason, "rank 2 refused: no memory could be granted: out of memory");
}

#[test]
fn a_target_that_must_leave_itself_refuses_and_the_source_stays() {
    let world = run(Options::default(), Step::Landed(4), |world| {
        let deadline = Deadline::after(world.now, Duration::from_secs(30));
        world.input(RIGHT.rank, Input::Notice { deadline });
    });
    assert_eq!(world.generation().kind, GenerationKind::Withdrawn);
    assert_eq!(world.generation().reason, "rank 2 refused: rank 2 leaves, too");
}

#[test]
fn a_target_that_knows_another_generation_refuses() {
    let mut world = World::usual(Options::default());
    world.on(Step::Begun, |world| {
        let newer = GenerationRecord { generation: BASE + 5, base: BASE + 5, ..base() };
        world.overtake(newer);
    });
    world.run();
    let reason = "generation 12 is true here, and the offer is based on generation 7".to_owned();
    assert_eq!(world.events(LEFT.rank), [Event::Refused { by: 0, reason }]);
    assert!(matches!(world.events(SOURCE.rank).last(), Some(Event::Superseded { record }) if record.generation == 12));
}

#[test]
fn a_target_that_dies_before_its_seal_leaves_the_source_in_charge() {
    let steps =
        [Step::Admitted(RIGHT.rank), Step::Granted, Step::FirstWritten, Step::Landed(5), Step::CutAt(RIGHT.rank)];
    for step in steps {
        let world = run(Options::default(), step, |world| world.kill(RIGHT.rank));
        let record = world.assert_ends(GenerationKind::Withdrawn);
        assert_eq!(record.reason, "rank 2 is gone: connection reset", "{step:?}");
        let reason = "connection reset".to_owned();
        assert!(world.events(SOURCE.rank).contains(&Event::TargetLost { rank: 2, reason }));
    }
}

#[test]
fn a_target_that_dies_with_its_seal_leaves_the_source_in_charge() {
    // Nobody else has sealed: the left side's items take longer.
    let mut world = World::usual(slow());
    world.on(Step::Sealed(LEFT.rank), |world| {
        assert!(world.generation().generation == BASE);
        world.kill(LEFT.rank);
    });
    world.run();
    let record = world.assert_ends(GenerationKind::Withdrawn);
    assert_eq!(record.reason, "rank 0 is gone: connection reset");
}

#[test]
fn a_target_that_dies_when_all_have_sealed_can_not_stop_the_hand_over() {
    let world = run(Options::default(), Step::Proposed(LEFT.rank), |world| world.kill(LEFT.rank));
    world.assert_ends(GenerationKind::Handoff);
}

#[test]
fn without_source_and_a_target_the_survivor_takes_everything_back_to_a_checkpoint() {
    for step in [Step::Landed(3), Step::Landed(STATE), Step::Finished] {
        let world = run(Options::default(), step, |world| {
            world.kill(RIGHT.rank);
            world.kill(SOURCE.rank);
        });
        let record = world.assert_ends(GenerationKind::Restore);
        assert!(record.reason.contains("rank 2 is gone (connection reset)"), "{step:?}: {}", record.reason);
        assert!(record.owners.iter().all(|(_, rank)| *rank == LEFT.rank), "no shard belongs to the dead");
    }
}

#[test]
fn a_target_lost_near_the_deadline_is_for_the_others_to_judge() {
    let options = Options { time_left: limits::ATTEMPT_TIME_MIN - Duration::from_millis(1), ..Options::default() };
    let world = run(options, Step::Landed(3), |world| world.kill(RIGHT.rank));
    let record = world.assert_ends(GenerationKind::Restore);
    assert!(record.reason.starts_with("rank 2 is gone"), "{}", record.reason);
    assert!(record.landed.contains(&id("layer.4.adam")), "the left side's items went on");
}

#[test]
fn with_all_targets_lost_the_source_stays_however_late_it_is() {
    let options = Options { time_left: Duration::from_secs(2), ..Options::default() };
    let world = run(options, Step::Landed(3), |world| {
        world.kill(LEFT.rank);
        world.kill(RIGHT.rank);
    });
    world.assert_ends(GenerationKind::Withdrawn);
}

#[test]
fn a_target_that_never_seals_is_waited_for_and_then_named() {
    // It heard of nothing: the source died between two messages.
    let mut world = World::usual(Options::default());
    world.on(Step::Finished, |world| world.cut_off_from_store(RIGHT.rank));
    world.run();
    assert_eq!(world.generation().kind, GenerationKind::Restore);
    assert_eq!(world.generation().reason, "rank 2 did not seal in time; lost: 4 of 10 items");
    let told = world.told(LEFT.rank, |event| matches!(event, Event::Restored { .. })).expect("it ended");
    assert!(told >= Duration::from_secs(30) + limits::SEAL_GRACE, "{told:?}");
    assert!(matches!(world.events(RIGHT.rank).last(), Some(Event::Failed { .. })));
}

#[test]
fn without_the_source_a_silent_target_is_not_waited_for_until_the_deadline() {
    let mut world = World::usual(Options::default());
    world.on(Step::Landed(STATE), |world| {
        world.cut_off_from_store(RIGHT.rank);
        world.kill(SOURCE.rank);
    });
    world.run();
    assert!(world.generation().reason.starts_with("rank 2 did not seal in time"), "{}", world.generation().reason);
    let told = world.told(LEFT.rank, |event| matches!(event, Event::Restored { .. })).expect("it ended");
    let died = Duration::from_millis(750);
    let grace = limits::SOURCE_GONE_GRACE;
    assert!(told > died + grace && told < died + grace + Duration::from_millis(300), "{told:?}");
}

// Bytes go wrong.

#[test]
fn a_damaged_item_is_sent_again() {
    let faults = Faults { damaged_sends: BTreeMap::from([(id("layer.6.adam"), 2)]), ..Faults::default() };
    let mut world = World::usual(Options { faults, ..Options::default() });
    world.run();
    assert_eq!(world.assert_ends(GenerationKind::Handoff).landed.len(), 10);
    for rank in [SOURCE.rank, RIGHT.rank] {
        let damaged = Event::Damaged { item: id("layer.6.adam") };
        assert_eq!(world.events(rank).iter().filter(|event| **event == damaged).count(), 2, "rank {rank}");
    }
}

#[test]
fn state_that_is_always_damaged_leaves_the_source_in_charge() {
    let faults = Faults { damaged_sends: BTreeMap::from([(id("rng"), u32::MAX)]), ..Faults::default() };
    let mut world = World::usual(Options { faults, ..Options::default() });
    world.run();
    let record = world.assert_ends(GenerationKind::Withdrawn);
    assert_eq!(record.reason, "item `rng` can't be sent: it arrived damaged every time");
}

#[test]
fn an_activation_that_is_always_damaged_is_computed_again() {
    let faults = Faults { damaged_sends: BTreeMap::from([(id("layer.4.saved"), u32::MAX)]), ..Faults::default() };
    let mut world = World::usual(Options { faults, ..Options::default() });
    world.run();
    assert_eq!(world.assert_ends(GenerationKind::Handoff).recompute, [id("layer.4.saved")]);
}

#[test]
fn a_failed_write_is_tried_again_so_often_and_no_oftener() {
    let write_fails = |times| {
        let faults = Faults { failed_writes: BTreeMap::from([(id("layer.4.weight"), times)]), ..Faults::default() };
        let mut world = World::usual(Options { faults, ..Options::default() });
        world.run();
        world
    };
    write_fails(limits::SENDS_PER_ITEM_MAX - 1).assert_ends(GenerationKind::Handoff);
    let world = write_fails(limits::SENDS_PER_ITEM_MAX);
    let record = world.assert_ends(GenerationKind::Withdrawn);
    assert_eq!(record.reason, "item `layer.4.weight` can't be sent: the link was lost");
}

// The store.

#[test]
fn without_a_store_nobody_becomes_an_owner() {
    let world = run(Options::default(), Step::Fencing(LEFT.rank), World::lose_store);
    assert_eq!(*world.generation(), base());
    for rank in [LEFT.rank, RIGHT.rank] {
        let failed = Event::Failed { reason: "no store at 127.0.0.1:29501".to_owned() };
        assert_eq!(world.events(rank).last(), Some(&failed));
        let told = world.told(rank, |event| *event == failed).expect("it failed");
        assert!(told < Duration::from_secs(1), "rank {rank} knows it at once, not after {told:?}");
    }
    let told = world.told(SOURCE.rank, |event| matches!(event, Event::Failed { .. }));
    assert_eq!(told, Some(Duration::from_secs(30) + limits::GENERATION_GRACE));
}

#[test]
fn a_source_that_wants_to_stay_and_has_no_store_is_told_so() {
    let world = run(Options::default(), Step::Landed(2), |world| {
        world.lose_store();
        world.input(SOURCE.rank, Input::Withdraw { reason: "the notice was withdrawn".to_owned() });
    });
    assert_eq!(*world.generation(), base());
    let told = Event::Failed { reason: "no store at 127.0.0.1:29501".to_owned() };
    assert_eq!(world.events(SOURCE.rank).last(), Some(&told));
}

#[test]
fn a_target_that_lost_the_store_still_obeys_what_the_others_decided() {
    let mut world = World::usual(Options::default());
    world.on(Step::Proposed(LEFT.rank), |world| world.cut_off_from_store(LEFT.rank));
    world.at(Duration::from_secs(5), |world| {
        assert!(matches!(world.events(LEFT.rank).last(), Some(Event::Failed { .. })));
        world.reconnect_to_store(LEFT.rank);
    });
    world.run();
    world.assert_ends(GenerationKind::Handoff);
}

#[test]
fn another_migration_may_be_faster() {
    let other = GenerationRecord {
        generation: BASE + 1,
        base: BASE,
        kind: GenerationKind::Handoff,
        source: Some(PeerId { rank: 3, incarnation: 1 }),
        ..base()
    };
    let newer = other.clone();
    let world = run(Options::default(), Step::Landed(4), move |world| world.overtake(newer));
    assert_eq!(*world.generation(), other, "a stale proposal changes nothing");
    for rank in [SOURCE.rank, LEFT.rank, RIGHT.rank] {
        assert_eq!(world.events(rank).last(), Some(&Event::Superseded { record: other.clone() }), "rank {rank}");
    }
}

#[test]
fn a_death_that_is_only_believed_leaves_the_source_in_charge() {
    let world = run(Options::default(), Step::Landed(3), |world| {
        world.believe_source_dead(LEFT.rank);
    });
    let record = world.assert_ends(GenerationKind::Withdrawn);
    assert!(record.reason.ends_with("can't be sent: the grant was revoked"), "{}", record.reason);
}

#[test]
fn the_death_of_an_earlier_life_changes_nothing() {
    let world = run(Options::default(), Step::Landed(3), |world| {
        for rank in [LEFT.rank, SOURCE.rank, RIGHT.rank] {
            let peer = PeerId { rank: if rank == SOURCE.rank { 0 } else { 1 }, incarnation: 0 };
            world.input(rank, Input::PeerGone { peer, reason: "connection reset".to_owned() });
        }
    });
    world.assert_ends(GenerationKind::Handoff);
}

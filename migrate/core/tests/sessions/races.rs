//! Staying and leaving exclude each other, whichever is faster.

use std::collections::BTreeSet;
use std::time::Duration;

use xfer_migrate_core::session::{Event, Input};
use xfer_migrate_core::{GenerationKind, GenerationRecord};
use xfer_transport_core::Deadline;

use crate::world::{BASE, LEFT, Options, RIGHT, SOURCE, Step, World, base};

fn withdraw(world: &mut World) {
    // After the end it is too late, and refused.
    let _ = world.try_input(SOURCE.rank, Input::Withdraw { reason: "the notice was withdrawn".to_owned() });
}

#[test]
fn a_withdrawal_and_a_commit_exclude_each_other_at_every_moment() {
    let mut undisturbed = World::usual(Options::default());
    undisturbed.run();
    let end = undisturbed.told(SOURCE.rank, |event| matches!(event, Event::Committed { .. })).expect("it ended");

    let mut ends = BTreeSet::new();
    for early_us in (0..30_000).step_by(250) {
        let mut world = World::usual(Options::default());
        world.at(end - Duration::from_micros(early_us), withdraw);
        world.run();
        let kind = world.generation().kind;
        world.assert_ends(kind);
        ends.insert(kind.name());
    }
    assert_eq!(ends, BTreeSet::from(["handoff", "withdrawn"]), "the sweep covers both sides of the race");
}

#[test]
fn a_withdrawal_ends_the_migration_at_every_step_before_the_proposal() {
    let steps = [
        Step::Begun,
        Step::Admitted(LEFT.rank),
        Step::Granted,
        Step::FirstWritten,
        Step::Landed(5),
        Step::Finished,
        Step::Fencing(RIGHT.rank),
    ];
    for step in steps {
        let mut world = World::usual(Options { cut_after: Some(Duration::from_millis(1)), ..Options::default() });
        if step == Step::Begun {
            world = World::new(Options::default());
        }
        world.on(step, withdraw);
        world.run();
        assert_eq!(world.generation().reason, "the notice was withdrawn", "{step:?}");
        world.assert_ends(GenerationKind::Withdrawn);
    }
}

#[test]
fn whatever_ends_the_sending_cancels_what_is_posted() {
    let cancels = |end: fn(&mut World)| {
        let mut world = World::usual(Options::default());
        world.on(Step::Landed(2), move |world| {
            assert!(world.writes_under_way() > 0);
            end(world);
            assert_eq!(world.writes_under_way(), 0);
        });
        world.run();
    };
    cancels(withdraw);
    cancels(|world| {
        let deadline = Deadline(world.now);
        world.input(SOURCE.rank, Input::Notice { deadline });
    });
    cancels(|world| {
        let record = GenerationRecord { generation: BASE + 3, base: BASE + 3, ..base() };
        world.input(SOURCE.rank, Input::GenerationSeen { record: record.clone() });
        world.overtake(record);
    });
}

#[test]
fn a_withdrawal_after_the_deadline_still_counts_if_it_is_first() {
    let options = Options { bytes_per_s: 1_000_000, time_left: Duration::from_secs(2), ..Options::default() };
    let mut world = World::usual(options);
    world.at(Duration::from_secs(2), withdraw);
    world.run();
    world.assert_ends(GenerationKind::Withdrawn);
}

#[test]
fn a_deadline_at_every_moment_ends_alike_for_all() {
    let mut ends = BTreeSet::new();
    for time_left_ms in (0..900).step_by(3) {
        let mut world = World::usual(Options { time_left: Duration::from_millis(time_left_ms), ..Options::default() });
        world.run();
        let kind = world.generation().kind;
        let record = world.assert_ends(kind);
        ends.insert((kind.name(), !record.recompute.is_empty()));
    }
    assert_eq!(ends, BTreeSet::from([("handoff", false), ("handoff", true), ("restore", false)]));
}

#[test]
fn a_source_that_dies_at_every_moment_ends_alike_for_the_others() {
    let mut ends = BTreeSet::new();
    for after_ms in (2..830).step_by(3) {
        let mut world = World::usual(Options::default());
        world.at(Duration::from_millis(after_ms), |world| world.kill(SOURCE.rank));
        world.run();
        let kind = world.generation().kind;
        world.assert_ends(kind);
        ends.insert(kind.name());
    }
    assert_eq!(ends, BTreeSet::from(["handoff", "restore"]));
}

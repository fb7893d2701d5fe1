//! Nothing goes wrong.

use std::time::Duration;

use xfer_migrate_core::session::{Event, Input};
use xfer_migrate_core::{GenerationKind, PlanPolicy, Verdict};

use crate::world::{LEFT, Options, RECORD, RIGHT, SOURCE, World, id, owners_after, standard_items};

#[test]
fn everything_lands_and_ownership_passes() {
    let mut world = World::usual(Options::default());
    world.run();

    let record = world.assert_ends(GenerationKind::Handoff);
    assert_eq!(record.landed.len(), standard_items().len());
    assert_eq!(record.recompute, []);
    assert_eq!(record.owners, owners_after());
    assert_eq!(&record.record[..], RECORD);
    assert_eq!(record.reason, "all 10 items landed");
}

#[test]
fn users_are_told_what_happens_in_its_order() {
    let mut world = World::usual(Options::default());
    world.run();

    let events = world.events(SOURCE.rank);
    assert!(matches!(events[0], Event::Planned { verdict: Verdict::Fits { .. } }), "{:?}", events[0]);
    assert_eq!(events[1], Event::Granted);
    let landed = events.iter().filter(|event| matches!(event, Event::Landed { .. })).count();
    assert_eq!(landed, 10);
    assert!(matches!(events.last(), Some(Event::Committed { .. })));

    let events = world.events(RIGHT.rank);
    assert_eq!(events[..2], [Event::Cut, Event::Granted], "the cut follows the offer, which memory is still made for");
    assert_eq!(events[events.len() - 2], Event::Sealed { landed: 5, missing: 0 });
}

#[test]
fn the_irreplaceable_lands_first_and_its_smallest_before_all() {
    let mut world = World::usual(Options::default());
    world.run();

    let landed = world.events(SOURCE.rank).into_iter().filter_map(|event| match event {
        Event::Landed { item } => Some(item),
        _ => None,
    });
    let landed: Vec<_> = landed.collect();
    assert_eq!(landed[..2], [id("rng"), id("input.4")]);
    assert_eq!(landed[7..], [id("layer.6.input"), id("layer.4.saved"), id("layer.6.saved")]);
}

#[test]
fn it_ends_as_soon_as_the_bytes_are_there() {
    let mut world = World::usual(Options::default());
    world.run();
    let ended = world.told(SOURCE.rank, |event| matches!(event, Event::Committed { .. })).expect("it ended");
    // 8.065 MB at 10 MB/s, and a few round trips of milliseconds.
    assert!(ended < Duration::from_millis(830), "{ended:?}");
}

#[test]
fn items_may_come_in_several_offers() {
    let mut world = World::new(Options::default());
    let mut items = standard_items();
    let later = items.split_off(6);
    world.at(Duration::ZERO, |world| world.input(SOURCE.rank, Input::Items(items)));
    world.at(Duration::from_millis(200), |world| {
        world.input(SOURCE.rank, Input::Items(later));
        world.input(SOURCE.rank, Input::Cut { record: RECORD.into() });
    });
    world.run();
    assert_eq!(world.assert_ends(GenerationKind::Handoff).landed.len(), 10);
}

#[test]
fn a_migration_of_nothing_passes_ownership_alone() {
    let mut world = World::new(Options::default());
    world.at(Duration::ZERO, |world| world.input(SOURCE.rank, Input::Cut { record: RECORD.into() }));
    world.run();
    let record = world.assert_ends(GenerationKind::Handoff);
    assert_eq!((record.landed.len(), record.recompute.len()), (0, 0));
}

#[test]
fn what_is_not_worth_its_bytes_is_computed_again() {
    // 50 ms for each saved tensor on the link, and 300 or 400 ms to compute one: worth it. At a hundredth of the rate
    // it is not, and the targets need not wait for the deadline to know.
    let fast = Options { policy: PlanPolicy::Threshold, ..Options::default() };
    let mut world = World::usual(fast.clone());
    world.run();
    assert_eq!(world.assert_ends(GenerationKind::Handoff).recompute, []);

    let slow = Options { bytes_per_s: 100_000, time_left: Duration::from_secs(600), ..fast };
    let mut world = World::usual(slow);
    world.run();
    let record = world.assert_ends(GenerationKind::Handoff);
    assert_eq!(record.recompute, [id("layer.4.saved"), id("layer.6.saved")]);
    let ended = world.told(LEFT.rank, |event| matches!(event, Event::Committed { .. })).expect("it ended");
    assert!(ended < Duration::from_secs(72), "{ended:?}");
}

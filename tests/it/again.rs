//! Hand-overs that begin again: what had landed is not sent again, and nothing else is taken for it.

use std::time::Duration;

use crate::support::{WAIT, engines, engines_with, pattern, state};
use xfer::migrate::{HandOver, Outcome, OutcomeKind, Outgoing, Rescue};
use xfer::{Engine, EngineBuilder, Lane, Region};

const MINUTE: Duration = Duration::from_secs(60);

const SMALL: usize = 50_000;
const LARGE: usize = 16_000_000;

fn hand_over(leaving: &Engine, targets: &[u32], items: Vec<Rescue>) -> Outgoing {
    let owners_after = targets.iter().map(|rank| (format!("of {rank}"), *rank)).collect();
    let hand_over = HandOver { targets: targets.to_vec(), owners_after, time_left: MINUTE };
    let outgoing = leaving.hand_over(hand_over).unwrap();
    outgoing.offer(items).unwrap();
    outgoing
}

fn ends(outgoing: &Outgoing, generation: u64) -> Outcome {
    let outcome = outgoing.wait(Some(WAIT)).expect("it ends").expect("it is decided");
    assert_eq!(outcome.generation, generation, "{}", outcome.reason);
    outcome
}

fn received_bytes(engine: &Engine) -> u64 {
    engine.endpoint().stats().lane(Lane::Rescue).received_bytes
}

/// The first two ranks have a part of what is theirs when the last one has to leave, too: it refuses, and nothing changes
/// hands. How many bytes have landed at the first one.
fn first_attempt([first, leaving, last]: &[Engine; 3], items: Vec<Rescue>) -> u64 {
    leaving.endpoint().set_egress_limit(Some(10_000_000));
    let outgoing = hand_over(leaving, &[0, 2], items);
    let has_some = || (received_bytes(first) >= 3_000_000).then_some(());
    // Bytes that come ring no bell.
    let found = (0..1000).find_map(|_| first.bell().wait_for(Some(Duration::from_millis(20)), has_some));
    assert!(found.is_some(), "some of it lands: {:?}", first.endpoint().stats());
    last.raise_notice("test", MINUTE).unwrap();
    assert_eq!(ends(&outgoing, 1).kind, OutcomeKind::Withdrawn);
    let knows = || (first.generation() == 1).then_some(());
    first.bell().wait_for(Some(WAIT), knows).expect("it hears of it");
    leaving.endpoint().set_egress_limit(None);
    received_bytes(first)
}

fn items(target_of_both: u32) -> Vec<Rescue> {
    vec![state("small", 0, SMALL), state("large", 0, LARGE), state("other", target_of_both, LARGE)]
}

#[test]
fn what_has_landed_at_who_is_left_is_not_sent_again() {
    let all = engines();
    let there = first_attempt(&all, items(2));
    let [first, leaving, _last] = &all;
    let again = hand_over(leaving, &[0], items(0));
    again.cut("cursor".into()).unwrap();
    assert_eq!(ends(&again, 2).kind, OutcomeKind::Handoff);

    let (at_first, all_bytes) = (first.incoming().unwrap(), (SMALL + 2 * LARGE) as u64);
    for (name, len) in [("small", SMALL), ("large", LARGE), ("other", LARGE)] {
        assert!(at_first.landed(name).unwrap().copy_to_vec() == pattern(name, len), "{name}");
    }
    let (source, target) = (again.report(), at_first.report());
    assert_eq!((source.moved_items(), source.moved_bytes()), (3, all_bytes));
    assert_eq!((target.moved_items(), target.moved_bytes()), (3, all_bytes));
    // A chunk may have arrived that nobody was told of any more.
    assert!(source.kept_bytes >= SMALL as u64 && source.kept_bytes <= there, "{there} were there: {source:?}");
    assert!(source.kept_bytes > 2_000_000, "{there} were there: {source:?}");
    assert_eq!(source.kept_bytes, target.kept_bytes);
    assert_eq!(source.path.values().sum::<u64>(), all_bytes - source.kept_bytes, "no byte goes twice");
    assert_eq!(received_bytes(first) - there, all_bytes - source.kept_bytes);
}

#[test]
fn what_has_changed_in_between_is_sent_as_a_whole() {
    let all = engines();
    let there = first_attempt(&all, items(2));
    let [first, leaving, _last] = &all;
    let mut changed = items(0);
    let turned = |name: &str, len| -> Vec<u8> { pattern(name, len).iter().map(|byte| !byte).collect() };
    // One says so, the other one doesn't.
    (changed[0].version, changed[0].region) = (2, Region::from_vec(turned("small", SMALL)));
    changed[1].region = Region::from_vec(turned("large", LARGE));
    let again = hand_over(leaving, &[0], changed);
    again.cut("cursor".into()).unwrap();
    assert_eq!(ends(&again, 2).kind, OutcomeKind::Handoff);

    let at_first = first.incoming().unwrap();
    assert!(at_first.landed("small").unwrap().copy_to_vec() == turned("small", SMALL));
    assert!(at_first.landed("large").unwrap().copy_to_vec() == turned("large", LARGE));
    assert_eq!((again.report().kept_bytes, at_first.report().kept_bytes), (0, 0));
    assert_eq!(received_bytes(first) - there, (SMALL + 2 * LARGE) as u64);
}

#[test]
fn memory_that_its_user_has_is_not_used_again() {
    let all = engines();
    first_attempt(&all, items(2));
    let [first, leaving, _last] = &all;
    let held = first.incoming().unwrap().landed("small").expect("it has landed");
    held.write_at(0, &[0xc5; SMALL]).unwrap();
    let again = hand_over(leaving, &[0], vec![state("small", 0, SMALL)]);
    again.cut("cursor".into()).unwrap();
    assert_eq!(ends(&again, 2).kind, OutcomeKind::Handoff);
    assert_eq!(again.report().kept_bytes, 0);
    assert!(first.incoming().unwrap().landed("small").unwrap().copy_to_vec() == pattern("small", SMALL));
    assert!(held.copy_to_vec() == vec![0xc5; SMALL]);
}

#[test]
fn what_is_kept_gives_way_to_what_is_to_land() {
    let limit_bytes = (2 * LARGE) as u64;
    let all: [Engine; 3] = engines_with(|builder: EngineBuilder| builder.memory_limit_bytes(limit_bytes));
    first_attempt(&all, vec![state("large", 0, LARGE), state("other", 2, LARGE)]);
    let [first, leaving, _last] = &all;
    // Together with what is kept, this is more than there is room for.
    let again = hand_over(leaving, &[0], vec![state("one more", 0, LARGE), state("two more", 0, LARGE)]);
    again.cut("cursor".into()).unwrap();
    assert_eq!(ends(&again, 2).kind, OutcomeKind::Handoff);
    assert_eq!(first.incoming().unwrap().report().moved_bytes(), limit_bytes);
}

#[test]
fn a_third_attempt_goes_on_from_the_second() {
    let all = engines();
    let there = first_attempt(&all, items(2));
    let [first, leaving, _last] = &all;
    leaving.endpoint().set_egress_limit(Some(10_000_000));
    let again = hand_over(leaving, &[0], items(0));
    let more = || (received_bytes(first) >= there + 2_000_000).then_some(());
    let found = (0..1000).find_map(|_| first.bell().wait_for(Some(Duration::from_millis(20)), more));
    assert!(found.is_some(), "some more of it lands: {:?}", first.endpoint().stats());
    again.withdraw().unwrap();
    assert_eq!(ends(&again, 2).kind, OutcomeKind::Withdrawn);
    first.bell().wait_for(Some(WAIT), || (first.generation() == 2).then_some(())).expect("it hears of it");
    leaving.endpoint().set_egress_limit(None);

    let before = received_bytes(first);
    let last = hand_over(leaving, &[0], items(0));
    last.cut("cursor".into()).unwrap();
    assert_eq!(ends(&last, 3).kind, OutcomeKind::Handoff);
    let all_bytes = (SMALL + 2 * LARGE) as u64;
    assert!(last.report().kept_bytes > there, "{there} were there before the second: {:?}", last.report());
    assert_eq!(received_bytes(first) - before, all_bytes - last.report().kept_bytes);
    assert!(first.incoming().unwrap().landed("large").unwrap().copy_to_vec() == pattern("large", LARGE));
}

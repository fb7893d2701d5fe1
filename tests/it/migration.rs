//! Migrations between engines: who owns what after everything that can happen on the way.

use std::time::Duration;

use crate::support::{WAIT, activation, engines, engines_with, pattern, state};
use xfer::migrate::{HandOver, HandOverError, MigrationError, OfferError, Outcome, OutcomeKind};
use xfer::{Engine, EngineError};

const MINUTE: Duration = Duration::from_secs(60);

fn hand_over(time_left: Duration) -> HandOver {
    HandOver { targets: vec![0, 2], owners_after: vec![("front".to_owned(), 0), ("back".to_owned(), 2)], time_left }
}

/// What a target that has heard of a migration says of its end.
fn seen_by(target: &Engine) -> Result<Outcome, MigrationError> {
    let incoming = target.bell().wait_for(Some(WAIT), || target.incoming()).expect("an offer came");
    incoming.wait(Some(WAIT)).expect("the migration ends")
}

/// Whether a target has heard that nothing more is offered.
fn knows_the_cut(target: &Engine) -> Option<()> {
    let report = target.incoming()?.report();
    report.phases_s.iter().any(|(phase, _)| *phase == "cut").then_some(())
}

#[test]
fn what_is_handed_over_lands_verified_and_all_ranks_see_one_generation() {
    let [first, leaving, last] = engines();
    let outgoing = leaving.hand_over(hand_over(MINUTE)).unwrap();
    outgoing.offer(vec![state("a", 0, 3_000_001)]).unwrap();
    outgoing.offer(vec![state("b", 2, 100), activation("c", 2, 70_000, MINUTE, &["b"])]).unwrap();
    outgoing.cut("step 3".into()).unwrap();

    let outcome = outgoing.wait(Some(WAIT)).unwrap().unwrap();
    assert_eq!((outcome.kind, outcome.generation, outcome.source), (OutcomeKind::Handoff, 1, 1));
    assert_eq!(outcome.owners, [("front".to_owned(), 0), ("back".to_owned(), 2)]);
    assert_eq!((outcome.recompute.len(), outcome.missing.len()), (0, 0));
    assert_eq!(outcome.record, "step 3");
    assert_eq!(seen_by(&first).unwrap(), outcome);
    assert_eq!(seen_by(&last).unwrap(), outcome);

    let at_first = first.incoming().unwrap();
    assert_eq!(at_first.landed("a").unwrap().copy_to_vec(), pattern("a", 3_000_001));
    assert!(at_first.landed("b").is_none(), "each target has its own items only");
    assert_eq!(last.incoming().unwrap().landed("c").unwrap().copy_to_vec(), pattern("c", 70_000));
    assert_eq!([&first, &leaving, &last].map(Engine::generation), [1, 1, 1]);

    let report = outgoing.report();
    assert_eq!((report.moved_items(), report.moved_bytes()), (3, 3_000_001 + 100 + 70_000));
    assert_eq!(report.path.values().sum::<u64>(), report.moved_bytes(), "every byte went over a named path");
}

#[test]
fn a_source_that_dies_after_the_cut_is_not_needed_to_commit() {
    let [first, leaving, last] = engines();
    leaving.endpoint().set_egress_limit(Some(2_000_000));
    let outgoing = leaving.hand_over(hand_over(MINUTE)).unwrap();
    outgoing.offer(vec![state("a", 0, 1000), state("b", 2, 1000)]).unwrap();
    outgoing.offer(vec![activation("big", 2, 40_000_000, MINUTE, &["b"])]).unwrap();
    outgoing.cut("cursor".into()).unwrap();
    let landed = || (outgoing.report().moved_items() >= 2).then_some(());
    leaving.bell().wait_for(Some(WAIT), landed).expect("the small state lands first");
    for target in [&first, &last] {
        target.bell().wait_for(Some(WAIT), || knows_the_cut(target)).expect("it is told that this is all");
    }
    leaving.close();

    let outcome = seen_by(&first).unwrap();
    assert_eq!(outcome.kind, OutcomeKind::Handoff, "{}", outcome.reason);
    assert_eq!(outcome.recompute, ["big"]);
    assert_eq!(seen_by(&last).unwrap(), outcome);
    assert!(last.incoming().unwrap().landed("big").is_none(), "half an item is no item");
}

#[test]
fn a_source_that_dies_before_the_cut_leaves_a_restore() {
    let [first, leaving, last] = engines();
    let outgoing = leaving.hand_over(hand_over(MINUTE)).unwrap();
    outgoing.offer(vec![state("a", 0, 1000), state("b", 2, 1000)]).unwrap();
    let landed = || (outgoing.report().moved_items() == 2).then_some(());
    leaving.bell().wait_for(Some(WAIT), landed).expect("the state lands");
    leaving.close();

    let outcome = seen_by(&first).unwrap();
    assert_eq!(outcome.kind, OutcomeKind::Restore, "without the cursor nobody knows where training is");
    assert_eq!(seen_by(&last).unwrap(), outcome);
}

#[test]
fn state_that_misses_the_deadline_makes_both_targets_restore() {
    let [first, leaving, last] = engines();
    leaving.endpoint().set_egress_limit(Some(1_000_000));
    // Made before the notice: the little that is to land must not wait for the much that is filled with a pattern. Both go to
    // one target, since the order of the plan is not kept between links that share a limit.
    let items = vec![state("a", 2, 1000), state("much", 2, 50_000_000)];
    let outgoing = leaving.hand_over(hand_over(Duration::from_secs(3))).unwrap();
    outgoing.offer(items).unwrap();
    outgoing.cut("cursor".into()).unwrap();

    let outcome = seen_by(&first).unwrap();
    assert_eq!(outcome.kind, OutcomeKind::Restore);
    assert_eq!(outcome.missing, ["much"]);
    assert_eq!(outcome.owners, [("front".to_owned(), 0), ("back".to_owned(), 2)], "the new owners restore it");
    assert_eq!(seen_by(&last).unwrap(), outcome);
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap(), outcome, "the source hears of it while it lives");
}

#[test]
fn a_withdrawn_notice_leaves_everything_as_it_was() {
    let [first, leaving, last] = engines();
    leaving.endpoint().set_egress_limit(Some(1_000_000));
    let outgoing = leaving.hand_over(hand_over(MINUTE)).unwrap();
    outgoing.offer(vec![state("a", 0, 30_000_000)]).unwrap();
    for target in [&first, &last] {
        target.bell().wait_for(Some(WAIT), || target.incoming()).expect("an offer came");
    }
    // Further offers are on their way when the migration ends; they must not begin another one.
    outgoing.offer(vec![state("b", 2, 30_000_000)]).unwrap();
    outgoing.withdraw().unwrap();

    let outcome = outgoing.wait(Some(WAIT)).unwrap().unwrap();
    assert_eq!((outcome.kind, outcome.generation), (OutcomeKind::Withdrawn, 1));
    assert_eq!(seen_by(&first).unwrap(), outcome);
    assert_eq!(seen_by(&last).unwrap(), outcome);

    // The next notice finds a generation to build on, and all ranks at it.
    leaving.endpoint().set_egress_limit(None);
    first.dismiss();
    last.dismiss();
    let again = leaving.hand_over(hand_over(MINUTE)).unwrap();
    again.offer(vec![state("a", 0, 1000), state("b", 2, 1000)]).unwrap();
    again.cut("cursor".into()).unwrap();
    let outcome = again.wait(Some(WAIT)).unwrap().unwrap();
    assert_eq!((outcome.kind, outcome.generation), (OutcomeKind::Handoff, 2));
}

#[test]
fn when_a_target_dies_the_other_one_says_what_is_lost() {
    let [first, leaving, last] = engines();
    leaving.endpoint().set_egress_limit(Some(2_000_000));
    let items = vec![state("a", 0, 1000), state("b", 2, 60_000_000)];
    let outgoing = leaving.hand_over(hand_over(Duration::from_secs(5))).unwrap();
    outgoing.offer(items).unwrap();
    outgoing.cut("cursor".into()).unwrap();
    let landed = || (outgoing.report().moved_items() >= 1).then_some(());
    leaving.bell().wait_for(Some(WAIT), landed).expect("the small item lands");
    last.close();

    let outcome = seen_by(&first).unwrap();
    assert_eq!(outcome.kind, OutcomeKind::Restore);
    assert!(outcome.reason.contains("rank 2"), "{}", outcome.reason);
    assert!(outcome.missing.contains(&"b".to_owned()), "{:?}", outcome.missing);
}

#[test]
fn what_is_protected_leaves_when_the_notice_comes_and_never_inside_an_update() {
    let [first, leaving, _last] = engines();
    leaving.protect(vec![0], vec![("all".to_owned(), 0)], vec![state("before", 0, 1000)]);
    let guard = leaving.updating().unwrap();
    leaving.raise_notice("test", MINUTE).unwrap();
    leaving.protect(vec![0], vec![("all".to_owned(), 0)], vec![state("after", 0, 1000)]);
    leaving.bell().wait_for(Some(WAIT), || leaving.notice()).expect("the notice is heard");
    assert!(leaving.outgoing().is_none(), "nothing leaves while the optimizer steps");
    drop(guard);

    let outgoing = leaving.bell().wait_for(Some(WAIT), || leaving.outgoing()).expect("it leaves after the step");
    assert!(matches!(leaving.updating(), Err(EngineError::Leaving { rank: 1 })));
    outgoing.cut("cursor".into()).unwrap();
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().landed, ["after"]);
    assert!(first.incoming().unwrap().landed("before").is_none());
}

#[test]
fn a_withdrawn_notice_takes_its_hand_over_back() {
    let [first, leaving, _last] = engines();
    leaving.endpoint().set_egress_limit(Some(1_000_000));
    leaving.protect(vec![0], vec![("all".to_owned(), 0)], vec![state("much", 0, 60_000_000)]);
    leaving.raise_notice("test", MINUTE).unwrap();
    let outgoing = leaving.bell().wait_for(Some(WAIT), || leaving.outgoing()).expect("it leaves");
    // A target that hears of the offer after the end of it refuses it: it is based on a generation of the past.
    first.bell().wait_for(Some(WAIT), || first.incoming()).expect("it hears of it");
    assert!(leaving.withdraw_notice("test"));
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().kind, OutcomeKind::Withdrawn);
    assert_eq!(seen_by(&first).unwrap().kind, OutcomeKind::Withdrawn);
    assert!(leaving.updating().is_ok(), "training goes on");
}

#[test]
fn items_that_make_no_sense_are_refused_by_name_and_change_nothing() {
    let [_first, leaving, _last] = engines();
    let outgoing = leaving.hand_over(hand_over(MINUTE)).unwrap();
    let twice = outgoing.offer(vec![state("a", 0, 1), state("a", 0, 1)]);
    assert_eq!(twice, Err(OfferError::DuplicateName("a".to_owned())));
    let unknown = outgoing.offer(vec![activation("b", 0, 1, MINUTE, &["nobody's"])]);
    assert!(matches!(unknown, Err(OfferError::UnknownInput { input, .. }) if input == "nobody's"));
    let cycle = outgoing.offer(vec![activation("b", 0, 1, MINUTE, &["c"]), activation("c", 0, 1, MINUTE, &["b"])]);
    assert!(matches!(&cycle, Err(OfferError::Refused(_))), "{cycle:?}");
    let nothing = outgoing.offer(vec![state("e", 0, 0)]);
    assert!(matches!(&nothing, Err(OfferError::Refused(_))), "{nothing:?}");
    let stranger = outgoing.offer(vec![state("d", 1, 1)]);
    assert!(matches!(&stranger, Err(OfferError::Refused(_))), "{stranger:?}");

    outgoing.offer(vec![state("a", 0, 1), state("b", 2, 1)]).unwrap();
    outgoing.cut("cursor".into()).unwrap();
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().landed.len(), 2);
    assert!(matches!(outgoing.offer(vec![state("late", 0, 1)]), Err(OfferError::Refused(_))));
}

#[test]
fn a_hand_over_needs_somebody_else_to_take_over() {
    let [_first, leaving, _last] = engines();
    for targets in [vec![], vec![1], vec![0, 0]] {
        let refused = leaving.hand_over(HandOver { targets, ..hand_over(MINUTE) });
        assert!(matches!(refused, Err(EngineError::HandOver(HandOverError::Config(_)))));
    }
    leaving.hand_over(hand_over(MINUTE)).unwrap();
    let second = leaving.hand_over(hand_over(MINUTE));
    assert!(matches!(second, Err(EngineError::HandOver(HandOverError::UnderWay))));
}

#[test]
fn ranks_that_leave_at_once_do_so_one_after_the_other() {
    let [first, one, other, last] = engines();
    // What can't begin is nobody's turn.
    assert!(one.hand_over(HandOver { targets: vec![1], ..hand_over(MINUTE) }).is_err());
    let to =
        |target| HandOver { targets: vec![target], owners_after: vec![("all".to_owned(), target)], time_left: MINUTE };
    let outgoing = one.hand_over(to(0)).unwrap();
    let refused = other.hand_over(to(3)).map(drop);
    assert!(
        matches!(&refused, Err(EngineError::HandOver(HandOverError::NotItsTurn { rank: 1, generation: 0 }))),
        "{refused:?}"
    );
    outgoing.offer(vec![state("a", 0, 1000)]).unwrap();
    outgoing.cut("cursor".into()).unwrap();
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().kind, OutcomeKind::Handoff);

    other.bell().wait_for(Some(WAIT), || (other.generation() == 1).then_some(())).expect("it hears of it");
    let outgoing = other.hand_over(to(3)).unwrap();
    outgoing.offer(vec![state("b", 3, 1000)]).unwrap();
    outgoing.cut("cursor".into()).unwrap();
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().generation, 2);
    assert_eq!(seen_by(&first).unwrap().source, 1);
    assert_eq!(seen_by(&last).unwrap().source, 2);
}

#[test]
fn the_turn_of_a_rank_that_died_is_free() {
    let [_first, dies, other] = engines();
    let to = HandOver { targets: vec![0], owners_after: vec![("all".to_owned(), 0)], time_left: MINUTE };
    dies.hand_over(to.clone()).unwrap();
    assert!(other.hand_over(to.clone()).is_err());
    dies.close();
    other.bell().wait_for(Some(WAIT), || (!other.alive(1)).then_some(())).expect("its death is noticed");
    assert!(other.hand_over(to).is_ok());
}

#[test]
fn who_has_not_followed_the_latest_generation_hands_nothing_over() {
    let [_first, one, other] = engines();
    let to =
        |target| HandOver { targets: vec![target], owners_after: vec![("all".to_owned(), target)], time_left: MINUTE };
    // Before it hears of the other's hand-over, it prepares its own, which would undo that.
    other.protect_in(0, vec![0], vec![("all".to_owned(), 2)], vec![state("stale", 0, 1000)]);
    let outgoing = one.hand_over_in(0, to(0)).unwrap();
    outgoing.cut("cursor".into()).unwrap();
    assert_eq!(outgoing.wait(Some(WAIT)).unwrap().unwrap().generation, 1);
    other.bell().wait_for(Some(WAIT), || (other.generation() == 1).then_some(())).expect("it hears of it");

    other.raise_notice("test", MINUTE).unwrap();
    other.bell().wait_for(Some(WAIT), || other.notice()).expect("the notice is heard");
    let refused = other.hand_over_in(0, to(0)).map(drop);
    let outdated = HandOverError::Outdated { prepared: 0, known: 1 };
    assert!(matches!(&refused, Err(EngineError::HandOver(error)) if *error == outdated), "{refused:?}");
    assert!(other.outgoing().is_none());
    other.protect_in(1, vec![0], vec![("all".to_owned(), 0)], vec![state("fresh", 0, 1000)]);
    let outgoing = other.bell().wait_for(Some(WAIT), || other.outgoing()).expect("it leaves now");
    outgoing.cut("cursor".into()).unwrap();
    let outcome = outgoing.wait(Some(WAIT)).unwrap().unwrap();
    assert_eq!((outcome.generation, outcome.landed), (2, vec!["fresh".to_owned()]));
}

#[test]
fn a_source_knows_what_each_target_has_room_for() {
    let rooms = [5_000_000, 6_000_000, 7_000_000];
    let next = std::sync::atomic::AtomicUsize::new(0);
    // Engines are made in the order of their ranks.
    let [_first, leaving, _last] = engines_with(|builder| {
        let rank = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        builder.memory_limit_bytes(rooms[rank % rooms.len()])
    });
    let outgoing = leaving.hand_over(hand_over(MINUTE)).unwrap();
    outgoing.offer(vec![state("a", 0, 1_000_000), state("b", 2, 2_000_000)]).unwrap();
    let room = || outgoing.room(0).zip(outgoing.room(2));
    let left = leaving.bell().wait_for(Some(WAIT), room).expect("both have said");
    assert_eq!(left, (4_000_000, 5_000_000));
    assert_eq!(outgoing.room(1), None, "not a target");
}

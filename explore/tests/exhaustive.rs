//! All states of a small job hold what a hand-over promises, and mistakes made on purpose are found.

use xfer_explore::{Budget, Mistake, Report, Search, Setting};

/// More than any of these has; a search that needs more is not small any more.
const STATES_MAX: usize = 500_000;

fn search(setting: Setting) -> Report {
    let report = Search::new(setting, 2, STATES_MAX).run(|_, _, _| {}).expect("the first state is sound");
    if let Some(trace) = &report.violation {
        panic!("\n{trace}");
    }
    report
}

fn within(may: Budget, setting: Setting) -> Setting {
    Setting { may, ..setting }
}

#[test]
fn every_state_of_a_small_job_keeps_its_promises() {
    let report = search(within(Budget { crashes: 2, ..Budget::default() }, Setting::small()));
    assert!(report.complete, "{} states, and more", report.states);
    for end in ["handoff", "restore", "withdrawn"] {
        assert!(report.ends.contains_key(end), "no state ends in {end}: {:?}", report.ends);
    }
}

#[test]
fn lost_connections_keep_them_too() {
    let report = search(within(Budget { losses: 1, ..Budget::default() }, Setting::small()));
    assert!(report.complete, "{} states, and more", report.states);
    assert!(report.ends.contains_key("withdrawn"), "{:?}", report.ends);
}

/// A target that leaves, too, refuses at any moment, and its source hands over again to the other one, which has kept what had landed.
#[test]
fn a_hand_over_that_begins_again_keeps_them_and_sends_nothing_twice() {
    let may = Budget { leaving_targets: 1, retries: 1, ..Budget::default() };
    let report = search(within(may, Setting::again()));
    assert!(report.complete, "{} states, and more", report.states);
    assert!(report.ends.contains_key("withdrawn, then handoff"), "{:?}", report.ends);
}

#[test]
fn two_sources_keep_them_as_far_as_one_sees_the_other() {
    let report = search(within(Budget { crashes: 1, overtakes: 1, stops: 2, ..Budget::default() }, Setting::beside()));
    assert!(report.complete, "{} states, and more", report.states);
}

/// States that a reduced search takes for one go on alike: it comes to the same ends, and no session answers otherwise
/// than another one that is taken for it.
#[test]
fn what_is_left_out_changes_no_end() {
    for may in [Budget { crashes: 1, ..Budget::default() }, Budget { withdrawals: 1, ..Budget::default() }] {
        let reduced = search(within(may, Setting::small()));
        let plain = search(Setting { reduced: false, ..within(may, Setting::small()) });
        assert_eq!(plain.unlike, None);
        assert!(plain.complete && reduced.complete);
        assert!(reduced.states * 5 < plain.states, "{} of {} states are left", reduced.states, plain.states);
        let ends = |report: &Report| report.ends.keys().cloned().collect::<Vec<_>>();
        assert_eq!(ends(&reduced), ends(&plain));
    }
}

/// What one of two sources sees, with its targets, is what one source sees beside whatever another one may do.
#[test]
fn each_of_two_sources_is_one_source_beside_another() {
    let may = Budget { crashes: 1, ..Budget::default() };
    let beside = within(Budget { overtakes: 1, stops: 2, ..may }, Setting::beside());
    let two = || Search::new(within(may, Setting::two_sources()), 2, 40_000);
    let (all, states) = Search::new(beside.clone(), 2, STATES_MAX).run_and_keep(|_, _, _| {}).expect("it is sound");
    assert!(all.complete);
    let report = two().among(states).run(|_, _, _| {}).expect("the first state is sound");
    if let Some(trace) = report.violation {
        panic!("\n{trace}");
    }
    // The same question has another answer when the other source never decides anything.
    let alone = within(Budget { overtakes: 0, ..beside.may }, beside);
    let (_, states) = Search::new(alone, 2, STATES_MAX).run_and_keep(|_, _, _| {}).expect("it is sound");
    let report = two().among(states).run(|_, _, _| {}).expect("the first state is sound");
    assert!(report.violation.is_some(), "two sources never meet in {} states", report.states);
}

fn one_crash() -> Setting {
    within(Budget { crashes: 1, ..Budget::default() }, Setting::small())
}

/// The search finds `mistake`, and says why it is one. The way there, an event a line.
fn is_found(mistake: Mistake, setting: Setting, says: &str) -> String {
    let found = |setting: Setting| {
        let report = Search::new(setting.with(mistake), 2, STATES_MAX).run(|_, _, _| {}).expect("it begins well");
        report.violation.unwrap_or_else(|| panic!("{mistake:?} goes unnoticed in {} states", report.states))
    };
    let plain = found(Setting { reduced: false, ..setting.clone() });
    assert!(plain.broken.to_string().contains(says), "{mistake:?}:\n{plain}");
    let trace = found(setting);
    assert!(trace.broken.to_string().contains(says), "{mistake:?}:\n{trace}");
    trace.to_string()
}

#[test]
fn a_store_that_does_not_compare_is_found() {
    let way = is_found(Mistake::StoreWithoutCompare, one_crash(), "two records");
    assert!(way.matches("store answers").count() >= 4, "two have read, and two have swapped:\n{way}");
}

#[test]
fn a_fence_that_does_not_hold_is_found() {
    is_found(Mistake::FenceThatDoesNotHold, Setting::writes(), "after its seal");
}

#[test]
fn bytes_that_nobody_verified_are_found() {
    is_found(Mistake::UnverifiedBytes, Setting::writes(), "with other bytes");
}

#[test]
fn kept_bytes_that_nobody_compared_are_found() {
    let may = Budget { leaving_targets: 1, retries: 1, damages: 1, ..Budget::default() };
    is_found(Mistake::BelievedKept, within(may, Setting::again()), "with other bytes");
}

#[test]
fn watchers_that_hear_nothing_are_found() {
    is_found(Mistake::DeafWatchers, one_crash(), "never hears");
}

#[test]
fn generations_that_nobody_asks_for_are_found() {
    let may = Budget { overtakes: 1, ..Budget::default() };
    is_found(Mistake::ForgottenGenerations, within(may, Setting::beside()), "another generation than its own");
}

#[test]
fn timers_that_never_run_are_found() {
    is_found(Mistake::StoppedClock, one_crash(), "rests in");
}

//! All states of a small job hold what a hand-over promises, and mistakes made on purpose are found.

use xfer_explore::{Budget, Mistake, Report, Search, Setting};

/// More than any of these has; a search that needs more is not small any more.
const STATES_MAX: usize = 500_000;

fn search(setting: Setting) -> Report {
    Search::new(setting, 2, STATES_MAX).run(|_, _, _| {}).expect("the first state is sound")
}

#[test]
fn every_state_of_a_small_job_keeps_its_promises() {
    let report = search(Setting::small());
    if let Some(trace) = &report.violation {
        panic!("\n{trace}");
    }
    assert!(report.complete, "{} states, and more", report.states);
    for end in ["handoff", "restore", "withdrawn"] {
        assert!(report.ends.contains_key(end), "no state ends in {end}: {:?}", report.ends);
    }
}

#[test]
fn a_withdrawn_notice_keeps_them_too() {
    let may = Budget { withdrawals: 1, ..Budget::default() };
    let report = search(Setting { may, ..Setting::small() });
    if let Some(trace) = &report.violation {
        panic!("\n{trace}");
    }
    assert!(report.complete);
    assert!(report.ends.contains_key("withdrawn"), "{:?}", report.ends);
}

/// The search finds `mistake`, and says why it is one. The way there, an event a line.
fn is_found(mistake: Mistake, setting: Setting, says: &str) -> String {
    let report = search(setting.with(mistake));
    let trace = report.violation.unwrap_or_else(|| panic!("{mistake:?} goes unnoticed in {} states", report.states));
    assert!(trace.broken.to_string().contains(says), "{mistake:?}:\n{trace}");
    trace.to_string()
}

#[test]
fn a_store_that_does_not_compare_is_found() {
    let way = is_found(Mistake::StoreWithoutCompare, Setting::small(), "two records");
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
fn watchers_that_hear_nothing_are_found() {
    is_found(Mistake::DeafWatchers, Setting::small(), "never hears");
}

#[test]
fn timers_that_never_run_are_found() {
    is_found(Mistake::StoppedClock, Setting::small(), "rests in");
}

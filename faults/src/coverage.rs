//! No cell is forgotten: each one is staged by whom the matrix says, or has a reason.

use std::collections::BTreeSet;

use crate::document::is_real;
use crate::{
    ABSENT, ABSENT_OVER_SHM, ABSENT_OVER_VERBS, Absent, FAULTS, Mark, Over, ROWS, Row, Simulated, Step, fault,
};

/// A reason that fits into fewer words doesn't say what is missing.
const REASON_WORDS_MIN: usize = 5;

/// All cells of the matrix: fault, step, mark.
fn cells() -> impl Iterator<Item = (&'static str, Step, Mark)> {
    FAULTS.iter().flat_map(|fault| fault.at_steps().map(move |(step, cell)| (fault.id, step, cell.mark)))
}

fn is_listed(list: &[Absent], fault: &str, step: Step) -> bool {
    list.iter().any(|absent| absent.fault == fault && absent.steps.contains(&step))
}

/// Cells for real processes that are neither staged nor said to be absent, and those that are both.
fn uncovered(rows: &[Row], absent: &[Absent]) -> Vec<String> {
    let real = cells().filter(|(_, _, mark)| *mark == Mark::R);
    real.filter_map(|(fault, step, _)| {
        let staged = rows.iter().any(|row| row.fault == fault && row.cells.iter().any(|(at, _)| *at == step));
        match (staged, is_listed(absent, fault, step)) {
            (false, false) => Some(format!("{fault} at {step} is neither staged nor absent for a reason")),
            (true, true) => Some(format!("{fault} at {step} is staged, and said to be absent")),
            _ => None,
        }
    })
    .collect()
}

#[test]
fn the_matrix_has_as_many_cells_as_it_says() {
    let real = cells().filter(|(_, _, mark)| *mark == Mark::R).count();
    assert_eq!((FAULTS.len(), cells().count(), real), (36, 236, 147));
}

#[test]
fn every_cell_for_real_processes_is_staged_or_has_a_reason() {
    assert_eq!(uncovered(ROWS, ABSENT), Vec::<String>::new());
}

#[test]
fn a_cell_that_is_forgotten_or_counted_twice_is_found() {
    let (forgotten, rest) = ROWS.split_first().unwrap();
    let found = uncovered(rest, ABSENT);
    assert!(found.iter().any(|line| line.contains(forgotten.fault)), "{found:?}");
    let twice = [ABSENT, &[Absent { fault: "F01", steps: &[Step::Bulk], reason: "" }]].concat();
    assert_eq!(uncovered(ROWS, &twice), ["F01 at bulk is staged, and said to be absent"]);
}

/// Where items are on their way, the transport matters: these cells stand over shared memory and RDMA, too.
#[test]
fn bulk_delta_and_verify_are_staged_over_shared_memory_and_rdma_or_have_a_reason() {
    let staged = |over, fault: &str, step| {
        let mut rows = ROWS.iter().filter(|row| row.fault == fault && row.over.contains(&over));
        rows.any(|row| row.cells.iter().any(|(at, _)| *at == step))
    };
    for (fault, step, mark) in cells() {
        if mark == Mark::R && matches!(step, Step::Bulk | Step::Delta | Step::Verify) && is_real(fault, step) {
            for (over, absent) in [(Over::Shm, ABSENT_OVER_SHM), (Over::Verbs, ABSENT_OVER_VERBS)] {
                assert!(
                    staged(over, fault, step) != is_listed(absent, fault, step),
                    "{fault} at {step} over {}: staged or absent, one of them",
                    over.name()
                );
            }
        }
    }
}

#[test]
fn every_reason_says_something() {
    let simulated = FAULTS.iter().flat_map(|fault| fault.at_steps()).filter_map(|(_, cell)| match cell.simulated {
        Simulated::Absent(reason) => Some(reason),
        Simulated::Ends(_) => None,
    });
    let real = ABSENT.iter().chain(ABSENT_OVER_SHM).chain(ABSENT_OVER_VERBS).map(|absent| absent.reason);
    for reason in simulated.chain(real) {
        assert!(reason.split_whitespace().count() >= REASON_WORDS_MIN, "`{reason}` is no reason");
    }
}

#[test]
fn what_is_listed_is_in_the_matrix() {
    let rows = ROWS.iter().flat_map(|row| row.cells.iter().map(|(step, _)| (row.fault, *step)));
    let absent = ABSENT.iter().chain(ABSENT_OVER_SHM).chain(ABSENT_OVER_VERBS);
    let absent = absent.flat_map(|absent| absent.steps.iter().map(|step| (absent.fault, *step)));
    for (id, step) in rows.chain(absent) {
        let fault = fault(id).unwrap_or_else(|| panic!("there is no fault {id}"));
        assert!(fault.at(step).is_some(), "{id} does not apply at {step}");
    }
}

#[test]
fn no_two_tests_have_one_name() {
    let mut names = BTreeSet::new();
    for row in ROWS {
        for (over, (step, _)) in row.over.iter().flat_map(|over| row.cells.iter().map(move |cell| (over, cell))) {
            assert!(
                names.insert((over.name(), row.fault, row.name, *step)),
                "{} {} twice at {step}",
                row.fault,
                row.name
            );
        }
    }
}

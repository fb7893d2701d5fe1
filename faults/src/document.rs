//! The fault matrix as a page: `docs/faults.md`.

use std::fmt::Write;

use crate::{
    ABSENT, ABSENT_OVER_SHM, ABSENT_OVER_VERBS, Absent, FAULTS, Fault, Mark, PAIRED, ROWS, Required, Row, Simulated,
    Step, VARIANTS,
};

/// What `docs/faults.md` says.
pub fn markdown() -> String {
    [simulated(), real(), absent()].concat()
}

/// Whether real processes stage a cell, over whatever.
pub(crate) fn is_real(fault: &str, step: Step) -> bool {
    ROWS.iter().any(|row| row.fault == fault && row.cells.iter().any(|(at, _)| *at == step))
}

/// The matrix with the simulator's outcomes.
fn simulated() -> String {
    let mut text = String::from(
        "# Faults\n\n\
         This page is made by `cargo run --release -p xfer-sim -- matrix --markdown`; a test compares the two. What it says is\n\
         written down once, in `faults/src`, where the simulator and the tests of real processes read it, too: the matrix in\n\
         `matrix.rs`, what real processes are put through in `real.rs`. A cell that neither is staged nor has a reason fails a test.\n\n\
         Each cell is a hand-over that would commit, in which one fault is staged at one step. Every promise of\n\
         [promises.md](promises.md) that can be looked at is, and the outcome has to be the one in the cell. **R** is for cells that\n\
         real processes stage besides the simulator, **S** for those of the simulator alone, **r** for those that real processes\n\
         should stage and don't: why is said [below](#what-is-not-staged).\n\n",
    );
    let _ = writeln!(text, "| word | what is required |\n| --- | --- |");
    for (required, means) in MEANINGS {
        let _ = writeln!(text, "| {required} | {means} |");
    }
    text.push_str(
        "\n## In the simulator\n\n\
         Every promise is looked at after every event; after the fault all heals, everybody has to come to rest, and a further\n\
         hand-over has to commit. `sim/src/matrix/stage.rs` is what each fault does.\n\n",
    );
    headings(&mut text, "| # | fault |", 2);
    for fault in &FAULTS {
        let _ = write!(text, "| {} | {} |", fault.id, fault.name);
        Step::ALL.iter().for_each(|step| _ = write!(text, " {} |", simulated_cell(fault, *step)));
        text.push('\n');
    }
    let cells: Vec<_> = FAULTS.iter().flat_map(|fault| fault.at_steps()).collect();
    let staged = cells.iter().filter(|(_, cell)| matches!(cell.simulated, Simulated::Ends(_))).count();
    let _ = writeln!(
        text,
        "\n{} cells. {staged} are staged in the simulator in {VARIANTS} variants each. Besides, any two of {} are staged\n\
         together at every step, in both orders of what follows; of these pairs every promise is required.",
        cells.len(),
        PAIRED.join(", "),
    );
    text
}

fn simulated_cell(fault: &Fault, step: Step) -> String {
    let Some(cell) = fault.at(step) else { return "·".to_owned() };
    let mark = match cell.mark {
        Mark::S => "S",
        Mark::R if is_real(fault.id, step) => "R",
        Mark::R => "r",
    };
    match cell.simulated {
        Simulated::Ends(required) => format!("{mark} {required}"),
        Simulated::Absent(_) => format!("{mark} absent"),
    }
}

/// What real processes are put through.
fn real() -> String {
    let mut text = String::from(
        "\n## With real processes\n\n\
         Each fault in the ways in which it is staged, over which transports; each cell is a test of its own, as\n\
         `tcp::F02_target_killed::commit`. Real processes stand at a step until the fault is felt, so that some cells end\n\
         otherwise than in the simulator: at `delta` all state has landed and only activations are on their way; at `commit`\n\
         whoever finds a target dead acts before the targets go on. [chaos.md](chaos.md) says how, and what is looked at after\n\
         each.\n\n",
    );
    headings(&mut text, "| # | what is done | over |", 3);
    let in_order = FAULTS.iter().flat_map(|fault| ROWS.iter().filter(move |row| row.fault == fault.id));
    for row in in_order {
        let over: Vec<&str> = row.over.iter().map(|over| over.name()).collect();
        let _ = write!(text, "| {} | {} | {} |", row.fault, row.name.replace('_', " "), over.join(", "));
        Step::ALL.iter().for_each(|step| _ = write!(text, " {} |", real_cell(row, *step)));
        text.push('\n');
    }
    let tests: usize = ROWS.iter().map(|row| row.over.len() * row.cells.len()).sum();
    let marked = FAULTS.iter().flat_map(|fault| fault.at_steps().map(move |(step, cell)| (fault, step, cell)));
    let marked: Vec<_> = marked.filter(|(_, _, cell)| cell.mark == Mark::R).collect();
    let staged = marked.iter().filter(|(fault, step, _)| is_real(fault.id, *step)).count();
    let _ = writeln!(text, "\n{tests} tests; {staged} of the {} cells for real processes are staged.", marked.len());
    text
}

fn real_cell(row: &Row, step: Step) -> String {
    match row.cells.iter().find(|(at, _)| *at == step) {
        None => "·".to_owned(),
        Some((_, Required::Refuses(words) | Required::Undecided(words))) => format!("says `{words}`"),
        Some((_, required)) => required.to_string(),
    }
}

/// What isn't staged, and why.
fn absent() -> String {
    let mut text = String::from("\n## What is not staged\n\n| # | steps | by | why not |\n| --- | --- | --- | --- |\n");
    for fault in &FAULTS {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (step, cell) in fault.at_steps() {
            if let Simulated::Absent(reason) = cell.simulated {
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, steps)) => steps.push(step.name()),
                    None => reasons.push((reason, vec![step.name()])),
                }
            }
        }
        for (reason, steps) in reasons {
            let _ = writeln!(text, "| {} | {} | the simulator | {reason} |", fault.id, steps.join(", "));
        }
        let lists = [
            (ABSENT, "real processes"),
            (ABSENT_OVER_SHM, "real processes over shared memory"),
            (ABSENT_OVER_VERBS, "real processes over RDMA"),
        ];
        for (absent, by) in lists {
            absent.iter().filter(|absent| absent.fault == fault.id).for_each(|absent| line(&mut text, absent, by));
        }
    }
    text
}

fn line(text: &mut String, absent: &Absent, by: &str) {
    let steps: Vec<&str> = absent.steps.iter().map(|step| step.name()).collect();
    let _ = writeln!(text, "| {} | {} | {by} | {} |", absent.fault, steps.join(", "), absent.reason);
}

fn headings(text: &mut String, first: &str, columns: usize) {
    text.push_str(first);
    Step::ALL.iter().for_each(|step| _ = write!(text, " {step} |"));
    let _ = writeln!(text, "\n|{}", " --- |".repeat(columns + Step::ALL.len()));
}

const MEANINGS: [(Required, &str); 6] = [
    (Required::Commits, "the targets own what the source owned; what did not arrive is computed again"),
    (Required::RollsBack, "the source owns what it owned, unharmed: it stays, or nothing was decided"),
    (Required::Restores, "the new owners go back to a checkpoint, and the record says what is missing and why"),
    (Required::Refuses(""), "what must not be is refused, saying what and who, and changes nothing"),
    (Required::Quarantines, "what can't be proven to be over is held back until it is"),
    (Required::Undecided(""), "nobody can know the end, everybody says so, and nobody acts"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_tables_say() {
        let page = include_str!("../../docs/faults.md");
        assert!(
            page == markdown(),
            "docs/faults.md is of other tables: run `cargo run --release -p xfer-sim -- matrix --markdown > docs/faults.md`"
        );
    }
}

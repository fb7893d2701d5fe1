//! The fault matrix as a document.

use std::fmt::Write;

use crate::matrix::{FAULTS, PAIRED, Required, VARIANTS, Where};
use crate::step::Step;

/// What `docs/faults.md` says.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Faults\n\n\
         This page is made by `cargo run --release -p xfer-sim -- matrix --markdown`; a test compares the two. The table\n\
         itself is `sim/src/matrix/table.rs`, and what each fault does is `sim/src/matrix/stage.rs`.\n\n\
         Each cell is a hand-over that would commit, in which one fault is staged at one step. Every promise of\n\
         [promises.md](promises.md) is looked at after every event, and the outcome has to be the one in the cell; then all\n\
         faults end, everybody has to come to rest, and a further hand-over has to commit. Cells with an `R` are for real\n\
         processes, too.\n\n",
    );
    let _ = writeln!(text, "| word | what is required |\n| --- | --- |");
    for (required, means) in MEANINGS {
        let _ = writeln!(text, "| {required} | {means} |");
    }
    let _ = write!(text, "\n| # | fault |");
    Step::ALL.iter().for_each(|step| _ = write!(text, " {step} |"));
    let _ = writeln!(text, "\n| --- | --- |{}", " --- |".repeat(Step::ALL.len()));
    for fault in FAULTS {
        let _ = write!(text, "| {} | {} |", fault.id, fault.name);
        for cell in fault.cells {
            let _ = match cell {
                None => write!(text, " · |"),
                Some(cell) if cell.place == Where::Real => write!(text, " {} R |", cell.required),
                Some(cell) => write!(text, " {} |", cell.required),
            };
        }
        text.push('\n');
    }
    let cells: Vec<_> = FAULTS.iter().flat_map(|fault| fault.cells.iter().flatten()).collect();
    let later = cells.iter().filter(|cell| cell.required == Required::Later).count();
    let real = cells.iter().filter(|cell| cell.place == Where::Real).count();
    let _ = writeln!(
        text,
        "\n{} cells, {real} of them for real processes, too. {} are staged here in {VARIANTS} variants each; {later} wait for\n\
         what they are about: another backend, another kind of memory, a store with a journal. Besides, any two of\n\
         {} are staged together at every step, in both orders of what follows; of these pairs every promise is required.",
        cells.len(),
        cells.len() - later,
        PAIRED.join(", "),
    );
    text
}

const MEANINGS: [(Required, &str); 6] = [
    (Required::Commits, "the targets own what the source owned; what did not arrive is computed again"),
    (Required::RollsBack, "the source owns what it owned, unharmed: it stays, or nothing was decided"),
    (Required::Restores, "the new owners go back to a checkpoint, and the record says what is missing and why"),
    (Required::Refuses, "what must not be is refused, saying what and who, and changes nothing"),
    (Required::Quarantines, "what can't be proven to be over is held back until it is"),
    (Required::Later, "there is no such backend, kind of memory or journal yet"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_table_says() {
        let page = include_str!("../../docs/faults.md");
        assert_eq!(page, markdown(), "run `cargo run --release -p xfer-sim -- matrix --markdown > docs/faults.md`");
    }
}

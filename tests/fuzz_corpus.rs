//! What fuzzing found interesting is run again, by the functions that the fuzz targets run.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

#[test]
fn every_input_of_every_corpus_is_run() {
    for (name, run) in fuzz::ALL {
        let folder = folder_of_all().join("corpus").join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("the corpus of {name}: {error}"));
        let mut accepted = 0;
        for entry in entries {
            let path = entry.expect("the corpus can be listed").path();
            let bytes = fs::read(&path).expect("an input can be read");
            // The name of the input that panics is on the line before the panic's own.
            eprintln!("{}", path.display());
            accepted += u32::from(run(&bytes));
        }
        assert!(accepted > 0, "no input of the corpus of {name} is of today's format: run fuzz/examples/seeds.rs");
    }
}

/// The longest input, which is what fuzzers make at most, and all of them: whoever checks the project out gets them too.
const INPUT_BYTES_MAX: u64 = 4096;
const CORPORA_BYTES_MAX: u64 = 1 << 20;

#[test]
fn corpora_stay_small() {
    let mut all_bytes = 0;
    for (name, _) in fuzz::ALL {
        for entry in fs::read_dir(folder_of_all().join("corpus").join(name)).expect("a corpus can be listed") {
            let entry = entry.expect("an entry can be read");
            let len_bytes = entry.metadata().expect("an input has a length").len();
            assert!(len_bytes <= INPUT_BYTES_MAX, "{} has {len_bytes} bytes", entry.path().display());
            all_bytes += len_bytes;
        }
    }
    assert!(all_bytes <= CORPORA_BYTES_MAX, "{all_bytes} bytes of corpora: `.ci/fuzz keep` leaves fewer");
}

#[test]
fn each_corpus_and_each_fuzz_target_belong_together() {
    let known = sorted(fuzz::ALL.iter().map(|(name, _)| (*name).to_owned()));
    for (folder, suffix) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let found = fs::read_dir(folder_of_all().join(folder))
            .expect("a folder of fuzz/ can be listed")
            .map(|entry| entry.expect("an entry can be read").file_name().into_string().expect("names are UTF-8"))
            .map(|name| name.trim_end_matches(suffix).to_owned());
        assert_eq!(sorted(found), known, "fuzz/{folder} against fuzz/src/lib.rs");
    }
    let manifest = fs::read_to_string(folder_of_all().join("Cargo.toml")).expect("fuzz/Cargo.toml can be read");
    let programs =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(sorted(programs.map(str::to_owned)), known, "fuzz/Cargo.toml against fuzz/src/lib.rs");
}

#[test]
fn each_fuzz_target_says_in_the_documents_what_it_reads_and_what_it_was_run_for() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fuzzing.md");
    let page = fs::read_to_string(page).expect("docs/fuzzing.md can be read");
    let rows = |heading: &str| {
        let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("docs/fuzzing.md has no `{heading}`"));
        let section = section.split("\n## ").next().unwrap_or_default();
        let names = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        sorted(names.map(str::to_owned))
    };
    let known = sorted(fuzz::ALL.iter().map(|(name, _)| (*name).to_owned()));
    for heading in ["## Targets", "## Runs"] {
        assert_eq!(rows(heading), known, "the table of docs/fuzzing.md below `{heading}` against fuzz/src/lib.rs");
    }
}

fn folder_of_all() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

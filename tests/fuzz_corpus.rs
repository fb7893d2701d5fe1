//! What fuzzing found interesting is run again, by the functions that the fuzz targets run.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

#[test]
fn every_input_of_every_corpus_is_run() {
    for (name, run) in fuzz::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
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

#[test]
fn each_corpus_and_each_fuzz_target_belong_together() {
    let folder_of_all = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut known: Vec<String> = fuzz::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.sort();
    for (folder, suffix) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let mut found: Vec<String> = fs::read_dir(folder_of_all.join(folder))
            .expect("a folder of fuzz/ can be listed")
            .map(|entry| entry.expect("an entry can be read").file_name().into_string().expect("names are UTF-8"))
            .map(|name| name.trim_end_matches(suffix).to_owned())
            .collect();
        found.sort();
        assert_eq!(found, known, "fuzz/{folder} against fuzz/src/lib.rs");
    }
}

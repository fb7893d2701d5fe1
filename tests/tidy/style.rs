//! What every file must look like: its first line, its length, its words, its paths.

use std::collections::BTreeSet;

use crate::tree::Tree;
use crate::{assert_holds, assert_tells_apart, code};

const LINE_CHARS_MAX: usize = 140;

/// A file that grows beyond this has a second subject.
const FILE_LINES_MAX: usize = 900;

/// What stands for work that was not done, or for looking at a value by hand; in pieces, so that this file passes.
const LEFTOVERS: [&str; 8] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("TO", "DO"),
    concat!("db", "g!"),
    concat!("#[igno", "re"),
    concat!("NotImplemented", "Error"),
];

/// What would run bytes of a peer as code.
const RUNS_BYTES: [&str; 8] = ["cloudpickle", "dill", "eval", "exec", "marshal", "pickle", "shelve", "__reduce__"];

/// Where one person's machine keeps things.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/fa", "rm/"),
    concat!("/Us", "ers/"),
];

fn first_lines(tree: &Tree) -> Vec<String> {
    let included = included_files(tree);
    tree.with_extension(&["rs"])
        .filter(|(path, text)| {
            // What is included has no place for `//!`: it stands in the middle of another file.
            let mark = if included.contains(*path) { "// " } else { "//! " };
            !opens_with_sentence(text, mark)
        })
        .map(|(path, _)| format!("{path}: its first line must say in a `//!` sentence what the file is for"))
        .collect()
}

fn included_files(tree: &Tree) -> BTreeSet<String> {
    let of_file = |(path, text): (&str, &str)| -> Vec<String> {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let names = text.split("include!(\"").skip(1).filter_map(|rest| rest.split('"').next());
        names.map(|name| format!("{folder}/{name}")).collect()
    };
    tree.with_extension(&["rs"]).flat_map(of_file).collect()
}

/// The first paragraph begins on the first line with `mark` and ends as a sentence does.
fn opens_with_sentence(text: &str, mark: &str) -> bool {
    let paragraph: Vec<&str> =
        text.lines().map_while(|line| line.strip_prefix(mark)).take_while(|line| !line.trim().is_empty()).collect();
    let starts = paragraph.first().is_some_and(|line| {
        line.starts_with("xfer ") || line.starts_with(|first: char| first.is_uppercase() || first == '`')
    });
    starts && paragraph.len() <= 4 && paragraph.last().is_some_and(|line| line.ends_with(['.', ':']))
}

fn line_lengths(tree: &Tree) -> Vec<String> {
    let mut offenders = Vec::new();
    for (path, text) in tree.with_extension(&["rs", "py", "pyi", "toml", "sh", "h", "c", ""]) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_CHARS_MAX) {
            let length = line.chars().count();
            offenders.push(format!("{path}:{}: {length} characters, {LINE_CHARS_MAX} are a line", number + 1));
        }
    }
    offenders
}

fn file_lengths(tree: &Tree) -> Vec<String> {
    tree.with_extension(&["rs", "py", "pyi", "sh", "h", "c"])
        .filter(|(_, text)| text.lines().count() > FILE_LINES_MAX)
        .map(|(path, text)| format!("{path}: {} lines, {FILE_LINES_MAX} are a file", text.lines().count()))
        .collect()
}

fn leftovers(tree: &Tree) -> Vec<String> {
    find_in_lines(tree, &["rs", "py", "pyi", "toml", "sh", "h", "c", "md", ""], &LEFTOVERS, "was left over")
}

fn machine_paths(tree: &Tree) -> Vec<String> {
    let kinds = ["rs", "py", "pyi", "toml", "sh", "yml", "h", "c", "md", ""];
    find_in_lines(tree, &kinds, &MACHINE_PATHS, "is a path of one machine")
}

fn find_in_lines(tree: &Tree, kinds: &[&str], wanted: &[&str], complaint: &str) -> Vec<String> {
    let mut offenders = Vec::new();
    for (path, text) in tree.with_extension(kinds) {
        for (number, line) in text.lines().enumerate() {
            if let Some(found) = wanted.iter().find(|found| line.contains(**found)) {
                offenders.push(format!("{path}:{}: `{found}` {complaint}", number + 1));
            }
        }
    }
    offenders
}

/// Bytes from a peer are data. Comments and strings may say so; code of the Python package may not try.
fn no_bytes_are_run(tree: &Tree) -> Vec<String> {
    let mut offenders = Vec::new();
    for (path, text) in tree.below("ffi/python/xfer/", &["py"]) {
        let code = code::python(text);
        for (number, line) in code.lines().enumerate() {
            let loads = line.replace(' ', "").contains("torch.load(") && !line.contains("weights_only=True");
            let runs = RUNS_BYTES.iter().find(|name| is_called_or_imported(line, name));
            if let Some(name) = runs.or(loads.then_some(&"torch.load")) {
                offenders.push(format!("{path}:{}: `{name}` runs bytes as code", number + 1));
            }
        }
    }
    offenders
}

/// A name of its own: `model.eval()` is a method of somebody else's and runs nothing.
fn is_called_or_imported(line: &str, name: &str) -> bool {
    code::words(line).any(|(at, word)| word == name && !line[..at].ends_with('.'))
}

#[test]
fn each_rust_file_says_first_what_it_is_for() {
    assert_holds(first_lines);
}

#[test]
fn lines_fit_a_screen() {
    assert_holds(line_lengths);
}

#[test]
fn files_have_one_subject() {
    assert_holds(file_lengths);
}

#[test]
fn nothing_was_left_over() {
    assert_holds(leftovers);
}

#[test]
fn no_path_of_one_machine_is_named() {
    assert_holds(machine_paths);
}

#[test]
fn the_python_package_never_runs_bytes() {
    assert_holds(no_bytes_are_run);
}

#[test]
fn a_file_without_its_sentence_is_found() {
    let good = [
        ("src/a.rs", "//! What it is for,\n//! in two lines.\n\nuse b;\n"),
        ("src/b.rs", "//! `x`: short.\n\ninclude!(\"b/c.rs\");\n"),
        ("src/b/c.rs", "// What is included.\n"),
    ];
    for bad in
        ["use b;\n", "\n//! Late.\n", "//! lower.\n", "//! No end\n\nuse b;\n", "//!\n//! Second.\n", "// Plain.\n"]
    {
        assert_tells_apart(first_lines, &[("src/a.rs", bad)], &good, "src/a.rs");
    }
}

#[test]
fn a_long_line_is_found() {
    let (fits, bad) = ("é".repeat(LINE_CHARS_MAX), format!("a\n{}", "é".repeat(LINE_CHARS_MAX + 1)));
    let good = [("src/a.rs", fits.as_str()), ("docs/a.md", bad.as_str())];
    assert_tells_apart(line_lengths, &[("src/a.rs", &bad)], &good, "src/a.rs:2: 141");
}

#[test]
fn a_long_file_is_found() {
    let (fits, bad) = ("a\n".repeat(FILE_LINES_MAX), "a\n".repeat(FILE_LINES_MAX + 1));
    assert_tells_apart(file_lengths, &[("src/a.rs", &bad)], &[("src/a.rs", &fits)], "901 lines");
}

#[test]
fn leftovers_are_found() {
    for leftover in LEFTOVERS {
        let bad = format!("a\n// {leftover}\n");
        assert_tells_apart(leftovers, &[("src/a.rs", &bad)], &[("src/a.rs", "a\n")], "src/a.rs:2");
    }
}

#[test]
fn paths_of_one_machine_are_found() {
    for path in MACHINE_PATHS {
        let bad = format!("see {path}x\n");
        assert_tells_apart(machine_paths, &[("docs/a.md", &bad)], &[("docs/a.md", "see docs/b.md\n")], "docs/a.md:1");
    }
}

#[test]
fn code_that_runs_bytes_is_found() {
    let path = "ffi/python/xfer/a.py";
    let good = "# no pickle\n\"\"\"Never eval(x).\"\"\"\nmodel.eval()\ntorch.load(f, weights_only=True)\n";
    for bad in ["import pickle\n", "x = eval(y)\n", "from dill import loads\n", "torch . load(f)\n"] {
        let elsewhere = ("ffi/python/tests/a.py", bad);
        assert_tells_apart(no_bytes_are_run, &[(path, bad)], &[(path, good), elsewhere], "ffi/python/xfer/a.py:1");
    }
}

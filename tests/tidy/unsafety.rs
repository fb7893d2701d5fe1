//! `unsafe` stands in named places only, and each time beside the sentence that says why it is sound.

use crate::tree::Tree;
use crate::{assert_holds, assert_tells_apart, code};

/// Where Rust meets C, Python, or memory that others write.
const ALLOWED: [&str; 3] = ["ffi/", "transport/io/src/memory", "transport/io/src/backend"];

/// How far above an `unsafe` its sentence may begin: a sentence that is further away is about something else.
const SENTENCE_LINES_ABOVE_MAX: usize = 12;

fn unsafe_is_where_it_belongs(tree: &Tree) -> Vec<String> {
    uses(tree)
        .into_iter()
        .filter(|found| !ALLOWED.iter().any(|place| found.path.starts_with(place)))
        .map(|found| format!("{}:{}: `unsafe` outside of {}", found.path, found.line, ALLOWED.join(", ")))
        .collect()
}

fn unsafe_has_its_sentence(tree: &Tree) -> Vec<String> {
    uses(tree)
        .into_iter()
        .filter(|found| !found.has_sentence)
        .map(|found| format!("{}:{}: `unsafe` without its SAFETY sentence", found.path, found.line))
        .collect()
}

/// One `unsafe` in code.
struct Use {
    path: String,
    line: usize,
    has_sentence: bool,
}

fn uses(tree: &Tree) -> Vec<Use> {
    let mut found = Vec::new();
    for (path, text) in tree.with_extension(&["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in code::rust(text).lines().enumerate() {
            if code::has_word(line, "unsafe") && !is_type(line) {
                found.push(Use { path: path.into(), line: index + 1, has_sentence: has_sentence(&lines, index) });
            }
        }
    }
    found
}

/// `unsafe extern "C" fn(…)` as the type of a pointer promises nothing and does nothing.
fn is_type(line: &str) -> bool {
    let (_, after) = line.split_once("unsafe").unwrap_or_default();
    let after = after.trim_start();
    (after.starts_with("extern") || after.starts_with("fn")) && after.contains("fn(")
}

/// `// SAFETY: …` for what is done, `# Safety` in the documentation for what is asked of a caller.
fn has_sentence(lines: &[&str], index: usize) -> bool {
    let from = index.saturating_sub(SENTENCE_LINES_ABOVE_MAX);
    let mut above = lines[from..=index].iter().rev();
    above.any(|line| line.contains("SAFETY:") || line.trim() == "/// # Safety")
}

#[test]
fn unsafe_stands_in_named_places_only() {
    assert_holds(unsafe_is_where_it_belongs);
}

#[test]
fn each_unsafe_has_its_sentence() {
    assert_holds(unsafe_has_its_sentence);
}

#[test]
fn unsafe_elsewhere_is_found() {
    let text = "// SAFETY: it is not.\nfn f() { unsafe { g() } }\n";
    let bad = [("migrate/driver/src/lib.rs", text)];
    let good = [("ffi/c/src/lib.rs", text), ("src/lib.rs", "#![forbid(unsafe_code)] // unsafe\n")];
    assert_tells_apart(unsafe_is_where_it_belongs, &bad, &good, "migrate/driver/src/lib.rs:2");
}

#[test]
fn unsafe_without_its_sentence_is_found() {
    let path = "transport/io/src/memory/host.rs";
    let far = format!("// SAFETY: far away.\n{}unsafe {{ g() }}\n", "f();\n".repeat(SENTENCE_LINES_ABOVE_MAX));
    let good = "/// # Safety\n/// Ask.\nunsafe fn f() {}\n// SAFETY: asked.\nunsafe { f() }\ntype F = unsafe fn(u8);\n";
    for bad in ["fn f() { unsafe { g() } }", far.as_str()] {
        assert_tells_apart(unsafe_has_its_sentence, &[(path, bad)], &[(path, good)], "without its SAFETY");
    }
}

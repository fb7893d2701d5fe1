//! The two cores decide and do nothing else: no sockets, files, clock, threads, chance or `unsafe`.

use crate::tree::Tree;
use crate::{assert_holds, assert_tells_apart, code};

/// The folders that must be pure.
const CORES: [&str; 3] = ["transport/core/src/", "migrate/core/src/", "migrate/plan/src/"];

/// Modules of the standard library that do something.
const MODULES: [&str; 6] = ["env", "fs", "net", "os", "process", "thread"];

/// Names that a `use` could bring in from anywhere.
const NAMES: [&str; 10] = [
    "Instant",
    "SystemTime",
    "Stdin",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "rand",
    "unsafe",
    "println",
    "eprintln",
];

fn purity(tree: &Tree) -> Vec<String> {
    let mut offenders = Vec::new();
    for (path, text) in CORES.iter().flat_map(|core| tree.below(core, &["rs"])) {
        // Tests of a core may read their samples from files; what they test may not.
        if path.ends_with("/tests.rs") {
            continue;
        }
        let code = code::rust(text);
        let shipped = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in shipped.lines().enumerate() {
            let impure = NAMES.iter().find(|name| code::has_word(line, name)).or_else(|| module_of_std(line));
            if let Some(name) = impure {
                offenders.push(format!("{path}:{}: `{name}` has no place in a core", number + 1));
            }
        }
    }
    offenders
}

/// `std::net`, and `std::{…, net, …}` on one line.
fn module_of_std(line: &str) -> Option<&'static &'static str> {
    let (_, from_std) = line.split_once("std::")?;
    let first = code::words(from_std).next().map_or("", |(_, word)| word);
    MODULES.iter().find(
        |module| {
            if from_std.starts_with('{') { code::has_word(from_std, module) } else { first == **module }
        },
    )
}

#[test]
fn the_cores_do_nothing_by_themselves() {
    assert_holds(purity);
}

#[test]
fn a_core_that_does_something_is_found() {
    let good = "use std::time::Duration; // not Instant\nfn net() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n";
    for (bad, says) in [
        ("use std::time::{Duration, Instant};", "Instant"),
        ("fn f() { std::thread::sleep(x) }", "thread"),
        ("use std::{fmt, net};", "net"),
        ("fn f() -> u8 { rand::random() }", "rand"),
        ("fn f() { unsafe { g() } }", "unsafe"),
    ] {
        let path = "migrate/core/src/plan.rs";
        assert_tells_apart(purity, &[(path, bad)], &[(path, good), ("src/engine.rs", bad)], says);
    }
}

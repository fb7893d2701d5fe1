//! Floors: each crate imports only from crates below it, as its manifest says.

use std::collections::BTreeMap;

use crate::tree::Tree;
use crate::{assert_holds, assert_tells_apart};

/// Where each crate's folder stands. A new crate needs a floor before it may import anything.
const FLOORS: [(&str, u8); 15] = [
    ("transport/core", 0),
    ("faults", 0),
    ("ffi/sys", 0),
    ("migrate/core", 1),
    ("migrate/plan", 2),
    ("transport/io", 2),
    ("sim", 2),
    ("explore", 2),
    ("migrate/driver", 3),
    ("", 4),
    ("chaos", 4),
    ("ffi/c", 5),
    ("ffi/python", 5),
    ("cli", 5),
    ("benches", 5),
];

/// Crates that see less than their floor would allow: the simulator and the search of all states run the production
/// cores and nothing around them, and the transport knows nothing of what is worth moving.
const SEES_ONLY: [(&str, &[&str]); 4] = [
    ("sim", &["transport/core", "migrate/core", "faults"]),
    ("explore", &["transport/core", "migrate/core"]),
    ("migrate/plan", &["transport/core", "migrate/core"]),
    ("transport/io", &["transport/core", "ffi/sys"]),
];

/// Crates of other people that would bring a clock, a socket, a thread or chance into a core.
const NOT_IN_A_CORE: [&str; 12] = [
    "async-std",
    "chrono",
    "crossbeam",
    "getrandom",
    "libc",
    "mio",
    "nix",
    "rand",
    "rayon",
    "rustix",
    "socket2",
    "tokio",
];

/// One line `name = …` of a table of dependencies.
struct Dependency<'a> {
    name: &'a str,
    only_for_tests: bool,
}

fn floors(tree: &Tree) -> Vec<String> {
    let manifests: BTreeMap<&str, &str> = tree
        .with_extension(&["toml"])
        .filter_map(|(path, text)| Some((path.strip_suffix("Cargo.toml")?.trim_end_matches('/'), text)))
        // The fuzz targets stand outside the workspace, above everything.
        .filter(|(folder, _)| *folder != "fuzz")
        .collect();
    let folder_of: BTreeMap<&str, &str> =
        manifests.iter().filter_map(|(folder, text)| Some((package_name(text)?, *folder))).collect();

    let mut offenders = Vec::new();
    for (&folder, text) in &manifests {
        let Some(floor) = floor_of(folder) else {
            offenders
                .push(format!("{folder}/Cargo.toml: this crate has no floor; give it one in tests/tidy/floors.rs"));
            continue;
        };
        for dependency in dependencies(text) {
            let Some(&below) = folder_of.get(dependency.name) else {
                if folder.ends_with("core") && !dependency.only_for_tests && NOT_IN_A_CORE.contains(&dependency.name) {
                    offenders.push(format!("{folder}/Cargo.toml: a core must not import {}", dependency.name));
                }
                continue;
            };
            // Tests across crates belong to the front door's package and stand on the highest floor.
            let floor = if folder.is_empty() && dependency.only_for_tests { 5 } else { floor };
            let sees = SEES_ONLY.iter().find(|(name, _)| *name == folder).map(|(_, sees)| *sees);
            if floor_of(below).is_none_or(|below| below >= floor) {
                offenders.push(format!("{folder}/Cargo.toml: {} is not on a lower floor", dependency.name));
            } else if sees.is_some_and(|sees| !sees.contains(&below)) {
                offenders.push(format!("{folder}/Cargo.toml: {} is not for its eyes", dependency.name));
            }
        }
    }
    offenders
}

fn lints_are_on(tree: &Tree) -> Vec<String> {
    tree.with_extension(&["toml"])
        .filter(|(path, text)| {
            path.ends_with("Cargo.toml") && !path.starts_with("fuzz/") && package_name(text).is_some()
        })
        .filter(|(_, text)| !table(text, "lints").any(|line| line.replace(' ', "") == "workspace=true"))
        .map(|(path, _)| format!("{path}: [lints] must say `workspace = true`"))
        .collect()
}

/// Bugs that are planted on purpose are for the simulator alone: no other crate may turn them on, and no default may.
fn planted_bugs_stay_out(tree: &Tree) -> Vec<String> {
    let mut offenders = Vec::new();
    for (path, text) in tree.with_extension(&["toml"]).filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let may_forward = path == "sim/Cargo.toml";
        let may_declare = may_forward || path.ends_with("core/Cargo.toml");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains("planted")) {
            let declares = may_declare && line.starts_with("planted = [") && (may_forward || line.ends_with("[]"));
            if !declares && !line.starts_with('#') {
                offenders.push(format!("{path}:{}: planted bugs must not be turned on here", number + 1));
            }
        }
    }
    offenders
}

fn floor_of(folder: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == folder).map(|(_, floor)| *floor)
}

fn package_name(manifest: &str) -> Option<&str> {
    table(manifest, "package").find_map(|line| line.strip_prefix("name")?.split('"').nth(1))
}

fn dependencies(manifest: &str) -> impl Iterator<Item = Dependency<'_>> {
    let mut header = "";
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            header = line.trim_matches(['[', ']']);
            // `[dependencies.name]` names one by its header.
            let (kind, name) = header.rsplit_once('.')?;
            return kind.ends_with("dependencies").then(|| Dependency { name, only_for_tests: kind.contains("dev-") });
        }
        if !header.ends_with("dependencies") || header.starts_with("workspace") {
            return None;
        }
        let name = line.split(['=', '.', ' ']).next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        Some(Dependency { name, only_for_tests: header.contains("dev-") })
    })
}

/// The lines of one table of a manifest.
fn table<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let header = format!("[{name}]");
    manifest.lines().skip_while(move |line| *line != header).skip(1).take_while(|line| !line.starts_with('['))
}

#[test]
fn each_crate_imports_only_from_lower_floors() {
    assert_holds(floors);
}

#[test]
fn each_crate_has_the_lints_of_the_workspace() {
    assert_holds(lints_are_on);
}

#[test]
fn planted_bugs_are_for_the_simulator_alone() {
    assert_holds(planted_bugs_stay_out);
}

#[test]
fn a_crate_that_turns_planted_bugs_on_is_found() {
    let core = ("transport/core/Cargo.toml", "[features]\nplanted = []\n");
    let sim = ("sim/Cargo.toml", "[features]\nplanted = [\"a/planted\"]\n");
    for bad in [
        ("cli/Cargo.toml", "[dependencies]\na = { path = \"x\", features = [\"planted\"] }\n"),
        ("transport/core/Cargo.toml", "[features]\ndefault = [\"planted\"]\nplanted = []\n"),
        ("migrate/core/Cargo.toml", "[features]\nplanted = [\"a/planted\"]\n"),
    ] {
        assert_tells_apart(planted_bugs_stay_out, &[bad], &[core, sim], "must not be turned on");
    }
}

#[test]
fn an_import_from_the_same_floor_or_above_is_found() {
    const CORE: (&str, &str) = ("transport/core/Cargo.toml", "[package]\nname = \"a\"\n");
    let good = ("migrate/core/Cargo.toml", "[package]\nname = \"b\"\n[dependencies]\na.workspace = true\n");
    for (bad, says) in [
        ("[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\n", "b is not on a lower floor"),
        ("[package]\nname = \"a\"\n[target.'cfg(unix)'.dependencies]\nb = { path = \"x\" }\n", "b is not on a lower"),
        ("[package]\nname = \"a\"\n[dev-dependencies.b]\npath = \"x\"\n", "b is not on a lower floor"),
        ("[package]\nname = \"a\"\n[dependencies]\ntokio = \"1\"\n", "a core must not import tokio"),
    ] {
        assert_tells_apart(floors, &[("transport/core/Cargo.toml", bad), good], &[CORE, good], says);
    }
    let stranger = ("new/Cargo.toml", "[package]\nname = \"c\"\n");
    assert_tells_apart(floors, &[CORE, stranger], &[CORE], "has no floor");
    let blind = ("sim/Cargo.toml", "[package]\nname = \"s\"\n[dependencies]\nsys = \"1\"\n");
    let sys = ("ffi/sys/Cargo.toml", "[package]\nname = \"sys\"\n");
    assert_tells_apart(floors, &[blind, sys], &[sys], "sys is not for its eyes");
}

#[test]
fn a_crate_without_the_lints_of_the_workspace_is_found() {
    let bad = [("cli/Cargo.toml", "[package]\nname = \"a\"\n[lints]\n[dependencies]\nworkspace = true\n")];
    let good = [("cli/Cargo.toml", "[package]\nname = \"a\"\n[lints]\nworkspace = true\n")];
    assert_tells_apart(lints_are_on, &bad, &good, "workspace = true");
}

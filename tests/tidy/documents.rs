//! What documents claim of the code: the tree in the README, limits with their reasons, names of variables.

use std::collections::BTreeSet;

use crate::tree::Tree;
use crate::{assert_holds, assert_tells_apart};

/// The fewest words in which a reason fits; fewer only repeat the name.
const REASON_WORDS_MIN: usize = 8;

/// How many variables of our own people can be asked to know.
const VARIABLES_MAX: usize = 25;

/// The block of the README that begins with the workspace's manifest names every folder at the top, and nothing else.
fn readme_tree(tree: &Tree) -> Vec<String> {
    let Some(readme) = tree.text("README.md") else {
        return vec!["README.md: there is none".into()];
    };
    let listed: Vec<&str> = tree_block(readme).lines().filter_map(|line| line.split_whitespace().next()).collect();
    if listed.is_empty() {
        return vec!["README.md: no block of text that begins with `Cargo.toml` shows the tree".into()];
    }
    let missing = tree
        .top_folders()
        .filter(|folder| !listed.iter().any(|path| path.split('/').next() == Some(folder)))
        .map(|folder| format!("README.md: the tree doesn't show {folder}/"));
    let gone = listed.iter().filter(|path| !tree.has(path)).map(|path| format!("README.md: {path} isn't there"));
    missing.chain(gone).collect()
}

fn tree_block(readme: &str) -> &str {
    readme.split("```").find_map(|block| block.find("\nCargo.toml ").map(|at| &block[at + 1..])).unwrap_or_default()
}

/// Every number that bounds something says why it is this number.
fn limits_have_reasons(tree: &Tree) -> Vec<String> {
    let mut offenders = Vec::new();
    for (path, text) in tree.with_extension(&["rs"]).filter(|(path, _)| path.ends_with("limits.rs")) {
        let mut words = 0;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if let Some(document) = line.strip_prefix("///") {
                words += document.split_whitespace().count();
            } else if let Some(name) = constant(line) {
                if words < REASON_WORDS_MIN {
                    offenders.push(format!("{path}:{}: {name} doesn't say why it is this number", number + 1));
                }
                words = 0;
            } else if !line.starts_with("#[") {
                words = 0;
            }
        }
    }
    offenders
}

fn constant(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    line.strip_prefix("const ")?.split(':').next().filter(|name| !name.starts_with("fn "))
}

/// A variable that a document names is one that the configuration reads, and the other way round.
fn variables(tree: &Tree) -> Vec<String> {
    let known: BTreeSet<&str> =
        tree.all().filter(|(path, _)| is_config(path)).flat_map(|(_, text)| names_of_variables(text)).collect();
    let mut documented = BTreeSet::new();
    let mut offenders = Vec::new();
    for (path, text) in tree.with_extension(&["md"]) {
        for name in names_of_variables(text) {
            documented.insert(name);
            if !known.contains(name) {
                offenders.push(format!("{path}: nothing reads {name}"));
            }
        }
    }
    offenders.extend(known.difference(&documented).map(|name| format!("src/config: no document explains {name}")));
    if known.is_empty() {
        offenders.push("src/config: no variable is named there".into());
    } else if known.len() > VARIABLES_MAX {
        offenders.push(format!("src/config: {} variables, {VARIABLES_MAX} at most", known.len()));
    }
    offenders
}

fn is_config(path: &str) -> bool {
    (path == "src/config.rs" || path.starts_with("src/config/")) && path.ends_with(".rs") && !path.ends_with("tests.rs")
}

/// All `XFER_NAME` in a text. In code, tests at the bottom may name some that are wrong on purpose.
fn names_of_variables(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.match_indices("XFER_").filter_map(move |(at, prefix)| {
        let rest = &text[at + prefix.len()..];
        let length = rest.find(|part: char| !part.is_ascii_uppercase() && part != '_').unwrap_or(rest.len());
        (length > 0).then(|| text[at..at + prefix.len() + length].trim_end_matches('_'))
    })
}

#[test]
fn the_readme_shows_the_tree_as_it_is() {
    assert_holds(readme_tree);
}

#[test]
fn each_limit_has_its_reason() {
    assert_holds(limits_have_reasons);
}

#[test]
fn documents_and_configuration_name_the_same_variables() {
    assert_holds(variables);
}

#[test]
fn a_tree_that_lies_is_found() {
    const FILES: [(&str, &str); 2] = [("Cargo.toml", ""), ("src/lib.rs", "")];
    let with = |readme| [FILES[0], FILES[1], ("README.md", readme)];
    let good = with("# x\n```\nCargo.toml  workspace\nsrc/  front door\n```\n");
    for (readme, says) in [
        ("```\nCargo.toml  workspace\n```\n", "doesn't show src/"),
        ("```\nCargo.toml  workspace\nsrc/  door\nlib/  gone\n```\n", "lib/ isn't there"),
        ("no tree\n", "shows the tree"),
    ] {
        assert_tells_apart(readme_tree, &with(readme), &good, says);
    }
}

#[test]
fn a_limit_without_its_reason_is_found() {
    let path = "transport/core/src/limits.rs";
    let good =
        "/// Longest frame, so that a reader never waits behind more than a millisecond.\npub const A: u32 = 1;\n";
    for bad in ["pub const A: u32 = 1;\n", "/// The a.\npub const A: u32 = 1;\n", &format!("{good}const B: u8 = 2;\n")]
    {
        assert_tells_apart(limits_have_reasons, &[(path, bad)], &[(path, good)], "doesn't say why");
    }
}

#[test]
fn a_variable_that_nobody_reads_or_explains_is_found() {
    let config = ("src/config.rs", "\"XFER_STORE\"\n#[cfg(test)]\n\"XFER_STROE\"\n");
    let good = [config, ("README.md", "`XFER_STORE`, and XFER_* in general\n")];
    let unread = [config, ("README.md", "`XFER_STORE`, `XFER_FAST`\n")];
    assert_tells_apart(variables, &unread, &good, "nothing reads XFER_FAST");
    assert_tells_apart(variables, &[config, ("README.md", "")], &good, "no document explains XFER_STORE");
    assert_tells_apart(variables, &[], &good, "no variable is named");
}

//! Properties of the source itself: who may import whom, where `unsafe` may stand, what each file must say.
//!
//! A rule is a function from a [`Tree`] of texts to the list of all places that break it. Each is run on the repository,
//! and on a small tree that breaks it, because a rule that can't fail checks nothing.

mod code;
mod documents;
mod floors;
mod purity;
mod style;
mod tree;
mod unsafety;

use tree::Tree;

/// Runs one rule on the repository.
#[track_caller]
fn assert_holds(rule: fn(&Tree) -> Vec<String>) {
    let offenders = rule(&Tree::repository());
    assert!(offenders.is_empty(), "{} offenders:\n  {}", offenders.len(), offenders.join("\n  "));
}

/// Runs one rule on a sample that breaks it, and on one that doesn't.
#[track_caller]
fn assert_tells_apart(rule: fn(&Tree) -> Vec<String>, bad: &[(&str, &str)], good: &[(&str, &str)], says: &str) {
    let offenders = rule(&Tree::sample(bad));
    assert_eq!(offenders.len(), 1, "one offender was planted, found: {offenders:#?}");
    assert!(offenders[0].contains(says), "`{}` should say `{says}`", offenders[0]);
    assert_eq!(rule(&Tree::sample(good)), Vec::<String>::new(), "the good sample");
}

//! The structures that we share with libibverbs are those of its C headers, where a machine has headers and a compiler.
//!
//! Headers come from the package libibverbs-dev, installed or as `.ci/rdma-vm --headers` unpacks them into the user's cache.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use xfer_sys::verbs::layout;

#[test]
fn sizes_and_places_are_those_of_the_headers() {
    let Some(compiler) = Compiler::find() else { return };
    assert_eq!(compiler.differences(&layout()), Vec::<String>::new());
}

#[test]
fn a_place_that_is_wrong_is_found() {
    let Some(compiler) = Compiler::find() else { return };
    let found = compiler.differences(&[("sizeof(struct ibv_sge)", 16), ("offsetof(struct ibv_sge, lkey)", 8)]);
    assert_eq!(found, ["offsetof(struct ibv_sge, lkey) is 12 in the headers, and 8 here"]);
}

/// A C compiler, and where the headers are.
struct Compiler {
    include: PathBuf,
}

impl Compiler {
    /// None, with a sentence, if a part is missing.
    fn find() -> Option<Self> {
        let Some(include) = folders().into_iter().find(|folder| folder.join("infiniband/verbs.h").exists()) else {
            println!(
                "skipped: no infiniband/verbs.h on this machine: install libibverbs-dev, or run `.ci/rdma-vm --headers`"
            );
            return None;
        };
        if Command::new("cc").arg("--version").output().is_err() {
            println!("skipped: no C compiler (cc) on this machine");
            return None;
        }
        Some(Self { include })
    }

    /// What C says otherwise.
    fn differences(&self, layout: &[(&str, usize)]) -> Vec<String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Tests of one program run side by side, and as processes of their own, too.
        let name = folder.join(format!("headers-{}-{}", std::process::id(), layout.len()));
        let (source, program) = (name.with_extension("c"), name.with_extension("out"));
        std::fs::write(&source, as_c(layout)).expect("the folder for temporary files");
        let mut cc = Command::new("cc");
        let made = cc.arg("-I").arg(&self.include).arg("-o").args([&program, &source]).output().expect("a compiler");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let said = Command::new(&program).output().expect("it was just made");
        for file in [source, program] {
            std::fs::remove_file(file).expect("it was just made");
        }
        let said = String::from_utf8(said.stdout).expect("numbers");
        assert_eq!(said.lines().count(), layout.len(), "{said}");
        let both = layout.iter().zip(said.lines());
        both.filter(|((_, here), there)| here.to_string() != **there)
            .map(|((expression, here), there)| format!("{expression} is {there} in the headers, and {here} here"))
            .collect()
    }
}

/// Where headers may be: the system's, and what was unpacked for the virtual machine.
fn folders() -> Vec<PathBuf> {
    let of_user = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(of_user);
    let unpacked = cache.and_then(|cache| std::fs::read_dir(cache.join("xfer/rdma-vm")).ok());
    let unpacked = unpacked.into_iter().flatten().flatten().map(|entry| entry.path().join("usr/include"));
    std::iter::once(PathBuf::from("/usr/include")).chain(unpacked).collect()
}

/// A program that prints a number a line.
fn as_c(layout: &[(&str, usize)]) -> String {
    let mut text =
        String::from("#include <stddef.h>\n#include <stdio.h>\n#include <infiniband/verbs.h>\n\nint main(void)\n{\n");
    for (expression, _) in layout {
        let _ = writeln!(text, "    printf(\"%zu\\n\", (size_t){expression});");
    }
    text + "    return 0;\n}\n"
}

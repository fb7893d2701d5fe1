//! The structures that we share with libibverbs and the kernel are those of their C headers, where a machine has headers and a
//! compiler.
//!
//! Those of libibverbs come from the package libibverbs-dev, installed or as `.ci/rdma-vm --headers` unpacks them into the user's
//! cache; those of the kernel from linux-libc-dev.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use xfer_sys::{dmabuf, verbs};

const VERBS: Headers =
    Headers { names: &["infiniband/verbs.h"], remedy: "install libibverbs-dev, or run `.ci/rdma-vm --headers`" };

const DMABUFS: Headers =
    Headers { names: &["linux/dma-buf.h", "linux/dma-heap.h", "linux/udmabuf.h"], remedy: "install linux-libc-dev" };

#[test]
fn sizes_and_places_are_those_of_the_headers() {
    let Some(compiler) = Compiler::find(VERBS) else { return };
    assert_eq!(compiler.differences(&verbs::layout()), Vec::<String>::new());
}

#[test]
fn what_the_kernel_is_asked_about_memory_of_devices_is_in_its_headers() {
    let Some(compiler) = Compiler::find(DMABUFS) else { return };
    assert_eq!(compiler.differences(&dmabuf::layout()), Vec::<String>::new());
}

#[test]
fn a_place_that_is_wrong_is_found() {
    let Some(compiler) = Compiler::find(VERBS) else { return };
    let found = compiler.differences(&[("sizeof(struct ibv_sge)", 16), ("offsetof(struct ibv_sge, lkey)", 8)]);
    assert_eq!(found, ["offsetof(struct ibv_sge, lkey) is 12 in the headers, and 8 here"]);
}

/// What C has to read, and how a machine comes by it.
#[derive(Clone, Copy)]
struct Headers {
    names: &'static [&'static str],
    remedy: &'static str,
}

/// A C compiler, and where the headers are.
struct Compiler {
    include: PathBuf,
    headers: Headers,
}

impl Compiler {
    /// None, with a sentence, if a part is missing.
    fn find(headers: Headers) -> Option<Self> {
        let has_all = |folder: &PathBuf| headers.names.iter().all(|name| folder.join(name).exists());
        let Some(include) = folders().into_iter().find(has_all) else {
            println!("skipped: no {} on this machine: {}", headers.names.join(", "), headers.remedy);
            return None;
        };
        if Command::new("cc").arg("--version").output().is_err() {
            println!("skipped: no C compiler (cc) on this machine");
            return None;
        }
        Some(Self { include, headers })
    }

    /// What C says otherwise.
    fn differences(&self, layout: &[(&str, usize)]) -> Vec<String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Tests of one program run side by side, and as processes of their own, too.
        let name = folder.join(format!("headers-{}-{}", std::process::id(), layout.len()));
        let (source, program) = (name.with_extension("c"), name.with_extension("out"));
        std::fs::write(&source, self.as_c(layout)).expect("the folder for temporary files");
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

    /// A program that prints a number a line.
    fn as_c(&self, layout: &[(&str, usize)]) -> String {
        let mut text = String::from("#include <stddef.h>\n#include <stdio.h>\n");
        for name in self.headers.names {
            let _ = writeln!(text, "#include <{name}>");
        }
        text += "\nint main(void)\n{\n";
        for (expression, _) in layout {
            let _ = writeln!(text, "    printf(\"%zu\\n\", (size_t){expression});");
        }
        text + "    return 0;\n}\n"
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

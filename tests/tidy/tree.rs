//! The texts of the repository by path: read from disk, or written out by a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Folders that are made by building, or by tools; nobody writes in them.
const MADE: [&str; 5] = ["target", "__pycache__", "artifacts", "corpus", "dist"];

/// Names end where the file's kind begins, so that binary files are left out.
const TEXT: [&str; 11] = ["rs", "py", "pyi", "toml", "md", "sh", "yml", "h", "c", "lock", "typed"];

/// Paths from the top of the repository, with `/`, and what the files say.
pub struct Tree {
    texts: BTreeMap<String, String>,
    folders: Vec<String>,
}

impl Tree {
    /// What is in the checkout.
    pub fn repository() -> Self {
        let mut tree = Self { texts: BTreeMap::new(), folders: Vec::new() };
        tree.read_folder(Path::new(env!("CARGO_MANIFEST_DIR")), "");
        assert!(tree.texts.contains_key("Cargo.toml"), "the repository is not where it was built");
        tree
    }

    /// What a test wrote out.
    pub fn sample(texts: &[(&str, &str)]) -> Self {
        let texts: BTreeMap<_, _> = texts.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect();
        let folders = texts.keys().flat_map(|path: &String| folders_of(path)).collect();
        Self { texts, folders }
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
            let entry = entry.expect("an entry of the repository can be read");
            let name = entry.file_name().into_string().expect("names in the repository are UTF-8");
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().expect("the kind of an entry can be read");
            if kind.is_dir() {
                // `.ci` and `.config` are ours; the other dotted folders belong to tools.
                let foreign = name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".config");
                if !foreign && !MADE.contains(&name.as_str()) {
                    self.folders.push(path.clone());
                    self.read_folder(&entry.path(), &format!("{path}/"));
                }
            } else if is_text(&path) {
                let text = fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
                self.texts.insert(path, text);
            }
        }
    }

    /// The text at `path`, if there is one.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// All texts whose path ends in one of `extensions`.
    pub fn with_extension<'a>(&'a self, extensions: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts
            .iter()
            .filter(|(path, _)| extensions.contains(&extension(path)))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// All texts below a folder whose path ends in one of `extensions`.
    pub fn below<'a>(&'a self, folder: &'a str, extensions: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.with_extension(extensions).filter(move |(path, _)| path.starts_with(folder))
    }

    /// All texts.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Folders at the top that people write in.
    pub fn top_folders(&self) -> impl Iterator<Item = &str> {
        self.folders.iter().map(String::as_str).filter(|folder| !folder.contains('/') && !folder.starts_with('.'))
    }

    /// Whether there is a file or folder at `path`.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.texts.contains_key(path) || self.folders.iter().any(|folder| folder == path)
    }
}

fn extension(path: &str) -> &str {
    path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, extension)| extension)
}

/// Files without an extension are text too: `Makefile`, `LICENSE-MIT`, the programs in `.ci`.
fn is_text(path: &str) -> bool {
    matches!(extension(path), "" | "gitignore") || TEXT.contains(&extension(path))
}

fn folders_of(path: &str) -> impl Iterator<Item = String> {
    path.match_indices('/').map(|(end, _)| path[..end].to_owned())
}

#[test]
fn a_sample_knows_its_folders_and_the_kind_of_its_files() {
    let tree = Tree::sample(&[("src/lib.rs", ""), ("ffi/c/x.h", ""), ("Makefile", "")]);
    assert_eq!(tree.top_folders().collect::<Vec<_>>(), ["ffi", "src"]);
    assert!(tree.has("ffi/c/") && tree.has("Makefile") && !tree.has("ffi/d"));
    assert_eq!(tree.with_extension(&["rs"]).map(|(path, _)| path).collect::<Vec<_>>(), ["src/lib.rs"]);
}

#[test]
fn the_repository_is_read_without_what_is_built() {
    let tree = Tree::repository();
    assert!(tree.has("tests/tidy/tree.rs"));
    assert!(!tree.all().any(|(path, _)| path.starts_with("target/") || path.starts_with(".git/")));
}

//! A store that is started again with its journal is the same store; a journal that can't be believed is refused.

use std::fs;
use std::path::{Path, PathBuf};

use xfer_migrate_core::store::journal::{HEAD_BYTES, Head, recover};
use xfer_migrate_core::store::{StateLimits, limits};

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xfer-journal-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(address: SocketAddr, journal: &Path) -> Result<StoreServer, String> {
    let failed = |error| panic!("it stopped: {error}");
    StoreServer::bind_journaled(address, Exposure::LoopbackOnly, journal, failed).map_err(|error| error.to_string())
}

/// A journal in which `key` was written three times.
fn written(folder: &Folder) -> PathBuf {
    let journal = folder.journal();
    let server = start(LOOPBACK, &journal).unwrap();
    let store = connect(server.local_addr(), AMPLE);
    let mut version = Version::ABSENT;
    for value in ["one", "two", "three"] {
        version = won(store.compare_and_swap("key", version, value.into()));
    }
    journal
}

#[test]
fn with_a_journal_the_rules_are_the_same() {
    let folder = Folder::new("rules");
    let server = start(LOOPBACK, &folder.journal()).unwrap();
    obeys_the_rules(&connect(server.local_addr(), AMPLE));
}

#[test]
fn a_store_that_is_started_again_is_the_same_to_its_clients() {
    let folder = Folder::new("again");
    let server = start(LOOPBACK, &folder.journal()).unwrap();
    let address = server.local_addr();
    let store = connect(address, AMPLE);
    let first = won(store.compare_and_swap("key", Version::ABSENT, "one".into()));
    let before = store.get("key").unwrap().unwrap();
    drop(server);

    let server = start(address, &folder.journal()).unwrap();
    let found = store.get("key").unwrap().unwrap();
    assert_eq!((found.version, &found.value), (first, &before.value));
    assert!(found.age >= before.age, "time passes for a store that is down, too");
    assert!(won(store.compare_and_swap("key", first, "two".into())) > first);
    drop(server);

    let _server = start(address, &folder.journal()).unwrap();
    assert_eq!(&store.get("key").unwrap().unwrap().value[..], b"two");
}

#[test]
fn what_a_crash_tore_off_is_cut() {
    let folder = Folder::new("torn");
    let journal = written(&folder);
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, &whole[..whole.len() - 1]).unwrap();
    let server = start(LOOPBACK, &journal).unwrap();
    let store = connect(server.local_addr(), AMPLE);
    let found = store.get("key").unwrap().unwrap();
    assert_eq!(&found.value[..], b"two");
    won(store.compare_and_swap("key", found.version, "four".into()));
    drop(server);
    let kept = recover(&fs::read(&journal).unwrap(), StateLimits::default()).expect("whole");
    assert_eq!(kept.whole_bytes, fs::metadata(&journal).unwrap().len());
}

#[test]
fn what_was_answered_for_and_is_damaged_is_not_guessed() {
    let folder = Folder::new("damaged");
    let journal = written(&folder);
    let mut bytes = fs::read(&journal).unwrap();
    bytes[HEAD_BYTES + 20] ^= 1;
    fs::write(&journal, &bytes).unwrap();
    let error = start(LOOPBACK, &journal).unwrap_err();
    let said = format!("the journal {} can't be used: it is damaged at byte {HEAD_BYTES}, ", journal.display());
    assert!(error.starts_with(&said), "{error}");
    assert_eq!(fs::read(&journal).unwrap(), bytes, "it is left as it was");
}

#[test]
fn two_stores_do_not_share_a_journal() {
    let folder = Folder::new("shared");
    let _server = start(LOOPBACK, &folder.journal()).unwrap();
    let error = start(LOOPBACK, &folder.journal()).unwrap_err();
    assert!(error.ends_with("another process has it open; two stores can't share a journal"), "{error}");
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let folder = Folder::new("other");
    fs::write(folder.journal(), "a letter").unwrap();
    let error = start(LOOPBACK, &folder.journal()).unwrap_err();
    assert!(error.ends_with("it is not the journal of a store"), "{error}");
    assert_eq!(fs::read(folder.journal()).unwrap(), b"a letter");
    let error = start(LOOPBACK, &folder.0).unwrap_err();
    assert!(error.ends_with("name an ordinary file"), "{error}");
    let error = start(LOOPBACK, &folder.0.join("none/journal")).unwrap_err();
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn after_another_start_of_the_machine_all_is_old() {
    let folder = Folder::new("boot");
    let journal = written(&folder);
    let mut bytes = fs::read(&journal).unwrap();
    let head = recover(&bytes, StateLimits::default()).unwrap().head;
    let other = Head { clock: [9; 16], ..head };
    bytes[..HEAD_BYTES].copy_from_slice(&other.encode());
    fs::write(&journal, &bytes).unwrap();
    let server = start(LOOPBACK, &journal).unwrap();
    let found = connect(server.local_addr(), AMPLE).get("key").unwrap().unwrap();
    assert_eq!(&found.value[..], b"three");
    assert!(found.age > Duration::from_secs(49 * 24 * 3600), "{:?}", found.age);
    drop(server);
    let kept = recover(&fs::read(&journal).unwrap(), StateLimits::default()).unwrap();
    assert_eq!((kept.head.clock, kept.head.life), (head.clock, head.life), "from now on by this clock");
}

#[test]
fn a_journal_stays_short_and_holds_all() {
    let folder = Folder::new("long");
    let journal = folder.journal();
    let server = start(LOOPBACK, &journal).unwrap();
    let store = connect(server.local_addr(), AMPLE);
    let small = won(store.compare_and_swap("small", Version::ABSENT, "kept".into()));
    let mut version = Version::ABSENT;
    let writes = limits::JOURNAL_SLACK_BYTES as usize / limits::VALUE_LEN_BYTES_MAX + 4;
    for at in 0..writes {
        let value = vec![at as u8; limits::VALUE_LEN_BYTES_MAX];
        version = won(store.compare_and_swap("large", version, value.into()));
    }
    drop(server);
    let len_bytes = fs::metadata(&journal).unwrap().len();
    assert!(len_bytes < limits::JOURNAL_SLACK_BYTES, "{len_bytes} bytes");
    let server = start(LOOPBACK, &journal).unwrap();
    let store = connect(server.local_addr(), AMPLE);
    assert_eq!(store.get("small").unwrap().unwrap().version, small);
    let found = store.get("large").unwrap().unwrap();
    assert_eq!((found.version, found.value[0]), (version, writes as u8 - 1));
    assert!(!journal.with_extension("new").exists());
}

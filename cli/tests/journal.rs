//! `xfer store --journal` as an operator runs it: killed, started again, and on a disk that is full.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use xfer::store::{Store, Swap, TcpStore, Version};

/// Long enough for a busy machine; no test that passes waits for it.
const AMPLE: Duration = Duration::from_secs(30);

const EXE: &str = env!("CARGO_BIN_EXE_xfer");

struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Running {
    /// Runs `command`, which starts a store with `journal` and says where it listens.
    fn start(mut command: Command, journal: &Path) -> Self {
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("XFER_")) {
            command.env_remove(name);
        }
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("text");
        let said = line.trim_end().strip_prefix("store listens at ");
        let address = said.and_then(|said| said.strip_suffix(&format!(", with its journal in {}", journal.display())));
        let address = address.unwrap_or_else(|| panic!("it says where it listens, not {line:?}")).to_owned();
        Self { child, out, address }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it is ours");
    }

    /// Exit code, and the rest of what it says.
    fn end(mut self) -> (Option<i32>, String, String) {
        let code = self.child.wait().expect("it is ours").code();
        let (mut said, mut complained) = (String::new(), String::new());
        self.out.read_to_string(&mut said).expect("text");
        let err = self.child.stderr.as_mut().expect("it is piped");
        err.read_to_string(&mut complained).expect("text");
        (code, said, complained)
    }
}

fn store(address: &str, journal: &Path) -> Command {
    let mut command = Command::new(EXE);
    command.args(["store", "--bind", address, "--journal"]).arg(journal);
    command
}

fn won(swap: Swap) -> Version {
    match swap {
        Swap::Won(version) => version,
        Swap::Lost(found) => panic!("lost to {found:?}"),
    }
}

#[test]
fn a_killed_store_is_started_again_and_its_clients_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("journal");
    let running = Running::start(store("127.0.0.1:0", &journal), &journal);
    let address = running.address.clone();
    let client = TcpStore::connect(&address, AMPLE).expect("it runs");
    let version = won(client.compare_and_swap("key", Version::ABSENT, "one".into()).expect("it answers"));
    running.signal(Signal::KILL);
    assert_eq!(running.end().0, None);

    let running = Running::start(store(&address, &journal), &journal);
    assert_eq!(client.get("key").expect("it answers").map(|found| found.version), Some(version));
    let next = won(client.compare_and_swap("key", version, "two".into()).expect("it answers"));
    assert!(next > version);
    running.signal(Signal::TERM);
    let (code, said, complained) = running.end();
    let stopped = format!("store stopped; what it held is in {}\n", journal.display());
    assert_eq!((code, said, complained), (Some(0), stopped, String::new()));
}

#[test]
fn a_store_on_a_full_disk_stops_by_name_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("journal");
    // Files of this process may have 64 KiB: to the store it is a disk that is full.
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" store --bind 127.0.0.1:0 --journal \"$1\"";
    limited.args(["-c", script, EXE]).arg(&journal);
    let running = Running::start(limited, &journal);
    let address = running.address.clone();
    let client = TcpStore::connect(&address, AMPLE).expect("it runs");
    let version = won(client.compare_and_swap("key", Version::ABSENT, "kept".into()).expect("it answers"));

    std::thread::scope(|scope| {
        // It stops before it answers; the client asks again until there is a store that can.
        let large = scope.spawn(|| client.compare_and_swap("large", Version::ABSENT, vec![7; 1 << 20].into()));
        let (code, said, complained) = running.end();
        assert_eq!((code, said.as_str()), (Some(1), ""));
        let begins = format!("xfer store: the store stops, as its journal {} can't be written (", journal.display());
        assert!(complained.contains(&begins) && complained.contains("make room, and start it"), "{complained}");

        let running = Running::start(store(&address, &journal), &journal);
        let swap = large.join().expect("no panic").expect("there is room now");
        assert!(won(swap) > version, "it was done once");
        let held = TcpStore::connect(&address, AMPLE).expect("it runs").list("").expect("it answers");
        let held: Vec<(&str, usize)> = held.iter().map(|(key, found)| (key.as_str(), found.value.len())).collect();
        assert_eq!(held, [("key", 4), ("large", 1 << 20)]);
        running.signal(Signal::TERM);
        assert_eq!(running.end().0, Some(0));
    });
}

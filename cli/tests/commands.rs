//! The commands as an operator runs them: real processes, a real store, exit codes and texts.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};
use xfer::notice::{NoticeEvent, NoticeWatcher, Origin, Source};
use xfer::store::records::{GENERATION_KEY, notice_key};
use xfer::store::{Store, StoreError, Swap, TcpStore, Version, claim_identity};
use xfer_migrate_core::GenerationRecord;

/// Long enough for a busy machine; no test that passes waits for it.
const AMPLE: Duration = Duration::from_secs(30);

/// `xfer` with none of our own settings, in a folder without a configuration file.
fn xfer(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xfer"));
    command.args(arguments).current_dir(folder);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("XFER_")
            || name.starts_with("MASTER_")
            || name.starts_with("TORCHELASTIC_")
            || name == "RANK"
        {
            command.env_remove(&*name);
        }
    }
    command
}

/// What a command says and how it ends.
fn run(arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    Ended::of(xfer(folder.path(), arguments).output().unwrap())
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }
}

/// A store in a process of its own.
struct Hosted {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Hosted {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = xfer(folder.path(), &["store", "--bind", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("store listens at ").expect("it says where it listens").to_owned();
        Self { child, out, address }
    }

    fn client(&self) -> TcpStore {
        TcpStore::connect(&self.address, AMPLE).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn xfer(&self, arguments: &[&str]) -> Ended {
        run(&[arguments, &["--store", &self.address]].concat())
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(store: &dyn Store, key: &str, value: impl Into<Vec<u8>>) {
    let swap = store.compare_and_swap(key, Version::ABSENT, value.into().into()).unwrap();
    assert!(matches!(swap, Swap::Won(_)));
}

#[test]
fn a_hosted_store_serves_until_it_is_told_to_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut hosted = Hosted::start();
        put(&hosted.client(), "key", "value");
        assert_eq!(hosted.client().get("key").unwrap().unwrap().value, "value");
        hosted.signal(signal);
        let mut line = String::new();
        hosted.out.read_line(&mut line).unwrap();
        assert_eq!(line, "store stopped; what it held is gone\n");
        assert!(hosted.child.wait().unwrap().success());
    }
}

#[test]
fn a_store_that_is_killed_leaves_its_clients_an_error() {
    let hosted = Hosted::start();
    let store = TcpStore::connect(&hosted.address, AMPLE).unwrap().with_call_timeout(Duration::from_millis(300));
    put(&store, "key", "value");
    hosted.signal(Signal::KILL);
    let error = store.wait("key", Version(1), AMPLE).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. } | StoreError::Silent { .. }), "{error}");
}

#[test]
fn a_store_that_is_stopped_is_silent_and_answers_when_it_goes_on() {
    let hosted = Hosted::start();
    let store = TcpStore::connect(&hosted.address, AMPLE).unwrap();
    put(&store, "key", "value");
    let store = store.with_call_timeout(Duration::from_millis(300));
    hosted.signal(Signal::STOP);
    waitpid(Some(Pid::from_child(&hosted.child)), WaitOptions::UNTRACED).unwrap();
    let error = store.get("key").unwrap_err();
    assert!(matches!(error, StoreError::Silent { .. }), "{error}");
    hosted.signal(Signal::CONT);
    assert_eq!(store.with_call_timeout(AMPLE).get("key").unwrap().unwrap().value, "value");
}

#[test]
fn a_drain_order_reaches_the_process_and_can_be_taken_back() {
    let hosted = Hosted::start();
    let store: Arc<dyn Store> = Arc::new(hosted.client());
    let incarnation = claim_identity(&*store, 1, b"ticket", &|_| false).unwrap();
    let peer = xfer_transport_core::PeerId { rank: 1, incarnation };
    let watcher = NoticeWatcher::start(vec![Source::Drain { store, peer }]).unwrap();
    let events = watcher.subscribe();

    let said = hosted.xfer(&["drain", "1", "--deadline", "1h", "--reason", "maintenance"]).expect(0).out;
    assert_eq!(said, "rank 1 (life 1) is told to leave within 60 min\n");
    let Ok(NoticeEvent::Raised(notice)) = events.recv_timeout(AMPLE) else { panic!("no notice") };
    assert_eq!((notice.source, notice.reason.as_str()), (Origin::Drain, "maintenance"));

    let said = hosted.xfer(&["drain", "1", "--withdraw"]).expect(0).out;
    assert_eq!(said, "rank 1 (life 1) is told that it may stay\n");
    assert!(matches!(events.recv_timeout(AMPLE), Ok(NoticeEvent::Withdrawn(_))));

    let again = hosted.xfer(&["drain", "1", "--withdraw"]).expect(1).err;
    assert_eq!(again, "xfer drain: rank 1 has no drain order to take back\n");
    let nobody = hosted.xfer(&["drain", "7", "--deadline", "30s"]).expect(1).err;
    assert_eq!(nobody, "xfer drain: no process of this job is rank 7; claimed are 1\n");
}

#[test]
fn the_status_shows_owners_peers_and_orders() {
    let hosted = Hosted::start();
    let store = hosted.client();
    let empty = hosted.xfer(&["status"]).expect(0).out;
    assert_eq!(empty, format!("store {}\nno generation yet\n", hosted.address));

    let owners = [("layers.0", 0), ("layers.1", 1), ("layers.2", 0)];
    let record = GenerationRecord::initial(owners.map(|(shard, rank)| (shard.to_owned(), rank)).into());
    put(&store, GENERATION_KEY, record.encode());
    for rank in [0, 1] {
        claim_identity(&store, rank, b"ticket", &|_| false).unwrap();
    }
    hosted.xfer(&["drain", "1", "--deadline", "1h", "--reason", "bell \u{7}"]).expect(0);

    let text = hosted.xfer(&["status"]).expect(0).out;
    assert!(text.contains("generation 0: initial, "), "{text}");
    assert!(text.contains("\n0     layers.0 layers.2\n1     layers.1\n"), "{text}");
    assert!(text.contains("59 min") && text.contains("bell \\u{7}\n"), "{text}");

    let document: Value = serde_json::from_str(&hosted.xfer(&["status", "--json"]).expect(0).out).unwrap();
    assert_eq!(document["store"], hosted.address);
    assert_eq!(document["generation"]["kind"], "initial");
    assert_eq!(document["generation"]["owners"], json!({ "layers.0": 0, "layers.1": 1, "layers.2": 0 }));
    let pids: Vec<&Value> = document["peers"].as_array().unwrap().iter().map(|peer| &peer["pid"]).collect();
    assert_eq!(pids, [std::process::id(), std::process::id()]);
    assert_eq!(document["notices"][0]["rank"], 1);
    let left = document["notices"][0]["left_s"].as_f64().unwrap();
    assert!((3000.0..=3600.0).contains(&left), "{left}");

    claim_identity(&store, 1, b"the next life", &|_| false).unwrap();
    let document: Value = serde_json::from_str(&hosted.xfer(&["status", "--json"]).expect(0).out).unwrap();
    assert_eq!(document["notices"], json!([]), "the order was for the life before");
}

#[test]
fn a_status_that_leaves_something_out_says_so() {
    let hosted = Hosted::start();
    let store = hosted.client();
    claim_identity(&store, 0, b"ticket", &|_| false).unwrap();
    put(&store, &notice_key(0), "garbage");
    let ended = hosted.xfer(&["status"]).expect(4);
    assert!(ended.out.contains("\nrank  life  host"), "{}", ended.out);
    assert!(ended.err.starts_with("xfer status: `notice/0` can't be read: the order's format "), "{}", ended.err);
}

#[test]
fn failures_have_their_exit_codes_and_remedies() {
    run(&[]).expect(2);
    run(&["fly"]).expect(2);
    run(&["drain", "1"]).expect(2);
    run(&["drain", "one", "--deadline", "30s"]).expect(2);
    let usage = run(&["drain", "1", "--deadline", "soon"]).expect(2).err;
    assert!(usage.contains("a duration is written with its unit, as in 30s, 2m or 1500ms"), "{usage}");
    run(&["drain", "1", "--deadline", "30s", "--withdraw"]).expect(2);

    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let lines = run(&["status", "--store", &vacant]).expect(3).err;
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], format!("xfer status: no store at {vacant}"));
    assert!(lines[1].starts_with("  cause  connection refused, tried for "), "{lines:?}");
    let remedy = format!("  try    xfer store --bind {vacant}");
    assert_eq!(lines[2..], [&remedy, "         set XFER_STORE=HOST:PORT"]);

    let exposed = run(&["store", "--bind", "0.0.0.0:0"]).expect(3).err;
    assert!(exposed.contains("set XFER_INSECURE=1"), "{exposed}");
    let taken = Hosted::start();
    let taken = run(&["store", "--bind", &taken.address]).expect(3).err;
    assert!(taken.contains("is in use by another process"), "{taken}");
}

#[test]
fn info_shows_every_setting_and_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("xfer.toml"), "links = 3\ngrace = \"1m\"\nstroe = \"x\"\n").unwrap();
    let mut command = xfer(folder.path(), &["info", "--config", "--json"]);
    command.envs([("XFER_GRACE", "45s"), ("MASTER_ADDR", "node-0"), ("MASTER_PORT", "29400"), ("XFER_LOGS", "x")]);
    let ended = Ended::of(command.output().unwrap()).expect(0);
    let document: Value = serde_json::from_str(&ended.out).unwrap();
    let value = |name: &str| {
        let settings = document["config"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["name"] == name).unwrap();
        (setting["value"].as_str().unwrap().to_owned(), setting["source"].as_str().unwrap().to_owned())
    };
    let expected = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(value("XFER_GRACE"), expected("45s", "environment"));
    assert_eq!(value("XFER_LINKS"), expected("3", "xfer.toml"));
    assert_eq!(value("XFER_STORE"), expected("node-0:29401", "from MASTER_ADDR, MASTER_PORT"));
    assert_eq!(value("XFER_CHUNK"), expected("1MiB", "default"));
    let backends: Vec<&Value> = document["backends"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(backends, ["shm", "verbs", "tcp", "cuda_ipc", "nccl"]);
    assert_eq!(document["backends"][2]["usable"], true);
    assert_eq!(document["warnings"].as_array().unwrap().len(), 2);
    assert!(ended.err.contains("warning: XFER_LOGS is not a setting of xfer"), "{}", ended.err);
    assert!(ended.err.contains("`stroe` in xfer.toml is not a setting of xfer"), "{}", ended.err);
}

#[test]
fn a_bad_setting_is_a_matter_of_the_surroundings() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = xfer(folder.path(), &["info"]);
    let ended = Ended::of(command.env("XFER_LINKS", "99").output().unwrap()).expect(3);
    assert_eq!(
        ended.err,
        "xfer info: XFER_LINKS=99 (environment) is not understood: a number from 1 to 16 is expected\n"
    );
    assert_eq!(ended.out, "");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = xfer(folder.path(), &["info", "--config"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    Ended::of(child.wait_with_output().unwrap()).expect(0);
}

#[test]
fn a_plan_says_what_makes_it_and_how_good_that_is() {
    let arguments =
        ["plan", "--model", "gpt3-6.7b", "--nodes", "3", "--leaves", "1", "--notice", "30s", "--link", "10Gbps"];
    let text = run(&arguments).expect(0).out;
    assert!(text.contains("overlap: state leaves") && text.contains("no plan loses less than"), "{text}");
    assert!(text.contains("nine times in ten all of it would make it with"), "{text}");
    let json: Value = serde_json::from_str(&run(&[&arguments[..], &["--json"]].concat()).expect(0).out).unwrap();
    for field in ["plan_ms", "gap", "bound_s", "loss_s", "p_rollback", "resume_s"] {
        assert!(json[field].is_number(), "{field}: {}", json[field]);
    }
    assert_eq!((&json["mode"], json["order"].is_array()), (&json!("overlap"), true));
    assert!(json["gap"].as_f64().unwrap() <= 0.01);
}

#[test]
fn a_plan_in_vain_says_so_and_a_senseless_one_is_refused() {
    let plan = |more: &[&str]| run(&[&["plan", "--model", "llama3-8b"], more].concat());
    for hopeless in [["--link", "0Gbps"], ["--notice", "0s"]] {
        let text = plan(&hopeless).expect(0).out;
        assert!(text.contains("nothing can be saved"), "{text}");
    }
    for (senseless, says) in [
        (["--link", "-1Gbps"], "a rate is written with its unit"),
        (["--notice", "-5s"], "a duration is written with its unit"),
        (["--seq", "-4"], "it must be a whole number from 0"),
        (["--spread", "9"], "--spread is 9; it must be from 0 to 3"),
        (["--gpu", "abacus"], "no device is called `abacus`"),
        (["--replicate", "all"], "there are none, gradients and state"),
    ] {
        let error = plan(&senseless).expect(2).err;
        assert!(error.contains(says), "{error}");
    }
    assert!(plan(&["--nodes", "-3"]).expect(2).err.contains("invalid value '-3' for '--nodes <N>'"));
    assert!(plan(&["--done", "-1"]).expect(2).err.contains("the part of the step that is done is -1"));
    assert!(plan(&["--nodes", "99"]).expect(2).err.contains("the number of nodes is 99; it must be from 1 to 32"));
    assert!(run(&["plan"]).expect(2).err.contains("say --model NAME or --manifest FILE"));
    assert!(run(&["plan", "--model", "gpt4"]).expect(2).err.contains("no model is called `gpt4`"));
    assert!(run(&["plan", "--model", "custom", "--layers", "4"]).expect(2).err.contains("needs --layers and --hidden"));
    run(&["plan", "--model", "custom", "--layers", "4", "--hidden", "256", "--gated"]).expect(0);
}

#[test]
fn a_manifest_is_planned_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (file, page) = (folder.path().join("manifest.json"), folder.path().join("plan.html"));
    let item = r#"{"name": "w", "kind": "parameter", "bytes": 4096, "target": 0}"#;
    std::fs::write(&file, format!(r#"{{"xfer_manifest": 1, "leaving": [1], "items": [{item}]}}"#)).unwrap();
    let (file, page) = (file.to_str().unwrap(), page.to_str().unwrap());
    let text = run(&["plan", "--manifest", file, "--html", page]).expect(0).out;
    assert!(text.contains("parameter  1"), "{text}");
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
    std::fs::write(file, "{}").unwrap();
    assert!(run(&["plan", "--manifest", file]).expect(1).err.contains("not a manifest: missing field `xfer_manifest`"));
    assert!(run(&["plan", "--manifest", "/nowhere"]).expect(1).err.contains("can't read /nowhere"));
}

#[test]
fn a_sweep_finds_no_baseline_that_does_better() {
    let copies = run(&["plan", "sweep", "--reduced", "--copies"]).expect(0).out;
    assert!(copies.contains("pays from, a day") && copies.contains("gradients"), "{copies}");
    let text = run(&["plan", "sweep", "--reduced"]).expect(0).out;
    assert!(text.contains("params + moments") && text.contains("72 cells"), "{text}");
    let replayed = run(&["plan", "sweep", "--synthetic", "1", "--model", "gpt3-1.3b", "--json"]).expect(0).out;
    let json: Value = serde_json::from_str(&replayed).unwrap();
    assert!(json["departures"].as_u64().unwrap() > 0);
    assert!(
        json["plan"]["loss_s"].as_f64().unwrap() <= json["baselines"]["params + moments"]["loss_s"].as_f64().unwrap()
    );
}

#[test]
fn traces_are_put_together_and_what_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let traces = folder.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    let empty = Ended::of(xfer(folder.path(), &["trace", "traces"]).output().unwrap()).expect(1);
    assert!(empty.err.contains("XFER_TRACE_DIR=traces"), "{}", empty.err);

    for rank in 0..2 {
        let report = json!({ "side": "target", "verdict": "handoff", "moved_bytes": 5, "moved": {}, "phases_s": { "seal": 0.5 } });
        let document = json!({
            "traceEvents": [{ "ph": "X", "pid": rank, "ts": 1_000 + rank }],
            "otherData": { "rank": rank, "report": report },
        });
        std::fs::write(traces.join(format!("trace-rank{rank}-life1-0.json")), document.to_string()).unwrap();
    }
    let merged = Ended::of(xfer(folder.path(), &["trace", "traces"]).output().unwrap()).expect(0);
    assert!(merged.out.contains("1     target  handoff  0      5      0.500"), "{}", merged.out);
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("xfer-trace.json")).unwrap()).unwrap();
    assert_eq!(document["traceEvents"].as_array().map(Vec::len), Some(2));

    std::fs::write(traces.join("trace-rank2-life1-0.json"), "{ half").unwrap();
    let partial = Ended::of(xfer(folder.path(), &["trace", "traces", "-o", "-"]).output().unwrap()).expect(4);
    assert!(partial.err.contains("trace-rank2-life1-0.json can't be read"), "{}", partial.err);
    let printed: Value = serde_json::from_str(&partial.out).expect("what could be read is all that is printed");
    assert_eq!(printed["otherData"]["ranks"].as_array().map(Vec::len), Some(2));
}
